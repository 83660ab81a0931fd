//! Status socket: `GET /status` returns the status, `GET /statusz` a page for browsers. `POST /revoke` revokes everything.
//!
//! File permissions of the socket are the access control. A process that can write to it can end every pod's access, just as
//! a process that can write to the driver's socket can read every pod's secrets.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use serde::Serialize;
use tokio::sync::watch;

use super::{AdminState, http1_builder, response, statusz, text_response};
use crate::socket::Socket;

/// Text of 404 responses.
const USAGE: &str = "available: GET /status, GET /statusz and POST /revoke\n";

/// Serves the socket until `stop` is true, then answers the requests in flight.
pub async fn serve(socket: Socket, state: Arc<AdminState>, stop: watch::Receiver<bool>) {
    let connections = GracefulShutdown::new();
    let on_connection = |stream| {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(respond(&request, &state).await) }
        });
        let connection = connections.watch(http1_builder().serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move { drop(connection.await) });
    };
    socket.serve(stop, on_connection).await;
    connections.shutdown().await;
}

async fn respond<B>(request: &Request<B>, state: &AdminState) -> Response<Full<Bytes>> {
    let reconciler = Arc::clone(&state.reconciler);
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => json_response(&state.inspector.status()),
        (&Method::POST, "/revoke") => {
            tracing::warn!("revoking everything (POST /revoke at the status socket)");
            // A separate task, so that the revocation continues if the client disconnects.
            match tokio::spawn(async move { reconciler.revoke_all().await }).await {
                Ok(revoked) => json_response(&revoked),
                Err(_) => text_response(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal error: the revocation panicked; see the log\n",
                ),
            }
        }
        _ => statusz::respond(request, state).unwrap_or_else(|| text_response(StatusCode::NOT_FOUND, USAGE)),
    }
}

fn json_response(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(value) {
        Ok(json) => response(StatusCode::OK, "application/json", json + "\n"),
        Err(error) => text_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("internal error: cannot serialize the response as JSON: {error}\n"),
        ),
    }
}
