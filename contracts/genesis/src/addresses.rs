//! Where genesis puts the contracts.

use alloy_primitives::{Address, address};
pub use lcai_primitives::WORKER_REGISTRY_PREDEPLOY as WORKER_REGISTRY;

/// FeePool, where the live network has it: a timelock that collects the validators' share.
pub const FEE_POOL: Address = address!("0x0000000000000000000000000000000000001004");
/// AIConfig's proxy.
pub const AI_CONFIG: Address = address!("0x000000000000000000000000000000001ca10001");
/// JobRegistry's proxy.
pub const JOB_REGISTRY: Address = address!("0x000000000000000000000000000000001ca10003");
/// Treasury: a timelock that collects the protocol's share and slashed stakes.
pub const TREASURY: Address = address!("0x000000000000000000000000000000001ca10005");
/// The timelock that owns the three proxies.
pub const TIMELOCK: Address = address!("0x000000000000000000000000000000001ca10006");
/// AIConfig's implementation.
pub const AI_CONFIG_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11001");
/// WorkerRegistry's implementation.
pub const WORKER_REGISTRY_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11002");
/// JobRegistry's implementation.
pub const JOB_REGISTRY_IMPLEMENTATION: Address = address!("0x000000000000000000000000000000001ca11003");
/// Disputes, a library of JobRegistry.
pub const DISPUTES: Address = address!("0x000000000000000000000000000000001ca12001");
/// SessionOps, a library of JobRegistry.
pub const SESSION_OPS: Address = address!("0x000000000000000000000000000000001ca12002");
/// Settlement, a library of JobRegistry.
pub const SETTLEMENT: Address = address!("0x000000000000000000000000000000001ca12003");

/// Every contract of the deployment with its name, proxies first.
pub const ALL: [(&str, Address); 12] = [
    ("WorkerRegistry", WORKER_REGISTRY),
    ("AIConfig", AI_CONFIG),
    ("JobRegistry", JOB_REGISTRY),
    ("FeePool", FEE_POOL),
    ("Treasury", TREASURY),
    ("Timelock", TIMELOCK),
    ("AIConfig implementation", AI_CONFIG_IMPLEMENTATION),
    ("WorkerRegistry implementation", WORKER_REGISTRY_IMPLEMENTATION),
    ("JobRegistry implementation", JOB_REGISTRY_IMPLEMENTATION),
    ("Disputes", DISPUTES),
    ("SessionOps", SESSION_OPS),
    ("Settlement", SETTLEMENT),
];
