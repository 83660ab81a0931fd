//! A server that cannot be asked: whoever has something keeps it at once, whoever has nothing hears why at once, and nobody asks
//! but one probe. And what is no outage.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use vaultmount::error::Cause;

use super::{SECRET, Stage, assert_says, each, leap, only, reader, tenant};
use crate::operating::{free, told};
use crate::support::{
    clock::REFRESH,
    daemon::{Daemon, Program},
    faulty::{Fault, Faulty, Gate, answer, status},
    log::{Log, settle},
    pod::Pod,
    policy::Policy,
    server::Server,
    standing::{self, down, is_down, until_down, until_up},
    tls::Authority,
};

/// The longest that a poll which meets an outage may take, and what needs no waiting for anybody.
const FIRST: Duration = Duration::from_millis(2800);
const AT_ONCE: Duration = Duration::from_millis(250);

/// From now on every request fares so.
fn everything(vault: &Faulty, fault: &Fault) {
    for method in ["GET", "POST", "PUT", "LIST"] {
        vault.every(method, "", fault.clone());
    }
}

#[tokio::test]
async fn while_vault_is_down_pods_keep_what_they_have_at_once_and_new_ones_hear_why_at_once() {
    let no_leader = "local node not active but active cluster node not found";
    let faults = [
        (status(503, "Vault is sealed"), Cause::Sealed, "it said: Vault is sealed"),
        (status(500, no_leader), Cause::NoLeader, no_leader),
        (status(500, "internal error"), Cause::ServerFault, "status 500"),
        (status(502, "no backend"), Cause::ServerFault, "status 502"),
        (Fault::LoseRequest, Cause::Unreachable, "was lost"),
        (Fault::Hold(Gate::new()), Cause::Unreachable, "does not say within 1.5s how it is"),
    ];
    let tenant = Arc::new(tenant().await);
    // One after another, as each lets time pass.
    for (fault, expected, said) in faults {
        let stage = Stage::of(&tenant).await;
        let (pod, new) = (stage.pod(), stage.pod());
        stage.daemon.mount(pod.call()).await.unwrap();
        leap(REFRESH).await;
        everything(&stage.vault, &fault);
        let begun = Instant::now();
        assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), SECRET);
        assert!(begun.elapsed() < FIRST, "{said}: {:?}", begun.elapsed());
        until_down(&stage.daemon).await;

        let before = stage.vault.asked();
        for _ in 0..10 {
            let begun = Instant::now();
            assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), SECRET);
            let (cause, text) = stage.refusal(&new).await;
            assert_eq!(cause, expected, "{text}");
            assert_says(&text, &[said, &stage.vault.address, "known since 2", "asked again by itself"]);
            assert!(begun.elapsed() < AT_ONCE * 2, "{said}: {:?}", begun.elapsed());
        }
        assert_eq!(stage.vault.asked(), before, "{said}: somebody asked");

        stage.tenant.put("db", json!({"pass": SECRET})).await;
        stage.vault.heal();
        until_up(&stage.daemon).await;
        assert_eq!(only(&stage.daemon.mount(new.call()).await.unwrap()), SECRET);
        let before = stage.vault.asked();
        assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), SECRET);
        assert!(stage.vault.asked() > before, "{said}: what is old is read again");
    }
}

/// What is told of a server's being up, once it is this.
async fn comes_to(metrics: &str, address: &str, up: Option<&str>) {
    let series = format!("vaultmount_endpoint_up{{endpoint=\"{address}\"}}");
    let begun = Instant::now();
    while told(metrics, &series).await.as_deref() != up {
        assert!(begun.elapsed() < Duration::from_secs(10), "{address} does not come to {up:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn servers_that_nobody_uses_are_told_of_once_they_were_asked() {
    let (log, metrics) = (Log::new(), free());
    let (vault, named, later, silent) =
        (Faulty::start().await, Faulty::start().await, Faulty::start().await, Faulty::start().await);
    everything(&named, &status(503, "Vault is sealed"));
    let gate = Gate::new();
    everything(&silent, &Fault::HoldAnswer(gate.clone()));
    let nowhere = format!("http://{}", free());
    let endpoints = |more: &str| {
        format!(
            "endpoints: {{named: {{address: \"{}\"}}, silent: {{address: \"{}\"}}, nowhere: {{address: \"{nowhere}\"}}{more}}}",
            named.address, silent.address
        )
    };
    let policy = Policy::new(&endpoints(""));
    let _daemon = Daemon::at(&vault.address, &[&policy.flag(), &format!("--metrics-addr={metrics}")]).await;
    for (address, up) in [(&vault.address, "1"), (&named.address, "0"), (&nowhere, "0")] {
        comes_to(&metrics, address, Some(up)).await;
    }
    comes_to(&metrics, &silent.address, None).await;
    let sealed = format!("vaultmount_endpoint_sealed{{endpoint=\"{}\"}}", named.address);
    assert_eq!(told(&metrics, &sealed).await.as_deref(), Some("1"));
    gate.open();
    comes_to(&metrics, &silent.address, Some("1")).await;
    policy.says(&endpoints(&format!(", later: {{address: \"{}\"}}", later.address)));
    log.says("the policy file has changed", 1, Duration::from_secs(10)).await;
    comes_to(&metrics, &later.address, Some("1")).await;
    assert_eq!(vault.count("GET", ""), 1, "a server that is well is asked once");
    assert_eq!(log.count("Vault is down"), 0, "{}", log.text());
}

#[tokio::test]
async fn an_idle_server_is_asked_again_seldom_and_one_that_is_away_a_little_sooner() {
    let metrics = free();
    let mut vault = Faulty::start().await;
    let _daemon = Daemon::at(&vault.address, &[&format!("--metrics-addr={metrics}")]).await;
    comes_to(&metrics, &vault.address, Some("1")).await;
    let pass = async |minutes: u32| {
        for _ in 0..minutes * 6 {
            leap(Duration::from_secs(10)).await;
            settle().await;
        }
    };
    pass(4).await;
    assert_eq!(vault.count("GET", ""), 1);
    pass(16).await;
    let asked = vault.count("GET", "");
    assert!((3..=5).contains(&asked), "{asked}");
    vault.down().await;
    pass(10).await;
    comes_to(&metrics, &vault.address, Some("0")).await;
    vault.up(None);
    pass(5).await;
    comes_to(&metrics, &vault.address, Some("1")).await;
    assert!(vault.count("GET", "") <= asked + 2);
}

#[tokio::test]
async fn a_server_that_was_away_at_the_start_is_there_for_the_first_mount() {
    let (log, metrics) = (Log::new(), free());
    let (tenant, mut vault) = (tenant().await, Faulty::start().await);
    vault.down().await;
    let daemon = Daemon::at(&vault.address, &[&format!("--metrics-addr={metrics}")]).await;
    comes_to(&metrics, &vault.address, Some("0")).await;
    assert!(!is_down(&daemon).await);
    vault.up(None);
    assert_eq!(only(&daemon.mount(reader(&tenant).call()).await.unwrap()), SECRET);
    comes_to(&metrics, &vault.address, Some("1")).await;
    assert_eq!(log.count("Vault is"), 0, "{}", log.text());
}

#[tokio::test]
async fn a_server_that_nobody_listens_at_is_asked_by_one_probe_more_and_more_seldom() {
    let mut stage = Stage::new().await;
    let pod = stage.pod();
    stage.daemon.mount(pod.call()).await.unwrap();
    // It may have been asked how it is when it was slow.
    leap(Duration::from_secs(2)).await;
    stage.vault.down().await;
    let (cause, text) = stage.refusal(&stage.pod()).await;
    assert_eq!(cause, Cause::Refused, "{text}");
    until_down(&stage.daemon).await;
    stage.vault.up(None);
    everything(&stage.vault, &status(503, "Vault is sealed"));
    let probes = || stage.vault.count("GET", "sys/health");
    let before = stage.vault.asked();
    // Ten minutes, with a poll every half minute.
    for _ in 0..600 {
        leap(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        if probes() % 2 == 0 {
            stage.daemon.mount(pod.call()).await.unwrap();
        }
    }
    // After half a minute there is one every 15 to 30 s.
    assert!((20..=50).contains(&probes()), "{}", probes());
    assert_eq!(stage.vault.asked(), before);
    let told = down(&stage.daemon).await;
    assert_eq!(told.len(), 1);
    assert_says(told[0]["error"].as_str().unwrap(), &["is sealed", "[VM0020]"]);
    assert_eq!(told[0]["address"], stage.vault.address.as_str());
}

#[tokio::test]
async fn a_new_pod_has_a_server_probed_soon_that_was_down_for_long() {
    let stage = Stage::new().await;
    everything(&stage.vault, &status(503, "Vault is sealed"));
    stage.refusal(&stage.pod()).await;
    until_down(&stage.daemon).await;
    for _ in 0..90 {
        leap(Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let probes = stage.vault.count("GET", "sys/health");
    stage.refusal(&stage.pod()).await;
    // By itself it would come after 15 s at the earliest; a pause of a second is kept.
    leap(Duration::from_secs(1)).await;
    stage.vault.saw(probes + 1, "GET", "sys/health").await;
}

#[tokio::test]
async fn one_path_that_fails_or_hangs_or_is_limited_is_no_outage() {
    let faults = [
        status(500, "connection refused"),
        status(503, "no backend"),
        status(429, "quota"),
        status(412, "behind"),
        Fault::LoseRequest,
        Fault::LoseAnswer,
        Fault::Hold(Gate::new()),
    ];
    let (tenant, other) = (Arc::new(tenant().await), tenant().await);
    for fault in faults {
        let stage = Stage::of(&tenant).await;
        let pod = stage.pod();
        stage.daemon.mount(pod.call()).await.unwrap();
        leap(REFRESH).await;
        for path in [stage.secret(), stage.login()] {
            stage.vault.every("GET", &path, fault.clone());
            stage.vault.every("POST", &path, fault.clone());
        }
        // The pod has something, and does not wait for long for something newer; twice, so that a doubt was looked into.
        for _ in 0..2 {
            let begun = Instant::now();
            assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), SECRET);
            assert!(begun.elapsed() < FIRST, "{:?}", begun.elapsed());
        }
        stage.settle().await;
        assert!(!is_down(&stage.daemon).await);
        assert_eq!(only(&stage.daemon.mount(reader(&other).call()).await.unwrap()), SECRET);
    }
}

#[tokio::test]
async fn what_stands_before_a_server_and_hides_how_it_is_makes_no_outage() {
    let hidden = [status(403, "no"), status(429, "quota"), answer(404, &[], "<html>no such page</html>")];
    each(hidden, async |stage, hidden| {
        stage.vault.every("GET", "sys/health", hidden);
        stage.vault.next(1, "GET", &stage.secret(), status(500, "internal error"));
        assert_eq!(stage.refusal(&stage.pod()).await.0, Cause::ServerFault);
        stage.vault.saw(2, "GET", "sys/health").await;
        assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
        assert!(!is_down(&stage.daemon).await);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_answers_others_is_not_down_though_it_does_not_say_how_it_is() {
    let stage = Stage::new().await;
    stage.vault.every("GET", "sys/health", Fault::Hold(Gate::new()));
    stage.vault.next(1, "GET", &stage.secret(), status(500, "internal error"));
    assert_eq!(stage.refusal(&stage.pod()).await.0, Cause::ServerFault);
    stage.vault.saw(2, "GET", "sys/health").await;
    assert_eq!(only(&stage.daemon.mount(stage.pod().call()).await.unwrap()), SECRET);
    tokio::time::sleep(standing::CHECK).await;
    assert!(!is_down(&stage.daemon).await);
}

#[tokio::test]
async fn what_a_poll_does_not_wait_for_is_there_at_the_next() {
    let stage = Stage::new().await;
    let pod = stage.pod();
    stage.daemon.mount(pod.call()).await.unwrap();
    stage.tenant.put("db", json!({"pass": "new"})).await;
    leap(REFRESH).await;
    let gate = Gate::new();
    stage.vault.every("GET", &stage.secret(), Fault::HoldAnswer(gate.clone()));
    let poll = stage.daemon.mount(pod.call());
    let time = async {
        stage.vault.saw(2, "GET", &stage.secret()).await;
        leap(Duration::from_secs(2)).await;
    };
    let (polled, ()) = tokio::join!(poll, time);
    assert_eq!(only(&polled.unwrap()), SECRET);
    // It was asked for as long as its caller had, and not as long as the poll waited.
    gate.open();
    assert_eq!(only(&stage.daemon.mount(pod.call()).await.unwrap()), "new");
}

#[tokio::test]
async fn a_connection_that_is_dead_holds_up_nobody_but_who_is_on_it() {
    let (tenant, authority) = (tenant().await, Authority::new());
    let vault = Faulty::tls(authority.server(None)).await;
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", front.local_addr().unwrap());
    let behind = vault.address.strip_prefix("https://").unwrap().to_owned();
    // What came before is lost, and nobody is told: a firewall that forgot the connection.
    let (forgets, forgotten) = tokio::sync::watch::channel(false);
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(async move {
        let mut passed = tokio::task::JoinSet::new();
        loop {
            let mut client = front.accept().await.unwrap().0;
            let mut server = tokio::net::TcpStream::connect(&behind).await.unwrap();
            let (mut forgotten, is_old) = (forgotten.clone(), !*forgotten.borrow());
            passed.spawn(async move {
                let copied = async { drop(tokio::io::copy_bidirectional(&mut client, &mut server).await) };
                let lost = async { drop(forgotten.wait_for(|forgotten| is_old && *forgotten).await) };
                let is_lost = tokio::select! { () = copied => false, () = lost => true };
                if is_lost {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    let daemon = Daemon::at(&address, &[]).await;
    let pod = || reader(&tenant).with("vaultCACert", authority.pem());
    daemon.mount(pod().call()).await.unwrap();
    forgets.send_replace(true);
    let hangs = pod();
    let others = async {
        vault.saw(1, "GET", "sys/health").await;
        // The answer has to arrive.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begun = Instant::now();
        assert_eq!(only(&daemon.mount(pod().call()).await.unwrap()), SECRET);
        assert!(begun.elapsed() < FIRST, "{:?}", begun.elapsed());
    };
    tokio::select! {
        _ = daemon.mount(hangs.call()) => panic!("its connection is dead"),
        () = others => {}
    }
}

#[tokio::test]
async fn a_server_that_is_unsealed_is_asked_again_by_itself() {
    let (tenant, server) = (tenant().await, Server::sealed().await);
    let daemon = Daemon::at(&server.address, &[]).await;
    let pod = || reader(&tenant);
    assert_eq!(daemon.refusal(pod().call()).await.0, Cause::Sealed);
    until_down(&daemon).await;
    let (cause, text) = daemon.refusal(pod().call()).await;
    assert_eq!(cause, Cause::Sealed);
    assert_says(&text, &["is sealed, known since", "vault operator unseal"]);
    server.unseal().await;
    until_up(&daemon).await;
    // It has nothing of the tenant's.
    assert_eq!(daemon.refusal(pod().call()).await.0, Cause::AuthMountMissing);
}

#[tokio::test]
async fn a_server_without_a_leader_is_down() {
    let (tenant, server) = (tenant().await, Server::without_leader().await);
    let daemon = Daemon::at(&server.address, &[]).await;
    assert_eq!(daemon.refusal(reader(&tenant).call()).await.0, Cause::NoLeader);
    until_down(&daemon).await;
    let (cause, text) = daemon.refusal(reader(&tenant).call()).await;
    assert_eq!(cause, Cause::NoLeader);
    assert_says(&text, &["known since", "vault operator raft list-peers"]);
}

#[tokio::test]
async fn an_outage_is_said_once_and_counted_with_its_end() {
    let (tenant, vault) = (tenant().await, Faulty::start().await);
    let metrics = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let flags = ["--refresh-interval=10s", &format!("--metrics-addr={metrics}")];
    let daemon = Program::at(&vault.address, &flags).await;
    let mut client = vaultmount::provider::client::Client::connect(&daemon.socket).await.unwrap();
    let pod: Pod = reader(&tenant);
    client.mount(pod.call()).await.unwrap();
    // The program's time is nobody's to let pass.
    tokio::time::sleep(Duration::from_secs(10)).await;
    vault.every("GET", &tenant.kv, status(500, "storage is odd"));
    client.mount(pod.call()).await.unwrap();
    vault.heal();
    everything(&vault, &status(503, "Vault is sealed"));
    let scraped =
        async || crate::support::http::text("GET", &format!("http://{metrics}/metrics"), None, None, None).await.1;
    let has = async |line: &str| scraped().await.lines().any(|l| l == line);
    let mut kept = 0;
    while !has("vaultmount_endpoints_down 1").await {
        client.mount(pod.call()).await.unwrap();
        kept += 1;
    }
    for _ in 0..10 {
        client.mount(pod.call()).await.unwrap();
    }
    assert!(has(r#"vaultmount_endpoint_transitions_total{state="down"} 1"#).await);
    assert!(
        has(&format!(r#"vaultmount_stale_polls_total{{reason="sealed"}} {}"#, kept + 10)).await,
        "{}",
        scraped().await
    );
    vault.heal();
    while !has("vaultmount_endpoints_down 0").await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(has(r#"vaultmount_endpoint_transitions_total{state="up"} 1"#).await);
    client.mount(pod.call()).await.unwrap();
    daemon.terminate();
    let log = daemon.log().await;
    let said = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((said("Vault is down: "), said("Vault is back")), (1, 1), "{log}");
    let line = log.lines().find(|line| line.contains("Vault is down: ")).unwrap();
    assert!(line.contains("is sealed") && line.contains("[VM0020]") && line.contains(&vault.address), "{line}");
    assert!(said("keeps what it has") <= kept + 1, "{log}");
    let line = log.lines().find(|line| line.contains("keeps what it has")).unwrap();
    for part in [
        &format!("pod={:?} namespace={:?}", pod.name, pod.namespace),
        "storage is odd",
        "code=\"Unavailable\" objects=pass",
        &format!("endpoint={} duration_ms=", vault.address),
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}
