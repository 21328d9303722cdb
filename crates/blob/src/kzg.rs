//! KZG commitments and versioned hashes (EIP-4844; live wire format, section 4).

use crate::error::BlobError;
use alloy_eips::eip4844::{AsCkzg, Blob, Bytes48, env_settings::EnvKzgSettings, kzg_to_versioned_hash};
use alloy_primitives::B256;
use c_kzg::KzgSettings;

/// The trusted setup, loaded once per process. The same one the execution client's own code uses, so that a node that
/// holds both loads it once.
pub(crate) fn settings() -> &'static KzgSettings {
    static SETTINGS: EnvKzgSettings = EnvKzgSettings::Default;
    SETTINGS.get()
}

/// Loads the trusted setup now (a second or so) instead of at the first blob. Blocking: call it off the async runtime.
pub fn warm() {
    settings();
}

/// 0x01 ‖ sha256(commitment)\[1..\].
pub fn versioned_hash(commitment: &Bytes48) -> B256 {
    kzg_to_versioned_hash(commitment.as_slice())
}

/// The commitment to a blob.
///
/// # Errors
/// When a field element is not below the modulus.
pub fn commit(blob: &Blob) -> Result<Bytes48, BlobError> {
    settings()
        .blob_to_kzg_commitment(blob.as_ckzg())
        .map(|commitment| Bytes48::from_ckzg(commitment.to_bytes()))
        .map_err(|e| BlobError::Kzg(format!("{e:?}")))
}

/// The versioned hash of a blob, by committing to it.
///
/// # Errors
/// As [`commit`].
pub fn blob_versioned_hash(blob: &Blob) -> Result<B256, BlobError> {
    commit(blob).map(|commitment| versioned_hash(&commitment))
}

/// Checks that a blob is the one a versioned hash names, by recomputing the commitment.
///
/// # Errors
/// [`BlobError::HashMismatch`], or as [`commit`].
pub fn verify(blob: &Blob, expected: B256) -> Result<(), BlobError> {
    let actual = blob_versioned_hash(blob)?;
    if actual == expected { Ok(()) } else { Err(BlobError::HashMismatch { expected, actual }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use alloy_primitives::b256;

    #[test]
    fn versioned_hash_vector() {
        let commitment = Bytes48::from_slice(&(0..48).collect::<Vec<_>>());
        assert_eq!(
            versioned_hash(&commitment),
            b256!("01bdc2b2b62cb00749785bc84202236dbc3777d74660611b8e58812f0cfde6c3")
        );
    }

    /// The commitment to zero is the point at infinity, whose versioned hash is well known.
    #[test]
    fn zero_blob() {
        let blob = Box::new(Blob::ZERO);
        let commitment = commit(&blob).unwrap();
        assert_eq!(commitment[0], 0xc0);
        assert!(commitment[1..].iter().all(|b| *b == 0));
        assert_eq!(
            versioned_hash(&commitment),
            b256!("010657f37554c781402a22917dee2f75def7ab966d7b770905398eba3c444014")
        );
    }

    #[test]
    fn another_blob_is_not_the_one_asked_for() {
        let (blob, other) = (encode(b"one").unwrap(), encode(b"two").unwrap());
        let hash = blob_versioned_hash(&blob).unwrap();
        assert!(verify(&blob, hash).is_ok());
        assert!(
            matches!(verify(&other, hash), Err(BlobError::HashMismatch { expected, .. }) if expected == hash)
        );
    }

    #[test]
    fn elements_above_the_modulus_are_refused() {
        let blob = Box::new(Blob::repeat_byte(0xff));
        assert!(matches!(commit(&blob), Err(BlobError::Kzg(_))));
    }
}
