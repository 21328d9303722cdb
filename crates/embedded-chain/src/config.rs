//! What a chain is started with.

use std::time::Duration;

use alloy_genesis::Genesis;
use alloy_primitives::Address;

/// When blocks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mining {
    /// A block at every tick, with or without transactions.
    Interval(Duration),
    /// A block as soon as a transaction is pending, none otherwise.
    OnDemand,
    /// A block as soon as a transaction is pending, and one at every tick.
    Both(Duration),
    /// Only by [`mine`](crate::EmbeddedChain::mine), [`reorg`](crate::EmbeddedChain::reorg) or the Engine API.
    Manual,
}

impl Mining {
    pub(crate) const fn period(self) -> Option<Duration> {
        match self {
            Self::Interval(period) | Self::Both(period) => Some(period),
            Self::OnDemand | Self::Manual => None,
        }
    }

    pub(crate) const fn on_demand(self) -> bool {
        matches!(self, Self::OnDemand | Self::Both(_))
    }
}

/// Settings of an [`EmbeddedChain`](crate::EmbeddedChain).
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// Chain id, forks and initial state. The forks decide which sidecar form the pool takes: from Osaka on only
    /// EIP-7594 cell proofs, before it EIP-4844 blob proofs as well.
    pub genesis: Genesis,
    /// When blocks are made.
    pub mining: Mining,
    /// How many blocks behind the head the `safe` tag is.
    pub safe_distance: u64,
    /// How many blocks behind the head the `finalized` tag is; raised to `safe_distance` where smaller.
    pub finalized_distance: u64,
    /// Who earns the priority fees.
    pub coinbase: Address,
    /// How far, in seconds, block timestamps may run ahead of the clock.
    ///
    /// A block is at least one second younger than its parent, so blocks made faster than that run ahead, and every
    /// window that contracts measure in seconds closes early. Automatic mining waits once this lead is reached;
    /// [`mine`](crate::EmbeddedChain::mine) and [`reorg`](crate::EmbeddedChain::reorg) do as they are told.
    pub max_clock_lead: u64,
    /// How many blobs (about 137 kB each with their proofs) are kept after inclusion; the oldest go first.
    pub blob_archive_capacity: usize,
}

impl ChainConfig {
    /// A chain of `genesis` with a block every second and on demand, safe 4 and finalized 8 behind the head.
    #[must_use]
    pub const fn new(genesis: Genesis) -> Self {
        Self {
            genesis,
            mining: Mining::Both(Duration::from_secs(1)),
            safe_distance: 4,
            finalized_distance: 8,
            coinbase: Address::ZERO,
            max_clock_lead: 10,
            blob_archive_capacity: 1024,
        }
    }

    /// The same with another mining mode.
    #[must_use]
    pub const fn with_mining(mut self, mining: Mining) -> Self {
        self.mining = mining;
        self
    }
}
