//! Layer 1: the canonical chain as this node has seen it.

use super::{Journal, JournalError, META, codec};
use crate::{BlockRef, CanonicalHashes, FeedBlock, Heads};
use alloy_primitives::B256;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

const BLOCKS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("feed_blocks");
/// Hashes apart from the blocks, so that walking back decodes nothing.
const HASHES: TableDefinition<'static, u64, &[u8; 32]> = TableDefinition::new("feed_hashes");
const KEY_HEADS: &str = "heads";
const KEY_FINISHED: &str = "finished";
const KEY_PRUNED: &str = "pruned below";

pub(super) fn create_tables(txn: &WriteTransaction) -> Result<(), JournalError> {
    txn.open_table(BLOCKS)?;
    txn.open_table(HASHES)?;
    Ok(())
}

/// What [`Journal::advance_feed`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedStep {
    /// The tip afterwards.
    pub tip: Option<BlockRef>,
    /// Blocks taken off.
    pub reverted: usize,
    /// Blocks added; those the feed already had do not count.
    pub committed: usize,
}

impl Journal {
    /// The newest block of the feed.
    pub fn feed_tip(&self) -> Result<Option<BlockRef>, JournalError> {
        let table = self.read()?.open_table(HASHES)?;
        edge(table.last()?)
    }

    /// The oldest block the feed still holds.
    pub fn feed_first(&self) -> Result<Option<BlockRef>, JournalError> {
        let table = self.read()?.open_table(HASHES)?;
        edge(table.first()?)
    }

    /// The hash of the feed's block at a height.
    pub fn feed_hash(&self, number: u64) -> Result<Option<B256>, JournalError> {
        let table = self.read()?.open_table(HASHES)?;
        Ok(table.get(number)?.map(|hash| B256::from(*hash.value())))
    }

    /// A block of the feed.
    pub fn feed_block(&self, number: u64) -> Result<Option<FeedBlock>, JournalError> {
        let table = self.read()?.open_table(BLOCKS)?;
        table.get(number)?.map(|block| codec::decode("feed block", block.value())).transpose()
    }

    /// Blocks of the feed from a height on, at most `max` of them.
    pub fn feed_blocks(&self, from: u64, max: usize) -> Result<Vec<FeedBlock>, JournalError> {
        let table = self.read()?.open_table(BLOCKS)?;
        read_blocks(&table, from, max)
    }

    /// The heads as the host last reported them.
    pub fn heads(&self) -> Result<Option<Heads>, JournalError> {
        self.meta_value(KEY_HEADS)
    }

    /// The height last reported as finished.
    pub fn finished(&self) -> Result<Option<BlockRef>, JournalError> {
        self.meta_value(KEY_FINISHED)
    }

    /// The height below which blocks were dropped; `None` while the feed is whole.
    pub fn feed_pruned(&self) -> Result<Option<u64>, JournalError> {
        self.meta_value(KEY_PRUNED)
    }

    fn meta_value<T: serde::de::DeserializeOwned>(
        &self,
        key: &'static str,
    ) -> Result<Option<T>, JournalError> {
        let meta = self.read()?.open_table(META)?;
        meta.get(key)?.map(|value| codec::decode(key, value.value())).transpose()
    }

    /// Remembers the height reported as finished. When a crash takes that back it is reported again.
    pub(crate) fn set_finished(&self, block: BlockRef) -> Result<(), JournalError> {
        let txn = self.write_later()?;
        txn.open_table(META)?.insert(KEY_FINISHED, codec::encode(KEY_FINISHED, &block)?.as_slice())?;
        Ok(txn.commit()?)
    }

    /// Takes blocks off the feed and adds others, in one transaction. Blocks that the feed already holds are skipped;
    /// [`JournalError::Discontinuous`] when the rest does not continue it, and then nothing changes.
    ///
    /// Only the feed writer calls this; it is public for hosts' own tests.
    pub fn advance_feed(
        &self,
        reverted: &[BlockRef],
        committed: &[FeedBlock],
        heads: &Heads,
    ) -> Result<FeedStep, JournalError> {
        let changes_nothing = reverted.is_empty() && committed.is_empty();
        let txn = if changes_nothing { self.write_later()? } else { self.write()? };
        let step = {
            let mut hashes = txn.open_table(HASHES)?;
            let mut blocks = txn.open_table(BLOCKS)?;
            let mut tip = edge(hashes.last()?)?;
            for block in reverted {
                if tip != Some(*block) {
                    let reason = format!("block {block:?} is to be reverted but is not the tip");
                    return Err(JournalError::Discontinuous { tip, reason });
                }
                hashes.remove(block.number)?;
                blocks.remove(block.number)?;
                tip = edge(hashes.last()?)?;
            }
            let mut added = 0;
            for block in committed {
                let known = hashes.get(block.number)?.map(|hash| B256::from(*hash.value()));
                if known == Some(block.hash) {
                    continue;
                }
                if tip.is_some() && block.parent_ref() != tip {
                    let reason = format!("block {:?} has parent {}", block.block_ref(), block.parent_hash);
                    return Err(JournalError::Discontinuous { tip, reason });
                }
                hashes.insert(block.number, &block.hash.0)?;
                blocks.insert(block.number, codec::encode("feed block", block)?.as_slice())?;
                tip = Some(block.block_ref());
                added += 1;
            }
            txn.open_table(META)?.insert(KEY_HEADS, codec::encode(KEY_HEADS, heads)?.as_slice())?;
            FeedStep { tip, reverted: reverted.len(), committed: added }
        };
        txn.commit()?;
        Ok(step)
    }

    /// Drops the feed's blocks below a height, at most `max` of them; says how many went.
    pub(crate) fn prune_feed(&self, below: u64, max: usize) -> Result<usize, JournalError> {
        let txn = self.write()?;
        let pruned = {
            let mut hashes = txn.open_table(HASHES)?;
            let mut blocks = txn.open_table(BLOCKS)?;
            let numbers = hashes
                .range(..below)?
                .take(max)
                .map(|row| row.map(|(number, _)| number.value()))
                .collect::<Result<Vec<_>, _>>()?;
            for number in &numbers {
                hashes.remove(number)?;
                blocks.remove(number)?;
            }
            if let Some(last) = numbers.last() {
                let pruned = codec::encode(KEY_PRUNED, &(last + 1))?;
                txn.open_table(META)?.insert(KEY_PRUNED, pruned.as_slice())?;
            }
            numbers.len()
        };
        txn.commit()?;
        Ok(pruned)
    }

    /// The height below which nothing that follows the feed needs it any more: the lowest cursor, or the feed's first
    /// block while some cursor is on a fork that was left, because its way back leads through older hashes. `None` when
    /// no extension has a cursor.
    pub(crate) fn lowest_cursor(&self) -> Result<Option<u64>, JournalError> {
        let mut lowest = None;
        for (_, cursor) in self.cursors()? {
            let needed = match cursor {
                Some(cursor) if self.feed_hash(cursor.number)? == Some(cursor.hash) => cursor.number,
                _ => 0,
            };
            lowest = Some(lowest.map_or(needed, |lowest: u64| lowest.min(needed)));
        }
        Ok(lowest)
    }
}

impl CanonicalHashes for Journal {
    fn tip(&self) -> Option<BlockRef> {
        self.feed_tip().unwrap_or_else(|error| {
            tracing::error!(%error, "the feed's tip cannot be read");
            None
        })
    }

    fn hash_at(&self, number: u64) -> Option<B256> {
        self.feed_hash(number).unwrap_or_else(|error| {
            tracing::error!(%error, number, "a feed hash cannot be read");
            None
        })
    }

    fn settled(&self) -> Option<BlockRef> {
        self.finished().unwrap_or_else(|error| {
            tracing::error!(%error, "the finished block cannot be read");
            None
        })
    }
}

type Edge<'a> = Option<(redb::AccessGuard<'a, u64>, redb::AccessGuard<'a, &'static [u8; 32]>)>;

fn edge(row: Edge<'_>) -> Result<Option<BlockRef>, JournalError> {
    Ok(row.map(|(number, hash)| BlockRef { number: number.value(), hash: B256::from(*hash.value()) }))
}

fn read_blocks(
    table: &impl ReadableTable<u64, &'static [u8]>,
    from: u64,
    max: usize,
) -> Result<Vec<FeedBlock>, JournalError> {
    let mut blocks = Vec::new();
    for row in table.range(from..)?.take(max) {
        let (_, block) = row?;
        blocks.push(codec::decode("feed block", block.value())?);
    }
    Ok(blocks)
}

/// The feed as one write transaction sees it.
pub(super) struct FeedView<'txn> {
    hashes: redb::Table<'txn, u64, &'static [u8; 32]>,
    blocks: redb::Table<'txn, u64, &'static [u8]>,
}

impl<'txn> FeedView<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, JournalError> {
        Ok(Self { hashes: txn.open_table(HASHES)?, blocks: txn.open_table(BLOCKS)? })
    }

    pub(super) fn hash(&self, number: u64) -> Result<Option<B256>, JournalError> {
        Ok(self.hashes.get(number)?.map(|hash| B256::from(*hash.value())))
    }

    pub(super) fn first(&self) -> Result<Option<BlockRef>, JournalError> {
        edge(self.hashes.first()?)
    }

    pub(super) fn blocks(&self, from: u64, max: usize) -> Result<Vec<FeedBlock>, JournalError> {
        read_blocks(&self.blocks, from, max)
    }
}
