//! A watch: events in lines, which come in pieces.

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

/// How much longer than it was to last a watch may be silent: time for its end to arrive.
const IDLE_GRACE_PERIOD: Duration = Duration::from_secs(30);

/// What happened to the pods that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodEvent {
    /// A pod is there that has not ended: it is new, or something about it changed (which may be that its deletion began).
    Applied(PodRef),
    /// A pod ended: it is finished, or gone.
    Deleted(PodRef),
    /// The server no longer knows what came after the version: the pods must be listed again. It is the watch's last.
    Expired,
}

/// An open watch of a node's pods. Dropping it closes its connection.
pub struct PodWatch {
    server: String,
    node: String,
    version: String,
    stream: Stream,
}

enum Stream {
    Open(Lines),
    /// The server did not begin, since the version is too old for it.
    Expired,
    /// All was told.
    Ended,
}

impl PodWatch {
    /// A watch that was opened, and that the server is to end after so long.
    pub(super) fn new(server: &str, node: &str, version: &str, body: Incoming, duration: Duration) -> Self {
        let idle_timeout = duration + IDLE_GRACE_PERIOD;
        let lines = Lines {
            body,
            buffer: BytesMut::new(),
            scanned_bytes: 0,
            idle_timeout: idle_timeout,
            deadline: Instant::now() + idle_timeout,
        };
        Self { stream: Stream::Open(lines), ..Self::expired(server, node, version) }
    }

    /// One whose version is too old.
    pub(super) fn expired(server: &str, node: &str, version: &str) -> Self {
        let (server, node, version) = (server.to_owned(), node.to_owned(), version.to_owned());
        Self { server, node, version, stream: Stream::Expired }
    }

    /// The version of what was told last, bookmarks included: what another watch goes on from.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The next event; `None` when the server ended the watch as it should, and after an error or
    /// [`PodEvent::Expired`]. When the future is dropped before it is done, nothing is lost.
    pub async fn next(&mut self) -> Result<Option<PodEvent>, Error> {
        let result = self.next_event().await;
        if !matches!(result, Ok(Some(PodEvent::Applied(_) | PodEvent::Deleted(_)))) {
            self.stream = Stream::Ended;
        }
        result.map_err(|fault| fault.into_error(&self.server).with_subject(node_pods_subject(&self.node)))
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

/// What a line tells: an event, unless it is a bookmark, and its version, unless it is an error.
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
    // The parser's own words may repeat a value; its position does not.
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

/// The lines of a body.
struct Lines {
    body: Incoming,
    /// What came and was not told.
    buffer: BytesMut,
    /// How many bytes at its beginning are known to hold no end of a line.
    scanned_bytes: usize,
    idle_timeout: Duration,
    /// When the silence since the last piece has become too long.
    deadline: Instant,
}

impl Lines {
    /// The next line without its end; `None` at the end of the body. When the future is dropped, nothing is lost.
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

/// Why a watch ends otherwise than it should.
enum WatchError {
    /// The connection ended, in these words.
    Disconnected(String),
    /// Nothing came for so long.
    Idle(Duration),
    /// The server's own words.
    Server(String),
    /// A line has no end.
    EventTooLarge,
    /// A line is no event, and why.
    Malformed(String),
}

impl WatchError {
    fn into_error(self, server: &str) -> Error {
        let error = |cause, what: &str| Error::new(cause, format!("API server {server} {what}"));
        let fix = "check that the address is a Kubernetes API server";
        match self {
            Self::Disconnected(words) => error(Cause::KubernetesApi, "cuts off the watch").with_server_message(words),
            Self::Idle(time) => {
                error(Cause::KubernetesApi, &format!("is silent in the watch for {} s", time.as_secs()))
            }
            Self::Server(words) => {
                error(Cause::KubernetesApi, "ends the watch with an error").with_server_message(words)
            }
            Self::EventTooLarge => {
                let what = format!("tells of a pod in more than {} MiB", MAX_POD_BYTES >> 20);
                error(Cause::KubernetesConfig, &what).with_fix(fix)
            }
            Self::Malformed(words) => error(Cause::KubernetesConfig, "tells in the watch what is no event")
                .with_server_message(words)
                .with_fix(fix),
        }
    }
}
