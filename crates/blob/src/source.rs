//! Where blobs are read from: one trait, and a chain of places tried in order.

use crate::{error::BlobError, kzg::verify};
use alloy_eips::eip4844::Blob;
use alloy_primitives::B256;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Where on the chain a blob was included: sources that know only slots need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobHint {
    /// Block that carries the blob transaction, or a later one: the job's submit or completion block.
    pub block_number: u64,
    /// Its hash.
    pub block_hash: B256,
    /// Its timestamp, unix seconds.
    pub timestamp: u64,
    /// Its parent beacon block root (EIP-4788), where the chain has one.
    pub parent_beacon_block_root: Option<B256>,
}

/// A place blobs are read from.
#[async_trait]
pub trait BlobSource: fmt::Debug + Send + Sync {
    /// For logs, metrics and errors.
    fn name(&self) -> &str;

    /// The blob, `None` when this place does not have it. What comes back is as good as the place it comes from: check it
    /// with [`verify`], or read through [`FallbackSource`], which does.
    ///
    /// # Errors
    /// When the place cannot say whether it has the blob.
    async fn blob(
        &self,
        versioned_hash: B256,
        hint: Option<BlobHint>,
    ) -> Result<Option<Box<Blob>>, BlobError>;
}

#[async_trait]
impl<T: BlobSource + ?Sized> BlobSource for Arc<T> {
    fn name(&self) -> &str {
        (**self).name()
    }

    async fn blob(
        &self,
        versioned_hash: B256,
        hint: Option<BlobHint>,
    ) -> Result<Option<Box<Blob>>, BlobError> {
        (**self).blob(versioned_hash, hint).await
    }
}

/// Longest wait for one source, unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What came of asking one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStats {
    /// The source.
    pub name: String,
    /// Blobs it gave that were right.
    pub hits: u64,
    /// Times it did not have the blob.
    pub misses: u64,
    /// Times it failed or took too long.
    pub errors: u64,
    /// Times it gave other bytes than asked for.
    pub wrong: u64,
    /// Times the chain carries the blob and this place has dropped it, as it may.
    pub gone: u64,
}

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Counters {
    hits: Counter,
    misses: Counter,
    errors: Counter,
    wrong: Counter,
    gone: Counter,
}

#[derive(Debug)]
struct Entry {
    source: Arc<dyn BlobSource>,
    counters: Counters,
}

/// Sources tried in order, each answer checked against the versioned hash. A place that fails, takes too long or gives
/// other bytes is counted and passed over.
#[derive(Debug)]
pub struct FallbackSource {
    entries: Vec<Entry>,
    timeout: Duration,
}

impl FallbackSource {
    /// Tries `sources` in order.
    pub fn new(sources: Vec<Arc<dyn BlobSource>>) -> Self {
        let entries =
            sources.into_iter().map(|source| Entry { source, counters: Counters::default() }).collect();
        Self { entries, timeout: DEFAULT_TIMEOUT }
    }

    /// Waits this long for each source.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What came of each source so far, in order.
    pub fn stats(&self) -> Vec<SourceStats> {
        self.entries
            .iter()
            .map(|e| SourceStats {
                name: e.source.name().to_owned(),
                hits: e.counters.hits.get(),
                misses: e.counters.misses.get(),
                errors: e.counters.errors.get(),
                wrong: e.counters.wrong.get(),
                gone: e.counters.gone.get(),
            })
            .collect()
    }

    async fn ask(
        &self,
        entry: &Entry,
        hash: B256,
        hint: Option<BlobHint>,
    ) -> Result<Option<Box<Blob>>, BlobError> {
        let failed =
            |reason: String| BlobError::Source { source_name: entry.source.name().to_owned(), reason };
        let answer = match tokio::time::timeout(self.timeout, entry.source.blob(hash, hint)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error @ BlobError::Gone { .. })) => {
                entry.counters.gone.add();
                return Err(error);
            }
            Ok(Err(error)) => {
                entry.counters.errors.add();
                return Err(failed(error.to_string()));
            }
            Err(_) => {
                entry.counters.errors.add();
                return Err(failed(format!("no answer in {:?}", self.timeout)));
            }
        };
        let Some(blob) = answer else {
            entry.counters.misses.add();
            return Ok(None);
        };
        match verified(blob, hash).await? {
            Ok(blob) => {
                entry.counters.hits.add();
                Ok(Some(blob))
            }
            Err(error) => {
                entry.counters.wrong.add();
                Err(failed(error.to_string()))
            }
        }
    }
}

/// Recomputing a commitment takes milliseconds of CPU: off the async threads.
async fn verified(blob: Box<Blob>, hash: B256) -> Result<Result<Box<Blob>, BlobError>, BlobError> {
    Ok(tokio::task::spawn_blocking(move || verify(&blob, hash).map(|()| blob)).await?)
}

#[async_trait]
impl BlobSource for FallbackSource {
    fn name(&self) -> &str {
        "fallback"
    }

    /// The first right answer. `None` only when every source was reached and none knows the blob; [`BlobError::Gone`] only
    /// when every source was reached, none has it, and one knows that it was there.
    async fn blob(
        &self,
        versioned_hash: B256,
        hint: Option<BlobHint>,
    ) -> Result<Option<Box<Blob>>, BlobError> {
        let (mut failures, mut gone) = (Vec::new(), None);
        for entry in &self.entries {
            match self.ask(entry, versioned_hash, hint).await {
                Ok(Some(blob)) => return Ok(Some(blob)),
                Ok(None) => {}
                Err(error @ BlobError::Gone { .. }) => gone = Some(error),
                Err(error) => {
                    tracing::warn!(%versioned_hash, %error, "blob source passed over");
                    failures.push(error.to_string());
                }
            }
        }
        if !failures.is_empty() {
            return Err(BlobError::Unavailable { versioned_hash, failures });
        }
        gone.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::encode, kzg::blob_versioned_hash, store::BlobStore};

    /// A source as hostile or broken as a test needs it.
    #[derive(Debug)]
    enum Place {
        Lies,
        Fails,
        Hangs,
        Empty,
    }

    #[async_trait]
    impl BlobSource for Place {
        fn name(&self) -> &str {
            match self {
                Self::Lies => "liar",
                Self::Fails => "broken",
                Self::Hangs => "stuck",
                Self::Empty => "empty",
            }
        }

        async fn blob(&self, _: B256, _: Option<BlobHint>) -> Result<Option<Box<Blob>>, BlobError> {
            match self {
                Self::Lies => Ok(Some(encode(b"another prompt")?)),
                Self::Fails => Err(BlobError::Kzg("out of order".into())),
                Self::Hangs => std::future::pending().await,
                Self::Empty => Ok(None),
            }
        }
    }

    fn store_with(payload: &[u8]) -> (Arc<BlobStore>, B256) {
        let blob = encode(payload).unwrap();
        let hash = blob_versioned_hash(&blob).unwrap();
        let store = BlobStore::in_memory(1 << 20).unwrap();
        store.insert(hash, &blob, 10).unwrap();
        (Arc::new(store), hash)
    }

    #[tokio::test]
    async fn bad_sources_are_counted_and_passed_over() {
        let (store, hash) = store_with(b"the prompt");
        let chain = FallbackSource::new(vec![
            Arc::new(Place::Lies),
            Arc::new(Place::Fails),
            Arc::new(Place::Hangs),
            Arc::new(Place::Empty),
            store,
        ])
        .with_timeout(Duration::from_secs(1));
        let blob = chain.blob(hash, None).await.unwrap().unwrap();
        assert_eq!(crate::decode(blob.as_slice()).unwrap(), b"the prompt");
        let stats = chain.stats();
        let of = |i: usize| (stats[i].hits, stats[i].misses, stats[i].errors, stats[i].wrong);
        assert_eq!(of(0), (0, 0, 0, 1));
        assert_eq!(of(1), (0, 0, 1, 0));
        assert_eq!(of(2), (0, 0, 1, 0));
        assert_eq!(of(3), (0, 1, 0, 0));
        assert_eq!(of(4), (1, 0, 0, 0));
        assert_eq!(stats[4].name, "blob store");
    }

    /// "Nobody has it" and "somebody could not say" lead to different decisions.
    #[tokio::test]
    async fn absent_differs_from_unavailable() {
        let hash = B256::repeat_byte(1);
        let absent = FallbackSource::new(vec![Arc::new(Place::Empty), Arc::new(Place::Empty)]);
        assert!(absent.blob(hash, None).await.unwrap().is_none());
        let unsure = FallbackSource::new(vec![Arc::new(Place::Empty), Arc::new(Place::Fails)]);
        let error = unsure.blob(hash, None).await.unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains("out of order"), "{error}");
        assert!(FallbackSource::new(vec![]).blob(hash, None).await.unwrap().is_none());
    }
}
