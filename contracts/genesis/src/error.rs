//! What can go wrong.

use alloy_primitives::{Address, Bytes};

/// Why a genesis could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// A committed artefact is not what the builder expects.
    #[error("artefact of {contract}: {reason}")]
    Artefact {
        /// Which contract.
        contract: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A constructor, initialiser or setter reverted: the specification asks for something the contracts refuse.
    #[error("{what} reverted with {output}")]
    Reverted {
        /// What was run.
        what: String,
        /// ABI-encoded error of the contract.
        output: Bytes,
    },
    /// The EVM stopped: out of gas, invalid code.
    #[error("{what} failed: {reason}")]
    Failed {
        /// What was run.
        what: String,
        /// The EVM's words.
        reason: String,
    },
    /// Building left state at an account that is not part of the deployment.
    #[error("unexpected state at {0}")]
    Stray(Address),
    /// A name in the specification that cannot be.
    #[error("model {name:?}: {reason}")]
    Model {
        /// As given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}
