//! Tests across the crate: a toy extension on a scripted chain.

mod effects;
mod feed;
mod lane;
mod replay;
mod runner;

use crate::{
    AnyTable, BlockRef, CoreError, EffectDepth, Effects, Extension, FeedBlock, FeedConfig, FeedLog,
    FeedWriter, Intent, Journal, OnRepeat, Table,
    testing::{ScriptedHost, log},
};
use alloy_primitives::{Address, B256, keccak256};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What one toy log asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Order {
    account: u8,
    amount: u8,
    /// Decides the depth of its effect, and what a repetition means.
    kind: u8,
}

impl Order {
    const ACTION: &'static str = "deliver";

    fn log(self) -> FeedLog {
        log(Address::repeat_byte(1), vec![B256::ZERO], vec![self.account, self.amount, self.kind])
    }

    fn of(log: &FeedLog) -> Self {
        Self { account: log.data[0], amount: log.data[1], kind: log.data[2] }
    }

    fn subject(self) -> B256 {
        keccak256([self.account, self.amount, self.kind])
    }

    fn depth(self) -> EffectDepth {
        match self.kind % 4 {
            0 => EffectDepth::Head,
            1 => EffectDepth::Depth(3),
            2 => EffectDepth::Safe,
            _ => EffectDepth::Finalized,
        }
    }

    fn on_repeat(self) -> OnRepeat {
        if self.kind >= 4 { OnRepeat::Again } else { OnRepeat::Skip }
    }
}

/// Sums amounts, forgets accounts whose sum is a multiple of five, and asks for a delivery of every order.
#[derive(Debug)]
struct Ledger {
    sums: Table<u8, u64>,
    blocks: Table<u64, B256>,
    inputs: Table<Vec<u8>, u64>,
}

impl Ledger {
    fn new() -> Self {
        Self { sums: Table::new("sums"), blocks: Table::new("blocks"), inputs: Table::new("inputs") }
    }
}

impl Extension for Ledger {
    const NAME: &'static str = "ledger";
    const VERSION: u32 = 1;

    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        self.blocks.insert(block.number, block.hash);
        if let Some(old) = block.number.checked_sub(10) {
            self.blocks.remove(&old);
        }
        for log in &block.logs {
            let order = Order::of(log);
            let sum = self.sums.get(&order.account).copied().unwrap_or_default() + u64::from(order.amount);
            if sum % 5 == 0 {
                self.sums.remove(&order.account);
            } else {
                self.sums.insert(order.account, sum);
            }
            effects.push(
                block.block_ref(),
                order.subject(),
                Order::ACTION,
                order.depth(),
                order.on_repeat(),
                None,
                &order.amount,
            )?;
        }
        Ok(())
    }

    fn input(&mut self, at: BlockRef, input: &[u8], effects: &mut Effects) -> Result<(), CoreError> {
        let count = self.inputs.get(&input.to_vec()).copied().unwrap_or_default() + 1;
        self.inputs.insert(input.to_vec(), count);
        match input {
            b"bad" => Err(CoreError::BadInput("it is bad".into())),
            b"panic" => panic!("asked to"),
            b"mixed" => {
                self.sums.insert(0, 1);
                Ok(())
            }
            _ => effects.push(at, keccak256(input), "noted", EffectDepth::Head, OnRepeat::Skip, None, &()),
        }
    }

    fn tables(&mut self) -> Vec<&mut dyn AnyTable> {
        vec![&mut self.sums, &mut self.blocks, &mut self.inputs]
    }
}

type Rows = Vec<(&'static str, Vec<(Vec<u8>, Vec<u8>)>)>;

/// The persisted rows that blocks write.
fn block_rows(journal: &Journal) -> Rows {
    ["sums", "blocks"].map(|table| (table, journal.rows(Ledger::NAME, table).unwrap())).to_vec()
}

/// A feed writer at work on a scripted chain.
struct RunningFeed {
    writer: Arc<FeedWriter>,
    task: JoinHandle<Result<(), crate::FeedError>>,
}

impl RunningFeed {
    fn start(journal: &Arc<Journal>, host: &ScriptedHost, config: FeedConfig) -> Self {
        let writer = Arc::new(FeedWriter::new(Arc::clone(journal), host.notifier(None, 7), config).unwrap());
        let running = Arc::clone(&writer);
        let task = tokio::spawn(async move { running.run(CancellationToken::new()).await });
        Self { writer, task }
    }

    /// Waits until the feed is where the host is.
    async fn caught_up(&self, host: &ScriptedHost) {
        let mut state = self.writer.subscribe();
        let wait = state.wait_for(|state| state.tip == Some(host.head()));
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the feed follows").unwrap();
    }

    async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn quick() -> FeedConfig {
    FeedConfig { backoff_min: Duration::from_millis(1), ..FeedConfig::default() }
}

/// Waits for something that must come true.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come true");
}

/// The effect an order asks for.
fn effect_id(order: Order) -> crate::IntentId {
    Intent::id_of(order.subject(), Order::ACTION)
}
