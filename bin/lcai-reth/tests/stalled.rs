//! A launched node whose ExEx takes no notification any more, while the chain goes on past everything that Reth buffers
//! (1,024 notifications in the ExEx manager and 256 before it, after which its stream is over without an error).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unused_crate_dependencies, missing_docs)]

use futures::StreamExt;
use lcai_host::FeedState;
use lcai_reth::{
    args::{LcaiArgs, Settings},
    chain::{DEV, LcaiChainSpecParser},
    exex::EXEX_ID,
    node::{self, Assembled, Launch},
};
use reth::tasks::Runtime;
use reth_chain_state::CanonStateSubscriptions;
use reth_cli::chainspec::ChainSpecParser;
use reth_node_builder::{NodeBuilder, NodeConfig, NodeHandle};
use reth_node_core::args::DevArgs;
use reth_node_ethereum::EthereumNode;
use reth_provider::BlockNumReader;
use std::{num::NonZeroUsize, time::Duration};

/// More blocks than the manager and the channel before it hold.
const PAST_ALL_BUFFERS: u64 = 1_024 + 256 + 64;

/// Launches a development node whose ExEx stands still from its first block on, and gives the heights of chain and feed
/// once the chain is past all buffers and the feed had ten seconds to follow.
async fn heights_past_the_buffers(poll_interval: Option<Duration>) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        args: LcaiArgs { datadir: Some(directory.path().join("lcai")), ..LcaiArgs::default() },
        ..Settings::default()
    };
    let launch = Launch { settings, dev: true, poll_interval };
    let config = NodeConfig::test().with_chain(LcaiChainSpecParser::parse(DEV).unwrap()).with_dev(DevArgs {
        dev: true,
        block_time: Some(Duration::from_millis(10)),
        finality_depth: NonZeroUsize::new(9).unwrap(),
        ..Default::default()
    });
    let assembled = Assembled::default();
    let for_exex = assembled.clone();
    let NodeHandle { node, node_exit_future: _running } = NodeBuilder::new(config)
        .testing_node(Runtime::test())
        .node(EthereumNode::default())
        .install_exex(EXEX_ID, async move |ctx| {
            let exex = node::extension(ctx, launch, for_exex).await?;
            Ok(async move {
                let _never_polled = exex;
                std::future::pending::<eyre::Result<()>>().await
            })
        })
        .launch_with_debug_capabilities()
        .await
        .unwrap();
    let mut feed = assembled.lock().as_ref().unwrap().feed();

    let mut blocks = node.provider.canonical_state_stream();
    while node.provider.best_block_number().unwrap() < PAST_ALL_BUFFERS {
        let more = tokio::time::timeout(Duration::from_secs(60), blocks.next()).await;
        assert!(matches!(more, Ok(Some(_))), "the chain goes on although the ExEx stands still");
    }
    let head = node.provider.best_block_number().unwrap();
    let reached = tokio::time::timeout(Duration::from_secs(10), feed.wait_for(|feed| height(feed) >= head));
    drop(reached.await);
    let followed = height(&feed.borrow());
    let node = assembled.lock().take().unwrap();
    node.stop().await;
    (head, followed)
}

fn height(feed: &FeedState) -> u64 {
    feed.tip.map_or(0, |tip| tip.number)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_follows_a_chain_of_which_it_is_told_nothing() {
    let (head, followed) = heights_past_the_buffers(Some(Duration::from_secs(1))).await;
    assert!(followed >= head, "the feed is at block {followed} of {head}");
    // And it is the looking that does it: who believes the notifications stays behind.
    let (head, followed) = heights_past_the_buffers(None).await;
    assert!(followed < head / 2, "without looking the feed is at block {followed} of {head}");
}
