//! Ids, contract bindings, EIP-712 types, wire frames, prompt envelopes and history of the LightChain AI chain: no I/O.
//!
//! Everything here is a pure type or a pure function. Formats are those of the live network, so that wallets, workers and
//! SDKs that run against it run against this node unchanged.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod contracts;
pub mod draw;
pub mod eip712;
pub mod frames;
pub mod history;
pub mod ids;
pub mod login;
pub mod params;
pub mod prompt;
pub mod quantity;
pub mod revert;

pub use contracts::{Deployment, JobState, RequestStatus, SessionStatus, WORKER_REGISTRY_PREDEPLOY};
pub use draw::{Candidate, draw};
pub use eip712::{Heartbeat, HeartbeatStatus};
pub use frames::{Envelope, Frame, FrameKind, FrameType};
pub use ids::{JobId, ModelId, SessionId, Subject};
pub use params::ChainParams;
pub use quantity::Quantity;
