//! A drill for operators and tests: one task of the node panics on purpose.

use jsonrpsee::{RpcModule, types::ErrorObjectOwned};
use lcai_host::Supervisor;

/// `lcaiOperator_panicTask(task)`: makes the supervised task of that name panic; it restarts, and
/// `lcai_task_restarts_total` counts it.
pub(crate) fn module(supervisor: Supervisor) -> RpcModule<Supervisor> {
    let mut module = RpcModule::new(supervisor);
    let registered = module.register_method("lcaiOperator_panicTask", |params, supervisor, _| {
        let task: String = params.one()?;
        tracing::warn!(task, "the operator makes a task panic");
        supervisor.inject_panic(&task);
        Ok::<_, ErrorObjectOwned>(true)
    });
    debug_assert!(registered.is_ok(), "the module is new, so the name is free");
    module
}
