//! Renders findings as SARIF 2.1.0, for code scanning.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::{is_pipe, severity_str};
use crate::{
    error::Cause,
    validate::{ManifestFinding, ValidationReport},
};

/// Renders one run, with the violated rules.
pub(super) fn render(report: &ValidationReport) -> String {
    let rules: BTreeMap<&str, Cause> =
        report.findings.iter().map(|finding| (finding.cause.id(), finding.cause)).collect();
    let ids: Vec<&str> = rules.keys().copied().collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "vaultmount",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules.values().map(|cause| render_rule(*cause)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": report.findings.iter().map(|finding| render_result(finding, &ids)).collect::<Vec<_>>(),
        }],
    });
    format!("{log:#}\n")
}

fn render_rule(cause: Cause) -> Value {
    let row = cause.info();
    json!({
        "id": row.id,
        "name": format!("{cause:?}"),
        "shortDescription": { "text": row.title },
        "fullDescription": { "text": row.explanation },
        "help": { "text": row.fix, "markdown": row.fix },
    })
}

fn render_result(finding: &ManifestFinding, ids: &[&str]) -> Value {
    let id = finding.cause.id();
    json!({
        "ruleId": id,
        "ruleIndex": ids.iter().position(|known| *known == id),
        "level": severity_str(finding.severity),
        "message": { "text": finding.message },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": if is_pipe(&finding.file) { "stdin".to_owned() } else { to_uri(&finding.file) } },
            "region": {
                "startLine": finding.position.line,
                "startColumn": finding.position.column,
                "endLine": finding.position.line,
                "endColumn": finding.end_column,
                "snippet": { "text": finding.excerpt.text },
            },
        }}],
    })
}

/// Converts a path to a URI reference, which is relative if the path is.
fn to_uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    if path.starts_with('/') { format!("file://{uri}") } else { uri }
}
