mod reads;
mod versions;

use super::*;
use crate::render::{Encoding, FileSpec, Format, Selector};

/// Returns the objects of a text, the text of its error, and its warnings.
fn parse_list(text: &str) -> (Vec<Object>, String, Vec<String>) {
    let (mut findings, mut warnings) = (Findings::default(), Warnings::default());
    let objects = parse(Some(text), 0o644, &mut findings, &mut warnings).objects;
    let message = findings.into_error("", None).map(|e| e.to_string()).unwrap_or_default();
    (objects, message, warnings.into_messages())
}

/// Parses one object with these fields in addition to name and path.
fn parse_fields(fields: &str) -> Object {
    let text = format!("- objectName: a\n  secretPath: p\n{fields}");
    let (objects, message, warnings) = parse_list(&text);
    assert!(message.is_empty() && warnings.is_empty(), "{text}{message}{warnings:?}");
    objects.into_iter().next().unwrap()
}

/// Returns the error of one object with these fields in addition to name and path.
fn error_of_fields(fields: &str) -> String {
    parse_list(&format!("- objectName: a\n  secretPath: p\n{fields}")).1
}

#[test]
fn object_defaults_to_full_response_and_driver_permission() {
    let Object { file_spec: recipe, optional, .. } = parse_fields("");
    assert_eq!(
        recipe,
        FileSpec { path: "a".into(), mode: 0o644, selector: Selector::FullResponse, encoding: Encoding::Utf8 }
    );
    assert!(!optional);
}

#[test]
fn object_fields_set_selector_encoding_and_optional() {
    for (fields, select) in [
        ("  secretKey: pass", Selector::Key("pass".into())),
        ("  secretKey: ''", Selector::FullResponse),
        ("  secretKey:", Selector::FullResponse),
        ("  secretKey: 1.50", Selector::Key("1.50".into())),
        ("  secretKey: true", Selector::Key("true".into())),
        ("  secretKey: '*'", Selector::AllKeys),
        ("  secretPointer: /a/0/b~1c", Selector::Pointer("/a/0/b~1c".into())),
        ("  secretPointer: ''", Selector::Pointer(String::new())),
        ("  secretPointer:", Selector::FullResponse),
        ("  format: JSON", Selector::Formatted(Format::Json)),
        ("  format: yaml", Selector::Formatted(Format::Yaml)),
        ("  format: env", Selector::Formatted(Format::Env)),
        ("  format: properties", Selector::Formatted(Format::Properties)),
        ("  format: ''", Selector::FullResponse),
    ] {
        assert_eq!(parse_fields(fields).file_spec.selector, select, "{fields}");
    }
    for (text, encoding) in [
        ("''", Encoding::Utf8),
        ("utf-8", Encoding::Utf8),
        ("UTF-8", Encoding::Utf8),
        ("Base64", Encoding::Base64),
        ("HEX", Encoding::Hex),
    ] {
        assert_eq!(parse_fields(&format!("  encoding: {text}")).file_spec.encoding, encoding, "{text}");
    }
    for (text, optional) in [("true", true), ("True", true), ("false", false), ("", false), ("~", false)] {
        assert_eq!(parse_fields(&format!("  optional: {text}")).optional, optional, "{text}");
    }
}

#[test]
fn file_permission_is_octal_or_decimal_or_the_drivers() {
    for (text, mode) in [
        ("0440", 0o440),
        ("0o440", 0o440),
        ("288", 0o440),
        ("'0440'", 0o440),
        ("0x120", 0o440),
        ("0777", 0o777),
        ("511", 0o777),
        ("0", 0o644),
        ("", 0o644),
        ("~", 0o644),
    ] {
        assert_eq!(parse_fields(&format!("  filePermission: {text}")).file_spec.mode, mode, "{text}");
    }
    for (text, expected) in [
        ("644", "filePermission: 644 is 01204, more than 0777; did you mean 0644?"),
        ("01000", "filePermission: 512 is 01000, more than 0777"),
        ("-1", "\"-1\" is no permission"),
        ("r--", "\"r--\" is no permission; write it as in 0440"),
        ("0o888", "no permission"),
        ("99999999999999999999", "no permission"),
    ] {
        let message = error_of_fields(&format!("  filePermission: {text}"));
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn object_error_names_object_field_and_fix() {
    for (fields, expected) in [
        ("  method: DELETE", r#"object "a": method: "DELETE" is none of GET, LIST, PUT, POST"#),
        ("  method: PSOT", "(did you mean POST?)"),
        ("  encoding: utf8", r#"encoding: "utf8" is none of utf-8, base64, hex (did you mean utf-8?)"#),
        ("  format: toml", r#"format: "toml" is none of json, yaml, env, properties"#),
        ("  format: env\n  encoding: base64", "encoding: does not go with format"),
        ("  secretKey: a\n  format: env", "secretKey and format: each says which part"),
        ("  secretKey: '*'\n  secretPointer: /a", "secretKey and secretPointer: each says"),
        ("  secretKey: a\n  secretPointer: ''\n  format: env", "secretKey and secretPointer and format: each"),
        ("  secretPointer: a/b", r#"secretPointer: starts without a slash; write "/a/b""#),
        ("  secretPointer: /a~", "secretPointer: has a ~ that escapes nothing"),
        ("  secretPointer: /a~2", "secretPointer: has a ~ that escapes nothing"),
        ("  optional: yes", r#"optional: is "yes"; write true or false"#),
        ("  type: token", "secretPath: does not go with type: token"),
        ("  type: Token\n  format: env", "secretPath and format: does not go with type: token"),
    ] {
        let message = error_of_fields(fields);
        assert!(message.contains(expected), "{fields}: {message}");
        assert!(!message.contains("mistakes"), "one only: {message}");
    }
}

#[test]
fn object_without_name_or_path_is_rejected() {
    let message = parse_list("- secretPath: p\n- objectName: b\n- {}\n").1;
    for expected in [
        "has 4 mistakes",
        "objects[0]: objectName: missing",
        "object \"b\": secretPath: missing",
        "objects[2]: objectName: missing",
        "objects[2]: secretPath: missing",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn objects_error_lists_mistakes_of_all_objects() {
    let message = parse_list(
        "- {objectName: a, secretPath: p, method: X, encoding: y}\n- {objectName: a, secretPath: /}\n- {objectName: a/b, secretPath: p}\n",
    )
    .1;
    for expected in [
        "has 5 mistakes",
        "method:",
        "encoding:",
        "is that of objects[0] and objects[1]",
        "names no secret",
        "\"a\" is the file",
    ] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn objects_empty_or_not_a_list_is_rejected() {
    for (text, expected) in [
        ("", "there are none; list at least one"),
        ("\n# nothing\n", "there are none"),
        ("[]", "there are none"),
        ("~", "there are none"),
        ("-\n-\n", "there are none"),
        ("objectName: a\nsecretPath: p", "is a mapping, not a list; start each object with `- objectName:`"),
        ("array:\n  - |\n    objectName: a", "is a mapping, not a list"),
        ("just text", "is text, not a list"),
        ("12", "is a number, not a list"),
        ("- a\n- b: c\n- [x]", "objects[0]: is text; write objectName"),
        ("- |\n  objectName: a\n  secretPath: p", "objects[0]: is text"),
        ("- [x]", "objects[0]: is a list"),
    ] {
        let (objects, message, _) = parse_list(text);
        assert!(objects.is_empty() && message.contains(expected), "{text}: {message}");
    }
    let (mut findings, mut warnings) = (Findings::default(), Warnings::default());
    parse(None, 0, &mut findings, &mut warnings);
    assert!(findings.into_error("", None).unwrap().to_string().contains("objects: missing; list at least one"));
}

#[test]
fn objects_error_lists_all_values_of_wrong_type() {
    let message = parse_list(
        "- objectName: [hunter2]\n- {objectName: a, secretPath: {x: hunter2}, secretArgs: [hunter2]}\n- {objectName: b, secretArgs: hunter2, unknown: [1]}\n",
    )
    .1;
    for expected in [
        "has 4 mistakes",
        "objects[0]: objectName: is a list; write one value",
        "object \"a\": secretPath: is a mapping; write one value",
        "object \"a\": secretArgs: is a list; write names and values below it",
        "object \"b\": secretArgs: is text; write names and values below it",
    ] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn object_unknown_fields_and_unsupported_type_are_warnings() {
    let (objects, message, warnings) = parse_list(
        "- {objectName: a, secretPath: p, secretkey: x, objectVersion: 1}\n- {secretPath: p, objectName: b, refreshInterval: 5m, type: secret}\n",
    );
    assert_eq!((objects.len(), message.as_str()), (2, ""));
    assert_eq!(
        warnings,
        [
            r#"object "b": type: "secret" is not supported yet by this version and is ignored"#,
            r#"unknown and ignored: object "a" field "secretkey" (did you mean secretKey?), object "a" field "objectVersion", object "b" field "refreshInterval""#
        ]
    );
}

#[test]
fn objects_null_entry_is_skipped_with_warning() {
    let (objects, message, warnings) =
        parse_list("- {objectName: a, secretPath: p}\n-\n- {objectName: b, secretPath: p}\n");
    assert_eq!((objects.len(), message.as_str()), (2, ""));
    assert_eq!(warnings, ["objects[1]: is empty and ignored"]);
}

#[test]
fn objects_beyond_count_or_size_limit_are_rejected() {
    let many: String = vec!["- {objectName: a, secretPath: p}\n"; 257].concat();
    assert!(parse_list(&many).1.contains("there are 257, more than 256"));
    let long = format!("- objectName: {}", "a".repeat(1 << 20));
    assert!(parse_list(&long).1.contains("more than the 1048576 accepted"));
}

#[test]
fn objects_yaml_error_has_position_and_no_value() {
    let message = parse_list("- objectName: a\n  secretArgs: {pin: 'hunter2}\n").1;
    assert!(
        message.contains("is not valid YAML: ") && message.contains("(line ") && !message.contains("hunter2"),
        "{message}"
    );
    let message = parse_list("- [[hunter2]]\n- {<<: hunter2}").1;
    assert!(message.contains("the value merged with << is not a mapping (line 2"), "{message}");
    let message = parse_list("- objectName: a\n  secretPath: p\n  objectName: hunter2").1;
    assert!(
        message.contains("objectName appears twice in one mapping; remove one (line 3, column 3 of objects)"),
        "{message}"
    );
}

/// Mounts are parsed on a runtime worker, which has a stack four times as large. Without optimization this test needs
/// 1.5 MiB.
#[test]
fn objects_nesting_fits_a_quarter_of_worker_stack() {
    let nested = |text: &'static str, close: &'static str, depth: usize| {
        format!("{}x{}", text.repeat(depth), close.repeat(depth))
    };
    let blocks = |depth: usize| (0..depth).map(|i| format!("\n  {}a:", " ".repeat(i))).collect::<Vec<_>>().concat();
    let aliases = |depth: usize| {
        let anchors = (1..depth).map(|i| format!("\n    a{i}: &a{i} [*a{}]", i - 1)).collect::<Vec<_>>().concat();
        format!("\n    a0: &a0 [x]{anchors}")
    };
    let mut texts = Vec::new();
    for depth in (20..36).chain([1000]) {
        let (lists, maps, items) = (nested("[", "]", depth), nested("{a: ", "}", depth), nested("- ", "", depth));
        for value in [lists, maps, items, blocks(depth), aliases(depth)] {
            for field in ["secretArgs", "secretKey", "other"] {
                texts.push(format!("- objectName: a\n  secretPath: p\n  {field}: {value}"));
            }
            texts.push(value);
        }
    }
    let parse_all = move || texts.iter().filter(|text| parse_list(text).1.is_empty()).count();
    let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(parse_all).unwrap();
    assert!(worker.join().unwrap() > 10);
}
