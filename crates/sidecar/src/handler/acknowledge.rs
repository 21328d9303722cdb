//! Promising an answer.

use super::{Step, WorkerHandler, abandon, retry, settle_reserve, storage, unopened};
use crate::core::JobTask;
use alloy_sol_types::SolCall;
use lcai_host::{EffectOutcome, TxSpec};
use lcai_primitives::{JobState, contracts::JobRegistry};

impl WorkerHandler {
    /// `acknowledgeJob`, once it is sure that the prompt opens and likely that the answer is there in time: a job that is
    /// acknowledged and not completed costs more stake than one that is not acknowledged.
    pub(super) async fn acknowledge(&self, task: &JobTask) -> Step {
        let subject = &task.subject;
        if self.on_chain(subject).await?.state != JobState::Submitted {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        if let Some(reason) = self.store.given_up(subject).await.map_err(storage)? {
            return Err(abandon(format!("there is no answer: {reason}")));
        }
        self.prompts.open(task).await.map_err(|e| unopened(&e))?;
        if self.store.answer(subject).await.map_err(storage)?.is_none() {
            if !*self.ready.borrow() {
                return Err(retry(1000, "the model backend does not answer"));
            }
            let params = self.params()?;
            let expected = self.load.expected().as_secs();
            // The model works on it already; a later acknowledgement leaves more time after it.
            if expected > params.completion_timeout.saturating_sub(settle_reserve(&params)) {
                return Err(retry(
                    500,
                    format!("the answer is {expected} s away, more than the deadline leaves"),
                ));
            }
        }
        let input = JobRegistry::acknowledgeJobCall { jobId: subject.job_id.into() }.abi_encode();
        let hash = self.send(&self.main, TxSpec::call(self.deployment.job_registry, input.into())).await?;
        tracing::info!(job = %subject.job_id, session = %subject.session_id, transaction = %hash, "job acknowledged");
        metrics::counter!("lcai_worker_acknowledged_total").increment(1);
        Ok(EffectOutcome::Done(hash.to_vec()))
    }
}
