//! A devnet's workers: alone when the node is somebody else's, e.g. `lcai-reth node --dev`.

use crate::{ask::DEFAULT_MODEL, progress::Progress};
use alloy_primitives::Address;
use lcai_client::Connection;
use lcai_crypto::EncryptionSecret;
use lcai_genesis::dev::Role;
use lcai_host::HostClient;
use lcai_inference::{Backend, EmbeddedBackend, EmbeddedModel};
use lcai_primitives::contracts::Deployment;
use lcai_rpc::api::LcaiApiClient;
use lcai_sidecar::{Worker, WorkerConfig, WorkerHandle, WorkerKeys, register_worker};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The model we made (devnet/model), in the program so that it runs from anywhere.
pub(super) const GOOD_MODEL: &[u8] = include_bytes!("../../../../devnet/model/lcai-tiny.gguf");

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

/// A fleet's settings.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Where the workers reach the node, over WebSocket.
    pub node: String,
    /// The contracts.
    pub deployment: Deployment,
    /// Where the workers keep their journals, a directory each.
    pub data_dir: PathBuf,
    /// How many.
    pub workers: u32,
    /// What each runs; beyond the list, the good model.
    pub models: Vec<WorkerModel>,
}

/// Workers with the development chain's public keys.
#[derive(Debug)]
pub struct Fleet {
    handles: Vec<WorkerHandle>,
}

impl Fleet {
    /// Registers (where needed) and starts the workers; returns when the node has a free slot for each. `connection` is to
    /// the node itself, whatever lies between it and the workers.
    pub async fn start(
        config: &FleetConfig,
        connection: &Connection,
        progress: &Progress,
    ) -> eyre::Result<Self> {
        let starting = (0..config.workers).map(|n| start_worker(config, n, connection.chain()));
        let started = futures::future::try_join_all(starting);
        let handles = progress.step("workers registered, staked and attached", started).await?;
        let fleet = Self { handles };
        progress.step("workers healthy", fleet.wait_for_slots(connection)).await?;
        Ok(fleet)
    }

    /// The workers' addresses.
    pub fn addresses(&self) -> Vec<Address> {
        self.handles.iter().map(WorkerHandle::address).collect()
    }

    /// Stops every worker.
    pub async fn stop(self) {
        for worker in self.handles {
            worker.shutdown().await;
        }
    }

    async fn wait_for_slots(&self, connection: &Connection) -> eyre::Result<()> {
        let ours = self.addresses();
        for _ in 0..600 {
            let workers = connection.rpc().workers().await?;
            let ready = |w: &lcai_rpc::types::WorkerInfo| {
                ours.contains(&w.address) && w.free_slots.is_some_and(|slots| slots > 0)
            };
            if workers.iter().filter(|worker| ready(worker)).count() >= ours.len() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        eyre::bail!("the workers sent no heartbeat within a minute")
    }
}

/// Registers (where needed) and starts the n-th worker.
async fn start_worker(
    config: &FleetConfig,
    n: u32,
    client: Arc<dyn HostClient>,
) -> eyre::Result<WorkerHandle> {
    let directory = config.data_dir.join(format!("worker-{n}"));
    std::fs::create_dir_all(&directory)?;
    let keys = WorkerKeys {
        account: Role::Worker(n).signer()?,
        blob: Role::WorkerBlob(n).signer()?,
        encryption: encryption_key(&directory)?,
    };
    let public = keys.encryption.public().to_sec1();
    let models = vec![DEFAULT_MODEL.to_owned()];
    register_worker(client, &config.deployment, &keys.account, &public, None, &models).await?;
    let runs = config.models.get(n as usize).copied().unwrap_or(WorkerModel::Good);
    let file = if runs == WorkerModel::Good { GOOD_MODEL } else { WORSE_MODEL };
    let backend = backend(&directory, file).await?;
    Ok(Worker::start(WorkerConfig::new(config.node.clone(), keys, backend, models, directory)).await?)
}

/// One model file in this process, under the name that the chain knows.
pub(super) async fn backend(directory: &Path, file: &[u8]) -> eyre::Result<Arc<dyn Backend>> {
    let path = directory.join("model.gguf");
    std::fs::write(&path, file)?;
    let model = EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path, digest: None };
    let load = tokio::task::spawn_blocking(move || EmbeddedBackend::load(&[model], 1));
    Ok(Arc::new(load.await??))
}

/// A P-256 key of a devnet's worker or disputer, made once per data directory.
pub(super) fn encryption_key(directory: &Path) -> eyre::Result<EncryptionSecret> {
    use lcai_crypto::{KdfCost, keystore};
    let path = directory.join("encryption.json");
    if path.exists() {
        return Ok(keystore::read_encryption(&path, "devnet")?);
    }
    let secret = EncryptionSecret::random();
    keystore::write_encryption(&path, &secret, "devnet", KdfCost::Light)?;
    Ok(secret)
}
