//! What the directory remembers of each model, worker, session and job.

use alloy_primitives::{Address, B256, Bytes, U256};
use lcai_host::BlockRef;
use lcai_primitives::{
    contracts::{JobState, SessionStatus},
    ids::{JobId, ModelId, SessionId, Subject},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A model as AIConfig and WorkerRegistry have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Flat fee per job, wei.
    pub fee: U256,
    /// Most tokens an answer may have.
    pub max_output_tokens: U256,
    /// AIConfig accepts jobs for it.
    pub enabled: bool,
}

/// A worker as WorkerRegistry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Stake, wei.
    pub stake: U256,
    /// P-256 key, 65 bytes uncompressed.
    pub encryption_key: Bytes,
    /// Suspended until it reinstates itself; the time from which it may.
    pub suspended_until: Option<u64>,
    /// Reputation score; every worker has the same where no ReputationRegistry is deployed.
    pub reputation: u64,
    /// Models it has listed.
    pub models: BTreeSet<ModelId>,
    /// Jobs submitted or acknowledged, counted from events.
    pub open_jobs: u64,
}

/// A worker's newest heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHealth {
    /// When it was signed, unix seconds.
    pub last_heartbeat: u64,
    /// Jobs it says it works on.
    pub active_jobs: u32,
    /// Jobs it is willing to work on at once.
    pub max_jobs: u32,
    /// It takes no new sessions.
    pub draining: bool,
    /// Its model backend answers.
    pub inference_ready: bool,
    /// Number of the heartbeat; grows.
    pub sequence: u64,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its owner.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The worker that serves it.
    pub worker: Address,
    /// Active, reassigning, closed.
    pub status: SessionStatus,
    /// Its jobs, oldest first.
    pub jobs: Vec<JobId>,
    /// Transaction that created it.
    pub create_transaction: B256,
    /// Block that created it.
    pub created_in: BlockRef,
    /// Block time of its creation or newest job, unix seconds.
    pub last_activity: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its session.
    pub session_id: SessionId,
    /// The session's owner.
    pub user: Address,
    /// The worker.
    pub worker: Address,
    /// Where it is in its life.
    pub state: JobState,
    /// Fee in escrow, wei.
    pub escrowed_fee: U256,
    /// Versioned hash of the prompt blob.
    pub prompt_blob_hash: B256,
    /// Versioned hash of the response blob, once completed.
    pub response_blob_hash: Option<B256>,
    /// keccak256 of the sealed answer, once completed.
    pub response_ciphertext_hash: Option<B256>,
    /// Unix seconds of its submission.
    pub submitted_at: u64,
    /// Unix seconds of its completion; 0 before.
    pub completed_at: u64,
    /// Unix seconds by which the next step is due.
    pub deadline: u64,
    /// `submitJob`.
    pub submit_tx: Option<B256>,
    /// `acknowledgeJob`.
    pub ack_tx: Option<B256>,
    /// `completeJob`.
    pub complete_tx: Option<B256>,
    /// What ended it: release, timeout, resolution, no-fault settlement.
    pub settle_tx: Option<B256>,
    /// Block that submitted it.
    pub submitted_in: BlockRef,
    /// Block that completed it.
    pub completed_in: Option<BlockRef>,
    /// Its identity across forks.
    pub subject: Subject,
}

impl Job {
    /// Submitted or acknowledged: it occupies one of its worker's slots.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, JobState::Submitted | JobState::Acknowledged)
    }
}
