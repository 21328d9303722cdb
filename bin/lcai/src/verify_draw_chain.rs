//! What `lcai verify-draw` reads of the chain, and the draws that the chain itself made: reassignments and sortition.

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai_client::{ClientError, Connection};
use lcai_host::{Call, HostClient, HostError};
use lcai_primitives::{
    contracts::{
        AIConfig, Deployment, JobRegistry, ReputationRegistry, Request, SessionManager, WorkerRegistry,
    },
    draw::{Candidate, Sortition},
    ids::{ModelId, SessionId},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Stake that counts, in minimum stakes: SessionManager's and the dispatcher's cap.
pub(crate) const STAKE_CAP_IN_MINIMUMS: u64 = 10;

/// Score where no ReputationRegistry is deployed.
const NEUTRAL_SCORE: u64 = 5_000;

/// Workers of a request that are looked at one by one.
const MAX_WORKERS: usize = 2_000;

/// Contract state at one block.
pub(crate) struct State {
    client: Arc<dyn HostClient>,
    at: B256,
}

impl State {
    pub(crate) fn new(node: &Connection, at: B256) -> Self {
        Self { client: node.chain(), at }
    }

    pub(crate) async fn ask<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return, HostError> {
        let output = self.client.call(Call { to, input: call.abi_encode().into() }, Some(self.at)).await?;
        C::abi_decode_returns(&output)
            .map_err(|e| HostError::Malformed { method: C::SIGNATURE.into(), reason: e.to_string() })
    }

    /// The score that draws count, and the worker's minimum-stake cap.
    pub(crate) async fn score(&self, d: &Deployment, worker: Address) -> Result<U256, HostError> {
        match d.reputation_registry {
            Some(scores) => self.ask(scores, ReputationRegistry::getScoreCall { worker }).await,
            None => Ok(U256::from(NEUTRAL_SCORE)),
        }
    }

    /// Stake above this does not count.
    pub(crate) async fn stake_cap(&self, d: &Deployment) -> Result<U256, HostError> {
        let minimum = self.ask(d.ai_config, AIConfig::getMinWorkerStakeCall {}).await?;
        Ok(minimum.saturating_mul(U256::from(STAKE_CAP_IN_MINIMUMS)))
    }
}

/// A block as far as draws need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) hash: B256,
    pub(crate) parent: B256,
    pub(crate) prevrandao: B256,
    pub(crate) timestamp: u64,
}

fn malformed(method: &'static str) -> impl Fn(String) -> ClientError {
    move |reason| ClientError::Malformed { method, reason }
}

/// The canonical block with a number; `None` when there is none.
pub(crate) async fn header(node: &Connection, number: u64) -> Result<Option<Header>, ClientError> {
    let method = "eth_getBlockByNumber";
    let block: Value = node
        .rpc()
        .request(method, rpc_params![format!("{number:#x}"), false])
        .await
        .map_err(|e| malformed(method)(e.to_string()))?;
    let hash = |name: &str| block.get(name)?.as_str()?.parse().ok();
    let timestamp = || hex(block.get("timestamp")?);
    let found = || {
        let (hash, parent, prevrandao) = (hash("hash")?, hash("parentHash")?, hash("mixHash")?);
        Some(Header { hash, parent, prevrandao, timestamp: timestamp()? })
    };
    if block.is_null() {
        return Ok(None);
    }
    found().map(Some).ok_or_else(|| malformed(method)("the block lacks a field".into()))
}

fn hex(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.trim_start_matches("0x"), 16).ok()
}

/// A log's block, topics, data.
struct Log {
    block: u64,
    topics: Vec<B256>,
    data: Vec<u8>,
}

impl Log {
    fn decode<E: SolEvent>(&self) -> Option<E> {
        E::decode_raw_log(self.topics.iter().copied(), &self.data).ok()
    }
}

/// Every canonical log of a contract with these topics, oldest first.
async fn logs(node: &Connection, address: Address, topics: Value) -> Result<Vec<Log>, ClientError> {
    let method = "eth_getLogs";
    let filter = json!({ "fromBlock": "0x0", "toBlock": "latest", "address": address, "topics": topics });
    let found: Vec<Value> = node
        .rpc()
        .request(method, rpc_params![filter])
        .await
        .map_err(|e| malformed(method)(e.to_string()))?;
    let read = |log: &Value| {
        Some(Log {
            block: hex(log.get("blockNumber")?)?,
            topics: serde_json::from_value(log.get("topics")?.clone()).ok()?,
            data: alloy_primitives::hex::decode(log.get("data")?.as_str()?).ok()?,
        })
    };
    let logs: Option<Vec<Log>> = found.iter().map(read).collect();
    logs.ok_or_else(|| malformed(method)("a log lacks a field".into()))
}

/// What was found to hold, what could not be told, what does not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What holds.
    pub checked: Vec<String>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
    /// What does not hold.
    pub wrong: Vec<String>,
}

impl Findings {
    /// Notes a check under what it was about.
    pub(crate) fn hold(&mut self, holds: bool, what: String) {
        if holds { self.checked.push(what) } else { self.wrong.push(what) }
    }

    /// What is printed of them.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let of = |name: &'static str, what: &'_ [String]| -> Vec<String> {
            what.iter().map(|what| format!("{name:<10} {what}")).collect()
        };
        of("holds", &self.checked)
            .into_iter()
            .chain(of("unchecked", &self.unchecked))
            .chain(of("WRONG", &self.wrong))
    }

    /// An error when something does not hold.
    ///
    /// # Errors
    /// `Unverified` with the first of it.
    pub fn verdict(&self) -> Result<(), ClientError> {
        match self.wrong.first() {
            None => Ok(()),
            Some(what) => Err(ClientError::Unverified(format!("the draw is not what it says: {what}"))),
        }
    }
}

/// Repeats every reassignment of a session: JobRegistry drew its worker by the hash of the block before, that block's
/// randomness, the session and the count, among those eligible.
pub(crate) async fn repeat_reassignments(
    node: &Connection,
    (session, model): (SessionId, ModelId),
    first: Address,
    findings: &mut Findings,
) -> Result<(), ClientError> {
    let deployment = node.network().deployment;
    let topics = json!([JobRegistry::SessionReassigned::SIGNATURE_HASH, B256::from(session.word())]);
    let mut excluded = vec![first];
    for (count, log) in logs(node, deployment.job_registry, topics).await?.iter().enumerate() {
        let Some(event) = log.decode::<JobRegistry::SessionReassigned>() else { continue };
        let Some(block) = header(node, log.block).await? else { continue };
        let seed = (block.parent, block.prevrandao, session.word(), U256::from(count)).abi_encode_params();
        let call = WorkerRegistry::selectEligibleWorkerCall {
            modelId: model.0,
            excluded: excluded.clone(),
            seed: U256::from_be_bytes(keccak256(seed).0),
        };
        let drawn = State::new(node, block.parent).ask(deployment.worker_registry, call).await;
        let what = format!("reassigned in block {} to {}", log.block, event.newWorker);
        match drawn {
            Ok(drawn) if drawn == event.newWorker => {
                findings.checked.push(format!("{what}: the chain's own draw"));
            }
            // The contract drew on the state within its block, which nobody can ask for.
            Ok(drawn) => findings.unchecked.push(format!(
                "{what}: the state before that block draws {drawn}; who was eligible changed within the block"
            )),
            Err(error) => findings.unchecked.push(format!("{what}: {error}")),
        }
        excluded.push(event.newWorker);
    }
    Ok(())
}

/// A sortition that was repeated.
#[derive(Debug, Clone)]
pub struct ClaimAudit {
    /// The session.
    pub session: SessionId,
    /// The request it came of.
    pub request: U256,
    /// The account it was for.
    pub user: Address,
    /// The model.
    pub model: ModelId,
    /// Block of the request; the hash of the next one is the seed.
    pub request_block: u64,
    /// Who claimed it.
    pub worker: Address,
    /// In which block.
    pub claimed_in: u64,
    /// Who was eligible at the request, with the first block in which it might claim.
    pub workers: Vec<(Address, u64)>,
    /// What came of it.
    pub findings: Findings,
}

/// Repeats the sortition a session came of; `None` for one that came another way.
///
/// # Errors
/// When the node does not answer, or answers nonsense.
pub async fn audit_claim(node: &Connection, session: SessionId) -> Result<Option<ClaimAudit>, ClientError> {
    let deployment = node.network().deployment;
    let Some(manager) = deployment.session_manager else { return Ok(None) };
    let topics = json!([SessionManager::SessionReady::SIGNATURE_HASH, null, B256::from(session.word())]);
    let ready = logs(node, manager, topics).await?;
    let Some(ready) = ready.last().and_then(|log| log.decode::<SessionManager::SessionReady>()) else {
        return Ok(None);
    };
    let topics = json!([SessionManager::SessionClaimed::SIGNATURE_HASH, B256::from(ready.reqId)]);
    let claimed = logs(node, manager, topics).await?;
    let missing = || malformed("eth_getLogs")("the request was keyed and never claimed".into());
    let log = claimed.last().ok_or_else(missing)?;
    let claimed = log.decode::<SessionManager::SessionClaimed>().ok_or_else(missing)?;
    let block = header(node, log.block).await?.ok_or_else(missing)?;
    let request: Request = State::new(node, block.hash)
        .ask(manager, SessionManager::getRequestCall { reqId: ready.reqId })
        .await
        .map_err(|e| malformed("getRequest")(e.to_string()))?;
    let mut audit = ClaimAudit {
        session,
        request: ready.reqId,
        user: request.user,
        model: ModelId(request.modelId),
        request_block: request.requestBlock,
        worker: claimed.worker,
        claimed_in: log.block,
        workers: Vec::new(),
        findings: Findings::default(),
    };
    audit.check_adoption(node).await?;
    audit.check_claims(node, block).await?;
    let of = (session, audit.model);
    repeat_reassignments(node, of, claimed.worker, &mut audit.findings).await?;
    Ok(Some(audit))
}

impl ClaimAudit {
    /// JobRegistry made the session for the same user and worker.
    async fn check_adoption(&mut self, node: &Connection) -> Result<(), ClientError> {
        let topics = json!([JobRegistry::SessionAdopted::SIGNATURE_HASH, B256::from(self.session.word())]);
        let adopted = logs(node, node.network().deployment.job_registry, topics).await?;
        let adopted = adopted.last().and_then(|log| log.decode::<JobRegistry::SessionAdopted>());
        let same = adopted.is_some_and(|e| (e.user, e.worker) == (self.user, self.worker));
        self.findings
            .hold(same, format!("SessionAdopted names the user and worker of request {}", self.request));
        Ok(())
    }

    /// When everybody might claim, by the chain's state at the request; and that the claim came in its time.
    async fn check_claims(&mut self, node: &Connection, claim: Header) -> Result<(), ClientError> {
        let of_request = header(node, self.request_block).await?;
        let seed = header(node, self.request_block.saturating_add(1)).await?;
        let (Some(of_request), Some(seed)) = (of_request, seed) else {
            let text = format!("block {} of the request is not there", self.request_block);
            self.findings.unchecked.push(text);
            return Ok(());
        };
        match self.everybody(node, of_request.hash, seed.hash).await {
            Ok(workers) => self.workers = workers,
            Err(error) => {
                self.findings.unchecked.push(format!("who else might have claimed: {error}"));
            }
        }
        // The contract weighs the claimant as it is when it claims: before its block, or after what came first in it.
        let mut soonest = None;
        for at in [claim.parent, claim.hash] {
            match self.first_block(node, at, seed.hash, self.worker).await {
                Ok(first) => soonest = Some(soonest.map_or(first, |known: u64| known.min(first))),
                Err(error) => self.findings.unchecked.push(format!("the claimant at {at}: {error}")),
            }
        }
        if let Some(soonest) = soonest {
            let text = format!(
                "worker {} claimed in block {}, which it might from block {soonest} on",
                self.worker, self.claimed_in
            );
            self.findings.hold(soonest <= self.claimed_in, text);
        }
        Ok(())
    }

    async fn everybody(
        &self,
        node: &Connection,
        at: B256,
        seed: B256,
    ) -> Result<Vec<(Address, u64)>, HostError> {
        let registry = node.network().deployment.worker_registry;
        let call = WorkerRegistry::getEligibleWorkersCall { modelId: self.model.0 };
        let eligible = State::new(node, at).ask(registry, call).await?;
        let mut workers = Vec::new();
        for worker in eligible.into_iter().take(MAX_WORKERS) {
            workers.push((worker, self.first_block(node, at, seed, worker).await?));
        }
        workers.sort_unstable_by_key(|(worker, first)| (*first, *worker));
        Ok(workers)
    }

    /// The first block that might include a worker's claim, by the state at a block.
    async fn first_block(
        &self,
        node: &Connection,
        at: B256,
        seed: B256,
        worker: Address,
    ) -> Result<u64, HostError> {
        let (state, d) = (State::new(node, at), node.network().deployment);
        let blocks = U256::from(self.request_block);
        let total = WorkerRegistry::getTotalStakedCall { blockNumber: blocks };
        let sortition = Sortition {
            seed,
            request: self.request,
            request_block: self.request_block,
            window: state.ask(d.ai_config, AIConfig::getClaimWindowBlocksCall {}).await?.saturating_to(),
            total_stake: state.ask(d.worker_registry, total).await?,
        };
        let candidate = Candidate {
            worker,
            stake: state.ask(d.worker_registry, WorkerRegistry::getWorkerStakeCall { worker }).await?,
            stake_cap: state.stake_cap(&d).await?,
            reputation: state.score(&d, worker).await?.saturating_to(),
        };
        let since = state.ask(d.worker_registry, WorkerRegistry::getWeightSinceCall { worker }).await?;
        Ok(sortition.first_block(&candidate, since.saturating_to()))
    }

    /// What is printed.
    pub fn lines(&self, only: &[Address]) -> Vec<String> {
        let mut lines = vec![
            format!("session   {}, by sortition of request {}", self.session, self.request),
            format!("user      {}", self.user),
            format!("model     {}", self.model),
            format!("block     {} of the request, {} of the claim", self.request_block, self.claimed_in),
            format!("worker    {}", self.worker),
            String::new(),
        ];
        let shown = |worker: &Address| only.is_empty() || only.contains(worker);
        for (worker, first) in self.workers.iter().filter(|(worker, _)| shown(worker)) {
            let claimed = if *worker == self.worker { ", claimed" } else { "" };
            lines.push(format!("{worker}  might claim from block {first} on{claimed}"));
        }
        let absent = only.iter().filter(|worker| !self.workers.iter().any(|(known, _)| known == *worker));
        lines.extend(absent.map(|w| format!("{w}  was not eligible when the session was asked for")));
        lines.push(String::new());
        lines.extend(self.findings.lines());
        lines
    }
}
