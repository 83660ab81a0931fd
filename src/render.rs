//! Rendering of Vault responses into file contents: pure functions of a response and a file specification.
//!
//! A string value becomes its characters. Any other value becomes its JSON text, with numbers and escapes as the server
//! wrote them. Strings are decoded as in Go: half of a surrogate pair becomes U+FFFD, and the last of equal keys
//! counts.

mod encoding;
mod format;
mod json;
mod key_suggestions;
mod pointer;
mod select;
pub mod version;

use crate::{error::Error, secret::SecretBytes, vault::response::SecretResponse};

/// The part of a response that an object selects, and the file to write it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// `objectName`: the file's path below the mount, or the directory when every key is a file (`.`: the mount itself).
    pub path: String,
    /// Permission bits, up to 0o777.
    pub mode: u32,
    /// The part of the response.
    pub selector: Selector,
    /// The decoding applied before the value is written to the file.
    pub encoding: Encoding,
}

/// The part of a response that is written to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The whole response as JSON.
    FullResponse,
    /// One key: of `data.data` if that is an object with the key, else of `data`.
    Key(String),
    /// One value by RFC 6901 pointer into the data (KV v2 unwrapped); an empty pointer selects all data.
    Pointer(String),
    /// One file per key of the data (KV v2 unwrapped).
    AllKeys,
    /// The data alone (KV v2 unwrapped), in a format.
    Formatted(Format),
}

/// A text format for the data alone, with sorted keys. Each format ends with a newline, as its usual readers and
/// writers expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON on one line.
    Json,
    /// YAML with the same meaning for parsers of 1.1 and 1.2.
    Yaml,
    /// `KEY='value'` lines, readable by POSIX sh and by dotenv.
    Env,
    /// Java properties, ASCII.
    Properties,
}

/// The decoding applied to a value before it is written to the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// The value unchanged.
    #[default]
    Utf8,
    /// Base64 with the standard alphabet and padding; line breaks are ignored.
    Base64,
    /// Hexadecimal, in upper or lower case.
    Hex,
}

/// A file as delivered to the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedFile {
    /// The file's path below the mount.
    pub path: String,
    /// Permission bits, up to 0o777.
    pub mode: u32,
    /// The file's content.
    pub contents: SecretBytes,
}

/// Renders the files of one object. The error identifies the key or value that failed, but does not name the object.
pub fn render(spec: &FileSpec, response: &SecretResponse) -> Result<Vec<RenderedFile>, Error> {
    let contents = match &spec.selector {
        Selector::FullResponse => encoding::decode_shared(response.as_json(), spec.encoding)?,
        Selector::Key(key) => {
            let value = select::select_key(response, key)?;
            encoding::decode(value.to_file_text(), spec.encoding)
                .map_err(|error| error.with_subject(key_suggestions::quote_key(key)))?
        }
        Selector::Pointer(pointer) => {
            encoding::decode(pointer::resolve(pointer, select::unwrap_kv2(response)?)?.to_file_text(), spec.encoding)?
        }
        Selector::AllKeys => return select::render_all_keys(spec, response),
        Selector::Formatted(format) => format::render_format(*format, spec.encoding, &select::data_fields(response)?)?,
    };
    Ok(vec![RenderedFile { path: spec.path.clone(), mode: spec.mode, contents }])
}

#[cfg(test)]
mod tests;
