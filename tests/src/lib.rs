//! End-to-end scenarios across crates
