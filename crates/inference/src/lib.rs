//! Model backends behind one trait: [`OllamaBackend`] over Ollama's HTTP API, [`EmbeddedBackend`] in this process.
//!
//! A backend answers one prompt or conversation, streams the answer as it grows and reports what it cost. Prompts and
//! answers are plaintext of users: no type here prints them, and no error text holds any of them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod backend;
mod embedded;
mod embedder;
mod error;
mod isa;
mod ollama;
mod source;

pub use backend::{
    Backend, Delta, FinishReason, GenerateOptions, GenerateRequest, Generation, GenerationStats,
    ModelDescription,
};
pub use embedded::{EmbeddedBackend, EmbeddedModel};
pub use embedder::{Embedder, EmbedderDescription, MiniLm, OllamaEmbedder, cosine};
pub use error::InferenceError;
pub use isa::isa_class;
pub use ollama::{OllamaBackend, OllamaConfig, OllamaModel};
pub use source::{ModelSource, ModelSourceError};
