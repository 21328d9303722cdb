//! The effects of canaries: filing a dispute over a wrong answer, and keeping CanaryLedger.

use super::{DisputeHandler, Step, abandon, halt, payload, retry, sent, storage};
use crate::{
    canary::{Seed, Seeds},
    core::RevealTask,
    records::Case,
    verdict::Evidence,
    verdicts::Judged,
};
use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use lcai_host::{Call, EffectOutcome, HostClient, TxSpec};
use lcai_primitives::{
    JobState,
    contracts::{AIConfig, CanaryEpoch, CanaryLedger, JobRegistry},
};

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
            Ok(JobState::Disputed | JobState::Resolved) => return Ok(EffectOutcome::Done(Vec::new())),
            _ => return Err(abandon("the job can no longer be disputed")),
        }
        let multiplier =
            self.ask(client, self.parts.deployment.ai_config, AIConfig::getDisputeBondMultiplierCall {});
        let bond = job.escrowedFee.saturating_mul(multiplier.await?) / U256::from(10_000);
        let call = JobRegistry::disputeJobCall { jobId: case.subject.job_id.into() };
        let spec = TxSpec::call(self.parts.deployment.job_registry, call.abi_encode().into());
        let hash = self.parts.lane.send(TxSpec { value: bond, ..spec }).await;
        let hash = sent(self.parts.lane.account(), hash)?;
        tracing::info!(job = %case.subject.job_id, transaction = %hash, "a canary's answer is disputed");
        Ok(EffectOutcome::Done(hash.to_vec()))
    }

    /// Commits to an epoch's seed, before it begins.
    pub(super) async fn commit(&self, bytes: &[u8], client: &dyn HostClient) -> Step {
        let epoch: u64 = payload(bytes)?;
        let (ledger, seeds) = self.ledger()?;
        let known = self.ledger_epoch(client, ledger, epoch).await?;
        let seed = seeds.get_or_make(epoch).await.map_err(storage)?;
        if !known.root.is_zero() {
            return self.committed(epoch, &known, &seed);
        }
        let call = CanaryLedger::commitCall { epoch: U256::from(epoch), root: seed.root(epoch) };
        let hash = self.parts.lane.send(TxSpec::call(ledger, call.abi_encode().into())).await;
        let hash = sent(self.parts.lane.account(), hash)?;
        tracing::info!(epoch, transaction = %hash, "committed to an epoch of canaries");
        Ok(EffectOutcome::Done(hash.to_vec()))
    }

    fn committed(&self, epoch: u64, known: &CanaryEpoch, seed: &Seed) -> Step {
        if known.root == seed.root(epoch) {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        Err(halt(format!(
            "epoch {epoch} of CanaryLedger is committed to another seed than this node's: is a second one running with its \
             key?"
        )))
    }

    /// Reveals an epoch's seed and canaries, once nobody can dispute them any more.
    pub(super) async fn reveal(&self, bytes: &[u8], client: &dyn HostClient) -> Step {
        let RevealTask { epoch, jobs } = payload(bytes)?;
        let (ledger, seeds) = self.ledger()?;
        let known = self.ledger_epoch(client, ledger, epoch).await?;
        if known.revealedAt != 0 {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        let seed = seeds.get(epoch).await.map_err(storage)?;
        let seed = seed.ok_or_else(|| abandon("the epoch's seed is not this node's"))?;
        let _ = self.committed(epoch, &known, &seed)?;
        let jobs = jobs.into_iter().map(|job| job.word()).collect();
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
