//! Blob codec, KZG commitments, sidecars, and the places blobs are read from and kept
