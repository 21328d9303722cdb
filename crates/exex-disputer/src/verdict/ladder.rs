//! From the strictest comparison to the most lenient.

use super::{ByteEquality, Finding, Pair, Rung, RungError, RungKind, Score, Similarity, TokenPrefix};
use lcai_inference::{Backend, Embedder, EmbedderDescription};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// What comparing came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// Whether the answer is not the model's.
    pub guilty: bool,
    /// The best score of all comparisons made.
    pub score: Score,
    /// What the score had to reach.
    pub threshold: Score,
    /// The comparison that gave the score.
    pub decided_by: RungKind,
    /// Everything compared, in order; the first that reaches the threshold is the last.
    pub findings: Vec<Finding>,
}

/// The comparisons in order. The first that reaches the threshold acquits, because each is a sufficient reason to
/// believe that the model said it; who reaches it on none is guilty.
#[derive(Clone)]
pub struct Ladder(Vec<Arc<dyn Rung>>);

impl fmt::Debug for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|rung| rung.kind())).finish()
    }
}

impl Ladder {
    /// Bytes, then tokens, then meaning where there is an embedder.
    pub fn new(backend: Arc<dyn Backend>, embedder: Option<Arc<dyn Embedder>>) -> Self {
        let mut rungs: Vec<Arc<dyn Rung>> = vec![Arc::new(ByteEquality), Arc::new(TokenPrefix::new(backend))];
        if let Some(embedder) = embedder {
            rungs.push(Arc::new(Similarity::new(embedder)));
        }
        Self(rungs)
    }

    /// Which comparisons it makes.
    pub fn kinds(&self) -> Vec<RungKind> {
        self.0.iter().map(|rung| rung.kind()).collect()
    }

    /// The embedding model, where one compares.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn embedder(&self) -> Result<Option<EmbedderDescription>, RungError> {
        for rung in &self.0 {
            if let Some(embedder) = rung.embedder().await? {
                return Ok(Some(embedder));
            }
        }
        Ok(None)
    }

    /// Compares until a rung reaches the threshold.
    ///
    /// # Errors
    /// When a comparison that is needed cannot be made: then nothing is said.
    pub async fn judge(&self, pair: Pair<'_>, threshold: Score) -> Result<Judgement, RungError> {
        let mut judgement = Judgement {
            guilty: true,
            score: Score::ZERO,
            threshold,
            decided_by: RungKind::Bytes,
            findings: Vec::with_capacity(self.0.len()),
        };
        for rung in &self.0 {
            let finding = rung.compare(pair).await?;
            judgement.findings.push(finding);
            if finding.score() > judgement.score {
                (judgement.score, judgement.decided_by) = (finding.score(), finding.kind());
            }
            if finding.score() >= threshold {
                judgement.guilty = false;
                break;
            }
        }
        Ok(judgement)
    }
}
