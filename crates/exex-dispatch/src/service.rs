//! The I/O side of dispatch: offers, authorizations, heartbeats.

use crate::{
    core::DispatchCore,
    directory::Directories,
    error::DispatchError,
    records::{Model, WorkerHealth},
    snapshot::{DrawRecord, Snapshot},
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall;
use lcai_host::{BlockRef, Call, ExtensionHandle, HostClient, HostError, JournalError, Records};
use lcai_primitives::{
    contracts::{Deployment, JobRegistry, WorkerRegistry},
    eip712::{self, Heartbeat, Separator, SessionAuthorization},
    ids::{ModelId, SessionId},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Seconds an authorization can be spent for (DESIGN.md, rule 5).
pub const AUTHORIZATION_LIFETIME_SECONDS: u64 = 120;

/// Length of a wrapped session key: ephemeral point, nonce, key, tag.
pub const WRAPPED_KEY_LEN: usize = 125;

/// Offers remembered at once; each lives as long as an authorization.
const MAX_OFFERS: usize = 65_536;

/// A heartbeat may be this many seconds from the node's clock.
pub const HEARTBEAT_SKEW_SECONDS: u64 = 60;

/// What the service is told once and for all.
#[derive(Debug, Clone)]
pub struct DispatchServiceConfig {
    /// The contracts.
    pub deployment: Deployment,
    /// The disputer's P-256 key, 65 bytes uncompressed, or empty.
    pub disputer_encryption_key: Bytes,
    /// The dispatcher's account; a node without it makes offers but signs nothing.
    pub dispatcher: Option<PrivateKeySigner>,
}

/// One worker that could have been drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The worker.
    pub worker: Address,
    /// Its stake, wei.
    pub stake: U256,
    /// What its score counts in the draw: score × standing.
    pub reputation: u64,
    /// Its score in ReputationRegistry.
    pub score: u64,
    /// Its standing, basis points: see [`crate::standing`].
    pub standing_bps: u32,
    /// Its open jobs.
    pub open_jobs: u64,
}

/// A recommended worker with the facts of the draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The account it is for.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The worker.
    pub worker: Address,
    /// The worker's P-256 key.
    pub worker_encryption_key: Bytes,
    /// The disputer's P-256 key, or empty.
    pub disputer_encryption_key: Bytes,
    /// The account's session-creation nonce.
    pub nonce: U256,
    /// Flat fee per job, wei.
    pub fee: U256,
    /// The block whose hash seeded the draw.
    pub block: BlockRef,
    /// Cap on the stake that counts, wei.
    pub stake_cap: U256,
    /// The candidates, ordered by address.
    pub candidates: Vec<Candidate>,
}

/// The fields an authorization binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationFields {
    /// The account that will send `createSession`.
    pub user: Address,
    /// The model.
    pub model_id: ModelId,
    /// The worker of the offer.
    pub worker: Address,
    /// The session key wrapped for the worker, 125 bytes.
    pub enc_worker_key: Bytes,
    /// The session key wrapped for the disputer, 125 bytes, or empty.
    pub enc_disputer_key: Bytes,
    /// The nonce of the offer.
    pub nonce: U256,
}

/// The dispatcher's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// 65 bytes r ‖ s ‖ v (27/28).
    pub signature: Bytes,
    /// Unix seconds until which it can be spent.
    pub expiry: u64,
}

/// The worker drawn for one (user, model, nonce), remembered so that asking again does not draw again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    worker: Address,
    expiry: u64,
}

/// An offer made, with what it was decided by.
#[derive(Debug, Clone)]
struct Offered {
    pin: Pin,
    snapshot: Arc<Snapshot>,
}

/// What is kept of an authorized draw; the snapshot lies under its hash, because draws of one block share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct KeptDraw {
    user: Address,
    nonce: U256,
    worker: Address,
    snapshot: B256,
    /// Block time until which it is kept, unix seconds.
    keep_until: u64,
}

/// Prefixes of the journal's keys; pins have none.
const DRAW: &[u8] = b"drw2";
const SNAPSHOT: &[u8] = b"snp2";

/// Those of the form before heartbeats were kept with their signatures: nobody can read it any more.
const OLD_PREFIXES: [&[u8]; 2] = [b"draw", b"snap"];

fn prefixed(prefix: &[u8], key: B256) -> Vec<u8> {
    [prefix, key.as_slice()].concat()
}

/// Answers who serves a session, and signs for it.
pub struct DispatchService {
    pub(crate) config: DispatchServiceConfig,
    /// What is signed is signed under this.
    pub(crate) domain: Separator,
    core: ExtensionHandle<DispatchCore>,
    client: Arc<dyn HostClient>,
    /// Pins of signed authorizations, durable.
    journal: Records,
    /// Offers made and not yet authorized: forgetting them costs nothing but a new draw.
    offers: Mutex<HashMap<B256, Offered>>,
    /// The newest snapshots.
    directories: Mutex<Directories>,
    /// One authorization at a time: reading and writing a pin is one step.
    signing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for DispatchService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DispatchService")
            .field("can_authorize", &self.can_authorize())
            .finish_non_exhaustive()
    }
}

impl DispatchService {
    /// Ties the service to the core's handle, the chain, and its durable records.
    pub fn new(
        config: DispatchServiceConfig,
        core: ExtensionHandle<DispatchCore>,
        client: Arc<dyn HostClient>,
        journal: Records,
    ) -> Self {
        let deployment = &config.deployment;
        let domain = Separator::from(&eip712::domain(deployment.chain_id, deployment.job_registry));
        Self {
            config,
            domain,
            core,
            client,
            journal,
            offers: Mutex::new(HashMap::new()),
            directories: Mutex::new(Directories::default()),
            signing: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether this node has the dispatcher's key.
    pub const fn can_authorize(&self) -> bool {
        self.config.dispatcher.is_some()
    }

    /// The core's handle.
    pub const fn core(&self) -> &ExtensionHandle<DispatchCore> {
        &self.core
    }

    /// Recommends a worker. It reserves nothing; asking again within the lifetime of an authorization gives the same
    /// worker as long as it can still serve, so that nobody grinds the draw.
    pub async fn request_session(&self, model: ModelId, user: Address) -> Result<Offer, DispatchError> {
        let fee = self.model(model)?.fee;
        let nonce = self.nonce(user).await?;
        let now = self.snapshot(model)?;
        let key = pin_key(user, model, nonce);
        // The facts are those the pinned worker was drawn by, so that they repeat the draw.
        let pinned = self.pinned(key, &now).await?;
        let (worker, facts) = match pinned {
            Some(pin) => (pin.worker, self.facts(key, pin.worker).await?.unwrap_or(now)),
            None => {
                let worker = drawn(&now, user, nonce)?;
                self.remember_offer(key, worker, &now);
                (worker, now)
            }
        };
        let worker_encryption_key = self
            .core
            .read(|core| core.worker(&worker).map(|w| w.encryption_key.clone()))
            .ok_or_else(|| DispatchError::NoWorker("the drawn worker just deregistered; ask again".into()))?;
        let candidates = facts.candidates().map(|w| Candidate {
            worker: w.worker,
            stake: w.stake,
            reputation: w.reputation(),
            score: w.score,
            standing_bps: w.standing_bps,
            open_jobs: w.open_jobs,
        });
        Ok(Offer {
            user,
            model_id: model,
            worker,
            worker_encryption_key,
            disputer_encryption_key: self.config.disputer_encryption_key.clone(),
            nonce,
            fee,
            block: facts.block,
            stake_cap: facts.stake_cap,
            candidates: candidates.collect(),
        })
    }

    /// Signs an authorization. The caller has been proven to be `fields.user` before.
    pub async fn authorize(&self, fields: &AuthorizationFields) -> Result<Grant, DispatchError> {
        let Some(signer) = &self.config.dispatcher else {
            return Err(DispatchError::Unavailable(
                "this node has no dispatcher key and signs no sessions".into(),
            ));
        };
        check_keys(fields, !self.config.disputer_encryption_key.is_empty())?;
        self.model(fields.model_id)?;
        self.check_nonce(fields.user, fields.nonce).await?;
        self.check_eligible(fields.worker, fields.model_id).await?;
        let expiry = self.pin(fields).await?;
        let message = SessionAuthorization::for_keys(
            fields.user,
            fields.model_id,
            fields.worker,
            &fields.enc_worker_key,
            &fields.enc_disputer_key,
            fields.nonce,
            expiry,
        );
        metrics::counter!("lcai_dispatch_authorizations_total").increment(1);
        self.grant(signer, message.signing_hash(&self.domain), expiry)
    }

    fn grant(&self, signer: &PrivateKeySigner, hash: B256, expiry: u64) -> Result<Grant, DispatchError> {
        let signature = signer
            .sign_hash_sync(&hash)
            .map_err(|_| DispatchError::Internal("the dispatcher's key could not sign".into()))?;
        Ok(Grant { signature: signature.as_bytes().to_vec().into(), expiry })
    }

    async fn check_nonce(&self, user: Address, given: U256) -> Result<(), DispatchError> {
        let nonce = self.nonce(user).await?;
        if nonce == given {
            return Ok(());
        }
        Err(DispatchError::Refused(format!(
            "nonce {given} is not the account's session nonce, which is {nonce}; request the session again"
        )))
    }

    /// Takes a worker's heartbeat: checked, journaled, applied.
    pub async fn heartbeat(&self, heartbeat: Heartbeat, signature: &[u8]) -> Result<(), DispatchError> {
        let signer =
            lcai_crypto::recover_typed(heartbeat.signing_hash(&self.domain), signature).map_err(|e| {
                DispatchError::Unauthorized(format!("the heartbeat's signature is malformed: {e}"))
            })?;
        if signer != heartbeat.worker {
            return Err(DispatchError::Unauthorized(format!(
                "the heartbeat names {} but is signed by {signer}",
                heartbeat.worker
            )));
        }
        let now = unix_now();
        if heartbeat.sent_at.abs_diff(now) > HEARTBEAT_SKEW_SECONDS {
            return Err(DispatchError::Stale(format!(
                "the heartbeat says {} and this node's clock {now}: more than {HEARTBEAT_SKEW_SECONDS} seconds apart",
                heartbeat.sent_at
            )));
        }
        let (registered, known) =
            self.core.read(|core| (core.worker(&signer).is_some(), core.health_of(&signer).cloned()));
        if !registered {
            return Err(DispatchError::Unauthorized(format!("{signer} is not a registered worker")));
        }
        let known = known.map(|health| (health.heartbeat.sent_at, health.heartbeat.sequence));
        if known.is_some_and(|known| (heartbeat.sent_at, heartbeat.sequence) <= known) {
            return Err(DispatchError::Stale("a newer heartbeat of this worker is known already".into()));
        }
        // The time it was heard is the core's to say: it knows the block time.
        let heard_at = heartbeat.sent_at;
        let heartbeat = heartbeat.signed(Bytes::copy_from_slice(signature));
        let health = WorkerHealth { heartbeat, heard_at };
        let input = postcard::to_stdvec(&(signer, health)).map_err(internal)?;
        self.core.input(input).await.map_err(internal)
    }

    /// The time by which authorizations expire: the chain's where it runs ahead of the clock, because the contract
    /// compares with block time.
    pub(crate) fn now(&self) -> u64 {
        unix_now().max(self.core.read(DispatchCore::block_time))
    }

    fn model(&self, id: ModelId) -> Result<Model, DispatchError> {
        let model = self.core.read(|core| core.model(&id).cloned());
        match model {
            Some(model) if model.enabled => Ok(model),
            Some(_) => Err(DispatchError::UnknownModel(format!("model {id} is not enabled"))),
            None => Err(DispatchError::UnknownModel(format!(
                "model {id} is not registered; lcai_models lists the models of this network"
            ))),
        }
    }

    /// The model's directory as it is.
    fn snapshot(&self, model: ModelId) -> Result<Arc<Snapshot>, DispatchError> {
        self.core.read_at(|core, at| {
            let at = at.ok_or_else(|| {
                DispatchError::NoWorker("the node has not read its first block yet; try again".into())
            })?;
            self.directories.lock().snapshot(core, at, model)
        })
    }

    /// What a pinned worker was drawn by.
    async fn facts(&self, key: B256, worker: Address) -> Result<Option<Arc<Snapshot>>, DispatchError> {
        let offered = {
            let offers = self.offers.lock();
            offers.get(&key).filter(|offer| offer.pin.worker == worker).map(|o| Arc::clone(&o.snapshot))
        };
        if offered.is_some() {
            return Ok(offered);
        }
        Ok(self.kept_draw(draw_key(key, worker)).await?.map(|record| Arc::new(record.snapshot)))
    }

    /// The draw that a session of this node's dispatcher was authorized by; `None` for a session that came by sortition,
    /// from another dispatcher, or so long ago that its blobs are gone too.
    pub async fn draw_of(&self, session: SessionId) -> Result<Option<DrawRecord>, DispatchError> {
        let known = self
            .core
            .read(|core| core.session(session).map(|s| (s.user, s.model_id, s.nonce, s.first_worker)));
        match known {
            Some((user, model, Some(nonce), worker)) => {
                self.kept_draw(draw_key(pin_key(user, model, nonce), worker)).await
            }
            _ => Ok(None),
        }
    }

    async fn kept_draw(&self, key: B256) -> Result<Option<DrawRecord>, DispatchError> {
        let found = self
            .records(move |records| {
                let Some(bytes) = records.get(&prefixed(DRAW, key))? else { return Ok(None) };
                let Ok(kept) = postcard::from_bytes::<KeptDraw>(&bytes) else { return Ok(None) };
                Ok(records.get(&prefixed(SNAPSHOT, kept.snapshot))?.map(|snapshot| (kept, snapshot)))
            })
            .await?;
        let Some((kept, snapshot)) = found else { return Ok(None) };
        let snapshot = Snapshot::decode(&snapshot).map_err(internal)?;
        Ok(Some(DrawRecord { user: kept.user, nonce: kept.nonce, worker: kept.worker, snapshot }))
    }

    pub(crate) async fn nonce(&self, user: Address) -> Result<U256, DispatchError> {
        let call = Call {
            to: self.config.deployment.job_registry,
            input: JobRegistry::nonceCall { account: user }.abi_encode().into(),
        };
        let output = self.client.call(call, None).await.map_err(internal)?;
        JobRegistry::nonceCall::abi_decode_returns(&output).map_err(internal)
    }

    /// The registry's own word, so that nobody pays for a createSession that must revert.
    pub(crate) async fn check_eligible(&self, worker: Address, model: ModelId) -> Result<(), DispatchError> {
        let call = Call {
            to: self.config.deployment.worker_registry,
            input: WorkerRegistry::isEligibleCall { worker, modelId: model.0 }.abi_encode().into(),
        };
        let eligible = match self.client.call(call, None).await {
            Ok(output) => WorkerRegistry::isEligibleCall::abi_decode_returns(&output).map_err(internal)?,
            Err(HostError::Reverted(_)) => false,
            Err(e) => return Err(internal(e)),
        };
        if eligible {
            return Ok(());
        }
        Err(DispatchError::Refused(format!(
            "worker {worker} is not eligible for the model; request the session again"
        )))
    }

    /// What was drawn before for the same (user, model, nonce) and can still serve: a signed authorization's pin, or an
    /// offer. One that drains or is full by now is drawn anew: it must not wait for sessions for ever.
    async fn pinned(&self, key: B256, directory: &Snapshot) -> Result<Option<Pin>, DispatchError> {
        let now = self.now();
        let holds = |pin: &Pin| pin.expiry >= now && directory.has_candidate(&pin.worker);
        // An offer is newer than a signed authorization, which takes it away.
        let offered = self.offers.lock().get(&key).map(|offer| offer.pin).filter(holds);
        if offered.is_some() {
            return Ok(offered);
        }
        let durable = self.records(move |records| records.get(key.as_slice())).await?;
        let pin = durable.map(|bytes| postcard::from_bytes::<Pin>(&bytes)).transpose().map_err(internal)?;
        Ok(pin.filter(holds))
    }

    fn remember_offer(&self, key: B256, worker: Address, snapshot: &Arc<Snapshot>) {
        let now = self.now();
        let mut offers = self.offers.lock();
        if offers.len() >= MAX_OFFERS {
            offers.retain(|_, offer| offer.pin.expiry >= now);
        }
        if offers.len() < MAX_OFFERS {
            let pin = Pin { worker, expiry: now.saturating_add(AUTHORIZATION_LIFETIME_SECONDS) };
            offers.insert(key, Offered { pin, snapshot: Arc::clone(snapshot) });
        }
    }

    /// Pins the drawn worker until the expiry that is signed, or says why it is not the drawn one. The keys may change
    /// from one authorization to the next; the worker may not.
    async fn pin(&self, fields: &AuthorizationFields) -> Result<u64, DispatchError> {
        let _one_at_a_time = self.signing.lock().await;
        let key = pin_key(fields.user, fields.model_id, fields.nonce);
        let now = self.snapshot(fields.model_id)?;
        let (allowed, facts) = match self.pinned(key, &now).await? {
            Some(pin) => (pin.worker, self.facts(key, pin.worker).await?),
            None => (drawn(&now, fields.user, fields.nonce)?, Some(now)),
        };
        if allowed != fields.worker {
            return Err(DispatchError::Refused(format!(
                "worker {} was not drawn for this session; request the session again",
                fields.worker
            )));
        }
        let expiry = self.now().saturating_add(AUTHORIZATION_LIFETIME_SECONDS);
        let pin = postcard::to_stdvec(&Pin { worker: fields.worker, expiry }).map_err(internal)?;
        // The facts first: a pin without them could not be accounted for.
        let draw = match facts {
            Some(snapshot) => Some(self.keep_facts(fields, &snapshot).await?),
            None => None,
        };
        let kept = draw_key(key, fields.worker);
        self.records(move |records| {
            if let Some(draw) = draw {
                records.put(&prefixed(DRAW, kept), &draw)?;
            }
            records.put(key.as_slice(), &pin)
        })
        .await?;
        self.offers.lock().remove(&key);
        Ok(expiry)
    }

    /// Keeps a draw's snapshot, which draws of one block share, and gives the draw, encoded.
    async fn keep_facts(
        &self,
        fields: &AuthorizationFields,
        snapshot: &Snapshot,
    ) -> Result<Vec<u8>, DispatchError> {
        let hash = snapshot.hash().map_err(internal)?;
        let name = prefixed(SNAPSHOT, hash);
        let known = name.clone();
        if self.records(move |records| records.get(&known)).await?.is_none() {
            let bytes = snapshot.encode().map_err(internal)?;
            self.records(move |records| records.put(&name, &bytes)).await?;
        }
        let retention = self.core.read(|core| core.params().map_or(0, |p| p.blob_retention_period));
        let draw = KeptDraw {
            user: fields.user,
            nonce: fields.nonce,
            worker: fields.worker,
            snapshot: hash,
            keep_until: snapshot.block_time.saturating_add(retention),
        };
        postcard::to_stdvec(&draw).map_err(internal)
    }

    /// Forgets pins that have expired and draws whose sessions nobody can dispute any more; called now and then.
    pub async fn prune(&self) -> Result<(), DispatchError> {
        let (now, block_time) = (unix_now(), self.core.read(DispatchCore::block_time));
        let _one_at_a_time = self.signing.lock().await;
        self.records(move |records| {
            let mut used = HashSet::new();
            for (key, bytes) in records.scan(DRAW)? {
                match postcard::from_bytes::<KeptDraw>(&bytes) {
                    Ok(draw) if draw.keep_until >= block_time => {
                        used.insert(draw.snapshot);
                    }
                    _ => {
                        records.remove(&key)?;
                    }
                }
            }
            for (key, _) in records.scan(SNAPSHOT)? {
                if !used.iter().any(|hash| key.ends_with(hash.as_slice())) {
                    records.remove(&key)?;
                }
            }
            for old in OLD_PREFIXES {
                for (key, _) in records.scan(old)?.into_iter().filter(|(key, _)| key.len() == old.len() + 32)
                {
                    records.remove(&key)?;
                }
            }
            for (key, bytes) in records.scan(&[])? {
                let pin =
                    key.len() == 32 && postcard::from_bytes::<Pin>(&bytes).is_ok_and(|pin| pin.expiry < now);
                if pin {
                    records.remove(&key)?;
                }
            }
            Ok(())
        })
        .await?;
        self.offers.lock().retain(|_, offer| offer.pin.expiry >= now);
        let bounties = self.core.read(DispatchCore::bounties);
        metrics::gauge!("lcai_keeper_bounties_wei", "duty" => "claimTimeout")
            .set(f64::from(bounties.timeouts));
        metrics::gauge!("lcai_keeper_bounties_wei", "duty" => "releaseJobs")
            .set(f64::from(bounties.releases));
        metrics::gauge!("lcai_keeper_bounties_kept_wei").set(f64::from(bounties.kept));
        metrics::gauge!("lcai_keeper_withdrawn_wei").set(f64::from(bounties.withdrawn));
        Ok(())
    }

    /// Runs a journal access where its fsync blocks nobody.
    async fn records<T: Send + 'static>(
        &self,
        access: impl FnOnce(&Records) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, DispatchError> {
        let records = self.journal.clone();
        tokio::task::spawn_blocking(move || access(&records)).await.map_err(internal)?.map_err(internal)
    }
}

/// The draw on a snapshot: eligible, below capacity, healthy.
fn drawn(snapshot: &Snapshot, user: Address, nonce: U256) -> Result<Address, DispatchError> {
    snapshot.draw(user, nonce).ok_or_else(|| {
        let model = snapshot.model_id;
        DispatchError::NoWorker(format!(
            "no worker can take a session of model {model} now: none is registered, staked, healthy and below capacity"
        ))
    })
}

pub(crate) fn check_keys(fields: &AuthorizationFields, escrow: bool) -> Result<(), DispatchError> {
    if fields.enc_worker_key.len() != WRAPPED_KEY_LEN {
        return Err(DispatchError::Refused(format!(
            "encWorkerKey has {} bytes, expected {WRAPPED_KEY_LEN}",
            fields.enc_worker_key.len()
        )));
    }
    let disputer = fields.enc_disputer_key.len();
    if disputer == WRAPPED_KEY_LEN || (disputer == 0 && !escrow) {
        return Ok(());
    }
    let or_empty = if escrow { "" } else { " or none" };
    Err(DispatchError::Refused(format!(
        "encDisputerKey has {disputer} bytes, expected {WRAPPED_KEY_LEN}{or_empty}"
    )))
}

fn pin_key(user: Address, model: ModelId, nonce: U256) -> B256 {
    let mut bytes = [0u8; 20 + 32 + 32];
    bytes[..20].copy_from_slice(user.as_slice());
    bytes[20..52].copy_from_slice(model.0.as_slice());
    bytes[52..].copy_from_slice(&nonce.to_be_bytes::<32>());
    keccak256(bytes)
}

/// Two workers may be authorized for one pin's key, where the first one stopped being able to serve.
fn draw_key(pin: B256, worker: Address) -> B256 {
    keccak256([pin.as_slice(), worker.as_slice()].concat())
}

fn internal(error: impl std::fmt::Display) -> DispatchError {
    DispatchError::Internal(error.to_string())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
