//! The Ollama backend against Ollama itself, with the devnet's model created in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lcai_inference::{
    Backend, EmbeddedBackend, EmbeddedModel, GenerateOptions, GenerateRequest, InferenceError, OllamaBackend,
    OllamaConfig,
};
use lcai_primitives::prompt::{ChatInput, Message, Role};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

const NAME: &str = "lcai-tiny";

/// A running Ollama with a home of its own.
struct Ollama {
    program: PathBuf,
    directory: TempDir,
    address: String,
    child: Child,
}

impl Ollama {
    async fn start() -> Self {
        let program = std::env::var_os("LCAI_OLLAMA").expect("LCAI_OLLAMA names the ollama program");
        let program = PathBuf::from(program);
        let directory = TempDir::new().unwrap();
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut command = command(&program, directory.path(), &address);
        // A group, with the runners that it starts.
        let child = command.arg("serve").process_group(0).spawn().unwrap();
        let ollama = Self { program, directory, address, child };
        let backend = OllamaBackend::new(ollama.config()).unwrap();
        for _ in 0..600 {
            if backend.check(&[]).await.is_ok() {
                return ollama;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("Ollama does not answer within a minute");
    }

    fn create(&self, name: &str, modelfile: &Path) {
        let mut command = command(&self.program, self.directory.path(), &self.address);
        let status = command.args(["create", name, "-f"]).arg(modelfile).status().unwrap();
        assert!(status.success(), "ollama create {name}: {status}");
    }

    /// With what the devnet agreed on.
    fn config(&self) -> OllamaConfig {
        let parameters =
            [("num_ctx", "512"), ("stop", "<|im_end|>")].map(|(name, value)| (name.into(), value.into()));
        OllamaConfig {
            url: format!("http://{}", self.address),
            digests: BTreeMap::from([(NAME.to_owned(), digest(&model("lcai-tiny.gguf")))]),
            tags: BTreeMap::from([(NAME.to_owned(), NAME.to_owned())]),
            parameters: BTreeMap::from([(NAME.to_owned(), BTreeMap::from(parameters))]),
            ..OllamaConfig::default()
        }
    }

    /// Sends a signal to it and its runners.
    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        assert!(Command::new("kill").args([signal, "--", &group]).status().unwrap().success());
    }
}

impl Drop for Ollama {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

fn command(program: &Path, home: &Path, address: &str) -> Command {
    let mut command = Command::new(program);
    command.env("HOME", home).env("OLLAMA_HOST", address).current_dir(home);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn model(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../devnet/model")).join(file)
}

fn digest(file: &Path) -> String {
    hex::encode(Sha256::digest(std::fs::read(file).unwrap()))
}

async fn answer(backend: &dyn Backend, name: &str, input: ChatInput) -> Result<String, InferenceError> {
    let request =
        GenerateRequest { model: name.into(), input, max_tokens: 64, options: GenerateOptions::default() };
    // Nobody reads the pieces.
    let (deltas, _) = mpsc::channel(1);
    backend.generate(request, deltas).await.map(|answer| answer.text.to_string())
}

fn question(text: &str) -> ChatInput {
    ChatInput::Generate(text.into())
}

#[tokio::test]
#[ignore = "needs LCAI_OLLAMA, the ollama program (devnet/build-parts)"]
async fn ollama_answers_as_the_embedded_backend_does_and_its_failures_are_noticed() {
    let ollama = Ollama::start().await;
    let names = [NAME.to_owned()];
    let backend = OllamaBackend::new(ollama.config()).unwrap();
    let missing = InferenceError::ModelMissing("lcai-tiny:latest".to_owned());
    assert_eq!(backend.check(&names).await, Err(missing.clone()));
    assert_eq!(answer(&backend, NAME, question("hi")).await, Err(missing));

    ollama.create(NAME, &model("Modelfile"));
    assert_eq!(backend.check(&names).await, Ok(()));
    assert!(backend.models().await.unwrap().iter().any(|model| model.name == NAME));
    let mut other = ollama.config();
    other.digests.insert(NAME.to_owned(), digest(&model("lcai-tiny-worse.gguf")));
    let error = OllamaBackend::new(other).unwrap().check(&names).await.unwrap_err();
    assert!(matches!(error, InferenceError::DigestMismatch { .. }), "{error}");
    let mut other = ollama.config();
    other.parameters.insert(NAME.to_owned(), BTreeMap::from([("num_ctx".to_owned(), "4096".to_owned())]));
    let error = OllamaBackend::new(other).unwrap().check(&names).await.unwrap_err();
    assert_eq!(error.to_string(), "model lcai-tiny has num_ctx \"512\", expected \"4096\"");

    // The same words from both backends: single prompts, and a conversation.
    let file = EmbeddedModel { name: NAME.into(), path: model("lcai-tiny.gguf"), digest: None };
    let embedded = EmbeddedBackend::load(&[file], 1).unwrap();
    let said = |role, text: &str| Message::new(role, text);
    let conversation = vec![
        said(Role::User, "What is 58 plus 42?"),
        said(Role::Assistant, "58 + 42 = 90 + 10 = 100."),
        said(Role::User, "What is Quito the capital of?"),
    ];
    for input in
        [question("What is 58 plus 42?"), question("How much is 9 times 7?"), ChatInput::Chat(conversation)]
    {
        let one = answer(&backend, NAME, input.clone()).await.unwrap();
        assert_eq!(one, answer(&embedded, NAME, input).await.unwrap());
    }

    // A model that stops before its first word.
    let mute = ollama.directory.path().join("Modelfile");
    let text = std::fs::read_to_string(model("Modelfile")).unwrap();
    let from = format!("FROM {}", model("lcai-tiny.gguf").canonicalize().unwrap().display());
    std::fs::write(&mute, text.replace("FROM ./lcai-tiny.gguf", &from) + "PARAMETER stop \"58\"\n").unwrap();
    ollama.create("mute", &mute);
    assert_eq!(answer(&backend, "mute", question("What is 58 plus 42?")).await, Err(InferenceError::Empty));

    // It hangs, goes on, and is killed.
    let wait = Duration::from_secs(2);
    let hasty = OllamaConfig { first_token_timeout: wait, ..ollama.config() };
    let hasty = OllamaBackend::new(hasty).unwrap();
    ollama.signal("-STOP");
    let error = answer(&hasty, NAME, question("What is 58 plus 42?")).await.unwrap_err();
    assert_eq!(error, InferenceError::Stalled(wait));
    assert!(error.is_transient());
    ollama.signal("-CONT");
    answer(&backend, NAME, question("What is 58 plus 42?")).await.unwrap();
    ollama.signal("-KILL");
    let error = answer(&backend, NAME, question("What is 58 plus 42?")).await.unwrap_err();
    assert!(matches!(error, InferenceError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
}
