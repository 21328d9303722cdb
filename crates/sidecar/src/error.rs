//! Why a worker does not start.

use crate::{node::NodeError, store::StoreError};
use alloy_primitives::{Address, U256, utils::format_ether};
use lcai_host::{FeedError, HostError, JournalError, LaneError, RunnerError};
use lcai_inference::InferenceError;
use thiserror::Error;

/// Why a worker does not start, or cannot be registered. The texts are for the operator and say what to do.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The node did not answer, or refused.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The chain could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The node runs with other contracts than the worker was told.
    #[error(
        "the node's contracts are not the ones this worker was configured for (JobRegistry {found}, expected {expected})"
    )]
    OtherDeployment {
        /// The JobRegistry asked for.
        expected: Address,
        /// The node's.
        found: Address,
    },
    /// Nothing to serve.
    #[error("no model is configured")]
    NoModels,
    /// The backend cannot answer with a model.
    #[error("model {0} is not available in the backend")]
    ModelMissing(String),
    /// The backend does not answer.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The account is no worker.
    #[error("{0} is not a registered worker; register it first")]
    NotRegistered(Address),
    /// The chain has another encryption key for the worker: prompts would be sealed to a key that is not here.
    #[error("the encryption key on chain for {0} is not the one in this worker's keystore")]
    OtherEncryptionKey(Address),
    /// The model is not on offer.
    #[error("model {0} is not whitelisted on this network")]
    ModelNotWhitelisted(String),
    /// The worker does not offer the model.
    #[error("worker {worker} has not added model {model}; add it first")]
    ModelNotAdded {
        /// The worker.
        worker: Address,
        /// The model's name.
        model: String,
    },
    /// The registry does not count the worker as eligible.
    #[error("worker {worker} is not eligible for model {model}: {reason}")]
    NotEligible {
        /// The worker.
        worker: Address,
        /// The model's name.
        model: String,
        /// What the registry says about it.
        reason: String,
    },
    /// An account cannot pay for what it has to send.
    #[error("account {account} has {} LCAI, at least {} are needed", format_ether(*.has), format_ether(*.needs))]
    Underfunded {
        /// The account.
        account: Address,
        /// Its balance, wei.
        has: U256,
        /// What is needed, wei.
        needs: U256,
    },
    /// The worker's suspension has not cooled down.
    #[error("worker {worker} is suspended until {until} (unix seconds)")]
    Suspended {
        /// The worker.
        worker: Address,
        /// From when on it may reinstate itself, unix seconds.
        until: u64,
    },
    /// The account and the blob account are the same: pools refuse both classes of transactions from one account.
    #[error("account and blob account must differ, both are {0}")]
    SameAccount(Address),
    /// A transaction did not go through.
    #[error(transparent)]
    Transaction(#[from] LaneError),
    /// A transaction was included and reverted.
    #[error("transaction {0} reverted")]
    Reverted(alloy_primitives::TxHash),
    /// An answer of the chain does not decode.
    #[error("the chain's answer to {0} cannot be read: is this a LightChain AI network?")]
    Malformed(&'static str),
    /// The worker's directory cannot be used.
    #[error("the worker's data directory {path} cannot be used: {reason}")]
    DataDirectory {
        /// The directory.
        path: String,
        /// What was wrong.
        reason: String,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The worker's records cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The core cannot start.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The feed cannot start.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// A background task was lost while the worker started.
    #[error("the worker could not start: {0}")]
    Task(String),
}

impl WorkerError {
    /// The process exit code of the command line: stable, listed in `lcai --help`.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Host(HostError::Unreachable(_)) => 3,
            Self::OtherDeployment { .. } => 4,
            Self::ModelNotWhitelisted(_) => 5,
            Self::Underfunded { .. } | Self::Transaction(LaneError::Underfunded { .. }) => 6,
            Self::OtherEncryptionKey(_) | Self::SameAccount(_) => 8,
            Self::NotRegistered(_)
            | Self::NotEligible { .. }
            | Self::Suspended { .. }
            | Self::Transaction(_)
            | Self::Reverted(_) => 9,
            _ => 1,
        }
    }
}
