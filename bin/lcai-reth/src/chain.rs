//! Which chain: our development chain from the genesis builder, or the genesis file of the network's operator.

use alloy_genesis::Genesis;
use lcai_genesis::{
    DEFAULT_CHAIN_ID, DEFAULT_TIMESTAMP, Fork, ProtocolParams,
    dev::{self, DEV_WORKERS, DevAccounts},
};
use reth_chainspec::ChainSpec;
use reth_cli::chainspec::{ChainSpecParser, parse_genesis};
use std::sync::{Arc, OnceLock};

/// The name of the development chain; also what `--dev` starts.
pub const DEV: &str = "dev";

/// Reads `--chain`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LcaiChainSpecParser;

impl ChainSpecParser for LcaiChainSpecParser {
    type ChainSpec = ChainSpec;

    const SUPPORTED_CHAINS: &'static [&'static str] = &[DEV];

    fn parse(s: &str) -> eyre::Result<Arc<ChainSpec>> {
        if s == DEV {
            return dev_chain();
        }
        let genesis = parse_genesis(s).map_err(|e| {
            eyre::eyre!("{e}; for a live network give the genesis.json its operators publish (this program has none built in)")
        })?;
        Ok(Arc::new(genesis.into()))
    }

    fn help_message() -> String {
        format!(
            "The chain this node is on: `{DEV}`, or the genesis.json that the network's operators publish.\n\n`{DEV}` is the development chain (chain id {DEFAULT_CHAIN_ID}, Osaka): our contracts in genesis, accounts of the public test mnemonic."
        )
    }
}

/// The development chain. The same bytes on every start, so that a data directory can be continued.
fn dev_chain() -> eyre::Result<Arc<ChainSpec>> {
    static CHAIN: OnceLock<Arc<ChainSpec>> = OnceLock::new();
    if let Some(chain) = CHAIN.get() {
        return Ok(chain.clone());
    }
    let genesis = dev_genesis()?;
    Ok(CHAIN.get_or_init(|| Arc::new(genesis.into())).clone())
}

fn dev_genesis() -> eyre::Result<Genesis> {
    let accounts = DevAccounts::derive(DEV_WORKERS)?;
    let spec = dev::spec(&accounts, Fork::Osaka, DEFAULT_TIMESTAMP, ProtocolParams::devnet())?;
    Ok(lcai_genesis::build(&spec)?.genesis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_development_chain_is_the_same_every_time() {
        let first = LcaiChainSpecParser::parse(DEV).unwrap();
        assert_eq!(first.chain().id(), DEFAULT_CHAIN_ID);
        let again: ChainSpec = dev_genesis().unwrap().into();
        assert_eq!(first.genesis_hash(), again.genesis_hash());
    }

    #[test]
    fn a_live_chain_needs_its_operators_file() {
        let error = LcaiChainSpecParser::parse("mainnet").unwrap_err().to_string();
        assert!(error.contains("genesis.json"), "{error}");
    }
}
