//! What a repeated answer was computed with.

use alloy_primitives::{B256, keccak256};
use lcai_inference::EmbedderDescription;
use serde::{Deserialize, Serialize};

/// Everything a verdict depends on beside the two answers: on machines with equal manifests the verdict is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The model's name as the chain knows it.
    pub model: String,
    /// SHA-256 of the weights, 64 hex digits.
    pub model_digest: String,
    /// What computed, with its version.
    pub engine: String,
    /// Class of instruction set, [`lcai_inference::isa_class`].
    pub isa: String,
    /// Version of this program, whose rules for prompts and comparisons apply.
    pub program: String,
    /// Most tokens the answer may have.
    pub max_tokens: u32,
    /// Temperature in thousandths; 0 is greedy decoding.
    pub temperature_milli: u32,
    /// Seed of the sampler.
    pub seed: u64,
    /// The embedding model, where one compares.
    pub embedder: Option<EmbedderDescription>,
}

impl Manifest {
    /// keccak256 of the manifest as JSON.
    pub fn hash(&self) -> B256 {
        // A struct of texts and numbers always encodes.
        keccak256(serde_json::to_vec(self).unwrap_or_default())
    }
}
