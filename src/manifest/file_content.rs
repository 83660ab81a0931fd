//! What is in a file: text, or what is none.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::display_path;
use crate::{
    error::{Cause, Error},
    yaml::Position,
};

/// The most text of one file, in bytes.
const MAX_MANIFEST_BYTES: usize = 16 << 20;

/// What everything for this driver has in it: the API group of classes and the driver's name in volumes begin so.
pub const DRIVER_MARKER: &str = "secrets-store.csi";

/// What was read of a file.
pub type FileContent = Result<String, NotText>;

/// Why a file that can be read is no text that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotText {
    /// What is wrong, in the middle of a sentence about the file.
    pub problem: String,
    /// Where it goes wrong.
    pub position: Position,
    /// Whether [`DRIVER_MARK`] is anywhere in it, in whichever encoding.
    pub mentions_driver: bool,
}

/// What is in a file; in standard input if the path is `-`. An error is why it cannot be read.
pub fn read_content(path: &Path) -> io::Result<FileContent> {
    if path == Path::new("-") { read_bounded(&mut io::stdin().lock()) } else { read_bounded(&mut File::open(path)?) }
}

/// The text of a file; of standard input if the path is `-`.
pub fn read_text(path: &Path) -> Result<String, Error> {
    let unusable = |why: String| Error::new(Cause::Manifest, format!("{} {why}", display_path(path)));
    let content = read_content(path).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    content.map_err(|no_text| unusable(no_text.problem))
}

fn read_bounded(file: &mut dyn Read) -> io::Result<FileContent> {
    let mut bytes = Vec::new();
    if file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes)? > MAX_MANIFEST_BYTES {
        let problem = format!("is longer than the {MAX_MANIFEST_BYTES} bytes that are read; split it");
        return Ok(Err(NotText {
            problem,
            position: Position { line: 1, column: 1 },
            mentions_driver: mentions_driver(bytes, file)?,
        }));
    }
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(Ok(text)),
        Err(error) => error,
    };
    let valid_bytes = error.utf8_error().valid_up_to();
    let valid_text = String::from_utf8_lossy(&error.as_bytes()[..valid_bytes]).into_owned();
    let column = valid_text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let position = Position { line: valid_text.matches('\n').count() + 1, column };
    let mentions_driver = mentions_driver(error.into_bytes(), file)?;
    Ok(Err(NotText { problem: "is no text in UTF-8; save it as that".to_owned(), position, mentions_driver }))
}

/// Whether the driver is named in some bytes or in the rest of the file, which is not kept. UTF-16 is ASCII with zeros.
fn mentions_driver(mut bytes: Vec<u8>, rest: &mut dyn Read) -> io::Result<bool> {
    let marker = DRIVER_MARKER.as_bytes();
    loop {
        bytes.retain(|byte| *byte != 0);
        if bytes.windows(marker.len()).any(|window| window == marker) {
            return Ok(true);
        }
        // What may be the beginning of it.
        bytes.drain(..bytes.len().saturating_sub(marker.len() - 1));
        if rest.take(1 << 20).read_to_end(&mut bytes)? == 0 {
            return Ok(false);
        }
    }
}
