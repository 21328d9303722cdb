//! A network with users and canaries: the frozen users, and canaries by the code that a disputer runs.

use crate::{
    chain::{FEE, GAS, LCAI, Random, Style, Tx, What, address},
    users::{hubs, users},
};
use alloy_primitives::{Address, B256, U256, keccak256};
use lcai_exex_disputer::canary::{
    Act, Book, ClientStyle, Dice, Duty, Epochs, Friend, Lifetime, Member, Past, Plan, Seed, SeenTx, Standing,
    Survey, Tested, duties, prompt,
};
use lcai_primitives::ids::ModelId;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

const DAY: u64 = 86_400;

/// Seconds of an epoch.
const EPOCH: u64 = 7 * DAY;

/// The first day, 4 June 2026, with which an epoch begins.
const BEGIN: u64 = 2_944 * EPOCH;

/// Longest that a session waits for a worker due; then it is opened with any other, or the account would not live as its user
/// did.
const PATIENCE: u64 = 300;

/// Epochs after which an account has lived and can be a friend. Nodes plan an epoch when the one before it begins, and
/// accounts live one and three quarters.
const FRIENDS_AFTER: u64 = 3;

/// Seconds until an account that was not drawn to a worker due asks again: as long as a draw holds.
const RETRY: u64 = 120;

/// How canaries are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As little thought as possible: an account for each, paid by the treasury, at once.
    Naive,
    /// As nodes send them today (`lcai-node`'s `canaries.rs`): a dozen accounts for six hours, paid by the treasury what they
    /// need when they need it; sessions as long, and pauses as long, as those of users, within limits.
    Today,
    /// By a [`Plan`].
    Planned,
}

/// How canaries are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canaries {
    /// How they are sent.
    pub way: Way,
    /// Whether what is planned to be paid by an exchange is, and not by the treasury.
    pub outside: bool,
    /// Whether they ask what users gave away, and not the built-in questions.
    pub book: bool,
    /// Makes one thing of theirs leak, to see whether it is noticed.
    pub leak: Option<Leak>,
}

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leak {
    /// Prompts are longer than users'.
    LongPrompts,
    /// The fee is overpaid by a hundredth.
    Fee,
    /// The client's own tip.
    Tip,
    /// No pause between two questions.
    Haste,
}

/// As well hidden as it goes.
pub const CAREFUL: Canaries = Canaries { way: Way::Planned, outside: true, book: true, leak: None };

/// As nodes send them today.
pub const TODAY: Canaries = Canaries { way: Way::Today, outside: false, book: false, leak: None };

/// Without a thought.
pub const NAIVE: Canaries = Canaries { way: Way::Naive, outside: false, book: false, leak: None };

/// A network.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Everything follows from it.
    pub seed: u64,
    /// Epochs of users alone, which the disputer learns from.
    pub epochs_before: u64,
    /// Epochs with canaries before they are told apart. In the first one none is old; in the first three none is paid by an
    /// old friend, and after those friends are no older than canaries.
    pub warming: u64,
    /// Epochs in which canaries are told apart.
    pub epochs: u64,
    /// Seconds from one new user to the next.
    pub each: f64,
    /// Workers, alike, with one model.
    pub workers: u8,
    /// How canaries are made.
    pub canaries: Canaries,
}

/// What happened.
#[derive(Debug)]
pub struct World {
    /// Everything, oldest first.
    pub txs: Vec<Tx>,
    /// The accounts of canaries.
    pub canaries: BTreeSet<Address>,
    /// From when on jobs are told apart, unix seconds.
    pub from: u64,
    /// Duties, and those that were not done.
    pub duties: (usize, usize),
}

impl World {
    /// Lets it all happen. `prompts` are what users ask.
    pub fn new(setting: Setting, prompts: &[String]) -> Self {
        let begin = BEGIN + setting.epochs_before * EPOCH;
        let from = begin + setting.warming * EPOCH;
        let until = from + setting.epochs * EPOCH;
        let mut txs = users(setting.seed, BEGIN, until, setting.each, prompts);
        // What users do after the end is nobody's to see.
        txs.retain(|tx| tx.at < until);
        let mut disputer = Disputer {
            setting,
            book: book(prompts, setting.seed),
            txs: Vec::new(),
            canaries: BTreeSet::new(),
            random: Random::new(setting.seed, "draws"),
            duties: (0, 0),
            asked: 0,
            past: Past::default(),
        };
        for epoch in begin / EPOCH..until / EPOCH {
            match setting.canaries.way {
                Way::Naive => disputer.naive(epoch),
                Way::Today => disputer.today(epoch, &txs),
                Way::Planned => disputer.epoch(epoch, &txs),
            }
        }
        let Disputer { txs: ours, canaries, duties, .. } = disputer;
        txs.extend(ours.into_iter().filter(|tx| tx.at < until));
        txs.sort_by_key(|tx| tx.at);
        Self { txs, canaries, from, duties }
    }
}

/// Questions of the same people, asked elsewhere and given away; each is used once.
fn book(prompts: &[String], seed: u64) -> Book {
    let mut random = Random::new(seed, "given away");
    let lines = (0..20_000).map(|_| format!("{}\n", random.pick(prompts)));
    Book::parse(&lines.collect::<String>()).expect("enough was given away")
}

struct Disputer {
    setting: Setting,
    book: Book,
    txs: Vec<Tx>,
    canaries: BTreeSet<Address>,
    random: Random,
    duties: (usize, usize),
    asked: u64,
    /// Whom accounts were like, and who of them can pay others.
    past: Past,
}

impl Disputer {
    fn seed(&self, epoch: u64) -> B256 {
        keccak256(format!("canaries {} {epoch}", self.setting.seed))
    }

    /// Four or five for each worker: one in any case, and one for a tenth of its jobs.
    fn due(&self, epoch: u64) -> Vec<Duty> {
        let model = ModelId::from_name("lcai-tiny");
        let standing: Vec<Standing> = (0..self.setting.workers)
            .map(|n| Tested { worker: Address::repeat_byte(n + 1), model })
            .map(|of| Standing { of, jobs: 35, suspected: false })
            .collect();
        duties(&Seed(self.seed(epoch)), epoch, Epochs { length: EPOCH }, &standing, 1_000)
    }

    fn epoch(&mut self, epoch: u64, users: &[Tx]) {
        let (begin, seed) = (epoch * EPOCH, self.seed(epoch));
        // The epoch is committed to when the one before begins; what is seen by then is what there is to learn from.
        let now = begin - EPOCH;
        let mut survey = Survey::default();
        for tx in users.iter().take_while(|tx| tx.at < now) {
            survey.take(&seen(tx));
        }
        let habits = survey.habits(now - 3 * DAY, EPOCH);
        let life = Lifetime { from: now + 60, begin, until: begin + 2 * EPOCH - EPOCH / 4 };
        let mut due = self.due(epoch);
        self.duties.0 += due.len();
        let mut past = self.past.clone();
        past.friends.retain(|friend| friend.epoch + FRIENDS_AFTER <= epoch);
        let plan = Plan::new(seed, &habits, life, due.len() * 3 / 2, &past);
        self.past.like.extend(&plan.like);
        let taken = |friend: &Friend| plan.members.iter().any(|member| member.friend == Some(*friend));
        self.past.friends.retain(|friend| !taken(friend));
        let mut met = vec![false; plan.members.len()];
        let mut money: Vec<u128> = plan.members.iter().map(|member| member.like.funded.to()).collect();
        for member in &plan.members {
            self.pays(seed, member, &mut money);
        }
        let mut waiting: BTreeMap<usize, u64> = BTreeMap::new();
        // Every account's next session.
        let first = |m: &Member| Some(Reverse((m.opens(0, 0)?, m.index as usize, 0)));
        let mut next: BinaryHeap<_> = plan.members.iter().filter_map(first).collect();
        while let Some(Reverse((at, index, n))) = next.pop() {
            if at >= life.until {
                break;
            }
            // The public draw: anybody.
            let worker = Address::repeat_byte(1 + self.random.below(self.setting.workers.into()) as u8);
            let place = due.iter().position(|duty| duty.at <= at && duty.of.worker == worker);
            let began = *waiting.entry(index).or_insert(at);
            if place.is_none() && !due.is_empty() && at < began + PATIENCE {
                next.push(Reverse((at + RETRY, index, n)));
                continue;
            }
            waiting.remove(&index);
            place.map(|place| due.remove(place));
            met[index] |= place.is_some();
            let Some(left) = money.get_mut(index).filter(|left| **left > FEE + 4 * GAS) else { continue };
            let member = &plan.members[index];
            let (last, spent) = self.session(seed, member, n, at, *left);
            *left -= spent;
            if let Some(at) = member.opens(n + 1, last) {
                next.push(Reverse((at, index, n + 1)));
            }
        }
        self.duties.1 += due.len();
        self.past.friends.extend(friends(epoch, &plan, &met, &money));
    }

    fn transfer(&mut self, at: u64, from: Address, to: Address, wei: U256, style: Style) {
        self.txs.push(Tx { at, from, value: wei.to(), what: What::Transfer { to }, style });
    }

    /// Who pays from outside, and how that looks.
    fn outside(&mut self) -> (Address, Style) {
        let style = Style { gas_margin: 0, fee_factor: 200, tip: 2_000_000_000, prepaid: false };
        if self.setting.canaries.outside {
            let [one, two, bridge] = hubs();
            return (self.random.weighted(&[(one, 0.5), (two, 0.3), (bridge, 0.2)]), style);
        }
        (address("treasury"), style)
    }

    /// Pays an account as its user was paid, and pays whom that user paid.
    fn pays(&mut self, seed: B256, member: &Member, money: &mut [u128]) {
        let (account, like) = (account_of(seed, member.index), &member.like);
        self.canaries.insert(account);
        let style = style(like.style);
        let (from, payer) = match member.payer {
            Some(payer) => {
                let funded: u128 = like.funded.to();
                money[payer as usize] = money[payer as usize].saturating_sub(funded + GAS);
                (account_of(seed, payer), style)
            }
            None => match member.friend {
                Some(friend) => (account_of(self.seed(friend.epoch), friend.index), style),
                None => self.outside(),
            },
        };
        self.transfer(like.paid_at, from, account, like.funded, payer);
        let left = &mut money[member.index as usize];
        let mut paid = Vec::new();
        for payment in &like.payments {
            let value: u128 = payment.value.to();
            if *left > value + GAS {
                *left -= value + GAS;
                paid.push((like.paid_at + payment.after, payment.to, payment.value));
            }
        }
        if style.prepaid && !like.sessions.is_empty() {
            let value = (*left / 2 / LCAI as u128).max(1) * LCAI as u128;
            let at = like.first_at - 30;
            self.txs.push(Tx { at, from: account, value, what: What::Deposit, style });
        }
        for (at, to, value) in paid {
            self.transfer(at, account, to, value, style);
        }
    }

    /// A session; when its last job came, and what it cost.
    fn session(&mut self, seed: B256, member: &Member, n: usize, at: u64, money: u128) -> (u64, u128) {
        let (account, style) = (account_of(seed, member.index), style(member.like.style));
        let style = if self.leaks(Leak::Tip) { Style { tip: style.tip + 1, ..style } } else { style };
        let session = self.random.next();
        self.txs.push(Tx { at, from: account, value: 0, what: What::Open { session }, style });
        let mut dice = Dice::new(seed, &format!("session {} {n}", member.index));
        let (mut now, mut spent) = (at, 0);
        for pause in &member.like.sessions[n].pauses {
            if money - spent < FEE + 4 * GAS {
                break;
            }
            now += if self.leaks(Leak::Haste) { 2 } else { *pause };
            spent += FEE + GAS;
            let fee = if self.leaks(Leak::Fee) { FEE / 100 * 101 } else { FEE };
            let value = if style.prepaid { 0 } else { fee };
            let what = What::Ask { session, prompt: self.prompt(&mut dice) };
            self.txs.push(Tx { at: now, from: account, value, what, style });
        }
        (now, spent)
    }

    fn leaks(&self, leak: Leak) -> bool {
        self.setting.canaries.leak == Some(leak)
    }

    fn prompt(&mut self, dice: &mut Dice) -> String {
        self.asked += 1;
        let asked = if self.setting.canaries.book {
            self.book.question(self.asked).expect("it is not empty").clone()
        } else {
            prompt(dice)
        };
        if self.leaks(Leak::LongPrompts) { format!("{} Explain at length.", asked.text) } else { asked.text }
    }

    /// One canary for each worker and six hours.
    fn today(&mut self, epoch: u64, users: &[Tx]) {
        const SIX_HOURS: u64 = 6 * 3_600;
        const ALLOWANCE: u128 = 4_000_000_000_000_000;
        let style = style(ClientStyle::LCAI);
        let (lengths, gaps) = shapes(users, epoch * EPOCH);
        for part in epoch * (EPOCH / SIX_HOURS)..(epoch + 1) * (EPOCH / SIX_HOURS) {
            let seed = self.seed(part);
            let mut dice = Dice::new(seed, "today");
            let mut balances = [0u128; 12];
            for worker in 0..self.setting.workers {
                // Duties fall due in the first three quarters.
                let at = part * SIX_HOURS + dice.throw(SIX_HOURS / 4 * 3);
                let jobs = dice.pick(&lengths).copied().unwrap_or(1).clamp(1, 4);
                let index = dice.throw(12);
                let account = account_of(seed, index);
                self.canaries.insert(account);
                let needed = u128::from(jobs) * FEE + ALLOWANCE;
                let missing = needed.saturating_sub(balances[index as usize]);
                if missing > 0 {
                    self.transfer(at, address("treasury"), account, U256::from(missing), style);
                }
                balances[index as usize] += missing;
                let session = u64::from(worker) | (part << 8);
                let mut now = at + 2;
                self.txs.push(Tx { at: now, from: account, value: 0, what: What::Open { session }, style });
                for job in 0..jobs {
                    let pause = if job == 0 { 0 } else { dice.pick(&gaps).copied().unwrap_or(5).min(120) };
                    // The prompt's blob takes a block, the job another.
                    now += 2 + pause;
                    let what = What::Ask { session, prompt: self.prompt(&mut dice) };
                    self.txs.push(Tx { at: now, from: account, value: FEE, what, style });
                    balances[index as usize] -= FEE + GAS;
                }
            }
        }
    }

    fn naive(&mut self, epoch: u64) {
        let seed = self.seed(epoch);
        let style = style(ClientStyle::LCAI);
        for (n, duty) in self.due(epoch).into_iter().enumerate() {
            let account = account_of(seed, n as u64);
            self.canaries.insert(account);
            self.duties.0 += 1;
            self.transfer(duty.at, address("treasury"), account, U256::from(FEE + 7 * GAS), style);
            let session = self.random.next();
            self.txs.push(Tx {
                at: duty.at + 4,
                from: account,
                value: 0,
                what: What::Open { session },
                style,
            });
            let mut dice = Dice::new(seed, &format!("duty {n}"));
            let what = What::Ask { session, prompt: prompt(&mut dice).text };
            self.txs.push(Tx { at: duty.at + 8, from: account, value: FEE, what, style });
        }
    }
}

/// Of each household of which no job is revealed the account that asks and has most money left.
fn friends(epoch: u64, plan: &Plan, met: &[bool], money: &[u128]) -> Vec<Friend> {
    let mut households: BTreeMap<u64, (bool, Option<(u128, usize)>)> = BTreeMap::new();
    for (n, member) in plan.members.iter().enumerate() {
        let mut root = member;
        while let Some(payer) = root.payer {
            root = &plan.members[payer as usize];
        }
        let (is_met, richest) = households.entry(root.index).or_default();
        *is_met |= met[n];
        if !member.like.sessions.is_empty() {
            *richest = (*richest).max(Some((money[n], n)));
        }
    }
    let unmet = households.into_values().filter(|(is_met, _)| !is_met).filter_map(|(_, richest)| richest);
    unmet
        .map(|(left, n)| {
            let Member { index, like, .. } = &plan.members[n];
            Friend { epoch, index: *index, since: like.paid_at, left: U256::from(left.saturating_sub(GAS)) }
        })
        .collect()
}

/// Jobs of users' sessions, and the seconds between two of one, up to a time.
fn shapes(users: &[Tx], until: u64) -> (Vec<u64>, Vec<u64>) {
    let mut jobs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for tx in users.iter().take_while(|tx| tx.at < until) {
        if let What::Ask { session, .. } = tx.what {
            jobs.entry(session).or_default().push(tx.at);
        }
    }
    let gaps = jobs.values().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
    (jobs.values().map(|times| times.len() as u64).collect(), gaps)
}

fn account_of(seed: B256, index: u64) -> Address {
    address(&format!("account {seed} {index}"))
}

const fn style(of: ClientStyle) -> Style {
    let ClientStyle { gas_margin, fee_factor, tip, prepaid } = of;
    Style { gas_margin, fee_factor, tip, prepaid }
}

fn seen(tx: &Tx) -> SeenTx {
    let act = match tx.what {
        What::Transfer { to } => Act::Transfer { to },
        What::Deposit => Act::Deposit,
        What::Open { .. } => Act::Open,
        What::Ask { .. } => Act::Ask,
    };
    let Style { gas_margin, fee_factor, tip, .. } = tx.style;
    let style = ClientStyle { gas_margin, fee_factor, tip, prepaid: false };
    SeenTx { at: tx.at, from: tx.from, value: U256::from(tx.value), act, style }
}
