//! Whose turn it is: repeating a job takes the whole machine, so the most urgent goes first.

use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::oneshot;

/// How urgent something is; the smaller, the sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// A dispute, by its deadline in unix seconds.
    Dispute(u64),
    /// A canary: nobody waits for it.
    Canary,
}

/// Gives turns, a few at a time.
#[derive(Debug)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    arrived: u64,
    waiting: BTreeMap<(Urgency, u64), oneshot::Sender<Turn>>,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<Arc<Turns>>);

impl Turns {
    /// So many turns at once, at least one.
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        let state = State { free: slots.max(1), arrived: 0, waiting: BTreeMap::new() };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Waits for a turn. Who stops waiting loses the place; among equally urgent ones the first comes first.
    pub(crate) async fn take(self: &Arc<Self>, urgency: Urgency) -> Turn {
        let answer = {
            let mut state = self.0.lock();
            if let Some(free) = state.free.checked_sub(1) {
                state.free = free;
                return Turn(Some(Arc::clone(self)));
            }
            let (sender, answer) = oneshot::channel();
            state.arrived += 1;
            let place = (urgency, state.arrived);
            state.waiting.insert(place, sender);
            answer
        };
        match answer.await {
            Ok(turn) => turn,
            // A place is only given up together with a turn, so this is never reached; waiting on is safe all the same.
            Err(_) => std::future::pending().await,
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().waiting.values().filter(|sender| !sender.is_closed()).count()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = turns.0.lock();
                match state.waiting.pop_first() {
                    Some((_, next)) => next,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // It stopped waiting. What comes back is no turn any more: it must not be passed on twice.
                Err(mut unsent) => unsent.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    #[tokio::test]
    async fn disputes_go_by_deadline_and_before_canaries() {
        let turns = Turns::new(1);
        let first = turns.take(Urgency::Canary).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for urgency in [
            Urgency::Canary,
            Urgency::Dispute(30),
            Urgency::Dispute(10),
            Urgency::Canary,
            Urgency::Dispute(20),
        ] {
            let before = turns.waiting();
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            let own = Arc::clone(&turns);
            tasks.push(tokio::spawn(async move {
                let _turn = own.take(urgency).await;
                order.lock().push(urgency);
            }));
            while turns.waiting() == before {
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        let expected = [
            Urgency::Dispute(10),
            Urgency::Dispute(20),
            Urgency::Dispute(30),
            Urgency::Canary,
            Urgency::Canary,
        ];
        assert_eq!(*order.lock(), expected);
    }

    #[tokio::test]
    async fn who_stops_waiting_keeps_nobody_waiting() {
        let turns = Turns::new(1);
        let first = turns.take(Urgency::Canary).await;
        assert!(timeout(Duration::from_millis(10), turns.take(Urgency::Dispute(1))).await.is_err());
        drop(first);
        // Free again, once and not twice.
        let second = timeout(Duration::from_secs(1), turns.take(Urgency::Canary)).await.unwrap();
        assert!(timeout(Duration::from_millis(10), turns.take(Urgency::Canary)).await.is_err());
        drop(second);
        assert!(timeout(Duration::from_secs(1), turns.take(Urgency::Canary)).await.is_ok());
    }

    #[tokio::test]
    async fn several_at_once() {
        let turns = Turns::new(2);
        let (one, _two) = (turns.take(Urgency::Canary).await, turns.take(Urgency::Canary).await);
        assert!(timeout(Duration::from_millis(10), turns.take(Urgency::Canary)).await.is_err());
        drop(one);
        assert!(timeout(Duration::from_secs(1), turns.take(Urgency::Canary)).await.is_ok());
    }
}
