//! A JSON-RPC server over HTTP and WebSocket with bounds on everything a client decides.

use crate::{
    bounds::{Bounds, Pools},
    error::LcaiError,
    gather::Gathering,
    jwt::JwtSecret,
    limits::{Bucket, Rate},
    peers::Peers,
    unix_now,
};
use jsonrpsee::{
    MethodResponse, Methods,
    core::{
        BoxError,
        middleware::{Batch, Notification, Request, RpcServiceBuilder, RpcServiceT},
    },
    server::{
        BatchRequestConfig, HttpBody, HttpRequest, HttpResponse, PingConfig, RandomStringIdProvider, Server,
        ServerConfig, ServerHandle, StopHandle, serve_with_graceful_shutdown, stop_channel,
        ws::is_upgrade_request,
    },
    types::{ErrorObjectOwned, Id},
};
use metrics::counter;
use parking_lot::Mutex;
use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};
use tower::Service;
use tower_http::cors::{Any, CorsLayer};

/// What one client, and all of them together, may use.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Bytes of a request body or WebSocket message.
    pub max_request_bytes: u32,
    /// Bytes of a response.
    pub max_response_bytes: u32,
    /// Connections at once, HTTP and WebSocket together; further ones get HTTP status 503 and are closed.
    pub max_connections: u32,
    /// Of these, from one address (IPv6: one /64). Addresses of this machine are not counted.
    pub max_connections_per_address: u32,
    /// Subscriptions of one connection.
    pub max_subscriptions: u32,
    /// Calls in one batch.
    pub max_batch: u32,
    /// Messages waiting to be written to one WebSocket; beyond it the sender waits.
    pub message_buffer: u32,
    /// Calls of one connection.
    pub calls: Rate,
    /// How long a new connection may take until its first request is there.
    pub first_byte: Duration,
    /// How long an HTTP connection may stay open without a request.
    pub idle: Duration,
    /// How long one HTTP request may take, from its header to its answer; beyond the longest poll and publication.
    pub request: Duration,
    /// How long a connection may take nothing of what is written to it; longer than a slow reader's subscription has.
    pub write: Duration,
    /// Bytes of answers that may wait for one connection to take them, and one more answer; further ones are refused.
    pub unsent_bytes: usize,
    /// Bytes of requests being received or answered, and bytes of answers waiting, of all connections; of each, 64 KiB
    /// do not count. Without room, a connection is closed in the middle of its request, or an answer refused.
    pub memory_bytes: (usize, usize),
    /// How often a WebSocket is pinged; one that does not answer for two pings is closed.
    pub ping: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_request_bytes: 2 * 1024 * 1024,
            max_response_bytes: 8 * 1024 * 1024,
            max_connections: 2_000,
            max_connections_per_address: 500,
            max_subscriptions: 64,
            max_batch: 50,
            message_buffer: 32,
            calls: Rate { per_second: 200.0, burst: 1_000.0 },
            first_byte: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            request: Duration::from_secs(90),
            write: Duration::from_secs(20),
            unsent_bytes: 8 * 1024 * 1024,
            memory_bytes: (256 * 1024 * 1024, 256 * 1024 * 1024),
            ping: Duration::from_secs(20),
        }
    }
}

impl ServerLimits {
    /// What of a request may wait for its end; a message that is no request counts with the next one.
    const fn unread_bytes(&self) -> usize {
        2 * self.max_request_bytes as usize
    }

    fn config(&self) -> ServerConfig {
        let ping = PingConfig::new().ping_interval(self.ping).inactive_limit(self.ping * 2).max_failures(1);
        ServerConfig::builder()
            .max_request_body_size(self.max_request_bytes)
            .max_response_body_size(self.max_response_bytes)
            .max_connections(self.max_connections)
            .max_subscriptions_per_connection(self.max_subscriptions)
            .set_batch_request_config(BatchRequestConfig::Limit(self.max_batch))
            .set_message_buffer_capacity(self.message_buffer)
            .enable_ws_ping(ping)
            // Ethereum clients expect subscription ids as strings.
            .set_id_provider(RandomStringIdProvider::new(32))
            .build()
    }
}

/// A running server. Dropping it does not stop the server; [`Self::stop`] does.
#[derive(Debug, Clone)]
pub struct RpcHandle {
    local_addr: SocketAddr,
    server: ServerHandle,
}

impl RpcHandle {
    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting, finishes the calls in progress, closes WebSockets. Idempotent.
    pub fn stop(&self) {
        // The only error says that it is stopped already.
        let _ = self.server.stop();
    }

    /// Waits until the last connection is gone.
    pub async fn stopped(self) {
        self.server.stopped().await;
    }
}

/// Serves `methods` at `addr` (port 0: any) over HTTP and WebSocket, open to pages of any origin.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    methods: impl Into<Methods>,
    addr: SocketAddr,
    limits: ServerLimits,
) -> io::Result<RpcHandle> {
    serve_with(methods.into(), addr, limits, None).await
}

/// As [`serve`], for the operator alone: requests without a bearer token made with `secret` get HTTP status 401.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve_operator(
    methods: impl Into<Methods>,
    addr: SocketAddr,
    limits: ServerLimits,
    secret: JwtSecret,
) -> io::Result<RpcHandle> {
    serve_with(methods.into(), addr, limits, Some(secret)).await
}

async fn serve_with(
    methods: Methods,
    addr: SocketAddr,
    limits: ServerLimits,
    secret: Option<JwtSecret>,
) -> io::Result<RpcHandle> {
    let listener = TcpListener::bind(addr).await?;
    let local_addr = listener.local_addr()?;
    let (stop, server) = stop_channel();
    tokio::spawn(accept_loop(listener, methods, limits, secret, stop));
    Ok(RpcHandle { local_addr, server })
}

async fn accept_loop(
    listener: TcpListener,
    methods: Methods,
    limits: ServerLimits,
    secret: Option<JwtSecret>,
    stop: StopHandle,
) {
    let room = Arc::new(Semaphore::new(limits.max_connections as usize));
    let (peers, pools) = (Peers::default(), Pools::new(limits.memory_bytes.0, limits.memory_bytes.1));
    let stopped = stop.clone().shutdown();
    tokio::pin!(stopped);
    let mut id: u32 = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: others have to close first.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let place = peers.take(peer.ip(), limits.max_connections_per_address);
        let place = place.and_then(|place| Some((place, Arc::clone(&room).try_acquire_owned().ok()?)));
        let Some(permit) = place else {
            counter!("lcai_rpc_connections_refused_total").increment(1);
            // Into the empty buffer of a new connection, without waiting; it is closed all the same.
            let _ = stream.into_std().and_then(|mut socket| socket.write(TOO_MANY));
            continue;
        };
        id = id.wrapping_add(1);
        let bounds = Bounds::new(&pools, limits.unread_bytes(), limits.unsent_bytes);
        let connection = Connection {
            id,
            methods: methods.clone(),
            limits: limits.clone(),
            bounds: Arc::new(bounds),
            secret: secret.clone(),
            stop: stop.clone(),
        };
        tokio::spawn(connection.serve(stream, Arc::new(permit)));
    }
}

/// To a connection above the number.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n\
                          Content-Length: 21\r\n\r\ntoo many connections\n";

struct Connection {
    id: u32,
    methods: Methods,
    limits: ServerLimits,
    bounds: Arc<Bounds>,
    secret: Option<JwtSecret>,
    stop: StopHandle,
}

impl Connection {
    /// `permit` is held by the connection and, once it is upgraded, by its WebSocket.
    async fn serve<P: Send + Sync + 'static>(self, stream: TcpStream, permit: Arc<P>) {
        if !matches!(timeout(self.limits.first_byte, stream.readable()).await, Ok(Ok(()))) {
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        let limits = CallLimits::new(self.limits.calls, &self.bounds);
        let limited = move |service| Limited { service, limits: limits.clone() };
        let cors = CorsLayer::new().allow_origin(Any).allow_methods(Any).allow_headers(Any);
        let builder = Server::builder()
            .set_config(self.limits.config())
            .set_rpc_middleware(RpcServiceBuilder::new().layer_fn(limited))
            .set_http_middleware(tower::ServiceBuilder::new().layer(cors))
            .to_service_builder()
            .connection_id(self.id);
        let (methods, stop) = (self.methods, self.stop.clone());
        let held = Arc::clone(&permit);
        let secret = self.secret;
        let activity = Arc::new(Activity::new());
        let requests = Arc::clone(&activity);
        let upgraded = Arc::new(AtomicBool::new(false));
        let bounds = Arc::clone(&self.bounds);
        let stream = Gathering::new(stream, Arc::clone(&upgraded), Arc::clone(&bounds), self.limits.write);
        let service = tower::service_fn(move |request: HttpRequest<_>| {
            let busy = Activity::begin(&requests);
            // What comes from here on is this request's body.
            drop(bounds.request());
            let allowed = secret.as_ref().is_none_or(|secret| is_authorized(secret, &request));
            let mut service = builder.clone().build(methods.clone(), stop.clone());
            let closed = is_upgrade_request(&request).then(|| service.on_session_closed());
            let answer = allowed.then(|| service.call(request));
            let (requests, upgraded, held) =
                (Arc::clone(&requests), Arc::clone(&upgraded), Arc::clone(&held));
            async move {
                let _busy = busy;
                let answer = match answer {
                    // A concrete error type: with a boxed one the compiler cannot see that this future is `Send`.
                    Some(answer) => answer.await.map_err(io::Error::other)?,
                    None => unauthorized(),
                };
                // A request to upgrade may lack what else it needs: then this stays an HTTP connection.
                if let Some(closed) = closed.filter(|_| answer.status().as_u16() == 101) {
                    requests.upgrade();
                    upgraded.store(true, Ordering::Relaxed);
                    tokio::spawn(async move {
                        closed.await;
                        drop(held);
                    });
                }
                Ok::<_, io::Error>(answer)
            }
        });
        tokio::select! {
            ended = serve_with_graceful_shutdown(stream, service, self.stop.shutdown()) => {
                if let Err(error) = ended {
                    let error: BoxError = error;
                    tracing::debug!(%error, "connection ended");
                }
            }
            () = activity.expired(&self.limits) => {
                counter!("lcai_rpc_connections_expired_total").increment(1);
            }
        }
        drop(permit);
    }
}

/// Whether a connection still does something: half-sent requests and sockets that nobody uses must not keep others out.
struct Activity(Mutex<State>);

struct State {
    /// Requests being answered.
    busy: usize,
    /// When the last one began or ended; before the first, when the connection was made.
    since: Instant,
    /// Whether there was one.
    used: bool,
    /// A WebSocket: pings tell whether it is alive.
    upgraded: bool,
}

/// A request being answered.
struct Busy(Arc<Activity>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(State { busy: 0, since: Instant::now(), used: false, upgraded: false }))
    }

    fn begin(this: &Arc<Self>) -> Busy {
        let mut state = this.0.lock();
        state.busy += 1;
        state.used = true;
        state.since = Instant::now();
        Busy(Arc::clone(this))
    }

    fn upgrade(&self) {
        self.0.lock().upgraded = true;
    }

    /// Returns once the connection has been idle, or busy with the same request, for too long.
    async fn expired(&self, limits: &ServerLimits) {
        loop {
            let deadline = {
                let state = self.0.lock();
                let patience = match (state.used, state.busy) {
                    _ if state.upgraded => None,
                    (false, _) => Some(limits.first_byte),
                    (true, 0) => Some(limits.idle),
                    (true, _) => Some(limits.request),
                };
                patience.map(|patience| state.since + patience)
            };
            match deadline {
                Some(deadline) if deadline <= Instant::now() => return,
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.busy = state.busy.saturating_sub(1);
        state.since = Instant::now();
    }
}

fn is_authorized<B>(secret: &JwtSecret, request: &HttpRequest<B>) -> bool {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    header.is_some_and(|header| secret.accepts(header, unix_now()))
}

fn unauthorized() -> HttpResponse {
    let mut response =
        HttpResponse::new(HttpBody::from("a bearer token made with the node's JWT secret is required"));
    if let Ok(status) = 401u16.try_into() {
        *response.status_mut() = status;
    }
    response
}

/// What one connection may call for, and have answered.
#[derive(Clone)]
struct CallLimits {
    rate: Rate,
    bucket: Arc<Mutex<Bucket>>,
    bounds: Arc<Bounds>,
    /// Held while a batch is answered: its answer may be as large as answers are allowed to be.
    batches: Arc<tokio::sync::Mutex<()>>,
    /// Calls being answered: further ones wait, so that no connection has everybody's work wait behind its own.
    running: Arc<Semaphore>,
}

/// Calls of one connection that are answered at once.
const MAX_RUNNING: usize = 64;

impl CallLimits {
    fn new(rate: Rate, bounds: &Arc<Bounds>) -> Self {
        let bucket = Arc::new(Mutex::new(Bucket::full(rate, Instant::now())));
        let running = Arc::new(Semaphore::new(MAX_RUNNING));
        Self { rate, bucket, bounds: Arc::clone(bounds), batches: Arc::default(), running }
    }

    fn take(&self, calls: usize) -> Result<(), ErrorObjectOwned> {
        if self.bounds.is_full() {
            return Err(no_room());
        }
        let taken = self.bucket.lock().take(self.rate, calls as f64, Instant::now());
        taken.map_err(|wait| {
            counter!("lcai_rpc_calls_refused_total").increment(1);
            let text = format!("too many calls on this connection; try again in {} ms", wait.as_millis());
            LcaiError::QuotaExceeded(text).into()
        })
    }
}

/// Refuses calls above a connection's rate, and answers that there is no room for.
#[derive(Clone)]
struct Limited<S> {
    service: S,
    limits: CallLimits,
}

fn no_room() -> ErrorObjectOwned {
    counter!("lcai_rpc_answers_refused_total").increment(1);
    LcaiError::QuotaExceeded("too many answers wait to be read; read them and try again".into()).into()
}

/// The answer, counted until it is written, or a refusal where there is no room for it.
fn counted(bounds: &Bounds, id: Id<'_>, answer: MethodResponse) -> MethodResponse {
    // Others are sent by whoever made them.
    if !answer.is_method_call() && !answer.is_batch() {
        return answer;
    }
    if bounds.answer(answer.as_ref().len()) {
        return answer;
    }
    drop(answer);
    refused(bounds, id, no_room())
}

fn refused(bounds: &Bounds, id: Id<'_>, error: ErrorObjectOwned) -> MethodResponse {
    let refusal = MethodResponse::error(id, error);
    bounds.refusal(refusal.as_ref().len());
    refusal
}

impl<S> RpcServiceT for Limited<S>
where
    S: RpcServiceT<
            MethodResponse = MethodResponse,
            NotificationResponse = MethodResponse,
            BatchResponse = MethodResponse,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(&self, request: Request<'a>) -> impl Future<Output = Self::MethodResponse> + Send + 'a {
        let (taken, service) = (self.limits.take(1), self.service.clone());
        let CallLimits { bounds, running, .. } = self.limits.clone();
        async move {
            let (_received, id) = (bounds.request(), request.id());
            if let Err(error) = taken {
                return refused(&bounds, id, error);
            }
            // Never closed.
            let _running = running.acquire().await;
            if bounds.is_full() {
                return refused(&bounds, id, no_room());
            }
            counted(&bounds, id, service.call(request).await)
        }
    }

    fn batch<'a>(&self, batch: Batch<'a>) -> impl Future<Output = Self::BatchResponse> + Send + 'a {
        let (taken, service) = (self.limits.take(batch.len()), self.service.clone());
        let CallLimits { bounds, batches, .. } = self.limits.clone();
        async move {
            let _received = bounds.request();
            match taken {
                Ok(()) => {
                    let _one_at_a_time = batches.lock().await;
                    counted(&bounds, Id::Null, service.batch(batch).await)
                }
                Err(error) => refused(&bounds, Id::Null, error),
            }
        }
    }

    fn notification<'a>(
        &self,
        n: Notification<'a>,
    ) -> impl Future<Output = Self::NotificationResponse> + Send + 'a {
        // Notifications are answered by nothing and call nothing.
        drop(self.limits.bounds.request());
        self.service.notification(n)
    }
}
