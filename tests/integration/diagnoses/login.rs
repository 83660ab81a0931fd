//! Logging in.

use serde_json::json;

use super::{MARK, Scenario, arranged, one};
use crate::{
    kube_api::{Builder, KubeApi},
    support::{
        bao::{Tenant, root},
        cluster::Cluster,
        database::Database,
        faulty::{Faulty, answer},
        pod::{Pod, sign},
        tls::Authority,
        unique,
    },
};

/// A cluster that asks about each token, and a pod of its service account.
async fn clustered(api: Builder) -> (Tenant, Cluster, Pod) {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": MARK})).await;
    let cluster = Cluster::with(&tenant, api).await;
    let pod = cluster.pod(&tenant).objects(one(&format!("{}/data/db", tenant.kv), ", secretKey: pass"));
    (tenant, cluster, pod)
}

/// The pod with a token that says this of itself beside what kubelet's own do.
fn saying(pod: &Pod, claims: &serde_json::Value) -> Pod {
    let mut said = json!({"aud": ["vault"], "sub": "system:serviceaccount:shop:app"});
    said.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    pod.clone().pass(&[("vault", &sign(&said))])
}

fn in_seconds(seconds: i64) -> i64 {
    jiff::Timestamp::now().as_second() + seconds
}

pub async fn token_missing() -> [Scenario; 3] {
    let (_, mut pod) = arranged().await;
    let other = pod.clone().pass(&[("team", &pod.token("team", 600)), ("sts.aws", &pod.token("sts.aws", 600))]);
    pod.tokens = None;
    let lacks = "no service account token for audience \"vault\"";
    let next = "CSIDriver object secrets-store.csi.k8s.io: spec.tokenRequests: [{audience: vault}]";
    let others = [lacks, next, "passed: \"sts.aws\", \"team\"", "class's `audience`"];
    [
        Scenario::of(pod.clone(), &[lacks]).mending(next, "--token-file (kubectl create token app -n shop"),
        Scenario::of(pod, &[lacks, next, "passed: none"]).mount_only("a check has no driver"),
        Scenario::of(other, &others).mount_only("a file has no audience"),
    ]
}

pub async fn token_expired() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let old = pod.clone().pass(&[("vault", &pod.token("vault", -70))]);
    // Vault takes a token that names no end for some minutes from its beginning.
    let endless = saying(&pod, &json!({"iat": 1_600_000_000}));
    [
        Scenario::of(old, &["expired at 20", "s ago", "fresh one"])
            .mending("clocks", "kubectl create token app -n shop"),
        Scenario::of(endless, &["expired", &tenant.auth, "token is expired", "clocks"]),
    ]
}

pub async fn clock_skew() -> [Scenario; 4] {
    let ((tenant, pod), vault) = (arranged().await, Faulty::start().await);
    let begins = saying(&pod, &json!({"nbf": in_seconds(300), "exp": in_seconds(900)}));
    let issued = saying(&pod, &json!({"iat": in_seconds(300), "nbf": in_seconds(0), "exp": in_seconds(900)}));
    let early = ["not valid yet", &tenant.auth, "begins in ", "so that of the API server is ahead", "NTP"];
    let words = r#"{"errors":["error validating token: invalid expiration time (exp) claim: token is expired"]}"#;
    vault.every("POST", "auth/", answer(400, &[("date", "Tue, 24 Nov 2099 08:00:00 GMT")], words));
    let ahead = ["is expired, says", "by this node's clock it ends in ", "Vault's clock is ", " s ahead", "NTP"];
    let (_, _, reviewed) = clustered(KubeApi::builder()).await;
    let reviewed = saying(&reviewed, &json!({"nbf": in_seconds(300), "iat": in_seconds(300), "exp": in_seconds(900)}));
    [
        Scenario::of(begins, &early),
        Scenario::of(issued, &early),
        Scenario::of(pod, &ahead).at(&vault.address).keeping(vault),
        Scenario::of(reviewed, &["not valid yet", "NTP"]),
    ]
}

pub async fn token_audience() -> [Scenario; 1] {
    let (_, pod) = arranged().await;
    let pod = pod.clone().pass(&[("vault", &pod.token("team", 600))]);
    let by_hand = "kubectl create token app -n shop --audience vault";
    [Scenario::of(pod, &["\"team\"", "\"vault\""]).mending("tokenRequests", by_hand)]
}

pub async fn token_identity() -> [Scenario; 1] {
    let (_, mut pod) = arranged().await;
    pod.service_account = "web".into();
    let by_hand = "set --namespace and --service-account to the pod's";
    [Scenario::of(pod, &["shop/app", "shop/web"]).mending("volumeAttributes: kubelet", by_hand)]
}

pub async fn auth_mount_missing() -> [Scenario; 4] {
    let (tenant, pod) = arranged().await;
    let says = |mount: &str| {
        let next = format!("vault auth enable -path={mount} kubernetes");
        ["no kubernetes or jwt auth method".to_owned(), format!("auth/{mount} at {}", tenant.address), next]
    };
    let at = |mount: &str| {
        let parts = says(mount);
        Scenario::of(pod.clone().with("vaultAuthMountPath", mount), &parts.each_ref().map(String::as_str))
    };
    let [approle, userpass] = ["approle", "userpass"].map(|method| (method, unique(method)));
    for (method, mount) in [&approle, &userpass] {
        root("POST", &format!("sys/auth/{mount}"), json!({"type": method})).await;
    }
    let namespace = unique("ns");
    root("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
    let inner = pod.clone().with("vaultNamespace", &namespace);
    let next = format!("vault auth enable -namespace={namespace} -path={} kubernetes", tenant.auth);
    let place = format!("auth/{} in Vault namespace {namespace}", tenant.auth);
    [at("nowhere"), at(&approle.1), at(&userpass.1), Scenario::of(inner, &[&place, &next])]
}

pub async fn auth_unconfigured() -> [Scenario; 2] {
    let (_, pod) = arranged().await;
    let [jwt, kubernetes] = ["jwt", "kubernetes"].map(|method| (method, unique(method)));
    for (method, mount) in [&jwt, &kubernetes] {
        root("POST", &format!("sys/auth/{mount}"), json!({"type": method})).await;
    }
    let role = json!({"bound_service_account_names": "*", "bound_service_account_namespaces": "*"});
    root("POST", &format!("auth/{}/role/app", kubernetes.1), role).await;
    [jwt, kubernetes].map(|(_, mount)| {
        let next = format!("vault write auth/{mount}/config");
        let parts = ["not configured", "could not load", "write its configuration", &next];
        Scenario::of(pod.clone().with("vaultAuthMountPath", mount), &parts)
    })
}

pub async fn login_denied() -> [Scenario; 5] {
    let (_, gone, pod_gone) = clustered(KubeApi::builder()).await;
    gone.api.delete_pod("shop", "web-1");
    let (_, silent, unasked) = clustered(KubeApi::builder()).await;
    silent.host("http://127.0.0.1:1").await;
    let (_, closed, forbidden) = clustered(KubeApi::builder().deny("create", "tokenreviews")).await;
    let (_, distant, elsewhere) = clustered(KubeApi::builder()).await;
    distant.role("app", json!({"token_bound_cidrs": "10.0.0.0/8"})).await;
    let (tenant, pod) = arranged().await;
    tenant.role("app", json!({"token_bound_cidrs": "10.0.0.0/8"})).await;
    let says = |cluster: &Cluster, reason| {
        let place = format!("auth/{}", cluster.auth);
        [place, "\"app\"".to_owned(), "permission denied".to_owned(), "most likely one of".to_owned(), reason]
    };
    let scenario = |cluster: Cluster, pod, reason: &str| {
        let parts = says(&cluster, reason.to_owned());
        Scenario::of(pod, &parts.each_ref().map(String::as_str)).keeping(cluster)
    };
    [
        scenario(gone, pod_gone, "this pod or its service account is gone"),
        scenario(silent, unasked, "cannot ask the Kubernetes API for a TokenReview"),
        scenario(closed, forbidden, "system:auth-delegator"),
        scenario(distant, elsewhere, "or the provider's address is not in the role's token_bound_cidrs"),
        Scenario::of(
            pod,
            &["permission denied", "most likely the provider's address is not in the role's token_bound_cidrs"],
        ),
    ]
}

pub async fn role_missing() -> [Scenario; 2] {
    let ((tenant, pod), (_, cluster, reviewed)) = (arranged().await, clustered(KubeApi::builder()).await);
    let mount = format!("auth/{}", tenant.auth);
    let jwt = ["\"nobody\"", &mount, &tenant.address, "could not be found", "correct roleName", "create the role"];
    let kubernetes = ["\"nobody\"", &cluster.auth, "invalid role name", "correct roleName", "create the role"];
    [Scenario::of(pod.with("roleName", "nobody"), &jwt), Scenario::of(reviewed.with("roleName", "nobody"), &kubernetes)]
}

pub async fn audience_unbound() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    tenant.role("app", json!({"bound_audiences": [], "bound_claims": {"sub": "system:serviceaccount:shop:app"}})).await;
    let says = ["\"app\"", &tenant.auth, "names no audience", "\"vault\"", "set the role's bound_audiences"];
    [Scenario::of(pod, &says)]
}

pub async fn audience_wrong() -> [Scenario; 3] {
    let ((tenant, pod), (_, cluster, reviewed)) = (arranged().await, clustered(KubeApi::builder()).await);
    tenant.role("app", json!({"bound_audiences": ["team"]})).await;
    cluster.role("app", json!({"audience": "team"})).await;
    let says = |mount| ["\"app\"", mount, "audience \"vault\"", "invalid audience (aud) claim", "bound_audiences"];
    let legacy = sign(&json!({"sub": "system:serviceaccount:shop:app", "exp": in_seconds(600)}));
    let legacy = pod.clone().pass(&[("vault", &legacy)]);
    let legacy = Scenario::of(legacy, &["wants an audience, and the service account token has none"]);
    let jwt = Scenario::of(pod, &says(tenant.auth.as_str()));
    [legacy, jwt, Scenario::of(reviewed, &says(cluster.auth.as_str())).keeping(cluster)]
}

pub async fn namespace_not_bound() -> [Scenario; 1] {
    let (_, cluster, pod) = clustered(KubeApi::builder()).await;
    cluster.role("app", json!({"bound_service_account_namespaces": ["billing"]})).await;
    let says = ["\"app\"", &cluster.auth, "\"shop\"", "namespace not authorized", "bound_service_account_namespaces"];
    [Scenario::of(pod, &says).keeping(cluster)]
}

pub async fn service_account_not_bound() -> [Scenario; 1] {
    let (_, cluster, pod) = clustered(KubeApi::builder()).await;
    cluster.role("app", json!({"bound_service_account_names": ["billing"]})).await;
    let says = [&cluster.auth, "service account \"app\"", "not authorized", "bound_service_account_names"];
    [Scenario::of(pod, &says).keeping(cluster)]
}

pub async fn token_signature() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let token = pod.token("vault", 600);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let (_, signature) = sign(&json!({})).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let pod = pod.pass(&[("vault", &format!("{signed}.{signature}"))]);
    let says =
        [&tenant.auth, "token signature", "key that signed", "jwt_validation_pubkeys", "auth mount in the class"];
    [Scenario::of(pod, &says)]
}

pub async fn login_claims() -> [Scenario; 3] {
    let ((tenant, pod), (_, cluster, reviewed)) = (arranged().await, clustered(KubeApi::builder()).await);
    let config = json!({
        "kubernetes_host": cluster.api.url(), "kubernetes_ca_cert": Authority::new().pem(), "disable_local_ca_jwt": true,
        "issuer": "https://other.example", "disable_iss_validation": false,
    });
    root("POST", &format!("auth/{}/config", cluster.auth), config).await;
    let issuer = ["does not take service account tokens of this issuer", "invalid issuer (iss) claim", "/config"];
    tenant.role("app", json!({"bound_claims": {"/kubernetes.io/namespace": "billing"}})).await;
    tenant.role("other", json!({"bound_subject": "system:serviceaccount:shop:other"})).await;
    let next = format!("vault read auth/{}/role/", tenant.auth);
    let claim = ["\"app\"", &tenant.auth, "/kubernetes.io/namespace", "does not match", "bound claims", &next];
    let subject = ["\"other\"", &tenant.auth, "invalid subject", "bound claims", &next];
    [
        Scenario::of(pod.clone(), &claim),
        Scenario::of(pod.with("roleName", "other"), &subject),
        Scenario::of(reviewed, &issuer).keeping(cluster),
    ]
}

pub async fn login_role() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    tenant.role("people", json!({"role_type": "oidc", "allowed_redirect_uris": ["http://localhost"]})).await;
    tenant.role("all", json!({"token_policies": ["root"]})).await;
    let people = ["\"people\"", &tenant.auth, "role with oidc role_type", "browser", "name a role of role_type jwt"];
    let all = ["\"all\"", &tenant.auth, "cannot create root tokens", "the policy root", "token_policies"];
    [Scenario::of(pod.clone().with("roleName", "people"), &people), Scenario::of(pod.with("roleName", "all"), &all)]
}

pub async fn vault_namespace_missing() -> [Scenario; 3] {
    let (tenant, pod) = arranged().await;
    let none = format!("no Vault namespace \"nowhere\" at {}", tenant.address);
    let says = [none.as_str(), "namespace not found", "correct vaultNamespace", "create the namespace"];
    let secrets = pod.clone().with("vaultNamespace", "nowhere").with("vaultAuthNamespace", "root");
    [
        Scenario::of(pod.clone().with("vaultNamespace", "nowhere"), &says),
        Scenario::of(pod.with("vaultAuthNamespace", "nowhere"), &[&none, "vaultAuthNamespace"]),
        Scenario::of(secrets, &says).checking(&["--create"]),
    ]
}

pub async fn vault_namespace_locked() -> [Scenario; 2] {
    let ((_, pod), namespace) = (arranged().await, unique("ns"));
    root("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
    root("POST", &format!("sys/namespaces/api-lock/lock/{namespace}"), json!({})).await;
    let inner = pod.with("vaultNamespace", &namespace);
    let secrets = inner.clone().with("vaultAuthNamespace", "root");
    let says = ["is locked", "has been locked by an administrator", "vault namespace unlock"];
    [Scenario::of(inner, &says), Scenario::of(secrets, &says).checking(&["--create"])]
}

pub async fn token_uses() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let path = Database::of(&tenant).await.path;
    tenant.role("app", json!({"token_num_uses": 1})).await;
    let says = [&path, "token had one use left", "raise token_num_uses of role \"app\""];
    [Scenario::of(pod.objects(one(&path, "")), &says).checking(&["--create"])]
}
