//! The program: Reth's command line with ours beside it.

use crate::{
    args::{LcaiArgs, Settings},
    chain::LcaiChainSpecParser,
    disputer::Canaries,
    exex::{self, EXEX_ID},
    node::{self, Assembled, Launch},
    pruning,
};
use clap::{CommandFactory, FromArgMatches};
use lcai_genesis::{DEFAULT_CHAIN_ID, addresses};
use reth::cli::Cli;
use reth_chainspec::{ChainSpec, EthChainSpec};
use reth_db::DatabaseEnv;
use reth_node_builder::{NodeBuilder, WithLaunchContext};
use reth_node_core::{
    args::DefaultRpcServerArgs,
    version::{RethCliVersionConsts, default_reth_version_metadata, try_init_version_metadata},
};
use reth_node_ethereum::EthereumNode;

/// The command line.
pub type LcaiCli = Cli<LcaiChainSpecParser, LcaiArgs>;

/// Has `--help`, `--version` and the logs name this program, and Reth as what is in it.
fn name_the_program() {
    let (version, reth) = (env!("CARGO_PKG_VERSION"), default_reth_version_metadata());
    let ours = RethCliVersionConsts {
        name_client: "lcai-reth".into(),
        short_version: format!("{version} (Reth {})", reth.short_version).into(),
        long_version: format!("{version}\nReth {}", reth.long_version).into(),
        ..reth
    };
    // Whoever was first, as in a test, has said the same.
    drop(try_init_version_metadata(ours));
}

/// The command line's description.
fn command() -> clap::Command {
    name_the_program();
    LcaiCli::command().about("The LightChain AI execution node: Reth with the lcai extensions")
}

/// Parses the command line and runs it to its end.
///
/// # Errors
/// Whatever keeps the node from starting or ends it.
pub fn main() -> eyre::Result<()> {
    // Only an operator's own values go above these.
    let _ = rpc_defaults().try_init();
    let mut cli = LcaiCli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    prepare(&mut cli);
    cli.run(async move |builder, args| launch(builder, args).await)
}

/// Sets what we set of Reth's.
fn prepare(cli: &mut LcaiCli) {
    if let Some(node) = cli.as_node_command_mut() {
        // Live workers still send EIP-4844 sidecars; after Osaka the pool refuses them.
        node.rpc.rpc_force_blob_sidecar_upcasting |= !node.ext.no_blob_upcasting;
    }
}

/// What Reth's server takes from everybody where the operator says nothing else: MB of a request and of an answer,
/// subscriptions of a connection, connections. Reth's own are 15, 160, 1,024 and 500.
pub fn rpc_defaults() -> DefaultRpcServerArgs {
    DefaultRpcServerArgs::default()
        .with_rpc_max_request_size(5.into())
        .with_rpc_max_response_size(40.into())
        .with_rpc_max_subscriptions_per_connection(64.into())
        .with_rpc_max_connections(2_000.into())
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
            // Reth launches the ExEx before its RPC server. Were it ever the other way round, nobody would be served.
            let node = for_rpc.lock();
            let node =
                node.as_ref().ok_or_else(|| eyre::eyre!("the extensions are not there to serve lcai_*"))?;
            ctx.modules.merge_configured(node.module())?;
            ctx.auth_module.merge_auth_methods(node.operator_module())?;
            ctx.auth_module.merge_auth_methods(node.drill_module())?;
            Ok(())
        })
        .launch_with_debug_capabilities()
        .await?;
    if let Some(canaries) = canaries {
        let role = canaries.role(handle.node.rpc_server_handle().ws_url())?;
        let node = assembled.lock();
        let node = node.as_ref().ok_or_else(|| eyre::eyre!("the extensions ended before canaries began"))?;
        node.start_canaries(role)?;
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
    let book = settings.contracts.on(chain_id);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_version_name_the_program_and_reth() {
        command().debug_assert();
        let mut command = command();
        let version = command.render_long_version().to_string();
        assert!(
            version.starts_with(concat!("lcai-reth ", env!("CARGO_PKG_VERSION"), "\nReth Version: ")),
            "{version}"
        );
        let help = command.render_help().to_string();
        assert!(help.starts_with("The LightChain AI execution node") && help.contains("lcai-reth"), "{help}");
        let node = command.find_subcommand_mut("node").unwrap().render_help().to_string();
        assert!(node.contains("LightChain AI") && node.contains("--lcai.config"), "{node}");
    }

    #[test]
    fn sidecars_are_made_anew_unless_the_operator_says_otherwise() {
        let upcasts = |flags: &[&str]| {
            let line = [&["lcai-reth", "node"], flags].concat();
            let mut cli = LcaiCli::from_arg_matches(&command().get_matches_from(line)).unwrap();
            prepare(&mut cli);
            cli.as_node_command_mut().unwrap().rpc.rpc_force_blob_sidecar_upcasting
        };
        assert!(upcasts(&[]));
        assert!(!upcasts(&["--lcai.no-blob-upcasting"]));
        assert!(upcasts(&["--lcai.no-blob-upcasting", "--rpc.force-blob-sidecar-upcasting"]));
    }
}
