//! The worker's effects.
//!
//! Every effect may be called again at any time: after a crash, after a reorg, because the last attempt failed. Each one
//! therefore first looks what has happened already, on chain and in the worker's own records.

mod acknowledge;
mod answer;
mod claim;
mod infer;
mod money;

use crate::{
    blobs::PoolForm,
    core::{AcknowledgedTask, ClaimTask, JobTask, ReleaseTask, WorkerCore, action},
    heartbeat::Draining,
    load::InferenceLoad,
    node::NodeClient,
    prompts::{OpenError, Prompts},
    store::{SealedAnswer, Store},
};
use alloy_primitives::{Address, B256};
use alloy_signer_local::PrivateKeySigner;
use async_trait::async_trait;
use lcai_host::{
    EffectContext, EffectHandler, EffectOutcome, ExtensionHandle, HostClient, Intent, LaneError, Sent,
    TxLane, TxSpec,
};
use lcai_inference::Backend;
use lcai_primitives::{
    JobState,
    contracts::{self, Deployment},
    ids::{ModelId, SessionId, Subject},
    params::ChainParams,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long an effect waits for another one before it lets the executor look again.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an interrupted effect waits for the pool.
const POOL_PATIENCE: Duration = Duration::from_secs(15);

/// Performs the worker's effects.
pub(crate) struct WorkerHandler {
    pub(crate) deployment: Deployment,
    pub(crate) account: PrivateKeySigner,
    pub(crate) core: ExtensionHandle<WorkerCore>,
    pub(crate) host: Arc<dyn HostClient>,
    pub(crate) node: Arc<NodeClient>,
    pub(crate) prompts: Prompts,
    pub(crate) store: Store,
    pub(crate) backend: Arc<dyn Backend>,
    /// Names of the models it serves.
    pub(crate) models: BTreeMap<ModelId, String>,
    /// Ordinary transactions of the account.
    pub(crate) main: TxLane,
    /// Blob transactions of the blob account.
    pub(crate) blobs: TxLane,
    /// Blocks above the acknowledgement before anything leaves that could be held against the worker after a reorg.
    pub(crate) ack_depth: u64,
    /// Whether the contract takes blob and completion together; asked once.
    pub(crate) atomic: OnceCell<bool>,
    /// The form of sidecar that the pool takes.
    pub(crate) form: PoolForm,
    pub(crate) load: InferenceLoad,
    /// Most effects at once.
    pub(crate) concurrency: usize,
    pub(crate) progress: Arc<Progress>,
    /// Whether the model backend answers.
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) draining: Arc<Draining>,
    /// Open jobs beyond which no session is claimed.
    pub(crate) max_jobs: usize,
    pub(crate) shutdown: CancellationToken,
}

impl fmt::Debug for WorkerHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHandler").field("worker", &self.account.address()).finish_non_exhaustive()
    }
}

/// Lets effects of one job wait for each other.
#[derive(Default)]
pub(crate) struct Progress {
    /// Subjects whose chunks are still on their way.
    streaming: Mutex<HashSet<B256>>,
    changed: Notify,
}

impl Progress {
    fn begin(&self, subject: &Subject) {
        self.streaming.lock().insert(subject.id());
    }

    fn end(&self, subject: &Subject) {
        self.streaming.lock().remove(&subject.id());
        self.changed.notify_waiters();
    }

    fn is_streaming(&self, subject: &Subject) -> bool {
        self.streaming.lock().contains(&subject.id())
    }
}

/// A job as an effect finds it on chain.
pub(crate) struct OnChain {
    pub(crate) job: contracts::Job,
    pub(crate) state: JobState,
}

#[async_trait]
impl EffectHandler for WorkerHandler {
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome {
        if context.interrupted && sends(&intent.action) {
            self.let_pool_settle().await;
        }
        let result = match intent.action.as_str() {
            action::ACKNOWLEDGE => match payload::<JobTask>(intent) {
                Ok(task) => self.acknowledge(&task).await,
                Err(outcome) => Err(outcome),
            },
            action::INFER => match payload::<JobTask>(intent) {
                Ok(task) => self.infer(&task).await,
                Err(outcome) => Err(outcome),
            },
            action::COMPLETE => match payload::<AcknowledgedTask>(intent) {
                Ok(task) => self.complete(&task).await,
                Err(outcome) => Err(outcome),
            },
            action::DELIVER => match payload::<AcknowledgedTask>(intent) {
                Ok(task) => self.deliver(&task).await,
                Err(outcome) => Err(outcome),
            },
            action::RELEASE => match payload::<ReleaseTask>(intent) {
                Ok(task) => self.release(&task, context.attempt).await,
                Err(outcome) => Err(outcome),
            },
            action::WITHDRAW => self.withdraw().await,
            action::CLAIM => match payload::<ClaimTask>(intent) {
                Ok(task) => self.claim(&task, context.attempt).await,
                Err(outcome) => Err(outcome),
            },
            other => Err(abandon(format!("there is no action {other}"))),
        };
        result.unwrap_or_else(|outcome| outcome)
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }
}

/// An effect's end; the early one is `Err`, so that `?` ends an effect.
pub(crate) type Step<T = EffectOutcome> = Result<T, EffectOutcome>;

/// Whether an action sends transactions.
fn sends(action: &str) -> bool {
    [action::ACKNOWLEDGE, action::COMPLETE, action::RELEASE, action::WITHDRAW, action::CLAIM]
        .contains(&action)
}

impl WorkerHandler {
    /// Before an effect is taken up again that a crash interrupted: what it may have sent is still in the pool, and the
    /// contract's state says nothing of it until a block includes it.
    async fn let_pool_settle(&self) {
        let settled = async {
            for account in [self.main.account(), self.blobs.account()] {
                loop {
                    let (mined, known) =
                        (self.host.nonce(account, false).await, self.host.nonce(account, true).await);
                    match (mined, known) {
                        (Ok(mined), Ok(known)) if mined >= known => break,
                        _ => tokio::time::sleep(Duration::from_millis(200)).await,
                    }
                }
            }
        };
        // A transaction that no block ever takes is not waited for until the deadline is gone.
        let _ = timeout(POOL_PATIENCE, settled).await;
    }

    pub(crate) fn me(&self) -> Address {
        self.account.address()
    }

    /// The job on chain, if it is still this subject and ours. The record cannot tell two submissions of one prompt
    /// apart; the core, which saw the transaction, can.
    pub(crate) async fn on_chain(&self, subject: &Subject) -> Step<OnChain> {
        let known = self.core.read(|core| core.job(subject.job_id).map(|row| row.subject));
        if known != Some(*subject) {
            return Err(abandon("the job is not on our chain any more"));
        }
        let job = self.prompts.job(subject.job_id).await.map_err(|e| match e {
            e if e.is_transient() => retry(500, e),
            e => abandon(e),
        })?;
        let same = SessionId::try_from(job.sessionId).ok() == Some(subject.session_id)
            && job.promptBlobHash == subject.prompt_blob_hash;
        if !same {
            return Err(retry(500, "the chain's head has another prompt under this job id"));
        }
        if job.worker != self.me() {
            return Err(abandon("the job is another worker's now"));
        }
        let state = JobState::try_from(job.state).map_err(abandon)?;
        Ok(OnChain { job, state })
    }

    pub(crate) fn params(&self) -> Step<ChainParams> {
        self.core
            .read(|core| core.params().cloned())
            .ok_or_else(|| retry(1000, "AIConfig has not been read yet"))
    }

    /// Sends a transaction and waits until it is included and has succeeded.
    pub(crate) async fn send(&self, lane: &TxLane, spec: TxSpec) -> Step<B256> {
        self.sent(lane, lane.send(spec).await)
    }

    /// What a sending means for the effect.
    pub(crate) fn sent(&self, lane: &TxLane, result: Result<Sent, LaneError>) -> Step<B256> {
        match result {
            Ok(sent) if sent.receipt.success => Ok(sent.hash),
            // Something else changed the job between the estimate and the block; the next attempt finds out what.
            Ok(sent) => Err(retry(500, format!("transaction {} reverted", sent.hash))),
            Err(error @ LaneError::NonceTaken { .. }) => Err(halt(error)),
            Err(error) => {
                metrics::counter!("lcai_worker_transactions_failed_total").increment(1);
                tracing::warn!(%error, account = %lane.account(), "a transaction was not sent");
                Err(retry(1000, error))
            }
        }
    }

    /// Seconds from the newest block to a deadline.
    pub(crate) fn seconds_to(&self, deadline: u64) -> u64 {
        deadline.saturating_sub(self.core.read(WorkerCore::now))
    }

    /// The sealed answer, waiting a little for it. With `streamed`, also for its chunks to have left.
    pub(crate) async fn answer(&self, subject: &Subject, streamed: bool) -> Step<Arc<SealedAnswer>> {
        let wait = async {
            loop {
                let changed = self.progress.changed.notified();
                tokio::pin!(changed);
                // Listens before it looks, so that nothing is missed in between.
                changed.as_mut().enable();
                if let Some(answer) = self.store.answer(subject).await.map_err(storage)?
                    && !(streamed && self.progress.is_streaming(subject))
                {
                    return Ok(answer);
                }
                if let Some(reason) = self.store.given_up(subject).await.map_err(storage)? {
                    return Err(abandon(format!("there is no answer: {reason}")));
                }
                changed.await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err(retry(0, "the answer is not there yet")))
    }
}

/// The seconds kept for blob and completion once the answer is there: a fifth of the completion time (24 of 120).
pub(crate) const fn settle_reserve(params: &ChainParams) -> u64 {
    params.completion_timeout / 5
}

fn payload<T: DeserializeOwned>(intent: &Intent) -> Step<T> {
    postcard::from_bytes(&intent.payload).map_err(|e| abandon(format!("its payload cannot be read: {e}")))
}

pub(crate) fn retry(after_ms: u64, reason: impl fmt::Display) -> EffectOutcome {
    EffectOutcome::Retry { after: Duration::from_millis(after_ms), reason: reason.to_string() }
}

pub(crate) fn abandon(reason: impl fmt::Display) -> EffectOutcome {
    EffectOutcome::Abandon { reason: reason.to_string() }
}

pub(crate) fn halt(reason: impl fmt::Display) -> EffectOutcome {
    EffectOutcome::Halt { reason: reason.to_string() }
}

/// A worker whose records fail must not sign anything more.
pub(crate) fn storage(error: crate::store::StoreError) -> EffectOutcome {
    match error {
        crate::store::StoreError::AlreadySigned { .. } => {
            metrics::counter!("lcai_worker_second_signature_refused_total").increment(1);
            tracing::error!(%error, "a second answer was not signed");
            abandon(error)
        }
        error => halt(error),
    }
}

pub(crate) fn unopened(error: &OpenError) -> EffectOutcome {
    if error.is_transient() { retry(500, error) } else { abandon(error) }
}

#[cfg(test)]
mod tests;
