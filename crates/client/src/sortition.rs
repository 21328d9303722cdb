//! Sessions by sortition: the chain orders the workers by chance and weight, no dispatcher signs.
//!
//! `requestSession` on SessionManager, a worker claims, the owner provides the wrapped keys, the session is adopted. A
//! delegate can do all of it, and submit jobs, for an account that has deposited money and authorized it: an application
//! that pays, or a wallet that signs once.

use crate::{
    ClientError, User, UserSession,
    user::{first_topic, wrap_for},
};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_crypto::SessionKey;
use lcai_host::{Call, HostError, TxSpec};
use lcai_primitives::{
    contracts::{JobRegistry, RequestStatus, SessionManager, WorkerRegistry},
    ids::{ModelId, SessionId},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds a request waits for a claim and its keys, unless told otherwise.
pub const REQUEST_LIFETIME_SECONDS: u64 = 300;

/// A request that a worker has claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// The request's id.
    pub request: U256,
    /// Block of the request.
    pub request_block: u64,
    /// The worker.
    pub worker: Address,
}

impl User {
    /// Opens a session by sortition for the account itself. Two transactions, and a few blocks between them.
    pub async fn open_by_sortition(
        &self,
        model: ModelId,
        key: SessionKey,
    ) -> Result<UserSession, ClientError> {
        let owner = self.account();
        let request = self.request_by_sortition(owner, model, REQUEST_LIFETIME_SECONDS).await?;
        let claimed = self.claimed(request).await?;
        self.provide_key(owner, model, &claimed, key).await
    }

    /// Asks SessionManager for a session of `owner`: the account itself, or one that has authorized it as its delegate.
    /// Gives the request's id.
    pub async fn request_by_sortition(
        &self,
        owner: Address,
        model: ModelId,
        lifetime_seconds: u64,
    ) -> Result<U256, ClientError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let expiry = U256::from(now.saturating_add(lifetime_seconds));
        let input = if owner == self.account() {
            SessionManager::requestSessionCall { modelId: model.0, expiry }.abi_encode()
        } else {
            SessionManager::requestSessionForCall { user: owner, modelId: model.0, expiry }.abi_encode()
        };
        let hash = self.send("requestSession", self.manager()?, input, U256::ZERO).await?;
        let receipt = self.included("requestSession", hash).await?;
        first_topic(&receipt, SessionManager::SessionRequested::SIGNATURE_HASH)
            .ok_or_else(|| without_event("requestSession", "SessionRequested"))
    }

    /// Waits until a worker has claimed the request.
    pub async fn claimed(&self, request: U256) -> Result<Claimed, ClientError> {
        let manager = self.manager()?;
        loop {
            let found = self.read(manager, SessionManager::getRequestCall { reqId: request }).await?;
            match RequestStatus::try_from(found.status) {
                Ok(RequestStatus::Claimed | RequestStatus::Ready) => {
                    return Ok(Claimed { request, request_block: found.requestBlock, worker: found.worker });
                }
                Ok(RequestStatus::Open) => tokio::time::sleep(Duration::from_millis(200)).await,
                _ => {
                    let what = "a worker to claim the session";
                    return Err(ClientError::TimedOut { what, seconds: REQUEST_LIFETIME_SECONDS });
                }
            }
        }
    }

    /// Brings the keys of a claimed request; the session is open when this returns.
    pub async fn provide_key(
        &self,
        owner: Address,
        model: ModelId,
        claimed: &Claimed,
        key: SessionKey,
    ) -> Result<UserSession, ClientError> {
        let network = self.node.network();
        let registry = network.deployment.worker_registry;
        let call = WorkerRegistry::getWorkerEncryptionKeyCall { worker: claimed.worker };
        let enc_worker_key = wrap_for(&key, &self.read(registry, call).await?)?;
        let enc_disputer_key = if network.disputer_encryption_key.is_empty() {
            Bytes::new()
        } else {
            wrap_for(&key, &network.disputer_encryption_key)?
        };
        let (request, manager) = (claimed.request, self.manager()?);
        let input = if owner == self.account() {
            SessionManager::provideSessionKeyCall {
                reqId: request,
                encWorkerKey: enc_worker_key,
                encDisputerKey: enc_disputer_key,
            }
            .abi_encode()
        } else {
            SessionManager::provideSessionKeyForCall {
                user: owner,
                reqId: request,
                encWorkerKey: enc_worker_key,
                encDisputerKey: enc_disputer_key,
            }
            .abi_encode()
        };
        let hash = self.send("provideSessionKey", manager, input, U256::ZERO).await?;
        let receipt = self.included("provideSessionKey", hash).await?;
        let id = first_topic(&receipt, JobRegistry::SessionAdopted::SIGNATURE_HASH)
            .and_then(|id| SessionId::try_from(id).ok())
            .ok_or_else(|| without_event("provideSessionKey", "SessionAdopted"))?;
        Ok(UserSession { id, model_id: model, worker: claimed.worker, create_transaction: hash, key })
    }

    /// Deposits `amount` wei and lets another account spend as much of it on the account's jobs.
    pub async fn authorize_delegate(&self, delegate: Address, amount: U256) -> Result<B256, ClientError> {
        let call = JobRegistry::depositAndAuthorizeCall { delegate };
        self.transact("depositAndAuthorize", call.abi_encode(), amount).await
    }

    /// Submits a job in a session of another account, paid from what that account deposited. Gives the transaction, which
    /// the owner follows ([`Self::follow`]).
    pub async fn submit_on_behalf(
        &self,
        owner: Address,
        session: SessionId,
        prompt_blob: B256,
    ) -> Result<B256, ClientError> {
        let call = JobRegistry::submitJobOnBehalfCall {
            user: owner,
            sessionId: session.into(),
            blobHash: prompt_blob,
        };
        self.transact("submitJobOnBehalf", call.abi_encode(), U256::ZERO).await
    }

    fn manager(&self) -> Result<Address, ClientError> {
        let network = self.node.network();
        match network.deployment.session_manager {
            Some(manager) if network.params.sortition_enabled => Ok(manager),
            Some(_) => Err(off("AIConfig has sortition switched off")),
            None => Err(off("the network has no SessionManager")),
        }
    }

    async fn read<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return, ClientError> {
        let reason = |reason: String| ClientError::Malformed { method: C::SIGNATURE, reason };
        let call = Call { to, input: call.abi_encode().into() };
        let output = self.node.chain().call(call, None).await.map_err(|e| match e {
            HostError::Reverted(data) => reason(format!("it reverted: {data}")),
            e => ClientError::Unreachable { url: self.node.url().to_owned(), reason: e.to_string() },
        })?;
        C::abi_decode_returns(&output).map_err(|e| reason(e.to_string()))
    }

    async fn send(
        &self,
        what: &'static str,
        to: Address,
        input: Vec<u8>,
        value: U256,
    ) -> Result<B256, ClientError> {
        let spec = TxSpec { value, ..TxSpec::call(to, input.into()) };
        let failed = |reason: String| ClientError::Transaction { what, reason };
        let sent = self.lane.send(spec).await.map_err(|e| failed(e.to_string()))?;
        if sent.receipt.success {
            Ok(sent.hash)
        } else {
            Err(failed(format!("transaction {} reverted", sent.hash)))
        }
    }
}

fn off(reason: &str) -> ClientError {
    ClientError::Transaction { what: "requestSession", reason: reason.to_owned() }
}

fn without_event(what: &'static str, event: &str) -> ClientError {
    ClientError::Transaction { what, reason: format!("it succeeded without a {event} event") }
}
