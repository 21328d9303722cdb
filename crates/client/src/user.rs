//! An account on a node: logging in and opening sessions.

use crate::{ClientError, Connection, UserSession, connection::refused};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types_eth::TransactionReceipt;
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolEvent};
use jsonrpsee::{core::client::Error as RpcError, ws_client::WsClient};
use lcai_crypto::{EncryptionPublicKey, SessionKey, seal, wrap};
use lcai_host::{Call, HostError, LaneClass, LaneConfig, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{JobRegistry, SessionStatus},
    frames::{MAX_COMPLETE_PAYLOAD, SEAL_OVERHEAD},
    ids::{ModelId, SessionId},
};
use lcai_rpc::{
    api::LcaiApiClient,
    types::{
        AuthorizationRequest, CallerProof, Login, ModelInfo, PublishedBlob, SessionAuthorizationGrant,
        SessionOffer,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Mutex;

/// Largest prompt: one blob's payload less nonce and tag.
pub const MAX_PROMPT_BYTES: usize = MAX_COMPLETE_PAYLOAD - SEAL_OVERHEAD;

/// Gas that one session and one job may use together, for the check before anything is sent.
const GAS_RESERVE: u64 = 1_500_000;

/// A session this close to its inactivity timeout is not continued: the job could arrive too late.
const IDLE_MARGIN_SECONDS: u64 = 10;

/// A login is renewed when less than this is left of it.
const LOGIN_MARGIN: Duration = Duration::from_secs(30);

/// An account on a node.
pub struct User {
    pub(crate) node: Connection,
    signer: PrivateKeySigner,
    pub(crate) lane: Arc<TxLane>,
    login: Mutex<Option<Login>>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("account", &self.signer.address()).finish_non_exhaustive()
    }
}

impl User {
    /// An account on a node. Sends nothing yet.
    pub fn new(node: Connection, signer: PrivateKeySigner) -> Self {
        Self::with_lane(node, signer, LaneConfig::new(LaneClass::Ordinary))
    }

    /// As [`Self::new`], with transactions built in another way.
    pub fn with_lane(node: Connection, signer: PrivateKeySigner, config: LaneConfig) -> Self {
        let lane = Arc::new(TxLane::with_config(node.chain(), signer.clone(), config));
        Self { node, signer, lane, login: Mutex::new(None) }
    }

    /// The account.
    pub fn account(&self) -> Address {
        self.signer.address()
    }

    /// Its key.
    pub const fn signer(&self) -> &PrivateKeySigner {
        &self.signer
    }

    /// The node.
    pub const fn node(&self) -> &Connection {
        &self.node
    }

    /// The model's entry in the network's list. `model` is a name or a 32-byte id.
    pub async fn model(&self, model: &str) -> Result<ModelInfo, ClientError> {
        let id: ModelId =
            model.parse().map_err(|e| ClientError::UnknownModel(format!("model {model:?}: {e}")))?;
        let models = self.node.rpc().models().await.map_err(refused("lcai_models"))?;
        let known: Vec<String> = models.iter().filter_map(|m| m.name.clone()).collect();
        models.into_iter().find(|m| m.id == id && m.enabled).ok_or_else(|| {
            ClientError::UnknownModel(format!(
                "model {model:?} is not offered on this network; it offers {}",
                known.join(", ")
            ))
        })
    }

    /// Whether the account can pay one fee and its gas; refused before anything is sent.
    pub async fn check_funds(&self, fee: U256) -> Result<(), ClientError> {
        let chain = self.node.chain();
        let (base_fee, _) = chain.base_fees().await.map_err(|e| self.unreachable(e))?;
        let gas = U256::from(base_fee.saturating_mul(2)).saturating_mul(U256::from(GAS_RESERVE));
        let needed = fee.saturating_add(gas);
        let balance = chain.balance(self.account()).await.map_err(|e| self.unreachable(e))?;
        if balance < needed {
            return Err(ClientError::Unfunded { account: self.account(), balance, needed });
        }
        Ok(())
    }

    fn unreachable(&self, error: impl std::fmt::Display) -> ClientError {
        ClientError::Unreachable { url: self.node.url().to_owned(), reason: error.to_string() }
    }

    /// A login token bound to the account, renewed when it is about to expire.
    pub async fn token(&self) -> Result<String, ClientError> {
        let mut login = self.login.lock().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(login) = login.as_ref()
            && Duration::from_secs(login.expires_at) > now + LOGIN_MARGIN
        {
            return Ok(login.token.clone());
        }
        let rpc = self.node.rpc();
        let challenge = rpc.challenge(self.account()).await.map_err(refused("lcai_challenge"))?;
        let signature = self.signer.sign_message_sync(challenge.message.as_bytes()).map_err(|_| {
            ClientError::Transaction { what: "login", reason: "the account's key could not sign".into() }
        })?;
        let signature = Bytes::from(signature.as_bytes().to_vec());
        let fresh = rpc.login(challenge.message, signature).await.map_err(refused("lcai_login"))?;
        Ok(login.insert(fresh).token.clone())
    }

    /// Makes a call with a token. One that the node does not take any more, because it or its operator ended it, is
    /// renewed once.
    pub(crate) async fn with_token<T, F>(
        &self,
        method: &'static str,
        call: impl Fn(Arc<WsClient>, String) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, RpcError>>,
    {
        let mut renewed = false;
        loop {
            let token = self.token().await?;
            match call(self.node.rpc(), token.clone()).await {
                Err(RpcError::Call(e)) if !renewed && is_about_the_login(e.code()) => {
                    renewed = true;
                    self.forget(&token).await;
                }
                answer => return answer.map_err(refused(method)),
            }
        }
    }

    /// Logs in again the next time, unless somebody did meanwhile.
    async fn forget(&self, token: &str) {
        let mut login = self.login.lock().await;
        if login.as_ref().is_some_and(|login| login.token == token) {
            *login = None;
        }
    }

    /// Asks which worker would serve a session. Reserves nothing.
    pub async fn request_session(&self, model: &str) -> Result<SessionOffer, ClientError> {
        self.node
            .rpc()
            .request_session(model.to_owned(), self.account())
            .await
            .map_err(refused("lcai_requestSession"))
    }

    /// Opens a session on an offer: wraps the key for the worker and the disputer, has it authorized, and sends
    /// `createSession`. One transaction; returns once it is included.
    pub async fn open_session(
        &self,
        offer: &SessionOffer,
        key: SessionKey,
    ) -> Result<UserSession, ClientError> {
        let enc_worker_key = wrap_for(&key, &offer.worker_encryption_key)?;
        let enc_disputer_key = if offer.disputer_encryption_key.is_empty() {
            Bytes::new()
        } else {
            wrap_for(&key, &offer.disputer_encryption_key)?
        };
        let request = AuthorizationRequest {
            user: self.account(),
            model_id: offer.model_id,
            worker: offer.worker,
            enc_worker_key,
            enc_disputer_key,
            nonce: offer.nonce,
        };
        let grant = self
            .with_token("lcai_authorizeSession", |rpc, token| {
                let (request, proof) = (request.clone(), CallerProof::Token { token });
                async move { rpc.authorize_session(request, proof).await }
            })
            .await?;
        self.create_session(offer, &request, &grant, key).await
    }

    /// Spends an authorization: sends `createSession` with the keys it was given for.
    pub async fn create_session(
        &self,
        offer: &SessionOffer,
        request: &AuthorizationRequest,
        grant: &SessionAuthorizationGrant,
        key: SessionKey,
    ) -> Result<UserSession, ClientError> {
        let call = JobRegistry::createSessionCall {
            modelId: offer.model_id.0,
            worker: offer.worker,
            encWorkerKey: request.enc_worker_key.clone(),
            encDisputerKey: request.enc_disputer_key.clone(),
            dispatcherSignature: grant.signature.clone(),
            expiry: U256::from(grant.expiry),
        };
        let hash = self.transact("createSession", call.abi_encode(), U256::ZERO).await?;
        let created = self.session_created(hash).await?;
        Ok(UserSession {
            id: created,
            model_id: offer.model_id,
            worker: offer.worker,
            create_transaction: hash,
            key,
        })
    }

    /// Whether the chain still takes jobs in the session: ours, active, served by the same worker, not idle for too long.
    pub async fn is_usable(&self, session: &UserSession) -> Result<bool, ClientError> {
        let network = self.node.network();
        let call = JobRegistry::getSessionCall { sessionId: session.id.into() };
        let call = Call { to: network.deployment.job_registry, input: call.abi_encode().into() };
        let output = match self.node.chain().call(call, None).await {
            Ok(output) => output,
            Err(HostError::Reverted(_)) => return Ok(false),
            Err(e) => return Err(self.unreachable(e)),
        };
        let Ok(known) = JobRegistry::getSessionCall::abi_decode_returns(&output) else { return Ok(false) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let idle_until = known
            .lastActivityAt
            .saturating_to::<u64>()
            .saturating_add(network.params.session_inactivity_timeout);
        Ok(known.user == self.account()
            && known.worker == session.worker
            && SessionStatus::try_from(known.status) == Ok(SessionStatus::Active)
            && idle_until > now.saturating_add(IDLE_MARGIN_SECONDS))
    }

    async fn session_created(&self, transaction: B256) -> Result<SessionId, ClientError> {
        let receipt = self.included("createSession", transaction).await?;
        let id = first_topic(&receipt, JobRegistry::SessionCreated::SIGNATURE_HASH);
        id.and_then(|id| SessionId::try_from(id).ok()).ok_or(ClientError::Malformed {
            method: "eth_getTransactionReceipt",
            reason: "createSession succeeded without a SessionCreated event".into(),
        })
    }

    /// Sends a transaction to JobRegistry through the account's lane; returns once it is included and succeeded.
    pub(crate) async fn transact(
        &self,
        what: &'static str,
        input: Vec<u8>,
        value: U256,
    ) -> Result<B256, ClientError> {
        let registry = self.node.network().deployment.job_registry;
        let spec = TxSpec { value, ..TxSpec::call(registry, input.into()) };
        let failed = |reason: String| ClientError::Transaction { what, reason };
        let sent = self.lane.send(spec).await.map_err(|e| failed(e.to_string()))?;
        if !sent.receipt.success {
            return Err(failed(format!("transaction {} reverted", sent.hash)));
        }
        Ok(sent.hash)
    }

    /// Waits until a transaction is on the canonical chain.
    pub(crate) async fn included(
        &self,
        what: &'static str,
        transaction: B256,
    ) -> Result<TransactionReceipt, ClientError> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(120) {
            if let Some(receipt) = self.node.receipt(transaction).await? {
                return Ok(receipt);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Err(ClientError::TimedOut { what, seconds: 120 })
    }

    /// Seals a prompt and has the node post it as a blob.
    pub async fn publish_prompt(
        &self,
        key: &SessionKey,
        prompt: &[u8],
    ) -> Result<PublishedBlob, ClientError> {
        check_prompt(prompt)?;
        let sealed = seal(key, prompt)
            .map_err(|_| ClientError::PromptTooLarge { size: prompt.len(), limit: MAX_PROMPT_BYTES })?;
        let sealed = Bytes::from(sealed);
        self.with_token("lcai_publishBlob", |rpc, token| {
            let sealed = sealed.clone();
            async move { rpc.publish_blob(token, sealed).await }
        })
        .await
    }
}

/// Whether the node does not take the login (any more).
const fn is_about_the_login(code: i32) -> bool {
    matches!(code, -39003 | -39004)
}

/// Refuses what no blob can hold.
pub(crate) fn check_prompt(prompt: &[u8]) -> Result<(), ClientError> {
    match prompt.len() {
        0 => Err(ClientError::EmptyPrompt),
        size if size > MAX_PROMPT_BYTES => Err(ClientError::PromptTooLarge { size, limit: MAX_PROMPT_BYTES }),
        _ => Ok(()),
    }
}

/// The first indexed argument of the first log with the signature.
pub(crate) fn first_topic(receipt: &TransactionReceipt, signature: B256) -> Option<U256> {
    receipt
        .inner
        .logs()
        .iter()
        .find(|log| log.topics().first() == Some(&signature))
        .and_then(|log| log.topics().get(1))
        .map(|topic| U256::from_be_bytes(topic.0))
}

pub(crate) fn wrap_for(key: &SessionKey, public: &[u8]) -> Result<Bytes, ClientError> {
    let public = EncryptionPublicKey::from_sec1(public).map_err(|e| ClientError::Malformed {
        method: "lcai_requestSession",
        reason: format!("an encryption key in the offer is unusable: {e}"),
    })?;
    let wrapped = wrap(key, &public)
        .map_err(|e| ClientError::Malformed { method: "lcai_requestSession", reason: e.to_string() })?;
    Ok(wrapped.to_vec().into())
}
