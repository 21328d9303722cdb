//! Keys from files: an Ethereum v3 keystore, or 32 bytes in hex. Never from a flag or the environment.

use alloy_primitives::{Bytes, hex};
use alloy_signer_local::PrivateKeySigner;
use lcai_crypto::{EncryptionSecret, keystore};
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why a key cannot be used. Names the file, never what is in it.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("the {role} key {}: {source}", path.display())]
    Read {
        /// What the key is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is a keystore, and no password was given.
    #[error("the {role} key {} is a keystore: give --lcai.password-file or set LCAI_PASSWORD", path.display())]
    NoPassword {
        /// What the key is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The keystore cannot be opened.
    #[error("the {role} key: {source}")]
    Keystore {
        /// What the key is for.
        role: &'static str,
        /// Why; names the file.
        source: keystore::KeystoreError,
    },
    /// A public key where the private half is needed.
    #[error("the {role} key {}: expected a P-256 keystore, from which the private half can be opened", path.display())]
    NoPrivateHalf {
        /// What the key is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file holds neither.
    #[error("the {role} key {}: expected an Ethereum v3 keystore or 32 bytes in hex", path.display())]
    Malformed {
        /// What the key is for.
        role: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// Reads an account's key. Takes as long as a keystore's key derivation: call it off the async runtime.
///
/// # Errors
/// As [`KeyError`] says.
pub fn account(
    role: &'static str,
    path: &Path,
    password: Option<&str>,
) -> Result<PrivateKeySigner, KeyError> {
    let text = read(role, path)?;
    if text.trim_start().starts_with('{') {
        let password = password.ok_or_else(|| KeyError::NoPassword { role, path: path.to_owned() })?;
        return keystore::read_account(path, password).map_err(|source| KeyError::Keystore { role, source });
    }
    text.trim().parse().map_err(|_| KeyError::Malformed { role, path: path.to_owned() })
}

/// The public half of an encryption key (P-256): from its keystore, without a password, or 65 bytes in hex.
///
/// # Errors
/// As [`KeyError`] says.
pub fn encryption_public(role: &'static str, path: &Path) -> Result<Bytes, KeyError> {
    let text = read(role, path)?;
    if text.trim_start().starts_with('{') {
        let key = keystore::encryption_public(path).map_err(|source| KeyError::Keystore { role, source })?;
        return Ok(Bytes::copy_from_slice(&key.to_sec1()));
    }
    match hex::decode(text.trim()) {
        Ok(bytes) if bytes.len() == 65 && bytes.first() == Some(&4) => Ok(bytes.into()),
        _ => Err(KeyError::Malformed { role, path: path.to_owned() }),
    }
}

/// An encryption key (P-256) with its private half, from its keystore. Takes as long as [`account`].
///
/// # Errors
/// As [`KeyError`] says.
pub fn encryption_secret(
    role: &'static str,
    path: &Path,
    password: Option<&str>,
) -> Result<EncryptionSecret, KeyError> {
    if !read(role, path)?.trim_start().starts_with('{') {
        return Err(KeyError::NoPrivateHalf { role, path: path.to_owned() });
    }
    let password = password.ok_or_else(|| KeyError::NoPassword { role, path: path.to_owned() })?;
    keystore::read_encryption(path, password).map_err(|source| KeyError::Keystore { role, source })
}

/// The keystores' password: from its file, else from `LCAI_PASSWORD`.
///
/// # Errors
/// When the file cannot be read.
pub fn password(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, KeyError> {
    match file {
        Some(path) => {
            let text = read("keystores' password", path)?;
            Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())))
        }
        None => Ok(std::env::var("LCAI_PASSWORD").ok().map(Zeroizing::new)),
    }
}

fn read(role: &'static str, path: &Path) -> Result<Zeroizing<String>, KeyError> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|source| KeyError::Read {
        role,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lcai_crypto::KdfCost;

    #[test]
    fn a_key_comes_from_a_hex_file_or_a_keystore() {
        let dir = tempfile::tempdir().unwrap();
        let signer = PrivateKeySigner::random();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, format!("0x{}\n", hex::encode(signer.to_bytes()))).unwrap();
        assert_eq!(account("keeper", &plain, None).unwrap().address(), signer.address());

        let store = dir.path().join("store.json");
        keystore::write_account(&store, &signer, "secret", KdfCost::Light).unwrap();
        assert_eq!(account("keeper", &store, Some("secret")).unwrap().address(), signer.address());
        assert!(matches!(account("keeper", &store, None), Err(KeyError::NoPassword { .. })));
        let error = account("keeper", &store, Some("wrong")).unwrap_err().to_string();
        assert!(error.contains("keeper") && error.contains("store.json"), "{error}");
        assert!(!error.contains("wrong\""), "{error}");
    }

    #[test]
    fn an_encryption_keys_halves_are_read_apart() {
        let dir = tempfile::tempdir().unwrap();
        let secret = EncryptionSecret::random();
        let public = secret.public().to_sec1();
        let (store, plain) = (dir.path().join("p256.json"), dir.path().join("p256.hex"));
        keystore::write_encryption(&store, &secret, "secret", KdfCost::Light).unwrap();
        std::fs::write(&plain, hex::encode(public)).unwrap();
        for file in [&store, &plain] {
            assert_eq!(encryption_public("escrow", file).unwrap().as_ref(), public);
        }
        let opened = encryption_secret("escrow", &store, Some("secret")).unwrap();
        assert_eq!(opened.public().to_sec1(), public);
        assert!(matches!(encryption_secret("escrow", &store, None), Err(KeyError::NoPassword { .. })));
        assert!(matches!(encryption_secret("escrow", &store, Some("x")), Err(KeyError::Keystore { .. })));
        assert!(matches!(
            encryption_secret("escrow", &plain, Some("secret")),
            Err(KeyError::NoPrivateHalf { .. })
        ));
    }

    #[test]
    fn a_file_with_neither_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "correct horse battery").unwrap();
        let error = account("dispatcher", &path, None).unwrap_err().to_string();
        assert!(error.contains("dispatcher") && !error.contains("horse"), "{error}");
        assert!(matches!(encryption_public("disputer", &path), Err(KeyError::Malformed { .. })));
    }
}
