//! Renders findings as human-readable text.

use std::fmt::Write as _;

use super::severity_str;
use crate::cli::style::{ERROR, SECONDARY, WARNING, paint};
use crate::validate::{ManifestFinding, Severity, ValidationReport};

/// Renders every finding with its source line, and a summary.
pub(super) fn render(report: &ValidationReport) -> String {
    let mut text: String = report.findings.iter().map(render_finding).collect();
    let _ = writeln!(text, "{}", render_summary(report));
    text
}

/// Renders `shop.yaml:12:9: error: object "x": … [VM0082]`, and below it the source line with carets.
fn render_finding(finding: &ManifestFinding) -> String {
    let ManifestFinding { severity, cause, file, position: start, message, excerpt, .. } = finding;
    let place = paint(SECONDARY, format!("{file}:{}:{}:", start.line, start.column));
    let style = if *severity == Severity::Error { ERROR } else { WARNING };
    let severity_label = paint(style, format!("{}:", severity_str(*severity)));
    let mut text = format!("{place} {severity_label} {message} [{}]\n", cause.id());
    let (number, gutter) = (start.line.to_string(), " ".repeat(start.line.to_string().len()));
    let (before, carets) = (" ".repeat(excerpt.offset), paint(style, "^".repeat(excerpt.length)));
    let _ = write!(text, "{gutter} |\n{number} | {}\n{gutter} | {before}{carets}\n\n", excerpt.text);
    text
}

/// Renders `3 errors, 1 warning in 2 classes, 1 pod (5 files; skipped 4 other resources, of which 1 cannot be read)`.
fn render_summary(report: &ValidationReport) -> String {
    let pods = if report.pods > 0 { format!(", {}", count_noun(report.pods, "pod", "s")) } else { String::new() };
    let policies = match report.policies {
        0 => String::new(),
        1 => ", 1 policy".to_owned(),
        many => format!(", {many} policies"),
    };
    let scope = match report.classes + report.pods + report.policies {
        0 => String::new(),
        _ => format!(" in {}{pods}{policies}", count_noun(report.classes, "class", "es")),
    };
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    let result = match (errors, warnings) {
        (0, 0) if scope.is_empty() => "nothing to validate".to_owned(),
        (0, 0) => format!("all good{scope}"),
        (errors, 0) => format!("{}{scope}", count_noun(errors, "error", "s")),
        (0, warnings) => format!("{}{scope}", count_noun(warnings, "warning", "s")),
        (errors, warnings) => {
            format!("{}, {}{scope}", count_noun(errors, "error", "s"), count_noun(warnings, "warning", "s"))
        }
    };
    let unreadable = match report.unreadable {
        0 => String::new(),
        count => format!(", of which {count} cannot be read"),
    };
    let skipped = match report.skipped {
        0 => String::new(),
        count => format!("; skipped {}{unreadable}", count_noun(count, "other resource", "s")),
    };
    format!("{result} ({}{skipped})", count_noun(report.files, "file", "s"))
}

fn count_noun(count: usize, noun: &str, plural: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { plural })
}
