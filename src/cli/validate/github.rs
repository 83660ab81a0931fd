//! Renders findings as GitHub workflow commands, which GitHub shows beside the lines of a pull request.

use std::fmt::Write as _;

use super::{is_pipe, severity_str};
use crate::validate::ValidationReport;

/// Renders one command per line. For piped input GitHub cannot show the line, so the message contains the position.
pub(super) fn render(report: &ValidationReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (file, line, column) = (&finding.file, finding.position.line, finding.position.column);
        let title = escape_property(&format!("{} {}", finding.cause.id(), finding.cause.info().title));
        let (command, message) = (severity_str(finding.severity), escape_data(&finding.message));
        let _ = if is_pipe(file) {
            writeln!(text, "::{command} title={title}::{}:{line}:{column}: {message}", escape_data(file))
        } else {
            let (file, end) = (escape_property(file), finding.end_column);
            writeln!(text, "::{command} file={file},line={line},col={column},endColumn={end},title={title}::{message}")
        };
    }
    text
}

/// Escapes the text after `::`.
fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property value after `=`.
fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}
