//! One of our nodes in `devnet/network` where lcai-reth cannot be built: the embedded client, driven over the Engine API, and
//! the extensions over its JSON-RPC. Its chain is in memory and it has no peers: blocks come from its beacon node, and
//! transactions are handed on to the other node (`--pass-on`), so that whoever proposes next has them.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use alloy_primitives::{B256, Bytes, keccak256};
use clap::{Parser, ValueEnum};
use eyre::{OptionExt, WrapErr};
use jsonrpsee::{
    RpcModule, core::client::ClientT, http_client::HttpClientBuilder, rpc_params, types::ErrorObjectOwned,
};
use lcai::{ask::DEFAULT_MODEL, devnet::Role};
use lcai_crypto::keystore;
use lcai_embedded_chain::{ChainConfig, EmbeddedChain, Mining};
use lcai_exex_dispatch::DispatchPlan;
use lcai_host_rpc::{NotifierConfig, RpcClient, RpcNotifier};
use lcai_inference::{EmbeddedBackend, EmbeddedModel};
use lcai_node::{DisputerRole, Node, NodeConfig, REORG_DEPTH};
use lcai_primitives::contracts::Deployment;
use lcai_rpc::{Rate, ServerLimits, serve};
use lcai_tests::network::{MODEL, genesis::PASSWORD};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use tokio::signal::unix::{SignalKind, signal};

/// A node of `devnet/network` on the embedded client.
#[derive(Debug, Parser)]
struct Arguments {
    /// The network's directory: genesis.json, deployment.json, jwt.hex, keys
    #[arg(long, value_name = "DIR")]
    network: PathBuf,
    /// Where the journal is kept
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// What it does beside following the chain
    #[arg(long, value_enum)]
    side: Side,
    /// Where `eth_*` and `lcai_*` are served
    #[arg(long)]
    listen: SocketAddr,
    /// Where the Engine API and the operator's methods are served
    #[arg(long)]
    engine: SocketAddr,
    /// The node that sessions are handed on to
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// The node that is given every transaction that comes in here
    #[arg(long, value_name = "URL")]
    pass_on: Option<String>,
    /// Beacon APIs in which blobs are looked for
    #[arg(long = "lcai.beacon", value_name = "URL")]
    beacons: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    Dispatcher,
    Disputer,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    lcai::logging::init(None);
    let runtime = lcai::runtime().expect("a runtime");
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> eyre::Result<()> {
    let text = |name: &str| {
        let path = arguments.network.join(name);
        std::fs::read_to_string(&path).wrap_err_with(|| format!("{}", path.display()))
    };
    let genesis = serde_json::from_str(&text("genesis.json")?)?;
    let deployment: Deployment = serde_json::from_str(&text("deployment.json")?)?;
    let secret: B256 = text("jwt.hex")?.trim().parse()?;
    let chain = EmbeddedChain::start(ChainConfig::new(genesis).with_mining(Mining::Manual)).await?;

    // The extensions follow it over JSON-RPC, as they would any other client.
    let eth_module = passing_on(&chain, arguments.pass_on.as_deref())?;
    let eth = serve(eth_module.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), limits()).await?;
    let client = RpcClient::connect(&format!("ws://{}", eth.local_addr()), Some(deployment.chain_id)).await?;
    let archive = chain.clone();
    let client = Arc::new(client.with_blobs(Arc::new(move |hash| {
        archive.blob(hash).map(|blob| Bytes::copy_from_slice(blob.as_slice()))
    })));
    let disputer = match arguments.side {
        Side::Dispatcher => None,
        Side::Disputer => Some(disputer(&arguments.network).await?),
    };
    let config = config(&arguments, deployment, &chain).await?;
    let watched = DispatchPlan::watched(&deployment);
    let notifier = RpcNotifier::new(client.clone(), Arc::new(config.plan()), NotifierConfig::new(watched));
    let node = Node::start_with(config, client, Box::new(notifier), disputer).await?;

    let mut module = RpcModule::new(());
    module.merge(eth_module)?;
    module.merge(node.module())?;
    let server = serve(module, arguments.listen, limits()).await?;
    let operator = node.operator_module();
    let (engine, _stops_with_this) =
        chain.serve_engine_with(arguments.engine, secret.0.into(), operator.into()).await?;
    println!("ws://{}, Engine API at http://{engine}", server.local_addr());

    let mut terminate = signal(SignalKind::terminate())?;
    terminate.recv().await;
    server.stop();
    node.stop().await;
    eth.stop();
    chain.shutdown().await;
    Ok(())
}

/// The client's methods; a transaction that the pool takes goes to the other node too.
fn passing_on(chain: &EmbeddedChain, to: Option<&str>) -> eyre::Result<RpcModule<()>> {
    const SEND: &str = "eth_sendRawTransaction";
    let mut module = chain.rpc_module()?;
    let Some(url) = to else { return Ok(module) };
    let client = HttpClientBuilder::default().max_request_size(16 << 20).build(url)?;
    // The other one hands it back.
    let passed = Arc::new(Mutex::new(HashSet::new()));
    let chain = chain.clone();
    module.remove_method(SEND);
    module.register_async_method(SEND, move |params, _, _| {
        let (chain, client, passed) = (chain.clone(), client.clone(), passed.clone());
        async move {
            let (raw,): (Bytes,) = params.parse()?;
            let answer = chain.rpc(SEND, json!([raw])).await?;
            if passed.lock().insert(keccak256(&raw)) {
                tokio::spawn(async move {
                    if let Err(error) = client.request::<Value, _>(SEND, rpc_params![raw]).await {
                        tracing::debug!(%error, "the other node does not take a transaction");
                    }
                });
            }
            Ok::<_, ErrorObjectOwned>(answer)
        }
    })?;
    Ok(module)
}

async fn config(
    arguments: &Arguments,
    deployment: Deployment,
    chain: &EmbeddedChain,
) -> eyre::Result<NodeConfig> {
    let block = chain.rpc("eth_getBlockByNumber", json!(["0x0", false])).await;
    let block = block.map_err(|error| eyre::eyre!("the chain has no genesis block: {error}"))?;
    let hash = block["hash"].as_str().ok_or_eyre("the genesis block has no hash")?;
    let escrow = escrow(&arguments.network)?;
    let dispatches = arguments.side == Side::Dispatcher;
    let key = |role: Role| dispatches.then(|| role.signer()).transpose();
    Ok(NodeConfig {
        deployment,
        genesis_hash: hash.parse()?,
        data_dir: arguments.data_dir.clone(),
        models: vec![DEFAULT_MODEL.to_owned()],
        dispatcher: key(Role::Dispatcher)?,
        keeper: key(Role::Keeper)?,
        blob_key: key(Role::NodeBlob)?,
        disputer_encryption_key: Bytes::copy_from_slice(&escrow.public().to_sec1()),
        osaka_time: Some(0),
        accept_empty_journal: false,
        upstream: arguments.upstream.clone(),
        beacons: arguments.beacons.clone(),
    })
}

fn escrow(network: &Path) -> eyre::Result<lcai_crypto::EncryptionSecret> {
    Ok(keystore::read_encryption(&network.join("keys/escrow.json"), PASSWORD)?)
}

async fn disputer(network: &Path) -> eyre::Result<DisputerRole> {
    let model = EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path: MODEL.into(), digest: None };
    let backend = tokio::task::spawn_blocking(move || EmbeddedBackend::load(&[model], 1)).await??;
    Ok(DisputerRole {
        account: Role::Disputer.signer()?,
        blob_key: Role::DisputerBlob.signer()?,
        escrow: escrow(network)?,
        backend: Arc::new(backend),
        embedder: None,
        reorg_depth: REORG_DEPTH,
        parallel: 1,
        canary_epoch_seconds: None,
    })
}

/// Everybody here is the network's owner.
fn limits() -> ServerLimits {
    ServerLimits { calls: Rate { per_second: 100_000.0, burst: 100_000.0 }, ..ServerLimits::default() }
}
