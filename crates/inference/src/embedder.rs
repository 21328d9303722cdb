//! Sentence embeddings behind one trait: [`MiniLm`] in this process, [`OllamaEmbedder`] over Ollama's `/api/embed`.

mod mini_lm;
mod ollama;

pub use mini_lm::MiniLm;
pub use ollama::OllamaEmbedder;

use crate::InferenceError;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// An embedding model, as a verdict's manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EmbedderDescription {
    /// Its name.
    pub name: String,
    /// SHA-256 of its weights, 64 lowercase hex digits.
    pub digest: String,
}

/// Something that turns texts into vectors whose cosine says how alike they are.
#[async_trait]
pub trait Embedder: Send + Sync + 'static {
    /// The model.
    ///
    /// # Errors
    /// When the embedder cannot be asked.
    async fn description(&self) -> Result<EmbedderDescription, InferenceError>;

    /// One vector of length 1 for each text, in order.
    ///
    /// # Errors
    /// When a text is empty or there is no answer.
    async fn embed(&self, texts: Vec<Zeroizing<String>>) -> Result<Vec<Vec<f32>>, InferenceError>;
}

/// The vector scaled to length 1; `None` when it has none, or is not finite.
fn normalized(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return None;
    }
    for x in &mut vector {
        *x = (f64::from(*x) / length) as f32;
    }
    Some(vector)
}

/// The cosine of two vectors of length 1, in -1 to 1; 0 when their dimensions differ.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    product.clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_get_length_one_or_are_refused() {
        assert_eq!(normalized(vec![3.0, 4.0]), Some(vec![0.6, 0.8]));
        assert_eq!(normalized(vec![0.0, 0.0]), None);
        assert_eq!(normalized(vec![f32::NAN, 1.0]), None);
        assert_eq!(normalized(Vec::new()), None);
    }

    #[test]
    fn cosine_of_unit_vectors() {
        assert_eq!(cosine(&[1.0, 0.0], &[1.0, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-1.0, 0.0]), -1.0);
        assert_eq!(cosine(&[1.0], &[1.0, 0.0]), 0.0);
    }
}
