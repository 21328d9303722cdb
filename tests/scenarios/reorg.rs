//! A reorg of depth 3 puts another prompt under the same job id: both users end right, and the worker signed one answer per
//! subject.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{B256, Bytes, TxKind};
use alloy_signer::SignerSync;
use alloy_sol_types::SolCall;
use lcai::devnet::{Devnet, DevnetConfig};
use lcai_client::{Answer, Event, User, UserSession};
use lcai_embedded_chain::ReorgPlan;
use lcai_primitives::{
    contracts::JobRegistry,
    frames::{Envelope, FrameType},
    ids::{JobId, SessionId},
};
use lcai_rpc::{api::LcaiApiClient, types::PublishedBlob};
use lcai_tests::{devnet, fee, funded, open_session, run};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

#[test]
fn another_prompt_under_the_same_job_id() {
    run(async {
        // One worker serves both users, so that it is the one that could mix the two up.
        let devnet = devnet(DevnetConfig { workers: 1, ..DevnetConfig::default() }).await;
        let (ann, bob) = (funded(&devnet, 0).await, funded(&devnet, 1).await);
        let (ann_session, bob_session) = (open_session(&ann).await, open_session(&bob).await);
        let ann_blob = ann.publish_prompt(&ann_session.key, b"What is the capital of France?").await.unwrap();
        let bob_blob = bob.publish_prompt(&bob_session.key, b"What is the capital of Italy?").await.unwrap();
        settle_down(&devnet).await;

        let ann_submit = submit(&ann, &ann_session, &ann_blob).await;
        let bob_submit = submit(&bob, &bob_session, &bob_blob).await;
        let first_id = mined(&devnet, &ann, &ann_submit).await;
        devnet.chain().pause_mining();
        while devnet.chain().heads().head.number < included_in(&ann, ann_submit.hash).await + 2 {
            devnet.chain().mine(1).await.unwrap();
            // Time for the worker to see the block and act on it.
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        let depth = devnet.chain().heads().head.number - included_in(&ann, ann_submit.hash).await + 1;
        assert_eq!(depth, 3);
        let plan = ReorgPlan {
            new_blocks: 4,
            replacement_txs: vec![vec![bob_submit.raw.clone()], vec![ann_submit.raw.clone()]],
            keep_dropped: true,
        };
        devnet.chain().reorg(depth, plan).await.unwrap();
        devnet.chain().resume_mining();

        let (ann_answer, bob_answer) = tokio::join!(
            follow(&ann, &ann_session, &ann_blob, ann_submit.hash),
            follow(&bob, &bob_session, &bob_blob, bob_submit.hash),
        );
        assert_eq!(bob_answer.receipt.job.id, first_id, "the reorg gave Bob the id that was Ann's");
        assert_eq!(ann_answer.receipt.job.id, JobId(first_id.0 + 1));
        assert!(ann_answer.text.contains("Paris"), "{}", ann_answer.text);
        assert!(bob_answer.text.contains("Rome"), "{}", bob_answer.text);

        let mut signed = BTreeMap::new();
        count_signed(&ann, &ann_session, &mut signed).await;
        count_signed(&bob, &bob_session, &mut signed).await;
        assert!(signed.values().all(|hashes| hashes.len() == 1), "one answer per subject: {signed:?}");
        assert!(signed.contains_key(&(first_id, bob_session.id)));
        assert!(signed.contains_key(&(ann_answer.receipt.job.id, ann_session.id)));
        devnet.stop().await;
    });
}

struct Submission {
    raw: Bytes,
    hash: B256,
}

/// Signs a submitJob without sending it.
async fn submit(user: &User, session: &UserSession, blob: &PublishedBlob) -> Submission {
    let chain = user.node().chain();
    let call = JobRegistry::submitJobCall { sessionId: session.id.word(), blobHash: blob.versioned_hash };
    let transaction = TxEip1559 {
        chain_id: chain.chain_id(),
        nonce: chain.nonce(user.account(), true).await.unwrap(),
        gas_limit: 1_000_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(user.node().network().deployment.job_registry),
        value: fee(user).await,
        access_list: Default::default(),
        input: call.abi_encode().into(),
    };
    let signature = user.signer().sign_hash_sync(&transaction.signature_hash()).unwrap();
    let envelope = TxEnvelope::from(transaction.into_signed(signature));
    Submission { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into() }
}

/// Sends it and waits until a block has it; gives the job id it has there.
async fn mined(devnet: &Devnet, user: &User, submission: &Submission) -> JobId {
    user.node().chain().send_raw_transaction(submission.raw.clone()).await.unwrap();
    for _ in 0..100 {
        if let Some(receipt) = user.node().receipt(submission.hash).await.unwrap() {
            let log =
                receipt.inner.logs().iter().find(|log| log.address() == devnet.deployment().job_registry);
            let id = log.expect("JobSubmitted is among the logs").topics()[1];
            return JobId::try_from(alloy_primitives::U256::from_be_bytes(id.0)).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("submitJob was not mined");
}

async fn included_in(user: &User, hash: B256) -> u64 {
    user.node().receipt(hash).await.unwrap().unwrap().block_number.unwrap()
}

/// Lets the feeds of node and worker come up to the head.
async fn settle_down(devnet: &Devnet) {
    let head = devnet.chain().heads().head.number;
    while devnet.chain().heads().head.number < head + 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn follow(user: &User, session: &UserSession, blob: &PublishedBlob, submit: B256) -> Answer {
    user.follow(session, blob, submit, &mut |_: Event| {}).await.unwrap()
}

/// Which answers the worker signed, by (job id, session id), as far as they were ever relayed.
async fn count_signed(
    user: &User,
    session: &UserSession,
    signed: &mut BTreeMap<(JobId, SessionId), BTreeSet<B256>>,
) {
    let mut envelopes: Vec<Envelope> = Vec::new();
    loop {
        let (token, cursor) = (user.token().await.unwrap(), envelopes.last().map_or(0, |e| e.cursor));
        let more =
            user.node().rpc().poll_frames(token, session.id, cursor.into(), 1_000.into()).await.unwrap();
        if more.is_empty() {
            break;
        }
        envelopes.extend(more);
    }
    for frame in envelopes.into_iter().map(|e| e.frame).filter(|f| f.frame_type == FrameType::Complete) {
        let hash = alloy_primitives::keccak256(&frame.payload);
        signed.entry((frame.job_id, frame.session_id)).or_default().insert(hash);
    }
}
