//! A user's dispute against a worker that runs a worse model wins, and the bond returns; one against an honest worker
//! loses. The disputer opens the escrowed session key, repeats both jobs with their histories, and publishes evidence.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::SolCall;
use lcai::{
    ask::DEFAULT_MODEL,
    devnet::{Devnet, DevnetConfig, WorkerModel},
    verify::verify,
};
use lcai_client::{Answer, User, UserSession};
use lcai_exex_disputer::{Evidence, Ground, Outcome, Score, WorkerRecord};
use lcai_host::{Call, TxLane, TxSpec};
use lcai_inference::{EmbeddedBackend, EmbeddedModel};
use lcai_primitives::{
    contracts::{Job, JobRegistry, JobState, WorkerRegistry},
    ids::JobId,
};
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{ask, devnet, fee, funded, open_session, run};
use std::{sync::Arc, time::Duration};

/// Asked in this order until the two workers' answers differ.
const QUESTIONS: [&str; 8] = [
    "What is 58 plus 42?",
    "What is Quito the capital of?",
    "Do you know the opposite of victory?",
    "Give me the capital of Burkina Faso.",
    "Of which country is Sarajevo the capital?",
    "How much is 9 times 7?",
    "What do people pay with in Japan?",
    "Which is larger, 10 or 93?",
];

#[test]
fn the_worse_model_loses_its_dispute_and_the_honest_one_wins() {
    run(async {
        let worker_models = vec![WorkerModel::Worse, WorkerModel::Good];
        let mut config = DevnetConfig { workers: 2, worker_models, ..DevnetConfig::default() };
        config.params.dispute_window = 120;
        config.params.resolution_timeout = 120;
        let devnet = devnet(config).await;
        let (cheat, honest) = (devnet.workers()[0], devnet.workers()[1]);
        let (ann, bob) = (funded(&devnet, 0).await, funded(&devnet, 1).await);
        let (anns, bobs) = (session_with(&ann, cheat).await, session_with(&bob, honest).await);
        let (wrong, right) = until_they_differ((&ann, &anns), (&bob, &bobs)).await;

        let stakes = [stake(&devnet, &ann, cheat).await, stake(&devnet, &ann, honest).await];
        let anns_money = balance(&ann).await;
        dispute(&devnet, &ann, wrong.receipt.job.id).await;
        dispute(&devnet, &bob, right.receipt.job.id).await;
        let fee = fee(&ann).await;
        assert!(balance(&ann).await < anns_money - fee / U256::from(2), "the bond is as much as the fee");

        let lost = resolved(&devnet, &ann, wrong.receipt.job.id).await;
        let won = resolved(&devnet, &bob, right.receipt.job.id).await;
        outcomes(&devnet, &[(cheat, wrong.receipt.job.id, true), (honest, right.receipt.job.id, false)])
            .await;

        // Slashed by 15 % of the minimum stake; fee and bond are back with the user, less gas.
        assert_eq!(
            stake(&devnet, &ann, cheat).await,
            stakes[0] - stakes[0] * U256::from(15) / U256::from(100)
        );
        assert!(balance(&ann).await > anns_money + fee / U256::from(2), "fee and bond came back");
        // The honest worker keeps its stake and gets the bond.
        assert_eq!(stake(&devnet, &ann, honest).await, stakes[1]);
        assert!(worker_balance(&devnet, &bob, honest).await >= fee);

        // What is on chain convinces whoever holds the session key, and tells nobody else what was said.
        let evidence = evidence(&ann, &lost).await;
        let Ground::Compared(comparison) = &evidence.ground else { panic!("{:?}", evidence.ground) };
        assert!(comparison.is_about(&anns.key, wrong.receipt.job.id, &wrong.text, &right.text));
        assert_eq!(U256::from(evidence.score.bps()), lost.similarityScore);
        // And whoever holds the key comes to the same verdict alone.
        let (repeated, posted) = verified(&devnet, &ann, &anns, wrong.receipt.job.id).await;
        let Ground::Compared(again) = &repeated.ground else { panic!("{:?}", repeated.ground) };
        assert_eq!((&again.judgement, &again.manifest), (&comparison.judgement, &comparison.manifest));
        assert_eq!(again.repeated_tag, comparison.repeated_tag);
        assert_eq!(posted.as_ref(), Some(&evidence));
        let evidence = self::evidence(&bob, &won).await;
        assert_eq!((evidence.guilty, evidence.score), (false, Score::FULL));
        assert_eq!(won.similarityScore, U256::from(10_000));
        devnet.stop().await;
    });
}

/// A session that the draw gives to the worker.
async fn session_with(user: &User, worker: Address) -> UserSession {
    for _ in 0..30 {
        let session = open_session(user).await;
        if session.worker == worker {
            return session;
        }
    }
    panic!("the worker was not drawn in thirty sessions");
}

/// Asks both the same until they say something else: their histories are equal up to then.
async fn until_they_differ(a: (&User, &UserSession), b: (&User, &UserSession)) -> (Answer, Answer) {
    for question in QUESTIONS {
        let ((one, _), (two, _)) = tokio::join!(ask(a.0, a.1, question), ask(b.0, b.1, question));
        if one.text != two.text {
            eprintln!("{question} -> {:?} by the cheat, {:?} by the honest worker", one.text, two.text);
            return (one, two);
        }
    }
    panic!("the worse model answers everything as the good one does");
}

async fn dispute(devnet: &Devnet, user: &User, job: JobId) {
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let call = JobRegistry::disputeJobCall { jobId: job.word() };
    let spec = TxSpec::call(devnet.deployment().job_registry, call.abi_encode().into());
    let sent = lane.send(TxSpec { value: fee(user).await, ..spec }).await.unwrap();
    assert!(sent.receipt.success);
}

/// The job once there is a verdict.
async fn resolved(devnet: &Devnet, user: &User, job: JobId) -> Job {
    for _ in 0..300 {
        let call = JobRegistry::getJobCall { jobId: job.word() };
        let found = read(user, devnet.deployment().job_registry, call).await;
        if JobState::try_from(found.state).unwrap() != JobState::Disputed {
            assert_ne!(found.reExecutionBlobHash, B256::ZERO, "job {job} ended without evidence");
            return found;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("no verdict on job {job} within ninety seconds");
}

/// What the disputer's own books say, once it has applied the block.
async fn outcomes(devnet: &Devnet, expected: &[(Address, JobId, bool)]) {
    let core = &devnet.node().disputer().expect("a devnet's node is the disputer").core;
    for (worker, job, guilty) in expected {
        let outcome = || {
            core.read(|core| {
                let outcome = core.job(*job)?.dispute.as_ref()?.outcome?;
                let record = core.workers().find(|(address, _)| *address == worker).map(|(_, r)| *r);
                Some((outcome, record.unwrap_or_default()))
            })
        };
        let mut found = outcome();
        for _ in 0..100 {
            if found.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            found = outcome();
        }
        let (outcome, record): (Outcome, WorkerRecord) = found.expect("the outcome is on chain");
        assert_eq!(matches!(outcome, Outcome::Guilty(_)), *guilty, "{outcome:?}");
        assert_eq!((record.convicted, record.acquitted), (u64::from(*guilty), u64::from(!*guilty)));
    }
}

async fn evidence(user: &User, job: &Job) -> Evidence {
    for _ in 0..100 {
        if let Some(blob) = user.node().rpc().get_blob(job.reExecutionBlobHash, None).await.unwrap() {
            let payload = lcai_blob::decode(&blob).unwrap();
            return Evidence::decode(&payload).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the evidence is not to be had");
}

/// `lcai verify` with the model's file.
async fn verified(
    devnet: &Devnet,
    user: &User,
    session: &UserSession,
    job: JobId,
) -> (Evidence, Option<Evidence>) {
    let path = devnet.data_dir().join("disputer/model.gguf");
    let model = EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path, digest: None };
    let backend = Arc::new(EmbeddedBackend::load(&[model], 1).unwrap());
    let models = vec![DEFAULT_MODEL.to_owned()];
    verify(user.node(), job, session.key.clone(), backend, models, None).await.unwrap()
}

async fn read<C: SolCall>(user: &User, to: Address, call: C) -> C::Return {
    let call = Call { to, input: call.abi_encode().into() };
    C::abi_decode_returns(&user.node().chain().call(call, None).await.unwrap()).unwrap()
}

async fn stake(devnet: &Devnet, user: &User, worker: Address) -> U256 {
    read(user, devnet.deployment().worker_registry, WorkerRegistry::getWorkerStakeCall { worker }).await
}

async fn worker_balance(devnet: &Devnet, user: &User, worker: Address) -> U256 {
    read(user, devnet.deployment().job_registry, JobRegistry::workerBalanceCall { worker }).await
}

async fn balance(user: &User) -> U256 {
    user.node().chain().balance(user.account()).await.unwrap()
}
