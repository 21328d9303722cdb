//! What an operator of the Reth node relies on: clear refusals to start, and extensions that can panic without anybody
//! noticing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lcai::{ask::DEFAULT_MODEL, devnet::DevnetConfig};
use lcai_client::Connection;
use lcai_crypto::{KdfCost, keystore};
use lcai_genesis::dev::Role;
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{
    ask, funded, open_session,
    reth::{AuthServer, RethNet, RethNode, Through, tail},
    run, until,
};
use serde_json::json;
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
        assert!(said.contains("keeper") && said.contains("keeper.json"), "{}", tail(&said));

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
        let public = AuthServer::new(network.node.http(), &secret);
        let unknown = public.call("lcaiOperator_panicTask", json!(["dispatch"])).await;
        assert_eq!(unknown["error"]["code"], -32601, "{unknown}");
        network.stop().await;
    });
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
    network.node.add_flag("--lcai.accept-empty-journal");
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
