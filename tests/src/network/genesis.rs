//! Genesis of both layers from one source: our genesis builder makes the execution chain's, and Prysm's `prysmctl` makes the
//! beacon chain's over it.

use super::{Parts, process::Process};
use alloy_primitives::{U256, hex};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use lcai_crypto::{EncryptionSecret, KdfCost, keystore};
use lcai_genesis::{
    Fork, ProtocolParams,
    dev::{self, DevAccounts, Role},
};
use lcai_primitives::contracts::{AIConfig, Deployment};
use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Slots of an epoch on the mainnet preset. Prysm's build for that preset has it in the size of its states
/// (`proposer_lookahead`), so a network has shorter slots and not fewer.
pub const SLOTS_PER_EPOCH: u64 = 32;

/// Password of the keystores in the network's directory, whose keys are public or made for the moment.
pub const PASSWORD: &str = "network";

/// What a network is like.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where everything is kept: configuration, data, logs.
    pub directory: PathBuf,
    /// Seconds of a slot.
    pub slot_seconds: u64,
    /// Validators, half on each side.
    pub validators: u64,
    /// Epochs for which the beacon nodes keep blobs.
    pub retention_epochs: u64,
    /// Seconds from now to genesis, in which everything starts.
    pub delay: u64,
    /// Workers that are funded.
    pub workers: u32,
    /// Seconds of a canary epoch; `None`: no canaries.
    pub canary_epoch: Option<u64>,
    /// Windows and limits of AIConfig.
    pub params: ProtocolParams,
}

impl Plan {
    /// Slots of three seconds, blobs kept for four epochs, and windows that leave the disputer time for finality.
    pub fn new(directory: PathBuf) -> Self {
        let params = ProtocolParams {
            ack_timeout: 60,
            completion_timeout: 180,
            dispute_window: 120,
            resolution_timeout: 900,
            ..ProtocolParams::devnet()
        };
        Self {
            directory,
            slot_seconds: 3,
            validators: 64,
            retention_epochs: 4,
            delay: 40,
            workers: 2,
            canary_epoch: Some(180),
            params,
        }
    }

    /// A file or folder of the network.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// What both layers begin with.
#[derive(Debug, Clone)]
pub struct Genesis {
    /// Unix seconds of slot 0.
    pub time: u64,
    /// The contracts.
    pub deployment: Deployment,
}

/// Writes `genesis.json`, `deployment.json`, `config.yaml`, `genesis.ssz`, `jwt.hex` and the roles' keys.
///
/// # Errors
/// When the genesis cannot be built, a file cannot be written, or prysmctl refuses.
pub fn write(plan: &Plan, parts: &Parts) -> eyre::Result<Genesis> {
    std::fs::create_dir_all(&plan.directory)?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + plan.delay;
    let accounts = DevAccounts::derive(plan.workers)?;
    let mut spec = dev::spec(&accounts, Fork::Osaka, time, plan.params)?;
    if plan.canary_epoch.is_some() {
        let call = AIConfig::setSamplingRateBpsCall { bps: U256::from(5_000) };
        spec.ai_config_calls.push(call.abi_encode().into());
    }
    let built = lcai_genesis::build(&spec)?;
    let mut genesis = built.genesis;
    // What clients assume when it is missing; prysmctl wants to see it.
    genesis.base_fee_per_gas = Some(1_000_000_000);
    std::fs::write(plan.path("genesis.json"), serde_json::to_vec(&genesis)?)?;
    std::fs::write(plan.path("deployment.json"), serde_json::to_vec(&built.deployment)?)?;
    std::fs::write(plan.path("config.yaml"), beacon_config(plan))?;
    let name = |name: &str| plan.path(name).display().to_string();
    Process::new("prysmctl", &parts.prysmctl, &plan.path("prysmctl"), None)
        .arguments(["testnet", "generate-genesis", "--fork", "fulu"])
        .arguments([
            format!("--num-validators {}", plan.validators),
            format!("--genesis-time {time}"),
            format!("--chain-config-file {}", name("config.yaml")),
            format!("--geth-genesis-json-in {}", name("genesis.json")),
            format!("--output-ssz {}", name("genesis.ssz")),
        ])
        .run()?;
    std::fs::write(plan.path("jwt.hex"), hex::encode(PrivateKeySigner::random().to_bytes()))?;
    write_keys(&plan.directory)?;
    Ok(Genesis { time, deployment: built.deployment })
}

/// The beacon chain's configuration: every fork through Fulu from the beginning.
fn beacon_config(plan: &Plan) -> String {
    let Plan { slot_seconds, validators, retention_epochs, .. } = plan;
    let mut config = format!(
        "PRESET_BASE: 'mainnet'\nCONFIG_NAME: lcai-network\nMIN_GENESIS_ACTIVE_VALIDATOR_COUNT: {validators}\n\
         MIN_GENESIS_TIME: 0\nGENESIS_DELAY: 0\nTERMINAL_TOTAL_DIFFICULTY: 0\nSECONDS_PER_SLOT: {slot_seconds}\n\
         DEPOSIT_CHAIN_ID: {chain}\nDEPOSIT_NETWORK_ID: {chain}\nDEPOSIT_CONTRACT_ADDRESS: {deposits}\n\
         MIN_EPOCHS_FOR_BLOB_SIDECARS_REQUESTS: {retention_epochs}\n\
         MIN_EPOCHS_FOR_DATA_COLUMN_SIDECARS_REQUESTS: {retention_epochs}\nBLOB_SCHEDULE: []\n",
        chain = lcai_genesis::DEFAULT_CHAIN_ID,
        deposits = lcai_genesis::DEPOSIT_CONTRACT,
    );
    let forks = ["GENESIS", "ALTAIR", "BELLATRIX", "CAPELLA", "DENEB", "ELECTRA", "FULU"];
    for (version, fork) in forks.into_iter().enumerate() {
        config += &format!("{fork}_FORK_VERSION: 0x1ca1000{version}\n");
        if fork != "GENESIS" {
            config += &format!("{fork}_FORK_EPOCH: 0\n");
        }
    }
    config
}

/// The development chain's public keys, a file for each role, and an escrow key for the disputer.
fn write_keys(directory: &Path) -> eyre::Result<()> {
    let keys = directory.join("keys");
    std::fs::create_dir_all(&keys)?;
    let roles = [
        ("dispatcher", Role::Dispatcher),
        ("keeper", Role::Keeper),
        ("node-blob", Role::NodeBlob),
        ("disputer", Role::Disputer),
        ("disputer-blob", Role::DisputerBlob),
        ("treasury", Role::Treasury),
    ];
    for (name, role) in roles {
        std::fs::write(keys.join(name), hex::encode(role.signer()?.to_bytes()))?;
    }
    let escrow = EncryptionSecret::random();
    keystore::write_encryption(&keys.join("escrow.json"), &escrow, PASSWORD, KdfCost::Light)?;
    std::fs::write(keys.join("password"), PASSWORD)?;
    Ok(())
}
