//! The login text: what an account signs (EIP-191 `personal_sign`) to prove to a node that it is itself.

use alloy_primitives::Address;
use std::{fmt, str::FromStr};

const TITLE: &str = "LightChain AI login";

/// Bounds on the nonce, in hex digits: 64 bits are guessable by nobody, 256 are plenty.
const NONCE_DIGITS: std::ops::RangeInclusive<usize> = 16..=64;

/// Why a text is not a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Not the text [`login_message`] makes, byte for byte.
    #[error("not a login message of this node")]
    Malformed,
    /// The nonce is not 16 to 64 lowercase hex digits.
    #[error("the login nonce is 16 to 64 lowercase hex digits")]
    BadNonce,
    /// Expires before it was issued.
    #[error("the login expires before it was issued")]
    BadTimes,
}

/// A login challenge. `Display` gives the text to sign; `FromStr` takes exactly that text and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginMessage {
    /// Who logs in.
    pub address: Address,
    /// EIP-155 chain id, so that a login cannot be carried to another network.
    pub chain_id: u64,
    /// 16 to 64 lowercase hex digits chosen by the node.
    pub nonce: String,
    /// Unix seconds.
    pub issued_at: u64,
    /// Unix seconds.
    pub expires: u64,
}

impl fmt::Display for LoginMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{TITLE}\n\nAddress: {}\nChain ID: {}\nNonce: {}\nIssued At: {}\nExpires: {}",
            self.address, self.chain_id, self.nonce, self.issued_at, self.expires
        )
    }
}

impl FromStr for LoginMessage {
    type Err = LoginError;

    fn from_str(text: &str) -> Result<Self, LoginError> {
        let mut lines = text.split('\n');
        if lines.next() != Some(TITLE) || lines.next() != Some("") {
            return Err(LoginError::Malformed);
        }
        let mut value =
            |label: &str| lines.next().and_then(|l| l.strip_prefix(label)).ok_or(LoginError::Malformed);
        let message = Self {
            address: value("Address: ")?.parse().map_err(|_| LoginError::Malformed)?,
            chain_id: value("Chain ID: ")?.parse().map_err(|_| LoginError::Malformed)?,
            nonce: value("Nonce: ")?.to_owned(),
            issued_at: value("Issued At: ")?.parse().map_err(|_| LoginError::Malformed)?,
            expires: value("Expires: ")?.parse().map_err(|_| LoginError::Malformed)?,
        };
        message.check()?;
        // One text per message: no other spelling (case, leading zeros, extra lines) may carry a valid signature.
        if message.to_string() == text { Ok(message) } else { Err(LoginError::Malformed) }
    }
}

impl LoginMessage {
    fn check(&self) -> Result<(), LoginError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !NONCE_DIGITS.contains(&self.nonce.len()) || !self.nonce.bytes().all(hex) {
            return Err(LoginError::BadNonce);
        }
        if self.expires <= self.issued_at {
            return Err(LoginError::BadTimes);
        }
        Ok(())
    }

    /// Whether the message can be used at `now`, unix seconds.
    pub fn is_current(&self, now: u64) -> bool {
        self.issued_at <= now && now < self.expires
    }
}

/// The text an account signs to log in. `nonce_hex` is 16 to 64 lowercase hex digits; times are unix seconds.
pub fn login_message(
    address: Address,
    chain_id: u64,
    nonce_hex: &str,
    issued_at: u64,
    expires: u64,
) -> String {
    LoginMessage { address, chain_id, nonce: nonce_hex.to_owned(), issued_at, expires }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_is_fixed() {
        let text =
            login_message(Address::repeat_byte(0xab), 8200, "00112233445566ff", 1_700_000_000, 1_700_003_600);
        assert_eq!(
            text,
            "LightChain AI login\n\nAddress: 0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB\nChain ID: 8200\n\
             Nonce: 00112233445566ff\nIssued At: 1700000000\nExpires: 1700003600"
        );
        let message: LoginMessage = text.parse().unwrap();
        assert!(message.is_current(1_700_000_000) && !message.is_current(1_700_003_600));
        assert!(!message.is_current(1_699_999_999));
    }

    #[test]
    fn other_spellings_are_refused() {
        let text = login_message(Address::repeat_byte(0xab), 8200, "00112233445566ff", 5, 9);
        let bad = [
            text.to_lowercase(),
            text.replace("8200", "08200"),
            text.replace("8200", "+8200"),
            format!("{text}\n"),
            text.replace('\n', "\r\n"),
            text.replace("0xABaB", "0xabab"),
        ];
        for text in bad {
            assert_eq!(text.parse::<LoginMessage>(), Err(LoginError::Malformed), "{text}");
        }
        assert_eq!(
            text.replace("00112233445566ff", "0011").parse::<LoginMessage>(),
            Err(LoginError::BadNonce)
        );
        assert_eq!(text.replace("66ff", "66FF").parse::<LoginMessage>(), Err(LoginError::BadNonce));
        assert_eq!(
            text.replace("Expires: 9", "Expires: 5").parse::<LoginMessage>(),
            Err(LoginError::BadTimes)
        );
    }

    proptest! {
        #[test]
        fn round_trips(address: [u8; 20], chain_id: u64, nonce in "[0-9a-f]{16,64}", issued in 0u64..u64::MAX, life in 1u64..) {
            let message = LoginMessage {
                address: address.into(), chain_id, nonce, issued_at: issued, expires: issued.saturating_add(life),
            };
            prop_assert_eq!(message.to_string().parse::<LoginMessage>(), Ok(message));
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            prop_assert!(text.parse::<LoginMessage>().is_err());
        }
    }
}
