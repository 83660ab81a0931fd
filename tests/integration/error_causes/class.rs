//! Errors in the class itself.

use std::future::{Ready, ready};

use super::{ManifestCase, MountCase, SECRET_MARK, fixture, single_object};

pub async fn invalid_request() -> [MountCase; 4] {
    let (tenant, pod) = fixture().await;
    let path = format!("{}/data/db", tenant.kv);
    let several = pod.clone().with_parameter("roleName", "").with_objects(single_object(&path, ", encoding: rot13"));
    let listed = ["roleName: missing", "name the role", "encoding", "base64"];
    let both = pod.clone().with_parameter("vaultKubernetesMountPath", "other");
    let below = pod.clone().with_parameter("vaultAddress", "http://vault:8200/v1");
    let user = pod.with_parameter("vaultAddress", format!("https://me:{SECRET_MARK}@vault:8200"));
    [
        MountCase::for_pod(several, &listed).with_fixes("2 mistakes", "FAIL  class         object \"x\": encoding"),
        MountCase::for_pod(both, &["both are set, and both name the auth mount", "remove one"]),
        MountCase::for_pod(below, &["vaultAddress: ", "ends with /v1", "write the address without it"]),
        MountCase::for_pod(user, &["vaultAddress: carries a user name"]),
    ]
}

pub async fn objects_yaml() -> [MountCase; 1] {
    let (_, pod) = fixture().await;
    let class = "- objectName: x\n  secretPath: a/b\n secretKey: c";
    [MountCase::for_pod(pod.with_objects(class), &["objects: is not valid YAML", "line 3"])]
}

/// Returns a class with these lines beside a role, and one object, `x`.
fn class_manifest(more: &str, object: &str) -> String {
    format!(
        "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {{name: shop}}\nspec:\n  provider: vault\n{more}  parameters:\n    roleName: app\n    objects: |\n      - objectName: x\n        secretPath: secret/data/db\n{object}"
    )
}

pub fn unknown_name() -> Ready<[ManifestCase; 1]> {
    ready([ManifestCase {
        text: class_manifest("", "        secretkey: pass\n"),
        expected: &["secretkey", "secretKey"],
    }])
}

pub fn secret_object() -> Ready<[ManifestCase; 1]> {
    let copied =
        "  secretObjects:\n    - secretName: s\n      type: Opaque\n      data: [{objectName: paswd, key: k}]\n";
    let text = class_manifest(copied, "").replace("objectName: x", "objectName: passwd");
    ready([ManifestCase { text, expected: &["\"paswd\"", "did you mean \"passwd\"?"] }])
}

pub fn pod_override() -> Ready<[ManifestCase; 1]> {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: []\n  volumes:\n    - name: s\n      csi:\n        driver: secrets-store.csi.k8s.io\n        readOnly: true\n        volumeAttributes: {secretProviderClass: shop, roleName: other}\n";
    ready([ManifestCase { text: class_manifest("", "") + pod, expected: &["roleName", "volumeAttributes"] }])
}

pub fn manifest() -> Ready<[ManifestCase; 1]> {
    let text = class_manifest("", "").replace("  parameters:", "  parameters: 7\n  other:");
    ready([ManifestCase { text, expected: &["parameters"] }])
}
