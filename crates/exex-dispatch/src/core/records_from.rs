//! Walking the directory by id, for whoever keeps an index of it.

use super::DispatchCore;
use crate::records::{Job, Session};
use lcai_primitives::ids::{JobId, SessionId};

impl DispatchCore {
    /// The sessions from an id on, in order.
    pub fn sessions_from(&self, first: SessionId) -> impl DoubleEndedIterator<Item = (SessionId, &Session)> {
        self.sessions.range(first..).map(|(id, session)| (*id, session))
    }

    /// The jobs from an id on, in order.
    pub fn jobs_from(&self, first: JobId) -> impl DoubleEndedIterator<Item = (JobId, &Job)> {
        self.jobs.rows().range(first..).map(|(id, job)| (*id, job))
    }
}
