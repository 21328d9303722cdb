//! The worker's pure core: which jobs are its own, and what is to be done about them.

mod plan;
mod records;
mod sortition;

pub use plan::WorkerPlan;
pub(crate) use plan::{job_call, session_call};
pub use records::{
    AcknowledgedTask, ClaimTask, Completion, JobRow, JobTask, PriorRef, ReleaseTask, RequestRow, SessionRow,
};

use alloy_primitives::{Address, B256, Bytes, Keccak256, U256};
use alloy_sol_types::SolCall;
use lcai_host::{
    AnyTable, BlockRef, CoreError, EffectDepth, Effects, Extension, FeedBlock, FeedLog, OnRepeat, Table,
};
use lcai_primitives::{
    JobState, SessionStatus,
    contracts::{self, Deployment, JobRegistry},
    history::{HISTORY_BLOCKS, answer_in_history, in_history},
    ids::{JobId, ModelId, SessionId, Subject},
    params::ChainParams,
};
use plan::{decode, params_calls};
use serde::{Deserialize, Serialize};

/// Actions of the worker, the second half of an effect's identity.
pub(crate) mod action {
    pub(crate) const ACKNOWLEDGE: &str = "acknowledge";
    pub(crate) const INFER: &str = "infer";
    pub(crate) const DELIVER: &str = "deliver";
    pub(crate) const COMPLETE: &str = "complete";
    pub(crate) const RELEASE: &str = "release";
    pub(crate) const WITHDRAW: &str = "withdraw";
    pub(crate) const CLAIM: &str = "claim";
}

/// What the core is told once and for all.
#[derive(Debug, Clone)]
pub struct WorkerCoreConfig {
    /// The contracts.
    pub deployment: Deployment,
    /// The worker's account.
    pub worker: Address,
    /// Blocks above the acknowledgement before the terminal frame, which carries a signature, may leave.
    pub ack_depth: u64,
    /// Seconds after a dispute window in which further jobs are waited for, to be released together.
    pub release_delay_seconds: u64,
    /// Most jobs of one release.
    pub release_batch: usize,
    /// Seconds after which a release that did not show on chain is asked for again.
    pub release_retry_seconds: u64,
    /// Earnings (wei) that are withdrawn by themselves; `None`: never.
    pub withdraw_at: Option<U256>,
    /// Models whose sortition requests are claimed.
    pub models: Vec<ModelId>,
}

impl WorkerCoreConfig {
    /// Defaults: depth 2, releases of up to 50 jobs within 5 s, asked for again after 60 s, no withdrawals.
    pub const fn new(deployment: Deployment, worker: Address) -> Self {
        Self {
            deployment,
            worker,
            ack_depth: 2,
            release_delay_seconds: 5,
            release_batch: 50,
            release_retry_seconds: 60,
            withdraw_at: None,
            models: Vec::new(),
        }
    }
}

/// A completed job that waits for its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Releasable {
    /// When it was last asked for, unix seconds of block time.
    asked_at: Option<u64>,
}

/// The pure core of a worker.
#[derive(Debug)]
pub struct WorkerCore {
    config: WorkerCoreConfig,
    params: Table<u8, ChainParams>,
    /// The newest block's time.
    clock: Table<u8, u64>,
    sessions: Table<SessionId, SessionRow>,
    jobs: Table<JobId, JobRow>,
    /// By time of completion (0 for jobs that a dispute has cleared).
    releasable: Table<(u64, JobId), Releasable>,
    /// Wei earned since the last withdrawal.
    earned: Table<u8, U256>,
    /// Sortition requests that nobody has claimed.
    requests: Table<u64, RequestRow>,
    /// Requests that the worker has claimed and that are no sessions yet, with the time (unix seconds) they expire.
    claimed: Table<u64, u64>,
}

impl WorkerCore {
    /// An empty core; the runner fills it from the journal.
    pub fn new(config: WorkerCoreConfig) -> Self {
        Self {
            config,
            params: Table::new("params"),
            clock: Table::new("clock"),
            sessions: Table::new("sessions"),
            jobs: Table::new("jobs"),
            releasable: Table::new("releasable"),
            earned: Table::new("earned"),
            requests: Table::new("requests"),
            claimed: Table::new("claimed"),
        }
    }

    /// AIConfig's values; `None` before the first block.
    pub fn params(&self) -> Option<&ChainParams> {
        self.params.get(&0)
    }

    /// Time of the newest block, unix seconds; 0 before the first.
    pub fn now(&self) -> u64 {
        self.clock.get(&0).copied().unwrap_or_default()
    }

    /// A job of the worker's sessions.
    pub fn job(&self, id: JobId) -> Option<&JobRow> {
        self.jobs.get(&id)
    }

    /// A session that is or was the worker's.
    pub fn session(&self, id: SessionId) -> Option<&SessionRow> {
        self.sessions.get(&id)
    }

    /// Jobs that wait for the worker: submitted or acknowledged.
    pub fn open_jobs(&self) -> usize {
        let open =
            |job: &JobRow| job.mine && matches!(job.state, JobState::Submitted | JobState::Acknowledged);
        self.jobs.iter().filter(|(_, job)| open(job)).count()
    }

    /// Sessions that can bring the worker another job: its own, not closed, not idle for too long.
    pub fn open_sessions(&self) -> usize {
        let Some(timeout) = self.params().map(|p| p.session_inactivity_timeout) else { return 0 };
        let now = self.now();
        let alive = |row: &SessionRow| row.last_activity.saturating_add(timeout) >= now;
        self.sessions
            .iter()
            .filter(|(_, row)| row.mine && row.status != SessionStatus::Closed && alive(row))
            .count()
    }

    /// Sortition requests that the worker has claimed and that may still become sessions of its.
    pub fn claimed_requests(&self) -> usize {
        let now = self.now();
        self.claimed.iter().filter(|(_, expiry)| **expiry >= now).count()
    }

    /// The subjects of the worker's jobs in a state.
    pub fn jobs_in(&self, state: JobState) -> Vec<B256> {
        self.jobs
            .iter()
            .filter(|(_, job)| job.mine && job.state == state)
            .map(|(_, job)| job.subject.id())
            .collect()
    }

    fn read_params(&mut self, block: &FeedBlock) {
        let calls = params_calls(&self.config.deployment);
        let answers: Option<Vec<&Bytes>> = calls.iter().map(|call| block.read(call)?.ok()).collect();
        // Parameters that cannot be read leave the old ones: the chain may hold any AIConfig.
        if let Some(params) = answers.and_then(|answers| ChainParams::from_returns(&answers).ok())
            && self.params() != Some(&params)
        {
            self.params.insert(0, params);
        }
    }

    fn read_job(&self, block: &FeedBlock, job: U256) -> Result<Option<contracts::Job>, CoreError> {
        let missing = || CoreError::MissingRead { number: block.number, what: format!("getJob({job})") };
        let read = block.read(&job_call(&self.config.deployment, job)).ok_or_else(missing)?;
        Ok(read.ok().and_then(|data| JobRegistry::getJobCall::abi_decode_returns(data).ok()))
    }

    fn read_session(
        &self,
        block: &FeedBlock,
        session: U256,
    ) -> Result<Option<contracts::Session>, CoreError> {
        let missing =
            || CoreError::MissingRead { number: block.number, what: format!("getSession({session})") };
        let read = block.read(&session_call(&self.config.deployment, session)).ok_or_else(missing)?;
        Ok(read.ok().and_then(|data| JobRegistry::getSessionCall::abi_decode_returns(data).ok()))
    }

    fn log(&mut self, block: &FeedBlock, log: &FeedLog, effects: &mut Effects) -> Result<(), CoreError> {
        let me = self.config.worker;
        if let Some(e) = decode::<JobRegistry::SessionCreated>(log) {
            if e.worker == me
                && let Ok(id) = e.sessionId.try_into()
            {
                let row = SessionRow {
                    user: e.user,
                    model: e.modelId.into(),
                    mine: true,
                    status: SessionStatus::Active,
                    enc_worker_key: e.encWorkerKey,
                    complete: true,
                    jobs: Vec::new(),
                    last_activity: block.timestamp,
                };
                self.sessions.insert(id, row);
            }
        } else if let Some(e) = decode::<JobRegistry::SessionAdopted>(log) {
            if e.worker == me {
                self.take_session(block, e.sessionId, true)?;
            }
        } else if let Some(e) = decode::<JobRegistry::SessionReassigned>(log) {
            if e.newWorker == me {
                self.take_session(block, e.sessionId, false)?;
            } else if let Ok(id) = e.sessionId.try_into() {
                self.sessions.update(&id, |row| row.mine = false);
            }
        } else if let Some(e) = decode::<JobRegistry::SessionKeyUpdated>(log) {
            if e.sessionId.try_into().is_ok_and(|id| self.sessions.get(&id).is_some_and(|row| row.mine)) {
                self.take_session(block, e.sessionId, false)?;
            }
        } else if let Some(e) = decode::<JobRegistry::SessionClosed>(log) {
            if let Ok(id) = e.sessionId.try_into() {
                self.sessions.update(&id, |row| row.status = SessionStatus::Closed);
            }
        } else if let Some(e) = decode::<JobRegistry::JobSubmitted>(log) {
            self.submitted(block, log, &e, effects)?;
        } else if let Some(e) = decode::<JobRegistry::JobAcknowledged>(log) {
            if e.worker == me {
                self.acknowledged(block, e.jobId, effects)?;
            }
        } else {
            self.settled(block, log);
        }
        Ok(())
    }

    /// Reads a session from the chain into its row.
    fn take_session(&mut self, block: &FeedBlock, id: U256, created: bool) -> Result<(), CoreError> {
        let (Some(session), Ok(id)) = (self.read_session(block, id)?, SessionId::try_from(id)) else {
            return Ok(());
        };
        let Ok(status) = SessionStatus::try_from(session.status) else { return Ok(()) };
        let known = self.sessions.get(&id);
        let row = SessionRow {
            user: session.user,
            model: session.modelId.into(),
            mine: session.worker == self.config.worker,
            status,
            enc_worker_key: session.encWorkerKey,
            complete: created || known.is_some_and(|row| row.complete),
            jobs: known.map(|row| row.jobs.clone()).unwrap_or_default(),
            last_activity: seconds(session.lastActivityAt),
        };
        self.sessions.insert(id, row);
        Ok(())
    }

    fn submitted(
        &mut self,
        block: &FeedBlock,
        log: &FeedLog,
        event: &JobRegistry::JobSubmitted,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let (Ok(id), Ok(session_id)) = (JobId::try_from(event.jobId), SessionId::try_from(event.sessionId))
        else {
            return Ok(());
        };
        if event.worker != self.config.worker {
            // A job in a session that was the worker's once: what follows no longer has to be kept.
            self.sessions.update(&session_id, |row| row.complete = false);
            return Ok(());
        }
        let Some(job) = self.read_job(block, event.jobId)? else { return Ok(()) };
        // Only the first job of a session the feed does not hold from its start comes without a row.
        if self.sessions.get(&session_id).is_none_or(|row| !row.mine) {
            self.take_session(block, event.sessionId, false)?;
        }
        let subject = Subject {
            chain_id: self.config.deployment.chain_id,
            contract: self.config.deployment.job_registry,
            job_id: id,
            session_id,
            prompt_blob_hash: job.promptBlobHash,
            submit_tx_hash: log.transaction_hash,
        };
        let deadline = seconds(job.deadline);
        let row = JobRow {
            subject,
            mine: true,
            state: JobState::Submitted,
            submitted_in: block.block_ref(),
            deadline,
            acknowledged_in: None,
            completed: None,
        };
        self.jobs.insert(id, row);
        let Some(session) = self.sessions.get(&session_id) else { return Ok(()) };
        let task = JobTask {
            subject,
            model: session.model,
            enc_worker_key: session.enc_worker_key.clone(),
            submit_block: block.number,
            acknowledge_by: deadline,
            prior: session.complete.then(|| self.prior(session, id, block.number)),
        };
        self.sessions.update(&session_id, |row| {
            row.jobs.push(id);
            row.last_activity = block.timestamp;
        });

        let (origin, subject) = (block.block_ref(), subject.id());
        let depth = EffectDepth::Head;
        // The answer may still be wanted until both deadlines are over, however late the acknowledgement is.
        let completion = self.params().map_or(0, |p| p.completion_timeout);
        let by = deadline.saturating_add(completion);
        effects.push(origin, subject, action::INFER, depth, OnRepeat::Skip, Some(by), &task)?;
        effects.push(origin, subject, action::ACKNOWLEDGE, depth, OnRepeat::Again, Some(deadline), &task)
    }

    /// The jobs of a session that belong to the history of its newest one.
    fn prior(&self, session: &SessionRow, job: JobId, submit_block: u64) -> Vec<PriorRef> {
        let row = |id: &JobId| Some((*id, self.jobs.get(id)?));
        let prior = session.jobs.iter().filter_map(row);
        prior
            .filter(|(id, row)| in_history(*id, row.submitted_in.number, job, submit_block))
            .map(|(job_id, row)| PriorRef {
                job_id,
                submit_block: row.submitted_in.number,
                prompt_blob_hash: row.subject.prompt_blob_hash,
                response: row
                    .completed
                    .filter(|c| answer_in_history(c.block, submit_block))
                    .map(|c| (c.response_blob_hash, c.block)),
            })
            .collect()
    }

    fn acknowledged(&mut self, block: &FeedBlock, job: U256, effects: &mut Effects) -> Result<(), CoreError> {
        let (Some(on_chain), Ok(id)) = (self.read_job(block, job)?, JobId::try_from(job)) else {
            return Ok(());
        };
        let deadline = seconds(on_chain.deadline);
        let Some(subject) = self.jobs.update(&id, |row| {
            row.state = JobState::Acknowledged;
            row.acknowledged_in = Some(block.number);
            row.deadline = deadline;
            row.subject
        }) else {
            return Ok(());
        };
        let task = AcknowledgedTask { subject, complete_by: deadline };
        let (origin, subject) = (block.block_ref(), subject.id());
        let (head, again) = (EffectDepth::Head, OnRepeat::Again);
        effects.push(origin, subject, action::COMPLETE, head, again, Some(deadline), &task)?;
        // Without a time limit: an answer that was completed in time is still the user's afterwards.
        let depth = EffectDepth::Depth(self.config.ack_depth);
        effects.push(origin, subject, action::DELIVER, depth, again, None, &task)
    }

    /// Everything after the acknowledgement.
    fn settled(&mut self, block: &FeedBlock, log: &FeedLog) {
        let me = self.config.worker;
        if let Some(e) = decode::<JobRegistry::JobCompleted>(log).filter(|e| e.worker == me) {
            let completion = Completion {
                block: block.number,
                at: block.timestamp,
                response_blob_hash: e.responseBlobHash,
                ciphertext_hash: e.responseCiphertextHash,
            };
            if let Some(id) = self.set_state(e.jobId, JobState::Completed) {
                self.jobs.update(&id, |row| row.completed = Some(completion));
                self.releasable.insert((block.timestamp, id), Releasable { asked_at: None });
            }
        } else if let Some(e) = decode::<JobRegistry::DisputeCreated>(log) {
            if let Some(id) = self.set_state(e.jobId, JobState::Disputed) {
                self.forget_release(id);
            }
        } else if let Some(e) = decode::<JobRegistry::DisputeResolved>(log) {
            if let Some(id) = self.set_state(e.jobId, JobState::Resolved)
                && !e.workerGuilty
            {
                self.releasable.insert((0, id), Releasable { asked_at: None });
            }
        } else if let Some(e) = decode::<JobRegistry::DisputeDefaulted>(log) {
            self.set_state(e.jobId, JobState::Resolved);
        } else if let Some(e) = decode::<JobRegistry::JobReleased>(log) {
            if let Some(id) = self.set_state(e.jobId, JobState::Released) {
                self.forget_release(id);
                let earned = self.earned.get(&0).copied().unwrap_or_default();
                self.earned.insert(0, earned.saturating_add(e.workerShare));
            }
        } else if let Some(e) = decode::<JobRegistry::WorkerWithdrawal>(log) {
            if e.worker == me {
                self.earned.insert(0, U256::ZERO);
            }
        } else if let Some(e) = decode::<JobRegistry::JobTimedOut>(log) {
            self.set_state(e.jobId, JobState::TimedOut);
        } else if let Some(e) = decode::<JobRegistry::JobSettledNoFault>(log) {
            self.set_state(e.jobId, JobState::TimedOut);
        }
    }

    /// Moves a job that the worker knows; its id, if it does.
    fn set_state(&mut self, job: U256, state: JobState) -> Option<JobId> {
        let id = JobId::try_from(job).ok()?;
        self.jobs.update(&id, |row| row.state = state).map(|()| id)
    }

    fn forget_release(&mut self, job: JobId) {
        let completed = self.jobs.get(&job).and_then(|row| row.completed).map(|c| c.at);
        for at in completed.into_iter().chain([0]) {
            self.releasable.remove(&(at, job));
        }
    }

    /// Asks for the release of jobs past their dispute window, as many together as have come up.
    fn release(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        let Some(window) = self.params().map(|p| p.dispute_window) else { return Ok(()) };
        let WorkerCoreConfig { release_delay_seconds, release_retry_seconds, release_batch, .. } =
            self.config;
        let now = block.timestamp;
        // `completed at + window < now` is over for the contract.
        let Some(over) = now.checked_sub(window) else { return Ok(()) };
        let idle =
            |r: &Releasable| r.asked_at.is_none_or(|at| at.saturating_add(release_retry_seconds) <= now);
        let due: Vec<(u64, JobId)> =
            self.releasable.range(..(over, JobId(0))).filter(|(_, r)| idle(r)).map(|(key, _)| *key).collect();
        let waited = due.first().is_some_and(|(at, _)| at.saturating_add(release_delay_seconds) < over);
        if !waited && due.len() < release_batch {
            return Ok(());
        }
        for batch in due.chunks(release_batch.max(1)) {
            for key in batch {
                self.releasable.update(key, |r| r.asked_at = Some(now));
            }
            let task = ReleaseTask { jobs: batch.iter().map(|(_, job)| *job).collect() };
            let subject =
                self.own_subject(action::RELEASE, block.hash, task.jobs.first().map_or(0, |job| job.0));
            let (origin, head, skip) = (block.block_ref(), EffectDepth::Head, OnRepeat::Skip);
            effects.push(origin, subject, action::RELEASE, head, skip, None, &task)?;
        }
        Ok(())
    }

    fn withdraw(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        let earned = self.earned.get(&0).copied().unwrap_or_default();
        if self.config.withdraw_at.is_none_or(|at| earned < at || earned.is_zero()) {
            return Ok(());
        }
        self.earned.insert(0, U256::ZERO);
        let subject = self.own_subject(action::WITHDRAW, block.hash, 0);
        let (origin, head, skip) = (block.block_ref(), EffectDepth::Head, OnRepeat::Skip);
        effects.push(origin, subject, action::WITHDRAW, head, skip, None, &())
    }

    /// The subject of an effect that is not about one job: the block that gave the reason for it.
    fn own_subject(&self, action: &str, block: B256, first: u64) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(action);
        hasher.update(self.config.deployment.chain_id.to_be_bytes());
        hasher.update(self.config.deployment.job_registry);
        hasher.update(block);
        hasher.update(first.to_be_bytes());
        hasher.finalize()
    }

    /// Forgets what no later history can include.
    fn prune(&mut self, number: u64) {
        if !number.is_multiple_of(256) {
            return;
        }
        let Some(oldest) = number.checked_sub(HISTORY_BLOCKS) else { return };
        let over =
            |row: &JobRow| matches!(row.state, JobState::TimedOut | JobState::Resolved | JobState::Released);
        let old: Vec<(JobId, SessionId)> = self
            .jobs
            .iter()
            .filter(|(_, row)| row.submitted_in.number < oldest && over(row))
            .map(|(id, row)| (*id, row.subject.session_id))
            .collect();
        for (job, session) in old {
            self.forget_release(job);
            self.jobs.remove(&job);
            self.sessions.update(&session, |row| row.jobs.retain(|id| *id != job));
        }
        let gone: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, row)| row.jobs.is_empty() && (!row.mine || row.status == SessionStatus::Closed))
            .map(|(id, _)| *id)
            .collect();
        for session in gone {
            self.sessions.remove(&session);
        }
    }
}

impl Extension for WorkerCore {
    const NAME: &'static str = "worker";
    const VERSION: u32 = 3;

    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        self.clock.insert(0, block.timestamp);
        self.read_params(block);
        for log in &block.logs {
            if log.address == self.config.deployment.job_registry {
                self.log(block, log, effects)?;
            } else if Some(log.address) == self.config.deployment.session_manager {
                self.sortition_log(block, log)?;
            }
        }
        self.claim(block, effects)?;
        self.release(block, effects)?;
        self.withdraw(block, effects)?;
        self.prune(block.number);
        Ok(())
    }

    fn input(&mut self, _: BlockRef, _: &[u8], _: &mut Effects) -> Result<(), CoreError> {
        Err(CoreError::BadInput("the worker's core takes no inputs".to_owned()))
    }

    fn tables(&mut self) -> Vec<&mut dyn AnyTable> {
        vec![
            &mut self.params,
            &mut self.clock,
            &mut self.sessions,
            &mut self.jobs,
            &mut self.releasable,
            &mut self.earned,
            &mut self.requests,
            &mut self.claimed,
        ]
    }
}

/// A contract time; one beyond 64 bits never comes.
pub(crate) fn seconds(value: U256) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
