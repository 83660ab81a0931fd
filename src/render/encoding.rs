//! Decoding of values before they are written to files.

use base64::{
    DecodeError, Engine, alphabet, decoded_len_estimate,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use super::Encoding;
use crate::{
    error::{Cause, Error},
    secret::SecretBytes,
};

/// Go's `base64.StdEncoding`: padding is required, and left-over bits at the end are ignored.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Decodes `text`. The error contains the position of the problem, never the value.
pub(super) fn decode(text: Zeroizing<String>, encoding: Encoding) -> Result<SecretBytes, Error> {
    match encoding {
        Encoding::Utf8 => Ok(text.into()),
        Encoding::Base64 => decode_base64(&text),
        Encoding::Hex => decode_hex(text.as_bytes()),
    }
}

/// Decodes a shared text, without copying it if it needs no decoding.
pub(super) fn decode_shared(text: &SecretBytes, encoding: Encoding) -> Result<SecretBytes, Error> {
    match encoding {
        Encoding::Utf8 => Ok(text.clone()),
        Encoding::Base64 | Encoding::Hex => {
            let text = String::from_utf8_lossy(text.expose()).into_owned();
            decode(Zeroizing::new(text), encoding)
        }
    }
}

fn decode_base64(text: &str) -> Result<SecretBytes, Error> {
    // Go skips line breaks at any position.
    let is_data = |byte: &u8| !matches!(byte, b'\r' | b'\n');
    let mut packed = Zeroizing::new(Vec::with_capacity(text.len()));
    packed.extend(text.bytes().filter(is_data));
    let mut bytes = Zeroizing::new(vec![0; decoded_len_estimate(packed.len())]);
    let length = BASE64.decode_slice_unchecked(&*packed, &mut bytes).map_err(|error| {
        let (offset, problem) = match error {
            DecodeError::InvalidByte(offset, _) | DecodeError::InvalidLastSymbol(offset, _) => {
                (offset, "a character that is not of its alphabet, or padding in the middle,")
            }
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => {
                (packed.len(), "characters or padding missing")
            }
        };
        let offset =
            text.bytes().enumerate().filter(|(_, byte)| is_data(byte)).nth(offset).map_or(text.len(), |(at, _)| at);
        decode_error("base64", offset, problem)
    })?;
    bytes.truncate(length);
    Ok(SecretBytes::from(std::mem::take(&mut *bytes)))
}

fn decode_hex(text: &[u8]) -> Result<SecretBytes, Error> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    let digit = |at: usize| match text.get(at).map(|byte| char::from(*byte).to_digit(16)) {
        Some(Some(digit)) => u8::try_from(digit).map_err(|_| decode_error("hex", at, "no digit")),
        Some(None) => Err(decode_error("hex", at, "a character that is no digit of it")),
        None => Err(decode_error("hex", at, "an odd number of digits")),
    };
    for at in (0..text.len()).step_by(2) {
        bytes.push(digit(at)? << 4 | digit(at + 1)?);
    }
    Ok(SecretBytes::from(std::mem::take(&mut *bytes)))
}

fn decode_error(encoding: &str, offset: usize, problem: &str) -> Error {
    Error::new(Cause::RenderFailed, format!("the value is not {encoding}: {problem} at byte {offset}"))
        .with_fix(format!("correct the value in Vault, or remove `encoding: {encoding}` if it is not encoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str, encoding: Encoding) -> Result<Vec<u8>, String> {
        match decode(Zeroizing::new(text.to_owned()), encoding) {
            Ok(bytes) => Ok(bytes.expose().to_vec()),
            Err(error) => {
                assert_eq!(error.cause(), Cause::RenderFailed);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn encoding_values_are_decoded_like_go() {
        for (text, encoding, bytes) in [
            ("é", Encoding::Utf8, "é".as_bytes()),
            ("", Encoding::Base64, b""),
            ("aGVsbG8=", Encoding::Base64, b"hello"),
            ("aGVs\r\nbG8=\n", Encoding::Base64, b"hello"),
            ("aGVsbG8\n=", Encoding::Base64, b"hello"),
            ("/+8=", Encoding::Base64, b"\xff\xef"),
            ("aGVsbG9=", Encoding::Base64, b"hello"),
            ("", Encoding::Hex, b""),
            ("00fFa0", Encoding::Hex, b"\x00\xff\xa0"),
        ] {
            assert_eq!(decoded(text, encoding).as_deref(), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn encoding_error_has_byte_offset_and_fix() {
        let advice =
            |encoding| format!("; correct the value in Vault, or remove `encoding: {encoding}` if it is not encoded");
        for (text, encoding, name, problem) in [
            ("aGVsbG8", Encoding::Base64, "base64", "characters or padding missing at byte 7"),
            (
                "aGVsbG8===",
                Encoding::Base64,
                "base64",
                "a character that is not of its alphabet, or padding in the middle, at byte 7",
            ),
            ("a", Encoding::Base64, "base64", "characters or padding missing at byte 1"),
            (
                "aGVs\nbG8 ",
                Encoding::Base64,
                "base64",
                "a character that is not of its alphabet, or padding in the middle, at byte 8",
            ),
            (
                "_-8=",
                Encoding::Base64,
                "base64",
                "a character that is not of its alphabet, or padding in the middle, at byte 0",
            ),
            ("00f", Encoding::Hex, "hex", "an odd number of digits at byte 3"),
            ("0x00", Encoding::Hex, "hex", "a character that is no digit of it at byte 1"),
            ("00\n", Encoding::Hex, "hex", "a character that is no digit of it at byte 2"),
            ("é0", Encoding::Hex, "hex", "a character that is no digit of it at byte 0"),
        ] {
            let message = format!("the value is not {name}: {problem}{} [VM0072]", advice(name));
            assert_eq!(decoded(text, encoding), Err(message), "{text:?}");
        }
    }
}
