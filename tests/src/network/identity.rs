//! Who a node is among its peers: known before anybody starts, so that all can name each other.

use alloy_primitives::{hex, keccak256};
use alloy_rlp::{Encodable, Header};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use std::{net::Ipv4Addr, path::Path};

/// A node's key among its peers, of either layer.
#[derive(Debug, Clone)]
pub struct Identity {
    signer: PrivateKeySigner,
    address: Ipv4Addr,
    port: u16,
}

impl Identity {
    /// A new key for a node that listens there.
    pub fn random(address: Ipv4Addr, port: u16) -> Self {
        Self { signer: PrivateKeySigner::random(), address, port }
    }

    /// Where it listens.
    pub const fn listens(&self) -> (Ipv4Addr, u16) {
        (self.address, self.port)
    }

    /// Writes the key, in hex.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> eyre::Result<()> {
        Ok(std::fs::write(file, hex::encode(self.signer.to_bytes()))?)
    }

    /// Where peers of an execution node find it.
    pub fn enode(&self) -> String {
        let point = self.signer.credential().verifying_key().to_encoded_point(false);
        format!("enode://{}@{}:{}", hex::encode(&point.as_bytes()[1..]), self.address, self.port)
    }

    /// Where peers of a beacon node find it.
    pub fn multiaddr(&self) -> String {
        format!("/ip4/{}/tcp/{}/p2p/{}", self.address, self.port, self.peer_id())
    }

    /// What discovery finds a beacon node by (EIP-778), at a UDP port of its own.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn enr(&self, udp: u16) -> eyre::Result<String> {
        let point = self.signer.credential().verifying_key().to_encoded_point(true);
        let mut content = Vec::new();
        1u64.encode(&mut content);
        let mut pair = |key: &[u8], value: &[u8]| {
            key.encode(&mut content);
            value.encode(&mut content);
        };
        pair(b"id", b"v4");
        pair(b"ip", &self.address.octets());
        pair(b"secp256k1", point.as_bytes());
        pair(b"tcp", &self.port.to_be_bytes());
        pair(b"udp", &udp.to_be_bytes());
        let signature = self.signer.sign_hash_sync(&keccak256(list(&content)))?.as_bytes();
        let mut record = Vec::new();
        signature[..64].encode(&mut record);
        record.extend_from_slice(&content);
        Ok(format!("enr:{}", BASE64_URL_SAFE_NO_PAD.encode(list(&record))))
    }

    /// libp2p's name for the key: short keys are their own hash (multihash "identity" over the key's protobuf), in base58.
    fn peer_id(&self) -> String {
        let point = self.signer.credential().verifying_key().to_encoded_point(true);
        // Field 1: the type, Secp256k1; field 2: 33 bytes.
        let mut key = vec![0x08, 0x02, 0x12, 0x21];
        key.extend_from_slice(point.as_bytes());
        let mut hash = vec![0x00, 0x25];
        hash.extend_from_slice(&key);
        base58(&hash)
    }
}

/// Encoded items as an RLP list.
fn list(items: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    Header { list: true, payload_length: items.len() }.encode(&mut encoded);
    encoded.extend_from_slice(items);
    encoded
}

/// Bitcoin's base58 without a checksum.
fn base58(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    // Least significant digit first.
    let mut digits: Vec<u8> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    let leading = std::iter::repeat_n('1', zeros);
    leading.chain(digits.iter().rev().map(|digit| ALPHABET[usize::from(*digit)] as char)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base58_vectors() {
        assert_eq!(base58(b"Hello World!"), "2NEpo7TZRRrLZSi2U");
        assert_eq!(base58(&[0, 0, 0x28, 0x7f, 0xb4, 0xcd]), "11233QC4");
        assert_eq!(base58(&[]), "");
    }

    #[test]
    fn a_peer_id_names_a_secp256k1_key() {
        let id = Identity::random(Ipv4Addr::LOCALHOST, 9000).peer_id();
        assert!(id.starts_with("16Uiu2HA") && id.len() == 53, "{id}");
    }
}
