//! Following the canonical chain by block hashes: the one algorithm behind every notifier.

use crate::{
    BlockRef, Call, CanonicalHashes, FeedBlock, Heads, HostClient, HostError, HostNotification, ReadPlan,
    StateRead,
};
use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use std::{fmt, sync::Arc};

/// State reads of one block that run at once.
const CONCURRENT_READS: usize = 16;

/// A client whose canonical chain can be read block by block.
#[async_trait]
pub trait ChainReader: HostClient {
    /// The canonical hash at a height; `None` above the head.
    async fn hash_at(&self, number: u64) -> Result<Option<B256>, HostError>;

    /// The canonical block at a height with the watched contracts' logs and every included blob, without state reads;
    /// `None` above the head, or when the chain moved while it was read.
    async fn block_at(&self, number: u64, watched: &[Address]) -> Result<Option<FeedBlock>, HostError>;
}

/// What a walker takes from the chain.
#[derive(Debug, Clone)]
pub struct WalkConfig {
    /// The contracts whose logs the feed holds.
    pub watched: Vec<Address>,
    /// The first block of an empty feed.
    pub start_block: u64,
    /// Most blocks in one notification.
    pub batch: u64,
}

impl WalkConfig {
    /// From genesis, 256 blocks at a time.
    pub const fn new(watched: Vec<Address>) -> Self {
        Self { watched, start_block: 0, batch: 256 }
    }
}

/// Gives the steps from the feed's tip to the client's head. It keeps no position of its own and believes no
/// notification: what a client says about its chain is a reason to look, never a fact. A lost, doubled or reordered
/// notification can therefore not make the feed wrong.
pub struct ChainWalker<R: ?Sized> {
    plan: Arc<dyn ReadPlan>,
    config: WalkConfig,
    reported: Option<Heads>,
    reader: Arc<R>,
}

impl<R: ?Sized> fmt::Debug for ChainWalker<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChainWalker").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<R: ChainReader + ?Sized> ChainWalker<R> {
    /// A walker over a client; `plan` says which contract state each block must carry.
    pub fn new(reader: Arc<R>, plan: Arc<dyn ReadPlan>, config: WalkConfig) -> Self {
        Self { plan, config, reported: None, reader }
    }

    /// The client.
    pub const fn reader(&self) -> &Arc<R> {
        &self.reader
    }

    /// The next step; `None` when the feed is where the client is, or when the chain moved while it was read and the
    /// caller should ask again.
    pub async fn next(&mut self, chain: &dyn CanonicalHashes) -> Result<Option<HostNotification>, HostError> {
        let heads = self.reader.heads().await?;
        if let Some(step) = self.step(chain, heads).await? {
            // The heads are reported as reached only once the feed stands at the head.
            let reached = step.committed.last().is_none_or(|block| block.hash == heads.head.hash);
            self.reported = reached.then_some(heads);
            return Ok(Some(step));
        }
        if chain.tip() == Some(heads.head) && self.reported != Some(heads) {
            self.reported = Some(heads);
            return Ok(Some(HostNotification { reverted: Vec::new(), committed: Vec::new(), heads }));
        }
        Ok(None)
    }

    async fn step(
        &self,
        chain: &dyn CanonicalHashes,
        heads: Heads,
    ) -> Result<Option<HostNotification>, HostError> {
        let Some(tip) = chain.tip() else {
            let first = self.config.start_block;
            return self.commit(Vec::new(), first, None, heads, true).await;
        };
        if tip == heads.head {
            return Ok(None);
        }
        let Some(ancestor) = self.common_ancestor(chain, tip, heads.head).await? else { return Ok(None) };
        let reverted = (ancestor.number.saturating_add(1)..=tip.number)
            .rev()
            .filter_map(|number| chain.hash_at(number).map(|hash| BlockRef { number, hash }))
            .collect();
        self.commit(reverted, ancestor.number.saturating_add(1), Some(ancestor.hash), heads, false).await
    }

    /// The highest block that the feed and the client's canonical chain share; `None` when the client's answers do not
    /// fit together because its chain just moved, or when the client is behind what
    /// the feed can undo.
    async fn common_ancestor(
        &self,
        chain: &dyn CanonicalHashes,
        tip: BlockRef,
        head: BlockRef,
    ) -> Result<Option<BlockRef>, HostError> {
        let mut number = tip.number.min(head.number);
        // A node that is synced again while its journal was kept has yet to come to where the feed is. What is finished
        // is never undone, and what is older is not kept.
        let settled = chain.settled().is_some_and(|settled| head.number < settled.number);
        if head.number < tip.number && (settled || chain.hash_at(number).is_none()) {
            return Ok(None);
        }
        loop {
            let Some(ours) = chain.hash_at(number) else {
                return Err(HostError::NoCommonAncestor(number));
            };
            let theirs = if number == head.number {
                head.hash
            } else {
                let Some(hash) = self.reader.hash_at(number).await? else { return Ok(None) };
                hash
            };
            if ours == theirs {
                return Ok(Some(BlockRef { number, hash: ours }));
            }
            let below = number.checked_sub(1).ok_or(HostError::NoCommonAncestor(number))?;
            number = below;
        }
    }

    async fn commit(
        &self,
        reverted: Vec<BlockRef>,
        from: u64,
        mut parent: Option<B256>,
        heads: Heads,
        first: bool,
    ) -> Result<Option<HostNotification>, HostError> {
        let to = heads.head.number.min(from.saturating_add(self.config.batch.saturating_sub(1)));
        let mut committed = Vec::new();
        for number in from..=to {
            let Some(block) = self.reader.block_at(number, &self.config.watched).await? else {
                return Ok(None);
            };
            if parent.is_some_and(|parent| parent != block.parent_hash) {
                // The chain moved between two reads. Nothing read so far is wrong, but it may be of two forks.
                return Ok(None);
            }
            let hash = block.hash;
            parent = Some(hash);
            let block = self.with_reads(block, first && committed.is_empty()).await;
            // A client answers for a block that just left the chain with an error, or for the block now at its height.
            if self.reader.hash_at(number).await? != Some(hash) {
                return Ok(None);
            }
            committed.push(block?);
        }
        if reverted.is_empty() && committed.is_empty() {
            return Ok(None);
        }
        Ok(Some(HostNotification { reverted, committed, heads }))
    }

    async fn with_reads(&self, mut block: FeedBlock, first: bool) -> Result<FeedBlock, HostError> {
        let (calls, hash) = (self.plan.reads(&block, first), block.hash);
        block.reads = stream::iter(calls.into_iter().map(|call| self.read(call, hash)))
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await?;
        Ok(block)
    }

    async fn read(&self, call: Call, at: B256) -> Result<StateRead, HostError> {
        match self.reader.call(call.clone(), Some(at)).await {
            Ok(output) => Ok(StateRead { call, success: true, output }),
            Err(HostError::Reverted(output)) => Ok(StateRead { call, success: false, output }),
            Err(e) => Err(e),
        }
    }
}
