//! Why a backend gave no answer.

use std::time::Duration;
use thiserror::Error;

/// Why a backend gave no answer. Texts hold no plaintext: what a model server says is classified, never quoted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InferenceError {
    /// The model server does not accept connections, or the connection broke.
    #[error("model server {url} is not reachable")]
    Unreachable {
        /// Its address.
        url: String,
    },
    /// The model server accepted the request and then said nothing.
    #[error("no output from the model for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The backend does not have the model.
    #[error("model {0} is not installed in the backend")]
    ModelMissing(String),
    /// The model's digest is not the one asked for: other weights would answer than those agreed on.
    #[error("model {model} has digest {found}, expected {expected}")]
    DigestMismatch {
        /// The model's name.
        model: String,
        /// SHA-256 expected, hex.
        expected: String,
        /// SHA-256 found, hex.
        found: String,
    },
    /// A parameter of the model is not the one asked for: the same weights would answer otherwise.
    #[error("model {model} has {parameter} {found:?}, expected {expected:?}")]
    ParameterMismatch {
        /// The model's name.
        model: String,
        /// The parameter's.
        parameter: String,
        /// The value expected.
        expected: String,
        /// The values found, one after the other; empty where there is none.
        found: String,
    },
    /// The model server answered with an HTTP error.
    #[error("model server answered HTTP {status} to {path}")]
    Rejected {
        /// The request's path.
        path: &'static str,
        /// HTTP status.
        status: u16,
    },
    /// The model server ran out of memory.
    #[error("the model does not fit into the model server's memory")]
    OutOfMemory,
    /// The model server's answer does not follow its API.
    #[error("the model server's answer to {path} cannot be read: {reason}")]
    Malformed {
        /// The request's path.
        path: &'static str,
        /// What was wrong; holds no output.
        reason: &'static str,
    },
    /// The model produced no text at all. An empty answer is never settled.
    #[error("the model produced an empty answer")]
    Empty,
    /// The request asks for something the backend cannot do.
    #[error("the backend cannot do this: {0}")]
    Unsupported(&'static str),
    /// The model file cannot be loaded.
    #[error("model file {path} cannot be loaded: {reason}")]
    Load {
        /// The file.
        path: String,
        /// What was wrong with it.
        reason: String,
    },
    /// The computation failed.
    #[error("inference failed: {0}")]
    Failed(String),
}

impl InferenceError {
    /// Whether the same request can succeed later without anybody changing the configuration. An empty answer is not:
    /// decoding is greedy, so a second run gives the same.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled(_) | Self::OutOfMemory => true,
            Self::Rejected { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}
