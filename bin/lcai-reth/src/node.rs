//! Putting the extensions into a Reth node.

use crate::{
    args::Settings,
    client::RethClient,
    exex::{self, EXEX_ID, ExExEnd},
    keys,
    notifier::{ExExLink, RethNotifier, RethNotifierConfig},
    provider::{NodePool, NodeProvider},
    pruning,
};
use alloy_consensus::BlockHeader;
use alloy_primitives::Bytes;
use alloy_signer_local::PrivateKeySigner;
use lcai_exex_dispatch::DispatchPlan;
use lcai_genesis::{
    DEFAULT_CHAIN_ID,
    dev::{DEV_MODEL, Role},
};
use lcai_host::{BlockRef, HostClient, WalkConfig};
use lcai_node::{DisputerRole, Node, NodeConfig};
use lcai_primitives::contracts::Deployment;
use parking_lot::Mutex;
use reth_chainspec::{ChainSpec, EthChainSpec, EthereumHardfork, EthereumHardforks, ForkCondition};
use reth_exex::ExExContext;
use reth_node_api::{FullNodeComponents, NodeTypes};
use reth_provider::{DatabaseProviderFactory, PruneCheckpointReader, PruneCheckpointWriter};
use reth_prune_types::PruneModes;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How often the head is looked at whatever the notifications say, in a node that operators run.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How old the newest block of a synced node may be.
const SYNCED_WITHIN: Duration = Duration::from_secs(3600);

/// The assembled node, for the RPC server that is built after it.
pub type Assembled = Arc<Mutex<Option<Node>>>;

/// What assembling takes from the command line.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Our settings.
    pub settings: Settings,
    /// Whether the node is a development node.
    pub dev: bool,
    /// How often the head is looked at whatever the notifications say; `None` believes them, which only tests do.
    pub poll_interval: Option<Duration>,
}

impl Launch {
    /// Whether the public keys of the development chain stand in for keys that were not given. A node before another one
    /// stands in for none of its roles.
    pub(crate) const fn uses_dev_keys(&self, chain_id: u64) -> bool {
        self.dev && chain_id == DEFAULT_CHAIN_ID && self.settings.args.upstream.is_none()
    }
}

/// The ExEx for Reth's node builder: the outer future assembles everything and can refuse to start; the inner one runs.
///
/// # Errors
/// When a key cannot be used, the journal is of another chain, or what it lacks is gone from the node's database.
pub async fn extension<N>(
    ctx: ExExContext<N>,
    launch: Launch,
    assembled: Assembled,
) -> eyre::Result<impl Future<Output = eyre::Result<()>>>
where
    N: FullNodeComponents<Provider: NodeProvider + PruneCheckpointReader, Pool: NodePool>,
    N::Types: NodeTypes<ChainSpec = ChainSpec>,
    N::Provider: DatabaseProviderFactory<ProviderRW: PruneCheckpointReader + PruneCheckpointWriter>,
{
    let (end, link) = exex::link();
    let datadir = launch.settings.args.datadir.clone().unwrap_or_else(|| {
        let chain = ctx.config.datadir.clone().resolve_datadir(ctx.config.chain.chain());
        chain.data_dir().join(EXEX_ID)
    });
    // The flags and, where they say nothing, the file that Reth keeps them in.
    let pruned = ctx.reth_config.prune.segments.clone();
    pruning::refuse_dropped_filter(ctx.provider(), &pruned)?;
    pruning::note_pruned_senders(ctx.provider(), &pruned)?;
    let filtered = pruning::filters_receipts(&pruned);
    let client = RethClient::new(ctx.provider().clone(), ctx.pool().clone(), filtered);
    let node = assemble(client, launch, datadir, link, pruned).await?;
    *assembled.lock() = Some(node);
    let stop = assembled.clone();
    ctx.task_executor().spawn_with_graceful_shutdown_signal(move |shutdown| async move {
        let guard = shutdown.await;
        let node = stop.lock().take();
        if let Some(node) = node {
            node.stop().await;
        }
        drop(guard);
    });
    Ok(run(ctx, end))
}

async fn run<N>(ctx: ExExContext<N>, end: ExExEnd) -> eyre::Result<()>
where
    N: FullNodeComponents<Provider: NodeProvider>,
{
    exex::run(ctx, end).await
}

/// Opens keys and journals and starts the extensions over a chain.
///
/// # Errors
/// As [`extension`].
pub async fn assemble<P, T>(
    client: RethClient<P, T>,
    launch: Launch,
    datadir: PathBuf,
    link: ExExLink,
    pruned: PruneModes,
) -> eyre::Result<Node>
where
    P: NodeProvider + PruneCheckpointReader,
    T: NodePool,
{
    let chain = client.provider().chain_spec();
    let deployment = launch.settings.contracts.on(client.chain_id()).resolve(&client).await?;
    let watched = DispatchPlan::watched(&deployment);
    pruning::refuse_settings(&pruned, &watched)?;
    let (poll_interval, dev) = (launch.poll_interval, launch.dev);
    let disputer = disputer(&launch, deployment.chain_id, &datadir).await?;
    let config = config(launch, deployment, &chain, datadir, disputer.as_ref()).await?;
    let tip = feed_tip(&config.data_dir, &config)?;
    pruning::refuse_gap(client.provider(), tip, pruning::filters_receipts(&pruned))?;
    if !dev && tip.is_none() && !config.accept_empty_journal && has_keys(&config, disputer.is_some()) {
        let head = client.provider().latest_header()?.map_or(0, |head| head.timestamp());
        refuse_unsynced(&config.data_dir, head, SystemTime::now())?;
    }
    tokio::task::spawn_blocking(lcai_blob::warm).await?;

    let walk = RethNotifierConfig { walk: WalkConfig::new(watched), poll_interval };
    let client = Arc::new(client);
    let notifier = RethNotifier::new(client.clone(), Arc::new(config.plan()), walk, link);
    tracing::info!(target: "lcai", datadir = %config.data_dir.display(), job_registry = %config.deployment.job_registry,
        dispatcher = config.dispatcher.is_some(), keeper = config.keeper.is_some(), disputer = disputer.is_some(), "extensions start");
    let disputer = disputer.map(|(role, _)| role);
    Node::start_with(config, client as Arc<dyn HostClient>, Box::new(notifier), disputer).await
}

/// The disputer's role and the names of its models, where the settings ask for one.
async fn disputer(
    launch: &Launch,
    chain_id: u64,
    datadir: &Path,
) -> eyre::Result<Option<(DisputerRole, Vec<String>)>> {
    let args = &launch.settings.args;
    let (encryption_key, dev) = (args.disputer_encryption_key.as_deref(), launch.uses_dev_keys(chain_id));
    let dispatches = args.dispatcher_key.is_some();
    let Some(settings) = args.disputer.check(encryption_key, &args.models, dispatches, dev)? else {
        return Ok(None);
    };
    let models = settings.models.names();
    let role = settings.open(datadir.to_owned(), args.password_file.clone()).await?;
    Ok(Some((role, models)))
}

async fn config(
    launch: Launch,
    deployment: Deployment,
    chain: &ChainSpec,
    data_dir: PathBuf,
    disputer: Option<&(DisputerRole, Vec<String>)>,
) -> eyre::Result<NodeConfig> {
    let dev_keys = launch.uses_dev_keys(deployment.chain_id);
    let dev = launch.dev && deployment.chain_id == DEFAULT_CHAIN_ID;
    let args = launch.settings.args;
    let osaka_time = match chain.ethereum_fork_activation(EthereumHardfork::Osaka) {
        ForkCondition::Timestamp(time) => Some(time),
        _ => None,
    };
    let mut models = args.models;
    if dev && models.is_empty() {
        models.push(DEV_MODEL.to_owned());
    }
    for name in disputer.iter().flat_map(|(_, names)| names) {
        if !models.contains(name) {
            models.push(name.clone());
        }
    }
    let (password_file, files) = (
        args.password_file,
        [
            ("dispatcher", args.dispatcher_key, Role::Dispatcher),
            ("keeper", args.keeper_key, Role::Keeper),
            ("blob", args.blob_key, Role::NodeBlob),
        ],
    );
    // Key derivation is slow on purpose; it runs where it blocks nobody.
    let keys = tokio::task::spawn_blocking(move || {
        let password = keys::password(password_file.as_deref())?;
        let password = password.as_ref().map(|password| password.as_str());
        files
            .into_iter()
            .map(|(name, file, role)| key(name, file.as_deref(), role, dev_keys, password))
            .collect()
    });
    let keys: eyre::Result<Vec<Option<PrivateKeySigner>>> = keys.await?;
    let [dispatcher, keeper, blob_key] =
        <[_; 3]>::try_from(keys?).map_err(|_| eyre::eyre!("three keys are read, so three come back"))?;
    let disputer_encryption_key = match (disputer, args.disputer_encryption_key) {
        (Some((role, _)), _) => Bytes::copy_from_slice(&role.escrow.public().to_sec1()),
        (None, Some(file)) => keys::encryption_public("disputer's encryption", &file)?,
        (None, None) => Bytes::new(),
    };
    Ok(NodeConfig {
        deployment,
        genesis_hash: chain.genesis_hash(),
        data_dir,
        models,
        dispatcher,
        keeper,
        blob_key,
        disputer_encryption_key,
        osaka_time,
        accept_empty_journal: args.accept_empty_journal,
        upstream: args.upstream,
        beacons: args.beacons,
    })
}

fn key(
    name: &'static str,
    file: Option<&Path>,
    role: Role,
    dev: bool,
    password: Option<&str>,
) -> eyre::Result<Option<PrivateKeySigner>> {
    match file {
        Some(file) => Ok(Some(keys::account(name, file, password)?)),
        None if dev => Ok(Some(role.signer()?)),
        None => Ok(None),
    }
}

/// Whether this node acts under a key.
const fn has_keys(config: &NodeConfig, disputer: bool) -> bool {
    disputer || config.dispatcher.is_some() || config.keeper.is_some() || config.blob_key.is_some()
}

/// Refuses keys beside an empty journal while the node lacks the blocks by which [`Node::start_with`] sees whether these keys
/// have acted before. `head` is the time of the node's newest block.
fn refuse_unsynced(data_dir: &Path, head: u64, now: SystemTime) -> eyre::Result<()> {
    let age = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(Duration::from_secs(head));
    eyre::ensure!(
        age <= SYNCED_WITHIN,
        "the journal in {} is empty, and this node's newest block is {} hours old: whether its keys have acted is on blocks \
         that it does not have. Sync once with --lcai.off, give the data directory it had, or start with \
         --lcai.accept-empty-journal if the keys are new",
        data_dir.display(),
        age.as_secs() / 3600
    );
    Ok(())
}

/// Where the journal stands, before it is opened for good.
fn feed_tip(data_dir: &Path, config: &NodeConfig) -> eyre::Result<Option<BlockRef>> {
    let path = data_dir.join("journal.redb");
    if !path.exists() {
        return Ok(None);
    }
    Ok(lcai_host::Journal::open(path, config.journal_identity())?.feed_tip()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_wait_for_the_chain_where_the_journal_is_empty() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let refused = |head: u64| refuse_unsynced(Path::new("lost"), head, now).err().map(|e| e.to_string());
        // Also with a clock that is behind the chain's.
        for head in [1_800_000_012, 1_800_000_000, 1_800_000_000 - 3600] {
            assert_eq!(refused(head), None);
        }
        let said = refused(1_800_000_000 - 7201).unwrap();
        assert!(said.contains("lost") && said.contains("2 hours") && said.contains("--lcai.off"), "{said}");
    }
}
