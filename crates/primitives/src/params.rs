//! AIConfig's parameters, as one value.

use crate::contracts::AIConfig;
use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use serde::{Deserialize, Serialize};

/// Why AIConfig's answers are not parameters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// Another number of answers than calls.
    #[error("AIConfig has {expected} parameters, {got} answers were given")]
    Count {
        /// Calls made.
        expected: usize,
        /// Answers given.
        got: usize,
    },
    /// The answer does not decode: no AIConfig at this address, or an older one.
    #[error("AIConfig.{0} gave no readable answer: is this the AIConfig of this network?")]
    Undecodable(&'static str),
    /// The value is beyond what any network can mean by it.
    #[error("AIConfig.{getter} is {value}, beyond its type")]
    OutOfRange {
        /// The getter.
        getter: &'static str,
        /// What it returned.
        value: U256,
    },
}

/// A word from the contract, narrowed to the field's type.
trait Narrow<W>: Sized {
    fn narrow(word: W, getter: &'static str) -> Result<Self, ParamsError>;
}

macro_rules! narrow_number {
    ($($ty:ty),+) => {$(
        impl Narrow<U256> for $ty {
            fn narrow(value: U256, getter: &'static str) -> Result<Self, ParamsError> {
                Self::try_from(value).map_err(|_| ParamsError::OutOfRange { getter, value })
            }
        }
    )+};
}
narrow_number!(u32, u64);

macro_rules! narrow_same {
    ($($ty:ty),+) => {$(
        impl Narrow<Self> for $ty {
            fn narrow(value: Self, _: &'static str) -> Result<Self, ParamsError> {
                Ok(value)
            }
        }
    )+};
}
narrow_same!(U256, Address, bool);

macro_rules! chain_params {
    ($($(#[$doc:meta])* $field:ident: $ty:ty = $getter:ident,)+) => {
        /// Every AIConfig value the node acts on, read at one block. Durations are seconds, rates are basis points
        /// (1/10000), amounts are wei.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct ChainParams {
            $($(#[$doc])* pub $field: $ty,)+
        }

        impl ChainParams {
            /// The `eth_call`s that read the parameters, as (getter, calldata); give the answers, in this order, to
            /// [`Self::from_returns`].
            pub fn calls() -> Vec<(&'static str, Vec<u8>)> {
                vec![$((getter_name(stringify!($getter)), AIConfig::$getter {}.abi_encode()),)+]
            }

            /// Decodes the answers to [`Self::calls`].
            ///
            /// # Errors
            /// When an answer is missing, does not decode, or exceeds its field.
            pub fn from_returns<T: AsRef<[u8]>>(answers: &[T]) -> Result<Self, ParamsError> {
                let expected = Self::calls().len();
                if answers.len() != expected {
                    return Err(ParamsError::Count { expected, got: answers.len() });
                }
                let mut answers = answers.iter();
                Ok(Self {
                    $($field: {
                        let getter = getter_name(stringify!($getter));
                        let word = answers
                            .next()
                            .and_then(|data| AIConfig::$getter::abi_decode_returns(data.as_ref()).ok())
                            .ok_or(ParamsError::Undecodable(getter))?;
                        Narrow::narrow(word, getter)?
                    },)+
                })
            }
        }
    };
}

/// `getAckTimeoutCall` is the binding's type for `getAckTimeout`.
fn getter_name(call: &'static str) -> &'static str {
    call.strip_suffix("Call").unwrap_or(call)
}

chain_params! {
    /// Seconds from submit to acknowledgement.
    ack_timeout: u64 = getAckTimeoutCall,
    /// Seconds from acknowledgement to completion.
    completion_timeout: u64 = getCompletionTimeoutCall,
    /// Seconds after completion in which a dispute may be filed.
    dispute_window: u64 = getDisputeWindowCall,
    /// Seconds the disputer has to rule.
    resolution_timeout: u64 = getResolutionTimeoutCall,
    /// Idle seconds after which a session takes no more jobs.
    session_inactivity_timeout: u64 = getSessionInactivityTimeoutCall,
    /// Seconds a blob must stay retrievable.
    blob_retention_period: u64 = getBlobRetentionPeriodCall,
    /// Seconds a suspension lasts.
    suspension_cooldown: u64 = getSuspensionCooldownCall,
    /// Offences that suspend a worker.
    suspension_threshold: u64 = getSuspensionThresholdCall,
    /// Smallest stake of an eligible worker, and the base of every slash.
    min_worker_stake: U256 = getMinWorkerStakeCall,
    /// The worker's share of a fee.
    worker_fee_bps: u32 = getWorkerFeeBpsCall,
    /// The treasury's share of a fee.
    protocol_fee_bps: u32 = getProtocolFeeBpsCall,
    /// The fee pool's share of a fee.
    fee_pool_bps: u32 = getFeePoolBpsCall,
    /// Slash for a missed acknowledgement.
    timeout_slash_bps: u32 = getTimeoutSlashBpsCall,
    /// Slash for a missed completion.
    completion_timeout_slash_bps: u32 = getCompletionTimeoutSlashBpsCall,
    /// Slash for a lost dispute.
    dispute_slash_bps: u32 = getDisputeSlashBpsCall,
    /// Largest single slash.
    max_slash_bps: u32 = getMaxSlashBpsCall,
    /// Keeper's part of a timeout slash.
    timeout_bounty_bps: u32 = getTimeoutBountyBpsCall,
    /// Keeper's part of a release.
    release_bounty_bps: u32 = getReleaseBountyBpsCall,
    /// Dispute bond as a rate of the escrowed fee; above 10000 the bond exceeds the fee.
    dispute_bond_multiplier_bps: u32 = getDisputeBondMultiplierCall,
    /// Rate of jobs the disputer samples unasked.
    sampling_rate_bps: u32 = getSamplingRateBpsCall,
    /// Similarity below which a disputed answer is wrong.
    similarity_threshold_bps: u32 = getSimilarityThresholdCall,
    /// The same, for canaries.
    canary_similarity_threshold_bps: u32 = getCanarySimilarityThresholdCall,
    /// Open jobs (submitted or acknowledged) a worker may have.
    max_concurrent_jobs: u64 = getMaxConcurrentJobsCall,
    /// Worker replacements a session may have.
    max_reassignments: u64 = getMaxReassignmentsCall,
    /// Blocks over which the sortition threshold widens. A block count in the contract too.
    claim_window_blocks: u64 = getClaimWindowBlocksCall,
    /// Whose signature opens a session.
    dispatcher: Address = getDispatcherAddressCall,
    /// Who rules on disputes.
    disputer: Address = getDisputerAddressCall,
    /// SessionManager, zero where there is none.
    session_manager: Address = getSessionManagerAddressCall,
    /// Whether sessions may be drawn by sortition.
    sortition_enabled: bool = getSortitionEnabledCall,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloy_sol_types::SolValue;

    /// Each field differs from the others.
    pub(crate) fn some_params() -> ChainParams {
        let mut answers = answers();
        let last = answers.len() - 1;
        answers[last] = true.abi_encode();
        ChainParams::from_returns(&answers).unwrap()
    }

    fn answers() -> Vec<Vec<u8>> {
        (0..ChainParams::calls().len()).map(|i| U256::from(i).abi_encode()).collect()
    }

    /// Word i answers call i, so a field that reads another call's answer shows.
    #[test]
    fn each_field_reads_its_own_getter() {
        let params = some_params();
        assert_eq!((params.ack_timeout, params.completion_timeout, params.dispute_window), (0, 1, 2));
        assert_eq!(params.min_worker_stake, U256::from(8));
        assert_eq!(params.max_concurrent_jobs, 22);
        assert_eq!(params.dispatcher, Address::with_last_byte(25));
        assert_eq!(params.session_manager, Address::with_last_byte(27));
        assert!(params.sortition_enabled);
        let json = serde_json::to_value(&params).unwrap();
        assert_eq!(json["ackTimeout"], 0);
        assert_eq!(serde_json::from_value::<ChainParams>(json).unwrap(), params);
    }

    #[test]
    fn bad_answers_name_their_getter() {
        let mut short = answers();
        short.pop();
        assert!(matches!(
            ChainParams::from_returns(&short),
            Err(ParamsError::Count { expected: 29, got: 28 })
        ));
        let mut empty = answers();
        empty[1].clear();
        assert_eq!(ChainParams::from_returns(&empty), Err(ParamsError::Undecodable("getCompletionTimeout")));
        let mut huge = answers();
        huge[0] = U256::MAX.abi_encode();
        assert_eq!(
            ChainParams::from_returns(&huge),
            Err(ParamsError::OutOfRange { getter: "getAckTimeout", value: U256::MAX })
        );
    }
}
