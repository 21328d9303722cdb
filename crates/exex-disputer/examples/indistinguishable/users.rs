//! The users of a network, for canaries to be told apart from. FROZEN.
//!
//! Written on 24 November 2026: after the first canary scheduler (38fce44), before the one that is measured against it.
//! What users ask is older than either: `measurement/prompts.txt` was drawn from `devnet/model/generate.py` of 22 November
//! 2026. Nothing that canaries are made by may read this file or those prompts; canaries know of users what the chain
//! shows of them, and the questions that some gave away (see `world.rs`). Whoever changes a number here starts the
//! measurement anew.
//!
//! None of the numbers was measured on a live network: there is none with enough users. They are guesses at the habits of
//! people with wallets, made before any canary was scored by them:
//!
//! | what | how |
//! |---|---|
//! | who funds an account | one of two exchanges 50 %, a bridge 15 %, another user 10 %, a main account of its owner, which itself came from an exchange or the bridge and pays 1 to 4 accounts, 25 % |
//! | how much | 70 % of those from an exchange, of friends and main accounts a round number of 5 to 200 LCAI; else log-normal, median 18 LCAI, with 2 to 8 decimals |
//! | until the first session | log-normal, median 3 h, spread 1.5, at least a minute |
//! | transfers before it | geometric, 45 % for each next one |
//! | money sent away again | 10 % of the accounts, after a session, most of what is left |
//! | sessions | 1, and one more with 62 % each; log-normal gaps, median 9 h, spread 1.1 |
//! | hours | three time zones (35 % UTC-5, 40 % UTC+1, 25 % UTC+8), few at night |
//! | questions of a session | 1, and one more with 60 % each, at most 30 |
//! | think time | log-normal, median 25 s times the user's own pace (spread 0.6), spread 0.8; less than 15 min |
//! | client | `lcai` 45 % (first question 2 to 4 s after the session), viem 35 % (3 to 8 s), wallets 20 % (typed: median 20 s) |
//! | prepaid | 10 % of those with viem |

use crate::chain::{FEE, GAS, LCAI, Random, Style, Tx, What, address};
use alloy_primitives::Address;

/// Weight of each hour of a person's day, from midnight on.
const DAY: [f64; 24] = [
    1.0, 0.5, 0.3, 0.2, 0.2, 0.4, 1.0, 2.0, 3.5, 4.5, 5.0, 5.0, 4.5, 4.5, 5.0, 5.0, 4.8, 4.5, 4.5, 5.0, 5.5,
    5.0, 4.0, 2.2,
];

/// Time zones, hours from UTC.
const ZONES: [(i64, f64); 3] = [(-5, 0.35), (1, 0.40), (8, 0.25)];

const ROUND: [(f64, f64); 8] =
    [(5.0, 1.0), (10.0, 3.0), (20.0, 2.0), (25.0, 1.0), (30.0, 0.5), (50.0, 2.0), (100.0, 1.5), (200.0, 0.5)];

/// What the users' client software does.
#[derive(Debug, Clone, Copy)]
enum Client {
    Lcai,
    Viem,
    Wallet,
}

const CLIENTS: [(Client, f64); 3] = [(Client::Lcai, 0.45), (Client::Viem, 0.35), (Client::Wallet, 0.20)];

/// Where money comes from that nobody looks behind.
pub fn hubs() -> [Address; 3] {
    ["exchange a", "exchange b", "bridge"].map(address)
}

fn style(client: Client, random: &mut Random) -> Style {
    let (gas_margin, fee_factor, tip, prepaid) = match client {
        Client::Lcai => (20, 200, 1_000_000_000, false),
        Client::Viem => (0, 120, 1_000_000_000, random.chance(0.1)),
        Client::Wallet => {
            let margin = random.weighted(&[(50, 0.6), (25, 0.4)]);
            (margin, 150, random.weighted(&[(1_500_000_000, 0.6), (2_000_000_000, 0.4)]), false)
        }
    };
    Style { gas_margin, fee_factor, tip, prepaid }
}

fn first_pause(client: Client, random: &mut Random) -> u64 {
    match client {
        Client::Lcai => 2 + random.below(3) as u64,
        Client::Viem => 3 + random.below(6) as u64,
        Client::Wallet => 4 + random.log_normal(20.0, 0.7) as u64,
    }
}

fn amount(from_people: bool, random: &mut Random) -> u128 {
    if from_people && random.chance(0.7) {
        return (random.weighted(&ROUND) * LCAI) as u128;
    }
    let decimals = 2 + random.below(7) as u32;
    let unit = 10u128.pow(18 - decimals);
    let wei = (random.log_normal(18.0, 0.9).max(1.5) * LCAI) as u128;
    wei / unit * unit
}

/// The next moment at which a person of this zone is awake and at it.
fn awake(from: u64, zone: i64, random: &mut Random) -> u64 {
    for hour in 0..72u64 {
        let at = from + hour * 3_600;
        let local = ((at as i64 / 3_600 + zone).rem_euclid(24)) as usize;
        if random.chance(DAY[local] / 5.5) {
            return if hour == 0 { at } else { at + random.below(3_600) as u64 };
        }
    }
    from
}

/// Everything that users do who first come between `from` and `until`, unix seconds; `each` seconds bring a new one.
pub fn users(seed: u64, from: u64, until: u64, each: f64, prompts: &[String]) -> Vec<Tx> {
    let mut random = Random::new(seed, "users");
    let (mut all, mut known) = (Vec::new(), Vec::new());
    let (mut at, mut number) = (from as f64, 0u64);
    loop {
        at += -each * (1.0 - random.unit()).ln();
        if at as u64 >= until {
            break;
        }
        let person = Person { seed, number, zone: random.weighted(&ZONES) };
        number += 1;
        let accounts = person.accounts(at as u64, &known, &mut random, &mut all);
        for (account, funded, amount) in accounts {
            person.uses(account, funded, amount, prompts, &mut random, &mut all);
            known.push(account);
        }
    }
    all.sort_by_key(|tx| tx.at);
    all
}

/// Somebody.
struct Person {
    seed: u64,
    number: u64,
    zone: i64,
}

impl Person {
    fn account(&self, n: usize) -> Address {
        address(&format!("user {} {} {n}", self.seed, self.number))
    }

    /// The accounts that ask, when each was funded, with how much.
    fn accounts(
        &self,
        at: u64,
        known: &[Address],
        random: &mut Random,
        all: &mut Vec<Tx>,
    ) -> Vec<(Address, u64, u128)> {
        let [one, two, bridge] = hubs();
        let hub = random.weighted(&[(one, 0.3), (two, 0.2), (bridge, 0.15)]);
        let outside = Style { gas_margin: 0, fee_factor: 200, tip: 2_000_000_000, prepaid: false };
        let pay = |from, to, at, value, style| Tx { at, from, value, what: What::Transfer { to }, style };
        let way = random.unit();
        if way < 0.75 {
            let friend = (0.65..0.75).contains(&way) && !known.is_empty();
            let from = if friend { *random.pick(known) } else { hub };
            let value = amount(friend || hub != bridge, random);
            let at = awake(at, self.zone, random);
            let account = self.account(0);
            all.push(pay(from, account, at, value, outside));
            return vec![(account, at, value)];
        }
        // A main account that pays the others.
        let (main, count) = (self.account(0), 1 + random.below(4));
        let value = amount(hub != bridge, random).max(40 * LCAI as u128) * 2;
        let begun = awake(at, self.zone, random);
        all.push(pay(hub, main, begun, value, outside));
        let style = style(random.weighted(&CLIENTS), random);
        let (mut accounts, mut at) = (Vec::new(), begun);
        for n in 1..=count {
            at = awake(at + 30 + random.log_normal(3_600.0, 1.6) as u64, self.zone, random);
            let value = amount(true, random).min(value / (count as u128 + 1));
            let account = self.account(n);
            all.push(pay(main, account, at, value, style));
            accounts.push((account, at, value));
        }
        accounts
    }

    /// Everything an account does once it has money.
    fn uses(
        &self,
        account: Address,
        funded: u64,
        money: u128,
        prompts: &[String],
        random: &mut Random,
        all: &mut Vec<Tx>,
    ) {
        let client = random.weighted(&CLIENTS);
        let style = style(client, random);
        let pace = random.log_normal(1.0, 0.6);
        let mut left = money;
        let begins = awake(funded + 60 + random.log_normal(10_800.0, 1.5) as u64, self.zone, random);
        for n in 0..random.row(0.45) {
            let at = funded + 30 + ((begins - funded - 30) as f64 * random.unit()) as u64;
            let to = address(&format!("shop {}", random.below(40)));
            let value = left / (20 + random.below(60) as u128) + u128::from(n);
            left -= value + GAS;
            all.push(Tx { at, from: account, value, what: What::Transfer { to }, style });
        }
        if style.prepaid {
            let value = (left / 2 / LCAI as u128).max(1) * LCAI as u128;
            all.push(Tx { at: begins - 30, from: account, value, what: What::Deposit, style });
        }
        let sessions = 1 + random.row(0.62);
        let mut at = begins;
        for number in 0..sessions {
            let session = u64::from_be_bytes(account.0.0[..8].try_into().unwrap_or_default()) ^ number;
            all.push(Tx { at, from: account, value: 0, what: What::Open { session }, style });
            let mut now = at + first_pause(client, random);
            for question in 0..(1 + random.row(0.6)).min(30) {
                if left < FEE + 4 * GAS {
                    return;
                }
                if question > 0 {
                    now += 4 + (random.log_normal(25.0 * pace, 0.8) as u64).min(900);
                }
                left -= FEE + GAS;
                let what = What::Ask { session, prompt: random.pick(prompts).clone() };
                let value = if style.prepaid { 0 } else { FEE };
                all.push(Tx { at: now, from: account, value, what, style });
            }
            if random.chance(0.1 / sessions as f64) {
                let (to, value) = (address(&format!("shop {}", random.below(40))), left / 10 * 8);
                left -= value;
                all.push(Tx { at: now + 300, from: account, value, what: What::Transfer { to }, style });
            }
            at = awake(now + 600 + random.log_normal(32_400.0, 1.1) as u64, self.zone, random);
        }
    }
}
