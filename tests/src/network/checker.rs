//! Compares what the execution nodes say of the chain: every block's hash and state root, every receipt with logs of our
//! contracts, and the contracts' accounts at the end.

use super::execution::{ExecutionApi, quantity};
use alloy_primitives::Address;
use eyre::OptionExt;
use lcai_genesis::addresses;
use serde_json::{Value, json};
use std::fmt;

/// What was found equal on all nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agreement {
    /// Blocks with the same hash, state root and receipts root.
    pub blocks: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// Receipts with logs of our contracts, compared member by member.
    pub receipts: u64,
    /// Logs of our contracts.
    pub logs: u64,
    /// Accounts of our contracts with the same code, storage root, balance and nonce at the last block.
    pub accounts: u64,
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, transactions, receipts, logs, accounts } = self;
        write!(
            f,
            "{blocks} blocks with {transactions} transactions (hash, state root, receipts root), {receipts} receipts with \
             {logs} logs of our contracts, {accounts} contract accounts"
        )
    }
}

/// Members of a receipt that every client gives in the same form.
const RECEIPT: [&str; 9] = [
    "transactionHash",
    "transactionIndex",
    "blockHash",
    "from",
    "to",
    "status",
    "gasUsed",
    "cumulativeGasUsed",
    "logsBloom",
];

/// Members of a log.
const LOG: [&str; 6] = ["address", "topics", "data", "logIndex", "blockNumber", "transactionHash"];

/// Compares the chains of `nodes` up to the lowest of their heads.
///
/// # Errors
/// When a node does not answer, or two say something else; the text says where.
pub async fn compare(nodes: &[&ExecutionApi]) -> eyre::Result<Agreement> {
    let last = newest(nodes).await?;
    let mut agreement = Agreement::default();
    for number in 0..=last {
        compare_block(nodes, number, &mut agreement).await?;
    }
    // Anew: clients do not keep the state of every block.
    let last = newest(nodes).await?;
    for (name, address) in addresses::ALL {
        let members = ["balance", "nonce", "codeHash", "storageHash"];
        let read = |account: &Value| members.map(|member| account[member].clone());
        let params = json!([address, [], format!("{last:#x}")]);
        let what = format!("{name} ({address}) at block {last}");
        same(nodes, "eth_getProof", &params, &what, read).await?;
        agreement.accounts += 1;
    }
    Ok(agreement)
}

/// The newest block that all nodes have and that no short reorg changes while it is compared.
async fn newest(nodes: &[&ExecutionApi]) -> eyre::Result<u64> {
    let mut lowest = u64::MAX;
    for node in nodes {
        lowest = lowest.min(node.height("latest").await?.ok_or_eyre("no head")?);
    }
    Ok(lowest.saturating_sub(2))
}

async fn compare_block(nodes: &[&ExecutionApi], number: u64, agreement: &mut Agreement) -> eyre::Result<()> {
    let id = format!("{number:#x}");
    let what = format!("block {number}");
    let members = ["hash", "stateRoot", "receiptsRoot", "transactionsRoot", "parentBeaconBlockRoot"];
    let read = |block: &Value| members.map(|member| block[member].clone());
    same(nodes, "eth_getBlockByNumber", &json!([id, false]), &what, read).await?;
    let found = same(nodes, "eth_getBlockReceipts", &json!([id]), &what, ours).await?;
    agreement.blocks += 1;
    agreement.receipts += found.len() as u64;
    agreement.logs += found.iter().map(|(_, logs)| logs.len() as u64).sum::<u64>();
    let first = nodes.first().ok_or_eyre("no nodes")?;
    let count = first.call("eth_getBlockTransactionCountByNumber", json!([id])).await?;
    agreement.transactions += quantity(&count)?;
    Ok(())
}

/// Members of a receipt, and of each of its logs.
type Receipt = (Vec<Value>, Vec<Vec<Value>>);

/// The receipts with logs of our contracts, in the form that all clients share.
fn ours(receipts: &Value) -> Vec<Receipt> {
    let is_ours = |log: &&Value| {
        let address = log["address"].as_str().and_then(|text| text.parse::<Address>().ok());
        addresses::ALL.iter().any(|(_, ours)| Some(*ours) == address)
    };
    let pick =
        |value: &Value, members: &[&str]| members.iter().map(|m| value[*m].clone()).collect::<Vec<_>>();
    let mut found = Vec::new();
    for receipt in receipts.as_array().into_iter().flatten() {
        let logs: Vec<Vec<Value>> = receipt["logs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(is_ours)
            .map(|log| pick(log, &LOG))
            .collect();
        if !logs.is_empty() {
            found.push((pick(receipt, &RECEIPT), logs));
        }
    }
    found
}

/// Asks every node the same and gives what they agree on.
async fn same<T: PartialEq + fmt::Debug>(
    nodes: &[&ExecutionApi],
    method: &str,
    params: &Value,
    what: &str,
    read: impl Fn(&Value) -> T,
) -> eyre::Result<T> {
    let mut agreed: Option<(&str, T)> = None;
    for node in nodes {
        let answer = node.call(method, params.clone()).await?;
        eyre::ensure!(!answer.is_null(), "{} has no {what}", node.name);
        let found = read(&answer);
        match &agreed {
            Some((first, expected)) => eyre::ensure!(
                *expected == found,
                "{what}: {first} says {expected:?}, {} says {found:?}",
                node.name
            ),
            None => agreed = Some((&node.name, found)),
        }
    }
    agreed.map(|(_, found)| found).ok_or_eyre("no nodes")
}
