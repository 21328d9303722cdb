//! The namespace: one trait from which jsonrpsee makes the server side and the client side, and the OpenRPC document
//! (`openrpc.json`) is made from its text.

use crate::types::{
    AccountChange, AuthorizationRequest, BlobQuota, BlockHint, CallerProof, Challenge, DisputeEvidence,
    DrawReport, FrameReceipt, Health, JobInfo, JobReceipt, Login, ModelInfo, NetworkChange, NetworkInfo,
    PublishedBlob, ReassignmentOffer, ReassignmentRequest, SessionAuthorizationGrant, SessionInfo,
    SessionOffer, SessionRequestInfo, Versions, WorkChange, WorkerInfo,
};
use alloy_primitives::{Address, B256, Bytes};
use jsonrpsee::{
    core::{RpcResult, SubscriptionResult},
    proc_macros::rpc,
};
use lcai_primitives::{
    eip712::Heartbeat,
    frames::{Envelope, Frame},
    ids::{JobId, SessionId},
    quantity::Quantity,
};
use serde_json::value::RawValue;

/// `lcai_*`. Errors: [`crate::error`]. Any call may be refused with `InvalidParams`, `QuotaExceeded`, `Internal` or, by a node that
/// hands it on, `UpstreamUnavailable`; the others are named at the method.
#[rpc(server, client, namespace = "lcai")]
pub trait LcaiApi {
    /// Chain, contracts, parameters, heads.
    ///
    /// Errors: NotYet.
    #[method(name = "network")]
    async fn network(&self) -> RpcResult<NetworkInfo>;

    /// Which software answers, and which interface it speaks.
    #[method(name = "versions")]
    async fn versions(&self) -> RpcResult<Versions>;

    /// Whether the node works, and how far it has come.
    #[method(name = "health")]
    async fn health(&self) -> RpcResult<Health>;

    /// Every model with its fee, limit and free slots.
    #[method(name = "models")]
    async fn models(&self) -> RpcResult<Vec<ModelInfo>>;

    /// Every registered worker.
    #[method(name = "workers")]
    async fn workers(&self) -> RpcResult<Vec<WorkerInfo>>;

    /// A text to sign for logging in.
    #[method(name = "challenge")]
    async fn challenge(&self, account: Address) -> RpcResult<Challenge>;

    /// Exchanges the signed text for a token bound to the account. `signature` is 65 bytes (EIP-191).
    ///
    /// Errors: Unauthorized, Expired.
    #[method(name = "login")]
    async fn login(&self, message: String, signature: Bytes) -> RpcResult<Login>;

    /// Recommends a worker. A pure read: it reserves nothing. `model` is a name or a 32-byte id.
    ///
    /// Errors: UnknownModel, NoWorker.
    #[method(name = "requestSession")]
    async fn request_session(&self, model: String, user: Address) -> RpcResult<SessionOffer>;

    /// The dispatcher's signature for `createSession`.
    ///
    /// Errors: UnknownModel, NoWorker, Unauthorized, Expired, AuthorizationRefused, NotOffered.
    #[method(name = "authorizeSession")]
    async fn authorize_session(
        &self,
        request: AuthorizationRequest,
        proof: CallerProof,
    ) -> RpcResult<SessionAuthorizationGrant>;

    /// What a session needs after `reassignSession` gave it another worker: whom to wrap the session key for.
    ///
    /// Errors: NotFound, AuthorizationRefused.
    #[method(name = "requestReassignment")]
    async fn request_reassignment(&self, session: SessionId) -> RpcResult<ReassignmentOffer>;

    /// The dispatcher's signature for `updateSessionKey`. A signature as proof is over `SessionKeyUpdate`.
    ///
    /// Errors: NotFound, Unauthorized, Expired, AuthorizationRefused, NotOffered.
    #[method(name = "authorizeReassignment")]
    async fn authorize_reassignment(
        &self,
        request: ReassignmentRequest,
        proof: CallerProof,
    ) -> RpcResult<SessionAuthorizationGrant>;

    /// Posts sealed bytes (at most 126,972) as one blob on the account's behalf, within its quota. Answers once the pool
    /// has the transaction: `submitJob` need not wait for its block.
    ///
    /// Errors: Unauthorized, Expired, NotOffered, TooLarge, TransactionRefused, NotYet.
    #[method(name = "publishBlob")]
    async fn publish_blob(&self, token: String, data: Bytes) -> RpcResult<PublishedBlob>;

    /// What the account may still have published, and what a blob costs the node now.
    ///
    /// Errors: Unauthorized, Expired, NotOffered.
    #[method(name = "getBlobQuota")]
    async fn get_blob_quota(&self, token: String) -> RpcResult<BlobQuota>;

    /// A session; `null` when the chain has none.
    #[method(name = "getSession")]
    async fn get_session(&self, session: SessionId) -> RpcResult<Option<SessionInfo>>;

    /// An account's sessions, newest first, at most `limit` (100 unless given, 1,000 at most), below `before`.
    #[method(name = "getSessions")]
    async fn get_sessions(
        &self,
        account: Address,
        before: Option<SessionId>,
        limit: Option<Quantity>,
    ) -> RpcResult<Vec<SessionInfo>>;

    /// The draw that a session was authorized by, with the facts to repeat it; `null` for a session that this node's
    /// dispatcher did not authorize, or longer ago than blobs are kept.
    #[method(name = "getDraw")]
    async fn get_draw(&self, session: SessionId) -> RpcResult<Option<DrawReport>>;

    /// A session that was asked for by sortition, by the request's number; `null` when the chain has none, or it expired
    /// longer ago than blobs are kept.
    #[method(name = "getSessionRequest")]
    async fn get_session_request(&self, request: Quantity) -> RpcResult<Option<SessionRequestInfo>>;

    /// A job; `null` when the chain has none.
    #[method(name = "getJob")]
    async fn get_job(&self, job: JobId) -> RpcResult<Option<JobInfo>>;

    /// An account's jobs, newest first, at most `limit` (100 unless given, 1,000 at most), below `before`.
    #[method(name = "getJobs")]
    async fn get_jobs(
        &self,
        account: Address,
        before: Option<JobId>,
        limit: Option<Quantity>,
    ) -> RpcResult<Vec<JobInfo>>;

    /// Everything needed to verify a job's answer offline.
    ///
    /// Errors: NotFound.
    #[method(name = "getReceipt")]
    async fn get_receipt(&self, job: JobId) -> RpcResult<JobReceipt>;

    /// Proof that the worker signed another answer than it committed, as kept by this node.
    ///
    /// Errors: NotFound.
    #[method(name = "getDisputeEvidence")]
    async fn get_dispute_evidence(&self, job: JobId) -> RpcResult<DisputeEvidence>;

    /// A blob's 131,072 bytes; `null` when the node does not have it. A hint helps to find one that only a consensus
    /// client has.
    ///
    /// Errors: BlobMismatch, NotYet.
    #[method(name = "getBlob")]
    async fn get_blob(&self, versioned_hash: B256, hint: Option<BlockHint>) -> RpcResult<Option<Bytes>>;

    /// A worker's signed sign of life; `signature` is the worker's EIP-712 signature, 65 bytes.
    ///
    /// Errors: Unauthorized, Expired.
    #[method(name = "heartbeat")]
    async fn heartbeat(&self, heartbeat: Heartbeat, signature: Bytes) -> RpcResult<()>;

    /// Gives frames of the worker's sessions to the relay; answers once they are durable. At most 256 frames a call.
    ///
    /// Errors: Unauthorized, Expired, FrameRefused, NotYet.
    #[method(name = "submitFrames")]
    async fn submit_frames(&self, token: String, frames: Vec<Frame>) -> RpcResult<FrameReceipt>;

    /// The frames of one session after a cursor (0: from the start), for its owner: waits up to `timeout` milliseconds (at
    /// most 30,000) for the first.
    ///
    /// Errors: Unauthorized, Expired, NotFound, NotYet.
    #[method(name = "pollFrames")]
    async fn poll_frames(
        &self,
        token: String,
        session: SessionId,
        cursor: Quantity,
        timeout: Quantity,
    ) -> RpcResult<Vec<Envelope>>;

    /// Streams the frames of one session after a cursor (0: from the start) to its owner, until the token expires. A reader
    /// that is too slow is closed; it resumes from the cursor of its last envelope.
    ///
    /// Errors: Unauthorized, Expired, NotFound, NotYet, SlowReader.
    #[subscription(name = "subscribeFrames" => "frames", unsubscribe = "unsubscribeFrames", item = Envelope)]
    async fn subscribe_frames(
        &self,
        token: String,
        session: SessionId,
        cursor: Quantity,
    ) -> SubscriptionResult;

    /// A worker's open jobs, and every change of them, until the token expires.
    ///
    /// Errors: Unauthorized, Expired, SlowReader.
    #[subscription(name = "subscribeWork" => "work", unsubscribe = "unsubscribeWork", item = WorkChange)]
    async fn subscribe_work(&self, token: String) -> SubscriptionResult;

    /// The account's newest sessions (64) and their jobs (256), and every change of them, until the token expires.
    ///
    /// Errors: Unauthorized, Expired, SlowReader.
    #[subscription(name = "subscribeAccount" => "account", unsubscribe = "unsubscribeAccount", item = AccountChange)]
    async fn subscribe_account(&self, token: String) -> SubscriptionResult;

    /// Parameters, models and workers, and every change of them, at most once a block.
    ///
    /// Errors: SlowReader.
    #[subscription(
        name = "subscribeNetwork" => "networkChange",
        unsubscribe = "unsubscribeNetwork",
        item = NetworkChange
    )]
    async fn subscribe_network(&self) -> SubscriptionResult;

    /// This namespace as an OpenRPC document.
    #[method(name = "discover", aliases = ["rpc.discover"])]
    async fn discover(&self) -> RpcResult<Box<RawValue>>;
}
