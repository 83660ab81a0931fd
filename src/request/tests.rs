use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::error::{Cause, Code};

const OBJECTS: &str = "- {objectName: a, secretPath: secret/data/a, secretKey: pass}";

/// A class's parameters, with the driver's additions.
struct ClassBuilder(BTreeMap<String, String>);

impl ClassBuilder {
    fn new() -> Self {
        let mut map = BTreeMap::new();
        for (name, value) in [
            ("roleName", "app"),
            ("objects", OBJECTS),
            ("secretProviderClass", "db"),
            ("csi.storage.k8s.io/pod.name", "web-0"),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("csi.storage.k8s.io/pod.uid", "u-1"),
            ("csi.storage.k8s.io/serviceAccount.name", "web"),
            ("csi.storage.k8s.io/serviceAccount.tokens", r#"{"vault":{"token":"t","expirationTimestamp":"x"}}"#),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ] {
            map.insert(name.to_owned(), value.to_owned());
        }
        Self(map)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    fn attributes(&self) -> String {
        serde_json::to_string(&self.0).unwrap()
    }

    fn parse(&self) -> Result<MountSpec, Error> {
        parse_raw(&self.attributes(), "null", "/pods/u-1/mount", "420")
    }
}

fn parse_raw(attributes: &str, secrets: &str, target_path: &str, permission: &str) -> Result<MountSpec, Error> {
    parse(&RawRequest { attributes, secrets, target_path, permission })
}

#[test]
fn mount_request_is_parsed_into_mount_spec() {
    let spec = ClassBuilder::new().with("vaultNamespace", "team/").with("audience", "sts").parse().unwrap();
    assert_eq!((spec.class.role.as_str(), spec.class_name.as_str()), ("app", "db"));
    assert_eq!(spec.class.audience.as_deref(), Some("sts"));
    assert_eq!(spec.target_path, "/pods/u-1/mount");
    assert_eq!(spec.pod.service_account, "web");
    assert_eq!(spec.class.choice, ServerChoice { namespace: Some("team".into()), ..ServerChoice::default() });
    assert_eq!(spec.class.objects[0].file_spec.mode, 0o644);
    assert_eq!(spec.tokens.for_audience("vault").unwrap().expose(), "t");
    assert_eq!(spec.class.warnings, Vec::<String>::new());
}

#[test]
fn request_without_class_name_is_accepted() {
    assert_eq!(ClassBuilder::new().without("secretProviderClass").parse().unwrap().class_name, "");
}

#[test]
fn invalid_request_error_lists_all_mistakes() {
    let class = ClassBuilder::new()
        .without("roleName")
        .without("csi.storage.k8s.io/pod.uid")
        .with("vaultSkipTLSVerify", "maybe")
        .with("vaultAuthMountPath", "a")
        .with("baoKubernetesMountPath", "b")
        .with("objects", "- {objectName: a, secretPath: p, method: X}")
        .with("csi.storage.k8s.io/serviceAccount.tokens", "hunter2");
    let error = parse_raw(&class.attributes(), "hunter2", "", "0644").unwrap_err();
    assert_eq!(error.cause(), Cause::InvalidRequest);
    let message = error.to_string();
    for expected in [
        "SecretProviderClass \"db\" has 9 mistakes: ",
        "target path: missing",
        "permission: is \"0644\"",
        "pod.uid missing",
        "roleName: missing",
        "vaultSkipTLSVerify: is \"maybe\"",
        "baoKubernetesMountPath and vaultAuthMountPath: both are set",
        "object \"a\": method: \"X\"",
        "serviceAccount.tokens: is no JSON object",
        "the driver's secrets: are no JSON object",
    ] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
    assert!(!message.contains("hunter2") && !message.contains('\n') && message.len() < 2000, "{message}");
}

#[test]
fn class_warnings_list_unknown_parameters_and_fields() {
    let objects = "- {objectName: a, secretPath: p, secretkey: x}";
    let spec =
        ClassBuilder::new().with("objects", objects).with("vaultAdress", "x").with("auth", "5m").parse().unwrap();
    assert_eq!(
        spec.class.warnings,
        [
            "auth: is not supported yet by this version and is ignored",
            r#"unknown and ignored: object "a" field "secretkey" (did you mean secretKey?), parameter "vaultAdress" (did you mean vaultAddress?)"#
        ]
    );
}

#[test]
fn missing_parameter_error_includes_typo_suggestions() {
    let objects = "- {objectName: a, secretpath: p, secretKey: x, zzz: 1}";
    let said =
        ClassBuilder::new().with("objects", objects).without("roleName").with("rolename", "x").parse().unwrap_err();
    let said = said.to_string();
    let slips = r#"; unknown and ignored: object "a" field "secretpath" (did you mean secretPath?), parameter "rolename" (did you mean roleName?)"#;
    assert!(said.contains(r#"object "a": secretPath: missing"#) && said.contains(slips), "{said}");
    assert!(!said.contains("zzz"), "{said}");
}

#[test]
fn driver_permission_must_be_a_decimal_number() {
    let attributes = ClassBuilder::new().attributes();
    for (json, mode) in [("420", 0o644), ("0", 0), ("511", 0o777), (" 256 ", 0o400)] {
        assert_eq!(parse_raw(&attributes, "", "/x", json).unwrap().class.objects[0].file_spec.mode, mode, "{json}");
    }
    for json in ["", "null", "0644", "512", "-1", "4.2e2", "\"420\"", "420x", "[420]", "99999999999"] {
        assert!(parse_raw(&attributes, "", "/x", json).unwrap_err().to_string().contains("permission: is "), "{json}");
    }
}

#[test]
fn class_with_256_objects_and_1_mib_secrets_is_accepted() {
    let objects: Vec<String> =
        (0..256).map(|i| format!("- {{objectName: d/o{i}, secretPath: secret/data/{i}}}")).collect();
    let spec = ClassBuilder::new().with("objects", &objects.join("\n")).parse().unwrap();
    assert_eq!(spec.class.objects.len(), 256);
    let secrets = serde_json::to_string(&BTreeMap::from([("csr", "x".repeat(1 << 20))])).unwrap();
    assert!(parse_raw(&ClassBuilder::new().attributes(), &secrets, "/x", "420").is_ok());
}

#[test]
fn mount_spec_debug_redacts_arguments_and_tokens() {
    let objects = "- {objectName: a, secretPath: p?x=hunter2, method: PUT, secretArgs: {pin: hunter2}}";
    let tokens = r#"{"vault":{"token":"hunter2"}}"#;
    let class = ClassBuilder::new().with("objects", objects).with("csi.storage.k8s.io/serviceAccount.tokens", tokens);
    assert!(!format!("{:?}", class.parse().unwrap()).contains("hunter2"));
}

/// Text that usually looks like a class's objects.
fn objects_strategy() -> impl Strategy<Value = String> {
    let word = "[a-z*./~0-9:'\"&<!|>{}\\[\\]# \t-]{0,12}";
    let line = (
        proptest::sample::select(vec!["", "- ", "  ", "    ", "  - ", "- &a ", "  <<: *a"]),
        proptest::sample::select(vec![
            "",
            "objectName: ",
            "secretPath: ",
            "secretKey: ",
            "method: ",
            "secretArgs: ",
            "filePermission: ",
            "encoding: ",
            "secretPointer: ",
            "format: ",
            "optional: ",
            "type: ",
            "x: ",
            "*a ",
        ]),
        word,
    );
    proptest::collection::vec(line, 0..12)
        .prop_map(|lines| lines.iter().flat_map(|(indent, field, value)| [*indent, field, value, "\n"]).collect())
}

proptest! {
    #[test]
    fn mount_request_of_arbitrary_text_does_not_panic(attributes in ".*", objects in ".*", secrets in ".*", target in ".*", permission in ".*") {
        let _ = parse_raw(&attributes, &secrets, &target, &permission);
        let _ = parse_raw(&ClassBuilder::new().with("objects", &objects).attributes(), &secrets, "/x", "420");
    }

    #[test]
    fn parameter_of_arbitrary_value_does_not_panic(suffix in proptest::sample::select(known_names::PREFIXED_PARAMETERS.to_vec()), value in ".*") {
        let _ = ClassBuilder::new().with(&format!("vault{suffix}"), &value).parse();
    }

    #[test]
    fn arbitrary_objects_are_rejected_or_valid(objects in objects_strategy()) {
        match ClassBuilder::new().with("objects", &objects).parse() {
            Ok(spec) => {
                prop_assert!(!spec.class.objects.is_empty());
                for object in &spec.class.objects {
                    let file_spec = &object.file_spec;
                    prop_assert!(file_spec.mode <= 0o777 && !file_spec.path.is_empty());
                    prop_assert!(!file_spec.path.starts_with(['/']) && !file_spec.path.starts_with(".."));
                    prop_assert!(object.request.path.split('/').all(|part| !matches!(part, "" | "." | "..")));
                    let config: Result<serde_json::Value, _> = serde_json::from_str(object.version_config.expose());
                    prop_assert!(config.is_ok());
                }
            }
            Err(error) => {
                let said = error.to_string();
                prop_assert!(error.cause().code() == Code::InvalidArgument && !said.contains('\n'), "{}", said);
            }
        }
    }
}
