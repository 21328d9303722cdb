//! The secret seeds of our epochs, durably: who forgets one can never reveal it.

use super::Seed;
use crate::verdicts::VerdictStoreError;
use alloy_primitives::B256;
use lcai_host::{PutOutcome, Records};

/// Seeds by epoch, in a journal's records, e.g. `journal.records("canary seeds")`. The journal's directory is the
/// disputer's own, as its keystores are.
#[derive(Debug, Clone)]
pub struct Seeds(Records);

impl Seeds {
    /// In these records.
    pub const fn new(records: Records) -> Self {
        Self(records)
    }

    /// The epoch's seed; made now when there is none.
    ///
    /// # Errors
    /// When the journal fails or holds something else.
    pub async fn get_or_make(&self, epoch: u64) -> Result<Seed, VerdictStoreError> {
        let records = self.0.clone();
        let fresh = B256::random();
        let put = tokio::task::spawn_blocking(move || {
            records.put_if_absent(&epoch.to_be_bytes(), fresh.as_slice())
        });
        match put.await.map_err(|_| VerdictStoreError::Task)?? {
            PutOutcome::Inserted => Ok(Seed(fresh)),
            PutOutcome::Existing(bytes) => Self::parse(&bytes),
        }
    }

    /// The epoch's seed, if it is ours.
    ///
    /// # Errors
    /// As [`Self::get_or_make`].
    pub async fn get(&self, epoch: u64) -> Result<Option<Seed>, VerdictStoreError> {
        let records = self.0.clone();
        let found = tokio::task::spawn_blocking(move || records.get(&epoch.to_be_bytes())).await;
        found.map_err(|_| VerdictStoreError::Task)??.map(|bytes| Self::parse(&bytes)).transpose()
    }

    fn parse(bytes: &[u8]) -> Result<Seed, VerdictStoreError> {
        B256::try_from(bytes)
            .map(Seed)
            .map_err(|_| VerdictStoreError::Record(postcard::Error::DeserializeBadEncoding))
    }
}
