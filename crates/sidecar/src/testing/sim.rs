//! A chain that executes the model registry, a node that takes frames, and a backend that answers by rule: everything
//! around the worker's effects, so that tests can stop them at any moment.

use super::{Registry, Tx};
use alloy_consensus::{
    EthereumTxEnvelope, Transaction, TxEip4844WithSidecar, transaction::SignerRecoverable,
};
use alloy_eips::{eip2718::Decodable2718, eip7594::BlobTransactionSidecarVariant};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::SolCall;
use async_trait::async_trait;
use jsonrpsee::{
    RpcModule,
    server::{ServerBuilder, ServerHandle},
    types::ErrorObjectOwned,
};
use lcai_host::{
    BlockRef, Call, CanonicalHashes, FeedBlock, FeedLog, Heads, HostClient, HostError, HostNotification,
    HostNotifier, IncludedBlob, ReadPlan, Receipt, StateRead, TransactionRequest,
};
use lcai_inference::{
    Backend, Delta, FinishReason, GenerateRequest, Generation, GenerationStats, InferenceError,
    ModelDescription,
};
use lcai_primitives::{
    contracts::JobRegistry,
    frames::{Frame, FrameType},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

/// A transaction in the pool.
#[derive(Clone)]
struct Pooled {
    hash: B256,
    from: Address,
    nonce: u64,
    what: Option<Tx>,
    blobs: Vec<B256>,
}

/// State after a block.
#[derive(Clone, Default)]
struct World {
    registry: Registry,
    nonces: HashMap<Address, u64>,
}

struct Chain {
    blocks: Vec<FeedBlock>,
    worlds: Vec<World>,
    pool: Vec<Pooled>,
    receipts: HashMap<B256, (BlockRef, bool)>,
    blobs: HashMap<B256, Bytes>,
    salt: u64,
    start: u64,
    /// Every transaction the worker sent.
    sent: Vec<Tx>,
    /// Whether the registry has `completeJobWithBlob`.
    atomic: bool,
    /// What each block included from the pool.
    included: Vec<Vec<Pooled>>,
}

/// The chain. Clones are the same chain.
#[derive(Clone)]
pub(crate) struct Sim {
    chain: Arc<Mutex<Chain>>,
    changed: watch::Sender<u64>,
    /// Transactions and frame calls so far: the moments at which a test may stop the worker.
    pub(crate) events: watch::Sender<u64>,
}

impl Sim {
    pub(crate) fn new(enc_worker_key: Bytes) -> Self {
        let chain = Chain {
            blocks: Vec::new(),
            worlds: Vec::new(),
            pool: Vec::new(),
            receipts: HashMap::new(),
            blobs: HashMap::new(),
            salt: 0,
            start: crate::node::unix_now(),
            sent: Vec::new(),
            atomic: true,
            included: Vec::new(),
        };
        let sim = Self {
            chain: Arc::new(Mutex::new(chain)),
            changed: watch::channel(0).0,
            events: watch::channel(0).0,
        };
        sim.mine(&[]);
        sim.set_enc_worker_key(enc_worker_key);
        sim
    }

    /// The wrapped key of sessions created from now on.
    pub(crate) fn set_enc_worker_key(&self, key: Bytes) {
        self.chain.lock().worlds.last_mut().unwrap().registry.enc_worker_key = Some(key);
    }

    pub(crate) fn put_blob(&self, hash: B256, bytes: Bytes) {
        self.chain.lock().blobs.insert(hash, bytes);
    }

    pub(crate) fn blob_bytes(&self, hash: B256) -> Option<Bytes> {
        self.chain.lock().blobs.get(&hash).cloned()
    }

    /// Mines the users' transactions and then what is in the pool.
    pub(crate) fn mine(&self, users: &[Tx]) {
        self.chain.lock().mine(users);
        self.announce();
    }

    /// How many acknowledgements and completions the worker sent.
    pub(crate) fn sent(&self) -> (usize, usize) {
        let chain = self.chain.lock();
        let count = |is: fn(&Tx) -> bool| chain.sent.iter().filter(|tx| is(tx)).count();
        let completes = |tx: &Tx| matches!(tx, Tx::Complete { .. } | Tx::CompleteSigned { .. });
        (count(|tx| matches!(tx, Tx::Acknowledge { .. })), count(completes))
    }

    /// A registry as the live networks have it.
    pub(crate) fn without_atomic_completion(&self) {
        self.chain.lock().atomic = false;
    }

    /// Takes blocks off and mines others. As geth and Reth do, the pool gets back what the blocks had included.
    pub(crate) fn reorg(&self, depth: usize, blocks: &[Vec<Tx>]) {
        {
            let mut chain = self.chain.lock();
            let keep = chain.blocks.len() - depth;
            chain.blocks.truncate(keep);
            chain.worlds.truncate(keep);
            let dropped: Vec<Pooled> = chain.included.drain(keep..).flatten().collect();
            chain.pool.extend(dropped);
            let canonical: HashSet<B256> = chain.blocks.iter().map(|b| b.hash).collect();
            chain.receipts.retain(|_, (block, _)| canonical.contains(&block.hash));
            for txs in blocks {
                chain.mine(txs);
            }
        }
        self.announce();
    }

    pub(crate) fn registry(&self) -> Registry {
        self.chain.lock().worlds.last().unwrap().registry.clone()
    }

    /// Blocks from the head down to the one that submitted a job, that one included.
    pub(crate) fn depth_of(&self, job: u64) -> usize {
        let chain = self.chain.lock();
        let submitted = chain.worlds.last().unwrap().registry.jobs[&job].submitBlockNumber;
        chain.blocks.len() - usize::try_from(submitted).unwrap()
    }

    fn announce(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn event(&self) {
        self.events.send_modify(|n| *n += 1);
    }

    pub(crate) fn notifier(&self, plan: Arc<dyn ReadPlan>) -> Box<dyn HostNotifier> {
        Box::new(SimNotifier { sim: self.clone(), plan, changed: self.changed.subscribe(), heads: None })
    }

    fn step(
        &self,
        chain: &dyn CanonicalHashes,
        plan: &dyn ReadPlan,
        last: Option<Heads>,
    ) -> Option<HostNotification> {
        let own = self.chain.lock();
        let mut reverted = Vec::new();
        let mut at = chain.tip();
        while let Some(block) = at {
            if own.blocks.get(block.number as usize).is_some_and(|b| b.hash == block.hash) {
                break;
            }
            reverted.push(block);
            at = block
                .number
                .checked_sub(1)
                .and_then(|n| chain.hash_at(n).map(|hash| BlockRef { number: n, hash }));
        }
        let from = at.map_or(0, |block| block.number as usize + 1);
        let mut committed = Vec::new();
        for (block, world) in own.blocks.iter().zip(&own.worlds).skip(from) {
            let mut block = block.clone();
            for call in plan.reads(&block, block.number == 0) {
                let output = world.registry.call(&call);
                block.reads.push(StateRead {
                    call,
                    success: output.is_some(),
                    output: output.unwrap_or_default(),
                });
            }
            committed.push(block);
        }
        let heads = own.heads();
        (!reverted.is_empty() || !committed.is_empty() || last != Some(heads)).then_some(HostNotification {
            reverted,
            committed,
            heads,
        })
    }
}

impl Chain {
    /// Without finality, so that a test can reorganise as deep as it likes.
    fn heads(&self) -> Heads {
        let head = self.blocks.last().map_or(BlockRef { number: 0, hash: B256::ZERO }, FeedBlock::block_ref);
        Heads { head, safe: None, finalized: None }
    }

    fn mine(&mut self, users: &[Tx]) {
        self.salt += 1;
        let number = self.blocks.len() as u64;
        let timestamp = self.start + number;
        let parent_hash = self.blocks.last().map_or(B256::ZERO, |b| b.hash);
        let hash = keccak256([parent_hash.as_slice(), &self.salt.to_be_bytes()].concat());
        let mut world = self.worlds.last().cloned().unwrap_or_default();
        let mut logs: Vec<FeedLog> = Vec::new();
        let mut blobs = Vec::new();
        let mut run = |world: &mut World, tx: &Tx, transaction_hash: B256| {
            let Some((topics, data)) = world.registry.run(tx, number, timestamp) else { return false };
            let address = super::deployment().job_registry;
            let log_index = logs.len() as u64;
            logs.push(FeedLog {
                address,
                topics,
                data,
                transaction_hash,
                transaction_index: log_index,
                log_index,
            });
            true
        };
        for tx in users {
            run(&mut world, tx, keccak256(format!("{tx:?}")));
        }
        let mut pool = std::mem::take(&mut self.pool);
        pool.sort_by_key(|tx| (tx.from, tx.nonce));
        let (mut included, mut taken) = (Vec::new(), Vec::new());
        for tx in pool {
            let next = world.nonces.entry(tx.from).or_default();
            if tx.nonce != *next {
                self.pool.push(tx);
                continue;
            }
            *next += 1;
            let success = tx.what.as_ref().is_none_or(|what| run(&mut world, what, tx.hash));
            blobs.extend(tx.blobs.iter().enumerate().map(|(index, versioned_hash)| IncludedBlob {
                transaction_hash: tx.hash,
                index: index as u64,
                versioned_hash: *versioned_hash,
            }));
            included.push((tx.hash, success));
            taken.push(tx);
        }
        let block = FeedBlock { number, hash, parent_hash, timestamp, logs, blobs, reads: Vec::new() };
        for (transaction, success) in included {
            self.receipts.insert(transaction, (block.block_ref(), success));
        }
        self.blocks.push(block);
        self.worlds.push(world);
        self.included.push(taken);
    }
}

/// What a call of the registry does.
fn decode_call(input: &[u8], blobs: &[B256]) -> Option<Tx> {
    let id = |n: U256| u64::try_from(n).ok();
    if let Ok(call) = JobRegistry::acknowledgeJobCall::abi_decode(input) {
        return Some(Tx::Acknowledge { job: id(call.jobId)? });
    }
    if let Ok(call) = JobRegistry::completeJobCall::abi_decode(input) {
        let (blob, hash) = (call.responseBlobHash, call.responseCiphertextHash);
        return Some(Tx::Complete { job: id(call.jobId)?, blob, hash });
    }
    if let Ok(call) = JobRegistry::completeJobWithBlobCall::abi_decode(input) {
        let blob = *blobs.get(usize::try_from(call.blobIndex).ok()?)?;
        let (hash, signature) = (call.ciphertextHash, call.workerSig);
        return Some(Tx::CompleteSigned { job: id(call.jobId)?, blob, hash, signature });
    }
    let call = JobRegistry::releaseJobsCall::abi_decode(input).ok()?;
    Some(Tx::Release { job: id(*call.jobIds.first()?)? })
}

#[async_trait]
impl HostClient for Sim {
    fn chain_id(&self) -> u64 {
        super::deployment().chain_id
    }

    async fn heads(&self) -> Result<Heads, HostError> {
        Ok(self.chain.lock().heads())
    }

    async fn call(&self, call: Call, _: Option<B256>) -> Result<Bytes, HostError> {
        if JobRegistry::completeJobWithBlobCall::abi_decode(&call.input).is_ok() {
            let data =
                if self.chain.lock().atomic { Bytes::from_static(&[1, 2, 3, 4]) } else { Bytes::new() };
            return Err(HostError::Reverted(data));
        }
        self.registry().call(&call).ok_or_else(|| HostError::Reverted(Bytes::new()))
    }

    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, HostError> {
        let chain = self.chain.lock();
        let mined = chain.worlds.last().unwrap().nonces.get(&account).copied().unwrap_or_default();
        let waiting = chain.pool.iter().filter(|tx| tx.from == account).count() as u64;
        Ok(if pending { mined + waiting } else { mined })
    }

    async fn balance(&self, _: Address) -> Result<U256, HostError> {
        Ok(U256::from(1) << 80)
    }

    async fn base_fees(&self) -> Result<(u128, u128), HostError> {
        Ok((7, 1))
    }

    async fn estimate_gas(&self, request: TransactionRequest) -> Result<u64, HostError> {
        let mut registry = self.registry();
        match decode_call(&request.input, &request.blob_versioned_hashes) {
            Some(tx) if registry.run(&tx, 0, 0).is_none() => Err(HostError::Reverted(Bytes::new())),
            _ => Ok(100_000),
        }
    }

    async fn send_raw_transaction(&self, transaction: Bytes) -> Result<B256, HostError> {
        type Envelope = EthereumTxEnvelope<TxEip4844WithSidecar<BlobTransactionSidecarVariant>>;
        let tx = Envelope::decode_2718(&mut transaction.as_ref()).unwrap();
        let hash = *tx.hash();
        {
            let mut chain = self.chain.lock();
            if let Envelope::Eip4844(signed) = &tx {
                let Some(sidecar) = signed.tx().sidecar.as_eip7594() else {
                    let (method, code) = ("eth_sendRawTransaction".to_owned(), -32000);
                    return Err(HostError::Rejected { method, code, message: "cell proofs expected".into() });
                };
                let hashes = tx.blob_versioned_hashes().unwrap_or_default();
                for (hash, blob) in hashes.iter().zip(&sidecar.blobs) {
                    chain.blobs.insert(*hash, Bytes::copy_from_slice(blob.as_slice()));
                }
            }
            let blobs = tx.blob_versioned_hashes().unwrap_or_default().to_vec();
            let (from, nonce, what) =
                (tx.recover_signer().unwrap(), tx.nonce(), decode_call(tx.input(), &blobs));
            chain.sent.extend(what.clone());
            chain.pool.retain(|other| (other.from, other.nonce) != (from, nonce));
            chain.pool.push(Pooled { hash, from, nonce, what, blobs });
        }
        self.event();
        Ok(hash)
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, HostError> {
        Ok(self.chain.lock().receipts.get(&transaction).map(|(block, success)| Receipt {
            block: *block,
            success: *success,
            gas_used: 21_000,
            effective_gas_price: 7,
        }))
    }

    async fn blob(&self, versioned_hash: B256) -> Result<Option<Bytes>, HostError> {
        Ok(self.blob_bytes(versioned_hash))
    }
}

struct SimNotifier {
    sim: Sim,
    plan: Arc<dyn ReadPlan>,
    changed: watch::Receiver<u64>,
    heads: Option<Heads>,
}

#[async_trait]
impl HostNotifier for SimNotifier {
    async fn next(&mut self, chain: &dyn CanonicalHashes) -> Result<HostNotification, HostError> {
        loop {
            self.changed.mark_unchanged();
            if let Some(step) = self.sim.step(chain, self.plan.as_ref(), self.heads) {
                self.heads = Some(step.heads);
                return Ok(step);
            }
            self.changed.changed().await.map_err(|_| HostError::Closed)?;
        }
    }

    fn finished(&mut self, _: BlockRef) {}
}

/// The frames a node took: per (job, session), by place.
#[derive(Clone, Default)]
pub(crate) struct FrameLog(Arc<Mutex<Places>>);

type Places = BTreeMap<(u64, u64), Vec<Frame>>;

impl FrameLog {
    pub(crate) fn of(&self, job: u64, session: u64) -> Vec<Frame> {
        self.0.lock().get(&(job, session)).cloned().unwrap_or_default()
    }

    pub(crate) fn terminals(&self) -> Vec<Frame> {
        let all = self.0.lock();
        all.values().flatten().filter(|f| f.frame_type == FrameType::Complete).cloned().collect()
    }

    /// Serves the methods a worker's effects call. A frame of a job that is not acknowledged is not taken yet; one at a
    /// place that is taken is a duplicate.
    pub(crate) async fn serve(&self, sim: Sim, account: Address) -> (String, ServerHandle) {
        let server = ServerBuilder::default().build("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", server.local_addr().unwrap());
        let mut module = RpcModule::new((self.clone(), sim));
        module
            .register_method(
                "lcai_challenge",
                |_, _, _| serde_json::json!({"message": "log in", "expiresAt": 0}),
            )
            .unwrap();
        module
            .register_method("lcai_login", move |_, _, _| {
                serde_json::json!({"token": "t", "account": account, "expiresAt": crate::node::unix_now() + 3600})
            })
            .unwrap();
        module
            .register_method("lcai_submitFrames", |params, context, _| {
                let (_, frames): (String, Vec<Frame>) = params.parse()?;
                let (log, sim) = context;
                sim.event();
                let registry = sim.registry();
                for frame in &frames {
                    frame.validate().unwrap();
                    if registry.jobs.get(&frame.job_id.0).is_none_or(|job| job.state == 0) {
                        return Err(ErrorObjectOwned::owned(-39013, "not acknowledged", None::<()>));
                    }
                }
                let mut kept = log.0.lock();
                for frame in frames {
                    let place = kept.entry((frame.job_id.0, frame.session_id.0)).or_default();
                    let same = |f: &Frame| f.frame_type == frame.frame_type && f.seq == frame.seq;
                    if !place.iter().any(same) || frame.frame_type == FrameType::Complete {
                        place.push(frame);
                    }
                }
                Ok(serde_json::json!({"cursors": []}))
            })
            .unwrap();
        (url, server.start(module))
    }
}

/// Answers `answer to <prompt>`, a word at a time.
#[derive(Default)]
pub(crate) struct TestBackend {
    pub(crate) runs: AtomicUsize,
    /// The first this many runs fail as if the server were away.
    pub(crate) failures: AtomicUsize,
    pub(crate) asked: Mutex<Vec<usize>>,
}

#[async_trait]
impl Backend for TestBackend {
    async fn models(&self) -> Result<Vec<ModelDescription>, InferenceError> {
        Ok(vec![ModelDescription { name: "model".into(), digest: String::new(), context_length: None }])
    }

    async fn generate(
        &self,
        request: GenerateRequest,
        deltas: mpsc::Sender<Delta>,
    ) -> Result<Generation, InferenceError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let failing = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if failing.is_ok() {
            return Err(InferenceError::Unreachable { url: "nowhere".into() });
        }
        let messages = request.input.into_messages();
        self.asked.lock().push(messages.len());
        let prompt = messages.last().unwrap().content.clone();
        if prompt == "say nothing" {
            return Err(InferenceError::Empty);
        }
        let text = Zeroizing::new(format!("answer to {prompt}"));
        for word in text.split_inclusive(' ') {
            let _ = deltas.send(Delta { text: Zeroizing::new(word.to_owned()), tokens: 8 }).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stats = GenerationStats { eval_tokens: 3, ..GenerationStats::default() };
        Ok(Generation { text, stats, finish_reason: FinishReason::Stop })
    }
}
