//! A drill for operators and tests: one task of the node panics on purpose.

use jsonrpsee::{
    Methods,
    core::{RpcResult, async_trait},
};
use lcai_host::Supervisor;
use lcai_rpc::LcaiDrillApiServer;

struct Drill(Supervisor);

#[async_trait]
impl LcaiDrillApiServer for Drill {
    async fn panic_task(&self, task: String) -> RpcResult<bool> {
        tracing::warn!(task, "the operator makes a task panic");
        self.0.inject_panic(&task);
        Ok(true)
    }
}

/// `lcaiOperator_panicTask`.
pub(crate) fn module(supervisor: Supervisor) -> Methods {
    Drill(supervisor).into_rpc().into()
}
