//! Embeddings by a running Ollama (`/api/embed`).

use super::{Embedder, EmbedderDescription, normalized};
use crate::{Backend, InferenceError, OllamaBackend, OllamaConfig};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::timeout;
use zeroize::Zeroizing;

const EMBED: &str = "/api/embed";

/// Most bytes of an answer: a vector of some thousand numbers for each of two texts.
const MAX_ANSWER: usize = 1 << 20;

/// An embedding model that Ollama serves.
#[derive(Debug)]
pub struct OllamaEmbedder {
    backend: OllamaBackend,
    http: reqwest::Client,
    url: String,
    model: String,
    wait: Duration,
}

impl OllamaEmbedder {
    /// An embedder; nothing is sent yet. `model` is Ollama's name, e.g. `all-minilm:latest`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(config: OllamaConfig, model: impl Into<String>) -> Result<Self, InferenceError> {
        let http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .no_proxy()
            .build()
            .map_err(|_| InferenceError::Failed("no HTTP client".to_owned()))?;
        let url = config.url.trim_end_matches('/').to_owned();
        let wait = config.first_token_timeout;
        Ok(Self { backend: OllamaBackend::new(config)?, http, url, model: model.into(), wait })
    }

    async fn ask(&self, texts: &[Zeroizing<String>]) -> Result<Vec<u8>, InferenceError> {
        let unreachable = |_| InferenceError::Unreachable { url: self.url.clone() };
        let request = Request { model: &self.model, input: texts, truncate: false };
        let response = self.http.post(format!("{}{EMBED}", self.url)).json(&request).send().await;
        let response = response.map_err(unreachable)?;
        let status = response.status();
        if status.as_u16() == 404 {
            return Err(InferenceError::ModelMissing(self.model.clone()));
        }
        if !status.is_success() {
            return Err(InferenceError::Rejected { path: EMBED, status: status.as_u16() });
        }
        let malformed = InferenceError::Malformed { path: EMBED, reason: "longer than embeddings can be" };
        if response.content_length().is_some_and(|length| length > MAX_ANSWER as u64) {
            return Err(malformed);
        }
        let body = response.bytes().await.map_err(unreachable)?;
        if body.len() > MAX_ANSWER {
            return Err(malformed);
        }
        Ok(body.to_vec())
    }
}

#[async_trait]
impl Embedder for OllamaEmbedder {
    async fn description(&self) -> Result<EmbedderDescription, InferenceError> {
        let models = self.backend.models().await?;
        let found = models.into_iter().find(|model| model.name == self.model);
        let found = found.ok_or_else(|| InferenceError::ModelMissing(self.model.clone()))?;
        Ok(EmbedderDescription { name: found.name, digest: found.digest })
    }

    async fn embed(&self, texts: Vec<Zeroizing<String>>) -> Result<Vec<Vec<f32>>, InferenceError> {
        if texts.iter().any(|text| text.is_empty()) {
            return Err(InferenceError::Empty);
        }
        let body =
            timeout(self.wait, self.ask(&texts)).await.map_err(|_| InferenceError::Stalled(self.wait))??;
        let malformed = |reason| InferenceError::Malformed { path: EMBED, reason };
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| malformed("not a list of embeddings"))?;
        if answer.embeddings.len() != texts.len() {
            return Err(malformed("another number of embeddings than texts"));
        }
        let vectors = answer.embeddings.into_iter().map(normalized).collect::<Option<_>>();
        vectors.ok_or_else(|| malformed("an embedding has no direction"))
    }
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: &'a [Zeroizing<String>],
    /// A text that does not fit is refused: half of it would be another text.
    truncate: bool,
}

#[derive(Deserialize)]
struct Answer {
    embeddings: Vec<Vec<f32>>,
}
