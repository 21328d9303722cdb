//! A session that gets another worker: its owner hands the session key over.
//!
//! A keeper reassigns a session whose worker may no longer serve it, the owner may do so at any time. The chain chooses the
//! new worker; nothing can be asked until the owner has wrapped the session key for it. The key stays the same, so that
//! the new worker can rebuild the conversation; the former worker keeps what it knew, so a session that must be secret
//! from it is closed instead.

use crate::{ClientError, User, UserSession, connection::refused, user::wrap_for};
use alloy_primitives::{Bytes, U256};
use alloy_sol_types::SolCall;
use lcai_host::{Call, HostError};
use lcai_primitives::contracts::{JobRegistry, SessionStatus};
use lcai_rpc::{
    api::LcaiApiClient,
    types::{CallerProof, ReassignmentOffer, ReassignmentRequest},
};
use std::time::{Duration, Instant};

/// How long the node may take to read the block that reassigned the session.
const PATIENCE: Duration = Duration::from_secs(30);

/// The dispatcher does not sign: it was not reassigned as far as the node sees, or once more meanwhile.
const REFUSED: i32 = -39005;
/// The node does not know the session, or is behind.
const NOT_THERE_YET: [i32; 2] = [-39006, -39013];

impl User {
    /// Asks for another worker, whatever the reason, and hands the key over. Counts against the session's reassignments.
    pub async fn reassign(&self, session: &UserSession) -> Result<UserSession, ClientError> {
        let call = JobRegistry::reassignSessionCall { sessionId: session.id.into() };
        self.transact("reassignSession", call.abi_encode(), U256::ZERO).await?;
        self.hand_over(session).await
    }

    /// Wraps the key of a reassigned session for its new worker, has that authorized, and sends `updateSessionKey`; gives
    /// the session as it is then.
    pub async fn hand_over(&self, session: &UserSession) -> Result<UserSession, ClientError> {
        let started = Instant::now();
        loop {
            match self.try_hand_over(session).await {
                Err(ClientError::Refused { code, .. })
                    if (code == REFUSED || NOT_THERE_YET.contains(&code)) && started.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                result => return result,
            }
        }
    }

    async fn try_hand_over(&self, session: &UserSession) -> Result<UserSession, ClientError> {
        let rpc = self.node.rpc();
        let offer =
            rpc.request_reassignment(session.id).await.map_err(refused("lcai_requestReassignment"))?;
        let ReassignmentOffer { worker, worker_encryption_key, disputer_encryption_key, nonce, .. } = offer;
        let enc_worker_key = wrap_for(&session.key, &worker_encryption_key)?;
        let enc_disputer_key = if disputer_encryption_key.is_empty() {
            Bytes::new()
        } else {
            wrap_for(&session.key, &disputer_encryption_key)?
        };
        let request = ReassignmentRequest {
            session_id: session.id,
            worker,
            enc_worker_key: enc_worker_key.clone(),
            enc_disputer_key: enc_disputer_key.clone(),
            nonce,
        };
        let (dispatcher_signature, expiry) = self.key_update_grant(request).await?;
        let call = JobRegistry::updateSessionKeyCall {
            sessionId: session.id.into(),
            encWorkerKey: enc_worker_key,
            encDisputerKey: enc_disputer_key,
            dispatcherSignature: dispatcher_signature,
            expiry,
        };
        self.transact("updateSessionKey", call.abi_encode(), U256::ZERO).await?;
        Ok(UserSession { worker, ..session.clone() })
    }

    /// The dispatcher's signature for new keys, and until when it holds. On a network without a dispatcher the chain alone
    /// chose the worker, and JobRegistry asks for none.
    async fn key_update_grant(&self, request: ReassignmentRequest) -> Result<(Bytes, U256), ClientError> {
        if self.node.network().params.dispatcher.is_zero() {
            return Ok((Bytes::new(), U256::MAX));
        }
        let proof = CallerProof::Token { token: self.token().await? };
        let grant = self.node.rpc().authorize_reassignment(request, proof).await;
        let grant = grant.map_err(refused("lcai_authorizeReassignment"))?;
        Ok((grant.signature, U256::from(grant.expiry)))
    }

    /// Waits until the session gets another worker, which the account's subscription tells, and hands the key over.
    /// `None` once the session is closed.
    pub async fn next_worker(&self, session: &UserSession) -> Result<Option<UserSession>, ClientError> {
        loop {
            let token = self.token().await?;
            let mut changes =
                self.node.rpc().subscribe_account(token).await.map_err(refused("lcai_subscribeAccount"))?;
            while let Some(Ok(change)) = changes.next().await {
                let Some(now) = change.sessions.into_iter().find(|s| s.id == session.id) else { continue };
                match now.status.as_str() {
                    "reassigning" => return self.hand_over(session).await.map(Some),
                    "closed" => return Ok(None),
                    _ if now.worker != session.worker => {
                        return Ok(Some(UserSession { worker: now.worker, ..session.clone() }));
                    }
                    _ => {}
                }
            }
            // The connection was cut, or the token is at its end: the first change of the next one has everything.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The session as it can be asked in now: with the worker it has meanwhile, to whom the key is handed over if that is
    /// what it waits for. `None` when it takes no more jobs.
    pub async fn revive(&self, session: &UserSession) -> Result<Option<UserSession>, ClientError> {
        let call = JobRegistry::getSessionCall { sessionId: session.id.into() };
        let to = self.node.network().deployment.job_registry;
        let output = match self.node.chain().call(Call { to, input: call.abi_encode().into() }, None).await {
            Ok(output) => output,
            Err(HostError::Reverted(_)) => return Ok(None),
            Err(e) => {
                let url = self.node.url().to_owned();
                return Err(ClientError::Unreachable { url, reason: e.to_string() });
            }
        };
        let Ok(known) = JobRegistry::getSessionCall::abi_decode_returns(&output) else { return Ok(None) };
        if known.user != self.account() {
            return Ok(None);
        }
        let now = UserSession { worker: known.worker, ..session.clone() };
        match SessionStatus::try_from(known.status) {
            Ok(SessionStatus::Active) => Ok(self.is_usable(&now).await?.then_some(now)),
            Ok(SessionStatus::Reassigning) => self.hand_over(session).await.map(Some),
            _ => Ok(None),
        }
    }
}
