//! The gRPC edge: what a Secrets Store CSI driver calls. The only user of tonic and the generated types.

mod authority;
pub mod client;
mod grpc_code;
mod mount_log;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
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
use tracing::Instrument;

use crate::{
    error::{Cause, Error},
    mount::{MAX_RESPONSE_BYTES, MountService, VolumeContents},
    observe::metrics::{GrpcMethod, Metrics},
    request::{self, ClassCache, MountSpec, RawRequest},
    socket::Socket,
    task,
};
use authority::AuthorityRepair;
use mount_log::{About, Told};
use pb::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};

/// The generated types of `proto/v1alpha1/service.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic)]
pub mod pb {
    tonic::include_proto!("v1alpha1");
}

/// The contract's version, in requests and answers.
const CONTRACT_VERSION: &str = "v1alpha1";
/// What we are called in `Version` answers.
const RUNTIME_NAME: &str = "vaultmount";
/// A caller without a deadline gets this one: drivers up to 1.5.6 poll one pod after another without any.
const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// What a request may come to, in bytes: attributes of 4 MiB, and as much again in secrets.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// How long a socket that answers takes at most: less than a kubelet waits that was told to wait for 5 s.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long before its caller gives up a call is answered at the latest.
const DEADLINE_MARGIN: Duration = Duration::from_millis(500);

/// The provider of one socket.
#[derive(Clone)]
struct Provider {
    mounter: Arc<MountService>,
    metrics: Arc<Metrics>,
    classes: Arc<ClassCache>,
    /// Asked for when the class names no audience: the provider's name, as the socket carries it.
    audience: &'static str,
    told: Arc<Told>,
    /// Whether outcomes are logged; not for a client that prints them itself.
    logs: bool,
    /// Calls that were answered `Internal`, panics among them.
    faults: Arc<AtomicU64>,
}

/// The connections of every socket of a process.
#[derive(Default)]
pub struct Connections(Mutex<GracefulShutdown>);

impl Connections {
    /// Lets those that are there make no more calls, and waits until all of theirs are answered. Their clients connect anew.
    pub async fn drain(&self) {
        let there = std::mem::take(&mut *self.lock());
        there.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, GracefulShutdown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one socket until `stop`, then until every call in flight is answered. Mounts are counted in `metrics`.
pub async fn serve(
    socket: Socket,
    mounter: Arc<MountService>,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    stop: watch::Receiver<bool>,
) {
    let (classes, audience, faults, told) = (Arc::default(), default_audience(&socket), Arc::default(), Arc::default());
    let provider = Provider { mounter, metrics, classes, audience, told, logs: true, faults };
    let service = CsiDriverProviderServer::new(provider).max_decoding_message_size(MAX_REQUEST_BYTES);
    let attend = |stream| {
        tokio::spawn(logged(connections.lock().watch(connection(stream, service.clone()))));
    };
    socket.serve(stop, attend).await;
    connections.drain().await;
}

/// Whether a socket answers, for whoever watches over the process; the error says which does not.
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

/// A client of a provider that has no socket: for one mount by hand.
pub async fn local(mounter: Arc<MountService>, audience: &'static str) -> std::io::Result<client::Client> {
    let (ours, theirs) = UnixStream::pair()?;
    let (metrics, classes, faults, told) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
    let provider = Provider { mounter, metrics, classes, audience, told, logs: false, faults };
    tokio::spawn(logged(connection(theirs, CsiDriverProviderServer::new(provider))));
    client::Client::from_stream(ours).await
}

/// One client's connection; nothing happens on it until it is polled.
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
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// The provider's name, and so its default audience, is the socket's (`vault.sock`, `openbao.sock`).
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
        let (begin, call) = (Instant::now(), self.metrics.start_grpc_call(GrpcMethod::Mount));
        let time = caller_timeout(&request).unwrap_or(DEFAULT_CALL_TIMEOUT);
        // Our answer says what took so long; the caller's own giving up does not.
        let deadline = begin + time.saturating_sub(DEADLINE_MARGIN.min(time / 10));
        let outcome = self.answer(request.into_inner(), begin, deadline).await;
        call.finish(outcome.as_ref().map(|_| ()).map_err(|error| error.cause().code()));
        outcome.map(Response::new).map_err(|error| to_status(&error))
    }
}

impl Provider {
    /// Mounts, and says that the files are on their way only when they are.
    async fn answer(
        &self,
        request: pb::MountRequest,
        begin: Instant,
        deadline: Instant,
    ) -> Result<pb::MountResponse, Error> {
        let parsed = unpanicked(|| {
            let mut spec = parse(&self.classes, &request)?;
            spec.driver_reports_failures = driver_reports_failures(&request);
            let response = self.again(&spec, begin);
            Ok((spec, response))
        });
        let (spec, response) = parsed.inspect_err(|error| self.unread(&request, begin, error))?;
        drop(request);
        if let Some(response) = response {
            return Ok(response);
        }
        let span = self.told.span(&spec.pod, &spec.class_name);
        // On the heap, so that a poll that needs none of it does not carry it along.
        Box::pin(self.anew(spec, begin, deadline).instrument(span)).await
    }

    /// The answer to a poll for which nobody needs to be asked, and of which there is nothing to tell.
    fn again(&self, spec: &MountSpec, begin: Instant) -> Option<pb::MountResponse> {
        if !spec.class.warnings.is_empty() {
            return None;
        }
        let _inside = self.mounter.gate.try_enter()?;
        let mounted = self.mounter.again(spec, self.audience)?;
        let response = respond(&mounted).ok()?;
        let _ = self.mounter.delivered(&mounted);
        // It has all this already.
        self.mounter.keep_soon(&mounted);
        let had_failed = self.logs && self.told.polled(spec, &self.mounter.operator, &mounted, begin);
        self.mounter.went_well(&spec.pod, &mounted, had_failed);
        Some(response)
    }

    /// The answer to everything else.
    async fn anew(&self, spec: MountSpec, begin: Instant, deadline: Instant) -> Result<pb::MountResponse, Error> {
        self.told.warn(&spec);
        let asked = Arc::new((About::mount(&spec, &self.mounter.operator, begin), spec));
        let (spec, about) = (&asked.1, &asked.0);
        // Until its end, though its caller may go away before.
        let slot = self.mounter.slots.try_acquire(&spec.pod.namespace);
        let (worker, wanted) = (self.clone(), Arc::clone(&asked));
        let outcome = contain(async move {
            let (about, spec) = &*wanted;
            let outcome = async {
                let slot = slot?;
                let inside = worker.mounter.gate.enter(deadline).await?;
                let mounted = worker.mounter.mount(spec, worker.audience, deadline).await?;
                Ok((respond(&mounted)?, mounted, inside, slot))
            };
            // Also to a log whose caller is gone.
            outcome.await.inspect_err(|error| worker.failed(spec, about, error))
        });
        let failed = |error: &Error| self.failed(spec, about, error);
        let (response, mounted, _inside, _slot) = outcome.await.inspect_err(failed)??;
        let new = self.mounter.delivered(&mounted);
        self.mounter.keep(&mounted).await.inspect_err(failed)?;
        let had_failed = self.logs && self.told.mounted(&mounted, new, about);
        self.mounter.went_well(&spec.pod, &mounted, had_failed);
        Ok(response)
    }

    /// Tells of a request that cannot be understood.
    fn unread(&self, request: &pb::MountRequest, begin: Instant, error: &Error) {
        let (pod, class) = request::identify_pod(&request.attributes);
        let _inside = self.told.span(&pod, &class).entered();
        self.tell(error, &About::request(&request.target_path, begin));
        self.mounter.report_malformed(&pod, &class, &request.target_path, driver_reports_failures(request), error);
    }

    /// Tells of a mount that failed.
    fn failed(&self, spec: &MountSpec, about: &About, error: &Error) {
        self.mounter.failed(spec, self.audience, error);
        self.tell(error, about);
    }

    /// Says in the log what the caller is told.
    fn tell(&self, error: &Error, about: &About) {
        if error.cause() == Cause::Internal {
            let faults = self.faults.fetch_add(1, Relaxed) + 1;
            tracing::error!(faults, "a fault of vaultmount's own");
        }
        if self.logs {
            self.told.failed(error, about);
        }
    }
}

/// Runs work at once; a panic ends here.
fn unpanicked<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()))
}

/// Runs work in a task of its own: what a caller that goes away began is brought to its end, and a panic ends here.
fn contain<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, Error>> {
    let task = task::spawn_boxed(work.in_current_span());
    async { task.await.map_err(|_| panicked()) }
}

fn panicked() -> Error {
    Error::new(Cause::Internal, "the mount panicked").with_fix("report it with the provider's log")
}

/// Whether the caller reports failures of polls itself: drivers up to 1.5.6, which send versions with them.
fn driver_reports_failures(request: &pb::MountRequest) -> bool {
    !request.current_object_version.is_empty()
}

fn to_status(error: &Error) -> Status {
    Status::new(grpc_code::code(error.cause().code()), error.to_string())
}

fn parse(classes: &ClassCache, request: &pb::MountRequest) -> Result<MountSpec, Error> {
    classes.parse(&RawRequest {
        attributes: &request.attributes,
        secrets: &request.secrets,
        target_path: &request.target_path,
        permission: &request.permission,
    })
}

/// Whether the driver would take the files.
pub fn check_size(mounted: &VolumeContents) -> Result<(), Error> {
    respond(mounted).map(|_| ())
}

fn respond(mounted: &VolumeContents) -> Result<pb::MountResponse, Error> {
    let response = pb::MountResponse {
        object_version: mounted
            .versions
            .iter()
            .map(|(id, version)| pb::ObjectVersion { id: id.clone(), version: version.clone() })
            .collect(),
        error: None,
        files: mounted
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
    if size > MAX_RESPONSE_BYTES { Err(mounted.too_large(size)) } else { Ok(response) }
}

/// The caller's `grpc-timeout`: at most eight digits and a unit.
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

    #[tokio::test]
    async fn a_panic_ends_its_call_and_no_other() {
        let server = crate::policy::VaultServer {
            address: crate::vault::Address::parse("http://127.0.0.1:1").unwrap(),
            namespace: None,
            auth_mount: "kubernetes".into(),
            tls: crate::tls::Tls::default(),
        };
        let operator = crate::policy::OperatorPolicy {
            server: Arc::new(server),
            tenant_tls_dir: None,
            policy_file: None,
            address_policy: crate::policy::AddressPolicy::default(),
            allows_skip_verify: true,
            allows_shared_token: false,
        };
        let vault = Arc::new(crate::vault::Vault::new(crate::vault::VaultConfig::default(), Arc::default()));
        let sessions = Arc::new(crate::session::SessionRegistry::new(1, crate::session::Observers::default(), None));
        let mounter = MountService {
            operator,
            vault: vault.clone(),
            sessions: sessions.clone(),
            renewal: crate::reconcile::Reconciler::new(vault, sessions, None, None, Duration::ZERO).into(),
            refresh: crate::cache::Refresh::Never,
            kube: None,
            mint_tokens: false,
            keys: crate::mount::HmacKeys::process_local(),
            gate: crate::state::Gate::new_open(),
            slots: crate::mount::MountLimiter::new(1),
            chosen: crate::mount::TenantAddressLog::default(),
            failures: crate::mount::RecentFailures::default(),
        };
        let provider = Provider {
            mounter: Arc::new(mounter),
            metrics: Arc::default(),
            classes: Arc::default(),
            audience: "vault",
            told: Arc::default(),
            logs: true,
            faults: Arc::default(),
        };
        let error = contain::<()>(async { panic!("expected by this test") }).await.unwrap_err();
        provider.tell(&error, &About::request("", Instant::now()));
        assert_eq!(to_status(&error).code(), tonic::Code::Internal);
        assert_eq!(provider.faults.load(Relaxed), 1);
        assert!(contain(async {}).await.is_ok());
        assert_eq!(unpanicked::<()>(|| panic!("expected by this test")).unwrap_err().cause(), Cause::Internal);
    }

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
