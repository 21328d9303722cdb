//! How many readers and streaming sessions a relay carries: this one, and beside it a relay in Node.js (`ws`) that makes
//! the same checks on the same frames, in one run.
//!
//! `cargo run --release -p lcai-rpc --example relay_load [READERS] [SESSIONS] [FRAMES_PER_SECOND] [SECONDS]`
//! (10,000 readers, 100 sessions, 200 frames/s in all and 20 s unless given). The relay runs on core 0, the generator on
//! core 1 (`taskset`). The peer needs `npm ci` in `examples/`; without it only our figures are printed. Each reader has
//! a connection of its own: at most as many as `ulimit -n` allows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod drive;
mod scripted;

use drive::{Figures, Load};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => runtime(scripted::serve()),
        ["drive", url, load @ ..] => {
            let figures = runtime(drive::run(url, Load::parse(load)));
            println!("{}", serde_json::to_string(&figures).unwrap());
        }
        load => compare(load),
    }
}

fn runtime<T>(work: impl Future<Output = T>) -> T {
    // One core each: more threads only take turns.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

/// Runs both relays one after the other under the same load.
fn compare(load: &[&str]) {
    let own = std::env::current_exe().unwrap();
    println!("load: {}\n", Load::parse(load));
    let ours = measure(Command::new("taskset").args(["-c", "0"]).arg(&own).arg("serve"), &own, load);
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/relay-peer.mjs");
    let peer = measure(Command::new("taskset").args(["-c", "0", "node", peer]), &own, load);
    println!(
        "| relay | frames/s delivered | p50 | p99 | p99.9 | lost | memory | CPU |\n|---|---|---|---|---|---|---|---|"
    );
    for (name, run) in [("lcai", &ours), ("Node.js ws", &peer)] {
        match run {
            Some((f, memory, cpu)) => println!(
                "| {name} | {:.0} | {:.1} ms | {:.1} ms | {:.1} ms | {} | {memory} MiB | {cpu:.1} s |",
                f.delivered_per_second, f.p50_ms, f.p99_ms, f.p999_ms, f.lost
            ),
            None => println!("| {name} | did not run | | | | | | |"),
        }
    }
    if let (Some((ours, _, our_cpu)), Some((peer, _, peer_cpu))) = (ours, peer) {
        println!(
            "\nratio to the peer: delivered {:.2}, p99 {:.2}, CPU {:.2}",
            ours.delivered_per_second / peer.delivered_per_second,
            ours.p99_ms / peer.p99_ms,
            our_cpu / peer_cpu
        );
    }
}

/// Starts a relay, which prints its address, and drives it. Gives the figures, the relay's resident MiB, its CPU seconds.
fn measure(relay: &mut Command, own: &std::path::Path, load: &[&str]) -> Option<(Figures, u64, f64)> {
    let mut relay = Stopped(relay.stdout(Stdio::piped()).spawn().ok()?);
    let mut url = String::new();
    BufReader::new(relay.0.stdout.take()?).read_line(&mut url).ok()?;
    let before = cpu_seconds(relay.0.id());
    let output = Command::new("taskset")
        .args(["-c", "1"])
        .arg(own)
        .args(["drive", url.trim()])
        .args(load)
        .stderr(Stdio::inherit())
        .output()
        .ok()?;
    let figures = serde_json::from_slice(&output.stdout).ok()?;
    Some((figures, resident_mib(relay.0.id()), cpu_seconds(relay.0.id()) - before))
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// User and system time, at the 100 ticks a second that Linux reports in.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}
