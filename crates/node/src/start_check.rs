//! Refusing to start on an empty journal while the chain shows that this node's keys have acted before: what they signed
//! would be forgotten, and the rules that keep them from acting twice live in the journal.

use crate::NodeConfig;
use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall;
use lcai_host::{Call, HostClient, Journal};
use lcai_primitives::contracts::{AIConfig, JobRegistry};

/// `others` are accounts with a role that the configuration does not name.
///
/// # Errors
/// When the journal is empty and the chain has sessions that the dispatcher's key may have signed, or a key of this node
/// has sent transactions.
pub(crate) async fn refuse_forgotten_acts(
    config: &NodeConfig,
    journal: &Journal,
    client: &dyn HostClient,
    others: &[(&str, Address)],
) -> eyre::Result<()> {
    if config.accept_empty_journal || journal.feed_tip()?.is_some() {
        return Ok(());
    }
    let how =
        "give the data directory it had, or start with --lcai.accept-empty-journal if it is really lost";
    if let Some(dispatcher) = &config.dispatcher {
        let sessions = read(client, config.deployment.job_registry, JobRegistry::sessionCountCall {}).await?;
        let current =
            read(client, config.deployment.ai_config, AIConfig::getDispatcherAddressCall {}).await?;
        if sessions > U256::ZERO && current == dispatcher.address() {
            eyre::bail!(
                "the journal in {} is empty, but JobRegistry has {sessions} sessions under this node's dispatcher \
                 {current}: {how}",
                config.data_dir.display()
            );
        }
    }
    let own = [("keeper", &config.keeper), ("blob", &config.blob_key)];
    let own = own.into_iter().filter_map(|(role, key)| Some((role, key.as_ref()?.address())));
    for (role, address) in own.chain(others.iter().copied()) {
        let sent = client.nonce(address, false).await?;
        if sent > 0 {
            eyre::bail!(
                "the journal in {} is empty, but the {role} account {address} has sent {sent} transactions: {how}",
                config.data_dir.display()
            );
        }
    }
    Ok(())
}

async fn read<C: SolCall>(client: &dyn HostClient, to: Address, call: C) -> eyre::Result<C::Return> {
    let output = client.call(Call { to, input: call.abi_encode().into() }, None).await?;
    Ok(C::abi_decode_returns(&output)?)
}
