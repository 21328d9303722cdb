//! Gives an extension its blocks and inputs and makes what follows durable.

use crate::{
    BlockRef, CoreError, EffectState, Effects, Extension, FeedBlock, FeedState, Intent, IntentId, Journal,
    JournalError,
    executor::EffectQueue,
    feed::blocking,
    journal::{BlockChanges, ExtensionTxn, InputChanges, TableChanges, TableWriter},
};
use alloy_primitives::B256;
use parking_lot::RwLock;
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};
use thiserror::Error;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Settings of a runner.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// Most blocks per transaction while catching up or reverting.
    pub batch: usize,
    /// Most blocks that can be reverted while the chain is not finalized. Beyond it the extension stops.
    pub undo_cap: u64,
    /// Inputs kept for a replay.
    pub keep_inputs: u64,
    /// Blocks for which a finished effect is remembered; the same effect asked for later happens again.
    pub keep_effects: u64,
    /// Block events a slow subscriber may lag behind before it loses some.
    pub block_events: usize,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self { batch: 256, undo_cap: 4096, keep_inputs: 65_536, keep_effects: 1_000_000, block_events: 256 }
    }
}

/// Why an extension stopped, or refused an input.
#[derive(Debug, Error)]
pub enum RunnerError {
    /// The core failed.
    #[error("extension {extension}: {source}")]
    Core {
        /// [`Extension::NAME`].
        extension: &'static str,
        /// Why.
        source: CoreError,
    },
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A reorg goes below what can be undone. No effect happens any more.
    #[error(
        "extension {extension} is at block {cursor:?}, which left the chain, and what undoes it is no longer kept; \
         its effects are stopped, start again with a new data directory"
    )]
    TooDeep {
        /// [`Extension::NAME`].
        extension: &'static str,
        /// Where it is.
        cursor: BlockRef,
    },
    /// The extension is new, but the feed's first blocks were dropped already.
    #[error(
        "extension {extension} is new, but blocks below {pruned} are gone from the feed; use a new data directory"
    )]
    FeedPruned {
        /// [`Extension::NAME`].
        extension: &'static str,
        /// The feed begins here.
        pruned: u64,
    },
    /// The feed lacks a block between the extension's cursor and the tip.
    #[error("the feed does not continue at block {cursor:?} of extension {extension}")]
    FeedGap {
        /// [`Extension::NAME`].
        extension: &'static str,
        /// Where it is.
        cursor: BlockRef,
    },
    /// No block has been applied yet, so inputs have nowhere to go.
    #[error("extension {0} has not seen a block yet")]
    NotReady(&'static str),
}

impl RunnerError {
    /// Whether starting the extension again can help.
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::TooDeep { .. } | Self::FeedPruned { .. } | Self::Core { .. } | Self::FeedGap { .. }
        )
    }
}

/// A block that an extension applied or took back. Told after it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockEvent {
    /// The block was applied.
    Applied {
        /// Which block.
        block: BlockRef,
        /// Its time, unix seconds.
        timestamp: u64,
    },
    /// The block left the chain.
    Reverted(BlockRef),
}

struct State<E> {
    core: E,
    cursor: Option<BlockRef>,
}

struct Shared<E> {
    journal: Arc<Journal>,
    config: RunnerConfig,
    state: RwLock<State<E>>,
    cursor: watch::Sender<Option<BlockRef>>,
    blocks: broadcast::Sender<BlockEvent>,
    stopped: watch::Sender<Option<String>>,
    effects: EffectQueue,
}

/// A shared view of a running extension. What it shows is committed, and follows from what is on disk: from the feed's
/// blocks, and from inputs.
pub struct ExtensionHandle<E>(Arc<Shared<E>>);

impl<E> Clone for ExtensionHandle<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: Extension> fmt::Debug for ExtensionHandle<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionHandle").field("extension", &E::NAME).finish_non_exhaustive()
    }
}

impl<E: Extension> ExtensionHandle<E> {
    /// Looks at the core. Keep it short: blocks wait.
    pub fn read<R>(&self, look: impl FnOnce(&E) -> R) -> R {
        look(&self.0.state.read().core)
    }

    /// Looks at the core together with the block it is at.
    pub fn read_at<R>(&self, look: impl FnOnce(&E, Option<BlockRef>) -> R) -> R {
        let state = self.0.state.read();
        look(&state.core, state.cursor)
    }

    /// Applies an input. When this returns it is durable. An input that the core refuses changes nothing.
    pub async fn input(&self, input: Vec<u8>) -> Result<(), RunnerError> {
        let shared = Arc::clone(&self.0);
        blocking(move || shared.input(&input)).await
    }

    /// The newest applied block, as it changes.
    pub fn cursor(&self) -> watch::Receiver<Option<BlockRef>> {
        self.0.cursor.subscribe()
    }

    /// Applied and reverted blocks from now on. A slow reader gets `Lagged` and starts over from the core's state.
    pub fn subscribe_blocks(&self) -> broadcast::Receiver<BlockEvent> {
        self.0.blocks.subscribe()
    }

    /// Why the extension no longer follows the chain, once it does not.
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.0.stopped.subscribe()
    }

    /// Why the extension's effects were halted by a handler, once they are.
    pub fn halted(&self) -> Option<String> {
        self.0.effects.halted()
    }

    /// The effects to be performed: give it to an [`crate::EffectExecutor`].
    pub fn effects(&self) -> EffectQueue {
        self.0.effects.clone()
    }

    /// What became of an effect; `None` when nobody asked for it. Reads the journal: fast, but it blocks.
    pub fn effect(&self, subject: B256, action: &str) -> Result<Option<EffectState>, JournalError> {
        self.0.journal.effect_state(E::NAME, Intent::id_of(subject, action))
    }

    /// As [`Self::effect`], by its identity.
    pub fn effect_by_id(&self, id: IntentId) -> Result<Option<EffectState>, JournalError> {
        self.0.journal.effect_state(E::NAME, id)
    }
}

/// Runs one extension.
pub struct ExtensionRunner<E> {
    shared: Arc<Shared<E>>,
    feed: watch::Receiver<FeedState>,
}

impl<E: Extension> fmt::Debug for ExtensionRunner<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionRunner").field("extension", &E::NAME).finish_non_exhaustive()
    }
}

impl<E: Extension> ExtensionRunner<E> {
    /// Opens an extension: `core` is empty but for its settings, its tables are filled from the journal. The feed is
    /// followed once [`Self::run`] is called. Blocks while it loads.
    pub fn open(
        journal: Arc<Journal>,
        core: E,
        feed: watch::Receiver<FeedState>,
        config: RunnerConfig,
    ) -> Result<Self, RunnerError> {
        journal.register_extension(E::NAME, E::VERSION)?;
        let mut state = State { core, cursor: None };
        load(&journal, &mut state)?;
        if let (None, Some(pruned)) = (state.cursor, journal.feed_pruned()?) {
            return Err(RunnerError::FeedPruned { extension: E::NAME, pruned });
        }
        let effects = EffectQueue::new(E::NAME, Arc::clone(&journal), feed.clone());
        let shared = Shared {
            cursor: watch::channel(state.cursor).0,
            blocks: broadcast::channel(config.block_events.max(1)).0,
            stopped: watch::channel(None).0,
            state: RwLock::new(state),
            effects,
            journal,
            config,
        };
        Ok(Self { shared: Arc::new(shared), feed })
    }

    /// A view to share.
    pub fn handle(&self) -> ExtensionHandle<E> {
        ExtensionHandle(Arc::clone(&self.shared))
    }

    /// Follows the feed until `shutdown` or an error. Can be called again.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), RunnerError> {
        let mut feed = self.feed.clone();
        self.shared.stopped.send_replace(None);
        loop {
            feed.mark_unchanged();
            if shutdown.is_cancelled() {
                return Ok(());
            }
            if self.step().await? {
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = feed.changed() => if changed.is_err() {
                    // The feed writer is gone; what it wrote is applied.
                    return Ok(());
                },
            }
        }
    }

    /// Applies or reverts one batch; says whether there may be more. For hosts and tests that drive a runner by hand.
    pub async fn step(&self) -> Result<bool, RunnerError> {
        let shared = Arc::clone(&self.shared);
        let result = blocking(move || shared.step()).await;
        if let Err(error) = &result {
            tracing::error!(extension = E::NAME, %error, "the extension stopped");
            metrics::gauge!("lcai_extension_stopped", "extension" => E::NAME).set(1.0);
            self.shared.stopped.send_replace(Some(error.to_string()));
        } else {
            metrics::gauge!("lcai_extension_stopped", "extension" => E::NAME).set(0.0);
        }
        result
    }
}

/// What one transaction did.
#[derive(Default)]
struct Batch {
    events: Vec<BlockEvent>,
    more: bool,
}

impl<E: Extension> Shared<E> {
    /// One batch. Readers wait until it is committed; a crash can only take back what the feed's blocks make again.
    fn step(&self) -> Result<bool, RunnerError> {
        let batch = self.change(|state| self.follow(state))?;
        let cursor = self.state.read().cursor;
        if !batch.events.is_empty() {
            for event in batch.events {
                // No subscriber is no error.
                let _ = self.blocks.send(event);
            }
            if let Some(cursor) = cursor {
                metrics::gauge!("lcai_extension_cursor", "extension" => E::NAME).set(cursor.number as f64);
            }
            self.cursor.send_replace(cursor);
            self.effects.announce();
        }
        Ok(batch.more)
    }

    fn input(&self, input: &[u8]) -> Result<(), RunnerError> {
        self.change(|state| self.accept(state, input))?.map_err(core_error::<E>)?;
        self.effects.announce();
        Ok(())
    }

    /// Changes core and journal together: if `work` fails or panics, the core is as the journal has it.
    fn change<R>(
        &self,
        work: impl FnOnce(&mut State<E>) -> Result<R, RunnerError>,
    ) -> Result<R, RunnerError> {
        let mut state = self.state.write();
        match catch_unwind(AssertUnwindSafe(|| work(&mut state))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error @ RunnerError::NotReady(_))) => Err(error),
            Ok(Err(error)) => {
                load(&self.journal, &mut state)?;
                Err(error)
            }
            Err(panic) => {
                load(&self.journal, &mut state)?;
                drop(state);
                resume_unwind(panic)
            }
        }
    }

    fn follow(&self, state: &mut State<E>) -> Result<Batch, RunnerError> {
        let mut batch = Batch::default();
        if state.cursor == self.journal.feed_tip()? {
            return Ok(batch);
        }
        // Before the transaction: finalized only rises, so an old value errs on the safe side.
        let finalized =
            self.journal.heads()?.and_then(|heads| heads.finalized).map_or(0, |block| block.number);
        let mut txn = self.journal.extension_txn(E::NAME)?;
        let canonical = self.revert(&mut txn, state, &mut batch)?;
        if canonical {
            self.apply(&mut txn, state, &mut batch, finalized)?;
            self.prune(&mut txn, finalized)?;
        }
        state.cursor = txn.meta.cursor;
        if batch.events.is_empty() {
            return Ok(batch);
        }
        txn.commit_blocks()?;
        Ok(batch)
    }

    /// Takes blocks back until the cursor is on the feed, or the batch is full (`false`).
    fn revert(
        &self,
        txn: &mut ExtensionTxn,
        state: &mut State<E>,
        batch: &mut Batch,
    ) -> Result<bool, RunnerError> {
        while let Some(cursor) = txn.meta.cursor {
            if txn.feed_hash(cursor.number)? == Some(cursor.hash) {
                return Ok(true);
            }
            if batch.events.len() >= self.config.batch {
                batch.more = true;
                return Ok(false);
            }
            let Some(undo) = txn.revert_block()? else {
                return Err(RunnerError::TooDeep { extension: E::NAME, cursor });
            };
            let mut tables = state.core.tables();
            for (name, rows) in undo.tables {
                let table = tables.iter_mut().find(|table| table.name() == name).ok_or_else(|| {
                    JournalError::Corrupt { what: "undo record", reason: format!("there is no table {name}") }
                })?;
                for (key, old) in rows {
                    table.restore(&key, old.as_deref()).map_err(core_error::<E>)?;
                }
            }
            batch.events.push(BlockEvent::Reverted(cursor));
        }
        Ok(true)
    }

    fn apply(
        &self,
        txn: &mut ExtensionTxn,
        state: &mut State<E>,
        batch: &mut Batch,
        finalized: u64,
    ) -> Result<(), RunnerError> {
        let from = match txn.meta.cursor {
            Some(cursor) => cursor.number + 1,
            None => txn.feed_first()?.map_or(0, |first| first.number),
        };
        let blocks = txn.feed_blocks(from, self.config.batch)?;
        batch.more = blocks.len() == self.config.batch;
        for block in &blocks {
            if let Some(cursor) = txn.meta.cursor
                && block.parent_ref() != Some(cursor)
            {
                return Err(RunnerError::FeedGap { extension: E::NAME, cursor });
            }
            self.apply_block(txn, state, block, finalized)?;
            batch.events.push(BlockEvent::Applied { block: block.block_ref(), timestamp: block.timestamp });
        }
        Ok(())
    }

    fn apply_block(
        &self,
        txn: &mut ExtensionTxn,
        state: &mut State<E>,
        block: &FeedBlock,
        finalized: u64,
    ) -> Result<(), RunnerError> {
        let mut effects = Effects::default();
        state.core.apply(block, &mut effects).map_err(core_error::<E>)?;
        let tables = drain(&mut state.core)?;
        claim_tables::<E>(txn, &tables, TableWriter::Blocks)?;
        let intents = effects.into_intents();
        let revertible = block.number > finalized;
        Ok(txn.apply_block(BlockChanges { block, tables, intents, revertible })?)
    }

    /// The inner error is the core's refusal; then nothing has changed. It must be cheap, since anybody may cause it.
    fn accept(&self, state: &mut State<E>, input: &[u8]) -> Result<Result<(), CoreError>, RunnerError> {
        let at = state.cursor.ok_or(RunnerError::NotReady(E::NAME))?;
        let mut effects = Effects::default();
        if let Err(refusal) = state.core.input(at, input, &mut effects) {
            for table in state.core.tables() {
                for change in table.drain().map_err(core_error::<E>)? {
                    table.restore(&change.key, change.old.as_deref()).map_err(core_error::<E>)?;
                }
            }
            return Ok(Err(refusal));
        }
        let tables = drain(&mut state.core)?;
        let mut txn = self.journal.extension_txn(E::NAME)?;
        claim_tables::<E>(&mut txn, &tables, TableWriter::Inputs)?;
        txn.apply_input(InputChanges { input, at, tables, intents: effects.into_intents() })?;
        txn.prune_inputs(self.config.keep_inputs)?;
        txn.commit()?;
        Ok(Ok(()))
    }

    fn prune(&self, txn: &mut ExtensionTxn, finalized: u64) -> Result<(), RunnerError> {
        let Some(cursor) = txn.meta.cursor else { return Ok(()) };
        let kept = cursor.number.saturating_sub(self.config.undo_cap).max(finalized.min(cursor.number));
        txn.prune_undo(kept + 1)?;
        // Looking through all effects is only worth it now and then.
        if cursor.number % 1024 == 0 && cursor.number > self.config.keep_effects {
            txn.forget_effects_below(cursor.number - self.config.keep_effects)?;
        }
        Ok(())
    }
}

const fn core_error<E: Extension>(source: CoreError) -> RunnerError {
    RunnerError::Core { extension: E::NAME, source }
}

/// Fills the core's tables from the journal.
fn load<E: Extension>(journal: &Journal, state: &mut State<E>) -> Result<(), RunnerError> {
    for table in state.core.tables() {
        table.clear();
        for (key, value) in journal.rows(E::NAME, table.name())? {
            table.restore(&key, Some(&value)).map_err(core_error::<E>)?;
        }
    }
    state.cursor = journal.cursor(E::NAME)?;
    Ok(())
}

fn drain<E: Extension>(core: &mut E) -> Result<Vec<TableChanges>, RunnerError> {
    let mut changed = Vec::new();
    for table in core.tables() {
        let changes = table.drain().map_err(core_error::<E>)?;
        if !changes.is_empty() {
            changed.push((table.name(), changes));
        }
    }
    Ok(changed)
}

/// Notes who writes a table; two kinds of writer are refused.
fn claim_tables<E: Extension>(
    txn: &mut ExtensionTxn,
    tables: &[TableChanges],
    writer: TableWriter,
) -> Result<(), RunnerError> {
    for (table, _) in tables {
        match txn.meta.writers.get(*table) {
            Some(known) if *known == writer => {}
            Some(_) => return Err(core_error::<E>(CoreError::MixedWriters { table })),
            None => {
                txn.meta.writers.insert((*table).to_owned(), writer);
            }
        }
    }
    Ok(())
}
