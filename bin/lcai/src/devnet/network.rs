//! Starting and stopping a devnet.

use crate::{ask::DEFAULT_MODEL, exit::UsageError, progress::Progress};
use alloy_primitives::{Address, B256, Bytes};
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::RpcModule;
use lcai_crypto::EncryptionSecret;
use lcai_embedded_chain::{ChainConfig, EmbeddedChain, Mining};
use lcai_exex_dispatch::DispatchPlan;
use lcai_genesis::{
    Fork, GenesisSpec, ProtocolParams,
    dev::{self, DevAccounts, Role},
};
use lcai_host::HostClient;
use lcai_host_rpc::{NotifierConfig, RpcClient, RpcNotifier};
use lcai_inference::{Backend, EmbeddedBackend, EmbeddedModel};
use lcai_node::{Node, NodeConfig};
use lcai_primitives::contracts::Deployment;
use lcai_rpc::{Rate, RpcHandle, ServerLimits, serve};
use lcai_sidecar::{Worker, WorkerConfig, WorkerHandle, WorkerKeys, register_worker};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

/// The model we made (devnet/model), in the program so that it runs from anywhere.
const GOOD_MODEL: &[u8] = include_bytes!("../../../../devnet/model/lcai-tiny.gguf");

/// The worse one; it plays the worker that cheats.
const WORSE_MODEL: &[u8] = include_bytes!("../../../../devnet/model/lcai-tiny-worse.gguf");

/// Which file a worker really runs, whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerModel {
    /// The model it is paid for.
    Good,
    /// A worse one under the good one's name.
    Worse,
}

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
            worker_url: None,
        }
    }
}

/// A complete network in this process. One per process: see [`EmbeddedChain`].
pub struct Devnet {
    config: DevnetConfig,
    accounts: DevAccounts,
    deployment: Deployment,
    chain: EmbeddedChain,
    node: Node,
    /// `eth_*` alone, for the node itself.
    client: RpcHandle,
    server: RpcHandle,
    workers: Vec<WorkerHandle>,
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
        let disputer_key = EncryptionSecret::random().public().to_sec1();

        let spec = genesis_spec(&config, &accounts)?;
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
            disputer_encryption_key: Bytes::copy_from_slice(&disputer_key),
            osaka_time: (!config.prague).then_some(0),
            accept_empty_journal: false,
        };
        let node = progress.step("node started", start_node(node_config, &chain, client)).await?;
        let mut module = RpcModule::new(());
        module.merge(chain.rpc_module()?)?;
        module.merge(node.module())?;
        let server = serve(module, config.listen, local_limits()).await?;
        let url = format!("ws://{}", server.local_addr());

        let mut devnet = Self {
            deployment: built.deployment,
            config,
            accounts,
            chain,
            node,
            client: eth,
            server,
            workers: Vec::new(),
            url,
            data_dir,
            _removed_at_the_end: temporary,
        };
        devnet.start_workers(progress).await?;
        Ok(devnet)
    }

    async fn start_workers(&mut self, progress: &Progress) -> eyre::Result<()> {
        let client = Arc::new(RpcClient::connect(&self.url, Some(self.deployment.chain_id)).await?);
        let starting = (0..self.config.workers).map(|n| self.start_worker(n, client.clone()));
        let started = futures::future::try_join_all(starting);
        self.workers = progress.step("workers registered, staked and attached", started).await?;
        progress.step("workers healthy", self.wait_for_slots()).await
    }

    /// Registers (where needed) and starts the n-th worker.
    pub async fn start_worker(&self, n: u32, client: Arc<dyn HostClient>) -> eyre::Result<WorkerHandle> {
        let directory = self.data_dir.join(format!("worker-{n}"));
        std::fs::create_dir_all(&directory)?;
        let keys = WorkerKeys {
            account: Role::Worker(n).signer()?,
            blob: Role::WorkerBlob(n).signer()?,
            encryption: encryption_key(&directory)?,
        };
        let public = keys.encryption.public().to_sec1();
        let models = vec![DEFAULT_MODEL.to_owned()];
        register_worker(client, &self.deployment, &keys.account, &public, None, &models).await?;
        let runs = self.config.worker_models.get(n as usize).copied().unwrap_or(WorkerModel::Good);
        let file = directory.join("model.gguf");
        std::fs::write(&file, if runs == WorkerModel::Good { GOOD_MODEL } else { WORSE_MODEL })?;
        let model = EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path: file, digest: None };
        let backend: Arc<dyn Backend> =
            Arc::new(blocking(move || Ok(EmbeddedBackend::load(&[model], 1)?)).await?);
        let url = self.config.worker_url.clone().unwrap_or_else(|| self.url.clone());
        let config = WorkerConfig::new(url, keys, backend, models, directory);
        Ok(Worker::start(config).await?)
    }

    /// Waits until the directory has a free slot for every worker.
    async fn wait_for_slots(&self) -> eyre::Result<()> {
        for _ in 0..600 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            let ready = self.node.dispatch().read(|core| {
                core.workers()
                    .filter(|(address, _)| core.free_slots(address, now).is_some_and(|s| s > 0))
                    .count()
            });
            if ready >= self.workers.len() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        eyre::bail!("the workers sent no heartbeat within a minute")
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
        self.workers.iter().map(WorkerHandle::address).collect()
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
        for worker in self.workers {
            worker.shutdown().await;
        }
        self.server.stop();
        self.node.stop().await;
        self.client.stop();
        self.chain.shutdown().await;
    }
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

fn genesis_spec(config: &DevnetConfig, accounts: &DevAccounts) -> eyre::Result<GenesisSpec> {
    let fork = if config.prague { Fork::Prague } else { Fork::Osaka };
    // Each start is another chain with another genesis hash: nobody takes an old session for a new one.
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().saturating_sub(1);
    Ok(dev::spec(accounts, fork, timestamp, config.params)?)
}

async fn build(spec: GenesisSpec) -> eyre::Result<lcai_genesis::BuiltGenesis> {
    blocking(move || Ok(lcai_genesis::build(&spec)?)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> eyre::Result<T> + Send + 'static,
) -> eyre::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

async fn start_node(config: NodeConfig, chain: &EmbeddedChain, client: Arc<RpcClient>) -> eyre::Result<Node> {
    let archive = chain.clone();
    let lookup =
        Arc::new(move |hash: B256| archive.blob(hash).map(|blob| Bytes::copy_from_slice(blob.as_slice())));
    let url_client = Arc::try_unwrap(client)
        .map_err(|_| eyre::eyre!("the node's client is in use before the node started"))?
        .with_blobs(lookup);
    let client = Arc::new(url_client);
    let watched = DispatchPlan::watched(&config.deployment);
    let notifier = RpcNotifier::new(client.clone(), Arc::new(config.plan()), NotifierConfig::new(watched));
    Node::start(config, client, Box::new(notifier)).await
}

async fn chain_genesis(chain: &EmbeddedChain) -> eyre::Result<B256> {
    let block = chain
        .rpc("eth_getBlockByNumber", serde_json::json!(["0x0", false]))
        .await
        .map_err(|e| eyre::eyre!("the chain has no genesis block: {e}"))?;
    let hash = block.get("hash").and_then(|hash| hash.as_str()).and_then(|hash| hash.parse().ok());
    hash.ok_or_else(|| eyre::eyre!("the genesis block has no hash"))
}

/// A devnet worker's P-256 key, made once per data directory.
fn encryption_key(directory: &Path) -> eyre::Result<EncryptionSecret> {
    use lcai_crypto::{KdfCost, keystore};
    let path = directory.join("encryption.json");
    if path.exists() {
        return Ok(keystore::read_encryption(&path, "devnet")?);
    }
    let secret = EncryptionSecret::random();
    keystore::write_encryption(&path, &secret, "devnet", KdfCost::Light)?;
    Ok(secret)
}
