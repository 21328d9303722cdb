//! What Reth's RPC server takes where the operator says nothing. Its defaults are set once a process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unused_crate_dependencies, missing_docs)]

use clap::Parser;
use lcai_reth::run::{LcaiCli, rpc_defaults};

#[test]
fn the_server_is_bounded_where_the_operator_says_nothing() {
    rpc_defaults().try_init().unwrap();
    let rpc = |args: &[&str]| {
        let mut cli = LcaiCli::parse_from([&["lcai-reth", "node"], args].concat());
        let rpc = &cli.as_node_command_mut().expect("a node").rpc;
        [
            rpc.rpc_max_request_size.get(),
            rpc.rpc_max_response_size.get(),
            rpc.rpc_max_subscriptions_per_connection.get(),
            rpc.rpc_max_connections.get(),
        ]
    };
    assert_eq!(rpc(&[]), [5, 40, 64, 2_000]);
    let own = rpc(&["--rpc.max-request-size", "15", "--rpc.max-connections", "500"]);
    assert_eq!(own, [15, 40, 64, 500], "the operator's own values, though they are Reth's");
}
