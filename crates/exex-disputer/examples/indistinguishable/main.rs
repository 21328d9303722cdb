//! Whether a worker can tell canaries from users.
//!
//! `cargo run --release -p lcai-exex-disputer --example indistinguishable` lets eighteen weeks of a network happen, with users
//! by a frozen generator (`users.rs`) and canaries, as nodes sent them once and as they follow `canary::Plan`, shows a
//! classifier all that workers see of 2,000 jobs, and writes `measurement/indistinguishable.md`.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod chain;
mod learn;
mod trial;
mod users;
mod view;
mod world;

use learn::Effort;
use std::fmt::Write;
use trial::{Outcome, prompts, trial};
use world::{CAREFUL, Canaries, Leak, NAIVE, Setting, TODAY};

const EFFORT: Effort = Effort { folds: 5, trees: 150, resamples: 1_000 };

const EACH: usize = 1_000;

/// Canaries were sent for so many epochs before they are told apart.
const TEN_WEEKS: u64 = 10;

fn main() {
    let ways: [(&str, Canaries); 9] = [
        ("as nodes sent them before they followed a plan", TODAY),
        ("planned", CAREFUL),
        ("planned, built-in questions", Canaries { book: false, ..CAREFUL }),
        ("planned, paid by the treasury", Canaries { outside: false, ..CAREFUL }),
        ("naive", NAIVE),
        ("planned, prompts longer by three words", Canaries { leak: Some(Leak::LongPrompts), ..CAREFUL }),
        ("planned, fee overpaid by 1 %", Canaries { leak: Some(Leak::Fee), ..CAREFUL }),
        ("planned, tip higher by 1 wei", Canaries { leak: Some(Leak::Tip), ..CAREFUL }),
        ("planned, no think times", Canaries { leak: Some(Leak::Haste), ..CAREFUL }),
    ];
    let prompts = prompts();
    let mut out = "Written by `examples/indistinguishable`: area under the curve of a classifier on all that workers see, cross-validated \
         by accounts (those that one wallet pays are one), with the 95 % interval of 1,000 resamples of accounts. 0.5 is chance, \
         1 is certainty. Users came for four weeks and canaries for ten before the four weeks in which they are told apart.\n\n| canaries | jobs of users, canaries | wallets | boosted trees | logistic regression | what the trees \
         use most |\n|---|---|---|---|---|---|\n"
        .to_owned();
    println!("{out}");
    let mut told = |name: &str, seed: u64, warming: u64, canaries: Canaries| {
        let setting =
            Setting { seed, epochs_before: 4, warming, epochs: 4, each: 1_250.0, workers: 40, canaries };
        let line = line(name, &trial(setting, &prompts, EACH, EFFORT));
        println!("{line}");
        writeln!(out, "{line}").unwrap();
    };
    for (name, canaries) in ways {
        told(name, 1, TEN_WEEKS, canaries);
    }
    for seed in 2..=5 {
        told(&format!("planned, network {seed}"), seed, TEN_WEEKS, CAREFUL);
    }
    for seed in 1..=5 {
        told(&format!("planned, two weeks after the first ones, network {seed}"), seed, 2, CAREFUL);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/measurement/indistinguishable.md");
    std::fs::write(path, out).expect("indistinguishable.md can be written");
}

fn line(name: &str, outcome: &Outcome) -> String {
    let Outcome { sample, clusters, found, .. } = outcome;
    let auc = |(auc, low, high): (f64, f64, f64)| format!("{auc:.3} ({low:.3} to {high:.3})");
    let used: Vec<String> =
        found.features.iter().take(4).map(|(name, part)| format!("{name} {:.0} %", 100.0 * part)).collect();
    let (trees, logistic) = (auc(found.trees), auc(found.logistic));
    aside(name, outcome);
    format!(
        "| {name} | {}, {} | {clusters} | {trees} | {logistic} | {} |",
        sample.0,
        sample.1,
        used.join(", ")
    )
}

/// Beside the summary: how many duties there were, and what else was looked at.
#[allow(clippy::print_stderr)]
fn aside(name: &str, outcome: &Outcome) {
    let Outcome { duties: (all, missed), found, .. } = outcome;
    eprintln!("{name}: {all} duties, {missed} missed; features by gain: {:?}", found.features);
}
