//! The workers of one model, ordered by address, with the sums of their weights. Copies share the pages that neither has
//! changed since, so that a copy for each block is cheap; and what blocks change often is apart from what they do not.

use crate::{
    heartbeats::{Heard, Heartbeats},
    records::{Capacity, WorkerState},
    snapshot::DrawnWorker,
    standing::weighed_score,
};
use alloy_primitives::{Address, U256};
use lcai_primitives::{draw, eip712::SignedHeartbeat};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use std::{borrow::Cow, fmt, sync::Arc};

/// Workers of a page that was just made; one with twice as many is split.
const PAGE: usize = 64;

/// An ordered set of workers.
#[derive(Clone, Default)]
pub struct Members {
    stake_cap: U256,
    pages: Vec<Page>,
    len: usize,
    heartbeats: Heartbeats,
}

/// What the chain's registries say of a worker, and its standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) worker: Address,
    pub(crate) stake: U256,
    pub(crate) score: u64,
    pub(crate) standing_bps: u32,
    /// Why it may take no jobs of the model, however busy it is.
    pub(crate) why_not: Option<Cow<'static, str>>,
}

/// How busy a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) open_jobs: u64,
    pub(crate) capacity: Capacity,
}

/// Neighbours; never empty. The three lists have an item of each.
#[derive(Clone)]
struct Page {
    first: Address,
    /// Sum of the weights.
    weight: U256,
    records: Arc<Vec<Record>>,
    loads: Arc<Vec<Load>>,
    /// In draws: zero for who is no candidate.
    weights: Arc<Vec<U256>>,
}

impl Record {
    /// Its weight as a candidate: min(stake, cap) × score × standing.
    fn weight(&self, stake_cap: U256) -> U256 {
        let (worker, stake, reputation) =
            (self.worker, self.stake, weighed_score(self.score, self.standing_bps));
        draw::Candidate { worker, stake, stake_cap, reputation }.weight()
    }
}

impl Load {
    /// Why it can take no session now.
    const fn why_not(&self) -> Option<&'static str> {
        match self.capacity.state(self.open_jobs) {
            WorkerState::Ready => None,
            WorkerState::Busy if self.open_jobs == 0 => Some("wants no jobs"),
            WorkerState::Busy => Some("busy: as many open jobs as it may or wants to have"),
            WorkerState::Draining => Some("draining: it takes no new sessions"),
            WorkerState::Unready => Some("its model backend does not answer"),
            WorkerState::Stale => Some("stale: no recent heartbeat"),
            WorkerState::Jailed => Some("suspended"),
        }
    }
}

/// Its weight in draws.
fn weight(record: &Record, load: &Load, stake_cap: U256) -> U256 {
    let candidate = record.why_not.is_none() && load.why_not().is_none();
    if candidate { record.weight(stake_cap) } else { U256::ZERO }
}

fn drawn(record: &Record, load: &Load, heartbeat: Option<&SignedHeartbeat>) -> DrawnWorker {
    DrawnWorker {
        worker: record.worker,
        stake: record.stake,
        score: record.score,
        standing_bps: record.standing_bps,
        open_jobs: load.open_jobs,
        heartbeat: heartbeat.cloned(),
        why_not: record.why_not.clone().or_else(|| load.why_not().map(Cow::Borrowed)),
    }
}

/// Of a worker as a draw saw it. Why it was no candidate stands in its record, whatever it was.
fn parts(drawn: DrawnWorker) -> (Record, Load, Option<Heard>) {
    let DrawnWorker { worker, stake, score, standing_bps, open_jobs, heartbeat, why_not } = drawn;
    let load = Load { open_jobs, capacity: Capacity::Any };
    let record = Record { worker, stake, score, standing_bps, why_not };
    (record, load, heartbeat.map(|heartbeat| (worker, Some(heartbeat))))
}

impl Members {
    /// From workers ordered by address, none twice.
    pub(crate) fn of(stake_cap: U256, workers: Vec<(Record, Load)>, heard: Vec<Heard>) -> Self {
        let len = workers.len();
        let mut members = Self { stake_cap, pages: Vec::new(), len, heartbeats: Heartbeats::default() };
        members.heartbeats.add(heard);
        let mut workers = workers.into_iter();
        loop {
            let (records, loads) = workers.by_ref().take(PAGE).unzip();
            let Some(page) = Page::of(records, loads, stake_cap) else { return members };
            members.pages.push(page);
        }
    }

    /// The same from what a draw saw of them.
    pub(crate) fn of_drawn(stake_cap: U256, workers: Vec<DrawnWorker>) -> Self {
        let (mut all, mut heard) = (Vec::with_capacity(workers.len()), Vec::new());
        for (record, load, heartbeat) in workers.into_iter().map(parts) {
            all.push((record, load));
            heard.extend(heartbeat);
        }
        Self::of(stake_cap, all, heard)
    }

    /// Stake above this does not count, wei.
    pub(crate) const fn stake_cap(&self) -> U256 {
        self.stake_cap
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = DrawnWorker> {
        let mut heartbeats = self.heartbeats.ascending();
        self.rows().map(move |(record, load)| drawn(record, load, heartbeats.get(&record.worker)))
    }

    /// Those that can be drawn.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = DrawnWorker> {
        let mut heartbeats = self.heartbeats.ascending();
        self.rows()
            .filter(|(record, load)| record.why_not.is_none() && load.why_not().is_none())
            .map(move |(record, load)| drawn(record, load, heartbeats.get(&record.worker)))
    }

    fn rows(&self) -> impl Iterator<Item = (&Record, &Load)> {
        self.pages.iter().flat_map(|page| page.records.iter().zip(page.loads.iter()))
    }

    fn row(&self, worker: &Address) -> Option<(&Record, &Load)> {
        let page = self.pages.get(self.place(worker))?;
        let row = page.find(worker).ok()?;
        Some((page.records.get(row)?, page.loads.get(row)?))
    }

    /// One of them.
    pub fn get(&self, worker: &Address) -> Option<DrawnWorker> {
        let (record, load) = self.row(worker)?;
        Some(drawn(record, load, self.heartbeats.get(worker)))
    }

    /// Whether it is one of them and can be drawn.
    pub(crate) fn has_candidate(&self, worker: &Address) -> bool {
        let row = self.row(worker);
        row.is_some_and(|(record, load)| record.why_not.is_none() && load.why_not().is_none())
    }

    /// The page that has the worker, or would have it.
    fn place(&self, worker: &Address) -> usize {
        self.pages.partition_point(|page| page.first <= *worker).saturating_sub(1)
    }

    /// Adds a worker or replaces what is known of it; says whether it was there.
    pub(crate) fn set(&mut self, record: Record, load: Load) -> bool {
        let (at, cap) = (self.place(&record.worker), self.stake_cap);
        let Some(page) = self.pages.get_mut(at) else {
            self.pages.extend(Page::of(vec![record], vec![load], cap));
            self.len = 1;
            return false;
        };
        match page.find(&record.worker) {
            Ok(row) => {
                page.replace(row, record, load, cap);
                true
            }
            Err(row) => {
                let split_off = page.insert(row, record, load, cap);
                self.pages.splice(at.saturating_add(1)..at.saturating_add(1), split_off);
                self.len = self.len.saturating_add(1);
                false
            }
        }
    }

    /// Changes how busy a worker is; says whether it is there.
    pub(crate) fn load(&mut self, worker: &Address, change: impl FnOnce(&mut Load)) -> bool {
        let (at, cap) = (self.place(worker), self.stake_cap);
        let Some(page) = self.pages.get_mut(at) else { return false };
        let Ok(row) = page.find(worker) else { return false };
        page.load(row, change, cap);
        true
    }

    /// Takes newer heartbeats to account with; the loads that follow from them are set apart.
    pub(crate) fn heard(&mut self, heard: Vec<Heard>) {
        self.heartbeats.add(heard);
    }

    /// Removes a worker, if it is there.
    pub(crate) fn remove(&mut self, worker: &Address) {
        let at = self.place(worker);
        let Some(page) = self.pages.get(at) else { return };
        let Ok(row) = page.find(worker) else { return };
        let (mut records, mut loads) = (Vec::clone(&page.records), Vec::clone(&page.loads));
        records.remove(row);
        loads.remove(row);
        self.len = self.len.saturating_sub(1);
        // Joined with its right neighbour when both are small, so that pages do not become ever more.
        let mut end = at.saturating_add(1);
        if let Some(right) = self.pages.get(end).filter(|right| records.len() + right.records.len() <= PAGE) {
            records.extend_from_slice(&right.records);
            loads.extend_from_slice(&right.loads);
            end = end.saturating_add(1);
        }
        let page = Page::of(records, loads, self.stake_cap);
        self.pages.splice(at..end, page);
    }

    /// For each page the sum of the weights up to its end.
    pub(crate) fn sums(&self) -> Vec<U256> {
        let mut sum = U256::ZERO;
        let mut add = |page: &Page| {
            sum += page.weight;
            sum
        };
        self.pages.iter().map(&mut add).collect()
    }

    /// The first worker whose cumulative weight exceeds `point`, given [`Self::sums`].
    pub(crate) fn at(&self, sums: &[U256], point: U256) -> Option<Address> {
        let place = sums.partition_point(|sum| *sum <= point);
        let mut sum = place.checked_sub(1).and_then(|before| sums.get(before)).copied().unwrap_or_default();
        let page = self.pages.get(place)?;
        let row = page.weights.iter().position(|weight| {
            sum += *weight;
            sum > point
        })?;
        page.records.get(row).map(|record| record.worker)
    }
}

impl Page {
    fn of(records: Vec<Record>, loads: Vec<Load>, stake_cap: U256) -> Option<Self> {
        let first = records.first()?.worker;
        let weights: Vec<U256> =
            records.iter().zip(&loads).map(|(record, load)| weight(record, load, stake_cap)).collect();
        let sum = weights.iter().fold(U256::ZERO, |sum, weight| sum + *weight);
        let (records, loads, weights) = (Arc::new(records), Arc::new(loads), Arc::new(weights));
        Some(Self { first, weight: sum, records, loads, weights })
    }

    fn find(&self, worker: &Address) -> Result<usize, usize> {
        self.records.binary_search_by(|known| known.worker.cmp(worker))
    }

    fn replace(&mut self, row: usize, record: Record, load: Load, stake_cap: U256) {
        if self.records.get(row) != Some(&record)
            && let Some(known) = Arc::make_mut(&mut self.records).get_mut(row)
        {
            *known = record;
        }
        if self.loads.get(row) != Some(&load)
            && let Some(known) = Arc::make_mut(&mut self.loads).get_mut(row)
        {
            *known = load;
        }
        self.weigh(row, stake_cap);
    }

    fn load(&mut self, row: usize, change: impl FnOnce(&mut Load), stake_cap: U256) {
        let Some(mut load) = self.loads.get(row).copied() else { return };
        let before = load;
        change(&mut load);
        if load == before {
            return;
        }
        if let Some(known) = Arc::make_mut(&mut self.loads).get_mut(row) {
            *known = load;
        }
        if load.why_not() != before.why_not() {
            self.weigh(row, stake_cap);
        }
    }

    /// Sets a worker's weight by the rest.
    fn weigh(&mut self, row: usize, stake_cap: U256) {
        let (Some(record), Some(load)) = (self.records.get(row), self.loads.get(row)) else { return };
        let weight = weight(record, load, stake_cap);
        if self.weights.get(row) == Some(&weight) {
            return;
        }
        if let Some(counted) = Arc::make_mut(&mut self.weights).get_mut(row) {
            self.weight = self.weight - *counted + weight;
            *counted = weight;
        }
    }

    /// Gives the page that was split off, if it became too large.
    fn insert(&mut self, row: usize, record: Record, load: Load, stake_cap: U256) -> Option<Self> {
        let (mut records, mut loads) = (Vec::clone(&self.records), Vec::clone(&self.loads));
        records.insert(row, record);
        loads.insert(row, load);
        let large = records.len() >= 2 * PAGE;
        let split_off =
            large.then(|| Self::of(records.split_off(PAGE), loads.split_off(PAGE), stake_cap)).flatten();
        if let Some(left) = Self::of(records, loads, stake_cap) {
            *self = left;
        }
        split_off
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.stake_cap == other.stake_cap && self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Members {}

/// A sequence of workers, whatever the pages.
impl Serialize for Members {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(self.len))?;
        for worker in self.iter() {
            sequence.serialize_element(&worker)?;
        }
        sequence.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn member(n: u8, score: u64) -> DrawnWorker {
        DrawnWorker {
            worker: Address::with_last_byte(n),
            stake: U256::from(100),
            score,
            standing_bps: 10_000,
            open_jobs: 0,
            heartbeat: Some(crate::tests::heartbeat_of(1, 4, 1)),
            why_not: score.is_multiple_of(5).then_some("draining".into()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is set and removed, it is as if made at once from what is left; and a copy stays as it was.
        #[test]
        fn kept_up_as_made_anew(steps in prop::collection::vec((any::<u8>(), 0..50u64, any::<bool>()), 0..600)) {
            let cap = U256::from(1_000);
            let mut members = Members::of_drawn(cap, Vec::new());
            let mut model: BTreeMap<Address, DrawnWorker> = BTreeMap::new();
            let mut copies = Vec::new();
            for (n, score, stays) in steps {
                let worker = member(n, score);
                if stays || n % 3 == 0 {
                    let (record, load, heartbeat) = parts(worker.clone());
                    let known = members.set(record, load);
                    members.heard(heartbeat.into_iter().collect());
                    prop_assert_eq!(known, model.insert(worker.worker, worker).is_some());
                } else {
                    members.remove(&worker.worker);
                    model.remove(&worker.worker);
                }
                if score == 0 {
                    copies.push((members.clone(), model.clone()));
                }
            }
            copies.push((members, model));
            for (members, model) in copies {
                let anew = Members::of_drawn(cap, model.values().cloned().collect());
                prop_assert_eq!(&members, &anew);
                prop_assert_eq!((members.len(), members.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(members.pages.iter().all(|page| (1..2 * PAGE).contains(&page.records.len())));
                let total = anew.sums().last().copied().unwrap_or_default();
                prop_assert_eq!(members.sums().last().copied().unwrap_or_default(), total);
                for n in 0..=255 {
                    let worker = Address::with_last_byte(n);
                    prop_assert_eq!(members.get(&worker), model.get(&worker).cloned());
                }
                // Every point has the worker that a walk over all weights gives.
                let weight = |w: &DrawnWorker| if w.why_not.is_some() { U256::ZERO } else { w.weight(cap) };
                let mut walk = model.values().map(|w| (w.worker, weight(w)));
                let mut next = walk.next();
                let mut end = next.map_or(U256::ZERO, |(_, weight)| weight);
                let (mut point, sums) = (U256::ZERO, members.sums());
                while point < total {
                    while end <= point {
                        next = walk.next();
                        end += next.unwrap().1;
                    }
                    prop_assert_eq!(members.at(&sums, point), next.map(|(worker, _)| worker));
                    point += U256::from(997);
                }
                prop_assert_eq!(members.at(&sums, total), None);
            }
        }
    }
}
