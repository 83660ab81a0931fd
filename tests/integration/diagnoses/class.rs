//! The class itself.

use std::future::{Ready, ready};

use super::{MARK, Manifest, Scenario, arranged, one};

pub async fn invalid_request() -> [Scenario; 4] {
    let (tenant, pod) = arranged().await;
    let path = format!("{}/data/db", tenant.kv);
    let several = pod.clone().with("roleName", "").objects(one(&path, ", encoding: rot13"));
    let listed = ["roleName: missing", "name the role", "encoding", "base64"];
    let both = pod.clone().with("vaultKubernetesMountPath", "other");
    let below = pod.clone().with("vaultAddress", "http://vault:8200/v1");
    let user = pod.with("vaultAddress", format!("https://me:{MARK}@vault:8200"));
    [
        Scenario::of(several, &listed).mending("2 mistakes", "FAIL  class         object \"x\": encoding"),
        Scenario::of(both, &["both are set, and both name the auth mount", "remove one"]),
        Scenario::of(below, &["vaultAddress: ", "ends with /v1", "write what stands before"]),
        Scenario::of(user, &["vaultAddress: carries a user name"]),
    ]
}

pub async fn objects_yaml() -> [Scenario; 1] {
    let (_, pod) = arranged().await;
    let class = "- objectName: x\n  secretPath: a/b\n secretKey: c";
    [Scenario::of(pod.objects(class), &["objects: is no valid YAML", "line 3"])]
}

/// A class with these lines beside a role, and one object, `x`.
fn class(more: &str, object: &str) -> String {
    format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: shop}}\nspec:\n  provider: vault\n{more}  parameters:\n    roleName: app\n    objects: |\n      - objectName: x\n        secretPath: secret/data/db\n{object}"
    )
}

pub fn unknown_name() -> Ready<[Manifest; 1]> {
    ready([Manifest { text: class("", "        secretkey: pass\n"), says: &["secretkey", "secretKey"] }])
}

pub fn secret_object() -> Ready<[Manifest; 1]> {
    let copied =
        "  secretObjects:\n    - secretName: s\n      type: Opaque\n      data: [{objectName: paswd, key: k}]\n";
    let text = class(copied, "").replace("objectName: x", "objectName: passwd");
    ready([Manifest { text, says: &["\"paswd\"", "did you mean \"passwd\"?"] }])
}

pub fn pod_override() -> Ready<[Manifest; 1]> {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: []\n  volumes:\n    - name: s\n      csi:\n        driver: secrets-store.csi.k8s.io\n        readOnly: true\n        volumeAttributes: {secretProviderClass: shop, roleName: other}\n";
    ready([Manifest { text: class("", "") + pod, says: &["roleName", "volumeAttributes"] }])
}

pub fn manifest() -> Ready<[Manifest; 1]> {
    let text = class("", "").replace("  parameters:", "  parameters: 7\n  other:");
    ready([Manifest { text, says: &["parameters"] }])
}
