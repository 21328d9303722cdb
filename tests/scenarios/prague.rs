//! The same on Prague, where blob transactions carry EIP-4844 sidecars.

use lcai::devnet::DevnetConfig;
use lcai_tests::{ask, devnet, funded, open_session, run};

#[test]
fn an_answer_on_prague_with_blocks_on_demand() {
    run(async {
        let devnet = devnet(DevnetConfig { prague: true, on_demand: true, ..DevnetConfig::default() }).await;
        let user = funded(&devnet, 3).await;
        let session = open_session(&user).await;
        let (answer, _) = ask(&user, &session, "What is the opposite of hot?").await;
        assert!(answer.text.contains("cold"), "{}", answer.text);
        devnet.stop().await;
    });
}
