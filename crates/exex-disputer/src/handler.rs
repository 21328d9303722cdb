//! The disputer's effects: judging, publishing evidence, ruling.
//!
//! Every effect may be called again at any time: after a crash, after a reorg, because the last attempt failed. Each one
//! therefore first looks what has happened already, on chain and in the node's own records.

use crate::{
    canary::Seeds,
    core::action,
    plan::job_call,
    records::Case,
    reexecution::{JudgeError, Reexecution},
    verdict::Evidence,
    verdicts::{Judged, Posted, VerdictStoreError, Verdicts},
};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use lcai_blob::{
    BlobError, BlobTransactionSidecarVariant, SidecarForm, blob_versioned_hash, build_sidecar, encode,
};
use lcai_host::{
    Call, Clock, EffectContext, EffectHandler, EffectOutcome, HostClient, Intent, LaneError, Sent, TxLane,
    TxSpec,
};
use lcai_primitives::{
    JobState,
    contracts::{self, AIConfig, Deployment, JobRegistry},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

#[cfg(test)]
mod tests;

mod canaries;

pub use canaries::{CanaryFiler, FilingError};

/// Gas of a transfer without calldata.
const TRANSFER_GAS: u64 = 21_000;

/// Most seconds kept free at the end of a dispute's time for publishing and ruling.
const MOST_RESERVED: u64 = 120;

/// What the handler works with.
pub struct DisputeParts {
    /// The contracts.
    pub deployment: Deployment,
    /// Repeats jobs.
    pub reexecution: Arc<Reexecution>,
    /// What was judged and signed.
    pub verdicts: Verdicts,
    /// Ordinary transactions of the disputer's account.
    pub lane: Arc<TxLane>,
    /// Blob transactions of the disputer's blob account.
    pub blobs: Arc<TxLane>,
    /// The secrets of our canaries, where this node runs them.
    pub seeds: Option<Seeds>,
    /// Files disputes as canaries' accounts, once canaries are sent.
    pub filer: Arc<OnceLock<Arc<dyn CanaryFiler>>>,
    /// Unix seconds from which the chain takes EIP-7594 sidecars (Osaka); `None`: not scheduled.
    pub osaka_time: Option<u64>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for DisputeParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DisputeParts").field("account", &self.lane.account()).finish_non_exhaustive()
    }
}

/// Performs the disputer's effects.
pub struct DisputeHandler {
    parts: DisputeParts,
    /// Subjects that are being ruled on: two intents of one dispute wait for each other.
    ruling: Mutex<HashSet<B256>>,
}

impl fmt::Debug for DisputeHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DisputeHandler").field("account", &self.parts.lane.account()).finish_non_exhaustive()
    }
}

/// What is left of an effect that cannot go on.
type Step<T = EffectOutcome> = Result<T, EffectOutcome>;

/// A subject that is being ruled on, until dropped.
struct Ruling<'a>(&'a Mutex<HashSet<B256>>, B256);

impl Drop for Ruling<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl DisputeHandler {
    /// Ties the parts together.
    pub fn new(parts: DisputeParts) -> Self {
        Self { parts, ruling: Mutex::new(HashSet::new()) }
    }

    async fn with_case(&self, intent: &Intent, then: impl AsyncFnOnce(Case) -> Step) -> Step {
        then(payload(&intent.payload)?).await
    }

    /// Repeats the job and keeps what came of it. Nothing leaves the node.
    async fn judge(&self, case: &Case) -> Step {
        let answer = case.answer.ciphertext_hash;
        if self.parts.verdicts.judged(&case.subject, answer).await.map_err(storage)?.is_some() {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        let left = case.deadline.saturating_sub(self.parts.clock.now());
        let budget = Duration::from_secs(left.saturating_sub((left / 4).min(MOST_RESERVED)));
        if budget.is_zero() {
            return Err(abandon("no time is left for it"));
        }
        let job = case.subject.job_id;
        let judged = match self.parts.reexecution.judge(case, budget).await {
            Ok(evidence) => {
                tracing::info!(%job, guilty = evidence.guilty, score = evidence.score.bps(), "job judged");
                metrics::counter!("lcai_disputer_judged_total", "guilty" => evidence.guilty.to_string())
                    .increment(1);
                Judged::Decided(evidence.encode())
            }
            Err(JudgeError::NotNow(reason)) => return Err(retry(1_000, reason)),
            Err(error) => {
                tracing::warn!(%job, %error, "no verdict: it is not guessed");
                metrics::counter!("lcai_disputer_undecided_total").increment(1);
                Judged::Undecided(error.to_string())
            }
        };
        self.parts.verdicts.keep_judged(&case.subject, answer, &judged).await.map_err(storage)?;
        Ok(EffectOutcome::Done(Vec::new()))
    }

    /// Publishes the evidence and rules, unless the chain shows that this has been done.
    async fn resolve(&self, case: &Case, client: &dyn HostClient) -> Step {
        let subject = case.subject.id();
        if !self.ruling.lock().insert(subject) {
            return Err(retry(500, "it is being ruled on"));
        }
        let _ruling = Ruling(&self.ruling, subject);
        if let Some(outcome) = self.ended(case, client).await? {
            return Ok(outcome);
        }
        let evidence = self.verdict(case).await?;
        let posted = self.publish(&evidence, client).await?;
        // Publishing took a block or more.
        if let Some(outcome) = self.ended(case, client).await? {
            return Ok(outcome);
        }
        let hash = self.rule(case, &evidence, posted.versioned_hash).await?;
        let job = case.subject.job_id;
        tracing::info!(%job, guilty = evidence.guilty, score = evidence.score.bps(), transaction = %hash, "ruled");
        metrics::counter!("lcai_disputer_verdicts_total", "guilty" => evidence.guilty.to_string())
            .increment(1);
        Ok(EffectOutcome::Done(hash.to_vec()))
    }

    /// Sends `resolveDispute`. A note that it leaves is made before, so that after a crash our own verdict is not taken for
    /// somebody else's; it is taken back when nothing of ours can have taken hold.
    async fn rule(&self, case: &Case, evidence: &Evidence, evidence_blob: B256) -> Step<B256> {
        let (verdicts, account) = (&self.parts.verdicts, self.parts.lane.account());
        let first = verdicts.mark_sent(&case.subject, evidence_blob).await.map_err(storage)?;
        let call = JobRegistry::resolveDisputeCall {
            jobId: case.subject.job_id.into(),
            workerGuilty: evidence.guilty,
            reExecutionBlobHash: evidence_blob,
            _similarityScore: U256::from(evidence.score.bps()),
        };
        let spec = TxSpec::call(self.parts.deployment.job_registry, call.abi_encode().into());
        let outcome = self.parts.lane.send(spec).await;
        let nothing_left = match &outcome {
            Ok(sent) => !sent.receipt.success,
            Err(
                LaneError::Reverted { .. } | LaneError::NonceTaken { .. } | LaneError::Underfunded { .. },
            ) => true,
            Err(_) => false,
        };
        if first && nothing_left {
            verdicts.unmark_sent(&case.subject).await.map_err(storage)?;
        }
        sent(account, outcome)
    }

    /// The verdict to send: the one that is signed, or the one that was judged, signed now.
    async fn verdict(&self, case: &Case) -> Step<Evidence> {
        let verdicts = &self.parts.verdicts;
        let signed = match verdicts.signed(&case.subject).await.map_err(storage)? {
            Some(signed) => signed,
            None => {
                match verdicts.judged(&case.subject, case.answer.ciphertext_hash).await.map_err(storage)? {
                    None => return Err(retry(500, "it is not judged yet")),
                    Some(Judged::Undecided(reason)) => return Err(abandon(reason)),
                    Some(Judged::Decided(bytes)) => {
                        let evidence = Evidence::decode(&bytes).map_err(|e| halt(e.to_string()))?;
                        verdicts.sign(&evidence).await.map_err(storage)?
                    }
                }
            }
        };
        if signed.response_ciphertext_hash != case.answer.ciphertext_hash {
            return Err(halt(format!(
                "a verdict on job {} is signed for another answer than the chain has now: a reorg went deeper than the \
                 depth of a verdict",
                case.subject.job_id
            )));
        }
        Ok(signed)
    }

    /// How the dispute ended, if it has; `None` while it waits for us.
    async fn ended(&self, case: &Case, client: &dyn HostClient) -> Step<Option<EffectOutcome>> {
        let job = self.job(case, client).await?;
        let same = job.promptBlobHash == case.subject.prompt_blob_hash
            && job.sessionId == case.subject.session_id.word()
            && job.responseCiphertextHash == case.answer.ciphertext_hash;
        if !same {
            return Err(retry(1_000, "the job on the chain's head is another one"));
        }
        match JobState::try_from(job.state) {
            Ok(JobState::Disputed) => {
                self.check_account(client).await?;
                Ok(None)
            }
            Ok(JobState::Completed) => Err(retry(500, "the dispute is not on the chain's head")),
            Ok(JobState::Resolved | JobState::Released) => self.resolved(case, &job, client).await.map(Some),
            _ => Err(abandon("the job is in no state that can be ruled on")),
        }
    }

    /// A dispute that is over: by us, without a verdict, or by somebody with our key.
    async fn resolved(&self, case: &Case, job: &contracts::Job, client: &dyn HostClient) -> Step {
        if job.reExecutionBlobHash.is_zero() {
            return Ok(abandon("the dispute ended without a verdict"));
        }
        let sent = self.parts.verdicts.sent(&case.subject).await.map_err(storage)?;
        if sent == Some(job.reExecutionBlobHash) {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        self.check_account(client).await?;
        Ok(halt(format!(
            "the dispute over job {} was ruled on by this disputer's account and not by this node: is a second one running \
             with its key?",
            case.subject.job_id
        )))
    }

    /// Whether AIConfig still names our account.
    async fn check_account(&self, client: &dyn HostClient) -> Step<()> {
        let input = AIConfig::getDisputerAddressCall {}.abi_encode().into();
        let call = Call { to: self.parts.deployment.ai_config, input };
        let data = client.call(call, None).await.map_err(|e| retry(1_000, e))?;
        let named =
            AIConfig::getDisputerAddressCall::abi_decode_returns(&data).map_err(|e| retry(1_000, e))?;
        if named == self.parts.lane.account() {
            return Ok(());
        }
        Err(abandon(format!("AIConfig names {named} as its disputer")))
    }

    async fn job(&self, case: &Case, client: &dyn HostClient) -> Step<contracts::Job> {
        let call = job_call(&self.parts.deployment, case.subject.job_id.into());
        let data = client.call(call, None).await.map_err(|e| retry(500, e))?;
        JobRegistry::getJobCall::abi_decode_returns(&data).map_err(|e| retry(1_000, e))
    }

    /// The evidence as a blob of the disputer's blob account, unless our chain includes it already.
    async fn publish(&self, evidence: &Evidence, client: &dyn HostClient) -> Step<Posted> {
        let verdicts = &self.parts.verdicts;
        if let Some(posted) = verdicts.posted(&evidence.subject).await.map_err(storage)? {
            let receipt = client.receipt(posted.transaction).await.map_err(|e| retry(500, e))?;
            if receipt.is_some_and(|receipt| receipt.success) {
                return Ok(posted);
            }
        }
        let form = SidecarForm::at(self.parts.clock.now(), self.parts.osaka_time);
        let bytes = evidence.encode();
        // Commitment and proofs are a good part of a second of arithmetic.
        let made = tokio::task::spawn_blocking(move || seal_blob(&bytes, form)).await;
        let (versioned_hash, sidecar) =
            made.map_err(|_| retry(500, "the blob could not be made"))?.map_err(abandon)?;
        let to_self = TxSpec::blob(self.parts.blobs.account(), Bytes::new(), sidecar);
        let spec = TxSpec { gas_limit: Some(TRANSFER_GAS), ..to_self };
        let transaction = sent(self.parts.blobs.account(), self.parts.blobs.send(spec).await)?;
        let posted = Posted { versioned_hash, transaction };
        verdicts.keep_posted(&evidence.subject, &posted).await.map_err(storage)?;
        Ok(posted)
    }
}

#[async_trait]
impl EffectHandler for DisputeHandler {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        let client = context.client.as_ref();
        let step = match intent.action.as_str() {
            action::JUDGE | action::JUDGE_UNPUBLISHED => {
                self.with_case(intent, async |case| self.judge(&case).await).await
            }
            action::RESOLVE | action::RESOLVE_LATE => {
                self.with_case(intent, async |case| self.resolve(&case, client).await).await
            }
            action::FILE => self.with_case(intent, async |case| self.file(&case, client).await).await,
            action::COMMIT => self.commit(&intent.payload, client).await,
            action::REVEAL => self.reveal(&intent.payload, client).await,
            other => Err(abandon(format!("{other} is no effect of the disputer"))),
        };
        step.unwrap_or_else(|outcome| outcome)
    }

    /// Judging waits for its turn by urgency, so all that is due must be able to wait.
    fn concurrency(&self) -> usize {
        64
    }
}

fn seal_blob(payload: &[u8], form: SidecarForm) -> Result<(B256, BlobTransactionSidecarVariant), BlobError> {
    let blob = encode(payload)?;
    let hash = blob_versioned_hash(&blob)?;
    Ok((hash, build_sidecar(vec![*blob], form)?))
}

/// The hash of a transaction that was included and succeeded.
fn sent(account: Address, sent: Result<Sent, LaneError>) -> Step<B256> {
    match sent {
        Ok(sent) if sent.receipt.success => Ok(sent.hash),
        Ok(sent) => Err(retry(500, format!("transaction {} reverted", sent.hash))),
        Err(error @ LaneError::NonceTaken { .. }) => Err(halt(error.to_string())),
        Err(error @ LaneError::Underfunded { .. }) => {
            tracing::error!(%account, %error, "the disputer cannot pay; its disputes will default");
            metrics::gauge!("lcai_disputer_underfunded").set(1.0);
            Err(retry(5_000, error))
        }
        // What would revert now was overtaken by another transaction; the next attempt sees by whose.
        Err(error) => Err(retry(1_000, error)),
    }
}

/// What an intent carries.
fn payload<T: DeserializeOwned>(bytes: &[u8]) -> Step<T> {
    postcard::from_bytes(bytes).map_err(|e| abandon(format!("unreadable payload: {e}")))
}

fn retry(milliseconds: u64, reason: impl fmt::Display) -> EffectOutcome {
    EffectOutcome::Retry { after: Duration::from_millis(milliseconds), reason: reason.to_string() }
}

fn abandon(reason: impl fmt::Display) -> EffectOutcome {
    EffectOutcome::Abandon { reason: reason.to_string() }
}

fn halt(reason: impl fmt::Display) -> EffectOutcome {
    EffectOutcome::Halt { reason: reason.to_string() }
}

fn storage(error: VerdictStoreError) -> EffectOutcome {
    retry(1_000, error)
}
