//! Effect intents and what became of them.

use super::{Journal, JournalError, codec};
use crate::{BlockRef, Intent, IntentId, OnRepeat};
use alloy_primitives::B256;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

type EffectTable = TableDefinition<'static, (&'static str, &'static [u8; 32]), &'static [u8]>;

const EFFECTS: EffectTable = TableDefinition::new("effects");
/// The intents that are wanted and not finished, so that looking for work reads nothing else.
const OPEN: TableDefinition<'static, (&'static str, &'static [u8; 32]), ()> =
    TableDefinition::new("effects_open");
type EndedKey = (&'static str, u64, &'static [u8; 32]);
/// Those that ended while the chain was at a height, until it is final: where it loses a block at or below that, whatever
/// ended them may be gone, and they are opened again.
const ENDED: TableDefinition<'static, EndedKey, ()> = TableDefinition::new("effects_ended");

pub(super) fn create_tables(txn: &WriteTransaction) -> Result<(), JournalError> {
    txn.open_table(EFFECTS)?;
    txn.open_table(OPEN)?;
    txn.open_table(ENDED)?;
    Ok(())
}

/// What the journal knows of one effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EffectRecord {
    /// The intent, as the canonical chain asks for it or last asked for it.
    pub(super) intent: Intent,
    /// Whether the canonical chain, as far as the extension applied it, asks for it.
    pub(super) wanted: bool,
    /// Whether it is still to be performed. Never set while `wanted` is not.
    pub(super) open: bool,
    /// Whether an attempt began whose end is not recorded.
    pub(super) started: bool,
    /// What the last performance left behind.
    pub(super) done: Option<Vec<u8>>,
    /// Why it was given up.
    pub(super) dropped: Option<String>,
}

/// The state of an effect for those who wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EffectState {
    /// Still to be performed.
    Pending,
    /// Performed; the bytes are the handler's.
    Done(Vec<u8>),
    /// Given up or too late, with the reason.
    Dropped(String),
    /// The block that asked for it was reverted before it happened.
    Withdrawn,
}

impl EffectRecord {
    fn state(&self) -> EffectState {
        match (&self.done, &self.dropped) {
            _ if self.open => EffectState::Pending,
            (Some(output), _) => EffectState::Done(output.clone()),
            (None, Some(reason)) if self.wanted => EffectState::Dropped(reason.clone()),
            _ => EffectState::Withdrawn,
        }
    }
}

/// An intent that waits to be performed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenEffect {
    pub(crate) id: IntentId,
    pub(crate) intent: Intent,
    /// Whether an attempt began, maybe before a crash, whose end is not known.
    pub(crate) started: bool,
    /// What an earlier performance left behind.
    pub(crate) previous: Option<Vec<u8>>,
}

/// How an attempt is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It happened.
    Done(Vec<u8>),
    /// It will not happen, with the reason.
    Dropped(String),
}

/// What undoes one emission of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EmitUndo {
    pub(super) id: B256,
    /// The intent that was recorded before and whether it was wanted; `None` when there was none.
    pub(super) before: Option<(Intent, bool)>,
}

/// Effects of one extension within a write transaction.
pub(super) struct EffectsView<'txn> {
    name: &'static str,
    effects: redb::Table<'txn, (&'static str, &'static [u8; 32]), &'static [u8]>,
    open: redb::Table<'txn, (&'static str, &'static [u8; 32]), ()>,
    ended: redb::Table<'txn, EndedKey, ()>,
}

impl<'txn> EffectsView<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction, name: &'static str) -> Result<Self, JournalError> {
        let (effects, open) = (txn.open_table(EFFECTS)?, txn.open_table(OPEN)?);
        Ok(Self { name, effects, open, ended: txn.open_table(ENDED)? })
    }

    fn get(&self, id: &B256) -> Result<Option<EffectRecord>, JournalError> {
        self.effects.get((self.name, &id.0))?.map(|value| codec::decode("effect", value.value())).transpose()
    }

    fn put(&mut self, id: &B256, record: &EffectRecord) -> Result<(), JournalError> {
        self.effects.insert((self.name, &id.0), codec::encode("effect", record)?.as_slice())?;
        if record.open {
            self.open.insert((self.name, &id.0), ())?;
        } else {
            self.open.remove((self.name, &id.0))?;
        }
        Ok(())
    }

    /// Records an intent. While the same effect is still open the first intent stands.
    pub(super) fn emit(&mut self, intent: Intent) -> Result<Option<EmitUndo>, JournalError> {
        let id = intent.id().0;
        let (record, before) = match self.get(&id)? {
            None => {
                let record = EffectRecord {
                    intent,
                    wanted: true,
                    open: true,
                    started: false,
                    done: None,
                    dropped: None,
                };
                (record, None)
            }
            Some(old) if old.open => return Ok(None),
            Some(old) => {
                let open = old.done.is_none() || intent.on_repeat == OnRepeat::Again;
                let record = EffectRecord { intent, wanted: true, open, dropped: None, ..old.clone() };
                (record, Some((old.intent, old.wanted)))
            }
        };
        self.put(&id, &record)?;
        Ok(Some(EmitUndo { id, before }))
    }

    /// Takes an emission back. What already happened stays known.
    pub(super) fn withdraw(&mut self, undo: EmitUndo) -> Result<(), JournalError> {
        let Some(mut record) = self.get(&undo.id)? else { return Ok(()) };
        record.open = false;
        match undo.before {
            Some((intent, wanted)) => {
                record.intent = intent;
                record.wanted = wanted;
            }
            None if record.done.is_none() && !record.started => {
                self.effects.remove((self.name, &undo.id.0))?;
                self.open.remove((self.name, &undo.id.0))?;
                return Ok(());
            }
            None => record.wanted = false,
        }
        self.put(&undo.id, &record)
    }

    fn mark_started(&mut self, id: &IntentId) -> Result<bool, JournalError> {
        match self.get(&id.0)? {
            Some(mut record) if record.open => {
                record.started = true;
                self.put(&id.0, &record)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Opens again what ended at a height or above, after the chain lost the block there: the transaction that did it, or
    /// whatever made it pointless, may be gone, and no pool need have it. The handler finds out.
    pub(super) fn reopen_from(&mut self, number: u64) -> Result<(), JournalError> {
        let mut ended = Vec::new();
        for row in self.ended.range((self.name, number, &[0; 32])..=(self.name, u64::MAX, &[0xff; 32]))? {
            let (key, _) = row?;
            let (_, at, id) = key.value();
            ended.push((at, *id));
        }
        for (at, id) in ended {
            self.ended.remove((self.name, at, &id))?;
            let id = B256::from(id);
            if let Some(mut record) = self.get(&id)?.filter(|record| record.wanted && !record.open) {
                record.open = true;
                self.put(&id, &record)?;
            }
        }
        Ok(())
    }

    /// Forgets what ended below a height, which is final.
    pub(super) fn settle_below(&mut self, number: u64) -> Result<(), JournalError> {
        let (first, end) = ((self.name, 0, &[0; 32]), (self.name, number, &[0; 32]));
        Ok(self.ended.retain_in(first..end, |_, ()| false)?)
    }

    /// Records how an attempt ended, with the chain at a height. The intent may have been withdrawn, or asked for anew by
    /// another block, meanwhile: gives whether it is open.
    fn finish(&mut self, attempted: &Intent, ending: Ending, at: u64) -> Result<bool, JournalError> {
        let id = attempted.id().0;
        let mut record = match self.get(&id)? {
            Some(record) => record,
            None => EffectRecord {
                intent: attempted.clone(),
                wanted: false,
                open: false,
                started: true,
                done: None,
                dropped: None,
            },
        };
        let asked_anew = record.open && record.intent.origin != attempted.origin;
        let stands = matches!(ending, Ending::Done(_)) && record.intent.on_repeat == OnRepeat::Skip;
        record.started = false;
        match ending {
            Ending::Done(output) => {
                record.open = asked_anew && record.intent.on_repeat == OnRepeat::Again;
                record.done = Some(output);
                record.dropped = None;
            }
            Ending::Dropped(reason) => {
                record.open = asked_anew;
                record.dropped = Some(reason);
            }
        }
        if record.wanted && !record.open && !stands {
            self.ended.insert((self.name, at, &id.0), ())?;
        }
        self.put(&id, &record)?;
        Ok(record.open)
    }

    /// Forgets finished effects whose origin is below a height.
    pub(super) fn forget_below(&mut self, number: u64) -> Result<(), JournalError> {
        let mut old = Vec::new();
        for row in self.effects.range((self.name, &[0; 32])..=(self.name, &[0xff; 32]))? {
            let (key, value) = row?;
            let record: EffectRecord = codec::decode("effect", value.value())?;
            if !record.open && record.intent.origin.number < number {
                old.push(*key.value().1);
            }
        }
        for id in &old {
            self.effects.remove((self.name, id))?;
        }
        Ok(())
    }
}

impl Journal {
    /// Every open effect of an extension, with the extension's cursor; nothing while the cursor is not on the canonical
    /// chain, because some of them are about to be withdrawn then.
    pub(crate) fn open_effects(
        &self,
        name: &'static str,
    ) -> Result<Option<(BlockRef, Vec<OpenEffect>)>, JournalError> {
        let Some(cursor) = self.canonical_cursor(name)? else { return Ok(None) };
        let txn = self.read()?;
        let (open, effects) = (txn.open_table(OPEN)?, txn.open_table(EFFECTS)?);
        let mut found = Vec::new();
        for row in open.range((name, &[0; 32])..=(name, &[0xff; 32]))? {
            let (key, _) = row?;
            let Some(value) = effects.get(key.value())? else { continue };
            let record: EffectRecord = codec::decode("effect", value.value())?;
            let id = IntentId(B256::from(key.value().1));
            let EffectRecord { intent, started, done: previous, .. } = record;
            found.push(OpenEffect { id, intent, started, previous });
        }
        Ok(Some((cursor, found)))
    }

    /// What is known of one effect.
    pub(crate) fn effect_state(
        &self,
        name: &'static str,
        id: IntentId,
    ) -> Result<Option<EffectState>, JournalError> {
        let effects = self.read()?.open_table(EFFECTS)?;
        let Some(value) = effects.get((name, &id.0.0))? else { return Ok(None) };
        let record: EffectRecord = codec::decode("effect", value.value())?;
        Ok(Some(record.state()))
    }

    /// Notes that attempts begin; gives those that are still wanted.
    pub(crate) fn start_effects(
        &self,
        name: &'static str,
        effects: Vec<OpenEffect>,
    ) -> Result<Vec<OpenEffect>, JournalError> {
        let txn = self.write()?;
        let mut started = Vec::with_capacity(effects.len());
        {
            let mut view = EffectsView::open(&txn, name)?;
            for effect in effects {
                if view.mark_started(&effect.id)? {
                    started.push(effect);
                }
            }
        }
        txn.commit()?;
        Ok(started)
    }

    /// Records how attempts ended, with the host's head at a height; gives whether one of them was asked for anew meanwhile.
    pub(crate) fn finish_effects(
        &self,
        name: &'static str,
        attempts: Vec<(Intent, Ending)>,
        at: u64,
    ) -> Result<bool, JournalError> {
        let txn = self.write()?;
        let mut open = false;
        {
            let mut view = EffectsView::open(&txn, name)?;
            for (attempted, ending) in attempts {
                open |= view.finish(&attempted, ending, at)?;
            }
        }
        txn.commit()?;
        Ok(open)
    }
}
