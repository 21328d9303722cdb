//! The node is restarted from its data directory while an answer streams: the user's client goes on where it was, with the
//! login it has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use lcai::devnet::{Devnet, DevnetConfig};
use lcai_client::{Connection, Event};
use lcai_rpc::api::LcaiApiClient;
use lcai_tests::{devnet, fee, funded, open_session, run};
use std::time::Duration;
use tokio::sync::mpsc;

#[test]
fn a_restart_costs_neither_login_nor_frames() {
    run(async {
        let mut config = DevnetConfig::default();
        // Long enough for a worker to come back in: it looks for its node again after 5 s at most.
        (config.params.ack_timeout, config.params.completion_timeout) = (60, 90);
        let devnet = devnet(config).await;
        let user = funded(&devnet, 0).await;
        let session = open_session(&user).await;
        let token = user.token().await.unwrap();
        let fee = fee(&user).await;

        let (events, mut seen) = mpsc::unbounded_channel();
        let asking = tokio::spawn(async move {
            let prompt = b"What is the capital of France?";
            let answer = user
                .ask(&session, prompt, None, fee, &mut |event| drop(events.send(event)))
                .await
                .expect("the restart does not end it");
            (answer, user.token().await.unwrap(), session.id)
        });
        // The job is on the chain, and the worker is about to stream.
        while !matches!(seen.recv().await.expect("it is still asking"), Event::Submitted { .. }) {}
        let devnet = devnet.restart_node().await.unwrap();
        let (answer, kept, session) = asking.await.unwrap();
        assert!(answer.text.contains("Paris"), "{}", answer.text);
        assert_eq!(kept, token, "the login counts as before");

        ended_logins_stay_ended(devnet, &token, session).await;
    });
}

async fn ended_logins_stay_ended(devnet: Devnet, token: &str, session: lcai_primitives::ids::SessionId) {
    let node = Connection::open(devnet.url(), None).await.unwrap();
    let frames = node.rpc().poll_frames(token.to_owned(), session, 0.into(), 0.into()).await.unwrap();
    assert!(frames.len() > 1, "what was streamed is kept, and the old token reads it");
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"lcaiOperator_endLogins","params":[]}"#;
    let (ended, _) = devnet.node().operator_module().raw_json_request(call, 1).await.unwrap();
    assert!(ended.get().contains("result"), "{ended}");
    let devnet = devnet.restart_node().await.unwrap();
    let refused = async || {
        node.reopen().await.unwrap();
        node.rpc().poll_frames(token.to_owned(), session, 0.into(), 0.into()).await.unwrap_err().to_string()
    };
    let mut text = refused().await;
    while !text.contains("log in again") {
        assert!(!text.contains("not one of this node"), "{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        text = refused().await;
    }
    devnet.stop().await;
}
