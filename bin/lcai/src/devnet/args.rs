//! `lcai devnet`'s flags, and what it prints.

use super::{Devnet, DevnetConfig, Fleet, FleetConfig};
use crate::{
    ask::{AskArgs, Asking, DEFAULT_MODEL, read_prompt},
    keys::{AccountKey, dev_account},
    progress::Progress,
};
use clap::Args;
use lcai_client::{Connection, SessionStore};
use lcai_genesis::dev::USER_BALANCE;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Flags of `lcai devnet`.
#[derive(Debug, Clone, Args)]
pub struct DevnetArgs {
    /// Ask this question once the network is up, print the verified answer, and exit; `-` reads it from standard input
    #[arg(long, value_name = "PROMPT")]
    pub ask: Option<String>,
    /// Where `eth_*` and `lcai_*` are served, over HTTP and WebSocket [default: 127.0.0.1:8545, or any port with --ask]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Bring workers to this development node (ws://, e.g. of `lcai-reth node --dev --ws`) instead of starting one
    #[arg(long, value_name = "URL", conflicts_with_all = ["listen", "block_time", "on_demand", "prague"])]
    pub node: Option<String>,
    /// Milliseconds between blocks
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    pub block_time: u64,
    /// Mine a block as soon as a transaction is pending, besides those of --block-time
    #[arg(long)]
    pub on_demand: bool,
    /// Start on Prague instead of Osaka (blob transactions then carry EIP-4844 sidecars)
    #[arg(long)]
    pub prague: bool,
    /// How many workers to start
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub workers: u32,
    /// Keep journals here instead of in a directory that is removed at the end; must be empty or new
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Runs `lcai devnet`.
pub async fn run(args: DevnetArgs) -> eyre::Result<()> {
    let prompt = args.ask.as_deref().map(|text| read_prompt(Some(text))).transpose()?;
    let progress = Progress::new(false);
    if let Some(node) = &args.node {
        return attach(&args, node, prompt.as_deref(), progress).await;
    }
    let devnet = Devnet::start(config(&args), &progress).await?;
    match prompt {
        Some(prompt) => {
            let answered = ask(devnet.url(), devnet.data_dir(), progress, &prompt).await;
            devnet.stop().await;
            answered
        }
        None => {
            print(&devnet, &progress);
            tokio::signal::ctrl_c().await?;
            progress.note("stopping");
            devnet.stop().await;
            Ok(())
        }
    }
}

fn config(args: &DevnetArgs) -> DevnetConfig {
    let default_port = if args.ask.is_some() { 0 } else { 8545 };
    DevnetConfig {
        listen: args.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], default_port))),
        block_time: Duration::from_millis(args.block_time.max(50)),
        on_demand: args.on_demand,
        prague: args.prague,
        workers: args.workers,
        data_dir: args.data_dir.clone(),
        ..DevnetConfig::default()
    }
}

/// Workers for a node that runs elsewhere.
async fn attach(args: &DevnetArgs, node: &str, prompt: Option<&str>, progress: Progress) -> eyre::Result<()> {
    let temporary = tempfile::Builder::new().prefix("lcai-workers-").tempdir()?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let connection = Connection::open(node, None).await?;
    let fleet = FleetConfig {
        node: node.to_owned(),
        deployment: connection.network().deployment,
        data_dir: data_dir.clone(),
        workers: args.workers,
        models: Vec::new(),
    };
    let fleet = Fleet::start(&fleet, &connection, &progress).await?;
    let answered = match prompt {
        Some(prompt) => ask(node, &data_dir, progress, prompt).await,
        None => {
            for worker in fleet.addresses() {
                progress.note(&format!("worker {worker}"));
            }
            progress.note(&format!("\nAsk:  lcai ask --rpc {node} \"What is the capital of France?\""));
            progress.note("Ctrl-C stops the workers.");
            tokio::signal::ctrl_c().await.map_err(Into::into)
        }
    };
    fleet.stop().await;
    answered
}

async fn ask(url: &str, data_dir: &Path, progress: Progress, prompt: &str) -> eyre::Result<()> {
    let signer = dev_account(0)?;
    let args = AskArgs {
        prompt: None,
        rpc: url.to_owned(),
        model: DEFAULT_MODEL.to_owned(),
        chain_id: None,
        key: AccountKey::default(),
        new_session: true,
        sortition: false,
        sessions: None,
        json: false,
        quiet: false,
    };
    progress.note(&format!("\nasking: {prompt}\n"));
    let asking = Asking { args: &args, store: SessionStore::new(data_dir.join("sessions")), progress };
    asking.run(signer, prompt.as_bytes()).await
}

fn print(devnet: &Devnet, progress: &Progress) {
    let d = devnet.deployment();
    let say = |line: String| progress.note(&line);
    say(format!(
        "\nAccounts (devnet keys are public: never send them anything of value), {USER_BALANCE} LCAI each"
    ));
    for (index, user) in devnet.users().iter().enumerate() {
        say(format!(
            "  ({index}) {}  key 0x{}",
            user.address(),
            alloy_primitives::hex::encode(user.to_bytes())
        ));
    }
    say("\nContracts".into());
    say(format!("  WorkerRegistry  {}", d.worker_registry));
    say(format!("  JobRegistry     {}", d.job_registry));
    say(format!("  AIConfig        {}", d.ai_config));
    say("\nModels".into());
    say(format!("  {DEFAULT_MODEL}  {}", lcai_primitives::ids::ModelId::from_name(DEFAULT_MODEL)));
    say("\nWorkers".into());
    for worker in devnet.workers() {
        say(format!("  {worker}"));
    }
    say(format!("\nChain id {}, {}", d.chain_id, if devnet.is_prague() { "Prague" } else { "Osaka" }));
    say(format!("eth_* and lcai_* at {} (HTTP on the same port)", devnet.url()));
    say(format!(
        "\nIn another terminal:  lcai ask --rpc {} \"What is the capital of France?\"",
        devnet.url()
    ));
    say("Ctrl-C stops everything.".into());
}
