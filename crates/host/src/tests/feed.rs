use super::*;
use crate::{
    ChainWalker, HostClient, HostError, HostNotification, HostNotifier, JournalError, WalkConfig, Watchdog,
    WatchdogConfig,
    testing::{BlockContent, GENESIS_TIME, identity},
};
use async_trait::async_trait;

#[tokio::test]
async fn follows_reorgs_and_reports_finished_one_below_finalized() {
    let host = ScriptedHost::new(8200);
    let journal = Journal::in_memory(identity()).unwrap();
    let feed = RunningFeed::start(&journal, &host, quick());
    host.mine_empty(20);
    feed.caught_up(&host).await;
    host.reorg(3, vec![BlockContent::default(); 2]);
    feed.caught_up(&host).await;
    // To the same height.
    host.reorg(1, vec![BlockContent::default()]);
    feed.caught_up(&host).await;
    assert_eq!(journal.feed_blocks(0, 100).unwrap(), host.blocks());
    let state = *feed.writer.subscribe().borrow();
    assert_eq!(state.timestamp, GENESIS_TIME + 19 * 2);
    let heads = host.heads().await.unwrap();
    assert_eq!(state.heads, Some(heads));
    let finalized = heads.finalized.unwrap().number;
    let finished = *host.finished().last().unwrap();
    assert_eq!(finished.number, finalized - 1);
    assert_eq!(journal.feed_hash(finished.number).unwrap(), Some(finished.hash));
    assert_eq!(journal.finished().unwrap(), Some(finished));
    feed.stop().await;
}

#[tokio::test]
async fn goes_on_after_host_errors_and_stops_when_there_is_no_way_on() {
    let host = ScriptedHost::new(8200);
    let journal = Journal::in_memory(identity()).unwrap();
    let feed = RunningFeed::start(&journal, &host, quick());
    host.fail_next(HostError::Unreachable("gone".into()));
    host.fail_next(HostError::UnknownBlock(B256::ZERO));
    host.mine_empty(3);
    feed.caught_up(&host).await;
    host.fail_next(HostError::NoCommonAncestor(1));
    let ended = feed.task.await.unwrap();
    assert!(matches!(ended, Err(crate::FeedError::Host(HostError::NoCommonAncestor(1)))), "{ended:?}");
}

/// Gives what it is told to, whatever the journal holds.
struct Replayer(Vec<HostNotification>);

#[async_trait]
impl HostNotifier for Replayer {
    async fn next(&mut self, _: &dyn crate::CanonicalHashes) -> Result<HostNotification, HostError> {
        match self.0.pop() {
            Some(step) => Ok(step),
            None => std::future::pending().await,
        }
    }

    fn finished(&mut self, _: BlockRef) {}
}

#[tokio::test]
async fn duplicates_are_ignored_and_gaps_refused() {
    let host = ScriptedHost::new(8200);
    host.mine_empty(9);
    let blocks = host.blocks();
    let heads = host.heads().await.unwrap();
    let step = |range: std::ops::Range<usize>| HostNotification {
        reverted: Vec::new(),
        committed: blocks[range].to_vec(),
        heads,
    };
    // Taken from the end: a duplicate, an overlap, a gap, and what closes it.
    let steps = vec![step(8..10), step(5..9), step(6..8), step(2..6), step(0..4), step(0..4)];
    let journal = Journal::in_memory(identity()).unwrap();
    let writer = Arc::new(FeedWriter::new(Arc::clone(&journal), Box::new(Replayer(steps)), quick()).unwrap());
    let running = Arc::clone(&writer);
    let task = tokio::spawn(async move { running.run(CancellationToken::new()).await });
    let mut state = writer.subscribe();
    state.wait_for(|state| state.tip == Some(host.head())).await.unwrap();
    assert_eq!(journal.feed_blocks(0, 100).unwrap(), blocks);
    task.abort();

    let gap = journal.advance_feed(&[], &[FeedBlock { number: 12, ..blocks[9].clone() }], &heads);
    assert!(matches!(gap, Err(JournalError::Discontinuous { .. })), "{gap:?}");
    let not_tip = journal.advance_feed(&[blocks[8].block_ref()], &[], &heads);
    assert!(matches!(not_tip, Err(JournalError::Discontinuous { .. })), "{not_tip:?}");
    assert_eq!(journal.feed_tip().unwrap(), Some(host.head()), "a refused step changes nothing");
}

#[tokio::test]
async fn a_host_that_only_gives_gaps_is_given_up() {
    let host = ScriptedHost::new(8200);
    host.mine_empty(5);
    let blocks = host.blocks();
    let heads = host.heads().await.unwrap();
    let mut steps = vec![HostNotification { reverted: vec![], committed: blocks[3..4].to_vec(), heads }; 40];
    steps.push(HostNotification { reverted: vec![], committed: blocks[0..1].to_vec(), heads });
    let journal = Journal::in_memory(identity()).unwrap();
    let config = FeedConfig { backoff_max: Duration::from_millis(2), ..quick() };
    let writer = FeedWriter::new(journal, Box::new(Replayer(steps)), config).unwrap();
    let ended = writer.run(CancellationToken::new()).await;
    assert!(matches!(ended, Err(crate::FeedError::Discontinuous(16))), "{ended:?}");
}

#[tokio::test]
async fn is_pruned_below_finalized_but_never_past_an_extension() {
    let host = ScriptedHost::new(8200);
    let journal = Journal::in_memory(identity()).unwrap();
    let feed = RunningFeed::start(&journal, &host, FeedConfig { keep: 5, ..quick() });
    let runner = crate::ExtensionRunner::open(
        Arc::clone(&journal),
        Ledger::new(),
        feed.writer.subscribe(),
        crate::RunnerConfig::default(),
    )
    .unwrap();
    host.mine_empty(200);
    feed.caught_up(&host).await;
    assert_eq!(journal.feed_first().unwrap().unwrap().number, 0, "the extension has not applied anything");
    while runner.step().await.unwrap() {}
    host.mine_empty(1);
    feed.caught_up(&host).await;
    // Finalized is 193, five more are kept.
    assert_eq!(journal.feed_first().unwrap().unwrap().number, 188);
    assert_eq!(journal.feed_pruned().unwrap(), Some(188));

    struct Late(Ledger);
    impl Extension for Late {
        const NAME: &'static str = "late";
        const VERSION: u32 = 1;
        fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
            self.0.apply(block, effects)
        }
        fn input(&mut self, at: BlockRef, input: &[u8], effects: &mut Effects) -> Result<(), CoreError> {
            self.0.input(at, input, effects)
        }
        fn tables(&mut self) -> Vec<&mut dyn AnyTable> {
            self.0.tables()
        }
    }
    let late = crate::ExtensionRunner::open(
        Arc::clone(&journal),
        Late(Ledger::new()),
        feed.writer.subscribe(),
        crate::RunnerConfig::default(),
    );
    assert!(matches!(late, Err(crate::RunnerError::FeedPruned { pruned: 188, .. })));
    feed.stop().await;
}

/// The node was synced again and the journal was kept: the node comes to where the feed is, and nothing is taken back.
#[tokio::test]
async fn a_node_behind_the_feed_is_waited_for() {
    let host = ScriptedHost::new(8200);
    let journal = Journal::in_memory(identity()).unwrap();
    let feed = RunningFeed::start(&journal, &host, FeedConfig { keep: 5, ..quick() });
    let runner = crate::ExtensionRunner::open(
        Arc::clone(&journal),
        Ledger::new(),
        feed.writer.subscribe(),
        crate::RunnerConfig::default(),
    )
    .unwrap();
    host.mine_empty(199);
    feed.caught_up(&host).await;
    while runner.step().await.unwrap() {}
    host.mine_empty(1);
    feed.caught_up(&host).await;
    feed.stop().await;
    let (first, finished) = (journal.feed_first().unwrap().unwrap(), journal.finished().unwrap().unwrap());
    assert_eq!((first.number, finished.number), (187, 191));

    struct NoReads;
    impl crate::ReadPlan for NoReads {
        fn reads(&self, _: &FeedBlock, _: bool) -> Vec<crate::Call> {
            Vec::new()
        }
    }
    // Its blocks are the same ones: their hashes follow from their place.
    let synced = ScriptedHost::new(8200);
    let mut walker =
        ChainWalker::new(Arc::new(synced.clone()), Arc::new(NoReads), WalkConfig::new(Vec::new()));
    for height in [0, 10, 186, 190] {
        synced.mine_empty(height - usize::try_from(synced.head().number).unwrap());
        let step = walker.next(journal.as_ref()).await.unwrap();
        assert!(step.is_none(), "at height {height}: {step:?}");
    }
    synced.mine_empty(15);
    let step = walker.next(journal.as_ref()).await.unwrap().unwrap();
    let committed: Vec<u64> = step.committed.iter().map(|block| block.number).collect();
    assert_eq!((step.reverted, committed), (Vec::new(), vec![201, 202, 203, 204, 205]));

    // One that made its blocks differently is no longer the journal's.
    synced.reorg(100, vec![BlockContent::default(); 100]);
    let stranger = walker.next(journal.as_ref()).await;
    assert!(matches!(stranger, Err(HostError::NoCommonAncestor(_))), "{stranger:?}");
}

#[tokio::test]
async fn pruned_blocks_are_not_asked_for_again() {
    let host = ScriptedHost::new(8200);
    let journal = Journal::in_memory(identity()).unwrap();
    let feed = RunningFeed::start(&journal, &host, quick());
    let gone = || HostError::Pruned { what: "receipts", number: 1, flags: "--prune" };
    host.fail_next(gone());
    let ended = feed.task.await.unwrap().unwrap_err();
    assert!(matches!(ended, crate::FeedError::Host(HostError::Pruned { number: 1, .. })), "{ended:?}");
    let supervisor = crate::Supervisor::default();
    supervisor.spawn("feed", crate::RestartPolicy::default(), move |_| async move {
        Err(crate::TaskError::from(crate::FeedError::Host(gone())))
    });
    let mut failed = supervisor.failed();
    let failed = failed.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(failed.reason.contains("pruned receipts of block 1 (--prune)"), "{}", failed.reason);
}

#[tokio::test]
async fn the_watchdog_counts_how_far_the_feed_is_behind() {
    let host = ScriptedHost::new(8200);
    host.mine_empty(30);
    let (state, receiver) = tokio::sync::watch::channel(crate::FeedState::default());
    let config =
        WatchdogConfig { interval: Duration::from_millis(1), max_behind: 8, tolerance: Duration::ZERO };
    let recorder = metrics_util_lite::Counts::default();
    let token = CancellationToken::new();
    let watchdog = Watchdog::new(host.client(), receiver, config);
    let _guard = recorder.install();
    let heads = watchdog.heads();
    let run = watchdog.run(token.clone());
    let look = async {
        eventually("an alarm", || recorder.counter("lcai_watchdog_alarms_total") > 0).await;
        assert_eq!(recorder.gauge("lcai_feed_lag_blocks"), 30.0);
        assert_eq!(heads.borrow().map(|heads| heads.head), Some(host.head()), "the feed says nothing");
        state.send_modify(|state| state.tip = Some(host.head()));
        eventually("no lag", || recorder.gauge("lcai_feed_lag_blocks") == 0.0).await;
        token.cancel();
    };
    tokio::join!(run, look);
}

/// Just enough of a metrics recorder to read what was recorded.
mod metrics_util_lite {
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };
    use parking_lot::Mutex;
    use std::{collections::HashMap, sync::Arc};

    #[derive(Default, Clone)]
    pub(super) struct Counts(Arc<Mutex<HashMap<String, f64>>>);

    struct Cell(Counts, String);

    impl CounterFn for Cell {
        fn increment(&self, value: u64) {
            *self.0.0.lock().entry(self.1.clone()).or_default() += value as f64;
        }
        fn absolute(&self, value: u64) {
            self.0.0.lock().insert(self.1.clone(), value as f64);
        }
    }

    impl GaugeFn for Cell {
        fn increment(&self, value: f64) {
            *self.0.0.lock().entry(self.1.clone()).or_default() += value;
        }
        fn decrement(&self, value: f64) {
            *self.0.0.lock().entry(self.1.clone()).or_default() -= value;
        }
        fn set(&self, value: f64) {
            self.0.0.lock().insert(self.1.clone(), value);
        }
    }

    impl Recorder for Counts {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(Cell(self.clone(), key.name().to_owned())))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(Cell(self.clone(), key.name().to_owned())))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    impl Counts {
        pub(super) fn install(&self) -> metrics::LocalRecorderGuard<'_> {
            metrics::set_default_local_recorder(self)
        }
        pub(super) fn counter(&self, name: &str) -> u64 {
            self.0.lock().get(name).copied().unwrap_or_default() as u64
        }
        pub(super) fn gauge(&self, name: &str) -> f64 {
            self.0.lock().get(name).copied().unwrap_or(f64::NAN)
        }
    }
}
