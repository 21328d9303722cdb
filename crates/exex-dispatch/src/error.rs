//! Why dispatch refuses.

use thiserror::Error;

/// Why a request to dispatch was refused. The texts are meant for the caller and hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DispatchError {
    /// The model is not registered or not enabled.
    #[error("{0}")]
    UnknownModel(String),
    /// No healthy eligible worker has a free slot.
    #[error("{0}")]
    NoWorker(String),
    /// The authorization asked for does not fit the draw, the nonce or the keys.
    #[error("{0}")]
    Refused(String),
    /// A signature is not the worker's.
    #[error("{0}")]
    Unauthorized(String),
    /// A heartbeat is too old, from the future, or repeated.
    #[error("{0}")]
    Stale(String),
    /// This node has no dispatcher key.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of the node.
    #[error("{0}")]
    Internal(String),
}
