//! The disputer's pure core: which disputes there are, and what is to be done about them by when.

mod canaries;
mod published;
#[cfg(test)]
mod tests;

pub(crate) use canaries::RevealTask;

use crate::{
    canary::{Epochs, Standing, Tested},
    plan::{Touched, decode, job_call, params_calls, session_call},
    records::{
        AnswerRow, Case, DisputeRow, EpochRow, JobRow, Outcome, PriorRef, SessionRow, Suspension,
        WorkerRecord,
    },
};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{
    AnyTable, BlockRef, Call, CoreError, EffectDepth, Effects, Extension, FeedBlock, OnRepeat, Table,
};
use lcai_primitives::{
    JobState,
    contracts::{self, Deployment, JobRegistry},
    history::HISTORY_BLOCKS,
    ids::{JobId, SessionId, Subject},
    params::ChainParams,
};
use serde::{Deserialize, Serialize};

/// Actions of the disputer, the second half of an effect's identity.
pub(crate) mod action {
    /// Repeat the job and compare. At the head: it takes time, and nothing leaves the node.
    pub(crate) const JUDGE: &str = "judge";
    /// As [`JUDGE`], with the knowledge that the answer was never published.
    pub(crate) const JUDGE_UNPUBLISHED: &str = "judgeUnpublished";
    /// Publish the evidence and rule, once the dispute is final.
    pub(crate) const RESOLVE: &str = "resolveDispute";
    /// The same once the dispute is safe, when time is running out.
    pub(crate) const RESOLVE_LATE: &str = "resolveDisputeLate";
    /// File a dispute over a canary that was answered wrongly.
    pub(crate) const FILE: &str = "disputeJob";
    /// Commit to the next epoch's seed.
    pub(crate) const COMMIT: &str = "commitCanaries";
    /// Reveal an epoch's seed and canaries.
    pub(crate) const REVEAL: &str = "revealCanaries";
}

/// Escrowed keys kept per session; older ones are those of workers it left long ago.
const MAX_ESCROWED: usize = 8;

/// Epochs of canaries after the beginning of one within which it is revealed and audited, beside the windows.
const AUDITED_EPOCHS: u64 = 4;

/// What the core is told once and for all.
#[derive(Debug, Clone)]
pub struct DisputerConfig {
    /// The contracts.
    pub deployment: Deployment,
    /// The account that rules; while AIConfig names another, nothing is done.
    pub account: Address,
    /// Blocks that a reorg may go back; histories within this reach of a job count.
    pub reorg_depth: u64,
    /// How time is cut into epochs of canaries; the same for everybody who audits.
    pub epochs: Epochs,
    /// Whether this node runs canaries: it then commits and reveals.
    pub canaries: bool,
}

impl DisputerConfig {
    /// Reorgs of up to 64 blocks (two epochs of the beacon chain), canary epochs of six hours, no canaries.
    pub const fn new(deployment: Deployment, account: Address) -> Self {
        Self { deployment, account, reorg_depth: 64, epochs: Epochs { length: 21_600 }, canaries: false }
    }
}

/// Something that may be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Expiring {
    Job(JobId),
    Session(SessionId),
}

/// The pure core of the disputer.
#[derive(Debug)]
pub struct DisputerCore {
    config: DisputerConfig,
    params: Table<u8, ChainParams>,
    /// The newest block's time, unix seconds.
    time: Table<u8, u64>,
    sessions: Table<SessionId, SessionRow>,
    jobs: Table<JobId, JobRow>,
    /// Open disputes by the block time from which a verdict no longer waits for finality.
    urgent: Table<(u64, JobId), u8>,
    workers: Table<Address, WorkerRecord>,
    expiries: Table<(u64, Expiring), u8>,
    /// Blobs that recent blocks included, by block, with its time.
    blobs: Table<u64, (u64, Vec<B256>)>,
    /// Answers whose blob no block included yet, by the block at which that becomes a verdict.
    awaited: Table<(u64, JobId), published::Awaited>,
    /// Which workers list which models.
    listed: Table<Tested, u8>,
    suspensions: Table<Address, Vec<Suspension>>,
    /// Jobs completed, by epoch of the completion.
    served: Table<(u64, Tested), u64>,
    /// What the workers did before each epoch, and the sampling rate then.
    standings: Table<u64, (Vec<Standing>, u32)>,
    /// CanaryLedger's.
    epochs: Table<u64, EpochRow>,
    /// Our canaries, by the epoch of their account.
    canaries: Table<(u64, JobId), u8>,
    /// With their epochs. Written by inputs only, so that it survives reverts.
    canary_accounts: Table<Address, u64>,
}

impl DisputerCore {
    /// An empty core; the runner fills it from the journal.
    pub fn new(config: DisputerConfig) -> Self {
        Self {
            config,
            params: Table::new("params"),
            time: Table::new("time"),
            sessions: Table::new("sessions"),
            jobs: Table::new("jobs"),
            urgent: Table::new("urgent"),
            workers: Table::new("workers"),
            expiries: Table::new("expiries"),
            blobs: Table::new("blobs"),
            awaited: Table::new("awaited"),
            listed: Table::new("listed"),
            suspensions: Table::new("suspensions"),
            served: Table::new("served"),
            standings: Table::new("standings"),
            epochs: Table::new("epochs"),
            canaries: Table::new("canaries"),
            canary_accounts: Table::new("canary accounts"),
        }
    }

    /// AIConfig's values; `None` before the first block.
    pub fn params(&self) -> Option<&ChainParams> {
        self.params.get(&0)
    }

    /// The newest block's time, unix seconds; 0 before the first block.
    pub fn block_time(&self) -> u64 {
        self.time.get(&0).copied().unwrap_or_default()
    }

    /// A job.
    pub fn job(&self, id: JobId) -> Option<&JobRow> {
        self.jobs.get(&id)
    }

    /// A session.
    pub fn session(&self, id: SessionId) -> Option<&SessionRow> {
        self.sessions.get(&id)
    }

    /// What became of each worker's answers.
    pub fn workers(&self) -> impl Iterator<Item = (&Address, &WorkerRecord)> {
        self.workers.iter()
    }

    /// Everything known of a job that has an answer, whether or not its session escrowed a key. `deadline` and `threshold_bps` are
    /// the dispute's; without one there is no deadline, and the threshold is that of canaries.
    pub fn case(&self, id: JobId) -> Option<Case> {
        let row = self.jobs.get(&id)?;
        let answer = row.answer?;
        let session = self.sessions.get(&row.subject.session_id)?;
        let ours = self.is_canary_account(session.user);
        let (threshold_bps, deadline, by_user) = match &row.dispute {
            Some(dispute) => {
                (dispute.threshold_bps, dispute.deadline, dispute.filer == session.user && !ours)
            }
            None => (bps(self.params()?.canary_similarity_threshold_bps), u64::MAX, false),
        };
        Some(Case {
            subject: row.subject,
            user: session.user,
            model: session.model,
            by_user,
            canary: row.dispute.is_none(),
            ours,
            escrow: session.escrow.clone(),
            escrowed_at: session.escrowed_at,
            submit_block: row.submitted_in.number,
            answer,
            unpublished: row.unpublished,
            prior: self.prior(session, id, row.submitted_in.number),
            threshold_bps,
            deadline,
        })
    }

    /// The session's other jobs that can be part of the job's history on this fork or a recent one.
    fn prior(&self, session: &SessionRow, job: JobId, submit_block: u64) -> Vec<PriorRef> {
        let depth = self.config.reorg_depth;
        let first = submit_block.saturating_sub(HISTORY_BLOCKS.saturating_add(depth));
        let last = submit_block.saturating_add(depth);
        let rows = session.jobs.iter().filter(|id| **id != job);
        rows.filter_map(|id| Some((*id, self.jobs.get(id)?)))
            .filter(|(_, row)| (first..=last).contains(&row.submitted_in.number))
            .map(|(job_id, row)| PriorRef {
                job_id,
                submit_block: row.submitted_in.number,
                prompt_blob_hash: row.subject.prompt_blob_hash,
                response: row.answer.map(|answer| (answer.blob_hash, answer.block)),
            })
            .collect()
    }

    fn read<C: SolCall>(block: &FeedBlock, call: &Call) -> Result<Option<C::Return>, CoreError> {
        match block.read(call) {
            None => Err(CoreError::MissingRead { number: block.number, what: C::SIGNATURE.to_owned() }),
            // A getter that reverts says that the record does not exist.
            Some(Err(_)) => Ok(None),
            Some(Ok(output)) => Ok(C::abi_decode_returns(output).ok()),
        }
    }

    /// Parameters that cannot be read leave the old ones: the chain may hold any AIConfig.
    fn apply_params(&mut self, block: &FeedBlock) {
        let calls = params_calls(&self.config.deployment);
        let answers: Option<Vec<&Bytes>> = calls.iter().map(|call| block.read(call)?.ok()).collect();
        if let Some(params) = answers.and_then(|answers| ChainParams::from_returns(&answers).ok()) {
            self.params.insert(0, params);
        }
    }

    fn apply_session(&mut self, block: &FeedBlock, id: U256) -> Result<(), CoreError> {
        let Ok(session_id) = SessionId::try_from(id) else { return Ok(()) };
        let call = session_call(&self.config.deployment, id);
        let Some(record) = Self::read::<JobRegistry::getSessionCall>(block, &call)? else { return Ok(()) };
        if self.sessions.get(&session_id).is_none() {
            let row = SessionRow {
                user: record.user,
                model: record.modelId.into(),
                escrow: Vec::new(),
                escrowed_at: block.timestamp,
                jobs: Vec::new(),
                last_activity: block.timestamp,
            };
            self.sessions.insert(session_id, row);
            self.expire(block, Expiring::Session(session_id));
        }
        self.sessions.update(&session_id, |session| {
            let key = record.encDisputerKey;
            if !key.is_empty() && session.escrow.first() != Some(&key) {
                session.escrow.insert(0, key);
                session.escrowed_at = block.timestamp;
                session.escrow.truncate(MAX_ESCROWED);
            }
        });
        Ok(())
    }

    fn apply_job(&mut self, block: &FeedBlock, id: U256, effects: &mut Effects) -> Result<(), CoreError> {
        let Ok(job_id) = JobId::try_from(id) else { return Ok(()) };
        let call = job_call(&self.config.deployment, id);
        let Some(record) = Self::read::<JobRegistry::getJobCall>(block, &call)? else { return Ok(()) };
        let Ok(state) = JobState::try_from(record.state) else { return Ok(()) };
        let known = self.jobs.get(&job_id).cloned();
        let fresh = known.is_none();
        // None: of a session from before the feed's first block, whose jobs cannot be repeated.
        let Some(mut row) = known.or_else(|| self.new_job(block, job_id, &record)) else { return Ok(()) };
        row.state = state;
        let completed = row.answer.is_none() && !record.responseBlobHash.is_zero();
        if completed {
            row.answer = Some(AnswerRow {
                block: saturating(record.completionBlockNumber),
                blob_hash: record.responseBlobHash,
                ciphertext_hash: record.responseCiphertextHash,
            });
            self.count(row.worker, |worker| worker.completed += 1);
        }
        let filed = row.dispute.is_none() && !record.disputeCreatedAt.is_zero();
        if filed {
            row.dispute = self.dispute(block, &row, &record);
            self.count(row.worker, |worker| worker.disputed += 1);
        }
        let outcome = ended(block, &self.config.deployment, id);
        if let Some(outcome) = outcome {
            self.settle(&mut row, outcome);
        }
        let open = state == JobState::Disputed;
        if matches!(state, JobState::TimedOut | JobState::Resolved | JobState::Released) {
            self.expire(block, Expiring::Job(job_id));
        }
        self.jobs.insert(job_id, row);
        if fresh {
            self.note_canary(job_id);
        }
        if completed {
            self.await_blob(block, job_id);
            self.completed(block, job_id, effects)?;
        }
        if filed && open {
            self.take_case(block, job_id, effects)?;
        }
        Ok(())
    }

    fn new_job(&mut self, block: &FeedBlock, job_id: JobId, record: &contracts::Job) -> Option<JobRow> {
        let session_id = SessionId::try_from(record.sessionId).ok()?;
        let (id, registry) = (B256::from(job_id.word()), self.config.deployment.job_registry);
        // Without its submission this is a late word on a job that was forgotten.
        let submitted = block.logs.iter().find(|log| {
            log.address == registry
                && log.topics.first() == Some(&JobRegistry::JobSubmitted::SIGNATURE_HASH)
                && log.topics.get(1) == Some(&id)
        })?;
        self.sessions.update(&session_id, |session| {
            session.jobs.push(job_id);
            session.last_activity = block.timestamp;
        })?;
        Some(JobRow {
            subject: Subject {
                chain_id: self.config.deployment.chain_id,
                contract: registry,
                job_id,
                session_id,
                prompt_blob_hash: record.promptBlobHash,
                submit_tx_hash: submitted.transaction_hash,
            },
            worker: record.worker,
            state: JobState::Submitted,
            submitted_in: block.block_ref(),
            submitted_at: block.timestamp,
            answer: None,
            unpublished: false,
            dispute: None,
        })
    }

    /// The terms of a new dispute. They stay as they were when it was filed, whatever AIConfig says later; the deadline is
    /// the contract's to decide, and it reads AIConfig then, so the handler looks again.
    fn dispute(&self, block: &FeedBlock, row: &JobRow, record: &contracts::Job) -> Option<DisputeRow> {
        let params = self.params()?;
        let user = self.sessions.get(&row.subject.session_id)?.user;
        let threshold = if record.disputeFiler == user && !self.is_canary_account(user) {
            params.similarity_threshold_bps
        } else {
            params.canary_similarity_threshold_bps
        };
        Some(DisputeRow {
            filer: record.disputeFiler,
            created_in: block.block_ref(),
            deadline: saturating(record.disputeCreatedAt).saturating_add(params.resolution_timeout),
            threshold_bps: bps(threshold),
            outcome: None,
        })
    }

    /// Asks for a verdict, if it is ours to give and can be reached.
    fn take_case(&mut self, block: &FeedBlock, job: JobId, effects: &mut Effects) -> Result<(), CoreError> {
        let Some(params) = self.params().filter(|params| params.disputer == self.config.account) else {
            return Ok(());
        };
        let quarter = params.resolution_timeout / 4;
        let Some(case) = self.case(job) else { return Ok(()) };
        let (origin, subject, by) = (block.block_ref(), case.subject.id(), Some(case.deadline));
        let again = OnRepeat::Again;
        effects.push(origin, subject, action::JUDGE, EffectDepth::Head, again, by, &case)?;
        effects.push(origin, subject, action::RESOLVE, EffectDepth::Finalized, again, by, &case)?;
        self.urgent.insert((case.deadline.saturating_sub(quarter), job), 0);
        Ok(())
    }

    /// Under a quarter of the time is left: what is safe is final enough.
    fn hurry(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        let due: Vec<(u64, JobId)> =
            self.urgent.range(..=(block.timestamp, JobId(u64::MAX))).map(|(key, _)| *key).collect();
        for key in due {
            self.urgent.remove(&key);
            let dispute = self.jobs.get(&key.1).and_then(|row| row.dispute.clone());
            let (Some(case), Some(dispute)) = (self.case(key.1), dispute) else { continue };
            if dispute.outcome.is_some() {
                continue;
            }
            // The depth counts from the dispute, not from the moment that time ran short.
            let (origin, subject, by) = (dispute.created_in, case.subject.id(), Some(case.deadline));
            let (safe, again) = (EffectDepth::Safe, OnRepeat::Again);
            effects.push(origin, subject, action::RESOLVE_LATE, safe, again, by, &case)?;
        }
        Ok(())
    }

    fn settle(&mut self, row: &mut JobRow, outcome: Outcome) {
        self.count(row.worker, |worker| match outcome {
            Outcome::Guilty(_) => worker.convicted += 1,
            Outcome::NotGuilty(_) => worker.acquitted += 1,
            Outcome::Defaulted => worker.defaulted += 1,
        });
        if let Some(dispute) = &mut row.dispute {
            dispute.outcome = Some(outcome);
        }
    }

    fn count(&mut self, worker: Address, change: impl FnOnce(&mut WorkerRecord)) {
        let mut record = self.workers.get(&worker).copied().unwrap_or_default();
        change(&mut record);
        self.workers.insert(worker, record);
    }

    /// Seconds for which jobs and sessions are kept: what a later dispute may need, and what whoever audits an epoch of
    /// canaries needs, which is revealed three epochs and the windows after it began.
    fn kept(&self) -> u64 {
        let keep = |p: &ChainParams| {
            let windows = p.dispute_window.saturating_add(p.resolution_timeout);
            let audited = self.config.epochs.length.saturating_mul(AUDITED_EPOCHS).saturating_add(windows);
            p.blob_retention_period.max(audited)
        };
        self.params().map_or(u64::MAX, keep)
    }

    fn expire(&mut self, block: &FeedBlock, what: Expiring) {
        let keep = self.kept();
        self.expiries.insert((block.timestamp.saturating_add(keep), what), 0);
    }

    fn forget_expired(&mut self, block: &FeedBlock) {
        let due: Vec<_> =
            self.expiries.iter().map(|(key, _)| *key).take_while(|(at, _)| *at < block.timestamp).collect();
        for key in due {
            self.expiries.remove(&key);
            match key.1 {
                Expiring::Job(id) => {
                    let session = self.jobs.remove(&id).map(|row| row.subject.session_id);
                    if let Some(session) = session {
                        self.sessions.update(&session, |row| row.jobs.retain(|job| *job != id));
                        self.forget_session(block, session);
                    }
                }
                Expiring::Session(id) => self.forget_session(block, id),
            }
        }
    }

    /// A session is kept while it was active within the time for which its jobs are, and while one of them is: those end
    /// after its last activity, and the last of them to be forgotten takes the session along.
    fn forget_session(&mut self, block: &FeedBlock, id: SessionId) {
        let keep = self.kept();
        let Some(session) = self.sessions.get(&id) else { return };
        let until = session.last_activity.saturating_add(keep);
        if until >= block.timestamp {
            self.expiries.insert((until, Expiring::Session(id)), 0);
        } else if session.jobs.is_empty() {
            self.sessions.remove(&id);
        }
    }
}

/// How the block ended the dispute over a job, if it did.
fn ended(block: &FeedBlock, deployment: &Deployment, job: U256) -> Option<Outcome> {
    let logs = block.logs.iter().filter(|log| log.address == deployment.job_registry);
    logs.filter(|log| log.topics.get(1) == Some(&B256::from(job))).find_map(|log| {
        if let Some(verdict) = decode::<JobRegistry::DisputeResolved>(log) {
            let score = saturating(verdict.similarityScore);
            return Some(if verdict.workerGuilty {
                Outcome::Guilty(score)
            } else {
                Outcome::NotGuilty(score)
            });
        }
        decode::<JobRegistry::DisputeDefaulted>(log).map(|_| Outcome::Defaulted)
    })
}

fn saturating(value: U256) -> u64 {
    value.saturating_to()
}

/// A rate of AIConfig; one above 10,000 cannot be reached by any score.
fn bps(rate: u32) -> u16 {
    u16::try_from(rate).unwrap_or(u16::MAX)
}

impl Extension for DisputerCore {
    const NAME: &'static str = "disputer";
    const VERSION: u32 = 2;

    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        self.begin_epoch(block, effects)?;
        self.time.insert(0, block.timestamp);
        self.note_blobs(block);
        for log in &block.logs {
            self.apply_log(block, log);
        }
        let touched = Touched::of(block, &self.config.deployment);
        if touched.config || self.params().is_none() {
            self.apply_params(block);
        }
        for session in touched.sessions {
            self.apply_session(block, session)?;
        }
        for job in touched.jobs {
            self.apply_job(block, job, effects)?;
        }
        self.find_unpublished(block, effects)?;
        self.hurry(block, effects)?;
        self.forget_expired(block);
        Ok(())
    }

    /// An input is an account of our canaries with its epoch.
    fn input(&mut self, _at: BlockRef, input: &[u8], _effects: &mut Effects) -> Result<(), CoreError> {
        let (account, epoch) = postcard::from_bytes(input).map_err(|e| CoreError::BadInput(e.to_string()))?;
        self.add_canary_account(account, epoch);
        Ok(())
    }

    fn tables(&mut self) -> Vec<&mut dyn AnyTable> {
        vec![
            &mut self.params,
            &mut self.time,
            &mut self.sessions,
            &mut self.jobs,
            &mut self.urgent,
            &mut self.workers,
            &mut self.expiries,
            &mut self.blobs,
            &mut self.awaited,
            &mut self.listed,
            &mut self.suspensions,
            &mut self.served,
            &mut self.standings,
            &mut self.epochs,
            &mut self.canaries,
            &mut self.canary_accounts,
        ]
    }
}
