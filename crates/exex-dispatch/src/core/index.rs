//! A block's reads and logs by what they are about: a block with ten thousand events is gone through once.

use crate::plan::{topic0, u64_topic};
use alloy_primitives::{
    Address, B256, Bytes, U256,
    map::{AddressMap, HashMap},
};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{Call, CoreError, FeedBlock, FeedLog, StateRead};
use lcai_primitives::contracts::{Deployment, EncodedJob, JOB_EVENTS, JobRegistry};

/// What a call of the plan gave: its output, or its revert data.
type Answer<'a> = Result<&'a Bytes, &'a Bytes>;

/// What of a block is looked up.
pub(super) struct BlockIndex<'a> {
    pub(super) block: &'a FeedBlock,
    /// All but those of jobs.
    reads: HashMap<&'a Call, Answer<'a>>,
    /// The answers of `getJob`, by the job.
    jobs: Vec<(u64, Answer<'a>)>,
    /// JobRegistry's logs, as positions in the block, by their first indexed argument, a job's or session's id. Ids that
    /// no chain reaches are left out.
    by_id: Vec<(u64, usize)>,
    /// `SessionCreated` by the session's owner, in order.
    creations: AddressMap<Vec<&'a FeedLog>>,
    /// `SessionKeyUpdated`, in order.
    key_updates: Vec<&'a FeedLog>,
}

/// A job that has events in the block.
pub(super) struct TouchedJob<'a> {
    pub(super) id: u64,
    pub(super) happened: Happened,
    /// `None`: the plan did not ask.
    answer: Option<Answer<'a>>,
}

/// A job's events in a block, by their transactions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Happened {
    pub(super) submit: Option<B256>,
    pub(super) acknowledge: Option<B256>,
    pub(super) complete: Option<B256>,
    pub(super) time_out: Option<B256>,
    /// The first of those after which a job has ended.
    pub(super) settle: Option<B256>,
}

impl Happened {
    fn note(&mut self, log: &FeedLog) {
        let transaction = log.transaction_hash;
        let first = |known: &mut Option<B256>| *known = known.or(Some(transaction));
        match topic0(log) {
            Some(JobRegistry::JobSubmitted::SIGNATURE_HASH) => first(&mut self.submit),
            Some(JobRegistry::JobAcknowledged::SIGNATURE_HASH) => first(&mut self.acknowledge),
            Some(JobRegistry::JobCompleted::SIGNATURE_HASH) => first(&mut self.complete),
            Some(JobRegistry::JobTimedOut::SIGNATURE_HASH) => {
                first(&mut self.time_out);
                first(&mut self.settle);
            }
            Some(
                JobRegistry::JobReleased::SIGNATURE_HASH
                | JobRegistry::JobSettledNoFault::SIGNATURE_HASH
                | JobRegistry::DisputeResolved::SIGNATURE_HASH
                | JobRegistry::DisputeDefaulted::SIGNATURE_HASH,
            ) => first(&mut self.settle),
            _ => {}
        }
    }
}

impl<'a> BlockIndex<'a> {
    pub(super) fn new(block: &'a FeedBlock, deployment: &Deployment) -> Self {
        let (reads, jobs, by_id, creations, key_updates) = Default::default();
        let mut index = Self { block, reads, jobs, by_id, creations, key_updates };
        for read in &block.reads {
            index.add_read(read, deployment);
        }
        for (place, log) in block.logs.iter().enumerate() {
            if log.address == deployment.job_registry {
                index.add(place, log);
            }
        }
        // Stable, and quick for what is in order, as reads are: of several answers the first counts.
        index.jobs.sort_by_key(|(id, _)| *id);
        index.by_id.sort_unstable();
        index
    }

    fn add_read(&mut self, read: &'a StateRead, deployment: &Deployment) {
        let answer = if read.success { Ok(&read.output) } else { Err(&read.output) };
        let job = (read.call.to == deployment.job_registry).then(|| asked_job(&read.call.input)).flatten();
        match job {
            Some(id) => self.jobs.push((id, answer)),
            None => drop(self.reads.entry(&read.call).or_insert(answer)),
        }
    }

    fn add(&mut self, place: usize, log: &'a FeedLog) {
        self.by_id.extend(u64_topic(log, 1).map(|id| (id, place)));
        match (topic0(log), address_topic(log, 2)) {
            (Some(JobRegistry::SessionCreated::SIGNATURE_HASH), Some(owner)) => {
                self.creations.entry(owner).or_default().push(log);
            }
            (Some(JobRegistry::SessionKeyUpdated::SIGNATURE_HASH), _) => self.key_updates.push(log),
            _ => {}
        }
    }

    /// The sessions that an account created in the block, in order.
    pub(super) fn creations_by(&self, owner: Address) -> &[&'a FeedLog] {
        self.creations.get(&owner).map_or(&[], Vec::as_slice)
    }

    /// The block's key updates, in order.
    pub(super) fn key_updates(&self) -> &[&'a FeedLog] {
        &self.key_updates
    }

    /// What a call of the plan gave; see [`FeedBlock::read`].
    pub(super) fn get(&self, call: &Call) -> Option<Answer<'a>> {
        self.reads.get(call).copied()
    }

    /// The decoded answer; `None` where the getter reverted, which says that the record does not exist.
    pub(super) fn read<C: SolCall>(&self, call: &Call) -> Result<Option<C::Return>, CoreError> {
        match self.get(call) {
            None => Err(self.missing(C::SIGNATURE)),
            Some(Err(_)) => Ok(None),
            Some(Ok(output)) => Ok(C::abi_decode_returns(output).ok()),
        }
    }

    pub(super) fn missing(&self, what: &str) -> CoreError {
        CoreError::MissingRead { number: self.block.number, what: what.to_owned() }
    }

    /// JobRegistry's logs about a job or session, in order.
    pub(super) fn about(&self, id: U256) -> impl Iterator<Item = &'a FeedLog> + Clone {
        let id = u64::try_from(id).ok();
        let start = self.by_id.partition_point(|(known, _)| Some(*known) < id);
        let logs = self.by_id.get(start..).unwrap_or_default();
        let block = self.block;
        logs.iter()
            .take_while(move |(known, _)| Some(*known) == id)
            .filter_map(move |(_, place)| block.logs.get(*place))
    }

    /// The jobs with events in the block, in ascending order.
    pub(super) fn touched_jobs(&self) -> impl Iterator<Item = TouchedJob<'a>> {
        let mut answers = self.jobs.iter();
        self.by_id.chunk_by(|a, b| a.0 == b.0).filter_map(move |events| {
            let id = events.first()?.0;
            let mut happened = Happened::default();
            let mut is_job = false;
            for log in events.iter().filter_map(|(_, place)| self.block.logs.get(*place)) {
                is_job |= topic0(log).is_some_and(|signature| JOB_EVENTS.contains(&signature));
                happened.note(log);
            }
            let not_before = answers.as_slice().iter().take_while(|(known, _)| *known < id).count();
            answers = answers.as_slice().get(not_before..).unwrap_or_default().iter();
            let answer =
                answers.as_slice().first().filter(|(known, _)| *known == id).map(|(_, answer)| *answer);
            is_job.then_some(TouchedJob { id, happened, answer })
        })
    }

    /// The job's record; `None` where it does not exist.
    pub(super) fn record(&self, job: &TouchedJob<'a>) -> Result<Option<EncodedJob<'a>>, CoreError> {
        match job.answer {
            None => Err(self.missing(JobRegistry::getJobCall::SIGNATURE)),
            Some(Err(_)) => Ok(None),
            Some(Ok(output)) => Ok(EncodedJob::new(output)),
        }
    }
}

/// The job that a call asks `getJob` for, as the plan encodes it.
fn asked_job(input: &[u8]) -> Option<u64> {
    let word = input.strip_prefix(JobRegistry::getJobCall::SELECTOR.as_slice())?;
    u64::try_from(U256::try_from_be_slice(word).filter(|_| word.len() == 32)?).ok()
}

/// The transaction of the first log with one of the signatures.
pub(super) fn transaction_of<'a>(
    mut logs: impl Iterator<Item = &'a FeedLog>,
    signatures: &[B256],
) -> Option<B256> {
    logs.find(|log| topic0(log).is_some_and(|t| signatures.contains(&t))).map(|log| log.transaction_hash)
}

/// The first indexed argument as an address.
pub(super) fn address_topic(log: &FeedLog, index: usize) -> Option<Address> {
    log.topics.get(index).map(|word| Address::from_word(*word))
}
