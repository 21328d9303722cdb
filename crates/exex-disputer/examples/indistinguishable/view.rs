//! What a worker sees of a job: its prompt, and everything that the chain shows of its account until then. Workers pool
//! what they see, and look behind an account's payer, and behind that one.

use crate::{
    chain::{FEE, LCAI, Style, Tx, What},
    world::World,
};
use alloy_primitives::{Address, keccak256};
use std::collections::{BTreeMap, BTreeSet};

/// Who paid so many accounts is an exchange or a bridge.
const HUB: usize = 50;

/// Payers looked behind.
const HOPS: usize = 8;

/// Words are told apart by this many bits of theirs.
const WORDS: usize = 48;

/// First words likewise.
const FIRST_WORDS: usize = 16;

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whether it is a canary.
    pub canary: bool,
    /// Jobs with one account, or one wallet behind several, belong together.
    pub cluster: Address,
    /// Who paid, and who paid those.
    pub ancestors: Vec<Address>,
    /// The features, in the order of [`names`].
    pub features: Vec<f64>,
}

/// What each feature is.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    names.extend((0..FIRST_WORDS).map(|n| format!("first word in class {n}")));
    names.extend((0..WORDS).map(|n| format!("words in class {n}")));
    names
}

const NAMES: [&str; 52] = [
    "characters of the prompt",
    "words of the prompt",
    "digits of the prompt",
    "capitals of the prompt",
    "ends with a question mark",
    "ends with a full stop",
    "begins with a capital",
    "commas",
    "longest word",
    "asked before by anybody",
    "value sent",
    "job of its session",
    "seconds since the session or the job before",
    "seconds since the session was opened",
    "seconds from session to first job",
    "session of its account",
    "jobs of its account before",
    "seconds between its last two sessions",
    "hour",
    "sine of the hour",
    "cosine of the hour",
    "day of the week",
    "seconds since the account was paid first",
    "seconds from that to its first session",
    "hour at which it was paid",
    "amount of that",
    "digits of that amount",
    "amount in fees",
    "times it was paid",
    "nonce",
    "transfers it made",
    "largest part of its money it sent away",
    "deposits",
    "payer's accounts",
    "payer's accounts that ask",
    "payer's transactions before",
    "payer's age when it paid",
    "payer asks itself",
    "part of the payer's money",
    "payer's first amount",
    "digits of that",
    "payer is a hub",
    "accounts of who paid the payer",
    "payers to the next hub",
    "seconds to the payer's next payment",
    "gas margin",
    "fee factor",
    "tip",
    "seconds since the payer was paid",
    "accounts that the second payer's payees paid",
    "distance from the account most like it",
    "that, as a part of the distance from the next one",
];

#[derive(Debug, Default, Clone)]
struct Account {
    paid: Option<(u64, u128, Address)>,
    times_paid: u64,
    received: u128,
    nonce: u64,
    transfers: u64,
    deposits: u64,
    largest_part: f64,
    payees: Vec<(u64, Address)>,
    first_session: Option<u64>,
    sessions: u64,
    opened: u64,
    before: u64,
    first_job: u64,
    jobs_of_session: u64,
    jobs: u64,
    last_gap: u64,
    style: Option<Style>,
    /// Seconds before each of its first jobs.
    pauses: Vec<u64>,
    /// Seconds between its sessions.
    gaps: Vec<u64>,
}

/// Jobs and gaps of an account that are compared with others'.
const COMPARED: usize = 12;

/// How unlike two lives are: the mean of how far apart what both have is, in logarithms, and in quarters of a day.
fn apart(one: &Account, other: &Account) -> Option<f64> {
    let ((paid, amount, _), (was_paid, was_amount, _)) = (one.paid?, other.paid?);
    let (first, was_first) = (one.first_session?, other.first_session?);
    if one.style != other.style {
        return None;
    }
    let logs = |a: f64, b: f64| ((a + 1.0).ln() - (b + 1.0).ln()).abs();
    let hours = |a: u64, b: u64| {
        let apart = (a % 86_400).abs_diff(b % 86_400);
        apart.min(86_400 - apart) as f64 / 21_600.0
    };
    let mut sum = logs(amount as f64, was_amount as f64) + hours(paid, was_paid);
    sum += logs((first - paid) as f64, (was_first - was_paid) as f64);
    let mut count = 3.0;
    let pairs = one.pauses.iter().zip(&other.pauses).chain(one.gaps.iter().zip(&other.gaps));
    for (a, b) in pairs {
        sum += logs(*a as f64, *b as f64);
        count += 1.0;
    }
    Some(sum / count)
}

/// The chosen jobs, by their place among the world's transactions, oldest first.
pub fn jobs(world: &World, chosen: &BTreeSet<usize>) -> Vec<Job> {
    let mut view = View::default();
    let mut jobs = Vec::new();
    for (at, tx) in world.txs.iter().enumerate() {
        view.take(tx);
        let What::Ask { prompt, .. } = &tx.what else { continue };
        if chosen.contains(&at) {
            jobs.push(Job {
                canary: world.canaries.contains(&tx.from),
                cluster: view.cluster(tx.from),
                ancestors: view.ancestors(tx.from),
                features: view.features(tx, prompt),
            });
        }
        view.past(tx, prompt);
    }
    jobs
}

#[derive(Debug, Default)]
struct View {
    accounts: BTreeMap<Address, Account>,
    asked: BTreeMap<String, u64>,
    askers: BTreeSet<Address>,
    nobody: Account,
}

impl View {
    fn account(&self, address: Address) -> &Account {
        self.accounts.get(&address).unwrap_or(&self.nobody)
    }

    fn take(&mut self, tx: &Tx) {
        if let What::Transfer { to } = tx.what {
            let paid = self.accounts.entry(to).or_default();
            paid.paid.get_or_insert((tx.at, tx.value, tx.from));
            paid.times_paid += 1;
            paid.received += tx.value;
        }
        let from = self.accounts.entry(tx.from).or_default();
        from.nonce += 1;
        match &tx.what {
            What::Transfer { to } => {
                from.transfers += 1;
                from.largest_part = from.largest_part.max(tx.value as f64 / from.received.max(1) as f64);
                if from.payees.iter().all(|(_, payee)| payee != to) {
                    from.payees.push((tx.at, *to));
                }
            }
            What::Deposit => from.deposits += 1,
            What::Open { .. } => {
                from.first_session.get_or_insert(tx.at);
                from.last_gap = if from.sessions == 0 { 0 } else { tx.at - from.before };
                if from.sessions > 0 && from.gaps.len() < COMPARED {
                    from.gaps.push(from.last_gap);
                }
                from.style.get_or_insert(tx.style);
                from.sessions += 1;
                (from.opened, from.before, from.jobs_of_session) = (tx.at, tx.at, 0);
            }
            What::Ask { .. } => {
                self.askers.insert(tx.from);
                if from.pauses.len() < COMPARED {
                    from.pauses.push(tx.at - from.before);
                }
            }
        }
    }

    /// Payers, the nearest first; a hub ends the walk.
    fn ancestors(&self, of: Address) -> Vec<Address> {
        let mut ancestors: Vec<Address> = Vec::new();
        let mut at = of;
        while let Some((_, _, payer)) = self.accounts.get(&at).and_then(|account| account.paid) {
            if ancestors.len() >= HOPS || ancestors.contains(&payer) {
                break;
            }
            ancestors.push(payer);
            at = payer;
        }
        ancestors
    }

    fn is_hub(&self, address: Address) -> bool {
        self.accounts.get(&address).is_some_and(|account| account.payees.len() >= HUB)
    }

    /// Whoever is behind it that no hub stands before.
    fn cluster(&self, of: Address) -> Address {
        let ancestors = self.ancestors(of);
        ancestors.into_iter().take_while(|ancestor| !self.is_hub(*ancestor)).last().unwrap_or(of)
    }

    fn features(&self, tx: &Tx, prompt: &str) -> Vec<f64> {
        let account = self.account(tx.from);
        let mut features = self.of_prompt(prompt);
        features.extend(of_session(account, tx));
        features.extend(self.of_money(account, tx));
        features.extend([tx.style.gas_margin as f64, tx.style.fee_factor as f64, tx.style.tip as f64]);
        let payer = account.paid.map(|(at, _, payer)| (at, payer));
        let paid = payer.and_then(|(at, payer)| Some(at as f64 - self.account(payer).paid?.0 as f64));
        let second = payer.and_then(|(_, payer)| self.account(payer).paid).map(|(_, _, second)| second);
        let cousins = second.map(|second| self.account(second)).map(|second| {
            second.payees.iter().map(|(_, payee)| self.account(*payee).payees.len()).sum::<usize>()
        });
        features.extend([paid.unwrap_or(-1.0), cousins.unwrap_or(0).min(2_000) as f64]);
        features.extend(self.twin(tx.from));
        features.extend(words(prompt));
        features
    }

    /// Whether there is one account that this one is unusually like, among those that were there before it.
    fn twin(&self, of: Address) -> [f64; 2] {
        let own = self.account(of);
        let before = |other: &&Account| other.first_session < own.first_session;
        let others = self.accounts.values().filter(before);
        let (mut nearest, mut next) = (10.0, 10.0);
        for apart in others.filter_map(|other| apart(own, other)) {
            if apart < nearest {
                (nearest, next) = (apart, nearest);
            } else if apart < next {
                next = apart;
            }
        }
        [nearest, (nearest + 1e-3) / (next + 1e-3)]
    }

    /// A job is a thing of the past.
    fn past(&mut self, tx: &Tx, prompt: &str) {
        *self.asked.entry(prompt.to_owned()).or_default() += 1;
        let account = self.accounts.entry(tx.from).or_default();
        if account.jobs_of_session == 0 {
            account.first_job = tx.at - account.opened;
        }
        account.jobs_of_session += 1;
        account.jobs += 1;
        account.before = tx.at;
    }

    fn of_prompt(&self, prompt: &str) -> Vec<f64> {
        let count = |what: fn(&char) -> bool| prompt.chars().filter(what).count() as f64;
        let is = |yes: bool| f64::from(u8::from(yes));
        let asked = self.asked.get(prompt).copied().unwrap_or_default();
        let longest = prompt.split_whitespace().map(str::len).max().unwrap_or(0);
        vec![
            prompt.chars().count() as f64,
            prompt.split_whitespace().count() as f64,
            count(char::is_ascii_digit),
            count(|c| c.is_uppercase()),
            is(prompt.ends_with('?')),
            is(prompt.ends_with('.')),
            is(prompt.chars().next().is_some_and(char::is_uppercase)),
            count(|c| *c == ','),
            longest as f64,
            asked as f64,
        ]
    }

    fn of_money(&self, account: &Account, tx: &Tx) -> Vec<f64> {
        let (paid, amount, payer) = account.paid.unwrap_or((0, 0, Address::ZERO));
        let behind = self.account(payer);
        let second = behind.paid.map_or(&self.nobody, |(_, _, second)| self.account(second));
        let asking = behind.payees.iter().filter(|(_, payee)| self.askers.contains(payee)).count();
        let next =
            behind.payees.iter().find(|(at, _)| *at > paid).map_or(-1.0, |(at, _)| (*at - paid) as f64);
        let hops = self.ancestors(tx.from).iter().position(|ancestor| self.is_hub(*ancestor));
        let first = behind.paid.map_or(0, |(_, value, _)| value);
        let hub = self.is_hub(payer);
        // What an exchange pays, holds and is paid says nothing of the account.
        let person = |value: f64| if hub { -1.0 } else { value };
        vec![
            (tx.at - paid) as f64,
            account.first_session.map_or(-1.0, |first| (first - paid) as f64),
            (paid / 3_600 % 24) as f64,
            amount as f64 / LCAI,
            digits(amount),
            (amount / FEE) as f64,
            account.times_paid as f64,
            account.nonce as f64,
            account.transfers as f64,
            account.largest_part,
            account.deposits as f64,
            person(behind.payees.len() as f64),
            person(asking as f64),
            person(behind.nonce as f64),
            person(behind.paid.map_or(-1.0, |(at, ..)| paid as f64 - at as f64)),
            f64::from(u8::from(self.askers.contains(&payer))),
            person(amount as f64 / behind.received.max(1) as f64),
            person(first as f64 / LCAI),
            person(digits(first)),
            f64::from(u8::from(hub)),
            person(second.payees.len().min(HUB) as f64),
            hops.map_or(HOPS as f64, |hops| hops as f64),
            person(next),
        ]
    }
}

fn of_session(account: &Account, tx: &Tx) -> Vec<f64> {
    let hour = (tx.at % 86_400) as f64 / 3_600.0;
    let angle = hour / 24.0 * std::f64::consts::TAU;
    let first = if account.jobs_of_session == 0 { tx.at - account.opened } else { account.first_job };
    vec![
        tx.value as f64 / LCAI,
        account.jobs_of_session as f64,
        (tx.at - account.before) as f64,
        (tx.at - account.opened) as f64,
        first as f64,
        account.sessions as f64,
        account.jobs as f64,
        account.last_gap as f64,
        hour.floor(),
        angle.sin(),
        angle.cos(),
        (tx.at / 86_400 % 7) as f64,
    ]
}

/// Digits of an amount without the noughts at its end.
fn digits(wei: u128) -> f64 {
    wei.to_string().trim_end_matches('0').len() as f64
}

fn words(prompt: &str) -> Vec<f64> {
    let class = |word: &str, of: usize| {
        let hash = keccak256(word);
        (usize::from(hash[0]) * 256 + usize::from(hash[1])) % of
    };
    let lower = prompt.to_lowercase();
    let all: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let (mut first, mut counts) = (vec![0.0; FIRST_WORDS], vec![0.0; WORDS]);
    if let Some(word) = all.first() {
        first[class(word, FIRST_WORDS)] = 1.0;
    }
    for word in &all {
        counts[class(word, WORDS)] += 1.0;
    }
    first.extend(counts);
    first
}
