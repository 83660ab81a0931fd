//! One request to the API server: bounded in time and size, counted, and never followed elsewhere.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT},
};
use hyper_util::client::legacy;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::{
    connection::Connection,
    http::{self, HttpClient},
    path,
    response::ApiResponse,
};
use crate::{
    error::{Cause, Error},
    observe::metrics::{Metrics, StatusClass},
    secret::{SecretBytes, SecretText},
    tls::{MinTlsVersion, TlsReload, TlsReloader},
};

/// The most time one request may take, answer included; a caller with less drops the future.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer taken unless more is [asked](Ask) for, in bytes: what etcd holds of one object.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// A read of something: where it is, and in which form and up to which size it is taken.
pub(super) struct GetOptions<'a> {
    /// Path and query.
    pub(super) path: &'a str,
    /// The Accept header.
    pub(super) accept: &'static str,
    /// The largest answer taken, in bytes.
    pub(super) most: usize,
}

impl<'a> GetOptions<'a> {
    /// An object as it is, of the usual size.
    fn object(path: &'a str) -> Self {
        Self { path, accept: "application/json", most: MAX_RESPONSE_BYTES }
    }
}

/// How the answer to a watch begins.
pub(super) enum WatchResponse<'a> {
    /// Its events, which go on for as long as they like.
    Events(Incoming),
    /// It was refused.
    Refused(ApiResponse<'a>),
}

/// A client of one API server.
pub(super) struct Client {
    connection: Arc<Connection>,
    /// Replaced when a certificate or an authority has changed.
    http: Arc<ArcSwap<HttpClient>>,
    /// Held while TLS files are read, by threads that may block.
    files: Arc<Mutex<TlsReloader>>,
    oldest: MinTlsVersion,
    requests: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Client {
    pub(super) fn new(connection: Connection, oldest: MinTlsVersion, metrics: Arc<Metrics>) -> Result<Self, Error> {
        // Before they are read: what changes meanwhile is noticed.
        let files = Arc::new(Mutex::new(TlsReloader::new(connection.digest())));
        let http = Arc::new(ArcSwap::from_pointee(http::build(&connection, oldest)?));
        Ok(Self { connection: Arc::new(connection), http, files, oldest, requests: AtomicU64::new(0), metrics })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// How many requests were sent so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Reads the object at `path`.
    pub(super) async fn get(&self, path: &str) -> Result<ApiResponse<'_>, Error> {
        self.read(GetOptions::object(path)).await
    }

    /// Reads what is asked for.
    pub(super) async fn read(&self, ask: GetOptions<'_>) -> Result<ApiResponse<'_>, Error> {
        self.send(Method::GET, ask, SecretBytes::default()).await
    }

    /// Opens a watch. The time of a request is for the head of its answer alone, or for all of a refusal.
    pub(super) async fn watch(&self, ask: GetOptions<'_>) -> Result<WatchResponse<'_>, Error> {
        let most = ask.most;
        let request = self.request(Method::GET, ask, SecretBytes::default()).await?;
        self.with_timeout(async {
            let response = self.send_once(request).await?;
            if response.status().is_success() {
                return Ok(WatchResponse::Events(response.into_body()));
            }
            self.read_body(response, most).await.map(WatchResponse::Refused)
        })
        .await
    }

    /// Creates `object` at `path`.
    pub(super) async fn post(&self, path: &str, object: &impl Serialize) -> Result<ApiResponse<'_>, Error> {
        let mut json = Vec::with_capacity(1024);
        serde_json::to_writer(&mut json, object).map_err(|e| internal(&e))?;
        self.send(Method::POST, GetOptions::object(path), SecretBytes::from(json)).await
    }

    /// Lays `change` over the object at `path` (RFC 7386).
    pub(super) async fn merge_patch(&self, path: &str, change: &impl Serialize) -> Result<ApiResponse<'_>, Error> {
        let json = serde_json::to_vec(change).map_err(|e| internal(&e))?;
        self.send(Method::PATCH, GetOptions::object(path), SecretBytes::from(json)).await
    }

    async fn send(&self, method: Method, ask: GetOptions<'_>, body: SecretBytes) -> Result<ApiResponse<'_>, Error> {
        let most = ask.most;
        let request = self.request(method, ask, body).await?;
        self.with_timeout(async { self.read_body(self.send_once(request).await?, most).await }).await
    }

    async fn with_timeout<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(REQUEST_TIMEOUT, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(self
                    .error(Cause::KubernetesApi, &format!("does not answer within {} s", REQUEST_TIMEOUT.as_secs())))
            }
        }
    }

    async fn request(
        &self,
        method: Method,
        ask: GetOptions<'_>,
        body: SecretBytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let token = self.connection.credentials.token(Instant::now()).await?;
        let is_change = method == Method::PATCH;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{}", self.connection.server, ask.path))
            .header(ACCEPT, ask.accept)
            .header(USER_AGENT, concat!("vaultmount/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            let form = if is_change { "application/merge-patch+json" } else { "application/json" };
            request = request.header(CONTENT_TYPE, form);
        }
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, bearer(&token)?);
        }
        request.body(Full::new(body.into_bytes())).map_err(|e| internal(&e))
    }

    /// Sends a request and counts it; its answer's body is still to come.
    async fn send_once(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let operation = path::operation(request.uri().path());
        let http = self.http.load_full();
        let answer = http.request(request).await;
        let answered = answer.as_ref().map_or(StatusClass::Nothing, |answer| StatusClass::of(answer.status().as_u16()));
        self.metrics.count_kubernetes_request(operation, answered);
        let response = match answer {
            Ok(response) => response,
            Err(error) => return Err(self.connection_error(&error).await),
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            self.connection.credentials.invalidate();
        }
        Ok(response)
    }

    /// The answer with its body, of at most so many bytes.
    async fn read_body(&self, response: Response<Incoming>, most: usize) -> Result<ApiResponse<'_>, Error> {
        let (status, mut body) = (response.status(), response.into_body());
        let expected = body.size_hint().lower();
        let mut whole = Vec::with_capacity(usize::try_from(expected).map_or(most, |n| n.min(most)));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.unreachable(&http::reason(&e).1))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > most {
                return Err(self
                    .error(Cause::KubernetesConfig, &format!("answers with more than {} MiB", most >> 20))
                    .with_fix("check that the address is a Kubernetes API server"));
            }
            whole.extend_from_slice(&data);
        }
        Ok(ApiResponse { server: self.connection.server.as_str(), status, body: SecretBytes::from(whole) })
    }

    async fn connection_error(&self, error: &legacy::Error) -> Error {
        let (cause, words) = http::reason(error);
        if cause != Cause::KubernetesConfig {
            return self.unreachable(&words);
        }
        self.reload_tls().await;
        self.error(cause, "cannot be spoken to over TLS")
            .with_server_message(words)
            .with_fix("check the certificate authority and the server name it is reached by")
    }

    /// Reads the TLS files anew. If they have changed and can be used, they are for new connections; requests in flight, and a
    /// watch, end on theirs.
    pub(super) async fn reload_tls(&self) {
        let (connection, files, http) = (Arc::clone(&self.connection), Arc::clone(&self.files), Arc::clone(&self.http));
        let oldest = self.oldest;
        let looking = tokio::task::spawn_blocking(move || {
            // Another who reads them knows, and nobody shall wait behind a file system that hangs.
            let Ok(mut files) = files.try_lock() else { return TlsReload::Unchanged };
            let found = connection.digest();
            files
                .reload(found, Instant::now(), || http::build(&connection, oldest))
                .map_settings(|new| http.store(Arc::new(new)))
        });
        // Else it hangs, or the process ends.
        if let Ok(Ok(look)) = timeout(REQUEST_TIMEOUT, looking).await {
            look.log(self.connection.server.as_str());
        }
    }

    fn unreachable(&self, words: &str) -> Error {
        self.error(Cause::KubernetesApi, "does not answer")
            .with_server_message(words)
            .with_fix("check that the address is right and that no network policy stands between")
    }

    fn error(&self, cause: Cause, what: &str) -> Error {
        Error::new(cause, format!("API server {} {what}", self.connection.server))
    }
}

fn bearer(token: &SecretText) -> Result<HeaderValue, Error> {
    let text = zeroize::Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        Error::new(Cause::KubernetesConfig, "the Kubernetes token holds characters that no header can carry")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn internal(error: &dyn std::error::Error) -> Error {
    Error::new(Cause::Internal, "the request to the Kubernetes API cannot be made")
        .with_server_message(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_in_the_header_and_not_in_its_debug() {
        let header = bearer(&SecretText::from("t0ken")).unwrap();
        assert_eq!(header, "Bearer t0ken");
        assert_eq!(format!("{header:?}"), "Sensitive");
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_not_shown() {
        let error = bearer(&SecretText::from("t0\nken")).unwrap_err().to_string();
        assert_eq!(error, "the Kubernetes token holds characters that no header can carry [VM0091]");
    }
}
