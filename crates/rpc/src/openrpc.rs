//! The namespace's OpenRPC document: made from the text of [`crate::api`] and [`crate::types`] by `tests/openrpc.rs`,
//! which fails when the committed one is stale, and served by `rpc.discover`.

use crate::error::LcaiError;
use serde_json::value::RawValue;

/// Version of the namespace. The major part changes when a caller must change.
pub const API_VERSION: &str = "1.0.0";

/// The document's text.
pub const DOCUMENT: &str = include_str!("../openrpc.json");

/// The document as `rpc.discover` gives it.
pub(crate) fn document() -> Result<Box<RawValue>, LcaiError> {
    RawValue::from_string(DOCUMENT.to_owned())
        .map_err(|_| LcaiError::Internal("the OpenRPC document is not JSON".into()))
}
