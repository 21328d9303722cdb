//! Watches the chain's transactions for how users behave, over the node's `eth_*`.

use crate::DisputerHandle;
use alloy_primitives::{Address, U256, hex};
use alloy_sol_types::SolCall;
use jsonrpsee::core::client::{ClientT, Error as RpcError};
use lcai_client::Connection;
use lcai_exex_disputer::canary::{Act, ClientStyle, Habits, SeenTx, Survey};
use lcai_primitives::contracts::JobRegistry;
use serde_json::{Value, json};

/// Blocks read at a time.
const BATCH: u64 = 20;

/// Blocks before the first one watched that are read as well: a week at twelve seconds.
const BEFORE: u64 = 50_400;

/// Gas margins that clients are known to take, percent: an estimate is not what is used in the end.
const MARGINS: [u64; 7] = [0, 10, 20, 25, 30, 50, 100];

/// Reads block by block.
#[derive(Debug, Default)]
pub(super) struct ChainReader {
    next: Option<u64>,
    level: bool,
    survey: Survey,
}

impl ChainReader {
    /// Who first asked before `until` (unix seconds), to be like; of their friends those known for no longer than so many
    /// seconds.
    pub(super) fn habits(&self, until: u64, oldest_friend: u64) -> Habits {
        self.survey.habits(until, oldest_friend)
    }

    /// Whether the head was reached: before that, who is to be like is not known.
    pub(super) const fn is_level(&self) -> bool {
        self.level
    }

    /// Reads up to the head, a batch at most. What a reorg takes back stays seen: it happened all the same.
    pub(super) async fn advance(
        &mut self,
        connection: &Connection,
        disputer: &DisputerHandle,
    ) -> Result<(), RpcError> {
        let head: String = connection.rpc().request("eth_blockNumber", jsonrpsee::rpc_params![]).await?;
        let head = number(&json!(head)).unwrap_or_default();
        let first = *self.next.get_or_insert(head.saturating_sub(BEFORE));
        for height in first..=head.min(first.saturating_add(BATCH)) {
            let params = jsonrpsee::rpc_params![format!("{height:#x}"), true];
            let block: Value = connection.rpc().request("eth_getBlockByNumber", params).await?;
            self.take(&block, connection, disputer).await?;
            self.next = Some(height + 1);
        }
        self.level |= self.next.is_some_and(|next| next > head);
        Ok(())
    }

    async fn take(
        &mut self,
        block: &Value,
        connection: &Connection,
        disputer: &DisputerHandle,
    ) -> Result<(), RpcError> {
        let (Some(at), Some(txs)) = (number(&block["timestamp"]), block["transactions"].as_array()) else {
            return Ok(());
        };
        let base = number(&block["baseFeePerGas"]).unwrap_or_default();
        let registry = disputer.deployment.job_registry;
        for tx in txs {
            let Some(mut seen) = read(tx, at, base, registry) else { continue };
            if disputer.core.read(|core| core.is_canary_account(seen.from)) {
                continue;
            }
            if seen.act == Act::Open {
                let params = jsonrpsee::rpc_params![tx["hash"].clone()];
                let receipt: Value = connection.rpc().request("eth_getTransactionReceipt", params).await?;
                if number(&receipt["status"]) != Some(1) {
                    continue;
                }
                let (limit, used) = (number(&tx["gas"]), number(&receipt["gasUsed"]));
                seen.style.gas_margin = margin(limit.unwrap_or_default(), used.unwrap_or_default());
            }
            self.survey.take(&seen);
        }
        Ok(())
    }
}

/// A transaction as the survey takes it; `None` for one that makes a contract or cannot be read.
fn read(tx: &Value, at: u64, base: u64, registry: Address) -> Option<SeenTx> {
    let address = |field: &str| tx[field].as_str()?.parse::<Address>().ok();
    let (from, to) = (address("from")?, address("to")?);
    let value: U256 = tx["value"].as_str()?.parse().ok()?;
    let input = hex::decode(tx["input"].as_str()?).ok()?;
    let tip = number(&tx["maxPriorityFeePerGas"]).unwrap_or_default();
    let cap = number(&tx["maxFeePerGas"]).unwrap_or_default().saturating_sub(tip);
    let fee_factor = cap.saturating_mul(100).checked_div(base).unwrap_or(ClientStyle::LCAI.fee_factor);
    let act = match input.first_chunk::<4>() {
        None if input.is_empty() => Act::Transfer { to },
        Some(selector) if to == registry => act(*selector),
        _ => Act::Other,
    };
    // A base fee moves on before the block comes: clients take round factors.
    let style = ClientStyle { gas_margin: 0, fee_factor: (fee_factor + 5) / 10 * 10, tip, prepaid: false };
    Some(SeenTx { at, from, value, act, style })
}

const fn act(selector: [u8; 4]) -> Act {
    match selector {
        JobRegistry::createSessionCall::SELECTOR => Act::Open,
        JobRegistry::submitJobCall::SELECTOR | JobRegistry::submitJobOnBehalfCall::SELECTOR => Act::Ask,
        JobRegistry::depositCall::SELECTOR => Act::Deposit,
        _ => Act::Other,
    }
}

/// The nearest margin that clients are known to take.
fn margin(limit: u64, used: u64) -> u64 {
    let over = limit.saturating_sub(used).saturating_mul(100).checked_div(used).unwrap_or_default();
    MARGINS.into_iter().min_by_key(|known| known.abs_diff(over)).unwrap_or_default()
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tx(to: Address, value: &str, input: &str) -> Value {
        json!({
            "from": Address::repeat_byte(1), "to": to, "value": value, "input": input,
            "maxPriorityFeePerGas": "0x3b9aca00", "maxFeePerGas": "0x77359400",
        })
    }

    #[test]
    fn transactions_are_read_for_what_they_do() {
        let (registry, other) = (Address::repeat_byte(4), Address::repeat_byte(5));
        let read = |tx: Value| read(&tx, 7, 500_000_000, registry).unwrap();
        let paid = read(tx(other, "0xde0b6b3a7640000", "0x"));
        assert_eq!((paid.act, paid.value), (Act::Transfer { to: other }, U256::from(10).pow(U256::from(18))));
        let style = ClientStyle { gas_margin: 0, fee_factor: 200, tip: 1_000_000_000, prepaid: false };
        assert_eq!((paid.at, paid.from, paid.style), (7, Address::repeat_byte(1), style));
        let selector = |selector: [u8; 4]| format!("0x{}00", hex::encode(selector));
        for (call, expected) in [
            (JobRegistry::createSessionCall::SELECTOR, Act::Open),
            (JobRegistry::submitJobCall::SELECTOR, Act::Ask),
            (JobRegistry::submitJobOnBehalfCall::SELECTOR, Act::Ask),
            (JobRegistry::depositCall::SELECTOR, Act::Deposit),
            (JobRegistry::withdrawCall::SELECTOR, Act::Other),
        ] {
            assert_eq!(read(tx(registry, "0x0", &selector(call))).act, expected);
            assert_eq!(read(tx(other, "0x0", &selector(call))).act, Act::Other);
        }
        let created = json!({ "from": Address::repeat_byte(1), "to": null, "value": "0x0", "input": "0x00" });
        assert_eq!(super::read(&created, 7, 1, registry), None);
    }

    #[test]
    fn a_margin_is_one_that_clients_take() {
        assert_eq!((margin(120, 100), margin(118, 100), margin(101, 100)), (20, 20, 0));
        assert_eq!((margin(147, 100), margin(5, 0)), (50, 0));
    }
}
