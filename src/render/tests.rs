//! Each way of choosing, from answer to file.

use proptest::prelude::*;

use super::*;
use crate::error::Cause;

const BODY: &str = r#"{"request_id":"r","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":{"pass":"s3cret","raw":"aGVsbG8=","n":1.5,"deep":{"a":["x"]}},"metadata":{"created_time":"t","version":3}},"wrap_info":null,"warnings":null,"auth":null}"#;

fn recipe(select: Select, encoding: Encoding) -> Recipe {
    Recipe { file: "dir/name".into(), mode: 0o400, select, encoding }
}

fn rendered(select: Select, encoding: Encoding) -> Result<Vec<(String, String)>, Error> {
    let answer = SecretResponse::parse(BODY.into()).unwrap();
    let files = render(&recipe(select, encoding), &answer)?;
    assert!(files.iter().all(|file| file.mode == 0o400));
    Ok(files.into_iter().map(|file| (file.path, String::from_utf8(file.contents.expose().to_vec()).unwrap())).collect())
}

#[test]
fn one_file_by_each_selection() {
    let whole = r#"{"request_id":"r","lease_id":"","lease_duration":0,"renewable":false,"data":{"data":{"pass":"s3cret","raw":"aGVsbG8=","n":1.5,"deep":{"a":["x"]}},"metadata":{"created_time":"t","version":3}},"warnings":null}"#;
    for (select, encoding, text) in [
        (Select::Whole, Encoding::Utf8, whole),
        (Select::Key("pass".into()), Encoding::Utf8, "s3cret"),
        (Select::Key("raw".into()), Encoding::Base64, "hello"),
        (Select::Key("n".into()), Encoding::Utf8, "1.5"),
        (Select::Pointer("/deep/a/0".into()), Encoding::Utf8, "x"),
        (Select::Pointer("/raw".into()), Encoding::Base64, "hello"),
        (
            Select::Formatted(Format::Json),
            Encoding::Utf8,
            "{\"deep\":{\"a\":[\"x\"]},\"n\":1.5,\"pass\":\"s3cret\",\"raw\":\"aGVsbG8=\"}\n",
        ),
        (
            Select::Formatted(Format::Yaml),
            Encoding::Utf8,
            "deep: {\"a\": [\"x\"]}\n\"n\": 1.5\npass: s3cret\nraw: \"aGVsbG8=\"\n",
        ),
        (
            Select::Formatted(Format::Env),
            Encoding::Utf8,
            "deep='{\"a\":[\"x\"]}'\nn='1.5'\npass='s3cret'\nraw='aGVsbG8='\n",
        ),
        (
            Select::Formatted(Format::Properties),
            Encoding::Utf8,
            "deep={\"a\"\\:[\"x\"]}\nn=1.5\npass=s3cret\nraw=aGVsbG8\\=\n",
        ),
    ] {
        let files = rendered(select.clone(), encoding).unwrap();
        assert_eq!(files, [("dir/name".to_owned(), text.to_owned())], "{select:?}");
    }
}

#[test]
fn every_key_is_a_file_in_the_directory() {
    let paths: Vec<_> = rendered(Select::EachKey, Encoding::Utf8).unwrap().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["dir/name/deep", "dir/name/n", "dir/name/pass", "dir/name/raw"]);
}

#[test]
fn what_cannot_be_decoded_is_told_by_its_key() {
    for (select, encoding, cause, start) in [
        (Select::Key("pass".into()), Encoding::Hex, Cause::Render, r#"key "pass": the value is not hex: "#),
        (Select::EachKey, Encoding::Hex, Cause::Render, r#"key "deep": the value is not hex: "#),
        (Select::Whole, Encoding::Base64, Cause::Render, "the value is not base64: "),
        (Select::Formatted(Format::Env), Encoding::Hex, Cause::InvalidRequest, "`encoding` does not go with `format`"),
    ] {
        let error = rendered(select, encoding).unwrap_err();
        assert_eq!(error.cause(), cause);
        assert!(error.to_string().starts_with(start) && !error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let files = render(&recipe(Select::EachKey, Encoding::Utf8), &SecretResponse::parse(BODY.into()).unwrap());
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

fn any_recipe() -> impl Strategy<Value = Recipe> {
    let select = prop_oneof![
        Just(Select::Whole),
        Just(Select::EachKey),
        "data|[ab]|.{0,3}".prop_map(Select::Key),
        "(/([ab]|data|0|~1)){0,4}|.{0,5}".prop_map(Select::Pointer),
        proptest::sample::select(vec![Format::Json, Format::Yaml, Format::Env, Format::Properties])
            .prop_map(Select::Formatted),
    ];
    let encoding = proptest::sample::select(vec![Encoding::Utf8, Encoding::Base64, Encoding::Hex]);
    (select, encoding).prop_map(|(select, encoding)| recipe(select, encoding))
}

proptest! {
    #[test]
    fn any_data_is_rendered_or_refused(data in any_json(), recipe in any_recipe()) {
        let answer = SecretResponse::parse(serde_json::json!({ "data": data }).to_string().into()).unwrap();
        let _ = render(&recipe, &answer);
    }

    #[test]
    fn any_broken_body_is_rendered_or_refused(at in 0..BODY.len(), byte: u8, recipe in any_recipe()) {
        let mut body = BODY.as_bytes().to_vec();
        body[at] = byte;
        if let Ok(answer) = SecretResponse::parse(body) {
            let _ = render(&recipe, &answer);
        }
    }
}
