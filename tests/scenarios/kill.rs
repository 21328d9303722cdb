//! The Reth node is killed again and again while jobs run: no job is lost, nothing happens twice. `devnet/kill-loop` runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolEvent;
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai::{ask::DEFAULT_MODEL, devnet::DevnetConfig};
use lcai_client::{Connection, User};
use lcai_crypto::SessionKey;
use lcai_exex_dispatch::{DispatchConfig, DispatchCore, DispatchPlan};
use lcai_genesis::dev::{Role, dev_account};
use lcai_host::{Extension, Journal, JournalIdentity};
use lcai_primitives::contracts::{Deployment, JobRegistry};
use lcai_tests::{
    Network, fee,
    leaks::Logs,
    reth::{RethNet, RethNode},
    run, until,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

/// Questions asked at one time.
const USERS: usize = 3;

/// How long one waits for an answer, the session included.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary; LCAI_KILLS says how often (20)"]
fn killed_while_jobs_run_the_node_loses_none_and_repeats_nothing() {
    let kills: u32 = std::env::var("LCAI_KILLS").map_or(20, |text| text.parse().unwrap());
    run(async move {
        let mut config = DevnetConfig::default();
        config.params.dispute_window = 5;
        // Each kill takes back as many blocks as a slow machine makes in between: nobody is to miss a deadline for that.
        (config.params.ack_timeout, config.params.completion_timeout) = (180, 180);
        let logs = Logs::default();
        // Of this process, which the workers are in.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_writer(logs.clone())
            .try_init();
        let mut network = RethNet::start(&config).await;
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let asking: Vec<_> = (0..USERS)
            .map(|user| tokio::spawn(ask_on(network.url().to_owned(), user, stop.clone(), answers.clone())))
            .collect();
        for kill in 1..=kills {
            // Never at the same step of a job: 6 s to 20 s after the node is back. It falls back by up to 7 blocks.
            tokio::time::sleep(Duration::from_millis(6000 + u64::from(kill * 7919 % 14_000))).await;
            network.node.kill();
            network.node.restart().await;
            eprintln!("kill {kill} of {kills}: {} answers so far", answers.load(Ordering::SeqCst));
        }
        stop.store(true, Ordering::SeqCst);
        for task in asking {
            task.await.unwrap();
        }
        let connection = Connection::open(network.url(), None).await.unwrap();
        let jobs = settled(&connection, &network).await;
        let acts = acts(&connection).await;
        eprintln!(
            "{kills} kills, {} answers read, {} jobs on chain: {}; {} transactions of node and workers, {} of them reverted",
            answers.load(Ordering::SeqCst),
            jobs.len(),
            summary(&jobs),
            acts.len(),
            acts.iter().filter(|act| !act.success).count()
        );
        let refused = refused(&logs);
        eprintln!("{} second answers were not signed", refused.len());
        for (id, job) in &jobs {
            check(id, &job.events);
            // A worker that stayed up brings its answer to the chain, but for one: where another prompt had the same job and
            // session number on a fork that is gone, and its answer was signed.
            let lost = job.events.contains(&"acknowledged") && !job.events.contains(&"completed");
            let number = |id: &B256| U256::from_be_bytes(id.0).to::<u64>();
            let is_second = refused.contains(&(number(id), number(&job.session)));
            assert!(!lost || is_second, "job {} was not completed: {:?}", number(id), job.events);
        }
        assert!(answers.load(Ordering::SeqCst) > 0, "no question was answered in between");
        // One that reverted was sent for a fork that the kill took away, and cost its gas.
        let mut seen = BTreeMap::new();
        for act in acts.iter().filter(|act| act.success) {
            if let Some(first) = seen.insert((act.from, &act.input, &act.blobs), act) {
                let Act { block, from, input, blobs, .. } = act;
                panic!(
                    "{from} did something in block {} and again in block {block}: {input} {blobs:?}",
                    first.block
                );
            }
        }
        assert!(!network.node.log().contains("panicked"), "the node panicked");
        let deployment = *network.deployment();
        let mut node = network.dismiss_workers().await;
        same_as_read_anew(&mut node, deployment).await;
    });
}

/// Opens sessions and asks, again and again; what fails because the node is gone is tried again with the next question.
async fn ask_on(url: String, user: usize, stop: Arc<AtomicBool>, answers: Arc<AtomicU32>) {
    while !stop.load(Ordering::SeqCst) {
        // Where the kill took the question away there is nothing to wait for.
        let asked = tokio::time::timeout(PATIENCE, ask_once(&url, user)).await;
        match asked.unwrap_or_else(|_| Err(eyre::eyre!("no answer in {PATIENCE:?}"))) {
            Ok(text) => {
                assert!(text.contains("Paris"), "a wrong answer: {text}");
                answers.fetch_add(1, Ordering::SeqCst);
            }
            Err(error) => {
                tracing::info!(user, %error, "not answered");
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    }
}

async fn ask_once(url: &str, user: usize) -> eyre::Result<String> {
    let connection = Connection::open(url, None).await?;
    let user = User::new(connection, dev_account(u32::try_from(user)?)?);
    let offer = user.request_session(DEFAULT_MODEL).await?;
    let session = user.open_session(&offer, SessionKey::random()).await?;
    let fee = fee(&user).await;
    let prompt = b"What is the capital of France?";
    Ok(user.ask(&session, prompt, None, fee, &mut |_| {}).await?.text)
}

/// A job: its session, and what happened to it.
#[derive(Default)]
struct Seen {
    session: B256,
    events: Vec<&'static str>,
}

type Jobs = BTreeMap<B256, Seen>;

/// Job and session of the second answers that workers said they did not sign.
fn refused(logs: &Logs) -> BTreeSet<(u64, u64)> {
    let text = String::from_utf8_lossy(&logs.bytes()).into_owned();
    let said = text.lines().filter(|line| line.contains("a second answer was not signed"));
    let numbers = |line: &str| {
        let mut words = line.split_once("job ")?.1.split(' ');
        Some((words.next()?.parse().ok()?, words.nth(2)?.parse().ok()?))
    };
    said.map(|line| numbers(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

const EVENTS: [(&str, B256); 6] = [
    ("submitted", JobRegistry::JobSubmitted::SIGNATURE_HASH),
    ("acknowledged", JobRegistry::JobAcknowledged::SIGNATURE_HASH),
    ("completed", JobRegistry::JobCompleted::SIGNATURE_HASH),
    ("released", JobRegistry::JobReleased::SIGNATURE_HASH),
    ("timed out", JobRegistry::JobTimedOut::SIGNATURE_HASH),
    ("refunded", JobRegistry::JobRefunded::SIGNATURE_HASH),
];

/// Waits until every job has come to an end, and gives what happened to each.
async fn settled(connection: &Connection, network: &impl Network) -> Jobs {
    let mut jobs = Jobs::new();
    for _ in 0..240 {
        jobs = read_jobs(connection, network.deployment().job_registry).await;
        let ended = |job: &Seen| job.events.contains(&"released") || job.events.contains(&"timed out");
        if jobs.values().all(ended) {
            return jobs;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("jobs without an end after four minutes: {}", summary(&jobs));
}

async fn read_jobs(connection: &Connection, registry: Address) -> Jobs {
    let filter = json!({ "address": registry, "fromBlock": "0x0", "toBlock": "latest" });
    let logs: Vec<Value> = connection.rpc().request("eth_getLogs", rpc_params![filter]).await.unwrap();
    let mut jobs = Jobs::new();
    for log in logs {
        let topic = |index: usize| -> Option<B256> { log["topics"][index].as_str()?.parse().ok() };
        let known = EVENTS.iter().find(|(_, signature)| topic(0) == Some(*signature));
        if let (Some((name, _)), Some(job)) = (known, topic(1)) {
            let seen = jobs.entry(job).or_default();
            seen.events.push(name);
            if *name == "submitted" {
                seen.session = topic(2).unwrap();
            }
        }
    }
    jobs
}

fn check(job: &B256, events: &[&str]) {
    let count = |name: &str| events.iter().filter(|event| **event == name).count();
    for (name, _) in EVENTS {
        assert!(count(name) <= 1, "job {job}: {name} {} times: {events:?}", count(name));
    }
    assert_eq!(count("submitted"), 1, "job {job}: {events:?}");
    assert_eq!(count("released") + count("timed out"), 1, "job {job} has one end: {events:?}");
    assert_eq!(count("released"), count("completed"), "job {job}: {events:?}");
}

fn summary(jobs: &Jobs) -> String {
    let count = |name: &str| jobs.values().filter(|job| job.events.contains(&name)).count();
    EVENTS.map(|(name, _)| format!("{} {name}", count(name))).join(", ")
}

/// A call of a contract by the node or a worker, or a blob of theirs.
struct Act {
    block: u64,
    from: Address,
    input: String,
    blobs: Vec<String>,
    success: bool,
}

/// Holds that the journal that went through all of this has the feed, and what dispatch keeps of blocks, that one has which
/// reads the same chain for the first time.
async fn same_as_read_anew(node: &mut RethNode, deployment: Deployment) {
    // No block comes any more, so that both end at the same one.
    node.terminate();
    node.add_flags(&["--dev.block-time", "86400s"]);
    node.restart().await;
    let tip = still(node).await;
    node.terminate();
    let fresh = node.directory().join("fresh");
    node.add_flags(&["--lcai.datadir", fresh.to_str().unwrap(), "--lcai.accept-empty-journal"]);
    node.restart().await;
    assert_eq!(still(node).await, tip, "both read one chain");
    let genesis = node.ipc("eth_getBlockByNumber", json!(["0x0", false])).await;
    let identity = JournalIdentity {
        chain_id: deployment.chain_id,
        genesis_hash: genesis["result"]["hash"].as_str().unwrap().parse().unwrap(),
        contracts: DispatchPlan::watched(&deployment),
    };
    node.terminate();

    let open = |directory: &Path| Journal::open(directory.join("journal.redb"), identity.clone()).unwrap();
    let (killed, fresh) = (open(&node.directory().join("data/lcai")), open(&fresh));
    assert_eq!(killed.feed_tip().unwrap(), fresh.feed_tip().unwrap());
    let first = killed.feed_first().unwrap().unwrap().number.max(fresh.feed_first().unwrap().unwrap().number);
    let blocks = |journal: &Journal| journal.feed_blocks(first, usize::MAX >> 1).unwrap();
    assert!(blocks(&killed) == blocks(&fresh), "the feeds differ");
    let mut core = DispatchCore::new(DispatchConfig::new(deployment, Vec::new()));
    let tables: Vec<String> = core.tables().iter().map(|table| table.name().to_owned()).collect();
    // What workers say of themselves is on no chain.
    let tables: Vec<String> = tables.into_iter().filter(|table| table != "health").collect();
    let mut rows = 0;
    for table in &tables {
        let of = |journal: &Journal| journal.rows(DispatchCore::NAME, table).unwrap();
        assert_eq!(of(&killed), of(&fresh), "table {table}");
        rows += of(&fresh).len();
    }
    assert!(rows > tables.len(), "there is something to compare");
    eprintln!("{} blocks of the feed and {rows} rows of dispatch are as read anew", blocks(&fresh).len());
}

/// Waits until feed and extensions of a node without new blocks are where its chain is, and gives that block.
async fn still(node: &RethNode) -> String {
    let health = async || node.ipc("lcai_health", json!([])).await["result"].take();
    until("the extensions are at the head", async || {
        let health = health().await;
        let at =
            |block: &Value| block["hash"].as_str().is_some_and(|hash| health["chainHead"]["hash"] == hash);
        at(&health["feedTip"]) && health["extensions"].as_array().unwrap().iter().all(|e| at(&e["cursor"]))
    })
    .await;
    health().await["feedTip"]["hash"].as_str().unwrap().to_owned()
}

/// What node and workers did on chain.
async fn acts(connection: &Connection) -> Vec<Act> {
    let mut ours = vec![Role::Keeper, Role::NodeBlob, Role::Disputer];
    ours.extend((0..2).flat_map(|n| [Role::Worker(n), Role::WorkerBlob(n)]));
    let ours: Vec<Address> = ours.into_iter().map(|role| role.signer().unwrap().address()).collect();
    let head = connection.chain().heads().await.unwrap().head.number;
    let mut acts = Vec::new();
    for block in 0..=head {
        let number = format!("{block:#x}");
        let full: Value =
            connection.rpc().request("eth_getBlockByNumber", rpc_params![&number, true]).await.unwrap();
        for transaction in full["transactions"].as_array().unwrap() {
            let from: Address = transaction["from"].as_str().unwrap().parse().unwrap();
            let input = transaction["input"].as_str().unwrap().to_owned();
            let blobs = transaction["blobVersionedHashes"].as_array().cloned().unwrap_or_default();
            let blobs: Vec<String> = blobs.iter().map(|hash| hash.as_str().unwrap().to_owned()).collect();
            // A plain transfer to itself fills a nonce that a reorg freed, and may carry the blob of the one that waits.
            let fills =
                input == "0x" && transaction["gas"] == "0x5208" && transaction["to"] == transaction["from"];
            if !ours.contains(&from) || fills {
                continue;
            }
            let hash: B256 = transaction["hash"].as_str().unwrap().parse().unwrap();
            let success = connection.receipt(hash).await.unwrap().unwrap().status();
            acts.push(Act { block, from, input, blobs, success });
        }
    }
    acts
}
