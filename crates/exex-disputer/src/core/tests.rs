//! The core against a small model of the contracts: blocks are made from what happened, their reads from the model.

use super::{DisputerConfig, DisputerCore, action};
use crate::{
    canary::{AuditError, Duty, Epochs, Seed, Standing, Tested, audit, duties},
    core::{action::JUDGE_UNPUBLISHED, canaries::RevealTask},
    plan::DisputerPlan,
    records::{Case, Outcome, WorkerRecord},
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent, SolValue};
use lcai_host::{
    Call, EffectDepth, Effects, Extension, FeedBlock, FeedLog, IncludedBlob, Intent, RawChange, ReadPlan,
    StateRead,
};
use lcai_primitives::{
    contracts::{AIConfig, CanaryLedger, Deployment, Job, JobRegistry, JobState, Session, WorkerRegistry},
    ids::{JobId, ModelId, SessionId},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CONFIG: Address = Address::repeat_byte(3);
const JOBS: Address = Address::repeat_byte(4);
const USER: Address = Address::repeat_byte(9);
const WORKER: Address = Address::repeat_byte(0x11);
const DISPUTER: Address = Address::repeat_byte(0xdd);
const REGISTRY: Address = Address::repeat_byte(2);
const LEDGER: Address = Address::repeat_byte(7);
const CANARY: Address = Address::repeat_byte(0xca);
const EPOCHS: Epochs = Epochs { length: 100 };
const RATE: u32 = 5_000;
const DISPUTE_WINDOW: u64 = 30;
const RESOLUTION: u64 = 100;
const RETENTION: u64 = 1000;

fn deployment() -> Deployment {
    Deployment {
        chain_id: 8200,
        worker_registry: REGISTRY,
        ai_config: CONFIG,
        job_registry: JOBS,
        session_manager: None,
        reputation_registry: None,
        canary_ledger: Some(LEDGER),
    }
}

/// Contract state, and the block that is being made.
#[derive(Debug, Clone, Default)]
struct World {
    sessions: BTreeMap<u64, Session>,
    jobs: BTreeMap<u64, Job>,
    /// Zero: the disputer's usual account.
    disputer: Address,
    time: u64,
    number: u64,
    tip: B256,
    logs: Vec<FeedLog>,
    blobs: Vec<B256>,
    salt: u64,
}

impl World {
    fn new() -> Self {
        Self { time: 1_000, disputer: DISPUTER, ..Self::default() }
    }

    fn emit(&mut self, event: &impl SolEvent) {
        self.emit_at(JOBS, event);
    }

    fn emit_at(&mut self, address: Address, event: &impl SolEvent) {
        let (data, index) = (event.encode_log_data(), self.logs.len() as u64);
        self.logs.push(FeedLog {
            address,
            topics: data.topics().to_vec(),
            data: data.data.clone(),
            transaction_hash: keccak256((self.salt, self.number, index).abi_encode()),
            transaction_index: index,
            log_index: index,
        });
    }

    fn open(&mut self, escrow: &[u8]) -> u64 {
        self.open_for(USER, escrow)
    }

    fn open_for(&mut self, user: Address, escrow: &[u8]) -> u64 {
        let id = self.sessions.len() as u64;
        let session = Session {
            user,
            modelId: ModelId::from_name("m").0,
            worker: WORKER,
            encDisputerKey: Bytes::copy_from_slice(escrow),
            ..Session::default()
        };
        self.sessions.insert(id, session.clone());
        self.emit(&JobRegistry::SessionCreated {
            sessionId: U256::from(id),
            user,
            modelId: session.modelId,
            worker: WORKER,
            encWorkerKey: Bytes::new(),
            encDisputerKey: session.encDisputerKey,
        });
        id
    }

    fn rekey(&mut self, session: u64, escrow: &[u8]) {
        let key = Bytes::copy_from_slice(escrow);
        self.sessions.get_mut(&session).unwrap().encDisputerKey = key.clone();
        let event = JobRegistry::SessionKeyUpdated {
            sessionId: U256::from(session),
            encWorkerKey: Bytes::new(),
            encDisputerKey: key,
        };
        self.emit(&event);
    }

    fn submit(&mut self, session: u64) -> u64 {
        let id = self.jobs.len() as u64;
        let job = Job {
            sessionId: U256::from(session),
            worker: WORKER,
            promptBlobHash: B256::repeat_byte(id as u8 + 1),
            submitBlockNumber: U256::from(self.number),
            ..Job::default()
        };
        self.jobs.insert(id, job);
        let (job, session) = (U256::from(id), U256::from(session));
        self.emit(&JobRegistry::JobSubmitted { jobId: job, sessionId: session, worker: WORKER });
        id
    }

    /// As a worker does: the answer's blob comes with the completion.
    fn complete(&mut self, id: u64) {
        self.blobs.push(answer_blob(id));
        self.complete_without_blob(id);
    }

    fn complete_without_blob(&mut self, id: u64) {
        let (block, time) = (U256::from(self.number), U256::from(self.time));
        let job = self.jobs.get_mut(&id).unwrap();
        job.state = JobState::Completed.into();
        (job.completedAt, job.completionBlockNumber) = (time, block);
        job.responseBlobHash = answer_blob(id);
        job.responseCiphertextHash = B256::repeat_byte(0xb0 + id as u8);
        let event = JobRegistry::JobCompleted {
            jobId: U256::from(id),
            worker: WORKER,
            responseBlobHash: job.responseBlobHash,
            responseCiphertextHash: job.responseCiphertextHash,
        };
        self.emit(&event);
    }

    fn dispute(&mut self, id: u64, filer: Address) {
        let time = U256::from(self.time);
        let job = self.jobs.get_mut(&id).unwrap();
        job.state = JobState::Disputed.into();
        (job.disputeFiler, job.disputeCreatedAt) = (filer, time);
        self.emit(&JobRegistry::DisputeCreated { jobId: U256::from(id), disputer: filer });
    }

    fn resolve(&mut self, id: u64, outcome: Outcome) {
        self.jobs.get_mut(&id).unwrap().state = JobState::Resolved.into();
        let (job, verdict) = (U256::from(id), |guilty, score| JobRegistry::DisputeResolved {
            jobId: U256::from(id),
            workerGuilty: guilty,
            similarityScore: U256::from(score),
        });
        match outcome {
            Outcome::Guilty(score) => self.emit(&verdict(true, score)),
            Outcome::NotGuilty(score) => self.emit(&verdict(false, score)),
            Outcome::Defaulted => self.emit(&JobRegistry::DisputeDefaulted { jobId: job }),
        }
    }

    fn release(&mut self, id: u64) {
        self.jobs.get_mut(&id).unwrap().state = JobState::Released.into();
        let event = JobRegistry::JobReleased {
            jobId: U256::from(id),
            workerShare: U256::ZERO,
            protocolShare: U256::ZERO,
            feePoolShare: U256::ZERO,
        };
        self.emit(&event);
    }

    /// Ends the block after so many seconds.
    fn block(&mut self, seconds: u64) -> FeedBlock {
        let mut block = FeedBlock {
            number: self.number,
            hash: keccak256((self.salt, self.number, self.tip).abi_encode()),
            parent_hash: self.tip,
            timestamp: self.time,
            logs: std::mem::take(&mut self.logs),
            blobs: included(std::mem::take(&mut self.blobs)),
            reads: Vec::new(),
        };
        let calls = DisputerPlan::new(deployment()).reads(&block, self.number == 0);
        block.reads = calls.into_iter().map(|call| self.read(call)).collect();
        self.tip = block.hash;
        self.number += 1;
        self.time += seconds;
        block
    }

    fn read(&self, call: Call) -> StateRead {
        let output =
            if call.to == CONFIG { Some(self.config(&call.input)) } else { self.record(&call.input) };
        StateRead { call, success: output.is_some(), output: output.unwrap_or_default().into() }
    }

    fn record(&self, input: &[u8]) -> Option<Vec<u8>> {
        let id = U256::from_be_slice(&input[4..36]).to::<u64>();
        if input[..4] == JobRegistry::getJobCall::SELECTOR {
            return self.jobs.get(&id).map(SolValue::abi_encode);
        }
        self.sessions.get(&id).map(SolValue::abi_encode)
    }

    fn config(&self, input: &[u8]) -> Vec<u8> {
        let selector: [u8; 4] = input[..4].try_into().unwrap();
        match selector {
            AIConfig::getResolutionTimeoutCall::SELECTOR => U256::from(RESOLUTION).abi_encode(),
            AIConfig::getBlobRetentionPeriodCall::SELECTOR => U256::from(RETENTION).abi_encode(),
            AIConfig::getSamplingRateBpsCall::SELECTOR => U256::from(RATE).abi_encode(),
            AIConfig::getDisputeWindowCall::SELECTOR => U256::from(DISPUTE_WINDOW).abi_encode(),
            AIConfig::getSimilarityThresholdCall::SELECTOR => U256::from(8_500).abi_encode(),
            AIConfig::getCanarySimilarityThresholdCall::SELECTOR => U256::from(9_000).abi_encode(),
            AIConfig::getDisputerAddressCall::SELECTOR => self.disputer.abi_encode(),
            _ => U256::from(1).abi_encode(),
        }
    }
}

fn answer_blob(job: u64) -> B256 {
    B256::repeat_byte(0xa0 + job as u8)
}

fn included(hashes: Vec<B256>) -> Vec<IncludedBlob> {
    let blob = |(index, versioned_hash)| IncludedBlob { transaction_hash: B256::ZERO, index, versioned_hash };
    (0..).zip(hashes).map(blob).collect()
}

fn core() -> DisputerCore {
    let defaults = DisputerConfig::new(deployment(), DISPUTER);
    DisputerCore::new(DisputerConfig { reorg_depth: 4, epochs: EPOCHS, ..defaults })
}

/// What a block changed, by table, and what it asked for.
type Step = (Vec<Vec<RawChange>>, Vec<Intent>);

fn apply(core: &mut DisputerCore, block: &FeedBlock) -> Step {
    let mut effects = Effects::default();
    core.apply(block, &mut effects).unwrap();
    let changes = core.tables().into_iter().map(|table| table.drain().unwrap()).collect();
    (changes, effects.into_intents())
}

fn asked(intents: &[Intent]) -> Vec<(&str, EffectDepth)> {
    intents.iter().map(|intent| (intent.action.as_str(), intent.depth)).collect()
}

fn case(intent: &Intent) -> Case {
    postcard::from_bytes(&intent.payload).unwrap()
}

/// A completed job in an escrowed session, applied.
fn completed(world: &mut World, core: &mut DisputerCore) -> u64 {
    let session = world.open(b"key");
    let job = world.submit(session);
    world.complete(job);
    apply(core, &world.block(1));
    job
}

#[test]
fn a_dispute_is_judged_at_once_and_ruled_on_when_final() {
    let (mut world, mut core) = (World::new(), core());
    let job = completed(&mut world, &mut core);
    world.dispute(job, USER);
    let filed_at = world.time;
    let block = world.block(1);
    let (_, intents) = apply(&mut core, &block);
    let expected = [(action::JUDGE, EffectDepth::Head), (action::RESOLVE, EffectDepth::Finalized)];
    assert_eq!(asked(&intents), expected);
    for intent in &intents {
        assert_eq!(intent.origin, block.block_ref());
        assert_eq!(intent.not_after, Some(filed_at + RESOLUTION), "after that it is not guessed");
        let case = case(intent);
        assert_eq!(intent.subject, case.subject.id());
        assert_eq!((case.subject.job_id, case.threshold_bps, case.by_user), (JobId(job), 8_500, true));
        assert_eq!(case.escrow, [Bytes::from_static(b"key")]);
        assert_eq!(case.deadline, filed_at + RESOLUTION);
    }
}

#[test]
fn a_dispute_of_the_disputers_own_has_the_higher_threshold() {
    let (mut world, mut core) = (World::new(), core());
    let job = completed(&mut world, &mut core);
    world.dispute(job, DISPUTER);
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!((case(&intents[0]).threshold_bps, case(&intents[0]).by_user), (9_000, false));
}

#[test]
fn when_time_runs_short_safe_is_enough() {
    let (mut world, mut core) = (World::new(), core());
    let job = completed(&mut world, &mut core);
    world.dispute(job, USER);
    let filed = world.block(RESOLUTION * 3 / 4 - 1);
    apply(&mut core, &filed);
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "a second more than a quarter is left");
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(asked(&intents), [(action::RESOLVE_LATE, EffectDepth::Safe)]);
    assert_eq!(intents[0].origin, filed.block_ref(), "the depth is the dispute's");
    assert_eq!(intents[0].not_after, Some(case(&intents[0]).deadline));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty(), "asked for once");
}

#[test]
fn what_is_resolved_is_not_hurried() {
    let (mut world, mut core) = (World::new(), core());
    let job = completed(&mut world, &mut core);
    world.dispute(job, USER);
    apply(&mut core, &world.block(1));
    world.resolve(job, Outcome::NotGuilty(10_000));
    apply(&mut core, &world.block(RESOLUTION));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(intents.is_empty());
    let dispute = core.job(JobId(job)).unwrap().dispute.clone().unwrap();
    assert_eq!(dispute.outcome, Some(Outcome::NotGuilty(10_000)));
}

#[test]
fn another_disputers_cases_are_left_alone() {
    let (mut world, mut core) = (World::new(), core());
    world.disputer = Address::repeat_byte(0xee);
    let job = completed(&mut world, &mut core);
    world.dispute(job, USER);
    assert!(apply(&mut core, &world.block(1)).1.is_empty());
}

/// Or whoever escrows nothing asks for nothing: the dispute would default, and fee and bond go back.
#[test]
fn a_dispute_over_an_unescrowed_session_is_ruled_on() {
    let (mut world, mut core) = (World::new(), core());
    let session = world.open(b"");
    let opened_at = world.time;
    apply(&mut core, &world.block(1));
    let job = world.submit(session);
    world.complete(job);
    world.dispute(job, USER);
    let (_, intents) = apply(&mut core, &world.block(1));
    let expected = [(action::JUDGE, EffectDepth::Head), (action::RESOLVE, EffectDepth::Finalized)];
    assert_eq!(asked(&intents), expected);
    let case = case(&intents[0]);
    assert_eq!((case.escrow.len(), case.escrowed_at, case.by_user), (0, opened_at, true));
}

#[test]
fn completion_and_dispute_in_one_block_are_both_seen() {
    let (mut world, mut core) = (World::new(), core());
    let session = world.open(b"key");
    let job = world.submit(session);
    world.complete(job);
    world.dispute(job, USER);
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(intents.len(), 2);
    assert_eq!(case(&intents[0]).answer.blob_hash, B256::repeat_byte(0xa0));
}

#[test]
fn every_escrowed_key_is_tried_newest_first() {
    let (mut world, mut core) = (World::new(), core());
    let session = world.open(b"one");
    apply(&mut core, &world.block(1));
    world.rekey(session, b"two");
    let job = world.submit(session);
    world.complete(job);
    apply(&mut core, &world.block(1));
    let keys = [Bytes::from_static(b"two"), Bytes::from_static(b"one")];
    let case = core.case(JobId(job)).unwrap();
    assert_eq!((case.escrow.as_slice(), case.escrowed_at), (keys.as_slice(), 1_001));
}

#[test]
fn the_case_holds_the_jobs_whose_place_a_reorg_can_change() {
    let (mut world, mut core) = (World::new(), core());
    let session = world.open(b"key");
    let first = world.submit(session);
    apply(&mut core, &world.block(1));
    let job = world.submit(session);
    world.complete(first);
    apply(&mut core, &world.block(1));
    for _ in 0..3 {
        apply(&mut core, &world.block(1));
    }
    let within = world.submit(session);
    apply(&mut core, &world.block(1));
    let beyond = world.submit(session);
    world.complete(job);
    apply(&mut core, &world.block(1));
    let case = core.case(JobId(job)).unwrap();
    let prior: Vec<_> = case.prior.iter().map(|p| p.job_id).collect();
    assert_eq!(prior, [JobId(first), JobId(within)], "{beyond} is further away than a reorg");
    assert_eq!(case.prior[0].response, Some((B256::repeat_byte(0xa0), 1)));
}

#[test]
fn outcomes_are_counted_by_worker() {
    let (mut world, mut core) = (World::new(), core());
    let outcomes = [Outcome::Guilty(1), Outcome::NotGuilty(9_900), Outcome::Defaulted];
    for outcome in outcomes {
        let job = completed(&mut world, &mut core);
        world.dispute(job, USER);
        apply(&mut core, &world.block(1));
        world.resolve(job, outcome);
        apply(&mut core, &world.block(1));
    }
    let expected = WorkerRecord { completed: 3, disputed: 3, convicted: 1, acquitted: 1, defaulted: 1 };
    assert_eq!(core.workers().collect::<Vec<_>>(), [(&WORKER, &expected)]);
}

#[test]
fn what_no_dispute_can_need_is_forgotten() {
    let (mut world, mut core) = (World::new(), core());
    let job = completed(&mut world, &mut core);
    world.release(job);
    apply(&mut core, &world.block(RETENTION));
    apply(&mut core, &world.block(1));
    assert!(core.job(JobId(job)).is_some(), "kept for the whole period");
    apply(&mut core, &world.block(1));
    assert!(core.job(JobId(job)).is_none());
    assert!(core.session(SessionId(0)).is_none());
}

fn tested() -> Tested {
    Tested { worker: WORKER, model: ModelId::from_name("m") }
}

impl World {
    fn list(&mut self) {
        self.emit_at(REGISTRY, &WorkerRegistry::ModelAdded { worker: WORKER, modelId: tested().model.0 });
    }

    fn commit(&mut self, epoch: u64, seed: &Seed) {
        let event = CanaryLedger::CanaryCommitted { epoch: U256::from(epoch), root: seed.root(epoch) };
        self.emit_at(LEDGER, &event);
    }

    fn reveal(&mut self, epoch: u64, seed: &Seed, jobs: &[u64]) {
        let jobs = jobs.iter().map(|job| U256::from(*job)).collect();
        let event = CanaryLedger::CanaryRevealed { epoch: U256::from(epoch), seed: seed.0, jobIds: jobs };
        self.emit_at(LEDGER, &event);
    }

    /// Empty blocks until a block has the time.
    fn wait_until(&mut self, time: u64, blocks: &mut Vec<FeedBlock>) {
        let left = time - self.time;
        blocks.push(self.block(left));
    }
}

/// A chain on which epoch 12 was committed to in epoch 10 and has its canaries except those skipped, all of it revealed
/// afterwards. Before it the worker completed `jobs` jobs of users.
fn epoch_of_canaries(jobs: usize, seed: &Seed, skip: &[usize]) -> (Vec<FeedBlock>, usize) {
    let (mut world, mut blocks) = (World::new(), Vec::new());
    world.list();
    world.commit(12, seed);
    let session = world.open(b"key");
    world.wait_until(1_110, &mut blocks);
    for _ in 0..jobs {
        let job = world.submit(session);
        world.complete(job);
    }
    world.wait_until(1_200, &mut blocks);
    let standing = [Standing { of: tested(), jobs: jobs as u64, suspected: false }];
    let all = duties(seed, 12, EPOCHS, &standing, RATE);
    let (canary, mut sent) = (world.open_for(CANARY, b"key"), Vec::new());
    for (n, duty) in all.iter().enumerate() {
        if world.time < duty.at {
            world.wait_until(duty.at, &mut blocks);
        }
        if !skip.contains(&n) {
            sent.push(world.submit(canary));
        }
    }
    world.wait_until(1_450, &mut blocks);
    world.reveal(12, seed, &sent);
    world.wait_until(1_451, &mut blocks);
    (blocks, all.len())
}

fn followed(blocks: &[FeedBlock]) -> DisputerCore {
    let mut core = core();
    for block in blocks {
        apply(&mut core, block);
    }
    core
}

/// Nothing goes in but blocks: whoever follows the chain finds the same.
#[test]
fn a_skipped_canary_is_found_from_the_chain_alone() {
    let seed = Seed(B256::repeat_byte(5));
    let (blocks, duties) = epoch_of_canaries(9, &seed, &[]);
    assert!(duties >= 3, "{duties}");
    assert_eq!(audit(&followed(&blocks), 12, EPOCHS), Ok(Vec::new()));
    for skipped in 0..duties {
        let (blocks, _) = epoch_of_canaries(9, &seed, &[skipped]);
        let missed = audit(&followed(&blocks), 12, EPOCHS).unwrap();
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert_eq!((missed[0].duty.of, missed[0].excused), (tested(), false));
    }
}

#[test]
fn an_epoch_is_audited_when_it_can_be() {
    let seed = Seed(B256::repeat_byte(5));
    let (blocks, _) = epoch_of_canaries(3, &seed, &[]);
    let core = followed(&blocks);
    assert_eq!(audit(&core, 11, EPOCHS), Err(AuditError::NotCommitted(11)));
    let core = followed(&blocks[..blocks.len() - 1]);
    assert_eq!(audit(&core, 12, EPOCHS), Err(AuditError::NotRevealed(12)));

    let mut world = World::new();
    world.commit(10, &seed);
    let block = world.block(1);
    let expected = AuditError::CommittedLate { epoch: 10, committed_at: 1_000, start: 1_000 };
    assert_eq!(audit(&followed(&[block]), 10, EPOCHS), Err(expected));

    // Followed only from within the epoch.
    let mut world = World::new();
    world.commit(12, &seed);
    let first = world.block(250);
    world.reveal(12, &seed, &[]);
    let second = world.block(1);
    assert_eq!(audit(&followed(&[first.clone(), second]), 12, EPOCHS), Ok(Vec::new()), "nobody was listed");
    world.reveal(11, &seed, &[]);
    assert_eq!(audit(&followed(&[first]), 13, EPOCHS), Err(AuditError::NotCommitted(13)));
}

#[test]
fn a_canary_is_judged_and_filed_and_a_users_job_is_not() {
    let (mut world, mut core) = (World::new(), core());
    let at = world.block(1);
    apply(&mut core, &at);
    let input = postcard::to_stdvec(&(CANARY, 10u64)).unwrap();
    core.input(at.block_ref(), &input, &mut Effects::default()).unwrap();
    core.tables().into_iter().for_each(|table| drop(table.drain().unwrap()));

    let (canary, user) = (world.open_for(CANARY, b"key"), world.open(b"key"));
    let (tested, asked) = (world.submit(canary), world.submit(user));
    apply(&mut core, &world.block(1));
    let ours: Vec<JobId> = core.canary_jobs().map(|row| row.subject.job_id).collect();
    assert_eq!(ours, [JobId(tested)]);
    assert_eq!(core.canaries_of(10), [JobId(tested)], "answered or not, it is revealed");
    let submitted_at = core.job(JobId(tested)).unwrap().submitted_at;
    let duty = Duty { at: submitted_at, of: self::tested() };
    assert!(core.has_met(CANARY, &duty));
    assert!(!core.has_met(USER, &duty), "a user's");
    assert!(!core.has_met(CANARY, &Duty { at: submitted_at + 1, ..duty }), "it was before it fell due");
    assert!(!core.has_met(CANARY, &Duty { of: Tested { worker: USER, ..duty.of }, ..duty }));
    world.complete(tested);
    world.complete(asked);
    let completed_at = world.time;
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(
        asked_for(&intents, tested),
        [(action::JUDGE, EffectDepth::Head), (action::FILE, EffectDepth::Safe)]
    );
    assert_eq!(intents.len(), 2, "the user's job is the user's affair");
    assert!(intents.iter().all(|i| i.not_after == Some(completed_at + DISPUTE_WINDOW)));
    assert_eq!((case(&intents[0]).canary, case(&intents[0]).threshold_bps), (true, 9_000));
    assert_eq!(core.canaries_of(10), [JobId(tested)]);

    // Filed from its own account it is no user's dispute.
    world.dispute(tested, CANARY);
    let (_, intents) = apply(&mut core, &world.block(1));
    let case = case(&intents[0]);
    assert_eq!((case.threshold_bps, case.by_user, case.ours, case.user), (9_000, false, true, CANARY));
}

/// The disputer's, with an account of its canaries.
fn told_of_canary(world: &mut World) -> DisputerCore {
    let mut core = core();
    let at = world.block(1);
    apply(&mut core, &at);
    let input = postcard::to_stdvec(&(CANARY, 10u64)).unwrap();
    core.input(at.block_ref(), &input, &mut Effects::default()).unwrap();
    core.tables().into_iter().for_each(|table| drop(table.drain().unwrap()));
    core
}

/// Applies blocks; what was asked for in each.
fn advance(world: &mut World, core: &mut DisputerCore, blocks: u64) -> Vec<Vec<Intent>> {
    (0..blocks).map(|_| apply(core, &world.block(1)).1).collect()
}

#[test]
fn an_answer_that_is_never_published_is_judged_after_a_reorgs_reach() {
    let mut world = World::new();
    let mut core = told_of_canary(&mut world);
    let (canary, user) = (world.open_for(CANARY, b"key"), world.open(b"key"));
    let jobs = [world.submit(canary), world.submit(user), world.submit(user), world.submit(canary)];
    apply(&mut core, &world.block(1));
    let [silent, asked, disputed, late] = jobs;
    jobs.iter().for_each(|job| world.complete_without_blob(*job));
    let completed_at = world.time;
    apply(&mut core, &world.block(1));
    world.dispute(disputed, USER);
    world.blobs.push(answer_blob(late));
    let before = advance(&mut world, &mut core, 3);
    assert!(before.iter().flatten().all(|intent| intent.action != JUDGE_UNPUBLISHED));
    let found = advance(&mut world, &mut core, 1).remove(0);
    let ours: Vec<JobId> = found.iter().map(|intent| case(intent).subject.job_id).collect();
    assert_eq!(ours, [JobId(silent), JobId(disputed)], "not {asked}, which nobody disputes, nor {late}");
    assert!(found.iter().all(|intent| intent.action == JUDGE_UNPUBLISHED && case(intent).unpublished));
    let deadlines: Vec<Option<u64>> = found.iter().map(|intent| intent.not_after).collect();
    assert_eq!(deadlines, [Some(completed_at + DISPUTE_WINDOW), Some(completed_at + 1 + RESOLUTION)]);
    assert!(!core.case(JobId(late)).unwrap().unpublished);
    // Whoever disputes it now finds it known.
    world.dispute(asked, USER);
    let (_, intents) = apply(&mut core, &world.block(1));
    assert!(case(&intents[0]).unpublished);
}

/// Four blocks would take longer than there is to dispute in.
#[test]
fn where_blocks_are_slow_half_the_window_is_waited_for() {
    let mut world = World::new();
    let mut core = told_of_canary(&mut world);
    let canary = world.open_for(CANARY, b"key");
    let job = world.submit(canary);
    world.complete_without_blob(job);
    apply(&mut core, &world.block(DISPUTE_WINDOW / 2 - 1));
    let asked = |intents: &[Intent]| intents.iter().any(|intent| intent.action == JUDGE_UNPUBLISHED);
    assert!(!asked(&apply(&mut core, &world.block(1)).1), "a second is left");
    assert!(asked(&apply(&mut core, &world.block(1)).1));
}

#[test]
fn a_blob_before_the_completion_is_a_publication() {
    let mut world = World::new();
    let mut core = told_of_canary(&mut world);
    let canary = world.open_for(CANARY, b"key");
    let job = world.submit(canary);
    world.blobs.push(answer_blob(job));
    apply(&mut core, &world.block(1));
    world.complete_without_blob(job);
    let asked = advance(&mut world, &mut core, 8);
    assert!(asked.iter().flatten().all(|intent| intent.action != JUDGE_UNPUBLISHED));
    assert!(!core.case(JobId(job)).unwrap().unpublished);
}

/// With epochs as long as the retention period a canary is still known when its epoch is revealed.
#[test]
fn jobs_are_kept_until_their_epoch_can_be_audited() {
    let mut world = World::new();
    let config = DisputerConfig { epochs: Epochs { length: RETENTION }, ..core().config };
    let mut core = DisputerCore::new(config);
    let job = completed(&mut world, &mut core);
    world.release(job);
    apply(&mut core, &world.block(4 * RETENTION + DISPUTE_WINDOW + RESOLUTION));
    apply(&mut core, &world.block(1));
    assert!(core.candidate(JobId(job)).is_some());
    apply(&mut core, &world.block(1));
    assert!(core.candidate(JobId(job)).is_none());
}

fn asked_for(intents: &[Intent], job: u64) -> Vec<(&str, EffectDepth)> {
    let of = intents.iter().filter(|i| case(i).subject.job_id == JobId(job));
    of.map(|i| (i.action.as_str(), i.depth)).collect()
}

#[test]
fn the_ledger_is_kept_an_epoch_ahead_and_revealed_when_nobody_can_dispute() {
    let mut core = core();
    core.config.canaries = true;
    let mut world = World::new();
    apply(&mut core, &world.block(100));
    let (_, intents) = apply(&mut core, &world.block(1));
    assert_eq!(asked(&intents), [(action::COMMIT, EffectDepth::Head)], "epoch 11 began");
    assert_eq!(intents[0].payload, postcard::to_stdvec(&12u64).unwrap());
    assert_eq!(intents[0].not_after, Some(EPOCHS.start(12)));
    let seed = Seed(B256::repeat_byte(5));
    world.commit(12, &seed);
    apply(&mut core, &world.block(99));
    let mut revealed = None;
    // A canary of epoch 12 may come until 1400; after window and resolution, 130 s, the first block of a new epoch asks.
    for _ in 0..5 {
        let time = world.time;
        let (_, intents) = apply(&mut core, &world.block(100));
        if let Some(reveal) = intents.iter().find(|i| i.action == action::REVEAL) {
            assert_eq!(reveal.depth, EffectDepth::Finalized);
            let task: RevealTask = postcard::from_bytes(&reveal.payload).unwrap();
            assert_eq!((task.epoch, task.epoch_seconds, task.jobs), (12, EPOCHS.length, Vec::new()));
            assert_eq!((task.standing, task.rate_bps), (Vec::new(), RATE));
            assert_eq!(revealed.replace(time), None, "asked for once");
        }
    }
    assert_eq!(revealed, Some(1_600));
}

/// One thing that happens in a block.
#[derive(Debug, Clone, Copy)]
enum Happening {
    Open(bool),
    Rekey(u8),
    Submit(u8),
    Advance(u8),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        any::<bool>().prop_map(Happening::Open),
        any::<u8>().prop_map(Happening::Rekey),
        any::<u8>().prop_map(Happening::Submit),
        any::<u8>().prop_map(Happening::Advance),
        any::<u8>().prop_map(Happening::Advance),
        (1..200u64).prop_map(Happening::Wait),
    ]
}

fn happen(world: &mut World, happening: Happening) -> u64 {
    match happening {
        Happening::Open(escrowed) => {
            world.open(if escrowed { b"key" } else { b"" });
        }
        Happening::Rekey(pick) if !world.sessions.is_empty() => {
            world.rekey(u64::from(pick) % world.sessions.len() as u64, &[pick]);
        }
        Happening::Submit(pick) if !world.sessions.is_empty() => {
            world.submit(u64::from(pick) % world.sessions.len() as u64);
        }
        Happening::Advance(pick) if !world.jobs.is_empty() => {
            let id = u64::from(pick) % world.jobs.len() as u64;
            match JobState::try_from(world.jobs[&id].state).unwrap() {
                JobState::Submitted => world.complete(id),
                JobState::Completed if pick % 4 == 0 => world.release(id),
                JobState::Completed => world.dispute(id, if pick % 2 == 0 { USER } else { DISPUTER }),
                JobState::Disputed if pick % 3 == 0 => world.resolve(id, Outcome::Guilty(7)),
                JobState::Disputed if pick % 3 == 1 => world.resolve(id, Outcome::NotGuilty(9)),
                JobState::Disputed => world.resolve(id, Outcome::Defaulted),
                _ => {}
            }
        }
        Happening::Wait(seconds) => return seconds,
        _ => {}
    }
    1
}

fn play(world: &mut World, happenings: &[Happening]) -> Vec<FeedBlock> {
    let blocks = happenings.chunks(3).map(|chunk| {
        let seconds = chunk.iter().map(|h| happen(world, *h)).max().unwrap_or(1);
        world.block(seconds)
    });
    blocks.collect()
}

type Rows = Vec<BTreeMap<Vec<u8>, Vec<u8>>>;

fn keep(state: &mut Rows, changes: &[Vec<RawChange>]) {
    for (rows, changes) in state.iter_mut().zip(changes) {
        for change in changes {
            match &change.new {
                Some(new) => rows.insert(change.key.clone(), new.clone()),
                None => rows.remove(&change.key),
            };
        }
    }
}

/// Every row of every table, encoded, and everything asked for.
fn replay(core: &mut DisputerCore, blocks: &[FeedBlock]) -> (Rows, Vec<Intent>) {
    let mut rows: Rows = core.tables().iter().map(|_| BTreeMap::new()).collect();
    let mut intents = Vec::new();
    for block in blocks {
        let (changes, asked) = apply(core, block);
        keep(&mut rows, &changes);
        intents.extend(asked);
    }
    (rows, intents)
}

proptest! {
    /// Whatever the losing fork held and however deep it went, what is left is a fresh replay of the winning one, and it
    /// asks for the same.
    #[test]
    fn a_reorg_leaves_a_fresh_replay_of_the_winning_fork(
        common in prop::collection::vec(happening(), 0..40),
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
        let (mut state, mut asked) = replay(&mut reorged, &shared);
        let undo: Vec<_> = lost.iter().map(|block| apply(&mut reorged, block).0).collect();
        for changes in undo.iter().rev() {
            for (table, changes) in reorged.tables().into_iter().zip(changes) {
                for change in changes.iter().rev() {
                    table.restore(&change.key, change.old.as_deref()).unwrap();
                }
            }
        }
        for block in &won {
            let (changes, intents) = apply(&mut reorged, block);
            keep(&mut state, &changes);
            asked.extend(intents);
        }
        let fresh = replay(&mut core(), &[shared, won].concat());
        prop_assert_eq!((state, asked), fresh);
    }

    /// The same blocks give the same bytes; a verdict is asked for once per dispute that is ours and escrowed, and the
    /// hurried one at most once and only while the dispute is open.
    #[test]
    fn each_dispute_is_asked_for_once(happenings in prop::collection::vec(happening(), 0..120)) {
        let mut world = World::new();
        let blocks = play(&mut world, &happenings);
        let (rows, intents) = replay(&mut core(), &blocks);
        prop_assert_eq!(&(rows, intents.clone()), &replay(&mut core(), &blocks));
        let of = |action: &str| {
            let jobs = intents.iter().filter(|i| i.action == action).map(|i| case(i).subject.job_id);
            let mut jobs: Vec<JobId> = jobs.collect();
            jobs.sort();
            jobs
        };
        let (judged, resolved, late) = (of(action::JUDGE), of(action::RESOLVE), of(action::RESOLVE_LATE));
        prop_assert_eq!(&judged, &resolved);
        for jobs in [&judged, &late] {
            prop_assert!(jobs.windows(2).all(|pair| pair[0] < pair[1]), "once each: {:?}", jobs);
        }
        prop_assert!(late.iter().all(|job| judged.contains(job)));
        for job in &judged {
            prop_assert!(!world.jobs[&job.0].disputeCreatedAt.is_zero());
        }
    }
}
