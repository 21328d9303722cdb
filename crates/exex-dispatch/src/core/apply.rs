//! Blocks into the directory: parameters, models, workers, sessions.

use super::{
    DispatchCore, Expiring,
    index::{BlockIndex, address_topic, transaction_of},
};
use crate::{
    plan::{model_calls, nonce_call, params_calls, session_call, topic0, whitelisted_call, worker_calls},
    records::{Model, Session, Worker},
};
use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::SolEvent;
use lcai_host::{CoreError, FeedLog};
use lcai_primitives::{
    contracts::{AIConfig, JobRegistry, ReputationRegistry, SessionStatus, WorkerRegistry},
    ids::{ModelId, SessionId},
    params::ChainParams,
};
use std::collections::BTreeSet;

/// Every worker's score where no ReputationRegistry is deployed, as SessionManager has it: weights then follow stake and
/// standing alone.
const NEUTRAL_REPUTATION: u64 = 5_000;

pub(super) fn saturating(value: U256) -> u64 {
    value.saturating_to()
}

impl DispatchCore {
    pub(super) fn apply_params(&mut self, index: &BlockIndex<'_>) -> Result<(), CoreError> {
        let mut answers: Vec<Bytes> = Vec::new();
        for call in params_calls(&self.config.deployment) {
            match index.get(&call) {
                Some(Ok(output)) => answers.push(output.clone()),
                Some(Err(_)) => return Ok(()),
                None => return Err(index.missing("AIConfig parameters")),
            }
        }
        // An AIConfig that answers nonsense (upgraded to something else) leaves the last good parameters in force.
        if let Ok(params) = ChainParams::from_returns(&answers) {
            self.params.insert(0, params);
        }
        Ok(())
    }

    pub(super) fn apply_model(&mut self, index: &BlockIndex<'_>, id: ModelId) -> Result<(), CoreError> {
        let deployment = &self.config.deployment;
        let [fee, tokens, enabled] = model_calls(deployment, id);
        let fee = index.read::<AIConfig::getModelFeeCall>(&fee)?;
        let tokens = index.read::<AIConfig::getModelMaxOutputTokensCall>(&tokens)?;
        let enabled = index.read::<AIConfig::isModelEnabledCall>(&enabled)? == Some(true);
        let listed =
            index.read::<WorkerRegistry::isModelWhitelistedCall>(&whitelisted_call(deployment, id))?;
        match (fee, tokens) {
            (Some(fee), Some(max_output_tokens)) => {
                let enabled = enabled && listed == Some(true);
                self.models.insert(id, Model { fee, max_output_tokens, enabled });
            }
            _ => {
                self.models.remove(&id);
            }
        }
        Ok(())
    }

    pub(super) fn apply_worker(&mut self, index: &BlockIndex<'_>, address: Address) -> Result<(), CoreError> {
        let calls = worker_calls(&self.config.deployment, address);
        let [registered, stake, key, suspended, until, rest @ ..] = calls.as_slice() else {
            return Err(index.missing("worker"));
        };
        if index.read::<WorkerRegistry::isWorkerRegisteredCall>(registered)? != Some(true) {
            self.workers.remove(&address);
            return Ok(());
        }
        let stake = index.read::<WorkerRegistry::getWorkerStakeCall>(stake)?.unwrap_or_default();
        let encryption_key =
            index.read::<WorkerRegistry::getWorkerEncryptionKeyCall>(key)?.unwrap_or_default();
        let suspended = index.read::<WorkerRegistry::isWorkerSuspendedCall>(suspended)? == Some(true);
        let until = index.read::<WorkerRegistry::getSuspendedUntilCall>(until)?.unwrap_or_default();
        let score = match rest.first() {
            Some(call) => index.read::<ReputationRegistry::getScoreCall>(call)?,
            None => None,
        };
        let before = self.workers.get(&address);
        let worker = Worker {
            stake,
            encryption_key,
            suspended_until: suspended.then(|| saturating(until)),
            reputation: score.map_or(NEUTRAL_REPUTATION, saturating),
            models: before.map(|w| w.models.clone()).unwrap_or_default(),
        };
        self.workers.insert(address, worker);
        Ok(())
    }

    /// The models a worker lists are told by events only. A worker that deregistered and registered again in one block
    /// starts without models: those added before its newest registration do not count.
    pub(super) fn apply_worker_models(&mut self, index: &BlockIndex<'_>) {
        let registry = self.config.deployment.worker_registry;
        for log in index.block.logs.iter().filter(|log| log.address == registry) {
            let (Some(signature), Some(worker)) = (topic0(log), address_topic(log, 1)) else { continue };
            if signature == WorkerRegistry::WorkerRegistered::SIGNATURE_HASH {
                self.workers.update(&worker, |w| w.models = BTreeSet::new());
            }
            let Some(model) = log.topics.get(2).map(|model| ModelId(*model)) else { continue };
            if signature == WorkerRegistry::ModelAdded::SIGNATURE_HASH {
                self.workers.update(&worker, |w| w.models.insert(model));
            } else if signature == WorkerRegistry::ModelRemoved::SIGNATURE_HASH {
                self.workers.update(&worker, |w| w.models.remove(&model));
            }
        }
    }

    pub(super) fn apply_session(&mut self, index: &BlockIndex<'_>, id: U256) -> Result<(), CoreError> {
        let Ok(session_id) = SessionId::try_from(id) else { return Ok(()) };
        let call = session_call(&self.config.deployment, id);
        let Some(record) = index.read::<JobRegistry::getSessionCall>(&call)? else { return Ok(()) };
        let Ok(status) = SessionStatus::try_from(record.status) else { return Ok(()) };
        let known = self.sessions.get(&session_id).cloned();
        let is_new = known.is_none();
        let mut session = match known {
            Some(known) => known,
            None => Session {
                user: record.user,
                model_id: ModelId(record.modelId),
                worker: record.worker,
                first_worker: record.worker,
                status,
                create_transaction: transaction_of(index.about(id), &CREATING_EVENTS).unwrap_or_default(),
                created_in: index.block.block_ref(),
                last_activity: index.block.timestamp,
                reassign_count: 0,
                nonce: self.nonce_spent(index, id, record.user),
            },
        };
        self.served.remove(&(session.worker, session_id));
        if status == SessionStatus::Active && session.status == SessionStatus::Reassigning {
            session.last_activity = index.block.timestamp;
        }
        session.status = status;
        session.worker = record.worker;
        session.reassign_count = saturating(record.reassignCount);
        if status != SessionStatus::Closed {
            self.served.insert((session.worker, session_id), 0);
        }
        self.sessions.insert(session_id, session);
        if is_new {
            self.expire(index.block, Expiring::Session(session_id));
        }
        // Another worker is another matter: whatever was planned for the last one is void.
        self.duties.plan(crate::duties::DutyKey::Session(session_id), None);
        self.plan_session(session_id);
        Ok(())
    }

    /// The nonce that a `createSession` spent: the account's at the end of the block, less what was spent after it.
    fn nonce_spent(&self, index: &BlockIndex<'_>, id: U256, user: Address) -> Option<U256> {
        let created = index.about(id).find(|log| is_creation(log))?;
        let adopted =
            index.about(id).any(|log| topic0(log) == Some(JobRegistry::SessionAdopted::SIGNATURE_HASH));
        if adopted {
            return None;
        }
        let after =
            index.read::<JobRegistry::nonceCall>(&nonce_call(&self.config.deployment, user)).ok()??;
        let not_before = |log: &&&FeedLog| log.log_index >= created.log_index;
        let creations = index.creations_by(user).iter().filter(not_before).count();
        let updates = index.key_updates().iter().filter(not_before);
        let updates = updates.filter(|log| self.is_key_update_of(log, user)).count();
        after.checked_sub(U256::from(creations))?.checked_sub(U256::from(updates))
    }

    /// Whether a `SessionKeyUpdated` is about a session of the account.
    fn is_key_update_of(&self, log: &FeedLog, user: Address) -> bool {
        log.topics
            .get(1)
            .and_then(|id| SessionId::try_from(U256::from_be_bytes(id.0)).ok())
            .and_then(|id| self.sessions.get(&id))
            .is_some_and(|session| session.user == user)
    }
}

/// Events of the transaction that created a session.
const CREATING_EVENTS: [alloy_primitives::B256; 2] =
    [JobRegistry::SessionCreated::SIGNATURE_HASH, JobRegistry::SessionAdopted::SIGNATURE_HASH];

fn is_creation(log: &FeedLog) -> bool {
    topic0(log) == Some(JobRegistry::SessionCreated::SIGNATURE_HASH)
}
