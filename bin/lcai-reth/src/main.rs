//! `lcai-reth`: see the library.

#[global_allocator]
static ALLOC: reth_cli_util::allocator::Allocator = reth_cli_util::allocator::new_allocator();

fn main() -> std::process::ExitCode {
    reth_cli_util::sigsegv_handler::install();
    if let Err(error) = lcai_crypto::forbid_core_dumps() {
        report(&eyre::eyre!("core dumps cannot be turned off: {error}"));
        return std::process::ExitCode::FAILURE;
    }
    match lcai_reth::run::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            std::process::ExitCode::FAILURE
        }
    }
}

/// The error with its causes on one line, as `lcai` prints it.
#[allow(clippy::print_stderr)]
fn report(error: &eyre::Report) {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    eprintln!("error: {}", causes.join(": "));
}
