//! Tables with something that follows from their rows, kept up with every change, loading and reverting included. What
//! follows is not journaled: it costs the journal nothing and cannot contradict the rows.

use crate::{AnyTable, CoreError, RawChange, Rows, Table};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt};

/// What follows from a table's rows. It must not matter in which order they came about.
pub trait Index<K, V>: Default + Send + Sync {
    /// What the index has to know of a row.
    type Trace;

    /// Of a row.
    fn trace(value: &V) -> Self::Trace;
    /// A row was one thing and is another; `None`: it is absent.
    fn follow(&mut self, key: &K, before: Option<Self::Trace>, after: Option<Self::Trace>);
    /// All rows are gone.
    fn clear(&mut self);
}

/// A [`Table`] with an [`Index`].
#[derive(Clone)]
pub struct Indexed<K, V, I, R = BTreeMap<K, V>> {
    table: Table<K, V, R>,
    index: I,
}

impl<K, V, I: fmt::Debug, R: Rows<K, V>> fmt::Debug for Indexed<K, V, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Indexed").field("table", &self.table).finish_non_exhaustive()
    }
}

impl<K, V, I, R> Indexed<K, V, I, R>
where
    K: Ord + Clone + Send + Sync,
    V: Serialize + Send + Sync,
    I: Index<K, V>,
    R: Rows<K, V>,
{
    /// An empty table.
    pub fn new(name: &'static str) -> Self {
        Self { table: Table::new(name), index: I::default() }
    }

    /// The rows, to be looked at.
    pub const fn rows(&self) -> &Table<K, V, R> {
        &self.table
    }

    /// What follows from them.
    pub const fn index(&self) -> &I {
        &self.index
    }

    /// The rows, and what follows from them to be tidied up.
    pub const fn tidy(&mut self) -> (&Table<K, V, R>, &mut I) {
        (&self.table, &mut self.index)
    }

    /// The row's value.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.table.get(key)
    }

    /// Sets a row.
    pub fn insert(&mut self, key: K, value: V) {
        let before = self.table.get(&key).map(I::trace);
        self.index.follow(&key, before, Some(I::trace(&value)));
        self.table.insert(key, value);
    }

    /// Removes a row and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.table.remove(key)?;
        self.index.follow(key, Some(I::trace(&old)), None);
        Some(old)
    }

    /// Changes a row in place, if it is there.
    pub fn update<T>(&mut self, key: &K, change: impl FnOnce(&mut V) -> T) -> Option<T> {
        let (before, after, result) = self.table.update(key, |value| {
            let before = I::trace(value);
            let result = change(value);
            (before, I::trace(value), result)
        })?;
        self.index.follow(key, Some(before), Some(after));
        Some(result)
    }
}

impl<K, V, I, R> AnyTable for Indexed<K, V, I, R>
where
    K: Ord + Clone + Serialize + DeserializeOwned + Send + Sync,
    V: Serialize + DeserializeOwned + Send + Sync,
    I: Index<K, V>,
    R: Rows<K, V>,
{
    fn name(&self) -> &'static str {
        self.table.name()
    }

    fn drain(&mut self) -> Result<Vec<RawChange>, CoreError> {
        self.table.drain()
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), CoreError> {
        let row: K = postcard::from_bytes(key)
            .map_err(|e| CoreError::Corrupt { table: self.table.name(), reason: e.to_string() })?;
        let before = self.table.get(&row).map(I::trace);
        self.table.restore(key, value)?;
        self.index.follow(&row, before, self.table.get(&row).map(I::trace));
        Ok(())
    }

    fn clear(&mut self) {
        self.table.clear();
        self.index.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of all values.
    #[derive(Debug, Default, PartialEq)]
    struct Sum(u64);

    impl Index<u8, u64> for Sum {
        type Trace = u64;

        fn trace(value: &u64) -> u64 {
            *value
        }

        fn follow(&mut self, _: &u8, before: Option<u64>, after: Option<u64>) {
            self.0 = self.0 - before.unwrap_or(0) + after.unwrap_or(0);
        }

        fn clear(&mut self) {
            self.0 = 0;
        }
    }

    #[test]
    fn an_index_follows_every_change() {
        let mut table: Indexed<u8, u64, Sum> = Indexed::new("t");
        table.insert(1, 10);
        table.insert(2, 20);
        table.insert(1, 11);
        table.drain().unwrap();
        assert_eq!(table.index(), &Sum(31));
        table.update(&2, |v| *v = 5);
        table.remove(&1);
        table.insert(3, 1);
        assert_eq!(table.index(), &Sum(6));
        for change in table.drain().unwrap() {
            table.restore(&change.key, change.old.as_deref()).unwrap();
        }
        assert_eq!(table.index(), &Sum(31));
        table.clear();
        assert_eq!(table.index(), &Sum(0));
    }
}
