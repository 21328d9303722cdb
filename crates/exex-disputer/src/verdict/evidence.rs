//! What is published with a verdict: enough for whoever holds the session key to repeat it, and nothing of the answers.

use super::{Judgement, Manifest, Score};
use alloy_primitives::B256;
use lcai_crypto::{SessionKey, answer_tag};
use lcai_primitives::ids::{JobId, Subject};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of the evidence's form.
pub const EVIDENCE_VERSION: u32 = 2;

/// Why bytes are not evidence.
#[derive(Debug, Error)]
pub enum EvidenceError {
    /// Not JSON of the form.
    #[error("evidence cannot be read: {0}")]
    Malformed(String),
    /// Of a later form.
    #[error("evidence of version {0}, this program reads {EVIDENCE_VERSION}")]
    Version(u32),
}

/// A verdict's evidence. The blob that holds it is public, so answers appear as tags under the session key only: a plain
/// hash of a short answer could be guessed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// [`EVIDENCE_VERSION`].
    pub version: u32,
    /// The job, with the reference of its prompt.
    pub subject: Subject,
    /// Versioned hash of the blob with the worker's answer.
    pub response_blob_hash: B256,
    /// keccak256 of the sealed answer, as committed on chain.
    pub response_ciphertext_hash: B256,
    /// Whether the worker is guilty.
    pub guilty: bool,
    /// What is sent with the verdict.
    pub score: Score,
    /// Why.
    pub ground: Ground,
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ground {
    /// The job was repeated and the answers compared.
    Compared(Box<Comparison>),
    /// The response blob holds other bytes than the worker committed to: guilty, by public data alone.
    ResponseNotAsCommitted,
    /// No block included the response blob, and nobody has it: guilty, by public data alone. Since version 2.
    ResponseNeverPublished,
    /// The answer to a canary does not open under the key that was wrapped for its worker: guilty, because the disputer
    /// itself wrapped it. Since version 2.
    AnswerNotUnderKey,
    /// The prompt does not open under a session key that its user escrowed for the disputer: not guilty, because who files
    /// a dispute must let it be examined.
    PromptNotAsEscrowed,
}

/// Two answers compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// [`answer_tag()`] of the worker's answer.
    pub claimed_tag: B256,
    /// [`answer_tag()`] of the repeated one.
    pub repeated_tag: B256,
    /// Which of the histories reachable under recent reorgs it was compared under, 0 the chain's own; of several tried
    /// the one with the best score.
    pub history: u32,
    /// How many there were.
    pub histories: u32,
    /// What comparing came to.
    pub judgement: Judgement,
    /// What the repeated answer was computed with.
    pub manifest: Manifest,
}

impl Evidence {
    /// As published: JSON. The same evidence gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        // A struct of hashes, texts and numbers always encodes.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From a blob's payload.
    ///
    /// # Errors
    /// When it is not evidence of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let malformed = |e: serde_json::Error| EvidenceError::Malformed(e.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if !(1..=EVIDENCE_VERSION).contains(&version) {
            return Err(EvidenceError::Version(version));
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}

impl Comparison {
    /// Whether the tags are those of these answers under the session key.
    pub fn is_about(&self, key: &SessionKey, job: JobId, claimed: &str, repeated: &str) -> bool {
        answer_tag(key, job, claimed) == self.claimed_tag
            && answer_tag(key, job, repeated) == self.repeated_tag
    }
}
