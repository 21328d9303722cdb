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

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{B256, Bytes};
    use alloy_signer_local::PrivateKeySigner;
    use lcai_host::{
        FeedBlock, JournalError,
        testing::{ScriptedHost, identity},
    };
    use lcai_primitives::contracts::Deployment;
    use std::{path::PathBuf, sync::Arc};

    const JOB_REGISTRY: Address = Address::repeat_byte(1);
    const AI_CONFIG: Address = Address::repeat_byte(2);

    /// A node without keys.
    fn config() -> NodeConfig {
        let deployment = Deployment {
            chain_id: 8200,
            worker_registry: Address::repeat_byte(3),
            ai_config: AI_CONFIG,
            job_registry: JOB_REGISTRY,
            session_manager: None,
            reputation_registry: None,
            canary_ledger: None,
        };
        NodeConfig {
            deployment,
            genesis_hash: B256::ZERO,
            data_dir: PathBuf::from("lost"),
            models: Vec::new(),
            dispatcher: None,
            keeper: None,
            blob_key: None,
            disputer_encryption_key: Bytes::new(),
            osaka_time: None,
            accept_empty_journal: false,
            upstream: None,
            beacons: Vec::new(),
        }
    }

    /// A journal with these blocks.
    fn journal(blocks: &[FeedBlock], host: &ScriptedHost) -> Result<Arc<Journal>, JournalError> {
        let journal = Journal::in_memory(identity())?;
        let heads = lcai_host::Heads { head: host.head(), safe: None, finalized: None };
        if !blocks.is_empty() {
            journal.advance_feed(&[], blocks, &heads)?;
        }
        Ok(journal)
    }

    /// What is said of an empty journal, and that neither a journal with a block nor the operator's word is refused.
    async fn refusal(config: NodeConfig, host: &ScriptedHost, others: &[(&str, Address)]) -> String {
        let empty = journal(&[], host).unwrap();
        let said = refuse_forgotten_acts(&config, &empty, host, others).await.unwrap_err().to_string();
        let kept = journal(&host.blocks(), host).unwrap();
        refuse_forgotten_acts(&config, &kept, host, others).await.unwrap();
        let told = NodeConfig { accept_empty_journal: true, ..config };
        refuse_forgotten_acts(&told, &empty, host, others).await.unwrap();
        said
    }

    #[tokio::test]
    async fn an_account_that_has_sent_is_refused_and_one_that_has_not_is_taken() {
        let signer = PrivateKeySigner::random();
        let account = signer.address();
        let with_keeper = NodeConfig { keeper: Some(signer.clone()), ..config() };
        let with_blob = NodeConfig { blob_key: Some(signer), ..config() };
        let cases = [
            ("keeper", with_keeper, vec![]),
            ("blob", with_blob, vec![]),
            ("disputer", config(), vec![("disputer", account)]),
            ("disputer blob", config(), vec![("disputer", Address::ZERO), ("disputer blob", account)]),
        ];
        for (role, config, others) in cases {
            let host = ScriptedHost::new(8200);
            let empty = journal(&[], &host).unwrap();
            refuse_forgotten_acts(&config, &empty, &host, &others).await.unwrap();
            host.set_nonce(account, 3);
            let said = refusal(config, &host, &others).await;
            assert!(
                said.contains(&format!("the {role} account {account} has sent 3 transactions")),
                "{said}"
            );
            assert!(said.contains("--lcai.accept-empty-journal") && said.contains("lost"), "{said}");
        }
    }

    #[tokio::test]
    async fn sessions_are_another_dispatchers_or_ours() {
        let signer = PrivateKeySigner::random();
        let ours = signer.address();
        let config = NodeConfig { dispatcher: Some(signer), ..config() };
        let host = ScriptedHost::new(8200);
        let chain = |sessions: u64, dispatcher: Address| {
            host.on_call(move |call, _| match call.to {
                JOB_REGISTRY => Ok(B256::from(U256::from(sessions)).into()),
                AI_CONFIG => Ok(dispatcher.into_word().into()),
                _ => Err(Bytes::new()),
            });
        };
        let empty = journal(&[], &host).unwrap();
        for (sessions, dispatcher) in [(0, ours), (7, Address::ZERO)] {
            chain(sessions, dispatcher);
            refuse_forgotten_acts(&config, &empty, &host, &[]).await.unwrap();
        }
        chain(7, ours);
        let said = refusal(config, &host, &[]).await;
        assert!(said.contains(&format!("7 sessions under this node's dispatcher {ours}")), "{said}");
    }
}
