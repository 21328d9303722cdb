//! The RPC host and the lanes against a real execution client over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, clippy::panic)]

use alloy_consensus::{SidecarBuilder, SimpleCoder};
use alloy_eips::eip7594::{BlobTransactionSidecarEip7594, BlobTransactionSidecarVariant};
use alloy_primitives::{Address, B256, Bytes, U256, address, bytes};
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::server::{ServerBuilder, ServerHandle};
use lcai_embedded_chain::{ChainConfig, EmbeddedChain, Mining, ReorgPlan, runtime};
use lcai_genesis::{Fork, base_genesis};
use lcai_host::{
    BlockRef, Call, FeedBlock, FeedConfig, FeedWriter, HostClient, HostError, Journal, JournalIdentity,
    LaneClass, LaneConfig, LaneError, ReadPlan, TxLane, TxSpec,
};
use lcai_host_rpc::{NotifierConfig, RpcClient, RpcNotifier};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const CHAIN_ID: u64 = 8200;
const COUNTER: Address = address!("0x00000000000000000000000000000000000c0de5");
/// Adds one to slot 0, logs the sum under topic 1 and returns it.
const COUNTER_CODE: Bytes = bytes!("60005460010180600055600052600160206000a160206000f3");
const REVERTER: Address = address!("0x00000000000000000000000000000000000bad01");
/// Reverts with the empty custom error 0xdeadbeef.
const REVERTER_CODE: Bytes = bytes!("63deadbeef60e01b60005260046000fd");

/// Runs a test on a runtime whose threads can hold blobs on their stack, which libtest's cannot.
fn run(test: impl Future<Output = ()> + Send + 'static) {
    let runtime = runtime().unwrap();
    runtime.block_on(runtime.spawn(test)).unwrap();
}

fn counter_call() -> Call {
    Call { to: COUNTER, input: Bytes::new() }
}

/// Reads the counter at every block, and something that reverts at the first.
struct Plan;

impl ReadPlan for Plan {
    fn reads(&self, _: &FeedBlock, first: bool) -> Vec<Call> {
        let mut calls = vec![counter_call()];
        if first {
            calls.push(Call { to: REVERTER, input: Bytes::new() });
        }
        calls
    }
}

struct Net {
    chain: EmbeddedChain,
    address: SocketAddr,
    server: ServerHandle,
    alice: PrivateKeySigner,
    bob: PrivateKeySigner,
}

async fn serve(chain: &EmbeddedChain, address: SocketAddr) -> (SocketAddr, ServerHandle) {
    // After a stop the port can take a moment to be free.
    for _ in 0..100 {
        if let Ok(server) = ServerBuilder::default().build(address).await {
            let bound = server.local_addr().unwrap();
            return (bound, server.start(chain.rpc_module().unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("port {address} stays taken");
}

impl Net {
    async fn start(mining: Mining) -> Self {
        let alice = PrivateKeySigner::from_bytes(&B256::repeat_byte(0xa1)).unwrap();
        let bob = PrivateKeySigner::from_bytes(&B256::repeat_byte(0xb0)).unwrap();
        let rich = U256::from(10).pow(U256::from(24));
        let funds = [(alice.address(), rich), (bob.address(), rich)];
        let mut genesis = base_genesis(CHAIN_ID, Fork::Osaka, 1_700_000_000, &funds);
        genesis.alloc.entry(COUNTER).or_default().code = Some(COUNTER_CODE);
        genesis.alloc.entry(REVERTER).or_default().code = Some(REVERTER_CODE);
        let chain = EmbeddedChain::start(ChainConfig::new(genesis).with_mining(mining)).await.unwrap();
        let (address, server) = serve(&chain, SocketAddr::from(([127, 0, 0, 1], 0))).await;
        Self { chain, address, server, alice, bob }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    async fn client(&self, scheme: &str) -> Arc<RpcClient> {
        Arc::new(RpcClient::connect(&self.url(scheme), Some(CHAIN_ID)).await.unwrap())
    }

    async fn follow(&self, scheme: &str, batch: u64) -> Feed {
        let client = self.client(scheme).await;
        let identity = JournalIdentity {
            chain_id: CHAIN_ID,
            genesis_hash: client.genesis_hash().await.unwrap(),
            contracts: vec![COUNTER],
        };
        let config = NotifierConfig {
            batch,
            poll_interval: Duration::from_millis(50),
            ..NotifierConfig::new(vec![COUNTER])
        };
        let notifier = RpcNotifier::new(Arc::clone(&client), Arc::new(Plan), config);
        let journal = Journal::in_memory(identity).unwrap();
        let writer =
            FeedWriter::new(Arc::clone(&journal), Box::new(notifier), FeedConfig::default()).unwrap();
        let writer = Arc::new(writer);
        let token = CancellationToken::new();
        let (running, stop) = (Arc::clone(&writer), token.clone());
        tokio::spawn(async move { running.run(stop).await.unwrap() });
        Feed { writer, journal, _stop: token.drop_guard() }
    }

    fn head(&self) -> BlockRef {
        let head = self.chain.head().unwrap();
        BlockRef { number: head.number, hash: head.hash }
    }
}

struct Feed {
    writer: Arc<FeedWriter>,
    journal: Arc<Journal>,
    _stop: tokio_util::sync::DropGuard,
}

impl Feed {
    async fn reaches(&self, head: BlockRef) {
        let mut state = self.writer.subscribe();
        let wait = state.wait_for(|state| state.tip == Some(head));
        tokio::time::timeout(Duration::from_secs(120), wait).await.expect("the feed follows").unwrap();
    }

    fn blocks(&self) -> Vec<FeedBlock> {
        self.journal.feed_blocks(0, 1000).unwrap()
    }

    /// What the counter would return on every block of the feed.
    fn counts(&self) -> Vec<u64> {
        let count = |block: &FeedBlock| match block.read(&counter_call()) {
            Some(Ok(output)) => U256::from_be_slice(output).to::<u64>(),
            other => panic!("block {} lacks the read: {other:?}", block.number),
        };
        self.blocks().iter().map(count).collect()
    }
}

fn eager(class: LaneClass) -> LaneConfig {
    LaneConfig { poll: Duration::from_millis(20), ..LaneConfig::new(class) }
}

fn count() -> TxSpec {
    TxSpec::call(COUNTER, Bytes::new())
}

async fn follows_reorgs(scheme: &str, batch: u64) {
    let net = Net::start(Mining::OnDemand).await;
    let feed = net.follow(scheme, batch).await;
    let lane = TxLane::with_config(net.client(scheme).await, net.alice.clone(), eager(LaneClass::Ordinary));
    for _ in 0..3 {
        let sent = lane.send(count()).await.unwrap();
        assert!(sent.receipt.success);
        feed.reaches(net.head()).await;
        assert!(feed.blocks().iter().any(|b| b.block_ref() == sent.receipt.block && b.logs.len() == 1));
    }
    net.chain.mine(1).await.unwrap();
    feed.reaches(net.head()).await;
    let blocks = feed.blocks();
    assert_eq!(blocks.len() as u64, net.head().number + 1);
    assert!(blocks.windows(2).all(|pair| pair[1].parent_hash == pair[0].hash));
    let reverted = blocks[0].read(&Call { to: REVERTER, input: Bytes::new() });
    assert_eq!(reverted, Some(Err(&bytes!("deadbeef"))), "the revert data of a read");
    assert_eq!(feed.counts().last(), Some(&4));

    // Two transactions and the block after them leave the chain for good; the new branch is shorter.
    let depth = 3;
    net.chain.reorg(depth, ReorgPlan::replace(vec![vec![], vec![]])).await.unwrap();
    feed.reaches(net.head()).await;
    let logs: usize = feed.blocks().iter().map(|block| block.logs.len()).sum();
    assert_eq!(logs, 1);
    assert_eq!(feed.counts().last(), Some(&2), "reads are of the new branch");
    assert!(feed.blocks().windows(2).all(|pair| pair[1].parent_hash == pair[0].hash));

    // To the same height, with one hash different.
    net.chain.reorg(1, ReorgPlan::empty(1)).await.unwrap();
    feed.reaches(net.head()).await;
    // The lane goes on with the nonces that are free again.
    assert!(lane.send(count()).await.unwrap().receipt.success);
    feed.reaches(net.head()).await;
    assert_eq!(feed.counts().last(), Some(&3));
    assert_eq!(feed.journal.heads().unwrap().unwrap().head, net.head());
}

#[test]
fn a_websocket_host_follows_reorgs() {
    run(follows_reorgs("ws", 256));
}

#[test]
fn an_http_host_follows_reorgs_in_small_batches() {
    run(follows_reorgs("http", 2));
}

#[test]
fn the_connection_is_made_again_after_the_node_restarts() {
    run(async {
        let net = Net::start(Mining::Manual).await;
        let feed = net.follow("ws", 256).await;
        net.chain.mine(2).await.unwrap();
        feed.reaches(net.head()).await;
        net.server.stop().unwrap();
        net.server.clone().stopped().await;
        net.chain.mine(2).await.unwrap();
        net.chain.reorg(3, ReorgPlan::empty(4)).await.unwrap();
        let (_, _server) = serve(&net.chain, net.address).await;
        feed.reaches(net.head()).await;
        // And the subscription is alive: the next block arrives too.
        net.chain.mine(1).await.unwrap();
        feed.reaches(net.head()).await;
    });
}

#[test]
fn safe_and_finalized_are_told_although_no_block_comes() {
    run(async {
        let net = Net::start(Mining::Manual).await;
        let feed = net.follow("ws", 256).await;
        net.chain.mine(12).await.unwrap();
        feed.reaches(net.head()).await;
        let mut state = feed.writer.subscribe();
        let finalized = net.chain.heads().finalized;
        let wait = state.wait_for(|state| {
            state.heads.and_then(|heads| heads.finalized).is_some_and(|block| block.hash == finalized.hash)
        });
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap().unwrap();
        assert_eq!(feed.journal.finished().unwrap().unwrap().number, finalized.number - 1);
    });
}

#[test]
fn blobs_are_sent_included_and_found() {
    run(async {
        let net = Net::start(Mining::OnDemand).await;
        let feed = net.follow("ws", 256).await;
        let archive = net.chain.clone();
        let client = RpcClient::connect(&net.url("ws"), None).await.unwrap();
        let client = Arc::new(client.with_blobs(Arc::new(move |hash| {
            archive.blob(hash).map(|blob| Bytes::copy_from_slice(&blob[..]))
        })));
        let lane = TxLane::with_config(client.clone(), net.bob.clone(), eager(LaneClass::Blob));
        let sidecar: BlobTransactionSidecarEip7594 =
            SidecarBuilder::<SimpleCoder>::from_slice(b"sealed").build().unwrap();
        let sidecar = BlobTransactionSidecarVariant::from(sidecar);
        let versioned_hash = sidecar.versioned_hashes().next().unwrap();
        let blob = sidecar.blobs()[0].to_vec();
        let sent = lane.send(TxSpec::blob(COUNTER, Bytes::new(), sidecar)).await.unwrap();
        assert!(sent.receipt.success);
        feed.reaches(net.head()).await;
        let block = feed.journal.feed_block(sent.receipt.block.number).unwrap().unwrap();
        assert_eq!(block.blobs.len(), 1);
        assert_eq!(
            (block.blobs[0].transaction_hash, block.blobs[0].versioned_hash),
            (sent.hash, versioned_hash)
        );
        assert_eq!(block.logs[0].transaction_hash, sent.hash);
        assert_eq!(client.blob(versioned_hash).await.unwrap().unwrap(), blob);
        // This node serves no lcai_getBlob, which is no error.
        assert_eq!(client.blob(B256::repeat_byte(1)).await.unwrap(), None);
    });
}

#[test]
fn refusals_come_through_as_what_they_are() {
    run(async {
        let net = Net::start(Mining::Manual).await;
        let url = net.url("http");
        let wrong = RpcClient::connect(&url, Some(1)).await.unwrap_err();
        assert!(matches!(wrong, HostError::WrongChain { expected: 1, found: CHAIN_ID }), "{wrong}");
        let nobody = RpcClient::connect("http://127.0.0.1:1", None).await.unwrap_err();
        assert!(nobody.is_transient(), "{nobody}");

        let client = net.client("http").await;
        let call = Call { to: REVERTER, input: Bytes::new() };
        let reverted = client.call(call, None).await.unwrap_err();
        assert!(
            matches!(&reverted, HostError::Reverted(data) if data[..] == [0xde, 0xad, 0xbe, 0xef]),
            "{reverted}"
        );
        let lane = TxLane::with_config(client.clone(), net.alice.clone(), eager(LaneClass::Ordinary));
        let error = lane.send(TxSpec::call(REVERTER, Bytes::new())).await.unwrap_err();
        assert!(
            matches!(&error, LaneError::Reverted { data, .. } if data[..] == [0xde, 0xad, 0xbe, 0xef]),
            "{error}"
        );
        assert_eq!(client.nonce(net.alice.address(), true).await.unwrap(), 0, "nothing was sent");
        let poor = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x99)).unwrap();
        let lane = TxLane::with_config(client.clone(), poor, eager(LaneClass::Ordinary));
        let spec = TxSpec { gas_limit: Some(100_000), ..count() };
        assert!(matches!(lane.send(spec).await, Err(LaneError::Underfunded { .. })));
        assert!(client.balance(net.alice.address()).await.unwrap() > U256::ZERO);

        // The same bytes again are a success with the same hash.
        let (first, second) = {
            let raw = net.raw_count();
            (client.send_raw_transaction(raw.clone()).await, client.send_raw_transaction(raw).await)
        };
        assert_eq!(first.unwrap(), second.unwrap());
    });
}

impl Net {
    fn raw_count(&self) -> Bytes {
        use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
        use alloy_eips::Encodable2718;
        use alloy_signer::SignerSync;
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            gas_limit: 100_000,
            max_fee_per_gas: 20_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: COUNTER.into(),
            ..Default::default()
        };
        let signature = self.alice.sign_hash_sync(&transaction.signature_hash()).unwrap();
        TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into()
    }
}
