//! Readable reverts: revert data to `Name(argument=value, ...)` by the ABIs of our contracts.

use crate::contracts::ABIS;
use alloy_dyn_abi::{DynSolValue, ErrorExt};
use alloy_json_abi::{Error, JsonAbi};
use alloy_primitives::{Selector, U256, hex};
use alloy_sol_types::{Panic, Revert as StringRevert, SolError};
use std::{collections::HashMap, fmt, sync::LazyLock};

/// Revert strings longer than this are cut: they come from any contract and end in logs.
const MAX_TEXT: usize = 256;

static ERRORS: LazyLock<HashMap<Selector, Error>> = LazyLock::new(|| {
    // An ABI that does not parse already failed the build, in the bindings made from the same file.
    ABIS.iter()
        .filter_map(|json| serde_json::from_str::<JsonAbi>(json).ok())
        .flat_map(|abi| abi.errors.into_values().flatten())
        .map(|error| (error.selector(), error))
        .collect()
});

/// A decoded revert; its `Display` is `Name(argument=value, ...)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revert {
    /// The error's name, e.g. `NotTimedOut`.
    pub name: String,
    /// Arguments as (name, printed value), in order.
    pub args: Vec<(String, String)>,
}

impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (i, (name, value)) in self.args.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            if name.is_empty() { write!(f, "{comma}{value}")? } else { write!(f, "{comma}{name}={value}")? }
        }
        f.write_str(")")
    }
}

/// Decodes a custom error of our contracts, `Error(string)` or `Panic(uint256)`; `None` for anything else.
pub fn decode_revert(data: &[u8]) -> Option<Revert> {
    let selector = Selector::try_from(data.get(..4)?).ok()?;
    if let Ok(revert) = StringRevert::abi_decode(data) {
        return Some(Revert { name: "Error".into(), args: vec![(String::new(), quoted(&revert.reason))] });
    }
    if let Ok(panic) = Panic::abi_decode(data) {
        return Some(Revert { name: "Panic".into(), args: vec![(String::new(), panic_text(panic.code))] });
    }
    let error = ERRORS.get(&selector)?;
    let values = error.decode_error(data).ok()?.body;
    let args = error.inputs.iter().map(|p| p.name.clone()).zip(values.iter().map(printed)).collect();
    Some(Revert { name: error.name.clone(), args })
}

/// One line for a person, whatever the data.
pub fn revert_reason(data: &[u8]) -> String {
    match (decode_revert(data), data.get(..4)) {
        (Some(revert), _) => revert.to_string(),
        (None, Some(selector)) => format!("unknown error 0x{} ({} bytes)", hex::encode(selector), data.len()),
        (None, None) => "reverted without a reason".into(),
    }
}

fn panic_text(code: U256) -> String {
    match u32::try_from(code).ok().and_then(alloy_sol_types::PanicKind::from_number) {
        Some(kind) => format!("0x{code:02x}: {kind}"),
        None => format!("0x{code:02x}"),
    }
}

fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(MAX_TEXT).collect();
    // Debug escapes control characters, so that a contract cannot write lines of its own into a log.
    format!("{cut:?}")
}

fn printed(value: &DynSolValue) -> String {
    match value {
        DynSolValue::Address(a) => a.to_string(),
        DynSolValue::Bool(b) => b.to_string(),
        DynSolValue::Uint(n, _) => n.to_string(),
        DynSolValue::Int(n, _) => n.to_string(),
        DynSolValue::FixedBytes(word, size) => {
            format!("0x{}", hex::encode(word.as_slice().get(..*size).unwrap_or_default()))
        }
        DynSolValue::Bytes(b) => format!("0x{}", hex::encode(b.get(..MAX_TEXT).unwrap_or(b))),
        DynSolValue::String(s) => quoted(s),
        other => format!("{other:?}").chars().take(MAX_TEXT).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::{AIConfig, JobRegistry};
    use proptest::prelude::*;

    #[test]
    fn our_errors_are_named_with_their_arguments() {
        let data = JobRegistry::NotTimedOut {
            jobId: U256::from(7),
            deadline: U256::from(100),
            currentTime: U256::from(90),
        }
        .abi_encode();
        assert_eq!(revert_reason(&data), "NotTimedOut(jobId=7, deadline=100, currentTime=90)");
        assert_eq!(revert_reason(&JobRegistry::ZeroDeposit {}.abi_encode()), "ZeroDeposit()");
        let data = AIConfig::ParameterOutOfBounds {
            param: "ack\nTimeout".into(),
            value: U256::from(1),
            min: U256::from(2),
            max: U256::from(3),
        }
        .abi_encode();
        assert_eq!(
            revert_reason(&data),
            r#"ParameterOutOfBounds(param="ack\nTimeout", value=1, min=2, max=3)"#
        );
    }

    #[test]
    fn the_built_in_errors_are_read() {
        let data = StringRevert { reason: "no".into() }.abi_encode();
        assert_eq!(revert_reason(&data), r#"Error("no")"#);
        let data = Panic { code: U256::from(0x11) }.abi_encode();
        assert!(revert_reason(&data).starts_with("Panic(0x11: "), "{}", revert_reason(&data));
        assert_eq!(revert_reason(&[]), "reverted without a reason");
        assert_eq!(revert_reason(&[1, 2, 3, 4, 5]), "unknown error 0x01020304 (5 bytes)");
    }

    #[test]
    fn every_error_of_the_abis_is_known() {
        assert!(ERRORS.len() > 80, "{}", ERRORS.len());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_line(data in proptest::collection::vec(any::<u8>(), 0..300), pick: usize) {
            let _ = revert_reason(&data);
            let selectors: Vec<_> = ERRORS.keys().collect();
            let mut known = selectors[pick % selectors.len()].to_vec();
            known.extend_from_slice(&data);
            prop_assert!(!revert_reason(&known).contains('\n'));
        }
    }
}
