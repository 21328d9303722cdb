//! Canaries: when each worker is tested, decided by a secret that is committed before and revealed after.
//!
//! Nobody can foresee a duty without the epoch's seed, and everybody can compute all of them from the chain once it is
//! revealed: [`duties`] depends on the seed and on what the chain showed when the epoch began, [`audit`] names the duties
//! that no revealed job meets.

mod audit;
mod habits;
mod plan;
mod prompts;
mod seeds;

pub use audit::{AuditError, MissedDuty, audit};
pub use habits::{Act, ClientStyle, Habits, Household, Payment, SeenTx, SessionTrace, Survey, Trace};
pub use plan::{Lifetime, Member, Plan};
pub use prompts::{Book, BookError, CanaryPrompt, Dice, prompt};
pub use seeds::Seeds;

use alloy_primitives::{Address, B256, Keccak256, U256, b256, keccak256};
use alloy_sol_types::SolValue;
use lcai_primitives::ids::ModelId;
use serde::{Deserialize, Serialize};

/// `CanaryLedger.DOMAIN`: keccak256("lcai canary v1").
const DOMAIN: B256 = b256!("97ee6c399a6808d1bb9eda8479013ad5fdfc69bf32fce7afcb18a2a6e0bc013e");

/// Most canaries for one worker and model in an epoch, so that a day's busiest worker does not drain the treasury.
const MAX_PER_EPOCH: u64 = 64;

/// How much more often a worker under suspicion is tested.
const SUSPICION_FACTOR: u64 = 8;

/// The part of an epoch in which duties fall due, so that the last one is over when the epoch is.
const DUE_PART: (u64, u64) = (3, 4);

/// A seed: secret until revealed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub B256);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seed {
    /// What `CanaryLedger.commit` takes: keccak256(abi.encode(DOMAIN, epoch, seed)).
    pub fn root(&self, epoch: u64) -> B256 {
        keccak256((DOMAIN, U256::from(epoch), self.0).abi_encode())
    }

    /// A number that only the seed's holder can tell.
    fn number(&self, epoch: u64, of: &Tested, what: &str, index: u64) -> u64 {
        let mut hasher = Keccak256::new();
        hasher.update(self.0);
        hasher.update(epoch.to_be_bytes());
        hasher.update(of.worker);
        hasher.update(of.model.0);
        hasher.update(what);
        hasher.update(index.to_be_bytes());
        let digest = hasher.finalize();
        digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    }
}

/// How time is cut into epochs: by seconds since 1970, so that the chain alone says which one a block is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// Seconds of an epoch.
    pub length: u64,
}

impl Epochs {
    /// The epoch of a block time, unix seconds.
    pub const fn of(self, time: u64) -> u64 {
        match time.checked_div(self.length) {
            Some(epoch) => epoch,
            None => 0,
        }
    }

    /// When an epoch begins, unix seconds.
    pub const fn start(self, epoch: u64) -> u64 {
        epoch.saturating_mul(self.length)
    }
}

/// A worker with a model it lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tested {
    /// The worker.
    pub worker: Address,
    /// The model.
    pub model: ModelId,
}

/// What the chain showed of a worker when an epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whom.
    pub of: Tested,
    /// Jobs it completed with the model in the epoch before.
    pub jobs: u64,
    /// It lost a dispute or waits for the verdict on one.
    pub suspected: bool,
}

/// A canary that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Duty {
    /// Unix seconds from which it is due, within its epoch.
    pub at: u64,
    /// Who is tested.
    pub of: Tested,
}

/// The duties of an epoch, by time. Of the jobs of the epoch before, the seed picks those in whose place a canary comes,
/// at `rate_bps` (eight times that under suspicion); one comes in any case, so that nobody is ever untested.
pub fn duties(seed: &Seed, epoch: u64, epochs: Epochs, standing: &[Standing], rate_bps: u32) -> Vec<Duty> {
    let span = (epochs.length * DUE_PART.0 / DUE_PART.1).max(1);
    let mut duties = Vec::new();
    for Standing { of, jobs, suspected } in standing {
        let rate = u64::from(rate_bps).saturating_mul(if *suspected { SUSPICION_FACTOR } else { 1 });
        let picked = (0..*jobs).filter(|job| seed.number(epoch, of, "job", *job) % 10_000 < rate);
        let count = (1 + picked.count() as u64).min(MAX_PER_EPOCH);
        duties.extend((0..count).map(|n| Duty {
            at: epochs.start(epoch).saturating_add(seed.number(epoch, of, "at", n) % span),
            of: *of,
        }));
    }
    duties.sort();
    duties
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EPOCHS: Epochs = Epochs { length: 600 };

    fn standing(worker: u8, jobs: u64, suspected: bool) -> Standing {
        let of = Tested { worker: Address::repeat_byte(worker), model: ModelId::from_name("m") };
        Standing { of, jobs, suspected }
    }

    fn count(seed: u8, standing: Standing, rate: u32) -> usize {
        duties(&Seed(B256::repeat_byte(seed)), 7, EPOCHS, &[standing], rate).len()
    }

    #[test]
    fn the_domain_is_the_contracts() {
        assert_eq!(DOMAIN, keccak256("lcai canary v1"));
    }

    #[test]
    fn nobody_is_untested_and_the_rate_is_kept() {
        for seed in 0..20 {
            assert_eq!(count(seed, standing(1, 0, false), 0), 1, "no jobs, no rate, one canary");
            assert_eq!(count(seed, standing(1, 40, false), 0), 1);
            assert_eq!(count(seed, standing(1, 40, false), 10_000), 41);
            assert_eq!(count(seed, standing(1, 4_000, false), 10_000), MAX_PER_EPOCH as usize);
        }
        let of =
            |suspected| (0..=255).map(|seed| count(seed, standing(1, 40, suspected), 500) - 1).sum::<usize>();
        // 256 epochs of 40 jobs at 5 %: 512 expected; at 40 %: 4096.
        assert!((430..600).contains(&of(false)), "{}", of(false));
        assert!((3_950..4_250).contains(&of(true)), "{}", of(true));
    }

    #[test]
    fn epochs_are_cut_by_the_clock() {
        assert_eq!((EPOCHS.of(0), EPOCHS.of(599), EPOCHS.of(600)), (0, 0, 1));
        assert_eq!(EPOCHS.start(3), 1_800);
        assert_eq!(Epochs { length: 0 }.of(5), 0);
    }

    #[test]
    fn a_seed_is_not_printed() {
        assert_eq!(format!("{:?}", Seed(B256::repeat_byte(7))), "Seed(..)");
    }

    proptest! {
        #[test]
        fn duties_lie_within_their_epoch_and_depend_on_the_seed(
            seed: [u8; 32], epoch in 1u64..1_000_000, jobs in 0u64..50, rate in 0u32..10_000, suspected: bool,
        ) {
            let standing = [standing(1, jobs, suspected), standing(2, jobs, false)];
            let seed = Seed(seed.into());
            let found = duties(&seed, epoch, EPOCHS, &standing, rate);
            prop_assert!(found.iter().all(|duty| EPOCHS.of(duty.at) == epoch));
            prop_assert!(found.windows(2).all(|pair| pair[0] <= pair[1]));
            for s in &standing {
                prop_assert!(found.iter().any(|duty| duty.of == s.of));
            }
            prop_assert_eq!(&found, &duties(&seed, epoch, EPOCHS, &standing, rate));
            // Another seed moves the times: with two duties or more an accident is one in 450 squared.
            let other = duties(&Seed(keccak256(seed.0)), epoch, EPOCHS, &standing, rate);
            let times = |duties: &[Duty]| duties.iter().map(|d| d.at).collect::<Vec<_>>();
            prop_assume!(found.len() >= 4);
            prop_assert_ne!(times(&found), times(&other));
            prop_assert_ne!(seed.root(epoch), seed.root(epoch + 1));
        }
    }
}
