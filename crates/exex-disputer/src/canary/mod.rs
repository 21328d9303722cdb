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
pub(crate) use audit::{Candidate, meet};
pub use habits::{Act, ClientStyle, Habits, Household, Payment, SeenTx, SessionTrace, Survey, Trace};
pub use plan::{Friend, Lifetime, Member, Past, Plan};
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

/// Most canaries in an epoch: as many jobs as CanaryLedger takes in its one reveal (`MAX_JOBS`).
const MAX_DUTIES: usize = 256;

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
/// at `rate_bps` (eight times that under suspicion); one comes in any case, so that nobody is ever untested. Where that is more
/// than a reveal can hold, everybody's first ones come before anybody's second, and the seed says whose stay out.
pub fn duties(seed: &Seed, epoch: u64, epochs: Epochs, standing: &[Standing], rate_bps: u32) -> Vec<Duty> {
    let span = (epochs.length * DUE_PART.0 / DUE_PART.1).max(1);
    let mut all: Vec<(u64, u64, Duty)> = Vec::new();
    for Standing { of, jobs, suspected } in standing {
        let rate = u64::from(rate_bps).saturating_mul(if *suspected { SUSPICION_FACTOR } else { 1 });
        let picked = (0..*jobs).filter(|job| seed.number(epoch, of, "job", *job) % 10_000 < rate);
        let count = (1 + picked.count() as u64).min(MAX_PER_EPOCH);
        all.extend((0..count).map(|n| {
            let at = epochs.start(epoch).saturating_add(seed.number(epoch, of, "at", n) % span);
            (n, seed.number(epoch, of, "turn", n), Duty { at, of: *of })
        }));
    }
    all.sort();
    all.truncate(MAX_DUTIES);
    let mut duties: Vec<Duty> = all.into_iter().map(|(.., duty)| duty).collect();
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

    /// CanaryLedger takes so many jobs and once: more could never be audited.
    #[test]
    fn an_epochs_duties_fit_into_its_reveal_and_firsts_come_first() {
        let standings: Vec<Standing> = (0..100).map(|worker| standing(worker, 9, false)).collect();
        let found = duties(&Seed(B256::repeat_byte(1)), 7, EPOCHS, &standings, 10_000);
        assert_eq!(found.len(), MAX_DUTIES);
        let each = standings.iter().map(|s| found.iter().filter(|duty| duty.of == s.of).count());
        assert!(each.clone().all(|count| (2..=3).contains(&count)), "{:?}", each.collect::<Vec<_>>());
        let crowd: Vec<Standing> = (0..=255)
            .flat_map(|worker| {
                ["m", "n"].map(|model| {
                    let of = Tested { model: ModelId::from_name(model), ..standing(worker, 0, false).of };
                    Standing { of, jobs: 0, suspected: false }
                })
            })
            .collect();
        let chosen = |seed| duties(&Seed(B256::repeat_byte(seed)), 7, EPOCHS, &crowd, 0);
        assert_eq!((chosen(1).len(), chosen(2).len()), (MAX_DUTIES, MAX_DUTIES));
        let whom = |seed| chosen(seed).iter().map(|duty| duty.of).collect::<std::collections::BTreeSet<_>>();
        assert_ne!(whom(1), whom(2), "nobody can tell who is left out");
    }

    #[test]
    fn epochs_are_cut_by_the_clock() {
        assert_eq!((EPOCHS.of(0), EPOCHS.of(599), EPOCHS.of(600)), (0, 0, 1));
        assert_eq!(EPOCHS.start(3), 1_800);
        assert_eq!(Epochs { length: 0 }.of(5), 0);
    }

    /// Canaries are told apart from users who were made up before; other users or other questions are another measurement,
    /// which is to be made anew together with these hashes.
    #[test]
    fn the_users_that_canaries_are_measured_against_are_frozen() {
        use sha2::{Digest, Sha256};
        let hash = |bytes: &[u8]| alloy_primitives::hex::encode(Sha256::digest(bytes));
        let users = include_bytes!("../../examples/indistinguishable/users.rs");
        let prompts = include_bytes!("../../measurement/prompts.txt");
        assert_eq!(hash(users), "7bc2f08e1d32e72ad798a558e087961f0f3be48af4b4957d801e0ae41633d89b");
        assert_eq!(hash(prompts), "f52027659e74ceae60c8215fb023b865bc4e3d78f63bf0916656938b3a62b659");
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
