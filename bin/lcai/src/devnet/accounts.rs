//! Who is who on a devnet. All keys come from the public test mnemonic.

use crate::{exit::KeyError, keys::dev_account};
use alloy_primitives::{Address, U256};
use alloy_signer_local::PrivateKeySigner;

/// How many user accounts there are.
pub(super) const USERS: u32 = 10;

/// What a user account holds, LCAI.
pub(super) const USER_BALANCE: u64 = 10_000;

/// What a role's account holds, LCAI; a worker stakes from it.
const ROLE_BALANCE: u64 = 100_000;

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
    /// Position in the mnemonic's derivation path; users have 0 to 9.
    const fn index(self) -> u32 {
        match self {
            Self::Dispatcher => 100,
            Self::Keeper => 101,
            Self::NodeBlob => 102,
            Self::Disputer => 103,
            Self::Governor => 104,
            Self::Guardian => 105,
            Self::Worker(n) => 200 + 2 * n,
            Self::WorkerBlob(n) => 201 + 2 * n,
        }
    }

    /// The role's key.
    pub fn signer(self) -> Result<PrivateKeySigner, KeyError> {
        dev_account(self.index())
    }
}

/// Every funded account of a devnet.
#[derive(Debug, Clone)]
pub struct DevAccounts {
    /// Users, in order.
    pub users: Vec<PrivateKeySigner>,
    funded: Vec<(Address, U256)>,
}

impl DevAccounts {
    /// Derives the accounts of a devnet with so many workers.
    pub fn derive(workers: u32) -> Result<Self, KeyError> {
        let users = (0..USERS).map(dev_account).collect::<Result<Vec<_>, _>>()?;
        let mut funded: Vec<_> = users.iter().map(|user| (user.address(), lcai(USER_BALANCE))).collect();
        let roles = [Role::Keeper, Role::NodeBlob, Role::Disputer, Role::Governor, Role::Guardian];
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

fn lcai(amount: u64) -> U256 {
    U256::from(amount) * U256::from(10).pow(U256::from(18))
}
