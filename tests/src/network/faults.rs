//! Faults: what stops, what must not happen meanwhile, and how the network comes back.

use super::{
    Net, Side,
    execution::ExecutionApi,
    genesis::SLOTS_PER_EPOCH,
    ollama::state_of,
    story::{self, Summary},
    watch::{Sample, Watch},
};
use crate::{Network, ask, funded, open_session};
use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolEvent;
use clap::ValueEnum;
use eyre::WrapErr;
use lcai::ask::DEFAULT_MODEL;
use lcai_client::{Connection, User};
use lcai_crypto::SessionKey;
use lcai_genesis::dev::dev_account;
use lcai_primitives::contracts::{JobRegistry, JobState};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Users that go on asking while something is broken: not those of the story.
const ASKERS: [u32; 2] = [6, 7];

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The disputer's beacon node stops for two epochs, and its validators with it
    Beacon,
    /// The disputer's validators stop for two epochs: nothing becomes final
    Validators,
    /// The dispatcher's Reth node is killed and started again
    Reth,
    /// The halves lose each other for an epoch, each makes its own chain, and one of them wins
    Partition,
    /// The Ollama of the second worker hangs, is killed, and comes back
    Ollama,
}

/// Breaks one thing after the other while users ask, and checks at the end that every job came to one end on chain and
/// that all nodes agree.
///
/// # Errors
/// When something does not happen as it should.
pub async fn run(net: &mut Net, watch: &Watch, faults: &[Fault], summary: &mut Summary) -> eyre::Result<()> {
    net.wait_for_blocks(watch).await?;
    net.start_workers().await?;
    watch.until("the first finality", 12 * epoch(net), |sample| all_final(sample, 1)).await?;
    summary.note(format!("finality at slot {}", net.slot()));
    let asking = Asking::start(&net.reth[0].ws());
    for fault in faults {
        println!("  fault {fault:?} from slot {}", net.slot());
        match fault {
            Fault::Beacon => beacon(net, watch, summary).await?,
            Fault::Validators => validators(net, watch, summary).await?,
            Fault::Reth => reth(net, watch, summary).await?,
            Fault::Partition => partition(net, watch, summary).await?,
            Fault::Ollama => hanging_ollama(net, summary).await?,
        }
        same_head(net, watch).await?;
    }
    let answers = asking.stop().await?;
    eyre::ensure!(answers > 0, "no question was answered in between");
    let jobs = settled(&net.reth[0].api, net.genesis.deployment.job_registry).await?;
    summary.note(format!(
        "{answers} answers read meanwhile; {} jobs on chain, each with one end: {}",
        jobs.len(),
        counts(&jobs)
    ));
    story::agreement(net, summary).await
}

/// Seconds of an epoch.
const fn epoch(net: &Net) -> u64 {
    SLOTS_PER_EPOCH * net.plan.slot_seconds
}

fn all_final(sample: &Sample, epoch: u64) -> bool {
    sample.beacons.iter().all(|beacon| beacon.is_some_and(|beacon| beacon.finalized >= epoch))
}

async fn slots_pass(net: &Net, slots: u64) {
    let until = net.slot() + slots;
    while net.slot() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until a later epoch is final than one that was.
async fn final_again(net: &Net, watch: &Watch, before: u64) -> eyre::Result<u64> {
    let later = |sample: &Sample| all_final(sample, before + 2);
    watch.until("finality again", 12 * epoch(net), later).await?;
    Ok(net.slot())
}

/// Waits until the three execution nodes have the same block at the head or one below it.
async fn same_head(net: &Net, watch: &Watch) -> eyre::Result<()> {
    let close = |sample: &Sample| {
        let heads: Vec<u64> =
            sample.executions.iter().filter_map(|node| node.map(|heights| heights[0])).collect();
        heads.len() == 3
            && heads.iter().max().zip(heads.iter().min()).is_some_and(|(max, min)| max - min <= 1)
    };
    watch.until("all nodes at one height", 6 * epoch(net), close).await.map(drop)
}

async fn beacon(net: &mut Net, watch: &Watch, summary: &mut Summary) -> eyre::Result<()> {
    let (before, stopped) = (watch.finalized(), net.slot());
    net.beacons[1].process.stop();
    slots_pass(net, 2 * SLOTS_PER_EPOCH).await;
    let heads = [net.reth[0].api.height("latest").await?, net.reth[1].api.height("latest").await?];
    eyre::ensure!(heads[0] > heads[1], "the other half made no blocks: {heads:?}");
    let meanwhile = finalized_of(watch, 0);
    net.start_beacon(1)?;
    net.beacons[1].answers().await?;
    same_head(net, watch).await?;
    let caught_up = net.slot();
    let again = final_again(net, watch, meanwhile).await?;
    summary.note(format!(
        "beacon node of the disputer stopped at slot {stopped} for two epochs: its Reth stayed at block {:?} while the other \
         reached {:?}; final epoch {before} before, {meanwhile} meanwhile; caught up by slot {caught_up}, finality again by \
         slot {again}",
        heads[1].unwrap_or_default(),
        heads[0].unwrap_or_default()
    ));
    Ok(())
}

fn finalized_of(watch: &Watch, beacon: usize) -> u64 {
    watch.now().and_then(|sample| sample.beacons[beacon]).map_or(0, |beacon| beacon.finalized)
}

/// While nothing becomes final, a dispute gets no verdict.
async fn validators(net: &mut Net, watch: &Watch, summary: &mut Summary) -> eyre::Result<()> {
    let stopped = net.slot();
    net.validators[1].stop();
    // What was voted for already can still become final.
    slots_pass(net, SLOTS_PER_EPOCH).await;
    let before = finalized_of(watch, 0);
    let registry = net.genesis.deployment.job_registry;
    let user = funded(&net.through(Side::Dispatcher), 5).await;
    let session = open_session(&user).await;
    let (answer, _) = ask(&user, &session, "What is 58 plus 42?").await;
    let (job, block) = story::dispute(registry, &user, &answer).await?;
    slots_pass(net, 2 * SLOTS_PER_EPOCH).await;
    let meanwhile = finalized_of(watch, 0);
    eyre::ensure!(meanwhile == before, "half of the validators finalized epoch {meanwhile} after {before}");
    let state = story::state(&story::read(&user, registry, job).await?)?;
    eyre::ensure!(state == JobState::Disputed, "job {job} is {state:?} although nothing is final");
    let final_height = net.reth[1].api.height("finalized").await?.unwrap_or_default();
    eyre::ensure!(final_height < block, "block {block} is final");
    net.validators[1].start()?;
    let again = final_again(net, watch, before).await?;
    let ended = story::ended(&user, registry, job, net.plan.params.resolution_timeout).await?;
    let cheated = session.worker == net.through(Side::Dispatcher).workers()[0];
    eyre::ensure!(ended.reExecutionBlobHash != B256::ZERO, "job {job} ended without evidence");
    let full = ended.similarityScore == U256::from(10_000);
    eyre::ensure!(full != cheated, "job {job}, cheated: {cheated}, score {}", ended.similarityScore);
    summary.note(format!(
        "validators of the disputer stopped at slot {stopped}: epoch {before} stayed the final one for two epochs, and the \
         dispute over job {job} (block {block}) without a verdict; finality again by slot {again}, verdict {} of 10000 on \
         {} by slot {}",
        ended.similarityScore,
        if cheated { "the cheat" } else { "the honest worker" },
        net.slot()
    ));
    Ok(())
}

async fn reth(net: &mut Net, watch: &Watch, summary: &mut Summary) -> eyre::Result<()> {
    let (killed, head) = (net.slot(), net.reth[0].api.height("latest").await?.unwrap_or_default());
    net.reth[0].process.kill();
    tokio::time::sleep(Duration::from_secs(net.plan.slot_seconds)).await;
    let mut attempts = 0;
    // The kernel can hold the lock of the killed one for a moment.
    loop {
        attempts += 1;
        net.start_reth(Side::Dispatcher)?;
        match net.reth[0].answers().await {
            Ok(()) => break,
            Err(error) if attempts >= 5 => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    let back = |sample: &Sample| sample.executions[0].is_some_and(|heights| heights[0] > head + 2);
    watch.until("the killed node goes on", 4 * epoch(net), back).await?;
    same_head(net, watch).await?;
    summary.note(format!(
        "Reth node of the dispatcher killed at slot {killed}, block {head}; back with the others at slot {}",
        net.slot()
    ));
    Ok(())
}

/// A worker whose Ollama hangs, or is gone, is no longer drawn, and is again once Ollama is back.
async fn hanging_ollama(net: &mut Net, summary: &mut Summary) -> eyre::Result<()> {
    let through = net.through(Side::Dispatcher);
    let (url, worker) = (through.url().to_owned(), through.workers()[1]);
    let Some(ollama) = &mut net.ollama else { eyre::bail!("no ollama among the parts") };
    let node = Connection::open(&url, None).await?;
    let unready = |state: &str| state == "unready";
    ollama.freeze();
    let hang = state_of(&node, worker, 120, unready).await.wrap_err("a hanging Ollama")?;
    ollama.kill();
    // A heartbeat at least.
    tokio::time::sleep(Duration::from_secs(20)).await;
    state_of(&node, worker, 60, unready).await.wrap_err("an Ollama that is gone")?;
    ollama.start_again().await?;
    let back = state_of(&node, worker, 120, |state| state != "unready").await.wrap_err("Ollama is back")?;
    summary.note(format!(
        "Ollama stood still: its worker was unready for the node {hang} s later; killed: still; started again: ready \
         {back} s later"
    ));
    Ok(())
}

/// Both halves go on by themselves; after the link is back all have one chain.
async fn partition(net: &mut Net, watch: &Watch, summary: &mut Summary) -> eyre::Result<()> {
    let link = net
        .link
        .take()
        .ok_or_else(|| eyre::eyre!("the halves are not apart: start with --fault partition"))?;
    let (parted, before) = (net.slot(), watch.finalized());
    link.down()?;
    slots_pass(net, SLOTS_PER_EPOCH).await;
    let heads = [head(&net.reth[0].api).await?, head(&net.reth[1].api).await?];
    eyre::ensure!(heads[0].1 != heads[1].1, "both halves are at {}", heads[0].1);
    link.up()?;
    let healed = net.slot();
    net.link = Some(link);
    let one = 8 * epoch(net);
    let mut survives = [false; 2];
    for _ in 0..one {
        let mut hashes = Vec::new();
        for node in [&net.reth[0].api, &net.reth[1].api, &net.geth.api] {
            let lowest = heads[0].0.max(heads[1].0);
            let block = node.block(&format!("{lowest:#x}")).await?;
            hashes.push(block.map(|block| block["hash"].clone()));
        }
        if hashes.iter().all(|hash| hash.is_some() && *hash == hashes[0]) {
            for (survives, (number, hash)) in survives.iter_mut().zip(&heads) {
                let block = net.reth[0].api.block(&format!("{number:#x}")).await?;
                *survives = block.is_some_and(|block| block["hash"].as_str() == Some(hash));
            }
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::ensure!(survives[0] != survives[1], "of the halves' heads these survive: {survives:?}");
    let together = net.slot();
    let again = final_again(net, watch, before).await?;
    summary.note(format!(
        "partition from slot {parted} to slot {healed}: heads {} and {} at blocks {} and {}; one chain by slot {together}, the \
         {}'s, the other half reorganised; finality again by slot {again}",
        heads[0].1,
        heads[1].1,
        heads[0].0,
        heads[1].0,
        if survives[0] { "dispatcher" } else { "disputer" }
    ));
    Ok(())
}

/// Number and hash of the head.
async fn head(node: &ExecutionApi) -> eyre::Result<(u64, String)> {
    let block = node.block("latest").await?.ok_or_else(|| eyre::eyre!("{} has no head", node.name))?;
    let hash = block["hash"].as_str().unwrap_or_default().to_owned();
    Ok((super::execution::quantity(&block["number"])?, hash))
}

/// Users that ask again and again; what fails because something is broken is tried again.
struct Asking {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU32>,
    tasks: Vec<JoinHandle<()>>,
}

impl Asking {
    fn start(url: &str) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let one = |user| tokio::spawn(ask_on(url.to_owned(), user, stop.clone(), answers.clone()));
        let tasks = ASKERS.into_iter().map(one).collect();
        Self { stop, answers, tasks }
    }

    async fn stop(self) -> eyre::Result<u32> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await?;
        }
        Ok(self.answers.load(Ordering::SeqCst))
    }
}

async fn ask_on(url: String, user: u32, stop: Arc<AtomicBool>, answers: Arc<AtomicU32>) {
    while !stop.load(Ordering::SeqCst) {
        let asked = ask_once(&url, user);
        if let Ok(Some(())) = tokio::time::timeout(Duration::from_secs(240), asked).await {
            answers.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

async fn ask_once(url: &str, user: u32) -> Option<()> {
    let connection = Connection::open(url, None).await.ok()?;
    let user = User::new(connection, dev_account(user).ok()?);
    let offer = user.request_session(DEFAULT_MODEL).await.ok()?;
    let session = user.open_session(&offer, SessionKey::random()).await.ok()?;
    let fee = user.model(DEFAULT_MODEL).await.ok()?.fee;
    user.ask(&session, b"What is the capital of France?", None, fee, &mut |_| {}).await.ok().map(drop)
}

type Jobs = BTreeMap<B256, Vec<&'static str>>;

const EVENTS: [(&str, B256); 8] = [
    ("submitted", JobRegistry::JobSubmitted::SIGNATURE_HASH),
    ("acknowledged", JobRegistry::JobAcknowledged::SIGNATURE_HASH),
    ("completed", JobRegistry::JobCompleted::SIGNATURE_HASH),
    ("released", JobRegistry::JobReleased::SIGNATURE_HASH),
    ("timed out", JobRegistry::JobTimedOut::SIGNATURE_HASH),
    ("refunded", JobRegistry::JobRefunded::SIGNATURE_HASH),
    ("disputed", JobRegistry::DisputeCreated::SIGNATURE_HASH),
    ("resolved", JobRegistry::DisputeResolved::SIGNATURE_HASH),
];

/// Waits until every job has come to an end, and gives what happened to each; twice is an error.
async fn settled(node: &ExecutionApi, registry: Address) -> eyre::Result<Jobs> {
    let mut jobs = Jobs::new();
    for _ in 0..120 {
        jobs = read_jobs(node, registry).await?;
        if jobs.values().all(|events| has_end(events)) {
            for (job, events) in &jobs {
                for (name, _) in EVENTS {
                    let count = events.iter().filter(|event| **event == name).count();
                    eyre::ensure!(count <= 1, "job {job}: {name} {count} times: {events:?}");
                }
            }
            return Ok(jobs);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let open: Vec<_> = jobs.iter().filter(|(_, events)| !has_end(events)).collect();
    eyre::bail!("jobs without an end after ten minutes: {open:?}")
}

fn has_end(events: &[&str]) -> bool {
    ["released", "timed out", "resolved"].iter().any(|end| events.contains(end))
}

async fn read_jobs(node: &ExecutionApi, registry: Address) -> eyre::Result<Jobs> {
    let filter = json!([{ "address": registry, "fromBlock": "0x0", "toBlock": "latest" }]);
    let logs = node.call("eth_getLogs", filter).await?;
    let mut jobs = Jobs::new();
    for log in logs.as_array().into_iter().flatten() {
        let topic = |index: usize| log["topics"].get(index).and_then(Value::as_str)?.parse::<B256>().ok();
        let known = EVENTS.iter().find(|(_, signature)| topic(0) == Some(*signature));
        if let Some(((name, _), job)) = known.zip(topic(1)) {
            jobs.entry(job).or_default().push(name);
        }
    }
    Ok(jobs)
}

fn counts(jobs: &Jobs) -> String {
    let count = |name: &str| jobs.values().filter(|events| events.contains(&name)).count();
    EVENTS.map(|(name, _)| format!("{} {name}", count(name))).join(", ")
}
