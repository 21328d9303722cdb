//! The `lcai_*` JSON-RPC namespace and its subscriptions.
//!
//! [`api`] is the namespace itself (server and client generated from one trait), [`types`] and [`verdicts`] what crosses the wire,
//! [`error`] the documented error codes. [`LcaiRpc`] is the node's side of it, [`serve()`] a server with bounds.
//!
//! - [`Relay`] takes frames from a session's worker, keeps them in a [`FrameStore`], and hands them to the session's
//!   owner: in order, without gap or repetition, across reconnects and restarts.
//! - [`TokenIssuer`] logs accounts in by their own signature.
//! - [`BlobService`] posts blobs for users, within a quota, and reads them back.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod error;
pub mod openrpc;
pub mod types;
pub mod verdicts;

#[cfg(test)]
mod abuse_tests;
mod account_index;
mod blobs;
mod bounds;
mod caller;
mod directory;
mod fanout;
#[cfg(test)]
mod fuzz_tests;
mod gather;
mod jwt;
mod limits;
#[cfg(test)]
mod loopback_tests;
mod operator;
mod peers;
mod quota;
mod relay;
mod serve;
mod server;
mod session_view;
mod signed_answers;
mod store;
mod streams;
#[cfg(test)]
mod testing;
mod tokens;
#[cfg(test)]
mod torture_tests;
mod upstream;
mod watch;

pub use api::{LcaiApiClient, LcaiApiServer};
pub use blobs::{BlobService, Publisher, PublisherConfig};
pub use caller::{MAX_PROOF_LIFETIME, check_proof, check_reassignment_proof};
pub use directory::{Directory, DispatchDirectory};
pub use error::LcaiError;
pub use fanout::Live;
pub use jwt::JwtSecret;
pub use limits::{AccountLimiter, Rate};
pub use operator::{
    LcaiDisputerApiClient, LcaiDisputerApiServer, LcaiDrillApiClient, LcaiDrillApiServer, LcaiOperator,
    LcaiOperatorApiClient, LcaiOperatorApiServer,
};
pub use relay::{
    DEFAULT_SESSION_CAP, FrameReader, MAX_FRAMES_PER_CALL, Relay, RelayConfig, RelayStats, envelopes,
};
pub use serve::{RpcHandle, ServerLimits, serve, serve_operator};
pub use server::{ExtensionStatus, LcaiRpc, MAX_POLL_MS, RpcParts, RpcSettings};
pub use session_view::{JobView, SessionParties, SessionView};
pub use store::{FrameStore, StoreError};
pub use tokens::{TokenConfig, TokenIssuer, TokenKey};
pub use upstream::Upstream;

use std::time::{SystemTime, UNIX_EPOCH};

/// The time, unix seconds.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
