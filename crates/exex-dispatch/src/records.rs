//! What the directory remembers of each model, worker, session and job.

use alloy_primitives::{Address, B256, Bytes, U256};
use lcai_host::BlockRef;
use lcai_primitives::{
    contracts::{Deployment, JobState, RequestStatus, SessionStatus},
    eip712::SignedHeartbeat,
    ids::{JobId, ModelId, SessionId, Subject},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A model as AIConfig and WorkerRegistry have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Flat fee per job, wei.
    pub fee: U256,
    /// Most tokens an answer may have.
    pub max_output_tokens: U256,
    /// AIConfig accepts jobs for it and WorkerRegistry lists it.
    pub enabled: bool,
}

/// A worker as WorkerRegistry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Stake, wei.
    pub stake: U256,
    /// P-256 key, 65 bytes uncompressed.
    pub encryption_key: Bytes,
    /// Suspended until it reinstates itself; the time from which it may.
    pub suspended_until: Option<u64>,
    /// Reputation score; every worker has the same where no ReputationRegistry is deployed.
    pub reputation: u64,
    /// Models it has listed.
    pub models: BTreeSet<ModelId>,
}

/// How long a worker takes for a model, measured on chain: from acknowledgement to completion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    /// Jobs measured.
    pub jobs: u64,
    /// Moving mean over about eight jobs, milliseconds; block time has a resolution of one second.
    pub mean_ms: u64,
}

impl Speed {
    pub(crate) fn after(self, seconds: u64) -> Self {
        let sample = seconds.saturating_mul(1_000);
        let mean_ms = if self.jobs == 0 { sample } else { self.mean_ms - self.mean_ms / 8 + sample / 8 };
        Self { jobs: self.jobs.saturating_add(1), mean_ms }
    }
}

/// What a worker is doing, as far as the directory knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerState {
    /// It can take a job.
    Ready,
    /// It has as many open jobs as it may or wants to have.
    Busy,
    /// It takes no new sessions and serves those it has.
    Draining,
    /// It is there, but its model backend does not answer.
    Unready,
    /// No heartbeat, or none for too long: nothing is known of it, least of all that it is busy.
    Stale,
    /// Suspended until it reinstates itself.
    Jailed,
}

impl WorkerState {
    /// The state's name in `lcai_*`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::Unready => "unready",
            Self::Stale => "stale",
            Self::Jailed => "jailed",
        }
    }
}

/// What a worker takes, by its newest heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capacity {
    /// So many jobs at once.
    Jobs(u32),
    /// No new sessions.
    Draining,
    /// Nothing: its model backend does not answer.
    Unready,
    /// Not known.
    Stale,
    /// Not asked: something else decided.
    Any,
}

impl Capacity {
    /// What a worker is doing that has so many jobs open.
    pub(crate) const fn state(self, open_jobs: u64) -> WorkerState {
        match self {
            Self::Any => WorkerState::Ready,
            Self::Jobs(most) if open_jobs < most as u64 => WorkerState::Ready,
            Self::Jobs(_) => WorkerState::Busy,
            Self::Draining => WorkerState::Draining,
            Self::Unready => WorkerState::Unready,
            Self::Stale => WorkerState::Stale,
        }
    }
}

/// What a keeper account earned and withdrew, wei, from `KeeperBountyPaid` and `WorkerWithdrawal`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounties {
    /// For timeouts.
    pub timeouts: U256,
    /// For releases; JobRegistry keeps these until they are withdrawn.
    pub releases: U256,
    /// What JobRegistry keeps of them.
    pub kept: U256,
    /// What the account has withdrawn from JobRegistry, whatever it was for.
    pub withdrawn: U256,
}

/// A worker's newest heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHealth {
    /// As the worker signed it.
    pub heartbeat: SignedHeartbeat,
    /// The later of that and the block time at which it was journaled: what its age is counted from, so that everybody
    /// who has the journal comes to the same age.
    pub heard_at: u64,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its owner.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The worker that serves it.
    pub worker: Address,
    /// The worker it was created with.
    pub first_worker: Address,
    /// Active, reassigning, closed.
    pub status: SessionStatus,
    /// Transaction that created it.
    pub create_transaction: B256,
    /// Block that created it.
    pub created_in: BlockRef,
    /// Block time of its creation, newest keys, or newest job that is not kept any more, unix seconds; see
    /// [`crate::DispatchCore::last_activity`].
    pub last_activity: u64,
    /// How often it got another worker.
    pub reassign_count: u64,
    /// The session nonce of its owner that `createSession` spent; `None` for one that came by sortition.
    pub nonce: Option<U256>,
}

/// A session that was asked for by sortition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Who gets the session.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// Block of the request; the hash of the next one orders the workers.
    pub request_block: u64,
    /// Unix seconds until which it can be claimed and given its keys.
    pub expiry: u64,
    /// Open, claimed, ready; see [`Self::status_at`].
    pub status: RequestStatus,
    /// Who claimed it.
    pub worker: Option<Address>,
    /// What came of it.
    pub session: Option<SessionId>,
    /// `requestSession`.
    pub transaction: B256,
}

impl SessionRequest {
    /// As `SessionManager.getRequest` has it at a time, unix seconds.
    pub fn status_at(&self, now: u64) -> RequestStatus {
        let waits = matches!(self.status, RequestStatus::Open | RequestStatus::Claimed);
        if waits && now > self.expiry { RequestStatus::Expired } else { self.status }
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its session.
    pub session_id: SessionId,
    /// The session's owner.
    pub user: Address,
    /// The worker.
    pub worker: Address,
    /// Where it is in its life.
    pub state: JobState,
    /// Fee in escrow, wei.
    #[serde(with = "short_word")]
    pub escrowed_fee: U256,
    /// Versioned hash of the prompt blob.
    pub prompt_blob_hash: B256,
    /// Versioned hash of the response blob, once completed.
    pub response_blob_hash: Option<B256>,
    /// keccak256 of the sealed answer, once completed.
    pub response_ciphertext_hash: Option<B256>,
    /// Unix seconds of its submission.
    pub submitted_at: u64,
    /// Unix seconds of its completion; 0 before.
    pub completed_at: u64,
    /// Unix seconds by which the next step is due.
    pub deadline: u64,
    /// `submitJob`.
    pub submit_tx: Option<B256>,
    /// `acknowledgeJob`.
    pub ack_tx: Option<B256>,
    /// `completeJob`.
    pub complete_tx: Option<B256>,
    /// What ended it: release, timeout, resolution, no-fault settlement.
    pub settle_tx: Option<B256>,
    /// Block that submitted it.
    pub submitted_in: BlockRef,
    /// Block that completed it.
    pub completed_in: Option<BlockRef>,
    /// Block time after which no dispute can need it, once it has ended, unix seconds.
    pub forget_after: Option<u64>,
}

impl Job {
    /// Submitted or acknowledged: it occupies one of its worker's slots.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, JobState::Submitted | JobState::Acknowledged)
    }

    /// Its identity across forks, under its number.
    pub fn subject(&self, deployment: &Deployment, id: JobId) -> Subject {
        Subject {
            chain_id: deployment.chain_id,
            contract: deployment.job_registry,
            job_id: id,
            session_id: self.session_id,
            prompt_blob_hash: self.prompt_blob_hash,
            submit_tx_hash: self.submit_tx.unwrap_or_default(),
        }
    }
}

/// A word without its leading zeros: a job's row is written with each of its events.
mod short_word {
    use alloy_primitives::U256;
    use serde::{Deserializer, Serializer, de};
    use std::fmt;

    pub(super) fn serialize<S: Serializer>(word: &U256, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: [u8; 32] = word.to_be_bytes();
        serializer.serialize_bytes(bytes.get(word.leading_zeros() / 8..).unwrap_or_default())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<U256, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }

    struct Bytes;

    impl de::Visitor<'_> for Bytes {
        type Value = U256;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("at most 32 bytes")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<U256, E> {
            U256::try_from_be_slice(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Word(#[serde(with = "short_word")] U256);

    proptest! {
        #[test]
        fn a_word_without_its_zeros_is_the_word(limbs: [u64; 4], shift in 0..257usize) {
            let word = Word(U256::from_limbs(limbs) >> shift);
            let bytes = postcard::to_stdvec(&word).unwrap();
            prop_assert_eq!(bytes.len(), 1 + word.0.byte_len());
            prop_assert_eq!(postcard::from_bytes::<Word>(&bytes).unwrap(), word);
        }
    }
}
