//! Blocks by hash, receipts and logs, which the client's own methods get wrong.
//!
//! Those for receipts and logs fail on every block with two transactions or more: the in-memory tables return only the
//! first receipt of a block, because they take the key to seek for the prefix to match. One by one the receipts are
//! found. And whatever is asked for by block hash is answered for the canonical block of the same number, which after a
//! reorg is another block.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, LogData};
use alloy_rpc_types_eth::{BlockId, BlockNumberOrTag, Filter, FilterBlockOption, Log};
use ethrex_common::H256;
use ethrex_common::types::{Block, BlockHeader, Receipt, calculate_base_fee_per_blob_gas};
use ethrex_crypto::NativeCrypto;
use ethrex_rpc::types::block::RpcBlock;
use ethrex_rpc::types::receipt::{RpcReceipt, RpcReceiptBlockInfo, RpcReceiptTxInfo};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::types::error::INTERNAL_ERROR_CODE;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::chain::Inner;
use crate::node::canonical_hash;
use crate::rpc::{client_error, invalid_params, server_error};

/// Blocks one `eth_getLogs` may cover.
const MAX_LOG_RANGE: u64 = 100_000;

/// Logs one `eth_getLogs` may return.
const MAX_LOGS: usize = 20_000;

/// Blocks whose receipts are kept at hand; empty blocks do not count.
const CACHED_BLOCKS: usize = 16_384;

/// Receipts of the latest blocks that have any. The client finds them too, but copies its whole table for each one.
#[derive(Debug, Default)]
pub(crate) struct ReceiptCache {
    receipts: HashMap<H256, Arc<Vec<Receipt>>>,
    /// Insertion order.
    order: VecDeque<H256>,
}

impl ReceiptCache {
    pub(crate) fn insert(&mut self, block: H256, receipts: Vec<Receipt>) -> Arc<Vec<Receipt>> {
        let receipts = Arc::new(receipts);
        if !receipts.is_empty() && self.receipts.insert(block, Arc::clone(&receipts)).is_none() {
            self.order.push_back(block);
            if self.order.len() > CACHED_BLOCKS {
                self.order.pop_front().and_then(|oldest| self.receipts.remove(&oldest));
            }
        }
        receipts
    }

    fn get(&self, block: &H256) -> Option<Arc<Vec<Receipt>>> {
        self.receipts.get(block).cloned()
    }
}

/// Methods that read state or transactions at a block, with the position of that parameter. By hash the client reads
/// them at the canonical block of the same number.
const AT_BLOCK: &[(&str, usize)] = &[
    ("eth_call", 1),
    ("eth_createAccessList", 1),
    ("eth_estimateGas", 1),
    ("eth_getBalance", 1),
    ("eth_getBlockTransactionCountByHash", 0),
    ("eth_getCode", 1),
    ("eth_getProof", 2),
    ("eth_getStorageAt", 2),
    ("eth_getTransactionByBlockHashAndIndex", 0),
    ("eth_getTransactionCount", 1),
];

impl Inner {
    /// Refuses to read at a block that is not on the chain, where the client would read at another one.
    pub(crate) fn require_canonical(&self, method: &str, params: &[Value]) -> Result<(), ErrorObjectOwned> {
        let Some((_, position)) = AT_BLOCK.iter().find(|(name, _)| *name == method) else { return Ok(()) };
        let Some(block) = params.get(*position) else { return Ok(()) };
        let hash = block.get("blockHash").unwrap_or(block);
        // Numbers and tags are no hashes; what is malformed the client names.
        let Ok(hash) = serde_json::from_value::<B256>(hash.clone()) else { return Ok(()) };
        let header = self.header(hash).map_err(|_| server_error(format!("unknown block {hash}")))?;
        match self.context.storage.get_canonical_block_hash_sync(header.number).map_err(internal)? {
            Some(canonical) if canonical == H256(hash.0) => Ok(()),
            _ => Err(server_error(format!("block {hash} is not on the canonical chain"))),
        }
    }

    /// `eth_getBlockByHash`, also for blocks that a reorg removed.
    pub(crate) async fn block_by_hash(&self, params: Vec<Value>) -> Result<Value, ErrorObjectOwned> {
        let (hash, hydrated): (B256, bool) = serde_json::from_value(Value::Array(params))
            .map_err(|error| invalid_params(&error.to_string()))?;
        let Some(block) = self.block(H256(hash.0)).await? else { return Ok(Value::Null) };
        let block =
            RpcBlock::build(block.header, block.body, H256(hash.0), hydrated).map_err(client_error)?;
        serde_json::to_value(block).map_err(internal)
    }

    /// `eth_getTransactionReceipt`.
    pub(crate) async fn transaction_receipt(&self, params: Vec<Value>) -> Result<Value, ErrorObjectOwned> {
        let hash: B256 = only(params)?;
        let location = self.context.storage.get_transaction_location(H256(hash.0)).await.map_err(internal)?;
        let Some((_, block, index)) = location else { return Ok(Value::Null) };
        let Some(block) = self.block(block).await? else { return Ok(Value::Null) };
        let mut receipts = self.rpc_receipts(block).await?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        Ok(if index < receipts.len() { receipts.swap_remove(index) } else { Value::Null })
    }

    /// `eth_getBlockReceipts`, by number, tag or hash (EIP-1898).
    pub(crate) async fn block_receipts(&self, params: Vec<Value>) -> Result<Value, ErrorObjectOwned> {
        let block = match only::<BlockId>(params)? {
            BlockId::Hash(hash) => H256(hash.block_hash.0),
            BlockId::Number(number) => match self.number_of(number) {
                number if number > self.heads().head.number => return Ok(Value::Null),
                number => canonical_hash(&self.context.storage, number).map_err(internal)?,
            },
        };
        match self.block(block).await? {
            Some(block) => Ok(Value::Array(self.rpc_receipts(block).await?)),
            None => Ok(Value::Null),
        }
    }

    /// `eth_getLogs`. A range that ends beyond the head ends at the head.
    pub(crate) async fn logs(&self, params: Vec<Value>) -> Result<Value, ErrorObjectOwned> {
        let filter: Filter = only(params)?;
        let mut logs = Vec::new();
        match filter.block_option {
            FilterBlockOption::AtBlockHash(hash) => {
                let header = self.header(hash).map_err(|_| server_error(format!("unknown block {hash}")))?;
                self.collect_logs(&filter, header, &mut logs).await?;
            }
            FilterBlockOption::Range { from_block, to_block } => {
                let from = self.number_of(from_block.unwrap_or_default());
                let to = self.number_of(to_block.unwrap_or_default()).min(self.heads().head.number);
                if to.saturating_sub(from) >= MAX_LOG_RANGE {
                    return Err(invalid_params(&format!("more than {MAX_LOG_RANGE} blocks")));
                }
                for number in from..=to {
                    let hash = canonical_hash(&self.context.storage, number).map_err(internal)?;
                    let header = self.header(B256::from(hash.0)).map_err(internal)?;
                    self.collect_logs(&filter, header, &mut logs).await?;
                }
            }
        }
        serde_json::to_value(logs).map_err(internal)
    }

    async fn collect_logs(
        &self,
        filter: &Filter,
        header: BlockHeader,
        logs: &mut Vec<Log>,
    ) -> Result<(), ErrorObjectOwned> {
        if !filter.matches_bloom(header.logs_bloom.0.into()) {
            return Ok(());
        }
        let Some(block) = self.block(header.hash()).await? else { return Ok(()) };
        let receipts = self.receipts(&block).await?;
        let mut log_index = 0;
        for (index, (transaction, receipt)) in block.body.transactions.iter().zip(receipts.iter()).enumerate()
        {
            let transaction_hash = B256::from(transaction.hash(&NativeCrypto).0);
            for log in &receipt.logs {
                let inner = consensus_log(log);
                if filter.matches(&inner) {
                    logs.push(Log {
                        inner,
                        block_hash: Some(B256::from(header.hash().0)),
                        block_number: Some(header.number),
                        block_timestamp: Some(header.timestamp),
                        transaction_hash: Some(transaction_hash),
                        transaction_index: Some(index as u64),
                        log_index: Some(log_index),
                        removed: false,
                    });
                }
                log_index += 1;
            }
        }
        if logs.len() > MAX_LOGS {
            return Err(server_error(format!("more than {MAX_LOGS} logs; ask for fewer blocks")));
        }
        Ok(())
    }

    async fn block(&self, hash: H256) -> Result<Option<Block>, ErrorObjectOwned> {
        self.context.storage.get_block_by_hash(hash).await.map_err(internal)
    }

    fn number_of(&self, number: BlockNumberOrTag) -> u64 {
        let heads = self.heads();
        match number {
            BlockNumberOrTag::Number(number) => number,
            BlockNumberOrTag::Earliest => 0,
            BlockNumberOrTag::Latest | BlockNumberOrTag::Pending => heads.head.number,
            BlockNumberOrTag::Safe => heads.safe.number,
            BlockNumberOrTag::Finalized => heads.finalized.number,
        }
    }

    /// All receipts of a block, in order.
    async fn receipts(&self, block: &Block) -> Result<Arc<Vec<Receipt>>, ErrorObjectOwned> {
        let hash = block.hash();
        if let Some(receipts) = self.receipts.lock().get(&hash) {
            return Ok(receipts);
        }
        let mut receipts = Vec::with_capacity(block.body.transactions.len());
        for index in 0..block.body.transactions.len() {
            let found = self
                .context
                .storage
                .get_receipts_for_block_from_index(&hash, index as u64, Some(1))
                .await
                .map_err(internal)?;
            receipts.extend(found);
        }
        if receipts.len() == block.body.transactions.len() {
            Ok(self.receipts.lock().insert(hash, receipts))
        } else {
            Err(internal(format!("block {hash:#x} has {} receipts", receipts.len())))
        }
    }

    async fn rpc_receipts(&self, block: Block) -> Result<Vec<Value>, ErrorObjectOwned> {
        let receipts = self.receipts(&block).await?;
        let Block { header, body } = block;
        let timestamp = header.timestamp;
        let schedule = self.context.storage.get_chain_config().get_fork_blob_schedule(timestamp);
        let blob_base_fee = calculate_base_fee_per_blob_gas(
            header.excess_blob_gas.unwrap_or_default(),
            schedule.map(|schedule| schedule.base_fee_update_fraction).unwrap_or_default(),
        );
        let blob_base_fee = u64::try_from(blob_base_fee).map_err(internal)?;
        let base_fee = header.base_fee_per_gas;
        let block_info = RpcReceiptBlockInfo::from_block_header(header);
        let (mut gas_before, mut logs_before) = (0, 0);
        let mut values = Vec::with_capacity(receipts.len());
        for (index, (transaction, receipt)) in body.transactions.into_iter().zip(receipts.iter()).enumerate()
        {
            let gas_used = receipt.cumulative_gas_used.saturating_sub(gas_before);
            gas_before = receipt.cumulative_gas_used;
            let info = RpcReceiptTxInfo::from_transaction(
                transaction,
                index as u64,
                gas_used,
                blob_base_fee,
                base_fee,
            )
            .map_err(client_error)?;
            let receipt = RpcReceipt::new(receipt.clone(), info, block_info.clone(), logs_before);
            logs_before += receipt.logs.len() as u64;
            values.push(with_timestamps(serde_json::to_value(receipt).map_err(internal)?, timestamp));
        }
        Ok(values)
    }
}

/// The client leaves `blockTimestamp` out of its logs.
fn with_timestamps(mut receipt: Value, timestamp: u64) -> Value {
    for log in receipt.get_mut("logs").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(log) = log.as_object_mut() {
            log.insert("blockTimestamp".to_owned(), json!(format!("{timestamp:#x}")));
        }
    }
    receipt
}

fn consensus_log(log: &ethrex_common::types::Log) -> alloy_primitives::Log {
    alloy_primitives::Log {
        address: Address::from(log.address.0),
        data: LogData::new_unchecked(
            log.topics.iter().map(|topic| B256::from(topic.0)).collect(),
            Bytes::from(log.data.clone()),
        ),
    }
}

/// The one parameter of a method that takes one.
fn only<T: DeserializeOwned>(params: Vec<Value>) -> Result<T, ErrorObjectOwned> {
    let [param] = <[Value; 1]>::try_from(params)
        .map_err(|params| invalid_params(&format!("one parameter is expected, not {}", params.len())))?;
    serde_json::from_value(param).map_err(|error| invalid_params(&error.to_string()))
}

fn internal(error: impl std::fmt::Display) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INTERNAL_ERROR_CODE, error.to_string(), None::<()>)
}
