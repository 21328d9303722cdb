//! The program as people run it: `lcai devnet` as a process, and the commands against it, by what they print and exit with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use alloy_primitives::{Address, utils::parse_ether};
use alloy_signer_local::PrivateKeySigner;
use jsonrpsee::{core::client::ClientT, rpc_params};
use lcai::ask::DEFAULT_MODEL;
use lcai_client::{Connection, SessionStore};
use lcai_genesis::dev::{Role, dev_account};
use lcai_primitives::{contracts::Deployment, ids::ModelId};
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{Network, governance::switch_sortition};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};
use tempfile::TempDir;

/// What the devnet's workers run.
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../devnet/model/lcai-tiny.gguf");

/// Three, so that after two sessions one has no job.
const WORKERS: u32 = 3;

#[test]
fn commands_against_a_devnet() {
    let devnet = Devnet::start();
    let (session, first, job) = asks_and_goes_on(&devnet);
    verifies_an_answer(&devnet, &job);
    verifies_the_draw(&devnet, session, first);
    raises_a_stake(&devnet);
    let second = asks_by_sortition(&devnet);
    leaves(&devnet, &[first, second]);
    devnet.stop();
}

/// The second question goes through the first one's session. Gives the session, its worker and its second job.
fn asks_and_goes_on(devnet: &Devnet) -> (u64, Address, String) {
    let first = devnet.lcai(&["ask", "--json", "What is the capital of France?"]).json();
    assert!(first["answer"].as_str().unwrap().contains("Paris"), "{first}");
    assert_eq!((&first["signatureVerified"], &first["onChainHashEqual"]), (&true.into(), &true.into()));
    let next = devnet.lcai(&["ask", "--json", "What is the capital of Italy?"]).json();
    assert!(next["answer"].as_str().unwrap().contains("Rome"), "{next}");
    assert_eq!(first["sessionId"], next["sessionId"]);
    let job = next["receipt"]["job"]["id"].as_str().unwrap().to_owned();
    (session_of(&first), worker_of(&first), job)
}

/// Whoever holds the session's key, in whatever way, comes to the same verdict.
fn verifies_an_answer(devnet: &Devnet, job: &str) {
    let model = format!("{DEFAULT_MODEL}={MODEL}");
    let verify = ["verify", job, "--gguf", &model];
    let own = devnet.lcai(&verify).json();
    assert_eq!(
        (&own["verdict"]["guilty"], &own["verdict"]["score"]),
        (&false.into(), &10_000.into()),
        "{own}"
    );
    assert_eq!(own["onChain"], Value::Null, "nobody disputed it");

    let key = devnet.file("session-key");
    std::fs::write(&key, format!("0x{}\n", alloy_primitives::hex::encode(devnet.session_key()))).unwrap();
    let given = devnet.lcai(&[&verify[..], &["--session-key", &key]].concat()).json();
    assert_eq!(given["verdict"], own["verdict"]);
    // A score that nothing reaches.
    let guilty = devnet.lcai(&[&verify[..], &["--threshold", "10001"]].concat());
    assert_eq!(guilty.code, 10, "{}", guilty.stderr);
    assert!(guilty.stderr.contains("too little to be the model's"), "{}", guilty.stderr);

    std::fs::write(&key, "11".repeat(32)).unwrap();
    let other = devnet.lcai(&[&verify[..], &["--session-key", &key]].concat());
    assert_ne!(other.code, 0);
    assert!(other.stderr.contains("does not open"), "{}", other.stderr);
    std::fs::write(&key, "no key").unwrap();
    let unread = devnet.lcai(&[&verify[..], &["--session-key", &key]].concat());
    assert_eq!(unread.code, 8, "{}", unread.stderr);
    let nowhere = devnet.lcai(&[&verify[..], &["--embedder", &devnet.file("nowhere")]].concat());
    assert_ne!(nowhere.code, 0, "an embedder that is not there is not left out silently");
}

fn verifies_the_draw(devnet: &Devnet, session: u64, worker: Address) {
    let session = session.to_string();
    let verified = devnet.lcai(&["verify-draw", &session]).succeeded();
    let line = |of: Address| {
        let line = verified.stdout.lines().find(|line| line.starts_with(&of.to_string()));
        line.unwrap_or_else(|| panic!("nothing about {of}: {}", verified.stdout)).to_owned()
    };
    assert!(line(worker).contains("drawn, share"), "{}", verified.stdout);
    for other in devnet.workers().into_iter().filter(|other| *other != worker) {
        assert!(line(other).contains("candidate, share"), "{}", verified.stdout);
    }
    assert_eq!(verified.stdout.lines().filter(|line| line.starts_with("holds")).count(), 5);
    assert!(!verified.stdout.contains("unchecked") && !verified.stdout.contains("WRONG"));

    let stranger = Address::repeat_byte(9).to_string();
    let asked = devnet.lcai(&["verify-draw", &session, "--worker", &stranger]).succeeded();
    assert!(asked.stdout.contains("did not list the model"), "{}", asked.stdout);
    let unknown = devnet.lcai(&["verify-draw", "999"]);
    assert_ne!(unknown.code, 0);
    assert!(unknown.stderr.contains("no draw is kept for session 999"), "{}", unknown.stderr);
}

fn raises_a_stake(devnet: &Devnet) {
    let keystore = devnet.keystore("first", Role::Worker(0));
    let account = ["--keystore", &keystore, "--password-file", &devnet.file("password")];
    let enough = devnet.lcai(&[&["worker", "top-up"], &account[..]].concat()).succeeded();
    assert!(enough.stderr.contains("the network's minimum or more"), "{}", enough.stderr);
    let raised = devnet.lcai(&[&["worker", "top-up", "--amount", "25"], &account[..]].concat()).succeeded();
    assert!(raised.stderr.contains("stake raised by 25"), "{}", raised.stderr);
    let wrong = devnet.lcai(&[&["worker", "top-up", "--amount", "lots"], &account[..]].concat());
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    let reinstated = devnet.lcai(&[&["worker", "reinstate"], &account[..]].concat()).succeeded();
    assert!(reinstated.stderr.contains("is not suspended"), "{}", reinstated.stderr);

    let worker = Role::Worker(0).signer().unwrap().address();
    lcai_tests::run(async {
        let node = Connection::open(&devnet.url, None).await.unwrap();
        let expected = parse_ether("5025").unwrap();
        for _ in 0..100 {
            let workers = node.rpc().workers().await.unwrap();
            if workers.iter().any(|w| w.address == worker && w.stake == expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the directory does not know the stake");
    });
}

/// Refused while AIConfig has it switched off. Gives the worker that claimed.
fn asks_by_sortition(devnet: &Devnet) -> Address {
    let ask = ["ask", "--json", "--new-session", "--sortition", "What is the capital of Spain?"];
    let refused = devnet.lcai(&ask);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("switched off"), "{}", refused.stderr);

    lcai::runtime().unwrap().block_on(switch_sortition(devnet, true));
    let answered = devnet.lcai(&ask).json();
    assert!(answered["answer"].as_str().unwrap().contains("Madrid"), "{answered}");
    // No dispatcher drew it; the chain tells who might claim it when.
    let session = session_of(&answered).to_string();
    let audited = devnet.lcai(&["verify-draw", &session]).succeeded();
    let claimed = format!("worker {} claimed in block", worker_of(&answered));
    assert!(audited.stdout.contains(&claimed) && !audited.stdout.contains("WRONG"), "{}", audited.stdout);
    worker_of(&answered)
}

/// A worker that never had a job gives up its stake, once.
fn leaves(devnet: &Devnet, busy: &[Address]) {
    let idle = (0..WORKERS)
        .map(Role::Worker)
        .find(|role| !busy.contains(&role.signer().unwrap().address()))
        .expect("there are more workers than sessions");
    let keystore = devnet.keystore("idle", idle);
    let leave = ["worker", "leave", "--keystore", &keystore, "--password-file", &devnet.file("password")];
    let left = devnet.lcai(&leave).succeeded();
    assert!(left.stderr.contains("LCAI came back"), "{}", left.stderr);
    let again = devnet.lcai(&leave);
    assert_ne!(again.code, 0);
    assert!(again.stderr.contains("is not a registered worker"), "{}", again.stderr);
}

/// `lcai devnet` in a process of its own.
struct Devnet {
    child: Child,
    url: String,
    deployment: Deployment,
    directory: TempDir,
}

impl Devnet {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), "of a test\n").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_lcai"))
            .args(["devnet", "--listen", "127.0.0.1:0", "--workers", &WORKERS.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (found, url) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix("eth_* and lcai_* at ") {
                    let _ = found.send(rest.split(' ').next().unwrap().to_owned());
                }
            }
        });
        let Ok(url) = url.recv_timeout(Duration::from_secs(120)) else {
            child.kill().unwrap();
            panic!("the devnet did not come up");
        };
        let deployment = lcai::runtime()
            .unwrap()
            .block_on(async { Connection::open(&url, None).await.unwrap().network().deployment });
        Self { child, url, deployment, directory }
    }

    /// Interrupted as by Ctrl-C.
    fn stop(mut self) {
        let signalled = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(signalled.success());
        assert!(self.child.wait().unwrap().success(), "it ends well");
    }

    /// The key that `lcai ask` keeps for the first account's session.
    fn session_key(&self) -> [u8; 32] {
        lcai::runtime().unwrap().block_on(async {
            let node = Connection::open(&self.url, None).await.unwrap();
            let network = node.network();
            let genesis: Value =
                node.rpc().request("eth_getBlockByNumber", rpc_params!["0x0", false]).await.unwrap();
            let genesis = genesis["hash"].as_str().unwrap().parse().unwrap();
            let model = ModelId::from_name(DEFAULT_MODEL);
            let store = SessionStore::new(self.directory.path().join("lcai/sessions"));
            let (chain, registry) = (network.deployment.chain_id, network.deployment.job_registry);
            let kept = store.load(chain, genesis, registry, &self.user(0), model).unwrap();
            *kept.expect("it is kept").key.expose()
        })
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// An account's keystore, made by `lcai keys import`.
    fn keystore(&self, name: &str, role: Role) -> String {
        let (key, keystore): (String, PathBuf) = (self.file("key"), self.directory.path().join(name));
        let signer = role.signer().unwrap();
        std::fs::write(&key, alloy_primitives::hex::encode(signer.to_bytes())).unwrap();
        let keystore = keystore.display().to_string();
        let import = ["keys", "import", &key, &keystore, "--password-file", &self.file("password")];
        let imported = self.run(Command::new(env!("CARGO_BIN_EXE_lcai")).args(import)).succeeded();
        assert_eq!(imported.stdout.trim(), format!("account {}", signer.address()));
        keystore
    }

    fn lcai(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lcai"));
        command.args(args).env("LCAI_RPC", &self.url).env("XDG_DATA_HOME", self.directory.path());
        self.run(&mut command)
    }

    fn run(&self, command: &mut Command) -> Ran {
        let output = command.stdin(Stdio::null()).output().unwrap();
        Ran {
            what: format!("{command:?}"),
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Network for Devnet {
    fn url(&self) -> &str {
        &self.url
    }

    fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    fn workers(&self) -> Vec<Address> {
        (0..WORKERS).map(|n| Role::Worker(n).signer().unwrap().address()).collect()
    }

    fn user(&self, index: usize) -> PrivateKeySigner {
        dev_account(u32::try_from(index).unwrap()).unwrap()
    }
}

/// A command that ended.
struct Ran {
    what: String,
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}\n{}", self.what, self.stdout, self.stderr);
        self
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.succeeded().stdout).unwrap()
    }
}

fn session_of(answer: &Value) -> u64 {
    u64::from_str_radix(answer["sessionId"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

fn worker_of(answer: &Value) -> Address {
    answer["receipt"]["job"]["worker"].as_str().unwrap().parse().unwrap()
}
