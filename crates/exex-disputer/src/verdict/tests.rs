use super::{rungs::words, *};
use crate::testing::{LetterEmbedder, Script};
use alloy_primitives::{Address, B256};
use lcai_crypto::{SessionKey, answer_tag};
use lcai_inference::{Embedder, InferenceError};
use lcai_primitives::ids::{JobId, SessionId, Subject};
use proptest::prelude::*;
use std::{future::Future, sync::Arc};

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn pair<'a>(claimed: &'a str, repeated: &'a str) -> Pair<'a> {
    Pair { model: "m", claimed, repeated }
}

fn score(bps: usize) -> Score {
    Score::ratio(bps, 10_000)
}

fn ladder(embedder: bool) -> Ladder {
    Ladder::new(Arc::new(Script::default()), embedder.then(|| Arc::new(LetterEmbedder) as Arc<dyn Embedder>))
}

fn judge(embedder: bool, claimed: &str, repeated: &str, threshold: usize) -> Judgement {
    wait(ladder(embedder).judge(pair(claimed, repeated), score(threshold))).unwrap()
}

#[test]
fn equal_bytes_need_nothing_else() {
    let judgement = judge(true, "Paris.", "Paris.", 10_000);
    assert!(!judgement.guilty);
    assert_eq!((judgement.score, judgement.decided_by), (Score::FULL, RungKind::Bytes));
    assert_eq!(judgement.findings, [Finding::Bytes { score: Score::FULL, claimed: 6, repeated: 6 }]);
}

#[test]
fn the_prefix_says_where_the_answers_part() {
    let judgement = judge(false, "The capital is Lyon.", "The capital is Paris.", 8_500);
    assert!(judgement.guilty);
    let prefix = Finding::TokenPrefix {
        score: score(7_500),
        claimed: 8,
        repeated: 8,
        first_divergence: 6,
        model_tokens: false,
    };
    assert_eq!(judgement.findings[1], prefix);
    assert_eq!(judgement.decided_by, RungKind::TokenPrefix);
    // The same answers pass where the threshold asks for less.
    assert!(!judge(false, "The capital is Lyon.", "The capital is Paris.", 7_500).guilty);
}

#[test]
fn a_truncated_answer_scores_by_what_is_missing() {
    let whole = "one two three four five six seven eight nine ten";
    let judgement = judge(false, "one two three", whole, 8_500);
    assert!(judgement.guilty);
    assert_eq!(judgement.findings[1].score(), Score::ratio(5, 19));
    // Whoever says the right thing and then more is not right either.
    assert_eq!(judge(false, whole, "one two three", 8_500).score, judgement.score);
}

#[test]
fn the_embedder_is_asked_last_and_can_acquit() {
    let judgement = judge(true, "listen", "silent", 9_000);
    assert!(!judgement.guilty, "the same letters, which is all this embedder sees");
    let kinds: Vec<_> = judgement.findings.iter().map(Finding::kind).collect();
    assert_eq!(kinds, [RungKind::Bytes, RungKind::TokenPrefix, RungKind::Similarity]);
    assert!(judge(true, "zzzz", "silent", 9_000).guilty);
}

#[test]
fn an_empty_answer_is_no_answer() {
    assert!(judge(true, "", "Paris.", 1).guilty);
    assert!(judge(true, " ", "Paris.", 1).guilty);
    assert!(!judge(true, "", "", 10_000).guilty);
}

#[test]
fn without_the_embedder_nothing_is_said() {
    struct Broken;
    #[async_trait::async_trait]
    impl Embedder for Broken {
        async fn description(&self) -> Result<lcai_inference::EmbedderDescription, InferenceError> {
            Err(InferenceError::OutOfMemory)
        }
        async fn embed(&self, _: Vec<zeroize::Zeroizing<String>>) -> Result<Vec<Vec<f32>>, InferenceError> {
            Err(InferenceError::OutOfMemory)
        }
    }
    let ladder = Ladder::new(Arc::new(Script::default()), Some(Arc::new(Broken)));
    assert!(wait(ladder.judge(pair("a", "b"), score(1))).is_err(), "a verdict is not guessed");
    assert!(!wait(ladder.judge(pair("a", "a"), score(1))).unwrap().guilty, "it is not needed here");
}

#[test]
fn scores_stay_within_bounds() {
    assert_eq!(Score::ratio(0, 0), Score::ZERO);
    assert_eq!(Score::ratio(9, 3), Score::FULL);
    assert_eq!(Score::ratio(1, 3).bps(), 3_333);
    assert_eq!(Score::ratio(usize::MAX - 1, usize::MAX).bps(), 9_999);
    assert_eq!(Score::from_cosine(f64::NAN), Score::ZERO);
    assert_eq!(Score::from_cosine(-0.4), Score::ZERO);
    assert_eq!(Score::from_cosine(1.0), Score::FULL);
    assert_eq!(Score::from_cosine(0.899_99).bps(), 8_999, "rounded down: never over a threshold by rounding");
}

fn evidence() -> Evidence {
    let key = SessionKey::from_slice(&[7; 32]).unwrap();
    let judgement = judge(true, "Lyon", "Paris", 8_500);
    Evidence {
        version: EVIDENCE_VERSION,
        subject: Subject {
            chain_id: 8200,
            contract: Address::repeat_byte(1),
            job_id: JobId(5),
            session_id: SessionId(3),
            prompt_blob_hash: B256::repeat_byte(2),
            submit_tx_hash: B256::repeat_byte(3),
        },
        response_blob_hash: B256::repeat_byte(4),
        response_ciphertext_hash: B256::repeat_byte(5),
        guilty: judgement.guilty,
        score: judgement.score,
        ground: Ground::Compared(Box::new(Comparison {
            claimed_tag: answer_tag(&key, JobId(5), "Lyon"),
            repeated_tag: answer_tag(&key, JobId(5), "Paris"),
            history: 0,
            histories: 1,
            judgement,
            manifest: manifest(),
        })),
    }
}

fn manifest() -> Manifest {
    Manifest {
        model: "m".into(),
        model_digest: "00".repeat(32),
        engine: "script".into(),
        isa: "x86_64".into(),
        program: "0.1.0".into(),
        max_tokens: 64,
        temperature_milli: 0,
        seed: 42,
        embedder: None,
    }
}

#[test]
fn evidence_comes_back_and_names_the_answers_to_key_holders_only() {
    let evidence = evidence();
    let bytes = evidence.encode();
    assert_eq!(Evidence::decode(&bytes).unwrap(), evidence);
    let text = String::from_utf8(bytes).unwrap();
    assert!(!text.contains("Lyon") && !text.contains("Paris"), "{text}");
    let Ground::Compared(comparison) = evidence.ground else { panic!("another ground") };
    let (key, other) = (SessionKey::from_slice(&[7; 32]).unwrap(), SessionKey::from_slice(&[8; 32]).unwrap());
    assert!(comparison.is_about(&key, JobId(5), "Lyon", "Paris"));
    assert!(!comparison.is_about(&key, JobId(6), "Lyon", "Paris"));
    assert!(!comparison.is_about(&key, JobId(5), "Paris", "Lyon"));
    assert!(!comparison.is_about(&other, JobId(5), "Lyon", "Paris"));
    let others = [
        Ground::ResponseNotAsCommitted,
        Ground::ResponseNeverPublished,
        Ground::AnswerNotUnderKey,
        Ground::PromptNotAsEscrowed,
    ];
    for ground in others {
        let evidence = Evidence { ground, ..self::evidence() };
        assert_eq!(Evidence::decode(&evidence.encode()).unwrap(), evidence);
    }
}

#[test]
fn other_bytes_are_no_evidence() {
    assert!(matches!(Evidence::decode(b"{}"), Err(EvidenceError::Malformed(_))));
    assert!(matches!(Evidence::decode(br#"{"version":3}"#), Err(EvidenceError::Version(3))));
    assert!(matches!(Evidence::decode(br#"{"version":0}"#), Err(EvidenceError::Version(0))));
    assert!(matches!(Evidence::decode(br#"{"version":2}"#), Err(EvidenceError::Malformed(_))));
}

/// The first version had no other form, only fewer grounds.
#[test]
fn evidence_of_the_first_version_is_still_read() {
    let first = Evidence { version: 1, ..evidence() };
    assert_eq!(Evidence::decode(&first.encode()).unwrap(), first);
}

#[test]
fn every_member_of_a_manifest_counts() {
    let manifest = manifest();
    let others = [
        Manifest { model: "n".into(), ..manifest.clone() },
        Manifest { model_digest: "11".repeat(32), ..manifest.clone() },
        Manifest { engine: "other".into(), ..manifest.clone() },
        Manifest { isa: "aarch64".into(), ..manifest.clone() },
        Manifest { program: "0.1.1".into(), ..manifest.clone() },
        Manifest { max_tokens: 65, ..manifest.clone() },
        Manifest { temperature_milli: 1, ..manifest.clone() },
        Manifest { seed: 43, ..manifest.clone() },
    ];
    for other in others {
        assert_ne!(other.hash(), manifest.hash(), "{other:?}");
    }
}

proptest! {
    #[test]
    fn words_put_together_are_the_text(text in ".{0,60}") {
        prop_assert_eq!(words(&text).concat(), text);
    }

    /// Guilty is exactly who reaches the threshold nowhere, and more is never asked of who got further.
    #[test]
    fn the_threshold_decides(
        common in "[ab ]{0,12}", claimed in "[ab .]{0,8}", repeated in "[ab .]{0,8}",
        embedder: bool, low in 0usize..=10_000, high in 0usize..=10_000,
    ) {
        let (claimed, repeated) = (format!("{common}{claimed}"), format!("{common}{repeated}"));
        let (low, high) = (low.min(high), low.max(high));
        let lenient = judge(embedder, &claimed, &repeated, low);
        let strict = judge(embedder, &claimed, &repeated, high);
        for judgement in [&lenient, &strict] {
            prop_assert_eq!(judgement.guilty, judgement.score < judgement.threshold);
            let best = judgement.findings.iter().map(Finding::score).max().unwrap();
            prop_assert_eq!(judgement.score, best);
        }
        prop_assert!(!lenient.guilty || strict.guilty, "a higher threshold acquits nobody");
        prop_assert_eq!(strict, judge(embedder, &claimed, &repeated, high));
        // The better score of several comparisons never depends on who is first, either.
        prop_assert_eq!(lenient.guilty, judge(embedder, &repeated, &claimed, low).guilty);
    }

    #[test]
    fn the_first_divergence_is_where_it_says(a in "[ab ]{0,20}", b in "[ab ]{0,20}") {
        let found = wait(TokenPrefix::new(Arc::new(Script::default())).compare(pair(&a, &b))).unwrap();
        let Finding::TokenPrefix { first_divergence, claimed, repeated, score, .. } = found else {
            panic!("another finding")
        };
        let (a, b) = (words(&a), words(&b));
        let at = usize::try_from(first_divergence).unwrap();
        prop_assert_eq!((claimed, repeated), (a.len() as u64, b.len() as u64));
        prop_assert_eq!(&a[..at], &b[..at]);
        prop_assert!(a.get(at) != b.get(at) || (a.len() == at && b.len() == at));
        prop_assert_eq!(score == Score::FULL, a == b && !a.is_empty());
    }
}

/// Evidence comes out of a public blob, which anybody may have filled. `LCAI_BLESS=1` writes the seed anew.
#[test]
fn evidence_that_nobody_gave() {
    let seed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/evidence/compared");
    if std::env::var_os("LCAI_BLESS").is_some() {
        std::fs::create_dir_all(seed.parent().unwrap()).unwrap();
        std::fs::write(&seed, evidence().encode()).unwrap();
    }
    assert!(Evidence::decode(&std::fs::read(&seed).unwrap()).unwrap() == evidence(), "the seed is stale");
    lcai_fuzz::fuzz(env!("CARGO_MANIFEST_DIR"), "evidence", |input| {
        let evidence = Evidence::decode(input);
        if let Ok(evidence) = &evidence {
            assert_eq!(
                &Evidence::decode(&evidence.encode()).unwrap(),
                evidence,
                "what is read is written the same"
            );
        }
        lcai_fuzz::kind(evidence)
    });
}
