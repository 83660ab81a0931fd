//! A Kubernetes API server over plain HTTP, with the resources that vaultmount and Vault's Kubernetes auth method need:
//! Secrets (get, create), TokenRequest, TokenReview, and the [pods] of nodes (list, watch, get). Checks, codes and
//! Status objects match the real server's.
//!
//! Tokens are JWTs in form and claims. Instead of a signature they carry a mark that only this module sets.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be arranged fails")]

#[path = "kube_api/pods.rs"]
pub mod pods;

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

use pods::Pods;

/// Audience of the API server itself: the default for a token without a requested audience.
pub const API_SERVER_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// A running server; stopped when dropped.
pub struct KubeApi {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub method: String,
    pub path: String,
    pub query: String,
    pub accept: String,
    pub bearer: Option<String>,
    pub body: Value,
}

/// Fault that replaces a response.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Responds with this status and body.
    Respond(u16, String),
    /// Redirects to this address.
    Redirect(String),
    /// Reads the request and never responds.
    Hang,
}

/// Initial contents and rules; see [`KubeApi::builder`].
#[derive(Default)]
pub struct KubeApiBuilder {
    state: State,
}

#[derive(Default)]
struct State {
    secrets: BTreeMap<(String, String), Value>,
    accounts: BTreeMap<(String, String), String>,
    pods: Pods,
    events: Vec<Value>,
    token_reviews: BTreeMap<String, Value>,
    denied: Vec<(String, String)>,
    racing_secret: Option<Value>,
    required_bearer: Option<String>,
    faults: VecDeque<Fault>,
    requests: Vec<ReceivedRequest>,
    minted: u64,
    connections: Vec<AbortHandle>,
    /// True while responses and events are held back.
    paused: watch::Sender<bool>,
    /// Counts the changes that wake [`KubeApi::wait_until`]: requests, and watches that open or close.
    changes: watch::Sender<u64>,
}

/// A response: complete, or a stream of events.
enum ApiReply {
    Object(u16, Value),
    Events(ReplyBody),
}

type ReplyBody = UnsyncBoxBody<Bytes, io::Error>;

impl KubeApiBuilder {
    /// Adds a Secret.
    #[must_use]
    pub fn secret(mut self, namespace: &str, name: &str, data: &[(&str, &[u8])]) -> Self {
        self.state.secrets.insert(object_key(namespace, name), secret_object(namespace, name, data));
        self
    }

    /// Adds a Secret that another client creates just before vaultmount's first create request.
    #[must_use]
    pub fn racing_secret(mut self, namespace: &str, name: &str, data: &[(&str, &[u8])]) -> Self {
        self.state.racing_secret = Some(secret_object(namespace, name, data));
        self
    }

    /// Adds a service account; tokens of unknown service accounts are neither minted nor accepted.
    #[must_use]
    pub fn service_account(mut self, namespace: &str, name: &str) -> Self {
        self.state.accounts.insert(object_key(namespace, name), format!("uid-of-{namespace}-{name}"));
        self
    }

    /// Adds a pod that tokens can be bound to.
    #[must_use]
    pub fn pod(mut self, namespace: &str, name: &str, uid: &str) -> Self {
        self.state.pods.insert("", namespace, name, uid);
        self
    }

    /// Sets the TokenReview `status` for a token that this server did not mint.
    #[must_use]
    pub fn token_review(mut self, token: &str, status: Value) -> Self {
        self.state.token_reviews.insert(token.to_owned(), status);
        self
    }

    /// Denies this verb and resource to every client, as in `("create", "serviceaccounts/token")`.
    #[must_use]
    pub fn deny(mut self, verb: &str, resource: &str) -> Self {
        self.state.denied.push((verb.to_owned(), resource.to_owned()));
        self
    }

    /// Serves only requests with this token; the default is every request.
    #[must_use]
    pub fn require_bearer(mut self, token: &str) -> Self {
        self.state.required_bearer = Some(token.to_owned());
        self
    }

    /// Adds a fault for the next request without one.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.state.faults.push_back(fault);
        self
    }

    /// Starts the server on a free loopback port.
    pub async fn start(self) -> KubeApi {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(self.state));
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        KubeApi { address, state, task }
    }
}

impl KubeApi {
    /// Returns a builder for an empty server that serves every client.
    pub fn builder() -> KubeApiBuilder {
        KubeApiBuilder::default()
    }

    /// Returns `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns a kubeconfig for this server, as text.
    pub fn kubeconfig(&self, namespace: &str, token: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url()}}],
            "users": [{"name": "test", "user": {"token": token}}],
        })
        .to_string()
    }

    /// Mints a token as kubelet or the driver would receive it, valid for one hour.
    pub fn token(&self, namespace: &str, account: &str, audience: &str, pod: Option<(&str, &str)>) -> String {
        self.lock().mint(namespace, account, &[audience], pod, Duration::from_secs(3600))
    }

    /// Mints a token that expired an hour ago.
    pub fn expired_token(&self, namespace: &str, account: &str, audience: &str) -> String {
        let token = self.token(namespace, account, audience, None);
        let mut claims = claims(&token).unwrap();
        claims["exp"] = json!(now() - 3600);
        encode(&claims)
    }

    /// Serves only this token from now on.
    pub fn require_bearer(&self, token: &str) {
        self.lock().required_bearer = Some(token.to_owned());
    }

    /// Adds a fault for the next request.
    pub fn fail_next(&self, fault: Fault) {
        self.lock().faults.push_back(fault);
    }

    /// Holds responses and watch events back until [`resume`](Self::resume); requests are still read.
    pub fn pause(&self) {
        self.lock().paused.send_replace(true);
    }

    /// Sends the responses and events that were held back, with the current state.
    pub fn resume(&self) {
        self.lock().paused.send_replace(false);
    }

    /// Closes every connection, including busy ones; new connections are accepted.
    pub fn drop_connections(&self) {
        self.lock().connections.drain(..).for_each(|connection| connection.abort());
    }

    /// Waits until a condition holds; checks it at each request, and when a watch opens or closes.
    pub async fn wait_until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.lock().changes.subscribe();
        while !holds(self) {
            changes.changed().await.unwrap();
        }
    }

    /// Returns the current state of a Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<Value> {
        self.lock().secrets.get(&object_key(namespace, name)).cloned()
    }

    /// Returns the current state of every event.
    #[allow(dead_code, reason = "one of several tests uses it")]
    pub fn events(&self) -> Vec<Value> {
        self.lock().events.clone()
    }

    /// Returns every request so far.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.lock().requests.clone()
    }

    /// Returns every request so far as a line: `GET /api/v1/…`.
    pub fn request_lines(&self) -> Vec<String> {
        self.lock().requests.iter().map(|s| format!("{} {}", s.method, s.path)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the claims of a token that this module minted.
pub fn claims(token: &str) -> Option<Value> {
    let (signed, mark) = token.rsplit_once('.')?;
    let payload = URL_SAFE_NO_PAD.decode(signed.split_once('.')?.1).ok()?;
    (mark == FAKE_SIGNATURE).then(|| serde_json::from_slice(&payload).ok()).flatten()
}

const FAKE_SIGNATURE: &str = "bm90LWEtc2lnbmF0dXJl";

fn encode(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{FAKE_SIGNATURE}", part(&json!({"alg": "RS256", "kid": "test"})), part(claims))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn object_key(namespace: &str, name: &str) -> (String, String) {
    (namespace.to_owned(), name.to_owned())
}

fn secret_object(namespace: &str, name: &str, data: &[(&str, &[u8])]) -> Value {
    let data: BTreeMap<_, _> = data.iter().map(|(k, v)| (*k, STANDARD.encode(v))).collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"namespace": namespace, "name": name}, "data": data,
    })
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&state);
        let service = service_fn(move |request| handle(request, Arc::clone(&shared)));
        let connection = tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        let connections = &mut lock(&state).connections;
        connections.retain(|connection| !connection.is_finished());
        connections.push(connection.abort_handle());
    }
}

async fn handle(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<ReplyBody>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let bearer = head.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
    let seen = ReceivedRequest {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        accept: head.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned(),
        bearer: bearer.map(str::to_owned),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let (fault, mut hold) = {
        let mut state = lock(&state);
        state.requests.push(seen.clone());
        state.changes.send_modify(|changes| *changes += 1);
        (state.faults.pop_front(), state.paused.subscribe())
    };
    let _ = hold.wait_for(|held| !held).await;
    let answer = Response::builder().header(header::CONTENT_TYPE, "application/json");
    let (answer, body) = match fault {
        Some(Fault::Hang) => pending().await,
        Some(Fault::Respond(status, body)) => (answer.status(status), body),
        Some(Fault::Redirect(to)) => (answer.status(307).header(header::LOCATION, to), String::new()),
        None => match lock(&state).respond(&head.method, &seen) {
            ApiReply::Object(status, object) => (answer.status(status), object.to_string()),
            ApiReply::Events(events) => return Ok(answer.body(events).unwrap()),
        },
    };
    Ok(answer.body(Full::from(body).map_err(|never| match never {}).boxed_unsync()).unwrap())
}

/// Returns an error in the API server's wording.
fn status_response(code: u16, reason: &str, kind: &str, message: &str) -> (u16, Value) {
    let details = json!({"kind": kind});
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "details": details, "code": code});
    (code, status)
}

fn not_found(kind: &str, name: &str) -> (u16, Value) {
    status_response(404, "NotFound", kind, &format!("{kind} {name:?} not found"))
}

impl State {
    fn respond(&mut self, method: &Method, seen: &ReceivedRequest) -> ApiReply {
        let refusal = if self.required_bearer.is_some() && self.required_bearer != seen.bearer {
            Some(status_response(401, "Unauthorized", "", "Unauthorized"))
        } else if method == Method::GET && seen.path == "/api/v1/pods" && seen.query.contains("watch=true") {
            self.denial("watch", "pods", "")
        } else {
            Some(self.route(method, seen))
        };
        if let Some((code, object)) = refusal {
            return ApiReply::Object(code, object);
        }
        let reply = self.pods.watch(seen, self.paused.subscribe(), self.changes.clone());
        self.changes.send_modify(|changes| *changes += 1);
        reply
    }

    fn route(&mut self, method: &Method, seen: &ReceivedRequest) -> (u16, Value) {
        let path: Vec<_> = seen.path.split('/').skip(1).collect();
        match (method.as_str(), path.as_slice()) {
            ("GET", ["api", "v1", "namespaces", namespace, "secrets", name]) => {
                self.denial("get", "secrets", namespace).unwrap_or_else(|| self.read_secret(namespace, name))
            }
            ("POST", ["api", "v1", "namespaces", namespace, "secrets"]) => {
                self.denial("create", "secrets", namespace).unwrap_or_else(|| self.create_secret(namespace, &seen.body))
            }
            ("POST", ["api", "v1", "namespaces", namespace, "serviceaccounts", account, "token"]) => self
                .denial("create", "serviceaccounts/token", namespace)
                .unwrap_or_else(|| self.request_token(namespace, account, &seen.body)),
            ("POST", ["apis", "authentication.k8s.io", "v1", "tokenreviews"]) => {
                self.denial("create", "tokenreviews", "").unwrap_or_else(|| self.review_token(&seen.body))
            }
            ("POST", ["api", "v1", "namespaces", namespace, "events"]) => {
                self.denial("create", "events", namespace).unwrap_or_else(|| {
                    self.events.push(seen.body.clone());
                    (201, seen.body.clone())
                })
            }
            ("PATCH", ["api", "v1", "namespaces", namespace, "events", name]) => {
                self.denial("patch", "events", namespace).unwrap_or_else(|| self.patch_event(name, &seen.body))
            }
            ("GET", ["api", "v1", "pods"]) => self.denial("list", "pods", "").unwrap_or_else(|| self.pods.list(seen)),
            ("GET", ["api", "v1", "namespaces", namespace, "pods", name]) => {
                self.denial("get", "pods", namespace).unwrap_or_else(|| self.pods.read(namespace, name, seen))
            }
            _ => status_response(404, "NotFound", "", "the server could not find the requested resource"),
        }
    }

    /// Applies a merge patch (RFC 7386) to an event, for patches without nested objects.
    fn patch_event(&mut self, name: &str, change: &Value) -> (u16, Value) {
        let Some(event) = self.events.iter_mut().find(|event| event["metadata"]["name"] == *name) else {
            return not_found("events", name);
        };
        for (field, value) in change.as_object().into_iter().flatten() {
            event[field] = value.clone();
        }
        (200, event.clone())
    }

    /// Returns the error response if this request is denied.
    fn denial(&self, verb: &str, resource: &str, namespace: &str) -> Option<(u16, Value)> {
        let denied = self.denied.iter().any(|(v, r)| v == verb && r == resource);
        let place = if namespace.is_empty() {
            "at the cluster scope".into()
        } else {
            format!("in the namespace {namespace:?}")
        };
        let message = format!(
            "{resource} is forbidden: User \"system:serviceaccount:csi:vaultmount\" cannot {verb} resource {resource:?} \
             in API group \"\" {place}"
        );
        denied.then(|| status_response(403, "Forbidden", resource, &message))
    }

    fn read_secret(&self, namespace: &str, name: &str) -> (u16, Value) {
        self.secrets
            .get(&object_key(namespace, name))
            .map_or_else(|| not_found("secrets", name), |secret| (200, secret.clone()))
    }

    fn create_secret(&mut self, namespace: &str, secret: &Value) -> (u16, Value) {
        if let Some(rival) = self.racing_secret.take() {
            let name = |field: &str| rival["metadata"][field].as_str().unwrap().to_owned();
            self.secrets.insert((name("namespace"), name("name")), rival);
        }
        let Some(name) = secret["metadata"]["name"].as_str() else {
            return status_response(
                422,
                "Invalid",
                "secrets",
                "metadata.name: Required value: name or generateName is required",
            );
        };
        if self.secrets.contains_key(&object_key(namespace, name)) {
            return status_response(409, "AlreadyExists", "secrets", &format!("secrets {name:?} already exists"));
        }
        self.secrets.insert(object_key(namespace, name), secret.clone());
        (201, secret.clone())
    }

    fn request_token(&mut self, namespace: &str, account: &str, request: &Value) -> (u16, Value) {
        if !self.accounts.contains_key(&object_key(namespace, account)) {
            return not_found("serviceaccounts", account);
        }
        let spec = &request["spec"];
        let seconds = spec["expirationSeconds"].as_u64().unwrap_or(3600);
        if seconds < 600 {
            let message = "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes";
            return status_response(422, "Invalid", "TokenRequest", message);
        }
        let bound = spec["boundObjectRef"].as_object();
        let pod = bound.map(|b| (b["name"].as_str().unwrap(), b["uid"].as_str().unwrap()));
        if let Some((name, uid)) = pod {
            match self.pods.uid(namespace, name) {
                None => return not_found("pods", name),
                Some(record) if record != uid => {
                    let message =
                        format!("the UID in the bound object reference ({uid}) does not match the UID in record");
                    return status_response(409, "Conflict", "pods", &message);
                }
                Some(_) => {}
            }
        }
        let audiences = string_list(&spec["audiences"]);
        let audiences = if audiences.is_empty() { vec![API_SERVER_AUDIENCE] } else { audiences };
        let token = self.mint(namespace, account, &audiences, pod, Duration::from_secs(seconds));
        let mut answer = request.clone();
        answer["status"] = json!({"token": token, "expirationTimestamp": "2100-01-01T00:00:00Z"});
        (201, answer)
    }

    fn mint(
        &mut self,
        namespace: &str,
        account: &str,
        aud: &[&str],
        pod: Option<(&str, &str)>,
        ttl: Duration,
    ) -> String {
        self.minted += 1;
        let uid = self.accounts.get(&object_key(namespace, account)).cloned().unwrap_or_default();
        let mut claims = json!({
            "aud": aud, "iss": API_SERVER_AUDIENCE, "jti": format!("token-{}", self.minted),
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "iat": now(), "nbf": now(), "exp": now() + ttl.as_secs(),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
        });
        if let Some((name, uid)) = pod {
            claims["kubernetes.io"]["pod"] = json!({"name": name, "uid": uid});
        }
        encode(&claims)
    }

    fn review_token(&self, request: &Value) -> (u16, Value) {
        let token = request["spec"]["token"].as_str().unwrap_or_default();
        let status = match self.token_reviews.get(token) {
            Some(status) => status.clone(),
            None => self
                .authenticate(token, &string_list(&request["spec"]["audiences"]))
                .unwrap_or_else(|why| json!({"authenticated": false, "user": {}, "error": why})),
        };
        (201, json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}))
    }

    /// Returns the user of a token that this server minted; one of `audiences` must match.
    fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<Value, String> {
        let claims = claims(token).ok_or("invalid bearer token")?;
        let own = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = text(&own["namespace"]);
        let uid = text(&own["serviceaccount"]["uid"]);
        if claims["exp"].as_u64().is_none_or(|end| end <= now()) {
            return Err("[invalid bearer token, service account token has expired]".to_owned());
        }
        if self.accounts.get(&object_key(&namespace, &text(&own["serviceaccount"]["name"]))) != Some(&uid) {
            return Err("[invalid bearer token, service account token has been invalidated]".to_owned());
        }
        let pod = own.get("pod").map(|pod| (text(&pod["name"]), text(&pod["uid"])));
        if pod.as_ref().is_some_and(|(name, uid)| self.pods.uid(&namespace, name) != Some(uid)) {
            return Err("[invalid bearer token, pod has been deleted]".to_owned());
        }
        let targets = if audiences.is_empty() { &[API_SERVER_AUDIENCE] } else { audiences };
        let aud = string_list(&claims["aud"]);
        let shared: Vec<_> = targets.iter().filter(|a| aud.contains(a)).collect();
        if shared.is_empty() {
            return Err(format!(
                "[invalid bearer token, token audiences {aud:?} is invalid for the target audiences {targets:?}]"
            ));
        }
        let mut user = json!({"username": claims["sub"], "uid": uid,
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"]});
        if let Some((name, uid)) = pod {
            user["extra"] =
                json!({"authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/pod-uid": [uid]});
        }
        Ok(json!({"authenticated": true, "user": user, "audiences": shared}))
    }
}

fn string_list(list: &Value) -> Vec<&str> {
    list.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}
