//! The program: Reth's command line with ours beside it.

use crate::{
    args::{LcaiArgs, Settings},
    chain::LcaiChainSpecParser,
    exex::{self, EXEX_ID},
    node::{self, Assembled, Launch},
    pruning,
};
use clap::Parser;
use lcai_genesis::addresses;
use reth::cli::Cli;
use reth_chainspec::ChainSpec;
use reth_db::DatabaseEnv;
use reth_node_builder::{NodeBuilder, WithLaunchContext};
use reth_node_ethereum::EthereumNode;

/// The command line.
pub type LcaiCli = Cli<LcaiChainSpecParser, LcaiArgs>;

/// Parses the command line and runs it to its end.
///
/// # Errors
/// Whatever keeps the node from starting or ends it.
pub fn main() -> eyre::Result<()> {
    let mut cli = LcaiCli::parse();
    if let Some(node) = cli.as_node_command_mut() {
        // Live workers still send EIP-4844 sidecars; after Osaka the pool refuses them.
        node.rpc.rpc_force_blob_sidecar_upcasting = true;
    }
    cli.run(async move |builder, args| launch(builder, args).await)
}

async fn launch(
    mut builder: WithLaunchContext<NodeBuilder<DatabaseEnv, ChainSpec>>,
    args: LcaiArgs,
) -> eyre::Result<()> {
    if args.off {
        let handle = builder.node(EthereumNode::default()).launch_with_debug_capabilities().await?;
        return handle.wait_for_node_exit().await;
    }
    let settings = Settings::load(args)?;
    exex::forget_notifications(&builder.config().datadir().exex_wal())?;
    let config = builder.config_mut();
    let watched = known_contracts(&settings);
    let receipts_filtered = pruning::keep_our_receipts(&mut config.pruning, &watched);
    let launch = Launch {
        settings,
        dev: config.dev.dev,
        receipts_filtered,
        poll_interval: Some(node::POLL_INTERVAL),
    };

    let assembled = Assembled::default();
    let (for_rpc, for_exex) = (assembled.clone(), assembled);
    let handle = builder
        .node(EthereumNode::default())
        .install_exex(EXEX_ID, move |ctx| node::extension(ctx, launch, for_exex))
        .extend_rpc_modules(move |ctx| {
            // Reth launches the ExEx before its RPC server.
            if let Some(node) = for_rpc.lock().as_ref() {
                ctx.modules.merge_configured(node.module())?;
                ctx.auth_module.merge_auth_methods(node.operator_module())?;
                ctx.auth_module.merge_auth_methods(node.drill_module())?;
            }
            Ok(())
        })
        .launch_with_debug_capabilities()
        .await?;
    handle.wait_for_node_exit().await
}

/// The addresses to keep receipts of, before the chain can be asked.
fn known_contracts(settings: &Settings) -> Vec<alloy_primitives::Address> {
    let book = settings.contracts;
    [
        (book.worker_registry, addresses::WORKER_REGISTRY),
        (book.job_registry, addresses::JOB_REGISTRY),
        (book.ai_config, addresses::AI_CONFIG),
        (book.session_manager, addresses::SESSION_MANAGER),
        (book.reputation_registry, addresses::REPUTATION_REGISTRY),
    ]
    .into_iter()
    .map(|(given, ours)| given.unwrap_or(ours))
    .collect()
}
