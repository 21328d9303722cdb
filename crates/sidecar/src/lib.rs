//! The worker: blob, decrypt, infer, stream, settle
