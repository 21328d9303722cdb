//! Blob codec, KZG commitments, sidecars, and the places blobs are read from and kept.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod beacon;
pub mod codec;
pub mod error;
pub mod keeper;
pub mod kzg;
pub mod sidecar;
pub mod source;
pub mod store;

pub use alloy_eips::{
    eip4844::{Blob, Bytes48},
    eip7594::BlobTransactionSidecarVariant,
};
pub use beacon::{BeaconLocation, BeaconSource, Locate};
pub use codec::{CodecError, MAX_PAYLOAD, decode, encode};
pub use error::BlobError;
pub use keeper::{BlobKeeper, BlobKeeperHandler, HostBlobs, Retention};
pub use kzg::{blob_versioned_hash, commit, verify, versioned_hash, warm};
pub use sidecar::{SidecarForm, build_sidecar, upcast};
pub use source::{BlobHint, BlobSource, FallbackSource, SourceStats};
pub use store::{BlobStore, Inserted, Pruned, StoreStats};
