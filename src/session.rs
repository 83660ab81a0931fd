//! Sessions: one Vault token per pod identity, and the secrets read under it.

mod login;
mod maintenance;
mod persistence;
mod preflight;
mod registry;
mod revocation;
mod sharing;
mod status;
mod volumes;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tokio::{
    sync::{RwLock, RwLockReadGuard},
    time::Instant,
};

use crate::{
    cache::{
        CachedSecret, DueSecret, FetchOutcome, FetchedSecret, Lookup, LookupOptions, Refresh, SecretCache,
        SessionToken,
        kind::{ReadSource, RotationReason, SecretKind},
    },
    clock,
    error::{Cause, Error},
    observe::{
        Observers,
        events::{EventReason, EventSubject},
    },
    secret::SecretText,
    single_flight::SingleFlight,
    vault::{
        Client, Endpoint,
        breaker::Outage,
        client::VaultToken,
        error::{ReadContext, RequestError, TokenClaims},
        request::SecretRequest,
    },
};
use persistence::StateFile;
pub use persistence::{PendingStateFile, SavedSession};
pub use registry::{Delivery, MAX_SILENCE_UNWATCHED, PodWithSessions, SessionRegistry};
pub use revocation::{PendingRevocation, RevocationResult};
pub use sharing::SharingPod;
use sharing::SharingPods;
use volumes::{ReportedBy, Volumes};

/// Properties that decide which token a pod gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// Vault server.
    pub endpoint: Arc<Endpoint>,
    /// Vault namespace of the secrets.
    pub namespace: Option<String>,
    /// Vault namespace of the logins.
    pub auth_namespace: Option<String>,
    /// Path of the auth mount, without `auth/`.
    pub auth_mount: String,
    /// The login role.
    pub role: String,
    /// The service account token's audience.
    pub audience: String,
    /// UID of the pod; empty when pods share the session.
    pub pod_uid: String,
    /// Name of the pod; [`ANY_POD`] when pods share the session.
    pub pod_name: String,
    /// The pod's Kubernetes namespace.
    pub pod_namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// UID of the service account that shares the session among its pods; `None` for a session of one pod.
    pub shared_by_account_uid: Option<String>,
}

/// Placeholder for the pod name in a session that pods share.
pub const ANY_POD: &str = "*";

/// Credential that proves the pod's identity to Vault.
pub struct LoginCredential {
    /// The service account token.
    pub jwt: SecretText,
    /// Claims of the token, for messages.
    pub claims: TokenClaims,
}

/// Supplies a pod's login credential when a login needs it.
pub type CredentialSource = Arc<dyn Fn() -> BoxFuture<'static, Result<LoginCredential, Error>> + Send + Sync>;

/// Session of a pod, or of a service account, at one Vault.
pub struct Session {
    /// Unique among the sessions of this process.
    id: u64,
    key: SessionKey,
    observers: Observers,
    started_at: Instant,
    login_in_flight: SingleFlight<Result<Arc<SessionToken>, Error>>,
    cache: SecretCache,
    /// Read-locked during requests that create something to revoke with the pod; write-locked at the session's end.
    activity_lock: RwLock<()>,
    /// Set while background maintenance works on the session.
    is_in_maintenance: AtomicBool,
    state_file: StateFile,
    /// Never held across an await.
    state: Mutex<SessionState>,
}

struct SessionState {
    /// Current client of the endpoint, rebuilt after TLS files are fixed. Holds the error if the files were broken when
    /// this process began.
    client: Result<Client, Error>,
    token: Option<Arc<SessionToken>>,
    /// Tokens of earlier logins. Credentials that the pod still uses may depend on them.
    superseded_tokens: Vec<Arc<SessionToken>>,
    volumes: Volumes,
    /// Pods that share the session.
    sharing_pods: SharingPods,
    last_poll_at: Instant,
    ended: bool,
    /// Reason for paused renewals, set once it is logged.
    renewal_paused: Option<&'static str>,
    /// Next attempt at renewals that an outage deferred.
    retry_after_outage: Option<Instant>,
    token_warning_sent: bool,
    last_success_at: Option<Instant>,
    last_error: Option<LastError>,
}

/// Last failure of a session.
#[derive(Clone, Debug)]
pub struct LastError {
    /// Time of the failure.
    pub at: Instant,
    /// Operation that failed.
    pub operation: &'static str,
    /// Error text, as reported.
    pub message: String,
}

/// Limits for re-reading a static credential that is due for rotation: total time and delay. Vault serves the old one for up to
/// 1.6 s after its rotation time (measured against OpenBao 2.7).
const ROTATION_LAG_TIMEOUT: Duration = Duration::from_secs(3);
const ROTATION_RETRY_DELAY: Duration = Duration::from_millis(250);
/// Maximum wait of a mount for the check of a token that the pod's secrets depend on.
const TOKEN_VERIFY_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time between checks of a token in mounts of its secrets, even if the class refreshes less often.
const MAX_TOKEN_VERIFY_INTERVAL: Duration = Duration::from_secs(120);

impl Session {
    fn new(key: SessionKey, client: Result<Client, Error>, observers: Observers, recorder: StateFile) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = clock::now();
        let state = SessionState {
            client,
            token: None,
            superseded_tokens: Vec::new(),
            volumes: Volumes::default(),
            sharing_pods: SharingPods::default(),
            last_poll_at: now,
            ended: false,
            renewal_paused: None,
            retry_after_outage: None,
            token_warning_sent: false,
            last_success_at: None,
            last_error: None,
        };
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            key,
            observers,
            started_at: now,
            login_in_flight: SingleFlight::default(),
            cache: SecretCache::default(),
            activity_lock: RwLock::default(),
            is_in_maintenance: AtomicBool::new(false),
            state_file: recorder,
            state: Mutex::new(state),
        }
    }

    /// Returns the ID of the session, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the key of the session.
    #[must_use]
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Ensures a session token, so that a denied login is reported once and not for each object.
    pub async fn ensure_token(
        self: &Arc<Self>,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.token_or_login(credentials, None, deadline).await.map(|_| ())
    }

    /// Checks with Vault the tokens that a mount's secrets depend on. Undelivered secrets are checked each time. For
    /// delivered ones, a check runs if Vault last accepted the token longer ago than the refresh age of a plain secret. A token an
    /// operator revoked is thus replaced as soon as a changed secret would be seen.
    pub async fn verify_tokens<'a>(
        &self,
        requests: impl Iterator<Item = &'a Arc<SecretRequest>>,
        refresh: Refresh,
        deadline: Instant,
    ) {
        if self.outage().is_some() {
            return;
        }
        let (now, Ok(client)) = (clock::now(), self.client()) else { return };
        let tokens = self.cache.tokens_to_verify(requests, now, token_verify_interval(refresh));
        join_all(tokens.into_iter().map(async |(token, is_undelivered)| {
            // The pod keeps its secrets if Vault does not answer, so this check must not use the whole deadline.
            let remaining = clock::remaining(deadline) / 2;
            let verify_deadline =
                Instant::now() + if is_undelivered { remaining } else { remaining.min(TOKEN_VERIFY_TIMEOUT) };
            if client.is_token_invalid(&token.vault_token, self.login_namespace(), verify_deadline).await {
                self.mark_token_revoked(&token);
            } else {
                // A check that failed to reach Vault also counts, so the next attempt waits the full interval.
                token.mark_verified(now);
            }
        }))
        .await;
    }

    /// Returns the current Vault outage, if one is known.
    #[must_use]
    pub fn outage(&self) -> Option<Arc<Outage>> {
        self.state().outage()
    }

    /// Runs work that needs Vault, until Vault is known to be down. Requests already sent complete all
    /// the same.
    pub async fn unless_outage<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let client = self.client()?;
        tokio::select! {
            biased;
            outage = client.wait_until_down() => Err(outage.rejection.clone()),
            outcome = work => outcome,
        }
    }

    /// Requests an immediate health probe, since the pod has no secrets without Vault.
    pub fn request_probe(&self) {
        if let Ok(client) = self.client() {
            client.request_probe(Duration::ZERO);
        }
    }

    /// Returns the cached secrets of these requests if all are fresh and no request to Vault is needed.
    #[must_use]
    pub fn get_all_fresh<'a>(
        &self,
        requests: impl Iterator<Item = &'a Arc<SecretRequest>>,
        refresh: Refresh,
    ) -> Option<Vec<Arc<CachedSecret>>> {
        self.cache.get_all_fresh(requests, &self.lookup_options(refresh), token_verify_interval(refresh))
    }

    /// Looks up the cached secret of a request, and its freshness.
    #[must_use]
    pub fn lookup(&self, request: &SecretRequest, refresh: Refresh) -> Lookup {
        self.cache.lookup(request, &self.lookup_options(refresh))
    }

    /// Returns `true` if the volume was mounted under this session.
    #[must_use]
    pub fn has_volume(&self, target_path: &str) -> bool {
        self.state().volumes.iter().any(|volume| &*volume.target_path == target_path)
    }

    /// Records that an event reported a failed poll of a volume. The mark stays until the recovery is reported.
    pub fn mark_refresh_failed(self: &Arc<Self>, target_path: &str) {
        if self.state().volumes.mark_refresh_failed(target_path) {
            self.mark_dirty();
            self.persist_in_background();
        }
    }

    /// Records successful polls of a volume. Returns the recovery event to emit if a failure was reported.
    pub fn take_refresh_recovery(self: &Arc<Self>, target_path: &str) -> Option<EventReason> {
        let reported_by = self.state().volumes.take_refresh_failure(target_path)?;
        self.mark_dirty();
        self.persist_in_background();
        Some(match reported_by {
            ReportedBy::ThisProcess => EventReason::RefreshRecovered,
            ReportedBy::EarlierProcess => EventReason::RefreshRecoveredAfterRestart,
        })
    }

    /// Returns `true` if the volume received these secrets before, or if an earlier process delivered to it.
    pub fn has_delivered<'a>(
        &self,
        target_path: &str,
        mut secrets: impl Iterator<Item = &'a Arc<CachedSecret>>,
    ) -> bool {
        let state = self.state();
        let volume = state.volumes.iter().find(|volume| &*volume.target_path == target_path);
        volume.is_some_and(|volume| secrets.all(|secret| volume.has_delivered(secret.serial)))
    }

    /// Fetches a due secret, with at most one equal request in flight. Also returns the source of the response.
    pub async fn fetch_secret(
        self: &Arc<Self>,
        request: &Arc<SecretRequest>,
        due: &DueSecret,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<(FetchOutcome, ReadSource), Error> {
        let was_fetched = Arc::new(AtomicBool::new(false));
        loop {
            // A secret bound to an expiring token must be fetched under another token.
            let expiring_token = due.token.clone().filter(|_| due.reason == Some(RotationReason::Token));
            let (session, replaced_request, reason) = (Arc::clone(self), Arc::clone(request), due.reason);
            let on_stored = move |replaced_kind: Option<SecretKind>, mutating| {
                session.mark_dirty();
                if mutating {
                    session.persist_in_background();
                }
                if let Some(kind) = replaced_kind {
                    session.record_rotation(&replaced_request, kind, reason.unwrap_or(RotationReason::RefreshDue));
                }
            };
            let fetch = || {
                let (session, request, credentials) = (Arc::clone(self), Arc::clone(request), Arc::clone(credentials));
                let was_fetched = Arc::clone(&was_fetched);
                async move {
                    was_fetched.store(true, Relaxed);
                    session.fetch_awaiting_rotation(&request, expiring_token.as_ref(), &credentials, deadline).await
                }
            };
            let outcome = self.cache.fetch(request, due, fetch, on_stored);
            match outcome.await {
                // The request and its deadline belonged to another caller.
                Err(error) if error.cause() == Cause::DeadlineExceeded && Instant::now() < deadline => {}
                outcome => {
                    let source = if was_fetched.load(Relaxed) { ReadSource::Vault } else { ReadSource::Coalesced };
                    self.observers.metrics.count_secret_reads(source, usize::from(outcome.is_ok()));
                    return outcome.map(|fetched| (fetched, source));
                }
            }
        }
    }

    /// Counts, logs and reports the rotation of a credential.
    fn record_rotation(&self, request: &SecretRequest, kind: SecretKind, reason: RotationReason) {
        self.observers.metrics.count_rotation(kind, reason);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        let (path, kind, reason) = (request.display_path(), kind.as_str(), reason.as_str());
        tracing::info!(role, pod, namespace, path, kind, reason, "credential rotated");
        self.emit_event(EventReason::CredentialRotated, || {
            format!("a new credential of {path} replaces the previous one ({kind}: {reason})")
        });
    }

    /// Emits an event for the pod. Shared sessions have too many pods for events.
    fn emit_event(&self, reason: EventReason, text: impl FnOnce() -> String) {
        let SessionKey { pod_uid: uid, pod_name: name, pod_namespace: namespace, .. } = &self.key;
        if !self.is_shared() {
            let subject = || EventSubject { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
            self.observers.events.emit(subject, reason, text);
        }
    }

    /// Adds a suggestion to a not-found error: names near the path, if the policy allows the list request.
    pub async fn with_path_suggestion(&self, request: &SecretRequest, error: Error, deadline: Instant) -> Error {
        let Some(token) = self.usable_token(None).filter(|_| error.cause() == Cause::SecretMissing) else {
            return error;
        };
        let Ok(client) = self.client() else { return error };
        match client.suggest_path(&token.vault_token, self.key.namespace.as_deref(), request, deadline).await {
            Some(suggestion) => error.with_fix(suggestion),
            None => error,
        }
    }

    /// Invalidates a secret that lacks a requested key; see [`SecretCache::invalidate`].
    pub fn invalidate(&self, request: &SecretRequest, secret: &Arc<CachedSecret>) -> bool {
        self.cache.invalidate(request, secret)
    }

    /// Records a failure for the status.
    pub fn record_error(&self, operation: &'static str, error: &Error) {
        self.state().last_error = Some(LastError { at: clock::now(), operation, message: error.to_string() });
    }

    async fn fetch_awaiting_rotation(
        self: &Arc<Self>,
        request: &SecretRequest,
        expiring_token: Option<&Arc<SessionToken>>,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<FetchedSecret, Error> {
        let started_at = Instant::now();
        loop {
            let fetched = self.fetch_once(request, expiring_token, credentials, deadline).await?;
            let retry_at = Instant::now() + ROTATION_RETRY_DELAY;
            if !self.cache.missed_rotation(request, &fetched)
                || retry_at > deadline.min(started_at + ROTATION_LAG_TIMEOUT)
            {
                self.warn_about_token(request, &fetched);
                return Ok(fetched);
            }
            tokio::time::sleep_until(retry_at).await;
        }
    }

    async fn fetch_once(
        self: &Arc<Self>,
        request: &SecretRequest,
        expiring_token: Option<&Arc<SessionToken>>,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<FetchedSecret, Error> {
        let (namespace, client) = (self.key.namespace.as_deref(), self.client()?);
        let mut token = self.token_or_login(credentials, expiring_token, deadline).await?;
        if request.is_for_token() {
            // The pod uses its secrets.
            token.mark_leased();
            return Ok(FetchedSecret { result: token.vault_token.as_secret(), sent_at: clock::now(), token });
        }
        let mut is_token_replaced = false;
        loop {
            let failure = {
                let _active = self.enter().await?;
                let sent_at = clock::now();
                match client.read(&token.vault_token, namespace, request, deadline).await {
                    Ok(result) => {
                        token.mark_verified(sent_at);
                        if !result.response.lease_id.is_empty() {
                            token.mark_leased();
                        }
                        self.state().last_success_at = Some(clock::now());
                        return Ok(FetchedSecret { result, sent_at, token });
                    }
                    Err(failure) => failure,
                }
            };
            // Other reads may exhaust a token of limited uses. Each exhausted token has served at least one read.
            if !matches!(failure, RequestError::TokenUsesExhausted) {
                // Boxed: this future is rare and would enlarge every waiting read.
                if is_token_replaced
                    || !Box::pin(client.is_denied_for_invalid_token(
                        &token.vault_token,
                        self.login_namespace(),
                        &failure,
                        deadline,
                    ))
                    .await
                {
                    let error = self.read_error(&client, &failure, &token.vault_token, request);
                    self.record_error("reading a secret", &error);
                    return Err(error);
                }
                self.mark_token_revoked(&token);
                is_token_replaced = true;
            }
            token = self.token_or_login(credentials, Some(&token), deadline).await?;
        }
    }

    /// Warns once per session if the token of a credential cannot keep it alive.
    fn warn_about_token(&self, request: &SecretRequest, fetched: &FetchedSecret) {
        let vault_token = &fetched.token.vault_token;
        let lacks_default_policy = !vault_token.policies.iter().any(|policy| policy == "default" || policy == "root");
        if fetched.result.response.lease_id.is_empty() || !(vault_token.is_batch || lacks_default_policy) {
            return;
        }
        if std::mem::replace(&mut self.state().token_warning_sent, true) {
            return;
        }
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        let path = &request.path;
        if vault_token.is_batch {
            tracing::warn!(
                role,
                pod,
                namespace,
                path,
                fix = "set token_type of the role to service",
                "batch tokens: leases expire with the token and cannot be renewed or revoked"
            );
        } else {
            let policies = vault_token.policies.join(", ");
            tracing::warn!(
                role,
                pod,
                namespace,
                path,
                policies,
                fix = "unset token_no_default_policy of the role, or allow auth/token/renew-self, auth/token/revoke-self and sys/leases/renew",
                "tokens lack policy default; renewal and revocation may be denied"
            );
        }
    }

    fn mark_token_revoked(&self, token: &SessionToken) {
        token.mark_revoked(clock::now());
        self.mark_dirty();
        if self.state().ended {
            return;
        }
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        tracing::warn!(
            role,
            pod,
            namespace,
            accessor = token.vault_token.accessor,
            "token and its leases revoked before their expiry; the next mount logs in again"
        );
    }

    /// Acquires the guard of a request whose result must be revoked with the pod. Fails after the session's end.
    async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let active = self.activity_lock.read().await;
        if self.state().ended {
            return Err(Error::new(Cause::PodEnded, format!("pod {} is over", self.display_pod()))
                .with_fix("nothing is to be done: a pod that is gone needs no files"));
        }
        Ok(active)
    }

    fn lookup_options(&self, refresh: Refresh) -> LookupOptions {
        LookupOptions { now: clock::now(), poll_interval: self.state().volumes.longest_mount_interval(), refresh }
    }

    /// Returns the Vault namespace of the login and its token.
    fn login_namespace(&self) -> Option<&str> {
        self.key.auth_namespace.as_deref()
    }

    /// Returns `namespace/name`, for messages; the name is [`ANY_POD`] if pods share the session.
    fn display_pod(&self) -> String {
        format!("{}/{}", self.key.pod_namespace, self.key.pod_name)
    }

    fn client(&self) -> Result<Client, Error> {
        self.state().client.clone()
    }

    fn state(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_error(
        &self,
        client: &Client,
        failure: &RequestError,
        token: &VaultToken,
        request: &SecretRequest,
    ) -> Error {
        let namespace = self.key.namespace.as_deref();
        failure.explain_read(&ReadContext {
            address: client.address(),
            namespace,
            auth_namespace: self.key.auth_namespace.as_deref(),
            role: &self.key.role,
            policies: &token.policies,
            request,
            engine: client.cached_engine(namespace, &request.path).as_deref(),
        })
    }
}

/// Time for which a token counts as valid after Vault accepted it.
fn token_verify_interval(refresh: Refresh) -> Duration {
    match refresh {
        Refresh::Every(interval) => interval.min(MAX_TOKEN_VERIFY_INTERVAL),
        Refresh::Never => MAX_TOKEN_VERIFY_INTERVAL,
    }
}
