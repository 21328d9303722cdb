//! For tests of decoders that take bytes from outside: seeds (`fuzz/seeds/TARGET/` of the crate), mutated.
//!
//! Runs on stable Rust. A target makes the same mutations each time, so that a change is judged by what it
//! changed; with `LCAI_FUZZ_SECONDS` it searches, from another start each time and for so long. What makes a new kind of
//! answer is mutated further. An input that breaks a target is written to its seeds, where it stays as a test.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Inputs kept for further mutation.
const POOL: usize = 4_096;
/// Largest input.
const MAX_LEN: usize = 1 << 18;

/// Mutations of a target where nothing else is asked for.
const RUNS: u64 = 20_000;

/// How long a target is tried.
enum Effort {
    Runs(u64),
    Until(Instant),
}

impl Effort {
    fn asked_for() -> Self {
        let seconds = std::env::var("LCAI_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        seconds.map_or(Self::Runs(RUNS), |s| Self::Until(Instant::now() + Duration::from_secs(s)))
    }

    fn goes_on(&self, runs: u64) -> bool {
        match self {
            Self::Runs(most) => runs < *most,
            Self::Until(end) => Instant::now() < *end,
        }
    }

    /// Where the random numbers start.
    fn start(&self) -> u64 {
        match self {
            Self::Runs(_) => 7,
            Self::Until(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        }
    }
}

/// Runs a target of the crate at `manifest_dir`. It gives the kind of its answer, and panics where something is wrong.
pub fn fuzz(manifest_dir: &str, target: &str, check: impl Fn(&[u8]) -> String) {
    let dir = Path::new(manifest_dir).join("fuzz/seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut pool: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!pool.is_empty(), "{} holds no seeds", dir.display());
    let mut kinds: HashSet<String> = pool.iter().map(|seed| check(seed)).collect();
    let effort = Effort::asked_for();
    let start = effort.start();
    let mut random = StdRng::seed_from_u64(start);
    let mut runs = 0u64;
    while effort.goes_on(runs) {
        let input = mutated(&pool, &mut random);
        runs += 1;
        match catch_unwind(AssertUnwindSafe(|| check(&input))) {
            Ok(kind) if pool.len() < POOL && kinds.insert(kind.clone()) => pool.push(input),
            Ok(_) => {}
            Err(_) => {
                let path = dir.join(format!("broke-{start:x}-{runs}"));
                fs::write(&path, &input).unwrap();
                panic!("{target} broke on an input, kept as {}", path.display());
            }
        }
    }
    println!("{target}: {runs} runs, {} kinds of answer", kinds.len());
}

/// A seed after one to eight changes.
fn mutated(pool: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    const PIECES: [&[u8]; 16] = [
        b"0x",
        b"0x0",
        b"null",
        b"-1",
        b"1e999",
        b"\"",
        b"{",
        b"[",
        b"\\u0000",
        b"\xff\xff\xff\xff",
        b"\0",
        b"\n",
        b"18446744073709551616",
        b"true",
        b"\xe2\x82",
        b",\"jobId\":1",
    ];
    let mut input = pool.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.gen_range(1..=8) {
        let at = random.gen_range(0..=input.len());
        match random.gen_range(0..7) {
            0 if at < input.len() => input[at] = random.r#gen(),
            1 if at < input.len() => input[at] ^= 1 << random.gen_range(0..8),
            2 => input.truncate(at),
            3 => {
                let end = (at + random.gen_range(1..=16)).min(input.len());
                input.drain(at..end);
            }
            4 => {
                let piece = PIECES.choose(random).copied().unwrap_or_default();
                input.splice(at..at, piece.iter().copied());
            }
            5 => {
                let end = (at + random.gen_range(1..=64)).min(input.len());
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                let other = pool.choose(random).map(Vec::as_slice).unwrap_or_default();
                let from = random.gen_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(MAX_LEN);
    input
}

/// An error's text without what is particular to the input.
pub fn kind<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(error) => {
            let text = error.to_string();
            let own = text.split(['`', '"']).next().unwrap_or_default();
            own.chars().filter(|c| c.is_ascii_alphabetic()).take(80).collect()
        }
    }
}
