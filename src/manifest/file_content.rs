//! The content of a manifest file: text, or the reason why it is not usable as text.

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

/// Limits the size of one file, in bytes.
const MAX_MANIFEST_BYTES: usize = 16 << 20;

/// Marks text that concerns this driver. The API group of classes and the driver's name in volumes begin with it.
pub const DRIVER_MARKER: &str = "secrets-store.csi";

/// The text of a file, or the reason why it is not usable as text.
pub type FileContent = Result<String, NotText>;

/// A file that is readable but is not usable as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotText {
    /// The problem, worded to follow the name of the file in a sentence.
    pub problem: String,
    /// The position of the problem.
    pub position: Position,
    /// True if [`DRIVER_MARKER`] appears anywhere in the file, as ASCII, UTF-8 or UTF-16.
    pub mentions_driver: bool,
}

/// Reads the content of a file, or of standard input if the path is `-`. Returns an I/O error if it cannot be read.
pub fn read_content(path: &Path) -> io::Result<FileContent> {
    if path == Path::new("-") { read_bounded(&mut io::stdin().lock()) } else { read_bounded(&mut File::open(path)?) }
}

/// Reads the text of a file, or of standard input if the path is `-`.
pub fn read_text(path: &Path) -> Result<String, Error> {
    let unusable = |problem: String| Error::new(Cause::Manifest, format!("{} {problem}", display_path(path)));
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
    Ok(Err(NotText { problem: "is not UTF-8 text; save it as UTF-8".to_owned(), position, mentions_driver }))
}

/// Returns true if the driver is named in the bytes or in the rest of the file. The rest is not retained. Zero bytes are
/// dropped first, so that ASCII text in UTF-16 matches as well.
fn mentions_driver(mut bytes: Vec<u8>, rest: &mut dyn Read) -> io::Result<bool> {
    let marker = DRIVER_MARKER.as_bytes();
    loop {
        bytes.retain(|byte| *byte != 0);
        if bytes.windows(marker.len()).any(|window| window == marker) {
            return Ok(true);
        }
        // The marker may begin at the end of these bytes.
        bytes.drain(..bytes.len().saturating_sub(marker.len() - 1));
        if rest.take(1 << 20).read_to_end(&mut bytes)? == 0 {
            return Ok(false);
        }
    }
}
