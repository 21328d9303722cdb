//! What crosses the wire of `lcai_*`: camelCase members, quantities and bytes as 0x hex. Plain numbers are read as
//! quantities too.

use alloy_primitives::{Address, B256, Bytes, TxHash, U256};
use lcai_primitives::{
    Deployment, ModelId,
    eip712::SignedHeartbeat,
    ids::{JobId, SessionId},
    params::ChainParams,
    quantity::{self, Quantity},
};
use serde::{Deserialize, Serialize};

/// A block's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockId {
    /// Height.
    #[serde(with = "quantity")]
    pub number: u64,
    /// Block hash.
    pub hash: B256,
}

/// What a client needs to know before it does anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInfo {
    /// Version of the node's software.
    pub version: String,
    /// Where the contracts are; holds the chain id.
    #[serde(with = "quantity::nested")]
    pub deployment: Deployment,
    /// AIConfig's values at `head`.
    #[serde(with = "quantity::nested")]
    pub params: ChainParams,
    /// The disputer's P-256 key, 65 bytes uncompressed, to which session keys are escrowed; empty when the node has none
    /// configured, in which case sessions are created without an escrowed key.
    pub disputer_encryption_key: Bytes,
    /// The block up to which the node's view reaches.
    pub head: BlockId,
    /// The safe head.
    pub safe: Option<BlockId>,
    /// The finalized head.
    pub finalized: Option<BlockId>,
    /// Whether this node can authorize sessions itself.
    pub dispatcher: bool,
    /// Whether this node publishes blobs for users.
    pub publishes_blobs: bool,
}

/// A model on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelInfo {
    /// keccak256 of the exact name.
    pub id: ModelId,
    /// The name, when the node knows it; the chain only has the id.
    pub name: Option<String>,
    /// Flat fee per job, wei.
    pub fee: U256,
    /// Most tokens an answer may have.
    pub max_output_tokens: U256,
    /// Whether new sessions are accepted.
    pub enabled: bool,
    /// Workers the registry calls eligible.
    #[serde(with = "quantity")]
    pub eligible_workers: u64,
    /// Jobs that healthy eligible workers could take now.
    #[serde(with = "quantity")]
    pub free_slots: u64,
}

/// A worker as the directory knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerInfo {
    /// The worker's account.
    pub address: Address,
    /// Stake, wei.
    pub stake: U256,
    /// Models it serves and is eligible for.
    pub models: Vec<ModelId>,
    /// Jobs submitted or acknowledged and not yet completed.
    #[serde(with = "quantity")]
    pub open_jobs: u64,
    /// Jobs it may still take; `None` when its health is unknown (never "busy").
    #[serde(with = "quantity::option")]
    pub free_slots: Option<u64>,
    /// Unix seconds of the newest heartbeat; `None` when none was seen.
    #[serde(with = "quantity::option")]
    pub last_heartbeat: Option<u64>,
    /// Unix seconds until which it is suspended; `None` when it is not.
    #[serde(with = "quantity::option")]
    pub suspended_until: Option<u64>,
    /// `"ready"`, `"busy"`, `"draining"`, `"unready"` (no model backend), `"stale"` (no recent heartbeat) or `"jailed"`.
    pub state: String,
    /// How it has been doing on chain, basis points by which its score counts in a draw.
    #[serde(with = "quantity")]
    pub standing_bps: u32,
    /// How long it takes, for each model it has completed jobs of.
    pub speeds: Vec<ModelSpeed>,
}

/// How long a worker takes for a model, measured on chain from acknowledgement to completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpeed {
    /// The model.
    pub model_id: ModelId,
    /// Jobs measured.
    #[serde(with = "quantity")]
    pub jobs: u64,
    /// Moving mean over about eight jobs, milliseconds.
    #[serde(with = "quantity")]
    pub mean_ms: u64,
}

/// A draw as it was authorized, with everything it was decided by: whoever has it repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrawReport {
    /// The session that came of it.
    pub session_id: SessionId,
    /// The account it was for.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The account's session nonce that was spent.
    pub nonce: U256,
    /// The worker that was authorized.
    pub worker: Address,
    /// The block whose hash seeded the draw and whose directory it used.
    pub block: BlockId,
    /// Its time, unix seconds, by which heartbeats were judged.
    #[serde(with = "quantity")]
    pub block_time: u64,
    /// Cap on the stake that counts, wei.
    pub stake_cap: U256,
    /// Every worker that listed the model, ordered by address.
    pub workers: Vec<DrawnWorkerInfo>,
}

/// A worker as a draw saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrawnWorkerInfo {
    /// The worker.
    pub worker: Address,
    /// Its stake, wei.
    pub stake: U256,
    /// Its score in ReputationRegistry.
    #[serde(with = "quantity")]
    pub score: u64,
    /// Its standing, basis points.
    #[serde(with = "quantity")]
    pub standing_bps: u32,
    /// What its score counted: score × standing.
    #[serde(with = "quantity")]
    pub reputation: u64,
    /// Its open jobs.
    #[serde(with = "quantity")]
    pub open_jobs: u64,
    /// Its newest heartbeat, under its own signature; `None` when it had sent none.
    pub heartbeat: Option<HeartbeatProof>,
    /// Why it was no candidate; `None` for a candidate.
    pub why_not: Option<String>,
}

/// What a worker signed in a heartbeat: EIP-712 `Heartbeat(address worker,uint64 sentAt,uint32 activeJobs,uint32
/// maxJobs,bytes32 modelsHash,uint8 status,uint64 sequence)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatProof {
    /// When it was signed, unix seconds by the worker's clock.
    #[serde(with = "quantity")]
    pub sent_at: u64,
    /// Jobs it worked on.
    #[serde(with = "quantity")]
    pub active_jobs: u32,
    /// Jobs it wanted to have at once.
    #[serde(with = "quantity")]
    pub max_jobs: u32,
    /// keccak256 of the concatenated ids of the models it served.
    pub models_hash: B256,
    /// 1: takes no new sessions; 2: its model backend did not answer.
    #[serde(with = "quantity")]
    pub status: u8,
    /// Its number.
    #[serde(with = "quantity")]
    pub sequence: u64,
    /// 65 bytes r ‖ s ‖ v.
    pub signature: Bytes,
}

impl From<&SignedHeartbeat> for HeartbeatProof {
    fn from(signed: &SignedHeartbeat) -> Self {
        Self {
            sent_at: signed.sent_at,
            active_jobs: signed.active_jobs,
            max_jobs: signed.max_jobs,
            models_hash: signed.models_hash,
            status: signed.status,
            sequence: signed.sequence,
            signature: signed.signature.clone(),
        }
    }
}

impl From<HeartbeatProof> for SignedHeartbeat {
    fn from(proof: HeartbeatProof) -> Self {
        Self {
            sent_at: proof.sent_at,
            active_jobs: proof.active_jobs,
            max_jobs: proof.max_jobs,
            models_hash: proof.models_hash,
            status: proof.status,
            sequence: proof.sequence,
            signature: proof.signature,
        }
    }
}

/// One worker that could have been drawn, with everything its weight follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrawCandidate {
    /// The worker.
    pub worker: Address,
    /// Its stake, wei.
    pub stake: U256,
    /// What its score counts in the draw: reputation score × standing.
    #[serde(with = "quantity")]
    pub reputation: u64,
    /// Its open jobs, below the network's `maxConcurrentJobs` and its own limit.
    #[serde(with = "quantity")]
    pub open_jobs: u64,
}

/// Everything another node needs to repeat a draw (DESIGN.md, "The draw").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrawFacts {
    /// The block whose hash seeds the draw and whose directory it used.
    pub block: BlockId,
    /// Cap on the stake that counts, wei.
    pub stake_cap: U256,
    /// The candidates, ordered by address.
    pub candidates: Vec<DrawCandidate>,
}

/// The worker recommended for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionOffer {
    /// The account the offer is for.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The worker.
    pub worker: Address,
    /// The worker's P-256 key, 65 bytes uncompressed.
    pub worker_encryption_key: Bytes,
    /// The disputer's P-256 key, 65 bytes uncompressed; empty when there is none.
    pub disputer_encryption_key: Bytes,
    /// The account's session-creation nonce in JobRegistry.
    pub nonce: U256,
    /// Flat fee per job, wei.
    pub fee: U256,
    /// How the worker was drawn.
    pub facts: DrawFacts,
}

/// The fields a dispatcher signs, without the expiry it chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRequest {
    /// The account that will send `createSession`.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The worker of the offer.
    pub worker: Address,
    /// The session key wrapped for the worker, 125 bytes.
    pub enc_worker_key: Bytes,
    /// The session key wrapped for the disputer, 125 bytes, or empty.
    pub enc_disputer_key: Bytes,
    /// The nonce of the offer.
    pub nonce: U256,
}

/// Proof that the caller is the account it speaks for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CallerProof {
    /// A login token.
    Token {
        /// From `lcai_login`.
        token: String,
    },
    /// The account's EIP-712 signature over `SessionAuthorization` with the same fields and this expiry.
    Signature {
        /// 65 bytes r ‖ s ‖ v.
        signature: Bytes,
        /// Unix seconds; not in the past and at most ten minutes ahead.
        #[serde(with = "quantity")]
        expiry: u64,
    },
}

impl std::fmt::Debug for CallerProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token { .. } => f.write_str("Token(..)"),
            Self::Signature { expiry, .. } => {
                f.debug_struct("Signature").field("expiry", expiry).finish_non_exhaustive()
            }
        }
    }
}

/// What `createSession` needs besides the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionAuthorizationGrant {
    /// The dispatcher's EIP-712 signature, 65 bytes r ‖ s ‖ v (27/28).
    pub signature: Bytes,
    /// Unix seconds until which it is valid; goes into `createSession`.
    #[serde(with = "quantity")]
    pub expiry: u64,
}

/// A text to sign in order to log in (EIP-191).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// The exact text to sign with `personal_sign`.
    pub message: String,
    /// Unix seconds until which it can be used, once.
    #[serde(with = "quantity")]
    pub expires_at: u64,
}

/// A login token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// Opaque; passed as a parameter to the methods that ask for it.
    pub token: String,
    /// The account it is bound to.
    pub account: Address,
    /// Unix seconds until which it is accepted.
    #[serde(with = "quantity")]
    pub expires_at: u64,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("account", &self.account)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A blob the node posted for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedBlob {
    /// The blob's versioned hash: the argument of `submitJob`.
    pub versioned_hash: B256,
    /// The type-3 transaction, in the pool when this is returned; submitJob need not wait for its block.
    pub transaction_hash: TxHash,
    /// Most that the transaction costs the node at the fees of the moment, wei: what the account would pay alone.
    pub cost: U256,
    /// What the account may still publish in the current quota period.
    #[serde(with = "quantity")]
    pub quota_left: u64,
}

/// What an account may have published, and what it costs the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobQuota {
    /// Blobs the account may still publish in the current period.
    #[serde(with = "quantity")]
    pub left: u64,
    /// Blobs an account may publish in a period.
    #[serde(with = "quantity")]
    pub per_account: u64,
    /// Unix seconds at which the period ends (midnight UTC).
    #[serde(with = "quantity")]
    pub resets_at: u64,
    /// Largest payload of a blob, bytes: nonce, sealed text, tag.
    #[serde(with = "quantity")]
    pub max_payload: u64,
    /// What one blob costs the node at the fees of the moment, wei.
    pub cost: U256,
}

/// Where on the chain a blob was included, from `eth_getBlockByNumber`. Sources that know only slots need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockHint {
    /// Block that carries the blob transaction, or a later one: the job's submit or completion block.
    #[serde(with = "quantity")]
    pub block_number: u64,
    /// Its hash.
    pub block_hash: B256,
    /// Its time, unix seconds.
    #[serde(with = "quantity")]
    pub timestamp: u64,
    /// Its parent beacon block root (EIP-4788), where the chain has one.
    pub parent_beacon_block_root: Option<B256>,
}

/// A session that waits for keys wrapped to its new worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReassignmentOffer {
    /// The session.
    pub session_id: SessionId,
    /// Its owner: the account that sends `updateSessionKey`.
    pub user: Address,
    /// The worker the chain chose.
    pub worker: Address,
    /// The worker's P-256 key, 65 bytes uncompressed.
    pub worker_encryption_key: Bytes,
    /// The disputer's P-256 key, 65 bytes uncompressed; empty when there is none.
    pub disputer_encryption_key: Bytes,
    /// The account's session nonce in JobRegistry.
    pub nonce: U256,
}

/// The fields of a `SessionKeyUpdate`, without the expiry that the dispatcher chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReassignmentRequest {
    /// The session.
    pub session_id: SessionId,
    /// The worker of the offer.
    pub worker: Address,
    /// The session key wrapped for the worker, 125 bytes.
    pub enc_worker_key: Bytes,
    /// The session key wrapped for the disputer, 125 bytes, or empty.
    pub enc_disputer_key: Bytes,
    /// The nonce of the offer.
    pub nonce: U256,
}

/// A session as the chain has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionInfo {
    /// Session id.
    pub id: SessionId,
    /// Its owner.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The worker that serves it.
    pub worker: Address,
    /// `"active"`, `"reassigning"` or `"closed"`.
    pub status: String,
    /// Jobs submitted in it that are still kept, oldest first.
    pub jobs: Vec<JobId>,
    /// Transaction that created it.
    pub create_transaction: TxHash,
}

/// A job as the chain has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobInfo {
    /// Job id.
    pub id: JobId,
    /// The session.
    pub session_id: SessionId,
    /// The session's owner.
    pub user: Address,
    /// The worker.
    pub worker: Address,
    /// `"submitted"`, `"acknowledged"`, `"completed"`, `"timedOut"`, `"disputed"`, `"resolved"` or `"released"`.
    pub state: String,
    /// Fee in escrow, wei.
    pub escrowed_fee: U256,
    /// Versioned hash of the prompt blob.
    pub prompt_blob_hash: B256,
    /// Versioned hash of the response blob, once completed.
    pub response_blob_hash: Option<B256>,
    /// keccak256 of the sealed answer, once completed.
    pub response_ciphertext_hash: Option<B256>,
    /// Unix seconds by which the next step is due.
    #[serde(with = "quantity")]
    pub deadline: u64,
    /// The transactions of its life so far.
    pub transactions: JobTransactions,
    /// Block of `submitJob`.
    pub submitted_in: BlockId,
    /// Block of `completeJob`.
    pub completed_in: Option<BlockId>,
}

/// Which transactions moved a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobTransactions {
    /// `submitJob`.
    pub submit: Option<TxHash>,
    /// `acknowledgeJob`.
    pub acknowledge: Option<TxHash>,
    /// `completeJob`.
    pub complete: Option<TxHash>,
    /// What ended it: release, timeout, resolution.
    pub settle: Option<TxHash>,
    /// The type-3 transaction of the prompt, when the node saw it.
    pub prompt_blob: Option<TxHash>,
    /// The type-3 transaction of the response, when the node saw it.
    pub response_blob: Option<TxHash>,
}

/// Everything needed to verify an answer without this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobReceipt {
    /// The job.
    pub job: JobInfo,
    /// Chain id, JobRegistry: the fields of the response digest.
    #[serde(with = "quantity")]
    pub chain_id: u64,
    /// JobRegistry.
    pub job_registry: Address,
    /// The worker's signature over the response digest, from the terminal frame; `None` when the node never got it.
    pub response_signature: Option<Bytes>,
    /// keccak256 of the terminal frame's ciphertext; differs from the job's when the worker committed another answer.
    pub relayed_ciphertext_hash: Option<B256>,
    /// The sealed answer as relayed.
    pub ciphertext: Option<Bytes>,
}

/// Proof that a worker signed one answer and committed another: the arguments of `disputeResponseMismatch`, which slashes
/// the worker and returns the fee.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisputeEvidence {
    /// The job.
    pub job_id: JobId,
    /// Its session.
    pub session_id: SessionId,
    /// Who signed.
    pub worker: Address,
    /// The sealed answer the worker signed and streamed.
    pub ciphertext: Bytes,
    /// Its signature over the response digest, 65 bytes r ‖ s ‖ v (27/28).
    pub signature: Bytes,
    /// keccak256 of `ciphertext`.
    pub signed_hash: B256,
    /// What the worker committed on chain instead.
    pub committed_hash: B256,
    /// JobRegistry, where the transaction goes.
    pub to: Address,
    /// Calldata of `disputeResponseMismatch`.
    pub data: Bytes,
}

/// A session that was asked for by sortition (SessionManager).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRequestInfo {
    /// The request's number.
    #[serde(with = "quantity")]
    pub id: u64,
    /// Who gets the session.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// Block of the request; the hash of the next one orders the workers.
    #[serde(with = "quantity")]
    pub request_block: u64,
    /// Unix seconds until which it can be claimed and given its keys.
    #[serde(with = "quantity")]
    pub expiry: u64,
    /// `open`, `claimed` (it waits for its keys: provideSessionKey), `ready`, or `expired`.
    pub status: String,
    /// Who claimed it.
    pub worker: Option<Address>,
    /// The session that came of it.
    pub session_id: Option<SessionId>,
    /// `requestSession`.
    pub transaction: B256,
}

/// What changed of an account's sessions, jobs and requests. The first one holds what there is: the newest of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountChange {
    /// The block up to which this holds.
    pub head: BlockId,
    /// Sessions that are new or changed.
    pub sessions: Vec<SessionInfo>,
    /// Jobs that are new or changed.
    pub jobs: Vec<JobInfo>,
    /// Sessions that are no longer on the chain (a reorganisation), or no longer among the newest.
    pub gone_sessions: Vec<SessionId>,
    /// Jobs likewise.
    pub gone_jobs: Vec<JobId>,
    /// Sortition requests that are new or changed.
    pub requests: Vec<SessionRequestInfo>,
    /// Numbers of requests that are no longer on the chain, or no longer among the newest.
    pub gone_requests: Vec<Quantity>,
}

/// What changed of a worker's jobs. The first one holds the open ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkChange {
    /// The block up to which this holds.
    pub head: BlockId,
    /// Open jobs that are new or changed.
    pub jobs: Vec<JobInfo>,
    /// Jobs that are no longer open, or no longer the worker's.
    pub closed: Vec<JobId>,
}

/// What changed of the network. The first one holds everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkChange {
    /// The block up to which this holds.
    pub head: BlockId,
    /// AIConfig's values, when one of them changed.
    #[serde(with = "quantity::nested")]
    pub params: Option<ChainParams>,
    /// Models that are new or changed; free slots count.
    pub models: Vec<ModelInfo>,
    /// Workers that are new or changed; a newer heartbeat alone does not count.
    pub workers: Vec<WorkerInfo>,
    /// Models that are gone.
    pub gone_models: Vec<ModelId>,
    /// Workers that deregistered.
    pub gone_workers: Vec<Address>,
}

/// Which software answers, and which interface it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// Version of the node's software.
    pub node: String,
    /// Version of this namespace: `info.version` of what `rpc.discover` gives. The major part changes when a caller
    /// must change.
    pub api: String,
    /// Where the contracts are; holds the chain id.
    #[serde(with = "quantity::nested")]
    pub deployment: Deployment,
}

/// What the node says of the frames it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrameReceipt {
    /// One entry per frame given, in order: the cursor under which it is kept (a duplicate gets the first one's).
    #[serde(with = "quantity::list")]
    pub cursors: Vec<u64>,
}

/// The node's state in one read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Version of the node's software.
    pub version: String,
    /// Whether everything below is as it should be.
    pub healthy: bool,
    /// Why it is not; `None` when it is.
    pub reason: Option<String>,
    /// The client's head.
    pub chain_head: Option<BlockId>,
    /// The feed's tip.
    pub feed_tip: Option<BlockId>,
    /// Each extension: name, the block it has applied, why its effects are halted.
    pub extensions: Vec<ExtensionHealth>,
    /// Sessions frames are relayed for at present.
    #[serde(with = "quantity")]
    pub subscribers: u64,
}

/// One extension's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExtensionHealth {
    /// Its name.
    pub name: String,
    /// The newest block it has applied.
    pub cursor: Option<BlockId>,
    /// Why its effects are halted; `None` when they are not.
    pub halted: Option<String>,
}

/// What the relay has counted since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayCounts {
    /// Frames kept.
    #[serde(with = "quantity")]
    pub kept: u64,
    /// Frames that were there already.
    #[serde(with = "quantity")]
    pub duplicates: u64,
    /// Complete frames whose signature is not the worker's.
    #[serde(with = "quantity")]
    pub bad_signatures: u64,
    /// Jobs whose `JobCompleted` commits to another answer than the complete frame.
    #[serde(with = "quantity")]
    pub mismatches: u64,
    /// Readers that were cut because they were too slow.
    #[serde(with = "quantity")]
    pub cut_readers: u64,
    /// Readers now.
    #[serde(with = "quantity")]
    pub readers: u64,
    /// Sessions somebody reads now.
    #[serde(with = "quantity")]
    pub sessions_read: u64,
}

/// What the keeper of this node has earned on this chain since the feed's first block, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeeperEarnings {
    /// Bounties for timeouts.
    pub timeouts: U256,
    /// Bounties for releases.
    pub releases: U256,
    /// What JobRegistry keeps of the latter, until it is worth the gas of `withdraw`.
    pub kept: U256,
    /// What was withdrawn.
    pub withdrawn: U256,
    /// Duties that wait for their time.
    #[serde(with = "quantity")]
    pub planned: u64,
}

/// What only the operator sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorStatus {
    /// The relay.
    pub relay: RelayCounts,
    /// Each extension: name, the block it has applied, why its effects are halted.
    pub extensions: Vec<ExtensionHealth>,
    /// The keeper; `None` where the node is none.
    pub keeper: Option<KeeperEarnings>,
}
