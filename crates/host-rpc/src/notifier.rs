//! Following a node's chain over JSON-RPC: when to look again.

use crate::client::RpcClient;
use alloy_primitives::Address;
use async_trait::async_trait;
use jsonrpsee::core::client::Subscription;
use lcai_host::{
    BlockRef, CanonicalHashes, ChainWalker, HostError, HostNotification, HostNotifier, ReadPlan, WalkConfig,
};
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};

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
    walker: ChainWalker<RpcClient>,
    poll_interval: Duration,
    new_heads: Option<Subscription<Value>>,
}

impl fmt::Debug for RpcNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcNotifier").field("walker", &self.walker).finish_non_exhaustive()
    }
}

impl RpcNotifier {
    /// A notifier over a client; `plan` says which contract state each block must carry.
    pub fn new(client: Arc<RpcClient>, plan: Arc<dyn ReadPlan>, config: NotifierConfig) -> Self {
        let NotifierConfig { watched, start_block, batch, poll_interval } = config;
        let walker = ChainWalker::new(client, plan, WalkConfig { watched, start_block, batch });
        Self { walker, poll_interval, new_heads: None }
    }

    /// Waits for a reason to look again.
    async fn wait(&mut self) {
        if self.new_heads.is_none() {
            match self.walker.reader().new_heads().await {
                Ok(subscription) => self.new_heads = subscription,
                Err(e) => {
                    tracing::debug!(target: "lcai::host_rpc", error = %e, "no newHeads subscription; polling")
                }
            }
        }
        let mut poll = std::pin::pin!(tokio::time::sleep(self.poll_interval));
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
            if let Some(step) = self.walker.next(chain).await? {
                return Ok(step);
            }
            self.wait().await;
        }
    }

    fn finished(&mut self, block: BlockRef) {
        // A node behind JSON-RPC keeps what it keeps.
        tracing::trace!(target: "lcai::host_rpc", number = block.number, "finished");
    }
}
