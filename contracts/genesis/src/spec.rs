//! What a genesis is asked for.

use alloy_primitives::{Address, Bytes, U256};

use crate::base::{DEFAULT_CHAIN_ID, Fork};

/// One LCAI in wei.
pub const LCAI: U256 = U256::from_limbs([1_000_000_000_000_000_000, 0, 0, 0]);

/// Timestamp of a genesis that is not told another: fixed, so that it is the same bytes everywhere. Blocks carry the
/// time of the clock from the first one on.
pub const DEFAULT_TIMESTAMP: u64 = 1_735_689_600;

/// A model that is registered, enabled and whitelisted from genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Name with its tag; its hash is the model id.
    pub name: String,
    /// Fee of one job, in wei.
    pub fee: U256,
    /// Tokens an answer may have.
    pub max_output_tokens: u64,
}

/// The windows and limits of AIConfig that a devnet changes; everything else stays at the contract's defaults. Times
/// are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolParams {
    /// From submission to acknowledgement.
    pub ack_timeout: u64,
    /// From acknowledgement to completion.
    pub completion_timeout: u64,
    /// From completion to the last dispute.
    pub dispute_window: u64,
    /// From a dispute to the end of the disputer's turn.
    pub resolution_timeout: u64,
    /// From the last use of a session to the moment anyone may close it.
    pub session_inactivity_timeout: u64,
    /// How long a suspended worker stays so.
    pub suspension_cooldown: u64,
    /// Least stake of a worker, in wei.
    pub min_worker_stake: U256,
    /// Jobs a worker may have submitted or acknowledged at one time.
    pub max_concurrent_jobs: u64,
}

impl ProtocolParams {
    /// Windows short enough to watch.
    #[must_use]
    pub fn devnet() -> Self {
        Self {
            ack_timeout: 20,
            completion_timeout: 60,
            dispute_window: 30,
            resolution_timeout: 60,
            session_inactivity_timeout: 600,
            suspension_cooldown: 60,
            min_worker_stake: U256::from(5000) * LCAI,
            max_concurrent_jobs: 16,
        }
    }
}

/// Everything a genesis depends on: the same specification gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenesisSpec {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Hard fork active from genesis.
    pub fork: Fork,
    /// Seconds since the Unix epoch, in the genesis header and as `block.timestamp` of all constructors.
    pub timestamp: u64,
    /// Accounts to fund, with balances in wei.
    pub accounts: Vec<(Address, U256)>,
    /// Who signs session authorizations; zero for none.
    pub dispatcher: Address,
    /// Who resolves disputes; not zero.
    pub disputer: Address,
    /// Proposer, canceller and executor of the timelocks.
    pub governor: Address,
    /// Seconds between a governor's proposal and its execution.
    pub timelock_delay: u64,
    /// Who may pause the registries; zero for nobody.
    pub guardian: Address,
    /// Models open from the start.
    pub models: Vec<ModelSpec>,
    /// Windows and limits.
    pub params: ProtocolParams,
    /// More calls to AIConfig, as calldata, run in order by its first owner after everything else.
    pub ai_config_calls: Vec<Bytes>,
}

impl GenesisSpec {
    /// A devnet on Osaka, chain id 1337, with nobody funded and no model yet.
    #[must_use]
    pub fn devnet(dispatcher: Address, disputer: Address, governor: Address) -> Self {
        Self {
            chain_id: DEFAULT_CHAIN_ID,
            fork: Fork::Osaka,
            timestamp: DEFAULT_TIMESTAMP,
            accounts: Vec::new(),
            dispatcher,
            disputer,
            governor,
            timelock_delay: 2,
            guardian: Address::ZERO,
            models: Vec::new(),
            params: ProtocolParams::devnet(),
            ai_config_calls: Vec::new(),
        }
    }
}
