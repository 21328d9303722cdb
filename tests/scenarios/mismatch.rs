//! A worker signs and streams one answer and commits another. What the node kept of the stream, asked for after the page
//! is gone, takes its stake and gives the user the fee back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_primitives::{B256, Bytes, U256, keccak256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use lcai::devnet::{Devnet, DevnetConfig};
use lcai_client::{User, UserSession};
use lcai_crypto::{seal, sign_response};
use lcai_host::{Call, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{JobRegistry, JobState, WorkerRegistry},
    frames::Frame,
    ids::JobId,
};
use lcai_rpc::{api::LcaiApiClient, types::DisputeEvidence};
use lcai_tests::{devnet, fee, funded, idle::IdleWorker, run, session_with, until, user};

#[test]
fn signing_one_answer_and_committing_another_costs_the_stake() {
    run(async {
        let mut config = DevnetConfig { workers: 1, ..DevnetConfig::default() };
        config.params.dispute_window = 120;
        let devnet = devnet(config).await;
        let cheat = IdleWorker::start(&devnet, devnet.user(8).unwrap().clone()).await;
        let ann = funded(&devnet, 0).await;
        let session = session_with(&ann, cheat.address()).await;
        let fee = fee(&ann).await;
        let job = submit(&ann, &session, fee).await;
        let streamed = seal(&session.key, b"Paris").unwrap();
        serve_two_answers(&devnet, &cheat.signer, &session, job, &streamed).await;

        // All that the page had is gone but the job's id.
        let ann = user(&devnet, ann.signer().clone()).await;
        let evidence = evidence(&ann, job).await;
        assert_eq!((evidence.job_id, evidence.worker), (job, cheat.address()));
        assert_eq!(evidence.ciphertext, streamed);
        assert_eq!((evidence.signed_hash, evidence.committed_hash), (keccak256(&streamed), committed()));

        let (stake, money) = (stake(&ann, &cheat).await, balance(&ann).await);
        file(&ann, &evidence).await;
        assert!(stake > self::stake(&ann, &cheat).await, "it is slashed");
        assert!(balance(&ann).await > money + fee / U256::from(2), "the fee is back, less gas");
        assert_eq!(state(&ann, job).await, JobState::Resolved);
        devnet.stop().await;
    });
}

/// What the worker commits instead.
fn committed() -> B256 {
    B256::repeat_byte(0xbb)
}

async fn submit(user: &User, session: &UserSession, fee: U256) -> JobId {
    let blob = user.publish_prompt(&session.key, b"What is the capital of France?").await.unwrap();
    let call = JobRegistry::submitJobCall { sessionId: session.id.word(), blobHash: blob.versioned_hash };
    let to = user.node().network().deployment.job_registry;
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let sent = lane.send(TxSpec { value: fee, ..TxSpec::call(to, call.abi_encode().into()) }).await.unwrap();
    let receipt = user.node().receipt(sent.hash).await.unwrap().unwrap();
    let log = receipt.inner.logs().iter().find(|log| log.address() == to).expect("it succeeded");
    JobId::try_from(U256::from_be_bytes(log.topics()[1].0)).unwrap()
}

/// Acknowledges, streams a signed answer, commits the hash of another.
async fn serve_two_answers(
    devnet: &Devnet,
    signer: &PrivateKeySigner,
    session: &UserSession,
    job: JobId,
    streamed: &[u8],
) {
    let worker = user(devnet, signer.clone()).await;
    act(&worker, JobRegistry::acknowledgeJobCall { jobId: job.word() }.abi_encode()).await;
    let deployment = devnet.deployment();
    let (chain, registry) = (deployment.chain_id, deployment.job_registry);
    let signature = sign_response(signer, chain, registry, job, session.id, streamed).unwrap();
    let frame = Frame::complete(job, session.id, 0, streamed.to_vec(), signature, 1);
    until("the node has read the acknowledgement", async || {
        let token = worker.token().await.unwrap();
        worker.node().rpc().submit_frames(token, vec![frame.clone()]).await.is_ok()
    })
    .await;
    let call = JobRegistry::completeJobCall {
        jobId: job.word(),
        responseBlobHash: B256::repeat_byte(0xb1),
        responseCiphertextHash: committed(),
    };
    act(&worker, call.abi_encode()).await;
}

async fn act(account: &User, input: Vec<u8>) {
    let to = account.node().network().deployment.job_registry;
    let lane = TxLane::new(account.node().chain(), account.signer().clone());
    assert!(lane.send(TxSpec::call(to, input.into())).await.unwrap().receipt.success);
}

async fn evidence(user: &User, job: JobId) -> DisputeEvidence {
    let found = async || user.node().rpc().get_dispute_evidence(job).await;
    until("the node has read what was committed", async || found().await.is_ok()).await;
    found().await.unwrap()
}

/// Sends what the node gave, as it is. The node may have done so itself meanwhile: then it holds all the same.
async fn file(user: &User, evidence: &DisputeEvidence) {
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let sent = lane.send(TxSpec::call(evidence.to, evidence.data.clone())).await;
    let filed = sent.is_ok_and(|sent| sent.receipt.success);
    assert!(filed || state(user, evidence.job_id).await == JobState::Resolved);
}

async fn state(user: &User, job: JobId) -> JobState {
    let registry = user.node().network().deployment.job_registry;
    let found = read(user, registry, JobRegistry::getJobCall { jobId: job.word() }).await;
    JobState::try_from(found.state).unwrap()
}

async fn stake(user: &User, worker: &IdleWorker) -> U256 {
    let registry = user.node().network().deployment.worker_registry;
    read(user, registry, WorkerRegistry::getWorkerStakeCall { worker: worker.address() }).await
}

async fn read<C: SolCall>(user: &User, to: alloy_primitives::Address, call: C) -> C::Return {
    let call = Call { to, input: Bytes::from(call.abi_encode()) };
    C::abi_decode_returns(&user.node().chain().call(call, None).await.unwrap()).unwrap()
}

async fn balance(user: &User) -> U256 {
    user.node().chain().balance(user.account()).await.unwrap()
}
