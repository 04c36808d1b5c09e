//! The appliance's key, and what is made from it.
//!
//! The user keeps one secret, the *wrapping key*, in a file of one line a version. Nothing is encrypted with it directly: each use has a key
//! of its own, derived by BLAKE3's key derivation with a context string. Data keys are random, one for each start of a gateway, and stand
//! wrapped in `state` and manifest: who deletes the wrapping key has shredded the log.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    entropy::Entropy,
    error::LogError,
    ids::{CycleId, Epoch},
};

/// A secret of 256 bits that is wiped when it is dropped and never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// From its bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new random one.
    #[must_use]
    pub fn random(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut_slice());
        Self(bytes)
    }

    /// The secret for one use, told by its context.
    #[must_use]
    pub fn derive(&self, context: &str) -> Self {
        Self::new(blake3::derive_key(context, self.0.as_slice()))
    }

    /// A keyed BLAKE3 over parts, each preceded by its length, so that no two lists of parts give the same input.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// An AES-256-GCM key of this secret.
    #[must_use]
    pub fn aead(&self) -> LessSafeKey {
        // The only error of `UnboundKey::new` is a wrong length, and 32 bytes is AES-256's.
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.0.as_slice()).expect("32 bytes are a key of AES-256"))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A small secret, encrypted under one version of the wrapping key. Each has a random nonce of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The version of the wrapping key.
    pub key: u32,
    /// Base64 of nonce (12 bytes), ciphertext and tag (16 bytes).
    pub data: String,
}

/// All versions of the wrapping key that a worker holds. The highest writes; any reads.
#[derive(Clone, Debug)]
pub struct KeyRing {
    versions: BTreeMap<u32, Secret>,
    current: u32,
}

/// Why a key file is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// No line holds a key.
    #[error("the key file holds no key: it needs a line `<version> <64 hexadecimal digits>`, as `worker key new` writes it")]
    Empty,
    /// A line is not a key. The line itself is never shown.
    #[error("line {line} of the key file is not `<version> <64 hexadecimal digits>`")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// A version stands there twice.
    #[error("line {line} of the key file gives version {version} a second time")]
    Twice {
        /// Its number, from 1.
        line: usize,
        /// The version.
        version: u32,
    },
}

impl KeyRing {
    /// Reads a key file: a line `<version> <64 hexadecimal digits>` for each version, `#` for comments.
    ///
    /// # Errors
    /// [`KeyFileError`] where a line is not a key or there is none.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut versions = BTreeMap::new();
        for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (version, digits) = line.split_once(char::is_whitespace).ok_or(KeyFileError::Line { line: number })?;
            // Digits only: `parse` alone would take a plus sign.
            let plain = version.bytes().all(|byte| byte.is_ascii_digit());
            let version: u32 = version.parse().ok().filter(|v| plain && *v > 0).ok_or(KeyFileError::Line { line: number })?;
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(digits.trim(), bytes.as_mut_slice()).map_err(|_| KeyFileError::Line { line: number })?;
            if versions.insert(version, Secret(bytes)).is_some() {
                return Err(KeyFileError::Twice { line: number, version });
            }
        }
        let current = *versions.keys().next_back().ok_or(KeyFileError::Empty)?;
        Ok(Self { versions, current })
    }

    /// One version, as a test or a new key file makes it.
    #[must_use]
    pub fn single(version: u32, secret: Secret) -> Self {
        Self { versions: BTreeMap::from([(version, secret)]), current: version }
    }

    /// The text of a new key file.
    #[must_use]
    pub fn new_file(version: u32, entropy: &dyn Entropy) -> Zeroizing<String> {
        let secret = Secret::random(entropy);
        let digits = Zeroizing::new(hex::encode(secret.0.as_slice()));
        Zeroizing::new(format!("# Hawser's wrapping key. Without it the log cannot be read.\n{version} {}\n", digits.as_str()))
    }

    /// The version that writes.
    #[must_use]
    pub fn current(&self) -> u32 {
        self.current
    }

    /// The secret of a version for one use; `name` is the blob that needs it.
    pub(crate) fn derived(&self, version: u32, context: &str, name: &str) -> Result<Secret, LogError> {
        let secret = self.versions.get(&version).ok_or_else(|| LogError::KeyMissing { name: name.to_owned(), version })?;
        Ok(secret.derive(context))
    }

    /// Encrypts a small secret for the blob `name`; `binding` says what it belongs to, and has to be given again to open it.
    #[must_use]
    pub fn seal(&self, purpose: &str, binding: &[u8], plain: &[u8], entropy: &dyn Entropy) -> Sealed {
        let key = self.versions[&self.current].derive(&format!("hawser v1 seal {purpose}")).aead();
        let mut nonce = [0; 12];
        entropy.fill(&mut nonce);
        let mut data = plain.to_vec();
        // GCM refuses only inputs of more than 64 GiB.
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(binding), &mut data)
            .expect("a small secret can be sealed");
        Sealed { key: self.current, data: BASE64.encode([nonce.as_slice(), &data].concat()) }
    }

    /// Decrypts what [`KeyRing::seal`] made.
    ///
    /// # Errors
    /// [`LogError::KeyMissing`] and [`LogError::Damaged`], both naming the blob `name`.
    pub fn open(&self, purpose: &str, binding: &[u8], sealed: &Sealed, name: &str) -> Result<Zeroizing<Vec<u8>>, LogError> {
        let damaged = || LogError::damaged(name, format!("its sealed {purpose} cannot be opened"));
        let key = self.derived(sealed.key, &format!("hawser v1 seal {purpose}"), name)?.aead();
        let bytes = BASE64.decode(&sealed.data).map_err(|_| damaged())?;
        let (nonce, data) = bytes.split_first_chunk::<12>().ok_or_else(damaged)?;
        let mut data = Zeroizing::new(data.to_vec());
        let length = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(binding), &mut data).map_err(|_| damaged())?.len();
        data.truncate(length);
        Ok(data)
    }
}

/// What a data key is bound to: one epoch of one cycle, all its disks.
#[must_use]
pub fn epoch_binding(of: CycleId, epoch: Epoch) -> Vec<u8> {
    [
        of.vm.vcenter.as_bytes().as_slice(),
        of.vm.instance.as_bytes(),
        of.incarnation.0.as_bytes(),
        &of.cycle.0.to_le_bytes(),
        &epoch.0.to_le_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests;
