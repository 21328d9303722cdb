//! The newest heartbeats of a directory's workers: what a draw can be accounted for with, and nothing it decides by.
//! Copies share what neither has added since, so that a heartbeat costs its own size and not its neighbours'.

use alloy_primitives::Address;
use lcai_primitives::eip712::SignedHeartbeat;
use std::{cmp::Ordering, sync::Arc};

/// A worker's newest heartbeat; `None` once none is known.
pub(crate) type Heard = (Address, Option<SignedHeartbeat>);

/// Newest heartbeats by worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heartbeats {
    /// Oldest first, each ordered by worker and more than twice as long as the next: a worker's newest heartbeat is in the
    /// last that has one of it.
    batches: Vec<Arc<Vec<Heard>>>,
}

impl Heartbeats {
    /// Adds newer ones; of several by one worker the last counts.
    pub(crate) fn add(&mut self, mut heard: Vec<Heard>) {
        heard.sort_by_key(|(worker, _)| *worker);
        heard.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        if heard.is_empty() {
            return;
        }
        while let Some(last) = self.batches.pop_if(|last| last.len() / 2 <= heard.len()) {
            heard = merged(Arc::unwrap_or_clone(last), heard);
        }
        self.batches.push(Arc::new(heard));
    }

    /// A worker's newest.
    pub(crate) fn get(&self, worker: &Address) -> Option<&SignedHeartbeat> {
        let newest = self.batches.iter().rev().find_map(|batch| {
            let place = batch.binary_search_by_key(worker, |(known, _)| *known).ok()?;
            batch.get(place)
        });
        newest?.1.as_ref()
    }

    /// For looking workers up in ascending order.
    pub(crate) fn ascending(&self) -> Ascending<'_> {
        Ascending { rest: self.batches.iter().rev().map(|batch| batch.as_slice()).collect() }
    }
}

/// Looks workers up in ascending order.
#[derive(Debug)]
pub(crate) struct Ascending<'a> {
    /// What is left of each batch, newest first.
    rest: Vec<&'a [Heard]>,
}

impl<'a> Ascending<'a> {
    /// A worker's newest; one before the last that was asked for is not found.
    pub(crate) fn get(&mut self, worker: &Address) -> Option<&'a SignedHeartbeat> {
        let mut newest = None;
        for batch in &mut self.rest {
            while let Some(((known, heartbeat), rest)) = batch.split_first().filter(|(h, _)| h.0 <= *worker) {
                *batch = rest;
                if known == worker {
                    newest = newest.or(Some(heartbeat));
                }
            }
        }
        newest?.as_ref()
    }
}

/// Both, without those of the older that the newer replaces.
fn merged(older: Vec<Heard>, newer: Vec<Heard>) -> Vec<Heard> {
    let mut both = Vec::with_capacity(older.len().saturating_add(newer.len()));
    let (mut older, mut newer) = (older.into_iter().peekable(), newer.into_iter().peekable());
    while let (Some(old), Some(new)) = (older.peek(), newer.peek()) {
        match old.0.cmp(&new.0) {
            Ordering::Less => both.extend(older.next()),
            Ordering::Equal => drop(older.next()),
            Ordering::Greater => both.extend(newer.next()),
        }
    }
    both.extend(older);
    both.extend(newer);
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn the_newest_of_each_is_found_and_copies_stay(
            batches in prop::collection::vec(prop::collection::vec((any::<u8>(), 0..9u64), 0..40), 0..30),
        ) {
            let mut heartbeats = Heartbeats::default();
            let mut model: BTreeMap<Address, Option<SignedHeartbeat>> = BTreeMap::new();
            let mut copies = Vec::new();
            for batch in batches {
                let heard = |(n, sequence)| {
                    let heartbeat = (sequence > 0).then(|| crate::tests::heartbeat_of(1, 1, sequence));
                    (Address::with_last_byte(n), heartbeat)
                };
                let batch: Vec<Heard> = batch.into_iter().map(heard).collect();
                model.extend(batch.clone());
                heartbeats.add(batch);
                copies.push((heartbeats.clone(), model.clone()));
            }
            for (heartbeats, model) in copies {
                let mut ascending = heartbeats.ascending();
                for worker in (0..=255).map(Address::with_last_byte) {
                    let newest = model.get(&worker).and_then(Option::as_ref);
                    prop_assert_eq!(heartbeats.get(&worker), newest);
                    if worker.0[19] % 3 != 0 {
                        prop_assert_eq!(ascending.get(&worker), newest);
                    }
                }
                let held: usize = heartbeats.batches.iter().map(|batch| batch.len()).sum();
                prop_assert!(held <= 2 * model.len(), "{held} for {}", model.len());
            }
        }
    }
}
