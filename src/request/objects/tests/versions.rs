use super::*;
use crate::secret::SecretText;

fn version_configs(text: &str) -> Vec<String> {
    let (objects, message, _) = parse_list(text);
    assert_eq!(message, "", "{text}");
    objects.iter().map(|object| object.version_config.expose().to_owned()).collect()
}

fn version_config(fields: &str) -> String {
    parse_fields(fields).version_config.expose().to_owned()
}

/// Objects with the JSON that Go 1.26 encodes from the Go provider's struct, decoded by yaml.v3 3.0.1.
const VECTORS: [(&str, &[&str]); 12] = [
    (
        "- objectName: db-pass
  secretPath: secret/data/db
  secretKey: pass
",
        &[
            r#"{"ObjectName":"db-pass","SecretPath":"secret/data/db","SecretKey":"pass","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        "- objectName: a
  secretPath: /v1/secret/data/x?version=1
  method: get
  filePermission: 0440
  encoding: Base64
",
        &[
            r#"{"ObjectName":"a","SecretPath":"/v1/secret/data/x?version=1","SecretKey":"","Method":"get","SecretArgs":null,"FilePermission":288,"Encoding":"Base64"}"#,
        ],
    ),
    (
        "- {objectName: 123, secretPath: x, secretKey: true}
",
        &[
            r#"{"ObjectName":"123","SecretPath":"x","SecretKey":"true","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        "- {objectName: 1.50, secretPath: 0x1F, secretKey: ~, method: , encoding: null}
",
        &[
            r#"{"ObjectName":"1.50","SecretPath":"0x1F","SecretKey":"","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        "- objectName: a
  secretPath: x
  secretKey: null
  secretArgs:
",
        &[
            r#"{"ObjectName":"a","SecretPath":"x","SecretKey":"","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        "- objectName: a
  secretPath: x
  method: PUT
  secretArgs: {}
",
        &[
            r#"{"ObjectName":"a","SecretPath":"x","SecretKey":"","Method":"PUT","SecretArgs":{},"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        r#"- objectName: "<a>&b"
  secretPath: "caf\u00e9/\u2028"
  secretKey: "tab\there\b\f\r\x01\"\\"
"#,
        &[
            r#"{"ObjectName":"\u003ca\u003e\u0026b","SecretPath":"café/\u2028","SecretKey":"tab\there\b\f\r\u0001\"\\","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        r#"- objectName: cert
  secretPath: pki/issue/web
  method: PUT
  secretArgs:
    ttl: 24h
    common_name: a.example.com
    alt_names: [b, "c", 1, 1.50, yes, ~]
    not_after: 2030-01-01
    max: 1_000
    ratio: 1e-7
    big: 18446744073709551616
    nested: {z: 1, a: {"1": x}, B: "2030-01-01"}
    flag: true
    text: !!str 12
    tagged: !foo 12
    block: |-
      2030-01-01
    folded: >
      a
      b
    empty: |
    html: "<>&\u2028\u2029\0"
    1: one
    true: two
    1.50: three
"#,
        &[
            r#"{"ObjectName":"cert","SecretPath":"pki/issue/web","SecretKey":"","Method":"PUT","SecretArgs":{"1":"one","1.50":"three","alt_names":["b","c",1,1.5,"yes",null],"big":18446744073709552000,"block":"2030-01-01","common_name":"a.example.com","empty":"","flag":true,"folded":"a b\n","html":"\u003c\u003e\u0026\u2028\u2029\u0000","max":1000,"nested":{"B":"2030-01-01","a":{"1":"x"},"z":1},"not_after":"2030-01-01T00:00:00Z","ratio":1e-7,"tagged":"12","text":"12","true":"two","ttl":"24h"},"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        "- &base
  objectName: a
  secretPath: x
  method: PUT
  secretArgs: &args {k: v, n: 0o17}
- <<: *base
  objectName: b
- <<: [*base]
  objectName: c
  secretArgs:
    <<: *args
    k: w
",
        &[
            r#"{"ObjectName":"a","SecretPath":"x","SecretKey":"","Method":"PUT","SecretArgs":{"k":"v","n":15},"FilePermission":0,"Encoding":""}"#,
            r#"{"ObjectName":"b","SecretPath":"x","SecretKey":"","Method":"PUT","SecretArgs":{"k":"v","n":15},"FilePermission":0,"Encoding":""}"#,
            r#"{"ObjectName":"c","SecretPath":"x","SecretKey":"","Method":"PUT","SecretArgs":{"k":"w","n":15},"FilePermission":0,"Encoding":""}"#,
        ],
    ),
    (
        r#"[{"objectName":"a","secretPath":"x","filePermission":288,"secretArgs":{"k":"v\u003c","n":1.5}}]"#,
        &[
            r#"{"ObjectName":"a","SecretPath":"x","SecretKey":"","Method":"","SecretArgs":{"k":"v\u003c","n":1.5},"FilePermission":288,"Encoding":""}"#,
        ],
    ),
    (
        "- objectName: a
  secretPath: x
  filePermission: 0
-
- objectName: b
  secretPath: x
  filePermission: 0x1ff
",
        &[
            r#"{"ObjectName":"a","SecretPath":"x","SecretKey":"","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#,
            r#"{"ObjectName":"b","SecretPath":"x","SecretKey":"","Method":"","SecretArgs":null,"FilePermission":511,"Encoding":""}"#,
        ],
    ),
    (
        r#"---
# comment
- objectName: !!str 5
  secretPath: &p x
  secretKey: *p
  objectVersion: "2"
...
"#,
        &[
            r#"{"ObjectName":"5","SecretPath":"x","SecretKey":"x","Method":"","SecretArgs":null,"FilePermission":0,"Encoding":""}"#,
        ],
    ),
];

#[test]
fn version_config_matches_go_provider() {
    for (text, want) in VECTORS {
        assert_eq!(version_configs(text), want, "{text}");
        // The last line break makes no difference.
        assert_eq!(version_configs(text.trim_end_matches('\n')), want, "{text}");
    }
}

#[test]
fn version_config_is_not_normalized() {
    let text = "- {objectName: a, secretPath: /v1//x/?b&a, method: gEt, encoding: UTF-8, filePermission: '0440'}";
    let want = r#"{"ObjectName":"a","SecretPath":"/v1//x/?b\u0026a","SecretKey":"","Method":"gEt","SecretArgs":null,"FilePermission":288,"Encoding":"UTF-8"}"#;
    assert_eq!(version_configs(text), [want]);
}

#[test]
fn version_config_has_own_fields_only_if_they_change_the_file() {
    let plain = version_config("");
    for fields in ["  optional: true", "  format: ''", "  secretPointer:", "  unknown: x"] {
        let text = format!("- objectName: a\n  secretPath: p\n{fields}");
        assert_eq!(version_configs(&text), [plain.as_str()], "{fields}");
    }
    let start = plain.trim_end_matches('}');
    assert_eq!(version_config("  secretPointer: ''"), format!(r#"{start},"SecretPointer":""}}"#));
    assert_eq!(version_config("  secretPointer: /a<"), format!(r#"{start},"SecretPointer":"/a\u003c"}}"#));
    assert_eq!(version_config("  format: Env"), format!(r#"{start},"Format":"Env"}}"#));
}

/// A test vector checked against the real provider: a key of 32 `a`, content `s3cret`.
#[test]
fn version_from_config_matches_go_provider() {
    let text = "- {objectName: db-pass, secretPath: secret/data/db, secretKey: pass}";
    let config: SecretText = parse_list(text).0[0].version_config.clone();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &[b'a'; 32]);
    let tag = ring::hmac::sign(&key, format!("{}s3cret", config.expose()).as_bytes());
    let version = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, tag);
    assert_eq!(version, "Clkdg4BFjyu6Oxd5vOpGVTwEjWrkMITwyOOwl1k0AZU=");
}
