//! What can go wrong between a versioned hash and its blob.

use alloy_primitives::B256;

/// Why a blob cannot be committed to, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The field elements do not hold a payload.
    #[error(transparent)]
    Codec(#[from] crate::codec::CodecError),
    /// A field element is not below the modulus, or the library failed.
    #[error("KZG: {0}")]
    Kzg(String),
    /// These are not the bytes the hash commits to.
    #[error("the blob hashes to {actual}, not to {expected}")]
    HashMismatch {
        /// The versioned hash asked for.
        expected: B256,
        /// The versioned hash of the bytes.
        actual: B256,
    },
    /// A place blobs are read from failed.
    #[error("blob source {source_name}: {reason}")]
    Source {
        /// The place.
        source_name: String,
        /// What it said.
        reason: String,
    },
    /// No place had the blob, and at least one of them failed, so that it may exist.
    #[error("no source gave blob {versioned_hash}: {}", .failures.join("; "))]
    Unavailable {
        /// The versioned hash asked for.
        versioned_hash: B256,
        /// What each failing place said.
        failures: Vec<String>,
    },
    /// The chain carries the blob, and nobody has to keep its bytes any more: there is nothing wrong with it.
    #[error(
        "blob {versioned_hash} is gone: it was in slot {slot}, and {source_name} keeps blobs for {retention} epochs"
    )]
    Gone {
        /// The versioned hash asked for.
        versioned_hash: B256,
        /// Who dropped it.
        source_name: String,
        /// The slot of its block.
        slot: u64,
        /// Epochs for which consensus clients keep blobs.
        retention: u64,
    },
    /// The store is full of blobs that must be kept longer.
    #[error(
        "the blob store holds {used} of {limit} bytes, all to be kept longer than this blob of {size} bytes"
    )]
    Full {
        /// Bytes in use.
        used: u64,
        /// Bytes allowed.
        limit: u64,
        /// Bytes the blob needs.
        size: u64,
    },
    /// The store's file failed.
    #[error("blob store: {0}")]
    Store(#[source] Box<redb::Error>),
    /// Work on another thread did not finish.
    #[error("blob worker thread: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

impl<E: Into<redb::Error>> From<E> for BlobError
where
    E: StoreFailure,
{
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

/// The errors of the store's library; `?` takes them as [`BlobError::Store`].
pub(crate) trait StoreFailure {}

impl StoreFailure for redb::DatabaseError {}
impl StoreFailure for redb::TransactionError {}
impl StoreFailure for redb::TableError {}
impl StoreFailure for redb::StorageError {}
impl StoreFailure for redb::CommitError {}
