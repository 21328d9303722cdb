//! Both ways to a session on one network, switched by AIConfig: the dispatcher's draw, and sortition on chain, where a worker
//! claims in the first block it may, the session is adopted, and a delegate can ask and pay for a user.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai::{ask::DEFAULT_MODEL, devnet::DevnetConfig, verify_draw::audit_claim};
use lcai_client::{Answer, ClientError, Event, User, UserSession};
use lcai_crypto::SessionKey;
use lcai_host::{Call, HostClient};
use lcai_primitives::{
    contracts::{ReputationRegistry, SessionManager, WorkerRegistry},
    draw::{Candidate, Sortition},
    ids::ModelId,
    quantity::Quantity,
};
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{
    Network, ask, devnet, fee, funded, governance::switch_sortition, open_session, reth::RethNet, rpc, run,
    until,
};
use std::collections::BTreeMap;

#[test]
fn sortition_beside_the_dispatcher() {
    run(async {
        let devnet = devnet(DevnetConfig { workers: 2, ..DevnetConfig::default() }).await;
        story(&devnet).await;
        devnet.stop().await;
    });
}

/// The same over Reth, with our extensions in its process.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn sortition_beside_the_dispatcher_on_reth() {
    run(async {
        let network = RethNet::start(&DevnetConfig { workers: 2, ..DevnetConfig::default() }).await;
        story(&network).await;
        network.stop().await;
    });
}

async fn story(devnet: &impl Network) {
    let before = funded(devnet, 0).await;
    let model = ModelId::from_name(DEFAULT_MODEL);
    let refused = before.open_by_sortition(model, SessionKey::random()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Transaction { .. }), "{refused}");
    assert!(refused.to_string().contains("switched off"), "{refused}");

    switch_sortition(devnet, true).await;
    let user = funded(devnet, 1).await;
    let (session, answer) = by_sortition(devnet, &user).await;
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    let (next, _) = ask(&user, &session, "What is the capital of Italy?").await;
    assert!(next.text.contains("Rome"), "the session goes on like any other: {}", next.text);

    // The dispatcher's way is open too.
    let dispatched = open_session(&user).await;
    let (answer, _) = ask(&user, &dispatched, "What is the capital of Spain?").await;
    assert!(answer.text.contains("Madrid"), "{}", answer.text);

    a_delegate_asks_and_pays(devnet).await;

    switch_sortition(devnet, false).await;
    let after = funded(devnet, 2).await;
    assert!(after.open_by_sortition(model, SessionKey::random()).await.is_err(), "switched off again");
}

/// Opens a session by sortition and asks in it; the claim is in the first block any worker may claim in, or the next.
async fn by_sortition(devnet: &impl Network, user: &User) -> (UserSession, Answer) {
    let model = ModelId::from_name(DEFAULT_MODEL);
    let request = user.request_by_sortition(user.account(), model, 120).await.unwrap();
    let claimed = user.claimed(request).await.unwrap();
    let first = first_blocks(devnet, user, claimed.request, claimed.request_block).await;
    let (claimed_in, by) = claim_of(devnet, request).await;
    assert_eq!(by, claimed.worker);
    let soonest = *first.values().min().unwrap();
    assert_eq!(first[&by], soonest, "the first in the order of tickets: {first:?}");
    // In the first block it may, or the next where that one was already being built when its claim came.
    assert!((soonest..=soonest + 1).contains(&claimed_in), "claimed in block {claimed_in}: {first:?}");
    // The contract agrees on when that is.
    let may = |worker: Address, block: u64| eligible_in(user, request, worker, block);
    if soonest > claimed.request_block + 2 {
        assert!(!may(by, soonest - 1).await);
    }
    let session = user.provide_key(user.account(), model, &claimed, SessionKey::random()).await.unwrap();
    let told = async || {
        let told = user.node().rpc().get_session_request(Quantity(request.to())).await.unwrap();
        told.expect("the node follows SessionManager")
    };
    until("the node tells what came of the request", async || told().await.status == "ready").await;
    let told = told().await;
    assert_eq!((told.user, told.worker, told.session_id), (user.account(), Some(by), Some(session.id)));
    assert_eq!((told.model_id, told.request_block), (model, claimed.request_block));
    // Anybody repeats it from the chain alone.
    let audit = audit_claim(user.node(), session.id).await.unwrap().expect("it came by sortition");
    assert_eq!((audit.worker, audit.claimed_in, audit.user), (by, claimed_in, user.account()));
    assert_eq!(audit.workers.iter().copied().collect::<BTreeMap<_, _>>(), first);
    let found = &audit.findings;
    assert_eq!((found.wrong.clone(), found.unchecked.clone(), found.checked.len()), (vec![], vec![], 2));
    let (answer, _) = ask(user, &session, "What is the capital of France?").await;
    (session, answer)
}

/// The user signs one transaction; the application does and pays the rest from the deposit. The user reads the answer.
async fn a_delegate_asks_and_pays(devnet: &impl Network) {
    let (owner, app) = (funded(devnet, 3).await, funded(devnet, 4).await);
    let model = ModelId::from_name(DEFAULT_MODEL);
    let stranger = funded(devnet, 5).await;
    assert!(stranger.request_by_sortition(owner.account(), model, 60).await.is_err(), "not authorized");
    let price = fee(&owner).await;
    owner.authorize_delegate(app.account(), price).await.unwrap();

    let request = app.request_by_sortition(owner.account(), model, 120).await.unwrap();
    let claimed = app.claimed(request).await.unwrap();
    let key = SessionKey::random();
    let session = app.provide_key(owner.account(), model, &claimed, key.clone()).await.unwrap();
    let blob = app.publish_prompt(&key, b"What is the capital of France?").await.unwrap();
    let submitted = app.submit_on_behalf(owner.account(), session.id, blob.versioned_hash).await.unwrap();
    let answer = owner.follow(&session, &blob, submitted, &mut |_: Event| {}).await.unwrap();
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    assert_eq!(answer.receipt.job.user, owner.account());

    let blob = app.publish_prompt(&key, b"What is the capital of Italy?").await.unwrap();
    let beyond = app.submit_on_behalf(owner.account(), session.id, blob.versioned_hash).await;
    assert!(beyond.is_err(), "the allowance is spent");
}

async fn claim_of(devnet: &impl Network, request: U256) -> (u64, Address) {
    let topics = [SessionManager::SessionClaimed::SIGNATURE_HASH, B256::from(request)];
    let filter = serde_json::json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": topics }]);
    let logs = rpc(devnet, "eth_getLogs", filter).await;
    let log = &logs[0];
    let number =
        u64::from_str_radix(log["blockNumber"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let worker: B256 = log["topics"][2].as_str().unwrap().parse().unwrap();
    (number, Address::from_word(worker))
}

/// When each worker may claim, worked out here from chain data.
async fn first_blocks(
    devnet: &impl Network,
    user: &User,
    request: U256,
    block: u64,
) -> BTreeMap<Address, u64> {
    let chain = user.node().chain();
    let deployment = devnet.deployment();
    let at = hash_of(devnet, block).await;
    let read = async |to: Address, input: Vec<u8>| {
        let output = chain.call(Call { to, input: input.into() }, Some(at)).await.unwrap();
        U256::from_be_slice(&output)
    };
    let registry = deployment.worker_registry;
    let params = &user.node().network().params;
    let total =
        read(registry, WorkerRegistry::getTotalStakedCall { blockNumber: U256::from(block) }.abi_encode())
            .await;
    let seed = hash_of(devnet, block + 1).await;
    let window = params.claim_window_blocks;
    let sortition = Sortition { seed, request, request_block: block, window, total_stake: total };
    let mut first = BTreeMap::new();
    for worker in devnet.workers() {
        let stake = read(registry, WorkerRegistry::getWorkerStakeCall { worker }.abi_encode()).await;
        let scores = deployment.reputation_registry.unwrap();
        let score = read(scores, ReputationRegistry::getScoreCall { worker }.abi_encode()).await;
        let stake_cap = params.min_worker_stake * U256::from(10);
        let candidate = Candidate { worker, stake, stake_cap, reputation: score.to() };
        let since = read(registry, WorkerRegistry::getWeightSinceCall { worker }.abi_encode()).await;
        first.insert(worker, sortition.first_block(&candidate, since.to()));
    }
    first
}

async fn hash_of(devnet: &impl Network, block: u64) -> B256 {
    let params = serde_json::json!([format!("{block:#x}"), false]);
    rpc(devnet, "eth_getBlockByNumber", params).await["hash"].as_str().unwrap().parse().unwrap()
}

/// `eligibleNow` as the contract has it on the state and number of a block.
async fn eligible_in(user: &User, request: U256, worker: Address, block: u64) -> bool {
    let input = SessionManager::eligibleNowCall { reqId: request, worker }.abi_encode();
    let manager = user.node().network().deployment.session_manager.unwrap();
    let chain: std::sync::Arc<dyn HostClient> = user.node().chain();
    let hash: serde_json::Value = jsonrpsee::core::client::ClientT::request(
        &*user.node().rpc(),
        "eth_getBlockByNumber",
        jsonrpsee::rpc_params![format!("{block:#x}"), false],
    )
    .await
    .unwrap();
    let hash: B256 = hash["hash"].as_str().unwrap().parse().unwrap();
    let output = chain.call(Call { to: manager, input: input.into() }, Some(hash)).await.unwrap();
    !U256::from_be_slice(&output).is_zero()
}
