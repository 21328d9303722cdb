//! Identifiers: jobs, sessions, models, and the subject that names a job across forks.

use crate::quantity;
use alloy_primitives::{Address, B256, U256, hex, keccak256};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Why a value is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A contract id above `u64::MAX`: no chain reaches it, so it can only be a forged or misread value.
    #[error("id {0} does not fit in 64 bits")]
    OutOfRange(U256),
    /// Neither a decimal number nor a hexadecimal one with `0x`.
    #[error("an id is a number below 2^64, decimal or hexadecimal with 0x")]
    NotANumber,
    /// An empty model name.
    #[error("the model name is empty")]
    EmptyModel,
    /// Begins with `0x` but is not 32 bytes of hex.
    #[error("a model id in hex is 32 bytes (64 digits); anything else that starts with 0x is a mistake")]
    BadModelHex,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                quantity::serialize(&self.0, s)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                quantity::deserialize(d).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Takes a decimal number, or a hexadecimal one with `0x`, as JSON-RPC writes it.
            fn from_str(s: &str) -> Result<Self, IdError> {
                let number = match s.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => s.parse(),
                };
                number.map(Self).map_err(|_| IdError::NotANumber)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl From<$name> for U256 {
            fn from(id: $name) -> Self {
                id.word()
            }
        }

        impl $name {
            /// As a contract word. (`U256::from(id)` does not resolve: it is an inherent method over a closed trait.)
            pub const fn word(self) -> U256 {
                U256::from_limbs([self.0, 0, 0, 0])
            }
        }

        impl TryFrom<U256> for $name {
            type Error = IdError;

            fn try_from(value: U256) -> Result<Self, IdError> {
                u64::try_from(value).map(Self).map_err(|_| IdError::OutOfRange(value))
            }
        }
    };
}

number_id! {
    /// JobRegistry's job number; a quantity in JSON. Not an identity across forks: see [`Subject`].
    JobId
}

number_id! {
    /// JobRegistry's session number; a quantity in JSON.
    SessionId
}

/// A model's identity on chain: keccak256 of its exact UTF-8 name, tag included (`gpt-oss:20b`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub B256);

impl ModelId {
    /// Hashes a model name. Use [`FromStr`] for text that may already be an id.
    pub fn from_name(name: &str) -> Self {
        Self(keccak256(name.as_bytes()))
    }

    /// The form job payloads carry: 64 lowercase hex digits without `0x`.
    pub fn wire_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ModelId {
    type Err = IdError;

    /// Takes a name, or a 32-byte id in hex with or without `0x`, which is never hashed again.
    fn from_str(s: &str) -> Result<Self, IdError> {
        if s.is_empty() {
            return Err(IdError::EmptyModel);
        }
        let prefixed = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X"));
        let digits = prefixed.unwrap_or(s);
        if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            let mut id = B256::ZERO;
            hex::decode_to_slice(digits, id.as_mut_slice()).map_err(|_| IdError::BadModelHex)?;
            return Ok(Self(id));
        }
        if prefixed.is_some() {
            return Err(IdError::BadModelHex);
        }
        Ok(Self::from_name(s))
    }
}

impl From<B256> for ModelId {
    fn from(id: B256) -> Self {
        Self(id)
    }
}

impl From<ModelId> for B256 {
    fn from(id: ModelId) -> Self {
        id.0
    }
}

/// What an effect is about. After a reorg the same [`JobId`] can be another prompt, so effects are idempotent by
/// (subject, action) and never by job id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// JobRegistry.
    pub contract: Address,
    /// The job's number on this fork.
    pub job_id: JobId,
    /// Its session's number on this fork.
    pub session_id: SessionId,
    /// EIP-4844 versioned hash of the prompt blob.
    pub prompt_blob_hash: B256,
    /// Hash of the transaction that submitted the job.
    pub submit_tx_hash: B256,
}

impl Subject {
    /// keccak256(abi.encode(uint256 chainId, address contract, uint256 jobId, uint256 sessionId, bytes32 promptBlobHash,
    /// bytes32 submitTxHash)).
    pub fn id(&self) -> B256 {
        // The encoding of static values, without the allocations of an encoder: a block has thousands of completions.
        let mut words = [0u8; 6 * 32];
        let values = [
            U256::from(self.chain_id).into(),
            self.contract.into_word(),
            self.job_id.word().into(),
            self.session_id.word().into(),
            self.prompt_blob_hash,
            self.submit_tx_hash,
        ];
        for (word, value) in words.as_chunks_mut().0.iter_mut().zip::<[B256; 6]>(values) {
            *word = value.0;
        }
        keccak256(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Live wire format, section 7.
    #[test]
    fn model_ids_of_the_live_network() {
        let vectors = [
            ("llama3-8b", "f4a414fa51803433e9197f32cda96d5cb2ac8269c481eb0262fe2dd11f428848"),
            ("llama3-70b", "665d85c3b24f6a5cb91f90ec2e215d6155531158ff7ba81dfd182ecfab1dd4cf"),
            ("gpt-oss:20b", "812058e1dbc4b7ee2b5c8db96cd83bdc110740ae43d3fa4ee116e7e38e2ea802"),
            ("gpt-oss:120b", "7519e6b291d1e88ee9c045dce2d1e9db92a3bba4ed967be12426b3c71bbc7c98"),
            ("glm-4.7-flash", "35f686ade96649d2bf47e024eca280619fc80458c5cdece4804fc3f1561bd542"),
            ("qwen3-vl:8b", "ab5055d54803561873a25c21f4cc853371b17b69620b39b2ecca824c259b2ff3"),
            ("llama3.1:8b", "566aefeca490441abd90761ae22515118838b02b71775fc1eb9d83b2c85c686f"),
            ("mistral-nemo:12b", "95203338c5f25070d9c0b22181686374d1845cda08dfe36eba21a22f514323e2"),
        ];
        for (name, hex) in vectors {
            let id = ModelId::from_name(name);
            assert_eq!(id.wire_hex(), hex, "{name}");
            assert_eq!(name.parse::<ModelId>().unwrap(), id);
            assert_eq!(hex.parse::<ModelId>().unwrap(), id, "a bare id is not hashed again");
            assert_eq!(format!("0x{hex}").parse::<ModelId>().unwrap(), id);
            assert_eq!(hex.to_uppercase().parse::<ModelId>().unwrap(), id);
            assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"0x{hex}\""));
        }
    }

    #[test]
    fn malformed_models_are_refused() {
        assert_eq!("".parse::<ModelId>(), Err(IdError::EmptyModel));
        assert_eq!("0x1234".parse::<ModelId>(), Err(IdError::BadModelHex));
        assert_eq!(format!("0x{}", "g".repeat(64)).parse::<ModelId>(), Err(IdError::BadModelHex));
    }

    #[test]
    fn ids_are_quantities_in_json_and_numbers_elsewhere() {
        assert_eq!(serde_json::to_string(&JobId(17)).unwrap(), "\"0x11\"");
        assert_eq!(serde_json::from_str::<JobId>("\"0x11\"").unwrap(), JobId(17));
        assert_eq!(serde_json::from_str::<SessionId>("18446744073709551615").unwrap(), SessionId(u64::MAX));
        assert!(serde_json::from_str::<SessionId>("-1").is_err());
        assert_eq!(postcard::to_stdvec(&JobId(300)).unwrap(), postcard::to_stdvec(&300u64).unwrap());
    }

    /// Each member must move the id, or two jobs could share one signing-journal entry.
    #[test]
    fn every_member_of_a_subject_matters() {
        let base = Subject {
            chain_id: 8200,
            contract: Address::repeat_byte(1),
            job_id: JobId(7),
            session_id: SessionId(3),
            prompt_blob_hash: B256::repeat_byte(2),
            submit_tx_hash: B256::repeat_byte(3),
        };
        let others = [
            Subject { chain_id: 8201, ..base },
            Subject { contract: Address::repeat_byte(9), ..base },
            Subject { job_id: JobId(8), ..base },
            Subject { session_id: SessionId(4), ..base },
            Subject { prompt_blob_hash: B256::repeat_byte(9), ..base },
            Subject { submit_tx_hash: B256::repeat_byte(9), ..base },
        ];
        for other in others {
            assert_ne!(base.id(), other.id(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_survive_the_contract_word(n: u64) {
            let id = JobId(n);
            prop_assert_eq!(JobId::try_from(id.word()), Ok(id));
            prop_assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
            prop_assert_eq!(format!("{:#x}", u64::from(id)).parse::<JobId>(), Ok(id));
        }

        #[test]
        fn words_above_64_bits_are_refused(n: u64, high in 1u64..) {
            let word = (U256::from(high) << 64) | U256::from(n);
            prop_assert_eq!(JobId::try_from(word), Err(IdError::OutOfRange(word)));
        }
    }
}
