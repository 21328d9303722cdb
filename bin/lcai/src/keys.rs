//! Keys: where commands get them from, and `lcai keys`.

use crate::exit::{KeyError, UsageError};
use alloy_signer_local::PrivateKeySigner;
use clap::{Args, Subcommand, ValueEnum};
use lcai_crypto::{EncryptionPublicKey, EncryptionSecret, KdfCost, keystore};
use std::{
    io::Write,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Which account acts.
#[derive(Debug, Clone, Default, Args)]
pub struct AccountKey {
    /// Ethereum v3 keystore of the account
    #[arg(long, value_name = "FILE", group = "account")]
    pub keystore: Option<PathBuf>,
    /// File with the keystore's password [default: LCAI_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "keystore")]
    pub password_file: Option<PathBuf>,
    /// File with the account's private key, 32 bytes in hex
    #[arg(long, value_name = "FILE", group = "account")]
    pub key_file: Option<PathBuf>,
    /// Use this account of the devnet (0 to 9); 0 by itself when the node is on this machine
    #[arg(long, value_name = "N", group = "account")]
    pub dev_account: Option<u32>,
}

impl AccountKey {
    /// The account's signer. Without a flag, devnet account 0 acts against a node on this machine, and against no other.
    pub fn signer(&self, rpc: &str) -> Result<PrivateKeySigner, KeyError> {
        if let Some(path) = &self.keystore {
            let password = password(self.password_file.as_deref())?;
            return keystore::read_account(path, &password).map_err(|e| KeyError(e.to_string()));
        }
        if let Some(path) = &self.key_file {
            return read_key_file(path);
        }
        if let Some(index) = self.dev_account {
            return dev_account(index);
        }
        if is_loopback(rpc) {
            return dev_account(0);
        }
        Err(KeyError("which account? give --keystore FILE or --key-file FILE".into()))
    }
}

/// An account of the test mnemonic.
pub fn dev_account(index: u32) -> Result<PrivateKeySigner, KeyError> {
    lcai_genesis::dev::dev_account(index)
        .map_err(|e| KeyError(format!("devnet account {index} cannot be derived: {e}")))
}

fn is_loopback(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or(url);
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

fn read_key_file(path: &Path) -> Result<PrivateKeySigner, KeyError> {
    let text = read_secret(path)?;
    text.trim().parse().map_err(|_| {
        KeyError(format!("{} does not hold a private key: expected 32 bytes in hex", path.display()))
    })
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|e| KeyError(format!("{}: {e}", path.display())))
}

/// The password from its file, or from the environment.
pub fn password(file: Option<&Path>) -> Result<Zeroizing<String>, KeyError> {
    if let Some(path) = file {
        let text = read_secret(path)?;
        return Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    std::env::var("LCAI_PASSWORD")
        .map(Zeroizing::new)
        .map_err(|_| KeyError("no password: give --password-file FILE or set LCAI_PASSWORD".into()))
}

/// What a keystore is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// secp256k1: sends transactions
    Account,
    /// P-256: opens session keys
    Encryption,
}

/// `lcai keys`.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a new key in a new keystore
    New {
        /// The file to write; must not exist
        file: PathBuf,
        /// What the key is for
        #[arg(long, value_enum, default_value_t = KeyKind::Account)]
        kind: KeyKind,
        /// File with the password [default: LCAI_PASSWORD]
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Put a private key from a file into a new keystore
    Import {
        /// File with the private key, 32 bytes in hex
        key_file: PathBuf,
        /// The file to write; must not exist
        file: PathBuf,
        /// File with the password [default: LCAI_PASSWORD]
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Print a keystore's public side; checks the password when one is given
    Show {
        /// The keystore
        file: PathBuf,
        /// File with the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

/// Runs `lcai keys`.
pub async fn run(command: KeysCommand) -> eyre::Result<()> {
    // Key derivation is slow on purpose; it runs where it blocks nobody.
    let line = tokio::task::spawn_blocking(move || execute(command)).await??;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn execute(command: KeysCommand) -> eyre::Result<String> {
    match command {
        KeysCommand::New { file, kind, password_file } => {
            let password = password(password_file.as_deref())?;
            must_not_exist(&file)?;
            match kind {
                KeyKind::Account => write_account(&file, &PrivateKeySigner::random(), &password),
                KeyKind::Encryption => {
                    let secret = EncryptionSecret::random();
                    keystore::write_encryption(&file, &secret, &password, KdfCost::Standard)
                        .map_err(|e| KeyError(e.to_string()))?;
                    Ok(encryption_line(&secret.public()))
                }
            }
        }
        KeysCommand::Import { key_file, file, password_file } => {
            let password = password(password_file.as_deref())?;
            must_not_exist(&file)?;
            write_account(&file, &read_key_file(&key_file)?, &password)
        }
        KeysCommand::Show { file, password_file } => show(&file, password_file.as_deref()),
    }
}

fn write_account(file: &Path, signer: &PrivateKeySigner, password: &str) -> eyre::Result<String> {
    keystore::write_account(file, signer, password, KdfCost::Standard)
        .map_err(|e| KeyError(e.to_string()))?;
    Ok(format!("account {}", signer.address()))
}

fn must_not_exist(file: &Path) -> Result<(), UsageError> {
    if file.exists() {
        return Err(UsageError(format!("{} exists; a key is never overwritten", file.display())));
    }
    Ok(())
}

fn encryption_line(key: &EncryptionPublicKey) -> String {
    format!("encryption key 0x{}", hex::encode(key.to_sec1()))
}

fn show(file: &Path, password_file: Option<&Path>) -> eyre::Result<String> {
    let unusable = |e: keystore::KeystoreError| KeyError(e.to_string());
    let password = password_file.map(|path| password(Some(path))).transpose()?;
    if let Ok(public) = keystore::encryption_public(file) {
        if let Some(password) = password {
            keystore::read_encryption(file, &password).map_err(unusable)?;
        }
        return Ok(encryption_line(&public));
    }
    let address = match password {
        Some(password) => Some(keystore::read_account(file, &password).map_err(unusable)?.address()),
        None => keystore::account_address(file).map_err(unusable)?,
    };
    Ok(address.map_or_else(
        || "account of unknown address: the file does not name it, give --password-file".to_owned(),
        |address| format!("account {address}"),
    ))
}
