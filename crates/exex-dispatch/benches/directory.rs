//! The directory at 100,000 workers: a block of 10,000 events, the snapshot that draws share brought up to it while those
//! of the minute before are held on to, one draw. Heartbeats are told apart: the same with those of a seventh of the
//! workers, who each send one every 15 seconds.
//! `benches/bullmq/run.sh` runs it beside BullMQ on a real Redis and prints the ratio.
//!
//! What is measured is processor time, so that other work on the machine counts as little as can be, with the allocator of
//! `lcai-reth`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use criterion::{Criterion, criterion_group, criterion_main};
use lcai_exex_dispatch::{Directories, DispatchConfig, DispatchCore, DispatchPlan, Snapshot, WorkerHealth};
use lcai_host::{BlockRef, Call, Effects, Extension, FeedBlock, FeedLog, ReadPlan, StateRead};
use lcai_primitives::{
    contracts::{AIConfig, Deployment, Job, JobRegistry, Session, WorkerRegistry},
    eip712::SignedHeartbeat,
    ids::ModelId,
};
use std::{
    collections::{HashMap, VecDeque},
    hint::black_box,
    sync::Arc,
    time::Duration,
};

/// What the node that operators run allocates with.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const WORKERS: u64 = 100_000;

/// Processor time of this thread: Linux tells it in nanoseconds.
fn spent() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux with schedstat");
    Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
}

/// Processor time that something takes.
fn timed<R>(work: impl FnOnce() -> R) -> Duration {
    let before = spent();
    black_box(work());
    spent() - before
}

/// Jobs submitted in a block. Each has four events, in four blocks after another: submitted, acknowledged, completed,
/// released.
const JOBS: u64 = 2_500;
/// A contract's `AckTimeout` and the like, seconds: what everything is that the bench does not set.
const TIMEOUT: u64 = 1_000;
/// Registrations and sessions a block while the directory is filled.
const BATCH: u64 = 10_000;
const BLOCK_SECONDS: u64 = 2;
const HEARTBEAT_SECONDS: u64 = 15;
/// Blocks whose snapshots are held on to: somebody's offer lasts two minutes.
const HELD: usize = 60;
/// Seconds that ended jobs are kept, so that the measured blocks forget as many as they add.
const RETENTION_SECONDS: u64 = 120;

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
            timestamp: self.time().to(),
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
            AIConfig::getBlobRetentionPeriodCall::SELECTOR => U256::from(RETENTION_SECONDS).abi_encode(),
            _ => U256::from(TIMEOUT).abi_encode(),
        };
        StateRead { call, success: true, output: output.into() }
    }

    /// A block in which so many jobs are submitted, and those of the block before acknowledged, of the one before that
    /// completed, of the one before that released; in the order of blocks that are full of everything.
    fn busy_block(&mut self) -> FeedBlock {
        let (first, now) = (self.jobs, self.time());
        self.jobs += JOBS;
        let mut logs = Vec::new();
        for n in first..self.jobs {
            self.submit(&mut logs, n, now);
            let earlier = |blocks: u64| n.checked_sub(blocks * JOBS);
            earlier(1).into_iter().for_each(|n| self.acknowledge(&mut logs, n, now));
            earlier(2).into_iter().for_each(|n| self.complete(&mut logs, n, now));
            earlier(3).into_iter().for_each(|n| self.release(&mut logs, n));
        }
        let block = self.block(logs);
        let released = |n: &u64| n + 3 * JOBS < self.jobs;
        self.records.retain(|id, _| !released(&id.to()));
        block
    }

    fn submit(&mut self, logs: &mut Vec<FeedLog>, n: u64, now: U256) {
        let (id, session, worker) = (U256::from(n), U256::from(n % WORKERS), worker(n % WORKERS));
        let job = Job {
            sessionId: session,
            worker,
            escrowedFee: U256::from(1_000_000_000_000_000_000u64),
            promptBlobHash: keccak256(n.to_be_bytes()),
            submittedAt: now,
            deadline: now + U256::from(TIMEOUT),
            submitBlockNumber: U256::from(self.number),
            ..Job::default()
        };
        self.records.insert(id, job);
        push(
            logs,
            deployment().job_registry,
            &JobRegistry::JobSubmitted { jobId: id, sessionId: session, worker },
        );
    }

    fn acknowledge(&mut self, logs: &mut Vec<FeedLog>, n: u64, now: U256) {
        let id = U256::from(n);
        let job = self.records.get_mut(&id).unwrap();
        (job.state, job.ackTimestamp, job.deadline) = (1, now, now + U256::from(2 * TIMEOUT));
        push(
            logs,
            deployment().job_registry,
            &JobRegistry::JobAcknowledged { jobId: id, worker: job.worker },
        );
    }

    fn complete(&mut self, logs: &mut Vec<FeedLog>, n: u64, now: U256) {
        let id = U256::from(n);
        let job = self.records.get_mut(&id).unwrap();
        (job.state, job.completedAt) = (2, now);
        job.responseBlobHash = keccak256(job.promptBlobHash);
        job.responseCiphertextHash = keccak256(job.responseBlobHash);
        let completed = JobRegistry::JobCompleted {
            jobId: id,
            worker: job.worker,
            responseBlobHash: job.responseBlobHash,
            responseCiphertextHash: job.responseCiphertextHash,
        };
        push(logs, deployment().job_registry, &completed);
    }

    fn release(&mut self, logs: &mut Vec<FeedLog>, n: u64) {
        let id = U256::from(n);
        let job = self.records.get_mut(&id).unwrap();
        let share = job.escrowedFee / U256::from(4);
        (job.state, job.escrowedFee) = (6, U256::ZERO);
        let released = JobRegistry::JobReleased {
            jobId: id,
            workerShare: share,
            protocolShare: share,
            feePoolShare: share,
        };
        push(logs, deployment().job_registry, &released);
    }

    /// Block time of the block that is next.
    fn time(&self) -> U256 {
        U256::from(1_000 + self.number * BLOCK_SECONDS)
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

/// A directory that follows a chain.
struct Following {
    chain: Chain,
    core: DispatchCore,
    directories: Directories,
    held: VecDeque<Arc<Snapshot>>,
    at: BlockRef,
    heard: u64,
}

impl Following {
    /// [`WORKERS`] healthy workers with a session each, and blocks until as many jobs are forgotten as are added.
    fn start() -> Self {
        let plan = DispatchPlan::new(deployment(), vec![model()]);
        let chain = Chain { plan, number: 0, tip: B256::ZERO, jobs: 0, records: HashMap::new() };
        let core = DispatchCore::new(DispatchConfig::new(deployment(), vec![model()]));
        let (directories, held) = (Directories::default(), VecDeque::new());
        let at = BlockRef { number: 0, hash: B256::ZERO };
        let mut all = Self { chain, core, directories, held, at, heard: 0 };
        (0..WORKERS / BATCH).for_each(|batch| all.register(batch * BATCH..(batch + 1) * BATCH));
        (0..WORKERS / BATCH).for_each(|batch| all.open_sessions(batch * BATCH..(batch + 1) * BATCH));
        for _ in 0..2 * RETENTION_SECONDS / BLOCK_SECONDS {
            all.busy_block();
        }
        (0..=HEARTBEAT_SECONDS / BLOCK_SECONDS).for_each(|_| all.heartbeats());
        all.snapshot();
        assert_eq!(all.held[0].candidates().count() as u64, WORKERS);
        all
    }

    fn register(&mut self, workers: std::ops::Range<u64>) {
        let (mut logs, registry) = (Vec::new(), deployment().worker_registry);
        for worker in workers.map(worker) {
            let registered = WorkerRegistry::WorkerRegistered { worker, encryptionPubKey: Bytes::new() };
            push(&mut logs, registry, &registered);
            push(&mut logs, registry, &WorkerRegistry::ModelAdded { worker, modelId: model().0 });
        }
        let block = self.chain.block(logs);
        self.apply(&block);
    }

    fn open_sessions(&mut self, workers: std::ops::Range<u64>) {
        let mut logs = Vec::new();
        for n in workers {
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
        let block = self.chain.block(logs);
        self.apply(&block);
    }

    /// Applies a block and encodes what changed, as the runner does before it writes.
    fn apply(&mut self, block: &FeedBlock) -> usize {
        self.at = block.block_ref();
        let mut effects = Effects::default();
        self.core.apply(block, &mut effects).unwrap();
        self.drain() + effects.into_intents().len()
    }

    fn drain(&mut self) -> usize {
        self.core.tables().into_iter().map(|table| table.drain().unwrap().len()).sum()
    }

    /// How long a block of 10,000 events takes.
    fn busy_block(&mut self) -> Duration {
        let block = self.chain.busy_block();
        timed(|| self.apply(&block))
    }

    /// As many workers as send one in a block's time.
    fn heartbeats(&mut self) {
        let next = self.heard + (WORKERS * BLOCK_SECONDS).div_ceil(HEARTBEAT_SECONDS);
        for n in self.heard..next {
            let heartbeat = SignedHeartbeat {
                sent_at: self.core.block_time(),
                active_jobs: 0,
                max_jobs: 8,
                models_hash: B256::ZERO,
                status: 0,
                sequence: n,
                signature: Bytes::from_static(&[7; 65]),
            };
            let health = WorkerHealth { heartbeat, heard_at: 0 };
            let input = postcard::to_stdvec(&(worker(n % WORKERS), health)).unwrap();
            self.core.input(self.at, &input, &mut Effects::default()).unwrap();
        }
        self.heard = next;
        self.drain();
    }

    /// How long it takes until draws have a snapshot of the newest block.
    fn snapshot(&mut self) -> Duration {
        timed(|| {
            self.held.push_back(self.directories.snapshot(&self.core, self.at, model()).unwrap());
            if self.held.len() > HELD { self.held.pop_front() } else { None }
        })
    }
}

fn directory(c: &mut Criterion) {
    let mut all = Following::start();
    let mut group = c.benchmark_group("directory of 100,000 workers");
    group.sample_size(20);
    group.bench_function("block of 10,000 events", |b| {
        b.iter_custom(|count| (0..count).map(|_| all.busy_block()).sum());
    });
    group.bench_function("snapshot after such a block", |b| {
        b.iter_custom(|count| {
            let one = |_| {
                all.heartbeats();
                all.snapshot();
                all.busy_block();
                all.snapshot()
            };
            (0..count).map(one).sum()
        });
    });
    group.bench_function("snapshot after such a block and heartbeats", |b| {
        b.iter_custom(|count| {
            let one = |_| {
                all.busy_block();
                all.heartbeats();
                all.snapshot()
            };
            (0..count).map(one).sum()
        });
    });
    all.snapshot();
    let snapshot = Arc::clone(&all.held[all.held.len() - 1]);
    assert_eq!(snapshot.candidates().count() as u64, WORKERS);
    assert!(
        *snapshot == Snapshot::of(&all.core, all.at, model()).unwrap(),
        "not what looking at every worker gives"
    );
    let mut nonce = 0u64;
    group.bench_function("draw", |b| {
        b.iter_custom(|count| {
            timed(|| {
                for _ in 0..count {
                    nonce += 1;
                    black_box(snapshot.draw(Address::repeat_byte(9), U256::from(nonce)));
                }
            })
        });
    });
    group.finish();
}

criterion_group!(benches, directory);
criterion_main!(benches);
