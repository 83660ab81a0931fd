//! A sealed file: who may read it, what it says outside, and what is wrong with one that cannot be read.
//!
//! ```text
//! "VMST"  version  key id  salt      ciphertext and tag
//! 4       1        8       32        AES-256-GCM, of the text that the version says
//! ```
//!
//! Each writing has a key of its own, derived (HKDF-SHA256, RFC 5869) from the cluster's HMAC key, under a label that sets it
//! apart from every other use of that, and from the salt. So a nonce is never used twice, however many nodes write. The head
//! and the file's name are authenticated.

use std::fmt;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::secret::SecretBuffer;

const MAGIC: &[u8; 4] = b"VMST";
/// The version that is written. Every version before is read; add to the text what may lack, and raise this only for what an
/// older process must not read.
const FORMAT_VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 1 + KEY_ID_BYTES + SALT_BYTES;
/// Sets the keys made here apart from the versions of objects, which are made with the same secret.
const KEY_DERIVATION_LABEL: &[u8] = b"vaultmount state 1";

/// What files are sealed with. Cannot be printed.
#[derive(Clone)]
pub struct StateKey {
    root: Prk,
    id: [u8; KEY_ID_BYTES],
}

/// A file's name, without its ending.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 16]);

/// What was in a file.
pub struct Plaintext {
    /// The version it was written in.
    pub version: u8,
    /// The text.
    pub text: Zeroizing<Vec<u8>>,
    /// How long the file is.
    pub file_bytes: u64,
}

/// Why a file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum OpenError {
    /// It ends before it should.
    #[error("it is cut short")]
    Truncated,
    /// It is none of ours, or was changed.
    #[error("it is damaged")]
    Damaged,
    /// The HMAC key was another one.
    #[error("it was sealed under another HMAC key")]
    WrongKey,
    /// A later vaultmount wrote it.
    #[error("it was written by another version of vaultmount (format {0})")]
    UnsupportedVersion(u8),
    /// The system says no.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// How many bytes of a key are wanted.
struct KeyLength(usize);

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        self.0
    }
}

impl StateKey {
    /// The one that belongs to an HMAC key.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        let root = Salt::new(HKDF_SHA256, KEY_DERIVATION_LABEL).extract(secret);
        let mut id = [0; KEY_ID_BYTES];
        expand_key(&root, &[b"key id"], &mut id);
        Self { root, id }
    }

    /// Seals a text for the file of this name.
    pub(super) fn encrypt(&self, name: &FileId, text: &SecretBuffer) -> Vec<u8> {
        let mut encrypted = Vec::with_capacity(HEADER_BYTES + text.len() + AES_256_GCM.tag_len());
        encrypted.extend_from_slice(MAGIC);
        encrypted.push(FORMAT_VERSION);
        encrypted.extend_from_slice(&self.id);
        let mut salt = [0; SALT_BYTES];
        let random = SystemRandom::new().fill(&mut salt);
        assert!(random.is_ok(), "the operating system has no random numbers");
        encrypted.extend_from_slice(&salt);
        encrypted.extend_from_slice(text.expose());
        let aad = aad(&encrypted[..HEADER_BYTES], name);
        let tag = self.derive_file_key(&salt).seal_in_place_separate_tag(
            nonce(),
            Aad::from(aad),
            &mut encrypted[HEADER_BYTES..],
        );
        // It fails for more than 64 GiB alone.
        let tag = tag.unwrap_or_else(|_| unreachable!("no text is that long"));
        encrypted.extend_from_slice(tag.as_ref());
        encrypted
    }

    /// What is in the file of this name.
    pub(super) fn decrypt(&self, name: &FileId, encrypted: Vec<u8>) -> Result<Plaintext, OpenError> {
        // What was opened in place is a secret.
        let (bytes, mut sealed) = (encrypted.len() as u64, Zeroizing::new(encrypted));
        let Some((magic, rest)) = sealed.split_first_chunk::<4>() else { return Err(OpenError::Truncated) };
        let Some((version, rest)) = rest.split_first().filter(|_| magic == MAGIC) else {
            return Err(OpenError::Damaged);
        };
        let version = *version;
        if !(1..=FORMAT_VERSION).contains(&version) {
            return Err(OpenError::UnsupportedVersion(version));
        }
        let Some((id, rest)) = rest.split_first_chunk::<KEY_ID_BYTES>() else { return Err(OpenError::Truncated) };
        let Some((salt, rest)) = rest.split_first_chunk::<SALT_BYTES>() else { return Err(OpenError::Truncated) };
        if *id != self.id {
            return Err(OpenError::WrongKey);
        }
        if rest.len() < AES_256_GCM.tag_len() {
            return Err(OpenError::Truncated);
        }
        let (key, aad) = (self.derive_file_key(salt), aad(&sealed[..HEADER_BYTES], name));
        let opened = key.open_in_place(nonce(), Aad::from(aad), &mut sealed[HEADER_BYTES..]);
        let length = opened.map_err(|_| OpenError::Damaged)?.len();
        Ok(Plaintext {
            version,
            text: Zeroizing::new(sealed[HEADER_BYTES..HEADER_BYTES + length].to_vec()),
            file_bytes: bytes,
        })
    }

    fn derive_file_key(&self, salt: &[u8]) -> LessSafeKey {
        let mut key = Zeroizing::new([0; 32]);
        expand_key(&self.root, &[b"file", salt], key.as_mut_slice());
        // A key of 32 bytes is one of AES-256.
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).unwrap_or_else(|_| unreachable!("the key's length"));
        LessSafeKey::new(key)
    }
}

/// A key seals one text, so that every text may have the same.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn aad(header: &[u8], name: &FileId) -> Vec<u8> {
    [header, &name.0].concat()
}

fn expand_key(root: &Prk, info: &[&[u8]], key: &mut [u8]) {
    let filled = root.expand(info, KeyLength(key.len())).and_then(|okm| okm.fill(key));
    // It fails for more than 8,160 bytes alone.
    filled.unwrap_or_else(|_| unreachable!("no key is that long"));
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FileId {
    /// One that no other file has.
    ///
    /// # Panics
    ///
    /// When the operating system has no random numbers.
    #[must_use]
    pub fn random() -> Self {
        let mut name = [0; 16];
        let random = SystemRandom::new().fill(&mut name);
        assert!(random.is_ok(), "the operating system has no random numbers");
        Self(name)
    }

    /// Reads what [`Name`] displays.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut name = [0; 16];
        let is_hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        for (byte, digits) in name.iter_mut().zip(text.as_bytes().chunks(2)).filter(|_| is_hex) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        is_hex.then_some(Self(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: FileId = FileId([7; 16]);

    fn secret_buffer(bytes: &[u8]) -> SecretBuffer {
        let mut text = SecretBuffer::default();
        text.append(bytes);
        text
    }

    fn encrypted_sample() -> Vec<u8> {
        StateKey::derive(&[b'a'; 32]).encrypt(&NAME, &secret_buffer(b"hunter2"))
    }

    fn decrypt_sample(sealed: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        StateKey::derive(&[b'a'; 32]).decrypt(&NAME, sealed).map(|content| content.text.to_vec())
    }

    #[test]
    fn state_file_decrypts_only_with_its_name_and_key() {
        let one = encrypted_sample();
        assert_eq!(decrypt_sample(one.clone()), Ok(b"hunter2".to_vec()));
        assert_ne!(one, encrypted_sample(), "each writing has a key of its own");
        assert!(!String::from_utf8_lossy(&one).contains("hunter"));
        let key = StateKey::derive(&[b'a'; 32]);
        assert_eq!(key.decrypt(&FileId([8; 16]), one.clone()).err(), Some(OpenError::Damaged));
        assert_eq!(StateKey::derive(&[b'b'; 32]).decrypt(&NAME, one).err(), Some(OpenError::WrongKey));
        assert_eq!(format!("{key:?}"), "SealingKey");
    }

    #[test]
    fn state_file_changed_or_truncated_is_rejected() {
        let whole = encrypted_sample();
        for length in 0..whole.len() {
            let fault = decrypt_sample(whole[..length].to_vec()).unwrap_err();
            assert!(matches!(fault, OpenError::Truncated | OpenError::Damaged), "{length}: {fault}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(decrypt_sample(changed).is_err(), "{at}");
        }
        let mut later = whole;
        later[4] = FORMAT_VERSION + 1;
        assert_eq!(decrypt_sample(later), Err(OpenError::UnsupportedVersion(FORMAT_VERSION + 1)));
    }

    /// Written by vaultmount 0.1.0; what it could read is to be read for ever.
    #[test]
    fn state_file_of_version_1_decrypts() {
        const FIRST: &str = "564d5354012d1520e1c1a12eb7cd0ab8d70a1041e57d201dca36f5dd6a04cb55c0d08b9c3f6976b0e284c72100ef2193967eebd4ab17dccad6874cd04f0226ff6d3fff09";
        let bytes =
            FIRST.as_bytes().chunks(2).map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16));
        assert_eq!(decrypt_sample(bytes.collect::<Result<_, _>>().unwrap()), Ok(b"hunter2".to_vec()));
    }

    #[test]
    fn state_file_id_parses_its_display() {
        assert_eq!(FileId::parse(&NAME.to_string()), Some(NAME));
        for other in ["", "07", &"0G".repeat(16), &"é".repeat(16), &"0A".repeat(16)] {
            assert_eq!(FileId::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn state_file_random_bytes_are_rejected(bytes: Vec<u8>) {
            prop_assert!(decrypt_sample(bytes.clone()).is_err());
            let head = [&encrypted_sample()[..HEADER_BYTES], &bytes].concat();
            prop_assert!(decrypt_sample(head).is_err());
        }
    }
}
