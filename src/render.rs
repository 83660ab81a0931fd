//! Lease and object in, file bytes out; pure.
//!
//! A value that is a string becomes its characters; any other value becomes its JSON text, number and escapes as the
//! server wrote them. Strings are read as Go reads them: half of a surrogate pair is U+FFFD, of equal keys the last counts.

mod encoding;
mod extract;
mod format;
mod json;
mod missing;
mod pointer;
pub mod version;

use crate::{error::Error, secret::SecretBytes, vault::answer::SecretResponse};

/// What of an answer an object wants, and as which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// `objectName`: the file's path below the mount, or the directory when every key is a file (`.`: the mount itself).
    pub file: String,
    /// Permission bits, up to 0o777.
    pub mode: u32,
    /// Which part of the answer.
    pub select: Select,
    /// How the value is decoded on its way to the file.
    pub encoding: Encoding,
}

/// Which part of an answer goes to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// The whole response as JSON.
    Whole,
    /// One key: of `data.data` when that is an object that has it, else of `data`.
    Key(String),
    /// One value by RFC 6901 pointer into the data (KV v2 unwrapped); empty means all of it.
    Pointer(String),
    /// One file per key of the data (KV v2 unwrapped).
    EachKey,
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
pub struct File {
    /// Its path below the mount.
    pub path: String,
    /// Permission bits, up to 0o777.
    pub mode: u32,
    /// Its bytes.
    pub contents: SecretBytes,
}

/// Makes the files of one object. The error says which key or value it could not, and does not name the object.
pub fn render(recipe: &Recipe, answer: &SecretResponse) -> Result<Vec<File>, Error> {
    let contents = match &recipe.select {
        Select::Whole => encoding::decode_shared(answer.as_json(), recipe.encoding)?,
        Select::Key(key) => {
            let value = extract::key(answer, key)?;
            encoding::decode(value.text(), recipe.encoding).map_err(|error| error.about(missing::shown_key(key)))?
        }
        Select::Pointer(pointer) => {
            encoding::decode(pointer::follow(pointer, extract::unwrapped(answer)?)?.text(), recipe.encoding)?
        }
        Select::EachKey => return extract::each_key(recipe, answer),
        Select::Formatted(format) => format::format(*format, recipe.encoding, &extract::members(answer)?)?,
    };
    Ok(vec![File { path: recipe.file.clone(), mode: recipe.mode, contents }])
}

#[cfg(test)]
mod tests;
