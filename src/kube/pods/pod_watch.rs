//! Pod watch: a stream of events, one JSON object per line.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{MAX_POD_BYTES, PodObject, PodRef, node_pods_subject};
use crate::{
    error::{Cause, Error},
    kube::{http, response::ApiStatus},
};

/// Added to the duration of a watch for its idle timeout, so that the server's end of the watch can arrive.
const IDLE_GRACE_PERIOD: Duration = Duration::from_secs(30);

/// Event of a pod watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodEvent {
    /// Pod that has not ended was added or changed. The change may be the start of its deletion.
    Applied(PodRef),
    /// Pod has ended: it is finished or deleted.
    Deleted(PodRef),
    /// Version of the watch is too old for the server, so the pods must be listed again. It is the last event of a watch.
    Expired,
}

/// Open watch of a node's pods. Dropping it closes the connection.
pub struct PodWatch {
    server: String,
    node: String,
    version: String,
    stream: Stream,
}

enum Stream {
    Open(Lines),
    /// Rejected because the version is too old for the server.
    Expired,
    /// After the last event.
    Ended,
}

impl PodWatch {
    /// Returns a watch over `body`, which the server ends after `duration`.
    pub(super) fn new(server: &str, node: &str, version: &str, body: Incoming, duration: Duration) -> Self {
        let idle_timeout = duration + IDLE_GRACE_PERIOD;
        let lines = Lines {
            body,
            buffer: BytesMut::new(),
            scanned_bytes: 0,
            idle_timeout,
            deadline: Instant::now() + idle_timeout,
        };
        Self { stream: Stream::Open(lines), ..Self::expired(server, node, version) }
    }

    /// Returns a watch with a version that is too old.
    pub(super) fn expired(server: &str, node: &str, version: &str) -> Self {
        let (server, node, version) = (server.to_owned(), node.to_owned(), version.to_owned());
        Self { server, node, version, stream: Stream::Expired }
    }

    /// Returns the version of the last event or bookmark. The next watch continues from it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the next event. Returns `None` after the server ended the watch normally, after an error and after
    /// [`PodEvent::Expired`]. The future is cancel-safe.
    pub async fn next(&mut self) -> Result<Option<PodEvent>, Error> {
        let result = self.next_event().await;
        if !matches!(result, Ok(Some(PodEvent::Applied(_) | PodEvent::Deleted(_)))) {
            self.stream = Stream::Ended;
        }
        result.map_err(|error| error.into_error(&self.server).with_subject(node_pods_subject(&self.node)))
    }

    async fn next_event(&mut self) -> Result<Option<PodEvent>, WatchError> {
        let lines = match &mut self.stream {
            Stream::Open(lines) => lines,
            Stream::Expired => return Ok(Some(PodEvent::Expired)),
            Stream::Ended => return Ok(None),
        };
        while let Some(line) = lines.next().await? {
            let (event, version) = parse_event(&line)?;
            if let Some(version) = version {
                self.version = version;
            }
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }
}

impl fmt::Debug for PodWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodWatch").field("node", &self.node).field("version", &self.version).finish_non_exhaustive()
    }
}

/// Parses a line. Returns the event, except for a bookmark, and the version, except for an error.
fn parse_event(line: &[u8]) -> Result<(Option<PodEvent>, Option<String>), WatchError> {
    let line: WatchLine<'_> = parse_json(line)?;
    if let EventType::Error = line.r#type {
        return match parse_json(line.object.get().as_bytes())? {
            ApiStatus { code: 410, .. } => Ok((Some(PodEvent::Expired), None)),
            status => Err(WatchError::Server(status.message)),
        };
    }
    let mut object: PodObject = parse_json(line.object.get().as_bytes())?;
    let version = std::mem::take(&mut object.metadata.resource_version);
    if version.is_empty() {
        return Err(WatchError::Malformed("no resourceVersion".to_owned()));
    }
    if let EventType::Bookmark = line.r#type {
        return Ok((None, Some(version)));
    }
    let is_deleted = matches!(line.r#type, EventType::Deleted) || object.is_finished();
    let pod = object.metadata.pod().ok_or_else(|| WatchError::Malformed("no namespace, name or uid".to_owned()))?;
    Ok((Some(if is_deleted { PodEvent::Deleted(pod) } else { PodEvent::Applied(pod) }), Some(version)))
}

fn parse_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, WatchError> {
    // The parser's message may repeat a value; its position does not.
    serde_json::from_slice(json).map_err(|e| WatchError::Malformed(format!("unexpected JSON at column {}", e.column())))
}

#[derive(Deserialize)]
struct WatchLine<'a> {
    r#type: EventType,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// Line reader over a response body.
struct Lines {
    body: Incoming,
    /// Received bytes that were not returned yet.
    buffer: BytesMut,
    /// Number of bytes at the start of `buffer` that contain no line feed.
    scanned_bytes: usize,
    idle_timeout: Duration,
    /// End of the idle timeout, counted from the last received frame.
    deadline: Instant,
}

impl Lines {
    /// Returns the next line, or `None` at the end of the body. The future is cancel-safe.
    async fn next(&mut self) -> Result<Option<Bytes>, WatchError> {
        loop {
            if let Some(end) = self.buffer[self.scanned_bytes..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.scanned_bytes + end + 1).freeze();
                self.scanned_bytes = 0;
                return Ok(Some(line));
            }
            self.scanned_bytes = self.buffer.len();
            if self.scanned_bytes > MAX_POD_BYTES {
                return Err(WatchError::EventTooLarge);
            }
            let frame =
                timeout_at(self.deadline, self.body.frame()).await.map_err(|_| WatchError::Idle(self.idle_timeout))?;
            let Some(frame) = frame else {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(WatchError::Disconnected("the end of an event is missing".to_owned()))
                };
            };
            let frame = frame.map_err(|e| WatchError::Disconnected(http::classify_error(&e).1))?;
            self.deadline = Instant::now() + self.idle_timeout;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// Error that ends a watch.
enum WatchError {
    /// Connection ended, with the error message.
    Disconnected(String),
    /// No data arrived for this long.
    Idle(Duration),
    /// Message of an error event from the server.
    Server(String),
    /// Line exceeds the size limit.
    EventTooLarge,
    /// Line is not a valid event, with the reason.
    Malformed(String),
}

impl WatchError {
    fn into_error(self, server: &str) -> Error {
        let error = |cause, problem: &str| Error::new(cause, format!("API server {server} {problem}"));
        let fix = "check that the address is a Kubernetes API server";
        match self {
            Self::Disconnected(message) => {
                error(Cause::KubernetesApi, "closed the watch connection unexpectedly").with_server_message(message)
            }
            Self::Idle(idle) => {
                error(Cause::KubernetesApi, &format!("sent no data on the watch for {} s", idle.as_secs()))
            }
            Self::Server(message) => {
                error(Cause::KubernetesApi, "ended the watch with an error").with_server_message(message)
            }
            Self::EventTooLarge => {
                let problem = format!("sent a watch event of more than {} MiB, limit exceeded", MAX_POD_BYTES >> 20);
                error(Cause::KubernetesConfig, &problem).with_fix(fix)
            }
            Self::Malformed(reason) => {
                error(Cause::KubernetesConfig, "sent an invalid watch event").with_server_message(reason).with_fix(fix)
            }
        }
    }
}
