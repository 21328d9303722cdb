//! The disputer's settings, and the role they come to. Without any of them a node is no disputer.

use crate::keys;
use alloy_primitives::{U256, utils::parse_ether};
use alloy_signer_local::PrivateKeySigner;
use clap::Args;
use lcai_crypto::{EncryptionSecret, KdfCost, keystore};
use lcai_genesis::{LCAI, dev::Role};
use lcai_inference::{Embedder, MiniLm, ModelSource, ModelSourceError};
use lcai_node::{Book, CANARY_ACCOUNTS, CanaryRole, DisputerRole, REORG_DEPTH};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::task::spawn_blocking;

/// Least length of an epoch of canaries, seconds.
const MIN_EPOCH: u64 = 60;

/// LCAI that a development chain's canaries may cost in a day.
const DEV_CANARY_CAP: u64 = 1_000;

/// Jobs repeated at once: a verdict is not hurried, and a model takes what cores there are.
const PARALLEL: usize = 1;

/// The disputer's `--lcai.*`.
#[derive(Debug, Clone, Default, Args, PartialEq, Eq)]
pub struct DisputerArgs {
    /// Key of the account that AIConfig names as the disputer: v3 keystore or hex file. Makes this node the disputer
    #[arg(id = "lcai-disputer-key", long = "lcai.disputer-key", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Key of the account that posts the disputer's evidence: v3 keystore or hex file; another account
    #[arg(id = "lcai-disputer-blob-key", long = "lcai.disputer-blob-key", value_name = "FILE")]
    pub blob_key: Option<PathBuf>,
    /// Model with which the disputer repeats jobs in this process; can be repeated
    #[arg(id = "lcai-gguf", long = "lcai.gguf", value_name = "NAME=FILE", conflicts_with = "lcai-ollama")]
    pub gguf: Vec<String>,
    /// Ollama with which the disputer repeats jobs of the models that --lcai.model names
    #[arg(id = "lcai-ollama", long = "lcai.ollama", value_name = "URL")]
    pub ollama: Option<String>,
    /// Directory of all-MiniLM-L6-v2, with which the disputer compares meanings [default: it does not]
    #[arg(id = "lcai-embedder", long = "lcai.embedder", value_name = "DIR")]
    pub embedder: Option<PathBuf>,
    /// Length of an epoch of canaries, at least 60 [default: no canaries]
    #[arg(id = "lcai-canary-epoch", long = "lcai.canary-epoch", value_name = "SECONDS")]
    pub canary_epoch: Option<u64>,
    /// Key of the account that pays for canaries: v3 keystore or hex file
    #[arg(id = "lcai-canary-treasury-key", long = "lcai.canary-treasury-key", value_name = "FILE")]
    pub canary_treasury_key: Option<PathBuf>,
    /// Most that canaries may cost in a day (UTC)
    #[arg(id = "lcai-canary-daily-cap", long = "lcai.canary-daily-cap", value_name = "LCAI")]
    pub canary_daily_cap: Option<String>,
    /// Node through which canaries go (ws://HOST:PORT) [default: this one, where it serves WebSocket]
    #[arg(id = "lcai-canary-node", long = "lcai.canary-node", value_name = "WS-URL")]
    pub canary_node: Option<String>,
    /// Questions for canaries, one a line, after a tab what the answer contains; users gave them away [default: built-in ones]
    #[arg(id = "lcai-canary-questions", long = "lcai.canary-questions", value_name = "FILE")]
    pub canary_questions: Option<PathBuf>,
    /// Canaries' accounts are paid by hand, as lcaiOperator_getCanaryPayments says, and not by the treasury
    #[arg(id = "lcai-canary-paid-from-outside", long = "lcai.canary-paid-from-outside")]
    pub canary_paid_from_outside: bool,
}

impl DisputerArgs {
    /// Fills in what only the file says. Its relative paths count from `base`.
    pub(crate) fn fill(&mut self, file: Self, base: &Path) {
        let path = |flag: &mut Option<PathBuf>, value: Option<PathBuf>| {
            *flag = flag.take().or_else(|| value.map(|value| base.join(value)));
        };
        path(&mut self.key, file.key);
        path(&mut self.blob_key, file.blob_key);
        path(&mut self.embedder, file.embedder);
        path(&mut self.canary_treasury_key, file.canary_treasury_key);
        path(&mut self.canary_questions, file.canary_questions);
        self.canary_paid_from_outside |= file.canary_paid_from_outside;
        // One of the two flags is the whole choice.
        if self.gguf.is_empty() && self.ollama.is_none() {
            self.gguf = file.gguf.iter().map(|spec| from(base, spec)).collect();
            self.ollama = file.ollama;
        }
        self.canary_epoch = self.canary_epoch.or(file.canary_epoch);
        self.canary_daily_cap = self.canary_daily_cap.take().or(file.canary_daily_cap);
        self.canary_node = self.canary_node.take().or(file.canary_node);
    }

    /// What was given, by the flags' names.
    fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("--lcai.disputer-key", self.key.is_some()),
            ("--lcai.disputer-blob-key", self.blob_key.is_some()),
            ("--lcai.gguf", !self.gguf.is_empty()),
            ("--lcai.ollama", self.ollama.is_some()),
            ("--lcai.embedder", self.embedder.is_some()),
            ("--lcai.canary-epoch", self.canary_epoch.is_some()),
            ("--lcai.canary-treasury-key", self.canary_treasury_key.is_some()),
            ("--lcai.canary-daily-cap", self.canary_daily_cap.is_some()),
            ("--lcai.canary-node", self.canary_node.is_some()),
            ("--lcai.canary-questions", self.canary_questions.is_some()),
            ("--lcai.canary-paid-from-outside", self.canary_paid_from_outside),
        ];
        flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }

    /// What the settings ask for; `None`: this node is no disputer. `models` are the names of `--lcai.model`; `dispatches`: it
    /// holds the dispatcher's key; `dev`: the development chain's keys stand in for those that were not given, once there is a model.
    ///
    /// # Errors
    /// When a flag is missing or wrong; the text names it.
    pub fn check(
        &self,
        encryption_key: Option<&Path>,
        models: &[String],
        dispatches: bool,
        dev: bool,
    ) -> eyre::Result<Option<DisputerSettings>> {
        let given = self.given();
        let Some(first) = given.first() else { return Ok(None) };
        eyre::ensure!(
            dev || self.key.is_some(),
            "{first} is a setting of the disputer: give --lcai.disputer-key, the account that AIConfig names"
        );
        eyre::ensure!(
            dev || !dispatches,
            "{first} makes this node the disputer, and --lcai.dispatcher-key the dispatcher: who draws the workers would hold \
             the key that opens the sessions escrowed for the disputer; give them to two nodes"
        );
        let needed = |given: bool, flag: &str, what: &str| {
            eyre::ensure!(dev || given, "the disputer needs {flag}, {what}");
            Ok(())
        };
        needed(self.blob_key.is_some(), "--lcai.disputer-blob-key", "the account that posts its evidence")?;
        let what = "the keystore that opens the session keys escrowed for it";
        needed(encryption_key.is_some(), "--lcai.disputer-encryption-key", what)?;
        Ok(Some(DisputerSettings {
            key: self.key.clone(),
            blob_key: self.blob_key.clone(),
            encryption_key: encryption_key.map(Path::to_owned),
            models: self.models(models)?,
            embedder: self.embedder.clone(),
            canaries: self.canaries(dev)?,
        }))
    }

    fn models(&self, names: &[String]) -> eyre::Result<ModelSource> {
        let named = |error: ModelSourceError| match error {
            ModelSourceError::None => {
                eyre::eyre!(
                    "the disputer needs models: give --lcai.gguf NAME=FILE, or --lcai.ollama URL and --lcai.model"
                )
            }
            ModelSourceError::Both => eyre::eyre!("--lcai.gguf and --lcai.ollama: give one of them"),
            ModelSourceError::Unnamed => {
                eyre::eyre!("--lcai.ollama serves the models that --lcai.model names, and none is named")
            }
            ModelSourceError::Malformed(_) => eyre::eyre!("--lcai.gguf {error}"),
        };
        ModelSource::new(self.ollama.as_deref(), &self.gguf, names).map_err(named)
    }

    fn canaries(&self, dev: bool) -> eyre::Result<Option<CanarySettings>> {
        let Some(epoch_seconds) = self.canary_epoch else {
            let other = self.given().into_iter().find(|flag| flag.starts_with("--lcai.canary-"));
            eyre::ensure!(
                other.is_none(),
                "{} is a setting of canaries: give --lcai.canary-epoch SECONDS",
                other.unwrap_or_default()
            );
            return Ok(None);
        };
        eyre::ensure!(
            epoch_seconds >= MIN_EPOCH,
            "--lcai.canary-epoch {epoch_seconds}: expected {MIN_EPOCH} seconds or more"
        );
        eyre::ensure!(
            dev || self.canary_treasury_key.is_some(),
            "--lcai.canary-epoch needs --lcai.canary-treasury-key, the account that pays for canaries"
        );
        let daily_cap = match &self.canary_daily_cap {
            Some(text) => parse_ether(text).map_err(|_| {
                eyre::eyre!("--lcai.canary-daily-cap {text}: expected an amount in LCAI, e.g. 250")
            })?,
            None if dev => U256::from(DEV_CANARY_CAP) * LCAI,
            None => {
                eyre::bail!("--lcai.canary-epoch needs --lcai.canary-daily-cap, the most to spend in a day")
            }
        };
        if let Some(node) = &self.canary_node {
            let is_ws = node.starts_with("ws://") || node.starts_with("wss://");
            eyre::ensure!(is_ws, "--lcai.canary-node {node}: expected ws://HOST:PORT");
        }
        Ok(Some(CanarySettings {
            epoch_seconds,
            treasury_key: self.canary_treasury_key.clone(),
            daily_cap,
            node: self.canary_node.clone(),
            questions: self.canary_questions.clone(),
            paid_from_outside: self.canary_paid_from_outside,
        }))
    }
}

/// `NAME=FILE` of a file in `base`; what is not of this form is refused later.
fn from(base: &Path, spec: &str) -> String {
    match spec.split_once('=') {
        Some((name, path)) => format!("{name}={}", base.join(path).display()),
        None => spec.to_owned(),
    }
}

/// A disputer, before its keys and models are opened. Where a key is `None`, the development chain's stands in.
#[derive(Debug, Clone)]
pub struct DisputerSettings {
    /// The account's key.
    pub key: Option<PathBuf>,
    /// The blob account's key.
    pub blob_key: Option<PathBuf>,
    /// The keystore of the P-256 key that opens escrowed session keys.
    pub encryption_key: Option<PathBuf>,
    /// The models.
    pub models: ModelSource,
    /// The embedder's directory.
    pub embedder: Option<PathBuf>,
    /// How it tests workers; `None`: it only rules on disputes.
    pub canaries: Option<CanarySettings>,
}

/// Canaries, before the treasury's key is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanarySettings {
    /// Seconds of an epoch.
    pub epoch_seconds: u64,
    /// The treasury's key; `None`: the development chain's.
    pub treasury_key: Option<PathBuf>,
    /// Most wei to spend in a day.
    pub daily_cap: U256,
    /// The node they go through; `None`: this one.
    pub node: Option<String>,
    /// What they ask; `None`: the built-in questions.
    pub questions: Option<PathBuf>,
    /// Whether the operator pays their accounts.
    pub paid_from_outside: bool,
}

impl DisputerSettings {
    /// Opens keys and models. A development chain's escrow key is made once, in `datadir`.
    ///
    /// # Errors
    /// When one cannot be used.
    pub async fn open(self, datadir: PathBuf, password_file: Option<PathBuf>) -> eyre::Result<DisputerRole> {
        let (account, blob, escrow, embedder) = (self.key, self.blob_key, self.encryption_key, self.embedder);
        let opened = spawn_blocking(move || -> eyre::Result<_> {
            let password = keys::password(password_file.as_deref())?;
            let password = password.as_ref().map(|password| password.as_str());
            let account = account_or("disputer", account.as_deref(), Role::Disputer, password)?;
            let blob = account_or("disputer's blob", blob.as_deref(), Role::DisputerBlob, password)?;
            let escrow = match escrow {
                Some(file) => keys::encryption_secret("disputer's encryption", &file, password)?,
                None => dev_escrow(&datadir)?,
            };
            let embedder = embedder.map(|directory| MiniLm::load(&directory)).transpose()?;
            Ok((account, blob, escrow, embedder))
        });
        let (account, blob_key, escrow, embedder) = opened.await??;
        Ok(DisputerRole {
            account,
            blob_key,
            escrow,
            backend: self.models.open(PARALLEL).await?,
            embedder: embedder.map(|embedder| Arc::new(embedder) as Arc<dyn Embedder>),
            reorg_depth: REORG_DEPTH,
            parallel: PARALLEL,
            canary_epoch_seconds: self.canaries.map(|canaries| canaries.epoch_seconds),
        })
    }
}

impl CanarySettings {
    /// Opens the treasury's key, and reads the questions. `serves_ws`: whether this node serves WebSocket.
    ///
    /// # Errors
    /// When it cannot be used, or canaries have no node to go through.
    pub async fn open(self, password_file: Option<PathBuf>, serves_ws: bool) -> eyre::Result<Canaries> {
        eyre::ensure!(
            serves_ws || self.node.is_some(),
            "canaries go through a node's WebSocket: give --lcai.canary-node, or --ws to use this node's"
        );
        let (file, book) = (self.treasury_key, self.questions);
        let opened = spawn_blocking(move || -> eyre::Result<_> {
            let password = keys::password(password_file.as_deref())?;
            let password = password.as_ref().map(|password| password.as_str());
            let treasury = account_or("canary treasury", file.as_deref(), Role::Treasury, password)?;
            Ok((treasury, book.as_deref().map(questions).transpose()?))
        });
        let (treasury, questions) = opened.await??;
        let Self { daily_cap, node, paid_from_outside, .. } = self;
        Ok(Canaries { treasury, daily_cap, node, questions, paid_from_outside })
    }
}

/// Canaries that wait for the node to serve.
#[derive(Debug)]
pub struct Canaries {
    treasury: PrivateKeySigner,
    daily_cap: U256,
    node: Option<String>,
    questions: Option<Book>,
    paid_from_outside: bool,
}

impl Canaries {
    /// The role, once it is known where this node serves WebSocket.
    ///
    /// # Errors
    /// When it does not, and no other node is named.
    pub fn role(self, own: Option<String>) -> eyre::Result<CanaryRole> {
        let url = self.node.or(own).ok_or_else(|| eyre::eyre!("canaries have no node to go through"))?;
        let Self { treasury, daily_cap, questions, paid_from_outside, .. } = self;
        Ok(CanaryRole { url, treasury, daily_cap, accounts: CANARY_ACCOUNTS, questions, paid_from_outside })
    }
}

fn questions(file: &Path) -> eyre::Result<Book> {
    let named =
        |error: &dyn std::fmt::Display| eyre::eyre!("--lcai.canary-questions {}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| named(&error))?;
    Book::parse(&text).map_err(|error| named(&error))
}

/// The key of a file, or the development chain's where [`DisputerArgs::check`] let it be missing.
fn account_or(
    name: &'static str,
    file: Option<&Path>,
    role: Role,
    password: Option<&str>,
) -> eyre::Result<PrivateKeySigner> {
    match file {
        Some(file) => Ok(keys::account(name, file, password)?),
        None => Ok(role.signer()?),
    }
}

/// The escrow key of a development chain, whose other keys are public too.
fn dev_escrow(datadir: &Path) -> eyre::Result<EncryptionSecret> {
    let (path, password) = (datadir.join("disputer-encryption.json"), "development");
    if path.exists() {
        return Ok(keystore::read_encryption(&path, password)?);
    }
    std::fs::create_dir_all(datadir)?;
    let secret = EncryptionSecret::random();
    keystore::write_encryption(&path, &secret, password, KdfCost::Light)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<Option<PathBuf>> {
        names.iter().map(|name| Some(PathBuf::from(name))).collect()
    }

    /// Everything that a disputer without canaries needs.
    fn complete() -> DisputerArgs {
        let [key, blob_key] = <[_; 2]>::try_from(paths(&["key", "blob"])).unwrap();
        DisputerArgs { key, blob_key, gguf: vec!["m=m.gguf".into()], ..DisputerArgs::default() }
    }

    fn refused(args: &DisputerArgs, encryption: Option<&str>, dev: bool) -> String {
        args.check(encryption.map(Path::new), &[], false, dev).unwrap_err().to_string()
    }

    #[test]
    fn without_its_settings_a_node_is_no_disputer() {
        for dev in [false, true] {
            // Its public half alone is what every dispatching node has.
            assert!(
                DisputerArgs::default().check(Some(Path::new("p256")), &[], false, dev).unwrap().is_none()
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let settings = complete().check(Some(Path::new("p256")), &[], false, false).unwrap().unwrap();
        assert_eq!(settings.models.names(), ["m"]);
        assert!(settings.canaries.is_none());

        let lacks = |change: &dyn Fn(&mut DisputerArgs), flag: &str| {
            let mut args = complete();
            change(&mut args);
            let error = refused(&args, Some("p256"), false);
            assert!(error.contains(flag), "{flag} is not in: {error}");
        };
        lacks(&|args| args.key = None, "--lcai.disputer-key");
        lacks(&|args| args.blob_key = None, "--lcai.disputer-blob-key");
        lacks(&|args| args.gguf.clear(), "--lcai.gguf");
        lacks(&|args| args.gguf = vec!["m.gguf".into()], "--lcai.gguf m.gguf: expected NAME=FILE");
        lacks(&|args| (args.gguf.clear(), args.ollama = Some("http://o".into())).1, "--lcai.model");
        lacks(&|args| args.ollama = Some("http://o".into()), "one of them");
        lacks(&|args| args.canary_daily_cap = Some("5".into()), "--lcai.canary-epoch");
        lacks(&|args| args.canary_epoch = Some(60), "--lcai.canary-treasury-key");
        lacks(&|args| args.canary_epoch = Some(59), "60 seconds");
        assert!(refused(&complete(), None, false).contains("--lcai.disputer-encryption-key"));
    }

    /// Their keys together tell who is tested and read what everybody asks.
    #[test]
    fn the_dispatchers_key_and_the_escrow_key_are_kept_apart() {
        let check = |args: &DisputerArgs, dev| args.check(Some(Path::new("p256")), &[], true, dev);
        let error = check(&complete(), false).unwrap_err().to_string();
        assert!(error.contains("--lcai.dispatcher-key"), "{error}");
        assert!(check(&complete(), true).unwrap().is_some(), "a development chain's keys are public");
        // Its public half alone is what every dispatching node has.
        assert!(check(&DisputerArgs::default(), false).unwrap().is_none());
    }

    #[test]
    fn canaries_have_a_cap_and_a_node() {
        let mut args = complete();
        (args.canary_epoch, args.canary_treasury_key) = (Some(600), Some("treasury".into()));
        assert!(refused(&args, Some("p256"), false).contains("--lcai.canary-daily-cap"));
        args.canary_daily_cap = Some("lots".into());
        assert!(refused(&args, Some("p256"), false).contains("--lcai.canary-daily-cap lots"));
        args.canary_daily_cap = Some("2.5".into());
        args.canary_node = Some("http://127.0.0.1:8545".into());
        assert!(refused(&args, Some("p256"), false).contains("--lcai.canary-node"));
        args.canary_node = Some("ws://127.0.0.1:8546".into());
        let settings = args.check(Some(Path::new("p256")), &[], false, false).unwrap().unwrap();
        let canaries = settings.canaries.unwrap();
        assert_eq!(canaries.epoch_seconds, 600);
        assert_eq!(canaries.daily_cap, LCAI * U256::from(5) / U256::from(2));
        assert_eq!(canaries.node.as_deref(), Some("ws://127.0.0.1:8546"));
    }

    #[tokio::test]
    async fn a_development_chains_keys_stand_in_once_there_is_a_model() {
        let args = DisputerArgs { gguf: vec!["m=nowhere.gguf".into()], ..DisputerArgs::default() };
        assert!(refused(&args, None, false).contains("--lcai.disputer-key"));
        let settings = args.check(None, &[], false, true).unwrap().unwrap();
        // The model is opened last: the keys are there by then, and the escrow key stays the same.
        let dir = tempfile::tempdir().unwrap();
        let error = settings.open(dir.path().to_owned(), None).await.unwrap_err().to_string();
        assert!(error.contains("nowhere.gguf"), "{error}");
        let (first, second) = (dev_escrow(dir.path()).unwrap(), dev_escrow(dir.path()).unwrap());
        assert_eq!(first.public().to_sec1(), second.public().to_sec1());
        // An embedder is no model.
        let args = DisputerArgs { embedder: Some("dir".into()), ..DisputerArgs::default() };
        assert!(refused(&args, None, true).contains("--lcai.gguf"));
    }

    #[tokio::test]
    async fn canaries_go_through_this_node_where_it_serves() {
        let mut args = DisputerArgs { gguf: vec!["m=m.gguf".into()], ..DisputerArgs::default() };
        args.canary_epoch = Some(60);
        let canaries = || args.check(None, &[], false, true).unwrap().unwrap().canaries.unwrap();
        let error = canaries().open(None, false).await.unwrap_err().to_string();
        assert!(error.contains("--lcai.canary-node") && error.contains("--ws"), "{error}");
        let role = canaries().open(None, true).await.unwrap().role(Some("ws://own".into())).unwrap();
        assert_eq!((role.url.as_str(), role.daily_cap), ("ws://own", LCAI * U256::from(DEV_CANARY_CAP)));
        assert_eq!(role.treasury.address(), Role::Treasury.signer().unwrap().address());
        assert_eq!((role.questions, role.paid_from_outside), (None, false));
    }

    #[tokio::test]
    async fn questions_are_read_and_refused_by_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("questions");
        let open = async |text: String| {
            std::fs::write(&file, text).unwrap();
            let args = DisputerArgs {
                gguf: vec!["m=m.gguf".into()],
                canary_epoch: Some(60),
                canary_questions: Some(file.clone()),
                canary_paid_from_outside: true,
                ..DisputerArgs::default()
            };
            let canaries = args.check(None, &[], false, true).unwrap().unwrap().canaries.unwrap();
            canaries.open(None, true).await
        };
        let lines = |n: u64| (0..n).map(|n| format!("Who is {n}?\tNobody\n")).collect::<String>();
        let role = open(lines(100)).await.unwrap().role(Some("ws://own".into())).unwrap();
        assert_eq!((role.questions.unwrap().len(), role.paid_from_outside), (100, true));
        for (text, expected) in [(lines(5), "5 questions"), (lines(2) + "\tnone", "line 3")] {
            let error = open(text).await.unwrap_err().to_string();
            assert!(error.contains("--lcai.canary-questions") && error.contains(expected), "{error}");
        }
    }
}
