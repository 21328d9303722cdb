//! Errors at the seam between hosts and extensions.

use alloy_primitives::{B256, Bytes};
use thiserror::Error;

/// Why a host could not answer.
#[derive(Debug, Error)]
pub enum HostError {
    /// The node could not be reached, or the connection broke; trying again can help.
    #[error("node not reachable: {0}")]
    Unreachable(String),
    /// The node answered with a JSON-RPC error.
    #[error("node refused {method}: {message} (code {code})")]
    Rejected {
        /// The JSON-RPC method, or its in-process equivalent.
        method: String,
        /// The JSON-RPC error code.
        code: i64,
        /// The node's message.
        message: String,
    },
    /// The call reverted; holds the revert data.
    #[error("call reverted with {0}")]
    Reverted(Bytes),
    /// The node runs another chain than expected.
    #[error("the node is on chain {found}, expected {expected}")]
    WrongChain {
        /// The chain id asked for.
        expected: u64,
        /// The chain id the node reports.
        found: u64,
    },
    /// A block the node should have is gone, e.g. by a reorg while it was read; the caller starts over from the head.
    #[error("block {0} is not known to the node")]
    UnknownBlock(B256),
    /// The chain left the blocks our journal still knows: a reorg deeper than what is kept.
    #[error("no block of the journal is on the node's chain any more, down to height {0}")]
    NoCommonAncestor(u64),
    /// The node no longer has what the feed must still read of a block.
    #[error(
        "the node pruned {what} of block {number} ({flags}) and the journal does not have the block: resync the node without \
         these flags, or give it the journal that has the block"
    )]
    Pruned {
        /// What is gone.
        what: &'static str,
        /// The block.
        number: u64,
        /// The settings of the node that remove it.
        flags: &'static str,
    },
    /// The node's answer could not be understood.
    #[error("the node's answer to {method} cannot be read: {reason}")]
    Malformed {
        /// The JSON-RPC method.
        method: String,
        /// What was wrong.
        reason: String,
    },
    /// The host has closed; no more will come.
    #[error("the host has shut down")]
    Closed,
}

impl HostError {
    /// Whether the same request can succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::UnknownBlock(_))
    }
}

/// Why an extension's core refused a block or an input. A core never fails on what a chain can contain; these are
/// faults of storage or of the program, and the runner stops the extension loudly.
#[derive(Debug, Error)]
pub enum CoreError {
    /// A record of the journal cannot be decoded.
    #[error("a journal record of table {table} cannot be decoded: {reason}")]
    Corrupt {
        /// Table name.
        table: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// A read the plan asks for is missing from the feed block.
    #[error("block {number} lacks a state read that the extension planned: {what}")]
    MissingRead {
        /// Block height.
        number: u64,
        /// Which read.
        what: String,
    },
    /// A table is changed by blocks and by inputs. Reverts undo the former and keep the latter, so it must be two tables.
    #[error("table {table} is changed both by blocks and by inputs")]
    MixedWriters {
        /// Table name.
        table: &'static str,
    },
    /// An input cannot be decoded.
    #[error("an input cannot be decoded: {0}")]
    BadInput(String),
}
