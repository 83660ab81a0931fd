//! Errors while rendering files.

use serde_json::{Value, json};

use super::{MountCase, SECRET_MARK, fixture, single_object};

/// Creates a case for a pod that reads this secret with these object options.
async fn case_for_secret(secret: Value, more: &str, expected: &[&str]) -> MountCase {
    let (tenant, pod) = fixture().await;
    tenant.write_secret("odd", secret).await;
    MountCase::for_pod(pod.with_objects(single_object(&format!("{}/data/odd", tenant.kv), more)), expected)
}

pub async fn key_missing() -> [MountCase; 3] {
    let secret = json!({"pass": SECRET_MARK, "user": SECRET_MARK, "more": {"a": [SECRET_MARK]}});
    let key = ["key \"passs\"", "\"pass\", \"user\"", "did you mean \"pass\"?"];
    let pointer = ["/more/b", "\"b\"", "\"a\""];
    let (tenant, pod) = fixture().await;
    let metadata = pod.with_objects(single_object(&format!("{}/metadata/db", tenant.kv), ", secretKey: pass"));
    [
        MountCase::for_pod(metadata, &["key \"pass\"", "write data/ instead of metadata/ in secretPath"]),
        case_for_secret(secret.clone(), ", secretKey: passs", &key).await,
        case_for_secret(secret, ", secretPointer: /more/b", &pointer).await,
    ]
}

pub async fn key_nested() -> [MountCase; 2] {
    let secret = json!({"database": {"password": SECRET_MARK}});
    let expected = ["further inside", "secretPointer: /database/password"];
    [
        case_for_secret(secret.clone(), ", secretKey: password", &expected).await,
        case_for_secret(secret, ", secretKey: database.password", &expected).await,
    ]
}

pub async fn render_failed() -> [MountCase; 2] {
    let encoded = format!("{SECRET_MARK} is not base64");
    let name = ["format env", "\"odd-name\""];
    [
        case_for_secret(json!({"pass": encoded}), ", secretKey: pass, encoding: base64", &["not base64", "at byte"])
            .await,
        case_for_secret(json!({"odd-name": SECRET_MARK}), ", format: env", &name).await,
    ]
}

pub async fn duplicate_file() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let path = format!("{}/data/db", tenant.kv);
    let all = single_object(&path, ", secretKey: '*'");
    let twice = format!("{}\n{}", single_object(&path, ", secretKey: pass"), single_object(&path, ", secretKey: user"));
    let inside = format!("{all}\n- {{objectName: x/pass, secretPath: {path}, secretKey: user}}");
    [
        MountCase::for_pod(
            pod.clone().with_objects(twice),
            &["\"x\"", "objects[0] and objects[1]", "each needs its own"],
        ),
        MountCase::for_pod(pod.with_objects(inside), &["two objects make the file \"x/pass\"", "another objectName"]),
    ]
}

pub async fn unsafe_name() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let class = format!("- {{objectName: ../x, secretPath: {}/data/db}}", tenant.kv);
    let key = ["\"../pass\"", "cannot be a file's name"];
    [
        MountCase::for_pod(pod.with_objects(class), &["../x", "starts with `..`", "choose another name"]),
        case_for_secret(json!({"../pass": SECRET_MARK}), ", secretKey: '*'", &key).await,
    ]
}

pub async fn files_too_large() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let kv = &tenant.kv;
    let mut objects = vec![single_object(&format!("{kv}/data/db"), "")];
    for (name, size) in [("small", 900), ("large", 2_000_000), ("larger", 2_400_000)] {
        tenant.write_secret(name, json!({"k": SECRET_MARK.repeat(size / SECRET_MARK.len())})).await;
        objects.push(format!("- {{objectName: {name}, secretPath: {kv}/data/{name}, secretKey: k}}"));
    }
    let expected =
        ["the 4194304 the driver takes", "larger (2400000 bytes), large (2000000 bytes), small", "secretKey"];
    [MountCase::for_pod(pod.with_objects(objects.join("\n")), &expected)]
}
