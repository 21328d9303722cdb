//! What workers gain that heartbeat and never work, grind keys, or register a thousand identities: the real core and the
//! real draw, deterministic, with a table (`cargo test -p lcai-exex-dispatch hostile -- --nocapture`).

use crate::{
    DispatchCore, WorkerHealth,
    snapshot::{DrawnWorker, Snapshot},
    standing::FULL_STANDING,
    tests::{World, apply, core, heartbeat_of, model, worker},
};
use alloy_primitives::{Address, U256, keccak256};
use alloy_sol_types::SolValue;
use lcai_host::{BlockRef, Effects, Extension};
use lcai_primitives::{
    contracts::JobState,
    draw::{Candidate, Sortition},
    ids::JobId,
};

const MINIMUM: u64 = 100;
const HONEST: u8 = 20;
const HOSTILE: u8 = HONEST;
const BLOCK_SECONDS: u64 = 5;

fn user(n: u64) -> Address {
    Address::from_slice(&keccak256((n, "user").abi_encode())[12..])
}

fn heartbeats(core: &mut DispatchCore, at: BlockRef, now: u64) {
    for n in 0..=HOSTILE {
        let health = WorkerHealth { heartbeat: heartbeat_of(now, 8, now), heard_at: 0 };
        core.input(at, &postcard::to_stdvec(&(worker(n), health)).unwrap(), &mut Effects::default()).unwrap();
    }
}

/// One life of the hostile worker: from eligible to suspended.
#[derive(Debug, Default)]
struct Life {
    /// Draws while it was a candidate, and those it won.
    draws: u64,
    won: u64,
    /// Stake lost, basis points of the minimum.
    lost_bps: u64,
    standing_bps: u32,
}

/// Sessions of one job each are drawn block by block; honest workers answer at once, the hostile one never. Slashes are
/// JobRegistry's: 200 bps of the minimum, doubled with every offence, the third suspends.
fn lives(count: usize) -> Vec<Life> {
    let (mut world, mut core) = (World::new(), core());
    for n in 0..HONEST {
        world.register(n, MINIMUM * 10);
    }
    world.register(HOSTILE, MINIMUM * 10);
    let mut at = apply_block(&mut world, &mut core);
    let mut lives: Vec<Life> = Vec::new();
    let mut nonce = 0;
    while lives.len() < count {
        let (mut life, mut offences, mut open) = (Life::default(), 0u32, Vec::new());
        while offences < 3 {
            heartbeats(&mut core, at, world.time);
            nonce += 1;
            let snapshot = Snapshot::of(&core, at, model()).unwrap();
            let drawn = snapshot.draw(user(nonce), U256::ZERO).unwrap();
            life.draws += 1;
            let n = (0..=HOSTILE).find(|n| worker(*n) == drawn).unwrap();
            let session = world.open(n);
            let job = world.submit(session);
            if n == HOSTILE {
                life.won += 1;
                open.push((job, world.time));
            } else {
                world.step(job, JobState::Acknowledged);
                world.step(job, JobState::Completed);
            }
            let late = |(_, at): &(u64, u64)| at + crate::tests::ACK_TIMEOUT < world.time;
            let due: Vec<u64> = open.iter().filter(|job| late(job)).map(|(job, _)| *job).collect();
            open.retain(|job| !late(job));
            for job in due {
                world.step(job, JobState::TimedOut);
                life.lost_bps += 200 << offences;
                offences += 1;
            }
            if offences >= 3 {
                world.suspend(HOSTILE, 0);
            }
            at = apply_block(&mut world, &mut core);
        }
        // Whatever it still holds times out too; then it pays up and comes back.
        for (job, _) in open {
            world.step(job, JobState::TimedOut);
            life.lost_bps += 200 << offences.min(4);
        }
        at = apply_block(&mut world, &mut core);
        life.standing_bps = core.standing_of(&worker(HOSTILE));
        assert!(Snapshot::of(&core, at, model()).unwrap().candidates().all(|w| w.worker != worker(HOSTILE)));
        world.reinstate(HOSTILE);
        at = apply_block(&mut world, &mut core);
        lives.push(life);
    }
    assert!(core.job(JobId(0)).is_none_or(|job| job.state != JobState::Submitted));
    lives
}

fn apply_block(world: &mut World, core: &mut DispatchCore) -> BlockRef {
    let block = world.block(BLOCK_SECONDS);
    apply(core, &block);
    block.block_ref()
}

#[test]
#[allow(clippy::print_stderr)]
fn hostile_worker_that_heartbeats_and_never_works() {
    let lives = lives(4);
    eprintln!("never works, 1 of 21 equal workers (fair share 4.76 %), per suspension:");
    for (n, life) in lives.iter().enumerate() {
        let share = life.won as f64 / life.draws as f64 * 100.0;
        eprintln!(
            "  life {}: won {:>3} of {:>4} draws ({share:.2} %), earned 0, lost {:>5} bps of the minimum stake, standing {} bps",
            n + 1,
            life.won,
            life.draws,
            life.lost_bps,
            life.standing_bps
        );
    }
    // At least three jobs are needed for three offences; more are won while the first is not yet late.
    assert!(lives.iter().all(|life| (3..=10).contains(&life.won)), "{lives:?}");
    assert!(lives.iter().all(|life| life.lost_bps >= 1_400), "200 + 400 + 800");
    let (first, last) = (&lives[0], &lives[3]);
    let rate = |life: &Life| life.won as f64 / life.draws as f64;
    assert!(rate(last) < rate(first) / 2.0, "the standing keeps it from being drawn as before: {lives:?}");
}

fn member(worker: Address, minimums: u64, score: u64) -> DrawnWorker {
    DrawnWorker {
        worker,
        stake: U256::from(minimums * MINIMUM),
        score,
        standing_bps: FULL_STANDING,
        open_jobs: 0,
        heartbeat: None,
        why_not: None,
    }
}

fn directory(mut workers: Vec<DrawnWorker>, block: u64) -> Snapshot {
    workers.sort_by_key(|w| w.worker);
    Snapshot::for_test(
        BlockRef { number: block, hash: keccak256(block.abi_encode()) },
        model(),
        U256::from(10 * MINIMUM),
        workers,
    )
}

fn address(n: u64, kind: &str) -> Address {
    Address::from_slice(&keccak256((n, kind).abi_encode())[12..])
}

/// Share of so many draws that workers of a kind win, in basis points.
fn share(directory: &Snapshot, first_user: u64, draws: u64, mine: impl Fn(Address) -> bool) -> f64 {
    let won = (first_user..first_user + draws)
        .filter(|n| directory.draw(user(*n), U256::ZERO).is_some_and(&mine))
        .count();
    won as f64 / draws as f64 * 10_000.0
}

#[test]
#[allow(clippy::print_stderr)]
fn hostile_worker_that_grinds_keys() {
    let honest = || (0..100).map(|n| member(address(n, "honest"), 10, 10_000));
    let with = |mine: Address| directory(honest().chain([member(mine, 10, 10_000)]).collect(), 1);
    // Three hundred keys, each tried on the same past draws; the luckiest is kept.
    let tried = (0..300u64).map(|n| address(n, "ground"));
    let (luckiest, past) = tried
        .map(|mine| (mine, share(&with(mine), 0, 200, |w| w == mine)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap();
    let future = share(&with(luckiest), 1_000_000, 20_000, |w| w == luckiest);
    let fair = 10_000.0_f64 / 101.0;
    eprintln!(
        "grinds 300 worker keys: {past:.0} bps of 200 past draws, {future:.0} bps of 20,000 new ones, fair {fair:.0} bps"
    );
    // Three standard deviations of a binomial share.
    let deviation = (fair / 10_000.0 * (1.0 - fair / 10_000.0) / 20_000.0).sqrt() * 10_000.0;
    assert!((future - fair).abs() < 3.0 * deviation, "a key chosen by the past wins nothing in the future");

    // A user in league with the worker can look for an account that draws it: each try is one account and one block.
    let directory = with(luckiest);
    let tries: Vec<u64> = (0..100u64)
        .map(|n| (1..).find(|k| directory.draw(user(n * 100_000 + k), U256::ZERO) == Some(luckiest)).unwrap())
        .collect();
    let mean = tries.iter().sum::<u64>() as f64 / tries.len() as f64;
    eprintln!(
        "grinds user accounts for its own worker: {mean:.0} accounts a session; it then pays itself 80 % of its own fee"
    );
    assert!((70.0..140.0).contains(&mean), "as many as the share says, 101: {mean}");
}

#[test]
#[allow(clippy::print_stderr)]
fn hostile_worker_that_grinds_keys_at_sortition() {
    const REQUESTS: u64 = 150;
    const KEYS: u64 = 200;
    let cap = U256::from(10 * MINIMUM);
    let candidate = |worker| Candidate { worker, stake: cap, stake_cap: cap, reputation: 5_000 };
    let honest: Vec<_> = (0..100).map(|n| candidate(address(n, "honest"))).collect();
    // Requests it claims no later than the first of the others, when it tries so many keys once the seed is known and
    // registers the luckiest in the next block: as the contract was, and as it is.
    let (mut before, mut after, mut one_key) = (0u64, 0u64, 0u64);
    for n in 0..REQUESTS {
        let sortition = Sortition {
            seed: keccak256((n, "seed").abi_encode()),
            request: U256::from(n),
            request_block: 100,
            window: 10,
            total_stake: cap * U256::from(100),
        };
        let others = honest.iter().map(|c| sortition.first_block(c, 0)).min().unwrap();
        let with = |keys: u64, since: u64| {
            let tried = (0..keys).map(|k| candidate(address(n * KEYS + k, "ground at sortition")));
            tried.map(|c| sortition.first_block(&c, since)).min().unwrap() <= others
        };
        one_key += u64::from(with(1, 0));
        before += u64::from(with(KEYS, 0));
        after += u64::from(with(KEYS, 102));
    }
    let bps = |won: u64| won * 10_000 / REQUESTS;
    eprintln!(
        "tries {KEYS} keys by the seed of a sortition, beside 100 honest workers, in the first claims' block:"
    );
    eprintln!("  one key, there before      {:>5} bps of the requests", bps(one_key));
    eprintln!("  the luckiest, before       {:>5} bps", bps(before));
    eprintln!("  the luckiest, now          {:>5} bps", bps(after));
    assert!(before > REQUESTS * 8 / 10, "the luckiest of {KEYS} was nearly always among the first: {before}");
    assert_eq!(after, 0, "registered since, it has no ticket before the window opens to all");
    assert!(one_key < REQUESTS / 10, "{one_key}");
}

#[test]
#[allow(clippy::print_stderr)]
fn hostile_thousand_identities() {
    let honest: Vec<_> = (0..100).map(|n| member(address(n, "honest"), 10, 10_000)).collect();
    let draws = 20_000;
    let measure = |mine: Vec<DrawnWorker>| {
        let set: std::collections::BTreeSet<Address> = mine.iter().map(|w| w.worker).collect();
        let all = honest.iter().cloned().chain(mine).collect();
        share(&directory(all, 2), 0, draws, |w| set.contains(&w))
    };
    let split = measure((0..1_000).map(|n| member(address(n, "sybil"), 1, 5_000)).collect());
    let whole = measure(vec![member(address(0, "whale"), 1_000, 5_000)]);
    let seasoned = measure((0..1_000).map(|n| member(address(n, "sybil"), 1, 10_000)).collect());
    eprintln!("1,000 minimum stakes beside 100 honest workers of 10 each (half of all stake):");
    eprintln!("  in one identity          {whole:>5.0} bps of the draws (the cap counts 10 of them)");
    eprintln!("  in 1,000 new identities  {split:>5.0} bps (5,000 of 10,000 points of score)");
    eprintln!("  in 1,000 seasoned ones   {seasoned:>5.0} bps (never more than their part of the stake)");
    assert!((35.0..65.0).contains(&whole), "10 x 5,000 of 10,050,000: 49.8 bps, not {whole}");
    assert!((3_230.0..3_440.0).contains(&split), "a third, not {split}");
    assert!((4_890.0..5_110.0).contains(&seasoned), "half, not {seasoned}");
}

/// `WorkerRegistry.selectEligibleWorker`, which reassigns sessions, in the contract's arithmetic.
fn select(stakes: &[u64], seed: u64, by_stake: bool) -> usize {
    let number = |i: u64| U256::from_be_bytes(keccak256((U256::from(seed), U256::from(i)).abi_encode()).0);
    let length = U256::from(stakes.len());
    let drawn = |i: u64| (number(i) % length).to::<usize>();
    if !by_stake {
        return drawn(0);
    }
    let kept = |i: &u64| (number(*i) >> 128usize) % U256::from(10 * MINIMUM) < U256::from(stakes[drawn(*i)]);
    drawn((0..16).find(kept).unwrap_or(0))
}

#[test]
#[allow(clippy::print_stderr)]
fn hostile_thousand_identities_at_reassignment() {
    let stakes: Vec<u64> = (0..1_100).map(|n| if n < 1_000 { MINIMUM } else { 10 * MINIMUM }).collect();
    let share = |by_stake| (0..10_000).filter(|seed| select(&stakes, *seed, by_stake) < 1_000).count();
    let (before, after) = (share(false), share(true));
    eprintln!("1,000 minimum stakes beside 100 honest workers of 10 each, sessions that are reassigned:");
    eprintln!("  every worker alike, before {before:>5} bps");
    eprintln!("  by stake, now              {after:>5} bps");
    assert!((8_990..9_190).contains(&before), "1,000 of 1,100, not {before}");
    assert!((5_000..5_350).contains(&after), "half, and the rest of sixteen draws in vain, not {after}");
}
