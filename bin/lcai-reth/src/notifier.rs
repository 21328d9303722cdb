//! Following the node's chain: notifications say when to look, the chain itself says what is there.

use async_trait::async_trait;
use lcai_host::{
    BlockRef, CanonicalHashes, ChainReader, ChainWalker, HostError, HostNotification, HostNotifier, ReadPlan,
    WalkConfig,
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The two ends of the ExEx that the feed needs.
#[derive(Debug)]
pub struct ExExLink {
    /// Counts notifications.
    pub wake: watch::Receiver<u64>,
    /// The finished height, for the ExEx to report.
    pub finished: watch::Sender<Option<BlockRef>>,
}

/// How the notifier follows.
#[derive(Debug, Clone)]
pub struct RethNotifierConfig {
    /// What is taken from the chain.
    pub walk: WalkConfig,
    /// How often the head is looked at when no notification says so: the stream can stop without an error, and skips
    /// commits after a revert. `None` believes the stream, which only tests do.
    pub poll_interval: Option<Duration>,
}

/// Follows the node whose process it runs in.
pub struct RethNotifier<R> {
    walker: ChainWalker<R>,
    poll_interval: Option<Duration>,
    link: ExExLink,
}

impl<R> fmt::Debug for RethNotifier<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RethNotifier").field("walker", &self.walker).finish_non_exhaustive()
    }
}

impl<R: ChainReader> RethNotifier<R> {
    /// A notifier over a chain; `plan` says which contract state each block must carry.
    pub fn new(reader: Arc<R>, plan: Arc<dyn ReadPlan>, config: RethNotifierConfig, link: ExExLink) -> Self {
        let walker = ChainWalker::new(reader, plan, config.walk);
        Self { walker, poll_interval: config.poll_interval, link }
    }

    /// Waits for a notification or the next look.
    async fn wait(&mut self) -> Result<(), HostError> {
        let poll = async {
            match self.poll_interval {
                Some(interval) => tokio::time::sleep(interval).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            woken = self.link.wake.changed() => woken.map_err(|_| HostError::Closed),
            () = poll => Ok(()),
        }
    }
}

#[async_trait]
impl<R: ChainReader> HostNotifier for RethNotifier<R> {
    async fn next(&mut self, chain: &dyn CanonicalHashes) -> Result<HostNotification, HostError> {
        loop {
            // Seen before the chain is read: what happens meanwhile wakes again.
            self.link.wake.borrow_and_update();
            if let Some(step) = self.walker.next(chain).await? {
                return Ok(step);
            }
            self.wait().await?;
        }
    }

    fn finished(&mut self, block: BlockRef) {
        self.link.finished.send_replace(Some(block));
    }
}
