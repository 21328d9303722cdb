//! Sends the canaries, as ordinary users over the node's own `lcai_*`: accounts that live as users were seen to live, each
//! asking for a worker when its time comes, and opening a session where the public draw gives it one that is due.

mod awaited;
mod chain;
mod friends;
mod pool;
mod purse;
#[cfg(test)]
mod testing;

use crate::DisputerHandle;
use alloy_primitives::{B256, U256};
use alloy_signer_local::PrivateKeySigner;
use chain::ChainReader;
use lcai_client::{ClientError, Connection, User, UserSession};
use lcai_crypto::SessionKey;
use lcai_exex_disputer::canary::{Book, CanaryPrompt, ClientStyle, Dice, Member, prompt};
use lcai_host::{HostClient, JournalError, LaneClass, LaneConfig, Records, TaskError};
use lcai_rpc::types::{PublishedBlob, SessionOffer};
use pool::{Claim, Pools, Step, Task};
use purse::{Purse, PurseError};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{sync::Mutex, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

pub use awaited::Awaited;

/// A prompt is posted this long before its job is due: a blob takes a block.
const POSTED_BEFORE: Duration = Duration::from_secs(2);

/// Accounts of an epoch, where no user was seen yet: enough for the draw to send one to each of a few workers.
pub const CANARY_ACCOUNTS: u64 = 12;

/// How the canaries are sent.
pub struct CanaryRole {
    /// The node they go through, over WebSocket; any node with a dispatcher.
    pub url: String,
    /// Pays fees and gas.
    pub treasury: PrivateKeySigner,
    /// Most wei the treasury gives out in a day (UTC).
    pub daily_cap: U256,
    /// Accounts of an epoch, where no user was seen yet.
    pub accounts: u64,
    /// What they ask; the built-in questions without it.
    pub questions: Option<Book>,
    /// Whether the operator pays accounts from outside, from an exchange say, and the treasury nothing: whoever looks far
    /// enough behind a payment finds the treasury.
    pub paid_from_outside: bool,
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
    #[error(transparent)]
    Purse(#[from] PurseError),
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
    purse: Arc<Purse>,
    pools: Pools,
    connection: Mutex<Option<Connection>>,
}

impl CanaryRunner {
    pub(crate) fn new(
        role: CanaryRole,
        disputer: DisputerHandle,
        client: Arc<dyn HostClient>,
        records: Records,
    ) -> Arc<Self> {
        let purse = Arc::new(Purse::new(&role, disputer.clone(), client, records.clone()));
        // A second runner pays out of the same records.
        let _ = disputer.filer.set(purse.clone());
        let pools = Pools::new(disputer.clone(), records, role.accounts);
        Arc::new(Self { role, disputer, purse, pools, connection: Mutex::new(None) })
    }

    /// Looks every second what is to be done.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), TaskError> {
        let (mut under_way, mut reader) = (JoinSet::new(), ChainReader::default());
        loop {
            // What is behind it is read without a pause.
            let pause = if reader.is_level() { Duration::from_secs(1) } else { Duration::from_millis(20) };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(pause) => {}
            }
            if let Some(reason) = self.disputer.core.halted() {
                tracing::error!(reason, "the disputer is halted: no more canaries are sent");
                return Ok(());
            }
            while let Some(ended) = under_way.try_join_next() {
                if let Ok(step) = ended {
                    self.pools.ended(step);
                }
            }
            let connection = match self.connection().await {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(%error, "canaries have no node to go through now");
                    sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            if let Err(error) = reader.advance(&connection, &self.disputer).await {
                tracing::debug!(%error, "users cannot be watched now");
                self.connection.lock().await.take();
                sleep(Duration::from_secs(1)).await;
            }
            if reader.is_level() {
                let planned = self.pools.look(&reader, &self.purse).await.map_err(TaskError::retry)?;
                self.purse.announce(&planned).map_err(TaskError::retry)?;
            }
            for task in self.pools.tasks() {
                let runner = Arc::clone(&self);
                under_way.spawn(async move { runner.perform(task).await });
            }
        }
    }

    async fn connection(&self) -> Result<Connection, ClientError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref() {
            return Ok(connection.clone());
        }
        let fresh = Connection::open(&self.role.url, None).await?;
        Ok(kept.insert(fresh).clone())
    }

    async fn perform(&self, task: Task) -> Step {
        match &task {
            Task::Pay { seed, member, .. } => task.ends(self.purse.pay(*seed, member).await),
            Task::PayOut { seed, member, payment, .. } => {
                task.ends(self.purse.pay_out(*seed, member, payment).await)
            }
            Task::Ask { .. } => match self.try_open(&task).await {
                Ok(Some(claimed)) => {
                    let step = self.converse(&task, claimed).await;
                    self.pools.finished();
                    step
                }
                Ok(None) => task.not_drawn(),
                Err(error) => task.ends(Err(error)),
            },
        }
    }

    /// Asks for a worker as anybody does, and claims a duty where the draw gives one that is due.
    async fn try_open(&self, task: &Task) -> Result<Option<Claimed>, CanaryError> {
        let Task::Ask { epoch, seed, member, model, anybody, .. } = task else { return Ok(None) };
        let signer = self.purse.account(*seed, member.index)?;
        let user = User::with_lane(self.connection().await?, signer, lane(member.like.style));
        let offer = user.request_session(&format!("0x{}", model.wire_hex())).await?;
        let due = (offer.worker, *model);
        let claim = self.pools.claim(*epoch, user.account(), due, *anybody).await?;
        Ok(claim.map(|claim| Claimed { user, offer, claim }))
    }

    /// A session from its opening to its last answer.
    async fn converse(&self, task: &Task, claimed: Claimed) -> Step {
        let Task::Ask { epoch, seed, member, session, .. } = task else { return task.not_drawn() };
        let Claimed { user, offer, claim } = claimed;
        let mut dice = Dice::new(*seed, &format!("session {} {session}", member.index));
        let pauses = member.like.sessions.get(*session).map(|s| s.pauses.clone()).unwrap_or_default();
        let opened = match self.open(&user, &offer, (*epoch, *seed), (member, pauses.len()), &mut dice).await
        {
            Ok(opened) => opened,
            // The duty is somebody else's again.
            Err(error) => {
                self.pools.give_back(claim).await;
                return task.ends(Err(error));
            }
        };
        match self.ask(&user, opened, &pauses, &mut dice).await {
            Ok(jobs) => {
                metrics::counter!("lcai_canaries_sent_total").increment(jobs);
                tracing::debug!(jobs, "a canary was answered");
                task.ends(Ok::<_, CanaryError>(()))
            }
            Err((0, error)) => {
                self.pools.give_back(claim).await;
                task.ends(Err(error))
            }
            // Its first job meets the duty, answered or not.
            Err((_, error)) => {
                tracing::warn!(worker = %offer.worker, %error, "a canary's session ended early");
                task.ends(Ok::<_, CanaryError>(()))
            }
        }
    }

    async fn open(
        &self,
        user: &User,
        offer: &SessionOffer,
        (epoch, seed): (u64, B256),
        (member, jobs): (&Member, usize),
        dice: &mut Dice,
    ) -> Result<Opened, CanaryError> {
        // Known to the core before the chain hears of it, so that none of its jobs is taken for a user's.
        self.purse.remember(user.account(), member).await?;
        let input = postcard::to_stdvec(&(user.account(), epoch)).map_err(other)?;
        self.disputer.core.input(input).await.map_err(other)?;
        let fee = offer.fee;
        let fees = fee.saturating_mul(U256::from(jobs));
        let prepaid = self.purse.make_ready(user, seed, member, (fee, fees)).await?;
        let key = SessionKey::random();
        let question = self.question(dice).await?;
        let text = question.text.as_bytes();
        let (session, published) =
            tokio::try_join!(user.open_session(offer, key.clone()), user.publish_prompt(&key, text))?;
        let fee = (!prepaid).then_some(fee);
        Ok(Opened { session, first: (question, published), fee, at: Instant::now() })
    }

    /// Asks with the pauses of whom the account is like; how many jobs there were, also where one failed.
    async fn ask(
        &self,
        user: &User,
        opened: Opened,
        pauses: &[u64],
        dice: &mut Dice,
    ) -> Result<u64, (u64, CanaryError)> {
        let Opened { session, first, fee, at } = opened;
        let (mut asked, mut before, mut first) = (0, at, Some(first));
        for pause in pauses {
            let due = before + Duration::from_secs(*pause);
            let (question, published) = match first.take() {
                Some((question, published)) => (question, Some(published)),
                None => (self.question(dice).await.map_err(|error| (asked, error))?, None),
            };
            let ahead = if published.is_some() { Duration::ZERO } else { POSTED_BEFORE };
            tokio::time::sleep_until((due.checked_sub(ahead).unwrap_or(due)).into()).await;
            let mut submitted = None;
            let mut on_event = |event: lcai_client::Event| {
                if matches!(event, lcai_client::Event::Submitted { .. }) {
                    submitted = Some(Instant::now());
                }
            };
            let text = question.text.as_bytes();
            let answer = match fee {
                Some(fee) => user.ask(&session, text, published, fee, &mut on_event).await,
                None => user.ask_from_deposit(&session, text, published, &mut on_event).await,
            };
            asked += u64::from(submitted.is_some());
            before = submitted.unwrap_or_else(Instant::now);
            let answer = answer.map_err(|error| (asked, error.into()))?;
            if !answer.text.contains(&question.reference) {
                metrics::counter!("lcai_canaries_off_reference_total").increment(1);
            }
        }
        Ok(asked)
    }

    /// The next question. Those of a book are asked once each, over restarts too.
    async fn question(&self, dice: &mut Dice) -> Result<CanaryPrompt, CanaryError> {
        let Some(book) = &self.role.questions else { return Ok(prompt(dice)) };
        let n = self.pools.next_question().await?;
        if n >= book.len() as u64 {
            tracing::warn!(questions = book.len(), "the canaries' questions are used up; they begin again");
        }
        book.question(n).cloned().ok_or_else(|| other("the book of questions is empty"))
    }
}

/// A worker that the draw gave to an account.
struct Claimed {
    user: User,
    offer: SessionOffer,
    claim: Claim,
}

/// A session with its first prompt.
struct Opened {
    session: UserSession,
    first: (CanaryPrompt, PublishedBlob),
    /// Sent along with each job; `None`: it is taken from the account's deposit.
    fee: Option<U256>,
    at: Instant,
}

/// A lane that builds transactions as that client does.
fn lane(style: ClientStyle) -> LaneConfig {
    LaneConfig {
        tip: style.tip.into(),
        gas_margin: style.gas_margin,
        base_fee_factor: style.fee_factor.into(),
        ..LaneConfig::new(LaneClass::Ordinary)
    }
}

/// An account's secret: of the treasury's key and the epoch's seed, so that nothing has to be stored, the seed
/// alone gives none away when it is revealed, and no epoch uses another's.
fn secret(treasury: &PrivateKeySigner, seed: B256, index: u64) -> B256 {
    let key = treasury.to_bytes();
    let parts: [&[u8]; 4] = [b"lcai canary account", key.as_slice(), seed.as_slice(), &index.to_be_bytes()];
    alloy_primitives::keccak256(parts.concat())
}
