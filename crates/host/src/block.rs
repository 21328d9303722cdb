//! Blocks as the feed keeps them.

use alloy_primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};

/// A block's number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Block hash.
    pub hash: B256,
}

/// The three heads of the fork choice, as the host reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// The tip of the canonical chain.
    pub head: BlockRef,
    /// The safe head; `None` until the host has one.
    pub safe: Option<BlockRef>,
    /// The finalized head; `None` until the host has one.
    pub finalized: Option<BlockRef>,
}

/// A block with what the extensions need of it: our contracts' logs, the blobs it includes, and the contract state
/// that a [`crate::ReadPlan`] asked for at this very block. Replaying feed blocks needs no node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedBlock {
    /// Height.
    pub number: u64,
    /// Block hash.
    pub hash: B256,
    /// Hash of the parent block.
    pub parent_hash: B256,
    /// Block time, unix seconds.
    pub timestamp: u64,
    /// Logs of the watched contracts, in block order.
    pub logs: Vec<FeedLog>,
    /// Every blob that a transaction of this block carries, in block order.
    pub blobs: Vec<IncludedBlob>,
    /// Results of the calls a read plan asked for, executed on this block's state.
    pub reads: Vec<StateRead>,
}

impl FeedBlock {
    /// Number and hash.
    pub const fn block_ref(&self) -> BlockRef {
        BlockRef { number: self.number, hash: self.hash }
    }

    /// Number and hash of the parent; `None` for the genesis block.
    pub fn parent_ref(&self) -> Option<BlockRef> {
        self.number.checked_sub(1).map(|number| BlockRef { number, hash: self.parent_hash })
    }

    /// The output of a call the read plan asked for: `Some(Ok)` when it returned, `Some(Err)` with the revert data when
    /// it reverted, `None` when it was not asked for.
    pub fn read(&self, call: &Call) -> Option<Result<&Bytes, &Bytes>> {
        self.reads
            .iter()
            .find(|read| &read.call == call)
            .map(|read| if read.success { Ok(&read.output) } else { Err(&read.output) })
    }
}

/// A log of a watched contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedLog {
    /// The contract that emitted it.
    pub address: Address,
    /// Topics, the event signature first.
    pub topics: Vec<B256>,
    /// Unindexed arguments, ABI-encoded.
    pub data: Bytes,
    /// Hash of the transaction that emitted it.
    pub transaction_hash: B256,
    /// Index of that transaction in the block.
    pub transaction_index: u64,
    /// Index of the log in the block.
    pub log_index: u64,
}

/// A blob that a block's transaction carries (EIP-4844).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncludedBlob {
    /// Hash of the type-3 transaction.
    pub transaction_hash: B256,
    /// Index within that transaction.
    pub index: u64,
    /// The blob's versioned hash.
    pub versioned_hash: B256,
}

/// A read-only contract call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    /// The contract.
    pub to: Address,
    /// ABI-encoded calldata.
    pub input: Bytes,
}

/// What a [`Call`] gave on the state of one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRead {
    /// The call.
    pub call: Call,
    /// Whether it returned rather than reverted.
    pub success: bool,
    /// Return data, or revert data.
    pub output: Bytes,
}
