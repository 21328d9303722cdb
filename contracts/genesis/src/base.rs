//! What a genesis needs before any contract of ours is in it: chain configuration and system contracts.

use std::collections::BTreeMap;

use alloy_eips::{eip2935, eip4788, eip7002, eip7251, eip7840::BlobParams};
use alloy_genesis::{ChainConfig, Genesis, GenesisAccount};
use alloy_primitives::{Address, B256, Bytes, U256, address};
use serde::{Deserialize, Serialize};

/// Chain id of a development chain, as with other clients. The live networks have 9200 and 8200.
pub const DEFAULT_CHAIN_ID: u64 = 1337;

/// Block gas limit of a devnet.
pub const GAS_LIMIT: u64 = 60_000_000;

/// Where `DepositEvent`s are looked for (EIP-6110). A devnet has no deposit contract, so nothing lives there.
pub const DEPOSIT_CONTRACT: Address = address!("0x4242424242424242424242424242424242424242");

/// The hard fork that is active from genesis. It decides which sidecar form a blob transaction carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fork {
    /// Blob transactions carry EIP-7594 cell proofs only.
    #[default]
    Osaka,
    /// Blob transactions carry EIP-4844 blob proofs; EIP-7594 ones are taken too.
    Prague,
}

/// A post-merge genesis with every fork up to `fork` active and the system contracts of EIP-4788, EIP-2935,
/// EIP-7002 and EIP-7251 in place. `accounts` are funded with the given balances in wei.
///
/// `timestamp` is the genesis header's, in seconds since the Unix epoch.
pub fn base_genesis(chain_id: u64, fork: Fork, timestamp: u64, accounts: &[(Address, U256)]) -> Genesis {
    let mut alloc: BTreeMap<Address, GenesisAccount> = system_contracts().into_iter().collect();
    for (address, balance) in accounts {
        alloc.entry(*address).or_default().balance += *balance;
    }
    Genesis {
        config: chain_config(chain_id, fork),
        timestamp,
        gas_limit: GAS_LIMIT,
        difficulty: U256::ZERO,
        mix_hash: B256::ZERO,
        alloc,
        ..Default::default()
    }
}

fn chain_config(chain_id: u64, fork: Fork) -> ChainConfig {
    ChainConfig {
        chain_id,
        homestead_block: Some(0),
        eip150_block: Some(0),
        eip155_block: Some(0),
        eip158_block: Some(0),
        byzantium_block: Some(0),
        constantinople_block: Some(0),
        petersburg_block: Some(0),
        istanbul_block: Some(0),
        muir_glacier_block: Some(0),
        berlin_block: Some(0),
        london_block: Some(0),
        arrow_glacier_block: Some(0),
        gray_glacier_block: Some(0),
        merge_netsplit_block: Some(0),
        shanghai_time: Some(0),
        cancun_time: Some(0),
        prague_time: Some(0),
        osaka_time: (fork == Fork::Osaka).then_some(0),
        terminal_total_difficulty: Some(U256::ZERO),
        terminal_total_difficulty_passed: true,
        deposit_contract_address: Some(DEPOSIT_CONTRACT),
        blob_schedule: blob_schedule(fork),
        ..Default::default()
    }
}

fn blob_schedule(fork: Fork) -> BTreeMap<String, BlobParams> {
    let mut schedule = BTreeMap::from([
        ("cancun".to_owned(), BlobParams::cancun()),
        ("prague".to_owned(), BlobParams::prague()),
    ]);
    if fork == Fork::Osaka {
        schedule.insert("osaka".to_owned(), BlobParams::osaka());
    }
    schedule
}

fn system_contracts() -> [(Address, GenesisAccount); 4] {
    let account = |code: &Bytes| GenesisAccount {
        // A contract created by a transaction starts with nonce 1 (EIP-161).
        nonce: Some(1),
        code: Some(code.clone()),
        ..Default::default()
    };
    [
        (eip4788::BEACON_ROOTS_ADDRESS, account(&eip4788::BEACON_ROOTS_CODE)),
        (eip2935::HISTORY_STORAGE_ADDRESS, account(&eip2935::HISTORY_STORAGE_CODE)),
        (eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, account(&eip7002::WITHDRAWAL_REQUEST_PREDEPLOY_CODE)),
        (
            eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS,
            account(&eip7251::CONSOLIDATION_REQUEST_PREDEPLOY_CODE),
        ),
    ]
}
