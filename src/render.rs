//! Lease and object in, file bytes out; pure.
//!
//! A value that is a string becomes its characters; any other value becomes its JSON text, number and escapes as the
//! server wrote them. Strings are read as Go reads them: half of a surrogate pair is U+FFFD, of equal keys the last counts.

mod encoding;
mod format;
mod json;
mod key_suggestions;
mod pointer;
mod select;
pub mod version;

use crate::{error::Error, secret::SecretBytes, vault::response::SecretResponse};

/// What of an answer an object wants, and as which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// `objectName`: the file's path below the mount, or the directory when every key is a file (`.`: the mount itself).
    pub path: String,
    /// Permission bits, up to 0o777.
    pub mode: u32,
    /// Which part of the answer.
    pub selector: Selector,
    /// How the value is decoded on its way to the file.
    pub encoding: Encoding,
}

/// Which part of an answer goes to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The whole response as JSON.
    FullResponse,
    /// One key: of `data.data` when that is an object that has it, else of `data`.
    Key(String),
    /// One value by RFC 6901 pointer into the data (KV v2 unwrapped); empty means all of it.
    Pointer(String),
    /// One file per key of the data (KV v2 unwrapped).
    AllKeys,
    /// The data alone (KV v2 unwrapped), in a format.
    Formatted(Format),
}

/// A text format for the data alone, keys sorted. Each ends with a newline, as its readers and other writers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON on one line.
    Json,
    /// YAML that parsers of 1.1 and 1.2 read alike.
    Yaml,
    /// `KEY='value'` lines, readable by POSIX sh and by dotenv.
    Env,
    /// Java properties, ASCII.
    Properties,
}

/// How a value is decoded on its way to the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    #[default]
    Utf8,
    /// From base64, standard alphabet with padding; line breaks are ignored.
    Base64,
    /// From hexadecimal, in any case.
    Hex,
}

/// A file as the pod gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedFile {
    /// Its path below the mount.
    pub path: String,
    /// Permission bits, up to 0o777.
    pub mode: u32,
    /// Its bytes.
    pub contents: SecretBytes,
}

/// Makes the files of one object. The error says which key or value it could not, and does not name the object.
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
