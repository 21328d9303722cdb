//! A devnet with two keepers of our own and a worker that never works, for the scenarios of keeper duties.

use crate::{devnet, fee, funded, idle::IdleWorker, keeper::Keeper, until};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolEvent};
use lcai::devnet::{Devnet, DevnetConfig};
use lcai_client::{User, UserSession};
use lcai_embedded_chain::ReorgPlan;
use lcai_exex_dispatch::DispatchConfig;
use lcai_genesis::{ProtocolParams, dev::Role};
use lcai_host::{TxLane, TxSpec};
use lcai_primitives::{contracts::JobRegistry, ids::JobId};
use lcai_rpc::{api::LcaiApiClient, types::WorkerInfo};

/// The network and who is on it.
#[allow(missing_debug_implementations)]
pub struct Scene {
    /// One real worker; its own keeper has no money.
    pub devnet: Devnet,
    /// Who asks.
    pub user: User,
    /// The worker that never works.
    pub idle: IdleWorker,
    /// Two that compete.
    pub keepers: [Keeper; 2],
}

impl Scene {
    /// Starts everything; the keepers have no money yet.
    pub async fn start(params: ProtocolParams, keeper: fn(DispatchConfig) -> DispatchConfig) -> Self {
        let devnet = devnet(DevnetConfig { workers: 1, params, ..DevnetConfig::default() }).await;
        let user = funded(&devnet, 0).await;
        // The devnet's own keeper runs dry, so that the two of the scene are the only ones.
        empty(&devnet, &user, Role::Keeper.signer().unwrap()).await;
        let idle = IdleWorker::start(&devnet, devnet.user(8).unwrap().clone()).await;
        let keepers = [
            Keeper::start_with(&devnet, PrivateKeySigner::random(), keeper).await,
            Keeper::start_with(&devnet, PrivateKeySigner::random(), keeper).await,
        ];
        Self { devnet, user, idle, keepers }
    }

    /// From here on the keepers can pay.
    pub async fn pay_keepers(&self) {
        let lane = TxLane::new(self.user.node().chain(), self.devnet.user(9).unwrap().clone());
        for keeper in &self.keepers {
            let value = U256::from(10) * U256::from(10).pow(U256::from(18));
            let spec = TxSpec { value, ..TxSpec::call(keeper.account, Bytes::new()) };
            assert!(lane.send(spec).await.unwrap().receipt.success);
        }
    }

    /// Takes the disputer's money, so that it cannot rule.
    pub async fn silence_the_disputer(&self) {
        empty(&self.devnet, &self.user, Role::Disputer.signer().unwrap()).await;
    }

    /// Neither keeper only watched: each did a duty, found one done, or lost one in its block.
    pub fn both_took_part(&self) {
        for keeper in &self.keepers {
            let r = keeper.report();
            assert!(r.done + r.moot + r.lost >= 1, "{r:?}");
        }
    }

    /// Waits until a duty was done once for each of `ids` (a job's or session's, the event's first topic), takes the blocks
    /// since the first of these away with all their transactions, waits until it was done anew, and holds that it stays at
    /// once each.
    pub async fn done_once_across_a_reorg(&self, duty: &str, signature: B256, ids: &[B256]) {
        let once = vec![1; ids.len()];
        until(duty, async || self.counts(signature, ids).await == once).await;
        // Deep enough that whoever did it has seen it included.
        self.blocks(2).await;
        let chain = self.devnet.chain();
        chain.pause_mining();
        // A block that was on its way comes before this one.
        chain.mine(1).await.unwrap();
        let first = self.block_of_first(signature, ids).await;
        let depth = chain.heads().head.number - first + 1;
        let plan = ReorgPlan { new_blocks: depth + 1, replacement_txs: Vec::new(), keep_dropped: false };
        chain.reorg(depth, plan).await.unwrap();
        assert_eq!(
            self.counts(signature, ids).await,
            vec![0; ids.len()],
            "the new branch knows nothing of it"
        );
        chain.resume_mining();
        until(duty, async || self.counts(signature, ids).await == once).await;
        self.blocks(3).await;
        assert_eq!(self.counts(signature, ids).await, once, "{duty}: each once");
        self.report(&format!("{duty}, across a reorg of {depth} blocks"));
    }

    /// What the keepers' transactions came to so far.
    #[allow(clippy::print_stderr)]
    pub fn report(&self, duty: &str) {
        for (n, keeper) in self.keepers.iter().enumerate() {
            let r = keeper.report();
            eprintln!(
                "{duty}: keeper {n} so far: {} done, {} found done, {} lost, {} gas of which {} lost, {} wei of which {} lost",
                r.done, r.moot, r.lost, r.gas_used, r.gas_lost, r.cost, r.cost_lost
            );
        }
    }

    /// What the keepers count as earned is what the chain paid them, reorgs or not. Gives it, wei.
    pub async fn bounties_add_up(&self) -> U256 {
        let paid = self.raw_logs(JobRegistry::KeeperBountyPaid::SIGNATURE_HASH).await;
        let amount = |log: &serde_json::Value| {
            let data: Bytes = log["data"].as_str().unwrap().parse().unwrap();
            U256::from_be_slice(&data[..32])
        };
        let paid = paid.iter().map(amount).fold(U256::ZERO, |sum, amount| sum + amount);
        let counted = || {
            let earned = self.keepers.iter().map(Keeper::bounties);
            earned.fold(U256::ZERO, |sum, b| sum + b.timeouts + b.releases)
        };
        until("the keepers count what the chain paid", async || counted() == paid).await;
        paid
    }

    /// Jobs whose deadlines are next to each other: after the first slash the worker takes no more.
    pub async fn submit(&self, session: &UserSession, count: usize) -> Vec<JobId> {
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

    /// A worker as the node tells of it.
    pub async fn worker(&self, address: Address) -> WorkerInfo {
        let workers = self.user.node().rpc().workers().await.unwrap();
        workers.into_iter().find(|worker| worker.address == address).unwrap()
    }

    /// How often each of `ids` is the first topic of a canonical log with the signature.
    pub async fn counts(&self, signature: B256, ids: &[B256]) -> Vec<usize> {
        let logs = self.raw_logs(signature).await;
        ids.iter().map(|id| logs.iter().filter(|log| first_topic(log) == *id).count()).collect()
    }

    /// Every canonical log with the signature.
    pub async fn raw_logs(&self, signature: B256) -> Vec<serde_json::Value> {
        let filter = serde_json::json!([{ "fromBlock": "0x0", "toBlock": "latest", "topics": [signature] }]);
        let logs = self.devnet.chain().rpc("eth_getLogs", filter).await.unwrap();
        logs.as_array().unwrap().clone()
    }

    async fn block_of_first(&self, signature: B256, ids: &[B256]) -> u64 {
        let logs = self.raw_logs(signature).await;
        logs.iter().filter(|log| ids.contains(&first_topic(log))).map(block_of).min().expect("an event")
    }

    /// Waits for so many blocks more.
    pub async fn blocks(&self, count: u64) {
        let head = self.devnet.chain().heads().head.number;
        until("blocks come", async || self.devnet.chain().heads().head.number >= head + count).await;
    }
}

/// Sends all that an account has to another.
async fn empty(devnet: &Devnet, user: &User, signer: PrivateKeySigner) {
    let chain = user.node().chain();
    let (base, _) = chain.base_fees().await.unwrap();
    let left = U256::from(40_000u64) * U256::from(2 * base + 1_000_000_000);
    let value = chain.balance(signer.address()).await.unwrap() - left;
    let spec = TxSpec { value, ..TxSpec::call(devnet.user(9).unwrap().address(), Bytes::new()) };
    assert!(TxLane::new(chain, signer).send(spec).await.unwrap().receipt.success);
}

fn first_topic(log: &serde_json::Value) -> B256 {
    log["topics"][1].as_str().unwrap().parse().unwrap()
}

/// The number of a log's block.
pub fn block_of(log: &serde_json::Value) -> u64 {
    u64::from_str_radix(log["blockNumber"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}
