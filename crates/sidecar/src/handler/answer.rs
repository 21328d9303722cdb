//! Bringing an answer to the user and to the chain.

use super::{OnChain, Step, WorkerHandler, abandon, halt, retry, storage};
use crate::{blobs::seal_blob, core::AcknowledgedTask, node::unix_now, store::SealedAnswer};
use alloy_primitives::{B256, Bytes, U256};
use alloy_sol_types::SolCall;
use lcai_blob::BlobTransactionSidecarVariant;
use lcai_crypto::{sign_response, sign_typed};
use lcai_host::{Call, EffectOutcome, HostError, LaneError, TxSpec};
use lcai_primitives::{
    JobState,
    contracts::JobRegistry,
    eip712::{self, CompleteJob},
    frames::Frame,
    ids::Subject,
};
use std::sync::Arc;

/// Gas limit of `completeJobWithBlob`; it uses under half of it.
const COMPLETE_GAS: u64 = 600_000;

impl WorkerHandler {
    /// Commits the answer on chain. It is the one on disk, so that after a reorg the same bytes are sent again.
    pub(super) async fn complete(&self, task: &AcknowledgedTask) -> Step {
        let subject = &task.subject;
        let answer = self.answer(subject, false).await?;
        if self.completed(subject, &answer).await? {
            return Ok(EffectOutcome::Done(Vec::new()));
        }
        self.store.may_commit(subject, answer.hash).await.map_err(storage)?;
        if self.seconds_to(task.complete_by) == 0 {
            return Err(abandon("the completion deadline is over"));
        }
        let sent = if self.is_atomic().await? {
            self.complete_with_blob(subject, &answer).await?
        } else {
            self.complete_after_blob(task, &answer).await?
        };
        let Some(sent) = sent else { return Ok(EffectOutcome::Done(Vec::new())) };
        tracing::info!(job = %subject.job_id, session = %subject.session_id, transaction = %sent, "job completed");
        metrics::counter!("lcai_worker_completed_total").increment(1);
        Ok(EffectOutcome::Done(sent.to_vec()))
    }

    /// Whether the contract has `completeJobWithBlob`. The live networks' answers to an unknown selector are empty.
    async fn is_atomic(&self) -> Step<bool> {
        let probe = || async {
            let call = JobRegistry::completeJobWithBlobCall {
                jobId: U256::ZERO,
                blobIndex: U256::ZERO,
                ciphertextHash: B256::ZERO,
                workerSig: Bytes::new(),
            };
            let call = Call { to: self.deployment.job_registry, input: call.abi_encode().into() };
            match self.host.call(call, None).await {
                Err(HostError::Reverted(data)) => Ok(!data.is_empty()),
                Ok(_) => Ok(true),
                Err(error) => Err(retry(500, error)),
            }
        };
        self.atomic.get_or_try_init(probe).await.copied()
    }

    /// Blob and completion in one transaction of the blob account, under the worker's signature, which names the prompt:
    /// a client that sends it again after a reorg cannot complete another prompt with it.
    async fn complete_with_blob(&self, subject: &Subject, answer: &Arc<SealedAnswer>) -> Step<Option<B256>> {
        let (hash, sidecar) = self.blob(answer).await?;
        let message = CompleteJob {
            jobId: subject.job_id.into(),
            sessionId: subject.session_id.into(),
            promptBlobHash: subject.prompt_blob_hash,
            responseBlobHash: hash,
            responseCiphertextHash: answer.hash,
        };
        let domain = eip712::domain(subject.chain_id, subject.contract);
        let signature =
            sign_typed(&self.account, message.signing_hash(&domain)).map_err(|e| retry(1000, e))?;
        let call = JobRegistry::completeJobWithBlobCall {
            jobId: subject.job_id.into(),
            blobIndex: U256::ZERO,
            ciphertextHash: answer.hash,
            workerSig: Bytes::from(signature.to_vec()),
        };
        // Not estimated: not every client executes an estimate with the transaction's blobs.
        let spec = TxSpec::blob(self.deployment.job_registry, call.abi_encode().into(), sidecar);
        self.post(TxSpec { gas_limit: Some(COMPLETE_GAS), ..spec }).await.map(Some)
    }

    /// The response blob from the blob account, then `completeJob` from the worker's; `None` when the chain turned out to
    /// have the answer. `completeJob` names no prompt: a client that sends it again after a reorg completes whatever prompt
    /// has the job id then. So it waits until the acknowledgement is as deep as a signature asks for.
    async fn complete_after_blob(
        &self,
        task: &AcknowledgedTask,
        answer: &Arc<SealedAnswer>,
    ) -> Step<Option<B256>> {
        let subject = &task.subject;
        let blob_hash = self.publish(subject, answer).await?;
        if self.completed(subject, answer).await? {
            return Ok(None);
        }
        let (row, cursor) = self.core.read_at(|core, cursor| (core.job(subject.job_id).cloned(), cursor));
        let acknowledged = row.filter(|row| row.subject == *subject).and_then(|row| row.acknowledged_in);
        let deep =
            acknowledged.zip(cursor).is_some_and(|(block, cursor)| block + self.ack_depth <= cursor.number);
        if !deep {
            return Err(retry(
                300,
                "the acknowledgement is not deep enough for a completion that names no prompt",
            ));
        }
        if self.seconds_to(task.complete_by) == 0 {
            return Err(abandon("the completion deadline is over"));
        }
        let call = JobRegistry::completeJobCall {
            jobId: subject.job_id.into(),
            responseBlobHash: blob_hash,
            responseCiphertextHash: answer.hash,
        };
        let spec = TxSpec::call(self.deployment.job_registry, call.abi_encode().into());
        self.send(&self.main, spec).await.map(Some)
    }

    /// Whether the chain has this answer already. Another answer under our key means that somebody else acts with it.
    async fn completed(&self, subject: &Subject, answer: &SealedAnswer) -> Step<bool> {
        let OnChain { job, state } = self.on_chain(subject).await?;
        match state {
            JobState::Acknowledged => Ok(false),
            JobState::Submitted => Err(retry(500, "the acknowledgement is not on the chain's head")),
            JobState::TimedOut => Err(abandon("the job has timed out")),
            _ if job.responseCiphertextHash == answer.hash => Ok(true),
            _ => Err(halt(format!(
                "job {} was completed by this worker's key with another answer ({}): is a second worker running with it?",
                subject.job_id, job.responseCiphertextHash
            ))),
        }
    }

    /// The answer as a blob.
    async fn blob(&self, answer: &Arc<SealedAnswer>) -> Step<(B256, BlobTransactionSidecarVariant)> {
        let (sealed, form) = (Arc::clone(answer), self.form.get());
        // Commitment and proofs are a good part of a second of arithmetic.
        let made = tokio::task::spawn_blocking(move || seal_blob(&sealed.ciphertext, form)).await;
        made.map_err(|_| retry(500, "the blob could not be made"))?.map_err(abandon)
    }

    /// Sends a blob transaction. A pool takes the form of sidecar of its fork only, and does not say so in any agreed way:
    /// a refusal tries the other one.
    async fn post(&self, spec: TxSpec) -> Step<B256> {
        match self.blobs.send(spec).await {
            Err(LaneError::Host(HostError::Rejected { message, .. })) => {
                self.form.switch();
                Err(retry(200, format!("the pool refused the response blob: {message}")))
            }
            sent => self.sent(&self.blobs, sent),
        }
    }

    /// Posts the response blob by itself unless our chain includes it already; gives its versioned hash.
    async fn publish(&self, subject: &Subject, answer: &Arc<SealedAnswer>) -> Step<B256> {
        let (hash, sidecar) = self.blob(answer).await?;
        if let Some(transaction) = self.store.blob_transaction(subject).await.map_err(storage)? {
            let receipt = self.host.receipt(transaction).await.map_err(|e| retry(500, e))?;
            if receipt.is_some_and(|receipt| receipt.success) {
                return Ok(hash);
            }
        }
        let posted = self.post(TxSpec::blob(self.blobs.account(), Bytes::new(), sidecar)).await?;
        tracing::info!(job = %subject.job_id, transaction = %posted, versioned_hash = %hash, "response blob posted");
        self.store.keep_blob_transaction(subject, posted).await.map_err(storage)?;
        Ok(hash)
    }

    /// The terminal frame: the whole answer under the worker's signature. It is asked for only once the acknowledgement
    /// is deep enough, because the signature can never be taken back.
    pub(super) async fn deliver(&self, task: &AcknowledgedTask) -> Step {
        let subject = &task.subject;
        let OnChain { job, state } = self.on_chain(subject).await?;
        let open = matches!(state, JobState::Submitted | JobState::Acknowledged);
        if !open && self.store.answer(subject).await.map_err(storage)?.is_none() {
            return Err(abandon("the job is over, and its answer was not made here"));
        }
        let answer = self.answer(subject, true).await?;
        match state {
            JobState::Acknowledged => {}
            JobState::Submitted => return Err(retry(500, "the acknowledgement is not on the chain's head")),
            JobState::TimedOut => return Err(abandon("the job has timed out")),
            _ if job.responseCiphertextHash == answer.hash => {}
            // Signing now would prove that the worker committed other bytes.
            _ => return Err(halt(format!("job {} is completed with another answer", subject.job_id))),
        }
        self.store.claim_signature(subject, answer.hash).await.map_err(storage)?;
        let signature = sign_response(
            &self.account,
            subject.chain_id,
            subject.contract,
            subject.job_id,
            subject.session_id,
            &answer.ciphertext,
        )
        .map_err(|e| retry(1000, e))?;
        let frame = Frame::complete(
            subject.job_id,
            subject.session_id,
            answer.chunks,
            answer.ciphertext.clone(),
            signature,
            unix_now(),
        );
        match self.node.submit_frames(&[frame]).await {
            Ok(()) => {
                tracing::info!(job = %subject.job_id, session = %subject.session_id, "answer delivered");
                metrics::counter!("lcai_worker_delivered_total").increment(1);
                Ok(EffectOutcome::Done(answer.hash.to_vec()))
            }
            Err(error) if error.is_final_refusal() => {
                metrics::counter!("lcai_worker_frames_refused_total").increment(1);
                tracing::error!(job = %subject.job_id, %error, "the node refuses the answer; the user finds it on chain");
                Err(abandon(error))
            }
            Err(error) => Err(retry(1000, error)),
        }
    }
}
