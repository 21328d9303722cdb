//! What the operator is to pay canaries' accounts from outside.

use alloy_primitives::{Address, U256};
use lcai_rpc::verdicts::CanaryPayment;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Payments that are waited for, by account; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Awaited(Arc<Mutex<BTreeMap<Address, CanaryPayment>>>);

impl Awaited {
    /// The payments, earliest first.
    pub fn list(&self) -> Vec<CanaryPayment> {
        let mut list: Vec<CanaryPayment> = self.0.lock().values().cloned().collect();
        list.sort_by_key(|payment| (payment.at, payment.account));
        list
    }

    pub(super) fn expect(&self, account: Address, amount: U256, at: u64, until: u64) {
        self.0.lock().insert(account, CanaryPayment { account, amount, at, until });
    }

    pub(super) fn paid(&self, account: Address) {
        self.0.lock().remove(&account);
    }

    /// Forgets those that are of no use any more at `now`, unix seconds.
    pub(super) fn forget(&self, now: u64) {
        self.0.lock().retain(|_, payment| now < payment.until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_are_listed_until_they_came_or_are_of_no_use() {
        let awaited = Awaited::default();
        let [a, b, c] = [1, 2, 3].map(Address::repeat_byte);
        awaited.expect(a, U256::from(5), 20, 100);
        awaited.expect(b, U256::from(6), 10, 50);
        awaited.expect(c, U256::from(7), 15, 100);
        let accounts = || awaited.list().iter().map(|payment| payment.account).collect::<Vec<_>>();
        assert_eq!(accounts(), [b, c, a]);
        awaited.paid(c);
        awaited.forget(50);
        assert_eq!(accounts(), [a]);
        awaited.expect(a, U256::from(9), 30, 100);
        assert_eq!(awaited.list()[0].amount, U256::from(9));
    }
}
