//! Redaction: possible arguments and tokens are never shown, however wrong the class is.

use serde_json::json;

use super::{Project, class_manifest, class_with_objects, class_with_parameters};

#[tokio::test]
async fn validate_excerpts_redact_secret_args() {
    let flow = "- {objectName: a, secretPath: /, secretArgs: {pin: hunter2, list: [hunter2]}, format: xml}";
    let objects = [
        flow.to_owned(),
        "- {objectName: a, secretPath: p, secretArgs: {pin: hunter2, n: .inf, x: {1: hunter2}}}".to_owned(),
        "- {objectName: a, secretPath: p, secretargs: {pin: hunter2}}".to_owned(),
        "- {objectName: a, secretPath: p, password: hunter2}".to_owned(),
        "- {objectName: a, secretPath: [hunter2], secretArgs: hunter2}".to_owned(),
        "- hunter2\n- [hunter2]".to_owned(),
        "- objectName: a\n  secretArgs: {pin: 'hunter2}".to_owned(),
        "- objectName: a\n  secretArgs:\n    pin: @hunter2".to_owned(),
        "- objectName: a\n  secretArgs:\n    pem: |\n      hunter2\n     x: hunter2".to_owned(),
        "- {x: &x {pin: hunter2}}\n- {objectName: a, secretPath: p, method: no, secretArgs: *x}".to_owned(),
        "hunter2".to_owned(),
        "pin: hunter2".to_owned(),
        "- objectName: a\n  secretPath: p?pin=hunter2\n  format: xml\n- {objectName: b, secretPath: 'p?version=1&pin=hunter2#'}\n- {objectName: c, secretPath: p?hunter2, method: PTU}".to_owned(),
        "- objectName: a\n  secretPath: p?pin=hunter2: x".to_owned(),
        "- objectName: a\n  secretArgs:\n    pem: |\n      hunter2:x\n      @\n   - x".to_owned(),
    ];
    let mut files: Vec<(String, String)> = objects
        .iter()
        .enumerate()
        .flat_map(|(index, text)| {
            let quoted = text.replace('\'', "''").replace('\n', "\n\n      ");
            let folded = text.replace('\n', "\n\n      ");
            [
                (format!("{index}-literal.yaml"), class_with_objects(text)),
                (
                    format!("{index}-quoted.yaml"),
                    class_manifest(&format!("  parameters:\n    roleName: web\n    objects: '{quoted}'\n")),
                ),
                (
                    format!("{index}-folded.yaml"),
                    class_manifest(&format!("  parameters:\n    roleName: web\n    objects: >\n      {folded}\n")),
                ),
                (
                    format!("{index}-list.yaml"),
                    class_manifest(&format!("  parameters:\n    objects:\n    {}\n", text.replace('\n', "\n    "))),
                ),
            ]
        })
        .collect();
    files.push((
        "token.yaml".into(),
        class_with_parameters("    csi.storage.k8s.io/serviceAccount.tokens: [hunter2]\n    token: hunter2\n"),
    ));
    files.push(("address.yaml".into(), class_with_parameters("    vaultAddress: https://me:hunter2@vault:8200\n")));
    files.push(("bare.yaml".into(), class_with_parameters("    baoAddress: me:hunter2@vault\n")));
    files.push((
        "secret.yaml".into(),
        format!(
            "apiVersion: v1\nkind: Secret\nstringData:\n  a: hunter2\n  b: 'x' hunter2\n---\n{}",
            class_with_parameters("    token: hunter2\n")
        ),
    ));
    files.push((
        "broken.yaml".into(),
        "apiVersion: v1\nkind: List\nitems:\n- kind: Secret\n  stringData:\n    name: hunter2: x\n- apiVersion: secrets-store.csi.x-k8s.io/v1\n".into(),
    ));
    for (name, text) in [
        (
            "pod.yaml",
            "{apiVersion: v1, kind: Pod, spec: {containers: [{env: [{name: P, value: hunter2}]}], volumes: [{name: s, csi: {driver: secrets-store.csi.k8s.io}}]}}",
        ),
        ("spec.yaml", "{apiVersion: secrets-store.csi.x-k8s.io/v1, kind: SecretProviderClass, spec: 'hunter2'}"),
        (
            "provider.yaml",
            "{apiVersion: secrets-store.csi.x-k8s.io/v1, kind: SecretProviderClass, spec: {parameters: {objects: '- {secretArgs: {pin: hunter2}}'}}}",
        ),
        (
            "parameters.yaml",
            "{apiVersion: secrets-store.csi.x-k8s.io/v1, kind: SecretProviderClass, spec: {provider: vault, parameters: hunter2}}",
        ),
        (
            "others.yaml",
            "{kind: List, items: [{kind: ConfigMap, data: {a: hunter2}}, {apiVersion: secrets-store.csi.x-k8s.io/v1, kind: SecretProviderClass}]}",
        ),
    ] {
        files.push((name.into(), text.into()));
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"a": "hunter2"}});
    let class = json!({
        "apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
        "spec": {"provider": "vault", "spare": "hunter2", "parameters": {"objects": flow}},
    });
    files.push(("line.json".into(), json!({"kind": "List", "items": [secret, class]}).to_string()));
    let named: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let project = Project::with_files(&named);
    for output in ["text", "json", "sarif", "github"] {
        for (name, text) in &named {
            let run = project.run(&["--output", output, name]).await;
            assert_eq!(run.code, 1, "{text}{}", run.stdout);
            assert!(!run.stdout.contains("hunter2"), "{name} {text}\n{}", run.stdout);
        }
    }
}

#[tokio::test]
async fn validate_redaction_keeps_the_rest_of_the_line() {
    let text = class_with_objects("- {objectName: a, secretArgs: {pin: hunter2}, secretPath: /}");
    let run = Project::with_files(&[("a.yaml", &text)]).run(&["."]).await;
    let excerpt = "  |\n9 |       - {objectName: a, secretArgs: {pin: ***}, secretPath: /}\n  |                                                             ^\n";
    assert!(run.stdout.contains(excerpt), "{}", run.stdout);
    let text = class_with_objects("- objectName: ../a  # hunter2\n  secretPath: 'p#q'")
        .replace("  parameters:", "  parametres: #hunter2\n  parameters:");
    let run = Project::with_files(&[("a.yaml", &text)]).run(&["."]).await;
    for line in ["  parametres: #***\n", "      - objectName: ../a  #***\n", "        secretPath: 'p#q'\n"] {
        assert!(run.stdout.contains(line) && !run.stdout.contains("hunter2"), "{}", run.stdout);
    }
    let text = class_with_objects(
        "- {objectName: a, secretPath: p?pin=ab, method: PTU}\n- {objectName: b, secretPath: p?version=2, method: PTU}",
    );
    let run = Project::with_files(&[("a.yaml", &text)]).run(&["."]).await;
    for line in
        ["{objectName: a, secretPath: p?***, method: PTU}", "{objectName: b, secretPath: p?version=2, method: PTU}"]
    {
        assert!(run.stdout.contains(line), "{}", run.stdout);
    }
}
