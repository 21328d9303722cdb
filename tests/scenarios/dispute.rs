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
    devnet::{DevnetConfig, WorkerModel},
    verify::{Repeated, verify},
};
use lcai_client::{Answer, User, UserSession};
use lcai_exex_disputer::{Evidence, Ground, Score};
use lcai_host::{Call, TxLane, TxSpec};
use lcai_inference::{EmbeddedBackend, EmbeddedModel};
use lcai_primitives::{
    contracts::{Job, JobRegistry, JobState, WorkerRegistry},
    ids::JobId,
};
use lcai_rpc::{
    api::LcaiApiClient,
    verdicts::{
        DisputeOutcome, EvidenceInfo, RungName, VerdictExplanation, VerdictGround, VerdictInfo,
        WorkerStatistics,
    },
};
use lcai_tests::{
    Network, Operated, ask, devnet, fee, funded, leaks::core_dump_limits, open_session, reth::RethNet, run,
};
use serde_json::json;
use std::{path::Path, sync::Arc, time::Duration};

/// The model that the disputer and the honest worker run.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../devnet/model/lcai-tiny.gguf");

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
        let devnet = devnet(config()).await;
        story(&devnet).await;
        devnet.stop().await;
    });
}

/// The same over Reth, whose process is the disputer.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn the_worse_model_loses_its_dispute_and_the_honest_one_wins_on_reth() {
    run(async {
        let model = format!("{DEFAULT_MODEL}={MODEL}");
        let network = RethNet::start_with(&config(), &["--lcai.gguf", &model]).await;
        assert_eq!(core_dump_limits(network.node.pid()), ["0", "0"], "it holds keys");
        story(&network).await;
        network.stop().await;
    });
}

fn config() -> DevnetConfig {
    let worker_models = vec![WorkerModel::Worse, WorkerModel::Good];
    let mut config = DevnetConfig { workers: 2, worker_models, ..DevnetConfig::default() };
    config.params.dispute_window = 120;
    config.params.resolution_timeout = 120;
    config
}

async fn story(network: &impl Operated) {
    let (cheat, honest) = (network.workers()[0], network.workers()[1]);
    let (ann, bob) = (funded(network, 0).await, funded(network, 1).await);
    let (anns, bobs) = (session_with(&ann, cheat).await, session_with(&bob, honest).await);
    let (wrong, right) = until_they_differ((&ann, &anns), (&bob, &bobs)).await;

    let stakes = [stake(network, &ann, cheat).await, stake(network, &ann, honest).await];
    let anns_money = balance(&ann).await;
    dispute(network, &ann, wrong.receipt.job.id).await;
    dispute(network, &bob, right.receipt.job.id).await;
    let fee = fee(&ann).await;
    assert!(balance(&ann).await < anns_money - fee / U256::from(2), "the bond is as much as the fee");

    let lost = resolved(network, &ann, wrong.receipt.job.id).await;
    let won = resolved(network, &bob, right.receipt.job.id).await;

    // Slashed by 15 % of the minimum stake; fee and bond are back with the user, less gas.
    assert_eq!(stake(network, &ann, cheat).await, stakes[0] - stakes[0] * U256::from(15) / U256::from(100));
    assert!(balance(&ann).await > anns_money + fee / U256::from(2), "fee and bond came back");
    // The honest worker keeps its stake and gets the bond.
    assert_eq!(stake(network, &ann, honest).await, stakes[1]);
    assert!(worker_balance(network, &bob, honest).await >= fee);

    // What is on chain convinces whoever holds the session key, and tells nobody else what was said.
    let evidence = evidence(&ann, &lost).await;
    let Ground::Compared(comparison) = &evidence.ground else { panic!("{:?}", evidence.ground) };
    assert!(comparison.is_about(&anns.key, wrong.receipt.job.id, &wrong.text, &right.text));
    assert_eq!(U256::from(evidence.score.bps()), lost.similarityScore);
    // And whoever holds the key comes to the same verdict alone.
    let (repeated, posted) = verified(&ann, &anns, wrong.receipt.job.id).await;
    let Ground::Compared(again) = &repeated.ground else { panic!("{:?}", repeated.ground) };
    assert_eq!((&again.judgement, &again.manifest), (&comparison.judgement, &comparison.manifest));
    assert_eq!(again.repeated_tag, comparison.repeated_tag);
    assert_eq!(posted.as_ref(), Some(&evidence));
    // The disputer's operator reads the same.
    told_to_the_operator(network, &wrong, cheat, &evidence, &lost).await;

    let evidence = self::evidence(&bob, &won).await;
    assert_eq!((evidence.guilty, evidence.score), (false, Score::FULL));
    assert_eq!(won.similarityScore, U256::from(10_000));
    told_to_the_operator(network, &right, honest, &evidence, &won).await;
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

async fn dispute(network: &impl Network, user: &User, job: JobId) {
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let call = JobRegistry::disputeJobCall { jobId: job.word() };
    let spec = TxSpec::call(network.deployment().job_registry, call.abi_encode().into());
    let sent = lane.send(TxSpec { value: fee(user).await, ..spec }).await.unwrap();
    assert!(sent.receipt.success);
}

/// The job once there is a verdict.
async fn resolved(network: &impl Network, user: &User, job: JobId) -> Job {
    for _ in 0..300 {
        let call = JobRegistry::getJobCall { jobId: job.word() };
        let found = read(user, network.deployment().job_registry, call).await;
        if JobState::try_from(found.state).unwrap() != JobState::Disputed {
            assert_ne!(found.reExecutionBlobHash, B256::ZERO, "job {job} ended without evidence");
            return found;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("no verdict on job {job} within ninety seconds");
}

/// What the disputer's own books say, once it has applied the block: verdict, reasons, evidence, statistics.
async fn told_to_the_operator(
    network: &impl Operated,
    answer: &Answer,
    worker: Address,
    evidence: &Evidence,
    on_chain: &Job,
) {
    let job = answer.receipt.job.id;
    let outcome = if evidence.guilty { DisputeOutcome::Guilty } else { DisputeOutcome::NotGuilty };
    let verdict = ruled(network, job, outcome).await;
    assert_eq!((verdict.worker, verdict.canary, &verdict.undecided), (worker, false, &None));
    let score = u64::from(evidence.score.bps());
    assert_eq!(verdict.dispute.unwrap().score_bps, Some(score));
    let VerdictExplanation { guilty, score_bps, ground, comparison } = verdict.explanation.unwrap();
    assert_eq!((guilty, score_bps, ground), (evidence.guilty, score, VerdictGround::Compared));
    let Ground::Compared(published) = &evidence.ground else { panic!("{:?}", evidence.ground) };
    let told = comparison.unwrap();
    assert_eq!(told.manifest.model_digest, published.manifest.model_digest);
    assert_eq!(told.findings.len(), published.judgement.findings.len());
    assert_eq!((told.findings[0].rung, told.findings[0].score_bps == 10_000), (RungName::Bytes, !guilty));

    let kept: EvidenceInfo = asked(network, "lcaiOperator_getEvidence", json!([job])).await;
    assert_eq!(kept.document.as_bytes(), evidence.encode(), "the document in the blob");
    assert_eq!(kept.versioned_hash, Some(on_chain.reExecutionBlobHash));

    let all: Vec<WorkerStatistics> = asked(network, "lcaiOperator_getWorkerStatistics", json!([])).await;
    let of = all.iter().find(|statistics| statistics.worker == worker).unwrap();
    assert!(of.completed > 0);
    assert_eq!((of.disputed, of.defaulted, of.canaries), (1, 0, 0));
    assert_eq!((of.convicted, of.acquitted), (u64::from(guilty), u64::from(!guilty)));
    assert_eq!(of.suspected, guilty);
}

async fn ruled(network: &impl Operated, job: JobId, outcome: DisputeOutcome) -> VerdictInfo {
    for _ in 0..100 {
        let verdict: VerdictInfo = asked(network, "lcaiOperator_getVerdict", json!([job])).await;
        if verdict.dispute.as_ref().is_some_and(|dispute| dispute.outcome == outcome) {
            return verdict;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the disputer does not know that job {job} is {outcome:?}");
}

async fn asked<T: serde::de::DeserializeOwned>(
    network: &impl Operated,
    method: &str,
    params: serde_json::Value,
) -> T {
    let answer = network.operator(method, params).await;
    serde_json::from_value(answer["result"].clone()).unwrap_or_else(|error| panic!("{error}: {answer}"))
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
async fn verified(user: &User, session: &UserSession, job: JobId) -> (Evidence, Option<Evidence>) {
    let path = Path::new(MODEL).to_owned();
    let model = EmbeddedModel { name: DEFAULT_MODEL.to_owned(), path, digest: None };
    let backend = Arc::new(EmbeddedBackend::load(&[model], 1).unwrap());
    let model = Repeated { backend, models: vec![DEFAULT_MODEL.to_owned()], embedder: None };
    verify(user.node(), job, session.key.clone(), model, None).await.unwrap()
}

async fn read<C: SolCall>(user: &User, to: Address, call: C) -> C::Return {
    let call = Call { to, input: call.abi_encode().into() };
    C::abi_decode_returns(&user.node().chain().call(call, None).await.unwrap()).unwrap()
}

async fn stake(network: &impl Network, user: &User, worker: Address) -> U256 {
    read(user, network.deployment().worker_registry, WorkerRegistry::getWorkerStakeCall { worker }).await
}

async fn worker_balance(network: &impl Network, user: &User, worker: Address) -> U256 {
    read(user, network.deployment().job_registry, JobRegistry::workerBalanceCall { worker }).await
}

async fn balance(user: &User) -> U256 {
    user.node().chain().balance(user.account()).await.unwrap()
}
