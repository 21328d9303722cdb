//! Effects: what an extension wants done in the world, at most once per subject and action.

use crate::{BlockRef, HostClient};
use alloy_primitives::{B256, Keccak256};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};

/// How deep the block that asked for an effect must be before the effect may happen (DESIGN.md, rule 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EffectDepth {
    /// As soon as the block is the head.
    Head,
    /// When the head is at least this many blocks above.
    Depth(u64),
    /// When the safe head has reached the block.
    Safe,
    /// When the finalized head has reached the block.
    Finalized,
}

/// What to do when an intent appears again after its effect already happened, e.g. on another fork, and when the chain loses
/// blocks after it ended, where the transaction that did it can be lost though the block that asked for it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnRepeat {
    /// Nothing: the effect stands.
    Skip,
    /// The handler runs again and is given what it stored the first time, so that the same bytes are sent.
    Again,
}

/// The identity of an effect: keccak256(subject ‖ action).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IntentId(pub B256);

impl fmt::Debug for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Something an extension wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What it is about: `Subject::id()` for a job, another unique hash otherwise.
    pub subject: B256,
    /// The action's stable name, e.g. `"acknowledge"`.
    pub action: String,
    /// The block that asked for it.
    pub origin: BlockRef,
    /// When it may happen.
    pub depth: EffectDepth,
    /// What a repetition means.
    pub on_repeat: OnRepeat,
    /// Unix seconds after which it is pointless; the executor then drops it.
    pub not_after: Option<u64>,
    /// The handler's own versioned record.
    pub payload: Vec<u8>,
}

impl Intent {
    /// The effect's identity.
    pub fn id(&self) -> IntentId {
        Self::id_of(self.subject, &self.action)
    }

    /// The identity of an effect by its parts.
    pub fn id_of(subject: B256, action: &str) -> IntentId {
        let mut hasher = Keccak256::new();
        hasher.update(subject);
        hasher.update(action.as_bytes());
        IntentId(hasher.finalize())
    }
}

/// How an attempt at an effect ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectOutcome {
    /// It happened (or is seen to have happened); the bytes are kept and given to a repetition.
    Done(Vec<u8>),
    /// Not now; try again after the delay. Attempts are unlimited until `not_after`, the delay is the handler's.
    Retry {
        /// How long to wait.
        after: Duration,
        /// For the log; holds no secret.
        reason: String,
    },
    /// It will never happen, e.g. the chain says it is no longer wanted.
    Abandon {
        /// For the log; holds no secret.
        reason: String,
    },
    /// The extension must stop all effects and say so, e.g. its key was seen acting elsewhere.
    Halt {
        /// For the operator; holds no secret.
        reason: String,
    },
}

/// What a handler may use.
#[derive(Clone)]
pub struct EffectContext {
    /// The chain.
    pub client: Arc<dyn HostClient>,
    /// What [`EffectOutcome::Done`] kept the last time, if the effect already happened once.
    pub previous: Option<Vec<u8>>,
    /// How many attempts came before this one since start.
    pub attempt: u32,
    /// An attempt began in an earlier run of the program and its end is unknown: the effect may already have happened.
    pub interrupted: bool,
}

impl EffectContext {
    /// The context of a first attempt.
    pub fn new(client: Arc<dyn HostClient>) -> Self {
        Self { client, previous: None, attempt: 0, interrupted: false }
    }
}

impl fmt::Debug for EffectContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EffectContext")
            .field("attempt", &self.attempt)
            .field("interrupted", &self.interrupted)
            .finish_non_exhaustive()
    }
}

/// Performs an extension's effects. Called concurrently for different intents, never for one intent twice at a time.
#[async_trait]
pub trait EffectHandler: Send + Sync + 'static {
    /// One attempt. The intent is durable before this is called, and the outcome is made durable after it returns; a
    /// crash in between means a second call, so the handler must find out what already happened.
    async fn execute(&self, intent: &Intent, context: EffectContext) -> EffectOutcome;

    /// How many effects may run at once.
    fn concurrency(&self) -> usize {
        8
    }
}
