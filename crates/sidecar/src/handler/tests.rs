//! The effects over a chain and a node that the tests hold in their hands: crashes at every step, reorgs, bad prompts.

use super::*;
use crate::{
    core::{WorkerCoreConfig, WorkerPlan},
    testing::{FrameLog, Sim, TestBackend, Tx, deployment},
};
use alloy_primitives::{Bytes, keccak256};
use jsonrpsee::server::ServerHandle;
use lcai_blob::{SidecarForm, decode};
use lcai_crypto::{EncryptionSecret, SessionKey, open, recover_response, seal, wrap};
use lcai_host::{
    EffectExecutor, ExtensionRunner, FeedConfig, FeedWriter, Journal, JournalIdentity, LaneClass, LaneConfig,
    RunnerConfig,
};
use lcai_primitives::{
    frames::{Frame, FrameKind, FrameType},
    ids::JobId,
};
use std::sync::atomic::Ordering;
use tokio::{task::JoinHandle, time::sleep};

/// A worker's world; `start` runs the worker in it, again and again.
struct Bench {
    sim: Sim,
    frames: FrameLog,
    backend: Arc<TestBackend>,
    journal: Arc<Journal>,
    account: PrivateKeySigner,
    blob_account: PrivateKeySigner,
    secret: EncryptionSecret,
    key: SessionKey,
    url: String,
    _server: ServerHandle,
    miner: JoinHandle<()>,
}

/// A running worker; dropping it is a crash.
struct Running {
    tasks: Vec<JoinHandle<()>>,
    core: ExtensionHandle<WorkerCore>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.miner.abort();
    }
}

impl Bench {
    async fn new() -> Self {
        let (secret, key) = (EncryptionSecret::random(), SessionKey::random());
        let wrapped = wrap(&key, &secret.public()).unwrap();
        let sim = Sim::new(Bytes::copy_from_slice(&wrapped));
        let account = PrivateKeySigner::random();
        let frames = FrameLog::default();
        let (url, server) = frames.serve(sim.clone(), account.address()).await;
        let identity = JournalIdentity { chain_id: 8200, genesis_hash: B256::ZERO, contracts: Vec::new() };
        let miner = tokio::spawn({
            let sim = sim.clone();
            async move {
                loop {
                    sleep(Duration::from_millis(60)).await;
                    sim.mine(&[]);
                }
            }
        });
        Self {
            sim,
            frames,
            backend: Arc::default(),
            journal: Journal::in_memory(identity).unwrap(),
            account,
            blob_account: PrivateKeySigner::random(),
            secret,
            key,
            url,
            _server: server,
            miner,
        }
    }

    /// Seals a prompt and gives it to the chain as a blob; its versioned hash.
    fn prompt(&self, text: &str) -> B256 {
        self.sealed(&seal(&self.key, text.as_bytes()).unwrap())
    }

    fn sealed(&self, bytes: &[u8]) -> B256 {
        let (hash, sidecar) = crate::blobs::seal_blob(bytes, SidecarForm::Eip4844).unwrap();
        let lcai_blob::BlobTransactionSidecarVariant::Eip4844(sidecar) = sidecar else {
            panic!("another form")
        };
        self.sim.put_blob(hash, Bytes::copy_from_slice(sidecar.blobs[0].as_slice()));
        hash
    }

    fn start(&self) -> Running {
        let me = self.account.address();
        let plan = Arc::new(WorkerPlan::new(deployment(), me));
        let notifier = self.sim.notifier(plan);
        let feed = Arc::new(FeedWriter::new(self.journal.clone(), notifier, FeedConfig::default()).unwrap());
        let core = WorkerCore::new(WorkerCoreConfig::new(deployment(), me));
        let runner =
            ExtensionRunner::open(self.journal.clone(), core, feed.subscribe(), RunnerConfig::default())
                .unwrap();
        let core = runner.handle();
        let host: Arc<dyn HostClient> = Arc::new(self.sim.clone());
        let node = Arc::new(NodeClient::new(self.url.clone(), self.account.clone()));
        let lane = |class, signer: &PrivateKeySigner| {
            let config = LaneConfig { poll: Duration::from_millis(20), ..LaneConfig::new(class) };
            TxLane::with_config(host.clone(), signer.clone(), config)
        };
        let handler = WorkerHandler {
            deployment: deployment(),
            account: self.account.clone(),
            core: core.clone(),
            host: host.clone(),
            node: node.clone(),
            prompts: Prompts::new(deployment(), self.secret.clone(), node, host.clone()),
            store: Store::new(self.journal.records("worker")),
            backend: self.backend.clone(),
            models: BTreeMap::from([(ModelId(B256::repeat_byte(9)), "model".to_owned())]),
            main: lane(LaneClass::Ordinary, &self.account),
            blobs: lane(LaneClass::Blob, &self.blob_account),
            ack_depth: 2,
            atomic: OnceCell::new(),
            form: PoolForm::default(),
            load: InferenceLoad::new(1),
            concurrency: 32,
            progress: Arc::default(),
            ready: watch::channel(true).1,
            draining: Arc::default(),
            max_jobs: 4,
            shutdown: CancellationToken::new(),
        };
        let executor = EffectExecutor::new(core.effects(), Arc::new(handler), host);
        let token = CancellationToken::new();
        let tasks = vec![
            tokio::spawn({
                let token = token.clone();
                async move { feed.run(token).await.unwrap() }
            }),
            tokio::spawn({
                let token = token.clone();
                async move { runner.run(token).await.unwrap() }
            }),
            tokio::spawn(async move { executor.run(token).await.unwrap() }),
        ];
        Running { tasks, core }
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..1500 {
            if done(self) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{what} did not happen");
    }

    fn state(&self, job: u64) -> u8 {
        self.sim.registry().jobs.get(&job).map_or(u8::MAX, |j| j.state)
    }

    fn terminal(&self, job: u64, session: u64) -> Option<Frame> {
        self.frames.of(job, session).into_iter().find(|f| f.frame_type == FrameType::Complete)
    }

    async fn answered(&self, job: u64, session: u64) {
        self.until("the answer", |b| b.state(job) >= 2 && b.terminal(job, session).is_some()).await;
    }

    /// The answer as the user reads it, after everything a user can check.
    fn checked(&self, job: u64, session: u64) -> String {
        let record = self.sim.registry().jobs[&job].clone();
        let terminals: Vec<Frame> = self
            .frames
            .of(job, session)
            .into_iter()
            .filter(|f| f.frame_type == FrameType::Complete)
            .collect();
        let first = terminals.first().unwrap();
        // However often it was sent, it is one answer under one signature.
        for frame in &terminals {
            assert_eq!((&frame.payload, frame.signature), (&first.payload, first.signature));
        }
        assert_eq!(keccak256(&first.payload), record.responseCiphertextHash);
        let blob = self.sim.blob_bytes(record.responseBlobHash).unwrap();
        assert_eq!(decode(&blob).unwrap(), first.payload);
        let signer = recover_response(
            8200,
            deployment().job_registry,
            JobId(job),
            SessionId(session),
            &first.payload,
            first.signature.unwrap().as_slice(),
        );
        assert_eq!(signer.unwrap(), self.account.address());
        String::from_utf8(open(&self.key, &first.payload).unwrap().to_vec()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_answered_streamed_committed_and_released() {
    let bench = Bench::new().await;
    let running = bench.start();
    let prompt = bench.prompt("one");
    bench.sim.mine(&[Tx::Create { worker: bench.account.address() }, Tx::Submit { session: 1, prompt }]);
    bench.answered(1, 1).await;
    assert_eq!(bench.checked(1, 1), "answer to one");

    let frames = bench.frames.of(1, 1);
    let text: String = frames
        .iter()
        .filter(|f| f.frame_type == FrameType::Chunk && f.kind == FrameKind::Text)
        .map(|f| String::from_utf8(open(&bench.key, &f.payload).unwrap().to_vec()).unwrap())
        .collect();
    assert_eq!(text, "answer to one");
    let seqs: Vec<u32> = frames.iter().map(|f| f.seq).collect();
    assert_eq!(seqs, (1..=frames.len() as u32).collect::<Vec<_>>());
    assert_eq!(bench.backend.runs.load(Ordering::SeqCst), 1);

    // The next job of the session has the first one as its history.
    let prompt = bench.prompt("two");
    bench.sim.mine(&[Tx::Submit { session: 1, prompt }]);
    bench.answered(2, 1).await;
    assert_eq!(bench.checked(2, 1), "answer to two");
    assert_eq!(*bench.backend.asked.lock(), [1, 3]);
    bench.until("the release", |b| b.state(1) == 6).await;
    assert_eq!(running.core.halted(), None);
}

/// Stops the worker after each of the first steps anybody outside can see, and starts it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leads_to_one_answer() {
    for crash_after in 1..=7u64 {
        let bench = Bench::new().await;
        let running = bench.start();
        let prompt = bench.prompt("one");
        bench.sim.mine(&[Tx::Create { worker: bench.account.address() }, Tx::Submit { session: 1, prompt }]);
        let mut events = bench.sim.events.subscribe();
        let reached = events.wait_for(|count| *count >= crash_after);
        let _ = timeout(Duration::from_secs(10), reached).await;
        drop(running);
        let running = bench.start();
        bench.answered(1, 1).await;
        assert_eq!(bench.checked(1, 1), "answer to one", "crash after {crash_after}");
        sleep(Duration::from_millis(200)).await;
        assert_eq!(bench.frames.terminals().iter().map(|f| &f.payload).collect::<HashSet<_>>().len(), 1);
        assert_eq!(bench.sim.sent(), (1, 1), "crash after {crash_after}");
        assert_eq!(running.core.halted(), None, "crash after {crash_after}");
    }
}

/// Depth 3, another user's prompt under the same job id: both end with an answer, one signature for each subject.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reorg_both_prompts_of_one_job_id_are_answered() {
    let bench = Bench::new().await;
    let running = bench.start();
    let me = bench.account.address();
    let (first, second) = (bench.prompt("first"), bench.prompt("second"));
    bench.sim.mine(&[Tx::Create { worker: me }, Tx::Create { worker: me }]);
    bench.miner.abort();
    let submit = Tx::Submit { session: 1, prompt: first };
    bench.sim.mine(std::slice::from_ref(&submit));
    // Acknowledged on this fork, two blocks later off the chain.
    bench
        .until("the acknowledgement", |b| {
            sleep_a_little();
            b.sim.mine(&[]);
            b.state(1) == 1
        })
        .await;
    let depth = bench.sim.depth_of(1);
    let other = Tx::Submit { session: 2, prompt: second };
    bench.sim.reorg(depth, &[vec![other], vec![submit], vec![]]);
    let miner = tokio::spawn({
        let sim = bench.sim.clone();
        async move {
            loop {
                sleep(Duration::from_millis(60)).await;
                sim.mine(&[]);
            }
        }
    });
    bench.answered(1, 2).await;
    bench.answered(2, 1).await;
    miner.abort();
    assert_eq!(bench.checked(1, 2), "answer to second");
    assert_eq!(bench.checked(2, 1), "answer to first");
    let signed: HashSet<_> = bench.frames.terminals().iter().map(|f| (f.job_id, f.session_id)).collect();
    let answers: HashSet<_> = bench.frames.terminals().into_iter().map(|f| f.payload).collect();
    assert_eq!(signed.len(), answers.len());
    assert_eq!(running.core.halted(), None);
}

/// A signed answer is out, and a deep reorg puts another prompt of the same session under the same job id: the worker
/// rather loses the job than signs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_carry_a_signature_are_never_signed_again() {
    let bench = Bench::new().await;
    let running = bench.start();
    let (first, second) = (bench.prompt("first"), bench.prompt("second"));
    bench.sim.mine(&[Tx::Create { worker: bench.account.address() }]);
    bench.sim.mine(&[Tx::Submit { session: 1, prompt: first }]);
    bench.answered(1, 1).await;
    let signed = bench.terminal(1, 1).unwrap();
    let depth = bench.sim.depth_of(1);
    bench.sim.reorg(depth, &[vec![Tx::Submit { session: 1, prompt: second }]]);
    bench.until("the acknowledgement", |b| b.state(1) == 1).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(bench.state(1), 1, "not completed with an answer that cannot be signed");
    assert!(bench.frames.terminals().iter().all(|f| f.payload == signed.payload));
    assert_eq!(running.core.halted(), None);
}

/// The live networks' registry: blob and completion apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_without_atomic_completion_is_served_too() {
    let bench = Bench::new().await;
    bench.sim.without_atomic_completion();
    let running = bench.start();
    let prompt = bench.prompt("one");
    bench.sim.mine(&[Tx::Create { worker: bench.account.address() }, Tx::Submit { session: 1, prompt }]);
    bench.answered(1, 1).await;
    assert_eq!(bench.checked(1, 1), "answer to one");
    assert_eq!(running.core.halted(), None);
}

/// The same submission on another fork: the very same sealed answer again, and the model is not asked twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_subject_gets_the_same_bytes_after_a_reorg() {
    let bench = Bench::new().await;
    let _running = bench.start();
    let submit = Tx::Submit { session: 1, prompt: bench.prompt("one") };
    bench.sim.mine(&[Tx::Create { worker: bench.account.address() }]);
    bench.sim.mine(std::slice::from_ref(&submit));
    bench.answered(1, 1).await;
    let before = bench.sim.registry().jobs[&1].responseCiphertextHash;
    let depth = bench.sim.depth_of(1);
    bench.sim.reorg(depth, &[vec![], vec![submit]]);
    assert_eq!(bench.state(1), 0);
    bench.until("the second completion", |b| b.state(1) >= 2).await;
    assert_eq!(bench.sim.registry().jobs[&1].responseCiphertextHash, before);
    assert_eq!(bench.checked(1, 1), "answer to one");
    assert_eq!(bench.backend.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_answered_is_not_acknowledged_or_not_settled() {
    let bench = Bench::new().await;
    let running = bench.start();
    let me = bench.account.address();
    let foreign = bench.sealed(&seal(&SessionKey::random(), b"secret").unwrap());
    let refused = bench.prompt(r#"{"v":3,"text":"","messages":[]}"#);
    bench.sim.mine(&[Tx::Create { worker: me }, Tx::Create { worker: me }, Tx::Create { worker: me }]);
    bench.sim.mine(&[
        Tx::Submit { session: 1, prompt: foreign },
        Tx::Submit { session: 2, prompt: refused },
        Tx::Submit { session: 3, prompt: bench.prompt("say nothing") },
    ]);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!((bench.state(1), bench.state(2)), (0, 0), "prompts that do not open are not acknowledged");
    assert!(bench.state(3) <= 1, "an empty answer is never settled");
    assert!(bench.frames.terminals().is_empty());
    assert_eq!(running.core.halted(), None);
}

/// The key that the submission saw does not open; the chain has a newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_session_key_is_read_once_more() {
    let bench = Bench::new().await;
    let _running = bench.start();
    let me = bench.account.address();
    let good = Bytes::copy_from_slice(&wrap(&bench.key, &bench.secret.public()).unwrap());
    let stale = wrap(&bench.key, &EncryptionSecret::random().public()).unwrap();
    bench.sim.set_enc_worker_key(Bytes::copy_from_slice(&stale));
    let prompt = bench.prompt("one");
    bench.sim.mine(&[
        Tx::Create { worker: me },
        Tx::Submit { session: 1, prompt },
        Tx::UpdateKey { session: 1, key: good },
    ]);
    bench.answered(1, 1).await;
    assert_eq!(bench.checked(1, 1), "answer to one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_comes_back_is_asked_again() {
    let bench = Bench::new().await;
    bench.backend.failures.store(1, Ordering::SeqCst);
    let _running = bench.start();
    let prompt = bench.prompt("one");
    bench.sim.mine(&[Tx::Create { worker: bench.account.address() }, Tx::Submit { session: 1, prompt }]);
    bench.answered(1, 1).await;
    assert_eq!(bench.checked(1, 1), "answer to one");
    assert_eq!(bench.backend.runs.load(Ordering::SeqCst), 2);
}

/// Another program with the worker's key has committed another answer: everything stops, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_acting_elsewhere_stops_the_worker() {
    let bench = Bench::new().await;
    let running = bench.start();
    bench.sim.mine(&[Tx::Create { worker: bench.account.address() }]);
    bench.miner.abort();
    bench.sim.mine(&[Tx::Submit { session: 1, prompt: bench.prompt("one") }]);
    bench.until("the inference", |b| b.backend.runs.load(Ordering::SeqCst) == 1).await;
    sleep(Duration::from_millis(300)).await;
    let other = Tx::Complete { job: 1, blob: B256::repeat_byte(1), hash: B256::repeat_byte(2) };
    bench.sim.mine(&[Tx::Acknowledge { job: 1 }, other]);
    for _ in 0..3 {
        bench.sim.mine(&[]);
    }
    bench.until("the halt", |_| running.core.halted().is_some()).await;
    assert!(running.core.halted().unwrap().contains("another answer"));
    assert!(bench.frames.terminals().is_empty());
}

/// Lets the worker's tasks run between two blocks that the test mines itself.
fn sleep_a_little() {
    std::thread::sleep(Duration::from_millis(20));
}
