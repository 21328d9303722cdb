//! Reorgs on command.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes};
use ethrex_blockchain::error::MempoolError;
use ethrex_common::H256;
use ethrex_common::types::{BlobsBundle, Block, Transaction};
use ethrex_crypto::NativeCrypto;
use ethrex_rpc::types::transaction::SendRawTransactionRequest;

use crate::chain::{BlockRef, EmbeddedChain, Inner};
use crate::error::EmbeddedChainError;
use crate::node::canonical_hash;
use crate::producer::{BuiltBlock, Producer};

/// What takes the place of the blocks that a reorg removes.
#[derive(Clone, Debug)]
pub struct ReorgPlan {
    /// How many blocks the new branch has, at least one. It may be shorter than what it replaces.
    pub new_blocks: u64,
    /// Raw transactions (EIP-2718; blob transactions in network form, with their sidecar) of the new blocks, one list
    /// each, in exactly this order. Blocks beyond the lists are empty.
    pub replacement_txs: Vec<Vec<Bytes>>,
    /// Whether transactions of the removed blocks go back into the pool, as execution clients do; those that are
    /// valid there are mined by the next block after the branch.
    pub keep_dropped: bool,
}

impl ReorgPlan {
    /// A branch of `new_blocks` empty blocks; removed transactions return to the pool.
    #[must_use]
    pub const fn empty(new_blocks: u64) -> Self {
        Self { new_blocks, replacement_txs: Vec::new(), keep_dropped: true }
    }

    /// A branch of as many blocks as there are lists; removed transactions are forgotten.
    #[must_use]
    pub fn replace(replacement_txs: Vec<Vec<Bytes>>) -> Self {
        Self { new_blocks: replacement_txs.len() as u64, replacement_txs, keep_dropped: false }
    }
}

/// A transaction with the sidecar it needs to enter the pool.
struct PoolTransaction {
    transaction: Transaction,
    sidecar: Option<BlobsBundle>,
}

impl EmbeddedChain {
    /// Replaces the last `depth` blocks by the plan's branch and returns its tip, in one change of fork choice.
    ///
    /// The `safe` and `finalized` tags fall back to the common ancestor where the removed blocks carried them.
    ///
    /// # Errors
    /// If the plan is impossible, one of its transactions does not decode or fails to execute (then nothing has
    /// changed), or the client refuses the fork choice.
    pub async fn reorg(&self, depth: u64, plan: ReorgPlan) -> Result<BlockRef, EmbeddedChainError> {
        let inner = &self.inner;
        let (new_blocks, keep_dropped) = (plan.new_blocks, plan.keep_dropped);
        let replacements = inner.workers.run(move |_| decode_plan(&plan)).await??;
        let mut producer = inner.producer.lock().await;
        let head = inner.heads().head.number;
        if depth == 0 || depth > head {
            return Err(EmbeddedChainError::Reorg(format!("depth {depth} with the head at block {head}")));
        }
        let ancestor = head - depth;
        let dropped =
            if keep_dropped { inner.dropped_transactions(ancestor, head).await? } else { Vec::new() };
        producer.start_branch();
        let branch = inner.build_branch(&producer, ancestor, new_blocks, replacements).await?;
        let tip = inner.choose(&producer, ancestor, branch).await?;
        inner.return_to_pool(dropped).await?;
        inner.demand.notify_one();
        Ok(tip)
    }
}

fn decode_plan(plan: &ReorgPlan) -> Result<Vec<Vec<PoolTransaction>>, EmbeddedChainError> {
    if plan.new_blocks == 0 {
        return Err(EmbeddedChainError::Reorg("the new branch has no block".to_owned()));
    }
    if plan.replacement_txs.len() as u64 > plan.new_blocks {
        return Err(EmbeddedChainError::Reorg("more transaction lists than new blocks".to_owned()));
    }
    let decode = |block: usize, index: usize, raw: &Bytes| {
        let refused = |error: &dyn std::fmt::Display| EmbeddedChainError::Transaction {
            block,
            index,
            reason: error.to_string(),
        };
        let request = SendRawTransactionRequest::decode_canonical(raw).map_err(|error| refused(&error))?;
        let transaction = request.to_transaction();
        let sidecar = match request {
            SendRawTransactionRequest::EIP4844(wrapped) => {
                // The client checks sidecars at its pool's door, which these transactions do not pass.
                wrapped
                    .blobs_bundle
                    .validate_blob_commitment_hashes(&wrapped.tx.blob_versioned_hashes)
                    .map_err(|error| refused(&error))?;
                Some(wrapped.blobs_bundle)
            }
            _ => None,
        };
        Ok(PoolTransaction { transaction, sidecar })
    };
    plan.replacement_txs
        .iter()
        .enumerate()
        .map(|(block, list)| list.iter().enumerate().map(|(index, raw)| decode(block, index, raw)).collect())
        .collect()
}

impl Inner {
    /// The transactions of the canonical blocks after `ancestor` up to `head`, in order.
    async fn dropped_transactions(
        &self,
        ancestor: u64,
        head: u64,
    ) -> Result<Vec<PoolTransaction>, EmbeddedChainError> {
        let mut dropped = Vec::new();
        for number in ancestor + 1..=head {
            for transaction in self.canonical_block(number).await?.body.transactions {
                let hash = B256::from(transaction.hash(&NativeCrypto).0);
                let sidecar = self.archive.lock().sidecar(hash).map(|sidecar| sidecar.as_ref().clone());
                dropped.push(PoolTransaction { transaction, sidecar });
            }
        }
        Ok(dropped)
    }

    async fn canonical_block(&self, number: u64) -> Result<Block, EmbeddedChainError> {
        let hash = canonical_hash(&self.context.storage, number)?;
        self.context
            .storage
            .get_block_by_hash(hash)
            .await?
            .ok_or_else(|| EmbeddedChainError::Store(format!("no body of block {number}")))
    }

    /// Builds and imports the new branch; the fork choice stays where it is.
    async fn build_branch(
        self: &Arc<Self>,
        producer: &Producer,
        ancestor: u64,
        blocks: u64,
        replacements: Vec<Vec<PoolTransaction>>,
    ) -> Result<Vec<BuiltBlock>, EmbeddedChainError> {
        let ancestor = canonical_hash(&self.context.storage, ancestor)?;
        let mut parent = BlockRef::from(&self.header(B256::from(ancestor.0))?);
        let mut replacements = replacements.into_iter();
        let mut branch = Vec::new();
        for _ in 0..blocks {
            let (transactions, sidecars) = separate(replacements.next().unwrap_or_default());
            let mut built = self.build(producer.task(parent, Some(transactions))).await?;
            built.sidecars.extend(sidecars);
            self.import(&built).await?;
            parent = built.block_ref();
            branch.push(built);
        }
        Ok(branch)
    }

    /// Puts transactions back, in order; one that is not valid any more is left out, as in any client.
    async fn return_to_pool(
        self: &Arc<Self>,
        transactions: Vec<PoolTransaction>,
    ) -> Result<(), EmbeddedChainError> {
        let inner = Arc::clone(self);
        self.workers
            .run(move |runtime| {
                for returning in transactions {
                    let hash: H256 = returning.transaction.hash(&NativeCrypto);
                    if let Err(error) = runtime.block_on(inner.admit(returning)) {
                        tracing::warn!(transaction = %hash, %error, "a reorged transaction does not return to the pool");
                    }
                }
            })
            .await
    }

    async fn admit(
        &self,
        PoolTransaction { transaction, sidecar }: PoolTransaction,
    ) -> Result<H256, MempoolError> {
        let blockchain = &self.context.blockchain;
        match (transaction, sidecar) {
            (Transaction::EIP4844Transaction(transaction), Some(sidecar)) => {
                blockchain.add_blob_transaction_to_pool(transaction, sidecar).await
            }
            (transaction, _) => blockchain.add_transaction_to_pool(transaction).await,
        }
    }
}

type Sidecars = Vec<(B256, BlobsBundle)>;

fn separate(transactions: Vec<PoolTransaction>) -> (Vec<Transaction>, Sidecars) {
    let mut sidecars = Vec::new();
    let transactions = transactions
        .into_iter()
        .map(|PoolTransaction { transaction, sidecar }| {
            if let Some(sidecar) = sidecar {
                sidecars.push((B256::from(transaction.hash(&NativeCrypto).0), sidecar));
            }
            transaction
        })
        .collect();
    (transactions, sidecars)
}
