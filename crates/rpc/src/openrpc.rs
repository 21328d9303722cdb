//! The namespaces' OpenRPC documents: made from the text of [`crate::api`], `operator.rs` and [`crate::types`] by
//! `tests/openrpc`, which fails when a committed one is stale, and served by `rpc.discover` where the namespace is.

use crate::error::LcaiError;
use serde_json::value::RawValue;

/// Version of the namespaces. The major part changes when a caller must change.
pub const API_VERSION: &str = "1.0.0";

/// The text of the document on `lcai_*`.
pub const DOCUMENT: &str = include_str!("../openrpc.json");

/// The text of the document on `lcaiOperator_*`.
pub const OPERATOR_DOCUMENT: &str = include_str!("../openrpc-operator.json");

/// A document as `rpc.discover` gives it.
pub(crate) fn document(text: &str) -> Result<Box<RawValue>, LcaiError> {
    RawValue::from_string(text.to_owned())
        .map_err(|_| LcaiError::Internal("the OpenRPC document is not JSON".into()))
}
