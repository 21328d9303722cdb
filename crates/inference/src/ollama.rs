//! Ollama's HTTP API (`/api/tags`, `/api/show`, `/api/generate`, `/api/chat`).

mod installed;

pub use installed::OllamaModel;

use crate::{
    Backend, Delta, FinishReason, GenerateRequest, Generation, GenerationStats, InferenceError,
    ModelDescription,
};
use async_trait::async_trait;
use futures::StreamExt;
use lcai_primitives::prompt::ChatInput;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use zeroize::Zeroizing;

const TAGS: &str = "/api/tags";
const GENERATE: &str = "/api/generate";
const CHAT: &str = "/api/chat";

/// Longest line of a streamed answer; one line holds one token, or the final record.
const MAX_LINE: usize = 1 << 20;
/// Longest list of models.
const MAX_TAGS: usize = 4 << 20;

/// Where Ollama is and how long to wait for it.
#[derive(Debug, Clone)]
pub struct OllamaConfig {
    /// Base address, e.g. `http://127.0.0.1:11434`.
    pub url: String,
    /// Ollama's names of the models that are served, by the chain's, e.g. `llama3:8b` by `llama3-8b`; without a tag they are
    /// `latest`. Another model is listed under Ollama's name.
    pub tags: BTreeMap<String, String>,
    /// SHA-256 that each model must have, of its manifest or of its GGUF file (64 hex digits, by the chain's name); checked
    /// by [`OllamaBackend::check`].
    pub digests: BTreeMap<String, String>,
    /// Parameters that each model's Modelfile must set (by the chain's name), e.g. `num_ctx`, beyond which Ollama cuts
    /// conversations without a word; checked by [`OllamaBackend::check`].
    pub parameters: BTreeMap<String, BTreeMap<String, String>>,
    /// To open a connection.
    pub connect_timeout: Duration,
    /// From the request to the first token; covers loading the model.
    pub first_token_timeout: Duration,
    /// Between two tokens.
    pub idle_timeout: Duration,
    /// How long Ollama keeps the model loaded after an answer, in its own notation.
    pub keep_alive: String,
}

impl Default for OllamaConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:11434".to_owned(),
            tags: BTreeMap::new(),
            digests: BTreeMap::new(),
            parameters: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            first_token_timeout: Duration::from_secs(90),
            idle_timeout: Duration::from_secs(20),
            keep_alive: "30m".to_owned(),
        }
    }
}

/// A backend over a running Ollama.
#[derive(Debug)]
pub struct OllamaBackend {
    config: OllamaConfig,
    http: reqwest::Client,
}

impl OllamaBackend {
    /// A backend; nothing is sent yet.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(config: OllamaConfig) -> Result<Self, InferenceError> {
        let http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .no_proxy()
            .build()
            .map_err(|_| InferenceError::Failed("no HTTP client".to_owned()))?;
        Ok(Self { config, http })
    }

    /// Checks at start that Ollama answers, has every model (names of the chain), the agreed weights and parameters.
    ///
    /// # Errors
    /// The first thing that is not so.
    pub async fn check(&self, models: &[String]) -> Result<(), InferenceError> {
        let tags = self.tags().await?;
        for model in models {
            let tag = self.tag(model);
            if !tags.iter().any(|listed| listed.name == tag) {
                return Err(InferenceError::ModelMissing(tag));
            }
            let (digest, parameters) = (self.config.digests.get(model), self.config.parameters.get(model));
            if digest.is_some() || parameters.is_some() {
                self.installed(model).await?.check(model, digest, parameters)?;
            }
        }
        Ok(())
    }

    /// Ollama's name of a model: the configured tag, and `latest` where none is given.
    fn tag(&self, model: &str) -> String {
        let tag = self.config.tags.get(model).map_or(model, String::as_str);
        if tag.contains(':') { tag.to_owned() } else { format!("{tag}:latest") }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.config.url.trim_end_matches('/'))
    }

    fn unreachable(&self) -> InferenceError {
        InferenceError::Unreachable { url: self.config.url.clone() }
    }

    async fn tags(&self) -> Result<Vec<Tag>, InferenceError> {
        let request = async {
            let response = self.http.get(self.url(TAGS)).send().await.map_err(|_| self.unreachable())?;
            let mut body = Body::new(self, TAGS, accept(TAGS, response).await?);
            body.whole(MAX_TAGS).await
        };
        let wait = self.config.connect_timeout + self.config.idle_timeout;
        let body = timeout(wait, request).await.map_err(|_| InferenceError::Stalled(wait))??;
        let tags: Tags = serde_json::from_slice(&body)
            .map_err(|_| InferenceError::Malformed { path: TAGS, reason: "not a list of models" })?;
        Ok(tags.models)
    }

    fn body<'a>(&'a self, request: &'a GenerateRequest) -> (&'static str, Request<'a>) {
        let (path, prompt, messages) = match &request.input {
            ChatInput::Generate(text) => (GENERATE, Some(text.as_str()), None),
            ChatInput::Chat(messages) => (
                CHAT,
                None,
                Some(
                    messages
                        .iter()
                        .map(|m| Message { role: m.role.as_str(), content: &m.content, images: &m.images })
                        .collect(),
                ),
            ),
        };
        let options = Options {
            temperature: request.options.temperature,
            seed: request.options.seed,
            num_predict: request.max_tokens,
        };
        let request = Request {
            model: self.tag(&request.model),
            prompt,
            messages,
            stream: true,
            think: false,
            keep_alive: &self.config.keep_alive,
            options,
        };
        (path, request)
    }
}

#[async_trait]
impl Backend for OllamaBackend {
    fn engine(&self) -> String {
        "ollama".to_owned()
    }

    async fn models(&self) -> Result<Vec<ModelDescription>, InferenceError> {
        let names: BTreeMap<String, &String> =
            self.config.tags.keys().map(|name| (self.tag(name), name)).collect();
        Ok(self
            .tags()
            .await?
            .into_iter()
            .map(|tag| ModelDescription {
                name: names.get(&tag.name).map_or_else(|| tag.name.clone(), |name| (*name).clone()),
                digest: tag.digest,
                context_length: None,
            })
            .collect())
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Generation, InferenceError> {
        let (path, body) = self.body(&request);
        let send = async {
            let response =
                self.http.post(self.url(path)).json(&body).send().await.map_err(|_| self.unreachable())?;
            accept(path, response).await
        };
        let first = self.config.first_token_timeout;
        let response = timeout(first, send).await.map_err(|_| InferenceError::Stalled(first))?;
        let response = response.map_err(|e| match e {
            InferenceError::Rejected { status: 404, .. } => InferenceError::ModelMissing(body.model.clone()),
            other => other,
        })?;
        let mut lines = Body::new(self, path, response);
        let (mut answer, mut thinking_bytes, mut wait) = (Zeroizing::new(String::new()), 0u64, first);
        loop {
            let line = timeout(wait, lines.line()).await.map_err(|_| InferenceError::Stalled(wait))??;
            // A stream that ends without its final record was cut off: half an answer is not an answer.
            let line = line.ok_or_else(|| self.unreachable())?;
            let record: Record = serde_json::from_slice(&line)
                .map_err(|_| InferenceError::Malformed { path, reason: "a line is not a record" })?;
            if let Some(error) = &record.error {
                return Err(classify(error));
            }
            wait = self.config.idle_timeout;
            let (text, thinking) = record.pieces();
            thinking_bytes += u64::try_from(thinking).unwrap_or(u64::MAX);
            if !text.is_empty() {
                answer.push_str(text);
                let delta = Delta { text: Zeroizing::new(text.to_owned()), tokens: 1 };
                let _ = deltas.send(delta).await;
            }
            if record.done {
                if answer.trim().is_empty() {
                    return Err(InferenceError::Empty);
                }
                let stats = GenerationStats { thinking_bytes, ..record.stats() };
                let length = record.done_reason.as_deref() == Some("length");
                let finish_reason = if length { FinishReason::Length } else { FinishReason::Stop };
                return Ok(Generation { text: answer, stats, finish_reason });
            }
        }
    }
}

/// Refuses an HTTP error without quoting its body, which can hold a prompt.
async fn accept(
    path: &'static str,
    response: reqwest::Response,
) -> Result<reqwest::Response, InferenceError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    // Ollama reports a model that does not fit as status 500 with a text.
    if status.as_u16() == 500 && response.content_length().is_some_and(|n| n < 4096) {
        let body = response.bytes().await.unwrap_or_default();
        if let Ok(ErrorBody { error }) = serde_json::from_slice(&body) {
            return Err(match classify(&error) {
                InferenceError::OutOfMemory => InferenceError::OutOfMemory,
                _ => InferenceError::Rejected { path, status: 500 },
            });
        }
    }
    Err(InferenceError::Rejected { path, status: status.as_u16() })
}

fn classify(error: &str) -> InferenceError {
    let error = error.to_ascii_lowercase();
    if error.contains("not found") {
        InferenceError::ModelMissing("asked for".to_owned())
    } else if error.contains("memory") {
        InferenceError::OutOfMemory
    } else {
        InferenceError::Failed("the model server reported an error".to_owned())
    }
}

/// A response body, read within bounds. What it buffers is plaintext and is wiped.
struct Body<'a> {
    backend: &'a OllamaBackend,
    path: &'static str,
    chunks: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<Vec<u8>>> + Send>>,
    buffer: Zeroizing<Vec<u8>>,
}

impl<'a> Body<'a> {
    fn new(backend: &'a OllamaBackend, path: &'static str, response: reqwest::Response) -> Self {
        let chunks = response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec()));
        Self { backend, path, chunks: Box::pin(chunks), buffer: Zeroizing::new(Vec::new()) }
    }

    /// Adds the next chunk to the buffer; `false` at the end.
    async fn fill(&mut self, limit: usize) -> Result<bool, InferenceError> {
        let Some(chunk) = self.chunks.next().await else { return Ok(false) };
        let chunk = Zeroizing::new(chunk.map_err(|_| self.backend.unreachable())?);
        if self.buffer.len() + chunk.len() > limit {
            return Err(InferenceError::Malformed {
                path: self.path,
                reason: "longer than any answer can be",
            });
        }
        self.buffer.extend_from_slice(&chunk);
        Ok(true)
    }

    /// The next line that is not empty; `None` at the end.
    async fn line(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, InferenceError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if !line.is_empty() {
                    return Ok(Some(Zeroizing::new(line)));
                }
            } else if !self.fill(MAX_LINE).await? {
                let rest = std::mem::take(&mut *self.buffer);
                return Ok((!rest.is_empty()).then(|| Zeroizing::new(rest)));
            }
        }
    }

    async fn whole(&mut self, limit: usize) -> Result<Zeroizing<Vec<u8>>, InferenceError> {
        while self.fill(limit).await? {}
        Ok(Zeroizing::new(std::mem::take(&mut *self.buffer)))
    }
}

#[derive(Serialize)]
struct Request<'a> {
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Message<'a>>>,
    stream: bool,
    /// Reasoning would eat the token limit and is not part of the settled answer.
    think: bool,
    keep_alive: &'a str,
    options: Options,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'a str,
    content: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    images: &'a [String],
}

#[derive(Serialize)]
struct Options {
    temperature: f32,
    seed: u64,
    num_predict: u32,
}

#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    digest: String,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// One line of a streamed answer, of either path. Durations are nanoseconds.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Record {
    response: Zeroizing<String>,
    thinking: Zeroizing<String>,
    message: Option<Said>,
    done: bool,
    done_reason: Option<String>,
    error: Option<String>,
    prompt_eval_count: u32,
    eval_count: u32,
    load_duration: u64,
    prompt_eval_duration: u64,
    eval_duration: u64,
    total_duration: u64,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Said {
    content: Zeroizing<String>,
    thinking: Zeroizing<String>,
}

impl Record {
    /// The answer's next piece, and how many bytes of reasoning came with it.
    fn pieces(&self) -> (&str, usize) {
        match &self.message {
            Some(said) => (&said.content, said.thinking.len()),
            None => (&self.response, self.thinking.len()),
        }
    }

    fn stats(&self) -> GenerationStats {
        GenerationStats {
            prompt_tokens: self.prompt_eval_count,
            eval_tokens: self.eval_count,
            thinking_bytes: 0,
            load: Duration::from_nanos(self.load_duration),
            prompt_eval: Duration::from_nanos(self.prompt_eval_duration),
            eval: Duration::from_nanos(self.eval_duration),
            total: Duration::from_nanos(self.total_duration),
        }
    }
}
