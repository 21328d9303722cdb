//! What a network's governor does.

use crate::Network;
use alloy_primitives::{B256, Bytes, U256};
use alloy_sol_types::{SolCall, sol};
use lcai_client::Connection;
use lcai_genesis::{addresses, dev::Role};
use lcai_host::{TxLane, TxSpec};
use lcai_primitives::contracts::AIConfig;
use std::time::Duration;

sol! {
    interface Timelock {
        function schedule(address target, uint256 value, bytes data, bytes32 predecessor, bytes32 salt, uint256 delay) external;
        function execute(address target, uint256 value, bytes payload, bytes32 predecessor, bytes32 salt) external payable;
    }
}

/// Switches sortition on or off: the governor proposes and executes through the timelock. Returns once the node knows.
pub async fn switch_sortition(network: &impl Network, on: bool) {
    let node = Connection::open(network.url(), None).await.unwrap();
    let governor = TxLane::new(node.chain(), Role::Governor.signer().unwrap());
    let data: Bytes = AIConfig::setSortitionEnabledCall { enabled: on }.abi_encode().into();
    let (target, salt) = (network.deployment().ai_config, B256::with_last_byte(1 + u8::from(on)));
    let schedule = Timelock::scheduleCall {
        target,
        value: U256::ZERO,
        data: data.clone(),
        predecessor: B256::ZERO,
        salt,
        delay: U256::from(2),
    };
    let execute =
        Timelock::executeCall { target, value: U256::ZERO, payload: data, predecessor: B256::ZERO, salt };
    let send = async |input: Vec<u8>| governor.send(TxSpec::call(addresses::TIMELOCK, input.into())).await;
    assert!(send(schedule.abi_encode()).await.unwrap().receipt.success);
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if send(execute.abi_encode()).await.is_ok_and(|sent| sent.receipt.success) {
            break;
        }
    }
    // A new connection reads the parameters anew, once the node has the block.
    for _ in 0..100 {
        let node = Connection::open(network.url(), None).await.unwrap();
        if node.network().params.sortition_enabled == on {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the switch has no effect");
}
