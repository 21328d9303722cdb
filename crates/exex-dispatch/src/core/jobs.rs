//! Blocks into the directory: jobs, what they say of their workers, and what a keeper may do about them.

use super::{
    DispatchCore, Expiring,
    apply::saturating,
    index::{BlockIndex, transaction_of},
};
use crate::{
    duties::{Duty, DutyKey, Plan},
    keeper,
    mismatch::{self, Completion},
    plan::{job_call, topic0},
    records::{Bounties, Job},
    standing::{after_acknowledgement, after_timeout},
};
use alloy_primitives::{Address, B256, Keccak256, U256};
use alloy_sol_types::SolEvent;
use lcai_host::{CoreError, EffectDepth, Effects, FeedBlock, FeedLog, OnRepeat};
use lcai_primitives::{
    contracts::{self, JobRegistry, JobState},
    ids::{JobId, SessionId, Subject},
};

/// Events after which a job has ended.
const SETTLING_EVENTS: [B256; 5] = [
    JobRegistry::JobTimedOut::SIGNATURE_HASH,
    JobRegistry::JobReleased::SIGNATURE_HASH,
    JobRegistry::JobSettledNoFault::SIGNATURE_HASH,
    JobRegistry::DisputeResolved::SIGNATURE_HASH,
    JobRegistry::DisputeDefaulted::SIGNATURE_HASH,
];

/// `KeeperBountyPaid.kind` of a timeout; a release has 1.
const TIMEOUT_BOUNTY: u8 = 0;

impl DispatchCore {
    pub(super) fn apply_job(
        &mut self,
        index: &BlockIndex<'_>,
        id: U256,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let Ok(job_id) = JobId::try_from(id) else { return Ok(()) };
        let call = job_call(&self.config.deployment, id);
        let Some(record) = index.read::<JobRegistry::getJobCall>(&call)? else { return Ok(()) };
        let Ok(state) = JobState::try_from(record.state) else { return Ok(()) };
        let logs = index.about(id);
        let submit = transaction_of(logs, &[JobRegistry::JobSubmitted::SIGNATURE_HASH]);
        let acknowledge = transaction_of(logs, &[JobRegistry::JobAcknowledged::SIGNATURE_HASH]);
        let complete = transaction_of(logs, &[JobRegistry::JobCompleted::SIGNATURE_HASH]);
        let settle = transaction_of(logs, &SETTLING_EVENTS);
        let before = self.jobs.get(&job_id).cloned();
        let was_open = before.as_ref().is_some_and(Job::is_open);
        let Some(mut job) = before.or_else(|| self.new_job(index.block, job_id, &record, submit)) else {
            return Ok(());
        };
        job.state = state;
        job.deadline = saturating(record.deadline);
        job.completed_at = saturating(record.completedAt);
        job.response_blob_hash = (!record.responseBlobHash.is_zero()).then_some(record.responseBlobHash);
        job.response_ciphertext_hash =
            (!record.responseCiphertextHash.is_zero()).then_some(record.responseCiphertextHash);
        job.ack_tx = acknowledge.or(job.ack_tx);
        job.settle_tx = settle.or(job.settle_tx);
        if complete.is_some() {
            job.complete_tx = complete;
            job.completed_in = Some(index.block.block_ref());
            self.compare(index.block, &job, record.responseCiphertextHash, effects)?;
        }
        self.count_open_jobs(was_open, &job);
        self.judge(logs, &job, &record);
        let plan = if self.config.keeper { self.duty_of(&job, &record) } else { None };
        self.duties.plan(DutyKey::Job(job_id), plan);
        if matches!(state, JobState::TimedOut | JobState::Resolved | JobState::Released) {
            self.expire(index.block, Expiring::Job(job_id));
        }
        self.jobs.insert(job_id, job);
        Ok(())
    }

    /// Asks for the answer that the worker signed to be compared with the one it committed, once the completion is safe: a
    /// filing is evidence about one chain, and another fork may have another answer. A repetition compares anew, because
    /// the job's subject does not name the answer.
    fn compare(
        &self,
        block: &FeedBlock,
        job: &Job,
        committed: B256,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        if !self.config.keeper {
            return Ok(());
        }
        let subject = job.subject;
        let completion =
            Completion { job: subject.job_id, prompt_blob_hash: subject.prompt_blob_hash, committed };
        let (origin, safe, again) = (block.block_ref(), EffectDepth::Safe, OnRepeat::Again);
        effects.push(origin, subject.id(), mismatch::ACTION, safe, again, None, &completion)
    }

    fn new_job(
        &mut self,
        block: &FeedBlock,
        job_id: JobId,
        record: &contracts::Job,
        submit: Option<B256>,
    ) -> Option<Job> {
        let session_id = SessionId::try_from(record.sessionId).ok()?;
        let user = self.sessions.update(&session_id, |session| {
            session.jobs.push(job_id);
            session.last_activity = block.timestamp;
            session.user
        })?;
        Some(Job {
            session_id,
            user,
            worker: record.worker,
            state: JobState::Submitted,
            escrowed_fee: record.escrowedFee,
            prompt_blob_hash: record.promptBlobHash,
            response_blob_hash: None,
            response_ciphertext_hash: None,
            submitted_at: saturating(record.submittedAt),
            completed_at: 0,
            deadline: saturating(record.deadline),
            submit_tx: submit,
            ack_tx: None,
            complete_tx: None,
            settle_tx: None,
            submitted_in: block.block_ref(),
            completed_in: None,
            subject: Subject {
                chain_id: self.config.deployment.chain_id,
                contract: self.config.deployment.job_registry,
                job_id,
                session_id,
                prompt_blob_hash: record.promptBlobHash,
                submit_tx_hash: submit.unwrap_or_default(),
            },
        })
    }

    fn count_open_jobs(&mut self, was_open: bool, after: &Job) {
        if was_open == after.is_open() {
            return;
        }
        self.workers.update(&after.worker, |worker| {
            worker.open_jobs = if was_open {
                worker.open_jobs.saturating_sub(1)
            } else {
                worker.open_jobs.saturating_add(1)
            };
        });
    }

    /// What this block's events of the job say of its worker: standing, and speed with the model.
    fn judge(&mut self, logs: &[&FeedLog], job: &Job, record: &contracts::Job) {
        let happened = |signature| logs.iter().any(|log| topic0(log) == Some(signature));
        let allowed = self.params().map_or(0, |p| p.ack_timeout);
        let (submitted, acknowledged) = (saturating(record.submittedAt), saturating(record.ackTimestamp));
        if happened(JobRegistry::JobAcknowledged::SIGNATURE_HASH) {
            let took = acknowledged.saturating_sub(submitted);
            self.restand(job.worker, |standing| after_acknowledgement(standing, took, allowed));
        }
        if happened(JobRegistry::JobTimedOut::SIGNATURE_HASH) {
            self.restand(job.worker, after_timeout);
        }
        if happened(JobRegistry::JobCompleted::SIGNATURE_HASH)
            && let Some(model) = self.sessions.get(&job.session_id).map(|session| session.model_id)
        {
            let key = (job.worker, model);
            let speed = self.speeds.get(&key).copied().unwrap_or_default();
            self.speeds.insert(key, speed.after(job.completed_at.saturating_sub(acknowledged)));
        }
    }

    /// Gives the worker another standing. Most acknowledgements leave a full one as it is, and what stays as it is is not
    /// looked at again by the directory's snapshots.
    fn restand(&mut self, worker: Address, change: impl FnOnce(u32) -> u32) {
        let Some(before) = self.workers.get(&worker).map(|w| w.standing_bps) else { return };
        let after = change(before);
        if after != before {
            self.workers.update(&worker, |w| w.standing_bps = after);
        }
    }

    /// What anyone may do next about a job once block time allows it.
    fn duty_of(&self, job: &Job, record: &contracts::Job) -> Option<Plan> {
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
                let created = saturating(record.disputeCreatedAt);
                Some(plan(Duty::ClaimTimeout, created.saturating_add(params.resolution_timeout)))
            }
            JobState::Resolved if !record.escrowedFee.is_zero() => {
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
