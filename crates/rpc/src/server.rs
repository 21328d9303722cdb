//! The node's side of `lcai_*`.

use crate::{
    api::LcaiApiServer,
    blobs::BlobService,
    caller::check_proof,
    directory::Directory,
    error::LcaiError,
    limits::{AccountLimiter, Rate},
    relay::{FrameReader, Relay, envelopes},
    tokens::TokenIssuer,
    types::{
        AuthorizationRequest, BlockId, CallerProof, Challenge, ExtensionHealth, FrameReceipt, Health,
        JobInfo, JobReceipt, Login, ModelInfo, NetworkInfo, PublishedBlob, SessionAuthorizationGrant,
        SessionInfo, SessionOffer, WorkerInfo,
    },
    unix_now,
};
use alloy_primitives::{Address, B256, Bytes};
use async_trait::async_trait;
use jsonrpsee::{
    PendingSubscriptionSink, SendTimeoutError, SubscriptionSink,
    core::{RpcResult, SubscriptionError, SubscriptionResult},
    types::ErrorObjectOwned,
};
use lcai_host::{Extension, ExtensionHandle, FeedState};
use lcai_primitives::{
    contracts::Deployment,
    eip712::Heartbeat,
    frames::{Envelope, Frame},
    ids::{JobId, ModelId, SessionId},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Longest wait of `lcai_pollFrames`, milliseconds.
pub const MAX_POLL_MS: u64 = 30_000;
/// Shortest wait, milliseconds.
const MIN_POLL_MS: u64 = 100;
/// Longest model name taken, bytes.
const MAX_MODEL_NAME: usize = 256;
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
}

impl Default for RpcSettings {
    fn default() -> Self {
        Self {
            frames: Rate { per_second: 200.0, burst: 4_000.0 },
            calls: Rate { per_second: 200.0, burst: 2_000.0 },
            max_accounts: 10_000,
            slow_reader: Duration::from_secs(10),
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
    /// The extensions `lcai_health` reports on.
    pub extensions: Vec<Arc<dyn ExtensionStatus>>,
    /// Frames.
    pub relay: Arc<Relay>,
    /// Logins.
    pub tokens: Arc<TokenIssuer>,
    /// Blobs.
    pub blobs: BlobService,
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
            parts,
        }
    }

    /// The account of a token, within its rate.
    fn account(&self, token: &str) -> Result<Address, LcaiError> {
        let account = self.parts.tokens.verify(token, unix_now())?;
        self.calls.take(account, 1.0)?;
        Ok(account)
    }

    async fn reader(&self, token: &str, session: SessionId, cursor: u64) -> Result<FrameReader, LcaiError> {
        let account = self.account(token)?;
        self.parts.relay.read(account, session, cursor).await
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
        let chain_head: Option<BlockId> = feed.heads.map(|h| h.head.into());
        let feed_tip: Option<BlockId> = feed.tip.map(Into::into);
        let extensions: Vec<_> = self.parts.extensions.iter().map(|e| e.status()).collect();
        let keeps_up = |block: Option<BlockId>| match (chain_head, block) {
            (Some(head), Some(block)) => block.number.saturating_add(HEALTHY_LAG) >= head.number,
            _ => false,
        };
        let healthy =
            keeps_up(feed_tip) && extensions.iter().all(|e| e.halted.is_none() && keeps_up(e.cursor));
        Health {
            version: self.parts.version.clone(),
            healthy,
            chain_head,
            feed_tip,
            extensions,
            subscribers: self.parts.relay.sessions_read() as u64,
        }
    }

    async fn receipt(&self, id: JobId) -> Result<Option<JobReceipt>, LcaiError> {
        let Some((job, subject)) = self.parts.directory.job_info(id) else { return Ok(None) };
        let relayed = self.parts.relay.terminal(subject.id()).await?;
        let (terminal, ciphertext) = relayed.map_or((None, None), |(t, c)| (Some(t), c));
        Ok(Some(JobReceipt {
            job,
            chain_id: self.parts.deployment.chain_id,
            job_registry: self.parts.deployment.job_registry,
            response_signature: terminal.as_ref().map(|t| Bytes::copy_from_slice(&t.signature)),
            relayed_ciphertext_hash: terminal.map(|t| t.ciphertext_hash),
            ciphertext: ciphertext.map(Into::into),
        }))
    }
}

#[async_trait]
impl LcaiApiServer for LcaiRpc {
    async fn network(&self) -> RpcResult<NetworkInfo> {
        Ok(self.network_info()?)
    }

    async fn models(&self) -> RpcResult<Vec<ModelInfo>> {
        Ok(self.parts.directory.models())
    }

    async fn workers(&self) -> RpcResult<Vec<WorkerInfo>> {
        Ok(self.parts.directory.workers())
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

    async fn challenge(&self, account: Address) -> RpcResult<Challenge> {
        Ok(self.parts.tokens.challenge(account, unix_now()))
    }

    async fn login(&self, message: String, signature: Bytes) -> RpcResult<Login> {
        Ok(self.parts.tokens.login(&message, &signature, unix_now())?)
    }

    async fn publish_blob(&self, token: String, data: Bytes) -> RpcResult<PublishedBlob> {
        let account = self.account(&token)?;
        Ok(self.parts.blobs.publish(account, data).await?)
    }

    async fn get_session(&self, session: SessionId) -> RpcResult<Option<SessionInfo>> {
        Ok(self.parts.directory.session_info(session))
    }

    async fn get_job(&self, job: JobId) -> RpcResult<Option<JobInfo>> {
        Ok(self.parts.directory.job_info(job).map(|(info, _)| info))
    }

    async fn get_receipt(&self, job: JobId) -> RpcResult<Option<JobReceipt>> {
        Ok(self.receipt(job).await?)
    }

    async fn get_blob(&self, versioned_hash: B256) -> RpcResult<Option<Bytes>> {
        Ok(self.parts.blobs.get(versioned_hash).await?)
    }

    async fn heartbeat(&self, heartbeat: Heartbeat, signature: Bytes) -> RpcResult<()> {
        Ok(self.parts.directory.heartbeat(heartbeat, &signature).await?)
    }

    async fn submit_frames(&self, token: String, frames: Vec<Frame>) -> RpcResult<FrameReceipt> {
        let account = self.account(&token)?;
        self.frames.take(account, frames.len() as f64)?;
        Ok(FrameReceipt { cursors: self.parts.relay.submit(account, frames).await? })
    }

    async fn poll_frames(
        &self,
        token: String,
        session: SessionId,
        cursor: u64,
        timeout_ms: u64,
    ) -> RpcResult<Vec<Envelope>> {
        let mut reader = self.reader(&token, session, cursor).await?;
        // Reading what is stored takes a moment too: a caller who does not want to wait still gets it.
        let wait = Duration::from_millis(timeout_ms.clamp(MIN_POLL_MS, MAX_POLL_MS));
        match timeout(wait, reader.next()).await {
            Ok(batch) => Ok(envelopes(&batch?)?),
            Err(_) => Ok(Vec::new()),
        }
    }

    async fn subscribe_frames(
        &self,
        pending: PendingSubscriptionSink,
        token: String,
        session: SessionId,
        cursor: u64,
    ) -> SubscriptionResult {
        let reader = match self.reader(&token, session, cursor).await {
            Ok(reader) => reader,
            Err(error) => {
                pending.reject(error).await;
                return Ok(());
            }
        };
        let sink = pending.accept().await?;
        stream(reader, &sink, cursor, self.parts.settings.slow_reader).await.map_err(closing)
    }
}

/// Hands frames to a subscription until its client is gone, or too slow.
async fn stream(
    mut reader: FrameReader,
    sink: &SubscriptionSink,
    cursor: u64,
    patience: Duration,
) -> Result<(), LcaiError> {
    let mut delivered = cursor;
    loop {
        let batch = tokio::select! {
            batch = reader.next() => batch?,
            () = sink.closed() => return Ok(()),
        };
        for live in batch {
            match sink.send_timeout(live.envelope.clone(), patience).await {
                Ok(()) => delivered = live.cursor,
                Err(SendTimeoutError::Closed(_)) => return Ok(()),
                Err(SendTimeoutError::Timeout(_)) => return Err(reader.cut(delivered)),
            }
        }
    }
}

/// The error notification that ends a subscription: the same object a call would be answered with.
fn closing(error: LcaiError) -> SubscriptionError {
    let text = error.to_string();
    let object = ErrorObjectOwned::from(error);
    serde_json::value::to_raw_value(&object)
        .map_or_else(|_| SubscriptionError::from(text), SubscriptionError::from_json)
}
