//! The one execution extension Reth sees. It can neither fail nor wait: Reth ends the node when an ExEx returns, and holds
//! every other ExEx and the pipeline up for a slow one. So it takes notifications off the channel, says that there was
//! one, and reports finished heights; everything else runs beside it.

use crate::notifier::ExExLink;
use alloy_eips::BlockNumHash;
use futures::StreamExt;
use lcai_host::BlockRef;
use reth_exex::{ExExContext, ExExEvent};
use reth_node_api::{FullNodeComponents, NodeTypes};
use reth_provider::BlockReader;
use std::{path::Path, time::Duration};
use tokio::sync::watch;

/// The name Reth knows the extension by, and its write-ahead log is kept under.
pub const EXEX_ID: &str = "lcai";

/// Pause after a notification that could not be read, so that a broken stream is no busy loop.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Removes the notifications that Reth wrote ahead for its ExExes. Nobody needs them: the feed reads the chain itself, and
/// ours is the only ExEx. But a gap in their numbers, which a reorg or a kill leaves, keeps Reth from starting ("notification
/// 14 not found"). Called while this process holds the database's lock, so they are nobody else's.
///
/// # Errors
/// When a file cannot be removed.
pub fn forget_notifications(directory: &Path) -> eyre::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(eyre::eyre!("the ExEx write-ahead log {}: {error}", directory.display())),
    }
}

/// The ExEx's side of the link.
#[derive(Debug)]
pub struct ExExEnd {
    wake: watch::Sender<u64>,
    finished: watch::Receiver<Option<BlockRef>>,
}

/// A link between the ExEx and the feed.
pub fn link() -> (ExExEnd, ExExLink) {
    let (wake, woken) = watch::channel(0);
    let (finished, reported) = watch::channel(None);
    (ExExEnd { wake, finished: reported }, ExExLink { wake: woken, finished })
}

/// Runs until the node stops; never returns by itself. Notifications are taken off the channel also when the feed was given
/// up: one that nobody takes holds up every other ExEx and, once the manager is full, the pipeline.
///
/// # Errors
/// None today; the signature is Reth's.
pub async fn run<Node>(mut ctx: ExExContext<Node>, mut end: ExExEnd) -> eyre::Result<()>
where
    Node: FullNodeComponents<Provider: BlockReader>,
    Node::Types: NodeTypes,
{
    // Without a head: the journal is the cursor. With one, Reth swallows a reorg at the head's height after a restart, and
    // everything up to a head that the node forgot in a crash.
    ctx.set_notifications_without_head();
    let mut feed_gone = false;
    loop {
        tokio::select! {
            notification = ctx.notifications.next() => match notification {
                Some(Ok(_)) => {
                    metrics::counter!("lcai_exex_notifications_total").increment(1);
                    end.wake.send_modify(|count| *count = count.wrapping_add(1));
                }
                Some(Err(error)) => {
                    metrics::counter!("lcai_exex_notification_errors_total").increment(1);
                    tracing::warn!(target: "lcai::exex", %error, "a notification could not be read");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
                None => {
                    tracing::warn!(target: "lcai::exex", "the node sends no more notifications; the feed polls");
                    report_finished(&ctx, &mut end).await;
                }
            },
            changed = end.finished.changed(), if !feed_gone => match changed {
                Ok(()) => send_finished(&ctx, &mut end),
                // Its supervisor gave it up, or the node is being stopped. Nothing is finished any more, so that Reth keeps
                // what a feed that is started again has to read.
                Err(_) => {
                    tracing::warn!(target: "lcai::exex", "the feed is gone; notifications are dropped");
                    feed_gone = true;
                }
            },
        }
    }
}

/// Goes on reporting when no notifications come any more.
async fn report_finished<Node: FullNodeComponents>(ctx: &ExExContext<Node>, end: &mut ExExEnd) {
    while end.finished.changed().await.is_ok() {
        send_finished(ctx, end);
    }
    std::future::pending().await
}

/// Tells Reth what it may drop from its write-ahead log. Finalized-1 at most: the manager skips commits up to what an
/// ExEx has finished, also after a revert.
fn send_finished<Node: FullNodeComponents>(ctx: &ExExContext<Node>, end: &mut ExExEnd) {
    let Some(block) = *end.finished.borrow_and_update() else { return };
    let height = BlockNumHash { number: block.number, hash: block.hash };
    if ctx.events.send(ExExEvent::FinishedHeight(height)).is_err() {
        tracing::debug!(target: "lcai::exex", number = block.number, "the ExEx manager is gone");
    }
}
