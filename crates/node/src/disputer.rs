//! The disputer as a part of a node. Dispatcher and disputer are separate nodes wherever it matters; one node holds both
//! on a devnet only.

use crate::{Awaited, NodeConfig, start_extension};
use alloy_primitives::Address;
use alloy_signer_local::PrivateKeySigner;
use lcai_blob::{BlobSource, FallbackSource};
use lcai_crypto::EncryptionSecret;
use lcai_exex_disputer::{
    CanaryFiler, DisputeHandler, DisputeParts, DisputerConfig, DisputerCore, Ladder, Reexecution,
    ReexecutionParts, Verdicts,
    canary::{Epochs, Seeds},
};
use lcai_host::{
    Clock, EffectHandler, ExtensionHandle, FeedState, HostClient, Journal, JournalError, PutOutcome, Records,
    Supervisor, SystemClock, TxLane,
};
use lcai_inference::{Backend, Embedder};
use lcai_primitives::contracts::Deployment;
use std::{
    fmt,
    sync::{Arc, OnceLock},
};
use tokio::sync::watch;

/// Blocks that a reorg of a live network may go back: two epochs of the beacon chain.
pub const REORG_DEPTH: u64 = 64;

/// Seconds for which users may still wrap for an escrow key that was replaced.
const FORMER_KEY_LINGERS: u64 = 86_400;

/// What a node needs to rule on disputes.
pub struct DisputerRole {
    /// The account that AIConfig names.
    pub account: PrivateKeySigner,
    /// Posts evidence; another account, because pools refuse blob and ordinary transactions of one account at a time.
    pub blob_key: PrivateKeySigner,
    /// Opens escrowed session keys. Its public key is what users wrap for.
    pub escrow: EncryptionSecret,
    /// Runs the models.
    pub backend: Arc<dyn Backend>,
    /// Compares meanings, the third rung of the ladder; without one there are two.
    pub embedder: Option<Arc<dyn Embedder>>,
    /// Blocks that a reorg may go back.
    pub reorg_depth: u64,
    /// Jobs repeated at once.
    pub parallel: usize,
    /// Seconds of an epoch of canaries, at least a minute; `None`: this disputer commits to no canaries and sends none.
    pub canary_epoch_seconds: Option<u64>,
}

impl DisputerRole {
    /// Its accounts by name.
    pub(crate) fn accounts(&self) -> Vec<(&'static str, Address)> {
        vec![("disputer", self.account.address()), ("disputer blob", self.blob_key.address())]
    }
}

impl fmt::Debug for DisputerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DisputerRole").field("account", &self.account.address()).finish_non_exhaustive()
    }
}

/// The disputer of a running node.
#[derive(Debug, Clone)]
pub struct DisputerHandle {
    /// What it follows.
    pub core: ExtensionHandle<DisputerCore>,
    /// What it judged and signed.
    pub verdicts: Verdicts,
    /// How time is cut into epochs of canaries.
    pub epochs: Epochs,
    /// The contracts.
    pub deployment: Deployment,
    /// The secrets of its canaries, where it runs them.
    pub seeds: Option<Seeds>,
    /// What its operator is to pay canaries' accounts.
    pub awaited: Awaited,
    /// Files disputes as canaries' accounts, once canaries are sent.
    pub(crate) filer: Arc<OnceLock<Arc<dyn CanaryFiler>>>,
}

pub(crate) struct Surroundings<'a> {
    pub(crate) config: &'a NodeConfig,
    pub(crate) supervisor: &'a Supervisor,
    pub(crate) journal: &'a Arc<Journal>,
    pub(crate) feed: &'a watch::Receiver<FeedState>,
    pub(crate) client: Arc<dyn HostClient>,
    /// Where blobs are, in order.
    pub(crate) blobs: Vec<Arc<dyn BlobSource>>,
}

/// Starts the extension and its effects.
pub(crate) fn start(role: DisputerRole, node: Surroundings<'_>) -> eyre::Result<DisputerHandle> {
    if role.account.address() == role.blob_key.address() {
        eyre::bail!("the disputer's account and its blob account are the same, {}", role.account.address());
    }
    let public = role.escrow.public().to_sec1();
    if node.config.disputer_encryption_key.as_ref() != public.as_slice() {
        eyre::bail!(
            "the disputer's encryption key is not the one that users are told to wrap session keys for"
        );
    }
    let escrow_since = escrow_since(&node.journal.records("escrow keys"), &public, SystemClock.now())?;
    let (deployment, client) = (node.config.deployment, node.client);
    let reexecution = Reexecution::new(ReexecutionParts {
        deployment,
        escrow: role.escrow,
        escrow_since,
        ladder: Ladder::new(role.backend.clone(), role.embedder),
        backend: role.backend,
        blobs: Arc::new(FallbackSource::new(node.blobs)),
        client: client.clone(),
        models: node.config.models.clone(),
        reorg_depth: role.reorg_depth,
        parallel: role.parallel,
    });
    let defaults = DisputerConfig::new(deployment, role.account.address());
    let epochs = role.canary_epoch_seconds.map_or(defaults.epochs, |length| Epochs { length });
    let core = DisputerCore::new(DisputerConfig {
        reorg_depth: role.reorg_depth,
        epochs,
        canaries: role.canary_epoch_seconds.is_some(),
        ..defaults
    });
    let verdicts = Verdicts::new(node.journal.records("verdicts"));
    let seeds = role.canary_epoch_seconds.map(|_| Seeds::new(node.journal.records("canary seeds")));
    let filer = Arc::new(OnceLock::new());
    let handler: Arc<dyn EffectHandler> = Arc::new(DisputeHandler::new(DisputeParts {
        deployment,
        reexecution: Arc::new(reexecution),
        verdicts: verdicts.clone(),
        lane: Arc::new(TxLane::new(client.clone(), role.account)),
        blobs: Arc::new(TxLane::blob(client.clone(), role.blob_key)),
        seeds: seeds.clone(),
        filer: filer.clone(),
        osaka_time: node.config.osaka_time,
        clock: Arc::new(SystemClock),
    }));
    let core =
        start_extension(node.supervisor, node.journal, node.feed, client, core, Some(handler), "disputer")?;
    Ok(DisputerHandle { core, verdicts, epochs, deployment, seeds, awaited: Awaited::default(), filer })
}

/// Since when nobody wraps for a former escrow key, unix seconds: a day after this one was first used, for those who were
/// told the other just before; 0 while there was no other.
fn escrow_since(records: &Records, public: &[u8], now: u64) -> Result<u64, JournalError> {
    let first = match records.put_if_absent(public, &now.to_be_bytes())? {
        PutOutcome::Inserted => now,
        PutOutcome::Existing(bytes) => <[u8; 8]>::try_from(bytes.as_slice()).map_or(now, u64::from_be_bytes),
    };
    let only = records.scan(&[])?.len() == 1;
    Ok(if only { 0 } else { first.saturating_add(FORMER_KEY_LINGERS) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use lcai_host::testing::identity;

    #[test]
    fn a_key_is_held_against_users_a_day_after_it_replaced_another() {
        let journal = Journal::in_memory(identity()).unwrap();
        let since = |key: &[u8], now| escrow_since(&journal.records("escrow keys"), key, now).unwrap();
        assert_eq!(since(b"one", 1_000), 0, "it is the only one there ever was");
        assert_eq!(since(b"one", 5_000), 0);
        assert_eq!(since(b"two", 9_000), 9_000 + FORMER_KEY_LINGERS);
        assert_eq!(since(b"two", 20_000), 9_000 + FORMER_KEY_LINGERS, "the same after a restart");
    }
}
