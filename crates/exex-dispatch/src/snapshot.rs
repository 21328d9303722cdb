//! The directory of one model at one block: what a draw decides by, and what is kept so that it can be repeated.

use crate::{
    core::DispatchCore,
    error::DispatchError,
    records::{Worker, WorkerState},
    standing::weighed_score,
};
use alloy_primitives::{Address, B256, U256, keccak256};
use lcai_host::BlockRef;
use lcai_primitives::{draw, ids::ModelId};
use serde::{Deserialize, Serialize};

/// Stake above this many minimum stakes does not raise a worker's weight, so that no one draws all sessions.
const STAKE_CAP_IN_MINIMUMS: u64 = 10;

/// A worker that lists the model, as a draw saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrawnWorker {
    /// Its account.
    pub worker: Address,
    /// Its stake, wei.
    pub stake: U256,
    /// Its score in ReputationRegistry.
    pub score: u64,
    /// Its standing, basis points: see [`crate::standing`].
    pub standing_bps: u32,
    /// Its open jobs.
    pub open_jobs: u64,
    /// Jobs it wants to have at once, from its newest heartbeat.
    pub max_jobs: Option<u32>,
    /// When it signed that heartbeat, unix seconds.
    pub last_heartbeat: Option<u64>,
    /// Why it was no candidate; `None` for a candidate.
    pub why_not: Option<String>,
}

impl DrawnWorker {
    fn new(core: &DispatchCore, address: Address, worker: &Worker, model: &ModelId) -> Self {
        let health = core.health_of(&address);
        let why_not = core.ineligible_because(worker, model).map(str::to_owned).or_else(|| {
            let state = core.state_of(&address)?;
            (state != WorkerState::Ready).then(|| unready(state, worker.open_jobs).to_owned())
        });
        Self {
            worker: address,
            stake: worker.stake,
            score: worker.reputation,
            standing_bps: worker.standing_bps,
            open_jobs: worker.open_jobs,
            max_jobs: health.map(|h| h.max_jobs),
            last_heartbeat: health.map(|h| h.last_heartbeat),
            why_not,
        }
    }

    /// What its score counts: score × standing.
    pub fn reputation(&self) -> u64 {
        weighed_score(self.score, self.standing_bps)
    }

    /// Its weight as a candidate: min(stake, cap) × reputation.
    pub fn weight(&self, stake_cap: U256) -> U256 {
        let (worker, stake, reputation) = (self.worker, self.stake, self.reputation());
        draw::Candidate { worker, stake, stake_cap, reputation }.weight()
    }
}

const fn unready(state: WorkerState, open_jobs: u64) -> &'static str {
    match state {
        WorkerState::Ready => "ready",
        WorkerState::Busy if open_jobs == 0 => "wants no jobs",
        WorkerState::Busy => "busy: as many open jobs as it may or wants to have",
        WorkerState::Draining => "draining: it takes no new sessions",
        WorkerState::Unready => "its model backend does not answer",
        WorkerState::Stale => "stale: no recent heartbeat",
        WorkerState::Jailed => "suspended",
    }
}

/// Everything a draw of one model at one block decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The block whose hash seeds draws.
    pub block: BlockRef,
    /// Its time, unix seconds, by which heartbeats are judged.
    pub block_time: u64,
    /// The model.
    pub model_id: ModelId,
    /// Cap on the stake that counts, wei.
    pub stake_cap: U256,
    /// Every worker that lists the model, ordered by address.
    pub workers: Vec<DrawnWorker>,
    /// Cumulative weights of those that are candidates, with their place in `workers`.
    #[serde(skip)]
    cumulative: Vec<(U256, usize)>,
}

impl Snapshot {
    /// The directory as it stands at a block.
    pub fn of(core: &DispatchCore, block: BlockRef, model: ModelId) -> Result<Self, DispatchError> {
        let params = core
            .params()
            .ok_or_else(|| DispatchError::Internal("AIConfig's parameters are not known yet".into()))?;
        let stake_cap = params.min_worker_stake.saturating_mul(U256::from(STAKE_CAP_IN_MINIMUMS));
        let workers = core
            .workers()
            .filter(|(_, worker)| worker.models.contains(&model))
            .map(|(address, worker)| DrawnWorker::new(core, *address, worker, &model))
            .collect();
        let snapshot = Self {
            block,
            block_time: core.block_time(),
            model_id: model,
            stake_cap,
            workers,
            cumulative: Vec::new(),
        };
        Ok(snapshot.summed())
    }

    /// A directory made by hand; `workers` are ordered by address.
    #[cfg(test)]
    pub(crate) fn for_test(
        block: BlockRef,
        model_id: ModelId,
        stake_cap: U256,
        workers: Vec<DrawnWorker>,
    ) -> Self {
        Self { block, block_time: 1, model_id, stake_cap, workers, cumulative: Vec::new() }.summed()
    }

    fn summed(mut self) -> Self {
        let mut sum = U256::ZERO;
        self.cumulative = self
            .candidates()
            .map(|(place, worker)| {
                sum += worker.weight(self.stake_cap);
                (sum, place)
            })
            .collect();
        self
    }

    /// The candidates, ordered by address, with their place.
    pub fn candidates(&self) -> impl Iterator<Item = (usize, &DrawnWorker)> {
        self.workers.iter().enumerate().filter(|(_, worker)| worker.why_not.is_none())
    }

    /// Whether the worker can be drawn.
    pub fn has_candidate(&self, worker: &Address) -> bool {
        self.workers
            .binary_search_by_key(worker, |w| w.worker)
            .ok()
            .and_then(|place| self.workers.get(place))
            .is_some_and(|w| w.why_not.is_none())
    }

    /// The draw of `lcai_primitives::draw`, in logarithmic time: all draws of a block share the sums.
    pub fn draw(&self, user: Address, nonce: U256) -> Option<Address> {
        let total = self.cumulative.last().map(|(sum, _)| *sum).filter(|total| !total.is_zero())?;
        let seed = draw::draw_seed(self.block.hash, user, nonce, self.model_id);
        let point = U256::from_be_bytes(seed.0) % total;
        let first = self.cumulative.partition_point(|(sum, _)| *sum <= point);
        self.cumulative.get(first).and_then(|(_, place)| self.workers.get(*place)).map(|w| w.worker)
    }

    /// For the journal.
    pub(crate) fn encode(&self) -> Result<(B256, Vec<u8>), postcard::Error> {
        let bytes = postcard::to_stdvec(self)?;
        Ok((keccak256(&bytes), bytes))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes::<Self>(bytes).map(Self::summed)
    }
}

/// A draw that was authorized, with what it was decided by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawRecord {
    /// The account the session is for.
    pub user: Address,
    /// Its session nonce.
    pub nonce: U256,
    /// The worker that was authorized.
    pub worker: Address,
    /// The directory.
    pub snapshot: Snapshot,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn worker() -> impl Strategy<Value = DrawnWorker> {
        (any::<[u8; 20]>(), any::<u64>(), 0..10_000u64, 1_000..=10_000u32, any::<bool>()).prop_map(
            |(address, stake, score, standing_bps, out)| DrawnWorker {
                worker: address.into(),
                stake: U256::from(stake),
                score,
                standing_bps,
                open_jobs: 0,
                max_jobs: Some(4),
                last_heartbeat: Some(1),
                why_not: out.then(|| "draining".to_owned()),
            },
        )
    }

    proptest! {
        /// The shared sums give what the function that contracts and other nodes repeat gives, and the journal keeps it.
        #[test]
        fn the_quick_draw_is_the_draw(
            mut workers in prop::collection::vec(worker(), 0..40),
            users in prop::collection::vec((any::<[u8; 20]>(), any::<u64>()), 1..20),
        ) {
            workers.sort_by_key(|w| w.worker);
            workers.dedup_by_key(|w| w.worker);
            let block = BlockRef { number: 7, hash: B256::repeat_byte(7) };
            let cap = U256::from(u64::MAX / 2);
            let snapshot = Snapshot::for_test(block, ModelId::from_name("m"), cap, workers);
            let candidates: Vec<draw::Candidate> = snapshot
                .candidates()
                .map(|(_, w)| draw::Candidate {
                    worker: w.worker,
                    stake: w.stake,
                    stake_cap: snapshot.stake_cap,
                    reputation: w.reputation(),
                })
                .collect();
            let (hash, bytes) = snapshot.encode().unwrap();
            let kept = Snapshot::decode(&bytes).unwrap();
            prop_assert_eq!(kept.encode().unwrap().0, hash);
            for (user, nonce) in users {
                let (user, nonce) = (Address::from(user), U256::from(nonce));
                let drawn = draw::draw(snapshot.block.hash, user, nonce, snapshot.model_id, &candidates);
                prop_assert_eq!(snapshot.draw(user, nonce), drawn);
                prop_assert_eq!(kept.draw(user, nonce), drawn);
                if let Some(drawn) = drawn {
                    prop_assert!(snapshot.has_candidate(&drawn));
                }
            }
        }
    }
}
