//! An execution client in-process (ethrex), for the devnet and the tests.
//!
//! [`EmbeddedChain::start`] starts a chain from a genesis; [`EmbeddedChain::rpc`] is its JSON-RPC without a socket, and
//! [`EmbeddedChain::rpc_module`] the same for a jsonrpsee server. Blocks come by the clock, on demand or by command
//! ([`Mining`]), and [`EmbeddedChain::reorg`] replaces them. Start one chain per process.
//!
//! What it does not do (ethrex 24.0.0): `eth_sendTransaction`, `eth_simulateV1`, filters, `debug_traceCall`, `trace_*`,
//! state overrides of `eth_call`, subscriptions other than `newHeads`. Of a block that a reorg removed, header, body,
//! receipts and logs stay readable by hash; asking for its state is an error.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

// Linked for its `vendored` feature alone: without it the client's HTTP client needs OpenSSL's headers to build. It has
// to be the first crate named here. OpenSSL and ethrex-crypto both define `SHA3_absorb` and `SHA3_squeeze`; libraries
// are linked in the reverse of the order in which crates are met, and only where ethrex-crypto's come first does the
// linker leave OpenSSL's in their archive instead of refusing two of a kind. The Keccak is the same; what OpenSSL loses
// is squeezing one SHAKE output in several steps, which nothing here does.
extern crate openssl as _;

mod archive;
mod blocks;
mod chain;
mod config;
mod engine;
mod error;
mod node;
mod producer;
mod reorg;
mod rpc;
mod workers;

pub use chain::{BYTES_PER_BLOB, BlockRef, EmbeddedChain, HeadEvent, Heads};
pub use config::{ChainConfig, Mining};
pub use error::EmbeddedChainError;
pub use reorg::ReorgPlan;

/// A multi-threaded tokio runtime whose threads have stacks of 16 MB.
///
/// The client's own code runs on such threads whatever the runtime is. Code that builds blob transactions in an
/// unoptimised build needs them as well: a single blob is 128 kB and moves over the stack.
///
/// # Errors
/// If the threads cannot be started.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().thread_stack_size(workers::STACK_SIZE).enable_all().build()
}
