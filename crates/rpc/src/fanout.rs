//! Live frames for whoever reads a session now.
//!
//! A reader pulls: it is told that there is something new and takes it from the session's short tail in memory, or from
//! the store when it is behind the tail. So a reader holds one batch, whoever is slow holds nobody up, and there is
//! neither a gap nor a repetition between what was kept and what is live.

use crate::store::{KeptFrame, SessionKey, StoreError};
use alloy_primitives::B256;
use lcai_primitives::ids::JobId;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::watch;

/// Frames a session's tail holds while somebody reads.
const TAIL_FRAMES: usize = 256;
/// JSON bytes a session's tail holds at most (one frame may exceed it).
const TAIL_BYTES: usize = 512 * 1024;

/// A frame as readers get it; shared by all of them.
#[derive(Debug)]
pub struct Live {
    /// Its cursor.
    pub cursor: u64,
    /// The job's subject id.
    pub subject: B256,
    /// The job's number.
    pub job: JobId,
    /// The envelope as JSON.
    pub envelope: Box<RawValue>,
}

impl Live {
    pub(crate) fn new(cursor: u64, subject: B256, job: JobId, frame: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |_| StoreError::Corrupt("frames");
        let frame = std::str::from_utf8(frame).map_err(|_| StoreError::Corrupt("frames"))?;
        let envelope = RawValue::from_string(format!(r#"{{"cursor":"{cursor:#x}","frame":{frame}}}"#))
            .map_err(corrupt)?;
        Ok(Self { cursor, subject, job, envelope })
    }

    pub(crate) fn kept(frame: &KeptFrame) -> Result<Self, StoreError> {
        Self::new(frame.cursor, frame.subject, frame.job, &frame.json)
    }
}

/// A session's tail. Everything of the session above `floor` is in it.
#[derive(Debug)]
struct Tail {
    floor: u64,
    bytes: usize,
    items: VecDeque<Arc<Live>>,
}

/// One session somebody reads.
#[derive(Debug)]
pub(crate) struct Channel {
    tail: Mutex<Tail>,
    latest: watch::Sender<u64>,
}

impl Channel {
    fn new(floor: u64) -> Self {
        let tail = Tail { floor, bytes: 0, items: VecDeque::new() };
        Self { tail: Mutex::new(tail), latest: watch::Sender::new(floor) }
    }

    fn publish(&self, item: Arc<Live>) {
        let cursor = item.cursor;
        let mut tail = self.tail.lock();
        // The channel was made after the commit that brought this frame: its reader has it from the store.
        if cursor <= tail.floor {
            return;
        }
        tail.bytes += item.envelope.get().len();
        tail.items.push_back(item);
        while tail.items.len() > TAIL_FRAMES || (tail.bytes > TAIL_BYTES && tail.items.len() > 1) {
            let Some(dropped) = tail.items.pop_front() else { break };
            tail.bytes -= dropped.envelope.get().len();
            tail.floor = dropped.cursor;
        }
        drop(tail);
        self.latest.send_replace(cursor);
    }

    /// The cursor above which the tail has everything.
    pub(crate) fn floor(&self) -> u64 {
        self.tail.lock().floor
    }

    /// What is above `cursor`, at most `max`; `None` when the tail does not reach back that far.
    pub(crate) fn after(&self, cursor: u64, max: usize) -> Option<Vec<Arc<Live>>> {
        let tail = self.tail.lock();
        if cursor < tail.floor {
            return None;
        }
        let start = tail.items.partition_point(|item| item.cursor <= cursor);
        Some(tail.items.range(start..).take(max).cloned().collect())
    }
}

/// All sessions somebody reads.
#[derive(Debug, Default)]
pub(crate) struct Channels(Mutex<HashMap<SessionKey, Arc<Channel>>>);

impl Channels {
    /// Joins a session. `latest` gives the store's last cursor; it is asked while no frame can be published.
    pub(crate) fn join(
        self: &Arc<Self>,
        session: SessionKey,
        latest: impl FnOnce() -> Result<u64, StoreError>,
    ) -> Result<Seat, StoreError> {
        let mut channels = self.0.lock();
        let channel = match channels.get(&session) {
            Some(channel) => Arc::clone(channel),
            None => {
                let channel = Arc::new(Channel::new(latest()?));
                channels.insert(session, Arc::clone(&channel));
                channel
            }
        };
        let news = channel.latest.subscribe();
        Ok(Seat { session, channel, news, channels: Arc::clone(self) })
    }

    /// Hands a durable frame to the session's readers; costs nothing when it has none.
    pub(crate) fn publish(
        &self,
        session: SessionKey,
        item: impl FnOnce() -> Result<Live, StoreError>,
    ) -> Result<(), StoreError> {
        let channels = self.0.lock();
        if let Some(channel) = channels.get(&session) {
            channel.publish(Arc::new(item()?));
        }
        Ok(())
    }

    /// Sessions somebody reads.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// A reader's place at a session; the session's tail goes with the last one.
#[derive(Debug)]
pub(crate) struct Seat {
    session: SessionKey,
    pub(crate) channel: Arc<Channel>,
    pub(crate) news: watch::Receiver<u64>,
    channels: Arc<Channels>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut channels = self.channels.0.lock();
        // Seats are made and dropped under this lock: two references are the map's and ours.
        if Arc::strong_count(&self.channel) <= 2 {
            channels.remove(&self.session);
        }
    }
}
