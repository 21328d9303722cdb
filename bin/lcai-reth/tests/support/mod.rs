//! What the tests share: a chain in Reth's provider, and our node over it behind a real ExEx manager.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

pub mod chain;

use chain::{TestChain, TestProvider};
use lcai_exex_dispatch::{DispatchConfig, DispatchCore, DispatchPlan};
use lcai_genesis::{DEFAULT_CHAIN_ID, addresses, dev::DEV_MODEL};
use lcai_host::{
    BlockRef, Extension, ExtensionRunner, FeedConfig, FeedWriter, Journal, JournalIdentity, RunnerConfig,
    WalkConfig,
};
use lcai_primitives::{contracts::Deployment, ids::ModelId};
use lcai_reth::{
    chain::{DEV, LcaiChainSpecParser},
    client::RethClient,
    exex,
    notifier::{RethNotifier, RethNotifierConfig},
};
use reth_chain_state::ForkChoiceSubscriptions;
use reth_chainspec::ChainSpec;
use reth_cli::chainspec::ChainSpecParser;
use reth_exex::{
    ExExContext, ExExHandle, ExExManager, ExExManagerHandle, ExExNotification, ExExNotificationSource,
    ExExNotifications, FinishedExExHeight, Wal,
};
use reth_exex_test_utils::{Adapter, TestExExHandle, test_exex_context_with_chain_spec};
use reth_node_api::FullNodeComponents;
use reth_transaction_pool::{EthPooledTransaction, noop::NoopTransactionPool};
use std::{sync::Arc, time::Duration};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// For how long something that must come is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

type Client = RethClient<TestProvider, NoopTransactionPool<EthPooledTransaction>>;

/// Notifications that the manager keeps for its slowest ExEx.
pub const MANAGER_ROOM: usize = 64;

/// Reth's parts that outlive one run of our node.
pub struct Host {
    pub chain: TestChain,
    components: Adapter,
    config: reth_node_core::node_config::NodeConfig<ChainSpec>,
    reth_config: reth_config::Config,
    _test: TestExExHandle,
}

impl Host {
    pub async fn start() -> Self {
        let spec = LcaiChainSpecParser::parse(DEV).unwrap();
        let (ctx, test) = test_exex_context_with_chain_spec(spec.clone()).await.unwrap();
        let chain = TestChain::new(ctx.provider().clone(), spec);
        let ExExContext { config, reth_config, components, .. } = ctx;
        Self { chain, components, config, reth_config, _test: test }
    }

    pub fn client(&self) -> Client {
        RethClient::new(self.chain.provider().clone(), NoopTransactionPool::new(), false)
    }

    /// A context as the launcher makes it, with the handle that the manager takes.
    pub fn context(&self, id: &str, wal: &Wal) -> (ExExHandle, ExExContext<Adapter>) {
        let head = self.chain.head();
        let (handle, events, notifications) = ExExHandle::new(
            id.to_owned(),
            head,
            self.components.provider().clone(),
            self.components.evm_config().clone(),
            wal.handle(),
        );
        let context = ExExContext {
            head,
            config: self.config.clone(),
            reth_config: self.reth_config.clone(),
            events,
            notifications,
            components: self.components.clone(),
        };
        (handle, context)
    }

    /// Starts the manager over these ExExes, with room for [`MANAGER_ROOM`] notifications.
    pub fn manage(&self, handles: Vec<ExExHandle>, wal: Wal) -> ExExManagerHandle {
        let finalized = self.components.provider().finalized_block_stream();
        let manager =
            ExExManager::new(self.components.provider().clone(), handles, MANAGER_ROOM, wal, finalized);
        let handle = manager.handle();
        tokio::spawn(async move { manager.await.unwrap() });
        handle
    }
}

pub type Notifications = ExExNotifications<TestProvider, <Adapter as FullNodeComponents>::Evm>;

/// Our node's feed and dispatch extension behind a manager.
pub struct Running {
    pub journal: Arc<Journal>,
    pub manager: ExExManagerHandle,
    feed: Arc<FeedWriter>,
    runner: Arc<ExtensionRunner<DispatchCore>>,
    _stop: DropGuard,
    _wal: TempDir,
}

impl Running {
    /// `poll`: whether the feed also looks by itself. Others can be installed beside ours.
    pub fn start(
        host: &Host,
        journal: Arc<Journal>,
        poll: Option<Duration>,
        beside: impl FnOnce(&Wal) -> Vec<ExExHandle>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let wal = Wal::new(directory.path()).unwrap();
        let (handle, context) = host.context("lcai", &wal);
        let mut handles = beside(&wal);
        handles.push(handle);
        let (end, link) = exex::link();
        tokio::spawn(exex::run(context, end));
        let manager = host.manage(handles, wal);

        let config = RethNotifierConfig { walk: WalkConfig::new(watched()), poll_interval: poll };
        let notifier = RethNotifier::new(Arc::new(host.client()), Arc::new(plan()), config, link);
        let feed =
            Arc::new(FeedWriter::new(journal.clone(), Box::new(notifier), FeedConfig::default()).unwrap());
        let runner =
            ExtensionRunner::open(journal.clone(), core(), feed.subscribe(), RunnerConfig::default());
        let runner = Arc::new(runner.unwrap());
        let token = CancellationToken::new();
        let (writer, stop) = (feed.clone(), token.clone());
        tokio::spawn(async move { writer.run(stop).await.unwrap() });
        let (extension, stop) = (runner.clone(), token.clone());
        tokio::spawn(async move { extension.run(stop).await.unwrap() });
        Self { journal, manager, feed, runner, _stop: token.drop_guard(), _wal: directory }
    }

    /// Tells every ExEx.
    pub async fn notify(&mut self, notification: ExExNotification) {
        self.manager.send_async(ExExNotificationSource::BlockchainTree, notification).await.unwrap();
    }

    /// Waits until the manager was told that everything up to this height is finished, by all.
    pub async fn finished(&self, height: u64) {
        let mut told = self.manager.finished_height();
        let expected = FinishedExExHeight::Height(height);
        let reached = tokio::time::timeout(PATIENCE, told.wait_for(|told| *told == expected));
        let reached = reached.await.map(|told| drop(told.unwrap()));
        assert!(
            reached.is_ok(),
            "the manager was told {:?}, not {height}",
            *self.manager.finished_height().borrow()
        );
    }

    pub fn tip(&self) -> Option<BlockRef> {
        self.journal.feed_tip().unwrap()
    }

    /// Waits until feed and extension stand at the chain's head.
    pub async fn follows(&self, host: &Host) {
        let head = host.chain.head();
        let head = BlockRef { number: head.number, hash: head.hash };
        let reached = async {
            self.feed.subscribe().wait_for(|state| state.tip == Some(head)).await.unwrap();
            self.runner.handle().cursor().wait_for(|cursor| *cursor == Some(head)).await.unwrap();
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| {
            panic!("the feed is at {:?}, the chain at {head:?}", self.tip());
        });
    }
}

pub fn deployment() -> Deployment {
    Deployment {
        chain_id: DEFAULT_CHAIN_ID,
        worker_registry: addresses::WORKER_REGISTRY,
        ai_config: addresses::AI_CONFIG,
        job_registry: addresses::JOB_REGISTRY,
        session_manager: Some(addresses::SESSION_MANAGER),
        reputation_registry: Some(addresses::REPUTATION_REGISTRY),
        canary_ledger: Some(addresses::CANARY_LEDGER),
    }
}

fn models() -> Vec<ModelId> {
    vec![ModelId::from_name(DEV_MODEL)]
}

fn plan() -> DispatchPlan {
    DispatchPlan::new(deployment(), models())
}

fn watched() -> Vec<alloy_primitives::Address> {
    DispatchPlan::watched(&deployment())
}

fn core() -> DispatchCore {
    DispatchCore::new(DispatchConfig { keeper: true, ..DispatchConfig::new(deployment(), models()) })
}

pub fn empty_journal(host: &Host) -> Arc<Journal> {
    Journal::in_memory(JournalIdentity {
        chain_id: DEFAULT_CHAIN_ID,
        genesis_hash: host.chain.genesis_hash(),
        contracts: watched(),
    })
    .unwrap()
}

/// Rows by table: key and value.
pub type Rows = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;

/// Every row the dispatch extension keeps.
pub fn state(journal: &Journal) -> Rows {
    let mut core = core();
    let names: Vec<String> = core.tables().iter().map(|table| table.name().to_owned()).collect();
    names
        .into_iter()
        .map(|name| {
            let rows = journal.rows(DispatchCore::NAME, &name).unwrap();
            (name, rows)
        })
        .collect()
}
