//! Response mismatches: a worker that signed one answer for the user and committed another on chain. The two signatures
//! convict it, so the node that keeps the frame files them itself: anyone may, without a bond, until the job is released.

use crate::keeper::{KeeperHandler, decode};
use alloy_primitives::{B256, Bytes, keccak256};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use lcai_host::{Call, EffectContext, EffectOutcome, HostClient, Intent, LaneError};
use lcai_primitives::{
    contracts::{Job, JobRegistry, JobState},
    ids::JobId,
};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The contract function, which is also the name of the effect.
pub(crate) const ACTION: &str = "disputeResponseMismatch";

/// How often the chain is asked whether a filing has become safe.
const LOOK_AGAIN: Duration = Duration::from_secs(6);

/// Filings that the chain refuses, before it is taken to have reasons.
const REFUSALS: u32 = 5;

/// An answer that a worker signed for its job's user.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedAnswer {
    /// The sealed answer.
    pub ciphertext: Bytes,
    /// The worker's signature over it, as it came: 65 bytes, r ‖ s ‖ v.
    pub signature: Bytes,
}

impl fmt::Debug for SignedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedAnswer").field("hash", &keccak256(&self.ciphertext)).finish_non_exhaustive()
    }
}

/// Where the answers that passed this node are kept.
#[async_trait]
pub trait SignedAnswers: fmt::Debug + Send + Sync {
    /// The answer that was signed for the job with this subject id, while it is kept.
    ///
    /// # Errors
    /// When it cannot be read now.
    async fn signed(&self, subject: B256) -> Result<Option<SignedAnswer>, String>;
}

/// A completion to compare. The signature covers no prompt, so the job's number alone would not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Completion {
    pub(crate) job: JobId,
    pub(crate) prompt_blob_hash: B256,
    pub(crate) committed: B256,
}

/// How comparing and filing went.
enum Filing {
    /// Nothing signed is kept, it is what was committed, or the chain has something else by now.
    Nothing,
    /// The worker was convicted, and the safe head has it.
    Settled,
    /// The chain's head has the conviction, or is about to: a reorg may still take it away.
    Waiting,
}

impl KeeperHandler {
    /// Compares a completed job's commitment with what its worker signed, and files what differs until it is safe.
    pub(crate) async fn compare(&self, intent: &Intent, context: &EffectContext) -> EffectOutcome {
        let completion: Completion = match postcard::from_bytes(&intent.payload) {
            Ok(completion) => completion,
            Err(e) => return EffectOutcome::Abandon { reason: format!("unreadable payload: {e}") },
        };
        let Some(answers) = self.answers() else { return EffectOutcome::Done(Vec::new()) };
        let again = |reason: String| EffectOutcome::Retry { after: LOOK_AGAIN, reason };
        let signed = match answers.signed(intent.subject).await {
            Ok(signed) => signed.filter(|s| keccak256(&s.ciphertext) != completion.committed),
            Err(reason) => return again(reason),
        };
        let Some(signed) = signed else { return EffectOutcome::Done(Vec::new()) };
        match self.file(completion, &signed, context.client.as_ref()).await {
            Ok(Filing::Nothing | Filing::Settled) => EffectOutcome::Done(Vec::new()),
            Ok(Filing::Waiting) => again("the conviction is not safe yet".into()),
            Err(error @ LaneError::NonceTaken { .. }) => EffectOutcome::Halt { reason: error.to_string() },
            // Somebody else's filing may be in the same block; the next look tells.
            Err(error) if error.is_transient() || context.attempt < REFUSALS => again(error.to_string()),
            Err(error) => EffectOutcome::Abandon { reason: error.to_string() },
        }
    }

    async fn file(
        &self,
        completion: Completion,
        signed: &SignedAnswer,
        client: &dyn HostClient,
    ) -> Result<Filing, LaneError> {
        match self.state_of(completion, None, client).await? {
            Some(JobState::Completed | JobState::Disputed) => {}
            Some(JobState::Resolved) => {
                let safe = client.heads().await?.safe.map(|safe| safe.hash);
                let safe = self.state_of(completion, safe, client).await?;
                return Ok(if safe == Some(JobState::Resolved) { Filing::Settled } else { Filing::Waiting });
            }
            _ => return Ok(Filing::Nothing),
        }
        let call = JobRegistry::disputeResponseMismatchCall {
            jobId: completion.job.into(),
            ciphertext: signed.ciphertext.clone(),
            signature: signed.signature.clone(),
        };
        let hash = self.send(ACTION, call.abi_encode()).await?;
        metrics::counter!("lcai_keeper_mismatches_filed_total").increment(1);
        tracing::warn!(
            target: "lcai::keeper",
            job = %completion.job,
            transaction = %hash,
            "the worker signed another answer than it committed: filed"
        );
        Ok(Filing::Waiting)
    }

    /// The job's state at a block (`None`: the head), while it has that very prompt and answer.
    async fn state_of(
        &self,
        completion: Completion,
        at: Option<B256>,
        client: &dyn HostClient,
    ) -> Result<Option<JobState>, LaneError> {
        let call = JobRegistry::getJobCall { jobId: completion.job.into() };
        let call = Call { to: self.deployment().job_registry, input: call.abi_encode().into() };
        let job: Job = decode::<JobRegistry::getJobCall>(client.call(call, at).await?)?;
        let same = job.promptBlobHash == completion.prompt_blob_hash
            && job.responseCiphertextHash == completion.committed;
        Ok(JobState::try_from(job.state).ok().filter(|_| same))
    }
}
