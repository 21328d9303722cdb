//! A private proof-of-stake network on this machine: `devnet/network` runs this.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

use clap::Parser;
use futures::FutureExt;
use lcai_tests::network::{
    Net, OurNode, Parts,
    faults::{self, Fault},
    genesis::Plan,
    link::Link,
    story::{self, Summary},
    watch::Watch,
};
use std::{panic::AssertUnwindSafe, path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// Two beacon nodes with validators over two Reth nodes of ours, and a third over geth.
#[derive(Debug, Parser)]
#[command(name = "devnet/network")]
struct Arguments {
    /// Run the story (sessions, jobs, canaries, disputes, release, blobs) and end; otherwise the network stays up
    #[arg(long)]
    story: bool,
    /// The story without the wait for a blob to be dropped by the beacon nodes
    #[arg(long, requires = "story")]
    short: bool,
    /// Break something while users ask, and end; can be repeated. partition needs root, for a network namespace
    #[arg(long, value_enum, conflicts_with = "story")]
    fault: Vec<Fault>,
    /// Directory with beacon-chain, validator, prysmctl, geth and ollama (devnet/build-parts)
    #[arg(long, env = "LCAI_PARTS", value_name = "DIR")]
    parts: PathBuf,
    /// The lcai-reth program; where there is none, the embedded client takes its place
    #[arg(long, env = "LCAI_RETH", value_name = "FILE")]
    reth: PathBuf,
    /// Where configuration, data and logs are kept; must be empty or new
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// Seconds of a slot; an epoch has 32
    #[arg(long, default_value_t = 3)]
    slot_seconds: u64,
    /// Validators, half on each side; with fewer than two a slot some slots have no committee
    #[arg(long, default_value_t = 64)]
    validators: u64,
    /// Epochs for which the beacon nodes keep blobs
    #[arg(long, default_value_t = 4)]
    retention_epochs: u64,
    /// A status line every so many slots
    #[arg(long, default_value_t = 8)]
    every: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    lcai::logging::init(None);
    let runtime = lcai::runtime().expect("a runtime");
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> eyre::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = tokio::select! {
        ended = network(arguments) => return ended,
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    // The programs end with what held them.
    eyre::bail!("ended by {ended}")
}

async fn network(arguments: Arguments) -> eyre::Result<()> {
    let parts = Parts::find(&arguments.parts, &arguments.reth)?;
    let directory = arguments.directory;
    if directory.exists() {
        let empty = std::fs::read_dir(&directory)?.next().is_none();
        eyre::ensure!(empty, "{} is not empty: a network begins with nothing", directory.display());
    }
    std::fs::create_dir_all(&directory)?;
    let mut plan = Plan::new(directory.canonicalize()?);
    plan.slot_seconds = arguments.slot_seconds;
    plan.validators = arguments.validators;
    plan.retention_epochs = arguments.retention_epochs;
    if let OurNode::Embedded(_) = parts.node {
        println!("NO lcai-reth at {}: the embedded client takes its place", arguments.reth.display());
        eyre::ensure!(
            arguments.fault.is_empty(),
            "faults need lcai-reth: an embedded client forgets its chain"
        );
        plan.canary_epoch = None;
    }
    println!("configuration, data and logs: {}", plan.directory.display());
    let apart = arguments.fault.contains(&Fault::Partition);
    let link = apart.then(Link::create).transpose()?;
    let mut net = Net::start(plan, &parts, link).await?;
    for node in &net.reth {
        println!("{}: {}", node.process.name(), node.ws());
    }
    for beacon in &net.beacons {
        println!("{}: {}", beacon.process.name(), beacon.api.url);
    }
    let watch = Watch::start(&net, arguments.every);
    let mut summary = Summary::default();
    if !arguments.story && arguments.fault.is_empty() {
        net.wait_for_blocks(&watch).await?;
        net.start_workers().await?;
        println!("workers are ready; it stays up until it is interrupted");
        return std::future::pending().await;
    }
    let running = async {
        match arguments.fault.as_slice() {
            [] => story::run(&mut net, &watch, arguments.short, &mut summary).await,
            some => faults::run(&mut net, &watch, some, &mut summary).await,
        }
    };
    // What the scenarios share panics where something does not hold; the summary is printed all the same.
    let ended = AssertUnwindSafe(running).catch_unwind().await;
    println!("\nsummary, {} slots", net.slot());
    for line in summary.lines() {
        println!("  {line}");
    }
    net.stop().await;
    ended.map_err(|_| eyre::eyre!("it panicked; the message is above"))??;
    println!("everything was as it should be");
    Ok(())
}
