//! The mac on streamed chunks: lets the user see that the relay dropped, reordered or made up nothing.
//!
//! key = HKDF-SHA256(salt none, ikm session key, info "lcai chunk v1"), 32 bytes.
//! mac(seq) = HMAC-SHA256(key, job id (u64, big-endian) ‖ seq (u32, big-endian) ‖ previous mac (32 bytes, zeros before
//! the first) ‖ payload). Sequence numbers run 1, 2, 3, ... over all kinds of chunk.
//!
//! A mac, not a signature: a signature over chunks would be slashing evidence against an honest worker.

use crate::seal::SessionKey;
use alloy_primitives::B256;
use hkdf::Hkdf;
use hmac::{Hmac, Mac, digest::KeyInit};
use lcai_primitives::JobId;
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const INFO: &[u8] = b"lcai chunk v1";

/// Why a chunk does not continue the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkMacError {
    /// A chunk is missing, repeated or out of place.
    #[error("chunk {expected} is next, this is chunk {got}")]
    OutOfOrder {
        /// The chain's next sequence number.
        expected: u32,
        /// The chunk's.
        got: u32,
    },
    /// Not the payload the worker sent.
    #[error("the mac of chunk {0} does not match")]
    Mismatch(u32),
    /// No sequence number is left.
    #[error("the chain is at its end")]
    Exhausted,
}

/// The macs of one job's chunks, for the worker that makes them and for the user who checks them.
#[derive(Clone)]
pub struct ChunkMacChain {
    /// 32 bytes and HMAC's zero padding to its block.
    key: Zeroizing<[u8; 64]>,
    job: JobId,
    next: u32,
    previous: B256,
}

impl fmt::Debug for ChunkMacChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkMacChain(job {}, next {})", self.job, self.next)
    }
}

impl ChunkMacChain {
    /// A chain before its first chunk.
    #[allow(clippy::expect_used)]
    pub fn new(session_key: &SessionKey, job: JobId) -> Self {
        let mut key = Zeroizing::new([0; 64]);
        let (derived, _padding) = key.split_at_mut(32);
        Hkdf::<Sha256>::new(None, session_key.expose())
            .expand(INFO, derived)
            .expect("HKDF-SHA256 gives up to 8160 bytes, 32 are asked for");
        Self { key, job, next: 1, previous: B256::ZERO }
    }

    /// The sequence number the next chunk has.
    pub const fn next_seq(&self) -> u32 {
        self.next
    }

    /// The mac of the next chunk, and a step forward.
    ///
    /// # Errors
    /// After 2^32 - 2 chunks.
    pub fn append(&mut self, payload: &[u8]) -> Result<B256, ChunkMacError> {
        let after = self.next.checked_add(1).ok_or(ChunkMacError::Exhausted)?;
        let mac = self.mac(payload);
        self.next = after;
        self.previous = mac;
        Ok(mac)
    }

    /// Checks a received chunk, and steps forward if it is the next one. A refused chunk leaves the chain as it is.
    ///
    /// # Errors
    /// When the chunk is not the next or its mac does not match.
    pub fn verify(&mut self, seq: u32, payload: &[u8], mac: &B256) -> Result<(), ChunkMacError> {
        if seq != self.next {
            return Err(ChunkMacError::OutOfOrder { expected: self.next, got: seq });
        }
        let after = self.next.checked_add(1).ok_or(ChunkMacError::Exhausted)?;
        let expected = self.mac(payload);
        if !bool::from(expected.as_slice().ct_eq(mac.as_slice())) {
            return Err(ChunkMacError::Mismatch(seq));
        }
        self.next = after;
        self.previous = expected;
        Ok(())
    }

    fn mac(&self, payload: &[u8]) -> B256 {
        let mut mac = <Hmac<Sha256> as KeyInit>::new((&*self.key).into());
        mac.update(&self.job.0.to_be_bytes());
        mac.update(&self.next.to_be_bytes());
        mac.update(self.previous.as_slice());
        mac.update(payload);
        B256::from_slice(&mac.finalize().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{b256, hex};
    use proptest::prelude::*;

    /// Computed with Python's hmac and hashlib.
    #[test]
    fn vector() {
        let key =
            SessionKey::from_slice(&hex!("3f3af1ecebbd1410ab417ec0d27bbfcb5d340e177ae159b59fc8626c2dfd9175"))
                .unwrap();
        let mut chain = ChunkMacChain::new(&key, JobId(141));
        assert_eq!(chain.key[..32], hex!("4c13ada7521c0583867d1225db272b37f7d61350534b45c38348550470d5cd3a"));
        let first = hex!("626e1e3b6935c66a2c8ab9c837138694ff22fc18d7ebf435a675be9b8613948655");
        assert_eq!(
            chain.append(&first).unwrap(),
            b256!("fbbdefcbbfbc4f37b224cf8fb5cee948d4b65b258d2cb0addc3a53a45d77d50a")
        );
        assert_eq!(
            chain.append(b"").unwrap(),
            b256!("b6a5e2582cc2b7d0709cd12058b5368ccfa27fb46b1e85c004acf3d79558d8bd")
        );
        assert_eq!(
            chain.append(b"third").unwrap(),
            b256!("8dac848321adc555e750f1345ac08549e1e31bbd7f32683d6daf0ff681d41ee3")
        );
    }

    #[test]
    fn a_relay_cannot_drop_repeat_reorder_or_invent() {
        let key = SessionKey::random();
        let mut worker = ChunkMacChain::new(&key, JobId(1));
        let chunks: Vec<_> =
            [b"one", b"two", b"six"].iter().map(|p| (*p, worker.append(*p).unwrap())).collect();
        let mut user = ChunkMacChain::new(&key, JobId(1));
        assert_eq!(
            user.verify(2, chunks[1].0, &chunks[1].1),
            Err(ChunkMacError::OutOfOrder { expected: 1, got: 2 })
        );
        assert_eq!(user.verify(1, chunks[1].0, &chunks[1].1), Err(ChunkMacError::Mismatch(1)));
        assert_eq!(user.verify(1, b"won", &chunks[0].1), Err(ChunkMacError::Mismatch(1)));
        assert_eq!(user.verify(1, chunks[0].0, &chunks[0].1), Ok(()));
        assert_eq!(
            user.verify(1, chunks[0].0, &chunks[0].1),
            Err(ChunkMacError::OutOfOrder { expected: 2, got: 1 })
        );
        assert_eq!(user.verify(2, chunks[1].0, &chunks[1].1), Ok(()));
        assert_eq!(user.verify(3, chunks[2].0, &chunks[2].1), Ok(()));
        let mut other_job = ChunkMacChain::new(&key, JobId(2));
        assert_eq!(other_job.verify(1, chunks[0].0, &chunks[0].1), Err(ChunkMacError::Mismatch(1)));
        let mut other_session = ChunkMacChain::new(&SessionKey::random(), JobId(1));
        assert_eq!(other_session.verify(1, chunks[0].0, &chunks[0].1), Err(ChunkMacError::Mismatch(1)));
    }

    #[test]
    fn the_chain_ends_without_wrapping() {
        let mut chain = ChunkMacChain::new(&SessionKey::random(), JobId(1));
        chain.next = u32::MAX;
        assert_eq!(chain.append(b""), Err(ChunkMacError::Exhausted));
        assert_eq!(chain.verify(u32::MAX, b"", &B256::ZERO), Err(ChunkMacError::Exhausted));
    }

    proptest! {
        #[test]
        fn honest_streams_verify(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..20)) {
            let key = SessionKey::random();
            let (mut worker, mut user) = (ChunkMacChain::new(&key, JobId(9)), ChunkMacChain::new(&key, JobId(9)));
            for payload in &payloads {
                let seq = worker.next_seq();
                let mac = worker.append(payload).unwrap();
                prop_assert_eq!(user.verify(seq, payload, &mac), Ok(()));
            }
        }
    }
}
