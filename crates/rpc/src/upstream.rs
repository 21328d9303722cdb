//! The node that a node without the dispatcher key stands in front of.
//!
//! Sessions are signed, tokens issued and frames kept by one node. Others answer what the chain tells from their own
//! database and hand the rest on unread: same parameters, same answer, same error. A user verifies what a dispatcher says
//! in any case, so a node in between needs no trust.

use crate::{
    LcaiApiClient, LcaiError,
    limits::{AccountLimiter, Rate},
    streams::closing,
};
use jsonrpsee::{
    PendingSubscriptionSink, RpcModule, SendTimeoutError, SubscriptionSink,
    core::{
        RegisterMethodError, SubscriptionResult,
        client::{ClientT, Error as ClientError, Subscription, SubscriptionClientT},
        server::{ConnectionId, Extensions},
        traits::ToRpcParams,
    },
    types::{ErrorObjectOwned, Params},
    ws_client::{WsClient, WsClientBuilder},
};
use lcai_primitives::{Quantity, contracts::Deployment};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

/// Calls handed on: what needs the dispatcher's key, a token, or what only the dispatcher has seen.
const CALLS: [&str; 16] = [
    "lcai_models",
    "lcai_workers",
    "lcai_challenge",
    "lcai_login",
    "lcai_requestSession",
    "lcai_authorizeSession",
    "lcai_requestReassignment",
    "lcai_authorizeReassignment",
    "lcai_publishBlob",
    "lcai_getBlobQuota",
    "lcai_getDraw",
    "lcai_getReceipt",
    "lcai_getDisputeEvidence",
    "lcai_heartbeat",
    "lcai_submitFrames",
    "lcai_pollFrames",
];

/// Subscriptions handed on: to subscribe, its notification, to unsubscribe.
const SUBSCRIPTIONS: [(&str, &str, &str); 3] = [
    ("lcai_subscribeFrames", "lcai_frames", "lcai_unsubscribeFrames"),
    ("lcai_subscribeWork", "lcai_work", "lcai_unsubscribeWork"),
    ("lcai_subscribeAccount", "lcai_account", "lcai_unsubscribeAccount"),
];

/// Longer than the longest poll and publication.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the other node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client's connection may take no message.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls under way at once.
const MAX_CALLS: usize = 1_024;
/// Subscriptions handed on at once. Each has a connection of its own, so that no client holds up another.
const MAX_SUBSCRIPTIONS: usize = 1_000;

/// Calls of one connection that are handed on: a quarter of what the other node takes of this one.
const CALLER_RATE: Rate = Rate { per_second: 50.0, burst: 250.0 };
/// Connections told apart at a time.
const MAX_CALLERS: usize = 10_000;
/// How long it is remembered what the other node offers.
const OFFERS_KEPT: Duration = Duration::from_secs(10);

/// Another node, to which calls and subscriptions are handed on.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: String,
    deployment: Deployment,
    /// For calls; made again when it is lost.
    shared: Mutex<Option<Arc<WsClient>>>,
    subscriptions: Arc<Semaphore>,
    /// By connection: the other node takes so many calls of all together.
    callers: AccountLimiter<usize>,
    offers: Mutex<Option<(Instant, Offers)>>,
}

/// What the other node does for this one's clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offers {
    pub(crate) dispatcher: bool,
    pub(crate) publishes_blobs: bool,
}

/// The connection that a call came over.
fn client_of(caller: &Extensions) -> usize {
    caller.get::<ConnectionId>().map_or(0, |id| id.0)
}

impl Upstream {
    /// The node at `url` (`ws://…`), which must be of the network `deployment`. Connects when it is first needed.
    ///
    /// # Errors
    /// When the address is not that of a WebSocket.
    pub fn new(url: &str, deployment: Deployment) -> Result<Self, LcaiError> {
        if !url.starts_with("ws://") {
            return Err(LcaiError::InvalidParams(format!(
                "{url} is not a WebSocket address: ws://HOST:PORT is expected (for TLS, a proxy on this machine)"
            )));
        }
        let subscriptions = Arc::new(Semaphore::new(MAX_SUBSCRIPTIONS));
        Ok(Self(Arc::new(Inner {
            url: url.to_owned(),
            deployment,
            shared: Mutex::default(),
            subscriptions,
            callers: AccountLimiter::new(CALLER_RATE, MAX_CALLERS),
            offers: Mutex::default(),
        })))
    }

    /// What the other node offers, as of a moment ago; `None` while it cannot be asked.
    pub(crate) async fn offers(&self) -> Option<Offers> {
        let mut kept = self.0.offers.lock().await;
        if let Some((asked, offers)) = *kept
            && asked.elapsed() < OFFERS_KEPT
        {
            return Some(offers);
        }
        let network = self.shared().await.ok()?.network().await.ok()?;
        let offers = Offers { dispatcher: network.dispatcher, publishes_blobs: network.publishes_blobs };
        *kept = Some((Instant::now(), offers));
        Some(offers)
    }

    /// Replaces in `module` what is handed on.
    ///
    /// # Errors
    /// When the module lacks one of these methods: it is called otherwise there.
    pub fn take_over(&self, module: &mut RpcModule<()>) -> Result<(), RegisterMethodError> {
        let subscriptions =
            SUBSCRIPTIONS.iter().flat_map(|(subscribe, _, unsubscribe)| [*subscribe, *unsubscribe]);
        for method in CALLS.into_iter().chain(subscriptions) {
            module
                .remove_method(method)
                .ok_or_else(|| RegisterMethodError::MethodNotFound(method.to_owned()))?;
        }
        module.merge(self.module()?)
    }

    fn module(&self) -> Result<RpcModule<Self>, RegisterMethodError> {
        let mut module = RpcModule::new(self.clone());
        for method in CALLS {
            module.register_async_method(method, move |params, upstream, caller| async move {
                upstream.0.callers.take(client_of(&caller), 1.0)?;
                upstream.call(method, Raw::of(&params)).await
            })?;
        }
        for (subscribe, notification, unsubscribe) in SUBSCRIPTIONS {
            module.register_subscription(
                subscribe,
                notification,
                unsubscribe,
                move |params, pending, upstream, caller| async move {
                    if let Err(refused) = upstream.0.callers.take(client_of(&caller), 1.0) {
                        pending.reject(refused).await;
                        return Ok(());
                    }
                    upstream.subscribe(subscribe, unsubscribe, Raw::of(&params), pending).await
                },
            )?;
        }
        Ok(module)
    }

    async fn call(&self, method: &str, params: Raw) -> Result<Box<RawValue>, ErrorObjectOwned> {
        let client = self.shared().await?;
        client.request(method, params).await.map_err(|error| self.refusal(error))
    }

    async fn subscribe(
        &self,
        subscribe: &str,
        unsubscribe: &str,
        params: Raw,
        pending: PendingSubscriptionSink,
    ) -> SubscriptionResult {
        let opened = async {
            let full = |_| LcaiError::QuotaExceeded("too many subscriptions on this node".into());
            let seat = Arc::clone(&self.0.subscriptions).try_acquire_owned().map_err(full)?;
            let client = self.connect().await?;
            let stream = client.subscribe::<Box<RawValue>, _>(subscribe, params, unsubscribe).await;
            // The client is kept: the subscription ends with its connection.
            Ok::<_, ErrorObjectOwned>((stream.map_err(|error| self.refusal(error))?, client, seat))
        };
        let (stream, _client, _seat) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                pending.reject(error).await;
                return Ok(());
            }
        };
        let sink = pending.accept().await?;
        match self.hand_on(stream, &sink).await {
            None => Ok(()),
            Some(error) => Err(closing(error)),
        }
    }

    /// Until the client is gone (`None`), or why it has to subscribe again.
    async fn hand_on(
        &self,
        mut stream: Subscription<Box<RawValue>>,
        sink: &SubscriptionSink,
    ) -> Option<LcaiError> {
        let mut delivered = None;
        loop {
            let item = tokio::select! {
                item = stream.next() => item,
                () = sink.closed() => return None,
            };
            let Some(Ok(item)) = item else {
                let text = format!("the node at {} ended the subscription; subscribe again", self.0.url);
                return Some(LcaiError::UpstreamUnavailable { text, resume_from: delivered });
            };
            let cursor = serde_json::from_str::<Placed>(item.get()).ok().map(|placed| placed.cursor.0);
            match sink.send_timeout(item, PATIENCE).await {
                Ok(()) => delivered = cursor.or(delivered),
                Err(SendTimeoutError::Closed(_)) => return None,
                Err(SendTimeoutError::Timeout(_)) => {
                    return Some(LcaiError::SlowReader { resume_from: delivered.unwrap_or(0) });
                }
            }
        }
    }

    /// The connection for calls.
    async fn shared(&self) -> Result<Arc<WsClient>, LcaiError> {
        let mut shared = self.0.shared.lock().await;
        match &*shared {
            Some(client) if client.is_connected() => Ok(Arc::clone(client)),
            _ => {
                let client = Arc::new(self.connect().await?);
                *shared = Some(Arc::clone(&client));
                Ok(client)
            }
        }
    }

    async fn connect(&self) -> Result<WsClient, LcaiError> {
        let client = WsClientBuilder::default()
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(CALL_TIMEOUT)
            .max_concurrent_requests(MAX_CALLS)
            .build(&self.0.url)
            .await
            .map_err(|error| self.unavailable(error))?;
        let versions = client.versions().await.map_err(|error| self.unavailable(error))?;
        let (found, ours) = (versions.deployment, self.0.deployment);
        if (found.chain_id, found.job_registry) != (ours.chain_id, ours.job_registry) {
            return Err(self.unavailable(format!(
                "it is of chain {} with JobRegistry {}, this node of chain {} with {}",
                found.chain_id, found.job_registry, ours.chain_id, ours.job_registry
            )));
        }
        Ok(client)
    }

    /// The other node's own refusal as it is; anything else says that it could not be asked.
    fn refusal(&self, error: ClientError) -> ErrorObjectOwned {
        match error {
            ClientError::Call(refusal) => refusal,
            other => self.unavailable(other).into(),
        }
    }

    fn unavailable(&self, reason: impl std::fmt::Display) -> LcaiError {
        let text = format!("the node at {} cannot be asked: {reason}", self.0.url);
        LcaiError::UpstreamUnavailable { text, resume_from: None }
    }
}

/// What of an envelope matters to whoever hands it on.
#[derive(Deserialize)]
struct Placed {
    cursor: Quantity,
}

/// Parameters as they came.
struct Raw(Option<String>);

impl Raw {
    fn of(params: &Params<'_>) -> Self {
        Self(params.as_str().map(str::to_owned))
    }
}

impl ToRpcParams for Raw {
    fn to_rpc_params(self) -> Result<Option<Box<RawValue>>, serde_json::Error> {
        self.0.map(RawValue::from_string).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_websockets_are_accepted() {
        let deployment = crate::testing::deployment();
        for url in ["http://127.0.0.1:8545", "wss://host", "127.0.0.1:8546", ""] {
            let error = Upstream::new(url, deployment).unwrap_err();
            assert!(error.to_string().contains("ws://HOST:PORT"), "{error}");
        }
        assert!(Upstream::new("ws://127.0.0.1:8546", deployment).is_ok());
    }
}
