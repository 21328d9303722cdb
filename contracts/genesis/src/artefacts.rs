//! Creation code of the contracts, as the compiler left it.

use std::collections::BTreeMap;

use alloy_primitives::{Address, Bytes, hex};
use serde::Deserialize;

use crate::error::GenesisError;

/// Contracts that genesis deploys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contract {
    /// AIConfig.
    AiConfig,
    /// CanaryLedger.
    CanaryLedger,
    /// Library of JobRegistry.
    Disputes,
    /// OpenZeppelin's ERC1967Proxy.
    Erc1967Proxy,
    /// JobRegistry.
    JobRegistry,
    /// ReputationRegistry.
    ReputationRegistry,
    /// SessionManager.
    SessionManager,
    /// Library of JobRegistry.
    SessionOps,
    /// Library of JobRegistry.
    Settlement,
    /// OpenZeppelin's TimelockController.
    TimelockController,
    /// WorkerRegistry.
    WorkerRegistry,
}

impl Contract {
    const fn artefact(self) -> &'static str {
        match self {
            Self::AiConfig => include_str!("../../bytecode/AIConfig.json"),
            Self::CanaryLedger => include_str!("../../bytecode/CanaryLedger.json"),
            Self::Disputes => include_str!("../../bytecode/Disputes.json"),
            Self::Erc1967Proxy => include_str!("../../bytecode/ERC1967Proxy.json"),
            Self::JobRegistry => include_str!("../../bytecode/JobRegistry.json"),
            Self::ReputationRegistry => include_str!("../../bytecode/ReputationRegistry.json"),
            Self::SessionManager => include_str!("../../bytecode/SessionManager.json"),
            Self::SessionOps => include_str!("../../bytecode/SessionOps.json"),
            Self::Settlement => include_str!("../../bytecode/Settlement.json"),
            Self::TimelockController => include_str!("../../bytecode/TimelockController.json"),
            Self::WorkerRegistry => include_str!("../../bytecode/WorkerRegistry.json"),
        }
    }
}

/// One committed artefact.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artefact {
    /// Hex; library addresses are placeholders that are not hex digits.
    bytecode: String,
    /// Source file, then library, then where its address goes.
    link_references: BTreeMap<String, BTreeMap<String, Vec<Reference>>>,
}

#[derive(Deserialize)]
struct Reference {
    /// Byte offset in the creation code.
    start: usize,
    /// Bytes, always 20.
    length: usize,
}

/// Creation code of `contract` with the addresses of its libraries put in.
pub(crate) fn link(contract: Contract, libraries: &BTreeMap<&str, Address>) -> Result<Bytes, GenesisError> {
    let bad = |reason: String| GenesisError::Artefact { contract: format!("{contract:?}"), reason };
    let artefact: Artefact =
        serde_json::from_str(contract.artefact()).map_err(|error| bad(error.to_string()))?;
    let mut code = artefact.bytecode.trim_start_matches("0x").to_owned();
    for (library, references) in artefact.link_references.values().flatten() {
        let address = libraries
            .get(library.as_str())
            .ok_or_else(|| bad(format!("links {library}, which genesis does not deploy")))?;
        for reference in references {
            let (start, end) = (2 * reference.start, 2 * (reference.start + reference.length));
            if reference.length != Address::len_bytes() || !code.is_char_boundary(start) || end > code.len() {
                return Err(bad(format!(
                    "link reference to {library} at {} is out of place",
                    reference.start
                )));
            }
            code.replace_range(start..end, &hex::encode(address));
        }
    }
    hex::decode(code).map(Bytes::from).map_err(|error| bad(format!("creation code is not linked: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::address;

    #[test]
    fn links_every_library_reference() {
        let library = address!("0x00000000000000000000000000000000deadbeef");
        let libraries =
            BTreeMap::from([("Disputes", library), ("SessionOps", library), ("Settlement", library)]);
        let code = link(Contract::JobRegistry, &libraries).unwrap();
        let uses = code.windows(20).filter(|window| *window == library.as_slice()).count();
        assert!(uses >= 3, "{uses} uses of the library address");
    }

    #[test]
    fn says_which_library_is_missing() {
        let error = link(Contract::JobRegistry, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("Disputes"), "{error}");
    }
}
