//! Exit codes: stable, so that scripts can rely on them.

use lcai_client::ClientError;
use lcai_sidecar::WorkerError;
use std::process::ExitCode;
use thiserror::Error;

/// The table printed by `lcai --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  a fault without a code of its own
   2  wrong usage
   3  the node is not reachable
   4  the node is on another chain
   5  the network does not offer the model
   6  the account cannot pay
   7  the prompt is empty or too large
   8  a key or keystore cannot be used
   9  the node or the chain refused a call or a transaction
  10  what came back does not verify
  11  the job ended without an answer
  12  gave up waiting";

/// A key or keystore that cannot be used: exit code 8.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct KeyError(pub String);

/// Wrong usage that the parser cannot see: exit code 2.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The exit code of an error: the first cause that has one.
pub fn code(error: &eyre::Report) -> u8 {
    for cause in error.chain() {
        if let Some(e) = cause.downcast_ref::<ClientError>() {
            return e.exit_code();
        }
        if let Some(e) = cause.downcast_ref::<WorkerError>() {
            return e.exit_code();
        }
        if cause.is::<KeyError>() {
            return 8;
        }
        if cause.is::<UsageError>() {
            return 2;
        }
    }
    1
}

/// Prints the error with its causes, and gives its exit code.
#[allow(clippy::print_stderr)]
pub fn report(error: &eyre::Report) -> ExitCode {
    eprint!("error: {error}");
    for cause in error.chain().skip(1) {
        eprint!(": {cause}");
    }
    eprintln!();
    ExitCode::from(code(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, U256};

    #[test]
    fn the_first_cause_with_a_code_decides() {
        assert_eq!(code(&eyre::eyre!("anything")), 1);
        assert_eq!(code(&UsageError("x".into()).into()), 2);
        assert_eq!(code(&KeyError("x".into()).into()), 8);
        let (account, needs) = (Address::ZERO, U256::from(1));
        assert_eq!(code(&WorkerError::Underfunded { account, has: U256::ZERO, needs }.into()), 6);
        let wrapped = eyre::Report::from(ClientError::EmptyPrompt).wrap_err("asking");
        assert_eq!(code(&wrapped), 7);
    }

    #[test]
    fn the_help_lists_every_code() {
        for code in 0..=12 {
            assert!(
                EXIT_CODES.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))),
                "{code}"
            );
        }
    }
}
