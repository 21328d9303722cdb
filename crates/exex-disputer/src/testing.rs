//! Backends and embedders that say what a test wants.

use async_trait::async_trait;
use lcai_inference::{
    Backend, Delta, Embedder, EmbedderDescription, FinishReason, GenerateRequest, Generation,
    GenerationStats, InferenceError, ModelDescription,
};
use lcai_primitives::prompt::{ChatInput, Message};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Answers from a list; what is not on it is answered with the question itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) answers: BTreeMap<String, String>,
    /// Takes this long.
    pub(crate) delay: Duration,
}

impl Script {
    /// The whole conversation as one line.
    fn question(input: &ChatInput) -> String {
        match input {
            ChatInput::Generate(text) => text.clone(),
            ChatInput::Chat(messages) => {
                let line = |m: &Message| format!("{}: {}", m.role.as_str(), m.content);
                messages.iter().map(line).collect::<Vec<_>>().join(" | ")
            }
        }
    }
}

#[async_trait]
impl Backend for Script {
    async fn models(&self) -> Result<Vec<ModelDescription>, InferenceError> {
        Ok(vec![ModelDescription { name: "m".into(), digest: "00".repeat(32), context_length: None }])
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        _: mpsc::Sender<Delta>,
    ) -> Result<Generation, InferenceError> {
        tokio::time::sleep(self.delay).await;
        let question = Self::question(&request.input);
        let text = self.answers.get(&question).cloned().unwrap_or(question);
        Ok(Generation {
            text: Zeroizing::new(text),
            stats: GenerationStats::default(),
            finish_reason: FinishReason::Stop,
        })
    }

    fn engine(&self) -> String {
        "script".to_owned()
    }
}

/// Counts letters: texts of the same letters are the same to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LetterEmbedder;

#[async_trait]
impl Embedder for LetterEmbedder {
    async fn description(&self) -> Result<EmbedderDescription, InferenceError> {
        Ok(EmbedderDescription { name: "letters".into(), digest: "11".repeat(32) })
    }

    async fn embed(&self, texts: Vec<Zeroizing<String>>) -> Result<Vec<Vec<f32>>, InferenceError> {
        let vector = |text: &Zeroizing<String>| {
            let mut counts = [0f32; 27];
            for c in text.chars() {
                let place = if c.is_ascii_lowercase() { c as usize - 'a' as usize } else { 26 };
                counts[place] += 1.0;
            }
            let length = counts.iter().map(|c| c * c).sum::<f32>().sqrt();
            counts.iter().map(|c| c / length).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }
}
