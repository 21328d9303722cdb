//! The journal: one database file that is the truth about what this node has seen and done (DESIGN.md, rule 2).
//!
//! - Layer 1, the **feed**: canonical blocks with the watched contracts' logs. One writer, [`crate::FeedWriter`].
//! - Layer 2, per **extension**: cursor, table rows, undo records and effect intents, always in one transaction.
//! - **Records**: durable key/value stores for signing journals.
//!
//! Every commit is on disk when the call returns, but those that say nothing new: what an extension made of blocks that
//! the feed holds, and what the host says of its heads. They are on disk with the next commit that is, in their order, so
//! that a crash takes the last of them back together, and they are made again from the same blocks. No effect is before
//! its intent is on disk, because its start is a commit of its own. Values carry a version byte before their postcard
//! encoding.

mod codec;
mod effects;
mod extension;
mod feed;
#[cfg(test)]
mod fixture;
mod records;

pub use effects::EffectState;
pub(crate) use effects::{Ending, OpenEffect};
pub(crate) use extension::{BlockChanges, ExtensionTxn, InputChanges, TableChanges, TableWriter};
pub use feed::FeedStep;
pub use records::{KeyValue, PutOutcome, Records};

use crate::BlockRef;
use alloy_primitives::{Address, B256};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction, backends::InMemoryBackend,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;

/// Version of the file's layout; a file of another version is refused.
pub const FORMAT_VERSION: u32 = 1;

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const KEY_FORMAT: &str = "format";
const KEY_IDENTITY: &str = "identity";

/// Which chain and deployment a journal belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalIdentity {
    /// Chain id (EIP-155).
    pub chain_id: u64,
    /// Hash of the genesis block: tells two chains of one id apart, e.g. two runs of a devnet.
    pub genesis_hash: B256,
    /// The contracts whose logs the feed holds.
    pub contracts: Vec<Address>,
}

impl fmt::Display for JournalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} (genesis {}) with contracts [", self.chain_id, self.genesis_hash)?;
        for (i, contract) in self.contracts.iter().enumerate() {
            write!(f, "{}{contract}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

/// Why the journal could not be opened, read or written.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another process has the file open.
    #[error("the journal {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The file cannot be opened.
    #[error("the journal {} cannot be opened: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The file has another layout.
    #[error(
        "the journal has format {found}, this program reads {expected}; use the matching release or a new data directory"
    )]
    Format {
        /// What the file says.
        found: u32,
        /// [`FORMAT_VERSION`].
        expected: u32,
    },
    /// The file belongs to another chain or deployment.
    #[error("the journal is of {found}, but this node follows {expected}; use another data directory")]
    Identity {
        /// What the file says.
        found: Box<JournalIdentity>,
        /// What was asked for.
        expected: Box<JournalIdentity>,
    },
    /// An extension's records have another version.
    #[error("the journal holds version {found} of extension {name}, this program writes {expected}")]
    ExtensionVersion {
        /// The extension.
        name: String,
        /// What the file says.
        found: u32,
        /// [`crate::Extension::VERSION`].
        expected: u32,
    },
    /// A step does not continue the feed.
    #[error("a feed step does not continue the feed at {tip:?}: {reason}")]
    Discontinuous {
        /// The feed's tip.
        tip: Option<BlockRef>,
        /// What did not fit.
        reason: String,
    },
    /// A value cannot be decoded.
    #[error("the journal's {what} cannot be decoded: {reason}")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// Reading or writing failed, e.g. the disk is full.
    #[error("journal storage: {0}")]
    Storage(Box<redb::Error>),
}

macro_rules! storage_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for JournalError {
            fn from(e: $error) -> Self {
                Self::Storage(Box::new(e.into()))
            }
        }
    )*};
}
storage_errors!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

/// The journal. Calls block for as long as a commit takes; async code goes through `spawn_blocking`.
pub struct Journal {
    db: Database,
    identity: JournalIdentity,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens or creates the journal of a chain and deployment. The file is locked while it is open.
    pub fn open(path: impl AsRef<Path>, identity: JournalIdentity) -> Result<Arc<Self>, JournalError> {
        let path = path.as_ref();
        let db = Database::create(path).map_err(|e| match e {
            redb::DatabaseError::DatabaseAlreadyOpen => JournalError::InUse(path.to_owned()),
            e => JournalError::Open { path: path.to_owned(), source: Box::new(e.into()) },
        })?;
        Self::with_database(db, identity)
    }

    /// A journal that is gone when it is dropped: for devnets and tests.
    pub fn in_memory(identity: JournalIdentity) -> Result<Arc<Self>, JournalError> {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .map_err(|e| JournalError::Storage(Box::new(e.into())))?;
        Self::with_database(db, identity)
    }

    /// A journal over any storage, for tests of what happens when it fails.
    #[cfg(any(test, feature = "testing"))]
    pub fn over(
        backend: impl redb::StorageBackend,
        identity: JournalIdentity,
    ) -> Result<Arc<Self>, JournalError> {
        let db = Database::builder()
            .create_with_backend(backend)
            .map_err(|e| JournalError::Storage(Box::new(e.into())))?;
        Self::with_database(db, identity)
    }

    fn with_database(db: Database, identity: JournalIdentity) -> Result<Arc<Self>, JournalError> {
        let journal = Self { db, identity };
        let txn = journal.write()?;
        journal.check_meta(&txn)?;
        feed::create_tables(&txn)?;
        extension::create_tables(&txn)?;
        effects::create_tables(&txn)?;
        records::create_tables(&txn)?;
        txn.commit()?;
        Ok(Arc::new(journal))
    }

    /// Which chain and deployment this is.
    pub const fn identity(&self) -> &JournalIdentity {
        &self.identity
    }

    fn check_meta(&self, txn: &WriteTransaction) -> Result<(), JournalError> {
        let mut meta = txn.open_table(META)?;
        let format = meta.get(KEY_FORMAT)?.map(|value| value.value().to_vec());
        let Some(format) = format else {
            meta.insert(KEY_FORMAT, FORMAT_VERSION.to_le_bytes().as_slice())?;
            meta.insert(KEY_IDENTITY, codec::encode("identity", &self.identity)?.as_slice())?;
            return Ok(());
        };
        let found = <[u8; 4]>::try_from(format.as_slice()).map(u32::from_le_bytes).map_err(|_| {
            JournalError::Corrupt { what: "format version", reason: format!("{} bytes", format.len()) }
        })?;
        if found != FORMAT_VERSION {
            return Err(JournalError::Format { found, expected: FORMAT_VERSION });
        }
        let found: Option<JournalIdentity> =
            meta.get(KEY_IDENTITY)?.map(|value| codec::decode("identity", value.value())).transpose()?;
        match found {
            Some(found) if found == self.identity => Ok(()),
            Some(found) => Err(JournalError::Identity {
                found: Box::new(found),
                expected: Box::new(self.identity.clone()),
            }),
            None => Err(JournalError::Corrupt { what: "identity", reason: "it is missing".into() }),
        }
    }

    fn read(&self) -> Result<ReadTransaction, JournalError> {
        Ok(self.db.begin_read()?)
    }

    fn write(&self) -> Result<WriteTransaction, JournalError> {
        // Durability::Immediate is the default of a transaction: commit returns after the sync.
        Ok(self.db.begin_write()?)
    }

    /// What a test copies meanwhile is what a kill would leave.
    #[cfg(test)]
    pub(crate) fn while_nobody_writes<R>(&self, work: impl FnOnce() -> R) -> Result<R, JournalError> {
        let _held = self.write()?;
        Ok(work())
    }

    /// A transaction whose commit is on disk with the next one of [`Self::write`].
    fn write_later(&self) -> Result<WriteTransaction, JournalError> {
        let mut txn = self.write()?;
        later(&mut txn)?;
        Ok(txn)
    }
}

/// Lets a transaction's commit wait for the next one that syncs.
fn later(txn: &mut WriteTransaction) -> Result<(), JournalError> {
    txn.set_durability(Durability::None).map_err(|e| JournalError::Storage(Box::new(e.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> JournalIdentity {
        JournalIdentity {
            chain_id: 8200,
            genesis_hash: B256::repeat_byte(7),
            contracts: vec![Address::repeat_byte(1)],
        }
    }

    #[test]
    fn refuses_a_journal_of_another_chain_or_deployment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        drop(Journal::open(&path, identity()).unwrap());
        drop(Journal::open(&path, identity()).unwrap());

        let other = JournalIdentity { chain_id: 9200, ..identity() };
        let error = Journal::open(&path, other).unwrap_err().to_string();
        assert!(error.contains("chain 8200") && error.contains("chain 9200"), "{error}");

        let other = JournalIdentity { contracts: vec![Address::repeat_byte(2)], ..identity() };
        assert!(matches!(Journal::open(&path, other), Err(JournalError::Identity { .. })));
        let other = JournalIdentity { genesis_hash: B256::ZERO, ..identity() };
        assert!(matches!(Journal::open(&path, other), Err(JournalError::Identity { .. })));
    }

    #[test]
    fn refuses_another_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let journal = Journal::open(&path, identity()).unwrap();
        let txn = journal.write().unwrap();
        txn.open_table(META).unwrap().insert(KEY_FORMAT, 99u32.to_le_bytes().as_slice()).unwrap();
        txn.commit().unwrap();
        drop(journal);
        let error = Journal::open(&path, identity()).unwrap_err();
        assert!(matches!(error, JournalError::Format { found: 99, expected: FORMAT_VERSION }), "{error}");
    }

    #[test]
    fn is_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        let _held = Journal::open(&path, identity()).unwrap();
        assert!(matches!(Journal::open(&path, identity()), Err(JournalError::InUse(_))));
    }

    #[test]
    fn says_so_when_the_file_is_no_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.redb");
        std::fs::write(&path, b"not a database, but long enough to be read as one").unwrap();
        let error = Journal::open(&path, identity()).unwrap_err();
        assert!(matches!(error, JournalError::Open { .. }), "{error}");
        assert!(error.to_string().contains("journal.redb"), "{error}");
    }
}
