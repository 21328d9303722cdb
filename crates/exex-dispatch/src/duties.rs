//! What anyone may do on chain once block time allows it: a schedule that is a pure function of the blocks.
//!
//! Each job and each session has at most one duty at a time. A duty ends only when the chain shows that it was done, by
//! whomever; until then it is asked for again, later each time. What a block's gas budget does not pay for waits. The
//! cheapest duties go first, and a quarter of the budget is the dear ones', so that neither keeps the other from being done.

use crate::agenda::Agenda;
use lcai_host::{AnyTable, FastMap, Index, Indexed, Table};
use lcai_primitives::ids::{JobId, SessionId};
use serde::{Deserialize, Serialize};

/// Gas of a release beside its jobs; `contracts/gas-budget.json` has 1.6 million for 50 jobs and 148,204 for one.
pub const RELEASE_BATCH_GAS: u64 = 120_000;

/// Longest time between two attempts at one duty, as doublings of the first.
const MAX_DOUBLINGS: u32 = 5;

/// Timeouts asked for in vain before the way out without blame. Not one: the first may have been done on a fork that was
/// given up, and a worker must not get away with that.
const BLAME_ATTEMPTS: u32 = 3;

/// Cheap duties, and dear ones, that one block asks for at most.
const MAX_DUE: usize = 4_096;

/// Due duties looked at per block: a backlog of one class must not hide the other.
const MAX_LOOKED_AT: usize = 65_536;

/// What a keeper does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Duty {
    /// `releaseJobs`: the fee of a completed or cleared job is paid out.
    Release,
    /// `settleStuckJob`: the fee goes back without blame, because timing the job out keeps failing.
    SettleStuck,
    /// `claimTimeout`: a worker missed a deadline, or the disputer its own.
    ClaimTimeout,
    /// `reassignSession`: a session whose worker may no longer serve it gets another.
    Reassign,
}

impl Duty {
    /// Every duty, cheapest first.
    pub const ALL: [Self; 4] = [Self::Release, Self::SettleStuck, Self::ClaimTimeout, Self::Reassign];

    /// The contract function, which is also the name of the effect.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Release => "releaseJobs",
            Self::SettleStuck => "settleStuckJob",
            Self::ClaimTimeout => "claimTimeout",
            Self::Reassign => "reassignSession",
        }
    }

    /// The duty of an effect.
    pub fn of_action(action: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|duty| duty.action() == action)
    }

    /// Gas set aside for it, beside [`RELEASE_BATCH_GAS`] for releases.
    pub const fn gas(self) -> u64 {
        match self {
            Self::Release => 35_000,
            Self::SettleStuck => 120_000,
            Self::ClaimTimeout => 170_000,
            Self::Reassign => 250_000,
        }
    }

    /// Whether a part of the budget is kept for it: users wait for these, and floods of cheaper ones are cheap to make.
    const fn is_dear(self) -> bool {
        matches!(self, Self::ClaimTimeout | Self::Reassign)
    }
}

/// What a duty is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DutyKey {
    /// A job.
    Job(JobId),
    /// A session.
    Session(SessionId),
}

/// What will be due, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The duty.
    pub duty: Duty,
    /// Done in blocks whose time is later than this, unix seconds.
    pub after: u64,
    /// From this block time on a timeout that was asked for in vain three times becomes [`Duty::SettleStuck`].
    pub settle_from: Option<u64>,
}

/// A plan and how often it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    plan: Plan,
    attempts: u32,
    /// Where it stands in the queue.
    next: u64,
}

/// Gas that may be spent: refilled by block time, never more than a minute's worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Budget {
    /// Anybody's.
    left: u64,
    /// Only the dear duties'. What it cannot hold is anybody's.
    reserved: u64,
    at: u64,
}

impl Budget {
    const fn full(now: u64, limits: &DutyLimits) -> Self {
        let reserved = limits.reserve();
        Self { left: limits.gas_per_minute.saturating_sub(reserved), reserved, at: now }
    }

    /// With what has come since. Each part gets its share; what does not fit one goes to the other.
    fn refilled(self, now: u64, limits: &DutyLimits) -> Self {
        let full = Self::full(now, limits);
        let part = |most: u64| now.saturating_sub(self.at).saturating_mul(most) / 60;
        let reserved = self.reserved.saturating_add(part(full.reserved));
        let left = self.left.saturating_add(part(full.left));
        let over = |has: u64, most: u64| has.saturating_sub(most);
        Self {
            left: left.saturating_add(over(reserved, full.reserved)).min(full.left),
            reserved: reserved.saturating_add(over(left, full.left)).min(full.reserved),
            at: now,
        }
    }

    /// Takes gas out of it for a duty, if it has enough.
    const fn pay(&mut self, duty: Duty, gas: u64) -> bool {
        let kept = if duty.is_dear() { self.reserved } else { 0 };
        let reserved = if kept < gas { kept } else { gas };
        let Some(left) = self.left.checked_sub(gas - reserved) else { return false };
        self.left = left;
        self.reserved -= reserved;
        true
    }
}

/// How a keeper spends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DutyLimits {
    /// Seconds between the first two attempts at a duty; they double from attempt to attempt.
    pub retry_seconds: u64,
    /// Gas per minute of block time.
    pub gas_per_minute: u64,
    /// Most jobs of one release.
    pub release_batch: usize,
}

impl DutyLimits {
    /// Gas of a minute that only dear duties may use: a quarter, but enough for one of them.
    const fn reserve(&self) -> u64 {
        let quarter = self.gas_per_minute / 4;
        let reserve = if quarter < Duty::Reassign.gas() { Duty::Reassign.gas() } else { quarter };
        if reserve < self.gas_per_minute { reserve } else { self.gas_per_minute }
    }
}

/// The duties by the block time after which they are due.
#[derive(Debug, Default)]
struct Queue(Agenda<DutyKey>);

impl Index<DutyKey, Entry> for Queue {
    type Trace = u64;

    fn trace(entry: &Entry) -> u64 {
        entry.next
    }

    fn follow(&mut self, key: &DutyKey, before: Option<u64>, after: Option<u64>) {
        if let Some(next) = after.filter(|next| before != Some(*next)) {
            self.0.add(next, *key);
        }
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The schedule.
#[derive(Debug)]
pub struct Duties {
    entries: Indexed<DutyKey, Entry, Queue, FastMap<DutyKey, Entry>>,
    budget: Table<u8, Budget>,
}

impl Default for Duties {
    fn default() -> Self {
        Self::new()
    }
}

impl Duties {
    /// Nothing to do.
    pub fn new() -> Self {
        Self { entries: Indexed::new("duties"), budget: Table::new("gas") }
    }

    /// Sets what is next for a job or session; `None`: nothing. The same plan again keeps its attempts.
    pub fn plan(&mut self, key: DutyKey, plan: Option<Plan>) {
        if self.planned(&key) == plan {
            return;
        }
        match plan {
            Some(plan) => self.entries.insert(key, Entry { plan, attempts: 0, next: plan.after }),
            None => drop(self.entries.remove(&key)),
        }
    }

    /// What is planned for a job or session.
    pub fn planned(&self, key: &DutyKey) -> Option<Plan> {
        self.entries.get(key).map(|entry| entry.plan)
    }

    /// How many are planned.
    pub fn len(&self) -> usize {
        self.entries.rows().len()
    }

    /// Whether nothing is planned.
    pub fn is_empty(&self) -> bool {
        self.entries.rows().is_empty()
    }

    /// What to do now, cheapest first and within the gas budget; each is planned again for a later attempt.
    pub fn take(&mut self, now: u64, limits: &DutyLimits) -> Vec<(DutyKey, Duty)> {
        let mut budget =
            self.budget.get(&0).map_or_else(|| Budget::full(now, limits), |b| b.refilled(now, limits));
        let mut taken = Vec::new();
        let mut releases = 0usize;
        for (key, duty) in self.due(now) {
            let opens_batch = duty == Duty::Release && releases.is_multiple_of(limits.release_batch.max(1));
            let gas = duty.gas() + if opens_batch { RELEASE_BATCH_GAS } else { 0 };
            // A dearer one may still have its own part of the budget.
            if !budget.pay(duty, gas) {
                continue;
            }
            releases += usize::from(duty == Duty::Release);
            self.postpone(key, now, limits.retry_seconds);
            taken.push((key, duty));
        }
        if !taken.is_empty() {
            self.budget.insert(0, budget);
        }
        taken
    }

    /// What is due, cheapest first, then by time: so many of each class.
    fn due(&mut self, now: u64) -> Vec<(DutyKey, Duty)> {
        let (mut cheap, mut dear) = (0usize, 0usize);
        let (entries, queue) = self.entries.tidy();
        let holds = |at: u64, key: &DutyKey| entries.get(key).is_some_and(|entry| entry.next == at);
        let waiting = queue.0.due(now, MAX_LOOKED_AT, holds);
        let mut due: Vec<(u64, DutyKey, Duty)> = waiting
            .into_iter()
            .filter_map(|(at, key)| Some((at, key, current(entries.get(&key)?, now))))
            .filter(|(_, _, duty)| {
                let count = if duty.is_dear() { &mut dear } else { &mut cheap };
                *count += 1;
                *count <= MAX_DUE
            })
            .collect();
        due.sort_unstable_by_key(|(at, key, duty)| (duty.gas(), *at, *key));
        due.into_iter().map(|(_, key, duty)| (key, duty)).collect()
    }

    fn postpone(&mut self, key: DutyKey, now: u64, retry: u64) {
        self.entries.update(&key, |entry| {
            entry.next = now.saturating_add(retry << entry.attempts.min(MAX_DOUBLINGS));
            entry.attempts = entry.attempts.saturating_add(1);
        });
    }

    /// Its tables, for [`lcai_host::Extension::tables`].
    pub fn tables(&mut self) -> [&mut dyn AnyTable; 2] {
        [&mut self.entries, &mut self.budget]
    }
}

/// The first attempts of a timeout are the timeout, which slashes and pays a bounty; once they were in vain and the
/// no-fault window is open, the way out.
fn current(entry: &Entry, now: u64) -> Duty {
    let settle = entry.plan.settle_from.is_some_and(|from| now >= from) && entry.attempts >= BLAME_ATTEMPTS;
    if settle { Duty::SettleStuck } else { entry.plan.duty }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LIMITS: DutyLimits = DutyLimits { retry_seconds: 30, gas_per_minute: 1_000_000, release_batch: 50 };

    fn job(n: u64) -> DutyKey {
        DutyKey::Job(JobId(n))
    }

    fn plan(duty: Duty, after: u64) -> Option<Plan> {
        Some(Plan { duty, after, settle_from: None })
    }

    #[test]
    fn the_cheapest_go_first_and_the_rest_waits_for_gas() {
        let mut duties = Duties::new();
        duties.plan(DutyKey::Session(SessionId(1)), plan(Duty::Reassign, 10));
        for n in 0..6 {
            duties.plan(job(n), plan(Duty::ClaimTimeout, 10 + n));
        }
        duties.plan(job(9), plan(Duty::Release, 19));
        let limits = DutyLimits { gas_per_minute: 500_000, ..LIMITS };
        assert!(duties.take(10, &limits).is_empty(), "at the deadline the worker may still act");
        // 155,000 for the release, 170,000 for each timeout.
        let first = duties.take(20, &limits);
        assert_eq!(
            first,
            [(job(9), Duty::Release), (job(0), Duty::ClaimTimeout), (job(1), Duty::ClaimTimeout)]
        );
        assert!(duties.take(21, &limits).is_empty(), "5,000 left and 8,333 refilled");
        assert_eq!(duties.take(40, &limits), [(job(2), Duty::ClaimTimeout)], "20 seconds refill a third");
    }

    #[test]
    fn a_timeout_in_vain_becomes_the_settlement_without_blame() {
        let mut duties = Duties::new();
        duties.plan(job(1), Some(Plan { duty: Duty::ClaimTimeout, after: 100, settle_from: Some(160) }));
        for now in [101, 132, 193] {
            assert_eq!(
                duties.take(now, &LIMITS),
                [(job(1), Duty::ClaimTimeout)],
                "also once the window is open"
            );
        }
        assert!(duties.take(313, &LIMITS).is_empty());
        assert_eq!(duties.take(314, &LIMITS), [(job(1), Duty::SettleStuck)]);
        // A keeper that comes back late still blames first.
        duties.plan(job(2), Some(Plan { duty: Duty::ClaimTimeout, after: 100, settle_from: Some(160) }));
        assert_eq!(duties.take(900, &LIMITS).last(), Some(&(job(2), Duty::ClaimTimeout)));
    }

    #[test]
    fn attempts_are_further_and_further_apart() {
        let mut duties = Duties::new();
        duties.plan(job(1), plan(Duty::Release, 0));
        let times: Vec<u64> = (1..4_000).filter(|now| !duties.take(*now, &LIMITS).is_empty()).collect();
        let gaps: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        assert_eq!(gaps, [31, 61, 121, 241, 481, 961, 961, 961]);
    }

    /// What a keeper sees and what it may do about it, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        Plan(u64, Duty, u64),
        Done(u64),
        Time(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20u64, 0..4usize, 0..200u64).prop_map(|(n, duty, after)| Step::Plan(
                n,
                Duty::ALL[duty],
                after
            )),
            (0..20u64).prop_map(Step::Done),
            (1..90u64).prop_map(Step::Time),
        ]
    }

    proptest! {
        /// Nothing is done early, twice within the retry time, after it ended, or beyond the budget; and whatever is
        /// planned is done once there is time and gas.
        #[test]
        fn a_duty_is_done_in_its_time_and_within_the_budget(steps in prop::collection::vec(step(), 1..120)) {
            let mut duties = Duties::new();
            let mut model: BTreeMap<DutyKey, (Plan, u64, u64)> = BTreeMap::new();
            let (mut now, mut spent) = (1_000u64, 0u64);
            for step in steps {
                match step {
                    Step::Plan(n, duty, after) => {
                        let plan = Plan { duty, after: now + after, settle_from: None };
                        duties.plan(job(n), Some(plan));
                        model.insert(job(n), (plan, 0, 0));
                    }
                    Step::Done(n) => {
                        duties.plan(job(n), None);
                        model.remove(&job(n));
                    }
                    Step::Time(seconds) => now += seconds,
                }
                let taken = duties.take(now, &LIMITS);
                let gas = taken.iter().map(|(_, duty)| duty.gas()).collect::<Vec<_>>();
                prop_assert!(gas.is_sorted(), "cheapest first");
                spent += gas.iter().sum::<u64>();
                let earned = LIMITS.gas_per_minute + (now - 1_000) * LIMITS.gas_per_minute / 60;
                prop_assert!(spent <= earned, "{spent} of {earned}");
                for (key, duty) in taken {
                    let (plan, last, times) = model.get_mut(&key).expect("only what is planned is done");
                    prop_assert_eq!(duty, plan.duty);
                    prop_assert!(plan.after < now);
                    prop_assert!(*times == 0 || *last + LIMITS.retry_seconds < now);
                    (*last, *times) = (now, *times + 1);
                }
                prop_assert_eq!(duties.len(), model.len());
            }
            // Two hours, a minute at a time: enough for everything.
            for _ in 0..120 {
                now += 60;
                for (key, _) in duties.take(now, &LIMITS) {
                    model.get_mut(&key).expect("planned").2 += 1;
                }
            }
            prop_assert!(model.values().all(|(_, _, times)| *times > 0), "nothing is forgotten");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// However many releases are due and however old, timeouts and reassignments are done at the rate of their part of
        /// the budget; and without any, releases have the whole of it.
        #[test]
        fn cheap_duties_do_not_starve_dear_ones(
            flood in 1_000..6_000u64,
            dear in prop::collection::vec(any::<bool>(), 1..12),
            seconds in 4..15u64,
        ) {
            let mut duties = Duties::new();
            for n in 0..flood {
                duties.plan(job(n), plan(Duty::Release, n % 7));
            }
            let key = |n: usize| DutyKey::Session(SessionId(n as u64));
            for (n, reassign) in dear.iter().enumerate() {
                let duty = if *reassign { Duty::Reassign } else { Duty::ClaimTimeout };
                duties.plan(key(n), plan(duty, 500));
            }
            let (mut now, mut open, mut releases) = (8, dear.len(), 0u64);
            while open > 0 {
                now += seconds;
                for (taken, duty) in duties.take(now, &LIMITS) {
                    releases += u64::from(duty == Duty::Release);
                    open -= usize::from(duty.is_dear());
                    // As if done, so that the flood and the dear ones do not come again; the flood is renewed.
                    duties.plan(taken, None);
                    if duty == Duty::Release {
                        duties.plan(taken, plan(Duty::Release, now));
                    }
                }
                // A quarter of a million a minute is at least one reassignment.
                prop_assert!(now <= 500 + 60 * (dear.len() as u64 + 1) + 2 * seconds, "{open} wait at {now}");
            }
            prop_assert!(now > 500 && releases > 0);
            // 35,000 gas each, and 120,000 for each batch of 50: nothing of the budget is left unused before the others came.
            let before = 500 * LIMITS.gas_per_minute / 60 / (35_000 + 120_000);
            prop_assert!(releases >= before.min(flood), "{releases} of {before}");
        }
    }
}
