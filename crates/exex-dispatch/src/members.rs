//! The workers of one model, ordered by address, with the sums of their weights. Copies share the pages that neither has
//! changed since, so that a copy for each block is cheap.

use crate::snapshot::DrawnWorker;
use alloy_primitives::{Address, U256};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use std::{fmt, sync::Arc};

/// Workers of a page that was just made; one with twice as many is split.
const PAGE: usize = 16;

/// An ordered set of workers.
#[derive(Clone, Default)]
pub struct Members {
    stake_cap: U256,
    pages: Vec<Page>,
    len: usize,
}

/// Neighbours; never empty.
#[derive(Clone)]
struct Page {
    first: Address,
    /// Sum of the weights of those that are candidates.
    weight: U256,
    rows: Arc<Rows>,
}

#[derive(Clone)]
struct Rows {
    workers: Vec<DrawnWorker>,
    /// Their weights in draws: zero for who is no candidate.
    weights: Vec<U256>,
}

impl Members {
    /// From workers ordered by address, none twice.
    pub(crate) fn of(stake_cap: U256, workers: Vec<DrawnWorker>) -> Self {
        let mut members = Self { stake_cap, pages: Vec::new(), len: workers.len() };
        let mut workers = workers.into_iter();
        loop {
            let workers: Vec<DrawnWorker> = workers.by_ref().take(PAGE).collect();
            let weights = workers.iter().map(|worker| weight(worker, stake_cap)).collect();
            let Some(page) = Page::of(Rows { workers, weights }) else { return members };
            members.pages.push(page);
        }
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
    pub fn iter(&self) -> impl Iterator<Item = &DrawnWorker> {
        self.pages.iter().flat_map(|page| &page.rows.workers)
    }

    /// One of them.
    pub fn get(&self, worker: &Address) -> Option<&DrawnWorker> {
        let rows = &self.pages.get(self.place(worker))?.rows;
        rows.workers.get(rows.find(worker).ok()?)
    }

    /// The page that has the worker, or would have it.
    fn place(&self, worker: &Address) -> usize {
        self.pages.partition_point(|page| page.first <= *worker).saturating_sub(1)
    }

    /// Adds a worker or replaces what is known of it; says whether it was there.
    pub(crate) fn set(&mut self, worker: DrawnWorker) -> bool {
        let weight = weight(&worker, self.stake_cap);
        let at = self.place(&worker.worker);
        let Some(page) = self.pages.get_mut(at) else {
            self.pages.extend(Page::of(Rows { workers: vec![worker], weights: vec![weight] }));
            self.len = 1;
            return false;
        };
        match page.rows.find(&worker.worker) {
            Ok(row) => {
                page.replace(row, worker, weight);
                true
            }
            Err(row) => {
                let split_off = page.insert(row, worker, weight);
                self.pages.splice(at.saturating_add(1)..at.saturating_add(1), split_off);
                self.len = self.len.saturating_add(1);
                false
            }
        }
    }

    /// Removes a worker, if it is there.
    pub(crate) fn remove(&mut self, worker: &Address) {
        let at = self.place(worker);
        let Some(page) = self.pages.get(at) else { return };
        let Ok(row) = page.rows.find(worker) else { return };
        let mut rows = Rows::clone(&page.rows);
        rows.workers.remove(row);
        rows.weights.remove(row);
        self.len = self.len.saturating_sub(1);
        // Joined with its right neighbour when both are small, so that pages do not become ever more.
        let mut end = at.saturating_add(1);
        if let Some(right) = self.pages.get(end).filter(|right| rows.len() + right.rows.len() <= PAGE) {
            rows.workers.extend_from_slice(&right.rows.workers);
            rows.weights.extend_from_slice(&right.rows.weights);
            end = end.saturating_add(1);
        }
        self.pages.splice(at..end, Page::of(rows));
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
        let rows = &self.pages.get(place)?.rows;
        let row = rows.weights.iter().position(|weight| {
            sum += *weight;
            sum > point
        })?;
        rows.workers.get(row).map(|worker| worker.worker)
    }
}

fn weight(worker: &DrawnWorker, stake_cap: U256) -> U256 {
    if worker.why_not.is_some() { U256::ZERO } else { worker.weight(stake_cap) }
}

impl Rows {
    fn len(&self) -> usize {
        self.workers.len()
    }

    fn find(&self, worker: &Address) -> Result<usize, usize> {
        self.workers.binary_search_by_key(worker, |known| known.worker)
    }
}

impl Page {
    fn of(rows: Rows) -> Option<Self> {
        let first = rows.workers.first()?.worker;
        let weight = rows.weights.iter().fold(U256::ZERO, |sum, weight| sum + *weight);
        Some(Self { first, weight, rows: Arc::new(rows) })
    }

    fn replace(&mut self, row: usize, worker: DrawnWorker, weight: U256) {
        if self.rows.workers.get(row) == Some(&worker) {
            return;
        }
        let rows = Arc::make_mut(&mut self.rows);
        if let (Some(known), Some(counted)) = (rows.workers.get_mut(row), rows.weights.get_mut(row)) {
            self.weight = self.weight - *counted + weight;
            (*known, *counted) = (worker, weight);
        }
    }

    /// Gives the page that was split off, if it became too large.
    fn insert(&mut self, row: usize, worker: DrawnWorker, weight: U256) -> Option<Self> {
        let rows = Arc::make_mut(&mut self.rows);
        rows.workers.insert(row, worker);
        rows.weights.insert(row, weight);
        self.weight += weight;
        self.first = rows.workers.first().map_or(self.first, |worker| worker.worker);
        if rows.len() < 2 * PAGE {
            return None;
        }
        let right = Rows { workers: rows.workers.split_off(PAGE), weights: rows.weights.split_off(PAGE) };
        let right = Self::of(right)?;
        self.weight -= right.weight;
        Some(right)
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
            sequence.serialize_element(worker)?;
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
            let mut members = Members::of(cap, Vec::new());
            let mut model: BTreeMap<Address, DrawnWorker> = BTreeMap::new();
            let mut copies = Vec::new();
            for (n, score, stays) in steps {
                let worker = member(n, score);
                if stays || n % 3 == 0 {
                    let known = members.set(worker.clone());
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
                let anew = Members::of(cap, model.values().cloned().collect());
                prop_assert_eq!(&members, &anew);
                prop_assert_eq!((members.len(), members.is_empty()), (model.len(), model.is_empty()));
                prop_assert!(members.pages.iter().all(|page| (1..2 * PAGE).contains(&page.rows.len())));
                let total = anew.sums().last().copied().unwrap_or_default();
                prop_assert_eq!(members.sums().last().copied().unwrap_or_default(), total);
                for n in 0..=255 {
                    let worker = Address::with_last_byte(n);
                    prop_assert_eq!(members.get(&worker), model.get(&worker));
                }
                // Every point has the worker that a walk over all weights gives.
                let mut walk = model.values().map(|w| (w.worker, weight(w, cap)));
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
