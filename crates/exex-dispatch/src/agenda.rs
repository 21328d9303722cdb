//! What is due when.

use std::collections::BTreeMap;

/// Things by the block time after which they are due, unix seconds. What is put off or called off stays where it is until
/// then: whoever takes it looks whether it still is due, so that putting it off costs nothing.
#[derive(Debug, Clone)]
pub(crate) struct Agenda<T> {
    by_time: BTreeMap<u64, Vec<T>>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { by_time: BTreeMap::new() }
    }
}

impl<T: Ord + Copy> Agenda<T> {
    pub(crate) fn add(&mut self, after: u64, what: T) {
        self.by_time.entry(after).or_default().push(what);
    }

    pub(crate) fn clear(&mut self) {
        self.by_time.clear();
    }

    /// Takes out what is due at a time, and since when; oldest first.
    pub(crate) fn take(&mut self, now: u64) -> Vec<(u64, T)> {
        let later = self.by_time.split_off(&now);
        let due = std::mem::replace(&mut self.by_time, later);
        due.into_iter().flat_map(|(at, all)| all.into_iter().map(move |what| (at, what))).collect()
    }

    /// What is due at a time and `holds`: the oldest, at most so many. The rest of what was looked at is dropped.
    pub(crate) fn due(&mut self, now: u64, most: usize, holds: impl Fn(u64, &T) -> bool) -> Vec<(u64, T)> {
        let mut found = Vec::new();
        let mut empty = Vec::new();
        for (at, all) in self.by_time.range_mut(..now) {
            all.sort_unstable();
            all.dedup();
            all.retain(|what| holds(*at, what));
            if all.is_empty() {
                empty.push(*at);
            }
            found.extend(all.iter().take(most.saturating_sub(found.len())).map(|what| (*at, *what)));
            if found.len() >= most {
                break;
            }
        }
        for at in empty {
            self.by_time.remove(&at);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_is_dropped_and_what_is_not_due_is_kept() {
        let mut agenda = Agenda::default();
        for (after, what) in [(10, 3), (10, 1), (10, 1), (11, 2), (12, 4)] {
            agenda.add(after, what);
        }
        assert!(agenda.due(10, 9, |_, _| true).is_empty(), "later than");
        assert_eq!(agenda.due(12, 9, |_, what| *what != 1), [(10, 3), (11, 2)]);
        assert_eq!(agenda.due(12, 1, |_, _| true), [(10, 3)]);
        assert_eq!(agenda.take(12), [(10, 3), (11, 2)]);
        assert_eq!(agenda.take(99), [(12, 4)]);
        assert!(agenda.take(100).is_empty());
    }
}
