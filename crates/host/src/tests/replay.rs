//! Whatever happens on the way, the state is that of a fresh replay of the winning chain, and every effect happens once.

use super::*;
use crate::{
    EffectContext, EffectExecutor, EffectHandler, EffectOutcome, EffectState, ExecutorConfig,
    ExtensionRunner, HostClient, IntentId, JournalError, RunnerConfig,
    testing::{BlockContent, identity},
};
use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Deep enough for every reorg, near enough to be reached.
const SAFE: u64 = 66;
const FINALIZED: u64 = 70;

#[derive(Debug, Clone)]
enum Step {
    Mine(Vec<Vec<Order>>),
    Reorg {
        depth: u64,
        blocks: Vec<Vec<Order>>,
    },
    /// The host gives blocks again that the feed already has.
    Duplicate(u64),
    /// Everything is closed in order and opened again.
    Restart,
    /// The program is killed between performing effects and recording that they were.
    Crash,
    Input(u8),
    Settle,
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    // Few values, so that the same effect is asked for again on other forks. Only effects that are not to be repeated.
    let order = (0u8..3, 1u8..4, 0u8..4).prop_map(|(account, amount, kind)| Order { account, amount, kind });
    prop::collection::vec(order, 0..3)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let blocks = |most| prop::collection::vec(orders(), 0..most);
    let step = prop_oneof![
        4 => blocks(20).prop_map(Step::Mine),
        4 => (1u64..64, blocks(70)).prop_map(|(depth, blocks)| Step::Reorg { depth, blocks }),
        1 => (1u64..10).prop_map(Step::Duplicate),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => any::<u8>().prop_map(Step::Input),
        3 => Just(Step::Settle),
    ];
    prop::collection::vec(step, 1..14)
}

/// What happened outside, which no crash takes back.
#[derive(Default)]
struct World {
    done: Mutex<HashMap<IntentId, u32>>,
    /// Attempts that found the effect done though nothing told them it might be.
    surprises: Mutex<Vec<Intent>>,
    /// While set, attempts act and then never return.
    crashing: AtomicBool,
}

struct Deliveries(Arc<World>);

#[async_trait]
impl EffectHandler for Deliveries {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        {
            let mut done = self.0.done.lock();
            let already = done.contains_key(&intent.id());
            if already && !context.interrupted {
                self.0.surprises.lock().push(intent.clone());
            }
            // A handler looks before it acts when it is told that it may have acted.
            if !(already && context.interrupted) {
                *done.entry(intent.id()).or_default() += 1;
            }
        }
        if self.0.crashing.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        EffectOutcome::Done(Vec::new())
    }
}

/// The program between a start and an end.
struct Running {
    journal: Arc<Journal>,
    feed: RunningFeed,
    runner: ExtensionRunner<Ledger>,
    executor: JoinHandle<Result<(), JournalError>>,
    token: CancellationToken,
}

async fn open(path: &Path) -> Arc<Journal> {
    // The file is free once the last blocking call of the previous run has returned.
    for _ in 0..1000 {
        match Journal::open(path, identity()) {
            Err(JournalError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the journal stays in use");
}

impl Running {
    async fn start(path: &Path, host: &ScriptedHost, world: &Arc<World>) -> Self {
        let journal = open(path).await;
        let feed = RunningFeed::start(&journal, host, FeedConfig { keep: 10, ..quick() });
        let config = RunnerConfig { batch: 13, ..RunnerConfig::default() };
        let runner =
            ExtensionRunner::open(Arc::clone(&journal), Ledger::new(), feed.writer.subscribe(), config)
                .unwrap();
        let handler = Arc::new(Deliveries(Arc::clone(world)));
        let executor = EffectExecutor::new(runner.handle().effects(), handler, host.client())
            .with_config(ExecutorConfig { grace: Duration::from_secs(30), ..ExecutorConfig::default() });
        let token = CancellationToken::new();
        let stop = token.clone();
        let executor = tokio::spawn(async move { executor.run(stop).await });
        Self { journal, feed, runner, executor, token }
    }

    async fn settle(&self, host: &ScriptedHost) {
        self.feed.caught_up(host).await;
        while self.runner.step().await.unwrap() {}
    }

    async fn stop(self) {
        self.token.cancel();
        let _ = self.executor.await;
        self.feed.stop().await;
    }

    /// Leaves the file as it is on disk at this moment, at another path.
    async fn kill(self, path: &Path, left: &Path) {
        // No effect is performed from here on.
        self.executor.abort();
        let _ = self.executor.await;
        self.journal.while_nobody_writes(|| std::fs::copy(path, left).unwrap()).unwrap();
        self.feed.stop().await;
    }
}

fn contents(blocks: Vec<Vec<Order>>) -> Vec<BlockContent> {
    blocks
        .into_iter()
        .map(|orders| BlockContent::logs(orders.into_iter().map(Order::log).collect()))
        .collect()
}

/// Orders of the host's chain whose effect is deep enough.
fn due(host: &ScriptedHost, finalized: u64) -> HashSet<Order> {
    let head = host.head().number;
    let deep = |order: Order, at: u64| match order.depth() {
        EffectDepth::Head => true,
        EffectDepth::Depth(depth) => at + depth <= head,
        EffectDepth::Safe => at + SAFE <= head,
        EffectDepth::Finalized => at <= finalized,
    };
    let mut first_asked = HashMap::new();
    for block in host.blocks() {
        for log in &block.logs {
            first_asked.entry(Order::of(log)).or_insert(block.number);
        }
    }
    first_asked.into_iter().filter(|(order, at)| deep(*order, *at)).map(|(order, _)| order).collect()
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().join("journal.redb");
    let host = ScriptedHost::new(8200);
    host.set_finality(SAFE, FINALIZED);
    let world = Arc::new(World::default());
    let mut running = Running::start(&path, &host, &world).await;
    running.settle(&host).await;
    let mut inputs = 0;
    for step in steps {
        match step {
            Step::Mine(blocks) => {
                for block in contents(blocks) {
                    host.mine(block);
                }
            }
            Step::Reorg { depth, blocks } => {
                // Never below what is final.
                let finalized = host.heads().await.unwrap().finalized.unwrap().number;
                host.reorg(depth.min(host.head().number - finalized), contents(blocks));
            }
            Step::Duplicate(count) => {
                running.feed.caught_up(&host).await;
                let heads = host.heads().await.unwrap();
                let from = (host.head().number + 1).saturating_sub(count) as usize;
                let step = running.journal.advance_feed(&[], &host.blocks()[from..], &heads).unwrap();
                assert_eq!(step.committed, 0);
            }
            Step::Input(input) => {
                // Killed before anything of its first block was on disk, it has to see that block again first.
                if running.runner.handle().cursor().borrow().is_none() {
                    running.settle(&host).await;
                }
                running.runner.handle().input(vec![input]).await.unwrap();
                inputs += 1;
            }
            Step::Settle => running.settle(&host).await,
            Step::Restart => {
                running.stop().await;
                running = Running::start(&path, &host, &world).await;
            }
            Step::Crash => {
                world.crashing.store(true, Ordering::SeqCst);
                running.settle(&host).await;
                let left = path.with_extension(format!("{}.redb", host.head().number));
                running.kill(&path, &left).await;
                world.crashing.store(false, Ordering::SeqCst);
                path = left;
                running = Running::start(&path, &host, &world).await;
            }
        }
    }
    running.settle(&host).await;

    // A fresh replay of the winning chain.
    let fresh = Journal::in_memory(identity()).unwrap();
    let heads = host.heads().await.unwrap();
    fresh.advance_feed(&[], &host.blocks(), &heads).unwrap();
    let (_, feed) = tokio::sync::watch::channel(crate::FeedState::default());
    let replay =
        ExtensionRunner::open(Arc::clone(&fresh), Ledger::new(), feed, RunnerConfig::default()).unwrap();
    while replay.step().await.unwrap() {}
    assert_eq!(block_rows(&running.journal), block_rows(&fresh), "rows on disk");
    let rows = |runner: &ExtensionRunner<Ledger>| {
        runner.handle().read(|core| {
            (
                core.sums.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(),
                core.blocks.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(),
            )
        })
    };
    assert_eq!(rows(&running.runner), rows(&replay), "rows in memory");
    let counted: u64 = running.runner.handle().read(|core| core.inputs.iter().map(|(_, count)| count).sum());
    assert_eq!(counted, inputs, "inputs survive everything");

    // Everything due happens, and nothing twice.
    let handle = running.runner.handle();
    let due = due(&host, heads.finalized.unwrap().number);
    eventually("every due effect", || {
        due.iter().all(|order| {
            matches!(handle.effect_by_id(effect_id(*order)).unwrap(), Some(EffectState::Done(_)))
        })
    })
    .await;
    assert!(world.done.lock().values().all(|count| *count == 1), "{:?}", world.done.lock());
    assert!(world.surprises.lock().is_empty(), "{:?}", world.surprises.lock());
    running.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn state_is_that_of_a_fresh_replay_and_effects_happen_once(steps in steps()) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(run(steps));
    }
}
