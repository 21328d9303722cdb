//! Whether the disputer did its duty, from the chain alone.

use super::{Duty, Epochs, Seed, Tested, duties};
use crate::core::DisputerCore;
use lcai_primitives::ids::JobId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why an epoch cannot be audited.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuditError {
    /// No seed was committed to.
    #[error("nothing was committed for epoch {0}")]
    NotCommitted(u64),
    /// The commitment came when the epoch had begun: jobs may have been chosen by their answers.
    #[error("epoch {epoch} was committed to at {committed_at}, after it began at {start}")]
    CommittedLate {
        /// The epoch.
        epoch: u64,
        /// Block time of the commitment, unix seconds.
        committed_at: u64,
        /// When the epoch began.
        start: u64,
    },
    /// The seed is still secret.
    #[error("epoch {0} is not revealed yet")]
    NotRevealed(u64),
    /// The seed is not the committed one; the contract refuses such a reveal.
    #[error("the seed revealed for epoch {0} is not the one committed to")]
    WrongSeed(u64),
    /// The chain was not followed when the epoch began.
    #[error("what the workers did before epoch {0} is not known here")]
    Unknown(u64),
}

/// A duty that no revealed job meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissedDuty {
    /// The duty.
    pub duty: Duty,
    /// The worker was suspended when it was due, so that nobody could be sent to it.
    pub excused: bool,
}

/// The duties of a revealed epoch that were not done. `core` has followed the chain from before the epoch; nothing else is
/// needed. A duty is met by a revealed job of its worker and model that was submitted after it fell due and before the
/// next epoch's end; each job meets one.
///
/// # Errors
/// When the epoch cannot be audited.
pub fn audit(core: &DisputerCore, epoch: u64, epochs: Epochs) -> Result<Vec<MissedDuty>, AuditError> {
    let row = core.epoch(epoch).ok_or(AuditError::NotCommitted(epoch))?;
    let start = epochs.start(epoch);
    if row.committed_at >= start {
        return Err(AuditError::CommittedLate { epoch, committed_at: row.committed_at, start });
    }
    let revealed = row.revealed.as_ref().ok_or(AuditError::NotRevealed(epoch))?;
    let seed = Seed(revealed.seed);
    if seed.root(epoch) != row.root {
        return Err(AuditError::WrongSeed(epoch));
    }
    let (standing, rate_bps) = core.standing(epoch).ok_or(AuditError::Unknown(epoch))?;
    let jobs = revealed.jobs.iter().filter_map(|job| core.candidate(*job)).collect();
    let duties = duties(&seed, epoch, epochs, standing, rate_bps);
    let met = meet(duties, jobs, epochs.start(epoch.saturating_add(2)));
    let missed = met.into_iter().filter(|(_, job)| job.is_none()).map(|(duty, _)| duty);
    let excused = |duty: &Duty| core.was_suspended(duty.of.worker, duty.at);
    Ok(missed.map(|duty| MissedDuty { duty, excused: excused(&duty) }).collect())
}

/// A job that may meet a duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Candidate {
    /// When it was submitted, unix seconds of block time.
    pub(crate) at: u64,
    /// Whom it tests.
    pub(crate) of: Tested,
    /// The job.
    pub(crate) job: JobId,
}

/// Which job meets which duty, of those submitted before `until`: the earliest that can, so that as many duties as
/// possible are met.
pub(crate) fn meet(duties: Vec<Duty>, mut jobs: Vec<Candidate>, until: u64) -> Vec<(Duty, Option<JobId>)> {
    jobs.sort();
    let met = duties.into_iter().map(|duty| {
        let suits = |job: &Candidate| job.of == duty.of && (duty.at..until).contains(&job.at);
        let place = jobs.iter().position(suits);
        (duty, place.map(|place| jobs.remove(place).job))
    });
    met.collect()
}
