//! Block import with the extensions against without: the same blocks over the Engine API into `lcai-reth node` and
//! `lcai-reth node --lcai.off`, in turns, in one run.
//!
//! `LCAI_RETH=…/lcai-reth cargo run --release -p lcai-tests --example reth_import [ROUNDS]`
//!
//! The blocks come from a development network of Reth on which sessions are opened, jobs asked and answered, and plain
//! transfers sent. A round is a node on an empty database that is given all of them (`engine_newPayloadV4`, then
//! `engine_forkchoiceUpdatedV3`), twice over: at a pace, as blocks come at the head of a chain, where what counts is the
//! time of the calls; and as fast as it takes them, where the extensions compete for the machine with the import. The
//! node with the extensions has every key: it keeps the directory, signs, and watches for keeper duties while it imports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::indexing_slicing
)]

use alloy_consensus::{Block, SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_rlp::Decodable;
use alloy_rpc_types_engine::{ExecutionPayload, ForkchoiceState};
use alloy_signer::SignerSync;
use jsonrpsee::{core::client::ClientT, rpc_params, ws_client::WsClientBuilder};
use lcai::devnet::DevnetConfig;
use lcai_genesis::dev::Role;
use lcai_tests::{
    Network, ask, funded, open_session,
    reth::{RethNet, RethNode},
    run, until,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Questions in each of two sessions.
const QUESTIONS: usize = 8;
/// Plain transfers a second beside them.
const TRANSFERS: u64 = 40;

/// Pause between blocks, where they come at a pace.
const PAUSE: Duration = Duration::from_millis(250);

/// How often the rounds are drawn again for the interval.
const DRAWS: usize = 2000;

/// A block as the Engine API takes it.
struct Payload {
    payload: Value,
    versioned_hashes: Vec<B256>,
    parent_beacon_block_root: B256,
    hash: B256,
    transactions: usize,
}

fn main() {
    let rounds: usize =
        std::env::args().nth(1).map_or(5, |rounds| rounds.parse().expect("ROUNDS is a number"));
    run(async move {
        let (genesis, payloads) = record().await;
        let transactions: usize = payloads.iter().map(|payload| payload.transactions).sum();
        println!("{} blocks with {transactions} transactions", payloads.len());
        let keys = tempfile::tempdir().unwrap();
        let with: Vec<String> = [
            ("--lcai.dispatcher-key", Role::Dispatcher),
            ("--lcai.keeper-key", Role::Keeper),
            ("--lcai.blob-key", Role::NodeBlob),
        ]
        .into_iter()
        .flat_map(|(flag, role)| {
            let file = keys.path().join(&flag[2..]);
            std::fs::write(&file, hex::encode(role.signer().unwrap().to_bytes())).unwrap();
            [flag.to_owned(), file.display().to_string()]
        })
        // Its genesis is old, and nobody has acted.
        .chain(["--lcai.accept-empty-journal".to_owned()])
        .collect();
        let without = vec!["--lcai.off".to_owned()];

        for (how, pause) in [("at a pace", PAUSE), ("as fast as possible", Duration::ZERO)] {
            let (mut on, mut off) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                // Whoever is first finds the machine cooler or its caches colder: they take turns.
                let turns = if round % 2 == 0 { [true, false] } else { [false, true] };
                for extensions in turns {
                    let flags = if extensions { &with } else { &without };
                    let took = import(&genesis, flags, &payloads, pause, extensions).await;
                    println!(
                        "{how}, round {round}, {}: {:.2?}",
                        if extensions { "with" } else { "without" },
                        took.iter().sum::<Duration>()
                    );
                    if extensions { on.push(took) } else { off.push(took) }
                }
            }
            let every: Vec<usize> = (0..rounds).collect();
            let (low, high) = interval(&on, &off);
            println!(
                "{how}: all blocks, each at its median of {rounds} rounds: with the extensions {:.2?}, without {:.2?}",
                typical(&on, &every),
                typical(&off, &every)
            );
            println!(
                "{how}: speed with against without {:.3} (95 % interval {low:.3} to {high:.3})",
                speed(&on, &off, &every)
            );
        }
    });
}

/// Lets a network work and takes its blocks.
async fn record() -> (String, Vec<Payload>) {
    let network = RethNet::start(&DevnetConfig::default()).await;
    let busy = async {
        let ask_all = async |index: usize| {
            let user = funded(&network, index).await;
            let session = open_session(&user).await;
            for _ in 0..QUESTIONS {
                ask(&user, &session, "What is the capital of France?").await;
            }
        };
        tokio::join!(ask_all(0), ask_all(1));
    };
    tokio::select! {
        () = busy => {}
        () = transfers(&network) => unreachable!("they go on for ever"),
    }
    let genesis = std::fs::read_to_string(network.node.directory().join("genesis.json")).unwrap();
    let node = WsClientBuilder::default().build(network.url()).await.unwrap();
    let head: String = node.request("eth_blockNumber", rpc_params![]).await.unwrap();
    let head = u64::from_str_radix(&head[2..], 16).unwrap();
    let mut payloads = Vec::new();
    for number in 1..=head {
        let raw: Bytes =
            node.request("debug_getRawBlock", rpc_params![format!("{number:#x}")]).await.unwrap();
        payloads.push(payload(&raw));
    }
    network.stop().await;
    (genesis, payloads)
}

/// Sends transfers of one account for as long as it is polled.
async fn transfers(network: &RethNet) {
    let signer = network.user(2);
    let node = WsClientBuilder::default().build(network.url()).await.unwrap();
    let mut nonce = 0;
    loop {
        for _ in 0..TRANSFERS {
            let transfer = TxEip1559 {
                chain_id: network.deployment().chain_id,
                nonce,
                gas_limit: 21_000,
                max_fee_per_gas: 100_000_000_000,
                max_priority_fee_per_gas: 1_000_000_000,
                to: TxKind::Call(Address::repeat_byte(7)),
                value: U256::from(1),
                ..TxEip1559::default()
            };
            let signature = signer.sign_hash_sync(&transfer.signature_hash()).unwrap();
            let raw = Bytes::from(TxEnvelope::from(transfer.into_signed(signature)).encoded_2718());
            let _: B256 = node.request("eth_sendRawTransaction", rpc_params![raw]).await.unwrap();
            nonce += 1;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn payload(raw: &[u8]) -> Payload {
    let block = Block::<TxEnvelope>::decode(&mut &*raw).unwrap();
    let hash = block.header.hash_slow();
    let (payload, sidecar) = ExecutionPayload::from_block_unchecked(hash, &block);
    Payload {
        payload: serde_json::to_value(payload).unwrap(),
        versioned_hashes: sidecar.versioned_hashes().cloned().unwrap_or_default(),
        parent_beacon_block_root: sidecar.parent_beacon_block_root().unwrap_or_default(),
        hash,
        transactions: block.body.transactions.len(),
    }
}

/// How long a new node takes for each block, without the pauses. With the extensions, these have followed to the last one in
/// the end: else they would have cost nothing because they did nothing.
async fn import(
    genesis: &str,
    flags: &[String],
    payloads: &[Payload],
    pause: Duration,
    extensions: bool,
) -> Vec<Duration> {
    let mut node = RethNode::driven(genesis, flags).await;
    let engine = node.authenticated();
    let mut took = Vec::with_capacity(payloads.len());
    for block in payloads {
        tokio::time::sleep(pause).await;
        let started = Instant::now();
        let none: [Bytes; 0] = [];
        let params = json!([block.payload, block.versioned_hashes, block.parent_beacon_block_root, none]);
        let answer = engine.call("engine_newPayloadV4", params).await;
        assert_eq!(answer["result"]["status"], "VALID", "{answer}");
        let state = ForkchoiceState::same_hash(block.hash);
        let answer = engine.call("engine_forkchoiceUpdatedV3", json!([state, null])).await;
        assert_eq!(answer["result"]["payloadStatus"]["status"], "VALID", "{answer}");
        took.push(started.elapsed());
    }
    if extensions {
        let last = payloads.last().unwrap().hash.to_string();
        until("feed and extensions are at the last block", async || followed(&node, &last).await).await;
    }
    node.terminate();
    took
}

/// Whether feed and extensions are at the block.
async fn followed(node: &RethNode, hash: &str) -> bool {
    let health = node.ipc("lcai_health", json!([])).await;
    let extensions = health["result"]["extensions"].as_array().unwrap();
    assert!(extensions.len() >= 2, "{health}");
    let mut blocks = vec![&health["result"]["feedTip"]];
    blocks.extend(extensions.iter().map(|extension| &extension["cursor"]));
    blocks.into_iter().all(|block| block["hash"] == hash)
}

/// The times of all blocks together, each at its median of these rounds: what held one block of one round up does not count.
fn typical(took: &[Vec<Duration>], rounds: &[usize]) -> Duration {
    let blocks = took[0].len();
    (0..blocks).map(|block| median(rounds.iter().map(|&round| took[round][block]).collect())).sum()
}

/// How fast it is with the extensions, where 1 is the speed without.
fn speed(on: &[Vec<Duration>], off: &[Vec<Duration>], rounds: &[usize]) -> f64 {
    typical(off, rounds).as_secs_f64() / typical(on, rounds).as_secs_f64()
}

/// The 95 % interval of the speed, by drawing the rounds again with replacement. Both sides of a round stay together: they
/// are neighbours in time, and a busy machine is busy for both.
fn interval(on: &[Vec<Duration>], off: &[Vec<Duration>]) -> (f64, f64) {
    let mut random = StdRng::seed_from_u64(7);
    let mut speeds: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let rounds: Vec<usize> = on.iter().map(|_| random.gen_range(0..on.len())).collect();
            speed(on, off, &rounds)
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    (speeds[DRAWS / 40], speeds[DRAWS - 1 - DRAWS / 40])
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
