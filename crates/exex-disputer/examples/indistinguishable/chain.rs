//! The part of a chain that everybody sees: who paid whom, and who asked.

use alloy_primitives::{Address, keccak256};

/// Wei of an LCAI.
pub const LCAI: f64 = 1e18;

/// What a model asks for a job, wei.
pub const FEE: u128 = 500_000_000_000_000_000;

/// Gas of a session or a job costs about this, wei.
pub const GAS: u128 = 600_000_000_000_000;

/// How a client builds its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Gas limit above the estimate, percent.
    pub gas_margin: u64,
    /// Fee cap less tip, in percent of the base fee.
    pub fee_factor: u64,
    /// Tip, wei per gas.
    pub tip: u64,
    /// Pays from a deposit instead of with the job.
    pub prepaid: bool,
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Pays somebody.
    Transfer {
        /// Whom.
        to: Address,
    },
    /// Deposits with JobRegistry, to pay for jobs from it.
    Deposit,
    /// Opens a session.
    Open {
        /// Its number.
        session: u64,
    },
    /// Asks; the worker reads the prompt, nobody else does.
    Ask {
        /// The session.
        session: u64,
        /// The prompt.
        prompt: String,
    },
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tx {
    /// Unix seconds.
    pub at: u64,
    /// Who sends it.
    pub from: Address,
    /// Wei sent along.
    pub value: u128,
    /// What it does.
    pub what: What,
    /// How it was built.
    pub style: Style,
}

/// An address that follows from a name.
pub fn address(name: &str) -> Address {
    Address::from_word(keccak256(name))
}

/// SplitMix64: everything here follows from a seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed and what it is for.
    pub fn new(seed: u64, what: &str) -> Self {
        let word = keccak256(format!("{seed} {what}"));
        Self(word.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    /// Sixty-four bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From 0 to `n`, without `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// Whether something of this probability happens.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len());
        &of[at]
    }

    /// One of several, by weight.
    pub fn weighted<T: Copy>(&mut self, of: &[(T, f64)]) -> T {
        let mut left = self.unit() * of.iter().map(|(_, weight)| weight).sum::<f64>();
        for (value, weight) in of {
            left -= weight;
            if left < 0.0 {
                return *value;
            }
        }
        of[of.len() - 1].0
    }

    /// Log-normal with this median; `spread` is the standard deviation of the logarithm.
    pub fn log_normal(&mut self, median: f64, spread: f64) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        median * (spread * normal).exp()
    }

    /// How often something of this probability happens in a row.
    pub fn row(&mut self, probability: f64) -> u64 {
        let mut row = 0;
        while row < 60 && self.chance(probability) {
            row += 1;
        }
        row
    }
}
