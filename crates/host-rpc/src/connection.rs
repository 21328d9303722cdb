//! One connection to a node, made again when it breaks.

use jsonrpsee::{
    core::{
        client::{ClientT, Error as RpcError, Subscription, SubscriptionClientT},
        params::ArrayParams,
    },
    http_client::{HttpClient, HttpClientBuilder},
    ws_client::{WsClient, WsClientBuilder},
};
use lcai_host::HostError;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::Mutex;

/// Largest answer that is read: a block of logs, or a blob in hex.
const MAX_RESPONSE: u32 = 64 << 20;

#[derive(Debug, Clone)]
enum Transport {
    Ws(Arc<WsClient>),
    Http(Arc<HttpClient>),
}

/// A lazily made, self-healing connection.
pub(crate) struct Connection {
    url: String,
    /// What errors and logs call the node: the URL without what may be a secret.
    name: String,
    timeout: Duration,
    current: Mutex<Option<Transport>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("node", &self.name).finish_non_exhaustive()
    }
}

/// Scheme, host and port only: providers put keys into user, path and query.
fn public_name(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

impl Connection {
    pub(crate) fn new(url: &str, timeout: Duration) -> Self {
        Self { url: url.to_owned(), name: public_name(url), timeout, current: Mutex::new(None) }
    }

    pub(crate) fn is_websocket(&self) -> bool {
        self.url.starts_with("ws://") || self.url.starts_with("wss://")
    }

    async fn transport(&self) -> Result<Transport, HostError> {
        let mut current = self.current.lock().await;
        if let Some(transport) = current.as_ref() {
            let alive = match transport {
                Transport::Ws(client) => client.is_connected(),
                Transport::Http(_) => true,
            };
            if alive {
                return Ok(transport.clone());
            }
        }
        let transport = self.connect().await?;
        *current = Some(transport.clone());
        Ok(transport)
    }

    async fn connect(&self) -> Result<Transport, HostError> {
        let unreachable = |e: RpcError| HostError::Unreachable(format!("{}: {e}", self.name));
        if self.is_websocket() {
            let client = WsClientBuilder::default()
                .connection_timeout(self.timeout)
                .request_timeout(self.timeout)
                .max_response_size(MAX_RESPONSE)
                .max_request_size(MAX_RESPONSE)
                .build(&self.url)
                .await
                .map_err(unreachable)?;
            return Ok(Transport::Ws(Arc::new(client)));
        }
        let client = HttpClientBuilder::default()
            .request_timeout(self.timeout)
            .max_response_size(MAX_RESPONSE)
            .max_request_size(MAX_RESPONSE)
            .build(&self.url)
            .map_err(unreachable)?;
        Ok(Transport::Http(Arc::new(client)))
    }

    /// One call. A broken connection is made anew by the next call.
    pub(crate) async fn request<R: DeserializeOwned + Send>(
        &self,
        method: &str,
        params: ArrayParams,
    ) -> Result<R, HostError> {
        let answer: Result<R, RpcError> = match self.transport().await? {
            Transport::Ws(client) => client.request(method, params).await,
            Transport::Http(client) => client.request(method, params).await,
        };
        answer.map_err(|e| self.explain(method, e))
    }

    /// Subscribes to new heads; `None` over HTTP.
    pub(crate) async fn new_heads(&self) -> Result<Option<Subscription<Value>>, HostError> {
        let Transport::Ws(client) = self.transport().await? else { return Ok(None) };
        let mut params = ArrayParams::new();
        params.insert("newHeads").map_err(|e| self.explain("eth_subscribe", RpcError::ParseError(e)))?;
        client
            .subscribe("eth_subscribe", params, "eth_unsubscribe")
            .await
            .map(Some)
            .map_err(|e| self.explain("eth_subscribe", e))
    }

    fn explain(&self, method: &str, error: RpcError) -> HostError {
        match error {
            RpcError::Call(call) => {
                if let Some(data) = revert_data(&call) {
                    return HostError::Reverted(data);
                }
                HostError::Rejected {
                    method: method.to_owned(),
                    code: call.code().into(),
                    message: call.message().to_owned(),
                }
            }
            RpcError::ParseError(e) => {
                HostError::Malformed { method: method.to_owned(), reason: e.to_string() }
            }
            other => HostError::Unreachable(format!("{}: {other}", self.name)),
        }
    }
}

/// Revert data as geth, Reth and ethrex give it: code 3 with the data as a hex string.
fn revert_data(call: &jsonrpsee::types::ErrorObjectOwned) -> Option<alloy_primitives::Bytes> {
    let reverted = call.code() == 3 || call.message().to_ascii_lowercase().contains("revert");
    if !reverted {
        return None;
    }
    let data = call.data().and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    Some(data.and_then(|hex| hex.parse().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonrpsee::types::ErrorObjectOwned;

    #[test]
    fn secrets_of_a_url_stay_out_of_names() {
        for (url, name) in [
            ("wss://user:secret@node.example:8546/v3/secret?key=secret", "wss://node.example:8546"),
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("ws://[::1]:8546/", "ws://[::1]:8546"),
        ] {
            let connection = Connection::new(url, Duration::from_secs(1));
            assert_eq!(connection.name, name);
            assert!(!format!("{connection:?}").contains("secret"));
        }
    }

    #[test]
    fn reverts_are_told_apart_from_refusals() {
        let connection = Connection::new("http://node", Duration::from_secs(1));
        let call = |code, message: &str, data: Option<&str>| {
            connection.explain("eth_call", RpcError::Call(ErrorObjectOwned::owned(code, message, data)))
        };
        assert!(
            matches!(call(3, "execution reverted", Some("0x0102")), HostError::Reverted(d) if d[..] == [1, 2])
        );
        assert!(matches!(call(-32000, "execution reverted", None), HostError::Reverted(d) if d.is_empty()));
        assert!(matches!(call(-32601, "no such method", None), HostError::Rejected { code: -32601, .. }));
    }
}
