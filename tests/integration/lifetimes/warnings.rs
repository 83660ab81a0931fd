//! What is said in time when nothing can be done but by a mount, and what an operator sees.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Stage, credential};
use crate::support::{
    bao::Tenant,
    daemon::{Program, program},
    database::Database,
    pod::Pod,
};

#[tokio::test]
async fn with_rotation_off_the_end_is_told_well_before() {
    let tenant = Tenant::new().await;
    let database = Database::of(&tenant).await;
    database.tune(json!({"default_ttl": "6s", "max_ttl": "9s"})).await;
    let daemon = Program::start(&["--metrics-addr=127.0.0.1:0"]).await;
    let pod = Pod::of(&tenant).objects(credential(&database));
    let mut client = vaultmount::provider::client::Client::connect(&daemon.socket).await.unwrap();
    client.mount(pod.call()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    daemon.terminate();
    let log = daemon.log().await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&pod.name)).collect();
    let place =
        |what: &str| lines.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {log}"));
    let (near, told, over) =
        (place("maximum is near"), place("ends, and no poll comes to replace it"), place("is over, and no poll came"));
    assert!(near < told && told < over, "{log}");
    assert!(lines[told].contains("end=") && lines[told].contains("switch on rotation"), "{}", lines[told]);
    assert_eq!(lines.iter().filter(|line| line.contains("no poll comes")).count(), 1, "{log}");
}

#[tokio::test]
async fn the_status_tells_everything_and_no_secret() {
    let stage = Stage::new(&[]).await;
    let pod = stage.pod();
    let (username, password) = stage.mount(&pod).await;
    stage.mount(&pod).await;
    let status = stage.daemon.socket.with_extension("status");
    let run = async |format: &str| {
        let args = ["status", "--socket", status.to_str().unwrap(), format];
        let output = program(&args).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (text, json) = (run("-otext").await, run("-ojson").await);
    for part in [pod.name.as_str(), &stage.database.path, "leased", "app"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    for secret in [&password, &username] {
        assert!(!text.contains(secret.as_str()) && !json.contains(secret.as_str()));
    }
    let told: Value = serde_json::from_str(&json).unwrap();
    let session = &told["sessions"][0];
    assert_eq!(
        (&session["uid"], &session["role"], &session["renewed"]),
        (&json!(pod.uid), &json!("app"), &json!(true))
    );
    assert_eq!((&session["volumes"][0]["mounts"], &session["volumes"][0]["class"]), (&json!(2), &json!("test-class")));
    let lease = &session["leases"][0];
    assert_eq!(
        (&lease["kind"], &lease["state"], &lease["path"]),
        (&json!("leased"), &json!("live"), &json!(stage.database.path))
    );
    assert!(session["last_success"].is_string() && session["token"]["accessor"].is_string());
    assert_eq!(told["watch"]["state"], "synced");
}
