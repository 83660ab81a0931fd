//! The requests vaultmount makes of Vault: log in, read, and ask about a token or an engine.
//!
//! Requests are built from rustify endpoints (vaultrs' where it has one) and sent on our own transport: vaultrs' client
//! follows redirects with the token, bounds nothing and panics on a newline in a header.

mod aside;
pub mod health;
pub mod inspect;
mod methods;
mod renew;
mod token;
mod watch;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderName, HeaderValue, Request};
use rustify::{
    endpoint::Endpoint as Build,
    enums::{RequestMethod, RequestType, ResponseType},
    errors::ClientError,
};
use serde::Deserialize;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use vaultrs::api::{auth::kubernetes::requests::LoginWithKubernetesRequest, token::requests::LookupTokenSelfRequest};
use zeroize::Zeroize;

use super::{
    Config, Endpoint,
    answer::Answer,
    connect::Lookups,
    engine::{Engine, Engines, Known, is_builtin},
    failure::{Failure, TokenVerdict},
    room::Room,
    transport::{Call, Received, Transport},
    turns::{Turn, Turns},
    wire::{Method, Read, without},
};
use crate::{
    error::Error,
    metrics::{AuthKind, Metrics},
    secret::SecretText,
    text::one_line,
};
use methods::Methods;
pub use renew::Grant;
pub use token::{Granted, SavedToken, Token};
use watch::Watch;

/// One endpoint. Cheap to clone; clones share connections, limits and what is known of its engines.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Arc<Endpoint>,
    address: String,
    transport: Transport,
    engines: Engines,
    /// One slot for asking what engine there is, by the start of its path, so that many reads of one new mount ask once.
    asking: Slots,
    max_creating: usize,
    /// Slots for requests that create something, by mount path.
    creating: Slots,
    /// Slots for logins, by auth mount: behind one may be an API server that never answers.
    logging_in: Slots,
    methods: Methods,
    /// For requests that no mount waits for.
    background: Turns,
    watch: Arc<Watch>,
}

/// Semaphores by mount, for as long as somebody has one.
#[derive(Default)]
struct Slots {
    /// Never held across an await.
    by_mount: Mutex<HashMap<Mount, Weak<Semaphore>>>,
}

/// Requests at once that no mount waits for: fewer than one endpoint takes, so that mounts find it free.
const BACKGROUND: usize = 4;

/// Logins at once at one auth mount: fewer than one endpoint takes.
const LOGINS: usize = 6;

/// The most of an engine's kind that is kept, in bytes.
const MAX_KIND: usize = 40;

/// A Vault namespace, and a mount path or its beginning.
type Mount = (Option<String>, String);

/// Who logs in where.
#[derive(Clone)]
pub struct Login {
    /// The auth mount, without `auth/`.
    pub mount: String,
    /// The Vault namespace of the auth mount.
    pub namespace: Option<String>,
    /// The role.
    pub role: String,
    /// The service account token.
    pub jwt: SecretText,
}

/// What a read brought, and whether it created something.
pub struct Reading {
    /// Vault's answer.
    pub answer: Answer,
    /// Whether the request may have created a credential, so that the answer must reach its pod.
    pub creates: bool,
}

impl Client {
    pub(super) fn new(
        endpoint: &Endpoint,
        config: &Arc<Config>,
        metrics: &Arc<Metrics>,
        room: Arc<Room>,
        lookups: Lookups,
    ) -> Result<Self, Error> {
        Ok(Self {
            shared: Arc::new(Shared {
                endpoint: Arc::new(endpoint.clone()),
                address: endpoint.address.to_string(),
                transport: Transport::new(endpoint, config, metrics, room, lookups)?,
                engines: Engines::default(),
                asking: Slots::default(),
                max_creating: config.max_creating,
                creating: Slots::default(),
                logging_in: Slots::default(),
                methods: Methods::default(),
                background: Turns::new(BACKGROUND),
                watch: Arc::new(Watch::new(Arc::clone(metrics))),
            }),
        })
    }

    /// Where it leads.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.shared.endpoint
    }

    /// The endpoint's address, for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// A turn for a request that no mount waits for, of something that is over at `end`; waits until there is one.
    pub async fn background(&self, end: Option<Instant>) -> Turn {
        self.shared.background.take(end).await
    }

    /// How far the cluster had come by its last answers, in its own words, for another process. None when it does not tell.
    #[must_use]
    pub fn seen_index(&self) -> Option<String> {
        self.shared.transport.seen.told()
    }

    /// Takes in how far an earlier process had seen the cluster: no answer shall be older.
    pub fn learn_index(&self, told: &str) {
        self.shared.transport.seen.take(told);
    }

    /// How it is reached.
    pub(super) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// Whether anyone but the registry uses it.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Logs in with a service account token; the `kubernetes` and `jwt` methods take the same request.
    pub async fn login(&self, login: &Login, deadline: Instant) -> Result<Granted, Failure> {
        let mut endpoint = LoginWithKubernetesRequest {
            mount: login.mount.clone(),
            role: login.role.clone(),
            jwt: login.jwt.expose().to_owned(),
        };
        let request = self.build(&endpoint, None, login.namespace.as_deref());
        endpoint.jwt.zeroize();
        let slots = self.shared.logging_in.of(login.namespace.as_deref(), &login.mount, LOGINS);
        let Ok(Ok(_slot)) = timeout_at(deadline, slots.acquire()).await else {
            return Err(Failure::late("waiting for other logins"));
        };
        let mut failure = match self.send(request?, Call::until(deadline)).await {
            Ok(received) => {
                let granted = Token::parse(received.body)?;
                self.shared.methods.learn(login.namespace.as_deref(), &login.mount, granted.method);
                return Ok(granted);
            }
            Err(failure) => failure.covered(|words| without(words, &[login.jwt.expose()], "[token]")),
        };
        if let Failure::Refused(refusal) = &mut failure {
            self.shared.methods.learn(login.namespace.as_deref(), &login.mount, refusal.auth_kind());
            // A server that was never initialized answers that it is sealed, so one that does is asked again.
            if refusal.is_sealed() {
                refusal.uninitialized = self.is_uninitialized(deadline).await;
            }
        }
        Err(failure)
    }

    /// What takes logins at an auth mount, if an answer of it has told.
    #[must_use]
    pub fn known_method(&self, mount: &str, namespace: Option<&str>) -> AuthKind {
        self.shared.methods.find(namespace, mount)
    }

    /// Reads, lists or writes, and says whether that created something.
    pub async fn read(
        &self,
        token: &Token,
        namespace: Option<&str>,
        read: &Read,
        deadline: Instant,
    ) -> Result<Reading, Failure> {
        let engine = self.engine(token, namespace, read, deadline).await;
        let creates = creates(read, engine.as_deref());
        let slots = creates.then(|| {
            let mount = engine.as_ref().map_or(start(&read.path), |e| e.path.trim_end_matches('/'));
            self.shared.creating.of(namespace, mount, self.shared.max_creating)
        });
        let _slot = match &slots {
            Some(slots) => {
                let busy = Failure::late("waiting for other requests that create credentials");
                let Ok(Ok(slot)) = timeout_at(deadline, slots.acquire()).await else { return Err(busy) };
                Some(slot)
            }
            None => None,
        };
        self.shared.transport.check_room(&token.room)?;
        token.take_use()?;
        let request = self.build(&Logical(read), Some(token), namespace)?;
        let sent = self.send(request, Call { creates, room: Some(&token.room), ..Call::until(deadline) }).await;
        let Received { body, share } =
            sent.map_err(|failure| failure.covered(|words| without(words, &[token.text()], "[token]")))?;
        if body.is_empty() {
            return Err(Failure::NoData { warnings: Vec::new() });
        }
        // A page is a proxy's; else an engine that Vault told of answers with the bare thing, as `pki/ca/pem` does.
        let is_raw = engine.is_some() && !body.trim_ascii_start().starts_with(b"<");
        let answer = Answer::parse(body)
            .map_err(|fault| if is_raw { Failure::NoJson } else { Failure::NotVault(fault.to_string()) })?;
        if answer.data().is_none() {
            return Err(Failure::NoData { warnings: answer.warnings });
        }
        Ok(Reading { answer: answer.taking(share)?, creates })
    }

    /// What a refusal means for the token: when Vault's words do not tell, the token is asked about itself.
    pub async fn is_token_gone(
        &self,
        token: &Token,
        namespace: Option<&str>,
        failure: &Failure,
        deadline: Instant,
    ) -> bool {
        let Failure::Refused(refusal) = failure else { return false };
        match refusal.token_verdict() {
            TokenVerdict::Valid => false,
            TokenVerdict::Invalid => true,
            TokenVerdict::Unclear => self.is_gone(token, namespace, deadline).await,
        }
    }

    /// Asks a token about itself. One that has no use left to ask with counts as gone.
    pub async fn is_gone(&self, token: &Token, namespace: Option<&str>, deadline: Instant) -> bool {
        if token.take_use().is_err() {
            return true;
        }
        // Vault refuses to look up what is not there. One that may not look itself up is refused by a policy, and is valid.
        let Ok(request) = self.build(&LookupTokenSelfRequest {}, Some(token), namespace) else { return false };
        match self.send(request, Call::until(deadline)).await {
            Err(Failure::Refused(refusal)) => refusal.status == 403 && refusal.token_verdict() != TokenVerdict::Valid,
            _ => false,
        }
    }

    /// What is known of the engine at a path, without asking.
    #[must_use]
    pub fn known_engine(&self, namespace: Option<&str>, path: &str) -> Option<Arc<Engine>> {
        self.shared.engines.find(namespace, path).and_then(Known::engine)
    }

    /// The engine mounted at a read's path, asked for at its first use.
    async fn engine(
        &self,
        token: &Token,
        namespace: Option<&str>,
        read: &Read,
        deadline: Instant,
    ) -> Option<Arc<Engine>> {
        if is_builtin(&read.path) {
            return None;
        }
        if let Some(known) = self.shared.engines.find(namespace, &read.path) {
            return known.engine();
        }
        let asking = self.shared.asking.of(namespace, start(&read.path), 1);
        let _asking = timeout_at(deadline, asking.acquire()).await.ok()?;
        if let Some(known) = self.shared.engines.find(namespace, &read.path) {
            return known.engine();
        }
        let told = Box::pin(self.ask_engine(token, namespace, read, deadline)).await?;
        self.shared.engines.learn(namespace, &read.path, told.clone());
        told.engine()
    }

    /// Asks Vault for an engine; `None` when it could not be asked.
    async fn ask_engine(
        &self,
        token: &Token,
        namespace: Option<&str>,
        read: &Read,
        deadline: Instant,
    ) -> Option<Known> {
        #[derive(Deserialize)]
        struct Body {
            data: Engine,
        }
        let request = self.build(&EngineAt(&read.path), Some(token), namespace).ok()?;
        match self.send(request, Call::until(deadline)).await {
            Ok(Received { body, .. }) => {
                let engine = serde_json::from_slice::<Body>(&body).ok().map(|body| body.data);
                let engine = engine.filter(|e| e.path.ends_with('/') && read.path.starts_with(&e.path));
                let engine = engine.map(|e| Engine { kind: one_line(&e.kind, MAX_KIND), ..e });
                Some(engine.map_or(Known::Untold, |engine| Known::Engine(Arc::new(engine))))
            }
            Err(Failure::Refused(refusal)) if matches!(refusal.status, 400..=404) => Some(Known::Untold),
            // A proxy that lets only some paths pass.
            Err(Failure::NotVault(_)) => Some(Known::Untold),
            Err(_) => None,
        }
    }

    fn build(
        &self,
        endpoint: &impl Build,
        token: Option<&Token>,
        namespace: Option<&str>,
    ) -> Result<Request<Vec<u8>>, Failure> {
        let mut request = endpoint
            .request(self.shared.transport.origin())
            .map_err(|_| Failure::Unsendable("its path or body cannot be encoded"))?;
        let headers = request.headers_mut();
        // Vault refuses requests without it when it is told to stand against request forgery.
        headers.insert(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
        // No request is like another to a cache in between: Vault Agent and Proxy answer what they have heard before, renewals too,
        // with the time that was granted then (measured against OpenBao 2.7).
        headers.insert(HeaderName::from_static("x-request-id"), request_id());
        if let Some(token) = token {
            headers.insert(HeaderName::from_static("x-vault-token"), token.header.clone());
        }
        if let Some(namespace) = namespace {
            let value = HeaderValue::from_str(namespace)
                .map_err(|_| Failure::Unsendable("the Vault namespace has characters no header takes"))?;
            headers.insert(HeaderName::from_static("x-vault-namespace"), value);
        }
        Ok(request)
    }
}

/// What no other request has, of this process or another.
fn request_id() -> HeaderValue {
    static BEGUN: LazyLock<i128> = LazyLock::new(|| jiff::Timestamp::now().as_nanosecond());
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let text = format!("vaultmount-{:x}-{:x}", *BEGUN, NEXT.fetch_add(1, Relaxed));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Whether a read may create something: what is unknown counts as doing so.
fn creates(read: &Read, engine: Option<&Engine>) -> bool {
    match read.method {
        Method::List => false,
        Method::Get => !(is_builtin(&read.path) || engine.is_some_and(Engine::reads_only)),
        Method::Put | Method::Post => true,
    }
}

impl Slots {
    /// The semaphore of a path, made with so many permits if there is none.
    fn of(&self, namespace: Option<&str>, path: &str, permits: usize) -> Arc<Semaphore> {
        let mut by_mount = self.by_mount.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.map(str::to_owned), path.to_owned());
        if let Some(slots) = by_mount.get(&key).and_then(Weak::upgrade) {
            return slots;
        }
        by_mount.retain(|_, slots| slots.strong_count() > 0);
        let slots = Arc::new(Semaphore::new(permits));
        by_mount.insert(key, Arc::downgrade(&slots));
        slots
    }
}

/// The first part of a path, which is the mount path or its beginning.
fn start(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

/// Any path, any method, as a class names it.
struct Logical<'a>(&'a Read);

impl Build for Logical<'_> {
    type Response = serde::de::IgnoredAny;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.0.path.clone()
    }

    fn method(&self) -> RequestMethod {
        match self.0.method {
            Method::Get => RequestMethod::GET,
            Method::List => RequestMethod::LIST,
            Method::Put => RequestMethod::PUT,
            Method::Post => RequestMethod::POST,
        }
    }

    fn query(&self) -> Result<Option<String>, ClientError> {
        Ok(self.0.query.as_ref().map(|q| q.expose().to_owned()))
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        Ok(self.0.body.as_ref().map(|b| b.expose().as_bytes().to_vec()))
    }
}

/// `sys/internal/ui/mounts/PATH`: the engine at a path, told to any token that may use something of it.
struct EngineAt<'a>(&'a str);

impl Build for EngineAt<'_> {
    type Response = serde::de::IgnoredAny;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        format!("sys/internal/ui/mounts/{}", self.0)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::GET
    }
}
