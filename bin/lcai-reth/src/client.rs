//! The chain and the pool of this very process, as a host.

use crate::{
    blobs::{BlobIndex, blob_of},
    evm,
    provider::{NodePool, NodeProvider},
    pruning::{BODIES, RECEIPTS, STATE},
};
use alloy_consensus::{BlockHeader, Transaction, TxReceipt};
use alloy_eips::BlockNumHash;
use alloy_primitives::{Address, B256, Bytes, U256};
use async_trait::async_trait;
use lcai_host::{
    BlockRef, Call, ChainReader, FeedBlock, FeedLog, Heads, HostClient, HostError, IncludedBlob, Receipt,
    TransactionRequest,
};
use reth_chainspec::EthChainSpec;
use reth_ethereum_primitives::{Block as EthBlock, Receipt as EthReceipt};
use reth_evm_ethereum::EthEvmConfig;
use reth_primitives_traits::SealedHeader;
use reth_provider::{ProviderError, ProviderResult};
use reth_transaction_pool::{EthPooledTransaction, PoolTransaction, TransactionOrigin, error::PoolErrorKind};
use revm::context::Block;
use std::{fmt, sync::Arc};

/// Blocks below the head after which what cannot be read is gone: what is newer can be on its way from memory to disk.
const SETTLED: u64 = 64;

/// JSON-RPC's code for a server error, which pools' refusals have.
const SERVER_ERROR: i64 = -32000;

/// A node's chain and pool. Cheap to clone.
pub struct RethClient<P, T> {
    inner: Arc<Inner<P, T>>,
}

struct Inner<P, T> {
    provider: P,
    pool: T,
    evm: EthEvmConfig,
    chain_id: u64,
    blobs: BlobIndex,
    receipts_filtered: bool,
}

impl<P, T> Clone for RethClient<P, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P, T> fmt::Debug for RethClient<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RethClient").field("chain_id", &self.inner.chain_id).finish_non_exhaustive()
    }
}

impl<P: NodeProvider, T: NodePool> RethClient<P, T> {
    /// A client over the node's provider and pool. `receipts_filtered`: the node keeps our contracts' receipts and prunes
    /// the others.
    pub fn new(provider: P, pool: T, receipts_filtered: bool) -> Self {
        let chain_spec = provider.chain_spec();
        let chain_id = chain_spec.chain_id();
        let evm = EthEvmConfig::new(chain_spec);
        let blobs = BlobIndex::default();
        Self { inner: Arc::new(Inner { provider, pool, evm, chain_id, blobs, receipts_filtered }) }
    }

    /// The node's provider.
    pub fn provider(&self) -> &P {
        &self.inner.provider
    }

    /// Runs database or EVM work where it blocks nobody.
    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner<P, T>) -> Result<R, HostError> + Send + 'static,
    ) -> Result<R, HostError> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(HostError::Closed),
        }
    }
}

impl<P: NodeProvider, T: NodePool> Inner<P, T> {
    fn header(&self, at: Option<B256>) -> Result<SealedHeader<evm::Header>, HostError> {
        let header = match at {
            Some(hash) => self.provider.sealed_header_by_hash(hash).map_err(database)?,
            None => self.provider.latest_header().map_err(database)?,
        };
        header.ok_or_else(|| HostError::UnknownBlock(at.unwrap_or_default()))
    }

    fn heads(&self) -> Result<Heads, HostError> {
        // Safe and finalized first: read in this order they are never ahead of the head.
        let safe = self.provider.safe_block_num_hash().map_err(database)?;
        let finalized = self.provider.finalized_block_num_hash().map_err(database)?;
        let info = self.provider.chain_info().map_err(database)?;
        let head = BlockRef { number: info.best_number, hash: info.best_hash };
        // After a crash the head can be lower than what was finalized before it.
        let reached = |block: Option<BlockNumHash>| {
            block
                .filter(|block| block.number <= head.number)
                .map(|block| BlockRef { number: block.number, hash: block.hash })
        };
        Ok(Heads { head, safe: reached(safe), finalized: reached(finalized) })
    }

    fn feed_block(&self, number: u64, watched: &[Address]) -> Result<Option<FeedBlock>, HostError> {
        let Some(hash) = self.provider.block_hash(number).map_err(database)? else { return Ok(None) };
        // By hash from here on: what is read belongs to one block even while the chain moves.
        let Some(block) = self.provider.block_by_hash(hash).map_err(database)? else {
            return self.refuse_pruned("transactions", number, hash, BODIES).map(|()| None);
        };
        let Some(receipts) = self.receipts(hash, number, block.body.transactions.len())? else {
            return Ok(None);
        };
        let (logs, blobs) = (logs(&block, &receipts, watched), self.included_blobs(&block));
        let header = &block.header;
        Ok(Some(FeedBlock {
            number,
            hash,
            parent_hash: header.parent_hash(),
            timestamp: header.timestamp(),
            logs,
            blobs,
            reads: Vec::new(),
        }))
    }

    /// The block's receipts by position. Where the node prunes all receipts but those the log filter names, a position
    /// can be empty: such a receipt has no log of ours. `None` when the block is no longer canonical.
    fn receipts(
        &self,
        hash: B256,
        number: u64,
        transactions: usize,
    ) -> Result<Option<Vec<Option<EthReceipt>>>, HostError> {
        if let Some(receipts) = self.provider.receipts_by_block(hash.into()).map_err(database)? {
            return Ok(Some(receipts.into_iter().map(Some).collect()));
        }
        if self.provider.block_hash(number).map_err(database)? != Some(hash) {
            return Ok(None);
        }
        let indices = self.provider.block_body_indices(number).map_err(database)?;
        let Some(indices) = indices.filter(|i| usize::try_from(i.tx_count) == Ok(transactions)) else {
            return Ok(None);
        };
        let receipts: ProviderResult<Vec<_>> =
            indices.tx_num_range().map(|id| self.provider.receipt(id)).collect();
        let receipts = receipts.map_err(database)?;
        if !self.receipts_filtered && receipts.iter().any(Option::is_none) {
            self.refuse_pruned("receipts", number, hash, RECEIPTS)?;
            return Err(HostError::Malformed {
                method: "receipts".into(),
                reason: format!("the receipts of block {number} are not all there"),
            });
        }
        Ok(Some(receipts))
    }

    /// An error when the block is canonical and so old that what was not found of it will not come.
    fn refuse_pruned(
        &self,
        what: &'static str,
        number: u64,
        hash: B256,
        flags: &'static str,
    ) -> Result<(), HostError> {
        let head = self.provider.chain_info().map_err(database)?.best_number;
        let canonical = self.provider.block_hash(number).map_err(database)? == Some(hash);
        if canonical && number.saturating_add(SETTLED) <= head {
            return Err(HostError::Pruned { what, number, flags });
        }
        Ok(())
    }

    fn included_blobs(&self, block: &EthBlock) -> Vec<IncludedBlob> {
        let mut blobs = Vec::new();
        for transaction in block.body.transactions() {
            let transaction_hash = *transaction.tx_hash();
            for (index, hash) in (0..).zip(transaction.blob_versioned_hashes().unwrap_or_default()) {
                self.blobs.insert(*hash, transaction_hash);
                blobs.push(IncludedBlob { transaction_hash, index, versioned_hash: *hash });
            }
        }
        blobs
    }

    fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, HostError> {
        let found = self.provider.transaction_by_hash_with_meta(transaction).map_err(database)?;
        let Some((tx, meta)) = found else { return Ok(None) };
        let receipts = self.provider.receipts_by_block(meta.block_hash.into()).map_err(database)?;
        let index = usize::try_from(meta.index).unwrap_or(usize::MAX);
        let Some(receipt) = receipts.as_ref().and_then(|receipts| receipts.get(index)) else {
            return Ok(None);
        };
        let before = index.checked_sub(1).and_then(|i| receipts.as_ref()?.get(i));
        let before = before.map_or(0, TxReceipt::cumulative_gas_used);
        Ok(Some(Receipt {
            block: BlockRef { number: meta.block_number, hash: meta.block_hash },
            success: receipt.status(),
            gas_used: receipt.cumulative_gas_used().saturating_sub(before),
            effective_gas_price: tx.effective_gas_price(meta.base_fee),
        }))
    }

    fn nonce(&self, account: Address, pending: bool) -> Result<u64, HostError> {
        let state = self.provider.latest().map_err(database)?;
        let nonce = state.account_nonce(&account).map_err(database)?.unwrap_or_default();
        if !pending {
            return Ok(nonce);
        }
        let queued = self.pool.get_highest_consecutive_transaction_by_sender(account, nonce);
        Ok(queued.map_or(nonce, |queued| queued.nonce().saturating_add(1)))
    }

    fn blob(&self, versioned_hash: B256) -> Result<Option<Bytes>, HostError> {
        let store = |e| rejected("blob store", e);
        if let Some(transaction) = self.blobs.transaction(&versioned_hash)
            && let Some(sidecar) = self.pool.get_blob(transaction).map_err(store)?
        {
            return Ok(blob_of(&sidecar, versioned_hash));
        }
        // Not included yet, or included before this process started.
        let wanted = [versioned_hash];
        let cells = self.pool.get_blobs_for_versioned_hashes_v3(&wanted).map_err(store)?;
        if let Some(found) = cells.into_iter().flatten().next() {
            return Ok(Some(Bytes::copy_from_slice(found.blob.as_slice())));
        }
        let older = self.pool.get_blobs_for_versioned_hashes_v1(&wanted).map_err(store)?;
        Ok(older.into_iter().flatten().next().map(|found| Bytes::copy_from_slice(found.blob.as_slice())))
    }
}

/// The watched contracts' logs, in block order.
fn logs(block: &EthBlock, receipts: &[Option<EthReceipt>], watched: &[Address]) -> Vec<FeedLog> {
    let mut found = Vec::new();
    let mut log_index = 0;
    for ((transaction_index, transaction), receipt) in
        (0..).zip(block.body.transactions()).zip(receipts).filter_map(|(t, r)| Some((t, r.as_ref()?)))
    {
        for log in receipt.logs() {
            if watched.contains(&log.address) {
                found.push(FeedLog {
                    address: log.address,
                    topics: log.topics().to_vec(),
                    data: log.data.data.clone(),
                    transaction_hash: *transaction.tx_hash(),
                    transaction_index,
                    log_index,
                });
            }
            log_index += 1;
        }
    }
    found
}

#[async_trait]
impl<P: NodeProvider, T: NodePool> HostClient for RethClient<P, T> {
    fn chain_id(&self) -> u64 {
        self.inner.chain_id
    }

    async fn heads(&self) -> Result<Heads, HostError> {
        self.blocking(Inner::heads).await
    }

    async fn call(&self, call: Call, at: Option<B256>) -> Result<Bytes, HostError> {
        self.blocking(move |inner| {
            let header = inner.header(at)?;
            evm::call(&inner.provider, &inner.evm, &header, &call)
        })
        .await
    }

    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, HostError> {
        self.blocking(move |inner| inner.nonce(account, pending)).await
    }

    async fn balance(&self, account: Address) -> Result<U256, HostError> {
        self.blocking(move |inner| {
            let state = inner.provider.latest().map_err(database)?;
            Ok(state.account_balance(&account).map_err(database)?.unwrap_or_default())
        })
        .await
    }

    async fn base_fees(&self) -> Result<(u128, u128), HostError> {
        self.blocking(|inner| {
            let env = evm::next_block(&inner.evm, &inner.header(None)?)?;
            let blob = env.block_env.blob_gasprice().unwrap_or_default();
            Ok((u128::from(env.block_env.basefee()), blob))
        })
        .await
    }

    async fn estimate_gas(&self, request: TransactionRequest) -> Result<u64, HostError> {
        self.blocking(move |inner| {
            let head = inner.header(None)?;
            evm::estimate(&inner.provider, &inner.evm, &head, &request)
        })
        .await
    }

    async fn send_raw_transaction(&self, transaction: Bytes) -> Result<B256, HostError> {
        let recovered = self.blocking(move |_| recover(&transaction)).await?;
        let hash = *recovered.hash();
        match self.inner.pool.add_transaction(TransactionOrigin::Local, recovered).await {
            Ok(added) => Ok(added.hash),
            // The pool has it already: whoever asked wanted exactly that.
            Err(error) if matches!(error.kind, PoolErrorKind::AlreadyImported) => Ok(hash),
            Err(error) => Err(rejected("pool", error.kind)),
        }
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, HostError> {
        self.blocking(move |inner| inner.receipt(transaction)).await
    }

    async fn blob(&self, versioned_hash: B256) -> Result<Option<Bytes>, HostError> {
        self.blocking(move |inner| inner.blob(versioned_hash)).await
    }
}

#[async_trait]
impl<P: NodeProvider, T: NodePool> ChainReader for RethClient<P, T> {
    async fn hash_at(&self, number: u64) -> Result<Option<B256>, HostError> {
        self.blocking(move |inner| inner.provider.block_hash(number).map_err(database)).await
    }

    async fn block_at(&self, number: u64, watched: &[Address]) -> Result<Option<FeedBlock>, HostError> {
        let watched = watched.to_vec();
        self.blocking(move |inner| inner.feed_block(number, &watched)).await
    }
}

/// Decodes a transaction in its network form (EIP-2718; a type-3 one with its sidecar) and recovers its sender.
fn recover(transaction: &[u8]) -> Result<EthPooledTransaction, HostError> {
    use alloy_eips::eip2718::Decodable2718;
    use reth_primitives_traits::SignedTransaction;
    type Pooled = <EthPooledTransaction as PoolTransaction>::Pooled;
    let decoded = Pooled::decode_2718_exact(transaction).map_err(|e| rejected("transaction decoding", e))?;
    let recovered = SignedTransaction::try_into_recovered(decoded)
        .map_err(|_| rejected("transaction decoding", "the signature is invalid"))?;
    Ok(EthPooledTransaction::from_pooled(recovered))
}

fn rejected(what: &str, error: impl fmt::Display) -> HostError {
    HostError::Rejected { method: what.to_owned(), code: SERVER_ERROR, message: error.to_string() }
}

/// The node's database failed. Trying again can help, unless what was asked for is pruned: a reader can meet a table while
/// it is being moved.
pub(crate) fn database(error: ProviderError) -> HostError {
    match error {
        ProviderError::StateAtBlockPruned(number) => {
            HostError::Pruned { what: "contract state", number, flags: STATE }
        }
        ProviderError::BlockExpired { requested, .. } => {
            HostError::Pruned { what: "transactions", number: requested, flags: BODIES }
        }
        error => HostError::Unreachable(format!("the node's database: {error}")),
    }
}
