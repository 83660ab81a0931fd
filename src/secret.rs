//! Secret text and bytes: redacted in `Debug` output and zeroed when dropped.

use std::{fmt, io};

use bytes::Bytes;
use zeroize::Zeroizing;

/// Secret text: a token, a request body, an argument. `Debug` redacts it, and its memory is zeroed on drop.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Returns the text. The call marks a place where a secret is exposed.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::hash::Hash for SecretText {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'de> serde::Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// Serializes a secret text for output that is encrypted afterwards. Each such field must name this function, so that a secret
/// is not serialized by accident.
pub fn serialize_exposed<S: serde::Serializer>(text: &SecretText, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text.expose())
}

/// Same as [`serialize_exposed`], for an optional text.
pub fn serialize_exposed_opt<S: serde::Serializer>(
    text: &Option<SecretText>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&text.as_ref().map(SecretText::expose), serializer)
}

/// Growing buffer of secret bytes. Its memory is zeroed when the buffer grows and on drop.
#[derive(Default)]
pub struct SecretBuffer(Zeroizing<Vec<u8>>);

impl SecretBuffer {
    /// Creates a buffer with a capacity of `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if the buffer is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes. The call marks a place where a secret is exposed.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Appends `data` without leaving an unzeroed copy in memory.
    pub fn append(&mut self, data: &[u8]) {
        if self.0.capacity() - self.0.len() < data.len() {
            let mut larger = Self::with_capacity((self.0.len() + data.len()).next_power_of_two());
            larger.0.extend_from_slice(&self.0);
            *self = larger;
        }
        self.0.extend_from_slice(data);
    }

    /// Returns the bytes. The caller must zero them.
    #[must_use]
    pub fn into_inner(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

impl io::Write for SecretBuffer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.append(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Secret bytes: a response body, a file's contents. Cheap to clone; zeroed when the last clone is dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(Bytes);

impl SecretBytes {
    /// Returns the bytes. The call marks a place where a secret is exposed.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Converts to [`Bytes`] for sending. The memory is still zeroed when the last clone is dropped.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if the length is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Bytes::from_owner(Zeroizing::new(bytes)))
    }
}

impl From<Zeroizing<String>> for SecretBytes {
    fn from(mut text: Zeroizing<String>) -> Self {
        Self::from(std::mem::take(&mut *text).into_bytes())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[secret, {} bytes]", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_debug_output_is_redacted() {
        let shown = format!("{:?} {:?}", SecretText::from("hunter2"), SecretBytes::from(b"hunter2".to_vec()));
        assert_eq!(shown, "[secret] [secret, 7 bytes]");
    }
}
