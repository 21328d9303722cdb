//! Reorgs across a dispute's creation and across its verdict: one verdict takes hold, the worker is slashed once, and no
//! evidence is made twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

use alloy_primitives::{B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai::devnet::{Devnet, DevnetConfig, WorkerModel};
use lcai_client::User;
use lcai_embedded_chain::ReorgPlan;
use lcai_host::{Call, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{Job, JobRegistry, JobState, WorkerRegistry},
    ids::JobId,
};
use lcai_tests::{ask, devnet, fee, funded, open_session, run, scene::block_of, until};
use serde_json::{Value, json};

/// The worse model gets it wrong, and the good one right.
const QUESTION: &str = "What is 58 plus 42?";

#[test]
fn one_verdict_across_reorgs() {
    run(async {
        let mut config =
            DevnetConfig { workers: 1, worker_models: vec![WorkerModel::Worse], ..DevnetConfig::default() };
        config.params.dispute_window = 240;
        // A verdict that a reorg took away, and no pool brings back, is sent again in the last quarter of this.
        config.params.resolution_timeout = 120;
        let devnet = devnet(config).await;
        let user = funded(&devnet, 0).await;
        let session = open_session(&user).await;
        let (answer, _) = ask(&user, &session, QUESTION).await;
        let job = answer.receipt.job.id;
        eprintln!("{QUESTION} -> {:?}", answer.text);
        let stake = stake(&devnet, &user).await;

        dispute(&devnet, &user, job).await;
        blocks(&devnet, 1).await;
        // The dispute comes again, in another block.
        let (was, depth) = reorg(&devnet, JobRegistry::DisputeCreated::SIGNATURE_HASH, job, true).await;
        eprintln!("a reorg of {depth} blocks across the dispute");
        until("the dispute is back", async || {
            logs(&devnet, JobRegistry::DisputeCreated::SIGNATURE_HASH, job).await.len() == 1
        })
        .await;
        let created = logs(&devnet, JobRegistry::DisputeCreated::SIGNATURE_HASH, job).await;
        assert_ne!(created[0]["blockHash"], was, "it is in another block");

        let first = verdict(&devnet, &user, job).await;
        blocks(&devnet, 2).await;
        // The verdict is gone with its transaction.
        let (_, depth) = reorg(&devnet, JobRegistry::DisputeResolved::SIGNATURE_HASH, job, false).await;
        eprintln!("a reorg of {depth} blocks across the verdict");
        let second = verdict(&devnet, &user, job).await;
        assert_eq!(second.reExecutionBlobHash, first.reExecutionBlobHash, "the same evidence");
        assert_eq!(second.similarityScore, first.similarityScore);
        blocks(&devnet, 6).await;
        for (what, signature) in [
            ("dispute", JobRegistry::DisputeCreated::SIGNATURE_HASH),
            ("verdict", JobRegistry::DisputeResolved::SIGNATURE_HASH),
        ] {
            assert_eq!(logs(&devnet, signature, job).await.len(), 1, "one {what}");
        }
        let left = self::stake(&devnet, &user).await;
        assert_eq!(left, stake - stake * U256::from(15) / U256::from(100), "slashed once");
        devnet.stop().await;
    });
}

async fn dispute(devnet: &Devnet, user: &User, job: JobId) {
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let call = JobRegistry::disputeJobCall { jobId: job.word() };
    let spec = TxSpec::call(devnet.deployment().job_registry, call.abi_encode().into());
    let sent = lane.send(TxSpec { value: fee(user).await, ..spec }).await.unwrap();
    assert!(sent.receipt.success);
}

/// Takes the block of the job's event away and all that came after; `kept`: its transactions come again. Gives the hash of
/// the block that had it, and how many blocks went.
async fn reorg(devnet: &Devnet, signature: B256, job: JobId, kept: bool) -> (Value, u64) {
    let chain = devnet.chain();
    chain.pause_mining();
    // A block that was on its way comes before this one.
    chain.mine(1).await.unwrap();
    let seen = logs(devnet, signature, job).await;
    let depth = chain.heads().head.number - block_of(&seen[0]) + 1;
    let plan = ReorgPlan { new_blocks: depth + 1, replacement_txs: Vec::new(), keep_dropped: kept };
    chain.reorg(depth, plan).await.unwrap();
    if !kept {
        assert!(logs(devnet, signature, job).await.is_empty(), "the new branch knows nothing of it");
    }
    chain.resume_mining();
    (seen[0]["blockHash"].clone(), depth)
}

/// The job once there is a verdict.
async fn verdict(devnet: &Devnet, user: &User, job: JobId) -> Job {
    let to = devnet.deployment().job_registry;
    until("a verdict", async || {
        let found: Job = read(user, to, JobRegistry::getJobCall { jobId: job.word() }).await;
        JobState::try_from(found.state).unwrap() != JobState::Disputed
            && !logs(devnet, JobRegistry::DisputeResolved::SIGNATURE_HASH, job).await.is_empty()
    })
    .await;
    let found: Job = read(user, to, JobRegistry::getJobCall { jobId: job.word() }).await;
    assert_ne!(found.reExecutionBlobHash, B256::ZERO, "it ended without evidence");
    found
}

async fn logs(devnet: &Devnet, signature: B256, job: JobId) -> Vec<Value> {
    let topics = json!([signature, B256::from(job.word())]);
    let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": topics }]);
    devnet.chain().rpc("eth_getLogs", filter).await.unwrap().as_array().unwrap().clone()
}

/// Waits for so many blocks more.
async fn blocks(devnet: &Devnet, count: u64) {
    let head = devnet.chain().heads().head.number;
    until("blocks come", async || devnet.chain().heads().head.number >= head + count).await;
}

async fn stake(devnet: &Devnet, user: &User) -> U256 {
    let call = WorkerRegistry::getWorkerStakeCall { worker: devnet.workers()[0] };
    read(user, devnet.deployment().worker_registry, call).await
}

async fn read<C: SolCall>(user: &User, to: alloy_primitives::Address, call: C) -> C::Return {
    let call = Call { to, input: call.abi_encode().into() };
    C::abi_decode_returns(&user.node().chain().call(call, None).await.unwrap()).unwrap()
}
