//! Session-key wrap, sealing, response digest and signature, chunk macs, answer tags, keystores.
//!
//! Nothing here logs, and no error or `Debug` carries a key or a plaintext. Secrets are zeroized when dropped.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod answer_tag;
pub mod chunk_mac;
pub mod core_dumps;
pub mod encryption_key;
pub mod keystore;
pub mod response;
pub mod seal;
pub mod signature;
pub mod wrap;

pub use answer_tag::answer_tag;
pub use chunk_mac::{ChunkMacChain, ChunkMacError};
pub use core_dumps::forbid_core_dumps;
pub use encryption_key::{EncryptionKeyError, EncryptionPublicKey, EncryptionSecret};
pub use keystore::{KdfCost, KeystoreError};
pub use response::{recover_response, response_digest, response_signing_hash, sign_response};
pub use seal::{MAX_PLAINTEXT, SEAL_OVERHEAD, SealError, SessionKey, open, seal};
pub use signature::{SignatureError, recover_eip191, recover_typed, sign_eip191, sign_typed};
pub use wrap::{WRAPPED_LEN, WrapError, unwrap, wrap};

pub use zeroize::Zeroizing;
