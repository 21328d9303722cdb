//! What the worker remembers, and what its effects are told.

use alloy_primitives::{Address, B256, Bytes, U256};
use lcai_host::BlockRef;
use lcai_primitives::{
    JobState, SessionStatus,
    ids::{JobId, ModelId, Subject},
};
use serde::{Deserialize, Serialize};

/// A session that is or was the worker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its owner.
    pub user: Address,
    /// The model it asks.
    pub model: ModelId,
    /// Whether it is the worker's at present.
    pub mine: bool,
    /// Its state.
    pub status: SessionStatus,
    /// The session key wrapped for the worker; empty while a new one is awaited.
    pub enc_worker_key: Bytes,
    /// Whether the feed holds the session from its creation, so that `jobs` is all of them.
    pub complete: bool,
    /// Its jobs as far as the feed holds them, oldest first.
    pub jobs: Vec<JobId>,
    /// Block time of its newest job, keys or creation, unix seconds: an idle session takes no more jobs.
    pub last_activity: u64,
}

/// A job of one of those sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// What it is, on this fork.
    pub subject: Subject,
    /// Whether it is the worker's to answer.
    pub mine: bool,
    /// Its state.
    pub state: JobState,
    /// The block that submitted it.
    pub submitted_in: BlockRef,
    /// Unix seconds by which the next step is due.
    pub deadline: u64,
    /// Block of its acknowledgement, once it has one.
    pub acknowledged_in: Option<u64>,
    /// Its answer, once it has one.
    pub completed: Option<Completion>,
}

/// A job's answer, as committed on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// Block of `completeJob`.
    pub block: u64,
    /// Its time, unix seconds.
    pub at: u64,
    /// Versioned hash of the response blob.
    pub response_blob_hash: B256,
    /// keccak256 of the sealed answer.
    pub ciphertext_hash: B256,
}

/// An earlier job that belongs to a job's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorRef {
    /// Its id.
    pub job_id: JobId,
    /// Block of its submission.
    pub submit_block: u64,
    /// Versioned hash of its prompt blob.
    pub prompt_blob_hash: B256,
    /// Versioned hash of its response blob and the block that committed it, if the history includes an answer.
    pub response: Option<(B256, u64)>,
}

/// Payload of `acknowledge` and `infer`: a job to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobTask {
    /// The job.
    pub subject: Subject,
    /// Its model.
    pub model: ModelId,
    /// The session key wrapped for the worker, as it was at submission.
    pub enc_worker_key: Bytes,
    /// Block of the submission; the history rule counts from it.
    pub submit_block: u64,
    /// Unix seconds by which it must be acknowledged.
    pub acknowledge_by: u64,
    /// The jobs of its history; `None` when the feed does not hold the session from its creation.
    pub prior: Option<Vec<PriorRef>>,
}

/// Payload of `complete` and `deliver`: an acknowledged job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcknowledgedTask {
    /// The job.
    pub subject: Subject,
    /// Unix seconds by which it must be completed.
    pub complete_by: u64,
}

/// Payload of `release`: jobs whose dispute window is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTask {
    /// The jobs, by number.
    pub jobs: Vec<JobId>,
}

/// A sortition request the worker may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRow {
    /// Tells it apart from another request under its number on another fork.
    pub transaction: B256,
    /// Block of the request.
    pub block: u64,
    /// Unix seconds until which it may be claimed and keyed.
    pub expiry: u64,
    /// The worker's stake at that block, wei.
    pub stake: U256,
    /// The worker's score at that block.
    pub score: u64,
    /// Everybody's stake at the end of that block, wei.
    pub total_stake: U256,
    /// The last block in which the worker did something that may raise its weight.
    pub weight_since: u64,
    /// The first block that may include the worker's claim, once the seed is known.
    pub claim_in: Option<u64>,
}

/// Payload of `claim`: a sortition request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimTask {
    /// The request's id.
    pub request: u64,
    /// The first block that may include the claim.
    pub claim_in: u64,
}
