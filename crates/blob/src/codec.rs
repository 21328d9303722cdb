//! A payload in a blob (live wire format, section 3).
//!
//! 4096 field elements of 32 bytes; byte 0 of each is zero, so that every element is below the modulus whatever the data.
//! The other 31 carry, in order, a big-endian u32 length and the payload; the rest is zero. No compression, one blob.

use alloy_eips::eip4844::{BYTES_PER_BLOB, Blob};

const ELEMENT: usize = 32;
const ELEMENT_DATA: usize = ELEMENT - 1;
const LENGTH_PREFIX: usize = 4;

/// Largest payload of one blob: 4096 × 31 bytes less the length.
pub const MAX_PAYLOAD: usize = BYTES_PER_BLOB / ELEMENT * ELEMENT_DATA - LENGTH_PREFIX;

/// Why bytes do not go into a blob or come out of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// More than [`MAX_PAYLOAD`].
    #[error("a blob carries at most {MAX_PAYLOAD} bytes, this payload has {0}")]
    PayloadTooLarge(usize),
    /// Not a whole number of field elements, or more than a blob has.
    #[error("{0} bytes are no blob: it has 32 to 131072, in whole field elements")]
    BadSize(usize),
    /// An element's first byte is not zero.
    #[error("field element {0} is not canonical: its first byte is not zero")]
    NotCanonical(usize),
    /// The length prefix reaches beyond the data.
    #[error("the blob says it holds {claimed} bytes, and has room for {available}")]
    BadLength {
        /// The length prefix.
        claimed: usize,
        /// Bytes after it.
        available: usize,
    },
}

/// Packs a payload into a blob.
///
/// # Errors
/// When it is larger than [`MAX_PAYLOAD`].
pub fn encode(payload: &[u8]) -> Result<Box<Blob>, CodecError> {
    let too_large = || CodecError::PayloadTooLarge(payload.len());
    if payload.len() > MAX_PAYLOAD {
        return Err(too_large());
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_large())?;
    let mut blob = Box::new(Blob::ZERO);
    let mut data = length.to_be_bytes().into_iter().chain(payload.iter().copied());
    for element in blob.chunks_exact_mut(ELEMENT) {
        let carried = element.iter_mut().skip(1);
        let mut full = true;
        for byte in carried {
            match data.next() {
                Some(next) => *byte = next,
                None => full = false,
            }
        }
        if !full {
            break;
        }
    }
    Ok(blob)
}

/// Takes the payload out. Also reads a blob whose trailing zero elements were cut off.
///
/// # Errors
/// When the bytes are not whole canonical elements that hold what their length says.
pub fn decode(blob: &[u8]) -> Result<Vec<u8>, CodecError> {
    if blob.is_empty() || blob.len() > BYTES_PER_BLOB || !blob.len().is_multiple_of(ELEMENT) {
        return Err(CodecError::BadSize(blob.len()));
    }
    let mut data = Vec::with_capacity(blob.len() / ELEMENT * ELEMENT_DATA);
    for (i, element) in blob.chunks_exact(ELEMENT).enumerate() {
        match element.split_first() {
            Some((0, carried)) => data.extend_from_slice(carried),
            _ => return Err(CodecError::NotCanonical(i)),
        }
    }
    let Some((length, rest)) = data.split_first_chunk::<LENGTH_PREFIX>() else {
        return Err(CodecError::BadSize(blob.len()));
    };
    let claimed = u32::from_be_bytes(*length) as usize;
    let payload = rest.get(..claimed).ok_or(CodecError::BadLength { claimed, available: rest.len() })?;
    Ok(payload.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::hex;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn vector() {
        let payload: Vec<u8> = (1..=40).collect();
        let blob = encode(&payload).unwrap();
        assert_eq!(blob[..32], hex!("00000000280102030405060708090a0b0c0d0e0f101112131415161718191a1b"));
        let second = hex!("001c1d1e1f202122232425262728");
        assert_eq!(blob[32..46], second);
        assert!(blob[46..].iter().all(|b| *b == 0));
        assert_eq!(
            Sha256::digest(blob.as_slice())[..],
            hex!("d55b4fa6932a2e8e23fb9fa172e438c7a1eba4c48cad09d4f90c27f04c263e55")
        );
        assert_eq!(decode(blob.as_slice()), Ok(payload));
    }

    /// The inputs of the live library's own tests.
    #[test]
    fn upstream_inputs() {
        let inputs = [
            (0..1024u32).map(|i| (i % 251) as u8).collect::<Vec<_>>(),
            b"ciphertext-with-trailing-zeros\0\0\0".to_vec(),
            Vec::new(),
            (0..MAX_PAYLOAD).map(|i| (i % 256) as u8).collect(),
        ];
        for input in inputs {
            let blob = encode(&input).unwrap();
            assert_eq!(blob.len(), 131_072);
            assert_eq!(decode(blob.as_slice()), Ok(input));
        }
        let mut element = [0; 32];
        element[0] = 1;
        assert_eq!(decode(&element), Err(CodecError::NotCanonical(0)));
        assert_eq!(decode(&[0; 33]), Err(CodecError::BadSize(33)));
    }

    #[test]
    fn limits() {
        assert_eq!(MAX_PAYLOAD, 126_972);
        assert_eq!(encode(&vec![0; MAX_PAYLOAD + 1]).unwrap_err(), CodecError::PayloadTooLarge(126_973));
        assert_eq!(decode(&[]), Err(CodecError::BadSize(0)));
        assert_eq!(decode(&vec![0; 131_104]), Err(CodecError::BadSize(131_104)));
        let mut element = [0; 32];
        element[4] = 28;
        assert_eq!(decode(&element), Err(CodecError::BadLength { claimed: 28, available: 27 }));
        element[4] = 27;
        assert_eq!(decode(&element), Ok(vec![0; 27]));
        element[1] = 0xff;
        assert!(matches!(decode(&element), Err(CodecError::BadLength { .. })));
    }

    proptest! {
        #[test]
        fn round_trips(payload in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let blob = encode(&payload).unwrap();
            prop_assert!(blob.chunks(32).all(|e| e[0] == 0), "every element is canonical");
            prop_assert_eq!(decode(blob.as_slice()).unwrap(), payload);
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), canonical: bool) {
            if canonical {
                bytes.truncate(bytes.len() / 32 * 32);
                bytes.iter_mut().step_by(32).for_each(|b| *b = 0);
            }
            if let Ok(payload) = decode(&bytes) {
                prop_assert!(payload.len() + 4 <= bytes.len() / 32 * 31);
            }
        }
    }
}
