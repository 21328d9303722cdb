//! Whatever fails at whatever step, and the node with it: after its restart there is one of everything.

use super::{
    canaries::{canary, filing, reveal_task},
    *,
};
use async_trait::async_trait;
use lcai_host::{Heads, HostError, Receipt, TransactionRequest};
use redb::StorageBackend;
use std::{
    io,
    sync::atomic::{AtomicI64, Ordering},
};

/// What fails.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The n-th question to the node, which never hears of it.
    Before(i64),
    /// The n-th question to the node, which does as it is told; the answer is lost.
    After(i64),
    /// The n-th time that the journal is to be on the disk, and everything after.
    Disk(i64),
}

/// Counts down to a fault.
#[derive(Debug, Clone)]
struct Countdown(Arc<AtomicI64>);

impl Countdown {
    fn new(n: i64) -> Self {
        Self(Arc::new(AtomicI64::new(n)))
    }

    fn step(&self) -> i64 {
        self.0.fetch_sub(1, Ordering::SeqCst)
    }

    fn was_reached(&self) -> bool {
        self.0.load(Ordering::SeqCst) <= 0
    }
}

/// A way to the node that fails once.
struct Faulty {
    inner: Arc<dyn HostClient>,
    left: Countdown,
    after: bool,
}

impl Faulty {
    async fn pass<T>(&self, answer: impl Future<Output = Result<T, HostError>>) -> Result<T, HostError> {
        let due = self.left.step() == 1;
        let lost = || HostError::Unreachable("the connection is gone".to_owned());
        if due && !self.after {
            return Err(lost());
        }
        let answer = answer.await;
        if due { Err(lost()) } else { answer }
    }
}

#[async_trait]
impl HostClient for Faulty {
    fn chain_id(&self) -> u64 {
        self.inner.chain_id()
    }

    async fn heads(&self) -> Result<Heads, HostError> {
        self.pass(self.inner.heads()).await
    }

    async fn call(&self, call: Call, at: Option<B256>) -> Result<Bytes, HostError> {
        self.pass(self.inner.call(call, at)).await
    }

    async fn nonce(&self, account: Address, pending: bool) -> Result<u64, HostError> {
        self.pass(self.inner.nonce(account, pending)).await
    }

    async fn balance(&self, account: Address) -> Result<U256, HostError> {
        self.pass(self.inner.balance(account)).await
    }

    async fn base_fees(&self) -> Result<(u128, u128), HostError> {
        self.pass(self.inner.base_fees()).await
    }

    async fn estimate_gas(&self, request: TransactionRequest) -> Result<u64, HostError> {
        self.pass(self.inner.estimate_gas(request)).await
    }

    async fn send_raw_transaction(&self, transaction: Bytes) -> Result<B256, HostError> {
        self.pass(self.inner.send_raw_transaction(transaction)).await
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, HostError> {
        self.pass(self.inner.receipt(transaction)).await
    }

    async fn blob(&self, versioned_hash: B256) -> Result<Option<Bytes>, HostError> {
        self.inner.blob(versioned_hash).await
    }
}

/// A disk that breaks, and is whole again after a restart.
#[derive(Debug, Clone)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    left: Countdown,
}

impl Disk {
    fn new() -> Self {
        Self { bytes: Arc::default(), left: Countdown::new(i64::MAX) }
    }

    fn journal(&self) -> Arc<Journal> {
        Journal::over(self.clone(), identity()).unwrap()
    }

    fn whole(&self) -> io::Result<()> {
        if self.left.was_reached() { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        out.copy_from_slice(&self.bytes.lock()[from..from + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.whole()?;
        self.bytes.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.whole()?;
        self.left.step();
        self.whole()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.whole()?;
        let from = offset as usize;
        self.bytes.lock()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// An effect, and what must be on the chain once.
struct Trial {
    court: Court,
    intent: Intent,
    /// What a node does before the one that fails.
    first: Vec<Intent>,
}

impl Trial {
    fn of(court: Court, action: &str, first: &[&str]) -> Self {
        let first = first.iter().map(|action| court.intent(action)).collect();
        Self { intent: court.intent(action), first, court }
    }

    /// A node over this disk; its canaries' account files.
    fn node(&self, journal: &Arc<Journal>, client: &Arc<dyn HostClient>) -> DisputeHandler {
        let node = self.court.node_over(journal, Arc::new(says("Paris.")), 2, client.clone());
        let lane = TxLane::with_config(client.clone(), signer(4), lane_config(LaneClass::Ordinary));
        filing(&node, Some(lane));
        node
    }

    /// Lets the effect fail so, restarts, and ends it; whether the fault came at all.
    async fn suffers(&self, fault: Fault) -> bool {
        let (disk, whole) = (Disk::new(), self.court.host.client());
        let journal = disk.journal();
        let node = self.node(&journal, &whole);
        for intent in &self.first {
            self.ends(&node, intent, fault).await;
        }
        drop((node, journal));
        let (left, client): (Countdown, Arc<dyn HostClient>) = match fault {
            Fault::Before(n) | Fault::After(n) => {
                let (left, inner) = (Countdown::new(n), whole.clone());
                let after = matches!(fault, Fault::After(_));
                (left.clone(), Arc::new(Faulty { inner, left, after }))
            }
            Fault::Disk(_) => (disk.left.clone(), whole.clone()),
        };
        let journal = disk.journal();
        if let Fault::Disk(n) = fault {
            disk.left.0.store(n, Ordering::SeqCst);
        }
        let node = self.node(&journal, &client);
        let context = EffectContext::new(client);
        // It dies with whatever comes of it.
        let _ = tokio::time::timeout(Duration::from_secs(5), node.execute(&self.intent, context)).await;
        drop((node, journal));
        let came = left.was_reached();
        disk.left.0.store(i64::MAX, Ordering::SeqCst);
        let node = self.node(&disk.journal(), &whole);
        self.ends(&node, &self.intent, fault).await;
        came
    }

    /// Attempts until it is done, as the executor does.
    async fn ends(&self, node: &DisputeHandler, intent: &Intent, fault: Fault) {
        let mut last = None;
        for _ in 0..100 {
            let outcome = node.execute(intent, EffectContext::new(self.court.host.client())).await;
            match outcome {
                EffectOutcome::Done(_) => return,
                EffectOutcome::Retry { .. } => last = Some(outcome),
                other => panic!("{} after {fault:?}: {other:?}", intent.action),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} after {fault:?}: {last:?}", intent.action);
    }
}

/// Every step of the effect fails in each of the ways; `once` looks at the chain afterwards.
async fn everywhere(trial: impl Fn() -> Trial, once: impl Fn(&Court, Fault)) {
    for kind in [Fault::Before, Fault::After, Fault::Disk] {
        let mut steps = 0;
        for n in 1.. {
            let trial = trial();
            let came = trial.suffers(kind(n)).await;
            once(&trial.court, kind(n));
            if !came {
                break;
            }
            steps = n;
        }
        assert!(steps > 0, "{:?} never came", kind(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_dispute_whatever_fails() {
    let trial = || Trial::of(canary().0, action::FILE, &[action::JUDGE]);
    everywhere(trial, |court, fault| {
        let disputes = &court.ledger.lock().disputes;
        assert_eq!(disputes.as_slice(), [(signer(4).address(), U256::from(64))], "{fault:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_verdict_whatever_fails() {
    let trial = || Trial::of(Court::new("Lyon."), action::RESOLVE, &[action::JUDGE]);
    everywhere(trial, |court, fault| assert_eq!(court.rulings().len(), 1, "{fault:?}")).await;
}

fn epoch_intent<T: serde::Serialize>(court: &Court, action: &str, task: &T) -> Intent {
    Intent { payload: postcard::to_stdvec(task).unwrap(), ..court.intent(action) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commitment_whatever_fails() {
    let trial = || {
        let court = Court::new("Lyon.");
        Trial { intent: epoch_intent(&court, action::COMMIT, &EPOCH), first: Vec::new(), court }
    };
    everywhere(trial, |court, fault| assert_eq!(court.ledger.lock().commits, 1, "{fault:?}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reveal_whatever_fails() {
    let trial = || {
        let court = Court::new("Lyon.");
        let first = vec![epoch_intent(&court, action::COMMIT, &EPOCH)];
        let (task, _) = reveal_task(&crate::canary::Seed(B256::ZERO), 600);
        Trial { intent: epoch_intent(&court, action::REVEAL, &task), first, court }
    };
    everywhere(trial, |court, fault| assert_eq!(court.ledger.lock().reveals.len(), 1, "{fault:?}")).await;
}
