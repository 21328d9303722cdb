//! Making the answer, streaming it as it grows, and keeping it sealed.

use super::{Step, WorkerHandler, abandon, retry, settle_reserve, storage, unopened};
use crate::{
    core::JobTask,
    prompts::OpenPrompt,
    store::{SealedAnswer, Store, StoreError},
    stream::{self, Chunker},
};
use alloy_primitives::{U256, keccak256};
use alloy_sol_types::SolCall;
use lcai_crypto::{MAX_PLAINTEXT, SessionKey, seal};
use lcai_host::{Call, EffectOutcome};
use lcai_inference::{Delta, GenerateOptions, GenerateRequest, Generation};
use lcai_primitives::{
    JobState,
    contracts::AIConfig,
    frames::{Frame, MAX_CHUNKS},
    ids::{ModelId, Subject},
    prompt::Response,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::timeout};
use zeroize::Zeroizing;

impl WorkerHandler {
    /// Makes the answer to a prompt, once.
    pub(super) async fn infer(&self, task: &JobTask) -> Step {
        let subject = &task.subject;
        if let Some(answer) = self.store.answer(subject).await.map_err(storage)? {
            return Ok(EffectOutcome::Done(answer.hash.to_vec()));
        }
        if let Some(reason) = self.store.given_up(subject).await.map_err(storage)? {
            return Err(abandon(reason));
        }
        let wanted = || {
            let open = |state| matches!(state, JobState::Submitted | JobState::Acknowledged);
            let row = self.core.read(|core| core.job(subject.job_id).map(|row| (row.subject, row.state)));
            row.is_some_and(|(known, state)| known == *subject && open(state))
        };
        let open = match self.prompts.open(task).await {
            Ok(open) => open,
            Err(error) if error.is_transient() => return Err(unopened(&error)),
            Err(error) => return self.give_up(subject, error.to_string()).await,
        };
        let Some(_turn) = self.load.turn().await else { return Err(retry(1000, "the worker is stopping")) };
        if !wanted() {
            return Err(abandon("the job is over, or not on our chain any more"));
        }
        let result = self.infer_now(task, &open).await;
        if !matches!(result, Err(EffectOutcome::Retry { .. })) {
            self.prompts.forget(subject);
        }
        result
    }

    async fn infer_now(&self, task: &JobTask, open: &OpenPrompt) -> Step {
        let subject = &task.subject;
        let Some(limit) = self.time_left(task)? else {
            return self.give_up(subject, "too little time is left before the deadline".to_owned()).await;
        };
        let Some(model) = self.models.get(&task.model).cloned() else {
            return self.give_up(subject, format!("this worker does not serve model {}", task.model)).await;
        };
        let max_tokens = self.max_tokens(task.model).await?;
        let input = match self.prompts.chat_input(task, open).await {
            Ok(input) => input,
            Err(error) if error.is_transient() => return Err(unopened(&error)),
            Err(error) => return self.give_up(subject, error.to_string()).await,
        };
        let request = GenerateRequest { model, input, max_tokens, options: GenerateOptions::default() };

        let (delta_sender, deltas) = mpsc::channel(64);
        let (frames, queue) = stream::queue();
        let (subject, core, shutdown) = (*subject, self.core.clone(), self.shutdown.clone());
        let wanted = move || {
            !shutdown.is_cancelled()
                && core.read(|core| core.job(subject.job_id).map(|row| row.subject)) == Some(subject)
        };
        // Goes on beside the completion; the terminal frame waits for it.
        let (node, progress) = (Arc::clone(&self.node), Arc::clone(&self.progress));
        progress.begin(&subject);
        tokio::spawn(async move {
            stream::forward(node, queue, wanted).await;
            progress.end(&subject);
        });
        let chunks =
            stream_chunks(self.store.clone(), subject, open.key.clone(), max_tokens, deltas, frames.clone());
        let chunks = tokio::spawn(chunks);

        let started = Instant::now();
        let generated = timeout(limit, self.backend.generate(request, delta_sender)).await;
        self.load.took(started.elapsed());
        let streamed =
            chunks.await.map_err(|_| retry(500, "the stream of chunks failed"))?.map_err(storage)?;
        let generation = match generated {
            Ok(Ok(generation)) => generation,
            Ok(Err(error)) if error.is_transient() => return Err(retry(1000, error)),
            Ok(Err(error)) => return self.give_up(&subject, error.to_string()).await,
            Err(_) => {
                let reason =
                    format!("the model took longer than the {} s that the deadline leaves", limit.as_secs());
                return self.give_up(&subject, reason).await;
            }
        };
        let chunks = match streamed {
            Streamed::Chunks(chunker) => chunker.finish(&generation.stats, &frames),
            Streamed::Before(limit) => limit,
            Streamed::Nothing => 0,
        };
        drop(frames);
        let answer = self.seal(&subject, &open.key, &generation, chunks).await?;
        tracing::info!(
            job = %subject.job_id, session = %subject.session_id, tokens = generation.stats.eval_tokens,
            ms = started.elapsed().as_millis() as u64, "answer ready"
        );
        metrics::counter!("lcai_worker_answers_total").increment(1);
        metrics::histogram!("lcai_worker_inference_seconds").record(started.elapsed().as_secs_f64());
        self.progress.changed.notify_waiters();
        Ok(EffectOutcome::Done(answer.hash.to_vec()))
    }

    /// Seals an answer and keeps it on disk; only then can anything about it leave.
    async fn seal(
        &self,
        subject: &Subject,
        key: &SessionKey,
        generation: &Generation,
        chunks: u32,
    ) -> Step<Arc<SealedAnswer>> {
        let mut text: &str = &generation.text;
        if text.len() > MAX_PLAINTEXT {
            text = text.get(..text.floor_char_boundary(MAX_PLAINTEXT)).unwrap_or_default();
        }
        let plain = Zeroizing::new(Response { answer: text.to_owned(), sources: Vec::new() }.encode());
        let ciphertext = seal(key, &plain).map_err(|e| retry(1000, e))?;
        let answer = SealedAnswer { hash: keccak256(&ciphertext), ciphertext, chunks };
        self.store.keep_answer(subject, answer).await.map_err(storage)
    }

    /// How long the model may take; `None` when it is not worth beginning.
    fn time_left(&self, task: &JobTask) -> Step<Option<Duration>> {
        let params = self.params()?;
        let acknowledged = self.core.read(|core| {
            core.job(task.subject.job_id)
                .filter(|row| row.state == JobState::Acknowledged)
                .map(|row| row.deadline)
        });
        let left = match acknowledged {
            Some(deadline) => self.seconds_to(deadline),
            None if self.seconds_to(task.acknowledge_by) == 0 => 0,
            // The acknowledgement is still to come and gives the whole time.
            None => params.completion_timeout,
        };
        let left = left.saturating_sub(settle_reserve(&params));
        Ok((left > 0).then(|| Duration::from_secs(left)))
    }

    async fn max_tokens(&self, model: ModelId) -> Step<u32> {
        let input = AIConfig::getModelMaxOutputTokensCall { modelId: model.0 }.abi_encode();
        let call = Call { to: self.deployment.ai_config, input: input.into() };
        let data = self.host.call(call, None).await.map_err(|e| retry(500, e))?;
        let tokens = AIConfig::getModelMaxOutputTokensCall::abi_decode_returns(&data)
            .map_err(|_| abandon("AIConfig gives no token limit for the model"))?;
        let most = MAX_CHUNKS / 2;
        Ok(if tokens.is_zero() { most } else { u32::try_from(tokens.min(U256::from(most))).unwrap_or(most) })
    }

    /// Ends a job without an answer: notes it, and tells the user.
    async fn give_up(&self, subject: &Subject, reason: String) -> Step {
        metrics::counter!("lcai_worker_given_up_total").increment(1);
        tracing::warn!(job = %subject.job_id, session = %subject.session_id, reason, "job given up");
        self.store.give_up(subject, reason.clone()).await.map_err(storage)?;
        self.progress.changed.notify_waiters();
        let frame = Frame::error(subject.job_id, subject.session_id, crate::node::unix_now());
        // The deadline tells the user as well; a node that is away is not waited for.
        if let Err(error) = self.node.submit_frames(&[frame]).await {
            tracing::debug!(%error, "the error frame was not taken");
        }
        Err(abandon(reason))
    }
}

/// What became of an answer's stream.
enum Streamed {
    /// It is on its way.
    Chunks(Box<Chunker>),
    /// An earlier run sent at most this many chunks; these are not followed by others.
    Before(u32),
    /// The model said nothing.
    Nothing,
}

async fn stream_chunks(
    store: Store,
    subject: Subject,
    key: SessionKey,
    max_tokens: u32,
    mut deltas: mpsc::Receiver<Delta>,
    frames: mpsc::Sender<Frame>,
) -> Result<Streamed, StoreError> {
    let Some(first) = deltas.recv().await else { return Ok(Streamed::Nothing) };
    // At most a chunk per token, and the stats.
    if let Some(before) = store.begin_stream(&subject, max_tokens.saturating_add(1)).await? {
        while deltas.recv().await.is_some() {}
        return Ok(Streamed::Before(before));
    }
    let chunker = Chunker::new(subject, key).run(first, deltas, frames).await;
    Ok(Streamed::Chunks(Box::new(chunker)))
}
