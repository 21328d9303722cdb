//! Which sessions and jobs are whose: ids by account, kept up to date by looking only at what is new.
//!
//! The directory knows records by id. An index entry may be out of date after a reorganisation, so readers check the
//! record's owner; it is never missing, because records younger than [`REORG_BLOCKS`] are looked at again each time.

use alloy_primitives::Address;
use std::collections::{BTreeSet, HashMap};

/// Blocks that a reorganisation may replace without the index missing something; far beyond any finalized head.
const REORG_BLOCKS: u64 = 512;

/// Ids by account.
#[derive(Debug, Default)]
pub(crate) struct AccountIndex {
    ids: HashMap<Address, BTreeSet<u64>>,
    /// The first id that the next refresh looks at.
    resume: u64,
}

impl AccountIndex {
    /// The first id that [`Self::refresh`] must be given.
    pub(crate) const fn resume(&self) -> u64 {
        self.resume
    }

    /// Takes the records from [`Self::resume`] on as (id, owner, block number), in order, as they are at block `tip`.
    pub(crate) fn refresh(&mut self, records: impl Iterator<Item = (u64, Address, u64)>, tip: u64) {
        let mut settled = true;
        for (id, owner, block) in records {
            self.ids.entry(owner).or_default().insert(id);
            settled &= block.saturating_add(REORG_BLOCKS) < tip;
            if settled {
                self.resume = id.saturating_add(1);
            }
        }
    }

    /// An account's ids below `before`, newest first. They may hold ids that are no longer the account's.
    pub(crate) fn newest(&self, owner: Address, before: Option<u64>) -> impl Iterator<Item = u64> {
        let ids = self.ids.get(&owner);
        ids.into_iter().flat_map(move |ids| ids.range(..before.unwrap_or(u64::MAX)).rev().copied())
    }

    /// Drops ids of records that the directory has forgotten.
    pub(crate) fn forget(&mut self, owner: Address, gone: &[u64]) {
        if let Some(ids) = self.ids.get_mut(&owner) {
            for id in gone {
                ids.remove(id);
            }
            if ids.is_empty() {
                self.ids.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Address = Address::repeat_byte(1);
    const BOB: Address = Address::repeat_byte(2);

    fn of(index: &AccountIndex, owner: Address, before: Option<u64>) -> Vec<u64> {
        index.newest(owner, before).collect()
    }

    #[test]
    fn ids_are_newest_first_and_paged() {
        let mut index = AccountIndex::default();
        index.refresh((1..=6).map(|id| (id, if id % 2 == 0 { ANN } else { BOB }, id)), 6);
        assert_eq!(of(&index, ANN, None), [6, 4, 2]);
        assert_eq!(of(&index, ANN, Some(4)), [2]);
        assert!(of(&index, Address::ZERO, None).is_empty());
        index.forget(ANN, &[2, 4, 6]);
        assert!(of(&index, ANN, None).is_empty());
    }

    #[test]
    fn only_what_a_reorganisation_cannot_reach_is_not_looked_at_again() {
        let mut index = AccountIndex::default();
        let tip = REORG_BLOCKS + 10;
        index.refresh([(1, ANN, 5), (2, ANN, 9), (3, ANN, 10), (4, ANN, tip)].into_iter(), tip);
        assert_eq!(index.resume(), 3);
        // The ids from there are another account's on the new branch.
        index.refresh([(3, BOB, 11), (4, BOB, tip)].into_iter(), tip);
        assert_eq!(of(&index, BOB, None), [4, 3]);
        assert_eq!(index.resume(), 3);
    }
}
