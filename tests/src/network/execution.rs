//! The execution nodes: ours, and geth.

use super::{Place, Side, genesis::Plan, identity::Identity, process::Process};
use crate::ports::free_ports;
use eyre::{OptionExt, WrapErr};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// An execution node that a beacon node drives.
#[derive(Debug)]
pub struct Execution {
    /// The program.
    pub process: Process,
    /// Who it is among peers.
    pub identity: Identity,
    /// Its JSON-RPC.
    pub api: ExecutionApi,
    address: String,
    ws: u16,
    engine: u16,
}

/// An execution node's JSON-RPC.
#[derive(Debug, Clone)]
pub struct ExecutionApi {
    /// Which node it is.
    pub name: String,
    url: String,
    client: reqwest::Client,
}

impl Execution {
    /// One of ours. `lcai`: the flags of its role; `peers`: enodes.
    ///
    /// # Errors
    /// When there are no ports, or its directory cannot be written.
    pub fn reth(
        name: &str,
        program: &Path,
        plan: &Plan,
        place: &Place,
        lcai: &[String],
    ) -> eyre::Result<Self> {
        let directory = plan.path(name);
        std::fs::create_dir_all(&directory)?;
        let [http, ws, engine, p2p] = free_ports()?;
        let identity = Identity::random(place.peers, p2p);
        identity.write(&directory.join("p2p.key"))?;
        let process = Process::new(name, program, &directory, place.namespace.as_deref())
            .arguments(["node", "--http", "--ws", "--disable-discovery", "--ipcdisable", "--color never"])
            .arguments(["--log.file.max-files 0", "--http.api eth,net,web3,debug,admin", "--nat none"])
            // For the checker: Reth proves the newest state only, unless told otherwise.
            .arguments(["--ws.api eth,net,web3,debug", "--rpc.eth-proof-window 100"])
            .arguments([
                format!("--chain {}", plan.path("genesis.json").display()),
                format!("--datadir {}", directory.join("data").display()),
                format!("--p2p-secret-key {}", directory.join("p2p.key").display()),
                format!("--authrpc.jwtsecret {}", plan.path("jwt.hex").display()),
                format!("--http.addr {}", place.api),
                format!("--http.port {http}"),
                format!("--ws.addr {}", place.api),
                format!("--ws.port {ws}"),
                format!("--authrpc.addr {}", place.api),
                format!("--authrpc.port {engine}"),
                format!("--addr {}", place.peers),
                format!("--port {p2p}"),
            ])
            .arguments(lcai);
        let api = ExecutionApi::new(name, place, http)?;
        Ok(Self { process, identity, api, address: place.api.to_string(), ws, engine })
    }

    /// The embedded client in a program of ours (`tests/examples/embedded_node.rs`), for where there is no lcai-reth. It has
    /// no peers; [`Self::pass_on`].
    ///
    /// # Errors
    /// As [`Self::reth`].
    pub fn embedded(
        side: Side,
        program: &Path,
        plan: &Plan,
        place: &Place,
        upstream: Option<&str>,
    ) -> eyre::Result<Self> {
        let name = side.name();
        let directory = plan.path(name);
        let [rpc, engine, p2p] = free_ports()?;
        let process = Process::new(name, program, &directory, place.namespace.as_deref())
            .arguments([
                format!("--network {}", plan.directory.display()),
                format!("--data-dir {}", directory.join("data").display()),
                format!("--side {name}"),
                format!("--listen {}:{rpc}", place.api),
                format!("--engine {}:{engine}", place.api),
            ])
            .arguments(upstream.map(|url| format!("--upstream {url}")));
        let api = ExecutionApi::new(name, place, rpc)?;
        let identity = Identity::random(place.peers, p2p);
        Ok(Self { process, identity, api, address: place.api.to_string(), ws: rpc, engine })
    }

    /// Has an embedded client hand every transaction on to another one.
    #[must_use]
    pub fn pass_on(mut self, to: &str) -> Self {
        self.process = self.process.arguments([format!("--pass-on {to}")]);
        self
    }

    /// geth, with its database made from the same genesis.
    ///
    /// # Errors
    /// As [`Self::reth`], and when geth refuses the genesis.
    pub fn geth(program: &Path, plan: &Plan, place: &Place) -> eyre::Result<Self> {
        let directory = plan.path("geth");
        std::fs::create_dir_all(&directory)?;
        let [http, engine, p2p] = free_ports()?;
        let identity = Identity::random(place.peers, p2p);
        identity.write(&directory.join("p2p.key"))?;
        let data = format!("--datadir {}", directory.join("data").display());
        Process::new("geth-init", program, &directory, None)
            .arguments([data.as_str(), "init"])
            .arguments([plan.path("genesis.json").display().to_string()])
            .run()?;
        let process = Process::new("geth", program, &directory, place.namespace.as_deref())
            .arguments([data.as_str(), "--nodiscover", "--ipcdisable", "--syncmode full", "--nat none"])
            .arguments(["--http", "--http.api eth,net,web3,debug,admin", "--cache 256", "--maxpeers 8"])
            .arguments([
                format!("--networkid {}", lcai_genesis::DEFAULT_CHAIN_ID),
                format!("--nodekey {}", directory.join("p2p.key").display()),
                format!("--authrpc.jwtsecret {}", plan.path("jwt.hex").display()),
                format!("--http.addr {}", place.api),
                format!("--http.port {http}"),
                format!("--authrpc.addr {}", place.api),
                format!("--authrpc.port {engine}"),
                format!("--port {p2p}"),
            ]);
        let api = ExecutionApi::new("geth", place, http)?;
        Ok(Self { process, identity, api, address: place.api.to_string(), ws: 0, engine })
    }

    /// Where `eth_*` and `lcai_*` are, over WebSocket.
    pub fn ws(&self) -> String {
        format!("ws://{}:{}", self.address, self.ws)
    }

    /// The same of an embedded client, which serves both on one port.
    pub fn http(&self) -> String {
        format!("http://{}:{}", self.address, self.ws)
    }

    /// Where its beacon node drives it, and its operator's methods are.
    pub fn engine(&self) -> String {
        format!("http://{}:{}", self.address, self.engine)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer within two minutes; with the end of its log.
    pub async fn answers(&mut self) -> eyre::Result<()> {
        for _ in 0..600 {
            let running = self.process.is_running();
            eyre::ensure!(running, "{} ended:\n{}", self.api.name, self.process.log_end());
            if self.api.call("eth_chainId", json!([])).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        eyre::bail!("{} does not answer:\n{}", self.api.name, self.process.log_end())
    }
}

impl ExecutionApi {
    fn new(name: &str, place: &Place, port: u16) -> eyre::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build()?;
        Ok(Self { name: name.to_owned(), url: format!("http://{}:{port}", place.api), client })
    }

    /// Calls a method.
    ///
    /// # Errors
    /// When the node cannot be reached, or refuses.
    pub async fn call(&self, method: &str, params: Value) -> eyre::Result<Value> {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let named = || format!("{method} on {}", self.name);
        let answer = self.client.post(&self.url).json(&call).send().await.wrap_err_with(named)?;
        let answer: Value = answer.json().await.wrap_err_with(named)?;
        eyre::ensure!(answer.get("error").is_none(), "{}: {}", named(), answer["error"]);
        Ok(answer["result"].clone())
    }

    /// A block, by number or `latest`, `safe`, `finalized`; `None` when there is none.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn block(&self, id: &str) -> eyre::Result<Option<Value>> {
        match self.call("eth_getBlockByNumber", json!([id, false])).await {
            Ok(block) => Ok(Some(block).filter(|block| !block.is_null())),
            // Until there is one, clients refuse these two.
            Err(_) if ["safe", "finalized"].contains(&id) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of a block, as [`Self::block`].
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn height(&self, id: &str) -> eyre::Result<Option<u64>> {
        self.block(id).await?.map(|block| quantity(&block["number"])).transpose()
    }

    /// Has it connect to a peer now.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn add_peer(&self, peer: &Identity) -> eyre::Result<()> {
        self.call("admin_addPeer", json!([peer.enode()])).await.map(drop)
    }
}

/// A number as JSON-RPC writes it.
///
/// # Errors
/// When it is something else.
pub fn quantity(value: &Value) -> eyre::Result<u64> {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x")).ok_or_eyre("no quantity")?;
    Ok(u64::from_str_radix(text, 16)?)
}
