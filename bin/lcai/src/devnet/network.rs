//! Starting and stopping a devnet.

use super::fleet::{Fleet, FleetConfig, GOOD_MODEL, WorkerModel, backend, encryption_key};
use crate::{ask::DEFAULT_MODEL, exit::UsageError, progress::Progress};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use jsonrpsee::RpcModule;
use lcai_client::Connection;
use lcai_embedded_chain::{ChainConfig, EmbeddedChain, Mining};
use lcai_exex_dispatch::DispatchPlan;
use lcai_genesis::{
    Fork, GenesisSpec, LCAI, ProtocolParams,
    dev::{self, DevAccounts, Role},
};
use lcai_host_rpc::{NotifierConfig, RpcClient, RpcNotifier};
use lcai_node::{CANARY_ACCOUNTS, CanaryRole, DisputerRole, Node, NodeConfig};
use lcai_primitives::contracts::{AIConfig, Deployment};
use lcai_rpc::{Rate, RpcHandle, ServerLimits, serve};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

/// LCAI that canaries may cost in a day.
const CANARY_CAP: u64 = 1_000;

/// Blocks that a reorg of the embedded chain may go back: the distance of its finalized head.
const REORG_DEPTH: u64 = 8;

/// A devnet's settings.
#[derive(Debug, Clone)]
pub struct DevnetConfig {
    /// Where `eth_*` and `lcai_*` are served.
    pub listen: SocketAddr,
    /// Time between blocks.
    pub block_time: Duration,
    /// Mine also when a transaction is pending.
    pub on_demand: bool,
    /// Prague instead of Osaka.
    pub prague: bool,
    /// How many workers.
    pub workers: u32,
    /// What each worker runs; beyond the list, the good model.
    pub worker_models: Vec<WorkerModel>,
    /// Where journals are kept; a directory that is removed at the end when `None`.
    pub data_dir: Option<PathBuf>,
    /// Windows and limits of the contracts.
    pub params: ProtocolParams,
    /// How the disputer tests the workers; `None`: it only rules on disputes.
    pub canaries: Option<CanaryConfig>,
    /// Where workers reach the node, when not where it listens: behind a proxy, say.
    pub worker_url: Option<String>,
}

impl Default for DevnetConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            block_time: Duration::from_secs(1),
            on_demand: false,
            prague: false,
            workers: 2,
            worker_models: Vec::new(),
            data_dir: None,
            params: ProtocolParams::devnet(),
            canaries: None,
            worker_url: None,
        }
    }
}

/// How a devnet's canaries are sent.
#[derive(Debug, Clone, Copy)]
pub struct CanaryConfig {
    /// Seconds of an epoch.
    pub epoch_seconds: u64,
    /// AIConfig's samplingRateBps: canaries for so many of a worker's jobs, beside the one that every epoch has.
    pub sampling_rate_bps: u32,
}

/// A complete network in this process. One per process: see [`EmbeddedChain`].
pub struct Devnet {
    config: DevnetConfig,
    accounts: DevAccounts,
    deployment: Deployment,
    chain: EmbeddedChain,
    node: Node,
    node_config: NodeConfig,
    /// `eth_*` alone, for the node itself.
    client: RpcHandle,
    server: RpcHandle,
    workers: Option<Fleet>,
    url: String,
    data_dir: PathBuf,
    _removed_at_the_end: Option<TempDir>,
}

impl std::fmt::Debug for Devnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devnet").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Devnet {
    /// Starts chain, node and workers; returns when the workers are ready for jobs.
    pub async fn start(config: DevnetConfig, progress: &Progress) -> eyre::Result<Self> {
        let (data_dir, temporary) = data_dir(config.data_dir.as_deref())?;
        let accounts = DevAccounts::derive(config.workers)?;
        let mut disputer = disputer(&data_dir.join("disputer")).await?;
        disputer.canary_epoch_seconds = config.canaries.map(|canaries| canaries.epoch_seconds);

        // Each start is another chain with another genesis hash: nobody takes an old session for a new one.
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().saturating_sub(1);
        let spec = genesis_spec(&config, &accounts, timestamp)?;
        let built = progress.step("genesis built: constructors and initialisers run", build(spec)).await?;
        let chain_config = ChainConfig::new(built.genesis).with_mining(mining(&config));
        let chain = progress.step("chain started", EmbeddedChain::start(chain_config)).await?;
        progress
            .step(
                "trusted setup loaded",
                blocking(|| {
                    lcai_blob::warm();
                    Ok(())
                }),
            )
            .await?;

        // The node follows the chain over JSON-RPC as it would follow any other client.
        let eth = serve(chain.rpc_module()?, SocketAddr::from(([127, 0, 0, 1], 0)), local_limits()).await?;
        let eth_url = format!("ws://{}", eth.local_addr());
        let client = Arc::new(RpcClient::connect(&eth_url, Some(built.deployment.chain_id)).await?);
        let node_config = NodeConfig {
            deployment: built.deployment,
            genesis_hash: chain_genesis(&chain).await?,
            data_dir: data_dir.join("node"),
            models: vec![DEFAULT_MODEL.to_owned()],
            dispatcher: Some(Role::Dispatcher.signer()?),
            keeper: Some(Role::Keeper.signer()?),
            blob_key: Some(Role::NodeBlob.signer()?),
            disputer_encryption_key: Bytes::copy_from_slice(&disputer.escrow.public().to_sec1()),
            osaka_time: (!config.prague).then_some(0),
            accept_empty_journal: false,
            upstream: None,
            beacons: Vec::new(),
        };
        let starting = start_node(node_config.clone(), &chain, client, disputer);
        let node = progress.step("node started", starting).await?;
        let server = serve_all(&chain, &node, config.listen).await?;
        let url = format!("ws://{}", server.local_addr());

        let mut devnet = Self {
            deployment: built.deployment,
            config,
            accounts,
            chain,
            node,
            node_config,
            client: eth,
            server,
            workers: None,
            url,
            data_dir,
            _removed_at_the_end: temporary,
        };
        devnet.start_workers(progress).await?;
        devnet.start_canaries()?;
        Ok(devnet)
    }

    fn start_canaries(&self) -> eyre::Result<()> {
        if self.config.canaries.is_none() {
            return Ok(());
        }
        self.node.start_canaries(CanaryRole {
            url: self.url.clone(),
            treasury: Role::Treasury.signer()?,
            daily_cap: U256::from(CANARY_CAP) * LCAI,
            accounts: CANARY_ACCOUNTS,
            questions: None,
            paid_from_outside: false,
        })
    }

    /// Stops the node and starts it again from its data directory, at the same address. Workers and users find it again.
    pub async fn restart_node(self) -> eyre::Result<Self> {
        let listen = self.server.local_addr();
        self.server.stop();
        self.server.stopped().await;
        self.node.stop().await;
        let mut disputer = disputer(&self.data_dir.join("disputer")).await?;
        disputer.canary_epoch_seconds = self.config.canaries.map(|canaries| canaries.epoch_seconds);
        let url = format!("ws://{}", self.client.local_addr());
        let client = Arc::new(RpcClient::connect(&url, Some(self.deployment.chain_id)).await?);
        let node = start_node(self.node_config.clone(), &self.chain, client, disputer).await?;
        let server = serve_all(&self.chain, &node, listen).await?;
        let devnet = Self { node, server, ..self };
        devnet.start_canaries()?;
        Ok(devnet)
    }

    async fn start_workers(&mut self, progress: &Progress) -> eyre::Result<()> {
        // Before its first block the node has nothing to tell.
        let mut cursor = self.node.dispatch().cursor();
        tokio::time::timeout(Duration::from_secs(60), cursor.wait_for(Option::is_some)).await??;
        let connection = Connection::open(&self.url, Some(self.deployment.chain_id)).await?;
        let fleet = FleetConfig {
            node: self.config.worker_url.clone().unwrap_or_else(|| self.url.clone()),
            deployment: self.deployment,
            data_dir: self.data_dir.clone(),
            workers: self.config.workers,
            models: self.config.worker_models.clone(),
        };
        self.workers = Some(Fleet::start(&fleet, &connection, progress).await?);
        Ok(())
    }

    /// Where `eth_*` and `lcai_*` are, over WebSocket.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The contracts.
    pub const fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The chain, for mining and reorgs on command.
    pub const fn chain(&self) -> &EmbeddedChain {
        &self.chain
    }

    /// The node.
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// Funded user accounts.
    pub fn users(&self) -> &[PrivateKeySigner] {
        &self.accounts.users
    }

    /// One user account.
    pub fn user(&self, index: usize) -> eyre::Result<&PrivateKeySigner> {
        self.accounts.users.get(index).ok_or_else(|| eyre::eyre!("there is no user account {index}"))
    }

    /// The workers' addresses.
    pub fn workers(&self) -> Vec<Address> {
        self.workers.as_ref().map(Fleet::addresses).unwrap_or_default()
    }

    /// Where journals are kept.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether the chain is on Prague.
    pub const fn is_prague(&self) -> bool {
        self.config.prague
    }

    /// Stops workers, node and chain, in this order.
    pub async fn stop(self) {
        if let Some(workers) = self.workers {
            workers.stop().await;
        }
        self.server.stop();
        self.node.stop().await;
        self.client.stop();
        self.chain.shutdown().await;
    }
}

async fn serve_all(chain: &EmbeddedChain, node: &Node, listen: SocketAddr) -> eyre::Result<RpcHandle> {
    let mut module = RpcModule::new(());
    module.merge(chain.rpc_module()?)?;
    module.merge(node.module())?;
    let server = serve(module, listen, local_limits()).await;
    server.map_err(|e| eyre::eyre!("cannot listen on {listen}: {e}; give --listen another"))
}

fn data_dir(wanted: Option<&Path>) -> eyre::Result<(PathBuf, Option<TempDir>)> {
    let Some(path) = wanted else {
        let temporary = tempfile::Builder::new().prefix("lcai-devnet-").tempdir()?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    std::fs::create_dir_all(path)?;
    if std::fs::read_dir(path)?.next().is_some() {
        let reason = "is not empty: a devnet's chain lives in memory, so its journals cannot be continued";
        return Err(UsageError(format!("--data-dir {} {reason}", path.display())).into());
    }
    Ok((path.to_owned(), None))
}

/// A devnet's callers are its owner's: no rate holds them back.
fn local_limits() -> ServerLimits {
    ServerLimits { calls: Rate { per_second: 100_000.0, burst: 100_000.0 }, ..ServerLimits::default() }
}

fn mining(config: &DevnetConfig) -> Mining {
    if config.on_demand { Mining::Both(config.block_time) } else { Mining::Interval(config.block_time) }
}

/// What the genesis of such a devnet is built of; `timestamp`: unix seconds of its block.
///
/// # Errors
/// When the accounts do not make a valid genesis.
pub fn genesis_spec(
    config: &DevnetConfig,
    accounts: &DevAccounts,
    timestamp: u64,
) -> eyre::Result<GenesisSpec> {
    let fork = if config.prague { Fork::Prague } else { Fork::Osaka };
    let mut spec = dev::spec(accounts, fork, timestamp, config.params)?;
    if let Some(canaries) = config.canaries {
        let call = AIConfig::setSamplingRateBpsCall { bps: U256::from(canaries.sampling_rate_bps) };
        spec.ai_config_calls.push(call.abi_encode().into());
    }
    Ok(spec)
}

async fn build(spec: GenesisSpec) -> eyre::Result<lcai_genesis::BuiltGenesis> {
    blocking(move || Ok(lcai_genesis::build(&spec)?)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> eyre::Result<T> + Send + 'static,
) -> eyre::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// A devnet's node holds dispatcher and disputer both.
async fn disputer(directory: &Path) -> eyre::Result<DisputerRole> {
    std::fs::create_dir_all(directory)?;
    Ok(DisputerRole {
        account: Role::Disputer.signer()?,
        blob_key: Role::DisputerBlob.signer()?,
        escrow: encryption_key(directory)?,
        backend: backend(directory, GOOD_MODEL).await?,
        embedder: None,
        reorg_depth: REORG_DEPTH,
        parallel: 1,
        canary_epoch_seconds: None,
    })
}

async fn start_node(
    config: NodeConfig,
    chain: &EmbeddedChain,
    client: Arc<RpcClient>,
    disputer: DisputerRole,
) -> eyre::Result<Node> {
    let archive = chain.clone();
    let lookup =
        Arc::new(move |hash: B256| archive.blob(hash).map(|blob| Bytes::copy_from_slice(blob.as_slice())));
    let url_client = Arc::try_unwrap(client)
        .map_err(|_| eyre::eyre!("the node's client is in use before the node started"))?
        .with_blobs(lookup);
    let client = Arc::new(url_client);
    let watched = DispatchPlan::watched(&config.deployment);
    let notifier = RpcNotifier::new(client.clone(), Arc::new(config.plan()), NotifierConfig::new(watched));
    Node::start_with(config, client, Box::new(notifier), Some(disputer)).await
}

async fn chain_genesis(chain: &EmbeddedChain) -> eyre::Result<B256> {
    let block = chain
        .rpc("eth_getBlockByNumber", serde_json::json!(["0x0", false]))
        .await
        .map_err(|e| eyre::eyre!("the chain has no genesis block: {e}"))?;
    let hash = block.get("hash").and_then(|hash| hash.as_str()).and_then(|hash| hash.parse().ok());
    hash.ok_or_else(|| eyre::eyre!("the genesis block has no hash"))
}
