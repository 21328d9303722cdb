//! Watches a network: prints slots and heads, and remembers when which block was final.

use super::{
    Net,
    consensus::{BeaconApi, Finality},
    execution::ExecutionApi,
    genesis::SLOTS_PER_EPOCH,
    unix_now,
};
use parking_lot::Mutex;
use std::{fmt, sync::Arc, time::Duration};

/// What the network looked like at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Unix seconds.
    pub time: u64,
    /// What each beacon node says; `None` for one that does not answer.
    pub beacons: Vec<Option<Finality>>,
    /// Per execution node: heights of head, safe and finalized.
    pub executions: Vec<Option<[u64; 3]>>,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for beacon in &self.beacons {
            match beacon {
                Some(Finality { head, justified, finalized }) => {
                    write!(f, " {head}/{justified}/{finalized}")?;
                }
                None => f.write_str(" -")?,
            }
        }
        f.write_str("  blocks head/safe/final")?;
        for execution in &self.executions {
            match execution {
                Some([head, safe, finalized]) => write!(f, " {head}/{safe}/{finalized}")?,
                None => f.write_str(" -")?,
            }
        }
        Ok(())
    }
}

/// Looks at every node once a slot.
#[derive(Debug, Clone)]
pub struct Watch {
    beacons: Vec<BeaconApi>,
    executions: Vec<ExecutionApi>,
    genesis: u64,
    slot_seconds: u64,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Watch {
    /// A watch over the network; prints a line every so many slots.
    pub fn start(net: &Net, every: u64) -> Self {
        let executions = [&net.reth[0], &net.reth[1], &net.geth];
        let watch = Self {
            beacons: net.beacons.iter().map(|beacon| beacon.api.clone()).collect(),
            executions: executions.iter().map(|node| node.api.clone()).collect(),
            genesis: net.genesis.time,
            slot_seconds: net.plan.slot_seconds,
            samples: Arc::default(),
        };
        let running = watch.clone();
        tokio::spawn(async move { running.run(every).await });
        watch
    }

    async fn run(&self, every: u64) {
        let mut printed = None;
        loop {
            let sample = self.look().await;
            let slot = sample.time.saturating_sub(self.genesis) / self.slot_seconds;
            if sample.time >= self.genesis && printed.is_none_or(|printed| slot >= printed + every) {
                printed = Some(slot);
                println!(
                    "slot {slot} (epoch {})  beacons slot/justified/final{sample}",
                    slot / SLOTS_PER_EPOCH
                );
            }
            self.samples.lock().push(sample);
            tokio::time::sleep(Duration::from_secs(self.slot_seconds)).await;
        }
    }

    async fn look(&self) -> Sample {
        let mut sample = Sample { time: unix_now(), beacons: Vec::new(), executions: Vec::new() };
        for beacon in &self.beacons {
            sample.beacons.push(beacon.finality().await.ok());
        }
        for execution in &self.executions {
            let mut heights = [0; 3];
            let mut answered = true;
            for (height, id) in heights.iter_mut().zip(["latest", "safe", "finalized"]) {
                match execution.height(id).await {
                    Ok(found) => *height = found.unwrap_or_default(),
                    Err(_) => answered = false,
                }
            }
            sample.executions.push(answered.then_some(heights));
        }
        sample.time = unix_now();
        sample
    }

    /// The newest sample.
    pub fn now(&self) -> Option<Sample> {
        self.samples.lock().last().cloned()
    }

    /// When a block was seen to be final on an execution node for the first time, unix seconds.
    pub fn final_since(&self, node: usize, block: u64) -> Option<u64> {
        let samples = self.samples.lock();
        let is_final = |sample: &&Sample| sample.executions[node].is_some_and(|heights| heights[2] >= block);
        samples.iter().find(is_final).map(|sample| sample.time)
    }

    /// The highest finalized epoch that all beacon nodes agree on.
    pub fn finalized(&self) -> u64 {
        let Some(sample) = self.now() else { return 0 };
        sample.beacons.iter().map(|beacon| beacon.map_or(0, |beacon| beacon.finalized)).min().unwrap_or(0)
    }

    /// Waits until something holds of the newest sample.
    ///
    /// # Errors
    /// When it does not within so many seconds.
    pub async fn until(
        &self,
        what: &str,
        seconds: u64,
        holds: impl Fn(&Sample) -> bool,
    ) -> eyre::Result<Sample> {
        for _ in 0..seconds {
            if let Some(sample) = self.now().filter(|sample| holds(sample)) {
                return Ok(sample);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        eyre::bail!("waited for {seconds} s: {what}")
    }
}
