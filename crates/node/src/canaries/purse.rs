//! Money for canaries: from the treasury within its daily cap, or from outside, and from one account to the next.

use super::{CanaryRole, lane, pool::Planned, secret};
use crate::DisputerHandle;
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use lcai_client::User;
use lcai_exex_disputer::{
    CanaryFiler, FilingError,
    canary::{ClientStyle, Member, Payment},
};
use lcai_host::{HostClient, JournalError, Records, Sent, TxLane, TxSpec};
use lcai_primitives::contracts::JobRegistry;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use thiserror::Error;
use tokio::sync::Mutex;

/// Gas that a session and its jobs may use, in wei at 2 gwei, beside the fees.
const GAS_ALLOWANCE: u64 = 4_000_000_000_000_000;

/// Gas that a transfer may cost, in wei at 20 gwei.
const TRANSFER_ALLOWANCE: u64 = 420_000_000_000_000;

/// Gas that a dispute may cost, in wei at 20 gwei.
const DISPUTE_ALLOWANCE: u64 = 6_000_000_000_000_000;

/// What an account that pays others is given, in what the first of them needs, where nobody was seen to be like.
const PLAIN_SHARES: u64 = 4;

/// Why an account got no money.
#[derive(Debug, Error)]
pub(super) enum PurseError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Enough for today.
    #[error("the treasury has given out its cap for today")]
    CapReached,
    /// The operator has not paid yet.
    #[error("{0} waits to be paid from outside")]
    Outside(Address),
    /// It spent what it was to have.
    #[error("{0} has no money left for a session")]
    Spent(Address),
    /// A transaction failed.
    #[error("{0}")]
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> PurseError {
    PurseError::Failed(error.to_string())
}

/// What is kept of an account that opens sessions, for a dispute over its jobs after a restart.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Known {
    index: u64,
    payer: Option<u64>,
    gas_margin: u64,
    fee_factor: u64,
    tip: u64,
}

/// Who pays.
pub(super) struct Purse {
    key: PrivateKeySigner,
    treasury: TxLane,
    outside: bool,
    daily_cap: U256,
    disputer: DisputerHandle,
    client: Arc<dyn HostClient>,
    records: Records,
    /// One payment at a time: an account has one nonce, and what is spent is added up.
    paying: Mutex<()>,
}

impl Purse {
    pub(super) fn new(
        role: &CanaryRole,
        disputer: DisputerHandle,
        client: Arc<dyn HostClient>,
        records: Records,
    ) -> Self {
        Self {
            key: role.treasury.clone(),
            treasury: TxLane::new(client.clone(), role.treasury.clone()),
            outside: role.paid_from_outside,
            daily_cap: role.daily_cap,
            disputer,
            client,
            records,
            paying: Mutex::new(()),
        }
    }

    /// Keeps who an account is, before its first session.
    pub(super) async fn remember(&self, account: Address, member: &Member) -> Result<(), PurseError> {
        let ClientStyle { gas_margin, fee_factor, tip, .. } = member.like.style;
        let known = Known { index: member.index, payer: member.payer, gas_margin, fee_factor, tip };
        let bytes = postcard::to_stdvec(&known).map_err(failed)?;
        let records = self.records.clone();
        tokio::task::spawn_blocking(move || records.put(&known_key(account), &bytes))
            .await
            .map_err(failed)??;
        Ok(())
    }

    async fn known(&self, account: Address) -> Result<Option<Known>, PurseError> {
        let records = self.records.clone();
        let bytes = tokio::task::spawn_blocking(move || records.get(&known_key(account))).await;
        bytes.map_err(failed)??.map(|bytes| postcard::from_bytes(&bytes).map_err(failed)).transpose()
    }

    /// A lane of an account that opened sessions; it has so much when this returns, and gas for a dispute.
    async fn funded(&self, account: Address, value: U256) -> Result<TxLane, PurseError> {
        let unknown = || failed(format!("{account} is not known here"));
        let known = self.known(account).await?.ok_or_else(unknown)?;
        let epoch = self.disputer.core.read(|core| core.canary_epoch(account)).ok_or_else(unknown)?;
        let seeds = self.disputer.seeds.as_ref().ok_or_else(unknown)?;
        let seed = seeds.get(epoch).await.map_err(failed)?.ok_or_else(unknown)?.0;
        let signer = self.account(seed, known.index)?;
        if signer.address() != account {
            return Err(unknown());
        }
        let needed = value.saturating_add(U256::from(DISPUTE_ALLOWANCE));
        let missing = needed.saturating_sub(self.balance(account).await?);
        if !missing.is_zero() {
            self.top_up(seed, known.payer, account, rounded_up(missing)).await?;
        }
        let Known { gas_margin, fee_factor, tip, .. } = known;
        let style = ClientStyle { gas_margin, fee_factor, tip, prepaid: false };
        Ok(TxLane::with_config(self.client.clone(), signer, lane(style)))
    }

    /// Tells the operator whom to pay from outside, as soon as it is known.
    pub(super) fn announce(&self, planned: &[Planned]) -> Result<(), PurseError> {
        self.disputer.awaited.forget(self.now());
        if !self.outside {
            return Ok(());
        }
        for Planned { seed, until, members } in planned {
            let outside = |member: &&Member| member.payer.is_none() && member.friend.is_none();
            for member in members.iter().filter(outside).filter(|member| !member.is_plain()) {
                let account = self.account(*seed, member.index)?.address();
                self.disputer.awaited.expect(account, member.like.funded, member.like.paid_at, *until);
            }
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.disputer.core.read(|core| core.block_time())
    }

    /// The n-th account of the epoch with this seed.
    pub(super) fn account(&self, seed: B256, index: u64) -> Result<PrivateKeySigner, PurseError> {
        PrivateKeySigner::from_bytes(&secret(&self.key, seed, index)).map_err(failed)
    }

    /// Pays an account what its user was paid, once. A crash in between pays it twice at most: it has money, or it has not.
    pub(super) async fn pay(&self, seed: B256, member: &Member) -> Result<(), PurseError> {
        let _one_at_a_time = self.paying.lock().await;
        let account = self.account(seed, member.index)?.address();
        if !self.balance(account).await?.is_zero() {
            self.disputer.awaited.paid(account);
            return Ok(());
        }
        let amount = member.like.funded;
        let Some(signer) = self.payer(seed, member).await? else {
            return self.treasury_pays(account, amount).await;
        };
        if self.balance(signer.address()).await? < amount.saturating_add(U256::from(TRANSFER_ALLOWANCE)) {
            return Err(PurseError::Spent(signer.address()));
        }
        let lane = TxLane::with_config(self.client.clone(), signer, lane(member.like.style));
        transfer(&lane, account, amount).await
    }

    /// Who pays an account, where it is one of ours: of its epoch, or an old friend.
    async fn payer(&self, seed: B256, member: &Member) -> Result<Option<PrivateKeySigner>, PurseError> {
        if let Some(payer) = member.payer {
            return self.account(seed, payer).map(Some);
        }
        let Some(friend) = member.friend else { return Ok(None) };
        let seeds = self.disputer.seeds.as_ref().ok_or_else(|| failed("no seeds are kept"))?;
        let seed = seeds.get(friend.epoch).await.map_err(failed)?;
        let seed = seed.ok_or_else(|| failed(format!("the seed of epoch {} is not kept", friend.epoch)))?;
        self.account(seed.0, friend.index).map(Some)
    }

    /// What an account can pay another, wei.
    pub(super) async fn can_pay(&self, account: Address) -> Result<U256, PurseError> {
        Ok(self.balance(account).await?.saturating_sub(U256::from(TRANSFER_ALLOWANCE)))
    }

    /// A payment that the account's user made.
    pub(super) async fn pay_out(
        &self,
        seed: B256,
        member: &Member,
        payment: &Payment,
    ) -> Result<(), PurseError> {
        let lane = TxLane::with_config(
            self.client.clone(),
            self.account(seed, member.index)?,
            lane(member.like.style),
        );
        transfer(&lane, payment.to, payment.value).await
    }

    /// Sees that the account can pay a session's jobs, `(fee, all fees)`; whether it pays them from a deposit.
    pub(super) async fn make_ready(
        &self,
        user: &User,
        seed: B256,
        member: &Member,
        (fee, fees): (U256, U256),
    ) -> Result<bool, PurseError> {
        let account = user.account();
        let has = self.balance(account).await?;
        if member.is_plain() {
            let needed = fees.saturating_add(U256::from(GAS_ALLOWANCE));
            if let Some(missing) = needed.checked_sub(has).filter(|missing| !missing.is_zero()) {
                self.top_up(seed, member.payer, account, rounded_up(missing)).await?;
            }
            return Ok(false);
        }
        let deposit = if member.like.style.prepaid { self.deposited(account).await? } else { U256::ZERO };
        let gas = U256::from(GAS_ALLOWANCE);
        if deposit >= fees && has >= gas {
            return Ok(true);
        }
        if has < fee.saturating_add(gas) {
            return Err(PurseError::Spent(account));
        }
        let half = has / U256::from(2);
        if member.like.style.prepaid && deposit.saturating_add(half) >= fees {
            let lane =
                TxLane::with_config(self.client.clone(), user.signer().clone(), lane(member.like.style));
            let registry = user.node().network().deployment.job_registry;
            let call = TxSpec::call(registry, JobRegistry::depositCall {}.abi_encode().into());
            included(lane.send(TxSpec { value: whole(half), ..call }).await)?;
            return Ok(self.deposited(account).await? >= fees);
        }
        Ok(false)
    }

    /// Gives an account more than its user had; a payer that has not enough is topped up itself.
    async fn top_up(
        &self,
        seed: B256,
        payer: Option<u64>,
        to: Address,
        amount: U256,
    ) -> Result<(), PurseError> {
        let _one_at_a_time = self.paying.lock().await;
        let Some(payer) = payer else { return self.treasury_pays(to, amount).await };
        let signer = self.account(seed, payer)?;
        let has = self.balance(signer.address()).await?;
        if has < amount.saturating_add(U256::from(TRANSFER_ALLOWANCE)) {
            let share = rounded_up(amount.saturating_mul(U256::from(PLAIN_SHARES)));
            self.treasury_pays(signer.address(), share).await?;
        }
        self.disputer.awaited.paid(signer.address());
        transfer(&TxLane::new(self.client.clone(), signer), to, amount).await
    }

    async fn treasury_pays(&self, to: Address, amount: U256) -> Result<(), PurseError> {
        if self.outside {
            let now = self.now();
            self.disputer.awaited.expect(
                to,
                amount,
                now,
                now.saturating_add(2 * self.disputer.epochs.length),
            );
            return Err(PurseError::Outside(to));
        }
        self.spend(amount).await?;
        transfer(&self.treasury, to, amount).await
    }

    /// Counts against the day's cap, durably, before anything is paid.
    async fn spend(&self, amount: U256) -> Result<(), PurseError> {
        let day = self.now() / 86_400;
        let (records, cap) = (self.records.clone(), self.daily_cap);
        let spent = tokio::task::spawn_blocking(move || {
            let key = format!("spent {day}");
            let before = records.get(key.as_bytes())?;
            let before = before.and_then(|bytes| U256::try_from_be_slice(&bytes)).unwrap_or_default();
            let after = before.saturating_add(amount);
            if after > cap {
                return Ok(false);
            }
            records.put(key.as_bytes(), &after.to_be_bytes::<32>())?;
            Ok::<_, JournalError>(true)
        });
        if spent.await.map_err(failed)?? { Ok(()) } else { Err(PurseError::CapReached) }
    }

    async fn balance(&self, account: Address) -> Result<U256, PurseError> {
        self.client.balance(account).await.map_err(failed)
    }

    async fn deposited(&self, account: Address) -> Result<U256, PurseError> {
        let call = JobRegistry::prepaidBalanceOfCall { user: account };
        let to = self.disputer.deployment.job_registry;
        let call = lcai_host::Call { to, input: call.abi_encode().into() };
        let data = self.client.call(call, None).await.map_err(failed)?;
        JobRegistry::prepaidBalanceOfCall::abi_decode_returns(&data).map_err(failed)
    }
}

impl fmt::Debug for Purse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Purse").field("daily_cap", &self.daily_cap).finish_non_exhaustive()
    }
}

#[async_trait]
impl CanaryFiler for Purse {
    async fn send_as(&self, account: Address, dispute: TxSpec) -> Result<Sent, FilingError> {
        let lane = self.funded(account, dispute.value).await;
        let lane = lane.map_err(|error| FilingError::NotSent(error.to_string()))?;
        Ok(lane.send(dispute).await?)
    }

    async fn count(&self, bond: U256) -> Result<(), FilingError> {
        self.spend(bond).await.map_err(|error| FilingError::NotSent(error.to_string()))
    }
}

fn known_key(account: Address) -> Vec<u8> {
    [b"account ".as_slice(), account.as_slice()].concat()
}

async fn transfer(lane: &TxLane, to: Address, value: U256) -> Result<(), PurseError> {
    included(lane.send(TxSpec { value, ..TxSpec::call(to, Bytes::new()) }).await)
}

fn included(sent: Result<lcai_host::Sent, lcai_host::LaneError>) -> Result<(), PurseError> {
    let sent = sent.map_err(failed)?;
    if sent.receipt.success { Ok(()) } else { Err(failed(format!("transaction {} reverted", sent.hash))) }
}

/// The next amount with two digits: nobody pays 1.004 LCAI.
fn rounded_up(wei: U256) -> U256 {
    let digits = wei.to_string().len();
    let unit = U256::from(10).pow(U256::from(digits.saturating_sub(2)));
    wei.div_ceil(unit).saturating_mul(unit)
}

/// Without the decimals, where there is something before them.
fn whole(wei: U256) -> U256 {
    let lcai = U256::from(10).pow(U256::from(18));
    if wei < lcai { wei } else { wei / lcai * lcai }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::canaries::testing;
    use lcai_exex_disputer::canary::{Friend, Lifetime, Plan};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_cap_holds_for_payments_and_bonds_and_over_restarts() {
        let (disputer, journal) = testing::disputer();
        let records = journal.records("canaries");
        let (purse, host) = testing::purse(100, false, &disputer, &records);
        let miner = host.clone();
        let mining = tokio::spawn(async move {
            loop {
                miner.mine_empty(1);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        purse.treasury_pays(Address::repeat_byte(7), U256::from(60)).await.unwrap();
        purse.count(U256::from(30)).await.unwrap();
        // A payment that does not fit sends nothing and takes nothing of what is left.
        let refused = purse.treasury_pays(Address::repeat_byte(7), U256::from(11)).await;
        assert!(matches!(refused, Err(PurseError::CapReached)), "{refused:?}");
        assert!(matches!(purse.count(U256::from(11)).await, Err(FilingError::NotSent(_))));
        assert_eq!(host.sent().len(), 1);
        drop(purse);
        let (again, _) = testing::purse(100, false, &disputer, &records);
        assert!(matches!(again.spend(U256::from(11)).await, Err(PurseError::CapReached)));
        again.spend(U256::from(10)).await.unwrap();
        assert!(matches!(again.spend(U256::from(1)).await, Err(PurseError::CapReached)));
        mining.abort();
    }

    #[tokio::test]
    async fn what_is_paid_from_outside_is_asked_for_and_spends_nothing() {
        let (disputer, journal) = testing::disputer();
        let (purse, host) = testing::purse(100, true, &disputer, &journal.records("canaries"));
        let account = Address::repeat_byte(7);
        for _ in 0..5 {
            let refused = purse.treasury_pays(account, U256::from(60)).await;
            assert!(matches!(refused, Err(PurseError::Outside(who)) if who == account), "{refused:?}");
        }
        let asked: Vec<(Address, U256)> =
            disputer.awaited.list().into_iter().map(|payment| (payment.account, payment.amount)).collect();
        assert_eq!(asked, [(account, U256::from(60))]);
        assert_eq!(host.sent().len(), 0);
        // Five times sixty were more than the cap: nothing was counted.
        purse.spend(U256::from(100)).await.unwrap();
    }

    #[tokio::test]
    async fn who_was_remembered_is_known_and_nobody_else_files() {
        let (disputer, journal) = testing::disputer();
        let (purse, host) = testing::purse(100, false, &disputer, &journal.records("canaries"));
        let life = Lifetime { from: 0, begin: 10, until: 100 };
        let member = Plan::plain(life, 1).members.remove(1);
        let account = purse.account(B256::repeat_byte(3), member.index).unwrap().address();
        purse.remember(account, &member).await.unwrap();
        let known = purse.known(account).await.unwrap().unwrap();
        assert_eq!((known.index, known.payer, known.tip), (1, Some(0), ClientStyle::LCAI.tip));
        // Its epoch is not known to the core, and another's account not at all.
        for account in [account, Address::repeat_byte(8)] {
            let spec = TxSpec::call(Address::repeat_byte(4), Bytes::new());
            assert!(matches!(purse.send_as(account, spec).await, Err(FilingError::NotSent(_))));
        }
        assert_eq!(host.sent().len(), 0);
    }

    #[tokio::test]
    async fn an_old_friend_pays_what_it_has_and_nobody_is_asked() {
        let (disputer, journal) = testing::disputer();
        let (purse, host) = testing::purse(100, true, &disputer, &journal.records("canaries"));
        let seed = disputer.seeds.clone().unwrap().get_or_make(5).await.unwrap().0;
        let lcai = U256::from(10).pow(U256::from(18));
        let friend = Friend { epoch: 5, index: 3, since: 0, left: lcai };
        let life = Lifetime { from: 0, begin: 10, until: 100 };
        let mut member = Plan::plain(life, 1).members.remove(0);
        (member.friend, member.like.funded) = (Some(friend), lcai);
        let (epoch, members) = (B256::repeat_byte(3), vec![member.clone()]);
        purse.announce(&[Planned { seed: epoch, until: 100, members }]).unwrap();
        assert!(disputer.awaited.list().is_empty(), "the operator has nothing to pay");
        let account = purse.account(seed, 3).unwrap().address();
        assert_eq!(purse.payer(epoch, &member).await.unwrap().unwrap().address(), account);
        let refused = purse.pay(epoch, &member).await;
        assert!(matches!(refused, Err(PurseError::Spent(who)) if who == account), "{refused:?}");
        host.set_balance(account, lcai * U256::from(2));
        assert_eq!(
            purse.can_pay(account).await.unwrap(),
            lcai * U256::from(2) - U256::from(TRANSFER_ALLOWANCE)
        );
        member.friend = Some(Friend { epoch: 6, ..friend });
        assert!(matches!(purse.pay(epoch, &member).await, Err(PurseError::Failed(_))), "no seed, no account");
        assert_eq!(host.sent().len(), 0);
    }

    #[test]
    fn amounts_are_those_that_people_pay() {
        let cases = [(0u64, 0u64), (7, 7), (42, 42), (1_004, 1_100), (1_100, 1_100), (99_001, 100_000)];
        for (exact, round) in cases {
            assert_eq!(rounded_up(U256::from(exact)), U256::from(round));
        }
        let lcai = U256::from(10).pow(U256::from(18));
        assert_eq!(whole(lcai * U256::from(7) + U256::from(3)), lcai * U256::from(7));
        assert_eq!(whole(U256::from(3)), U256::from(3));
    }
}
