//! What a node that prunes all senders finds at its next start, asked of Reth's own check.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unused_crate_dependencies, missing_docs)]

use lcai_reth::pruning::note_pruned_senders;
use reth_exex_test_utils::test_exex_context;
use reth_provider::{DBProvider, DatabaseProviderFactory, StageCheckpointWriter};
use reth_prune_types::{PruneMode, PruneModes};
use reth_stages_types::{StageCheckpoint, StageId};

#[tokio::test]
async fn a_node_without_senders_starts_again() {
    let (ctx, test) = test_exex_context().await.unwrap();
    let node = &test.provider_factory;
    note_pruned_senders(ctx.provider(), &PruneModes::default()).unwrap();
    // What five blocks leave behind when no sender is written.
    let database = node.database_provider_rw().unwrap();
    database.save_stage_checkpoint(StageId::SenderRecovery, StageCheckpoint::new(5)).unwrap();
    database.commit().unwrap();
    assert_eq!(node.check_consistency().unwrap(), (None, Some(0)), "Reth panics on this");

    let all = PruneModes { sender_recovery: Some(PruneMode::Full), ..PruneModes::default() };
    note_pruned_senders(ctx.provider(), &all).unwrap();
    assert_eq!(node.check_consistency().unwrap(), (None, None));
}
