//! Our flags beside Reth's, and the file for what is long. A flag wins over the file.

use crate::{deployment::AddressBooks, disputer::DisputerArgs};
use clap::Args;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `--lcai.*`.
#[derive(Debug, Clone, Default, Args, PartialEq, Eq)]
#[command(next_help_heading = "LightChain AI")]
pub struct LcaiArgs {
    /// TOML file with these settings (names without the prefix), and `[contracts]` or `[contracts.CHAIN-ID]` with addresses the chain does not tell
    #[arg(id = "lcai-config", long = "lcai.config", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where journal, answers and blobs are kept [default: lcai/ in the chain's data directory]
    #[arg(id = "lcai-datadir", long = "lcai.datadir", value_name = "DIR")]
    pub datadir: Option<PathBuf>,
    /// Model this node names in its answers, which the chain only knows by their hash; can be repeated
    #[arg(id = "lcai-model", long = "lcai.model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Key that signs session authorizations: v3 keystore or hex file. Without it, sessions are offered and none is signed
    #[arg(id = "lcai-dispatcher-key", long = "lcai.dispatcher-key", value_name = "FILE")]
    pub dispatcher_key: Option<PathBuf>,
    /// Key of the account that performs keeper duties: v3 keystore or hex file
    #[arg(id = "lcai-keeper-key", long = "lcai.keeper-key", value_name = "FILE")]
    pub keeper_key: Option<PathBuf>,
    /// Key of the account that posts blobs for users: v3 keystore or hex file
    #[arg(id = "lcai-blob-key", long = "lcai.blob-key", value_name = "FILE")]
    pub blob_key: Option<PathBuf>,
    /// The disputer's P-256 key, whose public half users are told: its keystore, or 65 bytes in hex. The disputer opens the keystore with the password, other nodes read the public half without
    #[arg(id = "lcai-disputer-encryption-key", long = "lcai.disputer-encryption-key", value_name = "FILE")]
    pub disputer_encryption_key: Option<PathBuf>,
    /// The disputer's settings
    #[command(flatten)]
    pub disputer: DisputerArgs,
    /// File with the keystores' password [default: LCAI_PASSWORD]
    #[arg(id = "lcai-password-file", long = "lcai.password-file", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Start although the journal is empty and the chain shows that this node's keys have acted
    #[arg(id = "lcai-accept-empty-journal", long = "lcai.accept-empty-journal")]
    pub accept_empty_journal: bool,
    /// Node to which sessions, tokens and streams are handed on (ws://HOST:PORT), for a node without a dispatcher key
    #[arg(
        id = "lcai-upstream",
        long = "lcai.upstream",
        value_name = "URL",
        conflicts_with = "lcai-dispatcher-key"
    )]
    pub upstream: Option<String>,
    /// Beacon API (http://HOST:PORT) in which blobs are looked for that this node does not have; can be repeated, asked in order
    #[arg(id = "lcai-beacon", long = "lcai.beacon", value_name = "URL")]
    pub beacons: Vec<String>,
    /// Leave blobs' EIP-4844 sidecars as they are sent; after Osaka the pool refuses those. Otherwise they get cell proofs here (--rpc.force-blob-sidecar-upcasting), because live workers still send them
    #[arg(id = "lcai-no-blob-upcasting", long = "lcai.no-blob-upcasting")]
    pub no_blob_upcasting: bool,
    /// Run as plain Reth, without the extensions
    #[arg(id = "lcai-off", long = "lcai.off")]
    pub off: bool,
}

/// The file of `--lcai.config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    datadir: Option<PathBuf>,
    models: Vec<String>,
    dispatcher_key: Option<PathBuf>,
    keeper_key: Option<PathBuf>,
    blob_key: Option<PathBuf>,
    disputer_encryption_key: Option<PathBuf>,
    disputer_key: Option<PathBuf>,
    disputer_blob_key: Option<PathBuf>,
    gguf: Vec<String>,
    ollama: Option<String>,
    embedder: Option<PathBuf>,
    canary_epoch: Option<u64>,
    canary_treasury_key: Option<PathBuf>,
    canary_daily_cap: Option<String>,
    canary_node: Option<String>,
    canary_questions: Option<PathBuf>,
    canary_paid_from_outside: bool,
    password_file: Option<PathBuf>,
    upstream: Option<String>,
    #[serde(rename = "beacon")]
    beacons: Vec<String>,
    contracts: AddressBooks,
}

/// Flags and file together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The flags, with what only the file says filled in.
    pub args: LcaiArgs,
    /// Addresses the operator gave, by chain.
    pub contracts: AddressBooks,
}

impl Settings {
    /// Reads the file, if one is named. Relative paths in it count from its directory.
    ///
    /// # Errors
    /// When it cannot be read, or has a member that does not exist.
    pub fn load(mut args: LcaiArgs) -> eyre::Result<Self> {
        let Some(path) = args.config.clone() else {
            return Ok(Self { args, contracts: AddressBooks::default() });
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|e| eyre::eyre!("--lcai.config {}: {e}", path.display()))?;
        let file: File =
            toml::from_str(&text).map_err(|e| eyre::eyre!("--lcai.config {}: {e}", path.display()))?;
        let base = path.parent().unwrap_or(Path::new(""));
        let fill = |flag: &mut Option<PathBuf>, value: Option<PathBuf>| {
            if flag.is_none() {
                *flag = value.map(|value| base.join(value));
            }
        };
        fill(&mut args.datadir, file.datadir);
        fill(&mut args.dispatcher_key, file.dispatcher_key);
        fill(&mut args.keeper_key, file.keeper_key);
        fill(&mut args.blob_key, file.blob_key);
        fill(&mut args.disputer_encryption_key, file.disputer_encryption_key);
        fill(&mut args.password_file, file.password_file);
        let disputer = DisputerArgs {
            key: file.disputer_key,
            blob_key: file.disputer_blob_key,
            gguf: file.gguf,
            ollama: file.ollama,
            embedder: file.embedder,
            canary_epoch: file.canary_epoch,
            canary_treasury_key: file.canary_treasury_key,
            canary_daily_cap: file.canary_daily_cap,
            canary_node: file.canary_node,
            canary_questions: file.canary_questions,
            canary_paid_from_outside: file.canary_paid_from_outside,
        };
        args.disputer.fill(disputer, base);
        if args.models.is_empty() {
            args.models = file.models;
        }
        if args.beacons.is_empty() {
            args.beacons = file.beacons;
        }
        args.upstream = args.upstream.or(file.upstream);
        eyre::ensure!(
            args.upstream.is_none() || args.dispatcher_key.is_none(),
            "--lcai.upstream hands sessions on and --lcai.dispatcher-key signs them here: give one of them"
        );
        Ok(Self { args, contracts: file.contracts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lcai.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn flags_win_and_paths_count_from_the_file() {
        let (dir, path) = write(
            "keeper-key = \"keeper.json\"\nblob-key = \"/keys/blob.json\"\nmodels = [\"llama3-8b\"]\n\
             beacon = [\"http://127.0.0.1:3500\"]\n[contracts]\ncanary-ledger = \"0x000000000000000000000000000000001ca10008\"\n",
        );
        let args = LcaiArgs {
            config: Some(path),
            blob_key: Some(PathBuf::from("mine.json")),
            ..LcaiArgs::default()
        };
        let settings = Settings::load(args).unwrap();
        assert_eq!(settings.args.keeper_key, Some(dir.path().join("keeper.json")));
        assert_eq!(settings.args.blob_key, Some(PathBuf::from("mine.json")));
        assert_eq!(settings.args.models, ["llama3-8b"]);
        assert_eq!(settings.args.beacons, ["http://127.0.0.1:3500"]);
        assert!(settings.contracts.on(9200).canary_ledger.is_some());
    }

    #[test]
    fn the_disputers_settings_come_from_the_file_too() {
        let (dir, path) = write(
            "disputer-key = \"d.json\"\ndisputer-blob-key = \"b.json\"\ngguf = [\"m=models/m.gguf\"]\n\
             ollama = \"http://127.0.0.1:11434\"\ncanary-epoch = 600\ncanary-daily-cap = \"250\"\n",
        );
        let load = |disputer| {
            let args = LcaiArgs { config: Some(path.clone()), disputer, ..LcaiArgs::default() };
            Settings::load(args).unwrap().args.disputer
        };
        let disputer = load(DisputerArgs::default());
        assert_eq!(disputer.key, Some(dir.path().join("d.json")));
        assert_eq!(disputer.gguf, [format!("m={}", dir.path().join("models/m.gguf").display())]);
        assert_eq!((disputer.canary_epoch, disputer.canary_daily_cap.as_deref()), (Some(600), Some("250")));
        // A flag for the models is the whole choice.
        let flag = DisputerArgs { gguf: vec!["n=n.gguf".into()], ..DisputerArgs::default() };
        let disputer = load(flag);
        assert_eq!((disputer.gguf.as_slice(), disputer.ollama), (["n=n.gguf".to_owned()].as_slice(), None));
    }

    #[test]
    fn a_node_dispatches_or_hands_on() {
        let (_dir, path) = write("dispatcher-key = \"dispatcher.json\"\n");
        let upstream = Some("ws://127.0.0.1:8546".to_owned());
        let args = LcaiArgs { config: Some(path), upstream, ..LcaiArgs::default() };
        let error = Settings::load(args).unwrap_err().to_string();
        assert!(error.contains("give one of them"), "{error}");
    }

    #[test]
    fn an_unknown_member_is_named() {
        let (_dir, path) = write("dispatcher-kay = \"x\"\n");
        let args = LcaiArgs { config: Some(path), ..LcaiArgs::default() };
        let error = Settings::load(args).unwrap_err().to_string();
        assert!(error.contains("dispatcher-kay"), "{error}");
    }
}
