//! A policy file's mistakes, and what the schema and the docs say of its fields.

use super::{
    super::{rules::Word, tests::POLICY},
    *,
};
use crate::yaml::{
    Budget,
    node::{self, Offset},
};

fn read(text: &str, file: &str) -> (Policy, Vec<Mistake>) {
    parse(&node::read(text, Offset::default(), Budget::POLICY).unwrap(), file, false)
}

/// The mistakes of a text, one line each.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = read(text, "policy.yaml").1.into_iter();
    mistakes.map(|m| format!("{}:{}: {}", m.at.line, m.at.column, m.what)).collect()
}

#[test]
fn every_mistake_of_a_policy_is_told_with_its_place() {
    for (text, says) in [
        ("kind: Policy", "1:1: apiVersion: missing; write apiVersion: vaultmount/v1"),
        ("apiVersion: vaultmount/v2\nkind: Policy", "1:13: apiVersion: is not vaultmount/v1"),
        ("- a", "1:1: is a list, not a mapping"),
        ("endpoint: {}", "1:1: endpoint: is unknown; did you mean endpoints?"),
        ("endpoints: [a]", "endpoints: is a list; write a mapping of names"),
        ("endpoints: {default: {address: \"https://a\"}}", "endpoints.default: is the server of flags"),
        ("endpoints: {\"a b\": {address: \"https://a\"}}", "a name is 1 to 63 letters"),
        ("endpoints:\n  a: {}", "2:3: endpoints.a.address: missing"),
        ("endpoints: {a: {address: \"vault:8200\"}}", "endpoints.a.address: \"vault:8200\" "),
        ("endpoints: {a: {address: \"https://me:hunter2@a\"}}", "endpoints.a.address: carries a user name"),
        ("endpoints: {a: {address: \"https://a\", authMount: auth/kubernetes}}", "authMount: write the path alone"),
        (
            "endpoints: {a: {address: \"https://a\", adress: x}}",
            "endpoints.a.adress: is unknown; did you mean address?",
        ),
        ("endpoints: {a: {address: \"https://a\", tls: {caCertPath: ca.pem}}}", "caCertPath: is no absolute path"),
        ("endpoints: {a: {address: \"https://a\", tls: {caCert: x}}}", "caCert: is no PEM certificate"),
        (
            "endpoints: {a: {address: \"https://a\", tls: {caCertPath: /a, caDirectory: /b}}}",
            "caDirectory: another one says which authority",
        ),
        ("endpoints: {a: {address: \"https://a\", tls: {clientKeyPath: /k}}}", "is of no use without clientCertPath"),
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
        ("rules: [{namespaces: [a]}, {namespaces: [b, a]}]", "\"a\" is named by rules[0] before"),
        ("rules: [{namespaces: [\"*\"]}, {namespaces: [b]}]", "\"b\" is named by rules[0] before"),
        ("rules: [{namespaces: [\"team-*\"]}, {namespaces: [team-a]}]", "\"team-a\" is named by rules[0] before"),
        ("rules: [{namespaces: [a], endpoints: [prod]}]", "there is no endpoint \"prod\""),
        (
            "endpoints: {prod: {address: \"https://a\"}}\nrules: [{namespaces: [a], endpoints: [prd]}]",
            "there is no endpoint \"prd\"; did you mean prod?",
        ),
        ("rules: [{namespaces: [a], addresses: [\"vault\"]}]", "rules[0].addresses: \"vault\" has no scheme"),
        ("rules: [{namespaces: [a], certificateFiles: [tls/*]}]", "\"tls/*\" is no absolute path"),
        ("rules: [{namespaces: [a], skipVerify: 1}]", "skipVerify: is a number"),
        ("rules: [{namespaces: [a], authMount: [x]}]", "authMount: is unknown; did you mean authMounts?"),
        ("rules: [{namespaces: [\"team-*\"]}, {namespaces: [\"team-a*\"]}]", "\"team-a*\" is named by rules[0] before"),
        ("rules: [{namespaces: [Shop]}]", "\"Shop\" names no namespace"),
        ("rules: [{namespaces: [1, Shop]}]", "1:26: rules[0].namespaces: \"Shop\" names no namespace"),
        ("rules: [{namespaces: [a/b]}]", "\"a/b\" names no namespace"),
        ("rules: [{namespaces: [a], endpoints: [\"prd*\"]}]", "there is no endpoint \"prd*\""),
        ("rules: [{namespaces: [a], authMounts: [auth/kubernetes]}]", "authMounts: write the path alone"),
        ("rules: [{namespaces: [a], authMounts: [/]}]", "authMounts: write the path alone"),
        ("rules: [{namespaces: [a], vaultNamespaces: [a/../b]}]", "contains a `.` or `..` part"),
        ("rules: [{namespaces: [a], certificateFiles: [/a/../b]}]", "is no absolute path without"),
        ("rules: [{namespaces: [a], audiences: [\" vault\"]}]", "begins or ends with a blank"),
        ("rules: [{namespaces: [a], addresses: [\"https://a/team\"]}]", "has a path, at which nobody looks"),
        ("rules: [{namespaces: [a], addresses: [\"*\"]}]", "addresses: \"*\" has no scheme; write https://host:port"),
        ("endpoints: {a: {address: \"https://a\", namespace: \"x/../y\"}}", "endpoints.a.namespace: contains"),
        ("endpoints: {a: {address: \"https://a/x/%2E%2e\"}}", "has a `.` or `..` part"),
    ] {
        let mistakes = mistakes(text).join("\n");
        assert!(mistakes.contains(says), "{text}: {mistakes}");
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }
    let (policy, mistakes) = read(POLICY, "policy.yaml");
    assert!(mistakes.is_empty() && policy.rules.len() == 7, "{mistakes:?}");
}

#[test]
fn the_example_of_the_docs_is_the_shipped_one_and_right() {
    let (example, page) =
        (include_str!("../../../deploy/examples/policy.yaml"), include_str!("../../../docs/policy.md"));
    assert!(page.contains(example), "docs/policy.md does not show deploy/examples/policy.yaml");
    assert_eq!(mistakes(example), [""; 0]);
}

#[test]
fn the_schema_and_the_docs_have_every_field_and_no_other() {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../../deploy/policy.schema.json")).unwrap();
    let page = include_str!("../../../docs/policy.md");
    for (place, fields) in FIELDS {
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
            let is_told = page.contains(&name) || matches!(field, "apiVersion" | "kind" | "tls");
            assert!(is_told, "docs/policy.md does not tell of {name}");
        }
    }
}

/// Whether the shipped schema takes a policy file.
fn fits_the_schema(text: &str) -> bool {
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../../deploy/policy.schema.json")).unwrap();
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("policy.json", schema).unwrap();
    let index = compiler.compile("policy.json", &mut schemas).unwrap();
    let policy: serde_json::Value = crate::yaml::read(text, Budget::POLICY).unwrap();
    schemas.validate(&policy, index).is_ok()
}

#[test]
fn the_schema_takes_what_is_right_and_no_mistake_of_shape() {
    let begin = "apiVersion: vaultmount/v1\nkind: Policy\n";
    for good in [
        POLICY,
        include_str!("../../../deploy/examples/policy.yaml"),
        begin,
        "apiVersion: vaultmount/v1\nkind: Policy\nendpoints:\nrules:",
    ] {
        assert!(mistakes(good).is_empty() && fits_the_schema(good), "{good}");
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
        let good = format!("{begin}{good}");
        assert!(mistakes(&good).is_empty() && fits_the_schema(&good), "{good}: {:?}", mistakes(&good));
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
        let bad = if bad.starts_with(['k', '-']) { bad.to_owned() } else { format!("{begin}{bad}") };
        assert!(!mistakes(&bad).is_empty() && !fits_the_schema(&bad), "{bad}: {:?}", mistakes(&bad));
    }
}

#[test]
fn the_docs_show_what_is_said() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (page, text) = (include_str!("../../../docs/policy.md"), include_str!("../../../deploy/examples/policy.yaml"));
    let (policy, _) = read(text, "/policy/policy.yaml");
    let word = Word { value: "ldap", own: "kubernetes", is_chosen: true };
    let said = policy.limits("shop").auth_mount(word).unwrap_err().error.to_string();
    assert!(words(page).contains(&said), "docs/policy.md does not show: {said}");
}
