//! Nobody but the two ends can read a prompt or an answer: not the chain, not the node's operator, not a log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall;
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai::{ask::DEFAULT_MODEL, devnet::DevnetConfig};
use lcai_client::{Connection, Event, User};
use lcai_crypto::keystore;
use lcai_host::{Call, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{JobRegistry, JobState},
    ids::JobId,
};
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{
    Network, devnet, fee,
    leaks::{Logs, find, forms},
    open_session, ports,
    proxy::{self, Recording},
    reth::{RethNet, RethNode},
    run, until,
};
use serde_json::{Value, json};
use std::path::Path;
use tracing_subscriber::EnvFilter;

/// What the worker and the disputer run.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../devnet/model/lcai-tiny.gguf");

/// Long and unlike anything else, so that finding it means that it leaked.
const PROMPT: &str = "zebra-quartz-7731: what is the capital of France?";

#[test]
fn nothing_on_the_way_holds_prompt_answer_or_key() {
    let logs = capture_logs();
    run(async {
        let listen = ports::free_address().unwrap();
        let (address, recording) = proxy::record(listen).await;
        let url = format!("ws://{address}");
        let config = DevnetConfig { listen, worker_url: Some(url.clone()), ..DevnetConfig::default() };
        let devnet = devnet(config).await;
        story(&devnet, &url, &recording, async || {}, || logs.bytes()).await;
        devnet.stop().await;
    });
}

/// The same over Reth, with our extensions in its process; its log counts too.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn nothing_on_the_way_holds_prompt_answer_or_key_on_reth() {
    let logs = capture_logs();
    run(async {
        let mut config = DevnetConfig::default();
        // Writing so much takes its time.
        (config.params.ack_timeout, config.params.completion_timeout) = (120, 480);
        let model = format!("{DEFAULT_MODEL}={MODEL}");
        let flags = ["--log.stdout.filter", RETH_LOGS, "--lcai.gguf", &model];
        let node = RethNode::start(&config, &flags).await;
        let (address, recording) = proxy::record(node.address()).await;
        let url = format!("ws://{address}");
        let network = RethNet::over(node, url.clone(), &config).await;
        let logged = || [logs.bytes(), network.node.log().into_bytes()].concat();
        // The disputer's task panics while it has the dispute before it.
        let panics = async || {
            let operator = network.node.authenticated();
            let panicked = operator.call("lcaiOperator_panicTask", json!(["disputer"])).await;
            assert_eq!(panicked["result"], true, "{panicked}");
        };
        story(&network, &url, &recording, panics, logged).await;
        let log = network.node.log();
        assert!(log.contains("DEBUG"), "the node says more than usual");
        assert!(log.contains("panicked") && log.contains("job judged"), "nothing was provoked");
        let escrow = escrow_key(network.node.directory()).expect("a development chain's node keeps one");
        for (form, needle) in forms(&escrow) {
            assert!(!find(log.as_bytes(), &needle), "the escrow key is in the log as {form}");
        }
        network.stop().await;
    });
}

/// Everything that has to do with us; all of Reth at this level is more than it can write.
const RETH_LOGS: &str = "debug,lcai=trace,lcai_reth=trace,lcai_node=trace,lcai_rpc=trace,lcai_host=trace,\
                         lcai_exex_dispatch=trace,lcai_exex_disputer=trace,lcai_blob=trace,jsonrpsee=trace,rpc=trace,txpool=trace";

fn capture_logs() -> Logs {
    let logs = Logs::default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace,ethrex=info,hyper=info,h2=info"))
        .with_writer(logs.clone())
        .with_ansi(false)
        .init();
    logs
}

/// What the node opens escrowed session keys with, wherever in its directory it keeps it.
fn escrow_key(directory: &Path) -> Option<Vec<u8>> {
    for entry in std::fs::read_dir(directory).ok()?.map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = escrow_key(&path) {
                return Some(found);
            }
        } else if path.ends_with("disputer-encryption.json") {
            let secret = keystore::read_encryption(&path, "development").ok()?;
            return Some(secret.expose().to_vec());
        }
    }
    None
}

/// Asks over `url`, where everything is recorded, has the answer disputed and ruled on, and looks for what must be nowhere.
async fn story(
    network: &impl Network,
    url: &str,
    recording: &Recording,
    meanwhile: impl AsyncFn(),
    logged: impl Fn() -> Vec<u8>,
) {
    let user = User::new(Connection::open(url, None).await.unwrap(), network.user(0));
    let session = open_session(&user).await;
    let fee = fee(&user).await;
    let answer = user.ask(&session, PROMPT.as_bytes(), None, fee, &mut |_: Event| {}).await.unwrap();
    assert!(!answer.text.is_empty());
    dispute(network, &user, answer.receipt.job.id, fee).await;
    meanwhile().await;
    ruled(network, &user, answer.receipt.job.id).await;

    let (wire, logged) = (recording.bytes(), logged());
    let chain = chain_dump(&user).await;
    // The recordings hold what they should, or finding nothing in them would mean nothing.
    assert!(find(&chain, answer.receipt.job.prompt_blob_hash.as_slice()));
    assert!(find(&wire, b"lcai_submitFrames") && find(&wire, b"eth_sendRawTransaction"));
    assert!(find(&logged, b"lcai"));

    let prompt = ("prompt", PROMPT.as_bytes().to_vec());
    let text = ("answer", answer.text.clone().into_bytes());
    let key = ("session key", session.key.expose().to_vec());
    for (what, secret) in [prompt, text, key] {
        for (place, bytes) in [("chain", &chain), ("wire", &wire), ("logs", &logged)] {
            for (form, needle) in forms(&secret) {
                assert!(!find(bytes, &needle), "the {what} is in the {place} as {form}");
            }
        }
    }
}

async fn dispute(network: &impl Network, user: &User, job: JobId, bond: U256) {
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let call = JobRegistry::disputeJobCall { jobId: job.word() };
    let spec = TxSpec::call(network.deployment().job_registry, call.abi_encode().into());
    assert!(lane.send(TxSpec { value: bond, ..spec }).await.unwrap().receipt.success);
}

/// Waits for the verdict, whose evidence is on the chain then.
async fn ruled(network: &impl Network, user: &User, job: JobId) {
    until("a verdict", async || {
        let call = JobRegistry::getJobCall { jobId: job.word() };
        let call = Call { to: network.deployment().job_registry, input: call.abi_encode().into() };
        let output = user.node().chain().call(call, None).await.unwrap();
        let found = JobRegistry::getJobCall::abi_decode_returns(&output).unwrap();
        JobState::try_from(found.state).unwrap() != JobState::Disputed && !found.reExecutionBlobHash.is_zero()
    })
    .await;
}

/// Every transaction, log and blob of the chain.
async fn chain_dump(user: &User) -> Vec<u8> {
    let node = user.node().rpc();
    let head = user.node().chain().heads().await.unwrap().head.number;
    let mut dump = Vec::new();
    for number in 0..=head {
        let block: Value =
            node.request("eth_getBlockByNumber", rpc_params![format!("{number:#x}"), true]).await.unwrap();
        for transaction in block["transactions"].as_array().unwrap() {
            let input = transaction["input"].as_str().unwrap();
            dump.extend(hex::decode(input.trim_start_matches("0x")).unwrap());
            for hash in transaction["blobVersionedHashes"].as_array().into_iter().flatten() {
                let hash: B256 = hash.as_str().unwrap().parse().unwrap();
                let blob = node.get_blob(hash, None).await.unwrap().expect("the node keeps every blob");
                dump.extend_from_slice(hash.as_slice());
                dump.extend_from_slice(&blob);
                // The payload without the zero byte of each field element, where text would be in one piece.
                let blob = Box::new(lcai_blob::Blob::try_from(blob.as_ref()).unwrap());
                dump.extend(lcai_blob::decode(blob.as_slice()).unwrap());
            }
        }
        let hash = block["hash"].as_str().unwrap();
        let logs: Value =
            node.request("eth_getLogs", rpc_params![json!({ "blockHash": hash })]).await.unwrap();
        for log in logs.as_array().unwrap() {
            dump.extend(hex::decode(log["data"].as_str().unwrap().trim_start_matches("0x")).unwrap());
        }
    }
    dump
}
