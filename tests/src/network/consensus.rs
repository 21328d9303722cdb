//! The consensus layer: Prysm's beacon nodes and validators.

use super::{Parts, Place, execution::Execution, genesis::Plan, identity::Identity, process::Process};
use crate::ports::free_ports;
use eyre::{OptionExt, WrapErr};
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpStream;

/// A beacon node.
#[derive(Debug)]
pub struct Beacon {
    /// The program.
    pub process: Process,
    /// Who it is among peers.
    pub identity: Identity,
    /// Its Beacon API.
    pub api: BeaconApi,
    grpc: String,
    discovery: u16,
}

/// A beacon node's Beacon API.
#[derive(Debug, Clone)]
pub struct BeaconApi {
    /// Which node it is.
    pub name: String,
    /// Where it is.
    pub url: String,
    client: reqwest::Client,
}

/// What a beacon node says of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finality {
    /// Slot of its head.
    pub head: u64,
    /// Its justified epoch.
    pub justified: u64,
    /// Its finalized epoch.
    pub finalized: u64,
}

impl Beacon {
    /// A beacon node that drives `execution`. It keeps every column (`--subscribe-all-data-subnets`: a supernode), or blobs
    /// could not be read back from it.
    ///
    /// # Errors
    /// When there are no ports, or its directory cannot be written.
    pub fn new(
        name: &str,
        parts: &Parts,
        plan: &Plan,
        place: &Place,
        execution: &Execution,
    ) -> eyre::Result<Self> {
        let directory = plan.path(name);
        std::fs::create_dir_all(&directory)?;
        let [api, grpc, p2p, discovery] = free_ports()?;
        let identity = Identity::random(place.peers, p2p);
        identity.write(&directory.join("p2p.key"))?;
        let process = Process::new(name, &parts.beacon_chain, &directory, place.namespace.as_deref())
            .arguments(["--accept-terms-of-use", "--disable-monitoring", "--disable-quic"])
            .arguments([
                "--minimum-peers-per-subnet 0",
                "--min-sync-peers 1",
                "--contract-deployment-block 0",
            ])
            .arguments(["--subscribe-all-data-subnets", "--subscribe-all-subnets", "--p2p-max-peers 8"])
            .arguments([
                format!("--datadir {}", directory.join("data").display()),
                format!("--chain-config-file {}", plan.path("config.yaml").display()),
                format!("--genesis-state {}", plan.path("genesis.ssz").display()),
                format!("--chain-id {}", lcai_genesis::DEFAULT_CHAIN_ID),
                format!("--network-id {}", lcai_genesis::DEFAULT_CHAIN_ID),
                format!("--deposit-contract {}", lcai_genesis::DEPOSIT_CONTRACT),
                format!("--execution-endpoint {}", execution.engine()),
                format!("--jwt-secret {}", plan.path("jwt.hex").display()),
                format!("--p2p-priv-key {}", directory.join("p2p.key").display()),
                format!("--p2p-local-ip {}", place.peers),
                format!("--p2p-host-ip {}", place.peers),
                format!("--p2p-tcp-port {p2p}"),
                format!("--p2p-udp-port {discovery}"),
                format!("--http-host {}", place.api),
                format!("--http-port {api}"),
                format!("--rpc-host {}", place.api),
                format!("--rpc-port {grpc}"),
                format!("--suggested-fee-recipient {}", lcai_genesis::addresses::FEE_POOL),
            ]);
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build()?;
        let api = BeaconApi { name: name.to_owned(), url: format!("http://{}:{api}", place.api), client };
        Ok(Self { process, identity, api, grpc: format!("{}:{grpc}", place.api), discovery })
    }

    /// The flags by which other beacon nodes find this one. Discovery is on, because Prysm tells peers how many columns it
    /// keeps only where it has a node record; without that nobody asks it for columns that gossip lost.
    ///
    /// # Errors
    /// When its record cannot be signed.
    pub fn as_peer(&self) -> eyre::Result<[String; 4]> {
        let [peer, bootstrap] = ["--peer", "--bootstrap-node"].map(str::to_owned);
        Ok([peer, self.identity.multiaddr(), bootstrap, self.identity.enr(self.discovery)?])
    }

    /// Waits until it answers, and its validators can reach it.
    ///
    /// # Errors
    /// When it ends, could not listen for its validators (it goes on without), or does not answer within two minutes; with
    /// its log.
    pub async fn answers(&mut self) -> eyre::Result<()> {
        let name = self.process.name().to_owned();
        for _ in 0..600 {
            eyre::ensure!(self.process.is_running(), "{name} ended:\n{}", self.process.log_end());
            let deaf = self.process.log_lines(&["Could not listen to port"])?;
            eyre::ensure!(deaf.is_empty(), "{name} is deaf:\n{}", deaf.join("\n"));
            if matches!(self.api.get("/eth/v1/node/version").await, Ok(Some(_)))
                && TcpStream::connect(&self.grpc).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eyre::bail!("{name} does not answer:\n{}", self.process.log_end())
    }
}

impl BeaconApi {
    /// What is under a path of the Beacon API; `None` for 404.
    ///
    /// # Errors
    /// When it cannot be reached, or answers something else than JSON.
    pub async fn get(&self, path: &str) -> eyre::Result<Option<Value>> {
        let url = format!("{}{path}", self.url);
        let named = || format!("{path} on {}", self.name);
        let answer = self.client.get(url).send().await.wrap_err_with(named)?;
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = answer.error_for_status().wrap_err_with(named)?;
        Ok(Some(answer.json().await.wrap_err_with(named)?))
    }

    /// Head, justified and finalized.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn finality(&self) -> eyre::Result<Finality> {
        let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u64>().ok());
        let head = self.get("/eth/v1/beacon/headers/head").await?.ok_or_eyre("no head")?;
        let points =
            self.get("/eth/v1/beacon/states/head/finality_checkpoints").await?.ok_or_eyre("no head")?;
        let epoch = |name: &str| number(&points["data"][name]["epoch"]).ok_or_eyre("no checkpoint");
        Ok(Finality {
            head: number(&head["data"]["header"]["message"]["slot"]).ok_or_eyre("no slot")?,
            justified: epoch("current_justified")?,
            finalized: epoch("finalized")?,
        })
    }
}

/// A validator program with the interop keys from `first` on, `count` of them, before a beacon node.
pub fn validator(
    name: &str,
    parts: &Parts,
    plan: &Plan,
    place: &Place,
    beacon: &Beacon,
    (first, count): (u64, u64),
) -> Process {
    let directory = plan.path(name);
    Process::new(name, &parts.validator, &directory, place.namespace.as_deref())
        .arguments(["--accept-terms-of-use", "--disable-monitoring"])
        .arguments([
            format!("--datadir {}", directory.join("data").display()),
            format!("--wallet-dir {}", directory.join("wallet").display()),
            format!("--chain-config-file {}", plan.path("config.yaml").display()),
            format!("--beacon-rpc-provider {}", beacon.grpc),
            format!("--beacon-rest-api-provider {}", beacon.api.url),
            format!("--interop-start-index {first}"),
            format!("--interop-num-validators {count}"),
            format!("--suggested-fee-recipient {}", lcai_genesis::addresses::FEE_POOL),
        ])
}
