//! Durable key/value records, e.g. what a key has signed. Unlike an extension's tables they never revert.

use super::{Journal, JournalError};
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use std::{fmt, sync::Arc};

const RECORDS: TableDefinition<'static, (&str, &[u8]), &[u8]> = TableDefinition::new("records");

pub(super) fn create_tables(txn: &WriteTransaction) -> Result<(), JournalError> {
    txn.open_table(RECORDS)?;
    Ok(())
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// What [`Records::put_if_absent`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// The key was free; the value is on disk now.
    Inserted,
    /// The key was taken; nothing changed. Holds what is there.
    Existing(Vec<u8>),
}

/// A named store of durable records. Every write is on disk when the call returns; every call blocks.
#[derive(Clone)]
pub struct Records {
    journal: Arc<Journal>,
    name: &'static str,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the values: they hold what will be signed or sealed.
        f.debug_struct("Records").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Journal {
    /// The records of a name; two names never see each other's.
    pub fn records(self: &Arc<Self>, name: &'static str) -> Records {
        Records { journal: Arc::clone(self), name }
    }
}

impl Records {
    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, JournalError> {
        let table = self.journal.read()?.open_table(RECORDS)?;
        Ok(table.get((self.name, key))?.map(|value| value.value().to_vec()))
    }

    /// Stores a value unless the key is taken, in one transaction: of two concurrent calls one gets `Inserted`.
    pub fn put_if_absent(&self, key: &[u8], value: &[u8]) -> Result<PutOutcome, JournalError> {
        let txn = self.journal.write()?;
        let existing = {
            let mut table = txn.open_table(RECORDS)?;
            let existing = table.get((self.name, key))?.map(|value| value.value().to_vec());
            if existing.is_none() {
                table.insert((self.name, key), value)?;
            }
            existing
        };
        if let Some(existing) = existing {
            txn.abort()?;
            return Ok(PutOutcome::Existing(existing));
        }
        txn.commit()?;
        Ok(PutOutcome::Inserted)
    }

    /// Stores a value, replacing what is there.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), JournalError> {
        let txn = self.journal.write()?;
        txn.open_table(RECORDS)?.insert((self.name, key), value)?;
        Ok(txn.commit()?)
    }

    /// Removes a key; says whether it was there.
    pub fn remove(&self, key: &[u8]) -> Result<bool, JournalError> {
        let txn = self.journal.write()?;
        let was_there = txn.open_table(RECORDS)?.remove((self.name, key))?.is_some();
        txn.commit()?;
        Ok(was_there)
    }

    /// Every record whose key starts with the prefix, in key order.
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, JournalError> {
        let table = self.journal.read()?.open_table(RECORDS)?;
        let mut found = Vec::new();
        for row in table.range((self.name, prefix)..)? {
            let (key, value) = row?;
            let (name, key) = key.value();
            if name != self.name || !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{JournalIdentity, testing::identity};

    #[test]
    fn one_of_two_concurrent_puts_wins() {
        let records = Journal::in_memory(identity()).unwrap().records("signed");
        let outcomes: Vec<PutOutcome> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|i| {
                    let records = records.clone();
                    scope.spawn(move || records.put_if_absent(b"job 7", &[i]).unwrap())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == PutOutcome::Inserted).count(), 1);
        let kept = records.get(b"job 7").unwrap().unwrap();
        assert!(
            outcomes.iter().all(|o| *o == PutOutcome::Inserted || *o == PutOutcome::Existing(kept.clone()))
        );
    }

    #[test]
    fn names_and_prefixes_are_apart_and_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let identity: JournalIdentity = identity();
        let journal = Journal::open(&path, identity.clone()).unwrap();
        let (a, b) = (journal.records("a"), journal.records("b"));
        a.put(b"x1", b"1").unwrap();
        a.put(b"x2", b"2").unwrap();
        a.put(b"y", b"3").unwrap();
        b.put(b"x1", b"4").unwrap();
        assert!(a.remove(b"x2").unwrap());
        assert!(!a.remove(b"x2").unwrap());
        drop((a, b, journal));
        let journal = Journal::open(&path, identity).unwrap();
        assert_eq!(journal.records("a").scan(b"x").unwrap(), vec![(b"x1".to_vec(), b"1".to_vec())]);
        assert_eq!(journal.records("a").scan(b"").unwrap().len(), 2);
        assert_eq!(journal.records("b").get(b"x1").unwrap(), Some(b"4".to_vec()));
    }
}
