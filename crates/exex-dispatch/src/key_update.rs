//! Keys for a session that the chain gave to another worker: what `updateSessionKey` needs.

use crate::{
    DispatchError,
    service::{AUTHORIZATION_LIFETIME_SECONDS, AuthorizationFields, DispatchService, Grant, check_keys},
};
use alloy_primitives::{Address, Bytes, U256};
use alloy_signer::SignerSync;
use lcai_primitives::{contracts::SessionStatus, eip712::SessionKeyUpdate, ids::SessionId};

/// Whom to wrap a reassigned session's key for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    /// The session's owner.
    pub user: Address,
    /// The worker the chain chose.
    pub worker: Address,
    /// The worker's P-256 key.
    pub worker_encryption_key: Bytes,
    /// The disputer's P-256 key, or empty.
    pub disputer_encryption_key: Bytes,
    /// The account's session nonce, which `updateSessionKey` spends.
    pub nonce: U256,
}

impl DispatchService {
    /// Whom to wrap the session's key for.
    pub async fn request_reassignment(&self, session: SessionId) -> Result<Reassignment, DispatchError> {
        let (user, worker, worker_encryption_key) = self.core().read(|core| {
            let known = core.session(session).ok_or_else(|| unknown(session))?;
            check_status(session, known.status)?;
            let key = core.worker(&known.worker).map(|worker| worker.encryption_key.clone());
            let gone = || {
                DispatchError::Refused(format!("worker {} has deregistered; reassign again", known.worker))
            };
            Ok((known.user, known.worker, key.ok_or_else(gone)?))
        })?;
        let disputer_encryption_key = self.config.disputer_encryption_key.clone();
        let nonce = self.nonce(user).await?;
        Ok(Reassignment { user, worker, worker_encryption_key, disputer_encryption_key, nonce })
    }

    /// Signs new keys for a session. The caller has been proven to be `fields.user` before. The chain chose the worker, so
    /// nothing is pinned: there is no draw to grind.
    pub async fn authorize_reassignment(
        &self,
        session: SessionId,
        fields: &AuthorizationFields,
    ) -> Result<Grant, DispatchError> {
        let Some(signer) = &self.config.dispatcher else {
            let text = "this node has no dispatcher key and signs no sessions";
            return Err(DispatchError::Unavailable(text.into()));
        };
        check_keys(fields, !self.config.disputer_encryption_key.is_empty())?;
        let (user, worker, model) = self.core().read(|core| {
            let known = core.session(session).ok_or_else(|| unknown(session))?;
            check_status(session, known.status)?;
            Ok((known.user, known.worker, known.model_id))
        })?;
        let nonce = self.nonce(user).await?;
        if (fields.user, fields.worker, fields.nonce) != (user, worker, nonce) {
            return Err(DispatchError::Refused(format!(
                "session {session} is {user}'s, goes to worker {worker}, and its owner's nonce is {nonce}; request the \
                 reassignment again"
            )));
        }
        self.check_eligible(worker, model).await?;
        let expiry = self.now().saturating_add(AUTHORIZATION_LIFETIME_SECONDS);
        let update = SessionKeyUpdate::for_keys(
            session,
            worker,
            &fields.enc_worker_key,
            &fields.enc_disputer_key,
            nonce,
            expiry,
        );
        let hash = update.signing_hash(&self.domain);
        let signature = signer
            .sign_hash_sync(&hash)
            .map_err(|_| DispatchError::Internal("the dispatcher's key could not sign".into()))?;
        metrics::counter!("lcai_dispatch_key_updates_total").increment(1);
        Ok(Grant { signature: signature.as_bytes().to_vec().into(), expiry })
    }
}

fn unknown(session: SessionId) -> DispatchError {
    DispatchError::Refused(format!("session {session} is not on the chain as far as this node sees"))
}

fn check_status(session: SessionId, status: SessionStatus) -> Result<(), DispatchError> {
    if status == SessionStatus::Reassigning {
        return Ok(());
    }
    let text = format!(
        "session {session} is {status}, not waiting for keys; JobRegistry.reassignSession comes first"
    );
    Err(DispatchError::Refused(text))
}
