//! Commands and flags.

use crate::{
    ask::AskArgs, exit::EXIT_CODES, keys::KeysCommand, verify::VerifyArgs, verify_draw::VerifyDrawArgs,
    worker::WorkerCommand,
};
use clap::{Parser, Subcommand};

/// LightChain AI from the command line: ask models on chain, run a worker, start a devnet.
#[derive(Debug, Parser)]
#[command(name = "lcai", version, after_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    /// What to log to standard error, e.g. `info` or `lcai=debug,warn` [default: RUST_LOG, or warn]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the command line does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a complete network in this process: chain, contracts, node, two workers with a model
    #[cfg(feature = "devnet")]
    Devnet(Box<crate::devnet::DevnetArgs>),
    /// Ask a question: open (or continue) a session, stream the answer, verify it
    Ask(Box<AskArgs>),
    /// Run a worker beside a node
    #[command(subcommand)]
    Worker(Box<WorkerCommand>),
    /// Repeat a job with its session's key, and say whether the answer is the model's
    Verify(Box<VerifyArgs>),
    /// Repeat the draw that gave a session its worker, and say why others were no candidates
    VerifyDraw(VerifyDrawArgs),
    /// Make and inspect keystores
    #[command(subcommand)]
    Keys(KeysCommand),
}

impl Cli {
    /// Runs the command to its end.
    pub async fn run(self) -> eyre::Result<()> {
        match self.command {
            #[cfg(feature = "devnet")]
            Command::Devnet(args) => crate::devnet::run(*args).await,
            Command::Ask(args) => crate::ask::run(*args).await,
            Command::Worker(command) => crate::worker::run(*command).await,
            Command::Verify(args) => crate::verify::run(*args).await,
            Command::VerifyDraw(args) => crate::verify_draw::run(args).await,
            Command::Keys(command) => crate::keys::run(command).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_fit_together() {
        Cli::command().debug_assert();
    }
}
