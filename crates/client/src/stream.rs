//! Reading a job's frames: opening chunks, checking macs, checking the signed answer.

use alloy_primitives::{Address, B256, keccak256};
use lcai_crypto::{ChunkMacChain, SessionKey, Zeroizing, open, recover_response};
use lcai_primitives::{
    frames::{Frame, FrameKind, FrameType},
    ids::{JobId, SessionId},
    prompt::decode_response,
};
use thiserror::Error;

/// Why a frame is not what the worker of the session would send.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum StreamError {
    /// A payload does not open under the session key.
    #[error("frame {seq} of job {job} does not open under the session key")]
    Sealed {
        /// Job id.
        job: u64,
        /// The frame's seq.
        seq: u32,
    },
    /// A chunk's mac is wrong: somebody between the worker and here changed, added or reordered chunks.
    #[error("the mac of chunk {seq} of job {job} is wrong")]
    Mac {
        /// Job id.
        job: u64,
        /// The chunk's seq.
        seq: u32,
    },
    /// The terminal frame is not signed by the session's worker.
    #[error("the answer of job {job} is not signed by worker {worker}")]
    Signature {
        /// Job id.
        job: u64,
        /// Who should have signed.
        worker: Address,
    },
    /// What was streamed is not the beginning of what was signed.
    #[error("the streamed text of job {job} differs from the signed answer")]
    Diverged {
        /// Job id.
        job: u64,
    },
}

/// What a frame added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamUpdate {
    /// Nothing: not of this job, a duplicate, or of a kind that is not text.
    Nothing,
    /// More of the answer.
    Delta(String),
    /// The whole answer, signed.
    Complete,
    /// The worker gave up.
    GaveUp,
}

/// The frames of one job, checked as they come.
pub struct AnswerStream {
    chain_id: u64,
    registry: Address,
    worker: Address,
    session: SessionId,
    job: JobId,
    key: SessionKey,
    macs: ChunkMacChain,
    next_seq: u32,
    macs_checked: u32,
    text: String,
    ciphertext: Option<Vec<u8>>,
    answer: Option<String>,
}

impl std::fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerStream")
            .field("job", &self.job)
            .field("next_seq", &self.next_seq)
            .finish_non_exhaustive()
    }
}

impl AnswerStream {
    /// A stream of which nothing was read yet.
    pub fn new(
        chain_id: u64,
        registry: Address,
        worker: Address,
        session: SessionId,
        job: JobId,
        key: SessionKey,
    ) -> Self {
        let macs = ChunkMacChain::new(&key, job);
        Self {
            chain_id,
            registry,
            worker,
            session,
            job,
            key,
            macs,
            next_seq: 1,
            macs_checked: 0,
            text: String::new(),
            ciphertext: None,
            answer: None,
        }
    }

    /// The job.
    pub const fn job(&self) -> JobId {
        self.job
    }

    /// How many chunk macs were right.
    pub const fn macs_checked(&self) -> u32 {
        self.macs_checked
    }

    /// keccak256 of the signed ciphertext, once complete.
    pub fn ciphertext_hash(&self) -> Option<B256> {
        self.ciphertext.as_ref().map(keccak256)
    }

    /// The signed answer, once complete.
    pub fn answer(&self) -> Option<&str> {
        self.answer.as_deref()
    }

    /// Takes the next frame.
    pub fn push(&mut self, frame: &Frame) -> Result<StreamUpdate, StreamError> {
        if frame.job_id != self.job || frame.session_id != self.session || self.answer.is_some() {
            return Ok(StreamUpdate::Nothing);
        }
        match frame.frame_type {
            FrameType::Chunk => self.chunk(frame),
            FrameType::Complete => self.complete(frame),
            FrameType::Error if frame.is_terminal() => Ok(StreamUpdate::GaveUp),
            FrameType::Error | FrameType::Metadata => Ok(StreamUpdate::Nothing),
        }
    }

    /// Chunks are a preview; after a gap they are no longer shown, and the signed answer supplies the rest.
    fn chunk(&mut self, frame: &Frame) -> Result<StreamUpdate, StreamError> {
        if frame.seq != self.next_seq {
            return Ok(StreamUpdate::Nothing);
        }
        if let Some(mac) = frame.mac {
            self.macs
                .verify(frame.seq, &frame.payload, &mac)
                .map_err(|_| StreamError::Mac { job: self.job.0, seq: frame.seq })?;
            self.macs_checked += 1;
        }
        self.next_seq += 1;
        if frame.kind != FrameKind::Text {
            return Ok(StreamUpdate::Nothing);
        }
        let delta = self.open(frame)?;
        let delta = String::from_utf8_lossy(&delta).into_owned();
        self.text.push_str(&delta);
        Ok(StreamUpdate::Delta(delta))
    }

    fn complete(&mut self, frame: &Frame) -> Result<StreamUpdate, StreamError> {
        let unsigned = StreamError::Signature { job: self.job.0, worker: self.worker };
        let Some(signature) = &frame.signature else { return Err(unsigned) };
        let signer = recover_response(
            self.chain_id,
            self.registry,
            self.job,
            self.session,
            &frame.payload,
            signature.as_slice(),
        );
        if signer.ok() != Some(self.worker) {
            return Err(unsigned);
        }
        let plain = self.open(frame)?;
        let answer = decode_response(&plain).answer;
        let Some(rest) = answer.strip_prefix(self.text.as_str()) else {
            return Err(StreamError::Diverged { job: self.job.0 });
        };
        tracing::debug!(job = %self.job, unstreamed = rest.len(), "answer complete");
        self.ciphertext = Some(frame.payload.clone());
        self.answer = Some(answer);
        Ok(StreamUpdate::Complete)
    }

    /// What the signed answer holds beyond what was streamed.
    pub fn remainder(&self) -> &str {
        self.answer.as_deref().and_then(|a| a.strip_prefix(self.text.as_str())).unwrap_or_default()
    }

    fn open(&self, frame: &Frame) -> Result<Zeroizing<Vec<u8>>, StreamError> {
        open(&self.key, &frame.payload).map_err(|_| StreamError::Sealed { job: self.job.0, seq: frame.seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_signer_local::PrivateKeySigner;
    use lcai_crypto::{seal, sign_response};

    const REGISTRY: Address = Address::repeat_byte(4);
    const JOB: JobId = JobId(7);
    const SESSION: SessionId = SessionId(3);

    struct Worker {
        signer: PrivateKeySigner,
        key: SessionKey,
        macs: ChunkMacChain,
        seq: u32,
    }

    impl Worker {
        fn new() -> Self {
            let key = SessionKey::random();
            Self { signer: PrivateKeySigner::random(), macs: ChunkMacChain::new(&key, JOB), key, seq: 0 }
        }

        fn reader(&self) -> AnswerStream {
            AnswerStream::new(8200, REGISTRY, self.signer.address(), SESSION, JOB, self.key.clone())
        }

        fn chunk(&mut self, text: &str) -> Frame {
            let payload = seal(&self.key, text.as_bytes()).unwrap();
            let mac = self.macs.append(&payload).unwrap();
            self.seq += 1;
            Frame::chunk(JOB, SESSION, self.seq, FrameKind::Text, payload, Some(mac), 1)
        }

        fn complete(&self, text: &str) -> Frame {
            let ciphertext = seal(&self.key, text.as_bytes()).unwrap();
            let signature = sign_response(&self.signer, 8200, REGISTRY, JOB, SESSION, &ciphertext).unwrap();
            Frame::complete(JOB, SESSION, self.seq, ciphertext, signature, 1)
        }
    }

    #[test]
    fn an_answer_is_what_was_streamed_and_signed() {
        let mut worker = Worker::new();
        let mut reader = worker.reader();
        let first = worker.chunk("Pa");
        assert_eq!(reader.push(&first), Ok(StreamUpdate::Delta("Pa".into())));
        assert_eq!(reader.push(&first), Ok(StreamUpdate::Nothing), "a duplicate adds nothing");
        assert_eq!(reader.push(&worker.chunk("ri")), Ok(StreamUpdate::Delta("ri".into())));
        let complete = worker.complete("Paris");
        assert_eq!(reader.push(&complete), Ok(StreamUpdate::Complete));
        assert_eq!((reader.answer(), reader.remainder(), reader.macs_checked()), (Some("Paris"), "s", 2));
        assert_eq!(reader.ciphertext_hash(), Some(keccak256(&complete.payload)));
    }

    #[test]
    fn frames_of_other_jobs_and_sessions_are_not_read() {
        let mut worker = Worker::new();
        let mut reader = worker.reader();
        let mut other_job = worker.chunk("x");
        other_job.job_id = JobId(8);
        assert_eq!(reader.push(&other_job), Ok(StreamUpdate::Nothing));
        let mut other_session = worker.complete("x");
        other_session.session_id = SessionId(4);
        assert_eq!(reader.push(&other_session), Ok(StreamUpdate::Nothing));
        assert_eq!(reader.push(&Frame::error(JOB, SESSION, 1)), Ok(StreamUpdate::GaveUp));
    }

    #[test]
    fn a_relay_cannot_change_add_or_swap() {
        let mut worker = Worker::new();
        let (first, second) = (worker.chunk("one "), worker.chunk("two"));

        let mut reader = worker.reader();
        let mut swapped = second.clone();
        swapped.seq = 1;
        assert_eq!(reader.push(&swapped), Err(StreamError::Mac { job: 7, seq: 1 }));

        let mut reader = worker.reader();
        let mut changed = first.clone();
        changed.payload[20] ^= 1;
        assert_eq!(reader.push(&changed), Err(StreamError::Mac { job: 7, seq: 1 }));

        // Without macs (a worker of today) the signed answer still gives the game away.
        let mut reader = worker.reader();
        let mut unprotected = first;
        unprotected.mac = None;
        reader.push(&unprotected).unwrap();
        assert_eq!(reader.push(&worker.complete("three")), Err(StreamError::Diverged { job: 7 }));
    }

    #[test]
    fn only_the_sessions_worker_can_answer() {
        let worker = Worker::new();
        let impostor =
            Worker { signer: PrivateKeySigner::random(), key: worker.key.clone(), ..Worker::new() };
        let refused = StreamError::Signature { job: 7, worker: worker.signer.address() };
        assert_eq!(worker.reader().push(&impostor.complete("x")), Err(refused));
        let mut stranger = Worker::new();
        stranger.signer = worker.signer.clone();
        assert_eq!(
            worker.reader().push(&stranger.complete("x")),
            Err(StreamError::Sealed { job: 7, seq: 1 }),
            "signed, but under another session key"
        );
    }
}
