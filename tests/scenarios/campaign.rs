//! The load campaign: 50 workers, 500 sessions, 5,000 jobs on the embedded chain, with workers that die, drain, are slow, and
//! come back. The workers are simulated: they register, stake, send signed heartbeats, acknowledge and complete on chain,
//! without a model and without blobs. Node, draw, authorizations, sessions, jobs, timeouts and releases are real.
//!
//! `cargo test -p lcai-tests --test campaign -- --ignored --nocapture`; LCAI_CAMPAIGN_SESSIONS for another size.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

use alloy_consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolEvent};
use lcai::{
    ask::DEFAULT_MODEL,
    devnet::{Devnet, DevnetConfig},
    verify_draw::audit,
};
use lcai_client::{Connection, User};
use lcai_crypto::{EncryptionSecret, SessionKey, sign_typed};
use lcai_embedded_chain::EmbeddedChain;
use lcai_exex_dispatch::{DispatchConfig, HEARTBEAT_TTL_SECONDS};
use lcai_genesis::ProtocolParams;
use lcai_host::{LaneError, TxLane, TxSpec};
use lcai_primitives::{
    contracts::JobRegistry,
    eip712::{self, Heartbeat, HeartbeatStatus},
    ids::{ModelId, SessionId},
};
use lcai_rpc::{api::LcaiApiClient, types::SessionOffer};
use lcai_sidecar::register_worker;
use lcai_tests::{devnet, fee, funded, keeper::Keeper, run};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const WORKERS: usize = 50;
const JOBS_PER_SESSION: usize = 10;
const USERS: usize = 8;
const ACK_TIMEOUT: u64 = 20;
const MAX_JOBS: u32 = 12;
/// Of so many sessions, one's draw is repeated.
const AUDITED_EVERY: u64 = 25;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Good,
    /// Answers after three quarters of the acknowledgement time.
    Slow,
    /// Says from the second round on that it drains, and serves what it has.
    Draining,
    /// Stops in the second round.
    Dying,
    /// Stops in the second round and is back in the fourth.
    Returning,
}

impl Kind {
    const fn of(n: usize) -> Self {
        match n % 10 {
            0 => Self::Slow,
            1 => Self::Draining,
            2 => Self::Dying,
            3 => Self::Returning,
            _ => Self::Good,
        }
    }
}

struct Sim {
    kind: Kind,
    signer: PrivateKeySigner,
    alive: AtomicBool,
    draining: AtomicBool,
    nonce: Mutex<u64>,
}

/// What the chain tells.
#[derive(Default)]
struct Seen {
    /// Worker and state by job: 0 submitted, 1 acknowledged, 2 completed, 3 released, 4 refunded.
    jobs: HashMap<U256, (Address, u8)>,
    open: HashMap<Address, i64>,
    most_open: i64,
}

struct Campaign {
    devnet: Devnet,
    chain: EmbeddedChain,
    registry: Address,
    sims: BTreeMap<Address, Sim>,
    seen: Mutex<Seen>,
    round: AtomicU64,
    /// Draws won and expected, by worker.
    draws: Mutex<BTreeMap<Address, (f64, f64)>>,
    sessions: AtomicU64,
    above_capacity: AtomicU64,
    reverted: AtomicU64,
    /// Since when workers have been dead or draining.
    gone: Mutex<BTreeMap<Address, Instant>>,
    /// Draws of workers that the node should have known to be gone.
    drawn_gone: AtomicU64,
    /// Draws that were repeated from the chain.
    audited: AtomicU64,
}

#[test]
#[ignore = "takes minutes"]
fn five_thousand_jobs() {
    run(async {
        let started = Instant::now();
        let sessions: usize =
            std::env::var("LCAI_CAMPAIGN_SESSIONS").map_or(500, |text| text.parse().expect("a number"));
        let params = ProtocolParams {
            ack_timeout: ACK_TIMEOUT,
            dispute_window: 4,
            min_worker_stake: lcai(50),
            ..ProtocolParams::devnet()
        };
        let devnet = devnet(DevnetConfig { workers: 0, params, ..DevnetConfig::default() }).await;
        let keeper = Arc::new(
            Keeper::start_with(&devnet, devnet.user(8).unwrap().clone(), |config| DispatchConfig {
                duty_gas_per_minute: 600_000_000,
                ..config
            })
            .await,
        );
        let campaign = Arc::new(Campaign::new(devnet).await);
        eprintln!("{:>6.1} s  {WORKERS} workers registered", started.elapsed().as_secs_f64());
        let background = [
            tokio::spawn(follow(campaign.clone())),
            tokio::spawn(heartbeats(campaign.clone())),
            tokio::spawn(campaign.clone().tell(keeper.clone(), started)),
        ];
        campaign.wait_for_candidates().await;
        let per_user = sessions.div_ceil(USERS);
        let users = (0..USERS).map(|n| {
            let wanted = per_user.min(sessions.saturating_sub(n * per_user));
            tokio::spawn(use_sessions(campaign.clone(), n, wanted))
        });
        let submitted: usize =
            futures::future::join_all(users).await.into_iter().map(|jobs| jobs.unwrap()).sum();
        eprintln!("{:>6.1} s  {submitted} jobs submitted", started.elapsed().as_secs_f64());
        campaign.wait_for_the_end(submitted).await;
        background.iter().for_each(tokio::task::JoinHandle::abort);
        campaign.summary(submitted, started.elapsed(), &keeper);
    });
}

fn lcai(amount: u64) -> U256 {
    U256::from(amount) * U256::from(10).pow(U256::from(18))
}

impl Campaign {
    async fn new(devnet: Devnet) -> Self {
        let treasurer = funded(&devnet, 9).await;
        let lane = TxLane::new(treasurer.node().chain(), treasurer.signer().clone());
        let mut sims = BTreeMap::new();
        let registering = (0..WORKERS).map(|n| {
            let signer = PrivateKeySigner::from_bytes(&keccak256(format!("campaign worker {n}"))).unwrap();
            // One to four minimum stakes.
            let stake = lcai(50 * (1 + n as u64 / 10 % 4));
            let (lane, chain, deployment) = (&lane, treasurer.node().chain(), *devnet.deployment());
            async move {
                let spec = TxSpec { value: stake + lcai(5), ..TxSpec::call(signer.address(), Bytes::new()) };
                assert!(lane.send(spec).await.unwrap().receipt.success);
                let key = EncryptionSecret::random().public().to_sec1();
                let models = [DEFAULT_MODEL.to_owned()];
                register_worker(chain.clone(), &deployment, &signer, &key, Some(stake), &models)
                    .await
                    .unwrap();
                let nonce = chain.nonce(signer.address(), true).await.unwrap();
                (n, signer, nonce)
            }
        });
        for (n, signer, nonce) in futures::future::join_all(registering).await {
            let sim = Sim {
                kind: Kind::of(n),
                alive: AtomicBool::new(true),
                draining: AtomicBool::new(false),
                nonce: Mutex::new(nonce),
                signer,
            };
            sims.insert(sim.signer.address(), sim);
        }
        Self {
            chain: devnet.chain().clone(),
            registry: devnet.deployment().job_registry,
            devnet,
            sims,
            seen: Mutex::default(),
            round: AtomicU64::new(0),
            draws: Mutex::default(),
            sessions: AtomicU64::new(0),
            above_capacity: AtomicU64::new(0),
            reverted: AtomicU64::new(0),
            gone: Mutex::default(),
            drawn_gone: AtomicU64::new(0),
            audited: AtomicU64::new(0),
        }
    }

    async fn wait_for_candidates(&self) {
        for _ in 0..300 {
            let ready = self.devnet.node().dispatch().read(|core| {
                core.workers()
                    .filter(|(worker, _)| core.free_slots(worker, core.block_time()).is_some())
                    .count()
            });
            if ready == WORKERS {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("not every worker became healthy");
    }

    /// Signs and sends with the worker's next nonce; the gas is stated, nothing is asked first.
    async fn act(&self, sim: &Sim, input: Vec<u8>) {
        let raw = {
            let mut nonce = sim.nonce.lock();
            let transaction = TxEip1559 {
                chain_id: self.devnet.deployment().chain_id,
                nonce: *nonce,
                gas_limit: 250_000,
                max_fee_per_gas: 50_000_000_000,
                max_priority_fee_per_gas: 1_000_000_000,
                to: TxKind::Call(self.registry),
                value: U256::ZERO,
                access_list: Default::default(),
                input: input.into(),
            };
            *nonce += 1;
            let signature = sim.signer.sign_hash_sync(&transaction.signature_hash()).unwrap();
            Bytes::from(TxEnvelope::from(transaction.into_signed(signature)).encoded_2718())
        };
        if self.chain.rpc("eth_sendRawTransaction", serde_json::json!([raw])).await.is_err() {
            self.reverted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Everything that changes with the rounds.
    fn enter_round(&self, round: u64) {
        self.round.fetch_max(round, Ordering::Relaxed);
        let round = self.round.load(Ordering::Relaxed);
        for (worker, sim) in &self.sims {
            match sim.kind {
                Kind::Draining if round >= 1 => sim.draining.store(true, Ordering::Relaxed),
                Kind::Dying if round >= 1 => sim.alive.store(false, Ordering::Relaxed),
                Kind::Returning => sim.alive.store(!(1..3).contains(&round), Ordering::Relaxed),
                _ => {}
            }
            let here = sim.alive.load(Ordering::Relaxed) && !sim.draining.load(Ordering::Relaxed);
            let mut gone = self.gone.lock();
            if here {
                gone.remove(worker);
            } else {
                gone.entry(*worker).or_insert_with(Instant::now);
            }
        }
    }

    /// Whether the node has to know by now that the worker takes no sessions: a dead one's heartbeat is too old, a draining
    /// one has said so.
    fn is_known_to_be_gone(&self, worker: &Address) -> bool {
        let told = if self.sims[worker].kind == Kind::Draining { 15 } else { HEARTBEAT_TTL_SECONDS + 15 };
        self.gone.lock().get(worker).is_some_and(|since| since.elapsed() > Duration::from_secs(told))
    }

    /// Repeats the session's draw from the kept facts and the chain: weights, candidates, nobody left out.
    async fn repeat(&self, user: &User, session: SessionId) {
        let begun = Instant::now();
        let audit = loop {
            // The node may not have read the session's block yet; on a busy machine it can be a minute behind.
            match audit(user.node(), session).await {
                Ok(audit) => break audit,
                Err(error) if begun.elapsed() > Duration::from_secs(120) => {
                    panic!("session {session}: {error}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        audit.verdict().unwrap();
        assert_eq!(audit.findings.unchecked, Vec::<String>::new());
        self.audited.fetch_add(1, Ordering::Relaxed);
    }

    /// The chances that the facts of an offer gave each candidate.
    fn record(&self, offer: &SessionOffer) {
        let weight = |c: &lcai_rpc::types::DrawCandidate| {
            let stake: f64 = c.stake.min(offer.facts.stake_cap).into();
            stake * c.reputation as f64
        };
        let total: f64 = offer.facts.candidates.iter().map(weight).sum();
        let mut draws = self.draws.lock();
        for candidate in &offer.facts.candidates {
            draws.entry(candidate.worker).or_default().1 += weight(candidate) / total;
        }
        draws.entry(offer.worker).or_default().0 += 1.0;
        if self.is_known_to_be_gone(&offer.worker) {
            self.drawn_gone.fetch_add(1, Ordering::Relaxed);
        }
        let drawn = offer.facts.candidates.iter().find(|c| c.worker == offer.worker).expect("a candidate");
        if drawn.open_jobs >= u64::from(MAX_JOBS) {
            self.above_capacity.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn wait_for_the_end(&self, submitted: usize) {
        for _ in 0..1_200 {
            let ended = self.seen.lock().jobs.values().filter(|(_, state)| *state >= 3).count();
            if ended == submitted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{submitted} jobs were submitted, and ten minutes later they are {:?}", self.states());
    }

    /// How many jobs are in each state.
    fn states(&self) -> BTreeMap<u8, usize> {
        let mut states = BTreeMap::new();
        self.seen.lock().jobs.values().for_each(|(_, state)| *states.entry(*state).or_default() += 1);
        states
    }

    /// Says every half minute how far it is.
    async fn tell(self: Arc<Self>, keeper: Arc<Keeper>, started: Instant) {
        loop {
            tokio::time::sleep(Duration::from_secs(30)).await;
            eprintln!(
                "{:>6.1} s  jobs by state {:?}, {}",
                started.elapsed().as_secs_f64(),
                self.states(),
                keeper.state()
            );
        }
    }

    fn summary(&self, submitted: usize, took: Duration, keeper: &Keeper) {
        let (seen, draws) = (self.seen.lock(), self.draws.lock());
        eprintln!("\nkind        workers   drawn  expected  released  refunded");
        let mut totals = (0, 0);
        for kind in [Kind::Good, Kind::Slow, Kind::Draining, Kind::Dying, Kind::Returning] {
            let mine = |worker: &Address| self.sims[worker].kind == kind;
            let count = self.sims.values().filter(|sim| sim.kind == kind).count();
            let (won, expected) =
                draws.iter().filter(|(w, _)| mine(w)).fold((0.0, 0.0), |(a, b), (_, (c, d))| (a + c, b + d));
            let of = |state: u8| seen.jobs.values().filter(|(w, s)| *s == state && mine(w)).count();
            totals = (totals.0 + of(3), totals.1 + of(4));
            eprintln!(
                "{:<10}  {count:>7}  {won:>6}  {expected:>8.1}  {:>8}  {:>8}",
                format!("{kind:?}"),
                of(3),
                of(4)
            );
        }
        let tested: Vec<_> = draws.values().filter(|(_, expected)| *expected >= 1.0).collect();
        let chi_square: f64 = tested.iter().map(|(won, e)| (won - e).powi(2) / e).sum();
        let freedom = tested.len() as f64 - 1.0;
        // Wilson and Hilferty's approximation of the 99.9th percentile.
        let a = 2.0 / (9.0 * freedom);
        let limit = freedom * (1.0 - a + 3.09 * a.sqrt()).powi(3);
        let report = keeper.report();
        eprintln!(
            "\nsessions {}, jobs {submitted}: {} released, {} refunded",
            self.sessions.load(Ordering::Relaxed),
            totals.0,
            totals.1
        );
        eprintln!(
            "shares against weights: chi-square {chi_square:.1} at {freedom} degrees of freedom, 99.9 % limit {limit:.1}"
        );
        eprintln!(
            "open jobs of one worker: {} at most, of 16; offers above a worker's own limit: {}",
            seen.most_open,
            self.above_capacity.load(Ordering::Relaxed)
        );
        eprintln!(
            "draws repeated from the chain: {}; draws of workers known to be gone: {}",
            self.audited.load(Ordering::Relaxed),
            self.drawn_gone.load(Ordering::Relaxed)
        );
        eprintln!(
            "keeper: {} transactions, {} gas, {} lost to others",
            report.done, report.gas_used, report.lost
        );
        eprintln!("blocks {}, {:.0} s", self.chain.heads().head.number, took.as_secs_f64());
        assert_eq!(totals.0 + totals.1, submitted, "every job ends released or refunded");
        assert!(chi_square < limit, "shares follow the weights");
        assert!(seen.most_open <= 16, "nobody above the network's limit");
        assert!(self.audited.load(Ordering::Relaxed) > 0);
        assert_eq!(self.drawn_gone.load(Ordering::Relaxed), 0, "nobody is drawn who is known to be gone");
        assert_eq!(self.above_capacity.load(Ordering::Relaxed), 0, "nobody is drawn above its own");
    }
}

/// Reads blocks and has the workers act on them.
async fn follow(campaign: Arc<Campaign>) {
    let mut next = 0;
    loop {
        let head = campaign.chain.heads().head.number;
        if head < next {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let filter = serde_json::json!([{
            "fromBlock": format!("{next:#x}"), "toBlock": format!("{head:#x}"), "address": campaign.registry,
        }]);
        let logs = campaign.chain.rpc("eth_getLogs", filter).await.unwrap();
        next = head + 1;
        for log in logs.as_array().unwrap() {
            let topic =
                |n: usize| log["topics"][n].as_str().and_then(|t| t.parse::<B256>().ok()).unwrap_or_default();
            let job = U256::from_be_bytes(topic(1).0);
            let signature = topic(0);
            if signature == JobRegistry::JobSubmitted::SIGNATURE_HASH {
                let data: Bytes = log["data"].as_str().unwrap().parse().unwrap();
                let worker = Address::from_slice(&data[12..32]);
                campaign.note(job, worker, 0);
                tokio::spawn(acknowledge(campaign.clone(), job, worker));
            } else if signature == JobRegistry::JobAcknowledged::SIGNATURE_HASH {
                let worker = Address::from_word(topic(2));
                campaign.note(job, worker, 1);
                let input = JobRegistry::completeJobCall {
                    jobId: job,
                    responseBlobHash: keccak256(job.to_be_bytes::<32>()),
                    responseCiphertextHash: keccak256(job.to_be_bytes::<32>()),
                };
                campaign.act(&campaign.sims[&worker], input.abi_encode()).await;
            } else if signature == JobRegistry::JobCompleted::SIGNATURE_HASH {
                campaign.note(job, Address::from_word(topic(2)), 2);
            } else if signature == JobRegistry::JobReleased::SIGNATURE_HASH {
                campaign.end(job, 3);
            } else if signature == JobRegistry::JobTimedOut::SIGNATURE_HASH
                || signature == JobRegistry::JobSettledNoFault::SIGNATURE_HASH
            {
                campaign.end(job, 4);
            }
        }
    }
}

impl Campaign {
    fn note(&self, job: U256, worker: Address, state: u8) {
        let mut seen = self.seen.lock();
        seen.jobs.insert(job, (worker, state));
        let change = match state {
            0 => 1,
            2 => -1,
            _ => 0,
        };
        let open = seen.open.entry(worker).or_default();
        *open += change;
        let open = *open;
        seen.most_open = seen.most_open.max(open);
    }

    fn end(&self, job: U256, state: u8) {
        let mut seen = self.seen.lock();
        let Some((worker, before)) = seen.jobs.get(&job).copied() else { return };
        seen.jobs.insert(job, (worker, state));
        if before < 2 {
            *seen.open.entry(worker).or_default() -= 1;
        }
    }
}

async fn acknowledge(campaign: Arc<Campaign>, job: U256, worker: Address) {
    let Some(sim) = campaign.sims.get(&worker) else { return };
    if sim.kind == Kind::Slow {
        tokio::time::sleep(Duration::from_secs(ACK_TIMEOUT * 3 / 5)).await;
    }
    if sim.alive.load(Ordering::Relaxed) {
        campaign.act(sim, JobRegistry::acknowledgeJobCall { jobId: job }.abi_encode()).await;
    }
}

/// A heartbeat of every living worker every five seconds.
async fn heartbeats(campaign: Arc<Campaign>) {
    let node = Connection::open(campaign.devnet.url(), None).await.unwrap();
    let deployment = *campaign.devnet.deployment();
    let domain = eip712::domain(deployment.chain_id, deployment.job_registry);
    for sequence in 1.. {
        for sim in campaign.sims.values().filter(|sim| sim.alive.load(Ordering::Relaxed)) {
            let draining = sim.draining.load(Ordering::Relaxed);
            let heartbeat = Heartbeat {
                worker: sim.signer.address(),
                sent_at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
                active_jobs: 0,
                max_jobs: MAX_JOBS,
                models: vec![ModelId::from_name(DEFAULT_MODEL)],
                status: if draining { HeartbeatStatus::Draining } else { HeartbeatStatus::Active },
                inference_ready: true,
                uptime_seconds: sequence,
                sequence,
            };
            let signature = sign_typed(&sim.signer, heartbeat.signing_hash(&domain)).unwrap().to_vec();
            let _ = node.rpc().heartbeat(heartbeat, signature.into()).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Opens a user's sessions in five rounds and submits ten jobs in each; gives how many were taken.
async fn use_sessions(campaign: Arc<Campaign>, n: usize, sessions: usize) -> usize {
    let user = funded(&campaign.devnet, n).await;
    let fee = fee(&user).await;
    let lane = TxLane::new(user.node().chain(), user.signer().clone());
    let (mut taken, mut left) = (0, sessions);
    for round in 0..5u64 {
        campaign.enter_round(round);
        let opening = left.div_ceil(5 - round as usize);
        left -= opening;
        let mut open = Vec::new();
        for _ in 0..opening {
            open.push(open_session(&campaign, &user).await);
        }
        let mut wanted: Vec<(SessionId, usize)> =
            open.into_iter().flat_map(|id| (0..JOBS_PER_SESSION).map(move |job| (id, job))).collect();
        while !wanted.is_empty() {
            let sent = wanted.iter().map(|(id, job)| submit(&campaign, &lane, *id, *job, fee));
            let results = futures::future::join_all(sent).await;
            taken += results.iter().filter(|ok| **ok).count();
            wanted = wanted.into_iter().zip(results).filter(|(_, ok)| !ok).map(|(job, _)| job).collect();
            if !wanted.is_empty() {
                // The worker may not serve any more: the rest goes to another.
                let id = open_session(&campaign, &user).await;
                wanted.iter_mut().for_each(|(session, _)| *session = id);
            }
        }
    }
    taken
}

async fn open_session(campaign: &Campaign, user: &User) -> SessionId {
    loop {
        let Ok(offer) = user.request_session(DEFAULT_MODEL).await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        if let Ok(session) = user.open_session(&offer, SessionKey::random()).await {
            campaign.record(&offer);
            if campaign.sessions.fetch_add(1, Ordering::Relaxed).is_multiple_of(AUDITED_EVERY) {
                campaign.repeat(user, session.id).await;
            }
            return session.id;
        }
    }
}

/// Whether the chain took the job; a worker at the network's limit is waited for.
async fn submit(campaign: &Campaign, lane: &TxLane, session: SessionId, job: usize, fee: U256) -> bool {
    let prompt = keccak256(format!("{session} {job}"));
    let call = JobRegistry::submitJobCall { sessionId: session.word(), blobHash: prompt };
    for _ in 0..60 {
        let spec = TxSpec { value: fee, ..TxSpec::call(campaign.registry, call.abi_encode().into()) };
        match lane.send(spec).await {
            Ok(sent) if sent.receipt.success => return true,
            Err(LaneError::Reverted { reason, .. }) if !reason.contains("WorkerAtCapacity") => return false,
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    false
}
