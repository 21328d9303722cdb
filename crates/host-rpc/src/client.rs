//! Questions and transactions over JSON-RPC.

use crate::{
    connection::Connection,
    wire::{FeeHistory, FullBlock, Header, Log, TransactionReceipt},
};
use alloy_consensus::{EthereumTxEnvelope, TxEip4844WithSidecar};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use async_trait::async_trait;
use jsonrpsee::{
    core::{client::Subscription, params::ArrayParams},
    rpc_params,
};
use lcai_host::{
    BlockRef, Call, ChainReader, FeedBlock, FeedLog, Heads, HostClient, HostError, IncludedBlob, Receipt,
    TransactionRequest,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{fmt, sync::Arc, time::Duration};

/// How long one call may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A transaction as pools exchange it: blobs with either form of sidecar.
type NetworkTransaction = EthereumTxEnvelope<TxEip4844WithSidecar>;

/// JSON-RPC's code for a method the server does not have.
const METHOD_NOT_FOUND: i64 = -32601;

/// Looks a blob up in this process, e.g. in an embedded client's archive; gives its 131,072 bytes.
pub type BlobLookup = Arc<dyn Fn(B256) -> Option<Bytes> + Send + Sync>;

/// An execution client over JSON-RPC.
pub struct RpcClient {
    connection: Connection,
    chain_id: u64,
    blobs: Option<BlobLookup>,
}

impl fmt::Debug for RpcClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcClient")
            .field("connection", &self.connection)
            .field("chain_id", &self.chain_id)
            .finish()
    }
}

impl RpcClient {
    /// Connects and reads the chain id; with `expected`, a node on another chain is refused.
    pub async fn connect(url: &str, expected: Option<u64>) -> Result<Self, HostError> {
        let connection = Connection::new(url, REQUEST_TIMEOUT);
        let found: U64 = connection.request("eth_chainId", rpc_params![]).await?;
        let found = found.to();
        match expected {
            Some(expected) if expected != found => Err(HostError::WrongChain { expected, found }),
            _ => Ok(Self { connection, chain_id: found, blobs: None }),
        }
    }

    /// Looks blobs up here before asking the node.
    #[must_use]
    pub fn with_blobs(mut self, lookup: BlobLookup) -> Self {
        self.blobs = Some(lookup);
        self
    }

    /// Hash of the genesis block: what tells two chains of one id apart.
    pub async fn genesis_hash(&self) -> Result<B256, HostError> {
        let genesis = self.header_at(0).await?;
        genesis
            .map(|header| header.hash)
            .ok_or_else(|| malformed("eth_getBlockByNumber", "the node has no genesis block"))
    }

    pub(crate) async fn request<R: DeserializeOwned + Send>(
        &self,
        method: &str,
        params: ArrayParams,
    ) -> Result<R, HostError> {
        self.connection.request(method, params).await
    }

    pub(crate) async fn new_heads(&self) -> Result<Option<Subscription<Value>>, HostError> {
        self.connection.new_heads().await
    }

    pub(crate) async fn header_at(&self, tag: impl ToRpcTag) -> Result<Option<Header>, HostError> {
        self.request("eth_getBlockByNumber", rpc_params![tag.tag(), false]).await
    }

    pub(crate) async fn logs(&self, block: B256, watched: &[Address]) -> Result<Vec<FeedLog>, HostError> {
        let filter = json!({ "blockHash": block, "address": watched });
        let logs: Vec<Log> = self.request("eth_getLogs", rpc_params![filter]).await?;
        Ok(logs.into_iter().filter(|log| !log.removed).map(FeedLog::from).collect())
    }

    pub(crate) async fn full_block(&self, hash: B256) -> Result<FullBlock, HostError> {
        let block: Option<FullBlock> = self.request("eth_getBlockByHash", rpc_params![hash, true]).await?;
        block.ok_or(HostError::UnknownBlock(hash))
    }
}

/// A block number or a tag, as `eth_getBlockByNumber` takes it.
pub(crate) trait ToRpcTag: Send {
    fn tag(self) -> String;
}

impl ToRpcTag for u64 {
    fn tag(self) -> String {
        format!("{self:#x}")
    }
}

impl ToRpcTag for &'static str {
    fn tag(self) -> String {
        self.to_owned()
    }
}

fn malformed(method: &str, reason: &str) -> HostError {
    HostError::Malformed { method: method.to_owned(), reason: reason.to_owned() }
}

#[async_trait]
impl HostClient for RpcClient {
    fn chain_id(&self) -> u64 {
        self.chain_id
    }

    async fn heads(&self) -> Result<Heads, HostError> {
        // Safe and finalized first: read in this order they are never ahead of the head.
        let (safe, finalized) = futures::join!(self.header_at("safe"), self.header_at("finalized"));
        let head = self.header_at("latest").await?;
        let head = head.ok_or_else(|| malformed("eth_getBlockByNumber", "the node has no latest block"))?;
        // A client without finality yet answers these with an error or null.
        let tagged = |header: Result<Option<Header>, HostError>| match header {
            Ok(header) => Ok(header.map(|h| h.block_ref())),
            Err(HostError::Rejected { .. }) => Ok(None),
            Err(e) => Err(e),
        };
        Ok(Heads { head: head.block_ref(), safe: tagged(safe)?, finalized: tagged(finalized)? })
    }

    async fn call(&self, call: Call, at: Option<B256>) -> Result<Bytes, HostError> {
        let request = json!({ "to": call.to, "input": call.input });
        let block = at.map_or_else(|| json!("latest"), |hash| json!({ "blockHash": hash }));
        self.request("eth_call", rpc_params![request, block]).await
    }

    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, HostError> {
        let tag = if pending { "pending" } else { "latest" };
        let nonce: U64 = self.request("eth_getTransactionCount", rpc_params![account, tag]).await?;
        Ok(nonce.to())
    }

    async fn balance(&self, account: Address) -> Result<U256, HostError> {
        self.request("eth_getBalance", rpc_params![account, "latest"]).await
    }

    async fn base_fees(&self) -> Result<(u128, u128), HostError> {
        let percentiles: [f64; 0] = [];
        let history: FeeHistory =
            self.request("eth_feeHistory", rpc_params!["0x1", "latest", percentiles]).await?;
        let next = history
            .base_fee_per_gas
            .last()
            .ok_or_else(|| malformed("eth_feeHistory", "the answer holds no base fee"))?;
        let blob: U128 = self.request("eth_blobBaseFee", rpc_params![]).await?;
        Ok((next.to(), blob.to()))
    }

    async fn estimate_gas(&self, request: TransactionRequest) -> Result<u64, HostError> {
        let mut request = json!({
            "from": request.from,
            "to": request.to,
            "value": request.value,
            "input": request.input,
            "blobVersionedHashes": request.blob_versioned_hashes,
        });
        // An ordinary transaction has no such member, and not every client takes it empty.
        if let Some(members) = request.as_object_mut()
            && members.get("blobVersionedHashes").and_then(Value::as_array).is_some_and(Vec::is_empty)
        {
            members.remove("blobVersionedHashes");
        }
        let gas: U64 = self.request("eth_estimateGas", rpc_params![request]).await?;
        Ok(gas.to())
    }

    async fn send_raw_transaction(&self, transaction: Bytes) -> Result<B256, HostError> {
        match self.request("eth_sendRawTransaction", rpc_params![transaction.clone()]).await {
            Err(HostError::Rejected { method, code, message }) if is_known(&message) => {
                // The pool has it already: whoever asked wanted exactly that.
                let known: Result<NetworkTransaction, _> =
                    Decodable2718::decode_2718(&mut transaction.as_ref());
                known.map(|known| *known.hash()).map_err(|_| HostError::Rejected { method, code, message })
            }
            other => other,
        }
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, HostError> {
        let receipt: Option<TransactionReceipt> =
            self.request("eth_getTransactionReceipt", rpc_params![transaction]).await?;
        Ok(receipt.map(|r| Receipt {
            block: BlockRef { number: r.block_number.to(), hash: r.block_hash },
            success: r.status.to::<u64>() == 1,
            gas_used: r.gas_used.to(),
            effective_gas_price: r.effective_gas_price.map_or(0, |p| p.to()),
        }))
    }

    async fn blob(&self, versioned_hash: B256) -> Result<Option<Bytes>, HostError> {
        if let Some(blob) = self.blobs.as_ref().and_then(|lookup| lookup(versioned_hash)) {
            return Ok(Some(blob));
        }
        match self.request("lcai_getBlob", rpc_params![versioned_hash]).await {
            // A plain execution client has no such method.
            Err(HostError::Rejected { code: METHOD_NOT_FOUND, .. }) => Ok(None),
            other => other,
        }
    }
}

#[async_trait]
impl ChainReader for RpcClient {
    async fn hash_at(&self, number: u64) -> Result<Option<B256>, HostError> {
        Ok(self.header_at(number).await?.map(|header| header.hash))
    }

    async fn block_at(&self, number: u64, watched: &[Address]) -> Result<Option<FeedBlock>, HostError> {
        let Some(header) = self.header_at(number).await? else { return Ok(None) };
        let hash = header.hash;
        match self.feed_block(header, watched).await {
            Ok(block) => Ok(Some(block)),
            // A node answers for a block that just left the chain with an error, or for the block now at its height.
            Err(_) if self.hash_at(number).await? != Some(hash) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl RpcClient {
    async fn feed_block(&self, header: Header, watched: &[Address]) -> Result<FeedBlock, HostError> {
        let hash = header.hash;
        let blobs = match header.blob_gas_used {
            Some(used) if used.is_zero() => Vec::new(),
            _ => included_blobs(self.full_block(hash).await?),
        };
        Ok(FeedBlock {
            number: header.number.to(),
            hash,
            parent_hash: header.parent_hash,
            timestamp: header.timestamp.to(),
            logs: self.logs(hash, watched).await?,
            blobs,
            reads: Vec::new(),
        })
    }
}

fn included_blobs(block: FullBlock) -> Vec<IncludedBlob> {
    let mut blobs = Vec::new();
    for transaction in block.transactions {
        let hashes = transaction.blob_versioned_hashes.unwrap_or_default();
        for (index, versioned_hash) in (0..).zip(hashes) {
            blobs.push(IncludedBlob { transaction_hash: transaction.hash, index, versioned_hash });
        }
    }
    blobs
}

/// The texts of geth, Reth and ethrex for a transaction the pool has.
fn is_known(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("already known")
        || message.contains("already imported")
        || message.contains("known transaction")
}
