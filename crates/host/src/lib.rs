//! What an extension sees of a chain.
//!
//! - [`HostNotifier`] and [`HostClient`] are the narrow contract between a chain and the extensions; `lcai-host-rpc`
//!   implements them over JSON-RPC, `bin/lcai-reth` over an ExEx context.
//! - [`FeedWriter`] is the only writer of the journal's first layer: blocks with our contracts' logs.
//! - [`Extension`] is a pure core; [`ExtensionRunner`] gives it blocks and inputs, keeps its cursor, state, undo and
//!   effect intents in one transaction, and hands intents to an [`EffectHandler`] once they are deep enough.
//! - [`Supervisor`] restarts tasks that panic.

mod block;
mod effect;
mod error;
mod extension;
mod host;
mod table;

pub use block::{BlockRef, Call, FeedBlock, FeedLog, Heads, IncludedBlob, StateRead};
pub use effect::{EffectContext, EffectDepth, EffectHandler, EffectOutcome, Intent, IntentId, OnRepeat};
pub use error::{CoreError, HostError};
pub use extension::{Effects, Extension, ReadPlan};
pub use host::{CanonicalHashes, HostClient, HostNotification, HostNotifier, Receipt, TransactionRequest};
pub use table::{AnyTable, RawChange, Table};
