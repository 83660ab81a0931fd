//! The pods of a node.

use std::{fs, sync::Arc};

use futures_util::FutureExt;
use serde_json::json;
use tokio::time::{Duration, Instant};
use vaultmount::{
    error::{Cause, Error},
    kube::{Config, Kube, PodEvent, PodRef, PodState, PodWatch},
};

use crate::{
    build,
    kube_api::{Builder, Fault, KubeApi, pods::Expiry},
    started,
};

const NODE: &str = "node-a.example";

fn pod(name: &str, uid: &str) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: name.to_owned(), uid: uid.to_owned() }
}

fn there(name: &str, uid: &str) -> PodEvent {
    PodEvent::There(pod(name, uid))
}

fn left(name: &str, uid: &str) -> PodEvent {
    PodEvent::Left(pod(name, uid))
}

fn web() -> Builder {
    KubeApi::builder().node_pod(NODE, "shop", "web", "uid-1")
}

/// A server, and a watch of the node from the list of now.
async fn watching(api: Builder) -> (KubeApi, Kube, PodWatch) {
    let (api, kube) = started(api).await;
    let (_, version) = kube.node_pods(NODE).await.unwrap();
    let watch = kube.watch_node_pods(NODE, &version).await.unwrap();
    (api, kube, watch)
}

/// An event as the server would write it.
fn event(kind: &str, version: &str, name: &str, uid: &str) -> String {
    let metadata = json!({"namespace": "shop", "name": name, "uid": uid, "resourceVersion": version});
    format!("{}\n", json!({"type": kind, "object": {"metadata": metadata}}))
}

/// What the first event is when the server sends this.
async fn told(text: &str) -> Result<Option<PodEvent>, Error> {
    let (api, _kube, mut watch) = watching(web()).await;
    api.send_to_watches(text);
    api.end_watches();
    watch.next().await
}

#[tokio::test]
async fn are_listed_with_a_version_to_watch_from() {
    let api = web()
        .node_pod(NODE, "bank", "web", "uid-2")
        .node_pod("node-b", "shop", "other", "uid-3")
        .pod("shop", "bound", "uid-4");
    let (api, kube) = started(api).await;
    let (pods, version) = kube.node_pods(NODE).await.unwrap();
    assert_eq!(pods, [PodRef { namespace: "bank".to_owned(), ..pod("web", "uid-2") }, pod("web", "uid-1")]);
    assert_eq!(version, "4");

    let seen = &api.seen()[0];
    assert_eq!((seen.path.as_str(), seen.bearer.as_deref()), ("/api/v1/pods", Some("t0ken")));
    let selector = format!("spec.nodeName={NODE},status.phase!=Succeeded,status.phase!=Failed");
    let asked = [("fieldSelector", selector.as_str()), ("limit", "50")];
    assert_eq!(seen.parameters(), asked.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    assert_eq!(seen.accept, metadata);
}

#[tokio::test]
async fn are_listed_in_pages_of_one_version() {
    let names: Vec<_> = (100..220).map(|n| format!("web-{n}")).collect();
    let api =
        names.iter().fold(KubeApi::builder(), |api, name| api.node_pod(NODE, "shop", name, &format!("of-{name}")));
    let (_api, kube) = started(api).await;
    let (pods, version) = kube.node_pods(NODE).await.unwrap();
    let expected: Vec<_> = names.iter().map(|name| pod(name, &format!("of-{name}"))).collect();
    assert_eq!((pods, version.as_str(), kube.requests()), (expected, "120", 3));

    let page = |version: &str, from: &str| {
        let metadata = json!({"resourceVersion": version, "continue": from});
        Fault::Answer(200, json!({"metadata": metadata, "items": []}).to_string())
    };
    let (api, kube) = started(KubeApi::builder().fault(page("7", "a+b&c=")).fault(page("9", ""))).await;
    assert_eq!(kube.node_pods(NODE).await.unwrap(), (vec![], "7".to_owned()));
    assert_eq!(api.seen()[1].parameters()["continue"], "a+b&c=");
}

#[tokio::test]
async fn a_list_whose_rest_is_forgotten_may_be_begun_anew() {
    let first = json!({"metadata": {"resourceVersion": "1", "continue": "MT8x"}, "items": []}).to_string();
    let (_api, kube) = started(web().fault(Fault::Answer(200, first))).await;
    let error = kube.node_pods(NODE).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("answers 410 Gone (it said: The provided"), "{error}");
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod("web", "uid-1")]);
}

#[tokio::test]
async fn that_are_finished_are_not_listed_even_if_the_server_tells_of_them() {
    let of_phase = |name: &str, phase: &str| {
        let metadata = json!({"namespace": "shop", "name": name, "uid": format!("of-{name}")});
        json!({"metadata": metadata, "spec": {"nodeName": NODE}, "status": {"phase": phase}})
    };
    let items = [of_phase("a", "Succeeded"), of_phase("b", "Pending"), of_phase("c", "Failed")];
    let list = json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string();
    let (_api, kube) = started(KubeApi::builder().fault(Fault::Answer(200, list))).await;
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod("b", "of-b")]);
}

#[tokio::test]
async fn a_list_that_is_none_is_no_empty_list() {
    let list = |text: &str| {
        let api = KubeApi::builder().fault(Fault::Answer(200, text.to_owned()));
        async { started(api).await.1.node_pods(NODE).await }
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
async fn are_told_to_come_change_and_go() {
    for api in [web(), web().whole_pods(), web().event_pieces(1)] {
        let (api, _kube, mut watch) = watching(api).await;
        api.add_pod(NODE, "shop", "job", "uid-2");
        api.add_pod("node-b", "shop", "other", "uid-3");
        assert_eq!(watch.next().await.unwrap(), Some(there("job", "uid-2")));
        api.annotate_pod("shop", "job", "größer");
        assert_eq!(watch.next().await.unwrap(), Some(there("job", "uid-2")));
        api.delete_pod("shop", "other");
        api.delete_pod("shop", "web");
        assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
        assert_eq!(watch.version(), "6");

        let seen = &api.seen()[1];
        assert_eq!(seen.accept, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");
        assert_eq!(seen.parameters()["resourceVersion"], "1");
    }
}

#[tokio::test]
async fn leave_when_they_finish() {
    for phase in ["Succeeded", "Failed"] {
        let (api, kube, mut watch) = watching(web()).await;
        api.set_pod_phase("shop", "web", phase);
        assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
        assert_eq!(kube.node_pods(NODE).await.unwrap().0, []);

        let metadata = json!({"namespace": "shop", "name": "web", "uid": "uid-1", "resourceVersion": "9"});
        let whole = json!({"metadata": metadata, "status": {"phase": phase}});
        let line = format!("{}\n", json!({"type": "MODIFIED", "object": whole}));
        assert_eq!(told(&line).await.unwrap(), Some(left("web", "uid-1")));
    }
}

#[tokio::test]
async fn do_not_leave_when_their_deletion_begins() {
    for api in [web(), web().whole_pods()] {
        let (api, kube, mut watch) = watching(api).await;
        api.begin_pod_deletion("shop", "web");
        assert_eq!(watch.next().await.unwrap(), Some(there("web", "uid-1")));
        assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod("web", "uid-1")]);
        assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Running { uid: "uid-1".to_owned() });
    }
}

#[tokio::test]
async fn of_one_name_are_told_apart() {
    let (api, kube, mut watch) = watching(web()).await;
    api.replace_pod("shop", "web", "uid-2");
    assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
    assert_eq!(watch.next().await.unwrap(), Some(there("web", "uid-2")));
    assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Running { uid: "uid-2".to_owned() });
}

#[tokio::test]
async fn a_watch_that_ends_is_gone_on_with_and_misses_nothing() {
    let (api, kube, mut watch) = watching(web()).await;
    api.add_pod(NODE, "shop", "job", "uid-2");
    api.end_watches();
    api.delete_pod("shop", "web");
    assert_eq!(watch.next().await.unwrap(), Some(there("job", "uid-2")));
    assert_eq!(watch.next().await.unwrap(), None);
    assert_eq!(watch.next().await.unwrap(), None);

    let mut watch = kube.watch_node_pods(NODE, watch.version()).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
    assert_eq!(kube.requests(), 3);
}

#[tokio::test]
async fn a_bookmark_is_gone_on_from_after_what_was_before_is_forgotten() {
    for api in [web(), web().whole_pods()] {
        let (api, kube, mut watch) = watching(api).await;
        let listed = watch.version().to_owned();
        api.forget_history(Expiry::Answer);
        api.send_bookmark();
        api.end_watches();
        assert_eq!(watch.next().await.unwrap(), None);

        api.delete_pod("shop", "web");
        let mut resumed = kube.watch_node_pods(NODE, watch.version()).await.unwrap();
        assert_eq!(resumed.next().await.unwrap(), Some(left("web", "uid-1")));
        let mut late = kube.watch_node_pods(NODE, &listed).await.unwrap();
        assert_eq!(late.next().await.unwrap(), Some(PodEvent::Expired));
    }
}

#[tokio::test]
async fn history_that_is_lost_is_one_event_however_it_is_told() {
    for expiry in [Expiry::Answer, Expiry::Event] {
        let (api, kube, open) = watching(web()).await;
        api.forget_history(expiry);
        let mut watch = kube.watch_node_pods(NODE, open.version()).await.unwrap();
        assert_eq!(watch.next().await.unwrap(), Some(PodEvent::Expired), "{expiry:?}");
        assert_eq!((watch.next().await.unwrap(), watch.version()), (None, "1"));

        let (_, version) = kube.node_pods(NODE).await.unwrap();
        let mut watch = kube.watch_node_pods(NODE, &version).await.unwrap();
        api.delete_pod("shop", "web");
        assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
        api.expire_watches();
        assert_eq!(watch.next().await.unwrap(), Some(PodEvent::Expired));
        assert_eq!(watch.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_watch_whose_connection_breaks_fails_and_is_gone_on_with() {
    let (api, kube, mut watch) = watching(web()).await;
    api.add_pod(NODE, "shop", "job", "uid-2");
    assert_eq!(watch.next().await.unwrap(), Some(there("job", "uid-2")));
    api.drop_connections();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesApi);
    let shown = error.to_string().replace(&api.url(), "URL");
    assert!(
        shown.starts_with(&format!("pods of node {NODE}: API server URL cuts off the watch (it said: ")),
        "{shown}"
    );
    assert_eq!(watch.next().await.unwrap(), None);

    let mut watch = kube.watch_node_pods(NODE, watch.version()).await.unwrap();
    api.delete_pod("shop", "web");
    assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
}

#[tokio::test]
async fn an_event_without_its_end_is_a_broken_connection() {
    let line = event("DELETED", "9", "web", "uid-1");
    let error = told(line.trim_end()).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("the end of an event is missing"), "{error}");
}

#[tokio::test]
async fn events_may_come_in_pieces_and_their_reader_may_look_away() {
    let (api, _kube, mut watch) = watching(web()).await;
    let (one, two) = (event("ADDED", "8", "a", "uid-a"), event("DELETED", "9", "b", "uid-b"));
    let (head, tail) = two.split_at(30);
    api.send_to_watches(&format!("{one}{one}{head}"));
    assert_eq!(watch.next().await.unwrap(), Some(there("a", "uid-a")));
    assert_eq!(watch.next().await.unwrap(), Some(there("a", "uid-a")));
    assert!(watch.next().now_or_never().is_none());
    assert_eq!(watch.version(), "8");
    api.send_to_watches(tail);
    assert_eq!(watch.next().await.unwrap(), Some(left("b", "uid-b")));
    assert_eq!(watch.version(), "9");
}

#[tokio::test]
async fn what_is_no_event_is_an_error_that_repeats_none_of_it() {
    let good = event("ADDED", "9", "hunter2", "uid-1");
    for line in [
        "\n".to_owned(),
        "<html>hunter2\n".to_owned(),
        "{}\n".to_owned(),
        "{\"type\":\"ADDED\",\"object\":\"hunter2\"}\n".to_owned(),
        good.replace("ADDED", "hunter2"),
        good.replace("uid-1", ""),
        good.replace("\"9\"", "\"\""),
    ] {
        let error = told(&line).await.unwrap_err();
        assert_eq!(error.cause(), Cause::KubernetesConfig, "{line}: {error}");
        let shown = error.to_string();
        assert!(shown.contains("tells in the watch what is no event") && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn another_error_of_the_server_is_in_its_words_and_passes() {
    let status = json!({"kind": "Status", "code": 500, "message": "etcd is slow", "status": "Failure"});
    let error = told(&format!("{}\n", json!({"type": "ERROR", "object": status}))).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("(it said: etcd is slow)"), "{error}");
}

#[tokio::test]
async fn denied_names_the_rule_to_grant() {
    for verb in ["list", "watch", "get"] {
        let (api, kube) = started(web().deny(verb, "pods")).await;
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
async fn one_is_read_from_storage() {
    let (api, kube) = started(web().whole_pods()).await;
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

    let seen = &api.seen()[0];
    assert_eq!((seen.path.as_str(), seen.query.as_str()), ("/api/v1/namespaces/shop/pods/web", ""));
    assert_eq!((seen.accept.as_str(), kube.requests()), ("application/json", 5));
}

#[tokio::test]
async fn one_is_gone_only_when_the_api_server_itself_says_so() {
    let status = |kind: &str, reason: &str, of: &str| {
        json!({"kind": kind, "reason": reason, "details": {"name": "web", "kind": of}, "code": 404}).to_string()
    };
    let read = |body: String| async { started(web().fault(Fault::Answer(404, body))).await.1.pod("shop", "web").await };
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
async fn one_is_not_gone_when_the_answer_is_something_else() {
    for (code, body, cause) in [
        (200, "{}", Cause::KubernetesConfig),
        (200, r#"{"metadata":{"namespace":"shop","name":"web"}}"#, Cause::KubernetesConfig),
        (410, "", Cause::KubernetesApi),
        (503, "", Cause::KubernetesApi),
        (429, "", Cause::KubernetesApi),
        (401, "", Cause::KubernetesConfig),
    ] {
        let (_api, kube) = started(web().fault(Fault::Answer(code, body.to_owned()))).await;
        let error = kube.pod("shop", "web").await.unwrap_err();
        assert_eq!(error.cause(), cause, "{code} {body}: {error}");
    }
}

#[tokio::test]
async fn a_list_that_is_behind_is_caught_up_with_by_its_watch_and_by_a_read() {
    let (api, kube) = started(web()).await;
    api.stale_lists(Some(1));
    api.delete_pod("shop", "web");
    api.add_pod(NODE, "shop", "job", "uid-2");
    let (pods, version) = kube.node_pods(NODE).await.unwrap();
    assert_eq!(pods, [pod("web", "uid-1")]);
    assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Gone);
    let mut watch = kube.watch_node_pods(NODE, &version).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
    assert_eq!(watch.next().await.unwrap(), Some(there("job", "uid-2")));
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod("job", "uid-2")]);

    api.stale_lists(None);
    api.delete_pod("shop", "job");
    for _ in 0..2 {
        assert_eq!(kube.node_pods(NODE).await.unwrap().0, [pod("job", "uid-2")]);
    }
    api.fresh_lists();
    assert_eq!(kube.node_pods(NODE).await.unwrap().0, []);
}

#[tokio::test]
async fn a_server_that_is_held_answers_and_tells_when_it_is_released() {
    let (api, kube, mut watch) = watching(web()).await;
    let kube = Arc::new(kube);
    api.hold();
    let listing = Arc::clone(&kube);
    let listing = tokio::spawn(async move { listing.node_pods(NODE).await });
    api.until(|api| api.seen().len() == 3).await;
    api.delete_pod("shop", "web");
    assert!(watch.next().now_or_never().is_none() && !listing.is_finished());
    api.release();
    assert_eq!(listing.await.unwrap().unwrap().0, []);
    assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));
}

#[tokio::test]
async fn a_watch_that_is_dropped_is_closed() {
    let (api, _kube, watch) = watching(web()).await;
    assert_eq!(api.watches(), 1);
    drop(watch);
    api.until(|api| api.watches() == 0).await;
}

#[tokio::test]
async fn large_annotations_are_no_obstacle() {
    let (api, kube, mut watch) = watching(web()).await;
    let large = "x".repeat(2 << 20);
    api.annotate_pod("shop", "web", &large);
    assert_eq!(watch.next().await.unwrap(), Some(there("web", "uid-1")));
    assert_eq!(kube.pod("shop", "web").await.unwrap(), PodState::Running { uid: "uid-1".to_owned() });
    for n in 0..9 {
        let name = format!("web-{n}");
        api.add_pod(NODE, "shop", &name, "uid");
        api.annotate_pod("shop", &name, &large);
    }
    assert_eq!(kube.node_pods(NODE).await.unwrap().0.len(), 10);
}

#[tokio::test]
async fn more_than_fits_is_refused() {
    let error = told(&" ".repeat((4 << 20) + 1)).await.unwrap_err();
    assert_eq!(error.cause(), Cause::KubernetesConfig);
    assert!(error.to_string().contains("tells of a pod in more than 4 MiB; check that"), "{error}");

    let answers = |mebibytes: usize| Fault::Answer(200, " ".repeat((mebibytes << 20) + 1));
    let (_api, kube) = started(web().fault(answers(32)).fault(answers(4))).await;
    let list = kube.node_pods(NODE).await.unwrap_err().to_string();
    assert!(list.contains("answers with more than 32 MiB; check that"), "{list}");
    let read = kube.pod("shop", "web").await.unwrap_err().to_string();
    assert!(read.contains("answers with more than 4 MiB; check that"), "{read}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_does_not_begin_ends_after_ten_seconds() {
    let (_api, kube) = started(web().fault(Fault::Silence)).await;
    let start = Instant::now();
    let error = kube.watch_node_pods(NODE, "1").await.unwrap_err();
    assert_eq!((start.elapsed().as_secs(), error.cause()), (10, Cause::KubernetesApi));
    assert!(error.to_string().contains("does not answer within 10 s"), "{error}");
}

#[tokio::test]
async fn a_watch_may_be_silent_for_its_time_and_a_little_more() {
    let (api, _kube, mut watch) = watching(web()).await;
    let lasting: u64 = api.seen()[1].parameters()["timeoutSeconds"].parse().unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(lasting)).await;
    tokio::time::resume();
    api.delete_pod("shop", "web");
    assert_eq!(watch.next().await.unwrap(), Some(left("web", "uid-1")));

    tokio::time::pause();
    let heard = Instant::now();
    let error = watch.next().await.unwrap_err();
    assert_eq!(heard.elapsed().as_secs(), lasting + 30);
    assert_eq!(error.cause(), Cause::KubernetesApi);
    assert!(error.to_string().contains(&format!("is silent in the watch for {} s", lasting + 30)), "{error}");
}

#[tokio::test]
async fn a_watch_with_a_refused_token_reads_the_file_again() {
    let api = web().bearer("new").start().await;
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
async fn of_nobody_who_answers_say_so() {
    let api = web().start().await;
    let nobody = build(&api.kubeconfig("csi", "").replace(&api.url(), "http://127.0.0.1:1")).unwrap();
    let errors = [
        nobody.node_pods(NODE).await.unwrap_err(),
        nobody.watch_node_pods(NODE, "1").await.unwrap_err(),
        nobody.pod("shop", "web").await.unwrap_err(),
    ];
    assert!(errors.iter().all(|e| e.is_passing() && e.to_string().contains("Connection refused")), "{errors:?}");
    assert_eq!(nobody.requests(), 3);
}

#[tokio::test]
async fn what_is_no_name_enters_no_path() {
    let (_api, kube) = started(web()).await;
    for bad in ["", "..", "a/b", "a?b", "a&b", "a,b", "a=b", "a%2fb", "Node", "a b"] {
        let errors = [
            kube.node_pods(bad).await.unwrap_err(),
            kube.watch_node_pods(bad, "1").await.unwrap_err(),
            kube.pod(bad, "web").await.unwrap_err(),
            kube.pod("shop", bad).await.unwrap_err(),
        ];
        assert!(errors.iter().all(|e| e.cause() == Cause::InvalidRequest), "{bad}: {errors:?}");
    }
    assert_eq!(kube.requests(), 0);
}

#[tokio::test]
async fn a_version_is_one_parameter_whatever_is_in_it() {
    let (api, kube) = started(web()).await;
    kube.watch_node_pods(NODE, "1&watch=false #+").await.unwrap_err();
    assert_eq!(api.seen()[0].parameters()["resourceVersion"], "1&watch=false #+");
}
