//! Getting paid.

use super::{Step, WorkerHandler, abandon, retry};
use crate::core::ReleaseTask;
use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use lcai_host::{Call, EffectOutcome, TxSpec};
use lcai_primitives::{JobState, contracts::JobRegistry, ids::JobId};

/// Attempts at one release; the core asks again later, with what is left then.
const RELEASE_ATTEMPTS: u32 = 3;

impl WorkerHandler {
    /// Releases jobs past their dispute window: all in one transaction, or one by one when the chain refuses the batch
    /// (it reverts as a whole if a single job was disputed or released meanwhile).
    pub(super) async fn release(&self, task: &ReleaseTask, attempt: u32) -> Step {
        let mut jobs = Vec::new();
        for job in &task.jobs {
            if self.is_releasable(*job).await? {
                jobs.push(*job);
            }
        }
        if jobs.is_empty() {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        let batch = if attempt == 0 { vec![jobs] } else { jobs.into_iter().map(|job| vec![job]).collect() };
        let mut refused = None;
        for jobs in batch {
            let count = jobs.len();
            let ids: Vec<U256> = jobs.into_iter().map(Into::into).collect();
            let input = JobRegistry::releaseJobsCall { jobIds: ids }.abi_encode();
            match self.send(&self.main, TxSpec::call(self.deployment.job_registry, input.into())).await {
                Ok(sent) => {
                    tracing::info!(jobs = count, transaction = %sent, "jobs released");
                    metrics::counter!("lcai_worker_released_total").increment(count as u64);
                }
                Err(EffectOutcome::Retry { reason, .. }) => refused = Some(reason),
                Err(outcome) => return Err(outcome),
            }
        }
        match refused {
            None => Ok(EffectOutcome::Done(Vec::new())),
            Some(reason) if attempt < RELEASE_ATTEMPTS => Err(retry(2000, reason)),
            Some(reason) => Err(abandon(reason)),
        }
    }

    async fn is_releasable(&self, job: JobId) -> Step<bool> {
        let record = self.prompts.job(job).await.map_err(|e| retry(1000, e))?;
        let state = JobState::try_from(record.state).map_err(abandon)?;
        let paid = !record.escrowedFee.is_zero();
        Ok(record.worker == self.me() && paid && matches!(state, JobState::Completed | JobState::Resolved))
    }

    /// Draws what the worker has earned.
    pub(super) async fn withdraw(&self) -> Step {
        let input = JobRegistry::workerBalanceCall { worker: self.me() }.abi_encode();
        let call = Call { to: self.deployment.job_registry, input: input.into() };
        let data = self.host.call(call, None).await.map_err(|e| retry(1000, e))?;
        let balance = JobRegistry::workerBalanceCall::abi_decode_returns(&data)
            .map_err(|_| abandon("workerBalance gives no number"))?;
        if balance.is_zero() {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        let input = JobRegistry::withdrawCall {}.abi_encode();
        let hash = self.send(&self.main, TxSpec::call(self.deployment.job_registry, input.into())).await?;
        tracing::info!(wei = %balance, transaction = %hash, "earnings withdrawn");
        Ok(EffectOutcome::Done(hash.to_vec()))
    }
}
