//! The data alone, in a text format, keys sorted.

mod buffer;
mod env;
mod properties;
mod tree;
mod yaml;

use super::{Encoding, Format, json::Members};
use crate::{
    error::{Cause, Error},
    secret::SecretBytes,
};
use buffer::Buffer;

/// Writes the members of the data. Formats hold text, so there is nothing to decode.
pub(super) fn format(format: Format, encoding: Encoding, members: &Members<'_>) -> Result<SecretBytes, Error> {
    if encoding != Encoding::Utf8 {
        return Err(Error::new(Cause::InvalidRequest, "`encoding` does not go with `format`")
            .advice("remove one of them; `secretKey: \"*\"` writes every key to a file of its own and decodes it"));
    }
    let mut text = Buffer::default();
    match format {
        Format::Json => tree::json(&mut text, members)?,
        Format::Yaml => yaml::yaml(&mut text, members)?,
        Format::Env => env::env(&mut text, members)?,
        Format::Properties => properties::properties(&mut text, members),
    }
    Ok(text.finish())
}
