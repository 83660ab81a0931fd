//! Pods of a node: lists, watches and single reads.

use std::{fs, sync::Arc};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::{Duration, Instant};
use vaultmount::{
    error::{Cause, Error},
    kube::{Config, Kube, PodEvent, PodRef, PodState, PodWatch},
};

use crate::{
    build_client,
    kube_api::{Fault, KubeApi, KubeApiBuilder, pods::ExpirySignal},
    start_with_client,
};

const NODE: &str = "node-a.example";

fn pod_ref(name: &str, uid: &str) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: name.to_owned(), uid: uid.to_owned() }
}

fn applied(name: &str, uid: &str) -> PodEvent {
    PodEvent::Applied(pod_ref(name, uid))
}

fn deleted(name: &str, uid: &str) -> PodEvent {
    PodEvent::Deleted(pod_ref(name, uid))
}

fn api_with_web_pod() -> KubeApiBuilder {
    KubeApi::builder().node_pod(NODE, "shop", "web", "uid-1")
}

/// Starts a server, and a watch of the node from the current list.
async fn start_watch(api: KubeApiBuilder) -> (KubeApi, Kube, PodWatch) {
    let (api, kube) = start_with_client(api).await;
    let (_, version) = kube.node_pods(NODE).await.unwrap();
    let watch = kube.watch_node_pods(NODE, &version).await.unwrap();
    (api, kube, watch)
}

/// Returns a watch event in the server's format.
fn event_line(kind: &str, version: &str, name: &str, uid: &str) -> String {
    let metadata = json!({"namespace": "shop", "name": name, "uid": uid, "resourceVersion": version});
    format!("{}\n", json!({"type": kind, "object": {"metadata": metadata}}))
}

/// Returns the first event of a watch that receives this text.
async fn first_event(text: &str) -> Result<Option<PodEvent>, Error> {
    let (api, _kube, mut watch) = start_watch(api_with_web_pod()).await;
    api.send_to_watches(text);
    api.end_watches();
    watch.next().await
}

#[tokio::test]
async fn pod_list_has_pods_of_node_and_resource_version() {
    let api = api_with_web_pod()
        .node_pod(NODE, "bank", "web", "uid-2")
        .node_pod("node-b", "shop", "other", "uid-3")
        .pod("shop", "bound", "uid-4");
    let (api, kube) = start_with_client(api).await;
    let (pods, version) = kube.node_pods(NODE).await.unwrap();
    assert_eq!(pods, [PodRef { namespace: "bank".to_owned(), ..pod_ref("web", "uid-2") }, pod_ref("web", "uid-1")]);
    assert_eq!(version, "4");

    let requests = &api.requests()[0];
    assert_eq!((requests.path.as_str(), requests.bearer.as_deref()), ("/api/v1/pods", Some("t0ken")));
    let selector = format!("spec.nodeName={NODE},status.phase!=Succeeded,status.phase!=Failed");
    let expected_parameters = [("fieldSelector", selector.as_str()), ("limit", "50")];
    assert_eq!(
        requests.query_parameters(),
        expected_parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    );
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    assert_eq!(requests.accept, metadata);
}

#[tokio::test]
async fn pod_list_pages_share_one_resource_version() {
    let names: Vec<_> = (100..220).map(|n| format!("web-{n}")).collect();
    let api =
        names.iter().fold(KubeApi::builder(), |api, name| api.node_pod(NODE, "shop", name, &format!("of-{name}")));
    let (_api, kube) = start_with_client(api).await;
    let (pods, version) = kube.node_pods(NODE).await.unwrap();
    let expected: Vec<_> = names.iter().map(|name| pod_ref(name, &format!("of-{name}"))).collect();
    assert_eq!((pods, version.as_str(), kube.request_count()), (expected, "120", 3));

    let page = |version: &str, from: &str| {
        let metadata = json!({"resourceVersion": version, "continue": from});
        Fault::Respond(200, json!({"metadata": metadata, "items": []}).to_string())
    };
    let (api, kube) = start_with_client(KubeApi::builder().fault(page("7", "a+b&c=")).fault(page("9", ""))).await;
    assert_eq!(kube.node_pods(NODE).await.unwrap(), (vec![], "7".to_owned()));
    assert_eq!(api.requests()[1].query_parameters()["continue"], "a+b&c=");
}

#[tokio::test]
async fn pod_list_expired_continue_token_is_transient() {
    let first = json!({"metadata": {"resourceVersion": "1", "continue": "MT8x"}, "items": []}).to_string();
    let (_api, kube) = start_with_client(api_with_web_pod().fault(Fault::Respond(200, first))).await;
    let error = kube.node_pods(NODE).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("answers 410 Gone (it said: The provided"), "{error}");
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod_ref("web", "uid-1")]);
}

#[tokio::test]
async fn pod_list_omits_finished_pods_the_server_sends() {
    let of_phase = |name: &str, phase: &str| {
        let metadata = json!({"namespace": "shop", "name": name, "uid": format!("of-{name}")});
        json!({"metadata": metadata, "spec": {"nodeName": NODE}, "status": {"phase": phase}})
    };
    let items = [of_phase("a", "Succeeded"), of_phase("b", "Pending"), of_phase("c", "Failed")];
    let list = json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string();
    let (_api, kube) = start_with_client(KubeApi::builder().fault(Fault::Respond(200, list))).await;
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod_ref("b", "of-b")]);
}

#[tokio::test]
async fn pod_list_malformed_is_an_error_not_empty() {
    let list = |text: &str| {
        let api = KubeApi::builder().fault(Fault::Respond(200, text.to_owned()));
        async { start_with_client(api).await.1.node_pods(NODE).await }
    };
    assert_eq!(list(r#"{"metadata":{"resourceVersion":"1"},"items":null}"#).await.unwrap().0, []);
    for text in [
        "",
        "{}",
        "<html>",
        r#"{"metadata":{"resourceVersion":"1"}}"#,
        r#"{"metadata":{},"items":[]}"#,
        r#"{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{"namespace":"shop","name":"web"}}]}"#,
    ] {
        let error = list(text).await.unwrap_err();
        assert_eq!(error.cause(), Cause::KubernetesConfig, "{text}: {error}");
        assert!(error.to_string().starts_with(&format!("pods of node {NODE}: API server ")), "{error}");
    }
}

#[tokio::test]
async fn pod_watch_reports_added_modified_and_deleted() {
    for api in [api_with_web_pod(), api_with_web_pod().full_pod_objects(), api_with_web_pod().split_events(1)] {
        let (api, _kube, mut watch) = start_watch(api).await;
        api.add_pod(NODE, "shop", "job", "uid-2");
        api.add_pod("node-b", "shop", "other", "uid-3");
        assert_eq!(watch.next().await.unwrap(), Some(applied("job", "uid-2")));
        api.annotate_pod("shop", "job", "größer");
        assert_eq!(watch.next().await.unwrap(), Some(applied("job", "uid-2")));
        api.delete_pod("shop", "other");
        api.delete_pod("shop", "web");
        assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
        assert_eq!(watch.version(), "6");

        let requests = &api.requests()[1];
        assert_eq!(requests.accept, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");
        assert_eq!(requests.query_parameters()["resourceVersion"], "1");
    }
}

#[tokio::test]
async fn pod_watch_reports_finished_pod_as_deleted() {
    for phase in ["Succeeded", "Failed"] {
        let (api, kube, mut watch) = start_watch(api_with_web_pod()).await;
        api.set_pod_phase("shop", "web", phase);
        assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
        assert_eq!(kube.node_pods(NODE).await.unwrap().0, []);

        let metadata = json!({"namespace": "shop", "name": "web", "uid": "uid-1", "resourceVersion": "9"});
        let whole = json!({"metadata": metadata, "status": {"phase": phase}});
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": whole}));
        assert_eq!(first_event(&line).await.unwrap(), Some(deleted("web", "uid-1")));
    }
}

#[tokio::test]
async fn pod_watch_terminating_pod_is_not_deleted() {
    for api in [api_with_web_pod(), api_with_web_pod().full_pod_objects()] {
        let (api, kube, mut watch) = start_watch(api).await;
        api.begin_pod_deletion("shop", "web");
        assert_eq!(watch.next().await.unwrap(), Some(applied("web", "uid-1")));
        assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod_ref("web", "uid-1")]);
        assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Running { uid: "uid-1".to_owned() });
    }
}

#[tokio::test]
async fn pod_watch_distinguishes_same_name_by_uid() {
    let (api, kube, mut watch) = start_watch(api_with_web_pod()).await;
    api.replace_pod("shop", "web", "uid-2");
    assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
    assert_eq!(watch.next().await.unwrap(), Some(applied("web", "uid-2")));
    assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Running { uid: "uid-2".to_owned() });
}

#[tokio::test]
async fn pod_watch_resumes_after_its_end_without_loss() {
    let (api, kube, mut watch) = start_watch(api_with_web_pod()).await;
    api.add_pod(NODE, "shop", "job", "uid-2");
    api.end_watches();
    api.delete_pod("shop", "web");
    assert_eq!(watch.next().await.unwrap(), Some(applied("job", "uid-2")));
    assert_eq!(watch.next().await.unwrap(), None);
    assert_eq!(watch.next().await.unwrap(), None);

    let mut watch = kube.watch_node_pods(NODE, watch.version()).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
    assert_eq!(kube.request_count(), 3);
}

#[tokio::test]
async fn pod_watch_resumes_from_bookmark_after_compaction() {
    for api in [api_with_web_pod(), api_with_web_pod().full_pod_objects()] {
        let (api, kube, mut watch) = start_watch(api).await;
        let listed = watch.version().to_owned();
        api.compact_history(ExpirySignal::Response);
        api.send_bookmark();
        api.end_watches();
        assert_eq!(watch.next().await.unwrap(), None);

        api.delete_pod("shop", "web");
        let mut resumed = kube.watch_node_pods(NODE, watch.version()).await.unwrap();
        assert_eq!(resumed.next().await.unwrap(), Some(deleted("web", "uid-1")));
        let mut late = kube.watch_node_pods(NODE, &listed).await.unwrap();
        assert_eq!(late.next().await.unwrap(), Some(PodEvent::Expired));
    }
}

#[tokio::test]
async fn pod_watch_expired_version_is_one_expired_event() {
    for expiry in [ExpirySignal::Response, ExpirySignal::Event] {
        let (api, kube, open) = start_watch(api_with_web_pod()).await;
        api.compact_history(expiry);
        let mut watch = kube.watch_node_pods(NODE, open.version()).await.unwrap();
        assert_eq!(watch.next().await.unwrap(), Some(PodEvent::Expired), "{expiry:?}");
        assert_eq!((watch.next().await.unwrap(), watch.version()), (None, "1"));

        let (_, version) = kube.node_pods(NODE).await.unwrap();
        let mut watch = kube.watch_node_pods(NODE, &version).await.unwrap();
        api.delete_pod("shop", "web");
        assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
        api.expire_watches();
        assert_eq!(watch.next().await.unwrap(), Some(PodEvent::Expired));
        assert_eq!(watch.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn pod_watch_broken_connection_errors_then_resumes() {
    let (api, kube, mut watch) = start_watch(api_with_web_pod()).await;
    api.add_pod(NODE, "shop", "job", "uid-2");
    assert_eq!(watch.next().await.unwrap(), Some(applied("job", "uid-2")));
    api.drop_connections();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesApi);
    let shown = error.to_string().replace(&api.url(), "URL");
    assert!(
        shown.starts_with(&format!(
            "pods of node {NODE}: API server URL closed the watch connection unexpectedly (it said: "
        )),
        "{shown}"
    );
    assert_eq!(watch.next().await.unwrap(), None);

    let mut watch = kube.watch_node_pods(NODE, watch.version()).await.unwrap();
    api.delete_pod("shop", "web");
    assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
}

#[tokio::test]
async fn pod_watch_truncated_event_is_transient_error() {
    let line = event_line("DELETED", "9", "web", "uid-1");
    let error = first_event(line.trim_end()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("the end of an event is missing"), "{error}");
}

#[tokio::test]
async fn pod_watch_split_events_survive_cancelled_read() {
    let (api, _kube, mut watch) = start_watch(api_with_web_pod()).await;
    let (one, two) = (event_line("ADDED", "8", "a", "uid-a"), event_line("DELETED", "9", "b", "uid-b"));
    let (head, tail) = two.split_at(30);
    api.send_to_watches(&format!("{one}{one}{head}"));
    assert_eq!(watch.next().await.unwrap(), Some(applied("a", "uid-a")));
    assert_eq!(watch.next().await.unwrap(), Some(applied("a", "uid-a")));
    assert!(watch.next().now_or_never().is_none());
    assert_eq!(watch.version(), "8");
    api.send_to_watches(tail);
    assert_eq!(watch.next().await.unwrap(), Some(deleted("b", "uid-b")));
    assert_eq!(watch.version(), "9");
}

#[tokio::test]
async fn pod_watch_malformed_event_error_has_no_content() {
    let good = event_line("ADDED", "9", "hunter2", "uid-1");
    for line in [
        "\n".to_owned(),
        "<html>hunter2\n".to_owned(),
        "{}\n".to_owned(),
        "{\"type\":\"ADDED\",\"object\":\"hunter2\"}\n".to_owned(),
        good.replace("ADDED", "hunter2"),
        good.replace("uid-1", ""),
        good.replace("\"9\"", "\"\""),
    ] {
        let error = first_event(&line).await.unwrap_err();
        assert_eq!(error.cause(), Cause::KubernetesConfig, "{line}: {error}");
        let shown = error.to_string();
        assert!(shown.contains("sent an invalid watch event") && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn pod_watch_server_error_is_transient_and_quoted() {
    let status = json!({"kind": "Status", "code": 500, "message": "etcd is slow", "status": "Failure"});
    let error = first_event(&format!("{}\n", json!({"type": "ERROR", "object": status}))).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("(it said: etcd is slow)"), "{error}");
}

#[tokio::test]
async fn pods_forbidden_error_names_rbac_rule() {
    for verb in ["list", "watch", "get"] {
        let (api, kube) = start_with_client(api_with_web_pod().deny(verb, "pods")).await;
        let error = match verb {
            "list" => kube.node_pods(NODE).await.unwrap_err(),
            "watch" => kube.watch_node_pods(NODE, "1").await.unwrap_err(),
            _ => kube.pod("shop", "web").await.unwrap_err(),
        };
        assert_eq!(error.cause(), Cause::PodsForbidden);
        let (of, place) = match verb {
            "get" => ("pod shop/web".to_owned(), "in the namespace \"shop\""),
            _ => (format!("pods of node {NODE}"), "at the cluster scope"),
        };
        assert_eq!(
            error.to_string().replace(&api.url(), "URL"),
            format!(
                "{of}: API server URL answers 403 Forbidden (it said: pods is forbidden: User \
                 \"system:serviceaccount:csi:vaultmount\" cannot {verb} resource \"pods\" in API group \"\" {place}); \
                 grant our service account the rule {{apiGroups: [\"\"], resources: [pods], verbs: [get, list, watch]}} \
                 in a ClusterRole [VM0094]"
            )
        );
    }
}

#[tokio::test]
async fn pod_read_is_uncached_and_reports_phase() {
    let (api, kube) = start_with_client(api_with_web_pod().full_pod_objects()).await;
    let (running, finished) =
        (PodState::Running { uid: "uid-1".to_owned() }, PodState::Finished { uid: "uid-1".to_owned() });
    for (phase, expected) in
        [("Pending", &running), ("Running", &running), ("Succeeded", &finished), ("Failed", &finished)]
    {
        api.set_pod_phase("shop", "web", phase);
        assert_eq!(&kube.pod("shop", "web").await.unwrap(), expected, "{phase}");
    }
    api.delete_pod("shop", "web");
    assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Gone);

    let requests = &api.requests()[0];
    assert_eq!((requests.path.as_str(), requests.query.as_str()), ("/api/v1/namespaces/shop/pods/web", ""));
    assert_eq!((requests.accept.as_str(), kube.request_count()), ("application/json", 5));
}

#[tokio::test]
async fn pod_is_gone_only_on_api_server_not_found() {
    let status = |kind: &str, reason: &str, of: &str| {
        json!({"kind": kind, "reason": reason, "details": {"name": "web", "kind": of}, "code": 404}).to_string()
    };
    let read = |body: String| async {
        start_with_client(api_with_web_pod().fault(Fault::Respond(404, body))).await.1.pod("shop", "web").await
    };
    assert_eq!(read(status("Status", "NotFound", "pods")).await.unwrap(), PodState::Gone);
    for body in [
        String::new(),
        "<html>default backend - 404".to_owned(),
        "{}".to_owned(),
        status("Status", "NotFound", ""),
        status("Status", "NotFound", "namespaces"),
        status("Status", "Unknown", "pods"),
        status("Error", "NotFound", "pods"),
    ] {
        let error = read(body.clone()).await.unwrap_err();
        assert_eq!(error.cause(), Cause::KubernetesConfig, "{body}: {error}");
        assert!(error.to_string().contains("; check that the address is a Kubernetes API server"), "{error}");
    }
}

#[tokio::test]
async fn pod_read_other_responses_are_errors_not_gone() {
    for (code, body, cause) in [
        (200, "{}", Cause::KubernetesConfig),
        (200, r#"{"metadata":{"namespace":"shop","name":"web"}}"#, Cause::KubernetesConfig),
        (410, "", Cause::KubernetesApi),
        (503, "", Cause::KubernetesApi),
        (429, "", Cause::KubernetesApi),
        (401, "", Cause::KubernetesConfig),
    ] {
        let (_api, kube) = start_with_client(api_with_web_pod().fault(Fault::Respond(code, body.to_owned()))).await;
        let error = kube.pod("shop", "web").await.unwrap_err();
        assert_eq!(error.cause(), cause, "{code} {body}: {error}");
    }
}

#[tokio::test]
async fn stale_pod_list_is_corrected_by_watch_and_read() {
    let (api, kube) = start_with_client(api_with_web_pod()).await;
    api.serve_stale_lists(Some(1));
    api.delete_pod("shop", "web");
    api.add_pod(NODE, "shop", "job", "uid-2");
    let (pods, version) = kube.node_pods(NODE).await.unwrap();
    assert_eq!(pods, [pod_ref("web", "uid-1")]);
    assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Gone);
    let mut watch = kube.watch_node_pods(NODE, &version).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
    assert_eq!(watch.next().await.unwrap(), Some(applied("job", "uid-2")));
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod_ref("job", "uid-2")]);

    api.serve_stale_lists(None);
    api.delete_pod("shop", "job");
    for _ in 0..2 {
        assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod_ref("job", "uid-2")]);
    }
    api.serve_fresh_lists();
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, []);
}

#[tokio::test]
async fn fake_api_paused_responds_after_resume() {
    let (api, kube, mut watch) = start_watch(api_with_web_pod()).await;
    let kube = Arc::new(kube);
    api.pause();
    let listing = Arc::clone(&kube);
    let listing = tokio::spawn(async move { listing.node_pods(NODE).await });
    api.wait_until(|api| api.requests().len() == 3).await;
    api.delete_pod("shop", "web");
    assert!(watch.next().now_or_never().is_none() && !listing.is_finished());
    api.resume();
    assert_eq!(listing.await.unwrap().unwrap().0, []);
    assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));
}

#[tokio::test]
async fn pod_watch_dropped_closes_connection() {
    let (api, _kube, watch) = start_watch(api_with_web_pod()).await;
    assert_eq!(api.open_watches(), 1);
    drop(watch);
    api.wait_until(|api| api.open_watches() == 0).await;
}

#[tokio::test]
async fn pods_with_large_annotations_are_listed_and_watched() {
    let (api, kube, mut watch) = start_watch(api_with_web_pod()).await;
    let large = "x".repeat(2 << 20);
    api.annotate_pod("shop", "web", &large);
    assert_eq!(watch.next().await.unwrap(), Some(applied("web", "uid-1")));
    assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Running { uid: "uid-1".to_owned() });
    for n in 0..9 {
        let name = format!("web-{n}");
        api.add_pod(NODE, "shop", &name, "uid");
        api.annotate_pod("shop", &name, &large);
    }
    assert_eq!(kube.node_pods(NODE).await.unwrap().0.len(), 10);
}

#[tokio::test]
async fn pod_responses_over_size_limit_are_rejected() {
    let error = first_event(&" ".repeat((4 << 20) + 1)).await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    assert!(error.to_string().contains("sent a watch event of more than 4 MiB, limit exceeded; check that"), "{error}");

    let answers = |mebibytes: usize| Fault::Respond(200, " ".repeat((mebibytes << 20) + 1));
    let (_api, kube) = start_with_client(api_with_web_pod().fault(answers(32)).fault(answers(4))).await;
    let list = kube.node_pods(NODE).await.unwrap_err().to_string();
    assert!(list.contains("sent a response of more than 32 MiB, limit exceeded; check that"), "{list}");
    let read = kube.pod("shop", "web").await.unwrap_err().to_string();
    assert!(read.contains("sent a response of more than 4 MiB, limit exceeded; check that"), "{read}");
}

#[tokio::test(start_paused = true)]
async fn pod_watch_start_times_out_after_10s() {
    let (_api, kube) = start_with_client(api_with_web_pod().fault(Fault::Hang)).await;
    let start = Instant::now();
    let error = kube.watch_node_pods(NODE, "1").await.unwrap_err();
    assert_eq!((start.elapsed().as_secs(), error.cause()), (10, Cause::KubernetesApi));
    assert!(error.to_string().contains("timed out after 10 s"), "{error}");
}

#[tokio::test]
async fn pod_watch_idle_timeout_is_its_timeout_plus_30s() {
    let (api, _kube, mut watch) = start_watch(api_with_web_pod()).await;
    let lasting: u64 = api.requests()[1].query_parameters()["timeoutSeconds"].parse().unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(lasting)).await;
    tokio::time::resume();
    api.delete_pod("shop", "web");
    assert_eq!(watch.next().await.unwrap(), Some(deleted("web", "uid-1")));

    tokio::time::pause();
    let heard = Instant::now();
    let error = watch.next().await.unwrap_err();
    assert_eq!(heard.elapsed().as_secs(), lasting + 30);
    assert_eq!(error.cause(), Cause::KubernetesApi);
    assert!(error.to_string().contains(&format!("sent no data on the watch for {} s", lasting + 30)), "{error}");
}

#[tokio::test]
async fn pod_watch_401_reloads_token_file() {
    let api = api_with_web_pod().require_bearer("new").start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("token"), "old").unwrap();
    let kubeconfig = api.kubeconfig("csi", "").replace(r#""token":"""#, r#""tokenFile":"token""#);
    fs::write(file("config"), kubeconfig).unwrap();
    let kube = Config::from_env(Some(file("config"))).build(Arc::default()).unwrap().unwrap();

    let error = kube.watch_node_pods(NODE, "1").await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    assert!(error.to_string().contains("; check the service account token or the kubeconfig's user"), "{error}");
    fs::write(file("token"), "new").unwrap();
    kube.watch_node_pods(NODE, "1").await.unwrap();
}

#[tokio::test]
async fn pods_connection_refused_is_transient() {
    let api = api_with_web_pod().start().await;
    let unreachable = build_client(&api.kubeconfig("csi", "").replace(&api.url(), "http://127.0.0.1:1")).unwrap();
    let errors = [
        unreachable.node_pods(NODE).await.unwrap_err(),
        unreachable.watch_node_pods(NODE, "1").await.unwrap_err(),
        unreachable.pod("shop", "web").await.unwrap_err(),
    ];
    assert!(errors.iter().all(|e| e.is_transient() && e.to_string().contains("Connection refused")), "{errors:?}");
    assert_eq!(unreachable.request_count(), 3);
}

#[tokio::test]
async fn pods_invalid_name_sends_no_request() {
    let (_api, kube) = start_with_client(api_with_web_pod()).await;
    for bad in ["", "..", "a/b", "a?b", "a&b", "a,b", "a=b", "a%2fb", "Node", "a b"] {
        let errors = [
            kube.node_pods(bad).await.unwrap_err(),
            kube.watch_node_pods(bad, "1").await.unwrap_err(),
            kube.pod(bad, "web").await.unwrap_err(),
            kube.pod("shop", bad).await.unwrap_err(),
        ];
        assert!(errors.iter().all(|e| e.cause() == Cause::InvalidRequest), "{bad}: {errors:?}");
    }
    assert_eq!(kube.request_count(), 0);
}

#[tokio::test]
async fn pod_watch_resource_version_is_url_encoded() {
    let (api, kube) = start_with_client(api_with_web_pod()).await;
    kube.watch_node_pods(NODE, "1&watch=false #+").await.unwrap_err();
    assert_eq!(api.requests()[0].query_parameters()["resourceVersion"], "1&watch=false #+");
}
