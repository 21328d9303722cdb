//! A session as its user keeps it.

use crate::ClientError;
use aes_gcm::{
    Aes256Gcm, Key, KeyInit, Nonce,
    aead::{Aead, AeadCore, OsRng},
};
use alloy_primitives::{Address, B256};
use alloy_signer_local::PrivateKeySigner;
use hkdf::Hkdf;
use lcai_crypto::SessionKey;
use lcai_primitives::ids::{ModelId, SessionId};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// An open session with its key.
#[derive(Clone)]
pub struct UserSession {
    /// Session id.
    pub id: SessionId,
    /// The model.
    pub model_id: ModelId,
    /// The worker that serves it.
    pub worker: Address,
    /// `createSession`.
    pub create_transaction: B256,
    /// The AES-256 key that seals everything in it.
    pub key: SessionKey,
}

impl std::fmt::Debug for UserSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSession")
            .field("id", &self.id)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// Keeps sessions between runs, one file per (chain, JobRegistry, account, model). The session key is sealed under a key
/// derived from the account's own, so the file alone opens nothing.
#[derive(Debug, Clone)]
pub struct SessionStore {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SessionRecord {
    version: u32,
    session_id: SessionId,
    model_id: ModelId,
    worker: Address,
    create_transaction: B256,
    genesis: B256,
    sealed_key: String,
}

const RECORD_VERSION: u32 = 1;

impl SessionStore {
    /// Keeps files in a directory, made when needed.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn path(&self, chain_id: u64, registry: Address, account: Address, model: ModelId) -> PathBuf {
        let model = &model.wire_hex()[..16];
        self.directory.join(format!("{chain_id}-{registry:x}-{account:x}-{model}.json"))
    }

    /// The session of an account for a model; `None` when there is none, or when it belongs to another chain with the
    /// same id (`genesis` differs: a devnet that was started anew).
    pub fn load(
        &self,
        chain_id: u64,
        genesis: B256,
        registry: Address,
        signer: &PrivateKeySigner,
        model: ModelId,
    ) -> Result<Option<UserSession>, ClientError> {
        let path = self.path(chain_id, registry, signer.address(), model);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error(&path, e)),
        };
        let record: SessionRecord = serde_json::from_str(&text).map_err(|e| file_error(&path, e))?;
        if record.version != RECORD_VERSION {
            let reason = format!("has version {}, expected {RECORD_VERSION}", record.version);
            return Err(file_error(&path, reason));
        }
        if record.genesis != genesis {
            return Ok(None);
        }
        let key = open_key(signer, &record.sealed_key)
            .ok_or_else(|| file_error(&path, "the session key in it was not sealed by this account"))?;
        Ok(Some(UserSession {
            id: record.session_id,
            model_id: record.model_id,
            worker: record.worker,
            create_transaction: record.create_transaction,
            key,
        }))
    }

    /// Keeps a session, replacing the account's earlier one for the model.
    pub fn save(
        &self,
        chain_id: u64,
        genesis: B256,
        registry: Address,
        signer: &PrivateKeySigner,
        session: &UserSession,
    ) -> Result<(), ClientError> {
        let path = self.path(chain_id, registry, signer.address(), session.model_id);
        fs::create_dir_all(&self.directory).map_err(|e| file_error(&path, e))?;
        let sealed_key = seal_key(signer, &session.key)
            .ok_or_else(|| file_error(&path, "the session key cannot be sealed"))?;
        let record = SessionRecord {
            version: RECORD_VERSION,
            session_id: session.id,
            model_id: session.model_id,
            worker: session.worker,
            create_transaction: session.create_transaction,
            genesis,
            sealed_key,
        };
        let text = serde_json::to_string_pretty(&record).map_err(|e| file_error(&path, e))?;
        write_private(&path, text.as_bytes()).map_err(|e| file_error(&path, e))
    }

    /// Forgets the account's session for a model.
    pub fn remove(
        &self,
        chain_id: u64,
        registry: Address,
        account: Address,
        model: ModelId,
    ) -> Result<(), ClientError> {
        let path = self.path(chain_id, registry, account, model);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file_error(&path, e)),
            _ => Ok(()),
        }
    }
}

fn file_error(path: &Path, reason: impl std::fmt::Display) -> ClientError {
    ClientError::SessionFile { path: path.display().to_string(), reason: reason.to_string() }
}

/// Written whole or not at all, readable by its owner only.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

fn file_cipher(signer: &PrivateKeySigner) -> Option<Aes256Gcm> {
    let mut key = Key::<Aes256Gcm>::default();
    Hkdf::<Sha256>::new(None, signer.to_bytes().as_slice()).expand(b"lcai session file v1", &mut key).ok()?;
    Some(Aes256Gcm::new(&key))
}

fn seal_key(signer: &PrivateKeySigner, key: &SessionKey) -> Option<String> {
    let nonce = Aes256Gcm::generate_nonce(&mut OsRng);
    let sealed = file_cipher(signer)?.encrypt(&nonce, key.expose().as_slice()).ok()?;
    Some(hex::encode([nonce.as_slice(), &sealed].concat()))
}

fn open_key(signer: &PrivateKeySigner, sealed: &str) -> Option<SessionKey> {
    let sealed = hex::decode(sealed).ok()?;
    let (nonce, ciphertext) = sealed.split_at_checked(12)?;
    let plain = file_cipher(signer)?.decrypt(Nonce::from_slice(nonce), ciphertext).ok()?;
    SessionKey::from_slice(&plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> UserSession {
        UserSession {
            id: SessionId(5),
            model_id: ModelId::from_name("m"),
            worker: Address::repeat_byte(1),
            create_transaction: B256::repeat_byte(2),
            key: SessionKey::random(),
        }
    }

    #[test]
    fn a_session_survives_a_restart_and_nothing_else_opens_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = SessionStore::new(directory.path());
        let (owner, other) = (PrivateKeySigner::random(), PrivateKeySigner::random());
        let (genesis, registry) = (B256::repeat_byte(3), Address::repeat_byte(4));
        let session = session();
        store.save(8200, genesis, registry, &owner, &session).unwrap();

        let found = store.load(8200, genesis, registry, &owner, session.model_id).unwrap().unwrap();
        assert_eq!((found.id, found.worker), (session.id, session.worker));
        assert_eq!(found.key.expose(), session.key.expose());

        // Another chain with the same id: a devnet that was started anew.
        assert!(store.load(8200, B256::ZERO, registry, &owner, session.model_id).unwrap().is_none());
        assert!(store.load(8200, genesis, registry, &other, session.model_id).unwrap().is_none());

        let path = store.path(8200, registry, owner.address(), session.model_id);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&hex::encode(session.key.expose())), "the key is not in the file");
        fs::copy(&path, store.path(8200, registry, other.address(), session.model_id)).unwrap();
        let stolen = store.load(8200, genesis, registry, &other, session.model_id);
        assert!(matches!(stolen, Err(ClientError::SessionFile { .. })), "another account's file");

        fs::write(&path, "{").unwrap();
        let broken = store.load(8200, genesis, registry, &owner, session.model_id).unwrap_err();
        assert!(broken.to_string().contains(&path.display().to_string()));
        store.remove(8200, registry, owner.address(), session.model_id).unwrap();
        assert!(store.load(8200, genesis, registry, &owner, session.model_id).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let store = SessionStore::new(directory.path());
        let owner = PrivateKeySigner::random();
        let session = session();
        store.save(1, B256::ZERO, Address::ZERO, &owner, &session).unwrap();
        let path = store.path(1, Address::ZERO, owner.address(), session.model_id);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
