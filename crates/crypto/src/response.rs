//! The worker's signature over a response (live wire format, section 6.1).
//!
//! inner = keccak256(abi.encode(uint256 chainId, address jobRegistry, uint256 jobId, uint256 sessionId, bytes
//! ciphertext)); signed is its EIP-191 form. A signature over any other ciphertext for the same job is slashing evidence
//! (`disputeResponseMismatch`), so nothing but a final response is ever signed this way.

use crate::signature::{SignatureError, recover_typed, sign_typed};
use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256, eip191_hash_message, keccak256};
use alloy_signer::SignerSync;
use alloy_sol_types::SolValue;
use lcai_primitives::{JobId, SessionId};

/// The inner digest.
pub fn response_digest(
    chain_id: u64,
    job_registry: Address,
    job: JobId,
    session: SessionId,
    ciphertext: &[u8],
) -> B256 {
    let fields =
        (U256::from(chain_id), job_registry, job.word(), session.word(), Bytes::copy_from_slice(ciphertext));
    keccak256(fields.abi_encode_params())
}

/// The 32 bytes that are signed: keccak256("\x19Ethereum Signed Message:\n32" ‖ inner).
pub fn response_signing_hash(inner: B256) -> B256 {
    eip191_hash_message(inner)
}

/// Signs a response for its terminal frame; v is 0 or 1 there, as live workers send it.
///
/// # Errors
/// When the signer fails.
pub fn sign_response<S: SignerSync>(
    signer: &S,
    chain_id: u64,
    job_registry: Address,
    job: JobId,
    session: SessionId,
    ciphertext: &[u8],
) -> Result<FixedBytes<65>, SignatureError> {
    let inner = response_digest(chain_id, job_registry, job, session, ciphertext);
    let mut signature = sign_typed(signer, response_signing_hash(inner))?;
    if let Some(v) = signature.last_mut() {
        *v = v.saturating_sub(27);
    }
    Ok(signature)
}

/// Who signed this response.
///
/// # Errors
/// When the signature is malformed.
pub fn recover_response(
    chain_id: u64,
    job_registry: Address,
    job: JobId,
    session: SessionId,
    ciphertext: &[u8],
    signature: &[u8],
) -> Result<Address, SignatureError> {
    let inner = response_digest(chain_id, job_registry, job, session, ciphertext);
    recover_typed(response_signing_hash(inner), signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{address, b256, hex};
    use alloy_signer_local::PrivateKeySigner;
    use proptest::prelude::*;

    const REGISTRY: Address = address!("9A9f2CCfdE556A7E9Ff0848998Aa4a0CFD8863AE");
    const KEY: B256 = b256!("5de4111add3b4a65ca9b8a29b02c1c88a5b9e45e4b46f5a4d39d2e5f5c2e3d54");

    #[test]
    fn known_answer() {
        let ciphertext = hex!("deadbeef");
        let inner = response_digest(48221, REGISTRY, JobId(141), SessionId(7), &ciphertext);
        assert_eq!(inner, b256!("e44b43aaf76ab55c4361fe64889e07cbdd3a5fe3f8d17ac0ca197492698f4d4e"));
        assert_eq!(
            response_signing_hash(inner),
            b256!("8f679efa40373102e743d51d36126765aed416e91482f5c187590d8efd20d69a")
        );
        assert_eq!(
            keccak256(ciphertext),
            b256!("d4fd4e189132273036449fc9e11198c739161b4c0116a9a2dccdfa1c492006f1")
        );
        let signer = PrivateKeySigner::from_bytes(&KEY).unwrap();
        let signature =
            sign_response(&signer, 48221, REGISTRY, JobId(141), SessionId(7), &ciphertext).unwrap();
        assert!(signature[64] <= 1);
        let recover =
            |sig: &[u8]| recover_response(48221, REGISTRY, JobId(141), SessionId(7), &ciphertext, sig);
        assert_eq!(recover(signature.as_slice()), Ok(signer.address()));
        let mut plus27 = signature;
        plus27[64] += 27;
        assert_eq!(recover(plus27.as_slice()), Ok(signer.address()));
    }

    /// A signature for one job must be worth nothing for another.
    #[test]
    fn every_field_is_bound() {
        let signer = PrivateKeySigner::random();
        let sig = sign_response(&signer, 1, REGISTRY, JobId(2), SessionId(3), b"c").unwrap();
        let own = Ok(signer.address());
        assert_eq!(recover_response(1, REGISTRY, JobId(2), SessionId(3), b"c", sig.as_slice()), own);
        assert_ne!(recover_response(9, REGISTRY, JobId(2), SessionId(3), b"c", sig.as_slice()), own);
        assert_ne!(recover_response(1, Address::ZERO, JobId(2), SessionId(3), b"c", sig.as_slice()), own);
        assert_ne!(recover_response(1, REGISTRY, JobId(9), SessionId(3), b"c", sig.as_slice()), own);
        assert_ne!(recover_response(1, REGISTRY, JobId(2), SessionId(9), b"c", sig.as_slice()), own);
        assert_ne!(recover_response(1, REGISTRY, JobId(2), SessionId(3), b"d", sig.as_slice()), own);
        assert_ne!(recover_response(1, REGISTRY, JobId(3), SessionId(2), b"c", sig.as_slice()), own);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_response_recovers_its_signer(chain: u64, job: u64, session: u64, c in proptest::collection::vec(any::<u8>(), 0..300)) {
            let signer = PrivateKeySigner::random();
            let (job, session) = (JobId(job), SessionId(session));
            let sig = sign_response(&signer, chain, REGISTRY, job, session, &c).unwrap();
            prop_assert_eq!(recover_response(chain, REGISTRY, job, session, &c, sig.as_slice()), Ok(signer.address()));
        }
    }
}
