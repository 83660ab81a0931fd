//! Tests of every selector, from response to file.

use proptest::prelude::*;

use super::*;
use crate::error::Cause;

const BODY: &str = r#"{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":{"pass":"s3cret","raw":"aGVsbG8=","n":1.5,"deep":{"a":["x"]}},"metadata":{"created_time":"t","version":3}},"wrap_info":null,"warnings":null,"auth":null}"#;

fn file_spec(select: Selector, encoding: Encoding) -> FileSpec {
    FileSpec { path: "dir/name".into(), mode: 0o400, selector: select, encoding }
}

fn render_files(select: Selector, encoding: Encoding) -> Result<Vec<(String, String)>, Error> {
    let response = SecretResponse::parse(BODY.into()).unwrap();
    let files = render(&file_spec(select, encoding), &response)?;
    assert!(files.iter().all(|file| file.mode == 0o400));
    Ok(files.into_iter().map(|file| (file.path, String::from_utf8(file.contents.expose().to_vec()).unwrap())).collect())
}

#[test]
fn selector_renders_one_file() {
    let whole = r#"{"request_id":"r","lease_id":"","lease_duration":0,"renewable":false,"data":{"data":{"pass":"s3cret","raw":"aGVsbG8=","n":1.5,"deep":{"a":["x"]}},"metadata":{"created_time":"t","version":3}},"warnings":null}"#;
    for (select, encoding, text) in [
        (Selector::FullResponse, Encoding::Utf8, whole),
        (Selector::Key("pass".into()), Encoding::Utf8, "s3cret"),
        (Selector::Key("raw".into()), Encoding::Base64, "hello"),
        (Selector::Key("n".into()), Encoding::Utf8, "1.5"),
        (Selector::Pointer("/deep/a/0".into()), Encoding::Utf8, "x"),
        (Selector::Pointer("/raw".into()), Encoding::Base64, "hello"),
        (
            Selector::Formatted(Format::Json),
            Encoding::Utf8,
            "{\"deep\":{\"a\":[\"x\"]},\"n\":1.5,\"pass\":\"s3cret\",\"raw\":\"aGVsbG8=\"}\n",
        ),
        (
            Selector::Formatted(Format::Yaml),
            Encoding::Utf8,
            "deep: {\"a\": [\"x\"]}\n\"n\": 1.5\npass: s3cret\nraw: \"aGVsbG8=\"\n",
        ),
        (
            Selector::Formatted(Format::Env),
            Encoding::Utf8,
            "deep='{\"a\":[\"x\"]}'\nn='1.5'\npass='s3cret'\nraw='aGVsbG8='\n",
        ),
        (
            Selector::Formatted(Format::Properties),
            Encoding::Utf8,
            "deep={\"a\"\\:[\"x\"]}\nn=1.5\npass=s3cret\nraw=aGVsbG8\\=\n",
        ),
    ] {
        let files = render_files(select.clone(), encoding).unwrap();
        assert_eq!(files, [("dir/name".to_owned(), text.to_owned())], "{select:?}");
    }
}

#[test]
fn all_keys_selector_renders_files_below_directory() {
    let paths: Vec<_> =
        render_files(Selector::AllKeys, Encoding::Utf8).unwrap().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["dir/name/deep", "dir/name/n", "dir/name/pass", "dir/name/raw"]);
}

#[test]
fn render_error_names_key_and_not_value() {
    for (select, encoding, cause, start) in [
        (Selector::Key("pass".into()), Encoding::Hex, Cause::RenderFailed, r#"key "pass": the value is not hex: "#),
        (Selector::AllKeys, Encoding::Hex, Cause::RenderFailed, r#"key "deep": the value is not hex: "#),
        (Selector::FullResponse, Encoding::Base64, Cause::RenderFailed, "the value is not base64: "),
        (
            Selector::Formatted(Format::Env),
            Encoding::Hex,
            Cause::InvalidRequest,
            "`encoding` does not go with `format`",
        ),
    ] {
        let error = render_files(select, encoding).unwrap_err();
        assert_eq!(error.cause(), cause);
        assert!(error.to_string().starts_with(start) && !error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn rendered_files_are_redacted_in_debug() {
    let files = render(&file_spec(Selector::AllKeys, Encoding::Utf8), &SecretResponse::parse(BODY.into()).unwrap());
    assert!(!format!("{files:?}").contains("s3cret"));
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map("data|metadata|version|[ab~/.]{0,3}", inner, 0..5)
                .prop_map(Value::from_iter),
        ]
    })
}

fn any_file_spec() -> impl Strategy<Value = FileSpec> {
    let select = prop_oneof![
        Just(Selector::FullResponse),
        Just(Selector::AllKeys),
        "data|[ab]|.{0,3}".prop_map(Selector::Key),
        "(/([ab]|data|0|~1)){0,4}|.{0,5}".prop_map(Selector::Pointer),
        proptest::sample::select(vec![Format::Json, Format::Yaml, Format::Env, Format::Properties])
            .prop_map(Selector::Formatted),
    ];
    let encoding = proptest::sample::select(vec![Encoding::Utf8, Encoding::Base64, Encoding::Hex]);
    (select, encoding).prop_map(|(select, encoding)| file_spec(select, encoding))
}

proptest! {
    #[test]
    fn render_of_arbitrary_data_does_not_panic(data in any_json(), recipe in any_file_spec()) {
        let response = SecretResponse::parse(serde_json::json!({ "data": data }).to_string().into()).unwrap();
        let _ = render(&recipe, &response);
    }

    #[test]
    fn render_of_corrupted_response_does_not_panic(at in 0..BODY.len(), byte: u8, recipe in any_file_spec()) {
        let mut body = BODY.as_bytes().to_vec();
        body[at] = byte;
        if let Ok(answer) = SecretResponse::parse(body) {
            let _ = render(&recipe, &answer);
        }
    }
}
