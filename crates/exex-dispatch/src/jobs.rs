//! The jobs by what is asked of them: their sessions, their workers, when they are forgotten.

use crate::{agenda::Agenda, records::Job};
use alloy_primitives::Address;
use lcai_host::{FastMap, Index, Indexed, KeyLog};
use lcai_primitives::ids::{JobId, SessionId};

/// Every job, by its number.
pub(crate) type Jobs = Indexed<JobId, Job, JobIndex>;

/// What follows from the jobs.
#[derive(Debug, Default)]
pub(crate) struct JobIndex {
    /// How many jobs each worker has open; none are not listed.
    open: FastMap<Address, u64>,
    /// The workers for which that changed.
    changed: KeyLog<Address>,
    /// In ascending order; a session without jobs is not listed.
    by_session: FastMap<SessionId, Vec<JobId>>,
    expiries: Agenda<JobId>,
}

/// What the index goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trace {
    worker: Address,
    session: SessionId,
    open: bool,
    forget_after: Option<u64>,
}

impl JobIndex {
    /// How many jobs a worker has open: submitted or acknowledged.
    pub(crate) fn open_jobs_of(&self, worker: &Address) -> u64 {
        self.open.get(worker).copied().unwrap_or_default()
    }

    /// The workers whose number of open jobs changed.
    pub(crate) const fn changed(&self) -> &KeyLog<Address> {
        &self.changed
    }

    /// A session's jobs, oldest first.
    pub(crate) fn of_session(&self, session: &SessionId) -> &[JobId] {
        self.by_session.get(session).map_or(&[], Vec::as_slice)
    }

    /// Takes out what may be forgotten at a time, and since when; it may have been put off.
    pub(crate) fn take_expired(&mut self, now: u64) -> Vec<(u64, JobId)> {
        self.expiries.take(now)
    }

    fn count(&mut self, worker: Address, change: impl FnOnce(u64) -> u64) {
        let count = self.open.entry(worker).or_default();
        *count = change(*count);
        if *count == 0 {
            self.open.remove(&worker);
        }
        self.changed.push(worker);
    }

    fn add_to_session(&mut self, session: SessionId, id: JobId) {
        let jobs = self.by_session.entry(session).or_default();
        if let Err(place) = jobs.binary_search(&id) {
            jobs.insert(place, id);
        }
    }

    fn remove_from_session(&mut self, session: SessionId, id: JobId) {
        let Some(jobs) = self.by_session.get_mut(&session) else { return };
        if let Ok(place) = jobs.binary_search(&id) {
            jobs.remove(place);
        }
        if jobs.is_empty() {
            self.by_session.remove(&session);
        }
    }
}

impl Index<JobId, Job> for JobIndex {
    type Trace = Trace;

    fn trace(job: &Job) -> Trace {
        let (worker, session, open) = (job.worker, job.session_id, job.is_open());
        Trace { worker, session, open, forget_after: job.forget_after }
    }

    fn follow(&mut self, id: &JobId, before: Option<Trace>, after: Option<Trace>) {
        let occupies = |trace: Option<Trace>| trace.filter(|job| job.open).map(|job| job.worker);
        let (had, has) = (occupies(before), occupies(after));
        if had != has {
            had.into_iter().for_each(|worker| self.count(worker, |n| n.saturating_sub(1)));
            has.into_iter().for_each(|worker| self.count(worker, |n| n.saturating_add(1)));
        }
        let session = |trace: Option<Trace>| trace.map(|job| job.session);
        let (was, is) = (session(before), session(after));
        if was != is {
            was.into_iter().for_each(|session| self.remove_from_session(session, *id));
            is.into_iter().for_each(|session| self.add_to_session(session, *id));
        }
        let expires = |trace: Option<Trace>| trace.and_then(|job| job.forget_after);
        if let Some(after) = expires(after).filter(|after| expires(before) != Some(*after)) {
            self.expiries.add(after, *id);
        }
    }

    fn clear(&mut self) {
        let mut changed = std::mem::take(&mut self.changed);
        changed.forget();
        *self = Self { changed, ..Self::default() };
    }
}
