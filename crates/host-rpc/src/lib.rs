//! Host over any execution client's JSON-RPC: WebSocket (`ws://`, `wss://`) or, with polling, HTTP.
//!
//! [`RpcClient`] answers questions and takes transactions, [`RpcNotifier`] follows the canonical chain. Both walk by block
//! hashes and trust no cursor of the node's: a `newHeads` message is only a reason to look.

mod client;
mod connection;
mod notifier;
mod wire;

pub use client::{BlobLookup, RpcClient};
pub use notifier::{NotifierConfig, RpcNotifier};
