//! The context of a mount: the Vault that the class selects and the operator allows, the pod's session there, and its credential.

use std::sync::{Arc, atomic::AtomicBool};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::MountService;
use crate::{
    error::{Cause, Error},
    kube::BoundPod,
    policy::{PolicyDenial, PolicyRequest, VaultTarget},
    request::{
        Class, MountSpec, Pod,
        token::{self, Claims, ExpectedClaims},
    },
    secret::SecretText,
    session::{ANY_POD, CredentialSource, LoginCredential, Session, SessionKey, SharingPod},
    vault::error::TokenClaims,
};

/// The Vault, session and login credential of one mount.
pub(crate) struct MountContext {
    pub(crate) target: VaultTarget,
    pub(crate) session: Arc<Session>,
    pub(crate) credentials: CredentialSource,
    /// True once a stale secret is served because Vault is unavailable.
    pub(super) served_stale: AtomicBool,
    /// Start of the mount.
    pub(super) started_at: Instant,
}

impl MountService {
    /// Returns the context of a mount; no request has been sent to Vault.
    pub(crate) async fn open_context(&self, spec: &MountSpec, default_audience: &str) -> Result<MountContext, Error> {
        let started_at = Instant::now();
        let denied = |PolicyDenial { rule, error }| {
            self.observer.count_policy_denial(rule);
            error
        };
        let target = self.authorize(spec, default_audience).map_err(denied)?;
        self.operator.check_symlinks(&target).await.map_err(denied)?;
        self.observer.record_tenant_address(spec, &target, &self.operator);
        let audience = spec.class.audience.as_deref().unwrap_or(default_audience);
        let session = self.open_session(spec, &target, audience).await?;
        let credentials = self.credential_source(spec, &target, audience);
        Ok(MountContext { target, session, credentials, served_stale: AtomicBool::new(false), started_at })
    }

    /// Returns the Vault that a class selects, with the pod's volumeAttributes applied, if the operator allows it.
    pub(super) fn authorize(&self, spec: &MountSpec, default_audience: &str) -> Result<VaultTarget, PolicyDenial> {
        let MountSpec { pod, class, .. } = spec;
        let audience = class.audience.as_deref().unwrap_or(default_audience);
        let target = self.operator.evaluate(&PolicyRequest {
            choice: &class.choice,
            namespace: &pod.namespace,
            audience,
            default_audience,
        })?;
        self.authorize_sharing(class)?;
        Ok(target)
    }

    /// Denies a class with a shared session that exposes what belongs to one token.
    fn authorize_sharing(&self, class: &Class) -> Result<(), PolicyDenial> {
        let own = class.objects.iter().find(|object| class.is_token_shared && object.request.is_token_scoped());
        own.map_or(Ok(()), |object| self.operator.evaluate_sharing(&object.file_spec.path))
    }

    async fn open_session(
        &self,
        spec: &MountSpec,
        target: &VaultTarget,
        audience: &str,
    ) -> Result<Arc<Session>, Error> {
        let key = session_key(spec, target, audience)?;
        let Pod { uid, name, .. } = &spec.pod;
        let choice = &spec.class.choice;
        let client = if target.is_operator_address && !choice.has_tls_settings() {
            self.vault.operator_client(&target.endpoint).await
        } else {
            let chosen = self.vault.tenant_client(&target.endpoint, &spec.pod.namespace).await;
            if chosen.as_ref().is_err_and(|error| error.cause() == Cause::ProviderAtCapacity)
                && self.sessions.evict_unused()
            {
                self.vault.tenant_client(&target.endpoint, &spec.pod.namespace).await
            } else {
                chosen
            }
        };
        match client {
            Ok(client) => {
                self.sessions.get_or_create(key, &SharingPod { uid: uid.clone(), name: name.clone() }, client)
            }
            // Invalid TLS files must not fail the polls of a pod that has its secrets.
            Err(error) => self.sessions.find(&key, uid).filter(|s| s.has_volume(&spec.target_path)).ok_or(error),
        }
    }

    /// Returns the source of the pod's login credential: the driver's token for the audience, or a minted one.
    fn credential_source(&self, spec: &MountSpec, target: &VaultTarget, audience: &str) -> CredentialSource {
        let given = spec.tokens.for_audience(audience).cloned();
        let (pod, audience) = (spec.pod.clone(), audience.to_owned());
        // A policy allowed this audience: no other token is minted.
        let allowed = self.operator.policy_file.as_ref().map(|_| audience.clone());
        let asked = spec.class.audience.clone().or(allowed);
        let mint = self.token_minter.clone();
        let own_address = target.is_operator_address;
        let passed = spec.tokens.audiences().map(str::to_owned).collect::<Vec<_>>();
        Arc::new(move || {
            let (given, pod, audience, asked, mint, passed) =
                (given.clone(), pod.clone(), audience.clone(), asked.clone(), mint.clone(), passed.clone());
            async move {
                if let Some(jwt) = given {
                    let claims = token::inspect(
                        &jwt,
                        &ExpectedClaims { audience: Some(&audience), pod: &pod, now: jiff::Timestamp::now() },
                    )?;
                    return Ok(login_credential(jwt, claims));
                }
                let Some(kube) = mint else { return Err(missing_token_error(&audience, &passed)) };
                if asked.is_none() && !own_address {
                    // The API server accepts a token without audience, too: never send it to an address that a tenant chose.
                    return Err(missing_token_error(&audience, &passed));
                }
                if asked.is_none() {
                    tracing::warn!(
                        pod = pod.name,
                        namespace = pod.namespace,
                        "minting a service account token without audience, which the API server accepts, too"
                    );
                }
                let jwt: SecretText = kube
                    .mint_token(
                        &pod.namespace,
                        &pod.service_account,
                        asked.as_deref(),
                        Some(BoundPod { name: &pod.name, uid: &pod.uid }),
                    )
                    .await?;
                let claims = token::inspect(
                    &jwt,
                    &ExpectedClaims { audience: asked.as_deref(), pod: &pod, now: jiff::Timestamp::now() },
                )?;
                Ok(login_credential(jwt, claims))
            }
            .boxed()
        })
    }
}

pub(super) fn session_key(spec: &MountSpec, target: &VaultTarget, audience: &str) -> Result<SessionKey, Error> {
    let (pod_uid, pod_name, shared_by) = if spec.class.is_token_shared {
        (String::new(), ANY_POD.to_owned(), Some(service_account_uid(spec, audience)?))
    } else {
        (spec.pod.uid.clone(), spec.pod.name.clone(), None)
    };
    Ok(SessionKey {
        endpoint: Arc::clone(&target.endpoint),
        namespace: target.namespace.clone(),
        auth_namespace: target.auth_namespace.clone(),
        auth_mount: target.auth_mount.clone(),
        role: spec.class.role.clone(),
        audience: audience.to_owned(),
        pod_uid,
        pod_name,
        pod_namespace: spec.pod.namespace.clone(),
        service_account: spec.pod.service_account.clone(),
        shared_by_account_uid: shared_by,
    })
}

/// The UID of the pod's service account, as its token says. Name and namespace, which are the session's, too, are kubelet's word:
/// what a pod writes into its own attributes can name no other.
fn service_account_uid(spec: &MountSpec, audience: &str) -> Result<String, Error> {
    let passed = || spec.tokens.audiences().map(str::to_owned).collect::<Vec<_>>();
    let token = spec.tokens.for_audience(audience).ok_or_else(|| missing_token_error(audience, &passed()))?;
    token::service_account_uid(token)
}

fn login_credential(jwt: SecretText, claims: Claims) -> LoginCredential {
    let Claims { not_before: begins, expires_at: ends, audiences, .. } = claims;
    LoginCredential {
        jwt,
        claims: TokenClaims { audiences: audiences.unwrap_or_default(), not_before: begins, expires_at: ends },
    }
}

fn missing_token_error(audience: &str, passed: &[String]) -> Error {
    let (names, other) = match passed {
        [] => ("none".to_owned(), ""),
        some => (
            some.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "),
            ", or set the class's `audience` to one that is passed",
        ),
    };
    Error::new(
        Cause::TokenMissing,
        format!("the driver passed no service account token for audience {audience:?} (passed: {names})"),
    )
    .with_fix(format!(
        "list it in the CSIDriver object secrets-store.csi.k8s.io: spec.tokenRequests: [{{audience: {audience}}}]{other}"
    ))
}
