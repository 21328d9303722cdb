use super::*;
use crate::{
    BlockEvent, EffectState, ExtensionRunner, JournalError, RunnerConfig, RunnerError,
    testing::{BlockContent, identity},
};

fn order(account: u8, amount: u8, kind: u8) -> Order {
    Order { account, amount, kind }
}

fn block(orders: &[Order]) -> BlockContent {
    BlockContent::logs(orders.iter().map(|order| order.log()).collect())
}

struct Setup {
    host: ScriptedHost,
    journal: Arc<Journal>,
    feed: RunningFeed,
    runner: ExtensionRunner<Ledger>,
}

impl Setup {
    fn new(config: RunnerConfig) -> Self {
        let host = ScriptedHost::new(8200);
        host.set_finality(70, 80);
        let journal = Journal::in_memory(identity()).unwrap();
        let feed = RunningFeed::start(&journal, &host, quick());
        let runner =
            ExtensionRunner::open(Arc::clone(&journal), Ledger::new(), feed.writer.subscribe(), config)
                .unwrap();
        Self { host, journal, feed, runner }
    }

    async fn settle(&self) -> Result<(), RunnerError> {
        self.feed.caught_up(&self.host).await;
        while self.runner.step().await? {}
        Ok(())
    }
}

#[tokio::test]
async fn follows_reverts_and_tells_after_it_is_committed() {
    let setup = Setup::new(RunnerConfig { batch: 2, ..RunnerConfig::default() });
    let handle = setup.runner.handle();
    let mut events = handle.subscribe_blocks();
    let first = setup.host.mine(block(&[order(1, 3, 0)]));
    let second = setup.host.mine(block(&[order(1, 4, 0), order(2, 5, 0)]));
    setup.settle().await.unwrap();
    assert_eq!(handle.read(|core| core.sums.get(&1).copied()), Some(7));
    assert_eq!(handle.read(|core| core.sums.get(&2).copied()), None, "a multiple of five is forgotten");
    assert_eq!(*handle.cursor().borrow(), Some(second));
    assert!(matches!(events.recv().await.unwrap(), BlockEvent::Applied { block, .. } if block.number == 0));
    assert!(matches!(events.recv().await.unwrap(), BlockEvent::Applied { block, .. } if block == first));
    assert!(matches!(events.recv().await.unwrap(), BlockEvent::Applied { block, .. } if block == second));

    setup.host.reorg(2, vec![block(&[order(1, 1, 0)])]);
    setup.settle().await.unwrap();
    assert_eq!(handle.read(|core| core.sums.get(&1).copied()), Some(1));
    assert_eq!(events.recv().await.unwrap(), BlockEvent::Reverted(second));
    assert_eq!(events.recv().await.unwrap(), BlockEvent::Reverted(first));
    let (cursor, sums) = handle.read_at(|core, cursor| (cursor, core.sums.len()));
    assert_eq!((cursor, sums), (Some(setup.host.head()), 1));
    assert_eq!(setup.journal.cursors().unwrap(), vec![("ledger".to_owned(), Some(setup.host.head()))]);
}

#[tokio::test]
async fn inputs_survive_reverts_and_bad_ones_change_nothing() {
    let setup = Setup::new(RunnerConfig { keep_inputs: 2, ..RunnerConfig::default() });
    let handle = setup.runner.handle();
    assert!(matches!(handle.input(b"early".to_vec()).await, Err(RunnerError::NotReady("ledger"))));
    let at = setup.host.mine(block(&[order(1, 3, 0)]));
    setup.settle().await.unwrap();
    handle.input(b"hello".to_vec()).await.unwrap();
    assert_eq!(handle.effect(keccak256(b"hello"), "noted").unwrap(), Some(EffectState::Pending));

    for bad in [b"bad".as_slice(), b"mixed"] {
        assert!(matches!(handle.input(bad.to_vec()).await, Err(RunnerError::Core { .. })));
        assert_eq!(handle.read(|core| (core.inputs.len(), core.sums.get(&0).copied())), (1, None));
    }
    let panicking = handle.clone();
    assert!(
        tokio::spawn(async move { panicking.input(b"panic".to_vec()).await }).await.unwrap_err().is_panic()
    );
    assert_eq!(handle.read(|core| core.inputs.len()), 1);

    setup.host.reorg(1, vec![block(&[]), block(&[])]);
    setup.settle().await.unwrap();
    assert_eq!(handle.read(|core| core.inputs.len()), 1, "inputs stay");
    assert_eq!(handle.read(|core| core.sums.len()), 0, "blocks do not");
    assert_eq!(handle.effect(keccak256(b"hello"), "noted").unwrap(), Some(EffectState::Pending));
    handle.input(b"two".to_vec()).await.unwrap();
    handle.input(b"three".to_vec()).await.unwrap();
    let kept: Vec<Vec<u8>> =
        setup.journal.inputs("ledger").unwrap().into_iter().map(|(_, input)| input).collect();
    assert_eq!(kept, vec![b"two".to_vec(), b"three".to_vec()]);
    assert_ne!(at, setup.host.head());
}

#[tokio::test]
async fn a_reorg_deeper_than_what_is_kept_stops_the_extension_loudly() {
    let setup = Setup::new(RunnerConfig { undo_cap: 4, ..RunnerConfig::default() });
    let handle = setup.runner.handle();
    for _ in 0..10 {
        setup.host.mine(block(&[order(1, 1, 0)]));
        setup.settle().await.unwrap();
    }
    setup.host.reorg(4, vec![block(&[]); 5]);
    setup.settle().await.unwrap();
    assert_eq!(*handle.stopped().borrow(), None);
    setup.host.reorg(6, vec![block(&[]); 8]);
    let error = setup.settle().await.unwrap_err();
    assert!(matches!(error, RunnerError::TooDeep { .. }), "{error}");
    assert!(error.is_fatal());
    assert!(handle.stopped().borrow().as_ref().unwrap().contains("effects are stopped"));
    assert!(setup.journal.open_effects("ledger").unwrap().is_none(), "no effect is handed out");
}

#[tokio::test]
async fn another_version_of_the_records_is_refused() {
    let setup = Setup::new(RunnerConfig::default());
    setup.journal.register_extension("ledger", 1).unwrap();
    let error = setup.journal.register_extension("ledger", 2).unwrap_err();
    assert!(matches!(error, JournalError::ExtensionVersion { found: 1, expected: 2, .. }), "{error}");
    setup.journal.forget_extension("ledger").unwrap();
    setup.journal.register_extension("ledger", 2).unwrap();
}

#[tokio::test]
async fn a_kill_takes_back_only_what_the_feed_makes_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, killed) = (dir.path().join("journal.redb"), dir.path().join("killed.redb"));
    let host = ScriptedHost::new(8200);
    let journal = Journal::open(&path, identity()).unwrap();
    let feed = RunningFeed::start(&journal, &host, quick());
    let open = |journal: &Arc<Journal>| {
        let feed = feed.writer.subscribe();
        ExtensionRunner::open(Arc::clone(journal), Ledger::new(), feed, RunnerConfig::default()).unwrap()
    };
    let runner = open(&journal);
    host.mine(block(&[order(1, 3, 0)]));
    feed.caught_up(&host).await;
    while runner.step().await.unwrap() {}
    let rows = block_rows(&journal);
    journal.while_nobody_writes(|| std::fs::copy(&path, &killed).unwrap()).unwrap();

    let left = Journal::open(&killed, identity()).unwrap();
    assert_eq!(left.feed_tip().unwrap(), Some(host.head()), "the feed is on disk");
    assert_eq!(left.cursors().unwrap(), vec![("ledger".to_owned(), None)], "its blocks' changes are not yet");
    let again = open(&left);
    while again.step().await.unwrap() {}
    assert_eq!(block_rows(&left), rows);
    // An input is on disk, and with it all that was before.
    runner.handle().input(b"hello".to_vec()).await.unwrap();
    drop((again, left));
    journal.while_nobody_writes(|| std::fs::copy(&path, &killed).unwrap()).unwrap();
    let left = Journal::open(&killed, identity()).unwrap();
    assert_eq!((left.cursors().unwrap()[0].1, left.inputs("ledger").unwrap().len()), (Some(host.head()), 1));
    feed.stop().await;
}
