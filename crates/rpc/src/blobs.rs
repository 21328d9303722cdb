//! Blobs: read from wherever they are, and posted for users whose wallets cannot send type-3 transactions.

use crate::{
    error::LcaiError,
    quota::{Limits, Quota},
    types::{BlobQuota, PublishedBlob},
    unix_now,
};
use alloy_primitives::{Address, B256, Bytes, U256};
use lcai_blob::{
    BlobError, BlobHint, BlobSource, BlobStore, BlobTransactionSidecarVariant, FallbackSource, MAX_PAYLOAD,
    SidecarForm, blob_versioned_hash, build_sidecar, encode,
};
use lcai_host::{HostClient, LaneError, Records, TxLane, TxSpec};
use lcai_primitives::frames::SEAL_OVERHEAD;
use metrics::counter;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

/// Gas of a transfer without calldata.
const TRANSFER_GAS: u64 = 21_000;
/// EIP-4844: gas of one blob.
const GAS_PER_BLOB: u64 = 131_072;
/// Blobs being read from the store, searched for elsewhere, and posted, at a time; further callers wait.
const READS: usize = 32;
const SEARCHES: usize = 8;
const PUBLICATIONS: usize = 32;

/// Bounds of the publisher.
#[derive(Debug, Clone, Copy)]
pub struct PublisherConfig {
    /// Unix seconds at which Osaka begins on this chain (EIP-7594 sidecars from then on); `None`: not scheduled.
    pub osaka_time: Option<u64>,
    /// Blobs per account and day (UTC).
    pub per_account: u64,
    /// Of these, for an account that never had a session: it posts its first prompts while it opens one.
    pub newcomer: u64,
    /// Blobs of all accounts per day.
    pub total: u64,
    /// Seconds a published blob is kept in the node's store.
    pub keep: u64,
    /// How long a caller waits for the pool to have the transaction, which goes on being sent.
    pub patience: Duration,
}

impl PublisherConfig {
    /// 1,000 blobs per account and day, 4 before its first session, 20,000 in all, kept for 18 days (the protocol's retention).
    pub const fn new(osaka_time: Option<u64>) -> Self {
        let keep = 18 * 24 * 3600;
        let patience = Duration::from_secs(50);
        Self { osaka_time, per_account: 1_000, newcomer: 4, total: 20_000, keep, patience }
    }
}

/// Posts blobs from the node's own blob account.
pub struct Publisher {
    lane: Arc<TxLane>,
    client: Arc<dyn HostClient>,
    quota: Arc<Quota>,
    config: PublisherConfig,
    room: Semaphore,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("account", &self.lane.account()).finish_non_exhaustive()
    }
}

impl Publisher {
    /// `lane` must be one for blob transactions on the client's chain; `quotas` holds the counts, e.g.
    /// `journal.records("blob quota")`.
    pub fn new(
        lane: Arc<TxLane>,
        client: Arc<dyn HostClient>,
        quotas: Records,
        config: PublisherConfig,
    ) -> Self {
        let PublisherConfig { per_account, newcomer, total, .. } = config;
        let quota = Arc::new(Quota::new(quotas, Limits { per_account, newcomer, total }));
        Self { lane, client, quota, config, room: Semaphore::new(PUBLICATIONS) }
    }

    /// Refuses an account that has less than a blob costs the node: anybody has any number of these for nothing.
    async fn check_means(&self, account: Address) -> Result<(), LcaiError> {
        let balance = self.client.balance(account).await.map_err(|error| {
            tracing::debug!(%error, "balance");
            LcaiError::NotYet("the chain does not tell balances at present".into())
        })?;
        let cost = self.cost().await?;
        if balance >= cost {
            return Ok(());
        }
        let text = format!(
            "account {account} has never had a session and has {balance} wei: less than the {cost} wei of a blob"
        );
        Err(LcaiError::QuotaExceeded(text))
    }

    /// What one blob's transaction costs at the next block's base fees, wei, without a tip.
    async fn cost(&self) -> Result<U256, LcaiError> {
        let (base, blob) = self.lane.base_fees().await.map_err(|error| {
            tracing::debug!(%error, "base fees");
            LcaiError::NotYet("the chain does not tell its fees at present".into())
        })?;
        let gas = U256::from(base).saturating_mul(U256::from(TRANSFER_GAS));
        Ok(gas.saturating_add(U256::from(blob).saturating_mul(U256::from(GAS_PER_BLOB))))
    }
}

/// The node's blobs.
#[derive(Debug)]
pub struct BlobService {
    store: Arc<BlobStore>,
    sources: Vec<Arc<dyn BlobSource>>,
    publisher: Option<Publisher>,
    reads: Semaphore,
    searches: Semaphore,
}

impl BlobService {
    /// Reads from the store, then from `sources` in order. Without a publisher `lcai_publishBlob` is refused.
    pub fn new(
        store: Arc<BlobStore>,
        sources: Vec<Arc<dyn BlobSource>>,
        publisher: Option<Publisher>,
    ) -> Self {
        let (reads, searches) = (Semaphore::new(READS), Semaphore::new(SEARCHES));
        Self { store, sources, publisher, reads, searches }
    }

    /// Whether blobs are posted for users.
    pub const fn publishes(&self) -> bool {
        self.publisher.is_some()
    }

    /// A blob's 131,072 bytes, checked against its versioned hash. `hint` is for sources that know only slots.
    ///
    /// # Errors
    /// `BlobMismatch` when no source has it and one gave other bytes, `NotYet` when a source could not answer, `NotFound`
    /// when the chain carries it and nobody keeps its bytes any more.
    pub async fn get(
        &self,
        versioned_hash: B256,
        hint: Option<BlobHint>,
    ) -> Result<Option<Bytes>, LcaiError> {
        let reading = self.reads.acquire().await.map_err(|_| closed())?;
        let store = Arc::clone(&self.store);
        let kept = blocking(move || store.get(versioned_hash)).await?;
        drop(reading);
        if let Some(blob) = kept {
            return Ok(Some(Bytes::copy_from_slice(blob.as_slice())));
        }
        let _one_of_few = self.searches.acquire().await.map_err(|_| closed())?;
        // One per search, so that its counts are this search's.
        let search = FallbackSource::new(self.sources.clone());
        match search.blob(versioned_hash, hint).await {
            Ok(found) => Ok(found.map(|blob| Bytes::copy_from_slice(blob.as_slice()))),
            Err(error) if search.stats().iter().any(|source| source.wrong > 0) => {
                counter!("lcai_rpc_blobs_wrong_total").increment(1);
                Err(LcaiError::BlobMismatch(error.to_string()))
            }
            Err(error @ BlobError::Gone { .. }) => Err(LcaiError::NotFound(error.to_string())),
            Err(BlobError::Unavailable { .. }) => {
                let text = format!("the places that may have blob {versioned_hash} do not answer; try again");
                Err(LcaiError::NotYet(text))
            }
            Err(error) => Err(fault(&error)),
        }
    }

    /// Posts sealed bytes as one blob of a type-3 transaction from the node's blob account to itself, and answers once
    /// the pool has it; that it is included is seen to afterwards. A `newcomer` never had a session.
    ///
    /// # Errors
    /// `TooLarge`, `QuotaExceeded`, `NotOffered` when there is no blob key or it has no funds, `TransactionRefused`,
    /// `NotYet` when the pool takes longer than a caller is made to wait.
    pub async fn publish(
        &self,
        account: Address,
        newcomer: bool,
        data: Bytes,
    ) -> Result<PublishedBlob, LcaiError> {
        let Some(publisher) = &self.publisher else {
            return Err(no_blob_key());
        };
        if data.len() > MAX_PAYLOAD {
            return Err(LcaiError::TooLarge(format!(
                "a blob carries at most {MAX_PAYLOAD} bytes, this has {}",
                data.len()
            )));
        }
        if data.len() < SEAL_OVERHEAD {
            let text =
                format!("{} bytes are not sealed: nonce and tag alone are {SEAL_OVERHEAD}", data.len());
            return Err(LcaiError::InvalidParams(text));
        }
        if newcomer {
            publisher.check_means(account).await?;
        }
        let _one_of_few = publisher.room.acquire().await.map_err(|_| closed())?;
        let now = unix_now();
        let quota = Arc::clone(&publisher.quota);
        let quota_left = off_thread(move || quota.take(account, newcomer, now)).await??;
        match self.post(publisher, data, now).await {
            Ok((versioned_hash, transaction_hash)) => {
                counter!("lcai_rpc_blobs_published_total").increment(1);
                let cost = publisher.cost().await.unwrap_or_default();
                Ok(PublishedBlob { versioned_hash, transaction_hash, cost, quota_left })
            }
            // It is on its way and will be paid for.
            Err(error @ LcaiError::NotYet(_)) => Err(error),
            Err(error) => {
                let quota = Arc::clone(&publisher.quota);
                off_thread(move || quota.give_back(account, now)).await??;
                Err(error)
            }
        }
    }

    /// What an account may still have published today, and what a blob costs the node now.
    ///
    /// # Errors
    /// `NotOffered` without a blob key, `NotYet` when the chain does not tell its fees.
    pub async fn quota(&self, account: Address) -> Result<BlobQuota, LcaiError> {
        let Some(publisher) = &self.publisher else { return Err(no_blob_key()) };
        let quota = Arc::clone(&publisher.quota);
        let (left, resets_at) = off_thread(move || quota.left(account, unix_now())).await??;
        Ok(BlobQuota {
            left,
            per_account: publisher.config.per_account,
            resets_at,
            max_payload: MAX_PAYLOAD as u64,
            cost: publisher.cost().await?,
        })
    }

    async fn post(&self, publisher: &Publisher, data: Bytes, now: u64) -> Result<(B256, B256), LcaiError> {
        let form = SidecarForm::at(now, publisher.config.osaka_time);
        let (store, keep_until) = (Arc::clone(&self.store), now.saturating_add(publisher.config.keep));
        let (hash, sidecar) = blocking(move || prepare(&store, &data, form, keep_until)).await?;
        let to_self = TxSpec::blob(publisher.lane.account(), Bytes::new(), sidecar);
        let taken = publisher.lane.submit(TxSpec { gas_limit: Some(TRANSFER_GAS), ..to_self });
        match timeout(publisher.config.patience, taken).await {
            Ok(Ok((transaction, included))) => {
                // The caller goes on with submitJob; that the blob is included is seen to here.
                tokio::spawn(async move {
                    if let Err(error) = included.await {
                        tracing::warn!(%error, %hash, "a published blob was not included");
                        counter!("lcai_rpc_blobs_not_included_total").increment(1);
                    }
                });
                Ok((hash, transaction))
            }
            Ok(Err(error)) => Err(refused(&error, hash)),
            Err(_) => Err(LcaiError::NotYet(format!("blob {hash} waits to be sent"))),
        }
    }
}

/// Builds the blob, keeps it, and proves it: a good part of a second of work.
fn prepare(
    store: &BlobStore,
    data: &[u8],
    form: SidecarForm,
    keep_until: u64,
) -> Result<(B256, BlobTransactionSidecarVariant), BlobError> {
    let blob = encode(data)?;
    let hash = blob_versioned_hash(&blob)?;
    store.insert(hash, &blob, keep_until)?;
    Ok((hash, build_sidecar(vec![*blob], form)?))
}

fn refused(error: &LaneError, hash: B256) -> LcaiError {
    tracing::warn!(%error, %hash, "a blob could not be published");
    match error {
        LaneError::Underfunded { .. } => {
            LcaiError::NotOffered("this node's blob account is out of funds".into())
        }
        LaneError::NotIncluded { .. } => {
            LcaiError::NotYet(format!("blob {hash} is sent and not included yet"))
        }
        other => LcaiError::TransactionRefused(format!("blob {hash} was not published: {other}")),
    }
}

fn fault(error: &BlobError) -> LcaiError {
    tracing::error!(%error, "blobs");
    LcaiError::Internal("the node's blob store failed".into())
}

fn no_blob_key() -> LcaiError {
    LcaiError::NotOffered("this node publishes no blobs: it has no blob key".into())
}

fn closed() -> LcaiError {
    LcaiError::Internal("the node is shutting down".into())
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LcaiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| closed())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, LcaiError> {
    off_thread(work).await?.map_err(|e| fault(&e))
}
