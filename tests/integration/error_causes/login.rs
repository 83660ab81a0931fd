//! Login errors.

use serde_json::json;

use super::{MountCase, SECRET_MARK, fixture, single_object};
use crate::{
    kube_api::{KubeApi, KubeApiBuilder},
    support::{
        bao::{Tenant, root_request},
        database::DatabaseEngine,
        fault_proxy::{FaultProxy, respond},
        kubernetes::KubernetesCluster,
        pod::{Pod, sign_jwt},
        tls::CertificateAuthority,
        unique_name,
    },
};

/// A cluster that reviews each token, and a pod of its service account.
async fn kubernetes_fixture(api: KubeApiBuilder) -> (Tenant, KubernetesCluster, Pod) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": SECRET_MARK})).await;
    let cluster = KubernetesCluster::with_api(&tenant, api).await;
    let pod = cluster.pod(&tenant).with_objects(single_object(&format!("{}/data/db", tenant.kv), ", secretKey: pass"));
    (tenant, cluster, pod)
}

/// Returns the pod with a token that has these claims besides those of kubelet's tokens.
fn pod_with_claims(pod: &Pod, claims: &serde_json::Value) -> Pod {
    let mut token_claims = json!({"aud": ["vault"], "sub": "system:serviceaccount:shop:app"});
    token_claims.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    pod.clone().with_tokens(&[("vault", &sign_jwt(&token_claims))])
}

fn timestamp_in(seconds: i64) -> i64 {
    jiff::Timestamp::now().as_second() + seconds
}

pub async fn token_missing() -> [MountCase; 3] {
    let (_, mut pod) = fixture().await;
    let other = pod
        .clone()
        .with_tokens(&[("team", &pod.sign_token("team", 600)), ("sts.aws", &pod.sign_token("sts.aws", 600))]);
    pod.tokens = None;
    let missing = "no service account token for audience \"vault\"";
    let next = "CSIDriver object secrets-store.csi.k8s.io: spec.tokenRequests: [{audience: vault}]";
    let others = [missing, next, "passed: \"sts.aws\", \"team\"", "class's `audience`"];
    [
        MountCase::for_pod(pod.clone(), &[missing]).with_fixes(next, "--token-file (kubectl create token app -n shop"),
        MountCase::for_pod(pod, &[missing, next, "passed: none"]).mount_only("a check has no driver"),
        MountCase::for_pod(other, &others).mount_only("a file has no audience"),
    ]
}

pub async fn token_expired() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let old = pod.clone().with_tokens(&[("vault", &pod.sign_token("vault", -70))]);
    // Vault accepts a token without `exp` for some minutes after its start.
    let endless = pod_with_claims(&pod, &json!({"iat": 1_600_000_000}));
    [
        MountCase::for_pod(old, &["expired at 20", "s ago", "fresh token"])
            .with_fixes("clocks", "kubectl create token app -n shop"),
        MountCase::for_pod(endless, &["expired", &tenant.auth, "token is expired", "clocks"]),
    ]
}

pub async fn clock_skew() -> [MountCase; 4] {
    let ((tenant, pod), vault) = (fixture().await, FaultProxy::start().await);
    let begins = pod_with_claims(&pod, &json!({"nbf": timestamp_in(300), "exp": timestamp_in(900)}));
    let issued =
        pod_with_claims(&pod, &json!({"iat": timestamp_in(300), "nbf": timestamp_in(0), "exp": timestamp_in(900)}));
    let early = ["not valid yet", &tenant.auth, "becomes valid in ", "so that of the API server is ahead", "NTP"];
    let words = r#"{"errors":["error validating token: invalid expiration time (exp) claim: token is expired"]}"#;
    vault.always("POST", "auth/", respond(400, &[("date", "Tue, 24 Nov 2099 08:00:00 GMT")], words));
    let ahead =
        ["has expired according to", "by this node's clock it expires in ", "Vault's clock is ", " s ahead", "NTP"];
    let (_, _, reviewed) = kubernetes_fixture(KubeApi::builder()).await;
    let reviewed = pod_with_claims(
        &reviewed,
        &json!({"nbf": timestamp_in(300), "iat": timestamp_in(300), "exp": timestamp_in(900)}),
    );
    [
        MountCase::for_pod(begins, &early),
        MountCase::for_pod(issued, &early),
        MountCase::for_pod(pod, &ahead).with_address(&vault.address).keep_alive(vault),
        MountCase::for_pod(reviewed, &["not valid yet", "NTP"]),
    ]
}

pub async fn token_audience() -> [MountCase; 1] {
    let (_, pod) = fixture().await;
    let pod = pod.clone().with_tokens(&[("vault", &pod.sign_token("team", 600))]);
    let by_hand = "kubectl create token app -n shop --audience vault";
    [MountCase::for_pod(pod, &["\"team\"", "\"vault\""]).with_fixes("tokenRequests", by_hand)]
}

pub async fn token_identity() -> [MountCase; 1] {
    let (_, mut pod) = fixture().await;
    pod.service_account = "web".into();
    let by_hand = "set --namespace and --service-account to the pod's";
    [MountCase::for_pod(pod, &["shop/app", "shop/web"]).with_fixes("volumeAttributes: kubelet", by_hand)]
}

pub async fn auth_mount_missing() -> [MountCase; 4] {
    let (tenant, pod) = fixture().await;
    let expected = |mount: &str| {
        let next = format!("vault auth enable -path={mount} kubernetes");
        ["no kubernetes or jwt auth method".to_owned(), format!("auth/{mount} at {}", tenant.address), next]
    };
    let at = |mount: &str| {
        let parts = expected(mount);
        MountCase::for_pod(
            pod.clone().with_parameter("vaultAuthMountPath", mount),
            &parts.each_ref().map(String::as_str),
        )
    };
    let [approle, userpass] = ["approle", "userpass"].map(|method| (method, unique_name(method)));
    for (method, mount) in [&approle, &userpass] {
        root_request("POST", &format!("sys/auth/{mount}"), json!({"type": method})).await;
    }
    let namespace = unique_name("ns");
    root_request("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
    let inner = pod.clone().with_parameter("vaultNamespace", &namespace);
    let next = format!("vault auth enable -namespace={namespace} -path={} kubernetes", tenant.auth);
    let place = format!("auth/{} in Vault namespace {namespace}", tenant.auth);
    [at("nowhere"), at(&approle.1), at(&userpass.1), MountCase::for_pod(inner, &[&place, &next])]
}

pub async fn auth_unconfigured() -> [MountCase; 2] {
    let (_, pod) = fixture().await;
    let [jwt, kubernetes] = ["jwt", "kubernetes"].map(|method| (method, unique_name(method)));
    for (method, mount) in [&jwt, &kubernetes] {
        root_request("POST", &format!("sys/auth/{mount}"), json!({"type": method})).await;
    }
    let role = json!({"bound_service_account_names": "*", "bound_service_account_namespaces": "*"});
    root_request("POST", &format!("auth/{}/role/app", kubernetes.1), role).await;
    [jwt, kubernetes].map(|(_, mount)| {
        let next = format!("vault write auth/{mount}/config");
        let parts = ["not configured", "could not load", "write its configuration", &next];
        MountCase::for_pod(pod.clone().with_parameter("vaultAuthMountPath", mount), &parts)
    })
}

pub async fn login_denied() -> [MountCase; 5] {
    let (_, gone, pod_gone) = kubernetes_fixture(KubeApi::builder()).await;
    gone.api.delete_pod("shop", "web-1");
    let (_, silent, unasked) = kubernetes_fixture(KubeApi::builder()).await;
    silent.set_kubernetes_host("http://127.0.0.1:1").await;
    let (_, closed, forbidden) = kubernetes_fixture(KubeApi::builder().deny("create", "tokenreviews")).await;
    let (_, distant, elsewhere) = kubernetes_fixture(KubeApi::builder()).await;
    distant.write_role("app", json!({"token_bound_cidrs": "10.0.0.0/8"})).await;
    let (tenant, pod) = fixture().await;
    tenant.write_role("app", json!({"token_bound_cidrs": "10.0.0.0/8"})).await;
    let expected = |cluster: &KubernetesCluster, reason| {
        let place = format!("auth/{}", cluster.auth);
        [place, "\"app\"".to_owned(), "permission denied".to_owned(), "most likely one of".to_owned(), reason]
    };
    let scenario = |cluster: KubernetesCluster, pod, reason: &str| {
        let parts = expected(&cluster, reason.to_owned());
        MountCase::for_pod(pod, &parts.each_ref().map(String::as_str)).keep_alive(cluster)
    };
    [
        scenario(gone, pod_gone, "this pod or its service account is gone"),
        scenario(silent, unasked, "cannot ask the Kubernetes API for a TokenReview"),
        scenario(closed, forbidden, "system:auth-delegator"),
        scenario(distant, elsewhere, "or the provider's address is not in the role's token_bound_cidrs"),
        MountCase::for_pod(
            pod,
            &["permission denied", "most likely the provider's address is not in the role's token_bound_cidrs"],
        ),
    ]
}

pub async fn role_missing() -> [MountCase; 2] {
    let ((tenant, pod), (_, cluster, reviewed)) = (fixture().await, kubernetes_fixture(KubeApi::builder()).await);
    let mount = format!("auth/{}", tenant.auth);
    let jwt = ["\"nobody\"", &mount, &tenant.address, "could not be found", "correct roleName", "create the role"];
    let kubernetes = ["\"nobody\"", &cluster.auth, "invalid role name", "correct roleName", "create the role"];
    [
        MountCase::for_pod(pod.with_parameter("roleName", "nobody"), &jwt),
        MountCase::for_pod(reviewed.with_parameter("roleName", "nobody"), &kubernetes),
    ]
}

pub async fn audience_unbound() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    tenant
        .write_role("app", json!({"bound_audiences": [], "bound_claims": {"sub": "system:serviceaccount:shop:app"}}))
        .await;
    let expected = ["\"app\"", &tenant.auth, "names no audience", "\"vault\"", "set the role's bound_audiences"];
    [MountCase::for_pod(pod, &expected)]
}

pub async fn audience_wrong() -> [MountCase; 3] {
    let ((tenant, pod), (_, cluster, reviewed)) = (fixture().await, kubernetes_fixture(KubeApi::builder()).await);
    tenant.write_role("app", json!({"bound_audiences": ["team"]})).await;
    cluster.write_role("app", json!({"audience": "team"})).await;
    let expected = |mount| ["\"app\"", mount, "audience \"vault\"", "invalid audience (aud) claim", "bound_audiences"];
    let legacy = sign_jwt(&json!({"sub": "system:serviceaccount:shop:app", "exp": timestamp_in(600)}));
    let legacy = pod.clone().with_tokens(&[("vault", &legacy)]);
    let legacy = MountCase::for_pod(legacy, &["requires an audience, and the service account token has none"]);
    let jwt = MountCase::for_pod(pod, &expected(tenant.auth.as_str()));
    [legacy, jwt, MountCase::for_pod(reviewed, &expected(cluster.auth.as_str())).keep_alive(cluster)]
}

pub async fn namespace_not_bound() -> [MountCase; 1] {
    let (_, cluster, pod) = kubernetes_fixture(KubeApi::builder()).await;
    cluster.write_role("app", json!({"bound_service_account_namespaces": ["billing"]})).await;
    let expected =
        ["\"app\"", &cluster.auth, "\"shop\"", "namespace not authorized", "bound_service_account_namespaces"];
    [MountCase::for_pod(pod, &expected).keep_alive(cluster)]
}

pub async fn service_account_not_bound() -> [MountCase; 1] {
    let (_, cluster, pod) = kubernetes_fixture(KubeApi::builder()).await;
    cluster.write_role("app", json!({"bound_service_account_names": ["billing"]})).await;
    let expected = [&cluster.auth, "service account \"app\"", "not authorized", "bound_service_account_names"];
    [MountCase::for_pod(pod, &expected).keep_alive(cluster)]
}

pub async fn token_signature() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let token = pod.sign_token("vault", 600);
    let (signed, _) = token.rsplit_once('.').unwrap();
    let (_, signature) = sign_jwt(&json!({})).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let pod = pod.with_tokens(&[("vault", &format!("{signed}.{signature}"))]);
    let expected =
        [&tenant.auth, "token signature", "key that signed", "jwt_validation_pubkeys", "auth mount in the class"];
    [MountCase::for_pod(pod, &expected)]
}

pub async fn login_claims() -> [MountCase; 3] {
    let ((tenant, pod), (_, cluster, reviewed)) = (fixture().await, kubernetes_fixture(KubeApi::builder()).await);
    let config = json!({
        "kubernetes_host": cluster.api.url(), "kubernetes_ca_cert": CertificateAuthority::new().pem(), "disable_local_ca_jwt": true,
        "issuer": "https://other.example", "disable_iss_validation": false,
    });
    root_request("POST", &format!("auth/{}/config", cluster.auth), config).await;
    let issuer = ["does not take service account tokens of this issuer", "invalid issuer (iss) claim", "/config"];
    tenant.write_role("app", json!({"bound_claims": {"/kubernetes.io/namespace": "billing"}})).await;
    tenant.write_role("other", json!({"bound_subject": "system:serviceaccount:shop:other"})).await;
    let next = format!("vault read auth/{}/role/", tenant.auth);
    let claim = ["\"app\"", &tenant.auth, "/kubernetes.io/namespace", "does not match", "bound claims", &next];
    let subject = ["\"other\"", &tenant.auth, "invalid subject", "bound claims", &next];
    [
        MountCase::for_pod(pod.clone(), &claim),
        MountCase::for_pod(pod.with_parameter("roleName", "other"), &subject),
        MountCase::for_pod(reviewed, &issuer).keep_alive(cluster),
    ]
}

pub async fn login_role_unusable() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    tenant.write_role("people", json!({"role_type": "oidc", "allowed_redirect_uris": ["http://localhost"]})).await;
    tenant.write_role("all", json!({"token_policies": ["root"]})).await;
    let people = ["\"people\"", &tenant.auth, "role with oidc role_type", "browser", "name a role of role_type jwt"];
    let all = ["\"all\"", &tenant.auth, "cannot create root tokens", "the policy root", "token_policies"];
    [
        MountCase::for_pod(pod.clone().with_parameter("roleName", "people"), &people),
        MountCase::for_pod(pod.with_parameter("roleName", "all"), &all),
    ]
}

pub async fn vault_namespace_missing() -> [MountCase; 3] {
    let (tenant, pod) = fixture().await;
    let none = format!("no Vault namespace \"nowhere\" at {}", tenant.address);
    let expected = [none.as_str(), "namespace not found", "correct vaultNamespace", "create the namespace"];
    let secrets = pod.clone().with_parameter("vaultNamespace", "nowhere").with_parameter("vaultAuthNamespace", "root");
    [
        MountCase::for_pod(pod.clone().with_parameter("vaultNamespace", "nowhere"), &expected),
        MountCase::for_pod(pod.with_parameter("vaultAuthNamespace", "nowhere"), &[&none, "vaultAuthNamespace"]),
        MountCase::for_pod(secrets, &expected).with_check_flags(&["--create"]),
    ]
}

pub async fn vault_namespace_locked() -> [MountCase; 2] {
    let ((_, pod), namespace) = (fixture().await, unique_name("ns"));
    root_request("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
    root_request("POST", &format!("sys/namespaces/api-lock/lock/{namespace}"), json!({})).await;
    let inner = pod.with_parameter("vaultNamespace", &namespace);
    let secrets = inner.clone().with_parameter("vaultAuthNamespace", "root");
    let expected = ["is locked", "has been locked by an administrator", "vault namespace unlock"];
    [MountCase::for_pod(inner, &expected), MountCase::for_pod(secrets, &expected).with_check_flags(&["--create"])]
}

pub async fn token_uses_too_few() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let path = DatabaseEngine::for_tenant(&tenant).await.path;
    tenant.write_role("app", json!({"token_num_uses": 1})).await;
    let expected = [&path, "token had one use left", "raise token_num_uses of role \"app\""];
    [MountCase::for_pod(pod.with_objects(single_object(&path, "")), &expected).with_check_flags(&["--create"])]
}
