//! The node's side of `lcai_*`.

use crate::{
    api::LcaiApiServer,
    blobs::BlobService,
    caller::{check_proof, check_reassignment_proof},
    directory::Directory,
    error::LcaiError,
    limits::{AccountLimiter, Rate},
    openrpc,
    operator::LcaiOperator,
    relay::{FrameReader, Relay, envelopes},
    streams::{Ending, Streams},
    tokens::TokenIssuer,
    types::{
        AuthorizationRequest, BlobQuota, BlockHint, BlockId, CallerProof, Challenge, DisputeEvidence,
        DrawReport, ExtensionHealth, FrameReceipt, Health, JobInfo, JobReceipt, Login, ModelInfo,
        NetworkInfo, PublishedBlob, ReassignmentOffer, ReassignmentRequest, SessionAuthorizationGrant,
        SessionInfo, SessionOffer, SessionRequestInfo, Versions, WorkerInfo,
    },
    unix_now,
    upstream::{Offers, Upstream},
    watch::{AccountWatch, NetworkWatch, Networks, WorkWatch},
};
use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use jsonrpsee::{
    PendingSubscriptionSink,
    core::{RpcResult, SubscriptionResult},
};
use lcai_blob::BlobHint;
use lcai_host::{Extension, ExtensionHandle, FailedTask, FeedState, Heads};
use lcai_primitives::{
    contracts::{Deployment, JobRegistry},
    eip712::Heartbeat,
    frames::{Envelope, Frame},
    ids::{JobId, ModelId, SessionId},
    quantity::Quantity,
};
use serde_json::value::RawValue;
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Longest wait of `lcai_pollFrames`, milliseconds.
pub const MAX_POLL_MS: u64 = 30_000;
/// Shortest wait, milliseconds.
const MIN_POLL_MS: u64 = 100;
/// Longest model name taken, bytes.
const MAX_MODEL_NAME: usize = 256;
/// Records of a page of `lcai_getSessions` and `lcai_getJobs`: when nothing is asked for, and at most.
const PAGE: u64 = 100;
const MAX_PAGE: u64 = 1_000;
/// Blocks an extension or the feed may be behind in a healthy node.
const HEALTHY_LAG: u64 = 8;

/// An extension as `lcai_health` shows it.
pub trait ExtensionStatus: Send + Sync {
    /// Its state now.
    fn status(&self) -> ExtensionHealth;
}

impl<E: Extension> ExtensionStatus for ExtensionHandle<E> {
    fn status(&self) -> ExtensionHealth {
        let stopped = self.stopped().borrow().clone();
        ExtensionHealth {
            name: E::NAME.into(),
            cursor: self.cursor().borrow().map(Into::into),
            halted: stopped.or_else(|| self.halted()),
        }
    }
}

/// Rates and times of the namespace.
#[derive(Debug, Clone, Copy)]
pub struct RpcSettings {
    /// Frames one account may give.
    pub frames: Rate,
    /// Calls with a token one account may make.
    pub calls: Rate,
    /// Accounts told apart by the rates at a time.
    pub max_accounts: usize,
    /// How long a subscription's connection may take no message before it is cut.
    pub slow_reader: Duration,
    /// Subscriptions to accounts, work and the network at once, of all connections.
    pub max_watchers: usize,
}

impl Default for RpcSettings {
    fn default() -> Self {
        Self {
            frames: Rate { per_second: 200.0, burst: 4_000.0 },
            calls: Rate { per_second: 200.0, burst: 2_000.0 },
            max_accounts: 10_000,
            slow_reader: Duration::from_secs(10),
            max_watchers: 4_000,
        }
    }
}

/// What the namespace is made of.
pub struct RpcParts {
    /// The contracts and the chain id.
    pub deployment: Deployment,
    /// Version of the node's software, for `lcai_network` and `lcai_health`.
    pub version: String,
    /// The disputer's P-256 key, 65 bytes uncompressed, or empty.
    pub disputer_encryption_key: Bytes,
    /// What is known of the chain.
    pub directory: Arc<dyn Directory>,
    /// The feed, from [`lcai_host::FeedWriter::subscribe`].
    pub feed: watch::Receiver<FeedState>,
    /// The client's heads, read beside the feed, which can be dead: from [`lcai_host::Watchdog::heads`].
    pub heads: watch::Receiver<Option<Heads>>,
    /// The first task that was given up, from [`lcai_host::Supervisor::failed`].
    pub failed: watch::Receiver<Option<FailedTask>>,
    /// The extensions `lcai_health` reports on.
    pub extensions: Vec<Arc<dyn ExtensionStatus>>,
    /// Frames.
    pub relay: Arc<Relay>,
    /// Logins.
    pub tokens: Arc<TokenIssuer>,
    /// Blobs.
    pub blobs: BlobService,
    /// The node that calls are handed on to ([`Upstream::take_over`]), if any.
    pub upstream: Option<Upstream>,
    /// Rates and times.
    pub settings: RpcSettings,
}

impl fmt::Debug for RpcParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcParts").field("deployment", &self.deployment).finish_non_exhaustive()
    }
}

/// The namespace. [`LcaiApiServer::into_rpc`] makes a module that any jsonrpsee server takes.
pub struct LcaiRpc {
    parts: RpcParts,
    frames: AccountLimiter,
    calls: AccountLimiter,
    streams: Streams,
    networks: Arc<Networks>,
}

impl fmt::Debug for LcaiRpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LcaiRpc").field("deployment", &self.parts.deployment).finish_non_exhaustive()
    }
}

impl LcaiRpc {
    /// Puts the parts together.
    pub fn new(parts: RpcParts) -> Self {
        let settings = parts.settings;
        Self {
            frames: AccountLimiter::new(settings.frames, settings.max_accounts),
            calls: AccountLimiter::new(settings.calls, settings.max_accounts),
            streams: Streams::new(settings.slow_reader, settings.max_watchers),
            networks: Arc::default(),
            parts,
        }
    }

    /// The methods for the operator alone, to be served where only the operator comes.
    pub fn operator(&self) -> LcaiOperator {
        let (relay, tokens) = (Arc::clone(&self.parts.relay), Arc::clone(&self.parts.tokens));
        let directory = Arc::clone(&self.parts.directory);
        LcaiOperator::new(relay, tokens, self.parts.extensions.clone(), directory)
    }

    /// The account of a token, within its rate, and when the token's subscriptions end.
    fn account(&self, token: &str) -> Result<(Address, Ending), LcaiError> {
        let ended = self.parts.tokens.ended();
        let now = unix_now();
        let (account, expiry) = self.parts.tokens.check(token, now)?;
        self.calls.take(account, 1.0)?;
        Ok((account, Ending::of_token(expiry, now, ended)))
    }

    async fn reader(
        &self,
        token: &str,
        session: SessionId,
        cursor: Quantity,
    ) -> Result<(FrameReader, Ending), LcaiError> {
        let (account, ending) = self.account(token)?;
        Ok((self.parts.relay.read(account, session, cursor.0).await?, ending))
    }

    fn network_info(&self) -> Result<NetworkInfo, LcaiError> {
        let not_yet = || LcaiError::NotYet("the node has not read its first block yet".into());
        let params = self.parts.directory.params().ok_or_else(not_yet)?;
        let feed = *self.parts.feed.borrow();
        let heads = feed.heads;
        Ok(NetworkInfo {
            version: self.parts.version.clone(),
            deployment: self.parts.deployment,
            params,
            disputer_encryption_key: self.parts.disputer_encryption_key.clone(),
            head: feed.tip.ok_or_else(not_yet)?.into(),
            safe: heads.and_then(|h| h.safe).map(Into::into),
            finalized: heads.and_then(|h| h.finalized).map(Into::into),
            dispatcher: self.parts.directory.can_authorize(),
            publishes_blobs: self.parts.blobs.publishes(),
        })
    }

    fn health_info(&self) -> Health {
        let feed = *self.parts.feed.borrow();
        let seen = *self.parts.heads.borrow();
        // Either can be older: a dead feed tells no heads, and the watchdog looks every few seconds only.
        let heads = feed.heads.into_iter().chain(seen).map(|heads| heads.head);
        let chain_head: Option<BlockId> = heads.max_by_key(|head| head.number).map(Into::into);
        let feed_tip: Option<BlockId> = feed.tip.map(Into::into);
        let extensions: Vec<_> = self.parts.extensions.iter().map(|e| e.status()).collect();
        let reason = self.fault(chain_head, feed_tip, &extensions);
        Health {
            version: self.parts.version.clone(),
            healthy: reason.is_none(),
            reason,
            chain_head,
            feed_tip,
            extensions,
            subscribers: self.parts.relay.sessions_read() as u64,
        }
    }

    /// What is wrong with the node, what explains the rest first.
    fn fault(
        &self,
        head: Option<BlockId>,
        tip: Option<BlockId>,
        extensions: &[ExtensionHealth],
    ) -> Option<String> {
        if let Some(FailedTask { task, reason }) = self.parts.failed.borrow().as_ref() {
            return Some(format!("task {task} was given up: {reason}"));
        }
        let Some(head) = head else { return Some("the client's head is not known yet".into()) };
        let behind = |what: &str, block: Option<BlockId>| match block {
            Some(block) if block.number.saturating_add(HEALTHY_LAG) >= head.number => None,
            Some(block) => {
                Some(format!("{what} is at block {}, the client at {}", block.number, head.number))
            }
            None => Some(format!("{what} has no block yet, the client is at {}", head.number)),
        };
        behind("the feed", tip).or_else(|| {
            extensions.iter().find_map(|extension| {
                let what = format!("extension {}", extension.name);
                let halted = extension.halted.as_ref().map(|why| format!("{what} is halted: {why}"));
                halted.or_else(|| behind(&what, extension.cursor))
            })
        })
    }

    async fn receipt(&self, id: JobId) -> Result<JobReceipt, LcaiError> {
        let (job, subject) = self.parts.directory.job_info(id).ok_or_else(|| no_job(id))?;
        let relayed = self.parts.relay.terminal(subject.id()).await?;
        let (terminal, ciphertext) = relayed.map_or((None, None), |(t, c)| (Some(t), c));
        Ok(JobReceipt {
            job,
            chain_id: self.parts.deployment.chain_id,
            job_registry: self.parts.deployment.job_registry,
            response_signature: terminal.as_ref().map(|t| Bytes::copy_from_slice(&t.signature)),
            relayed_ciphertext_hash: terminal.map(|t| t.ciphertext_hash),
            ciphertext: ciphertext.map(Into::into),
        })
    }

    async fn evidence(&self, id: JobId) -> Result<DisputeEvidence, LcaiError> {
        let receipt = self.receipt(id).await?;
        let none = |why: &str| LcaiError::NotFound(format!("there is no evidence against job {id}: {why}"));
        let committed_hash = receipt
            .job
            .response_ciphertext_hash
            .ok_or_else(|| none("it is not completed, so nothing is committed"))?;
        let signature =
            receipt.response_signature.ok_or_else(|| none("no signed answer passed this node"))?;
        let ciphertext = receipt.ciphertext.ok_or_else(|| none("the signed answer is no longer kept"))?;
        let signed_hash = keccak256(&ciphertext);
        if signed_hash == committed_hash {
            return Err(none("the worker committed the answer it signed"));
        }
        let signature = contract_signature(&signature);
        let call = JobRegistry::disputeResponseMismatchCall {
            jobId: id.word(),
            ciphertext: ciphertext.clone(),
            signature: signature.clone(),
        };
        Ok(DisputeEvidence {
            job_id: id,
            session_id: receipt.job.session_id,
            worker: receipt.job.worker,
            ciphertext,
            signature,
            signed_hash,
            committed_hash,
            to: receipt.job_registry,
            data: call.abi_encode().into(),
        })
    }

    fn session_user(&self, session: SessionId) -> Result<Address, LcaiError> {
        let parties = self.parts.directory.session(session);
        parties.map(|p| p.user).ok_or_else(|| LcaiError::NotFound(format!("there is no session {session}")))
    }
}

fn no_job(id: JobId) -> LcaiError {
    LcaiError::NotFound(format!("there is no job {id} on the chain as far as this node sees"))
}

/// A worker's v is 0 or 1, the contract takes 27 or 28 (live wire format, section 6.1).
fn contract_signature(signature: &[u8]) -> Bytes {
    let mut bytes = signature.to_vec();
    if let Some(v) = bytes.last_mut().filter(|v| **v < 27) {
        *v += 27;
    }
    bytes.into()
}

/// How many records a page has.
fn page(limit: Option<Quantity>) -> Result<usize, LcaiError> {
    match limit.map_or(PAGE, |limit| limit.0) {
        limit @ 1..=MAX_PAGE => Ok(limit as usize),
        limit => Err(LcaiError::InvalidParams(format!("limit is 1 to {MAX_PAGE}, not {limit}"))),
    }
}

#[async_trait]
impl LcaiApiServer for LcaiRpc {
    async fn network(&self) -> RpcResult<NetworkInfo> {
        let network = self.network_info()?;
        // What is handed on is offered here as it is there.
        let offers = match &self.parts.upstream {
            Some(upstream) => upstream.offers().await,
            None => None,
        };
        Ok(offers.map_or(network.clone(), |Offers { dispatcher, publishes_blobs }| NetworkInfo {
            dispatcher,
            publishes_blobs,
            ..network
        }))
    }

    async fn models(&self) -> RpcResult<Vec<ModelInfo>> {
        Ok(self.networks.now(self.parts.directory.as_ref()).models.clone())
    }

    async fn workers(&self) -> RpcResult<Vec<WorkerInfo>> {
        Ok(self.networks.now(self.parts.directory.as_ref()).workers.clone())
    }

    async fn versions(&self) -> RpcResult<Versions> {
        Ok(Versions {
            node: self.parts.version.clone(),
            api: openrpc::API_VERSION.into(),
            deployment: self.parts.deployment,
        })
    }

    async fn health(&self) -> RpcResult<Health> {
        Ok(self.health_info())
    }

    async fn request_session(&self, model: String, user: Address) -> RpcResult<SessionOffer> {
        if model.len() > MAX_MODEL_NAME {
            let text = format!("a model name is at most {MAX_MODEL_NAME} bytes, this has {}", model.len());
            return Err(LcaiError::InvalidParams(text).into());
        }
        let id: ModelId = model.parse().map_err(|e| LcaiError::InvalidParams(format!("model: {e}")))?;
        let offer = self.parts.directory.request_session(id, user).await.map_err(|error| match error {
            // The caller knows the model by this name, not by its hash.
            LcaiError::UnknownModel(text) => LcaiError::UnknownModel(format!("{model:?}: {text}")),
            other => other,
        })?;
        Ok(offer)
    }

    async fn authorize_session(
        &self,
        request: AuthorizationRequest,
        proof: CallerProof,
    ) -> RpcResult<SessionAuthorizationGrant> {
        check_proof(&request, &proof, &self.parts.tokens, &self.parts.deployment, unix_now())?;
        self.calls.take(request.user, 1.0)?;
        Ok(self.parts.directory.authorize(request).await?)
    }

    async fn request_reassignment(&self, session: SessionId) -> RpcResult<ReassignmentOffer> {
        self.session_user(session)?;
        Ok(self.parts.directory.request_reassignment(session).await?)
    }

    async fn authorize_reassignment(
        &self,
        request: ReassignmentRequest,
        proof: CallerProof,
    ) -> RpcResult<SessionAuthorizationGrant> {
        let user = self.session_user(request.session_id)?;
        let (tokens, deployment) = (&self.parts.tokens, &self.parts.deployment);
        check_reassignment_proof(user, &request, &proof, tokens, deployment, unix_now())?;
        self.calls.take(user, 1.0)?;
        Ok(self.parts.directory.authorize_reassignment(user, request).await?)
    }

    async fn challenge(&self, account: Address) -> RpcResult<Challenge> {
        Ok(self.parts.tokens.challenge(account, unix_now()))
    }

    async fn login(&self, message: String, signature: Bytes) -> RpcResult<Login> {
        Ok(self.parts.tokens.login(&message, &signature, unix_now())?)
    }

    async fn publish_blob(&self, token: String, data: Bytes) -> RpcResult<PublishedBlob> {
        let (account, _) = self.account(&token)?;
        let newcomer = self.parts.directory.sessions_of(account, None, 1).is_empty();
        Ok(self.parts.blobs.publish(account, newcomer, data).await?)
    }

    async fn get_blob_quota(&self, token: String) -> RpcResult<BlobQuota> {
        let (account, _) = self.account(&token)?;
        Ok(self.parts.blobs.quota(account).await?)
    }

    async fn get_session(&self, session: SessionId) -> RpcResult<Option<SessionInfo>> {
        Ok(self.parts.directory.session_info(session))
    }

    async fn get_sessions(
        &self,
        account: Address,
        before: Option<SessionId>,
        limit: Option<Quantity>,
    ) -> RpcResult<Vec<SessionInfo>> {
        Ok(self.parts.directory.sessions_of(account, before, page(limit)?))
    }

    async fn get_draw(&self, session: SessionId) -> RpcResult<Option<DrawReport>> {
        Ok(self.parts.directory.draw_of(session).await?)
    }

    async fn get_session_request(&self, request: Quantity) -> RpcResult<Option<SessionRequestInfo>> {
        Ok(self.parts.directory.session_request(request.0))
    }

    async fn get_job(&self, job: JobId) -> RpcResult<Option<JobInfo>> {
        Ok(self.parts.directory.job_info(job).map(|(info, _)| info))
    }

    async fn get_jobs(
        &self,
        account: Address,
        before: Option<JobId>,
        limit: Option<Quantity>,
    ) -> RpcResult<Vec<JobInfo>> {
        Ok(self.parts.directory.jobs_of(account, before, page(limit)?))
    }

    async fn get_receipt(&self, job: JobId) -> RpcResult<JobReceipt> {
        Ok(self.receipt(job).await?)
    }

    async fn get_dispute_evidence(&self, job: JobId) -> RpcResult<DisputeEvidence> {
        Ok(self.evidence(job).await?)
    }

    async fn get_blob(&self, versioned_hash: B256, hint: Option<BlockHint>) -> RpcResult<Option<Bytes>> {
        let hint = hint.map(|hint| BlobHint {
            block_number: hint.block_number,
            block_hash: hint.block_hash,
            timestamp: hint.timestamp,
            parent_beacon_block_root: hint.parent_beacon_block_root,
        });
        Ok(self.parts.blobs.get(versioned_hash, hint).await?)
    }

    async fn heartbeat(&self, heartbeat: Heartbeat, signature: Bytes) -> RpcResult<()> {
        Ok(self.parts.directory.heartbeat(heartbeat, &signature).await?)
    }

    async fn submit_frames(&self, token: String, frames: Vec<Frame>) -> RpcResult<FrameReceipt> {
        let (account, _) = self.account(&token)?;
        let charge = |count: usize| self.frames.take(account, count as f64);
        Ok(FrameReceipt { cursors: self.parts.relay.submit_charged(account, frames, charge).await? })
    }

    async fn poll_frames(
        &self,
        token: String,
        session: SessionId,
        cursor: Quantity,
        timeout: Quantity,
    ) -> RpcResult<Vec<Envelope>> {
        let (mut reader, _) = self.reader(&token, session, cursor).await?;
        // Reading what is stored takes a moment too: a caller who does not want to wait still gets it.
        let wait = Duration::from_millis(timeout.0.clamp(MIN_POLL_MS, MAX_POLL_MS));
        match tokio::time::timeout(wait, reader.next()).await {
            Ok(batch) => Ok(envelopes(&batch?)?),
            Err(_) => Ok(Vec::new()),
        }
    }

    async fn subscribe_frames(
        &self,
        pending: PendingSubscriptionSink,
        token: String,
        session: SessionId,
        cursor: Quantity,
    ) -> SubscriptionResult {
        match self.reader(&token, session, cursor).await {
            Ok((reader, ending)) => self.streams.frames(pending, reader, ending).await,
            Err(error) => {
                pending.reject(error).await;
                Ok(())
            }
        }
    }

    async fn subscribe_work(&self, pending: PendingSubscriptionSink, token: String) -> SubscriptionResult {
        let watched = self.account(&token).map(|(account, ending)| (WorkWatch::new(account), ending));
        self.streams.changes(pending, watched, &self.parts.directory).await
    }

    async fn subscribe_account(&self, pending: PendingSubscriptionSink, token: String) -> SubscriptionResult {
        let watched = self.account(&token).map(|(account, ending)| (AccountWatch::new(account), ending));
        self.streams.changes(pending, watched, &self.parts.directory).await
    }

    async fn subscribe_network(&self, pending: PendingSubscriptionSink) -> SubscriptionResult {
        let watched = Ok((NetworkWatch::new(Arc::clone(&self.networks)), Ending::never()));
        self.streams.changes(pending, watched, &self.parts.directory).await
    }

    async fn discover(&self) -> RpcResult<Box<RawValue>> {
        Ok(openrpc::document(openrpc::DOCUMENT)?)
    }
}
