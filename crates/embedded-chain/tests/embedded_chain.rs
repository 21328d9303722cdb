//! The embedded chain through its JSON-RPC, with real signed transactions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use alloy_consensus::proofs::state_root_unhashed;
use alloy_consensus::{
    BlobTransactionSidecar, SidecarBuilder, SignableTransaction, SimpleCoder, TxEip1559, TxEip4844,
    TxEip4844Variant, TxEip4844WithSidecar, TxEnvelope,
};
use alloy_eips::Encodable2718;
use alloy_eips::eip7594::{BlobTransactionSidecarEip7594, BlobTransactionSidecarVariant};
use alloy_network::TxSignerSync;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, address, bytes};
use alloy_rpc_types_eth::{Block, Header, Log, Transaction, TransactionReceipt};
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::core::client::{ClientT, Subscription, SubscriptionClientT};
use jsonrpsee::rpc_params;
use lcai_embedded_chain::{BlockRef, ChainConfig, EmbeddedChain, HeadEvent, Mining, ReorgPlan, runtime};
use lcai_genesis::{Fork, GenesisSpec, base_genesis, build};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

const CHAIN_ID: u64 = 8200;
const SOMEONE: Address = address!("0x00000000000000000000000000000000000005e1");
const COUNTER: Address = address!("0x00000000000000000000000000000000000c0de5");

/// Adds one to slot 0, logs the sum under topic 1 and returns it.
const COUNTER_CODE: Bytes = bytes!("60005460010180600055600052600160206000a160206000f3");

/// Runs a test on a runtime whose threads can hold blobs on their stack, which libtest's cannot.
fn run(test: impl Future<Output = ()> + Send + 'static) {
    let runtime = runtime().unwrap();
    runtime.block_on(runtime.spawn(test)).unwrap();
}

/// A chain with two funded accounts and the counter.
struct Net {
    chain: EmbeddedChain,
    alice: PrivateKeySigner,
    bob: PrivateKeySigner,
}

impl Net {
    async fn start(fork: Fork, mining: Mining) -> Self {
        let alice = PrivateKeySigner::from_bytes(&B256::repeat_byte(0xa1)).unwrap();
        let bob = PrivateKeySigner::from_bytes(&B256::repeat_byte(0xb0)).unwrap();
        let rich = U256::from(10).pow(U256::from(24));
        let mut genesis =
            base_genesis(CHAIN_ID, fork, 1_700_000_000, &[(alice.address(), rich), (bob.address(), rich)]);
        genesis.alloc.entry(COUNTER).or_default().code = Some(COUNTER_CODE);
        let chain = EmbeddedChain::start(ChainConfig::new(genesis).with_mining(mining)).await.unwrap();
        Self { chain, alice, bob }
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> T {
        let answer = self.chain.rpc(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"));
        serde_json::from_value(answer.clone()).unwrap_or_else(|error| panic!("{method}: {error} in {answer}"))
    }

    async fn send(&self, raw: &Bytes) -> B256 {
        self.call("eth_sendRawTransaction", json!([raw])).await
    }

    async fn receipt(&self, hash: B256) -> Option<TransactionReceipt> {
        self.call("eth_getTransactionReceipt", json!([hash])).await
    }

    async fn balance(&self, account: Address) -> U256 {
        self.call("eth_getBalance", json!([account, "latest"])).await
    }

    async fn tag(&self, tag: &str) -> Block {
        self.call("eth_getBlockByNumber", json!([tag, false])).await
    }

    fn transfer(&self, from: &PrivateKeySigner, nonce: u64, value: u64) -> Bytes {
        self.transaction(from, nonce, SOMEONE, value)
    }

    fn transaction(&self, from: &PrivateKeySigner, nonce: u64, to: Address, value: u64) -> Bytes {
        let mut transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 100_000,
            max_fee_per_gas: 20_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(to),
            value: U256::from(value),
            ..Default::default()
        };
        let signature = from.sign_transaction_sync(&mut transaction).unwrap();
        TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into()
    }
}

/// A blob transaction in network form and the blob it carries.
fn blob_transaction(
    from: &PrivateKeySigner,
    nonce: u64,
    payload: &[u8],
    cell_proofs: bool,
) -> (Bytes, B256, Vec<u8>) {
    let builder = SidecarBuilder::<SimpleCoder>::from_slice(payload);
    let sidecar = if cell_proofs {
        BlobTransactionSidecarVariant::from(builder.build::<BlobTransactionSidecarEip7594>().unwrap())
    } else {
        BlobTransactionSidecarVariant::from(builder.build::<BlobTransactionSidecar>().unwrap())
    };
    let hashes: Vec<B256> = sidecar.versioned_hashes().collect();
    let blob = sidecar.blobs()[0].to_vec();
    let transaction = TxEip4844 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 100_000,
        max_fee_per_gas: 20_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: SOMEONE,
        value: U256::ZERO,
        access_list: Default::default(),
        blob_versioned_hashes: hashes.clone(),
        max_fee_per_blob_gas: 1_000_000_000,
        input: Bytes::new(),
    };
    let mut transaction = TxEip4844Variant::TxEip4844WithSidecar(TxEip4844WithSidecar::from_tx_and_sidecar(
        transaction,
        sidecar,
    ));
    let signature = from.sign_transaction_sync(&mut transaction).unwrap();
    let raw = TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into();
    (raw, hashes[0], blob)
}

async fn next(events: &mut Receiver<HeadEvent>) -> HeadEvent {
    tokio::time::timeout(Duration::from_secs(120), events.recv())
        .await
        .expect("a head in two minutes")
        .unwrap()
}

#[test]
fn a_transfer_is_mined_on_demand_and_nothing_else_is() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::OnDemand).await;
        let mut events = net.chain.subscribe_heads();
        assert_eq!(net.call::<U256>("eth_chainId", json!([])).await, U256::from(CHAIN_ID));
        assert_eq!(net.call::<Vec<Address>>("eth_accounts", Value::Null).await, Vec::<Address>::new());

        let hash = net.send(&net.transfer(&net.alice, 0, 5)).await;
        let event = next(&mut events).await;
        let receipt = net.receipt(hash).await.expect("mined");
        assert!(receipt.status());
        assert_eq!((receipt.block_number, receipt.block_hash), (Some(1), Some(event.head.hash)));
        assert_eq!(net.balance(SOMEONE).await, U256::from(5));
        let transaction: Transaction = net.call("eth_getTransactionByHash", json!([hash])).await;
        assert_eq!(transaction.block_hash, Some(event.head.hash));

        // One that cannot be mined yet makes no block; the one it waits for brings both.
        net.send(&net.transfer(&net.alice, 2, 7)).await;
        net.send(&net.transfer(&net.alice, 1, 6)).await;
        while net.balance(SOMEONE).await != U256::from(18) {
            let head = next(&mut events).await.head;
            let block: Block = net.call("eth_getBlockByHash", json!([head.hash, false])).await;
            assert!(!block.transactions.is_empty());
        }
    });
}

#[test]
fn blocks_come_by_the_clock_until_mining_is_paused() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Interval(Duration::from_millis(20))).await;
        let mut events = net.chain.subscribe_heads();
        let mut last: Option<BlockRef> = None;
        for _ in 0..4 {
            let head = next(&mut events).await.head;
            if let Some(last) = last {
                assert_eq!((head.number, head.parent_hash), (last.number + 1, last.hash));
                assert!(head.timestamp > last.timestamp);
            }
            last = Some(head);
        }
        net.chain.pause_mining();
        let paused = net.chain.mine(1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(net.chain.heads().head, paused.num_hash());
        net.chain.resume_mining();
        while next(&mut events).await.head.number <= paused.number {}
    });
}

#[test]
fn refused_transactions_say_why() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        net.send(&net.transfer(&net.alice, 0, 1)).await;
        net.chain.mine(1).await.unwrap();
        let poor = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x99)).unwrap();
        for (raw, code, words) in [
            (net.transfer(&net.alice, 0, 2), -32000, "Nonce for account too low"),
            (net.transfer(&poor, 0, 1), -32000, "Account does not have enough balance to cover the tx cost"),
            (bytes!("02c0"), -32000, "Invalid params"),
        ] {
            let error = net.chain.rpc("eth_sendRawTransaction", json!([raw])).await.unwrap_err();
            assert_eq!(error.code(), code);
            assert!(error.message().contains(words), "{error}");
        }
        let error = net.chain.rpc("eth_noSuchMethod", json!([])).await.unwrap_err();
        assert_eq!(error.code(), -32601);
        let error = net.chain.rpc("debug_setHead", json!(["0x0"])).await.unwrap_err();
        assert_eq!(error.code(), -32601);
        let error = net.chain.rpc("eth_chainId", json!({ "a": 1 })).await.unwrap_err();
        assert_eq!(error.code(), -32602);
    });
}

#[test]
fn osaka_takes_cell_proofs_only_and_the_blob_stays_readable() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        let (legacy, _, _) = blob_transaction(&net.alice, 0, b"blob proofs", false);
        let error = net.chain.rpc("eth_sendRawTransaction", json!([legacy])).await.unwrap_err();
        assert_eq!(error.code(), -32000);
        assert!(error.message().contains("Invalid blob version for the current fork"), "{error}");

        let (raw, versioned_hash, blob) = blob_transaction(&net.alice, 0, b"cell proofs", true);
        let hash = net.send(&raw).await;
        assert!(net.chain.blob(versioned_hash).is_none(), "not included yet");
        let pooled: Value = net.engine("engine_getBlobsV2", json!([[versioned_hash]])).await;
        assert_eq!(pooled[0]["proofs"].as_array().unwrap().len(), 128);

        net.chain.mine(1).await.unwrap();
        let receipt = net.receipt(hash).await.expect("mined");
        assert!(receipt.status() && receipt.blob_gas_used == Some(131_072));
        assert_eq!(net.chain.blob(versioned_hash).unwrap().as_slice(), blob);
        // The pool has forgotten it: that is what the archive is for.
        assert!(net.engine::<Value>("engine_getBlobsV2", json!([[versioned_hash]])).await.is_null());
        assert!(net.chain.blob(B256::repeat_byte(1)).is_none());

        // A reorg puts it back, sidecar and all.
        net.chain.reorg(1, ReorgPlan::empty(1)).await.unwrap();
        assert!(net.receipt(hash).await.is_none());
        let pooled: Value = net.engine("engine_getBlobsV2", json!([[versioned_hash]])).await;
        assert_eq!(pooled[0]["proofs"].as_array().unwrap().len(), 128);
        net.chain.mine(1).await.unwrap();
        assert_eq!(net.receipt(hash).await.expect("mined again").block_number, Some(2));
    });
}

#[test]
fn prague_takes_both_sidecar_forms() {
    run(async {
        let net = Net::start(Fork::Prague, Mining::Manual).await;
        let (legacy, legacy_hash, legacy_blob) = blob_transaction(&net.alice, 0, b"blob proofs", false);
        let (cells, cells_hash, cells_blob) = blob_transaction(&net.bob, 0, b"cell proofs", true);
        let sent = [net.send(&legacy).await, net.send(&cells).await];
        // Both forms in one block.
        net.chain.mine(1).await.unwrap();
        for hash in sent {
            assert_eq!(net.receipt(hash).await.expect("mined").block_number, Some(1));
        }
        assert_eq!(net.chain.blob(legacy_hash).unwrap().as_slice(), legacy_blob);
        assert_eq!(net.chain.blob(cells_hash).unwrap().as_slice(), cells_blob);

        net.chain.reorg(1, ReorgPlan::empty(1)).await.unwrap();
        net.chain.mine(1).await.unwrap();
        for hash in sent {
            assert_eq!(net.receipt(hash).await.expect("mined again").block_number, Some(2));
        }
    });
}

#[test]
fn reorgs_of_depth_one_to_three_return_their_transactions() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        net.chain.mine(2).await.unwrap();
        let mut nonce = 0;
        for depth in 1..=3 {
            let ancestor = net.chain.head().unwrap();
            let mut dropped = Vec::new();
            for _ in 0..depth {
                dropped.push(net.send(&net.transfer(&net.alice, nonce, 1)).await);
                net.chain.mine(1).await.unwrap();
                nonce += 1;
            }
            let before = net.balance(SOMEONE).await;
            let old_tip = net.chain.head().unwrap();
            let mut events = net.chain.subscribe_heads();

            // As long as the old branch, or shorter.
            let tip = net.chain.reorg(depth, ReorgPlan::empty(depth.min(2))).await.unwrap();
            assert_eq!(next(&mut events).await.head, tip);
            assert!(events.is_empty(), "one event per change of fork choice");
            assert_eq!(tip.number, ancestor.number + depth.min(2));
            let latest = net.tag("latest").await;
            assert_eq!((latest.header.hash, latest.header.timestamp), (tip.hash, tip.timestamp));
            for hash in &dropped {
                assert!(net.receipt(*hash).await.is_none());
            }
            assert_eq!(net.balance(SOMEONE).await, before - U256::from(depth));
            let orphan: Block = net.call("eth_getBlockByHash", json!([old_tip.hash, false])).await;
            assert_eq!((orphan.header.hash, orphan.header.number), (old_tip.hash, old_tip.number));

            let next_block = net.chain.mine(1).await.unwrap();
            for hash in &dropped {
                assert_eq!(net.receipt(*hash).await.expect("mined again").block_hash, Some(next_block.hash));
            }
            assert_eq!(net.balance(SOMEONE).await, before);
        }
    });
}

#[test]
fn a_reorg_can_put_other_transactions_in_place() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        net.chain.mine(1).await.unwrap();
        let lost = net.send(&net.transfer(&net.alice, 0, 1)).await;
        net.chain.mine(3).await.unwrap();

        // Another transaction of the same nonce, and a blob transaction that the pool never saw.
        let other = net.transfer(&net.alice, 0, 100);
        let (blob_raw, versioned_hash, blob) = blob_transaction(&net.bob, 0, b"replacement", true);
        let plan = ReorgPlan {
            new_blocks: 4,
            replacement_txs: vec![vec![other], vec![blob_raw]],
            keep_dropped: true,
        };
        let tip = net.chain.reorg(3, plan).await.unwrap();
        assert_eq!(tip.number, 5);
        assert_eq!(net.balance(SOMEONE).await, U256::from(100));
        assert_eq!(net.chain.blob(versioned_hash).unwrap().as_slice(), blob);
        // The lost one's nonce is used up, so it is gone for good and does not block its sender.
        net.chain.mine(1).await.unwrap();
        assert!(net.receipt(lost).await.is_none());
        let after = net.send(&net.transfer(&net.alice, 1, 1)).await;
        net.chain.mine(1).await.unwrap();
        assert!(net.receipt(after).await.is_some());

        // Forgotten on request.
        net.chain.reorg(1, ReorgPlan::replace(vec![vec![]])).await.unwrap();
        net.chain.mine(1).await.unwrap();
        assert!(net.receipt(after).await.is_none());

        // What cannot be is refused and changes nothing.
        let head = net.chain.heads().head;
        net.chain.reorg(0, ReorgPlan::empty(1)).await.unwrap_err();
        net.chain.reorg(head.number + 1, ReorgPlan::empty(1)).await.unwrap_err();
        net.chain.reorg(1, ReorgPlan::empty(0)).await.unwrap_err();
        let spent = net.transfer(&net.alice, 0, 1);
        net.chain.reorg(1, ReorgPlan::replace(vec![vec![spent]])).await.unwrap_err();
        net.chain.reorg(1, ReorgPlan::replace(vec![vec![bytes!("02c0")]])).await.unwrap_err();
        assert_eq!(net.chain.heads().head, head);
    });
}

#[test]
fn safe_and_finalized_follow_behind_the_head() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        net.chain.mine(3).await.unwrap();
        assert_eq!(net.tag("safe").await.header.number, 0);
        net.chain.mine(7).await.unwrap();
        assert_eq!(net.tag("safe").await.header.number, 6);
        assert_eq!(net.tag("finalized").await.header.number, 2);
        let heads = net.chain.heads();
        assert_eq!((heads.head.number, heads.safe.number, heads.finalized.number), (10, 6, 2));
        assert_eq!(net.tag("safe").await.header.hash, heads.safe.hash);

        // A shorter branch does not take back what is on it.
        net.chain.reorg(3, ReorgPlan::empty(1)).await.unwrap();
        assert_eq!(net.tag("safe").await.header.number, 6);
        assert_eq!(net.tag("finalized").await.header.number, 2);
        // One from below the safe block does.
        net.chain.reorg(4, ReorgPlan::empty(2)).await.unwrap();
        assert_eq!(net.chain.heads().head.number, 6);
        assert_eq!(net.tag("safe").await.header.number, 4);
        assert_eq!(net.tag("finalized").await.header.number, 2);
    });
}

#[test]
fn calls_and_logs_are_those_of_the_block_asked_for() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        let mut blocks = Vec::new();
        for nonce in 0..3 {
            net.send(&net.transaction(&net.alice, nonce, COUNTER, 0)).await;
            blocks.push(net.chain.mine(1).await.unwrap());
        }
        for (index, block) in blocks.iter().enumerate() {
            let count = U256::from(index + 1);
            let at = json!({ "blockHash": block.hash });
            let returned: U256 = net.call("eth_call", json!([{ "to": COUNTER, "input": "0x" }, at])).await;
            assert_eq!(returned, count + U256::ONE);
            let logs: Vec<Log> =
                net.call("eth_getLogs", json!([{ "blockHash": block.hash, "address": COUNTER }])).await;
            assert_eq!(logs.len(), 1);
            assert_eq!(U256::from_be_slice(&logs[0].data().data), count);
            assert_eq!((logs[0].block_hash, logs[0].removed), (Some(block.hash), false));
        }
        // The logs of a branch follow the fork choice by number and stay readable by hash.
        net.chain.reorg(2, ReorgPlan { keep_dropped: false, ..ReorgPlan::empty(1) }).await.unwrap();
        let logs: Vec<Log> = net.call("eth_getLogs", json!([{ "fromBlock": "0x0", "toBlock": "0x2" }])).await;
        assert_eq!(logs.len(), 1);
        let orphans: Vec<Log> = net.call("eth_getLogs", json!([{ "blockHash": blocks[2].hash }])).await;
        assert_eq!(orphans.len(), 1);
        let orphans: Vec<TransactionReceipt> =
            net.call("eth_getBlockReceipts", json!([{ "blockHash": blocks[2].hash }])).await;
        assert_eq!((orphans.len(), orphans[0].block_hash), (1, Some(blocks[2].hash)));
        let error = net.chain.rpc("eth_call", json!([{ "to": COUNTER }, blocks[2].hash])).await.unwrap_err();
        assert!(error.message().contains("not on the canonical chain"), "{error}");
        // Beyond the head there is nothing, which is no error.
        let logs: Vec<Log> =
            net.call("eth_getLogs", json!([{ "fromBlock": "0x2", "toBlock": "0xffff" }])).await;
        assert!(logs.is_empty());
    });
}

#[test]
fn every_transaction_of_a_block_has_its_receipt() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        let mut sent = Vec::new();
        for nonce in 0..3 {
            sent.push(net.send(&net.transaction(&net.alice, nonce, COUNTER, 0)).await);
        }
        let block = net.chain.mine(1).await.unwrap();
        // Later blocks push it out of what the client keeps at hand.
        net.chain.mine(5).await.unwrap();
        let receipts: Vec<TransactionReceipt> = net.call("eth_getBlockReceipts", json!(["0x1"])).await;
        assert_eq!(receipts.iter().map(|receipt| receipt.transaction_hash).collect::<Vec<_>>(), sent);
        for (index, hash) in sent.iter().enumerate() {
            let receipt = net.receipt(*hash).await.expect("mined");
            assert_eq!(receipt.transaction_index, Some(index as u64));
            let log = &receipt.logs()[0];
            assert_eq!((log.log_index, log.block_timestamp), (Some(index as u64), Some(block.timestamp)));
            assert_eq!(U256::from_be_slice(&log.data().data), U256::from(index + 1));
        }
        let filter =
            json!([{ "fromBlock": "earliest", "address": COUNTER, "topics": [B256::with_last_byte(1)] }]);
        assert_eq!(net.call::<Vec<Log>>("eth_getLogs", filter).await.len(), 3);
        let filter = json!([{ "fromBlock": "earliest", "topics": [B256::with_last_byte(2)] }]);
        assert!(net.call::<Vec<Log>>("eth_getLogs", filter).await.is_empty());
    });
}

#[test]
fn a_websocket_client_sees_heads_and_sends_transactions() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::OnDemand).await;
        let server = jsonrpsee::server::Server::builder().build("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let _server = server.start(net.chain.rpc_module().unwrap());

        let client =
            jsonrpsee::ws_client::WsClientBuilder::default().build(format!("ws://{address}")).await.unwrap();
        let mut heads: Subscription<Header> =
            client.subscribe("eth_subscribe", rpc_params!["newHeads"], "eth_unsubscribe").await.unwrap();
        let refused =
            client.subscribe::<Value, _>("eth_subscribe", rpc_params!["logs"], "eth_unsubscribe").await;
        assert!(refused.unwrap_err().to_string().contains("newHeads"));

        let (raw, versioned_hash, _) = blob_transaction(&net.alice, 0, b"over the wire", true);
        let hash: B256 = client.request("eth_sendRawTransaction", rpc_params![raw]).await.unwrap();
        let head = heads.next().await.unwrap().unwrap();
        assert_eq!(head.inner.hash_slow(), head.hash);
        let receipt: TransactionReceipt =
            client.request("eth_getTransactionReceipt", rpc_params![hash]).await.unwrap();
        assert_eq!(receipt.block_hash, Some(head.hash));
        assert!(net.chain.blob(versioned_hash).is_some());

        let version: String = client.request("web3_clientVersion", rpc_params![]).await.unwrap();
        assert!(version.starts_with("ethrex"), "{version}");
        let error =
            client.request::<Value, _>("engine_exchangeCapabilities", rpc_params![]).await.unwrap_err();
        assert!(error.to_string().contains("Method not found"), "{error}");
        heads.unsubscribe().await.unwrap();
    });
}

impl Net {
    async fn engine<T: DeserializeOwned>(&self, method: &str, params: Value) -> T {
        let module = self.chain.engine_module().unwrap();
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let (answer, _) = module.raw_json_request(&request, 1).await.unwrap();
        let answer: Value = serde_json::from_str(answer.get()).unwrap();
        serde_json::from_value(answer["result"].clone())
            .unwrap_or_else(|error| panic!("{method}: {error} in {answer}"))
    }
}

#[test]
fn a_consensus_client_can_drive_the_chain() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        let mut events = net.chain.subscribe_heads();
        let (raw, versioned_hash, blob) = blob_transaction(&net.alice, 0, b"by the engine", true);
        let sent = [net.send(&raw).await, net.send(&net.transfer(&net.bob, 0, 3)).await];
        let genesis = net.chain.heads().head.hash;
        let state = |head: B256| json!({ "headBlockHash": head, "safeBlockHash": genesis, "finalizedBlockHash": genesis });
        let attributes = json!({
            "timestamp": "0x6553f110",
            "prevRandao": B256::repeat_byte(7),
            "suggestedFeeRecipient": SOMEONE,
            "withdrawals": [],
            "parentBeaconBlockRoot": B256::ZERO,
        });
        let started: Value =
            net.engine("engine_forkchoiceUpdatedV3", json!([state(genesis), attributes])).await;
        assert_eq!(started["payloadStatus"]["status"], "VALID");
        let payload: Value = net.engine("engine_getPayloadV5", json!([started["payloadId"]])).await;
        assert_eq!(payload["blobsBundle"]["commitments"].as_array().unwrap().len(), 1);
        let execution = &payload["executionPayload"];
        let imported: Value = net
            .engine(
                "engine_newPayloadV4",
                json!([execution, [versioned_hash], B256::ZERO, payload["executionRequests"]]),
            )
            .await;
        assert_eq!(imported["status"], "VALID", "{imported}");
        let head: B256 = serde_json::from_value(execution["blockHash"].clone()).unwrap();
        let chosen: Value = net.engine("engine_forkchoiceUpdatedV3", json!([state(head), null])).await;
        assert_eq!(chosen["payloadStatus"]["status"], "VALID");

        assert_eq!(next(&mut events).await.head.hash, head);
        assert_eq!(net.chain.heads().head.number, 1);
        assert_eq!(net.chain.blob(versioned_hash).unwrap().as_slice(), blob);
        // Mining by command goes on from there.
        assert_eq!(net.chain.mine(5).await.unwrap().number, 6);
        for hash in sent {
            assert_eq!(net.receipt(hash).await.expect("mined").block_hash, Some(head));
        }
    });
}

#[test]
fn the_engine_server_wants_a_token() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        let secret = [9u8; 32];
        let (address, _handle) =
            net.chain.serve_engine("127.0.0.1:0".parse().unwrap(), secret.into()).await.unwrap();
        let client = |token: Option<String>| {
            let mut headers = jsonrpsee::http_client::HeaderMap::new();
            if let Some(token) = token {
                headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            jsonrpsee::http_client::HttpClientBuilder::default()
                .set_headers(headers)
                .build(format!("http://{address}"))
                .unwrap()
        };
        let iat = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let token = |secret: &[u8]| {
            jsonwebtoken::encode(
                &jsonwebtoken::Header::default(),
                &json!({ "iat": iat }),
                &jsonwebtoken::EncodingKey::from_secret(secret),
            )
            .unwrap()
        };
        for refused in [None, Some(token(&[8; 32]))] {
            let error = client(refused).request::<Value, _>("eth_chainId", rpc_params![]).await.unwrap_err();
            assert!(error.to_string().contains("401"), "{error}");
        }
        let client = client(Some(token(&secret)));
        let capabilities: Vec<String> =
            client.request("engine_exchangeCapabilities", rpc_params![Vec::<String>::new()]).await.unwrap();
        assert!(capabilities.iter().any(|method| method == "engine_newPayloadV4"), "{capabilities:?}");
        let chain_id: U256 = client.request("eth_chainId", rpc_params![]).await.unwrap();
        assert_eq!(chain_id, U256::from(CHAIN_ID));
    });
}

#[test]
fn the_genesis_of_the_contracts_is_the_state_of_block_zero() {
    run(async {
        let role = Address::repeat_byte(0x11);
        let built = build(&GenesisSpec::devnet(role, role, role)).unwrap();
        let accounts = built.genesis.alloc.iter();
        let root = state_root_unhashed(
            accounts
                .map(|(address, account)| (*address, account.clone().into_trie_account()))
                .collect::<Vec<_>>(),
        );
        let chain =
            EmbeddedChain::start(ChainConfig::new(built.genesis).with_mining(Mining::Manual)).await.unwrap();
        let block = chain.rpc("eth_getBlockByNumber", json!(["0x0", false])).await.unwrap();
        assert_eq!(block["stateRoot"], json!(root));

        // Discovery from the one address that every network has: aiConfig() and jobRegistry().
        for (selector, address) in
            [("0x85ff4862", built.deployment.ai_config), ("0x23682c47", built.deployment.job_registry)]
        {
            let call = json!([{ "to": built.deployment.worker_registry, "input": selector }, "latest"]);
            assert_eq!(chain.rpc("eth_call", call).await.unwrap(), json!(address.into_word()));
        }
    });
}

#[test]
fn nothing_answers_after_shutdown() {
    run(async {
        let net = Net::start(Fork::Osaka, Mining::Manual).await;
        let other = net.chain.clone();
        net.chain.shutdown().await;
        assert!(other.rpc("eth_chainId", json!([])).await.unwrap_err().message().contains("shut down"));
        other.mine(1).await.unwrap_err();
    });
}
