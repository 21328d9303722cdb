//! A block's reads and logs by what they are about: a block with ten thousand events is gone through once.

use crate::plan::topic0;
use alloy_primitives::{
    Address, B256, Bytes, U256,
    map::{AddressMap, B256Map, HashMap},
};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{Call, CoreError, FeedBlock, FeedLog};
use lcai_primitives::contracts::{Deployment, JobRegistry};

/// What of a block is looked up.
pub(super) struct BlockIndex<'a> {
    pub(super) block: &'a FeedBlock,
    reads: HashMap<&'a Call, Result<&'a Bytes, &'a Bytes>>,
    /// JobRegistry's logs by their first indexed argument, a job's or session's id.
    by_id: B256Map<Vec<&'a FeedLog>>,
    /// `SessionCreated` by the session's owner, in order.
    creations: AddressMap<Vec<&'a FeedLog>>,
    /// `SessionKeyUpdated`, in order.
    key_updates: Vec<&'a FeedLog>,
}

impl<'a> BlockIndex<'a> {
    pub(super) fn new(block: &'a FeedBlock, deployment: &Deployment) -> Self {
        let mut reads = HashMap::default();
        reads.reserve(block.reads.len());
        for read in &block.reads {
            let output = if read.success { Ok(&read.output) } else { Err(&read.output) };
            reads.entry(&read.call).or_insert(output);
        }
        let (by_id, creations, key_updates) = Default::default();
        let mut index = Self { block, reads, by_id, creations, key_updates };
        for log in block.logs.iter().filter(|log| log.address == deployment.job_registry) {
            index.add(log);
        }
        index
    }

    fn add(&mut self, log: &'a FeedLog) {
        if let Some(id) = log.topics.get(1) {
            self.by_id.entry(*id).or_default().push(log);
        }
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
    pub(super) fn get(&self, call: &Call) -> Option<Result<&'a Bytes, &'a Bytes>> {
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
    pub(super) fn about(&self, id: U256) -> &[&'a FeedLog] {
        self.by_id.get(&B256::from(id)).map_or(&[], Vec::as_slice)
    }
}

/// The transaction of the first log with one of the signatures.
pub(super) fn transaction_of(logs: &[&FeedLog], signatures: &[B256]) -> Option<B256> {
    logs.iter()
        .find(|log| topic0(log).is_some_and(|t| signatures.contains(&t)))
        .map(|log| log.transaction_hash)
}

/// The first indexed argument as an address.
pub(super) fn address_topic(log: &FeedLog, index: usize) -> Option<Address> {
    log.topics.get(index).map(|word| Address::from_word(*word))
}
