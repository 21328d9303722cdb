//! The namespace: one trait from which jsonrpsee makes the server side and the client side.

use crate::types::{
    AuthorizationRequest, CallerProof, Challenge, FrameReceipt, Health, JobInfo, JobReceipt, Login,
    ModelInfo, NetworkInfo, PublishedBlob, SessionAuthorizationGrant, SessionInfo, SessionOffer, WorkerInfo,
};
use alloy_primitives::{Address, B256, Bytes};
use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use lcai_primitives::{
    eip712::Heartbeat,
    frames::{Envelope, Frame},
    ids::{JobId, SessionId},
};

/// `lcai_*`. Errors: [`crate::error`].
#[rpc(server, client, namespace = "lcai")]
pub trait LcaiApi {
    /// Chain, contracts, parameters, heads.
    #[method(name = "network")]
    async fn network(&self) -> RpcResult<NetworkInfo>;

    /// Every model with its fee, limit and free slots.
    #[method(name = "models")]
    async fn models(&self) -> RpcResult<Vec<ModelInfo>>;

    /// Every registered worker.
    #[method(name = "workers")]
    async fn workers(&self) -> RpcResult<Vec<WorkerInfo>>;

    /// Whether the node works, and how far it has come.
    #[method(name = "health")]
    async fn health(&self) -> RpcResult<Health>;

    /// Recommends a worker. A pure read: it reserves nothing. `model` is a name or a 32-byte id.
    #[method(name = "requestSession")]
    async fn request_session(&self, model: String, user: Address) -> RpcResult<SessionOffer>;

    /// The dispatcher's signature for `createSession`.
    #[method(name = "authorizeSession")]
    async fn authorize_session(
        &self,
        request: AuthorizationRequest,
        proof: CallerProof,
    ) -> RpcResult<SessionAuthorizationGrant>;

    /// A text to sign for logging in.
    #[method(name = "challenge")]
    async fn challenge(&self, account: Address) -> RpcResult<Challenge>;

    /// Exchanges the signed text for a token bound to the account. `signature` is 65 bytes (EIP-191).
    #[method(name = "login")]
    async fn login(&self, message: String, signature: Bytes) -> RpcResult<Login>;

    /// Posts sealed bytes (at most 126,972) as one blob on the account's behalf, within its quota.
    #[method(name = "publishBlob")]
    async fn publish_blob(&self, token: String, data: Bytes) -> RpcResult<PublishedBlob>;

    /// A session; `null` when the chain has none.
    #[method(name = "getSession")]
    async fn get_session(&self, session: SessionId) -> RpcResult<Option<SessionInfo>>;

    /// A job; `null` when the chain has none.
    #[method(name = "getJob")]
    async fn get_job(&self, job: JobId) -> RpcResult<Option<JobInfo>>;

    /// Everything needed to verify a job's answer offline; `null` when the chain has no such job.
    #[method(name = "getReceipt")]
    async fn get_receipt(&self, job: JobId) -> RpcResult<Option<JobReceipt>>;

    /// A blob's 131,072 bytes; `null` when the node does not have it.
    #[method(name = "getBlob")]
    async fn get_blob(&self, versioned_hash: B256) -> RpcResult<Option<Bytes>>;

    /// A worker's signed sign of life; `signature` is the worker's EIP-712 signature, 65 bytes.
    #[method(name = "heartbeat")]
    async fn heartbeat(&self, heartbeat: Heartbeat, signature: Bytes) -> RpcResult<()>;

    /// Gives frames of the worker's sessions to the relay; answers once they are durable. At most 256 frames a call.
    #[method(name = "submitFrames")]
    async fn submit_frames(&self, token: String, frames: Vec<Frame>) -> RpcResult<FrameReceipt>;

    /// The frames of one session after a cursor (0: from the start), for its owner: waits up to `timeout_ms` (at most
    /// 30,000) for the first.
    #[method(name = "pollFrames")]
    async fn poll_frames(
        &self,
        token: String,
        session: SessionId,
        cursor: u64,
        timeout_ms: u64,
    ) -> RpcResult<Vec<Envelope>>;

    /// Streams the frames of one session after a cursor (0: from the start) to its owner. A reader that is too slow is
    /// closed; it resumes from the cursor of its last envelope.
    #[subscription(name = "subscribeFrames" => "frames", unsubscribe = "unsubscribeFrames", item = Envelope)]
    async fn subscribe_frames(
        &self,
        token: String,
        session: SessionId,
        cursor: u64,
    ) -> jsonrpsee::core::SubscriptionResult;
}
