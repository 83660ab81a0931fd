use proptest::prelude::*;

use super::*;
use crate::vault::request::{Method, SecretRequest};

fn parse_request(path: &str, fields: &str) -> SecretRequest {
    let text = format!("- objectName: a\n  secretPath: {}\n{fields}", serde_json::to_string(path).unwrap());
    let (objects, message, _) = parse_list(&text);
    assert_eq!(message, "", "{text}");
    SecretRequest::clone(&objects.into_iter().next().unwrap().request)
}

fn parse_query(path: &str, fields: &str) -> String {
    parse_request(path, fields).query.map(|q| q.expose().to_owned()).unwrap_or_default()
}

fn parse_body(fields: &str) -> Option<String> {
    parse_request("p", fields).body.map(|b| b.expose().to_owned())
}

#[test]
fn request_of_equivalent_spelling_is_equal() {
    let plain = parse_request("secret/data/x", "");
    for path in ["/secret/data/x", "v1/secret/data/x", "/v1/secret/data/x", "/v1//secret/data//x/", "secret/data/x?"] {
        for fields in ["", "  method: GET", "  method: get", "  method:", "  secretArgs:", "  secretArgs: {}"] {
            assert_eq!(parse_request(path, fields), plain, "{path} {fields}");
        }
    }
    let versioned = parse_request("x?version=1", "");
    assert_eq!(parse_request("/x", "  secretArgs: {version: 1}"), versioned);
    assert_eq!(parse_request("/x?version=1", "  secretArgs: {version: '1'}"), versioned);
    assert_ne!(versioned, parse_request("x", ""));
}

#[test]
fn request_of_other_path_method_or_args_is_different() {
    let all = [
        parse_request("x", ""),
        parse_request("y", ""),
        parse_request("x", "  method: LIST"),
        parse_request("x", "  method: PUT"),
        parse_request("x", "  method: POST"),
        parse_request("x", "  method: PUT\n  secretArgs: {}"),
        parse_request("x", "  method: PUT\n  secretArgs: {a: 1}"),
        parse_request("x", "  method: PUT\n  secretArgs: {a: 2}"),
        parse_request("x?a=1", "  method: PUT"),
        parse_request("x?a=1", ""),
    ];
    for (i, one) in all.iter().enumerate() {
        assert!(all.iter().skip(i + 1).all(|other| other != one), "{i}");
    }
}

#[test]
fn method_is_case_insensitive() {
    for (text, method) in [("GeT", Method::Get), ("list", Method::List), ("Put", Method::Put), ("pOST", Method::Post)] {
        assert_eq!(parse_request("p", &format!("  method: {text}")).method, method);
    }
}

#[test]
fn secret_args_of_get_and_list_become_query_parameters() {
    for method in ["GET", "LIST"] {
        let fields =
            format!("  method: {method}\n  secretArgs: {{v: 1_0, b: true, t: a b&c, f: 1.50, e: '', d: 2030-01-01}}");
        assert_eq!(parse_query("p?a=%20", &fields), "a=+&b=true&d=2030-01-01T00%3A00%3A00Z&e=&f=1.5&t=a+b%26c&v=10");
        assert_eq!(parse_request("p", &fields).body, None);
    }
}

#[test]
fn secret_args_unfit_for_query_are_rejected_without_value() {
    for (args, expected) in [
        ("{a: [hunter2]}", r#"secretArgs: "a" has no single value, which GET and LIST need"#),
        ("{a: {b: hunter2}}", r#""a" has no single value"#),
        ("{a: ~}", r#""a" has no single value"#),
    ] {
        let message = error_of_fields(&format!("  secretArgs: {args}"));
        assert!(message.contains(expected) && !message.contains("hunter2"), "{message}");
    }
    let message = parse_list("- {objectName: a, secretPath: 'p?v=hunter2', secretArgs: {v: hunter3}}").1;
    assert!(
        message.contains(r#""v" has another value in secretPath's query; remove one"#) && !message.contains("hunter"),
        "{message}"
    );
}

#[test]
fn secret_args_of_put_and_post_become_json_body() {
    assert_eq!(parse_body("  method: PUT"), None);
    assert_eq!(parse_body("  method: PUT\n  secretArgs:"), None);
    assert_eq!(parse_body("  method: PUT\n  secretArgs: {}").as_deref(), Some("{}"));
    assert_eq!(
        parse_body("  method: POST\n  secretArgs: {ttl: 24h, n: 0o17, a: {c: [~, x], b: <}}").as_deref(),
        Some(r#"{"a":{"b":"\u003c","c":[null,"x"]},"n":15,"ttl":"24h"}"#)
    );
    // At the end of the text, a block scalar is easily mistaken for a plain scalar.
    let block = "  method: PUT\n  secretArgs:\n    d: |-\n      2030-01-01";
    assert_eq!(parse_body(block).as_deref(), Some(r#"{"d":"2030-01-01"}"#));
    assert_eq!(parse_query("p?b=2&a=1", "  method: PUT\n  secretArgs: {a: 3}"), "a=1&b=2");
}

#[test]
fn secret_args_unfit_for_json_are_rejected_with_line() {
    for (args, expected) in [
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
        let message = error_of_fields(&format!("  method: PUT\n  secretArgs:\n{args}"));
        assert!(message.contains(expected) && !message.contains("hunter2"), "{args}: {message}");
    }
}

#[test]
fn secret_args_are_redacted_in_debug() {
    let object = parse_list("- {objectName: a, secretPath: 'p?q=hunter2', method: PUT, secretArgs: {pin: hunter2}}").0;
    assert!(!format!("{object:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn secret_path_spelling_does_not_change_request(parts in proptest::collection::vec("[a-z0-9 %+._-]{1,8}[a-z]", 1..5)) {
        let plain = parts.join("/");
        let spellings = [format!("/{plain}"), format!("/v1/{plain}"), format!("v1/{plain}/"), format!("//{}//", parts.join("//"))];
        let expected = parse_request(&plain, "");
        prop_assert_eq!(&expected.path, &plain);
        for spelling in spellings {
            prop_assert_eq!(&parse_request(&spelling, "  method: get"), &expected);
        }
    }

    #[test]
    fn secret_args_order_does_not_change_request(names in proptest::collection::btree_set("[a-z]{1,6}x", 1..6)) {
        let args = |names: Vec<&String>| {
            let entries: Vec<String> = names.iter().map(|name| format!("{name}: v")).collect();
            format!("  method: PUT\n  secretArgs: {{{}}}", entries.join(", "))
        };
        let (up, down) = (args(names.iter().collect()), args(names.iter().rev().collect()));
        prop_assert_eq!(parse_request("p", &up), parse_request("p", &down));
    }
}
