//! What must never be done twice: sealed answers and signatures, on disk before anything leaves the worker.
//!
//! Answers are kept per subject, so that after a reorg each prompt keeps its own. Signatures are kept per (chain,
//! registry, job id, session id), the fields of the response digest: two signed answers under one such key are evidence
//! against the worker, whatever fork they were meant for.

use crate::node::unix_now;
use alloy_primitives::B256;
use lcai_host::{JournalError, PutOutcome, Records};
use lcai_primitives::ids::Subject;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;
use thiserror::Error;

/// Version byte of the records.
const VERSION: u8 = 1;

const ANSWER: &[u8] = b"answer/";
const STREAM: &[u8] = b"stream/";
const GIVEN_UP: &[u8] = b"given-up/";
const BLOB: &[u8] = b"blob/";
const SIGNED: &[u8] = b"signed/";
/// When a subject came to its end here: kind ‖ unix seconds, big-endian ‖ subject, in the order of time.
const ENDED: &[u8] = b"ended/";

/// Why a record could not be kept or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record cannot be read.
    #[error("the worker's record {0} cannot be read")]
    Corrupt(&'static str),
    /// The worker has signed another answer for this job id and session id.
    #[error(
        "job {job} of session {session} has a signed answer with hash {signed} already; another one ({wanted}) is \
         never signed, so this job is left to time out"
    )]
    AlreadySigned {
        /// Job id.
        job: u64,
        /// Session id.
        session: u64,
        /// keccak256 of the ciphertext that is signed.
        signed: B256,
        /// keccak256 of the ciphertext that was to be signed.
        wanted: B256,
    },
}

/// An answer as it will be committed, streamed and signed: never sealed anew.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedAnswer {
    /// nonce ‖ ciphertext ‖ tag.
    pub(crate) ciphertext: Vec<u8>,
    /// keccak256 of it.
    pub(crate) hash: B256,
    /// Chunk frames that went before it.
    pub(crate) chunks: u32,
}

impl std::fmt::Debug for SealedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedAnswer")
            .field("hash", &self.hash)
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

/// The worker's records. Every call returns after the write is on disk.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    records: Records,
}

impl Store {
    pub(crate) const fn new(records: Records) -> Self {
        Self { records }
    }

    /// The answer to a subject, if there is one.
    pub(crate) async fn answer(&self, subject: &Subject) -> Result<Option<Arc<SealedAnswer>>, StoreError> {
        let key = key(ANSWER, subject.id());
        self.blocking(move |records| match records.get(&key)? {
            Some(bytes) => decode("answer", &bytes).map(Some),
            None => Ok(None),
        })
        .await
    }

    /// Keeps an answer; gives the one that counts, which is the first ever kept for the subject.
    pub(crate) async fn keep_answer(
        &self,
        subject: &Subject,
        answer: SealedAnswer,
    ) -> Result<Arc<SealedAnswer>, StoreError> {
        let (key, ended) = (key(ANSWER, subject.id()), ended_key(unix_now(), subject.id()));
        self.blocking(move |records| {
            records.put(&ended, &[])?;
            match records.put_if_absent(&key, &encode("answer", &answer)?)? {
                PutOutcome::Inserted => Ok(Arc::new(answer)),
                PutOutcome::Existing(bytes) => decode("answer", &bytes),
            }
        })
        .await
    }

    /// Notes that chunks of a subject are about to leave, at most `limit` of them. Gives the limit noted by an earlier
    /// run that did not come to an end: what it sent is out, and a second stream would contradict it.
    pub(crate) async fn begin_stream(
        &self,
        subject: &Subject,
        limit: u32,
    ) -> Result<Option<u32>, StoreError> {
        let key = key(STREAM, subject.id());
        self.blocking(move |records| match records.put_if_absent(&key, &encode("stream", &limit)?)? {
            PutOutcome::Inserted => Ok(None),
            PutOutcome::Existing(bytes) => Ok(Some(*decode("stream", &bytes)?)),
        })
        .await
    }

    /// Notes that a subject will get no answer, and why.
    pub(crate) async fn give_up(&self, subject: &Subject, reason: String) -> Result<(), StoreError> {
        let (key, ended) = (key(GIVEN_UP, subject.id()), ended_key(unix_now(), subject.id()));
        self.blocking(move |records| {
            records.put(&ended, &[])?;
            Ok(records.put(&key, &encode("given-up", &reason)?)?)
        })
        .await
    }

    /// Why a subject gets no answer, if it gets none.
    pub(crate) async fn given_up(&self, subject: &Subject) -> Result<Option<String>, StoreError> {
        let key = key(GIVEN_UP, subject.id());
        self.blocking(move |records| match records.get(&key)? {
            Some(bytes) => Ok(Some(String::clone(&*decode("given-up", &bytes)?))),
            None => Ok(None),
        })
        .await
    }

    /// Notes which transaction carried a subject's response blob.
    pub(crate) async fn keep_blob_transaction(
        &self,
        subject: &Subject,
        hash: B256,
    ) -> Result<(), StoreError> {
        let key = key(BLOB, subject.id());
        self.blocking(move |records| Ok(records.put(&key, &encode("blob", &hash)?)?)).await
    }

    /// The transaction that carried a subject's response blob, maybe on another fork.
    pub(crate) async fn blob_transaction(&self, subject: &Subject) -> Result<Option<B256>, StoreError> {
        let key = key(BLOB, subject.id());
        self.blocking(move |records| match records.get(&key)? {
            Some(bytes) => Ok(Some(*decode("blob", &bytes)?)),
            None => Ok(None),
        })
        .await
    }

    /// Whether an answer to this subject may be committed on chain: nothing else is signed for its ids.
    pub(crate) async fn may_commit(&self, subject: &Subject, hash: B256) -> Result<(), StoreError> {
        let (key, subject) = (signature_key(subject), *subject);
        self.blocking(move |records| match records.get(&key)? {
            Some(bytes) => agree(&subject, hash, &bytes),
            None => Ok(()),
        })
        .await
    }

    /// Claims the one signature that the subject's ids may ever carry, for this answer. Only after this returned `Ok` may
    /// the answer be signed.
    pub(crate) async fn claim_signature(&self, subject: &Subject, hash: B256) -> Result<(), StoreError> {
        let (key, subject) = (signature_key(subject), *subject);
        self.blocking(move |records| match records.put_if_absent(&key, &encode("signature", &hash)?)? {
            PutOutcome::Inserted => Ok(()),
            PutOutcome::Existing(bytes) => agree(&subject, hash, &bytes),
        })
        .await
    }

    /// Forgets what ended before a time (unix seconds), except what was signed: that is kept for good. Gives the number of
    /// subjects forgotten.
    pub(crate) async fn forget_before(&self, time: u64) -> Result<usize, StoreError> {
        self.blocking(move |records| {
            let mut forgotten = 0;
            for (ended, _) in records.scan(ENDED)? {
                let Some((at, subject)) = read_ended_key(&ended) else {
                    return Err(StoreError::Corrupt("ended"));
                };
                if at >= time {
                    break;
                }
                for kind in [ANSWER, STREAM, GIVEN_UP, BLOB] {
                    records.remove(&key(kind, subject))?;
                }
                // Last, so that a crash in between leaves nothing behind for good.
                records.remove(&ended)?;
                forgotten += 1;
            }
            Ok(forgotten)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Records) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let records = self.records.clone();
        match tokio::task::spawn_blocking(move || work(&records)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down: this future is about to be dropped as well.
            Err(_) => std::future::pending().await,
        }
    }
}

fn key(kind: &[u8], id: B256) -> Vec<u8> {
    [kind, id.as_slice()].concat()
}

fn ended_key(at: u64, subject: B256) -> Vec<u8> {
    [ENDED, at.to_be_bytes().as_slice(), subject.as_slice()].concat()
}

fn read_ended_key(key: &[u8]) -> Option<(u64, B256)> {
    let (at, subject) = key.strip_prefix(ENDED)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*at), B256::try_from(subject).ok()?))
}

fn signature_key(subject: &Subject) -> Vec<u8> {
    let mut key = SIGNED.to_vec();
    key.extend_from_slice(&subject.chain_id.to_be_bytes());
    key.extend_from_slice(subject.contract.as_slice());
    key.extend_from_slice(&subject.job_id.0.to_be_bytes());
    key.extend_from_slice(&subject.session_id.0.to_be_bytes());
    key
}

fn agree(subject: &Subject, wanted: B256, record: &[u8]) -> Result<(), StoreError> {
    let signed: B256 = *decode("signature", record)?;
    if signed == wanted {
        return Ok(());
    }
    Err(StoreError::AlreadySigned { job: subject.job_id.0, session: subject.session_id.0, signed, wanted })
}

fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(value, vec![VERSION]).map_err(|_| StoreError::Corrupt(what))
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<Arc<T>, StoreError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map(Arc::new).map_err(|_| StoreError::Corrupt(what))
        }
        _ => Err(StoreError::Corrupt(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, keccak256};
    use lcai_host::{Journal, JournalIdentity};
    use lcai_primitives::ids::{JobId, SessionId};

    fn store() -> Store {
        let identity = JournalIdentity { chain_id: 8200, genesis_hash: B256::ZERO, contracts: Vec::new() };
        Store::new(Journal::in_memory(identity).unwrap().records("worker"))
    }

    fn subject(job: u64, session: u64, prompt: u8) -> Subject {
        Subject {
            chain_id: 8200,
            contract: Address::repeat_byte(3),
            job_id: JobId(job),
            session_id: SessionId(session),
            prompt_blob_hash: B256::repeat_byte(prompt),
            submit_tx_hash: B256::repeat_byte(prompt),
        }
    }

    fn answer(byte: u8) -> SealedAnswer {
        let ciphertext = vec![byte; 40];
        SealedAnswer { hash: keccak256(&ciphertext), ciphertext, chunks: 3 }
    }

    #[tokio::test]
    async fn the_first_answer_to_a_subject_stays() {
        let store = store();
        let (a, b) = (subject(7, 3, 1), subject(7, 3, 2));
        assert_eq!(store.answer(&a).await.unwrap(), None);
        assert_eq!(*store.keep_answer(&a, answer(1)).await.unwrap(), answer(1));
        assert_eq!(*store.keep_answer(&a, answer(2)).await.unwrap(), answer(1));
        assert_eq!(*store.answer(&a).await.unwrap().unwrap(), answer(1));
        // Another prompt under the same ids has its own.
        assert_eq!(store.answer(&b).await.unwrap(), None);
        assert_eq!(*store.keep_answer(&b, answer(2)).await.unwrap(), answer(2));
    }

    #[tokio::test]
    async fn the_same_ids_are_signed_for_one_answer_only() {
        let store = store();
        let (a, b) = (subject(7, 3, 1), subject(7, 3, 2));
        let (hash_a, hash_b) = (answer(1).hash, answer(2).hash);
        store.may_commit(&b, hash_b).await.unwrap();
        store.claim_signature(&a, hash_a).await.unwrap();
        store.claim_signature(&a, hash_a).await.unwrap();
        let refused = store.claim_signature(&b, hash_b).await.unwrap_err();
        assert!(matches!(refused, StoreError::AlreadySigned { job: 7, session: 3, signed, wanted }
            if signed == hash_a && wanted == hash_b));
        assert!(store.may_commit(&b, hash_b).await.is_err());
        store.may_commit(&a, hash_a).await.unwrap();
    }

    #[tokio::test]
    async fn the_same_job_id_in_another_session_chain_or_contract_is_free() {
        let store = store();
        let a = subject(7, 3, 1);
        store.claim_signature(&a, answer(1).hash).await.unwrap();
        for other in [
            subject(7, 4, 2),
            subject(8, 3, 2),
            Subject { chain_id: 9200, ..a },
            Subject { contract: Address::repeat_byte(4), ..a },
        ] {
            store.claim_signature(&other, answer(2).hash).await.unwrap();
        }
    }

    #[tokio::test]
    async fn of_many_claims_at_once_one_answer_wins() {
        let store = store();
        let claims: Vec<_> = (0..16u8)
            .map(|i| {
                let store = store.clone();
                tokio::spawn(
                    async move { store.claim_signature(&subject(7, 3, i), answer(i).hash).await.is_ok() },
                )
            })
            .collect();
        let mut won = 0;
        for claim in claims {
            won += usize::from(claim.await.unwrap());
        }
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn old_answers_are_forgotten_and_signatures_are_not() {
        let store = store();
        let (a, b, now) = (subject(7, 3, 1), subject(8, 3, 2), unix_now());
        store.begin_stream(&a, 10).await.unwrap();
        store.keep_answer(&a, answer(1)).await.unwrap();
        store.claim_signature(&a, answer(1).hash).await.unwrap();
        store.give_up(&b, "no model".into()).await.unwrap();
        assert_eq!(store.forget_before(now).await.unwrap(), 0);
        assert!(store.answer(&a).await.unwrap().is_some());
        assert_eq!(store.forget_before(now + 60).await.unwrap(), 2);
        assert_eq!(store.answer(&a).await.unwrap(), None);
        assert_eq!(store.given_up(&b).await.unwrap(), None);
        assert_eq!(store.begin_stream(&a, 20).await.unwrap(), None);
        assert!(store.claim_signature(&a, answer(2).hash).await.is_err());
    }

    #[tokio::test]
    async fn a_stream_begins_once() {
        let store = store();
        assert_eq!(store.begin_stream(&subject(7, 3, 1), 100).await.unwrap(), None);
        assert_eq!(store.begin_stream(&subject(7, 3, 1), 200).await.unwrap(), Some(100));
    }
}
