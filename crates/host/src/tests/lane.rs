use super::*;
use crate::{HostError, LaneClass, LaneConfig, LaneError, TxLane, TxSpec, testing::BlockContent};
use alloy_consensus::{
    EthereumTxEnvelope, Transaction, TxEip4844WithSidecar, transaction::SignerRecoverable,
};
use alloy_eips::{
    eip2718::Decodable2718,
    eip4844::{Blob, Bytes48},
    eip7594::{BlobTransactionSidecarEip7594, BlobTransactionSidecarVariant},
};
use alloy_primitives::{Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use parking_lot::Mutex;

type Decoded = EthereumTxEnvelope<TxEip4844WithSidecar>;

fn config(class: LaneClass) -> LaneConfig {
    LaneConfig {
        poll: Duration::from_millis(2),
        stuck_after: Duration::from_millis(1),
        ..LaneConfig::new(class)
    }
}

/// Nothing is stuck for as long as a test takes.
fn patient() -> LaneConfig {
    LaneConfig { stuck_after: Duration::from_secs(600), ..config(LaneClass::Ordinary) }
}

fn lane(host: &ScriptedHost, config: LaneConfig) -> Arc<TxLane> {
    let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(5)).unwrap();
    Arc::new(TxLane::with_config(host.client(), signer, config))
}

fn decoded(host: &ScriptedHost) -> Vec<Decoded> {
    host.sent().iter().map(|raw| Decoded::decode_2718(&mut raw.as_ref()).unwrap()).collect()
}

fn call(tag: u8) -> TxSpec {
    TxSpec { value: U256::from(tag), ..TxSpec::call(Address::repeat_byte(9), Bytes::from(vec![tag])) }
}

/// Mines whenever something was sent, until the future is done.
async fn mining<T>(host: &ScriptedHost, work: impl Future<Output = T>) -> T {
    let mine = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            host.mine(BlockContent::default());
        }
    };
    tokio::select! {
        () = mine => unreachable!(),
        done = work => done,
    }
}

#[tokio::test]
async fn gives_out_nonces_in_order_and_waits_for_inclusion() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, patient());
    host.set_nonce(lane.account(), 7);
    let sends = futures::future::try_join_all((0..5).map(|tag| lane.send(call(tag))));
    let sent = mining(&host, sends).await.unwrap();
    assert!(sent.iter().all(|sent| sent.receipt.success));
    let transactions = decoded(&host);
    assert_eq!(
        transactions.iter().map(Transaction::nonce).collect::<Vec<_>>(),
        (7..12).collect::<Vec<u64>>()
    );
    for (transaction, sent) in transactions.iter().zip(&sent) {
        assert_eq!(*transaction.hash(), sent.hash);
        assert_eq!(transaction.recover_signer().unwrap(), lane.account());
        assert_eq!(transaction.chain_id(), Some(8200));
        assert_eq!(transaction.gas_limit(), 120_000, "a fifth above the estimate");
    }
}

#[tokio::test]
async fn a_reverting_call_is_not_sent_and_explained() {
    let host = ScriptedHost::new(8200);
    // Error(string) with "too early".
    let data = alloy_primitives::hex!(
        "08c379a00000000000000000000000000000000000000000000000000000000000000020"
        "0000000000000000000000000000000000000000000000000000000000000009"
        "746f6f206561726c790000000000000000000000000000000000000000000000"
    );
    host.on_call(move |_, _| Err(data.into()));
    let error = lane(&host, config(LaneClass::Ordinary)).send(call(1)).await.unwrap_err();
    assert!(matches!(&error, LaneError::Reverted { reason, .. } if reason.contains("too early")), "{error}");
    assert!(host.sent().is_empty());
}

#[tokio::test]
async fn a_stuck_transaction_is_replaced_for_more_up_to_the_cap() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, LaneConfig { max_bumps: 3, ..config(LaneClass::Ordinary) });
    let sending = {
        let lane = Arc::clone(&lane);
        tokio::spawn(async move { lane.send(call(1)).await })
    };
    // After the last replacement the same bytes are only sent again, which is no new transaction.
    eventually("replacements", || host.sent().len() >= 4).await;
    let transactions = decoded(&host);
    assert!(transactions.iter().all(|transaction| transaction.nonce() == 0));
    let fees: Vec<u128> = transactions.iter().map(Transaction::max_fee_per_gas).collect();
    for pair in fees[..4].windows(2) {
        assert!(pair[1] * 10 >= pair[0] * 11, "a pool asks for a tenth more: {fees:?}");
    }
    host.mine(BlockContent::default());
    assert!(sending.await.unwrap().unwrap().receipt.success);
}

#[tokio::test]
async fn refusals_are_sorted() {
    let host = ScriptedHost::new(8200);
    let refusals = Arc::new(Mutex::new(vec![
        "nonce too low",
        "address already reserved",
        "replacement transaction underpriced",
    ]));
    host.on_send(move |_| match refusals.lock().pop() {
        Some(message) => Err(HostError::Rejected {
            method: "eth_sendRawTransaction".into(),
            code: -32000,
            message: message.into(),
        }),
        None => Ok(()),
    });
    let lane = lane(&host, patient());
    mining(&host, lane.send(call(1))).await.unwrap();
    assert_eq!(host.sent().len(), 1);

    host.on_send(|_| {
        Err(HostError::Rejected {
            method: "eth_sendRawTransaction".into(),
            code: -32000,
            message: "insufficient funds for gas * price + value".into(),
        })
    });
    assert!(matches!(lane.send(call(2)).await, Err(LaneError::Underfunded { .. })));
}

#[tokio::test]
async fn a_lost_answer_does_not_make_a_second_transaction() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, patient());
    let account = lane.account();
    host.lose_answers(3);
    let sending = tokio::spawn(async move { lane.send(call(1)).await });
    eventually("a transaction", || host.sent().len() == 1).await;
    // The pool counts it already.
    host.set_nonce(account, 1);
    host.mine(BlockContent::default());
    assert!(sending.await.unwrap().unwrap().receipt.success);
    assert_eq!(host.sent().len(), 1);
}

#[tokio::test]
async fn a_nonce_spent_by_somebody_else_is_said() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, patient());
    let account = lane.account();
    let sending = tokio::spawn(async move { lane.send(call(1)).await });
    eventually("a transaction", || host.sent().len() == 1).await;
    host.set_nonce(account, 1);
    let error = sending.await.unwrap().unwrap_err();
    assert!(matches!(error, LaneError::NonceTaken { nonce: 0, .. }), "{error}");
}

#[tokio::test]
async fn a_nonce_freed_by_a_reorg_is_filled_with_a_transfer() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, patient());
    let account = lane.account();
    host.set_nonce(account, 3);
    let sending = tokio::spawn(async move { lane.send(call(1)).await });
    eventually("a transaction", || host.sent().len() == 1).await;
    // Nonce 2 had been included and is not any more; its transaction is gone for good.
    host.set_nonce(account, 2);
    eventually("a filler", || host.sent().len() == 2).await;
    let filler = decoded(&host).pop().unwrap();
    assert_eq!((filler.nonce(), filler.to(), filler.value()), (2, Some(account), U256::ZERO));
    assert!(filler.input().is_empty());
    host.mine(BlockContent::default());
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_reorg_took_back_is_sent_again_as_it_was() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, patient());
    let account = lane.account();
    let first = mining(&host, lane.send(call(1))).await.unwrap();
    host.set_nonce(account, 1);
    // The same again is another transaction, as long as the first one stands.
    let second = mining(&host, lane.send(call(1))).await.unwrap();
    host.set_nonce(account, 2);
    assert_ne!(first.hash, second.hash);

    let depth = host.head().number - second.receipt.block.number + 1;
    host.reorg(depth, vec![BlockContent::default()]);
    host.set_nonce(account, 1);
    let again = mining(&host, lane.send(call(1))).await.unwrap();
    assert_eq!(again.hash, second.hash, "the nonce can be spent once");
    host.set_nonce(account, 2);
    mining(&host, lane.send(call(2))).await.unwrap();
    let nonces: Vec<u64> = decoded(&host).iter().map(Transaction::nonce).collect();
    assert_eq!(nonces, [0, 1, 1, 2]);
}

#[tokio::test]
async fn a_pool_that_lost_a_transaction_gets_it_again_unless_it_would_revert_now() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, patient());
    let sends: Vec<_> = (0..2)
        .map(|tag| {
            let lane = Arc::clone(&lane);
            tokio::spawn(async move { lane.send(call(tag)).await })
        })
        .collect();
    eventually("two transactions", || host.sent().len() == 2).await;
    host.lose_pool();
    eventually("both again", || host.sent().len() >= 4).await;
    let sent = host.sent();
    assert_eq!(sent[2..4], sent[..2], "the same bytes, in order");
    host.mine(BlockContent::default());
    host.set_nonce(lane.account(), 2);
    for sending in sends {
        assert!(sending.await.unwrap().unwrap().receipt.success);
    }

    // The restarted node has fallen back to a block in which the call makes no sense.
    let sending = tokio::spawn(async move { lane.send(call(7)).await });
    let before = host.sent().len();
    eventually("a third", || host.sent().len() == before + 1).await;
    host.on_call(|_, _| Err(Bytes::new()));
    host.lose_pool();
    let error = sending.await.unwrap().unwrap_err();
    assert!(matches!(error, LaneError::Reverted { .. }), "{error}");
    assert_eq!(host.sent().len(), before + 1, "it was not sent again");
}

#[tokio::test]
async fn a_blob_lane_sends_blobs_only() {
    let host = ScriptedHost::new(8200);
    let patient = LaneConfig { stuck_after: Duration::from_secs(600), ..config(LaneClass::Blob) };
    let lane = lane(&host, patient);
    let refused = lane.send(call(1)).await.unwrap_err();
    assert!(matches!(refused, LaneError::WrongClass { lane: LaneClass::Blob, given: LaneClass::Ordinary }));
    // Proofs are the pool's to check; here only the shape matters.
    let sidecar = BlobTransactionSidecarVariant::Eip7594(BlobTransactionSidecarEip7594 {
        blobs: vec![Blob::ZERO],
        commitments: vec![Bytes48::repeat_byte(1)],
        cell_proofs: vec![Bytes48::ZERO; 128],
    });
    let spec = TxSpec::blob(Address::repeat_byte(9), Bytes::new(), sidecar);
    mining(&host, lane.send(spec)).await.unwrap();
    let sent = decoded(&host).pop().unwrap();
    let expected = alloy_eips::eip4844::kzg_to_versioned_hash(Bytes48::repeat_byte(1).as_slice());
    assert_eq!(sent.blob_versioned_hashes(), Some([expected].as_slice()));
    assert_eq!(sent.max_fee_per_blob_gas(), Some(2));
}

#[tokio::test]
async fn fees_above_the_cap_are_not_paid() {
    let host = ScriptedHost::new(8200);
    let lane = lane(&host, LaneConfig { max_fee: 6, ..config(LaneClass::Ordinary) });
    let error = lane.send(call(1)).await.unwrap_err();
    assert!(matches!(error, LaneError::FeeCap { needed: 7, cap: 6, unit: "gas" }), "{error}");
    assert!(error.is_transient() && host.sent().is_empty());
}
