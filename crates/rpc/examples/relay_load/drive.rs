//! The generator: a worker that streams into every session at a steady pace, and readers that note when frames come.

use crate::scripted::{CHAIN_ID, JOB_BITS, JOB_REGISTRY, user, worker};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use futures::{SinkExt, StreamExt};
use lcai_primitives::{
    frames::{Frame, FrameKind},
    ids::{JobId, SessionId},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// Bytes of a chunk: nonce, a quarter second of text, tag.
const PAYLOAD: usize = 200;
/// Chunks of a job; then comes its signed answer.
const CHUNKS: u32 = 49;
/// Widths of the delay's buckets, microseconds.
const BUCKET: u64 = 100;

/// What the relay has to carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    readers: usize,
    sessions: u64,
    frames_per_second: u64,
    seconds: u64,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fan_out = self.frames_per_second * self.readers as u64 / self.sessions;
        write!(
            f,
            "{} readers on {} sessions, {} frames/s in ({fan_out} frames/s out), {} s",
            self.readers, self.sessions, self.frames_per_second, self.seconds
        )
    }
}

impl Load {
    pub(crate) fn parse(words: &[&str]) -> Self {
        let at = |index: usize, or: u64| words.get(index).map_or(or, |word| word.parse().expect("a number"));
        Self {
            readers: at(0, 10_000) as usize,
            sessions: at(1, 100),
            frames_per_second: at(2, 200),
            seconds: at(3, 20),
        }
    }
}

/// What was seen.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) delivered_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    /// Frames that a reader did not get within ten seconds of the end.
    pub(crate) lost: u64,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Delays in buckets, shared by all readers.
struct Delays {
    buckets: Vec<AtomicU64>,
    seen: AtomicU64,
}

impl Delays {
    fn note(&self, micros: u64) {
        let last = self.buckets.len() - 1;
        self.buckets[usize::try_from(micros / BUCKET).unwrap_or(last).min(last)]
            .fetch_add(1, Ordering::Relaxed);
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn at(&self, share: f64) -> f64 {
        let wanted = (self.seen.load(Ordering::Relaxed) as f64 * share).ceil() as u64;
        let mut sum = 0;
        let bucket = self.buckets.iter().position(|bucket| {
            sum += bucket.load(Ordering::Relaxed);
            sum >= wanted
        });
        bucket.unwrap_or_default() as f64 * BUCKET as f64 / 1e3
    }
}

fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

async fn connect(url: &str) -> Socket {
    loop {
        match connect_async(url).await {
            Ok((socket, _)) => return socket,
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn call(socket: &mut Socket, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    socket.send(Message::text(request.to_string())).await.unwrap();
    loop {
        let Message::Text(text) = socket.next().await.expect("the relay is there").unwrap() else { continue };
        let answer: Value = serde_json::from_str(&text).unwrap();
        if answer.get("id").is_some() {
            assert!(answer.get("error").is_none_or(Value::is_null), "{method}: {answer}");
            return answer["result"].clone();
        }
    }
}

async fn login(socket: &mut Socket, signer: &PrivateKeySigner) -> String {
    let challenge = call(socket, "lcai_challenge", json!([signer.address()])).await;
    let message = challenge["message"].as_str().unwrap();
    let signature = alloy_primitives::hex::encode_prefixed(
        signer.sign_message_sync(message.as_bytes()).unwrap().as_bytes(),
    );
    let login = call(socket, "lcai_login", json!([message, signature])).await;
    login["token"].as_str().unwrap().to_owned()
}

pub(crate) async fn run(url: &str, load: Load) -> Figures {
    let mut socket = connect(url).await;
    let (reads, writes) = (login(&mut socket, &user()).await, login(&mut socket, &worker()).await);
    let delays = Arc::new(Delays {
        buckets: (0..200_000).map(|_| AtomicU64::new(0)).collect(),
        seen: AtomicU64::new(0),
    });
    let ready = Arc::new(AtomicUsize::new(0));
    for reader in 0..load.readers {
        let (url, token) = (url.to_owned(), reads.clone());
        let session = reader as u64 % load.sessions;
        tokio::spawn(read(url, token, session, Arc::clone(&delays), Arc::clone(&ready)));
        // The backlog of a listening socket is short.
        while reader > ready.load(Ordering::Relaxed) + 64 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    while ready.load(Ordering::Relaxed) < load.readers {
        sleep(Duration::from_millis(10)).await;
    }
    let began = Instant::now();
    let sent = write(&mut socket, &writes, load).await;
    let readers_of = |session: u64| (load.readers as u64 + load.sessions - 1 - session) / load.sessions;
    let expected: u64 = (0..).zip(&sent).map(|(session, frames)| frames * readers_of(session)).sum();
    let end = Instant::now() + Duration::from_secs(10);
    while delays.seen.load(Ordering::Relaxed) < expected && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
    }
    let seen = delays.seen.load(Ordering::Relaxed);
    Figures {
        delivered_per_second: seen as f64 / began.elapsed().as_secs_f64(),
        p50_ms: delays.at(0.5),
        p99_ms: delays.at(0.99),
        p999_ms: delays.at(0.999),
        lost: expected.saturating_sub(seen),
    }
}

/// Subscribes to one session and notes each frame's delay. The frame carries when it was made.
async fn read(url: String, token: String, session: u64, delays: Arc<Delays>, ready: Arc<AtomicUsize>) {
    let mut socket = connect(&url).await;
    call(&mut socket, "lcai_subscribeFrames", json!([token, format!("{session:#x}"), "0x0"])).await;
    ready.fetch_add(1, Ordering::Relaxed);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let made = text
            .split_once(r#""correlationId":""#)
            .and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
        if let Some(made) = made {
            delays.note(micros().saturating_sub(made));
        }
    }
}

/// Gives what is due twenty times a second, round and round the sessions. Gives how many each session got.
async fn write(socket: &mut Socket, token: &str, load: Load) -> Vec<u64> {
    let signer = worker();
    let mut pace = interval(Duration::from_millis(50));
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut sent = vec![0u64; load.sessions as usize];
    let (began, lasts) = (Instant::now(), Duration::from_secs(load.seconds));
    let mut next = 0u64;
    while began.elapsed() < lasts {
        pace.tick().await;
        let due = (began.elapsed().as_secs_f64() * load.frames_per_second as f64) as u64;
        while next < due {
            let frames: Vec<Frame> = (next..due.min(next + 256))
                .map(|n| {
                    let session = n % load.sessions;
                    sent[session as usize] += 1;
                    frame(&signer, session, sent[session as usize] - 1)
                })
                .collect();
            next += frames.len() as u64;
            call(socket, "lcai_submitFrames", json!([token, frames])).await;
        }
    }
    sent
}

/// The session's n-th frame: chunks of one job, its signed answer, the next job.
fn frame(signer: &PrivateKeySigner, session: u64, n: u64) -> Frame {
    let (job, place) = (n / u64::from(CHUNKS + 1), (n % u64::from(CHUNKS + 1)) as u32);
    let (job, session) = (JobId((session << JOB_BITS) | job), SessionId(session));
    let payload = vec![n as u8; PAYLOAD];
    let frame = if place < CHUNKS {
        Frame::chunk(job, session, place + 1, FrameKind::Text, payload, None, 1)
    } else {
        let signature =
            lcai_crypto::sign_response(signer, CHAIN_ID, JOB_REGISTRY, job, session, &payload).unwrap();
        Frame::complete(job, session, CHUNKS, payload, signature, 1)
    };
    Frame { correlation_id: micros().to_string(), ..frame }
}
