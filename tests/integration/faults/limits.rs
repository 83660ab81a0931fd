//! How many requests there are, and how many at once.

use std::{pin::pin, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use vaultmount::{error::Cause, provider::client::Client};

use super::{SECRET, Stage, each, leap, only, reader, tenant};
use crate::operating::{free, get};
use crate::support::{
    bao::Tenant,
    clock::REFRESH,
    daemon::Daemon,
    database::Database,
    faulty::{Fault, Faulty, Gate, answer, status},
    pod::Pod,
};

/// A class of as many objects, each from the path that `path` gives it.
fn objects(count: usize, path: impl Fn(usize) -> String) -> String {
    let object = |i| format!("- {{objectName: o{i}, secretPath: {}, secretKey: pass}}", path(i));
    (0..count).map(object).collect::<Vec<_>>().join("\n")
}

/// The same of another Kubernetes namespace.
fn reader_of(tenant: &Tenant, namespace: &str) -> Pod {
    let mut pod = reader(tenant);
    namespace.clone_into(&mut pod.namespace);
    let token = pod.token("vault", 600);
    pod.pass(&[("vault", &token)])
}

#[tokio::test]
async fn equal_requests_are_sent_once() {
    let stage = Stage::new().await;
    let pod = stage.pod().objects(objects(10, |_| stage.secret()));
    assert_eq!(stage.daemon.mount(pod.call()).await.unwrap().files.len(), 10);
    assert_eq!((stage.vault.count("POST", &stage.login()), stage.vault.count("GET", &stage.secret())), (1, 1));
    // Calls of one pod at the same time share the login, and the read of what has become old.
    leap(REFRESH).await;
    let calls = join_all((0..3).map(|_| stage.daemon.mount(pod.call()))).await;
    assert!(calls.into_iter().all(|m| m.unwrap().files.len() == 10));
    assert_eq!((stage.vault.count("POST", &stage.login()), stage.vault.count("GET", &stage.secret())), (1, 2));
    // What is fresh is not read at all.
    leap(REFRESH / 2).await;
    assert_eq!(stage.daemon.mount(pod.call()).await.unwrap().files.len(), 10);
    assert_eq!(stage.vault.count("GET", &stage.secret()), 2);
}

#[tokio::test]
async fn what_is_refused_is_asked_for_once_in_a_mount() {
    let stage = Stage::new().await;
    let kv = &stage.tenant.kv;
    let pod = stage.pod();
    stage.daemon.mount(pod.call()).await.unwrap();
    // The other secret is good, and not to blame.
    let more = objects(2, |i| format!("{kv}/data/{}", ["db", "none"][i]));
    assert_eq!(stage.refusal(&pod.clone().objects(more)).await.0, Cause::SecretMissing);
    let asked = |name| stage.vault.count("GET", &format!("{kv}/data/{name}"));
    assert_eq!((asked("none"), asked("db")), (1, 1));
    // A key that is missing is looked for once, in what Vault has by now.
    let more = objects(2, |_| stage.secret()).replacen("pass", "new", 1);
    assert_eq!(stage.refusal(&pod.clone().objects(more.clone())).await.0, Cause::KeyMissing);
    assert_eq!(asked("db"), 2);
    stage.tenant.put("db", json!({"pass": SECRET, "new": "n"})).await;
    assert_eq!(stage.daemon.mount(pod.objects(more).call()).await.unwrap().files.len(), 2);
    assert_eq!(asked("db"), 3);
}

#[tokio::test]
async fn different_requests_are_sent_side_by_side_up_to_the_limit_of_an_endpoint() {
    let stage = Stage::new().await;
    let kv = stage.tenant.kv.clone();
    for i in 0..30 {
        stage.tenant.put(&format!("side/{i}"), json!({"pass": i.to_string()})).await;
    }
    let gate = Gate::new();
    stage.vault.every("GET", &format!("{kv}/data/side/"), Fault::Hold(gate.clone()));
    let pod = stage.pod().objects(objects(30, |i| format!("{kv}/data/side/{i}")));
    let held = async {
        stage.vault.saw(16, "GET", &kv).await;
        stage.settle().await;
        gate.open();
    };
    let (mounted, ()) = tokio::join!(stage.daemon.mount(pod.call()), held);
    let contents: Vec<_> =
        mounted.unwrap().files.into_iter().map(|f| String::from_utf8(f.contents.to_vec()).unwrap()).collect();
    assert_eq!(contents, (0..30).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!((stage.vault.count("GET", &kv), stage.vault.peak(&kv)), (30, 16));
}

#[tokio::test]
async fn few_requests_that_create_are_sent_to_one_engine_at_once_and_plain_reads_pass_them() {
    let stage = Stage::new().await;
    let database = Database::of(&stage.tenant).await;
    let object = format!("- {{objectName: user, secretPath: {}, secretKey: username}}", database.path);
    let gate = Gate::new();
    stage.vault.every("GET", &database.path, Fault::Hold(gate.clone()));
    let calls = join_all((0..12).map(|_| stage.daemon.mount(Pod::of(&stage.tenant).objects(&object).call())));
    let held = async {
        stage.vault.saw(4, "GET", &database.path).await;
        assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
        stage.settle().await;
        gate.open();
    };
    let (mounted, ()) = tokio::join!(calls, held);
    let mut users: Vec<_> = mounted.into_iter().map(|m| only(&m.unwrap()).to_owned()).collect();
    users.sort();
    assert_eq!(database.users().await, users);
    assert_eq!((users.len(), stage.vault.peak(&database.path)), (12, 4));
}

#[tokio::test]
async fn names_are_listed_only_near_what_is_missing_and_must_be_there() {
    let stage = Stage::new().await;
    let kv = &stage.tenant.kv;
    let missing = objects(6, |i| format!("{kv}/data/none/{i}"));
    let optional = missing.replace('}', ", optional: true}");
    let lists = || stage.vault.count("LIST", "");
    for class in [stage.pod(), stage.pod().objects(optional)] {
        stage.daemon.mount(class.call()).await.unwrap();
        assert_eq!(lists(), 0);
    }
    let (cause, text) = stage.refusal(&stage.pod().objects(missing)).await;
    // Three of the paths, each with the folder that is not there and the one above.
    assert_eq!((cause, lists(), text.matches("no folder").count()), (Cause::SecretMissing, 6, 3), "{text}");
}

#[tokio::test]
async fn an_engine_is_asked_for_once_in_a_while() {
    let stage = Stage::new().await;
    let asked = || stage.vault.count("GET", &format!("sys/internal/ui/mounts/{}", stage.tenant.kv));
    let mounted = join_all((0..12).map(|_| stage.daemon.mount(stage.pod().call()))).await;
    assert!(mounted.iter().all(Result::is_ok));
    assert_eq!((asked(), stage.vault.count("GET", &stage.secret())), (1, 12));
    leap(Duration::from_secs(590)).await;
    stage.daemon.mount(stage.pod().call()).await.unwrap();
    assert_eq!(asked(), 1);
    leap(Duration::from_secs(20)).await;
    stage.daemon.mount(stage.pod().call()).await.unwrap();
    assert_eq!(asked(), 2);
}

#[tokio::test]
async fn an_engine_that_is_not_told_is_not_asked_for_at_each_read() {
    let refusals =
        [status(403, "permission denied"), answer(403, &[], "<html>not from here</html>"), answer(200, &[], "{}")];
    each(refusals, async |stage, refusal| {
        stage.vault.every("GET", "sys/", refusal);
        for _ in 0..3 {
            assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
        }
        assert_eq!(stage.vault.count("GET", "sys/internal/"), 1);
    })
    .await;
}

#[tokio::test]
async fn mounts_beyond_the_limit_are_refused_at_once_and_one_namespace_leaves_places_for_others() {
    let (tenant, vault) = (tenant().await, Faulty::start().await);
    let daemon = Daemon::at(&vault.address, &["--max-mounts=4"]).await;
    let polled = reader(&tenant);
    daemon.mount(polled.call()).await.unwrap();
    let gate = Gate::new();
    vault.every("POST", "auth/", Fault::Hold(gate.clone()));
    let of = |namespace: &str| reader_of(&tenant, namespace);
    let mount = async |namespace: &str| {
        assert_eq!(only(&daemon.mount(of(namespace).call()).await.unwrap()), SECRET, "{namespace}");
    };
    let full = async {
        vault.saw(1 + 4, "POST", "auth/").await;
        daemon.refuses(&of("fourth"), Cause::Overloaded, &["4 mounts are under way on this node"]).await;
        // What needs none of it goes on.
        assert_eq!(only(&daemon.mount(polled.call()).await.unwrap()), SECRET);
        Client::connect(&daemon.socket).await.unwrap().version().await.unwrap();
        gate.open();
    };
    let others = async {
        vault.saw(1 + 2, "POST", "auth/").await;
        daemon.refuses(&of("shop"), Cause::Overloaded, &["2 mounts of namespace shop", "--max-mounts"]).await;
        tokio::join!(mount("other"), mount("third"), full);
    };
    tokio::join!(mount("shop"), mount("shop"), others);
    mount("shop").await;
}

/// One pod whose classes choose ever other settings, or name ever other roles, takes no other namespace's place.
#[tokio::test]
async fn endpoints_and_sessions_of_one_namespace_leave_places_for_others() {
    let tenant = tenant().await;
    let daemon = Daemon::start(&["--max-sessions=6"]).await;
    let of = |namespace: &str| reader_of(&tenant, namespace);
    let shop = of("shop");
    let choosing = |n: usize| shop.clone().with("vaultTLSServerName", format!("vault-{n}"));
    // What never came to anything takes no place from anyone for long.
    for n in 0..300 {
        daemon.refuses(&choosing(n).with("roleName", "nobody"), Cause::RoleMissing, &[]).await;
    }
    for n in 0..3 {
        daemon.mount(choosing(n).call()).await.unwrap();
    }
    daemon.refuses(&shop, Cause::Overloaded, &["3 sessions of namespace shop", "--max-sessions"]).await;
    for namespace in ["other", "third", "fourth"] {
        daemon.mount(of(namespace).call()).await.unwrap();
    }
    daemon.refuses(&of("fifth"), Cause::Overloaded, &["6 sessions are open"]).await;
    daemon.mount(choosing(0).call()).await.unwrap();
}

/// An endpoint that is in use is let go with its sessions alone.
#[tokio::test]
async fn endpoints_that_classes_of_one_namespace_use_leave_places_for_others() {
    let (tenant, metrics) = (tenant().await, free());
    let daemon = Daemon::start(&[&format!("--metrics-addr={metrics}")]).await;
    let is_known = async || get(&format!("http://{metrics}/metrics")).await.1.contains("\nvaultmount_endpoint_up{");
    // The operator's own is asked how it is, and nobody uses it.
    while !is_known().await {
        tokio::task::yield_now().await;
    }
    let of = |namespace: &str| reader_of(&tenant, namespace);
    let shop = of("shop");
    let choosing = |pod: &Pod, n: usize| pod.clone().with("vaultTLSServerName", format!("vault-{n}"));
    for n in 0..128 {
        daemon.mount(choosing(&shop, n).call()).await.unwrap();
    }
    daemon
        .refuses(&choosing(&shop, 128), Cause::Overloaded, &["128 different Vault endpoints", "namespace shop"])
        .await;
    assert!(is_known().await, "it is let go for nobody");
    for pod in [&shop, &of("other"), &choosing(&of("third"), 129), &choosing(&of("fourth"), 3)] {
        daemon.mount(pod.call()).await.unwrap();
    }
}

#[tokio::test]
async fn a_mount_whose_caller_went_away_keeps_its_place_until_it_ends() {
    let (tenant, vault) = (tenant().await, Faulty::start().await);
    let daemon = Daemon::at(&vault.address, &["--max-mounts=1"]).await;
    let gate = Gate::new();
    vault.every("POST", "auth/", Fault::Hold(gate.clone()));
    {
        let mut given_up = pin!(daemon.mount(reader(&tenant).call()));
        tokio::select! {
            _ = &mut given_up => panic!("it is held"),
            () = vault.saw(1, "POST", "auth/") => {}
        }
    }
    daemon.refuses(&reader(&tenant), Cause::Overloaded, &["1 mounts are under way"]).await;
    gate.open();
    while daemon.mount(reader(&tenant).call()).await.is_err() {
        tokio::task::yield_now().await;
    }
}
