//! Object versions, which show the driver that a file changed without revealing its content.

use base64::{Engine, engine::general_purpose::URL_SAFE};
use ring::{hmac, rand::SystemRandom};

use super::RenderedFile;
use crate::secret::SecretText;

/// The HMAC key of object versions. `Debug` does not print it.
pub struct VersionKey(hmac::Key);

impl VersionKey {
    /// Creates the key shared by the cluster's providers. The Go provider's Secret has 32 bytes; any length is
    /// accepted.
    #[must_use]
    pub fn from_bytes(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Generates a key for this process only.
    ///
    /// # Panics
    ///
    /// Panics if the operating system provides no random numbers. TLS connections would fail then, too.
    #[must_use]
    pub fn random() -> Self {
        match hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()) {
            Ok(key) => Self(key),
            Err(ring::error::Unspecified) => panic!("the operating system has no random numbers"),
        }
    }
}

impl VersionKey {
    /// Returns the version of bytes that are not an object: `base64url(HMAC-SHA256(key, bytes))`, padded.
    #[must_use]
    pub fn version_of_bytes(&self, bytes: &[u8]) -> String {
        URL_SAFE.encode(hmac::sign(&self.0, bytes))
    }
}

impl std::fmt::Debug for VersionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VersionKey")
    }
}

/// Returns the version of an object: `base64url(HMAC-SHA256(key, config + content))`, padded. The version is byte for
/// byte that of the Go provider, computed from its JSON of the object's configuration and from the file's content.
///
/// With one file per key (`all_keys`) the hashed content is, for each file in the order of their paths: the path's
/// length, the path, the contents' length, the contents. Lengths are 8 bytes, big endian. Therefore no two sets of
/// files have the same hashed content.
#[must_use]
pub fn object_version(key: &VersionKey, config: &SecretText, files: &[RenderedFile], all_keys: bool) -> String {
    let mut hash = hmac::Context::with_key(&key.0);
    hash.update(config.expose().as_bytes());
    let mut files: Vec<&RenderedFile> = files.iter().collect();
    files.sort_unstable_by_key(|file| &file.path);
    for file in files {
        if all_keys {
            update_with_length(&mut hash, file.path.as_bytes());
            update_with_length(&mut hash, file.contents.expose());
        } else {
            hash.update(file.contents.expose());
        }
    }
    URL_SAFE.encode(hash.sign())
}

fn update_with_length(hash: &mut hmac::Context, part: &[u8]) {
    hash.update(&(part.len() as u64).to_be_bytes());
    hash.update(part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretBytes;

    fn file(path: &str, contents: &str) -> RenderedFile {
        RenderedFile { path: path.into(), mode: 0o644, contents: SecretBytes::from(contents.as_bytes().to_vec()) }
    }

    fn version_of_files(files: &[RenderedFile], each_key: bool) -> String {
        object_version(&VersionKey::from_bytes(&[b'a'; 32]), &"{}".into(), files, each_key)
    }

    #[test]
    fn object_version_matches_go_provider() {
        let config = r#"{"ObjectName":"db-pass","SecretPath":"secret/data/db","SecretKey":"pass","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#;
        let key = VersionKey::from_bytes(&[b'a'; 32]);
        assert_eq!(
            object_version(&key, &config.into(), &[file("db-pass", "s3cret")], false),
            "Clkdg4BFjyu6Oxd5vOpGVTwEjWrkMITwyOOwl1k0AZU="
        );
    }

    #[test]
    fn object_version_is_base64url() {
        let all: String = (0..50).map(|i| version_of_files(&[file("a", &i.to_string())], false)).collect();
        assert!(all.contains('-') && all.contains('_') && !all.contains(['+', '/']), "{all}");
    }

    #[test]
    fn object_versions_of_different_file_sets_differ() {
        let sets: [&[RenderedFile]; 8] = [
            &[],
            &[file("a", "")],
            &[file("a", "b"), file("c", "d")],
            &[file("a", "bc"), file("", "d")],
            &[file("ab", ""), file("c", "d")],
            &[file("a", "d"), file("c", "b")],
            &[file("a", "bcd")],
            &[file("a", "b"), file("e", "d")],
        ];
        let versions: std::collections::BTreeSet<_> = sets.iter().map(|files| version_of_files(files, true)).collect();
        assert_eq!(versions.len(), sets.len());
        assert_eq!(version_of_files(&[file("c", "d"), file("a", "b")], true), version_of_files(sets[2], true));
    }

    #[test]
    fn random_version_key_differs_and_is_redacted() {
        let (one, two) = (VersionKey::random(), VersionKey::random());
        let version = |key| object_version(key, &"".into(), &[], false);
        assert_ne!(version(&one), version(&two));
        assert_eq!(format!("{one:?}"), "VersionKey");
    }
}
