//! `lcai devnet`: a complete network in this process.

mod args;
mod network;

pub use args::{DevnetArgs, run};
pub use lcai_genesis::dev::{DevAccounts, Role};
pub use network::{Devnet, DevnetConfig, WorkerModel};
