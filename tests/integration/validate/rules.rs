//! Violations of each rule.

use super::{Project, assert_findings, class_manifest, class_with_objects, class_with_parameters, findings_of};

/// Returns a pod of class `shop` with these lines in its volume's `csi`, from line 8.
fn pod_manifest(csi: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: shop}}\nspec:\n  volumes:\n  - name: s\n    csi: {{driver: secrets-store.csi.k8s.io,\n{csi}}}\n"
    )
}

#[tokio::test]
async fn unusable_manifest_is_reported_with_fix() {
    for (text, expected) in [
        ("# secrets-store.csi\na: [\n", &["2:4: error: is not valid YAML: unclosed bracket '[' [VM0085]"][..]),
        (
            "driver: secrets-store.csi.k8s.io\na: 1\na: 2\n",
            &["3:1: error: is not valid YAML: a key appears twice in one mapping; remove one [VM0085]"],
        ),
        (
            "apiVersion: secrets-store.csi.x-k8s.io/v1alpha1\nkind: SecretProviderClass\n",
            &["2:7: error: spec: missing; write provider and parameters below it [VM0085]"],
        ),
        (
            &class_manifest("").replace("  provider: vault", "  parameters: {}"),
            &["4:1: error: spec.provider: missing; write vault or openbao [VM0085]"],
        ),
        (&class_manifest(""), &["4:1: error: spec.parameters: missing; write roleName and objects below it [VM0085]"]),
        (
            &class_manifest("  roleName: web\n  parameters:\n"),
            &[
                "6:3: error: spec.roleName: is unknown and ignored; move it below spec.parameters [VM0082]",
                "7:3: error: spec.parameters: is empty; write roleName and objects below it [VM0085]",
            ],
        ),
        (
            &class_manifest("  parameters: |\n    roleName: web\n"),
            &["6:3: error: spec.parameters: is text, not a mapping; write roleName and objects below it [VM0085]"],
        ),
        (
            &class_with_parameters("").replace("name: shop", "name: 123").replace("provider: vault", "provider: on"),
            &["5:3: error: spec.provider: is true or false, not text; put it in quotes [VM0085]"],
        ),
        (
            &class_with_parameters("").replace("name: shop", "name: 123"),
            &["3:12: error: metadata.name: is a number, not text; put it in quotes [VM0085]"],
        ),
        (
            &class_with_parameters("").replace("name: shop", "name: on"),
            &["3:12: error: metadata.name: is true or false, not text; put it in quotes [VM0085]"],
        ),
        (
            &class_manifest("  parameters: {objects: '[{objectName: a, secretPath: b}]'}\n")
                .replace("name: shop, ", ""),
            &[
                "3:1: error: metadata.name: missing; name the class [VM0085]",
                "6:3: error: roleName: missing; name the role of the auth mount to log in with [VM0080]",
            ],
        ),
        (
            &class_with_parameters("    vaultSkipTLSVerify: yes\n    audience: [a]\n"),
            &[
                "10:25: error: vaultSkipTLSVerify: is true or false, and the API server takes only text; put it in quotes [VM0085]",
                "10:25: error: vaultSkipTLSVerify: is \"yes\"; write true or false [VM0080]",
                "11:5: error: audience: is a list, and the API server takes only text; write one value [VM0085]",
            ],
        ),
        (
            &class_manifest("  parameters:\n    roleName: 1\n    objects:\n    - objectName: a\n"),
            &[
                "7:15: error: roleName: is a number, and the API server takes only text; put it in quotes [VM0085]",
                "8:5: error: objects: is a list, and the API server takes only text; write `objects: |`, and the list as text below it [VM0085]",
            ],
        ),
    ] {
        assert_findings(text, expected).await;
    }
}

#[tokio::test]
async fn invalid_parameters_and_objects_are_reported_as_by_mount() {
    assert_findings(
        &class_with_parameters("    vaultCACert: x\n    vaultAuthMountPath: a\n    openbaoKubernetesMountPath: b\n    vaultTLSClientCertPath: /c\n"),
        &[
            "10:18: error: vaultCACert: is no PEM text; to name a file use the parameter that ends in CACertPath [VM0080]",
            "11:25: error: openbaoKubernetesMountPath and vaultAuthMountPath: both are set, and both name the auth mount; remove one [VM0080]",
            "13:29: error: vaultTLSClientCertPath: is set without the one that ends in TLSClientKeyPath; set both or none [VM0080]",
        ],
    )
    .await;
    assert_findings(
        &class_with_parameters("    vaultAddress: vault:8200\n    vaultTLSServerName: https://vault\n"),
        &[
            "10:19: error: vaultAddress: \"vault:8200\" has no scheme; write https://host:port [VM0080]",
            "11:25: error: vaultTLSServerName: is neither a host name nor an IP address; write it without scheme and port [VM0080]",
        ],
    )
    .await;
    assert_findings(
        &class_with_objects(
            "- {objectName: a, secretPath: p, secretKey: k, format: env}\n- {objectName: a, secretPath: p}\n- {objectName: a/b, secretPath: p}\n- {objectName: ../c, secretPath: p}\n- {objectName: d, secretPath: p, filePermission: 999}\n-",
        ),
        &[
            "9:62: error: object \"a\": secretKey and format: each says which part of the secret it is; keep one [VM0080]",
            "10:22: error: object \"a\": objectName: is that of objects[0] and objects[1]; each needs its own [VM0073]",
            "11:22: error: object \"a/b\": objectName: \"a\" is the file of another object; choose another name [VM0073]",
            "12:22: error: object \"../c\": objectName: starts with `..`; choose another name [VM0074]",
            "13:56: error: object \"d\": filePermission: 999 is 01747, more than 0777 [VM0080]",
            "14:8: warning: objects[5]: is empty and ignored [VM0080]",
        ],
    )
    .await;
    assert_findings(
        &class_with_objects("- objectName: a\n  secretPath: @p"),
        &["10:21: error: objects: is not valid YAML: a value starts with a reserved character; put it in quotes [VM0081]"],
    )
    .await;
    assert_findings(
        &class_with_objects("a: b"),
        &["9:7: error: objects: is a mapping, not a list; start each object with `- objectName:` [VM0080]"],
    )
    .await;
}

#[tokio::test]
async fn unknown_name_is_error_and_unsupported_is_warning() {
    assert_findings(
        &format!(
            "{}  secretObject: []\n  \"a\\nb\": x\n",
            class_with_parameters("    vaultAdress: x\n    usePodIdentity: 'true'\n    auth: 5m\n")
        ),
        &[
            "10:5: error: vaultAdress: is unknown and would be ignored; did you mean vaultAddress? [VM0082]",
            "11:5: error: usePodIdentity: is no parameter and would be ignored; remove it [VM0082]",
            "12:5: warning: auth: is not supported yet by this version and is ignored [VM0082]",
            "13:3: error: spec.secretObject: is unknown and ignored; did you mean secretObjects? [VM0082]",
            "14:3: error: spec.a b: is unknown and ignored; remove it [VM0082]",
        ],
    )
    .await;
    assert_findings(
        &class_with_objects("- {objectName: a, secretPath: p, secretkey: k, wholly-new: 1, type: secret}\n- {name: b, path: p, key: k, mode: 0400}"),
        &[
            "9:40: error: object \"a\": secretkey: is unknown and would be ignored; did you mean secretKey? [VM0082]",
            "9:54: error: object \"a\": \"wholly-new\": is no field of an object and would be ignored; remove it [VM0082]",
            "9:69: warning: object \"a\": type: \"secret\" is not supported yet by this version and is ignored [VM0082]",
            "10:9: error: objects[1]: objectName: missing; name the file [VM0080]",
            "10:9: error: objects[1]: secretPath: missing; name the secret, as in secret/data/app [VM0080]",
            "10:10: error: objects[1]: name: is unknown and would be ignored; did you mean objectName? [VM0082]",
            "10:19: error: objects[1]: path: is unknown and would be ignored; did you mean secretPath? [VM0082]",
            "10:28: error: objects[1]: key: is unknown and would be ignored; did you mean secretKey? [VM0082]",
            "10:36: error: objects[1]: mode: is unknown and would be ignored; did you mean filePermission? [VM0082]",
        ],
    )
    .await;
}

#[tokio::test]
async fn secret_objects_must_name_files_of_the_class() {
    let objects = "- {objectName: tls.crt, secretPath: p}\n- {objectName: all, secretPath: p, secretKey: '*'}";
    assert_findings(
        &format!(
            "{}  secretObjects:\n  - secretName: s\n    type: Opaque\n    data:\n    - {{objectName: tls.crt, key: a}}\n    - {{objectName: all/x, key: b}}\n    - {{objectName: tls.cert, key: c}}\n    - {{objectName: all, key: d}}\n    - {{objectNam: tls.crt}}\n  - secretname: t\n    type: 5\n",
            class_with_objects(objects)
        ),
        &[
            "17:20: error: secretObjects[0].data[2].objectName: no object writes the file \"tls.cert\"; did you mean \"tls.crt\"? [VM0083]",
            "18:20: error: secretObjects[0].data[3].objectName: no object writes the file \"all\"; add one, or remove this [VM0083]",
            "19:7: error: secretObjects[0].data[4].objectName: missing; name a file of the class [VM0085]",
            "19:7: error: secretObjects[0].data[4].key: missing; name the key in the Secret [VM0085]",
            "19:8: error: secretObjects[0].data[4].objectNam: is unknown and ignored; did you mean objectName? [VM0082]",
            "20:5: error: secretObjects[1].secretname: is unknown and ignored; did you mean secretName? [VM0082]",
            "20:5: error: secretObjects[1].secretName: missing; name the Secret [VM0085]",
            "20:5: error: secretObjects[1].data: missing; list objectName and key of each file [VM0085]",
            "21:5: error: secretObjects[1].type: is a number, not text; put it in quotes [VM0085]",
        ],
    )
    .await;
    let any = class_with_objects("- {objectName: ., secretPath: p, secretKey: '*'}");
    assert_findings(
        &format!("{any}  secretObjects: [{{secretName: s, type: Opaque, data: [{{objectName: x, key: x}}]}}]\n"),
        &[],
    )
    .await;
}

#[tokio::test]
async fn secret_objects_invalid_secret_is_reported() {
    let one = |name: &str, kind: &str, keys: &[&str]| {
        let data: Vec<_> = keys.iter().map(|key| format!("{{objectName: a, key: {key}}}")).collect();
        format!("  - {{secretName: {name}, type: {kind}, data: [{}]}}\n", data.join(", "))
    };
    let secrets = [
        one("s", "Opaque", &["k", "k"]),
        one("s", "Opaque", &["K_1.a", "k y", "../x"]),
        one("My_Secret", "kubernetes.io/tls", &["tls.crt"]),
        one("x.y-1", "kubernetes.io/tls", &["tls.key", "tls.crt"]),
        one("z", "kubernetes.io/dockerconfigjson", &["config"]),
        one("other", "example.com/any", &["config"]),
    ];
    assert_findings(
        &format!("{}  secretObjects:\n{}", class_with_parameters(""), secrets.concat()),
        &[
            "11:88: error: secretObjects[0].data[1].key: appears twice, and one file would replace the other; choose another [VM0085]",
            "12:18: error: secretObjects[1].secretName: is also the name of secretObjects[0], and the driver creates only one of them; merge them [VM0085]",
            "12:92: error: secretObjects[1].data[1].key: \"k y\" is not a valid Secret key; write letters, digits, `-`, `_` and `.` [VM0085]",
            "12:119: error: secretObjects[1].data[2].key: \"../x\" is not a valid Secret key; write letters, digits, `-`, `_` and `.` [VM0085]",
            "13:18: error: secretObjects[2].secretName: \"My_Secret\" is not a valid Secret name; write lower-case letters, digits, `-` and `.` [VM0085]",
            "13:35: error: secretObjects[2].type: kubernetes.io/tls needs the key tls.key; add it to data [VM0085]",
            "15:27: error: secretObjects[4].type: kubernetes.io/dockerconfigjson needs the key .dockerconfigjson; add it to data [VM0085]",
        ],
    )
    .await;
}

#[tokio::test]
async fn volume_attributes_overriding_class_are_warned_of() {
    let attributes = "readOnly: true, volumeAttributes: {secretProviderClass: shop,\n roleName: other,\n vaultKubernetesMountPath: k,\n vaultNamespce: x,\n objects: '[{objectName: a, secretPath: /}]'}";
    let text = format!("{}---\n{}", class_with_parameters("    vaultAuthMountPath: a\n"), pod_manifest(attributes));
    let subject = "Pod \"web\": volume \"s\": ";
    let warning = |line, name, does| {
        format!(
            "{line}:2: warning: {subject}{name}: {does} class \"shop\" for this pod; move it to a separate class [VM0084]"
        )
    };
    let mut expected = vec![
        warning(20, "roleName", "replaces that of"),
        warning(21, "vaultKubernetesMountPath", "adds to"),
        format!(
            "21:28: error: {subject}vaultKubernetesMountPath and vaultAuthMountPath: both are set, and both name the auth mount; remove one [VM0080]"
        ),
        format!(
            "22:2: error: {subject}vaultNamespce: is unknown and would be ignored; did you mean vaultNamespace? [VM0082]"
        ),
        warning(22, "vaultNamespce", "adds to"),
        warning(23, "objects", "replaces that of"),
        format!(
            "23:11: error: {subject}object \"a\": secretPath: names no secret; write mount and path, as in secret/data/app [VM0080]"
        ),
    ];
    assert_findings(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // Without its class, only findings that certainly concern vaultmount are reported.
    expected = [8, 9, 11]
        .map(|line| {
            (line + 1, ["roleName", "vaultKubernetesMountPath", "objects"][if line == 11 { 2 } else { line - 8 }])
        })
        .map(|(line, name)| warning(line, name, "adds to"))
        .to_vec();
    assert_findings(&pod_manifest(attributes), &expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn token_in_manifest_is_an_error() {
    assert_findings(
        &class_with_parameters("    csi.storage.k8s.io/serviceAccount.tokens: '{}'\n"),
        &["10:5: error: csi.storage.k8s.io/serviceAccount.tokens: tokens do not belong in a manifest; remove it, kubelet passes its own [VM0034]"],
    )
    .await;
}

#[tokio::test]
async fn class_errors_are_not_repeated_for_its_pods() {
    let attributes = "readOnly: true, volumeAttributes: {secretProviderClass: shop, audience: x}";
    let found =
        findings_of(&format!("{}---\n{}", class_with_parameters("    vaultCACert: x\n"), pod_manifest(attributes)))
            .await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("10:18: error: vaultCACert: ") && found[1].contains(": warning: Pod \"web\""),
        "{found:?}"
    );
}

#[tokio::test]
async fn volume_rejected_by_driver_is_reported() {
    for (csi, expected) in [
        ("readOnly: true, nodePublishSecretRef: {name: x}, volumeAttributes: {secretProviderClass: shop}", &[][..]),
        (
            "volumeAttributes: {secretProviderClass: shop}",
            &["7:5: error: Pod \"web\": volume \"s\": readOnly: is not true; the driver rejects the volume [VM0085]"],
        ),
        (
            "readOnly: 'true', volumeAttributes: {roleName: x}",
            &[
                "8:11: error: Pod \"web\": volume \"s\": readOnly: is not true; the driver rejects the volume [VM0085]",
                "8:19: error: Pod \"web\": volume \"s\": volumeAttributes.secretProviderClass: missing; name the class [VM0085]",
            ],
        ),
        (
            "readOnly: true, volumeAttributes: {secretProviderClass: 5}",
            &[
                "8:36: error: Pod \"web\": volume \"s\": volumeAttributes.secretProviderClass: is a number, not text; put it in quotes [VM0085]",
            ],
        ),
        (
            "readOnly: true",
            &[
                "7:5: error: Pod \"web\": volume \"s\": volumeAttributes.secretProviderClass: missing; name the class [VM0085]",
            ],
        ),
    ] {
        assert_findings(&pod_manifest(csi), expected).await;
    }
}

#[tokio::test]
async fn missing_class_with_similar_name_is_suggested() {
    let using = |name: &str| {
        let attributes = format!("readOnly: true, volumeAttributes: {{secretProviderClass: {name}}}");
        format!("{}---\n{}", class_with_parameters(""), pod_manifest(&attributes))
    };
    let found = "18:57: warning: Pod \"web\": volume \"s\": volumeAttributes.secretProviderClass: class \"shpo\" is not among the files; did you mean \"shop\"? [VM0085]";
    assert_findings(&using("shpo"), &[found]).await;
    assert_findings(&using("shpo").replace("name: shop, namespace: shop", "name: shop, namespace: test"), &[]).await;
    for other in ["shed", "shop1", "payments"] {
        assert_findings(&using(other), &[]).await;
    }
}

#[tokio::test]
async fn volumes_of_every_workload_kind_are_validated() {
    let volumes = "{volumes: [{name: s, csi: {driver: secrets-store.csi.k8s.io}}]}";
    for (version, kind, spec) in [
        ("apps/v1", "Deployment", "spec: {template: {spec: POD}}"),
        ("apps/v1", "StatefulSet", "spec: {template: {spec: POD}}"),
        ("apps/v1", "DaemonSet", "spec: {template: {spec: POD}}"),
        ("apps/v1", "ReplicaSet", "spec: {template: {spec: POD}}"),
        ("v1", "ReplicationController", "spec: {template: {spec: POD}}"),
        ("batch/v1", "Job", "spec: {template: {spec: POD}}"),
        ("batch/v1", "CronJob", "spec: {jobTemplate: {spec: {template: {spec: POD}}}}"),
        ("v1", "PodTemplate", "template: {spec: POD}"),
        ("v1", "Pod", "spec: POD"),
    ] {
        let text =
            format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n{}\n", spec.replace("POD", volumes));
        let found = findings_of(&text).await;
        assert_eq!(found.len(), 2, "{kind}: {found:?}");
        assert!(found[0].contains(&format!("{kind} \"x\": volume \"s\": readOnly")), "{found:?}");
    }
}

#[tokio::test]
async fn class_in_other_file_is_found_and_duplicate_is_warned() {
    let attributes = "readOnly: true, volumeAttributes: {secretProviderClass: shop, foo: x}";
    let good = class_with_parameters("");
    let project = Project::with_files(&[
        ("a.yaml", &pod_manifest(attributes)),
        ("b.yaml", &good),
        ("c.yaml", &good),
        ("d.yaml", &good.replace("namespace: shop", "namespace: test")),
    ]);
    let run = project.run(&["."]).await;
    assert_eq!(
        run.findings(),
        [
            "a.yaml:8:63: error: Pod \"web\": volume \"s\": foo: is no parameter and would be ignored; remove it [VM0082]",
            "a.yaml:8:63: warning: Pod \"web\": volume \"s\": foo: adds to class \"shop\" for this pod; move it to a separate class [VM0084]",
            "c.yaml:3:18: warning: class \"shop\" in namespace \"shop\" is also at b.yaml:2; remove one if both are for the same cluster [VM0085]",
        ]
    );
    assert!(run.stdout.ends_with("1 error, 2 warnings in 3 classes, 1 pod (4 files)\n"), "{}", run.stdout);
}

#[tokio::test]
async fn duplicate_class_in_one_file_is_an_error() {
    let one = class_with_parameters("");
    let line = one.lines().count() + 4;
    let twice =
        format!("{line}:18: error: class \"shop\" in namespace \"shop\" is also at a.yaml:2; remove one [VM0085]");
    assert_findings(&format!("{one}---\n{one}"), &[&twice]).await;
    // The driver uses one class of each name, in no defined order. The owner of both classes must resolve that.
    let azure = one.replace("provider: vault", "provider: azure");
    let used = pod_manifest("readOnly: true, volumeAttributes: {secretProviderClass: shop, vaultAddres: x}");
    for texts in [[&azure, &azure, &one], [&one, &azure, &azure], [&azure, &one, &azure]] {
        let found = findings_of(&format!("{}---\n{}---\n{}---\n{used}", texts[0], texts[1], texts[2])).await;
        assert!(found.len() == 2 && found.iter().all(|line| line.contains("vaultAddres: ")), "{found:?}");
    }
}

#[tokio::test]
async fn other_providers_and_kinds_are_ignored() {
    let azure = class_with_parameters("    usePodIdentity: 'true'\n").replace("provider: vault", "provider: azure");
    let user = pod_manifest("readOnly: true, volumeAttributes: {secretProviderClass: shop, roleName: x}");
    let other = "apiVersion: example.com/v1\nkind: SecretProviderClass\nspec: 5\n---\n- just\n- a list\n---\ntext\n---\n!custom {a: !Ref b, {c: d}: e}\n";
    assert_findings(&format!("{azure}---\n{user}---\n{other}"), &[]).await;
}
