//! What an extension sees of a chain.
//!
//! - [`HostNotifier`] and [`HostClient`] are the narrow contract between a chain and the extensions; `lcai-host-rpc`
//!   implements them over JSON-RPC, `bin/lcai-reth` over an ExEx context.
//! - [`ChainWalker`] is the one algorithm by which both follow a chain.
//! - [`FeedWriter`] is the only writer of the journal's first layer: blocks with our contracts' logs.
//! - [`Extension`] is a pure core; [`ExtensionRunner`] gives it blocks and inputs, keeps its cursor, state, undo and
//!   effect intents in one transaction, and hands intents to an [`EffectHandler`] once they are deep enough.
//! - [`TxLane`] sends the transactions of one account, one class of them.
//! - [`Supervisor`] restarts tasks that panic.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod block;
mod effect;
mod error;
mod executor;
mod extension;
mod feed;
mod host;
mod indexed;
mod journal;
mod lane;
mod runner;
mod supervisor;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod walk;

pub use block::{BlockRef, Call, FeedBlock, FeedLog, Heads, IncludedBlob, StateRead};
pub use effect::{EffectContext, EffectDepth, EffectHandler, EffectOutcome, Intent, IntentId, OnRepeat};
pub use error::{CoreError, HostError};
pub use executor::{Clock, EffectExecutor, EffectQueue, ExecutorConfig, SystemClock};
pub use extension::{Effects, Extension, ReadPlan};
pub use feed::{FeedConfig, FeedError, FeedState, FeedWriter, Watchdog, WatchdogConfig};
pub use host::{CanonicalHashes, HostClient, HostNotification, HostNotifier, Receipt, TransactionRequest};
pub use indexed::{Index, Indexed};
pub use journal::{
    EffectState, FORMAT_VERSION, FeedStep, Journal, JournalError, JournalIdentity, KeyValue, PutOutcome,
    Records,
};
pub use lane::{LaneClass, LaneConfig, LaneError, Sent, TxLane, TxSpec};
pub use runner::{BlockEvent, ExtensionHandle, ExtensionRunner, RunnerConfig, RunnerError};
pub use supervisor::{FailedTask, RestartPolicy, Supervisor, TaskError};
pub use table::{AnyTable, FastMap, HashTable, KeyLog, RawChange, Rows, Table};
pub use walk::{ChainReader, ChainWalker, WalkConfig};
