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

fn inspect_token(token: &SecretText) -> Result<Claims, Error> {
    inspect(token, &ExpectedClaims { audience: Some("vault"), pod: &pod(), now: Timestamp::from_second(NOW).unwrap() })
}

/// Claims as in kubelet's tokens, with some of them changed.
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

fn inspect_with(changes: &Value) -> Result<Claims, Error> {
    inspect_token(&token(&claims(changes).to_string()))
}

#[test]
fn service_account_token_claims_are_returned() {
    assert_eq!(
        inspect_with(&json!({})),
        Ok(Claims {
            not_before: Some(Timestamp::from_second(NOW).unwrap()),
            expires_at: Some(Timestamp::from_second(NOW + 600).unwrap()),
            audiences: Some(vec!["vault".into()]),
            service_account_uid: Some("u-2".into()),
            pod_uid: Some("u-1".into()),
        })
    );
}

#[test]
fn service_account_token_expired_is_rejected_with_time() {
    for exp in [json!(NOW - 90), json!(NOW), json!(0), json!(-1)] {
        assert_eq!(inspect_with(&json!({ "exp": exp })).unwrap_err().cause(), Cause::TokenExpired, "{exp}");
    }
    assert!(inspect_with(&json!({"exp": NOW + 1})).is_ok());
    assert_eq!(inspect_with(&json!({"exp": 1_795_334_400.5})).unwrap().expires_at.unwrap().subsec_millisecond(), 500);
    let message = inspect_with(&json!({"exp": NOW - 90})).unwrap_err().to_string();
    assert!(
        message.contains("expired at 2026-11-22T07:58:30Z, 1m 30s ago; ") && message.contains("clocks"),
        "{message}"
    );
}

#[test]
fn service_account_token_of_other_audience_is_rejected() {
    for aud in [json!("api"), json!(["api", "factors"]), json!([])] {
        assert_eq!(inspect_with(&json!({ "aud": aud })).unwrap_err().cause(), Cause::TokenAudience, "{aud}");
    }
    let message = inspect_with(&json!({"aud": ["api", "factors"]})).unwrap_err().to_string();
    assert!(message.contains(r#"is for "api", "factors", not for audience "vault""#), "{message}");
    assert!(inspect_with(&json!({"aud": "vault"})).is_ok() && inspect_with(&json!({"aud": ["api", "vault"]})).is_ok());
    assert!(inspect_with(&json!({"aud": null})).is_ok());
}

#[test]
fn service_account_token_audience_unchecked_if_none_expected() {
    let token = token(&claims(&json!({"aud": "api"})).to_string());
    let expected = ExpectedClaims { audience: None, pod: &pod(), now: Timestamp::from_second(NOW).unwrap() };
    assert_eq!(inspect(&token, &expected).unwrap().audiences.unwrap(), ["api"]);
}

#[test]
fn token_of_other_service_account_is_rejected() {
    for changes in [
        json!({"sub": "system:serviceaccount:shop:admin"}),
        json!({"sub": "system:serviceaccount:kube-system:web"}),
        json!({"sub": null, "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "admin"}}}),
        json!({"sub": "x", "kubernetes.io": {"namespace": "other", "serviceaccount": {"name": "web"}}}),
    ] {
        let error = inspect_with(&changes).unwrap_err();
        assert_eq!(error.cause(), Cause::TokenIdentity);
        assert!(error.to_string().contains(r#"not of the pod's "shop/web""#), "{error}");
    }
    assert!(inspect_with(&json!({"sub": "x", "kubernetes.io": {}})).is_ok());
}

#[test]
fn token_that_is_no_jwt_is_accepted_unchecked() {
    for opaque in ["", "hvs.CAESI", "a.b", "a.b.c", "a.b.c.d.e", "a.!!.c", "..", "é.é.é"] {
        assert_eq!(inspect_token(&opaque.into()), Ok(Claims::default()), "{opaque}");
    }
    for payload in ["[]", "null", "5", "{", "\u{0}"] {
        assert_eq!(inspect_token(&token(payload)), Ok(Claims::default()), "{payload}");
    }
}

#[test]
fn service_account_token_is_not_echoed() {
    let token = token(&claims(&json!({"aud": "api", "secret": "hunter2"})).to_string());
    let message = format!("{:?}", inspect_token(&token));
    assert!(!message.contains("hunter2") && !message.contains(&token.expose()[..12]), "{message}");
}

proptest! {
    #[test]
    fn service_account_token_of_any_text_does_not_panic(payload in ".*", exp in any::<f64>(), text in ".*") {
        let _ = inspect_token(&token(&payload));
        let _ = inspect_token(&token(&format!("{{\"exp\":{exp}}}")));
        let _ = inspect_token(&text.into());
    }
}
