//! Following the canonical chain by block hashes.

use crate::{client::RpcClient, wire::Header};
use alloy_primitives::{Address, B256};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use jsonrpsee::core::client::Subscription;
use lcai_host::{
    BlockRef, Call, CanonicalHashes, FeedBlock, Heads, HostClient, HostError, HostNotification, HostNotifier,
    IncludedBlob, ReadPlan, StateRead,
};
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};

/// State reads of one block that run at once.
const CONCURRENT_READS: usize = 16;

/// How a notifier follows.
#[derive(Debug, Clone)]
pub struct NotifierConfig {
    /// The contracts whose logs the feed holds.
    pub watched: Vec<Address>,
    /// The first block of an empty feed.
    pub start_block: u64,
    /// Most blocks in one notification.
    pub batch: u64,
    /// How often the head is looked at when no subscription says so earlier.
    pub poll_interval: Duration,
}

impl NotifierConfig {
    /// From genesis, 256 blocks at a time, looking every second.
    pub const fn new(watched: Vec<Address>) -> Self {
        Self { watched, start_block: 0, batch: 256, poll_interval: Duration::from_secs(1) }
    }
}

/// Follows a node over JSON-RPC.
pub struct RpcNotifier {
    client: Arc<RpcClient>,
    plan: Arc<dyn ReadPlan>,
    config: NotifierConfig,
    new_heads: Option<Subscription<Value>>,
    reported: Option<Heads>,
}

impl fmt::Debug for RpcNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcNotifier")
            .field("client", &self.client)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl RpcNotifier {
    /// A notifier over a client; `plan` says which contract state each block must carry.
    pub fn new(client: Arc<RpcClient>, plan: Arc<dyn ReadPlan>, config: NotifierConfig) -> Self {
        Self { client, plan, config, new_heads: None, reported: None }
    }

    /// The step from the feed's tip towards the node's head; `None` when there is none, or when the chain moved while it
    /// was read.
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

    /// The highest block that the feed and the node's canonical chain share; `None` when the node's answers do not fit
    /// together because its chain just moved.
    async fn common_ancestor(
        &self,
        chain: &dyn CanonicalHashes,
        tip: BlockRef,
        head: BlockRef,
    ) -> Result<Option<BlockRef>, HostError> {
        let mut number = tip.number.min(head.number);
        loop {
            let Some(ours) = chain.hash_at(number) else {
                return Err(HostError::NoCommonAncestor(number));
            };
            let theirs = if number == head.number {
                head.hash
            } else {
                let Some(header) = self.client.header_at(number).await? else { return Ok(None) };
                header.hash
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
            let Some(header) = self.client.header_at(number).await? else { return Ok(None) };
            if parent.is_some_and(|parent| parent != header.parent_hash) {
                // The chain moved between two reads. Nothing read so far is wrong, but it may be of two forks.
                return Ok(None);
            }
            let hash = header.hash;
            parent = Some(hash);
            let block = self.block(header, first && committed.is_empty()).await;
            // A node answers for a block that just left the chain with an error, or for the block now at its height.
            if self.client.header_at(number).await?.is_none_or(|header| header.hash != hash) {
                return Ok(None);
            }
            committed.push(block?);
        }
        if reverted.is_empty() && committed.is_empty() {
            return Ok(None);
        }
        Ok(Some(HostNotification { reverted, committed, heads }))
    }

    async fn block(&self, header: Header, first: bool) -> Result<FeedBlock, HostError> {
        let hash = header.hash;
        let mut block = FeedBlock {
            number: header.number.to(),
            hash,
            parent_hash: header.parent_hash,
            timestamp: header.timestamp.to(),
            logs: self.client.logs(hash, &self.config.watched).await?,
            blobs: Vec::new(),
            reads: Vec::new(),
        };
        if header.blob_gas_used.is_none_or(|used| !used.is_zero()) {
            block.blobs = self.blobs(hash).await?;
        }
        let calls = self.plan.reads(&block, first);
        block.reads = stream::iter(calls.into_iter().map(|call| self.read(call, hash)))
            .buffered(CONCURRENT_READS)
            .try_collect()
            .await?;
        Ok(block)
    }

    async fn blobs(&self, hash: B256) -> Result<Vec<IncludedBlob>, HostError> {
        let block = self.client.full_block(hash).await?;
        let mut blobs = Vec::new();
        for transaction in block.transactions {
            let hashes = transaction.blob_versioned_hashes.unwrap_or_default();
            for (index, versioned_hash) in (0..).zip(hashes) {
                blobs.push(IncludedBlob { transaction_hash: transaction.hash, index, versioned_hash });
            }
        }
        Ok(blobs)
    }

    async fn read(&self, call: Call, at: B256) -> Result<StateRead, HostError> {
        match self.client.call(call.clone(), Some(at)).await {
            Ok(output) => Ok(StateRead { call, success: true, output }),
            Err(HostError::Reverted(output)) => Ok(StateRead { call, success: false, output }),
            Err(e) => Err(e),
        }
    }

    /// Waits for a reason to look again.
    async fn wait(&mut self) {
        if self.new_heads.is_none() {
            match self.client.new_heads().await {
                Ok(subscription) => self.new_heads = subscription,
                Err(e) => {
                    tracing::debug!(target: "lcai::host_rpc", error = %e, "no newHeads subscription; polling")
                }
            }
        }
        let mut poll = std::pin::pin!(tokio::time::sleep(self.config.poll_interval));
        if let Some(subscription) = self.new_heads.as_mut() {
            tokio::select! {
                message = subscription.next() => {
                    if matches!(message, Some(Ok(_))) {
                        return;
                    }
                    self.new_heads = None;
                }
                () = &mut poll => return,
            }
        }
        // Without a subscription, and after one broke: a node that refuses at once is not asked in a loop.
        poll.await;
    }
}

#[async_trait]
impl HostNotifier for RpcNotifier {
    async fn next(&mut self, chain: &dyn CanonicalHashes) -> Result<HostNotification, HostError> {
        loop {
            let heads = self.client.heads().await?;
            if let Some(step) = self.step(chain, heads).await? {
                // The heads are reported as reached only once the feed stands at the head.
                let reached = step.committed.last().is_none_or(|block| block.hash == heads.head.hash);
                self.reported = reached.then_some(heads);
                return Ok(step);
            }
            if chain.tip() == Some(heads.head) && self.reported != Some(heads) {
                self.reported = Some(heads);
                return Ok(HostNotification { reverted: Vec::new(), committed: Vec::new(), heads });
            }
            self.wait().await;
        }
    }

    fn finished(&mut self, block: BlockRef) {
        // A node behind JSON-RPC keeps what it keeps.
        tracing::trace!(target: "lcai::host_rpc", number = block.number, "finished");
    }
}
