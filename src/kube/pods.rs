//! The pods of a node, from a list and a watch.
//!
//! A list may be outdated and an event may be missed. vaultmount acts on the end of a pod only after [`Kube::pod`] confirms
//! it.

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

/// Number of pods per page of a list. It is low because annotations and managed fields are part of each pod.
const PAGE_SIZE: &str = "50";

/// Size limit of a page in bytes.
const MAX_PAGE_BYTES: usize = 32 << 20;

/// Size limit of one pod in bytes. It is above etcd's limit because objects grow when they are encoded as JSON.
const MAX_POD_BYTES: usize = 4 << 20;

/// Longest duration requested for a watch. The server ends the watch, and the duration varies so that nodes do not reconnect
/// at once.
const WATCH_TIMEOUT: Duration = Duration::from_secs(590);

const INCOMPLETE_POD: &str = "a pod that has no namespace, name or uid";

/// Requests only metadata. Servers that do not support this send the full objects.
const ACCEPT_POD_METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const ACCEPT_POD_METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// Identity of a pod in a list or watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod. An earlier or later pod may have the same name.
    pub name: String,
    /// UID of the pod, never used by another pod.
    pub uid: String,
}

/// State of the pod with a given name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Pod that has not ended: it is pending, running or being deleted.
    Running {
        /// UID of the pod.
        uid: String,
    },
    /// Pod in phase `Succeeded` or `Failed`.
    Finished {
        /// UID of the pod.
        uid: String,
    },
    /// Pod that does not exist.
    Gone,
}

impl Kube {
    /// Returns the pods of a node that have not ended, and the version to [watch](Self::watch_node_pods) from.
    pub async fn node_pods(&self, node: &str) -> Result<(Vec<PodRef>, String), Error> {
        self.list_pods(node).await.map_err(|e| e.with_subject(node_pods_subject(node)))
    }

    /// Watches the pods of a node that have not ended, from the version of a list or of another watch. If the server no longer
    /// has that version, the first event of the watch is [`PodEvent::Expired`].
    pub async fn watch_node_pods(&self, node: &str, version: &str) -> Result<PodWatch, Error> {
        self.open_watch(node, version).await.map_err(|e| e.with_subject(node_pods_subject(node)))
    }

    /// Returns the state of a pod from the API server's storage, not from its cache. Returns `Gone` only for the API server's
    /// own 404. A 404 from a proxy is an error.
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
            // All pages have the version of the first page.
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

/// Returns path and query for the pods of a node that have not ended, with further parameters.
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
            .with_fix("check that the address is a Kubernetes API server, and check the proxies in between"),
        // The continue token of a slow list has expired. The next list starts over.
        StatusCode::GONE => response.to_error(Cause::KubernetesApi),
        _ => response.to_error(Cause::KubernetesConfig),
    }
}

/// Returns true if a 404 comes from the API server itself and says that the pod does not exist.
fn is_pod_not_found(response: &ApiResponse<'_>) -> bool {
    let status = response.api_status();
    status.kind == "Status" && status.reason == "NotFound" && status.details.kind == "pods"
}

fn incomplete_response_error(server: &str, problem: &str) -> Error {
    Error::new(Cause::KubernetesConfig, format!("API server {server} answers with {problem}"))
        .with_fix("check that the address is a Kubernetes API server")
}

/// Page of a pod list.
#[derive(Deserialize)]
struct PodListPage {
    metadata: PageMetadata,
    /// Null if there are no pods. A response without this field is not a list.
    #[serde(deserialize_with = "Option::deserialize")]
    items: Option<Vec<PodObject>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    r#continue: String,
}

/// Pod, or only its metadata.
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
    /// Returns the identity of the pod; `None` if a part of it is missing.
    fn pod(self) -> Option<PodRef> {
        let Self { namespace, name, uid, .. } = self;
        let named = ![&namespace, &name, &uid].iter().any(|text| text.is_empty());
        named.then_some(PodRef { namespace, name, uid })
    }
}
