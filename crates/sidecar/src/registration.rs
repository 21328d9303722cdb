//! Becoming a worker: stake, key, models.

use crate::WorkerError;
use alloy_primitives::{Address, B256, Bytes, TxHash, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use lcai_host::{Call, HostClient, LaneError, TxLane, TxSpec};
use lcai_primitives::{
    contracts::{AIConfig, Deployment, WorkerRegistry},
    ids::ModelId,
};
use std::sync::Arc;

/// Wei kept for gas beside the stake.
const GAS_MONEY: u64 = 10_000_000_000_000_000;

/// What a registration sent. Nothing, when everything was there already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registration {
    /// `registerWorker`.
    pub registered: Option<TxHash>,
    /// `addSupportedModel`, by model name.
    pub added: Vec<(String, TxHash)>,
}

/// Questions to the registry about one worker.
pub(crate) struct Registry<'a> {
    pub(crate) client: &'a dyn HostClient,
    pub(crate) deployment: &'a Deployment,
    pub(crate) worker: Address,
}

impl Registry<'_> {
    pub(crate) async fn ask<C: SolCall>(
        &self,
        what: &'static str,
        call: C,
    ) -> Result<C::Return, WorkerError> {
        self.ask_at(self.deployment.worker_registry, what, call).await
    }

    pub(crate) async fn ask_config<C: SolCall>(
        &self,
        what: &'static str,
        call: C,
    ) -> Result<C::Return, WorkerError> {
        self.ask_at(self.deployment.ai_config, what, call).await
    }

    async fn ask_at<C: SolCall>(
        &self,
        to: Address,
        what: &'static str,
        call: C,
    ) -> Result<C::Return, WorkerError> {
        let data = self.client.call(Call { to, input: call.abi_encode().into() }, None).await?;
        C::abi_decode_returns(&data).map_err(|_| WorkerError::Malformed(what))
    }

    pub(crate) async fn is_registered(&self) -> Result<bool, WorkerError> {
        self.ask("isWorkerRegistered", WorkerRegistry::isWorkerRegisteredCall { worker: self.worker }).await
    }

    pub(crate) async fn supports(&self, model: ModelId) -> Result<bool, WorkerError> {
        let call = WorkerRegistry::workerSupportsModelCall { worker: self.worker, modelId: model.0 };
        self.ask("workerSupportsModel", call).await
    }

    pub(crate) async fn is_eligible(&self, model: ModelId) -> Result<bool, WorkerError> {
        let call = WorkerRegistry::isEligibleCall { worker: self.worker, modelId: model.0 };
        self.ask("isEligible", call).await
    }

    pub(crate) async fn is_whitelisted(&self, model: ModelId) -> Result<bool, WorkerError> {
        let call = WorkerRegistry::isModelWhitelistedCall { modelId: model.0 };
        self.ask("isModelWhitelisted", call).await
    }

    /// Refuses to go on with a key that is not the one on chain.
    pub(crate) async fn check_key(&self, encryption_key: &[u8]) -> Result<(), WorkerError> {
        let call = WorkerRegistry::getWorkerEncryptionKeyCall { worker: self.worker };
        let on_chain: Bytes = self.ask("getWorkerEncryptionKey", call).await?;
        if on_chain.as_ref() == encryption_key {
            Ok(())
        } else {
            Err(WorkerError::OtherEncryptionKey(self.worker))
        }
    }

    pub(crate) async fn min_stake(&self) -> Result<U256, WorkerError> {
        self.ask_config("getMinWorkerStake", AIConfig::getMinWorkerStakeCall {}).await
    }

    pub(crate) async fn stake(&self) -> Result<U256, WorkerError> {
        self.ask("getWorkerStake", WorkerRegistry::getWorkerStakeCall { worker: self.worker }).await
    }
}

/// Registers an account as a worker and adds its models: only what is missing, so it can be called at every start.
/// `encryption_key` is the P-256 public key, 65 bytes uncompressed; `stake` is wei, the network's minimum by default.
/// What is staked beyond the minimum stays stake.
///
/// # Errors
/// When the account cannot pay, a model is not whitelisted, or the chain has another key for the worker.
pub async fn register_worker(
    client: Arc<dyn HostClient>,
    deployment: &Deployment,
    account: &PrivateKeySigner,
    encryption_key: &[u8],
    stake: Option<U256>,
    models: &[String],
) -> Result<Registration, WorkerError> {
    let registry = Registry { client: client.as_ref(), deployment, worker: account.address() };
    let lane = TxLane::new(Arc::clone(&client), account.clone());
    let mut done = Registration::default();
    for model in models {
        if !registry.is_whitelisted(model_id(model)?).await? {
            return Err(WorkerError::ModelNotWhitelisted(model.clone()));
        }
    }
    if registry.is_registered().await? {
        registry.check_key(encryption_key).await?;
    } else {
        let stake = match stake {
            Some(stake) => stake,
            None => registry.min_stake().await?,
        };
        check_balance(client.as_ref(), account.address(), stake).await?;
        let call =
            WorkerRegistry::registerWorkerCall { encryptionPubKey: Bytes::copy_from_slice(encryption_key) };
        let spec =
            TxSpec { value: stake, ..TxSpec::call(deployment.worker_registry, call.abi_encode().into()) };
        done.registered = Some(send(&lane, spec).await?);
    }
    for model in models {
        let id = model_id(model)?;
        if !registry.supports(id).await? {
            let call = WorkerRegistry::addSupportedModelCall { modelId: id.0 };
            let hash =
                send(&lane, TxSpec::call(deployment.worker_registry, call.abi_encode().into())).await?;
            done.added.push((model.clone(), hash));
        }
    }
    Ok(done)
}

/// Gas limit of topUpStake. It writes a checkpoint of all stake for its block; an estimate made at a block that has one,
/// because another worker's stake changed in it, misses the 20,000 gas of a new one.
const TOP_UP_GAS: u64 = 250_000;

/// Raises a worker's stake by `amount` wei; `None`: by what it lacks of the network's minimum. Gives the amount and the
/// transaction, or nothing when nothing is missing.
///
/// # Errors
/// When the account is no worker or cannot pay.
pub async fn top_up(
    client: Arc<dyn HostClient>,
    deployment: &Deployment,
    account: &PrivateKeySigner,
    amount: Option<U256>,
) -> Result<Option<(U256, TxHash)>, WorkerError> {
    let registry = Registry { client: client.as_ref(), deployment, worker: account.address() };
    if !registry.is_registered().await? {
        return Err(WorkerError::NotRegistered(account.address()));
    }
    let amount = match amount {
        Some(amount) => amount,
        None => registry.min_stake().await?.saturating_sub(registry.stake().await?),
    };
    if amount.is_zero() {
        return Ok(None);
    }
    check_balance(client.as_ref(), account.address(), amount).await?;
    let input = WorkerRegistry::topUpStakeCall {}.abi_encode();
    let call = TxSpec::call(deployment.worker_registry, input.into());
    let spec = TxSpec { value: amount, gas_limit: Some(TOP_UP_GAS), ..call };
    let hash = send(&TxLane::new(Arc::clone(&client), account.clone()), spec).await?;
    Ok(Some((amount, hash)))
}

/// Ends a worker's suspension, which only the worker can do, after the cooldown. Gives the transaction, or nothing when
/// the worker is not suspended.
///
/// # Errors
/// [`WorkerError::Suspended`] while the cooldown lasts.
pub async fn reinstate(
    client: Arc<dyn HostClient>,
    deployment: &Deployment,
    account: &PrivateKeySigner,
) -> Result<Option<TxHash>, WorkerError> {
    let worker = account.address();
    let registry = Registry { client: client.as_ref(), deployment, worker };
    if !registry.ask("isWorkerSuspended", WorkerRegistry::isWorkerSuspendedCall { worker }).await? {
        return Ok(None);
    }
    let until = registry.ask("getSuspendedUntil", WorkerRegistry::getSuspendedUntilCall { worker }).await?;
    let input = WorkerRegistry::reinstateCall {}.abi_encode();
    let lane = TxLane::new(Arc::clone(&client), account.clone());
    match send(&lane, TxSpec::call(deployment.worker_registry, input.into())).await {
        Ok(hash) => Ok(Some(hash)),
        Err(WorkerError::Transaction(LaneError::Reverted { .. })) => {
            Err(WorkerError::Suspended { worker, until: until.saturating_to() })
        }
        Err(error) => Err(error),
    }
}

/// Gives up being a worker: the models are unlisted and the whole stake comes back, wei. To be done after
/// [`crate::WorkerHandle::drain`] has returned: whoever has a session with the worker has to get another one.
///
/// # Errors
/// When the account is no worker, or has jobs that are not settled yet.
pub async fn deregister(
    client: Arc<dyn HostClient>,
    deployment: &Deployment,
    account: &PrivateKeySigner,
) -> Result<(U256, TxHash), WorkerError> {
    let registry = Registry { client: client.as_ref(), deployment, worker: account.address() };
    if !registry.is_registered().await? {
        return Err(WorkerError::NotRegistered(account.address()));
    }
    let stake = registry.stake().await?;
    let input = WorkerRegistry::deregisterWorkerCall {}.abi_encode();
    let lane = TxLane::new(Arc::clone(&client), account.clone());
    let hash = send(&lane, TxSpec::call(deployment.worker_registry, input.into())).await?;
    Ok((stake, hash))
}

/// Refuses what the account cannot pay beside gas.
async fn check_balance(client: &dyn HostClient, account: Address, amount: U256) -> Result<(), WorkerError> {
    let has = client.balance(account).await?;
    let needs = amount.saturating_add(U256::from(GAS_MONEY));
    if has < needs { Err(WorkerError::Underfunded { account, has, needs }) } else { Ok(()) }
}

/// A model's id from its name, or from an id in hex.
pub(crate) fn model_id(model: &str) -> Result<ModelId, WorkerError> {
    model.parse().map_err(|_| WorkerError::ModelMissing(model.to_owned()))
}

async fn send(lane: &TxLane, spec: TxSpec) -> Result<B256, WorkerError> {
    let sent = lane.send(spec).await?;
    if sent.receipt.success { Ok(sent.hash) } else { Err(WorkerError::Reverted(sent.hash)) }
}
