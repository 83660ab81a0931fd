//! Text formats for the data alone, with sorted keys.

mod buffer;
mod env;
mod json;
mod properties;
mod yaml;

use super::{Encoding, Format, json::Fields};
use crate::{
    error::{Cause, Error},
    secret::SecretBytes,
};
use buffer::SecretTextBuffer;

/// Writes the data's members in a format. Any `encoding` but UTF-8 is an error, because formats contain text.
pub(super) fn render_format(format: Format, encoding: Encoding, fields: &Fields<'_>) -> Result<SecretBytes, Error> {
    if encoding != Encoding::Utf8 {
        return Err(Error::new(Cause::InvalidRequest, "`encoding` does not go with `format`")
            .with_fix("remove one of them; `secretKey: \"*\"` writes every key to a file of its own and decodes it"));
    }
    let mut text = SecretTextBuffer::default();
    match format {
        Format::Json => json::write_json(&mut text, fields)?,
        Format::Yaml => yaml::write_yaml(&mut text, fields)?,
        Format::Env => env::write_env(&mut text, fields)?,
        Format::Properties => properties::write_properties(&mut text, fields),
    }
    Ok(text.finish())
}
