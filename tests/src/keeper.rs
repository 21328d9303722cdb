//! A keeper of its own beside the devnet's node: journal, feed, directory, duties, over JSON-RPC.

use crate::network::unix_now;
use alloy_primitives::{Address, B256};
use alloy_signer_local::PrivateKeySigner;
use lcai::devnet::Devnet;
use lcai_exex_dispatch::{Bounties, DispatchConfig, DispatchCore, DispatchPlan, KeeperHandler, KeeperReport};
use lcai_host::{
    EffectExecutor, ExtensionHandle, ExtensionRunner, FeedConfig, FeedWriter, HostClient, Journal,
    JournalIdentity, RunnerConfig, TxLane,
};
use lcai_host_rpc::{NotifierConfig, RpcClient, RpcNotifier};
use lcai_primitives::ids::ModelId;
use std::sync::Arc;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A running keeper.
#[allow(missing_debug_implementations)]
pub struct Keeper {
    /// Its account.
    pub account: Address,
    handler: Arc<KeeperHandler>,
    core: ExtensionHandle<DispatchCore>,
    stop: CancellationToken,
    _directory: TempDir,
}

impl Keeper {
    /// Starts a keeper that releases right after the dispute window and tries again after four seconds.
    pub async fn start(devnet: &Devnet, signer: PrivateKeySigner) -> Self {
        Self::start_with(devnet, signer, |config| config).await
    }

    /// The same with other settings.
    pub async fn start_with(
        devnet: &Devnet,
        signer: PrivateKeySigner,
        change: impl FnOnce(DispatchConfig) -> DispatchConfig,
    ) -> Self {
        let deployment = *devnet.deployment();
        let account = signer.address();
        let client = Arc::new(RpcClient::connect(devnet.url(), Some(deployment.chain_id)).await.unwrap());
        let models = vec![ModelId::from_name(lcai::ask::DEFAULT_MODEL)];
        let directory = tempfile::tempdir().unwrap();
        let watched = DispatchPlan::watched(&deployment);
        let identity = JournalIdentity {
            chain_id: deployment.chain_id,
            genesis_hash: B256::ZERO,
            contracts: watched.clone(),
        };
        let journal = Journal::open(directory.path().join("journal.redb"), identity).unwrap();
        let plan = Arc::new(DispatchPlan::new(deployment, models.clone()));
        let notifier = RpcNotifier::new(client.clone(), plan, NotifierConfig::new(watched));
        let feed = FeedWriter::new(journal.clone(), Box::new(notifier), FeedConfig::default()).unwrap();
        let config = DispatchConfig {
            keeper_account: Some(account),
            release_grace_seconds: 0,
            duty_retry_seconds: 4,
            ..DispatchConfig::new(deployment, models)
        };
        let core = DispatchCore::new(change(config));
        let runner = ExtensionRunner::open(journal, core, feed.subscribe(), RunnerConfig::default()).unwrap();
        let core = runner.handle();
        let host: Arc<dyn HostClient> = client;
        let handler = Arc::new(KeeperHandler::new(deployment, Arc::new(TxLane::new(host.clone(), signer))));
        let executor = EffectExecutor::new(core.effects(), handler.clone(), host);
        let stop = CancellationToken::new();
        let (one, two, three) = (stop.clone(), stop.clone(), stop.clone());
        tokio::spawn(async move { feed.run(one).await });
        tokio::spawn(async move { runner.run(two).await });
        tokio::spawn(async move { executor.run(three).await });
        Self { account, handler, core, stop, _directory: directory }
    }

    /// What its transactions came to.
    pub fn report(&self) -> KeeperReport {
        self.handler.report()
    }

    /// How far it is and what it came to, in words.
    pub fn state(&self) -> String {
        let at = self.core.read(DispatchCore::block_time);
        let planned = self.core.read(DispatchCore::planned_duties);
        let behind = unix_now().saturating_sub(at);
        format!("keeper {behind} s behind, {planned} duties planned, {:?}", self.report())
    }

    /// What it earned, as the chain tells.
    pub fn bounties(&self) -> Bounties {
        self.core.read(DispatchCore::bounties)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
