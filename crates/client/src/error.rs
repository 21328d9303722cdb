//! Why asking failed.

use crate::StreamError;
use alloy_primitives::{Address, U256, utils::format_ether};
use thiserror::Error;

/// Why a step of the user's side failed. No text holds a prompt, an answer or a key.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The node cannot be reached.
    #[error("cannot reach a node at {url}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// The node is on another chain.
    #[error("the node is on chain {found}, expected {expected}")]
    WrongChain {
        /// The chain asked for.
        expected: u64,
        /// The chain the node is on.
        found: u64,
    },
    /// The network does not offer the model.
    #[error("{0}")]
    UnknownModel(String),
    /// The account cannot pay.
    #[error("account {account} has {} LCAI, needs at least {} LCAI (fee and gas)", format_ether(*.balance), format_ether(*.needed))]
    Unfunded {
        /// The account.
        account: Address,
        /// What it has, wei.
        balance: U256,
        /// What is needed, wei.
        needed: U256,
    },
    /// The prompt does not fit into one blob.
    #[error("the prompt has {size} bytes, at most {limit} fit into one blob once sealed")]
    PromptTooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes that fit.
        limit: usize,
    },
    /// The prompt has no text.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The node refused a call.
    #[error("the node refused {method}: {message} (code {code})")]
    Refused {
        /// The JSON-RPC method.
        method: &'static str,
        /// The JSON-RPC code.
        code: i32,
        /// The node's words.
        message: String,
    },
    /// A transaction failed or was refused.
    #[error("{what} failed: {reason}")]
    Transaction {
        /// What the transaction was for.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// What came back does not verify.
    #[error("the answer does not verify: {0}")]
    Unverified(String),
    /// The stream broke a rule.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The job ended without an answer.
    #[error("job {job} ended without an answer: {reason}")]
    NoAnswer {
        /// Job id.
        job: u64,
        /// What happened.
        reason: String,
    },
    /// Nothing happened in time.
    #[error("gave up waiting for {what} after {seconds} s")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// Seconds waited.
        seconds: u64,
    },
    /// A session file cannot be used.
    #[error("session file {path}: {reason}")]
    SessionFile {
        /// Its path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The node's answer has an unexpected form.
    #[error("the node's answer to {method} cannot be used: {reason}")]
    Malformed {
        /// The JSON-RPC method.
        method: &'static str,
        /// What was wrong.
        reason: String,
    },
}

impl ClientError {
    /// The process exit code of the command line: stable, listed in `lcai --help`.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 3,
            Self::WrongChain { .. } => 4,
            Self::UnknownModel(_) => 5,
            Self::Unfunded { .. } => 6,
            Self::PromptTooLarge { .. } | Self::EmptyPrompt => 7,
            Self::Refused { .. } | Self::Transaction { .. } => 9,
            Self::Unverified(_) | Self::Stream(_) => 10,
            Self::NoAnswer { .. } => 11,
            Self::TimedOut { .. } => 12,
            Self::SessionFile { .. } | Self::Malformed { .. } => 1,
        }
    }
}
