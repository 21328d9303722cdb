//! One trial: a network, what its workers see of a sample of the jobs, and how well they do.

use crate::{
    chain::{Random, Tx, What},
    learn::{Effort, Found, tell_apart},
    view::{jobs, names},
    world::{Setting, World},
};
use std::collections::BTreeSet;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Jobs of users and of canaries that were told apart.
    pub sample: (usize, usize),
    /// Accounts or wallets that they belong to.
    pub clusters: usize,
    /// Duties, and those not done.
    pub duties: (usize, usize),
    /// How well they were.
    pub found: Found,
}

/// Lets a network be, takes `each` jobs of users and as many canaries, and has them told apart.
pub fn trial(setting: Setting, prompts: &[String], each: usize, effort: Effort) -> Outcome {
    let world = World::new(setting, prompts);
    let mut random = Random::new(setting.seed, "sample");
    let mut take = |canary: bool| {
        let is = |tx: &Tx| tx.at >= world.from && matches!(tx.what, What::Ask { .. });
        let of_kind = |tx: &Tx| is(tx) && world.canaries.contains(&tx.from) == canary;
        let kind = world.txs.iter().enumerate().filter(|(_, tx)| of_kind(tx));
        let mut kind: Vec<usize> = kind.map(|(at, _)| at).collect();
        while kind.len() > each {
            kind.swap_remove(random.below(kind.len()));
        }
        kind
    };
    let (users, canaries) = (take(false), take(true));
    let sample = (users.len(), canaries.len());
    let jobs = jobs(&world, &users.into_iter().chain(canaries).collect());
    let clusters = jobs.iter().map(|job| job.cluster).collect::<BTreeSet<_>>().len();
    Outcome { sample, clusters, duties: world.duties, found: tell_apart(&jobs, &names(), effort) }
}

/// What users ask: `measurement/prompts.txt`.
pub fn prompts() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/measurement/prompts.txt");
    std::fs::read_to_string(path).expect("prompts.txt").lines().map(str::to_owned).collect()
}
