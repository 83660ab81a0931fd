//! One test's share of the real OpenBao: its own auth mount, engines and policies.

use std::sync::OnceLock;

use ::http::StatusCode;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use super::{http, required_env, unique_name};

/// One test's tenant. `auth` is a `jwt` mount that trusts [`issuer_key`], `kv` a KV v2 engine; role `app` may read all
/// of `kv`.
pub struct Tenant {
    pub address: String,
    pub auth: String,
    pub kv: String,
    pub policy: String,
}

/// Returns the key that signs the service account tokens of this run.
pub fn issuer_key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
}

/// Sends a request with the root token; a response other than success fails the test.
pub async fn root_request(method: &str, path: &str, body: Value) -> Value {
    let url = format!("{}/v1/{path}", required_env("VAULTMOUNT_TEST_BAO_ADDR"));
    let body = (!body.is_null()).then_some(&body);
    let (status, answer) = http::send(method, &url, Some(&required_env("VAULTMOUNT_TEST_BAO_TOKEN")), None, body).await;
    assert!(status.is_success(), "{method} {path}: {status} {answer}");
    answer
}

impl Tenant {
    pub async fn new() -> Self {
        let name = unique_name("t");
        let tenant = Self {
            address: required_env("VAULTMOUNT_TEST_BAO_ADDR"),
            auth: format!("jwt-{name}"),
            kv: format!("kv-{name}"),
            policy: name,
        };
        root_request("POST", &format!("sys/mounts/{}", tenant.kv), json!({"type": "kv", "options": {"version": "2"}}))
            .await;
        root_request("POST", &format!("sys/auth/{}", tenant.auth), json!({"type": "jwt"})).await;
        root_request(
            "POST",
            &format!("auth/{}/config", tenant.auth),
            json!({"jwt_validation_pubkeys": [issuer_key().public_key_pem()]}),
        )
        .await;
        tenant.set_policy(&format!("path \"{}/*\" {{ capabilities = [\"read\", \"list\"] }}", tenant.kv)).await;
        tenant.write_role("app", json!({})).await;
        // A new KV v2 engine is briefly unavailable while it upgrades itself.
        for _ in 0..200 {
            let url = format!("{}/v1/{}/config", tenant.address, tenant.kv);
            if http::send("GET", &url, Some(&required_env("VAULTMOUNT_TEST_BAO_TOKEN")), None, None).await.0
                == StatusCode::OK
            {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        tenant
    }

    /// Sets the policy of role `app`.
    pub async fn set_policy(&self, policy: &str) {
        root_request("PUT", &format!("sys/policies/acl/{}", self.policy), json!({"policy": policy})).await;
    }

    /// Writes a login role; `more` overrides the defaults.
    pub async fn write_role(&self, name: &str, more: Value) {
        let mut role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"],
            "token_policies": [self.policy], "token_ttl": "10m",
        });
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        root_request("POST", &format!("auth/{}/role/{name}", self.auth), role).await;
    }

    /// Revokes every login token, as an operator does in an emergency.
    pub async fn revoke_logins(&self) {
        root_request("PUT", &format!("sys/leases/revoke-prefix/auth/{}/login", self.auth), json!({"sync": true})).await;
    }

    /// Writes a secret into `kv`.
    pub async fn write_secret(&self, path: &str, data: Value) {
        root_request("POST", &format!("{}/data/{path}", self.kv), json!({"data": data})).await;
    }
}
