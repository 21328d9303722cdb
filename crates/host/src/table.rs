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

/// An ordered map that records the first old value of every row it changes.
#[derive(Clone)]
pub struct Table<K, V> {
    name: &'static str,
    rows: BTreeMap<K, V>,
    touched: BTreeMap<K, Option<V>>,
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("rows", &self.rows.len()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// An empty table.
    pub const fn new(name: &'static str) -> Self {
        Self { name, rows: BTreeMap::new(), touched: BTreeMap::new() }
    }

    /// The row's value.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// Sets a row.
    pub fn insert(&mut self, key: K, value: V) {
        self.touch(&key);
        self.rows.insert(key, value);
    }

    /// Removes a row and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.touch(key);
        self.rows.remove(key)
    }

    /// Changes a row in place, if it is there.
    pub fn update<R>(&mut self, key: &K, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        if !self.rows.contains_key(key) {
            return None;
        }
        self.touch(key);
        self.rows.get_mut(key).map(change)
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

    fn touch(&mut self, key: &K) {
        if !self.touched.contains_key(key) {
            self.touched.insert(key.clone(), self.rows.get(key).cloned());
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
        for (key, old) in std::mem::take(&mut self.touched) {
            let new = self.rows.get(&key);
            if old.as_ref() == new {
                continue;
            }
            changes.push(RawChange {
                key: postcard::to_stdvec(&key).map_err(corrupt)?,
                old: old.as_ref().map(postcard::to_stdvec).transpose().map_err(corrupt)?,
                new: new.map(postcard::to_stdvec).transpose().map_err(corrupt)?,
            });
        }
        Ok(changes)
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), CoreError> {
        let corrupt = |e: postcard::Error| CoreError::Corrupt { table: self.name, reason: e.to_string() };
        let key: K = postcard::from_bytes(key).map_err(corrupt)?;
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
    }
}
