//! Whether an answer is the model's: the ladder of comparisons, and what came of it.

mod evidence;
mod ladder;
mod manifest;
mod rungs;
#[cfg(test)]
mod tests;

pub use evidence::{Comparison, EVIDENCE_VERSION, Evidence, EvidenceError, Ground};
pub use ladder::{Judgement, Ladder};
pub use manifest::Manifest;
pub use rungs::{ByteEquality, Pair, Rung, RungError, Similarity, TokenPrefix};

use serde::{Deserialize, Serialize};
use std::fmt;

/// How alike two answers are, in basis points: 0 to 10,000, as `resolveDispute` takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Score(u16);

impl Score {
    /// The same.
    pub const FULL: Self = Self(10_000);
    /// Nothing in common.
    pub const ZERO: Self = Self(0);

    /// `part` of `whole`, rounded down; [`Self::ZERO`] of nothing.
    pub fn ratio(part: usize, whole: usize) -> Self {
        let (part, whole) = (part.min(whole) as u128, whole as u128);
        let bps = (part * 10_000).checked_div(whole).unwrap_or(0);
        Self(u16::try_from(bps).unwrap_or(10_000))
    }

    /// A cosine, rounded down; what points away counts as nothing in common.
    pub fn from_cosine(cosine: f64) -> Self {
        // NaN becomes 0 by the cast's rule; the largest is 10,000.
        Self((cosine.clamp(0.0, 1.0) * 10_000.0) as u16)
    }

    /// From basis points. What is above 10,000 stays so: a threshold that no answer reaches.
    pub const fn from_bps(bps: u16) -> Self {
        Self(bps)
    }

    /// Basis points.
    pub const fn bps(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bps", self.0)
    }
}

/// Which comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RungKind {
    /// The same bytes.
    Bytes,
    /// The same tokens from the start.
    TokenPrefix,
    /// The same meaning, as far as an embedding tells.
    Similarity,
}

/// What one comparison found. Holds no text of either answer: it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rung", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Finding {
    /// Byte equality.
    Bytes {
        /// 10,000 when equal, else 0.
        score: Score,
        /// Bytes of the worker's answer.
        claimed: u64,
        /// Bytes of the repeated one.
        repeated: u64,
    },
    /// Longest common token prefix.
    TokenPrefix {
        /// Common tokens as a part of the longer answer.
        score: Score,
        /// Tokens of the worker's answer.
        claimed: u64,
        /// Tokens of the repeated one.
        repeated: u64,
        /// Position of the first token that differs, from 0; the common prefix is as long.
        first_divergence: u64,
        /// Whether these are the model's own tokens; words and marks otherwise.
        model_tokens: bool,
    },
    /// Sentence embedding.
    Similarity {
        /// The cosine.
        score: Score,
    },
}

impl Finding {
    /// How alike the answers are by this comparison.
    pub const fn score(&self) -> Score {
        match self {
            Self::Bytes { score, .. } | Self::TokenPrefix { score, .. } | Self::Similarity { score } => {
                *score
            }
        }
    }

    /// Which comparison it is.
    pub const fn kind(&self) -> RungKind {
        match self {
            Self::Bytes { .. } => RungKind::Bytes,
            Self::TokenPrefix { .. } => RungKind::TokenPrefix,
            Self::Similarity { .. } => RungKind::Similarity,
        }
    }
}
