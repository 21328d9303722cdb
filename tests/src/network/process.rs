//! A program of the network: where it runs, its log, and its end with ours.

use eyre::WrapErr;
use std::{
    fs::{File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a program may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// A program with its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    directory: PathBuf,
    namespace: Option<String>,
    environment: Vec<(String, String)>,
    /// Whether it leads a process group, which gets its signals.
    group: bool,
    child: Option<Child>,
}

impl Process {
    /// A program that is not started yet. It runs in `directory`, which is its home too, and writes `NAME.log` beside it;
    /// in a network namespace, where one is named.
    pub fn new(name: &str, program: &Path, directory: &Path, namespace: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments: Vec::new(),
            directory: directory.to_owned(),
            namespace: namespace.map(str::to_owned),
            environment: Vec::new(),
            group: false,
            child: None,
        }
    }

    /// Adds arguments, `--flag value` in one piece or alone.
    #[must_use]
    pub fn arguments<S: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        for argument in arguments {
            match argument.as_ref().split_once(' ') {
                Some((flag, value)) => self.arguments.extend([flag.to_owned(), value.to_owned()]),
                None => self.arguments.push(argument.as_ref().to_owned()),
            }
        }
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has signals reach the programs that it starts too.
    #[must_use]
    pub const fn with_children(mut self) -> Self {
        self.group = true;
        self
    }

    /// Which program it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, with these arguments more.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(&mut self, more: &[String]) -> eyre::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let log = OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(&self.arguments).args(more).current_dir(&self.directory).env("HOME", &self.directory);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.group {
            command.process_group(0);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = command.spawn().wrap_err_with(|| format!("starting {}", self.program.display()))?;
        self.child = Some(started);
        Ok(())
    }

    /// Starts it.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub fn start(&mut self) -> eyre::Result<()> {
        self.start_with(&[])
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it fails; with the end of its log.
    pub fn run(mut self) -> eyre::Result<()> {
        self.start()?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let status = child.wait()?;
        eyre::ensure!(status.success(), "{} failed ({status}):\n{}", self.name, self.log_end());
        Ok(())
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.signal("-KILL");
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to end, and waits until it has; after a while it is killed.
    pub fn stop(&mut self) {
        self.ask_to_stop();
        let until = Instant::now() + GRACE;
        while self.is_running() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.kill();
    }

    /// Asks it to end, and goes on.
    pub fn ask_to_stop(&mut self) {
        self.signal("-TERM");
    }

    /// Sends a signal, if it runs.
    pub fn signal(&mut self, signal: &str) {
        if self.is_running()
            && let Some(child) = &self.child
        {
            let group = if self.group { "-" } else { "" };
            let _ = Command::new("kill").args([signal, "--", &format!("{group}{}", child.id())]).status();
        }
    }

    /// Its log.
    pub fn log_file(&self) -> PathBuf {
        self.directory.with_file_name(format!("{}.log", self.name))
    }

    /// The end of its log.
    pub fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Lines of its log with one of these texts.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_lines(&self, texts: &[&str]) -> eyre::Result<Vec<String>> {
        use std::io::{BufRead, BufReader};
        let lines = BufReader::new(File::open(self.log_file())?).lines();
        let wanted = |line: &String| texts.iter().any(|text| line.contains(text));
        Ok(lines.map_while(Result::ok).filter(wanted).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
