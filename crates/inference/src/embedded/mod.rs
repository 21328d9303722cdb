//! Inference in this process: a llama-architecture GGUF on the CPU, by candle.

mod conversation;
mod tokenizer;

use crate::{
    Backend, Delta, FinishReason, GenerateRequest, Generation, GenerationStats, InferenceError,
    ModelDescription,
};
use async_trait::async_trait;
use candle_core::{Device, Tensor, quantized::gguf_file};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};
use conversation::ChatMl;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{BufReader, Cursor},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokenizer::{Tokenizer, Utf8Stream};
use tokio::sync::{Semaphore, mpsc};
use zeroize::Zeroizing;

/// candle's version, a part of the engine's name; a test compares it with the lock file.
const CANDLE: &str = "0.11.1";

/// A model file to serve.
#[derive(Debug, Clone)]
pub struct EmbeddedModel {
    /// The model's name as the chain knows it.
    pub name: String,
    /// The GGUF file.
    pub path: PathBuf,
    /// SHA-256 the file must have, hex; `None` takes any.
    pub digest: Option<String>,
}

/// A backend that needs nothing but model files.
pub struct EmbeddedBackend {
    models: BTreeMap<String, Arc<Loaded>>,
    slots: Arc<Semaphore>,
}

impl fmt::Debug for EmbeddedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBackend").field("models", &self.models.keys()).finish_non_exhaustive()
    }
}

struct Loaded {
    /// Never run: a run takes a copy, which shares the weights and has an empty key/value cache.
    weights: ModelWeights,
    tokenizer: Tokenizer,
    template: ChatMl,
    end_of_text: u32,
    context: usize,
    digest: String,
}

impl EmbeddedBackend {
    /// Loads the models; blocks while it reads the files. `parallel` (at least 1) runs may go on at once, further ones
    /// wait for their turn.
    ///
    /// # Errors
    /// When a file cannot be read, is not a llama GGUF with a tokenizer and template we know, or has another digest.
    pub fn load(models: &[EmbeddedModel], parallel: usize) -> Result<Self, InferenceError> {
        let models = models
            .iter()
            .map(|model| Ok((model.name.clone(), Arc::new(Loaded::open(model)?))))
            .collect::<Result<_, InferenceError>>()?;
        Ok(Self { models, slots: Arc::new(Semaphore::new(parallel.max(1))) })
    }
}

impl Loaded {
    fn open(model: &EmbeddedModel) -> Result<Self, InferenceError> {
        let failed = |reason: String| InferenceError::Load { path: model.path.display().to_string(), reason };
        let digest = digest_of(&model.path).map_err(|e| failed(e.to_string()))?;
        if let Some(expected) = model.digest.as_ref().filter(|d| !d.eq_ignore_ascii_case(&digest)) {
            return Err(InferenceError::DigestMismatch {
                model: model.name.clone(),
                expected: expected.clone(),
                found: digest,
            });
        }
        let bytes = fs::read(&model.path).map_err(|e| failed(e.to_string()))?;
        Self::parse(&bytes, digest).map_err(failed)
    }

    fn parse(bytes: &[u8], digest: String) -> Result<Self, String> {
        let mut reader = Cursor::new(bytes);
        let content = gguf_file::Content::read(&mut reader).map_err(|e| e.to_string())?;
        let text = |key: &str| content.metadata.get(key).and_then(|v| v.to_string().ok()).map(String::as_str);
        let number = |key: &str| content.metadata.get(key).and_then(|v| v.to_u32().ok());
        match text("general.architecture") {
            Some("llama") => {}
            other => {
                return Err(format!(
                    "its architecture is {}, only llama is supported",
                    other.unwrap_or("missing")
                ));
            }
        }
        let tokenizer = Tokenizer::from_gguf(&content)?;
        let template = ChatMl::new(text("tokenizer.chat_template"), &tokenizer)?;
        let end_of_text =
            number("tokenizer.ggml.eos_token_id").ok_or("metadata lacks tokenizer.ggml.eos_token_id")?;
        let context = number("llama.context_length").ok_or("metadata lacks llama.context_length")?;
        let context = usize::try_from(context).unwrap_or(MAX_SEQ_LEN).min(MAX_SEQ_LEN);
        let weights =
            ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).map_err(|e| e.to_string())?;
        Ok(Self { weights, tokenizer, template, end_of_text, context, digest })
    }

    /// Generates until the model ends, the limit is reached or `stop` is set. Greedy: the first of the highest logits.
    fn run(
        &self,
        request: &GenerateRequest,
        deltas: &mpsc::Sender<Delta>,
        stop: &AtomicBool,
    ) -> Result<Generation, InferenceError> {
        let started = Instant::now();
        let turns = conversation::turns(&request.input).ok_or(InferenceError::Unsupported("images"))?;
        let wanted = usize::try_from(request.max_tokens).unwrap_or(usize::MAX).max(1);
        // At least three quarters of the context are the prompt's when it needs them.
        let room = self.context.saturating_sub(wanted.min(self.context / 4));
        let prompt = self.template.encode(&self.tokenizer, &turns, room);
        let limit = wanted.min(self.context.saturating_sub(prompt.len()));

        let mut run = Run { weights: self.weights.clone(), position: 0 };
        let mut next = run.feed(&prompt)?;
        let prompt_eval = started.elapsed();

        let (mut text, mut utf8, mut count) = (Zeroizing::new(String::new()), Utf8Stream::default(), 0u32);
        let send = |piece: String, tokens: u32, text: &mut Zeroizing<String>| {
            text.push_str(&piece);
            if !piece.is_empty() {
                // A reader that is gone ends the pieces; a slow one slows the run, which bounds memory.
                let _ = deltas.blocking_send(Delta { text: Zeroizing::new(piece), tokens });
            }
        };
        let (mut unsent, mut finish_reason) = (0u32, FinishReason::Length);
        for _ in 0..limit {
            if stop.load(Ordering::Relaxed) {
                return Err(InferenceError::Failed("cancelled".to_owned()));
            }
            if next == self.end_of_text || next == self.template.end() {
                finish_reason = FinishReason::Stop;
                break;
            }
            (count, unsent) = (count + 1, unsent + 1);
            let piece = utf8.push(self.tokenizer.bytes_of(next));
            if !piece.is_empty() {
                send(piece, std::mem::take(&mut unsent), &mut text);
            }
            if usize::try_from(count).is_ok_and(|count| count < limit) {
                next = run.feed(&[next])?;
            }
        }
        send(utf8.finish(), unsent, &mut text);
        if text.trim().is_empty() {
            return Err(InferenceError::Empty);
        }
        let total = started.elapsed();
        let stats = GenerationStats {
            prompt_tokens: u32::try_from(prompt.len()).unwrap_or(u32::MAX),
            eval_tokens: count,
            prompt_eval,
            eval: total.saturating_sub(prompt_eval),
            total,
            ..GenerationStats::default()
        };
        Ok(Generation { text, stats, finish_reason })
    }
}

/// One conversation's run through the model.
struct Run {
    weights: ModelWeights,
    position: usize,
}

impl Run {
    /// Feeds tokens and gives the most likely next one.
    fn feed(&mut self, tokens: &[u32]) -> Result<u32, InferenceError> {
        let failed = |e: candle_core::Error| InferenceError::Failed(e.to_string());
        let input = Tensor::new(tokens, &Device::Cpu).and_then(|t| t.unsqueeze(0)).map_err(failed)?;
        let logits = self.weights.forward(&input, self.position).map_err(failed)?;
        self.position += tokens.len();
        let logits = logits.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(failed)?;
        let mut best = (0u32, f32::NEG_INFINITY);
        for (id, logit) in (0u32..).zip(logits) {
            if logit > best.1 {
                best = (id, logit);
            }
        }
        Ok(best.0)
    }
}

pub(crate) fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut BufReader::new(fs::File::open(path)?), &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

/// Tells a blocking run to stop when the future that waits for it is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Backend for EmbeddedBackend {
    fn engine(&self) -> String {
        format!("candle {CANDLE}")
    }

    fn tokens(&self, model: &str, text: &str) -> Option<Vec<u32>> {
        self.models.get(model).map(|model| model.tokenizer.encode(text))
    }

    async fn models(&self) -> Result<Vec<ModelDescription>, InferenceError> {
        Ok(self
            .models
            .iter()
            .map(|(name, model)| ModelDescription {
                name: name.clone(),
                digest: model.digest.clone(),
                context_length: u32::try_from(model.context).ok(),
            })
            .collect())
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Generation, InferenceError> {
        let model = self.models.get(&request.model).cloned();
        let model = model.ok_or_else(|| InferenceError::ModelMissing(request.model.clone()))?;
        if request.options.temperature != 0.0 {
            return Err(InferenceError::Unsupported("sampling; only temperature 0"));
        }
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| InferenceError::Failed("the backend is closed".to_owned()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let guard = StopOnDrop(Arc::clone(&stop));
        let result = tokio::task::spawn_blocking(move || {
            // Held until the run has really ended, also when nobody waits for it any more.
            let _slot = slot;
            model.run(&request, &deltas, &stop)
        })
        .await
        .map_err(|e| {
            InferenceError::Failed(format!("the run panicked or was cancelled: {}", e.is_panic()))
        })?;
        drop(guard);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::CANDLE;

    #[test]
    fn the_engine_names_the_version_in_use() {
        let lock = include_str!("../../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"candle-core\"\nversion = \"{CANDLE}\"\n")));
    }
}
