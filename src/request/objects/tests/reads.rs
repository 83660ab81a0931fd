use proptest::prelude::*;

use super::*;
use crate::vault::wire::{Method, SecretRequest};

fn read(path: &str, fields: &str) -> SecretRequest {
    let text = format!("- objectName: a\n  secretPath: {}\n{fields}", serde_json::to_string(path).unwrap());
    let (objects, said, _) = judged(&text);
    assert_eq!(said, "", "{text}");
    SecretRequest::clone(&objects.into_iter().next().unwrap().read)
}

fn query(path: &str, fields: &str) -> String {
    read(path, fields).query.map(|q| q.expose().to_owned()).unwrap_or_default()
}

fn body(fields: &str) -> Option<String> {
    read("p", fields).body.map(|b| b.expose().to_owned())
}

#[test]
fn spellings_of_one_request_are_one_request() {
    let plain = read("secret/data/x", "");
    for path in ["/secret/data/x", "v1/secret/data/x", "/v1/secret/data/x", "/v1//secret/data//x/", "secret/data/x?"] {
        for fields in ["", "  method: GET", "  method: get", "  method:", "  secretArgs:", "  secretArgs: {}"] {
            assert_eq!(read(path, fields), plain, "{path} {fields}");
        }
    }
    let versioned = read("x?version=1", "");
    assert_eq!(read("/x", "  secretArgs: {version: 1}"), versioned);
    assert_eq!(read("/x?version=1", "  secretArgs: {version: '1'}"), versioned);
    assert_ne!(versioned, read("x", ""));
}

#[test]
fn other_requests_are_other_requests() {
    let all = [
        read("x", ""),
        read("y", ""),
        read("x", "  method: LIST"),
        read("x", "  method: PUT"),
        read("x", "  method: POST"),
        read("x", "  method: PUT\n  secretArgs: {}"),
        read("x", "  method: PUT\n  secretArgs: {a: 1}"),
        read("x", "  method: PUT\n  secretArgs: {a: 2}"),
        read("x?a=1", "  method: PUT"),
        read("x?a=1", ""),
    ];
    for (i, one) in all.iter().enumerate() {
        assert!(all.iter().skip(i + 1).all(|other| other != one), "{i}");
    }
}

#[test]
fn methods_are_known_in_any_case() {
    for (text, method) in [("GeT", Method::Get), ("list", Method::List), ("Put", Method::Put), ("pOST", Method::Post)] {
        assert_eq!(read("p", &format!("  method: {text}")).method, method);
    }
}

#[test]
fn arguments_of_get_and_list_are_query_parameters() {
    for method in ["GET", "LIST"] {
        let fields =
            format!("  method: {method}\n  secretArgs: {{v: 1_0, b: true, t: a b&c, f: 1.50, e: '', d: 2030-01-01}}");
        assert_eq!(query("p?a=%20", &fields), "a=+&b=true&d=2030-01-01T00%3A00%3A00Z&e=&f=1.5&t=a+b%26c&v=10");
        assert_eq!(read("p", &fields).body, None);
    }
}

#[test]
fn arguments_that_are_no_query_are_refused_without_their_values() {
    for (args, says) in [
        ("{a: [hunter2]}", r#"secretArgs: "a" has no single value, which GET and LIST need"#),
        ("{a: {b: hunter2}}", r#""a" has no single value"#),
        ("{a: ~}", r#""a" has no single value"#),
    ] {
        let said = mistake(&format!("  secretArgs: {args}"));
        assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
    }
    let said = judged("- {objectName: a, secretPath: 'p?v=hunter2', secretArgs: {v: hunter3}}").1;
    assert!(
        said.contains(r#""v" has another value in secretPath's query; remove one"#) && !said.contains("hunter"),
        "{said}"
    );
}

#[test]
fn arguments_of_put_and_post_are_the_body() {
    assert_eq!(body("  method: PUT"), None);
    assert_eq!(body("  method: PUT\n  secretArgs:"), None);
    assert_eq!(body("  method: PUT\n  secretArgs: {}").as_deref(), Some("{}"));
    assert_eq!(
        body("  method: POST\n  secretArgs: {ttl: 24h, n: 0o17, a: {c: [~, x], b: <}}").as_deref(),
        Some(r#"{"a":{"b":"\u003c","c":[null,"x"]},"n":15,"ttl":"24h"}"#)
    );
    // The end of the text is where a block scalar is easily taken for a plain one.
    let block = "  method: PUT\n  secretArgs:\n    d: |-\n      2030-01-01";
    assert_eq!(body(block).as_deref(), Some(r#"{"d":"2030-01-01"}"#));
    assert_eq!(query("p?b=2&a=1", "  method: PUT\n  secretArgs: {a: 3}"), "a=1&b=2");
}

#[test]
fn arguments_json_cannot_say_are_refused_with_their_line() {
    for (args, says) in [
        ("    a: .inf", "secretArgs: has a number that JSON cannot say (line 5, column 8 of objects)"),
        ("    a: [.nan]", "secretArgs: has a number that JSON cannot say (line 5, column 9 of objects)"),
        (
            "    a: {1: hunter2}",
            "secretArgs: has a name that is no text; put it in quotes (line 5, column 9 of objects)",
        ),
        ("    a: {true: x}", "has a name that is no text"),
        ("    a: {2030-01-01: x}", "has a name that is no text"),
        ("    a: {~: x}", "has a name that is no text"),
        ("    ? [x]\n    : y", "has a name that is no text"),
        ("    a: {? {x: y} : z}", "has a name that is no text"),
    ] {
        let said = mistake(&format!("  method: PUT\n  secretArgs:\n{args}"));
        assert!(said.contains(says) && !said.contains("hunter2"), "{args}: {said}");
    }
}

#[test]
fn arguments_are_not_shown() {
    let object = judged("- {objectName: a, secretPath: 'p?q=hunter2', method: PUT, secretArgs: {pin: hunter2}}").0;
    assert!(!format!("{object:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn how_a_path_is_spelled_does_not_matter(parts in proptest::collection::vec("[a-z0-9 %+._-]{1,8}[a-z]", 1..5)) {
        let plain = parts.join("/");
        let spellings = [format!("/{plain}"), format!("/v1/{plain}"), format!("v1/{plain}/"), format!("//{}//", parts.join("//"))];
        let expected = read(&plain, "");
        prop_assert_eq!(&expected.path, &plain);
        for spelling in spellings {
            prop_assert_eq!(&read(&spelling, "  method: get"), &expected);
        }
    }

    #[test]
    fn how_arguments_are_ordered_does_not_matter(names in proptest::collection::btree_set("[a-z]{1,6}x", 1..6)) {
        let args = |names: Vec<&String>| {
            let entries: Vec<String> = names.iter().map(|name| format!("{name}: v")).collect();
            format!("  method: PUT\n  secretArgs: {{{}}}", entries.join(", "))
        };
        let (up, down) = (args(names.iter().collect()), args(names.iter().rev().collect()));
        prop_assert_eq!(read("p", &up), read("p", &down));
    }
}
