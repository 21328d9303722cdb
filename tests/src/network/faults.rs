//! Faults: what stops, what must not happen meanwhile, and how the network comes back.

use super::{
    Net, Side,
    execution::{ExecutionApi, quantity},
    genesis::SLOTS_PER_EPOCH,
    ollama::state_of,
    story::{self, Summary},
    watch::{Sample, Watch},
};
use crate::{Network, ask, funded};
use alloy_primitives::{Address, B256, U256, hex};
use alloy_sol_types::SolEvent;
use clap::ValueEnum;
use eyre::WrapErr;
use lcai::ask::DEFAULT_MODEL;
use lcai_client::{Connection, User};
use lcai_crypto::SessionKey;
use lcai_genesis::dev::dev_account;
use lcai_primitives::contracts::{CanaryLedger, JobRegistry, JobState};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
    let read = asking.stop().await?;
    eyre::ensure!(!read.is_empty(), "no question was answered in between");
    let registry = net.genesis.deployment.job_registry;
    let jobs = settled(&net.reth[0].api, registry).await?;
    let [vanished, moved] = on_chain(&net.reth[0].api, registry, &read).await?;
    summary.note(format!(
        "{} answers read meanwhile, each with its hash on chain but {vanished} whose submission a reorg took back, and {moved} \
         whose session's number a reorg gave to another session of the user, so that nobody can read the prompt; {} jobs on \
         chain, each with one end: {}",
        read.len(),
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

/// Waits until the heads of the three execution nodes are at most a block apart, and the lower one is on all three chains.
async fn same_head(net: &Net, watch: &Watch) -> eyre::Result<()> {
    let nodes = [&net.reth[0].api, &net.reth[1].api, &net.geth.api];
    let heads = |sample: &Sample| {
        let heads: Vec<u64> =
            sample.executions.iter().filter_map(|node| node.map(|heights| heights[0])).collect();
        heads.iter().max().copied().zip(heads.iter().min().copied()).filter(|_| heads.len() == nodes.len())
    };
    for _ in 0..3 {
        let close = |sample: &Sample| heads(sample).is_some_and(|(max, min)| max - min <= 1);
        let sample = watch.until("all nodes at one height", 6 * epoch(net), close).await?;
        let Some((_, lowest)) = heads(&sample) else { continue };
        let mut hashes = Vec::new();
        for node in nodes {
            hashes.push(hash_at(node, lowest).await?);
        }
        if hashes.iter().all(|hash| hash.is_some() && *hash == hashes[0]) {
            return Ok(());
        }
        // A late block can lose its place once more.
        slots_pass(net, 4).await;
    }
    eyre::bail!("the nodes are at one height, on different chains")
}

async fn hash_at(node: &ExecutionApi, number: u64) -> eyre::Result<Option<String>> {
    let block = node.block(&format!("{number:#x}")).await?;
    Ok(block.and_then(|block| block["hash"].as_str().map(str::to_owned)))
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

/// While nothing becomes final, a dispute gets no verdict, and nothing else irreversible is done either.
async fn validators(net: &mut Net, watch: &Watch, summary: &mut Summary) -> eyre::Result<()> {
    let stopped = net.slot();
    net.validators[1].stop();
    // What was voted for already can still become final, as late as at the end of the epoch after this one.
    slots_pass(net, 2 * SLOTS_PER_EPOCH).await;
    let before = finalized_of(watch, 0);
    let stall = Stall::begin(&net.reth[1].api).await?;
    let registry = net.genesis.deployment.job_registry;
    let honest = net.through(Side::Dispatcher).workers()[1];
    let user = funded(&net.through(Side::Dispatcher), 5).await;
    let session = story::session_with(&user, honest).await?;
    let (answer, _) = ask(&user, &session, "What is 58 plus 42?").await;
    let (job, block) = story::dispute(registry, &user, &answer).await?;
    slots_pass(net, 2 * SLOTS_PER_EPOCH).await;
    let meanwhile = finalized_of(watch, 0);
    eyre::ensure!(meanwhile == before, "half of the validators finalized epoch {meanwhile} after {before}");
    let state = story::state(&story::read(&user, registry, job).await?)?;
    eyre::ensure!(state == JobState::Disputed, "job {job} is {state:?} although nothing is final");
    let final_height = net.reth[1].api.height("finalized").await?.unwrap_or_default();
    eyre::ensure!(final_height < block, "block {block} is final");
    let kept = stall.kept_to_the_table(net, user.account()).await?;
    net.validators[1].start()?;
    let again = final_again(net, watch, before).await?;
    let ended = story::ended(&user, registry, job, net.plan.params.resolution_timeout).await?;
    eyre::ensure!(ended.reExecutionBlobHash != B256::ZERO, "job {job} ended without evidence");
    let full = ended.similarityScore == U256::from(10_000);
    eyre::ensure!(full, "job {job} of the honest worker, score {}", ended.similarityScore);
    summary.note(format!(
        "validators of the disputer stopped at slot {stopped}: epoch {before} stayed the final one for two epochs, and the \
         dispute over job {job} (block {block}) without a verdict; {kept}; finality again by slot {again}, verdict {} of 10000 \
         on the honest worker by slot {}",
        ended.similarityScore,
        net.slot()
    ));
    Ok(())
}

/// Where finality stood still.
struct Stall {
    /// Heights of head, safe and finalized at the disputer's node when it had.
    head: u64,
    safe: u64,
    finalized: u64,
}

impl Stall {
    async fn begin(node: &ExecutionApi) -> eyre::Result<Self> {
        let mut heights = [0; 3];
        for (height, id) in heights.iter_mut().zip(["latest", "safe", "finalized"]) {
            *height = node.height(id).await?.unwrap_or_default();
        }
        let [head, safe, finalized] = heights;
        Ok(Self { head, safe, finalized })
    }

    /// Looks at everything irreversible in the blocks since: a verdict, whose dispute must have been final; a dispute by
    /// somebody else than `user`, whose job's completion must have been safe; a reveal, whose epoch must have been over in a
    /// final block.
    async fn kept_to_the_table(&self, net: &Net, user: Address) -> eyre::Result<String> {
        let node = &net.reth[1].api;
        let Self { head, safe, finalized } = *self;
        let registry = net.genesis.deployment.job_registry;
        let all = logs(node, registry, 0).await?;
        let block_of =
            |signature: B256, job: B256| all.iter().find(|log| log.is(signature, job)).map(|log| log.block);
        let (mut verdicts, mut disputes) = (0, 0);
        for log in all.iter().filter(|log| log.block > head) {
            let Some(job) = log.topic(1) else { continue };
            if log.topic(0) == Some(JobRegistry::DisputeResolved::SIGNATURE_HASH) {
                let disputed = block_of(JobRegistry::DisputeCreated::SIGNATURE_HASH, job);
                eyre::ensure!(
                    disputed.is_some_and(|block| block <= finalized),
                    "job {job}: verdict in block {}",
                    log.block
                );
                verdicts += 1;
            }
            let by_user = log.topic(2) == Some(user.into_word());
            if log.topic(0) == Some(JobRegistry::DisputeCreated::SIGNATURE_HASH) && !by_user {
                let completed = block_of(JobRegistry::JobCompleted::SIGNATURE_HASH, job);
                eyre::ensure!(
                    completed.is_some_and(|block| block <= safe),
                    "job {job}: disputed in block {}",
                    log.block
                );
                disputes += 1;
            }
        }
        let mut reveals = 0;
        if let Some((ledger, seconds)) = net.genesis.deployment.canary_ledger.zip(net.plan.canary_epoch) {
            for log in logs(node, ledger, head + 1).await? {
                let revealed = log.topic(0) == Some(CanaryLedger::CanaryRevealed::SIGNATURE_HASH);
                let Some(epoch) = log.topic(1).filter(|_| revealed) else { continue };
                let over = (U256::from_be_bytes(epoch.0).saturating_to::<u64>() + 1) * seconds;
                let block = node.block(&format!("{finalized:#x}")).await?;
                let time = block.map(|block| quantity(&block["timestamp"])).transpose()?.unwrap_or_default();
                eyre::ensure!(
                    time >= over,
                    "epoch {epoch} was over at {over}, revealed in block {}",
                    log.block
                );
                reveals += 1;
            }
        }
        Ok(format!(
            "in the blocks after {head}, with {safe} safe and {finalized} final, {verdicts} verdicts, {disputes} disputes by the \
             disputer and {reveals} reveals, all over what was deep enough"
        ))
    }
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
    let back = state_of(&node, worker, 120, |state| ["ready", "busy"].contains(&state))
        .await
        .wrap_err("Ollama is back")?;
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
    let heads = [settled_head(&net.reth[0].api).await?, settled_head(&net.reth[1].api).await?];
    eyre::ensure!(heads[0].1 != heads[1].1, "both halves are at {}", heads[0].1);
    let lowest = heads[0].0.max(heads[1].0);
    link.up()?;
    let healed = net.slot();
    net.link = Some(link);
    one_chain(net, lowest).await?;
    let mut survives = [false; 2];
    for (survives, (number, hash)) in survives.iter_mut().zip(&heads) {
        *survives = hash_at(&net.reth[0].api, *number).await?.as_ref() == Some(hash);
    }
    eyre::ensure!(survives[0] != survives[1], "of the halves' blocks {heads:?} these survive: {survives:?}");
    let together = net.slot();
    let again = final_again(net, watch, before).await?;
    summary.note(format!(
        "partition from slot {parted} to slot {healed}: blocks {} and {} at heights {} and {}; one chain by slot {together}, the \
         {}'s, the other half reorganised; finality again by slot {again}",
        heads[0].1,
        heads[1].1,
        heads[0].0,
        heads[1].0,
        if survives[0] { "dispatcher" } else { "disputer" }
    ));
    Ok(())
}

/// Waits until all execution nodes have the same block at a height, eight epochs at most.
async fn one_chain(net: &Net, height: u64) -> eyre::Result<()> {
    let mut hashes = Vec::new();
    for _ in 0..8 * epoch(net) {
        hashes.clear();
        for node in [&net.reth[0].api, &net.reth[1].api, &net.geth.api] {
            hashes.push(hash_at(node, height).await?);
        }
        if hashes.iter().all(|hash| hash.is_some() && *hash == hashes[0]) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("no common block at height {height} within eight epochs: {hashes:?}")
}

/// Number and hash of the block three below the head: one that comes late loses its place also without a partition.
async fn settled_head(node: &ExecutionApi) -> eyre::Result<(u64, String)> {
    let head = node.height("latest").await?.ok_or_else(|| eyre::eyre!("{} has no head", node.name))?;
    let number = head.saturating_sub(3);
    let hash = hash_at(node, number).await?;
    Ok((number, hash.ok_or_else(|| eyre::eyre!("{} has no block {number}", node.name))?))
}

/// An answer that a user read and verified.
#[derive(Debug, Clone, Copy)]
struct Read {
    job: B256,
    session: B256,
    /// `createSession` and `submitJob`.
    create: B256,
    submit: B256,
    ciphertext: B256,
}

/// Users that ask again and again; what fails because something is broken is tried again.
struct Asking {
    stop: Arc<AtomicBool>,
    read: Arc<Mutex<Vec<Read>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Asking {
    fn start(url: &str) -> Self {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let one = |user| tokio::spawn(ask_on(url.to_owned(), user, stop.clone(), Arc::clone(&read)));
        let tasks = ASKERS.into_iter().map(one).collect();
        Self { stop, read, tasks }
    }

    async fn stop(self) -> eyre::Result<Vec<Read>> {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await?;
        }
        Ok(std::mem::take(&mut self.read.lock()))
    }
}

async fn ask_on(url: String, user: u32, stop: Arc<AtomicBool>, read: Arc<Mutex<Vec<Read>>>) {
    while !stop.load(Ordering::SeqCst) {
        let asked = ask_once(&url, user);
        if let Ok(Some(answer)) = tokio::time::timeout(Duration::from_secs(240), asked).await {
            read.lock().push(answer);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

async fn ask_once(url: &str, user: u32) -> Option<Read> {
    let connection = Connection::open(url, None).await.ok()?;
    let user = User::new(connection, dev_account(user).ok()?);
    let offer = user.request_session(DEFAULT_MODEL).await.ok()?;
    let session = user.open_session(&offer, SessionKey::random()).await.ok()?;
    let fee = user.model(DEFAULT_MODEL).await.ok()?.fee;
    let answer = user.ask(&session, b"What is the capital of France?", None, fee, &mut |_| {}).await.ok()?;
    let job = &answer.receipt.job;
    Some(Read {
        job: job.id.word().into(),
        session: session.id.word().into(),
        create: session.create_transaction,
        submit: job.transactions.submit?,
        ciphertext: job.response_ciphertext_hash?,
    })
}

/// Checks that what users read is what the chain has for the same job. Gives the number of those whose submission is on the
/// chain no more, because a reorg took it back; and of those whose submission came again into another session: it names a
/// number, and sessions that are opened again in another order have each other's.
async fn on_chain(node: &ExecutionApi, registry: Address, read: &[Read]) -> eyre::Result<[usize; 2]> {
    let all = logs(node, registry, 0).await?;
    let [mut vanished, mut moved] = [0; 2];
    for Read { job, session, create, submit, ciphertext } in read {
        let sent = |signature: B256, id: &B256, transaction: &B256| {
            all.iter().any(|log| log.is(signature, *id) && log.transaction == Some(*transaction))
        };
        if !sent(JobRegistry::JobSubmitted::SIGNATURE_HASH, job, submit) {
            vanished += 1;
            continue;
        }
        if !sent(JobRegistry::SessionCreated::SIGNATURE_HASH, session, create) {
            moved += 1;
            continue;
        }
        let completed = all.iter().find(|log| log.is(JobRegistry::JobCompleted::SIGNATURE_HASH, *job));
        // Both are in the data: the blob's versioned hash and the ciphertext's.
        let hash = completed.and_then(|log| log.data.get(32..64)).map(B256::from_slice);
        eyre::ensure!(
            hash == Some(*ciphertext),
            "job {job}: a user read {ciphertext}, the chain has {hash:?}"
        );
    }
    Ok([vanished, moved])
}

type Jobs = BTreeMap<B256, Vec<&'static str>>;

const EVENTS: [(&str, B256); 10] = [
    ("submitted", JobRegistry::JobSubmitted::SIGNATURE_HASH),
    ("acknowledged", JobRegistry::JobAcknowledged::SIGNATURE_HASH),
    ("completed", JobRegistry::JobCompleted::SIGNATURE_HASH),
    ("released", JobRegistry::JobReleased::SIGNATURE_HASH),
    ("timed out", JobRegistry::JobTimedOut::SIGNATURE_HASH),
    ("settled without fault", JobRegistry::JobSettledNoFault::SIGNATURE_HASH),
    ("refunded", JobRegistry::JobRefunded::SIGNATURE_HASH),
    ("disputed", JobRegistry::DisputeCreated::SIGNATURE_HASH),
    ("resolved", JobRegistry::DisputeResolved::SIGNATURE_HASH),
    ("defaulted", JobRegistry::DisputeDefaulted::SIGNATURE_HASH),
];

/// Waits until every job that is on the chain now has come to an end, and gives what happened to each; twice is an error.
/// Canaries' jobs go on coming meanwhile.
async fn settled(node: &ExecutionApi, registry: Address) -> eyre::Result<Jobs> {
    let asked: Vec<B256> = read_jobs(node, registry).await?.into_keys().collect();
    let mut jobs = Jobs::new();
    for _ in 0..240 {
        jobs = read_jobs(node, registry).await?;
        jobs.retain(|job, _| asked.contains(job));
        eyre::ensure!(jobs.len() == asked.len(), "of {} jobs {} are left", asked.len(), jobs.len());
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
    eyre::bail!("jobs without an end after twenty minutes: {open:?}")
}

fn has_end(events: &[&str]) -> bool {
    let ends = ["released", "timed out", "settled without fault", "resolved", "defaulted"];
    ends.iter().any(|end| events.contains(end))
}

async fn read_jobs(node: &ExecutionApi, registry: Address) -> eyre::Result<Jobs> {
    let mut jobs = Jobs::new();
    for log in logs(node, registry, 0).await? {
        let known = EVENTS.iter().find(|(_, signature)| log.topic(0) == Some(*signature));
        if let Some(((name, _), job)) = known.zip(log.topic(1)) {
            jobs.entry(job).or_default().push(name);
        }
    }
    Ok(jobs)
}

/// A log as `eth_getLogs` gives it.
#[derive(Debug)]
struct Log {
    topics: Vec<B256>,
    data: Vec<u8>,
    block: u64,
    transaction: Option<B256>,
}

impl Log {
    fn topic(&self, index: usize) -> Option<B256> {
        self.topics.get(index).copied()
    }

    /// Whether it is an event of that job.
    fn is(&self, signature: B256, job: B256) -> bool {
        self.topic(0) == Some(signature) && self.topic(1) == Some(job)
    }
}

/// The logs of a contract from a block on.
async fn logs(node: &ExecutionApi, contract: Address, from: u64) -> eyre::Result<Vec<Log>> {
    let filter = json!([{ "address": contract, "fromBlock": format!("{from:#x}"), "toBlock": "latest" }]);
    let found = node.call("eth_getLogs", filter).await?;
    let read = |log: &Value| -> eyre::Result<Log> {
        let topics = log["topics"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Ok(Log {
            topics: topics.map(str::parse).collect::<Result<_, _>>()?,
            data: hex::decode(log["data"].as_str().unwrap_or_default())?,
            block: quantity(&log["blockNumber"])?,
            transaction: log["transactionHash"].as_str().map(str::parse).transpose()?,
        })
    };
    found.as_array().into_iter().flatten().map(read).collect()
}

fn counts(jobs: &Jobs) -> String {
    let count = |name: &str| jobs.values().filter(|events| events.contains(&name)).count();
    EVENTS.map(|(name, _)| format!("{} {name}", count(name))).join(", ")
}
