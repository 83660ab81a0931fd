//! One Vault token per pod identity, and what was read under it.

mod end;
mod inspect;
mod login;
mod report;
mod saved;
mod sharing;
mod store;
mod upkeep;
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
    audit::Audit,
    clock,
    error::{Cause, Error},
    events::{Events, Subject, Why},
    flight::SingleFlight,
    lease::{Brought, Due, Fetched, Found, Hold, Lease, Leases, Look, Refresh},
    metrics::{Kind, Metrics, ReadFrom, Reason},
    secret::SecretText,
    vault::{
        Client, Endpoint,
        client::VaultToken,
        failure::{ReadContext, RequestError, TokenClaims},
        standing::Outage,
        wire::SecretRequest,
    },
};
pub use end::{Debt, Paid};
use saved::Recorder;
pub use saved::{Estate, SavedSession};
pub use sharing::PodRef;
use sharing::Pods;
pub use store::{Delivery, Sessions, Tenant, UNHEARD};
use volumes::{Teller, Volumes};

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
    pub shared_by: Option<String>,
}

/// Stands for the name of a pod where pods share a session.
pub const EVERY_POD: &str = "*";

/// What proves to Vault who the pod is.
pub struct Proof {
    /// The service account token.
    pub jwt: SecretText,
    /// What it says of itself, for messages.
    pub claims: TokenClaims,
}

/// Brings a pod's proof when a login needs it.
pub type Prover = Arc<dyn Fn() -> BoxFuture<'static, Result<Proof, Error>> + Send + Sync>;

/// Who hears of what becomes of sessions.
#[derive(Clone, Debug, Default)]
pub struct Observers {
    /// Counts it.
    pub metrics: Arc<Metrics>,
    /// Tells each decision.
    pub audit: Audit,
    /// Tells the pods' owners.
    pub events: Events,
}

/// A pod's standing at one Vault.
pub struct Session {
    /// Numbers the sessions of this process.
    id: u64,
    key: SessionKey,
    observers: Observers,
    begun: Instant,
    login: SingleFlight<Result<Arc<Hold>, Error>>,
    leases: Leases,
    /// Held for reading while Vault is asked for something that must be revoked with the pod, for writing at its end.
    activity: RwLock<()>,
    /// Whether the background is at it.
    attended: AtomicBool,
    recorder: Recorder,
    /// Never held across an await.
    state: Mutex<State>,
}

struct State {
    /// The endpoint's current one: it is made anew when TLS files were mended. Why there is none, if the files were broken when
    /// this process began.
    client: Result<Client, Error>,
    hold: Option<Arc<Hold>>,
    /// Tokens of earlier logins, on which credentials may hang that the pod still has.
    superseded: Vec<Arc<Hold>>,
    volumes: Volumes,
    /// Whose it is, when pods share it.
    pods: Pods,
    last_heard: Instant,
    ended: bool,
    /// Why it is not renewed, once that was said.
    resting: Option<&'static str>,
    /// When renewals are looked at again that waited for Vault to be back.
    waits_until: Option<Instant>,
    warned_of_token: bool,
    last_success: Option<Instant>,
    last_error: Option<Trouble>,
}

/// Something that failed.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// When.
    pub at: Instant,
    /// While doing what.
    pub what: &'static str,
    /// Why, as it is told.
    pub error: String,
}

/// How long a static credential that should have been rotated is read again, and how often: Vault serves the old one for up to
/// 1.6 s after its time (measured against OpenBao 2.7).
const ROTATION_LAG: Duration = Duration::from_secs(3);
const ROTATION_PAUSE: Duration = Duration::from_millis(250);
/// How long a mount waits at most to learn whether a token lives on which hangs what the pod has.
const PROOF: Duration = Duration::from_secs(2);
/// How often a token is asked about at least, in a mount of what hangs on it: also when the class refreshes less often.
const STANDARD_REFRESH: Duration = Duration::from_secs(120);

impl Session {
    fn new(key: SessionKey, client: Result<Client, Error>, observers: Observers, recorder: Recorder) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = clock::now();
        let state = State {
            client,
            hold: None,
            superseded: Vec::new(),
            volumes: Volumes::default(),
            pods: Pods::default(),
            last_heard: now,
            ended: false,
            resting: None,
            waits_until: None,
            warned_of_token: false,
            last_success: None,
            last_error: None,
        };
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            key,
            observers,
            begun: now,
            login: SingleFlight::default(),
            leases: Leases::default(),
            activity: RwLock::default(),
            attended: AtomicBool::new(false),
            recorder,
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
    pub async fn open(self: &Arc<Self>, prover: &Prover, deadline: Instant) -> Result<(), Error> {
        self.token(prover, None, deadline).await.map(|_| ())
    }

    /// Asks Vault whether the tokens live on which hangs what a mount would hand out. Each time for what waits for its pod. For
    /// what the pod has, when Vault has not taken the token for as long as a plain secret may be old: so that a token an
    /// operator revoked is healed as soon as a changed secret would be seen.
    pub async fn prove<'a>(
        &self,
        reads: impl Iterator<Item = &'a Arc<SecretRequest>>,
        refresh: Refresh,
        deadline: Instant,
    ) {
        if self.outage().is_some() {
            return;
        }
        let (now, Ok(client)) = (clock::now(), self.client()) else { return };
        let unproven = self.leases.unproven(reads, now, proof_interval(refresh));
        join_all(unproven.into_iter().map(async |(hold, waits)| {
            // What the pod has it keeps when Vault does not answer, so that this must not take all the time there is.
            let left = clock::remaining(deadline) / 2;
            let by = Instant::now() + if waits { left } else { left.min(PROOF) };
            if client.is_token_invalid(&hold.token, self.home(), by).await {
                self.lost(&hold);
            } else {
                // Also when it could not be asked: the next attempt comes as late.
                hold.proven(now);
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
    pub async fn while_up<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let client = self.client()?;
        tokio::select! {
            biased;
            outage = client.wait_until_down() => Err(outage.rejection.clone()),
            outcome = work => outcome,
        }
    }

    /// Its pod has nothing without Vault, so that one that is down is asked soon.
    pub fn wanted(&self) {
        if let Ok(client) = self.client() {
            client.request_probe(Duration::ZERO);
        }
    }

    /// The answers to these requests, when each is good and Vault need not be asked for anything.
    #[must_use]
    pub fn again<'a>(
        &self,
        reads: impl Iterator<Item = &'a Arc<SecretRequest>>,
        refresh: Refresh,
    ) -> Option<Vec<Arc<Lease>>> {
        self.leases.again(reads, &self.at(refresh), proof_interval(refresh))
    }

    /// What there is of a request's answer, and whether it is good.
    #[must_use]
    pub fn look(&self, read: &SecretRequest, refresh: Refresh) -> Found {
        self.leases.look(read, &self.at(refresh))
    }

    /// Whether a volume was mounted under it.
    #[must_use]
    pub fn has_mounted(&self, target_path: &str) -> bool {
        self.state().volumes.iter().any(|volume| &*volume.path == target_path)
    }

    /// The pod's owner is told that a poll of a volume failed, which is kept until the end of that is told.
    pub fn poll_failed(self: &Arc<Self>, target_path: &str) {
        if self.state().volumes.failed(target_path) {
            self.changed();
            self.save_soon();
        }
    }

    /// Polls of a volume go well. What is to be told of it, if its owner was told otherwise.
    pub fn poll_recovered(self: &Arc<Self>, target_path: &str) -> Option<Why> {
        let teller = self.state().volumes.recovered(target_path)?;
        self.changed();
        self.save_soon();
        Some(match teller {
            Teller::This => Why::RefreshRecovered,
            Teller::Earlier => Why::RefreshRecoveredSince,
        })
    }

    /// Whether a volume was given these answers before, as far as anybody knows.
    pub fn has_given<'a>(&self, target_path: &str, mut leases: impl Iterator<Item = &'a Arc<Lease>>) -> bool {
        let state = self.state();
        let volume = state.volumes.iter().find(|volume| &*volume.path == target_path);
        volume.is_some_and(|volume| leases.all(|lease| volume.has(lease.serial)))
    }

    /// What Vault answers to a request that was found due, at most one equal one at a time; and from where it came.
    pub async fn read(
        self: &Arc<Self>,
        read: &Arc<SecretRequest>,
        due: &Due,
        prover: &Prover,
        deadline: Instant,
    ) -> Result<(Brought, ReadFrom), Error> {
        let asked = Arc::new(AtomicBool::new(false));
        loop {
            // What hangs on a token that ends must hang on another.
            let ending = due.hold.clone().filter(|_| due.reason == Some(Reason::Token));
            let (session, replaced, reason) = (Arc::clone(self), Arc::clone(read), due.reason);
            let kept = move |earlier: Option<Kind>, creates| {
                session.changed();
                if creates {
                    session.save_soon();
                }
                if let Some(kind) = earlier {
                    session.rotated(&replaced, kind, reason.unwrap_or(Reason::Age));
                }
            };
            let fetch = || {
                let (session, read, prover) = (Arc::clone(self), Arc::clone(read), Arc::clone(prover));
                let asked = Arc::clone(&asked);
                async move {
                    asked.store(true, Relaxed);
                    session.fetch(&read, ending.as_ref(), &prover, deadline).await
                }
            };
            let outcome = self.leases.read(read, due, fetch, kept);
            match outcome.await {
                // The request was another caller's, and so was the deadline.
                Err(error) if error.cause() == Cause::Deadline && Instant::now() < deadline => {}
                outcome => {
                    let from = if asked.load(Relaxed) { ReadFrom::Vault } else { ReadFrom::Shared };
                    self.observers.metrics.reads(from, usize::from(outcome.is_ok()));
                    return outcome.map(|brought| (brought, from));
                }
            }
        }
    }

    /// Counts and says that a credential was replaced by a new one.
    fn rotated(&self, read: &SecretRequest, kind: Kind, reason: Reason) {
        self.observers.metrics.rotation(kind, reason);
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        let (path, kind, reason) = (read.display_path(), kind.word(), reason.word());
        tracing::info!(role, pod, namespace, path, kind, reason, "the pod gets a new credential");
        self.tell_owner(Why::CredentialRotated, || {
            format!("a new credential of {path} replaces the one before ({kind}: {reason})")
        });
    }

    /// Tells the pod's owner. Pods that share a session are too many for that.
    fn tell_owner(&self, why: Why, text: impl FnOnce() -> String) {
        let SessionKey { pod_uid: uid, pod_name: name, pod_namespace: namespace, .. } = &self.key;
        if !self.is_shared() {
            let subject = || Subject { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
            self.observers.events.tell(subject, why, text);
        }
    }

    /// The failure of a read that found nothing, with what there is near the path where the policy lets it be listed.
    pub async fn look_near(&self, read: &SecretRequest, error: Error, deadline: Instant) -> Error {
        let Some(hold) = self.held(None).filter(|_| error.cause() == Cause::SecretMissing) else { return error };
        let Ok(client) = self.client() else { return error };
        match client.suggest_path(&hold.token, self.key.namespace.as_deref(), read, deadline).await {
            Some(near) => error.advice(near),
            None => error,
        }
    }

    /// What was read does not hold what the class wants; see [`Leases::doubt`].
    pub fn doubt(&self, read: &SecretRequest, lease: &Arc<Lease>) -> bool {
        self.leases.doubt(read, lease)
    }

    /// Remembers what went wrong, for the status.
    pub fn trouble(&self, what: &'static str, error: &Error) {
        self.state().last_error = Some(Trouble { at: clock::now(), what, error: error.to_string() });
    }

    async fn fetch(
        self: &Arc<Self>,
        read: &SecretRequest,
        ending: Option<&Arc<Hold>>,
        prover: &Prover,
        deadline: Instant,
    ) -> Result<Fetched, Error> {
        let begun = Instant::now();
        loop {
            let fetched = self.fetch_once(read, ending, prover, deadline).await?;
            let next = Instant::now() + ROTATION_PAUSE;
            if !self.leases.is_still_old(read, &fetched) || next > deadline.min(begun + ROTATION_LAG) {
                self.consider(read, &fetched);
                return Ok(fetched);
            }
            tokio::time::sleep_until(next).await;
        }
    }

    async fn fetch_once(
        self: &Arc<Self>,
        read: &SecretRequest,
        ending: Option<&Arc<Hold>>,
        prover: &Prover,
        deadline: Instant,
    ) -> Result<Fetched, Error> {
        let (namespace, client) = (self.key.namespace.as_deref(), self.client()?);
        let mut hold = self.token(prover, ending, deadline).await?;
        if read.is_for_token() {
            // The pod lives by it.
            hold.leased();
            return Ok(Fetched { reading: hold.token.as_secret(), sent: clock::now(), hold });
        }
        let mut healed = false;
        loop {
            let failure = {
                let _active = self.active().await?;
                let sent = clock::now();
                match client.read(&hold.token, namespace, read, deadline).await {
                    Ok(reading) => {
                        hold.proven(sent);
                        if !reading.response.lease_id.is_empty() {
                            hold.leased();
                        }
                        self.state().last_success = Some(clock::now());
                        return Ok(Fetched { reading, sent, hold });
                    }
                    Err(failure) => failure,
                }
            };
            // A token of few uses may be used up by other reads. Each that is used up has served one.
            if !matches!(failure, RequestError::TokenUsesExhausted) {
                // On the heap, as what is rare would be a weight on every read that waits.
                if healed
                    || !Box::pin(client.is_denied_for_invalid_token(&hold.token, self.home(), &failure, deadline)).await
                {
                    let error = self.read_error(&client, &failure, &hold.token, read);
                    self.trouble("reading a secret", &error);
                    return Err(error);
                }
                self.lost(&hold);
                healed = true;
            }
            hold = self.token(prover, Some(&hold), deadline).await?;
        }
    }

    /// Says once of a token under which credentials were read, if it may not keep them alive.
    fn consider(&self, read: &SecretRequest, fetched: &Fetched) {
        let token = &fetched.hold.token;
        let lacks = !token.policies.iter().any(|policy| policy == "default" || policy == "root");
        if fetched.reading.response.lease_id.is_empty() || !(token.is_batch || lacks) {
            return;
        }
        if std::mem::replace(&mut self.state().warned_of_token, true) {
            return;
        }
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        let path = &read.path;
        if token.is_batch {
            tracing::warn!(
                role,
                pod,
                namespace,
                path,
                "the role gives batch tokens: the credentials read under one end with it, and cannot be renewed nor revoked when the pod ends; set token_type of the role to service"
            );
        } else {
            let policies = token.policies.join(", ");
            tracing::warn!(
                role,
                pod,
                namespace,
                path,
                "the role's tokens lack policy default: unless one of theirs ({policies}) lets them update auth/token/renew-self, auth/token/revoke-self and sys/leases/renew, credentials are neither renewed nor revoked when the pod ends; unset token_no_default_policy of the role"
            );
        }
    }

    fn lost(&self, hold: &Hold) {
        hold.lost(clock::now());
        self.changed();
        if self.state().ended {
            return;
        }
        let SessionKey { role, pod_name: pod, pod_namespace: namespace, .. } = &self.key;
        tracing::warn!(
            role,
            pod,
            namespace,
            accessor = hold.token.accessor,
            "the Vault token is gone before its time, and what was leased under it; the next mount logs in again"
        );
    }

    /// Marks that Vault is asked for something that must be revoked with the pod; an error when the pod's end has come.
    async fn active(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let active = self.activity.read().await;
        if self.state().ended {
            return Err(Error::new(Cause::PodEnded, format!("pod {} is over", self.pod()))
                .advice("nothing is to be done: a pod that is gone needs no files"));
        }
        Ok(active)
    }

    fn at(&self, refresh: Refresh) -> Look {
        Look { now: clock::now(), gap: self.state().volumes.gap(), refresh }
    }

    /// The Vault namespace of the login, which is the token's.
    fn home(&self) -> Option<&str> {
        self.key.auth_namespace.as_deref()
    }

    /// `namespace/name`, for messages; [`EVERY_POD`] stands for the name of pods that share it.
    fn pod(&self) -> String {
        format!("{}/{}", self.key.pod_namespace, self.key.pod_name)
    }

    fn client(&self) -> Result<Client, Error> {
        self.state().client.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_error(&self, client: &Client, failure: &RequestError, token: &VaultToken, read: &SecretRequest) -> Error {
        let namespace = self.key.namespace.as_deref();
        failure.explain_read(&ReadContext {
            address: client.address(),
            namespace,
            auth_namespace: self.key.auth_namespace.as_deref(),
            role: &self.key.role,
            policies: &token.policies,
            request: read,
            engine: client.cached_engine(namespace, &read.path).as_deref(),
        })
    }
}

/// How long a token counts as living since Vault took it.
fn proof_interval(refresh: Refresh) -> Duration {
    match refresh {
        Refresh::Every(interval) => interval.min(STANDARD_REFRESH),
        Refresh::Never => STANDARD_REFRESH,
    }
}
