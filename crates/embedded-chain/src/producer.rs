//! Making blocks and choosing the fork they are on.

use std::sync::Arc;
use std::time::Duration;

use alloy_eips::BlockNumHash;
use alloy_primitives::{B256, keccak256};
use ethrex_blockchain::fork_choice::apply_fork_choice_with_deep_reorg;
use ethrex_blockchain::payload::{BuildPayloadArgs, create_payload};
use ethrex_common::types::{BlobsBundle, Block, ELASTICITY_MULTIPLIER, Receipt, Transaction};
use ethrex_common::{Address, H256};
use ethrex_crypto::NativeCrypto;
use ethrex_rpc::RpcApiContext;
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use crate::chain::{BlockRef, Inner, now};
use crate::config::{ChainConfig, Mining};
use crate::error::EmbeddedChainError;
use crate::node::canonical_hash;

/// How long automatic mining waits after a block that could not be made.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What block production needs and changes; behind the production lock.
#[derive(Debug)]
pub(crate) struct Producer {
    coinbase: Address,
    safe_distance: u64,
    finalized_distance: u64,
    /// Number of reorgs so far. It goes into prevRandao, so that a sibling differs from the block it replaces.
    branch: u64,
}

impl Producer {
    pub(crate) fn new(config: &ChainConfig) -> Self {
        Self {
            coinbase: Address::from(config.coinbase.into_array()),
            safe_distance: config.safe_distance,
            finalized_distance: config.finalized_distance.max(config.safe_distance),
            branch: 0,
        }
    }

    pub(crate) const fn start_branch(&mut self) {
        self.branch += 1;
    }

    /// The task of building on `parent`, with a timestamp of `now` where the parent allows it.
    pub(crate) fn task(&self, parent: BlockRef, transactions: Option<Vec<Transaction>>) -> BuildTask {
        let mut seed = [0u8; 40];
        seed[..32].copy_from_slice(parent.hash.as_slice());
        seed[32..].copy_from_slice(&self.branch.to_be_bytes());
        BuildTask {
            parent,
            timestamp: next_timestamp(parent.timestamp),
            coinbase: self.coinbase,
            prev_randao: H256(keccak256(seed).0),
            transactions,
        }
    }
}

/// A block has to be at least a second younger than its parent.
const fn at_least_a_second_after(parent: u64, now: u64) -> u64 {
    if now > parent { now } else { parent + 1 }
}

pub(crate) fn next_timestamp(parent: u64) -> u64 {
    at_least_a_second_after(parent, now())
}

/// One block to be built.
pub(crate) struct BuildTask {
    parent: BlockRef,
    timestamp: u64,
    coinbase: Address,
    prev_randao: H256,
    /// Exactly these, or what the pool has where `None`.
    transactions: Option<Vec<Transaction>>,
}

/// A block that was built, with the sidecars of its blob transactions as far as the pool had them.
pub(crate) struct BuiltBlock {
    pub(crate) block: Block,
    pub(crate) sidecars: Vec<(B256, BlobsBundle)>,
    receipts: Vec<Receipt>,
}

impl BuiltBlock {
    pub(crate) fn block_ref(&self) -> BlockRef {
        BlockRef::from(&self.block.header)
    }
}

impl BuildTask {
    /// Builds the block without adding it to the chain. Runs the client's code: for a worker thread.
    pub(crate) fn build(self, context: &RpcApiContext) -> Result<BuiltBlock, EmbeddedChainError> {
        let number = self.parent.number + 1;
        let failed =
            |error: &dyn std::fmt::Display| EmbeddedChainError::Block { number, reason: error.to_string() };
        let arguments = BuildPayloadArgs {
            parent: H256(self.parent.hash.0),
            timestamp: self.timestamp,
            fee_recipient: self.coinbase,
            random: self.prev_randao,
            withdrawals: Some(Vec::new()),
            beacon_root: Some(H256::zero()),
            slot_number: None,
            version: 3,
            elasticity_multiplier: ELASTICITY_MULTIPLIER,
            gas_ceil: context.gas_ceil,
        };
        let payload = create_payload(&arguments, &context.storage, Default::default())
            .map_err(|error| failed(&error))?;
        let built = match self.transactions {
            None => context.blockchain.build_payload(payload),
            Some(transactions) => context.blockchain.build_payload_with_transactions(payload, transactions),
        }
        .map_err(|error| failed(&error))?;
        let sidecars = pool_sidecars(context, &built.payload)?;
        Ok(BuiltBlock { block: built.payload, sidecars, receipts: built.receipts })
    }
}

/// The sidecars of a block's blob transactions, which the pool drops with the fork choice. (The bundle that the client
/// returns with the block cannot be taken apart where the two sidecar forms meet in it.)
fn pool_sidecars(
    context: &RpcApiContext,
    block: &Block,
) -> Result<Vec<(B256, BlobsBundle)>, EmbeddedChainError> {
    let mut sidecars = Vec::new();
    for hash in blob_transactions(block) {
        if let Some(sidecar) = context.blockchain.mempool.get_blobs_bundle(H256(hash.0))? {
            sidecars.push((hash, sidecar));
        }
    }
    Ok(sidecars)
}

/// Hashes of the blob transactions of a block.
pub(crate) fn blob_transactions(block: &Block) -> impl Iterator<Item = B256> + '_ {
    let blob = |transaction: &&Transaction| matches!(transaction, Transaction::EIP4844Transaction(_));
    block
        .body
        .transactions
        .iter()
        .filter(blob)
        .map(|transaction| B256::from(transaction.hash(&NativeCrypto).0))
}

impl Inner {
    /// Builds a block on the head from the pool and makes it the head.
    pub(crate) async fn produce(
        self: &Arc<Self>,
        producer: &Producer,
    ) -> Result<BlockRef, EmbeddedChainError> {
        let parent = self.head()?;
        let built = self.build(producer.task(parent, None)).await?;
        self.append(producer, parent, built).await
    }

    pub(crate) async fn build(self: &Arc<Self>, task: BuildTask) -> Result<BuiltBlock, EmbeddedChainError> {
        self.ensure_running()?;
        let inner = Arc::clone(self);
        self.workers.run(move |_| task.build(&inner.context)).await?
    }

    /// Executes and stores a block without changing the fork choice.
    pub(crate) async fn import(self: &Arc<Self>, built: &BuiltBlock) -> Result<(), EmbeddedChainError> {
        let (inner, block) = (Arc::clone(self), built.block.clone());
        let number = block.header.number;
        self.workers
            .run(move |_| inner.context.blockchain.add_block_pipeline(block, None))
            .await?
            .map_err(|error| EmbeddedChainError::Block { number, reason: error.to_string() })
    }

    /// Imports one block on `parent`, the head, and chooses it.
    async fn append(
        self: &Arc<Self>,
        producer: &Producer,
        parent: BlockRef,
        built: BuiltBlock,
    ) -> Result<BlockRef, EmbeddedChainError> {
        self.import(&built).await?;
        self.choose(producer, parent.number, vec![built]).await
    }

    /// Makes the last of `branch` the head. `branch` are imported blocks, each on the one before it, the first on the
    /// canonical block number `ancestor`.
    pub(crate) async fn choose(
        self: &Arc<Self>,
        producer: &Producer,
        ancestor: u64,
        branch: Vec<BuiltBlock>,
    ) -> Result<BlockRef, EmbeddedChainError> {
        let Some(tip) = branch.last().map(BuiltBlock::block_ref) else { return self.head() };
        let before = self.heads();
        let on_branch = |number: u64| -> Result<BlockNumHash, EmbeddedChainError> {
            let hash = if number <= ancestor {
                B256::from(canonical_hash(&self.context.storage, number)?.0)
            } else {
                let index = usize::try_from(number - ancestor - 1).unwrap_or(usize::MAX);
                branch.get(index).map_or(tip.hash, |built| built.block_ref().hash)
            };
            Ok(BlockNumHash { number, hash })
        };
        let safe = on_branch(tag(before.safe.number, ancestor, tip.number, producer.safe_distance))?;
        let finalized =
            on_branch(tag(before.finalized.number, ancestor, tip.number, producer.finalized_distance))?;

        // All of it in one job: a caller that stops waiting must not leave the heads behind the client's.
        let inner = Arc::clone(self);
        self.workers
            .run(move |runtime| {
                inner.switch(runtime, tip.hash, safe.hash, finalized.hash, &branch)?;
                for built in branch {
                    inner.receipts.lock().insert(built.block.hash(), built.receipts);
                    let mut archive = inner.archive.lock();
                    for (hash, sidecar) in built.sidecars {
                        archive.insert(hash, sidecar);
                    }
                }
                inner.publish(tip, safe, finalized);
                Ok(tip)
            })
            .await?
    }

    /// The fork choice itself and what the client leaves to its Engine API afterwards. For a worker thread.
    fn switch(
        &self,
        runtime: &Handle,
        head: B256,
        safe: B256,
        finalized: B256,
        branch: &[BuiltBlock],
    ) -> Result<(), EmbeddedChainError> {
        let blockchain = &self.context.blockchain;
        runtime
            .block_on(apply_fork_choice_with_deep_reorg(
                blockchain,
                H256(head.0),
                H256(safe.0),
                H256(finalized.0),
            ))
            .map_err(|error| EmbeddedChainError::ForkChoice { head, reason: error.to_string() })?;
        for built in branch {
            blockchain.remove_block_transactions_from_pool(&built.block)?;
        }
        self.drop_spent_nonces(H256(head.0))
    }

    /// Removes pool transactions whose nonce is used up at `head`: one of them at the front of its sender's queue
    /// keeps all the later ones out of every block.
    pub(crate) fn drop_spent_nonces(&self, head: H256) -> Result<(), EmbeddedChainError> {
        let pool = &self.context.blockchain.mempool;
        for (sender, transactions) in pool.get_all_txs_by_sender()? {
            let account = self.context.storage.get_account_info_by_hash(head, sender)?;
            let next = account.map_or(0, |account| account.nonce);
            for spent in transactions.iter().filter(|transaction| transaction.nonce() < next) {
                pool.remove_transaction(&spent.transaction().hash(&NativeCrypto))?;
            }
        }
        Ok(())
    }
}

/// Where a tag stands after the head moved to `head` on a branch from `ancestor`: `distance` behind the head, but never
/// behind where it was, except where the branch took that block away.
fn tag(before: u64, ancestor: u64, head: u64, distance: u64) -> u64 {
    before.min(ancestor).max(head.saturating_sub(distance))
}

/// Why automatic mining woke up.
enum Trigger {
    Tick,
    Demand,
}

/// Mines by the clock and on demand until the chain is shut down.
pub(crate) async fn mine_automatically(inner: Arc<Inner>, mining: Mining) {
    let mut ticks = mining.period().map(|period| {
        // A period of zero would panic.
        let mut ticks = tokio::time::interval(period.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    loop {
        let trigger = tokio::select! {
            () = inner.cancel.cancelled() => return,
            () = next_tick(&mut ticks) => Trigger::Tick,
            () = inner.demand.notified(), if mining.on_demand() => Trigger::Demand,
        };
        if !inner.wait_until_unpaused().await {
            return;
        }
        if let Err(error) = mine_once(&inner, &trigger).await {
            if inner.cancel.is_cancelled() {
                return;
            }
            tracing::error!(%error, "no block was mined");
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

async fn next_tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn mine_once(inner: &Arc<Inner>, trigger: &Trigger) -> Result<(), EmbeddedChainError> {
    wait_for_clock(inner).await?;
    let producer = inner.producer.lock().await;
    if inner.is_paused() {
        return Ok(());
    }
    let parent = inner.head()?;
    let built = inner.build(producer.task(parent, None)).await?;
    let empty = built.block.body.transactions.is_empty();
    if empty && matches!(trigger, Trigger::Demand) {
        return Ok(());
    }
    inner.append(&producer, parent, built).await?;
    if !empty {
        // What did not fit, or became executable by this block, need not wait for the next transaction.
        inner.demand.notify_one();
    }
    Ok(())
}

/// Waits until the next block's timestamp is at most the allowed lead ahead of the clock.
async fn wait_for_clock(inner: &Inner) -> Result<(), EmbeddedChainError> {
    loop {
        let lead = next_timestamp(inner.head()?.timestamp).saturating_sub(now());
        if lead <= inner.max_clock_lead {
            return Ok(());
        }
        let wait = Duration::from_secs(lead - inner.max_clock_lead);
        tokio::select! {
            () = inner.cancel.cancelled() => return Err(EmbeddedChainError::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_head_and_never_go_back_on_the_same_chain() {
        // Plain growth.
        assert_eq!(tag(0, 3, 4, 8), 0);
        assert_eq!(tag(0, 8, 9, 8), 1);
        // A reorg to a shorter branch: block 12 is still there, so it stays finalized.
        assert_eq!(tag(12, 17, 18, 8), 12);
        // A reorg below the tag: the common ancestor is the last block that can carry it.
        assert_eq!(tag(16, 14, 16, 4), 14);
    }

    #[test]
    fn a_block_is_younger_than_its_parent() {
        assert_eq!(at_least_a_second_after(10, 20), 20);
        assert_eq!(at_least_a_second_after(20, 20), 21);
        assert_eq!(at_least_a_second_after(25, 20), 26);
    }
}
