//! The directory of each model, kept up from block to block: a snapshot costs what changed since the one before, and
//! shares the rest with it.

use crate::{
    core::DispatchCore,
    error::DispatchError,
    snapshot::{DrawnWorker, Snapshot},
};
use alloy_primitives::{Address, U256};
use lcai_host::BlockRef;
use lcai_primitives::ids::ModelId;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The newest snapshot of each model that was asked for.
///
/// [`Directories::snapshot`] gives what [`Snapshot::of`] gives, and is the quicker the less happened in between.
#[derive(Debug, Default)]
pub struct Directories {
    kept: HashMap<ModelId, Kept>,
}

/// What every worker of a model is judged by; when it changes, all are judged anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rules {
    min_worker_stake: U256,
    max_concurrent_jobs: u64,
    enabled: bool,
}

/// Positions in the logs of changes of the core's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Positions {
    workers: u64,
    health: u64,
}

#[derive(Debug)]
struct Kept {
    snapshot: Arc<Snapshot>,
    rules: Rules,
    read: Positions,
    /// Workers by when their heartbeat was heard, unix seconds: that is how they become stale without anything happening.
    heard: BTreeMap<u64, Vec<Address>>,
}

/// Something that may differ from how it was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Changed {
    worker: Address,
    /// `false`, which is less, when its heartbeat may be another one.
    heartbeat_stands: bool,
}

impl Directories {
    /// The model's directory as it stands at a block.
    pub fn snapshot(
        &mut self,
        core: &DispatchCore,
        block: BlockRef,
        model: ModelId,
    ) -> Result<Arc<Snapshot>, DispatchError> {
        let (rules, now) = (rules(core, &model)?, positions(core));
        if let Some(kept) = self.kept.remove(&model) {
            let unchanged = kept.rules == rules && kept.read == now && kept.snapshot.block == block;
            let next = if unchanged { Some(kept) } else { kept.next(core, block, rules) };
            if let Some(next) = next {
                return Ok(Arc::clone(&self.kept.entry(model).or_insert(next).snapshot));
            }
        }
        let snapshot = Arc::new(Snapshot::of(core, block, model)?);
        let mut heard: BTreeMap<u64, Vec<Address>> = BTreeMap::new();
        for member in snapshot.workers.iter() {
            if let Some(health) = core.health_of(&member.worker) {
                heard.entry(health.heard_at).or_default().push(member.worker);
            }
        }
        self.kept.insert(model, Kept { snapshot: Arc::clone(&snapshot), rules, read: now, heard });
        Ok(snapshot)
    }
}

fn rules(core: &DispatchCore, model: &ModelId) -> Result<Rules, DispatchError> {
    let params = core.known_params()?;
    Ok(Rules {
        min_worker_stake: params.min_worker_stake,
        max_concurrent_jobs: params.max_concurrent_jobs,
        enabled: core.model(model).is_some_and(|m| m.enabled),
    })
}

fn positions(core: &DispatchCore) -> Positions {
    let [workers, health] = core.positions();
    Positions { workers, health }
}

impl Kept {
    /// Brought up to a block; `None` when what changed is not known and everything must be looked at.
    fn next(mut self, core: &DispatchCore, block: BlockRef, rules: Rules) -> Option<Self> {
        let time = core.block_time();
        if self.rules != rules || time < self.snapshot.block_time {
            return None;
        }
        let changed = self.changed(core, time)?;
        let model = self.snapshot.model_id;
        // Without anybody who holds the last snapshot this is its own directory, else a copy that shares.
        let mut members = Arc::unwrap_or_clone(self.snapshot).workers;
        for Changed { worker, heartbeat_stands } in changed {
            let Some(listed) = core.worker(&worker).filter(|w| w.models.contains(&model)) else {
                members.remove(&worker);
                continue;
            };
            let health = core.health_of(&worker);
            let known = members.set(DrawnWorker::new(core, worker, listed, health, &model));
            if let Some(health) = health.filter(|_| !known || !heartbeat_stands)
                && core.is_heard_recently(health.heard_at, time)
            {
                self.heard.entry(health.heard_at).or_default().push(worker);
            }
        }
        let snapshot = Arc::new(Snapshot::new(block, time, model, members));
        Some(Self { snapshot, rules, read: positions(core), heard: self.heard })
    }

    /// Whoever has another record or heartbeat, or became stale by `time`, each once.
    fn changed(&mut self, core: &DispatchCore, time: u64) -> Option<Vec<Changed>> {
        let (records, heartbeats) = core.changed_since(self.read.workers, self.read.health)?;
        let record = |worker: &Address| Changed { worker: *worker, heartbeat_stands: true };
        let heartbeat = |worker: &Address| Changed { worker: *worker, heartbeat_stands: false };
        let mut changed: Vec<Changed> = records.iter().map(record).collect();
        changed.extend(heartbeats.iter().map(heartbeat));
        while let Some(oldest) = self.heard.first_entry().filter(|e| !core.is_heard_recently(*e.key(), time))
        {
            let (heard_at, workers) = oldest.remove_entry();
            // Who was heard again since stands further on.
            let silent = |worker: &&Address| core.health_of(worker).is_none_or(|h| h.heard_at <= heard_at);
            changed.extend(workers.iter().filter(silent).map(heartbeat));
        }
        changed.sort_unstable();
        changed.dedup_by_key(|changed| changed.worker);
        Some(changed)
    }
}
