//! Nobody but the two ends can read a prompt or an answer: not the chain, not the node's operator, not a log.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy_primitives::B256;
use lcai::devnet::{Devnet, DevnetConfig};
use lcai_client::{Connection, Event, User};
use lcai_tests::{
    devnet, fee,
    leaks::{Logs, find, forms},
    open_session, proxy, run,
};
use serde_json::json;
use tracing_subscriber::EnvFilter;

/// Long and unlike anything else, so that finding it means that it leaked.
const PROMPT: &str = "zebra-quartz-7731: what is the capital of France?";

#[test]
fn nothing_on_the_way_holds_prompt_answer_or_key() {
    let logs = Logs::default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace,ethrex=info,hyper=info,h2=info"))
        .with_writer(logs.clone())
        .with_ansi(false)
        .init();
    run(async {
        let listen = proxy::free_port().await;
        let (address, recording) = proxy::record(listen).await;
        let url = format!("ws://{address}");
        let config = DevnetConfig { listen, worker_url: Some(url.clone()), ..DevnetConfig::default() };
        let devnet = devnet(config).await;
        let user = User::new(Connection::open(&url, None).await.unwrap(), devnet.user(0).unwrap().clone());
        let session = open_session(&user).await;
        let fee = fee(&user).await;
        let answer = user.ask(&session, PROMPT.as_bytes(), None, fee, &mut |_: Event| {}).await.unwrap();
        assert!(!answer.text.is_empty());

        let chain = chain_dump(&devnet).await;
        let wire = recording.bytes();
        let logged = logs.bytes();
        // The recordings hold what they should, or finding nothing in them would mean nothing.
        assert!(find(&chain, answer.receipt.job.prompt_blob_hash.as_slice()));
        assert!(find(&wire, b"lcai_submitFrames") && find(&wire, b"eth_sendRawTransaction"));
        assert!(find(&logged, b"lcai"));

        let prompt = ("prompt", PROMPT.as_bytes().to_vec());
        let text = ("answer", answer.text.clone().into_bytes());
        let key = ("session key", session.key.expose().to_vec());
        for (what, secret) in [prompt, text, key] {
            for (place, bytes) in [("chain", &chain), ("wire", &wire), ("logs", &logged)] {
                for (form, needle) in forms(&secret) {
                    assert!(!find(bytes, &needle), "the {what} is in the {place} as {form}");
                }
            }
        }
        devnet.stop().await;
    });
}

/// Every transaction, log and blob of the chain.
async fn chain_dump(devnet: &Devnet) -> Vec<u8> {
    let mut dump = Vec::new();
    for number in 0..=devnet.chain().heads().head.number {
        let block =
            devnet.chain().rpc("eth_getBlockByNumber", json!([format!("{number:#x}"), true])).await.unwrap();
        for transaction in block["transactions"].as_array().unwrap() {
            let input = transaction["input"].as_str().unwrap();
            dump.extend(hex::decode(input.trim_start_matches("0x")).unwrap());
            for hash in transaction["blobVersionedHashes"].as_array().into_iter().flatten() {
                let hash: B256 = hash.as_str().unwrap().parse().unwrap();
                let blob = devnet.chain().blob(hash).expect("the archive has every blob of a short run");
                dump.extend_from_slice(hash.as_slice());
                dump.extend_from_slice(blob.as_slice());
                // The payload without the zero byte of each field element, where text would be in one piece.
                let blob = Box::new(lcai_blob::Blob::try_from(blob.as_slice()).unwrap());
                dump.extend(lcai_blob::decode(blob.as_slice()).unwrap());
            }
        }
        let hash = block["hash"].as_str().unwrap();
        let logs = devnet.chain().rpc("eth_getLogs", json!([{ "blockHash": hash }])).await.unwrap();
        for log in logs.as_array().unwrap() {
            dump.extend(hex::decode(log["data"].as_str().unwrap().trim_start_matches("0x")).unwrap());
        }
    }
    dump
}
