//! Repeating a job: from the escrowed key to evidence.

use crate::{
    history::reachable_histories,
    opening::{OpenFault, Opening, is_committed, sealed},
    records::{Case, PriorRef},
    turns::{Turns, Urgency},
    verdict::{Comparison, EVIDENCE_VERSION, Evidence, Ground, Judgement, Ladder, Manifest, Pair, Score},
};
use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use lcai_blob::BlobSource;
use lcai_crypto::{EncryptionSecret, MAX_PLAINTEXT, SessionKey, Zeroizing, answer_tag};
use lcai_host::{Call, HostClient};
use lcai_inference::{Backend, GenerateOptions, GenerateRequest, InferenceError, isa_class};
use lcai_primitives::{
    contracts::{AIConfig, Deployment},
    frames::MAX_CHUNKS,
    history::{PriorAnswer, PriorJob},
    ids::ModelId,
    prompt::{ChatInput, Message, PromptEnvelope, decode_prompt, decode_response},
};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{sync::mpsc, time::timeout};

/// Most histories tried for one job: all that differ from the chain's own in two places of four, and more.
const MAX_HISTORIES: usize = 32;

/// Why there is no verdict. Texts hold nothing of prompt or answer.
#[derive(Debug, Error)]
pub enum JudgeError {
    /// Something did not answer; trying again can help.
    #[error("not now: {0}")]
    NotNow(String),
    /// The time was not enough.
    #[error("the {} s left for the job were not enough", .0.as_secs())]
    OutOfTime(Duration),
    /// It cannot be said, and trying again will not change that. A verdict is not guessed.
    #[error("undecided: {0}")]
    Undecided(#[from] Undecided),
}

/// Why a case cannot be decided.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Undecided {
    /// The session's keys are wrapped for somebody else or a former key, or not at all.
    #[error("no session key is wrapped for this disputer")]
    NotEscrowedHere,
    /// This disputer does not have the model.
    #[error("model {0} is not served here")]
    ModelMissing(String),
    /// The answer does not open under the key that opens the prompt. Worker and disputer may have been given different
    /// keys by the user, so this convicts nobody but the worker of a canary.
    #[error("the answer does not open under the session key")]
    AnswerSealedOtherwise,
    /// A blob of the job or its history is not a payload or does not open.
    #[error("{0}")]
    Unreadable(String),
    /// The prompt breaks its format or asks for what is not done here.
    #[error("the prompt cannot be repeated: {0}")]
    Unrepeatable(String),
}

/// What repeats jobs.
pub struct ReexecutionParts {
    /// The contracts.
    pub deployment: Deployment,
    /// Opens escrowed session keys.
    pub escrow: EncryptionSecret,
    /// Since when users can have wrapped for nothing else than this key, unix seconds of block time; 0 where it is the only
    /// one there ever was. What was wrapped earlier and does not open may be for a former key.
    pub escrow_since: u64,
    /// Runs the models.
    pub backend: Arc<dyn Backend>,
    /// Compares.
    pub ladder: Ladder,
    /// Where blobs come from; every blob must be checked against its versioned hash (`FallbackSource` does).
    pub blobs: Arc<dyn BlobSource>,
    /// The chain.
    pub client: Arc<dyn HostClient>,
    /// Names of the models, which the chain only knows by their hash.
    pub models: Vec<String>,
    /// Blocks that a reorg may go back.
    pub reorg_depth: u64,
    /// Jobs repeated at once.
    pub parallel: usize,
}

impl fmt::Debug for ReexecutionParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReexecutionParts").field("models", &self.models).finish_non_exhaustive()
    }
}

/// Repeats jobs and compares.
pub struct Reexecution {
    parts: ReexecutionParts,
    models: BTreeMap<ModelId, String>,
    turns: Arc<Turns>,
}

impl fmt::Debug for Reexecution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reexecution").field("models", &self.models.values()).finish_non_exhaustive()
    }
}

/// A job opened.
struct Opened {
    envelope: PromptEnvelope,
    key: SessionKey,
    claimed: Zeroizing<String>,
    histories: Vec<Vec<Message>>,
}

impl Reexecution {
    /// Ties the parts together.
    pub fn new(parts: ReexecutionParts) -> Self {
        let models = parts.models.iter().map(|name| (ModelId::from_name(name), name.clone())).collect();
        let turns = Turns::new(parts.parallel);
        Self { parts, models, turns }
    }

    /// The verdict on a case, within `budget`. Disputes come before everything else, by deadline.
    ///
    /// # Errors
    /// When there is none.
    pub async fn judge(&self, case: &Case, budget: Duration) -> Result<Evidence, JudgeError> {
        let judged = async {
            let urgency = if case.canary { Urgency::Canary } else { Urgency::Dispute(case.deadline) };
            let answer = match self.published(case).await? {
                Ok(answer) => answer,
                Err(ground) => return Ok(decided(case, ground)),
            };
            let opening = Opening::escrowed(&case.escrow, &self.parts.escrow, Arc::clone(&self.parts.blobs));
            let opening = match opening {
                Some(opening) => opening,
                None if self.users_fault(case) => return Ok(decided(case, Ground::PromptNotAsEscrowed)),
                None => return Err(Undecided::NotEscrowedHere.into()),
            };
            let opened = match self.open(case, &answer, &opening).await? {
                Ok(opened) => opened,
                Err(ground) => return Ok(decided(case, ground)),
            };
            metrics::gauge!("lcai_disputer_queue").set(self.turns.waiting() as f64);
            let _turn = self.turns.take(urgency).await;
            self.compare(case, &opened).await
        };
        timeout(budget, judged).await.map_err(|_| JudgeError::OutOfTime(budget))?
    }

    /// As [`Self::judge`], for a holder of the session key: whoever verifies a job from chain data.
    ///
    /// # Errors
    /// When there is no verdict.
    pub async fn judge_with_key(&self, case: &Case, key: SessionKey) -> Result<Evidence, JudgeError> {
        let opening = Opening::with_keys(vec![key], Arc::clone(&self.parts.blobs));
        let opening = opening.ok_or(Undecided::NotEscrowedHere)?;
        let answer = match self.published(case).await? {
            Ok(answer) => answer,
            Err(ground) => return Ok(decided(case, ground)),
        };
        match self.open(case, &answer, &opening).await? {
            Ok(opened) => self.compare(case, &opened).await,
            Err(ground) => Ok(decided(case, ground)),
        }
    }

    /// The answer, still sealed; it must be what the worker committed to. By public data alone, so it comes first.
    async fn published(&self, case: &Case) -> Result<Result<Vec<u8>, Ground>, JudgeError> {
        match sealed(self.parts.blobs.as_ref(), case.answer.blob_hash).await {
            Ok(sealed) if is_committed(&sealed, case.answer.ciphertext_hash) => Ok(Ok(sealed)),
            Ok(_) | Err(OpenFault::Framing { .. }) => Ok(Err(Ground::ResponseNotAsCommitted)),
            Err(OpenFault::Missing { .. }) if case.unpublished => Ok(Err(Ground::ResponseNeverPublished)),
            Err(fault) => Err(unopened(&fault)),
        }
    }

    /// Whether it is the user's own fault that the dispute cannot be examined: it escrowed nothing, or what cannot have been
    /// wrapped for a former key. Without this rule whoever escrows noise asks for nothing: a dispute that defaults gives
    /// fee and bond back.
    fn users_fault(&self, case: &Case) -> bool {
        case.by_user && (case.escrow.is_empty() || case.escrowed_at >= self.parts.escrow_since)
    }

    /// Opens everything, or says what decides the case without it.
    async fn open(
        &self,
        case: &Case,
        sealed: &[u8],
        opening: &Opening,
    ) -> Result<Result<Opened, Ground>, JudgeError> {
        let (prompt, key) = match opening.open(case.subject.prompt_blob_hash).await {
            Ok(opened) => opened,
            Err(OpenFault::Sealed(_) | OpenFault::Framing { .. }) if self.users_fault(case) => {
                return Ok(Err(Ground::PromptNotAsEscrowed));
            }
            Err(fault) => return Err(unopened(&fault)),
        };
        let answer = match opening.unseal(sealed) {
            Some((answer, _)) => answer,
            None if case.ours => return Ok(Err(Ground::AnswerNotUnderKey)),
            None => return Err(Undecided::AnswerSealedOtherwise.into()),
        };
        let prompt = decode_prompt(&prompt).map_err(|e| Undecided::Unrepeatable(e.to_string()))?;
        let envelope = prompt.envelope;
        if envelope.audio_response || !envelope.audio.is_empty() {
            return Err(Undecided::Unrepeatable("it asks for voice".to_owned()).into());
        }
        let histories = if envelope.is_self_contained() {
            vec![Vec::new()]
        } else {
            self.histories(case, opening).await?
        };
        let claimed = Zeroizing::new(decode_response(&answer).answer);
        Ok(Ok(Opened { envelope, key: key.clone(), claimed, histories }))
    }

    async fn histories(&self, case: &Case, opening: &Opening) -> Result<Vec<Vec<Message>>, JudgeError> {
        let mut prior = Vec::with_capacity(case.prior.len());
        for job in &case.prior {
            prior.push(prior_job(job, opening).await?);
        }
        let (job, depth) = (case.subject.job_id, self.parts.reorg_depth);
        Ok(reachable_histories(job, case.submit_block, &prior, depth, MAX_HISTORIES))
    }

    /// Repeats the job under each history until one acquits.
    async fn compare(&self, case: &Case, opened: &Opened) -> Result<Evidence, JudgeError> {
        let model = self.models.get(&case.model);
        let model = model.ok_or_else(|| Undecided::ModelMissing(case.model.to_string()))?;
        let threshold = Score::from_bps(case.threshold_bps);
        let manifest = self.manifest(model, case.model).await?;
        let histories = u32::try_from(opened.histories.len()).unwrap_or(u32::MAX);
        let mut best: Option<(u32, Zeroizing<String>, Judgement)> = None;
        for (number, history) in (0u32..).zip(&opened.histories) {
            let input = opened.envelope.chat_input(history);
            let repeated = self.repeat(model, input, manifest.max_tokens).await?;
            let pair = Pair { model, claimed: &opened.claimed, repeated: &repeated };
            let judgement = self.parts.ladder.judge(pair, threshold).await;
            let judgement = judgement.map_err(|e| JudgeError::NotNow(e.to_string()))?;
            let acquitted = !judgement.guilty;
            if best.as_ref().is_none_or(|(_, _, known)| acquitted || judgement.score > known.score) {
                best = Some((number, repeated, judgement));
            }
            if acquitted {
                break;
            }
        }
        let Some((history, repeated, judgement)) = best else {
            return Err(Undecided::Unrepeatable("it has no history at all".to_owned()).into());
        };
        let tag = |answer: &str| answer_tag(&opened.key, case.subject.job_id, answer);
        let (guilty, score) = (judgement.guilty, judgement.score);
        let comparison = Comparison {
            claimed_tag: tag(&opened.claimed),
            repeated_tag: tag(&repeated),
            history,
            histories,
            judgement,
            manifest,
        };
        Ok(evidence(case, guilty, score, Ground::Compared(Box::new(comparison))))
    }

    /// What the model says here, as a worker would settle it.
    async fn repeat(
        &self,
        model: &str,
        input: ChatInput,
        max_tokens: u32,
    ) -> Result<Zeroizing<String>, JudgeError> {
        let options = GenerateOptions::default();
        let request = GenerateRequest { model: model.to_owned(), input, max_tokens, options };
        // Nobody reads the pieces.
        let (deltas, _) = mpsc::channel(1);
        let generation = self.parts.backend.generate(request, deltas).await.map_err(|e| failed(&e))?;
        let mut text = generation.text;
        if text.len() > MAX_PLAINTEXT {
            let end = text.floor_char_boundary(MAX_PLAINTEXT);
            text.truncate(end);
        }
        Ok(text)
    }

    async fn manifest(&self, model: &str, id: ModelId) -> Result<Manifest, JudgeError> {
        let models = self.parts.backend.models().await.map_err(|e| failed(&e))?;
        let found = models.into_iter().find(|found| found.name == model);
        let found = found.ok_or_else(|| Undecided::ModelMissing(model.to_owned()))?;
        let options = GenerateOptions::default();
        let embedder = self.parts.ladder.embedder().await.map_err(|e| JudgeError::NotNow(e.to_string()))?;
        Ok(Manifest {
            model: model.to_owned(),
            model_digest: found.digest,
            engine: self.parts.backend.engine(),
            isa: isa_class().to_owned(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            max_tokens: self.max_tokens(id).await?,
            temperature_milli: (options.temperature * 1000.0) as u32,
            seed: options.seed,
            embedder,
        })
    }

    /// The model's limit, by the rule that workers follow.
    async fn max_tokens(&self, model: ModelId) -> Result<u32, JudgeError> {
        let input = AIConfig::getModelMaxOutputTokensCall { modelId: model.0 }.abi_encode();
        let call = Call { to: self.parts.deployment.ai_config, input: input.into() };
        let data = self.parts.client.call(call, None).await;
        let data = data.map_err(|e| JudgeError::NotNow(e.to_string()))?;
        let tokens = AIConfig::getModelMaxOutputTokensCall::abi_decode_returns(&data)
            .map_err(|_| JudgeError::NotNow("AIConfig gives no token limit for the model".to_owned()))?;
        let most = MAX_CHUNKS / 2;
        Ok(if tokens.is_zero() { most } else { u32::try_from(tokens.min(U256::from(most))).unwrap_or(most) })
    }
}

async fn prior_job(job: &PriorRef, opening: &Opening) -> Result<PriorJob, JudgeError> {
    let (prompt, _) = opening.open(job.prompt_blob_hash).await.map_err(|e| unopened(&e))?;
    let answer = match job.response {
        Some((hash, completion_block)) => {
            let (plain, _) = opening.open(hash).await.map_err(|e| unopened(&e))?;
            Some(PriorAnswer { completion_block, plaintext: plain.to_vec() })
        }
        None => None,
    };
    Ok(PriorJob { job_id: job.job_id, submit_block: job.submit_block, prompt: prompt.to_vec(), answer })
}

fn unopened(fault: &OpenFault) -> JudgeError {
    match fault {
        OpenFault::Missing { .. } => JudgeError::NotNow(fault.to_string()),
        OpenFault::Framing { .. } | OpenFault::Sealed(_) => Undecided::Unreadable(fault.to_string()).into(),
    }
}

fn failed(error: &InferenceError) -> JudgeError {
    match error {
        InferenceError::ModelMissing(model) => Undecided::ModelMissing(model.clone()).into(),
        InferenceError::Unsupported(_) | InferenceError::Empty => {
            Undecided::Unrepeatable(error.to_string()).into()
        }
        other => JudgeError::NotNow(other.to_string()),
    }
}

/// A verdict that needs no comparison.
fn decided(case: &Case, ground: Ground) -> Evidence {
    let guilty = !matches!(ground, Ground::PromptNotAsEscrowed);
    evidence(case, guilty, if guilty { Score::ZERO } else { Score::FULL }, ground)
}

fn evidence(case: &Case, guilty: bool, score: Score, ground: Ground) -> Evidence {
    Evidence {
        version: EVIDENCE_VERSION,
        subject: case.subject,
        response_blob_hash: case.answer.blob_hash,
        response_ciphertext_hash: case.answer.ciphertext_hash,
        guilty,
        score,
        ground,
    }
}
