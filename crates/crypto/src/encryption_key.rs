//! P-256 keys that session keys are wrapped to (live wire format, section 2): 65-byte uncompressed SEC1 points.

use alloy_primitives::hex;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use rand::rngs::OsRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// Length of a public key on the wire and on chain.
pub const PUBLIC_KEY_LEN: usize = 65;

const UNCOMPRESSED: u8 = 0x04;

/// Why bytes are not a P-256 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionKeyError {
    /// Not 65 bytes raw, 88 characters of base64 or 130 of hex.
    #[error("an encryption key is 65 bytes (88 characters of base64, 130 of hex), this has {0}")]
    BadLength(usize),
    /// The right length in another alphabet.
    #[error("the encryption key is neither hex nor base64")]
    BadText,
    /// Not an uncompressed point on P-256.
    #[error("the encryption key is not an uncompressed point on P-256")]
    NotAPoint,
    /// Zero, or not below the group order.
    #[error("not a P-256 secret")]
    BadSecret,
}

/// Somebody's public key: a point on P-256, checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EncryptionPublicKey(p256::PublicKey);

impl EncryptionPublicKey {
    /// From the 65 bytes of section 2.
    ///
    /// # Errors
    /// When they are not an uncompressed point of the curve.
    pub fn from_sec1(bytes: &[u8]) -> Result<Self, EncryptionKeyError> {
        if bytes.len() != PUBLIC_KEY_LEN {
            return Err(EncryptionKeyError::BadLength(bytes.len()));
        }
        if bytes.first() != Some(&UNCOMPRESSED) {
            return Err(EncryptionKeyError::NotAPoint);
        }
        p256::PublicKey::from_sec1_bytes(bytes).map(Self).map_err(|_| EncryptionKeyError::NotAPoint)
    }

    /// From any of the forms the live services mix, told apart by length: 65 raw bytes, 88 characters of base64, 130 of
    /// hex (with or without `0x`).
    ///
    /// # Errors
    /// When it is none of them, or not a point.
    pub fn from_any(bytes: &[u8]) -> Result<Self, EncryptionKeyError> {
        match bytes.len() {
            PUBLIC_KEY_LEN => Self::from_sec1(bytes),
            88 | 130 | 132 => {
                std::str::from_utf8(bytes).map_err(|_| EncryptionKeyError::BadText).and_then(str::parse)
            }
            n => Err(EncryptionKeyError::BadLength(n)),
        }
    }

    /// The 65 bytes of section 2.
    pub fn to_sec1(&self) -> [u8; PUBLIC_KEY_LEN] {
        let mut out = [0; PUBLIC_KEY_LEN];
        let point = self.0.to_encoded_point(false);
        for (to, from) in out.iter_mut().zip(point.as_bytes()) {
            *to = *from;
        }
        out
    }

    pub(crate) const fn point(&self) -> &p256::PublicKey {
        &self.0
    }
}

impl FromStr for EncryptionPublicKey {
    type Err = EncryptionKeyError;

    fn from_str(text: &str) -> Result<Self, EncryptionKeyError> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let bytes = match digits.len() {
            130 => hex::decode(digits).map_err(|_| EncryptionKeyError::BadText)?,
            88 => BASE64.decode(digits).map_err(|_| EncryptionKeyError::BadText)?,
            _ => return Err(EncryptionKeyError::BadLength(text.len())),
        };
        Self::from_sec1(&bytes)
    }
}

impl fmt::Display for EncryptionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.to_sec1()))
    }
}

impl fmt::Debug for EncryptionPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for EncryptionPublicKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EncryptionPublicKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// The secret of an encryption key pair. Zeroized on drop; never printed.
#[derive(Clone)]
pub struct EncryptionSecret(p256::SecretKey);

impl fmt::Debug for EncryptionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionSecret(of {})", self.public())
    }
}

impl EncryptionSecret {
    /// A fresh key pair from the system's generator.
    pub fn random() -> Self {
        Self(p256::SecretKey::random(&mut OsRng))
    }

    /// From the 32-byte big-endian scalar.
    ///
    /// # Errors
    /// When it is zero or not below the group order.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, EncryptionKeyError> {
        if bytes.len() != 32 {
            return Err(EncryptionKeyError::BadSecret);
        }
        p256::SecretKey::from_slice(bytes).map(Self).map_err(|_| EncryptionKeyError::BadSecret)
    }

    /// The 32-byte scalar. Store it only encrypted.
    pub fn expose(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// The public half.
    pub fn public(&self) -> EncryptionPublicKey {
        EncryptionPublicKey(self.0.public_key())
    }

    /// Raw ECDH: the X coordinate of the shared point.
    pub(crate) fn shared_x(&self, peer: &EncryptionPublicKey) -> Zeroizing<[u8; 32]> {
        let shared = p256::ecdh::diffie_hellman(self.0.to_nonzero_scalar(), peer.point().as_affine());
        Zeroizing::new((*shared.raw_secret_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: [u8; 32] = hex!("87eba76e7f3164534045ba922e7770fb58bbd14ad732bbf5ba6f11cc56989e6f");
    const PUBLIC: &str = "04217251cdb2ede092d6329b7853a75e66822b9ca2f7bf36a48e93b1a3d940d7be884819c235b55971cc844e2ebb26edb4ccb7bf2818ee2c741516ff5cdf3058fc";

    #[test]
    fn public_of_the_vector() {
        let secret = EncryptionSecret::from_slice(&SECRET).unwrap();
        assert_eq!(hex::encode(secret.public().to_sec1()), PUBLIC);
        assert_eq!(*secret.expose(), SECRET);
    }

    #[test]
    fn every_live_form_is_read() {
        let key: EncryptionPublicKey = PUBLIC.parse().unwrap();
        let raw = key.to_sec1();
        let base64 = BASE64.encode(raw);
        assert_eq!((base64.len(), PUBLIC.len()), (88, 130));
        for text in [PUBLIC.to_owned(), format!("0x{PUBLIC}"), PUBLIC.to_uppercase(), base64] {
            assert_eq!(text.parse(), Ok(key));
            assert_eq!(EncryptionPublicKey::from_any(text.as_bytes()), Ok(key));
        }
        assert_eq!(EncryptionPublicKey::from_any(&raw), Ok(key));
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"0x{PUBLIC}\""));
        assert_eq!(serde_json::from_str::<EncryptionPublicKey>(&json).unwrap(), key);
    }

    #[test]
    fn bad_keys_are_refused() {
        let raw = hex::decode(PUBLIC).unwrap();
        let mut off_curve = raw.clone();
        off_curve[64] ^= 1;
        let mut compressed_tag = raw.clone();
        compressed_tag[0] = 2;
        for bytes in [&off_curve, &compressed_tag, &vec![0; 65], &vec![4; 65]] {
            assert_eq!(EncryptionPublicKey::from_sec1(bytes), Err(EncryptionKeyError::NotAPoint));
        }
        for n in [0, 1, 33, 64, 66] {
            assert_eq!(EncryptionPublicKey::from_sec1(&vec![4; n]), Err(EncryptionKeyError::BadLength(n)));
        }
        assert_eq!("0x".parse::<EncryptionPublicKey>(), Err(EncryptionKeyError::BadLength(2)));
        assert_eq!("z".repeat(130).parse::<EncryptionPublicKey>(), Err(EncryptionKeyError::BadText));
        assert_eq!("*".repeat(88).parse::<EncryptionPublicKey>(), Err(EncryptionKeyError::BadText));
        assert!(EncryptionSecret::from_slice(&[0; 32]).is_err());
        assert!(EncryptionSecret::from_slice(&[0xff; 32]).is_err());
        assert!(EncryptionSecret::from_slice(&SECRET[..31]).is_err());
    }

    #[test]
    fn the_secret_is_not_printed() {
        let secret = EncryptionSecret::from_slice(&SECRET).unwrap();
        assert!(!format!("{secret:?}").contains("87eba76e"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..140), text in any::<String>()) {
            let _ = EncryptionPublicKey::from_any(&bytes);
            prop_assert!(text.parse::<EncryptionPublicKey>().is_err());
        }
    }
}
