//! Starting and stopping a worker.

use crate::{
    WorkerError, WorkerKeys,
    blobs::PoolForm,
    core::{WorkerCore, WorkerCoreConfig, WorkerPlan, action},
    handler::WorkerHandler,
    heartbeat::{Draining, Heartbeats},
    load::InferenceLoad,
    node::{NodeClient, unix_now},
    prompts::Prompts,
    registration::{Registry, model_id},
    store::{Store, StoreError},
};
use alloy_primitives::{Address, U256, utils::format_ether};
use lcai_host::{
    EffectExecutor, EffectState, ExtensionHandle, ExtensionRunner, FeedConfig, FeedWriter, HostClient,
    Journal, JournalIdentity, RestartPolicy, RunnerConfig, Supervisor, TaskError, TxLane, Watchdog,
    WatchdogConfig,
};
use lcai_host_rpc::{NotifierConfig, RpcClient, RpcNotifier};
use lcai_inference::Backend;
use lcai_primitives::{
    JobState,
    contracts::{Deployment, WorkerRegistry},
    ids::ModelId,
};
use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::{OnceCell, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// The first start looks this many blocks back for jobs that wait already: within the state every client keeps.
const LOOK_BACK: u64 = 100;
/// How long effects may take to come to an end at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Time between two rounds of forgetting.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(600);

/// How a worker runs.
#[derive(Clone)]
pub struct WorkerConfig {
    /// WebSocket address of the node, which serves `eth_*` and `lcai_*`.
    pub node_url: String,
    /// The contracts; `None` takes the node's.
    pub deployment: Option<Deployment>,
    /// The keys.
    pub keys: WorkerKeys,
    /// What answers.
    pub backend: Arc<dyn Backend>,
    /// Names of the models to serve, as on chain.
    pub models: Vec<String>,
    /// A directory of the worker's own, made when needed.
    pub data_dir: PathBuf,
    /// Blocks above the acknowledgement before the signed answer may leave.
    pub ack_depth: u64,
    /// Jobs announced as the worker's limit.
    pub max_jobs: u32,
    /// Answers made at once.
    pub parallel: usize,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// Earnings (wei) that are withdrawn by themselves; `None`: never.
    pub withdraw_at: Option<U256>,
    /// How long after the node knows that the worker drains a session may still come: the lifetime of the dispatcher's
    /// authorizations, and the time until the worker sees one that was spent in its last second.
    pub drain_grace: Duration,
}

impl WorkerConfig {
    /// Depth 2, four jobs, one answer at a time, a heartbeat every ten seconds, no withdrawals, 130 seconds of grace.
    pub fn new(
        node_url: impl Into<String>,
        keys: WorkerKeys,
        backend: Arc<dyn Backend>,
        models: Vec<String>,
        data_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            node_url: node_url.into(),
            deployment: None,
            keys,
            backend,
            models,
            data_dir: data_dir.into(),
            ack_depth: 2,
            max_jobs: 4,
            parallel: 1,
            heartbeat_interval: Duration::from_secs(10),
            withdraw_at: None,
            drain_grace: Duration::from_secs(130),
        }
    }
}

impl fmt::Debug for WorkerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerConfig")
            .field("node_url", &self.node_url)
            .field("keys", &self.keys)
            .field("models", &self.models)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

/// A worker.
#[derive(Debug)]
pub struct Worker;

/// What a worker is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Jobs submitted or acknowledged.
    pub open_jobs: usize,
    /// Sessions that can still bring it a job.
    pub open_sessions: usize,
    /// Sortition requests it has claimed and that may still become sessions.
    pub claimed: usize,
    /// Answers on chain whose signed frame has not left yet.
    pub undelivered: usize,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// Whether the model backend answers.
    pub inference_ready: bool,
    /// Why its effects are halted; `None` when they are not.
    pub halted: Option<String>,
}

/// A running worker. Dropping it leaves it running; [`Self::shutdown`] ends it.
pub struct WorkerHandle {
    address: Address,
    core: ExtensionHandle<WorkerCore>,
    supervisor: Supervisor,
    draining: Arc<Draining>,
    drain_grace: Duration,
    ready: watch::Receiver<bool>,
}

impl fmt::Debug for WorkerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Worker {
    /// Checks everything a worker needs and starts it.
    ///
    /// # Errors
    /// The first thing that is missing, in words that say what to do about it.
    pub async fn start(config: WorkerConfig) -> Result<WorkerHandle, WorkerError> {
        let account = config.keys.account.clone();
        let node = Arc::new(NodeClient::new(config.node_url.clone(), account.clone()));
        let deployment = deployment(&node, config.deployment).await?;
        let client = Arc::new(RpcClient::connect(&config.node_url, Some(deployment.chain_id)).await?);
        let host: Arc<dyn HostClient> = client.clone();
        let models = check(&config, &deployment, host.as_ref()).await?;

        let journal = open_journal(&config, &node, &deployment).await?;
        let notifier = notifier(&client, &deployment, account.address()).await?;
        let feed =
            Arc::new(FeedWriter::new(Arc::clone(&journal), Box::new(notifier), FeedConfig::default())?);
        let core = WorkerCore::new(WorkerCoreConfig {
            ack_depth: config.ack_depth,
            withdraw_at: config.withdraw_at,
            models: models.keys().copied().collect(),
            ..WorkerCoreConfig::new(deployment, account.address())
        });
        let runner =
            ExtensionRunner::open(Arc::clone(&journal), core, feed.subscribe(), RunnerConfig::default())?;
        let runner = Arc::new(runner);
        let core = runner.handle();
        let supervisor = Supervisor::default();
        let (ready, ready_receiver) = watch::channel(true);
        let draining = Arc::new(Draining::default());

        let store = Store::new(journal.records("worker"));
        let handler = WorkerHandler {
            deployment,
            account: account.clone(),
            core: core.clone(),
            host: Arc::clone(&host),
            node: Arc::clone(&node),
            prompts: Prompts::new(
                deployment,
                config.keys.encryption.clone(),
                Arc::clone(&node),
                Arc::clone(&host),
            ),
            store: store.clone(),
            backend: Arc::clone(&config.backend),
            models: models.clone(),
            main: TxLane::new(Arc::clone(&host), account.clone()),
            blobs: TxLane::blob(Arc::clone(&host), config.keys.blob.clone()),
            ack_depth: config.ack_depth,
            atomic: OnceCell::new(),
            form: PoolForm::default(),
            load: InferenceLoad::new(config.parallel),
            // Every job has up to four effects, and most of them wait for the same answer.
            concurrency: usize::try_from(config.max_jobs).unwrap_or(16).saturating_mul(4).clamp(16, 256),
            progress: Arc::default(),
            ready: ready_receiver.clone(),
            draining: Arc::clone(&draining),
            max_jobs: usize::try_from(config.max_jobs).unwrap_or(usize::MAX),
            shutdown: supervisor.token(),
        };
        let executor = Arc::new(EffectExecutor::new(core.effects(), Arc::new(handler), Arc::clone(&host)));
        let watchdog =
            Arc::new(Watchdog::new(Arc::clone(&host), feed.subscribe(), WatchdogConfig::default()));
        let heartbeats = Arc::new(Heartbeats {
            deployment,
            account: account.clone(),
            node,
            backend: config.backend,
            models,
            core: core.clone(),
            host,
            blob_account: config.keys.blob.address(),
            max_jobs: config.max_jobs,
            interval: config.heartbeat_interval,
            draining: Arc::clone(&draining),
            ready,
        });

        let policy = RestartPolicy::default;
        supervisor.spawn("worker feed", policy(), move |token| {
            let feed = Arc::clone(&feed);
            async move { feed.run(token).await.map_err(Into::into) }
        });
        supervisor.spawn("worker core", policy(), move |token| {
            let runner = Arc::clone(&runner);
            async move { runner.run(token).await.map_err(Into::into) }
        });
        supervisor.spawn("worker effects", policy(), move |token| {
            let executor = Arc::clone(&executor);
            async move { executor.run(token).await.map_err(Into::into) }
        });
        supervisor.spawn("worker watchdog", policy(), move |token| {
            let watchdog = Arc::clone(&watchdog);
            async move {
                watchdog.run(token).await;
                Ok(())
            }
        });
        supervisor.spawn("worker heartbeats", policy(), move |token| {
            let heartbeats = Arc::clone(&heartbeats);
            async move {
                heartbeats.run(token).await;
                Ok(())
            }
        });
        supervisor.spawn("worker upkeep", policy(), {
            let core = core.clone();
            move |token| {
                let (core, store) = (core.clone(), store.clone());
                async move { upkeep(&core, &store, token).await.map_err(TaskError::retry) }
            }
        });
        tracing::info!(worker = %account.address(), models = ?config.models, "worker started");
        let (address, drain_grace, ready) = (account.address(), config.drain_grace, ready_receiver);
        Ok(WorkerHandle { address, core, supervisor, draining, drain_grace, ready })
    }
}

impl WorkerHandle {
    /// The worker's account.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// What it is doing.
    pub fn status(&self) -> WorkerStatus {
        let completed = self.core.read(|core| core.jobs_in(JobState::Completed));
        let pending =
            |subject| matches!(self.core.effect(subject, action::DELIVER), Ok(Some(EffectState::Pending)));
        WorkerStatus {
            open_jobs: self.core.read(WorkerCore::open_jobs),
            open_sessions: self.core.read(WorkerCore::open_sessions),
            claimed: self.core.read(WorkerCore::claimed_requests),
            undelivered: completed.into_iter().filter(|subject| pending(*subject)).count(),
            draining: self.draining.is_draining(),
            inference_ready: *self.ready.borrow(),
            halted: self.core.halted(),
        }
    }

    /// Takes no new sessions from now on and serves those it has; returns once none of them can bring another job, and
    /// every job is answered and delivered. Until then, going away would cost stake: a session's user may submit a job to
    /// it at any time before the session is closed, reassigned, or idle for longer than the network's timeout; one whose
    /// authorization was signed before the node knew may still open a session; and a claimed request may still get its
    /// keys.
    pub async fn drain(&self) {
        self.draining.begin();
        loop {
            let status = self.status();
            let none_comes = self.draining.known_for().is_some_and(|known| known >= self.drain_grace);
            let left = status.open_jobs + status.undelivered + status.open_sessions + status.claimed;
            let idle = none_comes && left == 0;
            if status.halted.is_some() || idle {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Takes new sessions again.
    pub fn resume(&self) {
        self.draining.end();
    }

    /// Waits until the worker stops by itself and says why; `None` when it was shut down.
    pub async fn stopped(&self) -> Option<String> {
        let (mut failed, mut halted) = (self.supervisor.failed(), self.core.effects().subscribe_halted());
        let token = self.supervisor.token();
        tokio::select! {
            () = token.cancelled() => None,
            task = failed.wait_for(Option::is_some) => {
                task.ok().and_then(|task| task.as_ref().map(|task| format!("{}: {}", task.task, task.reason)))
            }
            reason = halted.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
        }
    }

    /// Ends the worker. What it was about to do is in its journal and goes on at the next start.
    pub async fn shutdown(self) {
        if !self.supervisor.shutdown(GRACE).await {
            tracing::warn!(worker = %self.address, "the worker did not end in time");
        }
    }
}

/// Forgets answers once nobody can dispute them any more, with a day to spare.
async fn upkeep(
    core: &ExtensionHandle<WorkerCore>,
    store: &Store,
    shutdown: CancellationToken,
) -> Result<(), StoreError> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(UPKEEP_INTERVAL) => {}
        }
        let windows =
            core.read(|core| core.params().map(|p| p.dispute_window.saturating_add(p.resolution_timeout)));
        let Some(windows) = windows else { continue };
        let forgotten =
            store.forget_before(unix_now().saturating_sub(windows.saturating_add(86_400))).await?;
        if forgotten > 0 {
            tracing::info!(answers = forgotten, "old answers forgotten");
        }
    }
}

async fn deployment(node: &NodeClient, expected: Option<Deployment>) -> Result<Deployment, WorkerError> {
    let found = node.network().await?.deployment;
    match expected {
        Some(expected) if expected != found => {
            Err(WorkerError::OtherDeployment { expected: expected.job_registry, found: found.job_registry })
        }
        _ => Ok(found),
    }
}

/// Checks registration, stake, key, models, backend and balances; gives the models by id.
async fn check(
    config: &WorkerConfig,
    deployment: &Deployment,
    client: &dyn HostClient,
) -> Result<BTreeMap<ModelId, String>, WorkerError> {
    let worker = config.keys.account.address();
    if worker == config.keys.blob.address() {
        return Err(WorkerError::SameAccount(worker));
    }
    if config.models.is_empty() {
        return Err(WorkerError::NoModels);
    }
    let registry = Registry { client, deployment, worker };
    if !registry.is_registered().await? {
        return Err(WorkerError::NotRegistered(worker));
    }
    registry.check_key(&config.keys.encryption.public().to_sec1()).await?;
    for account in [worker, config.keys.blob.address()] {
        let has = client.balance(account).await?;
        if has.is_zero() {
            return Err(WorkerError::Underfunded { account, has, needs: U256::from(1) });
        }
    }
    let available = config.backend.models().await?;
    let mut models = BTreeMap::new();
    for model in &config.models {
        let id = model_id(model)?;
        if !available.iter().any(|m| m.name == *model) {
            return Err(WorkerError::ModelMissing(model.clone()));
        }
        if !registry.supports(id).await? {
            return Err(WorkerError::ModelNotAdded { worker, model: model.clone() });
        }
        if !registry.is_eligible(id).await? {
            return Err(WorkerError::NotEligible {
                worker,
                model: model.clone(),
                reason: why_not(&registry).await?,
            });
        }
        models.insert(id, model.clone());
    }
    Ok(models)
}

async fn why_not(registry: &Registry<'_>) -> Result<String, WorkerError> {
    let call = WorkerRegistry::isWorkerSuspendedCall { worker: registry.worker };
    if registry.ask("isWorkerSuspended", call).await? {
        return Ok("it is suspended; `lcai worker reinstate` ends that once the cooldown is over".to_owned());
    }
    let (stake, needs) = (registry.stake().await?, registry.min_stake().await?);
    if stake < needs {
        let (has, needs) = (format_ether(stake), format_ether(needs));
        return Ok(format!(
            "its stake is {has} LCAI of {needs} LCAI; `lcai worker top-up` adds what is missing"
        ));
    }
    Ok("the registry gives no reason".to_owned())
}

async fn open_journal(
    config: &WorkerConfig,
    node: &NodeClient,
    deployment: &Deployment,
) -> Result<Arc<Journal>, WorkerError> {
    let identity = JournalIdentity {
        chain_id: deployment.chain_id,
        genesis_hash: node.genesis_hash().await?,
        contracts: WorkerPlan::watched(deployment),
    };
    let directory = config.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let unusable = |e: std::io::Error| WorkerError::DataDirectory {
            path: directory.display().to_string(),
            reason: e.to_string(),
        };
        std::fs::create_dir_all(&directory).map_err(unusable)?;
        Ok(Journal::open(directory.join("worker.redb"), identity)?)
    });
    opened.await.map_err(|e| WorkerError::Task(e.to_string()))?
}

async fn notifier(
    client: &Arc<RpcClient>,
    deployment: &Deployment,
    worker: Address,
) -> Result<RpcNotifier, WorkerError> {
    let head = client.heads().await?.head.number;
    let config = NotifierConfig {
        start_block: head.saturating_sub(LOOK_BACK),
        ..NotifierConfig::new(WorkerPlan::watched(deployment))
    };
    let plan = Arc::new(WorkerPlan::new(*deployment, worker));
    Ok(RpcNotifier::new(Arc::clone(client), plan, config))
}
