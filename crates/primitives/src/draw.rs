//! The draw: which worker a session gets. A pure function, so that any node, and a contract, can repeat it.
//!
//! Let `weight(c) = min(stake, stakeCap, 2^128 - 1) * reputation` and `total` the sum over the candidates in ascending
//! order of address. With
//! `seed = keccak256(abi.encode(bytes32 keccak256("lcai draw v1"), bytes32 blockHash, address user, uint256 nonce,
//! bytes32 modelId))` as a big-endian number, the drawn worker is the first whose cumulative weight exceeds
//! `seed mod total`. Nobody is drawn when `total` is zero.
//!
//! Bounds: the clamp to 128 bits (no supply reaches 2^128 wei) keeps a weight below 2^192, so the sum cannot overflow 256
//! bits with fewer than 2^64 candidates, and the bias of the remainder stays below 2^-64 as long as the sum is below 2^192.

use crate::ids::ModelId;
use alloy_primitives::{Address, B256, U256, b256, keccak256};
use alloy_sol_types::SolValue;
use serde::{Deserialize, Serialize};

/// Separates this use of the hash from every other: keccak256 of "lcai draw v1".
const DOMAIN: B256 = b256!("827bb58742a1a22c96db3e10b499762d21fabcf357d4923b906b8fe3b50ddf3d");

/// A worker that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Its account.
    pub worker: Address,
    /// Its stake, wei.
    pub stake: U256,
    /// Stake above this does not count, wei.
    pub stake_cap: U256,
    /// Its reputation score.
    pub reputation: u64,
}

impl Candidate {
    /// min(stake, cap, 2^128 - 1) × reputation; below 2^192.
    pub fn weight(&self) -> U256 {
        self.stake.min(self.stake_cap).min(U256::from(u128::MAX)) * U256::from(self.reputation)
    }
}

/// The number the draw is decided by.
pub fn draw_seed(block_hash: B256, user: Address, nonce: U256, model: ModelId) -> B256 {
    // The encoding of static values, without the allocations of an encoder: this is most of what a draw costs.
    let mut words = [0u8; 5 * 32];
    let values = [DOMAIN, block_hash, user.into_word(), B256::from(nonce), model.0];
    for (word, value) in words.as_chunks_mut().0.iter_mut().zip(values) {
        *word = value.0;
    }
    keccak256(words)
}

/// Draws a worker; `None` when there is no candidate with weight. The order of `candidates` does not matter.
pub fn draw(
    block_hash: B256,
    user: Address,
    nonce: U256,
    model: ModelId,
    candidates: &[Candidate],
) -> Option<Address> {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|c| c.worker);
    let total = sorted.iter().fold(U256::ZERO, |sum, c| sum + c.weight());
    if total.is_zero() {
        return None;
    }
    let point = U256::from_be_bytes(draw_seed(block_hash, user, nonce, model).0) % total;
    let mut cumulative = U256::ZERO;
    for candidate in sorted {
        cumulative += candidate.weight();
        if cumulative > point {
            return Some(candidate.worker);
        }
    }
    None
}

/// Separates the sortition's use of the hash.
const SORTITION_DOMAIN: &[u8] = b"lcai sortition v1";

/// Fraction bits of a ticket.
const TICKET_FRACTION: usize = 32;

/// Times the sortition's threshold doubles over its window.
const DOUBLINGS: u64 = 8;

/// Score by which the total stake counts, SessionManager's neutral one.
const NEUTRAL_SCORE: u64 = 5_000;

/// A worker's sortition ticket (`Draw.ticket`): minus log2 of a uniform number, 32 fraction bits. The lower, the sooner
/// its worker may claim.
pub fn sortition_ticket(seed: B256, request: U256, worker: Address) -> U256 {
    let hash = keccak256((keccak256(SORTITION_DOMAIN), seed, request, worker).abi_encode_params());
    log2_inverse((U256::from_be_bytes(hash.0) >> 128usize) | U256::ONE)
}

/// 128 - log2(u) for 0 < u < 2^128, rounded up to 32 fraction bits (`Draw.log2Inverse`).
fn log2_inverse(u: U256) -> U256 {
    let whole = u.bit_len().saturating_sub(1);
    let mut log = U256::from(whole) << TICKET_FRACTION;
    let mut mantissa = u << (127usize.saturating_sub(whole));
    for bit in (0..TICKET_FRACTION).rev() {
        // Below 2^128 before the square, so it fits.
        mantissa = (mantissa * mantissa) >> 127usize;
        if mantissa.bit_len() > 128 {
            mantissa >>= 1usize;
            log |= U256::ONE << bit;
        }
    }
    (U256::from(128u64) << TICKET_FRACTION) - log
}

/// What a sortition request decides by, for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sortition {
    /// Hash of the block after the request.
    pub seed: B256,
    /// The request's id.
    pub request: U256,
    /// Block of the request.
    pub request_block: u64,
    /// AIConfig's `claimWindowBlocks`.
    pub window: u64,
    /// Total stake at the end of the request's block, wei.
    pub total_stake: U256,
}

impl Sortition {
    /// The first block that may include the worker's claim (`SessionManager._passes`): two after the request at the
    /// soonest, the end of the window at the latest. `weight_since` is the last block in which the worker did something
    /// that may raise its weight (`WorkerRegistry.getWeightSince`): from the request's block on, it could have known the
    /// seed, so it has no ticket.
    pub fn first_block(&self, candidate: &Candidate, weight_since: u64) -> u64 {
        let first = self.request_block.saturating_add(2);
        if weight_since >= self.request_block {
            return first.saturating_add(self.window);
        }
        let ticket = sortition_ticket(self.seed, self.request, candidate.worker);
        let ticket = ticket.saturating_mul(self.total_stake.saturating_mul(U256::from(NEUTRAL_SCORE)));
        let passes = |elapsed: u64| {
            let doublings = DOUBLINGS * elapsed / self.window.max(1);
            let shift = TICKET_FRACTION.saturating_add(usize::try_from(doublings).unwrap_or(TICKET_FRACTION));
            ticket <= candidate.weight() << shift
        };
        let elapsed = (0..self.window).find(|elapsed| passes(*elapsed)).unwrap_or(self.window);
        first.saturating_add(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn column<T: serde::de::DeserializeOwned>(v: &Value, name: &str) -> Vec<T> {
        serde_json::from_value(v[name].clone()).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn field<T: serde::de::DeserializeOwned>(v: &Value, name: &str) -> T {
        serde_json::from_value(v[name].clone()).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The file is made by an independent implementation (testdata/vectors.py) and read by the Solidity tests too.
    #[test]
    fn draws_are_the_vectors() {
        let file: Value = serde_json::from_str(include_str!("../testdata/draw.json")).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        assert_eq!(file["count"], vectors.len());
        assert!(vectors.len() >= 12);
        for v in vectors {
            let name = v["name"].as_str().unwrap();
            let candidates: Vec<_> = column::<Address>(v, "workers")
                .into_iter()
                .zip(column::<U256>(v, "stakes"))
                .zip(column::<U256>(v, "stakeCaps"))
                .zip(column::<u64>(v, "reputations"))
                .map(|(((worker, stake), stake_cap), reputation)| Candidate {
                    worker,
                    stake,
                    stake_cap,
                    reputation,
                })
                .collect();
            let (hash, user, nonce, model) =
                (field(v, "blockHash"), field(v, "user"), field(v, "nonce"), field(v, "modelId"));
            assert_eq!(draw_seed(hash, user, nonce, model), field::<B256>(v, "seed"), "{name}");
            let total = candidates.iter().fold(U256::ZERO, |sum, c| sum + c.weight());
            assert_eq!(total, field::<U256>(v, "total"), "{name}");
            let drawn = draw(hash, user, nonce, model, &candidates);
            assert_eq!(drawn.unwrap_or_default(), field::<Address>(v, "drawn"), "{name}");
        }
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (any::<[u8; 20]>(), any::<[u8; 32]>(), any::<[u8; 32]>(), any::<u64>()).prop_map(
            |(w, s, c, r)| Candidate {
                worker: w.into(),
                stake: U256::from_be_bytes(s),
                stake_cap: U256::from_be_bytes(c),
                reputation: r,
            },
        );
        proptest::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn order_does_not_matter(mut list in candidates(), hash: [u8; 32], nonce: u64) {
            let (user, model) = (Address::repeat_byte(3), ModelId::from_name("m"));
            let first = draw(hash.into(), user, U256::from(nonce), model, &list);
            list.reverse();
            prop_assert_eq!(first, draw(hash.into(), user, U256::from(nonce), model, &list));
        }

        #[test]
        fn only_candidates_with_weight_are_drawn(list in candidates(), hash: [u8; 32]) {
            let drawn = draw(hash.into(), Address::ZERO, U256::ZERO, ModelId::default(), &list);
            let able: Vec<_> = list.iter().filter(|c| !c.weight().is_zero()).map(|c| c.worker).collect();
            match drawn {
                Some(worker) => prop_assert!(able.contains(&worker)),
                None => prop_assert!(able.is_empty()),
            }
        }
    }

    /// Shares follow weights: 3 to 1 within four standard deviations over 4000 draws.
    #[test]
    fn shares_follow_weights() {
        let stake = U256::from(1000);
        let one = |byte, reputation| Candidate {
            worker: Address::repeat_byte(byte),
            stake,
            stake_cap: stake,
            reputation,
        };
        let list = [one(1, 300), one(2, 100)];
        let heavy = (0..4000u64)
            .filter(|n| {
                draw(B256::repeat_byte(9), Address::ZERO, U256::from(*n), ModelId::default(), &list)
                    == Some(Address::repeat_byte(1))
            })
            .count();
        assert!((2890..=3110).contains(&heavy), "{heavy}");
    }

    #[test]
    fn tickets_are_logarithms() {
        for whole in 0..128usize {
            let exact = U256::from(128 - whole as u64) << TICKET_FRACTION;
            assert_eq!(log2_inverse(U256::ONE << whole), exact);
        }
        let three = log2_inverse(U256::from(3)).to::<u64>() as f64 / (1u64 << 32) as f64;
        assert!((128.0 - three - 3f64.log2()).abs() < 1e-9, "{three}");
    }

    /// The first claims follow the weights, and nobody waits longer than the window.
    #[test]
    fn the_order_of_claims_is_a_draw_by_weight() {
        let candidate = |n: u8, stake: u64| Candidate {
            worker: Address::repeat_byte(n),
            stake: U256::from(stake),
            stake_cap: U256::MAX,
            reputation: 5_000,
        };
        let (small, large) = (candidate(1, 1_000), candidate(2, 3_000));
        let mut first = [0u32; 2];
        for n in 0..4_000u64 {
            let seed = keccak256(n.to_be_bytes());
            let sortition = Sortition {
                seed,
                request: U256::from(n),
                request_block: 100,
                window: 64,
                total_stake: U256::from(4_000),
            };
            let blocks = [sortition.first_block(&small, 99), sortition.first_block(&large, 99)];
            assert_eq!(sortition.first_block(&large, 100), 166, "its weight may follow the seed");
            assert!(blocks.iter().all(|block| (102..=166).contains(block)));
            let ticket = |c: &Candidate| sortition_ticket(seed, U256::from(n), c.worker).to::<u64>() as f64;
            let arrival = [ticket(&small) / 1_000.0, ticket(&large) / 3_000.0];
            let winner = usize::from(arrival[1] < arrival[0]);
            first[winner] += 1;
            assert!(blocks[winner] <= blocks[1 - winner], "the sooner arrival never claims later");
        }
        let share = f64::from(first[1]) / 4_000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
    }
}
