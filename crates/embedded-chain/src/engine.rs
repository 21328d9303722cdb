//! The Engine API, for a consensus client that drives this chain.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alloy_eips::BlockNumHash;
use alloy_primitives::B256;
use ethrex_common::H256;
use ethrex_rpc::rpc::map_authrpc_requests;
use ethrex_rpc::utils::RpcRequest;
use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse, Server, ServerConfig, ServerHandle};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::{Methods, RpcModule};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use tower::{Layer, Service};
use zeroize::Zeroizing;

use crate::chain::{BlockRef, EmbeddedChain, Inner, now};
use crate::error::EmbeddedChainError;
use crate::node::canonical_hash;
use crate::producer::blob_transactions;
use crate::rpc::{client_error, positional, server_error, to_value};

/// Seconds by which a token's `iat` may differ from the clock (Engine API, authentication).
const IAT_TOLERANCE: u64 = 60;

/// Largest request: a payload of the largest block, in hex.
const MAX_REQUEST_BYTES: u32 = 128 << 20;

/// Connections to the Engine API at once; a consensus client needs one or two.
const MAX_CONNECTIONS: u32 = 32;

const METHODS: &[&str] = &[
    "engine_exchangeCapabilities",
    "engine_exchangeTransitionConfigurationV1",
    "engine_forkchoiceUpdatedV1",
    "engine_forkchoiceUpdatedV2",
    "engine_forkchoiceUpdatedV3",
    "engine_getBlobsV1",
    "engine_getBlobsV2",
    "engine_getBlobsV3",
    "engine_getClientVersionV1",
    "engine_getPayloadBodiesByHashV1",
    "engine_getPayloadBodiesByRangeV1",
    "engine_getPayloadV1",
    "engine_getPayloadV2",
    "engine_getPayloadV3",
    "engine_getPayloadV4",
    "engine_getPayloadV5",
    "engine_newPayloadV1",
    "engine_newPayloadV2",
    "engine_newPayloadV3",
    "engine_newPayloadV4",
    // The part of the eth namespace that the Engine API asks for beside its own.
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getCode",
    "eth_getLogs",
    "eth_sendRawTransaction",
    "eth_syncing",
];

impl EmbeddedChain {
    /// The `engine_*` methods and the `eth_*` ones that go with them. Whoever reaches them chooses the fork: serve
    /// them behind a JWT, as [`serve_engine`](Self::serve_engine) does. A chain driven this way wants
    /// [`Mining::Manual`](crate::Mining::Manual).
    ///
    /// # Errors
    /// If a method name is registered twice, which would be a mistake in this crate.
    pub fn engine_module(&self) -> Result<RpcModule<()>, EmbeddedChainError> {
        let mut module = RpcModule::new(());
        for method in METHODS {
            let inner = Arc::clone(&self.inner);
            module.register_async_method(method, move |params, _, _| {
                let inner = Arc::clone(&inner);
                async move { inner.engine(method, to_value(&params)?).await }
            })?;
        }
        Ok(module)
    }

    /// Serves the Engine API on `addr` (port 0 picks one) to whoever holds the 32-byte secret: HS256 bearer tokens with
    /// an `iat` within 60 s (Engine API, authentication). The server stops with the returned handle or the chain.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn serve_engine(
        &self,
        addr: SocketAddr,
        jwt_secret: Zeroizing<[u8; 32]>,
    ) -> Result<(SocketAddr, ServerHandle), EmbeddedChainError> {
        self.serve_engine_with(addr, jwt_secret, Methods::new()).await
    }

    /// As [`serve_engine`](Self::serve_engine), with more methods behind the same tokens.
    ///
    /// # Errors
    /// If the address cannot be bound, or a method is named like one of the Engine API's.
    pub async fn serve_engine_with(
        &self,
        addr: SocketAddr,
        jwt_secret: Zeroizing<[u8; 32]>,
        more: Methods,
    ) -> Result<(SocketAddr, ServerHandle), EmbeddedChainError> {
        let mut module = self.engine_module()?;
        module.merge(more)?;
        let failed = |error: std::io::Error| EmbeddedChainError::EngineServer(error.to_string());
        let guard = tower::ServiceBuilder::new().layer(JwtLayer { secret: Arc::new(jwt_secret) });
        let config = ServerConfig::builder()
            .max_request_body_size(MAX_REQUEST_BYTES)
            .max_response_body_size(MAX_REQUEST_BYTES)
            .max_connections(MAX_CONNECTIONS)
            .build();
        let server = Server::builder()
            .set_config(config)
            .set_http_middleware(guard)
            .build(addr)
            .await
            .map_err(failed)?;
        let bound = server.local_addr().map_err(failed)?;
        let handle = server.start(module);
        let (stop, cancel) = (handle.clone(), self.inner.cancel.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.clone().stopped() => {}
                // Fails only where it has stopped already.
                () = cancel.cancelled() => drop(stop.stop()),
            }
        });
        Ok((bound, handle))
    }
}

impl Inner {
    async fn engine(self: &Arc<Self>, method: &str, params: Value) -> Result<Value, ErrorObjectOwned> {
        self.ensure_running().map_err(|error| server_error(error.to_string()))?;
        let params = positional(params)?;
        // The client executes one block at a time, so imports and fork choices take turns with block production.
        let changes_chain =
            method.starts_with("engine_newPayload") || method.starts_with("engine_forkchoiceUpdated");
        let _turn = if changes_chain { Some(self.producer.lock().await) } else { None };
        if method.starts_with("engine_forkchoiceUpdated") {
            self.archive_pool_sidecars(&params).await.map_err(|error| server_error(error.to_string()))?;
        }
        if method.starts_with("eth_") {
            return self.rpc(method, Value::Array(params)).await;
        }
        let (request, context) = (RpcRequest::new(method, Some(params)), self.context.clone());
        let answer = self
            .workers
            .run(move |runtime| runtime.block_on(map_authrpc_requests(&request, context)))
            .await
            .map_err(|error| server_error(error.to_string()))?
            .map_err(client_error)?;
        if method.starts_with("engine_forkchoiceUpdated") {
            self.follow_client().await.map_err(|error| server_error(error.to_string()))?;
        }
        Ok(answer)
    }

    /// Copies the sidecars of the block that is about to become the head, before the pool drops them.
    async fn archive_pool_sidecars(&self, params: &[Value]) -> Result<(), EmbeddedChainError> {
        let head = params.first().and_then(|state| state.get("headBlockHash"));
        let Some(head) = head.and_then(|hash| serde_json::from_value::<B256>(hash.clone()).ok()) else {
            // Not a fork choice; the client will say what is wrong with it.
            return Ok(());
        };
        let Some(block) = self.context.storage.get_block_by_hash(H256(head.0)).await? else { return Ok(()) };
        for hash in blob_transactions(&block) {
            if let Some(sidecar) = self.context.blockchain.mempool.get_blobs_bundle(H256(hash.0))? {
                self.archive.lock().insert(hash, sidecar);
            }
        }
        Ok(())
    }

    /// Takes over the heads that the client has after a fork choice from outside.
    async fn follow_client(&self) -> Result<(), EmbeddedChainError> {
        let store = &self.context.storage;
        let at = |number: u64| -> Result<BlockNumHash, EmbeddedChainError> {
            Ok(BlockNumHash { number, hash: B256::from(canonical_hash(store, number)?.0) })
        };
        let head = at(store.get_latest_block_number().await?)?;
        let safe = at(store.get_safe_block_number().await?.unwrap_or_default())?;
        let finalized = at(store.get_finalized_block_number().await?.unwrap_or_default())?;
        let before = self.heads();
        if (head, safe, finalized) != (before.head, before.safe, before.finalized) {
            self.drop_spent_nonces(H256(head.hash.0))?;
            self.publish(BlockRef::from(&self.header(head.hash)?), safe, finalized);
        }
        Ok(())
    }
}

/// Lets requests through that carry a token signed with the shared secret.
#[derive(Clone)]
struct JwtLayer {
    secret: Arc<Zeroizing<[u8; 32]>>,
}

impl<S> Layer<S> for JwtLayer {
    type Service = JwtGuard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        JwtGuard { inner, secret: Arc::clone(&self.secret) }
    }
}

#[derive(Clone)]
struct JwtGuard<S> {
    inner: S,
    secret: Arc<Zeroizing<[u8; 32]>>,
}

impl<S> Service<HttpRequest> for JwtGuard<S>
where
    S: Service<HttpRequest, Response = HttpResponse>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let token = request
            .headers()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        if token.is_some_and(|token| is_authentic(token.trim(), &self.secret, now())) {
            Box::pin(self.inner.call(request))
        } else {
            Box::pin(std::future::ready(Ok(unauthorized())))
        }
    }
}

fn unauthorized() -> HttpResponse {
    let mut response =
        HttpResponse::new(HttpBody::from("a bearer token (JWT, HS256, fresh iat) is required"));
    if let Ok(status) = 401u16.try_into() {
        *response.status_mut() = status;
    }
    response
}

#[derive(Deserialize)]
struct Claims {
    iat: u64,
}

fn is_authentic(token: &str, secret: &[u8; 32], now: u64) -> bool {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.set_required_spec_claims::<&str>(&[]);
    jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(secret), &validation)
        .is_ok_and(|token| token.claims.iat.abs_diff(now) <= IAT_TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    fn token(secret: &[u8], iat: u64, algorithm: Algorithm) -> String {
        jsonwebtoken::encode(
            &Header::new(algorithm),
            &json!({ "iat": iat }),
            &EncodingKey::from_secret(secret),
        )
        .unwrap()
    }

    #[test]
    fn takes_fresh_tokens_of_the_secret_only() {
        let secret = [7u8; 32];
        let now = 1_700_000_000;
        for iat in [now - 60, now, now + 60] {
            assert!(is_authentic(&token(&secret, iat, Algorithm::HS256), &secret, now));
        }
        assert!(!is_authentic(&token(&secret, now - 61, Algorithm::HS256), &secret, now));
        assert!(!is_authentic(&token(&secret, now + 61, Algorithm::HS256), &secret, now));
        assert!(!is_authentic(&token(&[8; 32], now, Algorithm::HS256), &secret, now));
        assert!(!is_authentic(&token(&secret, now, Algorithm::HS512), &secret, now));
        assert!(!is_authentic("", &secret, now));
    }
}
