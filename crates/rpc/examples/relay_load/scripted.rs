//! The relay under test: the real namespace and server on a chain of our making, where every job exists.

use alloy_primitives::{Address, B256, Bytes};
use alloy_signer_local::PrivateKeySigner;
use async_trait::async_trait;
use lcai_blob::BlobStore;
use lcai_host::{BlockRef, FeedState};
use lcai_primitives::{
    contracts::{Deployment, JobState},
    eip712::Heartbeat,
    ids::{JobId, ModelId, SessionId, Subject},
    params::ChainParams,
};
use lcai_rpc::{
    BlobService, DEFAULT_SESSION_CAP, Directory, FrameStore, JobView, LcaiApiServer, LcaiError, LcaiRpc,
    Rate, Relay, RelayConfig, RpcParts, RpcSettings, ServerLimits, SessionParties, SessionView, TokenConfig,
    TokenIssuer, TokenKey, serve as listen,
    types::{
        AuthorizationRequest, JobInfo, ModelInfo, ReassignmentOffer, ReassignmentRequest,
        SessionAuthorizationGrant, SessionInfo, SessionOffer, WorkerInfo,
    },
};
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) const CHAIN_ID: u64 = 8200;
pub(crate) const JOB_REGISTRY: Address = Address::repeat_byte(3);

/// Bits of a job's number that count within its session.
pub(crate) const JOB_BITS: u32 = 20;

/// The owner of every session.
pub(crate) fn user() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap()
}

/// The worker of every session.
pub(crate) fn worker() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(2)).unwrap()
}

pub(crate) fn deployment() -> Deployment {
    let json = serde_json::json!({
        "chainId": CHAIN_ID,
        "workerRegistry": Address::repeat_byte(1),
        "aiConfig": Address::repeat_byte(2),
        "jobRegistry": JOB_REGISTRY,
    });
    serde_json::from_value(json).unwrap()
}

/// Serves until it is killed; prints its address.
pub(crate) async fn serve() {
    let dir = std::env::temp_dir().join(format!("lcai-relay-load-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let store = FrameStore::open(&dir.join("frames.redb"), DEFAULT_SESSION_CAP).unwrap();
    // The file goes with the process.
    std::fs::remove_dir_all(&dir).unwrap();
    let directory = Arc::new(Everything { user: user().address(), worker: worker().address() });
    let relay = Arc::new(Relay::new(store, directory.clone(), RelayConfig::new(deployment())).unwrap());
    let unlimited = Rate { per_second: 1e6, burst: 1e6 };
    let rpc = LcaiRpc::new(RpcParts {
        deployment: deployment(),
        version: "load".into(),
        disputer_encryption_key: Bytes::new(),
        directory,
        feed: watch::channel(FeedState::default()).1,
        heads: watch::channel(None).1,
        failed: watch::channel(None).1,
        extensions: Vec::new(),
        relay,
        tokens: Arc::new(TokenIssuer::new(TokenKey::random(), deployment().chain_id, TokenConfig::default())),
        blobs: BlobService::new(Arc::new(BlobStore::in_memory(1 << 20).unwrap()), Vec::new(), None),
        upstream: None,
        settings: RpcSettings { frames: unlimited, calls: unlimited, ..RpcSettings::default() },
    });
    let limits = ServerLimits { max_connections: 20_000, calls: unlimited, ..ServerLimits::default() };
    let server = listen(rpc.into_rpc(), "127.0.0.1:0".parse().unwrap(), limits).await.unwrap();
    println!("ws://{}", server.local_addr());
    server.stopped().await;
}

struct Everything {
    user: Address,
    worker: Address,
}

impl SessionView for Everything {
    fn session(&self, _: SessionId) -> Option<SessionParties> {
        Some(SessionParties { user: self.user, worker: self.worker, create_transaction: B256::ZERO })
    }

    fn job(&self, id: JobId) -> Option<JobView> {
        let subject = Subject {
            chain_id: CHAIN_ID,
            contract: JOB_REGISTRY,
            job_id: id,
            session_id: SessionId(id.0 >> JOB_BITS),
            prompt_blob_hash: B256::ZERO,
            submit_tx_hash: B256::ZERO,
        };
        Some(JobView {
            subject,
            worker: self.worker,
            state: JobState::Acknowledged,
            response_ciphertext_hash: None,
        })
    }
}

#[async_trait]
impl Directory for Everything {
    fn params(&self) -> Option<ChainParams> {
        None
    }

    fn models(&self) -> Vec<ModelInfo> {
        Vec::new()
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        Vec::new()
    }

    fn session_info(&self, _: SessionId) -> Option<SessionInfo> {
        None
    }

    fn job_info(&self, _: JobId) -> Option<(JobInfo, Subject)> {
        None
    }

    fn sessions_of(&self, _: Address, _: Option<SessionId>, _: usize) -> Vec<SessionInfo> {
        Vec::new()
    }

    fn jobs_of(&self, _: Address, _: Option<JobId>, _: usize) -> Vec<JobInfo> {
        Vec::new()
    }

    fn open_jobs_of(&self, _: Address, _: usize) -> Vec<JobInfo> {
        Vec::new()
    }

    fn head(&self) -> watch::Receiver<Option<BlockRef>> {
        watch::channel(None).1
    }

    fn can_authorize(&self) -> bool {
        false
    }

    async fn request_session(&self, _: ModelId, _: Address) -> Result<SessionOffer, LcaiError> {
        Err(none())
    }

    async fn authorize(&self, _: AuthorizationRequest) -> Result<SessionAuthorizationGrant, LcaiError> {
        Err(none())
    }

    async fn request_reassignment(&self, _: SessionId) -> Result<ReassignmentOffer, LcaiError> {
        Err(none())
    }

    async fn authorize_reassignment(
        &self,
        _: Address,
        _: ReassignmentRequest,
    ) -> Result<SessionAuthorizationGrant, LcaiError> {
        Err(none())
    }

    async fn heartbeat(&self, _: Heartbeat, _: &[u8]) -> Result<(), LcaiError> {
        Ok(())
    }
}

fn none() -> LcaiError {
    LcaiError::NotOffered("the load test relays frames and nothing else".into())
}
