//! What only the node's operator may ask: a namespace of its own, `lcaiOperator_*`, for a server that only the operator
//! reaches ([`crate::serve_operator`], or the authenticated server of the execution client).

use crate::{
    directory::Directory,
    error::LcaiError,
    openrpc,
    relay::Relay,
    server::ExtensionStatus,
    tokens::TokenIssuer,
    types::{ExtensionHealth, OperatorStatus, RelayCounts},
    unix_now,
    verdicts::{CanaryPayment, EvidenceInfo, VerdictInfo, WorkerStatistics},
};
use async_trait::async_trait;
use jsonrpsee::{core::RpcResult, proc_macros::rpc};
use lcai_primitives::{ids::JobId, quantity::Quantity};
use serde_json::value::RawValue;
use std::{fmt, sync::Arc};

/// `lcaiOperator_*`, but for what [`LcaiDrillApi`] and [`LcaiDisputerApi`] have. Requests without the server's bearer token get HTTP status 401.
#[rpc(server, client, namespace = "lcaiOperator")]
pub trait LcaiOperatorApi {
    /// What the relay counted since start, how far each extension is, and what the keeper has earned.
    #[method(name = "status")]
    async fn status(&self) -> RpcResult<OperatorStatus>;

    /// Ends every login and the subscriptions it opened, e.g. after a token leaked. Gives the unix seconds up to which
    /// tokens were ended; accounts log in again at once.
    #[method(name = "endLogins")]
    async fn end_logins(&self) -> RpcResult<Quantity>;

    /// Compares the signed answers that wait with what the chain says now; gives how many were decided.
    #[method(name = "compareAnswers")]
    async fn compare_answers(&self) -> RpcResult<Quantity>;

    /// This namespace as an OpenRPC document.
    #[method(name = "discover", aliases = ["rpc.discover"])]
    async fn discover(&self) -> RpcResult<Box<RawValue>>;
}

/// The part of `lcaiOperator_*` that the node's supervisor answers.
#[rpc(server, client, namespace = "lcaiOperator")]
pub trait LcaiDrillApi {
    /// Makes the supervised task of this name (e.g. "dispatch") panic, to see that it restarts and that nobody else notices;
    /// `lcai_task_restarts_total` counts it. A name that no task has does nothing.
    #[method(name = "panicTask")]
    async fn panic_task(&self, task: String) -> RpcResult<bool>;
}

/// The part of `lcaiOperator_*` that tells what the disputer of this node does. Users have `lcai_getDisputeEvidence`, and
/// the evidence on chain.
#[rpc(server, client, namespace = "lcaiOperator")]
pub trait LcaiDisputerApi {
    /// What the disputer found of a job, with the reasons, and how the dispute over it stands.
    ///
    /// Errors: NotFound, NotOffered.
    #[method(name = "getVerdict")]
    async fn get_verdict(&self, job: JobId) -> RpcResult<VerdictInfo>;

    /// The evidence of the verdict that was signed over a job, and where it was posted.
    ///
    /// Errors: NotFound, NotOffered.
    #[method(name = "getEvidence")]
    async fn get_evidence(&self, job: JobId) -> RpcResult<EvidenceInfo>;

    /// What became of each worker's answers, and what canaries found.
    ///
    /// Errors: NotOffered.
    #[method(name = "getWorkerStatistics")]
    async fn get_worker_statistics(&self) -> RpcResult<Vec<WorkerStatistics>>;

    /// What accounts of canaries wait to be paid from outside, earliest first; empty where the treasury pays them.
    ///
    /// Errors: NotOffered.
    #[method(name = "getCanaryPayments")]
    async fn get_canary_payments(&self) -> RpcResult<Vec<CanaryPayment>>;
}

/// The operator's methods; from [`crate::LcaiRpc::operator`].
pub struct LcaiOperator {
    relay: Arc<Relay>,
    tokens: Arc<TokenIssuer>,
    extensions: Vec<Arc<dyn ExtensionStatus>>,
    directory: Arc<dyn Directory>,
}

impl fmt::Debug for LcaiOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LcaiOperator").finish_non_exhaustive()
    }
}

impl LcaiOperator {
    pub(crate) fn new(
        relay: Arc<Relay>,
        tokens: Arc<TokenIssuer>,
        extensions: Vec<Arc<dyn ExtensionStatus>>,
        directory: Arc<dyn Directory>,
    ) -> Self {
        Self { relay, tokens, extensions, directory }
    }
}

#[async_trait]
impl LcaiOperatorApiServer for LcaiOperator {
    async fn status(&self) -> RpcResult<OperatorStatus> {
        let stats = self.relay.stats();
        let extensions: Vec<ExtensionHealth> = self.extensions.iter().map(|e| e.status()).collect();
        let relay = RelayCounts {
            kept: stats.kept,
            duplicates: stats.duplicates,
            bad_signatures: stats.bad_signatures,
            mismatches: stats.mismatches,
            cut_readers: stats.cut_readers,
            readers: stats.readers,
            sessions_read: self.relay.sessions_read() as u64,
        };
        Ok(OperatorStatus { relay, extensions, keeper: self.directory.keeper() })
    }

    async fn end_logins(&self) -> RpcResult<Quantity> {
        let now = unix_now();
        self.tokens.end_all(now).map_err(|error| {
            tracing::error!(%error, "the end of all logins cannot be kept");
            LcaiError::Internal("the logins are ended, but a restart of this node would revive them".into())
        })?;
        tracing::warn!("the operator ended all logins");
        Ok(Quantity(now))
    }

    async fn compare_answers(&self) -> RpcResult<Quantity> {
        Ok(Quantity(self.relay.compare().await? as u64))
    }

    async fn discover(&self) -> RpcResult<Box<RawValue>> {
        Ok(openrpc::document(openrpc::OPERATOR_DOCUMENT)?)
    }
}
