//! What the deployment must be able to do, tried on the state that the genesis starts with.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_primitives::{Address, B256, Bytes, U256, address, keccak256};
use alloy_sol_types::{SolCall, SolError, sol};
use lcai_primitives::ModelId;
use lcai_primitives::contracts::{
    AIConfig, CanaryLedger, JobRegistry, ReputationRegistry, SessionManager, WorkerRegistry,
};

use lcai_genesis::{
    BuiltGenesis, Contract, DEPLOYER, Fork, GenesisError, GenesisSpec, LCAI, ModelSpec, Sandbox, addresses,
    build, creation_code,
};

sol! {
    error InvalidInitialization();
    error OwnableUnauthorizedAccount(address account);
    error AccessControlUnauthorizedAccount(address account, bytes32 neededRole);
    error TimelockUnexpectedOperationState(bytes32 operationId, bytes32 expectedStates);

    interface Upgradeable {
        function upgradeToAndCall(address newImplementation, bytes data) external payable;
        function owner() external view returns (address);
        function paused() external view returns (bool);
    }

    interface Timelock {
        function schedule(address target, uint256 value, bytes data, bytes32 predecessor, bytes32 salt, uint256 delay) external;
        function execute(address target, uint256 value, bytes payload, bytes32 predecessor, bytes32 salt) external payable;
        function getMinDelay() external view returns (uint256);
    }
}

const GOVERNOR: Address = address!("0x000000000000000000000000000000000000a001");
const DISPATCHER: Address = address!("0x000000000000000000000000000000000000a002");
const DISPUTER: Address = address!("0x000000000000000000000000000000000000a003");
const STRANGER: Address = address!("0x000000000000000000000000000000000000a004");
const SECOND_IMPLEMENTATION: Address = address!("0x00000000000000000000000000000000000000ff");
/// EIP-1967: keccak256("eip1967.proxy.implementation") - 1.
const IMPLEMENTATION_SLOT: &str = "eip1967.proxy.implementation";

const PROXIES: [(Contract, Address, Address); 6] = [
    (Contract::AiConfig, addresses::AI_CONFIG, addresses::AI_CONFIG_IMPLEMENTATION),
    (Contract::WorkerRegistry, addresses::WORKER_REGISTRY, addresses::WORKER_REGISTRY_IMPLEMENTATION),
    (Contract::JobRegistry, addresses::JOB_REGISTRY, addresses::JOB_REGISTRY_IMPLEMENTATION),
    (Contract::SessionManager, addresses::SESSION_MANAGER, addresses::SESSION_MANAGER_IMPLEMENTATION),
    (
        Contract::ReputationRegistry,
        addresses::REPUTATION_REGISTRY,
        addresses::REPUTATION_REGISTRY_IMPLEMENTATION,
    ),
    (Contract::CanaryLedger, addresses::CANARY_LEDGER, addresses::CANARY_LEDGER_IMPLEMENTATION),
];

fn spec() -> GenesisSpec {
    GenesisSpec {
        accounts: vec![(GOVERNOR, U256::from(1_000_000) * LCAI), (DISPUTER, U256::from(1000) * LCAI)],
        models: vec![ModelSpec { name: "lcai-tiny:1".to_owned(), fee: LCAI, max_output_tokens: 256 }],
        ..GenesisSpec::devnet(DISPATCHER, DISPUTER, GOVERNOR)
    }
}

/// The chain as it is at the given age, in seconds.
fn at(built: &BuiltGenesis, age: u64) -> Sandbox {
    let spec = spec();
    Sandbox::resume(&built.genesis, spec.fork, spec.timestamp + age)
}

fn read<C: SolCall>(sandbox: &mut Sandbox, to: Address, call: C) -> C::Return {
    let output = sandbox.call("read", STRANGER, to, call.abi_encode().into()).unwrap();
    C::abi_decode_returns(&output).unwrap()
}

fn revert(result: Result<Bytes, GenesisError>) -> Bytes {
    match result.unwrap_err() {
        GenesisError::Reverted { output, .. } => output,
        other => panic!("not a revert: {other}"),
    }
}

#[test]
fn the_same_specification_gives_the_same_bytes() {
    let (first, second) = (build(&spec()).unwrap(), build(&spec()).unwrap());
    assert_eq!(serde_json::to_vec(&first.genesis).unwrap(), serde_json::to_vec(&second.genesis).unwrap());
    let other = build(&GenesisSpec { fork: Fork::Prague, ..spec() }).unwrap();
    assert_ne!(first.hash().unwrap(), other.hash().unwrap());
    let other = build(&GenesisSpec { dispatcher: STRANGER, ..spec() }).unwrap();
    assert_ne!(first.hash().unwrap(), other.hash().unwrap());
}

/// The genesis is the same on every machine. Where a contract has changed on purpose, `LCAI_BLESS=1` writes the new hash.
#[test]
fn the_genesis_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/devnet-genesis.keccak256");
    let hash = build(&spec()).unwrap().hash().unwrap().to_string();
    if std::env::var_os("LCAI_BLESS").is_some() {
        std::fs::write(path, format!("{hash}\n")).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap().trim(), hash);
}

#[test]
fn the_genesis_survives_json() {
    let built = build(&spec()).unwrap();
    let json = serde_json::to_string(&built.genesis).unwrap();
    let again: alloy_genesis::Genesis = serde_json::from_str(&json).unwrap();
    assert_eq!(again.alloc, built.genesis.alloc);
    assert!(serde_json::to_string(&again).unwrap() == json);
    for (name, address) in addresses::ALL {
        let account = built.genesis.alloc.get(&address).unwrap_or_else(|| panic!("{name} is missing"));
        let size = account.code.as_ref().unwrap().len();
        assert!(size > 0 && size <= 24_576, "{name} has {size} bytes of code (EIP-170)");
        assert_eq!(account.nonce, Some(1), "{name}");
    }
    assert_eq!(built.genesis.alloc[&GOVERNOR].balance, U256::from(1_000_000) * LCAI);
}

#[test]
fn the_contracts_know_each_other_and_their_parameters() {
    let built = build(&spec()).unwrap();
    let mut chain = at(&built, 0);
    let registry = built.deployment.worker_registry;
    assert_eq!(read(&mut chain, registry, WorkerRegistry::aiConfigCall {}), built.deployment.ai_config);
    assert_eq!(read(&mut chain, registry, WorkerRegistry::jobRegistryCall {}), built.deployment.job_registry);
    let jobs = built.deployment.job_registry;
    assert_eq!(read(&mut chain, jobs, JobRegistry::workerRegistryCall {}), registry);
    assert_eq!(read(&mut chain, jobs, JobRegistry::aiConfigCall {}), built.deployment.ai_config);
    assert_eq!(read(&mut chain, jobs, JobRegistry::treasuryCall {}), addresses::TREASURY);
    assert_eq!(read(&mut chain, jobs, JobRegistry::feePoolCall {}), addresses::FEE_POOL);

    let config = built.deployment.ai_config;
    assert_eq!(read(&mut chain, config, AIConfig::getAckTimeoutCall {}), U256::from(20));
    assert_eq!(read(&mut chain, config, AIConfig::getCompletionTimeoutCall {}), U256::from(60));
    assert_eq!(read(&mut chain, config, AIConfig::getDisputeWindowCall {}), U256::from(30));
    assert_eq!(read(&mut chain, config, AIConfig::getResolutionTimeoutCall {}), U256::from(60));
    assert_eq!(read(&mut chain, config, AIConfig::getMinWorkerStakeCall {}), U256::from(5000) * LCAI);
    assert_eq!(read(&mut chain, config, AIConfig::getDispatcherAddressCall {}), DISPATCHER);
    assert_eq!(read(&mut chain, config, AIConfig::getDisputerAddressCall {}), DISPUTER);
    let model = B256::from(ModelId::from_name("lcai-tiny:1"));
    assert!(read(&mut chain, config, AIConfig::isModelEnabledCall { modelId: model }));
    assert_eq!(read(&mut chain, config, AIConfig::calculateJobFeeCall { modelId: model }), LCAI);
    assert!(read(&mut chain, registry, WorkerRegistry::isModelWhitelistedCall { modelId: model }));
    for (contract, proxy, _) in PROXIES {
        assert_eq!(read(&mut chain, proxy, Upgradeable::ownerCall {}), addresses::TIMELOCK, "{contract:?}");
    }

    let (manager, scores) = (addresses::SESSION_MANAGER, addresses::REPUTATION_REGISTRY);
    assert_eq!(built.deployment.session_manager, Some(manager));
    assert_eq!(built.deployment.reputation_registry, Some(scores));
    assert_eq!(built.deployment.canary_ledger, Some(addresses::CANARY_LEDGER));
    assert_eq!(read(&mut chain, config, AIConfig::getSessionManagerAddressCall {}), manager);
    assert!(!read(&mut chain, config, AIConfig::getSortitionEnabledCall {}), "off until switched on");
    assert_eq!(read(&mut chain, jobs, JobRegistry::reputationRegistryCall {}), scores);
    let ledger = addresses::CANARY_LEDGER;
    assert_eq!(read(&mut chain, ledger, CanaryLedger::jobRegistryCall {}), jobs);
    assert_eq!(read(&mut chain, ledger, CanaryLedger::aiConfigCall {}), config);
    let commit: Bytes =
        CanaryLedger::commitCall { epoch: U256::ZERO, root: B256::repeat_byte(1) }.abi_encode().into();
    let output = revert(chain.call("commit", STRANGER, ledger, commit.clone()));
    assert_eq!(output, CanaryLedger::NotDisputer { caller: STRANGER, expected: DISPUTER }.abi_encode());
    chain.call("commit", DISPUTER, ledger, commit).unwrap();
    for proxy in [registry, jobs] {
        assert!(!read(&mut chain, proxy, Upgradeable::pausedCall {}));
    }
}

/// Whoever calls `initialize` again, on a proxy or past it, is refused.
#[test]
fn a_second_initialize_reverts_everywhere() {
    let built = build(&spec()).unwrap();
    let mut chain = at(&built, 0);
    let initialize = |contract: Contract| -> Bytes {
        match contract {
            Contract::AiConfig => AIConfig::initializeCall {
                _initialOwner: STRANGER,
                _dispatcher: STRANGER,
                _disputer: STRANGER,
            }
            .abi_encode(),
            Contract::WorkerRegistry => WorkerRegistry::initializeCall {
                _initialOwner: STRANGER,
                _aiConfig: STRANGER,
                _jobRegistry: STRANGER,
                _treasury: STRANGER,
                _guardian: STRANGER,
            }
            .abi_encode(),
            Contract::SessionManager => SessionManager::initializeCall {
                initialOwner: STRANGER,
                jobRegistry_: STRANGER,
                workerRegistry_: STRANGER,
                aiConfig_: STRANGER,
                reputation_: STRANGER,
            }
            .abi_encode(),
            Contract::ReputationRegistry => {
                ReputationRegistry::initializeCall { _initialOwner: STRANGER, _jobRegistry: STRANGER }
                    .abi_encode()
            }
            Contract::CanaryLedger => CanaryLedger::initializeCall {
                initialOwner: STRANGER,
                jobRegistry_: STRANGER,
                aiConfig_: STRANGER,
            }
            .abi_encode(),
            _ => JobRegistry::initializeCall {
                _initialOwner: STRANGER,
                _workerRegistry: STRANGER,
                _aiConfig: STRANGER,
                _treasury: STRANGER,
                _feePool: STRANGER,
                _guardian: STRANGER,
            }
            .abi_encode(),
        }
        .into()
    };
    for (contract, proxy, implementation) in PROXIES {
        for (caller, target) in [
            (STRANGER, proxy),
            (addresses::TIMELOCK, proxy),
            (STRANGER, implementation),
            (GOVERNOR, implementation),
        ] {
            let output = revert(chain.call("initialize", caller, target, initialize(contract)));
            assert_eq!(output, InvalidInitialization {}.abi_encode(), "{contract:?} at {target}");
        }
    }
}

fn implementation(chain: &mut Sandbox, proxy: Address) -> Address {
    let slot = U256::from_be_bytes(keccak256(IMPLEMENTATION_SLOT).0) - U256::ONE;
    Address::from_word(chain.storage(proxy, slot).into())
}

#[test]
fn the_timelock_upgrades_every_proxy() {
    let built = build(&spec()).unwrap();
    for (contract, proxy, first) in PROXIES {
        let delay = spec().timelock_delay;
        let upgrade: Bytes = Upgradeable::upgradeToAndCallCall {
            newImplementation: SECOND_IMPLEMENTATION,
            data: Bytes::new(),
        }
        .abi_encode()
        .into();
        let schedule: Bytes = Timelock::scheduleCall {
            target: proxy,
            value: U256::ZERO,
            data: upgrade.clone(),
            predecessor: B256::ZERO,
            salt: B256::ZERO,
            delay: U256::from(delay),
        }
        .abi_encode()
        .into();
        let execute: Bytes = Timelock::executeCall {
            target: proxy,
            value: U256::ZERO,
            payload: upgrade,
            predecessor: B256::ZERO,
            salt: B256::ZERO,
        }
        .abi_encode()
        .into();

        let mut chain = at(&built, 0);
        assert_eq!(read(&mut chain, addresses::TIMELOCK, Timelock::getMinDelayCall {}), U256::from(delay));
        chain
            .deploy("second implementation", SECOND_IMPLEMENTATION, &creation_code(contract).unwrap(), &[])
            .unwrap();
        assert_eq!(implementation(&mut chain, proxy), first);

        let output = revert(chain.call("schedule", STRANGER, addresses::TIMELOCK, schedule.clone()));
        assert_eq!(output[..4], AccessControlUnauthorizedAccount::SELECTOR);
        chain.call("schedule", GOVERNOR, addresses::TIMELOCK, schedule).unwrap();
        // Not before its time.
        let output = revert(chain.call("execute", GOVERNOR, addresses::TIMELOCK, execute.clone()));
        assert_eq!(output[..4], TimelockUnexpectedOperationState::SELECTOR);
        assert_eq!(implementation(&mut chain, proxy), first);

        chain.advance(delay);
        let output = revert(chain.call("execute", STRANGER, addresses::TIMELOCK, execute.clone()));
        assert_eq!(output[..4], AccessControlUnauthorizedAccount::SELECTOR);
        chain.call("execute", GOVERNOR, addresses::TIMELOCK, execute).unwrap();
        assert_eq!(implementation(&mut chain, proxy), SECOND_IMPLEMENTATION);
        // State and owner are those of the proxy still.
        assert_eq!(read(&mut chain, proxy, Upgradeable::ownerCall {}), addresses::TIMELOCK);
        if contract == Contract::WorkerRegistry {
            assert_eq!(read(&mut chain, proxy, WorkerRegistry::aiConfigCall {}), addresses::AI_CONFIG);
        }
    }
}

#[test]
fn nobody_else_upgrades_a_proxy() {
    let built = build(&spec()).unwrap();
    let mut chain = at(&built, 0);
    for (contract, proxy, first) in PROXIES {
        chain
            .deploy("second implementation", SECOND_IMPLEMENTATION, &creation_code(contract).unwrap(), &[])
            .unwrap();
        for caller in [STRANGER, GOVERNOR, DISPATCHER, DEPLOYER] {
            let upgrade = Upgradeable::upgradeToAndCallCall {
                newImplementation: SECOND_IMPLEMENTATION,
                data: Bytes::new(),
            };
            let output = revert(chain.call("upgrade", caller, proxy, upgrade.abi_encode().into()));
            assert_eq!(output, OwnableUnauthorizedAccount { account: caller }.abi_encode());
        }
        assert_eq!(implementation(&mut chain, proxy), first);
    }
}

#[test]
fn refuses_what_the_contracts_refuse() {
    let error = build(&GenesisSpec { disputer: Address::ZERO, ..spec() }).unwrap_err();
    assert!(error.to_string().starts_with("AIConfig proxy reverted"), "{error}");
    let twice = ModelSpec { name: "lcai-tiny:1".to_owned(), fee: LCAI, max_output_tokens: 1 };
    let error = build(&GenesisSpec { models: vec![twice.clone(), twice], ..spec() }).unwrap_err();
    assert!(error.to_string().starts_with("registering lcai-tiny:1 reverted"), "{error}");
    let nameless = ModelSpec { name: String::new(), fee: LCAI, max_output_tokens: 1 };
    assert!(matches!(
        build(&GenesisSpec { models: vec![nameless], ..spec() }),
        Err(GenesisError::Model { .. })
    ));
}

#[test]
fn a_specification_can_change_any_parameter() {
    let call = AIConfig::setMaxReassignmentsCall { max: U256::from(7) }.abi_encode().into();
    let built = build(&GenesisSpec { ai_config_calls: vec![call], ..spec() }).unwrap();
    let mut chain = at(&built, 0);
    assert_eq!(read(&mut chain, addresses::AI_CONFIG, AIConfig::getMaxReassignmentsCall {}), U256::from(7));
}
