//! The directory at 100,000 workers: a block of 10,000 events, the snapshot draws share, one draw.
//! `benches/bullmq/run.sh` runs it beside BullMQ on a real Redis and prints the ratio.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lcai_exex_dispatch::{DispatchConfig, DispatchCore, DispatchPlan, Snapshot, WorkerHealth};
use lcai_host::{BlockRef, Call, Effects, Extension, FeedBlock, FeedLog, ReadPlan, StateRead};
use lcai_primitives::{
    contracts::{AIConfig, Deployment, Job, JobRegistry, Session, WorkerRegistry},
    ids::ModelId,
};
use std::{cell::RefCell, collections::HashMap, hint::black_box};

const WORKERS: u64 = 100_000;
/// Each has four events in the measured block: submitted, acknowledged, completed, released.
const JOBS: u64 = 2_500;

fn deployment() -> Deployment {
    Deployment {
        chain_id: 8200,
        worker_registry: Address::repeat_byte(2),
        ai_config: Address::repeat_byte(3),
        job_registry: Address::repeat_byte(4),
        session_manager: None,
        reputation_registry: None,
        canary_ledger: None,
    }
}

fn model() -> ModelId {
    ModelId::from_name("m")
}

fn worker(n: u64) -> Address {
    Address::from_slice(&keccak256(n.to_be_bytes())[12..])
}

/// Makes blocks as a chain would: logs, and the answers to what the plan reads at them.
struct Chain {
    plan: DispatchPlan,
    number: u64,
    tip: B256,
    jobs: u64,
    records: HashMap<U256, Job>,
}

impl Chain {
    fn block(&mut self, logs: Vec<FeedLog>) -> FeedBlock {
        let mut block = FeedBlock {
            number: self.number,
            hash: keccak256(self.number.to_be_bytes()),
            parent_hash: self.tip,
            timestamp: 1_000 + self.number * 2,
            logs,
            blobs: Vec::new(),
            reads: Vec::new(),
        };
        let calls = self.plan.reads(&block, self.number == 0);
        block.reads = calls.into_iter().map(|call| self.answer(call)).collect();
        (self.number, self.tip) = (self.number + 1, block.hash);
        block
    }

    fn answer(&self, call: Call) -> StateRead {
        let selector: [u8; 4] = call.input[..4].try_into().unwrap();
        let output = match selector {
            WorkerRegistry::isWorkerRegisteredCall::SELECTOR
            | WorkerRegistry::isModelWhitelistedCall::SELECTOR
            | AIConfig::isModelEnabledCall::SELECTOR => true.abi_encode(),
            WorkerRegistry::isWorkerSuspendedCall::SELECTOR => false.abi_encode(),
            WorkerRegistry::getWorkerEncryptionKeyCall::SELECTOR => Bytes::from_static(&[4; 65]).abi_encode(),
            JobRegistry::getJobCall::SELECTOR => {
                self.records[&U256::from_be_slice(&call.input[4..36])].abi_encode()
            }
            JobRegistry::getSessionCall::SELECTOR => {
                let id = U256::from_be_slice(&call.input[4..36]).to::<u64>();
                let worker = worker(id % WORKERS);
                Session { user: worker, modelId: model().0, worker, ..Session::default() }.abi_encode()
            }
            _ => U256::from(1_000).abi_encode(),
        };
        StateRead { call, success: true, output: output.into() }
    }

    /// Jobs that are submitted, acknowledged, completed and released in one block.
    fn busy_block(&mut self) -> FeedBlock {
        let to = deployment().job_registry;
        let mut logs = Vec::new();
        self.records.clear();
        for n in 0..JOBS {
            let id = U256::from(self.jobs + n);
            let worker = worker(n % WORKERS);
            let job = Job { sessionId: U256::from(n), worker, state: 6, ..Job::default() };
            self.records.insert(id, job);
            push(&mut logs, to, &JobRegistry::JobSubmitted { jobId: id, sessionId: U256::from(n), worker });
            push(&mut logs, to, &JobRegistry::JobAcknowledged { jobId: id, worker });
            let completed = JobRegistry::JobCompleted {
                jobId: id,
                worker,
                responseBlobHash: B256::repeat_byte(1),
                responseCiphertextHash: B256::repeat_byte(2),
            };
            push(&mut logs, to, &completed);
            let share = U256::ZERO;
            let released = JobRegistry::JobReleased {
                jobId: id,
                workerShare: share,
                protocolShare: share,
                feePoolShare: share,
            };
            push(&mut logs, to, &released);
        }
        self.jobs += JOBS;
        self.block(logs)
    }
}

fn push(logs: &mut Vec<FeedLog>, address: Address, event: &impl SolEvent) {
    let data = event.encode_log_data();
    let index = logs.len() as u64;
    logs.push(FeedLog {
        address,
        topics: data.topics().to_vec(),
        data: data.data.clone(),
        transaction_hash: keccak256(index.to_be_bytes()),
        transaction_index: index,
        log_index: index,
    });
}

/// A directory of [`WORKERS`] healthy workers with a session each for the first [`JOBS`] of them.
fn filled() -> (Chain, DispatchCore, BlockRef) {
    let plan = DispatchPlan::new(deployment(), vec![model()]);
    let mut chain = Chain { plan, number: 0, tip: B256::ZERO, jobs: 0, records: HashMap::new() };
    let mut core = DispatchCore::new(DispatchConfig::new(deployment(), vec![model()]));
    let registry = deployment().worker_registry;
    for batch in 0..WORKERS / 1_000 {
        let mut logs = Vec::new();
        for n in batch * 1_000..(batch + 1) * 1_000 {
            let registered =
                WorkerRegistry::WorkerRegistered { worker: worker(n), encryptionPubKey: Bytes::new() };
            push(&mut logs, registry, &registered);
            push(&mut logs, registry, &WorkerRegistry::ModelAdded { worker: worker(n), modelId: model().0 });
        }
        apply(&mut core, &chain.block(logs));
    }
    let mut logs = Vec::new();
    for n in 0..JOBS {
        let created = JobRegistry::SessionCreated {
            sessionId: U256::from(n),
            user: worker(n),
            modelId: model().0,
            worker: worker(n),
            encWorkerKey: Bytes::new(),
            encDisputerKey: Bytes::new(),
        };
        push(&mut logs, deployment().job_registry, &created);
    }
    let block = chain.block(logs);
    apply(&mut core, &block);
    for n in 0..WORKERS {
        let health = WorkerHealth {
            last_heartbeat: block.timestamp,
            heard_at: 0,
            active_jobs: 0,
            max_jobs: 8,
            draining: false,
            inference_ready: true,
            sequence: 1,
        };
        let input = postcard::to_stdvec(&(worker(n), health)).unwrap();
        core.input(block.block_ref(), &input, &mut Effects::default()).unwrap();
    }
    (chain, core, block.block_ref())
}

/// Applies a block and encodes what changed, as the runner does before it writes.
fn apply(core: &mut DispatchCore, block: &FeedBlock) -> usize {
    let mut effects = Effects::default();
    core.apply(block, &mut effects).unwrap();
    let changed: usize = core.tables().into_iter().map(|table| table.drain().unwrap().len()).sum();
    changed + effects.into_intents().len()
}

fn directory(c: &mut Criterion) {
    let (chain, mut core, at) = filled();
    let snapshot = Snapshot::of(&core, at, model()).unwrap();
    assert_eq!(snapshot.candidates().count() as u64, WORKERS);
    let mut group = c.benchmark_group("directory of 100,000 workers");
    group.sample_size(20);
    group.bench_function("snapshot, shared by a block's draws", |b| {
        b.iter(|| black_box(Snapshot::of(&core, at, model()).unwrap()));
    });
    let mut nonce = 0u64;
    group.bench_function("draw", |b| {
        b.iter(|| {
            nonce += 1;
            black_box(snapshot.draw(Address::repeat_byte(9), U256::from(nonce)))
        });
    });
    let chain = RefCell::new(chain);
    group.bench_function("block of 10,000 events", |b| {
        b.iter_batched(
            || chain.borrow_mut().busy_block(),
            |block| black_box(apply(&mut core, &block)),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, directory);
criterion_main!(benches);
