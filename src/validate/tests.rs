//! Properties that hold for arbitrary manifests.

use proptest::prelude::*;

use super::*;

fn validate_text(text: &str) -> ValidationReport {
    validate(&[Input { name: "a.yaml".into(), content: Ok(text.into()), kind: InputKind::Manifests }])
}

/// Checks that each finding has a span in the file, and that no message or excerpt holds the argument.
fn check_spans_and_redaction(text: &str) -> Result<(), TestCaseError> {
    let report = validate_text(text);
    for finding in &report.findings {
        let span = (finding.position.line, finding.position.column, finding.end_column);
        prop_assert!((1..=text.lines().count() + 1).contains(&finding.position.line), "{span:?}");
        prop_assert!(finding.position.column >= 1 && finding.end_column > finding.position.column, "{span:?}");
        prop_assert!(!finding.message.contains(['\n', '\r']), "{}", finding.message);
        let shown = format!("{}{}", finding.message, finding.excerpt.text);
        prop_assert!(!shown.contains("hunter2"), "{shown}\n{text}");
    }
    Ok(())
}

/// Generates lines of `objects`, mostly valid ones, with arguments that excerpts must redact.
fn objects_strategy() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("- objectName: a".to_owned()),
        Just("  secretPath: p".to_owned()),
        Just("- {objectName: b, secretPath: /, secretArgs: {pin: hunter2}}".to_owned()),
        Just("- &x {objectName: c, secretArgs: [hunter2, .nan]}".to_owned()),
        Just("- <<: *x".to_owned()),
        Just("  secretArgs: {pin: hunter2}".to_owned()),
        Just("  secretArgs: |\n    hunter2".to_owned()),
        Just("    pin: 'hunter2".to_owned()),
        Just("- {objectName: d, secretPath: 'p?pin=hunter2'}".to_owned()),
        Just("  secretPath: p?hunter2".to_owned()),
        Just("  passwort: \"hunter2\"".to_owned()),
        Just(String::new()),
        "[ -]{0,4}(objectName|secretKey|method|format)?:? ?[a-z*\"'|>{}\\[\\]]{0,4}",
    ];
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn validate_arbitrary_text_does_not_panic(text in "(?s).{0,200}") {
        validate_text(&text);
    }

    #[test]
    fn validate_arbitrary_class_has_findings_in_file(text in "(?s)(apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\n|spec:|  provider: vault\n|  parameters:\n|    objects: [|>]\n|      - |a|\n|: |\\{|\\}|\\[|'|---\n|ü|\t|&a |\\*a){0,30}") {
        check_spans_and_redaction(&text)?;
    }

    #[test]
    fn validate_findings_never_show_an_argument(objects in objects_strategy(), style in prop::sample::select(vec!["|", ">", "|2-", "\"", "'", ""])) {
        let (open, close) = if matches!(style, "\"" | "'") { (style, style) } else { ("", "") };
        let header = if open.is_empty() { style } else { "" };
        let indented: String = format!("{open}{objects}{close}").replace('\n', "\n      ");
        check_spans_and_redaction(&format!(
            "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: a}}\nspec:\n  provider: vault\n  parameters:\n    roleName: web\n    objects: {header}\n      {indented}\n"
        ))?;
    }
}

/// Runs on a stack as large as that of a program's main thread. The stack of a test thread is smaller.
#[test]
fn validate_reports_yaml_bombs_without_overflow() {
    std::thread::Builder::new().stack_size(8 << 20).spawn(validate_bombs).unwrap().join().unwrap();
}

fn validate_bombs() {
    let nested = "[".repeat(100_000);
    let lines = |count: usize, line: fn(usize) -> String| (0..count).map(line).collect::<Vec<_>>().join("\n");
    let deep = lines(60, |i| format!("{}a:", " ".repeat(i)));
    let laughs = lines(40, |i| {
        format!("a{}: &a{} [x, x{}]", i + 1, i + 1, if i > 0 { format!(", *a{i}, *a{i}") } else { String::new() })
    });
    let itself = "a: &a [*a]";
    for (text, faults) in [(nested.as_str(), 1), (&deep, 0), (&laughs, 1), (itself, 1)] {
        let text = format!("# secrets-store.csi\n{text}");
        assert_eq!(validate_text(&text).findings.len(), faults, "{text:.60}");
    }
}
