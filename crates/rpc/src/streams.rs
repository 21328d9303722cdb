//! Subscriptions from acceptance to end: until the client is gone, is too slow, or its token no longer counts.

use crate::{
    directory::Directory,
    error::LcaiError,
    fanout::{Live, Outlet, Pushed},
    relay::FrameReader,
    watch::Watched,
};
use jsonrpsee::{
    PendingSubscriptionSink, SendTimeoutError, SubscriptionMessage, SubscriptionSink,
    core::{SubscriptionError, SubscriptionResult},
    types::ErrorObjectOwned,
};
use serde_json::value::to_raw_value;
use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    task::unconstrained,
    time::{Instant, sleep_until},
};

/// When a subscription ends although its client wants more.
#[derive(Debug)]
pub(crate) struct Ending {
    expires: Option<Instant>,
    ended: Option<watch::Receiver<u64>>,
}

impl Ending {
    /// With the token that expires at `expiry` (unix seconds), or when the operator ends all logins.
    pub(crate) fn of_token(expiry: u64, now: u64, ended: watch::Receiver<u64>) -> Self {
        let left = Duration::from_secs(expiry.saturating_sub(now));
        Self { expires: Instant::now().checked_add(left), ended: Some(ended) }
    }

    /// Not before its client.
    pub(crate) const fn never() -> Self {
        Self { expires: None, ended: None }
    }

    async fn reached(mut self) -> LcaiError {
        let expired = async {
            match self.expires {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match &mut self.ended {
                // The issuer is gone with the node; its streams end otherwise.
                Some(ended) => match ended.changed().await {
                    Ok(()) => {}
                    Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expired => LcaiError::Expired("the token has expired; log in again and resume".into()),
            () = ended => LcaiError::Expired("the operator ended all logins; log in again and resume".into()),
        }
    }
}

/// Runs subscriptions within their bounds.
#[derive(Debug)]
pub(crate) struct Streams {
    patience: Duration,
    watchers: Arc<Semaphore>,
}

impl Streams {
    /// `patience` is how long a connection may take no message.
    pub(crate) fn new(patience: Duration, max_watchers: usize) -> Self {
        Self { patience, watchers: Arc::new(Semaphore::new(max_watchers)) }
    }

    /// Hands a session's frames out.
    pub(crate) async fn frames(
        &self,
        pending: PendingSubscriptionSink,
        reader: FrameReader,
        ending: Ending,
    ) -> SubscriptionResult {
        let sink = Arc::new(pending.accept().await?);
        tokio::select! {
            done = deliver(reader, &sink, self.patience) => done.map_err(closing),
            error = ending.reached() => Err(closing(error)),
        }
    }

    /// Tells what changes from block to block.
    pub(crate) async fn changes<W: Watched>(
        &self,
        pending: PendingSubscriptionSink,
        watched: Result<(W, Ending), LcaiError>,
        directory: &Arc<dyn Directory>,
    ) -> SubscriptionResult {
        let seat = watched.and_then(|watched| {
            let full = |_| LcaiError::QuotaExceeded("too many subscriptions on this node".into());
            Ok((watched, Arc::clone(&self.watchers).try_acquire_owned().map_err(full)?))
        });
        let ((watched, ending), _seat) = match seat {
            Ok(seat) => seat,
            Err(error) => {
                pending.reject(error).await;
                return Ok(());
            }
        };
        let sink = pending.accept().await?;
        tokio::select! {
            done = tell(watched, directory.as_ref(), &sink, self.patience) => done.map_err(closing),
            error = ending.reached() => Err(closing(error)),
        }
    }
}

/// Hands frames out: at the reader's pace while it is behind, and to a reader that has everything as they come.
async fn deliver(
    mut reader: FrameReader,
    sink: &Arc<SubscriptionSink>,
    patience: Duration,
) -> Result<(), LcaiError> {
    let mut delivered = reader.cursor();
    let mut closed = pin!(sink.closed());
    loop {
        if let Some(mut following) = reader.follow(Arc::clone(sink) as Arc<dyn Outlet>) {
            let ended = tokio::select! {
                ended = following.ended() => ended,
                () = &mut closed => return Ok(()),
            };
            if let Some(cursor) = ended {
                reader.resume(cursor);
                delivered = delivered.max(cursor);
            }
        }
        let batch = tokio::select! {
            batch = reader.next() => batch?,
            () = &mut closed => return Ok(()),
        };
        for live in batch {
            match sink.send_timeout(live.envelope.clone(), patience).await {
                Ok(()) => delivered = live.cursor,
                Err(SendTimeoutError::Closed(_)) => return Ok(()),
                Err(SendTimeoutError::Timeout(_)) => return Err(reader.cut(delivered)),
            }
        }
    }
}

impl Outlet for SubscriptionSink {
    fn push(&self, live: &Live) -> Pushed {
        let id = self.subscription_id();
        let Ok(message) = SubscriptionMessage::new(self.method_name(), id, &live.envelope) else {
            return Pushed::Gone;
        };
        // Not `try_send`, which wants the sink for itself. Without a budget: it is not this connection's task.
        let sending = pin!(unconstrained(self.send(message)));
        match sending.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Pushed::Taken,
            Poll::Ready(Err(_)) => Pushed::Gone,
            Poll::Pending => Pushed::Full,
        }
    }
}

async fn tell<W: Watched>(
    mut watched: W,
    directory: &dyn Directory,
    sink: &SubscriptionSink,
    patience: Duration,
) -> Result<(), LcaiError> {
    let mut head = directory.head();
    let mut closed = pin!(sink.closed());
    loop {
        let block = *head.borrow_and_update();
        if let Some(change) = block.and_then(|block| watched.changes(directory, block.into())) {
            let message = to_raw_value(&change)
                .map_err(|_| LcaiError::Internal("a notification cannot be serialised".into()))?;
            match sink.send_timeout(message, patience).await {
                Ok(()) => {}
                Err(SendTimeoutError::Closed(_)) => return Ok(()),
                // It has no cursor: a new subscription begins with everything.
                Err(SendTimeoutError::Timeout(_)) => return Err(LcaiError::SlowReader { resume_from: 0 }),
            }
        }
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return Ok(()) },
            () = &mut closed => return Ok(()),
        }
    }
}

/// The error notification that ends a subscription: the same object a call would be answered with.
pub(crate) fn closing(error: LcaiError) -> SubscriptionError {
    let text = error.to_string();
    let object = ErrorObjectOwned::from(error);
    to_raw_value(&object).map_or_else(|_| SubscriptionError::from(text), SubscriptionError::from_json)
}
