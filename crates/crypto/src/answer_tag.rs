//! Naming an answer in public without giving it away.
//!
//! key = HKDF-SHA256(salt none, ikm session key, info "lcai evidence v1"), 32 bytes.
//! tag = HMAC-SHA256(key, job id (u64, big-endian) ‖ answer).
//!
//! A plain hash would do for long answers; that of a short one ("yes") is found by trying.

use crate::seal::SessionKey;
use alloy_primitives::B256;
use hkdf::Hkdf;
use hmac::{Hmac, Mac, digest::KeyInit};
use lcai_primitives::JobId;
use sha2::Sha256;
use zeroize::Zeroizing;

const INFO: &[u8] = b"lcai evidence v1";

/// The tag of an answer's text; only a holder of the session key can tell which answer it is of.
#[allow(clippy::expect_used)]
pub fn answer_tag(session_key: &SessionKey, job: JobId, answer: &str) -> B256 {
    // 32 bytes and HMAC's zero padding to its block.
    let mut key = Zeroizing::new([0u8; 64]);
    let (derived, _padding) = key.split_at_mut(32);
    Hkdf::<Sha256>::new(None, session_key.expose())
        .expand(INFO, derived)
        .expect("HKDF-SHA256 gives up to 8160 bytes, 32 are asked for");
    let mut mac = <Hmac<Sha256> as KeyInit>::new((&*key).into());
    mac.update(&job.0.to_be_bytes());
    mac.update(answer.as_bytes());
    B256::from_slice(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::b256;

    /// Computed with Python's hmac and hashlib from the definition above.
    #[test]
    fn vector() {
        let key = SessionKey::from_slice(&[7; 32]).unwrap();
        let tag = answer_tag(&key, JobId(5), "The capital of France is Paris.");
        assert_eq!(tag, b256!("ef53f67f3663f6af4d426f07cbcefba1d19c5d60f8a44380a6f0c9dce8fdef24"));
    }

    #[test]
    fn key_job_and_answer_all_count() {
        let (key, other) =
            (SessionKey::from_slice(&[7; 32]).unwrap(), SessionKey::from_slice(&[8; 32]).unwrap());
        let tag = answer_tag(&key, JobId(5), "yes");
        assert_eq!(tag, answer_tag(&key, JobId(5), "yes"));
        assert_ne!(tag, answer_tag(&other, JobId(5), "yes"));
        assert_ne!(tag, answer_tag(&key, JobId(6), "yes"));
        assert_ne!(tag, answer_tag(&key, JobId(5), "no"));
    }
}
