//! A connection to a node.

use crate::ClientError;
use alloy_primitives::B256;
use alloy_rpc_types_eth::TransactionReceipt;
use jsonrpsee::{
    core::client::{ClientT, Error as RpcError},
    rpc_params,
    ws_client::{WsClient, WsClientBuilder},
};
use lcai_host::HostClient;
use lcai_host_rpc::RpcClient;
use lcai_rpc::{api::LcaiApiClient, types::NetworkInfo};
use parking_lot::RwLock;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The node is behind what it was asked about.
const NOT_YET: i32 = -39013;
/// How long a node that has just started may take to read its first block.
const FIRST_BLOCK: Duration = Duration::from_secs(15);

/// A node that serves `eth_*` and `lcai_*`.
#[derive(Clone)]
pub struct Connection {
    url: String,
    /// Shared by the copies of this connection: what one makes anew, all have.
    ws: Arc<RwLock<Arc<WsClient>>>,
    chain: Arc<dyn HostClient>,
    network: NetworkInfo,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects over WebSocket (`ws://…`) and reads the network. With `chain_id`, a node on another chain is refused.
    pub async fn open(url: &str, chain_id: Option<u64>) -> Result<Self, ClientError> {
        let ws = Arc::new(connect(url).await?);
        let found: String = ws.request("eth_chainId", rpc_params![]).await.map_err(refused("eth_chainId"))?;
        let found = u64::from_str_radix(found.trim_start_matches("0x"), 16).map_err(|_| {
            ClientError::Malformed { method: "eth_chainId", reason: format!("{found} is not hex") }
        })?;
        if let Some(expected) = chain_id
            && expected != found
        {
            return Err(ClientError::WrongChain { expected, found });
        }
        let network = network(&ws).await?;
        if network.deployment.chain_id != found {
            return Err(ClientError::WrongChain { expected: network.deployment.chain_id, found });
        }
        let chain = RpcClient::connect(url, Some(found)).await.map_err(|e| unreachable(url, e))?;
        Ok(Self { url: url.to_owned(), ws: Arc::new(RwLock::new(ws)), chain: Arc::new(chain), network })
    }

    /// Makes the connection anew if it was cut, e.g. because the node was restarted.
    pub async fn reopen(&self) -> Result<(), ClientError> {
        if !self.rpc().is_connected() {
            let fresh = Arc::new(connect(&self.url).await?);
            *self.ws.write() = fresh;
        }
        Ok(())
    }

    /// Where the node is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Contracts, parameters, keys, as read when the connection was opened.
    pub const fn network(&self) -> &NetworkInfo {
        &self.network
    }

    /// `lcai_*` (through [`LcaiApiClient`]) and any other method. Of no use any more once the connection was made anew.
    pub fn rpc(&self) -> Arc<WsClient> {
        Arc::clone(&self.ws.read())
    }

    /// The chain.
    pub fn chain(&self) -> Arc<dyn HostClient> {
        self.chain.clone()
    }

    /// A transaction's receipt with its logs; `None` while it is not included on the canonical chain.
    pub async fn receipt(&self, transaction: B256) -> Result<Option<TransactionReceipt>, ClientError> {
        self.rpc()
            .request("eth_getTransactionReceipt", rpc_params![transaction])
            .await
            .map_err(refused("eth_getTransactionReceipt"))
    }
}

/// Reads the network; a node that has just started is given the time to read its first block.
async fn network(ws: &WsClient) -> Result<NetworkInfo, ClientError> {
    let started = Instant::now();
    loop {
        match ws.network().await {
            Err(RpcError::Call(e)) if e.code() == NOT_YET && started.elapsed() < FIRST_BLOCK => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            answer => return answer.map_err(refused("lcai_network")),
        }
    }
}

async fn connect(url: &str) -> Result<WsClient, ClientError> {
    WsClientBuilder::default()
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Duration::from_secs(60))
        .max_buffer_capacity_per_subscription(4096)
        .build(url)
        .await
        .map_err(|e| unreachable(url, e))
}

fn unreachable(url: &str, reason: impl std::fmt::Display) -> ClientError {
    ClientError::Unreachable { url: url.to_owned(), reason: reason.to_string() }
}

/// Turns a JSON-RPC failure of a method into the client's error, keeping the node's code and words.
pub(crate) fn refused(method: &'static str) -> impl Fn(RpcError) -> ClientError {
    move |error| match error {
        RpcError::Call(call) if call.code() == -39001 => ClientError::UnknownModel(call.message().to_owned()),
        RpcError::Call(call) => {
            ClientError::Refused { method, code: call.code(), message: call.message().to_owned() }
        }
        RpcError::RequestTimeout => ClientError::TimedOut { what: method, seconds: 60 },
        other => ClientError::Unreachable { url: method.to_owned(), reason: other.to_string() },
    }
}
