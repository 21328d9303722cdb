//! Login: challenges signed by an account, and the short-lived tokens given for them.
//!
//! Neither needs memory when issued: a challenge's nonce and a token both carry an HMAC-SHA256 under the node's token
//! key, so a flood of requests for challenges costs the node nothing. Only used challenges are remembered, until they
//! expire.

use crate::{
    error::LcaiError,
    types::{Challenge, Login},
};
use alloy_primitives::{Address, hex};
use hmac::{Hmac, Mac};
use lcai_crypto::SignatureError;
use lcai_primitives::login::LoginMessage;
use parking_lot::Mutex;
use rand::{RngCore, rngs::OsRng};
use sha2::{Sha256, digest::generic_array::GenericArray};
use std::{
    collections::BTreeSet,
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

const CHALLENGE_CONTEXT: &[u8] = b"lcai challenge v1";
const TOKEN_CONTEXT: &[u8] = b"lcai token v1";

/// Random part of a challenge's nonce and of a token, bytes.
const RANDOM_LEN: usize = 16;
/// Part of the HMAC that fits a challenge's nonce (64 hex digits in all), bytes.
const CHALLENGE_MAC_LEN: usize = 16;
/// account ‖ expiry ‖ random id ‖ HMAC-SHA256.
const TOKEN_LEN: usize = 20 + 8 + RANDOM_LEN + 32;

/// The key ‖ unix seconds up to which tokens were ended.
const FILE_LEN: usize = 32 + 8;

/// The 32-byte key tokens are made with. Zeroized on drop; whoever has it can speak for any account towards this node.
#[derive(Clone)]
pub struct TokenKey(Zeroizing<[u8; 64]>);

impl TokenKey {
    /// From the operator's secret.
    pub fn new(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let mut block = Zeroizing::new([0; 64]);
        block.iter_mut().zip(bytes.iter()).for_each(|(to, from)| *to = *from);
        Self(block)
    }

    /// A fresh one: all tokens end when the node stops.
    pub fn random() -> Self {
        let mut key = [0; 32];
        OsRng.fill_bytes(&mut key);
        Self::new(key)
    }

    fn bytes(&self) -> &[u8] {
        self.0.split_at(32).0
    }

    fn mac(&self, context: &[u8]) -> Hmac<Sha256> {
        // A key shorter than SHA-256's block is padded with zeros to the block (RFC 2104), which `TokenKey` holds.
        let mut mac = <Hmac<Sha256> as Mac>::new(GenericArray::from_slice(self.0.as_slice()));
        mac.update(context);
        mac
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// Lifetimes and bounds.
#[derive(Debug, Clone, Copy)]
pub struct TokenConfig {
    /// Seconds a challenge may be used.
    pub challenge_lifetime: u64,
    /// Seconds a token is accepted.
    pub token_lifetime: u64,
    /// Used challenges remembered at most. Where more are used, those that expire first are refused from then on, used or
    /// not, instead of remembered: a flood shortens the time that a challenge is good for.
    pub max_used_challenges: usize,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self { challenge_lifetime: 300, token_lifetime: 3600, max_used_challenges: 262_144 }
    }
}

/// Issues challenges and tokens and checks both. Times are unix seconds and given by the caller.
pub struct TokenIssuer {
    key: TokenKey,
    chain_id: u64,
    config: TokenConfig,
    /// Bound into challenges so that none survives a restart, which would forget that it was used.
    boot: [u8; 16],
    used: Mutex<Used>,
    /// Unix seconds up to which tokens were ended by the operator.
    ended: watch::Sender<u64>,
    /// Where the key and the above are kept.
    file: Option<PathBuf>,
}

/// The challenges that are not good any more.
#[derive(Default)]
struct Used {
    /// By when they expire.
    one_by_one: BTreeSet<(u64, [u8; RANDOM_LEN])>,
    /// And all that expire up to then.
    up_to: u64,
}

impl Used {
    /// Adds one, in the place of the oldest where there is no room; false if it was used.
    fn add(&mut self, expires: u64, random: [u8; RANDOM_LEN], most: usize) -> bool {
        let fresh = self.one_by_one.insert((expires, random));
        while self.one_by_one.len() > most {
            self.up_to = self.one_by_one.pop_first().map_or(self.up_to, |(expiry, _)| expiry);
        }
        fresh
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer").field("chain_id", &self.chain_id).finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// Tokens are bound to the chain as well, so that a login on one network says nothing on another.
    pub fn new(key: TokenKey, chain_id: u64, config: TokenConfig) -> Self {
        let mut boot = [0; 16];
        OsRng.fill_bytes(&mut boot);
        let ended = watch::Sender::new(0);
        Self { key, chain_id, config, boot, used: Mutex::default(), ended, file: None }
    }

    /// With the key in a file, made there the first time: a restart neither ends logins nor revives ended ones.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is not such a file.
    pub fn open(path: &Path, chain_id: u64, config: TokenConfig) -> io::Result<Self> {
        let (key, ended) = match fs::read(path).map(Zeroizing::new) {
            Ok(bytes) => parse_file(&bytes).ok_or_else(|| {
                let text =
                    format!("{} has {} bytes, a token key file {FILE_LEN}", path.display(), bytes.len());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = TokenKey::random();
                write_file(path, &key, 0)?;
                (key, 0)
            }
            Err(error) => return Err(error),
        };
        let issuer = Self::new(key, chain_id, config);
        issuer.ended.send_replace(ended);
        Ok(Self { file: Some(path.to_owned()), ..issuer })
    }

    /// A text for the account to sign. Costs no memory.
    pub fn challenge(&self, account: Address, now: u64) -> Challenge {
        let expires = now.saturating_add(self.config.challenge_lifetime);
        let mut random = [0; RANDOM_LEN];
        OsRng.fill_bytes(&mut random);
        let mac = self.challenge_mac(account, now, expires, &random).finalize().into_bytes();
        let (head, _) = mac.split_at(CHALLENGE_MAC_LEN);
        let nonce = format!("{}{}", hex::encode(random), hex::encode(head));
        let message =
            LoginMessage { address: account, chain_id: self.chain_id, nonce, issued_at: now, expires };
        Challenge { message: message.to_string(), expires_at: expires }
    }

    /// Exchanges a signed challenge (EIP-191, 65 bytes r ‖ s ‖ v) for a token. Each challenge works once.
    ///
    /// # Errors
    /// `Expired` for a challenge past its time, `Unauthorized` for one that is not of this node, was used, or whose
    /// signature is not the account's; `InvalidParams` for a malformed text or signature.
    pub fn login(&self, message: &str, signature: &[u8], now: u64) -> Result<Login, LcaiError> {
        let login: LoginMessage =
            message.parse().map_err(|e| LcaiError::InvalidParams(format!("message: {e}")))?;
        if login.chain_id != self.chain_id {
            return Err(LcaiError::Unauthorized(format!(
                "the login is for chain {}, this is {}",
                login.chain_id, self.chain_id
            )));
        }
        let random = self.own_nonce(&login)?;
        if now >= login.expires {
            return Err(LcaiError::Expired("the challenge has expired; ask for a new one".into()));
        }
        let signer = recovered(lcai_crypto::recover_eip191(message.as_bytes(), signature))?;
        if signer != login.address {
            return Err(LcaiError::Unauthorized(format!(
                "the signature is by {signer}, not by {}",
                login.address
            )));
        }
        self.spend(login.expires, random, now)?;
        Ok(self.issue(login.address, now))
    }

    /// The account a token is bound to.
    ///
    /// # Errors
    /// `Expired` when it was ours but its time is over, `Unauthorized` for anything else.
    pub fn verify(&self, token: &str, now: u64) -> Result<Address, LcaiError> {
        self.check(token, now).map(|(account, _)| account)
    }

    /// The account a token is bound to, and the unix seconds at which it expires.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn check(&self, token: &str, now: u64) -> Result<(Address, u64), LcaiError> {
        let unknown = || {
            LcaiError::Unauthorized(
                "the token is not one of this node; log in with lcai_challenge and lcai_login".into(),
            )
        };
        let mut bytes = [0; TOKEN_LEN];
        if token.len() != 2 * TOKEN_LEN {
            return Err(unknown());
        }
        hex::decode_to_slice(token, &mut bytes).map_err(|_| unknown())?;
        let (body, mac) = bytes.split_at(TOKEN_LEN - 32);
        self.token_mac(body).verify_slice(mac).map_err(|_| unknown())?;
        let (account, rest) = body.split_at(20);
        let expiry = rest.first_chunk().map(|b| u64::from_be_bytes(*b)).ok_or_else(unknown)?;
        if now >= expiry {
            return Err(LcaiError::Expired("the token has expired; log in again".into()));
        }
        // Everything issued in that second as well: a token does not say more.
        let issued = expiry.saturating_sub(self.config.token_lifetime);
        if *self.ended.borrow() >= issued && *self.ended.borrow() > 0 {
            return Err(LcaiError::Expired("the operator ended this login; log in again".into()));
        }
        Ok((Address::from_slice(account), expiry))
    }

    /// Ends every token issued up to `now`.
    ///
    /// # Errors
    /// When that cannot be kept: they are ended, but would count again after a restart.
    pub fn end_all(&self, now: u64) -> io::Result<()> {
        self.ended.send_replace(now);
        self.file.as_deref().map_or(Ok(()), |path| write_file(path, &self.key, now))
    }

    /// Tells when tokens are ended.
    pub(crate) fn ended(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    fn issue(&self, account: Address, now: u64) -> Login {
        let expires_at = now.saturating_add(self.config.token_lifetime);
        let mut random = [0; RANDOM_LEN];
        OsRng.fill_bytes(&mut random);
        let mut bytes = Vec::with_capacity(TOKEN_LEN);
        bytes.extend_from_slice(account.as_slice());
        bytes.extend_from_slice(&expires_at.to_be_bytes());
        bytes.extend_from_slice(&random);
        let mac = self.token_mac(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        Login { token: hex::encode(bytes), account, expires_at }
    }

    fn challenge_mac(&self, account: Address, issued_at: u64, expires: u64, random: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.mac(CHALLENGE_CONTEXT);
        mac.update(&self.boot);
        mac.update(&self.chain_id.to_be_bytes());
        mac.update(account.as_slice());
        mac.update(&issued_at.to_be_bytes());
        mac.update(&expires.to_be_bytes());
        mac.update(random);
        mac
    }

    fn token_mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.mac(TOKEN_CONTEXT);
        mac.update(&self.chain_id.to_be_bytes());
        mac.update(body);
        mac
    }

    /// The random part of a nonce this node made for exactly this message.
    fn own_nonce(&self, login: &LoginMessage) -> Result<[u8; RANDOM_LEN], LcaiError> {
        let foreign =
            || LcaiError::Unauthorized("the challenge is not one this node gave since it started".into());
        let mut nonce = [0; RANDOM_LEN + CHALLENGE_MAC_LEN];
        hex::decode_to_slice(&login.nonce, &mut nonce).map_err(|_| foreign())?;
        let (random, mac) = nonce.split_at(RANDOM_LEN);
        self.challenge_mac(login.address, login.issued_at, login.expires, random)
            .verify_truncated_left(mac)
            .map_err(|_| foreign())?;
        random.try_into().map_err(|_| foreign())
    }

    fn spend(&self, expires: u64, random: [u8; RANDOM_LEN], now: u64) -> Result<(), LcaiError> {
        let mut used = self.used.lock();
        while used.one_by_one.first().is_some_and(|(expiry, _)| *expiry <= now) {
            used.one_by_one.pop_first();
        }
        if expires <= used.up_to {
            return Err(LcaiError::Expired("too many logins at present; ask for a new challenge".into()));
        }
        if !used.add(expires, random, self.config.max_used_challenges) {
            return Err(LcaiError::Unauthorized("the challenge was used already; ask for a new one".into()));
        }
        Ok(())
    }
}

fn parse_file(bytes: &[u8]) -> Option<(TokenKey, u64)> {
    let (key, ended) = bytes.split_first_chunk::<32>()?;
    Some((TokenKey::new(*key), u64::from_be_bytes(ended.try_into().ok()?)))
}

/// Whole or not at all, for the node's own account only.
fn write_file(path: &Path, key: &TokenKey, ended: u64) -> io::Result<()> {
    let bytes = Zeroizing::new([key.bytes(), &ended.to_be_bytes()].concat());
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        // Otherwise a power cut may take the new name away again.
        Some(directory) if !directory.as_os_str().is_empty() => fs::File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

/// A recovered signer, or why a signature is none.
pub(crate) fn recovered(signer: Result<Address, SignatureError>) -> Result<Address, LcaiError> {
    signer.map_err(|error| match error {
        SignatureError::NoKey => LcaiError::Unauthorized(error.to_string()),
        _ => LcaiError::InvalidParams(format!("the signature is malformed: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_signer::SignerSync;
    use alloy_signer_local::PrivateKeySigner;

    const NOW: u64 = 1_700_000_000;

    fn issuer() -> TokenIssuer {
        TokenIssuer::new(TokenKey::new([7; 32]), 8200, TokenConfig::default())
    }

    fn signed(issuer: &TokenIssuer, signer: &PrivateKeySigner) -> (String, Vec<u8>) {
        let message = issuer.challenge(signer.address(), NOW).message;
        let signature = signer.sign_message_sync(message.as_bytes()).unwrap().as_bytes().to_vec();
        (message, signature)
    }

    #[test]
    fn a_signed_challenge_gives_a_token_of_the_account_once() {
        let (issuer, signer) = (issuer(), PrivateKeySigner::random());
        let (message, signature) = signed(&issuer, &signer);
        let login = issuer.login(&message, &signature, NOW + 1).unwrap();
        assert_eq!(login.account, signer.address());
        assert_eq!(issuer.verify(&login.token, NOW + 2), Ok(signer.address()));
        assert!(!format!("{login:?}").contains(&login.token));
        assert!(matches!(issuer.login(&message, &signature, NOW + 2), Err(LcaiError::Unauthorized(_))));
    }

    #[test]
    fn expired_and_foreign_are_told_apart() {
        let (issuer, signer) = (issuer(), PrivateKeySigner::random());
        let (message, signature) = signed(&issuer, &signer);
        let late = NOW + TokenConfig::default().challenge_lifetime;
        assert!(matches!(issuer.login(&message, &signature, late), Err(LcaiError::Expired(_))));
        let login = issuer.login(&message, &signature, late - 1).unwrap();
        assert!(matches!(issuer.verify(&login.token, login.expires_at), Err(LcaiError::Expired(_))));
        assert!(issuer.verify(&login.token, login.expires_at - 1).is_ok());
        let other = TokenIssuer::new(TokenKey::new([8; 32]), 8200, TokenConfig::default());
        assert!(matches!(other.verify(&login.token, NOW), Err(LcaiError::Unauthorized(_))));
        let other_chain = TokenIssuer::new(TokenKey::new([7; 32]), 8201, TokenConfig::default());
        assert!(matches!(other_chain.verify(&login.token, NOW), Err(LcaiError::Unauthorized(_))));
    }

    #[test]
    fn a_challenge_does_not_survive_a_restart_and_cannot_be_edited() {
        let (issuer, signer) = (issuer(), PrivateKeySigner::random());
        let (message, signature) = signed(&issuer, &signer);
        let restarted = TokenIssuer::new(TokenKey::new([7; 32]), 8200, TokenConfig::default());
        assert!(matches!(restarted.login(&message, &signature, NOW), Err(LcaiError::Unauthorized(_))));
        let longer = message.replace(&(NOW + 300).to_string(), &(NOW + 301).to_string());
        assert_ne!(longer, message);
        let signature = signer.sign_message_sync(longer.as_bytes()).unwrap().as_bytes().to_vec();
        assert!(matches!(issuer.login(&longer, &signature, NOW), Err(LcaiError::Unauthorized(_))));
    }

    #[test]
    fn a_restart_neither_ends_logins_nor_revives_ended_ones() {
        let (dir, signer) = (tempfile::tempdir().unwrap(), PrivateKeySigner::random());
        let path = dir.path().join("token.key");
        let open = || TokenIssuer::open(&path, 8200, TokenConfig::default()).unwrap();
        let log_in = |issuer: &TokenIssuer| {
            let (message, signature) = signed(issuer, &signer);
            issuer.login(&message, &signature, NOW).unwrap().token
        };
        let issuer = open();
        let token = log_in(&issuer);
        drop(issuer);
        let issuer = open();
        assert_eq!(issuer.verify(&token, NOW + 1), Ok(signer.address()));
        issuer.end_all(NOW).unwrap();
        drop(issuer);
        let issuer = open();
        assert!(matches!(issuer.verify(&token, NOW + 1), Err(LcaiError::Expired(_))));
        let other = TokenIssuer::open(&dir.path().join("other.key"), 8200, TokenConfig::default()).unwrap();
        assert!(
            matches!(issuer.verify(&log_in(&other), NOW), Err(LcaiError::Unauthorized(_))),
            "keys differ"
        );

        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, [7; 39]).unwrap();
        let error = TokenIssuer::open(&path, 8200, TokenConfig::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn only_the_accounts_own_signature_counts() {
        let (issuer, signer) = (issuer(), PrivateKeySigner::random());
        let (message, _) = signed(&issuer, &signer);
        let foreign =
            PrivateKeySigner::random().sign_message_sync(message.as_bytes()).unwrap().as_bytes().to_vec();
        assert!(matches!(issuer.login(&message, &foreign, NOW), Err(LcaiError::Unauthorized(_))));
        assert!(matches!(issuer.login(&message, &foreign[..64], NOW), Err(LcaiError::InvalidParams(_))));
        let signature = signer.sign_message_sync(message.as_bytes()).unwrap().as_bytes().to_vec();
        assert!(
            issuer.login(&message, &signature, NOW).is_ok(),
            "a failed try does not use the challenge up"
        );
    }

    #[test]
    fn every_flipped_bit_of_a_token_is_noticed() {
        let (issuer, signer) = (issuer(), PrivateKeySigner::random());
        let (message, signature) = signed(&issuer, &signer);
        let token = issuer.login(&message, &signature, NOW).unwrap().token;
        let bytes = hex::decode(&token).unwrap();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(
                matches!(issuer.verify(&hex::encode(changed), NOW), Err(LcaiError::Unauthorized(_))),
                "byte {i}"
            );
        }
        for bad in ["", "0x", &token[2..], &format!("{token}00"), "é"] {
            assert!(matches!(issuer.verify(bad, NOW), Err(LcaiError::Unauthorized(_))));
        }
    }

    #[test]
    fn used_challenges_are_bounded_and_none_is_good_twice() {
        let config = TokenConfig { max_used_challenges: 1, ..TokenConfig::default() };
        let (issuer, signer) =
            (TokenIssuer::new(TokenKey::random(), 8200, config), PrivateKeySigner::random());
        let at = |time: u64| {
            let message = issuer.challenge(signer.address(), time).message;
            let signature = signer.sign_message_sync(message.as_bytes()).unwrap().as_bytes().to_vec();
            (message, signature)
        };
        let (first, second, third) = (at(NOW), at(NOW), at(NOW + 1));
        let login = |of: &(String, Vec<u8>), now| issuer.login(&of.0, &of.1, now);
        assert!(login(&first, NOW).is_ok());
        assert!(login(&third, NOW + 1).is_ok(), "others are not locked out");
        assert!(
            matches!(login(&first, NOW + 1), Err(LcaiError::Expired(_))),
            "forgotten, and still not good twice"
        );
        assert!(
            matches!(login(&second, NOW + 1), Err(LcaiError::Expired(_))),
            "as old as what was forgotten"
        );
        assert!(matches!(login(&third, NOW + 1), Err(LcaiError::Unauthorized(_))));
        assert_eq!(issuer.used.lock().one_by_one.len(), 1);
        let later = NOW + config.challenge_lifetime + 1;
        assert!(login(&at(later), later).is_ok());
    }
}
