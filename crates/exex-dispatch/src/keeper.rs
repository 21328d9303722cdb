//! Keeper duties: what anyone may do on chain once block time allows it.

use alloy_primitives::B256;
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use lcai_host::{Call, EffectContext, EffectHandler, EffectOutcome, HostError, Intent, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{Deployment, Job, JobRegistry, JobState},
    ids::JobId,
};
use std::{sync::Arc, time::Duration};

pub(crate) const CLAIM_TIMEOUT: &str = "claimTimeout";
pub(crate) const RELEASE: &str = "release";

/// The actions a [`KeeperHandler`] knows.
pub const KEEPER_ACTIONS: [&str; 2] = [CLAIM_TIMEOUT, RELEASE];

/// Performs claimTimeout and release through one account. Both are idempotent on chain: the handler looks at the job
/// before it sends, and a competitor that was quicker costs at most the gas of one revert.
#[derive(Debug)]
pub struct KeeperHandler {
    deployment: Deployment,
    lane: Arc<TxLane>,
}

impl KeeperHandler {
    /// `lane` is the keeper account's lane for ordinary transactions.
    pub const fn new(deployment: Deployment, lane: Arc<TxLane>) -> Self {
        Self { deployment, lane }
    }

    async fn job(&self, context: &EffectContext, id: JobId) -> Result<Job, HostError> {
        let input = JobRegistry::getJobCall { jobId: id.into() }.abi_encode().into();
        let output = context.client.call(Call { to: self.deployment.job_registry, input }, None).await?;
        JobRegistry::getJobCall::abi_decode_returns(&output)
            .map_err(|e| HostError::Malformed { method: "getJob".into(), reason: e.to_string() })
    }

    async fn perform(&self, intent: &Intent, id: JobId, context: &EffectContext) -> EffectOutcome {
        let job = match self.job(context, id).await {
            Ok(job) => job,
            Err(e) if e.is_transient() => return retry(e.to_string()),
            Err(e) => return EffectOutcome::Abandon { reason: e.to_string() },
        };
        let Ok(state) = JobState::try_from(job.state) else {
            return EffectOutcome::Abandon { reason: format!("job {id} is in an unknown state") };
        };
        let (wanted, input) = match intent.action.as_str() {
            CLAIM_TIMEOUT => (
                matches!(state, JobState::Submitted | JobState::Acknowledged | JobState::Disputed),
                JobRegistry::claimTimeoutCall { jobId: id.into() }.abi_encode(),
            ),
            RELEASE => (
                matches!(state, JobState::Completed | JobState::Resolved),
                JobRegistry::releaseJobsCall { jobIds: vec![id.word()] }.abi_encode(),
            ),
            other => return EffectOutcome::Abandon { reason: format!("{other} is not a keeper duty") },
        };
        if !wanted {
            return EffectOutcome::Done(Vec::new());
        }
        match self.lane.send(TxSpec::call(self.deployment.job_registry, input.into())).await {
            Ok(sent) => EffectOutcome::Done(sent.hash.to_vec()),
            // Most often somebody was quicker, or the pending block's time is a second short. The core asks again for as
            // long as the chain shows the duty undone.
            Err(e) => EffectOutcome::Abandon { reason: e.to_string() },
        }
    }
}

fn retry(reason: String) -> EffectOutcome {
    EffectOutcome::Retry { after: Duration::from_secs(2), reason }
}

#[async_trait]
impl EffectHandler for KeeperHandler {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        let outcome = match postcard::from_bytes::<JobId>(&intent.payload) {
            Ok(id) => self.perform(intent, id, &context).await,
            Err(e) => EffectOutcome::Abandon { reason: format!("unreadable payload: {e}") },
        };
        if let EffectOutcome::Done(hash) = &outcome {
            let hash = B256::try_from(hash.as_slice()).ok();
            tracing::info!(target: "lcai::keeper", action = %intent.action, transaction = ?hash, "keeper duty done");
            metrics::counter!("lcai_keeper_duties_total", "action" => intent.action.clone()).increment(1);
        }
        outcome
    }

    fn concurrency(&self) -> usize {
        4
    }
}
