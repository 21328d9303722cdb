//! The effects of canaries: filing a dispute over a wrong answer, and keeping CanaryLedger.

use super::{DisputeHandler, MOST_RESERVED, Step, abandon, halt, payload, retry, sent, storage};
use crate::{
    canary::{Epochs, Seed, Seeds, duties, meet},
    core::RevealTask,
    records::Case,
    verdict::Evidence,
    verdicts::Judged,
};
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use lcai_host::{Call, EffectOutcome, HostClient, LaneError, Sent, TxSpec};
use lcai_primitives::{
    JobState,
    contracts::{AIConfig, CanaryEpoch, CanaryLedger, Job, JobRegistry},
    ids::JobId,
};
use std::fmt;
use thiserror::Error;

/// Files disputes in the name of canaries' accounts, as users file theirs, out of the treasury's daily cap.
#[async_trait]
pub trait CanaryFiler: fmt::Debug + Send + Sync {
    /// Sends a dispute from an account of our canaries, which is first given what it lacks for bond and gas.
    async fn send_as(&self, account: Address, dispute: TxSpec) -> Result<Sent, FilingError>;

    /// Counts a bond that the disputer's account pays itself.
    async fn count(&self, bond: U256) -> Result<(), FilingError>;
}

/// Why a canary's account files nothing now.
#[derive(Debug, Error)]
pub enum FilingError {
    /// It has no money, or its key is not known here. Nothing was sent.
    #[error("{0}")]
    NotSent(String),
    /// Its transaction failed.
    #[error(transparent)]
    Lane(#[from] LaneError),
}

impl DisputeHandler {
    /// Files a dispute over a canary that was judged guilty. What was answered right is left alone.
    pub(super) async fn file(&self, case: &Case, client: &dyn HostClient) -> Step {
        let judged = self.parts.verdicts.judged(&case.subject, case.answer.ciphertext_hash).await;
        match judged.map_err(storage)? {
            None => return Err(retry(500, "the canary is not judged yet")),
            Some(Judged::Undecided(reason)) => return Err(abandon(reason)),
            Some(Judged::Decided(bytes)) => {
                let evidence = Evidence::decode(&bytes).map_err(|e| halt(e.to_string()))?;
                metrics::counter!("lcai_disputer_canaries_total", "guilty" => evidence.guilty.to_string())
                    .increment(1);
                if !evidence.guilty {
                    return Ok(EffectOutcome::Done(Vec::new()));
                }
            }
        }
        let job = self.job(case, client).await?;
        if job.promptBlobHash != case.subject.prompt_blob_hash
            || job.responseCiphertextHash != case.answer.ciphertext_hash
        {
            return Err(retry(1_000, "the job on the chain's head is another one"));
        }
        match JobState::try_from(job.state) {
            Ok(JobState::Completed) => {}
            Ok(JobState::Disputed | JobState::Resolved) => return self.filed(case, &job).await,
            _ => return Err(abandon("the job can no longer be disputed")),
        }
        let multiplier =
            self.ask(client, self.parts.deployment.ai_config, AIConfig::getDisputeBondMultiplierCall {});
        let bond = job.escrowedFee.saturating_mul(multiplier.await?) / U256::from(10_000);
        let call = JobRegistry::disputeJobCall { jobId: case.subject.job_id.into() };
        let spec = TxSpec::call(self.parts.deployment.job_registry, call.abi_encode().into());
        let hash = self.send_dispute(case, TxSpec { value: bond, ..spec }).await?;
        tracing::info!(job = %case.subject.job_id, transaction = %hash, "a canary's answer is disputed");
        Ok(EffectOutcome::Done(hash.to_vec()))
    }

    /// A job that is disputed already: by this node, or by somebody with our keys. A note is made before anything leaves.
    async fn filed(&self, case: &Case, job: &Job) -> Step {
        let ours = [self.parts.lane.account(), case.user].contains(&job.disputeFiler);
        if !ours || self.parts.verdicts.filed(&case.subject).await.map_err(storage)? {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        Err(halt(format!(
            "the dispute over job {} was filed by {}, a key of this disputer, and not by this node: is a second one running \
             with it?",
            case.subject.job_id, job.disputeFiler
        )))
    }

    /// Sends it from the canary's account, as a user would; from the disputer's when that account cannot and time is short.
    async fn send_dispute(&self, case: &Case, dispute: TxSpec) -> Step<B256> {
        let verdicts = &self.parts.verdicts;
        let first = verdicts.mark_filed(&case.subject).await.map_err(storage)?;
        let as_canary = match self.parts.filer.get() {
            Some(filer) => filer.send_as(case.user, dispute.clone()).await,
            None => Err(FilingError::NotSent("canaries are not sent yet".to_owned())),
        };
        let refused = match as_canary {
            Ok(done) => return sent(case.user, Ok(done)),
            Err(refused) => refused,
        };
        let nothing_left = match &refused {
            FilingError::NotSent(_) => true,
            FilingError::Lane(error) => never_left(error),
        };
        if !nothing_left || case.deadline.saturating_sub(self.parts.clock.now()) > MOST_RESERVED {
            if first && nothing_left {
                verdicts.unmark_filed(&case.subject).await.map_err(storage)?;
            }
            return Err(retry(2_000, format!("the canary's account does not file: {refused}")));
        }
        if let Some(filer) = self.parts.filer.get()
            && let Err(error) = filer.count(dispute.value).await
        {
            if first {
                verdicts.unmark_filed(&case.subject).await.map_err(storage)?;
            }
            return Err(retry(2_000, error));
        }
        let outcome = self.parts.lane.send(dispute).await;
        if first && outcome.as_ref().is_err_and(never_left) {
            verdicts.unmark_filed(&case.subject).await.map_err(storage)?;
        }
        sent(self.parts.lane.account(), outcome)
    }

    /// Commits to an epoch's seed, before it begins.
    pub(super) async fn commit(&self, bytes: &[u8], client: &dyn HostClient) -> Step {
        let epoch: u64 = payload(bytes)?;
        let (ledger, seeds) = self.ledger()?;
        let known = self.ledger_epoch(client, ledger, epoch).await?;
        // Before a seed is made: one that is not the committed one must never be here.
        if !known.root.is_zero() {
            let seed = seeds.get(epoch).await.map_err(storage)?;
            return self.committed(epoch, &known, seed.as_ref());
        }
        let seed = seeds.get_or_make(epoch).await.map_err(storage)?;
        let call = CanaryLedger::commitCall { epoch: U256::from(epoch), root: seed.root(epoch) };
        let hash = self.parts.lane.send(TxSpec::call(ledger, call.abi_encode().into())).await;
        let hash = sent(self.parts.lane.account(), hash)?;
        tracing::info!(epoch, transaction = %hash, "committed to an epoch of canaries");
        Ok(EffectOutcome::Done(hash.to_vec()))
    }

    fn committed(&self, epoch: u64, known: &CanaryEpoch, seed: Option<&Seed>) -> Step {
        if seed.is_some_and(|seed| known.root == seed.root(epoch)) {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        Err(halt(format!(
            "epoch {epoch} of CanaryLedger is committed to another seed than this node's: is a second one running with its \
             key?"
        )))
    }

    /// Reveals an epoch's seed, and a canary for each of its duties, once nobody can dispute them any more. More than one is
    /// not told: CanaryLedger takes so many, and takes them once.
    pub(super) async fn reveal(&self, bytes: &[u8], client: &dyn HostClient) -> Step {
        let task: RevealTask = payload(bytes)?;
        let epoch = task.epoch;
        let (ledger, seeds) = self.ledger()?;
        let known = self.ledger_epoch(client, ledger, epoch).await?;
        if known.revealedAt != 0 {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        let seed = seeds.get(epoch).await.map_err(storage)?;
        let seed = seed.ok_or_else(|| abandon("the epoch's seed is not this node's"))?;
        let _ = self.committed(epoch, &known, Some(&seed))?;
        let jobs = canaries(&seed, task).into_iter().map(|job| job.word()).collect();
        let call = CanaryLedger::revealCall { epoch: U256::from(epoch), seed: seed.0, jobIds: jobs };
        let hash = self.parts.lane.send(TxSpec::call(ledger, call.abi_encode().into())).await;
        let hash = sent(self.parts.lane.account(), hash)?;
        tracing::info!(epoch, transaction = %hash, "revealed an epoch of canaries");
        Ok(EffectOutcome::Done(hash.to_vec()))
    }

    fn ledger(&self) -> Step<(Address, &Seeds)> {
        let ledger = self.parts.deployment.canary_ledger;
        ledger.zip(self.parts.seeds.as_ref()).ok_or_else(|| abandon("this node runs no canaries"))
    }

    async fn ledger_epoch(&self, client: &dyn HostClient, ledger: Address, epoch: u64) -> Step<CanaryEpoch> {
        self.ask(client, ledger, CanaryLedger::getEpochCall { epoch: U256::from(epoch) }).await
    }

    async fn ask<C: SolCall>(&self, client: &dyn HostClient, to: Address, call: C) -> Step<C::Return> {
        let call = Call { to, input: call.abi_encode().into() };
        let data = client.call(call, None).await.map_err(|e| retry(1_000, e))?;
        C::abi_decode_returns(&data).map_err(|e| retry(1_000, e))
    }
}

/// The jobs to be revealed: one for each duty that has one, by the rule that audits follow.
fn canaries(seed: &Seed, task: RevealTask) -> Vec<JobId> {
    let epochs = Epochs { length: task.epoch_seconds };
    let duties = duties(seed, task.epoch, epochs, &task.standing, task.rate_bps);
    let until = epochs.start(task.epoch.saturating_add(2));
    let mut jobs: Vec<JobId> =
        meet(duties, task.jobs, until).into_iter().filter_map(|(_, job)| job).collect();
    jobs.sort();
    jobs
}

/// Whether a transaction that failed so can have no part in what the chain shows.
const fn never_left(error: &LaneError) -> bool {
    matches!(error, LaneError::Reverted { .. } | LaneError::NonceTaken { .. } | LaneError::Underfunded { .. })
}
