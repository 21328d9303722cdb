//! The life of jobs against the committed bytecode in revm, through the bindings made from the committed ABI: signed
//! session, escrow, answer, release, timeout, dispute, response mismatch, sortition. Every wei is accounted for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use alloy_eips::{eip2935::HISTORY_STORAGE_ADDRESS, eip4788::SYSTEM_ADDRESS};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolError, SolValue};
use lcai_genesis::{BuiltGenesis, GenesisSpec, LCAI, ModelSpec, ProtocolParams, addresses, build};
use lcai_primitives::{
    contracts::{
        AIConfig, Job, JobRegistry, JobState, ReputationRegistry, RequestStatus, SessionManager,
        WorkerRegistry,
    },
    eip712::{self, SessionAuthorization},
    ids::ModelId,
};
use revm::{
    ExecuteCommitEvm, MainBuilder, MainContext, SystemCallCommitEvm,
    bytecode::Bytecode,
    context::{BlockEnv, CfgEnv, Context, TxEnv, result::ExecutionResult},
    database::{CacheDB, EmptyDB},
    database_interface::Database,
    primitives::{TxKind, hardfork::SpecId},
    state::AccountInfo,
};

const FEE: u64 = 1_000_000_007;

/// The point of the wire format's wrap vector: registerWorker takes only points of the curve.
const P256_POINT: &str = "04217251cdb2ede092d6329b7853a75e66822b9ca2f7bf36a48e93b1a3d940d7be884819c235b55971cc844e2ebb26edb4ccb7bf2818ee2c741516ff5cdf3058fc";

struct Chain {
    db: CacheDB<EmptyDB>,
    chain_id: u64,
    number: u64,
    time: u64,
}

impl Chain {
    fn new(built: &BuiltGenesis, funded: &[Address]) -> Self {
        let mut db = CacheDB::new(EmptyDB::default());
        for (address, account) in &built.genesis.alloc {
            let info = AccountInfo { balance: account.balance, ..AccountInfo::default() };
            let code = Bytecode::new_raw(account.code.clone().unwrap_or_default());
            db.insert_account_info(*address, info.with_code(code));
            for (slot, value) in account.storage.iter().flatten() {
                db.insert_account_storage(*address, (*slot).into(), (*value).into()).unwrap();
            }
        }
        for address in funded {
            let info = AccountInfo { balance: U256::from(100_000) * LCAI, ..AccountInfo::default() };
            db.insert_account_info(*address, info);
        }
        Self { db, chain_id: built.genesis.config.chain_id, number: 1, time: built.genesis.timestamp + 1 }
    }

    fn transact(&mut self, from: Address, to: Address, value: U256, input: Vec<u8>) -> Result<Bytes, Bytes> {
        let nonce = self.db.basic(from).unwrap().unwrap_or_default().nonce;
        let transaction = TxEnv::builder()
            .caller(from)
            .kind(TxKind::Call(to))
            .value(value)
            .data(input.into())
            .gas_limit(5_000_000)
            .gas_price(0)
            .nonce(nonce)
            .chain_id(Some(self.chain_id))
            .build()
            .unwrap();
        let mut cfg = CfgEnv::new_with_spec(SpecId::OSAKA).with_mainnet_gas_params();
        cfg.chain_id = self.chain_id;
        let block = BlockEnv {
            number: U256::from(self.number),
            timestamp: U256::from(self.time),
            ..Default::default()
        };
        let mut evm =
            Context::mainnet().with_db(&mut self.db).with_cfg(cfg).with_block(block).build_mainnet();
        match evm.transact_commit(transaction).unwrap() {
            ExecutionResult::Success { output, .. } => Ok(output.into_data()),
            ExecutionResult::Revert { output, .. } => Err(output),
            ExecutionResult::Halt { reason, .. } => panic!("{reason:?}"),
        }
    }

    fn send<C: SolCall>(&mut self, from: Address, to: Address, value: U256, call: &C) -> C::Return {
        let output = self.transact(from, to, value, call.abi_encode());
        let output =
            output.unwrap_or_else(|data| panic!("{}", lcai_primitives::revert::revert_reason(&data)));
        C::abi_decode_returns(&output).unwrap()
    }

    fn refused<C: SolCall>(&mut self, from: Address, to: Address, value: U256, call: &C) -> [u8; 4] {
        let data = self.transact(from, to, value, call.abi_encode()).expect_err("it must revert");
        data[..4].try_into().unwrap()
    }

    /// The next block, for which a client stores its parent's hash before anything else (EIP-2935).
    fn next_block(&mut self) {
        self.number += 1;
        self.time += 1;
        let cfg = CfgEnv::new_with_spec(SpecId::OSAKA).with_mainnet_gas_params();
        let block = BlockEnv {
            number: U256::from(self.number),
            timestamp: U256::from(self.time),
            ..Default::default()
        };
        let mut evm =
            Context::mainnet().with_db(&mut self.db).with_cfg(cfg).with_block(block).build_mainnet();
        let parent = Bytes::from(self.number.to_be_bytes().repeat(4));
        let stored = evm
            .system_call_with_caller_commit(SYSTEM_ADDRESS, HISTORY_STORAGE_ADDRESS, parent)
            .expect("the history contract runs");
        assert!(stored.is_success(), "{stored:?}");
    }

    fn balance(&mut self, address: Address) -> U256 {
        self.db.basic(address).unwrap().unwrap_or_default().balance
    }
}

/// The accounts of a small network with one worker and one open session.
struct Network {
    chain: Chain,
    user: PrivateKeySigner,
    worker: PrivateKeySigner,
    disputer: Address,
    session: U256,
    params: ProtocolParams,
}

fn model() -> ModelId {
    ModelId::from_name("m")
}

impl Network {
    fn new() -> Self {
        let signers: Vec<PrivateKeySigner> =
            (1..=3u8).map(|n| PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).unwrap()).collect();
        let [user, worker, dispatcher] = signers.try_into().unwrap();
        let disputer = Address::repeat_byte(0xd1);
        let spec = GenesisSpec {
            models: vec![ModelSpec { name: "m".into(), fee: U256::from(FEE), max_output_tokens: 64 }],
            ..GenesisSpec::devnet(dispatcher.address(), disputer, Address::repeat_byte(0x90))
        };
        let built = build(&spec).unwrap();
        let mut chain = Chain::new(&built, &[user.address(), worker.address(), disputer]);
        let key = Bytes::from(alloy_primitives::hex::decode(P256_POINT).unwrap());
        let register = WorkerRegistry::registerWorkerCall { encryptionPubKey: key };
        chain.send(worker.address(), addresses::WORKER_REGISTRY, U256::from(5000) * LCAI, &register);
        let list = WorkerRegistry::addSupportedModelCall { modelId: model().0 };
        chain.send(worker.address(), addresses::WORKER_REGISTRY, U256::ZERO, &list);
        let session = open_session(&mut chain, &user, &worker, &dispatcher);
        Self { chain, user, worker, disputer, session, params: spec.params }
    }

    fn job(&mut self, id: U256) -> Job {
        let call = JobRegistry::getJobCall { jobId: id };
        self.chain.send(Address::ZERO, addresses::JOB_REGISTRY, U256::ZERO, &call)
    }

    fn state(&mut self, id: U256) -> JobState {
        JobState::try_from(self.job(id).state).unwrap()
    }

    fn as_user<C: SolCall>(&mut self, value: u64, call: &C) -> C::Return {
        self.chain.send(self.user.address(), addresses::JOB_REGISTRY, U256::from(value), call)
    }

    fn as_worker<C: SolCall>(&mut self, call: &C) -> C::Return {
        self.chain.send(self.worker.address(), addresses::JOB_REGISTRY, U256::ZERO, call)
    }

    fn submit(&mut self) -> U256 {
        let call = JobRegistry::submitJobCall { sessionId: self.session, blobHash: B256::repeat_byte(1) };
        self.as_user(FEE, &call)
    }

    fn complete(&mut self, ciphertext: &[u8]) -> U256 {
        let job = self.submit();
        self.as_worker(&JobRegistry::acknowledgeJobCall { jobId: job });
        let call = JobRegistry::completeJobCall {
            jobId: job,
            responseBlobHash: B256::repeat_byte(2),
            responseCiphertextHash: keccak256(ciphertext),
        };
        self.as_worker(&call);
        job
    }

    fn worker_balance(&mut self) -> U256 {
        let call = JobRegistry::workerBalanceCall { worker: self.worker.address() };
        self.chain.send(Address::ZERO, addresses::JOB_REGISTRY, U256::ZERO, &call)
    }

    fn stake(&mut self) -> U256 {
        let call = WorkerRegistry::getWorkerStakeCall { worker: self.worker.address() };
        self.chain.send(Address::ZERO, addresses::WORKER_REGISTRY, U256::ZERO, &call)
    }
}

fn open_session(
    chain: &mut Chain,
    user: &PrivateKeySigner,
    worker: &PrivateKeySigner,
    dispatcher: &PrivateKeySigner,
) -> U256 {
    let keys = (Bytes::from_static(&[5; 125]), Bytes::from_static(&[6; 125]));
    let expiry = chain.time + 120;
    let (user_address, worker_address) = (user.address(), worker.address());
    let message = SessionAuthorization::for_keys(
        user_address,
        model(),
        worker_address,
        &keys.0,
        &keys.1,
        U256::ZERO,
        expiry,
    );
    let hash = message.signing_hash(&eip712::domain(chain.chain_id, addresses::JOB_REGISTRY));
    let call = JobRegistry::createSessionCall {
        modelId: model().0,
        worker: worker_address,
        encWorkerKey: keys.0,
        encDisputerKey: keys.1,
        dispatcherSignature: dispatcher.sign_hash_sync(&hash).unwrap().as_bytes().to_vec().into(),
        expiry: U256::from(expiry),
    };
    let session = chain.send(user_address, addresses::JOB_REGISTRY, U256::ZERO, &call);
    let again = chain.refused(user_address, addresses::JOB_REGISTRY, U256::ZERO, &call);
    assert_eq!(again, JobRegistry::InvalidDispatcherSignature::SELECTOR, "the nonce is spent");
    session
}

#[test]
fn a_released_job_pays_three_shares_to_the_wei() {
    let mut net = Network::new();
    let job = net.complete(b"answer");
    assert_eq!(net.state(job), JobState::Completed);
    let release = JobRegistry::releaseJobCall { jobId: job };
    let (worker, registry) = (net.worker.address(), addresses::JOB_REGISTRY);
    let early = net.chain.refused(worker, registry, U256::ZERO, &release);
    assert_eq!(early, JobRegistry::DisputeWindowNotElapsed::SELECTOR);

    let (treasury, pool) = (net.chain.balance(addresses::TREASURY), net.chain.balance(addresses::FEE_POOL));
    net.chain.time += net.params.dispute_window + 1;
    net.as_worker(&release);
    assert_eq!(net.state(job), JobState::Released);
    let earned = net.worker_balance();
    let treasury = net.chain.balance(addresses::TREASURY) - treasury;
    let pool = net.chain.balance(addresses::FEE_POOL) - pool;
    assert_eq!(earned + treasury + pool, U256::from(FEE), "no wei appears or vanishes");
    assert_eq!(earned, U256::from(FEE * 8 / 10));
    assert_eq!(net.chain.balance(registry), earned, "what is left is the worker's");

    let before = net.chain.balance(worker);
    net.as_worker(&JobRegistry::withdrawCall {});
    assert_eq!(net.chain.balance(worker) - before, earned);
    assert_eq!(net.chain.balance(registry), U256::ZERO);
}

#[test]
fn a_silent_worker_is_slashed_and_the_fee_returns() {
    let mut net = Network::new();
    let (user, stake) = (net.user.address(), net.stake());
    let before = net.chain.balance(user);
    let job = net.submit();
    net.chain.time += net.params.ack_timeout;
    let claim = JobRegistry::claimTimeoutCall { jobId: job };
    let early = net.chain.refused(user, addresses::JOB_REGISTRY, U256::ZERO, &claim);
    assert_eq!(early, JobRegistry::NotTimedOut::SELECTOR);
    net.chain.time += 1;
    let keeper = net.disputer;
    net.chain.send(keeper, addresses::JOB_REGISTRY, U256::ZERO, &claim);
    assert_eq!(net.state(job), JobState::TimedOut);
    assert_eq!(net.chain.balance(user), before, "the user has the fee back");
    assert!(net.stake() < stake);
    assert_eq!(net.chain.balance(addresses::JOB_REGISTRY), U256::ZERO);
}

#[test]
fn a_dispute_ends_either_way() {
    let mut net = Network::new();
    let (guilty, honest) = (net.complete(b"wrong"), net.complete(b"right"));
    let (user, before, stake) = (net.user.address(), net.chain.balance(net.user.address()), net.stake());
    for job in [guilty, honest] {
        net.as_user(10 * FEE, &JobRegistry::disputeJobCall { jobId: job });
        assert_eq!(net.state(job), JobState::Disputed);
    }
    let bond = net.job(guilty).disputeBond;
    assert_eq!(before - net.chain.balance(user), bond * U256::from(2), "what exceeds the bond came back");

    let verdict = |job, guilty, score: u64| JobRegistry::resolveDisputeCall {
        jobId: job,
        workerGuilty: guilty,
        reExecutionBlobHash: B256::repeat_byte(3),
        _similarityScore: U256::from(score),
    };
    let stranger = net.chain.refused(user, addresses::JOB_REGISTRY, U256::ZERO, &verdict(guilty, true, 0));
    assert_eq!(stranger, JobRegistry::NotDisputer::SELECTOR);
    let disputer = net.disputer;
    net.chain.send(disputer, addresses::JOB_REGISTRY, U256::ZERO, &verdict(guilty, true, 100));
    net.chain.send(disputer, addresses::JOB_REGISTRY, U256::ZERO, &verdict(honest, false, 9_900));
    assert_eq!((net.state(guilty), net.state(honest)), (JobState::Resolved, JobState::Resolved));
    assert!(net.stake() < stake, "the guilty verdict slashed");
    // Guilty: fee and bond came back. Not guilty: the bond went to the worker.
    assert_eq!(net.chain.balance(user) + bond, before + U256::from(FEE));
    assert_eq!(net.worker_balance(), bond);
}

#[test]
fn signing_one_answer_and_committing_another_is_provable() {
    let mut net = Network::new();
    let job = net.complete(b"committed");
    let inner = keccak256(
        (
            U256::from(net.chain.chain_id),
            addresses::JOB_REGISTRY,
            job,
            net.session,
            Bytes::from_static(b"relayed"),
        )
            .abi_encode_params(),
    );
    let signature = net.worker.sign_message_sync(inner.as_slice()).unwrap().as_bytes().to_vec();
    let call = |ciphertext: &'static [u8], signature: Vec<u8>| JobRegistry::disputeResponseMismatchCall {
        jobId: job,
        ciphertext: Bytes::from_static(ciphertext),
        signature: signature.into(),
    };
    let (user, registry) = (net.user.address(), addresses::JOB_REGISTRY);
    let same = net.chain.refused(user, registry, U256::ZERO, &call(b"committed", signature.clone()));
    assert_eq!(same, JobRegistry::NoBlobMismatch::SELECTOR);
    let forged = net.user.sign_message_sync(inner.as_slice()).unwrap().as_bytes().to_vec();
    let forged = net.chain.refused(user, registry, U256::ZERO, &call(b"relayed", forged));
    assert_eq!(forged, JobRegistry::InvalidWorkerSignature::SELECTOR);

    let (before, stake) = (net.chain.balance(user), net.stake());
    net.as_user(0, &call(b"relayed", signature));
    assert_eq!(net.chain.balance(user) - before, U256::from(FEE), "the fee came back, without a bond");
    assert!(net.stake() < stake);
    assert_eq!(net.state(job), JobState::Resolved);
}

/// A session that no dispatcher signs: the chain chooses, the worker claims, the user brings the keys.
#[test]
fn sortition_switched_on_makes_a_session() {
    let signer = |n: u8| PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).unwrap();
    let (user, worker) = (signer(1).address(), signer(2).address());
    let enable = AIConfig::setSortitionEnabledCall { enabled: true }.abi_encode().into();
    let built = build(&GenesisSpec {
        models: vec![ModelSpec { name: "m".into(), fee: U256::from(FEE), max_output_tokens: 64 }],
        ai_config_calls: vec![enable],
        ..GenesisSpec::devnet(Address::ZERO, Address::repeat_byte(0xd1), Address::repeat_byte(0x90))
    })
    .unwrap();
    let mut chain = Chain::new(&built, &[user, worker]);
    let key = Bytes::from(alloy_primitives::hex::decode(P256_POINT).unwrap());
    let register = WorkerRegistry::registerWorkerCall { encryptionPubKey: key };
    chain.send(worker, addresses::WORKER_REGISTRY, U256::from(5000) * LCAI, &register);
    let list = WorkerRegistry::addSupportedModelCall { modelId: model().0 };
    chain.send(worker, addresses::WORKER_REGISTRY, U256::ZERO, &list);

    let manager = addresses::SESSION_MANAGER;
    let request =
        SessionManager::requestSessionCall { modelId: model().0, expiry: U256::from(chain.time + 3600) };
    let id = chain.send(user, manager, U256::ZERO, &request);
    let claim = SessionManager::claimSessionCall { reqId: id };
    chain.next_block();
    let early = chain.refused(worker, manager, U256::ZERO, &claim);
    assert_eq!(early, SessionManager::SeedNotReady::SELECTOR);
    // More blocks than the opcode remembers: the seed comes from the history contract.
    let seed = SessionManager::seedOfCall { reqId: id };
    for _ in 0..300 {
        chain.next_block();
    }
    let expected = B256::from_slice(&3u64.to_be_bytes().repeat(4));
    assert_eq!(
        chain.send(user, manager, U256::ZERO, &seed),
        expected,
        "the hash of block 2, told to block 3"
    );
    chain.send(worker, manager, U256::ZERO, &claim);
    let keys = SessionManager::provideSessionKeyCall {
        reqId: id,
        encWorkerKey: Bytes::from_static(&[5; 125]),
        encDisputerKey: Bytes::from_static(&[6; 125]),
    };
    chain.send(user, manager, U256::ZERO, &keys);
    let request = chain.send(user, manager, U256::ZERO, &SessionManager::getRequestCall { reqId: id });
    assert_eq!(RequestStatus::try_from(request.status), Ok(RequestStatus::Ready));

    // A job in it is scored once it is released.
    let registry = addresses::JOB_REGISTRY;
    let submit = JobRegistry::submitJobCall { sessionId: U256::ONE, blobHash: B256::repeat_byte(1) };
    let job = chain.send(user, registry, U256::from(FEE), &submit);
    chain.send(worker, registry, U256::ZERO, &JobRegistry::acknowledgeJobCall { jobId: job });
    let complete = JobRegistry::completeJobCall {
        jobId: job,
        responseBlobHash: B256::repeat_byte(2),
        responseCiphertextHash: B256::repeat_byte(3),
    };
    chain.send(worker, registry, U256::ZERO, &complete);
    chain.time += ProtocolParams::devnet().dispute_window + 1;
    let scores = addresses::REPUTATION_REGISTRY;
    let score = ReputationRegistry::getScoreCall { worker };
    let before = chain.send(user, scores, U256::ZERO, &score);
    chain.send(worker, registry, U256::ZERO, &JobRegistry::releaseJobCall { jobId: job });
    assert_eq!(chain.send(user, scores, U256::ZERO, &score), before + U256::from(10));
}
