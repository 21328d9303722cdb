//! In-memory tables that remember what changed, so that undo and persistence follow from use.

use crate::CoreError;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, btree_map},
    fmt,
};

/// One changed row, encoded with postcard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct RawChange {
    /// The row's key.
    pub key: Vec<u8>,
    /// Its value before; `None` when it was absent.
    pub old: Option<Vec<u8>>,
    /// Its value now; `None` when it was removed.
    pub new: Option<Vec<u8>>,
}

/// A table whatever its types.
pub trait AnyTable: Send + Sync {
    /// Stable name within the extension.
    fn name(&self) -> &'static str;
    /// Takes the changes since the last call, in key order; rows that ended as they began are left out.
    fn drain(&mut self) -> Result<Vec<RawChange>, CoreError>;
    /// Sets or removes a row without recording a change: loading and reverting.
    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), CoreError>;
    /// Drops all rows and recorded changes.
    fn clear(&mut self);
}

/// Most keys a [`KeyLog`] holds.
const KEY_LOG_CAP: usize = 1 << 17;

/// The keys of rows that changed, oldest first, repeated ones included.
#[derive(Clone)]
struct KeyLog<K> {
    /// Position of the first that is held.
    start: u64,
    keys: Vec<K>,
}

impl<K> KeyLog<K> {
    const fn position(&self) -> u64 {
        self.start.saturating_add(self.keys.len() as u64)
    }

    fn push(&mut self, key: K) {
        if self.keys.len() >= KEY_LOG_CAP {
            self.forget();
        }
        self.keys.push(key);
    }

    /// Positions from before are not answered any more.
    fn forget(&mut self) {
        self.start = self.position().saturating_add(1);
        self.keys.clear();
    }
}

/// Encodes into one buffer and copies from it: rows become exactly as large as they are, in one allocation each.
struct Encoder(Vec<u8>);

impl Encoder {
    fn encode(&mut self, value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        self.0 = postcard::to_extend(value, buffer)?;
        Ok(self.0.clone())
    }
}

/// An ordered map that records the first old value of every row it changes.
#[derive(Clone)]
pub struct Table<K, V> {
    name: &'static str,
    rows: BTreeMap<K, V>,
    /// What changed rows were before; boxed, because most rows are new and have been nothing.
    touched: BTreeMap<K, Option<Box<V>>>,
    log: Option<KeyLog<K>>,
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("rows", &self.rows.len()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// An empty table.
    pub const fn new(name: &'static str) -> Self {
        Self { name, rows: BTreeMap::new(), touched: BTreeMap::new(), log: None }
    }

    /// An empty table that also tells which rows changed lately, reverts included, so that what is derived from it can be
    /// kept up instead of made anew.
    pub const fn logged(name: &'static str) -> Self {
        let log = Some(KeyLog { start: 0, keys: Vec::new() });
        Self { name, rows: BTreeMap::new(), touched: BTreeMap::new(), log }
    }

    /// Where the log of changes is now; grows with every change.
    pub fn position(&self) -> u64 {
        self.log.as_ref().map_or(0, KeyLog::position)
    }

    /// Keys of the rows changed since a position, in any order and with repetitions; `None` when that is not known any
    /// more (or the table is not [`Self::logged`]) and every row may differ.
    pub fn changed_since(&self, position: u64) -> Option<&[K]> {
        let log = self.log.as_ref()?;
        let skip = usize::try_from(position.checked_sub(log.start)?).ok()?;
        log.keys.get(skip..)
    }

    /// The row's value.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// Sets a row.
    pub fn insert(&mut self, key: K, value: V) {
        self.log(&key);
        let old = self.rows.insert(key.clone(), value);
        self.touched.entry(key).or_insert_with(|| old.map(Box::new));
    }

    /// Removes a row and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.rows.remove(key)?;
        self.log(key);
        self.touched.entry(key.clone()).or_insert_with(|| Some(Box::new(old.clone())));
        Some(old)
    }

    /// Changes a row in place, if it is there.
    pub fn update<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let value = self.rows.get_mut(key)?;
        self.touched.entry(key.clone()).or_insert_with(|| Some(Box::new(value.clone())));
        let result = change(value);
        self.log(key);
        Some(result)
    }

    /// All rows in key order.
    pub fn iter(&self) -> btree_map::Iter<'_, K, V> {
        self.rows.iter()
    }

    /// Rows within a key range, in key order.
    pub fn range<R: std::ops::RangeBounds<K>>(&self, range: R) -> btree_map::Range<'_, K, V> {
        self.rows.range(range)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn log(&mut self, key: &K) {
        if let Some(log) = &mut self.log {
            log.push(key.clone());
        }
    }
}

impl<K, V> AnyTable for Table<K, V>
where
    K: Ord + Clone + Serialize + DeserializeOwned + Send + Sync,
    V: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn drain(&mut self) -> Result<Vec<RawChange>, CoreError> {
        let corrupt = |e: postcard::Error| CoreError::Corrupt { table: self.name, reason: e.to_string() };
        let mut changes = Vec::with_capacity(self.touched.len());
        let mut encoder = Encoder(Vec::with_capacity(1024));
        for (key, old) in std::mem::take(&mut self.touched) {
            let new = self.rows.get(&key);
            if old.as_deref() == new {
                continue;
            }
            changes.push(RawChange {
                key: encoder.encode(&key).map_err(corrupt)?,
                old: old.as_deref().map(|old| encoder.encode(old)).transpose().map_err(corrupt)?,
                new: new.map(|new| encoder.encode(new)).transpose().map_err(corrupt)?,
            });
        }
        Ok(changes)
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), CoreError> {
        let table = self.name;
        let corrupt = |e: postcard::Error| CoreError::Corrupt { table, reason: e.to_string() };
        let key: K = postcard::from_bytes(key).map_err(corrupt)?;
        self.log(&key);
        match value {
            Some(bytes) => {
                let value = postcard::from_bytes(bytes).map_err(corrupt)?;
                self.rows.insert(key, value);
            }
            None => {
                self.rows.remove(&key);
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.touched.clear();
        if let Some(log) = &mut self.log {
            log.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_what_changed_since() {
        let mut table: Table<u8, u8> = Table::logged("t");
        let start = table.position();
        table.insert(1, 1);
        table.insert(2, 2);
        assert_eq!(table.changed_since(start), Some(&[1, 2][..]));
        let later = table.position();
        assert_eq!(table.changed_since(later), Some(&[][..]));
        table.update(&2, |v| *v = 3);
        table.update(&9, |v| *v = 3);
        table.remove(&1);
        assert_eq!(table.changed_since(later), Some(&[2, 1][..]), "an absent row does not change");
        let undone = table.position();
        for change in table.drain().unwrap() {
            table.restore(&change.key, change.old.as_deref()).unwrap();
        }
        assert_eq!(table.changed_since(undone), Some(&[2][..]), "a revert is a change; 1 ended as it began");

        table.clear();
        assert_eq!(table.changed_since(undone), None);
        assert_eq!(table.changed_since(table.position()), Some(&[][..]));
        assert_eq!(Table::<u8, u8>::new("t").changed_since(0), None);
    }

    #[test]
    fn the_log_does_not_grow_without_end() {
        let mut table: Table<u32, u8> = Table::logged("t");
        let (start, many) = (table.position(), KEY_LOG_CAP as u32 + 10);
        (0..many).for_each(|key| table.insert(key, 0));
        assert_eq!(table.changed_since(start), None, "forgotten");
        let later = table.position();
        table.insert(1, 1);
        assert_eq!(table.changed_since(later), Some(&[1][..]));
    }
}
