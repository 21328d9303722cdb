//! Blobs on disk, kept until the jobs whose history can include them are past dispute and resolution.
//!
//! One redb file: a table of blobs by versioned hash, each with its trailing zeros cut off, and one by expiry. A blob is
//! checked against its hash before it is written. The size is bounded: when it is reached, the blobs that may go soonest go
//! first, and a blob that may go before all of them is refused.

use crate::{
    error::BlobError,
    kzg::verify,
    source::{BlobHint, BlobSource},
};
use alloy_eips::eip4844::{BYTES_PER_BLOB, Blob};
use alloy_primitives::B256;
use async_trait::async_trait;
use redb::{
    Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
    backends::InMemoryBackend,
};
use serde::{Deserialize, Serialize};
use std::{path::Path, sync::Arc};

type Hash = &'static [u8; 32];

/// Versioned hash → the blob without its trailing zeros.
const BLOBS: TableDefinition<'_, Hash, &[u8]> = TableDefinition::new("blobs.v1");

/// Versioned hash → (keep until, size), so that neither needs the blob to be read.
const META: TableDefinition<'_, Hash, (u64, u64)> = TableDefinition::new("meta.v1");

/// (keep until, versioned hash): what goes first.
const EXPIRY: TableDefinition<'_, (u64, Hash), ()> = TableDefinition::new("expiry.v1");

/// Counts, by name.
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals.v1");

const BYTES: &str = "bytes";
const COUNT: &str = "count";
const EVICTED: &str = "evicted";

/// What an insertion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Whether the blob was not there before.
    pub new: bool,
    /// Blobs that had to go for it, soonest expiry first.
    pub evicted: Vec<B256>,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStats {
    /// Blobs held.
    pub blobs: u64,
    /// Their bytes, trailing zeros not counted.
    pub bytes: u64,
    /// Bytes allowed.
    pub limit: u64,
    /// Blobs that went before their time for want of room, since the file was made.
    pub evicted: u64,
}

/// The store. Its methods block on the disk; the [`BlobSource`] implementation moves that off the async threads.
#[derive(Debug, Clone)]
pub struct BlobStore {
    db: Arc<Database>,
    limit: u64,
}

struct Tables<'t> {
    blobs: Table<'t, Hash, &'static [u8]>,
    meta: Table<'t, Hash, (u64, u64)>,
    expiry: Table<'t, (u64, Hash), ()>,
    totals: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    fn open(tx: &'t WriteTransaction) -> Result<Self, BlobError> {
        Ok(Self {
            blobs: tx.open_table(BLOBS)?,
            meta: tx.open_table(META)?,
            expiry: tx.open_table(EXPIRY)?,
            totals: tx.open_table(TOTALS)?,
        })
    }

    fn meta(&self, hash: B256) -> Result<Option<(u64, u64)>, BlobError> {
        Ok(self.meta.get(&hash.0)?.map(|row| row.value()))
    }

    fn total(&self, name: &'static str) -> Result<u64, BlobError> {
        Ok(self.totals.get(name)?.map_or(0, |row| row.value()))
    }

    fn set_total(&mut self, name: &'static str, value: u64) -> Result<(), BlobError> {
        self.totals.insert(name, value)?;
        Ok(())
    }

    /// The blob that may go first, as (keep until, hash).
    fn soonest(&self) -> Result<Option<(u64, B256)>, BlobError> {
        Ok(self.expiry.first()?.map(|(key, _)| {
            let (until, hash) = key.value();
            (until, B256::from(*hash))
        }))
    }

    fn put(&mut self, hash: B256, bytes: &[u8], keep_until: u64) -> Result<(), BlobError> {
        let size = bytes.len() as u64;
        self.blobs.insert(&hash.0, bytes)?;
        self.meta.insert(&hash.0, (keep_until, size))?;
        self.expiry.insert((keep_until, &hash.0), ())?;
        self.set_total(BYTES, self.total(BYTES)?.saturating_add(size))?;
        self.set_total(COUNT, self.total(COUNT)?.saturating_add(1))
    }

    /// Removes a blob and gives its size.
    fn take(&mut self, hash: B256) -> Result<u64, BlobError> {
        let Some((keep_until, size)) = self.meta(hash)? else { return Ok(0) };
        self.blobs.remove(&hash.0)?;
        self.meta.remove(&hash.0)?;
        self.expiry.remove((keep_until, &hash.0))?;
        self.set_total(BYTES, self.total(BYTES)?.saturating_sub(size))?;
        self.set_total(COUNT, self.total(COUNT)?.saturating_sub(1))?;
        Ok(size)
    }

    /// Moves a blob's expiry out, never in. `false` when the blob is not here.
    fn extend(&mut self, hash: B256, keep_until: u64) -> Result<bool, BlobError> {
        let Some((old, size)) = self.meta(hash)? else { return Ok(false) };
        if keep_until > old {
            self.expiry.remove((old, &hash.0))?;
            self.expiry.insert((keep_until, &hash.0), ())?;
            self.meta.insert(&hash.0, (keep_until, size))?;
        }
        Ok(true)
    }
}

impl BlobStore {
    /// Opens or creates the file; `limit` is in bytes of blobs, trailing zeros not counted.
    ///
    /// # Errors
    /// When the file is not a store, is open elsewhere, or cannot be read.
    pub fn open(path: &Path, limit: u64) -> Result<Self, BlobError> {
        Self::with(Database::create(path)?, limit)
    }

    /// A store that is gone with the process: for devnets and tests.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn in_memory(limit: u64) -> Result<Self, BlobError> {
        Self::with(Database::builder().create_with_backend(InMemoryBackend::new())?, limit)
    }

    fn with(db: Database, limit: u64) -> Result<Self, BlobError> {
        let tx = db.begin_write()?;
        Tables::open(&tx)?;
        tx.commit()?;
        Ok(Self { db: Arc::new(db), limit })
    }

    /// Keeps a blob at least until `keep_until` (unix seconds), after checking it against its hash. Keeping it again only
    /// moves the time out.
    ///
    /// # Errors
    /// When the blob is not the one the hash names, there is no room ([`BlobError::Full`]), or the disk fails.
    pub fn insert(&self, versioned_hash: B256, blob: &Blob, keep_until: u64) -> Result<Inserted, BlobError> {
        verify(blob, versioned_hash)?;
        let bytes = trimmed(blob);
        let tx = self.db.begin_write()?;
        let mut inserted = Inserted::default();
        {
            let mut tables = Tables::open(&tx)?;
            if !tables.extend(versioned_hash, keep_until)? {
                inserted.new = true;
                inserted.evicted = self.make_room(&mut tables, bytes.len() as u64, keep_until)?;
                tables.put(versioned_hash, bytes, keep_until)?;
            }
        }
        tx.commit()?;
        for hash in &inserted.evicted {
            tracing::warn!(versioned_hash = %hash, limit = self.limit, "blob store is full: a blob went before its time");
        }
        Ok(inserted)
    }

    /// An error leaves the transaction to be rolled back, with nothing evicted.
    fn make_room(&self, tables: &mut Tables<'_>, size: u64, keep_until: u64) -> Result<Vec<B256>, BlobError> {
        let mut evicted = Vec::new();
        let used = tables.total(BYTES)?;
        while tables.total(BYTES)?.saturating_add(size) > self.limit {
            match tables.soonest()? {
                Some((until, hash)) if until <= keep_until => {
                    tables.take(hash)?;
                    evicted.push(hash);
                }
                _ => return Err(BlobError::Full { used, limit: self.limit, size }),
            }
        }
        let before = tables.total(EVICTED)?;
        tables.set_total(EVICTED, before.saturating_add(evicted.len() as u64))?;
        Ok(evicted)
    }

    /// The blob, if it is here.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn get(&self, versioned_hash: B256) -> Result<Option<Box<Blob>>, BlobError> {
        let tx = self.db.begin_read()?;
        let blobs = tx.open_table(BLOBS)?;
        Ok(blobs.get(&versioned_hash.0)?.map(|row| padded(row.value())))
    }

    /// Until when a blob is kept (unix seconds), if it is here.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn keep_until(&self, versioned_hash: B256) -> Result<Option<u64>, BlobError> {
        let tx = self.db.begin_read()?;
        let meta = tx.open_table(META)?;
        Ok(meta.get(&versioned_hash.0)?.map(|row| row.value().0))
    }

    /// Moves a blob's expiry out, never in; `false` when the blob is not here.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn extend(&self, versioned_hash: B256, keep_until: u64) -> Result<bool, BlobError> {
        let tx = self.db.begin_write()?;
        let present = Tables::open(&tx)?.extend(versioned_hash, keep_until)?;
        tx.commit()?;
        Ok(present)
    }

    /// Removes what need not be kept at `now` (unix seconds) any more.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn prune(&self, now: u64) -> Result<Pruned, BlobError> {
        let tx = self.db.begin_write()?;
        let mut pruned = Pruned::default();
        {
            let mut tables = Tables::open(&tx)?;
            while let Some((_, hash)) = tables.soonest()?.filter(|(until, _)| *until <= now) {
                pruned.bytes = pruned.bytes.saturating_add(tables.take(hash)?);
                pruned.blobs = pruned.blobs.saturating_add(1);
            }
        }
        tx.commit()?;
        Ok(pruned)
    }

    /// What the store holds.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn stats(&self) -> Result<StoreStats, BlobError> {
        let tx = self.db.begin_read()?;
        let totals = tx.open_table(TOTALS)?;
        let total = |name: &'static str| -> Result<u64, BlobError> {
            Ok(totals.get(name)?.map_or(0, |row| row.value()))
        };
        Ok(StoreStats {
            blobs: total(COUNT)?,
            bytes: total(BYTES)?,
            limit: self.limit,
            evicted: total(EVICTED)?,
        })
    }
}

/// Most blobs are mostly zeros at their end; what is cut off here [`padded`] puts back, whatever the blob.
fn trimmed(blob: &Blob) -> &[u8] {
    let end = blob.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    blob.get(..end).unwrap_or_default()
}

fn padded(bytes: &[u8]) -> Box<Blob> {
    debug_assert!(bytes.len() <= BYTES_PER_BLOB);
    let mut blob = Box::new(Blob::ZERO);
    for (to, from) in blob.iter_mut().zip(bytes) {
        *to = *from;
    }
    blob
}

#[async_trait]
impl BlobSource for BlobStore {
    fn name(&self) -> &str {
        "blob store"
    }

    async fn blob(
        &self,
        versioned_hash: B256,
        _hint: Option<BlobHint>,
    ) -> Result<Option<Box<Blob>>, BlobError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || store.get(versioned_hash)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::encode, kzg::blob_versioned_hash};
    use proptest::prelude::*;
    use std::{collections::BTreeMap, sync::LazyLock};

    fn blob(payload: &[u8]) -> (B256, Box<Blob>) {
        let blob = encode(payload).unwrap();
        (blob_versioned_hash(&blob).unwrap(), blob)
    }

    #[test]
    fn blobs_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blobs.redb");
        let (hash, one) = blob(b"ends in zeros\0\0\0");
        {
            let store = BlobStore::open(&path, 1 << 20).unwrap();
            assert_eq!(store.insert(hash, &one, 100).unwrap(), Inserted { new: true, evicted: vec![] });
            assert!(BlobStore::open(&path, 1 << 20).is_err(), "one process at a time");
        }
        let store = BlobStore::open(&path, 1 << 20).unwrap();
        assert_eq!(store.get(hash).unwrap(), Some(one.clone()));
        assert_eq!(store.keep_until(hash).unwrap(), Some(100));
        assert_eq!(store.get(B256::ZERO).unwrap(), None);
        assert!(!store.insert(hash, &one, 50).unwrap().new);
        assert_eq!(store.keep_until(hash).unwrap(), Some(100), "the time moves out, never in");
        assert!(store.extend(hash, 200).unwrap());
        assert!(!store.extend(B256::ZERO, 200).unwrap());
        assert_eq!(store.prune(199).unwrap(), Pruned::default());
        assert_eq!(store.prune(200).unwrap().blobs, 1);
        assert_eq!(store.get(hash).unwrap(), None);
        assert_eq!(store.stats().unwrap(), StoreStats { blobs: 0, bytes: 0, limit: 1 << 20, evicted: 0 });
    }

    #[test]
    fn only_the_right_blob_is_kept() {
        let store = BlobStore::in_memory(1 << 20).unwrap();
        let ((hash, _), (_, other)) = (blob(b"one"), blob(b"two"));
        assert!(matches!(store.insert(hash, &other, 1), Err(BlobError::HashMismatch { .. })));
        assert_eq!(store.stats().unwrap().blobs, 0);
    }

    #[test]
    fn raw_blobs_come_back_exactly() {
        let store = BlobStore::in_memory(1 << 20).unwrap();
        let mut not_ours = Box::new(Blob::ZERO);
        not_ours[0] = 0x12;
        not_ours[BYTES_PER_BLOB - 1] = 7;
        for blob in [not_ours, Box::new(Blob::ZERO)] {
            let hash = blob_versioned_hash(&blob).unwrap();
            store.insert(hash, &blob, 1).unwrap();
            assert_eq!(store.get(hash).unwrap(), Some(blob));
        }
    }

    #[test]
    fn when_full_the_soonest_to_expire_goes_or_the_new_one_is_refused() {
        let blobs: Vec<_> = (0..4u8).map(|i| blob(&[i + 1; 31])).collect();
        let size = trimmed(&blobs[0].1).len() as u64;
        let store = BlobStore::in_memory(size * 2).unwrap();
        store.insert(blobs[0].0, &blobs[0].1, 100).unwrap();
        store.insert(blobs[1].0, &blobs[1].1, 300).unwrap();
        assert!(
            matches!(store.insert(blobs[2].0, &blobs[2].1, 99), Err(BlobError::Full { used, .. }) if used == size * 2)
        );
        assert_eq!(store.stats().unwrap().blobs, 2, "a refusal removes nothing");
        assert_eq!(store.insert(blobs[2].0, &blobs[2].1, 200).unwrap().evicted, [blobs[0].0]);
        assert_eq!(store.get(blobs[0].0).unwrap(), None);
        assert_eq!(store.insert(blobs[3].0, &blobs[3].1, 400).unwrap().evicted, [blobs[2].0]);
        assert_eq!(
            store.stats().unwrap(),
            StoreStats { blobs: 2, bytes: size * 2, limit: size * 2, evicted: 2 }
        );
        let (hash, big) = blob(&[1; 500]);
        assert!(matches!(store.insert(hash, &big, u64::MAX), Err(BlobError::Full { .. })));
        assert_eq!(store.stats().unwrap().blobs, 2, "what can never fit costs nobody his place");
    }

    #[derive(Debug, Clone)]
    enum Op {
        Insert(usize, u64),
        Extend(usize, u64),
        Prune(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..6usize, 0..50u64).prop_map(|(i, t)| Op::Insert(i, t)),
            (0..6usize, 0..50u64).prop_map(|(i, t)| Op::Extend(i, t)),
            (0..50u64).prop_map(Op::Prune),
        ]
    }

    static SAMPLES: LazyLock<Vec<(B256, Box<Blob>)>> =
        LazyLock::new(|| (0..6u8).map(|i| blob(&[i + 1; 40])).collect());

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Against a map that does the same by hand.
        #[test]
        fn behaves_as_the_model(ops in proptest::collection::vec(op(), 1..25)) {
            let size = trimmed(&SAMPLES[0].1).len() as u64;
            let store = BlobStore::in_memory(size * 3).unwrap();
            let mut model: BTreeMap<B256, u64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(i, t) => {
                        let (hash, blob) = &SAMPLES[i];
                        let soonest = model.iter().map(|(h, t)| (*t, *h)).min();
                        let result = store.insert(*hash, blob, t);
                        match (model.get(hash).copied(), soonest) {
                            (Some(old), _) => {
                                model.insert(*hash, old.max(t));
                                prop_assert!(!result.unwrap().new);
                            }
                            (None, Some((first, victim))) if model.len() == 3 => {
                                if first > t {
                                    let refused = matches!(result, Err(BlobError::Full { .. }));
                                    prop_assert!(refused);
                                } else {
                                    model.remove(&victim);
                                    model.insert(*hash, t);
                                    prop_assert_eq!(result.unwrap().evicted, [victim]);
                                }
                            }
                            _ => {
                                model.insert(*hash, t);
                                prop_assert!(result.unwrap().new);
                            }
                        }
                    }
                    Op::Extend(i, t) => {
                        let hash = SAMPLES[i].0;
                        let known = model.get_mut(&hash).map(|old| *old = t.max(*old)).is_some();
                        prop_assert_eq!(store.extend(hash, t).unwrap(), known);
                    }
                    Op::Prune(now) => {
                        let before = model.len() as u64;
                        model.retain(|_, t| *t > now);
                        prop_assert_eq!(store.prune(now).unwrap().blobs, before - model.len() as u64);
                    }
                }
                let stats = store.stats().unwrap();
                prop_assert_eq!((stats.blobs, stats.bytes), (model.len() as u64, model.len() as u64 * size));
                for (hash, blob) in SAMPLES.iter() {
                    prop_assert_eq!(store.keep_until(*hash).unwrap(), model.get(hash).copied());
                    prop_assert_eq!(store.get(*hash).unwrap(), model.get(hash).map(|_| blob.clone()));
                }
            }
        }
    }
}
