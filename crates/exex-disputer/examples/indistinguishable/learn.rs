//! Telling two kinds apart: boosted trees and a logistic regression, how well they do on what they did not learn from, and
//! how sure that is.

use crate::{chain::Random, view::Job};
use alloy_primitives::Address;
use std::collections::{BTreeMap, BTreeSet};

/// Values of a feature are told apart by so many steps.
const BINS: usize = 24;

/// Depth of a tree: so many features work together.
const DEPTH: usize = 3;

/// Weight of each tree.
const RATE: f64 = 0.1;

/// Parts into which what is learnt from is cut once more.
const PARTS: usize = 5;

/// Least jobs of a leaf.
const LEAF: usize = 8;

/// How hard is learnt.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Parts of the cross-validation.
    pub folds: usize,
    /// Trees of each.
    pub trees: usize,
    /// Resamples behind the interval.
    pub resamples: usize,
}

/// How well canaries were told from users.
#[derive(Debug, Clone)]
pub struct Found {
    /// Area under the curve of the boosted trees, with its 95 % interval.
    pub trees: (f64, f64, f64),
    /// That of the logistic regression.
    pub logistic: (f64, f64, f64),
    /// The features that the trees used most, with their part of the gain.
    pub features: Vec<(String, f64)>,
}

/// Cross-validates by clusters: what was learnt of an account, or of one that the same wallet pays, is not asked of it.
pub fn tell_apart(jobs: &[Job], names: &[String], effort: Effort) -> Found {
    let clusters: Vec<Address> =
        jobs.iter().map(|job| job.cluster).collect::<BTreeSet<_>>().into_iter().collect();
    let mut order = clusters.clone();
    shuffle(&mut order, &mut Random::new(7, "folds"));
    let fold: BTreeMap<Address, usize> =
        order.iter().enumerate().map(|(n, cluster)| (*cluster, n % effort.folds)).collect();
    let (mut trees, mut logistic) = (vec![0.0; jobs.len()], vec![0.0; jobs.len()]);
    let mut gains = vec![0.0; names.len() + 1];
    for part in 0..effort.folds {
        let held: Vec<bool> = jobs.iter().map(|job| fold[&job.cluster] == part).collect();
        let rows = with_ancestors(jobs, &held);
        let learnt: Vec<usize> = (0..jobs.len()).filter(|n| !held[*n]).collect();
        let labels: Vec<f64> = jobs.iter().map(|job| f64::from(u8::from(job.canary))).collect();
        let boosted = Boosted::learn(&rows, &labels, &learnt, effort.trees, &mut gains);
        let linear = Logistic::learn(&rows, &labels, &learnt);
        let asked: Vec<usize> = (0..jobs.len()).filter(|n| held[*n]).collect();
        ranked(&asked, |n| boosted.score(&rows[n]), &mut trees);
        ranked(&asked, |n| linear.score(&rows[n]), &mut logistic);
    }
    let all: f64 = gains.iter().sum::<f64>().max(1e-9);
    let named = names.iter().cloned().chain(["canaries among who shares a payer".to_owned()]);
    let mut features: Vec<(String, f64)> = named.zip(gains.iter().map(|gain| gain / all)).collect();
    features.sort_by(|a, b| b.1.total_cmp(&a.1));
    features.truncate(12);
    let interval = |scores: &[f64]| with_interval(jobs, scores, &clusters, effort.resamples);
    Found { trees: interval(&trees), logistic: interval(&logistic), features }
}

/// Scores by their rank within a part: what one part learnt is on no scale of another's.
fn ranked(asked: &[usize], score: impl Fn(usize) -> f64, into: &mut [f64]) {
    let scores: Vec<f64> = asked.iter().map(|n| score(*n)).collect();
    for (n, own) in asked.iter().zip(&scores) {
        let below = scores.iter().filter(|score| *score < own).count();
        let same = scores.iter().filter(|score| *score == own).count();
        into[*n] = (below as f64 + same as f64 / 2.0) / scores.len() as f64;
    }
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for n in (1..items.len()).rev() {
        items.swap(n, random.below(n + 1));
    }
}

/// The features, and beside them: of those that share a payer at whatever distance, and whose kind was revealed, the part
/// that were canaries, in tenths. For what is learnt from, it is counted among other parts of it, as it will be for what is
/// held back.
fn with_ancestors(jobs: &[Job], held: &[bool]) -> Vec<Vec<f64>> {
    let part = |job: &Job| usize::from(job.cluster.0[0]) % PARTS;
    let mut known: BTreeMap<Address, BTreeMap<Address, (usize, bool)>> = BTreeMap::new();
    for (job, _) in jobs.iter().zip(held).filter(|(_, held)| !**held) {
        for ancestor in &job.ancestors {
            known.entry(*ancestor).or_default().insert(job.cluster, (part(job), job.canary));
        }
    }
    let share = |ancestor: &Address, without: Option<usize>| {
        let others = known.get(ancestor)?.values().filter(|(part, _)| Some(*part) != without);
        let count =
            |(c, n): (f64, f64), (_, canary): &(usize, bool)| (c + f64::from(u8::from(*canary)), n + 1.0);
        let (canaries, all) = others.fold((0.0, 0.0), count);
        (all >= 3.0).then_some((canaries + 0.5) / (all + 1.0))
    };
    let row = |(job, held): (&Job, &bool)| {
        let without = (!held).then(|| part(job));
        let shares = job.ancestors.iter().filter_map(|ancestor| share(ancestor, without));
        let farthest = shares.reduce(|a, b| if (b - 0.5).abs() > (a - 0.5).abs() { b } else { a });
        let mut row = job.features.clone();
        row.push((farthest.unwrap_or(0.5) * 10.0).round() / 10.0);
        row
    };
    jobs.iter().zip(held).map(row).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Gradient-boosted trees.
struct Boosted {
    cuts: Vec<Vec<f64>>,
    trees: Vec<Node>,
}

enum Node {
    Leaf(f64),
    Split { feature: usize, cut: usize, below: Box<Self>, above: Box<Self> },
}

impl Boosted {
    fn learn(rows: &[Vec<f64>], labels: &[f64], learnt: &[usize], count: usize, gains: &mut [f64]) -> Self {
        let cuts: Vec<Vec<f64>> = (0..rows[0].len()).map(|f| cuts(rows, learnt, f)).collect();
        let binned: Vec<Vec<u8>> = rows.iter().map(|row| bins(row, &cuts)).collect();
        let mut scores = vec![0.0; rows.len()];
        let mut trees = Vec::new();
        for _ in 0..count {
            let slopes: Vec<(f64, f64)> = (0..rows.len())
                .map(|n| {
                    let p = sigmoid(scores[n]);
                    (labels[n] - p, p * (1.0 - p))
                })
                .collect();
            let tree = grow(&binned, &slopes, learnt, DEPTH, gains);
            for n in learnt {
                scores[*n] += RATE * value(&tree, &binned[*n]);
            }
            trees.push(tree);
        }
        Self { cuts, trees }
    }

    fn score(&self, row: &[f64]) -> f64 {
        let binned = bins(row, &self.cuts);
        self.trees.iter().map(|tree| value(tree, &binned)).sum()
    }
}

/// Where a feature's values are cut: at their quantiles.
fn cuts(rows: &[Vec<f64>], learnt: &[usize], feature: usize) -> Vec<f64> {
    let mut values: Vec<f64> = learnt.iter().map(|n| rows[*n][feature]).collect();
    values.sort_by(f64::total_cmp);
    let mut cuts: Vec<f64> = (1..BINS).map(|n| values[(values.len() - 1) * n / BINS]).collect();
    cuts.dedup();
    cuts
}

fn bins(row: &[f64], cuts: &[Vec<f64>]) -> Vec<u8> {
    row.iter().zip(cuts).map(|(value, cuts)| cuts.iter().filter(|cut| *value > **cut).count() as u8).collect()
}

fn value(node: &Node, row: &[u8]) -> f64 {
    match node {
        Node::Leaf(value) => *value,
        Node::Split { feature, cut, below, above } => {
            value(if usize::from(row[*feature]) <= *cut { below } else { above }, row)
        }
    }
}

fn grow(rows: &[Vec<u8>], slopes: &[(f64, f64)], of: &[usize], depth: usize, gains: &mut [f64]) -> Node {
    let whole = of.iter().fold((0.0, 0.0), |(g, h), n| (g + slopes[*n].0, h + slopes[*n].1));
    let leaf = Node::Leaf(whole.0 / (whole.1 + 1.0));
    if depth == 0 || of.len() < 2 * LEAF {
        return leaf;
    }
    let worth = |(g, h): (f64, f64)| g * g / (h + 1.0);
    let mut best = (1e-6, 0, 0);
    for feature in 0..rows[0].len() {
        let mut sums = [(0.0, 0.0, 0usize); BINS + 1];
        for n in of {
            let sum = &mut sums[usize::from(rows[*n][feature])];
            *sum = (sum.0 + slopes[*n].0, sum.1 + slopes[*n].1, sum.2 + 1);
        }
        let mut below = (0.0, 0.0, 0usize);
        for (cut, sum) in sums.iter().enumerate() {
            below = (below.0 + sum.0, below.1 + sum.1, below.2 + sum.2);
            if below.2 < LEAF || of.len() - below.2 < LEAF {
                continue;
            }
            let rest = (whole.0 - below.0, whole.1 - below.1);
            let gain = worth((below.0, below.1)) + worth(rest) - worth(whole);
            if gain > best.0 {
                best = (gain, feature, cut);
            }
        }
    }
    let (gain, feature, cut) = best;
    if gain <= 1e-6 {
        return leaf;
    }
    gains[feature] += gain;
    let (below, above): (Vec<usize>, Vec<usize>) =
        of.iter().partition(|n| usize::from(rows[**n][feature]) <= cut);
    let below = Box::new(grow(rows, slopes, &below, depth - 1, gains));
    Node::Split { feature, cut, below, above: Box::new(grow(rows, slopes, &above, depth - 1, gains)) }
}

/// Logistic regression on standardised features, by gradient descent.
struct Logistic {
    scale: Vec<(f64, f64)>,
    weights: Vec<f64>,
}

impl Logistic {
    fn learn(rows: &[Vec<f64>], labels: &[f64], learnt: &[usize]) -> Self {
        let n = learnt.len() as f64;
        let scale: Vec<(f64, f64)> = (0..rows[0].len())
            .map(|f| {
                let mean = learnt.iter().map(|r| squeezed(rows[*r][f])).sum::<f64>() / n;
                let spread = learnt.iter().map(|r| (squeezed(rows[*r][f]) - mean).powi(2)).sum::<f64>() / n;
                (mean, spread.sqrt().max(1e-9))
            })
            .collect();
        let mut model = Self { weights: vec![0.0; scale.len() + 1], scale };
        let scaled: Vec<(Vec<f64>, f64)> =
            learnt.iter().map(|r| (model.scaled(&rows[*r]), labels[*r])).collect();
        for _ in 0..150 {
            let mut slope = vec![0.0; model.weights.len()];
            for (row, label) in &scaled {
                let error = label - sigmoid(dot(&model.weights, row));
                slope.iter_mut().zip(row).for_each(|(slope, value)| *slope += error * value);
            }
            for (weight, slope) in model.weights.iter_mut().zip(slope) {
                *weight += 0.3 * (slope / n - 0.01 * *weight);
            }
        }
        model
    }

    fn scaled(&self, row: &[f64]) -> Vec<f64> {
        let scaled = row.iter().zip(&self.scale).map(|(v, (mean, spread))| (squeezed(*v) - mean) / spread);
        scaled.map(|value| value.clamp(-5.0, 5.0)).chain([1.0]).collect()
    }

    fn score(&self, row: &[f64]) -> f64 {
        dot(&self.weights, &self.scaled(row))
    }
}

/// Times and amounts by their logarithm.
fn squeezed(value: f64) -> f64 {
    if value > 1.0 { 1.0 + value.ln() } else { value }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Probability that a canary scores higher than a user.
pub fn auc(scored: &mut [(f64, bool, f64)]) -> f64 {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut pairs, mut canaries) = (0.0, 0.0, 0.0);
    let mut at = 0;
    while at < scored.len() {
        let same = scored[at..].iter().take_while(|row| row.0 == scored[at].0).count();
        let weight = |canary: bool| {
            scored[at..at + same].iter().filter(|row| row.1 == canary).map(|row| row.2).sum::<f64>()
        };
        let (ours, theirs) = (weight(true), weight(false));
        pairs += ours * (below + theirs / 2.0);
        below += theirs;
        canaries += ours;
        at += same;
    }
    pairs / (below * canaries).max(1e-9)
}

/// With an interval of 95 %: clusters are drawn again and again, with all their jobs.
fn with_interval(jobs: &[Job], scores: &[f64], clusters: &[Address], resamples: usize) -> (f64, f64, f64) {
    let weighted = |weights: &BTreeMap<Address, f64>| {
        let mut scored: Vec<(f64, bool, f64)> = jobs
            .iter()
            .zip(scores)
            .filter_map(|(job, score)| Some((*score, job.canary, *weights.get(&job.cluster)?)))
            .collect();
        auc(&mut scored)
    };
    let found = weighted(&clusters.iter().map(|cluster| (*cluster, 1.0)).collect());
    let mut random = Random::new(11, "resamples");
    let mut others: Vec<f64> = (0..resamples)
        .map(|_| {
            let mut weights: BTreeMap<Address, f64> = BTreeMap::new();
            for _ in clusters {
                *weights.entry(*random.pick(clusters)).or_default() += 1.0;
            }
            weighted(&weights)
        })
        .collect();
    others.sort_by(f64::total_cmp);
    let at = |part: f64| others.get((others.len() as f64 * part) as usize).copied().unwrap_or(found);
    (found, at(0.025), at(0.975))
}
