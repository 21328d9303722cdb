//! What the chain shows of how users behave, for canaries to do alike.
//!
//! A [`Survey`] reads every transaction and keeps, of each account that asks, a [`Trace`], and with it those who paid it: a
//! [`Household`]. Canaries' accounts take a household for their own, so that what belongs together in people (money,
//! software, friends) belongs together in canaries too; but what they do when is taken session by session from others of the
//! same client and pace, or there would be one user whose twin an account is. Of our own canaries nothing is kept, or their
//! habits would feed on themselves.

use super::Dice;
use alloy_primitives::{Address, U256};
use std::collections::{BTreeMap, BTreeSet};

/// Accounts kept at most; of those that never asked the oldest go first.
const MAX_ACCOUNTS: usize = 50_000;

/// An account that paid so many that ask is an exchange or a bridge: nobody is behind it whom two of them share.
const HUB: usize = 20;

/// Sessions kept of an account, and jobs of a session.
const MAX_KEPT: usize = 64;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Users are at the same time of day who are within so many seconds of it.
const SAME_HOUR: u64 = 3_600;

/// Of the same pace are users whose pauses differ by less than this factor, as a logarithm.
const SAME_PACE: f64 = 0.3;

/// Most seconds by which a canary's time differs from its user's.
const MAX_SHIFT: u64 = 1_200;

/// How a client builds its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientStyle {
    /// Gas limit above the estimate, percent.
    pub gas_margin: u64,
    /// Fee cap less tip, percent of the base fee.
    pub fee_factor: u64,
    /// Tip, wei per gas.
    pub tip: u64,
    /// Pays its jobs from a deposit with JobRegistry.
    pub prepaid: bool,
}

impl ClientStyle {
    /// That of `lcai ask` and of every [lane](lcai_host::LaneConfig).
    pub const LCAI: Self = Self { gas_margin: 20, fee_factor: 200, tip: 1_000_000_000, prepaid: false };
}

/// What a transaction does, as far as the survey cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Pays an account, without calldata.
    Transfer {
        /// Whom.
        to: Address,
    },
    /// Deposits with JobRegistry.
    Deposit,
    /// `createSession` or its like.
    Open,
    /// `submitJob` or its like.
    Ask,
    /// Anything else.
    Other,
}

/// A transaction that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenTx {
    /// Time of its block, unix seconds.
    pub at: u64,
    /// Who sent it.
    pub from: Address,
    /// Wei sent along.
    pub value: U256,
    /// What it does.
    pub act: Act,
    /// How it was built.
    pub style: ClientStyle,
}

/// One session of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionTrace {
    /// Seconds since the last job of the session before; 0 for the first.
    pub after: u64,
    /// Seconds before each job: since the session was opened, then since the job before.
    pub pauses: Vec<u64>,
}

/// A transfer that an account made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// Seconds since the account was paid itself.
    pub after: u64,
    /// Wei.
    pub value: U256,
    /// To whom.
    pub to: Address,
}

/// What the chain shows of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Whose it is.
    pub account: Address,
    /// Who of its household paid it first; `None`: somebody outside, an exchange say.
    pub payer: Option<usize>,
    /// Where somebody outside paid it who asks as well: seconds since that one was paid. An old friend, say.
    pub friend: Option<u64>,
    /// When, unix seconds.
    pub paid_at: u64,
    /// What it was paid, wei.
    pub funded: U256,
    /// What it paid to others than its household.
    pub payments: Vec<Payment>,
    /// When it opened its first session, unix seconds; of one that has none, when it was paid.
    pub first_at: u64,
    /// Its sessions, oldest first; none for one that only pays others.
    pub sessions: Vec<SessionTrace>,
    /// Its client.
    pub style: ClientStyle,
}

/// Accounts that paid each other: somebody's wallets, friends. Who pays comes before whom it pays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Household(pub Vec<Trace>);

#[derive(Debug, Default)]
struct Seen {
    paid: Option<(u64, U256, Address)>,
    payments: Vec<(u64, U256, Address)>,
    /// When each session was opened and each of its jobs came.
    sessions: Vec<(u64, Vec<u64>)>,
    style: Option<ClientStyle>,
    prepaid: bool,
}

impl Seen {
    fn asked_before(&self, until: u64) -> bool {
        self.paid.is_some() && self.sessions.iter().any(|(at, jobs)| *at < until && !jobs.is_empty())
    }
}

/// Reads the chain, block by block.
#[derive(Debug, Default)]
pub struct Survey {
    seen: BTreeMap<Address, Seen>,
}

impl Survey {
    /// Takes a transaction in. Those of canaries' accounts are not to be shown to it.
    pub fn take(&mut self, tx: &SeenTx) {
        if let Act::Transfer { to } = tx.act {
            let seen = self.seen.entry(to).or_default();
            seen.paid.get_or_insert((tx.at, tx.value, tx.from));
        }
        // Who only pays others is not followed: exchanges would be, with everything they do.
        let Some(seen) = self.seen.get_mut(&tx.from) else { return self.forget() };
        match tx.act {
            Act::Transfer { to } if seen.payments.len() < MAX_KEPT => {
                seen.style.get_or_insert(tx.style);
                seen.payments.push((tx.at, tx.value, to));
            }
            Act::Deposit => seen.prepaid = true,
            Act::Open => {
                if seen.sessions.is_empty() {
                    seen.style = Some(tx.style);
                }
                if seen.sessions.len() < MAX_KEPT {
                    seen.sessions.push((tx.at, Vec::new()));
                }
            }
            Act::Ask => {
                if let Some((_, jobs)) = seen.sessions.last_mut().filter(|(_, jobs)| jobs.len() < MAX_KEPT) {
                    jobs.push(tx.at);
                }
            }
            Act::Transfer { .. } | Act::Other => {}
        }
        self.forget();
    }

    /// Leaves out an account that turned out to be ours.
    pub fn leave_out(&mut self, account: Address) {
        self.seen.remove(&account);
    }

    fn forget(&mut self) {
        if self.seen.len() <= MAX_ACCOUNTS {
            return;
        }
        let mut idle: Vec<u64> =
            self.seen.values().filter(|s| s.sessions.is_empty()).filter_map(|s| Some(s.paid?.0)).collect();
        idle.sort_unstable();
        let before = idle.get(idle.len() / 2).copied().unwrap_or(u64::MAX);
        self.seen.retain(|_, s| !s.sessions.is_empty() || s.paid.is_some_and(|(at, ..)| at > before));
        // Everybody asks: the oldest half goes.
        if self.seen.len() > MAX_ACCOUNTS {
            let mut all: Vec<u64> = self.seen.values().filter_map(|s| Some(s.paid?.0)).collect();
            all.sort_unstable();
            let before = all.get(all.len() / 2).copied().unwrap_or(u64::MAX);
            self.seen.retain(|_, s| s.paid.is_some_and(|(at, ..)| at > before));
        }
    }

    /// What there is to imitate: households of which somebody opened a session before `until`, unix seconds, so that what
    /// they did since is known as well. Who was paid by somebody known for longer than `oldest_friend` seconds has a
    /// household of its own, and an [old friend](Trace::friend): an epoch's accounts do not live for long enough to be that.
    pub fn habits(&self, until: u64, oldest_friend: u64) -> Habits {
        let askers: Vec<&Address> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.asked_before(until))
            .map(|(address, _)| address)
            .collect();
        let mut paid_by: BTreeMap<Address, usize> = BTreeMap::new();
        for payer in askers.iter().filter_map(|asker| self.payer(asker)) {
            *paid_by.entry(payer).or_default() += 1;
        }
        let is_hub = |payer: &Address| paid_by.get(payer).is_some_and(|accounts| *accounts >= HUB);
        let mut households: BTreeMap<Address, (BTreeSet<Address>, Option<u64>)> = BTreeMap::new();
        for asker in askers {
            let (mut line, mut root, mut friend) = (vec![*asker], *asker, None);
            // Up to whom a hub paid, or of whom it is not known who did.
            while let Some(payer) = self.payer(&root) {
                if is_hub(&payer) || self.payer(&payer).is_none() || line.contains(&payer) {
                    break;
                }
                let known_for = self.known_for(&payer, &root);
                if known_for > oldest_friend {
                    friend = Some(known_for);
                    break;
                }
                line.push(payer);
                root = payer;
            }
            let (members, old_friend) = households.entry(root).or_default();
            members.extend(line);
            *old_friend = friend;
        }
        let household = |(members, friend): (BTreeSet<Address>, Option<u64>)| {
            let mut household = self.household(&members, until);
            household
                .0
                .iter_mut()
                .filter(|trace| trace.payer.is_none())
                .for_each(|root| root.friend = friend);
            household
        };
        Habits::of(households.into_values().map(household).collect())
    }

    /// Seconds for which somebody had money before paying another.
    fn known_for(&self, payer: &Address, paid: &Address) -> u64 {
        let at = |of: &Address| self.seen.get(of).and_then(|seen| seen.paid).map_or(0, |(at, ..)| at);
        at(paid).saturating_sub(at(payer))
    }

    fn payer(&self, of: &Address) -> Option<Address> {
        self.seen.get(of)?.paid.map(|(_, _, from)| from)
    }

    fn household(&self, members: &BTreeSet<Address>, until: u64) -> Household {
        let known = members.iter().filter_map(|member| Some((member, self.seen.get(member)?)));
        let mut known: Vec<(&Address, &Seen, (u64, U256, Address))> =
            known.filter_map(|(member, seen)| Some((member, seen, seen.paid?))).collect();
        known.sort_by_key(|(_, _, (at, ..))| *at);
        let place = |of: &Address| known.iter().position(|(member, ..)| *member == of);
        let trace = |(member, seen, (paid_at, funded, from)): &(&Address, &Seen, (u64, U256, Address))| {
            let outside = seen.payments.iter().filter(|(_, _, to)| !members.contains(to));
            let payment = |(at, value, to): &(u64, U256, Address)| Payment {
                after: at.saturating_sub(*paid_at),
                value: *value,
                to: *to,
            };
            let asks = seen.asked_before(until);
            let style = ClientStyle { prepaid: seen.prepaid, ..seen.style.unwrap_or(ClientStyle::LCAI) };
            Trace {
                account: **member,
                payer: place(from),
                friend: None,
                paid_at: *paid_at,
                funded: *funded,
                payments: outside.map(payment).collect(),
                first_at: seen.sessions.first().filter(|_| asks).map_or(*paid_at, |(at, _)| *at),
                sessions: if asks { sessions(&seen.sessions) } else { Vec::new() },
                style,
            }
        };
        Household(known.iter().map(trace).collect())
    }
}

fn sessions(seen: &[(u64, Vec<u64>)]) -> Vec<SessionTrace> {
    let mut traces = Vec::new();
    let mut last = None;
    for (opened, jobs) in seen.iter().filter(|(_, jobs)| !jobs.is_empty()) {
        let mut before = *opened;
        let pauses = jobs.iter().map(|at| at.saturating_sub(std::mem::replace(&mut before, *at))).collect();
        traces.push(SessionTrace { after: last.map_or(0, |last| opened.saturating_sub(last)), pauses });
        last = Some(before);
    }
    traces
}

/// How users behave.
#[derive(Debug, Clone, Default)]
pub struct Habits {
    /// Who they are.
    households: Vec<Household>,
    donors: Vec<Donor>,
}

/// A session, for another account to take over.
#[derive(Debug, Clone)]
struct Donor {
    account: Address,
    style: ClientStyle,
    pace: Option<f64>,
    /// Whether it is its account's first one.
    first: bool,
    /// Since when its account could have opened it: when it was paid, or its last job came; unix seconds.
    free_at: u64,
    /// Seconds that it let pass.
    after: u64,
    pauses: Vec<u64>,
}

impl Habits {
    /// Of these.
    pub fn of(households: Vec<Household>) -> Self {
        let donors = households.iter().flat_map(|household| &household.0).flat_map(donors).collect();
        Self { households, donors }
    }

    /// Who there is to be like.
    pub fn known(&self) -> &[Household] {
        &self.households
    }

    /// Everybody, in an order of the dice, to be like: whom many canaries are like they give away.
    pub fn households<'a>(&'a self, dice: &'a mut Dice) -> impl Iterator<Item = (Address, Household)> + 'a {
        let mut order: Vec<&Household> = self.households.iter().collect();
        for n in (1..order.len()).rev() {
            let other = usize::try_from(dice.throw(n as u64 + 1)).unwrap_or(n);
            order.swap(n, other);
        }
        order.into_iter().map(|household| (household.root(), self.alike(household, dice)))
    }

    /// One like it, and like others where it shows.
    fn alike(&self, household: &Household, dice: &mut Dice) -> Household {
        let mut other: Vec<Trace> = Vec::new();
        for trace in &household.0 {
            let mut like = trace.clone();
            let paid = |traces: &[Trace], payer: usize| traces.get(payer).map(|payer| payer.paid_at);
            let since =
                trace.payer.and_then(|payer| Some((paid(&household.0, payer)?, paid(&other, payer)?)));
            if let Some((payer_was, payer_is)) = since {
                like.paid_at = payer_is.saturating_add(about(trace.paid_at.saturating_sub(payer_was), dice));
            }
            like.funded = match (trace.payer, household.pays(other.len())) {
                // Whoever pays is left what was left, or more.
                (Some(_), false) => no_more(trace.funded, dice),
                (None, true) => no_less(trace.funded, dice),
                (Some(_), true) => trace.funded,
                (None, false) => alike(trace.funded, dice),
            };
            self.live(&mut like, trace, dice);
            other.push(like);
        }
        Household(other)
    }

    /// When the account asks, and whom it pays before.
    fn live(&self, like: &mut Trace, trace: &Trace, dice: &mut Dice) {
        let settled = trace.first_at.saturating_sub(trace.paid_at);
        let pace = pace(trace);
        let (mut free_at, mut first) = (like.paid_at, true);
        for session in &mut like.sessions {
            let own = if first { settled } else { session.after };
            let after = about(self.waits(trace, free_at, first, dice).unwrap_or(own), dice);
            if first {
                like.first_at = free_at.saturating_add(after);
            } else {
                session.after = after;
            }
            session.pauses =
                self.pauses(trace, (pace, first), dice).unwrap_or_else(|| session.pauses.clone());
            for pause in &mut session.pauses {
                *pause = about(*pause, dice);
            }
            free_at = free_at.saturating_add(after).saturating_add(session.pauses.iter().sum());
            first = false;
        }
        if first {
            like.first_at = like.paid_at;
        }
        let settles = like.first_at.saturating_sub(like.paid_at);
        for payment in &mut like.payments {
            // What came before the first session does so again.
            if payment.after < settled {
                let part = u128::from(payment.after) * u128::from(settles) / u128::from(settled.max(1));
                payment.after = u64::try_from(part).unwrap_or(payment.after);
            } else {
                payment.after = about(payment.after, dice);
            }
            payment.value = no_more(payment.value, dice);
        }
    }

    /// How long somebody else waited who was free at this time of day.
    fn waits(&self, of: &Trace, free_at: u64, first: bool, dice: &mut Dice) -> Option<u64> {
        let suits = |donor: &&Donor| {
            donor.account != of.account && donor.first == first && same_hour(donor.free_at, free_at)
        };
        let donors: Vec<&Donor> = self.donors.iter().filter(suits).collect();
        dice.pick(&donors).map(|donor| donor.after)
    }

    /// The questions' pauses in a session of somebody else with the same client, who is about as fast.
    fn pauses(&self, of: &Trace, (pace, first): (Option<f64>, bool), dice: &mut Dice) -> Option<Vec<u64>> {
        let fast = |other: Option<f64>| match (pace, other) {
            (Some(own), Some(other)) => (own - other).abs() < SAME_PACE,
            (own, other) => own.is_none() == other.is_none(),
        };
        let suits = |donor: &&Donor| {
            donor.account != of.account && donor.style == of.style && donor.first == first && fast(donor.pace)
        };
        let donors: Vec<&Donor> = self.donors.iter().filter(suits).collect();
        dice.pick(&donors).map(|donor| donor.pauses.clone())
    }
}

/// The sessions of an account.
fn donors(trace: &Trace) -> Vec<Donor> {
    let (mut free_at, mut donors) = (trace.paid_at, Vec::new());
    for (n, session) in trace.sessions.iter().enumerate() {
        let first = n == 0;
        let after = if first { trace.first_at.saturating_sub(trace.paid_at) } else { session.after };
        donors.push(Donor {
            account: trace.account,
            style: trace.style,
            pace: pace(trace),
            first,
            free_at,
            after,
            pauses: session.pauses.clone(),
        });
        free_at = free_at.saturating_add(after).saturating_add(session.pauses.iter().sum());
    }
    donors
}

/// The mean logarithm of the pauses between an account's questions; `None` where it never asked twice in a session.
fn pace(trace: &Trace) -> Option<f64> {
    let pauses = trace.sessions.iter().flat_map(|session| session.pauses.iter().skip(1));
    let (mut sum, mut count) = (0.0, 0.0);
    for pause in pauses {
        sum += (*pause as f64 + 1.0).ln();
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}

const fn same_hour(one: u64, other: u64) -> bool {
    let apart = (one % DAY).abs_diff(other % DAY);
    apart <= SAME_HOUR || apart >= DAY - SAME_HOUR
}

impl Household {
    /// Who it is: whom nobody of it paid.
    pub fn root(&self) -> Address {
        self.0.first().map(|trace| trace.account).unwrap_or_default()
    }

    /// When its first session is opened, unix seconds.
    pub fn first_at(&self) -> Option<u64> {
        self.0.iter().filter(|trace| !trace.sessions.is_empty()).map(|trace| trace.first_at).min()
    }

    /// Whether a member paid others of the household.
    fn pays(&self, member: usize) -> bool {
        self.0.iter().any(|trace| trace.payer == Some(member))
    }
}

/// A duration like this one, and not the very same: a fifth more or less, but no more than keeps the time of day.
fn about(seconds: u64, dice: &mut Dice) -> u64 {
    let fifth = (seconds / 5).min(MAX_SHIFT);
    seconds - fifth + dice.throw(2 * fifth + 1)
}

/// As [`alike`], and not more.
fn no_more(wei: U256, dice: &mut Dice) -> U256 {
    let other = alike(wei, dice);
    if other > wei { wei.saturating_add(wei).saturating_sub(other) } else { other }
}

/// As [`alike`], and not less.
fn no_less(wei: U256, dice: &mut Dice) -> U256 {
    let other = alike(wei, dice);
    if other < wei { wei.saturating_add(wei).saturating_sub(other) } else { other }
}

/// An amount like this one: the same where it is round (people are paid 10, 50, 100), else with as many digits.
fn alike(wei: U256, dice: &mut Dice) -> U256 {
    let digits = wei.to_string();
    let digits = digits.trim_end_matches('0');
    if digits.len() <= 2 {
        return wei;
    }
    let unit = wei / U256::from_str_radix(digits, 10).unwrap_or(wei).max(U256::from(1));
    let unit = unit.max(U256::from(1));
    let whole = wei / unit;
    let fifth: u64 = (whole / U256::from(5)).saturating_to();
    let fifth = fifth.min(u64::MAX / 4);
    let mut other = (whole - U256::from(fifth)).saturating_add(U256::from(dice.throw(2 * fifth + 1)));
    // As many digits after the point: the last one is not a nought.
    if (other % U256::from(10)).is_zero() {
        other = other.saturating_add(U256::from(1 + dice.throw(9)));
    }
    other.saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::B256;

    fn tx(at: u64, from: u8, value: u64, act: Act) -> SeenTx {
        let style = ClientStyle { tip: u64::from(from), ..ClientStyle::LCAI };
        SeenTx { at, from: Address::repeat_byte(from), value: U256::from(value), act, style }
    }

    fn pays(at: u64, from: u8, to: u8, value: u64) -> SeenTx {
        tx(at, from, value, Act::Transfer { to: Address::repeat_byte(to) })
    }

    fn dice() -> Dice {
        Dice::new(B256::repeat_byte(1), "habits")
    }

    #[test]
    fn an_account_is_seen_from_its_first_payment_on() {
        let mut survey = Survey::default();
        let seen = [
            pays(50, 8, 1, 9_000),
            pays(100, 1, 2, 5_000),
            pays(150, 1, 2, 70),
            pays(160, 2, 9, 30),
            tx(200, 2, 0, Act::Open),
            tx(203, 2, 1, Act::Ask),
            tx(233, 2, 1, Act::Ask),
            tx(1_233, 2, 0, Act::Open),
            tx(1_243, 2, 1, Act::Ask),
            // Nothing is known of who was there before.
            tx(1_300, 7, 0, Act::Open),
            tx(1_301, 7, 1, Act::Ask),
        ];
        seen.iter().for_each(|tx| survey.take(tx));
        let habits = survey.habits(2_000, 5_000);
        let [household] = habits.known() else { panic!("{:?}", habits.known()) };
        let [payer, trace] = household.0.as_slice() else { panic!("{household:?}") };
        assert_eq!((payer.payer, payer.paid_at, payer.funded), (None, 50, U256::from(9_000)));
        assert_eq!((payer.sessions.len(), payer.payments.len()), (0, 0));
        assert_eq!((trace.payer, trace.paid_at, trace.first_at), (Some(0), 100, 200));
        assert_eq!((trace.funded, trace.style.tip), (U256::from(5_000), 2));
        let to = Address::repeat_byte(9);
        assert_eq!(trace.payments, [Payment { after: 60, value: U256::from(30), to }]);
        let expected =
            [SessionTrace { after: 0, pauses: vec![3, 30] }, SessionTrace { after: 1_000, pauses: vec![10] }];
        assert_eq!(trace.sessions, expected);
        assert_eq!(household.first_at(), Some(200));
        assert!(survey.habits(200, 5_000).known().is_empty(), "what it does next is not known then");
        survey.leave_out(Address::repeat_byte(2));
        assert!(survey.habits(2_000, 5_000).known().is_empty());
    }

    #[test]
    fn who_is_like_a_household_pays_as_it_did() {
        let trace = |payer, paid_at, funded: u64| Trace {
            account: Address::with_last_byte(funded as u8),
            payer,
            friend: None,
            paid_at,
            funded: U256::from(funded),
            payments: Vec::new(),
            first_at: paid_at + 1_000,
            sessions: vec![SessionTrace { after: 0, pauses: vec![2] }],
            style: ClientStyle::LCAI,
        };
        let household = Household(vec![
            trace(None, 1_000, 50_000),
            trace(Some(0), 9_000, 11_377),
            trace(Some(1), 20_000, 17),
        ]);
        let habits = Habits::of(vec![household]);
        let mut dice = dice();
        for _ in 0..50 {
            let (_, Household(like)) = habits.households(&mut dice).next().unwrap();
            assert_eq!(like.iter().map(|t| t.payer).collect::<Vec<_>>(), [None, Some(0), Some(1)]);
            assert!(like.windows(2).all(|pair| pair[1].paid_at > pair[0].paid_at));
            assert!((6_800..=9_200).contains(&(like[1].paid_at - like[0].paid_at)));
            assert_eq!((like[0].funded, like[1].funded), (U256::from(50_000), U256::from(11_377)));
        }
    }

    #[test]
    fn a_friend_of_long_ago_is_somebody_outside() {
        let mut survey = Survey::default();
        [pays(1, 9, 1, 50), pays(500, 1, 2, 20), tx(600, 2, 0, Act::Open), tx(601, 2, 1, Act::Ask)]
            .iter()
            .for_each(|tx| survey.take(tx));
        let size = |oldest| survey.habits(1_000, oldest).known().iter().map(|h| h.0.len()).sum::<usize>();
        assert_eq!((size(499), size(498)), (2, 1));
        let root = |oldest| survey.habits(1_000, oldest).known()[0].0[0].clone();
        assert_eq!((root(498).payer, root(498).friend, root(499).friend), (None, Some(499), None));
    }

    /// Of what an account does when, nothing is one user's alone, and everything is what users of its client do.
    #[test]
    fn sessions_are_taken_from_others_of_the_same_client_and_pace() {
        let user = |n: u8, tip, pause: u64| {
            let sessions = vec![
                SessionTrace { after: 0, pauses: vec![2, pause] },
                SessionTrace { after: 40_000 + u64::from(n), pauses: vec![3, pause] },
            ];
            Household(vec![Trace {
                account: Address::with_last_byte(n),
                payer: None,
                friend: None,
                paid_at: 10 * DAY + u64::from(n),
                funded: U256::from(50_000),
                payments: vec![Payment { after: 500, value: U256::from(7), to: Address::ZERO }],
                first_at: 10 * DAY + 1_000 * u64::from(n),
                sessions,
                style: ClientStyle { tip, ..ClientStyle::LCAI },
            }])
        };
        let habits = Habits::of(vec![
            user(1, 5, 100),
            user(2, 5, 110),
            user(3, 5, 90),
            user(4, 5, 900),
            user(5, 6, 100),
        ]);
        let mut dice = dice();
        for _ in 0..100 {
            for (root, household) in habits.households(&mut dice).collect::<Vec<_>>() {
                let trace = &household.0[0];
                let settled = trace.first_at - trace.paid_at;
                assert!(trace.payments[0].after <= settled, "before the first session, as it was");
                if root.0[19] > 3 {
                    continue;
                }
                assert!(trace.sessions.iter().all(|s| (72..=132).contains(&s.pauses[1])), "{trace:?}");
                let own = 1_000 * u64::from(root.0[19]);
                let others = [1_000, 2_000, 3_000, 4_000, 5_000].into_iter().filter(|time| *time != own);
                let near = |time: u64| settled.abs_diff(time) <= time / 5 + 10;
                assert!(others.into_iter().any(near), "{settled} is nobody else's");
            }
        }
    }

    #[test]
    fn who_pays_many_is_a_hub() {
        let mut survey = Survey::default();
        for n in 10..10 + HUB as u8 {
            [pays(1, 1, n, 5), tx(2, n, 0, Act::Open), tx(3, n, 1, Act::Ask)]
                .iter()
                .for_each(|tx| survey.take(tx));
        }
        for n in 100..103 {
            [pays(1, 2, n, 5), tx(2, n, 0, Act::Open), tx(3, n, 1, Act::Ask)]
                .iter()
                .for_each(|tx| survey.take(tx));
        }
        let mut sizes: Vec<usize> =
            survey.habits(10, 5_000).known().iter().map(|household| household.0.len()).collect();
        sizes.sort_unstable();
        // The other's own payer is not known, so that each it paid is one for itself.
        assert_eq!(sizes, vec![1; HUB + 3]);
        survey.take(&pays(0, 3, 2, 90));
        for n in 120..123 {
            [pays(1, 2, n, 5), tx(2, n, 0, Act::Open), tx(3, n, 1, Act::Ask)]
                .iter()
                .for_each(|tx| survey.take(tx));
        }
        let sizes: Vec<usize> =
            survey.habits(10, 5_000).known().iter().map(|household| household.0.len()).collect();
        assert_eq!((sizes.len(), sizes.iter().max()), (HUB + 1, Some(&7)));
    }

    #[test]
    fn amounts_and_times_are_like_the_users_and_round_ones_the_same() {
        let lcai = |text: &str| U256::from_str_radix(text, 10).unwrap();
        let mut dice = dice();
        for round in ["50000000000000000000", "5000000000000000000", "25000000000000000000"] {
            assert_eq!(alike(lcai(round), &mut dice), lcai(round));
        }
        let odd = lcai("17384500000000000000");
        for _ in 0..200 {
            let other = alike(odd, &mut dice);
            assert!(
                other > odd / U256::from(5) * U256::from(3) && other < odd * U256::from(13) / U256::from(10)
            );
            assert_eq!(other % lcai("100000000000000"), U256::ZERO);
            assert_ne!(other % lcai("1000000000000000"), U256::ZERO);
        }
        assert_eq!(about(4, &mut dice), 4);
        assert!((0..100).all(|_| (80..=120).contains(&about(100, &mut dice))));
        assert_eq!(alike(U256::ZERO, &mut dice), U256::ZERO);
        assert!(alike(U256::MAX, &mut dice) > U256::ZERO);
    }
}
