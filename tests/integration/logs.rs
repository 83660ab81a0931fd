//! The log on standard error.

use std::{fs, time::Duration};

use serde_json::Value;
use tokio::time::sleep;
use vaultmount::provider::client::Client;

use crate::{
    admin_endpoints::pod,
    support::{
        daemon::ProviderProcess,
        fault_proxy::{Fault, FaultProxy, Gate},
        pod::Pod,
    },
};

/// Sends SIGHUP.
fn send_sighup(program: &ProviderProcess) {
    let pid = program.child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

#[tokio::test]
async fn log_format_json_has_pod_fields_and_outcome() {
    let program = ProviderProcess::start(&["--log-format=json", "--log-level=info"]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    let missing = pod.parameters.iter().find(|(name, _)| name == "objects").unwrap().1.replace("/db,", "/none,");
    let failing = Pod { uid: "another".to_owned(), ..pod.clone().with_objects(missing) };
    let token = failing.sign_token("vault", 600);
    let failing = failing.with_tokens(&[("vault", &token)]);
    client.mount(pod.mount_call()).await.unwrap();
    for _ in 0..3 {
        client.mount(pod.mount_call()).await.unwrap();
        assert!(client.mount(failing.mount_call()).await.is_err());
    }
    program.terminate();
    let log = program.wait_for_log().await;
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let lines_with = |message: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
    };
    let [mounted] = lines_with("mounted")[..] else { panic!("{log}") };
    assert_eq!(
        (&mounted["level"], &mounted["code"], &mounted["objects"]),
        (&"INFO".into(), &"OK".into(), &"pass".into())
    );
    assert!(
        mounted["duration_ms"].as_f64().unwrap() > 0.0 && mounted["endpoint"].as_str().unwrap().starts_with("http://")
    );
    let of = &mounted["span"];
    for (field, value) in [
        ("pod", pod.name.as_str()),
        ("namespace", &pod.namespace),
        ("service_account", &pod.service_account),
        ("class", "test-class"),
    ] {
        assert_eq!(of[field], value, "{mounted}");
    }
    // Repeated identical failures are logged only once.
    let [failed] = lines_with("mount failed")[..] else { panic!("{log}") };
    assert_eq!((&failed["level"], &failed["code"]), (&"WARN".into(), &"NotFound".into()));
    assert!(failed["error"].as_str().unwrap().contains("[VM0051]"), "{failed}");
    let [id, other] = [of, &failed["span"]].map(|span| span["request_id"].as_str().unwrap().split_once('-').unwrap());
    assert!(id.0 == other.0 && id.1 != other.1, "{id:?} {other:?}");
}

/// Checks that every line identifies its pod, as far as the request contains it.
#[tokio::test]
async fn log_level_filter_keeps_pod_fields_in_failure_logs() {
    let program = ProviderProcess::start(&["--log-format=json", "--log-level=error,observe=warn,app=info"]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    let one =
        |path: &str| pod.clone().with_objects(format!("- {{objectName: a, secretPath: none/{path}, secretKey: a}}"));
    let unread = pod.clone().with_objects("nothing");
    for _ in 0..3 {
        for pod in [&one("a"), &one("b"), &unread] {
            assert!(client.mount(pod.mount_call()).await.is_err());
        }
    }
    let mut unreadable = unread.mount_call();
    unreadable.attributes = "no JSON".to_owned();
    unreadable.target_path = "/elsewhere".to_owned();
    assert!(client.mount(unreadable).await.is_err());
    program.terminate();
    let log = program.wait_for_log().await;
    let failures = log.lines().filter(|line| line.contains("mount failed"));
    let lines: Vec<Value> = failures.map(|line| serde_json::from_str(line).unwrap()).collect();
    let [a, b, unread, unreadable] = &lines[..] else { panic!("{log}") };
    for (line, text, objects) in [(a, "none/a", Some("a")), (b, "none/b", Some("a")), (unread, "objects: ", None)] {
        assert!(line["error"].as_str().unwrap().contains(text), "{line}");
        assert_eq!(line.get("objects").and_then(Value::as_str), objects, "{line}");
        for (field, value) in [
            ("pod", pod.name.as_str()),
            ("namespace", &pod.namespace),
            ("service_account", &pod.service_account),
            ("class", "test-class"),
        ] {
            assert_eq!(line["span"][field], value, "{line}");
        }
    }
    assert!(unreadable["span"]["request_id"].is_string() && unreadable["span"].get("pod").is_none(), "{unreadable}");
}

/// Checks that a failure is logged after the driver has cancelled its call.
#[tokio::test]
async fn mount_failure_is_logged_after_caller_disconnects() {
    let vault = FaultProxy::start().await;
    let (gate, log) = (Gate::new(), tempfile::NamedTempFile::new().unwrap());
    vault.always("POST", "auth/", Fault::HoldRequest(gate.clone()));
    let audit = format!("--audit-log={}", log.path().display());
    let program = ProviderProcess::start_at(&vault.address, &[&audit]).await;
    let pod = pod().await.with_parameter("roleName", "nobody");
    let (socket, call) = (program.socket.clone(), pod.mount_call());
    let caller = tokio::spawn(async move { Client::connect(&socket).await.unwrap().mount(call).await });
    vault.wait_for(1, "POST", "auth/").await;
    caller.abort();
    // Aborting the only caller also closes its connection.
    assert!(caller.await.is_err_and(|gone| gone.is_cancelled()));
    gate.open();
    while !fs::read_to_string(log.path()).unwrap().contains(r#""event":"mount","outcome":"failed","error_id":"VM0038""#)
    {
        sleep(Duration::from_millis(20)).await;
    }
    program.terminate();
    let log = program.wait_for_log().await;
    let line = log.lines().find(|line| line.contains("mount failed")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(&format!("pod={:?}", pod.name)) && line.contains("[VM0038]"), "{line}");
}

#[tokio::test]
async fn mount_recovery_is_logged_with_failure_count() {
    let program = ProviderProcess::start(&[]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    let broken = pod.clone().with_parameter("roleName", "none");
    for _ in 0..3 {
        assert!(client.mount(broken.mount_call()).await.is_err());
    }
    for _ in 0..2 {
        client.mount(pod.mount_call()).await.unwrap();
    }
    program.terminate();
    let log = program.wait_for_log().await;
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!([count("mount failed"), count("mounted"), count("mounted after failures")], [1, 1, 1], "{log}");
    assert!(log.contains("failures=3"), "{log}");
}

#[tokio::test]
async fn log_filter_file_is_reloaded_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("filter");
    fs::write(&file, "info\n").unwrap();
    let program =
        ProviderProcess::start(&["--log-level=off,app=info", &format!("--log-filter-file={}", file.display())]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    client.mount(pod.mount_call()).await.unwrap();
    client.mount(pod.mount_call()).await.unwrap();
    // The second filter is invalid and the third file is missing: the previous filter stays in force.
    for text in [Some("warn,observe=debug"), Some("nonsense"), None] {
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        send_sighup(&program);
        // The effect of a signal cannot be observed from outside.
        sleep(Duration::from_millis(300)).await;
        client.mount(pod.mount_call()).await.unwrap();
    }
    program.terminate();
    let log = program.wait_for_log().await;
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((count("poll unchanged"), count("log filter file rejected")), (3, 2), "{log}");
    assert!(log.contains("\"nonsense\" is not a valid level") && log.contains("No such file"), "{log}");
}

#[tokio::test]
async fn cached_poll_logs_recovery() {
    let program = ProviderProcess::start(&["--log-format=json"]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    client.mount(pod.mount_call()).await.unwrap();
    assert!(client.mount(pod.clone().with_objects("nothing").mount_call()).await.is_err());
    client.mount(pod.mount_call()).await.unwrap();
    program.terminate();
    let log = program.wait_for_log().await;
    let line = log.lines().find(|line| line.contains("mounted after failures")).unwrap_or_else(|| panic!("{log}"));
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["span"]["service_account"], &line["objects"]), (&"app".into(), &"pass".into()), "{line}");
    assert!(line["endpoint"].is_string() && line["span"]["request_id"].is_string(), "{line}");
}
