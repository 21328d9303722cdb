//! What requests that are on their way in, and answers that are on their way out, may take of the node's memory.
//!
//! Each connection has some for nothing. What it holds beyond that comes out of what all connections have together, so
//! that there is a number for all of them, and the ordinary calls of others go on while somebody uses that up.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes a connection has for nothing, in each direction.
const FREE: usize = 64 * 1024;
/// Bytes of one permit of what all have together.
const UNIT: usize = 1024;
/// What an answer takes beside its text: the task that waits to send it.
const ANSWER_OVERHEAD: usize = 1024;

/// What all connections have together, in each direction.
#[derive(Clone)]
pub(crate) struct Pools {
    requests: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Pools {
    /// So many bytes.
    pub(crate) fn new(requests: usize, answers: usize) -> Self {
        let pool = |bytes: usize| Arc::new(Semaphore::new((bytes / UNIT).min(Semaphore::MAX_PERMITS)));
        Self { requests: pool(requests), answers: pool(answers) }
    }
}

/// What one connection holds.
pub(crate) struct Bounds {
    requests: Share,
    answers: Share,
}

impl Bounds {
    /// At most so many bytes for this connection; in answers, one more answer.
    pub(crate) fn new(pools: &Pools, requests: usize, answers: usize) -> Self {
        Self {
            requests: Share::new(&pools.requests, requests.max(FREE)),
            answers: Share::new(&pools.answers, answers.max(FREE)),
        }
    }

    /// Counts what was read; whether there was room for it.
    pub(crate) fn read(&self, bytes: usize) -> bool {
        self.requests.add(bytes)
    }

    /// What was read so far is a request now, which holds its room until it is answered.
    pub(crate) fn request(&self) -> Held {
        std::mem::take(&mut *self.requests.held.lock())
    }

    /// Counts an answer of so many bytes; whether there is room for it until it is written.
    pub(crate) fn answer(&self, bytes: usize) -> bool {
        self.answers.add(bytes.saturating_add(ANSWER_OVERHEAD))
    }

    /// Counts the refusal that is given instead of an answer, room or not.
    pub(crate) fn refusal(&self, bytes: usize) {
        let mut held = self.answers.held.lock();
        held.bytes = held.bytes.saturating_add(bytes).saturating_add(ANSWER_OVERHEAD);
    }

    /// Whether answers wait already as much as they may.
    pub(crate) fn is_full(&self) -> bool {
        self.answers.held.lock().bytes >= self.answers.cap
    }

    /// Counts what was written.
    pub(crate) fn written(&self, bytes: usize) {
        self.answers.sub(bytes);
    }

    /// A message was written to its end.
    pub(crate) fn flushed(&self) {
        self.answers.sub(ANSWER_OVERHEAD);
    }
}

/// Bytes, and the permits for what is not for nothing.
#[derive(Default)]
pub(crate) struct Held {
    bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn units(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// What it needs for so many bytes.
    const fn needed(bytes: usize) -> usize {
        bytes.saturating_sub(FREE).div_ceil(UNIT)
    }
}

struct Share {
    pool: Arc<Semaphore>,
    cap: usize,
    held: Mutex<Held>,
}

impl Share {
    fn new(pool: &Arc<Semaphore>, cap: usize) -> Self {
        Self { pool: Arc::clone(pool), cap, held: Mutex::default() }
    }

    /// Counts bytes, if less than the cap is held and all connections together have room for them.
    fn add(&self, bytes: usize) -> bool {
        let mut held = self.held.lock();
        if held.bytes >= self.cap {
            return false;
        }
        let bytes = held.bytes.saturating_add(bytes);
        let missing = Held::needed(bytes).saturating_sub(held.units());
        if missing > 0 {
            let count = u32::try_from(missing).unwrap_or(u32::MAX);
            let Ok(more) = Arc::clone(&self.pool).try_acquire_many_owned(count) else { return false };
            match &mut held.permit {
                Some(permit) => permit.merge(more),
                none => *none = Some(more),
            }
        }
        held.bytes = bytes;
        true
    }

    fn sub(&self, bytes: usize) {
        let mut held = self.held.lock();
        held.bytes = held.bytes.saturating_sub(bytes);
        let surplus = held.units().saturating_sub(Held::needed(held.bytes));
        if surplus > 0 {
            drop(held.permit.as_mut().and_then(|permit| permit.split(surplus)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_out_of_the_pool_and_goes_back() {
        let pools = Pools::new(1 << 20, 1 << 20);
        let bounds = Bounds::new(&pools, 1 << 20, 300_000);
        assert!(bounds.answer(FREE - ANSWER_OVERHEAD), "for nothing");
        assert_eq!(pools.answers.available_permits(), 1024);
        assert!(bounds.answer(200_000) && bounds.answer(200_000), "one beyond the cap");
        assert!(bounds.is_full() && !bounds.answer(1));
        let held = (400_000 + 2 * ANSWER_OVERHEAD).div_ceil(UNIT);
        assert_eq!(pools.answers.available_permits(), 1024 - held);
        bounds.written(400_000);
        (0..3).for_each(|_| bounds.flushed());
        assert_eq!(pools.answers.available_permits(), 1024);
        assert!(!bounds.is_full() && bounds.answer(1));
    }

    #[test]
    fn all_together_have_only_so_much_and_the_rest_still_has_its_own() {
        let pools = Pools::new(1 << 20, 1 << 20);
        let greedy: Vec<_> = (0..9).map(|_| Bounds::new(&pools, 1 << 20, 1 << 20)).collect();
        let got = greedy.iter().filter(|bounds| bounds.read(200_000)).count();
        assert_eq!(got, 7, "1 MiB for 200,000 bytes less what is free of each");
        let other = Bounds::new(&pools, 1 << 20, 1 << 20);
        assert!(other.read(FREE) && !other.read(200_000));
        let request = greedy[0].request();
        assert!(!other.read(200_000), "held until it is answered");
        drop(request);
        assert!(other.read(100_000));
        drop(greedy);
        assert!(
            Bounds::new(&pools, 1 << 20, 1 << 20).read(900_000),
            "what a lost connection held is there again"
        );
    }
}
