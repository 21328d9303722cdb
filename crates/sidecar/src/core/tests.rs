//! The core over a small model of JobRegistry.

use super::*;
use crate::testing::{
    COMPLETION_TIMEOUT, DISPUTE_WINDOW, ME, OTHER, Registry, SESSION_TIMEOUT, Tx, complete, deployment,
    prompt,
};
use alloy_primitives::keccak256;
use lcai_host::{Intent, RawChange, ReadPlan, StateRead};
use proptest::prelude::*;

const BLOCK_TIME: u64 = 2;

/// A chain of the model with a core that follows it, undo included.
struct Net {
    core: WorkerCore,
    registries: Vec<Registry>,
    blocks: Vec<FeedBlock>,
    undo: Vec<Vec<(usize, Vec<RawChange>)>>,
    intents: Vec<Intent>,
    salt: u64,
}

fn config() -> WorkerCoreConfig {
    WorkerCoreConfig { withdraw_at: Some(U256::from(200)), ..WorkerCoreConfig::new(deployment(), ME) }
}

impl Net {
    fn new() -> Self {
        let mut net = Self {
            core: WorkerCore::new(config()),
            registries: vec![Registry::default()],
            blocks: Vec::new(),
            undo: Vec::new(),
            intents: Vec::new(),
            salt: 0,
        };
        net.mine(&[]);
        net
    }

    /// Mines and applies a block; gives the intents it led to.
    fn mine(&mut self, txs: &[Tx]) -> Vec<Intent> {
        self.salt += 1;
        let salt = self.salt;
        self.mine_salted(txs, salt)
    }

    fn mine_salted(&mut self, txs: &[Tx], salt: u64) -> Vec<Intent> {
        let number = self.blocks.len() as u64;
        let timestamp = 1_700_000_000 + number * BLOCK_TIME;
        let mut registry = self.registries.last().unwrap().clone();
        let mut logs = Vec::new();
        for (index, tx) in txs.iter().enumerate() {
            if let Some((topics, data)) = registry.run(tx, number, timestamp) {
                logs.push(FeedLog {
                    address: deployment().job_registry,
                    topics,
                    data,
                    // The same transaction has the same hash on every fork.
                    transaction_hash: keccak256(format!("{tx:?}")),
                    transaction_index: index as u64,
                    log_index: index as u64,
                });
            }
        }
        let parent_hash = self.blocks.last().map_or(B256::ZERO, |b| b.hash);
        let mut block = FeedBlock {
            number,
            hash: keccak256([parent_hash.as_slice(), &salt.to_be_bytes()].concat()),
            parent_hash,
            timestamp,
            logs,
            blobs: Vec::new(),
            reads: Vec::new(),
        };
        for call in WorkerPlan::new(deployment(), ME).reads(&block, number == 0) {
            let output = registry.call(&call);
            block.reads.push(StateRead {
                call,
                success: output.is_some(),
                output: output.unwrap_or_default(),
            });
        }
        let mut effects = Effects::default();
        self.core.apply(&block, &mut effects).unwrap();
        self.undo.push(self.core.tables().into_iter().map(|t| t.drain().unwrap()).enumerate().collect());
        self.registries.push(registry);
        self.blocks.push(block);
        let intents = effects.into_intents();
        self.intents.extend(intents.clone());
        intents
    }

    fn revert(&mut self, depth: usize) {
        for _ in 0..depth.min(self.blocks.len() - 1) {
            self.blocks.pop();
            self.registries.pop();
            for (table, changes) in self.undo.pop().unwrap() {
                for change in changes {
                    self.core.tables()[table].restore(&change.key, change.old.as_deref()).unwrap();
                }
            }
        }
    }

    fn rows(&mut self) -> String {
        let core = &self.core;
        format!(
            "{:?}",
            (
                core.params.iter().collect::<Vec<_>>(),
                core.clock.iter().collect::<Vec<_>>(),
                core.sessions.iter().collect::<Vec<_>>(),
                core.jobs.iter().collect::<Vec<_>>(),
                core.releasable.iter().collect::<Vec<_>>(),
                core.earned.iter().collect::<Vec<_>>(),
            )
        )
    }
}

fn actions(intents: &[Intent]) -> Vec<&str> {
    intents.iter().map(|i| i.action.as_str()).collect()
}

fn task<T: serde::de::DeserializeOwned>(intent: &Intent) -> T {
    postcard::from_bytes(&intent.payload).unwrap()
}

#[test]
fn a_job_goes_from_submission_to_payment() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: ME }]);
    let asked = net.mine(&[Tx::Submit { session: 1, prompt: prompt(7) }]);
    assert_eq!(actions(&asked), ["infer", "acknowledge"]);
    let job: JobTask = task(&asked[1]);
    assert_eq!(job.subject.prompt_blob_hash, B256::repeat_byte(7));
    assert_eq!(job.enc_worker_key, Bytes::from(vec![1u8; 125]));
    assert_eq!(job.prior, Some(Vec::new()));
    assert_eq!(asked[1].not_after, Some(job.acknowledge_by));
    assert_eq!(asked[1].depth, EffectDepth::Head);
    assert_eq!(net.core.open_jobs(), 1);

    let asked = net.mine(&[Tx::Acknowledge { job: 1 }]);
    assert_eq!(actions(&asked), ["complete", "deliver"]);
    assert_eq!(asked[0].depth, EffectDepth::Head);
    assert_eq!(asked[1].depth, EffectDepth::Depth(2));
    assert!(asked.iter().all(|i| i.subject == job.subject.id()));
    let acknowledged: AcknowledgedTask = task(&asked[0]);
    assert_eq!(acknowledged.complete_by, net.core.now() + COMPLETION_TIMEOUT);

    assert!(net.mine(&[complete(1, 5)]).is_empty());
    assert_eq!(net.core.open_jobs(), 0);
    let mut waited = 0;
    let release = loop {
        let asked = net.mine(&[]);
        waited += BLOCK_TIME;
        if let Some(intent) = asked.into_iter().next() {
            break intent;
        }
        assert!(waited < 100);
    };
    assert!(waited > DISPUTE_WINDOW, "{waited}");
    assert_eq!(task::<ReleaseTask>(&release).jobs, [JobId(1)]);

    assert!(net.mine(&[Tx::Release { job: 1 }]).is_empty());
    for _ in 0..60 {
        assert!(net.mine(&[]).is_empty(), "nothing more is asked for");
    }
    assert_eq!(net.core.earned.get(&0), Some(&U256::from(80)));
}

#[test]
fn a_session_is_open_until_it_is_idle_or_another_workers() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: ME }, Tx::Create { worker: ME }, Tx::Create { worker: OTHER }]);
    assert_eq!(net.core.open_sessions(), 2);
    net.mine(&[Tx::Reassign { session: 2, worker: OTHER }]);
    assert_eq!(net.core.open_sessions(), 1);
    let blocks = SESSION_TIMEOUT / BLOCK_TIME;
    (1..blocks - 1).for_each(|_| drop(net.mine(&[])));
    net.mine(&[Tx::Submit { session: 1, prompt: prompt(1) }]);
    (0..blocks).for_each(|_| drop(net.mine(&[])));
    assert_eq!(net.core.open_sessions(), 1, "a job at its last moment keeps it open");
    net.mine(&[]);
    assert_eq!(net.core.open_sessions(), 0, "no job can come any more");
}

#[test]
fn other_workers_jobs_are_none_of_ours() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: OTHER }, Tx::Submit { session: 1, prompt: prompt(7) }]);
    net.mine(&[Tx::Acknowledge { job: 1 }, complete(1, 1), Tx::Release { job: 1 }]);
    assert!(net.intents.is_empty());
    assert_eq!((net.core.sessions.len(), net.core.jobs.len(), net.core.releasable.len()), (0, 0, 0));
}

#[test]
fn the_history_is_what_was_there_at_submission() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: ME }, Tx::Create { worker: ME }]);
    net.mine(&[Tx::Submit { session: 1, prompt: prompt(1) }]);
    net.mine(&[Tx::Acknowledge { job: 1 }]);
    net.mine(&[complete(1, 11), Tx::Submit { session: 2, prompt: prompt(9) }]);
    net.mine(&[Tx::Submit { session: 1, prompt: prompt(2) }]);
    let asked = net.mine(&[Tx::Submit { session: 1, prompt: prompt(3) }]);
    let prior = task::<JobTask>(&asked[0]).prior.unwrap();
    let expected = [
        PriorRef {
            job_id: JobId(1),
            submit_block: 2,
            prompt_blob_hash: B256::repeat_byte(1),
            response: Some((B256::repeat_byte(11), 4)),
        },
        PriorRef {
            job_id: JobId(3),
            submit_block: 5,
            prompt_blob_hash: B256::repeat_byte(2),
            response: None,
        },
    ];
    assert_eq!(prior, expected);
}

#[test]
fn another_prompt_under_the_same_job_id_is_another_subject() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: ME }, Tx::Create { worker: ME }]);
    let first = net.mine(&[Tx::Submit { session: 1, prompt: prompt(1) }]);
    net.mine(&[Tx::Acknowledge { job: 1 }]);
    net.mine(&[complete(1, 1)]);
    net.revert(3);
    assert_eq!(net.core.open_jobs(), 0);
    let second = net.mine(&[Tx::Submit { session: 2, prompt: prompt(2) }]);
    let third = net.mine(&[Tx::Submit { session: 1, prompt: prompt(1) }]);
    let subjects: Vec<Subject> =
        [&first, &second, &third].iter().map(|asked| task::<JobTask>(&asked[0]).subject).collect();
    assert_eq!(subjects[0].job_id, subjects[1].job_id);
    assert_ne!(subjects[0].id(), subjects[1].id());
    // The first prompt is back, under another job id: another subject too.
    assert_eq!(subjects[2].job_id, JobId(2));
    assert_ne!(subjects[0].id(), subjects[2].id());
}

#[test]
fn a_resubmission_of_the_same_transaction_is_the_same_subject() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: ME }]);
    let first = net.mine(&[Tx::Submit { session: 1, prompt: prompt(1) }]);
    net.mine(&[]);
    net.revert(2);
    net.mine(&[]);
    let again = net.mine(&[Tx::Submit { session: 1, prompt: prompt(1) }]);
    assert_eq!(first[0].id(), again[0].id());
    assert_ne!(first[0].origin, again[0].origin);
}

#[test]
fn a_session_that_comes_and_goes_brings_its_key_and_no_claim_to_know_its_past() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: OTHER }, Tx::Submit { session: 1, prompt: prompt(1) }]);
    net.mine(&[Tx::Reassign { session: 1, worker: ME }]);
    assert_eq!(net.core.session(SessionId(1)).unwrap().status, SessionStatus::Reassigning);
    net.mine(&[Tx::UpdateKey { session: 1, key: vec![7; 125].into() }]);
    let asked = net.mine(&[Tx::Submit { session: 1, prompt: prompt(2) }]);
    let job: JobTask = task(&asked[0]);
    assert_eq!((job.enc_worker_key, job.prior), (Bytes::from(vec![7; 125]), None));
    net.mine(&[Tx::Reassign { session: 1, worker: OTHER }]);
    assert!(net.mine(&[Tx::Submit { session: 1, prompt: prompt(3) }]).is_empty());
    assert!(!net.core.session(SessionId(1)).unwrap().mine);
}

#[test]
fn disputed_jobs_are_released_only_when_cleared() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: ME }]);
    for job in [1, 2] {
        net.mine(&[Tx::Submit { session: 1, prompt: prompt(job as u8) }]);
        net.mine(&[Tx::Acknowledge { job }, complete(job, 1), Tx::Dispute { job }]);
    }
    net.intents.clear();
    for _ in 0..60 {
        assert!(net.mine(&[]).is_empty());
    }
    net.mine(&[Tx::Resolve { job: 1, guilty: true }, Tx::Resolve { job: 2, guilty: false }]);
    net.mine(&[]);
    let asked: Vec<ReleaseTask> = net.intents.iter().map(task).collect();
    assert_eq!(asked, [ReleaseTask { jobs: vec![JobId(2)] }]);
}

#[test]
fn an_unanswered_release_is_asked_for_again_and_earnings_are_withdrawn() {
    let mut net = Net::new();
    net.mine(&[Tx::Create { worker: ME }]);
    for job in 1..=3 {
        net.mine(&[Tx::Submit { session: 1, prompt: prompt(job as u8) }]);
        net.mine(&[Tx::Acknowledge { job }, complete(job, 1)]);
    }
    net.intents.clear();
    for _ in 0..80 {
        net.mine(&[]);
    }
    let asked: Vec<ReleaseTask> = net.intents.iter().map(task).collect();
    assert!(asked.len() >= 2 && asked.len() <= 8, "{}", asked.len());
    assert!(asked.iter().flat_map(|a| &a.jobs).filter(|j| j.0 == 1).count() >= 2);
    let subjects: std::collections::BTreeSet<_> = net.intents.iter().map(|i| i.subject).collect();
    assert_eq!(subjects.len(), net.intents.len());
    net.intents.clear();
    net.mine(&[Tx::Release { job: 1 }, Tx::Release { job: 2 }, Tx::Release { job: 3 }]);
    assert_eq!(actions(&net.intents), ["withdraw"]);
}

fn txs() -> impl Strategy<Value = Vec<Tx>> {
    let job = 1..6u64;
    let tx = prop_oneof![
        1 => prop_oneof![Just(ME), Just(OTHER)].prop_map(|worker| Tx::Create { worker }),
        3 => (1..4u64, 0..200u8).prop_map(|(session, byte)| Tx::Submit { session, prompt: prompt(byte) }),
        3 => job.clone().prop_map(|job| Tx::Acknowledge { job }),
        3 => (job.clone(), 0..200u8).prop_map(|(job, answer)| complete(job, answer)),
        1 => job.clone().prop_map(|job| Tx::Dispute { job }),
        1 => (job.clone(), any::<bool>()).prop_map(|(job, guilty)| Tx::Resolve { job, guilty }),
        1 => job.clone().prop_map(|job| Tx::Release { job }),
        1 => (1..4u64, prop_oneof![Just(ME), Just(OTHER)])
            .prop_map(|(session, worker)| Tx::Reassign { session, worker }),
        1 => (1..4u64, any::<u8>())
            .prop_map(|(session, byte)| Tx::UpdateKey { session, key: vec![byte; 125].into() }),
        1 => job.prop_map(|job| Tx::TimeOut { job }),
    ];
    proptest::collection::vec(tx, 0..4)
}

proptest! {
    /// Whatever was reverted, the core is as if only the winning fork had ever been.
    #[test]
    fn reorgs_leave_the_state_of_a_fresh_replay(
        steps in proptest::collection::vec((0usize..12, txs()), 1..60)
    ) {
        let mut net = Net::new();
        let mut winning: Vec<(Vec<Tx>, u64)> = Vec::new();
        for (depth, txs) in steps {
            // Mostly forward, now and then back.
            if depth > 8 {
                let depth = (depth - 8).min(winning.len());
                net.revert(depth);
                winning.truncate(winning.len() - depth);
            }
            net.salt += 1;
            let salt = net.salt;
            net.mine_salted(&txs, salt);
            winning.push((txs, salt));
        }
        let mut fresh = Net::new();
        for (txs, salt) in &winning {
            fresh.mine_salted(txs, *salt);
        }
        prop_assert_eq!(net.blocks.last().map(|b| b.hash), fresh.blocks.last().map(|b| b.hash));
        prop_assert_eq!(net.rows(), fresh.rows());
        // What the winning fork asks for was asked for on the way here, by the same blocks.
        for intent in &fresh.intents {
            prop_assert!(net.intents.contains(intent));
        }
        // Nothing is asked for about a job that is not ours.
        for intent in net.intents.iter().filter(|i| i.action == "infer") {
            let task: JobTask = postcard::from_bytes(&intent.payload).unwrap();
            prop_assert_eq!(intent.subject, task.subject.id());
        }
    }
}
