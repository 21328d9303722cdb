//! The program: Reth's command line with ours beside it.

use crate::{
    args::{LcaiArgs, Settings},
    chain::LcaiChainSpecParser,
    disputer::Canaries,
    exex::{self, EXEX_ID},
    node::{self, Assembled, Launch},
    pruning,
};
use clap::Parser;
use lcai_genesis::{DEFAULT_CHAIN_ID, addresses};
use reth::cli::Cli;
use reth_chainspec::{ChainSpec, EthChainSpec};
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
    pruning::complete_presets(&mut config.pruning, &known_contracts(&settings, config.chain.chain().id()));
    let launch = Launch { settings, dev: config.dev.dev, poll_interval: Some(node::POLL_INTERVAL) };
    let (chain_id, serves_ws) = (config.chain.chain().id(), config.rpc.ws);
    let canaries = canaries(&launch, chain_id, serves_ws).await?;

    let assembled = Assembled::default();
    let (for_rpc, for_exex) = (assembled.clone(), assembled.clone());
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
    if let Some(canaries) = canaries {
        let role = canaries.role(handle.node.rpc_server_handle().ws_url())?;
        if let Some(node) = assembled.lock().as_ref() {
            node.start_canaries(role)?;
        }
    }
    handle.wait_for_node_exit().await
}

/// The canaries that the settings ask for. Looks at all of the disputer's settings before anything is opened or started.
async fn canaries(launch: &Launch, chain_id: u64, serves_ws: bool) -> eyre::Result<Option<Canaries>> {
    let args = &launch.settings.args;
    let (encryption_key, dev) = (args.disputer_encryption_key.as_deref(), launch.uses_dev_keys(chain_id));
    let settings = args.disputer.check(encryption_key, &args.models, args.dispatcher_key.is_some(), dev)?;
    match settings.and_then(|settings| settings.canaries) {
        Some(canaries) => Ok(Some(canaries.open(args.password_file.clone(), serves_ws).await?)),
        None => Ok(None),
    }
}

/// The addresses to keep receipts of, before the chain can be asked.
fn known_contracts(settings: &Settings, chain_id: u64) -> Vec<alloy_primitives::Address> {
    let book = settings.contracts;
    let mut known: Vec<_> = [
        (book.worker_registry, addresses::WORKER_REGISTRY),
        (book.job_registry, addresses::JOB_REGISTRY),
        (book.ai_config, addresses::AI_CONFIG),
        (book.session_manager, addresses::SESSION_MANAGER),
        (book.reputation_registry, addresses::REPUTATION_REGISTRY),
    ]
    .into_iter()
    .map(|(given, ours)| given.unwrap_or(ours))
    .collect();
    known.extend(
        book.canary_ledger.or_else(|| (chain_id == DEFAULT_CHAIN_ID).then_some(addresses::CANARY_LEDGER)),
    );
    known
}
