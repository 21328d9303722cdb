//! Nonce lanes: one account, one class of transactions, one writer (DESIGN.md, rule 7).
//!
//! Pools refuse a blob transaction and an ordinary one in flight from the same account, and replacing a stuck one has its
//! own price, so every account sends one class only and every nonce is given out in one place.

mod build;
mod worker;

use crate::{HostClient, HostError, Receipt};
use alloy_eips::eip7594::BlobTransactionSidecarVariant;
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_signer_local::PrivateKeySigner;
use parking_lot::Mutex;
use std::{fmt, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Which transactions a lane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneClass {
    /// EIP-1559 transactions.
    Ordinary,
    /// EIP-4844 transactions.
    Blob,
}

/// Settings of a lane. Fees are in wei per gas.
#[derive(Debug, Clone)]
pub struct LaneConfig {
    /// Which transactions it sends.
    pub class: LaneClass,
    /// Priority fee.
    pub tip: u128,
    /// Gas limit above the estimate, percent: an estimate can miss refunds and transient storage.
    pub gas_margin: u64,
    /// Fee cap less tip, percent of the base fee.
    pub base_fee_factor: u128,
    /// Never pays more per gas.
    pub max_fee: u128,
    /// Never pays more per blob gas.
    pub max_blob_fee: u128,
    /// How often receipts are looked for.
    pub poll: Duration,
    /// A transaction not included for this long is replaced with a higher fee.
    pub stuck_after: Duration,
    /// Replacements before it only waits.
    pub max_bumps: u32,
    /// Transactions in the pool at a time; more wait.
    pub max_in_flight: usize,
    /// Gives up waiting for inclusion after this. The transaction may still be included later.
    pub give_up_after: Duration,
}

impl LaneConfig {
    /// Defaults for a class.
    pub const fn new(class: LaneClass) -> Self {
        Self {
            class,
            tip: 1_000_000_000,
            gas_margin: 20,
            base_fee_factor: 200,
            max_fee: 500_000_000_000,
            max_blob_fee: 500_000_000_000,
            poll: Duration::from_millis(300),
            stuck_after: Duration::from_secs(36),
            max_bumps: 8,
            max_in_flight: 16,
            give_up_after: Duration::from_secs(900),
        }
    }
}

/// A transaction to send. The lane adds nonce, gas and fees.
#[derive(Clone)]
pub struct TxSpec {
    /// The contract.
    pub to: Address,
    /// Wei sent along.
    pub value: U256,
    /// Calldata.
    pub input: Bytes,
    /// The blobs of an EIP-4844 transaction, in the form the fork asks for (EIP-7594 from Osaka on).
    pub sidecar: Option<Arc<BlobTransactionSidecarVariant>>,
    /// Gas limit; `None` has it estimated, plus the lane's margin.
    pub gas_limit: Option<u64>,
}

impl TxSpec {
    /// A contract call.
    pub const fn call(to: Address, input: Bytes) -> Self {
        Self { to, value: U256::ZERO, input, sidecar: None, gas_limit: None }
    }

    /// A contract call that carries blobs.
    pub fn blob(to: Address, input: Bytes, sidecar: BlobTransactionSidecarVariant) -> Self {
        Self { sidecar: Some(Arc::new(sidecar)), ..Self::call(to, input) }
    }

    const fn class(&self) -> LaneClass {
        if self.sidecar.is_some() { LaneClass::Blob } else { LaneClass::Ordinary }
    }
}

impl fmt::Debug for TxSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxSpec")
            .field("to", &self.to)
            .field("value", &self.value)
            .field("input", &self.input.len())
            .field("class", &self.class())
            .finish_non_exhaustive()
    }
}

/// A transaction that was included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Its hash.
    pub hash: B256,
    /// Its inclusion; it may have reverted, see `success`.
    pub receipt: Receipt,
}

/// Why a transaction was not sent or not included.
#[derive(Debug, Error)]
pub enum LaneError {
    /// It would revert now; nothing was sent.
    #[error("the transaction would revert: {reason}")]
    Reverted {
        /// The decoded error, e.g. `NotTimedOut(jobId=7)`.
        reason: String,
        /// The revert data.
        data: Bytes,
    },
    /// The account cannot pay.
    #[error("account {account} cannot pay for the transaction: {message}")]
    Underfunded {
        /// The lane's account.
        account: Address,
        /// What the node said.
        message: String,
    },
    /// The chain asks for more than the configured cap.
    #[error("a fee of {needed} wei per {unit} is needed, above the cap of {cap}")]
    FeeCap {
        /// What is needed.
        needed: u128,
        /// What is allowed.
        cap: u128,
        /// `gas` or `blob gas`.
        unit: &'static str,
    },
    /// The transaction is of the other class than the lane.
    #[error("a lane for {lane:?} transactions was given one of class {given:?}")]
    WrongClass {
        /// What the lane sends.
        lane: LaneClass,
        /// What it was given.
        given: LaneClass,
    },
    /// Another program spent the nonce: the account's key is in use elsewhere.
    #[error(
        "nonce {nonce} of account {account} was used by a transaction this node did not send: is its key in use elsewhere?"
    )]
    NonceTaken {
        /// The lane's account.
        account: Address,
        /// The nonce.
        nonce: u64,
    },
    /// It was not included in time. It may still be.
    #[error("transaction {hash} was not included in time")]
    NotIncluded {
        /// The last hash it was sent under.
        hash: B256,
    },
    /// The key could not sign.
    #[error("the account's key could not sign")]
    Signing,
    /// The node failed or refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The lane ended while the transaction waited.
    #[error("the transaction lane was closed")]
    Closed,
}

impl LaneError {
    fn reverted(data: Bytes) -> Self {
        Self::Reverted { reason: lcai_primitives::revert::revert_reason(&data), data }
    }

    /// Whether the same transaction can go through later.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Host(error) => error.is_transient(),
            Self::FeeCap { .. } | Self::NotIncluded { .. } | Self::Closed => true,
            _ => false,
        }
    }
}

/// Transactions that may wait in a lane's queue.
const QUEUE: usize = 256;

/// What waits for the worker.
struct Job {
    spec: TxSpec,
    /// Told the hash once the pool has the transaction.
    taken: Option<oneshot::Sender<B256>>,
    reply: oneshot::Sender<Result<Sent, LaneError>>,
}

/// Sends the transactions of one account. Its worker starts with the first transaction and ends with the lane.
pub struct TxLane {
    client: Arc<dyn HostClient>,
    signer: PrivateKeySigner,
    config: LaneConfig,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
}

impl fmt::Debug for TxLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxLane")
            .field("account", &self.account())
            .field("class", &self.config.class)
            .finish_non_exhaustive()
    }
}

impl TxLane {
    /// A lane for ordinary transactions.
    pub fn new(client: Arc<dyn HostClient>, signer: PrivateKeySigner) -> Self {
        Self::with_config(client, signer, LaneConfig::new(LaneClass::Ordinary))
    }

    /// A lane for blob transactions.
    pub fn blob(client: Arc<dyn HostClient>, signer: PrivateKeySigner) -> Self {
        Self::with_config(client, signer, LaneConfig::new(LaneClass::Blob))
    }

    /// A lane with other settings.
    pub const fn with_config(
        client: Arc<dyn HostClient>,
        signer: PrivateKeySigner,
        config: LaneConfig,
    ) -> Self {
        Self { client, signer, config, queue: Mutex::new(None) }
    }

    /// The account that signs and pays.
    pub fn account(&self) -> Address {
        self.signer.address()
    }

    /// Which transactions the lane sends.
    pub const fn class(&self) -> LaneClass {
        self.config.class
    }

    /// The next block's base fee and blob base fee, wei per gas.
    pub async fn base_fees(&self) -> Result<(u128, u128), HostError> {
        self.client.base_fees().await
    }

    /// Sends a transaction and waits until it is included. When the caller stops waiting it goes on all the same.
    pub async fn send(&self, spec: TxSpec) -> Result<Sent, LaneError> {
        self.enqueue(spec, None).await?.await.map_err(|_| LaneError::Closed)?
    }

    /// As [`Self::send`], but returns as soon as the pool has the transaction: its hash then (a replacement for more gets
    /// another), and what becomes of it for whoever waits.
    pub async fn submit(
        &self,
        spec: TxSpec,
    ) -> Result<(B256, impl Future<Output = Result<Sent, LaneError>> + Send + 'static), LaneError> {
        let (taken, hash) = oneshot::channel();
        let answer = self.enqueue(spec, Some(taken)).await?;
        match hash.await {
            Ok(hash) => Ok((hash, async move { answer.await.map_err(|_| LaneError::Closed)? })),
            // Never in the pool: the answer says why.
            Err(_) => match answer.await.map_err(|_| LaneError::Closed)? {
                Err(error) => Err(error),
                Ok(_) => Err(LaneError::Closed),
            },
        }
    }

    async fn enqueue(
        &self,
        spec: TxSpec,
        taken: Option<oneshot::Sender<B256>>,
    ) -> Result<oneshot::Receiver<Result<Sent, LaneError>>, LaneError> {
        if spec.class() != self.config.class {
            return Err(LaneError::WrongClass { lane: self.config.class, given: spec.class() });
        }
        let (reply, answer) = oneshot::channel();
        let queue = self.queue();
        queue.send(Job { spec, taken, reply }).await.map_err(|_| LaneError::Closed)?;
        // The queue is not held while waiting: the worker ends when the lane does.
        Ok(answer)
    }

    /// The worker's queue; starts a worker when there is none, or when it ended by a panic.
    fn queue(&self) -> mpsc::Sender<Job> {
        let mut queue = self.queue.lock();
        if let Some(queue) = queue.as_ref().filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let worker = worker::Worker::new(Arc::clone(&self.client), self.signer.clone(), self.config.clone());
        tokio::spawn(worker.run(receiver));
        queue.insert(sender).clone()
    }
}
