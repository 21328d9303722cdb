//! Which contract state the disputer needs at a block.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{Call, FeedBlock, FeedLog, ReadPlan};
use lcai_primitives::{
    contracts::{Deployment, JOB_EVENTS, JobRegistry},
    params::ChainParams,
};
use std::collections::BTreeSet;

/// The disputer's reads: parameters when AIConfig speaks, and the records of sessions and jobs that a block's logs touch.
/// The plan of dispatch asks for all of this too; a node that runs both follows that one alone.
#[derive(Debug, Clone)]
pub struct DisputerPlan {
    deployment: Deployment,
}

impl DisputerPlan {
    /// The plan for one network.
    pub const fn new(deployment: Deployment) -> Self {
        Self { deployment }
    }

    /// The contracts whose logs the feed must hold.
    pub fn watched(deployment: &Deployment) -> Vec<Address> {
        let ours = [deployment.ai_config, deployment.job_registry, deployment.worker_registry];
        ours.into_iter().chain(deployment.canary_ledger).collect()
    }
}

impl ReadPlan for DisputerPlan {
    fn reads(&self, block: &FeedBlock, first: bool) -> Vec<Call> {
        let touched = Touched::of(block, &self.deployment);
        let config = first || touched.config;
        let mut calls = if config { params_calls(&self.deployment) } else { Vec::new() };
        calls.extend(touched.sessions.into_iter().map(|id| session_call(&self.deployment, id)));
        calls.extend(touched.jobs.into_iter().map(|id| job_call(&self.deployment, id)));
        calls
    }
}

/// What the logs of a block are about, each in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) config: bool,
    pub(crate) sessions: BTreeSet<U256>,
    pub(crate) jobs: BTreeSet<U256>,
}

impl Touched {
    pub(crate) fn of(block: &FeedBlock, deployment: &Deployment) -> Self {
        let mut touched = Self::default();
        for log in &block.logs {
            if log.address == deployment.ai_config {
                touched.config = true;
            } else if log.address == deployment.job_registry {
                touched.job_registry(log);
            }
        }
        touched
    }

    fn job_registry(&mut self, log: &FeedLog) {
        let [signature, first, ..] = log.topics.as_slice() else { return };
        let id = U256::from_be_bytes(first.0);
        if JOB_EVENTS.contains(signature) {
            self.jobs.insert(id);
        } else if SESSION_EVENTS.contains(signature) {
            self.sessions.insert(id);
        }
    }
}

/// Events with a session id as their first topic after which its keys may differ.
const SESSION_EVENTS: [B256; 3] = [
    JobRegistry::SessionCreated::SIGNATURE_HASH,
    JobRegistry::SessionAdopted::SIGNATURE_HASH,
    JobRegistry::SessionKeyUpdated::SIGNATURE_HASH,
];

/// The event, if the log is one.
pub(crate) fn decode<E: SolEvent>(log: &FeedLog) -> Option<E> {
    if log.topics.first() != Some(&E::SIGNATURE_HASH) {
        return None;
    }
    E::decode_raw_log(log.topics.iter().copied(), &log.data).ok()
}

pub(crate) fn params_calls(deployment: &Deployment) -> Vec<Call> {
    let call = |input: Vec<u8>| Call { to: deployment.ai_config, input: input.into() };
    ChainParams::calls().into_iter().map(|(_, input)| call(input)).collect()
}

pub(crate) fn session_call(deployment: &Deployment, session: U256) -> Call {
    let input = JobRegistry::getSessionCall { sessionId: session }.abi_encode();
    Call { to: deployment.job_registry, input: input.into() }
}

pub(crate) fn job_call(deployment: &Deployment, job: U256) -> Call {
    Call { to: deployment.job_registry, input: JobRegistry::getJobCall { jobId: job }.abi_encode().into() }
}
