//! In-memory tables that remember what changed, so that undo and persistence follow from use.

use crate::CoreError;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, HashMap, btree_map},
    fmt,
    hash::Hash,
    marker::PhantomData,
    ops::Range,
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

/// The keys of rows that changed, oldest first, repeated ones included: so many of the newest.
#[derive(Debug, Clone)]
pub struct KeyLog<K> {
    /// Position of the first that is held.
    start: u64,
    keys: Vec<K>,
}

impl<K> Default for KeyLog<K> {
    fn default() -> Self {
        Self { start: 0, keys: Vec::new() }
    }
}

impl<K> KeyLog<K> {
    /// Where the log is now; grows with every key.
    pub const fn position(&self) -> u64 {
        self.start.saturating_add(self.keys.len() as u64)
    }

    /// The keys since a position; `None` when they are not known any more.
    pub fn since(&self, position: u64) -> Option<&[K]> {
        let skip = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.keys.get(skip..)
    }

    /// Notes a key.
    pub fn push(&mut self, key: K) {
        if self.keys.len() >= KEY_LOG_CAP {
            // The older half, so that whoever reads along loses nothing.
            self.start = self.start.saturating_add(self.keys.drain(..KEY_LOG_CAP / 2).len() as u64);
        }
        self.keys.push(key);
    }

    /// Positions from before are not answered any more.
    pub fn forget(&mut self) {
        self.start = self.position().saturating_add(1);
        self.keys.clear();
    }
}

/// A map for keys that a chain made, addresses and numbers: a block has thousands of look-ups, and the standard hash costs
/// more than they do. Seeded, so that nobody can prepare keys that collide.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What holds a table's rows.
pub trait Rows<K, V>: Default + Send + Sync {
    /// The row's value.
    fn get(&self, key: &K) -> Option<&V>;
    /// The row's value, to be changed.
    fn get_mut(&mut self, key: &K) -> Option<&mut V>;
    /// Sets a row; gives what it was.
    fn insert(&mut self, key: K, value: V) -> Option<V>;
    /// Removes a row; gives what it was.
    fn remove(&mut self, key: &K) -> Option<V>;
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Drops all rows.
    fn clear(&mut self);
}

macro_rules! rows {
    ($map:ty, $($bound:tt)+) => {
        impl<K: $($bound)+ + Send + Sync, V: Send + Sync> Rows<K, V> for $map {
            fn get(&self, key: &K) -> Option<&V> {
                self.get(key)
            }
            fn get_mut(&mut self, key: &K) -> Option<&mut V> {
                self.get_mut(key)
            }
            fn insert(&mut self, key: K, value: V) -> Option<V> {
                self.insert(key, value)
            }
            fn remove(&mut self, key: &K) -> Option<V> {
                self.remove(key)
            }
            fn len(&self) -> usize {
                self.len()
            }
            fn clear(&mut self) {
                self.clear();
            }
        }
    };
}

rows!(BTreeMap<K, V>, Ord);
rows!(FastMap<K, V>, Eq + Hash);

/// A row that was changed: its key, and where its old encoding is, if there was one.
#[derive(Debug, Clone)]
struct Touched<K> {
    key: K,
    old: Option<Range<usize>>,
}

/// An ordered map that records the first old value of every row it changes: encoded at once, which is less work than to
/// keep a copy, and is what the journal needs of it.
#[derive(Clone)]
pub struct Table<K, V, R = BTreeMap<K, V>> {
    name: &'static str,
    rows: R,
    /// In the order of the changes; of several to one row the first has what it was.
    touched: Vec<Touched<K>>,
    /// The old encodings, one after another.
    encoded: Vec<u8>,
    /// Why an old value could not be encoded; told by the next [`AnyTable::drain`].
    failure: Option<postcard::Error>,
    log: Option<KeyLog<K>>,
    values: PhantomData<V>,
}

/// A [`Table`] for rows that are only looked up one by one: by keys in no order, it is several times as quick.
pub type HashTable<K, V> = Table<K, V, FastMap<K, V>>;

impl<K, V, R: Rows<K, V>> fmt::Debug for Table<K, V, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name).field("rows", &self.rows.len()).finish()
    }
}

impl<K: Ord + Clone + Send + Sync, V: Serialize + Send + Sync, R: Rows<K, V>> Table<K, V, R> {
    /// An empty table.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            rows: R::default(),
            touched: Vec::new(),
            encoded: Vec::new(),
            failure: None,
            log: None,
            values: PhantomData,
        }
    }

    /// An empty table that also tells which rows changed lately, reverts included, so that what is derived from it can be
    /// kept up instead of made anew.
    pub fn logged(name: &'static str) -> Self {
        Self { log: Some(KeyLog::default()), ..Self::new(name) }
    }

    /// Where the log of changes is now; grows with every change.
    pub fn position(&self) -> u64 {
        self.log.as_ref().map_or(0, KeyLog::position)
    }

    /// Keys of the rows changed since a position, in any order and with repetitions; `None` when that is not known any
    /// more (or the table is not [`Self::logged`]) and every row may differ.
    pub fn changed_since(&self, position: u64) -> Option<&[K]> {
        self.log.as_ref()?.since(position)
    }

    /// The row's value.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    /// Sets a row.
    pub fn insert(&mut self, key: K, value: V) {
        self.log(&key);
        let old = self.rows.insert(key.clone(), value);
        self.touch(key, old.as_ref());
    }

    /// Removes a row and gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.rows.remove(key)?;
        self.log(key);
        self.touch(key.clone(), Some(&old));
        Some(old)
    }

    /// Changes a row in place, if it is there.
    pub fn update<T>(&mut self, key: &K, change: impl FnOnce(&mut V) -> T) -> Option<T> {
        let value = self.rows.get_mut(key)?;
        let known = self.touched.last().is_some_and(|last| last.key == *key);
        if !known {
            let old = append(&mut self.encoded, &mut self.failure, value);
            self.touched.push(Touched { key: key.clone(), old: Some(old) });
        }
        let result = change(value);
        self.log(key);
        Some(result)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn touch(&mut self, key: K, old: Option<&V>) {
        if self.touched.last().is_some_and(|last| last.key == key) {
            return;
        }
        let old = old.map(|old| append(&mut self.encoded, &mut self.failure, old));
        self.touched.push(Touched { key, old });
    }

    fn log(&mut self, key: &K) {
        if let Some(log) = &mut self.log {
            log.push(key.clone());
        }
    }
}

impl<K, V> Table<K, V> {
    /// All rows in key order.
    pub fn iter(&self) -> btree_map::Iter<'_, K, V> {
        self.rows.iter()
    }

    /// Rows within a key range, in key order.
    pub fn range<R: std::ops::RangeBounds<K>>(&self, range: R) -> btree_map::Range<'_, K, V>
    where
        K: Ord,
    {
        self.rows.range(range)
    }
}

/// Appends an encoding and says where it is.
fn append(
    encoded: &mut Vec<u8>,
    failure: &mut Option<postcard::Error>,
    value: &impl Serialize,
) -> Range<usize> {
    let start = encoded.len();
    match encode(std::mem::take(encoded), value) {
        Ok(longer) => *encoded = longer,
        Err(error) => *failure = Some(error),
    }
    start..encoded.len()
}

/// Appends an encoding.
fn encode(to: Vec<u8>, value: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    postcard::serialize_with_flavor(value, Appending(to))
}

/// Appends to a buffer, byte strings at once.
struct Appending(Vec<u8>);

impl postcard::ser_flavors::Flavor for Appending {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

impl<K, V, R> AnyTable for Table<K, V, R>
where
    K: Ord + Clone + Serialize + DeserializeOwned + Send + Sync,
    V: Serialize + DeserializeOwned + Send + Sync,
    R: Rows<K, V>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn drain(&mut self) -> Result<Vec<RawChange>, CoreError> {
        let corrupt = |e: postcard::Error| CoreError::Corrupt { table: self.name, reason: e.to_string() };
        if let Some(failure) = self.failure.take() {
            self.touched.clear();
            self.encoded.clear();
            return Err(corrupt(failure));
        }
        let (touched, olds) = (&mut self.touched, &self.encoded);
        // Stable, so that the first change to each row stays the first.
        touched.sort_by(|a, b| a.key.cmp(&b.key));
        touched.dedup_by(|later, first| later.key == first.key);
        let mut changes = Vec::with_capacity(touched.len());
        let mut buffer = Vec::with_capacity(1024);
        for Touched { key, old } in touched.drain(..) {
            buffer.clear();
            buffer = encode(buffer, &key).map_err(corrupt)?;
            let (key_len, new) = (buffer.len(), self.rows.get(&key));
            if let Some(new) = new {
                buffer = encode(buffer, new).map_err(corrupt)?;
            }
            let (key, value) = buffer.split_at(key_len);
            let (old, new) = (old.and_then(|range| olds.get(range)), new.map(|_| value));
            // The same values have the same encodings.
            if old != new {
                let [old, new] = [old, new].map(|value| value.map(<[u8]>::to_vec));
                changes.push(RawChange { key: key.to_vec(), old, new });
            }
        }
        self.encoded.clear();
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
        self.encoded.clear();
        self.failure = None;
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
        let unlogged: Table<u8, u8> = Table::new("t");
        assert_eq!(unlogged.changed_since(0), None);
    }

    #[test]
    fn a_row_changed_several_times_is_one_change_from_what_it_was_to_what_it_is() {
        let mut table: HashTable<u8, u64> = Table::new("t");
        (1..4).for_each(|key| table.insert(key, 300));
        assert_eq!(table.drain().unwrap().len(), 3);
        for key in [3, 1, 2] {
            table.update(&key, |v| *v = 7);
        }
        table.insert(1, 8);
        table.remove(&2);
        table.insert(3, 300);
        table.insert(4, 1);
        table.remove(&4);
        let encoded = |value: u64| postcard::to_stdvec(&value).unwrap();
        let changes = table.drain().unwrap();
        let expected = [
            RawChange { key: vec![1], old: Some(encoded(300)), new: Some(encoded(8)) },
            RawChange { key: vec![2], old: Some(encoded(300)), new: None },
        ];
        assert_eq!(changes, expected, "3 and 4 ended as they began");
        assert!(table.drain().unwrap().is_empty());
        table.restore(&changes[1].key, changes[1].old.as_deref()).unwrap();
        assert_eq!(table.get(&2), Some(&300));
        assert!(table.drain().unwrap().is_empty(), "a restored row is no change");
    }

    #[test]
    fn the_log_does_not_grow_without_end() {
        let mut table: Table<u32, u8> = Table::logged("t");
        let (start, many) = (table.position(), KEY_LOG_CAP as u32 + 10);
        (0..many).for_each(|key| table.insert(key, 0));
        assert_eq!(table.changed_since(start), None, "forgotten");
        let recent = table.changed_since(u64::from(KEY_LOG_CAP as u32)).unwrap();
        assert_eq!(recent, (KEY_LOG_CAP as u32..many).collect::<Vec<_>>(), "the newer half is not");
        let later = table.position();
        table.insert(1, 1);
        assert_eq!(table.changed_since(later), Some(&[1][..]));
    }
}
