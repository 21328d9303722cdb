//! The pure core of an extension.

use crate::{AnyTable, Call, CoreError, EffectDepth, FeedBlock, Intent, OnRepeat};
use alloy_primitives::B256;
use serde::Serialize;

/// Which contract state must be read at a block so that a core can apply it without I/O. Pure: it sees the block's
/// logs only, so that the feed can be filled without knowing the extension's state.
pub trait ReadPlan: Send + Sync {
    /// The calls to make on this block's state. Called with `first` set for the first block the feed ever holds, where
    /// everything that is configuration must be read.
    fn reads(&self, block: &FeedBlock, first: bool) -> Vec<Call>;
}

/// Collects the intents of one block or input.
#[derive(Debug, Default)]
pub struct Effects {
    intents: Vec<Intent>,
}

impl Effects {
    /// Asks for an effect. A payload that cannot be encoded is a fault of the program and is reported as such.
    #[expect(
        clippy::too_many_arguments,
        reason = "an intent's fields, named at the call; a struct would repeat Intent"
    )]
    pub fn push<P: Serialize>(
        &mut self,
        origin: crate::BlockRef,
        subject: B256,
        action: &str,
        depth: EffectDepth,
        on_repeat: OnRepeat,
        not_after: Option<u64>,
        payload: &P,
    ) -> Result<(), CoreError> {
        let payload = postcard::to_stdvec(payload)
            .map_err(|e| CoreError::BadInput(format!("payload of {action} cannot be encoded: {e}")))?;
        self.intents.push(Intent {
            subject,
            action: action.to_owned(),
            origin,
            depth,
            on_repeat,
            not_after,
            payload,
        });
        Ok(())
    }

    /// What was asked for, in order.
    pub fn into_intents(self) -> Vec<Intent> {
        self.intents
    }
}

/// The pure core of an extension: no clock, no I/O, no randomness. Everything it remembers is in its [`crate::Table`]s,
/// from which the runner derives undo records and what to persist. The same blocks and inputs give the same bytes.
pub trait Extension: Send + Sync + 'static {
    /// Stable name; the journal's key.
    const NAME: &'static str;
    /// Version of the records in the tables; a journal of another version is refused.
    const VERSION: u32;

    /// Applies a block.
    fn apply(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError>;

    /// Applies an input from outside the chain (e.g. a heartbeat). Changes made here survive reverts. `at` is the
    /// extension's cursor and is the origin of the effects.
    fn input(&mut self, at: crate::BlockRef, input: &[u8], effects: &mut Effects) -> Result<(), CoreError>;

    /// Every table, in a fixed order.
    fn tables(&mut self) -> Vec<&mut dyn AnyTable>;
}
