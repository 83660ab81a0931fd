//! Requests to the API server: limited in time and size, counted, and without following redirects.

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

/// Timeout of a request, including its response. A caller with less time drops the future.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Default limit of a response in bytes, which is etcd's limit for one object. [`GetOptions::max_bytes`] overrides it.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// Path, format and size limit of a GET request.
pub(super) struct GetOptions<'a> {
    /// Path and query string.
    pub(super) path: &'a str,
    /// Value of the `Accept` header.
    pub(super) accept: &'static str,
    /// Size limit of the response in bytes.
    pub(super) max_bytes: usize,
}

impl<'a> GetOptions<'a> {
    /// Returns options for a JSON object with the default size limit.
    fn object(path: &'a str) -> Self {
        Self { path, accept: "application/json", max_bytes: MAX_RESPONSE_BYTES }
    }
}

/// Response to a watch request.
pub(super) enum WatchResponse<'a> {
    /// Body with the stream of events, without a time limit.
    Events(Incoming),
    /// Error response.
    Rejected(ApiResponse<'a>),
}

/// HTTP client for one API server.
pub(super) struct ApiClient {
    connection: Arc<Connection>,
    /// Replaced when a client certificate or a CA has changed.
    http: Arc<ArcSwap<HttpClient>>,
    /// Locked while TLS files are read, only on threads that may block.
    tls_reloader: Arc<Mutex<TlsReloader>>,
    min_tls_version: MinTlsVersion,
    request_count: AtomicU64,
    metrics: Arc<Metrics>,
}

impl ApiClient {
    pub(super) fn new(
        connection: Connection,
        min_tls_version: MinTlsVersion,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        // The digest is computed before the files are read, so that a change in between is detected.
        let tls_reloader = Arc::new(Mutex::new(TlsReloader::new(connection.digest())));
        let http = Arc::new(ArcSwap::from_pointee(http::build(&connection, min_tls_version)?));
        Ok(Self {
            connection: Arc::new(connection),
            http,
            tls_reloader,
            min_tls_version,
            request_count: AtomicU64::new(0),
            metrics,
        })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns the number of requests sent so far.
    pub(super) fn request_count(&self) -> u64 {
        self.request_count.load(Ordering::Relaxed)
    }

    /// Reads the object at `path`.
    pub(super) async fn get(&self, path: &str) -> Result<ApiResponse<'_>, Error> {
        self.get_with_options(GetOptions::object(path)).await
    }

    /// Sends a GET request.
    pub(super) async fn get_with_options(&self, options: GetOptions<'_>) -> Result<ApiResponse<'_>, Error> {
        self.send(Method::GET, options, SecretBytes::default()).await
    }

    /// Opens a watch. The request timeout covers only the response head, or the whole body of an error response.
    pub(super) async fn watch(&self, options: GetOptions<'_>) -> Result<WatchResponse<'_>, Error> {
        let max_bytes = options.max_bytes;
        let request = self.request(Method::GET, options, SecretBytes::default()).await?;
        self.with_timeout(async {
            let response = self.send_once(request).await?;
            if response.status().is_success() {
                return Ok(WatchResponse::Events(response.into_body()));
            }
            self.read_body(response, max_bytes).await.map(WatchResponse::Rejected)
        })
        .await
    }

    /// Creates `object` at `path`.
    pub(super) async fn post(&self, path: &str, object: &impl Serialize) -> Result<ApiResponse<'_>, Error> {
        let mut json = Vec::with_capacity(1024);
        serde_json::to_writer(&mut json, object).map_err(|e| internal_error(&e))?;
        self.send(Method::POST, GetOptions::object(path), SecretBytes::from(json)).await
    }

    /// Applies the JSON merge patch `change` to the object at `path` (RFC 7386).
    pub(super) async fn merge_patch(&self, path: &str, change: &impl Serialize) -> Result<ApiResponse<'_>, Error> {
        let json = serde_json::to_vec(change).map_err(|e| internal_error(&e))?;
        self.send(Method::PATCH, GetOptions::object(path), SecretBytes::from(json)).await
    }

    async fn send(&self, method: Method, options: GetOptions<'_>, body: SecretBytes) -> Result<ApiResponse<'_>, Error> {
        let max_bytes = options.max_bytes;
        let request = self.request(method, options, body).await?;
        self.with_timeout(async { self.read_body(self.send_once(request).await?, max_bytes).await }).await
    }

    async fn with_timeout<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(result) => result,
            Err(_) => {
                Err(self.error(Cause::KubernetesApi, &format!("timed out after {} s", REQUEST_TIMEOUT.as_secs())))
            }
        }
    }

    async fn request(
        &self,
        method: Method,
        options: GetOptions<'_>,
        body: SecretBytes,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let token = self.connection.credentials.token(Instant::now()).await?;
        let is_change = method == Method::PATCH;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{}", self.connection.server, options.path))
            .header(ACCEPT, options.accept)
            .header(USER_AGENT, concat!("vaultmount/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            let content_type = if is_change { "application/merge-patch+json" } else { "application/json" };
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, bearer_header(&token)?);
        }
        request.body(Full::new(body.into_bytes())).map_err(|e| internal_error(&e))
    }

    /// Sends a request and counts it. Returns as soon as the response head has arrived.
    async fn send_once(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.request_count.fetch_add(1, Ordering::Relaxed);
        let operation = path::operation(request.uri().path());
        let http = self.http.load_full();
        let result = http.request(request).await;
        let status = result
            .as_ref()
            .map_or(StatusClass::NoResponse, |answer| StatusClass::from_http_status(answer.status().as_u16()));
        self.metrics.count_kubernetes_request(operation, status);
        let response = match result {
            Ok(response) => response,
            Err(error) => return Err(self.connection_error(&error).await),
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            self.connection.credentials.invalidate();
        }
        Ok(response)
    }

    /// Reads the body of a response, up to `max_bytes`.
    async fn read_body(&self, response: Response<Incoming>, max_bytes: usize) -> Result<ApiResponse<'_>, Error> {
        let (status, mut body) = (response.status(), response.into_body());
        let expected = body.size_hint().lower();
        let mut bytes = Vec::with_capacity(usize::try_from(expected).map_or(max_bytes, |n| n.min(max_bytes)));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.unreachable_error(&http::classify_error(&e).1))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > max_bytes {
                return Err(self
                    .error(
                        Cause::KubernetesConfig,
                        &format!("sent a response of more than {} MiB, limit exceeded", max_bytes >> 20),
                    )
                    .with_fix("check that the address is a Kubernetes API server"));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(ApiResponse { server: self.connection.server.as_str(), status, body: SecretBytes::from(bytes) })
    }

    async fn connection_error(&self, error: &legacy::Error) -> Error {
        let (cause, message) = http::classify_error(error);
        if cause != Cause::KubernetesConfig {
            return self.unreachable_error(&message);
        }
        self.reload_tls().await;
        self.error(cause, "failed the TLS handshake")
            .with_server_message(message)
            .with_fix("check the certificate authority and the TLS server name")
    }

    /// Reloads the TLS files. New connections use them if they have changed and are valid. Requests in flight and watches keep
    /// their connection.
    pub(super) async fn reload_tls(&self) {
        let (connection, tls_reloader, http) =
            (Arc::clone(&self.connection), Arc::clone(&self.tls_reloader), Arc::clone(&self.http));
        let min_tls_version = self.min_tls_version;
        let reload = tokio::task::spawn_blocking(move || {
            // A concurrent reload is enough, and no caller may wait for a file system that hangs.
            let Ok(mut reloader) = tls_reloader.try_lock() else { return TlsReload::Unchanged };
            let digest = connection.digest();
            reloader
                .reload(digest, Instant::now(), || http::build(&connection, min_tls_version))
                .map_settings(|new| http.store(Arc::new(new)))
        });
        // On a timeout the file system hangs; on a join error the process is shutting down.
        if let Ok(Ok(outcome)) = timeout(REQUEST_TIMEOUT, reload).await {
            outcome.log(self.connection.server.as_str());
        }
    }

    fn unreachable_error(&self, message: &str) -> Error {
        self.error(Cause::KubernetesApi, "does not answer")
            .with_server_message(message)
            .with_fix("check the address, and that no network policy blocks the connection")
    }

    fn error(&self, cause: Cause, problem: &str) -> Error {
        Error::new(cause, format!("API server {} {problem}", self.connection.server))
    }
}

fn bearer_header(token: &SecretText) -> Result<HeaderValue, Error> {
    let text = zeroize::Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        Error::new(
            Cause::KubernetesConfig,
            "the Kubernetes token contains characters that are not valid in an HTTP header",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn internal_error(error: &dyn std::error::Error) -> Error {
    Error::new(Cause::Internal, "cannot build the request to the Kubernetes API").with_server_message(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_header_is_redacted_in_debug() {
        let header = bearer_header(&SecretText::from("t0ken")).unwrap();
        assert_eq!(header, "Bearer t0ken");
        assert_eq!(format!("{header:?}"), "Sensitive");
    }

    #[test]
    fn bearer_header_error_hides_invalid_token() {
        let error = bearer_header(&SecretText::from("t0\nken")).unwrap_err().to_string();
        assert_eq!(error, "the Kubernetes token contains characters that are not valid in an HTTP header [VM0091]");
    }
}
