//! Which contract state the worker needs at a block.

use alloy_primitives::{Address, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{Call, FeedBlock, FeedLog, ReadPlan};
use lcai_primitives::{
    contracts::{Deployment, JobRegistry, ReputationRegistry, SessionManager, WorkerRegistry},
    params::ChainParams,
};
use std::collections::BTreeSet;

/// The worker's reads: the parameters when AIConfig speaks, and the records of its own jobs and sessions when they
/// change.
#[derive(Debug, Clone)]
pub struct WorkerPlan {
    deployment: Deployment,
    worker: Address,
}

impl WorkerPlan {
    /// The plan of one worker.
    pub const fn new(deployment: Deployment, worker: Address) -> Self {
        Self { deployment, worker }
    }

    /// The contracts whose logs the feed must hold.
    pub fn watched(deployment: &Deployment) -> Vec<Address> {
        let always = [deployment.ai_config, deployment.job_registry];
        always.into_iter().chain(deployment.session_manager).collect()
    }
}

impl ReadPlan for WorkerPlan {
    fn reads(&self, block: &FeedBlock, first: bool) -> Vec<Call> {
        let (mut config, mut jobs, mut sessions) = (first, BTreeSet::new(), BTreeSet::new());
        let mut requests = BTreeSet::new();
        for log in &block.logs {
            if log.address == self.deployment.ai_config {
                config = true;
            } else if log.address == self.deployment.job_registry {
                touch(log, self.worker, &mut jobs, &mut sessions);
            } else if Some(log.address) == self.deployment.session_manager {
                requests.extend(decode::<SessionManager::SessionRequested>(log).map(|e| e.reqId));
            }
        }
        let mut calls = if config { params_calls(&self.deployment) } else { Vec::new() };
        calls.extend(sessions.into_iter().map(|id| session_call(&self.deployment, id)));
        calls.extend(jobs.into_iter().map(|id| job_call(&self.deployment, id)));
        for request in requests {
            calls.extend(request_calls(&self.deployment, self.worker, request, block.number));
        }
        calls
    }
}

/// What the worker's place in a sortition follows from, at the block of the request: the request, the worker's stake,
/// everybody's stake, the capabilities asked for and had, the score where there is a registry for it, and last since when
/// the worker has its weight.
pub(super) fn request_calls(
    deployment: &Deployment,
    worker: Address,
    request: U256,
    block: u64,
) -> Vec<Call> {
    let Some(manager) = deployment.session_manager else { return Vec::new() };
    let call = |to: Address, input: Vec<u8>| Call { to, input: input.into() };
    let registry = deployment.worker_registry;
    let mut calls = vec![
        call(manager, SessionManager::getRequestCall { reqId: request }.abi_encode()),
        call(manager, SessionManager::getRequiredCapabilitiesCall { reqId: request }.abi_encode()),
        call(registry, WorkerRegistry::getWorkerStakeCall { worker }.abi_encode()),
        call(registry, WorkerRegistry::getWorkerCapabilitiesCall { worker }.abi_encode()),
        call(registry, WorkerRegistry::getTotalStakedCall { blockNumber: U256::from(block) }.abi_encode()),
    ];
    if let Some(scores) = deployment.reputation_registry {
        calls.push(call(scores, ReputationRegistry::getScoreCall { worker }.abi_encode()));
    }
    calls.push(call(registry, WorkerRegistry::getWeightSinceCall { worker }.abi_encode()));
    calls
}

fn touch(log: &FeedLog, me: Address, jobs: &mut BTreeSet<U256>, sessions: &mut BTreeSet<U256>) {
    if let Some(event) = decode::<JobRegistry::JobSubmitted>(log).filter(|e| e.worker == me) {
        jobs.insert(event.jobId);
        sessions.insert(event.sessionId);
    } else if let Some(event) = decode::<JobRegistry::JobAcknowledged>(log).filter(|e| e.worker == me) {
        jobs.insert(event.jobId);
    } else if let Some(event) = decode::<JobRegistry::SessionAdopted>(log).filter(|e| e.worker == me) {
        sessions.insert(event.sessionId);
    } else if let Some(event) = decode::<JobRegistry::SessionReassigned>(log).filter(|e| e.newWorker == me) {
        sessions.insert(event.sessionId);
    } else if let Some(event) = decode::<JobRegistry::SessionKeyUpdated>(log) {
        sessions.insert(event.sessionId);
    }
}

/// The event, if the log is one.
pub(super) fn decode<E: SolEvent>(log: &FeedLog) -> Option<E> {
    if log.topics.first() != Some(&E::SIGNATURE_HASH) {
        return None;
    }
    E::decode_raw_log(log.topics.iter().copied(), &log.data).ok()
}

pub(super) fn params_calls(deployment: &Deployment) -> Vec<Call> {
    let call = |input: Vec<u8>| Call { to: deployment.ai_config, input: input.into() };
    ChainParams::calls().into_iter().map(|(_, input)| call(input)).collect()
}

/// `getJob`.
pub(crate) fn job_call(deployment: &Deployment, job: U256) -> Call {
    Call { to: deployment.job_registry, input: JobRegistry::getJobCall { jobId: job }.abi_encode().into() }
}

/// `getSession`.
pub(crate) fn session_call(deployment: &Deployment, session: U256) -> Call {
    let input = JobRegistry::getSessionCall { sessionId: session }.abi_encode();
    Call { to: deployment.job_registry, input: input.into() }
}
