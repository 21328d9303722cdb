//! Accounts of past epochs that can pay others, as old friends do among users: those whose jobs met no duty, so that no
//! reveal names them.

use super::{CanaryError, other, pool::duties_of, purse::Purse};
use alloy_primitives::{Address, U256};
use lcai_exex_disputer::canary::{Friend, Member, Seeds};
use lcai_host::Records;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Epochs after which an account has lived: it is planned when the epoch before its own begins, and lives for one and three
/// quarters of one.
const AFTER: u64 = 3;

/// Epochs that are looked back.
const BACK: u64 = 16;

/// What is kept of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    index: u64,
    /// The number of who paid it, of the same epoch.
    payer: Option<u64>,
    /// When it is paid, unix seconds.
    since: u64,
    asks: bool,
}

/// The accounts of past epochs, over restarts.
#[derive(Debug, Clone)]
pub(super) struct Friends(Records);

impl Friends {
    pub(super) const fn new(records: Records) -> Self {
        Self(records)
    }

    /// Keeps whom an epoch has. After a restart it is planned again, with other lives: then both count.
    pub(super) async fn keep(&self, epoch: u64, now: u64, members: &[Member]) -> Result<(), CanaryError> {
        let kept = members.iter().map(|member| Kept {
            index: member.index,
            payer: member.payer,
            since: member.like.paid_at,
            asks: !member.like.sessions.is_empty(),
        });
        let bytes = postcard::to_stdvec(&kept.collect::<Vec<_>>()).map_err(other)?;
        let taken: Vec<Friend> = members.iter().filter_map(|member| member.friend).collect();
        self.with(move |records| {
            records.put(format!("accounts {epoch} {now}").as_bytes(), &bytes)?;
            taken.iter().try_for_each(|Friend { epoch, index, .. }| {
                records.put(format!("friend {epoch} {index}").as_bytes(), &[])
            })
        })
        .await
    }

    /// Who can pay an account of an epoch: one of each household that no reveal shows a part of, with money left, that has
    /// paid for none before.
    pub(super) async fn of(
        &self,
        epoch: u64,
        seeds: &Seeds,
        purse: &Purse,
    ) -> Result<Vec<Friend>, CanaryError> {
        let mut friends = Vec::new();
        for epoch in epoch.saturating_sub(BACK)..=epoch.saturating_sub(AFTER) {
            let Some(seed) = seeds.get(epoch).await.map_err(other)? else { continue };
            let (kept, met, taken) = self.past(epoch).await?;
            let mut accounts = BTreeMap::new();
            for index in kept.iter().map(|kept| kept.index) {
                accounts.insert(index, purse.account(seed.0, index)?.address());
            }
            let is_met = |index: u64| accounts.get(&index).is_none_or(|account| met.contains(account));
            for household in unmet(&kept, &taken, is_met) {
                let mut richest: Option<Friend> = None;
                for Kept { index, since, .. } in household {
                    let Some(account) = accounts.get(&index) else { continue };
                    let left = purse.can_pay(*account).await?;
                    if richest.is_none_or(|other| other.left < left) {
                        richest = Some(Friend { epoch, index, since, left });
                    }
                }
                friends.extend(richest.filter(|friend| friend.left > U256::ZERO));
            }
        }
        Ok(friends)
    }

    /// An epoch's accounts, those that began a duty, and those that paid for another epoch.
    async fn past(&self, epoch: u64) -> Result<(Vec<Kept>, BTreeSet<Address>, BTreeSet<u64>), CanaryError> {
        self.with(move |records| {
            let mut kept: BTreeMap<(u64, Option<u64>), Kept> = BTreeMap::new();
            for (_, bytes) in records.scan(format!("accounts {epoch} ").as_bytes())? {
                for new in postcard::from_bytes::<Vec<Kept>>(&bytes).unwrap_or_default() {
                    let known = kept.entry((new.index, new.payer)).or_insert(new);
                    known.since = known.since.min(new.since);
                    known.asks |= new.asks;
                }
            }
            let met = records.scan(duties_of(epoch).as_bytes())?;
            let met = met.iter().filter_map(|(_, bytes)| Address::try_from(bytes.as_slice()).ok()).collect();
            let prefix = format!("friend {epoch} ");
            let taken = records.scan(prefix.as_bytes())?;
            let number = |key: &[u8]| std::str::from_utf8(key).ok()?.strip_prefix(&prefix)?.parse().ok();
            let taken = taken.iter().filter_map(|(key, _)| number(key)).collect();
            Ok((kept.into_values().collect(), met, taken))
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Records) -> Result<T, lcai_host::JournalError> + Send + 'static,
    ) -> Result<T, CanaryError> {
        let records = self.0.clone();
        Ok(tokio::task::spawn_blocking(move || work(&records)).await.map_err(other)??)
    }
}

/// Who asks, by households of which nobody met a duty or paid for another epoch.
fn unmet(kept: &[Kept], taken: &BTreeSet<u64>, is_met: impl Fn(u64) -> bool) -> Vec<Vec<Kept>> {
    // Whoever pays has the lower number, so that its household is known before.
    let mut root_of: BTreeMap<u64, u64> = BTreeMap::new();
    let mut households: BTreeMap<u64, (bool, Vec<Kept>)> = BTreeMap::new();
    for account in kept {
        let payer = account.payer.and_then(|payer| root_of.get(&payer).copied());
        let root = *root_of.entry(account.index).or_insert(payer.unwrap_or(account.index));
        let shown = is_met(account.index) || taken.contains(&account.index);
        for root in [Some(root), payer.filter(|payer| *payer != root)].into_iter().flatten() {
            let (is_shown, members) = households.entry(root).or_default();
            *is_shown |= shown;
            if account.asks && members.iter().all(|member| member.index != account.index) {
                members.push(*account);
            }
        }
    }
    households.into_values().filter(|(is_shown, _)| !is_shown).map(|(_, members)| members).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::canaries::testing;
    use lcai_exex_disputer::canary::{Lifetime, Plan};

    fn kept(index: u64, payer: Option<u64>, asks: bool) -> Kept {
        Kept { index, payer, since: 100 + index, asks }
    }

    fn numbers(households: Vec<Vec<Kept>>) -> Vec<Vec<u64>> {
        households.iter().map(|household| household.iter().map(|kept| kept.index).collect()).collect()
    }

    #[test]
    fn a_household_of_which_a_part_is_shown_has_no_friends() {
        // 0 pays 1 and 2, which pays 3; 4 and 5 are by themselves; 6 only pays 7.
        let accounts = [
            kept(0, None, false),
            kept(1, Some(0), true),
            kept(2, Some(0), true),
            kept(3, Some(2), true),
            kept(4, None, true),
            kept(5, None, true),
            kept(6, None, false),
            kept(7, Some(6), true),
        ];
        let none = BTreeSet::new();
        let found = |taken: &BTreeSet<u64>, met: u64| numbers(unmet(&accounts, taken, |index| index == met));
        assert_eq!(found(&none, 99), [vec![1, 2, 3], vec![4], vec![5], vec![7]]);
        assert_eq!(found(&none, 3), [vec![4], vec![5], vec![7]], "whoever looks behind 3 finds all");
        assert_eq!(found(&BTreeSet::from([5]), 7), [vec![1, 2, 3], vec![4]]);
    }

    #[test]
    fn who_was_planned_twice_belongs_to_both_households() {
        let accounts = [kept(0, None, true), kept(1, None, true), kept(1, Some(0), true)];
        let unmet = |met: u64| numbers(unmet(&accounts, &BTreeSet::new(), |index| index == met));
        assert_eq!(unmet(9), [vec![0, 1], vec![1]]);
        assert!(unmet(1).is_empty());
    }

    /// Over the records alone, as after a restart.
    #[tokio::test]
    async fn past_accounts_without_a_duty_and_with_money_pay_once() {
        let (disputer, journal) = testing::disputer();
        let records = journal.records("canaries");
        let (purse, host) = testing::purse(100, false, &disputer, &records);
        let seeds = disputer.seeds.clone().unwrap();
        let seed = seeds.get_or_make(5).await.unwrap();
        let life = Lifetime { from: 50, begin: 60, until: 100 };
        let mut members = Plan::plain(life, 6).members;
        let account = |index: u64| purse.account(seed.0, index).unwrap().address();
        let friends = Friends::new(records.clone());
        friends.keep(5, 40, &members).await.unwrap();
        assert!(friends.of(9, &seeds, &purse).await.unwrap().is_empty(), "none has money");
        for (index, wei) in [(1, 10u64), (2, 30), (3, 20), (5, 40)] {
            host.set_balance(account(index), U256::from(wei) * U256::from(10).pow(U256::from(18)));
        }
        let found = async |epoch| {
            let friends = friends.of(epoch, &seeds, &purse).await.unwrap();
            friends.iter().map(|friend| (friend.epoch, friend.index)).collect::<Vec<_>>()
        };
        assert_eq!(found(8).await, [(5, 2), (5, 5)], "the richest of each household");
        assert!(found(7).await.is_empty(), "they still live");
        let met = |number: u64, index: u64| {
            let key = format!("{}{number}", duties_of(5));
            records.put(key.as_bytes(), account(index).as_slice()).unwrap();
        };
        met(3, 6);
        assert_eq!(found(8).await, [(5, 2)], "6 met a duty, and 4 paid 5 and 6");
        let friend = friends.of(8, &seeds, &purse).await.unwrap()[0];
        assert_eq!(friend.since, 50);
        members.truncate(1);
        members[0].friend = Some(friend);
        friends.keep(8, 41, &members).await.unwrap();
        assert!(found(9).await.is_empty(), "2 has paid for another");
    }
}
