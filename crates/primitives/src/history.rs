//! A session's history, rebuilt from its earlier jobs (live wire format, section 9).
//!
//! Nothing stores a conversation: the worker, and the disputer after it, read the session's earlier jobs from the chain
//! and their blobs, and must come to the same turns. All or nothing: a caller that cannot open one of the blobs has no
//! history, and says so instead of calling [`build_history`] with less.

use crate::{
    ids::JobId,
    prompt::{Message, PromptEnvelope, Role, decode_response, decode_search_envelope},
};
use std::fmt;

/// How far back a history reaches, in blocks before the job's submit block. A protocol constant of the live network,
/// counted in blocks there too; it must stay within blob retention.
pub const HISTORY_BLOCKS: u64 = 50_000;

/// An answered job's answer, opened.
#[derive(Clone, PartialEq, Eq)]
pub struct PriorAnswer {
    /// Block of its JobCompleted.
    pub completion_block: u64,
    /// Plaintext of the response blob.
    pub plaintext: Vec<u8>,
}

/// An earlier job of the session, opened.
#[derive(Clone, PartialEq, Eq)]
pub struct PriorJob {
    /// Its id.
    pub job_id: JobId,
    /// Block of its JobSubmitted.
    pub submit_block: u64,
    /// Plaintext of the prompt blob.
    pub prompt: Vec<u8>,
    /// The answer, if the job has a response blob hash other than zero.
    pub answer: Option<PriorAnswer>,
}

impl fmt::Debug for PriorAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PriorAnswer(block {}, {} bytes)", self.completion_block, self.plaintext.len())
    }
}

impl fmt::Debug for PriorJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PriorJob")
            .field("job_id", &self.job_id)
            .field("submit_block", &self.submit_block)
            .field("prompt_bytes", &self.prompt.len())
            .field("answer", &self.answer)
            .finish()
    }
}

/// Whether a job of the same session belongs to the history of `job`, submitted at `submit_block`.
pub fn in_history(prior: JobId, prior_submit_block: u64, job: JobId, submit_block: u64) -> bool {
    let first = submit_block.saturating_sub(HISTORY_BLOCKS);
    prior < job && (first..=submit_block).contains(&prior_submit_block)
}

/// Whether an answer was there for a job submitted at `submit_block` to follow.
pub fn answer_in_history(completion_block: u64, submit_block: u64) -> bool {
    completion_block <= submit_block
}

/// The turns before `job`, oldest first. `prior` may hold any jobs of the session in any order; those outside the rule
/// are left out here.
pub fn build_history(job: JobId, submit_block: u64, prior: &[PriorJob]) -> Vec<Message> {
    let mut jobs: Vec<&PriorJob> =
        prior.iter().filter(|p| in_history(p.job_id, p.submit_block, job, submit_block)).collect();
    jobs.sort_by_key(|p| p.job_id);
    let mut turns = Vec::with_capacity(jobs.len() * 2);
    for prior in jobs {
        let prompt = prior_prompt(&prior.prompt);
        if prompt.is_self_contained() {
            continue;
        }
        turns.push(prompt.user_turn());
        if let Some(answer) =
            prior.answer.as_ref().filter(|a| answer_in_history(a.completion_block, submit_block))
        {
            turns.push(Message::new(Role::Assistant, decode_response(&answer.plaintext).answer));
        }
    }
    turns
}

/// A prompt that was refused when it ran is still a turn: its bytes as text.
fn prior_prompt(plain: &[u8]) -> PromptEnvelope {
    let raw = |bytes: &[u8]| PromptEnvelope::plain(String::from_utf8_lossy(bytes));
    match decode_search_envelope(plain) {
        Ok((inner, _)) => PromptEnvelope::decode(&inner).unwrap_or_else(|_| raw(&inner)),
        Err(_) => raw(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::encode_search_envelope;
    use proptest::prelude::*;

    fn job(id: u64, block: u64, prompt: &[u8], answer: Option<(u64, &[u8])>) -> PriorJob {
        PriorJob {
            job_id: JobId(id),
            submit_block: block,
            prompt: prompt.to_vec(),
            answer: answer
                .map(|(completion_block, p)| PriorAnswer { completion_block, plaintext: p.to_vec() }),
        }
    }

    fn user(text: &str) -> Message {
        Message::new(Role::User, text)
    }

    fn assistant(text: &str) -> Message {
        Message::new(Role::Assistant, text)
    }

    #[test]
    fn prompt_fixtures() {
        let prior = [
            job(1, 10, b"plain question", None),
            job(2, 11, &encode_search_envelope("searched question"), None),
            job(3, 12, br#"{"v":1,"text":"envelope question"}"#, None),
            job(
                4,
                13,
                br#"{"v":3,"text":"","messages":[{"role":"user","content":"own"}]}"#,
                Some((14, b"own answer")),
            ),
            job(5, 14, b"\0{no", None),
            job(6, 15, br#"{"v":3,"text":"beside","messages":[{"role":"user","content":"x"}]}"#, None),
        ];
        assert_eq!(
            build_history(JobId(9), 20, &prior),
            [
                user("plain question"),
                user("searched question"),
                user("envelope question"),
                user("\0{no"),
                user(r#"{"v":3,"text":"beside","messages":[{"role":"user","content":"x"}]}"#),
            ]
        );
    }

    #[test]
    fn answers_count_when_they_were_there() {
        let prior = [
            job(2, 11, b"b", Some((20, br#"{"v":2,"answer":"B","searchContext":[],"templateVersion":1}"#))),
            job(1, 10, b"a", Some((12, b"A"))),
            job(3, 12, b"c", Some((21, b"too late"))),
        ];
        assert_eq!(
            build_history(JobId(4), 20, &prior),
            [user("a"), assistant("A"), user("b"), assistant("B"), user("c")]
        );
    }

    #[test]
    fn the_window_is_closed_on_both_sides() {
        let at = 100_000;
        let prior = [
            job(1, at - HISTORY_BLOCKS - 1, b"too old", None),
            job(2, at - HISTORY_BLOCKS, b"oldest", None),
            job(3, at, b"same block", None),
            job(4, at + 1, b"later", None),
            job(5, at, b"itself", None),
            job(6, at, b"after", None),
        ];
        assert_eq!(build_history(JobId(5), at, &prior), [user("oldest"), user("same block")]);
        assert!(in_history(JobId(0), 0, JobId(1), 10), "the window ends at block 0");
    }

    proptest! {
        #[test]
        fn order_of_reading_does_not_matter(
            jobs in proptest::collection::btree_map(
                0u64..50,
                (0u64..100, proptest::collection::vec(any::<u8>(), 0..20), proptest::option::of((0u64..120, any::<[u8; 4]>()))),
                0..20,
            ),
            id in 0u64..60, block in 0u64..120,
        ) {
            let mut prior: Vec<_> = jobs
                .iter()
                .map(|(i, (b, p, a))| job(*i, *b, p, a.as_ref().map(|(at, t)| (*at, t.as_slice()))))
                .collect();
            let first = build_history(JobId(id), block, &prior);
            prop_assert!(first.len() <= prior.len() * 2);
            prior.reverse();
            prop_assert_eq!(first, build_history(JobId(id), block, &prior));
        }
    }
}
