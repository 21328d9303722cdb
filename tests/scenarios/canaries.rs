//! A worker that runs a worse model is caught by canaries, disputed, slashed, suspended and no longer drawn, while honest
//! ones lose nothing; and what the disputer did can be audited once it is revealed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai::{
    ask::DEFAULT_MODEL,
    devnet::{CanaryConfig, DevnetConfig, Role, WorkerModel},
};
use lcai_client::User;
use lcai_exex_disputer::canary::audit;
use lcai_genesis::LCAI;
use lcai_host::Call;
use lcai_node::DisputerHandle;
use lcai_primitives::contracts::{JobRegistry, WorkerRegistry};
use lcai_rpc::verdicts::WorkerStatistics;
use lcai_sidecar::top_up;
use lcai_tests::{Network, Operated, devnet, funded, reth::RethNet, rpc, run};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The model that the disputer and the honest worker run.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../devnet/model/lcai-tiny.gguf");

/// Jobs within which the worse model must be convicted for the first time. A quarter of its answers convict it
/// (crates/exex-disputer/measurement), so as many right ones in a row are an accident of one in ten thousand.
const CAUGHT_WITHIN: u64 = 32;

#[test]
fn the_worse_model_is_caught_suspended_and_no_longer_drawn() {
    run(async {
        let devnet = devnet(config(40)).await;
        story(&devnet).await;
        audited(devnet.node().disputer().expect("a devnet's node is the disputer")).await;
        devnet.stop().await;
    });
}

/// The same over Reth, whose process is the disputer.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn the_worse_model_is_caught_suspended_and_no_longer_drawn_on_reth() {
    run(async {
        let model = format!("{DEFAULT_MODEL}={MODEL}");
        let flags = ["--lcai.gguf", &model, "--lcai.canary-epoch", "60"];
        let network = RethNet::start_with(&config(60), &flags).await;
        story(&network).await;
        network.stop().await;
    });
}

fn config(epoch_seconds: u64) -> DevnetConfig {
    let worker_models = vec![WorkerModel::Worse, WorkerModel::Good];
    let canaries = Some(CanaryConfig { epoch_seconds, sampling_rate_bps: 10_000 });
    let mut config = DevnetConfig { workers: 2, worker_models, canaries, ..DevnetConfig::default() };
    config.params.dispute_window = 40;
    config.params.resolution_timeout = 60;
    config.params.suspension_cooldown = 3_600;
    config
}

async fn story(network: &impl Operated) {
    let (cheat, honest) = (network.workers()[0], network.workers()[1]);
    let user = funded(network, 0).await;
    // More than the minimum, or the first slash alone would end its drawing.
    let (worker, more) = (Role::Worker(0).signer().unwrap(), U256::from(10_000) * LCAI);
    top_up(user.node().chain(), network.deployment(), &worker, Some(more)).await.unwrap();
    let stakes = [stake(network, &user, cheat).await, stake(network, &user, honest).await];

    let caught = told(network, cheat, "a conviction", |worker| worker.convicted > 0).await;
    eprintln!("first conviction after {} jobs: {caught:?}", caught.completed);
    assert!(caught.completed <= CAUGHT_WITHIN, "{caught:?}");

    // Filed as a user files: the disputer's account would tell the worker what the job was.
    let filers = filers(network).await;
    let disputer = Role::Disputer.signer().unwrap().address();
    eprintln!("disputes were filed by {filers:?}");
    assert!(filers.iter().any(|filer| *filer != disputer), "{filers:?}");

    let cheated = told(network, cheat, "the suspension", |worker| worker.suspended).await;
    eprintln!("suspended after {} jobs: {cheated:?}", cheated.completed);
    // 15 % of the minimum stake, which is the honest worker's, then 30 % and more.
    let lost = stakes[0] - stake(network, &user, cheat).await;
    assert!(lost > stakes[1] * U256::from(40) / U256::from(100), "{lost}");
    for index in 1..6 {
        let user = funded(network, index).await;
        assert_eq!(user.request_session(DEFAULT_MODEL).await.unwrap().worker, honest);
    }

    let record = told(network, honest, "a job of the honest worker", |worker| worker.completed > 0).await;
    eprintln!("the honest worker: {record:?}");
    assert_eq!((record.disputed, record.convicted, record.suspended), (0, 0, false));
    assert_eq!(stake(network, &user, honest).await, stakes[1]);
}

/// Who filed each dispute.
async fn filers(network: &impl Network) -> Vec<Address> {
    let filter = json!([{
        "fromBlock": "0x0",
        "toBlock": "latest",
        "address": network.deployment().job_registry,
        "topics": [JobRegistry::DisputeCreated::SIGNATURE_HASH],
    }]);
    let logs = rpc(network, "eth_getLogs", filter).await;
    let filer = |log: &Value| {
        let topic: B256 = log["topics"][2].as_str().unwrap().parse().unwrap();
        Address::from_word(topic)
    };
    logs.as_array().unwrap().iter().map(filer).collect()
}

/// What the disputer's operator is told of the worker once it is so, within ten minutes.
async fn told(
    network: &impl Operated,
    worker: Address,
    what: &str,
    holds: impl Fn(&WorkerStatistics) -> bool,
) -> WorkerStatistics {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(600) {
        let answer = network.operator("lcaiOperator_getWorkerStatistics", json!([])).await;
        let all: Vec<WorkerStatistics> = serde_json::from_value(answer["result"].clone())
            .unwrap_or_else(|error| panic!("{error}: {answer}"));
        if let Some(found) = all.into_iter().find(|found| found.worker == worker && holds(found)) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{what} did not come within ten minutes");
}

/// The first epoch with canaries is revealed, and none of its duties was skipped.
async fn audited(disputer: &DisputerHandle) {
    let revealed = || {
        disputer.core.read(|core| {
            let now = disputer.epochs.of(core.block_time());
            let epochs = (now.saturating_sub(30)..now).filter(|epoch| {
                let row = core.epoch(*epoch);
                row.and_then(|row| row.revealed.as_ref()).is_some_and(|revealed| !revealed.jobs.is_empty())
            });
            epochs.min()
        })
    };
    let epoch = wait(Duration::from_secs(300), "a reveal", revealed).await;
    let (missed, jobs) = disputer.core.read(|core| {
        let row = core.epoch(epoch).unwrap().revealed.clone().unwrap();
        (audit(core, epoch, disputer.epochs), row.jobs.len())
    });
    let missed = missed.unwrap();
    eprintln!("epoch {epoch}: {jobs} canaries, missed: {missed:?}");
    assert!(missed.iter().all(|missed| missed.excused), "{missed:?}");
}

async fn wait<T>(limit: Duration, what: &str, look: impl Fn() -> Option<T>) -> T {
    let started = Instant::now();
    while started.elapsed() < limit {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{what} did not come within {} s", limit.as_secs());
}

async fn stake(network: &impl Network, user: &User, worker: Address) -> U256 {
    let call = WorkerRegistry::getWorkerStakeCall { worker };
    let call = Call { to: network.deployment().worker_registry, input: call.abi_encode().into() };
    let output = user.node().chain().call(call, None).await.unwrap();
    WorkerRegistry::getWorkerStakeCall::abi_decode_returns(&output).unwrap()
}
