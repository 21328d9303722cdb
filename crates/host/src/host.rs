//! The contract between a chain and the extensions.

use crate::{BlockRef, Call, FeedBlock, Heads, HostError};
use alloy_primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;

/// The hashes of the canonical chain as our journal knows it. A notifier walks back by these, never by the client's
/// own cursor.
pub trait CanonicalHashes: Send + Sync {
    /// The newest block of the feed; `None` while it is empty.
    fn tip(&self) -> Option<BlockRef>;
    /// The hash at a height; `None` above the tip or below what is kept.
    fn hash_at(&self, number: u64) -> Option<B256>;
    /// The block reported as finished: up to it nothing is taken back. `None` where none was reported.
    fn settled(&self) -> Option<BlockRef> {
        None
    }
}

/// One step of the canonical chain. Reverts come first, then commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNotification {
    /// Blocks that left the canonical chain, highest first. The first is the feed's tip, or this is empty.
    pub reverted: Vec<BlockRef>,
    /// Blocks that joined it, lowest first; the first one's parent is the tip after the reverts.
    pub committed: Vec<FeedBlock>,
    /// The heads when the notification was made.
    pub heads: Heads,
}

/// Follows the canonical chain.
///
/// 1. `next` gives the step from `chain.tip()` to the host's head (or part of it, at most a batch), whatever happened in
///    between: a gap is filled, a reorg is unwound to the common ancestor found by `chain`'s own hashes. On every step
///    the parent hashes are checked.
/// 2. A step without blocks means that only `safe` or `finalized` moved.
/// 3. Blocks carry every log of the watched contracts, every included blob, and the reads of the plan.
/// 4. `finished` says that everything up to the block will never be asked for again.
#[async_trait]
pub trait HostNotifier: Send {
    /// Waits for the next step. Cancel safe.
    async fn next(&mut self, chain: &dyn CanonicalHashes) -> Result<HostNotification, HostError>;

    /// Reports a finished height; the feed writer calls it with finalized-1 only.
    fn finished(&mut self, block: BlockRef);
}

/// A transaction's inclusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The block that includes it, canonical when asked.
    pub block: BlockRef,
    /// Whether it succeeded.
    pub success: bool,
    /// Gas used.
    pub gas_used: u64,
    /// Price paid per gas, wei.
    pub effective_gas_price: u128,
}

/// What is needed to estimate a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransactionRequest {
    /// Sender.
    pub from: Address,
    /// The contract.
    pub to: Address,
    /// Wei sent.
    pub value: U256,
    /// Calldata.
    pub input: Bytes,
    /// Versioned hashes of the blobs it carries (EIP-4844), so that `blobhash` answers while it is estimated.
    pub blob_versioned_hashes: Vec<B256>,
}

/// Answers questions about the chain and takes transactions. Cheap to clone behind an `Arc`; callable from any task.
#[async_trait]
pub trait HostClient: Send + Sync {
    /// The chain id (EIP-155).
    fn chain_id(&self) -> u64;
    /// Head, safe and finalized.
    async fn heads(&self) -> Result<Heads, HostError>;
    /// Executes a read-only call on the state of a block (`None`: the head). A revert is [`HostError::Reverted`].
    async fn call(&self, call: Call, at: Option<B256>) -> Result<Bytes, HostError>;
    /// The account's nonce; with `pending`, the pool's transactions count too.
    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, HostError>;
    /// The account's balance at the head, wei.
    async fn balance(&self, account: Address) -> Result<U256, HostError>;
    /// Base fee of the next block and blob base fee, wei.
    async fn base_fees(&self) -> Result<(u128, u128), HostError>;
    /// Gas the transaction needs on the pending state. A revert is [`HostError::Reverted`].
    async fn estimate_gas(&self, request: TransactionRequest) -> Result<u64, HostError>;
    /// Gives a signed transaction (EIP-2718 bytes; a type-3 one in its network form with the sidecar) to the pool. A
    /// transaction the pool already knows is a success.
    async fn send_raw_transaction(&self, transaction: Bytes) -> Result<B256, HostError>;
    /// Where a transaction was included on the canonical chain.
    async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, HostError>;
    /// The raw bytes (131,072) of a blob the client holds, unverified: the pool or the block builder, not the beacon
    /// chain. `None` when it has none.
    async fn blob(&self, versioned_hash: B256) -> Result<Option<Bytes>, HostError>;
}
