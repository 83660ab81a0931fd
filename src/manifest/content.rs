//! What is in a file: text, or what is none.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::shown;
use crate::{
    error::{Cause, Error},
    yaml::At,
};

/// The most text of one file, in bytes.
const MOST_TEXT: usize = 16 << 20;

/// What everything for this driver has in it: the API group of classes and the driver's name in volumes begin so.
pub const DRIVER_MARK: &str = "secrets-store.csi";

/// What was read of a file.
pub type Content = Result<String, NoText>;

/// Why a file that can be read is no text that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoText {
    /// What is wrong, in the middle of a sentence about the file.
    pub what: String,
    /// Where it goes wrong.
    pub at: At,
    /// Whether [`DRIVER_MARK`] is anywhere in it, in whichever encoding.
    pub names_driver: bool,
}

/// What is in a file; in standard input if the path is `-`. An error is why it cannot be read.
pub fn content(path: &Path) -> io::Result<Content> {
    if path == Path::new("-") { read(&mut io::stdin().lock()) } else { read(&mut File::open(path)?) }
}

/// The text of a file; of standard input if the path is `-`.
pub fn text(path: &Path) -> Result<String, Error> {
    let unusable = |why: String| Error::new(Cause::Manifest, format!("{} {why}", shown(path)));
    let content = content(path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    content.map_err(|no_text| unusable(no_text.what))
}

fn read(file: &mut dyn Read) -> io::Result<Content> {
    let mut bytes = Vec::new();
    if file.take(MOST_TEXT as u64 + 1).read_to_end(&mut bytes)? > MOST_TEXT {
        let what = format!("is longer than the {MOST_TEXT} bytes that are read; split it");
        return Ok(Err(NoText { what, at: At { line: 1, column: 1 }, names_driver: names_driver(bytes, file)? }));
    }
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(Ok(text)),
        Err(error) => error,
    };
    let good = error.utf8_error().valid_up_to();
    let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let at = At { line: before.matches('\n').count() + 1, column };
    let names_driver = names_driver(error.into_bytes(), file)?;
    Ok(Err(NoText { what: "is no text in UTF-8; save it as that".to_owned(), at, names_driver }))
}

/// Whether the driver is named in some bytes or in the rest of the file, which is not kept. UTF-16 is ASCII with zeros.
fn names_driver(mut bytes: Vec<u8>, rest: &mut dyn Read) -> io::Result<bool> {
    let mark = DRIVER_MARK.as_bytes();
    loop {
        bytes.retain(|byte| *byte != 0);
        if bytes.windows(mark.len()).any(|window| window == mark) {
            return Ok(true);
        }
        // What may be the beginning of it.
        bytes.drain(..bytes.len().saturating_sub(mark.len() - 1));
        if rest.take(1 << 20).read_to_end(&mut bytes)? == 0 {
            return Ok(false);
        }
    }
}
