//! What the log says, as whoever reads it finds it on standard error.

use std::{fs, time::Duration};

use serde_json::Value;
use tokio::time::sleep;
use vaultmount::provider::client::Client;

use crate::{
    operating::pod,
    support::{daemon::Program, pod::Pod},
};

/// Sends SIGHUP.
fn hang_up(program: &Program) {
    let pid = program.child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

#[tokio::test]
async fn a_line_of_json_tells_whose_mount_it_was_and_what_came_of_it() {
    let program = Program::start(&["--log-format=json", "--log-level=info"]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    let missing = pod.parameters.iter().find(|(name, _)| name == "objects").unwrap().1.replace("/db,", "/none,");
    let failing = Pod { uid: "another".to_owned(), ..pod.clone().objects(missing) };
    let token = failing.token("vault", 600);
    let failing = failing.pass(&[("vault", &token)]);
    client.mount(pod.call()).await.unwrap();
    for _ in 0..3 {
        client.mount(pod.call()).await.unwrap();
        assert!(client.mount(failing.call()).await.is_err());
    }
    program.terminate();
    let log = program.log().await;
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let said = |message: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
    };
    let [mounted] = said("mounted")[..] else { panic!("{log}") };
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
    // What fails in the same way again is told at its first.
    let [failed] = said("mount failed: ")[..] else { panic!("{log}") };
    assert_eq!((&failed["level"], &failed["code"]), (&"WARN".into(), &"NotFound".into()));
    assert!(failed["message"].as_str().unwrap().contains("[VM0051]"), "{failed}");
    let [id, other] = [of, &failed["span"]].map(|span| span["id"].as_str().unwrap().split_once('-').unwrap());
    assert!(id.0 == other.0 && id.1 != other.1, "{id:?} {other:?}");
}

#[tokio::test]
async fn a_mount_that_is_mended_is_told_with_how_often_it_had_failed() {
    let program = Program::start(&[]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    let broken = pod.clone().with("roleName", "none");
    for _ in 0..3 {
        assert!(client.mount(broken.call()).await.is_err());
    }
    for _ in 0..2 {
        client.mount(pod.call()).await.unwrap();
    }
    program.terminate();
    let log = program.log().await;
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!([count("mount failed"), count("mounted"), count("mounted after failures")], [1, 1, 1], "{log}");
    assert!(log.contains("failures=3"), "{log}");
}

#[tokio::test]
async fn what_is_logged_changes_with_a_file_at_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("filter");
    fs::write(&file, "info\n").unwrap();
    let program = Program::start(&["--log-level=off,app=info", &format!("--log-filter-file={}", file.display())]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    client.mount(pod.call()).await.unwrap();
    client.mount(pod.call()).await.unwrap();
    // The second is a broken file, the third one that is gone: what was said before goes on.
    for text in [Some("warn,provider=debug"), Some("nonsense"), None] {
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        hang_up(&program);
        // Nothing shows from outside that a signal has been seen.
        sleep(Duration::from_millis(300)).await;
        client.mount(pod.call()).await.unwrap();
    }
    program.terminate();
    let log = program.log().await;
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((count("mounted again, unchanged"), count("the file cannot be used")), (3, 2), "{log}");
    assert!(log.contains("\"nonsense\" is no level") && log.contains("No such file"), "{log}");
}

#[tokio::test]
async fn a_poll_that_needs_nobody_tells_of_the_failures_before_it_as_any_other() {
    let program = Program::start(&["--log-format=json"]).await;
    let mut client = Client::connect(&program.socket).await.unwrap();
    let pod = pod().await;
    client.mount(pod.call()).await.unwrap();
    assert!(client.mount(pod.clone().objects("nothing").call()).await.is_err());
    client.mount(pod.call()).await.unwrap();
    program.terminate();
    let log = program.log().await;
    let line = log.lines().find(|line| line.contains("mounted after failures")).unwrap_or_else(|| panic!("{log}"));
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["span"]["service_account"], &line["objects"]), (&"app".into(), &"pass".into()), "{line}");
    assert!(line["endpoint"].is_string() && line["span"]["id"].is_string(), "{line}");
}
