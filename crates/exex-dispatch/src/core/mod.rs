//! The directory: a pure function of the blocks and the journaled heartbeats.

mod apply;
mod index;
mod jobs;
mod records_from;
mod requests;

use crate::{
    duties::{Duties, Duty, DutyKey, DutyLimits, Plan},
    error::DispatchError,
    jobs::Jobs,
    plan::{Touched, params_calls},
    records::{
        Bounties, Capacity, Job, Model, Session, SessionRequest, Speed, Worker, WorkerHealth, WorkerState,
    },
    standing::FULL_STANDING,
};
use alloy_primitives::{Address, B256, Keccak256, U256};
use index::BlockIndex;
use lcai_host::{
    AnyTable, BlockRef, CoreError, EffectDepth, Effects, Extension, FeedBlock, HashTable, OnRepeat, Table,
};
use lcai_primitives::{
    contracts::{Deployment, SessionStatus},
    ids::{JobId, ModelId, SessionId, Subject},
    params::ChainParams,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Seconds after its newest heartbeat for which a worker counts as healthy.
pub const HEARTBEAT_TTL_SECONDS: u64 = 45;

/// What the core is told once and for all.
#[derive(Debug, Clone)]
pub struct DispatchConfig {
    /// The contracts.
    pub deployment: Deployment,
    /// Models looked up at the feed's first block, see [`crate::DispatchPlan`].
    pub known_models: Vec<ModelId>,
    /// Whether this node performs keeper duties.
    pub keeper: bool,
    /// The account that performs them, whose bounties are counted.
    pub keeper_account: Option<Address>,
    /// Seconds after the dispute window before the keeper releases a job that its worker has not released itself.
    pub release_grace_seconds: u64,
    /// Seconds between the first two attempts at the same duty; they double from attempt to attempt.
    pub duty_retry_seconds: u64,
    /// Gas per minute of block time that duties may use.
    pub duty_gas_per_minute: u64,
    /// Most jobs of one release.
    pub release_batch: usize,
    /// Seconds after its newest heartbeat for which a worker counts as healthy.
    pub heartbeat_ttl_seconds: u64,
    /// Bounties, wei, that JobRegistry keeps for the keeper before it takes them out.
    pub withdraw_bounties_at: U256,
}

impl DispatchConfig {
    /// Defaults: keeper on, release grace 60 s, duties retried after 30 s, 6,000,000 gas a minute, releases of up to 50
    /// jobs, heartbeats good for 45 s, bounties withdrawn from 0.01 LCAI on.
    pub const fn new(deployment: Deployment, known_models: Vec<ModelId>) -> Self {
        Self {
            deployment,
            known_models,
            keeper: true,
            keeper_account: None,
            release_grace_seconds: 60,
            duty_retry_seconds: 30,
            duty_gas_per_minute: 6_000_000,
            release_batch: 50,
            heartbeat_ttl_seconds: HEARTBEAT_TTL_SECONDS,
            withdraw_bounties_at: U256::from_limbs([10_000_000_000_000_000, 0, 0, 0]),
        }
    }

    const fn duty_limits(&self) -> DutyLimits {
        DutyLimits {
            retry_seconds: self.duty_retry_seconds,
            gas_per_minute: self.duty_gas_per_minute,
            release_batch: self.release_batch,
        }
    }
}

/// Something that may be forgotten; jobs say themselves when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Expiring {
    Session(SessionId),
    Blob(B256),
    Request(u64),
}

/// What a keeper's effect is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DutyTask {
    /// Jobs to release together, or one job.
    Jobs(Vec<JobId>),
    /// A session to give another worker.
    Session(SessionId),
}

/// Positions in the logs of what changed of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Positions {
    workers: u64,
    standings: u64,
    open_jobs: u64,
    health: u64,
}

/// Workers of which something changed, in any order and with repetitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed<'a> {
    pub(crate) workers: &'a [Address],
    pub(crate) standings: &'a [Address],
    pub(crate) open_jobs: &'a [Address],
    pub(crate) health: &'a [Address],
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
    /// How workers have been doing whose standing is not full, see [`crate::standing`]; also of those that left, because
    /// coming back does not wash it.
    standings: HashTable<Address, u32>,
    sessions: Table<SessionId, Session>,
    /// Sessions that are not closed, by who serves them.
    served: Table<(Address, SessionId), u8>,
    jobs: Jobs,
    speeds: HashTable<(Address, ModelId), Speed>,
    blobs: Table<B256, B256>,
    /// Sortition requests.
    requests: Table<u64, SessionRequest>,
    /// The same by who asked.
    asked: Table<(Address, u64), u8>,
    duties: Duties,
    bounties: Table<u8, Bounties>,
    /// When a withdrawal of bounties was last asked for, unix seconds.
    withdrawal_asked: Table<u8, u64>,
    expiries: Table<(u64, Expiring), u8>,
    /// Written by inputs only, so that it survives reverts.
    health: HashTable<Address, WorkerHealth>,
}

impl DispatchCore {
    /// An empty directory; the runner fills it from the journal.
    pub fn new(config: DispatchConfig) -> Self {
        Self {
            config,
            params: Table::new("params"),
            time: Table::new("time"),
            models: Table::new("models"),
            workers: Table::logged("workers"),
            standings: Table::logged("standings"),
            sessions: Table::new("sessions"),
            served: Table::new("served"),
            jobs: Jobs::new("jobs"),
            speeds: Table::new("speeds"),
            blobs: Table::new("blobs"),
            requests: Table::new("requests"),
            asked: Table::new("asked"),
            duties: Duties::new(),
            bounties: Table::new("bounties"),
            withdrawal_asked: Table::new("withdrawal asked"),
            expiries: Table::new("expiries"),
            health: Table::logged("health"),
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

    /// AIConfig's values, without which nobody can be judged.
    pub(crate) fn known_params(&self) -> Result<&ChainParams, DispatchError> {
        self.params().ok_or_else(|| DispatchError::Internal("AIConfig's parameters are not known yet".into()))
    }

    /// Where the logs of changes are.
    pub(crate) fn positions(&self) -> Positions {
        Positions {
            workers: self.workers.position(),
            standings: self.standings.position(),
            open_jobs: self.jobs.index().changed().position(),
            health: self.health.position(),
        }
    }

    /// Whose records, standings, open jobs and heartbeats changed since; `None` when it may be any worker's.
    pub(crate) fn changed_since(&self, read: &Positions) -> Option<Changed<'_>> {
        Some(Changed {
            workers: self.workers.changed_since(read.workers)?,
            standings: self.standings.changed_since(read.standings)?,
            open_jobs: self.jobs.index().changed().since(read.open_jobs)?,
            health: self.health.changed_since(read.health)?,
        })
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

    /// How many jobs the worker has that are submitted or acknowledged.
    pub fn open_jobs_of(&self, address: &Address) -> u64 {
        self.jobs.index().open_jobs_of(address)
    }

    /// How the worker has been doing, basis points by which its score counts in a draw: see [`crate::standing`].
    pub fn standing_of(&self, address: &Address) -> u32 {
        self.standings.get(address).copied().unwrap_or(FULL_STANDING)
    }

    /// How long the worker takes for each registered model it has completed jobs of.
    pub fn speeds_of(&self, address: &Address) -> impl Iterator<Item = (ModelId, Speed)> + '_ {
        let address = *address;
        self.models.iter().filter_map(move |(model, _)| Some((*model, *self.speeds.get(&(address, *model))?)))
    }

    /// One session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// A session's jobs that are still kept, oldest first.
    pub fn jobs_of(&self, session: SessionId) -> &[JobId] {
        self.jobs.index().of_session(&session)
    }

    /// Block time of a session's creation, newest job or newest keys, unix seconds.
    pub fn last_activity(&self, id: SessionId, session: &Session) -> u64 {
        let newest = self.jobs_of(id).last().and_then(|job| self.jobs.get(job));
        session.last_activity.max(newest.map_or(0, |job| job.submitted_at))
    }

    /// The sessions a worker serves that are not closed.
    pub fn sessions_served_by(&self, worker: Address) -> impl Iterator<Item = (SessionId, &Session)> {
        let ids = self.served.range((worker, SessionId(0))..=(worker, SessionId(u64::MAX)));
        ids.filter_map(|((_, id), _)| Some((*id, self.sessions.get(id)?)))
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// A job's identity across forks.
    pub fn subject(&self, id: JobId) -> Option<Subject> {
        self.jobs.get(&id).map(|job| job.subject(&self.config.deployment, id))
    }

    /// The type-3 transaction that carried a blob.
    pub fn blob_transaction(&self, versioned_hash: &B256) -> Option<B256> {
        self.blobs.get(versioned_hash).copied()
    }

    /// Whether this node performs keeper duties.
    pub const fn is_keeper(&self) -> bool {
        self.config.keeper
    }

    /// What the configured keeper account earned on this fork since the feed's first block.
    pub fn bounties(&self) -> Bounties {
        self.bounties.get(&0).copied().unwrap_or_default()
    }

    /// Keeper duties that wait for their time.
    pub fn planned_duties(&self) -> usize {
        self.duties.len()
    }

    /// Whether the registry's rules let the worker take jobs of the model: listed, staked, not suspended, model enabled.
    pub fn is_eligible(&self, worker: &Worker, model: &ModelId) -> bool {
        self.ineligible_because(worker, model).is_none()
    }

    /// Which of the registry's rules keeps the worker from jobs of the model; `None` when none does.
    pub fn ineligible_because(&self, worker: &Worker, model: &ModelId) -> Option<&'static str> {
        let Some(params) = self.params() else { return Some("AIConfig is not known yet") };
        if !worker.models.contains(model) {
            Some("does not list the model")
        } else if worker.suspended_until.is_some() {
            Some("suspended")
        } else if worker.stake < params.min_worker_stake {
            Some("stake below the minimum")
        } else if self.models.get(model).is_none_or(|m| !m.enabled) {
            Some("the model is not enabled")
        } else {
            None
        }
    }

    /// Jobs the worker can still take at `now` (unix seconds); `None` when its health is unknown.
    pub fn free_slots(&self, address: &Address, now: u64) -> Option<u64> {
        self.workers.get(address)?;
        match self.capacity(self.health.get(address), now) {
            Capacity::Jobs(most) => Some(u64::from(most).saturating_sub(self.open_jobs_of(address))),
            Capacity::Draining | Capacity::Unready => Some(0),
            Capacity::Stale | Capacity::Any => None,
        }
    }

    /// What a worker with this newest heartbeat takes at a time, unix seconds.
    pub(crate) fn capacity(&self, health: Option<&WorkerHealth>, now: u64) -> Capacity {
        let Some((health, params)) = health.zip(self.params()) else { return Capacity::Stale };
        if !self.is_heard_recently(health.heard_at, now) {
            Capacity::Stale
        } else if health.heartbeat.is_draining() {
            Capacity::Draining
        } else if !health.heartbeat.is_ready() {
            Capacity::Unready
        } else {
            let limit = u32::try_from(params.max_concurrent_jobs).unwrap_or(u32::MAX);
            Capacity::Jobs(limit.min(health.heartbeat.max_jobs))
        }
    }

    /// Whether a heartbeat that was heard at a time, unix seconds, still tells of its worker's health at `now`.
    pub(crate) const fn is_heard_recently(&self, heard_at: u64, now: u64) -> bool {
        now <= heard_at.saturating_add(self.config.heartbeat_ttl_seconds)
    }

    /// What the worker is doing, judged at the newest block's time; `None` for an account that is no worker.
    pub fn state_of(&self, address: &Address) -> Option<WorkerState> {
        if self.workers.get(address)?.suspended_until.is_some() {
            return Some(WorkerState::Jailed);
        }
        let capacity = self.capacity(self.health.get(address), self.block_time());
        Some(capacity.state(self.open_jobs_of(address)))
    }

    /// Plans what a session may need: another worker, while it is alive and its own may not serve it any more.
    fn plan_session(&mut self, id: SessionId) {
        if !self.config.keeper {
            return;
        }
        let plan = self.sessions.get(&id).filter(|session| self.needs_worker(id, session)).map(|_| Plan {
            duty: Duty::Reassign,
            after: self.block_time(),
            settle_from: None,
        });
        // A plan that stands keeps its time and its attempts.
        if plan.is_some() && self.duties.planned(&DutyKey::Session(id)).is_some() {
            return;
        }
        self.duties.plan(DutyKey::Session(id), plan);
    }

    fn needs_worker(&self, id: SessionId, session: &Session) -> bool {
        let Some(params) = self.params() else { return false };
        let idle_until = self.last_activity(id, session).saturating_add(params.session_inactivity_timeout);
        let served =
            self.workers.get(&session.worker).is_some_and(|w| self.is_eligible(w, &session.model_id));
        session.status != SessionStatus::Closed
            && !served
            && idle_until >= self.block_time()
            && session.reassign_count < params.max_reassignments
    }

    /// Asks for the duties that block time has made due: a duty ends only when the chain shows that it was done, by
    /// whomever.
    fn perform_duties(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        if !self.config.keeper {
            return Ok(());
        }
        let mut releases = Vec::new();
        for (key, duty) in self.duties.take(block.timestamp, &self.config.duty_limits()) {
            match key {
                DutyKey::Job(job) if duty == Duty::Release => releases.push(job),
                DutyKey::Job(job) => self.ask(block, duty, DutyTask::Jobs(vec![job]), effects)?,
                DutyKey::Session(id) if self.sessions.get(&id).is_some_and(|s| self.needs_worker(id, s)) => {
                    self.ask(block, duty, DutyTask::Session(id), effects)?;
                }
                DutyKey::Session(_) => self.duties.plan(key, None),
            }
        }
        releases.sort_unstable();
        for batch in releases.chunks(self.config.release_batch.max(1)) {
            self.ask(block, Duty::Release, DutyTask::Jobs(batch.to_vec()), effects)?;
        }
        Ok(())
    }

    fn ask(
        &self,
        block: &FeedBlock,
        duty: Duty,
        task: DutyTask,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let subject = self.duty_subject(&task);
        let (origin, head, again) = (block.block_ref(), EffectDepth::Head, OnRepeat::Again);
        effects.push(origin, subject, duty.action(), head, again, None, &task)
    }

    /// One job is its subject; several are the hash of theirs; a session is told apart from others under its number on
    /// other forks by its transaction, and from its own later reassignments by their count.
    fn duty_subject(&self, task: &DutyTask) -> B256 {
        let subject = |id: &JobId| self.subject(*id).map_or(B256::ZERO, |subject| subject.id());
        let mut hasher = Keccak256::new();
        match task {
            DutyTask::Jobs(jobs) => {
                if let [job] = jobs.as_slice() {
                    return subject(job);
                }
                hasher.update(b"lcai jobs");
                jobs.iter().for_each(|job| hasher.update(subject(job)));
            }
            DutyTask::Session(id) => {
                let session = self.sessions.get(id);
                hasher.update(b"lcai session");
                hasher.update(self.config.deployment.chain_id.to_be_bytes());
                hasher.update(self.config.deployment.job_registry);
                hasher.update(id.0.to_be_bytes());
                hasher.update(session.map(|s| s.create_transaction).unwrap_or_default());
                hasher.update(session.map_or(0, |s| s.reassign_count).to_be_bytes());
            }
        }
        hasher.finalize()
    }

    /// What may be needed by a dispute of a later job is kept for the retention period, then forgotten.
    fn expire(&mut self, block: &FeedBlock, what: Expiring) {
        self.expiries.insert((self.forgotten_after(block.timestamp), what), 0);
    }

    /// Block time after which what was needed at a time is not any more, both unix seconds.
    fn forgotten_after(&self, needed: u64) -> u64 {
        needed.saturating_add(self.params().map_or(u64::MAX, |p| p.blob_retention_period))
    }

    fn forget_expired(&mut self, block: &FeedBlock) {
        for (at, id) in self.jobs.tidy().1.take_expired(block.timestamp) {
            // One that ended another way since is kept longer.
            if self.jobs.get(&id).is_some_and(|job| job.forget_after == Some(at)) {
                self.forget_job(id);
            }
        }
        let due: Vec<_> =
            self.expiries.iter().map(|(key, _)| *key).take_while(|(at, _)| *at < block.timestamp).collect();
        for key in due {
            self.expiries.remove(&key);
            match key.1 {
                Expiring::Blob(hash) => {
                    self.blobs.remove(&hash);
                }
                Expiring::Session(id) => self.forget_session(block, id),
                Expiring::Request(id) => self.forget_request(id),
            }
        }
    }

    /// A session is kept while it was active within the retention period.
    fn forget_session(&mut self, block: &FeedBlock, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let until = self.forgotten_after(self.last_activity(id, session));
        if until >= block.timestamp {
            self.expiries.insert((until, Expiring::Session(id)), 0);
            return;
        }
        if let Some(session) = self.sessions.remove(&id) {
            self.served.remove(&(session.worker, id));
            self.duties.plan(DutyKey::Session(id), None);
        }
    }

    /// Sessions whose worker may have stopped or begun to be able to serve them.
    fn plan_sessions(&mut self, everyone: bool, workers: &BTreeSet<Address>) {
        let ids: Vec<SessionId> = if everyone {
            self.served.iter().map(|((_, id), _)| *id).collect()
        } else {
            workers.iter().flat_map(|worker| self.sessions_served_by(*worker)).map(|(id, _)| id).collect()
        };
        for id in ids {
            self.plan_session(id);
        }
    }
}

impl Extension for DispatchCore {
    const NAME: &'static str = "dispatch";
    const VERSION: u32 = 4;

    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        self.time.insert(0, block.timestamp);
        let index = BlockIndex::new(block, &self.config.deployment);
        let mut touched = Touched::of(block, &self.config.deployment);
        let configured =
            params_calls(&self.config.deployment).first().is_some_and(|call| index.get(call).is_some());
        if self.params().is_none() && configured {
            touched.config = true;
            touched.models.extend(self.config.known_models.iter().copied());
        }
        if touched.config {
            self.apply_params(&index)?;
        }
        for model in &touched.models {
            self.apply_model(&index, *model)?;
        }
        for worker in &touched.workers {
            self.apply_worker(&index, *worker)?;
        }
        self.apply_worker_models(&index);
        for session in touched.sessions {
            self.apply_session(&index, session)?;
        }
        for request in touched.requests {
            self.apply_request(&index, request)?;
        }
        for job in index.touched_jobs() {
            self.apply_job(&index, &job, effects)?;
        }
        self.plan_sessions(touched.config || !touched.models.is_empty(), &touched.workers);
        self.count_bounties(block);
        for blob in &block.blobs {
            self.blobs.insert(blob.versioned_hash, blob.transaction_hash);
            self.expire(block, Expiring::Blob(blob.versioned_hash));
        }
        self.perform_duties(block, effects)?;
        self.withdraw_bounties(block, effects)?;
        self.forget_expired(block);
        Ok(())
    }

    fn input(&mut self, _at: BlockRef, input: &[u8], _effects: &mut Effects) -> Result<(), CoreError> {
        let (worker, mut health): (Address, WorkerHealth) =
            postcard::from_bytes(input).map_err(|e| CoreError::BadInput(e.to_string()))?;
        let age = |health: &WorkerHealth| (health.heartbeat.sent_at, health.heartbeat.sequence);
        if self.health.get(&worker).is_none_or(|known| age(&health) > age(known)) {
            health.heard_at = health.heartbeat.sent_at.max(self.block_time());
            self.health.insert(worker, health);
        }
        Ok(())
    }

    fn tables(&mut self) -> Vec<&mut dyn AnyTable> {
        let [duties, gas] = self.duties.tables();
        vec![
            &mut self.params,
            &mut self.time,
            &mut self.models,
            &mut self.workers,
            &mut self.standings,
            &mut self.sessions,
            &mut self.served,
            &mut self.jobs,
            &mut self.speeds,
            &mut self.blobs,
            &mut self.requests,
            &mut self.asked,
            duties,
            gas,
            &mut self.bounties,
            &mut self.withdrawal_asked,
            &mut self.expiries,
            &mut self.health,
        ]
    }
}
