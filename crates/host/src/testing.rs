//! A chain in memory that follows a script, for tests of cores and of what runs them.

use crate::{
    BlockRef, Call, CanonicalHashes, ChainReader, FeedBlock, FeedLog, Heads, HostClient, HostError,
    HostNotification, HostNotifier, IncludedBlob, JournalIdentity, ReadPlan, Receipt, StateRead,
    TransactionRequest,
};
use alloy_consensus::{
    EthereumTxEnvelope, Transaction as _, TxEip4844WithSidecar, transaction::SignerRecoverable,
};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};
use tokio::sync::watch;

/// The identity of a scripted chain's journal.
pub fn identity() -> JournalIdentity {
    JournalIdentity { chain_id: 8200, genesis_hash: B256::ZERO, contracts: Vec::new() }
}

/// Time of the scripted genesis block, unix seconds.
pub const GENESIS_TIME: u64 = 1_700_000_000;
/// Seconds between scripted blocks.
pub const BLOCK_TIME: u64 = 2;

/// What a scripted block holds.
#[derive(Debug, Clone, Default)]
pub struct BlockContent {
    /// Logs; indices and transaction hashes are filled in.
    pub logs: Vec<FeedLog>,
    /// Versioned hashes of included blobs.
    pub blobs: Vec<B256>,
}

impl BlockContent {
    /// A block with these logs.
    pub const fn logs(logs: Vec<FeedLog>) -> Self {
        Self { logs, blobs: Vec::new() }
    }
}

/// A log as a contract would emit it.
pub fn log(address: Address, topics: Vec<B256>, data: impl Into<Bytes>) -> FeedLog {
    FeedLog {
        address,
        topics,
        data: data.into(),
        transaction_hash: B256::ZERO,
        transaction_index: 0,
        log_index: 0,
    }
}

type CallHook = Box<dyn Fn(&Call, &FeedBlock) -> Result<Bytes, Bytes> + Send>;
type SendHook = Box<dyn FnMut(&Bytes) -> Result<(), HostError> + Send>;

struct Chain {
    blocks: BTreeMap<u64, FeedBlock>,
    /// Makes blocks of one height differ.
    salt: u64,
    safe_distance: u64,
    finalized_distance: u64,
    finalized: u64,
    blobs: HashMap<B256, Bytes>,
    nonces: HashMap<Address, u64>,
    balances: HashMap<Address, U256>,
    sent: Vec<Bytes>,
    /// Hash, sender and nonce.
    pool: Vec<(B256, Option<(Address, u64)>)>,
    receipts: HashMap<B256, BlockRef>,
    finished: Vec<BlockRef>,
    failures: Vec<HostError>,
    /// How many more answers to sent transactions get lost.
    lost_answers: u32,
}

struct Inner {
    chain_id: u64,
    chain: Mutex<Chain>,
    on_call: Mutex<CallHook>,
    on_send: Mutex<SendHook>,
    changed: watch::Sender<u64>,
}

/// A scripted chain. Clones are the same chain.
#[derive(Clone)]
pub struct ScriptedHost(Arc<Inner>);

impl fmt::Debug for ScriptedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedHost").field("head", &self.head()).finish_non_exhaustive()
    }
}

impl ScriptedHost {
    /// A chain with its genesis block; safe is 4 and finalized 8 blocks behind the head.
    pub fn new(chain_id: u64) -> Self {
        let chain = Chain {
            blocks: BTreeMap::new(),
            salt: 0,
            safe_distance: 4,
            finalized_distance: 8,
            finalized: 0,
            blobs: HashMap::new(),
            nonces: HashMap::new(),
            balances: HashMap::new(),
            sent: Vec::new(),
            pool: Vec::new(),
            receipts: HashMap::new(),
            finished: Vec::new(),
            failures: Vec::new(),
            lost_answers: 0,
        };
        let host = Self(Arc::new(Inner {
            chain_id,
            chain: Mutex::new(chain),
            on_call: Mutex::new(Box::new(|_, _| Ok(Bytes::new()))),
            on_send: Mutex::new(Box::new(|_| Ok(()))),
            changed: watch::channel(0).0,
        }));
        host.mine(BlockContent::default());
        host
    }

    /// How far safe and finalized are behind the head. Finalized never falls.
    pub fn set_finality(&self, safe: u64, finalized: u64) {
        let mut chain = self.0.chain.lock();
        chain.safe_distance = safe;
        chain.finalized_distance = finalized;
    }

    /// Answers read-only calls: `Ok` with return data or `Err` with revert data.
    pub fn on_call(&self, hook: impl Fn(&Call, &FeedBlock) -> Result<Bytes, Bytes> + Send + 'static) {
        *self.0.on_call.lock() = Box::new(hook);
    }

    /// Sees every sent transaction; an error refuses it.
    pub fn on_send(&self, hook: impl FnMut(&Bytes) -> Result<(), HostError> + Send + 'static) {
        *self.0.on_send.lock() = Box::new(hook);
    }

    /// Lets the notifier fail with this before it goes on.
    pub fn fail_next(&self, error: HostError) {
        self.0.chain.lock().failures.push(error);
        self.announce();
    }

    /// Empties the pool, as a restart of the node does.
    pub fn lose_pool(&self) {
        self.0.chain.lock().pool.clear();
    }

    /// Takes the next transactions but lets the answers get lost.
    pub fn lose_answers(&self, count: u32) {
        self.0.chain.lock().lost_answers = count;
    }

    /// Adds a block.
    pub fn mine(&self, content: BlockContent) -> BlockRef {
        let block = self.0.chain.lock().mine(content);
        self.announce();
        block
    }

    /// Adds empty blocks.
    pub fn mine_empty(&self, count: usize) {
        for _ in 0..count {
            self.mine(BlockContent::default());
        }
    }

    /// Takes the newest `depth` blocks off and adds others, in one step for those who watch.
    pub fn reorg(&self, depth: u64, contents: Vec<BlockContent>) {
        {
            let mut chain = self.0.chain.lock();
            for _ in 0..depth {
                if chain.blocks.len() > 1 {
                    chain.blocks.pop_last();
                }
            }
            let blocks = &chain.blocks;
            let canonical: HashMap<u64, B256> =
                blocks.iter().map(|(number, block)| (*number, block.hash)).collect();
            chain.receipts.retain(|_, block| canonical.get(&block.number) == Some(&block.hash));
            for content in contents {
                chain.mine(content);
            }
        }
        self.announce();
    }

    /// The newest block.
    pub fn head(&self) -> BlockRef {
        self.0.chain.lock().head()
    }

    /// The canonical chain, oldest first.
    pub fn blocks(&self) -> Vec<FeedBlock> {
        self.0.chain.lock().blocks.values().cloned().collect()
    }

    /// Transactions that were sent, in order.
    pub fn sent(&self) -> Vec<Bytes> {
        self.0.chain.lock().sent.clone()
    }

    /// Heights the feed writer reported as finished.
    pub fn finished(&self) -> Vec<BlockRef> {
        self.0.chain.lock().finished.clone()
    }

    /// Sets an account's balance, wei.
    pub fn set_balance(&self, account: Address, balance: U256) {
        self.0.chain.lock().balances.insert(account, balance);
    }

    /// Sets an account's nonce.
    pub fn set_nonce(&self, account: Address, nonce: u64) {
        self.0.chain.lock().nonces.insert(account, nonce);
    }

    /// Gives the host a blob.
    pub fn put_blob(&self, versioned_hash: B256, blob: Bytes) {
        self.0.chain.lock().blobs.insert(versioned_hash, blob);
    }

    /// Follows the chain from its genesis block, at most `batch` blocks a step.
    pub fn notifier(&self, plan: Option<Arc<dyn ReadPlan>>, batch: usize) -> Box<dyn HostNotifier> {
        let changed = self.0.changed.subscribe();
        Box::new(ScriptedNotifier { host: self.clone(), plan, batch: batch.max(1), changed, heads: None })
    }

    /// Answers questions about the chain.
    pub fn client(&self) -> Arc<dyn HostClient> {
        Arc::new(self.clone())
    }

    /// Tells the notifiers to look again, e.g. after heads moved.
    pub fn announce(&self) {
        self.0.changed.send_modify(|count| *count += 1);
    }

    fn answer(&self, call: &Call, block: &FeedBlock) -> Result<Bytes, Bytes> {
        (self.0.on_call.lock())(call, block)
    }

    /// The step from the journal's chain to ours, or `None` when there is nothing new.
    fn step(
        &self,
        chain: &dyn CanonicalHashes,
        plan: Option<&dyn ReadPlan>,
        batch: usize,
        last: Option<Heads>,
    ) -> Option<HostNotification> {
        let (heads, mut reverted, mut committed) = {
            let own = self.0.chain.lock();
            let mut reverted = Vec::new();
            let mut at = chain.tip();
            while let Some(block) = at {
                if own.blocks.get(&block.number).is_some_and(|own| own.hash == block.hash) {
                    break;
                }
                reverted.push(block);
                at = block
                    .number
                    .checked_sub(1)
                    .and_then(|number| chain.hash_at(number).map(|hash| BlockRef { number, hash }));
            }
            let from = at.map_or(0, |block| block.number + 1);
            let committed: Vec<FeedBlock> =
                own.blocks.range(from..).take(batch).map(|(_, b)| b.clone()).collect();
            (own.heads(), reverted, committed)
        };
        reverted.shrink_to_fit();
        if reverted.is_empty() && committed.is_empty() && last == Some(heads) {
            return None;
        }
        if let Some(plan) = plan {
            for block in &mut committed {
                let first = chain.tip().is_none() && block.number == 0;
                for call in plan.reads(block, first) {
                    let (success, output) = match self.answer(&call, block) {
                        Ok(output) => (true, output),
                        Err(output) => (false, output),
                    };
                    block.reads.push(StateRead { call, success, output });
                }
            }
        }
        Some(HostNotification { reverted, committed, heads })
    }
}

impl Chain {
    fn head(&self) -> BlockRef {
        self.blocks.last_key_value().map_or(BlockRef { number: 0, hash: B256::ZERO }, |(_, b)| b.block_ref())
    }

    fn heads(&self) -> Heads {
        let head = self.head();
        let at = |number: u64| self.blocks.get(&number).map(FeedBlock::block_ref);
        Heads {
            head,
            safe: at(head.number.saturating_sub(self.safe_distance)),
            finalized: at(self.finalized),
        }
    }

    fn mine(&mut self, content: BlockContent) -> BlockRef {
        let parent = self.blocks.last_key_value().map(|(_, block)| block.block_ref());
        let number = parent.map_or(0, |parent| parent.number + 1);
        let parent_hash = parent.map_or(B256::ZERO, |parent| parent.hash);
        self.salt += 1;
        let hash =
            keccak256([parent_hash.as_slice(), &number.to_be_bytes(), &self.salt.to_be_bytes()].concat());
        let logs = content.logs.into_iter().enumerate().map(|(index, log)| FeedLog {
            transaction_hash: keccak256([hash.as_slice(), &(index as u64).to_be_bytes()].concat()),
            transaction_index: index as u64,
            log_index: index as u64,
            ..log
        });
        let blobs = content.blobs.into_iter().enumerate().map(|(index, versioned_hash)| IncludedBlob {
            transaction_hash: keccak256([hash.as_slice(), b"blobs"].concat()),
            index: index as u64,
            versioned_hash,
        });
        let block = FeedBlock {
            number,
            hash,
            parent_hash,
            timestamp: GENESIS_TIME + number * BLOCK_TIME,
            logs: logs.collect(),
            blobs: blobs.collect(),
            reads: Vec::new(),
        };
        let block_ref = block.block_ref();
        self.blocks.insert(number, block);
        for (transaction, _) in std::mem::take(&mut self.pool) {
            self.receipts.insert(transaction, block_ref);
        }
        self.finalized = self.finalized.max(number.saturating_sub(self.finalized_distance));
        block_ref
    }
}

struct ScriptedNotifier {
    host: ScriptedHost,
    plan: Option<Arc<dyn ReadPlan>>,
    batch: usize,
    changed: watch::Receiver<u64>,
    heads: Option<Heads>,
}

#[async_trait]
impl HostNotifier for ScriptedNotifier {
    async fn next(&mut self, chain: &dyn CanonicalHashes) -> Result<HostNotification, HostError> {
        loop {
            self.changed.mark_unchanged();
            if let Some(error) = self.host.0.chain.lock().failures.pop() {
                return Err(error);
            }
            if let Some(step) = self.host.step(chain, self.plan.as_deref(), self.batch, self.heads) {
                self.heads = Some(step.heads);
                return Ok(step);
            }
            self.changed.changed().await.map_err(|_| HostError::Closed)?;
        }
    }

    fn finished(&mut self, block: BlockRef) {
        self.host.0.chain.lock().finished.push(block);
    }
}

#[async_trait]
impl HostClient for ScriptedHost {
    fn chain_id(&self) -> u64 {
        self.0.chain_id
    }

    async fn heads(&self) -> Result<Heads, HostError> {
        Ok(self.0.chain.lock().heads())
    }

    async fn call(&self, call: Call, at: Option<B256>) -> Result<Bytes, HostError> {
        let block = {
            let chain = self.0.chain.lock();
            let at = at.unwrap_or_else(|| chain.head().hash);
            chain
                .blocks
                .values()
                .find(|block| block.hash == at)
                .cloned()
                .ok_or(HostError::UnknownBlock(at))?
        };
        self.answer(&call, &block).map_err(HostError::Reverted)
    }

    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, HostError> {
        let chain = self.0.chain.lock();
        let mut nonce = chain.nonces.get(&account).copied().unwrap_or_default();
        while pending && chain.pool.iter().any(|(_, sent)| *sent == Some((account, nonce))) {
            nonce += 1;
        }
        Ok(nonce)
    }

    async fn balance(&self, account: Address) -> Result<U256, HostError> {
        Ok(self.0.chain.lock().balances.get(&account).copied().unwrap_or_default())
    }

    async fn base_fees(&self) -> Result<(u128, u128), HostError> {
        Ok((7, 1))
    }

    async fn estimate_gas(&self, request: TransactionRequest) -> Result<u64, HostError> {
        // A call that reverts has no estimate.
        let call = Call { to: request.to, input: request.input };
        self.call(call, None).await.map(|_| 100_000)
    }

    async fn send_raw_transaction(&self, transaction: Bytes) -> Result<B256, HostError> {
        (self.0.on_send.lock())(&transaction)?;
        // A blob transaction's hash leaves its sidecar out.
        let decoded: Result<EthereumTxEnvelope<TxEip4844WithSidecar>, _> =
            Decodable2718::decode_2718(&mut transaction.as_ref());
        let (hash, sent) = decoded.map_or_else(
            |_| (keccak256(&transaction), None),
            |decoded| {
                let sender = decoded.recover_signer().ok();
                (*decoded.hash(), sender.map(|sender| (sender, decoded.nonce())))
            },
        );
        let mut chain = self.0.chain.lock();
        if chain.receipts.contains_key(&hash) {
            let method = "eth_sendRawTransaction".into();
            return Err(HostError::Rejected { method, code: -32000, message: "nonce too low".into() });
        }
        // A transaction the pool knows is no second one.
        if !chain.pool.iter().any(|(known, _)| *known == hash) {
            chain.sent.push(transaction);
            chain.pool.push((hash, sent));
        }
        if let Some(left) = chain.lost_answers.checked_sub(1) {
            chain.lost_answers = left;
            return Err(HostError::Unreachable("the answer got lost".into()));
        }
        Ok(hash)
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, HostError> {
        Ok(self.0.chain.lock().receipts.get(&transaction).map(|block| Receipt {
            block: *block,
            success: true,
            gas_used: 21_000,
            effective_gas_price: 7,
        }))
    }

    async fn blob(&self, versioned_hash: B256) -> Result<Option<Bytes>, HostError> {
        Ok(self.0.chain.lock().blobs.get(&versioned_hash).cloned())
    }
}

#[async_trait]
impl ChainReader for ScriptedHost {
    async fn hash_at(&self, number: u64) -> Result<Option<B256>, HostError> {
        Ok(self.0.chain.lock().blocks.get(&number).map(|block| block.hash))
    }

    async fn block_at(&self, number: u64, _watched: &[Address]) -> Result<Option<FeedBlock>, HostError> {
        Ok(self.0.chain.lock().blocks.get(&number).cloned())
    }
}
