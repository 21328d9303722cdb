//! The LightChain AI execution node: Reth with the `lcai` extensions. Everything of Reth stays; the extensions are the
//! ones that run over JSON-RPC elsewhere, here over the node's own chain, pool and RPC server.
//!
//! - [`client`] is the chain and the pool of this process as a host; [`notifier`] follows it.
//! - [`exex`] is the one extension Reth sees; [`node`] assembles everything behind it.
//! - [`chain`], [`deployment`], [`args`], [`disputer`], [`keys`], [`pruning`] are what an operator sets.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unused_crate_dependencies))]

pub mod args;
mod blobs;
pub mod chain;
pub mod client;
pub mod deployment;
pub mod disputer;
mod evm;
pub mod exex;
pub mod keys;
pub mod node;
pub mod notifier;
pub mod provider;
pub mod pruning;
pub mod run;
