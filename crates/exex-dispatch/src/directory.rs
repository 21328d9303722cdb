//! The directory of each model, kept up from block to block: a snapshot costs what changed since the one before, and
//! shares the rest with it.

use crate::{
    core::{DispatchCore, Positions},
    error::DispatchError,
    heartbeats::Heard,
    snapshot::{Snapshot, row},
};
use alloy_primitives::{Address, U256};
use lcai_host::{BlockRef, FastMap};
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

#[derive(Debug)]
struct Kept {
    snapshot: Arc<Snapshot>,
    rules: Rules,
    read: Positions,
    silence: Silence,
}

/// When workers become stale without anything happening: each that is not stale is looked at again at the latest when what
/// is noted of it has become too old.
#[derive(Debug, Default)]
struct Silence {
    /// When each was heard, unix seconds: its newest heartbeat, or an older one.
    noted: FastMap<Address, u64>,
    /// The same by time, and what was noted before.
    by_time: BTreeMap<u64, Vec<Address>>,
}

impl Silence {
    fn note(&mut self, worker: Address, heard_at: u64) {
        if self.noted.get(&worker).is_none_or(|noted| *noted > heard_at) {
            self.noted.insert(worker, heard_at);
            self.by_time.entry(heard_at).or_default().push(worker);
        }
    }

    /// Notes of workers when they were heard; gives their heartbeats.
    fn listen(&mut self, core: &DispatchCore, time: u64, workers: Vec<Address>) -> Vec<Heard> {
        let mut heard = Vec::with_capacity(workers.len());
        for worker in workers {
            let health = core.health_of(&worker);
            if let Some(health) = health.filter(|h| core.is_heard_recently(h.heard_at, time)) {
                self.note(worker, health.heard_at);
            }
            heard.push((worker, health.map(|h| h.heartbeat.clone())));
        }
        heard
    }

    /// Adds to `stale` who was not heard for too long at `time`.
    fn advance(&mut self, core: &DispatchCore, time: u64, stale: &mut Vec<Address>) {
        while let Some(oldest) =
            self.by_time.first_entry().filter(|e| !core.is_heard_recently(*e.key(), time))
        {
            let (at, workers) = oldest.remove_entry();
            for worker in workers {
                if self.noted.get(&worker) != Some(&at) {
                    continue;
                }
                self.noted.remove(&worker);
                match core.health_of(&worker).filter(|h| core.is_heard_recently(h.heard_at, time)) {
                    Some(health) => self.note(worker, health.heard_at),
                    None => stale.push(worker),
                }
            }
        }
    }
}

impl Directories {
    /// The model's directory as it stands at a block.
    pub fn snapshot(
        &mut self,
        core: &DispatchCore,
        block: BlockRef,
        model: ModelId,
    ) -> Result<Arc<Snapshot>, DispatchError> {
        let (rules, now) = (rules(core, &model)?, core.positions());
        if let Some(kept) = self.kept.remove(&model) {
            let unchanged = kept.rules == rules && kept.read == now && kept.snapshot.block == block;
            let next = if unchanged { Some(kept) } else { kept.next(core, block, rules) };
            if let Some(next) = next {
                return Ok(Arc::clone(&self.kept.entry(model).or_insert(next).snapshot));
            }
        }
        let snapshot = Arc::new(Snapshot::of(core, block, model)?);
        let mut silence = Silence::default();
        for member in snapshot.workers.iter() {
            if let Some(health) = core.health_of(&member.worker) {
                silence.note(member.worker, health.heard_at);
            }
        }
        self.kept.insert(model, Kept { snapshot: Arc::clone(&snapshot), rules, read: now, silence });
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

impl Kept {
    /// Brought up to a block; `None` when what changed is not known and everything must be looked at.
    fn next(mut self, core: &DispatchCore, block: BlockRef, rules: Rules) -> Option<Self> {
        let time = core.block_time();
        if self.rules != rules || time < self.snapshot.block_time {
            return None;
        }
        let changed = core.changed_since(&self.read)?;
        let mut stale = Vec::new();
        self.silence.advance(core, time, &mut stale);
        let model = self.snapshot.model_id;
        // Without anybody who holds the last snapshot this is its own directory, else a copy that shares.
        let mut members = Arc::unwrap_or_clone(self.snapshot).workers;
        let mut heard = Vec::new();
        for worker in changed.workers.iter().chain(changed.standings) {
            match core.worker(worker).filter(|listed| listed.models.contains(&model)) {
                Some(listed) => {
                    let (record, load) = row(core, *worker, listed, &model);
                    members.set(record, load);
                    heard.push(*worker);
                }
                None => members.remove(worker),
            }
        }
        for worker in changed.health.iter().chain(&stale) {
            let capacity = core.capacity(core.health_of(worker), time);
            if members.load(worker, |load| load.capacity = capacity) {
                heard.push(*worker);
            }
        }
        for worker in changed.open_jobs {
            members.load(worker, |load| load.open_jobs = core.open_jobs_of(worker));
        }
        members.heard(self.silence.listen(core, time, heard));
        let snapshot = Arc::new(Snapshot::new(block, time, model, members));
        Some(Self { snapshot, rules, read: core.positions(), silence: self.silence })
    }
}
