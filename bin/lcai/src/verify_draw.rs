//! `lcai verify-draw`: repeats the draw that gave a session its worker, and says why others were no candidates.

use crate::ask::DEFAULT_RPC;
use alloy_primitives::{Address, B256, U256, utils::format_ether};
use alloy_sol_types::{SolCall, SolEvent};
use clap::Args;
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai_client::{ClientError, Connection};
use lcai_crypto::recover_typed;
use lcai_host::{Call, HostClient, HostError};
use lcai_primitives::{
    contracts::{JobRegistry, ReputationRegistry, WorkerRegistry},
    draw,
    eip712::{self, SessionAuthorization},
    ids::SessionId,
};
use lcai_rpc::{
    api::LcaiApiClient,
    types::{DrawReport, DrawnWorkerInfo},
};
use std::{collections::BTreeSet, io::Write};

/// Flags of `lcai verify-draw`.
#[derive(Debug, Clone, Args)]
pub struct VerifyDrawArgs {
    /// The session's number
    #[arg(value_name = "SESSION")]
    pub session: u64,
    /// The node that keeps the facts, over WebSocket
    #[arg(long, env = "LCAI_RPC", default_value = DEFAULT_RPC, value_name = "URL")]
    pub rpc: String,
    /// Refuse a node on another chain
    #[arg(long, value_name = "ID")]
    pub chain_id: Option<u64>,
    /// Say why this worker was not drawn; may be repeated [default: all that list the model]
    #[arg(long, value_name = "ADDRESS")]
    pub worker: Vec<Address>,
}

/// Runs `lcai verify-draw`.
pub async fn run(args: VerifyDrawArgs) -> eyre::Result<()> {
    let node = Connection::open(&args.rpc, args.chain_id).await?;
    let audit = audit(&node, SessionId(args.session)).await?;
    let mut out = std::io::stdout().lock();
    for line in audit.lines(&args.worker) {
        writeln!(out, "{line}")?;
    }
    audit.verdict().map_err(Into::into)
}

/// A draw that was repeated.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The facts as the node keeps them.
    pub report: DrawReport,
    /// What the facts give.
    pub drawn: Option<Address>,
    /// What holds.
    pub checked: Vec<String>,
    /// What could not be checked, and why.
    pub unchecked: Vec<String>,
    /// What does not hold.
    pub wrong: Vec<String>,
}

/// Repeats the draw of a session from its kept facts, and holds the facts against the chain.
pub async fn audit(node: &Connection, session: SessionId) -> Result<Audit, ClientError> {
    let malformed = |reason: String| ClientError::Malformed { method: "lcai_getDraw", reason };
    let report = node.rpc().get_draw(session).await.map_err(|e| malformed(e.to_string()))?;
    let Some(report) = report else {
        return Err(malformed(format!(
            "no draw is kept for session {session}: it came by sortition, another dispatcher authorized it, or its blobs \
             are gone too"
        )));
    };
    let drawn = repeat(&report);
    let mut audit = Audit { report, drawn, checked: Vec::new(), unchecked: Vec::new(), wrong: Vec::new() };
    audit.check_draw();
    audit.check_authorization(node, session).await?;
    audit.check_block(node).await?;
    audit.check_directory(node).await;
    Ok(audit)
}

/// Whom the facts draw.
pub fn repeat(report: &DrawReport) -> Option<Address> {
    let candidates: Vec<draw::Candidate> = report
        .workers
        .iter()
        .filter(|w| w.why_not.is_none())
        .map(|w| draw::Candidate {
            worker: w.worker,
            stake: w.stake,
            stake_cap: report.stake_cap,
            reputation: w.reputation,
        })
        .collect();
    draw::draw(report.block.hash, report.user, report.nonce, report.model_id, &candidates)
}

impl Audit {
    fn hold(&mut self, holds: bool, what: String) {
        if holds { self.checked.push(what) } else { self.wrong.push(what) }
    }

    fn check_draw(&mut self) {
        let (drawn, worker) = (self.drawn, self.report.worker);
        let found = drawn.map_or_else(|| "nobody".to_owned(), |worker| worker.to_string());
        self.hold(
            drawn == Some(worker),
            format!("the facts draw {found}, the session was authorized for {worker}"),
        );
    }

    /// The session's own transaction names worker and model, and holds the dispatcher's signature over the nonce.
    async fn check_authorization(
        &mut self,
        node: &Connection,
        session: SessionId,
    ) -> Result<(), ClientError> {
        let malformed = |reason: &str| ClientError::Malformed {
            method: "eth_getTransactionByHash",
            reason: reason.into(),
        };
        let info = node.rpc().get_session(session).await;
        let info = info.ok().flatten().ok_or_else(|| malformed("the session is not on the node's chain"))?;
        let transaction: serde_json::Value = node
            .rpc()
            .request("eth_getTransactionByHash", rpc_params![info.create_transaction])
            .await
            .map_err(|e| malformed(&e.to_string()))?;
        let input = transaction.get("input").and_then(|v| v.as_str()).unwrap_or_default();
        let input = alloy_primitives::hex::decode(input).map_err(|_| malformed("its input is not hex"))?;
        let created = node.receipt(info.create_transaction).await?;
        let event = created.as_ref().and_then(|receipt| {
            let logs = receipt.inner.logs().iter();
            logs.filter_map(|log| JobRegistry::SessionCreated::decode_log(&log.inner).ok())
                .find(|event| event.sessionId == session.word())
        });
        let report = self.report.clone();
        let same = event.is_some_and(|e| {
            (e.user, e.worker, e.modelId) == (report.user, report.worker, report.model_id.0)
        });
        self.hold(
            same,
            format!("SessionCreated in {} names the same user, worker and model", info.create_transaction),
        );
        let Ok(call) = JobRegistry::createSessionCall::abi_decode(&input) else {
            self.unchecked.push("the nonce: the session was created through another contract".into());
            return Ok(());
        };
        let network = node.network();
        let message = SessionAuthorization::for_keys(
            report.user,
            report.model_id,
            report.worker,
            &call.encWorkerKey,
            &call.encDisputerKey,
            report.nonce,
            call.expiry.saturating_to(),
        );
        let domain = eip712::domain(network.deployment.chain_id, network.deployment.job_registry);
        let signer = recover_typed(message.signing_hash(&domain), &call.dispatcherSignature).ok();
        self.hold(
            signer == Some(network.params.dispatcher),
            format!("dispatcher {} signed for nonce {}", network.params.dispatcher, report.nonce),
        );
        Ok(())
    }

    async fn check_block(&mut self, node: &Connection) -> Result<(), ClientError> {
        let block = self.report.block;
        let found: serde_json::Value = node
            .rpc()
            .request("eth_getBlockByNumber", rpc_params![format!("{:#x}", block.number), false])
            .await
            .map_err(|e| ClientError::Malformed { method: "eth_getBlockByNumber", reason: e.to_string() })?;
        let hash = found.get("hash").and_then(|v| v.as_str()).and_then(|text| text.parse::<B256>().ok());
        self.hold(hash == Some(block.hash), format!("block {} of the chain is {}", block.number, block.hash));
        Ok(())
    }

    /// Stakes, scores, open jobs and eligibility against the contracts' state at the block, and nobody left out.
    async fn check_directory(&mut self, node: &Connection) {
        match self.compare_directory(node).await {
            Ok(workers) => {
                self.checked.push(format!("stake, score, open jobs and eligibility of {workers} workers"))
            }
            Err(Some(error)) => self.unchecked.push(format!("the directory at the block: {error}")),
            Err(None) => {}
        }
    }

    /// How many workers agree; `Err(None)` when one does not.
    async fn compare_directory(&mut self, node: &Connection) -> Result<usize, Option<HostError>> {
        let state = State { client: node.chain(), at: self.report.block.hash };
        let deployment = node.network().deployment;
        let (registry, model) = (deployment.worker_registry, self.report.model_id.0);
        let known: BTreeSet<Address> = self.report.workers.iter().map(|w| w.worker).collect();
        let eligible = state.ask(registry, WorkerRegistry::getEligibleWorkersCall { modelId: model }).await?;
        let before = self.wrong.len();
        for hidden in eligible.iter().filter(|worker| !known.contains(*worker)) {
            self.wrong.push(format!("worker {hidden} was eligible and is not in the facts"));
        }
        for worker in self.report.workers.clone() {
            let address = worker.worker;
            let stake = state.ask(registry, WorkerRegistry::getWorkerStakeCall { worker: address }).await?;
            let open =
                state.ask(deployment.job_registry, JobRegistry::openJobCountCall { worker: address }).await?;
            let score = match deployment.reputation_registry {
                Some(scores) => {
                    state.ask(scores, ReputationRegistry::getScoreCall { worker: address }).await?
                }
                None => U256::from(worker.score),
            };
            self.compare(&worker, stake, score, open, eligible.contains(&address));
        }
        if self.wrong.len() > before { Err(None) } else { Ok(known.len()) }
    }

    fn compare(&mut self, worker: &DrawnWorkerInfo, stake: U256, score: U256, open: U256, eligible: bool) {
        let address = worker.worker;
        let mut differ = |what: &str, said: String, chain: String| {
            if said != chain {
                self.wrong.push(format!("worker {address}: the facts say {what} {said}, the chain {chain}"));
            }
        };
        differ("stake", worker.stake.to_string(), stake.to_string());
        differ("score", worker.score.to_string(), score.to_string());
        differ("open jobs", worker.open_jobs.to_string(), open.to_string());
        if worker.why_not.is_none() && !eligible {
            self.wrong.push(format!("worker {address} was a candidate and not eligible"));
        }
    }

    /// What is printed.
    pub fn lines(&self, only: &[Address]) -> Vec<String> {
        let report = &self.report;
        let mut lines = vec![
            format!("session   {}", report.session_id),
            format!("user      {}, nonce {}", report.user, report.nonce),
            format!("model     {}", report.model_id),
            format!("block     {} {}", report.block.number, report.block.hash),
            format!("worker    {}", report.worker),
            String::new(),
        ];
        let weight = |w: &DrawnWorkerInfo| {
            let (worker, stake, stake_cap) = (w.worker, w.stake, report.stake_cap);
            draw::Candidate { worker, stake, stake_cap, reputation: w.reputation }.weight()
        };
        let total =
            report.workers.iter().filter(|w| w.why_not.is_none()).map(weight).fold(U256::ZERO, |a, b| a + b);
        for w in report.workers.iter().filter(|w| only.is_empty() || only.contains(&w.worker)) {
            let figures = format!(
                "stake {} LCAI, score {}, standing {} bps, {} open jobs",
                format_ether(w.stake),
                w.score,
                w.standing_bps,
                w.open_jobs
            );
            lines.push(match &w.why_not {
                Some(reason) => format!("{}  no candidate: {reason}; {figures}", w.worker),
                None => {
                    let bps = (weight(w) * U256::from(10_000)).checked_div(total).unwrap_or_default();
                    let share = bps.saturating_to::<u64>();
                    let drawn = if w.worker == report.worker { "drawn" } else { "candidate" };
                    format!("{}  {drawn}, share {}.{:02} %; {figures}", w.worker, share / 100, share % 100)
                }
            });
        }
        let absent = only.iter().filter(|worker| !report.workers.iter().any(|w| w.worker == **worker));
        lines.extend(absent.map(|w| format!("{w}  no candidate: it did not list the model at the block")));
        lines.push(String::new());
        lines.extend(self.checked.iter().map(|what| format!("holds      {what}")));
        lines.extend(self.unchecked.iter().map(|what| format!("unchecked  {what}")));
        lines.extend(self.wrong.iter().map(|what| format!("WRONG      {what}")));
        lines
    }

    /// An error when something does not hold.
    pub fn verdict(&self) -> Result<(), ClientError> {
        match self.wrong.first() {
            None => Ok(()),
            Some(what) => Err(ClientError::Unverified(format!("the draw is not what it says: {what}"))),
        }
    }
}

/// Contract state at one block.
struct State {
    client: std::sync::Arc<dyn HostClient>,
    at: B256,
}

impl State {
    async fn ask<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return, HostError> {
        let output = self.client.call(Call { to, input: call.abi_encode().into() }, Some(self.at)).await?;
        C::abi_decode_returns(&output)
            .map_err(|e| HostError::Malformed { method: C::SIGNATURE.into(), reason: e.to_string() })
    }
}
