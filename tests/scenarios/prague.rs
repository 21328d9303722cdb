//! The same on Prague, where blob transactions carry EIP-4844 sidecars.

use lcai::devnet::DevnetConfig;
use lcai_tests::{Network, ask, devnet, funded, open_session, reth::RethNet, run};

#[test]
fn an_answer_on_prague_with_blocks_on_demand() {
    run(async {
        let devnet = devnet(DevnetConfig { prague: true, on_demand: true, ..DevnetConfig::default() }).await;
        story(&devnet).await;
        devnet.stop().await;
    });
}

/// The same over Reth, with our extensions in its process.
#[test]
#[ignore = "needs LCAI_RETH, the lcai-reth binary"]
fn an_answer_on_prague_on_reth() {
    run(async {
        let network = RethNet::start(&DevnetConfig { prague: true, ..DevnetConfig::default() }).await;
        story(&network).await;
        network.stop().await;
    });
}

async fn story(network: &impl Network) {
    let user = funded(network, 3).await;
    let session = open_session(&user).await;
    let (answer, _) = ask(&user, &session, "What is the opposite of hot?").await;
    assert!(answer.text.contains("cold"), "{}", answer.text);
}
