//! Fetching and opening prompts and their history.

use crate::{
    blobs::open_blob,
    core::{JobTask, PriorRef, job_call, session_call},
    node::{NodeClient, NodeError},
};
use alloy_primitives::{B256, U256};
use alloy_sol_types::SolCall;
use lcai_crypto::{EncryptionSecret, SessionKey, open, unwrap};
use lcai_host::{HostClient, HostError};
use lcai_primitives::{
    contracts::{self, Deployment, JobRegistry},
    history::{PriorAnswer, PriorJob, answer_in_history, build_history, in_history},
    ids::{JobId, SessionId, Subject},
    prompt::{ChatInput, Prompt, PromptError, decode_prompt},
};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};
use thiserror::Error;
use tokio::sync::OnceCell;

/// Prompts kept open at once; the effects of one job share one.
const OPEN_PROMPTS: usize = 64;

/// Why a prompt cannot be answered. Texts hold nothing of it.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The node did not answer.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The chain could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Nobody has the blob now.
    #[error("blob {0} is not available")]
    Missing(B256),
    /// The bytes are not those of the versioned hash, or not framed.
    #[error("blob {hash} is unusable: {reason}")]
    Blob {
        /// The versioned hash.
        hash: B256,
        /// What was wrong.
        reason: String,
    },
    /// The session key does not open for this worker, also not as the chain has it now.
    #[error("the session key is not wrapped for this worker")]
    SessionKey,
    /// A sealed payload does not open under the session key.
    #[error("blob {0} does not open under the session key")]
    Sealed(B256),
    /// The prompt breaks a rule of its format.
    #[error("the prompt is refused: {0}")]
    Refused(#[from] PromptError),
    /// The prompt asks for what this worker does not do.
    #[error("the prompt asks for {0}, which this worker does not do")]
    Unsupported(&'static str),
    /// The chain's answer does not decode.
    #[error("the chain's answer to {0} cannot be read")]
    Malformed(&'static str),
}

impl OpenError {
    /// Whether trying again can help.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Host(_) | Self::Missing(_))
    }
}

/// An opened prompt. Nothing of it is printed.
pub(crate) struct OpenPrompt {
    pub(crate) key: SessionKey,
    prompt: Prompt,
}

/// A prompt that is opened by whoever comes first.
type Opening = Arc<OnceCell<Arc<OpenPrompt>>>;

/// Opens prompts for one worker.
pub(crate) struct Prompts {
    deployment: Deployment,
    secret: EncryptionSecret,
    node: Arc<NodeClient>,
    host: Arc<dyn HostClient>,
    opened: Mutex<VecDeque<(B256, Opening)>>,
}

impl Prompts {
    pub(crate) fn new(
        deployment: Deployment,
        secret: EncryptionSecret,
        node: Arc<NodeClient>,
        host: Arc<dyn HostClient>,
    ) -> Self {
        Self { deployment, secret, node, host, opened: Mutex::new(VecDeque::new()) }
    }

    /// The prompt of a job, opened once and then kept until the job is done.
    pub(crate) async fn open(&self, task: &JobTask) -> Result<Arc<OpenPrompt>, OpenError> {
        let cell = self.cell(task.subject.id());
        cell.get_or_try_init(|| async { self.fetch(task).await.map(Arc::new) }).await.cloned()
    }

    /// Forgets an opened prompt.
    pub(crate) fn forget(&self, subject: &Subject) {
        let id = subject.id();
        self.opened.lock().retain(|(kept, _)| *kept != id);
    }

    fn cell(&self, subject: B256) -> Opening {
        let mut opened = self.opened.lock();
        if let Some((_, cell)) = opened.iter().find(|(kept, _)| *kept == subject) {
            return Arc::clone(cell);
        }
        if opened.len() >= OPEN_PROMPTS {
            opened.pop_front();
        }
        let cell = Arc::new(OnceCell::new());
        opened.push_back((subject, Arc::clone(&cell)));
        cell
    }

    async fn fetch(&self, task: &JobTask) -> Result<OpenPrompt, OpenError> {
        let hash = task.subject.prompt_blob_hash;
        let sealed = self.sealed(hash).await?;
        let first = unwrap(&task.enc_worker_key, &self.secret);
        let opened = first.ok().and_then(|key| open(&key, &sealed).ok().map(|plain| (key, plain)));
        let (key, plain) = match opened {
            Some(opened) => opened,
            // The key may have been rotated since: it is read once more, from the chain as it is now.
            None => {
                let session = self.session(task.subject.session_id).await?;
                let key = unwrap(&session.encWorkerKey, &self.secret).map_err(|_| OpenError::SessionKey)?;
                let plain = open(&key, &sealed).map_err(|_| OpenError::Sealed(hash))?;
                (key, plain)
            }
        };
        let prompt = decode_prompt(&plain)?;
        if prompt.envelope.audio_response || !prompt.envelope.audio.is_empty() {
            return Err(OpenError::Unsupported("voice"));
        }
        Ok(OpenPrompt { key, prompt })
    }

    /// What the model is asked: the prompt after the session's history (live wire format, section 9). A history that
    /// cannot be read whole is an error, because an answer without it would be another answer.
    pub(crate) async fn chat_input(&self, task: &JobTask, open: &OpenPrompt) -> Result<ChatInput, OpenError> {
        if open.prompt.envelope.is_self_contained() {
            return Ok(open.prompt.envelope.chat_input(&[]));
        }
        let refs = match &task.prior {
            Some(refs) => refs.clone(),
            None => self.read_prior(task).await?,
        };
        let mut prior = Vec::with_capacity(refs.len());
        for job in refs {
            prior.push(self.prior_job(job, &open.key).await?);
        }
        let history = build_history(task.subject.job_id, task.submit_block, &prior);
        Ok(open.prompt.envelope.chat_input(&history))
    }

    async fn prior_job(&self, job: PriorRef, key: &SessionKey) -> Result<PriorJob, OpenError> {
        let prompt = self.opened_blob(job.prompt_blob_hash, key).await?;
        let answer = match job.response {
            Some((hash, completion_block)) => {
                let plaintext = self.opened_blob(hash, key).await?;
                Some(PriorAnswer { completion_block, plaintext })
            }
            None => None,
        };
        Ok(PriorJob { job_id: job.job_id, submit_block: job.submit_block, prompt, answer })
    }

    async fn opened_blob(&self, hash: B256, key: &SessionKey) -> Result<Vec<u8>, OpenError> {
        let sealed = self.sealed(hash).await?;
        open(key, &sealed).map(|plain| plain.to_vec()).map_err(|_| OpenError::Sealed(hash))
    }

    /// The history of a job in a session that was another worker's before: read job by job from the chain, where the
    /// feed does not reach back to.
    async fn read_prior(&self, task: &JobTask) -> Result<Vec<PriorRef>, OpenError> {
        let mut prior = Vec::new();
        for job_id in self.node.session_jobs(task.subject.session_id).await? {
            if job_id >= task.subject.job_id {
                continue;
            }
            let job = self.job(job_id).await?;
            let block = |n: U256| u64::try_from(n).unwrap_or(u64::MAX);
            let submit_block = block(job.submitBlockNumber);
            let same = SessionId::try_from(job.sessionId).ok() == Some(task.subject.session_id);
            if !same || !in_history(job_id, submit_block, task.subject.job_id, task.submit_block) {
                continue;
            }
            let completion_block = block(job.completionBlockNumber);
            let answered =
                !job.responseBlobHash.is_zero() && answer_in_history(completion_block, task.submit_block);
            prior.push(PriorRef {
                job_id,
                submit_block,
                prompt_blob_hash: job.promptBlobHash,
                response: answered.then_some((job.responseBlobHash, completion_block)),
            });
        }
        Ok(prior)
    }

    /// A blob's sealed payload, checked against its versioned hash.
    async fn sealed(&self, hash: B256) -> Result<Vec<u8>, OpenError> {
        let bytes = self.host.blob(hash).await?.ok_or(OpenError::Missing(hash))?;
        // The commitment takes tens of milliseconds of arithmetic.
        let opened = tokio::task::spawn_blocking(move || open_blob(hash, &bytes)).await;
        let opened = opened.map_err(|_| OpenError::Missing(hash))?;
        opened.map_err(|e| OpenError::Blob { hash, reason: e.to_string() })
    }

    /// A job as the chain's head has it.
    pub(crate) async fn job(&self, job: JobId) -> Result<contracts::Job, OpenError> {
        let data = self.host.call(job_call(&self.deployment, job.into()), None).await?;
        JobRegistry::getJobCall::abi_decode_returns(&data).map_err(|_| OpenError::Malformed("getJob"))
    }

    async fn session(&self, session: SessionId) -> Result<contracts::Session, OpenError> {
        let data = self.host.call(session_call(&self.deployment, session.into()), None).await?;
        JobRegistry::getSessionCall::abi_decode_returns(&data).map_err(|_| OpenError::Malformed("getSession"))
    }
}
