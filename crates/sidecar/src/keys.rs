//! The worker's keys.

use alloy_signer_local::PrivateKeySigner;
use lcai_crypto::EncryptionSecret;
use std::fmt;

/// The worker's three keys. Nothing prints them.
#[derive(Clone)]
pub struct WorkerKeys {
    /// The worker's account (secp256k1): stake, acknowledgements, completions, response signatures.
    pub account: PrivateKeySigner,
    /// Posts response blobs (secp256k1). An account of its own, because pools refuse a blob transaction and an ordinary
    /// one in flight from the same account.
    pub blob: PrivateKeySigner,
    /// Opens session keys (P-256).
    pub encryption: EncryptionSecret,
}

impl fmt::Debug for WorkerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerKeys")
            .field("account", &self.account.address())
            .field("blob", &self.blob.address())
            .finish_non_exhaustive()
    }
}
