//! The core's part in canaries: what workers did before each epoch, what was committed and revealed, which jobs are
//! canaries, and what is to be sent when.

use super::{DisputerCore, action};
use crate::{
    canary::{Candidate, Duty, Standing, Tested},
    plan::decode,
    records::{EpochRow, JobRow, Revealed, Suspension},
};
use alloy_primitives::{Address, B256, Keccak256};
use lcai_host::{CoreError, EffectDepth, Effects, FeedBlock, FeedLog, OnRepeat};
use lcai_primitives::{
    contracts::{CanaryLedger, WorkerRegistry},
    ids::JobId,
};
use serde::{Deserialize, Serialize};

/// Epochs whose standing is kept for audits.
const KEPT_EPOCHS: u64 = 64;

/// Payload of the reveal: what duties are computed of beside the seed, and the jobs that may meet them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RevealTask {
    pub(crate) epoch: u64,
    pub(crate) epoch_seconds: u64,
    pub(crate) standing: Vec<Standing>,
    pub(crate) rate_bps: u32,
    pub(crate) jobs: Vec<Candidate>,
}

impl DisputerCore {
    /// What CanaryLedger holds for an epoch.
    pub fn epoch(&self, epoch: u64) -> Option<&EpochRow> {
        self.epochs.get(&epoch)
    }

    /// What the workers did before an epoch, and the sampling rate (basis points) then; `None` when the chain was not
    /// followed at its beginning, or long ago.
    pub fn standing(&self, epoch: u64) -> Option<(&[Standing], u32)> {
        self.standings.get(&epoch).map(|(standing, rate)| (standing.as_slice(), *rate))
    }

    /// When a job was submitted, and whom it tests.
    pub(crate) fn candidate(&self, job: JobId) -> Option<Candidate> {
        let row = self.jobs.get(&job)?;
        let model = self.sessions.get(&row.subject.session_id)?.model;
        Some(Candidate { at: row.submitted_at, of: Tested { worker: row.worker, model }, job })
    }

    /// Whether an account of our canaries sent a job that meets the duty.
    pub fn has_met(&self, account: Address, duty: &Duty) -> bool {
        let session = |row: &JobRow| self.sessions.get(&row.subject.session_id);
        self.canary_jobs().any(|row| {
            let by = session(row).is_some_and(|s| s.user == account && s.model == duty.of.model);
            by && row.worker == duty.of.worker && row.submitted_at >= duty.at
        })
    }

    /// The epoch of an account of our canaries.
    pub fn canary_epoch(&self, account: Address) -> Option<u64> {
        self.canary_accounts.get(&account).copied()
    }

    /// Whether a worker was suspended at a time, unix seconds.
    pub fn was_suspended(&self, worker: Address, at: u64) -> bool {
        let suspensions = self.suspensions.get(&worker).map(Vec::as_slice).unwrap_or_default();
        suspensions.iter().any(|s| s.from <= at && s.until.is_none_or(|until| at < until))
    }

    /// Whether an account is one of our canaries'.
    pub fn is_canary_account(&self, account: Address) -> bool {
        self.canary_accounts.get(&account).is_some()
    }

    /// Our canaries of an epoch, oldest first. A late one still belongs to the epoch of its account.
    pub fn canaries_of(&self, epoch: u64) -> Vec<JobId> {
        let range = (epoch, JobId(0))..(epoch.saturating_add(1), JobId(0));
        self.canaries.range(range).map(|((_, job), _)| *job).collect()
    }

    /// The jobs of our canaries that are still held, answered or not.
    pub fn canary_jobs(&self) -> impl Iterator<Item = &JobRow> {
        let session = |row: &JobRow| self.sessions.get(&row.subject.session_id);
        let ours = move |row: &JobRow| session(row).is_some_and(|s| self.is_canary_account(s.user));
        self.jobs.iter().map(|(_, row)| row).filter(move |row| ours(row))
    }

    /// Takes stock when a block is the first of an epoch, before anything in it is applied.
    pub(super) fn begin_epoch(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        let (Some(before), epochs) = (self.time.get(&0).copied(), self.config.epochs) else { return Ok(()) };
        let epoch = epochs.of(block.timestamp);
        if epochs.of(before) == epoch {
            return Ok(());
        }
        if let Some(rate) = self.params().map(|params| params.sampling_rate_bps) {
            let standing = self.take_stock(epoch);
            self.standings.insert(epoch, (standing, rate));
        }
        let old: Vec<_> =
            self.served.iter().map(|(key, _)| *key).take_while(|(e, _)| *e + 1 < epoch).collect();
        for key in old {
            self.served.remove(&key);
        }
        let old: Vec<_> =
            self.standings.iter().map(|(e, _)| *e).take_while(|e| *e + KEPT_EPOCHS < epoch).collect();
        for key in old {
            self.standings.remove(&key);
        }
        self.keep_the_ledger(block, epoch, effects)
    }

    fn take_stock(&self, epoch: u64) -> Vec<Standing> {
        let listed = self.listed.iter().map(|(of, _)| *of);
        let free = |of: &Tested| {
            let suspensions = self.suspensions.get(&of.worker).map(Vec::as_slice).unwrap_or_default();
            suspensions.last().is_none_or(|s| s.until.is_some())
        };
        let standing = listed.filter(free).map(|of| Standing {
            of,
            jobs: epoch.checked_sub(1).and_then(|e| self.served.get(&(e, of))).copied().unwrap_or_default(),
            suspected: self.workers.get(&of.worker).is_some_and(|record| record.is_suspected()),
        });
        standing.collect()
    }

    /// Commits to the next epoch, and reveals those that nobody can dispute any more.
    fn keep_the_ledger(
        &mut self,
        block: &FeedBlock,
        epoch: u64,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let Some(params) =
            self.params().filter(|p| self.config.canaries && p.disputer == self.config.account)
        else {
            return Ok(());
        };
        let (epochs, next) = (self.config.epochs, epoch.saturating_add(1));
        let windows = params.dispute_window.saturating_add(params.resolution_timeout);
        let (origin, again, by) = (block.block_ref(), OnRepeat::Again, Some(epochs.start(next)));
        if self.epochs.get(&next).is_none() {
            let subject = self.epoch_subject(next);
            effects.push(origin, subject, action::COMMIT, EffectDepth::Head, again, by, &next)?;
        }
        // A canary may come as late as the end of the next epoch.
        let over = |e: u64| epochs.start(e.saturating_add(2)).saturating_add(windows) < block.timestamp;
        let due: Vec<u64> = self
            .epochs
            .iter()
            .filter(|(e, row)| row.revealed.is_none() && !row.asked && over(**e))
            .map(|(e, _)| *e)
            .collect();
        for epoch in due {
            let (standing, rate_bps) = self.standing(epoch).map_or((Vec::new(), 0), |(s, r)| (s.to_vec(), r));
            let jobs = self.canaries_of(epoch);
            let jobs = jobs.into_iter().filter_map(|job| self.candidate(job)).collect();
            let task = RevealTask { epoch, epoch_seconds: epochs.length, standing, rate_bps, jobs };
            self.epochs.update(&epoch, |row| row.asked = true);
            let subject = self.epoch_subject(epoch);
            effects.push(origin, subject, action::REVEAL, EffectDepth::Finalized, again, None, &task)?;
        }
        Ok(())
    }

    /// The subject of an effect about an epoch.
    fn epoch_subject(&self, epoch: u64) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update("canary epoch");
        hasher.update(self.config.deployment.chain_id.to_be_bytes());
        hasher.update(self.config.deployment.canary_ledger.unwrap_or_default());
        hasher.update(epoch.to_be_bytes());
        hasher.finalize()
    }

    /// What WorkerRegistry and CanaryLedger say.
    pub(super) fn apply_log(&mut self, block: &FeedBlock, log: &FeedLog) {
        if log.address == self.config.deployment.worker_registry {
            self.apply_registry(block, log);
        } else if Some(log.address) == self.config.deployment.canary_ledger {
            if let Some(e) = decode::<CanaryLedger::CanaryCommitted>(log) {
                let row =
                    EpochRow { root: e.root, committed_at: block.timestamp, revealed: None, asked: false };
                self.epochs.insert(e.epoch.saturating_to(), row);
            } else if let Some(e) = decode::<CanaryLedger::CanaryRevealed>(log) {
                let jobs = e.jobIds.iter().filter_map(|job| JobId::try_from(*job).ok()).collect();
                let revealed = Revealed { seed: e.seed, jobs };
                self.epochs.update(&e.epoch.saturating_to(), |row| row.revealed = Some(revealed));
            }
        }
    }

    fn apply_registry(&mut self, block: &FeedBlock, log: &FeedLog) {
        if let Some(e) = decode::<WorkerRegistry::ModelAdded>(log) {
            self.listed.insert(Tested { worker: e.worker, model: e.modelId.into() }, 0);
        } else if let Some(e) = decode::<WorkerRegistry::ModelRemoved>(log) {
            self.listed.remove(&Tested { worker: e.worker, model: e.modelId.into() });
        } else if let Some(e) = decode::<WorkerRegistry::WorkerDeregistered>(log) {
            let gone: Vec<_> =
                self.listed.iter().map(|(of, _)| *of).filter(|of| of.worker == e.worker).collect();
            for of in gone {
                self.listed.remove(&of);
            }
        } else if let Some(e) = decode::<WorkerRegistry::WorkerSuspended>(log) {
            let mut known = self.suspensions.get(&e.worker).cloned().unwrap_or_default();
            known.push(Suspension { from: block.timestamp, until: None });
            self.suspensions.insert(e.worker, known);
        } else if let Some(e) = decode::<WorkerRegistry::WorkerReinstated>(log) {
            self.suspensions.update(&e.worker, |known| {
                if let Some(last) = known.last_mut() {
                    last.until = Some(block.timestamp);
                }
            });
        }
    }

    /// A job was completed: it counts for the worker's standing, and a canary is judged.
    pub(super) fn completed(
        &mut self,
        block: &FeedBlock,
        job: JobId,
        effects: &mut Effects,
    ) -> Result<(), CoreError> {
        let (Some(Candidate { of, .. }), epochs) = (self.candidate(job), self.config.epochs) else {
            return Ok(());
        };
        let key = (epochs.of(block.timestamp), of);
        let served = self.served.get(&key).copied().unwrap_or_default();
        self.served.insert(key, served + 1);

        let Some(params) = self.params().filter(|params| params.disputer == self.config.account) else {
            return Ok(());
        };
        let last = block.timestamp.saturating_add(params.dispute_window);
        let Some(mut case) = self.case(job).filter(|case| case.ours) else { return Ok(()) };
        case.deadline = last;
        let by = Some(last);
        let (origin, subject, again) = (block.block_ref(), case.subject.id(), OnRepeat::Again);
        effects.push(origin, subject, action::JUDGE, EffectDepth::Head, again, by, &case)?;
        effects.push(origin, subject, action::FILE, EffectDepth::Safe, again, by, &case)
    }

    /// A job was submitted: if it is a canary it belongs to its account's epoch, answered or not.
    pub(super) fn note_canary(&mut self, job: JobId) {
        let user =
            self.jobs.get(&job).and_then(|row| self.sessions.get(&row.subject.session_id)).map(|s| s.user);
        if let Some(epoch) = user.and_then(|user| self.canary_epoch(user)) {
            self.canaries.insert((epoch, job), 0);
        }
    }

    /// An account of an epoch's canaries, told before it does anything on chain.
    pub(super) fn add_canary_account(&mut self, account: Address, epoch: u64) {
        self.canary_accounts.insert(account, epoch);
    }
}
