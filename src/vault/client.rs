//! Client for Vault's API: logs in, reads secrets, and looks up tokens and engines.
//!
//! Builds requests from rustify endpoints (of vaultrs where one exists) and sends them on vaultmount's own transport. The
//! client of vaultrs follows redirects with the token and has no limits.

mod auth_methods;
mod diagnose;
pub mod health;
mod health_monitor;
pub mod preflight;
mod renew;
mod token;

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
    Endpoint, VaultConfig,
    connect::DnsLimiter,
    engine::{Engine, EngineCache, EngineLookup, is_builtin_path},
    error::{RequestError, TokenValidity},
    memory_budget::MemoryBudget,
    priority_semaphore::{PriorityPermit, PrioritySemaphore},
    request::{Method, SecretRequest, redact_values},
    response::SecretResponse,
    transport::{CallOptions, ResponseBody, Transport},
};
use crate::{
    error::Error, observe::metrics::Metrics, secret::SecretText, text::one_line, vault::auth_method::AuthMethod,
};
use auth_methods::AuthMethodCache;
use health_monitor::HealthMonitor;
pub use renew::RenewalGrant;
pub use token::{LoginResult, SavedToken, VaultToken};

/// Client of one endpoint. Cheap to clone: clones share connections, limits and the engine cache.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Arc<Endpoint>,
    address: String,
    transport: Transport,
    engines: EngineCache,
    /// One permit per first path segment for engine lookups, so that concurrent reads of a new mount look it up once.
    engine_lookups: KeyedSemaphores,
    max_mutating: usize,
    /// Permits for mutating requests, by mount path.
    mutating: KeyedSemaphores,
    /// Permits for logins, by auth mount: an auth mount may wait for an API server that never responds.
    logins: KeyedSemaphores,
    auth_methods: AuthMethodCache,
    /// Permits for background requests, which no mount waits for.
    background_requests: PrioritySemaphore,
    health_monitor: Arc<HealthMonitor>,
}

/// Semaphores by mount. Each exists while a caller holds it.
#[derive(Default)]
struct KeyedSemaphores {
    /// Never held across an await.
    by_mount: Mutex<HashMap<MountKey, Weak<Semaphore>>>,
}

/// Concurrency limit of background requests: below the limit of one endpoint, so that mounts find free permits.
const MAX_BACKGROUND_REQUESTS: usize = 4;

/// Concurrency limit of logins at one auth mount: below the limit of one endpoint.
const MAX_LOGINS_PER_AUTH_MOUNT: usize = 6;

/// Maximum kept length of an engine's kind, in bytes.
const MAX_ENGINE_KIND_BYTES: usize = 40;

/// A Vault namespace, and a mount path or its beginning.
type MountKey = (Option<String>, String);

/// Parameters of a login.
#[derive(Clone)]
pub struct LoginRequest {
    /// The auth mount, without `auth/`.
    pub auth_mount: String,
    /// The Vault namespace of the auth mount.
    pub namespace: Option<String>,
    /// The role.
    pub role: String,
    /// The service account token.
    pub jwt: SecretText,
}

/// The result of a read.
pub struct ReadResult {
    /// Vault's response.
    pub response: SecretResponse,
    /// Set when the request may have created a credential, so that the response must reach its pod.
    pub mutating: bool,
}

impl Client {
    pub(super) fn new(
        endpoint: &Endpoint,
        config: &Arc<VaultConfig>,
        metrics: &Arc<Metrics>,
        budget: Arc<MemoryBudget>,
        dns_limiter: DnsLimiter,
    ) -> Result<Self, Error> {
        Ok(Self {
            shared: Arc::new(Shared {
                endpoint: Arc::new(endpoint.clone()),
                address: endpoint.address.to_string(),
                transport: Transport::new(endpoint, config, metrics, budget, dns_limiter)?,
                engines: EngineCache::default(),
                engine_lookups: KeyedSemaphores::default(),
                max_mutating: config.max_mutating,
                mutating: KeyedSemaphores::default(),
                logins: KeyedSemaphores::default(),
                auth_methods: AuthMethodCache::default(),
                background_requests: PrioritySemaphore::new(MAX_BACKGROUND_REQUESTS),
                health_monitor: Arc::new(HealthMonitor::new(Arc::clone(metrics))),
            }),
        })
    }

    /// Returns the endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.shared.endpoint
    }

    /// Returns the endpoint's address, for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Acquires a permit for a background request about something that expires at `expires_at`. Waits for a free permit.
    pub async fn background_permit(&self, expires_at: Option<Instant>) -> PriorityPermit {
        self.shared.background_requests.acquire(expires_at).await
    }

    /// Returns the newest replication index in the cluster's own encoding, for another process. `None` when the cluster sends
    /// none.
    #[must_use]
    pub fn export_replication_index(&self) -> Option<String> {
        self.shared.transport.seen_index.export()
    }

    /// Records the replication index that an earlier process has seen: no response may be older.
    pub fn import_replication_index(&self, exported: &str) {
        self.shared.transport.seen_index.import(exported);
    }

    /// Returns the transport.
    pub(super) fn transport(&self) -> &Transport {
        &self.shared.transport
    }

    /// Returns true when the client is in use outside the registry.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    /// Logs in with a service account token. The `kubernetes` and `jwt` methods accept the same request.
    pub async fn login(&self, login: &LoginRequest, deadline: Instant) -> Result<LoginResult, RequestError> {
        let mut endpoint = LoginWithKubernetesRequest {
            mount: login.auth_mount.clone(),
            role: login.role.clone(),
            jwt: login.jwt.expose().to_owned(),
        };
        let http_request = self.build_request(&endpoint, None, login.namespace.as_deref());
        endpoint.jwt.zeroize();
        let logins =
            self.shared.logins.get_or_create(login.namespace.as_deref(), &login.auth_mount, MAX_LOGINS_PER_AUTH_MOUNT);
        let Ok(Ok(_permit)) = timeout_at(deadline, logins.acquire()).await else {
            return Err(RequestError::deadline_before_sending("waiting for other logins"));
        };
        let mut failure = match self.send(http_request?, CallOptions::with_deadline(deadline)).await {
            Ok(received) => {
                let result = VaultToken::parse_login(received.bytes)?;
                self.shared.auth_methods.record(login.namespace.as_deref(), &login.auth_mount, result.auth_method);
                return Ok(result);
            }
            Err(failure) => failure.redacted(|words| redact_values(words, &[login.jwt.expose()], "[token]")),
        };
        if let RequestError::ErrorResponse(response) = &mut failure {
            self.shared.auth_methods.record(login.namespace.as_deref(), &login.auth_mount, response.auth_method());
            // An uninitialized server also reports that it is sealed; a health probe distinguishes the two.
            if response.is_sealed() {
                response.is_uninitialized = self.is_uninitialized(deadline).await;
            }
        }
        Err(failure)
    }

    /// Returns the cached auth method of an auth mount, if a response has shown it.
    #[must_use]
    pub fn cached_auth_method(&self, mount: &str, namespace: Option<&str>) -> AuthMethod {
        self.shared.auth_methods.get(namespace, mount)
    }

    /// Reads, lists or writes. The result says whether the request was mutating.
    pub async fn read(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        request: &SecretRequest,
        deadline: Instant,
    ) -> Result<ReadResult, RequestError> {
        let engine = self.lookup_engine(token, namespace, request, deadline).await;
        let mutating = is_mutating(request, engine.as_deref());
        let semaphore = mutating.then(|| {
            let mount = engine.as_ref().map_or(first_segment(&request.path), |e| e.path.trim_end_matches('/'));
            self.shared.mutating.get_or_create(namespace, mount, self.shared.max_mutating)
        });
        let _permit = match &semaphore {
            Some(semaphore) => {
                let timed_out =
                    RequestError::deadline_before_sending("waiting for other requests that create credentials");
                let Ok(Ok(permit)) = timeout_at(deadline, semaphore.acquire()).await else { return Err(timed_out) };
                Some(permit)
            }
            None => None,
        };
        self.shared.transport.ensure_budget_available(&token.budget)?;
        token.consume_use()?;
        let http_request = self.build_request(&LogicalEndpoint(request), Some(token), namespace)?;
        let result = self
            .send(
                http_request,
                CallOptions { mutating, budget: Some(&token.budget), ..CallOptions::with_deadline(deadline) },
            )
            .await;
        let ResponseBody { bytes: body, reservation } =
            result.map_err(|failure| failure.redacted(|words| redact_values(words, &[token.expose()], "[token]")))?;
        if body.is_empty() {
            return Err(RequestError::NoData { warnings: Vec::new() });
        }
        // An HTML page comes from a proxy. A known engine may respond with raw content, as `pki/ca/pem` does.
        let is_raw = engine.is_some() && !body.trim_ascii_start().starts_with(b"<");
        let response = SecretResponse::parse(body)
            .map_err(|error| if is_raw { RequestError::NotJson } else { RequestError::NotVault(error.to_string()) })?;
        if response.data().is_none() {
            return Err(RequestError::NoData { warnings: response.warnings });
        }
        Ok(ReadResult { response: response.with_reservation(reservation)?, mutating })
    }

    /// Returns true when a failure means that the token is invalid. Looks the token up when the error text does not show it.
    pub async fn is_denied_for_invalid_token(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        failure: &RequestError,
        deadline: Instant,
    ) -> bool {
        let RequestError::ErrorResponse(response) = failure else { return false };
        match response.token_validity() {
            TokenValidity::Valid => false,
            TokenValidity::Invalid => true,
            TokenValidity::Unknown => self.is_token_invalid(token, namespace, deadline).await,
        }
    }

    /// Returns true when Vault no longer accepts the token, by its own lookup. A token without remaining uses counts as invalid.
    pub async fn is_token_invalid(&self, token: &VaultToken, namespace: Option<&str>, deadline: Instant) -> bool {
        if token.consume_use().is_err() {
            return true;
        }
        // Vault rejects the lookup of a missing token. A valid token that may not look itself up is denied by a policy.
        let Ok(request) = self.build_request(&LookupTokenSelfRequest {}, Some(token), namespace) else { return false };
        match self.send(request, CallOptions::with_deadline(deadline)).await {
            Err(RequestError::ErrorResponse(response)) => {
                response.status == 403 && response.token_validity() != TokenValidity::Valid
            }
            _ => false,
        }
    }

    /// Returns the cached engine at a path, without a request.
    #[must_use]
    pub fn cached_engine(&self, namespace: Option<&str>, path: &str) -> Option<Arc<Engine>> {
        self.shared.engines.get(namespace, path).and_then(EngineLookup::into_engine)
    }

    /// Returns the engine mounted at a read's path; fetches it at its first use.
    async fn lookup_engine(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        request: &SecretRequest,
        deadline: Instant,
    ) -> Option<Arc<Engine>> {
        if is_builtin_path(&request.path) {
            return None;
        }
        if let Some(lookup) = self.shared.engines.get(namespace, &request.path) {
            return lookup.into_engine();
        }
        let semaphore = self.shared.engine_lookups.get_or_create(namespace, first_segment(&request.path), 1);
        let _permit = timeout_at(deadline, semaphore.acquire()).await.ok()?;
        if let Some(lookup) = self.shared.engines.get(namespace, &request.path) {
            return lookup.into_engine();
        }
        let lookup = Box::pin(self.fetch_engine(token, namespace, request, deadline)).await?;
        self.shared.engines.record(namespace, &request.path, lookup.clone());
        lookup.into_engine()
    }

    /// Fetches an engine from Vault; `None` when the request failed.
    async fn fetch_engine(
        &self,
        token: &VaultToken,
        namespace: Option<&str>,
        request: &SecretRequest,
        deadline: Instant,
    ) -> Option<EngineLookup> {
        #[derive(Deserialize)]
        struct Body {
            data: Engine,
        }
        let http_request = self.build_request(&EngineMountEndpoint(&request.path), Some(token), namespace).ok()?;
        match self.send(http_request, CallOptions::with_deadline(deadline)).await {
            Ok(ResponseBody { bytes: body, .. }) => {
                let engine = serde_json::from_slice::<Body>(&body).ok().map(|body| body.data);
                let engine = engine.filter(|e| e.path.ends_with('/') && request.path.starts_with(&e.path));
                let engine = engine.map(|e| Engine { kind: one_line(&e.kind, MAX_ENGINE_KIND_BYTES), ..e });
                Some(engine.map_or(EngineLookup::Undisclosed, |engine| EngineLookup::Found(Arc::new(engine))))
            }
            Err(RequestError::ErrorResponse(response)) if matches!(response.status, 400..=404) => {
                Some(EngineLookup::Undisclosed)
            }
            // A proxy may forward only some paths.
            Err(RequestError::NotVault(_)) => Some(EngineLookup::Undisclosed),
            Err(_) => None,
        }
    }

    /// Sends one idempotent request: a GET, or a POST when `body` is set.
    async fn send_idempotent(
        &self,
        token: Option<&VaultToken>,
        namespace: Option<&str>,
        path: &str,
        body: Option<String>,
        deadline: Instant,
    ) -> Result<Vec<u8>, RequestError> {
        self.send_idempotent_with(token, namespace, path, None, body, CallOptions::with_deadline(deadline)).await
    }

    /// Sends one idempotent request with the given call options.
    async fn send_idempotent_with(
        &self,
        token: Option<&VaultToken>,
        namespace: Option<&str>,
        path: &str,
        query: Option<&str>,
        body: Option<String>,
        call: CallOptions<'_>,
    ) -> Result<Vec<u8>, RequestError> {
        let method = if body.is_some() { Method::Post } else { Method::Get };
        let (query, body) = (query.map(SecretText::from), body.map(SecretText::from));
        let request = SecretRequest { method, path: path.to_owned(), query, body };
        let http_request = self.build_request(&LogicalEndpoint(&request), token, namespace)?;
        let result = self.send(http_request, call).await;
        let secrets: Vec<&str> = token.map(VaultToken::expose).into_iter().collect();
        result
            .map(|received| received.bytes)
            .map_err(|failure| failure.redacted(|words| redact_values(words, &secrets, "[token]")))
    }

    fn build_request(
        &self,
        endpoint: &impl Build,
        token: Option<&VaultToken>,
        namespace: Option<&str>,
    ) -> Result<Request<Vec<u8>>, RequestError> {
        let mut request = endpoint
            .request(self.shared.transport.origin())
            .map_err(|_| RequestError::InvalidRequest("its path or body cannot be encoded"))?;
        let headers = request.headers_mut();
        // Vault rejects requests without this header when its protection against request forgery is enabled.
        headers.insert(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
        // A unique ID keeps caches in between from matching an earlier request. Vault Agent and Proxy serve cached responses, for
        // renewals too, with the duration granted earlier (measured against OpenBao 2.7).
        headers.insert(HeaderName::from_static("x-request-id"), next_request_id());
        if let Some(token) = token {
            headers.insert(HeaderName::from_static("x-vault-token"), token.header.clone());
        }
        if let Some(namespace) = namespace {
            let value = HeaderValue::from_str(namespace)
                .map_err(|_| RequestError::InvalidRequest("the Vault namespace has invalid header characters"))?;
            headers.insert(HeaderName::from_static("x-vault-namespace"), value);
        }
        Ok(request)
    }
}

/// Returns a request ID that is unique across requests and processes.
fn next_request_id() -> HeaderValue {
    static PROCESS_START_NANOS: LazyLock<i128> = LazyLock::new(|| jiff::Timestamp::now().as_nanosecond());
    static NEXT_SEQUENCE: AtomicU64 = AtomicU64::new(0);
    let text = format!("vaultmount-{:x}-{:x}", *PROCESS_START_NANOS, NEXT_SEQUENCE.fetch_add(1, Relaxed));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Returns true when a read may create something. A read of an unknown engine counts as mutating.
fn is_mutating(request: &SecretRequest, engine: Option<&Engine>) -> bool {
    match request.method {
        Method::List => false,
        Method::Get => !(is_builtin_path(&request.path) || engine.is_some_and(Engine::has_safe_reads)),
        Method::Put | Method::Post => true,
    }
}

impl KeyedSemaphores {
    /// Returns the semaphore of a path; creates it with `permits` permits if none exists.
    fn get_or_create(&self, namespace: Option<&str>, path: &str, permits: usize) -> Arc<Semaphore> {
        let mut by_mount = self.by_mount.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.map(str::to_owned), path.to_owned());
        if let Some(semaphore) = by_mount.get(&key).and_then(Weak::upgrade) {
            return semaphore;
        }
        by_mount.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(permits));
        by_mount.insert(key, Arc::downgrade(&semaphore));
        semaphore
    }
}

/// Returns the first part of a path, which is the mount path or its beginning.
fn first_segment(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

/// Any path, any method, as a class names it.
struct LogicalEndpoint<'a>(&'a SecretRequest);

impl Build for LogicalEndpoint<'_> {
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

/// `sys/internal/ui/mounts/PATH`: the engine at a path, disclosed to any token that may use part of it.
struct EngineMountEndpoint<'a>(&'a str);

impl Build for EngineMountEndpoint<'_> {
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
