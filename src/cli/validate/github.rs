//! Findings as GitHub's workflow commands, which it shows beside the lines of a pull request.

use std::fmt::Write as _;

use super::{is_piped, severity_str};
use crate::validate::ValidationReport;

/// One command a line. What came through a pipe has no line that could be shown; its place is told in the message.
pub(super) fn written(report: &ValidationReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (file, line, column) = (&finding.file, finding.position.line, finding.position.column);
        let title = property(&format!("{} {}", finding.cause.id(), finding.cause.info().title));
        let (command, message) = (severity_str(finding.severity), data(&finding.message));
        let _ = if is_piped(file) {
            writeln!(text, "::{command} title={title}::{}:{line}:{column}: {message}", data(file))
        } else {
            let (file, end) = (property(file), finding.end_column);
            writeln!(text, "::{command} file={file},line={line},col={column},endColumn={end},title={title}::{message}")
        };
    }
    text
}

/// What stands behind `::`.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// What stands behind `=`.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
