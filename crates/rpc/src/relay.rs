//! The relay: takes frames from a session's worker, keeps them, hands them to the session's owner.

use crate::{
    error::LcaiError,
    fanout::{Channels, Following, IDENTITY_CHECK, Live, Outlet, Reader, Seat},
    session_view::{JobView, SessionView},
    store::{
        FrameClass, FrameStore, JobFate, NewFrame, Placed, SessionKey, StoreError, Terminal, WriteRefusal,
    },
};
use alloy_primitives::{Address, B256, keccak256};
use lcai_primitives::{
    contracts::{Deployment, JobState},
    frames::{Envelope, Frame, FrameType},
    ids::{JobId, SessionId},
};
use metrics::counter;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

/// Frames one call may bring.
pub const MAX_FRAMES_PER_CALL: usize = 256;
/// Chunks of one job that are taken: each leaves a trace until the frames of its session are dropped.
const MAX_JOB_CHUNKS: u32 = 65_536;
/// Bytes one session may keep beside the complete frames of its undecided jobs.
pub const DEFAULT_SESSION_CAP: u64 = 8 * 1024 * 1024;
/// Requests waiting for the writer.
const WRITE_QUEUE: usize = 256;
/// JSON of frames waiting for the writer, over all requests, in KiB.
const WRITE_QUEUE_KIB: usize = 64 * 1024;
/// Frames and JSON bytes in one transaction of the writer. It takes what waits and never waits for more, so a batch
/// lasts as long as one commit to disk.
const BATCH_FRAMES: usize = 4096;
/// Frames a reader takes at once, and their JSON bytes when they come from the store.
const READ_FRAMES: usize = 64;
const READ_BYTES: usize = 1024 * 1024;
/// How often the view is asked again while a caller is ahead of it.
const VIEW_POLL: Duration = Duration::from_millis(25);

/// Bounds and times.
#[derive(Debug, Clone, Copy)]
pub struct RelayConfig {
    /// Where responses are signed for.
    pub deployment: Deployment,
    /// Seconds that frames of settled jobs are kept.
    pub retention: u64,
    /// Readers at once.
    pub max_readers: usize,
    /// How long a caller that is ahead of the node's view of the chain waits for it.
    pub catch_up: Duration,
    /// How often complete frames are compared with the chain.
    pub compare_every: Duration,
    /// How often old frames are dropped.
    pub prune_every: Duration,
}

impl RelayConfig {
    /// Seven days, 20,000 readers, two seconds of patience.
    pub const fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            retention: 7 * 24 * 3600,
            max_readers: 20_000,
            catch_up: Duration::from_secs(2),
            compare_every: Duration::from_secs(2),
            prune_every: Duration::from_secs(3600),
        }
    }
}

/// What the relay has counted since start; the same numbers are metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// Frames kept.
    pub kept: u64,
    /// Frames that were there already.
    pub duplicates: u64,
    /// Complete frames whose signature is not the worker's.
    pub bad_signatures: u64,
    /// Jobs whose `JobCompleted` commits to another answer than the complete frame.
    pub mismatches: u64,
    /// Readers that were cut because they were too slow.
    pub cut_readers: u64,
    /// Readers now.
    pub readers: u64,
}

#[derive(Debug, Default)]
struct Counters {
    kept: AtomicU64,
    duplicates: AtomicU64,
    bad_signatures: AtomicU64,
    mismatches: AtomicU64,
    cut_readers: AtomicU64,
    readers: AtomicUsize,
}

struct WriteRequest {
    frames: Vec<NewFrame>,
    reply: oneshot::Sender<Result<Vec<Placed>, LcaiError>>,
    room: OwnedSemaphorePermit,
}

/// What the writer's thread and the callers share.
struct Shared {
    store: FrameStore,
    view: Arc<dyn SessionView>,
    channels: Arc<Channels>,
    counters: Counters,
    /// Complete frames that wait for the chain's hash.
    pending: Mutex<HashMap<B256, (JobId, B256)>>,
}

/// The relay. Cheap to share behind an `Arc`; [`Relay::run`] must be running for the comparison with the chain.
pub struct Relay {
    shared: Arc<Shared>,
    config: RelayConfig,
    writer: Mutex<Option<mpsc::Sender<WriteRequest>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    room: Arc<Semaphore>,
    seats: Arc<Semaphore>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Relay {
    /// Starts the writer's thread on an opened store.
    ///
    /// # Errors
    /// On a storage fault, or when the thread cannot be started.
    pub fn new(
        store: FrameStore,
        view: Arc<dyn SessionView>,
        config: RelayConfig,
    ) -> Result<Self, StoreError> {
        let waiting = store.uncompared()?;
        let pending = waiting.into_iter().map(|t| (t.subject, (t.job, t.ciphertext_hash))).collect();
        let shared = Arc::new(Shared {
            store,
            view,
            channels: Arc::default(),
            counters: Counters::default(),
            pending: Mutex::new(pending),
        });
        let (sender, receiver) = mpsc::channel(WRITE_QUEUE);
        let thread = std::thread::Builder::new()
            .name("lcai-frames".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write_loop(&shared, receiver)
            })
            .map_err(|e| StoreError::Database(redb::Error::Io(e)))?;
        Ok(Self {
            shared,
            config,
            writer: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            room: Arc::new(Semaphore::new(WRITE_QUEUE_KIB)),
            seats: Arc::new(Semaphore::new(config.max_readers)),
        })
    }

    /// What was counted since start.
    pub fn stats(&self) -> RelayStats {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RelayStats {
            kept: read(&counters.kept),
            duplicates: read(&counters.duplicates),
            bad_signatures: read(&counters.bad_signatures),
            mismatches: read(&counters.mismatches),
            cut_readers: read(&counters.cut_readers),
            readers: counters.readers.load(Ordering::Relaxed) as u64,
        }
    }

    /// Sessions somebody reads now.
    pub fn sessions_read(&self) -> usize {
        self.shared.channels.len()
    }

    /// Stops taking frames and waits until the ones already taken are durable.
    pub async fn close(&self) {
        drop(self.writer.lock().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // The thread ends once it has answered what waits in its queue.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    /// Compares complete frames with the chain and drops what is too old, for ever.
    pub async fn run(&self) {
        let mut compare = tokio::time::interval(self.config.compare_every);
        let mut prune =
            tokio::time::interval_at(Instant::now() + self.config.prune_every, self.config.prune_every);
        loop {
            let done = tokio::select! {
                _ = compare.tick() => self.compare().await.map(|_| ()),
                _ = prune.tick() => self.prune().await,
            };
            if let Err(error) = done {
                tracing::error!(%error, "relay upkeep failed; trying again later");
            }
        }
    }

    /// Takes frames from a worker and answers once they are durable: all of them, or none. Gives each one's cursor; a
    /// duplicate gets the first one's.
    ///
    /// # Errors
    /// `FrameRefused` names the first frame that is not to be relayed, `NotYet` means that the node has not seen the
    /// job or its acknowledgement so far, `Internal` a storage fault.
    pub async fn submit(&self, account: Address, frames: Vec<Frame>) -> Result<Vec<u64>, LcaiError> {
        self.submit_charged(account, frames, |_| Ok(())).await
    }

    /// As [`Self::submit`]; `charge` is told the number once the caller is known to serve the jobs, before what costs.
    pub(crate) async fn submit_charged(
        &self,
        account: Address,
        frames: Vec<Frame>,
        charge: impl FnOnce(usize) -> Result<(), LcaiError> + Send,
    ) -> Result<Vec<u64>, LcaiError> {
        if frames.len() > MAX_FRAMES_PER_CALL {
            let text =
                format!("{} frames in one call, at most {MAX_FRAMES_PER_CALL} are taken", frames.len());
            return Err(LcaiError::InvalidParams(text));
        }
        let served = self.served(account, &frames).await?;
        charge(frames.len())?;
        let mut checked = Vec::with_capacity(frames.len());
        for (index, frame) in frames.into_iter().enumerate() {
            let Some((job, session)) = served.get(&(frame.job_id, frame.session_id)) else { continue };
            checked.push(self.check(index, frame, job, *session)?);
        }
        if checked.is_empty() {
            return Ok(Vec::new());
        }
        self.write(checked).await
    }

    /// The jobs that well-formed frames are of, once the caller is known to serve each.
    async fn served(
        &self,
        account: Address,
        frames: &[Frame],
    ) -> Result<HashMap<(JobId, SessionId), (JobView, SessionKey)>, LcaiError> {
        let mut served = HashMap::new();
        for (index, frame) in frames.iter().enumerate() {
            let name = |text: String| LcaiError::FrameRefused(format!("frame {index}: {text}"));
            frame.validate().map_err(|e| name(e.to_string()))?;
            if frame.seq > MAX_JOB_CHUNKS + 1 {
                return Err(name(format!("at most {MAX_JOB_CHUNKS} chunks of a job are taken")));
            }
            if frame.failure.is_some() {
                return Err(name("only a relay makes delivery failures".into()));
            }
            let place = (frame.job_id, frame.session_id);
            if let Entry::Vacant(entry) = served.entry(place) {
                entry.insert(self.job_for(account, index, place.0, place.1).await?);
            }
        }
        Ok(served)
    }

    /// A reader of a session's frames after `cursor`, for its owner.
    ///
    /// # Errors
    /// `Unauthorized` for anybody else, `NotYet` for a session the node has not seen, `QuotaExceeded` when there are
    /// too many readers.
    pub async fn read(
        &self,
        account: Address,
        session: SessionId,
        cursor: u64,
    ) -> Result<FrameReader, LcaiError> {
        let parties = self.wait_for(|| self.shared.view.session(session)).await;
        let parties = parties.ok_or_else(|| {
            LcaiError::NotYet(format!("session {session} is not on the chain as far as this node sees"))
        })?;
        if parties.user != account {
            return Err(LcaiError::Unauthorized(format!("session {session} belongs to another account")));
        }
        let latest = self.shared.store.latest(session).map_err(|e| fault(&e))?;
        if cursor > latest {
            return Err(LcaiError::InvalidParams(format!(
                "cursor {cursor} is beyond the session's last frame, {latest}; start from 0"
            )));
        }
        let permit = Arc::clone(&self.seats).try_acquire_owned();
        let permit = permit.map_err(|_| LcaiError::QuotaExceeded("too many readers on this node".into()))?;
        let key = SessionKey::new(session, parties.create_transaction);
        let seat =
            self.shared.channels.join(key, || self.shared.store.latest(session)).map_err(|e| fault(&e))?;
        self.shared.counters.readers.fetch_add(1, Ordering::Relaxed);
        Ok(FrameReader {
            shared: Arc::clone(&self.shared),
            seat,
            reader: Reader { session: key, user: account },
            cursor,
            missed: 0,
            _permit: permit,
        })
    }

    /// A job's complete frame as relayed: signature and ciphertext hash, and the ciphertext while it is kept.
    pub(crate) async fn terminal(
        &self,
        subject: B256,
    ) -> Result<Option<(Terminal, Option<Vec<u8>>)>, LcaiError> {
        let shared = Arc::clone(&self.shared);
        let found = blocking(move || {
            let Some(terminal) = shared.store.terminal(subject)? else { return Ok(None) };
            let kept = shared.store.frame(terminal.session, terminal.cursor)?;
            Ok(Some((terminal, kept)))
        });
        let Some((terminal, kept)) = found.await? else { return Ok(None) };
        let frame = kept.and_then(|k| serde_json::from_slice::<Frame>(&k.json).ok());
        Ok(Some((terminal, frame.map(|f| f.payload))))
    }

    /// Compares the complete frames that wait with what the chain says now. Gives the number of comparisons made.
    ///
    /// # Errors
    /// On a storage fault; the comparison is then made again.
    pub async fn compare(&self) -> Result<usize, LcaiError> {
        let waiting: Vec<_> = self.shared.pending.lock().iter().map(|(s, (j, h))| (*s, *j, *h)).collect();
        let mut done = Vec::new();
        for (subject, job, hash) in waiting {
            let Some(view) = self.shared.view.job(job).filter(|v| v.subject.id() == subject) else {
                continue;
            };
            match view.response_ciphertext_hash {
                Some(committed) if committed != hash => {
                    self.shared.counters.mismatches.fetch_add(1, Ordering::Relaxed);
                    counter!("lcai_relay_response_mismatches_total").increment(1);
                    tracing::warn!(%job, worker = %view.worker, relayed = %hash, %committed, "the worker committed another answer than it signed");
                    done.push(subject);
                }
                Some(_) => done.push(subject),
                None if view.is_settled() => done.push(subject),
                None => {}
            }
        }
        if !done.is_empty() {
            let (shared, subjects) = (Arc::clone(&self.shared), done.clone());
            blocking(move || shared.store.mark_compared(&subjects)).await?;
            let mut pending = self.shared.pending.lock();
            pending.retain(|subject, _| !done.contains(subject));
        }
        Ok(done.len())
    }

    async fn prune(&self) -> Result<(), LcaiError> {
        let (shared, retention) = (Arc::clone(&self.shared), self.config.retention);
        let now = crate::unix_now();
        let dropped = blocking(move || {
            let fate = |job, subject| JobFate::of(subject, shared.view.job(job));
            let dropped = shared.store.prune(now, retention, &fate)?;
            let left = shared
                .store
                .uncompared()?
                .into_iter()
                .map(|t| (t.subject, (t.job, t.ciphertext_hash)))
                .collect();
            *shared.pending.lock() = left;
            Ok(dropped)
        })
        .await?;
        if dropped > 0 {
            tracing::info!(rows = dropped, "old frames dropped");
        }
        Ok(())
    }

    /// The job as the chain has it, once the caller is known to serve it and it takes frames.
    async fn job_for(
        &self,
        account: Address,
        index: usize,
        job: JobId,
        session: SessionId,
    ) -> Result<(JobView, SessionKey), LcaiError> {
        let lookup = || {
            let view = self
                .shared
                .view
                .job(job)
                .filter(|v| v.state != JobState::Submitted || v.worker != account)?;
            Some((view, self.shared.view.session(session)?))
        };
        let not_yet = || {
            LcaiError::NotYet(format!(
                "frame {index}: job {job} is not acknowledged as far as this node sees"
            ))
        };
        let (view, parties) = self.wait_for(lookup).await.ok_or_else(not_yet)?;
        let refused = |text| Err(LcaiError::FrameRefused(format!("frame {index}: {text}")));
        if view.worker != account {
            counter!("lcai_relay_frames_refused_total", "reason" => "worker").increment(1);
            return refused(format!("job {job} is served by {}, not by {account}", view.worker));
        }
        if view.subject.session_id != session {
            return refused(format!(
                "job {job} belongs to session {}, not {session}",
                view.subject.session_id
            ));
        }
        Ok((view, SessionKey::new(session, parties.create_transaction)))
    }

    fn check(
        &self,
        index: usize,
        frame: Frame,
        job: &JobView,
        session: SessionKey,
    ) -> Result<NewFrame, LcaiError> {
        let (class, terminal) = match frame.frame_type {
            FrameType::Chunk => (FrameClass::Chunk, None),
            FrameType::Metadata => (FrameClass::Metadata, None),
            FrameType::Error => (FrameClass::Error, None),
            FrameType::Complete => (FrameClass::Complete, Some(self.check_signature(index, &frame, job)?)),
        };
        Ok(NewFrame {
            session,
            subject: job.subject.id(),
            job: frame.job_id,
            class,
            seq: frame.seq,
            terminal,
            repeat_only: !matches!(job.state, JobState::Acknowledged | JobState::Completed),
            json: frame.to_json(),
        })
    }

    /// The worker's signature over the response digest (live wire format, section 6.1).
    fn check_signature(
        &self,
        index: usize,
        frame: &Frame,
        job: &JobView,
    ) -> Result<(B256, [u8; 65]), LcaiError> {
        let deployment = &self.config.deployment;
        let signature = frame.signature.unwrap_or_default().0;
        let signer = lcai_crypto::recover_response(
            deployment.chain_id,
            deployment.job_registry,
            frame.job_id,
            frame.session_id,
            &frame.payload,
            &signature,
        );
        if signer.ok() != Some(job.worker) {
            self.shared.counters.bad_signatures.fetch_add(1, Ordering::Relaxed);
            counter!("lcai_relay_frames_refused_total", "reason" => "signature").increment(1);
            let text = format!("frame {index}: the signature over the response is not by {}", job.worker);
            return Err(LcaiError::FrameRefused(text));
        }
        Ok((keccak256(&frame.payload), signature))
    }

    async fn write(&self, frames: Vec<NewFrame>) -> Result<Vec<u64>, LcaiError> {
        let closed = || LcaiError::Internal("the relay is shutting down".into());
        let bytes: usize = frames.iter().map(|f| f.json.len()).sum();
        let kib = u32::try_from(bytes.div_ceil(1024).clamp(1, WRITE_QUEUE_KIB)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| closed())?;
        let sender = self.writer.lock().clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        sender.send(WriteRequest { frames, reply, room }).await.map_err(|_| closed())?;
        let placed = answer.await.map_err(|_| closed())??;
        Ok(placed.into_iter().map(|p| p.cursor).collect())
    }

    /// Asks until there is an answer, for as long as a caller may be ahead of the node's view.
    async fn wait_for<T>(&self, ask: impl Fn() -> Option<T>) -> Option<T> {
        let until = Instant::now() + self.config.catch_up;
        loop {
            let found = ask();
            if found.is_some() || Instant::now() >= until {
                return found;
            }
            sleep(VIEW_POLL).await;
        }
    }
}

/// Reads one session's frames in order.
pub struct FrameReader {
    shared: Arc<Shared>,
    seat: Seat,
    reader: Reader,
    cursor: u64,
    /// Frames before the next one that are not kept any more.
    missed: u64,
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader")
            .field("session", &self.reader.session)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Drop for FrameReader {
    fn drop(&mut self) {
        self.shared.counters.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FrameReader {
    /// The cursor up to which [`Self::next`] has given frames.
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Waits for the next frames, at least one. Frames of a job that is another one on this fork are left out. Cancel
    /// safe.
    ///
    /// # Errors
    /// `NotFound` when a reorganisation gave the session's number to another session, `Internal` on a storage fault.
    pub async fn next(&mut self) -> Result<Vec<Arc<Live>>, LcaiError> {
        loop {
            self.check_identity()?;
            self.seat.news.borrow_and_update();
            let batch = match self.seat.channel.after(self.cursor, READ_FRAMES) {
                Some(batch) => batch,
                None => self.read_store().await?,
            };
            let batch = self.telling_gaps(batch)?;
            let Some(last) = batch.last() else {
                // An error means that the sender is gone, which our seat prevents.
                let _ = timeout(IDENTITY_CHECK, self.seat.news.changed()).await;
                continue;
            };
            self.cursor = last.cursor;
            let view = self.shared.view.as_ref();
            let batch: Vec<_> = batch.into_iter().filter(|live| live.is_current(view)).collect();
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// Has what comes from now on put into `outlet`, if the reader has everything so far. Once [`Following::ended`] tells a
    /// cursor, [`Self::resume`] goes on from there.
    pub(crate) fn follow(&self, outlet: Arc<dyn Outlet>) -> Option<Following> {
        self.seat.follow(self.reader, self.cursor, outlet, &self.shared.view)
    }

    /// Goes on after `cursor`, up to which its client has everything.
    pub(crate) fn resume(&mut self, cursor: u64) {
        self.cursor = self.cursor.max(cursor);
    }

    /// Counts this reader as too slow and gives the error that ends it.
    pub(crate) fn cut(&self, delivered: u64) -> LcaiError {
        self.shared.counters.cut_readers.fetch_add(1, Ordering::Relaxed);
        counter!("lcai_relay_readers_cut_total").increment(1);
        LcaiError::SlowReader { resume_from: delivered }
    }

    /// The store's frames after the cursor. When there are none although the tail begins later, they were dropped by
    /// the byte cap, and reading goes on where the tail begins.
    async fn read_store(&mut self) -> Result<Vec<Arc<Live>>, LcaiError> {
        let (shared, key, cursor) = (Arc::clone(&self.shared), self.reader.session, self.cursor);
        let kept = blocking(move || {
            let kept = shared.store.read(key, cursor, READ_FRAMES, READ_BYTES)?;
            kept.iter().map(|k| Live::kept(k).map(Arc::new)).collect::<Result<Vec<_>, _>>()
        })
        .await?;
        if kept.is_empty() {
            let floor = self.seat.channel.floor();
            self.missed = self.missed.saturating_add(floor.saturating_sub(self.cursor));
            self.cursor = self.cursor.max(floor);
        }
        Ok(kept)
    }

    /// A session's cursors have no gaps but where frames were dropped, which the next envelope tells.
    fn telling_gaps(&mut self, mut batch: Vec<Arc<Live>>) -> Result<Vec<Arc<Live>>, LcaiError> {
        let mut before = self.cursor;
        for live in &mut batch {
            let gap = live.cursor.saturating_sub(before).saturating_sub(1);
            let missed = std::mem::take(&mut self.missed).saturating_add(gap);
            if missed > 0 {
                *live = Arc::new(live.after_gap(missed).map_err(|e| fault(&e))?);
            }
            before = live.cursor;
        }
        Ok(batch)
    }

    fn check_identity(&self) -> Result<(), LcaiError> {
        let session = self.reader.session.session();
        if self.reader.is_owner(self.shared.view.session(session)) {
            return Ok(());
        }
        Err(LcaiError::NotFound(format!("session {session} is another one since a reorganisation")))
    }
}

/// Parses what a reader got.
///
/// # Errors
/// `Internal` when the store holds something else than envelopes.
pub fn envelopes(batch: &[Arc<Live>]) -> Result<Vec<Envelope>, LcaiError> {
    let parse = |live: &Arc<Live>| serde_json::from_str(live.envelope.get());
    batch.iter().map(parse).collect::<Result<_, _>>().map_err(|_| fault(&StoreError::Corrupt("frames")))
}

fn fault(error: &StoreError) -> LcaiError {
    tracing::error!(%error, "frame store");
    LcaiError::Internal("the node's frame store failed".into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, LcaiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| LcaiError::Internal("a task of the node's frame store ended early".into()))?
        .map_err(|e| fault(&e))
}

/// Group commit: whatever waits is written in one transaction, then published, then answered.
fn write_loop(shared: &Shared, mut queue: mpsc::Receiver<WriteRequest>) {
    while let Some(first) = queue.blocking_recv() {
        let mut count = first.frames.len();
        let mut batch = vec![first];
        while count < BATCH_FRAMES {
            let Ok(next) = queue.try_recv() else { break };
            count += next.frames.len();
            batch.push(next);
        }
        write_batch(shared, batch);
    }
}

fn write_batch(shared: &Shared, batch: Vec<WriteRequest>) {
    let (frames, replies): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|r| (r.frames, (r.reply, r.room))).unzip();
    let fate = |job, subject| JobFate::of(subject, shared.view.job(job));
    match shared.store.write(&frames, crate::unix_now(), &fate) {
        Ok(answers) => {
            for ((frames, (reply, _room)), answer) in frames.into_iter().zip(replies).zip(answers) {
                let answer = answer.map_err(refused);
                if let Ok(placed) = &answer {
                    publish(shared, &frames, placed);
                }
                // A caller that is gone has its frames kept all the same.
                let _ = reply.send(answer);
            }
        }
        Err(error) => {
            let error = fault(&error);
            for (reply, _room) in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}

fn publish(shared: &Shared, frames: &[NewFrame], placed: &[Placed]) {
    for (frame, place) in frames.iter().zip(placed) {
        if !place.fresh {
            shared.counters.duplicates.fetch_add(1, Ordering::Relaxed);
            counter!("lcai_relay_frames_duplicate_total").increment(1);
            continue;
        }
        shared.counters.kept.fetch_add(1, Ordering::Relaxed);
        counter!("lcai_relay_frames_total").increment(1);
        if let Some((hash, _)) = frame.terminal {
            shared.pending.lock().insert(frame.subject, (frame.job, hash));
        }
        let live = || Live::new(place.cursor, frame.subject, frame.job, &frame.json);
        if let Err(error) = shared.channels.publish(frame.session, live) {
            tracing::error!(%error, "a frame could not be published; readers get it when they resume");
        }
    }
}

fn refused(refusal: WriteRefusal) -> LcaiError {
    let reason = match refusal {
        WriteRefusal::SecondAnswer(_) => "second answer",
        WriteRefusal::TooLate(_) => "too late",
    };
    counter!("lcai_relay_frames_refused_total", "reason" => reason).increment(1);
    LcaiError::FrameRefused(refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{JOB, SESSION, Scene, chunk};
    use alloy_signer_local::PrivateKeySigner;
    use lcai_primitives::frames::{DeliveryFailure, FrameSignature};
    use tempfile::tempdir;

    const CAP: u64 = 1 << 20;

    async fn seqs(reader: &mut FrameReader, count: usize) -> Vec<(u64, u32)> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let batch = envelopes(&reader.next().await.unwrap()).unwrap();
            seen.extend(batch.iter().map(|e| (e.cursor, e.frame.seq)));
        }
        seen
    }

    #[tokio::test]
    async fn frames_reach_the_owner_in_order_and_only_the_owner() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), CAP);
        let mut reader = relay.read(scene.user.address(), SESSION, 0).await.unwrap();
        let worker = scene.worker.address();
        assert_eq!(relay.submit(worker, vec![chunk(JOB, 1, 40), chunk(JOB, 2, 40)]).await, Ok(vec![1, 2]));
        assert_eq!(
            relay.submit(worker, vec![chunk(JOB, 2, 40), scene.complete(JOB, 2, vec![9; 50])]).await,
            Ok(vec![2, 3])
        );
        assert_eq!(seqs(&mut reader, 3).await, [(1, 1), (2, 2), (3, 3)]);
        let stranger = PrivateKeySigner::random().address();
        for account in [stranger, worker] {
            assert!(matches!(relay.read(account, SESSION, 0).await, Err(LcaiError::Unauthorized(_))));
        }
        assert!(matches!(relay.read(stranger, SessionId(99), 0).await, Err(LcaiError::NotYet(_))));
        assert!(matches!(
            relay.read(scene.user.address(), SESSION, 4).await,
            Err(LcaiError::InvalidParams(_))
        ));
        let stats = relay.stats();
        assert_eq!((stats.kept, stats.duplicates, stats.readers), (3, 1, 1));
        drop(reader);
        assert_eq!((relay.stats().readers, relay.sessions_read()), (0, 0));
    }

    #[tokio::test]
    async fn frames_that_are_not_the_workers_are_refused() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), CAP);
        let worker = scene.worker.address();
        scene.view.add_session(SessionId(4), scene.user.address(), worker, 2);
        scene.view.add_job(JobId(8), SessionId(4), JobState::Acknowledged, 2);
        let refused = async |account, frame| match relay.submit(account, vec![chunk(JOB, 1, 40), frame]).await
        {
            Err(LcaiError::FrameRefused(text)) => {
                assert!(text.starts_with("frame 1: ") || text.contains("served by"), "{text}")
            }
            other => panic!("{other:?}"),
        };
        refused(PrivateKeySigner::random().address(), chunk(JOB, 2, 40)).await;
        refused(scene.user.address(), chunk(JOB, 2, 40)).await;
        refused(worker, chunk(JobId(8), 1, 40)).await;
        refused(worker, chunk(JOB, 2, 70_000)).await;
        refused(worker, Frame { seq: 0, ..chunk(JOB, 2, 40) }).await;
        let failure = DeliveryFailure { code: "X".into(), dropped_seq: 1, message: String::new() };
        refused(worker, Frame::delivery_failure(JOB, SESSION, failure, 5)).await;
        let many = (1..300).map(|seq| chunk(JOB, seq, 40)).collect();
        assert!(matches!(relay.submit(worker, many).await, Err(LcaiError::InvalidParams(_))));
        assert_eq!(relay.stats().kept, 0, "a refused call keeps nothing");
        assert_eq!(relay.submit(worker, Vec::new()).await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn the_terminal_frame_must_carry_the_workers_signature() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), CAP);
        let worker = scene.worker.address();
        let good = scene.complete(JOB, 0, vec![9; 50]);
        let other_signer = Scene { worker: PrivateKeySigner::random(), ..Scene::new() };
        let bad = [
            Frame { signature: Some(FrameSignature::ZERO), ..good.clone() },
            Frame { payload: vec![8; 50], ..good.clone() },
            other_signer.complete(JOB, 0, vec![9; 50]),
            Frame { signature: scene.complete(JobId(8), 0, vec![9; 50]).signature, ..good.clone() },
        ];
        for frame in bad {
            assert!(matches!(relay.submit(worker, vec![frame]).await, Err(LcaiError::FrameRefused(_))));
        }
        assert_eq!(relay.stats().bad_signatures, 4);
        assert_eq!(relay.submit(worker, vec![good.clone()]).await, Ok(vec![1]));
        let second = scene.complete(JOB, 0, vec![7; 50]);
        assert!(matches!(relay.submit(worker, vec![second]).await, Err(LcaiError::FrameRefused(_))));
        let subject = scene.view.job(JOB).unwrap().subject.id();
        let (terminal, ciphertext) = relay.terminal(subject).await.unwrap().unwrap();
        assert_eq!(ciphertext, Some(vec![9; 50]));
        assert_eq!(terminal.ciphertext_hash, keccak256([9; 50]));
        assert_eq!(Some(terminal.signature), good.signature.map(|s| s.0));
    }

    #[tokio::test]
    async fn the_jobs_state_decides() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), CAP);
        let worker = scene.worker.address();
        let set = |state| scene.view.change(JOB, |job| job.state = state);
        set(JobState::Submitted);
        assert!(matches!(relay.submit(worker, vec![chunk(JOB, 1, 40)]).await, Err(LcaiError::NotYet(_))));
        let stranger = PrivateKeySigner::random().address();
        assert!(matches!(
            relay.submit(stranger, vec![chunk(JOB, 1, 40)]).await,
            Err(LcaiError::FrameRefused(_))
        ));
        assert!(matches!(
            relay.submit(worker, vec![chunk(JobId(99), 1, 40)]).await,
            Err(LcaiError::NotYet(_))
        ));
        set(JobState::Acknowledged);
        assert_eq!(relay.submit(worker, vec![chunk(JOB, 1, 40)]).await, Ok(vec![1]));
        set(JobState::Completed);
        assert_eq!(relay.submit(worker, vec![scene.complete(JOB, 1, vec![9; 50])]).await, Ok(vec![2]));
        set(JobState::Released);
        assert_eq!(
            relay.submit(worker, vec![chunk(JOB, 1, 40)]).await,
            Ok(vec![1]),
            "a repetition is confirmed"
        );
        assert!(matches!(
            relay.submit(worker, vec![chunk(JOB, 2, 40)]).await,
            Err(LcaiError::FrameRefused(_))
        ));
    }

    #[tokio::test]
    async fn a_reader_resumes_after_a_restart_without_gap_or_repetition() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), CAP);
        let (worker, user) = (scene.worker.address(), scene.user.address());
        relay.submit(worker, (1..=5).map(|seq| chunk(JOB, seq, 40)).collect()).await.unwrap();
        let mut reader = relay.read(user, SESSION, 0).await.unwrap();
        assert_eq!(seqs(&mut reader, 5).await.len(), 5);
        drop(reader);
        relay.close().await;
        assert!(matches!(relay.submit(worker, vec![chunk(JOB, 6, 40)]).await, Err(LcaiError::Internal(_))));
        drop(relay);
        let relay = scene.relay(dir.path(), CAP);
        let mut reader = relay.read(user, SESSION, 3).await.unwrap();
        assert_eq!(relay.submit(worker, vec![chunk(JOB, 5, 40), chunk(JOB, 6, 40)]).await, Ok(vec![5, 6]));
        assert_eq!(seqs(&mut reader, 3).await, [(4, 4), (5, 5), (6, 6)]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn readers_that_come_and_go_while_frames_flow_see_each_frame_once() {
        const FRAMES: u32 = 1_500;
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = Arc::new(scene.relay(dir.path(), 64 << 20));
        let (worker, user) = (scene.worker.address(), scene.user.address());
        let writer = tokio::spawn({
            let relay = Arc::clone(&relay);
            async move {
                for seq in (1..=FRAMES).step_by(5) {
                    relay
                        .submit(worker, (seq..seq + 5).map(|s| chunk(JOB, s, 2_000)).collect())
                        .await
                        .unwrap();
                }
            }
        });
        let readers: Vec<_> = (1..=4_usize)
            .map(|stay| {
                let relay = Arc::clone(&relay);
                tokio::spawn(async move {
                    let (mut seen, mut cursor) = (Vec::new(), 0);
                    while seen.len() < FRAMES as usize {
                        let mut reader = relay.read(user, SESSION, cursor).await.unwrap();
                        for _ in 0..stay {
                            if seen.len() == FRAMES as usize {
                                break;
                            }
                            seen.extend(
                                envelopes(&reader.next().await.unwrap()).unwrap().iter().map(|e| e.frame.seq),
                            );
                            cursor = reader.cursor();
                        }
                    }
                    seen
                })
            })
            .collect();
        writer.await.unwrap();
        for reader in readers {
            assert_eq!(reader.await.unwrap(), (1..=FRAMES).collect::<Vec<_>>());
        }
        assert_eq!(relay.sessions_read(), 0);
    }

    #[tokio::test]
    async fn after_a_reorg_another_prompts_frames_are_not_shown_under_the_same_numbers() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), CAP);
        let (worker, user) = (scene.worker.address(), scene.user.address());
        relay.submit(worker, vec![chunk(JOB, 1, 40), chunk(JOB, 2, 40)]).await.unwrap();
        scene.view.add_job(JOB, SESSION, JobState::Acknowledged, 9);
        assert_eq!(
            relay.submit(worker, vec![chunk(JOB, 1, 60)]).await,
            Ok(vec![3]),
            "another subject, not a duplicate"
        );
        let mut reader = relay.read(user, SESSION, 0).await.unwrap();
        assert_eq!(seqs(&mut reader, 1).await, [(3, 1)]);
        let other = PrivateKeySigner::random().address();
        scene.view.add_session(SESSION, other, worker, 9);
        assert!(
            matches!(reader.next().await, Err(LcaiError::NotFound(_))),
            "the number is another session now"
        );
        let mut reader = relay.read(other, SESSION, 0).await.unwrap();
        assert_eq!(relay.submit(worker, vec![chunk(JOB, 2, 60)]).await, Ok(vec![4]));
        assert_eq!(seqs(&mut reader, 1).await, [(4, 2)], "and nothing of the old owner's");
    }

    #[tokio::test]
    async fn another_answer_on_the_chain_is_counted_once_even_after_a_restart() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), CAP);
        let worker = scene.worker.address();
        scene.view.add_job(JobId(8), SESSION, JobState::Acknowledged, 2);
        let frames = vec![scene.complete(JOB, 0, vec![9; 50]), scene.complete(JobId(8), 0, vec![9; 50])];
        relay.submit(worker, frames).await.unwrap();
        assert_eq!(relay.compare().await, Ok(0), "nothing is completed yet");
        relay.close().await;
        drop(relay);
        let relay = scene.relay(dir.path(), CAP);
        scene.view.change(JOB, |job| job.response_ciphertext_hash = Some(keccak256([8; 50])));
        scene.view.change(JobId(8), |job| job.response_ciphertext_hash = Some(keccak256([9; 50])));
        assert_eq!(relay.compare().await, Ok(2));
        assert_eq!(relay.compare().await, Ok(0));
        assert_eq!(relay.stats().mismatches, 1);
        relay.close().await;
        drop(relay);
        assert_eq!(scene.relay(dir.path(), CAP).compare().await, Ok(0));
    }

    #[tokio::test]
    async fn a_reader_older_than_what_the_cap_left_goes_on_with_the_rest() {
        let (scene, dir) = (Scene::new(), tempdir().unwrap());
        let relay = scene.relay(dir.path(), 20_000);
        let worker = scene.worker.address();
        for seq in 1..=40 {
            relay.submit(worker, vec![chunk(JOB, seq, 1_000)]).await.unwrap();
        }
        let mut reader = relay.read(scene.user.address(), SESSION, 1).await.unwrap();
        let batch = envelopes(&reader.next().await.unwrap()).unwrap();
        let seqs: Vec<u32> = batch.iter().map(|e| e.frame.seq).collect();
        let first = seqs[0];
        assert!(first > 20, "{first}");
        assert_eq!(seqs, (first..=40).collect::<Vec<_>>());
        let missed: Vec<u64> = batch.iter().map(|e| e.missed).collect();
        assert_eq!(missed[0], u64::from(first) - 2, "of those after cursor 1");
        assert!(missed[1..].iter().all(|missed| *missed == 0));
        let refused = relay.submit(worker, vec![chunk(JOB, MAX_JOB_CHUNKS + 2, 40)]).await;
        assert!(matches!(refused, Err(LcaiError::FrameRefused(_))));
    }
}
