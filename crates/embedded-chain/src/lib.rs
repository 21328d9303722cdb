//! An execution client in-process (ethrex), for the devnet and the tests
