//! Ollama, with our model created in it, and the worker that answers through it.

use super::{Net, Place, process::Process};
use crate::ports::free_ports;
use alloy_primitives::Address;
use eyre::WrapErr;
use lcai::{ask::DEFAULT_MODEL, devnet::Role};
use lcai_client::Connection;
use lcai_crypto::EncryptionSecret;
use lcai_inference::{OllamaBackend, OllamaConfig, OllamaModel};
use lcai_rpc::api::LcaiApiClient;
use lcai_sidecar::{Worker, WorkerConfig, WorkerHandle, WorkerKeys, register_worker};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

/// Where the model and its Modelfile are.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../devnet/model");

/// What the Modelfile must set for both backends to read the same prompt.
const PARAMETERS: [(&str, &str); 2] = [("num_ctx", "512"), ("stop", "<|im_end|>")];

/// A running Ollama.
#[derive(Debug)]
pub struct Ollama {
    process: Process,
    config: OllamaConfig,
}

impl Ollama {
    /// Starts it in `directory`, creates the model in it, and checks the model's name, weights and parameters.
    ///
    /// # Errors
    /// When it does not start, or has another model than ours under the name.
    pub async fn start(program: &Path, directory: &Path) -> eyre::Result<Self> {
        let [port] = free_ports()?;
        let address = format!("{}:{port}", Ipv4Addr::LOCALHOST);
        let part = |name: &str| {
            Process::new(name, program, directory, Place::here().namespace.as_deref())
                .variable("OLLAMA_HOST", &address)
        };
        let weights = std::fs::read(Path::new(MODEL).join("lcai-tiny.gguf"))?;
        let parameters = PARAMETERS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let named = DEFAULT_MODEL.to_owned();
        let config = OllamaConfig {
            url: format!("http://{address}"),
            digests: BTreeMap::from([(named.clone(), hex::encode(Sha256::digest(weights)))]),
            tags: BTreeMap::from([(named.clone(), named.clone())]),
            parameters: BTreeMap::from([(named, BTreeMap::from(parameters))]),
            ..OllamaConfig::default()
        };
        // It starts a runner for each model that it has loaded.
        let process = part("ollama").arguments(["serve"]).with_children();
        let mut ollama = Self { process, config };
        ollama.start_again().await?;
        let modelfile = format!("{MODEL}/Modelfile");
        part("ollama-create").arguments(["create", DEFAULT_MODEL, "-f", &modelfile]).run()?;
        ollama.check().await?;
        Ok(ollama)
    }

    /// What answers prompts through it.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn backend(&self) -> eyre::Result<OllamaBackend> {
        Ok(OllamaBackend::new(self.config.clone())?)
    }

    /// The model that it has, which is ours.
    ///
    /// # Errors
    /// When it is not.
    pub async fn check(&self) -> eyre::Result<OllamaModel> {
        let backend = self.backend()?;
        backend.check(&[DEFAULT_MODEL.to_owned()]).await?;
        Ok(backend.installed(DEFAULT_MODEL).await?)
    }

    /// Starts it, also after [`Self::kill`].
    ///
    /// # Errors
    /// When it ends, or does not answer within a minute; with the end of its log.
    pub async fn start_again(&mut self) -> eyre::Result<()> {
        self.process.start()?;
        for _ in 0..300 {
            let running = self.process.is_running();
            eyre::ensure!(running, "ollama ended:\n{}", self.process.log_end());
            if self.backend()?.check(&[]).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eyre::bail!("ollama does not answer:\n{}", self.process.log_end())
    }

    /// Has it hang: it takes connections and says nothing.
    pub fn freeze(&mut self) {
        self.process.signal("-STOP");
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.process.stop();
    }
}

/// Registers and starts the n-th worker, which answers through Ollama; returns when the node has a free slot for it.
///
/// # Errors
/// When it cannot register, or the node does not hear from it.
pub async fn start_worker(net: &Net, ollama: &Ollama, n: u32) -> eyre::Result<WorkerHandle> {
    let node = net.reth[0].ws();
    let connection = Connection::open(&node, None).await?;
    let directory = net.plan.path("workers").join(format!("worker-{n}"));
    std::fs::create_dir_all(&directory)?;
    let keys = WorkerKeys {
        account: Role::Worker(n).signer()?,
        blob: Role::WorkerBlob(n).signer()?,
        encryption: EncryptionSecret::random(),
    };
    let (account, public) = (keys.account.address(), keys.encryption.public().to_sec1());
    let models = vec![DEFAULT_MODEL.to_owned()];
    register_worker(connection.chain(), &net.genesis.deployment, &keys.account, &public, None, &models)
        .await?;
    let config = WorkerConfig::new(node, keys, Arc::new(ollama.backend()?), models, directory);
    let worker = Worker::start(config).await?;
    state_of(&connection, account, 120, |state| state == "ready").await.wrap_err("the worker with Ollama")?;
    Ok(worker)
}

/// Waits until the node's word for a worker is as wanted; gives the seconds.
///
/// # Errors
/// When it is not within so many seconds.
pub async fn state_of(
    connection: &Connection,
    worker: Address,
    seconds: u64,
    wanted: impl Fn(&str) -> bool,
) -> eyre::Result<u64> {
    let mut last = None;
    for second in 0..seconds {
        let workers = connection.rpc().workers().await?;
        last = workers.into_iter().find(|info| info.address == worker).map(|info| info.state);
        if last.as_deref().is_some_and(&wanted) {
            return Ok(second);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("worker {worker} is {last:?} after {seconds} s")
}
