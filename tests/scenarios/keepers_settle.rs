//! Two keepers compete, through reorgs, over jobs that could not be timed out and over jobs that went well: settled and
//! released once on the chain that stays, what the slower one lost is reported. Sortition requests that expire need no
//! keeper: they read expired by themselves, on every branch, and nobody spends anything on them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use alloy_primitives::{B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai::ask::DEFAULT_MODEL;
use lcai_client::User;
use lcai_crypto::SessionKey;
use lcai_embedded_chain::ReorgPlan;
use lcai_exex_dispatch::DispatchConfig;
use lcai_genesis::ProtocolParams;
use lcai_host::{Call, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{JobRegistry, RequestStatus, SessionManager},
    ids::ModelId,
};
use lcai_tests::{fee, funded, governance::switch_sortition, run, scene::Scene, session_with, until};
use std::time::Duration;

const ACK_TIMEOUT: u64 = 6;

#[test]
fn settlements_and_releases_happen_once_and_requests_expire_by_themselves() {
    run(async {
        let params = ProtocolParams {
            ack_timeout: ACK_TIMEOUT,
            dispute_window: 10,
            resolution_timeout: 8,
            ..ProtocolParams::devnet()
        };
        let quick = |config| DispatchConfig { duty_retry_seconds: 1, ..config };
        let scene = Scene::start(params, quick).await;
        settles_what_could_not_be_timed_out(&scene).await;
        releases_in_batches(&scene).await;
        defaults_a_silent_disputer(&scene).await;
        scene.bounties_add_up().await;
        scene.both_took_part();
        requests_expire(&scene).await;
        scene.devnet.stop().await;
    });
}

/// The keepers cannot pay for the first attempts at the timeout, 1, 2 and 4 seconds after the deadline; once they can, the
/// no-fault window is open.
async fn settles_what_could_not_be_timed_out(scene: &Scene) {
    let session = session_with(&scene.user, scene.idle.address()).await;
    let jobs: Vec<B256> = scene.submit(&session, 1).await.iter().map(|job| job.word().into()).collect();
    let stake = scene.worker(scene.idle.address()).await.stake;
    tokio::time::sleep(Duration::from_secs(ACK_TIMEOUT + 12)).await;
    scene.pay_keepers().await;
    let settled = JobRegistry::JobSettledNoFault::SIGNATURE_HASH;
    scene.done_once_across_a_reorg("settleStuckJob", settled, &jobs).await;
    assert_eq!(scene.counts(JobRegistry::JobTimedOut::SIGNATURE_HASH, &jobs).await, [0]);
    assert_eq!(scene.worker(scene.idle.address()).await.stake, stake, "nobody is blamed");
}

/// The worker releases its own jobs too, so three compete for each.
async fn releases_in_batches(scene: &Scene) {
    let session = session_with(&scene.user, scene.devnet.workers()[0]).await;
    let jobs: Vec<B256> = scene.submit(&session, 3).await.iter().map(|job| job.word().into()).collect();
    scene.done_once_across_a_reorg("releaseJobs", JobRegistry::JobReleased::SIGNATURE_HASH, &jobs).await;
}

/// The disputer cannot pay for its verdict: the user that filed gets fee and bond back by default.
async fn defaults_a_silent_disputer(scene: &Scene) {
    scene.silence_the_disputer().await;
    let session = session_with(&scene.user, scene.devnet.workers()[0]).await;
    let jobs = scene.submit(&session, 1).await;
    let ids: Vec<B256> = jobs.iter().map(|job| job.word().into()).collect();
    until("it is answered", async || {
        scene.counts(JobRegistry::JobCompleted::SIGNATURE_HASH, &ids).await == [1]
    })
    .await;
    let call = JobRegistry::disputeJobCall { jobId: jobs[0].word() };
    let spec = TxSpec::call(scene.devnet.deployment().job_registry, call.abi_encode().into());
    let lane = TxLane::new(scene.user.node().chain(), scene.user.signer().clone());
    let bond = fee(&scene.user).await;
    assert!(lane.send(TxSpec { value: bond, ..spec }).await.unwrap().receipt.success);
    let defaulted = JobRegistry::DisputeDefaulted::SIGNATURE_HASH;
    scene.done_once_across_a_reorg("claimTimeout of a dispute", defaulted, &ids).await;
    assert_eq!(scene.counts(JobRegistry::DisputeResolved::SIGNATURE_HASH, &ids).await, [0], "no verdict");
}

/// One request that is claimed or not, and one that is claimed for certain; neither gets its keys. Reorgs have put the
/// chain some seconds ahead of the clock that expiries are counted by.
async fn requests_expire(scene: &Scene) {
    switch_sortition(&scene.devnet, true).await;
    let (user, model) = (funded(&scene.devnet, 1).await, ModelId::from_name(DEFAULT_MODEL));
    let slots = scene.worker(scene.devnet.workers()[0]).await.free_slots;
    let spent = scene.keepers.each_ref().map(|keeper| keeper.report().gas_used);
    let short = user.request_by_sortition(user.account(), model, 20).await.unwrap();
    let long = user.request_by_sortition(user.account(), model, 28).await.unwrap();
    let claimed = user.claimed(long).await.unwrap();
    let expired = async || {
        status(&user, short).await == RequestStatus::Expired
            && status(&user, long).await == RequestStatus::Expired
    };
    until("both expire", expired).await;

    let chain = scene.devnet.chain();
    chain.pause_mining();
    chain.reorg(2, ReorgPlan::empty(3)).await.unwrap();
    chain.resume_mining();
    until("both are expired on the new branch", expired).await;
    let late = user.provide_key(user.account(), model, &claimed, SessionKey::random()).await.unwrap_err();
    assert!(late.to_string().contains("RequestExpired"), "{late}");
    scene.blocks(3).await;
    assert_eq!(scene.keepers.each_ref().map(|keeper| keeper.report().gas_used), spent, "nobody spent gas");
    assert_eq!(scene.worker(scene.devnet.workers()[0]).await.free_slots, slots, "no slot is bound");
    scene.report("expired requests, across a reorg of 2 blocks");
}

async fn status(user: &User, request: U256) -> RequestStatus {
    let to = user.node().network().deployment.session_manager.unwrap();
    let input = SessionManager::getRequestCall { reqId: request }.abi_encode().into();
    let output = user.node().chain().call(Call { to, input }, None).await.unwrap();
    let request = SessionManager::getRequestCall::abi_decode_returns(&output).unwrap();
    RequestStatus::try_from(request.status).unwrap()
}
