//! The session key wrapped to a P-256 key (live wire format, section 2).
//!
//! The AES key of the wrap is the raw X coordinate of the ECDH point: no derivation, no hashing. Layout, 125 bytes:
//! ephemeral public key(65) ‖ nonce(12) ‖ encrypted session key(32) ‖ tag(16).

use crate::{
    encryption_key::{EncryptionKeyError, EncryptionPublicKey, EncryptionSecret, PUBLIC_KEY_LEN},
    seal::{SealError, SessionKey, open, seal, seal_with_nonce},
};

/// Length of a wrapped session key.
pub const WRAPPED_LEN: usize = 125;

/// Why a wrapped key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// Another length.
    #[error("a wrapped session key is {WRAPPED_LEN} bytes, this is {0}")]
    BadLength(usize),
    /// The ephemeral key is not a point.
    #[error("wrapped session key: {0}")]
    BadKey(#[from] EncryptionKeyError),
    /// Wrapped to another key, or altered.
    #[error("wrapped session key: {0}")]
    Sealed(#[from] SealError),
}

/// Wraps a session key to a recipient under a fresh ephemeral key.
///
/// # Errors
/// Never in practice; AES-GCM's own failure is passed on instead of panicking.
pub fn wrap(key: &SessionKey, recipient: &EncryptionPublicKey) -> Result<[u8; WRAPPED_LEN], WrapError> {
    let ephemeral = EncryptionSecret::random();
    let wrapping = SessionKey::from_slice(ephemeral.shared_x(recipient).as_slice())?;
    joined(&ephemeral, &seal(&wrapping, key.expose())?)
}

fn joined(ephemeral: &EncryptionSecret, sealed: &[u8]) -> Result<[u8; WRAPPED_LEN], WrapError> {
    let bytes = [ephemeral.public().to_sec1().as_slice(), sealed].concat();
    let length = bytes.len();
    bytes.try_into().map_err(|_| WrapError::BadLength(length))
}

/// With the randomness given: for vectors.
#[cfg_attr(not(test), allow(dead_code))]
fn wrap_with(
    key: &SessionKey,
    recipient: &EncryptionPublicKey,
    ephemeral: &EncryptionSecret,
    nonce: [u8; 12],
) -> Result<[u8; WRAPPED_LEN], WrapError> {
    let wrapping = SessionKey::from_slice(ephemeral.shared_x(recipient).as_slice())?;
    joined(ephemeral, &seal_with_nonce(&wrapping, nonce, key.expose())?)
}

/// Opens a wrapped session key.
///
/// # Errors
/// When it is malformed, altered, or wrapped to another key.
pub fn unwrap(wrapped: &[u8], secret: &EncryptionSecret) -> Result<SessionKey, WrapError> {
    let (ephemeral, sealed) = match wrapped.split_at_checked(PUBLIC_KEY_LEN) {
        Some(parts) if wrapped.len() == WRAPPED_LEN => parts,
        _ => return Err(WrapError::BadLength(wrapped.len())),
    };
    let ephemeral = EncryptionPublicKey::from_sec1(ephemeral)?;
    let wrapping = SessionKey::from_slice(secret.shared_x(&ephemeral).as_slice())?;
    Ok(SessionKey::from_slice(&open(&wrapping, sealed)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::hex;
    use proptest::prelude::*;

    #[test]
    fn vector() {
        let worker = EncryptionSecret::from_slice(&hex!(
            "87eba76e7f3164534045ba922e7770fb58bbd14ad732bbf5ba6f11cc56989e6f"
        ))
        .unwrap();
        let ephemeral = EncryptionSecret::from_slice(&hex!(
            "8341425cafede9d24b0599aefdfdeff1c1526ed75b07217eb99bf8c0b7498b82"
        ))
        .unwrap();
        assert_eq!(
            *ephemeral.shared_x(&worker.public()),
            hex!("e376a39a5a051ba9aef4daec338b9e393956de3a1cefcf9e57a72c74e0ae57d2")
        );
        assert_eq!(*worker.shared_x(&ephemeral.public()), *ephemeral.shared_x(&worker.public()));
        let key =
            SessionKey::from_slice(&hex!("3f3af1ecebbd1410ab417ec0d27bbfcb5d340e177ae159b59fc8626c2dfd9175"))
                .unwrap();
        let wrapped =
            wrap_with(&key, &worker.public(), &ephemeral, hex!("78377b525757b494427f8901")).unwrap();
        assert_eq!(
            hex::encode(wrapped),
            "04f345f6d5fdc84455966c47d97fb43da8a5a63649472beca5b30f1c7ac53dd6d0b8607e08513dba48bc0797c3db23c0442576796183a68d444595b4019b605caa78377b525757b494427f89017f3bd5ab9f1f57b996aed6b3198292d0fb995359ba209f549349111e4099b98faadcaec5ef745d13e02c565dbd8b5ea4"
        );
        assert_eq!(unwrap(&wrapped, &worker).unwrap(), key);
    }

    #[test]
    fn only_the_recipient_opens_it() {
        let (worker, other) = (EncryptionSecret::random(), EncryptionSecret::random());
        let key = SessionKey::random();
        let wrapped = wrap(&key, &worker.public()).unwrap();
        assert_eq!(unwrap(&wrapped, &worker), Ok(key.clone()));
        assert_eq!(unwrap(&wrapped, &other), Err(WrapError::Sealed(SealError::BadTag)));
        assert_ne!(wrap(&key, &worker.public()).unwrap(), wrapped, "a fresh ephemeral key each time");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn altered_wraps_are_refused(at in 0..WRAPPED_LEN, bit in 0..8) {
            let worker = EncryptionSecret::random();
            let mut wrapped = wrap(&SessionKey::random(), &worker.public()).unwrap();
            wrapped[at] ^= 1u8 << bit;
            prop_assert!(unwrap(&wrapped, &worker).is_err());
        }

        #[test]
        fn other_lengths_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assume!(bytes.len() != WRAPPED_LEN);
            prop_assert_eq!(unwrap(&bytes, &EncryptionSecret::random()), Err(WrapError::BadLength(bytes.len())));
        }
    }
}
