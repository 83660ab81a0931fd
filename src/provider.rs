//! The gRPC edge for the Secrets Store CSI driver. Translates requests and responses, and decides nothing. The only user of tonic
//! and of the generated types.

mod authority;
pub mod client;
mod grpc_code;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::{GracefulConnection, GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::UnixStream,
    sync::watch,
    time::{Instant, timeout},
};
use tonic::{Request, Response, Status};

use crate::{
    error::Error,
    mount::{AcceptedMount, MAX_RESPONSE_BYTES, MountCall, MountService, VolumeContents},
    observe::metrics::{GrpcMethod, Metrics},
    request::RawRequest,
    socket::Socket,
};
use authority::AuthorityRepair;
use pb::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};

/// The generated types of `proto/v1alpha1/service.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic)]
pub mod pb {
    tonic::include_proto!("v1alpha1");
}

/// Version of the driver's contract, in requests and responses.
const CONTRACT_VERSION: &str = "v1alpha1";
/// Runtime name in `Version` responses.
const RUNTIME_NAME: &str = "vaultmount";
/// Timeout of calls without a deadline: drivers up to 1.5.6 poll one pod after another without any.
const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of a request: attributes of 4 MiB, and as much again in secrets.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// Timeout of the liveness check: less than a kubelet with a probe timeout of 5 s waits.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(2);

/// Time before the caller's deadline at which a call is answered at the latest.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);

/// The provider of one socket.
#[derive(Clone)]
struct Provider {
    mounts: Arc<MountService>,
    metrics: Arc<Metrics>,
    /// The audience of classes that set none: the provider's name, as in the name of its socket.
    default_audience: &'static str,
}

/// The connections of all sockets of a process.
#[derive(Default)]
pub struct Connections(Mutex<GracefulShutdown>);

impl Connections {
    /// Accepts no further calls on the existing connections, and waits for those in flight. Clients reconnect.
    pub async fn drain(&self) {
        let there = std::mem::take(&mut *self.lock());
        there.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, GracefulShutdown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one socket until `stop`, then until all calls in flight are complete. Counts calls in `metrics`.
pub async fn serve(
    socket: Socket,
    mounts: Arc<MountService>,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    stop: watch::Receiver<bool>,
) {
    let provider = Provider { mounts, metrics, default_audience: default_audience(&socket) };
    let service = CsiDriverProviderServer::new(provider).max_decoding_message_size(MAX_REQUEST_BYTES);
    let attend = |stream| {
        tokio::spawn(logged(connections.lock().watch(connection(stream, service.clone()))));
    };
    socket.serve(stop, attend).await;
    connections.drain().await;
}

/// Checks that a socket answers, for the liveness probe. The error names the socket.
pub async fn check_socket(socket: &Path) -> Result<(), String> {
    let asked = async {
        let mut client = client::Client::connect(socket).await.map_err(|e| e.to_string())?;
        client.version().await.map_err(|status| status.message().to_owned())
    };
    let answer = timeout(LIVENESS_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {LIVENESS_TIMEOUT:?}")));
    answer.map(drop).map_err(|fault| format!("the socket {} does not answer: {fault}", socket.display()))
}

/// Returns a client of a provider without a socket, for one mount from the command line.
pub async fn local(mounts: Arc<MountService>, default_audience: &'static str) -> std::io::Result<client::Client> {
    let (ours, theirs) = UnixStream::pair()?;
    let provider = Provider { mounts, metrics: Arc::default(), default_audience };
    tokio::spawn(logged(connection(theirs, CsiDriverProviderServer::new(provider))));
    client::Client::from_stream(ours).await
}

/// Returns the future that serves one client's connection.
fn connection(
    stream: UnixStream,
    service: CsiDriverProviderServer<Provider>,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).max_concurrent_streams(1024);
    http.serve_connection(TokioIo::new(AuthorityRepair::new(stream)), TowerToHyperService::new(service))
}

async fn logged(connection: impl Future<Output = Result<(), hyper::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "driver connection failed");
    }
}

/// Returns the default audience: the provider's name, which is the socket's (`vault.sock`, `openbao.sock`).
fn default_audience(socket: &Socket) -> &'static str {
    match socket.path().file_stem().and_then(|s| s.to_str()) {
        Some("openbao" | "bao") => "openbao",
        _ => "vault",
    }
}

#[tonic::async_trait]
impl CsiDriverProvider for Provider {
    async fn version(&self, _: Request<pb::VersionRequest>) -> Result<Response<pb::VersionResponse>, Status> {
        self.metrics.start_grpc_call(GrpcMethod::Version).finish(Ok(()));
        Ok(Response::new(pb::VersionResponse {
            version: CONTRACT_VERSION.to_owned(),
            runtime_name: RUNTIME_NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn mount(&self, request: Request<pb::MountRequest>) -> Result<Response<pb::MountResponse>, Status> {
        let (received_at, call) = (Instant::now(), self.metrics.start_grpc_call(GrpcMethod::Mount));
        let timeout = caller_timeout(&request).unwrap_or(DEFAULT_CALL_TIMEOUT);
        // Earlier than the caller's deadline, since our error names the request that is slow.
        let deadline = received_at + timeout.saturating_sub(DEADLINE_MARGIN.min(timeout / 10));
        let outcome = self.handle(request.into_inner(), received_at, deadline).await;
        call.finish(outcome.as_ref().map(|_| ()).map_err(|error| error.cause().code()));
        outcome.map(Response::new).map_err(|error| to_status(&error))
    }
}

impl Provider {
    /// Passes a request to the use case, and returns its response.
    async fn handle(
        &self,
        request: pb::MountRequest,
        received_at: Instant,
        deadline: Instant,
    ) -> Result<pb::MountResponse, Error> {
        let accepted = self.mounts.accept(
            &MountCall {
                request: RawRequest {
                    attributes: &request.attributes,
                    secrets: &request.secrets,
                    target_path: &request.target_path,
                    permission: &request.permission,
                },
                default_audience: self.default_audience,
                driver_reports_failures: driver_reports_failures(&request),
                received_at,
                deadline,
            },
            to_response,
        );
        // A mount may take long, and its request may be large.
        drop(request);
        match accepted? {
            AcceptedMount::Served(response) => Ok(response),
            // On the heap, so that a poll served from the cache does not carry it.
            AcceptedMount::Pending(mount) => Box::pin(mount.run()).await,
        }
    }
}

/// Returns true if the driver itself reports failed polls: drivers up to 1.5.6 do, and send object versions with each poll.
fn driver_reports_failures(request: &pb::MountRequest) -> bool {
    !request.current_object_version.is_empty()
}

fn to_status(error: &Error) -> Status {
    Status::new(grpc_code::code(error.cause().code()), error.to_string())
}

/// Fails if the driver would not accept the response.
pub fn check_size(contents: &VolumeContents) -> Result<(), Error> {
    to_response(contents).map(|_| ())
}

fn to_response(contents: &VolumeContents) -> Result<pb::MountResponse, Error> {
    let response = pb::MountResponse {
        object_version: contents
            .versions
            .iter()
            .map(|(id, version)| pb::ObjectVersion { id: id.clone(), version: version.clone() })
            .collect(),
        error: None,
        files: contents
            .files
            .iter()
            .map(|file| pb::File {
                path: file.path.clone(),
                mode: file.mode.cast_signed(),
                contents: file.contents.clone().into_bytes(),
            })
            .collect(),
    };
    let size = prost::Message::encoded_len(&response);
    if size > MAX_RESPONSE_BYTES { Err(contents.too_large(size)) } else { Ok(response) }
}

/// Returns the caller's `grpc-timeout`: at most eight digits and a unit.
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
fn caller_timeout<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = (1..=8).contains(&digits.len()).then(|| digits.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("119999m", Some(Duration::from_millis(119_999))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("5", None),
            ("m", None),
            ("", None),
            ("123456789S", None),
            ("-1S", None),
        ] {
            let mut request = Request::new(());
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(caller_timeout(&request), expected, "{text}");
        }
    }
}
