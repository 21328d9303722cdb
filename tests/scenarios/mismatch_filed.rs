//! A worker signs and streams one answer and commits another. The node that kept the frame files it by itself: one
//! conviction and one slash, also when a reorg takes the filing away. An honest worker is never filed against.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai::devnet::{Devnet, DevnetConfig};
use lcai_client::{User, UserSession};
use lcai_crypto::{seal, sign_eip191, sign_response};
use lcai_embedded_chain::ReorgPlan;
use lcai_host::{Call, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{JobRegistry, WorkerRegistry},
    frames::Frame,
    ids::JobId,
};
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{ask, devnet, fee, funded, idle::IdleWorker, run, scene::block_of, session_with, until};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const RESOLVED: B256 = JobRegistry::DisputeResolved::SIGNATURE_HASH;

#[test]
fn the_node_files_what_differs_once() {
    run(async {
        let mut config = DevnetConfig { workers: 1, ..DevnetConfig::default() };
        config.params.dispute_window = 240;
        let devnet = devnet(config).await;
        let user = funded(&devnet, 0).await;
        let liar = IdleWorker::start(&devnet, devnet.user(8).unwrap().clone()).await;
        let honest = session_with(&user, devnet.workers()[0]).await;
        ask(&user, &honest, "What is the capital of France?").await;

        let session = session_with(&user, liar.address()).await;
        let staked = stake(&devnet, &user, liar.address()).await;
        let job = lie(&devnet, &user, &session, &liar).await;
        let filed = || async { logs(&devnet, RESOLVED).await.len() == 1 };
        until("the node files it", filed).await;
        blocks(&devnet, 1).await;
        take_away(&devnet).await;
        until("it is filed again", filed).await;
        // Past the block from which a filing is safe, and the honest worker's job with it.
        blocks(&devnet, 12).await;

        let resolved = logs(&devnet, RESOLVED).await;
        assert_eq!(resolved.len(), 1, "one conviction");
        assert_eq!(
            resolved[0]["topics"][1],
            json!(B256::from(job.word())),
            "the honest worker's job has none"
        );
        let slashed = logs(&devnet, WorkerRegistry::WorkerSlashed::SIGNATURE_HASH).await;
        assert_eq!(slashed.len(), 1, "one slash");
        assert_eq!(slashed[0]["topics"][1], json!(liar.address().into_word()));
        let left = stake(&devnet, &user, liar.address()).await;
        assert_eq!(left, staked - staked * U256::from(15) / U256::from(100));
        devnet.stop().await;
    });
}

/// One answer under the worker's signature in the relay, another on chain.
async fn lie(devnet: &Devnet, user: &User, session: &UserSession, liar: &IdleWorker) -> JobId {
    let to = devnet.deployment().job_registry;
    let blob = user.publish_prompt(&session.key, b"What is the capital of France?").await.unwrap();
    let call = JobRegistry::submitJobCall { sessionId: session.id.word(), blobHash: blob.versioned_hash };
    let spec = TxSpec { value: fee(user).await, ..TxSpec::call(to, call.abi_encode().into()) };
    let asks = TxLane::new(user.node().chain(), user.signer().clone());
    let sent = asks.send(spec).await.unwrap();
    let receipt = user.node().receipt(sent.hash).await.unwrap().unwrap();
    let log = receipt.inner.logs().iter().find(|log| log.address() == to).expect("it succeeded");
    let job = JobId::try_from(U256::from_be_bytes(log.topics()[1].0)).unwrap();

    let works = TxLane::new(user.node().chain(), liar.signer.clone());
    let acknowledge = JobRegistry::acknowledgeJobCall { jobId: job.word() };
    assert!(works.send(TxSpec::call(to, acknowledge.abi_encode().into())).await.unwrap().receipt.success);
    let streamed = seal(&session.key, b"Paris").unwrap();
    stream(devnet, user, session, liar, job, streamed).await;
    let complete = JobRegistry::completeJobCall {
        jobId: job.word(),
        responseBlobHash: B256::with_last_byte(1),
        responseCiphertextHash: keccak256("Berlin"),
    };
    assert!(works.send(TxSpec::call(to, complete.abi_encode().into())).await.unwrap().receipt.success);
    job
}

async fn stream(
    devnet: &Devnet,
    user: &User,
    session: &UserSession,
    liar: &IdleWorker,
    job: JobId,
    answer: Vec<u8>,
) {
    let (node, deployment) = (user.node().rpc(), devnet.deployment());
    let challenge = node.challenge(liar.address()).await.unwrap().message;
    let signature = sign_eip191(&liar.signer, challenge.as_bytes()).unwrap().to_vec();
    let token = node.login(challenge, signature.into()).await.unwrap().token;
    let (chain, registry) = (deployment.chain_id, deployment.job_registry);
    let signature = sign_response(&liar.signer, chain, registry, job, session.id, &answer).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let frame = Frame::complete(job, session.id, 0, answer, signature, now);
    node.submit_frames(token, vec![frame]).await.unwrap();
}

/// Takes the filing's block away with its transaction.
async fn take_away(devnet: &Devnet) {
    let chain = devnet.chain();
    chain.pause_mining();
    // A block that was on its way comes before this one.
    chain.mine(1).await.unwrap();
    let depth = chain.heads().head.number - block_of(&logs(devnet, RESOLVED).await[0]) + 1;
    let plan = ReorgPlan { new_blocks: depth + 1, replacement_txs: Vec::new(), keep_dropped: false };
    chain.reorg(depth, plan).await.unwrap();
    assert!(logs(devnet, RESOLVED).await.is_empty(), "the new branch knows nothing of it");
    chain.resume_mining();
}

async fn logs(devnet: &Devnet, signature: B256) -> Vec<Value> {
    let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": [signature] }]);
    devnet.chain().rpc("eth_getLogs", filter).await.unwrap().as_array().unwrap().clone()
}

async fn stake(devnet: &Devnet, user: &User, worker: Address) -> U256 {
    let input = WorkerRegistry::getWorkerStakeCall { worker }.abi_encode().into();
    let call = Call { to: devnet.deployment().worker_registry, input };
    let output = user.node().chain().call(call, None).await.unwrap();
    WorkerRegistry::getWorkerStakeCall::abi_decode_returns(&output).unwrap()
}

/// Waits for so many blocks more.
async fn blocks(devnet: &Devnet, count: u64) {
    let head = devnet.chain().heads().head.number;
    until("blocks come", async || devnet.chain().heads().head.number >= head + count).await;
}
