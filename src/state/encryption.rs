//! Format and encryption of session files.
//!
//! ```text
//! "VMST"  version  key id  salt      ciphertext and tag
//! 4       1        8       32        AES-256-GCM, of text in the format of this version
//! ```
//!
//! Each write has its own key, derived (HKDF-SHA256, RFC 5869) from the cluster's HMAC key, a label and the salt. The label
//! separates it from every other use of the HMAC key. A nonce is therefore never used twice, even if many nodes write. The
//! header and the file's name are authenticated.

use std::fmt;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::secret::SecretBuffer;

const MAGIC: &[u8; 4] = b"VMST";
/// Format version of written files. All earlier versions can be read. Add optional fields to the text, and increase this
/// version only if an older process must not read the file.
const FORMAT_VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 1 + KEY_ID_BYTES + SALT_BYTES;
/// Separates the keys derived here from object versions, which are computed with the same HMAC key.
const KEY_DERIVATION_LABEL: &[u8] = b"vaultmount state 1";

/// Encryption key of session files. Its `Debug` output is redacted.
#[derive(Clone)]
pub struct StateKey {
    root: Prk,
    id: [u8; KEY_ID_BYTES],
}

/// Name of a session file without suffix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 16]);

/// Decrypted content of a file.
pub struct Plaintext {
    /// Format version of the file.
    pub version: u8,
    /// Serialized session.
    pub text: Zeroizing<Vec<u8>>,
    /// Size of the file in bytes.
    pub file_bytes: u64,
}

/// Error of a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum OpenError {
    /// File is truncated.
    #[error("truncated file")]
    Truncated,
    /// File is not a session file, or was modified.
    #[error("damaged file")]
    Damaged,
    /// File was encrypted with a different HMAC key.
    #[error("encrypted with a different HMAC key")]
    WrongKey,
    /// File was written by a newer vaultmount.
    #[error("written by another version of vaultmount (format {0})")]
    UnsupportedVersion(u8),
    /// Operating system reported an error.
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// Length of a derived key in bytes.
struct KeyLength(usize);

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        self.0
    }
}

impl StateKey {
    /// Derives the key from an HMAC key.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        let root = Salt::new(HKDF_SHA256, KEY_DERIVATION_LABEL).extract(secret);
        let mut id = [0; KEY_ID_BYTES];
        expand_key(&root, &[b"key id"], &mut id);
        Self { root, id }
    }

    /// Encrypts a text for the file `name`.
    pub(super) fn encrypt(&self, name: &FileId, text: &SecretBuffer) -> Vec<u8> {
        let mut encrypted = Vec::with_capacity(HEADER_BYTES + text.len() + AES_256_GCM.tag_len());
        encrypted.extend_from_slice(MAGIC);
        encrypted.push(FORMAT_VERSION);
        encrypted.extend_from_slice(&self.id);
        let mut salt = [0; SALT_BYTES];
        let random = SystemRandom::new().fill(&mut salt);
        assert!(random.is_ok(), "the operating system cannot provide random numbers");
        encrypted.extend_from_slice(&salt);
        encrypted.extend_from_slice(text.expose());
        let aad = aad(&encrypted[..HEADER_BYTES], name);
        let tag = self.derive_file_key(&salt).seal_in_place_separate_tag(
            nonce(),
            Aad::from(aad),
            &mut encrypted[HEADER_BYTES..],
        );
        // Encryption fails only above 64 GiB.
        let tag = tag.unwrap_or_else(|_| unreachable!("the text is below 64 GiB"));
        encrypted.extend_from_slice(tag.as_ref());
        encrypted
    }

    /// Decrypts the content of the file `name`.
    pub(super) fn decrypt(&self, name: &FileId, encrypted: Vec<u8>) -> Result<Plaintext, OpenError> {
        // The buffer is decrypted in place, so it must be zeroed.
        let (bytes, mut buffer) = (encrypted.len() as u64, Zeroizing::new(encrypted));
        let Some((magic, rest)) = buffer.split_first_chunk::<4>() else { return Err(OpenError::Truncated) };
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
        let (key, aad) = (self.derive_file_key(salt), aad(&buffer[..HEADER_BYTES], name));
        let opened = key.open_in_place(nonce(), Aad::from(aad), &mut buffer[HEADER_BYTES..]);
        let length = opened.map_err(|_| OpenError::Damaged)?.len();
        Ok(Plaintext {
            version,
            text: Zeroizing::new(buffer[HEADER_BYTES..HEADER_BYTES + length].to_vec()),
            file_bytes: bytes,
        })
    }

    fn derive_file_key(&self, salt: &[u8]) -> LessSafeKey {
        let mut key = Zeroizing::new([0; 32]);
        expand_key(&self.root, &[b"file", salt], key.as_mut_slice());
        // AES-256 accepts every key of 32 bytes.
        let key =
            UnboundKey::new(&AES_256_GCM, key.as_slice()).unwrap_or_else(|_| unreachable!("the key has 32 bytes"));
        LessSafeKey::new(key)
    }
}

/// Returns the nonce, which is constant because each key encrypts only one text.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn aad(header: &[u8], name: &FileId) -> Vec<u8> {
    [header, &name.0].concat()
}

fn expand_key(root: &Prk, info: &[&[u8]], key: &mut [u8]) {
    let filled = root.expand(info, KeyLength(key.len())).and_then(|okm| okm.fill(key));
    // Expansion fails only above 8,160 bytes.
    filled.unwrap_or_else(|_| unreachable!("the key is below 8,160 bytes"));
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
    /// Returns a random, unique name.
    ///
    /// # Panics
    ///
    /// Panics if the operating system cannot provide random numbers.
    #[must_use]
    pub fn random() -> Self {
        let mut name = [0; 16];
        let random = SystemRandom::new().fill(&mut name);
        assert!(random.is_ok(), "the operating system cannot provide random numbers");
        Self(name)
    }

    /// Parses the `Display` form.
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
        assert_ne!(one, encrypted_sample(), "each write has its own key");
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
            let error = decrypt_sample(whole[..length].to_vec()).unwrap_err();
            assert!(matches!(error, OpenError::Truncated | OpenError::Damaged), "{length}: {error}");
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

    /// File written by vaultmount 0.1.0. Every later version must read it.
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
