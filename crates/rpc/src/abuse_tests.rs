//! What callers do who mean harm: every refusal has a documented code, memory stays within a number, others notice nothing.

use crate::{
    BlobService, LcaiApiClient, Rate, RpcSettings, ServerLimits,
    loopback_tests::{Node, Options, code, login},
    testing::{JOB, SESSION, Scene, chunk, text_message, websocket},
};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::ws_client::WsClientBuilder;
use lcai_blob::BlobStore;
use lcai_primitives::quantity::Quantity;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tempfile::tempdir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

/// What all of it together may add to the process, MiB: see [`everything_at_once_stays_within_the_bound`]. Tests beside it
/// are in the same process.
const MEMORY_MIB: u64 = 256;

/// Resident memory of this process, MiB.
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096 / (1 << 20)
}

/// Sends bytes as an HTTP body and gives the answer's status line and body.
async fn post(node: &Node, body: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(node.handle.local_addr()).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// The code of an error in an HTTP answer.
fn code_in(body: &str) -> i64 {
    let start = body.find('{').unwrap_or_default();
    let end = body.rfind('}').map_or(body.len(), |end| end + 1);
    let answer: Value = serde_json::from_str(&body[start..end]).unwrap_or_else(|e| panic!("{e}: {body}"));
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("{body}"))
}

#[tokio::test]
async fn large_and_deep_parameters_are_refused_unread() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let call = |params: String| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"lcai_publishBlob","params":{params}}}"#)
    };
    let large = call(format!(r#"["t","0x{}"]"#, "00".repeat(5 << 20)));
    let (status, _) = post(&node, large.as_bytes()).await;
    assert!(status.contains("413"), "{status}");

    // It closes its connection, and no other.
    let other = node.ws().await;
    let mut sender = websocket(node.handle.local_addr()).await;
    // Before everything is sent.
    let _ = sender.write_all(&text_message(large.as_bytes())).await;
    let closed = timeout(Duration::from_secs(5), sender.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "it is closed");
    assert!(other.health().await.is_ok());

    let unclosed = ["[".repeat(100_000), "{\"a\":".repeat(50_000)];
    for deep in unclosed {
        let (status, body) = post(&node, call(deep).as_bytes()).await;
        assert!(status.contains("200"), "{status}");
        assert_eq!(code_in(&body), -32700, "{body}");
    }
    // Deep, but whole: a parameter of the wrong type, found without going down.
    for depth in [100, 10_000] {
        let nested = call(format!("[{}1{}]", "[".repeat(depth), "]".repeat(depth)));
        assert_eq!(code_in(&post(&node, nested.as_bytes()).await.1), -32602);
    }
    for (body, expected) in [
        (&b"\xff\xfe"[..], -32700),
        (b"", -32700),
        (br#"{"jsonrpc":"2.0","id":1,"method":"lcai_nothing","params":[]}"#, -32601),
        (br#"{"jsonrpc":"2.0","id":1,"method":"lcai_getJob","params":["0x01"]}"#, -32602),
        (br#"{"jsonrpc":"2.0","id":1,"method":"lcai_getJob","params":[-1]}"#, -32602),
        (br#"{"jsonrpc":"2.0","id":1,"method":"lcai_getJob","params":[1e40]}"#, -32602),
        (br#"{"jsonrpc":"2.0","id":1,"method":"lcai_getBlob","params":["0x00"]}"#, -32602),
        (br#"{"jsonrpc":"2.0","id":1,"method":"lcai_getJob"}"#, -32602),
    ] {
        let (_, answer) = post(&node, body).await;
        assert_eq!(code_in(&answer), expected, "{} {answer}", String::from_utf8_lossy(body));
    }
    let batch = format!("[{}]", vec![call("[]".into()); 51].join(","));
    assert_eq!(code_in(&post(&node, batch.as_bytes()).await.1), -32010, "at most 50 calls in a batch");
    assert!(other.health().await.is_ok());
    node.stop().await;
}

#[tokio::test]
async fn half_open_sockets_are_closed_and_make_room() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let limits = ServerLimits {
        max_connections: 11,
        first_byte: Duration::from_millis(300),
        idle: Duration::from_millis(400),
        request: Duration::from_millis(600),
        ..ServerLimits::default()
    };
    let node = Node::start(&scene, dir.path(), Options { limits, ..Options::default() }).await;
    let other = node.ws().await;
    // Silent, half a header, a header that promises a body, an answered request that keeps the connection, and one that asks
    // for a WebSocket without what it needs.
    let beginnings: [&[u8]; 5] = [
        b"",
        b"POST / HTTP/1.1\r\nHost: a\r\nX-Slow",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
        b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ];
    let mut sockets = Vec::new();
    for beginning in beginnings.iter().chain(&beginnings) {
        let mut socket = TcpStream::connect(node.handle.local_addr()).await.unwrap();
        socket.write_all(beginning).await.unwrap();
        sockets.push(socket);
    }
    let refused = WsClientBuilder::default().build(format!("ws://{}", node.handle.local_addr())).await;
    assert!(refused.is_err(), "all places are taken");
    let mut one_more = TcpStream::connect(node.handle.local_addr()).await.unwrap();
    let mut told = Vec::new();
    one_more.read_to_end(&mut told).await.unwrap();
    assert!(told.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&told));
    for mut socket in sockets {
        let mut rest = Vec::new();
        let closed = timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a half-open socket is closed");
    }
    assert!(other.health().await.is_ok(), "a WebSocket that says nothing for that long stays");
    assert!(node.ws().await.health().await.is_ok(), "the places are free again");
    node.stop().await;
}

/// Four that ask for blobs as fast as they may, of 262 KB an answer, and read none: at the limits that a node has. Without
/// these they would take 2 GB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_take_bounded_memory() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let blob = lcai_blob::encode(&[7; 100_000]).unwrap();
    let hash = lcai_blob::blob_versioned_hash(&blob).unwrap();
    let store = BlobStore::in_memory(1 << 20).unwrap();
    store.insert(hash, &blob, u64::MAX).unwrap();
    let blobs = BlobService::new(Arc::new(store), Vec::new(), None);
    let node = Node::start(&scene, dir.path(), Options { blobs, ..Options::default() }).await;
    let other = node.ws().await;
    assert!(other.get_blob(hash, None).await.unwrap().is_some());
    let before = resident_mib();
    let call = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"lcai_getBlob","params":["{hash}"]}}"#);
    let call = Arc::new(text_message(call.as_bytes()));
    let mut lazy = Vec::new();
    for _ in 0..4 {
        let (mut socket, call) = (websocket(node.handle.local_addr()).await, Arc::clone(&call));
        lazy.push(tokio::spawn(async move {
            let mut sent = 0;
            while timeout(Duration::from_secs(2), socket.write_all(&call)).await.is_ok_and(|r| r.is_ok()) {
                sent += 1;
            }
            (socket, sent)
        }));
    }
    let (until, mut most) = (Instant::now() + Duration::from_secs(6), 0);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(resident_mib().saturating_sub(before));
        assert!(other.get_blob(hash, None).await.unwrap().is_some(), "others are answered");
    }
    let mut asked = 0;
    for task in lazy {
        asked += task.await.unwrap().1;
    }
    println!("{asked} answers asked for and not read, {most} MiB more resident");
    assert!(asked > 1_000, "{asked}: enough to take 262 MB");
    assert!(most < MEMORY_MIB, "{most} MiB");
    node.stop().await;
}

#[tokio::test]
async fn signatures_are_good_for_one_login_of_one_account() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let node = Node::plain(&scene, dir.path()).await;
    let http = node.http();
    let sign = |signer: &PrivateKeySigner, text: &str| {
        signer.sign_message_sync(text.as_bytes()).unwrap().as_bytes().to_vec()
    };
    let (ann, bob) = (&scene.user, PrivateKeySigner::random());
    let (anns, bobs) =
        (http.challenge(ann.address()).await.unwrap(), http.challenge(bob.address()).await.unwrap());
    let (ann_signed, bob_signed) = (sign(ann, &anns.message), sign(&bob, &bobs.message));
    assert_eq!(code(http.login(anns.message.clone(), bob_signed.clone().into()).await), -39003, "swapped");
    assert_eq!(code(http.login(bobs.message.clone(), ann_signed.clone().into()).await), -39003, "swapped");
    // Somebody else's address in a text that one signs oneself: the text is not one this node made.
    let forged = anns.message.replace(&ann.address().to_string(), &bob.address().to_string());
    let forged_signed = sign(&bob, &forged);
    assert_eq!(code(http.login(forged, forged_signed.into()).await), -39003);
    let token = http.login(anns.message.clone(), ann_signed.clone().into()).await.unwrap().token;
    assert_eq!(code(http.login(anns.message, ann_signed.into()).await), -39003, "replayed");

    let bobs_token = http.login(bobs.message, bob_signed.into()).await.unwrap().token;
    assert_eq!(code(http.poll_frames(bobs_token.clone(), SESSION, Quantity(0), Quantity(0)).await), -39003);
    assert_eq!(code(http.submit_frames(bobs_token.clone(), vec![chunk(JOB, 1, 40)]).await), -39009);
    // A token whose account was exchanged for another.
    let mut mixed = bobs_token;
    mixed.replace_range(..40, &token[..40]);
    assert_eq!(code(http.poll_frames(mixed, SESSION, Quantity(0), Quantity(0)).await), -39003);
    assert_eq!(http.poll_frames(token, SESSION, Quantity(0), Quantity(0)).await.unwrap(), []);
    node.stop().await;
}

#[tokio::test]
async fn floods_of_subscriptions_are_refused_with_codes() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let settings = RpcSettings { max_watchers: 100, ..RpcSettings::default() };
    let node = Node::start(&scene, dir.path(), Options { settings, ..Options::default() }).await;
    let (first, second) = (node.ws().await, node.ws().await);
    let mut kept = Vec::new();
    for _ in 0..64 {
        kept.push(first.subscribe_network().await.unwrap());
    }
    assert_eq!(code(first.subscribe_network().await), -32006, "64 on a connection");
    for _ in 0..36 {
        kept.push(second.subscribe_network().await.unwrap());
    }
    assert_eq!(code(second.subscribe_network().await), -39007, "100 on the node");
    drop(kept);
    while second.subscribe_network().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.stop().await;
}

/// Connections, calls, large bodies, deep JSON and a worker's frames all at once, for five seconds: one well-behaved user
/// goes on reading, and the process grows by less than [`MEMORY_MIB`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_stays_within_the_bound() {
    let (scene, dir) = (Scene::new(), tempdir().unwrap());
    let settings = RpcSettings { frames: Rate { per_second: 4.0, burst: 64.0 }, ..RpcSettings::default() };
    let limits = ServerLimits { max_connections: 200, ..ServerLimits::default() };
    let node = Node::start(&scene, dir.path(), Options { settings, limits, ..Options::default() }).await;
    let (ws, flooding) = (node.ws().await, node.ws().await);
    let (user, worker) = (login(&ws, &scene.user).await, login(&ws, &scene.worker).await);
    let before = resident_mib();
    let until = Instant::now() + Duration::from_secs(5);
    let address = node.handle.local_addr();

    let sockets: Vec<_> = (0..300).map(|_| tokio::spawn(async move {
        while Instant::now() < until {
            if let Ok(mut socket) = TcpStream::connect(address).await {
                let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10485760\r\n\r\n";
                let _ = socket.write_all(head).await;
                let _ = socket.write_all(&[b'['; 65_536]).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    })).collect();
    let mut refused = 0;
    let mut seq = 0;
    let flood = async {
        // A busy machine takes its time for the first ones.
        while Instant::now() < until || refused == 0 {
            let frames = (0..32).map(|n| chunk(JOB, seq + n + 1, 30_000)).collect();
            match flooding.submit_frames(worker.clone(), frames).await {
                Ok(_) => seq += 32,
                Err(error) => {
                    assert_eq!(code::<()>(Err(error)), -39007);
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    };
    let mut stream = ws.subscribe_frames(user, SESSION, Quantity(0)).await.unwrap();
    let mut seen = 0;
    let reading = async {
        while Instant::now() < until || seen < node.relay.stats().kept {
            if let Ok(next) = timeout(Duration::from_millis(100), stream.next()).await {
                let envelope = next.expect("the reader is not cut").unwrap();
                assert_eq!(envelope.cursor, seen + 1);
                seen = envelope.cursor;
            }
        }
    };
    tokio::join!(flood, reading);
    let grown = resident_mib().saturating_sub(before);
    println!("{seen} frames read, {refused} floods refused, {grown} MiB more resident");
    assert!(refused > 0 && seen >= 64, "{refused} {seen}");
    assert!(grown < MEMORY_MIB, "{grown} MiB");
    assert!(node.relay.stats().cut_readers == 0);
    for socket in sockets {
        socket.await.unwrap();
    }
    node.stop().await;
}
