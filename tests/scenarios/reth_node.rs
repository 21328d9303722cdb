//! What an operator of the Reth node relies on: clear refusals to start, and extensions that can panic without anybody
//! noticing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_primitives::{Address, B256, Bytes};
use clap::Parser;
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai::{ask::DEFAULT_MODEL, cli::Cli, devnet::DevnetConfig};
use lcai_blob::SidecarForm;
use lcai_client::{Connection, User};
use lcai_crypto::{KdfCost, keystore};
use lcai_genesis::dev::{Role, dev_account};
use lcai_host::{TxLane, TxSpec};
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{
    ask, funded, open_session,
    reth::{AuthServer, RethNet, RethNode, Through, tail},
    run, until,
};
use serde_json::{Value, json};
use std::time::Duration;

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn it_refuses_to_start_clearly() {
    run(async {
        let mut network = RethNet::start(&DevnetConfig::default()).await;
        let user = funded(&network, 0).await;
        let session = open_session(&user).await;
        ask(&user, &session, "What is the capital of France?").await;

        // Its ports are taken: the node is running.
        let directory = network.node.directory().join("other");
        let other = directory.to_str().unwrap().to_owned();
        let said = network.node.refused(&["--datadir", &other]).expect("two nodes on one port");
        assert!(said.contains("in use"), "{}", tail(&said));
        network.node.terminate();

        // A keystore with a wrong password.
        let store = network.node.directory().join("keeper.json");
        let keeper = Role::Keeper.signer().unwrap();
        keystore::write_account(&store, &keeper, "right", KdfCost::Light).unwrap();
        let password = network.node.directory().join("password");
        std::fs::write(&password, "wrong\n").unwrap();
        let (store, password) = (store.to_str().unwrap(), password.to_str().unwrap());
        let flags = ["--lcai.keeper-key", store, "--lcai.password-file", password];
        let said = network.node.refused(&flags).expect("a wrong password");
        assert!(said.contains("the keeper key: wrong password for"), "{}", tail(&said));
        assert!(said.contains("keeper.json"), "{}", tail(&said));

        // An empty journal, while the chain has sessions under this dispatcher; then told that it is lost.
        let empty = network.node.directory().join("empty");
        let empty = empty.to_str().unwrap();
        let said = network.node.refused(&["--lcai.datadir", empty]).expect("an empty journal");
        assert!(said.contains("--lcai.accept-empty-journal"), "{}", tail(&said));
        let flags = ["--lcai.datadir", empty, "--lcai.accept-empty-journal"];
        assert_eq!(network.node.refused(&flags), None);

        // The journal of this chain, on another one.
        let journal = network.node.directory().join("data/lcai");
        let fresh = network.node.directory().join("another-chain");
        let (journal, fresh) = (journal.to_str().unwrap(), fresh.to_str().unwrap());
        let flags = ["--chain", "dev", "--datadir", fresh, "--lcai.datadir", journal];
        let said = network.node.refused(&flags).expect("a journal of another chain");
        assert!(said.contains("use another data directory"), "{}", tail(&said));

        // Nothing of this hurt the node.
        network.node.restart().await;
        network.stop().await;
    });
}

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_panicking_extension_comes_back_and_the_node_goes_on() {
    run(async {
        let network = RethNet::start(&DevnetConfig::default()).await;
        let connection = Connection::open(&network.node.url(), None).await.unwrap();
        let operator = network.node.authenticated();
        let panicked = operator.call("lcaiOperator_panicTask", json!(["dispatch"])).await;
        assert_eq!(panicked["result"], true, "{panicked}");

        let before = connection.chain().heads().await.unwrap().head.number;
        let restarts = counted(&network, "lcai_task_restarts_total", "dispatch").await;
        assert!(restarts >= 1.0, "{restarts}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = connection.chain().heads().await.unwrap().head.number;
        assert!(after > before, "the node stopped importing at {before}");

        // The extension is back: it draws, and a job goes through.
        let user = funded(&network, 1).await;
        let session = open_session(&user).await;
        let (answer, _) = ask(&user, &session, "What is the capital of France?").await;
        assert!(answer.text.contains("Paris"), "{}", answer.text);
        assert!(connection.rpc().health().await.is_ok());

        // The operator's methods are on the authenticated server alone.
        let (url, secret) = network.node.operator();
        let stranger = AuthServer::new(url, &"00".repeat(32));
        let denied = stranger.call("lcaiOperator_status", json!([])).await;
        assert_eq!(denied["status"], 401, "{denied}");
        let secret = std::fs::read_to_string(secret).unwrap();
        let http = AuthServer::new(network.node.http(), &secret);
        for method in ["lcaiOperator_panicTask", "lcaiOperator_status"] {
            let params = || if method.ends_with("Task") { json!(["dispatch"]) } else { json!([]) };
            let unknown = http.call(method, params()).await;
            assert_eq!(unknown["error"]["code"], -32601, "over HTTP: {unknown}");
            let unknown = network.node.ipc(method, params()).await;
            assert_eq!(unknown["error"]["code"], -32601, "over IPC: {unknown}");
            let unknown: Result<Value, _> = connection.rpc().request(method, rpc_params!["dispatch"]).await;
            let unknown = unknown.unwrap_err().to_string();
            assert!(unknown.contains("MethodNotFound"), "over WebSocket: {unknown}");
        }
        // Everybody else's are on every transport, and say that nothing is wrong.
        let over_ws = connection.rpc().health().await.unwrap();
        assert_eq!((over_ws.healthy, over_ws.reason), (true, None));
        for (transport, health) in [
            ("HTTP", http.call("lcai_health", json!([])).await),
            ("IPC", network.node.ipc("lcai_health", json!([])).await),
        ] {
            assert_eq!(health["result"]["healthy"], true, "over {transport}: {health}");
        }
        network.stop().await;
    });
}

/// The command line that stands in the README under a marker, from `node` on.
fn readme_line() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let block = readme.split("<!-- reth-dev-command -->\n```sh\n").nth(1).expect("the README has the line");
    let line = block.lines().next().unwrap();
    let flags = line.split_once("cargo run -- ").expect("it runs the binary").1;
    flags.split(' ').map(str::to_owned).collect()
}

/// A command of `lcai` in this process.
async fn lcai(args: &[&str]) -> eyre::Result<()> {
    Box::pin(Cli::try_parse_from([&["lcai"], args].concat())?.run()).await
}

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn the_readmes_line_mines_and_answers() {
    run(async {
        let line = readme_line();
        assert!(line.starts_with(&["node".to_owned(), "--dev".to_owned()]), "{line:?}");
        let node = RethNode::told(line).await;
        let url = node.url();
        let connection = Connection::open(&url, None).await.unwrap();
        let user = User::new(connection, dev_account(0).unwrap());
        let sessions = tempfile::tempdir().unwrap();
        let asks = async {
            until("workers are there", async || user.request_session(DEFAULT_MODEL).await.is_ok()).await;
            let sessions = sessions.path().to_str().unwrap();
            let question = "What is the capital of France?";
            // It ends well only when the worker's signature is right and the same hash is on chain.
            lcai(&["ask", "--rpc", &url, "--sessions", sessions, question]).await.unwrap();
        };
        let workers = ["devnet", "--node", &url];
        tokio::select! {
            ended = lcai(&workers) => panic!("the workers ended: {ended:?}"),
            () = asks => {}
        }
        let jobs = user.node().rpc().get_jobs(user.account(), None, None).await.unwrap();
        let states: Vec<&str> = jobs.iter().map(|job| job.state.as_str()).collect();
        assert_eq!(states, ["completed"], "{jobs:?}");
    });
}

/// Live workers send EIP-4844 sidecars. An Osaka pool takes only the newer form, so the node makes it, unless told not to.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_blob_with_the_older_sidecar_is_taken_and_kept() {
    run(async {
        let mut node = RethNode::start(&DevnetConfig::default(), &[]).await;
        let connection = Connection::open(&node.url(), None).await.unwrap();
        let (hash, included) = post_older(&connection, 1).await.expect("it is taken");
        let blob = connection.rpc().get_blob(hash, None).await.unwrap().expect("it is there at once");
        let blob = lcai_blob::Blob::try_from(blob.as_ref()).unwrap();
        lcai_blob::verify(&blob, hash).unwrap();
        until("the block is final", async || {
            let heads = connection.chain().heads().await.unwrap();
            heads.finalized.is_some_and(|finalized| finalized.number > included)
        })
        .await;

        // Reth's own store of blobs is empty at every start, and of final blocks it keeps none.
        node.terminate();
        node.add_flags(&["--lcai.no-blob-upcasting"]);
        node.restart().await;
        let connection = Connection::open(&node.url(), None).await.unwrap();
        let kept = connection.rpc().get_blob(hash, None).await.unwrap().expect("it is kept");
        assert_eq!(&kept[..], blob.as_slice());
        let refused = post_older(&connection, 2).await.unwrap_err();
        assert!(refused.contains("sidecar"), "{refused}");
    });
}

/// Posts a blob with an EIP-4844 sidecar; gives its versioned hash and its block.
async fn post_older(connection: &Connection, content: u8) -> Result<(B256, u64), String> {
    let blobs = vec![*lcai_blob::encode(&[content; 64]).unwrap()];
    let build = move || lcai_blob::build_sidecar(blobs, SidecarForm::Eip4844);
    let sidecar = tokio::task::spawn_blocking(build).await.unwrap().unwrap();
    let hash = sidecar.versioned_hashes().next().unwrap();
    let lane = TxLane::blob(connection.chain(), dev_account(3).unwrap());
    let sent = lane.send(TxSpec::blob(Address::repeat_byte(7), Bytes::new(), sidecar)).await;
    let sent = sent.map_err(|error| error.to_string())?;
    assert!(sent.receipt.success);
    Ok((hash, sent.receipt.block.number))
}

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_node_without_the_dispatchers_key_serves_applications_all_the_same() {
    run(async {
        let network = RethNet::start(&DevnetConfig::default()).await;
        let follower = network.node.follower().await;
        caught_up(&network, &follower).await;
        let through = Through::node(&network, &follower);
        let user = funded(&through, 2).await;
        let session = open_session(&user).await;
        let (answer, _) = ask(&user, &session, "What is the capital of France?").await;
        assert!(answer.text.contains("Paris"), "{}", answer.text);

        // It has the chain itself: the job is read from its own database when the other node is gone.
        let connection = Connection::open(&follower.url(), None).await.unwrap();
        let job = answer.receipt.job.id;
        network.stop().await;
        assert!(connection.rpc().get_job(job).await.unwrap().is_some());
        let gone = connection.rpc().get_draw(session.id).await.unwrap_err().to_string();
        assert!(gone.contains("-39015"), "{gone}");
    });
}

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_full_node_starts_again_and_makes_a_lost_journal_again() {
    run(starts_again_and_makes_a_lost_journal_again("--full"));
}

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_minimal_node_starts_again_and_makes_a_lost_journal_again() {
    run(starts_again_and_makes_a_lost_journal_again("--minimal"));
}

/// A node that prunes by preset, with blocks that have transactions. It is stopped before anything is finalized, so that
/// Reth's pruner never ran.
async fn starts_again_and_makes_a_lost_journal_again(preset: &str) {
    let mut config = DevnetConfig::default();
    // Deadlines are not what this is about.
    (config.params.ack_timeout, config.params.completion_timeout) = (120, 480);
    let mut network = RethNet::start_with(&config, &[preset]).await;
    let user = funded(&network, 0).await;
    let session = open_session(&user).await;
    let (answer, _) = ask(&user, &session, "What is the capital of France?").await;
    let (job, ours) = (answer.receipt.job.id, answer.receipt.job.transactions.submit);
    network.node.terminate();

    // Receipts are in the database, because of the log filter; without it Reth would look for files.
    let said = network.node.refused(&["--prune.receipts.distance=20000"]).expect("a filter that is dropped");
    assert!(said.contains("was started with a log filter of receipts"), "{}", tail(&said));

    std::fs::remove_dir_all(network.node.directory().join("data/lcai")).unwrap();
    network.node.add_flags(&["--lcai.accept-empty-journal"]);
    network.node.restart().await;
    let connection = Connection::open(&network.node.url(), None).await.unwrap();
    let made_again = async || connection.rpc().get_job(job).await.ok().flatten();
    until("the job is read from the chain again", async || made_again().await.is_some()).await;
    assert_eq!(made_again().await.unwrap().transactions.submit, ours);

    network.node.kill();
    network.node.restart().await;
    let user = funded(&network, 1).await;
    let offered = async || user.request_session(DEFAULT_MODEL).await.is_ok();
    until("the workers are back", offered).await;
    let session = open_session(&user).await;
    let (answer, _) = ask(&user, &session, "What is the capital of Italy?").await;
    assert!(answer.text.contains("Rome"), "{}", answer.text);
    network.stop().await;
}

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_node_that_pruned_what_its_journal_needs_says_so() {
    run(async {
        let mut config = DevnetConfig { block_time: Duration::from_millis(250), ..DevnetConfig::default() };
        // Every block is a second later than the one before, so the chain's time is four times as fast as the workers'.
        (config.params.ack_timeout, config.params.completion_timeout) = (120, 480);
        // Reth removes whole files, so they are small here.
        let flags = [
            "--prune.receipts.distance=64",
            "--prune.block-interval=5",
            "--static-files.blocks-per-file.receipts=8",
        ];
        let mut network = RethNet::start_with(&config, &flags).await;
        let user = funded(&network, 0).await;
        let session = open_session(&user).await;
        ask(&user, &session, "What is the capital of France?").await;
        // With its journal it starts again.
        let_it_prune(&mut network).await;
        network.node.terminate();
        let empty = network.node.directory().join("empty");
        let flags = ["--lcai.datadir", empty.to_str().unwrap(), "--lcai.accept-empty-journal"];
        let said = network.node.refused(&flags).expect("receipts are gone");
        assert!(
            said.contains("has pruned receipts up to block") && said.contains("--prune.receipts"),
            "{said}"
        );
        network.stop().await;
    });
}

/// Lets the chain go on until a receipt of now is older than what is kept, and starts the node again: a running one
/// still has it in memory.
async fn let_it_prune(network: &mut RethNet) {
    let connection = Connection::open(&network.node.url(), None).await.unwrap();
    let goal = connection.chain().heads().await.unwrap().head.number + 64 + 32;
    while connection.chain().heads().await.unwrap().head.number < goal {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    network.node.terminate();
    network.node.restart().await;
}

/// Waits until a follower has the blocks that the network has now.
async fn caught_up(network: &RethNet, follower: &RethNode) {
    let connections =
        [Connection::open(&network.node.url(), None).await, Connection::open(&follower.url(), None).await];
    let [ahead, behind] = connections.map(|connection| connection.unwrap().chain());
    let goal = ahead.heads().await.unwrap().head.number;
    for _ in 0..300 {
        if behind.heads().await.unwrap().head.number >= goal {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("not at block {goal} after a minute:\n{}", tail(&follower.log()));
}

/// The value of a metric with this label, once it is there.
async fn counted(network: &RethNet, metric: &str, label: &str) -> f64 {
    for _ in 0..100 {
        let text = reqwest::get(network.node.metrics()).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.contains(metric) && line.contains(label));
        if let Some(value) = line.and_then(|line| line.rsplit(' ').next()) {
            return value.parse().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no {metric} with {label}");
}
