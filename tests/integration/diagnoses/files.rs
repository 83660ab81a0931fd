//! Making files.

use serde_json::{Value, json};

use super::{MARK, Scenario, arranged, one};

/// A pod that reads this secret so.
async fn reading(secret: Value, more: &str, says: &[&str]) -> Scenario {
    let (tenant, pod) = arranged().await;
    tenant.put("odd", secret).await;
    Scenario::of(pod.objects(one(&format!("{}/data/odd", tenant.kv), more)), says)
}

pub async fn key_missing() -> [Scenario; 3] {
    let secret = json!({"pass": MARK, "user": MARK, "more": {"a": [MARK]}});
    let key = ["key \"passs\"", "\"pass\", \"user\"", "did you mean \"pass\"?"];
    let pointer = ["/more/b", "\"b\"", "\"a\""];
    let (tenant, pod) = arranged().await;
    let metadata = pod.objects(one(&format!("{}/metadata/db", tenant.kv), ", secretKey: pass"));
    [
        Scenario::of(metadata, &["key \"pass\"", "write data/ instead of metadata/ in secretPath"]),
        reading(secret.clone(), ", secretKey: passs", &key).await,
        reading(secret, ", secretPointer: /more/b", &pointer).await,
    ]
}

pub async fn key_nested() -> [Scenario; 2] {
    let secret = json!({"database": {"password": MARK}});
    let says = ["further inside", "secretPointer: /database/password"];
    [
        reading(secret.clone(), ", secretKey: password", &says).await,
        reading(secret, ", secretKey: database.password", &says).await,
    ]
}

pub async fn render() -> [Scenario; 2] {
    let encoded = format!("{MARK} is not base64");
    let name = ["format env", "\"odd-name\""];
    [
        reading(json!({"pass": encoded}), ", secretKey: pass, encoding: base64", &["not base64", "at byte"]).await,
        reading(json!({"odd-name": MARK}), ", format: env", &name).await,
    ]
}

pub async fn duplicate_file() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let path = format!("{}/data/db", tenant.kv);
    let all = one(&path, ", secretKey: '*'");
    let twice = format!("{}\n{}", one(&path, ", secretKey: pass"), one(&path, ", secretKey: user"));
    let inside = format!("{all}\n- {{objectName: x/pass, secretPath: {path}, secretKey: user}}");
    [
        Scenario::of(pod.clone().objects(twice), &["\"x\"", "objects[0] and objects[1]", "each needs its own"]),
        Scenario::of(pod.objects(inside), &["two objects make the file \"x/pass\"", "another objectName"]),
    ]
}

pub async fn unsafe_name() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let class = format!("- {{objectName: ../x, secretPath: {}/data/db}}", tenant.kv);
    let key = ["\"../pass\"", "cannot be a file's name"];
    [
        Scenario::of(pod.objects(class), &["../x", "starts with `..`", "choose another name"]),
        reading(json!({"../pass": MARK}), ", secretKey: '*'", &key).await,
    ]
}

pub async fn files_too_large() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let kv = &tenant.kv;
    let mut objects = vec![one(&format!("{kv}/data/db"), "")];
    for (name, size) in [("small", 900), ("large", 2_000_000), ("larger", 2_400_000)] {
        tenant.put(name, json!({"k": MARK.repeat(size / MARK.len())})).await;
        objects.push(format!("- {{objectName: {name}, secretPath: {kv}/data/{name}, secretKey: k}}"));
    }
    let says = ["the 4194304 the driver takes", "larger (2400000 bytes), large (2000000 bytes), small", "secretKey"];
    [Scenario::of(pod.objects(objects.join("\n")), &says)]
}
