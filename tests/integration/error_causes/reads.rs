//! Read errors.

use serde_json::{Value, json};

use super::{MountCase, SECRET_MARK, fixture, single_object};
use crate::support::{
    bao::{Tenant, root_request},
    database::DatabaseEngine,
    unique_name,
};

/// Mounts an engine that the tenant's role `app` may use, and returns its path.
async fn mount_engine(tenant: &Tenant, kind: &str, options: Value) -> String {
    let path = unique_name(kind);
    root_request("POST", &format!("sys/mounts/{path}"), json!({"type": kind, "options": options})).await;
    tenant.set_policy(&format!("path \"{path}/*\" {{ capabilities = [\"read\", \"update\", \"list\"] }}")).await;
    path
}

/// Creates a PKI engine with a role `web` that issues names below `shop.example`.
async fn pki_engine(tenant: &Tenant) -> String {
    let pki = mount_engine(tenant, "pki", Value::Null).await;
    root_request("POST", &format!("{pki}/root/generate/internal"), json!({"common_name": "Test CA", "key_type": "ec"}))
        .await;
    let role = json!({"allowed_domains": "shop.example", "allow_subdomains": true, "key_type": "ec", "ttl": "1h"});
    root_request("POST", &format!("{pki}/roles/web"), role).await;
    pki
}

pub async fn vault_policy_denied() -> [MountCase; 6] {
    let (tenant, pod) = fixture().await;
    let Tenant { policy, kv, address, .. } = &tenant;
    tenant.set_policy(&format!("path \"{kv}/data/db\" {{ capabilities = [\"read\"] }}")).await;
    let role_and_policies = format!("role \"app\" (policies default, {policy})");
    let write = format!(", method: PUT, secretArgs: {{data: {{x: {SECRET_MARK}}}}}");
    let meant = format!("did you mean secretPath: {kv}/data/db (the engine there is KV version 2)?");
    let cases = [
        ("data/other", "", "reading", "\"read\"", "correct secretPath"),
        ("data/db", write.as_str(), "writing", "\"create\", \"update\"", "correct secretPath"),
        ("metadata", ", method: LIST", "listing", "\"list\"", "correct secretPath"),
        ("db", "", "reading", "\"read\"", &meant),
    ];
    // The fix contains no policy stanza for a path that a policy would match more broadly than intended.
    let odd = [("data/*", "takes no wildcards"), ("data/a{{b}}", "correct secretPath")].map(|(path, next)| {
        let expected = [&role_and_policies, next, "or have a policy of the role allow [\"read\"] on that path alone"];
        MountCase::for_pod(pod.clone().with_objects(single_object(&format!("{kv}/{path}"), "")), &expected)
            .with_check_flags(&["--create"])
    });
    let [wild, template] = odd;
    let [other, write, list, meant] = cases.map(|(path, more, verb, capabilities, next)| {
        let end = if verb == "listing" { "/" } else { "" };
        let line = format!("path \"{kv}/{path}{end}\" {{ capabilities = [{capabilities}] }}");
        let parts = [&role_and_policies, &format!("denied {verb} {kv}/{path}"), address, next, &line];
        MountCase::for_pod(pod.clone().with_objects(single_object(&format!("{kv}/{path}"), more)), &parts)
            .with_check_flags(&["--create"])
    });
    [other, write, list, meant, wild, template]
}

pub async fn secret_missing() -> Vec<MountCase> {
    let (tenant, pod) = fixture().await;
    let kv = &tenant.kv;
    for name in ["shop/payment", "shop/web", "shop/a/b", "many/1", "many/2", "many/3", "many/4", "many/5", "many/6"] {
        tenant.write_secret(name, json!({"pass": SECRET_MARK})).await;
    }
    let scenario = |path: &str, expected: &[&str]| {
        let place = format!("{kv}/data/{path}").split('?').next().unwrap().to_owned();
        let parts: Vec<&str> = expected.iter().copied().chain([place.as_str(), &tenant.address]).collect();
        MountCase::for_pod(pod.clone().with_objects(single_object(&format!("{kv}/data/{path}"), "")), &parts)
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

    let namespace = unique_name("ns");
    root_request("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
    root_request("POST", &format!("{namespace}/sys/mounts/kv"), json!({"type": "kv", "options": {"version": "1"}}))
        .await;
    root_request("POST", &format!("{namespace}/kv/payment"), json!({"pass": SECRET_MARK})).await;
    let more = format!("path \"{namespace}/kv/*\" {{ capabilities = [\"read\", \"list\"] }}");
    tenant.set_policy(&format!("path \"{kv}/*\" {{ capabilities = [\"read\", \"list\"] }}\n{more}")).await;
    let inner = pod.clone().with_parameter("vaultNamespace", &namespace).with_parameter("vaultAuthNamespace", "root");
    let inner = inner.with_objects(single_object("kv/paymemt", ""));
    let inner = MountCase::for_pod(
        inner,
        &["no secret at kv/paymemt in Vault namespace", "secretPath: kv/payment?", create[0]],
    );

    let (silent, pod) = fixture().await;
    silent.write_secret("payment", json!({"pass": SECRET_MARK})).await;
    silent.set_policy(&format!("path \"{}/data/*\" {{ capabilities = [\"read\"] }}", silent.kv)).await;
    let unlisted = pod.with_objects(single_object(&format!("{}/data/paymnt", silent.kv), ""));
    let unlisted =
        MountCase::for_pod(unlisted, &["no secret at", "correct secretPath, or create the secret", create[1]]);
    let own = MountCase::for_pod(
        fixture().await.1.with_objects(single_object("cubbyhole/none", "")),
        &["no secret at cubbyhole/none"],
    );
    let all = scenarios.into_iter().chain([inner, unlisted, own]);
    all.map(|scenario| scenario.with_check_flags(&["--create"])).collect()
}

pub async fn version_deleted() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let kv = &tenant.kv;
    for name in ["deleted", "destroyed"] {
        tenant.write_secret(name, json!({"pass": SECRET_MARK})).await;
    }
    root_request("DELETE", &format!("{kv}/data/deleted"), Value::Null).await;
    root_request("PUT", &format!("{kv}/destroy/destroyed"), json!({"versions": [1]})).await;
    let scenario = |name: &str, expected: &[&str]| {
        MountCase::for_pod(
            pod.clone().with_objects(single_object(&format!("{kv}/data/{name}"), ", secretKey: pass")),
            expected,
        )
    };
    let deleted = format!("version 1 of {kv}/data/deleted was deleted at 20");
    let destroyed = format!("version 1 of {kv}/data/destroyed was destroyed");
    [
        scenario("deleted", &[&deleted, "undelete it", "?version=N"]),
        scenario("destroyed", &[&destroyed, "write a new version, or ask"]),
    ]
}

pub async fn kv2_path() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let kv = &tenant.kv;
    let read = format!("did you mean secretPath: {kv}/data/db (the engine there is KV version 2)?");
    let list = format!("did you mean secretPath: {kv}/metadata/team (the engine there is KV version 2)?");
    [
        MountCase::for_pod(
            pod.clone().with_objects(single_object(&format!("{kv}/db"), "")),
            &[&format!("no secret at {kv}/db"), &read],
        ),
        MountCase::for_pod(
            pod.with_objects(single_object(&format!("{kv}/team"), ", method: LIST")),
            &["nothing to list", &list],
        ),
    ]
}

pub async fn kv1_path() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let kv1 = mount_engine(&tenant, "kv", json!({"version": "1"})).await;
    root_request("POST", &format!("{kv1}/db"), json!({"pass": SECRET_MARK})).await;
    let next = format!("did you mean secretPath: {kv1}/db (the engine there is KV version 1)?");
    let pod = pod.with_objects(single_object(&format!("{kv1}/data/db"), ", secretKey: pass"));
    [MountCase::for_pod(pod, &[&format!("no secret at {kv1}/data/db"), &next])]
}

pub async fn engine_missing() -> [MountCase; 3] {
    let (tenant, pod) = fixture().await;
    let (db, pki) = (DatabaseEngine::for_tenant(&tenant).await.mount, pki_engine(&tenant).await);
    let paths = [format!("{db}/*"), format!("{pki}/*"), "nowhere/*".to_owned()];
    let policy = paths.map(|path| format!("path \"{path}\" {{ capabilities = [\"read\", \"update\"] }}"));
    tenant.set_policy(&policy.join("\n")).await;
    let creds = [
        format!("the database engine at {db}/ has no path \"cred/web\" for method GET"),
        format!("credentials are read at {db}/creds/ROLE"),
    ];
    let issue = [
        format!("the pki engine at {pki}/ has no path \"isue/web\" for method PUT"),
        format!("`method: PUT` at {pki}/issue/ROLE"),
    ];
    let elsewhere = [(format!("{db}/cred/web"), "", creds), (format!("{pki}/isue/web"), ", method: PUT", issue)];
    let [creds, issue] = elsewhere.map(|(path, more, expected)| {
        let expected = expected.each_ref().map(String::as_str);
        MountCase::for_pod(pod.clone().with_objects(single_object(&path, more)), &expected)
            .with_check_flags(&["--create"])
    });
    let expected = ["no secrets engine answers at nowhere/db", "no handler for route", "engine's mount path"];
    [
        MountCase::for_pod(pod.with_objects(single_object("nowhere/db", "")), &expected)
            .with_check_flags(&["--create"]),
        creds,
        issue,
    ]
}

pub async fn engine_role_missing() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let path = format!("{}/creds/nobody", DatabaseEngine::for_tenant(&tenant).await.mount);
    tenant.set_policy(&format!("path \"{path}\" {{ capabilities = [\"read\"] }}")).await;
    let (other, issuing) = fixture().await;
    let issue = format!("{}/issue/nobody", pki_engine(&other).await);
    let class = single_object(&issue, ", method: PUT, secretArgs: {common_name: a.shop.example}");
    let expected = ["no role for", "unknown role: nobody", "end of secretPath", "create it"];
    [
        MountCase::for_pod(pod.with_objects(single_object(&path, "")), &expected),
        MountCase::for_pod(issuing.with_objects(class), &expected),
    ]
    .map(|scenario| scenario.with_check_flags(&["--create"]))
}

pub async fn backend_down() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let DatabaseEngine { mount, path, .. } = DatabaseEngine::for_tenant(&tenant).await;
    let config = json!({
        "plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"], "verify_connection": false,
        "connection_url": "postgresql://{{username}}:{{password}}@127.0.0.1:1/postgres?sslmode=disable",
        "username": "vault", "password": SECRET_MARK,
    });
    root_request("POST", &format!("{mount}/config/pg"), config).await;
    let expected = ["cannot reach the backend of", &path, "127.0.0.1:1", "refused", "connection settings"];
    [MountCase::for_pod(pod.with_objects(single_object(&path, "")), &expected).with_check_flags(&["--create"])]
}

pub async fn method_not_allowed() -> [MountCase; 2] {
    let (other, list) = fixture().await;
    let meant = format!("did you mean secretPath: {}/metadata/shop (the engine there is KV version 2)?", other.kv);
    let list = list.with_objects(single_object(&format!("{}/data/shop", other.kv), ", method: LIST"));
    let list = MountCase::for_pod(list, &["does not take method LIST", &meant]);
    let (tenant, pod) = fixture().await;
    let path = format!("{}/issue/web", pki_engine(&tenant).await);
    let expected = [&path, "GET", "unsupported operation", "method: PUT", "secretArgs"];
    [MountCase::for_pod(pod.with_objects(single_object(&path, "")), &expected).with_check_flags(&["--create"]), list]
}

pub async fn argument_refused() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let path = format!("{}/issue/web", pki_engine(&tenant).await);
    let class = single_object(&path, &format!(", method: PUT, secretArgs: {{common_name: {SECRET_MARK}.example}}"));
    let expected = [&path, "common name [argument] not allowed by this role", "correct secretArgs", "allowed names"];
    [MountCase::for_pod(pod.with_objects(class), &expected).with_check_flags(&["--create"])]
}

pub async fn read_refused() -> [MountCase; 1] {
    let (tenant, pod) = fixture().await;
    let path = format!("{}/issue/web", pki_engine(&tenant).await);
    let expected = [&path, "status 400", "common_name", "correct secretPath, method or secretArgs"];
    [MountCase::for_pod(pod.with_objects(single_object(&path, ", method: PUT")), &expected)
        .with_check_flags(&["--create"])]
}

pub async fn no_data() -> [MountCase; 3] {
    let (tenant, pod) = fixture().await;
    let pki = pki_engine(&tenant).await;
    let raw = [("ca/pem", "ca"), ("crl", "crl")].map(|(path, instead)| {
        let next = format!("read {pki}/cert/{instead} instead, with `secretKey: certificate`");
        MountCase::for_pod(
            pod.clone().with_objects(single_object(&format!("{pki}/{path}"), "")),
            &["returned a body that is not JSON", &next],
        )
    });
    let [ca, crl] = raw;
    tenant.set_policy(&format!("path \"{pki}/*\" {{ capabilities = [\"read\"] }}\npath \"cubbyhole/*\" {{ capabilities = [\"create\", \"update\"] }}")).await;
    let class = single_object("cubbyhole/note", &format!(", method: PUT, secretArgs: {{text: {SECRET_MARK}}}"));
    let expected = ["writing cubbyhole/note", "no data", "read a path that returns data"];
    [MountCase::for_pod(pod.with_objects(class), &expected).with_check_flags(&["--create"]), ca, crl]
}

pub async fn engine_setup() -> [MountCase; 2] {
    let (tenant, pod) = fixture().await;
    let mount = DatabaseEngine::for_tenant(&tenant).await.mount;
    for (role, connection) in [("web", "pg"), ("lost", "none")] {
        let role = format!("{mount}/roles/{role}");
        root_request("POST", &role, json!({"db_name": connection, "creation_statements": ["CREATE ROLE x"]})).await;
    }
    tenant.set_policy(&format!("path \"{mount}/creds/*\" {{ capabilities = [\"read\"] }}")).await;
    let allowed = format!("add the role to allowed_roles of its connection ({mount}/config/NAME)");
    let written = format!("write the connection ({mount}/config/NAME), or correct the role's db_name");
    [("web", "is not an allowed role", allowed), ("lost", "name: \"none\"", written)].map(|(role, words, fix)| {
        MountCase::for_pod(
            pod.clone().with_objects(single_object(&format!("{mount}/creds/{role}"), "")),
            &[words, &fix],
        )
        .with_check_flags(&["--create"])
    })
}
