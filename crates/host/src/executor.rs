//! Performs effects once they are deep enough.

use crate::{
    BlockRef, EffectContext, EffectDepth, EffectHandler, EffectOutcome, FeedState, HostClient, Intent,
    IntentId, Journal, JournalError,
    feed::{Backoff, blocking},
    journal::{Ending, OpenEffect},
};
use futures::FutureExt;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
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

/// How an attempt ended; no outcome: it panicked.
type Ended = (IntentId, Intent, Option<EffectOutcome>);

/// The running attempts.
#[derive(Default)]
struct Running {
    tasks: JoinSet<Ended>,
    ids: HashSet<IntentId>,
    attempts: HashMap<IntentId, Attempts>,
    turns: Turns,
}

/// Which action started something last: the others come first, so that a backlog of one does not hold the others up.
#[derive(Default)]
struct Turns {
    last: HashMap<String, u64>,
    count: u64,
}

/// What the last look at the journal found to do. A look reads every open effect, so that one is taken when there is news
/// and not whenever an attempt ends.
#[derive(Default)]
struct Due {
    /// By action, oldest origin first.
    effects: BTreeMap<String, VecDeque<OpenEffect>>,
    /// When to look again without news.
    wake: Option<Instant>,
}

impl Due {
    fn add(&mut self, effect: OpenEffect) {
        match self.effects.get_mut(&effect.intent.action) {
            Some(queue) => queue.push_back(effect),
            None => drop(self.effects.insert(effect.intent.action.clone(), VecDeque::from([effect]))),
        }
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// The oldest of the action whose turn it is.
    fn next(&mut self, turns: &mut Turns) -> Option<OpenEffect> {
        let turn = |action: &String| turns.last.get(action).copied().unwrap_or_default();
        let (action, queue) = self.effects.iter_mut().min_by_key(|(action, _)| turn(action))?;
        let (action, next) = (action.clone(), queue.pop_front());
        if queue.is_empty() {
            self.effects.remove(&action);
        }
        turns.count += 1;
        turns.last.insert(action, turns.count);
        next
    }
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
        let (mut running, mut due) = (Running::default(), Due::default());
        let mut look = true;
        loop {
            if self.queue.halted.borrow().is_some() {
                due = Due::default();
            } else {
                // The feed writer may end before us; announcements still come.
                if look || announced.has_changed().unwrap_or(false) || feed.has_changed().unwrap_or(false) {
                    announced.mark_unchanged();
                    feed.mark_unchanged();
                    due = self.look(&mut running).await?;
                }
                self.start_due(&mut running, &mut due).await?;
            }
            look = tokio::select! {
                () = shutdown.cancelled() => return self.wind_down(running).await,
                Some(ended) = running.tasks.join_next() => self.settle(&mut running, &mut due, ended).await?,
                changed = announced.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return self.wind_down(running).await,
                },
                Ok(()) = feed.changed() => true,
                () = sleep_until(due.wake) => true,
            };
        }
    }

    /// What the journal has to do now, less what runs.
    async fn look(&self, running: &mut Running) -> Result<Due, JournalError> {
        let name = self.queue.name;
        let journal = Arc::clone(&self.queue.journal);
        let Some((cursor, mut open)) = blocking(move || journal.open_effects(name)).await? else {
            return Ok(Due::default());
        };
        metrics::gauge!("lcai_effects_open", "extension" => name).set(open.len() as f64);
        let known: HashSet<IntentId> = open.iter().map(|effect| effect.id).collect();
        running.attempts.retain(|id, _| known.contains(id));

        let feed = *self.queue.feed.borrow();
        let mut due = Due::default();
        if self.is_behind(&feed, cursor) {
            return Ok(due);
        }
        let (now, instant) = (self.clock.now(), Instant::now());
        let mut late = Vec::new();
        open.sort_by_key(|effect| effect.intent.origin.number);
        for effect in open {
            if running.ids.contains(&effect.id) {
                continue;
            }
            if is_late(&effect.intent, now) {
                late.push(effect.intent);
                continue;
            }
            if !is_deep_enough(&effect.intent, cursor, &feed) {
                continue;
            }
            match running.attempts.get(&effect.id).and_then(|attempts| attempts.not_before) {
                Some(at) if at > instant => due.wake_at(at),
                _ => due.add(effect),
            }
        }
        self.drop_late(late).await?;
        Ok(due)
    }

    /// Starts as much of what is due as may run at once.
    async fn start_due(&self, running: &mut Running, due: &mut Due) -> Result<(), JournalError> {
        let name = self.queue.name;
        loop {
            let room = self.handler.concurrency().max(1).saturating_sub(running.ids.len());
            let (mut next, mut late) = (Vec::new(), Vec::new());
            while next.len() < room
                && let Some(effect) = due.next(&mut running.turns)
            {
                if is_late(&effect.intent, self.clock.now()) {
                    late.push(effect.intent);
                } else {
                    next.push(effect);
                }
            }
            self.drop_late(late).await?;
            if next.is_empty() {
                return Ok(());
            }
            let journal = Arc::clone(&self.queue.journal);
            // Told apart before it is marked: only a mark from an earlier run means an interruption. What was withdrawn
            // since the look is not started, and leaves room for more.
            for effect in blocking(move || journal.start_effects(name, next)).await? {
                self.start(running, effect);
            }
        }
    }

    fn is_behind(&self, feed: &FeedState, cursor: BlockRef) -> bool {
        feed.heads.is_some_and(|heads| cursor.number + self.config.max_behind < heads.head.number)
    }

    fn start(&self, running: &mut Running, effect: OpenEffect) {
        let OpenEffect { id, intent, started, previous } = effect;
        let attempts = running.attempts.entry(id).or_default();
        let context = EffectContext {
            client: Arc::clone(&self.client),
            previous,
            attempt: attempts.count,
            interrupted: started && attempts.count == 0,
        };
        attempts.count = attempts.count.saturating_add(1);
        attempts.not_before = None;
        running.ids.insert(id);
        let handler = Arc::clone(&self.handler);
        running.tasks.spawn(async move {
            let outcome = AssertUnwindSafe(handler.execute(&intent, context)).catch_unwind().await;
            (id, intent, outcome.ok())
        });
    }

    /// Records how an attempt ended, and those that ended beside it; gives whether something is to be looked for anew.
    async fn settle(
        &self,
        running: &mut Running,
        due: &mut Due,
        ended: Result<Ended, tokio::task::JoinError>,
    ) -> Result<bool, JournalError> {
        let mut endings = Vec::new();
        let mut next = Some(ended);
        while let Some(ended) = next {
            // Panics are caught within the task, and nobody aborts one.
            if let Ok((id, intent, outcome)) = ended
                && let Some(ending) = self.ending(running, due, id, &intent, outcome)
            {
                endings.push((intent, ending));
            }
            next = running.tasks.try_join_next();
        }
        self.finish(endings).await
    }

    /// How an attempt is recorded; one that is to be repeated is not.
    fn ending(
        &self,
        running: &mut Running,
        due: &mut Due,
        id: IntentId,
        intent: &Intent,
        outcome: Option<EffectOutcome>,
    ) -> Option<Ending> {
        running.ids.remove(&id);
        let (extension, action) = (self.queue.name, intent.action.as_str());
        let labels = [("extension", extension.to_owned()), ("action", action.to_owned())];
        let attempts = running.attempts.entry(id).or_default();
        match outcome {
            Some(EffectOutcome::Done(output)) => {
                metrics::counter!("lcai_effects_done_total", &labels).increment(1);
                running.attempts.remove(&id);
                return Some(Ending::Done(output));
            }
            Some(EffectOutcome::Abandon { reason }) => {
                metrics::counter!("lcai_effects_abandoned_total", &labels).increment(1);
                tracing::info!(extension, action, ?id, reason, "effect given up");
                running.attempts.remove(&id);
                return Some(Ending::Dropped(reason));
            }
            Some(EffectOutcome::Retry { after, reason }) => {
                metrics::counter!("lcai_effects_retries_total", &labels).increment(1);
                tracing::debug!(extension, action, ?id, reason, ?after, "effect later");
                let at = Instant::now() + after;
                attempts.not_before = Some(at);
                due.wake_at(at);
            }
            Some(EffectOutcome::Halt { reason }) => {
                metrics::gauge!("lcai_effects_halted", "extension" => extension).set(1.0);
                tracing::error!(extension, action, reason, "effects are halted");
                self.queue.halted.send_replace(Some(reason));
            }
            None => {
                metrics::counter!("lcai_effects_panics_total", &labels).increment(1);
                let (min, max) = PANIC_BACKOFF;
                let after = attempts.panics.get_or_insert_with(|| Backoff::new(min, max)).next();
                tracing::error!(extension, action, ?after, "an effect panicked");
                let at = Instant::now() + after;
                attempts.not_before = Some(at);
                due.wake_at(at);
            }
        }
        None
    }

    /// Gives up what came too late.
    async fn drop_late(&self, late: Vec<Intent>) -> Result<(), JournalError> {
        let extension = self.queue.name;
        for intent in &late {
            metrics::counter!("lcai_effects_expired_total", "extension" => extension).increment(1);
            tracing::debug!(extension, action = intent.action, id = ?intent.id(), "effect came too late");
        }
        let ending = || Ending::Dropped("it came too late".into());
        self.finish(late.into_iter().map(|intent| (intent, ending())).collect()).await.map(drop)
    }

    /// Records how attempts ended; gives whether one of them was asked for anew meanwhile, and is open.
    async fn finish(&self, endings: Vec<(Intent, Ending)>) -> Result<bool, JournalError> {
        if endings.is_empty() {
            return Ok(false);
        }
        let (name, journal) = (self.queue.name, Arc::clone(&self.queue.journal));
        // What ended it can be in a block that the feed has not read. Rather too high than too low: where the chain loses a
        // block below, the handler looks again.
        let head = self.queue.feed.borrow().heads.map_or(0, |heads| heads.head.number);
        let at = head.saturating_add(self.config.max_behind);
        blocking(move || journal.finish_effects(name, endings, at)).await
    }

    /// Lets running attempts end and records them; what takes too long is dropped, as in a crash.
    async fn wind_down(&self, mut running: Running) -> Result<(), JournalError> {
        let deadline = Instant::now() + self.config.grace;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, running.tasks.join_next()).await {
            self.settle(&mut running, &mut Due::default(), ended).await?;
        }
        Ok(())
    }
}

fn is_late(intent: &Intent, now: u64) -> bool {
    intent.not_after.is_some_and(|last| last < now)
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    fn effect(action: &str, n: u8) -> OpenEffect {
        let origin = BlockRef { number: n.into(), hash: B256::ZERO };
        let intent = Intent {
            subject: B256::repeat_byte(n),
            action: action.into(),
            origin,
            depth: EffectDepth::Head,
            on_repeat: crate::OnRepeat::Skip,
            not_after: None,
            payload: Vec::new(),
        };
        OpenEffect { id: intent.id(), intent, started: false, previous: None }
    }

    #[test]
    fn actions_take_turns_over_looks_too() {
        let mut turns = Turns::default();
        let mut names = |effects: &[OpenEffect], count: usize| {
            let mut due = Due::default();
            effects.iter().cloned().for_each(|effect| due.add(effect));
            let next = std::iter::from_fn(|| due.next(&mut turns)).take(count);
            next.map(|e| (e.intent.action, e.intent.origin.number)).collect::<Vec<_>>()
        };
        let all = [effect("compare", 1), effect("compare", 2), effect("compare", 3), effect("release", 9)];
        let of = |action: &str, n: u64| (action.to_owned(), n);
        assert_eq!(names(&all, 1), [of("compare", 1)]);
        assert_eq!(names(&all, 2), [of("release", 9), of("compare", 1)], "the other's turn");
        assert_eq!(names(&all[..3], 9), [of("compare", 1), of("compare", 2), of("compare", 3)], "alone");
        assert_eq!(names(&all, 9).first(), Some(&of("release", 9)));
    }
}
