//! A node: the extensions over a host, and the `lcai_*` module that serves them. Every host uses this one assembly.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod canaries;
mod disputer;
mod drill;
mod readout;
mod start_check;

pub use canaries::{Awaited, CANARY_ACCOUNTS, CanaryRole};
pub use disputer::{DisputerHandle, DisputerRole, REORG_DEPTH};
pub use lcai_exex_disputer::canary::Book;

use alloy_primitives::{B256, Bytes};
use alloy_signer_local::PrivateKeySigner;
use disputer::Surroundings;
use eyre::WrapErr;
use jsonrpsee::{Methods, RpcModule};
use lcai_blob::{BeaconSource, BlobKeeper, BlobKeeperHandler, BlobSource, BlobStore, HostBlobs, Locate};
use lcai_exex_dispatch::{
    DispatchConfig, DispatchCore, DispatchPlan, DispatchService, DispatchServiceConfig, KeeperHandler,
};
use lcai_host::{
    EffectExecutor, EffectHandler, Extension, ExtensionHandle, ExtensionRunner, FeedConfig, FeedState,
    FeedWriter, Heads, HostClient, HostNotifier, Journal, JournalIdentity, RestartPolicy, RunnerConfig,
    Supervisor, TaskError, TxLane, Watchdog, WatchdogConfig,
};
use lcai_primitives::{contracts::Deployment, ids::ModelId};
use lcai_rpc::{
    BlobService, DEFAULT_SESSION_CAP, DispatchDirectory, ExtensionStatus, FrameStore, LcaiApiServer,
    LcaiOperatorApiServer, LcaiRpc, Publisher, PublisherConfig, Relay, RelayConfig, RpcParts, RpcSettings,
    TokenConfig, TokenIssuer, Upstream,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Most bytes of blobs a node keeps.
const BLOB_STORE_BYTES: u64 = 4 << 30;

/// How long tasks may take to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// What a node is told once and for all.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The contracts.
    pub deployment: Deployment,
    /// Tells apart two chains with the same id.
    pub genesis_hash: B256,
    /// Where journal, frames and blobs are kept.
    pub data_dir: PathBuf,
    /// Names of models, which the chain only knows by their hash.
    pub models: Vec<String>,
    /// Signs session authorizations.
    pub dispatcher: Option<PrivateKeySigner>,
    /// Performs keeper duties.
    pub keeper: Option<PrivateKeySigner>,
    /// Posts blobs for users.
    pub blob_key: Option<PrivateKeySigner>,
    /// The disputer's P-256 key, 65 bytes uncompressed, or empty.
    pub disputer_encryption_key: Bytes,
    /// Unix seconds from which the chain takes EIP-7594 sidecars (Osaka); `None`: not scheduled.
    pub osaka_time: Option<u64>,
    /// Start although the journal is empty and the chain shows that this node's keys have acted: what they signed is
    /// forgotten.
    pub accept_empty_journal: bool,
    /// The node (`ws://…`) to which sessions, tokens and frames are handed on; for a node that does not dispatch.
    pub upstream: Option<String>,
    /// Beacon APIs (`http://…`) in which blobs are looked for that neither the store nor the execution client has.
    pub beacons: Vec<String>,
}

impl NodeConfig {
    /// What the journal must be of.
    pub fn journal_identity(&self) -> JournalIdentity {
        JournalIdentity {
            chain_id: self.deployment.chain_id,
            genesis_hash: self.genesis_hash,
            contracts: DispatchPlan::watched(&self.deployment),
        }
    }

    /// The reads the feed must carry for this node's extensions.
    pub fn plan(&self) -> DispatchPlan {
        DispatchPlan::new(self.deployment, self.models.iter().map(|name| ModelId::from_name(name)).collect())
    }
}

/// A running node.
pub struct Node {
    supervisor: Supervisor,
    relay: Arc<Relay>,
    dispatch: ExtensionHandle<DispatchCore>,
    disputer: Option<DisputerHandle>,
    journal: Arc<Journal>,
    client: Arc<dyn HostClient>,
    module: RpcModule<()>,
    operator: RpcModule<()>,
    feed: watch::Receiver<FeedState>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("dispatch", &self.dispatch).finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the journals and starts every task.
    pub async fn start(
        config: NodeConfig,
        client: Arc<dyn HostClient>,
        notifier: Box<dyn HostNotifier>,
    ) -> eyre::Result<Self> {
        Self::start_with(config, client, notifier, None).await
    }

    /// As [`Self::start`], with the disputer in the same node.
    pub async fn start_with(
        config: NodeConfig,
        client: Arc<dyn HostClient>,
        notifier: Box<dyn HostNotifier>,
        disputer: Option<DisputerRole>,
    ) -> eyre::Result<Self> {
        std::fs::create_dir_all(&config.data_dir)?;
        let journal = Journal::open(config.data_dir.join("journal.redb"), config.journal_identity())?;
        let others = disputer.as_ref().map(DisputerRole::accounts).unwrap_or_default();
        start_check::refuse_forgotten_acts(&config, &journal, &*client, &others).await?;
        let supervisor = Supervisor::default();
        let (feed, heads) = start_feed(&supervisor, &journal, client.clone(), notifier)?;

        let known_models = config.models.iter().map(|name| ModelId::from_name(name)).collect();
        let dispatch_config = DispatchConfig {
            keeper: config.keeper.is_some(),
            keeper_account: config.keeper.as_ref().map(PrivateKeySigner::address),
            ..DispatchConfig::new(config.deployment, known_models)
        };
        let core = DispatchCore::new(dispatch_config);
        let dispatch = start_extension(&supervisor, &journal, &feed, client.clone(), core, None, "dispatch")?;

        let blobs = Arc::new(BlobStore::open(&config.data_dir.join("blobs.redb"), BLOB_STORE_BYTES)?);
        let retention = {
            let dispatch = dispatch.clone();
            Arc::new(move || dispatch.read(|core| core.params().map(|p| p.blob_retention_period)))
        };
        // They are told the block of each blob.
        let beacons = beacons(&config, &(Arc::new(|_| None) as Locate))?;
        let fetcher: Arc<dyn EffectHandler> =
            Arc::new(BlobKeeperHandler::new(blobs.clone(), retention, beacons));
        let keeper = start_extension(
            &supervisor,
            &journal,
            &feed,
            client.clone(),
            BlobKeeper::default(),
            Some(fetcher),
            "blobs",
        )?;
        let sources = blob_sources(&config, client.clone(), &keeper)?;

        let disputer = disputer
            .map(|role| {
                let (journal, client) = (&journal, client.clone());
                let (config, supervisor, feed) = (&config, &supervisor, &feed);
                let mut blobs: Vec<Arc<dyn BlobSource>> = vec![blobs.clone()];
                blobs.extend(sources.iter().cloned());
                disputer::start(role, Surroundings { config, supervisor, journal, feed, client, blobs })
            })
            .transpose()?;
        let service = Arc::new(DispatchService::new(
            DispatchServiceConfig {
                deployment: config.deployment,
                disputer_encryption_key: config.disputer_encryption_key.clone(),
                dispatcher: config.dispatcher.clone(),
            },
            dispatch.clone(),
            client.clone(),
            journal.records("dispatch"),
        ));
        let parts = Parts {
            journal: journal.clone(),
            client: client.clone(),
            service,
            blobs,
            sources,
            feed: feed.clone(),
            heads,
        };
        let mut extensions: Vec<Arc<dyn ExtensionStatus>> =
            vec![Arc::new(dispatch.clone()), Arc::new(keeper)];
        if let Some(disputer) = &disputer {
            extensions.push(Arc::new(disputer.core.clone()));
        }
        let Rpc { relay, module, mut operator } = start_rpc(&config, &supervisor, parts, extensions)?;
        // The keeper's effects wait in the journal until here: it files what the relay keeps.
        if let Some(signer) = config.keeper.clone() {
            let lane = Arc::new(TxLane::new(client.clone(), signer));
            let handler = KeeperHandler::new(config.deployment, lane).with_answers(relay.clone());
            start_effects(&supervisor, &dispatch, Arc::new(handler), client.clone(), "dispatch");
        }
        operator.merge(readout::module(disputer.clone()))?;
        Ok(Self { supervisor, relay, dispatch, disputer, journal, client, module, operator, feed })
    }

    /// The `lcai_*` methods, to be merged into a server.
    pub fn module(&self) -> RpcModule<()> {
        self.module.clone()
    }

    /// `lcaiOperator_*`, to be merged into a server that only the operator reaches.
    pub fn operator_module(&self) -> RpcModule<()> {
        self.operator.clone()
    }

    /// `lcaiOperator_panicTask`: for drills, on a server that only the operator reaches.
    pub fn drill_module(&self) -> Methods {
        drill::module(self.supervisor.clone())
    }

    /// What the feed holds, as it changes.
    pub fn feed(&self) -> watch::Receiver<FeedState> {
        self.feed.clone()
    }

    /// The directory.
    pub const fn dispatch(&self) -> &ExtensionHandle<DispatchCore> {
        &self.dispatch
    }

    /// The disputer, where this node is one.
    pub const fn disputer(&self) -> Option<&DisputerHandle> {
        self.disputer.as_ref()
    }

    /// Starts sending canaries, once the node that they go through serves.
    ///
    /// # Errors
    /// When this node is no disputer that commits to canaries.
    pub fn start_canaries(&self, role: CanaryRole) -> eyre::Result<()> {
        let disputer = self.disputer.as_ref().filter(|disputer| disputer.seeds.is_some());
        let disputer =
            disputer.ok_or_else(|| eyre::eyre!("this node commits to no canaries, so it sends none"))?;
        let records = self.journal.records("canaries");
        let runner = canaries::CanaryRunner::new(role, disputer.clone(), self.client.clone(), records);
        self.supervisor.spawn("canaries", RestartPolicy::default(), move |token| runner.clone().run(token));
        Ok(())
    }

    /// Stops every task; what was accepted is durable when this returns.
    pub async fn stop(self) {
        self.supervisor.shutdown(SHUTDOWN_GRACE).await;
        self.relay.close().await;
    }
}

fn start_feed(
    supervisor: &Supervisor,
    journal: &Arc<Journal>,
    client: Arc<dyn HostClient>,
    notifier: Box<dyn HostNotifier>,
) -> eyre::Result<(watch::Receiver<FeedState>, watch::Receiver<Option<Heads>>)> {
    let writer = Arc::new(FeedWriter::new(journal.clone(), notifier, FeedConfig::default())?);
    let feed = writer.subscribe();
    supervisor.spawn("feed", RestartPolicy::default(), move |token| {
        let writer = writer.clone();
        async move { Ok(writer.run(token).await?) }
    });
    let watchdog = Arc::new(Watchdog::new(client, feed.clone(), WatchdogConfig::default()));
    let heads = watchdog.heads();
    supervisor.spawn("watchdog", RestartPolicy::default(), move |token| {
        let watchdog = watchdog.clone();
        async move {
            watchdog.run(token).await;
            Ok(())
        }
    });
    Ok((feed, heads))
}

struct Rpc {
    relay: Arc<Relay>,
    module: RpcModule<()>,
    operator: RpcModule<()>,
}

struct Parts {
    journal: Arc<Journal>,
    client: Arc<dyn HostClient>,
    service: Arc<DispatchService>,
    blobs: Arc<BlobStore>,
    sources: Vec<Arc<dyn BlobSource>>,
    feed: watch::Receiver<FeedState>,
    heads: watch::Receiver<Option<Heads>>,
}

/// Where blobs are looked for that the store does not have, in order: the execution client, then the consensus clients.
fn blob_sources(
    config: &NodeConfig,
    client: Arc<dyn HostClient>,
    keeper: &ExtensionHandle<BlobKeeper>,
) -> eyre::Result<Vec<Arc<dyn BlobSource>>> {
    let keeper = keeper.clone();
    let locate: Locate = Arc::new(move |hash| keeper.read(|keeper| keeper.included_at(&hash)));
    let mut sources: Vec<Arc<dyn BlobSource>> = vec![Arc::new(HostBlobs::new(client))];
    sources.extend(beacons(config, &locate)?);
    Ok(sources)
}

/// The consensus clients, in order.
fn beacons(config: &NodeConfig, locate: &Locate) -> eyre::Result<Vec<Arc<dyn BlobSource>>> {
    let beacon = |url: &String| -> eyre::Result<Arc<dyn BlobSource>> {
        Ok(Arc::new(BeaconSource::new(url, locate.clone())?))
    };
    config.beacons.iter().map(beacon).collect()
}

fn start_rpc(
    config: &NodeConfig,
    supervisor: &Supervisor,
    parts: Parts,
    extensions: Vec<Arc<dyn ExtensionStatus>>,
) -> eyre::Result<Rpc> {
    let directory = Arc::new(DispatchDirectory::new(parts.service.clone(), config.models.clone()));
    let store = FrameStore::open(&config.data_dir.join("frames.redb"), DEFAULT_SESSION_CAP)?;
    let relay = Arc::new(Relay::new(store, directory.clone(), RelayConfig::new(config.deployment))?);
    supervisor.spawn("relay", RestartPolicy::default(), {
        let relay = relay.clone();
        move |token| {
            let relay = relay.clone();
            async move {
                tokio::select! {
                    () = relay.run() => {}
                    () = token.cancelled() => {}
                }
                Ok(())
            }
        }
    });
    supervisor.spawn("pins", RestartPolicy::default(), move |token| prune_pins(parts.service.clone(), token));
    let publisher = config.blob_key.clone().map(|signer| {
        let lane = Arc::new(TxLane::blob(parts.client.clone(), signer));
        let quotas = parts.journal.records("blob quota");
        Publisher::new(lane, parts.client.clone(), quotas, PublisherConfig::new(config.osaka_time))
    });
    let upstream = config.upstream.as_ref().map(|url| Upstream::new(url, config.deployment)).transpose()?;
    let token_key = config.data_dir.join("token.key");
    let tokens = TokenIssuer::open(&token_key, config.deployment.chain_id, TokenConfig::default())
        .wrap_err_with(|| format!("the key of logins, {}", token_key.display()))?;
    let rpc = LcaiRpc::new(RpcParts {
        deployment: config.deployment,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        disputer_encryption_key: config.disputer_encryption_key.clone(),
        directory,
        feed: parts.feed,
        heads: parts.heads,
        failed: supervisor.failed(),
        extensions,
        relay: relay.clone(),
        tokens: Arc::new(tokens),
        blobs: BlobService::new(parts.blobs, parts.sources, publisher),
        upstream: upstream.clone(),
        settings: RpcSettings::default(),
    });
    let mut operator = RpcModule::new(());
    operator.merge(rpc.operator().into_rpc())?;
    let mut module = RpcModule::new(());
    module.merge(rpc.into_rpc())?;
    if let Some(upstream) = upstream {
        upstream.take_over(&mut module)?;
    }
    Ok(Rpc { relay, module, operator })
}

/// Forgets expired pins every ten minutes.
async fn prune_pins(service: Arc<DispatchService>, token: CancellationToken) -> Result<(), TaskError> {
    loop {
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(600)) => service.prune().await.map_err(TaskError::retry)?,
        }
    }
}

/// Starts an extension and, where it has a handler, the execution of its effects.
fn start_extension<E: Extension>(
    supervisor: &Supervisor,
    journal: &Arc<Journal>,
    feed: &watch::Receiver<FeedState>,
    client: Arc<dyn HostClient>,
    core: E,
    handler: Option<Arc<dyn EffectHandler>>,
    task: &'static str,
) -> eyre::Result<ExtensionHandle<E>> {
    let runner =
        Arc::new(ExtensionRunner::open(journal.clone(), core, feed.clone(), RunnerConfig::default())?);
    let handle = runner.handle();
    supervisor.spawn(task, RestartPolicy::default(), move |token| {
        let runner = runner.clone();
        async move { Ok(runner.run(token).await?) }
    });
    if let Some(handler) = handler {
        start_effects(supervisor, &handle, handler, client, task);
    }
    Ok(handle)
}

/// Starts the execution of an extension's effects.
fn start_effects<E: Extension>(
    supervisor: &Supervisor,
    handle: &ExtensionHandle<E>,
    handler: Arc<dyn EffectHandler>,
    client: Arc<dyn HostClient>,
    task: &'static str,
) {
    let executor = Arc::new(EffectExecutor::new(handle.effects(), handler, client));
    supervisor.spawn(task, RestartPolicy::default(), move |token| {
        let executor = executor.clone();
        async move { Ok(executor.run(token).await?) }
    });
}
