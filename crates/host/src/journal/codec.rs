//! Values of the journal: a version byte, then postcard.

use super::JournalError;
use serde::{Serialize, de::DeserializeOwned};

/// Version of the value encodings of this format.
const VALUE_VERSION: u8 = 1;

pub(super) fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, JournalError> {
    postcard::to_extend(value, vec![VALUE_VERSION])
        .map_err(|e| JournalError::Corrupt { what, reason: format!("it cannot be encoded: {e}") })
}

pub(super) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, JournalError> {
    let corrupt = |reason: String| JournalError::Corrupt { what, reason };
    match bytes.split_first() {
        Some((&VALUE_VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(corrupt(format!("{} bytes too many", rest.len()))),
            Err(e) => Err(corrupt(e.to_string())),
        },
        Some((version, _)) => Err(corrupt(format!("it has version {version}, expected {VALUE_VERSION}"))),
        None => Err(corrupt("it is empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_other_versions_and_trailing_bytes() {
        let bytes = encode("number", &7u64).unwrap();
        assert_eq!(decode::<u64>("number", &bytes).unwrap(), 7);
        let mut other = bytes.clone();
        other[0] = 2;
        assert!(decode::<u64>("number", &other).unwrap_err().to_string().contains("version 2"));
        let mut longer = bytes;
        longer.push(0);
        assert!(decode::<u64>("number", &longer).unwrap_err().to_string().contains("1 bytes too many"));
        assert!(decode::<u64>("number", &[]).is_err());
    }
}
