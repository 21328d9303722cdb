//! How many blobs an account, and all of them together, may have published in a day. Survives restarts.

use crate::error::LcaiError;
use alloy_primitives::Address;
use lcai_host::{JournalError, Records};
use parking_lot::Mutex;
use std::sync::Arc;

/// Seconds of a quota period; periods begin at multiples of it since the Unix epoch (midnight UTC).
const PERIOD_SECONDS: u64 = 86_400;
/// The row that counts everybody's.
const TOTAL: &[u8] = b"total";

/// Blobs per day.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) per_account: u64,
    /// Of an account that never had a session.
    pub(crate) newcomer: u64,
    pub(crate) total: u64,
}

/// Counts in the journal's records; at most one row per blob of a day, as rows of past days go with the day's first.
#[derive(Debug)]
pub(crate) struct Quota {
    records: Records,
    limits: Limits,
    /// The period whose predecessors are gone; held while counting.
    swept: Arc<Mutex<u64>>,
}

impl Quota {
    pub(crate) fn new(records: Records, limits: Limits) -> Self {
        Self { records, limits, swept: Arc::default() }
    }

    /// Counts one blob at `now` (unix seconds). Gives what the account has left. Blocks on the disk.
    pub(crate) fn take(&self, account: Address, newcomer: bool, now: u64) -> Result<u64, LcaiError> {
        let period = now / PERIOD_SECONDS;
        let mut swept = self.swept.lock();
        if *swept < period {
            self.sweep(period).map_err(fault)?;
            *swept = period;
        }
        let used = self.used(account.as_slice(), period).map_err(fault)?;
        let total = self.used(TOTAL, period).map_err(fault)?;
        if newcomer && used >= self.limits.newcomer {
            let text = format!("account {account} has published {used} blobs today and never had a session");
            return Err(LcaiError::QuotaExceeded(text));
        }
        if used >= self.limits.per_account {
            let text = format!("account {account} has published its {used} blobs of today (UTC)");
            return Err(LcaiError::QuotaExceeded(text));
        }
        if total >= self.limits.total {
            return Err(LcaiError::QuotaExceeded("this node has published its blobs of today (UTC)".into()));
        }
        self.set(account.as_slice(), period, used + 1).map_err(fault)?;
        self.set(TOTAL, period, total + 1).map_err(fault)?;
        Ok(self.limits.per_account - used - 1)
    }

    /// What an account has left at `now`, and the unix seconds at which the period ends. Blocks on the disk.
    pub(crate) fn left(&self, account: Address, now: u64) -> Result<(u64, u64), LcaiError> {
        let period = now / PERIOD_SECONDS;
        let used = self.used(account.as_slice(), period).map_err(fault)?;
        let total = self.used(TOTAL, period).map_err(fault)?;
        let left = self.limits.per_account.saturating_sub(used);
        let left = left.min(self.limits.total.saturating_sub(total));
        Ok((left, period.saturating_add(1).saturating_mul(PERIOD_SECONDS)))
    }

    /// Takes a count back because nothing was published.
    pub(crate) fn give_back(&self, account: Address, now: u64) -> Result<(), LcaiError> {
        let period = now / PERIOD_SECONDS;
        let _counting = self.swept.lock();
        for key in [account.as_slice(), TOTAL] {
            let used = self.used(key, period).map_err(fault)?;
            self.set(key, period, used.saturating_sub(1)).map_err(fault)?;
        }
        Ok(())
    }

    fn used(&self, key: &[u8], period: u64) -> Result<u64, JournalError> {
        let row = self.records.get(key)?.and_then(|row| decode(&row));
        Ok(row.filter(|(of, _)| *of == period).map_or(0, |(_, used)| used))
    }

    fn set(&self, key: &[u8], period: u64, used: u64) -> Result<(), JournalError> {
        let mut row = [0; 16];
        let (head, tail) = row.split_at_mut(8);
        head.copy_from_slice(&period.to_be_bytes());
        tail.copy_from_slice(&used.to_be_bytes());
        self.records.put(key, &row)
    }

    fn sweep(&self, period: u64) -> Result<(), JournalError> {
        for (key, row) in self.records.scan(&[])? {
            if decode(&row).is_none_or(|(of, _)| of < period) {
                self.records.remove(&key)?;
            }
        }
        Ok(())
    }
}

fn decode(row: &[u8]) -> Option<(u64, u64)> {
    let (period, used) = row.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*period), u64::from_be_bytes(used.try_into().ok()?)))
}

fn fault(error: JournalError) -> LcaiError {
    tracing::error!(%error, "blob quota");
    LcaiError::Internal("the node's journal failed".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcai_host::Journal;

    const DAY: u64 = PERIOD_SECONDS;

    fn account(n: u8) -> Address {
        Address::repeat_byte(n)
    }

    fn quota(records: &Records) -> Quota {
        Quota::new(records.clone(), Limits { per_account: 2, newcomer: 1, total: 3 })
    }

    fn records() -> Records {
        Journal::in_memory(lcai_host::testing::identity()).unwrap().records("test")
    }

    #[test]
    fn an_account_and_the_node_are_limited_per_day_across_restarts() {
        let records = records();
        assert_eq!(quota(&records).left(account(1), DAY), Ok((2, 2 * DAY)));
        assert_eq!(quota(&records).take(account(1), false, DAY), Ok(1));
        assert_eq!(quota(&records).left(account(1), DAY), Ok((1, 2 * DAY)));
        assert_eq!(quota(&records).take(account(1), false, DAY), Ok(0));
        assert!(matches!(quota(&records).take(account(1), false, DAY + 1), Err(LcaiError::QuotaExceeded(_))));
        assert_eq!(quota(&records).take(account(2), false, DAY), Ok(1));
        assert!(
            matches!(quota(&records).take(account(3), false, DAY), Err(LcaiError::QuotaExceeded(_))),
            "the node's own"
        );
        assert_eq!(quota(&records).take(account(1), false, 2 * DAY), Ok(1));
    }

    #[test]
    fn an_account_without_a_session_has_less() {
        let quota = quota(&records());
        assert_eq!(quota.take(account(1), true, DAY), Ok(1));
        assert!(matches!(quota.take(account(1), true, DAY), Err(LcaiError::QuotaExceeded(_))));
        assert_eq!(quota.take(account(1), false, DAY), Ok(0), "once it has one");
    }

    #[test]
    fn what_was_not_published_is_given_back() {
        let records = records();
        let quota = quota(&records);
        quota.take(account(1), false, 5).unwrap();
        quota.give_back(account(1), 5).unwrap();
        quota.give_back(account(1), 5).unwrap();
        assert_eq!(quota.take(account(1), false, 5), Ok(1), "no more than was taken");
    }

    #[test]
    fn rows_of_past_days_go() {
        let records = records();
        let quota = quota(&records);
        for n in 1..4 {
            quota.take(account(n), false, DAY * 5).unwrap();
        }
        assert_eq!(records.scan(&[]).unwrap().len(), 4);
        quota.take(account(9), false, DAY * 6).unwrap();
        assert_eq!(records.scan(&[]).unwrap().len(), 2);
    }
}
