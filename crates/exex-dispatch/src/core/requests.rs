//! Blocks into the directory: sessions that are asked for by sortition.

use super::{
    DispatchCore, Expiring,
    index::{BlockIndex, transaction_of},
};
use crate::{
    plan::{request_call, request_id, topic0},
    records::SessionRequest,
};
use alloy_primitives::{Address, U256};
use alloy_sol_types::{SolCall, SolEvent};
use lcai_host::{CoreError, FeedLog};
use lcai_primitives::{
    contracts::{RequestStatus, SessionManager},
    ids::{ModelId, SessionId},
};

impl DispatchCore {
    /// A request of SessionManager; `None` for one that expired so long ago that its blobs would be gone too.
    pub fn request(&self, id: u64) -> Option<&SessionRequest> {
        self.requests.get(&id)
    }

    /// An account's requests, oldest first.
    pub fn requests_of(&self, user: Address) -> impl DoubleEndedIterator<Item = (u64, &SessionRequest)> {
        let ids = self.asked.range((user, 0)..=(user, u64::MAX));
        ids.filter_map(|((_, id), _)| Some((*id, self.requests.get(id)?)))
    }

    pub(super) fn apply_request(&mut self, index: &BlockIndex<'_>, id: U256) -> Result<(), CoreError> {
        let (Some(manager), Ok(number)) = (self.config.deployment.session_manager, u64::try_from(id)) else {
            return Ok(());
        };
        let call = request_call(manager, id);
        // Blocks that were journaled before requests were followed lack the read.
        let Some(Ok(answer)) = index.get(&call) else { return Ok(()) };
        let Ok(record) = SessionManager::getRequestCall::abi_decode_returns(answer) else { return Ok(()) };
        let Ok(status) = RequestStatus::try_from(record.status) else { return Ok(()) };
        let logs: Vec<&FeedLog> = index
            .block
            .logs
            .iter()
            .filter(|log| log.address == manager && request_id(log) == Some(id))
            .collect();
        let asked = transaction_of(logs.iter().copied(), &[SessionManager::SessionRequested::SIGNATURE_HASH]);
        let ready = logs.iter().find(|log| topic0(log) == Some(SessionManager::SessionReady::SIGNATURE_HASH));
        let ready = ready.and_then(|log| log.topics.get(2));
        let session = ready.and_then(|id| SessionId::try_from(U256::from_be_bytes(id.0)).ok());
        let known = self.requests.get(&number);
        let request = SessionRequest {
            user: record.user,
            model_id: ModelId(record.modelId),
            request_block: record.requestBlock,
            expiry: record.expiry,
            // Expired is a matter of the time at which somebody looks.
            status: if status == RequestStatus::Expired {
                known.map_or(RequestStatus::Open, |known| known.status)
            } else {
                status
            },
            worker: (!record.worker.is_zero()).then_some(record.worker),
            session: session.or_else(|| known.and_then(|known| known.session)),
            transaction: asked.or_else(|| known.map(|known| known.transaction)).unwrap_or_default(),
        };
        if known.is_none() {
            self.asked.insert((request.user, number), 0);
            self.expire(index.block, Expiring::Request(number));
        }
        self.requests.insert(number, request);
        Ok(())
    }

    pub(super) fn forget_request(&mut self, id: u64) {
        if let Some(request) = self.requests.remove(&id) {
            self.asked.remove(&(request.user, id));
        }
    }
}
