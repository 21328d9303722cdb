//! Sortition: which requests the worker claims, and from which block on.
//!
//! A request's seed is the hash of the block after it. From it, the worker's weight, since when it has it, and everybody's
//! stake follows the first block that may include its claim, so that the claim is sent one block before.

use super::{
    WorkerCore, action,
    plan::{decode, request_calls},
    records::{ClaimTask, RequestRow},
    seconds,
};
use alloy_primitives::U256;
use alloy_sol_types::SolCall;
use lcai_host::{CoreError, EffectDepth, Effects, FeedBlock, FeedLog, OnRepeat};
use lcai_primitives::{
    contracts::{ReputationRegistry, SessionManager, WorkerRegistry},
    draw::{Candidate, Sortition},
    ids::ModelId,
};

/// SessionManager's cap on the stake that counts, in minimum stakes.
const STAKE_CAP_IN_MINIMUMS: u64 = 10;

/// Score where no ReputationRegistry is deployed.
const NEUTRAL_SCORE: u64 = 5_000;

impl WorkerCore {
    /// A log of SessionManager.
    pub(super) fn sortition_log(&mut self, block: &FeedBlock, log: &FeedLog) -> Result<(), CoreError> {
        if let Some(e) = decode::<SessionManager::SessionRequested>(log) {
            if self.config.models.contains(&ModelId(e.modelId))
                && let Ok(id) = u64::try_from(e.reqId)
                && let Some(row) = self.read_request(block, log, e.reqId)?
            {
                self.requests.insert(id, row);
            }
        } else if let Some(e) = decode::<SessionManager::SessionClaimed>(log)
            && let Ok(id) = u64::try_from(e.reqId)
        {
            let request = self.requests.remove(&id);
            if let Some(row) = request.filter(|_| e.worker == self.config.worker) {
                self.claimed.insert(id, row.expiry);
            }
        } else if let Some(e) = decode::<SessionManager::SessionReady>(log)
            && let Ok(id) = u64::try_from(e.reqId)
        {
            self.claimed.remove(&id);
        }
        Ok(())
    }

    /// The request with what the worker's place follows from; `None` for one that asks for capabilities it lacks.
    fn read_request(
        &self,
        block: &FeedBlock,
        log: &FeedLog,
        id: U256,
    ) -> Result<Option<RequestRow>, CoreError> {
        let mut calls = request_calls(&self.config.deployment, self.config.worker, id, block.number);
        let missing =
            || CoreError::MissingRead { number: block.number, what: format!("sortition request {id}") };
        let Some(since) = calls.pop() else { return Ok(None) };
        // A registry without the question counts everybody's weight, and blocks that were read before it was asked lack it.
        let weight_since = block.read(&since).and_then(Result::ok).and_then(|answer| {
            WorkerRegistry::getWeightSinceCall::abi_decode_returns(answer).ok().map(seconds)
        });
        let mut answers = Vec::with_capacity(calls.len());
        for call in &calls {
            let Ok(answer) = block.read(call).ok_or_else(missing)? else { return Ok(None) };
            answers.push(answer);
        }
        let [request, wanted, stake, has, total, rest @ ..] = answers.as_slice() else { return Ok(None) };
        let (Ok(request), Ok(wanted), Ok(stake), Ok(has), Ok(total_stake)) = (
            SessionManager::getRequestCall::abi_decode_returns(request),
            SessionManager::getRequiredCapabilitiesCall::abi_decode_returns(wanted),
            WorkerRegistry::getWorkerStakeCall::abi_decode_returns(stake),
            WorkerRegistry::getWorkerCapabilitiesCall::abi_decode_returns(has),
            WorkerRegistry::getTotalStakedCall::abi_decode_returns(total),
        ) else {
            return Ok(None);
        };
        if has & wanted != wanted {
            return Ok(None);
        }
        let score =
            rest.first().and_then(|score| ReputationRegistry::getScoreCall::abi_decode_returns(score).ok());
        Ok(Some(RequestRow {
            transaction: log.transaction_hash,
            block: block.number,
            expiry: request.expiry,
            stake,
            score: score.map_or(NEUTRAL_SCORE, seconds),
            total_stake,
            weight_since: weight_since.unwrap_or_default(),
            claim_in: None,
        }))
    }

    /// Works out where the worker stands once the seed is there, and asks for the claims whose block is next.
    pub(super) fn claim(&mut self, block: &FeedBlock, effects: &mut Effects) -> Result<(), CoreError> {
        let Some((window, minimum)) = self.params().map(|p| (p.claim_window_blocks, p.min_worker_stake))
        else {
            return Ok(());
        };
        let expired = self.claimed.iter().filter(|(_, expiry)| **expiry < block.timestamp);
        for id in expired.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.claimed.remove(&id);
        }
        let mut requests: Vec<(u64, RequestRow)> =
            self.requests.iter().map(|(id, row)| (*id, *row)).collect();
        for (id, row) in &mut requests {
            if row.expiry < block.timestamp {
                self.requests.remove(id);
                continue;
            }
            if block.number == row.block.saturating_add(1) {
                let sortition = Sortition {
                    seed: block.hash,
                    request: U256::from(*id),
                    request_block: row.block,
                    window,
                    total_stake: row.total_stake,
                };
                let candidate = Candidate {
                    worker: self.config.worker,
                    stake: row.stake,
                    stake_cap: minimum.saturating_mul(U256::from(STAKE_CAP_IN_MINIMUMS)),
                    reputation: row.score,
                };
                row.claim_in = Some(sortition.first_block(&candidate, row.weight_since));
                self.requests.insert(*id, *row);
            }
            let Some(claim_in) = row.claim_in else { continue };
            if block.number.saturating_add(1) == claim_in {
                let subject = self.own_subject(action::CLAIM, row.transaction, *id);
                let (origin, head, again) = (block.block_ref(), EffectDepth::Head, OnRepeat::Again);
                let task = ClaimTask { request: *id, claim_in };
                effects.push(origin, subject, action::CLAIM, head, again, Some(row.expiry), &task)?;
            }
        }
        Ok(())
    }
}
