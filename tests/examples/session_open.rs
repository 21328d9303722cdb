//! How long opening a session takes on a devnet: two calls, one transaction, one block; 100 times, one after another.
//!
//! `cargo run --release -p lcai-tests --example session_open [COUNT]`
//!
//! Our own time is everything the caller waits for besides the chain: both calls, wrapping the key, and giving the
//! transaction to the pool. The wait for the block is apart, and so is the time until the node has read that block.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic)]

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::SolCall;
use lcai::{ask::DEFAULT_MODEL, devnet::DevnetConfig};
use lcai_client::User;
use lcai_crypto::{EncryptionPublicKey, SessionKey, wrap};
use lcai_host::{TxLane, TxSpec};
use lcai_primitives::contracts::JobRegistry;
use lcai_rpc::{
    api::LcaiApiClient,
    types::{AuthorizationRequest, CallerProof, SessionOffer},
};
use lcai_tests::{devnet, funded, run};
use std::time::{Duration, Instant};

/// What one opening took, step by step.
#[derive(Debug, Default, Clone, Copy)]
struct Steps([Duration; 7]);

const NAMES: [&str; 7] = [
    "lcai_requestSession",
    "wrapping the key twice",
    "lcai_authorizeSession",
    "createSession signed and in the pool",
    "our own time (the four above)",
    "wait for the block",
    "the node has read it (lcai_getSessions)",
];

fn main() {
    let count = std::env::args().nth(1).map_or(100, |count| count.parse().expect("COUNT is a number"));
    run(async move {
        let config = DevnetConfig::default();
        let block_time = config.block_time;
        let devnet = devnet(config).await;
        let user = funded(&devnet, 0).await;
        // A login is good for an hour: it is no part of opening a session.
        user.token().await.unwrap();
        let lane = TxLane::new(user.node().chain(), user.signer().clone());
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(open(&user, &lane).await);
        }
        print(&all, block_time);
        devnet.stop().await;
    });
}

async fn open(user: &User, lane: &TxLane) -> Steps {
    let rpc = user.node().rpc();
    let mut clock = Clock(Instant::now());
    let offer = user.request_session(DEFAULT_MODEL).await.unwrap();
    let requested = clock.lap();
    let request = request(&offer);
    let wrapped = clock.lap();
    let proof = CallerProof::Token { token: user.token().await.unwrap() };
    let grant = rpc.authorize_session(request.clone(), proof).await.unwrap();
    let authorized = clock.lap();
    let call = JobRegistry::createSessionCall {
        modelId: offer.model_id.0,
        worker: offer.worker,
        encWorkerKey: request.enc_worker_key,
        encDisputerKey: request.enc_disputer_key,
        dispatcherSignature: grant.signature,
        expiry: U256::from(grant.expiry),
    };
    let registry = user.node().network().deployment.job_registry;
    let (hash, included) = lane.submit(TxSpec::call(registry, call.abi_encode().into())).await.unwrap();
    let sent = clock.lap();
    assert!(included.await.unwrap().receipt.success, "createSession reverted: {hash}");
    let block = clock.lap();
    while rpc
        .get_sessions(user.account(), None, Some(1.into()))
        .await
        .unwrap()
        .first()
        .map(|s| s.create_transaction)
        != Some(hash)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let read = clock.lap();
    Steps([requested, wrapped, authorized, sent, requested + wrapped + authorized + sent, block, read])
}

fn request(offer: &SessionOffer) -> AuthorizationRequest {
    let key = SessionKey::random();
    let wrapped = |public: &Bytes| {
        let public = EncryptionPublicKey::from_sec1(public).unwrap();
        Bytes::copy_from_slice(&wrap(&key, &public).unwrap())
    };
    AuthorizationRequest {
        user: offer.user,
        model_id: offer.model_id,
        worker: offer.worker,
        enc_worker_key: wrapped(&offer.worker_encryption_key),
        enc_disputer_key: wrapped(&offer.disputer_encryption_key),
        nonce: offer.nonce,
    }
}

struct Clock(Instant);

impl Clock {
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now))
    }
}

fn print(all: &[Steps], block_time: Duration) {
    println!("\n{} sessions, a block every {block_time:?}; milliseconds\n", all.len());
    println!("| step | p50 | p90 | p99 | max |\n|---|---|---|---|---|");
    for (index, name) in NAMES.iter().enumerate() {
        let mut times: Vec<Duration> = all.iter().map(|steps| steps.0[index]).collect();
        times.sort_unstable();
        let at = |percent: usize| {
            times[(times.len() * percent).div_ceil(100).saturating_sub(1)].as_secs_f64() * 1e3
        };
        println!("| {name} | {:.1} | {:.1} | {:.1} | {:.1} |", at(50), at(90), at(99), at(100));
    }
}
