//! Corrupt state: only files that cannot be read or written are lost, and the log names them.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::{RestartFixture, volume_contents, wait_until};
use crate::{
    kube_api::KubeApi,
    support::{
        clock::advance,
        daemon::{Daemon, vaultmount_command},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_state_file_costs_only_its_pod_a_login() {
    let node = RestartFixture::new().await;
    let pods = [node.pod(), node.pod(), node.pod(), node.pod(), node.pod()];
    let mut process = node.start().await;
    for pod in &pods {
        node.mount(pod).await;
    }
    process.kill().await;
    let files = node.state_files();
    assert_eq!(files.len(), pods.len());
    let whole = fs::read(&files[0]).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&files[0], changed).unwrap();
    let whole = fs::read(&files[1]).unwrap();
    fs::write(&files[1], &whole[..whole.len() / 2]).unwrap();
    fs::write(&files[2], "").unwrap();
    let mut later = fs::read(&files[3]).unwrap();
    later[4] = 250;
    fs::write(&files[3], later).unwrap();
    // A partial file of a killed process, and a foreign file.
    fs::write(node.state().join(format!("{}.new", "0".repeat(32))), "half").unwrap();
    fs::write(node.state().join("README"), "not ours").unwrap();
    process = node.start().await;
    for pod in &pods {
        node.mount(pod).await;
    }
    assert_eq!((node.count_logins(), node.count_credential_requests()), (5 + 4, 5 + 4));
    let log = process.stop().await;
    for (why, files) in [("damaged file", 2), ("truncated file", 1), ("format 250", 1)] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(why)).collect();
        assert!(matches!(lines[..], [line] if line.contains(&format!("files={files}"))), "{why}: {log}");
    }
    assert_eq!(node.state_files().len(), pods.len() + 4 + 1, "what could not be read is left for a day");
    process = node.start().await;
    for pod in &pods {
        node.mount(pod).await;
    }
    assert_eq!(node.count_logins(), 9);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hmac_key_file_change_ignores_state_and_deletes_it_in_24h() {
    let node = RestartFixture::new().await;
    let (stays, gone) = (node.pod(), node.pod());
    let process = node.start().await;
    node.mount(&stays).await;
    node.mount(&gone).await;
    process.kill().await;
    let other = node.folder.path().join("other.key");
    fs::write(&other, [b'b'; 32]).unwrap();
    let flag = format!("--hmac-key-file={}", other.display());
    let process = node.start_with(&[&flag]).await;
    node.mount(&stays).await;
    assert_eq!(node.count_logins(), 3);
    let log = process.stop().await;
    assert_eq!(log.lines().filter(|line| line.contains("a different HMAC key")).count(), 1, "{log}");
    // The pod that did not return may do so under the old key.
    let process = node.start().await;
    node.mount(&gone).await;
    assert_eq!(node.count_logins(), 3);
    process.kill().await;
    for file in node.state_files() {
        let old = SystemTime::now() - Duration::from_secs(25 * 3600);
        fs::File::open(file).unwrap().set_modified(old).unwrap();
    }
    let process = node.start_with(&[&flag]).await;
    wait_until("state sealed with another key a day ago is deleted", async || node.state_files().len() == 1).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_wait_for_hmac_key_and_keep_restored_state() {
    let node = RestartFixture::with_api(KubeApi::builder()).await;
    let pod = node.pod();
    let of_secret = ["--hmac-key-file="];
    let process = node.start_with(&of_secret).await;
    let had = node.mount(&pod).await;
    process.kill().await;
    node.api.pause();
    let process = node.start_with(&of_secret).await;
    let mut call = pod.mount_call();
    call.timeout = Some(Duration::from_secs(2));
    let mut client = vaultmount::provider::client::Client::connect(&node.socket()).await.unwrap();
    let late = client.mount(call).await.map(|_| ()).unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    assert!(late.message().contains("waited for the key"), "{late}");
    assert!(client.version().await.is_ok());
    let (waited, ()) = tokio::join!(node.mount(&pod), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.api.resume();
    });
    assert_eq!(waited, had);
    assert_eq!((node.count_logins(), node.count_credential_requests()), (1, 1));
    process.stop().await;
}

#[tokio::test]
async fn long_api_server_outage_keeps_restored_state() {
    let node = RestartFixture::new().await;
    let pod = node.pod();
    let flags = [
        format!("--kubeconfig={}", node.folder.path().join("kubeconfig").display()),
        format!("--state-dir={}", node.state().display()),
        "--hmac-key-file=".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let daemon = Daemon::start_at(&node.vault.address, &flags).await;
    let first = volume_contents(daemon.mount(pod.mount_call()).await.unwrap());
    daemon.stop().await;
    node.api.pause();
    let daemon = Daemon::start_at(&node.vault.address, &flags).await;
    for _ in 0..40 {
        advance(Duration::from_secs(15)).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.api.resume();
    let mount = daemon.mount(pod.mount_call());
    let again = async {
        // There is no pause after the last attempt.
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            advance(Duration::from_secs(2)).await;
        }
    };
    let (mounted, ()) = tokio::join!(mount, again);
    assert_eq!(volume_contents(mounted.unwrap()), first);
    assert_eq!(node.count_logins(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_dir_unwritable_fails_no_mount_and_is_logged() {
    let node = RestartFixture::new().await;
    let process = node.start().await;
    node.mount(&node.pod()).await;
    fs::remove_dir_all(node.state()).unwrap();
    fs::write(node.state(), "in the way").unwrap();
    for _ in 0..3 {
        let pod = node.pod();
        node.mount(&pod).await;
    }
    fs::remove_file(node.state()).unwrap();
    let log = process.stop().await;
    let failure_count = log.lines().filter(|line| line.contains("cannot persist session")).count();
    assert!((1..=4).contains(&failure_count), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_command_lists_and_verifies_without_secrets() {
    let node = RestartFixture::new().await;
    let (pod, other) = (node.pod(), node.pod());
    let process = node.start().await;
    node.mount(&pod).await;
    node.mount(&other).await;
    process.stop().await;
    let (state, key) = (node.state().display().to_string(), node.folder.path().join("hmac.key").display().to_string());
    let run = async |what: &str, output: &str| {
        let args = ["state", what, "--state-dir", &state, "--hmac-key-file", &key, "-o", output].map(str::to_owned);
        let done = vaultmount_command(&args).output().await.unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(!text.contains("s3cret") && !text.contains("\"s."), "{text}");
        (done.status.code().unwrap(), text)
    };
    let (code, text) = run("ls", "text").await;
    println!("{text}");
    assert!(code == 0 && text.contains(&format!("shop/{}", pod.name)), "{text}");
    let (_, json) = run("ls", "json").await;
    let listed: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&listed[0]["session"]["secrets"], &listed[0]["session"]["leased_secrets"]),
        (&2.into(), &1.into()),
        "{json}"
    );
    let (code, text) = run("verify", "text").await;
    assert!(code == 0 && text.contains("files: 2") && text.contains("all can be read"), "{text}");
    fs::write(&node.state_files()[0], "none of ours").unwrap();
    let (code, text) = run("verify", "text").await;
    assert!(code == 1 && text.contains("damaged file") && text.contains("1 cannot be read"), "{text}");
    let (code, text) = run("ls", "text").await;
    assert!(code == 0 && text.contains("damaged file"), "{text}");
}
