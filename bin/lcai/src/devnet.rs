//! `lcai devnet`: a complete network in this process.

mod args;
mod fleet;
mod network;

pub use args::{DevnetArgs, run};
pub use fleet::{Fleet, FleetConfig, WorkerModel};
pub use lcai_genesis::dev::{DevAccounts, Role};
pub use network::{CanaryConfig, Devnet, DevnetConfig, genesis_spec};
