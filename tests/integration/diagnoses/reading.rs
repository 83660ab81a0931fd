//! Reading.

use serde_json::{Value, json};

use super::{MARK, Scenario, arranged, one};
use crate::support::{
    bao::{Tenant, root},
    database::Database,
    unique,
};

/// Mounts an engine that the tenant's role `app` may use, and brings its path.
async fn engine(tenant: &Tenant, kind: &str, options: Value) -> String {
    let path = unique(kind);
    root("POST", &format!("sys/mounts/{path}"), json!({"type": kind, "options": options})).await;
    tenant.allow(&format!("path \"{path}/*\" {{ capabilities = [\"read\", \"update\", \"list\"] }}")).await;
    path
}

/// A PKI engine whose role `web` issues names below `shop.example`.
async fn pki(tenant: &Tenant) -> String {
    let pki = engine(tenant, "pki", Value::Null).await;
    root("POST", &format!("{pki}/root/generate/internal"), json!({"common_name": "Test CA", "key_type": "ec"})).await;
    let role = json!({"allowed_domains": "shop.example", "allow_subdomains": true, "key_type": "ec", "ttl": "1h"});
    root("POST", &format!("{pki}/roles/web"), role).await;
    pki
}

pub async fn denied() -> [Scenario; 6] {
    let (tenant, pod) = arranged().await;
    let Tenant { policy, kv, address, .. } = &tenant;
    tenant.allow(&format!("path \"{kv}/data/db\" {{ capabilities = [\"read\"] }}")).await;
    let whose = format!("role \"app\" (policies default, {policy})");
    let write = format!(", method: PUT, secretArgs: {{data: {{x: {MARK}}}}}");
    let meant = format!("did you mean secretPath: {kv}/data/db (the engine there is KV version 2)?");
    let cases = [
        ("data/other", "", "reading", "\"read\"", "correct secretPath"),
        ("data/db", write.as_str(), "writing", "\"create\", \"update\"", "correct secretPath"),
        ("metadata", ", method: LIST", "listing", "\"list\"", "correct secretPath"),
        ("db", "", "reading", "\"read\"", &meant),
    ];
    // What a policy would take for more than this path is not proposed for one.
    let odd = [("data/*", "takes no wildcards"), ("data/a{{b}}", "correct secretPath")].map(|(path, next)| {
        let says = [&whose, next, "or have a policy of the role allow [\"read\"] on that path alone"];
        Scenario::of(pod.clone().objects(one(&format!("{kv}/{path}"), "")), &says).checking(&["--create"])
    });
    let [wild, template] = odd;
    let [other, write, list, meant] = cases.map(|(path, more, verb, capabilities, next)| {
        let end = if verb == "listing" { "/" } else { "" };
        let line = format!("path \"{kv}/{path}{end}\" {{ capabilities = [{capabilities}] }}");
        let parts = [&whose, &format!("denied {verb} {kv}/{path}"), address, next, &line];
        Scenario::of(pod.clone().objects(one(&format!("{kv}/{path}"), more)), &parts).checking(&["--create"])
    });
    [other, write, list, meant, wild, template]
}

pub async fn secret_missing() -> Vec<Scenario> {
    let (tenant, pod) = arranged().await;
    let kv = &tenant.kv;
    for name in ["shop/payment", "shop/web", "shop/a/b", "many/1", "many/2", "many/3", "many/4", "many/5", "many/6"] {
        tenant.put(name, json!({"pass": MARK})).await;
    }
    let scenario = |path: &str, says: &[&str]| {
        let place = format!("{kv}/data/{path}").split('?').next().unwrap().to_owned();
        let parts: Vec<&str> = says.iter().copied().chain([place.as_str(), &tenant.address]).collect();
        Scenario::of(pod.clone().objects(one(&format!("{kv}/data/{path}"), "")), &parts)
    };
    let near = format!("did you mean secretPath: {kv}/data/shop/payment?");
    let folder = format!("there is no folder {kv}/data/shpo/; did you mean the folder {kv}/data/shop/?");
    let listed = format!("in {kv}/data/shop are \"a/\", \"payment\", \"web\": correct secretPath, or");
    let create = ["create the secret", "`optional: true` makes its absence no error"];
    let scenarios = [
        scenario("shop/paymnt", &["no secret at", &near, create[0], create[1]]),
        scenario("shpo/payment", &["no secret at", &folder, create[0], create[1]]),
        scenario("shop/other", &["no secret at", &listed, create[0]]),
        scenario("many/other", &["\"1\", \"2\", \"3\", \"4\", \"5\" and 1 more: correct secretPath"]),
        scenario(
            "shop/payment?version=7",
            &["no version 7 of", "the secret is there: name a version that it has, or none"],
        ),
    ];

    let namespace = unique("ns");
    root("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
    root("POST", &format!("{namespace}/sys/mounts/kv"), json!({"type": "kv", "options": {"version": "1"}})).await;
    root("POST", &format!("{namespace}/kv/payment"), json!({"pass": MARK})).await;
    let more = format!("path \"{namespace}/kv/*\" {{ capabilities = [\"read\", \"list\"] }}");
    tenant.allow(&format!("path \"{kv}/*\" {{ capabilities = [\"read\", \"list\"] }}\n{more}")).await;
    let inner = pod.clone().with("vaultNamespace", &namespace).with("vaultAuthNamespace", "root");
    let inner = inner.objects(one("kv/paymemt", ""));
    let inner =
        Scenario::of(inner, &["no secret at kv/paymemt in Vault namespace", "secretPath: kv/payment?", create[0]]);

    let (silent, pod) = arranged().await;
    silent.put("payment", json!({"pass": MARK})).await;
    silent.allow(&format!("path \"{}/data/*\" {{ capabilities = [\"read\"] }}", silent.kv)).await;
    let unlisted = pod.objects(one(&format!("{}/data/paymnt", silent.kv), ""));
    let unlisted = Scenario::of(unlisted, &["no secret at", "correct secretPath, or create the secret", create[1]]);
    let own = Scenario::of(arranged().await.1.objects(one("cubbyhole/none", "")), &["no secret at cubbyhole/none"]);
    let all = scenarios.into_iter().chain([inner, unlisted, own]);
    all.map(|scenario| scenario.checking(&["--create"])).collect()
}

pub async fn version_deleted() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let kv = &tenant.kv;
    for name in ["deleted", "destroyed"] {
        tenant.put(name, json!({"pass": MARK})).await;
    }
    root("DELETE", &format!("{kv}/data/deleted"), Value::Null).await;
    root("PUT", &format!("{kv}/destroy/destroyed"), json!({"versions": [1]})).await;
    let scenario = |name: &str, says: &[&str]| {
        Scenario::of(pod.clone().objects(one(&format!("{kv}/data/{name}"), ", secretKey: pass")), says)
    };
    let deleted = format!("version 1 of {kv}/data/deleted was deleted at 20");
    let destroyed = format!("version 1 of {kv}/data/destroyed was destroyed");
    [
        scenario("deleted", &[&deleted, "undelete it", "?version=N"]),
        scenario("destroyed", &[&destroyed, "write a new version, or ask"]),
    ]
}

pub async fn kv2_path() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let kv = &tenant.kv;
    let read = format!("did you mean secretPath: {kv}/data/db (the engine there is KV version 2)?");
    let list = format!("did you mean secretPath: {kv}/metadata/team (the engine there is KV version 2)?");
    [
        Scenario::of(pod.clone().objects(one(&format!("{kv}/db"), "")), &[&format!("no secret at {kv}/db"), &read]),
        Scenario::of(pod.objects(one(&format!("{kv}/team"), ", method: LIST")), &["nothing to list", &list]),
    ]
}

pub async fn kv1_path() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let kv1 = engine(&tenant, "kv", json!({"version": "1"})).await;
    root("POST", &format!("{kv1}/db"), json!({"pass": MARK})).await;
    let next = format!("did you mean secretPath: {kv1}/db (the engine there is KV version 1)?");
    let pod = pod.objects(one(&format!("{kv1}/data/db"), ", secretKey: pass"));
    [Scenario::of(pod, &[&format!("no secret at {kv1}/data/db"), &next])]
}

pub async fn engine_missing() -> [Scenario; 3] {
    let (tenant, pod) = arranged().await;
    let (db, pki) = (Database::of(&tenant).await.mount, pki(&tenant).await);
    let paths = [format!("{db}/*"), format!("{pki}/*"), "nowhere/*".to_owned()];
    let policy = paths.map(|path| format!("path \"{path}\" {{ capabilities = [\"read\", \"update\"] }}"));
    tenant.allow(&policy.join("\n")).await;
    let creds = [
        format!("the database engine at {db}/ has no path \"cred/web\" for method GET"),
        format!("credentials are read at {db}/creds/ROLE"),
    ];
    let issue = [
        format!("the pki engine at {pki}/ has no path \"isue/web\" for method PUT"),
        format!("`method: PUT` at {pki}/issue/ROLE"),
    ];
    let elsewhere = [(format!("{db}/cred/web"), "", creds), (format!("{pki}/isue/web"), ", method: PUT", issue)];
    let [creds, issue] = elsewhere.map(|(path, more, says)| {
        let says = says.each_ref().map(String::as_str);
        Scenario::of(pod.clone().objects(one(&path, more)), &says).checking(&["--create"])
    });
    let says = ["no secrets engine answers at nowhere/db", "no handler for route", "engine's mount path"];
    [Scenario::of(pod.objects(one("nowhere/db", "")), &says).checking(&["--create"]), creds, issue]
}

pub async fn engine_role_missing() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let path = format!("{}/creds/nobody", Database::of(&tenant).await.mount);
    tenant.allow(&format!("path \"{path}\" {{ capabilities = [\"read\"] }}")).await;
    let (other, issuing) = arranged().await;
    let issue = format!("{}/issue/nobody", pki(&other).await);
    let class = one(&issue, ", method: PUT, secretArgs: {common_name: a.shop.example}");
    let says = ["no role for", "unknown role: nobody", "end of secretPath", "create it"];
    [Scenario::of(pod.objects(one(&path, "")), &says), Scenario::of(issuing.objects(class), &says)]
        .map(|scenario| scenario.checking(&["--create"]))
}

pub async fn backend_down() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let Database { mount, path, .. } = Database::of(&tenant).await;
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "verify_connection": false,
        "connection_url": "postgresql://{{username}}:{{password}}@127.0.0.1:1/postgres?sslmode=disable",
        "username": "vault", "password": MARK,
    });
    root("POST", &format!("{mount}/config/pg"), config).await;
    let says = ["cannot reach what stands behind", &path, "127.0.0.1:1", "refused", "connection settings"];
    [Scenario::of(pod.objects(one(&path, "")), &says).checking(&["--create"])]
}

pub async fn method() -> [Scenario; 2] {
    let (other, list) = arranged().await;
    let meant = format!("did you mean secretPath: {}/metadata/shop (the engine there is KV version 2)?", other.kv);
    let list = list.objects(one(&format!("{}/data/shop", other.kv), ", method: LIST"));
    let list = Scenario::of(list, &["does not take method LIST", &meant]);
    let (tenant, pod) = arranged().await;
    let path = format!("{}/issue/web", pki(&tenant).await);
    let says = [&path, "GET", "unsupported operation", "method: PUT", "secretArgs"];
    [Scenario::of(pod.objects(one(&path, "")), &says).checking(&["--create"]), list]
}

pub async fn argument_refused() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let path = format!("{}/issue/web", pki(&tenant).await);
    let class = one(&path, &format!(", method: PUT, secretArgs: {{common_name: {MARK}.example}}"));
    let says = [&path, "common name [argument] not allowed by this role", "correct secretArgs", "allowed names"];
    [Scenario::of(pod.objects(class), &says).checking(&["--create"])]
}

pub async fn read_refused() -> [Scenario; 1] {
    let (tenant, pod) = arranged().await;
    let path = format!("{}/issue/web", pki(&tenant).await);
    let says = [&path, "status 400", "common_name", "correct secretPath, method or secretArgs"];
    [Scenario::of(pod.objects(one(&path, ", method: PUT")), &says).checking(&["--create"])]
}

pub async fn no_data() -> [Scenario; 3] {
    let (tenant, pod) = arranged().await;
    let pki = pki(&tenant).await;
    let raw = [("ca/pem", "ca"), ("crl", "crl")].map(|(path, instead)| {
        let next = format!("read {pki}/cert/{instead} instead, with `secretKey: certificate`");
        Scenario::of(pod.clone().objects(one(&format!("{pki}/{path}"), "")), &["something else than JSON", &next])
    });
    let [ca, crl] = raw;
    tenant.allow(&format!("path \"{pki}/*\" {{ capabilities = [\"read\"] }}\npath \"cubbyhole/*\" {{ capabilities = [\"create\", \"update\"] }}")).await;
    let class = one("cubbyhole/note", &format!(", method: PUT, secretArgs: {{text: {MARK}}}"));
    let says = ["writing cubbyhole/note", "no data", "read a path that answers with data"];
    [Scenario::of(pod.objects(class), &says).checking(&["--create"]), ca, crl]
}

pub async fn engine_setup() -> [Scenario; 2] {
    let (tenant, pod) = arranged().await;
    let mount = Database::of(&tenant).await.mount;
    for (role, connection) in [("web", "pg"), ("lost", "none")] {
        let role = format!("{mount}/roles/{role}");
        root("POST", &role, json!({"db_name": connection, "creation_statements": ["CREATE ROLE x"]})).await;
    }
    tenant.allow(&format!("path \"{mount}/creds/*\" {{ capabilities = [\"read\"] }}")).await;
    let allowed = format!("add the role to allowed_roles of its connection ({mount}/config/NAME)");
    let written = format!("write the connection ({mount}/config/NAME), or correct the role's db_name");
    [("web", "is not an allowed role", allowed), ("lost", "name: \"none\"", written)].map(|(role, words, mend)| {
        Scenario::of(pod.clone().objects(one(&format!("{mount}/creds/{role}"), "")), &[words, &mend])
            .checking(&["--create"])
    })
}
