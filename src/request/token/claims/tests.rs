use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_795_334_400;

fn pod() -> Pod {
    Pod { name: "web-0".into(), namespace: "shop".into(), uid: "u-1".into(), service_account: "web".into() }
}

fn token(payload: &str) -> SecretText {
    format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(payload)).into()
}

fn looked_at(token: &SecretText) -> Result<Claims, Error> {
    look(token, &Expected { audience: Some("vault"), pod: &pod(), now: Timestamp::from_second(NOW).unwrap() })
}

/// As kubelet's own, with some claims changed.
fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "aud": ["vault"], "exp": NOW + 600, "iat": NOW, "iss": "https://kubernetes.default.svc",
        "kubernetes.io": {"namespace": "shop", "pod": {"name": "web-0", "uid": "u-1"}, "serviceaccount": {"name": "web", "uid": "u-2"}},
        "nbf": NOW, "sub": "system:serviceaccount:shop:web"
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn with(changes: &Value) -> Result<Claims, Error> {
    looked_at(&token(&claims(changes).to_string()))
}

#[test]
fn kubelets_own_token_passes_and_says_who_it_is() {
    assert_eq!(
        with(&json!({})),
        Ok(Claims {
            begins: Some(Timestamp::from_second(NOW).unwrap()),
            expires: Some(Timestamp::from_second(NOW + 600).unwrap()),
            audiences: Some(vec!["vault".into()]),
            service_account_uid: Some("u-2".into()),
            pod_uid: Some("u-1".into()),
        })
    );
}

#[test]
fn an_expired_token_says_since_when() {
    for exp in [json!(NOW - 90), json!(NOW), json!(0), json!(-1)] {
        assert_eq!(with(&json!({ "exp": exp })).unwrap_err().cause(), Cause::TokenExpired, "{exp}");
    }
    assert!(with(&json!({"exp": NOW + 1})).is_ok());
    assert_eq!(with(&json!({"exp": 1_795_334_400.5})).unwrap().expires.unwrap().subsec_millisecond(), 500);
    let said = with(&json!({"exp": NOW - 90})).unwrap_err().to_string();
    assert!(said.contains("expired at 2026-11-22T07:58:30Z, 1m 30s ago; ") && said.contains("clocks"), "{said}");
}

#[test]
fn another_audience_is_named() {
    for aud in [json!("api"), json!(["api", "factors"]), json!([])] {
        assert_eq!(with(&json!({ "aud": aud })).unwrap_err().cause(), Cause::TokenAudience, "{aud}");
    }
    let said = with(&json!({"aud": ["api", "factors"]})).unwrap_err().to_string();
    assert!(said.contains(r#"is for "api", "factors", not for audience "vault""#), "{said}");
    assert!(with(&json!({"aud": "vault"})).is_ok() && with(&json!({"aud": ["api", "vault"]})).is_ok());
    assert!(with(&json!({"aud": null})).is_ok());
}

#[test]
fn an_audience_that_does_not_matter_is_not_looked_at() {
    let token = token(&claims(&json!({"aud": "api"})).to_string());
    let expected = Expected { audience: None, pod: &pod(), now: Timestamp::from_second(NOW).unwrap() };
    assert_eq!(look(&token, &expected).unwrap().audiences.unwrap(), ["api"]);
}

#[test]
fn another_service_account_is_refused() {
    for changes in [
        json!({"sub": "system:serviceaccount:shop:admin"}),
        json!({"sub": "system:serviceaccount:kube-system:web"}),
        json!({"sub": null, "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "admin"}}}),
        json!({"sub": "x", "kubernetes.io": {"namespace": "other", "serviceaccount": {"name": "web"}}}),
    ] {
        let error = with(&changes).unwrap_err();
        assert_eq!(error.cause(), Cause::TokenIdentity);
        assert!(error.to_string().contains(r#"not of the pod's "shop/web""#), "{error}");
    }
    assert!(with(&json!({"sub": "x", "kubernetes.io": {}})).is_ok());
}

#[test]
fn what_is_no_jwt_passes_unlooked_at() {
    for opaque in ["", "hvs.CAESI", "a.b", "a.b.c", "a.b.c.d.e", "a.!!.c", "..", "é.é.é"] {
        assert_eq!(looked_at(&opaque.into()), Ok(Claims::default()), "{opaque}");
    }
    for payload in ["[]", "null", "5", "{", "\u{0}"] {
        assert_eq!(looked_at(&token(payload)), Ok(Claims::default()), "{payload}");
    }
}

#[test]
fn no_part_of_a_token_is_repeated() {
    let token = token(&claims(&json!({"aud": "api", "secret": "hunter2"})).to_string());
    let said = format!("{:?}", looked_at(&token));
    assert!(!said.contains("hunter2") && !said.contains(&token.expose()[..12]), "{said}");
}

proptest! {
    #[test]
    fn no_token_panics(payload in ".*", exp in any::<f64>(), text in ".*") {
        let _ = looked_at(&token(&payload));
        let _ = looked_at(&token(&format!("{{\"exp\":{exp}}}")));
        let _ = looked_at(&text.into());
    }
}
