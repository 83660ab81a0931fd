//! Pods of the fake API server: paged lists, watches, single reads, and changes at run time.
//!
//! Lists and watches accept only the field selector of a node's unfinished pods, so that broader requests are refused.
//! Versions count the changes of all pods.

use std::{collections::BTreeMap, io};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{ApiReply, KubeApi, KubeApiBuilder, ReceivedRequest, ReplyBody, not_found, object_key, status_response};

type PodKey = (String, String);
/// An error response: code and Status object.
type ErrorReply = (u16, Value);
/// A version, with the pods at that version.
type Snapshot = (u64, BTreeMap<PodKey, PodRecord>);

/// Signal for a version that is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpirySignal {
    /// A response with status 410.
    #[default]
    Response,
    /// A response with status 200 and an ERROR as its first event.
    Event,
}

#[derive(Default)]
pub(super) struct Pods {
    records: BTreeMap<PodKey, PodRecord>,
    version: u64,
    changes: Vec<PodChange>,
    /// Oldest version from which watches are accepted.
    compacted: u64,
    expiry_signal: ExpirySignal,
    /// Snapshots for the next pages of lists, by version.
    snapshots: BTreeMap<u64, BTreeMap<PodKey, PodRecord>>,
    /// A stale snapshot for lists, with the number of remaining uses; `None` is unlimited.
    stale_list: Option<(Snapshot, Option<usize>)>,
    /// Sends complete objects, even if the request accepts only metadata.
    full_objects: bool,
    /// Maximum bytes of an event in one piece.
    max_piece_bytes: Option<usize>,
    watches: Vec<OpenWatch>,
}

#[derive(Clone, Debug)]
struct PodRecord {
    node: String,
    uid: String,
    phase: String,
    deleting: bool,
    annotation: String,
    version: u64,
}

struct PodChange {
    kind: &'static str,
    key: PodKey,
    record: PodRecord,
}

struct OpenWatch {
    node: String,
    full_objects: bool,
    pieces: mpsc::UnboundedSender<Bytes>,
}

impl KubeApiBuilder {
    /// Adds a running pod on a node.
    #[must_use]
    pub fn node_pod(mut self, node: &str, namespace: &str, name: &str, uid: &str) -> Self {
        self.state.pods.insert(node, namespace, name, uid);
        self
    }

    /// Sends complete pods, even if the request asks for their metadata.
    #[must_use]
    pub fn full_pod_objects(mut self) -> Self {
        self.state.pods.full_objects = true;
        self
    }

    /// Sends events in pieces of this many bytes.
    #[must_use]
    pub fn split_events(mut self, bytes: usize) -> Self {
        self.state.pods.max_piece_bytes = Some(bytes);
        self
    }
}

/// Changes to pods at run time; open watches receive them immediately.
impl KubeApi {
    /// Adds a running pod on a node; an existing pod of that name is removed first.
    pub fn add_pod(&self, node: &str, namespace: &str, name: &str, uid: &str) {
        self.lock().pods.insert(node, namespace, name, uid);
    }

    /// Deletes the pod, which invalidates tokens bound to it.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        self.lock().pods.apply_change(&object_key(namespace, name), |_| None);
    }

    /// Begins the pod's deletion: sets its deletionTimestamp, and leaves it running.
    pub fn begin_pod_deletion(&self, namespace: &str, name: &str) {
        self.edit_pod(namespace, name, |pod| pod.deleting = true);
    }

    /// Sets the pod's phase: `Pending`, `Running`, `Succeeded`, `Failed`.
    pub fn set_pod_phase(&self, namespace: &str, name: &str, phase: &str) {
        self.edit_pod(namespace, name, |pod| phase.clone_into(&mut pod.phase));
    }

    /// Sets an annotation of the pod.
    pub fn annotate_pod(&self, namespace: &str, name: &str, text: &str) {
        self.edit_pod(namespace, name, |pod| text.clone_into(&mut pod.annotation));
    }

    /// Replaces the pod with another of the same name on the same node.
    pub fn replace_pod(&self, namespace: &str, name: &str, uid: &str) {
        let mut state = self.lock();
        let node = state.pods.records[&object_key(namespace, name)].node.clone();
        state.pods.insert(&node, namespace, name, uid);
    }

    fn edit_pod(&self, namespace: &str, name: &str, edit: impl FnOnce(&mut PodRecord)) {
        self.lock().pods.apply_change(&object_key(namespace, name), |was| {
            let mut pod = was.unwrap();
            edit(&mut pod);
            Some(pod)
        });
    }

    /// Sends a bookmark to open watches, as after a change of another resource.
    pub fn send_bookmark(&self) {
        let pods = &mut self.lock().pods;
        pods.version += 1;
        let version = pods.version.to_string();
        let bookmark = |kind: &str, group: &str| {
            let metadata = json!({"resourceVersion": version, "creationTimestamp": null});
            json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": group, "metadata": metadata}})
        };
        for watch in &pods.watches {
            let line = if watch.full_objects {
                bookmark("Pod", "v1")
            } else {
                bookmark("PartialObjectMetadata", "meta.k8s.io/v1")
            };
            watch.send(&line, pods.max_piece_bytes);
        }
    }

    /// Discards the history: neither a watch nor the next page of a list continues from a version given out so far.
    /// Open watches continue.
    pub fn compact_history(&self, expiry: ExpirySignal) {
        let pods = &mut self.lock().pods;
        pods.version += 1;
        (pods.compacted, pods.expiry_signal) = (pods.version, expiry);
        pods.snapshots.clear();
    }

    /// Ends open watches with an ERROR event of code 410.
    pub fn expire_watches(&self) {
        let pods = &mut self.lock().pods;
        let (_, gone) = gone_response();
        for watch in pods.watches.drain(..) {
            watch.send(&json!({"type": "ERROR", "object": gone}), pods.max_piece_bytes);
        }
    }

    /// Sends these bytes to open watches.
    pub fn send_to_watches(&self, text: &str) {
        let pods = &self.lock().pods;
        pods.watches.iter().for_each(|watch| watch.send_text(text, pods.max_piece_bytes));
    }

    /// Ends open watches as at their timeout.
    pub fn end_watches(&self) {
        self.lock().pods.watches.clear();
    }

    /// Returns the number of open watches.
    pub fn open_watches(&self) -> usize {
        self.lock().pods.watches.iter().filter(|watch| !watch.pieces.is_closed()).count()
    }

    /// Serves the current pods and version as the result of the next `times` lists; `None` until
    /// [`serve_fresh_lists`](Self::serve_fresh_lists). Watches and reads of single pods stay current.
    pub fn serve_stale_lists(&self, times: Option<usize>) {
        let pods = &mut self.lock().pods;
        pods.stale_list = Some(((pods.version, pods.records.clone()), times));
    }

    /// Serves current lists again.
    pub fn serve_fresh_lists(&self) {
        self.lock().pods.stale_list = None;
    }
}

impl Pods {
    /// Inserts a running pod for tokens to be bound to; an empty `node` means no node.
    pub(super) fn insert(&mut self, node: &str, namespace: &str, name: &str, uid: &str) {
        let key = object_key(namespace, name);
        if self.records.contains_key(&key) {
            self.apply_change(&key, |_| None);
        }
        let (node, uid, phase) = (node.to_owned(), uid.to_owned(), "Running".to_owned());
        let record = PodRecord { node, uid, phase, deleting: false, annotation: String::new(), version: 0 };
        self.apply_change(&key, |_| Some(record));
    }

    pub(super) fn uid(&self, namespace: &str, name: &str) -> Option<&str> {
        self.records.get(&object_key(namespace, name)).map(|record| record.uid.as_str())
    }

    fn apply_change(&mut self, key: &PodKey, edit: impl FnOnce(Option<PodRecord>) -> Option<PodRecord>) {
        self.version += 1;
        let was = self.records.remove(key);
        let is = edit(was.clone()).map(|is| PodRecord { version: self.version, ..is });
        if let Some(is) = &is {
            self.records.insert(key.clone(), is.clone());
        }
        let selected = |record: Option<PodRecord>| record.filter(PodRecord::is_unfinished);
        let (kind, record) = match (selected(was), selected(is)) {
            (None, None) => return,
            (None, Some(is)) => ("ADDED", is),
            (Some(_), Some(is)) => ("MODIFIED", is),
            (Some(was), None) => ("DELETED", PodRecord { version: self.version, ..was }),
        };
        let change = PodChange { kind, key: key.clone(), record };
        for watch in self.watches.iter().filter(|watch| watch.node == change.record.node) {
            watch.send(&change.to_event(watch.full_objects), self.max_piece_bytes);
        }
        self.changes.push(change);
    }

    /// Responds to a read of one pod. A request with a version is refused, because a cache could serve it.
    pub(super) fn read(&self, namespace: &str, name: &str, seen: &ReceivedRequest) -> (u16, Value) {
        if !seen.query.is_empty() {
            return bad_request(&format!("the read of a pod has a query: {}", seen.query));
        }
        let key = object_key(namespace, name);
        self.records.get(&key).map_or_else(|| not_found("pods", name), |record| (200, record.to_object(&key, true)))
    }

    pub(super) fn list(&mut self, seen: &ReceivedRequest) -> (u16, Value) {
        self.list_page(seen).unwrap_or_else(|refusal| refusal)
    }

    fn list_page(&mut self, seen: &ReceivedRequest) -> Result<(u16, Value), ErrorReply> {
        let query = seen.query_parameters();
        let node = selected_node(&query)?;
        let whole =
            self.wants_full_objects(seen, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")?;
        let limit = query
            .get("limit")
            .and_then(|n| n.parse().ok())
            .filter(|n| *n > 0)
            .ok_or_else(|| bad_request("no limit"))?;
        if query.contains_key("resourceVersion") {
            return Err(bad_request("a list of some version may be of a cache"));
        }
        let ((version, records), start) = match query.get("continue") {
            None => (self.list_snapshot(), 0),
            Some(from) => self.resume_list(from)?,
        };
        let mut pods = records.iter().filter(|(_, r)| r.node == node && r.is_unfinished()).skip(start);
        let items: Vec<_> = pods.by_ref().take(limit).map(|(key, record)| record.to_object(key, whole)).collect();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if pods.next().is_some() {
            metadata["continue"] = json!(STANDARD.encode(format!("{version}?{}", start + limit)));
            self.snapshots.insert(version, records);
        }
        let (kind, group) = if whole { ("PodList", "v1") } else { ("PartialObjectMetadataList", "meta.k8s.io/v1") };
        Ok((200, json!({"kind": kind, "apiVersion": group, "metadata": metadata, "items": items})))
    }

    fn list_snapshot(&mut self) -> Snapshot {
        let (snapshot, times) = match self.stale_list.take() {
            None | Some((_, Some(0))) => return (self.version, self.records.clone()),
            Some((snapshot, times)) => (snapshot, times.map(|n| n - 1)),
        };
        self.stale_list = Some((snapshot.clone(), times));
        snapshot
    }

    fn resume_list(&self, from: &str) -> Result<(Snapshot, usize), ErrorReply> {
        let text = STANDARD.decode(from).ok().and_then(|text| String::from_utf8(text).ok());
        let place = text.as_deref().and_then(|text| text.split_once('?'));
        let place = place.and_then(|(version, start)| Some((version.parse().ok()?, start.parse().ok()?)));
        let (version, start) = place.ok_or_else(|| bad_request("continue key is not valid"))?;
        let message = "The provided continue parameter is too old to display a consistent list result.";
        let records = self.snapshots.get(&version).ok_or_else(|| status_response(410, "Expired", "", message))?;
        Ok(((version, records.clone()), start))
    }

    pub(super) fn watch(
        &mut self,
        seen: &ReceivedRequest,
        held: watch::Receiver<bool>,
        changes: watch::Sender<u64>,
    ) -> ApiReply {
        match self.open_watch(seen) {
            Ok(pieces) => ApiReply::Events(watch_body(pieces, held, changes)),
            Err((code, object)) => ApiReply::Object(code, object),
        }
    }

    fn open_watch(&mut self, seen: &ReceivedRequest) -> Result<mpsc::UnboundedReceiver<Bytes>, ErrorReply> {
        let query = seen.query_parameters();
        let node = selected_node(&query)?;
        let whole = self.wants_full_objects(seen, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")?;
        let is = |name: &str, holds: fn(u64) -> bool| query.get(name).and_then(|n| n.parse().ok()).is_some_and(holds);
        if query.get("allowWatchBookmarks").is_none_or(|yes| yes != "true")
            || !is("timeoutSeconds", |n| (290..=590).contains(&n))
        {
            return Err(bad_request("a watch without bookmarks, or of no proper time"));
        }
        let version = query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok());
        let version =
            version.filter(|v| *v <= self.version).ok_or_else(|| bad_request("no resourceVersion of ours"))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let watch = OpenWatch { node, full_objects: whole, pieces: sender };
        if version < self.compacted {
            let (code, object) = gone_response();
            if self.expiry_signal == ExpirySignal::Response {
                return Err((code, object));
            }
            watch.send(&json!({"type": "ERROR", "object": object}), self.max_piece_bytes);
            return Ok(receiver);
        }
        for change in self.changes.iter().filter(|c| c.record.version > version && c.record.node == watch.node) {
            watch.send(&change.to_event(watch.full_objects), self.max_piece_bytes);
        }
        self.watches.retain(|watch| !watch.pieces.is_closed());
        self.watches.push(watch);
        Ok(receiver)
    }

    /// Returns true if complete objects are sent. The request must accept metadata first and objects second.
    fn wants_full_objects(&self, seen: &ReceivedRequest, metadata: &str) -> Result<bool, ErrorReply> {
        if seen.accept != format!("{metadata},application/json") {
            return Err(bad_request(&format!("Accept is {:?}", seen.accept)));
        }
        Ok(self.full_objects)
    }
}

impl ReceivedRequest {
    /// Returns the query parameters.
    pub fn query_parameters(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(self.query.as_bytes()).into_owned().collect()
    }
}

impl PodRecord {
    fn is_unfinished(&self) -> bool {
        !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    fn to_object(&self, (namespace, name): &PodKey, whole: bool) -> Value {
        let mut metadata = json!({"namespace": namespace, "name": name, "uid": self.uid,
            "resourceVersion": self.version.to_string(), "creationTimestamp": "2025-01-01T00:00:00Z"});
        if self.deleting {
            metadata["deletionTimestamp"] = json!("2025-01-01T01:00:00Z");
        }
        if !self.annotation.is_empty() {
            metadata["annotations"] = json!({"note": self.annotation});
        }
        if !whole {
            return json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
        }
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"nodeName": self.node, "containers": []},
            "status": {"phase": self.phase, "conditions": []}})
    }
}

impl PodChange {
    fn to_event(&self, whole: bool) -> Value {
        json!({"type": self.kind, "object": self.record.to_object(&self.key, whole)})
    }
}

impl OpenWatch {
    fn send(&self, event: &Value, piece: Option<usize>) {
        self.send_text(&format!("{event}\n"), piece);
    }

    fn send_text(&self, text: &str, piece: Option<usize>) {
        for piece in text.as_bytes().chunks(piece.unwrap_or(text.len()).max(1)) {
            let _ = self.pieces.send(Bytes::copy_from_slice(piece));
        }
    }
}

/// The pieces for one watch. They are dropped first, so that the change notification finds the watch closed.
struct WatchFeed {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    held: watch::Receiver<bool>,
    _closed: CloseNotifier,
}

/// Counts one more change when its watch is closed.
struct CloseNotifier(watch::Sender<u64>);

impl Drop for CloseNotifier {
    fn drop(&mut self) {
        self.0.send_modify(|changes| *changes += 1);
    }
}

/// Returns the pieces as they arrive, unless the server is paused.
fn watch_body(
    pieces: mpsc::UnboundedReceiver<Bytes>,
    held: watch::Receiver<bool>,
    changes: watch::Sender<u64>,
) -> ReplyBody {
    let feed = WatchFeed { pieces, held, _closed: CloseNotifier(changes) };
    let pieces = stream::unfold(feed, |mut feed| async move {
        let piece = feed.pieces.recv().await;
        let _ = feed.held.wait_for(|held| !held).await;
        Some((Ok::<_, io::Error>(Frame::data(piece?)), feed))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn selected_node(query: &BTreeMap<String, String>) -> Result<String, ErrorReply> {
    let selector = query.get("fieldSelector").map_or("", String::as_str);
    let node = selector.strip_suffix(",status.phase!=Succeeded,status.phase!=Failed");
    let node = node.and_then(|rest| rest.strip_prefix("spec.nodeName=")).filter(|node| !node.is_empty());
    node.map(str::to_owned).ok_or_else(|| bad_request(&format!("not of a node's unfinished pods: {selector:?}")))
}

fn gone_response() -> ErrorReply {
    status_response(410, "Expired", "", "too old resource version: 1 (2)")
}

fn bad_request(message: &str) -> ErrorReply {
    status_response(400, "BadRequest", "", message)
}
