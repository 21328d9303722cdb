//! Signs of life.

use crate::{
    core::WorkerCore,
    node::{NodeClient, unix_now},
};
use alloy_eips::eip4844::DATA_GAS_PER_BLOB;
use alloy_primitives::{Address, Bytes, U256, utils::format_ether};
use alloy_signer_local::PrivateKeySigner;
use lcai_crypto::sign_typed;
use lcai_host::{ExtensionHandle, HostClient};
use lcai_inference::Backend;
use lcai_primitives::{
    contracts::Deployment,
    eip712::{self, Heartbeat, HeartbeatStatus},
    ids::ModelId,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long the backend may take to say that it is there.
const BACKEND_PATIENCE: Duration = Duration::from_secs(5);

/// Gas of a job's transactions on one account.
const JOB_GAS: u128 = 400_000;
/// Wei per gas that a lane adds to the base fee.
const TIP: u128 = 1_000_000_000;
/// Rounds of full load that the accounts must be able to pay for.
const JOBS_AHEAD: u128 = 3;

/// Whether the worker takes new sessions.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    state: Mutex<DrainState>,
    changed: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct DrainState {
    draining: bool,
    /// When the node took the first heartbeat that says so.
    told: Option<Instant>,
}

impl Draining {
    pub(crate) fn begin(&self) {
        self.state.lock().draining = true;
        self.changed.notify_one();
    }

    pub(crate) fn end(&self) {
        *self.state.lock() = DrainState::default();
        self.changed.notify_one();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.state.lock().draining
    }

    /// The node took a heartbeat that says so.
    fn told(&self) {
        let mut state = self.state.lock();
        if state.draining {
            state.told.get_or_insert_with(Instant::now);
        }
    }

    /// How long the node has known; `None` while it does not.
    pub(crate) fn known_for(&self) -> Option<Duration> {
        self.state.lock().told.map(|told| told.elapsed())
    }
}

/// Sends signed heartbeats.
pub(crate) struct Heartbeats {
    pub(crate) deployment: Deployment,
    pub(crate) account: PrivateKeySigner,
    pub(crate) node: Arc<NodeClient>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) models: BTreeMap<ModelId, String>,
    pub(crate) core: ExtensionHandle<WorkerCore>,
    pub(crate) host: Arc<dyn HostClient>,
    /// Posts response blobs.
    pub(crate) blob_account: Address,
    pub(crate) max_jobs: u32,
    pub(crate) interval: Duration,
    pub(crate) draining: Arc<Draining>,
    pub(crate) ready: watch::Sender<bool>,
}

impl Heartbeats {
    /// Sends one at once, then every interval and whenever draining begins or ends, until `shutdown`.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        let started = Instant::now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut sequence = u64::try_from(since.as_millis()).unwrap_or_default();
        loop {
            let ready = self.backend_is_ready().await;
            self.ready.send_replace(ready);
            let funded = self.is_funded().await;
            let heartbeat = self.heartbeat(ready, funded, sequence, started.elapsed());
            let draining = heartbeat.status == HeartbeatStatus::Draining;
            sequence += 1;
            let pause = match self.send(heartbeat).await {
                Ok(()) => {
                    if draining {
                        self.draining.told();
                    }
                    metrics::gauge!("lcai_worker_heartbeat_last_timestamp_seconds").set(unix_now() as f64);
                    self.interval
                }
                Err(reason) => {
                    tracing::warn!(reason, "the heartbeat was not taken");
                    // A node that is away is tried more often: without heartbeats no session comes.
                    self.interval.min(Duration::from_secs(2))
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.draining.changed.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Whether the backend has every model the worker serves.
    async fn backend_is_ready(&self) -> bool {
        let ready = match timeout(BACKEND_PATIENCE, self.backend.models()).await {
            Ok(Ok(found)) => self.models.values().all(|name| found.iter().any(|model| model.name == *name)),
            _ => false,
        };
        metrics::gauge!("lcai_worker_backend_up").set(if ready { 1.0 } else { 0.0 });
        if !ready {
            tracing::warn!("the model backend does not answer, or lacks a model");
        }
        ready
    }

    /// Whether both accounts can pay for the next jobs. A worker that cannot would take jobs and be slashed for them, so it
    /// takes no new sessions until somebody sends it money.
    async fn is_funded(&self) -> bool {
        let Ok((base, blob)) = self.host.base_fees().await else { return true };
        let gas = base.saturating_mul(2).saturating_add(TIP).saturating_mul(JOB_GAS);
        let jobs = u128::from(self.max_jobs.max(1)).saturating_mul(JOBS_AHEAD);
        let blobs = blob.saturating_mul(2).saturating_mul(u128::from(DATA_GAS_PER_BLOB));
        let mut funded = true;
        for (account, needs) in
            [(self.account.address(), gas), (self.blob_account, gas.saturating_add(blobs))]
        {
            let needs = U256::from(needs.saturating_mul(jobs));
            let Ok(has) = self.host.balance(account).await else { continue };
            if has < needs {
                funded = false;
                tracing::error!(%account, has = %format_ether(has), needs = %format_ether(needs), "too little for gas; draining");
            }
        }
        metrics::gauge!("lcai_worker_funded").set(if funded { 1.0 } else { 0.0 });
        funded
    }

    fn heartbeat(&self, ready: bool, funded: bool, sequence: u64, uptime: Duration) -> Heartbeat {
        let active = self.core.read(WorkerCore::open_jobs);
        metrics::gauge!("lcai_worker_active_jobs").set(active as f64);
        let draining = self.draining.is_draining() || !funded;
        Heartbeat {
            worker: self.account.address(),
            sent_at: unix_now(),
            active_jobs: u32::try_from(active).unwrap_or(u32::MAX),
            max_jobs: self.max_jobs,
            models: self.models.keys().copied().collect(),
            status: if draining { HeartbeatStatus::Draining } else { HeartbeatStatus::Active },
            inference_ready: ready,
            uptime_seconds: uptime.as_secs(),
            sequence,
        }
    }

    async fn send(&self, heartbeat: Heartbeat) -> Result<(), String> {
        let domain = eip712::domain(self.deployment.chain_id, self.deployment.job_registry);
        let signature =
            sign_typed(&self.account, heartbeat.signing_hash(&domain)).map_err(|e| e.to_string())?;
        self.node.heartbeat(heartbeat, Bytes::from(signature.to_vec())).await.map_err(|e| e.to_string())
    }
}
