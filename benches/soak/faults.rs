//! Faults of Vault and the Kubernetes API.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    kube_api::{self, pods::ExpirySignal},
    pods::{Node, Rng},
    support::fault_proxy::{Fault, FaultProxy, respond, vault_error},
};

/// Duration of a fault and of the pause after it, in milliseconds. Renewals start when a third of the TTL is left, which must be
/// longer than a fault.
const FAULT_DURATION_MS: (u64, u64) = (3000, 9000);
const CALM_DURATION_MS: (u64, u64) = (4000, 9000);

const VAULT_FAULTS: [&str; 11] = [
    "500",
    "503",
    "429",
    "a proxy's page",
    "requests lost",
    "answers lost",
    "answers cut",
    "slow answers",
    "Vault down",
    "connections cut",
    "some refused",
];

const KUBERNETES_FAULTS: [&str; 7] = [
    "watch ends",
    "connections dropped",
    "history lost",
    "history lost in an event",
    "lists stale",
    "API away",
    "API fails",
];

/// Injects Vault faults one after another until `until`. Returns the proxy without faults.
pub async fn inject_vault_faults(node: Arc<Node>, mut vault: FaultProxy, until: Instant) -> FaultProxy {
    let mut dice = Rng::new(7777);
    for turn in 0.. {
        sleep(dice.duration_between(CALM_DURATION_MS.0, CALM_DURATION_MS.1)).await;
        let lasts = dice.duration_between(FAULT_DURATION_MS.0, FAULT_DURATION_MS.1);
        if Instant::now() + lasts > until {
            break;
        }
        // Round-robin, so that a short run covers all faults.
        let how = VAULT_FAULTS[turn % VAULT_FAULTS.len()];
        node.set_fault("Vault", Some(how));
        inject_vault_fault(&node, &mut vault, how, lasts, &mut dice).await;
        vault.clear_rules();
        node.set_fault("Vault", None);
    }
    vault
}

async fn inject_vault_fault(node: &Node, vault: &mut FaultProxy, how: &str, lasts: Duration, dice: &mut Rng) {
    let everything = |vault: &FaultProxy, fault: Fault| {
        for method in ["GET", "POST", "PUT", "LIST"] {
            vault.always(method, "", fault.clone());
        }
    };
    let kv = format!("{}/", node.tenant.kv);
    let login = format!("auth/{}/login", node.tenant.auth);
    match how {
        "500" => everything(vault, vault_error(500, "internal error")),
        "503" => everything(vault, vault_error(503, "Vault is sealed")),
        "429" => everything(vault, vault_error(429, "request path \"\": rate limit quota exceeded")),
        "a proxy's page" => {
            everything(vault, respond(502, &[("content-type", "text/html")], "<html>Bad Gateway</html>"));
        }
        "requests lost" => everything(vault, Fault::DropRequest),
        "answers lost" => {
            // Responses with new credentials are not dropped: such a credential would stay unused until the pod ends.
            for (method, path) in [
                ("GET", kv.as_str()),
                ("POST", login.as_str()),
                ("POST", "sys/leases/renew"),
                ("POST", "auth/token/renew-self"),
                ("POST", "auth/token/revoke-self"),
                ("GET", "auth/token/lookup-self"),
            ] {
                vault.always(method, path, Fault::DropResponse);
            }
        }
        "answers cut" => {
            vault.always("GET", &kv, Fault::TruncateResponse);
            vault.always("POST", &login, Fault::TruncateResponse);
        }
        "slow answers" => everything(vault, Fault::SlowResponse(Duration::from_millis(60))),
        "Vault down" | "connections cut" => {
            // Requests that create credentials finish first, because a lost credential would be unknown to the provider.
            vault.always("GET", &node.database.path, vault_error(503, "Vault is sealed"));
            vault.wait_until_idle(&node.database.path).await;
            vault.clear_log();
            vault.stop_listening().await;
            if how == "Vault down" {
                sleep(lasts).await;
            }
            vault.listen_again(None);
            return;
        }
        "some refused" => {
            let begun = Instant::now();
            while begun.elapsed() < lasts {
                let fault = match dice.below(4) {
                    0 => vault_error(500, "internal error"),
                    1 => vault_error(503, "Vault is sealed"),
                    2 => vault_error(429, "rate limit quota exceeded"),
                    _ => Fault::DropRequest,
                };
                let method = ["GET", "POST"][dice.below(2) as usize];
                vault.next(1, method, "", fault);
                sleep(dice.duration_between(10, 100)).await;
            }
            return;
        }
        other => unreachable!("{other}"),
    }
    sleep(lasts).await;
}

/// Injects faults of the Kubernetes API one after another until `until`.
pub async fn inject_kubernetes_faults(node: Arc<Node>, until: Instant) {
    let mut dice = Rng::new(8888);
    for turn in 0.. {
        sleep(dice.duration_between(CALM_DURATION_MS.0, CALM_DURATION_MS.1)).await;
        let lasts = dice.duration_between(FAULT_DURATION_MS.0, FAULT_DURATION_MS.1);
        if Instant::now() + lasts > until {
            break;
        }
        let how = KUBERNETES_FAULTS[turn % KUBERNETES_FAULTS.len()];
        node.set_fault("Kubernetes", Some(how));
        inject_kubernetes_fault(&node, how, lasts).await;
        node.set_fault("Kubernetes", None);
    }
}

async fn inject_kubernetes_fault(node: &Node, how: &str, lasts: Duration) {
    let api = &node.api;
    match how {
        "watch ends" => api.end_watches(),
        "connections dropped" => api.drop_connections(),
        "history lost" => {
            api.compact_history(ExpirySignal::Response);
            api.end_watches();
        }
        "history lost in an event" => {
            api.compact_history(ExpirySignal::Event);
            api.expire_watches();
        }
        "lists stale" => {
            // First a list that is some seconds old: a watch still delivers the events since then. Later those events have expired.
            api.compact_history(ExpirySignal::Response);
            api.serve_stale_lists(None);
            sleep(lasts / 2).await;
            api.expire_watches();
            sleep(lasts / 4).await;
            api.compact_history(ExpirySignal::Response);
            api.expire_watches();
            sleep(lasts / 4).await;
            api.serve_fresh_lists();
        }
        "API away" => {
            api.pause();
            api.drop_connections();
            sleep(lasts).await;
            api.resume();
        }
        "API fails" => {
            for code in [500, 503, 429, 500, 503, 429] {
                api.fail_next(kube_api::Fault::Respond(code, "{}".into()));
            }
            api.drop_connections();
            sleep(lasts).await;
        }
        other => unreachable!("{other}"),
    }
}
