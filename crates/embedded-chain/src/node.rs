//! Assembly of the client: store, blockchain, and a peer-to-peer side that opens no socket.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use alloy_genesis::Genesis as AlloyGenesis;
use ethrex_blockchain::{Blockchain, BlockchainOptions};
use ethrex_common::types::Genesis;
use ethrex_common::{H256, H512};
use ethrex_p2p::network::P2PContext;
use ethrex_p2p::peer_handler::PeerHandler;
use ethrex_p2p::peer_table::{PeerTableServer, TARGET_PEERS};
use ethrex_p2p::rlpx::initiator::RLPxInitiator;
use ethrex_p2p::sync::SyncMode;
use ethrex_p2p::sync_manager::SyncManager;
use ethrex_p2p::types::{NetworkConfig, Node, NodeRecord};
use ethrex_rpc::rpc::start_block_executor;
use ethrex_rpc::{ClientVersion, GasTipEstimator, NodeData, RpcApiContext, RpcNamespace};
use ethrex_storage::{EngineType, Store};
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::EmbeddedChainError;

/// Identity of the node. It has no peers, so the key guards nothing.
const NODE_KEY: [u8; 32] = [0xcd; 32];

/// Milliseconds between two looks of the client at transactions to broadcast. There is nobody to broadcast to.
const BROADCAST_INTERVAL_MS: u64 = 60_000;

/// Milliseconds between two looks for peers to dial. There are none.
const LOOKUP_INTERVAL_MS: f64 = 60_000.0;

/// The client's version as its methods report it.
const CLIENT: &str = "ethrex";
const CLIENT_VERSION: &str = "24.0.0";

/// Builds the client over an in-memory store that starts at `genesis`.
pub(crate) async fn assemble(
    genesis: &AlloyGenesis,
    cancel: &CancellationToken,
) -> Result<RpcApiContext, EmbeddedChainError> {
    let genesis = convert_genesis(genesis)?;
    let gas_ceil = genesis.gas_limit;
    let store = in_memory_store(genesis).await?;
    let blockchain = Arc::new(Blockchain::new(store.clone(), BlockchainOptions::default()));
    let identity = Identity::new()?;
    let peers = peer_handler(&identity, &store, &blockchain)?;
    let syncer = SyncManager::new(
        peers.clone(),
        // With snap sync the client ignores every fork choice.
        &SyncMode::Full,
        cancel.clone(),
        Arc::clone(&blockchain),
        store.clone(),
        ".".into(),
    )
    .await;
    let context = RpcApiContext {
        storage: store,
        blockchain: Arc::clone(&blockchain),
        active_filters: Default::default(),
        syncer: Some(Arc::new(syncer)),
        peer_handler: Some(peers),
        node_data: identity.node_data(),
        gas_tip_estimator: Arc::new(tokio::sync::Mutex::new(GasTipEstimator::new())),
        log_filter_handler: None,
        gas_ceil,
        block_worker_channel: start_block_executor(blockchain),
        ws: None,
        allowed_namespaces: Arc::new(HashSet::from([
            RpcNamespace::Eth,
            RpcNamespace::Net,
            RpcNamespace::Web3,
            RpcNamespace::Mempool,
            RpcNamespace::Debug,
        ])),
    };
    // Loading the trusted setup takes seconds and would otherwise fall on the first blob transaction.
    ethrex_crypto::kzg::warm_up_trusted_setup();
    Ok(context)
}

/// Both sides read the geth genesis format, so it goes over as JSON.
fn convert_genesis(genesis: &AlloyGenesis) -> Result<Genesis, EmbeddedChainError> {
    serde_json::to_value(genesis)
        .and_then(serde_json::from_value)
        .map_err(|error| EmbeddedChainError::Genesis(error.to_string()))
}

async fn in_memory_store(genesis: Genesis) -> Result<Store, EmbeddedChainError> {
    let mut store = Store::new("", EngineType::InMemory)?;
    store.add_initial_state(genesis).await.map_err(|error| EmbeddedChainError::Genesis(error.to_string()))?;
    Ok(store)
}

/// The sync manager and the Engine API want peers to ask; this handler knows none and listens nowhere.
fn peer_handler(
    identity: &Identity,
    store: &Store,
    blockchain: &Arc<Blockchain>,
) -> Result<PeerHandler, EmbeddedChainError> {
    let table = PeerTableServer::spawn(identity.node.node_id(), TARGET_PEERS, store.clone());
    let context = P2PContext::new(
        identity.node.clone(),
        NetworkConfig::from_node(&identity.node),
        TaskTracker::new(),
        identity.key,
        table.clone(),
        store.clone(),
        Arc::clone(blockchain),
        CLIENT.to_owned(),
        None,
        BROADCAST_INTERVAL_MS,
        LOOKUP_INTERVAL_MS,
    )
    .map_err(|error| EmbeddedChainError::Start(error.to_string()))?;
    Ok(PeerHandler::new(table, RLPxInitiator::spawn(context)))
}

struct Identity {
    key: SecretKey,
    node: Node,
    record: NodeRecord,
}

impl Identity {
    fn new() -> Result<Self, EmbeddedChainError> {
        let start = |error: &dyn std::fmt::Display| EmbeddedChainError::Start(error.to_string());
        let key = SecretKey::from_byte_array(&NODE_KEY).map_err(|error| start(&error))?;
        let public = PublicKey::from_secret_key(SECP256K1, &key).serialize_uncompressed();
        // The uncompressed form without its leading 0x04.
        let id = H512::from_slice(public.split_at(1).1);
        let node = Node::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0, 0, id);
        let record = NodeRecord::from_node(&node, 1, &key).map_err(|error| start(&error))?;
        Ok(Self { key, node, record })
    }

    fn node_data(&self) -> NodeData {
        NodeData {
            jwt_secret: Default::default(),
            local_p2p_node: self.node.clone(),
            local_node_record: self.record.clone(),
            client_version: ClientVersion::new(
                CLIENT.to_owned(),
                CLIENT_VERSION.to_owned(),
                "embedded".to_owned(),
                "lcai".to_owned(),
                std::env::consts::OS.to_owned(),
                "unknown".to_owned(),
            ),
            extra_data: Default::default(),
        }
    }
}

/// Hash of the canonical block of a number.
pub(crate) fn canonical_hash(store: &Store, number: u64) -> Result<H256, EmbeddedChainError> {
    store
        .get_canonical_block_hash_sync(number)?
        .ok_or_else(|| EmbeddedChainError::Store(format!("no canonical block {number}")))
}
