//! What this crate asks of Reth's provider and pool.

use reth_chainspec::{ChainSpec, ChainSpecProvider};
use reth_ethereum_primitives::{Block, Receipt, TransactionSigned};
use reth_primitives_traits::HeaderTy;
use reth_provider::{BlockReaderIdExt, StateProviderFactory};
use reth_transaction_pool::{EthPooledTransaction, TransactionPool};

/// The chain as the node's database and memory hold it together.
pub trait NodeProvider:
    BlockReaderIdExt<
        Block = Block,
        Receipt = Receipt,
        Transaction = TransactionSigned,
        Header = HeaderTy<reth_ethereum_primitives::EthPrimitives>,
    > + StateProviderFactory
    + ChainSpecProvider<ChainSpec = ChainSpec>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<P> NodeProvider for P where
    P: BlockReaderIdExt<
            Block = Block,
            Receipt = Receipt,
            Transaction = TransactionSigned,
            Header = HeaderTy<reth_ethereum_primitives::EthPrimitives>,
        > + StateProviderFactory
        + ChainSpecProvider<ChainSpec = ChainSpec>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The node's transaction pool.
pub trait NodePool: TransactionPool<Transaction = EthPooledTransaction> + Clone + 'static {}

impl<P> NodePool for P where P: TransactionPool<Transaction = EthPooledTransaction> + Clone + 'static {}
