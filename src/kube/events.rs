//! Pod events, as shown by `kubectl describe pod`.

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::{Kube, path, response::ApiResponse};
use crate::{
    error::{Cause, Error},
    text::one_line,
};

/// Event of a pod.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// Name of the event, unique in the pod's namespace.
    pub name: &'a str,
    /// The pod's namespace.
    pub namespace: &'a str,
    /// Name of the pod.
    pub pod: &'a str,
    /// UID of the pod.
    pub uid: &'a str,
    /// Reason in `CamelCase`, such as `VaultMountFailed`.
    pub reason: &'a str,
    /// Message, truncated to [`MAX_EVENT_MESSAGE_BYTES`].
    pub message: &'a str,
    /// Type of the event: `Warning` if true, `Normal` otherwise.
    pub is_warning: bool,
    /// Time of the first occurrence.
    pub first_timestamp: Timestamp,
    /// Time of the last occurrence.
    pub last_timestamp: Timestamp,
    /// Number of occurrences.
    pub count: u32,
    /// Name of this node.
    pub node: &'a str,
}

/// The API server's limit for an event message, in bytes.
pub const MAX_EVENT_MESSAGE_BYTES: usize = 1024;

/// Reporting component of every event.
const COMPONENT: &str = "vaultmount";

impl Kube {
    /// Creates an event. If the name already exists, an earlier attempt succeeded and only its response was lost.
    pub async fn create_event(&self, event: &Event<'_>) -> Result<(), Error> {
        let path = path::collection(event.namespace, "events")?;
        let response = self.client.post(&path, &EventBody::from_event(event)).await?;
        let already_exists = response.status == StatusCode::CONFLICT && response.api_status().reason == "AlreadyExists";
        if response.status.is_success() || already_exists { Ok(()) } else { Err(response_error(&response)) }
    }

    /// Updates an event after a repeat. Returns false if the event no longer exists.
    pub async fn bump_event_count(&self, event: &Event<'_>) -> Result<bool, Error> {
        let path = path::object(event.namespace, "events", event.name)?;
        let change = json!({"count": event.count, "lastTimestamp": format_timestamp(event.last_timestamp), "message": one_line(event.message, MAX_EVENT_MESSAGE_BYTES)});
        let response = self.client.merge_patch(&path, &change).await?;
        match response.status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(response_error(&response)),
        }
    }
}

fn response_error(response: &ApiResponse<'_>) -> Error {
    if response.status != StatusCode::FORBIDDEN {
        return response.to_error(Cause::KubernetesConfig);
    }
    response.to_error(Cause::EventsForbidden).with_fix(
        "unless the namespace has a quota for events or is being deleted, grant our service account the rule {apiGroups: [\"\"], \
         resources: [events], verbs: [create, patch]} in a ClusterRole, or disable events with --events=false",
    )
}

/// Event of the core/v1 API, which every cluster accepts and shows.
/// <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventBody<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: serde_json::Value,
    involved_object: serde_json::Value,
    reason: &'a str,
    message: String,
    r#type: &'static str,
    first_timestamp: String,
    last_timestamp: String,
    count: u32,
    source: serde_json::Value,
    reporting_component: &'static str,
    reporting_instance: &'a str,
}

impl<'a> EventBody<'a> {
    fn from_event(event: &'a Event<'_>) -> Self {
        Self {
            api_version: "v1",
            kind: "Event",
            metadata: json!({"name": event.name, "namespace": event.namespace}),
            involved_object: json!({
                "apiVersion": "v1", "kind": "Pod", "namespace": event.namespace, "name": event.pod, "uid": event.uid,
            }),
            reason: event.reason,
            message: one_line(event.message, MAX_EVENT_MESSAGE_BYTES),
            r#type: if event.is_warning { "Warning" } else { "Normal" },
            first_timestamp: format_timestamp(event.first_timestamp),
            last_timestamp: format_timestamp(event.last_timestamp),
            count: event.count,
            source: json!({"component": COMPONENT, "host": event.node}),
            reporting_component: COMPONENT,
            reporting_instance: event.node,
        }
    }
}

fn format_timestamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
