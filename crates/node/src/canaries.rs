//! Sends the canaries: at the time each duty falls due, as an ordinary user over the node's own `lcai_*`.

use crate::DisputerHandle;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_signer_local::PrivateKeySigner;
use lcai_client::{ClientError, Connection, User, UserSession};
use lcai_crypto::SessionKey;
use lcai_exex_disputer::canary::{Dice, Duty, duties, prompt};
use lcai_host::{HostClient, JournalError, PutOutcome, Records, TaskError, TxLane, TxSpec};
use lcai_primitives::ids::ModelId;
use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{sync::Mutex, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

/// Canaries under way at once.
const PARALLEL: usize = 4;

/// Most jobs of one canary's session, whatever users do.
const MAX_JOBS: u64 = 4;

/// Longest pause between two jobs of a session, seconds.
const MAX_PAUSE: u64 = 120;

/// Gas that a session and its jobs may use, in wei at 2 gwei, paid beside the fees.
const GAS_ALLOWANCE: u64 = 4_000_000_000_000_000;

/// Accounts of an epoch, where nothing else is wanted: enough for the draw to send one to each of a few workers.
pub const CANARY_ACCOUNTS: u64 = 12;

/// How the canaries are sent.
pub struct CanaryRole {
    /// The node they go through, over WebSocket; any node with a dispatcher.
    pub url: String,
    /// Pays fees and gas.
    pub treasury: PrivateKeySigner,
    /// Most wei the treasury gives out in a day (UTC).
    pub daily_cap: U256,
    /// Accounts of an epoch, among which those are used that the public draw sends to the worker due.
    pub accounts: u64,
}

impl fmt::Debug for CanaryRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CanaryRole").field("treasury", &self.treasury.address()).finish_non_exhaustive()
    }
}

/// Why a canary was not sent.
#[derive(Debug, Error)]
enum CanaryError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the treasury has given out its cap for today")]
    CapReached,
    #[error("none of the epoch's accounts was drawn to the worker in time")]
    NotDrawn,
    #[error("{0}")]
    Other(String),
}

fn other(error: impl fmt::Display) -> CanaryError {
    CanaryError::Other(error.to_string())
}

/// Sends canaries while it runs.
pub(crate) struct CanaryRunner {
    role: CanaryRole,
    disputer: DisputerHandle,
    treasury: TxLane,
    records: Records,
    /// One canary at a time per account: each has one nonce.
    busy: Mutex<BTreeSet<Address>>,
    funding: Mutex<()>,
}

impl CanaryRunner {
    pub(crate) fn new(
        role: CanaryRole,
        disputer: DisputerHandle,
        client: Arc<dyn HostClient>,
        records: Records,
    ) -> Arc<Self> {
        let treasury = TxLane::new(client, role.treasury.clone());
        let (busy, funding) = (Mutex::new(BTreeSet::new()), Mutex::new(()));
        Arc::new(Self { role, disputer, treasury, records, busy, funding })
    }

    /// Looks every second what is due.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), TaskError> {
        let (mut under_way, mut begun) = (JoinSet::new(), BTreeSet::new());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(Duration::from_secs(1)) => {}
            }
            while under_way.try_join_next().is_some() {}
            let oldest = self
                .disputer
                .core
                .read(|core| core.block_time())
                .saturating_sub(2 * self.disputer.epochs.length);
            begun.retain(|(at, _)| *at >= oldest);
            for (number, duty, seed) in self.due().await.map_err(TaskError::retry)? {
                if under_way.len() >= PARALLEL {
                    break;
                }
                // Saves asking the journal every second; after a restart it is asked.
                if begun.insert((duty.at, number))
                    && self.begin(number, &duty).await.map_err(TaskError::retry)?
                {
                    let runner = Arc::clone(&self);
                    under_way.spawn(async move { runner.perform(number, duty, seed).await });
                }
            }
        }
    }

    /// The duties that have fallen due in the epoch that runs, with their numbers and the epoch's seed. None in an epoch
    /// that was not committed to before it began: what is sent then could not be revealed as a canary.
    async fn due(&self) -> Result<Vec<(u64, Duty, B256)>, CanaryError> {
        let epochs = self.disputer.epochs;
        let Some(seeds) = &self.disputer.seeds else { return Ok(Vec::new()) };
        let (now, epoch, plan) = self.disputer.core.read(|core| {
            let now = core.block_time();
            let epoch = epochs.of(now);
            let committed = core.epoch(epoch).is_some_and(|row| row.committed_at < epochs.start(epoch));
            let plan = core.standing(epoch).filter(|_| committed);
            (now, epoch, plan.map(|(standing, rate)| (standing.to_vec(), rate)))
        });
        let Some((standing, rate)) = plan else { return Ok(Vec::new()) };
        let Some(seed) = seeds.get(epoch).await.map_err(other)? else { return Ok(Vec::new()) };
        let all = duties(&seed, epoch, epochs, &standing, rate);
        Ok((0..).zip(all).filter(|(_, duty)| duty.at <= now).map(|(n, duty)| (n, duty, seed.0)).collect())
    }

    /// Claims a duty, so that a restart does not do it twice; `false` when it was begun before.
    async fn begin(&self, number: u64, duty: &Duty) -> Result<bool, CanaryError> {
        let key = format!("duty {} {number}", self.disputer.epochs.of(duty.at));
        let records = self.records.clone();
        let put = tokio::task::spawn_blocking(move || records.put_if_absent(key.as_bytes(), &[1])).await;
        Ok(put.map_err(other)?? == PutOutcome::Inserted)
    }

    async fn perform(&self, number: u64, duty: Duty, seed: B256) {
        let worker = duty.of.worker;
        match self.send(number, duty, seed).await {
            Ok(jobs) => {
                metrics::counter!("lcai_canaries_sent_total").increment(jobs);
                tracing::debug!(jobs, "a canary was answered");
            }
            // The audit shows it as missed; whoever runs the disputer wants to know before.
            Err(error) => {
                metrics::counter!("lcai_canaries_missed_total").increment(1);
                tracing::warn!(%worker, %error, "a canary could not be sent");
            }
        }
    }

    /// Opens a session with the worker and asks; gives the number of jobs.
    async fn send(&self, number: u64, duty: Duty, seed: B256) -> Result<u64, CanaryError> {
        let mut dice = Dice::new(seed, &format!("duty {number}"));
        let (jobs, pauses) = self.shape(&mut dice);
        let epoch = self.disputer.epochs.of(duty.at);
        let (user, session, fee) = self.open(duty, epoch, seed, jobs).await?;
        let account = user.account();
        let asked = self.ask(&user, &session, &mut dice, fee, &pauses).await;
        self.busy.lock().await.remove(&account);
        asked
    }

    async fn ask(
        &self,
        user: &User,
        session: &UserSession,
        dice: &mut Dice,
        fee: U256,
        pauses: &[u64],
    ) -> Result<u64, CanaryError> {
        let mut asked = 0;
        for pause in pauses {
            sleep(Duration::from_secs(*pause)).await;
            let question = prompt(dice);
            let answer = user.ask(session, question.text.as_bytes(), None, fee, &mut |_| {}).await?;
            asked += 1;
            if !answer.text.contains(&question.reference) {
                metrics::counter!("lcai_canaries_off_reference_total").increment(1);
            }
        }
        Ok(asked)
    }

    /// How many jobs, and the pause before each, as users were seen to do it.
    fn shape(&self, dice: &mut Dice) -> (u64, Vec<u64>) {
        let (lengths, gaps) = self.disputer.core.read(|core| core.traffic());
        let jobs = dice.pick(&lengths).copied().unwrap_or(1).clamp(1, MAX_JOBS);
        let mut pauses = vec![0];
        for _ in 1..jobs {
            pauses.push(dice.pick(&gaps).copied().unwrap_or(5).min(MAX_PAUSE));
        }
        (jobs, pauses)
    }

    /// A session with the worker, by one of the epoch's accounts that the draw sends to it. The accounts ask as anybody
    /// asks; none of them can choose.
    async fn open(
        &self,
        duty: Duty,
        epoch: u64,
        seed: B256,
        jobs: u64,
    ) -> Result<(User, UserSession, U256), CanaryError> {
        let epochs = self.disputer.epochs;
        let until = epochs.start(epoch.saturating_add(2)).saturating_sub(epochs.length / 4);
        let model = format!("0x{}", ModelId::wire_hex(&duty.of.model));
        while self.disputer.core.read(|core| core.block_time()) < until {
            for index in 0..self.role.accounts {
                let signer = self.account(seed, index)?;
                if !self.busy.lock().await.insert(signer.address()) {
                    continue;
                }
                let user = User::new(Connection::open(&self.role.url, None).await?, signer.clone());
                let opened = self.try_open(&user, duty, &model, jobs).await;
                match opened {
                    Ok(Some((session, fee))) => return Ok((user, session, fee)),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "a canary's account could not open a session"),
                }
                self.busy.lock().await.remove(&signer.address());
            }
            sleep(Duration::from_secs(2)).await;
        }
        Err(CanaryError::NotDrawn)
    }

    async fn try_open(
        &self,
        user: &User,
        duty: Duty,
        model: &str,
        jobs: u64,
    ) -> Result<Option<(UserSession, U256)>, CanaryError> {
        let offer = user.request_session(model).await?;
        if offer.worker != duty.of.worker {
            return Ok(None);
        }
        // Known to the core before the chain hears of it, so that none of its jobs is taken for a user's.
        let account = user.account();
        let epoch = self.disputer.epochs.of(duty.at);
        let input = postcard::to_stdvec(&(account, epoch)).map_err(other)?;
        self.disputer.core.input(input).await.map_err(other)?;
        let fee = user.model(model).await?.fee;
        self.fund(user, fee.saturating_mul(U256::from(jobs))).await?;
        let session = user.open_session(&offer, SessionKey::random()).await?;
        Ok((session.worker == duty.of.worker).then_some((session, fee)))
    }

    /// Tops the account up for its fees and gas, within the day's cap.
    async fn fund(&self, user: &User, fees: U256) -> Result<(), CanaryError> {
        let _one_at_a_time = self.funding.lock().await;
        let needed = fees.saturating_add(U256::from(GAS_ALLOWANCE));
        let has = user.node().chain().balance(user.account()).await.map_err(other)?;
        let Some(missing) = needed.checked_sub(has).filter(|missing| !missing.is_zero()) else {
            return Ok(());
        };
        self.spend(missing).await?;
        let spec = TxSpec { value: missing, ..TxSpec::call(user.account(), Bytes::new()) };
        let sent = self.treasury.send(spec).await.map_err(other)?;
        if sent.receipt.success { Ok(()) } else { Err(other("the treasury's transfer reverted")) }
    }

    /// Counts against the day's cap, durably, before anything is paid.
    async fn spend(&self, amount: U256) -> Result<(), CanaryError> {
        let day = self.disputer.core.read(|core| core.block_time()) / 86_400;
        let (records, cap) = (self.records.clone(), self.role.daily_cap);
        let spent = tokio::task::spawn_blocking(move || {
            let key = format!("spent {day}");
            let before = records.get(key.as_bytes())?;
            let before = before.and_then(|bytes| U256::try_from_be_slice(&bytes)).unwrap_or_default();
            let after = before.saturating_add(amount);
            if after > cap {
                return Ok(false);
            }
            records.put(key.as_bytes(), &after.to_be_bytes::<32>())?;
            Ok::<_, JournalError>(true)
        });
        if spent.await.map_err(other)?? { Ok(()) } else { Err(CanaryError::CapReached) }
    }

    /// The epoch's n-th account: of the treasury's key and the epoch's seed, so that nothing has to be stored, the seed
    /// alone gives none away when it is revealed, and no epoch uses another's.
    fn account(&self, seed: B256, index: u64) -> Result<PrivateKeySigner, CanaryError> {
        let secret = self.role.treasury.to_bytes();
        let parts: [&[u8]; 4] =
            [b"lcai canary account", secret.as_slice(), seed.as_slice(), &index.to_be_bytes()];
        PrivateKeySigner::from_bytes(&keccak256(parts.concat()))
            .map_err(|_| other("a canary's key is unusable"))
    }
}
