//! Positions: lines and columns are those of an editor, wherever the text of `objects` is.

use super::{class_manifest, class_with_objects, findings_of};

#[tokio::test]
async fn position_in_literal_block_is_exact() {
    let findings = findings_of(&class_with_objects(
        "\n# a comment\n- objectName: ä\n\n  secretPath: p\n  method: PTU\n- {objectName: b, secretPath: 'x#y', formt: env}",
    ))
    .await;
    assert_eq!(
        findings,
        [
            "14:17: error: object \"ä\": method: \"PTU\" is none of GET, LIST, PUT, POST (did you mean PUT?) [VM0080]",
            "15:37: error: object \"b\": secretPath: contains a `#`; name the path alone, and the key in secretKey [VM0080]",
            "15:44: error: object \"b\": formt: is unknown and would be ignored; did you mean format? [VM0082]",
        ]
    );
}

#[tokio::test]
async fn position_in_literal_block_respects_indent_header() {
    for (header, indent) in [("|", 10), ("|2", 6), ("|-", 5), ("|+", 6), ("| # note", 8), ("&o |", 6)] {
        let pad = " ".repeat(indent);
        let objects = format!("    objects: {header}\n{pad}- objectName: a\n{pad}  secretPath: /\n");
        let findings = findings_of(&class_manifest(&format!("  parameters:\n    roleName: web\n{objects}"))).await;
        assert!(
            findings[0].starts_with(&format!("10:{}: error: object \"a\": secretPath: ", indent + 15)),
            "{header}: {findings:?}"
        );
    }
}

#[tokio::test]
async fn position_counts_crlf_as_one_line() {
    let findings = findings_of(&class_with_objects("- objectName: a\n  secretPath: /\n").replace('\n', "\r\n")).await;
    assert!(findings[0].starts_with("10:21: error: "), "{findings:?}");
}

#[tokio::test]
async fn position_in_folded_or_quoted_text_is_its_start() {
    let broken = [
        ("    objects: >\n      - objectName: a\n\n      - 'x\n", "9:7: error: objects: is not valid YAML: "),
        ("    objects: \"- objectName: a\\n- 'x\\n\"\n", "8:14: error: objects: is not valid YAML: "),
    ];
    for (objects, expected) in broken {
        let findings = findings_of(&class_manifest(&format!("  parameters:\n    roleName: web\n{objects}"))).await;
        assert!(findings[0].starts_with(expected) && findings[0].contains("(line "), "{findings:?}");
        assert!(findings[0].ends_with(" of objects) [VM0081]"), "{findings:?}");
    }
    let findings = findings_of(&class_manifest(
        "  parameters:\n    roleName: web\n    objects: '[{objectName: a, secretPath: /}]'\n",
    ))
    .await;
    assert_eq!(
        findings,
        [
            "8:14: error: object \"a\": secretPath: names no secret; write mount and path, as in secret/data/app [VM0080]"
        ]
    );
}

#[tokio::test]
async fn position_in_json_manifest_is_exact() {
    let json = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\n\t\t\"apiVersion\": \"secrets-store.csi.x-k8s.io/v1\", \"kind\": \"SecretProviderClass\", \"metadata\": {\"name\": \"a\"},\n\t\t\"spec\": {\"provider\": \"openbao\", \"parameters\": {\n\t\t\t\"roleName\": \"a\\nb\",\n\t\t\t\"objects\": \"- {objectName: a, secretPath: p}\"}}}]}";
    assert_eq!(
        findings_of(json).await,
        ["5:16: error: roleName: contains a control character or line break; remove it [VM0080]"]
    );
}

#[tokio::test]
async fn position_of_aliased_content_is_the_anchor() {
    let findings = findings_of(&class_with_objects(
        "- &base\n  objectName: a\n  secretPath: p\n  method: PTU\n- {<<: *base, objectName: b, format: xml}",
    ))
    .await;
    assert!(findings[0].starts_with("12:17: error: object \"a\": method: "), "{findings:?}");
    assert!(findings[1].starts_with("12:17: error: object \"b\": method: "), "{findings:?}");
    assert!(findings[2].starts_with("13:44: error: object \"b\": format: "), "{findings:?}");
}

#[tokio::test]
async fn position_of_later_document_counts_from_file_start() {
    let text =
        format!("# head\n---\nkind: ConfigMap\napiVersion: v1\n--- # next\n{}", class_with_objects("- objectName: a"));
    assert!(findings_of(&text).await[0].starts_with("14:21: error: object \"a\": secretPath: missing"));
}
