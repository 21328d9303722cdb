//! The comparisons.

use super::{Finding, RungKind, Score};
use async_trait::async_trait;
use lcai_inference::{Backend, Embedder, EmbedderDescription, InferenceError, cosine};
use std::{fmt, sync::Arc};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why two answers could not be compared. Texts hold nothing of either.
#[derive(Debug, Error)]
pub enum RungError {
    /// The embedder gave no vectors.
    #[error("the answers could not be embedded: {0}")]
    Embedder(#[from] InferenceError),
}

/// Two answers to one question. Nothing of it is printed.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// The model's name, whose tokens count.
    pub model: &'a str,
    /// What the worker settled.
    pub claimed: &'a str,
    /// What the model says here.
    pub repeated: &'a str,
}

impl fmt::Debug for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({}, {} and {} bytes)", self.model, self.claimed.len(), self.repeated.len())
    }
}

/// One comparison of two answers. The same pair and the same models give the same finding.
#[async_trait]
pub trait Rung: Send + Sync + 'static {
    /// Which comparison this is.
    fn kind(&self) -> RungKind;

    /// Compares.
    ///
    /// # Errors
    /// When it cannot be said; never because the answers are odd.
    async fn compare(&self, pair: Pair<'_>) -> Result<Finding, RungError>;

    /// The model that compares, where there is one; part of the manifest.
    ///
    /// # Errors
    /// When it cannot be asked.
    async fn embedder(&self) -> Result<Option<EmbedderDescription>, RungError> {
        Ok(None)
    }
}

/// The same bytes: what greedy decoding gives on machines of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteEquality;

#[async_trait]
impl Rung for ByteEquality {
    fn kind(&self) -> RungKind {
        RungKind::Bytes
    }

    async fn compare(&self, pair: Pair<'_>) -> Result<Finding, RungError> {
        let score = if pair.claimed == pair.repeated { Score::FULL } else { Score::ZERO };
        Ok(Finding::Bytes { score, claimed: pair.claimed.len() as u64, repeated: pair.repeated.len() as u64 })
    }
}

/// The longest common prefix in tokens: an honest machine of another kind follows the same path until rounding flips a
/// near tie; another model leaves it early.
pub struct TokenPrefix(Arc<dyn Backend>);

impl TokenPrefix {
    /// Counts in the tokens of the backend's models; in words where it has none.
    pub const fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }
}

impl fmt::Debug for TokenPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenPrefix")
    }
}

#[async_trait]
impl Rung for TokenPrefix {
    fn kind(&self) -> RungKind {
        RungKind::TokenPrefix
    }

    async fn compare(&self, pair: Pair<'_>) -> Result<Finding, RungError> {
        let tokens = |text| self.0.tokens(pair.model, text);
        Ok(match (tokens(pair.claimed), tokens(pair.repeated)) {
            (Some(claimed), Some(repeated)) => prefix(&claimed, &repeated, true),
            _ => prefix(&words(pair.claimed), &words(pair.repeated), false),
        })
    }
}

fn prefix<T: PartialEq>(claimed: &[T], repeated: &[T], model_tokens: bool) -> Finding {
    let common = claimed.iter().zip(repeated).take_while(|(a, b)| a == b).count();
    Finding::TokenPrefix {
        score: Score::ratio(common, claimed.len().max(repeated.len())),
        claimed: claimed.len() as u64,
        repeated: repeated.len() as u64,
        first_divergence: common as u64,
        model_tokens,
    }
}

/// Runs of letters and digits, and every other character by itself.
pub(super) fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut previous) = (0, None::<char>);
    for (at, c) in text.char_indices() {
        let goes_on = previous.is_some_and(|p| p.is_alphanumeric() && c.is_alphanumeric());
        if at > start && !goes_on {
            words.extend(text.get(start..at));
            start = at;
        }
        previous = Some(c);
    }
    words.extend(text.get(start..).filter(|rest| !rest.is_empty()));
    words
}

/// The cosine of sentence embeddings. It tells answers about other things apart, and hardly two answers about one thing
/// of which one is false.
pub struct Similarity(Arc<dyn Embedder>);

impl Similarity {
    /// Compares by this embedder.
    pub fn new(embedder: Arc<dyn Embedder>) -> Self {
        Self(embedder)
    }
}

impl fmt::Debug for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Similarity")
    }
}

#[async_trait]
impl Rung for Similarity {
    fn kind(&self) -> RungKind {
        RungKind::Similarity
    }

    async fn compare(&self, pair: Pair<'_>) -> Result<Finding, RungError> {
        // No words, no meaning: an embedder has nothing to say about an empty answer.
        if pair.claimed.trim().is_empty() || pair.repeated.trim().is_empty() {
            let score = if pair.claimed == pair.repeated { Score::FULL } else { Score::ZERO };
            return Ok(Finding::Similarity { score });
        }
        let texts = [pair.claimed, pair.repeated].map(|text| Zeroizing::new(text.to_owned()));
        let vectors = self.0.embed(texts.into()).await?;
        let score = match vectors.as_slice() {
            [claimed, repeated] => Score::from_cosine(cosine(claimed, repeated)),
            _ => Score::ZERO,
        };
        Ok(Finding::Similarity { score })
    }

    async fn embedder(&self) -> Result<Option<EmbedderDescription>, RungError> {
        Ok(Some(self.0.description().await?))
    }
}
