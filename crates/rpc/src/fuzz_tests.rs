//! Every decoder of this crate's that takes bytes from outside, given what nobody means: see [`lcai_fuzz`].

use crate::{
    Rate, RpcSettings, TokenConfig, TokenIssuer, TokenKey,
    jwt::{self, JwtSecret},
    loopback_tests::{Node, Options, login},
    testing::Scene,
};
use alloy_primitives::B256;
use lcai_crypto::{EncryptionPublicKey, EncryptionSecret, SessionKey};
use lcai_fuzz::kind;
use lcai_primitives::{
    frames::{Envelope, Frame},
    ids::ModelId,
    login::LoginMessage,
    prompt,
    quantity::Quantity,
    revert::decode_revert,
};
use std::time::Duration;

fn fuzz(target: &str, check: impl Fn(&[u8]) -> String) {
    lcai_fuzz::fuzz(env!("CARGO_MANIFEST_DIR"), target, check);
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
            let envelope = Envelope { cursor: 7, missed: u64::from(frame.seq), frame: frame.clone() };
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
