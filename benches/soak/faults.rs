//! What goes wrong around the provider.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    kube_api::{self, pods::Expiry},
    pods::{Dice, Node},
    support::faulty::{Fault, Faulty, answer, status},
};

/// How long one of them lasts, and the calm after it, in milliseconds: a third of what tokens and credentials live is left when
/// they are renewed, and that must be more than a fault takes.
const LASTS: (u64, u64) = (3000, 9000);
const CALM: (u64, u64) = (4000, 9000);

const OF_VAULT: [&str; 11] = [
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

const OF_KUBERNETES: [&str; 7] = [
    "watch ends",
    "connections dropped",
    "history lost",
    "history lost in an event",
    "lists stale",
    "API away",
    "API fails",
];

/// One after another until the time has come; then all is well.
pub async fn of_vault(node: Arc<Node>, mut vault: Faulty, until: Instant) -> Faulty {
    let mut dice = Dice::new(7777);
    for turn in 0.. {
        sleep(dice.time(CALM.0, CALM.1)).await;
        let lasts = dice.time(LASTS.0, LASTS.1);
        if Instant::now() + lasts > until {
            break;
        }
        // Each in turn, so that a short run has all of them.
        let how = OF_VAULT[turn % OF_VAULT.len()];
        node.misbehaves("Vault", Some(how));
        vault_fault(&node, &mut vault, how, lasts, &mut dice).await;
        vault.heal();
        node.misbehaves("Vault", None);
    }
    vault
}

async fn vault_fault(node: &Node, vault: &mut Faulty, how: &str, lasts: Duration, dice: &mut Dice) {
    let everything = |vault: &Faulty, fault: Fault| {
        for method in ["GET", "POST", "PUT", "LIST"] {
            vault.every(method, "", fault.clone());
        }
    };
    let kv = format!("{}/", node.tenant.kv);
    let login = format!("auth/{}/login", node.tenant.auth);
    match how {
        "500" => everything(vault, status(500, "internal error")),
        "503" => everything(vault, status(503, "Vault is sealed")),
        "429" => everything(vault, status(429, "request path \"\": rate limit quota exceeded")),
        "a proxy's page" => {
            everything(vault, answer(502, &[("content-type", "text/html")], "<html>Bad Gateway</html>"));
        }
        "requests lost" => everything(vault, Fault::LoseRequest),
        "answers lost" => {
            // None of requests that create credentials: those would be there for nobody until the pod ends.
            for (method, path) in [
                ("GET", kv.as_str()),
                ("POST", login.as_str()),
                ("POST", "sys/leases/renew"),
                ("POST", "auth/token/renew-self"),
                ("POST", "auth/token/revoke-self"),
                ("GET", "auth/token/lookup-self"),
            ] {
                vault.every(method, path, Fault::LoseAnswer);
            }
        }
        "answers cut" => {
            vault.every("GET", &kv, Fault::CutAnswer);
            vault.every("POST", &login, Fault::CutAnswer);
        }
        "slow answers" => everything(vault, Fault::Slow(Duration::from_millis(60))),
        "Vault down" | "connections cut" => {
            // What is being created is not cut off, as nobody would know of it.
            vault.every("GET", &node.database.path, status(503, "Vault is sealed"));
            vault.idle(&node.database.path).await;
            vault.forget();
            vault.down().await;
            if how == "Vault down" {
                sleep(lasts).await;
            }
            vault.up(None);
            return;
        }
        "some refused" => {
            let begun = Instant::now();
            while begun.elapsed() < lasts {
                let fault = match dice.roll(4) {
                    0 => status(500, "internal error"),
                    1 => status(503, "Vault is sealed"),
                    2 => status(429, "rate limit quota exceeded"),
                    _ => Fault::LoseRequest,
                };
                let method = ["GET", "POST"][dice.roll(2) as usize];
                vault.next(1, method, "", fault);
                sleep(dice.time(10, 100)).await;
            }
            return;
        }
        other => unreachable!("{other}"),
    }
    sleep(lasts).await;
}

/// The same of the Kubernetes API.
pub async fn of_kubernetes(node: Arc<Node>, until: Instant) {
    let mut dice = Dice::new(8888);
    for turn in 0.. {
        sleep(dice.time(CALM.0, CALM.1)).await;
        let lasts = dice.time(LASTS.0, LASTS.1);
        if Instant::now() + lasts > until {
            break;
        }
        let how = OF_KUBERNETES[turn % OF_KUBERNETES.len()];
        node.misbehaves("Kubernetes", Some(how));
        kubernetes_fault(&node, how, lasts).await;
        node.misbehaves("Kubernetes", None);
    }
}

async fn kubernetes_fault(node: &Node, how: &str, lasts: Duration) {
    let api = &node.api;
    match how {
        "watch ends" => api.end_watches(),
        "connections dropped" => api.drop_connections(),
        "history lost" => {
            api.forget_history(Expiry::Answer);
            api.end_watches();
        }
        "history lost in an event" => {
            api.forget_history(Expiry::Event);
            api.expire_watches();
        }
        "lists stale" => {
            // A list of some seconds ago, whose events a watch still brings; then one whose events nobody knows any more.
            api.forget_history(Expiry::Answer);
            api.stale_lists(None);
            sleep(lasts / 2).await;
            api.expire_watches();
            sleep(lasts / 4).await;
            api.forget_history(Expiry::Answer);
            api.expire_watches();
            sleep(lasts / 4).await;
            api.fresh_lists();
        }
        "API away" => {
            api.hold();
            api.drop_connections();
            sleep(lasts).await;
            api.release();
        }
        "API fails" => {
            for code in [500, 503, 429, 500, 503, 429] {
                api.fail_next(kube_api::Fault::Answer(code, "{}".into()));
            }
            api.drop_connections();
            sleep(lasts).await;
        }
        other => unreachable!("{other}"),
    }
}
