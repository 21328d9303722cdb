//! What the verdicts are worth: answers of an honest worker and of every kind of cheat, compared by every rung with the
//! model's own.
//!
//! `cargo run --release -p lcai-exex-disputer --example measure -- [--prompts N] [--minilm DIR]` writes
//! `measurement/answers.jsonl`, `measurement/scores.csv` and `measurement/summary.md`. `measurement/prompts.txt` was drawn
//! once: the held-out list of devnet/model, then other prompts of its generator. With `--from-scores` the summary alone is
//! written again, from `measurement/scores.csv`.
//!
//! Each set of answers comes from a process of its own: the number of threads cannot be changed within one.
#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use async_trait::async_trait;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use lcai_exex_disputer::{ByteEquality, Pair, Rung, Score, Similarity, TokenPrefix};
use lcai_inference::{
    Backend, EmbeddedBackend, EmbeddedModel, Embedder, EmbedderDescription, GenerateOptions, GenerateRequest,
    InferenceError, MiniLm, isa_class,
};
use lcai_primitives::prompt::ChatInput;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// AIConfig's defaults, basis points: disputes of users, and canaries.
const THRESHOLDS: [(&str, u16); 2] = [("dispute", 8_500), ("canary", 9_000)];

/// What the worker does instead of running the model as asked. The first three are honest.
const WORKERS: [&str; 8] = [
    "honest, again",
    "honest, 2 threads",
    "other quantisation (Q4_0)",
    "worse model",
    "other model (answers of the nearest question)",
    "truncated prompt",
    "canned answer",
    "half an answer",
];

/// Places in [`WORKERS`].
const HONEST: usize = 0;
const WORSE: usize = 3;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, model, prompts, out] = arguments.as_slice()
        && command == "answer"
    {
        return answer(Path::new(model), Path::new(prompts), Path::new(out)).await;
    }
    let value = |flag: &str| {
        let at = arguments.iter().position(|a| a == flag)?;
        arguments.get(at + 1).cloned()
    };
    if arguments.iter().any(|argument| argument == "--from-scores") {
        return write_summary(&read_scores());
    }
    let limit = value("--prompts").map_or(usize::MAX, |n| n.parse().expect("--prompts N"));
    run(limit, value("--minilm").map(PathBuf::from)).await;
}

/// The child: answers every prompt of a file, one JSON string a line.
async fn answer(model: &Path, prompts: &Path, out: &Path) {
    let model = EmbeddedModel { name: "m".to_owned(), path: model.to_owned(), digest: None };
    let backend = EmbeddedBackend::load(&[model], 1).expect("the model loads");
    let mut answers = String::new();
    for prompt in fs::read_to_string(prompts).expect("prompts").lines() {
        let request = GenerateRequest {
            model: "m".to_owned(),
            input: ChatInput::Generate(prompt.to_owned()),
            max_tokens: 64,
            options: GenerateOptions::default(),
        };
        let (deltas, _) = mpsc::channel(1);
        let text = match backend.generate(request, deltas).await {
            Ok(generation) => generation.text.to_string(),
            Err(InferenceError::Empty) => String::new(),
            Err(error) => panic!("{error}"),
        };
        writeln!(answers, "{}", serde_json::to_string(&text).unwrap()).unwrap();
    }
    fs::write(out, answers).expect("answers can be written");
}

fn answers_of(model: &Path, prompts: &[String], threads: usize) -> Vec<String> {
    let work = tempfile::tempdir().unwrap();
    let (list, out) = (work.path().join("prompts"), work.path().join("answers"));
    fs::write(&list, prompts.join("\n")).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .arg("answer")
        .args([model, &list, &out])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .status()
        .unwrap();
    assert!(status.success());
    let answers = fs::read_to_string(out).unwrap();
    let answers: Vec<String> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), prompts.len());
    answers
}

/// The same weights with less of each: every matrix as Q4_0, what is no matrix as it is.
fn requantised(model: &Path, out: &Path) {
    let mut file = fs::File::open(model).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let device = candle_core::Device::Cpu;
    let mut tensors = Vec::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut file, name, &device).unwrap();
        let rows = tensor.shape().dims().last().copied().unwrap_or(0);
        let coarse = tensor.shape().rank() == 2 && rows.is_multiple_of(32) && name.starts_with("blk.");
        let tensor = if coarse {
            QTensor::quantize(&tensor.dequantize(&device).unwrap(), GgmlDType::Q4_0).unwrap()
        } else {
            tensor
        };
        tensors.push((name.as_str(), tensor));
    }
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let metadata: Vec<(&str, &gguf_file::Value)> =
        content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    gguf_file::write(&mut fs::File::create(out).unwrap(), &metadata, &tensors).unwrap();
}

/// The answer to the other question that shares most words with this one: fluent, to the point, and about something else.
fn of_the_nearest(prompts: &[String], answers: &[String]) -> Vec<String> {
    let words: Vec<Vec<String>> = prompts
        .iter()
        .map(|p| p.to_lowercase().split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect())
        .collect();
    (0..prompts.len())
        .map(|i| {
            let common = |j: usize| words[j].iter().filter(|word| words[i].contains(word)).count();
            let nearest = (0..prompts.len()).filter(|j| *j != i).max_by_key(|j| (common(*j), usize::MAX - j));
            answers[nearest.expect("there are several")].clone()
        })
        .collect()
}

async fn run(limit: usize, minilm: Option<PathBuf>) {
    let prompts = fs::read_to_string(folder("measurement/prompts.txt")).expect("prompts.txt");
    let prompts: Vec<String> = prompts.lines().take(limit).map(str::to_owned).collect();
    let good = folder("../../devnet/model/lcai-tiny.gguf");
    let work = tempfile::tempdir().unwrap();
    let coarse = work.path().join("q4_0.gguf");
    requantised(&good, &coarse);
    let first_words = |p: &String| {
        let words: Vec<&str> = p.split(' ').collect();
        words[..words.len().div_ceil(2)].join(" ")
    };
    let own = answers_of(&good, &prompts, 1);
    let half = |a: &String| a.chars().take(a.chars().count() / 2).collect::<String>();
    let said = [
        answers_of(&good, &prompts, 1),
        answers_of(&good, &prompts, 2),
        answers_of(&coarse, &prompts, 1),
        answers_of(&folder("../../devnet/model/lcai-tiny-worse.gguf"), &prompts, 1),
        of_the_nearest(&prompts, &own),
        answers_of(&good, &prompts.iter().map(first_words).collect::<Vec<_>>(), 1),
        vec!["I am sorry, I cannot help with that.".to_owned(); prompts.len()],
        own.iter().map(half).collect(),
    ];
    let table = scores(&good, minilm.as_deref(), &own, &said).await;
    write_answers(&prompts, &own, &said);
    write_scores(&table);
    write_summary(&table);
}

fn write_summary(table: &Table) {
    let summary = summary(table);
    fs::write(folder("measurement/summary.md"), &summary).expect("summary.md");
    println!("{summary}");
}

/// What a run wrote.
fn read_scores() -> Table {
    let text = fs::read_to_string(folder("measurement/scores.csv")).expect("scores.csv");
    let mut table: Table = WORKERS.iter().map(|_| Vec::new()).collect();
    for line in text.lines().skip(1) {
        let (worker, scores) = line.trim_start_matches('"').split_once("\",").expect("a worker");
        let place = WORKERS.iter().position(|known| *known == worker).expect("a known worker");
        let scores = scores.split(',').skip(1).filter(|score| !score.is_empty());
        let scores = scores.map(|score| Score::from_bps(score.parse().expect("basis points")));
        table[place].push(scores.collect());
    }
    table
}

/// Every worker, and those that run the worse model in a part of their jobs, whom nobody can tell which: the answers of both
/// mixed.
fn workers(table: &Table) -> Vec<(String, Vec<Vec<Score>>)> {
    let mut workers: Vec<(String, Vec<Vec<Score>>)> =
        WORKERS.iter().zip(table).map(|(name, rows)| ((*name).to_owned(), rows.clone())).collect();
    for share in [50, 10] {
        // Spread over the prompts, and the same every time.
        let cheats = |prompt: usize| ((prompt as u64).wrapping_mul(2_654_435_761) >> 8) % 100 < share;
        let rows = table[WORSE].iter().zip(&table[HONEST]).enumerate();
        let rows = rows.map(|(prompt, (worse, honest))| if cheats(prompt) { worse } else { honest });
        workers.push((
            format!("half-honest: the worse model in {share} % of its jobs"),
            rows.cloned().collect(),
        ));
    }
    workers
}

/// An embedder that reads each text once: the model's own answer is compared with every worker's.
struct Once(MiniLm, Mutex<BTreeMap<String, Vec<f32>>>);

#[async_trait]
impl Embedder for Once {
    async fn description(&self) -> Result<EmbedderDescription, InferenceError> {
        self.0.description().await
    }

    async fn embed(&self, texts: Vec<Zeroizing<String>>) -> Result<Vec<Vec<f32>>, InferenceError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let known = self.1.lock().get(text.as_str()).cloned();
            let vector = match known {
                Some(vector) => vector,
                None => self.0.embed(vec![text.clone()]).await?.remove(0),
            };
            self.1.lock().insert(text.to_string(), vector.clone());
            vectors.push(vector);
        }
        Ok(vectors)
    }
}

/// For each worker and prompt the score of each rung.
type Table = Vec<Vec<Vec<Score>>>;

async fn scores(model: &Path, minilm: Option<&Path>, own: &[String], said: &[Vec<String>]) -> Table {
    let model = EmbeddedModel { name: "m".to_owned(), path: model.to_owned(), digest: None };
    let backend = Arc::new(EmbeddedBackend::load(&[model], 1).expect("the model loads"));
    let mut rungs: Vec<Box<dyn Rung>> = vec![Box::new(ByteEquality), Box::new(TokenPrefix::new(backend))];
    if let Some(directory) = minilm {
        let embedder = MiniLm::load(directory).expect("the embedder loads");
        rungs.push(Box::new(Similarity::new(Arc::new(Once(embedder, Mutex::default())))));
    }
    // Many pairs are the same texts again.
    let mut known: BTreeMap<(&str, &str), Vec<Score>> = BTreeMap::new();
    let mut table = Vec::new();
    for answers in said {
        let mut rows = Vec::new();
        for (claimed, repeated) in answers.iter().zip(own) {
            let key = (claimed.as_str(), repeated.as_str());
            let row = match known.get(&key) {
                Some(row) => row.clone(),
                None => {
                    let mut row = Vec::new();
                    for rung in &rungs {
                        let pair = Pair { model: "m", claimed, repeated };
                        row.push(rung.compare(pair).await.expect("a finding").score());
                    }
                    known.insert(key, row.clone());
                    row
                }
            };
            rows.push(row);
        }
        table.push(rows);
    }
    table
}

fn write_answers(prompts: &[String], own: &[String], said: &[Vec<String>]) {
    let mut out = String::new();
    for (i, prompt) in prompts.iter().enumerate() {
        // Only what differs from the model's own answer is written out.
        let other: BTreeMap<&str, &str> = WORKERS
            .iter()
            .zip(said)
            .filter(|(_, answers)| answers[i] != own[i])
            .map(|(worker, answers)| (*worker, answers[i].as_str()))
            .collect();
        let line = serde_json::json!({ "prompt": prompt, "own": own[i], "other": other });
        writeln!(out, "{line}").unwrap();
    }
    fs::write(folder("measurement/answers.jsonl"), out).expect("answers.jsonl");
}

fn write_scores(table: &Table) {
    let mut out = "worker,prompt,bytes,prefix,similarity\n".to_owned();
    for (worker, rows) in WORKERS.iter().zip(table) {
        for (prompt, row) in rows.iter().enumerate() {
            let bps: Vec<String> = row.iter().map(|score| score.bps().to_string()).collect();
            writeln!(out, "{worker:?},{prompt},{}", bps.join(",")).unwrap();
        }
    }
    fs::write(folder("measurement/scores.csv"), out).expect("scores.csv");
}

/// The best score of the first so many rungs.
fn best(row: &[Score], rungs: usize) -> Score {
    row.iter().take(rungs).max().copied().unwrap_or_default()
}

fn summary(table: &Table) -> String {
    let rungs = table[HONEST][0].len();
    let (pairs, workers) = (table[HONEST].len(), workers(table));
    let mut out = format!(
        "Written by `examples/measure.rs`; {pairs} prompts, {}, greedy, 64 tokens. Intervals: 95 %, Clopper-Pearson.\n\n\
         Scores: share of equal answers, then the 5th, 50th and 95th percentile of each rung, basis points.\n\n\
         | worker | equal | token prefix | similarity |\n|---|---|---|---|\n",
        isa_class()
    );
    for (worker, rows) in &workers {
        let equal = rows.iter().filter(|row| row[0] == Score::FULL).count();
        let spread = |rung: usize| {
            let mut scores: Vec<u16> = rows.iter().filter_map(|row| row.get(rung)).map(|s| s.bps()).collect();
            scores.sort_unstable();
            let at = |p: usize| scores[(scores.len() - 1) * p / 100];
            if scores.is_empty() { "-".to_owned() } else { format!("{} / {} / {}", at(5), at(50), at(95)) }
        };
        writeln!(out, "| {worker} | {:.1} % | {} | {} |", percent(equal, pairs), spread(1), spread(2))
            .unwrap();
    }
    for with in 2..=rungs {
        let name = if with == 2 { "without the embedder" } else { "with the embedder" };
        write!(out, "\nConvicted {name}:\n\n| worker |").unwrap();
        for (name, threshold) in THRESHOLDS {
            write!(out, " {name} ({threshold}) | interval |").unwrap();
        }
        out.push_str("\n|---|---|---|---|---|\n");
        for (worker, rows) in &workers {
            write!(out, "| {worker} |").unwrap();
            for (_, threshold) in THRESHOLDS {
                let guilty = convicted(rows, with, threshold);
                let (low, high) = clopper_pearson(guilty, pairs);
                write!(
                    out,
                    " {:.2} % | {:.2} to {:.2} % |",
                    percent(guilty, pairs),
                    100.0 * low,
                    100.0 * high
                )
                .unwrap();
            }
            out.push('\n');
        }
    }
    out.push_str(&jobs_until_caught(&workers, rungs));
    out
}

/// Canaries until a worker is first convicted.
fn jobs_until_caught(workers: &[(String, Vec<Vec<Score>>)], rungs: usize) -> String {
    let mut out = "\nCanaries until a worker is first convicted (threshold 9000): half of such workers, and 95 % of them. A dash: \
                   none of the pairs was convicted.\n\n| worker | rungs | half | 95 % | 95 % at the rate's lower bound |\n\
                   |---|---|---|---|---|\n"
        .to_owned();
    for (worker, rows) in workers {
        for with in 2..=rungs {
            let guilty = convicted(rows, with, 9_000);
            let rate = guilty as f64 / rows.len() as f64;
            let (low, _) = clopper_pearson(guilty, rows.len());
            let jobs = |quantile: f64, rate: f64| match rate {
                0.0 => "-".to_owned(),
                1.0 => "1".to_owned(),
                rate => format!("{:.0}", ((1.0 - quantile).ln() / (1.0 - rate).ln()).ceil()),
            };
            let (half, most, least) = (jobs(0.5, rate), jobs(0.95, rate), jobs(0.95, low));
            writeln!(out, "| {worker} | {with} | {half} | {most} | {least} |").unwrap();
        }
    }
    out
}

fn convicted(rows: &[Vec<Score>], rungs: usize, threshold: u16) -> usize {
    rows.iter().filter(|row| best(row, rungs) < Score::from_bps(threshold)).count()
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}

/// The exact 95 % interval of a rate, by bisection of the binomial distribution.
fn clopper_pearson(hits: usize, of: usize) -> (f64, f64) {
    let solve = |falls: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if falls(middle) { high = middle } else { low = middle }
        }
        (low + high) / 2.0
    };
    let low = if hits == 0 { 0.0 } else { solve(&|p| 1.0 - at_most(hits - 1, of, p) > 0.025) };
    let high = if hits == of { 1.0 } else { solve(&|p| at_most(hits, of, p) < 0.025) };
    (low, high)
}

/// P(X <= k) for X of the binomial distribution (n, p).
fn at_most(k: usize, n: usize, p: f64) -> f64 {
    let (mut sum, mut log_choose) = (0.0, 0.0);
    for i in 0..=k {
        if i > 0 {
            log_choose += ((n - i + 1) as f64).ln() - (i as f64).ln();
        }
        sum += (log_choose + i as f64 * p.ln() + (n - i) as f64 * (1.0 - p).ln()).exp();
    }
    sum.min(1.0)
}
