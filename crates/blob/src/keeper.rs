//! Fetching blobs when a block includes them: the pool forgets them soon, and the consensus client is only the second
//! source.

use crate::{Blob, BlobError, BlobHint, BlobSource, BlobStore};
use alloy_primitives::B256;
use async_trait::async_trait;
use lcai_host::{
    AnyTable, BlockRef, CoreError, EffectContext, EffectDepth, EffectHandler, EffectOutcome, Effects,
    Extension, FeedBlock, HostClient, Intent, OnRepeat,
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The action under which a fetch is journaled.
const FETCH: &str = "fetchBlob";

/// Seconds after inclusion for which the execution client may still have the blob; then the fetch is given up and the
/// consensus client's copy is looked for when somebody asks.
const FETCH_SECONDS: u64 = 600;

/// Kept this long while the network's retention period is not known yet, seconds.
const DEFAULT_RETENTION: u64 = 18 * 24 * 3600;

/// How often expired blobs are looked for, in blobs fetched.
const PRUNE_EVERY: u64 = 64;

/// Asks for every blob that a block includes. It remembers nothing: intents are all it has.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlobKeeper;

impl Extension for BlobKeeper {
    const NAME: &'static str = "blobs";
    const VERSION: u32 = 1;

    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        let give_up = block.timestamp.saturating_add(FETCH_SECONDS);
        for blob in &block.blobs {
            let subject = blob.versioned_hash;
            let again = OnRepeat::Again;
            effects.push(
                block.block_ref(),
                subject,
                FETCH,
                EffectDepth::Head,
                again,
                Some(give_up),
                &subject,
            )?;
        }
        Ok(())
    }

    fn input(&mut self, _at: BlockRef, _input: &[u8], _effects: &mut Effects) -> Result<(), CoreError> {
        Err(CoreError::BadInput("the blob keeper takes no inputs".into()))
    }

    fn tables(&mut self) -> Vec<&mut dyn AnyTable> {
        Vec::new()
    }
}

/// Gives the network's retention period, seconds, once it is known.
pub type Retention = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Fetches from the execution client, verifies, keeps.
pub struct BlobKeeperHandler {
    store: Arc<BlobStore>,
    retention: Retention,
    fetched: std::sync::atomic::AtomicU64,
}

impl fmt::Debug for BlobKeeperHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobKeeperHandler").finish_non_exhaustive()
    }
}

impl BlobKeeperHandler {
    /// Keeps blobs in `store` for the retention period.
    pub const fn new(store: Arc<BlobStore>, retention: Retention) -> Self {
        Self { store, retention, fetched: std::sync::atomic::AtomicU64::new(0) }
    }

    /// A blob that is kept already, e.g. because this node posted it, is kept for longer and not fetched.
    async fn fetch(&self, versioned_hash: B256, context: &EffectContext) -> EffectOutcome {
        let keep_until = unix_now().saturating_add((self.retention)().unwrap_or(DEFAULT_RETENTION));
        let store = self.store.clone();
        let known = blocking(move || store.extend(versioned_hash, keep_until)).await;
        if matches!(known, Ok(true)) {
            return EffectOutcome::Done(Vec::new());
        }
        match HostBlobs::new(context.client.clone()).blob(versioned_hash, None).await {
            Ok(Some(blob)) => {
                let store = self.store.clone();
                match blocking(move || store.insert(versioned_hash, &blob, keep_until).map(|_| ())).await {
                    Ok(()) => {
                        metrics::counter!("lcai_blobs_fetched_total").increment(1);
                        self.prune_now_and_then().await;
                        EffectOutcome::Done(Vec::new())
                    }
                    Err(e) => retry(e.to_string()),
                }
            }
            Ok(None) => retry("the client does not have the blob".into()),
            Err(e) => retry(e.to_string()),
        }
    }

    async fn prune_now_and_then(&self) {
        let fetched = self.fetched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if fetched.is_multiple_of(PRUNE_EVERY) {
            let store = self.store.clone();
            if let Err(error) = blocking(move || store.prune(unix_now()).map(|_| ())).await {
                tracing::warn!(target: "lcai::blob", %error, "expired blobs could not be dropped");
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work).await?
}

/// The blobs an execution client holds now: its pool's, or a block builder's.
pub struct HostBlobs(Arc<dyn HostClient>);

impl HostBlobs {
    /// Reads from this client.
    pub const fn new(client: Arc<dyn HostClient>) -> Self {
        Self(client)
    }
}

impl fmt::Debug for HostBlobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostBlobs")
    }
}

#[async_trait]
impl BlobSource for HostBlobs {
    fn name(&self) -> &str {
        "execution client"
    }

    async fn blob(
        &self,
        versioned_hash: B256,
        _hint: Option<BlobHint>,
    ) -> Result<Option<Box<Blob>>, BlobError> {
        let failed = |reason: String| BlobError::Source { source_name: self.name().to_owned(), reason };
        let Some(bytes) = self.0.blob(versioned_hash).await.map_err(|e| failed(e.to_string()))? else {
            return Ok(None);
        };
        let wrong_length = |_| failed(format!("gave {} bytes for a blob", bytes.len()));
        Blob::try_from(bytes.as_ref()).map(|blob| Some(Box::new(blob))).map_err(wrong_length)
    }
}

fn retry(reason: String) -> EffectOutcome {
    EffectOutcome::Retry { after: Duration::from_secs(1), reason }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[async_trait]
impl EffectHandler for BlobKeeperHandler {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        match postcard::from_bytes(&intent.payload) {
            Ok(versioned_hash) => self.fetch(versioned_hash, &context).await,
            Err(e) => EffectOutcome::Abandon { reason: format!("unreadable payload: {e}") },
        }
    }
}
