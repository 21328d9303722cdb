//! A prompt goes in, an encrypted answer comes out through the chain: over RPC, with nothing replaced.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_primitives::{B256, U256, keccak256};
use alloy_sol_types::SolCall;
use lcai::devnet::DevnetConfig;
use lcai_client::{Answer, Event, User, UserSession};
use lcai_crypto::recover_response;
use lcai_host::Call;
use lcai_primitives::contracts::JobRegistry;
use lcai_rpc::{api::LcaiApiClient, types::JobReceipt};
use lcai_tests::{Network, ask, devnet, fee, funded, open_session, reth::RethNet, run};
use std::time::Duration;

#[test]
fn a_prompt_becomes_a_verified_paid_answer() {
    run(async {
        let mut config = DevnetConfig::default();
        config.params.dispute_window = 5;
        let devnet = devnet(config).await;
        story(&devnet).await;
        devnet.stop().await;
    });
}

/// The same over Reth, with our extensions in its process.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn a_prompt_becomes_a_verified_paid_answer_on_reth() {
    run(async {
        let mut config = DevnetConfig::default();
        config.params.dispute_window = 5;
        let network = RethNet::start(&config).await;
        story(&network).await;
        network.stop().await;
    });
}

async fn story(devnet: &impl Network) {
    let user = funded(devnet, 0).await;
    let session = open_session(&user).await;
    assert!(devnet.workers().contains(&session.worker));

    let (answer, events) = ask(&user, &session, "What is the capital of France?").await;
    assert!(answer.text.contains("Paris"), "{}", answer.text);
    let streamed: String = events.iter().filter_map(delta).collect();
    assert_eq!(streamed, answer.text);
    assert!(answer.macs_checked > 0);
    check_receipt(devnet, &user, &session, &answer.receipt).await;

    // Again in the same session: history is rebuilt from the chain, and only one transaction is the user's.
    let (second, _) = ask(&user, &session, "What is 12 plus 30?").await;
    assert!(second.text.contains("42"), "{}", second.text);
    assert_ne!(second.ciphertext_hash, answer.ciphertext_hash);
    let known = user.node().rpc().get_session(session.id).await.unwrap().unwrap();
    assert_eq!(known.jobs, vec![answer.receipt.job.id, second.receipt.job.id]);

    paid(devnet, &user, &session, &[&answer, &second]).await;
}

fn delta(event: &Event) -> Option<&str> {
    match event {
        Event::Delta(text) => Some(text),
        _ => None,
    }
}

/// Verifies the receipt as a stranger would: from its own members and the chain's, with the session key for the text.
async fn check_receipt(devnet: &impl Network, user: &User, session: &UserSession, receipt: &JobReceipt) {
    let job = &receipt.job;
    let ciphertext = receipt.ciphertext.as_ref().unwrap();
    let signature = receipt.response_signature.as_ref().unwrap();
    let signer = recover_response(
        receipt.chain_id,
        receipt.job_registry,
        job.id,
        job.session_id,
        ciphertext,
        signature,
    );
    assert_eq!(signer.unwrap(), session.worker);
    assert_eq!(receipt.job_registry, devnet.deployment().job_registry);

    let call = JobRegistry::getJobCall { jobId: job.id.word() };
    let call = Call { to: receipt.job_registry, input: call.abi_encode().into() };
    let output = user.node().chain().call(call, None).await.unwrap();
    let on_chain = JobRegistry::getJobCall::abi_decode_returns(&output).unwrap();
    assert_eq!(on_chain.responseCiphertextHash, keccak256(ciphertext));
    assert_eq!(Some(on_chain.responseBlobHash), job.response_blob_hash);
    assert_eq!(on_chain.promptBlobHash, job.prompt_blob_hash);
    assert_eq!(on_chain.escrowedFee, fee(user).await);

    // The settled blob holds the same bytes as the terminal frame.
    let blob = user.node().rpc().get_blob(on_chain.responseBlobHash, None).await.unwrap().unwrap();
    let blob = Box::new(lcai_blob::Blob::try_from(blob.as_ref()).unwrap());
    lcai_blob::verify(&blob, on_chain.responseBlobHash).unwrap();
    assert_eq!(lcai_blob::decode(blob.as_slice()).unwrap(), ciphertext.to_vec());

    let t = &job.transactions;
    let hashes = [t.submit, t.acknowledge, t.complete, t.prompt_blob, t.response_blob];
    let hashes: Vec<B256> =
        hashes.into_iter().map(|hash| hash.expect("every transaction is known")).collect();
    for hash in hashes {
        assert!(user.node().receipt(hash).await.unwrap().is_some());
    }
}

/// After the dispute window the jobs are released and the worker has its share of both fees.
async fn paid(devnet: &impl Network, user: &User, session: &UserSession, answers: &[&Answer]) {
    let share = fee(user).await * U256::from(8000) / U256::from(10_000) * U256::from(answers.len());
    for _ in 0..240 {
        let call = JobRegistry::workerBalanceCall { worker: session.worker };
        let call = Call { to: devnet.deployment().job_registry, input: call.abi_encode().into() };
        let output = user.node().chain().call(call, None).await.unwrap();
        let balance = JobRegistry::workerBalanceCall::abi_decode_returns(&output).unwrap();
        if balance >= share {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("the worker was not paid within two minutes");
}
