//! Where genesis puts the contracts.

use alloy_primitives::{Address, address};
pub use lcai_primitives::WORKER_REGISTRY_PREDEPLOY as WORKER_REGISTRY;

/// FeePool, where the live network has it: a timelock that collects the validators' share.
pub const FEE_POOL: Address = address!("0x0000000000000000000000000000000000001004");
/// AIConfig's proxy.
pub const AI_CONFIG: Address = address!("0x000000000000000000000000000000001ca10001");
/// JobRegistry's proxy.
pub const JOB_REGISTRY: Address = address!("0x000000000000000000000000000000001ca10003");
/// SessionManager's proxy.
pub const SESSION_MANAGER: Address = address!("0x000000000000000000000000000000001ca10004");
/// Treasury: a timelock that collects the protocol's share and slashed stakes.
pub const TREASURY: Address = address!("0x000000000000000000000000000000001ca10005");
/// The timelock that owns the proxies.
pub const TIMELOCK: Address = address!("0x000000000000000000000000000000001ca10006");
/// ReputationRegistry's proxy.
pub const REPUTATION_REGISTRY: Address = address!("0x000000000000000000000000000000001ca10007");
/// CanaryLedger's proxy.
pub const CANARY_LEDGER: Address = address!("0x000000000000000000000000000000001ca10008");
/// AIConfig's implementation.
pub const AI_CONFIG_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11001");
/// WorkerRegistry's implementation.
pub const WORKER_REGISTRY_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11002");
/// JobRegistry's implementation.
pub const JOB_REGISTRY_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11003");
/// SessionManager's implementation.
pub const SESSION_MANAGER_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11004");
/// ReputationRegistry's implementation.
pub const REPUTATION_REGISTRY_IMPLEMENTATION: Address =
    address!("0x000000000000000000000000000000001ca11007");
/// CanaryLedger's implementation.
pub const CANARY_LEDGER_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11008");
/// Disputes, a library of JobRegistry.
pub const DISPUTES: Address = address!("0x000000000000000000000000000000001ca12001");
/// SessionOps, a library of JobRegistry.
pub const SESSION_OPS: Address = address!("0x000000000000000000000000000000001ca12002");
/// Settlement, a library of JobRegistry.
pub const SETTLEMENT: Address = address!("0x000000000000000000000000000000001ca12003");

/// Every contract of the deployment with its name, proxies first.
pub const ALL: [(&str, Address); 18] = [
    ("WorkerRegistry", WORKER_REGISTRY),
    ("AIConfig", AI_CONFIG),
    ("JobRegistry", JOB_REGISTRY),
    ("SessionManager", SESSION_MANAGER),
    ("ReputationRegistry", REPUTATION_REGISTRY),
    ("CanaryLedger", CANARY_LEDGER),
    ("FeePool", FEE_POOL),
    ("Treasury", TREASURY),
    ("Timelock", TIMELOCK),
    ("AIConfig implementation", AI_CONFIG_IMPLEMENTATION),
    ("WorkerRegistry implementation", WORKER_REGISTRY_IMPLEMENTATION),
    ("JobRegistry implementation", JOB_REGISTRY_IMPLEMENTATION),
    ("SessionManager implementation", SESSION_MANAGER_IMPLEMENTATION),
    ("ReputationRegistry implementation", REPUTATION_REGISTRY_IMPLEMENTATION),
    ("CanaryLedger implementation", CANARY_LEDGER_IMPLEMENTATION),
    ("Disputes", DISPUTES),
    ("SessionOps", SESSION_OPS),
    ("Settlement", SETTLEMENT),
];
