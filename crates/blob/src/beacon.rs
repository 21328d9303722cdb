//! Blobs out of the beacon chain, from a consensus client's Beacon API: any client's, as long as it keeps every column.
//!
//! The beacon chain knows blobs by slot. The slot follows from the block's timestamp alone, because a payload's timestamp
//! is its slot's: missed slots have no block and change nothing. The block of the slot says whether the blob is there at
//! all, whatever has become of its bytes since: that tells a blob that is gone from one that never was.

use crate::{
    error::BlobError,
    kzg::{blob_versioned_hash, versioned_hash},
    source::{BlobHint, BlobSource},
};
use alloy_eips::eip4844::{Blob, Bytes48};
use alloy_primitives::{B256, Bytes};
use async_trait::async_trait;
use reqwest::{StatusCode, Url};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::OnceCell;

/// How many slots before that of a hint are looked at: a hint may be of a later block than the blob's.
const SEARCH_SLOTS: u64 = 64;

/// Most bytes of an answer. One blob is 262,144 characters of hex; a client that ignores which one is asked for sends all
/// of the block's.
const MAX_ANSWER: usize = 32 << 20;

/// Tells the time (unix seconds) of the block that includes a blob, where it is known.
pub type Locate = Arc<dyn Fn(B256) -> Option<u64> + Send + Sync>;

/// Where in the beacon chain a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeaconLocation {
    /// The slot of its block.
    pub slot: u64,
    /// Its position among the block's blobs.
    pub index: usize,
}

/// What a beacon chain is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spec {
    /// Unix milliseconds.
    genesis: u64,
    /// Milliseconds.
    slot: u64,
    slots_per_epoch: u64,
    /// Epochs for which a client must keep blobs or their columns.
    retention: u64,
}

impl Spec {
    /// The slot of a block with this timestamp (unix seconds); `None` before genesis.
    fn slot_at(&self, timestamp: u64) -> Option<u64> {
        timestamp.saturating_mul(1000).checked_sub(self.genesis)?.checked_div(self.slot)
    }

    /// Whether clients may have dropped at `now` (unix seconds) what a slot's block carried. The last epoch of the window
    /// counts as past: Prysm drops it when the next blob comes.
    fn is_past_retention(&self, slot: u64, now: u64) -> bool {
        let epoch = |slot: u64| slot.checked_div(self.slots_per_epoch).unwrap_or_default();
        let current = epoch(self.slot_at(now).unwrap_or_default());
        epoch(slot).saturating_add(self.retention) <= current
    }
}

/// A consensus client's Beacon API.
pub struct BeaconSource {
    name: String,
    url: Url,
    http: reqwest::Client,
    locate: Locate,
    spec: OnceCell<Spec>,
    now: fn() -> u64,
}

impl fmt::Debug for BeaconSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeaconSource").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer<T> {
    data: T,
}

/// What an answer of the API carries.
fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<Answer<T>>(body).map(|answer| answer.data)
}

#[derive(Deserialize)]
struct Genesis {
    genesis_time: String,
}

#[derive(Deserialize)]
struct Block {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    blob_kzg_commitments: Vec<Bytes48>,
}

#[derive(Deserialize)]
struct Sidecar {
    index: String,
    blob: Bytes,
}

impl BeaconSource {
    /// The Beacon API at `url`, e.g. `http://127.0.0.1:3500`. `locate` tells where a blob is when nobody gives a hint.
    ///
    /// # Errors
    /// When `url` is not an HTTP address. The text does not repeat it, because it can hold a password.
    pub fn new(url: &str, locate: Locate) -> Result<Self, BlobError> {
        let refused = |reason: String| BlobError::Source { source_name: "beacon node".to_owned(), reason };
        let malformed = || refused("its address is not of the form http://HOST:PORT".to_owned());
        let mut url = Url::parse(url).map_err(|_| malformed())?;
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let host =
            url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")).ok_or_else(malformed)?;
        // Neither user and password nor a path, which can be a key.
        let name = match url.port_or_known_default() {
            Some(port) => format!("beacon node {host}:{port}"),
            None => format!("beacon node {host}"),
        };
        let http = reqwest::Client::builder().build().map_err(|e| refused(e.without_url().to_string()))?;
        Ok(Self { name, url, http, locate, spec: OnceCell::new(), now: unix_now })
    }

    /// Where the blob is, looking back from the block with this timestamp (unix seconds); `None` when no block of the
    /// slots before carries it.
    ///
    /// # Errors
    /// When the client does not answer as the Beacon API says.
    pub async fn location(
        &self,
        versioned_hash: B256,
        timestamp: u64,
    ) -> Result<Option<BeaconLocation>, BlobError> {
        let Some(newest) = self.spec().await?.slot_at(timestamp) else { return Ok(None) };
        for slot in (newest.saturating_sub(SEARCH_SLOTS)..=newest).rev() {
            let commitments = self.commitments(slot).await?;
            if let Some(index) = commitments.iter().position(|c| self::versioned_hash(c) == versioned_hash) {
                return Ok(Some(BeaconLocation { slot, index }));
            }
        }
        Ok(None)
    }

    async fn spec(&self) -> Result<&Spec, BlobError> {
        self.spec.get_or_try_init(|| self.read_spec()).await
    }

    async fn read_spec(&self) -> Result<Spec, BlobError> {
        let genesis: Genesis = self.needed("eth/v1/beacon/genesis").await?;
        let values: BTreeMap<String, serde_json::Value> = self.needed("eth/v1/config/spec").await?;
        let number = |name: &str| values.get(name)?.as_str()?.parse::<u64>().ok();
        let missing = |name: &str| self.failed(format!("its specification has no number {name}"));
        let slot = number("SECONDS_PER_SLOT").map(|seconds| seconds.saturating_mul(1000));
        let slot = slot.or_else(|| number("SLOT_DURATION_MS")).filter(|slot| *slot > 0);
        let blobs = number("MIN_EPOCHS_FOR_BLOB_SIDECARS_REQUESTS");
        let columns = number("MIN_EPOCHS_FOR_DATA_COLUMN_SIDECARS_REQUESTS");
        let genesis: u64 = genesis.genesis_time.parse().map_err(|_| missing("genesis_time"))?;
        Ok(Spec {
            genesis: genesis.saturating_mul(1000),
            slot: slot.ok_or_else(|| missing("SECONDS_PER_SLOT"))?,
            slots_per_epoch: number("SLOTS_PER_EPOCH")
                .filter(|slots| *slots > 0)
                .ok_or_else(|| missing("SLOTS_PER_EPOCH"))?,
            retention: blobs
                .max(columns)
                .ok_or_else(|| missing("MIN_EPOCHS_FOR_DATA_COLUMN_SIDECARS_REQUESTS"))?,
        })
    }

    /// The commitments of a slot's block; none when the slot was missed.
    async fn commitments(&self, slot: u64) -> Result<Vec<Bytes48>, BlobError> {
        // Blinded: with its commitments, without its transactions, which the client would have to fetch.
        let block: Option<Block> = self.get(&format!("eth/v1/beacon/blinded_blocks/{slot}")).await?;
        Ok(block.map(|block| block.message.body.blob_kzg_commitments).unwrap_or_default())
    }

    /// The bytes of a blob that is known to be in the slot's block, where the client still has them.
    async fn fetch(&self, at: BeaconLocation, hash: B256) -> Result<Option<Box<Blob>>, BlobError> {
        let BeaconLocation { slot, index } = at;
        let path = format!("eth/v1/beacon/blobs/{slot}?versioned_hashes={hash}");
        if let Some(blobs) = self.get::<Vec<Bytes>>(&path).await? {
            // A client that knows no filter sends every blob of the block.
            return self.right_one(blobs, hash).await;
        }
        // Clients from before Fulu have sidecars only.
        let path = format!("eth/v1/beacon/blob_sidecars/{slot}?indices={index}");
        let sidecars: Vec<Sidecar> = self.get(&path).await?.unwrap_or_default();
        let wanted = sidecars.into_iter().filter(|sidecar| sidecar.index.parse() == Ok(index));
        self.right_one(wanted.map(|sidecar| sidecar.blob).collect(), hash).await
    }

    /// The blob that the hash names, every commitment recomputed. Where it is not among them, the first one, so that whoever
    /// asked sees that it was given other bytes.
    async fn right_one(&self, blobs: Vec<Bytes>, hash: B256) -> Result<Option<Box<Blob>>, BlobError> {
        let mut read = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let wrong_length = |_| self.failed(format!("gave {} bytes for a blob", blob.len()));
            read.push(Box::new(Blob::try_from(blob.as_ref()).map_err(wrong_length)?));
        }
        let choose = move || {
            let right = |blob: &Blob| blob_versioned_hash(blob).is_ok_and(|actual| actual == hash);
            let position = read.iter().position(|blob| right(blob)).unwrap_or_default();
            (position < read.len()).then(|| read.swap_remove(position))
        };
        Ok(tokio::task::spawn_blocking(choose).await?)
    }

    async fn needed<T: DeserializeOwned>(&self, path: &str) -> Result<T, BlobError> {
        self.get(path).await?.ok_or_else(|| self.failed(format!("has no {path}")))
    }

    /// What the client has under a path; `None` when it says that there is nothing, or knows no such path.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, BlobError> {
        let unreachable = |e: reqwest::Error| self.failed(e.without_url().to_string());
        let url = self.url.join(path).map_err(|e| self.failed(format!("{path}: {e}")))?;
        let mut answer = self.http.get(url).send().await.map_err(unreachable)?;
        let status = answer.status();
        if matches!(
            status,
            StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::GONE
                | StatusCode::BAD_REQUEST
        ) {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(self.failed(format!("answers {path} with HTTP status {status}")));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(self.failed(format!("answers {path} with more than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        parsed(&body)
            .map(Some)
            .map_err(|e| self.failed(format!("answers {path} otherwise than the Beacon API says: {e}")))
    }

    fn failed(&self, reason: String) -> BlobError {
        BlobError::Source { source_name: self.name.clone(), reason }
    }
}

#[async_trait]
impl BlobSource for BeaconSource {
    fn name(&self) -> &str {
        &self.name
    }

    /// `None` when the blob is in no block near the hint, or nothing is known of where it could be.
    ///
    /// # Errors
    /// [`BlobError::Gone`] when a block carries it and the client may have dropped its bytes; otherwise when the client
    /// cannot be asked, or lacks bytes that it should still have.
    async fn blob(
        &self,
        versioned_hash: B256,
        hint: Option<BlobHint>,
    ) -> Result<Option<Box<Blob>>, BlobError> {
        // What we saw ourselves names the very block; a hint can be of a later one, or of another chain.
        let known = (self.locate)(versioned_hash).into_iter().chain(hint.map(|hint| hint.timestamp));
        let mut found = None;
        for timestamp in known {
            found = self.location(versioned_hash, timestamp).await?;
            if found.is_some() {
                break;
            }
        }
        let Some(at) = found else { return Ok(None) };
        if let Some(blob) = self.fetch(at, versioned_hash).await? {
            return Ok(Some(blob));
        }
        let Spec { retention, .. } = *self.spec().await?;
        if self.spec().await?.is_past_retention(at.slot, (self.now)()) {
            let source_name = self.name.clone();
            return Err(BlobError::Gone { versioned_hash, source_name, slot: at.slot, retention });
        }
        Err(self.failed(format!(
            "has the block of slot {} and not its blob: it keeps too few columns (--subscribe-all-data-subnets)",
            at.slot
        )))
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
