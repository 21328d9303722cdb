//! A growing answer as sealed chunk frames.

use crate::node::{NodeClient, unix_now};
use lcai_crypto::{ChunkMacChain, SessionKey, seal};
use lcai_inference::{Delta, GenerationStats};
use lcai_primitives::{
    frames::{Frame, FrameKind},
    ids::Subject,
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use zeroize::Zeroizing;

/// A chunk is sent when it holds this many tokens, or when its first token is this old.
const CHUNK_TOKENS: u32 = 8;
const CHUNK_AGE: Duration = Duration::from_millis(250);
/// Frames of one call.
const BATCH: usize = 64;
/// Chunk frames that may wait for the node; more are dropped, because the terminal frame carries the whole answer.
const QUEUE: usize = 1024;
/// First and longest delay before frames are given to the node again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// Makes the frames of one job: numbers them, seals them, chains their macs.
pub(crate) struct Chunker {
    subject: Subject,
    key: SessionKey,
    macs: ChunkMacChain,
    seq: u32,
}

impl Chunker {
    pub(crate) fn new(subject: Subject, key: SessionKey) -> Self {
        let macs = ChunkMacChain::new(&key, subject.job_id);
        Self { subject, key, macs, seq: 0 }
    }

    /// The next frame; `None` only where sealing fails or the numbers are used up, which no answer reaches.
    fn frame(&mut self, kind: FrameKind, plain: &[u8]) -> Option<Frame> {
        let payload = seal(&self.key, plain).ok()?;
        let mac = self.macs.append(&payload).ok()?;
        self.seq += 1;
        let Subject { job_id, session_id, .. } = self.subject;
        Some(Frame::chunk(job_id, session_id, self.seq, kind, payload, Some(mac), unix_now()))
    }

    /// Turns deltas into frames until there are no more. Gives itself back for the stats.
    pub(crate) async fn run(
        mut self,
        first: Delta,
        mut deltas: mpsc::Receiver<Delta>,
        frames: mpsc::Sender<Frame>,
    ) -> Self {
        let (mut text, mut tokens, mut flush_at) =
            (first.text, first.tokens, Some(Instant::now() + CHUNK_AGE));
        loop {
            let next = match flush_at {
                Some(at) => timeout_at(at, deltas.recv()).await,
                None => Ok(deltas.recv().await),
            };
            let ended = matches!(next, Ok(None));
            if let Ok(Some(delta)) = &next {
                text.push_str(&delta.text);
                tokens = tokens.saturating_add(delta.tokens);
                flush_at.get_or_insert_with(|| Instant::now() + CHUNK_AGE);
            }
            let full = tokens >= CHUNK_TOKENS || next.is_err();
            if (full || ended) && !text.is_empty() {
                let frame = self.frame(FrameKind::Text, text.as_bytes());
                if frame.is_none_or(|frame| frames.try_send(frame).is_err()) {
                    metrics::counter!("lcai_worker_chunks_dropped_total").increment(1);
                }
                text = Zeroizing::new(String::new());
                (tokens, flush_at) = (0, None);
            }
            if ended {
                return self;
            }
        }
    }

    /// The closing frame with counts and times; gives the number of frames made.
    pub(crate) fn finish(mut self, stats: &GenerationStats, frames: &mpsc::Sender<Frame>) -> u32 {
        let stats = serde_json::to_vec(&WireStats::from(stats)).unwrap_or_default();
        if let Some(frame) = self.frame(FrameKind::Stats, &stats) {
            let _ = frames.try_send(frame);
        }
        self.seq
    }
}

/// The stats frame's payload (live wire format, section 10).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireStats {
    prompt_tokens: u32,
    eval_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_bytes: Option<u64>,
    tokens_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_ms: Option<u64>,
    prompt_eval_ms: u64,
    eval_ms: u64,
    total_ms: u64,
}

impl From<&GenerationStats> for WireStats {
    fn from(stats: &GenerationStats) -> Self {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let some = |n: u64| (n > 0).then_some(n);
        let rate = f64::from(stats.eval_tokens) / stats.eval.as_secs_f64().max(1e-6);
        Self {
            prompt_tokens: stats.prompt_tokens,
            eval_tokens: stats.eval_tokens,
            thinking_bytes: some(stats.thinking_bytes),
            tokens_per_second: (rate * 10.0).round() / 10.0,
            load_ms: some(ms(stats.load)),
            prompt_eval_ms: ms(stats.prompt_eval),
            eval_ms: ms(stats.eval),
            total_ms: ms(stats.total),
        }
    }
}

/// A queue for a job's chunk frames.
pub(crate) fn queue() -> (mpsc::Sender<Frame>, mpsc::Receiver<Frame>) {
    mpsc::channel(QUEUE)
}

/// Gives frames to the node in order and again until it has confirmed them; ends when there are no more, when the node
/// refuses one for good, or when `wanted` says that nobody waits for them any longer.
pub(crate) async fn forward(
    node: Arc<NodeClient>,
    mut frames: mpsc::Receiver<Frame>,
    wanted: impl Fn() -> bool,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        if batch.is_empty() && frames.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let mut delay = RETRY.0;
        loop {
            if !wanted() {
                return;
            }
            match node.submit_frames(&batch).await {
                Ok(()) => break,
                Err(error) if error.is_final_refusal() => {
                    metrics::counter!("lcai_worker_frames_refused_total").increment(1);
                    tracing::warn!(%error, "the node refuses the chunks of a job; its answer follows whole");
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "frames are given to the node again");
                    sleep(delay).await;
                    delay = (delay * 2).min(RETRY.1);
                }
            }
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, B256};
    use lcai_primitives::ids::{JobId, SessionId};

    fn subject() -> Subject {
        Subject {
            chain_id: 8200,
            contract: Address::repeat_byte(3),
            job_id: JobId(7),
            session_id: SessionId(3),
            prompt_blob_hash: B256::ZERO,
            submit_tx_hash: B256::ZERO,
        }
    }

    fn delta(text: &str) -> Delta {
        Delta { text: Zeroizing::new(text.to_owned()), tokens: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn deltas_become_chunks_of_eight_tokens_or_a_quarter_second() {
        let key = SessionKey::random();
        let (delta_sender, deltas) = mpsc::channel(64);
        let (frame_sender, mut frames) = queue();
        let chunker =
            tokio::spawn(Chunker::new(subject(), key.clone()).run(delta("0"), deltas, frame_sender.clone()));
        for i in 1..9 {
            delta_sender.send(delta(&i.to_string())).await.unwrap();
        }
        sleep(Duration::from_millis(300)).await;
        delta_sender.send(delta("end")).await.unwrap();
        drop(delta_sender);
        let count = chunker.await.unwrap().finish(&GenerationStats::default(), &frame_sender);
        drop(frame_sender);
        assert_eq!(count, 4);

        let mut texts = Vec::new();
        let mut macs = ChunkMacChain::new(&key, JobId(7));
        for seq in 1..=4 {
            let frame = frames.recv().await.unwrap();
            frame.validate().unwrap();
            assert_eq!(frame.seq, seq);
            macs.verify(seq, &frame.payload, &frame.mac.unwrap()).unwrap();
            let plain = lcai_crypto::open(&key, &frame.payload).unwrap();
            texts.push((frame.kind, String::from_utf8(plain.to_vec()).unwrap()));
        }
        assert_eq!(texts[0], (FrameKind::Text, "01234567".to_owned()));
        assert_eq!(texts[1], (FrameKind::Text, "8".to_owned()));
        assert_eq!(texts[2], (FrameKind::Text, "end".to_owned()));
        assert_eq!(texts[3].0, FrameKind::Stats);
        assert!(texts[3].1.starts_with(r#"{"promptTokens":0"#), "{}", texts[3].1);
        assert!(frames.recv().await.is_none());
    }
}
