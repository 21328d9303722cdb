//! Disputes: re-execution, verdicts, evidence.
//!
//! [`DisputerCore`] is the pure core: it follows sessions, jobs and disputes and knows what is due by when.
//! [`Reexecution`] repeats a job from the escrowed session key and the chain's blobs. [`Ladder`] compares the worker's
//! answer with the model's own and says how alike they are. [`DisputeHandler`] publishes the [`Evidence`] and rules.
//! A verdict that cannot be reached is not guessed: the dispute then defaults on chain, and nobody is slashed.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod canary;
mod core;
mod handler;
mod history;
mod opening;
mod plan;
mod records;
mod reexecution;
#[cfg(test)]
mod testing;
mod turns;
mod verdict;
mod verdicts;

pub use core::{DisputerConfig, DisputerCore};
pub use handler::{CanaryFiler, DisputeHandler, DisputeParts, FilingError};
pub use history::reachable_histories;
pub use plan::DisputerPlan;
pub use records::{
    AnswerRow, Case, DisputeRow, EpochRow, JobRow, Outcome, PriorRef, Revealed, SessionRow, Suspension,
    WorkerRecord,
};
pub use reexecution::{JudgeError, Reexecution, ReexecutionParts, Undecided};
pub use verdict::{
    ByteEquality, Comparison, EVIDENCE_VERSION, Evidence, EvidenceError, Finding, Ground, Judgement, Ladder,
    Manifest, Pair, Rung, RungError, RungKind, Score, Similarity, TokenPrefix,
};
pub use verdicts::{Judged, Posted, VerdictStoreError, Verdicts};
