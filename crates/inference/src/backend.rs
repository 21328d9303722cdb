//! The trait, and what goes in and comes out.

use crate::InferenceError;
use async_trait::async_trait;
use lcai_primitives::prompt::ChatInput;
use std::{fmt, time::Duration};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// A model a backend can answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDescription {
    /// Its name as the chain knows it.
    pub name: String,
    /// SHA-256 of the weights, 64 lowercase hex digits.
    pub digest: String,
    /// Tokens of prompt and answer together, when the backend knows.
    pub context_length: Option<u32>,
}

/// How tokens are chosen. The protocol fixes both so that an answer can be repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// 0 is greedy decoding.
    pub temperature: f32,
    /// Seed of the sampler; without effect at temperature 0.
    pub seed: u64,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { temperature: 0.0, seed: 42 }
    }
}

/// What to answer.
pub struct GenerateRequest {
    /// The model's name as the chain knows it.
    pub model: String,
    /// One prompt, or a conversation whose last turn is the user's.
    pub input: ChatInput,
    /// Most tokens the answer may have.
    pub max_tokens: u32,
    /// How tokens are chosen.
    pub options: GenerateOptions,
}

impl fmt::Debug for GenerateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerateRequest")
            .field("model", &self.model)
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// The next piece of an answer. The pieces, put together, are the answer.
pub struct Delta {
    /// Text; may be empty when a token ended inside a character.
    pub text: Zeroizing<String>,
    /// Tokens it took.
    pub tokens: u32,
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delta").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// It said it was done.
    Stop,
    /// It reached the token limit or the end of its context.
    Length,
}

/// What an answer cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GenerationStats {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub eval_tokens: u32,
    /// Bytes of reasoning that are not part of the answer.
    pub thinking_bytes: u64,
    /// Time to load the model.
    pub load: Duration,
    /// Time to read the prompt.
    pub prompt_eval: Duration,
    /// Time to write the answer.
    pub eval: Duration,
    /// All of it.
    pub total: Duration,
}

/// A whole answer, never empty.
pub struct Generation {
    /// The answer.
    pub text: Zeroizing<String>,
    /// What it cost.
    pub stats: GenerationStats,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("stats", &self.stats)
            .field("finish_reason", &self.finish_reason)
            .finish_non_exhaustive()
    }
}

/// Something that can answer prompts.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The models it can answer with at present.
    ///
    /// # Errors
    /// When the backend cannot be asked.
    async fn models(&self) -> Result<Vec<ModelDescription>, InferenceError>;

    /// Answers, giving the pieces to `deltas` as they come; a closed channel stops the pieces, not the answer. Dropping
    /// the future ends the generation. The caller limits the time.
    ///
    /// # Errors
    /// When there is no answer, or an empty one.
    async fn generate(
        &self,
        request: GenerateRequest,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Generation, InferenceError>;

    /// What computes, with its version: two answers of one model can differ where this differs.
    fn engine(&self) -> String {
        "unknown".to_owned()
    }

    /// The model's token ids of a text, where the backend can tell; `None` where it cannot, or lacks the model.
    fn tokens(&self, _model: &str, _text: &str) -> Option<Vec<u32>> {
        None
    }
}
