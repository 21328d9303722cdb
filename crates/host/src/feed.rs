//! The feed's only writer, and the watchdog that notices when it falls behind.

use crate::{
    BlockRef, FeedBlock, Heads, HostClient, HostError, HostNotification, HostNotifier, Journal, JournalError,
};
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// What the feed holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FeedState {
    /// The newest block.
    pub tip: Option<BlockRef>,
    /// The newest block's time, unix seconds.
    pub timestamp: u64,
    /// The heads as the host last reported them; the head can be ahead of the tip while the feed catches up.
    pub heads: Option<Heads>,
    /// Counts the steps since start.
    pub sequence: u64,
}

/// Settings of the feed writer.
#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// Blocks kept below the finalized one.
    pub keep: u64,
    /// Blocks kept below the tip while the host has no finalized head.
    pub keep_without_finality: u64,
    /// First delay after a host error; it doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// Longest delay after a host error.
    pub backoff_max: Duration,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            keep: 1024,
            keep_without_finality: 16_384,
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// Why the feed stopped.
#[derive(Debug, Error)]
pub enum FeedError {
    /// The host failed in a way that waiting does not heal.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The host kept giving steps that do not continue the feed.
    #[error("the host gave {0} steps in a row that do not continue the feed")]
    Discontinuous(u32),
}

/// Steps that do not continue the feed are asked for again this often before the writer gives up.
const MAX_MISMATCHES: u32 = 16;
/// Blocks dropped from the feed at one go, so that pruning a long feed does not hold the journal.
const PRUNE_BATCH: usize = 2048;

/// Writes the feed. It waits for nobody who reads it.
pub struct FeedWriter {
    journal: Arc<Journal>,
    notifier: tokio::sync::Mutex<Box<dyn HostNotifier>>,
    config: FeedConfig,
    state: watch::Sender<FeedState>,
}

impl std::fmt::Debug for FeedWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedWriter").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl FeedWriter {
    /// A writer over a journal; it continues at the journal's tip.
    pub fn new(
        journal: Arc<Journal>,
        notifier: Box<dyn HostNotifier>,
        config: FeedConfig,
    ) -> Result<Self, JournalError> {
        let tip = journal.feed_tip()?;
        let timestamp = match tip {
            Some(tip) => journal.feed_block(tip.number)?.map_or(0, |block| block.timestamp),
            None => 0,
        };
        let state = FeedState { tip, timestamp, heads: journal.heads()?, sequence: 0 };
        let (state, _) = watch::channel(state);
        Ok(Self { journal, notifier: tokio::sync::Mutex::new(notifier), config, state })
    }

    /// What the feed holds, as it changes.
    pub fn subscribe(&self) -> watch::Receiver<FeedState> {
        self.state.subscribe()
    }

    /// Follows the host until `shutdown`, or until an error that waiting does not heal. Can be called again.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), FeedError> {
        let mut notifier = self.notifier.lock().await;
        let mut backoff = Backoff::new(self.config.backoff_min, self.config.backoff_max);
        let mut mismatches = 0;
        loop {
            let next = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                next = notifier.next(self.journal.as_ref()) => next,
            };
            let pause = match next {
                Ok(notification) => match self.accept(notification).await {
                    Ok(finished) => {
                        if let Some(block) = finished {
                            notifier.finished(block);
                        }
                        backoff.reset();
                        mismatches = 0;
                        continue;
                    }
                    Err(JournalError::Discontinuous { tip, reason }) => {
                        mismatches += 1;
                        metrics::counter!("lcai_feed_mismatches_total").increment(1);
                        tracing::warn!(?tip, reason, "a step does not continue the feed; asking again");
                        if mismatches >= MAX_MISMATCHES {
                            return Err(FeedError::Discontinuous(mismatches));
                        }
                        backoff.next()
                    }
                    Err(error) => return Err(error.into()),
                },
                Err(error) if !is_final(&error) => {
                    let pause = backoff.next();
                    metrics::counter!("lcai_feed_host_errors_total").increment(1);
                    tracing::warn!(%error, ?pause, "the host does not answer; trying again");
                    pause
                }
                Err(error) => return Err(error.into()),
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Writes a step, tells the readers, and gives the height that is finished now.
    async fn accept(&self, notification: HostNotification) -> Result<Option<BlockRef>, JournalError> {
        let journal = Arc::clone(&self.journal);
        let keep = self.config.clone();
        let heads = notification.heads;
        let timestamp = notification.committed.last().map(|block| block.timestamp);
        let (step, finished) = blocking(move || {
            let HostNotification { reverted, committed, heads } = notification;
            let step = journal.advance_feed(&reverted, &committed, &heads)?;
            let finished = finish(&journal, &heads)?;
            prune(&journal, &keep, &heads, step.tip)?;
            Ok::<_, JournalError>((step, finished))
        })
        .await?;
        if step.reverted > 0 {
            tracing::info!(blocks = step.reverted, tip = ?step.tip, "the chain was reorganised");
            metrics::counter!("lcai_feed_reverted_blocks_total").increment(step.reverted as u64);
        }
        metrics::counter!("lcai_feed_blocks_total").increment(step.committed as u64);
        if let Some(tip) = step.tip {
            metrics::gauge!("lcai_feed_tip").set(tip.number as f64);
        }
        let timestamp = match timestamp {
            Some(timestamp) => timestamp,
            None => self.tip_timestamp(step.tip).await?,
        };
        self.state.send_modify(|state| {
            *state = FeedState { tip: step.tip, timestamp, heads: Some(heads), sequence: state.sequence + 1 };
        });
        Ok(finished)
    }

    /// The tip's time after a step without new blocks.
    async fn tip_timestamp(&self, tip: Option<BlockRef>) -> Result<u64, JournalError> {
        let known = *self.state.borrow();
        let Some(tip) = tip else { return Ok(0) };
        if known.tip == Some(tip) {
            return Ok(known.timestamp);
        }
        let journal = Arc::clone(&self.journal);
        let block: Option<FeedBlock> = blocking(move || journal.feed_block(tip.number)).await?;
        Ok(block.map_or(0, |block| block.timestamp))
    }
}

/// Errors that asking again does not heal. A refusal is none: nodes refuse while they start, are busy or reorganise.
pub(crate) const fn is_final(error: &HostError) -> bool {
    matches!(
        error,
        HostError::WrongChain { .. }
            | HostError::NoCommonAncestor(_)
            | HostError::Pruned { .. }
            | HostError::Closed
    )
}

/// The block below the finalized one, when the feed holds it and it is new. A host may drop everything up to a finished
/// height, and a client that restarts may fall back by a block, hence one below.
fn finish(journal: &Journal, heads: &Heads) -> Result<Option<BlockRef>, JournalError> {
    let Some(number) = heads.finalized.and_then(|finalized| finalized.number.checked_sub(1)) else {
        return Ok(None);
    };
    if journal.finished()?.is_some_and(|finished| finished.number >= number) {
        return Ok(None);
    }
    let Some(hash) = journal.feed_hash(number)? else { return Ok(None) };
    let block = BlockRef { number, hash };
    journal.set_finished(block)?;
    Ok(Some(block))
}

fn prune(
    journal: &Journal,
    config: &FeedConfig,
    heads: &Heads,
    tip: Option<BlockRef>,
) -> Result<(), JournalError> {
    let Some(tip) = tip else { return Ok(()) };
    let settled = match heads.finalized {
        Some(finalized) => finalized.number.min(tip.number).saturating_sub(config.keep),
        None => tip.number.saturating_sub(config.keep_without_finality),
    };
    let Some(first) = journal.feed_first()? else { return Ok(()) };
    // In lots, so that not every block costs a transaction more.
    if settled < first.number + 64 {
        return Ok(());
    }
    let Some(cursor) = journal.lowest_cursor()? else { return Ok(()) };
    let below = settled.min(cursor);
    if below > first.number {
        journal.prune_feed(below, PRUNE_BATCH)?;
    }
    Ok(())
}

/// Runs journal work on a thread that may block. A panic there is passed on to the caller's task.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down: this future is about to be dropped as well.
        Err(_) => std::future::pending().await,
    }
}

/// Doubling delays between two bounds.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.max);
        delay
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

/// Settings of the watchdog.
#[derive(Debug, Clone)]
pub struct WatchdogConfig {
    /// How often to look.
    pub interval: Duration,
    /// Blocks the feed may be behind the host's head.
    pub max_behind: u64,
    /// For how long it may be further behind before it is said loudly.
    pub tolerance: Duration,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(6), max_behind: 8, tolerance: Duration::from_secs(60) }
    }
}

/// Compares the host's head with the feed: a stream of notifications can stop without an error.
pub struct Watchdog {
    client: Arc<dyn HostClient>,
    feed: watch::Receiver<FeedState>,
    config: WatchdogConfig,
    heads: watch::Sender<Option<Heads>>,
}

impl std::fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watchdog").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Watchdog {
    /// A watchdog over a feed.
    pub fn new(
        client: Arc<dyn HostClient>,
        feed: watch::Receiver<FeedState>,
        config: WatchdogConfig,
    ) -> Self {
        Self { client, feed, config, heads: watch::channel(None).0 }
    }

    /// The host's heads as they were last read; `None` before that. The feed tells them too, for as long as it lives.
    pub fn heads(&self) -> watch::Receiver<Option<Heads>> {
        self.heads.subscribe()
    }

    /// Looks until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut behind_since: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.config.interval) => {}
            }
            let Ok(heads) = self.client.heads().await else {
                metrics::counter!("lcai_watchdog_host_errors_total").increment(1);
                continue;
            };
            self.heads.send_replace(Some(heads));
            let tip = self.feed.borrow().tip.map_or(0, |tip| tip.number);
            let lag = heads.head.number.saturating_sub(tip);
            metrics::gauge!("lcai_feed_lag_blocks").set(lag as f64);
            if lag <= self.config.max_behind {
                behind_since = None;
                continue;
            }
            let since = *behind_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.config.tolerance {
                metrics::counter!("lcai_watchdog_alarms_total").increment(1);
                tracing::warn!(tip, head = heads.head.number, "the feed is {lag} blocks behind the node");
            }
        }
    }
}
