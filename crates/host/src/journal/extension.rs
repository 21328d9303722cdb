//! Layer 2: what one extension knows, and how to take it back.

use super::{
    Journal, JournalError, codec,
    effects::{EffectsView, EmitUndo},
    feed::FeedView,
    later,
    records::KeyValue,
};
use crate::{BlockRef, FeedBlock, Intent, RawChange};
use alloy_primitives::B256;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const EXTENSIONS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("extensions");
const ROWS: TableDefinition<'static, (&str, &str, &[u8]), &[u8]> = TableDefinition::new("rows");
const UNDO: TableDefinition<'static, (&str, u64), &[u8]> = TableDefinition::new("undo");
const INPUTS: TableDefinition<'static, (&str, u64), &[u8]> = TableDefinition::new("inputs");

pub(super) fn create_tables(txn: &WriteTransaction) -> Result<(), JournalError> {
    txn.open_table(EXTENSIONS)?;
    txn.open_table(ROWS)?;
    txn.open_table(UNDO)?;
    txn.open_table(INPUTS)?;
    Ok(())
}

/// Who writes a table. Block changes are undone by reverts and input changes are not, so no table has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TableWriter {
    /// [`crate::Extension::apply`].
    Blocks,
    /// [`crate::Extension::input`].
    Inputs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExtensionMeta {
    pub(super) version: u32,
    pub(crate) cursor: Option<BlockRef>,
    pub(super) next_input: u64,
    pub(crate) writers: BTreeMap<String, TableWriter>,
}

/// The rows one table changed.
pub(crate) type TableChanges = (&'static str, Vec<RawChange>);

/// What a block changed.
pub(crate) struct BlockChanges<'a> {
    pub(crate) block: &'a FeedBlock,
    pub(crate) tables: Vec<TableChanges>,
    pub(crate) intents: Vec<Intent>,
    /// Whether the block can still be reverted.
    pub(crate) revertible: bool,
}

/// What an input changed.
pub(crate) struct InputChanges<'a> {
    pub(crate) input: &'a [u8],
    pub(crate) at: BlockRef,
    pub(crate) tables: Vec<TableChanges>,
    pub(crate) intents: Vec<Intent>,
}

/// A row as it was: key, and value if it existed.
type OldRow = (Vec<u8>, Option<Vec<u8>>);

/// What takes one block back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UndoRecord {
    pub(super) block: BlockRef,
    /// The cursor before.
    pub(super) parent: Option<BlockRef>,
    /// Old rows by table.
    pub(crate) tables: Vec<(String, Vec<OldRow>)>,
    pub(super) effects: Vec<EmitUndo>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InputRecord {
    pub(super) at: BlockRef,
    pub(super) input: Vec<u8>,
}

impl Journal {
    /// Makes an extension known, or checks that the journal holds its version.
    pub(crate) fn register_extension(&self, name: &'static str, version: u32) -> Result<(), JournalError> {
        let txn = self.write()?;
        {
            let mut table = txn.open_table(EXTENSIONS)?;
            let known: Option<ExtensionMeta> =
                table.get(name)?.map(|value| codec::decode("extension", value.value())).transpose()?;
            match known {
                Some(meta) if meta.version != version => {
                    return Err(JournalError::ExtensionVersion {
                        name: name.to_owned(),
                        found: meta.version,
                        expected: version,
                    });
                }
                Some(_) => {}
                None => {
                    let meta =
                        ExtensionMeta { version, cursor: None, next_input: 0, writers: BTreeMap::new() };
                    table.insert(name, codec::encode("extension", &meta)?.as_slice())?;
                }
            }
        }
        Ok(txn.commit()?)
    }

    /// Forgets an extension that is no longer run, so that the feed can be pruned past its cursor.
    pub fn forget_extension(&self, name: &str) -> Result<(), JournalError> {
        let txn = self.write()?;
        txn.open_table(EXTENSIONS)?.remove(name)?;
        txn.open_table(ROWS)?.retain(|(extension, _, _), _| extension != name)?;
        txn.open_table(UNDO)?.retain(|(extension, _), _| extension != name)?;
        txn.open_table(INPUTS)?.retain(|(extension, _), _| extension != name)?;
        Ok(txn.commit()?)
    }

    /// Every extension with its cursor.
    pub fn cursors(&self) -> Result<Vec<(String, Option<BlockRef>)>, JournalError> {
        let table = self.read()?.open_table(EXTENSIONS)?;
        let mut cursors = Vec::new();
        for row in table.iter()? {
            let (name, value) = row?;
            let meta: ExtensionMeta = codec::decode("extension", value.value())?;
            cursors.push((name.value().to_owned(), meta.cursor));
        }
        Ok(cursors)
    }

    /// An extension's cursor if it is on the canonical chain.
    pub(super) fn canonical_cursor(&self, name: &str) -> Result<Option<BlockRef>, JournalError> {
        let cursor = self.cursor(name)?;
        match cursor {
            Some(cursor) if self.feed_hash(cursor.number)? == Some(cursor.hash) => Ok(Some(cursor)),
            _ => Ok(None),
        }
    }

    /// An extension's cursor.
    pub(crate) fn cursor(&self, name: &str) -> Result<Option<BlockRef>, JournalError> {
        let table = self.read()?.open_table(EXTENSIONS)?;
        let Some(value) = table.get(name)? else { return Ok(None) };
        Ok(codec::decode::<ExtensionMeta>("extension", value.value())?.cursor)
    }

    /// Every row of one of an extension's tables, encoded, in key order: what two replays are compared by.
    pub fn rows(&self, name: &str, table: &str) -> Result<Vec<KeyValue>, JournalError> {
        let rows = self.read()?.open_table(ROWS)?;
        let mut found = Vec::new();
        for row in rows.range((name, table, [].as_slice())..)? {
            let (key, value) = row?;
            let (extension, of_table, key) = key.value();
            if extension != name || of_table != table {
                break;
            }
            found.push((key.to_vec(), value.value().to_vec()));
        }
        Ok(found)
    }

    /// The inputs the journal still holds, oldest first: what a replay needs beside the feed.
    pub fn inputs(&self, name: &str) -> Result<Vec<(BlockRef, Vec<u8>)>, JournalError> {
        let table = self.read()?.open_table(INPUTS)?;
        let mut found = Vec::new();
        for row in table.range((name, 0)..=(name, u64::MAX))? {
            let record: InputRecord = codec::decode("input", row?.1.value())?;
            found.push((record.at, record.input));
        }
        Ok(found)
    }

    pub(crate) fn extension_txn(&self, name: &'static str) -> Result<ExtensionTxn, JournalError> {
        let txn = self.write()?;
        let meta = {
            let table = txn.open_table(EXTENSIONS)?;
            let value = table.get(name)?.ok_or_else(|| JournalError::Corrupt {
                what: "extension",
                reason: format!("{name} was never registered"),
            })?;
            codec::decode("extension", value.value())?
        };
        Ok(ExtensionTxn { txn, name, meta })
    }
}

/// One transaction of an extension: {cursor, rows, undo, intents} change together or not at all.
pub(crate) struct ExtensionTxn {
    txn: WriteTransaction,
    name: &'static str,
    pub(crate) meta: ExtensionMeta,
}

impl ExtensionTxn {
    pub(crate) fn feed_hash(&self, number: u64) -> Result<Option<B256>, JournalError> {
        FeedView::open(&self.txn)?.hash(number)
    }

    pub(crate) fn feed_first(&self) -> Result<Option<BlockRef>, JournalError> {
        FeedView::open(&self.txn)?.first()
    }

    pub(crate) fn feed_blocks(&self, from: u64, max: usize) -> Result<Vec<FeedBlock>, JournalError> {
        FeedView::open(&self.txn)?.blocks(from, max)
    }

    /// Records a block; the cursor moves to it.
    pub(crate) fn apply_block(&mut self, changes: BlockChanges<'_>) -> Result<(), JournalError> {
        self.write_rows(&changes.tables)?;
        let mut effects = Vec::new();
        {
            let mut view = EffectsView::open(&self.txn, self.name)?;
            for intent in changes.intents {
                effects.extend(view.emit(intent)?);
            }
        }
        if changes.revertible {
            let tables = changes.tables.into_iter().map(|(table, rows)| (table.to_owned(), old_rows(rows)));
            let undo = UndoRecord {
                block: changes.block.block_ref(),
                parent: self.meta.cursor,
                tables: tables.collect(),
                effects,
            };
            let undo = codec::encode("undo record", &undo)?;
            self.txn.open_table(UNDO)?.insert((self.name, changes.block.number), undo.as_slice())?;
        }
        self.meta.cursor = Some(changes.block.block_ref());
        Ok(())
    }

    /// Takes the cursor's block back; gives its undo record for the tables in memory. `None` when there is none.
    pub(crate) fn revert_block(&mut self) -> Result<Option<UndoRecord>, JournalError> {
        let Some(cursor) = self.meta.cursor else { return Ok(None) };
        let undo: Option<UndoRecord> = {
            let mut table = self.txn.open_table(UNDO)?;
            let removed = table.remove((self.name, cursor.number))?;
            removed.map(|value| codec::decode("undo record", value.value())).transpose()?
        };
        let Some(mut undo) = undo else { return Ok(None) };
        if undo.block != cursor {
            return Err(JournalError::Corrupt {
                what: "undo record",
                reason: format!("it is of {:?}, the cursor is at {cursor:?}", undo.block),
            });
        }
        {
            let mut rows = self.txn.open_table(ROWS)?;
            for (table, olds) in &undo.tables {
                for (key, old) in olds {
                    let key = (self.name, table.as_str(), key.as_slice());
                    match old {
                        Some(old) => drop(rows.insert(key, old.as_slice())?),
                        None => drop(rows.remove(key)?),
                    }
                }
            }
        }
        let mut view = EffectsView::open(&self.txn, self.name)?;
        for effect in std::mem::take(&mut undo.effects).into_iter().rev() {
            view.withdraw(effect)?;
        }
        view.reopen_from(cursor.number)?;
        self.meta.cursor = undo.parent;
        Ok(Some(undo))
    }

    /// Records an input and what it changed.
    pub(crate) fn apply_input(&mut self, changes: InputChanges<'_>) -> Result<(), JournalError> {
        self.write_rows(&changes.tables)?;
        {
            let mut view = EffectsView::open(&self.txn, self.name)?;
            for intent in changes.intents {
                view.emit(intent)?;
            }
        }
        let record = InputRecord { at: changes.at, input: changes.input.to_vec() };
        let record = codec::encode("input", &record)?;
        self.txn.open_table(INPUTS)?.insert((self.name, self.meta.next_input), record.as_slice())?;
        self.meta.next_input += 1;
        Ok(())
    }

    /// Drops what takes blocks below a height back, which can no longer be needed.
    pub(crate) fn prune_undo(&mut self, below: u64) -> Result<(), JournalError> {
        let mut undo = self.txn.open_table(UNDO)?;
        undo.retain_in((self.name, 0)..(self.name, below), |_, _| false)?;
        EffectsView::open(&self.txn, self.name)?.settle_below(below)
    }

    /// Keeps the newest inputs only.
    pub(crate) fn prune_inputs(&mut self, keep: u64) -> Result<(), JournalError> {
        let below = self.meta.next_input.saturating_sub(keep);
        let mut inputs = self.txn.open_table(INPUTS)?;
        inputs.retain_in((self.name, 0)..(self.name, below), |_, _| false)?;
        Ok(())
    }

    /// Forgets finished effects that were asked for below a height.
    pub(crate) fn forget_effects_below(&mut self, number: u64) -> Result<(), JournalError> {
        EffectsView::open(&self.txn, self.name)?.forget_below(number)
    }

    /// Commits blocks that were applied or taken back: on disk with the next commit that syncs, the feed's next step at
    /// the latest.
    pub(crate) fn commit_blocks(mut self) -> Result<(), JournalError> {
        later(&mut self.txn)?;
        self.commit()
    }

    /// Commits, to disk.
    pub(crate) fn commit(self) -> Result<(), JournalError> {
        {
            let mut table = self.txn.open_table(EXTENSIONS)?;
            table.insert(self.name, codec::encode("extension", &self.meta)?.as_slice())?;
        }
        Ok(self.txn.commit()?)
    }

    fn write_rows(&mut self, tables: &[TableChanges]) -> Result<(), JournalError> {
        let mut rows = self.txn.open_table(ROWS)?;
        for (table, changes) in tables {
            for change in changes {
                let key = (self.name, *table, change.key.as_slice());
                match &change.new {
                    Some(new) => drop(rows.insert(key, new.as_slice())?),
                    None => drop(rows.remove(key)?),
                }
            }
        }
        Ok(())
    }
}

fn old_rows(changes: Vec<RawChange>) -> Vec<OldRow> {
    changes.into_iter().map(|change| (change.key, change.old)).collect()
}
