//! The accounts of the epochs that live now, what each is to do next, and which duties still wait for one.

use super::{CanaryError, chain::ChainReader, friends::Friends, other, purse::Purse};
use crate::DisputerHandle;
use alloy_primitives::{Address, B256};
use lcai_exex_disputer::{
    EpochRow,
    canary::{Duty, Friend, Lifetime, Member, Past, Payment, Plan, Seed, duties},
};
use lcai_host::{PutOutcome, Records};
use lcai_primitives::ids::ModelId;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

/// Canaries under way at once.
const PARALLEL: usize = 4;

/// How often an account whose time has come asks for a worker. What it is told holds for two minutes, but whether a worker
/// has room changes faster.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// How long what was tried in vain is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Sessions planned for each that is expected to be due: not every account is drawn in time.
const PLANNED: (usize, usize) = (3, 2);

/// Of users who came later than this part of an epoch ago it is not known how they go on.
const KNOWN_AFTER: (u64, u64) = (3, 7);

/// Longest that a session waits for a worker due, seconds; then it is opened with any other, or the account would not live
/// as its user did.
const PATIENCE: u64 = 300;

/// Something to do for an account.
#[derive(Debug, Clone)]
pub(super) enum Task {
    /// Pay it what its user was paid.
    Pay { epoch: u64, seed: B256, member: Member },
    /// Pay somebody, as its user did before the first session.
    PayOut { epoch: u64, seed: B256, member: Member, payment: Payment },
    /// Ask for a worker, and open a session with one that is due, or with anybody.
    Ask { epoch: u64, seed: B256, member: Member, session: usize, model: ModelId, anybody: bool },
}

impl Task {
    const fn account(&self) -> (u64, u64) {
        match self {
            Self::Pay { epoch, member, .. }
            | Self::PayOut { epoch, member, .. }
            | Self::Ask { epoch, member, .. } => (*epoch, member.index),
        }
    }

    /// How it ended.
    pub(super) fn ends<E: fmt::Display>(&self, result: Result<(), E>) -> Step {
        let (epoch, index) = self.account();
        let what = match self {
            _ if result.is_err() => Ended::Failed,
            Self::Pay { .. } => Ended::Paid,
            Self::PayOut { .. } => Ended::PaidOut,
            Self::Ask { .. } => Ended::Session,
        };
        if let Err(error) = result {
            tracing::debug!(epoch, index, %error, "a canary's account has to wait");
        }
        Step { epoch, index, what }
    }

    /// Its worker is not due.
    pub(super) const fn not_drawn(&self) -> Step {
        let (epoch, index) = self.account();
        Step { epoch, index, what: Ended::NotDrawn }
    }
}

#[derive(Debug, Clone, Copy)]
enum Ended {
    Paid,
    PaidOut,
    Session,
    NotDrawn,
    Failed,
}

/// What became of a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    epoch: u64,
    index: u64,
    what: Ended,
}

/// The accounts of an epoch.
pub(super) struct Planned {
    pub(super) seed: B256,
    /// They are of no use after this, unix seconds.
    pub(super) until: u64,
    pub(super) members: Vec<Member>,
}

/// A session that is under way, and the duty that it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    epoch: u64,
    /// None: it is there for its account's sake.
    duty: Option<(u64, Duty)>,
}

#[derive(Debug)]
struct Account {
    member: Member,
    paid: bool,
    paid_out: usize,
    session: usize,
    /// When its last session ended, unix seconds of block time.
    last: u64,
    busy: bool,
    not_before: Instant,
}

#[derive(Debug)]
struct Pool {
    seed: B256,
    life: Lifetime,
    /// What workers are tested with.
    models: BTreeSet<ModelId>,
    accounts: Vec<Account>,
    due: BTreeMap<u64, Duty>,
    taken: BTreeSet<u64>,
}

/// The pools of the epochs that live now.
pub(super) struct Pools {
    disputer: DisputerHandle,
    records: Records,
    friends: Friends,
    plain_accounts: u64,
    pools: Mutex<BTreeMap<u64, Pool>>,
    under_way: Mutex<usize>,
    asking: tokio::sync::Mutex<()>,
}

impl Pools {
    pub(super) fn new(disputer: DisputerHandle, records: Records, plain_accounts: u64) -> Self {
        let (pools, under_way) = (Mutex::new(BTreeMap::new()), Mutex::new(0));
        let friends = Friends::new(records.clone());
        let asking = tokio::sync::Mutex::new(());
        Self { disputer, records, friends, plain_accounts, pools, under_way, asking }
    }

    /// Plans epochs that were committed to, and notes what has fallen due; an epoch whose time is over is left. Gives what
    /// was planned.
    pub(super) async fn look(
        &self,
        reader: &ChainReader,
        purse: &Purse,
    ) -> Result<Vec<Planned>, CanaryError> {
        let now = self.now();
        let epoch = self.disputer.epochs.of(now);
        let mut planned = Vec::new();
        for epoch in epoch.saturating_sub(1)..=epoch.saturating_add(1) {
            planned.extend(self.plan(epoch, now, (reader, purse)).await?);
            self.note_due(epoch, now).await?;
        }
        let mut pools = self.pools.lock();
        pools.retain(|epoch, pool| {
            let lives = now < pool.life.until;
            if !lives && !pool.due.is_empty() {
                // The audit shows them as missed; whoever runs the disputer wants to know before.
                metrics::counter!("lcai_canaries_missed_total").increment(pool.due.len() as u64);
                tracing::warn!(epoch, duties = pool.due.len(), "canaries could not be sent in time");
            }
            lives
        });
        Ok(planned)
    }

    fn now(&self) -> u64 {
        self.disputer.core.read(|core| core.block_time())
    }

    /// The seed of an epoch that was committed to before it began: what is sent in another could not be revealed.
    async fn seed(&self, epoch: u64) -> Result<Option<B256>, CanaryError> {
        let Some(row) = self.disputer.core.read(|core| core.epoch(epoch).cloned()) else { return Ok(None) };
        let Some(seeds) = self.disputer.seeds.as_ref() else { return Ok(None) };
        let seed = seeds.get(epoch).await.map_err(other)?;
        let start = self.disputer.epochs.start(epoch);
        Ok(seed.filter(|seed| can_be_revealed(&row, seed, epoch, start)).map(|seed| seed.0))
    }

    async fn plan(
        &self,
        epoch: u64,
        now: u64,
        (reader, purse): (&ChainReader, &Purse),
    ) -> Result<Option<Planned>, CanaryError> {
        if self.pools.lock().contains_key(&epoch) {
            return Ok(None);
        }
        let epochs = self.disputer.epochs;
        let until = epochs.start(epoch.saturating_add(2)).saturating_sub(epochs.length / 4);
        if now >= until {
            return Ok(None);
        }
        let Some(seed) = self.seed(epoch).await? else { return Ok(None) };
        let life = Lifetime { from: now, begin: epochs.start(epoch), until };
        let expected = self.disputer.core.read(|core| {
            let standing = core.standing(epoch).or_else(|| core.standing(epochs.of(now)));
            standing.map(|(standing, rate)| duties(&Seed(seed), epoch, epochs, standing, rate).len())
        });
        let sessions = (expected.unwrap_or(1).max(1) * PLANNED.0).div_ceil(PLANNED.1);
        let known = now.saturating_sub(epochs.length.saturating_mul(KNOWN_AFTER.0) / KNOWN_AFTER.1);
        let past = Past { like: self.used().await?, friends: self.friends(epoch, purse).await? };
        let mut plan = Plan::new(seed, &reader.habits(known, epochs.length), life, sessions, &past);
        self.use_up(epoch, &plan.like).await?;
        if plan.members.is_empty() {
            plan = Plan::plain(life, self.plain_accounts);
        } else {
            self.friends.keep(epoch, now, &plan.members).await?;
        }
        let planned = Planned { seed, until, members: plan.members.clone() };
        let account = |member: Member| Account {
            member,
            paid: false,
            paid_out: 0,
            session: 0,
            last: 0,
            busy: false,
            not_before: Instant::now(),
        };
        let pool = Pool {
            seed,
            life,
            models: BTreeSet::new(),
            accounts: plan.members.into_iter().map(account).collect(),
            due: BTreeMap::new(),
            taken: BTreeSet::new(),
        };
        self.pools.lock().insert(epoch, pool);
        Ok(Some(planned))
    }

    async fn friends(&self, epoch: u64, purse: &Purse) -> Result<Vec<Friend>, CanaryError> {
        match self.disputer.seeds.as_ref() {
            Some(seeds) => self.friends.of(epoch, seeds, purse).await,
            None => Ok(Vec::new()),
        }
    }

    /// Whom accounts of earlier epochs were like.
    async fn used(&self) -> Result<BTreeSet<Address>, CanaryError> {
        let records = self.records.clone();
        let kept = tokio::task::spawn_blocking(move || records.scan(b"like ")).await.map_err(other)??;
        let addresses = |(_, bytes): (Vec<u8>, Vec<u8>)| {
            bytes.as_chunks::<20>().0.iter().map(Address::from).collect::<Vec<_>>()
        };
        Ok(kept.into_iter().flat_map(addresses).collect())
    }

    async fn use_up(&self, epoch: u64, like: &[Address]) -> Result<(), CanaryError> {
        let bytes: Vec<u8> = like.iter().flat_map(|account| account.0.0).collect();
        let records = self.records.clone();
        let key = format!("like {epoch} {}", self.now());
        Ok(tokio::task::spawn_blocking(move || records.put(key.as_bytes(), &bytes))
            .await
            .map_err(other)??)
    }

    /// Whether a duty was begun before a restart. One whose account sent no job was not: the node died in between.
    async fn is_begun(&self, epoch: u64, number: u64, duty: &Duty) -> Result<bool, CanaryError> {
        let (records, key) = (self.records.clone(), key(epoch, number));
        let begun =
            tokio::task::spawn_blocking(move || records.get(key.as_bytes())).await.map_err(other)??;
        let Some(begun) = begun else { return Ok(false) };
        let account = Address::try_from(begun.as_slice()).ok();
        if account.is_none_or(|account| self.disputer.core.read(|core| core.has_met(account, duty))) {
            return Ok(true);
        }
        let (records, key) = (self.records.clone(), self::key(epoch, number));
        tokio::task::spawn_blocking(move || records.remove(key.as_bytes())).await.map_err(other)??;
        tracing::info!(epoch, "a canary that a restart prevented is due again");
        Ok(false)
    }

    /// Duties that have fallen due and were not begun before, a restart ago or this time.
    async fn note_due(&self, epoch: u64, now: u64) -> Result<(), CanaryError> {
        let epochs = self.disputer.epochs;
        let standing = self
            .disputer
            .core
            .read(|core| core.standing(epoch).map(|(standing, rate)| (standing.to_vec(), rate)));
        let Some((standing, rate)) = standing else { return Ok(()) };
        let fresh: Vec<(u64, Duty)> = {
            let pools = self.pools.lock();
            let Some(pool) = pools.get(&epoch) else { return Ok(()) };
            let all = duties(&Seed(pool.seed), epoch, epochs, &standing, rate);
            let known = |number: &u64| pool.due.contains_key(number) || pool.taken.contains(number);
            (0..).zip(all).filter(|(number, duty)| duty.at <= now && !known(number)).collect()
        };
        if let Some(pool) = self.pools.lock().get_mut(&epoch) {
            pool.models.extend(standing.iter().map(|standing| standing.of.model));
        }
        for (number, duty) in fresh {
            let begun = self.is_begun(epoch, number, &duty).await?;
            if let Some(pool) = self.pools.lock().get_mut(&epoch) {
                if begun {
                    pool.taken.insert(number);
                } else {
                    pool.due.insert(number, duty);
                }
            }
        }
        Ok(())
    }

    /// What is to be done now.
    pub(super) fn tasks(&self) -> Vec<Task> {
        let (now, at) = (self.now(), Instant::now());
        let free = PARALLEL.saturating_sub(*self.under_way.lock());
        let mut pools = self.pools.lock();
        let mut tasks = Vec::new();
        for (epoch, pool) in pools.iter_mut() {
            let due = pool.due.values().min().map(|duty| duty.of.model).filter(|_| free > 0);
            let wanted = Wanted { due, any: pool.models.first().copied().filter(|_| free > 0) };
            for account in pool.accounts.iter_mut().filter(|a| !a.busy && a.not_before <= at) {
                if let Some(task) = next(account, *epoch, (pool.seed, pool.life), wanted, now) {
                    account.busy = true;
                    tasks.push(task);
                }
            }
        }
        tasks
    }

    /// Takes note of how a task ended.
    pub(super) fn ended(&self, step: Step) {
        let now = self.now();
        let mut pools = self.pools.lock();
        let account = pools
            .get_mut(&step.epoch)
            .and_then(|pool| pool.accounts.iter_mut().find(|account| account.member.index == step.index));
        let Some(account) = account else { return };
        account.busy = false;
        match step.what {
            Ended::Paid => account.paid = true,
            Ended::PaidOut => account.paid_out += 1,
            Ended::Session => (account.session, account.last) = (account.session + 1, now),
            Ended::NotDrawn => account.not_before = Instant::now() + ASK_EVERY,
            Ended::Failed => account.not_before = Instant::now() + AGAIN_AFTER.min(self.patience()),
        }
    }

    /// Epochs of a devnet are short.
    const fn patience(&self) -> Duration {
        Duration::from_secs(self.disputer.epochs.length / 10 + 1)
    }

    /// Claims a duty of the worker for an account, so that nobody does it twice, a restart included. `None`: none is due and
    /// it is not to be just `anybody`, or enough are under way. Whoever has a claim says when the session is
    /// [finished](Self::finished).
    pub(super) async fn claim(
        &self,
        epoch: u64,
        account: Address,
        (worker, model): (Address, ModelId),
        anybody: bool,
    ) -> Result<Option<Claim>, CanaryError> {
        let duty = {
            let mut under_way = self.under_way.lock();
            let mut pools = self.pools.lock();
            let Some(pool) = pools.get_mut(&epoch).filter(|_| *under_way < PARALLEL) else { return Ok(None) };
            let suits = |duty: &Duty| duty.of.worker == worker && duty.of.model == model;
            let duty = pool.due.iter().find(|(_, duty)| suits(duty)).map(|(number, duty)| (*number, *duty));
            if duty.is_none() && !anybody {
                return Ok(None);
            }
            if let Some((number, _)) = duty {
                pool.due.remove(&number);
                pool.taken.insert(number);
            }
            *under_way += 1;
            duty
        };
        let Some((number, _)) = duty else { return Ok(Some(Claim { epoch, duty })) };
        let (records, key) = (self.records.clone(), key(epoch, number));
        let put =
            tokio::task::spawn_blocking(move || records.put_if_absent(key.as_bytes(), account.as_slice()))
                .await;
        match put.map_err(other).and_then(|put| put.map_err(CanaryError::from)) {
            Ok(PutOutcome::Inserted) => Ok(Some(Claim { epoch, duty })),
            Ok(PutOutcome::Existing(_)) => {
                self.finished();
                Ok(None)
            }
            Err(error) => {
                self.finished();
                Err(error)
            }
        }
    }

    /// The number of a question that was not asked before, also when the node was restarted since.
    pub(super) async fn next_question(&self) -> Result<u64, CanaryError> {
        let _one_at_a_time = self.asking.lock().await;
        let records = self.records.clone();
        let next = tokio::task::spawn_blocking(move || {
            let before = records.get(b"questions asked")?.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
            let next = before.map_or(0, u64::from_be_bytes);
            records.put(b"questions asked", &next.saturating_add(1).to_be_bytes())?;
            Ok::<_, lcai_host::JournalError>(next)
        });
        Ok(next.await.map_err(other)??)
    }

    /// A session is over, however it ended.
    pub(super) fn finished(&self) {
        let mut under_way = self.under_way.lock();
        *under_way = under_way.saturating_sub(1);
    }

    /// No job of it came to be: another account may do the duty.
    pub(super) async fn give_back(&self, claim: Claim) {
        let Some((number, duty)) = claim.duty else { return };
        let (records, key) = (self.records.clone(), key(claim.epoch, number));
        let removed = tokio::task::spawn_blocking(move || records.remove(key.as_bytes())).await;
        if !matches!(removed, Ok(Ok(_))) {
            tracing::warn!(epoch = claim.epoch, "a duty that was begun in vain is lost");
            return;
        }
        if let Some(pool) = self.pools.lock().get_mut(&claim.epoch) {
            pool.taken.remove(&number);
            pool.due.insert(number, duty);
        }
    }
}

/// Whether what is sent of this seed can be revealed: it is the one committed to, and was before the epoch began.
fn can_be_revealed(row: &EpochRow, seed: &Seed, epoch: u64, start: u64) -> bool {
    row.committed_at < start && row.root == seed.root(epoch)
}

/// Which models are to be asked.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// That of the duty due for longest.
    due: Option<ModelId>,
    /// That of somebody who waited for long enough.
    any: Option<ModelId>,
}

/// What an account is to do next, if its time has come.
fn next(
    account: &Account,
    epoch: u64,
    (seed, life): (B256, Lifetime),
    wanted: Wanted,
    now: u64,
) -> Option<Task> {
    let member = &account.member;
    if !account.paid && !member.is_plain() {
        let member = member.clone();
        return (now >= member.like.paid_at).then_some(Task::Pay { epoch, seed, member });
    }
    if let Some(payment) = member.like.payments.get(account.paid_out)
        && now >= member.like.paid_at.saturating_add(payment.after)
    {
        return Some(Task::PayOut { epoch, seed, member: member.clone(), payment: *payment });
    }
    let opens = member.opens(account.session, account.last)?;
    if now < opens.max(life.begin) || now >= life.until {
        return None;
    }
    let anybody = !member.is_plain() && now >= opens.saturating_add(PATIENCE);
    let model = wanted.due.or(wanted.any.filter(|_| anybody))?;
    Some(Task::Ask { epoch, seed, member: member.clone(), session: account.session, model, anybody })
}

fn key(epoch: u64, number: u64) -> String {
    format!("{}{number}", duties_of(epoch))
}

/// What the records of an epoch's duties, each with the account that began it, are kept under.
pub(super) fn duties_of(epoch: u64) -> String {
    format!("duty {epoch} ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use lcai_exex_disputer::canary::Tested;

    fn duty() -> Duty {
        let of = Tested { worker: Address::repeat_byte(7), model: ModelId::from_name("m") };
        Duty { at: 10, of }
    }

    #[tokio::test]
    async fn whom_accounts_were_like_is_kept() {
        let (pools, _) = crate::canaries::testing::pools();
        assert_eq!(pools.used().await.unwrap(), BTreeSet::new());
        let like: Vec<Address> = (1..4).map(Address::repeat_byte).collect();
        pools.use_up(3, &like).await.unwrap();
        pools.use_up(4, &[Address::repeat_byte(9)]).await.unwrap();
        let expected = like.into_iter().chain([Address::repeat_byte(9)]).collect();
        assert_eq!(pools.used().await.unwrap(), expected);
    }

    /// The node died between the claim and the first job: another account does the duty.
    #[tokio::test]
    async fn a_duty_whose_account_sent_no_job_is_due_again() {
        let (pools, records) = crate::canaries::testing::pools();
        records.put(key(3, 0).as_bytes(), Address::repeat_byte(9).as_slice()).unwrap();
        assert!(!pools.is_begun(3, 0, &duty()).await.unwrap());
        assert_eq!(records.get(key(3, 0).as_bytes()).unwrap(), None);
        assert!(!pools.is_begun(3, 1, &duty()).await.unwrap(), "it was never claimed");
    }

    #[test]
    fn only_what_was_committed_to_in_time_is_planned() {
        let seed = Seed(B256::repeat_byte(5));
        let row = |root, committed_at| EpochRow { root, committed_at, revealed: None, asked: false };
        assert!(can_be_revealed(&row(seed.root(3), 99), &seed, 3, 100));
        assert!(!can_be_revealed(&row(seed.root(3), 100), &seed, 3, 100), "too late");
        let other = Seed(B256::repeat_byte(6)).root(3);
        assert!(!can_be_revealed(&row(other, 99), &seed, 3, 100), "another node's");
    }
}
