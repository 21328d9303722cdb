//! The core against a small model of the contracts: blocks are made from what happened, their reads from the model.

use crate::{Directories, DispatchConfig, DispatchCore, DispatchPlan, Snapshot, WorkerHealth};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use lcai_host::{
    Call, EffectDepth, Effects, Extension, FeedBlock, FeedLog, IncludedBlob, Intent, RawChange, ReadPlan,
    StateRead,
};
use lcai_primitives::{
    contracts::{AIConfig, Deployment, Job, JobRegistry, JobState, Session, SessionStatus, WorkerRegistry},
    eip712::SignedHeartbeat,
    ids::{JobId, ModelId, SessionId},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const REGISTRY: Address = Address::repeat_byte(2);
const CONFIG: Address = Address::repeat_byte(3);
const JOBS: Address = Address::repeat_byte(4);
pub(crate) const ACK_TIMEOUT: u64 = 20;
const DISPUTE_WINDOW: u64 = 30;
const RETENTION: u64 = 1000;

fn deployment() -> Deployment {
    Deployment {
        chain_id: 8200,
        worker_registry: REGISTRY,
        ai_config: CONFIG,
        job_registry: JOBS,
        session_manager: None,
        reputation_registry: None,
        canary_ledger: None,
    }
}

pub(crate) fn model() -> ModelId {
    ModelId::from_name("m")
}

pub(crate) fn worker(n: u8) -> Address {
    Address::repeat_byte(0x10 + n)
}

/// Contract state, and the block that is being made.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    stakes: BTreeMap<Address, U256>,
    suspended: BTreeMap<Address, u64>,
    sessions: BTreeMap<u64, Session>,
    jobs: BTreeMap<u64, Job>,
    pub(crate) time: u64,
    number: u64,
    tip: B256,
    logs: Vec<FeedLog>,
    salt: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { time: 1_000, ..Self::default() }
    }

    fn emit(&mut self, address: Address, event: &impl SolEvent) {
        let data = event.encode_log_data();
        let index = self.logs.len() as u64;
        self.logs.push(FeedLog {
            address,
            topics: data.topics().to_vec(),
            data: data.data.clone(),
            transaction_hash: keccak256((self.salt, self.number, index).abi_encode()),
            transaction_index: index,
            log_index: index,
        });
    }

    pub(crate) fn register(&mut self, n: u8, stake: u64) {
        self.stakes.insert(worker(n), U256::from(stake));
        self.emit(
            REGISTRY,
            &WorkerRegistry::WorkerRegistered { worker: worker(n), encryptionPubKey: Bytes::new() },
        );
        self.emit(REGISTRY, &WorkerRegistry::ModelAdded { worker: worker(n), modelId: model().0 });
    }

    fn slash(&mut self, n: u8, to: u64) {
        self.stakes.insert(worker(n), U256::from(to));
        let (amount, stake) = (U256::from(1), U256::from(to));
        self.emit(REGISTRY, &WorkerRegistry::WorkerSlashed { worker: worker(n), amount, newStake: stake });
    }

    pub(crate) fn open(&mut self, n: u8) -> u64 {
        let id = self.sessions.len() as u64;
        let session = Session {
            user: Address::repeat_byte(9),
            modelId: model().0,
            worker: worker(n),
            ..Session::default()
        };
        let event = JobRegistry::SessionCreated {
            sessionId: U256::from(id),
            user: session.user,
            modelId: session.modelId,
            worker: session.worker,
            encWorkerKey: Bytes::new(),
            encDisputerKey: Bytes::new(),
        };
        self.sessions.insert(id, session);
        self.emit(JOBS, &event);
        id
    }

    pub(crate) fn submit(&mut self, session: u64) -> u64 {
        let id = self.jobs.len() as u64;
        let worker = self.sessions[&session].worker;
        let job = Job {
            sessionId: U256::from(session),
            worker,
            escrowedFee: U256::from(5),
            promptBlobHash: B256::from(U256::from(id + 1)),
            submittedAt: U256::from(self.time),
            deadline: U256::from(self.time + ACK_TIMEOUT),
            ..Job::default()
        };
        self.jobs.insert(id, job);
        let (job, session) = (U256::from(id), U256::from(session));
        self.emit(JOBS, &JobRegistry::JobSubmitted { jobId: job, sessionId: session, worker });
        id
    }

    pub(crate) fn suspend(&mut self, n: u8, until: u64) {
        self.suspended.insert(worker(n), until);
        self.emit(REGISTRY, &WorkerRegistry::WorkerSuspended { worker: worker(n), until: U256::from(until) });
    }

    pub(crate) fn reinstate(&mut self, n: u8) {
        self.suspended.remove(&worker(n));
        self.emit(REGISTRY, &WorkerRegistry::WorkerReinstated { worker: worker(n) });
    }

    fn reassign(&mut self, id: u64, to: u8) {
        let session = self.sessions.get_mut(&id).unwrap();
        session.worker = worker(to);
        session.status = SessionStatus::Reassigning.into();
        session.reassignCount += U256::from(1);
        let event = JobRegistry::SessionReassigned { sessionId: U256::from(id), newWorker: worker(to) };
        self.emit(JOBS, &event);
    }

    fn bring_keys(&mut self, id: u64) {
        self.sessions.get_mut(&id).unwrap().status = SessionStatus::Active.into();
        let event = JobRegistry::SessionKeyUpdated {
            sessionId: U256::from(id),
            encWorkerKey: Bytes::new(),
            encDisputerKey: Bytes::new(),
        };
        self.emit(JOBS, &event);
    }

    pub(crate) fn step(&mut self, id: u64, to: JobState) {
        let time = U256::from(self.time);
        let job = self.jobs.get_mut(&id).unwrap();
        let (worker, job_id) = (job.worker, U256::from(id));
        job.state = to.into();
        match to {
            JobState::Acknowledged => {
                job.ackTimestamp = time;
                job.deadline = time + U256::from(60);
                self.emit(JOBS, &JobRegistry::JobAcknowledged { jobId: job_id, worker });
            }
            JobState::Completed => {
                job.completedAt = time;
                job.responseBlobHash = B256::repeat_byte(0xaa);
                job.responseCiphertextHash = B256::repeat_byte(0xbb);
                let event = JobRegistry::JobCompleted {
                    jobId: job_id,
                    worker,
                    responseBlobHash: job.responseBlobHash,
                    responseCiphertextHash: job.responseCiphertextHash,
                };
                self.emit(JOBS, &event);
            }
            JobState::TimedOut => {
                self.emit(JOBS, &JobRegistry::JobTimedOut { jobId: job_id, worker, slashAmount: U256::ZERO });
            }
            _ => {
                let share = U256::ZERO;
                let event = JobRegistry::JobReleased {
                    jobId: job_id,
                    workerShare: share,
                    protocolShare: share,
                    feePoolShare: share,
                };
                self.emit(JOBS, &event);
            }
        }
    }

    /// Ends the block after so many seconds.
    pub(crate) fn block(&mut self, seconds: u64) -> FeedBlock {
        let mut block = FeedBlock {
            number: self.number,
            hash: keccak256((self.salt, self.number, self.tip).abi_encode()),
            parent_hash: self.tip,
            timestamp: self.time,
            logs: std::mem::take(&mut self.logs),
            blobs: vec![IncludedBlob {
                transaction_hash: B256::with_last_byte(1),
                index: 0,
                versioned_hash: keccak256(self.number.abi_encode()),
            }],
            reads: Vec::new(),
        };
        let plan = DispatchPlan::new(deployment(), vec![model()]);
        block.reads = plan.reads(&block, self.number == 0).into_iter().map(|call| self.read(call)).collect();
        self.tip = block.hash;
        self.number += 1;
        self.time += seconds;
        block
    }

    fn read(&self, call: Call) -> StateRead {
        let output = match call.to {
            CONFIG => Some(config(&call.input)),
            REGISTRY => Some(self.registry(&call.input)),
            _ => self.record(&call.input),
        };
        StateRead { call, success: output.is_some(), output: output.unwrap_or_default().into() }
    }

    fn registry(&self, input: &[u8]) -> Vec<u8> {
        if input[..4] == WorkerRegistry::isModelWhitelistedCall::SELECTOR {
            return true.abi_encode();
        }
        let worker = Address::from_slice(&input[16..36]);
        let selector: [u8; 4] = input[..4].try_into().unwrap();
        match selector {
            WorkerRegistry::isWorkerRegisteredCall::SELECTOR => {
                self.stakes.contains_key(&worker).abi_encode()
            }
            WorkerRegistry::getWorkerStakeCall::SELECTOR => {
                self.stakes.get(&worker).copied().unwrap_or_default().abi_encode()
            }
            WorkerRegistry::getWorkerEncryptionKeyCall::SELECTOR => Bytes::from_static(&[4; 65]).abi_encode(),
            WorkerRegistry::isWorkerSuspendedCall::SELECTOR => {
                self.suspended.contains_key(&worker).abi_encode()
            }
            _ => U256::from(self.suspended.get(&worker).copied().unwrap_or_default()).abi_encode(),
        }
    }

    fn record(&self, input: &[u8]) -> Option<Vec<u8>> {
        let id = U256::from_be_slice(&input[4..36]).saturating_to::<u64>();
        let selector: [u8; 4] = input[..4].try_into().unwrap();
        match selector {
            JobRegistry::nonceCall::SELECTOR => Some(U256::from(self.sessions.len()).abi_encode()),
            JobRegistry::getJobCall::SELECTOR => self.jobs.get(&id).map(SolValue::abi_encode),
            _ => self.sessions.get(&id).map(SolValue::abi_encode),
        }
    }
}

fn config(input: &[u8]) -> Vec<u8> {
    let selector: [u8; 4] = input[..4].try_into().unwrap();
    match selector {
        AIConfig::getMinWorkerStakeCall::SELECTOR => U256::from(100).abi_encode(),
        AIConfig::getMaxConcurrentJobsCall::SELECTOR => U256::from(2).abi_encode(),
        AIConfig::getDisputeWindowCall::SELECTOR => U256::from(DISPUTE_WINDOW).abi_encode(),
        AIConfig::getBlobRetentionPeriodCall::SELECTOR => U256::from(RETENTION).abi_encode(),
        AIConfig::getAckTimeoutCall::SELECTOR => U256::from(ACK_TIMEOUT).abi_encode(),
        AIConfig::getResolutionTimeoutCall::SELECTOR => U256::from(60).abi_encode(),
        AIConfig::getSessionInactivityTimeoutCall::SELECTOR => U256::from(500).abi_encode(),
        AIConfig::getMaxReassignmentsCall::SELECTOR => U256::from(2).abi_encode(),
        AIConfig::isModelEnabledCall::SELECTOR => true.abi_encode(),
        _ => U256::from(1).abi_encode(),
    }
}

/// A heartbeat of a worker that takes sessions; the core leaves signatures to the service.
pub(crate) fn heartbeat_of(sent_at: u64, max_jobs: u32, sequence: u64) -> SignedHeartbeat {
    SignedHeartbeat {
        sent_at,
        active_jobs: 0,
        max_jobs,
        models_hash: B256::ZERO,
        status: 0,
        sequence,
        signature: Bytes::from_static(&[7; 65]),
    }
}

pub(crate) fn core() -> DispatchCore {
    DispatchCore::new(DispatchConfig::new(deployment(), vec![model()]))
}

/// What a block changed, by table, and what it asked for.
pub(crate) type Step = (Vec<Vec<RawChange>>, Vec<Intent>);

pub(crate) fn apply(core: &mut DispatchCore, block: &FeedBlock) -> Step {
    let mut effects = Effects::default();
    core.apply(block, &mut effects).unwrap();
    let changes = core.tables().into_iter().map(|table| table.drain().unwrap()).collect();
    (changes, effects.into_intents())
}

fn revert(core: &mut DispatchCore, changes: &[Vec<RawChange>]) {
    for (table, changes) in core.tables().into_iter().zip(changes) {
        for change in changes.iter().rev() {
            table.restore(&change.key, change.old.as_deref()).unwrap();
        }
    }
}

fn actions(intents: &[Intent]) -> Vec<&str> {
    intents.iter().map(|intent| intent.action.as_str()).collect()
}

#[test]
fn a_worker_is_eligible_while_listed_staked_and_not_suspended() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    apply(&mut core, &world.block(1));
    let eligible = |core: &DispatchCore| core.is_eligible(core.worker(&worker(1)).unwrap(), &model());
    assert!(eligible(&core));

    world.slash(1, 99);
    apply(&mut core, &world.block(1));
    assert!(!eligible(&core), "below the minimum");

    world.stakes.insert(worker(1), U256::from(150));
    let (amount, stake) = (U256::from(51), U256::from(150));
    world.emit(REGISTRY, &WorkerRegistry::StakeTopUp { worker: worker(1), amount, newStake: stake });
    apply(&mut core, &world.block(1));
    assert!(eligible(&core));

    world.suspended.insert(worker(1), 5_000);
    world.emit(REGISTRY, &WorkerRegistry::WorkerSuspended { worker: worker(1), until: U256::from(5_000) });
    apply(&mut core, &world.block(10_000));
    assert!(!eligible(&core));
    apply(&mut core, &world.block(1));
    assert!(!eligible(&core), "the cooldown alone does not reinstate");

    world.suspended.clear();
    world.emit(REGISTRY, &WorkerRegistry::WorkerReinstated { worker: worker(1) });
    apply(&mut core, &world.block(1));
    assert!(eligible(&core));

    world.emit(REGISTRY, &WorkerRegistry::ModelRemoved { worker: worker(1), modelId: model().0 });
    apply(&mut core, &world.block(1));
    assert!(!eligible(&core), "not listed");
}

#[test]
fn registering_anew_forgets_the_models_of_before() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    apply(&mut core, &world.block(1));
    world.emit(REGISTRY, &WorkerRegistry::WorkerDeregistered { worker: worker(1) });
    world.emit(
        REGISTRY,
        &WorkerRegistry::WorkerRegistered { worker: worker(1), encryptionPubKey: Bytes::new() },
    );
    apply(&mut core, &world.block(1));
    assert!(core.worker(&worker(1)).unwrap().models.is_empty());
}

#[test]
fn leaving_and_coming_back_does_not_wash_the_standing() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let session = world.open(1);
    let job = world.submit(session);
    apply(&mut core, &world.block(1));
    world.step(job, JobState::TimedOut);
    apply(&mut core, &world.block(1));
    let standing = |core: &DispatchCore| core.worker(&worker(1)).map(|_| core.standing_of(&worker(1)));
    let bad = standing(&core).unwrap();
    assert!(bad < crate::standing::FULL_STANDING);
    let leave = |world: &mut World| {
        world.stakes.remove(&worker(1));
        world.emit(REGISTRY, &WorkerRegistry::WorkerDeregistered { worker: worker(1) });
    };
    leave(&mut world);
    apply(&mut core, &world.block(1));
    assert_eq!(standing(&core), None);
    world.register(1, 100);
    apply(&mut core, &world.block(1));
    assert_eq!(standing(&core), Some(bad));
    // And leaving twice is no way either.
    leave(&mut world);
    apply(&mut core, &world.block(1));
    world.register(1, 100);
    apply(&mut core, &world.block(1));
    assert_eq!(standing(&core), Some(bad));
}

#[test]
fn open_jobs_are_counted_from_events_and_bound_by_both_limits() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let session = world.open(1);
    let first = world.submit(session);
    world.submit(session);
    apply(&mut core, &world.block(1));
    assert_eq!(core.open_jobs_of(&worker(1)), 2);
    assert_eq!(core.free_slots(&worker(1), 1_000), None, "no heartbeat, no knowledge");

    let health = WorkerHealth { heartbeat: heartbeat_of(1_000, 8, 1), heard_at: 0 };
    let at = core.job(JobId(first)).unwrap().submitted_in;
    let input = postcard::to_stdvec(&(worker(1), health)).unwrap();
    core.input(at, &input, &mut Effects::default()).unwrap();
    assert_eq!(core.free_slots(&worker(1), 1_000), Some(0), "the network's limit is two");
    assert_eq!(core.free_slots(&worker(1), 1_046), None, "the heartbeat is too old");

    world.step(first, JobState::Acknowledged);
    apply(&mut core, &world.block(1));
    assert_eq!(core.open_jobs_of(&worker(1)), 2, "an acknowledged job is open");
    world.step(first, JobState::Completed);
    apply(&mut core, &world.block(1));
    assert_eq!(core.free_slots(&worker(1), 1_000), Some(1));
    let job = core.job(JobId(first)).unwrap();
    assert_eq!(job.state, JobState::Completed);
    assert!(job.submit_tx.is_some() && job.ack_tx.is_some() && job.complete_tx.is_some());
}

#[test]
fn a_missed_deadline_is_claimed_until_the_chain_shows_it() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let session = world.open(1);
    let job = world.submit(session);
    let (_, intents) = apply(&mut core, &world.block(ACK_TIMEOUT));
    assert!(intents.is_empty());
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "at the deadline the worker may still act");
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(actions(&intents), ["claimTimeout"]);
    assert_eq!(intents[0].depth, EffectDepth::Head);
    assert_eq!(intents[0].subject, core.subject(JobId(job)).unwrap().id());
    let (_, intents) = apply(&mut core, &world.block(31));
    assert!(intents.is_empty(), "not asked for again at once");
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(actions(&intents), ["claimTimeout"], "asked for again while nobody did it");
    world.block(60);
    let (_, intents) = apply(&mut core, &world.block(121));
    assert_eq!(actions(&intents), ["claimTimeout"]);
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(actions(&intents), ["settleStuckJob"], "the way out once blaming has failed three times");
    world.step(job, JobState::TimedOut);
    apply(&mut core, &world.block(1_000));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "done, by whomever");
}

#[test]
fn a_completed_job_is_released_after_window_and_grace() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let session = world.open(1);
    let job = world.submit(session);
    world.step(job, JobState::Acknowledged);
    world.step(job, JobState::Completed);
    apply(&mut core, &world.block(DISPUTE_WINDOW + 60));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty());
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(actions(&intents), ["releaseJobs"]);
    world.step(job, JobState::Released);
    apply(&mut core, &world.block(1_000));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty());
}

#[test]
fn a_completion_is_compared_with_the_signed_answer_once_it_is_safe() {
    let (mut world, mut core) = (World::new(), core());
    let mut watching = DispatchCore::new(DispatchConfig {
        keeper: false,
        ..DispatchConfig::new(deployment(), vec![model()])
    });
    world.register(1, 100);
    let session = world.open(1);
    let job = world.submit(session);
    world.step(job, JobState::Acknowledged);
    world.step(job, JobState::Completed);
    let block = world.block(1);
    let (_, intents) = apply(&mut core, &block);
    assert_eq!(actions(&intents), [crate::mismatch::ACTION]);
    assert_eq!(intents[0].depth, EffectDepth::Safe);
    let known = core.job(JobId(job)).unwrap();
    assert_eq!(
        intents[0].subject,
        core.subject(JobId(job)).unwrap().id(),
        "the signature does not cover the prompt, the subject does"
    );
    let completion: crate::mismatch::Completion = postcard::from_bytes(&intents[0].payload).unwrap();
    assert_eq!(completion.prompt_blob_hash, known.prompt_blob_hash);
    assert_eq!(Some(completion.committed), known.response_ciphertext_hash);
    assert!(apply(&mut watching, &block).1.is_empty(), "only a keeper files");
    world.step(job, JobState::Released);
    assert!(apply(&mut core, &world.block(1)).1.is_empty(), "once");
}

#[test]
fn releases_that_fall_due_together_are_asked_for_together() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let session = world.open(1);
    let jobs: Vec<u64> = (0..3).map(|_| world.submit(session)).collect();
    for job in &jobs {
        world.step(*job, JobState::Acknowledged);
        world.step(*job, JobState::Completed);
    }
    apply(&mut core, &world.block(DISPUTE_WINDOW + 62));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(actions(&intents), ["releaseJobs"]);
    let task: crate::core::DutyTask = postcard::from_bytes(&intents[0].payload).unwrap();
    assert_eq!(task, crate::core::DutyTask::Jobs(jobs.into_iter().map(JobId).collect()));
}

#[test]
fn bounties_are_withdrawn_once_they_are_worth_it_and_asked_for_until_they_are() {
    let keeper = Address::repeat_byte(0x77);
    let config = DispatchConfig {
        keeper_account: Some(keeper),
        withdraw_bounties_at: U256::from(100),
        ..DispatchConfig::new(deployment(), vec![model()])
    };
    let (mut world, mut core) = (World::new(), DispatchCore::new(config));
    let pay = |world: &mut World, account: Address, kind: u8, amount: u64| {
        let (job_id, amount) = (U256::from(1), U256::from(amount));
        world.emit(JOBS, &JobRegistry::KeeperBountyPaid { jobId: job_id, keeper: account, kind, amount });
    };
    pay(&mut world, keeper, 1, 60);
    // Paid at once, and somebody else's.
    pay(&mut world, keeper, 0, 500);
    pay(&mut world, Address::ZERO, 1, 500);
    assert!(apply(&mut core, &world.block(1)).1.is_empty(), "60 of 100");
    pay(&mut world, keeper, 1, 40);
    let (_, intents) = apply(&mut core, &world.block(10));
    assert_eq!(actions(&intents), ["withdraw"]);
    let first = intents[0].subject;
    assert!(apply(&mut core, &world.block(30)).1.is_empty(), "asked for a moment ago");
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!((actions(&intents), intents[0].subject), (vec!["withdraw"], first), "still there");

    let amount = U256::from(100);
    world.emit(JOBS, &JobRegistry::WorkerWithdrawal { worker: keeper, amount });
    assert!(apply(&mut core, &world.block(60)).1.is_empty());
    let bounties = core.bounties();
    assert_eq!((bounties.kept, bounties.withdrawn), (U256::ZERO, amount));
    assert_eq!((bounties.timeouts, bounties.releases), (U256::from(500), amount));
    pay(&mut world, keeper, 1, 100);
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_ne!(intents[0].subject, first, "another withdrawal");
}

#[test]
fn a_session_whose_worker_may_not_serve_it_gets_another_and_then_its_owners_keys() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    world.register(2, 100);
    let (session, closed) = (world.open(1), world.open(1));
    apply(&mut core, &world.block(1));
    world.sessions.get_mut(&closed).unwrap().status = SessionStatus::Closed.into();
    world.emit(JOBS, &JobRegistry::SessionClosed { sessionId: U256::from(closed) });
    world.suspend(1, 5_000);
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "planned in the block that suspends, asked for in the next");
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(actions(&intents), ["reassignSession"], "the open one only");
    let first = intents[0].subject;

    world.reassign(session, 2);
    apply(&mut core, &world.block(100));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "done, by whomever");
    assert_eq!(core.session(SessionId(session)).unwrap().worker, worker(2));
    assert_eq!(core.sessions_served_by(worker(1)).count(), 0);
    world.bring_keys(session);
    apply(&mut core, &world.block(1));

    world.suspend(2, 5_000);
    apply(&mut core, &world.block(1));
    world.reinstate(2);
    apply(&mut core, &world.block(1));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty() || intents[0].subject != first, "another reassignment is another effect");
    apply(&mut core, &world.block(100));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "it came back in time");
    world.suspend(2, 5_000);
    apply(&mut core, &world.block(600));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "nobody can use a session that has been idle for too long");
}

#[test]
fn a_worker_that_is_late_or_misses_deadlines_counts_less_and_recovers() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let session = world.open(1);
    let standing = |core: &DispatchCore| core.standing_of(&worker(1));
    let job = world.submit(session);
    apply(&mut core, &world.block(11));
    world.step(job, JobState::Acknowledged);
    world.step(job, JobState::Completed);
    apply(&mut core, &world.block(1));
    assert_eq!(standing(&core), 7_500, "acknowledged in the second half of its time");
    let job = world.submit(session);
    apply(&mut core, &world.block(1));
    world.step(job, JobState::TimedOut);
    apply(&mut core, &world.block(1));
    assert_eq!(standing(&core), 3_750);
    let job = world.submit(session);
    world.step(job, JobState::Acknowledged);
    world.time += 8;
    world.step(job, JobState::Completed);
    apply(&mut core, &world.block(1));
    assert!(standing(&core) > 3_750);
    let speeds: Vec<_> = core.speeds_of(&worker(1)).collect();
    assert_eq!((speeds[0].0, speeds[0].1.jobs, speeds[0].1.mean_ms), (model(), 2, 1_000), "0 s, then 8 s");
}

#[test]
fn the_nonce_a_session_spent_is_known_however_many_its_block_holds() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let sessions: Vec<u64> = (0..3).map(|_| world.open(1)).collect();
    apply(&mut core, &world.block(1));
    let nonces: Vec<_> =
        sessions.iter().map(|id| core.session(SessionId(*id)).unwrap().nonce.unwrap()).collect();
    assert_eq!(nonces, [0, 1, 2].map(U256::from));
}

#[test]
fn what_no_dispute_can_need_is_forgotten() {
    let (mut world, mut core) = (World::new(), core());
    world.register(1, 100);
    let session = world.open(1);
    let job = world.submit(session);
    world.step(job, JobState::TimedOut);
    let block = world.block(RETENTION);
    let blob = block.blobs[0].versioned_hash;
    apply(&mut core, &block);
    assert!(core.blob_transaction(&blob).is_some());
    apply(&mut core, &world.block(1));
    assert!(core.job(JobId(job)).is_some(), "kept for the whole period");
    apply(&mut core, &world.block(1));
    assert!(core.job(JobId(job)).is_none());
    assert!(core.session(SessionId(session)).is_none());
    assert!(core.blob_transaction(&blob).is_none());
}

/// One thing that happens in a block.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Register(u8),
    Slash(u8, u64),
    Open(u8),
    Submit(u8),
    Advance(u8),
    Suspend(u8),
    Reinstate(u8),
    Reassign(u8, u8),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..4u8).prop_map(Happening::Register),
        (0..4u8, 50..200u64).prop_map(|(n, stake)| Happening::Slash(n, stake)),
        (0..4u8).prop_map(Happening::Open),
        any::<u8>().prop_map(Happening::Submit),
        any::<u8>().prop_map(Happening::Advance),
        (0..4u8).prop_map(Happening::Suspend),
        (0..4u8).prop_map(Happening::Reinstate),
        (any::<u8>(), 0..4u8).prop_map(|(session, n)| Happening::Reassign(session, n)),
        (1..400u64).prop_map(Happening::Wait),
    ]
}

fn happen(world: &mut World, happening: Happening) -> u64 {
    match happening {
        Happening::Register(n) if !world.stakes.contains_key(&worker(n)) => world.register(n, 100),
        Happening::Slash(n, stake) if world.stakes.contains_key(&worker(n)) => world.slash(n, stake),
        Happening::Open(n) => {
            world.open(n);
        }
        Happening::Submit(pick) if !world.sessions.is_empty() => {
            let session = u64::from(pick) % world.sessions.len() as u64;
            world.submit(session);
        }
        Happening::Advance(pick) if !world.jobs.is_empty() => {
            let id = u64::from(pick) % world.jobs.len() as u64;
            match JobState::try_from(world.jobs[&id].state).unwrap() {
                JobState::Submitted => world.step(id, JobState::Acknowledged),
                JobState::Acknowledged if pick % 3 == 0 => world.step(id, JobState::TimedOut),
                JobState::Acknowledged => world.step(id, JobState::Completed),
                JobState::Completed => world.step(id, JobState::Released),
                _ => {}
            }
        }
        Happening::Suspend(n) if world.stakes.contains_key(&worker(n)) => world.suspend(n, 9_999),
        Happening::Reinstate(n) if world.suspended.contains_key(&worker(n)) => world.reinstate(n),
        Happening::Reassign(pick, to) if !world.sessions.is_empty() => {
            world.reassign(u64::from(pick) % world.sessions.len() as u64, to);
        }
        Happening::Wait(seconds) => return seconds,
        _ => {}
    }
    1
}

fn play(world: &mut World, happenings: &[Happening]) -> Vec<FeedBlock> {
    happenings
        .chunks(3)
        .map(|chunk| {
            let seconds = chunk.iter().map(|h| happen(world, *h)).max().unwrap_or(1);
            world.block(seconds)
        })
        .collect()
}

/// Every row of every table, encoded.
fn rows(core: &mut DispatchCore, blocks: &[FeedBlock]) -> Vec<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut state: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = core.tables().iter().map(|_| BTreeMap::new()).collect();
    for block in blocks {
        let (changes, _) = apply(core, block);
        keep(&mut state, &changes);
    }
    state
}

fn keep(state: &mut [BTreeMap<Vec<u8>, Vec<u8>>], changes: &[Vec<RawChange>]) {
    for (rows, changes) in state.iter_mut().zip(changes) {
        for change in changes {
            match &change.new {
                Some(new) => rows.insert(change.key.clone(), new.clone()),
                None => rows.remove(&change.key),
            };
        }
    }
}

proptest! {
    /// Whatever the losing fork held and however deep it went, what is left is a fresh replay of the winning one.
    #[test]
    fn a_reorg_leaves_a_fresh_replay_of_the_winning_fork(
        common in prop::collection::vec(happening(), 0..30),
        losing in prop::collection::vec(happening(), 3..60),
        winning in prop::collection::vec(happening(), 3..60),
    ) {
        let mut world = World::new();
        let shared = play(&mut world, &common);
        let mut other = world.clone();
        other.salt = 1;
        let lost = play(&mut world, &losing);
        let won = play(&mut other, &winning);

        let mut reorged = core();
        let mut state = rows(&mut reorged, &shared);
        let undo: Vec<_> = lost.iter().map(|block| apply(&mut reorged, block).0).collect();
        undo.iter().rev().for_each(|changes| revert(&mut reorged, changes));
        for block in &won {
            let (changes, _) = apply(&mut reorged, block);
            keep(&mut state, &changes);
        }

        let mut fresh = core();
        let expected = rows(&mut fresh, &[shared, won].concat());
        prop_assert_eq!(state, expected);
    }

    /// Open jobs are counted right whatever happens, and the same blocks ask for the same effects.
    #[test]
    fn counting_and_replaying(happenings in prop::collection::vec(happening(), 0..90)) {
        let mut world = World::new();
        let blocks = play(&mut world, &happenings);
        let (mut one, mut two) = (core(), core());
        for block in &blocks {
            let first = apply(&mut one, block);
            prop_assert_eq!(first, apply(&mut two, block));
        }
        for n in 0..4 {
            let open = world.jobs.values().filter(|job| job.worker == worker(n) && job.state <= 1).count() as u64;
            prop_assert!(one.open_jobs_of(&worker(n)) <= open, "jobs of forgotten sessions are not known");
            let known = one.jobs_from(JobId(0)).filter(|(_, job)| job.worker == worker(n) && job.is_open());
            prop_assert_eq!(one.open_jobs_of(&worker(n)), known.count() as u64);
        }
    }
}

/// A heartbeat that says something else each time.
fn heartbeat(core: &mut DispatchCore, at: &FeedBlock, n: u8, sequence: u64) {
    let heartbeat = heartbeat_of(at.timestamp - sequence % 2, 1 + (sequence % 3) as u32, sequence);
    let status = u8::from(sequence.is_multiple_of(5)) | (u8::from(sequence.is_multiple_of(7)) << 1);
    let health = WorkerHealth { heartbeat: SignedHeartbeat { status, ..heartbeat }, heard_at: 0 };
    let input = postcard::to_stdvec(&(worker(n), health)).unwrap();
    core.input(at.block_ref(), &input, &mut Effects::default()).unwrap();
}

proptest! {
    /// Snapshots that were kept up are those made anew, whatever happens, through reorgs, with others held on to.
    #[test]
    fn directories_are_kept_up(
        forks in prop::collection::vec((prop::collection::vec(happening(), 0..40), 0..8usize), 1..5),
        heard in prop::collection::vec((0..4u8, any::<bool>()), 1..40),
    ) {
        let (mut core, mut kept) = (core(), Directories::default());
        let (mut world, mut heard) = (World::new(), heard.into_iter().cycle().zip(1..));
        let mut chain: Vec<(World, FeedBlock, Vec<Vec<RawChange>>)> = Vec::new();
        let mut held = Vec::new();
        for (happenings, back) in forks {
            for chunk in happenings.chunks(3) {
                let seconds = chunk.iter().map(|h| happen(&mut world, *h)).max().unwrap_or(1);
                let before = world.clone();
                let block = world.block(seconds % 40);
                let (changes, _) = apply(&mut core, &block);
                let ((n, look), sequence) = heard.next().unwrap();
                heartbeat(&mut core, &block, n, sequence);
                if look {
                    let snapshot = kept.snapshot(&core, block.block_ref(), model()).unwrap();
                    prop_assert_eq!(&*snapshot, &Snapshot::of(&core, block.block_ref(), model()).unwrap());
                    held.push((snapshot.encode().unwrap(), snapshot));
                }
                chain.push((before, block, changes));
            }
            for _ in 0..back.min(chain.len().saturating_sub(1)) {
                let (before, _, changes) = chain.pop().unwrap();
                revert(&mut core, &changes);
                world = before;
            }
            world.salt += 1;
            if let Some((_, tip, _)) = chain.last() {
                let snapshot = kept.snapshot(&core, tip.block_ref(), model()).unwrap();
                prop_assert_eq!(&*snapshot, &Snapshot::of(&core, tip.block_ref(), model()).unwrap());
            }
        }
        for (bytes, snapshot) in held {
            prop_assert_eq!(bytes, snapshot.encode().unwrap(), "later blocks do not change it");
        }
    }
}
