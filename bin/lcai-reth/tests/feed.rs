//! The feed over Reth's ExEx machinery: whatever is notified, lost, doubled or reordered, feed and extension are what a
//! fresh replay of the canonical chain gives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unused_crate_dependencies, missing_docs)]

mod support;

use futures::StreamExt;
use lcai_host::Journal;
use lcai_reth::exex::forget_notifications;
use reth_ethereum_primitives::EthPrimitives;
use reth_exex::{ExExContext, ExExEvent, ExExHead, ExExNotification, ExExNotificationSource, Wal};
use reth_exex_test_utils::Adapter;
use std::{sync::Arc, time::Duration};
use support::{
    Host, MANAGER_ROOM, PATIENCE, Running,
    chain::{Story, committed, reorged},
    empty_journal, state,
};
use tokio::sync::{mpsc, oneshot};

/// The feed also looks by itself this often.
const POLL: Option<Duration> = Some(Duration::from_millis(20));

/// Registers the worker, opens a session and takes a job to its end in six blocks.
fn prelude(host: &mut Host, story: &Story) {
    host.chain.mine(0, &story.register());
    host.chain.mine(0, &[story.open(0)]);
    host.chain.mine(0, &[story.submit(1, 1)]);
    host.chain.mine(0, &[story.acknowledge(1)]);
    host.chain.mine(0, &[story.complete(1, 1)]);
    host.chain.mine(0, &[]);
}

/// Blocks of a fork in which a session is created, jobs submitted and completed, in turns.
fn fork(host: &mut Host, story: &Story, fork: u8, blocks: usize) {
    let mut sessions = 1;
    let mut job = 1;
    for block in 0..blocks {
        let acts = match block % 4 {
            0 => {
                sessions += 1;
                vec![story.open(sessions - 1)]
            }
            1 => {
                job += 1;
                // The same job id is another prompt on the other fork.
                vec![story.submit(sessions, fork)]
            }
            2 => vec![story.acknowledge(job)],
            _ => vec![story.complete(job, fork)],
        };
        host.chain.mine(fork, &acts);
    }
}

/// Feed and extension state of a journal that never saw anything but the chain as it is.
async fn fresh(host: &Host) -> Arc<Journal> {
    let journal = empty_journal(host);
    let running = Running::start(host, journal.clone(), POLL, |_| Vec::new());
    running.follows(host).await;
    journal
}

async fn same_as_fresh(host: &Host, running: &Running) {
    let fresh = fresh(host).await;
    same_as(&fresh, host, running).await;
}

/// `fresh` is what a fresh replay of the host's chain gives.
async fn same_as(fresh: &Journal, host: &Host, running: &Running) {
    running.follows(host).await;
    let blocks = |journal: &Journal| journal.feed_blocks(0, usize::MAX >> 1).unwrap();
    assert_eq!(blocks(&running.journal), blocks(fresh));
    assert_eq!(state(&running.journal), state(fresh));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_depth_of_reorg_and_revert_leaves_a_fresh_replay() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    prelude(&mut host, &story);
    // No polling: here the notifications alone must do.
    let mut running = Running::start(&host, empty_journal(&host), None, |_| Vec::new());
    running.notify(committed(host.chain.newest(6))).await;
    // What every revert comes back to.
    let before = fresh(&host).await;
    same_as(&before, &host, &running).await;
    for depth in 1..=64 {
        fork(&mut host, &story, 1, depth);
        running.notify(committed(host.chain.newest(depth))).await;
        same_as_fresh(&host, &running).await;

        let old = host.chain.unwind(depth);
        fork(&mut host, &story, 2, depth);
        running.notify(reorged(old, host.chain.newest(depth))).await;
        same_as_fresh(&host, &running).await;

        let old = host.chain.unwind(depth);
        let reverted = ExExNotification::ChainReverted { old: chain_of(old) };
        running.notify(reverted).await;
        same_as(&before, &host, &running).await;
    }
}

fn chain_of(
    blocks: Vec<reth_chain_state::ExecutedBlock>,
) -> Arc<reth_execution_types::Chain<reth_ethereum_primitives::EthPrimitives>> {
    match committed(blocks) {
        ExExNotification::ChainCommitted { new } => new,
        _ => unreachable!("a commit is a commit"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_delivered_twice_changes_nothing() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    prelude(&mut host, &story);
    let mut running = Running::start(&host, empty_journal(&host), None, |_| Vec::new());
    for _ in 0..2 {
        running.notify(committed(host.chain.newest(6))).await;
        same_as_fresh(&host, &running).await;
    }
    host.chain.mine(0, &[]);
    for _ in 0..2 {
        running.notify(committed(host.chain.newest(1))).await;
    }
    same_as_fresh(&host, &running).await;
}

/// Pitfall 5.3: a stream with a head skips the reorg, because its new tip is no higher than that head.
#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_at_the_same_height_right_after_a_restart_is_followed() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    prelude(&mut host, &story);
    let journal = fresh(&host).await;

    // The restart: new channels, the journal as it was. Beside ours, an ExEx that says where it stopped.
    let (seen, mut believed) = mpsc::unbounded_channel();
    let (listening, listens) = oneshot::channel();
    let mut running = Running::start(&host, journal, None, |wal| {
        let (handle, mut context) = host.context("believer", wal);
        context.set_notifications_with_head(ExExHead { block: host.chain.head() });
        tokio::spawn(async move {
            // Asked once, so that it knows its head before the chain moves.
            assert!(futures::poll!(context.notifications.next()).is_pending());
            listening.send(()).unwrap();
            while let Some(Ok(notification)) = context.notifications.next().await {
                let _ = seen.send(notification);
            }
        });
        vec![handle]
    });
    listens.await.unwrap();
    running.follows(&host).await;
    let old = host.chain.unwind(1);
    host.chain.mine(2, &[]);
    running.notify(reorged(old, host.chain.newest(1))).await;
    same_as_fresh(&host, &running).await;
    let missed = tokio::time::timeout(Duration::from_millis(500), believed.recv()).await;
    assert!(missed.is_err(), "Reth no longer swallows it: the remedy can go");
}

/// Pitfall 5.2: the manager does not deliver a commit up to what an ExEx said it had finished, even after a revert. Ours
/// says finalized-1 and is told; one that says its tip, as Reth's examples do, is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_after_a_revert_arrives_through_a_real_manager() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    prelude(&mut host, &story);
    let (seen, mut tips) = mpsc::unbounded_channel();
    let mut running = Running::start(&host, empty_journal(&host), None, |wal| {
        let (handle, context) = host.context("tip reporter", wal);
        tokio::spawn(report_tips(context, seen));
        vec![handle]
    });
    host.chain.finalize(3);
    running.notify(committed(host.chain.newest(6))).await;
    running.follows(&host).await;
    assert_eq!(next(&mut tips).await, Some(6));
    // Of the two the lower: ours, one below the finalized block.
    running.finished(2).await;

    let old = host.chain.unwind(3);
    running.notify(ExExNotification::ChainReverted { old: chain_of(old) }).await;
    running.follows(&host).await;
    host.chain.mine(2, &[]);
    running.notify(committed(host.chain.newest(1))).await;
    same_as_fresh(&host, &running).await;
    assert_eq!(next(&mut tips).await, None, "Reth delivers it now: the remedy can go");
}

async fn next(tips: &mut mpsc::UnboundedReceiver<u64>) -> Option<u64> {
    tokio::time::timeout(Duration::from_millis(500), tips.recv()).await.ok().flatten()
}

async fn report_tips(mut context: ExExContext<Adapter>, seen: mpsc::UnboundedSender<u64>) {
    while let Some(Ok(notification)) = context.notifications.next().await {
        if let Some(new) = notification.committed_chain() {
            let tip = new.tip().num_hash();
            context.events.send(ExExEvent::FinishedHeight(tip)).unwrap();
            let _ = seen.send(tip.number);
        }
    }
}

/// Pitfall 5.5: a notification that an ExEx does not take holds up the manager, and with it the pipeline. A feed that its
/// supervisor gave up is no reason for that.
#[tokio::test(flavor = "multi_thread")]
async fn notifications_are_taken_when_the_feed_is_gone() {
    let mut host = Host::start().await;
    let directory = tempfile::tempdir().unwrap();
    let wal = Wal::new(directory.path()).unwrap();
    let (handle, context) = host.context("lcai", &wal);
    let (end, link) = lcai_reth::exex::link();
    let (events, genesis) = (context.events.clone(), context.head);
    tokio::spawn(lcai_reth::exex::run(context, end));
    let mut manager = host.manage(vec![handle], wal);
    drop(link);
    for sent in 0..3 * MANAGER_ROOM {
        host.chain.mine(0, &[]);
        let notification = committed(host.chain.newest(1));
        let send = manager.send_async(ExExNotificationSource::BlockchainTree, notification);
        let taken = tokio::time::timeout(PATIENCE, send).await;
        assert!(taken.is_ok(), "nobody takes notifications any more, after {sent}");
        taken.unwrap().unwrap();
    }
    // And nothing is left over for it. The manager hands out one notification each time it is woken and does not wake
    // itself for the next; events, which change nothing here, stand for the blocks that would come.
    let emptied = async {
        while manager.capacity() < MANAGER_ROOM {
            events.send(ExExEvent::FinishedHeight(genesis)).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, emptied).await.is_ok(), "room for {} only", manager.capacity());
}

/// Pitfall 5.4: the stream can stop without an error. The feed looks by itself; one that only believes the stream stays.
#[tokio::test(flavor = "multi_thread")]
async fn the_feed_follows_when_notifications_stop() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    let believing = Running::start(&host, empty_journal(&host), None, |_| Vec::new());
    let looking = Running::start(&host, empty_journal(&host), POLL, |_| Vec::new());
    believing.follows(&host).await;
    let stopped = believing.tip();
    prelude(&mut host, &story);
    same_as_fresh(&host, &looking).await;
    assert_eq!(believing.tip(), stopped, "nothing told it");
}

/// Pitfall 5.6: Reth does not start when a number is missing among the notifications it wrote ahead, as a kill leaves them.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_write_ahead_log_keeps_nobody_from_starting() {
    let mut host = Host::start().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wal");
    let wal: Wal = Wal::new(&path).unwrap();
    for _ in 0..3 {
        host.chain.mine(0, &[]);
        wal.commit(&committed(host.chain.newest(1))).unwrap();
    }
    drop(wal);
    let mut files: Vec<_> = std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3);
    std::fs::remove_file(&files[1]).unwrap();
    assert!(Wal::<EthPrimitives>::new(&path).is_err(), "Reth starts now: the remedy can go");
    forget_notifications(&path).unwrap();
    assert!(Wal::<EthPrimitives>::new(&path).is_ok());
    forget_notifications(&directory.path().join("none")).unwrap();
}

/// A crash can leave the journal ahead of the node, on blocks that the node forgot and then made differently.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_ahead_of_its_node_is_unwound() {
    let mut host = Host::start().await;
    let story = Story::new(lcai_genesis::DEFAULT_CHAIN_ID);
    prelude(&mut host, &story);
    for ahead in [1, 7, 16] {
        fork(&mut host, &story, 1, ahead);
        let journal = fresh(&host).await;
        host.chain.unwind(ahead);
        fork(&mut host, &story, 2, ahead / 2);
        let running = Running::start(&host, journal, POLL, |_| Vec::new());
        same_as_fresh(&host, &running).await;
        host.chain.unwind(ahead / 2);
    }
}
