//! The parts of the `lcai` command line, usable from tests.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod ask;
pub mod cli;
#[cfg(feature = "devnet")]
pub mod devnet;
pub mod exit;
pub mod keys;
pub mod logging;
pub mod models;
pub mod progress;
pub mod verify;
pub mod verify_draw;
mod verify_draw_chain;
pub mod worker;

/// A runtime whose threads have stacks deep enough for blob transactions in debug builds.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(16 << 20).build()
}
