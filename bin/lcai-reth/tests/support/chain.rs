//! A chain of really executed blocks inside Reth's provider, which tests extend, revert and reorganise at will.

use alloy_consensus::{
    BlockBody, EMPTY_ROOT_HASH, Header, SignableTransaction, TxEip1559, constants::EMPTY_WITHDRAWALS,
};
use alloy_eips::{eip4895::Withdrawals, eip7685::EMPTY_REQUESTS_HASH};
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use lcai_genesis::{
    LCAI, addresses,
    dev::{DEV_MODEL, Role, dev_account},
};
use lcai_primitives::{
    contracts::{JobRegistry, WorkerRegistry},
    eip712::{self, SessionAuthorization},
    ids::ModelId,
};
use reth_chain_state::{ExecutedBlock, NewCanonicalChain};
use reth_chainspec::{ChainSpec, EthChainSpec};
use reth_ethereum_primitives::{Block, TransactionSigned};
use reth_evm::{ConfigureEvm, execute::Executor};
use reth_evm_ethereum::EthEvmConfig;
use reth_exex::ExExNotification;
use reth_exex_test_utils::Adapter;
use reth_node_api::FullNodeTypes;
use reth_primitives_traits::{RecoveredBlock, SealedHeader};
use reth_provider::{HeaderProvider, StateProviderFactory};
use reth_revm::database::StateProviderDatabase;
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// The provider of Reth's ExEx test context.
pub type TestProvider = <Adapter as FullNodeTypes>::Provider;

/// The point of the wire format's wrap vector: registerWorker takes only points of the curve.
const P256_POINT: &str = "04217251cdb2ede092d6329b7853a75e66822b9ca2f7bf36a48e93b1a3d940d7be884819c235b55971cc844e2ebb26edb4ccb7bf2818ee2c741516ff5cdf3058fc";

/// One transaction to be.
pub struct Act {
    from: PrivateKeySigner,
    to: Address,
    value: U256,
    input: Vec<u8>,
}

impl Act {
    fn new<C: SolCall>(from: &PrivateKeySigner, to: Address, value: U256, call: &C) -> Self {
        Self { from: from.clone(), to, value, input: call.abi_encode() }
    }
}

/// The canonical chain above genesis, as the provider holds it.
pub struct TestChain {
    provider: TestProvider,
    spec: Arc<ChainSpec>,
    evm: EthEvmConfig,
    blocks: Vec<ExecutedBlock>,
}

impl TestChain {
    pub fn new(provider: TestProvider, spec: Arc<ChainSpec>) -> Self {
        Self { provider, evm: EthEvmConfig::new(spec.clone()), spec, blocks: Vec::new() }
    }

    pub fn provider(&self) -> &TestProvider {
        &self.provider
    }

    fn tip(&self) -> SealedHeader<Header> {
        match self.blocks.last() {
            Some(block) => block.recovered_block().clone_sealed_header(),
            None => self.provider.sealed_header_by_hash(self.spec.genesis_hash()).unwrap().unwrap(),
        }
    }

    pub fn head(&self) -> alloy_eips::BlockNumHash {
        self.tip().num_hash()
    }

    pub fn genesis_hash(&self) -> B256 {
        self.spec.genesis_hash()
    }

    pub fn height(&self) -> u64 {
        self.tip().number
    }

    /// Executes one more block; `fork` tells blocks of two forks apart. Every transaction must succeed.
    pub fn mine(&mut self, fork: u8, acts: &[Act]) {
        let parent = self.tip();
        let block = self.block(&parent, fork, acts);
        let state = self.provider.state_by_block_hash(parent.hash()).unwrap();
        let output = self.evm.executor(StateProviderDatabase::new(state)).execute(&block).unwrap();
        for (index, receipt) in output.result.receipts.iter().enumerate() {
            assert!(receipt.success, "transaction {index} of block {} failed", block.number);
        }
        let executed = ExecutedBlock::new(Arc::new(block), Arc::new(output), Default::default());
        self.set(NewCanonicalChain::Commit { new: vec![executed.clone()] });
        self.blocks.push(executed);
        self.point();
    }

    /// Takes the newest blocks off the canonical chain and gives them, lowest first.
    pub fn unwind(&mut self, depth: usize) -> Vec<ExecutedBlock> {
        let old = self.blocks.split_off(self.blocks.len() - depth);
        self.set(NewCanonicalChain::Reorg { new: Vec::new(), old: old.clone() });
        self.point();
        old
    }

    /// The newest blocks, lowest first.
    pub fn newest(&self, depth: usize) -> Vec<ExecutedBlock> {
        self.blocks[self.blocks.len() - depth..].to_vec()
    }

    /// Finalizes the block at a height above genesis.
    pub fn finalize(&self, number: u64) {
        let block = &self.blocks[usize::try_from(number).unwrap() - 1];
        let header = block.recovered_block().clone_sealed_header();
        self.provider.canonical_in_memory_state().set_finalized(header);
    }

    fn set(&self, chain: NewCanonicalChain) {
        self.provider.canonical_in_memory_state().update_chain(chain);
    }

    fn point(&self) {
        self.provider.canonical_in_memory_state().set_canonical_head(self.tip());
    }

    fn block(&self, parent: &SealedHeader<Header>, fork: u8, acts: &[Act]) -> RecoveredBlock<Block> {
        let mut nonces = std::collections::HashMap::new();
        let state = self.provider.state_by_block_hash(parent.hash()).unwrap();
        // The first block brings the chain to now: estimates are made for the block that would come now.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let timestamp = if parent.number == 0 { now } else { parent.timestamp + 1 };
        let base_fee = self.spec.next_block_base_fee(parent.header(), timestamp).unwrap();
        let transactions: Vec<TransactionSigned> = acts
            .iter()
            .map(|act| {
                let nonce = nonces
                    .entry(act.from.address())
                    .or_insert_with(|| state.account_nonce(&act.from.address()).unwrap().unwrap_or_default());
                let transaction = TxEip1559 {
                    chain_id: self.spec.chain_id(),
                    nonce: *nonce,
                    gas_limit: 2_000_000,
                    max_fee_per_gas: u128::from(base_fee) * 2,
                    max_priority_fee_per_gas: 0,
                    to: TxKind::Call(act.to),
                    value: act.value,
                    access_list: Default::default(),
                    input: Bytes::from(act.input.clone()),
                };
                *nonce += 1;
                let signature = act.from.sign_hash_sync(&transaction.signature_hash()).unwrap();
                transaction.into_signed(signature).into()
            })
            .collect();
        let header = Header {
            parent_hash: parent.hash(),
            number: parent.number + 1,
            timestamp,
            gas_limit: parent.gas_limit,
            base_fee_per_gas: Some(base_fee),
            extra_data: Bytes::from(vec![fork]),
            withdrawals_root: Some(EMPTY_WITHDRAWALS),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: Some(EMPTY_REQUESTS_HASH),
            transactions_root: if transactions.is_empty() { EMPTY_ROOT_HASH } else { B256::repeat_byte(1) },
            ..Header::default()
        };
        let body = BlockBody { transactions, ommers: Vec::new(), withdrawals: Some(Withdrawals::default()) };
        let block = Block { header, body };
        RecoveredBlock::try_recover(block).unwrap()
    }
}

/// What the node tells its ExEx.
pub fn committed(new: Vec<ExecutedBlock>) -> ExExNotification {
    NewCanonicalChain::Commit { new }.to_chain_notification().into()
}

/// What the node tells its ExEx.
pub fn reorged(old: Vec<ExecutedBlock>, new: Vec<ExecutedBlock>) -> ExExNotification {
    NewCanonicalChain::Reorg { new, old }.to_chain_notification().into()
}

/// The accounts of a session and what they do.
pub struct Story {
    user: PrivateKeySigner,
    worker: PrivateKeySigner,
    dispatcher: PrivateKeySigner,
    chain_id: u64,
}

impl Story {
    pub fn new(chain_id: u64) -> Self {
        Self {
            user: dev_account(0).unwrap(),
            worker: Role::Worker(0).signer().unwrap(),
            dispatcher: Role::Dispatcher.signer().unwrap(),
            chain_id,
        }
    }

    fn model() -> ModelId {
        ModelId::from_name(DEV_MODEL)
    }

    /// Registers the worker with the model.
    pub fn register(&self) -> Vec<Act> {
        let key = Bytes::from(alloy_primitives::hex::decode(P256_POINT).unwrap());
        let register = WorkerRegistry::registerWorkerCall { encryptionPubKey: key };
        let list = WorkerRegistry::addSupportedModelCall { modelId: Self::model().0 };
        vec![
            Act::new(&self.worker, addresses::WORKER_REGISTRY, U256::from(5000) * LCAI, &register),
            Act::new(&self.worker, addresses::WORKER_REGISTRY, U256::ZERO, &list),
        ]
    }

    /// Opens the user's next session.
    pub fn open(&self, nonce: u64) -> Act {
        let (encrypted, escrow) = (Bytes::from_static(&[5; 125]), Bytes::from_static(&[6; 125]));
        let expiry = u64::MAX >> 1;
        let (user, worker) = (self.user.address(), self.worker.address());
        let message = SessionAuthorization::for_keys(
            user,
            Self::model(),
            worker,
            &encrypted,
            &escrow,
            U256::from(nonce),
            expiry,
        );
        let hash = message.signing_hash(&eip712::domain(self.chain_id, addresses::JOB_REGISTRY));
        let call = JobRegistry::createSessionCall {
            modelId: Self::model().0,
            worker,
            encWorkerKey: encrypted,
            encDisputerKey: escrow,
            dispatcherSignature: self.dispatcher.sign_hash_sync(&hash).unwrap().as_bytes().to_vec().into(),
            expiry: U256::from(expiry),
        };
        Act::new(&self.user, addresses::JOB_REGISTRY, U256::ZERO, &call)
    }

    /// Submits a job with a prompt of that name.
    pub fn submit(&self, session: u64, prompt: u8) -> Act {
        let call = JobRegistry::submitJobCall {
            sessionId: U256::from(session),
            blobHash: B256::repeat_byte(prompt),
        };
        Act::new(&self.user, addresses::JOB_REGISTRY, U256::from(20_000_000_000_000_000u64), &call)
    }

    pub fn acknowledge(&self, job: u64) -> Act {
        let call = JobRegistry::acknowledgeJobCall { jobId: U256::from(job) };
        Act::new(&self.worker, addresses::JOB_REGISTRY, U256::ZERO, &call)
    }

    pub fn complete(&self, job: u64, answer: u8) -> Act {
        let call = JobRegistry::completeJobCall {
            jobId: U256::from(job),
            responseBlobHash: B256::repeat_byte(answer),
            responseCiphertextHash: keccak256([answer]),
        };
        Act::new(&self.worker, addresses::JOB_REGISTRY, U256::ZERO, &call)
    }
}
