//! Which contract state the directory needs at a block.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{Call, FeedBlock, FeedLog, ReadPlan};
use lcai_primitives::{
    contracts::{
        AIConfig, Deployment, JOB_EVENTS, JobRegistry, ReputationRegistry, SessionManager, WorkerRegistry,
    },
    ids::ModelId,
    params::ChainParams,
};
use std::collections::BTreeSet;

/// The dispatch extension's reads: parameters when AIConfig speaks, and the records of every model, worker, session and
/// job that a block's logs touch. Reading the record instead of summing events up keeps the directory right whatever
/// order of events a contract version emits.
#[derive(Debug, Clone)]
pub struct DispatchPlan {
    deployment: Deployment,
    known_models: Vec<ModelId>,
}

impl DispatchPlan {
    /// `known_models` are looked up at the feed's first block: models registered in genesis have no events.
    pub const fn new(deployment: Deployment, known_models: Vec<ModelId>) -> Self {
        Self { deployment, known_models }
    }

    /// The contracts whose logs the feed must hold.
    pub fn watched(deployment: &Deployment) -> Vec<Address> {
        [Some(deployment.worker_registry), Some(deployment.ai_config), Some(deployment.job_registry)]
            .into_iter()
            .chain([deployment.session_manager, deployment.reputation_registry, deployment.canary_ledger])
            .flatten()
            .collect()
    }
}

impl ReadPlan for DispatchPlan {
    fn reads(&self, block: &FeedBlock, first: bool) -> Vec<Call> {
        let touched = Touched::of(block, &self.deployment);
        let mut calls = Vec::new();
        if first || touched.config {
            calls.extend(params_calls(&self.deployment));
        }
        let mut models = touched.models;
        if first {
            models.extend(self.known_models.iter().copied());
        }
        for model in models {
            calls.extend(model_calls(&self.deployment, model));
            calls.push(whitelisted_call(&self.deployment, model));
        }
        for worker in touched.workers {
            calls.extend(worker_calls(&self.deployment, worker));
        }
        for session in touched.sessions {
            calls.push(session_call(&self.deployment, session));
        }
        calls.extend(touched_jobs(block, &self.deployment).map(|job| job_call(&self.deployment, job)));
        if let Some(manager) = self.deployment.session_manager {
            calls.extend(touched.requests.iter().map(|request| request_call(manager, *request)));
        }
        for user in touched.users {
            calls.push(nonce_call(&self.deployment, user));
        }
        calls
    }
}

/// The jobs that a block's logs are about, in ascending order.
fn touched_jobs(block: &FeedBlock, deployment: &Deployment) -> impl Iterator<Item = U256> {
    let logs = block.logs.iter().filter(|log| log.address == deployment.job_registry);
    let about_a_job = |log: &&FeedLog| topic0(log).is_some_and(|signature| JOB_EVENTS.contains(&signature));
    let ids = logs.filter(about_a_job).filter_map(|log| log.topics.get(1));
    // Sorted once: a job can have several events in a block, and a block has thousands of them.
    let mut jobs: Vec<U256> = ids.map(|id| U256::from_be_bytes(id.0)).collect();
    jobs.sort_unstable();
    jobs.dedup();
    jobs.into_iter()
}

/// What the logs of a block are about beside jobs, each in ascending order.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) config: bool,
    pub(crate) models: BTreeSet<ModelId>,
    pub(crate) workers: BTreeSet<Address>,
    pub(crate) sessions: Vec<U256>,
    /// Owners of new sessions.
    pub(crate) users: BTreeSet<Address>,
    /// Sortition requests.
    pub(crate) requests: BTreeSet<U256>,
}

impl Touched {
    pub(crate) fn of(block: &FeedBlock, deployment: &Deployment) -> Self {
        let mut touched = Self::default();
        for log in &block.logs {
            if log.address == deployment.ai_config {
                touched.config = true;
                touched.models.extend(ai_config_model(log));
            } else if log.address == deployment.worker_registry {
                touched.workers.extend(registry_worker(log));
                touched.models.extend(registry_model(log));
            } else if log.address == deployment.job_registry {
                touched.job_registry(log);
            } else if Some(log.address) == deployment.session_manager {
                touched.requests.extend(request_id(log));
            } else if Some(log.address) == deployment.reputation_registry
                && topic0(log) == Some(ReputationRegistry::ReputationUpdated::SIGNATURE_HASH)
            {
                touched.workers.extend(log.topics.get(1).map(|t| Address::from_word(*t)));
            }
        }
        touched.sessions.sort_unstable();
        touched.sessions.dedup();
        touched
    }

    fn job_registry(&mut self, log: &FeedLog) {
        let (Some(signature), Some(first)) = (topic0(log), log.topics.get(1)) else { return };
        if SESSION_EVENTS.contains(&signature) {
            self.sessions.push(U256::from_be_bytes(first.0));
        }
        if signature == JobRegistry::SessionCreated::SIGNATURE_HASH {
            self.users.extend(log.topics.get(2).map(|user| Address::from_word(*user)));
        }
    }
}

/// Events with a session id as their first topic after which the session's record may differ.
const SESSION_EVENTS: [B256; 5] = [
    JobRegistry::SessionCreated::SIGNATURE_HASH,
    JobRegistry::SessionAdopted::SIGNATURE_HASH,
    JobRegistry::SessionClosed::SIGNATURE_HASH,
    JobRegistry::SessionReassigned::SIGNATURE_HASH,
    JobRegistry::SessionKeyUpdated::SIGNATURE_HASH,
];

/// Events with a request's id as their first topic after which its record may differ.
const REQUEST_EVENTS: [B256; 3] = [
    SessionManager::SessionRequested::SIGNATURE_HASH,
    SessionManager::SessionClaimed::SIGNATURE_HASH,
    SessionManager::SessionReady::SIGNATURE_HASH,
];

/// The request that a log of SessionManager is about.
pub(crate) fn request_id(log: &FeedLog) -> Option<U256> {
    let (signature, id) = (topic0(log)?, log.topics.get(1)?);
    REQUEST_EVENTS.contains(&signature).then(|| U256::from_be_bytes(id.0))
}

pub(crate) fn topic0(log: &FeedLog) -> Option<B256> {
    log.topics.first().copied()
}

/// An indexed number, unless no chain reaches it.
pub(crate) fn u64_topic(log: &FeedLog, index: usize) -> Option<u64> {
    u64::try_from(U256::from_be_bytes(log.topics.get(index)?.0)).ok()
}

fn ai_config_model(log: &FeedLog) -> Option<ModelId> {
    let about_a_model = [
        AIConfig::ModelRegistered::SIGNATURE_HASH,
        AIConfig::ModelConfigUpdated::SIGNATURE_HASH,
        AIConfig::ModelEnabled::SIGNATURE_HASH,
        AIConfig::ModelDisabled::SIGNATURE_HASH,
    ];
    about_a_model.contains(&topic0(log)?).then(|| log.topics.get(1).map(|id| ModelId(*id)))?
}

fn registry_model(log: &FeedLog) -> Option<ModelId> {
    let about_a_model =
        [WorkerRegistry::ModelWhitelisted::SIGNATURE_HASH, WorkerRegistry::ModelDelisted::SIGNATURE_HASH];
    about_a_model.contains(&topic0(log)?).then(|| log.topics.get(1).map(|id| ModelId(*id)))?
}

fn registry_worker(log: &FeedLog) -> Option<Address> {
    let about_a_worker = [
        WorkerRegistry::WorkerRegistered::SIGNATURE_HASH,
        WorkerRegistry::WorkerDeregistered::SIGNATURE_HASH,
        WorkerRegistry::WorkerSlashed::SIGNATURE_HASH,
        WorkerRegistry::WorkerSuspended::SIGNATURE_HASH,
        WorkerRegistry::WorkerReinstated::SIGNATURE_HASH,
        WorkerRegistry::WorkerDeactivated::SIGNATURE_HASH,
        WorkerRegistry::StakeTopUp::SIGNATURE_HASH,
        WorkerRegistry::StakeWithdrawn::SIGNATURE_HASH,
        WorkerRegistry::ModelAdded::SIGNATURE_HASH,
        WorkerRegistry::ModelRemoved::SIGNATURE_HASH,
        WorkerRegistry::EncryptionKeyRotated::SIGNATURE_HASH,
    ];
    about_a_worker.contains(&topic0(log)?).then(|| log.topics.get(1).map(|word| Address::from_word(*word)))?
}

fn call(to: Address, call: &impl SolCall) -> Call {
    Call { to, input: call.abi_encode().into() }
}

pub(crate) fn params_calls(deployment: &Deployment) -> Vec<Call> {
    ChainParams::calls()
        .into_iter()
        .map(|(_, input)| Call { to: deployment.ai_config, input: input.into() })
        .collect()
}

pub(crate) fn model_calls(deployment: &Deployment, model: ModelId) -> [Call; 3] {
    let to = deployment.ai_config;
    [
        call(to, &AIConfig::getModelFeeCall { modelId: model.0 }),
        call(to, &AIConfig::getModelMaxOutputTokensCall { modelId: model.0 }),
        call(to, &AIConfig::isModelEnabledCall { modelId: model.0 }),
    ]
}

pub(crate) fn whitelisted_call(deployment: &Deployment, model: ModelId) -> Call {
    call(deployment.worker_registry, &WorkerRegistry::isModelWhitelistedCall { modelId: model.0 })
}

pub(crate) fn nonce_call(deployment: &Deployment, user: Address) -> Call {
    call(deployment.job_registry, &JobRegistry::nonceCall { account: user })
}

/// Stake, key, suspension, registration, and the score where there is a registry for it.
pub(crate) fn worker_calls(deployment: &Deployment, worker: Address) -> Vec<Call> {
    let to = deployment.worker_registry;
    let mut calls = vec![
        call(to, &WorkerRegistry::isWorkerRegisteredCall { worker }),
        call(to, &WorkerRegistry::getWorkerStakeCall { worker }),
        call(to, &WorkerRegistry::getWorkerEncryptionKeyCall { worker }),
        call(to, &WorkerRegistry::isWorkerSuspendedCall { worker }),
        call(to, &WorkerRegistry::getSuspendedUntilCall { worker }),
    ];
    if let Some(reputation) = deployment.reputation_registry {
        calls.push(call(reputation, &ReputationRegistry::getScoreCall { worker }));
    }
    calls
}

pub(crate) fn request_call(manager: Address, request: U256) -> Call {
    call(manager, &SessionManager::getRequestCall { reqId: request })
}

pub(crate) fn session_call(deployment: &Deployment, session: U256) -> Call {
    call(deployment.job_registry, &JobRegistry::getSessionCall { sessionId: session })
}

pub(crate) fn job_call(deployment: &Deployment, job: U256) -> Call {
    call(deployment.job_registry, &JobRegistry::getJobCall { jobId: job })
}
