//! From hashes on chain to plaintext: blobs fetched, checked, and opened with the escrowed session keys.

use alloy_primitives::{B256, keccak256};
use lcai_blob::{BlobSource, decode};
use lcai_crypto::{EncryptionSecret, SessionKey, Zeroizing, open, unwrap};
use std::{fmt, sync::Arc};
use thiserror::Error;

/// Why a blob does not open. Texts hold nothing of it.
#[derive(Debug, Error)]
pub(crate) enum OpenFault {
    /// No place has it now; one may later.
    #[error("blob {hash} is not available: {reason}")]
    Missing {
        /// The versioned hash.
        hash: B256,
        /// What the places say.
        reason: String,
    },
    /// The blob is there, and its bytes are no payload.
    #[error("blob {hash} holds no payload: {reason}")]
    Framing {
        /// The versioned hash.
        hash: B256,
        /// What was wrong.
        reason: String,
    },
    /// The payload does not open under any key of the session.
    #[error("blob {0} does not open under the session's keys")]
    Sealed(B256),
}

/// Opens the blobs of one session. The keys are wiped when it is dropped.
pub(crate) struct Opening {
    blobs: Arc<dyn BlobSource>,
    keys: Vec<SessionKey>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Opening {
    /// Unwraps the escrowed keys that are wrapped for `secret`; `None` when none is.
    pub(crate) fn escrowed<W: AsRef<[u8]>>(
        wrapped: &[W],
        secret: &EncryptionSecret,
        blobs: Arc<dyn BlobSource>,
    ) -> Option<Self> {
        let keys = wrapped.iter().filter_map(|wrapped| unwrap(wrapped.as_ref(), secret).ok()).collect();
        Self::with_keys(keys, blobs)
    }

    /// With the session's keys themselves; `None` without any.
    pub(crate) fn with_keys(keys: Vec<SessionKey>, blobs: Arc<dyn BlobSource>) -> Option<Self> {
        (!keys.is_empty()).then_some(Self { blobs, keys })
    }

    /// A blob's plaintext and the key it opened under.
    pub(crate) async fn open(&self, hash: B256) -> Result<(Zeroizing<Vec<u8>>, &SessionKey), OpenFault> {
        let sealed = sealed(self.blobs.as_ref(), hash).await?;
        self.unseal(&sealed).ok_or(OpenFault::Sealed(hash))
    }

    /// A sealed payload's plaintext and the key it opened under.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<(Zeroizing<Vec<u8>>, &SessionKey)> {
        self.keys.iter().find_map(|key| open(key, sealed).ok().map(|plain| (plain, key)))
    }
}

/// The payload of a blob, still sealed.
pub(crate) async fn sealed(blobs: &dyn BlobSource, hash: B256) -> Result<Vec<u8>, OpenFault> {
    let missing = |reason: String| OpenFault::Missing { hash, reason };
    let blob = blobs.blob(hash, None).await.map_err(|e| missing(e.to_string()))?;
    let blob = blob.ok_or_else(|| missing("no place has it".to_owned()))?;
    decode(blob.as_slice()).map_err(|e| OpenFault::Framing { hash, reason: e.to_string() })
}

/// Whether a sealed payload is the one that was committed to.
pub(crate) fn is_committed(sealed: &[u8], ciphertext_hash: B256) -> bool {
    keccak256(sealed) == ciphertext_hash
}
