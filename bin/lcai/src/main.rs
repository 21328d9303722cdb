//! The `lcai` command line: parse, run, exit with a stable code.

use clap::Parser;
use lcai::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(e) = lcai_crypto::forbid_core_dumps() {
        return lcai::exit::report(&eyre::eyre!("core dumps cannot be turned off: {e}"));
    }
    let cli = Cli::parse();
    lcai::logging::init(cli.log.as_deref());
    let runtime = match lcai::runtime() {
        Ok(runtime) => runtime,
        Err(e) => return lcai::exit::report(&eyre::eyre!("the runtime cannot start: {e}")),
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => lcai::exit::report(&e),
    }
}
