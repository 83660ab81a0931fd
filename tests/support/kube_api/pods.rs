//! The pods of the fake API server: listed in pages, watched, read, and changed while it runs.
//!
//! Lists and watches take the field selector of a node's unfinished pods and no other, so that a client which asks for
//! more is refused. Versions count the changes of all pods.

use std::{collections::BTreeMap, io};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{Builder, KubeApi, Reply, ReplyBody, Seen, key, missing, status};

type Key = (String, String);
/// A refusal: status and Status.
type Refusal = (u16, Value);
/// A version, and the pods there were.
type Snapshot = (u64, BTreeMap<Key, Record>);

/// How a version that is too old is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// The answer's status is 410.
    #[default]
    Answer,
    /// The answer is 200, and its first event an ERROR.
    Event,
}

#[derive(Default)]
pub(super) struct Pods {
    records: BTreeMap<Key, Record>,
    version: u64,
    changes: Vec<Change>,
    /// Watches from versions before this are refused.
    compacted: u64,
    expiry: Expiry,
    /// What the next pages of lists are of.
    snapshots: BTreeMap<u64, BTreeMap<Key, Record>>,
    /// What lists show, and how often still; for good, if nothing says how often.
    stale: Option<(Snapshot, Option<usize>)>,
    /// Objects are sent whole, whatever is asked for.
    whole: bool,
    /// The most bytes of an event that are sent at once.
    piece: Option<usize>,
    watches: Vec<Watch>,
}

#[derive(Clone, Debug)]
struct Record {
    node: String,
    uid: String,
    phase: String,
    deleting: bool,
    annotation: String,
    version: u64,
}

struct Change {
    kind: &'static str,
    key: Key,
    record: Record,
}

struct Watch {
    node: String,
    whole: bool,
    pieces: mpsc::UnboundedSender<Bytes>,
}

impl Builder {
    /// A pod that runs on a node.
    #[must_use]
    pub fn node_pod(mut self, node: &str, namespace: &str, name: &str, uid: &str) -> Self {
        self.state.pods.put(node, namespace, name, uid);
        self
    }

    /// Pods are sent whole even when their metadata was asked for.
    #[must_use]
    pub fn whole_pods(mut self) -> Self {
        self.state.pods.whole = true;
        self
    }

    /// Events are sent in pieces of so many bytes.
    #[must_use]
    pub fn event_pieces(mut self, bytes: usize) -> Self {
        self.state.pods.piece = Some(bytes);
        self
    }
}

/// Pods change while the server runs; open watches are told at once.
impl KubeApi {
    /// A pod runs on a node; one of that name goes first.
    pub fn add_pod(&self, node: &str, namespace: &str, name: &str, uid: &str) {
        self.lock().pods.put(node, namespace, name, uid);
    }

    /// The pod is gone, and tokens bound to it with it.
    pub fn delete_pod(&self, namespace: &str, name: &str) {
        self.lock().pods.change(&key(namespace, name), |_| None);
    }

    /// The pod's deletion begins: it has a deletionTimestamp and goes on running.
    pub fn begin_pod_deletion(&self, namespace: &str, name: &str) {
        self.edit(namespace, name, |pod| pod.deleting = true);
    }

    /// The pod's phase: `Pending`, `Running`, `Succeeded`, `Failed`.
    pub fn set_pod_phase(&self, namespace: &str, name: &str, phase: &str) {
        self.edit(namespace, name, |pod| phase.clone_into(&mut pod.phase));
    }

    /// An annotation of the pod changes to this.
    pub fn annotate_pod(&self, namespace: &str, name: &str, text: &str) {
        self.edit(namespace, name, |pod| text.clone_into(&mut pod.annotation));
    }

    /// Another pod of the same name and node takes the place of this one.
    pub fn replace_pod(&self, namespace: &str, name: &str, uid: &str) {
        let mut state = self.lock();
        let node = state.pods.records[&key(namespace, name)].node.clone();
        state.pods.put(&node, namespace, name, uid);
    }

    fn edit(&self, namespace: &str, name: &str, edit: impl FnOnce(&mut Record)) {
        self.lock().pods.change(&key(namespace, name), |was| {
            let mut pod = was.unwrap();
            edit(&mut pod);
            Some(pod)
        });
    }

    /// Something else than pods changes, and open watches get a bookmark.
    pub fn send_bookmark(&self) {
        let pods = &mut self.lock().pods;
        pods.version += 1;
        let version = pods.version.to_string();
        let bookmark = |kind: &str, group: &str| {
            let metadata = json!({"resourceVersion": version, "creationTimestamp": null});
            json!({"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": group, "metadata": metadata}})
        };
        for watch in &pods.watches {
            let line =
                if watch.whole { bookmark("Pod", "v1") } else { bookmark("PartialObjectMetadata", "meta.k8s.io/v1") };
            watch.send(&line, pods.piece);
        }
    }

    /// What happened so far is forgotten: neither a watch nor the next page of a list goes on from any version given
    /// out until now. Open watches go on.
    pub fn forget_history(&self, expiry: Expiry) {
        let pods = &mut self.lock().pods;
        pods.version += 1;
        (pods.compacted, pods.expiry) = (pods.version, expiry);
        pods.snapshots.clear();
    }

    /// Open watches end with an ERROR that says 410.
    pub fn expire_watches(&self) {
        let pods = &mut self.lock().pods;
        let (_, gone) = too_old();
        for watch in pods.watches.drain(..) {
            watch.send(&json!({"type": "ERROR", "object": gone}), pods.piece);
        }
    }

    /// Open watches get these bytes.
    pub fn send_to_watches(&self, text: &str) {
        let pods = &self.lock().pods;
        pods.watches.iter().for_each(|watch| watch.send_text(text, pods.piece));
    }

    /// Open watches end as they do when their time is over.
    pub fn end_watches(&self) {
        self.lock().pods.watches.clear();
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.lock().pods.watches.iter().filter(|watch| !watch.pieces.is_closed()).count()
    }

    /// From now on a list shows pods as they are now, with the version of now, so many times; `None`: until
    /// [`fresh_lists`](Self::fresh_lists). Watches and reads of single pods tell the truth.
    pub fn stale_lists(&self, times: Option<usize>) {
        let pods = &mut self.lock().pods;
        pods.stale = Some(((pods.version, pods.records.clone()), times));
    }

    /// Lists show what is.
    pub fn fresh_lists(&self) {
        self.lock().pods.stale = None;
    }
}

impl Pods {
    /// A running pod on no node, for tokens to be bound to; or on one.
    pub(super) fn put(&mut self, node: &str, namespace: &str, name: &str, uid: &str) {
        let key = key(namespace, name);
        if self.records.contains_key(&key) {
            self.change(&key, |_| None);
        }
        let (node, uid, phase) = (node.to_owned(), uid.to_owned(), "Running".to_owned());
        let record = Record { node, uid, phase, deleting: false, annotation: String::new(), version: 0 };
        self.change(&key, |_| Some(record));
    }

    pub(super) fn uid(&self, namespace: &str, name: &str) -> Option<&str> {
        self.records.get(&key(namespace, name)).map(|record| record.uid.as_str())
    }

    fn change(&mut self, key: &Key, edit: impl FnOnce(Option<Record>) -> Option<Record>) {
        self.version += 1;
        let was = self.records.remove(key);
        let is = edit(was.clone()).map(|is| Record { version: self.version, ..is });
        if let Some(is) = &is {
            self.records.insert(key.clone(), is.clone());
        }
        let selected = |record: Option<Record>| record.filter(Record::is_unfinished);
        let (kind, record) = match (selected(was), selected(is)) {
            (None, None) => return,
            (None, Some(is)) => ("ADDED", is),
            (Some(_), Some(is)) => ("MODIFIED", is),
            (Some(was), None) => ("DELETED", Record { version: self.version, ..was }),
        };
        let change = Change { kind, key: key.clone(), record };
        for watch in self.watches.iter().filter(|watch| watch.node == change.record.node) {
            watch.send(&change.event(watch.whole), self.piece);
        }
        self.changes.push(change);
    }

    /// The answer to a read of one pod; whoever names a version would be served from a cache.
    pub(super) fn read(&self, namespace: &str, name: &str, seen: &Seen) -> (u16, Value) {
        if !seen.query.is_empty() {
            return bad(&format!("the read of a pod has a query: {}", seen.query));
        }
        let key = key(namespace, name);
        self.records.get(&key).map_or_else(|| missing("pods", name), |record| (200, record.object(&key, true)))
    }

    pub(super) fn list(&mut self, seen: &Seen) -> (u16, Value) {
        self.page(seen).unwrap_or_else(|refusal| refusal)
    }

    fn page(&mut self, seen: &Seen) -> Result<(u16, Value), Refusal> {
        let query = seen.parameters();
        let node = node_of(&query)?;
        let whole = self.is_whole(seen, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")?;
        let limit =
            query.get("limit").and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or_else(|| bad("no limit"))?;
        if query.contains_key("resourceVersion") {
            return Err(bad("a list of some version may be of a cache"));
        }
        let ((version, records), start) = match query.get("continue") {
            None => (self.snapshot(), 0),
            Some(from) => self.continued(from)?,
        };
        let mut pods = records.iter().filter(|(_, r)| r.node == node && r.is_unfinished()).skip(start);
        let items: Vec<_> = pods.by_ref().take(limit).map(|(key, record)| record.object(key, whole)).collect();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if pods.next().is_some() {
            metadata["continue"] = json!(STANDARD.encode(format!("{version}?{}", start + limit)));
            self.snapshots.insert(version, records);
        }
        let (kind, group) = if whole { ("PodList", "v1") } else { ("PartialObjectMetadataList", "meta.k8s.io/v1") };
        Ok((200, json!({"kind": kind, "apiVersion": group, "metadata": metadata, "items": items})))
    }

    fn snapshot(&mut self) -> Snapshot {
        let (snapshot, times) = match self.stale.take() {
            None | Some((_, Some(0))) => return (self.version, self.records.clone()),
            Some((snapshot, times)) => (snapshot, times.map(|n| n - 1)),
        };
        self.stale = Some((snapshot.clone(), times));
        snapshot
    }

    fn continued(&self, from: &str) -> Result<(Snapshot, usize), Refusal> {
        let text = STANDARD.decode(from).ok().and_then(|text| String::from_utf8(text).ok());
        let place = text.as_deref().and_then(|text| text.split_once('?'));
        let place = place.and_then(|(version, start)| Some((version.parse().ok()?, start.parse().ok()?)));
        let (version, start) = place.ok_or_else(|| bad("continue key is not valid"))?;
        let message = "The provided continue parameter is too old to display a consistent list result.";
        let records = self.snapshots.get(&version).ok_or_else(|| status(410, "Expired", "", message))?;
        Ok(((version, records.clone()), start))
    }

    pub(super) fn watch(&mut self, seen: &Seen, held: watch::Receiver<bool>, changes: watch::Sender<u64>) -> Reply {
        match self.open(seen) {
            Ok(pieces) => Reply::Events(body(pieces, held, changes)),
            Err((code, object)) => Reply::Object(code, object),
        }
    }

    fn open(&mut self, seen: &Seen) -> Result<mpsc::UnboundedReceiver<Bytes>, Refusal> {
        let query = seen.parameters();
        let node = node_of(&query)?;
        let whole = self.is_whole(seen, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")?;
        let is = |name: &str, holds: fn(u64) -> bool| query.get(name).and_then(|n| n.parse().ok()).is_some_and(holds);
        if query.get("allowWatchBookmarks").is_none_or(|yes| yes != "true")
            || !is("timeoutSeconds", |n| (290..=590).contains(&n))
        {
            return Err(bad("a watch without bookmarks, or of no proper time"));
        }
        let version = query.get("resourceVersion").and_then(|version| version.parse::<u64>().ok());
        let version = version.filter(|v| *v <= self.version).ok_or_else(|| bad("no resourceVersion of ours"))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let watch = Watch { node, whole, pieces: sender };
        if version < self.compacted {
            let (code, object) = too_old();
            if self.expiry == Expiry::Answer {
                return Err((code, object));
            }
            watch.send(&json!({"type": "ERROR", "object": object}), self.piece);
            return Ok(receiver);
        }
        for change in self.changes.iter().filter(|c| c.record.version > version && c.record.node == watch.node) {
            watch.send(&change.event(watch.whole), self.piece);
        }
        self.watches.retain(|watch| !watch.pieces.is_closed());
        self.watches.push(watch);
        Ok(receiver)
    }

    /// Whether objects are sent whole; metadata must have been asked for, with objects as the second choice.
    fn is_whole(&self, seen: &Seen, metadata: &str) -> Result<bool, Refusal> {
        if seen.accept != format!("{metadata},application/json") {
            return Err(bad(&format!("Accept is {:?}", seen.accept)));
        }
        Ok(self.whole)
    }
}

impl Seen {
    /// The query's parameters.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        form_urlencoded::parse(self.query.as_bytes()).into_owned().collect()
    }
}

impl Record {
    fn is_unfinished(&self) -> bool {
        !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    fn object(&self, (namespace, name): &Key, whole: bool) -> Value {
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

impl Change {
    fn event(&self, whole: bool) -> Value {
        json!({"type": self.kind, "object": self.record.object(&self.key, whole)})
    }
}

impl Watch {
    fn send(&self, event: &Value, piece: Option<usize>) {
        self.send_text(&format!("{event}\n"), piece);
    }

    fn send_text(&self, text: &str, piece: Option<usize>) {
        for piece in text.as_bytes().chunks(piece.unwrap_or(text.len()).max(1)) {
            let _ = self.pieces.send(Bytes::copy_from_slice(piece));
        }
    }
}

/// What a watch is fed with. Its pieces go first when it is dropped, so that whoever is told finds it closed.
struct Feed {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    held: watch::Receiver<bool>,
    _closed: Closed,
}

/// Counts one change more when its watch is closed.
struct Closed(watch::Sender<u64>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.send_modify(|changes| *changes += 1);
    }
}

/// The pieces as they come, as long as the server is not held.
fn body(pieces: mpsc::UnboundedReceiver<Bytes>, held: watch::Receiver<bool>, changes: watch::Sender<u64>) -> ReplyBody {
    let feed = Feed { pieces, held, _closed: Closed(changes) };
    let pieces = stream::unfold(feed, |mut feed| async move {
        let piece = feed.pieces.recv().await;
        let _ = feed.held.wait_for(|held| !held).await;
        Some((Ok::<_, io::Error>(Frame::data(piece?)), feed))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn node_of(query: &BTreeMap<String, String>) -> Result<String, Refusal> {
    let selector = query.get("fieldSelector").map_or("", String::as_str);
    let node = selector.strip_suffix(",status.phase!=Succeeded,status.phase!=Failed");
    let node = node.and_then(|rest| rest.strip_prefix("spec.nodeName=")).filter(|node| !node.is_empty());
    node.map(str::to_owned).ok_or_else(|| bad(&format!("not of a node's unfinished pods: {selector:?}")))
}

fn too_old() -> Refusal {
    status(410, "Expired", "", "too old resource version: 1 (2)")
}

fn bad(message: &str) -> Refusal {
    status(400, "BadRequest", "", message)
}
