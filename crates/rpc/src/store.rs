//! Frames on disk: per session in cursor order, each kept once, within a byte cap.
//!
//! Tables (keys big-endian, so that they sort):
//! - frames: session number ‖ creating transaction ‖ cursor → subject ‖ job ‖ class ‖ received at ‖ the frame's JSON
//! - places: subject ‖ class ‖ seq → cursor ‖ job ‖ received at (what makes a resent frame a duplicate)
//! - terminals: subject → the one complete frame of the job, and whether it was compared with the chain
//! - sizes: session number ‖ creating transaction → bytes kept
//! - cursors: session number → last cursor given. Over all forks, so that a reader's cursor never points into the past
//!   of a session that took over the number

use crate::session_view::JobView;
use alloy_primitives::B256;
use lcai_primitives::ids::{JobId, SessionId};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};
use std::{fmt, path::Path};
use thiserror::Error;

type SessionBytes = [u8; 40];
type FrameKey = [u8; 48];
type PlaceKey = [u8; 37];

const FRAMES: TableDefinition<'static, &FrameKey, &[u8]> = TableDefinition::new("frames");
const PLACES: TableDefinition<'static, &PlaceKey, (u64, u64, u64)> = TableDefinition::new("places");
const TERMINALS: TableDefinition<'static, &[u8; 32], &[u8]> = TableDefinition::new("terminals");
const SIZES: TableDefinition<'static, &SessionBytes, u64> = TableDefinition::new("sizes");
const CURSORS: TableDefinition<'static, u64, u64> = TableDefinition::new("cursors");

/// subject ‖ job ‖ class ‖ received at, before a frame's JSON.
const FRAME_HEADER: usize = 32 + 8 + 1 + 8;
/// What a frame counts against the cap beside its JSON: its header, keys, and tree overhead, so that empty frames are
/// not free.
const FRAME_OVERHEAD: u64 = 256;
/// Memory for pages of the file.
const CACHE_BYTES: usize = 64 * 1024 * 1024;
/// Rows deleted in one transaction by [`FrameStore::prune`], so that writers wait little.
const PRUNE_BATCH: usize = 1_000;

/// A storage fault. Holds nothing of the frames.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database.
    #[error("frame store: {0}")]
    Database(#[from] redb::Error),
    /// A record cannot be read.
    #[error("frame store: a record of table {0} cannot be decoded")]
    Corrupt(&'static str),
}

macro_rules! from_redb {
    ($($ty:ident),+) => {$(
        impl From<redb::$ty> for StoreError {
            fn from(error: redb::$ty) -> Self {
                Self::Database(error.into())
            }
        }
    )+};
}
from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

/// A session across forks: its number and the transaction that created it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionKey(SessionBytes);

impl SessionKey {
    /// By its parts.
    pub(crate) fn new(session: SessionId, create_transaction: B256) -> Self {
        let mut key = [0; 40];
        let (number, hash) = key.split_at_mut(8);
        number.copy_from_slice(&session.0.to_be_bytes());
        hash.copy_from_slice(create_transaction.as_slice());
        Self(key)
    }

    /// The session's number.
    pub(crate) fn session(&self) -> SessionId {
        SessionId(self.0.first_chunk().map_or(0, |b| u64::from_be_bytes(*b)))
    }

    fn frame(&self, cursor: u64) -> FrameKey {
        let mut key = [0; 48];
        let (head, tail) = key.split_at_mut(40);
        head.copy_from_slice(&self.0);
        tail.copy_from_slice(&cursor.to_be_bytes());
        key
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}", self.session())
    }
}

/// What kind of frame it is, as far as keeping it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameClass {
    /// A sealed delta.
    Chunk = 0,
    /// The whole sealed answer; one per subject.
    Complete = 1,
    /// The worker gave up; one per subject.
    Error = 2,
    /// Sealed metadata; one per subject.
    Metadata = 3,
}

impl FrameClass {
    const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Chunk),
            1 => Some(Self::Complete),
            2 => Some(Self::Error),
            3 => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// A checked frame to keep.
#[derive(Clone)]
pub(crate) struct NewFrame {
    /// Its session.
    pub(crate) session: SessionKey,
    /// The job's subject id.
    pub(crate) subject: B256,
    /// The job's number.
    pub(crate) job: JobId,
    /// What it is.
    pub(crate) class: FrameClass,
    /// Its place among the job's frames; only counts for chunks.
    pub(crate) seq: u32,
    /// keccak256 of the payload and the signature, for the complete frame.
    pub(crate) terminal: Option<(B256, [u8; 65])>,
    /// Whether it may only be a repetition: the job takes no new frames any more.
    pub(crate) repeat_only: bool,
    /// The frame as it goes to readers.
    pub(crate) json: Vec<u8>,
}

impl NewFrame {
    fn place(&self) -> PlaceKey {
        let seq = if self.class == FrameClass::Chunk { self.seq } else { 0 };
        place_key(&self.subject, self.class, seq)
    }

    const fn size(&self) -> u64 {
        self.json.len() as u64 + FRAME_OVERHEAD
    }
}

/// Where a frame is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Its cursor.
    pub(crate) cursor: u64,
    /// Whether it is kept since now; otherwise it was there already.
    pub(crate) fresh: bool,
}

/// Why a request's frames were not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum WriteRefusal {
    /// Another answer of the worker for the same job is kept already.
    #[error("frame {0}: another complete frame was given for this job before")]
    SecondAnswer(usize),
    /// The job takes no frames any more.
    #[error("frame {0}: the job takes no new frames any more")]
    TooLate(usize),
}

/// A kept frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptFrame {
    /// Its cursor.
    pub(crate) cursor: u64,
    /// The job's subject id.
    pub(crate) subject: B256,
    /// The job's number.
    pub(crate) job: JobId,
    /// What it is.
    pub(crate) class: FrameClass,
    /// Unix seconds of its arrival.
    pub(crate) received_at: u64,
    /// The frame as JSON.
    pub(crate) json: Vec<u8>,
}

/// The complete frame of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terminal {
    /// The job's subject id.
    pub(crate) subject: B256,
    /// The job's number.
    pub(crate) job: JobId,
    /// The session it was given in.
    pub(crate) session: SessionKey,
    /// Its cursor.
    pub(crate) cursor: u64,
    /// keccak256 of its payload.
    pub(crate) ciphertext_hash: B256,
    /// The worker's signature, r ‖ s ‖ v.
    pub(crate) signature: [u8; 65],
    /// Unix seconds of its arrival.
    pub(crate) received_at: u64,
    /// Whether it was compared with the chain's hash.
    pub(crate) compared: bool,
}

const TERMINAL_LEN: usize = 40 + 8 + 8 + 32 + 65 + 8 + 1;

impl Terminal {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TERMINAL_LEN);
        bytes.extend_from_slice(&self.session.0);
        bytes.extend_from_slice(&self.job.0.to_be_bytes());
        bytes.extend_from_slice(&self.cursor.to_be_bytes());
        bytes.extend_from_slice(self.ciphertext_hash.as_slice());
        bytes.extend_from_slice(&self.signature);
        bytes.extend_from_slice(&self.received_at.to_be_bytes());
        bytes.push(self.compared.into());
        bytes
    }

    fn decode(subject: &[u8; 32], bytes: &[u8]) -> Option<Self> {
        let (session, bytes) = bytes.split_first_chunk::<40>()?;
        let (job, bytes) = bytes.split_first_chunk::<8>()?;
        let (cursor, bytes) = bytes.split_first_chunk::<8>()?;
        let (hash, bytes) = bytes.split_first_chunk::<32>()?;
        let (signature, bytes) = bytes.split_first_chunk::<65>()?;
        let (received_at, bytes) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            subject: B256::from(*subject),
            session: SessionKey(*session),
            job: JobId(u64::from_be_bytes(*job)),
            cursor: u64::from_be_bytes(*cursor),
            ciphertext_hash: B256::from(*hash),
            signature: *signature,
            received_at: u64::from_be_bytes(*received_at),
            compared: bytes == [1],
        })
    }
}

/// What became of a job, as far as keeping its frames goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobFate {
    /// Its answer can still be disputed, or has not come.
    Undecided,
    /// Nothing about it can change any more, or another job has its number on this fork.
    Settled,
    /// The chain, as far as followed, has no such job.
    Unknown,
}

impl JobFate {
    /// By what the chain has under the job's number.
    pub(crate) fn of(subject: B256, job: Option<JobView>) -> Self {
        match job {
            None => Self::Unknown,
            Some(job) if job.subject.id() != subject || job.is_settled() => Self::Settled,
            Some(_) => Self::Undecided,
        }
    }
}

/// Tells a job's fate by number and subject id.
pub(crate) type FateOf<'a> = &'a dyn Fn(JobId, B256) -> JobFate;

/// The store. One file, one writer at a time, any number of readers.
pub struct FrameStore {
    db: Database,
    session_cap: u64,
}

impl fmt::Debug for FrameStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStore").field("session_cap", &self.session_cap).finish_non_exhaustive()
    }
}

impl FrameStore {
    /// Opens or creates the file. `session_cap` is what one session may keep, in bytes; the complete frames of its
    /// undecided jobs come on top.
    ///
    /// # Errors
    /// When the file cannot be opened, e.g. because another process has it.
    pub fn open(path: &Path, session_cap: u64) -> Result<Self, StoreError> {
        let db = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let txn = db.begin_write()?;
        txn.open_table(FRAMES)?;
        txn.open_table(PLACES)?;
        txn.open_table(TERMINALS)?;
        txn.open_table(SIZES)?;
        txn.open_table(CURSORS)?;
        txn.commit()?;
        Ok(Self { db, session_cap })
    }

    /// Keeps the frames of several requests in one durable transaction. A request is kept whole or not at all; its
    /// answer says where each frame is. Duplicates get the cursor of the first one.
    pub(crate) fn write(
        &self,
        requests: &[Vec<NewFrame>],
        now: u64,
        fate: FateOf<'_>,
    ) -> Result<Vec<Result<Vec<Placed>, WriteRefusal>>, StoreError> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        let mut answers = Vec::with_capacity(requests.len());
        {
            let mut tables = Tables::open(&txn)?;
            for frames in requests {
                answers.push(match tables.refusal(frames)? {
                    Some(refusal) => Err(refusal),
                    None => Ok(frames.iter().map(|f| tables.keep(f, now)).collect::<Result<_, _>>()?),
                });
            }
            let mut sessions: Vec<SessionKey> = requests.iter().flatten().map(|f| f.session).collect();
            sessions.sort_unstable();
            sessions.dedup();
            for session in sessions {
                tables.evict(session, self.session_cap, fate)?;
            }
        }
        txn.commit()?;
        Ok(answers)
    }

    /// A session's frames after a cursor, oldest first, until `max_frames` or `max_bytes` of JSON are reached (at least
    /// one).
    pub(crate) fn read(
        &self,
        session: SessionKey,
        after: u64,
        max_frames: usize,
        max_bytes: usize,
    ) -> Result<Vec<KeptFrame>, StoreError> {
        let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
        let table = self.db.begin_read()?.open_table(FRAMES)?;
        let mut frames = Vec::new();
        let mut bytes = 0;
        for row in table.range::<&FrameKey>(&session.frame(first)..=&session.frame(u64::MAX))? {
            let (key, value) = row?;
            let frame = decode_frame(key.value(), value.value())?;
            bytes += frame.json.len();
            if !frames.is_empty() && bytes > max_bytes {
                break;
            }
            frames.push(frame);
            if frames.len() >= max_frames {
                break;
            }
        }
        Ok(frames)
    }

    /// The last cursor given under a session's number.
    pub(crate) fn latest(&self, session: SessionId) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(CURSORS)?;
        Ok(table.get(session.0)?.map_or(0, |c| c.value()))
    }

    /// A job's complete frame, without the payload.
    pub(crate) fn terminal(&self, subject: B256) -> Result<Option<Terminal>, StoreError> {
        let table = self.db.begin_read()?.open_table(TERMINALS)?;
        let Some(value) = table.get(&subject.0)? else { return Ok(None) };
        Terminal::decode(&subject.0, value.value()).map(Some).ok_or(StoreError::Corrupt("terminals"))
    }

    /// One frame; `None` when it is not kept any more.
    pub(crate) fn frame(&self, session: SessionKey, cursor: u64) -> Result<Option<KeptFrame>, StoreError> {
        let table = self.db.begin_read()?.open_table(FRAMES)?;
        let key = session.frame(cursor);
        let Some(value) = table.get(&key)? else { return Ok(None) };
        decode_frame(&key, value.value()).map(Some)
    }

    /// The complete frames that still wait for the chain's hash.
    pub(crate) fn uncompared(&self) -> Result<Vec<Terminal>, StoreError> {
        let table = self.db.begin_read()?.open_table(TERMINALS)?;
        let mut found = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let terminal =
                Terminal::decode(key.value(), value.value()).ok_or(StoreError::Corrupt("terminals"))?;
            if !terminal.compared {
                found.push(terminal);
            }
        }
        Ok(found)
    }

    /// Notes that the complete frames of these subjects were compared with the chain.
    pub(crate) fn mark_compared(&self, subjects: &[B256]) -> Result<(), StoreError> {
        let txn = self.db.begin_write()?;
        {
            let mut table = txn.open_table(TERMINALS)?;
            for subject in subjects {
                let found = table.get(&subject.0)?.and_then(|v| Terminal::decode(&subject.0, v.value()));
                if let Some(terminal) = found {
                    let bytes = Terminal { compared: true, ..terminal }.encode();
                    table.insert(&subject.0, bytes.as_slice())?;
                }
            }
        }
        txn.commit()?;
        Ok(())
    }

    /// Drops what is older than `retention` seconds and belongs to no undecided job. Gives the number of rows
    /// dropped. Finding them does not hold up writers.
    pub(crate) fn prune(&self, now: u64, retention: u64, fate: FateOf<'_>) -> Result<usize, StoreError> {
        let old = now.saturating_sub(retention);
        let outlived =
            |job, subject, received_at| received_at < old && fate(job, subject) != JobFate::Undecided;
        let victims = Victims::find(&self.db.begin_read()?, &outlived)?;
        let dropped = victims.len();
        for batch in victims.0.chunks(PRUNE_BATCH) {
            let txn = self.db.begin_write()?;
            for victim in batch {
                victim.drop_from(&txn)?;
            }
            txn.commit()?;
        }
        Ok(dropped)
    }
}

/// The tables a write touches.
struct Tables<'txn> {
    frames: Table<'txn, &'static FrameKey, &'static [u8]>,
    places: Table<'txn, &'static PlaceKey, (u64, u64, u64)>,
    terminals: Table<'txn, &'static [u8; 32], &'static [u8]>,
    sizes: Table<'txn, &'static SessionBytes, u64>,
    cursors: Table<'txn, u64, u64>,
}

impl<'txn> Tables<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            frames: txn.open_table(FRAMES)?,
            places: txn.open_table(PLACES)?,
            terminals: txn.open_table(TERMINALS)?,
            sizes: txn.open_table(SIZES)?,
            cursors: txn.open_table(CURSORS)?,
        })
    }

    /// Why a request cannot be kept, decided before anything of it is.
    fn refusal(&self, frames: &[NewFrame]) -> Result<Option<WriteRefusal>, StoreError> {
        for (index, frame) in frames.iter().enumerate() {
            if let Some((hash, _)) = &frame.terminal {
                let earlier = frames.iter().take(index).filter(|f| f.subject == frame.subject);
                let in_request = earlier.filter_map(|f| f.terminal).any(|(other, _)| other != *hash);
                let kept = self.terminals.get(&frame.subject.0)?;
                let kept = kept.and_then(|v| Terminal::decode(&frame.subject.0, v.value()));
                if in_request || kept.is_some_and(|t| t.ciphertext_hash != *hash) {
                    return Ok(Some(WriteRefusal::SecondAnswer(index)));
                }
            }
            if frame.repeat_only && self.places.get(&frame.place())?.is_none() {
                return Ok(Some(WriteRefusal::TooLate(index)));
            }
        }
        Ok(None)
    }

    fn keep(&mut self, frame: &NewFrame, now: u64) -> Result<Placed, StoreError> {
        let place = frame.place();
        if let Some(kept) = self.places.get(&place)? {
            return Ok(Placed { cursor: kept.value().0, fresh: false });
        }
        let number = frame.session.session().0;
        let cursor = self.cursors.get(number)?.map_or(0, |c| c.value()).saturating_add(1);
        self.cursors.insert(number, cursor)?;
        self.frames.insert(&frame.session.frame(cursor), encode_frame(frame, now).as_slice())?;
        self.places.insert(&place, (cursor, frame.job.0, now))?;
        let size = self.sizes.get(&frame.session.0)?.map_or(0, |s| s.value());
        self.sizes.insert(&frame.session.0, size.saturating_add(frame.size()))?;
        if let Some((ciphertext_hash, signature)) = frame.terminal {
            let terminal = Terminal {
                subject: frame.subject,
                job: frame.job,
                session: frame.session,
                cursor,
                ciphertext_hash,
                signature,
                received_at: now,
                compared: false,
            };
            self.terminals.insert(&frame.subject.0, terminal.encode().as_slice())?;
        }
        Ok(Placed { cursor, fresh: true })
    }

    /// Brings a session that is above its cap down to 7/8 of it (so that the next frame does not scan again): first the
    /// oldest deltas of settled jobs go, then everything of settled jobs, then the oldest deltas of the others. The
    /// complete frame of an undecided job stays whatever happens.
    fn evict(&mut self, session: SessionKey, cap: u64, fate: FateOf<'_>) -> Result<(), StoreError> {
        let mut size = self.sizes.get(&session.0)?.map_or(0, |s| s.value());
        if size <= cap {
            return Ok(());
        }
        let mut ranked = Vec::new();
        for row in self.frames.range::<&FrameKey>(&session.frame(0)..=&session.frame(u64::MAX))? {
            let (key, value) = row?;
            let frame = FrameHead::decode(value.value()).ok_or(StoreError::Corrupt("frames"))?;
            let settled = fate(frame.job, frame.subject) == JobFate::Settled;
            let rank = match (settled, frame.class == FrameClass::Complete) {
                (true, false) => 0,
                (true, true) => 1,
                (false, false) => 2,
                (false, true) => continue,
            };
            ranked.push((rank, *key.value(), frame_size(value.value())));
        }
        ranked.sort_unstable();
        let goal = cap - cap / 8;
        for (_, key, bytes) in ranked {
            if size <= goal {
                break;
            }
            self.frames.remove(&key)?;
            size = size.saturating_sub(bytes);
        }
        self.sizes.insert(&session.0, size)?;
        Ok(())
    }
}

/// A row that has outlived its use.
enum Victim {
    Frame(FrameKey, u64),
    Place(PlaceKey),
    Terminal([u8; 32]),
}

struct Victims(Vec<Victim>);

impl Victims {
    fn find(txn: &ReadTransaction, outlived: &dyn Fn(JobId, B256, u64) -> bool) -> Result<Self, StoreError> {
        let mut found = Vec::new();
        for row in txn.open_table(FRAMES)?.iter()? {
            let (key, value) = row?;
            let head = FrameHead::decode(value.value()).ok_or(StoreError::Corrupt("frames"))?;
            if outlived(head.job, head.subject, head.received_at) {
                found.push(Victim::Frame(*key.value(), frame_size(value.value())));
            }
        }
        for row in txn.open_table(PLACES)?.iter()? {
            let (key, value) = row?;
            let (_, job, received_at) = value.value();
            let subject = key.value().first_chunk::<32>().map(|s| B256::from(*s)).unwrap_or_default();
            if outlived(JobId(job), subject, received_at) {
                found.push(Victim::Place(*key.value()));
            }
        }
        for row in txn.open_table(TERMINALS)?.iter()? {
            let (key, value) = row?;
            let terminal =
                Terminal::decode(key.value(), value.value()).ok_or(StoreError::Corrupt("terminals"))?;
            if outlived(terminal.job, terminal.subject, terminal.received_at) {
                found.push(Victim::Terminal(*key.value()));
            }
        }
        Ok(Self(found))
    }

    const fn len(&self) -> usize {
        self.0.len()
    }
}

impl Victim {
    fn drop_from(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        match self {
            Self::Frame(key, bytes) => {
                // Eviction may have been faster; then the size is already right.
                if txn.open_table(FRAMES)?.remove(key)?.is_some()
                    && let Some(session) = key.first_chunk::<40>()
                {
                    let mut sizes = txn.open_table(SIZES)?;
                    let size = sizes.get(session)?.map_or(0, |s| s.value()).saturating_sub(*bytes);
                    if size == 0 {
                        sizes.remove(session)?
                    } else {
                        sizes.insert(session, size)?
                    };
                }
            }
            Self::Place(key) => drop(txn.open_table(PLACES)?.remove(key)?),
            Self::Terminal(key) => drop(txn.open_table(TERMINALS)?.remove(key)?),
        }
        Ok(())
    }
}

struct FrameHead {
    subject: B256,
    job: JobId,
    class: FrameClass,
    received_at: u64,
}

impl FrameHead {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (subject, bytes) = bytes.split_first_chunk::<32>()?;
        let (job, bytes) = bytes.split_first_chunk::<8>()?;
        let (class, bytes) = bytes.split_first()?;
        let received_at = bytes.first_chunk::<8>()?;
        Some(Self {
            subject: B256::from(*subject),
            job: JobId(u64::from_be_bytes(*job)),
            class: FrameClass::from_u8(*class)?,
            received_at: u64::from_be_bytes(*received_at),
        })
    }
}

fn encode_frame(frame: &NewFrame, now: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_HEADER + frame.json.len());
    bytes.extend_from_slice(frame.subject.as_slice());
    bytes.extend_from_slice(&frame.job.0.to_be_bytes());
    bytes.push(frame.class as u8);
    bytes.extend_from_slice(&now.to_be_bytes());
    bytes.extend_from_slice(&frame.json);
    bytes
}

fn decode_frame(key: &FrameKey, value: &[u8]) -> Result<KeptFrame, StoreError> {
    let corrupt = || StoreError::Corrupt("frames");
    let head = FrameHead::decode(value).ok_or_else(corrupt)?;
    Ok(KeptFrame {
        cursor: key.last_chunk().map(|b| u64::from_be_bytes(*b)).ok_or_else(corrupt)?,
        subject: head.subject,
        job: head.job,
        class: head.class,
        received_at: head.received_at,
        json: value.get(FRAME_HEADER..).ok_or_else(corrupt)?.to_vec(),
    })
}

const fn frame_size(value: &[u8]) -> u64 {
    (value.len() as u64).saturating_sub(FRAME_HEADER as u64) + FRAME_OVERHEAD
}

fn place_key(subject: &B256, class: FrameClass, seq: u32) -> PlaceKey {
    let mut key = [0; 37];
    let (head, tail) = key.split_at_mut(32);
    head.copy_from_slice(subject.as_slice());
    if let Some((first, rest)) = tail.split_first_mut() {
        *first = class as u8;
        rest.copy_from_slice(&seq.to_be_bytes());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use tempfile::TempDir;

    const UNDECIDED: FateOf<'static> = &|_, _| JobFate::Undecided;

    fn session(number: u64) -> SessionKey {
        SessionKey::new(SessionId(number), B256::repeat_byte(0xaa))
    }

    fn chunk(job: u64, seq: u32, size: usize) -> NewFrame {
        NewFrame {
            session: session(1),
            subject: B256::with_last_byte(job as u8),
            job: JobId(job),
            class: FrameClass::Chunk,
            seq,
            terminal: None,
            repeat_only: false,
            json: vec![b'x'; size],
        }
    }

    fn complete(job: u64, answer: u8, size: usize) -> NewFrame {
        let terminal = Some((B256::repeat_byte(answer), [answer; 65]));
        NewFrame { class: FrameClass::Complete, terminal, ..chunk(job, 9, size) }
    }

    fn store(cap: u64) -> (FrameStore, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (FrameStore::open(&dir.path().join("frames.redb"), cap).unwrap(), dir)
    }

    fn write(store: &FrameStore, frames: Vec<NewFrame>) -> Result<Vec<Placed>, WriteRefusal> {
        store.write(&[frames], 100, UNDECIDED).unwrap().remove(0)
    }

    fn kept(store: &FrameStore) -> Vec<(u64, u64, FrameClass)> {
        let frames = store.read(session(1), 0, usize::MAX, usize::MAX).unwrap();
        frames.iter().map(|f| (f.cursor, f.job.0, f.class)).collect()
    }

    fn cursors(placed: Result<Vec<Placed>, WriteRefusal>) -> Vec<(u64, bool)> {
        placed.unwrap().iter().map(|p| (p.cursor, p.fresh)).collect()
    }

    #[test]
    fn frames_get_cursors_in_order_and_duplicates_the_first_one() {
        let (store, _dir) = store(1 << 20);
        assert_eq!(
            cursors(write(&store, vec![chunk(7, 1, 9), chunk(7, 2, 9), chunk(7, 1, 9)])),
            [(1, true), (2, true), (1, false)]
        );
        assert_eq!(cursors(write(&store, vec![chunk(7, 2, 9), complete(7, 3, 9)])), [(2, false), (3, true)]);
        assert_eq!(cursors(write(&store, vec![complete(7, 3, 9), chunk(8, 1, 9)])), [(3, false), (4, true)]);
        let last = store.read(session(1), 2, 1, 1).unwrap();
        assert_eq!(last.len(), 1);
        assert_eq!((last[0].cursor, last[0].received_at, last[0].json.len()), (3, 100, 9));
        assert!(store.read(session(2), 0, 9, 9).unwrap().is_empty());
        assert!(store.read(session(1), u64::MAX, 9, 9).unwrap().is_empty());
        assert_eq!(store.latest(SessionId(1)).unwrap(), 4);
    }

    #[test]
    fn a_refused_request_leaves_nothing_and_others_of_its_batch_stand() {
        let (store, _dir) = store(1 << 20);
        write(&store, vec![complete(7, 3, 9)]).unwrap();
        let late = NewFrame { repeat_only: true, ..chunk(8, 1, 9) };
        let again = NewFrame { repeat_only: true, ..complete(7, 3, 9) };
        let requests = [
            vec![chunk(9, 1, 9), complete(7, 4, 9)],
            vec![chunk(9, 2, 9)],
            vec![chunk(9, 3, 9), late],
            vec![complete(6, 1, 9), complete(6, 2, 9)],
            vec![again],
        ];
        let answers = store.write(&requests, 100, UNDECIDED).unwrap();
        assert_eq!(answers[0], Err(WriteRefusal::SecondAnswer(1)));
        assert_eq!(answers[1], Ok(vec![Placed { cursor: 2, fresh: true }]));
        assert_eq!(answers[2], Err(WriteRefusal::TooLate(1)));
        assert_eq!(answers[3], Err(WriteRefusal::SecondAnswer(1)));
        assert_eq!(answers[4], Ok(vec![Placed { cursor: 1, fresh: false }]));
        assert_eq!(kept(&store), [(1, 7, FrameClass::Complete), (2, 9, FrameClass::Chunk)]);
    }

    #[test]
    fn a_session_number_taken_over_on_another_fork_goes_on_counting() {
        let (store, _dir) = store(1 << 20);
        write(&store, vec![chunk(7, 1, 9), chunk(7, 2, 9)]).unwrap();
        let other = SessionKey::new(SessionId(1), B256::repeat_byte(0xbb));
        let frame = NewFrame { session: other, subject: B256::repeat_byte(9), ..chunk(7, 1, 9) };
        assert_eq!(cursors(write(&store, vec![frame])), [(3, true)]);
        assert_eq!(kept(&store).len(), 2);
        assert_eq!(store.read(other, 0, 9, 99).unwrap().len(), 1);
    }

    #[test]
    fn everything_survives_reopening() {
        let (store, dir) = store(1 << 20);
        write(&store, vec![chunk(7, 1, 9), complete(7, 3, 9)]).unwrap();
        let before = (kept(&store), store.terminal(B256::with_last_byte(7)).unwrap());
        drop(store);
        let store = FrameStore::open(&dir.path().join("frames.redb"), 1 << 20).unwrap();
        assert_eq!((kept(&store), store.terminal(B256::with_last_byte(7)).unwrap()), before);
        assert_eq!(cursors(write(&store, vec![chunk(7, 1, 9), chunk(7, 2, 9)])), [(1, false), (3, true)]);
        let terminal = before.1.unwrap();
        assert_eq!(store.uncompared().unwrap(), std::slice::from_ref(&terminal));
        store.mark_compared(&[terminal.subject]).unwrap();
        assert!(store.uncompared().unwrap().is_empty());
    }

    #[test]
    fn above_the_cap_settled_jobs_go_first_and_answers_in_doubt_never() {
        let size = 10_000;
        let each = size as u64 + FRAME_OVERHEAD;
        let (store, _dir) = store(6 * each);
        let fate: FateOf<'_> = &|job, _| if job.0 == 1 { JobFate::Settled } else { JobFate::Undecided };
        let write = |frames: Vec<NewFrame>| store.write(&[frames], 100, fate).unwrap().remove(0).unwrap();
        write(vec![
            chunk(2, 1, size),
            complete(2, 2, size),
            chunk(1, 1, size),
            chunk(1, 2, size),
            complete(1, 1, size),
        ]);
        write(vec![chunk(3, 1, size)]);
        assert_eq!(kept(&store).len(), 6);
        write(vec![chunk(3, 2, size)]);
        let left: Vec<u64> = kept(&store).iter().map(|f| f.0).collect();
        assert_eq!(left, [1, 2, 5, 6, 7], "the settled job's chunks");
        write(vec![complete(3, 3, size), complete(4, 4, size)]);
        let left: Vec<u64> = kept(&store).iter().map(|f| f.0).collect();
        assert_eq!(left, [2, 6, 7, 8, 9], "then its answer, then the oldest chunk");
        write((5..12).map(|job| complete(job, job as u8, size)).collect());
        let answers = kept(&store);
        assert_eq!(answers.len(), 10);
        assert!(answers.iter().all(|f| f.2 == FrameClass::Complete));
        assert_eq!(
            store.terminal(B256::with_last_byte(1)).unwrap().unwrap().signature,
            [1; 65],
            "the signature outlives the frame"
        );
    }

    #[test]
    fn pruning_spares_what_is_young_or_undecided() {
        let (store, _dir) = store(1 << 20);
        let at = |frames: Vec<NewFrame>, now| store.write(&[frames], now, UNDECIDED).unwrap();
        at(vec![chunk(1, 1, 9), complete(1, 1, 9), chunk(2, 1, 9)], 100);
        at(vec![chunk(1, 2, 9)], 200);
        let fate: FateOf<'_> = &|job, _| if job.0 == 1 { JobFate::Settled } else { JobFate::Undecided };
        assert_eq!(store.prune(250, 100, fate).unwrap(), 2 + 2 + 1);
        assert_eq!(kept(&store), [(3, 2, FrameClass::Chunk), (4, 1, FrameClass::Chunk)]);
        assert_eq!(store.terminal(B256::with_last_byte(1)).unwrap(), None);
        assert_eq!(store.prune(1000, 100, &|_, _| JobFate::Unknown).unwrap(), 4);
        assert!(kept(&store).is_empty());
        assert_eq!(store.latest(SessionId(1)).unwrap(), 4, "cursors are never given twice");
    }

    proptest! {
        /// Whatever is written in whatever batches, a reader in any steps sees each frame once and in order.
        #[test]
        fn reading_in_steps_gives_each_frame_once(
            requests in proptest::collection::vec(proptest::collection::vec((1u64..4, 1u32..20), 0..8), 1..8),
            step in 1usize..7, bytes in 1usize..60,
        ) {
            let (store, _dir) = store(1 << 20);
            let frames: Vec<Vec<NewFrame>> =
                requests.iter().map(|r| r.iter().map(|(job, seq)| chunk(*job, *seq, 9)).collect()).collect();
            let placed = store.write(&frames, 1, UNDECIDED).unwrap();
            let mut expected = BTreeMap::new();
            for (frame, place) in frames.iter().flatten().zip(placed.into_iter().flat_map(Result::unwrap)) {
                let first = expected.entry((frame.job, frame.seq)).or_insert(place.cursor);
                prop_assert_eq!(*first, place.cursor);
            }
            let (mut seen, mut cursor) = (Vec::new(), 0);
            loop {
                let batch = store.read(session(1), cursor, step, bytes).unwrap();
                prop_assert!(batch.len() <= step);
                let Some(last) = batch.last() else { break };
                cursor = last.cursor;
                seen.extend(batch.iter().map(|f| f.cursor));
            }
            prop_assert_eq!(seen, (1..=expected.len() as u64).collect::<Vec<_>>());
        }
    }
}
