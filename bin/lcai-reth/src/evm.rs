//! Executing calls on the node's state, without going through its JSON-RPC.

use crate::{client::database, provider::NodeProvider};
use alloy_consensus::BlockHeader;
use alloy_primitives::{Address, B256, Bytes, TxKind};
use lcai_host::{Call, HostError, TransactionRequest};
use reth_ethereum_primitives::EthPrimitives;
use reth_evm::{ConfigureEvm, Evm, EvmEnvFor, NextBlockEnvAttributes};
use reth_evm_ethereum::EthEvmConfig;
use reth_primitives_traits::{HeaderTy, SealedHeader};
use reth_revm::{State, database::StateProviderDatabase};
use revm::{
    context::{
        Block, TxEnv,
        result::{EVMError, ExecutionResult, HaltReason, ResultAndState},
    },
    context_interface::{Cfg, transaction::AccessList},
    database_interface::bal::EvmDatabaseError,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Gas a read-only call may use, as geth's and Reth's `--rpc.gascap`.
const CALL_GAS: u64 = 50_000_000;

/// The stipend of a call that carries value; an estimate must leave room for it.
const CALL_STIPEND: u64 = 2_300;

/// The header type of the chain.
pub(crate) type Header = HeaderTy<EthPrimitives>;

type Env = EvmEnvFor<EthEvmConfig>;

/// Executes a read-only call on the state after `header`'s block.
pub(crate) fn call<P: NodeProvider>(
    provider: &P,
    evm: &EthEvmConfig,
    header: &SealedHeader<Header>,
    call: &Call,
) -> Result<Bytes, HostError> {
    let env = evm.evm_env(header.header()).map_err(|e| failed("evm environment", e))?;
    let transaction = TxEnv {
        kind: TxKind::Call(call.to),
        data: call.input.clone(),
        gas_limit: CALL_GAS,
        chain_id: None,
        ..TxEnv::default()
    };
    match transact(provider, evm, header.hash(), env, transaction)? {
        ExecutionResult::Success { output, .. } => Ok(output.into_data()),
        ExecutionResult::Revert { output, .. } => Err(HostError::Reverted(output)),
        ExecutionResult::Halt { reason, .. } => Err(halted(&reason)),
    }
}

/// The environment of the block after `head`: what a transaction sent now will run in.
pub(crate) fn next_block(evm: &EthEvmConfig, head: &SealedHeader<Header>) -> Result<Env, HostError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let attributes = NextBlockEnvAttributes {
        timestamp: now.max(head.timestamp().saturating_add(1)),
        suggested_fee_recipient: head.beneficiary(),
        prev_randao: head.mix_hash().unwrap_or_default(),
        gas_limit: head.gas_limit(),
        parent_beacon_block_root: head.parent_beacon_block_root(),
        withdrawals: None,
        extra_data: Bytes::new(),
        slot_number: None,
    };
    evm.next_evm_env(head.header(), &attributes).map_err(|e| failed("next block's environment", e))
}

/// Gas the transaction needs in the next block: enough for what it uses, what is refunded only afterwards, and the 1/64
/// that a call keeps back (EIP-150). As `eth_estimateGas` it looks no closer than that.
pub(crate) fn estimate<P: NodeProvider>(
    provider: &P,
    evm: &EthEvmConfig,
    head: &SealedHeader<Header>,
    request: &TransactionRequest,
) -> Result<u64, HostError> {
    let env = next_block(evm, head)?;
    let limit = env.block_env.gas_limit().min(env.cfg_env.tx_gas_limit_cap());
    let run = |gas_limit: u64| {
        transact(provider, evm, head.hash(), env.clone(), transaction(request, gas_limit, &env))
    };
    let (used, refunded) = match run(limit)? {
        ExecutionResult::Success { gas, .. } => (gas.tx_gas_used(), gas.final_refunded()),
        ExecutionResult::Revert { output, .. } => return Err(HostError::Reverted(output)),
        ExecutionResult::Halt { reason, .. } => return Err(halted(&reason)),
    };
    let mut enough = used.saturating_add(refunded).saturating_add(CALL_STIPEND).saturating_mul(64) / 63;
    while enough < limit {
        if matches!(run(enough)?, ExecutionResult::Success { .. }) {
            return Ok(enough);
        }
        enough = enough.saturating_mul(3) / 2;
    }
    Ok(limit)
}

fn transaction(request: &TransactionRequest, gas_limit: u64, env: &Env) -> TxEnv {
    let blobs = !request.blob_versioned_hashes.is_empty();
    TxEnv {
        tx_type: if blobs { 3 } else { 2 },
        caller: request.from,
        kind: TxKind::Call(request.to),
        value: request.value,
        data: request.input.clone(),
        gas_limit,
        chain_id: Some(env.cfg_env.chain_id),
        blob_hashes: request.blob_versioned_hashes.clone(),
        max_fee_per_blob_gas: if blobs { env.block_env.blob_gasprice().unwrap_or_default() } else { 0 },
        gas_priority_fee: Some(0),
        access_list: AccessList::default(),
        ..TxEnv::default()
    }
}

/// Runs a transaction without charging for gas and whatever its nonce, as `eth_call` and `eth_estimateGas` do.
fn transact<P: NodeProvider>(
    provider: &P,
    evm: &EthEvmConfig,
    block: B256,
    mut env: Env,
    transaction: TxEnv,
) -> Result<ExecutionResult<HaltReason>, HostError> {
    let state = provider.state_by_block_hash(block).map_err(|_| HostError::UnknownBlock(block))?;
    let mut db = State::builder().with_database(StateProviderDatabase::new(state)).build();
    env.cfg_env.disable_nonce_check = true;
    env.cfg_env.disable_base_fee = true;
    env.cfg_env.disable_balance_check = transaction.caller == Address::ZERO;
    env.cfg_env.disable_block_gas_limit = true;
    if transaction.caller == Address::ZERO {
        env.cfg_env.tx_gas_limit_cap = Some(u64::MAX);
    }
    match evm.evm_with_env(&mut db, env).transact(transaction) {
        Ok(ResultAndState { result, .. }) => Ok(result),
        Err(EVMError::Database(EvmDatabaseError::Database(error))) => Err(database(error)),
        Err(error) => Err(failed("execution", error)),
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> HostError {
    HostError::Rejected { method: what.to_owned(), code: -32000, message: error.to_string() }
}

fn halted(reason: &HaltReason) -> HostError {
    failed("execution", format!("halted: {reason:?}"))
}
