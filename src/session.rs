//! One Vault token per pod identity, and what was read under it.

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

/// Everything that decides which token a pod gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The server.
    pub endpoint: Arc<Endpoint>,
    /// Where secrets are read.
    pub namespace: Option<String>,
    /// Where logins happen.
    pub auth_namespace: Option<String>,
    /// The auth mount, without `auth/`.
    pub auth_mount: String,
    /// The login role.
    pub role: String,
    /// The service account token's audience.
    pub audience: String,
    /// The pod; empty when pods share it.
    pub pod_uid: String,
    /// The pod's name; [`EVERY_POD`] when pods share it.
    pub pod_name: String,
    /// The pod's Kubernetes namespace.
    pub pod_namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// The UID of the service account whose pods share it; none when it is one pod's.
    pub shared_by_account_uid: Option<String>,
}

/// Stands for the name of a pod where pods share a session.
pub const ANY_POD: &str = "*";

/// What proves to Vault who the pod is.
pub struct LoginCredential {
    /// The service account token.
    pub jwt: SecretText,
    /// What it says of itself, for messages.
    pub claims: TokenClaims,
}

/// Brings a pod's proof when a login needs it.
pub type CredentialSource = Arc<dyn Fn() -> BoxFuture<'static, Result<LoginCredential, Error>> + Send + Sync>;

/// A pod's standing at one Vault.
pub struct Session {
    /// Numbers the sessions of this process.
    id: u64,
    key: SessionKey,
    observers: Observers,
    started_at: Instant,
    login_in_flight: SingleFlight<Result<Arc<SessionToken>, Error>>,
    cache: SecretCache,
    /// Held for reading while Vault is asked for something that must be revoked with the pod, for writing at its end.
    activity_lock: RwLock<()>,
    /// Whether the background is at it.
    is_in_maintenance: AtomicBool,
    state_file: StateFile,
    /// Never held across an await.
    state: Mutex<SessionState>,
}

struct SessionState {
    /// The endpoint's current one: it is made anew when TLS files were mended. Why there is none, if the files were broken when
    /// this process began.
    client: Result<Client, Error>,
    token: Option<Arc<SessionToken>>,
    /// Tokens of earlier logins, on which credentials may hang that the pod still has.
    superseded_tokens: Vec<Arc<SessionToken>>,
    volumes: Volumes,
    /// Whose it is, when pods share it.
    sharing_pods: SharingPods,
    last_poll_at: Instant,
    ended: bool,
    /// Why it is not renewed, once that was said.
    renewal_paused: Option<&'static str>,
    /// When renewals are looked at again that waited for Vault to be back.
    retry_after_outage: Option<Instant>,
    token_warning_sent: bool,
    last_success_at: Option<Instant>,
    last_error: Option<LastError>,
}

/// Something that failed.
#[derive(Clone, Debug)]
pub struct LastError {
    /// When.
    pub at: Instant,
    /// While doing what.
    pub operation: &'static str,
    /// Why, as it is told.
    pub message: String,
}

/// How long a static credential that should have been rotated is read again, and how often: Vault serves the old one for up to
/// 1.6 s after its time (measured against OpenBao 2.7).
const ROTATION_LAG_TIMEOUT: Duration = Duration::from_secs(3);
const ROTATION_RETRY_DELAY: Duration = Duration::from_millis(250);
/// How long a mount waits at most to learn whether a token lives on which hangs what the pod has.
const TOKEN_VERIFY_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a token is asked about at least, in a mount of what hangs on it: also when the class refreshes less often.
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

    /// Numbers it among the sessions of this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// Makes sure of a token, so that a refused login is reported once and not for each object.
    pub async fn ensure_token(
        self: &Arc<Self>,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.token_or_login(credentials, None, deadline).await.map(|_| ())
    }

    /// Asks Vault whether the tokens live on which hangs what a mount would hand out. Each time for what waits for its pod. For
    /// what the pod has, when Vault has not taken the token for as long as a plain secret may be old: so that a token an
    /// operator revoked is healed as soon as a changed secret would be seen.
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
            // What the pod has it keeps when Vault does not answer, so that this must not take all the time there is.
            let remaining = clock::remaining(deadline) / 2;
            let verify_deadline =
                Instant::now() + if is_undelivered { remaining } else { remaining.min(TOKEN_VERIFY_TIMEOUT) };
            if client.is_token_invalid(&token.vault_token, self.login_namespace(), verify_deadline).await {
                self.mark_token_revoked(&token);
            } else {
                // Also when it could not be asked: the next attempt comes as late.
                token.mark_verified(now);
            }
        }))
        .await;
    }

    /// Why Vault cannot be asked at present, if that is known.
    #[must_use]
    pub fn outage(&self) -> Option<Arc<Outage>> {
        self.state().outage()
    }

    /// Does something that needs Vault, for as long as that is not known to be down. What was begun is brought to its end all
    /// the same.
    pub async fn unless_outage<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let client = self.client()?;
        tokio::select! {
            biased;
            outage = client.wait_until_down() => Err(outage.rejection.clone()),
            outcome = work => outcome,
        }
    }

    /// Its pod has nothing without Vault, so that one that is down is asked soon.
    pub fn request_probe(&self) {
        if let Ok(client) = self.client() {
            client.request_probe(Duration::ZERO);
        }
    }

    /// The answers to these requests, when each is good and Vault need not be asked for anything.
    #[must_use]
    pub fn get_all_fresh<'a>(
        &self,
        requests: impl Iterator<Item = &'a Arc<SecretRequest>>,
        refresh: Refresh,
    ) -> Option<Vec<Arc<CachedSecret>>> {
        self.cache.get_all_fresh(requests, &self.lookup_options(refresh), token_verify_interval(refresh))
    }

    /// What there is of a request's answer, and whether it is good.
    #[must_use]
    pub fn lookup(&self, request: &SecretRequest, refresh: Refresh) -> Lookup {
        self.cache.lookup(request, &self.lookup_options(refresh))
    }

    /// Whether a volume was mounted under it.
    #[must_use]
    pub fn has_volume(&self, target_path: &str) -> bool {
        self.state().volumes.iter().any(|volume| &*volume.target_path == target_path)
    }

    /// The pod's owner is told that a poll of a volume failed, which is kept until the end of that is told.
    pub fn mark_refresh_failed(self: &Arc<Self>, target_path: &str) {
        if self.state().volumes.mark_refresh_failed(target_path) {
            self.mark_dirty();
            self.persist_in_background();
        }
    }

    /// Polls of a volume go well. What is to be told of it, if its owner was told otherwise.
    pub fn take_refresh_recovery(self: &Arc<Self>, target_path: &str) -> Option<EventReason> {
        let reported_by = self.state().volumes.take_refresh_failure(target_path)?;
        self.mark_dirty();
        self.persist_in_background();
        Some(match reported_by {
            ReportedBy::ThisProcess => EventReason::RefreshRecovered,
            ReportedBy::EarlierProcess => EventReason::RefreshRecoveredAfterRestart,
        })
    }

    /// Whether a volume was given these answers before, as far as anybody knows.
    pub fn has_delivered<'a>(
        &self,
        target_path: &str,
        mut secrets: impl Iterator<Item = &'a Arc<CachedSecret>>,
    ) -> bool {
        let state = self.state();
        let volume = state.volumes.iter().find(|volume| &*volume.target_path == target_path);
        volume.is_some_and(|volume| secrets.all(|secret| volume.has_delivered(secret.serial)))
    }

    /// What Vault answers to a request that was found due, at most one equal one at a time; and from where it came.
    pub async fn fetch_secret(
        self: &Arc<Self>,
        request: &Arc<SecretRequest>,
        due: &DueSecret,
        credentials: &CredentialSource,
        deadline: Instant,
    ) -> Result<(FetchOutcome, ReadSource), Error> {
        let was_fetched = Arc::new(AtomicBool::new(false));
        loop {
            // What hangs on a token that ends must hang on another.
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
                // The request was another caller's, and so was the deadline.
                Err(error) if error.cause() == Cause::DeadlineExceeded && Instant::now() < deadline => {}
                outcome => {
                    let source = if was_fetched.load(Relaxed) { ReadSource::Vault } else { ReadSource::Coalesced };
                    self.observers.metrics.count_secret_reads(source, usize::from(outcome.is_ok()));
                    return outcome.map(|fetched| (fetched, source));
                }
            }
        }
    }

    /// Counts and says that a credential was replaced by a new one.
    fn record_rotation(&self, request: &SecretRequest, kind: SecretKind, reason: RotationReason) {
        self.observers.metrics.count_rotation(kind, reason);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        let (path, kind, reason) = (request.display_path(), kind.as_str(), reason.as_str());
        tracing::info!(role, pod, namespace, path, kind, reason, "credential rotated");
        self.emit_event(EventReason::CredentialRotated, || {
            format!("a new credential of {path} replaces the previous one ({kind}: {reason})")
        });
    }

    /// Tells the pod's owner. Pods that share a session are too many for that.
    fn emit_event(&self, reason: EventReason, text: impl FnOnce() -> String) {
        let SessionKey { pod_uid: uid, pod_name: name, pod_namespace: namespace, .. } = &self.key;
        if !self.is_shared() {
            let subject = || EventSubject { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
            self.observers.events.emit(subject, reason, text);
        }
    }

    /// The failure of a read that found nothing, with what there is near the path where the policy lets it be listed.
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

    /// What was read does not hold what the class wants; see [`Leases::doubt`].
    pub fn invalidate(&self, request: &SecretRequest, secret: &Arc<CachedSecret>) -> bool {
        self.cache.invalidate(request, secret)
    }

    /// Remembers what went wrong, for the status.
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
            // The pod lives by it.
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
            // A token of few uses may be used up by other reads. Each that is used up has served one.
            if !matches!(failure, RequestError::TokenUsesExhausted) {
                // On the heap, as what is rare would be a weight on every read that waits.
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

    /// Says once of a token under which credentials were read, if it may not keep them alive.
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

    /// Marks that Vault is asked for something that must be revoked with the pod; an error when the pod's end has come.
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

    /// The Vault namespace of the login, which is the token's.
    fn login_namespace(&self) -> Option<&str> {
        self.key.auth_namespace.as_deref()
    }

    /// `namespace/name`, for messages; [`EVERY_POD`] stands for the name of pods that share it.
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

/// How long a token counts as living since Vault took it.
fn token_verify_interval(refresh: Refresh) -> Duration {
    match refresh {
        Refresh::Every(interval) => interval.min(MAX_TOKEN_VERIFY_INTERVAL),
        Refresh::Never => MAX_TOKEN_VERIFY_INTERVAL,
    }
}
