//! A watch: events in lines, which come in pieces.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{MAX_POD_BYTES, Object, PodRef, pods_of};
use crate::{
    error::{Cause, Error},
    kube::{http, response::Status},
};

/// How much longer than it was to last a watch may be silent: time for its end to arrive.
const IDLE_GRACE_PERIOD: Duration = Duration::from_secs(30);

/// What happened to the pods that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodEvent {
    /// A pod is there that has not ended: it is new, or something about it changed (which may be that its deletion began).
    There(PodRef),
    /// A pod ended: it is finished, or gone.
    Left(PodRef),
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
    Over,
}

impl PodWatch {
    /// A watch that was opened, and that the server is to end after so long.
    pub(super) fn new(server: &str, node: &str, version: &str, body: Incoming, lasting: Duration) -> Self {
        let silence = lasting + IDLE_GRACE_PERIOD;
        let lines = Lines { body, read: BytesMut::new(), searched: 0, silence, until: Instant::now() + silence };
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
        let told = self.read().await;
        if !matches!(told, Ok(Some(PodEvent::There(_) | PodEvent::Left(_)))) {
            self.stream = Stream::Over;
        }
        told.map_err(|fault| fault.error(&self.server).with_subject(pods_of(&self.node)))
    }

    async fn read(&mut self) -> Result<Option<PodEvent>, WatchError> {
        let lines = match &mut self.stream {
            Stream::Open(lines) => lines,
            Stream::Expired => return Ok(Some(PodEvent::Expired)),
            Stream::Over => return Ok(None),
        };
        while let Some(line) = lines.next().await? {
            let (event, version) = event(&line)?;
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
fn event(line: &[u8]) -> Result<(Option<PodEvent>, Option<String>), WatchError> {
    let line: Line<'_> = parsed(line)?;
    if let Type::Error = line.r#type {
        return match parsed(line.object.get().as_bytes())? {
            Status { code: 410, .. } => Ok((Some(PodEvent::Expired), None)),
            status => Err(WatchError::Told(status.message)),
        };
    }
    let mut object: Object = parsed(line.object.get().as_bytes())?;
    let version = std::mem::take(&mut object.metadata.resource_version);
    if version.is_empty() {
        return Err(WatchError::Strange("no resourceVersion".to_owned()));
    }
    if let Type::Bookmark = line.r#type {
        return Ok((None, Some(version)));
    }
    let left = matches!(line.r#type, Type::Deleted) || object.is_finished();
    let pod = object.metadata.pod().ok_or_else(|| WatchError::Strange("no namespace, name or uid".to_owned()))?;
    Ok((Some(if left { PodEvent::Left(pod) } else { PodEvent::There(pod) }), Some(version)))
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, WatchError> {
    // The parser's own words may repeat a value; its position does not.
    serde_json::from_slice(json).map_err(|e| WatchError::Strange(format!("unexpected JSON at column {}", e.column())))
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: Type,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Type {
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
    read: BytesMut,
    /// How many bytes at its beginning are known to hold no end of a line.
    searched: usize,
    silence: Duration,
    /// When the silence since the last piece has become too long.
    until: Instant,
}

impl Lines {
    /// The next line without its end; `None` at the end of the body. When the future is dropped, nothing is lost.
    async fn next(&mut self) -> Result<Option<Bytes>, WatchError> {
        loop {
            if let Some(end) = self.read[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.read.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.read.len();
            if self.searched > MAX_POD_BYTES {
                return Err(WatchError::TooLong);
            }
            let frame =
                timeout_at(self.until, self.body.frame()).await.map_err(|_| WatchError::Silent(self.silence))?;
            let Some(frame) = frame else {
                return if self.read.is_empty() {
                    Ok(None)
                } else {
                    Err(WatchError::Cut("the end of an event is missing".to_owned()))
                };
            };
            let frame = frame.map_err(|e| WatchError::Cut(http::reason(&e).1))?;
            self.until = Instant::now() + self.silence;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

/// Why a watch ends otherwise than it should.
enum WatchError {
    /// The connection ended, in these words.
    Cut(String),
    /// Nothing came for so long.
    Silent(Duration),
    /// The server's own words.
    Told(String),
    /// A line has no end.
    TooLong,
    /// A line is no event, and why.
    Strange(String),
}

impl WatchError {
    fn error(self, server: &str) -> Error {
        let error = |cause, what: &str| Error::new(cause, format!("API server {server} {what}"));
        let advice = "check that the address is a Kubernetes API server";
        match self {
            Self::Cut(words) => error(Cause::KubernetesApi, "cuts off the watch").with_server_message(words),
            Self::Silent(time) => {
                error(Cause::KubernetesApi, &format!("is silent in the watch for {} s", time.as_secs()))
            }
            Self::Told(words) => error(Cause::KubernetesApi, "ends the watch with an error").with_server_message(words),
            Self::TooLong => {
                let what = format!("tells of a pod in more than {} MiB", MAX_POD_BYTES >> 20);
                error(Cause::KubernetesConfig, &what).with_fix(advice)
            }
            Self::Strange(words) => error(Cause::KubernetesConfig, "tells in the watch what is no event")
                .with_server_message(words)
                .with_fix(advice),
        }
    }
}
