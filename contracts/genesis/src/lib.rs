//! The genesis of a LightChain AI chain, built by running the real constructors and initialisers in revm.
//!
//! [`build`] turns a [`GenesisSpec`] into a genesis that any execution client loads: proxies, implementations and their
//! libraries at [fixed addresses](addresses), owned by a timelock. The same specification gives the same bytes.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod addresses;
mod artefacts;
mod base;
mod builder;
pub mod dev;
mod error;
mod sandbox;
mod spec;

pub use artefacts::Contract;
pub use base::{DEFAULT_CHAIN_ID, DEPOSIT_CONTRACT, Fork, GAS_LIMIT, base_genesis};
pub use builder::{BuiltGenesis, build, creation_code};
pub use error::GenesisError;
pub use sandbox::{DEPLOYER, Sandbox};
pub use spec::{DEFAULT_TIMESTAMP, GenesisSpec, LCAI, ModelSpec, ProtocolParams};
