//! Token buckets: per account and per connection.

use crate::error::LcaiError;
use alloy_primitives::Address;
use parking_lot::Mutex;
use std::{collections::HashMap, hash::Hash, time::Duration};
use tokio::time::Instant;

/// A sustained rate and what may be used at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Units regained per second.
    pub per_second: f64,
    /// Units at most.
    pub burst: f64,
}

/// One caller's bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let regained = now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second;
        (self.left + regained).min(rate.burst)
    }

    /// Takes `cost` units, or says how long to wait. What costs more than a whole burst is never allowed.
    pub(crate) fn take(&mut self, rate: Rate, cost: f64, now: Instant) -> Result<(), Duration> {
        let level = self.level(rate, now);
        if level >= cost {
            *self = Self { left: level - cost, at: now };
            return Ok(());
        }
        let wait = (cost - level) / rate.per_second.max(f64::MIN_POSITIVE);
        Err(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

/// Buckets of many accounts, or whatever else callers are told apart by, in bounded memory.
#[derive(Debug)]
pub struct AccountLimiter<K = Address> {
    rate: Rate,
    max_accounts: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

impl<K: Eq + Hash> AccountLimiter<K> {
    /// At most `max_accounts` are told apart at a time.
    pub fn new(rate: Rate, max_accounts: usize) -> Self {
        Self { rate, max_accounts, buckets: Mutex::new(HashMap::new()) }
    }

    /// Takes `cost` units from the account's bucket.
    ///
    /// # Errors
    /// `QuotaExceeded` when the account, or the node as a whole, is over its rate.
    pub fn take(&self, account: K, cost: f64) -> Result<(), LcaiError> {
        let (now, rate) = (Instant::now(), self.rate);
        let mut buckets = self.buckets.lock();
        if buckets.len() >= self.max_accounts && !buckets.contains_key(&account) {
            // A bucket that is full again is as good as none.
            buckets.retain(|_, bucket| bucket.level(rate, now) < rate.burst);
            if buckets.len() >= self.max_accounts {
                return Err(LcaiError::QuotaExceeded("too many accounts use this node at present".into()));
            }
        }
        let bucket = buckets.entry(account).or_insert_with(|| Bucket::full(rate, now));
        bucket.take(rate, cost, now).map_err(|wait| {
            LcaiError::QuotaExceeded(format!(
                "the caller's rate is used up; try again in {} ms",
                wait.as_millis()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 20.0 };

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_allowed_then_the_rate() {
        let limiter = AccountLimiter::new(RATE, 8);
        let account = Address::repeat_byte(1);
        for _ in 0..20 {
            limiter.take(account, 1.0).unwrap();
        }
        assert!(matches!(limiter.take(account, 1.0), Err(LcaiError::QuotaExceeded(_))));
        assert!(limiter.take(Address::repeat_byte(2), 20.0).is_ok(), "another account is unaffected");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(limiter.take(account, 1.0).is_ok());
        assert!(limiter.take(account, 1.0).is_err());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(limiter.take(account, 21.0).is_err(), "no more than a burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_idle_accounts_make_room() {
        let limiter = AccountLimiter::new(RATE, 2);
        limiter.take(Address::repeat_byte(1), 1.0).unwrap();
        limiter.take(Address::repeat_byte(2), 1.0).unwrap();
        assert!(limiter.take(Address::repeat_byte(3), 1.0).is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        limiter.take(Address::repeat_byte(3), 1.0).unwrap();
        assert_eq!(limiter.buckets.lock().len(), 1);
    }
}
