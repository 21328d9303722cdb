//! Keys at rest: Ethereum's Web3 Secret Storage, version 3.
//!
//! secp256k1 account keys are ordinary v3 files, readable by geth and by every wallet. P-256 encryption keys use the same
//! crypto envelope with `publicKey` (65 bytes, hex) in place of `address`, so that neither can be taken for the other.
//! Files are created with mode 0600 and never overwritten. What is read is bounded before any work is done for it: a
//! hostile file can ask for neither gigabytes nor hours.

use crate::encryption_key::{EncryptionPublicKey, EncryptionSecret};
use aes::{
    Aes128,
    cipher::{KeyIvInit, StreamCipher},
};
use alloy_primitives::{Address, hex, keccak256};
use alloy_signer_local::PrivateKeySigner;
use rand::{RngCore, rngs::OsRng};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

type Aes128Ctr = ctr::Ctr128BE<Aes128>;

const VERSION: u8 = 3;
const CIPHER: &str = "aes-128-ctr";
const DK_LEN: usize = 32;

/// Largest file read as a keystore.
const MAX_FILE: u64 = 64 * 1024;

/// Most memory scrypt may be asked for (128 × n × r bytes); geth's standard asks for 256 MiB.
const MAX_SCRYPT_MEMORY: u64 = 512 << 20;

/// Most work scrypt may be asked for (n × r × p); geth's standard is 2^21.
const MAX_SCRYPT_WORK: u64 = 1 << 24;

/// Most rounds of PBKDF2; the specification's example has 2^18.
const MAX_PBKDF2_ROUNDS: u32 = 10_000_000;

/// Why a key cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// The file cannot be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is there already; keys are never overwritten.
    #[error("{0} exists; a key is never overwritten")]
    Exists(PathBuf),
    /// Not a version 3 keystore.
    #[error("{path} is not a version 3 keystore: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The mac does not match.
    #[error("wrong password for {0}")]
    WrongPassword(PathBuf),
    /// It opens to another key than it says it holds.
    #[error("{0} holds another key than it names")]
    WrongKey(PathBuf),
    /// A P-256 file where an account was asked for, or the other way round.
    #[error("{path} holds no {expected} key")]
    WrongCurve {
        /// The file.
        path: PathBuf,
        /// `account (secp256k1)` or `encryption (P-256)`.
        expected: &'static str,
    },
}

/// How much a password guess costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KdfCost {
    /// geth's standard: scrypt n = 2^18, r = 8, p = 1; 256 MiB and about a second.
    #[default]
    Standard,
    /// geth's light: scrypt n = 2^12, r = 8, p = 6; 4 MiB. For devnets and tests.
    Light,
}

impl KdfCost {
    const fn scrypt(self) -> (u64, u32, u32) {
        match self {
            Self::Standard => (1 << 18, 8, 1),
            Self::Light => (1 << 12, 8, 6),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyFile {
    /// An account's address: hex, without 0x as geth writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// An encryption key's public half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    /// Some writers say `Crypto`.
    #[serde(alias = "Crypto")]
    crypto: CryptoSection,
    #[serde(default)]
    id: String,
    version: u8,
}

#[derive(Serialize, Deserialize)]
struct CryptoSection {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    #[serde(flatten)]
    kdf: Kdf,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum Kdf {
    Scrypt { dklen: usize, n: u64, p: u32, r: u32, salt: String },
    Pbkdf2 { c: u32, dklen: usize, prf: String, salt: String },
}

/// What is wrong with a file, before its path is known.
type Reason = &'static str;

fn hex_field(text: &str, reason: Reason) -> Result<Vec<u8>, Reason> {
    hex::decode(text).map_err(|_| reason)
}

impl Kdf {
    fn derive(&self, password: &[u8]) -> Result<Zeroizing<[u8; DK_LEN]>, Reason> {
        let mut key = Zeroizing::new([0; DK_LEN]);
        match self {
            Self::Scrypt { dklen, n, p, r, salt } => {
                let memory = n.checked_mul(u64::from(*r)).and_then(|m| m.checked_mul(128));
                let work = n.checked_mul(u64::from(*r)).and_then(|w| w.checked_mul(u64::from(*p)));
                let bounded = memory.is_some_and(|m| m <= MAX_SCRYPT_MEMORY)
                    && work.is_some_and(|w| w <= MAX_SCRYPT_WORK);
                if *dklen != DK_LEN || !n.is_power_of_two() || !bounded {
                    return Err("scrypt parameters out of bounds");
                }
                // Below 64, and the result is checked again by the library.
                let log_n =
                    u8::try_from(n.trailing_zeros()).map_err(|_| "scrypt parameters out of bounds")?;
                let params =
                    scrypt::Params::new(log_n, *r, *p).map_err(|_| "scrypt parameters out of bounds")?;
                scrypt::scrypt(password, &hex_field(salt, "salt is not hex")?, &params, key.as_mut_slice())
                    .map_err(|_| "scrypt parameters out of bounds")?;
            }
            Self::Pbkdf2 { c, dklen, prf, salt } => {
                if *dklen != DK_LEN || prf != "hmac-sha256" || !(1..=MAX_PBKDF2_ROUNDS).contains(c) {
                    return Err("pbkdf2 parameters out of bounds");
                }
                pbkdf2::pbkdf2_hmac::<Sha256>(
                    password,
                    &hex_field(salt, "salt is not hex")?,
                    *c,
                    key.as_mut_slice(),
                );
            }
        }
        Ok(key)
    }
}

/// keccak256(second half of the derived key ‖ ciphertext).
fn mac(derived: &[u8; DK_LEN], ciphertext: &[u8]) -> [u8; 32] {
    let (_, mac_key) = derived.split_at(16);
    keccak256([mac_key, ciphertext].concat()).0
}

fn apply_keystream(derived: &[u8; DK_LEN], iv: [u8; 16], data: &mut [u8]) {
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(&derived[..16]);
    Aes128Ctr::new((&*key).into(), (&iv).into()).apply_keystream(data);
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.fill_bytes(&mut bytes);
    bytes
}

impl CryptoSection {
    fn encrypt(secret: &[u8; 32], password: &str, cost: KdfCost) -> Result<Self, Reason> {
        let (n, r, p) = cost.scrypt();
        let kdf = Kdf::Scrypt { dklen: DK_LEN, n, p, r, salt: hex::encode(random::<32>()) };
        let derived = kdf.derive(password.as_bytes())?;
        let iv = random::<16>();
        let mut data = *secret;
        apply_keystream(&derived, iv, &mut data);
        Ok(Self {
            cipher: CIPHER.into(),
            cipherparams: CipherParams { iv: hex::encode(iv) },
            ciphertext: hex::encode(data),
            kdf,
            mac: hex::encode(mac(&derived, &data)),
        })
    }

    /// `None` when the password is wrong.
    fn decrypt(&self, password: &str) -> Result<Option<Zeroizing<[u8; 32]>>, Reason> {
        if self.cipher != CIPHER {
            return Err("the cipher is not aes-128-ctr");
        }
        let iv = hex_field(&self.cipherparams.iv, "iv is not hex")?;
        let iv = <[u8; 16]>::try_from(iv).map_err(|_| "iv is not 16 bytes")?;
        let data = hex_field(&self.ciphertext, "ciphertext is not hex")?;
        let data = <[u8; 32]>::try_from(data).map_err(|_| "ciphertext is not 32 bytes")?;
        let expected = hex_field(&self.mac, "mac is not hex")?;
        let derived = self.kdf.derive(password.as_bytes())?;
        if !bool::from(mac(&derived, &data).as_slice().ct_eq(&expected)) {
            return Ok(None);
        }
        let mut secret = Zeroizing::new(data);
        apply_keystream(&derived, iv, secret.as_mut_slice());
        Ok(Some(secret))
    }
}

/// A version 4 UUID (RFC 9562).
fn uuid() -> String {
    let mut b = random::<16>();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let h = hex::encode(b);
    let (a, rest) = h.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    format!("{a}-{b}-{c}-{d}-{e}")
}

fn read(path: &Path) -> Result<KeyFile, KeystoreError> {
    let io = |source| KeystoreError::Io { path: path.to_owned(), source };
    let malformed = |reason| KeystoreError::Malformed { path: path.to_owned(), reason };
    let mut json = Vec::new();
    File::open(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut json).map_err(io)?;
    if json.len() as u64 > MAX_FILE {
        return Err(malformed("it is too long"));
    }
    parse(&json).map_err(malformed)
}

fn parse(json: &[u8]) -> Result<KeyFile, Reason> {
    let file: KeyFile = serde_json::from_slice(json).map_err(|_| "it is not the JSON of one")?;
    if file.version != VERSION {
        return Err("it has another version");
    }
    Ok(file)
}

fn decrypt(path: &Path, file: &KeyFile, password: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    file.crypto
        .decrypt(password)
        .map_err(|reason| KeystoreError::Malformed { path: path.to_owned(), reason })?
        .ok_or_else(|| KeystoreError::WrongPassword(path.to_owned()))
}

/// Creates the file with mode 0600 from the start, and leaves nothing behind when it cannot be written whole.
fn create(path: &Path, file: &KeyFile) -> Result<(), KeystoreError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeystoreError::Exists(path.to_owned()),
        _ => KeystoreError::Io { path: path.to_owned(), source },
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(path).map_err(io)?;
    let written = serde_json::to_vec_pretty(file)
        .map_err(std::io::Error::other)
        .and_then(|json| out.write_all(&json))
        .and_then(|()| out.sync_all());
    written.map_err(|error| {
        drop(std::fs::remove_file(path));
        io(error)
    })
}

fn encrypt(
    path: &Path,
    secret: &[u8; 32],
    password: &str,
    cost: KdfCost,
) -> Result<CryptoSection, KeystoreError> {
    CryptoSection::encrypt(secret, password, cost)
        .map_err(|reason| KeystoreError::Malformed { path: path.to_owned(), reason })
}

/// Writes an account key (secp256k1) to a new v3 file.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_account(
    path: &Path,
    signer: &PrivateKeySigner,
    password: &str,
    cost: KdfCost,
) -> Result<(), KeystoreError> {
    let secret = Zeroizing::new(signer.to_bytes().0);
    let crypto = encrypt(path, &secret, password, cost)?;
    let address = Some(hex::encode(signer.address()));
    create(path, &KeyFile { address, public_key: None, crypto, id: uuid(), version: VERSION })
}

/// Reads an account key (secp256k1) from a v3 file. Takes as long as its key derivation: call it off the async runtime.
///
/// # Errors
/// When the file is no keystore, the password is wrong, or it holds another key than it names.
pub fn read_account(path: &Path, password: &str) -> Result<PrivateKeySigner, KeystoreError> {
    let file = read(path)?;
    if file.public_key.is_some() {
        return Err(KeystoreError::WrongCurve { path: path.to_owned(), expected: "account (secp256k1)" });
    }
    let secret = decrypt(path, &file, password)?;
    let signer = PrivateKeySigner::from_slice(secret.as_slice()).map_err(|_| KeystoreError::Malformed {
        path: path.to_owned(),
        reason: "it holds no secp256k1 key",
    })?;
    match named_address(path, &file)? {
        Some(named) if named != signer.address() => Err(KeystoreError::WrongKey(path.to_owned())),
        _ => Ok(signer),
    }
}

fn named_address(path: &Path, file: &KeyFile) -> Result<Option<Address>, KeystoreError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| KeystoreError::Malformed {
            path: path.to_owned(),
            reason: "its address is no address",
        })
    };
    file.address.as_ref().map(parse).transpose()
}

/// The address an account file names, without its password; `None` where the writer left it out.
///
/// # Errors
/// When the file is no keystore.
pub fn account_address(path: &Path) -> Result<Option<Address>, KeystoreError> {
    named_address(path, &read(path)?)
}

/// Writes an encryption key (P-256) to a new file.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_encryption(
    path: &Path,
    secret: &EncryptionSecret,
    password: &str,
    cost: KdfCost,
) -> Result<(), KeystoreError> {
    let crypto = encrypt(path, &secret.expose(), password, cost)?;
    let public_key = Some(hex::encode(secret.public().to_sec1()));
    create(path, &KeyFile { address: None, public_key, crypto, id: uuid(), version: VERSION })
}

/// Reads an encryption key (P-256). Takes as long as its key derivation: call it off the async runtime.
///
/// # Errors
/// When the file is no keystore, the password is wrong, or it holds another key than it names.
pub fn read_encryption(path: &Path, password: &str) -> Result<EncryptionSecret, KeystoreError> {
    let file = read(path)?;
    let named = named_public(path, &file)?;
    let secret = decrypt(path, &file, password)?;
    let secret = EncryptionSecret::from_slice(secret.as_slice())
        .map_err(|_| KeystoreError::Malformed { path: path.to_owned(), reason: "it holds no P-256 key" })?;
    if secret.public() == named { Ok(secret) } else { Err(KeystoreError::WrongKey(path.to_owned())) }
}

fn named_public(path: &Path, file: &KeyFile) -> Result<EncryptionPublicKey, KeystoreError> {
    let path = || path.to_owned();
    let wrong = || KeystoreError::WrongCurve { path: path(), expected: "encryption (P-256)" };
    let text = file.public_key.as_ref().ok_or_else(wrong)?;
    text.parse()
        .map_err(|_| KeystoreError::Malformed { path: path(), reason: "its public key is no P-256 point" })
}

/// The public half of an encryption key file, without its password.
///
/// # Errors
/// When the file holds no encryption key.
pub fn encryption_public(path: &Path) -> Result<EncryptionPublicKey, KeystoreError> {
    named_public(path, &read(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEST_VECTOR_KEY: [u8; 32] =
        hex!("7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d");
    const P256_SECRET: [u8; 32] = hex!("87eba76e7f3164534045ba922e7770fb58bbd14ad732bbf5ba6f11cc56989e6f");

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
    }

    /// As [`read_account`] and [`read_encryption`], without the file; what would take long is left out.
    #[test]
    fn files_that_nobody_wrote() {
        let path = Path::new("key");
        lcai_fuzz::fuzz(env!("CARGO_MANIFEST_DIR"), "keystore", |input| {
            let file = match parse(input) {
                Ok(file) => file,
                Err(reason) => return reason.into(),
            };
            let (address, public) = (named_address(path, &file), named_public(path, &file));
            let cheap = match &file.crypto.kdf {
                Kdf::Scrypt { n, p, r, .. } => {
                    n.saturating_mul(u64::from(*p)).saturating_mul(u64::from(*r)) <= 256
                }
                Kdf::Pbkdf2 { c, .. } => *c <= 64,
            };
            let secret = cheap.then(|| decrypt(path, &file, "devnet").map(drop));
            format!("{} {} {secret:?}", address.is_ok(), public.is_ok())
        });
    }

    /// The PBKDF2 file of the Web3 Secret Storage definition, and one of geth's standard cost written by eth-account. (The
    /// definition's scrypt file has n = 2^18 with r = 1, which RFC 7914 forbids.)
    #[test]
    fn files_of_other_software_open() {
        for name in ["geth-standard.json", "web3-pbkdf2.json"] {
            let signer = read_account(&testdata(name), "testpassword").unwrap();
            assert_eq!(signer.to_bytes().0, TEST_VECTOR_KEY, "{name}");
            let error = read_account(&testdata(name), "testpassword ").unwrap_err();
            assert!(matches!(error, KeystoreError::WrongPassword(_)), "{error}");
        }
    }

    #[test]
    fn committed_files_open() {
        let secret = read_encryption(&testdata("encryption-key.json"), "devnet").unwrap();
        assert_eq!(*secret.expose(), P256_SECRET);
        let signer = read_account(&testdata("account-key.json"), "devnet").unwrap();
        assert_eq!(signer.to_bytes().0, TEST_VECTOR_KEY);
    }

    #[test]
    fn accounts_round_trip_and_other_software_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let signer = PrivateKeySigner::random();
        write_account(&path, &signer, "pass wörd", KdfCost::Light).unwrap();
        assert_eq!(read_account(&path, "pass wörd").unwrap().address(), signer.address());
        assert_eq!(account_address(&path).unwrap(), Some(signer.address()));
        assert_eq!(eth_keystore::decrypt_key(&path, "pass wörd").unwrap(), signer.to_bytes().as_slice());
        let other =
            eth_keystore::encrypt_key(dir.path(), &mut OsRng, TEST_VECTOR_KEY, "p", Some("other")).unwrap();
        assert!(!other.is_empty());
        assert_eq!(read_account(&dir.path().join("other"), "p").unwrap().to_bytes().0, TEST_VECTOR_KEY);
        assert_eq!(account_address(&dir.path().join("other")).unwrap(), None);
    }

    #[test]
    fn encryption_keys_round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let secret = EncryptionSecret::random();
        write_encryption(&path, &secret, "p", KdfCost::Light).unwrap();
        assert_eq!(encryption_public(&path).unwrap(), secret.public());
        assert_eq!(read_encryption(&path, "p").unwrap().expose(), secret.expose());
        assert!(matches!(read_encryption(&path, "q"), Err(KeystoreError::WrongPassword(_))));
        assert!(matches!(read_account(&path, "p"), Err(KeystoreError::WrongCurve { .. })));
        let account = testdata("account-key.json");
        assert!(matches!(read_encryption(&account, "devnet"), Err(KeystoreError::WrongCurve { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn files_are_private_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_encryption(&path, &EncryptionSecret::random(), "p", KdfCost::Light).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let before = std::fs::read(&path).unwrap();
        let again = write_account(&path, &PrivateKeySigner::random(), "p", KdfCost::Light);
        assert!(matches!(again, Err(KeystoreError::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(matches!(read_account(&dir.path().join("none"), "p"), Err(KeystoreError::Io { .. })));
    }

    fn altered(name: &str, change: impl Fn(&mut serde_json::Value)) -> (tempfile::TempDir, PathBuf) {
        let mut json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(testdata(name)).unwrap()).unwrap();
        change(&mut json);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, json.to_string()).unwrap();
        (dir, path)
    }

    /// Each of these would take gigabytes, hours or a panic if it were believed.
    #[test]
    fn hostile_parameters_are_refused() {
        type Change = fn(&mut serde_json::Value);
        let changes: [Change; 12] = [
            |v| v["version"] = 4.into(),
            |v| v["crypto"]["kdfparams"]["n"] = (1u64 << 40).into(),
            |v| v["crypto"]["kdfparams"]["n"] = u64::MAX.into(),
            |v| v["crypto"]["kdfparams"]["n"] = 0.into(),
            |v| v["crypto"]["kdfparams"]["n"] = 1000.into(),
            |v| v["crypto"]["kdfparams"]["p"] = u32::MAX.into(),
            |v| v["crypto"]["kdfparams"]["r"] = 0.into(),
            |v| v["crypto"]["kdfparams"]["dklen"] = 16.into(),
            |v| v["crypto"]["cipher"] = "aes-256-cbc".into(),
            |v| v["crypto"]["cipherparams"]["iv"] = "00".into(),
            |v| v["crypto"]["ciphertext"] = "00".into(),
            |v| v["crypto"]["kdf"] = "argon2".into(),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let (_dir, path) = altered("account-key.json", change);
            let error = read_account(&path, "devnet").unwrap_err();
            assert!(matches!(error, KeystoreError::Malformed { .. }), "{i}: {error}");
        }
        let (_dir, path) = altered("web3-pbkdf2.json", |v| v["crypto"]["kdfparams"]["c"] = u32::MAX.into());
        assert!(matches!(read_account(&path, "p"), Err(KeystoreError::Malformed { .. })));
    }

    #[test]
    fn a_file_that_names_another_key_is_refused() {
        let (_dir, path) = altered("account-key.json", |v| v["address"] = "11".repeat(20).into());
        assert!(matches!(read_account(&path, "devnet"), Err(KeystoreError::WrongKey(_))));
        let other = EncryptionSecret::random().public().to_string();
        let (_dir, path) = altered("encryption-key.json", |v| v["publicKey"] = other.clone().into());
        assert!(matches!(read_encryption(&path, "devnet"), Err(KeystoreError::WrongKey(_))));
        let (_dir, path) = altered("account-key.json", |v| v["crypto"]["mac"] = "11".repeat(32).into());
        assert!(matches!(read_account(&path, "devnet"), Err(KeystoreError::WrongPassword(_))));
    }

    #[test]
    fn errors_hold_no_password() {
        let error = read_account(&testdata("account-key.json"), "hunter2").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("key");
            std::fs::write(&path, bytes).unwrap();
            prop_assert!(read_account(&path, "p").is_err());
            prop_assert!(read_encryption(&path, "p").is_err());
        }
    }
}
