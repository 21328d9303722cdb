//! The operator's authentication: a JWT (HS256) as execution clients take it from a consensus client (Engine API,
//! "Authentication"): a shared secret of 32 bytes and an `iat` within a minute of now.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hmac::{Hmac, Mac};
use serde::Deserialize;
use sha2::{Sha256, digest::generic_array::GenericArray};
use std::fmt;
use zeroize::Zeroizing;

/// Seconds that a token's `iat` may be from now.
const SKEW: u64 = 60;
/// Longest token looked at, bytes.
const MAX_TOKEN: usize = 1024;

/// The secret that an operator's tools share with the node. Zeroized on drop.
#[derive(Clone)]
pub struct JwtSecret(Zeroizing<[u8; 32]>);

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(..)")
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    iat: u64,
}

impl JwtSecret {
    /// From the bytes of the operator's `jwt.hex`.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Whether an `Authorization` header's value is a bearer token made with this secret within a minute of `now`.
    pub fn accepts(&self, authorization: &str, now: u64) -> bool {
        self.issued_at(authorization).is_some_and(|iat| iat.abs_diff(now) <= SKEW)
    }

    fn issued_at(&self, authorization: &str) -> Option<u64> {
        let token = authorization.strip_prefix("Bearer ").filter(|token| token.len() <= MAX_TOKEN)?;
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        if header.alg != "HS256" {
            return None;
        }
        self.mac(signed).verify_slice(&BASE64.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
        Some(claims.iat)
    }

    fn mac(&self, signed: &str) -> Hmac<Sha256> {
        // A key shorter than SHA-256's block is padded with zeros to the block (RFC 2104).
        let mut block = Zeroizing::new([0; 64]);
        block.iter_mut().zip(self.0.iter()).for_each(|(to, from)| *to = *from);
        let mut mac = <Hmac<Sha256> as Mac>::new(GenericArray::from_slice(block.as_slice()));
        mac.update(signed.as_bytes());
        mac
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SECRET: [u8; 32] = [7; 32];

    pub(crate) fn bearer(secret: &JwtSecret, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let mac = secret.mac(&signed).finalize().into_bytes();
        format!("Bearer {signed}.{}", BASE64.encode(mac))
    }

    #[test]
    fn only_a_fresh_token_of_the_secret_counts() {
        let secret = JwtSecret::new(SECRET);
        let good = bearer(&secret, r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"iat":1000}"#);
        assert!(secret.accepts(&good, 1_060));
        assert!(!secret.accepts(&good, 1_061));
        assert!(!JwtSecret::new([8; 32]).accepts(&good, 1_000));
        assert!(!secret.accepts(good.trim_start_matches("Bearer "), 1_000));
        assert!(!secret.accepts(&bearer(&secret, r#"{"alg":"none"}"#, r#"{"iat":1000}"#), 1_000));
        assert!(!secret.accepts(&bearer(&secret, r#"{"alg":"HS256"}"#, "{}"), 1_000));
        assert!(!secret.accepts(&format!("{good}a"), 1_000));
    }
}
