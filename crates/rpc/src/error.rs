//! The error codes of `lcai_*`: EIP-1474's where they fit, our own from -39000 downwards.

use jsonrpsee::types::ErrorObjectOwned;
use lcai_primitives::Quantity;
use thiserror::Error;

/// Why a call was refused. The code is stable; the text names what was wrong and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LcaiError {
    /// -32602: a parameter is malformed.
    #[error("{0}")]
    InvalidParams(String),
    /// -32603: a fault of the node; the text holds no secret.
    #[error("{0}")]
    Internal(String),
    /// -39001: the model is not registered, or not enabled.
    #[error("{0}")]
    UnknownModel(String),
    /// -39002: no healthy eligible worker has a free slot.
    #[error("{0}")]
    NoWorker(String),
    /// -39003: the caller has not proven to be the account it speaks for.
    #[error("{0}")]
    Unauthorized(String),
    /// -39004: the proof or the token has expired.
    #[error("{0}")]
    Expired(String),
    /// -39005: the authorization asked for does not fit the draw, the nonce or the keys.
    #[error("{0}")]
    AuthorizationRefused(String),
    /// -39006: no such session or job, or a blob that the chain carries and nobody keeps any more.
    #[error("{0}")]
    NotFound(String),
    /// -39007: the account's quota or rate is used up.
    #[error("{0}")]
    QuotaExceeded(String),
    /// -39008: this node does not offer the method (no dispatcher key, no blob key, no disputer).
    #[error("{0}")]
    NotOffered(String),
    /// -39009: a frame that the relay refuses: wrong worker, wrong session, bad signature, too large.
    #[error("{0}")]
    FrameRefused(String),
    /// -39010: the payload is too large for one blob.
    #[error("{0}")]
    TooLarge(String),
    /// -39011: a blob does not match its versioned hash.
    #[error("{0}")]
    BlobMismatch(String),
    /// -39012: the chain refused the transaction the node sent on the caller's behalf.
    #[error("{0}")]
    TransactionRefused(String),
    /// -39013: the node has not yet seen the block this needs, e.g. the caller follows the chain faster; trying again in
    /// a second helps, and nothing was done.
    #[error("{0}")]
    NotYet(String),
    /// -39014: a subscription was ended because its reader took too long; `data.resumeFrom` is the cursor to subscribe
    /// with again.
    #[error("the reader is too slow; resume from cursor {resume_from}")]
    SlowReader {
        /// The last cursor handed to the connection.
        resume_from: u64,
    },
    /// -39015: this node hands the call on to another one, which cannot be asked at the moment. `data` of a subscription
    /// that ended so has `resumeFrom`, as for -39014.
    #[error("{text}")]
    UpstreamUnavailable {
        /// What went wrong.
        text: String,
        /// The last cursor handed to the connection, where a stream of frames was cut.
        resume_from: Option<u64>,
    },
}

impl LcaiError {
    /// The JSON-RPC code.
    pub const fn code(&self) -> i32 {
        match self {
            Self::InvalidParams(_) => -32602,
            Self::Internal(_) => -32603,
            Self::UnknownModel(_) => -39001,
            Self::NoWorker(_) => -39002,
            Self::Unauthorized(_) => -39003,
            Self::Expired(_) => -39004,
            Self::AuthorizationRefused(_) => -39005,
            Self::NotFound(_) => -39006,
            Self::QuotaExceeded(_) => -39007,
            Self::NotOffered(_) => -39008,
            Self::FrameRefused(_) => -39009,
            Self::TooLarge(_) => -39010,
            Self::BlobMismatch(_) => -39011,
            Self::TransactionRefused(_) => -39012,
            Self::NotYet(_) => -39013,
            Self::SlowReader { .. } => -39014,
            Self::UpstreamUnavailable { .. } => -39015,
        }
    }
}

impl From<LcaiError> for ErrorObjectOwned {
    fn from(error: LcaiError) -> Self {
        let resume_from = match error {
            LcaiError::SlowReader { resume_from } => Some(resume_from),
            LcaiError::UpstreamUnavailable { resume_from, .. } => resume_from,
            _ => None,
        };
        let data = resume_from.map(|cursor| serde_json::json!({ "resumeFrom": Quantity(cursor) }));
        Self::owned(error.code(), error.to_string(), data)
    }
}
