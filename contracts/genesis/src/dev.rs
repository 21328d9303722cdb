//! The development chain: who is who on it, and its genesis. All keys come from the public test mnemonic, so nothing of
//! value belongs here.

use crate::{Fork, GenesisSpec, LCAI, ModelSpec, ProtocolParams};
use alloy_primitives::{Address, U256};
use alloy_signer_local::{LocalSignerError, MnemonicBuilder, PrivateKeySigner};

/// The well-known test mnemonic: its accounts are funded on every development chain and belong to everybody.
pub const DEV_MNEMONIC: &str = "test test test test test test test test test test test junk";

/// The model a development chain offers: the one made in `devnet/model`.
pub const DEV_MODEL: &str = "lcai-tiny";

/// How many user accounts there are.
pub const USERS: u32 = 10;

/// What a user account holds, LCAI.
pub const USER_BALANCE: u64 = 10_000;

/// Workers that a chain funds unless it is told a number.
pub const DEV_WORKERS: u32 = 8;

/// What a role's account holds, LCAI; a worker stakes from it.
const ROLE_BALANCE: u64 = 100_000;

/// An account of the test mnemonic; users have 0 to 9.
///
/// # Errors
/// When the derivation library fails.
pub fn dev_account(index: u32) -> Result<PrivateKeySigner, LocalSignerError> {
    MnemonicBuilder::english().phrase(DEV_MNEMONIC).index(index)?.build()
}

/// Accounts with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Signs session authorizations.
    Dispatcher,
    /// Performs keeper duties.
    Keeper,
    /// Posts prompt blobs for users.
    NodeBlob,
    /// Rules on disputes.
    Disputer,
    /// Posts the evidence of verdicts.
    DisputerBlob,
    /// Pays for canaries.
    Treasury,
    /// Proposes and executes through the timelock.
    Governor,
    /// May pause.
    Guardian,
    /// The n-th worker.
    Worker(u32),
    /// The n-th worker's account for response blobs.
    WorkerBlob(u32),
}

impl Role {
    /// Position in the mnemonic's derivation path.
    const fn index(self) -> u32 {
        match self {
            Self::Dispatcher => 100,
            Self::Keeper => 101,
            Self::NodeBlob => 102,
            Self::Disputer => 103,
            Self::Governor => 104,
            Self::Guardian => 105,
            Self::DisputerBlob => 106,
            Self::Treasury => 107,
            Self::Worker(n) => 200 + 2 * n,
            Self::WorkerBlob(n) => 201 + 2 * n,
        }
    }

    /// The role's key.
    ///
    /// # Errors
    /// As [`dev_account`].
    pub fn signer(self) -> Result<PrivateKeySigner, LocalSignerError> {
        dev_account(self.index())
    }
}

/// Every funded account of a development chain.
#[derive(Debug, Clone)]
pub struct DevAccounts {
    /// Users, in order.
    pub users: Vec<PrivateKeySigner>,
    funded: Vec<(Address, U256)>,
}

impl DevAccounts {
    /// Derives the accounts of a chain with so many workers.
    ///
    /// # Errors
    /// As [`dev_account`].
    pub fn derive(workers: u32) -> Result<Self, LocalSignerError> {
        let users = (0..USERS).map(dev_account).collect::<Result<Vec<_>, _>>()?;
        let mut funded: Vec<_> = users.iter().map(|user| (user.address(), lcai(USER_BALANCE))).collect();
        let roles = [
            Role::Keeper,
            Role::NodeBlob,
            Role::Disputer,
            Role::DisputerBlob,
            Role::Treasury,
            Role::Governor,
            Role::Guardian,
        ];
        let workers = (0..workers).flat_map(|n| [Role::Worker(n), Role::WorkerBlob(n)]);
        for role in roles.into_iter().chain(workers) {
            funded.push((role.signer()?.address(), lcai(ROLE_BALANCE)));
        }
        Ok(Self { users, funded })
    }

    /// Addresses and balances for the genesis block, wei.
    pub fn funded(&self) -> &[(Address, U256)] {
        &self.funded
    }
}

/// The development chain's genesis. `timestamp` is in unix seconds.
///
/// # Errors
/// As [`dev_account`].
pub fn spec(
    accounts: &DevAccounts,
    fork: Fork,
    timestamp: u64,
    params: ProtocolParams,
) -> Result<GenesisSpec, LocalSignerError> {
    let address = |role: Role| role.signer().map(|signer| signer.address());
    Ok(GenesisSpec {
        fork,
        timestamp,
        accounts: accounts.funded().to_vec(),
        guardian: address(Role::Guardian)?,
        params,
        models: vec![ModelSpec {
            name: DEV_MODEL.to_owned(),
            // 0.02 LCAI, what the live network asks for its smallest model.
            fee: U256::from(20_000_000_000_000_000u64),
            max_output_tokens: 64,
        }],
        ..GenesisSpec::devnet(address(Role::Dispatcher)?, address(Role::Disputer)?, address(Role::Governor)?)
    })
}

fn lcai(amount: u64) -> U256 {
    U256::from(amount) * LCAI
}
