//! AES-256-GCM as the network uses it (live wire format, section 1): nonce(12) ‖ ciphertext ‖ tag(16), no additional data.

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, AeadInPlace},
};
use rand::{RngCore, rngs::OsRng};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// Bytes a seal adds.
pub const SEAL_OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// Longest plaintext whose sealed form fits in a blob.
pub const MAX_PLAINTEXT: usize = lcai_primitives::frames::MAX_COMPLETE_PAYLOAD - SEAL_OVERHEAD;

/// Why bytes cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Shorter than a nonce.
    #[error("sealed data is at least {SEAL_OVERHEAD} bytes, this is {0}")]
    TooShort(usize),
    /// The tag does not match: another key, or altered bytes.
    #[error("does not open: another key, or altered data")]
    BadTag,
    /// Longer than AES-GCM can seal.
    #[error("too long to seal")]
    TooLong,
    /// A key of another length than 32 bytes.
    #[error("a session key is 32 bytes, this is {0}")]
    BadKeyLength(usize),
}

/// A session's AES-256 key. Zeroized on drop; never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey([u8; 32]);

impl PartialEq for SessionKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SessionKey {}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

impl SessionKey {
    /// A fresh key from the system's generator.
    pub fn random() -> Self {
        let mut key = Self([0; 32]);
        OsRng.fill_bytes(&mut key.0);
        key
    }

    /// From its bytes.
    ///
    /// # Errors
    /// When they are not 32.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, SealError> {
        bytes.try_into().map(Self).map_err(|_| SealError::BadKeyLength(bytes.len()))
    }

    /// The key itself. Store it only encrypted, send it only wrapped.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&self.0).into())
    }
}

/// Seals `plaintext` under a fresh nonce; `plaintext.len() + 28` bytes.
///
/// # Errors
/// Only above 64 GiB.
pub fn seal(key: &SessionKey, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_LEN];
    OsRng.fill_bytes(&mut nonce);
    seal_with_nonce(key, nonce, plaintext)
}

/// Only for [`seal`], the wrap and vectors: a nonce used twice under one key gives both plaintexts away.
pub(crate) fn seal_with_nonce(
    key: &SessionKey,
    nonce: [u8; NONCE_LEN],
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut out = Vec::with_capacity(plaintext.len() + SEAL_OVERHEAD);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plaintext);
    let (_, body) = out.split_at_mut(NONCE_LEN);
    let tag = key
        .cipher()
        .encrypt_in_place_detached(&Nonce::from(nonce), &[], body)
        .map_err(|_| SealError::TooLong)?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// Opens sealed bytes.
///
/// # Errors
/// When they are too short, altered, or sealed under another key.
pub fn open(key: &SessionKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    if sealed.len() < SEAL_OVERHEAD {
        return Err(SealError::TooShort(sealed.len()));
    }
    let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(SealError::TooShort(sealed.len()))?;
    key.cipher().decrypt(&Nonce::from(*nonce), body).map(Zeroizing::new).map_err(|_| SealError::BadTag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{b256, hex, keccak256};
    use proptest::prelude::*;

    /// Live wire format, section 2: "Paris" under the vector's session key.
    #[test]
    fn vector() {
        let key = SessionKey(hex!("3f3af1ecebbd1410ab417ec0d27bbfcb5d340e177ae159b59fc8626c2dfd9175"));
        let sealed = seal_with_nonce(&key, hex!("626e1e3b6935c66a2c8ab9c8"), b"Paris").unwrap();
        assert_eq!(sealed, hex!("626e1e3b6935c66a2c8ab9c837138694ff22fc18d7ebf435a675be9b8613948655"));
        assert_eq!(
            keccak256(&sealed),
            b256!("267a1a3bdd12c8323c58c1da19694b3a2b04c5f3f56dedb2b302c781ed43b114")
        );
        assert_eq!(open(&key, &sealed).unwrap().as_slice(), b"Paris");
    }

    #[test]
    fn limits() {
        let key = SessionKey::random();
        let empty = seal(&key, b"").unwrap();
        assert_eq!(empty.len(), SEAL_OVERHEAD);
        assert_eq!(open(&key, &empty).unwrap().as_slice(), b"");
        for n in 0..SEAL_OVERHEAD {
            assert_eq!(open(&key, &empty[..n]), Err(SealError::TooShort(n)));
        }
        for n in [0, 16, 31, 33] {
            assert_eq!(SessionKey::from_slice(&vec![0; n]), Err(SealError::BadKeyLength(n)));
        }
        assert_eq!(seal(&key, &vec![0; MAX_PLAINTEXT]).unwrap().len(), 126_972);
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", SessionKey([0x41; 32])), "SessionKey(..)");
    }

    proptest! {
        #[test]
        fn round_trips_and_uses_fresh_nonces(plain in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let key = SessionKey::random();
            let (a, b) = (seal(&key, &plain).unwrap(), seal(&key, &plain).unwrap());
            prop_assert_ne!(&a[..12], &b[..12]);
            prop_assert_eq!(open(&key, &a).unwrap().to_vec(), plain);
        }

        #[test]
        fn any_altered_bit_is_noticed(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            at: prop::sample::Index,
            bit in 0..8,
        ) {
            let key = SessionKey::random();
            let mut sealed = seal(&key, &plain).unwrap();
            let i = at.index(sealed.len());
            sealed[i] ^= 1u8 << bit;
            prop_assert_eq!(open(&key, &sealed), Err(SealError::BadTag));
        }

        #[test]
        fn another_key_does_not_open(plain in proptest::collection::vec(any::<u8>(), 0..200)) {
            let sealed = seal(&SessionKey::random(), &plain).unwrap();
            prop_assert_eq!(open(&SessionKey::random(), &sealed), Err(SealError::BadTag));
        }
    }
}
