//! What the relay must know of sessions and jobs: the narrow seam between it and whoever follows the chain.

use alloy_primitives::{Address, B256};
use lcai_primitives::{
    contracts::JobState,
    ids::{JobId, SessionId, Subject},
};

/// Whose session it is, on this fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionParties {
    /// The owner.
    pub user: Address,
    /// The worker that serves it now.
    pub worker: Address,
    /// The transaction that created it: tells it from another session under the same number on another fork.
    pub create_transaction: B256,
}

/// A job, on this fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobView {
    /// Its identity across forks; holds job and session id.
    pub subject: Subject,
    /// The worker whose answer counts.
    pub worker: Address,
    /// How far it is.
    pub state: JobState,
    /// keccak256 of the sealed answer, from `JobCompleted`.
    pub response_ciphertext_hash: Option<B256>,
}

impl JobView {
    /// Whether nothing about the job can change any more.
    pub const fn is_settled(&self) -> bool {
        matches!(self.state, JobState::TimedOut | JobState::Resolved | JobState::Released)
    }
}

/// Looks sessions and jobs up on the canonical chain. Answers from memory: callers hold no lock and expect no wait.
pub trait SessionView: Send + Sync + 'static {
    /// A session; `None` when the chain, as far as it has been followed, has none.
    fn session(&self, id: SessionId) -> Option<SessionParties>;
    /// A job; `None` likewise.
    fn job(&self, id: JobId) -> Option<JobView>;
}
