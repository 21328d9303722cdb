//! A private proof-of-stake network on this machine: Prysm's beacon nodes and validators over two Reth nodes of ours and
//! geth, the stranger. `devnet/network` starts one.

#![allow(clippy::print_stdout)]

pub mod checker;
pub mod consensus;
pub mod execution;
pub mod faults;
pub mod genesis;
pub mod identity;
pub mod link;
pub mod ollama;
pub mod process;
pub mod story;
pub mod watch;

use crate::{Network, reth::AuthServer};
use alloy_primitives::{Address, U256, uint};
use alloy_signer_local::PrivateKeySigner;
use consensus::{Beacon, validator};
use execution::Execution;
use eyre::WrapErr;
use genesis::{Genesis, Plan};
use lcai::{
    devnet::{DevAccounts, Fleet, FleetConfig, Role, WorkerModel},
    progress::Progress,
};
use lcai_client::Connection;
use lcai_primitives::contracts::Deployment;
use lcai_sidecar::WorkerHandle;
use link::Link;
use ollama::Ollama;
use process::Process;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use watch::{Sample, Watch};

/// The model that our disputer runs.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../devnet/model/lcai-tiny.gguf");

/// What workers stake beside the minimum, wei.
const TOP_UP: U256 = uint!(20_000_000_000_000_000_000_000_U256);

/// The programs that others made, and our node.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Prysm's beacon node.
    pub beacon_chain: PathBuf,
    /// Prysm's validator.
    pub validator: PathBuf,
    /// Prysm's tool, for the genesis.
    pub prysmctl: PathBuf,
    /// geth.
    pub geth: PathBuf,
    /// Ollama, where it could be built.
    pub ollama: Option<PathBuf>,
    /// Our node.
    pub node: OurNode,
}

/// What our two nodes run on.
#[derive(Debug, Clone)]
pub enum OurNode {
    /// lcai-reth.
    Reth(PathBuf),
    /// The embedded client, where lcai-reth cannot be built.
    Embedded(PathBuf),
}

impl OurNode {
    /// lcai-reth at `reth`, or the embedded client beside this program.
    ///
    /// # Errors
    /// When there is neither.
    pub fn find(reth: &Path) -> eyre::Result<Self> {
        if reth.is_file() {
            return Ok(Self::Reth(reth.to_owned()));
        }
        let embedded = std::env::current_exe()?.with_file_name("embedded_node");
        let built = embedded.is_file();
        eyre::ensure!(built, "neither lcai-reth at {} nor {}", reth.display(), embedded.display());
        Ok(Self::Embedded(embedded))
    }

    const fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }
}

impl Parts {
    /// The programs that `devnet/build-parts` put into `directory`, and our node: lcai-reth at `reth`, or what takes its
    /// place.
    ///
    /// # Errors
    /// When one is missing; the text names it.
    pub fn find(directory: &Path, reth: &Path) -> eyre::Result<Self> {
        let part = |name: &str| -> eyre::Result<PathBuf> {
            let path = directory.join(name);
            eyre::ensure!(path.is_file(), "{} is missing: devnet/build-parts makes it", path.display());
            Ok(path)
        };
        Ok(Self {
            beacon_chain: part("beacon-chain")?,
            validator: part("validator")?,
            prysmctl: part("prysmctl")?,
            geth: part("geth")?,
            ollama: part("ollama").ok(),
            node: OurNode::find(reth)?,
        })
    }
}

/// Where a node runs and is reached.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where its interfaces listen.
    pub api: Ipv4Addr,
    /// Where peers reach it.
    pub peers: Ipv4Addr,
    /// The network namespace, where it has one of its own.
    pub namespace: Option<String>,
}

impl Place {
    /// This machine.
    pub const fn here() -> Self {
        Self { api: Ipv4Addr::LOCALHOST, peers: Ipv4Addr::LOCALHOST, namespace: None }
    }
}

/// The two sides with validators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its Reth node dispatches.
    Dispatcher = 0,
    /// Its Reth node is the disputer.
    Disputer = 1,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Disputer => "disputer",
        }
    }
}

/// A running network.
#[derive(Debug)]
pub struct Net {
    /// What it is like.
    pub plan: Plan,
    /// What it began with.
    pub genesis: Genesis,
    /// Whether our nodes are embedded clients, which have no peers and forget their chain when they end.
    pub embedded: bool,
    /// Our nodes, by side.
    pub reth: [Execution; 2],
    /// The stranger.
    pub geth: Execution,
    /// Beacon nodes: by side, then the stranger's.
    pub beacons: [Beacon; 3],
    /// Validators, by side.
    pub validators: [Process; 2],
    /// The link between the halves, where it can be cut.
    pub link: Option<Link>,
    /// What the second worker answers through, where there is one.
    pub ollama: Option<Ollama>,
    fleet: Option<Fleet>,
    with_ollama: Option<WorkerHandle>,
    users: Vec<PrivateKeySigner>,
}

impl Net {
    /// Makes the genesis and starts every program. Slot 0 comes up to `plan.delay` seconds later.
    ///
    /// # Errors
    /// When something cannot be made or does not start; with the end of its log.
    pub async fn start(plan: Plan, parts: &Parts, link: Option<Link>) -> eyre::Result<Self> {
        let genesis = genesis::write(&plan, parts)?;
        let everywhere = || [Place::here(), Place::here(), Place::here()];
        let [here, there, stranger] = &link.as_ref().map_or_else(everywhere, Link::places);
        let [dispatcher, disputer] = our_nodes(parts, &plan, [here, there])?;
        let geth = Execution::geth(&parts.geth, &plan, stranger)?;
        let beacons = [
            Beacon::new("beacon-dispatcher", parts, &plan, here, &dispatcher)?,
            Beacon::new("beacon-disputer", parts, &plan, there, &disputer)?,
            Beacon::new("beacon-geth", parts, &plan, stranger, &geth)?,
        ];
        let half = plan.validators / 2;
        let validators = [
            validator("validators-dispatcher", parts, &plan, here, &beacons[0], (0, half)),
            validator(
                "validators-disputer",
                parts,
                &plan,
                there,
                &beacons[1],
                (half, plan.validators - half),
            ),
        ];
        let users = DevAccounts::derive(plan.workers)?.users;
        let reth = [dispatcher, disputer];
        let ollama = match &parts.ollama {
            Some(program) => Some(Ollama::start(program, &plan.path("ollama")).await?),
            None => None,
        };
        let mut net = Self {
            embedded: parts.node.is_embedded(),
            plan,
            genesis,
            reth,
            geth,
            beacons,
            validators,
            link,
            ollama,
            fleet: None,
            with_ollama: None,
            users,
        };
        net.start_programs().await?;
        Ok(net)
    }

    async fn start_programs(&mut self) -> eyre::Result<()> {
        self.geth.process.start()?;
        for side in [Side::Dispatcher, Side::Disputer] {
            self.start_reth(side)?;
        }
        self.geth.answers().await?;
        for reth in &mut self.reth {
            reth.answers().await?;
        }
        for reth in self.reth.iter().filter(|_| !self.embedded) {
            self.geth.api.add_peer(&reth.identity).await?;
        }
        for beacon in 0..self.beacons.len() {
            self.start_beacon(beacon)?;
        }
        for beacon in &mut self.beacons {
            beacon.answers().await?;
        }
        for validators in &mut self.validators {
            validators.start()?;
        }
        Ok(())
    }

    /// Starts one of our nodes: with its peers, and with the beacon nodes that it reads blobs from, its own first, then the
    /// stranger's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_reth(&mut self, side: Side) -> eyre::Result<()> {
        let [own, other] = match side {
            Side::Dispatcher => [0, 1],
            Side::Disputer => [1, 0],
        };
        let peers = [self.reth[other].identity.enode(), self.geth.identity.enode()].join(",");
        let mut more = if self.embedded { Vec::new() } else { vec!["--trusted-peers".to_owned(), peers] };
        for beacon in [own, 2] {
            more.extend(["--lcai.beacon".to_owned(), self.beacons[beacon].api.url.clone()]);
        }
        self.reth[own].process.start_with(&more)
    }

    /// Starts a beacon node with the two others as its peers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_beacon(&mut self, which: usize) -> eyre::Result<()> {
        let mut peers = Vec::new();
        for (other, beacon) in self.beacons.iter().enumerate() {
            if other != which {
                peers.extend(beacon.as_peer()?);
            }
        }
        self.beacons[which].process.start_with(&peers)
    }

    /// Waits until every execution node has blocks.
    ///
    /// # Errors
    /// When that takes two minutes longer than genesis; with what the programs complained of.
    pub async fn wait_for_blocks(&self, watch: &Watch) -> eyre::Result<()> {
        let begun = |sample: &Sample| {
            sample.executions.iter().all(|node| node.is_some_and(|heights| heights[0] >= 2))
        };
        let waited = watch.until("the first blocks", self.plan.delay + 120, begun).await.map(drop);
        waited.wrap_err_with(|| self.complaints())
    }

    /// The last errors in the logs of the programs that make blocks, the execution clients' warnings among them.
    fn complaints(&self) -> String {
        let clients = self.reth.iter().chain([&self.geth]).map(|execution| &execution.process);
        let beacons = self.beacons.iter().map(|beacon| &beacon.process);
        let mut all = String::new();
        for process in clients.chain(beacons).chain(&self.validators) {
            let wanted = ["level=error", "ERROR", "WARN"];
            let lines = process.log_lines(&wanted).unwrap_or_default();
            let last = &lines[lines.len().saturating_sub(3)..];
            all += &format!("{}:\n{}\n", process.name(), last.join("\n"));
        }
        all
    }

    /// Brings the workers: the first runs a worse model than it is paid for, in this process; the second the right one, in
    /// Ollama where that could be built.
    ///
    /// # Errors
    /// When they cannot register, or the node does not hear from them.
    pub async fn start_workers(&mut self) -> eyre::Result<()> {
        let node = self.reth[0].ws();
        let connection = Connection::open(&node, None).await?;
        let config = FleetConfig {
            node,
            deployment: self.genesis.deployment,
            data_dir: self.plan.path("workers"),
            workers: self.plan.workers - u32::from(self.ollama.is_some()),
            models: vec![WorkerModel::Worse, WorkerModel::Good],
        };
        self.fleet = Some(Fleet::start(&config, &connection, &Progress::new(false)).await?);
        if let Some(ollama) = &self.ollama {
            self.with_ollama = Some(ollama::start_worker(self, ollama, config.workers).await?);
        }
        for worker in 0..self.plan.workers {
            self.top_up(&connection, worker).await?;
        }
        Ok(())
    }

    /// Stakes more for a worker than the minimum, below which its first slash would take it out for the rest of the run.
    async fn top_up(&self, connection: &Connection, worker: u32) -> eyre::Result<()> {
        let (deployment, account) = (&self.genesis.deployment, Role::Worker(worker).signer()?);
        lcai_sidecar::top_up(connection.chain(), deployment, &account, Some(TOP_UP)).await?;
        Ok(())
    }

    /// A side as an application sees it.
    pub fn through(&self, side: Side) -> Through<'_> {
        Through { net: self, url: self.reth[side as usize].ws() }
    }

    /// The server of a node's operator.
    ///
    /// # Errors
    /// When the secret cannot be read.
    pub fn operator(&self, side: Side) -> eyre::Result<AuthServer> {
        let secret = std::fs::read_to_string(self.plan.path("jwt.hex"))?;
        Ok(AuthServer::new(self.reth[side as usize].engine(), &secret))
    }

    /// The slot of now; 0 before genesis.
    pub fn slot(&self) -> u64 {
        self.slot_at(unix_now())
    }

    /// The slot of a time, unix seconds.
    pub const fn slot_at(&self, time: u64) -> u64 {
        time.saturating_sub(self.genesis.time) / self.plan.slot_seconds
    }

    /// Stops everything in good order.
    pub async fn stop(mut self) {
        if let Some(fleet) = self.fleet.take() {
            fleet.stop().await;
        }
        if let Some(worker) = self.with_ollama.take() {
            worker.shutdown().await;
        }
        if let Some(ollama) = &mut self.ollama {
            ollama.stop();
        }
        let [dispatcher, disputer] = &mut self.reth;
        let [one, two, three] = &mut self.beacons;
        let [first, second] = &mut self.validators;
        let processes = [
            first,
            second,
            &mut one.process,
            &mut two.process,
            &mut three.process,
            &mut dispatcher.process,
            &mut disputer.process,
            &mut self.geth.process,
        ];
        for process in processes {
            process.stop();
        }
    }
}

fn our_nodes(parts: &Parts, plan: &Plan, [here, there]: [&Place; 2]) -> eyre::Result<[Execution; 2]> {
    match &parts.node {
        OurNode::Reth(program) => {
            let dispatcher = Execution::reth("dispatcher", program, plan, here, &dispatcher_flags(plan))?;
            let flags = disputer_flags(plan, &dispatcher.ws());
            let disputer = Execution::reth("disputer", program, plan, there, &flags)?;
            Ok([dispatcher, disputer])
        }
        OurNode::Embedded(program) => {
            let dispatcher = Execution::embedded(Side::Dispatcher, program, plan, here, None)?;
            let upstream = dispatcher.ws();
            let disputer = Execution::embedded(Side::Disputer, program, plan, there, Some(&upstream))?;
            let (to_dispatcher, to_disputer) = (dispatcher.http(), disputer.http());
            Ok([dispatcher.pass_on(&to_disputer), disputer.pass_on(&to_dispatcher)])
        }
    }
}

fn dispatcher_flags(plan: &Plan) -> Vec<String> {
    let key = |name: &str| plan.path("keys").join(name).display().to_string();
    vec![
        format!("--lcai.dispatcher-key {}", key("dispatcher")),
        format!("--lcai.keeper-key {}", key("keeper")),
        format!("--lcai.blob-key {}", key("node-blob")),
        format!("--lcai.disputer-encryption-key {}", key("escrow.json")),
        format!("--lcai.model {}", lcai::ask::DEFAULT_MODEL),
    ]
}

fn disputer_flags(plan: &Plan, upstream: &str) -> Vec<String> {
    let key = |name: &str| plan.path("keys").join(name).display().to_string();
    let mut flags = vec![
        format!("--lcai.disputer-key {}", key("disputer")),
        format!("--lcai.disputer-blob-key {}", key("disputer-blob")),
        format!("--lcai.disputer-encryption-key {}", key("escrow.json")),
        format!("--lcai.password-file {}", key("password")),
        format!("--lcai.gguf {}={MODEL}", lcai::ask::DEFAULT_MODEL),
        format!("--lcai.upstream {upstream}"),
    ];
    if let Some(seconds) = plan.canary_epoch {
        flags.extend([
            format!("--lcai.canary-epoch {seconds}"),
            format!("--lcai.canary-treasury-key {}", key("treasury")),
            "--lcai.canary-daily-cap 1000".to_owned(),
        ]);
    }
    flags
}

/// A network as one sees it through one of our nodes.
#[derive(Debug)]
pub struct Through<'a> {
    net: &'a Net,
    url: String,
}

impl Network for Through<'_> {
    fn url(&self) -> &str {
        &self.url
    }

    fn deployment(&self) -> &Deployment {
        &self.net.genesis.deployment
    }

    fn workers(&self) -> Vec<Address> {
        let mut workers = self.net.fleet.as_ref().map(Fleet::addresses).unwrap_or_default();
        workers.extend(self.net.with_ollama.as_ref().map(WorkerHandle::address));
        workers
    }

    fn user(&self, index: usize) -> PrivateKeySigner {
        self.net.users[index].clone()
    }
}

/// Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}
