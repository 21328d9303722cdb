//! Asking: from a prompt to a verified answer.

use crate::{
    AnswerStream, ClientError, StreamUpdate, User, UserSession,
    connection::refused,
    user::{check_prompt, first_topic},
};
use alloy_primitives::{B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use jsonrpsee::core::client::{Error as RpcError, Subscription};
use lcai_primitives::{contracts::JobRegistry, frames::Envelope, ids::JobId};
use lcai_rpc::{
    api::LcaiApiClient,
    types::{JobReceipt, PublishedBlob},
};
use std::time::{Duration, Instant};

/// Most envelopes of one session that are kept for reading again after a reorg.
const MAX_ENVELOPES: usize = 65_536;

/// How often the chain is asked where the job stands.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a node may be away, and how often a cut stream is tried again meanwhile.
const OUTAGE: Duration = Duration::from_secs(60);
const RESUME_INTERVAL: Duration = Duration::from_millis(200);

/// Seconds beyond the chain's own deadlines before the client gives up.
const GRACE_SECONDS: u64 = 60;

/// What happens while an answer is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `submitJob` is included.
    Submitted {
        /// The job.
        job: JobId,
        /// The transaction.
        transaction: B256,
    },
    /// A reorg gave the prompt another job id; what was shown of the answer is void.
    Renumbered {
        /// The new id.
        job: JobId,
    },
    /// More of the answer.
    Delta(String),
    /// The worker's signed answer is here and its signature is right.
    Signed,
    /// The chain has the answer's hash, and it is the same.
    Settled,
}

/// A verified answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Everything needed to verify it again.
    pub receipt: JobReceipt,
    /// keccak256 of the sealed answer: signed by the worker and equal on chain.
    pub ciphertext_hash: B256,
    /// How many chunk macs were checked.
    pub macs_checked: u32,
    /// The type-3 transaction that the node sent for the prompt.
    pub prompt_transaction: B256,
}

impl User {
    /// Asks in a session. The prompt's blob is posted first, unless the caller did so while the session was being opened.
    pub async fn ask(
        &self,
        session: &UserSession,
        prompt: &[u8],
        published: Option<PublishedBlob>,
        fee: U256,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Answer, ClientError> {
        let published = self.published(session, prompt, published).await?;
        let call =
            JobRegistry::submitJobCall { sessionId: session.id.into(), blobHash: published.versioned_hash };
        let transaction = self.transact("submitJob", call.abi_encode(), fee).await?;
        self.follow(session, &published, transaction, events).await
    }

    /// As [`Self::ask`], paid from what the account has deposited with JobRegistry.
    pub async fn ask_from_deposit(
        &self,
        session: &UserSession,
        prompt: &[u8],
        published: Option<PublishedBlob>,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Answer, ClientError> {
        let published = self.published(session, prompt, published).await?;
        let call = JobRegistry::submitJobOnBehalfCall {
            user: self.account(),
            sessionId: session.id.into(),
            blobHash: published.versioned_hash,
        };
        let transaction = self.transact("submitJobOnBehalf", call.abi_encode(), U256::ZERO).await?;
        self.follow(session, &published, transaction, events).await
    }

    async fn published(
        &self,
        session: &UserSession,
        prompt: &[u8],
        published: Option<PublishedBlob>,
    ) -> Result<PublishedBlob, ClientError> {
        check_prompt(prompt)?;
        match published {
            Some(published) => Ok(published),
            None => self.publish_prompt(&session.key, prompt).await,
        }
    }

    /// Follows a submitted job to its verified answer; also takes up one that an earlier run submitted.
    pub async fn follow(
        &self,
        session: &UserSession,
        published: &PublishedBlob,
        submit: B256,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Answer, ClientError> {
        let frames = Frames::subscribe(self, session).await?;
        let job = self.job_of(submit).await?;
        events(Event::Submitted { job, transaction: submit });
        let waiting = Waiting {
            user: self,
            session,
            prompt_hash: published.versioned_hash,
            submit,
            frames,
            stream: self.stream(session, job),
            signed: false,
        };
        let (stream, receipt) = waiting.run(events).await?;
        Ok(Answer {
            text: stream.answer().unwrap_or_default().to_owned(),
            ciphertext_hash: stream.ciphertext_hash().unwrap_or_default(),
            macs_checked: stream.macs_checked(),
            receipt,
            prompt_transaction: published.transaction_hash,
        })
    }

    fn stream(&self, session: &UserSession, job: JobId) -> AnswerStream {
        let deployment = &self.node.network().deployment;
        AnswerStream::new(
            deployment.chain_id,
            deployment.job_registry,
            session.worker,
            session.id,
            job,
            session.key.clone(),
        )
    }

    /// The job id that a submitJob transaction has on the canonical chain.
    async fn job_of(&self, transaction: B256) -> Result<JobId, ClientError> {
        let receipt = self.included("submitJob", transaction).await?;
        first_topic(&receipt, JobRegistry::JobSubmitted::SIGNATURE_HASH)
            .and_then(|id| JobId::try_from(id).ok())
            .ok_or(ClientError::Malformed {
                method: "eth_getTransactionReceipt",
                reason: "submitJob succeeded without a JobSubmitted event".into(),
            })
    }
}

/// A session's frames with everything received so far, over as many connections as it takes.
struct Frames<'a> {
    user: &'a User,
    session: &'a UserSession,
    subscription: Subscription<Envelope>,
    cursor: u64,
    kept: Vec<Envelope>,
}

impl<'a> Frames<'a> {
    async fn subscribe(user: &'a User, session: &'a UserSession) -> Result<Self, ClientError> {
        let subscription = subscribe(user, session, 0).await?;
        Ok(Self { user, session, subscription, cursor: 0, kept: Vec::new() })
    }

    /// The next envelope; `None` when the stream was cut, or is at the end of its token.
    async fn next(&mut self) -> Result<Option<Envelope>, ClientError> {
        let envelope =
            self.subscription.next().await.transpose().map_err(|e| ClientError::Malformed {
                method: "lcai_subscribeFrames",
                reason: e.to_string(),
            })?;
        if let Some(envelope) = &envelope {
            self.cursor = envelope.cursor;
            if self.kept.len() < MAX_ENVELOPES {
                self.kept.push(envelope.clone());
            }
        }
        Ok(envelope)
    }

    /// Subscribes again from the cursor, over a new connection where it was cut; a node that restarts is given time.
    async fn resume(&mut self) -> Result<(), ClientError> {
        let started = Instant::now();
        loop {
            tokio::time::sleep(RESUME_INTERVAL).await;
            let resumed = async {
                self.user.node.reopen().await?;
                subscribe(self.user, self.session, self.cursor).await
            };
            match resumed.await {
                Ok(subscription) => {
                    self.subscription = subscription;
                    return Ok(());
                }
                Err(ClientError::Unreachable { .. }) if started.elapsed() < OUTAGE => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Whether the node only has to read another block: it does not know the session or job, or says that it is behind.
const fn is_not_there_yet(code: i32) -> bool {
    matches!(code, -39006 | -39013)
}

/// Subscribes; a session that the node has not read from its newest block yet is waited for.
async fn subscribe(
    user: &User,
    session: &UserSession,
    cursor: u64,
) -> Result<Subscription<Envelope>, ClientError> {
    let started = Instant::now();
    loop {
        let subscribed = user.with_token("lcai_subscribeFrames", |rpc, token| async move {
            rpc.subscribe_frames(token, session.id, cursor.into()).await
        });
        match subscribed.await {
            Err(ClientError::Refused { code, .. })
                if is_not_there_yet(code) && started.elapsed() < Duration::from_secs(15) =>
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            subscribed => return subscribed,
        }
    }
}

/// A submitted job until its answer is signed, settled and equal.
struct Waiting<'a> {
    user: &'a User,
    session: &'a UserSession,
    prompt_hash: B256,
    submit: B256,
    frames: Frames<'a>,
    stream: AnswerStream,
    signed: bool,
}

impl Waiting<'_> {
    async fn run(
        mut self,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(AnswerStream, JobReceipt), ClientError> {
        let params = &self.user.node.network().params;
        let seconds =
            params.ack_timeout.saturating_add(params.completion_timeout).saturating_add(GRACE_SECONDS);
        let started = Instant::now();
        let mut reached = started;
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while started.elapsed() < Duration::from_secs(seconds) {
            tokio::select! {
                envelope = self.frames.next(), if !self.signed => match envelope? {
                    Some(envelope) => self.take(&envelope, events)?,
                    None => self.frames.resume().await?,
                },
                _ = check.tick() => match self.settled(events).await {
                    Ok(Some(receipt)) => {
                        events(Event::Settled);
                        return Ok((self.stream, receipt));
                    }
                    Ok(None) => reached = Instant::now(),
                    Err(ClientError::Unreachable { .. }) if reached.elapsed() < OUTAGE => {
                        // As long as the node is away this fails too, and is tried again.
                        let _ = self.user.node.reopen().await;
                    }
                    Err(e) => return Err(e),
                },
            }
        }
        Err(ClientError::TimedOut { what: "the answer", seconds })
    }

    fn take(
        &mut self,
        envelope: &Envelope,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<(), ClientError> {
        match self.stream.push(&envelope.frame)? {
            StreamUpdate::Nothing => {}
            StreamUpdate::Delta(text) => events(Event::Delta(text)),
            StreamUpdate::Complete => {
                let rest = self.stream.remainder().to_owned();
                if !rest.is_empty() {
                    events(Event::Delta(rest));
                }
                self.signed = true;
                events(Event::Signed);
            }
            StreamUpdate::GaveUp => {
                return Err(ClientError::NoAnswer {
                    job: self.stream.job().0,
                    reason: "the worker gave up; the fee is refunded once the deadline has passed".into(),
                });
            }
        }
        Ok(())
    }

    /// Follows the job on chain: a reorg may renumber it, and the end is only the end when the chain says so.
    async fn settled(
        &mut self,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Option<JobReceipt>, ClientError> {
        self.follow_reorg(events).await?;
        let job = self.stream.job();
        let receipt = match self.user.node.rpc().get_receipt(job).await {
            Ok(receipt) => receipt,
            Err(RpcError::Call(e)) if is_not_there_yet(e.code()) => return Ok(None),
            Err(e) => return Err(refused("lcai_getReceipt")(e)),
        };
        if receipt.job.prompt_blob_hash != self.prompt_hash || receipt.job.session_id != self.session.id {
            // The node's view and ours are of different forks; one of them will move.
            return Ok(None);
        }
        match receipt.job.state.as_str() {
            "timedOut" => {
                let reason = "the worker missed its deadline; the fee was refunded".into();
                Err(ClientError::NoAnswer { job: job.0, reason })
            }
            "completed" | "resolved" | "released" => self.compare(receipt),
            _ => Ok(None),
        }
    }

    fn compare(&self, receipt: JobReceipt) -> Result<Option<JobReceipt>, ClientError> {
        let Some(signed) = self.stream.ciphertext_hash() else { return Ok(None) };
        match receipt.job.response_ciphertext_hash {
            Some(settled) if settled == signed => Ok(Some(receipt)),
            Some(settled) => Err(ClientError::Unverified(format!(
                "the worker signed an answer with hash {signed} but settled {settled} on chain; this is evidence for \
                 disputeResponseMismatch"
            ))),
            None => Ok(None),
        }
    }

    async fn follow_reorg(&mut self, events: &mut (dyn FnMut(Event) + Send)) -> Result<(), ClientError> {
        let job = self.user.job_of(self.submit).await?;
        if job == self.stream.job() {
            return Ok(());
        }
        events(Event::Renumbered { job });
        self.stream = self.user.stream(self.session, job);
        self.signed = false;
        for envelope in self.frames.kept.clone() {
            self.take(&envelope, events)?;
        }
        Ok(())
    }
}
