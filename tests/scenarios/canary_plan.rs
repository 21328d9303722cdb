//! Canaries' accounts live as the users that were seen on chain: paid the same, with the same client, asking as often.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use alloy_primitives::{Address, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use lcai::devnet::{CanaryConfig, Devnet, DevnetConfig};
use lcai_client::User;
use lcai_genesis::LCAI;
use lcai_host::{LaneClass, LaneConfig, TxLane, TxSpec};
use lcai_node::DisputerHandle;
use lcai_tests::{ask, devnet, funded, open_session, rpc, run};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What the user is paid, LCAI.
const PAID: u64 = 37;

/// What its client gives the proposer, wei per gas.
const TIP: u128 = 1_500_000_000;

#[test]
fn a_canary_lives_as_a_user_did() {
    run(async {
        let canaries = Some(CanaryConfig { epoch_seconds: 60, sampling_rate_bps: 10_000 });
        let devnet = devnet(DevnetConfig { workers: 1, canaries, ..DevnetConfig::default() }).await;
        let user = newcomer(&devnet).await;
        let session = open_session(&user).await;
        for question in ["What is the capital of Peru?", "What is 12 plus 30?"] {
            ask(&user, &session, question).await;
        }

        let disputer = devnet.node().disputer().expect("a devnet's node is the disputer");
        let canary = somebody_who_asked_twice(disputer).await;
        let seen = transactions(&devnet, canary).await;
        assert_eq!(seen[0]["to"], json!(canary));
        assert_eq!(value(&seen[0]), U256::from(PAID) * LCAI, "paid as its user was");
        let own: Vec<&Value> = seen.iter().filter(|tx| tx["from"] == json!(canary)).collect();
        // It opens a session and asks twice.
        assert!(own.len() >= 3, "{own:?}");
        assert!(own.iter().all(|tx| tx["maxPriorityFeePerGas"] == json!(format!("{TIP:#x}"))), "{own:?}");
        devnet.stop().await;
    });
}

/// Somebody paid by an account of which nothing was seen, as by an exchange, with a client of its own.
async fn newcomer(devnet: &Devnet) -> User {
    let payer = funded(devnet, 0).await;
    let signer = PrivateKeySigner::random();
    let value = U256::from(PAID) * LCAI;
    let lane = TxLane::new(payer.node().chain(), payer.signer().clone());
    let sent = lane.send(TxSpec { value, ..TxSpec::call(signer.address(), Bytes::new()) }).await.unwrap();
    assert!(sent.receipt.success);
    let style = LaneConfig { tip: TIP, ..LaneConfig::new(LaneClass::Ordinary) };
    User::with_lane(payer.node().clone(), signer, style)
}

/// The account of a canary's session with two jobs: where nobody was seen yet, there is one.
async fn somebody_who_asked_twice(disputer: &DisputerHandle) -> Address {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(420) {
        let found = disputer.core.read(|core| {
            let sessions = core.canary_jobs().filter_map(|row| core.session(row.subject.session_id));
            sessions.filter(|session| session.jobs.len() == 2).map(|session| session.user).next()
        });
        if let Some(account) = found {
            return account;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("no canary asked twice within seven minutes");
}

/// What was sent to an account and by it, oldest first.
async fn transactions(devnet: &Devnet, account: Address) -> Vec<Value> {
    let head = rpc(devnet, "eth_blockNumber", json!([])).await;
    let head = u64::from_str_radix(head.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let (account, mut seen) = (json!(account), Vec::new());
    for height in 0..=head {
        let mut block = rpc(devnet, "eth_getBlockByNumber", json!([format!("{height:#x}"), true])).await;
        let Value::Array(txs) = block["transactions"].take() else { panic!("{block}") };
        seen.extend(txs.into_iter().filter(|tx| tx["from"] == account || tx["to"] == account));
    }
    seen
}

fn value(tx: &Value) -> U256 {
    tx["value"].as_str().unwrap().parse().unwrap()
}
