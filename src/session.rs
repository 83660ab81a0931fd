//! One Vault token per pod identity, and what was read under it.

mod inspect;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    error::{Cause, Error},
    flight::Flight,
    lease::{Lease, Leases},
    secret::SecretText,
    vault::{
        Client, Endpoint,
        client::{Login, Reading, Token},
        failure::{Failure, LoginContext, ReadContext, TokenClaims},
        wire::Read,
    },
};

/// Everything that decides which token a pod gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// The server.
    pub endpoint: Endpoint,
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
    /// The pod.
    pub pod_uid: String,
    /// The pod's Kubernetes namespace.
    pub pod_namespace: String,
    /// The pod's service account.
    pub service_account: String,
}

/// What proves to Vault who the pod is.
pub struct Proof {
    /// The service account token.
    pub jwt: SecretText,
    /// What it says of itself, for messages.
    pub claims: TokenClaims,
}

/// Brings a pod's proof when a login needs it.
pub type Prover = Arc<dyn Fn() -> BoxFuture<'static, Result<Proof, Error>> + Send + Sync>;

/// A pod's standing at one Vault.
pub struct Session {
    key: SessionKey,
    login: Flight<Result<Arc<Token>, Error>>,
    leases: Leases,
    /// Never held across an await.
    state: Mutex<State>,
}

struct State {
    /// The endpoint's current one: it is made anew when TLS files were mended.
    client: Client,
    /// The token and when it came.
    token: Option<(Arc<Token>, Instant)>,
    last_heard: Instant,
}

/// The sessions of a node.
pub struct Sessions {
    max: usize,
    /// Never held across an await.
    by_key: Mutex<HashMap<SessionKey, Arc<Session>>>,
}

/// How long a pod without a living token is remembered, so that its unchanged files keep their bytes: longer than any pause
/// between polls or attempts.
const SILENCE: Duration = Duration::from_secs(1800);

impl Sessions {
    /// Keeps `max` sessions at most.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, by_key: Mutex::default() }
    }

    /// The session of a key, made if there is none; those that are over are dropped. When there are still too many, the
    /// longest silent one makes room, if it can be one that waits for nothing: nothing tells yet when a pod ends, and a
    /// living pod's next poll logs in again.
    pub fn open(&self, key: SessionKey, client: Client) -> Arc<Session> {
        let mut sessions = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sessions.get(&key) {
            let mut state = session.state();
            state.last_heard = Instant::now();
            state.client = client;
            drop(state);
            return Arc::clone(session);
        }
        sessions.retain(|_, session| Arc::strong_count(session) > 1 || !session.is_over());
        if sessions.len() >= self.max {
            let silence = |s: &Arc<Session>| (Arc::strong_count(s) > 1 || s.leases.are_waiting(), s.state().last_heard);
            let silent = sessions.iter().min_by_key(|(_, s)| silence(s)).map(|(key, _)| key.clone());
            if let Some(silent) = silent {
                tracing::warn!(max = self.max, "more pods than --max-sessions: the longest silent one makes room");
                sessions.remove(&silent);
            }
        }
        let session = Arc::new(Session::new(key.clone(), client));
        sessions.insert(key, Arc::clone(&session));
        session
    }
}

impl Session {
    fn new(key: SessionKey, client: Client) -> Self {
        let state = State { client, token: None, last_heard: Instant::now() };
        Self { key, login: Flight::default(), leases: Leases::default(), state: Mutex::new(state) }
    }

    /// Makes sure of a token, so that a refused login is reported once and not for each object; and that it lives while
    /// leases wait under it, which no read of theirs would show.
    pub async fn open(self: &Arc<Self>, prover: &Prover, deadline: Instant) -> Result<(), Error> {
        let token = self.token(prover, None, deadline).await?;
        let namespace = self.key.auth_namespace.as_deref();
        if self.leases.are_waiting() && self.client().is_gone(&token, namespace, deadline).await {
            self.token(prover, Some(&token), deadline).await?;
        }
        Ok(())
    }

    /// What Vault answers to a request, at most one equal one at a time.
    pub async fn read(self: &Arc<Self>, read: &Read, prover: &Prover, deadline: Instant) -> Result<Arc<Lease>, Error> {
        loop {
            let outcome = self.leases.read(read, || {
                let (session, read, prover) = (Arc::clone(self), read.clone(), Arc::clone(prover));
                async move { session.fetch(&read, &prover, deadline).await }
            });
            match outcome.await {
                // The request was another caller's, and so was the deadline.
                Err(error) if error.cause() == Cause::Deadline && Instant::now() < deadline => {}
                outcome => return outcome,
            }
        }
    }

    /// The failure of a read that found nothing, with what there is near the path where the policy lets it be listed.
    pub async fn look_near(&self, read: &Read, error: Error, deadline: Instant) -> Error {
        let Some(token) = self.held(None).filter(|_| error.cause() == Cause::SecretMissing) else { return error };
        match self.client().near(&token, self.key.namespace.as_deref(), read, deadline).await {
            Some(near) => error.advice(near),
            None => error,
        }
    }

    /// A pod has what was read. Whether it is new to it.
    pub fn delivered(&self, read: &Read, lease: &Arc<Lease>) -> bool {
        self.leases.delivered(read, lease)
    }

    async fn fetch(self: &Arc<Self>, read: &Read, prover: &Prover, deadline: Instant) -> Result<Reading, Error> {
        let namespace = self.key.namespace.as_deref();
        let mut token = self.token(prover, None, deadline).await?;
        let mut healed = false;
        loop {
            let failure = match self.client().read(&token, namespace, read, deadline).await {
                Ok(reading) => return Ok(reading),
                Err(failure) => failure,
            };
            // A token of few uses may be used up by other reads. Each that is used up has served one.
            if !matches!(failure, Failure::Spent) {
                if healed || !self.is_token_gone(&token, &failure, deadline).await {
                    return Err(self.read_error(&failure, &token, read));
                }
                healed = true;
            }
            token = self.token(prover, Some(&token), deadline).await?;
        }
    }

    async fn is_token_gone(&self, token: &Token, failure: &Failure, deadline: Instant) -> bool {
        let gone = self.client().is_token_gone(token, self.key.auth_namespace.as_deref(), failure, deadline).await;
        if gone {
            let (role, pod) = (&self.key.role, &self.key.pod_uid);
            tracing::info!(role, pod, "the Vault token is gone before its time; logging in again");
        }
        gone
    }

    /// The token held, or one from a login: at most one login at a time, and none that returns `gone`.
    async fn token(
        self: &Arc<Self>,
        prover: &Prover,
        gone: Option<&Arc<Token>>,
        deadline: Instant,
    ) -> Result<Arc<Token>, Error> {
        if let Some(token) = self.held(gone) {
            return Ok(token);
        }
        loop {
            let outcome = self.login.join(|| {
                let (session, prover, gone) = (Arc::clone(self), Arc::clone(prover), gone.cloned());
                async move {
                    // Another's login may have ended between our look and our turn.
                    match session.held(gone.as_ref()) {
                        Some(token) => Ok(token),
                        None => session.log_in(&prover, deadline).await,
                    }
                }
            });
            match outcome.await {
                // The login was another caller's, and so was the deadline.
                Some(Err(error)) if error.cause() == Cause::Deadline && Instant::now() < deadline => {}
                Some(outcome) => return outcome,
                None => {
                    let error = Error::new(Cause::Internal, "the login panicked");
                    return Err(error.advice("report it with the provider's log"));
                }
            }
        }
    }

    async fn log_in(&self, prover: &Prover, deadline: Instant) -> Result<Arc<Token>, Error> {
        let proof = prover().await?;
        let key = &self.key;
        let login = Login {
            mount: key.auth_mount.clone(),
            namespace: key.auth_namespace.clone(),
            role: key.role.clone(),
            jwt: proof.jwt,
        };
        let token = match self.client().login(&login, deadline).await {
            Ok(token) => Arc::new(token),
            Err(failure) => return Err(self.login_error(&failure, proof.claims, deadline).await),
        };
        self.leases.token_is_gone();
        self.state().token = Some((Arc::clone(&token), Instant::now()));
        tracing::debug!(role = key.role, pod = key.pod_uid, ttl = ?token.ttl, "logged in");
        Ok(token)
    }

    /// The token held, unless it is `gone`, spent, or past nine tenths of its life.
    fn held(&self, gone: Option<&Arc<Token>>) -> Option<Arc<Token>> {
        let state = self.state();
        let (token, since) = state.token.as_ref()?;
        let is_gone = gone.is_some_and(|gone| Arc::ptr_eq(gone, token));
        let is_old = !token.ttl.is_zero() && since.elapsed() >= token.ttl * 9 / 10;
        (!is_gone && !is_old && !token.is_spent()).then(|| Arc::clone(token))
    }

    /// Whether its pod has been silent for long and its token is over, so that nothing is lost with it.
    fn is_over(&self) -> bool {
        let state = self.state();
        let has_token =
            state.token.as_ref().is_some_and(|(token, since)| token.ttl.is_zero() || since.elapsed() < token.ttl);
        !has_token && state.last_heard.elapsed() > SILENCE
    }

    fn client(&self) -> Client {
        self.state().client.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn login_error(&self, failure: &Failure, claims: TokenClaims, deadline: Instant) -> Error {
        let (key, client) = (&self.key, self.client());
        let mut at = LoginContext {
            address: client.address().to_owned(),
            mount: key.auth_mount.clone(),
            namespace: key.auth_namespace.clone(),
            role: key.role.clone(),
            pod_namespace: key.pod_namespace.clone(),
            service_account: key.service_account.clone(),
            claims,
            now: Timestamp::now(),
            method: None,
        };
        let error = failure.of_login(&at);
        if error.cause() != Cause::LoginDenied {
            return error;
        }
        at.method = client.auth_method(&key.auth_mount, key.auth_namespace.as_deref(), &key.role, deadline).await;
        failure.of_login(&at)
    }

    fn read_error(&self, failure: &Failure, token: &Token, read: &Read) -> Error {
        let (client, namespace) = (self.client(), self.key.namespace.as_deref());
        failure.of_read(&ReadContext {
            address: client.address(),
            namespace,
            auth_namespace: self.key.auth_namespace.as_deref(),
            role: &self.key.role,
            policies: &token.policies,
            read,
            engine: client.known_engine(namespace, &read.path).as_deref(),
        })
    }
}
