//! The directory of one model at one block: what a draw decides by, and what is kept so that it can be repeated.

use crate::{
    core::DispatchCore,
    error::DispatchError,
    members::{Load, Members, Record},
    records::Worker,
    standing::weighed_score,
};
use alloy_primitives::{Address, B256, U256, keccak256};
use lcai_host::BlockRef;
use lcai_primitives::{draw, eip712::SignedHeartbeat, ids::ModelId};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, sync::OnceLock};

/// Stake above this many minimum stakes does not raise a worker's weight, so that no one draws all sessions.
pub(crate) const STAKE_CAP_IN_MINIMUMS: u64 = 10;

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
    /// Its newest heartbeat, under its own signature.
    pub heartbeat: Option<SignedHeartbeat>,
    /// Why it was no candidate; `None` for a candidate.
    pub why_not: Option<Cow<'static, str>>,
}

impl DrawnWorker {
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

/// What a draw of the model goes by of a worker.
pub(crate) fn row(core: &DispatchCore, address: Address, worker: &Worker, model: &ModelId) -> (Record, Load) {
    let record = Record {
        worker: address,
        stake: worker.stake,
        score: worker.reputation,
        standing_bps: core.standing_of(&address),
        why_not: core.ineligible_because(worker, model).map(Cow::Borrowed),
    };
    let capacity = core.capacity(core.health_of(&address), core.block_time());
    (record, Load { open_jobs: core.open_jobs_of(&address), capacity })
}

/// Everything a draw of one model at one block decides by.
#[derive(Debug, Clone)]
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
    pub workers: Members,
    /// Cumulative weights, see [`Members::sums`].
    sums: Vec<U256>,
    /// Hash of the encoding, once somebody asked for it.
    hash: OnceLock<B256>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        (self.block, self.block_time, self.model_id, self.stake_cap)
            == (other.block, other.block_time, other.model_id, other.stake_cap)
            && self.workers == other.workers
    }
}

impl Eq for Snapshot {}

/// What the journal has of a snapshot.
#[derive(Serialize, Deserialize)]
struct Encoded<W> {
    block: BlockRef,
    block_time: u64,
    model_id: ModelId,
    stake_cap: U256,
    workers: W,
}

impl Snapshot {
    /// The directory as it stands at a block, made by looking at every worker; [`crate::Directories`] looks at those that
    /// changed.
    pub fn of(core: &DispatchCore, block: BlockRef, model: ModelId) -> Result<Self, DispatchError> {
        let min_worker_stake = core.known_params()?.min_worker_stake;
        let stake_cap = min_worker_stake.saturating_mul(U256::from(STAKE_CAP_IN_MINIMUMS));
        let listed = || core.workers().filter(|(_, worker)| worker.models.contains(&model));
        let workers = listed().map(|(address, worker)| row(core, *address, worker, &model)).collect();
        let heard = listed()
            .map(|(address, _)| (*address, core.health_of(address).map(|h| h.heartbeat.clone())))
            .collect();
        Ok(Self::new(block, core.block_time(), model, Members::of(stake_cap, workers, heard)))
    }

    pub(crate) fn new(block: BlockRef, block_time: u64, model_id: ModelId, workers: Members) -> Self {
        let (stake_cap, sums) = (workers.stake_cap(), workers.sums());
        Self { block, block_time, model_id, stake_cap, workers, sums, hash: OnceLock::new() }
    }

    /// A directory made by hand; `workers` are ordered by address.
    #[cfg(test)]
    pub(crate) fn for_test(
        block: BlockRef,
        model_id: ModelId,
        stake_cap: U256,
        workers: Vec<DrawnWorker>,
    ) -> Self {
        Self::new(block, 1, model_id, Members::of_drawn(stake_cap, workers))
    }

    /// The candidates, ordered by address.
    pub fn candidates(&self) -> impl Iterator<Item = DrawnWorker> {
        self.workers.candidates()
    }

    /// Whether the worker can be drawn.
    pub fn has_candidate(&self, worker: &Address) -> bool {
        self.workers.has_candidate(worker)
    }

    /// The draw of `lcai_primitives::draw`, by the sums of pages and then by the weights of one page.
    pub fn draw(&self, user: Address, nonce: U256) -> Option<Address> {
        let total = self.sums.last().copied().filter(|total| !total.is_zero())?;
        let seed = draw::draw_seed(self.block.hash, user, nonce, self.model_id);
        self.workers.at(&self.sums, U256::from_be_bytes(seed.0) % total)
    }

    /// For the journal.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(&Encoded {
            block: self.block,
            block_time: self.block_time,
            model_id: self.model_id,
            stake_cap: self.stake_cap,
            workers: &self.workers,
        })
    }

    /// Hash of [`Self::encode`], worked out once for all draws that share the snapshot.
    pub(crate) fn hash(&self) -> Result<B256, postcard::Error> {
        if let Some(hash) = self.hash.get() {
            return Ok(*hash);
        }
        let hash = keccak256(self.encode()?);
        Ok(*self.hash.get_or_init(|| hash))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        let Encoded { block, block_time, model_id, stake_cap, workers } = postcard::from_bytes(bytes)?;
        Ok(Self::new(block, block_time, model_id, Members::of_drawn(stake_cap, workers)))
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
                heartbeat: Some(crate::tests::heartbeat_of(1, 4, 1)),
                why_not: out.then_some(Cow::Borrowed("draining")),
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
            let snapshot = Snapshot::for_test(block, ModelId::from_name("m"), cap, workers.clone());
            let (model_id, stake_cap) = (snapshot.model_id, snapshot.stake_cap);
            let plain = Encoded { block, block_time: 1, model_id, stake_cap, workers };
            prop_assert_eq!(snapshot.encode().unwrap(), postcard::to_stdvec(&plain).unwrap());
            let candidates: Vec<draw::Candidate> = snapshot
                .candidates()
                .map(|w| draw::Candidate {
                    worker: w.worker,
                    stake: w.stake,
                    stake_cap: snapshot.stake_cap,
                    reputation: w.reputation(),
                })
                .collect();
            let bytes = snapshot.encode().unwrap();
            let kept = Snapshot::decode(&bytes).unwrap();
            prop_assert_eq!(&kept, &snapshot);
            prop_assert_eq!(kept.hash().unwrap(), keccak256(&bytes));
            prop_assert_eq!(kept.encode().unwrap(), bytes);
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
