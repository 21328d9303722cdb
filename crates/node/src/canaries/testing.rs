//! A disputer's handle without a chain, for tests of what stands beside it.

#![allow(clippy::unwrap_used)]

use super::{CanaryRole, pool::Pools, purse::Purse};
use crate::{Awaited, DisputerHandle};
use alloy_primitives::{Address, B256, U256};
use alloy_signer_local::PrivateKeySigner;
use lcai_exex_disputer::{
    DisputerConfig, DisputerCore, Verdicts,
    canary::{Epochs, Seeds},
};
use lcai_host::{
    ExtensionRunner, FeedState, Journal, Records, RunnerConfig,
    testing::{ScriptedHost, identity},
};
use lcai_primitives::contracts::Deployment;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// Of a disputer that has seen no block.
pub(super) fn disputer() -> (DisputerHandle, Arc<Journal>) {
    let journal = Journal::in_memory(identity()).unwrap();
    let deployment = Deployment {
        chain_id: 8200,
        worker_registry: Address::repeat_byte(2),
        ai_config: Address::repeat_byte(3),
        job_registry: Address::repeat_byte(4),
        session_manager: None,
        reputation_registry: None,
        canary_ledger: None,
    };
    let core = DisputerCore::new(DisputerConfig::new(deployment, Address::repeat_byte(5)));
    let (_, feed) = watch::channel(FeedState::default());
    let runner = ExtensionRunner::open(journal.clone(), core, feed, RunnerConfig::default()).unwrap();
    let handle = DisputerHandle {
        core: runner.handle(),
        verdicts: Verdicts::new(journal.records("verdicts")),
        epochs: Epochs { length: 600 },
        deployment,
        seeds: Some(Seeds::new(journal.records("canary seeds"))),
        awaited: Awaited::default(),
        filer: Arc::new(OnceLock::new()),
    };
    (handle, journal)
}

/// Pools over records that outlive them.
pub(super) fn pools() -> (Pools, Records) {
    let (disputer, journal) = disputer();
    let records = journal.records("canaries");
    (Pools::new(disputer, records.clone(), 12), records)
}

/// A purse over these records, and the chain that it pays on.
pub(super) fn purse(
    cap: u64,
    outside: bool,
    disputer: &DisputerHandle,
    records: &Records,
) -> (Purse, ScriptedHost) {
    let host = ScriptedHost::new(8200);
    let role = CanaryRole {
        url: "ws://nowhere".to_owned(),
        treasury: PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap(),
        daily_cap: U256::from(cap),
        accounts: 3,
        questions: None,
        paid_from_outside: outside,
    };
    (Purse::new(&role, disputer.clone(), host.client(), records.clone()), host)
}
