//! all-MiniLM-L6-v2 on the CPU, by candle.

use super::{Embedder, EmbedderDescription, normalized};
use crate::{InferenceError, embedded::digest_of};
use async_trait::async_trait;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use std::{fmt, fs, path::Path, sync::Arc};
use tokenizers::Tokenizer;
use zeroize::Zeroizing;

/// Tokens the model reads at a time, its two marks included (`max_seq_length` of its sentence-transformers files).
const WINDOW: usize = 256;

/// A sentence-transformers model of BERT's architecture with mean pooling, as all-MiniLM-L6-v2 is.
pub struct MiniLm {
    loaded: Arc<Loaded>,
    name: String,
    digest: String,
}

struct Loaded {
    model: BertModel,
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
}

impl fmt::Debug for MiniLm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MiniLm")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl MiniLm {
    /// Loads `config.json`, `tokenizer.json` and `model.safetensors` from a directory; blocks while it reads.
    ///
    /// # Errors
    /// When a file is missing or not what it should be.
    pub fn load(directory: &Path) -> Result<Self, InferenceError> {
        let failed = |file: &str, reason: String| InferenceError::Load {
            path: directory.join(file).display().to_string(),
            reason,
        };
        let (config, tokenizer, weights) = ("config.json", "tokenizer.json", "model.safetensors");
        let text = fs::read(directory.join(config)).map_err(|e| failed(config, e.to_string()))?;
        let parsed: Config = serde_json::from_slice(&text).map_err(|e| failed(config, e.to_string()))?;
        let mut words =
            Tokenizer::from_file(directory.join(tokenizer)).map_err(|e| failed(tokenizer, e.to_string()))?;
        // Windows are cut here, and nothing is padded.
        words.with_padding(None).with_truncation(None).map_err(|e| failed(tokenizer, e.to_string()))?;
        let mark = |mark: &str| {
            words.token_to_id(mark).ok_or_else(|| failed(tokenizer, format!("its vocabulary lacks {mark}")))
        };
        let (start, end) = (mark("[CLS]")?, mark("[SEP]")?);
        let digest = digest_of(&directory.join(weights)).map_err(|e| failed(weights, e.to_string()))?;
        let bytes = fs::read(directory.join(weights)).map_err(|e| failed(weights, e.to_string()))?;
        let model = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)
            .and_then(|tensors| BertModel::load(tensors, &parsed))
            .map_err(|e| failed(weights, e.to_string()))?;
        let loaded = Arc::new(Loaded { model, tokenizer: words, start, end });
        Ok(Self { loaded, name: "all-MiniLM-L6-v2".to_owned(), digest })
    }
}

impl Loaded {
    /// The mean of the token vectors over all windows of the text, at length 1. For a text of one window this is what
    /// sentence-transformers gives; a longer one is read whole instead of being cut, or its end could be anything.
    fn embed(&self, text: &str) -> Result<Vec<f32>, InferenceError> {
        let failed = |e: candle_core::Error| InferenceError::Failed(e.to_string());
        // The error of a tokenizer could quote the text.
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|_| InferenceError::Failed("the text cannot be tokenised".to_owned()))?;
        let mut sum: Option<Tensor> = None;
        for window in encoding.get_ids().chunks(WINDOW - 2) {
            let ids: Vec<u32> = [self.start].iter().chain(window).chain([self.end].iter()).copied().collect();
            let ids =
                Tensor::new(ids.as_slice(), &Device::Cpu).and_then(|t| t.unsqueeze(0)).map_err(failed)?;
            let kinds = ids.zeros_like().map_err(failed)?;
            let vectors =
                self.model.forward(&ids, &kinds, None).and_then(|t| t.squeeze(0)).map_err(failed)?;
            let window = vectors.sum(0).map_err(failed)?;
            sum = Some(match sum {
                Some(sum) => (sum + window).map_err(failed)?,
                None => window,
            });
        }
        let sum = sum.ok_or(InferenceError::Empty)?.to_vec1::<f32>().map_err(failed)?;
        normalized(sum).ok_or_else(|| InferenceError::Failed("the embedding has no direction".to_owned()))
    }
}

#[async_trait]
impl Embedder for MiniLm {
    async fn description(&self) -> Result<EmbedderDescription, InferenceError> {
        Ok(EmbedderDescription { name: self.name.clone(), digest: self.digest.clone() })
    }

    async fn embed(&self, texts: Vec<Zeroizing<String>>) -> Result<Vec<Vec<f32>>, InferenceError> {
        let loaded = Arc::clone(&self.loaded);
        tokio::task::spawn_blocking(move || texts.iter().map(|text| loaded.embed(text)).collect())
            .await
            .map_err(|_| InferenceError::Failed("the embedding panicked".to_owned()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cosine;

    fn model() -> MiniLm {
        let directory =
            std::env::var_os("LCAI_MINILM_DIR").expect("LCAI_MINILM_DIR names the model's directory");
        MiniLm::load(Path::new(&directory)).unwrap()
    }

    fn texts(texts: &[&str]) -> Vec<Zeroizing<String>> {
        texts.iter().map(|text| Zeroizing::new((*text).to_owned())).collect()
    }

    /// The similarities that the model's page on Hugging Face gives for its own example.
    #[tokio::test]
    #[ignore = "needs the model: LCAI_MINILM_DIR"]
    async fn similarities_are_those_of_the_model_card() {
        let model = model();
        let said = model
            .embed(texts(&[
                "That is a happy person",
                "That is a happy dog",
                "That is a very happy person",
                "Today is a sunny day",
            ]))
            .await
            .unwrap();
        for (other, expected) in said.iter().skip(1).zip([0.694_577, 0.942_915, 0.256_876]) {
            let found = cosine(&said[0], other);
            assert!((found - expected).abs() < 1e-3, "{found} instead of {expected}");
        }
    }

    /// A text longer than a window is read to its end.
    #[tokio::test]
    #[ignore = "needs the model: LCAI_MINILM_DIR"]
    async fn the_end_of_a_long_text_counts() {
        let model = model();
        let body = "The river rises in the mountains and flows to the sea. ".repeat(40);
        let other = format!("{body}{}", "Stock prices fell sharply on Monday. ".repeat(60));
        let said = model.embed(texts(&[&body, &other])).await.unwrap();
        assert!(cosine(&said[0], &said[1]) < 0.95);
        assert_eq!(model.embed(texts(&[""])).await, Err(InferenceError::Empty));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = MiniLm::load(Path::new("/nonexistent/minilm")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/minilm/config.json"), "{error}");
    }
}
