//! `lcai verify-draw`: repeats the draw that gave a session its worker, and says why others were no candidates.

use crate::{
    ask::DEFAULT_RPC,
    verify_draw_chain::{State, header, repeat_reassignments},
};
use alloy_primitives::{Address, U256, utils::format_ether};
use alloy_sol_types::{Eip712Domain, SolCall, SolEvent};
use clap::Args;
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai_client::{ClientError, Connection};
use lcai_crypto::recover_typed;
use lcai_exex_dispatch::{
    HEARTBEAT_SKEW_SECONDS, HEARTBEAT_TTL_SECONDS,
    standing::{FULL_STANDING, MIN_STANDING, weighed_score},
};
use lcai_host::HostError;
use lcai_primitives::{
    contracts::{AIConfig, JobRegistry, WorkerRegistry},
    draw,
    eip712::{self, SessionAuthorization, SignedHeartbeat},
    ids::SessionId,
};
use lcai_rpc::{
    api::LcaiApiClient,
    types::{DrawReport, DrawnWorkerInfo},
};
use std::{collections::BTreeSet, io::Write};

pub use crate::verify_draw_chain::{ClaimAudit, Findings, audit_claim};

/// Flags of `lcai verify-draw`.
#[derive(Debug, Clone, Args)]
pub struct VerifyDrawArgs {
    /// The session's number
    #[arg(value_name = "SESSION")]
    pub session: SessionId,
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
    let session = args.session;
    let (lines, findings) = match kept(&node, session).await? {
        Some(report) => {
            let audit = audit_report(&node, report).await?;
            (audit.lines(&args.worker), audit.findings)
        }
        None => {
            let audit = audit_claim(&node, session).await?.ok_or_else(|| not_kept(session))?;
            (audit.lines(&args.worker), audit.findings)
        }
    };
    let mut out = std::io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    findings.verdict().map_err(Into::into)
}

/// A draw that was repeated.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The facts as the node keeps them.
    pub report: DrawReport,
    /// What the facts give.
    pub drawn: Option<Address>,
    /// What came of it.
    pub findings: Findings,
}

fn malformed(reason: String) -> ClientError {
    ClientError::Malformed { method: "lcai_getDraw", reason }
}

fn not_kept(session: SessionId) -> ClientError {
    malformed(format!(
        "no draw is kept for session {session}: another dispatcher authorized it, or its blobs are gone too"
    ))
}

async fn kept(node: &Connection, session: SessionId) -> Result<Option<DrawReport>, ClientError> {
    node.rpc().get_draw(session).await.map_err(|e| malformed(e.to_string()))
}

/// Repeats the draw of a session from its kept facts, and holds the facts against the chain.
pub async fn audit(node: &Connection, session: SessionId) -> Result<Audit, ClientError> {
    let report = kept(node, session).await?.ok_or_else(|| not_kept(session))?;
    audit_report(node, report).await
}

/// The same with facts from anywhere.
pub async fn audit_report(node: &Connection, report: DrawReport) -> Result<Audit, ClientError> {
    let drawn = repeat(&report);
    let mut audit = Audit { report, drawn, findings: Findings::default() };
    audit.check_draw();
    audit.check_authorization(node).await?;
    if audit.check_block(node).await? {
        audit.check_directory(node).await;
    }
    let of = (audit.report.session_id, audit.report.model_id);
    repeat_reassignments(node, of, audit.report.worker, &mut audit.findings).await?;
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
        self.findings.hold(holds, what);
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
    async fn check_authorization(&mut self, node: &Connection) -> Result<(), ClientError> {
        let session = self.report.session_id;
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
            self.findings
                .unchecked
                .push("the nonce: the session was created through another contract".into());
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

    /// Whether the facts are about a block of the chain, by whose state they can be checked. One that a reorg took away was
    /// the head when the worker was drawn, as far as anybody can tell now.
    async fn check_block(&mut self, node: &Connection) -> Result<bool, ClientError> {
        let (block, time) = (self.report.block, self.report.block_time);
        let found = header(node, block.number).await?;
        let Some(found) = found.filter(|found| found.hash == block.hash) else {
            let text = format!("block {} {} is not on the chain any more", block.number, block.hash);
            self.findings.unchecked.push(text);
            return Ok(false);
        };
        let same = found.timestamp == time;
        self.hold(same, format!("block {} of the chain is {}, its time {time}", block.number, block.hash));
        Ok(true)
    }

    /// Stakes, scores, open jobs and eligibility against the contracts' state at the block, heartbeats against their
    /// signatures, what follows of them against what is said, and nobody left out.
    async fn check_directory(&mut self, node: &Connection) {
        let before = self.findings.wrong.len();
        match self.compare_directory(node).await {
            Ok(()) if self.findings.wrong.len() == before => self.findings.checked.push(format!(
                "stake cap, and stake, score, open jobs, heartbeat, eligibility and weight of {} workers",
                self.report.workers.len()
            )),
            Ok(()) => {}
            Err(error) => {
                self.findings.unchecked.push(format!("the directory at the block: {error}"));
            }
        }
    }

    async fn compare_directory(&mut self, node: &Connection) -> Result<(), HostError> {
        let state = State::new(node, self.report.block.hash);
        let d = node.network().deployment;
        let (registry, model) = (d.worker_registry, self.report.model_id.0);
        let cap = state.stake_cap(&d).await?;
        self.differ("the facts", "the stake cap", self.report.stake_cap, cap);
        let most = state.ask(d.ai_config, AIConfig::getMaxConcurrentJobsCall {}).await?;
        let eligible = state.ask(registry, WorkerRegistry::getEligibleWorkersCall { modelId: model }).await?;
        let known: BTreeSet<Address> = self.report.workers.iter().map(|w| w.worker).collect();
        for hidden in eligible.iter().filter(|worker| !known.contains(*worker)) {
            self.findings.wrong.push(format!("worker {hidden} was eligible and is not in the facts"));
        }
        if !self.report.workers.is_sorted_by(|a, b| a.worker < b.worker) {
            self.findings.wrong.push("the workers are not in order, or one is there twice".into());
        }
        let eligible: BTreeSet<Address> = eligible.into_iter().collect();
        let domain = eip712::domain(d.chain_id, d.job_registry);
        for worker in self.report.workers.clone() {
            let address = worker.worker;
            let chain = ChainFacts {
                stake: state.ask(registry, WorkerRegistry::getWorkerStakeCall { worker: address }).await?,
                score: state.score(&d, address).await?,
                open: state
                    .ask(d.job_registry, JobRegistry::openJobCountCall { worker: address })
                    .await?
                    .saturating_to(),
                most: most.saturating_to(),
                eligible: eligible.contains(&address),
            };
            self.compare(&worker, &chain, &domain);
        }
        Ok(())
    }

    fn differ<T: PartialEq + std::fmt::Display>(&mut self, whose: &str, what: &str, said: T, chain: T) {
        if said != chain {
            self.findings.wrong.push(format!("{whose}: {what} is said to be {said}, the chain has {chain}"));
        }
    }

    fn compare(&mut self, worker: &DrawnWorkerInfo, chain: &ChainFacts, domain: &Eip712Domain) {
        let whose = format!("worker {}", worker.worker);
        self.differ(&whose, "stake", worker.stake, chain.stake);
        self.differ(&whose, "score", U256::from(worker.score), chain.score);
        self.differ(&whose, "the number of open jobs", worker.open_jobs, chain.open);
        let weighed = weighed_score(worker.score, worker.standing_bps);
        if !(MIN_STANDING..=FULL_STANDING).contains(&worker.standing_bps) || worker.reputation != weighed {
            self.findings.wrong.push(format!(
                "{whose}: score {} and standing {} bps weigh {weighed}, not {}",
                worker.score, worker.standing_bps, worker.reputation
            ));
        }
        let heartbeat = worker.heartbeat.clone().map(SignedHeartbeat::from);
        if let Some(heartbeat) = &heartbeat {
            let signer = recover_typed(heartbeat.signing_hash(worker.worker, domain), &heartbeat.signature);
            if signer.ok() != Some(worker.worker) {
                self.findings.wrong.push(format!("{whose}: it did not sign its heartbeat"));
                return;
            }
        }
        let judged = judge(chain, heartbeat.as_ref(), self.report.block_time);
        let said = worker.why_not.as_deref();
        let wrong = match judged {
            Judged::Candidate => said.is_some(),
            Judged::Out(_) => said.is_none(),
            // By when it was heard, which only the node knows.
            Judged::Either => false,
        };
        if wrong {
            self.findings.wrong.push(format!(
                "{whose} is said to be {}, and was {}",
                said.map_or_else(|| "a candidate".to_owned(), |reason| format!("none: {reason}")),
                judged.name()
            ));
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
        lines.extend(self.findings.lines());
        lines
    }

    /// An error when something does not hold.
    pub fn verdict(&self) -> Result<(), ClientError> {
        self.findings.verdict()
    }
}

/// What the contracts have of a worker.
struct ChainFacts {
    stake: U256,
    score: U256,
    open: u64,
    /// AIConfig's `maxConcurrentJobs`.
    most: u64,
    eligible: bool,
}

/// Whether a worker was a candidate, by the chain and its own heartbeat.
enum Judged {
    Candidate,
    Out(&'static str),
    Either,
}

impl Judged {
    fn name(&self) -> String {
        match self {
            Self::Candidate => "a candidate by the chain and its own heartbeat".into(),
            Self::Out(reason) => format!("none: {reason}"),
            Self::Either => "either".into(),
        }
    }
}

fn judge(chain: &ChainFacts, heartbeat: Option<&SignedHeartbeat>, block_time: u64) -> Judged {
    if !chain.eligible {
        return Judged::Out("the registry does not have it among the eligible");
    }
    let Some(heartbeat) = heartbeat else { return Judged::Out("it had sent no heartbeat") };
    let good_until = heartbeat.sent_at.saturating_add(HEARTBEAT_TTL_SECONDS);
    if block_time > good_until.saturating_add(HEARTBEAT_SKEW_SECONDS) {
        return Judged::Out("its heartbeat was too old");
    }
    if heartbeat.is_draining() {
        return Judged::Out("it was draining");
    }
    if !heartbeat.is_ready() {
        return Judged::Out("its model backend did not answer");
    }
    if chain.open >= chain.most.min(u64::from(heartbeat.max_jobs)) {
        return Judged::Out("it had as many open jobs as it may or wants to have");
    }
    if block_time > good_until { Judged::Either } else { Judged::Candidate }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Bytes;

    const NOW: u64 = 1_000_000;

    fn heartbeat(sent_at: u64, max_jobs: u32, status: u8) -> SignedHeartbeat {
        SignedHeartbeat {
            sent_at,
            active_jobs: 0,
            max_jobs,
            models_hash: Default::default(),
            status,
            sequence: 1,
            signature: Bytes::new(),
        }
    }

    #[test]
    fn who_was_a_candidate_follows_from_the_chain_and_the_heartbeat() {
        let chain = |open, eligible| ChainFacts {
            stake: U256::from(1),
            score: U256::from(1),
            open,
            most: 16,
            eligible,
        };
        let judged = |open, eligible, heartbeat: Option<SignedHeartbeat>| match judge(
            &chain(open, eligible),
            heartbeat.as_ref(),
            NOW,
        ) {
            Judged::Candidate => "candidate",
            Judged::Out(_) => "out",
            Judged::Either => "either",
        };
        assert_eq!(judged(3, true, Some(heartbeat(NOW, 4, 0))), "candidate");
        assert_eq!(judged(4, true, Some(heartbeat(NOW, 4, 0))), "out", "as many as it wants");
        assert_eq!(judged(16, true, Some(heartbeat(NOW, 40, 0))), "out", "as many as it may");
        assert_eq!(judged(0, false, Some(heartbeat(NOW, 4, 0))), "out", "not eligible");
        assert_eq!(judged(0, true, None), "out", "never heard");
        assert_eq!(judged(0, true, Some(heartbeat(NOW, 4, 1))), "out", "draining");
        assert_eq!(judged(0, true, Some(heartbeat(NOW, 4, 2))), "out", "no backend");
        assert_eq!(judged(0, true, Some(heartbeat(NOW - 45, 4, 0))), "candidate");
        assert_eq!(
            judged(0, true, Some(heartbeat(NOW - 46, 4, 0))),
            "either",
            "when it was heard is not known"
        );
        assert_eq!(
            judged(0, true, Some(heartbeat(NOW - 106, 4, 0))),
            "out",
            "too old, whenever it was heard"
        );
    }
}
