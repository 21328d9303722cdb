//! Everything goes wrong around opened keys: nothing that is written then holds a key, a prompt or an answer.

use super::*;
use alloy_primitives::hex;
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use lcai_host::{Journal, RestartPolicy, Supervisor, TaskError};
use lcai_inference::{Backend, Delta, GenerateRequest, Generation, InferenceError, ModelDescription};
use std::{backtrace::Backtrace, io::Write, panic};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Unlike anything else, so that finding it means that it leaked.
const CLAIMED: &str = "quartz-zebra-5519 is what the worker says";
const REPEATED: &str = "zircon-okapi-2203 is what the model says";

/// A model that breaks while the job is open.
#[derive(Debug, Clone, Copy)]
enum Broken {
    Panics,
    Fails,
}

#[async_trait]
impl Backend for Broken {
    async fn models(&self) -> Result<Vec<ModelDescription>, InferenceError> {
        Script::default().models().await
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        _: mpsc::Sender<Delta>,
    ) -> Result<Generation, InferenceError> {
        match self {
            Self::Panics => panic!("the model's process is gone, asked for {request:?}"),
            Self::Fails => Err(InferenceError::OutOfMemory),
        }
    }
}

/// Everything that is written, by whomever.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn add(&self, text: &str) {
        self.0.lock().extend_from_slice(text.as_bytes());
    }

    /// The forms of a secret that are in what was written.
    fn holds(&self, secret: &[u8]) -> Vec<String> {
        let written = self.0.lock();
        let among = |needle: &[u8]| written.windows(needle.len()).any(|window| window == needle);
        forms(secret).into_iter().filter(|(_, form)| among(form)).map(|(name, _)| name).collect()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A secret as it could be written: raw, as hex, as a list of numbers, as base64 at each of the three alignments.
fn forms(secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = vec![
        ("raw".to_owned(), secret.to_vec()),
        ("hex".to_owned(), hex::encode(secret).into_bytes()),
        ("upper hex".to_owned(), hex::encode_upper(secret).into_bytes()),
        ("numbers".to_owned(), format!("{secret:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
    ];
    for shift in 0..3usize {
        let encoded = STANDARD.encode([vec![0; shift], secret.to_vec()].concat());
        // What the neighbours decide is left out at both ends.
        let (from, to) = ((shift * 8).div_ceil(6), (shift + secret.len()) * 8 / 6);
        forms.push((format!("base64 shifted by {shift}"), encoded.as_bytes()[from..to].to_vec()));
    }
    forms
}

#[test]
fn a_leak_would_be_found() {
    let secret = [0xa7u8; 8].into_iter().chain(0..24).collect::<Vec<u8>>();
    for prefix in ["", "x", "xy"] {
        let written = Written::default();
        written.add(&STANDARD.encode([prefix.as_bytes(), &secret, b"more"].concat()));
        assert_eq!(written.holds(&secret).len(), 1, "base64 after {} bytes", prefix.len());
    }
    let written = Written::default();
    written.add(&format!("{:?} {} {}", secret, hex::encode(&secret), hex::encode_upper(&secret)));
    assert_eq!(written.holds(&secret), ["hex", "upper hex", "numbers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_written_when_everything_fails_holds_a_secret() {
    let written = Written::default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace"))
        .with_writer(written.clone())
        .with_ansi(false)
        .init();
    let (log, before) = (written.clone(), panic::take_hook());
    panic::set_hook(Box::new(move |info| {
        log.add(&format!("{info}\n{info:?}\n{}\n", Backtrace::force_capture()));
        before(info);
    }));

    // The model panics in the middle of a job, under the supervisor that restarts tasks.
    let court = Court::new(CLAIMED);
    panics(&court).await;
    // The model fails; then the job is judged after all, and ruled on.
    let disk = tempfile::tempdir().unwrap();
    let journal = Journal::open(disk.path().join("journal.redb"), identity()).unwrap();
    let failing = court.node_of(&journal, Arc::new(Broken::Fails), 2);
    let outcome = court.run(&failing, action::JUDGE).await;
    assert!(matches!(outcome, EffectOutcome::Retry { .. }), "{outcome:?}");
    let node = court.node(&journal, says(REPEATED));
    let evidence = court.judge(&node).await;
    let ruled = court.run(&node, action::RESOLVE).await;
    assert!(matches!(ruled, EffectOutcome::Done(_)), "{ruled:?}");
    let (key, escrow) = (&court.key, &court.escrow);
    written.add(&format!("{outcome:?} {ruled:?} {evidence:?} {node:?} {:?} {key:?} {escrow:?}", node.parts));
    written.add(&String::from_utf8(evidence.encode()).unwrap());

    // Keys and blobs that do not fit together, each with its error.
    let mut keys = vec![(court.key.clone(), court.escrow.expose())];
    for (case, said) in misfits() {
        let outcomes = [court_run(&case, action::JUDGE).await, court_run(&case, action::RESOLVE).await];
        written.add(&format!("{said}: {outcomes:?} {:?}\n", case.case));
        keys.push((case.key.clone(), case.escrow.expose()));
    }
    // What was kept is on the disk.
    drop((failing, node));
    let kept = std::fs::read(disk.path().join("journal.redb")).unwrap();
    written.0.lock().extend_from_slice(&kept);

    let all = String::from_utf8_lossy(&written.0.lock()).into_owned();
    for expected in
        ["asked for GenerateRequest", "it panicked", "no verdict: it is not guessed", "job judged"]
    {
        assert!(all.contains(expected), "nothing was provoked: {expected}");
    }
    for (key, escrow) in &keys {
        assert_eq!(written.holds(key.expose()), [""; 0], "a session key was written");
        assert_eq!(written.holds(escrow.as_slice()), [""; 0], "the escrow key was written");
    }
    for text in [CLAIMED, REPEATED] {
        assert_eq!(written.holds(text.as_bytes()), [""; 0], "an answer was written");
    }
}

/// Lets a task panic twice while it has a job open.
async fn panics(court: &Court) {
    let node = Arc::new(court.node_of(&journal(), Arc::new(Broken::Panics), 2));
    let intent = Arc::new(court.intent(action::JUDGE));
    let client = court.host.client();
    let (count, mut counted) = watch::channel(0);
    let supervisor = Supervisor::default();
    supervisor.spawn("disputer", RestartPolicy::default(), move |_| {
        let (node, intent, client) = (node.clone(), intent.clone(), client.clone());
        count.send_modify(|count| *count += 1);
        async move {
            let outcome = node.execute(&intent, EffectContext::new(client)).await;
            Err(TaskError::retry(format!("{outcome:?}")))
        }
    });
    let twice = tokio::time::timeout(Duration::from_secs(30), counted.wait_for(|count| *count > 2)).await;
    assert!(twice.is_ok(), "the task was not restarted");
    supervisor.shutdown(Duration::from_secs(5)).await;
}

/// Cases that end in each of the errors, and what is wrong with them.
fn misfits() -> Vec<(Court, &'static str)> {
    let wrapped_for = |key: &SessionKey, escrow: &EncryptionSecret| -> Bytes {
        wrap(key, &escrow.public()).unwrap().to_vec().into()
    };
    let mut cases = Vec::new();
    let mut case = |said, change: &dyn Fn(&mut Court)| {
        let mut court = Court::new(CLAIMED);
        change(&mut court);
        cases.push((court, said));
    };
    case("escrowed for somebody else", &|court| {
        court.case.escrow = vec![wrapped_for(&court.key, &EncryptionSecret::random())];
    });
    case("a wrapped key cut short", &|court| {
        court.case.escrow = vec![court.case.escrow[0].slice(..40)];
    });
    case("another key escrowed", &|court| {
        court.case.escrow = vec![wrapped_for(&SessionKey::random(), &court.escrow)];
    });
    case("a model that is not here", &|court| court.case.model = ModelId::from_name("n"));
    case("a blob that is gone", &|court| court.case.answer.blob_hash = B256::repeat_byte(1));
    case("an answer under another key", &|court| {
        let sealed = seal(&SessionKey::random(), CLAIMED.as_bytes()).unwrap();
        court.case.answer.ciphertext_hash = keccak256(&sealed);
        court.case.answer.blob_hash = put(&court.host, &sealed);
    });
    cases
}

async fn court_run(court: &Court, action: &str) -> EffectOutcome {
    let node = court.node(&journal(), says(REPEATED));
    if action == action::RESOLVE {
        court.run(&node, action::JUDGE).await;
    }
    court.run(&node, action).await
}
