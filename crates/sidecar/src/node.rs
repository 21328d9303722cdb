//! The worker's connection to its node's `lcai_*`.

use alloy_primitives::{B256, Bytes};
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::{
    core::client::{ClientT, Error as RpcError},
    rpc_params,
    ws_client::{WsClient, WsClientBuilder},
};
use lcai_crypto::sign_eip191;
use lcai_primitives::{
    eip712::Heartbeat,
    frames::Frame,
    ids::{JobId, SessionId},
};
use lcai_rpc::{
    api::LcaiApiClient,
    error::LcaiError,
    types::{Login, NetworkInfo},
};
use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use thiserror::Error;
use tokio::sync::Mutex;

/// Time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A blob in hex and its envelope.
const MAX_MESSAGE: u32 = 4 * 1024 * 1024;
/// A token is renewed when it has less than this left.
const RENEW_BEFORE_SECONDS: u64 = 300;

/// Why the node did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NodeError {
    /// No connection, or it broke, or no answer came in time.
    #[error("node {url} is not reachable: {reason}")]
    Unreachable {
        /// Its address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It answered with an error.
    #[error("the node refused {method}: {message} (code {code})")]
    Refused {
        /// The method.
        method: &'static str,
        /// The JSON-RPC code.
        code: i32,
        /// The node's words.
        message: String,
    },
    /// The login could not be signed.
    #[error("the login cannot be signed: {0}")]
    Signing(String),
}

impl NodeError {
    /// Whether these very frames will never be taken.
    pub fn is_final_refusal(&self) -> bool {
        self.has_code(&[LcaiError::FrameRefused(String::new()), LcaiError::InvalidParams(String::new())])
    }

    fn is_login(&self) -> bool {
        self.has_code(&[LcaiError::Unauthorized(String::new()), LcaiError::Expired(String::new())])
    }

    fn has_code(&self, errors: &[LcaiError]) -> bool {
        matches!(self, Self::Refused { code, .. } if errors.iter().any(|e| e.code() == *code))
    }
}

/// A node, connected to when needed.
pub(crate) struct NodeClient {
    url: String,
    account: PrivateKeySigner,
    connection: Mutex<Option<Arc<WsClient>>>,
    login: Mutex<Option<Login>>,
}

impl fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeClient").field("url", &self.url).finish_non_exhaustive()
    }
}

impl NodeClient {
    pub(crate) fn new(url: String, account: PrivateKeySigner) -> Self {
        Self { url, account, connection: Mutex::new(None), login: Mutex::new(None) }
    }

    pub(crate) async fn network(&self) -> Result<NetworkInfo, NodeError> {
        self.ask("lcai_network", async |node| node.network().await).await
    }

    /// Hash of the chain's genesis block: tells two devnets of one chain id apart.
    pub(crate) async fn genesis_hash(&self) -> Result<B256, NodeError> {
        #[derive(serde::Deserialize)]
        struct Block {
            hash: B256,
        }
        let method = "eth_getBlockByNumber";
        let block: Block =
            self.ask(method, async |node| node.request(method, rpc_params!["0x0", false]).await).await?;
        Ok(block.hash)
    }

    /// The jobs of a session as the node knows them, oldest first.
    pub(crate) async fn session_jobs(&self, session: SessionId) -> Result<Vec<JobId>, NodeError> {
        let info = self.ask("lcai_getSession", async |node| node.get_session(session).await).await?;
        Ok(info.map(|info| info.jobs).unwrap_or_default())
    }

    pub(crate) async fn heartbeat(&self, heartbeat: Heartbeat, signature: Bytes) -> Result<(), NodeError> {
        self.ask("lcai_heartbeat", async |node| node.heartbeat(heartbeat.clone(), signature.clone()).await)
            .await
    }

    /// Gives frames of one job to the relay; they are durable there when this returns.
    pub(crate) async fn submit_frames(&self, frames: &[Frame]) -> Result<(), NodeError> {
        let method = "lcai_submitFrames";
        let submit = async || {
            let token = self.token().await?;
            self.ask(method, async |node| node.submit_frames(token.clone(), frames.to_vec()).await).await
        };
        match submit().await {
            // The node may have been restarted with another token key.
            Err(error) if error.is_login() => {
                *self.login.lock().await = None;
                submit().await.map(drop)
            }
            result => result.map(drop),
        }
    }

    /// A login token with some life left.
    async fn token(&self) -> Result<String, NodeError> {
        let mut login = self.login.lock().await;
        if let Some(login) = login.as_ref().filter(|l| l.expires_at > unix_now() + RENEW_BEFORE_SECONDS) {
            return Ok(login.token.clone());
        }
        let account = self.account.address();
        let challenge = self.ask("lcai_challenge", async |node| node.challenge(account).await).await?;
        let signature = sign_eip191(&self.account, challenge.message.as_bytes());
        let signature = Bytes::from(signature.map_err(|e| NodeError::Signing(e.to_string()))?.to_vec());
        let fresh = self
            .ask("lcai_login", async |node| node.login(challenge.message.clone(), signature.clone()).await)
            .await?;
        let token = fresh.token.clone();
        // A token that lives shorter than the reserve is used once.
        *login = Some(fresh);
        Ok(token)
    }

    async fn ask<T, F>(
        &self,
        method: &'static str,
        request: impl FnOnce(Arc<WsClient>) -> F + Send,
    ) -> Result<T, NodeError>
    where
        F: Future<Output = Result<T, RpcError>> + Send,
    {
        let connection = self.connection().await?;
        let answer = request(Arc::clone(&connection)).await;
        match answer {
            Ok(value) => Ok(value),
            Err(RpcError::Call(error)) => {
                Err(NodeError::Refused { method, code: error.code(), message: error.message().to_owned() })
            }
            Err(error) => {
                self.forget(&connection).await;
                Err(self.unreachable(error))
            }
        }
    }

    async fn connection(&self) -> Result<Arc<WsClient>, NodeError> {
        let mut connection = self.connection.lock().await;
        if let Some(open) = connection.as_ref().filter(|c| c.is_connected()) {
            return Ok(Arc::clone(open));
        }
        let fresh = WsClientBuilder::default()
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(REQUEST_TIMEOUT)
            .max_request_size(MAX_MESSAGE)
            .max_response_size(MAX_MESSAGE)
            .build(&self.url)
            .await
            .map_err(|e| self.unreachable(e))?;
        let fresh = Arc::new(fresh);
        *connection = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// Drops a connection that failed, unless another one has taken its place.
    async fn forget(&self, failed: &Arc<WsClient>) {
        let mut connection = self.connection.lock().await;
        if connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, failed)) {
            *connection = None;
        }
    }

    fn unreachable(&self, reason: impl fmt::Display) -> NodeError {
        NodeError::Unreachable { url: self.url.clone(), reason: reason.to_string() }
    }
}

/// Unix seconds by this machine's clock.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
