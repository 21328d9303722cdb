//! Live frames for whoever reads a session now.
//!
//! A reader pulls: it is told that there is something new and takes it from the session's short tail in memory, or from
//! the store when it is behind the tail. So a reader holds one batch, whoever is slow holds nobody up, and there is
//! neither a gap nor a repetition between what was kept and what is live.
//!
//! A reader that has everything may follow: one task for the whole session then puts each new frame straight into its
//! connection's buffer, which spares waking a task for every reader. Whose buffer is full stops following and pulls.

use crate::{
    session_view::{SessionParties, SessionView},
    store::{KeptFrame, SessionKey, StoreError},
};
use alloy_primitives::{Address, B256};
use lcai_primitives::ids::{JobId, SessionId};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    task::yield_now,
    time::timeout,
};

/// Frames a session's tail holds while somebody reads.
const TAIL_FRAMES: usize = 256;
/// JSON bytes a session's tail holds at most (one frame may exceed it).
const TAIL_BYTES: usize = 512 * 1024;
/// Frames put into followers' buffers before other tasks get their turn.
const TURN: usize = 512;
/// How often a waiting reader, and what followers get, is held against the session on the chain.
pub(crate) const IDENTITY_CHECK: Duration = Duration::from_secs(5);

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

    /// The same, telling that so many frames before it are not kept any more.
    pub(crate) fn after_gap(&self, missed: u64) -> Result<Self, StoreError> {
        let (head, frame) = self.envelope.get().split_once(',').ok_or(StoreError::Corrupt("frames"))?;
        let envelope = RawValue::from_string(format!(r#"{head},"missed":"{missed:#x}",{frame}"#))
            .map_err(|_| StoreError::Corrupt("frames"))?;
        Ok(Self { cursor: self.cursor, subject: self.subject, job: self.job, envelope })
    }

    /// Whether its job is still the same one on this fork.
    pub(crate) fn is_current(&self, view: &dyn SessionView) -> bool {
        view.job(self.job).is_none_or(|job| job.subject.id() == self.subject)
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

/// Who reads which session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    /// The session, across forks.
    pub(crate) session: SessionKey,
    /// Its owner when reading began.
    pub(crate) user: Address,
}

impl Reader {
    /// Whether the session is still this one and the reader's, as far as the chain has been followed.
    pub(crate) fn is_owner(&self, parties: Option<SessionParties>) -> bool {
        parties.is_none_or(|now| {
            now.user == self.user
                && SessionKey::new(self.session.session(), now.create_transaction) == self.session
        })
    }
}

/// What became of a frame that a follower was to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is in the connection's buffer.
    Taken,
    /// The buffer is full.
    Full,
    /// There is no connection any more.
    Gone,
}

/// A connection's buffer, as followers have one each.
pub(crate) trait Outlet: Send + Sync {
    /// Puts a frame into it, without waiting.
    fn push(&self, live: &Live) -> Pushed;
}

/// A reader that has everything up to its cursor and gets what comes.
struct Follower {
    id: u64,
    reader: Reader,
    outlet: Arc<dyn Outlet>,
    cursor: u64,
    /// Told the cursor up to which it got everything, when it does not follow any more.
    ended: oneshot::Sender<u64>,
}

/// The readers that follow. Each has, or will be given, everything above `passed`.
#[derive(Default)]
struct Followers {
    passed: u64,
    next_id: u64,
    forwarded: bool,
    all: Vec<Follower>,
}

impl Followers {
    /// Lets everybody go whom `stays` does not name; they pull from where they are.
    fn retain(&mut self, stays: impl Fn(&Follower) -> bool) {
        for follower in self.all.extract_if(.., |follower| !stays(follower)) {
            // A reader that does not listen any more is gone.
            let _ = follower.ended.send(follower.cursor);
        }
    }

    /// Gives one frame to everybody that does not have it.
    fn push(&mut self, live: &Live) {
        let mut index = 0;
        while let Some(follower) = self.all.get_mut(index) {
            if follower.cursor < live.cursor && follower.outlet.push(live) != Pushed::Taken {
                let follower = self.all.swap_remove(index);
                let _ = follower.ended.send(follower.cursor);
                continue;
            }
            follower.cursor = follower.cursor.max(live.cursor);
            index += 1;
        }
    }
}

/// What the forwarding task does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// There is more.
    Again,
    /// Followers have everything.
    Wait,
    /// Nobody follows.
    End,
}

/// One session somebody reads.
pub(crate) struct Channel {
    tail: Mutex<Tail>,
    latest: watch::Sender<u64>,
    /// Locked before the tail.
    followers: Mutex<Followers>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("latest", &self.latest).finish_non_exhaustive()
    }
}

impl Channel {
    fn new(floor: u64) -> Self {
        let tail = Tail { floor, bytes: 0, items: VecDeque::new() };
        Self { tail: Mutex::new(tail), latest: watch::Sender::new(floor), followers: Mutex::default() }
    }

    /// Takes a reader that got everything up to `cursor` among the followers; `None` when it is behind them.
    fn follow(
        self: &Arc<Self>,
        reader: Reader,
        cursor: u64,
        outlet: Arc<dyn Outlet>,
    ) -> Option<(Following, bool)> {
        let mut followers = self.followers.lock();
        if followers.all.is_empty() {
            followers.passed = cursor;
        }
        if cursor < followers.passed || cursor < self.floor() {
            return None;
        }
        let id = followers.next_id;
        followers.next_id += 1;
        let (ended, told) = oneshot::channel();
        followers.all.push(Follower { id, reader, outlet, cursor, ended });
        let first = !std::mem::replace(&mut followers.forwarded, true);
        Some((Following { id, told, channel: Arc::clone(self) }, first))
    }

    fn leave(&self, id: u64) {
        let mut followers = self.followers.lock();
        if let Some(index) = followers.all.iter().position(|follower| follower.id == id) {
            followers.all.swap_remove(index);
        }
        if followers.all.is_empty() {
            // The forwarding task sees that it is not needed.
            self.latest.send_modify(|_| ());
        }
    }

    /// One turn of the forwarding task.
    fn forward(&self, session: SessionId, view: &dyn SessionView) -> Next {
        let mut followers = self.followers.lock();
        let parties = view.session(session);
        // The others find out by themselves, and say so to their clients.
        followers.retain(|follower| follower.reader.is_owner(parties));
        if followers.all.is_empty() {
            followers.forwarded = false;
            return Next::End;
        }
        let turn = (TURN / followers.all.len()).max(1);
        let Some(batch) = self.after(followers.passed, turn) else {
            // Behind the tail, and so are the readers: they read the store.
            followers.retain(|_| false);
            return Next::Again;
        };
        for live in &batch {
            followers.passed = live.cursor;
            if live.is_current(view) {
                followers.push(live);
            }
        }
        if batch.is_empty() { Next::Wait } else { Next::Again }
    }

    /// Gives followers what comes, for as long as there are any.
    async fn forward_all(self: Arc<Self>, session: SessionId, view: Arc<dyn SessionView>) {
        let mut news = self.latest.subscribe();
        loop {
            news.borrow_and_update();
            match self.forward(session, view.as_ref()) {
                Next::Again => yield_now().await,
                Next::Wait => {
                    // An error means that the sender is gone, which is ours.
                    let _ = timeout(IDENTITY_CHECK, news.changed()).await;
                }
                Next::End => return,
            }
        }
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

/// All sessions somebody reads, each with the number of its readers.
#[derive(Debug, Default)]
pub(crate) struct Channels(Mutex<HashMap<SessionKey, (Arc<Channel>, usize)>>);

impl Channels {
    /// Joins a session. `latest` gives the store's last cursor; it is asked while no frame can be published.
    pub(crate) fn join(
        self: &Arc<Self>,
        session: SessionKey,
        latest: impl FnOnce() -> Result<u64, StoreError>,
    ) -> Result<Seat, StoreError> {
        let mut channels = self.0.lock();
        let channel = match channels.get_mut(&session) {
            Some((channel, readers)) => {
                *readers += 1;
                Arc::clone(channel)
            }
            None => {
                let channel = Arc::new(Channel::new(latest()?));
                channels.insert(session, (Arc::clone(&channel), 1));
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
        if let Some((channel, _)) = channels.get(&session) {
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

impl Seat {
    /// Lets the reader of this seat follow from `cursor`; `None` when it is behind and has to pull first.
    pub(crate) fn follow(
        &self,
        reader: Reader,
        cursor: u64,
        outlet: Arc<dyn Outlet>,
        view: &Arc<dyn SessionView>,
    ) -> Option<Following> {
        let (following, first) = self.channel.follow(reader, cursor, outlet)?;
        if first {
            let session = self.session.session();
            tokio::spawn(Arc::clone(&self.channel).forward_all(session, Arc::clone(view)));
        }
        Some(following)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut channels = self.channels.0.lock();
        if let Some((_, readers)) = channels.get_mut(&self.session) {
            *readers -= 1;
            if *readers == 0 {
                channels.remove(&self.session);
            }
        }
    }
}

/// A reader that follows, until this is dropped.
#[derive(Debug)]
pub(crate) struct Following {
    id: u64,
    told: oneshot::Receiver<u64>,
    channel: Arc<Channel>,
}

impl Following {
    /// Waits until the reader does not follow any more; gives the cursor up to which it got everything.
    pub(crate) async fn ended(&mut self) -> Option<u64> {
        (&mut self.told).await.ok()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.channel.leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{JOB, SESSION, Scene};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A buffer with room for so many frames.
    #[derive(Default)]
    struct Buffer {
        room: AtomicUsize,
        cursors: Mutex<Vec<u64>>,
    }

    impl Buffer {
        fn with_room(room: usize) -> Arc<Self> {
            Arc::new(Self { room: room.into(), ..Self::default() })
        }
    }

    impl Outlet for Buffer {
        fn push(&self, live: &Live) -> Pushed {
            if self.cursors.lock().len() >= self.room.load(Ordering::Relaxed) {
                return Pushed::Full;
            }
            self.cursors.lock().push(live.cursor);
            Pushed::Taken
        }
    }

    struct Place {
        scene: Scene,
        view: Arc<dyn SessionView>,
        channels: Arc<Channels>,
        seat: Seat,
        reader: Reader,
    }

    impl Place {
        fn new() -> Self {
            let scene = Scene::new();
            let view: Arc<dyn SessionView> = scene.view.clone();
            let parties = view.session(SESSION).unwrap();
            let session = SessionKey::new(SESSION, parties.create_transaction);
            let channels = Arc::<Channels>::default();
            let seat = channels.join(session, || Ok(0)).unwrap();
            Self { scene, view, channels, seat, reader: Reader { session, user: parties.user } }
        }

        fn follow(&self, cursor: u64, buffer: &Arc<Buffer>) -> Option<Following> {
            self.seat.follow(self.reader, cursor, Arc::clone(buffer) as Arc<dyn Outlet>, &self.view)
        }

        fn publish(&self, cursors: std::ops::RangeInclusive<u64>) {
            let subject = self.view.job(JOB).unwrap().subject.id();
            for cursor in cursors {
                let live = || Live::new(cursor, subject, JOB, b"{}");
                self.channels.publish(self.reader.session, live).unwrap();
            }
        }

        /// Lets the forwarding task do what there is to do.
        async fn settle(&self) {
            for _ in 0..1_000 {
                yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn followers_get_each_frame_once_and_a_full_one_pulls_from_where_it_is() {
        let place = Place::new();
        let (roomy, small) = (Buffer::with_room(1_000), Buffer::with_room(3));
        let first = place.follow(0, &roomy).unwrap();
        place.publish(1..=2);
        place.settle().await;
        assert!(place.follow(1, &small).is_none(), "it is behind the others and has to pull");
        let mut second = place.follow(2, &small).unwrap();
        place.publish(3..=10);
        assert_eq!(second.ended().await, Some(5));
        assert_eq!(*small.cursors.lock(), [3, 4, 5]);
        assert_eq!(*roomy.cursors.lock(), (1..=10).collect::<Vec<_>>());

        // What it missed it pulls, and follows again.
        let missed: Vec<u64> =
            place.seat.channel.after(5, 64).unwrap().iter().map(|live| live.cursor).collect();
        assert_eq!(missed, [6, 7, 8, 9, 10]);
        small.room.store(1_000, Ordering::Relaxed);
        drop(second);
        let second = place.follow(10, &small).unwrap();
        place.publish(11..=11);
        place.settle().await;
        assert_eq!(small.cursors.lock().last(), Some(&11));
        drop((first, second));
        place.publish(12..=12);
        place.settle().await;
        assert_eq!(roomy.cursors.lock().last(), Some(&11), "nobody follows any more");
    }

    #[tokio::test]
    async fn followers_far_behind_the_tail_read_the_store() {
        let place = Place::new();
        let buffer = Buffer::with_room(10_000);
        let mut following = place.follow(0, &buffer).unwrap();
        // More than the tail holds before the forwarding task gets its turn.
        place.publish(1..=TAIL_FRAMES as u64 + 1);
        assert_eq!(following.ended().await, Some(0));
        assert!(buffer.cursors.lock().is_empty());
        assert!(place.follow(0, &buffer).is_none());
    }

    #[tokio::test]
    async fn a_session_that_is_another_one_ends_following() {
        let place = Place::new();
        let buffer = Buffer::with_room(10);
        let mut following = place.follow(0, &buffer).unwrap();
        place.publish(1..=1);
        place.settle().await;
        let other = Address::repeat_byte(0x77);
        place.scene.view.add_session(SESSION, other, other, 9);
        place.publish(2..=2);
        assert_eq!(following.ended().await, Some(1));
        assert_eq!(*buffer.cursors.lock(), [1]);
    }
}
