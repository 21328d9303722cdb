//! The worker beside a node: sees a job, opens its prompt, has a model answer, streams the answer sealed, signs it once,
//! commits it on chain, and collects the fee.
//!
//! [`WorkerCore`] decides what is to be done, from blocks alone; the effects do it, each of them looking first what has
//! happened already, so that a crash at any point is continued and nothing is done twice. What must never differ between
//! two runs is on disk before it leaves: the sealed answer of each subject, and which answer each (job id, session id) was
//! signed for.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod blobs;
mod core;
mod error;
mod handler;
mod heartbeat;
mod keys;
mod load;
mod node;
mod prompts;
mod registration;
mod store;
mod stream;
#[cfg(test)]
mod testing;
mod worker;

pub use crate::core::{
    AcknowledgedTask, ClaimTask, Completion, JobRow, JobTask, PriorRef, ReleaseTask, RequestRow, SessionRow,
    WorkerCore, WorkerCoreConfig, WorkerPlan,
};
pub use error::WorkerError;
pub use keys::WorkerKeys;
pub use node::NodeError;
pub use registration::{Registration, deregister, register_worker, reinstate, top_up};
pub use store::StoreError;
pub use worker::{Worker, WorkerConfig, WorkerHandle, WorkerStatus};
