//! Renders findings as human-readable text.

use std::fmt::Write as _;

use super::severity_str;
use crate::cli::style::{ERROR, PLACE, WARNING, paint};
use crate::validate::{ManifestFinding, Severity, ValidationReport};

/// Renders every finding with its source line, and a summary.
pub(super) fn written(report: &ValidationReport) -> String {
    let mut text: String = report.findings.iter().map(finding).collect();
    let _ = writeln!(text, "{}", summary(report));
    text
}

/// Renders `shop.yaml:12:9: error: object "x": … [VM0082]`, and below it the source line with carets.
fn finding(finding: &ManifestFinding) -> String {
    let ManifestFinding { severity, cause, file, position: at, message, excerpt, .. } = finding;
    let place = paint(PLACE, format!("{file}:{}:{}:", at.line, at.column));
    let style = if *severity == Severity::Error { ERROR } else { WARNING };
    let word = paint(style, format!("{}:", severity_str(*severity)));
    let mut text = format!("{place} {word} {message} [{}]\n", cause.id());
    let (number, gutter) = (at.line.to_string(), " ".repeat(at.line.to_string().len()));
    let (before, carets) = (" ".repeat(excerpt.offset), paint(style, "^".repeat(excerpt.length)));
    let _ = write!(text, "{gutter} |\n{number} | {}\n{gutter} | {before}{carets}\n\n", excerpt.text);
    text
}

/// Renders `3 errors, 1 warning in 2 classes, 1 pod (5 files; skipped 4 other resources, of which 1 cannot be read)`.
fn summary(report: &ValidationReport) -> String {
    let pods = if report.pods > 0 { format!(", {}", some(report.pods, "pod", "s")) } else { String::new() };
    let policies = match report.policies {
        0 => String::new(),
        1 => ", 1 policy".to_owned(),
        many => format!(", {many} policies"),
    };
    let looked_at = match report.classes + report.pods + report.policies {
        0 => String::new(),
        _ => format!(" in {}{pods}{policies}", some(report.classes, "class", "es")),
    };
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    let found = match (errors, warnings) {
        (0, 0) if looked_at.is_empty() => "nothing to validate".to_owned(),
        (0, 0) => format!("all good{looked_at}"),
        (errors, 0) => format!("{}{looked_at}", some(errors, "error", "s")),
        (0, warnings) => format!("{}{looked_at}", some(warnings, "warning", "s")),
        (errors, warnings) => {
            format!("{}, {}{looked_at}", some(errors, "error", "s"), some(warnings, "warning", "s"))
        }
    };
    let unreadable = match report.unreadable {
        0 => String::new(),
        count => format!(", of which {count} cannot be read"),
    };
    let skipped = match report.skipped {
        0 => String::new(),
        count => format!("; skipped {}{unreadable}", some(count, "other resource", "s")),
    };
    format!("{found} ({}{skipped})", some(report.files, "file", "s"))
}

fn some(count: usize, what: &str, plural: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { plural })
}
