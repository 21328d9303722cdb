//! Bad input is refused with a clear message and a stable code, and no transaction is sent for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_primitives::{B256, Bytes};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::core::client::Error as RpcError;
use lcai::{
    ask::{AskArgs, Asking, DEFAULT_MODEL},
    devnet::{Devnet, DevnetConfig},
    exit,
    keys::AccountKey,
    progress::Progress,
};
use lcai_client::{ClientError, Connection, SessionStore};
use lcai_crypto::{SessionKey, sign_response, wrap};
use lcai_primitives::frames::Frame;
use lcai_rpc::{
    api::LcaiApiClient,
    types::{AuthorizationRequest, CallerProof, SessionOffer},
};
use lcai_tests::{Network, ask, devnet, funded, open_session, ports, reth::RethNet, run, user};
use std::{sync::Arc, time::Duration};

#[test]
fn bad_input_is_refused_and_nothing_is_sent() {
    run(async {
        let devnet = devnet(DevnetConfig::default()).await;
        refusals(&devnet).await;
        expired_authorization(&devnet).await;
        devnet.stop().await;
    });
}

/// The same over Reth, but for what needs blocks at will.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn bad_input_is_refused_and_nothing_is_sent_on_reth() {
    run(async {
        let network = RethNet::start(&DevnetConfig::default()).await;
        refusals(&network).await;
        network.stop().await;
    });
}

async fn refusals(network: &impl Network) {
    command_line(network).await;
    keys(network).await;
    authorizations(network).await;
    frames(network).await;
    blobs(network).await;
}

/// What `lcai ask` exits with, and what it says.
async fn asking(
    network: &impl Network,
    prompt: &[u8],
    signer: PrivateKeySigner,
    change: impl Fn(&mut AskArgs),
) -> (u8, String) {
    let mut args = AskArgs {
        prompt: None,
        rpc: network.url().to_owned(),
        model: DEFAULT_MODEL.to_owned(),
        chain_id: None,
        key: AccountKey::default(),
        new_session: true,
        sortition: false,
        sessions: None,
        json: false,
        quiet: true,
    };
    change(&mut args);
    let directory = tempfile::tempdir().unwrap();
    let asking =
        Asking { args: &args, store: SessionStore::new(directory.path()), progress: Progress::new(true) };
    let error = asking.run(signer, prompt).await.expect_err("it must be refused");
    (exit::code(&error), format!("{error:#}"))
}

async fn command_line(network: &impl Network) {
    let payer = network.user(0);
    let nonce = |account| {
        let url = network.url().to_owned();
        async move { Connection::open(&url, None).await.unwrap().chain().nonce(account, true).await.unwrap() }
    };
    let before = nonce(payer.address()).await;

    let (code, text) = asking(network, b"hi", payer.clone(), |a| a.model = "no-such-model".into()).await;
    assert_eq!(code, 5);
    assert!(text.contains("no-such-model") && text.contains(DEFAULT_MODEL), "{text}");

    let large = vec![b'x'; 126_972 - 28 + 1];
    let (code, text) = asking(network, &large, payer.clone(), |_| {}).await;
    assert_eq!(code, 7);
    assert!(text.contains("126945") && text.contains("126944"), "{text}");

    let (code, text) = asking(network, b"", payer.clone(), |_| {}).await;
    assert_eq!((code, text.contains("empty")), (7, true));

    let poor = PrivateKeySigner::random();
    let (code, text) = asking(network, b"hi", poor.clone(), |_| {}).await;
    assert_eq!(code, 6);
    assert!(text.contains(&poor.address().to_string()) && text.contains("0.02"), "{text}");

    let nobody = ports::free_address().unwrap();
    let (code, text) = asking(network, b"hi", payer.clone(), |a| a.rpc = format!("ws://{nobody}")).await;
    assert_eq!(code, 3);
    assert!(text.contains(&nobody.to_string()), "{text}");

    let (code, text) = asking(network, b"hi", payer.clone(), |a| a.rpc = format!("http://{nobody}")).await;
    assert_eq!(code, 2);
    assert!(text.contains(&format!("ws://{nobody}")), "{text}");

    let (code, text) = asking(network, b"hi", payer.clone(), |a| a.chain_id = Some(9200)).await;
    assert_eq!(code, 4);
    assert!(text.contains("9200") && text.contains("1337"), "{text}");

    assert_eq!(nonce(payer.address()).await, before, "no transaction was sent");
}

async fn keys(network: &impl Network) {
    let directory = tempfile::tempdir().unwrap();
    let malformed = directory.path().join("key");
    std::fs::write(&malformed, "0x1234").unwrap();
    let key = AccountKey { key_file: Some(malformed.clone()), ..AccountKey::default() };
    let error = eyre::Report::from(key.signer(network.url()).unwrap_err());
    assert_eq!(exit::code(&error), 8);
    let text = error.to_string();
    assert!(
        text.contains("32 bytes") && !text.contains("1234"),
        "names what is expected, not what is in it: {text}"
    );

    let remote = AccountKey::default().signer("wss://rpc.example.org").unwrap_err();
    assert!(remote.to_string().contains("--keystore"));
}

fn code_of(error: RpcError) -> (i32, String) {
    match error {
        RpcError::Call(call) => (call.code(), call.message().to_owned()),
        other => panic!("not an answer of the node: {other}"),
    }
}

fn request(offer: &SessionOffer, key: &SessionKey) -> AuthorizationRequest {
    // A node that knows no disputer's key offers none, and nothing is escrowed then.
    let wrapped = |public: &Bytes| {
        if public.is_empty() {
            return Bytes::new();
        }
        let public = lcai_crypto::EncryptionPublicKey::from_sec1(public).unwrap();
        Bytes::copy_from_slice(&wrap(key, &public).unwrap())
    };
    AuthorizationRequest {
        user: offer.user,
        model_id: offer.model_id,
        worker: offer.worker,
        enc_worker_key: wrapped(&offer.worker_encryption_key),
        enc_disputer_key: wrapped(&offer.disputer_encryption_key),
        nonce: offer.nonce,
    }
}

async fn authorizations(network: &impl Network) {
    let (ann, mallory) = (funded(network, 1).await, funded(network, 2).await);
    let offer = ann.request_session(DEFAULT_MODEL).await.unwrap();
    let good = request(&offer, &SessionKey::random());
    let rpc = ann.node().rpc();

    let proof = CallerProof::Token { token: mallory.token().await.unwrap() };
    let (code, _) = code_of(rpc.authorize_session(good.clone(), proof).await.unwrap_err());
    assert_eq!(code, -39003, "somebody else's token");

    let proof = CallerProof::Token { token: "not a token".into() };
    let (code, _) = code_of(rpc.authorize_session(good.clone(), proof).await.unwrap_err());
    assert_eq!(code, -39003);

    let signature =
        Bytes::from(mallory.signer().sign_hash_sync(&B256::repeat_byte(1)).unwrap().as_bytes().to_vec());
    let expiry = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 60;
    let proof = CallerProof::Signature { signature, expiry };
    let (code, _) = code_of(rpc.authorize_session(good.clone(), proof).await.unwrap_err());
    assert_eq!(code, -39003, "a signature over something else");

    let own = || async { CallerProof::Token { token: ann.token().await.unwrap() } };
    let mut wrong = good.clone();
    wrong.worker = *network.workers().iter().find(|w| **w != offer.worker).unwrap();
    let (code, text) = code_of(rpc.authorize_session(wrong, own().await).await.unwrap_err());
    assert_eq!(code, -39005, "a worker that was not drawn: {text}");

    let mut short = good.clone();
    short.enc_worker_key = Bytes::from_static(&[4; 124]);
    let (code, text) = code_of(rpc.authorize_session(short, own().await).await.unwrap_err());
    assert_eq!(code, -39005);
    assert!(text.contains("124") && text.contains("125"), "{text}");

    let mut later = good.clone();
    later.nonce += alloy_primitives::U256::from(1);
    let (code, _) = code_of(rpc.authorize_session(later, own().await).await.unwrap_err());
    assert_eq!(code, -39005, "a nonce that is not the account's");

    rpc.authorize_session(good, own().await).await.expect("the honest request is signed");
}

async fn frames(network: &impl Network) {
    let (ann, mallory) = (funded(network, 3).await, funded(network, 4).await);
    let session = open_session(&ann).await;
    let (answer, _) = ask(&ann, &session, "What is the capital of Spain?").await;
    let job = answer.receipt.job.id;

    // A subscription by someone who is not the user, and one by the user with a token of nobody.
    let rpc = mallory.node().rpc();
    let token = mallory.token().await.unwrap();
    let (code, _) = code_of(rpc.subscribe_frames(token.clone(), session.id, 0.into()).await.unwrap_err());
    assert_eq!(code, -39003);
    let (code, _) =
        code_of(rpc.poll_frames(token.clone(), session.id, 0.into(), 0.into()).await.unwrap_err());
    assert_eq!(code, -39003);
    let (code, _) = code_of(rpc.poll_frames("x".into(), session.id, 0.into(), 0.into()).await.unwrap_err());
    assert_eq!(code, -39003);

    // A frame from someone who is not the session's worker, even well signed by themselves.
    let deployment = network.deployment();
    let signature = sign_response(
        mallory.signer(),
        deployment.chain_id,
        deployment.job_registry,
        job,
        session.id,
        &[7; 64],
    )
    .unwrap();
    let frame = Frame::complete(job, session.id, 0, vec![7; 64], signature, 1);
    let (code, text) = code_of(rpc.submit_frames(token, vec![frame]).await.unwrap_err());
    assert!([-39003, -39009].contains(&code), "{code} {text}");
    let relayed = ann.node().rpc().get_receipt(job).await.unwrap();
    assert_eq!(relayed.relayed_ciphertext_hash, Some(answer.ciphertext_hash), "the worker's answer stands");
}

async fn blobs(network: &impl Network) {
    let ann = funded(network, 5).await;
    let rpc = ann.node().rpc();
    let token = ann.token().await.unwrap();
    let (code, text) = code_of(rpc.publish_blob(token.clone(), vec![1; 126_973].into()).await.unwrap_err());
    assert_eq!(code, -39010);
    assert!(text.contains("126973") && text.contains("126972"), "{text}");
    let (code, _) = code_of(rpc.publish_blob("x".into(), vec![1; 64].into()).await.unwrap_err());
    assert_eq!(code, -39003);
    assert_eq!(rpc.get_blob(B256::repeat_byte(1), None).await.unwrap(), None);

    // Bytes that do not belong to a versioned hash are told from those that do, whoever hands them over.
    let published = rpc.publish_blob(token, vec![1; 64].into()).await.unwrap();
    let bytes = rpc.get_blob(published.versioned_hash, None).await.unwrap().unwrap();
    let mut blob = Box::new(lcai_blob::Blob::try_from(bytes.as_ref()).unwrap());
    lcai_blob::verify(&blob, published.versioned_hash).unwrap();
    blob.0[40] ^= 1;
    let error = lcai_blob::verify(&blob, published.versioned_hash).unwrap_err();
    assert!(error.to_string().contains(&published.versioned_hash.to_string()), "{error}");
}

/// An authorization that was not spent in time costs nothing but another call.
async fn expired_authorization(devnet: &Devnet) {
    let ann = Arc::new(user(devnet, devnet.user(6).unwrap().clone()).await);
    let offer = ann.request_session(DEFAULT_MODEL).await.unwrap();
    let key = SessionKey::random();
    let proof = CallerProof::Token { token: ann.token().await.unwrap() };
    let body = request(&offer, &key);
    let grant = ann.node().rpc().authorize_session(body.clone(), proof).await.unwrap();

    // Each block is at least a second younger than its parent: the chain's time passes the expiry.
    devnet.chain().pause_mining();
    devnet.chain().mine(125).await.unwrap();
    wait_for_node(devnet).await;
    let nonce = ann.node().chain().nonce(ann.account(), true).await.unwrap();
    let error = ann.create_session(&offer, &body, &grant, key.clone()).await.unwrap_err();
    let ClientError::Transaction { reason, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("SignatureExpired"), "{reason}");
    assert_eq!(ann.node().chain().nonce(ann.account(), true).await.unwrap(), nonce, "nothing was sent");

    // The chain's time is ahead of the clock now, so that heartbeats look old until the clock has come after it.
    let offer = loop {
        match ann.request_session(DEFAULT_MODEL).await {
            Ok(offer) => break offer,
            Err(error) => assert!(error.to_string().contains("no worker"), "{error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let opening = tokio::spawn({
        let ann = ann.clone();
        async move { ann.open_session(&offer, key).await }
    });
    while !opening.is_finished() {
        devnet.chain().mine(1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    opening.await.unwrap().expect("a new authorization works at once");
}

async fn wait_for_node(devnet: &Devnet) {
    let head = devnet.chain().heads().head.number;
    for _ in 0..300 {
        let at = devnet.node().dispatch().read_at(|_, at| at.map(|b| b.number));
        if at == Some(head) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the node did not follow");
}
