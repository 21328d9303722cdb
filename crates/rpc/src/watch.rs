//! What changes from block to block, for subscriptions: a snapshot compared with the one told before.
//!
//! Comparing snapshots instead of following events tells the same after a reorganisation, a restart, or a pause of the
//! reader: the difference to what it knows.

use crate::{
    directory::Directory,
    types::{
        AccountChange, BlockId, JobInfo, ModelInfo, NetworkChange, SessionInfo, SessionRequestInfo,
        WorkChange, WorkerInfo,
    },
};
use alloy_primitives::Address;
use lcai_host::BlockRef;
use lcai_primitives::{
    ids::{JobId, SessionId},
    params::ChainParams,
    quantity::Quantity,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Sessions and jobs an account's subscription covers.
const ACCOUNT_SESSIONS: usize = 64;
const ACCOUNT_JOBS: usize = 256;
/// Jobs a worker's subscription covers.
const WORK_JOBS: usize = 256;
/// How old a snapshot of the network may be: heartbeats come between blocks.
const FRESH: Duration = Duration::from_secs(1);

/// Something a subscription tells the changes of.
pub(crate) trait Watched: Send {
    /// One notification.
    type Change: serde::Serialize + Send;

    /// What is different from the last call; the first call gives everything, even if that is nothing.
    fn changes(&mut self, directory: &dyn Directory, head: BlockId) -> Option<Self::Change>;
}

/// The last snapshot of one kind of record.
#[derive(Debug)]
struct Seen<K, V>(BTreeMap<K, V>);

impl<K, V> Default for Seen<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy, V: PartialEq + Clone> Seen<K, V> {
    /// Takes the records of now; gives the new or changed ones and the keys that are gone.
    fn replace(&mut self, now: impl Iterator<Item = (K, V)>) -> (Vec<V>, Vec<K>) {
        let now: BTreeMap<K, V> = now.collect();
        let changed =
            now.iter().filter(|(key, value)| self.0.get(key) != Some(value)).map(|(_, v)| v.clone());
        let changed = changed.collect();
        let gone = self.0.keys().filter(|key| !now.contains_key(key)).copied().collect();
        self.0 = now;
        (changed, gone)
    }
}

/// An account's newest sessions and jobs.
#[derive(Debug)]
pub(crate) struct AccountWatch {
    account: Address,
    started: bool,
    sessions: Seen<SessionId, SessionInfo>,
    jobs: Seen<JobId, JobInfo>,
    requests: Seen<u64, SessionRequestInfo>,
}

impl AccountWatch {
    pub(crate) fn new(account: Address) -> Self {
        Self {
            account,
            started: false,
            sessions: Seen::default(),
            jobs: Seen::default(),
            requests: Seen::default(),
        }
    }
}

impl Watched for AccountWatch {
    type Change = AccountChange;

    fn changes(&mut self, directory: &dyn Directory, head: BlockId) -> Option<AccountChange> {
        let sessions = directory.sessions_of(self.account, None, ACCOUNT_SESSIONS);
        let jobs = directory.jobs_of(self.account, None, ACCOUNT_JOBS);
        let (sessions, gone_sessions) = self.sessions.replace(sessions.into_iter().map(|s| (s.id, s)));
        let (jobs, gone_jobs) = self.jobs.replace(jobs.into_iter().map(|j| (j.id, j)));
        let requests = directory.requests_of(self.account, ACCOUNT_SESSIONS);
        let (requests, gone) = self.requests.replace(requests.into_iter().map(|r| (r.id, r)));
        let gone_requests: Vec<Quantity> = gone.into_iter().map(Quantity).collect();
        let nothing = sessions.is_empty()
            && jobs.is_empty()
            && requests.is_empty()
            && gone_sessions.is_empty()
            && gone_jobs.is_empty()
            && gone_requests.is_empty();
        let first = !std::mem::replace(&mut self.started, true);
        (first || !nothing).then_some(AccountChange {
            head,
            sessions,
            jobs,
            gone_sessions,
            gone_jobs,
            requests,
            gone_requests,
        })
    }
}

/// A worker's open jobs.
#[derive(Debug)]
pub(crate) struct WorkWatch {
    worker: Address,
    started: bool,
    jobs: Seen<JobId, JobInfo>,
}

impl WorkWatch {
    pub(crate) fn new(worker: Address) -> Self {
        Self { worker, started: false, jobs: Seen::default() }
    }
}

impl Watched for WorkWatch {
    type Change = WorkChange;

    fn changes(&mut self, directory: &dyn Directory, head: BlockId) -> Option<WorkChange> {
        let open = directory.open_jobs_of(self.worker, WORK_JOBS);
        let (jobs, closed) = self.jobs.replace(open.into_iter().map(|job| (job.id, job)));
        let first = !std::mem::replace(&mut self.started, true);
        (first || !jobs.is_empty() || !closed.is_empty()).then_some(WorkChange { head, jobs, closed })
    }
}

/// Parameters, models and workers at one time, for everybody who asks.
#[derive(Debug)]
pub(crate) struct Network {
    /// Tells snapshots apart.
    serial: u64,
    params: Option<ChainParams>,
    pub(crate) models: Vec<ModelInfo>,
    pub(crate) workers: Vec<WorkerInfo>,
}

/// Makes one snapshot of the network a block for all, and one difference between two for all who know the first.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    serial: u64,
    now: Option<(Option<BlockRef>, Instant, Arc<Network>)>,
    /// From which snapshot to which, and what is different.
    change: Option<((u64, u64), Option<NetworkChange>)>,
}

impl Networks {
    /// The network at the directory's head.
    pub(crate) fn now(&self, directory: &dyn Directory) -> Arc<Network> {
        let head = *directory.head().borrow();
        let mut kept = self.kept.lock();
        if let Some((at, made, network)) = &kept.now
            && *at == head
            && made.elapsed() < FRESH
        {
            return Arc::clone(network);
        }
        kept.serial += 1;
        let (params, models, workers) = (directory.params(), directory.models(), directory.workers());
        let network = Arc::new(Network { serial: kept.serial, params, models, workers });
        kept.now = Some((head, Instant::now(), Arc::clone(&network)));
        network
    }

    /// What is different, if anything.
    fn change(&self, before: &Network, now: &Network, head: BlockId) -> Option<NetworkChange> {
        let mut kept = self.kept.lock();
        let between = (before.serial, now.serial);
        let known = kept.change.as_ref().filter(|(of, _)| *of == between).map(|(_, change)| change.clone());
        let change = known.unwrap_or_else(|| {
            let change = now.since(before, head);
            kept.change = Some((between, change.clone()));
            change
        });
        change.map(|change| NetworkChange { head, ..change })
    }
}

impl Network {
    fn since(&self, before: &Self, head: BlockId) -> Option<NetworkChange> {
        let params = if self.params == before.params { None } else { self.params.clone() };
        let (mut models, mut workers) = (Seen::default(), Seen::default());
        models.replace(before.models.iter().map(|m| (m.id, m.clone())));
        workers.replace(before.workers.iter().map(quiet));
        let (models, gone_models) = models.replace(self.models.iter().map(|m| (m.id, m.clone())));
        let (workers, gone_workers) = workers.replace(self.workers.iter().map(quiet));
        let nothing = params.is_none()
            && models.is_empty()
            && workers.is_empty()
            && gone_models.is_empty()
            && gone_workers.is_empty();
        let change = NetworkChange { head, params, models, workers, gone_models, gone_workers };
        (!nothing).then_some(change)
    }

    fn whole(&self, head: BlockId) -> NetworkChange {
        NetworkChange {
            head,
            params: self.params.clone(),
            models: self.models.clone(),
            workers: self.workers.iter().map(|worker| quiet(worker).1).collect(),
            gone_models: Vec::new(),
            gone_workers: Vec::new(),
        }
    }
}

/// Every worker sends a heartbeat every few seconds: that alone is no news.
fn quiet(worker: &WorkerInfo) -> (Address, WorkerInfo) {
    (worker.address, WorkerInfo { last_heartbeat: None, ..worker.clone() })
}

/// Parameters, models, workers.
#[derive(Debug)]
pub(crate) struct NetworkWatch {
    networks: Arc<Networks>,
    known: Option<Arc<Network>>,
}

impl NetworkWatch {
    pub(crate) const fn new(networks: Arc<Networks>) -> Self {
        Self { networks, known: None }
    }
}

impl Watched for NetworkWatch {
    type Change = NetworkChange;

    fn changes(&mut self, directory: &dyn Directory, head: BlockId) -> Option<NetworkChange> {
        let now = self.networks.now(directory);
        match self.known.replace(Arc::clone(&now)) {
            None => Some(now.whole(head)),
            Some(before) => self.networks.change(&before, &now, head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_told() {
        let mut seen = Seen::default();
        assert_eq!(seen.replace([(1, "a"), (2, "b")].into_iter()), (vec!["a", "b"], vec![]));
        assert_eq!(seen.replace([(1, "a"), (2, "b")].into_iter()), (vec![], vec![]));
        assert_eq!(seen.replace([(2, "c"), (3, "d")].into_iter()), (vec!["c", "d"], vec![1]));
    }
}
