//! Blocks into the directory: jobs, what they say of their workers, and what a keeper may do about them.

use super::{
    DispatchCore,
    apply::saturating,
    index::{BlockIndex, Happened, TouchedJob},
};
use crate::{
    duties::{Duty, DutyKey, Plan},
    keeper,
    mismatch::{self, Completion},
    plan::topic0,
    records::{Bounties, Job, Speed},
    standing::{FULL_STANDING, after_acknowledgement, after_timeout},
};
use alloy_primitives::{Address, Keccak256, U256};
use alloy_sol_types::SolEvent;
use lcai_host::{CoreError, EffectDepth, Effects, FeedBlock, FeedLog, OnRepeat};
use lcai_primitives::{
    contracts::{EncodedJob, JobRegistry, JobState},
    ids::{JobId, SessionId},
};

/// `KeeperBountyPaid.kind` of a timeout; a release has 1.
const TIMEOUT_BOUNTY: u8 = 0;

/// What the chain has of a job after a block, and how it came about.
struct News<'a> {
    block: &'a FeedBlock,
    happened: Happened,
    record: EncodedJob<'a>,
    state: JobState,
    forget_after: u64,
}

impl News<'_> {
    fn bring(&self, job: &mut Job) {
        let (record, happened) = (&self.record, &self.happened);
        job.state = self.state;
        job.deadline = saturating(record.deadline());
        job.completed_at = saturating(record.completed_at());
        job.response_blob_hash = Some(record.response_blob_hash()).filter(|hash| !hash.is_zero());
        job.response_ciphertext_hash = Some(record.response_ciphertext_hash()).filter(|hash| !hash.is_zero());
        job.ack_tx = happened.acknowledge.or(job.ack_tx);
        job.settle_tx = happened.settle.or(job.settle_tx);
        if happened.complete.is_some() {
            job.complete_tx = happened.complete;
            job.completed_in = Some(self.block.block_ref());
        }
        if matches!(self.state, JobState::TimedOut | JobState::Resolved | JobState::Released) {
            job.forget_after = Some(self.forget_after);
        }
    }
}

impl DispatchCore {
    pub(super) fn apply_job(
        &mut self,
        index: &BlockIndex<'_>,
        touched: &TouchedJob<'_>,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let (id, happened, block) = (JobId(touched.id), touched.happened, index.block);
        let Some(record) = index.record(touched)? else { return Ok(()) };
        let Ok(state) = JobState::try_from(record.state()) else { return Ok(()) };
        let forget_after = self.forgotten_after(block.timestamp);
        let news = News { block, happened, record, state, forget_after };
        if self.jobs.update(&id, |job| news.bring(job)).is_none() {
            let Some(mut job) = self.new_job(&news) else { return Ok(()) };
            news.bring(&mut job);
            self.jobs.insert(id, job);
        }
        let Some(job) = self.jobs.get(&id) else { return Ok(()) };
        let plan = if self.config.keeper { self.duty_of(job, &record) } else { None };
        if happened.complete.is_some() {
            self.compare(block, id, job, effects)?;
        }
        let (worker, session) = (job.worker, job.session_id);
        self.duties.plan(DutyKey::Job(id), plan);
        self.judge(&happened, worker, session, &record);
        Ok(())
    }

    /// Asks for the answer that the worker signed to be compared with the one it committed, once the completion is safe: a
    /// filing is evidence about one chain, and another fork may have another answer. A repetition compares anew, because
    /// the job's subject does not name the answer.
    fn compare(
        &self,
        block: &FeedBlock,
        id: JobId,
        job: &Job,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        if !self.config.keeper {
            return Ok(());
        }
        let committed = job.response_ciphertext_hash.unwrap_or_default();
        let completion = Completion { job: id, prompt_blob_hash: job.prompt_blob_hash, committed };
        let subject = job.subject(&self.config.deployment, id).id();
        let (origin, safe, again) = (block.block_ref(), EffectDepth::Safe, OnRepeat::Again);
        effects.push(origin, subject, mismatch::ACTION, safe, again, None, &completion)
    }

    /// `None` for a job of a session that is not known.
    fn new_job(&self, news: &News<'_>) -> Option<Job> {
        let record = &news.record;
        let session_id = SessionId::try_from(record.session_id()).ok()?;
        let session = self.sessions.get(&session_id)?;
        Some(Job {
            session_id,
            user: session.user,
            worker: record.worker(),
            state: news.state,
            escrowed_fee: record.escrowed_fee(),
            prompt_blob_hash: record.prompt_blob_hash(),
            response_blob_hash: None,
            response_ciphertext_hash: None,
            submitted_at: saturating(record.submitted_at()),
            completed_at: 0,
            deadline: 0,
            submit_tx: news.happened.submit,
            ack_tx: None,
            complete_tx: None,
            settle_tx: None,
            submitted_in: news.block.block_ref(),
            completed_in: None,
            forget_after: None,
        })
    }

    /// What this block's events of the job say of its worker: standing, and speed with the model.
    fn judge(&mut self, happened: &Happened, worker: Address, session: SessionId, record: &EncodedJob<'_>) {
        let acknowledged = saturating(record.ack_timestamp());
        if happened.acknowledge.is_some() {
            let allowed = self.params().map_or(0, |p| p.ack_timeout);
            let took = acknowledged.saturating_sub(saturating(record.submitted_at()));
            self.restand(worker, |standing| after_acknowledgement(standing, took, allowed));
        }
        if happened.time_out.is_some() {
            self.restand(worker, after_timeout);
        }
        if happened.complete.is_some()
            && let Some(model) = self.sessions.get(&session).map(|session| session.model_id)
        {
            let took = saturating(record.completed_at()).saturating_sub(acknowledged);
            let key = (worker, model);
            if self.speeds.update(&key, |speed| *speed = speed.after(took)).is_none() {
                self.speeds.insert(key, Speed::default().after(took));
            }
        }
    }

    /// Gives the worker another standing; a full one, which most have and keep, is no row.
    fn restand(&mut self, worker: Address, change: impl FnOnce(u32) -> u32) {
        let before = self.standing_of(&worker);
        let after = change(before);
        if after == FULL_STANDING {
            self.standings.remove(&worker);
        } else if after != before {
            self.standings.insert(worker, after);
        }
    }

    /// Forgets a job that no dispute can need. When it was the newest of its session, the session remembers when that was.
    pub(super) fn forget_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        let newer = self.jobs.index().of_session(&job.session_id).last().is_some_and(|last| *last > id);
        let known = self.sessions.get(&job.session_id).map(|session| session.last_activity);
        if !newer && known.is_some_and(|known| known < job.submitted_at) {
            self.sessions.update(&job.session_id, |session| session.last_activity = job.submitted_at);
        }
    }

    /// What anyone may do next about a job once block time allows it.
    fn duty_of(&self, job: &Job, record: &EncodedJob<'_>) -> Option<Plan> {
        let params = self.params()?;
        let grace = self.config.release_grace_seconds;
        let plan = |duty, after| Plan { duty, after, settle_from: None };
        match job.state {
            JobState::Submitted | JobState::Acknowledged => Some(Plan {
                settle_from: Some(job.deadline.saturating_add(params.resolution_timeout)),
                ..plan(Duty::ClaimTimeout, job.deadline)
            }),
            JobState::Completed => {
                let over = job.completed_at.saturating_add(params.dispute_window);
                Some(plan(Duty::Release, over.saturating_add(grace)))
            }
            JobState::Disputed => {
                let created = saturating(record.dispute_created_at());
                Some(plan(Duty::ClaimTimeout, created.saturating_add(params.resolution_timeout)))
            }
            JobState::Resolved if !record.escrowed_fee().is_zero() => {
                Some(plan(Duty::Release, job.deadline.saturating_add(grace)))
            }
            _ => None,
        }
    }

    /// What our keeper account was paid, and took out, in this block.
    pub(super) fn count_bounties(&mut self, block: &FeedBlock) {
        let Some(keeper) = self.config.keeper_account else { return };
        let registry = self.config.deployment.job_registry;
        for log in block.logs.iter().filter(|log| log.address == registry) {
            let before = self.bounties();
            let after = match topic0(log) {
                Some(JobRegistry::KeeperBountyPaid::SIGNATURE_HASH) => paid(before, log, keeper),
                Some(JobRegistry::WorkerWithdrawal::SIGNATURE_HASH) => withdrawn(before, log, keeper),
                _ => None,
            };
            if let Some(after) = after {
                self.bounties.insert(0, after);
            }
        }
    }

    /// Asks for what JobRegistry keeps for the keeper once it is worth the gas, and again while it is still there.
    pub(super) fn withdraw_bounties(
        &mut self,
        block: &FeedBlock,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let (Some(keeper), bounties) = (self.config.keeper_account, self.bounties()) else { return Ok(()) };
        let asked = self.withdrawal_asked.get(&0).copied().unwrap_or_default();
        let wait = asked.saturating_add(self.config.duty_retry_seconds);
        if !self.config.keeper
            || bounties.kept < self.config.withdraw_bounties_at
            || bounties.kept.is_zero()
            || block.timestamp < wait
        {
            return Ok(());
        }
        self.withdrawal_asked.insert(0, block.timestamp);
        let deployment = &self.config.deployment;
        let mut hasher = Keccak256::new();
        hasher.update(b"lcai bounties");
        hasher.update(deployment.chain_id.to_be_bytes());
        hasher.update(deployment.job_registry);
        hasher.update(keeper);
        // The next withdrawal is another effect.
        hasher.update(bounties.withdrawn.to_be_bytes::<32>());
        let (origin, head, again) = (block.block_ref(), EffectDepth::Head, OnRepeat::Again);
        effects.push(origin, hasher.finalize(), keeper::WITHDRAW, head, again, None, &())
    }
}

fn paid(before: Bounties, log: &FeedLog, keeper: Address) -> Option<Bounties> {
    let topics = log.topics.iter().copied();
    let paid = JobRegistry::KeeperBountyPaid::decode_raw_log(topics, &log.data).ok()?;
    if paid.keeper != keeper {
        return None;
    }
    Some(if paid.kind == TIMEOUT_BOUNTY {
        Bounties { timeouts: before.timeouts.saturating_add(paid.amount), ..before }
    } else {
        let (releases, kept) = (before.releases.saturating_add(paid.amount), before.kept);
        Bounties { releases, kept: kept.saturating_add(paid.amount), ..before }
    })
}

fn withdrawn(before: Bounties, log: &FeedLog, keeper: Address) -> Option<Bounties> {
    let topics = log.topics.iter().copied();
    let taken = JobRegistry::WorkerWithdrawal::decode_raw_log(topics, &log.data).ok()?;
    let withdrawn = before.withdrawn.saturating_add(taken.amount);
    // It always pays the whole balance.
    (taken.worker == keeper).then_some(Bounties { withdrawn, kept: U256::ZERO, ..before })
}
