//! Renders findings as one JSON object.

use serde_json::json;

use super::severity_str;
use crate::validate::{Severity, ValidationReport};

/// `{"findings": […], "summary": {…}}`. New versions may add fields, but never change or remove one.
pub(super) fn render(report: &ValidationReport) -> String {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "severity": severity_str(finding.severity),
                "id": finding.cause.id(),
                "title": finding.cause.info().title,
                "file": finding.file,
                "line": finding.position.line,
                "column": finding.position.column,
                "end_column": finding.end_column,
                "message": finding.message,
                "excerpt": finding.excerpt.text,
            })
        })
        .collect();
    let summary = json!({
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "files": report.files,
        "classes": report.classes,
        "policies": report.policies,
        "pods": report.pods,
        "skipped": report.skipped,
        "unreadable": report.unreadable,
    });
    format!("{:#}\n", json!({ "findings": findings, "summary": summary }))
}
