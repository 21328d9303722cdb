//! The embedded backend on the devnet's own model file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lcai_inference::{
    Backend, Delta, EmbeddedBackend, EmbeddedModel, FinishReason, GenerateOptions, GenerateRequest,
    Generation, InferenceError,
};
use lcai_primitives::prompt::{ChatInput, Message, Role};
use std::path::PathBuf;
use tokio::sync::mpsc;

const NAME: &str = "lcai-tiny";

fn model(digest: Option<String>) -> EmbeddedModel {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../devnet/model/lcai-tiny.gguf"));
    EmbeddedModel { name: NAME.into(), path, digest }
}

fn backend() -> EmbeddedBackend {
    EmbeddedBackend::load(&[model(None)], 1).unwrap()
}

fn request(input: ChatInput, max_tokens: u32) -> GenerateRequest {
    GenerateRequest { model: NAME.into(), input, max_tokens, options: GenerateOptions::default() }
}

fn question(text: &str) -> ChatInput {
    ChatInput::Generate(text.into())
}

async fn run(
    backend: &EmbeddedBackend,
    request: GenerateRequest,
) -> (Result<Generation, InferenceError>, Vec<Delta>) {
    let (sender, mut receiver) = mpsc::channel(1024);
    let result = backend.generate(request, sender).await;
    let mut deltas = Vec::new();
    while let Some(delta) = receiver.recv().await {
        deltas.push(delta);
    }
    (result, deltas)
}

#[tokio::test]
async fn the_pieces_are_the_answer_and_every_run_gives_the_same() {
    let backend = backend();
    let (first, deltas) = run(&backend, request(question("What is the capital of France?"), 64)).await;
    let first = first.unwrap();
    let pieces: String = deltas.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(pieces, first.text.as_str());
    assert_eq!(deltas.iter().map(|d| d.tokens).sum::<u32>(), first.stats.eval_tokens);
    assert_eq!(first.finish_reason, FinishReason::Stop);
    assert!(first.stats.prompt_tokens > 5);
    // Another conversation in between leaves nothing behind.
    run(&backend, request(question("Tell me the plural of banana."), 64)).await.0.unwrap();
    let again = run(&backend, request(question("What is the capital of France?"), 64)).await.0.unwrap();
    assert_eq!(*again.text, *first.text);
    // One prompt and a conversation of one turn are the same to a chat model.
    let chat = ChatInput::Chat(vec![Message::new(Role::User, "What is the capital of France?")]);
    assert_eq!(*run(&backend, request(chat, 64)).await.0.unwrap().text, *first.text);
}

#[tokio::test]
async fn the_token_limit_ends_an_answer() {
    let (result, _) = run(&backend(), request(question("What is the capital of France?"), 2)).await;
    let generation = result.unwrap();
    assert_eq!((generation.finish_reason, generation.stats.eval_tokens), (FinishReason::Length, 2));
}

#[tokio::test]
async fn what_does_not_fit_is_cut_the_same_way_each_time() {
    let backend = backend();
    let context = backend.models().await.unwrap()[0].context_length.unwrap();
    let mut turns = Vec::new();
    for i in 0..200 {
        turns.push(Message::new(Role::User, format!("Tell me the plural of word number {i}.")));
        turns.push(Message::new(Role::Assistant, "I do not know."));
    }
    turns.push(Message::new(Role::User, "What is the capital of France?"));
    let ask = || request(ChatInput::Chat(turns.clone()), 64);
    let first = run(&backend, ask()).await.0.unwrap();
    assert!(first.stats.prompt_tokens <= context - 64, "{}", first.stats.prompt_tokens);
    assert!(first.stats.prompt_tokens > context / 2, "{}", first.stats.prompt_tokens);
    assert_eq!(*run(&backend, ask()).await.0.unwrap().text, *first.text);
    // One turn that is longer than the whole context is cut too.
    let long = run(&backend, request(question(&"word ".repeat(20_000)), 16)).await.0;
    assert!(long.is_ok_and(|g| g.stats.prompt_tokens <= context));
}

#[tokio::test]
async fn a_dropped_run_frees_its_slot() {
    let backend = backend();
    let (sender, mut receiver) = mpsc::channel(1);
    let long = request(question("What is the capital of France?"), 64);
    tokio::select! {
        _ = backend.generate(long, sender) => panic!("the run waits for its reader"),
        first = receiver.recv() => assert!(first.is_some()),
    }
    drop(receiver);
    // One run at a time: this one begins only when the dropped one has ended.
    run(&backend, request(question("What is the capital of France?"), 4)).await.0.unwrap();
}

#[tokio::test]
async fn models_have_the_digest_of_their_file() {
    let models = backend().models().await.unwrap();
    let digest = models[0].digest.clone();
    assert_eq!((models[0].name.as_str(), digest.len()), (NAME, 64));
    EmbeddedBackend::load(&[model(Some(digest.to_uppercase()))], 1).unwrap();
    let other = EmbeddedBackend::load(&[model(Some("00".repeat(32)))], 1).unwrap_err();
    assert!(matches!(other, InferenceError::DigestMismatch { found, .. } if found == digest));
}

#[tokio::test]
async fn what_it_cannot_do_is_refused() {
    let backend = backend();
    let mut message = Message::new(Role::User, "What is this?");
    message.images.push("aGk=".into());
    let (result, _) = run(&backend, request(ChatInput::Chat(vec![message]), 8)).await;
    assert_eq!(result.unwrap_err(), InferenceError::Unsupported("images"));
    let other = GenerateRequest { model: "llama3-8b".into(), ..request(question("hi"), 8) };
    assert_eq!(run(&backend, other).await.0.unwrap_err(), InferenceError::ModelMissing("llama3-8b".into()));
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let path = std::env::temp_dir().join("lcai-not-a-model.gguf");
    std::fs::write(&path, b"GGUF, but not really").unwrap();
    let broken = EmbeddedModel { name: NAME.into(), path: path.clone(), digest: None };
    let error = EmbeddedBackend::load(&[broken], 1).unwrap_err();
    assert!(error.to_string().contains("lcai-not-a-model.gguf"), "{error}");
    std::fs::remove_file(path).unwrap();
}
