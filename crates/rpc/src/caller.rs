//! Who is calling.

use crate::{
    error::LcaiError,
    tokens::{TokenIssuer, recovered},
    types::{AuthorizationRequest, CallerProof, ReassignmentRequest},
};
use alloy_primitives::{Address, B256};
use lcai_primitives::{
    contracts::Deployment,
    eip712::{self, SessionAuthorization, SessionKeyUpdate},
};

/// How far ahead the expiry of a signature-based proof may lie, seconds.
pub const MAX_PROOF_LIFETIME: u64 = 600;

/// Checks that the caller is the user it asks an authorization for: by a login token, or by the user's EIP-712 signature
/// over `SessionAuthorization` with the same fields.
///
/// # Errors
/// `Expired` for a proof past its time, `InvalidParams` for an expiry too far ahead or a malformed signature,
/// `Unauthorized` otherwise.
pub fn check_proof(
    request: &AuthorizationRequest,
    proof: &CallerProof,
    tokens: &TokenIssuer,
    deployment: &Deployment,
    now: u64,
) -> Result<(), LcaiError> {
    let domain = eip712::domain(deployment.chain_id, deployment.job_registry);
    let caller = caller(proof, tokens, now, |expiry| {
        SessionAuthorization::for_keys(
            request.user,
            request.model_id,
            request.worker,
            &request.enc_worker_key,
            &request.enc_disputer_key,
            request.nonce,
            expiry,
        )
        .signing_hash(&domain)
    })?;
    must_be(caller, request.user)
}

/// Checks that the caller is the owner of the session it asks new keys to be signed for: by a login token, or by the
/// owner's EIP-712 signature over `SessionKeyUpdate` with the same fields.
///
/// # Errors
/// As [`check_proof`].
pub fn check_reassignment_proof(
    user: Address,
    request: &ReassignmentRequest,
    proof: &CallerProof,
    tokens: &TokenIssuer,
    deployment: &Deployment,
    now: u64,
) -> Result<(), LcaiError> {
    let domain = eip712::domain(deployment.chain_id, deployment.job_registry);
    let caller = caller(proof, tokens, now, |expiry| {
        SessionKeyUpdate::for_keys(
            request.session_id,
            request.worker,
            &request.enc_worker_key,
            &request.enc_disputer_key,
            request.nonce,
            expiry,
        )
        .signing_hash(&domain)
    })?;
    must_be(caller, user)
}

/// Whose proof it is; `signed` gives the hash that a signature with an expiry is over.
fn caller(
    proof: &CallerProof,
    tokens: &TokenIssuer,
    now: u64,
    signed: impl FnOnce(u64) -> B256,
) -> Result<Address, LcaiError> {
    let (signature, expiry) = match proof {
        CallerProof::Token { token } => return tokens.verify(token, now),
        CallerProof::Signature { signature, expiry } => (signature, *expiry),
    };
    if expiry <= now {
        return Err(LcaiError::Expired(format!("the proof expired at {expiry}, the time is {now}")));
    }
    if expiry > now.saturating_add(MAX_PROOF_LIFETIME) {
        return Err(LcaiError::InvalidParams(format!(
            "the proof's expiry {expiry} is more than {MAX_PROOF_LIFETIME} seconds ahead of {now}"
        )));
    }
    recovered(lcai_crypto::recover_typed(signed(expiry), signature))
}

fn must_be(caller: Address, user: Address) -> Result<(), LcaiError> {
    if caller == user {
        return Ok(());
    }
    Err(LcaiError::Unauthorized(format!("the proof is of {caller}, the session is {user}'s")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{TokenConfig, TokenKey};
    use alloy_primitives::{Bytes, U256};
    use alloy_signer::SignerSync;
    use alloy_signer_local::PrivateKeySigner;
    use lcai_primitives::ids::{ModelId, SessionId};

    const NOW: u64 = 1_700_000_000;

    fn deployment() -> Deployment {
        Deployment {
            chain_id: 8200,
            worker_registry: Address::repeat_byte(1),
            ai_config: Address::repeat_byte(2),
            job_registry: Address::repeat_byte(3),
            session_manager: None,
            reputation_registry: None,
            canary_ledger: None,
        }
    }

    fn request(user: Address) -> AuthorizationRequest {
        AuthorizationRequest {
            user,
            model_id: ModelId(B256::repeat_byte(4)),
            worker: Address::repeat_byte(5),
            enc_worker_key: vec![6; 125].into(),
            enc_disputer_key: Bytes::new(),
            nonce: U256::from(7),
        }
    }

    fn sign(signer: &PrivateKeySigner, r: &AuthorizationRequest, expiry: u64) -> CallerProof {
        let fields = SessionAuthorization::for_keys(
            r.user,
            r.model_id,
            r.worker,
            &r.enc_worker_key,
            &r.enc_disputer_key,
            r.nonce,
            expiry,
        );
        let hash = fields.signing_hash(&eip712::domain(8200, deployment().job_registry));
        let signature = signer.sign_hash_sync(&hash).unwrap().as_bytes().to_vec().into();
        CallerProof::Signature { signature, expiry }
    }

    fn check(request: &AuthorizationRequest, proof: &CallerProof) -> Result<(), LcaiError> {
        let tokens = TokenIssuer::new(TokenKey::new([1; 32]), 8200, TokenConfig::default());
        check_proof(request, proof, &tokens, &deployment(), NOW)
    }

    #[test]
    fn the_users_signature_over_the_same_fields_counts() {
        let user = PrivateKeySigner::random();
        let request = request(user.address());
        assert_eq!(check(&request, &sign(&user, &request, NOW + 600)), Ok(()));
        let stranger = sign(&PrivateKeySigner::random(), &request, NOW + 60);
        assert!(matches!(check(&request, &stranger), Err(LcaiError::Unauthorized(_))));
        let proof = sign(&user, &request, NOW + 60);
        let others = [
            AuthorizationRequest { worker: Address::repeat_byte(9), ..request.clone() },
            AuthorizationRequest { enc_worker_key: vec![7; 125].into(), ..request.clone() },
            AuthorizationRequest { enc_disputer_key: vec![7; 125].into(), ..request.clone() },
            AuthorizationRequest { nonce: U256::from(8), ..request.clone() },
            AuthorizationRequest { model_id: ModelId(B256::ZERO), ..request },
        ];
        for other in others {
            assert!(matches!(check(&other, &proof), Err(LcaiError::Unauthorized(_))), "{other:?}");
        }
    }

    #[test]
    fn new_keys_need_the_owners_signature_over_just_them() {
        let user = PrivateKeySigner::random();
        let request = ReassignmentRequest {
            session_id: SessionId(9),
            worker: Address::repeat_byte(5),
            enc_worker_key: vec![6; 125].into(),
            enc_disputer_key: Bytes::new(),
            nonce: U256::from(7),
        };
        let signed = |r: &ReassignmentRequest| {
            let keys = (&r.enc_worker_key, &r.enc_disputer_key);
            let update =
                SessionKeyUpdate::for_keys(r.session_id, r.worker, keys.0, keys.1, r.nonce, NOW + 60);
            let hash = update.signing_hash(&eip712::domain(8200, deployment().job_registry));
            let signature = user.sign_hash_sync(&hash).unwrap().as_bytes().to_vec().into();
            CallerProof::Signature { signature, expiry: NOW + 60 }
        };
        let tokens = TokenIssuer::new(TokenKey::new([1; 32]), 8200, TokenConfig::default());
        let check = |owner, r: &ReassignmentRequest, proof: &CallerProof| {
            check_reassignment_proof(owner, r, proof, &tokens, &deployment(), NOW)
        };
        let proof = signed(&request);
        assert_eq!(check(user.address(), &request, &proof), Ok(()));
        assert!(matches!(check(Address::ZERO, &request, &proof), Err(LcaiError::Unauthorized(_))));
        let others = [
            ReassignmentRequest { session_id: SessionId(8), ..request.clone() },
            ReassignmentRequest { enc_worker_key: vec![7; 125].into(), ..request.clone() },
            ReassignmentRequest { nonce: U256::from(8), ..request },
        ];
        for other in others {
            assert!(check(user.address(), &other, &proof).is_err(), "{other:?}");
        }
    }

    #[test]
    fn an_expired_proof_is_told_apart_and_a_new_one_works_at_once() {
        let user = PrivateKeySigner::random();
        let request = request(user.address());
        assert!(matches!(check(&request, &sign(&user, &request, NOW)), Err(LcaiError::Expired(_))));
        assert!(matches!(
            check(&request, &sign(&user, &request, NOW + 601)),
            Err(LcaiError::InvalidParams(_))
        ));
        assert_eq!(check(&request, &sign(&user, &request, NOW + 1)), Ok(()));
    }

    #[test]
    fn a_token_counts_for_its_own_account_only() {
        let (user, issuer) =
            (PrivateKeySigner::random(), TokenIssuer::new(TokenKey::random(), 8200, TokenConfig::default()));
        let message = issuer.challenge(user.address(), NOW).message;
        let signature = user.sign_message_sync(message.as_bytes()).unwrap().as_bytes();
        let proof = CallerProof::Token { token: issuer.login(&message, &signature, NOW).unwrap().token };
        let check = |r: &AuthorizationRequest| check_proof(r, &proof, &issuer, &deployment(), NOW);
        assert_eq!(check(&request(user.address())), Ok(()));
        assert!(matches!(check(&request(Address::repeat_byte(1))), Err(LcaiError::Unauthorized(_))));
    }

    #[test]
    fn a_malformed_signature_is_named() {
        let user = Address::repeat_byte(1);
        let proof = CallerProof::Signature { signature: Bytes::from_static(&[1; 64]), expiry: NOW + 1 };
        assert!(matches!(check(&request(user), &proof), Err(LcaiError::InvalidParams(_))));
    }
}
