mod reads;
mod versions;

use super::*;
use crate::render::{Encoding, Format, Recipe, Select};

/// The objects of a text, the one error's text, and the warnings.
fn judged(text: &str) -> (Vec<Object>, String, Vec<String>) {
    let (mut mistakes, mut warnings) = (Mistakes::default(), Warnings::default());
    let objects = parse(Some(text), 0o644, &mut mistakes, &mut warnings).objects;
    let said = mistakes.into_error("", None).map(|e| e.to_string()).unwrap_or_default();
    (objects, said, warnings.into_texts())
}

/// The one object with these fields besides name and path.
fn object(fields: &str) -> Object {
    let text = format!("- objectName: a\n  secretPath: p\n{fields}");
    let (objects, said, warnings) = judged(&text);
    assert!(said.is_empty() && warnings.is_empty(), "{text}{said}{warnings:?}");
    objects.into_iter().next().unwrap()
}

/// What is said of an object with these fields besides name and path.
fn mistake(fields: &str) -> String {
    judged(&format!("- objectName: a\n  secretPath: p\n{fields}")).1
}

#[test]
fn an_object_of_two_fields_is_the_whole_answer_with_the_requests_permission() {
    let Object { recipe, optional, .. } = object("");
    assert_eq!(recipe, Recipe { file: "a".into(), mode: 0o644, select: Select::Whole, encoding: Encoding::Utf8 });
    assert!(!optional);
}

#[test]
fn each_field_says_what_it_says() {
    for (fields, select) in [
        ("  secretKey: pass", Select::Key("pass".into())),
        ("  secretKey: ''", Select::Whole),
        ("  secretKey:", Select::Whole),
        ("  secretKey: 1.50", Select::Key("1.50".into())),
        ("  secretKey: true", Select::Key("true".into())),
        ("  secretKey: '*'", Select::EachKey),
        ("  secretPointer: /a/0/b~1c", Select::Pointer("/a/0/b~1c".into())),
        ("  secretPointer: ''", Select::Pointer(String::new())),
        ("  secretPointer:", Select::Whole),
        ("  format: JSON", Select::Formatted(Format::Json)),
        ("  format: yaml", Select::Formatted(Format::Yaml)),
        ("  format: env", Select::Formatted(Format::Env)),
        ("  format: properties", Select::Formatted(Format::Properties)),
        ("  format: ''", Select::Whole),
    ] {
        assert_eq!(object(fields).recipe.select, select, "{fields}");
    }
    for (text, encoding) in [
        ("''", Encoding::Utf8),
        ("utf-8", Encoding::Utf8),
        ("UTF-8", Encoding::Utf8),
        ("Base64", Encoding::Base64),
        ("HEX", Encoding::Hex),
    ] {
        assert_eq!(object(&format!("  encoding: {text}")).recipe.encoding, encoding, "{text}");
    }
    for (text, optional) in [("true", true), ("True", true), ("false", false), ("", false), ("~", false)] {
        assert_eq!(object(&format!("  optional: {text}")).optional, optional, "{text}");
    }
}

#[test]
fn permissions_are_octal_or_decimal_and_nothing_is_the_requests() {
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
        assert_eq!(object(&format!("  filePermission: {text}")).recipe.mode, mode, "{text}");
    }
    for (text, says) in [
        ("644", "filePermission: 644 is 01204, more than 0777; did you mean 0644?"),
        ("01000", "filePermission: 512 is 01000, more than 0777"),
        ("-1", "\"-1\" is no permission"),
        ("r--", "\"r--\" is no permission; write it as in 0440"),
        ("0o888", "no permission"),
        ("99999999999999999999", "no permission"),
    ] {
        let said = mistake(&format!("  filePermission: {text}"));
        assert!(said.contains(says), "{text}: {said}");
    }
}

#[test]
fn mistakes_name_object_field_and_way_out() {
    for (fields, says) in [
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
        let said = mistake(fields);
        assert!(said.contains(says), "{fields}: {said}");
        assert!(!said.contains("mistakes"), "one only: {said}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let said = judged("- secretPath: p\n- objectName: b\n- {}\n").1;
    for says in [
        "has 4 mistakes",
        "objects[0]: objectName: missing",
        "object \"b\": secretPath: missing",
        "objects[2]: objectName: missing",
        "objects[2]: secretPath: missing",
    ] {
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn all_mistakes_of_all_objects_are_said_at_once() {
    let said = judged(
        "- {objectName: a, secretPath: p, method: X, encoding: y}\n- {objectName: a, secretPath: /}\n- {objectName: a/b, secretPath: p}\n",
    )
    .1;
    for says in [
        "has 5 mistakes",
        "method:",
        "encoding:",
        "is that of objects[0] and objects[1]",
        "names no secret",
        "\"a\" is the file",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn lists_that_are_none_are_explained() {
    for (text, says) in [
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
        let (objects, said, _) = judged(text);
        assert!(objects.is_empty() && said.contains(says), "{text}: {said}");
    }
    let (mut mistakes, mut warnings) = (Mistakes::default(), Warnings::default());
    parse(None, 0, &mut mistakes, &mut warnings);
    assert!(mistakes.into_error("", None).unwrap().to_string().contains("objects: missing; list at least one"));
}

#[test]
fn all_values_of_the_wrong_type_are_said_at_once() {
    let said = judged(
        "- objectName: [hunter2]\n- {objectName: a, secretPath: {x: hunter2}, secretArgs: [hunter2]}\n- {objectName: b, secretArgs: hunter2, unknown: [1]}\n",
    )
    .1;
    for says in [
        "has 4 mistakes",
        "objects[0]: objectName: is a list; write one value",
        "object \"a\": secretPath: is a mapping; write one value",
        "object \"a\": secretArgs: is a list; write names and values below it",
        "object \"b\": secretArgs: is text; write names and values below it",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn unknown_fields_are_one_warning_and_later_ones_their_own() {
    let (objects, said, warnings) = judged(
        "- {objectName: a, secretPath: p, secretkey: x, objectVersion: 1}\n- {secretPath: p, objectName: b, refreshInterval: 5m, type: secret}\n",
    );
    assert_eq!((objects.len(), said.as_str()), (2, ""));
    assert_eq!(
        warnings,
        [
            r#"object "b": type: "secret" is not supported yet by this version and is ignored"#,
            r#"unknown and ignored: object "a" field "secretkey" (did you mean secretKey?), object "a" field "objectVersion", object "b" field "refreshInterval""#
        ]
    );
}

#[test]
fn an_empty_entry_is_left_out_as_go_does() {
    let (objects, said, warnings) = judged("- {objectName: a, secretPath: p}\n-\n- {objectName: b, secretPath: p}\n");
    assert_eq!((objects.len(), said.as_str()), (2, ""));
    assert_eq!(warnings, ["objects[1]: is empty and ignored"]);
}

#[test]
fn too_much_is_refused() {
    let many: String = vec!["- {objectName: a, secretPath: p}\n"; 257].concat();
    assert!(judged(&many).1.contains("there are 257, more than 256"));
    let long = format!("- objectName: {}", "a".repeat(1 << 20));
    assert!(judged(&long).1.contains("more than the 1048576 accepted"));
}

#[test]
fn the_parsers_own_error_has_its_position_and_no_value() {
    let said = judged("- objectName: a\n  secretArgs: {pin: 'hunter2}\n").1;
    assert!(said.contains("is no valid YAML: ") && said.contains("(line ") && !said.contains("hunter2"), "{said}");
    let said = judged("- [[hunter2]]\n- {<<: hunter2}").1;
    assert!(said.contains("what << merges is no mapping (line 2"), "{said}");
    let said = judged("- objectName: a\n  secretPath: p\n  objectName: hunter2").1;
    assert!(
        said.contains("objectName appears twice in one mapping; remove one (line 3, column 3 of objects)"),
        "{said}"
    );
}

/// A mount is parsed on a worker of the runtime, whose stack is four times as large; without optimization this takes 1.5 MiB.
#[test]
fn nesting_fits_a_quarter_of_a_workers_stack() {
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
    let parse_all = move || texts.iter().filter(|text| judged(text).1.is_empty()).count();
    let worker = std::thread::Builder::new().stack_size(2 << 20).spawn(parse_all).unwrap();
    assert!(worker.join().unwrap() > 10);
}
