//! What the feed needs of the node's database, against what the node prunes.

use eyre::Result;
use lcai_host::BlockRef;
use reth_node_core::args::PruningArgs;
use reth_provider::PruneCheckpointReader;
use reth_prune_types::{PruneMode, PruneSegment, ReceiptsLogPruneConfig};
use std::collections::BTreeMap;

/// Keeps our contracts' receipts on a node that prunes receipts by preset (`--full`, `--minimal`). Returns whether the
/// filter is in force. Not set otherwise: the filter makes Reth prune everybody else's receipts.
pub fn keep_our_receipts(pruning: &mut PruningArgs, contracts: &[alloy_primitives::Address]) -> bool {
    if let Some(filter) = &pruning.receipts_log_filter {
        return contracts.iter().all(|contract| filter.0.contains_key(contract));
    }
    let prunes_by_preset = pruning.full || pruning.minimal;
    let own_wish = pruning.receipts_full
        || pruning.receipts_pre_merge
        || pruning.receipts_distance.is_some()
        || pruning.receipts_before.is_some();
    if !prunes_by_preset || own_wish {
        return false;
    }
    let keep: BTreeMap<_, _> = contracts.iter().map(|contract| (*contract, PruneMode::Before(0))).collect();
    pruning.receipts_log_filter = Some(ReceiptsLogPruneConfig(keep));
    true
}

/// Refuses when what the feed has still to read is gone.
///
/// # Errors
/// Names the first block that is missing and the flag that removed it.
pub fn refuse_gap<P: PruneCheckpointReader>(
    provider: &P,
    tip: Option<BlockRef>,
    filtered: bool,
) -> Result<()> {
    let first = tip.map_or(0, |tip| tip.number.saturating_add(1));
    let segments = [
        (PruneSegment::Receipts, "receipts", "--prune.receipts.*, --full, --minimal", !filtered),
        (PruneSegment::Bodies, "transactions", "--prune.bodies.*, --minimal", true),
        (
            PruneSegment::StorageHistory,
            "contract state",
            "--prune.storage-history.*, --full, --minimal",
            true,
        ),
    ];
    for (segment, what, flags, needed) in segments {
        let checkpoint = provider.get_prune_checkpoint(segment)?;
        let Some(pruned) = checkpoint.and_then(|checkpoint| checkpoint.block_number) else { continue };
        if needed && pruned >= first {
            let journal = tip.map_or_else(
                || "the journal is empty".to_owned(),
                |tip| format!("the journal ends at block {}", tip.number),
            );
            eyre::bail!(
                "{journal}, and this node has pruned {what} up to block {pruned} ({flags}): the blocks between cannot be \
                 read. Give the journal that belongs to this node (--lcai.datadir), or resync without these flags"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::Address;

    #[test]
    fn presets_get_the_filter_and_nothing_else_does() {
        let ours = [Address::repeat_byte(1), Address::repeat_byte(2)];
        let mut archive = PruningArgs::default();
        assert!(!keep_our_receipts(&mut archive, &ours));
        assert_eq!(archive.receipts_log_filter, None);

        let mut full = PruningArgs { full: true, ..PruningArgs::default() };
        assert!(keep_our_receipts(&mut full, &ours));
        assert_eq!(full.receipts_log_filter.as_ref().map(|filter| filter.0.len()), Some(2));
        assert!(keep_our_receipts(&mut full, &ours), "a filter that is there already counts");

        let mut wish = PruningArgs { full: true, receipts_distance: Some(5), ..PruningArgs::default() };
        assert!(!keep_our_receipts(&mut wish, &ours));
    }
}
