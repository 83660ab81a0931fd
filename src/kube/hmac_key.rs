//! HMAC key of file versions, stored in a Secret that all vaultmount pods share.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Kube, path, response::ApiResponse};
use crate::{
    error::{Cause, Error},
    secret::{SecretBytes, SecretText},
};

/// Entry of the Secret that contains the key.
const KEY_ENTRY: &str = "key";

/// Length of a new key in bytes. An existing key may have any other length, as with the Go provider: rejecting it would
/// change every version and restart workloads.
const KEY_BYTES: usize = 32;

impl Kube {
    /// Returns the key from the Secret `secret` in this process's namespace. If the Secret does not exist, creates it as
    /// immutable with 32 random bytes. If another pod creates it concurrently, returns that pod's key.
    pub async fn hmac_key(&self, secret: &str) -> Result<SecretBytes, Error> {
        let subject = format!("HMAC key in Secret {}/{secret}", self.namespace());
        let key = match self.read_key(secret).await {
            Ok(None) => self.create_key(secret).await,
            Ok(Some(key)) => Ok(key),
            Err(error) => Err(error),
        };
        key.map_err(|e| e.with_subject(subject))
    }

    /// Returns the key from the Secret `secret` in this process's namespace, if the Secret exists.
    pub async fn find_hmac_key(&self, secret: &str) -> Result<Option<SecretBytes>, Error> {
        let subject = || format!("HMAC key in Secret {}/{secret}", self.namespace());
        self.read_key(secret).await.map_err(|e| e.with_subject(subject()))
    }

    async fn read_key(&self, secret: &str) -> Result<Option<SecretBytes>, Error> {
        let response = self.client.get(&path::object(self.namespace(), "secrets", secret)?).await?;
        match response.status {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::FORBIDDEN => {
                Err(self.forbidden_error(&response, "get", &format!(", resourceNames: [{secret}]")))
            }
            _ => key_from_secret(&response).map(Some),
        }
    }

    async fn create_key(&self, secret: &str) -> Result<SecretBytes, Error> {
        let path = path::collection(self.namespace(), "secrets")?;
        let key = random_key()?;
        let response = self.client.post(&path, &NewSecret::new(self.namespace(), secret, &key)).await?;
        match response.status {
            StatusCode::CONFLICT => self.read_key(secret).await?.ok_or_else(|| {
                Error::new(
                    Cause::KubernetesApi,
                    "the Secret existed when vaultmount created it, but not when vaultmount read it",
                )
                .with_server_message(response.api_status().message)
            }),
            StatusCode::FORBIDDEN => Err(self.forbidden_error(&response, "create", "")),
            _ => key_from_secret(&response),
        }
    }

    fn forbidden_error(&self, response: &ApiResponse<'_>, verb: &str, resource_names: &str) -> Error {
        let namespace = self.namespace();
        response.to_error(Cause::VersionKey).with_fix(format!(
            "permission denied to {verb} secrets in namespace {namespace}: add the rule \
             {{apiGroups: [\"\"], resources: [secrets]{resource_names}, verbs: [{verb}]}} to a Role there"
        ))
    }
}

/// Returns the key from the Secret in a response. Any length except zero is valid.
fn key_from_secret(response: &ApiResponse<'_>) -> Result<SecretBytes, Error> {
    let secret: Secret = response.parse_object(Cause::VersionKey)?;
    let error = |problem: &str| {
        Error::new(Cause::VersionKey, problem)
            .with_fix("delete the Secret; vaultmount then creates a new one (file versions change)")
    };
    let mut data = secret.data.unwrap_or_default();
    let text = data.remove(KEY_ENTRY).ok_or_else(|| error("the Secret has no entry \"key\""))?;
    let bytes = STANDARD.decode(text.expose()).map_err(|_| error("the Secret's entry \"key\" is not base64"))?;
    match bytes.len() {
        0 => return Err(error("the Secret's entry \"key\" is empty")),
        short @ 1..KEY_BYTES => tracing::warn!(bytes = short, recommended_bytes = KEY_BYTES, "HMAC key is too short"),
        _ => {}
    }
    Ok(SecretBytes::from(bytes))
}

/// Returns a new random key in base64.
fn random_key() -> Result<Zeroizing<String>, Error> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_| Error::new(Cause::Internal, "the operating system cannot provide random bytes"))?;
    Ok(Zeroizing::new(STANDARD.encode(bytes.as_slice())))
}

#[derive(Deserialize)]
struct Secret {
    data: Option<BTreeMap<String, SecretText>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewSecret<'a> {
    api_version: &'static str,
    kind: &'static str,
    r#type: &'static str,
    metadata: Metadata<'a>,
    immutable: bool,
    data: NewSecretData<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
}

#[derive(Serialize)]
struct NewSecretData<'a> {
    key: &'a str,
}

impl<'a> NewSecret<'a> {
    fn new(namespace: &'a str, name: &'a str, key: &'a str) -> Self {
        Self {
            api_version: "v1",
            kind: "Secret",
            r#type: "Opaque",
            metadata: Metadata { name, namespace },
            immutable: true,
            data: NewSecretData { key },
        }
    }
}
