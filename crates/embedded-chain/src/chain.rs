//! The handle and the state behind it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_eips::BlockNumHash;
use alloy_primitives::B256;
use ethrex_common::types::BlockHeader;
use ethrex_rpc::RpcApiContext;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::archive::BlobArchive;
use crate::blocks::ReceiptCache;
use crate::config::{ChainConfig, Mining};
use crate::error::EmbeddedChainError;
use crate::node;
use crate::producer::{self, Producer};
use crate::workers::Workers;

/// Fork choice changes a slow reader of [`EmbeddedChain::subscribe_heads`] may be behind before it misses some.
const HEAD_EVENTS: usize = 1024;

/// A block of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Block number.
    pub number: u64,
    /// Block hash.
    pub hash: B256,
    /// Hash of its parent.
    pub parent_hash: B256,
    /// Seconds since the Unix epoch, as the header has it.
    pub timestamp: u64,
}

impl From<&BlockHeader> for BlockRef {
    fn from(header: &BlockHeader) -> Self {
        Self {
            number: header.number,
            hash: B256::from(header.hash().0),
            parent_hash: B256::from(header.parent_hash.0),
            timestamp: header.timestamp,
        }
    }
}

impl BlockRef {
    /// Number and hash.
    #[must_use]
    pub const fn num_hash(&self) -> BlockNumHash {
        BlockNumHash { number: self.number, hash: self.hash }
    }
}

/// A change of fork choice.
///
/// After a reorg there is one event, for the new tip: whoever follows the chain compares the parent hash with the last
/// head seen and walks back where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadEvent {
    /// The new head.
    pub head: BlockRef,
    /// The new `safe` block.
    pub safe: BlockNumHash,
    /// The new `finalized` block.
    pub finalized: BlockNumHash,
}

/// The three blocks that the tags `latest`, `safe` and `finalized` stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// `latest`.
    pub head: BlockNumHash,
    /// `safe`.
    pub safe: BlockNumHash,
    /// `finalized`.
    pub finalized: BlockNumHash,
}

/// An execution client in this process: in-memory state, blocks on a clock, on demand or by command.
///
/// Clones are handles of the same chain; it stops when the last one is dropped. Start one chain per process: the
/// client keeps some threads until the process ends, also after [`shutdown`](Self::shutdown).
#[derive(Clone, Debug)]
pub struct EmbeddedChain {
    pub(crate) inner: Arc<Inner>,
    _stop_on_drop: Arc<DropGuard>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) context: RpcApiContext,
    pub(crate) workers: Workers,
    /// Held by whoever changes the chain: the client must execute one block at a time.
    pub(crate) producer: tokio::sync::Mutex<Producer>,
    pub(crate) archive: Mutex<BlobArchive>,
    pub(crate) receipts: Mutex<ReceiptCache>,
    heads: RwLock<Heads>,
    events: broadcast::Sender<HeadEvent>,
    /// Rung when a transaction may be pending.
    pub(crate) demand: Notify,
    paused: watch::Sender<bool>,
    pub(crate) cancel: CancellationToken,
    pub(crate) max_clock_lead: u64,
}

impl EmbeddedChain {
    /// Starts a chain on the current tokio runtime.
    ///
    /// # Errors
    /// If the genesis cannot be used or the client's threads cannot be started.
    pub async fn start(config: ChainConfig) -> Result<Self, EmbeddedChainError> {
        let cancel = CancellationToken::new();
        let context = node::assemble(&config.genesis, &cancel).await?;
        let genesis =
            BlockNumHash { number: 0, hash: B256::from(node::canonical_hash(&context.storage, 0)?.0) };
        let inner = Arc::new(Inner {
            workers: Workers::start(&tokio::runtime::Handle::current())?,
            producer: tokio::sync::Mutex::new(Producer::new(&config)),
            archive: Mutex::new(BlobArchive::new(config.blob_archive_capacity)),
            receipts: Mutex::default(),
            heads: RwLock::new(Heads { head: genesis, safe: genesis, finalized: genesis }),
            events: broadcast::channel(HEAD_EVENTS).0,
            demand: Notify::new(),
            paused: watch::channel(false).0,
            cancel: cancel.clone(),
            max_clock_lead: config.max_clock_lead,
            context,
        });
        // Only a synced client lets transactions into its pool.
        inner.context.blockchain.set_synced();
        if config.mining != Mining::Manual {
            tokio::spawn(producer::mine_automatically(Arc::clone(&inner), config.mining));
        }
        Ok(Self { inner, _stop_on_drop: Arc::new(cancel.drop_guard()) })
    }

    /// Mines `count` blocks now, each with the pending transactions, and returns the last one (the head where `count`
    /// is 0).
    ///
    /// # Errors
    /// If a block cannot be built or the chain is shut down; blocks before it stay.
    pub async fn mine(&self, count: u64) -> Result<BlockRef, EmbeddedChainError> {
        let producer = self.inner.producer.lock().await;
        for _ in 0..count {
            self.inner.produce(&producer).await?;
        }
        self.inner.head()
    }

    /// Stops automatic mining until [`resume_mining`](Self::resume_mining). A block in the making is finished.
    pub fn pause_mining(&self) {
        self.inner.paused.send_replace(true);
    }

    /// Starts automatic mining again, at once where transactions are pending.
    pub fn resume_mining(&self) {
        self.inner.paused.send_replace(false);
        self.inner.demand.notify_one();
    }

    /// Every change of fork choice from now on. A reader more than 1024 changes behind is told how many it missed.
    #[must_use]
    pub fn subscribe_heads(&self) -> broadcast::Receiver<HeadEvent> {
        self.inner.events.subscribe()
    }

    /// Head, safe and finalized block.
    #[must_use]
    pub fn heads(&self) -> Heads {
        *self.inner.heads.read()
    }

    /// The head block.
    ///
    /// # Errors
    /// If the store fails.
    pub fn head(&self) -> Result<BlockRef, EmbeddedChainError> {
        self.inner.head()
    }

    /// The blob of a versioned hash (EIP-4844), 131,072 bytes, if its transaction was included and the archive has not
    /// dropped it since. Blobs of blocks that a reorg removed stay readable.
    #[must_use]
    pub fn blob(&self, versioned_hash: B256) -> Option<Box<[u8; BYTES_PER_BLOB]>> {
        let (sidecar, index) = self.inner.archive.lock().locate(versioned_hash)?;
        // Copied by way of a heap slice: an array of this size does not belong on the stack.
        sidecar
            .blobs
            .get(index)
            .map(|blob| blob.as_slice().to_vec().into_boxed_slice())
            .and_then(|blob| blob.try_into().ok())
    }

    /// Stops mining and answering. Handles that remain get [`EmbeddedChainError::Stopped`].
    pub async fn shutdown(self) {
        self.inner.cancel.cancel();
        // Whoever holds the lock is finishing a block.
        drop(self.inner.producer.lock().await);
    }
}

/// Bytes in a blob (EIP-4844: 4096 field elements of 32 bytes).
pub const BYTES_PER_BLOB: usize = 131_072;

impl Inner {
    pub(crate) fn ensure_running(&self) -> Result<(), EmbeddedChainError> {
        if self.cancel.is_cancelled() { Err(EmbeddedChainError::Stopped) } else { Ok(()) }
    }

    pub(crate) fn heads(&self) -> Heads {
        *self.heads.read()
    }

    pub(crate) fn subscribe_heads(&self) -> broadcast::Receiver<HeadEvent> {
        self.events.subscribe()
    }

    pub(crate) fn header(&self, hash: B256) -> Result<BlockHeader, EmbeddedChainError> {
        self.context
            .storage
            .get_block_header_by_hash(ethrex_common::H256(hash.0))?
            .ok_or_else(|| EmbeddedChainError::Store(format!("no header of block {hash}")))
    }

    pub(crate) fn head(&self) -> Result<BlockRef, EmbeddedChainError> {
        Ok(BlockRef::from(&self.header(self.heads().head.hash)?))
    }

    /// Remembers a fork choice that the client has taken, and tells everyone.
    pub(crate) fn publish(&self, head: BlockRef, safe: BlockNumHash, finalized: BlockNumHash) {
        *self.heads.write() = Heads { head: head.num_hash(), safe, finalized };
        // Fails only when nobody listens.
        let _ = self.events.send(HeadEvent { head, safe, finalized });
    }

    pub(crate) fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Waits while mining is paused; false once the chain is shut down.
    pub(crate) async fn wait_until_unpaused(&self) -> bool {
        let mut paused = self.paused.subscribe();
        tokio::select! {
            () = self.cancel.cancelled() => false,
            unpaused = paused.wait_for(|paused| !paused) => unpaused.is_ok(),
        }
    }
}

/// Seconds since the Unix epoch by the clock.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
