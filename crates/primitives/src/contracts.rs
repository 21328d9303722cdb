//! Bindings of the contracts, their enums, and where they are deployed.
//!
//! The bindings are generated from the JSON ABIs committed under `contracts/abi`, each a superset of the live network's
//! (see the test). Each contract has a module because the structs of its interface (`IJobRegistry::Job`) are generated
//! beside it.

use alloy_primitives::{Address, B256, U256, address};
use alloy_sol_types::SolEvent;
use serde::{Deserialize, Serialize};

/// WorkerRegistry's proxy: the one address every LightChain network has in its genesis.
pub const WORKER_REGISTRY_PREDEPLOY: Address = address!("0000000000000000000000000000000000001002");

macro_rules! binding {
    ($(#[$doc:meta])* $module:ident, $contract:ident, $path:literal) => {
        $(#[$doc])*
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        pub mod $module {
            alloy_sol_types::sol!(
                #[sol(all_derives)]
                $contract,
                $path
            );
        }
        pub use $module::$contract;
    };
}

binding! {
    /// Sessions, jobs, fees, disputes.
    job_registry, JobRegistry, "../../contracts/abi/JobRegistry.json"
}
binding! {
    /// Stake, models, encryption keys, eligibility.
    worker_registry, WorkerRegistry, "../../contracts/abi/WorkerRegistry.json"
}
binding! {
    /// Every parameter of the protocol.
    ai_config, AIConfig, "../../contracts/abi/AIConfig.json"
}
binding! {
    /// Sortition of sessions.
    session_manager, SessionManager, "../../contracts/abi/SessionManager.json"
}
binding! {
    /// Worker scores.
    reputation_registry, ReputationRegistry, "../../contracts/abi/ReputationRegistry.json"
}
binding! {
    /// The disputer's commitments to its canaries; ours, the live network has none.
    canary_ledger, CanaryLedger, "../../contracts/abi/CanaryLedger.json"
}

pub use canary_ledger::ICanaryLedger::Epoch as CanaryEpoch;
pub use job_registry::IJobRegistry::{Job, Session};
pub use reputation_registry::IReputationRegistry::WorkerReputation;
pub use session_manager::ISessionManager::Request;

/// The ABIs the bindings come from and those of JobRegistry's libraries, for decoders that need names at run time.
pub(crate) const ABIS: [&str; 9] = [
    include_str!("../../../contracts/abi/JobRegistry.json"),
    include_str!("../../../contracts/abi/WorkerRegistry.json"),
    include_str!("../../../contracts/abi/AIConfig.json"),
    include_str!("../../../contracts/abi/SessionManager.json"),
    include_str!("../../../contracts/abi/ReputationRegistry.json"),
    include_str!("../../../contracts/abi/Disputes.json"),
    include_str!("../../../contracts/abi/SessionOps.json"),
    include_str!("../../../contracts/abi/Settlement.json"),
    include_str!("../../../contracts/abi/CanaryLedger.json"),
];

/// A value a contract enum does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not a {name}")]
pub struct UnknownVariant {
    /// The enum.
    pub name: &'static str,
    /// The value read.
    pub value: u8,
}

macro_rules! contract_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vdoc])* $variant = $value),+
        }

        impl TryFrom<u8> for $name {
            type Error = UnknownVariant;

            fn try_from(value: u8) -> Result<Self, UnknownVariant> {
                match value {
                    $($value => Ok(Self::$variant),)+
                    _ => Err(UnknownVariant { name: stringify!($name), value }),
                }
            }
        }

        impl From<$name> for u8 {
            fn from(value: $name) -> Self {
                value as Self
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => stringify!($variant)),+ })
            }
        }
    };
}

contract_enum! {
    /// `IJobRegistry.JobState`.
    JobState {
        /// Paid for; the worker has until the deadline to acknowledge.
        Submitted = 0,
        /// The worker has until the deadline to complete.
        Acknowledged = 1,
        /// Answered; inside the dispute window, or past it and not yet released.
        Completed = 2,
        /// A deadline passed; refunded.
        TimedOut = 3,
        /// Waits for the disputer.
        Disputed = 4,
        /// The dispute has a verdict.
        Resolved = 5,
        /// The fee is paid out.
        Released = 6,
    }
}

contract_enum! {
    /// `IJobRegistry.SessionStatus`.
    SessionStatus {
        /// Takes jobs.
        Active = 0,
        /// Waits for keys wrapped to its new worker.
        Reassigning = 1,
        /// Ended.
        Closed = 2,
    }
}

contract_enum! {
    /// `ISessionManager.ReqStatus`.
    RequestStatus {
        /// May be claimed.
        Open = 0,
        /// Has a worker, waits for keys.
        Claimed = 1,
        /// Became a session.
        Ready = 2,
        /// Was not claimed in time.
        Expired = 3,
    }
}

/// JobRegistry's events with a job id as their first topic after which the job's record may differ.
pub const JOB_EVENTS: [B256; 9] = [
    JobRegistry::JobSubmitted::SIGNATURE_HASH,
    JobRegistry::JobAcknowledged::SIGNATURE_HASH,
    JobRegistry::JobCompleted::SIGNATURE_HASH,
    JobRegistry::JobTimedOut::SIGNATURE_HASH,
    JobRegistry::JobReleased::SIGNATURE_HASH,
    JobRegistry::JobSettledNoFault::SIGNATURE_HASH,
    JobRegistry::DisputeCreated::SIGNATURE_HASH,
    JobRegistry::DisputeResolved::SIGNATURE_HASH,
    JobRegistry::DisputeDefaulted::SIGNATURE_HASH,
];

/// What `getJob` returned, of which each field is decoded when it is asked for: blocks bring thousands.
#[derive(Debug, Clone, Copy)]
pub struct EncodedJob<'a>(&'a [[u8; 32]; EncodedJob::WORDS]);

macro_rules! encoded_fields {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $index:literal, $from:expr;)+) => {
        impl<'a> EncodedJob<'a> {
            $($(#[$doc])* pub fn $name(&self) -> $type { $from(self.0[$index]) })+
        }
    };
}

encoded_fields! {
    /// `sessionId`.
    session_id: U256 = 0, word;
    /// `worker`.
    worker: Address = 1, |word| Address::from_word(B256::new(word));
    /// `state`, a [`JobState`].
    state: u8 = 2, |[.., low]: [u8; 32]| low;
    /// `escrowedFee`, wei.
    escrowed_fee: U256 = 3, word;
    /// `promptBlobHash`.
    prompt_blob_hash: B256 = 4, B256::new;
    /// `responseBlobHash`.
    response_blob_hash: B256 = 5, B256::new;
    /// `submittedAt`, unix seconds.
    submitted_at: U256 = 6, word;
    /// `ackTimestamp`, unix seconds.
    ack_timestamp: U256 = 7, word;
    /// `completedAt`, unix seconds.
    completed_at: U256 = 8, word;
    /// `deadline`, unix seconds.
    deadline: U256 = 9, word;
    /// `disputeCreatedAt`, unix seconds.
    dispute_created_at: U256 = 14, word;
    /// `responseCiphertextHash`.
    response_ciphertext_hash: B256 = 15, B256::new;
}

fn word(bytes: [u8; 32]) -> U256 {
    U256::from_be_bytes(bytes)
}

impl<'a> EncodedJob<'a> {
    /// Static words, without an offset.
    const WORDS: usize = 18;

    /// `None` when it is too short for a job.
    pub fn new(output: &'a [u8]) -> Option<Self> {
        output.as_chunks().0.first_chunk().map(Self)
    }
}

/// Where one network's contracts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// WorkerRegistry proxy, [`WORKER_REGISTRY_PREDEPLOY`] on every known network.
    pub worker_registry: Address,
    /// AIConfig proxy.
    pub ai_config: Address,
    /// JobRegistry proxy.
    pub job_registry: Address,
    /// SessionManager proxy, where sortition is deployed.
    pub session_manager: Option<Address>,
    /// ReputationRegistry proxy, where scores are kept.
    pub reputation_registry: Option<Address>,
    /// CanaryLedger proxy, where the disputer commits to its canaries.
    pub canary_ledger: Option<Address>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_json_abi::JsonAbi;
    use alloy_primitives::{U256, b256, fixed_bytes};
    use alloy_sol_types::{SolCall, SolError, SolValue};

    /// Selectors and topics observed on the live network.
    #[test]
    fn selectors_and_topics_are_the_live_ones() {
        assert_eq!(JobRegistry::createSessionCall::SELECTOR, fixed_bytes!("e80116b4"));
        assert_eq!(JobRegistry::submitJobCall::SELECTOR, fixed_bytes!("e3f4f3e9"));
        assert_eq!(JobRegistry::acknowledgeJobCall::SELECTOR, fixed_bytes!("9f6c3cd9"));
        assert_eq!(JobRegistry::completeJobCall::SELECTOR, fixed_bytes!("2c842a15"));
        assert_eq!(AIConfig::getAckTimeoutCall::SELECTOR, fixed_bytes!("6ef7016d"));
        assert_eq!(JobRegistry::DeadlineExceeded::SELECTOR, fixed_bytes!("5a9257f2"));
        assert_eq!(
            JobRegistry::JobSubmitted::SIGNATURE_HASH,
            b256!("fb47370368875d7490803c5653d9496d0a3c5e1b49a17f013ec37abd9d86d356")
        );
        assert_eq!(
            JobRegistry::JobCompleted::SIGNATURE_HASH,
            b256!("db545db74bae046337ed01971cf61569fd1a1460ff8ed511ab19ceaac1326377")
        );
        assert_eq!(
            JobRegistry::SessionCreated::SIGNATURE_HASH,
            b256!("edf9fab204f0bb366f5b33ff07f441f4e387a833e86bfe1364a42ae2c7e05d73")
        );
    }

    /// Wallets, workers and SDKs of the live network must find everything they call, decode and catch.
    #[test]
    fn our_abis_hold_every_item_of_the_live_ones() {
        let parse = |json: &str| serde_json::from_str::<JsonAbi>(json).unwrap();
        let live = [
            include_str!("../../../contracts/abi/live/IJobRegistry.json"),
            include_str!("../../../contracts/abi/live/IWorkerRegistry.json"),
            include_str!("../../../contracts/abi/live/IAIConfig.json"),
            include_str!("../../../contracts/abi/live/ISessionManager.json"),
            include_str!("../../../contracts/abi/live/IReputationRegistry.json"),
        ];
        for (ours, live) in ABIS.iter().zip(live) {
            let (ours, live) = (parse(ours), parse(live));
            let calls: Vec<_> = ours.functions().map(|f| f.signature_with_outputs()).collect();
            for f in live.functions() {
                assert!(calls.contains(&f.signature_with_outputs()), "{}", f.signature_with_outputs());
            }
            let events: Vec<_> = ours.events().map(|e| e.full_signature()).collect();
            for e in live.events() {
                assert!(events.contains(&e.full_signature()), "{}", e.full_signature());
            }
            let errors: Vec<_> = ours.errors().map(|e| e.signature()).collect();
            for e in live.errors() {
                assert!(errors.contains(&e.signature()), "{}", e.signature());
            }
        }
    }

    /// Job is eighteen static words without an offset; Session is dynamic.
    #[test]
    fn struct_layouts_are_the_live_ones() {
        let job = Job {
            submitBlockNumber: U256::from(16),
            completionBlockNumber: U256::from(17),
            ..Job::default()
        };
        let words = job.abi_encode();
        assert_eq!(words.len(), 18 * 32);
        assert_eq!(words.get(16 * 32 + 31), Some(&16));
        assert_eq!(words.get(17 * 32 + 31), Some(&17));
        let session = Session { modelId: B256::repeat_byte(7), ..Session::default() };
        let words = session.abi_encode();
        assert_eq!(U256::from_be_slice(&words[..32]), U256::from(32));
        assert_eq!(&words[64..96], B256::repeat_byte(7).as_slice());
    }

    #[test]
    fn an_encoded_job_is_what_decoding_all_of_it_gives() {
        // Words with something in every byte, also in those that a narrower type has not.
        let output: Vec<u8> = (0..18 * 32u32).map(|n| (n * 31 % 251) as u8).collect();
        let whole = JobRegistry::getJobCall::abi_decode_returns(&output).unwrap();
        let job = EncodedJob::new(&output).unwrap();
        assert_eq!(
            (job.session_id(), job.worker(), job.state()),
            (whole.sessionId, whole.worker, whole.state)
        );
        assert_eq!(job.escrowed_fee(), whole.escrowedFee);
        assert_eq!(job.prompt_blob_hash(), whole.promptBlobHash);
        assert_eq!(job.response_blob_hash(), whole.responseBlobHash);
        assert_eq!(job.response_ciphertext_hash(), whole.responseCiphertextHash);
        let times = [job.submitted_at(), job.ack_timestamp(), job.completed_at(), job.deadline()];
        assert_eq!(times, [whole.submittedAt, whole.ackTimestamp, whole.completedAt, whole.deadline]);
        assert_eq!(job.dispute_created_at(), whole.disputeCreatedAt);
        let longer = [output.as_slice(), &[1]].concat();
        for some in [&longer[..], &output[..575], &[]] {
            let decodes = JobRegistry::getJobCall::abi_decode_returns(some).is_ok();
            assert_eq!(EncodedJob::new(some).is_some(), decodes, "{} bytes", some.len());
        }
    }

    #[test]
    fn enums_refuse_values_they_lack() {
        assert_eq!(JobState::try_from(6), Ok(JobState::Released));
        assert_eq!(JobState::try_from(7), Err(UnknownVariant { name: "JobState", value: 7 }));
        assert_eq!(SessionStatus::try_from(1), Ok(SessionStatus::Reassigning));
        assert!(SessionStatus::try_from(3).is_err());
        assert_eq!(RequestStatus::try_from(3), Ok(RequestStatus::Expired));
        assert!(RequestStatus::try_from(4).is_err());
    }

    #[test]
    fn a_deployment_is_camel_case() {
        let json = r#"{"chainId":8200,"workerRegistry":"0x0000000000000000000000000000000000001002",
            "aiConfig":"0x0101010101010101010101010101010101010101",
            "jobRegistry":"0x0202020202020202020202020202020202020202"}"#;
        let deployment: Deployment = serde_json::from_str(json).unwrap();
        assert_eq!(deployment.worker_registry, WORKER_REGISTRY_PREDEPLOY);
        assert_eq!(deployment.session_manager, None);
        assert_eq!(deployment.canary_ledger, None);
    }
}
