//! What can go wrong.

use alloy_primitives::B256;

/// An error of the embedded chain itself; errors of a JSON-RPC call are JSON-RPC errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedChainError {
    /// The genesis is not one that the client can start from.
    #[error("genesis is not usable: {0}")]
    Genesis(String),
    /// The client could not be assembled or one of its threads not started.
    #[error("the embedded client did not start: {0}")]
    Start(String),
    /// The chain was shut down, or a worker thread is gone.
    #[error("the embedded chain is shut down")]
    Stopped,
    /// The client's store failed.
    #[error("store: {0}")]
    Store(String),
    /// A block could not be built or executed.
    #[error("block {number}: {reason}")]
    Block {
        /// The number the block would have had.
        number: u64,
        /// The client's words.
        reason: String,
    },
    /// The client refused a fork choice.
    #[error("fork choice of {head} refused: {reason}")]
    ForkChoice {
        /// The head that was asked for.
        head: B256,
        /// The client's words.
        reason: String,
    },
    /// A reorg that cannot be: no depth, no new block, or deeper than the chain is long.
    #[error("reorg not possible: {0}")]
    Reorg(String),
    /// A raw transaction of a reorg plan that cannot be decoded.
    #[error("replacement transaction {index} of new block {block}: {reason}")]
    Transaction {
        /// Position of the block among the new ones, from 0.
        block: usize,
        /// Position of the transaction in it, from 0.
        index: usize,
        /// The client's words.
        reason: String,
    },
    /// The JWT-guarded server could not be started.
    #[error("engine server: {0}")]
    EngineServer(String),
    /// Two RPC modules claim the same method name.
    #[error("rpc module: {0}")]
    Module(#[from] jsonrpsee::server::RegisterMethodError),
}

impl From<ethrex_storage::error::StoreError> for EmbeddedChainError {
    fn from(error: ethrex_storage::error::StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
