//! What travels beside a blob transaction: the blobs, their commitments and proofs.
//!
//! Prague pools take one proof per blob (EIP-4844), Osaka pools 128 cell proofs per blob (EIP-7594), and each refuses the
//! other's form; a sender chooses by the fork of the block it aims at.

use crate::{error::BlobError, kzg::settings};
use alloy_eips::{
    eip4844::{Blob, BlobTransactionSidecar},
    eip7594::{BlobTransactionSidecarEip7594, BlobTransactionSidecarVariant},
};
use serde::{Deserialize, Serialize};

/// Which proofs a pool takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SidecarForm {
    /// One proof per blob: Cancun and Prague.
    Eip4844,
    /// Cell proofs: Osaka and later.
    Eip7594,
}

impl SidecarForm {
    /// The form for a block at `timestamp`, given when Osaka begins (both unix seconds; `None` = not scheduled).
    pub fn at(timestamp: u64, osaka_time: Option<u64>) -> Self {
        if osaka_time.is_some_and(|osaka| timestamp >= osaka) { Self::Eip7594 } else { Self::Eip4844 }
    }
}

fn kzg(error: c_kzg::Error) -> BlobError {
    BlobError::Kzg(format!("{error:?}"))
}

/// Builds a sidecar of the given form. Cell proofs take a good part of a second: call it off the async runtime.
///
/// # Errors
/// When a blob has a field element above the modulus.
pub fn build_sidecar(
    blobs: Vec<Blob>,
    form: SidecarForm,
) -> Result<BlobTransactionSidecarVariant, BlobError> {
    match form {
        SidecarForm::Eip4844 => BlobTransactionSidecar::try_from_blobs_with_settings(blobs, settings())
            .map(BlobTransactionSidecarVariant::Eip4844),
        SidecarForm::Eip7594 => {
            BlobTransactionSidecarEip7594::try_from_blobs_with_settings(blobs, settings())
                .map(BlobTransactionSidecarVariant::Eip7594)
        }
    }
    .map_err(kzg)
}

/// Turns a sidecar into the EIP-7594 form, as pools do with a transaction that outlives the fork. One that has it already
/// comes back as it is.
///
/// # Errors
/// When a blob has a field element above the modulus.
pub fn upcast(sidecar: BlobTransactionSidecarVariant) -> Result<BlobTransactionSidecarVariant, BlobError> {
    sidecar.try_convert_into_eip7594_with_settings(settings()).map_err(kzg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{codec::encode, kzg::blob_versioned_hash};

    #[test]
    fn both_forms_name_the_blob_and_prove_it() {
        let blob = *encode(b"a prompt").unwrap();
        let hash = blob_versioned_hash(&blob).unwrap();
        let old = build_sidecar(vec![blob], SidecarForm::Eip4844).unwrap();
        let new = build_sidecar(vec![blob], SidecarForm::Eip7594).unwrap();
        for sidecar in [&old, &new] {
            assert_eq!(sidecar.versioned_hashes().collect::<Vec<_>>(), [hash]);
            sidecar.validate(&[hash], settings()).unwrap();
            assert!(sidecar.validate(&[alloy_primitives::B256::ZERO], settings()).is_err());
        }
        assert_eq!(old.as_eip4844().unwrap().proofs.len(), 1);
        assert_eq!(new.as_eip7594().unwrap().cell_proofs.len(), 128);
        assert_eq!(upcast(old).unwrap(), new);
        assert_eq!(upcast(new.clone()).unwrap(), new);
    }

    #[test]
    fn the_fork_chooses_the_form() {
        assert_eq!(SidecarForm::at(99, Some(100)), SidecarForm::Eip4844);
        assert_eq!(SidecarForm::at(100, Some(100)), SidecarForm::Eip7594);
        assert_eq!(SidecarForm::at(u64::MAX, None), SidecarForm::Eip4844);
    }

    #[test]
    fn impossible_blobs_are_refused() {
        for form in [SidecarForm::Eip4844, SidecarForm::Eip7594] {
            assert!(matches!(build_sidecar(vec![Blob::repeat_byte(0xff)], form), Err(BlobError::Kzg(_))));
        }
    }
}
