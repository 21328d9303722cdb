//! Every keeper duty with two keepers competing, and a reorg across them: each is done once on the chain that stays, and
//! what the slower keeper lost is reported. On the way a worker that never works is timed out, suspended in the block of
//! its third offence, gone from every draw from there on, loses its sessions to a worker that works (the user's client
//! hands the key over when its subscription tells it), and comes back by reinstate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai::{
    ask::DEFAULT_MODEL,
    devnet::{Devnet, DevnetConfig},
    verify_draw::{audit, repeat},
};
use lcai_client::{User, UserSession};
use lcai_embedded_chain::ReorgPlan;
use lcai_genesis::{ProtocolParams, dev::Role};
use lcai_host::{TxLane, TxSpec};
use lcai_primitives::{
    contracts::{JobRegistry, WorkerRegistry},
    ids::JobId,
};
use lcai_rpc::{
    api::LcaiApiClient,
    types::{SessionOffer, WorkerInfo},
};
use lcai_sidecar::{reinstate, top_up};
use lcai_tests::{ask, devnet, fee, funded, idle::IdleWorker, keeper::Keeper, open_session, run};
use std::{future::Future, time::Duration};

const ACK_TIMEOUT: u64 = 8;
const RESOLUTION_TIMEOUT: u64 = 12;

#[test]
fn two_keepers_do_every_duty_once() {
    run(async {
        let params = ProtocolParams {
            ack_timeout: ACK_TIMEOUT,
            dispute_window: 4,
            resolution_timeout: RESOLUTION_TIMEOUT,
            suspension_cooldown: 5,
            ..ProtocolParams::devnet()
        };
        let devnet = devnet(DevnetConfig { workers: 1, params, ..DevnetConfig::default() }).await;
        let user = funded(&devnet, 0).await;
        let scene = Scene { devnet, user };
        // The devnet's own keeper runs dry, so that the two below are the only ones.
        scene.empty(Role::Keeper.signer().unwrap()).await;
        let idle = IdleWorker::start(&scene.devnet, scene.devnet.user(8).unwrap().clone()).await;
        let poor =
            [alloy_signer_local::PrivateKeySigner::random(), alloy_signer_local::PrivateKeySigner::random()];
        let keepers = [
            Keeper::start(&scene.devnet, poor[0].clone()).await,
            Keeper::start(&scene.devnet, poor[1].clone()).await,
        ];

        scene.settles_what_could_not_be_timed_out(&idle, &keepers).await;
        let session = scene.times_out_once_across_a_reorg(&idle, &keepers).await;
        scene.repeats_draws(&idle, &session).await;
        let session = scene.hands_the_session_over(&idle, session).await;
        scene.releases_in_batches(&session, &keepers).await;
        scene.comes_back(&idle).await;
        scene.devnet.stop().await;
    });
}

struct Scene {
    devnet: Devnet,
    user: User,
}

impl Scene {
    /// The keepers cannot pay for the first three attempts at the timeout; once they can, the no-fault window is open.
    async fn settles_what_could_not_be_timed_out(&self, idle: &IdleWorker, keepers: &[Keeper; 2]) {
        let session = self.session_with(idle.address()).await;
        let job = self.submit(&session).await;
        let stake = self.worker(idle.address()).await.stake;
        tokio::time::sleep(Duration::from_secs(ACK_TIMEOUT + 21)).await;
        for keeper in keepers {
            self.send_money(keeper.account, 10).await;
        }
        let settled = "the job is settled without blame";
        until(settled, async || self.count(job, JobRegistry::JobSettledNoFault::SIGNATURE_HASH).await == 1)
            .await;
        self.blocks(3).await;
        assert_eq!(self.count(job, JobRegistry::JobSettledNoFault::SIGNATURE_HASH).await, 1);
        assert_eq!(self.count(job, JobRegistry::JobTimedOut::SIGNATURE_HASH).await, 0);
        assert_eq!(self.worker(idle.address()).await.stake, stake, "nobody is blamed");
        self.report("settleStuckJob", keepers);
    }

    /// Three timeouts, a reorg that takes them away, and three timeouts again.
    async fn times_out_once_across_a_reorg(&self, idle: &IdleWorker, keepers: &[Keeper; 2]) -> UserSession {
        let session = self.session_with(idle.address()).await;
        let jobs = self.submit_at_once(&session, 3).await;
        let timed_out = async || {
            let mut events = Vec::new();
            for job in &jobs {
                events.push(self.count(*job, JobRegistry::JobTimedOut::SIGNATURE_HASH).await);
            }
            events
        };
        let slashes = async || self.logs(WorkerRegistry::WorkerSlashed::SIGNATURE_HASH).await.len();
        until("all three are timed out", async || timed_out().await == [1, 1, 1]).await;
        let suspended_in = self.suspension().await;
        self.devnet.chain().pause_mining();
        let head = self.devnet.chain().heads().head.number;
        let first = self.first_timeout().await;
        let plan =
            ReorgPlan { new_blocks: head - first + 2, replacement_txs: Vec::new(), keep_dropped: false };
        self.devnet.chain().reorg(head - first + 1, plan).await.unwrap();
        assert_eq!(timed_out().await, [0, 0, 0], "the new branch knows nothing of them");
        self.devnet.chain().resume_mining();
        until("all three are timed out again", async || timed_out().await == [1, 1, 1]).await;
        self.blocks(3).await;
        assert_eq!(timed_out().await, [1, 1, 1], "each once");
        assert_eq!(slashes().await, 3);
        self.report("claimTimeout, across a reorg", keepers);

        // Suspended in the block of the third offence: no draw after it has the worker.
        let again = self.suspension().await;
        assert_ne!(suspended_in, again, "another block, on another branch");
        until("the directory has it", async || self.worker(idle.address()).await.suspended_until.is_some())
            .await;
        for _ in 0..5 {
            let offer = self.offer_to_somebody().await;
            assert!(offer.facts.block.number >= again, "drawn on the directory of its block");
            assert!(offer.facts.candidates.iter().all(|c| c.worker != idle.address()));
            self.blocks(1).await;
        }
        session
    }

    /// Draws are repeated from the chain and the kept facts: the one that the worker won, and one after its suspension.
    async fn repeats_draws(&self, idle: &IdleWorker, won: &UserSession) {
        let audited = audit(self.user.node(), won.id).await.unwrap();
        assert_eq!(audited.drawn, Some(idle.address()));
        assert_eq!((audited.wrong.clone(), audited.unchecked.clone()), (vec![], vec![]));
        assert_eq!(audited.checked.len(), 5, "{:?}", audited.checked);

        let session = open_session(&self.user).await;
        let known = async || self.user.node().rpc().get_session(session.id).await.unwrap().is_some();
        until("the node's directory has the session", known).await;
        let audited = audit(self.user.node(), session.id).await.unwrap();
        audited.verdict().unwrap();
        let lines = audited.lines(&[idle.address(), Address::ZERO]);
        let of = |worker: Address| lines.iter().find(|line| line.starts_with(&worker.to_string())).unwrap();
        assert!(of(idle.address()).contains("no candidate: suspended"), "{lines:?}");
        assert!(of(Address::ZERO).contains("did not list the model"), "{lines:?}");

        // A node that tells another story is found out.
        let mut lie = audited.report.clone();
        lie.workers.retain(|worker| worker.worker != session.worker);
        assert_ne!(repeat(&lie), Some(session.worker));
    }

    /// A keeper reassigns; the user's client is told by its subscription, and the conversation goes on.
    async fn hands_the_session_over(&self, idle: &IdleWorker, session: UserSession) -> UserSession {
        let now = tokio::time::timeout(Duration::from_secs(60), self.user.next_worker(&session)).await;
        let now = now.expect("the subscription tells of the new worker").unwrap().unwrap();
        assert_ne!(now.worker, idle.address());
        assert_eq!(now.worker, self.devnet.workers()[0]);
        let reassigned = self.logs(JobRegistry::SessionReassigned::SIGNATURE_HASH).await;
        assert_eq!(reassigned.iter().filter(|id| **id == B256::from(now.id.word())).count(), 1, "once");
        let (answer, _) = ask(&self.user, &now, "What is the capital of France?").await;
        assert!(answer.text.contains("Paris"), "{}", answer.text);
        now
    }

    /// The worker releases its own jobs too, so three compete for each.
    async fn releases_in_batches(&self, session: &UserSession, keepers: &[Keeper; 2]) {
        let mut jobs = Vec::new();
        for question in ["What is the capital of Italy?", "What is the capital of Spain?"] {
            jobs.push(ask(&self.user, session, question).await.0.receipt.job.id);
        }
        let released = async || {
            let mut events = Vec::new();
            for job in &jobs {
                events.push(self.count(*job, JobRegistry::JobReleased::SIGNATURE_HASH).await);
            }
            events
        };
        until("all are released", async || released().await == [1, 1]).await;
        self.blocks(3).await;
        assert_eq!(released().await, [1, 1], "each once");
        self.report("releaseJobs", keepers);
        let earned: Vec<_> = keepers.iter().map(Keeper::bounties).collect();
        let timeouts = earned.iter().fold(U256::ZERO, |sum, b| sum + b.timeouts);
        assert!(!timeouts.is_zero(), "the bounties of three timeouts: {earned:?}");
        let paid: U256 = self.bounties_paid().await;
        let counted = earned.iter().fold(U256::ZERO, |sum, b| sum + b.timeouts + b.releases);
        assert_eq!(counted, paid, "what the keepers count is what the chain paid, reorg or not");
    }

    /// Only reinstate, after the cooldown, and with stake enough.
    async fn comes_back(&self, idle: &IdleWorker) {
        let node = self.user.node();
        let deployment = self.devnet.deployment();
        reinstate(node.chain(), deployment, &idle.signer).await.unwrap().expect("it was suspended");
        top_up(node.chain(), deployment, &idle.signer, None).await.unwrap().expect("it was slashed");
        until("it is drawn again", async || {
            let offer = self.offer_to_somebody().await;
            offer.facts.candidates.iter().any(|c| c.worker == idle.address())
        })
        .await;
    }

    /// A draw for an account that never asked: one that did is given the same worker, with the facts of then, for two
    /// minutes.
    async fn offer_to_somebody(&self) -> SessionOffer {
        let rpc = self.user.node().rpc();
        rpc.request_session(
            DEFAULT_MODEL.to_owned(),
            alloy_signer_local::PrivateKeySigner::random().address(),
        )
        .await
        .unwrap()
    }

    /// Sessions until the draw gives one with the worker.
    async fn session_with(&self, worker: Address) -> UserSession {
        for _ in 0..40 {
            let ready = self.offer_to_somebody().await;
            if ready.facts.candidates.iter().any(|c| c.worker == worker) {
                let session = open_session(&self.user).await;
                if session.worker == worker {
                    return session;
                }
            }
            self.blocks(1).await;
        }
        panic!("{worker} was never drawn");
    }

    async fn submit(&self, session: &UserSession) -> JobId {
        self.submit_at_once(session, 1).await[0]
    }

    /// Jobs whose deadlines are next to each other: after the first slash the worker takes no more.
    async fn submit_at_once(&self, session: &UserSession, count: usize) -> Vec<JobId> {
        let to = self.devnet.deployment().job_registry;
        let value = fee(&self.user).await;
        let mut specs = Vec::new();
        for _ in 0..count {
            let blob =
                self.user.publish_prompt(&session.key, b"What is the capital of France?").await.unwrap();
            let call =
                JobRegistry::submitJobCall { sessionId: session.id.word(), blobHash: blob.versioned_hash };
            specs.push(TxSpec { value, ..TxSpec::call(to, call.abi_encode().into()) });
        }
        let lane = TxLane::new(self.user.node().chain(), self.user.signer().clone());
        let sent = futures::future::join_all(specs.into_iter().map(|spec| lane.send(spec))).await;
        let mut jobs = Vec::new();
        for sent in sent {
            let receipt = self.user.node().receipt(sent.unwrap().hash).await.unwrap().unwrap();
            let log = receipt.inner.logs().iter().find(|log| log.address() == to).expect("it succeeded");
            jobs.push(JobId::try_from(U256::from_be_bytes(log.topics()[1].0)).unwrap());
        }
        jobs
    }

    async fn worker(&self, address: Address) -> WorkerInfo {
        let workers = self.user.node().rpc().workers().await.unwrap();
        workers.into_iter().find(|worker| worker.address == address).unwrap()
    }

    /// The first indexed argument of every canonical log with the signature.
    async fn logs(&self, signature: B256) -> Vec<B256> {
        self.raw_logs(signature)
            .await
            .iter()
            .map(|log| log["topics"][1].as_str().unwrap().parse().unwrap())
            .collect()
    }

    async fn raw_logs(&self, signature: B256) -> Vec<serde_json::Value> {
        let filter = serde_json::json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": [signature] }]);
        let logs = self.devnet.chain().rpc("eth_getLogs", filter).await.unwrap();
        logs.as_array().unwrap().clone()
    }

    async fn count(&self, job: JobId, signature: B256) -> usize {
        self.logs(signature).await.iter().filter(|id| **id == B256::from(job.word())).count()
    }

    async fn block_of_last(&self, signature: B256) -> u64 {
        let logs = self.raw_logs(signature).await;
        let number = logs.last().expect("an event")["blockNumber"].as_str().unwrap().to_owned();
        u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap()
    }

    async fn suspension(&self) -> u64 {
        self.block_of_last(WorkerRegistry::WorkerSuspended::SIGNATURE_HASH).await
    }

    async fn first_timeout(&self) -> u64 {
        let logs = self.raw_logs(JobRegistry::JobTimedOut::SIGNATURE_HASH).await;
        u64::from_str_radix(logs[0]["blockNumber"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    async fn bounties_paid(&self) -> U256 {
        let logs = self.raw_logs(JobRegistry::KeeperBountyPaid::SIGNATURE_HASH).await;
        let amount = |log: &serde_json::Value| {
            let data: Bytes = log["data"].as_str().unwrap().parse().unwrap();
            U256::from_be_slice(&data[..32])
        };
        logs.iter().map(amount).fold(U256::ZERO, |sum, amount| sum + amount)
    }

    async fn blocks(&self, count: u64) {
        let head = self.devnet.chain().heads().head.number;
        until("blocks come", async || self.devnet.chain().heads().head.number >= head + count).await;
    }

    async fn send_money(&self, to: Address, lcai: u64) {
        let value = U256::from(lcai) * U256::from(10).pow(U256::from(18));
        let spec = TxSpec { value, ..TxSpec::call(to, Bytes::new()) };
        let lane = TxLane::new(self.user.node().chain(), self.devnet.user(9).unwrap().clone());
        assert!(lane.send(spec).await.unwrap().receipt.success);
    }

    async fn empty(&self, signer: alloy_signer_local::PrivateKeySigner) {
        let chain = self.user.node().chain();
        let (base, _) = chain.base_fees().await.unwrap();
        let left = U256::from(40_000u64) * U256::from(2 * base + 1_000_000_000);
        let value = chain.balance(signer.address()).await.unwrap() - left;
        let spec = TxSpec { value, ..TxSpec::call(self.devnet.user(9).unwrap().address(), Bytes::new()) };
        assert!(TxLane::new(chain, signer).send(spec).await.unwrap().receipt.success);
    }

    #[allow(clippy::print_stderr)]
    fn report(&self, duty: &str, keepers: &[Keeper; 2]) {
        for (n, keeper) in keepers.iter().enumerate() {
            let r = keeper.report();
            eprintln!(
                "{duty}: keeper {n}: {} done, {} found done, {} lost, {} gas of which {} lost, {} wei of which {} lost",
                r.done, r.moot, r.lost, r.gas_used, r.gas_lost, r.cost, r.cost_lost
            );
        }
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    panic!("waited for a minute and a half: {what}");
}
