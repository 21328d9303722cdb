//! `lcai worker`.

use crate::{
    ask::DEFAULT_RPC,
    exit::{KeyError, UsageError},
    keys::password,
    models::ModelArgs,
    progress::Progress,
};
use alloy_primitives::{
    U256,
    utils::{format_ether, parse_ether},
};
use alloy_signer_local::PrivateKeySigner;
use clap::{Args, Subcommand};
use lcai_client::Connection;
use lcai_crypto::keystore;
use lcai_sidecar::{Worker, WorkerConfig, WorkerKeys, deregister, register_worker, reinstate, top_up};
use std::path::{Path, PathBuf};

/// `lcai worker`.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// Register if needed, attach to a node, and answer jobs until stopped
    Run(WorkerArgs),
    /// Raise the stake: to the network's minimum, which a slashed worker needs to be drawn again, or by an amount
    TopUp(TopUpArgs),
    /// End a suspension once its cooldown is over
    Reinstate(AccountArgs),
    /// Give up being a worker, once it is drained: the whole stake comes back
    Leave(AccountArgs),
}

/// Flags of what a worker's account alone does.
#[derive(Debug, Clone, Args)]
pub struct AccountArgs {
    /// The node, over WebSocket
    #[arg(long, env = "LCAI_RPC", default_value = DEFAULT_RPC, value_name = "URL")]
    pub rpc: String,
    /// Refuse a node on another chain
    #[arg(long, value_name = "ID")]
    pub chain_id: Option<u64>,
    /// Keystore of the worker's account
    #[arg(long, value_name = "FILE")]
    pub keystore: PathBuf,
    /// File with its password [default: LCAI_PASSWORD]
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Flags of `lcai worker top-up`.
#[derive(Debug, Clone, Args)]
pub struct TopUpArgs {
    /// Node and account
    #[command(flatten)]
    pub account: AccountArgs,
    /// How much, LCAI [default: what is missing to the network's minimum]
    #[arg(long, value_name = "LCAI")]
    pub amount: Option<String>,
}

/// Flags of `lcai worker run`.
#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// The node, over WebSocket
    #[arg(long, env = "LCAI_RPC", default_value = DEFAULT_RPC, value_name = "URL")]
    pub rpc: String,
    /// Refuse a node on another chain
    #[arg(long, value_name = "ID")]
    pub chain_id: Option<u64>,
    /// Keystore of the worker's account
    #[arg(long, value_name = "FILE")]
    pub keystore: PathBuf,
    /// Keystore of the account that posts response blobs; another account, because pools refuse blob and ordinary
    /// transactions of one account at a time
    #[arg(long, value_name = "FILE")]
    pub blob_keystore: PathBuf,
    /// Keystore of the P-256 key that opens session keys
    #[arg(long, value_name = "FILE")]
    pub encryption_keystore: PathBuf,
    /// File with the password of all three [default: LCAI_PASSWORD]
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Where the worker keeps its journal; one directory per worker
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The models it serves
    #[command(flatten)]
    pub models: ModelArgs,
    /// Stake at registration, LCAI [default: the network's minimum]
    #[arg(long, value_name = "LCAI")]
    pub stake: Option<String>,
    /// Blocks above the acknowledgement before the answer is signed
    #[arg(long, default_value_t = 2, value_name = "BLOCKS")]
    pub ack_depth: u64,
    /// Jobs worked on at once
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub max_jobs: u32,
}

/// Runs `lcai worker`.
pub async fn run(command: WorkerCommand) -> eyre::Result<()> {
    match command {
        WorkerCommand::Run(args) => run_worker(args).await,
        WorkerCommand::TopUp(args) => raise_stake(args).await,
        WorkerCommand::Reinstate(args) => end_suspension(args).await,
        WorkerCommand::Leave(args) => leave(args).await,
    }
}

async fn raise_stake(args: TopUpArgs) -> eyre::Result<()> {
    let amount = args.amount.as_deref().map(|text| parse_amount("--amount", text)).transpose()?;
    let (node, account) = args.account.open().await?;
    let raised = top_up(node.chain(), &node.network().deployment, &account, amount).await?;
    Progress::new(false).note(&match raised {
        Some((amount, hash)) => format!("stake raised by {} LCAI in {hash}", format_ether(amount)),
        None => "the stake is the network's minimum or more".to_owned(),
    });
    Ok(())
}

async fn end_suspension(args: AccountArgs) -> eyre::Result<()> {
    let (node, account) = args.open().await?;
    let sent = reinstate(node.chain(), &node.network().deployment, &account).await?;
    Progress::new(false).note(&match sent {
        Some(hash) => format!("worker {} is reinstated in {hash}", account.address()),
        None => format!("worker {} is not suspended", account.address()),
    });
    Ok(())
}

async fn leave(args: AccountArgs) -> eyre::Result<()> {
    let (node, account) = args.open().await?;
    let (stake, hash) = deregister(node.chain(), &node.network().deployment, &account).await?;
    Progress::new(false).note(&format!(
        "worker {} left, {} LCAI came back in {hash}",
        account.address(),
        format_ether(stake)
    ));
    Ok(())
}

impl AccountArgs {
    async fn open(&self) -> eyre::Result<(Connection, PrivateKeySigner)> {
        let account = read_account(&self.keystore, &password(self.password_file.as_deref())?)?;
        Ok((Connection::open(&self.rpc, self.chain_id).await?, account))
    }
}

async fn run_worker(args: WorkerArgs) -> eyre::Result<()> {
    let progress = Progress::new(false);
    let stake = args.stake.as_deref().map(|text| parse_amount("--stake", text)).transpose()?;
    let keys = read_keys(&args)?;
    let (backend, models) = args.models.open().await?;
    let node = progress.step("connected", Connection::open(&args.rpc, args.chain_id)).await?;
    let deployment = node.network().deployment;
    let public = keys.encryption.public().to_sec1();
    let registration = progress
        .step(
            "registration checked",
            register_worker(node.chain(), &deployment, &keys.account, &public, stake, &models),
        )
        .await?;
    if let Some(hash) = registration.registered {
        progress.note(&format!("           registered in {hash}"));
    }
    for (model, hash) in &registration.added {
        progress.note(&format!("           model {model} added in {hash}"));
    }
    let mut config = WorkerConfig::new(args.rpc.clone(), keys, backend, models, args.data_dir.clone());
    config.ack_depth = args.ack_depth;
    config.max_jobs = args.max_jobs;
    let worker = progress.step("worker started", Worker::start(config)).await?;
    progress.note(&format!("worker {} takes jobs; Ctrl-C or SIGTERM drains it", worker.address()));
    tokio::select! {
        reason = worker.stopped() => {
            eyre::bail!("the worker stopped: {}", reason.unwrap_or_else(|| "no reason given".into()));
        }
        asked = asked_to_end() => asked?,
    }
    progress.note("draining: no new sessions; those that are open, and those that may still come of what was signed before, are served until none is left; Ctrl-C again stops now");
    let drained = progress.step("drained", async {
        worker.drain().await;
        Ok::<_, std::convert::Infallible>(())
    });
    tokio::select! {
        _ = drained => {}
        asked = asked_to_end() => {
            asked?;
            let open = worker.status().open_sessions;
            progress.note(&format!("stopping with {open} open sessions: a job in one of them that nobody acknowledges costs stake"));
        }
    }
    worker.shutdown().await;
    Ok(())
}

/// Waits for Ctrl-C, or for SIGTERM, by which service managers end what they run.
#[cfg(unix)]
async fn asked_to_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
async fn asked_to_end() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

fn parse_amount(flag: &str, text: &str) -> Result<U256, UsageError> {
    parse_ether(text).map_err(|_| UsageError(format!("{flag} {text}: expected an amount in LCAI, e.g. 5000")))
}

fn read_account(path: &Path, password: &str) -> Result<PrivateKeySigner, KeyError> {
    keystore::read_account(path, password).map_err(|e| KeyError(e.to_string()))
}

fn read_keys(args: &WorkerArgs) -> Result<WorkerKeys, KeyError> {
    let password = password(args.password_file.as_deref())?;
    let account = |path: &Path| read_account(path, &password);
    let encryption = keystore::read_encryption(&args.encryption_keystore, &password)
        .map_err(|e| KeyError(e.to_string()))?;
    let keys =
        WorkerKeys { account: account(&args.keystore)?, blob: account(&args.blob_keystore)?, encryption };
    if keys.account.address() == keys.blob.address() {
        return Err(KeyError("--keystore and --blob-keystore hold the same account; two are needed".into()));
    }
    Ok(keys)
}
