//! What the node knows of the chain, in the shapes that cross the wire.

use crate::{
    account_index::AccountIndex,
    error::LcaiError,
    session_view::{JobView, SessionParties, SessionView},
    types::{
        AuthorizationRequest, BlockId, DrawCandidate, DrawFacts, DrawReport, DrawnWorkerInfo, HeartbeatProof,
        JobInfo, JobTransactions, KeeperEarnings, ModelInfo, ModelSpeed, ReassignmentOffer,
        ReassignmentRequest, SessionAuthorizationGrant, SessionInfo, SessionOffer, SessionRequestInfo,
        WorkerInfo,
    },
};
use alloy_primitives::Address;
use async_trait::async_trait;
use lcai_exex_dispatch::{
    AuthorizationFields, DispatchCore, DispatchError, DispatchService, DrawRecord, Job, Offer, Session,
    SessionRequest, WorkerState,
};
use lcai_host::{BlockRef, ExtensionHandle};
use lcai_primitives::{
    contracts::{JobState, RequestStatus, SessionStatus},
    eip712::Heartbeat,
    ids::{JobId, ModelId, SessionId, Subject},
    params::ChainParams,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// Everything `lcai_*` reads of the chain and asks of dispatch. Reads answer from memory.
#[async_trait]
pub trait Directory: SessionView {
    /// AIConfig's values; `None` before the first block.
    fn params(&self) -> Option<ChainParams>;
    /// Every model.
    fn models(&self) -> Vec<ModelInfo>;
    /// Every registered worker.
    fn workers(&self) -> Vec<WorkerInfo>;
    /// A session.
    fn session_info(&self, id: SessionId) -> Option<SessionInfo>;
    /// A job and its subject.
    fn job_info(&self, id: JobId) -> Option<(JobInfo, Subject)>;
    /// An account's sessions below an id, newest first.
    fn sessions_of(&self, account: Address, before: Option<SessionId>, limit: usize) -> Vec<SessionInfo>;
    /// An account's jobs below an id, newest first.
    fn jobs_of(&self, account: Address, before: Option<JobId>, limit: usize) -> Vec<JobInfo>;
    /// A sortition request.
    fn session_request(&self, _id: u64) -> Option<SessionRequestInfo> {
        None
    }
    /// An account's newest sortition requests, newest first.
    fn requests_of(&self, _account: Address, _limit: usize) -> Vec<SessionRequestInfo> {
        Vec::new()
    }
    /// A worker's submitted and acknowledged jobs, newest first.
    fn open_jobs_of(&self, worker: Address, limit: usize) -> Vec<JobInfo>;
    /// The newest block that everything here reflects, as it changes.
    fn head(&self) -> watch::Receiver<Option<BlockRef>>;
    /// What this node's keeper has earned; `None` where it is no keeper.
    fn keeper(&self) -> Option<KeeperEarnings> {
        None
    }
    /// Whether this node has the dispatcher's key.
    fn can_authorize(&self) -> bool;
    /// Draws a worker.
    async fn request_session(&self, model: ModelId, user: Address) -> Result<SessionOffer, LcaiError>;
    /// Signs an authorization for a caller that is proven to be the user.
    async fn authorize(&self, request: AuthorizationRequest) -> Result<SessionAuthorizationGrant, LcaiError>;
    /// Whom to wrap a reassigned session's key for.
    async fn request_reassignment(&self, session: SessionId) -> Result<ReassignmentOffer, LcaiError>;
    /// Signs new keys for a session, for a caller that is proven to be `user`.
    async fn authorize_reassignment(
        &self,
        user: Address,
        request: ReassignmentRequest,
    ) -> Result<SessionAuthorizationGrant, LcaiError>;
    /// The draw that a session was authorized by; `None` where none is kept.
    async fn draw_of(&self, _session: SessionId) -> Result<Option<DrawReport>, LcaiError> {
        Ok(None)
    }
    /// Takes a worker's heartbeat.
    async fn heartbeat(&self, heartbeat: Heartbeat, signature: &[u8]) -> Result<(), LcaiError>;
}

/// The dispatch extension's view.
#[derive(Debug)]
pub struct DispatchDirectory {
    core: ExtensionHandle<DispatchCore>,
    service: Arc<DispatchService>,
    names: BTreeMap<ModelId, String>,
    indexes: Mutex<Indexes>,
}

/// Ids by account: sessions and jobs by user, jobs by worker.
#[derive(Debug, Default)]
struct Indexes {
    sessions: AccountIndex,
    jobs: AccountIndex,
    work: AccountIndex,
}

impl Indexes {
    fn refresh(&mut self, core: &DispatchCore, tip: u64) {
        let sessions = core.sessions_from(SessionId(self.sessions.resume()));
        self.sessions.refresh(sessions.map(|(id, s)| (id.0, s.user, s.created_in.number)), tip);
        let jobs = || core.jobs_from(JobId(self.jobs.resume())).map(|(id, job)| (id.0, job));
        let (users, workers): (Vec<_>, Vec<_>) = jobs()
            .map(|(id, j)| ((id, j.user, j.submitted_in.number), (id, j.worker, j.submitted_in.number)))
            .unzip();
        self.jobs.refresh(users.into_iter(), tip);
        self.work.refresh(workers.into_iter(), tip);
    }
}

impl DispatchDirectory {
    /// `names` are the model names the operator knows; the chain only has their hashes.
    pub fn new(service: Arc<DispatchService>, names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().map(|name| (ModelId::from_name(&name), name)).collect();
        Self { core: service.core().clone(), service, names, indexes: Mutex::default() }
    }

    /// The records under an account's newest ids, and the ids that have none any more dropped.
    fn indexed<T>(
        &self,
        index: impl Fn(&mut Indexes) -> &mut AccountIndex,
        (owner, before, limit): (Address, Option<u64>, usize),
        record: impl Fn(&DispatchCore, u64) -> Indexed<T>,
    ) -> Vec<T> {
        let mut indexes = self.indexes.lock();
        self.core.read_at(|core, at| {
            indexes.refresh(core, at.map_or(0, |block| block.number));
            let index = index(&mut indexes);
            let (mut found, mut gone) = (Vec::new(), Vec::new());
            for id in index.newest(owner, before) {
                match record(core, id) {
                    Indexed::Record(record) => found.push(record),
                    Indexed::Other => {}
                    Indexed::Gone => gone.push(id),
                }
                if found.len() >= limit {
                    break;
                }
            }
            index.forget(owner, &gone);
            found
        })
    }
}

/// What is under an indexed id.
enum Indexed<T> {
    Record(T),
    /// Something that is not asked for.
    Other,
    Gone,
}

impl SessionView for DispatchDirectory {
    fn session(&self, id: SessionId) -> Option<SessionParties> {
        self.core.read(|core| {
            core.session(id).map(|s| SessionParties {
                user: s.user,
                worker: s.worker,
                create_transaction: s.create_transaction,
            })
        })
    }

    fn job(&self, id: JobId) -> Option<JobView> {
        self.core.read(|core| {
            core.job(id).map(|job| JobView {
                subject: job.subject(core.deployment(), id),
                worker: job.worker,
                state: job.state,
                response_ciphertext_hash: job.response_ciphertext_hash,
            })
        })
    }
}

#[async_trait]
impl Directory for DispatchDirectory {
    fn params(&self) -> Option<ChainParams> {
        self.core.read(|core| core.params().cloned())
    }

    fn keeper(&self) -> Option<KeeperEarnings> {
        self.core.read(|core| {
            let bounties = core.bounties();
            core.is_keeper().then(|| KeeperEarnings {
                timeouts: bounties.timeouts,
                releases: bounties.releases,
                kept: bounties.kept,
                withdrawn: bounties.withdrawn,
                planned: core.planned_duties() as u64,
            })
        })
    }

    fn models(&self) -> Vec<ModelInfo> {
        self.core.read(|core| {
            // As draws judge it.
            let now = core.block_time();
            core.models()
                .map(|(id, model)| {
                    let eligible: Vec<_> = core.workers().filter(|(_, w)| core.is_eligible(w, &id)).collect();
                    ModelInfo {
                        id,
                        name: self.names.get(&id).cloned(),
                        fee: model.fee,
                        max_output_tokens: model.max_output_tokens,
                        enabled: model.enabled,
                        eligible_workers: eligible.len() as u64,
                        free_slots: eligible
                            .iter()
                            .filter_map(|(address, _)| core.free_slots(address, now))
                            .sum(),
                    }
                })
                .collect()
        })
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        self.core.read(|core| {
            let now = core.block_time();
            core.workers()
                .map(|(address, worker)| WorkerInfo {
                    address: *address,
                    stake: worker.stake,
                    models: worker.models.iter().copied().filter(|id| core.is_eligible(worker, id)).collect(),
                    open_jobs: core.open_jobs_of(address),
                    free_slots: core.free_slots(address, now),
                    last_heartbeat: core.health_of(address).map(|h| h.heartbeat.sent_at),
                    suspended_until: worker.suspended_until,
                    state: core.state_of(address).map_or("stale", WorkerState::name).to_owned(),
                    standing_bps: core.standing_of(address),
                    speeds: core
                        .speeds_of(address)
                        .map(|(model_id, s)| ModelSpeed { model_id, jobs: s.jobs, mean_ms: s.mean_ms })
                        .collect(),
                })
                .collect()
        })
    }

    fn session_info(&self, id: SessionId) -> Option<SessionInfo> {
        self.core.read(|core| core.session(id).map(|session| session_info(core, id, session)))
    }

    fn job_info(&self, id: JobId) -> Option<(JobInfo, Subject)> {
        self.core.read(|core| {
            core.job(id).map(|job| (job_info(core, id, job), job.subject(core.deployment(), id)))
        })
    }

    fn sessions_of(&self, account: Address, before: Option<SessionId>, limit: usize) -> Vec<SessionInfo> {
        self.indexed(
            |i| &mut i.sessions,
            (account, before.map(u64::from), limit),
            |core, id| match core.session(SessionId(id)) {
                Some(session) if session.user == account => {
                    Indexed::Record(session_info(core, SessionId(id), session))
                }
                _ => Indexed::Gone,
            },
        )
    }

    fn jobs_of(&self, account: Address, before: Option<JobId>, limit: usize) -> Vec<JobInfo> {
        self.indexed(
            |i| &mut i.jobs,
            (account, before.map(u64::from), limit),
            |core, id| match core.job(JobId(id)) {
                Some(job) if job.user == account => Indexed::Record(job_info(core, JobId(id), job)),
                _ => Indexed::Gone,
            },
        )
    }

    fn session_request(&self, id: u64) -> Option<SessionRequestInfo> {
        self.core.read(|core| core.request(id).map(|request| request_info(core, id, request)))
    }

    fn requests_of(&self, account: Address, limit: usize) -> Vec<SessionRequestInfo> {
        self.core.read(|core| {
            let newest = core.requests_of(account).rev().take(limit);
            newest.map(|(id, request)| request_info(core, id, request)).collect()
        })
    }

    fn open_jobs_of(&self, worker: Address, limit: usize) -> Vec<JobInfo> {
        self.indexed(
            |i| &mut i.work,
            (worker, None, limit),
            |core, id| match core.job(JobId(id)) {
                Some(job) if job.worker == worker && job.is_open() => {
                    Indexed::Record(job_info(core, JobId(id), job))
                }
                // A completed job may be open again after a reorganisation.
                Some(job) if job.worker == worker && !is_settled(job.state) => Indexed::Other,
                _ => Indexed::Gone,
            },
        )
    }

    fn head(&self) -> watch::Receiver<Option<BlockRef>> {
        self.core.cursor()
    }

    fn can_authorize(&self) -> bool {
        self.service.can_authorize()
    }

    async fn request_session(&self, model: ModelId, user: Address) -> Result<SessionOffer, LcaiError> {
        self.service.request_session(model, user).await.map(offer).map_err(refusal)
    }

    async fn authorize(&self, request: AuthorizationRequest) -> Result<SessionAuthorizationGrant, LcaiError> {
        let fields = AuthorizationFields {
            user: request.user,
            model_id: request.model_id,
            worker: request.worker,
            enc_worker_key: request.enc_worker_key,
            enc_disputer_key: request.enc_disputer_key,
            nonce: request.nonce,
        };
        let grant = self.service.authorize(&fields).await.map_err(refusal)?;
        Ok(SessionAuthorizationGrant { signature: grant.signature, expiry: grant.expiry })
    }

    async fn request_reassignment(&self, session: SessionId) -> Result<ReassignmentOffer, LcaiError> {
        let offer = self.service.request_reassignment(session).await.map_err(refusal)?;
        Ok(ReassignmentOffer {
            session_id: session,
            user: offer.user,
            worker: offer.worker,
            worker_encryption_key: offer.worker_encryption_key,
            disputer_encryption_key: offer.disputer_encryption_key,
            nonce: offer.nonce,
        })
    }

    async fn authorize_reassignment(
        &self,
        user: Address,
        request: ReassignmentRequest,
    ) -> Result<SessionAuthorizationGrant, LcaiError> {
        let model_id = self.core.read(|core| core.session(request.session_id).map(|s| s.model_id));
        let fields = AuthorizationFields {
            user,
            model_id: model_id.unwrap_or_default(),
            worker: request.worker,
            enc_worker_key: request.enc_worker_key,
            enc_disputer_key: request.enc_disputer_key,
            nonce: request.nonce,
        };
        let grant =
            self.service.authorize_reassignment(request.session_id, &fields).await.map_err(refusal)?;
        Ok(SessionAuthorizationGrant { signature: grant.signature, expiry: grant.expiry })
    }

    async fn draw_of(&self, session: SessionId) -> Result<Option<DrawReport>, LcaiError> {
        let record = self.service.draw_of(session).await.map_err(refusal)?;
        Ok(record.map(|record| draw_report(session, record)))
    }

    async fn heartbeat(&self, heartbeat: Heartbeat, signature: &[u8]) -> Result<(), LcaiError> {
        self.service.heartbeat(heartbeat, signature).await.map_err(refusal)
    }
}

fn refusal(error: DispatchError) -> LcaiError {
    let text = error.to_string();
    match error {
        DispatchError::UnknownModel(_) => LcaiError::UnknownModel(text),
        DispatchError::NoWorker(_) => LcaiError::NoWorker(text),
        DispatchError::Refused(_) => LcaiError::AuthorizationRefused(text),
        DispatchError::Unauthorized(_) => LcaiError::Unauthorized(text),
        DispatchError::Stale(_) => LcaiError::Expired(text),
        DispatchError::Unavailable(_) => LcaiError::NotOffered(text),
        DispatchError::Internal(_) => LcaiError::Internal(text),
    }
}

impl From<BlockRef> for BlockId {
    fn from(block: BlockRef) -> Self {
        Self { number: block.number, hash: block.hash }
    }
}

fn offer(offer: Offer) -> SessionOffer {
    let candidates = offer.candidates.into_iter().map(|c| DrawCandidate {
        worker: c.worker,
        stake: c.stake,
        reputation: c.reputation,
        open_jobs: c.open_jobs,
    });
    SessionOffer {
        user: offer.user,
        model_id: offer.model_id,
        worker: offer.worker,
        worker_encryption_key: offer.worker_encryption_key,
        disputer_encryption_key: offer.disputer_encryption_key,
        nonce: offer.nonce,
        fee: offer.fee,
        facts: DrawFacts {
            block: offer.block.into(),
            stake_cap: offer.stake_cap,
            candidates: candidates.collect(),
        },
    }
}

fn request_info(core: &DispatchCore, id: u64, request: &SessionRequest) -> SessionRequestInfo {
    let status = match request.status_at(core.block_time()) {
        RequestStatus::Open => "open",
        RequestStatus::Claimed => "claimed",
        RequestStatus::Ready => "ready",
        RequestStatus::Expired => "expired",
    };
    SessionRequestInfo {
        id,
        user: request.user,
        model_id: request.model_id,
        request_block: request.request_block,
        expiry: request.expiry,
        status: status.to_owned(),
        worker: request.worker,
        session_id: request.session,
        transaction: request.transaction,
    }
}

fn draw_report(session_id: SessionId, record: DrawRecord) -> DrawReport {
    let DrawRecord { user, nonce, worker, snapshot } = record;
    let workers = snapshot.workers.iter().map(|w| DrawnWorkerInfo {
        worker: w.worker,
        stake: w.stake,
        score: w.score,
        standing_bps: w.standing_bps,
        reputation: w.reputation(),
        open_jobs: w.open_jobs,
        heartbeat: w.heartbeat.as_ref().map(HeartbeatProof::from),
        why_not: w.why_not.as_deref().map(str::to_owned),
    });
    DrawReport {
        session_id,
        user,
        model_id: snapshot.model_id,
        nonce,
        worker,
        block: snapshot.block.into(),
        block_time: snapshot.block_time,
        stake_cap: snapshot.stake_cap,
        workers: workers.collect(),
    }
}

fn session_info(core: &DispatchCore, id: SessionId, session: &Session) -> SessionInfo {
    SessionInfo {
        id,
        user: session.user,
        model_id: session.model_id,
        worker: session.worker,
        status: session_status(session.status).into(),
        jobs: core.jobs_of(id).to_vec(),
        create_transaction: session.create_transaction,
    }
}

fn job_info(core: &DispatchCore, id: JobId, job: &Job) -> JobInfo {
    JobInfo {
        id,
        session_id: job.session_id,
        user: job.user,
        worker: job.worker,
        state: job_state(job.state).into(),
        escrowed_fee: job.escrowed_fee,
        prompt_blob_hash: job.prompt_blob_hash,
        response_blob_hash: job.response_blob_hash,
        response_ciphertext_hash: job.response_ciphertext_hash,
        deadline: job.deadline,
        transactions: JobTransactions {
            submit: job.submit_tx,
            acknowledge: job.ack_tx,
            complete: job.complete_tx,
            settle: job.settle_tx,
            prompt_blob: core.blob_transaction(&job.prompt_blob_hash),
            response_blob: job.response_blob_hash.and_then(|hash| core.blob_transaction(&hash)),
        },
        submitted_in: job.submitted_in.into(),
        completed_in: job.completed_in.map(Into::into),
    }
}

const fn is_settled(state: JobState) -> bool {
    matches!(state, JobState::TimedOut | JobState::Resolved | JobState::Released)
}

const fn session_status(status: SessionStatus) -> &'static str {
    match status {
        SessionStatus::Active => "active",
        SessionStatus::Reassigning => "reassigning",
        SessionStatus::Closed => "closed",
    }
}

const fn job_state(state: JobState) -> &'static str {
    match state {
        JobState::Submitted => "submitted",
        JobState::Acknowledged => "acknowledged",
        JobState::Completed => "completed",
        JobState::TimedOut => "timedOut",
        JobState::Disputed => "disputed",
        JobState::Resolved => "resolved",
        JobState::Released => "released",
    }
}
