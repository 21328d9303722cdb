//! Payloads in and out of blobs.

use alloy_primitives::B256;
use lcai_blob::{
    Blob, BlobError, BlobTransactionSidecarVariant, SidecarForm, blob_versioned_hash, build_sidecar, decode,
    encode, verify,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// The payload of the blob that a versioned hash names, from bytes that claim to be it.
pub(crate) fn open_blob(hash: B256, bytes: &[u8]) -> Result<Vec<u8>, BlobError> {
    let blob = Blob::try_from(bytes).map_err(|_| lcai_blob::CodecError::BadSize(bytes.len()))?;
    verify(&blob, hash)?;
    Ok(decode(bytes)?)
}

/// A payload as a blob with its proofs, and its versioned hash. Takes a good part of a second.
pub(crate) fn seal_blob(
    payload: &[u8],
    form: SidecarForm,
) -> Result<(B256, BlobTransactionSidecarVariant), BlobError> {
    let blob = encode(payload)?;
    let hash = blob_versioned_hash(&blob)?;
    Ok((hash, build_sidecar(vec![*blob], form)?))
}

/// The form of sidecar that the node's pool takes: that of the newest fork, until the pool refuses it.
#[derive(Debug, Default)]
pub(crate) struct PoolForm {
    old: AtomicBool,
}

impl PoolForm {
    pub(crate) fn get(&self) -> SidecarForm {
        if self.old.load(Ordering::Relaxed) { SidecarForm::Eip4844 } else { SidecarForm::Eip7594 }
    }

    /// Tries the other form from now on.
    pub(crate) fn switch(&self) {
        self.old.fetch_xor(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_comes_back_from_its_blob_and_from_no_other() {
        let (hash, sidecar) = seal_blob(b"sealed", SidecarForm::Eip4844).unwrap();
        let BlobTransactionSidecarVariant::Eip4844(sidecar) = sidecar else { panic!("another form") };
        assert_eq!(sidecar.versioned_hashes().collect::<Vec<_>>(), [hash]);
        let mut bytes = sidecar.blobs[0].to_vec();
        assert_eq!(open_blob(hash, &bytes).unwrap(), b"sealed");
        bytes[40] ^= 1;
        assert!(matches!(open_blob(hash, &bytes), Err(BlobError::HashMismatch { .. })));
        assert!(open_blob(hash, &bytes[..64]).is_err());
    }

    #[test]
    fn the_pool_decides_the_form() {
        let form = PoolForm::default();
        assert_eq!(form.get(), SidecarForm::Eip7594);
        form.switch();
        assert_eq!(form.get(), SidecarForm::Eip4844);
        form.switch();
        assert_eq!(form.get(), SidecarForm::Eip7594);
    }
}
