//! Calls a provider's socket as a driver does.

use std::{path::Path, time::Duration};

use http::{Uri, uri::PathAndQuery};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::{Request, Status, body::Body};

use super::pb::{self, csi_driver_provider_client::CsiDriverProviderClient};

/// A connection to a provider.
#[derive(Clone)]
pub struct Client {
    grpc: CsiDriverProviderClient<Connection>,
}

/// Fields of a Mount request, as a driver sends them.
#[derive(Clone, Default)]
pub struct MountCall {
    /// JSON of parameters, pod and tokens.
    pub attributes: String,
    /// JSON of nodePublishSecretRef's data.
    pub secrets: String,
    /// Directory of the volume.
    pub target_path: String,
    /// Permission bits, in decimal.
    pub permission: String,
    /// IDs and versions of the pod's objects, which drivers up to 1.5.6 send with polls.
    pub versions: Vec<(String, String)>,
    /// Timeout of the call.
    pub timeout: Option<Duration>,
}

impl Client {
    /// Connects to a socket.
    pub async fn connect(socket: &Path) -> std::io::Result<Self> {
        Self::from_stream(UnixStream::connect(socket).await?).await
    }

    /// Uses an established connection.
    pub async fn from_stream(stream: UnixStream) -> std::io::Result<Self> {
        let stream = TokioIo::new(stream);
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { grpc: CsiDriverProviderClient::new(Connection(sender)).max_decoding_message_size(16 << 20) })
    }

    /// Returns the provider's name and version.
    pub async fn version(&mut self) -> Result<pb::VersionResponse, Status> {
        let request = pb::VersionRequest { version: super::CONTRACT_VERSION.to_owned() };
        self.grpc.version(request).await.map(tonic::Response::into_inner)
    }

    /// Returns a volume's files and versions.
    pub async fn mount(&mut self, call: MountCall) -> Result<pb::MountResponse, Status> {
        let versions = call.versions.into_iter().map(|(id, version)| pb::ObjectVersion { id, version });
        let mut request = Request::new(pb::MountRequest {
            attributes: call.attributes,
            secrets: call.secrets,
            target_path: call.target_path,
            permission: call.permission,
            current_object_version: versions.collect(),
        });
        if let Some(timeout) = call.timeout {
            request.set_timeout(timeout);
        }
        self.grpc.mount(request).await.map(tonic::Response::into_inner)
    }
}

/// One HTTP/2 connection as the service that the generated client calls.
#[derive(Clone)]
struct Connection(http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme("http").authority("localhost").path_and_query(path).build();
        if let Ok(uri) = uri {
            *request.uri_mut() = uri;
        }
        Box::pin(self.0.send_request(request))
    }
}
