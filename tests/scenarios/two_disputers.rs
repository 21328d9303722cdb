//! Two nodes rule with one key: one verdict takes hold, and whoever did not give it stops loudly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

use alloy_primitives::{B256, Bytes};
use alloy_sol_types::{SolCall, SolEvent};
use lcai::{
    ask::DEFAULT_MODEL,
    devnet::{Devnet, DevnetConfig, Role, WorkerModel},
};
use lcai_client::User;
use lcai_crypto::keystore;
use lcai_exex_dispatch::DispatchPlan;
use lcai_host::{TxLane, TxSpec};
use lcai_host_rpc::{NotifierConfig, RpcClient, RpcNotifier};
use lcai_inference::{EmbeddedBackend, EmbeddedModel};
use lcai_node::{DisputerRole, Node, NodeConfig, REORG_DEPTH};
use lcai_primitives::{contracts::JobRegistry, ids::JobId};
use lcai_tests::{ask, devnet, fee, funded, open_session, rpc, run, until};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};

/// The second node's model, which is not the first one's: with the same verdict they would send the same transaction.
const WORSE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../devnet/model/lcai-tiny-worse.gguf");

#[test]
fn one_verdict_and_the_other_node_stops() {
    run(async {
        let worker_models = vec![WorkerModel::Worse];
        let mut config = DevnetConfig { workers: 1, worker_models, ..DevnetConfig::default() };
        (config.params.dispute_window, config.params.resolution_timeout) = (240, 120);
        let devnet = devnet(config).await;
        let second = second_node(&devnet).await;
        let user = funded(&devnet, 0).await;
        let session = open_session(&user).await;
        let (answer, _) = ask(&user, &session, "What is 58 plus 42?").await;
        let job = answer.receipt.job.id;
        dispute(&devnet, &user, job).await;

        let reasons = || {
            let nodes = [devnet.node(), &second];
            nodes.map(|node| node.disputer().expect("both are disputers").core.halted())
        };
        until("a verdict", async || !verdicts(&devnet, job).await.is_empty()).await;
        until("a node stops", async || reasons().iter().any(Option::is_some)).await;
        let head = devnet.chain().heads().head.number;
        until("blocks come", async || devnet.chain().heads().head.number > head + 8).await;
        let stopped: Vec<String> = reasons().into_iter().flatten().collect();
        eprintln!("{stopped:?}");
        assert_eq!(verdicts(&devnet, job).await.len(), 1, "one verdict");
        assert_eq!(stopped.len(), 1, "the other one goes on: {stopped:?}");
        assert!(
            ["second one", "in use elsewhere"].iter().any(|words| stopped[0].contains(words)),
            "{stopped:?}"
        );
        second.stop().await;
        devnet.stop().await;
    });
}

/// Another node with the disputer's keys, over the devnet's own API.
async fn second_node(devnet: &Devnet) -> Node {
    let deployment = *devnet.deployment();
    let escrow = devnet.data_dir().join("disputer/encryption.json");
    let escrow = keystore::read_encryption(&escrow, "devnet").unwrap();
    let genesis = rpc(devnet, "eth_getBlockByNumber", json!(["0x0", false])).await;
    let config = NodeConfig {
        deployment,
        genesis_hash: genesis["hash"].as_str().unwrap().parse().unwrap(),
        data_dir: devnet.data_dir().join("second"),
        models: vec![DEFAULT_MODEL.to_owned()],
        dispatcher: None,
        keeper: None,
        blob_key: None,
        disputer_encryption_key: Bytes::copy_from_slice(&escrow.public().to_sec1()),
        osaka_time: Some(0),
        accept_empty_journal: true,
        upstream: None,
        beacons: Vec::new(),
    };
    let model =
        EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path: Path::new(WORSE).to_owned(), digest: None };
    let disputer = DisputerRole {
        account: Role::Disputer.signer().unwrap(),
        blob_key: Role::DisputerBlob.signer().unwrap(),
        escrow,
        backend: Arc::new(EmbeddedBackend::load(&[model], 1).unwrap()),
        embedder: None,
        reorg_depth: REORG_DEPTH,
        parallel: 1,
        canary_epoch_seconds: None,
    };
    let chain = devnet.chain().clone();
    let blobs =
        Arc::new(move |hash: B256| chain.blob(hash).map(|blob| Bytes::copy_from_slice(blob.as_slice())));
    let client = RpcClient::connect(devnet.url(), Some(deployment.chain_id)).await.unwrap();
    let client = Arc::new(client.with_blobs(blobs));
    let watched = NotifierConfig::new(DispatchPlan::watched(&deployment));
    let notifier = RpcNotifier::new(client.clone(), Arc::new(config.plan()), watched);
    Node::start_with(config, client, Box::new(notifier), Some(disputer)).await.unwrap()
}

async fn dispute(devnet: &Devnet, user: &User, job: JobId) {
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let call = JobRegistry::disputeJobCall { jobId: job.word() };
    let spec = TxSpec::call(devnet.deployment().job_registry, call.abi_encode().into());
    let sent = lane.send(TxSpec { value: fee(user).await, ..spec }).await.unwrap();
    assert!(sent.receipt.success);
}

async fn verdicts(devnet: &Devnet, job: JobId) -> Vec<Value> {
    let topics = json!([JobRegistry::DisputeResolved::SIGNATURE_HASH, B256::from(job.word())]);
    let filter = json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": topics }]);
    devnet.chain().rpc("eth_getLogs", filter).await.unwrap().as_array().unwrap().clone()
}
