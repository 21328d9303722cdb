//! `lcai devnet`: a complete network in this process.

mod accounts;
mod args;
mod network;

pub use accounts::{DevAccounts, Role};
pub use args::{DevnetArgs, run};
pub use network::{Devnet, DevnetConfig, WorkerModel};
