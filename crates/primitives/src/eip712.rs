//! Typed data (EIP-712) under the domain "LightChain JobRegistry".

use crate::ids::{ModelId, SessionId};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, eip712_domain, sol};
use serde::{Deserialize, Serialize};

sol! {
    /// What the dispatcher signs for `createSession`: this user may open a session with this worker under these keys.
    #[derive(Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    struct SessionAuthorization {
        address user;
        bytes32 modelId;
        address worker;
        bytes32 encWorkerKeyHash;
        bytes32 encDisputerKeyHash;
        uint256 nonce;
        uint256 expiry;
    }

    /// What the dispatcher signs for `updateSessionKey` after a reassignment.
    #[derive(Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    struct SessionKeyUpdate {
        uint256 sessionId;
        address worker;
        bytes32 encWorkerKeyHash;
        bytes32 encDisputerKeyHash;
        uint256 nonce;
        uint256 expiry;
    }

    /// What a user signs so that another account may submit a job for it, in the transaction that carries the prompt blob
    /// (`submitJobWithBlob`). `jobIndex` is the session's job count before the job: the signature is good for one.
    #[derive(Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    struct SubmitJob {
        uint256 sessionId;
        uint256 jobIndex;
        bytes32 promptBlobHash;
        uint256 maxFee;
        uint256 expiry;
    }

    /// What a worker signs so that another account may complete its job, in the transaction that carries the response
    /// blob (`completeJobWithBlob`). Names the prompt too: after a reorg the same job id can be another prompt.
    #[derive(Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
    struct CompleteJob {
        uint256 jobId;
        uint256 sessionId;
        bytes32 promptBlobHash;
        bytes32 responseBlobHash;
        bytes32 responseCiphertextHash;
    }
}

mod typed {
    alloy_sol_types::sol! {
        struct Heartbeat {
            address worker;
            uint64 sentAt;
            uint32 activeJobs;
            uint32 maxJobs;
            bytes32 modelsHash;
            uint8 status;
            uint64 sequence;
        }
    }
}

/// The domain every type here is signed under: JobRegistry on its chain.
pub fn domain(chain_id: u64, job_registry: Address) -> Eip712Domain {
    eip712_domain! {
        name: "LightChain JobRegistry",
        version: "1",
        chain_id: chain_id,
        verifying_contract: job_registry,
    }
}

/// What a signature is bound to.
pub trait Domain {
    /// hashStruct of the domain.
    fn separator(&self) -> B256;
}

/// Hashes its type and fields each time; see [`Separator`].
impl Domain for Eip712Domain {
    fn separator(&self) -> B256 {
        Self::separator(self)
    }
}

/// A domain that was hashed once, for whoever hashes much under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Separator(B256);

impl From<&Eip712Domain> for Separator {
    fn from(domain: &Eip712Domain) -> Self {
        Self(domain.separator())
    }
}

impl Domain for Separator {
    fn separator(&self) -> B256 {
        self.0
    }
}

/// keccak256("\x19\x01" ‖ domain separator ‖ struct hash): the 32 bytes that are signed.
pub fn signing_hash<T: SolStruct>(value: &T, domain: &impl Domain) -> B256 {
    let mut bytes = [0u8; 2 + 32 + 32];
    bytes[..2].copy_from_slice(&[0x19, 0x01]);
    bytes[2..34].copy_from_slice(domain.separator().as_slice());
    bytes[34..].copy_from_slice(value.eip712_hash_struct().as_slice());
    keccak256(bytes)
}

impl SessionAuthorization {
    /// From the wrapped keys themselves; the type holds only their hashes. `expiry` is unix seconds.
    pub fn for_keys(
        user: Address,
        model: ModelId,
        worker: Address,
        enc_worker_key: &[u8],
        enc_disputer_key: &[u8],
        nonce: U256,
        expiry: u64,
    ) -> Self {
        Self {
            user,
            modelId: model.0,
            worker,
            encWorkerKeyHash: keccak256(enc_worker_key),
            encDisputerKeyHash: keccak256(enc_disputer_key),
            nonce,
            expiry: U256::from(expiry),
        }
    }

    /// The hash the dispatcher signs (or the user, to prove who asks).
    pub fn signing_hash(&self, domain: &impl Domain) -> B256 {
        signing_hash(self, domain)
    }
}

impl SessionKeyUpdate {
    /// From the wrapped keys themselves. `expiry` is unix seconds.
    pub fn for_keys(
        session: SessionId,
        worker: Address,
        enc_worker_key: &[u8],
        enc_disputer_key: &[u8],
        nonce: U256,
        expiry: u64,
    ) -> Self {
        Self {
            sessionId: session.into(),
            worker,
            encWorkerKeyHash: keccak256(enc_worker_key),
            encDisputerKeyHash: keccak256(enc_disputer_key),
            nonce,
            expiry: U256::from(expiry),
        }
    }

    /// The hash the dispatcher signs.
    pub fn signing_hash(&self, domain: &impl Domain) -> B256 {
        signing_hash(self, domain)
    }
}

impl SubmitJob {
    /// The hash the user signs.
    pub fn signing_hash(&self, domain: &impl Domain) -> B256 {
        signing_hash(self, domain)
    }
}

impl CompleteJob {
    /// The hash the worker signs.
    pub fn signing_hash(&self, domain: &impl Domain) -> B256 {
        signing_hash(self, domain)
    }
}

/// Whether a worker takes new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum HeartbeatStatus {
    /// Takes new sessions.
    Active = 0,
    /// Finishes what it has and takes nothing new.
    Draining = 1,
}

/// Set in the signed status byte while the worker's model backend does not answer.
const STATUS_NOT_READY: u8 = 2;

/// A worker's sign of life, signed by its account key. Workers send one every few seconds; the draw counts only workers
/// with a fresh one.
///
/// Typed data: `Heartbeat(address worker,uint64 sentAt,uint32 activeJobs,uint32 maxJobs,bytes32 modelsHash,uint8 status,
/// uint64 sequence)`. `modelsHash` is keccak256 of the concatenated model ids. `status` is [`HeartbeatStatus`], plus 2
/// while inference is not ready, so that a relay cannot turn an unready worker into a ready one. The uptime is
/// informative and not signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// The worker's account.
    pub worker: Address,
    /// Unix seconds by the worker's clock.
    #[serde(with = "crate::quantity")]
    pub sent_at: u64,
    /// Jobs in work.
    #[serde(with = "crate::quantity")]
    pub active_jobs: u32,
    /// Jobs it takes at once.
    #[serde(with = "crate::quantity")]
    pub max_jobs: u32,
    /// Models it serves now.
    pub models: Vec<ModelId>,
    /// Whether it takes new sessions.
    pub status: HeartbeatStatus,
    /// Whether its model backend answers.
    pub inference_ready: bool,
    /// Seconds since it started; informative.
    #[serde(with = "crate::quantity")]
    pub uptime_seconds: u64,
    /// Grows with each heartbeat, so that an old one cannot be replayed. Workers start it at the unix time in
    /// milliseconds.
    #[serde(with = "crate::quantity")]
    pub sequence: u64,
}

impl Heartbeat {
    /// keccak256 of the concatenated 32-byte model ids, in order.
    pub fn models_hash(&self) -> B256 {
        let mut bytes = Vec::with_capacity(self.models.len() * 32);
        for model in &self.models {
            bytes.extend_from_slice(model.0.as_slice());
        }
        keccak256(bytes)
    }

    /// The signed status byte.
    pub fn status_byte(&self) -> u8 {
        let not_ready = if self.inference_ready { 0 } else { STATUS_NOT_READY };
        self.status as u8 | not_ready
    }

    /// The hash the worker signs.
    pub fn signing_hash(&self, domain: &impl Domain) -> B256 {
        self.signed(Bytes::new()).signing_hash(self.worker, domain)
    }

    /// What is signed of it, with the signature over it.
    pub fn signed(&self, signature: Bytes) -> SignedHeartbeat {
        SignedHeartbeat {
            sent_at: self.sent_at,
            active_jobs: self.active_jobs,
            max_jobs: self.max_jobs,
            models_hash: self.models_hash(),
            status: self.status_byte(),
            sequence: self.sequence,
            signature,
        }
    }
}

/// What is signed of a [`Heartbeat`], with the signature: anybody can tell which worker said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHeartbeat {
    /// Unix seconds by the worker's clock.
    pub sent_at: u64,
    /// Jobs in work.
    pub active_jobs: u32,
    /// Jobs it takes at once.
    pub max_jobs: u32,
    /// [`Heartbeat::models_hash`].
    pub models_hash: B256,
    /// [`Heartbeat::status_byte`].
    pub status: u8,
    /// Its number.
    pub sequence: u64,
    /// 65 bytes r ‖ s ‖ v.
    pub signature: Bytes,
}

impl SignedHeartbeat {
    /// The hash the worker signs.
    pub fn signing_hash(&self, worker: Address, domain: &impl Domain) -> B256 {
        let typed = typed::Heartbeat {
            worker,
            sentAt: self.sent_at,
            activeJobs: self.active_jobs,
            maxJobs: self.max_jobs,
            modelsHash: self.models_hash,
            status: self.status,
            sequence: self.sequence,
        };
        signing_hash(&typed, domain)
    }

    /// Whether it takes no new sessions.
    pub const fn is_draining(&self) -> bool {
        self.status & HeartbeatStatus::Draining as u8 != 0
    }

    /// Whether its model backend answers.
    pub const fn is_ready(&self) -> bool {
        self.status & STATUS_NOT_READY == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::hex;
    use serde_json::Value;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../testdata/eip712.json")).unwrap()
    }

    fn field<T: serde::de::DeserializeOwned>(v: &Value, name: &str) -> T {
        serde_json::from_value(v[name].clone()).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn bytes(v: &Value, name: &str) -> Vec<u8> {
        hex::decode(v[name].as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_separator_is_its_domain() {
        let domain = domain(8200, Address::repeat_byte(4));
        let value = SubmitJob { jobIndex: U256::from(7), ..SubmitJob::default() };
        let hash = value.eip712_signing_hash(&domain);
        assert_eq!(value.signing_hash(&domain), hash);
        assert_eq!(value.signing_hash(&Separator::from(&domain)), hash);
    }

    fn domain_of(v: &Value) -> Eip712Domain {
        domain(field(v, "chainId"), field(v, "jobRegistry"))
    }

    #[test]
    fn type_strings_are_the_agreed_ones() {
        assert_eq!(
            SessionAuthorization::eip712_encode_type(),
            "SessionAuthorization(address user,bytes32 modelId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry)"
        );
        assert_eq!(
            SessionKeyUpdate::eip712_encode_type(),
            "SessionKeyUpdate(uint256 sessionId,address worker,bytes32 encWorkerKeyHash,bytes32 encDisputerKeyHash,uint256 nonce,uint256 expiry)"
        );
        assert_eq!(
            SubmitJob::eip712_encode_type(),
            "SubmitJob(uint256 sessionId,uint256 jobIndex,bytes32 promptBlobHash,uint256 maxFee,uint256 expiry)"
        );
        assert_eq!(
            CompleteJob::eip712_encode_type(),
            "CompleteJob(uint256 jobId,uint256 sessionId,bytes32 promptBlobHash,bytes32 responseBlobHash,bytes32 responseCiphertextHash)"
        );
        assert_eq!(
            typed::Heartbeat::eip712_encode_type(),
            "Heartbeat(address worker,uint64 sentAt,uint32 activeJobs,uint32 maxJobs,bytes32 modelsHash,uint8 status,uint64 sequence)"
        );
    }

    #[test]
    fn session_authorizations_hash_to_the_vectors() {
        let all = vectors();
        let list = all["sessionAuthorizations"].as_array().unwrap();
        assert!(list.len() >= 3);
        for v in list {
            let value = SessionAuthorization::for_keys(
                field(v, "user"),
                field(v, "modelId"),
                field(v, "worker"),
                &bytes(v, "encWorkerKey"),
                &bytes(v, "encDisputerKey"),
                field(v, "nonce"),
                field(v, "expiry"),
            );
            let domain = domain_of(v);
            assert_eq!(domain.separator(), field::<B256>(v, "domainSeparator"));
            assert_eq!(value.eip712_hash_struct(), field::<B256>(v, "structHash"));
            assert_eq!(value.signing_hash(&domain), field::<B256>(v, "signingHash"));
        }
    }

    #[test]
    fn session_key_updates_hash_to_the_vectors() {
        let all = vectors();
        let list = all["sessionKeyUpdates"].as_array().unwrap();
        assert!(list.len() >= 2);
        for v in list {
            let value = SessionKeyUpdate::for_keys(
                field(v, "sessionId"),
                field(v, "worker"),
                &bytes(v, "encWorkerKey"),
                &bytes(v, "encDisputerKey"),
                field(v, "nonce"),
                field(v, "expiry"),
            );
            assert_eq!(value.eip712_hash_struct(), field::<B256>(v, "structHash"));
            assert_eq!(value.signing_hash(&domain_of(v)), field::<B256>(v, "signingHash"));
        }
    }

    #[test]
    fn job_signatures_hash_to_the_vectors() {
        let all = vectors();
        for v in all["submitJobs"].as_array().unwrap() {
            let value: SubmitJob = field(v, "message");
            assert_eq!(value.eip712_hash_struct(), field::<B256>(v, "structHash"));
            assert_eq!(value.signing_hash(&domain_of(v)), field::<B256>(v, "signingHash"));
        }
        for v in all["completeJobs"].as_array().unwrap() {
            let value: CompleteJob = field(v, "message");
            assert_eq!(value.eip712_hash_struct(), field::<B256>(v, "structHash"));
            assert_eq!(value.signing_hash(&domain_of(v)), field::<B256>(v, "signingHash"));
        }
        assert_eq!((&all["submitJobCount"], &all["completeJobCount"]), (&2.into(), &2.into()));
    }

    #[test]
    fn heartbeats_hash_to_the_vectors() {
        let all = vectors();
        let list = all["heartbeats"].as_array().unwrap();
        assert!(list.len() >= 3);
        for v in list {
            let value: Heartbeat = serde_json::from_value(v["heartbeat"].clone()).unwrap();
            assert_eq!(value.models_hash(), field::<B256>(v, "modelsHash"));
            assert_eq!(value.status_byte(), field::<u8>(v, "status"));
            assert_eq!(value.signing_hash(&domain_of(v)), field::<B256>(v, "signingHash"));
            let hex = serde_json::to_value(&value).unwrap();
            assert_eq!(hex["sentAt"], format!("{:#x}", value.sent_at));
            assert_eq!(serde_json::from_value::<Heartbeat>(hex).unwrap(), value);
        }
    }

    /// A relay that marks an unready worker ready must break the signature.
    #[test]
    fn readiness_is_signed() {
        let all = vectors();
        let ready: Heartbeat = serde_json::from_value(all["heartbeats"][0]["heartbeat"].clone()).unwrap();
        let unready = Heartbeat { inference_ready: !ready.inference_ready, ..ready.clone() };
        let domain = domain(8200, Address::repeat_byte(1));
        assert_ne!(ready.signing_hash(&domain), unready.signing_hash(&domain));
    }
}
