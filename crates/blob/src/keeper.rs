//! Fetching blobs when a block includes them: the pool forgets them soon, and the consensus clients are only the second
//! source, which a node needs for the blocks it comes to late.

use crate::{Blob, BlobError, BlobHint, BlobSource, BlobStore, FallbackSource};
use alloy_primitives::B256;
use async_trait::async_trait;
use lcai_host::{
    AnyTable, BlockRef, CoreError, EffectContext, EffectDepth, EffectHandler, EffectOutcome, Effects,
    Extension, FeedBlock, HostClient, Intent, OnRepeat, Table,
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The action under which a fetch is journaled.
const FETCH: &str = "fetchBlob";

/// Seconds after inclusion for which the execution client may still get the blob.
const CLIENT_SECONDS: u64 = 600;

/// Seconds after inclusion for which the blob is looked for: 18 days, for which consensus clients keep it on mainnet's
/// configuration.
const FETCH_SECONDS: u64 = 18 * 24 * 3600;

/// How long to wait before a late blob is looked for again, seconds, twice as long each time up to an hour.
const PATIENCE: u64 = 60;

/// Kept this long while the network's retention period is not known yet, seconds.
const DEFAULT_RETENTION: u64 = 18 * 24 * 3600;

/// How often expired blobs are looked for, in blobs fetched.
const PRUNE_EVERY: u64 = 64;

/// Blobs whose block is remembered: a week of full blocks at six a block and 12 s a slot, more where blocks are not full.
/// About 100 bytes each, in memory and in the journal.
const REMEMBERED: usize = 1 << 18;

/// Asks for every blob that a block includes, and remembers when that was, so that the blob can be found in the beacon
/// chain when it is not kept here.
#[derive(Debug)]
pub struct BlobKeeper {
    /// Versioned hash → time of the newest block that includes it, unix seconds.
    included: Table<B256, u64>,
    /// (time, versioned hash): what is forgotten first.
    by_time: Table<(u64, B256), ()>,
    remembered: usize,
}

impl Default for BlobKeeper {
    fn default() -> Self {
        Self {
            included: Table::new("included"),
            by_time: Table::new("included by time"),
            remembered: REMEMBERED,
        }
    }
}

impl BlobKeeper {
    /// The time of the block that includes the blob (unix seconds), as far as is remembered.
    pub fn included_at(&self, versioned_hash: &B256) -> Option<u64> {
        self.included.get(versioned_hash).copied()
    }

    fn remember(&mut self, versioned_hash: B256, timestamp: u64) {
        if let Some(before) = self.included.get(&versioned_hash).copied() {
            self.by_time.remove(&(before, versioned_hash));
        }
        self.included.insert(versioned_hash, timestamp);
        self.by_time.insert((timestamp, versioned_hash), ());
        while self.included.len() > self.remembered {
            let Some((oldest, ())) = self.by_time.iter().next() else { return };
            let oldest = *oldest;
            self.by_time.remove(&oldest);
            self.included.remove(&oldest.1);
        }
    }
}

impl Extension for BlobKeeper {
    const NAME: &'static str = "blobs";
    const VERSION: u32 = 1;

    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        let give_up = block.timestamp.saturating_add(FETCH_SECONDS);
        for blob in &block.blobs {
            let subject = blob.versioned_hash;
            self.remember(subject, block.timestamp);
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
        vec![&mut self.included, &mut self.by_time]
    }
}

/// Gives the network's retention period, seconds, once it is known.
pub type Retention = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Fetches from the execution client, else from consensus clients; verifies, keeps.
pub struct BlobKeeperHandler {
    store: Arc<BlobStore>,
    retention: Retention,
    beacons: Vec<Arc<dyn BlobSource>>,
    fetched: std::sync::atomic::AtomicU64,
}

impl fmt::Debug for BlobKeeperHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobKeeperHandler").finish_non_exhaustive()
    }
}

impl BlobKeeperHandler {
    /// Keeps blobs in `store` for the retention period. `beacons` are asked, in order, for what the execution client does not
    /// have: it never gets the blobs of blocks that it synced.
    pub const fn new(store: Arc<BlobStore>, retention: Retention, beacons: Vec<Arc<dyn BlobSource>>) -> Self {
        Self { store, retention, beacons, fetched: std::sync::atomic::AtomicU64::new(0) }
    }

    /// A blob that is kept already, e.g. because this node posted it, is kept for longer and not fetched.
    async fn fetch(&self, versioned_hash: B256, block: BlobHint, context: &EffectContext) -> EffectOutcome {
        let keep_until = unix_now().saturating_add((self.retention)().unwrap_or(DEFAULT_RETENTION));
        let store = self.store.clone();
        let known = blocking(move || store.extend(versioned_hash, keep_until)).await;
        if matches!(known, Ok(true)) {
            return EffectOutcome::Done(Vec::new());
        }
        let late = unix_now() > block.timestamp.saturating_add(CLIENT_SECONDS);
        let mut sources: Vec<Arc<dyn BlobSource>> = vec![Arc::new(HostBlobs::new(context.client.clone()))];
        // While the pool may have it, a beacon node is not troubled with every block's blobs.
        if late || context.attempt > 0 {
            sources.extend(self.beacons.iter().cloned());
        }
        match FallbackSource::new(sources).blob(versioned_hash, Some(block)).await {
            Ok(Some(blob)) => {
                let store = self.store.clone();
                match blocking(move || store.insert(versioned_hash, &blob, keep_until).map(|_| ())).await {
                    Ok(()) => {
                        metrics::counter!("lcai_blobs_fetched_total").increment(1);
                        self.prune_now_and_then().await;
                        EffectOutcome::Done(Vec::new())
                    }
                    Err(e) => retry(late, context, e.to_string()),
                }
            }
            Ok(None) if late => EffectOutcome::Abandon { reason: "no place has the blob".into() },
            Err(error @ BlobError::Gone { .. }) => EffectOutcome::Abandon { reason: error.to_string() },
            Ok(None) => retry(late, context, "the client does not have the blob".into()),
            Err(e) => retry(late, context, e.to_string()),
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

fn retry(late: bool, context: &EffectContext, reason: String) -> EffectOutcome {
    let seconds = if late { (PATIENCE << context.attempt.min(6)).min(3_600) } else { 1 };
    EffectOutcome::Retry { after: Duration::from_secs(seconds), reason }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The block that includes the blob, as the fetch of [`BlobKeeper::apply`] tells it.
fn block_of(intent: &Intent) -> BlobHint {
    BlobHint {
        block_number: intent.origin.number,
        block_hash: intent.origin.hash,
        timestamp: intent.not_after.unwrap_or_default().saturating_sub(FETCH_SECONDS),
        parent_beacon_block_root: None,
    }
}

#[async_trait]
impl EffectHandler for BlobKeeperHandler {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        match postcard::from_bytes(&intent.payload) {
            Ok(versioned_hash) => self.fetch(versioned_hash, block_of(intent), &context).await,
            Err(e) => EffectOutcome::Abandon { reason: format!("unreadable payload: {e}") },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcai_host::{IncludedBlob, testing::ScriptedHost};

    fn block(number: u64, blobs: &[B256]) -> FeedBlock {
        let included =
            |hash: &B256| IncludedBlob { transaction_hash: B256::ZERO, index: 0, versioned_hash: *hash };
        FeedBlock {
            number,
            hash: B256::left_padding_from(&number.to_be_bytes()),
            parent_hash: B256::ZERO,
            timestamp: 1_000 + number,
            logs: Vec::new(),
            blobs: blobs.iter().map(included).collect(),
            reads: Vec::new(),
        }
    }

    #[test]
    fn the_newest_block_of_a_blob_is_remembered_and_the_oldest_blobs_are_forgotten() {
        let mut keeper = BlobKeeper { remembered: 2, ..BlobKeeper::default() };
        let [a, b, c] = [1, 2, 3].map(B256::repeat_byte);
        let mut effects = Effects::default();
        for (number, blobs) in [(1, vec![a]), (2, vec![b]), (3, vec![a]), (4, vec![c])] {
            keeper.apply(&block(number, &blobs), &mut effects).unwrap();
        }
        assert_eq!(keeper.included_at(&a), Some(1_003), "posted again");
        assert_eq!((keeper.included_at(&b), keeper.included_at(&c)), (None, Some(1_004)));
        assert_eq!((keeper.included.len(), keeper.by_time.len()), (2, 2));
        assert_eq!(effects.into_intents().len(), 4, "each is asked for");
    }

    /// A handler with an empty store and one beacon node that has the blob of `payload`, or no beacon node.
    fn handler(payload: &[u8], with_beacon: bool) -> (BlobKeeperHandler, Arc<BlobStore>, B256) {
        let blob = crate::encode(payload).unwrap();
        let hash = crate::blob_versioned_hash(&blob).unwrap();
        let [ours, theirs] = [(); 2].map(|()| Arc::new(BlobStore::in_memory(1 << 20).unwrap()));
        theirs.insert(hash, &blob, u64::MAX).unwrap();
        let beacons: Vec<Arc<dyn BlobSource>> = if with_beacon { vec![theirs] } else { Vec::new() };
        (BlobKeeperHandler::new(ours.clone(), Arc::new(|| None), beacons), ours, hash)
    }

    fn intent(hash: B256, timestamp: u64) -> Intent {
        let mut effects = Effects::default();
        BlobKeeper::default().apply(&FeedBlock { timestamp, ..block(1, &[hash]) }, &mut effects).unwrap();
        effects.into_intents().remove(0)
    }

    /// A node that comes to a block late, whose blobs no pool has any more, keeps them all the same.
    #[tokio::test]
    async fn the_blobs_of_synced_blocks_come_from_the_beacon_chain() {
        let host = ScriptedHost::new(1);
        let (handler, store, hash) = handler(b"a prompt", true);
        let hours_ago = intent(hash, unix_now() - 3 * 3_600);
        let outcome = handler.execute(&hours_ago, EffectContext::new(host.client())).await;
        assert!(matches!(outcome, EffectOutcome::Done(_)), "{outcome:?}");
        assert!(store.get(hash).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_late_blob_that_nobody_has_is_given_up_and_a_fresh_one_is_waited_for() {
        let host = ScriptedHost::new(1);
        let (handler, _, hash) = handler(b"a prompt", false);
        let context = || EffectContext::new(host.client());
        let late = handler.execute(&intent(hash, unix_now() - 3_600), context()).await;
        assert!(matches!(late, EffectOutcome::Abandon { .. }), "{late:?}");
        let fresh = handler.execute(&intent(hash, unix_now()), context()).await;
        assert!(matches!(fresh, EffectOutcome::Retry { .. }), "{fresh:?}");
    }
}
