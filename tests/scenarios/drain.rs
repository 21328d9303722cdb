//! A real worker drains to its end while a job is open: no new sessions, the open ones are served until none can bring
//! another job; it can go on instead, or leave with its whole stake, and return as the worker it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_primitives::{Address, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use lcai::{ask::DEFAULT_MODEL, devnet::DevnetConfig};
use lcai_client::{User, UserSession};
use lcai_crypto::{EncryptionSecret, SessionKey};
use lcai_genesis::ProtocolParams;
use lcai_host::{HostClient, TxLane, TxSpec};
use lcai_inference::{EmbeddedBackend, EmbeddedModel};
use lcai_primitives::contracts::JobRegistry;
use lcai_rpc::{
    api::LcaiApiClient,
    types::{SessionOffer, WorkerInfo},
};
use lcai_sidecar::{Worker, WorkerConfig, WorkerHandle, WorkerKeys, deregister, register_worker};
use lcai_tests::{Network, ask, devnet, funded, is_candidate, reth::RethNet, run, session_with, until};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Shorter than the authorizations live, so that the scenario ends soon; nobody holds one in it.
const GRACE: Duration = Duration::from_secs(6);

#[test]
fn a_worker_drains_leaves_and_returns() {
    run(async {
        let devnet = devnet(config()).await;
        story(&devnet).await;
        devnet.stop().await;
    });
}

/// The same over Reth.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_worker_drains_leaves_and_returns_on_reth() {
    run(async {
        let network = RethNet::start(&config()).await;
        story(&network).await;
        network.stop().await;
    });
}

fn config() -> DevnetConfig {
    let params =
        ProtocolParams { session_inactivity_timeout: 45, dispute_window: 4, ..ProtocolParams::devnet() };
    DevnetConfig { workers: 1, params, ..DevnetConfig::default() }
}

async fn story(network: &impl Network) {
    let user = funded(network, 0).await;
    let keys = WorkerKeys {
        account: network.user(7),
        blob: network.user(8),
        encryption: EncryptionSecret::random(),
    };
    let directory = tempfile::tempdir().unwrap();
    let scene = Scene { network, user, keys, directory };
    let worker = Arc::new(scene.start().await);
    drains_to_its_end(&scene, &worker).await;

    worker.resume();
    until("it can be drawn again", async || is_candidate(&scene.user, scene.me()).await).await;
    let (other, offer) = scene.offered().await;
    let began = Instant::now();
    let told_in_vain = async {
        until("nobody is sent to it", async || !is_candidate(&scene.user, scene.me()).await).await;
        other.open_session(&offer, SessionKey::random()).await
    };
    let ((), opened) = tokio::join!(worker.drain(), told_in_vain);
    let refused = opened.unwrap_err().to_string();
    assert!(refused.contains("was not drawn"), "an offer of before is void: {refused}");
    assert!(began.elapsed() >= GRACE, "a session may come of what was signed before the node knew");
    until("nobody is sent to it", async || !is_candidate(&scene.user, scene.me()).await).await;

    Arc::into_inner(worker).unwrap().shutdown().await;
    scene.leaves().await;
    let worker = scene.start().await;
    let session = session_with(&scene.user, scene.me()).await;
    let (answer, _) = ask(&scene.user, &session, "What is the capital of Spain?").await;
    assert!(answer.text.contains("Madrid"), "{}", answer.text);
    worker.shutdown().await;
}

async fn drains_to_its_end<N: Network>(scene: &Scene<'_, N>, worker: &Arc<WorkerHandle>) {
    let user = &scene.user;
    let (kept, closed) = (session_with(user, scene.me()).await, session_with(user, scene.me()).await);
    let drained = Arc::clone(worker);
    let draining = tokio::spawn(async move {
        // As soon as a job is open.
        while drained.status().open_jobs == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drained.drain().await;
    });
    let noticed = until("the directory has it", async || {
        scene.info().await.is_some_and(|worker| worker.state == "draining")
    });
    let ((answer, _), ()) = tokio::join!(ask(user, &kept, "What is the capital of France?"), noticed);
    assert!(answer.text.contains("Paris"), "the open job is answered: {}", answer.text);
    assert_eq!(answer.receipt.job.worker, scene.me());

    for _ in 0..10 {
        assert!(!is_candidate(user, scene.me()).await, "no new sessions");
    }
    let (answer, _) = ask(user, &kept, "What is the capital of Italy?").await;
    assert!(answer.text.contains("Rome"), "an open session is served: {}", answer.text);
    assert_eq!(worker.status().open_sessions, 2);
    assert!(!draining.is_finished(), "either session may bring another job");

    scene.close(&closed).await;
    until("one session is left", async || worker.status().open_sessions == 1).await;
    assert!(!draining.is_finished());
    // The other one goes unused for longer than the network's timeout.
    tokio::time::timeout(Duration::from_secs(120), draining).await.expect("the draining ends").unwrap();
    let status = worker.status();
    assert_eq!((status.open_jobs, status.open_sessions, status.undelivered), (0, 0, 0));
    assert_eq!(status.halted, None);
}

struct Scene<'a, N> {
    network: &'a N,
    user: User,
    keys: WorkerKeys,
    directory: TempDir,
}

impl<N: Network> Scene<'_, N> {
    fn me(&self) -> Address {
        self.keys.account.address()
    }

    /// Registers, where needed, and attaches.
    async fn start(&self) -> WorkerHandle {
        let (client, models) = (self.user.node().chain(), vec![DEFAULT_MODEL.to_owned()]);
        let (deployment, public) = (self.network.deployment(), self.keys.encryption.public().to_sec1());
        register_worker(client, deployment, &self.keys.account, &public, None, &models).await.unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../devnet/model/lcai-tiny.gguf");
        let model = EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path, digest: None };
        let load = tokio::task::spawn_blocking(move || EmbeddedBackend::load(&[model], 1));
        let backend = Arc::new(load.await.unwrap().unwrap());
        let (url, data) = (self.network.url(), self.directory.path());
        let config = WorkerConfig::new(url, self.keys.clone(), backend, models, data);
        Worker::start(WorkerConfig { drain_grace: GRACE, ..config }).await.unwrap()
    }

    /// An account to which the worker is offered.
    async fn offered(&self) -> (User, SessionOffer) {
        for n in 1..7 {
            let user = funded(self.network, n).await;
            let offer = user.request_session(DEFAULT_MODEL).await.unwrap();
            if offer.worker == self.me() {
                return (user, offer);
            }
        }
        panic!("of two equal workers the same one was drawn six times");
    }

    async fn info(&self) -> Option<WorkerInfo> {
        let workers = self.user.node().rpc().workers().await.unwrap();
        workers.into_iter().find(|worker| worker.address == self.me())
    }

    async fn close(&self, session: &UserSession) {
        let input = JobRegistry::closeSessionCall { sessionId: session.id.word() }.abi_encode();
        let spec = TxSpec::call(self.network.deployment().job_registry, input.into());
        let lane = TxLane::new(self.user.node().chain(), self.user.signer().clone());
        assert!(lane.send(spec).await.unwrap().receipt.success);
    }

    /// With the whole stake, and out of the directory.
    async fn leaves(&self) {
        let chain: Arc<dyn HostClient> = self.user.node().chain();
        let (account, deployment): (&PrivateKeySigner, _) = (&self.keys.account, self.network.deployment());
        let before = chain.balance(self.me()).await.unwrap();
        let staked = self.info().await.unwrap().stake;
        let (stake, _) = deregister(chain.clone(), deployment, account).await.unwrap();
        assert_eq!(stake, staked);
        assert_eq!(stake, ProtocolParams::devnet().min_worker_stake, "nothing was slashed");
        let gas = before + stake - chain.balance(self.me()).await.unwrap();
        assert!(gas < U256::from(10).pow(U256::from(16)), "it came back, less gas: {gas}");
        until("the directory forgets it", async || self.info().await.is_none()).await;
        assert!(!is_candidate(&self.user, self.me()).await);
        let again = deregister(chain, deployment, account).await.unwrap_err();
        assert!(again.to_string().contains("is not a registered worker"), "{again}");
    }
}
