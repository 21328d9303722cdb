//! What the feed needs of the node's database, against what the node prunes.

use alloy_primitives::Address;
use eyre::Result;
use lcai_host::BlockRef;
use reth_db::{tables, transaction::DbTx};
use reth_node_core::args::PruningArgs;
use reth_provider::{
    BlockNumReader, DBProvider, DatabaseProviderFactory, PruneCheckpointReader, PruneCheckpointWriter,
    StaticFileProviderFactory, StaticFileSegment, StorageSettingsCache,
};
use reth_prune_types::{
    MINIMUM_UNWIND_SAFE_DISTANCE, PruneCheckpoint, PruneMode, PruneModes, PruneSegment,
    ReceiptsLogPruneConfig,
};
use std::collections::BTreeMap;

/// What removes receipts.
pub(crate) const RECEIPTS: &str = "--prune.receipts.*, --full, --minimal";
/// What removes transactions.
pub(crate) const BODIES: &str = "--prune.bodies.*, --minimal";
/// What removes the state of earlier blocks.
pub(crate) const STATE: &str = "--prune.account-history.*, --prune.storage-history.*, --full, --minimal";

/// Sets what presets leave open, so that the feed and our own transactions find what they need: with `--full` or
/// `--minimal`, the receipts' log filter keeps our contracts' receipts, and with `--minimal` transactions are found by hash
/// as long as state is kept. Without a preset nothing is set: the filter makes Reth prune everybody else's receipts.
pub fn complete_presets(pruning: &mut PruningArgs, contracts: &[Address]) {
    let own_receipts = pruning.receipts_log_filter.is_some()
        || pruning.receipts_full
        || pruning.receipts_pre_merge
        || pruning.receipts_distance.is_some()
        || pruning.receipts_before.is_some();
    if (pruning.full || pruning.minimal) && !own_receipts {
        let keep: BTreeMap<_, _> =
            contracts.iter().map(|contract| (*contract, PruneMode::Before(0))).collect();
        pruning.receipts_log_filter = Some(ReceiptsLogPruneConfig(keep));
    }
    let own_lookup = pruning.transaction_lookup_full
        || pruning.transaction_lookup_distance.is_some()
        || pruning.transaction_lookup_before.is_some();
    if pruning.minimal && !own_lookup {
        pruning.transaction_lookup_distance = Some(MINIMUM_UNWIND_SAFE_DISTANCE);
    }
}

/// Whether the node keeps the receipts that its log filter names and prunes the others.
pub fn filters_receipts(modes: &PruneModes) -> bool {
    modes.receipts.is_none() && !modes.receipts_log_filter.is_empty()
}

/// Refuses settings with which the node would lose what the extensions need later.
///
/// # Errors
/// Names the setting, and what to give instead.
pub fn refuse_settings(modes: &PruneModes, contracts: &[Address]) -> Result<()> {
    if modes.transaction_lookup.is_some_and(|mode| mode.is_full()) {
        eyre::bail!(
            "--prune.transaction-lookup.full: this node could not find its own transactions; give \
             --prune.transaction-lookup.distance {MINIMUM_UNWIND_SAFE_DISTANCE} instead"
        );
    }
    if !filters_receipts(modes) {
        return Ok(());
    }
    let keep = &modes.receipts_log_filter.0;
    let kept = |contract: &Address| matches!(keep.get(contract), Some(PruneMode::Before(_)));
    if let Some(lost) = contracts.iter().find(|contract| !kept(contract)) {
        eyre::bail!(
            "the log filter of receipts (--prune.receiptslogfilter, or set by --full and --minimal) does not keep those of \
             {lost}, a contract of this network: name the contracts under [contracts] in --lcai.config, or add \
             {lost}:before:0 to the filter"
        );
    }
    Ok(())
}

/// Refuses to go on without a log filter where receipts are in the database because of one: Reth would add the next ones
/// to files that end before them, and stop with an error at the first block it writes.
///
/// # Errors
/// Names the filter.
pub fn refuse_dropped_filter<P>(provider: &P, modes: &PruneModes) -> Result<()>
where
    P: DatabaseProviderFactory<Provider: BlockNumReader + StorageSettingsCache> + StaticFileProviderFactory,
{
    let database = provider.database_provider_ro()?;
    if !modes.receipts_log_filter.is_empty() || !database.cached_storage_settings().storage_v2 {
        return Ok(());
    }
    let files = provider.static_file_provider().get_highest_static_file_block(StaticFileSegment::Receipts);
    let behind = files.is_none_or(|block| block < database.last_block_number().unwrap_or_default());
    if behind && database.tx_ref().entries::<tables::Receipts>()? > 0 {
        eyre::bail!(
            "this data directory was started with a log filter of receipts (--full, --minimal or \
             --prune.receiptslogfilter) and cannot go on without one: start it with the flags it had, or resync"
        );
    }
    Ok(())
}

/// Notes in Reth's database that senders of transactions are pruned where the settings prune all of them, as the presets
/// do. Reth v2.5.1 then writes none from the first block on, but takes their absence at the next start for lost files,
/// and panics ("unwind to block 0"), unless this note is there. Its pruner, which makes it, waits until the ExEx has
/// finished a block, and ours finishes none before the first finalized block: without finality never.
///
/// # Errors
/// When the database cannot be written.
pub fn note_pruned_senders<P>(provider: &P, modes: &PruneModes) -> Result<()>
where
    P: DatabaseProviderFactory<ProviderRW: PruneCheckpointReader + PruneCheckpointWriter>,
{
    if !modes.sender_recovery.is_some_and(|mode| mode.is_full()) {
        return Ok(());
    }
    let database = provider.database_provider_rw()?;
    let noted = database.get_prune_checkpoint(PruneSegment::SenderRecovery)?;
    if noted.is_some_and(|noted| noted.prune_mode.is_full()) {
        return Ok(());
    }
    // Genesis has no transactions, so that up to it everything is pruned in any case.
    let (block_number, tx_number) =
        noted.map_or((Some(0), None), |noted| (noted.block_number, noted.tx_number));
    let note = PruneCheckpoint { block_number, tx_number, prune_mode: PruneMode::Full };
    database.save_prune_checkpoint(PruneSegment::SenderRecovery, note)?;
    database.commit()?;
    Ok(())
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
        (PruneSegment::Receipts, "receipts", RECEIPTS, !filtered),
        (PruneSegment::ContractLogs, "receipts", "--prune.receiptslogfilter", !filtered),
        (PruneSegment::Bodies, "transactions", BODIES, true),
        (PruneSegment::AccountHistory, "contract state", STATE, true),
        (PruneSegment::StorageHistory, "contract state", STATE, true),
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
    use reth_provider::ProviderResult;

    const OURS: [Address; 2] = [Address::repeat_byte(1), Address::repeat_byte(2)];

    #[test]
    fn presets_get_the_filter_and_nothing_else_does() {
        let mut archive = PruningArgs::default();
        complete_presets(&mut archive, &OURS);
        assert_eq!(archive, PruningArgs::default());

        let mut full = PruningArgs { full: true, ..PruningArgs::default() };
        complete_presets(&mut full, &OURS);
        assert_eq!(full.receipts_log_filter.as_ref().map(|filter| filter.0.len()), Some(2));
        assert_eq!(full.transaction_lookup_distance, None);
        let once = full.clone();
        complete_presets(&mut full, &[]);
        assert_eq!(full, once, "a filter that is there already stays");

        let mut minimal = PruningArgs { minimal: true, ..PruningArgs::default() };
        complete_presets(&mut minimal, &OURS);
        assert!(minimal.receipts_log_filter.is_some());
        assert_eq!(minimal.transaction_lookup_distance, Some(MINIMUM_UNWIND_SAFE_DISTANCE));

        let mut wish = PruningArgs { full: true, receipts_distance: Some(5), ..PruningArgs::default() };
        complete_presets(&mut wish, &OURS);
        assert_eq!(wish.receipts_log_filter, None);
    }

    /// Knows of one segment that it is pruned up to block 100.
    struct PrunedTo100(Option<PruneSegment>);

    impl PruneCheckpointReader for PrunedTo100 {
        fn get_prune_checkpoint(&self, segment: PruneSegment) -> ProviderResult<Option<PruneCheckpoint>> {
            let prune_mode = PruneMode::Distance(64);
            let pruned = PruneCheckpoint { block_number: Some(100), tx_number: None, prune_mode };
            Ok((self.0 == Some(segment)).then_some(pruned))
        }

        fn get_prune_checkpoints(&self) -> ProviderResult<Vec<(PruneSegment, PruneCheckpoint)>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_gap_that_cannot_be_read_is_refused_whatever_makes_it() {
        use alloy_primitives::B256;
        let at = |number| Some(BlockRef { number, hash: B256::ZERO });
        for (segment, filtered, flag) in [
            (PruneSegment::Receipts, false, "--prune.receipts"),
            (PruneSegment::ContractLogs, false, "--prune.receiptslogfilter"),
            (PruneSegment::Bodies, true, "--prune.bodies"),
            (PruneSegment::AccountHistory, true, "--prune.account-history"),
            (PruneSegment::StorageHistory, true, "--prune.storage-history"),
        ] {
            let node = PrunedTo100(Some(segment));
            for tip in [None, at(99)] {
                let said = refuse_gap(&node, tip, filtered).unwrap_err().to_string();
                assert!(said.contains("up to block 100") && said.contains(flag), "{segment:?}: {said}");
            }
            assert!(refuse_gap(&node, at(100), filtered).is_ok(), "{segment:?}: the journal has it all");
        }
        // With the filter our receipts are kept, and senders are recovered.
        for segment in [PruneSegment::Receipts, PruneSegment::ContractLogs, PruneSegment::SenderRecovery] {
            assert!(refuse_gap(&PrunedTo100(Some(segment)), None, true).is_ok(), "{segment:?}");
        }
        assert!(refuse_gap(&PrunedTo100(None), None, false).is_ok());
    }

    #[test]
    fn settings_that_lose_what_is_needed_are_refused() {
        let filter = |modes: &[(Address, PruneMode)]| PruneModes {
            receipts_log_filter: ReceiptsLogPruneConfig(modes.iter().copied().collect()),
            ..PruneModes::default()
        };
        let said = |modes: &PruneModes| refuse_settings(modes, &OURS).unwrap_err().to_string();
        assert!(refuse_settings(&PruneModes::default(), &OURS).is_ok());
        let all = filter(&[(OURS[0], PruneMode::Before(0)), (OURS[1], PruneMode::Before(0))]);
        assert!(filters_receipts(&all) && refuse_settings(&all, &OURS).is_ok());
        let one = filter(&[(OURS[0], PruneMode::Before(0))]);
        assert!(said(&one).contains(&format!("{}:before:0", OURS[1])), "{}", said(&one));
        let recent = filter(&[(OURS[0], PruneMode::Before(0)), (OURS[1], PruneMode::Distance(64))]);
        assert!(said(&recent).contains(&OURS[1].to_string()));
        let blind = PruneModes { transaction_lookup: Some(PruneMode::Full), ..PruneModes::default() };
        assert!(said(&blind).contains("--prune.transaction-lookup.distance"), "{}", said(&blind));
    }
}
