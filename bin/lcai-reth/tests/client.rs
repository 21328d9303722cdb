//! The node's chain as a host: calls, estimates and receipts answer as the same questions over JSON-RPC do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unused_crate_dependencies, missing_docs)]

mod support;

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall;
use lcai_genesis::{addresses, dev::dev_account};
use lcai_host::{Call, ChainReader, HostClient, HostError, TransactionRequest};
use lcai_primitives::contracts::JobRegistry;
use support::{Host, chain::Story};

fn sessions() -> Call {
    Call { to: addresses::JOB_REGISTRY, input: JobRegistry::sessionCountCall {}.abi_encode().into() }
}

fn submit(session: u64) -> TransactionRequest {
    let call = JobRegistry::submitJobCall { sessionId: U256::from(session), blobHash: B256::repeat_byte(1) };
    TransactionRequest {
        from: dev_account(0).unwrap().address(),
        to: addresses::JOB_REGISTRY,
        value: U256::from(20_000_000_000_000_000u64),
        input: call.abi_encode().into(),
        blob_versioned_hashes: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_see_the_state_of_their_block() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    host.chain.mine(0, &story.register());
    let before = host.chain.head().hash;
    host.chain.mine(0, &[story.open(0)]);
    let client = host.client();
    let count = |output: alloy_primitives::Bytes| U256::from_be_slice(&output);
    assert_eq!(count(client.call(sessions(), Some(before)).await.unwrap()), U256::ZERO);
    assert_eq!(count(client.call(sessions(), None).await.unwrap()), U256::from(1));
    let unknown = client.call(sessions(), Some(B256::repeat_byte(9))).await;
    assert!(matches!(unknown, Err(HostError::UnknownBlock(_))), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_is_enough_and_not_far_above_what_is_used() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    host.chain.mine(0, &story.register());
    host.chain.mine(0, &[story.open(0)]);
    let client = host.client();
    let estimate = client.estimate_gas(submit(1)).await.unwrap();
    assert!(matches!(client.estimate_gas(submit(9)).await, Err(HostError::Reverted(_))));
    let with_blob = TransactionRequest { blob_versioned_hashes: vec![B256::repeat_byte(1)], ..submit(1) };
    assert!(client.estimate_gas(with_blob).await.is_ok());

    host.chain.mine(0, &[story.submit(1, 1)]);
    let block = client.block_at(host.chain.height(), &[addresses::JOB_REGISTRY]).await.unwrap().unwrap();
    let receipt = client.receipt(block.logs[0].transaction_hash).await.unwrap().unwrap();
    assert!(receipt.success);
    assert_eq!(receipt.block, block.block_ref());
    assert!(receipt.gas_used <= estimate && estimate < receipt.gas_used * 2, "{receipt:?}, {estimate}");
    assert_eq!(client.nonce(dev_account(0).unwrap().address(), true).await.unwrap(), 2);
    assert_eq!(client.receipt(B256::repeat_byte(3)).await.unwrap(), None);
}
