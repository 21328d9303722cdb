//! What the disputer remembers of sessions, jobs and workers, and what its effects are told.

use alloy_primitives::{Address, B256, Bytes};
use lcai_host::BlockRef;
use lcai_primitives::{
    JobState,
    ids::{JobId, ModelId, SessionId, Subject},
};
use serde::{Deserialize, Serialize};

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its owner.
    pub user: Address,
    /// The model it asks.
    pub model: ModelId,
    /// The session keys wrapped for the disputer, newest first; empty when nothing was escrowed.
    pub escrow: Vec<Bytes>,
    /// Block time at which the newest of them was wrapped, or the session created without one; unix seconds.
    pub escrowed_at: u64,
    /// Its jobs, oldest first.
    pub jobs: Vec<JobId>,
    /// Block time of its creation or newest job, unix seconds.
    pub last_activity: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// What it is, on this fork.
    pub subject: Subject,
    /// Who answers it.
    pub worker: Address,
    /// Its state.
    pub state: JobState,
    /// The block that submitted it.
    pub submitted_in: BlockRef,
    /// That block's time, unix seconds.
    pub submitted_at: u64,
    /// Its answer, once it has one.
    pub answer: Option<AnswerRow>,
    /// Whether no block included the answer's blob, from the submission until a reorg's reach after the completion.
    pub unpublished: bool,
    /// The dispute over it, once there is one.
    pub dispute: Option<DisputeRow>,
}

/// A job's answer, as committed on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Block of the completion.
    pub block: u64,
    /// Versioned hash of the response blob.
    pub blob_hash: B256,
    /// keccak256 of the sealed answer.
    pub ciphertext_hash: B256,
}

/// A dispute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisputeRow {
    /// Who filed it.
    pub filer: Address,
    /// The block that holds it.
    pub created_in: BlockRef,
    /// Unix seconds of block time after which it defaults.
    pub deadline: u64,
    /// What an answer must score, basis points.
    pub threshold_bps: u16,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// How a dispute ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The worker lost, with this score in basis points.
    Guilty(u64),
    /// The worker won, with this score in basis points.
    NotGuilty(u64),
    /// There was no verdict in time.
    Defaulted,
}

/// What became of a worker's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRecord {
    /// Jobs completed.
    pub completed: u64,
    /// Disputes filed.
    pub disputed: u64,
    /// Verdicts against it, proofs of a second answer included.
    pub convicted: u64,
    /// Verdicts for it.
    pub acquitted: u64,
    /// Disputes without a verdict.
    pub defaulted: u64,
}

impl WorkerRecord {
    /// Whether it lost a dispute, or waits for the verdict on one: then it is tested more often.
    pub const fn is_suspected(&self) -> bool {
        let ended = self.convicted.saturating_add(self.acquitted).saturating_add(self.defaulted);
        self.convicted > 0 || self.disputed > ended
    }
}

/// What CanaryLedger holds for an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRow {
    /// The commitment to its seed.
    pub root: B256,
    /// Block time of the commitment, unix seconds.
    pub committed_at: u64,
    /// Its seed and canaries, once they are known.
    pub revealed: Option<Revealed>,
    /// Whether the reveal was asked for.
    pub asked: bool,
}

/// A revealed epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revealed {
    /// The seed.
    pub seed: B256,
    /// The jobs that were canaries.
    pub jobs: Vec<JobId>,
}

/// A time in which a worker was suspended, unix seconds of block time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// When it began.
    pub from: u64,
    /// When the worker was reinstated; `None` while it is not.
    pub until: Option<u64>,
}

/// An earlier or neighbouring job of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorRef {
    /// Its id.
    pub job_id: JobId,
    /// Block of its submission.
    pub submit_block: u64,
    /// Versioned hash of its prompt blob.
    pub prompt_blob_hash: B256,
    /// Versioned hash of its response blob and the block that committed it, where it has an answer.
    pub response: Option<(B256, u64)>,
}

/// Everything there is to know of a disputed job without opening a blob: the payload of the disputer's effects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The job.
    pub subject: Subject,
    /// Whose session it is of.
    pub user: Address,
    /// The model it asks.
    pub model: ModelId,
    /// Whether its user filed the dispute, and neither the disputer nor one of its canaries' accounts.
    pub by_user: bool,
    /// Whether it is judged without a dispute, as a canary: nobody waits for the verdict.
    pub canary: bool,
    /// Whether its session is one of our canaries': both of its wrapped keys are then ours.
    pub ours: bool,
    /// The session keys wrapped for the disputer, newest first.
    pub escrow: Vec<Bytes>,
    /// When the newest was wrapped; unix seconds of block time.
    pub escrowed_at: u64,
    /// Block of the submission; the history rule counts from it.
    pub submit_block: u64,
    /// The answer.
    pub answer: AnswerRow,
    /// Whether the chain never included the answer's blob.
    pub unpublished: bool,
    /// Other jobs of the session that can be part of its history.
    pub prior: Vec<PriorRef>,
    /// What the answer must score, basis points.
    pub threshold_bps: u16,
    /// Unix seconds after which a verdict is too late.
    pub deadline: u64,
}

impl Case {
    /// The session.
    pub const fn session(&self) -> SessionId {
        self.subject.session_id
    }
}
