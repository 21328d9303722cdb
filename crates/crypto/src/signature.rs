//! secp256k1 signatures over 32-byte hashes: r(32) ‖ s(32) ‖ v.
//!
//! v may be 0, 1, 27 or 28 (live workers do not add 27); s in the upper half of the order is refused, as OpenZeppelin's
//! ECDSA refuses it, so that every signature has one spelling.

use alloy_primitives::{Address, B256, FixedBytes, Signature, eip191_hash_message};
use alloy_signer::SignerSync;

/// Why a signature is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Another length.
    #[error("a signature is 65 bytes, this is {0}")]
    BadLength(usize),
    /// v is none of 0, 1, 27, 28.
    #[error("v is 0, 1, 27 or 28, this is {0}")]
    BadV(u8),
    /// s is in the upper half of the group order.
    #[error("s is in the upper half of the group order")]
    HighS,
    /// No key gives this signature.
    #[error("the signature recovers to no key")]
    NoKey,
    /// The signer failed.
    #[error("the key could not sign")]
    Signer,
}

/// Parses r ‖ s ‖ v.
///
/// # Errors
/// On another length, an unknown v, or a high s.
pub fn parse_signature(bytes: &[u8]) -> Result<Signature, SignatureError> {
    let Some((&v, rs)) = bytes.split_last().filter(|_| bytes.len() == 65) else {
        return Err(SignatureError::BadLength(bytes.len()));
    };
    let odd_y = match v {
        0 | 27 => false,
        1 | 28 => true,
        _ => return Err(SignatureError::BadV(v)),
    };
    let signature = Signature::from_bytes_and_parity(rs, odd_y);
    if signature.normalize_s().is_some() { Err(SignatureError::HighS) } else { Ok(signature) }
}

/// Who signed this hash.
///
/// # Errors
/// When the signature is malformed.
pub fn recover_typed(hash: B256, signature: &[u8]) -> Result<Address, SignatureError> {
    parse_signature(signature)?.recover_address_from_prehash(&hash).map_err(|_| SignatureError::NoKey)
}

/// Who signed this message with `personal_sign` (EIP-191).
///
/// # Errors
/// When the signature is malformed.
pub fn recover_eip191(message: &[u8], signature: &[u8]) -> Result<Address, SignatureError> {
    recover_typed(eip191_hash_message(message), signature)
}

/// Signs a hash (EIP-712 signing hashes and the like); v is 27 or 28, as contracts want it.
///
/// # Errors
/// When the signer fails.
pub fn sign_typed<S: SignerSync>(signer: &S, hash: B256) -> Result<FixedBytes<65>, SignatureError> {
    let signature = signer.sign_hash_sync(&hash).map_err(|_| SignatureError::Signer)?;
    Ok(FixedBytes(signature.normalized_s().as_bytes()))
}

/// Signs a message as `personal_sign` does (EIP-191); v is 27 or 28.
///
/// # Errors
/// When the signer fails.
pub fn sign_eip191<S: SignerSync>(signer: &S, message: &[u8]) -> Result<FixedBytes<65>, SignatureError> {
    sign_typed(signer, eip191_hash_message(message))
}

/// The same signature with v 27 or 28, as contracts want it.
///
/// # Errors
/// When it is malformed.
pub fn for_contract(signature: &[u8]) -> Result<FixedBytes<65>, SignatureError> {
    Ok(FixedBytes(parse_signature(signature)?.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{U256, uint};
    use alloy_signer_local::PrivateKeySigner;
    use proptest::prelude::*;

    #[test]
    fn signs_and_recovers() {
        let signer = PrivateKeySigner::random();
        let signature = sign_eip191(&signer, b"hello").unwrap();
        assert!(matches!(signature[64], 27 | 28));
        assert_eq!(recover_eip191(b"hello", signature.as_slice()), Ok(signer.address()));
        assert_ne!(recover_eip191(b"hullo", signature.as_slice()), Ok(signer.address()));
        let hash = B256::repeat_byte(7);
        assert_eq!(recover_typed(hash, sign_typed(&signer, hash).unwrap().as_slice()), Ok(signer.address()));
    }

    #[test]
    fn both_spellings_of_v_and_no_other() {
        let signer = PrivateKeySigner::random();
        let hash = B256::repeat_byte(7);
        let signature = sign_typed(&signer, hash).unwrap();
        for v in 0..=255u8 {
            let mut other = signature;
            other[64] = v;
            let recovered = recover_typed(hash, other.as_slice());
            if v == signature[64] || v == signature[64] - 27 {
                assert_eq!(recovered, Ok(signer.address()));
                assert_eq!(for_contract(other.as_slice()), Ok(signature));
            } else if matches!(v, 0 | 1 | 27 | 28) {
                assert_ne!(recovered, Ok(signer.address()));
            } else {
                assert_eq!(recovered, Err(SignatureError::BadV(v)));
            }
        }
    }

    /// (r, n - s, 1 - v) is the same signature in another spelling.
    #[test]
    fn high_s_is_refused() {
        let order = uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256);
        let signer = PrivateKeySigner::random();
        let hash = B256::repeat_byte(7);
        let mut signature = sign_typed(&signer, hash).unwrap();
        let s = U256::from_be_slice(&signature[32..64]);
        signature[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
        signature[64] = 55 - signature[64];
        assert_eq!(recover_typed(hash, signature.as_slice()), Err(SignatureError::HighS));
    }

    proptest! {
        #[test]
        fn any_bytes_recover_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80), hash: [u8; 32]) {
            let recovered = recover_typed(hash.into(), &bytes);
            if bytes.len() != 65 {
                prop_assert_eq!(recovered, Err(SignatureError::BadLength(bytes.len())));
            }
        }
    }
}
