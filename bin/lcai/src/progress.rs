//! Steps with their times, on standard error: whatever takes longer than a second says what it waits for.

use std::{
    future::Future,
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

/// Prints steps as they end, each with the time it took.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    terminal: bool,
    quiet: bool,
}

impl Progress {
    /// Starts the clock. A quiet one prints nothing.
    pub fn new(quiet: bool) -> Self {
        Self { started: Instant::now(), terminal: std::io::stderr().is_terminal(), quiet }
    }

    /// Runs a step: while it takes longer than a second a line says so, and its end prints its time.
    pub async fn step<T, E>(&self, what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let began = Instant::now();
        tokio::pin!(work);
        let mut tick = tokio::time::interval_at(
            (began + Duration::from_secs(1)).into(),
            if self.terminal { Duration::from_millis(250) } else { Duration::from_secs(5) },
        );
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                _ = tick.tick() => self.waiting(what, began.elapsed()),
            }
        };
        if result.is_ok() {
            self.done(what, began.elapsed());
        }
        result
    }

    fn waiting(&self, what: &str, elapsed: Duration) {
        if self.quiet {
            return;
        }
        if self.terminal {
            self.write(&format!("\r\x1b[2K  …  {what} ({:.0} s)", elapsed.as_secs_f32()));
        } else {
            self.write(&format!("  …  {what} ({:.0} s)\n", elapsed.as_secs_f32()));
        }
    }

    /// Prints a finished step.
    pub fn done(&self, what: &str, took: Duration) {
        if self.quiet {
            return;
        }
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        let at = self.started.elapsed().as_secs_f32();
        self.write(&format!("{clear}{at:7.2} s  {what} ({})\n", human(took)));
    }

    /// Prints a line as it is.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            let clear = if self.terminal { "\r\x1b[2K" } else { "" };
            self.write(&format!("{clear}{line}\n"));
        }
    }

    fn write(&self, text: &str) {
        // Progress that cannot be shown is no reason to stop.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Since the clock was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// `12 ms`, `3.4 s`.
pub fn human(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f32())
    }
}
