//! Who the accounts of an epoch's canaries are like, how they come to their money, and when they ask.
//!
//! Every account lives as one user was seen to live, some days later: paid the same way, as long before its first session,
//! with the same software, sessions and pauses. When the time of a session comes the account asks for a worker as anybody
//! does; if the public draw gives one that is due, the session is opened, else it is tried again, which nobody sees.

use super::{
    Dice,
    habits::{ClientStyle, Habits, Household, SessionTrace, Trace},
};
use alloy_primitives::{Address, B256, U256};
use std::collections::BTreeSet;

/// A friend is known for as long as that of a user was, or for so much more or less of it: percent.
const AS_LONG: u64 = 150;

/// Seconds of a day: what is done at an hour is done at that hour.
const DAY: u64 = 86_400;

/// In epochs shorter than this, which only development chains have, the time of day is nothing to follow.
const HOUR: u64 = 3_600;

/// Accounts that one pays where nobody was seen to be like.
const PLAIN_HOUSEHOLD: u64 = 3;

/// Sessions of such an account.
const PLAIN_SESSIONS: usize = 64;

/// How often all households are gone through, where there are few.
const ROUNDS: usize = 64;

/// The time in which an epoch's canaries may live, unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// From now on money may flow.
    pub from: u64,
    /// From here on sessions are opened: the epoch's start.
    pub begin: u64,
    /// No session is begun after this.
    pub until: u64,
}

impl Lifetime {
    /// Seconds of the epoch: an account may live one and three quarters of it.
    const fn length(self) -> u64 {
        self.until.saturating_sub(self.begin) * 4 / 7
    }
}

/// An account of an earlier epoch that can pay one of a later epoch, as old friends do among users: one of which no job will
/// be revealed, nor of anybody it paid or was paid by. Whoever looks behind an account that was revealed finds it, so that it
/// pays once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Friend {
    /// Its epoch.
    pub epoch: u64,
    /// Its number among that epoch's accounts.
    pub index: u64,
    /// When it was paid itself, unix seconds.
    pub since: u64,
    /// What it can pay, wei.
    pub left: U256,
}

/// What earlier epochs' accounts leave to a plan.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// Whom they were like.
    pub like: BTreeSet<Address>,
    /// Those that can pay.
    pub friends: Vec<Friend>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number among the epoch's accounts.
    pub index: u64,
    /// Who of them pays it.
    pub payer: Option<u64>,
    /// Who else pays it, where none of them does; `None`: it is paid from outside, as from an exchange.
    pub friend: Option<Friend>,
    /// How it lives, at the times of this epoch. `funded`: zero where it is paid what it needs when it needs it.
    pub like: Trace,
}

impl Member {
    /// When it may open its next session: the `n`-th from 0, the last job of the one before at `last`. `None`: it has none.
    pub fn opens(&self, n: usize, last: u64) -> Option<u64> {
        let session = self.like.sessions.get(n)?;
        Some(if n == 0 { self.like.first_at } else { last.saturating_add(session.after) })
    }

    /// Whether it is paid what it needs, when it needs it: there was nobody to be like.
    pub fn is_plain(&self) -> bool {
        self.like.funded.is_zero()
    }

    /// Sessions that fall into the lifetime, were every one opened in time.
    fn within(&self, life: Lifetime) -> usize {
        let (mut at, mut count) = (self.like.first_at, 0);
        for (n, session) in self.like.sessions.iter().enumerate() {
            at = if n == 0 { at } else { at.saturating_add(session.after) };
            if at >= life.until {
                break;
            }
            count += 1;
            at = at.saturating_add(session.pauses.iter().sum());
        }
        count
    }
}

/// The accounts of an epoch. Who pays comes before whom it pays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The accounts.
    pub members: Vec<Member>,
    /// Whose households they are like.
    pub like: Vec<Address>,
}

impl Plan {
    /// Accounts for so many sessions at least, where there is anybody to be like. The same seed, habits, times and past give
    /// the same plan. Nobody is whom earlier accounts were like, unless there are too few.
    pub fn new(seed: B256, habits: &Habits, life: Lifetime, sessions: usize, past: &Past) -> Self {
        let mut plan = Self::default();
        let mut friends = past.friends.clone();
        let mut dice = Dice::new(seed, "accounts");
        let mut planned = 0;
        for round in 0..=ROUNDS {
            let households: Vec<(Address, Household)> = habits.households(&mut dice).collect();
            for (root, household) in households {
                if planned >= sessions {
                    return plan;
                }
                if round == 0 && past.like.contains(&root) {
                    continue;
                }
                let added = plan.add(household, life, &mut friends, &mut dice);
                if added > 0 {
                    plan.like.push(root);
                }
                planned += added;
            }
        }
        plan
    }

    /// Accounts where nobody was seen to be like: a few paid by one, when they need it.
    pub fn plain(life: Lifetime, accounts: u64) -> Self {
        let like = |payer: Option<usize>, sessions: usize| Trace {
            account: Address::ZERO,
            payer,
            friend: None,
            paid_at: life.from,
            funded: U256::ZERO,
            payments: Vec::new(),
            first_at: life.begin,
            sessions: vec![SessionTrace { after: 0, pauses: vec![0] }; sessions],
            style: ClientStyle::LCAI,
        };
        let mut members: Vec<Member> = Vec::new();
        for n in 0..accounts {
            if n.is_multiple_of(PLAIN_HOUSEHOLD) {
                let (index, like) = (members.len() as u64, like(None, 0));
                members.push(Member { index, payer: None, friend: None, like });
            }
            let index = members.len() as u64;
            let payer = Some(index - 1 - n % PLAIN_HOUSEHOLD);
            members.push(Member { index, payer, friend: None, like: like(Some(0), PLAIN_SESSIONS) });
        }
        Self { members, like: Vec::new() }
    }

    /// Adds a household, on any day of the epoch, at the times of day at which it lived; gives the number of its sessions.
    /// One that does not fit into the epoch is left out.
    fn add(
        &mut self,
        household: Household,
        life: Lifetime,
        friends: &mut Vec<Friend>,
        dice: &mut Dice,
    ) -> usize {
        let Some(was) = household.first_at() else { return 0 };
        let is = if life.length() < HOUR {
            life.begin + dice.throw(life.length() / 2)
        } else {
            placed(was, life) + dice.throw((life.length() / DAY).max(1)) * DAY
        };
        if is >= life.until {
            return 0;
        }
        let first = self.members.len() as u64;
        let mut sessions = 0;
        for (n, mut like) in household.0.into_iter().enumerate() {
            // Later by so much, or as early as there is time.
            let moved = |at: u64| (at.saturating_add(is)).saturating_sub(was).max(life.from);
            (like.paid_at, like.first_at) = (moved(like.paid_at), moved(like.first_at));
            let payer = like.payer.map(|payer| first + payer as u64);
            let friend = befriend(&like, friends);
            let member = Member { index: first + n as u64, payer, friend, like };
            sessions += member.within(life);
            self.members.push(member);
        }
        sessions
    }
}

/// Takes a friend for whom an old friend paid: the one known for most nearly as long.
fn befriend(like: &Trace, friends: &mut Vec<Friend>) -> Option<Friend> {
    let was = like.friend?;
    // How much longer one was known than the other, percent of the shorter time.
    let apart = |friend: &Friend| {
        let is = like.paid_at.checked_sub(friend.since)?;
        is.max(was).saturating_mul(100).checked_div(is.min(was)).filter(|apart| *apart <= AS_LONG)
    };
    let able = friends.iter().enumerate().filter(|(_, friend)| friend.left > like.funded);
    let (_, place) = able.filter_map(|(place, friend)| Some((apart(friend)?, place))).min()?;
    Some(friends.swap_remove(place))
}

/// The first time after the beginning at which it is the same time of day.
const fn placed(at: u64, life: Lifetime) -> u64 {
    life.begin + (at % DAY + DAY - life.begin % DAY) % DAY
}

#[cfg(test)]
mod tests {
    use super::*;
    /// An epoch of three days.
    const LIFE: Lifetime = Lifetime { from: 900_000, begin: 1_036_800, until: 1_036_800 + 453_600 };

    fn trace(payer: Option<usize>, paid_at: u64, sessions: usize) -> Trace {
        Trace {
            account: Address::repeat_byte(1),
            payer,
            friend: None,
            paid_at,
            funded: U256::from(10),
            payments: Vec::new(),
            first_at: paid_at + 9_000,
            sessions: vec![SessionTrace { after: 3_600, pauses: vec![3, 40] }; sessions],
            style: ClientStyle::LCAI,
        }
    }

    fn plan(household: Vec<Trace>, sessions: usize, life: Lifetime) -> Plan {
        let habits = Habits::of(vec![Household(household)]);
        Plan::new(B256::repeat_byte(3), &habits, life, sessions, &Past::default())
    }

    #[test]
    fn an_account_lives_as_a_user_did_at_the_same_time_of_day() {
        let plan = plan(vec![trace(None, 500_000, 3)], 180, LIFE);
        assert_eq!(plan.members.len(), 60, "three sessions each");
        let mut days = BTreeSet::new();
        for (n, member) in plan.members.iter().enumerate() {
            assert_eq!((member.index, member.payer), (n as u64, None));
            let Trace { paid_at, first_at, .. } = member.like;
            assert!((509_000 % DAY).abs_diff(first_at % DAY) <= 1_200, "{first_at}");
            assert!((7_800..=10_200).contains(&(first_at - paid_at)));
            days.insert((first_at - LIFE.begin) / DAY);
            assert_eq!(member.opens(0, 0), Some(first_at));
            assert!((5_280..=6_820).contains(&member.opens(1, 2_500).unwrap()));
            assert_eq!(member.opens(3, 2_500), None);
        }
        assert_eq!(days, BTreeSet::from([0, 1, 2]), "on every day of the epoch");
    }

    #[test]
    fn somebody_with_several_accounts_pays_them_after_being_paid() {
        let household = vec![trace(None, 500_000, 0), trace(Some(0), 510_000, 1), trace(Some(0), 590_000, 1)];
        let plan = plan(household, 6, LIFE);
        assert_eq!(plan.members.len(), 9);
        for three in plan.members.chunks(3) {
            let payers: Vec<Option<u64>> = three.iter().map(|member| member.payer).collect();
            assert_eq!(payers, [None, Some(three[0].index), Some(three[0].index)]);
            assert!(
                three[1].like.paid_at > three[0].like.paid_at
                    && three[2].like.paid_at > three[1].like.paid_at
            );
        }
    }

    #[test]
    fn who_comes_too_late_is_nobody_to_be_like() {
        let life = Lifetime { until: LIFE.begin + 6 * 3_600, ..LIFE };
        // The epoch begins at midnight: eight in the morning is too late, five is not.
        let at = |hour: u64| vec![trace(None, 8 * DAY + hour * 3_600 - 9_000, 1)];
        assert!(plan(at(8), 4, life).members.is_empty());
        assert_eq!(plan(at(5), 4, life).members.len(), 4);
        assert_eq!(Plan::new(B256::ZERO, &Habits::default(), life, 4, &Past::default()), Plan::default());
    }

    #[test]
    fn nobody_is_who_others_were_like_unless_there_are_too_few() {
        let household = |n: u8| {
            let account = Address::repeat_byte(n);
            Household(vec![Trace { account, ..trace(None, 500_000 + u64::from(n), 1) }])
        };
        let habits = Habits::of((1..=4).map(household).collect());
        let like = BTreeSet::from([Address::repeat_byte(1), Address::repeat_byte(3)]);
        let past = Past { like, friends: Vec::new() };
        let plan = |sessions| Plan::new(B256::repeat_byte(3), &habits, LIFE, sessions, &past);
        let like: BTreeSet<Address> = plan(2).like.into_iter().collect();
        assert_eq!(like, BTreeSet::from([Address::repeat_byte(2), Address::repeat_byte(4)]));
        assert_eq!(plan(5).like.len(), 5);
    }

    #[test]
    fn an_old_friend_pays_once_who_is_known_for_as_long_and_has_enough() {
        let known_for = |days: u64, left: u64| Friend {
            epoch: 1,
            index: days,
            since: LIFE.begin.saturating_sub(days * DAY),
            left: U256::from(left),
        };
        let like = Trace { friend: Some(5 * DAY), ..trace(None, 500_000, 1) };
        let habits = Habits::of(vec![Household(vec![like])]);
        let friends = vec![known_for(1, 99), known_for(5, 10), known_for(6, 99), known_for(4, 99)];
        let past = Past { like: BTreeSet::new(), friends };
        let plan = Plan::new(B256::repeat_byte(3), &habits, LIFE, 4, &past);
        let found: Vec<Option<Friend>> = plan.members.iter().map(|member| member.friend).collect();
        let mut taken: Vec<u64> = found.iter().flatten().map(|friend| friend.index).collect();
        taken.sort_unstable();
        assert!(
            taken == [4, 6] || taken == [4] || taken == [6],
            "not too new, not too poor, once: {found:?}"
        );
        for (member, friend) in plan.members.iter().filter_map(|member| Some((member, member.friend?))) {
            let known = member.like.paid_at - friend.since;
            assert!((5 * DAY * 100 / AS_LONG..=5 * DAY * AS_LONG / 100).contains(&known), "{known}");
        }
        let none = Plan::new(B256::repeat_byte(3), &habits, LIFE, 4, &Past::default());
        assert!(none.members.iter().all(|member| member.friend.is_none()), "from outside, then");
    }

    #[test]
    fn in_an_epoch_of_minutes_the_hour_does_not_matter() {
        let life = Lifetime { from: 1_000, begin: 1_060, until: 1_060 + 105 };
        let like = Trace { paid_at: 900, first_at: 910, ..trace(None, 0, 1) };
        let plan = plan(vec![like], 20, life);
        assert_eq!(plan.members.len(), 20);
        let opened: BTreeSet<u64> =
            plan.members.iter().map(|member| member.like.first_at - life.begin).collect();
        assert!(opened.iter().all(|after| *after < 30) && opened.len() > 5, "{opened:?}");
    }

    #[test]
    fn where_nobody_was_seen_a_few_are_paid_by_one_all_the_same() {
        let plan = Plan::plain(LIFE, 7);
        let payers: Vec<Option<u64>> = plan.members.iter().map(|member| member.payer).collect();
        let paid_by = |payer: u64| Some(payer);
        let expected = [
            None,
            paid_by(0),
            paid_by(0),
            paid_by(0),
            None,
            paid_by(4),
            paid_by(4),
            paid_by(4),
            None,
            paid_by(8),
        ];
        assert_eq!(payers, expected);
        assert!(plan.members.iter().all(|member| member.is_plain()));
        assert_eq!((plan.members[0].opens(0, 0), plan.members[1].opens(5, 99)), (None, Some(99)));
    }
}
