//! The whole story on the network: sessions, ten jobs, canaries, disputes and verdicts, release, and the blobs of all that in
//! the beacon chain.

use super::{MODEL, Net, Side, checker, genesis::SLOTS_PER_EPOCH, watch::Watch};
use crate::{Network, ask, fee, funded};
use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::SolCall;
use clap::Parser;
use eyre::{OptionExt, WrapErr};
use jsonrpsee::core::ClientError;
use lcai::ask::DEFAULT_MODEL;
use lcai_blob::{BeaconSource, BlobHint, BlobSource, FallbackSource};
use lcai_client::{Answer, Connection, User, UserSession};
use lcai_crypto::SessionKey;
use lcai_host::{Call, TxLane, TxSpec};
use lcai_inference::{
    Backend, EmbeddedBackend, EmbeddedModel, GenerateOptions, GenerateRequest, OllamaModel,
};
use lcai_primitives::{
    contracts::{Job, JobRegistry, JobState},
    ids::JobId,
    prompt::{ChatInput, Message, Role},
};
use lcai_rpc::{api::LcaiApiClient, types::JobReceipt, verdicts::WorkerStatistics};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc, time::Duration};

/// Asked by both users in this order: five questions each, and more until the workers' answers differ.
const QUESTIONS: [&str; 8] = [
    "What is 58 plus 42?",
    "What is Quito the capital of?",
    "Do you know the opposite of victory?",
    "Give me the capital of Burkina Faso.",
    "Of which country is Sarajevo the capital?",
    "How much is 9 times 7?",
    "What do people pay with in Japan?",
    "Which is larger, 10 or 93?",
];

/// What was shown, line by line.
#[derive(Debug, Default)]
pub struct Summary(Vec<String>);

impl Summary {
    /// Notes something that was seen, and prints it.
    pub fn note(&mut self, line: impl Into<String>) {
        let line = line.into();
        println!("  * {line}");
        self.0.push(line);
    }

    /// All of it.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// Runs the story; the short one does not wait until the beacon nodes drop a blob.
///
/// # Errors
/// When something does not happen as it should.
pub async fn run(net: &mut Net, watch: &Watch, short: bool, summary: &mut Summary) -> eyre::Result<()> {
    net.wait_for_blocks(watch).await?;
    net.start_workers().await?;
    let (dispatching, disputing) = (net.through(Side::Dispatcher), net.through(Side::Disputer));
    let (cheat, honest) = (dispatching.workers()[0], dispatching.workers()[1]);
    with_ollama(net, summary).await?;
    // One user on each node.
    let (ann, bob) = (funded(&dispatching, 0).await, funded(&disputing, 1).await);
    let (anns, bobs) = (session_with(&ann, cheat).await?, session_with(&bob, honest).await?);
    summary.note(format!(
        "session {} with worker {cheat} through the dispatcher's node, session {} with worker {honest} through the \
         disputer's",
        anns.id, bobs.id
    ));
    let registry = net.genesis.deployment.job_registry;
    let (jobs, disputed) = jobs(registry, (&ann, &anns), (&bob, &bobs)).await?;
    let disputed = disputed.ok_or_eyre("the worse model answers everything as the good one does")?;
    summary.note(format!("{} jobs answered and settled, slot {}", 2 * jobs.len(), net.slot()));
    compared(net, &jobs, summary).await?;
    let [(one, first), (two, second)] = disputed;
    summary.note(format!("jobs {one} and {two} are disputed in blocks {first} and {second}"));

    for (one, two) in &jobs {
        for answer in [one, two] {
            blobs_located(net, &ann, answer, summary).await?;
        }
    }
    asked_on_the_command_line(net, summary).await?;
    released(registry, &ann, &jobs, &disputed).await?;
    summary.note(format!("{} jobs released by the keeper, slot {}", 2 * jobs.len() - 2, net.slot()));
    canaries(net, summary).await?;
    verdicts(net, watch, &ann, registry, disputed, summary).await?;
    if net.embedded {
        summary.note("no blob is lost and found: an embedded client that is stopped forgets its chain");
    } else {
        blobs_found_again(net, &jobs, summary).await?;
    }
    if !short {
        past_retention(net, &jobs[0].0.receipt, summary).await?;
    }
    agreement(net, summary).await
}

/// Sessions until the draw gives one with the worker. A refusal is asked again: the two nodes can be a block apart.
pub(super) async fn session_with(user: &User, worker: Address) -> eyre::Result<UserSession> {
    for _ in 0..60 {
        if let Ok(offer) = user.request_session(DEFAULT_MODEL).await
            && let Ok(session) = user.open_session(&offer, SessionKey::random()).await
            && session.worker == worker
        {
            return Ok(session);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("{worker} was not drawn in sixty sessions")
}

/// Notes which Ollama the honest worker answers through.
async fn with_ollama(net: &Net, summary: &mut Summary) -> eyre::Result<()> {
    let Some(ollama) = &net.ollama else {
        summary.note("no ollama among the parts (devnet/build-parts says why): the honest worker runs its model itself");
        return Ok(());
    };
    let OllamaModel { tag, digest, weights, parameters } = ollama.check().await?;
    summary.note(format!(
        "the honest worker answers through Ollama: {tag}, manifest {digest}, GGUF {}, {parameters:?}; the cheat runs a worse \
         model itself",
        weights.unwrap_or_default()
    ));
    Ok(())
}

/// Compares the answers of both workers, and those of the honest one with what its model says in this process.
async fn compared(net: &Net, jobs: &Jobs, summary: &mut Summary) -> eyre::Result<()> {
    let model = EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path: MODEL.into(), digest: None };
    let here = tokio::task::spawn_blocking(move || EmbeddedBackend::load(&[model], 1)).await??;
    let (mut turns, mut same, mut alike) = (Vec::new(), 0, 0);
    for (question, (cheat, honest)) in QUESTIONS.into_iter().zip(jobs) {
        turns.push(Message::new(Role::User, question));
        let request = GenerateRequest {
            model: DEFAULT_MODEL.to_owned(),
            input: ChatInput::Chat(turns.clone()),
            max_tokens: 64,
            options: GenerateOptions::default(),
        };
        // Nobody reads the pieces.
        let (pieces, _) = tokio::sync::mpsc::channel(1);
        let said = here.generate(request, pieces).await?;
        let text = honest.text.to_string();
        if *said.text == text {
            same += 1;
        } else {
            println!("    {question} -> {text:?} by the honest worker, {:?} here", said.text.as_str());
        }
        alike += usize::from(cheat.text == honest.text);
        turns.push(Message::new(Role::Assistant, text));
    }
    // llama.cpp sums in another order: of 71 conversations two came out otherwise (devnet/model/README.md).
    eyre::ensure!(
        same + 1 >= jobs.len(),
        "only {same} of {} answers of the honest worker are the model's",
        jobs.len()
    );
    let through = if net.ollama.is_some() { "Ollama" } else { "its own process" };
    summary.note(format!(
        "of {} answers of the honest worker, through {through}, {same} are word for word what the embedded backend makes of \
         the same weights, and {alike} what the cheat's embedded backend made of the worse ones",
        jobs.len()
    ));
    Ok(())
}

type Jobs = Vec<(Answer, Answer)>;

/// A disputed job and the block of the dispute.
type Disputed = (JobId, u64);

/// Five questions to both workers at least, and more until their answers differ: both answers of the first pair that does
/// are disputed at once.
async fn jobs(
    registry: Address,
    a: (&User, &UserSession),
    b: (&User, &UserSession),
) -> eyre::Result<(Jobs, Option<[Disputed; 2]>)> {
    let (mut jobs, mut disputed) = (Vec::new(), None);
    for question in QUESTIONS {
        if jobs.len() >= 5 && disputed.is_some() {
            break;
        }
        let ((one, _), (two, _)) = tokio::join!(ask(a.0, a.1, question), ask(b.0, b.1, question));
        println!("    {question} -> {:?} by the cheat, {:?} by the honest worker", one.text, two.text);
        if one.text != two.text && disputed.is_none() {
            let both = tokio::try_join!(dispute(registry, a.0, &one), dispute(registry, b.0, &two))?;
            disputed = Some(both.into());
        }
        jobs.push((one, two));
    }
    Ok((jobs, disputed))
}

/// Disputes a job once its completion is a few blocks deep; gives it and the block of the dispute. Blocks that come late lose
/// their place, and what was in them comes again.
pub(super) async fn dispute(registry: Address, user: &User, answer: &Answer) -> eyre::Result<Disputed> {
    let job = answer.receipt.job.id;
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let call = JobRegistry::disputeJobCall { jobId: job.word() };
    let spec = TxSpec::call(registry, call.abi_encode().into());
    let value = fee(user).await;
    for _ in 0..60 {
        if is_deep(user, answer).await? {
            // It can still be lost between this look and the estimate.
            if let Ok(sent) = lane.send(TxSpec { value, ..spec.clone() }).await {
                eyre::ensure!(sent.receipt.success, "the dispute over job {job} reverted");
                return Ok((job, sent.receipt.block.number));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("job {job} did not stay completed for a minute")
}

/// Whether the chain has the answer that was read, and three blocks over it.
async fn is_deep(user: &User, answer: &Answer) -> eyre::Result<bool> {
    let read = &answer.receipt.job;
    let now = user.node().rpc().get_receipt(read.id).await?.job;
    let same = now.transactions.submit == read.transactions.submit;
    eyre::ensure!(same, "after a reorg job {} is another one", read.id);
    let head = user.node().chain().heads().await?.head.number;
    let depth = now.completed_in.map_or(0, |block| head.saturating_sub(block.number));
    Ok(now.response_ciphertext_hash == read.response_ciphertext_hash && depth >= 3)
}

pub(super) async fn read(user: &User, registry: Address, job: JobId) -> eyre::Result<Job> {
    let call = JobRegistry::getJobCall { jobId: job.word() };
    let call = Call { to: registry, input: call.abi_encode().into() };
    let output = user.node().chain().call(call, None).await?;
    Ok(JobRegistry::getJobCall::abi_decode_returns(&output)?)
}

pub(super) fn state(job: &Job) -> eyre::Result<JobState> {
    JobState::try_from(job.state).map_err(|_| eyre::eyre!("job in an unknown state {}", job.state))
}

/// Waits for both verdicts: the cheat is guilty, the honest worker is not, and neither was given before its dispute was final
/// on the disputer's node.
async fn verdicts(
    net: &Net,
    watch: &Watch,
    user: &User,
    registry: Address,
    disputed: [Disputed; 2],
    summary: &mut Summary,
) -> eyre::Result<()> {
    for ((job, block), who) in disputed.into_iter().zip(["the cheat", "the honest worker"]) {
        let found = ended(user, registry, job, net.plan.params.resolution_timeout).await?;
        eyre::ensure!(found.reExecutionBlobHash != B256::ZERO, "job {job} ended without evidence");
        let full = found.similarityScore == alloy_primitives::U256::from(10_000);
        eyre::ensure!(full == (who == "the honest worker"), "{who}: score {}", found.similarityScore);
        let (told, location) = evidence_located(net, found.reExecutionBlobHash, block).await?;
        let since = watch.final_since(1, block).ok_or_eyre("a verdict before the dispute was final")?;
        // The watch looks once a slot, and asks one node after the other.
        let slack = 4 * net.plan.slot_seconds;
        eyre::ensure!(told + slack >= since, "evidence at {told} before finality at {since}");
        summary.note(format!(
            "verdict on job {job} ({who}): score {} of 10000; dispute in block {block}, final at slot {}; evidence \
             blob {location}",
            found.similarityScore,
            net.slot_at(since),
        ));
    }
    Ok(())
}

pub(super) async fn ended(user: &User, registry: Address, job: JobId, seconds: u64) -> eyre::Result<Job> {
    for _ in 0..seconds {
        let found = read(user, registry, job).await?;
        if state(&found)? != JobState::Disputed {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("no verdict on job {job} within {seconds} s")
}

/// The time of the block with an evidence blob and where the blob is, once the other half's beacon node has that block too.
async fn evidence_located(net: &Net, hash: B256, first: u64) -> eyre::Result<(u64, String)> {
    for _ in 0..2 * SLOTS_PER_EPOCH {
        if let Some((_, time)) = evidence_block(net, hash, first).await?
            && let Ok(location) = locate(net, hash, time).await
        {
            return Ok((time, location));
        }
        tokio::time::sleep(Duration::from_secs(net.plan.slot_seconds)).await;
    }
    eyre::bail!("evidence blob {hash} is in no block of both halves after two epochs")
}

/// The block that carries a blob, from `first` on: its number and time.
async fn evidence_block(net: &Net, hash: B256, first: u64) -> eyre::Result<Option<(u64, u64)>> {
    let node = &net.reth[1].api;
    let head = node.height("latest").await?.ok_or_eyre("no head")?;
    for number in first..=head {
        let block = node.call("eth_getBlockByNumber", json!([format!("{number:#x}"), true])).await?;
        let carries = |transaction: &Value| {
            let hashes = transaction["blobVersionedHashes"].as_array().into_iter().flatten();
            hashes.filter_map(Value::as_str).any(|text| text.parse() == Ok(hash))
        };
        if block["transactions"].as_array().into_iter().flatten().any(carries) {
            return Ok(Some((number, super::execution::quantity(&block["timestamp"])?)));
        }
    }
    Ok(None)
}

/// Waits until every job that was not disputed is released.
async fn released(registry: Address, user: &User, jobs: &Jobs, disputed: &[Disputed]) -> eyre::Result<()> {
    let ids = jobs.iter().flat_map(|(one, two)| [one.receipt.job.id, two.receipt.job.id]);
    for job in ids.filter(|id| disputed.iter().all(|(disputed, _)| disputed != id)) {
        let mut last = None;
        for _ in 0..600 {
            last = Some(state(&read(user, registry, job).await?)?);
            if last == Some(JobState::Released) {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        eyre::ensure!(last == Some(JobState::Released), "job {job} is {last:?} after ten minutes");
    }
    Ok(())
}

/// `lcai ask` through each of our nodes.
async fn asked_on_the_command_line(net: &Net, summary: &mut Summary) -> eyre::Result<()> {
    let sessions = net.plan.path("sessions").display().to_string();
    for (side, account) in [(Side::Dispatcher, "2"), (Side::Disputer, "3")] {
        let url = net.reth[side as usize].ws();
        let words =
            ["lcai", "ask", "--quiet", "--rpc", &url, "--dev-account", account, "--sessions", &sessions];
        let cli =
            lcai::cli::Cli::try_parse_from(words.into_iter().chain(["What is the capital of France?"]))?;
        cli.run().await.wrap_err_with(|| format!("lcai ask on {}", side.name()))?;
        summary.note(format!("`lcai ask` answered and verified through the {}'s node", side.name()));
    }
    Ok(())
}

/// Waits until a worker has answered a canary.
async fn canaries(net: &Net, summary: &mut Summary) -> eyre::Result<()> {
    if net.plan.canary_epoch.is_none() {
        summary.note("no canaries: the embedded disputer sends none");
        return Ok(());
    }
    let operator = net.operator(Side::Disputer)?;
    for _ in 0..900 {
        let answer = operator.call("lcaiOperator_getWorkerStatistics", json!([])).await;
        let all: Vec<WorkerStatistics> = serde_json::from_value(answer["result"].clone())
            .wrap_err_with(|| format!("the disputer's statistics: {answer}"))?;
        let sum = |of: fn(&WorkerStatistics) -> u64| all.iter().map(of).sum::<u64>();
        let answered = sum(|worker| worker.canaries_answered);
        if answered > 0 {
            summary.note(format!(
                "canaries: {} sent, {answered} answered, {} disputed, slot {}",
                sum(|worker| worker.canaries),
                sum(|worker| worker.canaries_disputed),
                net.slot()
            ));
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("no worker answered a canary within 15 minutes")
}

/// The source that a node would read the beacon chain with.
fn beacon(net: &Net, which: usize) -> eyre::Result<BeaconSource> {
    Ok(BeaconSource::new(&net.beacons[which].api.url, Arc::new(|_| None))?)
}

async fn locate(net: &Net, hash: B256, time: u64) -> eyre::Result<String> {
    let found = beacon(net, 0)?.location(hash, time).await?;
    let at = found.ok_or_else(|| eyre::eyre!("blob {hash} is in no slot up to that of {time}"))?;
    Ok(format!("{hash} at slot {} (epoch {}), index {}", at.slot, at.slot / SLOTS_PER_EPOCH, at.index))
}

/// Where both blobs of a job are in the beacon chain. A completion that was just read can lose its place to another block, on
/// one node after the other, and comes again: what is not there is looked for again for two minutes.
async fn blobs_located(net: &Net, user: &User, answer: &Answer, summary: &mut Summary) -> eyre::Result<()> {
    let job = answer.receipt.job.id;
    let mut missing = String::new();
    for _ in 0..120 {
        match blob_locations(net, user, job).await {
            Ok([prompt, response]) => {
                summary.note(format!("job {job}: prompt blob {prompt}"));
                summary.note(format!("job {job}: response blob {response}"));
                return Ok(());
            }
            Err(error) => missing = format!("{error:#}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("job {job}, after two minutes: {missing}")
}

/// Where the chain and the beacon chain have the prompt's blob and the response's, as of now.
async fn blob_locations(net: &Net, user: &User, job: JobId) -> eyre::Result<[String; 2]> {
    let read = user.node().rpc().get_receipt(job).await?.job;
    let of = &read.transactions;
    let prompt = of.prompt_blob.ok_or_eyre("no transaction of the prompt's blob")?;
    let response = read.response_blob_hash.zip(of.response_blob).ok_or_eyre("no response")?;
    let prompt = locate(net, read.prompt_blob_hash, timestamp(user.node(), prompt).await?).await?;
    let response = locate(net, response.0, timestamp(user.node(), response.1).await?).await?;
    Ok([prompt, response])
}

/// The time of the block with a transaction, unix seconds.
async fn timestamp(node: &Connection, transaction: B256) -> eyre::Result<u64> {
    use jsonrpsee::core::client::ClientT;
    let receipt = node.receipt(transaction).await?.ok_or_eyre("no such transaction")?;
    let hash = receipt.block_hash.ok_or_eyre("a pending transaction")?;
    let block: Value = node.rpc().request("eth_getBlockByHash", jsonrpsee::rpc_params![hash, false]).await?;
    super::execution::quantity(&block["timestamp"])
}

/// The disputer's node loses its blobs and finds one again in the beacon chain; and so does whoever asks the stranger.
async fn blobs_found_again(net: &mut Net, jobs: &Jobs, summary: &mut Summary) -> eyre::Result<()> {
    let newest = &jobs[jobs.len() - 1].0.receipt.job;
    let hash = newest.response_blob_hash.ok_or_eyre("a job without a response blob")?;
    let node = &mut net.reth[1];
    node.process.stop();
    let store = net.plan.path("disputer/data/lcai/blobs.redb");
    std::fs::remove_file(&store).wrap_err_with(|| format!("{}", store.display()))?;
    net.start_reth(Side::Disputer)?;
    net.reth[1].answers().await?;
    let blob = blob_once_answered(&net.reth[1].ws(), hash).await?.map_err(|e| eyre::eyre!("{e}"))?;
    let blob = blob.ok_or_eyre("the disputer's node does not find a blob that its store lost")?;
    lcai_blob::verify(&lcai_blob::Blob::try_from(blob.as_ref())?, hash)?;
    summary.note(format!(
        "blob {hash} was deleted with the disputer's store, and found in the beacon chain, slot {}",
        net.slot()
    ));
    let user = Connection::open(&net.reth[0].ws(), None).await?;
    let transaction = newest.transactions.response_blob.ok_or_eyre("no transaction of the blob")?;
    let hint = BlobHint {
        block_number: 0,
        block_hash: B256::ZERO,
        timestamp: timestamp(&user, transaction).await?,
        parent_beacon_block_root: None,
    };
    let stranger = FallbackSource::new(vec![Arc::new(beacon(net, 2)?)]);
    let found = stranger.blob(hash, Some(hint)).await?;
    eyre::ensure!(found.is_some(), "the stranger's beacon node does not have blob {hash}");
    summary.note("the stranger's beacon node gives the same blob");
    Ok(())
}

/// What `lcai_getBlob` says, without a hint.
async fn blob_of(url: &str, hash: B256) -> eyre::Result<Result<Option<Bytes>, String>> {
    let node = Connection::open(url, None).await?;
    match node.rpc().get_blob(hash, None).await {
        Ok(blob) => Ok(Ok(blob)),
        Err(ClientError::Call(refusal)) => Ok(Err(format!("{} {}", refusal.code(), refusal.message()))),
        Err(error) => Err(error.into()),
    }
}

/// Past retention the beacon nodes that the disputer's node reads from drop a blob's columns, and it says that the blob is
/// gone. Prysm takes the time that it keeps them for from its built-in configuration (4096 epochs), whatever the network's
/// file says; so the columns of old epochs are taken off its disk as its pruning would do.
async fn past_retention(net: &mut Net, receipt: &JobReceipt, summary: &mut Summary) -> eyre::Result<()> {
    let hash = receipt.job.prompt_blob_hash;
    let posted = receipt.job.transactions.prompt_blob.ok_or_eyre("no transaction of the prompt's blob")?;
    let user = Connection::open(&net.reth[0].ws(), None).await?;
    let epoch = net.slot_at(timestamp(&user, posted).await?) / SLOTS_PER_EPOCH;
    while net.slot() / SLOTS_PER_EPOCH < epoch + net.plan.retention_epochs + 1 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for which in [1, 2] {
        net.beacons[which].process.stop();
        drop_columns(&net.plan.path(net.beacons[which].process.name()).join("data"), epoch)?;
        net.start_beacon(which)?;
        net.beacons[which].answers().await?;
    }
    match blob_once_answered(&net.reth[1].ws(), hash).await? {
        Err(text) if text.starts_with("-39006") && text.contains("is gone") => {
            summary.note(format!("past retention, slot {}: {text}", net.slot()));
            Ok(())
        }
        other => eyre::bail!("blob {hash}, past retention: {other:?}"),
    }
}

/// As [`blob_of`], again for a minute while no beacon node answers: one that has just started does not know its chain yet.
async fn blob_once_answered(url: &str, hash: B256) -> eyre::Result<Result<Option<Bytes>, String>> {
    for _ in 0..60 {
        let answer = blob_of(url, hash).await?;
        if !matches!(&answer, Err(text) if text.starts_with("-39013")) {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    eyre::bail!("no beacon node says where blob {hash} is for a minute")
}

/// Removes the columns of the epochs up to one: `data-columns/PERIOD/EPOCH`.
fn drop_columns(data: &Path, last: u64) -> eyre::Result<()> {
    for period in std::fs::read_dir(data.join("data-columns"))? {
        let period = period?.path();
        for epoch in 0..=last {
            let epoch = period.join(epoch.to_string());
            if epoch.is_dir() {
                std::fs::remove_dir_all(epoch)?;
            }
        }
    }
    Ok(())
}

/// All three execution nodes have the same chain.
///
/// # Errors
/// When they do not; the text says where.
pub async fn agreement(net: &Net, summary: &mut Summary) -> eyre::Result<()> {
    let agreement = checker::compare(&[&net.reth[0].api, &net.reth[1].api, &net.geth.api]).await?;
    let ours = if net.embedded { "both embedded nodes" } else { "both Reth nodes" };
    summary.note(format!("{ours} and geth agree: {agreement}"));
    // What geth writes about a block that it does not accept.
    let refused = net.geth.process.log_lines(&["BAD BLOCK", "Invalid payload", "invalid block"])?;
    eyre::ensure!(refused.is_empty(), "geth refused blocks: {refused:?}");
    Ok(())
}
