//! The directory: a pure function of the blocks and the journaled heartbeats.

use crate::{
    plan::{Touched, job_call, model_calls, params_calls, session_call, topic0, worker_calls},
    records::{Job, Model, Session, Worker, WorkerHealth},
};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{
    AnyTable, BlockRef, Call, CoreError, EffectDepth, Effects, Extension, FeedBlock, FeedLog, OnRepeat, Table,
};
use lcai_primitives::{
    contracts::{
        self, AIConfig, Deployment, JobRegistry, JobState, ReputationRegistry, SessionStatus, WorkerRegistry,
    },
    ids::{JobId, ModelId, SessionId, Subject},
    params::ChainParams,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Every worker's score where no ReputationRegistry is deployed: weights then follow stake alone.
const NEUTRAL_REPUTATION: u64 = 1;

/// What the core is told once and for all.
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// The contracts.
    pub deployment: Deployment,
    /// Models looked up at the feed's first block, see [`crate::DispatchPlan`].
    pub known_models: Vec<ModelId>,
    /// Whether this node performs keeper duties.
    pub keeper: bool,
    /// Seconds after the dispute window before the keeper releases a job that its worker has not released itself.
    pub release_grace_seconds: u64,
    /// Seconds between two attempts at the same duty.
    pub duty_retry_seconds: u64,
    /// Seconds after its newest heartbeat for which a worker counts as healthy.
    pub heartbeat_ttl_seconds: u64,
}

impl DispatchConfig {
    /// Defaults: keeper on, release grace 60 s, duties retried every 30 s, heartbeats good for 45 s.
    pub const fn new(deployment: Deployment, known_models: Vec<ModelId>) -> Self {
        Self {
            deployment,
            known_models,
            keeper: true,
            release_grace_seconds: 60,
            duty_retry_seconds: 30,
            heartbeat_ttl_seconds: 45,
        }
    }
}

/// A duty that falls due by block time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Duty {
    /// An open job passed its deadline, or a dispute its resolution timeout.
    ClaimTimeout,
    /// A completed job passed its dispute window.
    Release,
}

/// Something that may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Expiring {
    Job(JobId),
    Session(SessionId),
    Blob(B256),
}

/// The pure core of dispatch.
#[derive(Debug)]
pub struct DispatchCore {
    config: DispatchConfig,
    params: Table<u8, ChainParams>,
    /// The newest block's time, unix seconds.
    time: Table<u8, u64>,
    models: Table<ModelId, Model>,
    workers: Table<Address, Worker>,
    sessions: Table<SessionId, Session>,
    jobs: Table<JobId, Job>,
    blobs: Table<B256, B256>,
    /// Duties by the block time from which they are due.
    duties: Table<(u64, JobId), Duty>,
    /// Where each job's duty stands in `duties`.
    planned: Table<JobId, u64>,
    expiries: Table<(u64, Expiring), u8>,
    /// Written by inputs only, so that it survives reverts.
    health: Table<Address, WorkerHealth>,
}

impl DispatchCore {
    /// An empty directory; the runner fills it from the journal.
    pub const fn new(config: DispatchConfig) -> Self {
        Self {
            config,
            params: Table::new("params"),
            time: Table::new("time"),
            models: Table::new("models"),
            workers: Table::new("workers"),
            sessions: Table::new("sessions"),
            jobs: Table::new("jobs"),
            blobs: Table::new("blobs"),
            duties: Table::new("duties"),
            planned: Table::new("planned"),
            expiries: Table::new("expiries"),
            health: Table::new("health"),
        }
    }

    /// The contracts.
    pub const fn deployment(&self) -> &Deployment {
        &self.config.deployment
    }

    /// AIConfig's values; `None` before the first block.
    pub fn params(&self) -> Option<&ChainParams> {
        self.params.get(&0)
    }

    /// The newest block's time, unix seconds; 0 before the first block.
    pub fn block_time(&self) -> u64 {
        self.time.get(&0).copied().unwrap_or_default()
    }

    /// Every model, by id.
    pub fn models(&self) -> impl Iterator<Item = (ModelId, &Model)> {
        self.models.iter().map(|(id, model)| (*id, model))
    }

    /// One model.
    pub fn model(&self, id: &ModelId) -> Option<&Model> {
        self.models.get(id)
    }

    /// Every registered worker, by address.
    pub fn workers(&self) -> impl Iterator<Item = (&Address, &Worker)> {
        self.workers.iter()
    }

    /// One worker.
    pub fn worker(&self, address: &Address) -> Option<&Worker> {
        self.workers.get(address)
    }

    /// A worker's newest heartbeat.
    pub fn health_of(&self, address: &Address) -> Option<&WorkerHealth> {
        self.health.get(address)
    }

    /// One session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// The type-3 transaction that carried a blob.
    pub fn blob_transaction(&self, versioned_hash: &B256) -> Option<B256> {
        self.blobs.get(versioned_hash).copied()
    }

    /// Whether the registry's rules let the worker take jobs of the model: listed, staked, not suspended, model enabled.
    pub fn is_eligible(&self, worker: &Worker, model: &ModelId) -> bool {
        let Some(params) = self.params() else { return false };
        worker.models.contains(model)
            && worker.suspended_until.is_none()
            && worker.stake >= params.min_worker_stake
            && self.models.get(model).is_some_and(|m| m.enabled)
    }

    /// Jobs the worker can still take at `now` (unix seconds); `None` when its health is unknown.
    pub fn free_slots(&self, address: &Address, now: u64) -> Option<u64> {
        let worker = self.workers.get(address)?;
        let health = self.health.get(address)?;
        if now > health.last_heartbeat.saturating_add(self.config.heartbeat_ttl_seconds) {
            return None;
        }
        if health.draining || !health.inference_ready {
            return Some(0);
        }
        let limit = self.params()?.max_concurrent_jobs.min(u64::from(health.max_jobs));
        Some(limit.saturating_sub(worker.open_jobs))
    }

    fn read<C: SolCall>(block: &FeedBlock, call: &Call) -> Result<Option<C::Return>, CoreError> {
        match block.read(call) {
            None => Err(CoreError::MissingRead { number: block.number, what: C::SIGNATURE.to_owned() }),
            // A getter that reverts says that the record does not exist.
            Some(Err(_)) => Ok(None),
            Some(Ok(output)) => Ok(C::abi_decode_returns(output).ok()),
        }
    }

    fn apply_params(&mut self, block: &FeedBlock) -> Result<(), CoreError> {
        let mut answers: Vec<Bytes> = Vec::new();
        for call in params_calls(&self.config.deployment) {
            match block.read(&call) {
                Some(Ok(output)) => answers.push(output.clone()),
                Some(Err(_)) => return Ok(()),
                None => {
                    return Err(CoreError::MissingRead {
                        number: block.number,
                        what: "AIConfig parameters".into(),
                    });
                }
            }
        }
        // An AIConfig that answers nonsense (upgraded to something else) leaves the last good parameters in force.
        if let Ok(params) = ChainParams::from_returns(&answers) {
            self.params.insert(0, params);
        }
        Ok(())
    }

    fn apply_model(&mut self, block: &FeedBlock, id: ModelId) -> Result<(), CoreError> {
        let [fee, tokens, enabled] = model_calls(&self.config.deployment, id);
        let fee = Self::read::<AIConfig::getModelFeeCall>(block, &fee)?;
        let tokens = Self::read::<AIConfig::getModelMaxOutputTokensCall>(block, &tokens)?;
        let enabled = Self::read::<AIConfig::isModelEnabledCall>(block, &enabled)?;
        match (fee, tokens) {
            (Some(fee), Some(max_output_tokens)) => {
                self.models.insert(id, Model { fee, max_output_tokens, enabled: enabled.unwrap_or(false) });
            }
            _ => {
                self.models.remove(&id);
            }
        }
        Ok(())
    }

    fn apply_worker(&mut self, block: &FeedBlock, address: Address) -> Result<(), CoreError> {
        let calls = worker_calls(&self.config.deployment, address);
        let [registered, stake, key, suspended, until, rest @ ..] = calls.as_slice() else {
            return Err(CoreError::MissingRead { number: block.number, what: "worker".into() });
        };
        if Self::read::<WorkerRegistry::isWorkerRegisteredCall>(block, registered)? != Some(true) {
            self.workers.remove(&address);
            return Ok(());
        }
        let stake = Self::read::<WorkerRegistry::getWorkerStakeCall>(block, stake)?.unwrap_or_default();
        let encryption_key =
            Self::read::<WorkerRegistry::getWorkerEncryptionKeyCall>(block, key)?.unwrap_or_default();
        let suspended = Self::read::<WorkerRegistry::isWorkerSuspendedCall>(block, suspended)? == Some(true);
        let until = Self::read::<WorkerRegistry::getSuspendedUntilCall>(block, until)?.unwrap_or_default();
        let score = match rest.first() {
            Some(call) => Self::read::<ReputationRegistry::getScoreCall>(block, call)?,
            None => None,
        };
        let before = self.workers.get(&address);
        let worker = Worker {
            stake,
            encryption_key,
            suspended_until: suspended.then(|| saturating(until)),
            reputation: score.map_or(NEUTRAL_REPUTATION, saturating),
            models: before.map(|w| w.models.clone()).unwrap_or_default(),
            open_jobs: before.map_or(0, |w| w.open_jobs),
        };
        self.workers.insert(address, worker);
        Ok(())
    }

    /// The models a worker lists are told by events only.
    fn apply_worker_models(&mut self, block: &FeedBlock) {
        for log in block.logs.iter().filter(|log| log.address == self.config.deployment.worker_registry) {
            let [signature, worker, model] = log.topics.as_slice() else { continue };
            let (worker, model) = (Address::from_word(*worker), ModelId(*model));
            if *signature == WorkerRegistry::ModelAdded::SIGNATURE_HASH {
                self.workers.update(&worker, |w| w.models.insert(model));
            } else if *signature == WorkerRegistry::ModelRemoved::SIGNATURE_HASH {
                self.workers.update(&worker, |w| w.models.remove(&model));
            }
        }
        let registry = self.config.deployment.worker_registry;
        for log in block.logs.iter().filter(|log| log.address == registry) {
            if topic0(log) == Some(WorkerRegistry::WorkerRegistered::SIGNATURE_HASH)
                && let Some(worker) = log.topics.get(1)
            {
                self.forget_models_before(block, log, Address::from_word(*worker));
            }
        }
    }

    /// A worker that deregistered and registered again in one block starts without models; only those added after its
    /// newest registration count.
    fn forget_models_before(&mut self, block: &FeedBlock, registration: &FeedLog, worker: Address) {
        let added: BTreeSet<ModelId> = block
            .logs
            .iter()
            .filter(|log| log.log_index > registration.log_index)
            .filter(|log| topic0(log) == Some(WorkerRegistry::ModelAdded::SIGNATURE_HASH))
            .filter(|log| log.topics.get(1).map(|w| Address::from_word(*w)) == Some(worker))
            .filter_map(|log| log.topics.get(2).map(|m| ModelId(*m)))
            .collect();
        self.workers.update(&worker, |w| w.models.retain(|model| added.contains(model)));
    }

    fn apply_session(&mut self, block: &FeedBlock, id: U256) -> Result<(), CoreError> {
        let Ok(session_id) = SessionId::try_from(id) else { return Ok(()) };
        let call = session_call(&self.config.deployment, id);
        let Some(session) = Self::read::<JobRegistry::getSessionCall>(block, &call)? else { return Ok(()) };
        let Ok(status) = SessionStatus::try_from(session.status) else { return Ok(()) };
        match self.sessions.get(&session_id) {
            Some(_) => {
                self.sessions.update(&session_id, |s| {
                    s.status = status;
                    s.worker = session.worker;
                });
            }
            None => {
                let create_transaction = find_transaction(
                    block,
                    &self.config.deployment,
                    id,
                    &[
                        JobRegistry::SessionCreated::SIGNATURE_HASH,
                        JobRegistry::SessionAdopted::SIGNATURE_HASH,
                    ],
                );
                self.sessions.insert(
                    session_id,
                    Session {
                        user: session.user,
                        model_id: ModelId(session.modelId),
                        worker: session.worker,
                        status,
                        jobs: Vec::new(),
                        create_transaction: create_transaction.unwrap_or_default(),
                        created_in: block.block_ref(),
                        last_activity: block.timestamp,
                    },
                );
                self.expire(block, Expiring::Session(session_id));
            }
        }
        Ok(())
    }

    fn apply_job(&mut self, block: &FeedBlock, id: U256) -> Result<(), CoreError> {
        let Ok(job_id) = JobId::try_from(id) else { return Ok(()) };
        let call = job_call(&self.config.deployment, id);
        let Some(record) = Self::read::<JobRegistry::getJobCall>(block, &call)? else { return Ok(()) };
        let Ok(state) = JobState::try_from(record.state) else { return Ok(()) };
        let transaction =
            |signatures: &[B256]| find_transaction(block, &self.config.deployment, id, signatures);
        let submit = transaction(&[JobRegistry::JobSubmitted::SIGNATURE_HASH]);
        let acknowledge = transaction(&[JobRegistry::JobAcknowledged::SIGNATURE_HASH]);
        let complete = transaction(&[JobRegistry::JobCompleted::SIGNATURE_HASH]);
        let settle = transaction(&SETTLING_EVENTS);
        let before = self.jobs.get(&job_id).cloned();
        let Some(mut job) = before.clone().or_else(|| self.new_job(block, job_id, &record, submit)) else {
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
            job.completed_in = Some(block.block_ref());
        }
        self.count_open_jobs(before.as_ref(), &job);
        self.plan_duty(job_id, &job, &record);
        if matches!(state, JobState::TimedOut | JobState::Resolved | JobState::Released) {
            self.expire(block, Expiring::Job(job_id));
        }
        self.jobs.insert(job_id, job);
        Ok(())
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

    fn count_open_jobs(&mut self, before: Option<&Job>, after: &Job) {
        let was_open = before.is_some_and(Job::is_open);
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

    /// One duty at most is planned per job: what anyone may do next once block time allows it.
    fn plan_duty(&mut self, id: JobId, job: &Job, record: &contracts::Job) {
        if let Some(due) = self.planned.remove(&id) {
            self.duties.remove(&(due, id));
        }
        if let Some((due, duty)) = self.duty_of(job, record) {
            self.schedule(id, due, duty);
        }
    }

    fn schedule(&mut self, id: JobId, due: u64, duty: Duty) {
        self.planned.insert(id, due);
        self.duties.insert((due, id), duty);
    }

    fn duty_of(&self, job: &Job, record: &contracts::Job) -> Option<(u64, Duty)> {
        let params = self.params()?;
        match job.state {
            JobState::Submitted | JobState::Acknowledged => Some((job.deadline, Duty::ClaimTimeout)),
            JobState::Completed => {
                let due = job.completed_at.saturating_add(params.dispute_window);
                Some((due.saturating_add(self.config.release_grace_seconds), Duty::Release))
            }
            JobState::Disputed => {
                let created = saturating(record.disputeCreatedAt);
                Some((created.saturating_add(params.resolution_timeout), Duty::ClaimTimeout))
            }
            JobState::Resolved if !record.escrowedFee.is_zero() => {
                Some((job.deadline.saturating_add(self.config.release_grace_seconds), Duty::Release))
            }
            _ => None,
        }
    }

    /// Asks for the duties that block time has made due, and plans the next attempt: a duty ends only when the chain
    /// shows that it was done, by whomever.
    fn perform_duties(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        if !self.config.keeper {
            return Ok(());
        }
        let due: Vec<((u64, JobId), Duty)> =
            self.duties.range(..(block.timestamp, JobId(0))).map(|(key, duty)| (*key, *duty)).collect();
        for (key, duty) in due {
            let Some(job) = self.jobs.get(&key.1) else { continue };
            let action = match duty {
                Duty::ClaimTimeout => crate::keeper::CLAIM_TIMEOUT,
                Duty::Release => crate::keeper::RELEASE,
            };
            effects.push(
                block.block_ref(),
                job.subject.id(),
                action,
                EffectDepth::Head,
                OnRepeat::Again,
                None,
                &key.1,
            )?;
            self.duties.remove(&key);
            self.schedule(key.1, block.timestamp.saturating_add(self.config.duty_retry_seconds), duty);
        }
        Ok(())
    }

    /// What may be needed by a dispute of a later job is kept for the retention period, then forgotten.
    fn expire(&mut self, block: &FeedBlock, what: Expiring) {
        let keep = self.params().map_or(u64::MAX, |p| p.blob_retention_period);
        self.expiries.insert((block.timestamp.saturating_add(keep), what), 0);
    }

    fn forget_expired(&mut self, block: &FeedBlock) {
        let due: Vec<_> =
            self.expiries.iter().map(|(key, _)| *key).take_while(|(at, _)| *at < block.timestamp).collect();
        for key in due {
            self.expiries.remove(&key);
            match key.1 {
                Expiring::Blob(hash) => {
                    self.blobs.remove(&hash);
                }
                Expiring::Job(id) => {
                    self.jobs.remove(&id);
                }
                Expiring::Session(id) => self.forget_session(block, id),
            }
        }
    }

    /// A session is kept while it was active within the retention period.
    fn forget_session(&mut self, block: &FeedBlock, id: SessionId) {
        let keep = self.params().map_or(u64::MAX, |p| p.blob_retention_period);
        let Some(until) = self.sessions.get(&id).map(|s| s.last_activity.saturating_add(keep)) else {
            return;
        };
        if until < block.timestamp {
            self.sessions.remove(&id);
        } else {
            self.expiries.insert((until, Expiring::Session(id)), 0);
        }
    }
}

/// Events after which a job has ended.
const SETTLING_EVENTS: [B256; 5] = [
    JobRegistry::JobTimedOut::SIGNATURE_HASH,
    JobRegistry::JobReleased::SIGNATURE_HASH,
    JobRegistry::JobSettledNoFault::SIGNATURE_HASH,
    JobRegistry::DisputeResolved::SIGNATURE_HASH,
    JobRegistry::DisputeDefaulted::SIGNATURE_HASH,
];

/// The transaction whose log has one of the signatures and the id as its first topic.
fn find_transaction(
    block: &FeedBlock,
    deployment: &Deployment,
    id: U256,
    signatures: &[B256],
) -> Option<B256> {
    let id = B256::from(id);
    block
        .logs
        .iter()
        .filter(|log| log.address == deployment.job_registry && log.topics.get(1) == Some(&id))
        .find(|log| topic0(log).is_some_and(|t| signatures.contains(&t)))
        .map(|log| log.transaction_hash)
}

fn saturating(value: U256) -> u64 {
    value.saturating_to()
}

impl Extension for DispatchCore {
    const NAME: &'static str = "dispatch";
    const VERSION: u32 = 1;

    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        self.time.insert(0, block.timestamp);
        let mut touched = Touched::of(block, &self.config.deployment);
        let configured =
            params_calls(&self.config.deployment).first().is_some_and(|call| block.read(call).is_some());
        if self.params().is_none() && configured {
            touched.config = true;
            touched.models.extend(self.config.known_models.iter().copied());
        }
        if touched.config {
            self.apply_params(block)?;
        }
        for model in touched.models {
            self.apply_model(block, model)?;
        }
        for worker in touched.workers {
            self.apply_worker(block, worker)?;
        }
        self.apply_worker_models(block);
        for session in touched.sessions {
            self.apply_session(block, session)?;
        }
        for job in touched.jobs {
            self.apply_job(block, job)?;
        }
        for blob in &block.blobs {
            self.blobs.insert(blob.versioned_hash, blob.transaction_hash);
            self.expire(block, Expiring::Blob(blob.versioned_hash));
        }
        self.perform_duties(block, effects)?;
        self.forget_expired(block);
        Ok(())
    }

    fn input(&mut self, _at: BlockRef, input: &[u8], _effects: &mut Effects) -> Result<(), CoreError> {
        let (worker, health): (Address, WorkerHealth) =
            postcard::from_bytes(input).map_err(|e| CoreError::BadInput(e.to_string()))?;
        let newer = self.health.get(&worker).is_none_or(|known| {
            health.last_heartbeat > known.last_heartbeat
                || (health.last_heartbeat == known.last_heartbeat && health.sequence > known.sequence)
        });
        if newer {
            self.health.insert(worker, health);
        }
        Ok(())
    }

    fn tables(&mut self) -> Vec<&mut dyn AnyTable> {
        vec![
            &mut self.params,
            &mut self.time,
            &mut self.models,
            &mut self.workers,
            &mut self.sessions,
            &mut self.jobs,
            &mut self.blobs,
            &mut self.duties,
            &mut self.planned,
            &mut self.expiries,
            &mut self.health,
        ]
    }
}
