//! Every decoder that takes bytes from outside, given what nobody means: seeds (`fuzz/seeds/TARGET/`), mutated.
//!
//! Runs on stable Rust. A target makes the same mutations each time, so that a change is judged by what it
//! changed; with `LCAI_FUZZ_SECONDS` it searches, from another start each time and for so long. What makes a new kind of
//! answer is mutated further. An input that breaks a target is written to its seeds, where it stays as a test.

use crate::{
    Rate, RpcSettings, TokenConfig, TokenIssuer, TokenKey,
    jwt::{self, JwtSecret},
    loopback_tests::{Node, Options, login},
    testing::Scene,
};
use alloy_primitives::B256;
use lcai_crypto::{EncryptionPublicKey, EncryptionSecret, SessionKey};
use lcai_primitives::{
    frames::{Envelope, Frame},
    ids::ModelId,
    login::LoginMessage,
    prompt,
    quantity::Quantity,
    revert::decode_revert,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Inputs kept for further mutation.
const POOL: usize = 4_096;
/// Largest input.
const MAX_LEN: usize = 1 << 18;

/// Mutations of a target where nothing else is asked for.
const RUNS: u64 = 20_000;

/// How long a target is tried.
enum Effort {
    Runs(u64),
    Until(Instant),
}

impl Effort {
    fn asked_for() -> Self {
        let seconds = std::env::var("LCAI_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        seconds.map_or(Self::Runs(RUNS), |s| Self::Until(Instant::now() + Duration::from_secs(s)))
    }

    fn goes_on(&self, runs: u64) -> bool {
        match self {
            Self::Runs(most) => runs < *most,
            Self::Until(end) => Instant::now() < *end,
        }
    }

    /// Where the random numbers start.
    fn start(&self) -> u64 {
        match self {
            Self::Runs(_) => 7,
            Self::Until(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        }
    }
}

fn seeds(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

/// Runs a target. It gives the kind of its answer, and panics where something is wrong.
fn fuzz(target: &str, check: impl Fn(&[u8]) -> String) {
    let dir = seeds(target);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut pool: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!pool.is_empty(), "{} holds no seeds", dir.display());
    let mut kinds: HashSet<String> = pool.iter().map(|seed| check(seed)).collect();
    let effort = Effort::asked_for();
    let start = effort.start();
    let mut random = StdRng::seed_from_u64(start);
    let mut runs = 0u64;
    while effort.goes_on(runs) {
        let input = mutated(&pool, &mut random);
        runs += 1;
        match catch_unwind(AssertUnwindSafe(|| check(&input))) {
            Ok(kind) if pool.len() < POOL && kinds.insert(kind.clone()) => pool.push(input),
            Ok(_) => {}
            Err(_) => {
                let path = dir.join(format!("broke-{start:x}-{runs}"));
                fs::write(&path, &input).unwrap();
                panic!("{target} broke on an input, kept as {}", path.display());
            }
        }
    }
    println!("{target}: {runs} runs, {} kinds of answer", kinds.len());
}

/// A seed after one to eight changes.
fn mutated(pool: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    const PIECES: [&[u8]; 16] = [
        b"0x",
        b"0x0",
        b"null",
        b"-1",
        b"1e999",
        b"\"",
        b"{",
        b"[",
        b"\\u0000",
        b"\xff\xff\xff\xff",
        b"\0",
        b"\n",
        b"18446744073709551616",
        b"true",
        b"\xe2\x82",
        b",\"jobId\":1",
    ];
    let mut input = pool.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.gen_range(1..=8) {
        let at = random.gen_range(0..=input.len());
        match random.gen_range(0..7) {
            0 if at < input.len() => input[at] = random.r#gen(),
            1 if at < input.len() => input[at] ^= 1 << random.gen_range(0..8),
            2 => input.truncate(at),
            3 => {
                let end = (at + random.gen_range(1..=16)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let piece = PIECES.choose(random).copied().unwrap_or_default();
                input.splice(at..at, piece.iter().copied());
            }
            5 => {
                let end = (at + random.gen_range(1..=64)).min(input.len());
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                let other = pool.choose(random).map(Vec::as_slice).unwrap_or_default();
                let from = random.gen_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(MAX_LEN);
    input
}

/// An error's text without what is particular to the input.
fn kind<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => {
            let text = error.to_string();
            let own = text.split(['`', '"']).next().unwrap_or_default();
            own.chars().filter(|c| c.is_ascii_alphabetic()).take(80).collect()
        }
    }
}

#[test]
fn frames() {
    fuzz("frame", |input| {
        let frame = Frame::from_json(input);
        if let Ok(frame) = &frame {
            assert_eq!(
                Frame::from_json(&frame.to_json()).as_ref(),
                Ok(frame),
                "what is read is written the same"
            );
            let envelope = Envelope { cursor: 7, frame: frame.clone() };
            let json = serde_json::to_vec(&envelope).unwrap();
            assert_eq!(serde_json::from_slice::<Envelope>(&json).unwrap(), envelope);
        }
        kind(frame)
    });
}

#[test]
fn logins_and_tokens() {
    const NOW: u64 = 1_700_000_000;
    let issuer = TokenIssuer::new(TokenKey::new([1; 32]), 8200, TokenConfig::default());
    let secret = JwtSecret::new(jwt::tests::SECRET);
    fuzz("login", |input| {
        let text = String::from_utf8_lossy(input);
        let message = text.parse::<LoginMessage>();
        if let Ok(message) = &message {
            assert_eq!(message.to_string(), text, "one text per message");
        }
        assert!(issuer.login(&text, &[1; 65], NOW).is_err(), "nobody signed it");
        assert!(issuer.verify(&text, NOW).is_err(), "nobody issued it");
        assert!(!secret.accepts(&text, NOW));
        kind(message)
    });
}

#[test]
fn identifiers_and_quantities() {
    fuzz("quantity", |input| {
        let text = String::from_utf8_lossy(input);
        let quantity = serde_json::from_slice::<Quantity>(input);
        if let Ok(quantity) = quantity {
            assert_eq!(serde_json::from_str::<Quantity>(&format!("\"{quantity}\"")).unwrap(), quantity);
        }
        format!("{} {}", kind(quantity), kind(text.parse::<ModelId>()))
    });
}

#[test]
fn prompts_and_answers() {
    fuzz("prompt", |input| {
        let search = kind(prompt::decode_search_envelope(input));
        let _ = prompt::decode_response(input);
        format!("{search} {}", kind(prompt::decode_prompt(input)))
    });
}

#[test]
fn blobs() {
    fuzz("blob", |input| {
        let payload = lcai_blob::decode(input);
        if let Ok(payload) = &payload {
            let again = lcai_blob::encode(payload).unwrap();
            assert_eq!(&lcai_blob::decode(again.as_slice()).unwrap(), payload);
        }
        kind(payload)
    });
}

#[test]
fn keys_seals_and_signatures() {
    let (key, secret) = (SessionKey::from_slice(&[3; 32]).unwrap(), EncryptionSecret::random());
    fuzz("crypto", |input| {
        assert!(lcai_crypto::open(&key, input).is_err(), "nobody sealed it");
        assert!(lcai_crypto::unwrap(input, &secret).is_err(), "nobody wrapped it");
        let public = EncryptionPublicKey::from_sec1(input);
        if let Ok(public) = &public {
            assert_eq!(public.to_sec1().as_slice(), input, "one spelling per key");
        }
        let signature = kind(lcai_crypto::recover_typed(B256::repeat_byte(1), input));
        let _ = lcai_crypto::recover_eip191(input, input);
        format!("{} {signature} {}", kind(public), decode_revert(input).is_some())
    });
}

/// The whole door: text to the module as a connection would give it. Every answer is JSON-RPC, every code documented.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests() {
    const CODES: [i64; 22] = [
        -32700, -32600, -32601, -32602, -32603, -32005, -32006, -39001, -39002, -39003, -39004, -39005,
        -39006, -39007, -39008, -39009, -39010, -39011, -39012, -39013, -39014, -39015,
    ];
    let (scene, dir) = (Scene::new(), tempfile::tempdir().unwrap());
    // With the usual rate nearly every input would be refused for it.
    let unlimited = Rate { per_second: 1e9, burst: 1e9 };
    let settings = RpcSettings { calls: unlimited, frames: unlimited, ..RpcSettings::default() };
    let node = Node::start(&scene, dir.path(), Options { settings, ..Options::default() }).await;
    let token = login(&node.http(), &scene.user).await;
    let module = node.module.clone();
    let runtime = tokio::runtime::Handle::current();
    let fuzzing = tokio::task::spawn_blocking(move || {
        fuzz("request", |input| {
            let text = String::from_utf8_lossy(input).replace("TOKEN", &token);
            // Waiting for frames is what polling is for.
            let text = text.replace("timeout", "");
            let answered =
                tokio::time::timeout(Duration::from_millis(250), module.raw_json_request(&text, 1));
            let answer = match runtime.block_on(answered) {
                Ok(Ok((answer, _))) => answer,
                Ok(Err(_)) => return "not JSON-RPC".into(),
                Err(_) => return "waits".into(),
            };
            let answer: serde_json::Value = serde_json::from_str(answer.get()).unwrap();
            let code = answer["error"]["code"].as_i64();
            assert!(code.is_none_or(|code| CODES.contains(&code)), "{answer}");
            assert!(code.is_some() || answer.get("result").is_some(), "{answer}");
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            format!("{code:?} {}", kind(Err::<(), _>(message)))
        });
    });
    fuzzing.await.unwrap();
    node.stop().await;
}
