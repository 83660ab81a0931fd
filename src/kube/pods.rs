//! The pods of a node: which there are, and when each of them ends.
//!
//! A list may be behind, and an event may be missed; what is done at a pod's end is done only when [`Kube::pod`] says
//! that it ended.

use std::time::Duration;

use form_urlencoded::Serializer;
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Kube,
    client::{GetOptions, WatchResponse},
    path,
    response::ApiResponse,
};
use crate::{
    clock,
    error::{Cause, Error},
};

mod pod_watch;

pub use pod_watch::{PodEvent, PodWatch};

/// How many pods a page of a list holds: few, for annotations and managed fields come along.
const PAGE_SIZE: &str = "50";

/// The largest page taken, in bytes.
const MAX_PAGE_BYTES: usize = 32 << 20;

/// The most that is taken of one pod, in bytes: what etcd holds of an object grows when it is written as JSON.
const MAX_POD_BYTES: usize = 4 << 20;

/// The longest that a watch is asked to last. The server ends it, and many nodes shall not come back at once.
const WATCH_TIMEOUT: Duration = Duration::from_secs(590);

const INCOMPLETE_POD: &str = "a pod that has no namespace, name or uid";

/// Metadata alone, or the objects themselves where that is not known.
const ACCEPT_POD_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const ACCEPT_POD_METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// A pod as a list or a watch tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name; another pod may have had it before, or have it after.
    pub name: String,
    /// Its UID, which no other pod ever has.
    pub uid: String,
}

/// What there is under a pod's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// A pod that has not ended: it waits, runs, or is being deleted.
    Running {
        /// Its UID.
        uid: String,
    },
    /// A pod whose containers have ended for good.
    Finished {
        /// Its UID.
        uid: String,
    },
    /// No pod.
    Gone,
}

impl Kube {
    /// The pods of a node that have not ended, and the version to [watch](Self::watch_node_pods) from.
    pub async fn node_pods(&self, node: &str) -> Result<(Vec<PodRef>, String), Error> {
        self.list_pods(node).await.map_err(|e| e.with_subject(node_pods_subject(node)))
    }

    /// Watches the pods of a node that have not ended, from a version of the list or of another watch. When the server
    /// no longer knows what came after it, that is told by the watch's first event, [`PodEvent::Expired`].
    pub async fn watch_node_pods(&self, node: &str, version: &str) -> Result<PodWatch, Error> {
        self.open_watch(node, version).await.map_err(|e| e.with_subject(node_pods_subject(node)))
    }

    /// What there is under a pod's name now, by the API server's storage and no cache of it. `Gone` is the API server's
    /// own word; a 404 of anybody else is an error.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<PodState, Error> {
        self.read_pod(namespace, name).await.map_err(|e| e.with_subject(format_args!("pod {namespace}/{name}")))
    }

    async fn list_pods(&self, node: &str) -> Result<(Vec<PodRef>, String), Error> {
        let (mut pods, mut version, mut continue_token) = (Vec::new(), None, String::new());
        loop {
            let parameters = [("limit", PAGE_SIZE), ("continue", continue_token.as_str())];
            let path = node_path(node, &parameters[..if continue_token.is_empty() { 1 } else { 2 }])?;
            let response = self
                .client
                .get_with_options(GetOptions {
                    path: &path,
                    accept: ACCEPT_POD_METADATA_LIST,
                    max_bytes: MAX_PAGE_BYTES,
                })
                .await?;
            let page: PodListPage = parse_object(&response)?;
            for item in page.items.into_iter().flatten().filter(|item| !item.is_finished()) {
                pods.push(item.metadata.pod().ok_or_else(|| incomplete_response_error(self.server(), INCOMPLETE_POD))?);
            }
            // All pages are of the first one's version.
            let version = version.get_or_insert(page.metadata.resource_version);
            if version.is_empty() {
                return Err(incomplete_response_error(self.server(), "a list that has no resourceVersion"));
            }
            continue_token = page.metadata.r#continue;
            if continue_token.is_empty() {
                return Ok((pods, std::mem::take(version)));
            }
        }
    }

    async fn open_watch(&self, node: &str, version: &str) -> Result<PodWatch, Error> {
        let duration = clock::with_jitter(WATCH_TIMEOUT).as_secs();
        let seconds = duration.to_string();
        let parameters = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", seconds.as_str()),
        ];
        let path = node_path(node, &parameters)?;
        match self
            .client
            .watch(GetOptions { path: &path, accept: ACCEPT_POD_METADATA, max_bytes: MAX_POD_BYTES })
            .await?
        {
            WatchResponse::Events(body) => {
                Ok(PodWatch::new(self.server(), node, version, body, Duration::from_secs(duration)))
            }
            WatchResponse::Rejected(answer) if answer.status == StatusCode::GONE => {
                Ok(PodWatch::expired(self.server(), node, version))
            }
            WatchResponse::Rejected(answer) => Err(response_error(&answer)),
        }
    }

    async fn read_pod(&self, namespace: &str, name: &str) -> Result<PodState, Error> {
        let path = path::object(namespace, "pods", name)?;
        // Without a resourceVersion in the query, which would allow a cache to answer.
        let response = self
            .client
            .get_with_options(GetOptions { path: &path, accept: "application/json", max_bytes: MAX_POD_BYTES })
            .await?;
        if response.status == StatusCode::NOT_FOUND && is_pod_not_found(&response) {
            return Ok(PodState::Gone);
        }
        let found: PodObject = parse_object(&response)?;
        let finished = found.is_finished();
        let PodRef { uid, .. } =
            found.metadata.pod().ok_or_else(|| incomplete_response_error(self.server(), INCOMPLETE_POD))?;
        Ok(if finished { PodState::Finished { uid } } else { PodState::Running { uid } })
    }
}

fn node_pods_subject(node: &str) -> String {
    format!("pods of node {node}")
}

/// Path and query of a node's pods that have not ended, with more parameters.
fn node_path(node: &str, parameters: &[(&str, &str)]) -> Result<String, Error> {
    let node = path::validate_name("node", node)?;
    let selector = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    let query =
        Serializer::new(String::new()).append_pair("fieldSelector", &selector).extend_pairs(parameters).finish();
    Ok(format!("/api/v1/pods?{query}"))
}

fn parse_object<T: DeserializeOwned>(response: &ApiResponse<'_>) -> Result<T, Error> {
    if response.status.is_success() {
        response.parse_object(Cause::KubernetesConfig)
    } else {
        Err(response_error(response))
    }
}

fn response_error(response: &ApiResponse<'_>) -> Error {
    match response.status {
        StatusCode::FORBIDDEN => response.to_error(Cause::PodsForbidden).with_fix(
            "grant our service account the rule {apiGroups: [\"\"], resources: [pods], verbs: [get, list, watch]} \
             in a ClusterRole",
        ),
        StatusCode::NOT_FOUND => response
            .to_error(Cause::KubernetesConfig)
            .with_fix("check that the address is a Kubernetes API server, and what stands between"),
        // The rest of a list that took too long; the next one begins anew.
        StatusCode::GONE => response.to_error(Cause::KubernetesApi),
        _ => response.to_error(Cause::KubernetesConfig),
    }
}

/// Whether a 404 is the API server's own, and says that there is no such pod.
fn is_pod_not_found(response: &ApiResponse<'_>) -> bool {
    let status = response.api_status();
    status.kind == "Status" && status.reason == "NotFound" && status.details.kind == "pods"
}

fn incomplete_response_error(server: &str, problem: &str) -> Error {
    Error::new(Cause::KubernetesConfig, format!("API server {server} answers with {problem}"))
        .with_fix("check that the address is a Kubernetes API server")
}

/// A page of a list.
#[derive(Deserialize)]
struct PodListPage {
    metadata: PageMetadata,
    /// Null when there are none; an answer that lacks it is no list.
    #[serde(deserialize_with = "Option::deserialize")]
    items: Option<Vec<PodObject>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    r#continue: String,
}

/// A pod, or its metadata alone.
#[derive(Deserialize)]
struct PodObject {
    metadata: PodMetadata,
    status: Option<PodStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodMetadata {
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

impl PodObject {
    fn is_finished(&self) -> bool {
        self.status.as_ref().is_some_and(|status| matches!(status.phase.as_str(), "Succeeded" | "Failed"))
    }
}

impl PodMetadata {
    /// The pod that it names.
    fn pod(self) -> Option<PodRef> {
        let Self { namespace, name, uid, .. } = self;
        let named = ![&namespace, &name, &uid].iter().any(|text| text.is_empty());
        named.then_some(PodRef { namespace, name, uid })
    }
}
