//! How busy inference is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The queue before the model, and how long an answer takes.
pub(crate) struct InferenceLoad {
    slots: Arc<Semaphore>,
    parallel: usize,
    waiting: AtomicUsize,
    /// Milliseconds of an answer, averaged; 0 before the first.
    average: AtomicU64,
}

/// A place in the queue.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InferenceLoad {
    pub(crate) fn new(parallel: usize) -> Self {
        let parallel = parallel.max(1);
        Self {
            slots: Arc::new(Semaphore::new(parallel)),
            parallel,
            waiting: AtomicUsize::new(0),
            average: AtomicU64::new(0),
        }
    }

    /// Waits for a turn; `None` when the worker ends.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// Takes note of how long an answer took.
    pub(crate) fn took(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let _ = self.average.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            Some(if old == 0 { ms } else { old.saturating_mul(3).saturating_add(ms) / 4 })
        });
    }

    /// When an answer that is asked for now, or waits already, is to be expected.
    pub(crate) fn expected(&self) -> Duration {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let rounds = u64::try_from(waiting.div_ceil(self.parallel)).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_millis(self.average.load(Ordering::Relaxed).saturating_mul(rounds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_expectation_grows_with_the_queue() {
        let load = Arc::new(InferenceLoad::new(1));
        assert_eq!(load.expected(), Duration::ZERO);
        load.took(Duration::from_secs(4));
        assert_eq!(load.expected(), Duration::from_secs(4));
        let turn = load.turn().await.unwrap();
        let next = tokio::spawn({
            let load = Arc::clone(&load);
            async move { load.turn().await.is_some() }
        });
        while load.expected() < Duration::from_secs(8) {
            tokio::task::yield_now().await;
        }
        drop(turn);
        assert!(next.await.unwrap());
        assert_eq!(load.expected(), Duration::from_secs(4));
        load.took(Duration::from_secs(8));
        assert_eq!(load.expected(), Duration::from_secs(5));
    }
}
