//! The one task that gives out an account's nonces.

use super::{
    Job, LaneClass, LaneConfig, LaneError, Sent, TxSpec,
    build::{Fees, Terms, sign, versioned_hashes},
};
use crate::{HostClient, HostError, TransactionRequest, feed::Backoff};
use alloy_primitives::{B256, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Times a refused or unanswered sending is tried before the caller hears of it.
const MAX_TRIES: u32 = 8;
/// Nonces a gap may have; a reorg that drops more of this account's transactions is left to the operator.
const MAX_GAP: u64 = 32;
/// Gas of a plain transfer, which fills a gap.
const TRANSFER_GAS: u64 = 21_000;
/// Looks at a receipt after the nonce was seen spent, before concluding that somebody else spent it.
const FOREIGN_CHECKS: u32 = 10;
/// Included transactions that are remembered, for reorgs that take them back.
const MAX_INCLUDED: usize = 256;

/// A transaction in the pool.
struct Pending {
    spec: TxSpec,
    gas_limit: u64,
    fees: Fees,
    hashes: Vec<B256>,
    raw: Bytes,
    first_sent: Instant,
    last_sent: Instant,
    /// When these bytes were last given to the pool, for the same price.
    offered: Instant,
    bumps: u32,
    spent_unseen: u32,
    reply: oneshot::Sender<Result<Sent, LaneError>>,
}

/// A transaction that was included when last looked at.
struct Included {
    spec: TxSpec,
    sent: Submitted,
}

pub(super) struct Worker {
    client: Arc<dyn HostClient>,
    signer: PrivateKeySigner,
    config: LaneConfig,
    pending: BTreeMap<u64, Pending>,
    included: BTreeMap<u64, Included>,
    /// The nonce a gap was last filled from, and when.
    mended: Option<(u64, Instant)>,
}

/// A transaction the pool took.
struct Submitted {
    nonce: u64,
    gas_limit: u64,
    fees: Fees,
    hash: B256,
    raw: Bytes,
}

/// What to do about a refusal.
enum Refusal {
    /// Ask the node for the nonce again.
    Nonce,
    /// Pay more.
    Fee,
    /// Wait: the pool holds a transaction of the other class, or the node is not there.
    Wait,
    /// Tell the caller.
    Final(LaneError),
}

/// Whether two transactions do the same.
fn is_same(one: &TxSpec, other: &TxSpec) -> bool {
    let blobs = || versioned_hashes(one) == versioned_hashes(other);
    one.to == other.to && one.value == other.value && one.input == other.input && blobs()
}

impl Worker {
    pub(super) fn new(client: Arc<dyn HostClient>, signer: PrivateKeySigner, config: LaneConfig) -> Self {
        let (pending, included) = Default::default();
        Self { client, signer, config, pending, included, mended: None }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            let room = self.pending.len() < self.config.max_in_flight.max(1);
            tokio::select! {
                job = queue.recv(), if room => match job {
                    Some(job) => self.begin(job).await,
                    // The lane is gone, and with it everyone who waits.
                    None => return,
                },
                () = tokio::time::sleep(self.config.poll), if !self.pending.is_empty() => self.look().await,
            }
        }
    }

    async fn begin(&mut self, job: Job) {
        let submitted = match self.taken_back(&job.spec).await {
            Some(submitted) => Ok(submitted),
            None => self.submit(&job.spec).await,
        };
        match submitted {
            Ok(Submitted { nonce, gas_limit, fees, hash, raw }) => {
                if let Some(taken) = job.taken {
                    // Whoever asked may have gone; the transaction is sent all the same.
                    let _ = taken.send(hash);
                }
                let now = Instant::now();
                let pending = Pending {
                    spec: job.spec,
                    gas_limit,
                    fees,
                    hashes: vec![hash],
                    raw,
                    first_sent: now,
                    last_sent: now,
                    offered: now,
                    bumps: 0,
                    spent_unseen: 0,
                    reply: job.reply,
                };
                self.included.remove(&nonce);
                self.pending.insert(nonce, pending);
            }
            // The caller may have stopped waiting.
            Err(error) => drop(job.reply.send(Err(error))),
        }
    }

    /// The same transaction, where it was included and a reorg took it back: the pool may have it again, and with another
    /// nonce it would be sent twice. Where the pool has lost it, it is [offered again](Self::offer_again).
    async fn taken_back(&mut self, spec: &TxSpec) -> Option<Submitted> {
        let known = self.included.iter().find(|(_, included)| is_same(&included.spec, spec));
        let nonce = *known?.0;
        let spent = self.client.nonce(self.signer.address(), false).await.ok()?;
        if spent > nonce || self.pending.contains_key(&nonce) {
            return None;
        }
        let Included { sent, .. } = self.included.remove(&nonce)?;
        tracing::info!(nonce, hash = %sent.hash, account = %self.signer.address(), "a reorg took a transaction back");
        // Where the pool has it, this is refused.
        if let Err(error) = self.client.send_raw_transaction(sent.raw.clone()).await {
            tracing::debug!(nonce, %error, "a transaction that was taken back was refused");
        }
        Some(sent)
    }

    /// Remembers a transaction that was included.
    fn remember(&mut self, nonce: u64, pending: &Pending, hash: B256) {
        // Of one that was replaced only the newest bytes are kept.
        if pending.hashes.last() != Some(&hash) {
            return;
        }
        let Pending { gas_limit, fees, .. } = *pending;
        let sent = Submitted { nonce, gas_limit, fees, hash, raw: pending.raw.clone() };
        self.included.insert(nonce, Included { spec: pending.spec.clone(), sent });
        if self.included.len() > MAX_INCLUDED {
            self.included.pop_first();
        }
    }

    /// Estimates, prices, signs and sends. After an answer that got lost the very same bytes are sent again: with another
    /// nonce the transaction could happen twice.
    async fn submit(&self, spec: &TxSpec) -> Result<Submitted, LaneError> {
        let gas_limit = self.gas_limit(spec).await?;
        let mut fees = self.fees().await?;
        let mut nonce = self.next_nonce().await?;
        let mut backoff = Backoff::new(self.config.poll, Duration::from_secs(5));
        let mut unanswered = None;
        for _ in 0..MAX_TRIES {
            let terms = Terms { chain_id: self.client.chain_id(), nonce, gas_limit, fees };
            let (hash, raw) = sign(spec, terms, &self.signer)?;
            let submitted = Submitted { nonce, gas_limit, fees, hash, raw: raw.clone() };
            let Err(error) = self.client.send_raw_transaction(raw).await else { return Ok(submitted) };
            if error.is_transient() {
                unanswered = Some(hash);
            }
            match self.explain(error) {
                Refusal::Final(error) => return Err(error),
                Refusal::Wait => {}
                // Of the bytes that got no answer, this says that they were taken.
                _ if unanswered == Some(hash) => return Ok(submitted),
                Refusal::Nonce => nonce = self.next_nonce().await?,
                Refusal::Fee => fees = self.raised(fees)?,
            }
            tokio::time::sleep(backoff.next()).await;
        }
        Err(match unanswered {
            Some(hash) => LaneError::NotIncluded { hash },
            None => {
                HostError::Unreachable(format!("the node refused a transaction {MAX_TRIES} times")).into()
            }
        })
    }

    async fn gas_limit(&self, spec: &TxSpec) -> Result<u64, LaneError> {
        if let Some(limit) = spec.gas_limit {
            return Ok(limit);
        }
        let request = TransactionRequest {
            from: self.signer.address(),
            to: spec.to,
            value: spec.value,
            input: spec.input.clone(),
            blob_versioned_hashes: versioned_hashes(spec),
        };
        let estimate =
            self.client.estimate_gas(request).await.map_err(|error| self.refused_estimate(error))?;
        Ok(estimate.saturating_add(estimate.saturating_mul(self.config.gas_margin) / 100))
    }

    fn refused_estimate(&self, error: HostError) -> LaneError {
        match self.explain(error) {
            Refusal::Final(error) => error,
            _ => LaneError::Host(HostError::Unreachable("gas cannot be estimated now".into())),
        }
    }

    async fn fees(&self) -> Result<Fees, LaneError> {
        let (base, blob) = self.client.base_fees().await?;
        let LaneConfig { tip, base_fee_factor, max_fee, max_blob_fee, class, .. } = self.config;
        if base > max_fee {
            return Err(LaneError::FeeCap { needed: base, cap: max_fee, unit: "gas" });
        }
        if class == LaneClass::Blob && blob > max_blob_fee {
            return Err(LaneError::FeeCap { needed: blob, cap: max_blob_fee, unit: "blob gas" });
        }
        let max_fee = (base.saturating_mul(base_fee_factor) / 100).saturating_add(tip).min(max_fee);
        Ok(Fees { tip: tip.min(max_fee), max_fee, blob: blob.saturating_mul(2).max(1).min(max_blob_fee) })
    }

    /// What a replacement must pay: pools ask for a tenth more, and for twice as much from blob transactions.
    fn raised(&self, fees: Fees) -> Result<Fees, LaneError> {
        let raise = |fee: u128| match self.config.class {
            LaneClass::Ordinary => fee.saturating_add(fee / 8).saturating_add(1),
            LaneClass::Blob => fee.saturating_mul(2).saturating_add(1),
        };
        let raised = Fees { tip: raise(fees.tip), max_fee: raise(fees.max_fee), blob: raise(fees.blob) };
        let cap = |needed, cap, unit| {
            if needed > cap { Err(LaneError::FeeCap { needed, cap, unit }) } else { Ok(()) }
        };
        cap(raised.max_fee, self.config.max_fee, "gas")?;
        if self.config.class == LaneClass::Blob {
            cap(raised.blob, self.config.max_blob_fee, "blob gas")?;
        }
        Ok(raised)
    }

    /// The next nonce: after our own in flight, else what the node says, its pool included.
    async fn next_nonce(&self) -> Result<u64, LaneError> {
        let pool = self.client.nonce(self.signer.address(), true).await?;
        let own = self.pending.last_key_value().map_or(0, |(nonce, _)| nonce + 1);
        Ok(pool.max(own))
    }

    fn explain(&self, error: HostError) -> Refusal {
        let (code, message) = match error {
            HostError::Reverted(data) => return Refusal::Final(LaneError::reverted(data)),
            HostError::Rejected { code, ref message, .. } => (code, message.clone()),
            error if error.is_transient() => {
                tracing::debug!(%error, account = %self.signer.address(), "the node does not take a transaction now");
                return Refusal::Wait;
            }
            error => return Refusal::Final(error.into()),
        };
        let lower = message.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if says(&["already reserved", "conflicting transaction type"]) {
            return Refusal::Wait;
        }
        if says(&["nonce"]) {
            return Refusal::Nonce;
        }
        if says(&["underpriced", "fee too low", "less than block base fee", "fee cap less"]) {
            return Refusal::Fee;
        }
        if says(&["insufficient funds", "enough balance", "exceeds balance"]) {
            return Refusal::Final(LaneError::Underfunded { account: self.signer.address(), message });
        }
        let method = "eth_sendRawTransaction".to_owned();
        Refusal::Final(LaneError::Host(HostError::Rejected { method, code, message }))
    }

    /// Looks for receipts, replaces what is stuck, and mends what a reorg dropped.
    async fn look(&mut self) {
        let account = self.signer.address();
        let Ok(spent) = self.client.nonce(account, false).await else { return };
        // Asked after what is spent: a block in between makes it higher, never lower.
        let Ok(pool) = self.client.nonce(account, true).await else { return };
        let settled = self.config.poll * 8;
        let waits = |first: &Pending| first.offered.elapsed() > settled;
        let lost = pool <= spent && self.pending.get(&spent).is_some_and(waits);
        let nonces: Vec<u64> = self.pending.keys().copied().collect();
        for nonce in nonces {
            let Some(mut pending) = self.pending.remove(&nonce) else { continue };
            match self.settle(nonce, &mut pending, spent, lost).await {
                Some(result) => {
                    if let Ok(sent) = &result {
                        self.remember(nonce, &pending, sent.hash);
                    }
                    drop(pending.reply.send(result));
                }
                None => {
                    self.pending.insert(nonce, pending);
                }
            }
        }
        self.mend_gap(spent).await;
    }

    /// How a transaction ended; `None` while it did not. `lost`: the pool has nothing of this account.
    async fn settle(
        &self,
        nonce: u64,
        pending: &mut Pending,
        spent: u64,
        lost: bool,
    ) -> Option<Result<Sent, LaneError>> {
        for hash in pending.hashes.iter().rev() {
            match self.client.receipt(*hash).await {
                Ok(Some(receipt)) => return Some(Ok(Sent { hash: *hash, receipt })),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
        if nonce < spent {
            pending.spent_unseen += 1;
            // A node can count a nonce a moment before it has the receipt.
            if pending.spent_unseen > FOREIGN_CHECKS {
                return Some(Err(LaneError::NonceTaken { account: self.signer.address(), nonce }));
            }
            return None;
        }
        pending.spent_unseen = 0;
        if pending.first_sent.elapsed() > self.config.give_up_after {
            let hash = pending.hashes.last().copied().unwrap_or_default();
            return Some(Err(LaneError::NotIncluded { hash }));
        }
        if lost {
            return self.offer_again(nonce, pending, nonce == spent).await.map(Err);
        }
        // Only the next one due can be stuck by its own price.
        if nonce == spent && pending.last_sent.elapsed() > self.config.stuck_after {
            self.replace(nonce, pending).await;
        }
        None
    }

    /// Gives a transaction to a pool that has lost it, as one does with the node that restarts. The chain may have fallen
    /// back meanwhile: the `first` in line is estimated again, and given up where it would revert now.
    async fn offer_again(&self, nonce: u64, pending: &mut Pending, first: bool) -> Option<LaneError> {
        pending.offered = Instant::now();
        if first && let Err(error @ LaneError::Reverted { .. }) = self.gas_limit(&pending.spec).await {
            return Some(error);
        }
        match self.client.send_raw_transaction(pending.raw.clone()).await {
            Ok(hash) => {
                metrics::counter!("lcai_lane_offered_again_total").increment(1);
                tracing::info!(nonce, %hash, account = %self.signer.address(), "the pool lost a transaction; it has it again");
            }
            Err(error) => tracing::debug!(nonce, %error, "a lost transaction was refused"),
        }
        None
    }

    /// Sends a stuck transaction again, for more while the caps allow it.
    async fn replace(&self, nonce: u64, pending: &mut Pending) {
        (pending.last_sent, pending.offered) = (Instant::now(), Instant::now());
        let raised =
            if pending.bumps < self.config.max_bumps { self.raised(pending.fees).ok() } else { None };
        let Some(fees) = raised else {
            tracing::warn!(nonce, account = %self.signer.address(), "a transaction is stuck and may not pay more");
            // The pool may have dropped it.
            let _ = self.client.send_raw_transaction(pending.raw.clone()).await;
            return;
        };
        let terms = Terms { chain_id: self.client.chain_id(), nonce, gas_limit: pending.gas_limit, fees };
        let Ok((hash, raw)) = sign(&pending.spec, terms, &self.signer) else { return };
        match self.client.send_raw_transaction(raw.clone()).await {
            Ok(_) => {
                metrics::counter!("lcai_lane_replacements_total").increment(1);
                tracing::info!(nonce, %hash, account = %self.signer.address(), "a stuck transaction was replaced");
                pending.hashes.push(hash);
                pending.raw = raw;
                pending.fees = fees;
                pending.bumps += 1;
            }
            Err(error) => tracing::debug!(nonce, %error, "a replacement was refused"),
        }
    }

    /// After a reorg a client may drop an included transaction for good; what comes after it would wait for ever. The gap
    /// is filled with transfers to ourselves. The dropped transaction is never sent again: on the new fork its job id can
    /// be another prompt's, and whatever is still wanted is asked for again.
    async fn mend_gap(&mut self, spent: u64) {
        let Some((first, pending)) = self.pending.first_key_value() else { return };
        let settling = pending.last_sent.elapsed() < self.config.poll * 8;
        if *first <= spent || *first - spent > MAX_GAP || settling {
            return;
        }
        if self.mended.is_some_and(|(nonce, at)| nonce == spent && at.elapsed() < self.config.stuck_after) {
            return;
        }
        // Of the lane's class, or the pool refuses it: a blob lane's filler carries the blob of the one that waits.
        let filler = TxSpec {
            to: self.signer.address(),
            value: U256::ZERO,
            input: Bytes::new(),
            sidecar: pending.spec.sidecar.clone(),
            gas_limit: Some(TRANSFER_GAS),
        };
        let gap = spent..*first;
        let Ok(fees) = self.fees().await else { return };
        self.mended = Some((spent, Instant::now()));
        for nonce in gap {
            let terms = Terms { chain_id: self.client.chain_id(), nonce, gas_limit: TRANSFER_GAS, fees };
            let Ok((_, raw)) = sign(&filler, terms, &self.signer) else { return };
            match self.client.send_raw_transaction(raw).await {
                Ok(hash) => {
                    self.included.remove(&nonce);
                    tracing::warn!(nonce, %hash, account = %self.signer.address(), "a nonce that a reorg freed is filled");
                }
                Err(error) => tracing::debug!(nonce, %error, "a filler was refused"),
            }
        }
    }
}
