//! Keeper duties: what anyone may do on chain once block time allows it.

use crate::{
    core::DutyTask,
    duties::Duty,
    mismatch::{self, SignedAnswers},
};
use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use lcai_host::{
    Call, EffectContext, EffectHandler, EffectOutcome, HostClient, HostError, Intent, LaneError, Sent,
    TxLane, TxSpec,
};
use lcai_primitives::{
    contracts::{Deployment, Job, JobRegistry, JobState, SessionStatus, WorkerRegistry},
    ids::{JobId, ModelId, SessionId},
};
use parking_lot::Mutex;
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Takes the bounties out that JobRegistry keeps; also the name of the effect.
pub(crate) const WITHDRAW: &str = "withdraw";

/// What a keeper's transactions came to since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeeperReport {
    /// Transactions that took hold.
    pub done: u64,
    /// Duties that somebody else had done: nothing was sent for them, or what was sent is among the lost.
    pub moot: u64,
    /// Transactions that were included and reverted, because somebody was quicker in the same block.
    pub lost: u64,
    /// Gas used by all of them.
    pub gas_used: u64,
    /// Gas of the lost ones.
    pub gas_lost: u64,
    /// Wei paid for gas.
    pub cost: U256,
    /// Wei paid for the lost ones.
    pub cost_lost: U256,
}

/// Performs duties through one account. Each is idempotent on chain: the lane estimates before it signs, what the chain no
/// longer wants reverts there and is left out, and a competitor that was quicker in the same block costs the gas of one
/// revert, which is reported.
#[derive(Debug)]
pub struct KeeperHandler {
    deployment: Deployment,
    lane: Arc<TxLane>,
    /// `None` for a keeper that keeps no frames: it files no mismatches.
    answers: Option<Arc<dyn SignedAnswers>>,
    /// Jobs that a transaction of ours is about: two batches never hold the same one.
    in_flight: Mutex<HashSet<JobId>>,
    report: Mutex<KeeperReport>,
}

/// How one attempt ended that did not fail.
enum Performed {
    /// In this transaction.
    Now(B256),
    /// There was nothing left to do.
    Moot,
}

impl KeeperHandler {
    /// `lane` is the keeper account's lane for ordinary transactions.
    pub fn new(deployment: Deployment, lane: Arc<TxLane>) -> Self {
        Self { deployment, lane, answers: None, in_flight: Mutex::default(), report: Mutex::default() }
    }

    /// Has it file response mismatches, with the answers that are kept there.
    #[must_use]
    pub fn with_answers(mut self, answers: Arc<dyn SignedAnswers>) -> Self {
        self.answers = Some(answers);
        self
    }

    pub(crate) fn answers(&self) -> Option<&dyn SignedAnswers> {
        self.answers.as_deref()
    }

    pub(crate) const fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// What it came to so far.
    pub fn report(&self) -> KeeperReport {
        *self.report.lock()
    }

    async fn ask<C: SolCall>(&self, client: &dyn HostClient, call: C) -> Result<C::Return, LaneError> {
        let call = Call { to: self.deployment.job_registry, input: call.abi_encode().into() };
        decode::<C>(client.call(call, None).await?)
    }

    /// `withdraw`, while there is something to withdraw.
    async fn withdraw(&self, client: &dyn HostClient) -> Result<Performed, LaneError> {
        let call = JobRegistry::workerBalanceCall { worker: self.lane.account() };
        if self.ask(client, call).await?.is_zero() {
            return Ok(Performed::Moot);
        }
        self.send(WITHDRAW, JobRegistry::withdrawCall {}.abi_encode()).await.map(Performed::Now)
    }

    async fn perform(
        &self,
        duty: Duty,
        task: DutyTask,
        client: &dyn HostClient,
    ) -> Result<Performed, LaneError> {
        match (duty, task) {
            (Duty::Reassign, DutyTask::Session(id)) => self.reassign(id, client).await,
            (_, DutyTask::Jobs(jobs)) => {
                let reserved = Reserved::new(&self.in_flight, jobs);
                self.settle(duty, reserved.jobs.clone(), client).await
            }
            (duty, DutyTask::Session(_)) => {
                let reason = format!("{} is not about a session", duty.action());
                Err(LaneError::Host(HostError::Malformed { method: duty.action().into(), reason }))
            }
        }
    }

    /// The lane's estimate says for all of a batch at once whether the chain still wants it; the jobs are looked at one by
    /// one only where it does not.
    async fn settle(
        &self,
        duty: Duty,
        jobs: Vec<JobId>,
        client: &dyn HostClient,
    ) -> Result<Performed, LaneError> {
        let mut batches = VecDeque::from([jobs]);
        let (mut last, mut failure) = (Performed::Moot, None);
        while let Some(batch) = batches.pop_front() {
            let Some(input) = settling(duty, &batch) else { continue };
            match self.send(duty.action(), input).await {
                Ok(hash) => last = Performed::Now(hash),
                Err(error @ LaneError::Reverted { .. }) => {
                    let wanted = self.wanted(duty, &batch, client).await?;
                    if wanted.len() < batch.len() {
                        batches.push_back(wanted);
                    } else if batch.len() > 1 {
                        // One job that cannot be released reverts its batch: halves until it is alone.
                        let (left, right) = batch.split_at(batch.len() / 2);
                        batches.extend([left.to_vec(), right.to_vec()]);
                    } else {
                        failure = Some(error);
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(last), Err)
    }

    /// Those of the jobs whose duty is still to be done at the chain's head.
    async fn wanted(
        &self,
        duty: Duty,
        jobs: &[JobId],
        client: &dyn HostClient,
    ) -> Result<Vec<JobId>, LaneError> {
        let mut wanted = Vec::new();
        for id in jobs {
            let job: Job = self.ask(client, JobRegistry::getJobCall { jobId: (*id).into() }).await?;
            if is_wanted(duty, &job) {
                wanted.push(*id);
            }
        }
        Ok(wanted)
    }

    async fn reassign(&self, id: SessionId, client: &dyn HostClient) -> Result<Performed, LaneError> {
        let session = self.ask(client, JobRegistry::getSessionCall { sessionId: id.into() }).await?;
        let closed = SessionStatus::try_from(session.status) == Ok(SessionStatus::Closed);
        if closed || self.is_eligible(client, session.worker, ModelId(session.modelId)).await? {
            return Ok(Performed::Moot);
        }
        let input = JobRegistry::reassignSessionCall { sessionId: id.into() }.abi_encode();
        self.send(Duty::Reassign.action(), input).await.map(Performed::Now)
    }

    async fn is_eligible(
        &self,
        client: &dyn HostClient,
        worker: alloy_primitives::Address,
        model: ModelId,
    ) -> Result<bool, LaneError> {
        let call = WorkerRegistry::isEligibleCall { worker, modelId: model.0 };
        let call = Call { to: self.deployment.worker_registry, input: call.abi_encode().into() };
        decode::<WorkerRegistry::isEligibleCall>(client.call(call, None).await?)
    }

    /// Sends and accounts; a transaction that was included and reverted is an error like any other, but paid for.
    pub(crate) async fn send(&self, action: &'static str, input: Vec<u8>) -> Result<B256, LaneError> {
        let sent = self.lane.send(TxSpec::call(self.deployment.job_registry, input.into())).await?;
        self.account(action, &sent);
        if sent.receipt.success {
            return Ok(sent.hash);
        }
        let reason = format!("transaction {} reverted: somebody was quicker in its block", sent.hash);
        Err(LaneError::Reverted { reason, data: Default::default() })
    }

    fn account(&self, action: &'static str, sent: &Sent) {
        let gas = sent.receipt.gas_used;
        let cost = U256::from(gas).saturating_mul(U256::from(sent.receipt.effective_gas_price));
        let mut report = self.report.lock();
        report.gas_used = report.gas_used.saturating_add(gas);
        report.cost = report.cost.saturating_add(cost);
        metrics::counter!("lcai_keeper_gas_total", "action" => action).increment(gas);
        if sent.receipt.success {
            report.done += 1;
        } else {
            report.lost += 1;
            report.gas_lost = report.gas_lost.saturating_add(gas);
            report.cost_lost = report.cost_lost.saturating_add(cost);
            metrics::counter!("lcai_keeper_gas_lost_total", "action" => action).increment(gas);
            tracing::info!(
                target: "lcai::keeper",
                action,
                transaction = %sent.hash,
                gas,
                "somebody was quicker in the same block"
            );
        }
        metrics::gauge!("lcai_keeper_cost_wei").set(f64::from(report.cost));
    }
}

pub(crate) fn decode<C: SolCall>(output: alloy_primitives::Bytes) -> Result<C::Return, LaneError> {
    C::abi_decode_returns(&output).map_err(|e| {
        LaneError::Host(HostError::Malformed { method: C::SIGNATURE.into(), reason: e.to_string() })
    })
}

/// The call that settles jobs; `None` without any.
fn settling(duty: Duty, jobs: &[JobId]) -> Option<Vec<u8>> {
    let first = *jobs.first()?;
    Some(match duty {
        Duty::Release => {
            let jobs = jobs.iter().map(|id| id.word()).collect();
            JobRegistry::releaseJobsCall { jobIds: jobs }.abi_encode()
        }
        Duty::SettleStuck => JobRegistry::settleStuckJobCall { jobId: first.into() }.abi_encode(),
        _ => JobRegistry::claimTimeoutCall { jobId: first.into() }.abi_encode(),
    })
}

/// Whether the chain's head still wants the duty. Whether the time for it has come is the lane's estimate to say.
fn is_wanted(duty: Duty, job: &Job) -> bool {
    let Ok(state) = JobState::try_from(job.state) else { return false };
    match duty {
        Duty::Release => {
            state == JobState::Completed || (state == JobState::Resolved && !job.escrowedFee.is_zero())
        }
        Duty::SettleStuck => matches!(state, JobState::Submitted | JobState::Acknowledged),
        Duty::ClaimTimeout => {
            matches!(state, JobState::Submitted | JobState::Acknowledged | JobState::Disputed)
        }
        Duty::Reassign => false,
    }
}

/// Jobs that no other transaction of ours is about, until it is dropped.
struct Reserved<'a> {
    in_flight: &'a Mutex<HashSet<JobId>>,
    jobs: Vec<JobId>,
}

impl<'a> Reserved<'a> {
    fn new(in_flight: &'a Mutex<HashSet<JobId>>, jobs: Vec<JobId>) -> Self {
        let mut known = in_flight.lock();
        let jobs = jobs.into_iter().filter(|job| known.insert(*job)).collect();
        Self { in_flight, jobs }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut known = self.in_flight.lock();
        for job in &self.jobs {
            known.remove(job);
        }
    }
}

#[async_trait]
impl EffectHandler for KeeperHandler {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        if intent.action == mismatch::ACTION {
            return self.compare(intent, &context).await;
        }
        let abandon = |reason: String| EffectOutcome::Abandon { reason };
        let client = context.client.as_ref();
        let (action, performed) = if intent.action == WITHDRAW {
            (WITHDRAW, self.withdraw(client).await)
        } else {
            let Some(duty) = Duty::of_action(&intent.action) else {
                return abandon(format!("{} is not a keeper duty", intent.action));
            };
            let task: DutyTask = match postcard::from_bytes(&intent.payload) {
                Ok(task) => task,
                Err(e) => return abandon(format!("unreadable payload: {e}")),
            };
            (duty.action(), self.perform(duty, task, client).await)
        };
        let (result, outcome) = self.outcome(action, performed);
        metrics::counter!("lcai_keeper_duties_total", "action" => action, "result" => result).increment(1);
        outcome
    }

    fn concurrency(&self) -> usize {
        16
    }
}

impl KeeperHandler {
    fn outcome(
        &self,
        action: &'static str,
        performed: Result<Performed, LaneError>,
    ) -> (&'static str, EffectOutcome) {
        match performed {
            Ok(Performed::Now(hash)) => {
                tracing::info!(target: "lcai::keeper", action, transaction = %hash, "keeper duty done");
                ("done", EffectOutcome::Done(hash.to_vec()))
            }
            Ok(Performed::Moot) => {
                self.report.lock().moot += 1;
                ("moot", EffectOutcome::Done(Vec::new()))
            }
            Err(error @ LaneError::NonceTaken { .. }) => {
                ("halted", EffectOutcome::Halt { reason: error.to_string() })
            }
            Err(error) if error.is_transient() => {
                let reason = error.to_string();
                ("retry", EffectOutcome::Retry { after: Duration::from_secs(2), reason })
            }
            // Most often somebody was quicker, or the pending block's time is a second short. The core asks again for as
            // long as the chain shows the duty undone.
            Err(error) => ("failed", EffectOutcome::Abandon { reason: error.to_string() }),
        }
    }
}
