//! Claiming sessions by sortition.

use super::{Step, WorkerHandler, abandon, retry};
use crate::core::{ClaimTask, WorkerCore};
use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use lcai_host::{Call, EffectOutcome, TxSpec};
use lcai_primitives::contracts::{RequestStatus, SessionManager};

/// Gas of a claim with a margin (`contracts/gas-budget.json` has 100,468 after the window). Stated instead of estimated the first time: an
/// estimate runs on the block before the one the claim is for, where it would still revert.
const CLAIM_GAS: u64 = 180_000;

impl WorkerHandler {
    /// `claimSession`, unless somebody was quicker or the worker has no room: then it looks again until the request is
    /// claimed or expired.
    pub(super) async fn claim(&self, task: &ClaimTask, attempt: u32) -> Step {
        let Some(manager) = self.deployment.session_manager else {
            return Err(abandon("there is no SessionManager"));
        };
        let id = U256::from(task.request);
        let input = SessionManager::getRequestCall { reqId: id }.abi_encode();
        let data = self
            .host
            .call(Call { to: manager, input: input.into() }, None)
            .await
            .map_err(|e| retry(500, e))?;
        let request = SessionManager::getRequestCall::abi_decode_returns(&data)
            .map_err(|_| abandon("getRequest gives no request"))?;
        if RequestStatus::try_from(request.status) != Ok(RequestStatus::Open) {
            return Err(abandon("the request was claimed, or has expired"));
        }
        if !self.has_room() {
            return Err(retry(1000, "there is no room for another session now"));
        }
        let gas_limit = (attempt == 0).then_some(CLAIM_GAS);
        let input = SessionManager::claimSessionCall { reqId: id }.abi_encode();
        let spec = TxSpec { gas_limit, ..TxSpec::call(manager, input.into()) };
        let hash = self.send(&self.main, spec).await?;
        tracing::info!(request = task.request, transaction = %hash, "session claimed");
        metrics::counter!("lcai_worker_claimed_total").increment(1);
        Ok(EffectOutcome::Done(hash.to_vec()))
    }

    /// Whether a session may come: not draining, the backend answers, fewer open jobs than the worker wants.
    fn has_room(&self) -> bool {
        let open = self.core.read(WorkerCore::open_jobs);
        !self.draining.is_draining() && *self.ready.borrow() && open < self.max_jobs
    }
}
