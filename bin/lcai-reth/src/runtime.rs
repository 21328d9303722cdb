//! The extensions' threads: apart from Reth's, so that work of ours never takes a thread that Reth waits for, and with
//! lower priority, so that where the processors are busy the import of blocks comes first.

use std::{future::Future, io};
use tokio::runtime::{Builder, Runtime};

/// Threads that drive tasks. Work that blocks (journal, database, EVM) has threads of its own beside them.
const WORKERS: usize = 2;

/// How much nicer (`nice(1)`) than Reth's threads ours are.
const NICENESS: i32 = 5;
/// The nicest there is.
const NICEST: i32 = 19;

/// A runtime that may be dropped anywhere.
#[derive(Debug)]
pub struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    /// Starts the threads.
    ///
    /// # Errors
    /// When there are no more threads to be had.
    pub fn start() -> io::Result<Self> {
        // Asked here, because a thread inherits the niceness of the one that starts it.
        let niceness = niceness();
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("lcai")
            .on_thread_start(move || yield_to_import(niceness))
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a future here; whatever it spawns runs here too.
    ///
    /// # Errors
    /// When it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> eyre::Result<T> {
        let Some(runtime) = &self.0 else { eyre::bail!("the extensions' runtime is gone") };
        Ok(runtime.spawn(work).await?)
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // Waiting for its threads is not allowed within a task, where this is usually dropped.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The niceness of the extensions' threads, when they are started by this one.
#[cfg(target_os = "linux")]
fn niceness() -> i32 {
    let own = rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap_or_default();
    own.saturating_add(NICENESS).min(NICEST)
}

/// Makes this thread nicer: on Linux each has a niceness of its own.
#[cfg(target_os = "linux")]
fn yield_to_import(niceness: i32) {
    let thread = Some(rustix::thread::gettid());
    if let Err(error) = rustix::process::setpriority_process(thread, niceness) {
        tracing::debug!(target: "lcai", %error, "a thread keeps its priority");
    }
}

#[cfg(not(target_os = "linux"))]
const fn niceness() -> i32 {
    0
}

#[cfg(not(target_os = "linux"))]
const fn yield_to_import(_niceness: i32) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::{process::getpriority_process, thread::gettid};

    #[tokio::test]
    async fn every_thread_of_ours_is_nicer_than_this_one() {
        let nice = || getpriority_process(Some(gettid())).unwrap();
        let runtime = OwnRuntime::start().unwrap();
        let expected = niceness();
        assert!(expected > nice() || expected == NICEST);
        assert_eq!(runtime.run(async move { nice() }).await.unwrap(), expected);
        let blocking = runtime.run(async move { tokio::task::spawn_blocking(nice).await.unwrap() }).await;
        assert_eq!(blocking.unwrap(), expected);
        assert!(runtime.run(async { panic!("a test") }).await.is_err());
    }
}
