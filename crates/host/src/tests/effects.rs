use super::*;
use crate::{
    Clock, EffectContext, EffectExecutor, EffectHandler, EffectOutcome, EffectState, ExtensionHandle,
    ExtensionRunner, RunnerConfig,
    journal::Ending,
    testing::{BlockContent, identity},
};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
};

const fn order(kind: u8) -> Order {
    Order { account: 1, amount: 1, kind }
}

fn block(orders: &[Order]) -> BlockContent {
    BlockContent::logs(orders.iter().map(|order| order.log()).collect())
}

/// What a handler was called with.
struct Attempt {
    intent: Intent,
    number: u32,
    interrupted: bool,
    previous: Option<Vec<u8>>,
}

/// Answers from a script, `Done` when it is over, and remembers what it was called with.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Box<dyn FnOnce() -> EffectOutcome + Send>>>,
    calls: Mutex<Vec<Attempt>>,
    gate: Option<tokio::sync::Semaphore>,
}

#[async_trait]
impl EffectHandler for Scripted {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        let call = Attempt {
            intent: intent.clone(),
            number: context.attempt,
            interrupted: context.interrupted,
            previous: context.previous,
        };
        let number = {
            let mut calls = self.calls.lock();
            calls.push(call);
            calls.len() as u8
        };
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let next = self.script.lock().pop_front();
        next.map_or_else(|| EffectOutcome::Done(vec![number]), |outcome| outcome())
    }
}

struct Setup {
    host: ScriptedHost,
    journal: Arc<Journal>,
    feed: RunningFeed,
    runner: ExtensionRunner<Ledger>,
    handle: ExtensionHandle<Ledger>,
    handler: Arc<Scripted>,
    executor: JoinHandle<Result<(), crate::JournalError>>,
    token: CancellationToken,
    clock: Arc<SetClock>,
}

#[derive(Default)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Setup {
    fn new(handler: Scripted) -> Self {
        let host = ScriptedHost::new(8200);
        let journal = Journal::in_memory(identity()).unwrap();
        let feed = RunningFeed::start(&journal, &host, quick());
        let runner = ExtensionRunner::open(
            Arc::clone(&journal),
            Ledger::new(),
            feed.writer.subscribe(),
            RunnerConfig::default(),
        )
        .unwrap();
        let (handle, handler) = (runner.handle(), Arc::new(handler));
        let (token, clock) = (CancellationToken::new(), Arc::new(SetClock::default()));
        let executor = spawn(&handle, &handler, &host, &clock, token.clone());
        Self { host, journal, feed, runner, handle, handler, executor, token, clock }
    }

    async fn settle(&self) {
        self.feed.caught_up(&self.host).await;
        while self.runner.step().await.unwrap() {}
    }

    fn state(&self, order: Order) -> Option<EffectState> {
        self.handle.effect_by_id(effect_id(order)).unwrap()
    }

    async fn done(&self, order: Order) -> Vec<u8> {
        let mut output = Vec::new();
        eventually("the effect", || match self.state(order) {
            Some(EffectState::Done(done)) => {
                output = done;
                true
            }
            _ => false,
        })
        .await;
        output
    }

    fn calls(&self) -> usize {
        self.handler.calls.lock().len()
    }
}

fn spawn(
    handle: &ExtensionHandle<Ledger>,
    handler: &Arc<Scripted>,
    host: &ScriptedHost,
    clock: &Arc<SetClock>,
    token: CancellationToken,
) -> JoinHandle<Result<(), crate::JournalError>> {
    let handler = Arc::clone(handler) as Arc<dyn EffectHandler>;
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let executor = EffectExecutor::new(handle.effects(), handler, host.client()).with_clock(clock);
    tokio::spawn(async move { executor.run(token).await })
}

#[tokio::test]
async fn happen_at_their_depth() {
    let setup = Setup::new(Scripted::default());
    let orders = [order(0), order(1), order(2), order(3)];
    setup.host.mine(block(&orders));
    let reached = |count: usize| {
        let handler = Arc::clone(&setup.handler);
        async move { eventually("calls", || handler.calls.lock().len() == count).await }
    };
    // Head at once, depth 3, safe 4, finalized 8.
    for (mined, calls) in [(0, 1), (2, 1), (1, 2), (1, 3), (3, 3), (1, 4)] {
        setup.host.mine_empty(mined);
        setup.settle().await;
        reached(calls).await;
    }
    for order in orders {
        setup.done(order).await;
    }
}

#[tokio::test]
async fn wait_until_the_extension_has_caught_up() {
    let setup = Setup::new(Scripted::default());
    setup.host.mine(block(&[order(0)]));
    setup.settle().await;
    setup.done(order(0)).await;
    // An old request, seen only now, that later blocks may have settled.
    setup.host.mine(block(&[Order { account: 2, ..order(0) }]));
    setup.host.mine_empty(200);
    setup.feed.caught_up(&setup.host).await;
    setup.journal.register_extension("ledger", 1).unwrap();
    assert_eq!(setup.calls(), 1);
    setup.settle().await;
    setup.done(Order { account: 2, ..order(0) }).await;
    assert_eq!(setup.calls(), 2);
}

#[tokio::test]
async fn withdrawn_before_they_happen_and_skipped_when_they_already_did() {
    let setup = Setup::new(Scripted::default());
    setup.host.mine(block(&[order(0), order(1)]));
    setup.settle().await;
    setup.done(order(0)).await;
    assert_eq!(setup.state(order(1)), Some(EffectState::Pending));
    setup.host.reorg(1, vec![block(&[])]);
    setup.settle().await;
    assert_eq!(setup.state(order(1)), None, "nobody asked on this chain, and nothing happened");
    assert!(matches!(setup.state(order(0)), Some(EffectState::Done(_))), "what happened stays known");
    // Asked again on another fork.
    setup.host.mine(block(&[order(0), order(1)]));
    setup.host.mine_empty(3);
    setup.settle().await;
    setup.done(order(1)).await;
    assert_eq!(setup.calls(), 2, "the first one was not repeated");
}

#[tokio::test]
async fn happen_again_with_what_they_left_behind() {
    let setup = Setup::new(Scripted::default());
    setup.host.mine(block(&[order(4)]));
    setup.settle().await;
    assert_eq!(setup.done(order(4)).await, vec![1]);
    setup.host.reorg(1, vec![block(&[]), block(&[order(4)])]);
    setup.settle().await;
    eventually("a repetition", || setup.state(order(4)) == Some(EffectState::Done(vec![2]))).await;
    let calls = setup.handler.calls.lock();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].previous, Some(vec![1]));
    assert!(!calls[1].interrupted);
}

/// A transaction can be lost with the blocks above the one that asked for it, e.g. with a node that is killed.
#[tokio::test]
async fn happen_again_where_the_chain_lost_the_block_they_ended_in() {
    let setup = Setup::new(Scripted::default());
    setup.host.mine(block(&[order(4), order(0)]));
    setup.settle().await;
    setup.done(order(4)).await;
    setup.done(order(0)).await;
    setup.host.mine_empty(3);
    setup.settle().await;
    setup.host.reorg(3, vec![block(&[]), block(&[])]);
    setup.settle().await;
    eventually("another look", || setup.state(order(4)) == Some(EffectState::Done(vec![3]))).await;
    assert_eq!(setup.calls(), 3, "what stands is left alone");
    // Once all of it is final nothing can be lost.
    setup.host.mine_empty(40);
    setup.settle().await;
    setup.host.reorg(2, vec![block(&[]), block(&[]), block(&[])]);
    setup.settle().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(setup.calls(), 3);
}

#[tokio::test]
async fn an_attempt_in_flight_is_recorded_though_its_intent_is_gone() {
    let gate = Some(tokio::sync::Semaphore::new(0));
    let setup = Setup::new(Scripted { gate, ..Scripted::default() });
    setup.host.mine(block(&[order(0)]));
    setup.settle().await;
    eventually("a start", || setup.calls() == 1).await;
    setup.host.reorg(1, vec![block(&[])]);
    setup.settle().await;
    assert_eq!(setup.state(order(0)), Some(EffectState::Withdrawn));
    setup.handler.gate.as_ref().unwrap().add_permits(10);
    assert_eq!(setup.done(order(0)).await, vec![1]);
    setup.host.mine(block(&[order(0)]));
    setup.settle().await;
    setup.settle().await;
    assert_eq!(setup.calls(), 1, "it stands");
}

#[tokio::test]
async fn retries_panics_and_late_ones() {
    let handler = Scripted::default();
    handler.script.lock().extend([
        Box::new(|| EffectOutcome::Retry { after: Duration::from_millis(5), reason: "busy".into() })
            as Box<_>,
        Box::new(|| -> EffectOutcome { panic!("a fault of the handler") }) as Box<_>,
        Box::new(|| EffectOutcome::Abandon { reason: "no longer wanted".into() }) as Box<_>,
    ]);
    let setup = Setup::new(handler);
    setup.host.mine(block(&[order(0)]));
    setup.settle().await;
    eventually("the end", || setup.state(order(0)) == Some(EffectState::Dropped("no longer wanted".into())))
        .await;
    let attempts: Vec<u32> = setup.handler.calls.lock().iter().map(|call| call.number).collect();
    assert_eq!(attempts, vec![0, 1, 2]);

    // Asked anew after it was given up: tried again.
    setup.host.mine(block(&[order(0)]));
    setup.settle().await;
    setup.done(order(0)).await;
}

#[tokio::test]
async fn too_late_ones_are_dropped_by_the_clock() {
    let setup = Setup::new(Scripted::default());
    setup.clock.0.store(1000, Ordering::SeqCst);
    setup.host.mine(block(&[]));
    setup.settle().await;
    let mut txn = setup.journal.extension_txn("ledger").unwrap();
    let intent = |subject: u8, not_after| Intent {
        subject: B256::repeat_byte(subject),
        action: "timed".into(),
        origin: setup.host.head(),
        depth: EffectDepth::Head,
        on_repeat: OnRepeat::Skip,
        not_after: Some(not_after),
        payload: Vec::new(),
    };
    txn.apply_input(crate::journal::InputChanges {
        input: b"",
        at: setup.host.head(),
        tables: Vec::new(),
        intents: vec![intent(1, 999), intent(2, 1000)],
    })
    .unwrap();
    txn.commit().unwrap();
    setup.host.mine_empty(1);
    setup.settle().await;
    let state = |subject| setup.handle.effect(B256::repeat_byte(subject), "timed").unwrap();
    eventually("both", || {
        matches!(state(1), Some(EffectState::Dropped(_))) && matches!(state(2), Some(EffectState::Done(_)))
    })
    .await;
    assert_eq!(setup.calls(), 1);
}

#[tokio::test]
async fn a_halt_stops_them_all_and_is_said() {
    let handler = Scripted::default();
    handler
        .script
        .lock()
        .push_back(Box::new(|| EffectOutcome::Halt { reason: "the key acts elsewhere".into() }));
    let setup = Setup::new(handler);
    setup.host.mine(block(&[order(0)]));
    setup.settle().await;
    eventually("the halt", || setup.handle.halted().is_some()).await;
    assert_eq!(setup.handle.halted().unwrap(), "the key acts elsewhere");
    setup.host.mine(block(&[Order { account: 9, ..order(0) }]));
    setup.settle().await;
    tokio::task::yield_now().await;
    assert_eq!(setup.calls(), 1);
    setup.token.cancel();
    setup.executor.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_crash_in_between_is_told_to_the_handler() {
    let gate = Some(tokio::sync::Semaphore::new(0));
    let setup = Setup::new(Scripted { gate, ..Scripted::default() });
    setup.host.mine(block(&[order(0)]));
    setup.settle().await;
    eventually("a start", || setup.calls() == 1).await;
    // As if the program ended: the outcome is never recorded.
    setup.executor.abort();
    assert!(setup.executor.await.unwrap_err().is_cancelled());
    setup.handler.gate.as_ref().unwrap().add_permits(10);
    let again = spawn(&setup.handle, &setup.handler, &setup.host, &setup.clock, setup.token.clone());
    eventually("the end", || {
        matches!(setup.handle.effect_by_id(effect_id(order(0))).unwrap(), Some(EffectState::Done(_)))
    })
    .await;
    let interrupted: Vec<bool> = setup.handler.calls.lock().iter().map(|call| call.interrupted).collect();
    assert_eq!(interrupted, vec![false, true]);
    again.abort();
}

#[tokio::test]
async fn old_finished_ones_are_forgotten() {
    let setup = Setup::new(Scripted::default());
    setup.host.mine(block(&[order(0), order(3)]));
    setup.settle().await;
    setup.done(order(0)).await;
    let mut txn = setup.journal.extension_txn("ledger").unwrap();
    txn.forget_effects_below(100).unwrap();
    txn.commit().unwrap();
    assert_eq!(setup.state(order(0)), None);
    assert_eq!(setup.state(order(3)), Some(EffectState::Pending), "open ones stay");
    let intent = setup.handler.calls.lock()[0].intent.clone();
    let endings = vec![(intent, Ending::Dropped("x".into()))];
    setup.journal.finish_effects("ledger", endings, 1).unwrap();
    assert_eq!(setup.state(order(0)), Some(EffectState::Withdrawn));
}
