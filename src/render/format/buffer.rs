//! A text buffer for secrets that grows piece by piece.

use zeroize::Zeroizing;

use crate::secret::SecretBytes;

/// Secret text that leaves no copies when it grows: outgrown buffers are zeroed.
#[derive(Default)]
pub(super) struct SecretTextBuffer(Zeroizing<String>);

const INITIAL_CAPACITY_BYTES: usize = 512;

impl SecretTextBuffer {
    pub(super) fn push(&mut self, c: char) {
        self.push_str(c.encode_utf8(&mut [0; 4]));
    }

    pub(super) fn push_str(&mut self, text: &str) {
        let needed = self.0.len() + text.len();
        if needed > self.0.capacity() {
            let mut larger =
                Zeroizing::new(String::with_capacity(needed.max(2 * self.0.capacity()).max(INITIAL_CAPACITY_BYTES)));
            larger.push_str(&self.0);
            self.0 = larger;
        }
        self.0.push_str(text);
    }

    /// Appends `\uXXXX` with the digits of `unit` in upper case, as Java and JSON read it.
    pub(super) fn push_utf16_escape(&mut self, unit: u16) {
        self.push_str("\\u");
        for shift in [12, 8, 4, 0] {
            let digit = char::from_digit(u32::from(unit >> shift & 0xf), 16);
            self.push(digit.unwrap_or('0').to_ascii_uppercase());
        }
    }

    pub(super) fn finish(mut self) -> SecretBytes {
        SecretBytes::from(std::mem::take(&mut *self.0).into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_text_buffer_keeps_content_while_growing() {
        let (mut buffer, mut expected) = (SecretTextBuffer::default(), String::new());
        for i in 0..1000 {
            buffer.push('é');
            buffer.push_str("xy");
            buffer.push_utf16_escape(i);
            expected.extend(["éxy".to_owned(), format!("\\u{i:04X}")]);
        }
        assert_eq!(buffer.finish().expose(), expected.as_bytes());
    }
}
