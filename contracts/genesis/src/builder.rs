//! The deployment, step by step as a deployer would do it.

use std::collections::BTreeMap;

use alloy_genesis::{Genesis, GenesisAccount};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolConstructor, sol};
use lcai_primitives::contracts::{
    AIConfig, CanaryLedger, JobRegistry, ReputationRegistry, SessionManager, WorkerRegistry,
};
use lcai_primitives::{Deployment, ModelId};

use crate::addresses;
use crate::artefacts::{Contract, link};
use crate::base::base_genesis;
use crate::error::GenesisError;
use crate::sandbox::{DEPLOYER, Sandbox};
use crate::spec::{GenesisSpec, ModelSpec, ProtocolParams};

sol! {
    #[allow(missing_docs)]
    contract ERC1967Proxy {
        constructor(address implementation, bytes data);
    }

    #[allow(missing_docs)]
    contract TimelockController {
        constructor(uint256 minDelay, address[] proposers, address[] executors, address admin);
    }

    #[allow(missing_docs)]
    interface Ownable {
        function transferOwnership(address newOwner) external;
    }
}

/// A genesis and where its contracts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltGenesis {
    /// Loadable by any execution client as geth's genesis JSON.
    pub genesis: Genesis,
    /// The proxies, as the other crates want them.
    pub deployment: Deployment,
}

impl BuiltGenesis {
    /// Keccak-256 of the genesis JSON without white space: equal for equal specifications and contracts.
    ///
    /// # Errors
    /// If the genesis cannot be written as JSON.
    pub fn hash(&self) -> serde_json::Result<B256> {
        Ok(keccak256(serde_json::to_vec(&self.genesis)?))
    }
}

/// Runs the real constructors, initialisers and setters and dumps what they leave.
///
/// # Errors
/// If the contracts refuse something the specification asks for, or the committed artefacts are not usable.
pub fn build(spec: &GenesisSpec) -> Result<BuiltGenesis, GenesisError> {
    let mut sandbox = Sandbox::new(spec.chain_id, spec.fork, spec.timestamp);
    deploy_libraries(&mut sandbox)?;
    deploy_implementations(&mut sandbox)?;
    deploy_timelocks(&mut sandbox, spec)?;
    deploy_proxies(&mut sandbox, spec)?;
    introduce(&mut sandbox)?;
    set_params(&mut sandbox, &spec.params)?;
    for model in &spec.models {
        open_model(&mut sandbox, model)?;
    }
    for call in &spec.ai_config_calls {
        sandbox.call("AIConfig call of the specification", DEPLOYER, addresses::AI_CONFIG, call.clone())?;
    }
    hand_over(&mut sandbox)?;

    let mut genesis = base_genesis(spec.chain_id, spec.fork, spec.timestamp, &spec.accounts);
    dump(&sandbox, &mut genesis)?;
    let deployment = Deployment {
        chain_id: spec.chain_id,
        worker_registry: addresses::WORKER_REGISTRY,
        ai_config: addresses::AI_CONFIG,
        job_registry: addresses::JOB_REGISTRY,
        session_manager: Some(addresses::SESSION_MANAGER),
        reputation_registry: Some(addresses::REPUTATION_REGISTRY),
        canary_ledger: Some(addresses::CANARY_LEDGER),
    };
    Ok(BuiltGenesis { genesis, deployment })
}

const LIBRARIES: [(&str, Contract, Address); 3] = [
    ("Disputes", Contract::Disputes, addresses::DISPUTES),
    ("SessionOps", Contract::SessionOps, addresses::SESSION_OPS),
    ("Settlement", Contract::Settlement, addresses::SETTLEMENT),
];

/// Creation code of a contract, linked to the libraries of the deployment.
///
/// # Errors
/// If the committed artefact is not usable.
pub fn creation_code(contract: Contract) -> Result<Bytes, GenesisError> {
    let libraries: BTreeMap<&str, Address> =
        LIBRARIES.iter().map(|(name, _, address)| (*name, *address)).collect();
    link(contract, &libraries)
}

fn deploy_libraries(sandbox: &mut Sandbox) -> Result<(), GenesisError> {
    for (name, contract, address) in LIBRARIES {
        sandbox.deploy(name, address, &creation_code(contract)?, &[])?;
    }
    Ok(())
}

/// An upgradeable contract of the deployment.
struct Upgradeable {
    name: &'static str,
    contract: Contract,
    implementation: Address,
    proxy: Address,
}

const UPGRADEABLES: [Upgradeable; 6] = [
    Upgradeable {
        name: "AIConfig",
        contract: Contract::AiConfig,
        implementation: addresses::AI_CONFIG_IMPLEMENTATION,
        proxy: addresses::AI_CONFIG,
    },
    Upgradeable {
        name: "WorkerRegistry",
        contract: Contract::WorkerRegistry,
        implementation: addresses::WORKER_REGISTRY_IMPLEMENTATION,
        proxy: addresses::WORKER_REGISTRY,
    },
    Upgradeable {
        name: "JobRegistry",
        contract: Contract::JobRegistry,
        implementation: addresses::JOB_REGISTRY_IMPLEMENTATION,
        proxy: addresses::JOB_REGISTRY,
    },
    Upgradeable {
        name: "ReputationRegistry",
        contract: Contract::ReputationRegistry,
        implementation: addresses::REPUTATION_REGISTRY_IMPLEMENTATION,
        proxy: addresses::REPUTATION_REGISTRY,
    },
    Upgradeable {
        name: "SessionManager",
        contract: Contract::SessionManager,
        implementation: addresses::SESSION_MANAGER_IMPLEMENTATION,
        proxy: addresses::SESSION_MANAGER,
    },
    Upgradeable {
        name: "CanaryLedger",
        contract: Contract::CanaryLedger,
        implementation: addresses::CANARY_LEDGER_IMPLEMENTATION,
        proxy: addresses::CANARY_LEDGER,
    },
];

fn deploy_implementations(sandbox: &mut Sandbox) -> Result<(), GenesisError> {
    for Upgradeable { name, contract, implementation, .. } in &UPGRADEABLES {
        let what = format!("{name} implementation");
        sandbox.deploy(&what, *implementation, &creation_code(*contract)?, &[])?;
    }
    Ok(())
}

/// One timelock owns the contracts; two more hold the money that fees bring, so that the same rules spend it.
fn deploy_timelocks(sandbox: &mut Sandbox, spec: &GenesisSpec) -> Result<(), GenesisError> {
    let creation = creation_code(Contract::TimelockController)?;
    let arguments = TimelockController::constructorCall {
        minDelay: U256::from(spec.timelock_delay),
        proposers: vec![spec.governor],
        executors: vec![spec.governor],
        // Nobody beside itself: roles change by proposals.
        admin: Address::ZERO,
    }
    .abi_encode();
    for (name, address) in [
        ("timelock", addresses::TIMELOCK),
        ("treasury", addresses::TREASURY),
        ("fee pool", addresses::FEE_POOL),
    ] {
        sandbox.deploy(name, address, &creation, &arguments)?;
    }
    Ok(())
}

fn deploy_proxies(sandbox: &mut Sandbox, spec: &GenesisSpec) -> Result<(), GenesisError> {
    let creation = creation_code(Contract::Erc1967Proxy)?;
    for Upgradeable { name, contract, implementation, proxy } in &UPGRADEABLES {
        let data = initialiser(*contract, spec).into();
        let arguments = ERC1967Proxy::constructorCall { implementation: *implementation, data }.abi_encode();
        sandbox.deploy(&format!("{name} proxy"), *proxy, &creation, &arguments)?;
    }
    Ok(())
}

/// Calldata of `initialize`; what has none has nothing to initialise.
fn initialiser(contract: Contract, spec: &GenesisSpec) -> Vec<u8> {
    let (ai_config, job_registry) = (addresses::AI_CONFIG, addresses::JOB_REGISTRY);
    match contract {
        Contract::AiConfig => AIConfig::initializeCall {
            _initialOwner: DEPLOYER,
            _dispatcher: spec.dispatcher,
            _disputer: spec.disputer,
        }
        .abi_encode(),
        Contract::WorkerRegistry => WorkerRegistry::initializeCall {
            _initialOwner: DEPLOYER,
            _aiConfig: ai_config,
            _jobRegistry: job_registry,
            _treasury: addresses::TREASURY,
            _guardian: spec.guardian,
        }
        .abi_encode(),
        Contract::JobRegistry => JobRegistry::initializeCall {
            _initialOwner: DEPLOYER,
            _workerRegistry: addresses::WORKER_REGISTRY,
            _aiConfig: ai_config,
            _treasury: addresses::TREASURY,
            _feePool: addresses::FEE_POOL,
            _guardian: spec.guardian,
        }
        .abi_encode(),
        Contract::ReputationRegistry => {
            ReputationRegistry::initializeCall { _initialOwner: DEPLOYER, _jobRegistry: job_registry }
                .abi_encode()
        }
        Contract::SessionManager => SessionManager::initializeCall {
            initialOwner: DEPLOYER,
            jobRegistry_: job_registry,
            workerRegistry_: addresses::WORKER_REGISTRY,
            aiConfig_: ai_config,
            reputation_: addresses::REPUTATION_REGISTRY,
        }
        .abi_encode(),
        Contract::CanaryLedger => CanaryLedger::initializeCall {
            initialOwner: DEPLOYER,
            jobRegistry_: job_registry,
            aiConfig_: ai_config,
        }
        .abi_encode(),
        Contract::Disputes
        | Contract::Erc1967Proxy
        | Contract::SessionOps
        | Contract::Settlement
        | Contract::TimelockController => Vec::new(),
    }
}

/// Tells the contracts what their initialisers did not. Sortition stays off until AIConfig switches it on.
fn introduce(sandbox: &mut Sandbox) -> Result<(), GenesisError> {
    let reputation =
        JobRegistry::setReputationRegistryCall { registry: addresses::REPUTATION_REGISTRY }.abi_encode();
    let manager = AIConfig::setSessionManagerAddressCall { value: addresses::SESSION_MANAGER }.abi_encode();
    let to = addresses::JOB_REGISTRY;
    sandbox.call("JobRegistry.setReputationRegistry", DEPLOYER, to, reputation.into())?;
    let to = addresses::AI_CONFIG;
    sandbox.call("AIConfig.setSessionManagerAddress", DEPLOYER, to, manager.into()).map(drop)
}

fn set_params(sandbox: &mut Sandbox, params: &ProtocolParams) -> Result<(), GenesisError> {
    let mut set = |what: &str, data: Vec<u8>| {
        sandbox.call(&format!("AIConfig.{what}"), DEPLOYER, addresses::AI_CONFIG, data.into()).map(drop)
    };
    let (one, seconds) = (U256::ONE, |seconds: u64| U256::from(seconds));
    // The lower bounds first: their defaults are above a devnet's windows.
    set("setMinAckTimeout", AIConfig::setMinAckTimeoutCall { timeout: one }.abi_encode())?;
    set("setMinDisputeWindow", AIConfig::setMinDisputeWindowCall { window: one }.abi_encode())?;
    set("setMinResolutionTimeout", AIConfig::setMinResolutionTimeoutCall { timeout: one }.abi_encode())?;
    set("setAckTimeout", AIConfig::setAckTimeoutCall { timeout: seconds(params.ack_timeout) }.abi_encode())?;
    set(
        "setCompletionTimeout",
        AIConfig::setCompletionTimeoutCall { timeout: seconds(params.completion_timeout) }.abi_encode(),
    )?;
    set(
        "setDisputeWindow",
        AIConfig::setDisputeWindowCall { window: seconds(params.dispute_window) }.abi_encode(),
    )?;
    set(
        "setResolutionTimeout",
        AIConfig::setResolutionTimeoutCall { timeout: seconds(params.resolution_timeout) }.abi_encode(),
    )?;
    set(
        "setSessionInactivityTimeout",
        AIConfig::setSessionInactivityTimeoutCall { timeout: seconds(params.session_inactivity_timeout) }
            .abi_encode(),
    )?;
    set(
        "setSuspensionCooldown",
        AIConfig::setSuspensionCooldownCall { duration: seconds(params.suspension_cooldown) }.abi_encode(),
    )?;
    set(
        "setMinWorkerStake",
        AIConfig::setMinWorkerStakeCall { stake: params.min_worker_stake }.abi_encode(),
    )?;
    set(
        "setMaxConcurrentJobs",
        AIConfig::setMaxConcurrentJobsCall { value: U256::from(params.max_concurrent_jobs) }.abi_encode(),
    )
}

/// Registering enables; whitelisting lets workers list it.
fn open_model(sandbox: &mut Sandbox, model: &ModelSpec) -> Result<(), GenesisError> {
    if model.name.is_empty() {
        let reason = "has no name".to_owned();
        return Err(GenesisError::Model { name: model.name.clone(), reason });
    }
    let model_id = B256::from(ModelId::from_name(&model.name));
    let register = AIConfig::registerModelCall {
        modelId: model_id,
        fee: model.fee,
        maxOutputTokens: U256::from(model.max_output_tokens),
    };
    let register = register.abi_encode().into();
    sandbox.call(&format!("registering {}", model.name), DEPLOYER, addresses::AI_CONFIG, register)?;
    let whitelist = WorkerRegistry::addWhitelistedModelCall { modelId: model_id }.abi_encode().into();
    sandbox
        .call(&format!("whitelisting {}", model.name), DEPLOYER, addresses::WORKER_REGISTRY, whitelist)
        .map(drop)
}

fn hand_over(sandbox: &mut Sandbox) -> Result<(), GenesisError> {
    for Upgradeable { name, proxy, .. } in &UPGRADEABLES {
        let transfer = Ownable::transferOwnershipCall { newOwner: addresses::TIMELOCK }.abi_encode().into();
        sandbox.call(&format!("handing {name} to the timelock"), DEPLOYER, *proxy, transfer)?;
    }
    Ok(())
}

/// Copies the deployment into the alloc. Anything else the run left behind would be a mistake.
fn dump(sandbox: &Sandbox, genesis: &mut Genesis) -> Result<(), GenesisError> {
    for (address, account) in sandbox.accounts() {
        if !addresses::ALL.iter().any(|(_, fixed)| *fixed == address) {
            return Err(GenesisError::Stray(address));
        }
        let storage: BTreeMap<B256, B256> = account.storage.into_iter().collect();
        let entry = genesis.alloc.entry(address).or_default();
        *entry = GenesisAccount {
            nonce: Some(account.nonce),
            balance: entry.balance + account.balance,
            code: Some(account.code),
            storage: (!storage.is_empty()).then_some(storage),
            ..Default::default()
        };
    }
    Ok(())
}
