//! Threads with a large stack on which all of the client's code runs.
//!
//! Unoptimised builds of the client move whole blobs over the stack and abort tokio's 2 MB workers, whoever built the
//! runtime. Running its code on threads of our own keeps that from every user of this crate, and keeps block execution
//! off the runtime's workers as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::error::EmbeddedChainError;

/// Stack of a worker thread, in bytes. Virtual memory: pages are only used when touched.
pub(crate) const STACK_SIZE: usize = 16 << 20;

/// Requests run at once; block production needs one of them.
const THREADS: usize = 4;

/// Jobs that may wait before submitters do.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce(&Handle) + Send>;

/// A small pool of large-stack threads. They end when the last handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    jobs: mpsc::Sender<Job>,
}

impl Workers {
    /// Starts the threads; jobs may use `runtime` to drive futures.
    pub(crate) fn start(runtime: &Handle) -> Result<Self, EmbeddedChainError> {
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..THREADS {
            let (queue, runtime) = (Arc::clone(&queue), runtime.clone());
            std::thread::Builder::new()
                .name(format!("lcai-chain-{index}"))
                .stack_size(STACK_SIZE)
                .spawn(move || work(&queue, &runtime))
                .map_err(|error| EmbeddedChainError::Start(error.to_string()))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job` on a worker thread and waits for what it returns. A job that was started runs to its end even if
    /// the caller stops waiting.
    pub(crate) async fn run<T, F>(&self, job: F) -> Result<T, EmbeddedChainError>
    where
        T: Send + 'static,
        F: FnOnce(&Handle) -> T + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move |runtime| {
            // The receiver is gone when the caller was cancelled; nobody is left to be told.
            let _ = done.send(job(runtime));
        });
        self.jobs.send(job).await.map_err(|_| EmbeddedChainError::Stopped)?;
        result.await.map_err(|_| EmbeddedChainError::Stopped)
    }
}

fn work(queue: &Mutex<mpsc::Receiver<Job>>, runtime: &Handle) {
    loop {
        // The lock is released before the job runs: idle threads take turns in waiting for one.
        let job = queue.lock().blocking_recv();
        let Some(job) = job else { return };
        // A panic inside the client fails its one request and must not cost the thread.
        if catch_unwind(AssertUnwindSafe(|| job(runtime))).is_err() {
            tracing::error!("the embedded client panicked");
        }
    }
}
