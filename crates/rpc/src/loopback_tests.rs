//! The namespace over a real server and real sockets.

use crate::{
    BlobService, Directory, JwtSecret, LcaiApiClient, LcaiApiServer, LcaiDisputerApiServer,
    LcaiDrillApiServer, LcaiError, LcaiOperator, LcaiOperatorApiClient, LcaiOperatorApiServer, LcaiRpc,
    Publisher, PublisherConfig, Rate, Relay, RpcHandle, RpcParts, RpcSettings, ServerLimits, SessionView,
    TokenConfig, TokenIssuer, Upstream, jwt, serve, serve_operator,
    session_view::{JobView, SessionParties},
    testing::{JOB, SESSION, Scene, chunk, deployment, read_text, text_message, websocket},
    types::{
        AuthorizationRequest, BlockId, CallerProof, JobInfo, JobTransactions, ModelInfo, ReassignmentOffer,
        ReassignmentRequest, SessionAuthorizationGrant, SessionInfo, SessionOffer, WorkerInfo,
    },
    verdicts::{CanaryPayment, EvidenceInfo, VerdictInfo, WorkerStatistics},
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use jsonrpsee::{
    RpcModule,
    core::{
        RpcResult,
        client::{ClientT, Error as ClientError, Subscription},
    },
    http_client::{HttpClient, HttpClientBuilder},
    rpc_params,
    ws_client::{WsClient, WsClientBuilder},
};
use lcai_blob::{Blob, BlobError, BlobHint, BlobSource, BlobStore, blob_versioned_hash, encode};
use lcai_host::{BlockRef, FailedTask, FeedState, Heads, HostError, Journal, TxLane, testing::ScriptedHost};
use lcai_primitives::{
    contracts::{JobRegistry, JobState},
    eip712::Heartbeat,
    frames::{Envelope, Frame},
    ids::{JobId, ModelId, SessionId, Subject},
    params::ChainParams,
    quantity::Quantity,
};
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};
use tempfile::tempdir;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};

const CAP: u64 = 64 << 20;

/// The scene's chain, without a dispatcher.
struct SceneDirectory(Arc<crate::testing::TestView>);

impl SessionView for SceneDirectory {
    fn session(&self, id: SessionId) -> Option<SessionParties> {
        self.0.session(id)
    }

    fn job(&self, id: JobId) -> Option<JobView> {
        self.0.job(id)
    }
}

#[async_trait]
impl Directory for SceneDirectory {
    fn params(&self) -> Option<ChainParams> {
        None
    }

    fn models(&self) -> Vec<ModelInfo> {
        Vec::new()
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        Vec::new()
    }

    fn session_info(&self, _: SessionId) -> Option<SessionInfo> {
        None
    }

    fn job_info(&self, id: JobId) -> Option<(JobInfo, Subject)> {
        let job = self.0.job(id)?;
        let session = self.0.session(job.subject.session_id)?;
        let info = JobInfo {
            id,
            session_id: job.subject.session_id,
            user: session.user,
            worker: job.worker,
            state: job.state.to_string().to_lowercase(),
            escrowed_fee: U256::from(1),
            prompt_blob_hash: job.subject.prompt_blob_hash,
            response_blob_hash: None,
            response_ciphertext_hash: job.response_ciphertext_hash,
            deadline: 0,
            transactions: JobTransactions::default(),
            submitted_in: BlockId { number: 1, hash: B256::ZERO },
            completed_in: None,
        };
        Some((info, job.subject))
    }

    fn sessions_of(&self, _: Address, _: Option<SessionId>, _: usize) -> Vec<SessionInfo> {
        Vec::new()
    }

    fn jobs_of(&self, account: Address, before: Option<JobId>, limit: usize) -> Vec<JobInfo> {
        let below = |job: &JobInfo| before.is_none_or(|before| job.id < before);
        let jobs = self.0.jobs().into_iter().rev().filter_map(|id| self.job_info(id));
        jobs.map(|(job, _)| job).filter(|job| job.user == account && below(job)).take(limit).collect()
    }

    fn open_jobs_of(&self, worker: Address, limit: usize) -> Vec<JobInfo> {
        let open =
            |job: &JobInfo| job.worker == worker && ["submitted", "acknowledged"].contains(&&*job.state);
        let jobs = self.0.jobs().into_iter().rev().filter_map(|id| self.job_info(id));
        jobs.map(|(job, _)| job).filter(open).take(limit).collect()
    }

    fn head(&self) -> watch::Receiver<Option<BlockRef>> {
        self.0.head()
    }

    fn can_authorize(&self) -> bool {
        false
    }

    async fn request_session(&self, model: ModelId, _: Address) -> Result<SessionOffer, LcaiError> {
        Err(LcaiError::UnknownModel(format!("model {model} is not registered")))
    }

    async fn authorize(&self, _: AuthorizationRequest) -> Result<SessionAuthorizationGrant, LcaiError> {
        Err(LcaiError::NotOffered("no dispatcher key".into()))
    }

    async fn request_reassignment(&self, session: SessionId) -> Result<ReassignmentOffer, LcaiError> {
        Err(LcaiError::AuthorizationRefused(format!("session {session} is Active, not waiting for keys")))
    }

    async fn authorize_reassignment(
        &self,
        _: Address,
        _: ReassignmentRequest,
    ) -> Result<SessionAuthorizationGrant, LcaiError> {
        Err(LcaiError::NotOffered("no dispatcher key".into()))
    }

    async fn heartbeat(&self, _: Heartbeat, _: &[u8]) -> Result<(), LcaiError> {
        Ok(())
    }
}

/// A node that can be stopped and started again on the same files.
pub(crate) struct Node {
    pub(crate) handle: RpcHandle,
    pub(crate) relay: Arc<Relay>,
    operator: LcaiOperator,
    pub(crate) module: RpcModule<LcaiRpc>,
}

pub(crate) struct Options {
    pub(crate) tokens: TokenConfig,
    pub(crate) limits: ServerLimits,
    pub(crate) settings: RpcSettings,
    pub(crate) blobs: BlobService,
    pub(crate) heads: watch::Receiver<Option<Heads>>,
    pub(crate) failed: watch::Receiver<Option<FailedTask>>,
}

impl Default for Options {
    fn default() -> Self {
        let store = Arc::new(BlobStore::in_memory(1 << 24).unwrap());
        Self {
            tokens: TokenConfig::default(),
            limits: ServerLimits::default(),
            settings: RpcSettings::default(),
            blobs: BlobService::new(store, Vec::new(), None),
            heads: watch::channel(None).1,
            failed: watch::channel(None).1,
        }
    }
}

impl Node {
    pub(crate) async fn start(scene: &Scene, dir: &Path, options: Options) -> Self {
        let relay = Arc::new(scene.relay(dir, CAP));
        let (_, feed) = watch::channel(FeedState {
            tip: Some(BlockRef { number: 5, hash: B256::repeat_byte(5) }),
            ..FeedState::default()
        });
        let rpc = LcaiRpc::new(RpcParts {
            deployment: deployment(),
            version: "test".into(),
            disputer_encryption_key: Bytes::new(),
            directory: Arc::new(SceneDirectory(Arc::clone(&scene.view))),
            feed,
            heads: options.heads,
            failed: options.failed,
            extensions: Vec::new(),
            relay: Arc::clone(&relay),
            tokens: Arc::new(
                TokenIssuer::open(&dir.join("token.key"), deployment().chain_id, options.tokens).unwrap(),
            ),
            blobs: options.blobs,
            upstream: None,
            settings: options.settings,
        });
        let operator = rpc.operator();
        let module = rpc.into_rpc();
        let handle = serve(module.clone(), "127.0.0.1:0".parse().unwrap(), options.limits).await.unwrap();
        Self { handle, relay, operator, module }
    }

    pub(crate) async fn plain(scene: &Scene, dir: &Path) -> Self {
        Self::start(scene, dir, Options::default()).await
    }

    pub(crate) fn http(&self) -> HttpClient {
        HttpClientBuilder::default().build(format!("http://{}", self.handle.local_addr())).unwrap()
    }

    pub(crate) async fn ws(&self) -> WsClient {
        WsClientBuilder::default().build(format!("ws://{}", self.handle.local_addr())).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.handle.stop();
        self.handle.stopped().await;
        self.relay.close().await;
    }
}

pub(crate) async fn login(client: &impl LcaiApiClientSync, signer: &PrivateKeySigner) -> String {
    let challenge = client.challenge(signer.address()).await.unwrap();
    let signature = signer.sign_message_sync(challenge.message.as_bytes()).unwrap().as_bytes().to_vec();
    client.login(challenge.message, signature.into()).await.unwrap().token
}

/// The generated client trait with the bounds the tests need.
pub(crate) trait LcaiApiClientSync: LcaiApiClient + Sync {}
impl<T: LcaiApiClient + Sync> LcaiApiClientSync for T {}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> i32 {
    match result {
        Err(ClientError::Call(error)) => error.code(),
        other => panic!("{other:?}"),
    }
}

async fn take(stream: &mut Subscription<Envelope>, count: usize) -> Vec<(u64, u32)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let envelope = stream.next().await.unwrap().unwrap();
        seen.push((envelope.cursor, envelope.frame.seq));
    }
    seen
}

#[tokio::test]
async fn logins_work_over_http_and_websocket_and_refusals_have_their_codes() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let (http, ws) = (node.http(), node.ws().await);
    let token = login(&http, &scene.user).await;
    assert_eq!(http.poll_frames(token.clone(), SESSION, Quantity(0), Quantity(0)).await.unwrap(), []);
    let token = login(&ws, &scene.user).await;
    assert_eq!(ws.poll_frames(token, SESSION, Quantity(0), Quantity(0)).await.unwrap(), []);

    let challenge = http.challenge(scene.user.address()).await.unwrap();
    let foreign = scene.worker.sign_message_sync(challenge.message.as_bytes()).unwrap().as_bytes().to_vec();
    assert_eq!(code(http.login(challenge.message.clone(), foreign.into()).await), -39003);
    assert_eq!(code(http.login(challenge.message, vec![1; 9].into()).await), -32602);
    assert_eq!(code(http.login("let me in".into(), vec![1; 65].into()).await), -32602);
    assert_eq!(code(http.poll_frames("0".repeat(152), SESSION, Quantity(0), Quantity(0)).await), -39003);
    assert_eq!(code(http.request_session("no-such-model".into(), scene.user.address()).await), -39001);
    assert_eq!(code(http.request_session("0x12".into(), scene.user.address()).await), -32602);
    assert_eq!(code(http.network().await), -39013, "before the first block");
    assert!(!http.health().await.unwrap().healthy);
    node.stop().await;
}

/// The feed tells heads only for as long as it lives, so it is not asked alone.
#[tokio::test]
async fn a_node_whose_feed_is_dead_is_not_healthy() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let (see, heads) = watch::channel(None);
    let (fail, failed) = watch::channel(None);
    let node = Node::start(&scene, dir.path(), Options { heads, failed, ..Options::default() }).await;
    let health = async || node.http().health().await.unwrap();
    let at = |number: u64| {
        let head = BlockRef { number, hash: B256::repeat_byte(5) };
        see.send_replace(Some(Heads { head, safe: None, finalized: None }));
    };
    assert!(health().await.reason.unwrap().contains("not known yet"));
    at(13);
    let kept_up = health().await;
    assert_eq!((kept_up.healthy, kept_up.reason), (true, None));
    assert_eq!(kept_up.chain_head.unwrap().number, 13);
    at(14);
    let behind = health().await;
    assert_eq!(
        (behind.healthy, behind.reason.as_deref()),
        (false, Some("the feed is at block 5, the client at 14"))
    );
    at(13);
    fail.send_replace(Some(FailedTask { task: "relay", reason: "the disk is full".into() }));
    let given_up = health().await;
    assert!(!given_up.healthy);
    assert_eq!(given_up.reason.as_deref(), Some("task relay was given up: the disk is full"));
    node.stop().await;
}

#[tokio::test]
async fn an_expired_token_is_told_apart() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let tokens = TokenConfig { token_lifetime: 0, ..TokenConfig::default() };
    let node = Node::start(&scene, dir.path(), Options { tokens, ..Options::default() }).await;
    let ws = node.ws().await;
    let token = login(&ws, &scene.user).await;
    assert_eq!(code(ws.poll_frames(token.clone(), SESSION, Quantity(0), Quantity(0)).await), -39004);
    assert_eq!(code(ws.subscribe_frames(token.clone(), SESSION, Quantity(0)).await), -39004);
    assert_eq!(code(ws.submit_frames(token.clone(), vec![chunk(JOB, 1, 40)]).await), -39004);
    assert_eq!(code(ws.publish_blob(token, vec![0; 40].into()).await), -39004);
    node.stop().await;
}

#[tokio::test]
async fn strangers_neither_read_nor_write_a_session() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let ws = node.ws().await;
    let stranger = login(&ws, &PrivateKeySigner::random()).await;
    let user = login(&ws, &scene.user).await;
    let worker = login(&ws, &scene.worker).await;
    assert_eq!(code(ws.subscribe_frames(stranger.clone(), SESSION, Quantity(0)).await), -39003);
    assert_eq!(code(ws.subscribe_frames(worker.clone(), SESSION, Quantity(0)).await), -39003);
    assert_eq!(code(ws.poll_frames(stranger.clone(), SESSION, Quantity(0), Quantity(0)).await), -39003);
    for token in [stranger, user] {
        assert_eq!(code(ws.submit_frames(token, vec![chunk(JOB, 1, 40)]).await), -39009);
    }
    let forged = Frame {
        signature: Some(
            B256::ZERO.0.iter().chain(&[0; 33]).copied().collect::<Vec<_>>().as_slice().try_into().unwrap(),
        ),
        ..scene.complete(JOB, 0, vec![9; 40])
    };
    assert_eq!(code(ws.submit_frames(worker, vec![forged]).await), -39009);
    assert_eq!((node.relay.stats().kept, node.relay.stats().bad_signatures), (0, 1));
    node.stop().await;
}

#[tokio::test]
async fn a_stream_goes_on_across_a_restart_of_the_node() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let (ws, http) = (node.ws().await, node.http());
    let (user, worker) = (login(&ws, &scene.user).await, login(&http, &scene.worker).await);
    let mut stream = ws.subscribe_frames(user.clone(), SESSION, Quantity(0)).await.unwrap();
    let receipt =
        http.submit_frames(worker.clone(), (1..=3).map(|seq| chunk(JOB, seq, 40)).collect()).await.unwrap();
    assert_eq!(receipt.cursors, [1, 2, 3]);
    assert_eq!(take(&mut stream, 3).await, [(1, 1), (2, 2), (3, 3)]);
    node.stop().await;
    assert!(stream.next().await.is_none(), "the stream ends with the node");

    let node = Node::plain(&scene, dir.path()).await;
    let (ws, http) = (node.ws().await, node.http());
    let mut stream = ws.subscribe_frames(user.clone(), SESSION, Quantity(2)).await.unwrap();
    // The worker is not sure what arrived and sends everything again.
    let again = (1..=4).map(|seq| chunk(JOB, seq, 40)).chain([scene.complete(JOB, 4, vec![9; 60])]).collect();
    assert_eq!(http.submit_frames(worker, again).await.unwrap().cursors, [1, 2, 3, 4, 5]);
    assert_eq!(take(&mut stream, 3).await, [(3, 3), (4, 4), (5, 5)]);
    let polled = http.poll_frames(user, SESSION, Quantity(4), Quantity(1_000)).await.unwrap();
    assert_eq!(polled.len(), 1);
    assert_eq!(polled[0].frame, scene.complete(JOB, 4, vec![9; 60]));
    node.stop().await;
}

#[tokio::test]
async fn polling_waits_for_the_first_frame() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let http = node.http();
    let (user, worker) = (login(&http, &scene.user).await, login(&http, &scene.worker).await);
    let waiting = tokio::spawn({
        let http = http.clone();
        async move { http.poll_frames(user, SESSION, Quantity(0), Quantity(30_000)).await.unwrap() }
    });
    http.submit_frames(worker, vec![chunk(JOB, 1, 40)]).await.unwrap();
    assert_eq!(waiting.await.unwrap().len(), 1);
    node.stop().await;
}

#[tokio::test]
async fn the_receipt_shows_another_answer_on_the_chain() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let http = node.http();
    let worker = login(&http, &scene.worker).await;
    assert_eq!(code(http.get_receipt(JobId(99)).await), -39006);
    let receipt = http.get_receipt(JOB).await.unwrap();
    assert_eq!((receipt.response_signature, receipt.ciphertext), (None, None));
    assert_eq!(code(http.get_dispute_evidence(JOB).await), -39006, "nothing is committed");
    let answer = scene.complete(JOB, 0, vec![9; 60]);
    http.submit_frames(worker, vec![answer.clone()]).await.unwrap();
    scene.view.change(JOB, |job| job.response_ciphertext_hash = Some(keccak256([9; 60])));
    assert_eq!(code(http.get_dispute_evidence(JOB).await), -39006, "it committed what it signed");
    scene.view.change(JOB, |job| job.response_ciphertext_hash = Some(keccak256([8; 60])));
    let receipt = http.get_receipt(JOB).await.unwrap();
    assert_eq!(receipt.relayed_ciphertext_hash, Some(keccak256([9; 60])));
    assert_ne!(receipt.relayed_ciphertext_hash, receipt.job.response_ciphertext_hash);
    assert_eq!(receipt.ciphertext, Some(vec![9; 60].into()));
    let evidence = http.get_dispute_evidence(JOB).await.unwrap();
    assert_eq!((evidence.signed_hash, evidence.committed_hash), (keccak256([9; 60]), keccak256([8; 60])));
    assert!([27, 28].contains(evidence.signature.last().unwrap()));
    let call = JobRegistry::disputeResponseMismatchCall::abi_decode(&evidence.data).unwrap();
    assert_eq!(
        (call.jobId, call.ciphertext, call.signature),
        (JOB.word(), vec![9; 60].into(), evidence.signature)
    );
    let signer = lcai_crypto::recover_response(
        receipt.chain_id,
        receipt.job_registry,
        JOB,
        SESSION,
        &receipt.ciphertext.unwrap(),
        &receipt.response_signature.unwrap(),
    );
    assert_eq!(signer, Ok(scene.worker.address()), "the evidence");
    node.stop().await;
}

/// A WebSocket client that reads nothing until it is told to.
struct Lazy(TcpStream);

impl Lazy {
    async fn subscribe(node: &Node, token: &str) -> Self {
        let mut stream = websocket(node.handle.local_addr()).await;
        let call = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"lcai_subscribeFrames","params":["{token}",{SESSION},0]}}"#
        );
        stream.write_all(&text_message(call.as_bytes())).await.unwrap();
        Self(stream)
    }

    /// Reads messages until one is the error that ends the subscription; gives it and the last cursor before it.
    async fn read_to_error(mut self) -> (serde_json::Value, u64) {
        let mut last = 0;
        loop {
            let message: serde_json::Value = serde_json::from_slice(&self.message().await).unwrap();
            if let Some(error) = message["params"].get("error") {
                return (error.clone(), last);
            }
            if let Ok(Quantity(cursor)) =
                serde_json::from_value(message["params"]["result"]["cursor"].clone())
            {
                assert_eq!(cursor, last + 1);
                last = cursor;
            }
        }
    }

    async fn message(&mut self) -> Vec<u8> {
        read_text(&mut self.0).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_cut_with_its_cursor_and_hurts_nobody() {
    const FRAMES: u32 = 400;
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let settings = RpcSettings { slow_reader: Duration::from_millis(300), ..RpcSettings::default() };
    // It answers no pings either; that is not what it is cut for here.
    let ping = Duration::from_secs(3600);
    let limits = ServerLimits { message_buffer: 4, ping, write: ping, ..ServerLimits::default() };
    let node = Node::start(&scene, dir.path(), Options { settings, limits, ..Options::default() }).await;
    let (ws, http) = (node.ws().await, node.http());
    let (user, worker) = (login(&ws, &scene.user).await, login(&http, &scene.worker).await);
    let lazy = Lazy::subscribe(&node, &user).await;
    let mut stream = ws.subscribe_frames(user.clone(), SESSION, Quantity(0)).await.unwrap();
    let other = tokio::spawn(async move { take(&mut stream, FRAMES as usize).await });
    // More than sockets and queues hold: 400 frames of 64 KiB.
    for seq in 1..=FRAMES {
        http.submit_frames(worker.clone(), vec![chunk(JOB, seq, 65_536)]).await.unwrap();
    }
    let expected: Vec<_> = (1..=FRAMES).map(|seq| (u64::from(seq), seq)).collect();
    assert_eq!(other.await.unwrap(), expected, "the other reader has everything");
    while node.relay.stats().cut_readers == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (error, last) = lazy.read_to_error().await;
    assert_eq!(error["code"], -39014);
    let Quantity(resume) = serde_json::from_value(error["data"]["resumeFrom"].clone()).unwrap();
    assert_eq!(resume, last);
    assert!(resume < u64::from(FRAMES));
    let mut stream = ws.subscribe_frames(user, SESSION, Quantity(resume)).await.unwrap();
    let rest = FRAMES as usize - usize::try_from(resume).unwrap();
    assert_eq!(take(&mut stream, rest).await, expected[expected.len() - rest..]);
    node.stop().await;
}

#[tokio::test]
async fn callers_are_bounded() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let limits = ServerLimits {
        max_request_bytes: 4_096,
        max_connections: 3,
        max_subscriptions: 2,
        max_batch: 2,
        calls: Rate { per_second: 0.001, burst: 12.0 },
        ..ServerLimits::default()
    };
    let settings = RpcSettings { frames: Rate { per_second: 0.001, burst: 3.0 }, ..RpcSettings::default() };
    let node = Node::start(&scene, dir.path(), Options { limits, settings, ..Options::default() }).await;
    let (first, second) = (node.ws().await, node.ws().await);
    let (user, worker) = (login(&first, &scene.user).await, login(&first, &scene.worker).await);
    let _one = first.subscribe_frames(user.clone(), SESSION, Quantity(0)).await.unwrap();
    let _two = first.subscribe_frames(user.clone(), SESSION, Quantity(0)).await.unwrap();
    assert_eq!(
        code(first.subscribe_frames(user.clone(), SESSION, Quantity(0)).await),
        -32006,
        "too many subscriptions"
    );
    let frames = |range: std::ops::Range<u32>| range.map(|seq| chunk(JOB, seq, 40)).collect::<Vec<_>>();
    second.submit_frames(worker.clone(), frames(1..4)).await.unwrap();
    assert_eq!(code(second.submit_frames(worker, frames(4..5)).await), -39007, "the account's frames");

    let third = node.ws().await;
    let fourth = WsClientBuilder::default().build(format!("ws://{}", node.handle.local_addr())).await;
    assert!(fourth.is_err(), "too many connections");
    let calls = async |client: &WsClient| {
        let mut done = 0;
        while client.request::<serde_json::Value, _>("lcai_models", rpc_params![]).await.is_ok() {
            done += 1;
        }
        done
    };
    assert_eq!(calls(&third).await, 12, "the connection's rate");
    let large = vec!["x".repeat(5_000)];
    assert!(second.request::<serde_json::Value, _>("lcai_models", large).await.is_err(), "too large");
    let refused: Result<serde_json::Value, _> = third.request("lcai_models", rpc_params![]).await;
    assert_eq!(code(refused), -39007);
    drop(third);
    let mut fifth = WsClientBuilder::default().build(format!("ws://{}", node.handle.local_addr())).await;
    while fifth.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        fifth = WsClientBuilder::default().build(format!("ws://{}", node.handle.local_addr())).await;
    }
    assert!(fifth.unwrap().health().await.is_ok(), "a place is free again and others are unaffected");
    node.stop().await;
}

/// Gives whatever it was made with, for any hash.
#[derive(Debug)]
struct Careless(Box<Blob>);

#[async_trait]
impl BlobSource for Careless {
    fn name(&self) -> &str {
        "careless"
    }

    async fn blob(&self, _: B256, _: Option<BlobHint>) -> Result<Option<Box<Blob>>, BlobError> {
        Ok(Some(self.0.clone()))
    }
}

#[tokio::test]
async fn blobs_are_checked_against_their_hash() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let (kept, elsewhere) = (encode(&[1; 40]).unwrap(), encode(&[2; 40]).unwrap());
    let (kept_hash, elsewhere_hash) =
        (blob_versioned_hash(&kept).unwrap(), blob_versioned_hash(&elsewhere).unwrap());
    let store = BlobStore::in_memory(1 << 20).unwrap();
    store.insert(kept_hash, &kept, u64::MAX).unwrap();
    let blobs = BlobService::new(Arc::new(store), vec![Arc::new(Careless(elsewhere.clone()))], None);
    let node = Node::start(&scene, dir.path(), Options { blobs, ..Options::default() }).await;
    let http = node.http();
    assert_eq!(http.get_blob(kept_hash, None).await.unwrap(), Some(Bytes::copy_from_slice(kept.as_slice())));
    assert_eq!(
        http.get_blob(elsewhere_hash, None).await.unwrap(),
        Some(Bytes::copy_from_slice(elsewhere.as_slice()))
    );
    assert_eq!(code(http.get_blob(B256::repeat_byte(1), None).await), -39011);
    let token = login(&http, &scene.user).await;
    assert_eq!(code(http.publish_blob(token, vec![0; 40].into()).await), -39008, "no blob key");
    node.stop().await;
}

#[tokio::test]
async fn a_blob_that_cannot_be_paid_for_costs_no_quota_and_is_refused_with_a_reason() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let chain = ScriptedHost::new(deployment().chain_id);
    chain.on_send(|_| {
        Err(HostError::Rejected {
            method: "eth_sendRawTransaction".into(),
            code: -32000,
            message: "insufficient funds".into(),
        })
    });
    let lane = Arc::new(TxLane::blob(chain.client(), PrivateKeySigner::random()));
    let journal = Journal::in_memory(lcai_host::testing::identity()).unwrap();
    let config = PublisherConfig { per_account: 1, ..PublisherConfig::new(Some(0)) };
    let publisher = Publisher::new(lane, chain.client(), journal.records("blob quota"), config);
    let blobs =
        BlobService::new(Arc::new(BlobStore::in_memory(1 << 20).unwrap()), Vec::new(), Some(publisher));
    let node = Node::start(&scene, dir.path(), Options { blobs, ..Options::default() }).await;
    let http = node.http();
    let token = login(&http, &scene.user).await;
    assert_eq!(code(http.publish_blob(token.clone(), vec![1; 126_973].into()).await), -39010);
    assert_eq!(code(http.publish_blob(token.clone(), vec![1; 27].into()).await), -32602);
    let poor = http.publish_blob(token.clone(), vec![1; 40].into()).await;
    assert_eq!(code(poor), -39007, "neither a session nor what a blob costs");
    chain.set_balance(scene.user.address(), U256::from(10).pow(U256::from(18)));
    for _ in 0..2 {
        assert_eq!(code(http.publish_blob(token.clone(), vec![1; 40].into()).await), -39008);
    }
    node.stop().await;
}

#[tokio::test]
async fn an_authorization_needs_the_users_own_proof() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let http = node.http();
    let request = AuthorizationRequest {
        user: scene.user.address(),
        model_id: ModelId(B256::repeat_byte(1)),
        worker: scene.worker.address(),
        enc_worker_key: vec![1; 125].into(),
        enc_disputer_key: Bytes::new(),
        nonce: U256::ZERO,
    };
    let stranger = CallerProof::Token { token: login(&http, &scene.worker).await };
    assert_eq!(code(http.authorize_session(request.clone(), stranger).await), -39003);
    let old = CallerProof::Signature { signature: vec![1; 65].into(), expiry: 1 };
    assert_eq!(code(http.authorize_session(request.clone(), old).await), -39004);
    let own = CallerProof::Token { token: login(&http, &scene.user).await };
    assert_eq!(
        code(http.authorize_session(request, own).await),
        -39008,
        "past the proof: this node has no dispatcher"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_tokens_subscriptions_end_with_it() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let tokens = TokenConfig { token_lifetime: 2, ..TokenConfig::default() };
    let node = Node::start(&scene, dir.path(), Options { tokens, ..Options::default() }).await;
    let ws = node.ws().await;
    let token = login(&ws, &scene.user).await;
    let mut frames = ws.subscribe_frames(token.clone(), SESSION, Quantity(0)).await.unwrap();
    let mut account = ws.subscribe_account(token).await.unwrap();
    assert!(account.next().await.unwrap().is_ok(), "what there is");
    let ended = async { (frames.next().await.is_none(), account.next().await.is_none()) };
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await.expect("they end by themselves");
    assert_eq!(ended, (true, true));
    node.stop().await;
}

#[tokio::test]
async fn accounts_and_workers_are_told_what_changes() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let ws = node.ws().await;
    let (user, worker) = (login(&ws, &scene.user).await, login(&ws, &scene.worker).await);
    let mut account = ws.subscribe_account(user).await.unwrap();
    let mut work = ws.subscribe_work(worker).await.unwrap();
    let ids = |jobs: &[JobInfo]| jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids(&account.next().await.unwrap().unwrap().jobs), [JOB]);
    assert_eq!(ids(&work.next().await.unwrap().unwrap().jobs), [JOB]);

    scene.view.next_block();
    scene.view.add_job(JobId(8), SESSION, JobState::Submitted, 2);
    scene.view.next_block();
    let change = account.next().await.unwrap().unwrap();
    assert_eq!(
        (ids(&change.jobs), change.gone_jobs),
        (vec![JobId(8)], vec![]),
        "a block without news is not told"
    );
    assert_eq!(ids(&work.next().await.unwrap().unwrap().jobs), [JobId(8)]);

    scene.view.change(JOB, |job| job.state = JobState::Completed);
    scene.view.remove_job(JobId(8));
    scene.view.next_block();
    let change = account.next().await.unwrap().unwrap();
    assert_eq!((ids(&change.jobs), change.gone_jobs), (vec![JOB], vec![JobId(8)]));
    let change = work.next().await.unwrap().unwrap();
    assert_eq!((ids(&change.jobs), change.closed), (vec![], vec![JOB, JobId(8)]));
    let mut network = ws.subscribe_network().await.unwrap();
    let change = network.next().await.unwrap().unwrap();
    assert_eq!((change.params, change.models), (None, vec![]));
    node.stop().await;
}

#[tokio::test]
async fn pages_are_bounded() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let http = node.http();
    let jobs = http.get_jobs(scene.user.address(), None, None).await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(http.get_jobs(scene.user.address(), Some(JOB), Some(Quantity(5))).await.unwrap(), []);
    for limit in [0, 1_001] {
        assert_eq!(code(http.get_jobs(Address::ZERO, None, Some(Quantity(limit))).await), -32602);
    }
    assert_eq!(code(http.request_reassignment(SessionId(99)).await), -39006);
    assert_eq!(code(http.request_reassignment(SESSION).await), -39005);
    node.stop().await;
}

#[tokio::test]
async fn operators_need_the_secret_and_can_end_all_logins() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let Node { handle, relay, operator, .. } = Node::plain(&scene, dir.path()).await;
    let secret = JwtSecret::new(jwt::tests::SECRET);
    let any_port = "127.0.0.1:0".parse().unwrap();
    let server =
        serve_operator(operator.into_rpc(), any_port, ServerLimits::default(), secret.clone()).await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let client = |bearer: Option<String>| {
        let headers =
            bearer.into_iter().map(|b| ("authorization".parse().unwrap(), b.parse().unwrap())).collect();
        HttpClientBuilder::default().set_headers(headers).build(&url).unwrap()
    };
    let token = |iat: u64| jwt::tests::bearer(&secret, r#"{"alg":"HS256"}"#, &format!(r#"{{"iat":{iat}}}"#));
    for stranger in [client(None), client(Some(token(1)))] {
        let refused = format!("{:?}", stranger.status().await.unwrap_err());
        assert!(refused.contains("401"), "{refused}");
    }

    let ws = WsClientBuilder::default().build(format!("ws://{}", handle.local_addr())).await.unwrap();
    let missing: Result<serde_json::Value, _> = ws.request("lcaiOperator_status", rpc_params![]).await;
    assert_eq!(code(missing), -32601, "not where everybody comes");
    let user = login(&ws, &scene.user).await;
    let mut frames = ws.subscribe_frames(user.clone(), SESSION, Quantity(0)).await.unwrap();
    let operator = client(Some(token(crate::unix_now())));
    while operator.status().await.unwrap().relay.readers != 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let document: serde_json::Value = operator.request("rpc.discover", rpc_params![]).await.unwrap();
    assert_eq!(document["info"]["title"], "lcaiOperator");
    operator.end_logins().await.unwrap();
    assert!(frames.next().await.is_none(), "its subscriptions end");
    assert_eq!(code(ws.poll_frames(user, SESSION, Quantity(0), Quantity(0)).await), -39004);
    handle.stop();
    server.stop();
    relay.close().await;
}

#[tokio::test]
async fn the_document_names_every_method_and_no_other() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let http = node.http();
    let document: serde_json::Value = http.request("rpc.discover", rpc_params![]).await.unwrap();
    let served: BTreeSet<String> = node.module.method_names().map(str::to_owned).collect();
    assert_eq!(documented(&document), served);
    assert_eq!(document["info"]["version"], http.versions().await.unwrap_or_else(|e| panic!("{e}")).api);
    node.stop().await;
}

/// A node without the dispatcher: another relay and other tokens, before `upstream`.
async fn follower(scene: &Scene, dir: &Path, upstream: &Node) -> RpcHandle {
    let own = Node::plain(scene, dir).await;
    let mut module = RpcModule::new(());
    module.merge(own.module.clone()).unwrap();
    let url = format!("ws://{}", upstream.handle.local_addr());
    Upstream::new(&url, deployment()).unwrap().take_over(&mut module).unwrap();
    own.stop().await;
    serve(module, "127.0.0.1:0".parse().unwrap(), ServerLimits::default()).await.unwrap()
}

#[tokio::test]
async fn a_node_without_the_key_hands_on_calls_streams_and_refusals() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let dispatcher = Node::plain(&scene, dir.path()).await;
    let own = tempdir().unwrap();
    let before = follower(&scene, own.path(), &dispatcher).await;
    let url = format!("ws://{}", before.local_addr());
    let ws = WsClientBuilder::default().build(&url).await.unwrap();
    // Tokens are the dispatcher's: they count there and here.
    let (user, worker) = (login(&ws, &scene.user).await, login(&ws, &scene.worker).await);
    let mut stream = ws.subscribe_frames(user.clone(), SESSION, Quantity(0)).await.unwrap();
    ws.submit_frames(worker.clone(), vec![chunk(JOB, 1, 40)]).await.unwrap();
    dispatcher.http().submit_frames(worker, vec![chunk(JOB, 2, 40)]).await.unwrap();
    assert_eq!(take(&mut stream, 2).await, [(1, 1), (2, 2)]);
    assert_eq!(ws.poll_frames(user, SESSION, Quantity(1), Quantity(0)).await.unwrap().len(), 1);
    // Refusals arrive with their codes, also that of a subscription.
    assert_eq!(code(ws.poll_frames("x".into(), SESSION, Quantity(0), Quantity(0)).await), -39003);
    assert_eq!(code(ws.subscribe_frames("x".into(), SESSION, Quantity(0)).await), -39003);
    assert_eq!(code(ws.request_session("unheard-of".into(), scene.user.address()).await), -39001);
    // What the chain tells is answered without the other node.
    dispatcher.stop().await;
    assert!(stream.next().await.is_none(), "the stream ends with the other node's");
    assert!(ws.get_job(JOB).await.unwrap().is_some());
    assert_eq!(code(ws.get_receipt(JOB).await), -39015);
    before.stop();
}

#[tokio::test]
async fn a_client_does_not_use_up_what_the_other_node_takes_of_all() {
    let (scene, dir, own) = (Scene::new(), tempdir().unwrap(), tempdir().unwrap());
    let dispatcher = Node::plain(&scene, dir.path()).await;
    let before = follower(&scene, own.path(), &dispatcher).await;
    let url = format!("ws://{}", before.local_addr());
    let greedy = WsClientBuilder::default().build(&url).await.unwrap();
    let other = WsClientBuilder::default().build(&url).await.unwrap();
    let mut done = 0;
    let refused = loop {
        match greedy.challenge(scene.user.address()).await {
            Ok(_) => done += 1,
            refused => break refused,
        }
        assert!(done < 900, "it is refused before the node's own rate for a connection");
    };
    assert_eq!(code(refused), -39007);
    assert!(done >= 250, "{done}");
    assert!(other.challenge(scene.user.address()).await.is_ok());
    // Subscriptions count too; what is regained meanwhile is soon gone.
    while code(greedy.subscribe_work("x".into()).await) != -39007 {}
    assert_eq!(code(other.subscribe_work("x".into()).await), -39003);
    before.stop();
    dispatcher.stop().await;
}

#[tokio::test]
async fn a_node_of_another_network_is_not_asked() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let dispatcher = Node::plain(&scene, dir.path()).await;
    let elsewhere = lcai_primitives::contracts::Deployment { chain_id: 1, ..deployment() };
    let url = format!("ws://{}", dispatcher.handle.local_addr());
    let mut module = RpcModule::new(());
    module.merge(dispatcher.module.clone()).unwrap();
    Upstream::new(&url, elsewhere).unwrap().take_over(&mut module).unwrap();
    let before = serve(module, "127.0.0.1:0".parse().unwrap(), ServerLimits::default()).await.unwrap();
    let http = HttpClientBuilder::default().build(format!("http://{}", before.local_addr())).unwrap();
    let refused = http.challenge(scene.user.address()).await.unwrap_err().to_string();
    assert!(refused.contains("it is of chain 8200") && refused.contains("this node of chain 1"), "{refused}");
    before.stop();
    dispatcher.stop().await;
}

fn documented(document: &serde_json::Value) -> BTreeSet<String> {
    let methods = document["methods"].as_array().unwrap().iter();
    methods.map(|m| m["name"].as_str().unwrap().to_owned()).collect()
}

/// Stands for what the node answers itself; only the names count.
struct Names;

#[async_trait]
impl LcaiDrillApiServer for Names {
    async fn panic_task(&self, _: String) -> RpcResult<bool> {
        Ok(false)
    }
}

#[async_trait]
impl LcaiDisputerApiServer for Names {
    async fn get_verdict(&self, job: JobId) -> RpcResult<VerdictInfo> {
        Err(LcaiError::NotFound(job.to_string()).into())
    }

    async fn get_evidence(&self, job: JobId) -> RpcResult<EvidenceInfo> {
        Err(LcaiError::NotFound(job.to_string()).into())
    }

    async fn get_worker_statistics(&self) -> RpcResult<Vec<WorkerStatistics>> {
        Ok(Vec::new())
    }

    async fn get_canary_payments(&self) -> RpcResult<Vec<CanaryPayment>> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn the_operators_document_names_every_method_and_no_other() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let Node { handle, relay, operator, .. } = Node::plain(&scene, dir.path()).await;
    let document: serde_json::Value = serde_json::from_str(operator.discover().await.unwrap().get()).unwrap();
    let mut module = operator.into_rpc();
    module.merge(LcaiDrillApiServer::into_rpc(Names)).unwrap();
    module.merge(LcaiDisputerApiServer::into_rpc(Names)).unwrap();
    assert_eq!(documented(&document), module.method_names().map(str::to_owned).collect());
    handle.stop();
    relay.close().await;
}
