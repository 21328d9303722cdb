//! Protocol tests of the Ollama backend: a small HTTP server answers with responses in the form Ollama's API documents
//! (`fixtures/`). They show what we send and how we read; a run against Ollama itself is another test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lcai_inference::{
    Backend, Embedder, FinishReason, GenerateOptions, GenerateRequest, Generation, InferenceError,
    ModelSource, OllamaBackend, OllamaConfig, OllamaEmbedder,
};
use lcai_primitives::prompt::{ChatInput, Message, Role};
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use zeroize::Zeroizing;

const TAGS: &str = include_str!("fixtures/tags.json");
const GENERATE: &str = include_str!("fixtures/generate.ndjson");
const CHAT: &str = include_str!("fixtures/chat.ndjson");
const EMPTY: &str = include_str!("fixtures/empty.ndjson");
const SHOW: &str = include_str!("fixtures/show.json");
/// The weights' digest in it.
const WEIGHTS: &str = "c590a3648cc7d0f3ce74d5a0495d72fe65719505f9d0524540fc079bb97ba04d";

/// What the server does with a request.
enum Answer {
    /// Sends a whole response.
    Whole(u16, String),
    /// Announces more than it sends, then closes.
    CutOff(String),
    /// Sends the beginning of a response and then nothing.
    Hang(String),
}

/// Serves one request; gives its first line and body.
async fn serve(answer: Answer) -> (String, tokio::task::JoinHandle<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (url, tokio::spawn(async move { serve_next(&listener, &answer).await }))
}

/// Serves these bodies, one after the other.
async fn serve_in_turn<const N: usize>(bodies: [&'static str; N]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for body in bodies {
            serve_next(&listener, &Answer::Whole(200, body.to_owned())).await;
        }
    });
    url
}

async fn serve_next(listener: &TcpListener, answer: &Answer) -> (String, String) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    let (head, length) = loop {
        let mut buffer = [0u8; 4096];
        let n = socket.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text
                .lines()
                .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok())
                .unwrap_or(0);
            break (end + 4, length);
        }
    };
    while request.len() < head + length {
        let mut buffer = [0u8; 4096];
        let n = socket.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..n]);
    }
    let (status, body, extra) = match answer {
        Answer::Whole(status, body) => (*status, body, 0),
        Answer::CutOff(body) | Answer::Hang(body) => (200, body, 1000),
    };
    let response = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\ncontent-length: \
         {}\r\n\r\n{body}",
        body.len() + extra
    );
    socket.write_all(response.as_bytes()).await.unwrap();
    if matches!(answer, Answer::Hang(_)) {
        std::future::pending::<()>().await;
    }
    let text = String::from_utf8(request).unwrap();
    (text.lines().next().unwrap().to_owned(), text[head..].to_owned())
}

fn config(url: String) -> OllamaConfig {
    OllamaConfig {
        url,
        tags: BTreeMap::from([("llama3-8b".to_owned(), "llama3:8b".to_owned())]),
        first_token_timeout: Duration::from_millis(500),
        idle_timeout: Duration::from_millis(200),
        ..OllamaConfig::default()
    }
}

fn request(input: ChatInput) -> GenerateRequest {
    GenerateRequest { model: "llama3-8b".into(), input, max_tokens: 64, options: GenerateOptions::default() }
}

async fn generate(url: String, input: ChatInput) -> (Result<Generation, InferenceError>, Vec<String>) {
    let backend = OllamaBackend::new(config(url)).unwrap();
    let (sender, mut receiver) = mpsc::channel(64);
    let result = backend.generate(request(input), sender).await;
    let mut pieces = Vec::new();
    while let Some(delta) = receiver.recv().await {
        pieces.push(delta.text.to_string());
    }
    (result, pieces)
}

fn question() -> ChatInput {
    ChatInput::Generate("What is the capital of France?".into())
}

#[tokio::test]
async fn a_single_prompt_uses_the_generate_call() {
    let (url, server) = serve(Answer::Whole(200, GENERATE.into())).await;
    let (result, pieces) = generate(url, question()).await;
    let generation = result.unwrap();
    assert_eq!(generation.text.as_str(), "The capital of France is Paris.");
    assert_eq!(pieces, ["The", " capital of France", " is Paris."]);
    assert_eq!(generation.finish_reason, FinishReason::Stop);
    assert_eq!((generation.stats.prompt_tokens, generation.stats.eval_tokens), (17, 8));
    assert_eq!(generation.stats.load, Duration::from_nanos(4_925_331_208));

    let (line, body) = server.await.unwrap();
    assert_eq!(line, "POST /api/generate HTTP/1.1");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({
        "model": "llama3:8b", "prompt": "What is the capital of France?", "stream": true, "think": false,
        "keep_alive": "30m", "options": {"temperature": 0.0, "seed": 42, "num_predict": 64}
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_conversation_uses_the_chat_call_and_leaves_reasoning_out() {
    let (url, server) = serve(Answer::Whole(200, CHAT.into())).await;
    let mut last = Message::new(Role::User, "And of Italy?");
    last.images.push("aGk=".into());
    let input = ChatInput::Chat(vec![Message::new(Role::System, "One word."), last]);
    let (result, pieces) = generate(url, input).await;
    let generation = result.unwrap();
    assert_eq!(generation.text.as_str(), "Rome");
    assert_eq!(pieces, ["Ro", "me"]);
    assert_eq!(generation.finish_reason, FinishReason::Length);
    assert_eq!(generation.stats.thinking_bytes, 19);

    let (line, body) = server.await.unwrap();
    assert_eq!(line, "POST /api/chat HTTP/1.1");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body["messages"],
        serde_json::json!([
            {"role": "system", "content": "One word."},
            {"role": "user", "content": "And of Italy?", "images": ["aGk="]}
        ])
    );
    assert!(body.get("prompt").is_none());
}

#[tokio::test]
async fn an_empty_answer_is_an_error_that_is_not_retried() {
    let (url, _server) = serve(Answer::Whole(200, EMPTY.into())).await;
    let (result, _) = generate(url, ChatInput::Chat(vec![Message::new(Role::User, "hi")])).await;
    let error = result.unwrap_err();
    assert_eq!(error, InferenceError::Empty);
    assert!(!error.is_transient());
}

#[tokio::test]
async fn half_an_answer_is_not_an_answer() {
    let first = GENERATE.lines().next().unwrap().to_owned() + "\n";
    let (url, _server) = serve(Answer::CutOff(first.clone())).await;
    let (result, _) = generate(url, question()).await;
    assert!(matches!(result, Err(InferenceError::Unreachable { .. })), "{result:?}");

    // Also when the stream ends properly, but without the final record.
    let (url, _server) = serve(Answer::Whole(200, first)).await;
    let (result, _) = generate(url, question()).await;
    assert!(result.unwrap_err().is_transient());
}

#[tokio::test]
async fn a_hanging_server_is_given_up() {
    let (url, server) = serve(Answer::Hang(GENERATE.lines().next().unwrap().to_owned() + "\n")).await;
    let (result, pieces) = generate(url, question()).await;
    assert_eq!(result.unwrap_err(), InferenceError::Stalled(Duration::from_millis(200)));
    assert_eq!(pieces, ["The"]);
    server.abort();
}

#[tokio::test]
async fn nobody_listening_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (result, _) = generate(url.clone(), question()).await;
    assert_eq!(result.unwrap_err(), InferenceError::Unreachable { url });
}

#[tokio::test]
async fn errors_of_the_server_are_classified_and_never_quoted() {
    let cases = [
        (404, r#"{"error":"model 'llama3:8b' not found"}"#, InferenceError::ModelMissing("llama3:8b".into())),
        (
            500,
            r#"{"error":"model requires more system memory (5.6 GiB) than is available"}"#,
            InferenceError::OutOfMemory,
        ),
        (
            400,
            r#"{"error":"the prompt SECRET is bad"}"#,
            InferenceError::Rejected { path: "/api/generate", status: 400 },
        ),
        (200, r#"{"error":"the prompt SECRET is bad"}"#, InferenceError::Failed(String::new())),
        (200, "SECRET", InferenceError::Malformed { path: "/api/generate", reason: "" }),
    ];
    for (status, body, expected) in cases {
        let (url, _server) = serve(Answer::Whole(status, body.into())).await;
        let (result, _) = generate(url, question()).await;
        let error = result.unwrap_err();
        assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&expected), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
}

#[tokio::test]
async fn models_are_listed_under_the_chains_names() {
    let (url, server) = serve(Answer::Whole(200, TAGS.into())).await;
    let models = OllamaBackend::new(config(url)).unwrap().models().await.unwrap();
    let names: Vec<_> = models.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["llama3-8b", "all-minilm:latest"]);
    assert_eq!(server.await.unwrap().0, "GET /api/tags HTTP/1.1");
}

#[tokio::test]
async fn a_served_model_has_the_chains_name_also_where_ollama_adds_a_tag() {
    let url = serve_in_turn([TAGS, TAGS]).await;
    let source = ModelSource::new(Some(&url), &[], &["all-minilm".to_owned()]).unwrap();
    let models = source.open(1).await.unwrap().models().await.unwrap();
    let names: Vec<_> = models.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["llama3:8b", "all-minilm"]);
}

#[tokio::test]
async fn the_check_at_start_finds_missing_models_other_weights_and_other_parameters() {
    let check = async |change: &dyn Fn(&mut OllamaConfig), model: &str| {
        // The list, and for what is checked of one model the list again and its description.
        let url = serve_in_turn([TAGS, TAGS, SHOW]).await;
        let mut config = config(url);
        change(&mut config);
        OllamaBackend::new(config).unwrap().check(&[model.to_owned()]).await
    };
    assert_eq!(check(&|_| (), "llama3-8b").await, Ok(()));
    assert_eq!(check(&|_| (), "all-minilm").await, Ok(()));
    assert_eq!(check(&|_| (), "gemma4:e2b").await, Err(InferenceError::ModelMissing("gemma4:e2b".into())));

    let digest = |digest: &str| {
        let digest = digest.to_owned();
        move |c: &mut OllamaConfig| {
            c.digests.insert("llama3-8b".into(), digest.clone());
        }
    };
    let tags: serde_json::Value = serde_json::from_str(TAGS).unwrap();
    let manifest = tags["models"][0]["digest"].as_str().unwrap();
    for known in [manifest, WEIGHTS] {
        assert_eq!(check(&digest(known), "llama3-8b").await, Ok(()));
    }
    let other = check(&digest(&"00".repeat(32)), "llama3-8b").await;
    assert!(matches!(other, Err(InferenceError::DigestMismatch { found, .. }) if found == WEIGHTS));

    let parameter = |name: &'static str, value: &'static str| {
        move |c: &mut OllamaConfig| {
            let parameters = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            c.parameters.insert("llama3-8b".into(), parameters);
        }
    };
    assert_eq!(check(&parameter("num_ctx", "8192"), "llama3-8b").await, Ok(()));
    for (name, value, has) in [("num_ctx", "4096", "8192"), ("min_p", "0.1", ""), ("stop", "a", "a, b")] {
        let error = check(&parameter(name, value), "llama3-8b").await.unwrap_err();
        let InferenceError::ParameterMismatch { parameter, found, .. } = error else { panic!("{error:?}") };
        assert_eq!((parameter.as_str(), found.as_str()), (name, has));
    }
}

const EMBED: &str = include_str!("fixtures/embed.json");

fn texts() -> Vec<Zeroizing<String>> {
    ["one text", "another"].iter().map(|text| Zeroizing::new((*text).to_owned())).collect()
}

#[tokio::test]
async fn embeddings_are_asked_for_whole_and_come_back_at_length_one() {
    let (url, request) = serve(Answer::Whole(200, EMBED.to_owned())).await;
    let embedder = OllamaEmbedder::new(config(url), "all-minilm:latest").unwrap();
    assert_eq!(embedder.embed(texts()).await.unwrap(), [vec![0.6, 0.8], vec![0.0, -1.0]]);
    let (line, body) = request.await.unwrap();
    assert_eq!(line, "POST /api/embed HTTP/1.1");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let expected = serde_json::json!({
        "model": "all-minilm:latest", "input": ["one text", "another"], "truncate": false,
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn embeddings_that_are_missing_or_none_are_refused() {
    let one = r#"{"embeddings":[[1.0,0.0]]}"#;
    let nowhere = r#"{"embeddings":[[1.0,0.0],[0.0,0.0]]}"#;
    for body in [one, nowhere, "{}"] {
        let (url, _request) = serve(Answer::Whole(200, body.to_owned())).await;
        let embedder = OllamaEmbedder::new(config(url), "all-minilm:latest").unwrap();
        let error = embedder.embed(texts()).await.unwrap_err();
        assert!(matches!(error, InferenceError::Malformed { path: "/api/embed", .. }), "{error}");
    }
    let (url, _request) = serve(Answer::Whole(404, String::new())).await;
    let embedder = OllamaEmbedder::new(config(url), "all-minilm:latest").unwrap();
    let missing = InferenceError::ModelMissing("all-minilm:latest".to_owned());
    assert_eq!(embedder.embed(texts()).await, Err(missing));
}
