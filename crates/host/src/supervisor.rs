//! Keeps tasks running and stops them in order.

use crate::feed::Backoff;
use futures::FutureExt;
use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often a task may be restarted.
#[derive(Debug, Clone)]
pub struct RestartPolicy {
    /// Restarts allowed within `window`; one more and the task is given up.
    pub max_restarts: usize,
    /// The time restarts are counted over.
    pub window: Duration,
    /// First delay; it doubles up to `backoff_max` and starts over once the task ran for a whole `window`.
    pub backoff_min: Duration,
    /// Longest delay.
    pub backoff_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            max_restarts: 10,
            window: Duration::from_secs(600),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
        }
    }
}

/// Why a task ended.
#[derive(Debug)]
pub struct TaskError {
    reason: String,
    fatal: bool,
}

impl TaskError {
    /// The task may be started again.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), fatal: false }
    }

    /// Starting the task again would not help.
    pub fn fatal(reason: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), fatal: true }
    }
}

impl From<crate::RunnerError> for TaskError {
    fn from(error: crate::RunnerError) -> Self {
        if error.is_fatal() { Self::fatal(error) } else { Self::retry(error) }
    }
}

impl From<crate::FeedError> for TaskError {
    fn from(error: crate::FeedError) -> Self {
        match &error {
            crate::FeedError::Host(host) if crate::feed::is_final(host) => Self::fatal(error),
            _ => Self::retry(error),
        }
    }
}

impl From<crate::JournalError> for TaskError {
    fn from(error: crate::JournalError) -> Self {
        Self::retry(error)
    }
}

/// A task that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedTask {
    /// Its name.
    pub task: &'static str,
    /// Its last error.
    pub reason: String,
}

/// Runs tasks, restarts those that fail or panic, and stops all of them together. Clones share the tasks.
#[derive(Debug, Clone)]
pub struct Supervisor {
    token: CancellationToken,
    tracker: TaskTracker,
    failed: Arc<watch::Sender<Option<FailedTask>>>,
    faults: broadcast::Sender<String>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new(CancellationToken::new())
    }
}

impl Supervisor {
    /// A supervisor whose tasks stop when the token is cancelled.
    pub fn new(token: CancellationToken) -> Self {
        let (failed, faults) = (Arc::new(watch::channel(None).0), broadcast::channel(16).0);
        Self { token, tracker: TaskTracker::new(), failed, faults }
    }

    /// Makes the tasks of that name panic where they wait now, to see that nobody else notices. For an operator's drill
    /// and for tests; says how many tasks were listening, of any name.
    pub fn inject_panic(&self, task: &str) -> usize {
        self.faults.send(task.to_owned()).unwrap_or_default()
    }

    /// Cancelled when everything is to stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// The first task that was given up, once there is one. The rest goes on; the program decides what that means.
    pub fn failed(&self) -> watch::Receiver<Option<FailedTask>> {
        self.failed.subscribe()
    }

    /// Runs a task: `make` gives a new future for every start. It is done when the future returns `Ok`.
    pub fn spawn<F, Fut>(&self, task: &'static str, policy: RestartPolicy, make: F)
    where
        F: FnMut(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), TaskError>> + Send,
    {
        let (token, failed) = (self.token.clone(), Arc::clone(&self.failed));
        let mut faults = self.faults.subscribe();
        self.tracker.spawn(async move {
            if let Err(reason) = supervise(task, &policy, &token, &mut faults, make).await {
                metrics::gauge!("lcai_task_failed", "task" => task).set(1.0);
                tracing::error!(task, reason, "task given up");
                failed.send_if_modified(|failed| {
                    let first = failed.is_none();
                    if first {
                        *failed = Some(FailedTask { task, reason });
                    }
                    first
                });
            }
        });
    }

    /// Asks every task to stop and waits at most `grace`; says whether all did.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

async fn supervise<F, Fut>(
    task: &'static str,
    policy: &RestartPolicy,
    token: &CancellationToken,
    faults: &mut broadcast::Receiver<String>,
    mut make: F,
) -> Result<(), String>
where
    F: FnMut(CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), TaskError>>,
{
    let mut restarts = VecDeque::new();
    let mut backoff = Backoff::new(policy.backoff_min, policy.backoff_max);
    loop {
        let started = Instant::now();
        // A panic while the future is made counts like one within it. The panic hook has already said where.
        let error = match catch_unwind(AssertUnwindSafe(|| make(token.clone()))) {
            Ok(run) => match AssertUnwindSafe(or_fault(run, task, faults)).catch_unwind().await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => TaskError::retry("it panicked"),
            },
            Err(_) => TaskError::retry("it panicked"),
        };
        if token.is_cancelled() {
            return Ok(());
        }
        if error.fatal {
            return Err(error.reason);
        }
        if started.elapsed() >= policy.window {
            backoff.reset();
        }
        if !may_restart(&mut restarts, policy) {
            return Err(format!("{} (restarted {} times)", error.reason, policy.max_restarts));
        }
        let delay = backoff.next();
        metrics::counter!("lcai_task_restarts_total", "task" => task).increment(1);
        tracing::warn!(task, reason = error.reason, ?delay, "task failed, restarting");
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// Runs the task until it ends or is told to panic.
async fn or_fault<Fut: Future<Output = Result<(), TaskError>>>(
    run: Fut,
    task: &str,
    faults: &mut broadcast::Receiver<String>,
) -> Result<(), TaskError> {
    let fault = async {
        loop {
            match faults.recv().await {
                Ok(name) if name == task => break,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        result = run => result,
        () = fault => std::panic::resume_unwind(Box::new("a panic was asked for")),
    }
}

/// Counts a restart, unless there were too many within the window.
fn may_restart(restarts: &mut VecDeque<Instant>, policy: &RestartPolicy) -> bool {
    let now = Instant::now();
    while restarts.front().is_some_and(|first| now.duration_since(*first) > policy.window) {
        restarts.pop_front();
    }
    if restarts.len() >= policy.max_restarts {
        return false;
    }
    restarts.push_back(now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn eager() -> RestartPolicy {
        RestartPolicy { backoff_min: Duration::from_millis(1), ..RestartPolicy::default() }
    }

    #[tokio::test]
    async fn restarts_after_panics_and_errors_until_it_succeeds() {
        let supervisor = Supervisor::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let (done, mut finished) = tokio::sync::mpsc::channel(1);
        let seen = Arc::clone(&runs);
        supervisor.spawn("flaky", eager(), move |_| {
            let (run, done) = (seen.fetch_add(1, Ordering::SeqCst), done.clone());
            async move {
                match run {
                    0 => panic!("first"),
                    1 => Err(TaskError::retry("second")),
                    _ => {
                        done.send(()).await.unwrap();
                        Ok(())
                    }
                }
            }
        });
        finished.recv().await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert!(supervisor.shutdown(Duration::from_secs(1)).await);
        assert_eq!(*supervisor.failed().borrow(), None);
    }

    #[tokio::test]
    async fn a_panic_on_purpose_restarts_that_task_alone() {
        let supervisor = Supervisor::default();
        let (starts, mut started) = tokio::sync::mpsc::unbounded_channel();
        for task in ["hit", "missed"] {
            let starts = starts.clone();
            supervisor.spawn(task, eager(), move |_| {
                starts.send(task).unwrap();
                std::future::pending()
            });
        }
        let mut seen = vec![started.recv().await.unwrap(), started.recv().await.unwrap()];
        seen.sort_unstable();
        assert_eq!(seen, ["hit", "missed"]);
        assert_eq!(supervisor.inject_panic("hit"), 2);
        assert_eq!(started.recv().await.unwrap(), "hit");
        assert!(started.try_recv().is_err());
    }

    #[tokio::test]
    async fn gives_up_after_too_many_restarts_and_at_once_when_fatal() {
        for (fatal, expected) in [(false, 4), (true, 1)] {
            let supervisor = Supervisor::default();
            let runs = Arc::new(AtomicUsize::new(0));
            let seen = Arc::clone(&runs);
            let policy = RestartPolicy { max_restarts: 3, ..eager() };
            supervisor.spawn("broken", policy, move |_| {
                seen.fetch_add(1, Ordering::SeqCst);
                async move { Err(if fatal { TaskError::fatal("no") } else { TaskError::retry("no") }) }
            });
            let mut failed = supervisor.failed();
            failed.wait_for(Option::is_some).await.unwrap();
            assert_eq!(runs.load(Ordering::SeqCst), expected);
            assert_eq!(failed.borrow().as_ref().unwrap().task, "broken");
        }
    }

    #[tokio::test]
    async fn shutdown_says_whether_all_stopped() {
        let supervisor = Supervisor::default();
        supervisor.spawn("polite", eager(), |token| async move {
            token.cancelled().await;
            Ok(())
        });
        assert!(supervisor.shutdown(Duration::from_secs(60)).await);
        let supervisor = Supervisor::default();
        supervisor.spawn("deaf", eager(), |_| std::future::pending());
        assert!(!supervisor.shutdown(Duration::from_millis(1)).await);
    }
}
