//! Suggestions for typos.

use super::{assert_findings, class_manifest, class_with_objects, class_with_parameters, findings_of};

#[tokio::test]
async fn misspelled_kind_or_provider_is_suggested() {
    let good = class_with_parameters("");
    for (is, written, found) in [
        (
            "provider: vault",
            "provider: Vault",
            "5:13: error: spec.provider: is \"Vault\"; did you mean vault? [VM0085]",
        ),
        (
            "provider: vault",
            "provider: valut",
            "5:13: error: spec.provider: is \"valut\"; did you mean vault? [VM0085]",
        ),
        (
            "provider: vault",
            "provider: openboa",
            "5:13: error: spec.provider: is \"openboa\"; did you mean openbao? [VM0085]",
        ),
        (
            "kind: SecretProviderClass",
            "kind: SecretproviderClass",
            "2:7: error: kind: \"SecretproviderClass\" does not exist in secrets-store.csi.x-k8s.io; did you mean SecretProviderClass? [VM0085]",
        ),
        (
            "secrets-store.csi.x-k8s.io/v1",
            "secrets-store.csi.k8s.io/v1",
            "1:13: error: apiVersion: \"secrets-store.csi.k8s.io/v1\" has no SecretProviderClass; write secrets-store.csi.x-k8s.io/v1 [VM0085]",
        ),
        (
            "secrets-store.csi.x-k8s.io/v1",
            "v1",
            "1:13: error: apiVersion: \"v1\" has no SecretProviderClass; write secrets-store.csi.x-k8s.io/v1 [VM0085]",
        ),
        (
            "secrets-store.csi.x-k8s.io/v1",
            "",
            "1:1: error: apiVersion: missing; write secrets-store.csi.x-k8s.io/v1 [VM0085]",
        ),
        (
            "kind: SecretProviderClass",
            "kind: SecretsProviderClass",
            "2:7: error: kind: \"SecretsProviderClass\" does not exist in secrets-store.csi.x-k8s.io; did you mean SecretProviderClass? [VM0085]",
        ),
        (
            "apiVersion: secrets-store.csi.x-k8s.io/v1\n",
            "",
            "1:1: error: apiVersion: missing; write secrets-store.csi.x-k8s.io/v1 [VM0085]",
        ),
    ] {
        assert_findings(&good.replace(is, written), &[found]).await;
    }
    for (is, written) in [
        ("provider: vault", "provider: akeyless"),
        ("provider: vault", "provider: vault2"),
        ("SecretProviderClass", "SecretProviderClassPodStatus"),
        ("SecretProviderClass", "SecretProviderClassList"),
        ("secrets-store.csi.x-k8s.io/v1", "example.com/v1"),
    ] {
        assert_findings(&good.replace(is, written), &[]).await;
    }
}

#[tokio::test]
async fn invalid_yaml_is_explained() {
    for (objects, found) in [
        (
            "- objectName: a\n  secretPath: p\n  secretKey: *",
            "11:20: error: objects: is not valid YAML: a value begins with * or &, which mean an alias; put it in quotes: \"*\" [VM0081]",
        ),
        (
            "- objectName: a\n  secretPath: p\n\n\tsecretKey: k",
            "12:7: error: objects: is not valid YAML: a tab indents this line; use spaces [VM0081]",
        ),
        (
            "- objectName: a\n  secretPath: p\n - objectName: b",
            "11:8: error: objects: is not valid YAML: this line is indented differently from the list it is in [VM0081]",
        ),
    ] {
        assert_findings(&class_with_objects(objects), &[found]).await;
    }
    let tab = "10:1: error: is not valid YAML: a tab indents this line; use spaces [VM0085]";
    assert_findings(&class_with_parameters("\taudience: x\n"), &[tab]).await;
}

#[tokio::test]
async fn file_permission_without_leading_zero_is_warned_of() {
    let object = |text: &str| format!("- {{objectName: a{text}, secretPath: p, filePermission: {text}}}");
    for (text, is, meant) in
        [("400", "620", "400"), ("440", "670", "440"), ("500", "764", "500"), ("'444'", "674", "444")]
    {
        let bare = text.trim_matches('\'');
        let found = findings_of(&class_with_objects(&object(text))).await;
        let expected =
            format!("filePermission: {bare} is 0{is}, as it has no 0 before it; did you mean 0{meant}? [VM0080]");
        assert!(found.len() == 1 && found[0].contains(": warning: ") && found[0].ends_with(&expected), "{found:?}");
    }
    for text in ["0400", "0o440", "256", "288", "420", "511", "4", "0x100"] {
        assert_findings(&class_with_objects(&object(text)), &[]).await;
    }
}

#[tokio::test]
async fn unrendered_template_is_reported_with_helm_hint() {
    let ours = format!("{{{{- if .Values.x }}}}\n{}{{{{- end }}}}\n", class_manifest(""));
    let found = "1:3: error: is not valid YAML: \"-\" is only valid inside a block; it is a template: pass the rendered manifest (helm template . | vaultmount validate) [VM0085]";
    assert_findings(&ours, &[found]).await;
    let next = "it is a template: pass the rendered manifest (helm template . | vaultmount validate)";
    for (is, written, found) in [
        ("name: shop,", "name: {{ .Release.Name }},", "3:12: error: metadata.name: is a mapping, not text"),
        (
            "secretPath: p",
            "secretPath: {{ .p }}",
            "9:38: error: objects: is not valid YAML: something here has the wrong type",
        ),
        ("provider: vault", "provider: {{ .Values.p }}", "5:3: error: spec.provider: is a mapping, not text"),
        (
            "roleName: web",
            "roleName: {{ .r }}",
            "7:5: error: roleName: is a mapping, and the API server takes only text; write one value",
        ),
    ] {
        let id = if found.contains("objects: ") { "VM0081" } else { "VM0085" };
        assert_findings(&class_with_parameters("").replace(is, written), &[&format!("{found}; {next} [{id}]")]).await;
    }
    let jinja = format!("{{% if x %}}\n{}{{% endif %}}\n", class_manifest(""));
    assert!(findings_of(&jinja).await[0].contains("; it is a template: pass the rendered manifest"));
}
