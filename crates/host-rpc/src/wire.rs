//! The few members of `eth_*` answers that are read. Unknown members are ignored, so any client's form will do.

use alloy_primitives::{Address, B256, Bytes, U64, U128};
use lcai_host::{BlockRef, FeedLog};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    pub(crate) number: U64,
    pub(crate) hash: B256,
    pub(crate) parent_hash: B256,
    pub(crate) timestamp: U64,
    #[serde(default)]
    pub(crate) blob_gas_used: Option<U64>,
}

impl Header {
    pub(crate) fn block_ref(&self) -> BlockRef {
        BlockRef { number: self.number.to(), hash: self.hash }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct FullBlock {
    pub(crate) transactions: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Transaction {
    pub(crate) hash: B256,
    #[serde(default)]
    pub(crate) blob_versioned_hashes: Option<Vec<B256>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Log {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    transaction_hash: B256,
    transaction_index: U64,
    log_index: U64,
    #[serde(default)]
    pub(crate) removed: bool,
}

impl From<Log> for FeedLog {
    fn from(log: Log) -> Self {
        Self {
            address: log.address,
            topics: log.topics,
            data: log.data,
            transaction_hash: log.transaction_hash,
            transaction_index: log.transaction_index.to(),
            log_index: log.log_index.to(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionReceipt {
    pub(crate) block_number: U64,
    pub(crate) block_hash: B256,
    pub(crate) status: U64,
    pub(crate) gas_used: U64,
    #[serde(default)]
    pub(crate) effective_gas_price: Option<U128>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FeeHistory {
    pub(crate) base_fee_per_gas: Vec<U128>,
}
