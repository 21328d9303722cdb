//! An EVM in which a deployment takes place before there is a chain, and in which it can be tried.

use alloy_genesis::Genesis;
use alloy_primitives::{Address, B256, Bytes, U256};
use revm::bytecode::Bytecode;
use revm::context::result::ExecutionResult;
use revm::context::{BlockEnv, CfgEnv, Context};
use revm::database::{CacheDB, EmptyDB};
use revm::primitives::hardfork::SpecId;
use revm::state::AccountInfo;
use revm::{MainBuilder, MainContext, SystemCallCommitEvm};

use crate::base::Fork;
use crate::error::GenesisError;

/// State, and the block in which everything runs.
#[derive(Debug)]
pub struct Sandbox {
    db: CacheDB<EmptyDB>,
    chain_id: u64,
    spec: SpecId,
    number: u64,
    timestamp: u64,
}

impl Sandbox {
    /// Empty state; `timestamp` is `block.timestamp`, in seconds.
    #[must_use]
    pub fn new(chain_id: u64, fork: Fork, timestamp: u64) -> Self {
        let spec = match fork {
            Fork::Osaka => SpecId::OSAKA,
            Fork::Prague => SpecId::PRAGUE,
        };
        Self { db: CacheDB::new(EmptyDB::default()), chain_id, spec, number: 0, timestamp }
    }

    /// Runs `creation` with `arguments` at `address` itself and leaves there the code it returns, the storage it wrote
    /// and nonce 1 (EIP-161).
    ///
    /// A create frame would put the contract where the creator's nonce says; code that remembers its own address, as
    /// an upgradeable implementation does, then remembers the wrong one. So the creation code becomes the account's
    /// code, is called, and gives way to what it returned. It finds its arguments after its own end, as in a create.
    ///
    /// # Errors
    /// If the constructor reverts or runs out of gas; `what` names it.
    pub fn deploy(
        &mut self,
        what: &str,
        address: Address,
        creation: &Bytes,
        arguments: &[u8],
    ) -> Result<(), GenesisError> {
        let code = [creation.as_ref(), arguments].concat();
        self.set_code(address, code.into());
        // Constructors see the genesis deployer as their caller.
        let runtime = self.call(what, DEPLOYER, address, Bytes::new())?;
        self.set_code(address, runtime);
        Ok(())
    }

    /// Calls `to` as `caller`, whoever that is, and keeps what it changed.
    ///
    /// # Errors
    /// If the call reverts or runs out of gas; `what` names it.
    pub fn call(
        &mut self,
        what: &str,
        caller: Address,
        to: Address,
        data: Bytes,
    ) -> Result<Bytes, GenesisError> {
        let cfg = {
            let mut cfg = CfgEnv::new_with_spec(self.spec).with_mainnet_gas_params();
            cfg.chain_id = self.chain_id;
            cfg
        };
        let block = BlockEnv {
            number: U256::from(self.number),
            timestamp: U256::from(self.timestamp),
            ..Default::default()
        };
        let mut evm =
            Context::mainnet().with_db(&mut self.db).with_cfg(cfg).with_block(block).build_mainnet();
        let failed = |reason: String| GenesisError::Failed { what: what.to_owned(), reason };
        // A system call needs neither nonce nor balance, so the caller leaves no trace in the state.
        match evm
            .system_call_with_caller_commit(caller, to, data)
            .map_err(|error| failed(error.to_string()))?
        {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => {
                Err(GenesisError::Reverted { what: what.to_owned(), output })
            }
            ExecutionResult::Halt { reason, .. } => Err(failed(format!("{reason:?}"))),
        }
    }

    /// The state that a genesis starts with, at a given time.
    #[must_use]
    pub fn resume(genesis: &Genesis, fork: Fork, timestamp: u64) -> Self {
        let mut sandbox = Self::new(genesis.config.chain_id, fork, timestamp);
        for (address, account) in &genesis.alloc {
            let code = Bytecode::new_raw(account.code.clone().unwrap_or_default());
            let info = AccountInfo {
                balance: account.balance,
                nonce: account.nonce.unwrap_or_default(),
                ..AccountInfo::default().with_code(code)
            };
            sandbox.db.insert_account_info(*address, info);
            for (slot, value) in account.storage.iter().flatten() {
                let Ok(()) = sandbox.db.insert_account_storage(*address, (*slot).into(), (*value).into());
            }
        }
        sandbox
    }

    /// Moves `block.timestamp` on.
    pub const fn advance(&mut self, seconds: u64) {
        self.timestamp = self.timestamp.saturating_add(seconds);
    }

    /// A storage slot of an account.
    #[must_use]
    pub fn storage(&mut self, address: Address, slot: U256) -> U256 {
        let Ok(value) = revm::Database::storage(&mut self.db, address, slot);
        value
    }

    fn set_code(&mut self, address: Address, code: Bytes) {
        let info = AccountInfo::default().with_code(Bytecode::new_raw(code));
        self.db.insert_account_info(address, AccountInfo { nonce: 1, ..info });
    }

    /// Every account that has code, balance, nonce or storage, with its non-zero storage.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = (Address, SandboxAccount)> + '_ {
        self.db.cache.accounts.iter().filter_map(|(address, account)| {
            let storage: Vec<(B256, B256)> = account
                .storage
                .iter()
                .filter(|(_, value)| !value.is_zero())
                .map(|(slot, value)| (B256::from(*slot), B256::from(*value)))
                .collect();
            let info = account.info()?;
            let code = self
                .db
                .cache
                .contracts
                .get(&info.code_hash)
                .map(Bytecode::original_bytes)
                .unwrap_or_default();
            let account = SandboxAccount { nonce: info.nonce, balance: info.balance, code, storage };
            (!account.is_empty()).then_some((*address, account))
        })
    }
}

/// Who runs constructors and owns the contracts until they are handed over.
pub const DEPLOYER: Address = Address::new(*b"lcai-genesis-creator");

/// An account after the deployment.
#[derive(Debug)]
pub(crate) struct SandboxAccount {
    pub(crate) nonce: u64,
    pub(crate) balance: U256,
    pub(crate) code: Bytes,
    pub(crate) storage: Vec<(B256, B256)>,
}

impl SandboxAccount {
    fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && self.code.is_empty() && self.storage.is_empty()
    }
}
