//! Performs effects once they are deep enough.

use crate::{
    BlockRef, EffectContext, EffectDepth, EffectHandler, EffectOutcome, FeedState, HostClient, Intent,
    IntentId, Journal, JournalError,
    feed::{Backoff, blocking},
    journal::{Ending, OpenEffect},
};
use futures::FutureExt;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

/// Tells the time, so that tests decide it.
pub trait Clock: Send + Sync {
    /// Unix seconds.
    fn now(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// The effects of one extension, as an executor sees them.
#[derive(Clone)]
pub struct EffectQueue {
    name: &'static str,
    journal: Arc<Journal>,
    feed: watch::Receiver<FeedState>,
    announced: watch::Sender<u64>,
    halted: watch::Sender<Option<String>>,
}

impl fmt::Debug for EffectQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EffectQueue").field("extension", &self.name).finish_non_exhaustive()
    }
}

impl EffectQueue {
    pub(crate) fn new(name: &'static str, journal: Arc<Journal>, feed: watch::Receiver<FeedState>) -> Self {
        Self { name, journal, feed, announced: watch::channel(0).0, halted: watch::channel(None).0 }
    }

    /// Says that blocks or inputs were made durable.
    pub(crate) fn announce(&self) {
        self.announced.send_modify(|sequence| *sequence += 1);
    }

    /// Why the effects were halted, once they are.
    pub fn halted(&self) -> Option<String> {
        self.halted.borrow().clone()
    }

    /// As [`Self::halted`], as it changes.
    pub fn subscribe_halted(&self) -> watch::Receiver<Option<String>> {
        self.halted.subscribe()
    }
}

/// Settings of an executor.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// No effect happens while the extension is further than this behind the host's head: what it sees may be settled
    /// already by blocks it has not applied.
    pub max_behind: u64,
    /// How long running attempts may take to end at shutdown.
    pub grace: Duration,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self { max_behind: 8, grace: Duration::from_secs(5) }
    }
}

/// First and longest delay after a handler panicked.
const PANIC_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Performs one extension's effects. There must be one executor per extension.
pub struct EffectExecutor {
    queue: EffectQueue,
    handler: Arc<dyn EffectHandler>,
    client: Arc<dyn HostClient>,
    clock: Arc<dyn Clock>,
    config: ExecutorConfig,
}

impl fmt::Debug for EffectExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EffectExecutor").field("queue", &self.queue).finish_non_exhaustive()
    }
}

/// What is known of intents beside the journal, only for as long as they are open.
#[derive(Default)]
struct Attempts {
    count: u32,
    not_before: Option<Instant>,
    panics: Option<Backoff>,
}

/// The running attempts.
#[derive(Default)]
struct Running {
    tasks: JoinSet<(Intent, Option<EffectOutcome>)>,
    ids: HashSet<IntentId>,
    attempts: HashMap<IntentId, Attempts>,
}

impl EffectExecutor {
    /// An executor on the machine's clock.
    pub fn new(queue: EffectQueue, handler: Arc<dyn EffectHandler>, client: Arc<dyn HostClient>) -> Self {
        Self { queue, handler, client, clock: Arc::new(SystemClock), config: ExecutorConfig::default() }
    }

    /// Sets the clock that `not_after` is compared with.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Changes the settings.
    #[must_use]
    pub fn with_config(mut self, config: ExecutorConfig) -> Self {
        self.config = config;
        self
    }

    /// Performs effects until `shutdown`; after a halt it only waits for that. Can be called again.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), JournalError> {
        let mut announced = self.queue.announced.subscribe();
        let mut feed = self.queue.feed.clone();
        let mut running = Running::default();
        loop {
            announced.mark_unchanged();
            feed.mark_unchanged();
            let halted = self.queue.halted.borrow().is_some();
            let wake = if halted { None } else { self.start_ready(&mut running).await? };
            tokio::select! {
                () = shutdown.cancelled() => return self.wind_down(running).await,
                Some(ended) = running.tasks.join_next() => self.settle(&mut running, ended).await?,
                changed = announced.changed() => if changed.is_err() { return self.wind_down(running).await },
                // The feed writer may end before us; announcements still come.
                Ok(()) = feed.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Starts what is due; gives the time of the next retry.
    async fn start_ready(&self, running: &mut Running) -> Result<Option<Instant>, JournalError> {
        let name = self.queue.name;
        let journal = Arc::clone(&self.queue.journal);
        let Some((cursor, mut open)) = blocking(move || journal.open_effects(name)).await? else {
            return Ok(None);
        };
        metrics::gauge!("lcai_effects_open", "extension" => name).set(open.len() as f64);
        let known: HashSet<IntentId> = open.iter().map(|effect| effect.intent.id()).collect();
        running.attempts.retain(|id, _| known.contains(id));

        let feed = *self.queue.feed.borrow();
        if self.is_behind(&feed, cursor) {
            return Ok(None);
        }
        let now = self.clock.now();
        let (mut due, mut wake) = (Vec::new(), None);
        open.sort_by_key(|effect| effect.intent.origin.number);
        for effect in open {
            let id = effect.intent.id();
            if running.ids.contains(&id) {
                continue;
            }
            if effect.intent.not_after.is_some_and(|last| last < now) {
                self.drop_late(&effect.intent).await?;
                continue;
            }
            if !is_deep_enough(&effect.intent, cursor, &feed) {
                continue;
            }
            let not_before = running.attempts.get(&id).and_then(|attempts| attempts.not_before);
            match not_before {
                Some(at) if at > Instant::now() => {
                    wake = Some(wake.map_or(at, |wake: Instant| wake.min(at)));
                }
                _ => due.push(effect),
            }
        }
        due.truncate(self.handler.concurrency().max(1).saturating_sub(running.ids.len()));
        if !due.is_empty() {
            let journal = Arc::clone(&self.queue.journal);
            // Told apart before it is marked: only a mark from an earlier run means an interruption.
            for effect in blocking(move || journal.start_effects(name, due)).await? {
                self.start(running, effect);
            }
        }
        Ok(wake)
    }

    fn is_behind(&self, feed: &FeedState, cursor: BlockRef) -> bool {
        feed.heads.is_some_and(|heads| cursor.number + self.config.max_behind < heads.head.number)
    }

    fn start(&self, running: &mut Running, effect: OpenEffect) {
        let id = effect.intent.id();
        let attempts = running.attempts.entry(id).or_default();
        let context = EffectContext {
            client: Arc::clone(&self.client),
            previous: effect.previous,
            attempt: attempts.count,
            interrupted: effect.started && attempts.count == 0,
        };
        attempts.count = attempts.count.saturating_add(1);
        attempts.not_before = None;
        running.ids.insert(id);
        let handler = Arc::clone(&self.handler);
        let intent = effect.intent;
        running.tasks.spawn(async move {
            let outcome = AssertUnwindSafe(handler.execute(&intent, context)).catch_unwind().await;
            (intent, outcome.ok())
        });
    }

    async fn settle(
        &self,
        running: &mut Running,
        ended: Result<(Intent, Option<EffectOutcome>), tokio::task::JoinError>,
    ) -> Result<(), JournalError> {
        // Panics are caught within the task, and nobody aborts one.
        let Ok((intent, outcome)) = ended else { return Ok(()) };
        let id = intent.id();
        running.ids.remove(&id);
        let labels = [("extension", self.queue.name.to_owned()), ("action", intent.action.clone())];
        let attempts = running.attempts.entry(id).or_default();
        match outcome {
            Some(EffectOutcome::Done(output)) => {
                metrics::counter!("lcai_effects_done_total", &labels).increment(1);
                running.attempts.remove(&id);
                self.finish(intent, Ending::Done(output)).await?;
            }
            Some(EffectOutcome::Abandon { reason }) => {
                metrics::counter!("lcai_effects_abandoned_total", &labels).increment(1);
                tracing::info!(
                    extension = self.queue.name,
                    action = intent.action,
                    ?id,
                    reason,
                    "effect given up"
                );
                running.attempts.remove(&id);
                self.finish(intent, Ending::Dropped(reason)).await?;
            }
            Some(EffectOutcome::Retry { after, reason }) => {
                metrics::counter!("lcai_effects_retries_total", &labels).increment(1);
                tracing::debug!(
                    extension = self.queue.name,
                    action = intent.action,
                    ?id,
                    reason,
                    ?after,
                    "effect later"
                );
                attempts.not_before = Some(Instant::now() + after);
            }
            Some(EffectOutcome::Halt { reason }) => {
                metrics::gauge!("lcai_effects_halted", "extension" => self.queue.name).set(1.0);
                tracing::error!(
                    extension = self.queue.name,
                    action = intent.action,
                    reason,
                    "effects are halted"
                );
                self.queue.halted.send_replace(Some(reason));
            }
            None => {
                metrics::counter!("lcai_effects_panics_total", &labels).increment(1);
                let (min, max) = PANIC_BACKOFF;
                let after = attempts.panics.get_or_insert_with(|| Backoff::new(min, max)).next();
                tracing::error!(
                    extension = self.queue.name,
                    action = intent.action,
                    ?after,
                    "an effect panicked"
                );
                attempts.not_before = Some(Instant::now() + after);
            }
        }
        Ok(())
    }

    async fn drop_late(&self, intent: &Intent) -> Result<(), JournalError> {
        metrics::counter!("lcai_effects_expired_total", "extension" => self.queue.name).increment(1);
        tracing::debug!(extension = self.queue.name, action = intent.action, id = ?intent.id(), "effect came too late");
        self.finish(intent.clone(), Ending::Dropped("it came too late".into())).await
    }

    async fn finish(&self, intent: Intent, ending: Ending) -> Result<(), JournalError> {
        let (name, journal) = (self.queue.name, Arc::clone(&self.queue.journal));
        // What ended it can be in a block that the feed has not read. Rather too high than too low: where the chain loses a
        // block below, the handler looks again.
        let head = self.queue.feed.borrow().heads.map_or(0, |heads| heads.head.number);
        let at = head.saturating_add(self.config.max_behind);
        blocking(move || journal.finish_effect(name, &intent, ending, at)).await
    }

    /// Lets running attempts end and records them; what takes too long is dropped, as in a crash.
    async fn wind_down(&self, mut running: Running) -> Result<(), JournalError> {
        let deadline = Instant::now() + self.config.grace;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, running.tasks.join_next()).await {
            self.settle(&mut running, ended).await?;
        }
        Ok(())
    }
}

fn is_deep_enough(intent: &Intent, cursor: BlockRef, feed: &FeedState) -> bool {
    let origin = intent.origin.number;
    let reached = |head: Option<BlockRef>| head.is_some_and(|head| head.number >= origin);
    match intent.depth {
        EffectDepth::Head => cursor.number >= origin,
        EffectDepth::Depth(blocks) => cursor.number >= origin.saturating_add(blocks),
        EffectDepth::Safe => reached(feed.heads.and_then(|heads| heads.safe)),
        EffectDepth::Finalized => reached(feed.heads.and_then(|heads| heads.finalized)),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
