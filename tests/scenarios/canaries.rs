//! A worker that runs a worse model is caught by canaries, disputed, slashed, suspended and no longer drawn, while honest
//! ones lose nothing; and what the disputer did can be audited once it is revealed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

use alloy_primitives::{Address, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use lcai::devnet::{CanaryConfig, Devnet, DevnetConfig, Role, WorkerModel};
use lcai_client::User;
use lcai_exex_disputer::{WorkerRecord, canary::audit};
use lcai_genesis::LCAI;
use lcai_host::{Call, TxLane, TxSpec};
use lcai_node::DisputerHandle;
use lcai_primitives::contracts::WorkerRegistry;
use lcai_tests::{devnet, funded, run};
use std::time::{Duration, Instant};

/// Jobs within which the worse model must be convicted for the first time. A third of its answers convict it
/// (crates/exex-disputer/measurement), so as many right ones in a row are an accident of one in ten thousand.
const CAUGHT_WITHIN: u64 = 24;

#[test]
fn the_worse_model_is_caught_suspended_and_no_longer_drawn() {
    run(async {
        let worker_models = vec![WorkerModel::Worse, WorkerModel::Good];
        let canaries = Some(CanaryConfig { epoch_seconds: 40, sampling_rate_bps: 10_000 });
        let mut config = DevnetConfig { workers: 2, worker_models, canaries, ..DevnetConfig::default() };
        config.params.dispute_window = 40;
        config.params.resolution_timeout = 60;
        config.params.suspension_cooldown = 3_600;
        let devnet = devnet(config).await;
        let (cheat, honest) = (devnet.workers()[0], devnet.workers()[1]);
        let user = funded(&devnet, 0).await;
        // More than the minimum, or the first slash alone would end its drawing.
        top_up(&devnet, &user, Role::Worker(0).signer().unwrap(), U256::from(10_000) * LCAI).await;
        let disputer = devnet.node().disputer().expect("a devnet's node is the disputer").clone();
        let stakes = [stake(&devnet, &user, cheat).await, stake(&devnet, &user, honest).await];

        let caught = wait(Duration::from_secs(420), "a conviction", || {
            let record = record(&disputer, cheat);
            (record.convicted > 0).then_some(record)
        })
        .await;
        eprintln!("first conviction after {} jobs: {caught:?}", caught.completed);
        assert!(caught.completed <= CAUGHT_WITHIN, "{caught:?}");

        wait(Duration::from_secs(600), "the suspension", || is_suspended(&devnet, cheat).then_some(())).await;
        let cheated = record(&disputer, cheat);
        eprintln!("suspended after {} jobs: {cheated:?}", cheated.completed);
        // 15 % of the minimum stake, which is the honest worker's, then 30 % and more.
        let lost = stakes[0] - stake(&devnet, &user, cheat).await;
        assert!(lost > stakes[1] * U256::from(40) / U256::from(100), "{lost}");
        for index in 1..6 {
            let user = funded(&devnet, index).await;
            assert_eq!(user.request_session(lcai::ask::DEFAULT_MODEL).await.unwrap().worker, honest);
        }

        let record = record(&disputer, honest);
        eprintln!("the honest worker: {record:?}");
        assert!(record.completed > 0);
        assert_eq!((record.disputed, record.convicted), (0, 0));
        assert_eq!(stake(&devnet, &user, honest).await, stakes[1]);
        audited(&disputer).await;
        devnet.stop().await;
    });
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

async fn top_up(devnet: &Devnet, user: &User, worker: PrivateKeySigner, value: U256) {
    let lane = TxLane::new(user.node().chain(), worker);
    let call = WorkerRegistry::topUpStakeCall {};
    let spec = TxSpec::call(devnet.deployment().worker_registry, call.abi_encode().into());
    assert!(lane.send(TxSpec { value, ..spec }).await.unwrap().receipt.success);
}

fn record(disputer: &DisputerHandle, worker: Address) -> WorkerRecord {
    disputer.core.read(|core| {
        core.workers().find(|(address, _)| **address == worker).map(|(_, record)| *record).unwrap_or_default()
    })
}

fn is_suspended(devnet: &Devnet, worker: Address) -> bool {
    devnet.node().dispatch().read(|core| core.worker(&worker).is_some_and(|w| w.suspended_until.is_some()))
}

async fn stake(devnet: &Devnet, user: &User, worker: Address) -> U256 {
    let call = WorkerRegistry::getWorkerStakeCall { worker };
    let call = Call { to: devnet.deployment().worker_registry, input: call.abi_encode().into() };
    let output = user.node().chain().call(call, None).await.unwrap();
    WorkerRegistry::getWorkerStakeCall::abi_decode_returns(&output).unwrap()
}
