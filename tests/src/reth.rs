//! The same network over the Reth node: `lcai-reth node --dev` as a process, with the devnet's workers brought to it.

use crate::{Network, Operated, ports::free_ports};
use alloy_primitives::{Address, hex};
use alloy_signer_local::PrivateKeySigner;
use jsonwebtoken::{EncodingKey, Header, encode};
use lcai::{
    devnet::{DevAccounts, DevnetConfig, Fleet, FleetConfig, genesis_spec},
    progress::Progress,
};
use lcai_client::Connection;
use lcai_genesis::DEFAULT_TIMESTAMP;
use lcai_host_rpc::RpcClient;
use lcai_primitives::contracts::Deployment;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Where the binary is: `LCAI_RETH`.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("LCAI_RETH").expect("LCAI_RETH names the lcai-reth binary");
    PathBuf::from(path)
}

/// A node as a process.
#[derive(Debug)]
pub struct RethNode {
    child: Option<Child>,
    directory: TempDir,
    ports: [u16; 5],
    /// Its identity among peers.
    identity: PrivateKeySigner,
    role: NodeRole,
    /// Flags beside those of its role.
    flags: Vec<String>,
}

#[derive(Debug)]
enum NodeRole {
    /// Makes a block this often.
    Miner(Duration),
    /// Takes blocks from another node and hands sessions on to it: its address and its place among peers.
    Follower { url: String, enode: String },
    /// Takes blocks over the Engine API.
    Driven,
    /// Whatever this command line makes it, from `node` on.
    Told(Vec<String>),
}

impl RethNode {
    /// Writes the genesis of such a devnet and starts the node on it.
    pub async fn start(config: &DevnetConfig, flags: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("lcai-reth-").tempdir().unwrap();
        std::fs::write(directory.path().join("genesis.json"), Self::genesis(config)).unwrap();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self::begin(directory, NodeRole::Miner(config.block_time), flags).await
    }

    /// The genesis of such a devnet, JSON.
    pub fn genesis(config: &DevnetConfig) -> String {
        let accounts = DevAccounts::derive(config.workers).unwrap();
        let spec = genesis_spec(config, &accounts, DEFAULT_TIMESTAMP).unwrap();
        serde_json::to_string(&lcai_genesis::build(&spec).unwrap().genesis).unwrap()
    }

    /// Starts a node on this one's chain that follows it and signs nothing itself.
    pub async fn follower(&self) -> Self {
        let directory = tempfile::Builder::new().prefix("lcai-follower-").tempdir().unwrap();
        let genesis = |at: &TempDir| at.path().join("genesis.json");
        std::fs::copy(genesis(&self.directory), genesis(&directory)).unwrap();
        Self::begin(directory, NodeRole::Follower { url: self.url(), enode: self.enode() }, Vec::new()).await
    }

    /// Starts a node on a genesis (its JSON) that waits for what the Engine API gives it.
    pub async fn driven(genesis: &str, flags: &[String]) -> Self {
        let directory = tempfile::Builder::new().prefix("lcai-driven-").tempdir().unwrap();
        std::fs::write(directory.path().join("genesis.json"), genesis).unwrap();
        Self::begin(directory, NodeRole::Driven, flags.to_vec()).await
    }

    /// Starts a node by a command line, from `node` on; directories and ports are added.
    pub async fn told(line: Vec<String>) -> Self {
        let directory = tempfile::Builder::new().prefix("lcai-told-").tempdir().unwrap();
        Self::begin(directory, NodeRole::Told(line), Vec::new()).await
    }

    async fn begin(directory: TempDir, role: NodeRole, flags: Vec<String>) -> Self {
        let identity = PrivateKeySigner::random();
        let key = hex::encode(identity.to_bytes());
        std::fs::write(directory.path().join("p2p.key"), key).unwrap();
        let mut node = Self { child: None, directory, ports: free_ports().unwrap(), identity, role, flags };
        node.restart().await;
        node
    }

    /// Where peers find it.
    fn enode(&self) -> String {
        let point = self.identity.credential().verifying_key().to_encoded_point(false);
        format!("enode://{}@127.0.0.1:{}", hex::encode(&point.as_bytes()[1..]), self.ports[3])
    }

    /// Where `eth_*` and `lcai_*` are, over WebSocket.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.ports[0])
    }

    /// The same without a scheme, for who stands in front of it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[0]))
    }

    /// Where `eth_*` and `lcai_*` are, over HTTP.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    /// Where the operator's methods are, and the file with the JWT secret.
    pub fn operator(&self) -> (String, PathBuf) {
        (format!("http://127.0.0.1:{}", self.ports[2]), self.directory.path().join("data/jwt.hex"))
    }

    /// The server with the operator's methods and the Engine API.
    pub fn authenticated(&self) -> AuthServer {
        let (url, secret) = self.operator();
        AuthServer::new(url, &std::fs::read_to_string(secret).unwrap())
    }

    /// Where metrics are.
    pub fn metrics(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.ports[4])
    }

    /// What the node wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The command line, with these flags more or instead.
    fn command(&self, flags: &[&str]) -> Command {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let [ws, http, auth, p2p, metrics] = self.ports.map(|port| port.to_string());
        let mut settings = vec![
            ("--datadir", path("data")),
            ("--ipcpath", path("reth.ipc")),
            ("--ws.port", ws),
            ("--http.port", http),
            ("--authrpc.port", auth),
            ("--port", p2p),
        ];
        let mut command = Command::new(binary());
        // Reth's own log files.
        command.env("XDG_CACHE_HOME", self.directory.path());
        match &self.role {
            NodeRole::Told(line) => {
                command.args(line);
            }
            _ => {
                command.args(["node", "--ws", "--ws.api", "eth,net,web3,debug", "--http"]);
                command.args(["--disable-discovery", "--color", "never", "--log.file.max-files", "0"]);
                settings.extend([
                    ("--chain", path("genesis.json")),
                    ("--p2p-secret-key", path("p2p.key")),
                    ("--metrics", format!("127.0.0.1:{metrics}")),
                ]);
            }
        }
        match &self.role {
            NodeRole::Miner(block_time) => {
                command.args(["--dev", "--dev.finality-depth", "9"]);
                settings.push(("--dev.block-time", format!("{}ms", block_time.as_millis())));
            }
            NodeRole::Follower { url, enode } => settings.extend([
                ("--lcai.upstream", url.clone()),
                ("--debug.rpc-consensus-url", url.clone()),
                ("--trusted-peers", enode.clone()),
            ]),
            NodeRole::Driven | NodeRole::Told(_) => {}
        }
        let given = |flag: &str| flags.contains(&flag) || self.flags.iter().any(|own| own == flag);
        for (flag, value) in settings.into_iter().filter(|(flag, _)| !given(flag)) {
            command.arg(flag).arg(value);
        }
        command.args(&self.flags).args(flags).stdin(Stdio::null());
        command
    }

    /// Runs it with these flags more or instead until it ends by itself, within half a minute, and gives what it wrote; `None` when it
    /// goes on running, which is then ended.
    pub fn refused(&self, flags: &[&str]) -> Option<String> {
        let log = self.directory.path().join("refused");
        let file = std::fs::File::create(&log).unwrap();
        let mut command = self.command(flags);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let mut child = command.spawn().unwrap();
        for _ in 0..300 {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(!status.success(), "it ended as if nothing were wrong");
                return Some(std::fs::read_to_string(&log).unwrap());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    /// Gives it flags more, or instead, from its next start on.
    pub fn add_flags(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// What it answers over IPC: the whole JSON-RPC answer.
    pub async fn ipc(&self, method: &str, params: Value) -> Value {
        let mut stream = UnixStream::connect(self.directory.path().join("reth.ipc")).await.unwrap();
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        stream.write_all(call.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "it hung up");
            if let Ok(answer) = serde_json::from_slice(&answer) {
                return answer;
            }
        }
    }

    /// Starts the node where it stopped, and waits until it answers.
    pub async fn restart(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .unwrap();
        for _ in 0..5 {
            let mut command = self.command(&[]);
            command.stdout(log.try_clone().unwrap()).stderr(log.try_clone().unwrap());
            self.child = Some(command.spawn().unwrap());
            if self.answers().await {
                return;
            }
        }
        panic!("the node does not start:\n{}", tail(&self.log()));
    }

    /// Whether it comes up; `false` when the process ended, e.g. because the kernel still holds the old one's lock.
    async fn answers(&mut self) -> bool {
        for _ in 0..600 {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                tokio::time::sleep(Duration::from_secs(1)).await;
                return false;
            }
            let up = match self.role {
                // Perhaps without lcai_*.
                NodeRole::Driven => RpcClient::connect(&self.url(), None).await.is_ok(),
                _ => Connection::open(&self.url(), None).await.is_ok(),
            };
            if up {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the node does not answer within a minute:\n{}", tail(&self.log()));
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks it to stop, and waits until it has.
    pub fn terminate(&mut self) {
        if let Some(mut child) = self.child.take() {
            let signalled = Command::new("kill").arg(child.id().to_string()).status().unwrap();
            assert!(signalled.success());
            child.wait().unwrap();
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// Where it keeps everything.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for RethNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that wants a token made with the JWT secret.
#[derive(Debug)]
pub struct AuthServer {
    client: reqwest::Client,
    url: String,
    secret: Vec<u8>,
}

impl AuthServer {
    /// The server at `url`; `secret` is 32 bytes in hex.
    pub fn new(url: String, secret: &str) -> Self {
        let secret = hex::decode(secret.trim()).unwrap();
        Self { client: reqwest::Client::new(), url, secret }
    }

    /// The whole answer; where it is not JSON, the HTTP status as `status`.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let key = EncodingKey::from_secret(&self.secret);
        let token = encode(&Header::default(), &json!({ "iat": now }), &key).unwrap();
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.client.post(&self.url).bearer_auth(token).json(&call).send().await.unwrap();
        let status = answer.status().as_u16();
        answer.json().await.unwrap_or_else(|_| json!({ "status": status }))
    }
}

/// A network as one sees it through another of its nodes.
#[derive(Debug)]
pub struct Through<'a> {
    /// The network.
    pub network: &'a RethNet,
    url: String,
}

impl<'a> Through<'a> {
    /// `network`, through `node`.
    pub fn node(network: &'a RethNet, node: &RethNode) -> Self {
        Self { network, url: node.url() }
    }
}

impl Network for Through<'_> {
    fn url(&self) -> &str {
        &self.url
    }

    fn deployment(&self) -> &Deployment {
        self.network.deployment()
    }

    fn workers(&self) -> Vec<Address> {
        self.network.workers()
    }

    fn user(&self, index: usize) -> PrivateKeySigner {
        self.network.user(index)
    }
}

/// A Reth node with workers.
#[derive(Debug)]
pub struct RethNet {
    /// The node.
    pub node: RethNode,
    fleet: Fleet,
    url: String,
    deployment: Deployment,
    users: Vec<PrivateKeySigner>,
}

impl RethNet {
    /// Starts the node and its workers.
    pub async fn start(config: &DevnetConfig) -> Self {
        Self::start_with(config, &[]).await
    }

    /// Starts a node with these flags more, and its workers.
    pub async fn start_with(config: &DevnetConfig, flags: &[&str]) -> Self {
        lcai::logging::init(None);
        let node = RethNode::start(config, flags).await;
        let url = node.url();
        Self::over(node, url, config).await
    }

    /// Brings workers to a node, which users and workers reach at `url`.
    pub async fn over(node: RethNode, url: String, config: &DevnetConfig) -> Self {
        let connection = Connection::open(&url, None).await.unwrap();
        let deployment = connection.network().deployment;
        let fleet = FleetConfig {
            node: url.clone(),
            deployment,
            data_dir: node.directory().to_owned(),
            workers: config.workers,
            models: config.worker_models.clone(),
        };
        let started = Fleet::start(&fleet, &connection, &Progress::new(false)).await;
        let fleet = started.unwrap_or_else(|error| panic!("{error:?}\n{}", tail(&node.log())));
        let users = DevAccounts::derive(config.workers).unwrap().users;
        Self { node, fleet, url, deployment, users }
    }

    /// Stops the workers and leaves the node.
    pub async fn dismiss_workers(self) -> RethNode {
        self.fleet.stop().await;
        self.node
    }

    /// Stops workers and node.
    pub async fn stop(mut self) {
        self.fleet.stop().await;
        self.node.terminate();
    }
}

impl Network for RethNet {
    fn url(&self) -> &str {
        &self.url
    }

    fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    fn workers(&self) -> Vec<Address> {
        self.fleet.addresses()
    }

    fn user(&self, index: usize) -> PrivateKeySigner {
        self.users[index].clone()
    }
}

impl Operated for RethNet {
    async fn operator(&self, method: &str, params: Value) -> Value {
        self.node.authenticated().call(method, params).await
    }
}

/// The end of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
