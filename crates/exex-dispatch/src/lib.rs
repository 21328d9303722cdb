//! Dispatch: the worker directory, the draw, session authorizations, keeper duties.
//!
//! [`DispatchCore`] is the pure core: it follows the contracts' events and knows every worker, session and job.
//! [`DispatchService`] answers "who serves this session" and signs for it; [`KeeperHandler`] performs the duties that
//! anyone may perform and that earn a bounty, and files answers that a worker signed and did not commit.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod agenda;
mod core;
mod directory;
pub mod duties;
mod error;
mod heartbeats;
#[cfg(test)]
mod hostile_tests;
mod jobs;
mod keeper;
mod key_update;
mod members;
mod mismatch;
mod plan;
mod records;
mod service;
mod snapshot;
pub mod standing;
#[cfg(test)]
mod tests;

pub use core::{DispatchConfig, DispatchCore, HEARTBEAT_TTL_SECONDS};
pub use directory::Directories;
pub use error::DispatchError;
pub use keeper::{KeeperHandler, KeeperReport};
pub use key_update::Reassignment;
pub use members::Members;
pub use mismatch::{SignedAnswer, SignedAnswers};
pub use plan::DispatchPlan;
pub use records::{Bounties, Job, Model, Session, SessionRequest, Speed, Worker, WorkerHealth, WorkerState};
pub use service::{
    AUTHORIZATION_LIFETIME_SECONDS, AuthorizationFields, Candidate, DispatchService, DispatchServiceConfig,
    Grant, HEARTBEAT_SKEW_SECONDS, Offer, WRAPPED_KEY_LEN,
};
pub use snapshot::{DrawRecord, DrawnWorker, Snapshot};
