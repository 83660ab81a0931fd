//! Tests of policy file errors, and of the fields in the schema and the docs.

use super::{
    super::{rules::PolicySetting, tests::POLICY},
    *,
};
use crate::yaml::{
    Budget,
    node::{self, Offset},
};

fn parse_text(text: &str, file: &str) -> (Policy, Vec<PolicyError>) {
    parse(&node::parse(text, Offset::default(), Budget::POLICY).unwrap(), file, false)
}

/// Returns the errors of a policy text, one line each.
fn errors_of(text: &str) -> Vec<String> {
    let errors = parse_text(text, "policy.yaml").1.into_iter();
    errors.map(|m| format!("{}:{}: {}", m.position.line, m.position.column, m.problem)).collect()
}

#[test]
fn policy_file_error_has_position_and_problem() {
    for (text, expected) in [
        ("kind: Policy", "1:1: apiVersion: missing; write apiVersion: vaultmount/v1"),
        ("apiVersion: vaultmount/v2\nkind: Policy", "1:13: apiVersion: is not vaultmount/v1"),
        ("- a", "1:1: is a list, not a mapping"),
        ("endpoint: {}", "1:1: endpoint: is unknown; did you mean endpoints?"),
        ("endpoints: [a]", "endpoints: is a list; write a mapping of names"),
        ("endpoints: {default: {address: \"https://a\"}}", "endpoints.default: is reserved for the server of flags"),
        ("endpoints: {\"a b\": {address: \"https://a\"}}", "a name is 1 to 63 letters"),
        ("endpoints:\n  a: {}", "2:3: endpoints.a.address: missing"),
        ("endpoints: {a: {address: \"vault:8200\"}}", "endpoints.a.address: \"vault:8200\" "),
        ("endpoints: {a: {address: \"https://me:hunter2@a\"}}", "endpoints.a.address: carries a user name"),
        ("endpoints: {a: {address: \"https://a\", authMount: auth/kubernetes}}", "authMount: write only the path"),
        (
            "endpoints: {a: {address: \"https://a\", adress: x}}",
            "endpoints.a.adress: is unknown; did you mean address?",
        ),
        ("endpoints: {a: {address: \"https://a\", tls: {caCertPath: ca.pem}}}", "caCertPath: is not an absolute path"),
        ("endpoints: {a: {address: \"https://a\", tls: {caCert: x}}}", "caCert: is not a PEM certificate"),
        (
            "endpoints: {a: {address: \"https://a\", tls: {caCertPath: /a, caDirectory: /b}}}",
            "caDirectory: another field already sets the trusted authority",
        ),
        (
            "endpoints: {a: {address: \"https://a\", tls: {clientKeyPath: /k}}}",
            "clientKeyPath: requires clientCertPath",
        ),
        ("endpoints: {a: {address: \"https://a\", tls: {serverName: \"a b\"}}}", "serverName: is neither"),
        (
            "endpoints: {a: {address: \"https://a\", tls: {skipVerify: maybe}}}",
            "skipVerify: is text; write true or false",
        ),
        ("rules: [{namespaces: [a], skipVerify: yes}]", "rules[0].skipVerify: is text; write true or false"),
        ("endpoints: {a: {address: \"https://a\", tls: {skipVerify: y}}}", "skipVerify: is text; write true or false"),
        ("rules: {a: b}", "rules: is a mapping; write a list"),
        ("rules: [{}]", "rules[0].namespaces: missing"),
        ("rules: [{namespaces: shop}]", "rules[0].namespaces: is text; write a list"),
        ("rules: [{namespaces: [1]}]", "rules[0].namespaces: an item is a number"),
        ("rules: [{namespaces: [a]}, {namespaces: [b, a]}]", "\"a\" is already in rules[0]"),
        ("rules: [{namespaces: [\"*\"]}, {namespaces: [b]}]", "\"b\" is already in rules[0]"),
        ("rules: [{namespaces: [\"team-*\"]}, {namespaces: [team-a]}]", "\"team-a\" is already in rules[0]"),
        ("rules: [{namespaces: [a], endpoints: [prod]}]", "endpoint \"prod\" does not exist"),
        (
            "endpoints: {prod: {address: \"https://a\"}}\nrules: [{namespaces: [a], endpoints: [prd]}]",
            "endpoint \"prd\" does not exist; did you mean prod?",
        ),
        ("rules: [{namespaces: [a], addresses: [\"vault\"]}]", "rules[0].addresses: \"vault\" has no scheme"),
        ("rules: [{namespaces: [a], certificateFiles: [tls/*]}]", "\"tls/*\" is not an absolute path"),
        ("rules: [{namespaces: [a], skipVerify: 1}]", "skipVerify: is a number"),
        ("rules: [{namespaces: [a], authMount: [x]}]", "authMount: is unknown; did you mean authMounts?"),
        ("rules: [{namespaces: [\"team-*\"]}, {namespaces: [\"team-a*\"]}]", "\"team-a*\" is already in rules[0]"),
        ("rules: [{namespaces: [Shop]}]", "\"Shop\" is not a namespace"),
        ("rules: [{namespaces: [1, Shop]}]", "1:26: rules[0].namespaces: \"Shop\" is not a namespace"),
        ("rules: [{namespaces: [a/b]}]", "\"a/b\" is not a namespace"),
        ("rules: [{namespaces: [a], endpoints: [\"prd*\"]}]", "endpoint \"prd*\" does not exist"),
        ("rules: [{namespaces: [a], authMounts: [auth/kubernetes]}]", "authMounts: write only the path"),
        ("rules: [{namespaces: [a], authMounts: [/]}]", "authMounts: write only the path"),
        ("rules: [{namespaces: [a], vaultNamespaces: [a/../b]}]", "contains a `.` or `..` part"),
        ("rules: [{namespaces: [a], certificateFiles: [/a/../b]}]", "is not an absolute path without"),
        ("rules: [{namespaces: [a], audiences: [\" vault\"]}]", "begins or ends with a space"),
        ("rules: [{namespaces: [a], addresses: [\"https://a/team\"]}]", "has a path, which would be ignored"),
        ("rules: [{namespaces: [a], addresses: [\"*\"]}]", "addresses: \"*\" has no scheme; write https://host:port"),
        ("endpoints: {a: {address: \"https://a\", namespace: \"x/../y\"}}", "endpoints.a.namespace: contains"),
        ("endpoints: {a: {address: \"https://a/x/%2E%2e\"}}", "has a `.` or `..` part"),
    ] {
        let errors = errors_of(text).join("\n");
        assert!(errors.contains(expected), "{text}: {errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    let (policy, errors) = parse_text(POLICY, "policy.yaml");
    assert!(errors.is_empty() && policy.rules.len() == 7, "{errors:?}");
}

#[test]
fn policy_example_in_docs_is_shipped_and_valid() {
    let (example, page) =
        (include_str!("../../../deploy/examples/policy.yaml"), include_str!("../../../docs/policy.md"));
    assert!(page.contains(example), "docs/policy.md does not show deploy/examples/policy.yaml");
    assert_eq!(errors_of(example), [""; 0]);
}

#[test]
fn policy_schema_and_docs_have_exactly_the_known_fields() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../../deploy/policy.schema.json")).unwrap();
    let page = include_str!("../../../docs/policy.md");
    for (place, fields) in POLICY_FIELDS {
        let object = match place {
            "" => &schema,
            "endpoints." => &schema["$defs"]["endpoint"],
            "endpoints.tls." => &schema["$defs"]["tls"],
            _ => &schema["$defs"]["rule"],
        };
        let mut has: Vec<&str> = object["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut fields = fields.to_vec();
        has.sort_unstable();
        fields.sort_unstable();
        assert_eq!(has, fields, "{place}");
        for field in fields {
            let name = if place == "endpoints.tls." { format!("`tls.{field}`") } else { format!("`{field}`") };
            let is_documented = page.contains(&name) || matches!(field, "apiVersion" | "kind" | "tls");
            assert!(is_documented, "docs/policy.md does not document {name}");
        }
    }
}

/// Returns true if the shipped schema accepts a policy file.
fn matches_schema(text: &str) -> bool {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../../deploy/policy.schema.json")).unwrap();
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("policy.json", schema).unwrap();
    let index = compiler.compile("policy.json", &mut schemas).unwrap();
    let policy: serde_json::Value = crate::yaml::parse(text, Budget::POLICY).unwrap();
    schemas.validate(&policy, index).is_ok()
}

#[test]
fn policy_schema_agrees_with_parser() {
    let header = "apiVersion: vaultmount/v1\nkind: Policy\n";
    for good in [
        POLICY,
        include_str!("../../../deploy/examples/policy.yaml"),
        header,
        "apiVersion: vaultmount/v1\nkind: Policy\nendpoints:\nrules:",
    ] {
        assert!(errors_of(good).is_empty() && matches_schema(good), "{good}");
    }
    for good in [
        "rules: [{namespaces: [on], skipVerify: True}, {namespaces: [no], skipVerify: FALSE}]",
        "rules: [{namespaces: [a], endpoints: , vaultNamespaces: [a.b, /, /a/], authMounts: [/jwt/, auth, \"*\"]}]",
        "rules: [{namespaces: [a], certificateFiles: [/, /a.b, \"**\"], addresses: [\"unix:///run/v1\", \"https://v1/\"]}]",
        "endpoints: {a: {address: \"https://v1\", namespace: /, authMount: }}",
        "endpoints: {a: {address: \"unix:///run/a@b/v1\", authMount: /a/b/, tls: }}",
        "endpoints: {a: {address: \"HTTPS://[::1]:8200/v1/x/\", tls: {caCertPath: /x, caDirectory: null}}}",
        "endpoints: {a: {address: \"https://a\", tls: {caCert: , caDirectory: /x, serverName: \"::1\"}}}",
        "endpoints: {a: {address: \"https://a\", tls: {clientCertPath: , clientKeyPath: }}}",
        "endpoints: {a: {address: \"https://a\", tls: {clientCertPath: null}}}",
        "endpoints: {a: {address: \"https://a\", tls: {clientCertPath: /c, clientKeyPath: /k}}}",
        "endpoints: {a: {address: \"https://a\", tls: {caCert: \"-----BEGIN CERTIFICATE-----\\n\", skipVerify: }}}",
    ] {
        let good = format!("{header}{good}");
        assert!(errors_of(&good).is_empty() && matches_schema(&good), "{good}: {:?}", errors_of(&good));
    }
    for bad in [
        "kind: Policy",
        "- a",
        "endpoint: {}",
        "endpoints: [a]",
        "endpoints: {default: {address: \"https://a\"}}",
        "endpoints: {\"a b\": {address: \"https://a\"}}",
        "endpoints: {a: {}}",
        "endpoints: {a: {address: \"vault:8200\"}}",
        "endpoints: {a: {address: \"https://a\", adress: x}}",
        "endpoints: {a: {address: \"https://a\", tls: {caCertPath: ca.pem}}}",
        "endpoints: {a: {address: \"https://a\", tls: {clientKeyPath: /k}}}",
        "endpoints: {a: {address: \"https://a\", tls: {skipVerify: maybe}}}",
        "rules: {a: b}",
        "rules: [{}]",
        "rules: [{namespaces: shop}]",
        "rules: [{namespaces: [1]}]",
        "rules: [{namespaces: [a], skipVerify: 1}]",
        "rules: [{namespaces: [a], skipVerify: yes}]",
        "rules: [{namespaces: [a], skipVerify: Off}]",
        "endpoints: {a: {address: \"https://a\", tls: {skipVerify: y}}}",
        "rules: [{namespaces: [a], authMount: [x]}]",
        "rules: [{namespaces: [Shop]}]",
        "rules: [{namespaces: [a], addresses: [\"*\"]}]",
        "rules: [{namespaces: [a], addresses: [\"https://a/team\"]}]",
        "rules: [{namespaces: [a], certificateFiles: [tls/*]}]",
        "rules: [{namespaces: [a], audiences: [\" vault\"]}]",
        "endpoints: {a: {address: \"https://a\", namespace: \"\"}}",
        "endpoints: {a: {address: \"https://a\", authMount: auth/kubernetes}}",
        "endpoints: {a: {address: \"https://me:pw@a\"}}",
        "endpoints: {a: {address: \"https://a\", tls: {caCertPath: /a, caDirectory: /b}}}",
        "endpoints: {a: {address: \"https://a\", tls: {caCertPath: /a, caCert: \"-----BEGIN CERTIFICATE-----\"}}}",
        "endpoints: {a: {address: \"https://a\", tls: {caDirectory: /a, caCert: \"-----BEGIN CERTIFICATE-----\"}}}",
        "endpoints: {a: {address: \"https://a\", tls: {caCert: x}}}",
        "endpoints: {a: {address: \"https://a\", tls: {caCertPath: \"/a \"}}}",
        "endpoints: {a: {address: \"https://a\", tls: {clientCertPath: /c, clientKeyPath: null}}}",
        "endpoints: {a: {address: \"https://a\", tls: {clientCertPath: , clientKeyPath: /k}}}",
        "endpoints: {a: {address: \"https://a\", tls: {serverName: \"\"}}}",
        "endpoints: {a: {address: \"https://a\", tls: {serverName: \"a b\"}}}",
        "endpoints: {a: {address: \"https://a/v1\"}}",
        "endpoints: {a: {address: \"https://a/x/v1/\"}}",
        "endpoints: {a: {address: \"https://a?x\"}}",
        "endpoints: {a: {address: \"https://a/x#y\"}}",
        "endpoints: {a: {address: \"https://a/x/../y\"}}",
        "endpoints: {a: {address: \"unix:///run/./x\"}}",
        "endpoints: {a: {address: \"unix://run/x\"}}",
        "endpoints: {a: {address: \"https://a\", namespace: x/../y}}",
        "endpoints: {a: {address: \"https://a\", namespace: \"x \"}}",
        "endpoints: {a: {address: \"https://a\", authMount: /}}",
        "endpoints: {a: {address: \"https://a\", authMount: a//b}}",
        "endpoints: {a: {address: \"https://a\", authMount: a/./b}}",
        "rules: [{namespaces: [a], vaultNamespaces: [a/..]}]",
        "rules: [{namespaces: [a], vaultNamespaces: [1]}]",
        "rules: [{namespaces: [a], authMounts: [auth/x]}]",
        "rules: [{namespaces: [a], authMounts: [/]}]",
        "rules: [{namespaces: [a], authMounts: [x/../y]}]",
        "rules: [{namespaces: [a], certificateFiles: [/a/../b]}]",
        "rules: [{namespaces: [a], certificateFiles: [\"/a \"]}]",
        "rules: [{namespaces: [a], addresses: [\"https://a?x\"]}]",
        "rules: [{namespaces: [a], addresses: [\"unix:///run/../*.sock\"]}]",
    ] {
        let bad = if bad.starts_with(['k', '-']) { bad.to_owned() } else { format!("{header}{bad}") };
        assert!(!errors_of(&bad).is_empty() && !matches_schema(&bad), "{bad}: {:?}", errors_of(&bad));
    }
}

#[test]
fn policy_docs_show_the_denial_message() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (page, text) = (include_str!("../../../docs/policy.md"), include_str!("../../../deploy/examples/policy.yaml"));
    let (policy, _) = parse_text(text, "/policy/policy.yaml");
    let setting = PolicySetting { value: "ldap", default: "kubernetes", is_chosen: true };
    let denial = policy.limits_for("shop").check_auth_mount(setting).unwrap_err().error.to_string();
    assert!(words(page).contains(&denial), "docs/policy.md does not show: {denial}");
}
