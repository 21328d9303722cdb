//! What this node has judged and signed, durably: a verdict is signed once per subject (DESIGN.md, rule 5).

use crate::verdict::{Evidence, EvidenceError};
use alloy_primitives::B256;
use lcai_host::{JournalError, PutOutcome, Records};
use lcai_primitives::ids::Subject;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a record cannot be read or written.
#[derive(Debug, Error)]
pub enum VerdictStoreError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What is stored is no evidence: another program's journal, or a damaged one.
    #[error("a stored verdict cannot be read: {0}")]
    Evidence(#[from] EvidenceError),
    /// What is stored cannot be decoded.
    #[error("a stored record cannot be read: {0}")]
    Record(#[from] postcard::Error),
    /// The task that used the journal panicked.
    #[error("the journal's task ended")]
    Task,
}

/// What came of judging a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Judged {
    /// A verdict, as [`Evidence::encode`] gives it.
    Decided(Vec<u8>),
    /// None, with the reason; holds nothing of prompt or answer.
    Undecided(String),
}

/// Where evidence was posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted {
    /// Its versioned hash.
    pub versioned_hash: B256,
    /// The type-3 transaction.
    pub transaction: B256,
}

/// The records. Every write is on disk when the call returns.
#[derive(Debug, Clone)]
pub struct Verdicts(Records);

const JUDGED: u8 = b'j';
const SIGNED: u8 = b's';
const POSTED: u8 = b'p';
const SENT: u8 = b'x';
const FILED: u8 = b'f';

fn key(kind: u8, parts: &[B256]) -> Vec<u8> {
    [kind].into_iter().chain(parts.iter().flat_map(|part| part.0)).collect()
}

impl Verdicts {
    /// In a journal's records, e.g. `journal.records("verdicts")`.
    pub const fn new(records: Records) -> Self {
        Self(records)
    }

    /// What came of judging this answer to the job. Another answer to the same subject, on another fork, is another case.
    pub async fn judged(&self, subject: &Subject, answer: B256) -> Result<Option<Judged>, VerdictStoreError> {
        let key = key(JUDGED, &[subject.id(), answer]);
        let bytes = self.with(move |records| records.get(&key)).await?;
        Ok(bytes.map(|bytes| postcard::from_bytes(&bytes)).transpose()?)
    }

    /// Keeps it.
    pub async fn keep_judged(
        &self,
        subject: &Subject,
        answer: B256,
        judged: &Judged,
    ) -> Result<(), VerdictStoreError> {
        let (key, bytes) = (key(JUDGED, &[subject.id(), answer]), postcard::to_stdvec(judged)?);
        self.with(move |records| records.put(&key, &bytes)).await
    }

    /// The verdict that was signed for the subject.
    pub async fn signed(&self, subject: &Subject) -> Result<Option<Evidence>, VerdictStoreError> {
        let key = key(SIGNED, &[subject.id()]);
        let bytes = self.with(move |records| records.get(&key)).await?;
        Ok(bytes.map(|bytes| Evidence::decode(&bytes)).transpose()?)
    }

    /// Claims the one signature there is for the subject; gives the verdict that has it, this one or an earlier one.
    pub async fn sign(&self, evidence: &Evidence) -> Result<Evidence, VerdictStoreError> {
        let (key, bytes) = (key(SIGNED, &[evidence.subject.id()]), evidence.encode());
        match self.with(move |records| records.put_if_absent(&key, &bytes)).await? {
            PutOutcome::Inserted => Ok(evidence.clone()),
            PutOutcome::Existing(bytes) => Ok(Evidence::decode(&bytes)?),
        }
    }

    /// Where the subject's evidence was posted.
    pub async fn posted(&self, subject: &Subject) -> Result<Option<Posted>, VerdictStoreError> {
        let key = key(POSTED, &[subject.id()]);
        let bytes = self.with(move |records| records.get(&key)).await?;
        Ok(bytes.map(|bytes| postcard::from_bytes(&bytes)).transpose()?)
    }

    /// Keeps where it was posted.
    pub async fn keep_posted(&self, subject: &Subject, posted: &Posted) -> Result<(), VerdictStoreError> {
        let (key, bytes) = (key(POSTED, &[subject.id()]), postcard::to_stdvec(posted)?);
        self.with(move |records| records.put(&key, &bytes)).await
    }

    /// Notes, before the verdict leaves, under which evidence it does; whether this was the first time.
    pub async fn mark_sent(&self, subject: &Subject, evidence: B256) -> Result<bool, VerdictStoreError> {
        let key = key(SENT, &[subject.id()]);
        let put = self.with(move |records| records.put_if_absent(&key, evidence.as_slice())).await?;
        Ok(put == PutOutcome::Inserted)
    }

    /// Takes the note back: the verdict certainly did not leave.
    pub async fn unmark_sent(&self, subject: &Subject) -> Result<(), VerdictStoreError> {
        let key = key(SENT, &[subject.id()]);
        self.with(move |records| records.remove(&key).map(|_| ())).await
    }

    /// Under which evidence a verdict has left this node, if one has.
    pub async fn sent(&self, subject: &Subject) -> Result<Option<B256>, VerdictStoreError> {
        let key = key(SENT, &[subject.id()]);
        let bytes = self.with(move |records| records.get(&key)).await?;
        Ok(bytes.and_then(|bytes| B256::try_from(bytes.as_slice()).ok()))
    }

    /// Notes, before a dispute of ours leaves, that it does; whether this was the first time.
    pub async fn mark_filed(&self, subject: &Subject) -> Result<bool, VerdictStoreError> {
        let key = key(FILED, &[subject.id()]);
        let put = self.with(move |records| records.put_if_absent(&key, &[])).await?;
        Ok(put == PutOutcome::Inserted)
    }

    /// Takes the note back: the dispute certainly did not leave.
    pub async fn unmark_filed(&self, subject: &Subject) -> Result<(), VerdictStoreError> {
        let key = key(FILED, &[subject.id()]);
        self.with(move |records| records.remove(&key).map(|_| ())).await
    }

    /// Whether a dispute over the job has left this node.
    pub async fn filed(&self, subject: &Subject) -> Result<bool, VerdictStoreError> {
        let key = key(FILED, &[subject.id()]);
        Ok(self.with(move |records| records.get(&key)).await?.is_some())
    }

    /// Runs a journal access where its fsync blocks nobody.
    async fn with<T: Send + 'static>(
        &self,
        access: impl FnOnce(&Records) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, VerdictStoreError> {
        let records = self.0.clone();
        let done = tokio::task::spawn_blocking(move || access(&records)).await;
        Ok(done.map_err(|_| VerdictStoreError::Task)??)
    }
}
