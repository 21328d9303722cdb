//! The client's JSON-RPC, in-process and as a jsonrpsee module.

use std::sync::Arc;

use alloy_primitives::B256;
use ethrex_rpc::utils::RpcRequest;
use ethrex_rpc::{RpcErr, RpcErrorMetadata, map_http_requests};
use jsonrpsee::core::SubscriptionError;
use jsonrpsee::server::SubscriptionMessage;
use jsonrpsee::types::error::{INVALID_PARAMS_CODE, METHOD_NOT_FOUND_CODE};
use jsonrpsee::types::{ErrorObjectOwned, Params};
use jsonrpsee::{PendingSubscriptionSink, RpcModule};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::chain::{EmbeddedChain, Inner};
use crate::error::EmbeddedChainError;

/// JSON-RPC's code for errors a server defines itself.
pub(crate) const SERVER_ERROR_CODE: i32 = -32000;

/// What applications may call. Of what the client has beside these, `debug_setHead` would move the head behind our back,
/// and log filters and `debug_getRawReceipts` fail on blocks with two transactions or more (see `blocks`).
const METHODS: &[&str] = &[
    "eth_accounts",
    "eth_blobBaseFee",
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_config",
    "eth_createAccessList",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getBlockTransactionCountByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getCode",
    "eth_getLogs",
    "eth_getProof",
    "eth_getStorageAt",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "eth_syncing",
    "net_peerCount",
    "net_version",
    "web3_clientVersion",
    "txpool_content",
    "txpool_contentFrom",
    "txpool_inspect",
    "txpool_status",
    "debug_getRawBlock",
    "debug_getRawHeader",
    "debug_getRawTransaction",
    "debug_traceBlockByNumber",
    "debug_traceTransaction",
];

impl EmbeddedChain {
    /// Calls one of the client's `eth_*`, `net_*`, `web3_*`, `txpool_*` and `debug_*` methods. `params` is an array or null.
    ///
    /// # Errors
    /// The client's JSON-RPC error, with its code, message and data: -32601 for a method it does not have, -32000 for
    /// bad parameters and for a transaction that the pool refuses, 3 for a call that reverted (with the revert data),
    /// -32603 for an internal error; -32000 once the chain is shut down.
    pub async fn rpc(&self, method: &str, params: Value) -> Result<Value, ErrorObjectOwned> {
        self.inner.rpc(method, params).await
    }

    /// The client's methods and `eth_subscribe("newHeads")`, to be merged with other modules on one server.
    ///
    /// A subscriber who falls more than 1024 heads behind is dropped with an error that says so.
    ///
    /// # Errors
    /// If a method name is registered twice, which would be a mistake in this crate.
    pub fn rpc_module(&self) -> Result<RpcModule<()>, EmbeddedChainError> {
        let mut module = RpcModule::new(());
        for method in METHODS {
            let inner = Arc::clone(&self.inner);
            module.register_async_method(method, move |params, _, _| {
                let inner = Arc::clone(&inner);
                async move { inner.rpc(method, to_value(&params)?).await }
            })?;
        }
        let inner = Arc::clone(&self.inner);
        module.register_subscription(
            "eth_subscribe",
            "eth_subscription",
            "eth_unsubscribe",
            move |params, sink, _, _| {
                let inner = Arc::clone(&inner);
                async move { serve_subscription(&inner, &params, sink).await }
            },
        )?;
        Ok(module)
    }
}

/// Parameters as the JSON they came as.
pub(crate) fn to_value(params: &Params<'_>) -> Result<Value, ErrorObjectOwned> {
    params
        .as_str()
        .map_or(Ok(Value::Null), serde_json::from_str)
        .map_err(|error| invalid_params(&error.to_string()))
}

/// Positional parameters, the only kind the client takes.
pub(crate) fn positional(params: Value) -> Result<Vec<Value>, ErrorObjectOwned> {
    match params {
        Value::Null => Ok(Vec::new()),
        Value::Array(params) => Ok(params),
        _ => Err(invalid_params("parameters have to be an array")),
    }
}

pub(crate) fn invalid_params(message: &str) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INVALID_PARAMS_CODE, message.to_owned(), None::<()>)
}

pub(crate) fn server_error(message: String) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(SERVER_ERROR_CODE, message, None::<()>)
}

/// The client's own rendering of its error.
pub(crate) fn client_error(error: RpcErr) -> ErrorObjectOwned {
    let RpcErrorMetadata { code, data, message } = error.into();
    ErrorObjectOwned::owned(code, message, data)
}

impl Inner {
    pub(crate) async fn rpc(&self, method: &str, params: Value) -> Result<Value, ErrorObjectOwned> {
        self.ensure_running().map_err(|error| server_error(error.to_string()))?;
        if !METHODS.contains(&method) {
            let message = format!("Method not found: {method}");
            return Err(ErrorObjectOwned::owned(METHOD_NOT_FOUND_CODE, message, None::<()>));
        }
        let params = positional(params)?;
        match method {
            // The node holds no keys.
            "eth_accounts" => return Ok(json!([])),
            "eth_getBlockByHash" => return self.block_by_hash(params).await,
            "eth_getBlockReceipts" => return self.block_receipts(params).await,
            "eth_getLogs" => return self.logs(params).await,
            "eth_getTransactionReceipt" => return self.transaction_receipt(params).await,
            _ => self.require_canonical(method, &params)?,
        }
        let (request, context) = (RpcRequest::new(method, Some(params)), self.context.clone());
        let answer = self
            .workers
            .run(move |runtime| runtime.block_on(map_http_requests(&request, context)))
            .await
            .map_err(|error| server_error(error.to_string()))?
            .map_err(client_error)?;
        if method == "eth_sendRawTransaction" {
            self.demand.notify_one();
        }
        Ok(answer)
    }

    /// A header as `newHeads` carries it.
    fn rpc_header(&self, hash: B256) -> Result<Value, EmbeddedChainError> {
        let header = self.header(hash)?;
        let mut header =
            serde_json::to_value(header).map_err(|error| EmbeddedChainError::Store(error.to_string()))?;
        if let Value::Object(fields) = &mut header {
            fields.insert("hash".to_owned(), json!(hash));
        }
        Ok(header)
    }
}

async fn serve_subscription(
    inner: &Inner,
    params: &Params<'_>,
    pending: PendingSubscriptionSink,
) -> Result<(), SubscriptionError> {
    match params.sequence().next::<String>() {
        Ok(kind) if kind == "newHeads" => {}
        Ok(kind) => {
            let message = format!("unsupported subscription {kind:?}: newHeads is what there is");
            pending.reject(invalid_params(&message)).await;
            return Ok(());
        }
        Err(error) => {
            pending.reject(error).await;
            return Ok(());
        }
    }
    // Before the subscriber hears that it is subscribed: no head after that may be missing.
    let mut events = inner.subscribe_heads();
    let sink = pending.accept().await?;
    loop {
        let event = tokio::select! {
            () = sink.closed() => return Ok(()),
            () = inner.cancel.cancelled() => return Ok(()),
            event = events.recv() => event,
        };
        match event {
            Ok(event) => {
                let header = serde_json::value::to_raw_value(&inner.rpc_header(event.head.hash)?)?;
                sink.send(SubscriptionMessage::from(header)).await?;
            }
            Err(RecvError::Lagged(missed)) => {
                return Err(format!("too slow: {missed} heads missed; subscribe again and walk back").into());
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
