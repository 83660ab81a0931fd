//! Sandbox for a page's commands: its own Vault namespace in the real OpenBao, behind TLS, a provider that serves from
//! it, and a shell that finds both. There is no cluster; `kubectl.py` stands in for it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::markdown::project_root as project;
use crate::{
    admin_endpoints::free_address,
    kube_api::KubeApi,
    support::{
        bao::{issuer_key, root_request},
        daemon::ProviderProcess,
        fault_proxy::FaultProxy,
        http,
        pod::sign_jwt,
        required_env,
        tls::CertificateAuthority,
        unique_name,
    },
};

/// Something that a page expects to exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fixture {
    /// The `kubernetes` method: roles `web` and `report` accept service accounts `shop/web` and `billing/report`.
    Login,
    /// A KV version 2 engine at `secret`, with the secrets of deploy/examples.
    Kv,
    /// A database engine at `database`, with role `web`.
    Database,
    /// A PKI engine at `pki`, with role `web`.
    Pki,
}

pub const ALL_FIXTURES: &[Fixture] = &[Fixture::Login, Fixture::Kv, Fixture::Database, Fixture::Pki];

/// Environment of a page's commands.
pub struct Sandbox {
    pub folder: TempDir,
    namespace: String,
    kube: KubeApi,
    vault: FaultProxy,
    provider: ProviderProcess,
}

/// Output and status of a command.
pub struct CommandOutput {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Service accounts with tokens: namespace and name.
const SERVICE_ACCOUNTS: [(&str, &str); 2] = [("shop", "web"), ("billing", "report")];
const AUDIENCES: [&str; 3] = ["vault", "openbao", "https://vault.example"];

impl Sandbox {
    pub async fn with_fixtures(fixtures: &[Fixture]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let namespace = unique_name("book");
        root_request("POST", &format!("sys/namespaces/{namespace}"), json!({})).await;
        let kube = start_kube_api(folder.path()).await;
        let authority = CertificateAuthority::new();
        fs::write(folder.path().join("authority.pem"), authority.pem()).unwrap();
        let front = FaultProxy::start_tls(authority.server_config_with_expiry(2100, 1, 1)).await;
        let provider = start_provider(folder.path(), &namespace, &front.address).await;
        let world = Self { folder, namespace, kube, vault: front, provider };
        world.write_files();
        for piece in fixtures {
            world.add_fixture(*piece).await;
        }
        world
    }

    /// Writes the files and programs that a page's commands find in their folder and on their path.
    fn write_files(&self) {
        let folder = self.folder.path();
        for name in ["bin", "page", "page/overlay", "page/manifests"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        for name in ["deploy", "docs"] {
            std::os::unix::fs::symlink(project().join(name), folder.join("page").join(name)).unwrap();
        }
        fs::copy(project().join("deploy/examples/kv.yaml"), folder.join("page/class.yaml")).unwrap();
        fs::copy(self.token_path("shop", "web", "vault"), folder.join("page/token")).unwrap();
        fs::write(folder.join("page/sa.pub"), issuer_key().public_key_pem()).unwrap();
        fs::copy(folder.join("authority.pem"), folder.join("page/ca.pem")).unwrap();
        fs::write(folder.join("page/manifests/shop.yaml"), MISTYPED_CLASS).unwrap();
        let here = project().join("tests/integration/docs");
        let programs = [
            ("vaultmount", format!("exec '{}' \"$@\"", env!("CARGO_BIN_EXE_vaultmount"))),
            ("vault", format!("exec sh '{}' \"$@\"", here.join("bao.sh").display())),
            ("bao", format!("exec sh '{}' \"$@\"", here.join("bao.sh").display())),
            ("kubectl", format!("exec python3 '{}' \"$@\"", here.join("kubectl.py").display())),
            // Checks only that the targets exist; running them would run these tests again.
            ("make", format!("grep -q \"^$1:\" '{}'", project().join("Makefile").display())),
        ];
        for (name, line) in programs {
            let path = folder.join("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    async fn add_fixture(&self, piece: Fixture) {
        let ask =
            async |path: &str, body: Value| root_request("POST", &format!("{}/{path}", self.namespace), body).await;
        match piece {
            Fixture::Login => {
                ask("sys/auth/kubernetes", json!({"type": "kubernetes"})).await;
                let config = json!({
                    "kubernetes_host": self.kube.url(), "kubernetes_ca_cert": placeholder_ca(),
                    "token_reviewer_jwt": REVIEWER_JWT, "disable_local_ca_jwt": true,
                });
                ask("auth/kubernetes/config", config).await;
                for (namespace, account) in SERVICE_ACCOUNTS {
                    let policy = format!(
                        "path \"secret/data/{namespace}/*\" {{ capabilities = [\"read\", \"list\"] }}\n\
                         path \"database/creds/{account}\" {{ capabilities = [\"read\"] }}\n\
                         path \"pki/issue/{account}\" {{ capabilities = [\"update\"] }}"
                    );
                    ask(&format!("sys/policies/acl/{account}"), json!({"policy": policy})).await;
                    let role = json!({
                        "bound_service_account_names": [account], "bound_service_account_namespaces": [namespace],
                        "audience": "vault", "token_policies": [account], "token_ttl": "1h",
                    });
                    ask(&format!("auth/kubernetes/role/{account}"), role).await;
                }
            }
            Fixture::Kv => {
                ask("sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}})).await;
                self.wait_for_kv("secret").await;
                for (path, data) in [
                    ("shop/db", json!({"username": "shop", "password": "made-up"})),
                    ("shop/payment", json!({"stripe_key": "sk_made_up"})),
                    ("shop/settings", json!({"currency": "EUR", "greeting": "Good day", "tax": {"standard": 19}})),
                    ("billing/report", json!({"SMTP_USER": "report", "SMTP_PASSWORD": "it's a $ecret"})),
                ] {
                    ask(&format!("secret/data/{path}"), json!({"data": data})).await;
                }
            }
            Fixture::Database => {
                ask("sys/mounts/database", json!({"type": "database"})).await;
                let (user, password, place) = postgres_settings();
                let config = json!({
                    "plugin_name": "postgresql-database-plugin", "allowed_roles": ["web"], "username": user,
                    "password": password, "max_idle_connections": -1,
                    "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{place}/postgres?sslmode=disable"),
                });
                ask("database/config/shop", config).await;
                let statement = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'"#;
                let role = json!({"db_name": "shop", "creation_statements": [statement], "default_ttl": "1h"});
                ask("database/roles/web", role).await;
            }
            Fixture::Pki => {
                ask("sys/mounts/pki", json!({"type": "pki"})).await;
                let authority = json!({"common_name": "shop", "key_type": "ec", "ttl": "720h"});
                ask("pki/root/generate/internal", authority).await;
                let role = json!({"allowed_domains": ["shop.svc"], "allow_subdomains": true, "key_type": "ec", "max_ttl": "72h"});
                ask("pki/roles/web", role).await;
            }
        }
    }

    /// Waits for a new KV version 2 engine, which is briefly unavailable while it upgrades itself.
    async fn wait_for_kv(&self, mount: &str) {
        let url = format!("{}/v1/{}/{mount}/config", required_env("VAULTMOUNT_TEST_BAO_ADDR"), self.namespace);
        for _ in 0..500 {
            if http::send("GET", &url, Some(&required_env("VAULTMOUNT_TEST_BAO_TOKEN")), None, None)
                .await
                .0
                .is_success()
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{mount} does not settle");
    }

    /// Returns the path of a service account's token.
    pub fn token_path(&self, namespace: &str, account: &str, audience: &str) -> PathBuf {
        token_file(self.folder.path(), namespace, account, audience)
    }

    /// Runs shell commands verbatim, after the page's earlier commands.
    pub async fn run(&self, commands: &str) -> CommandOutput {
        let folder = self.folder.path();
        let kept = folder.join("environment");
        let script = format!(
            "set -eu\n[ ! -e '{kept}' ] || . '{kept}'\n{commands}\nexport -p > '{kept}'\n",
            kept = kept.display(),
            commands = self.with_sandbox_addresses(commands)
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(folder.join("page")).env_clear().kill_on_drop(true);
        let output = shell.envs(self.environment()).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        CommandOutput { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn environment(&self) -> BTreeMap<&'static str, String> {
        let folder = self.folder.path().display();
        BTreeMap::from([
            ("PATH", format!("{folder}/bin:/usr/local/bin:/usr/bin:/bin")),
            ("HOME", folder.to_string()),
            ("SANDBOX", folder.to_string()),
            ("OPENBAO", required_env("VAULTMOUNT_TEST_BAO_BIN")),
            ("REVIEWER", REVIEWER_JWT.to_owned()),
            ("VAULT_ADDR", self.vault.address.clone()),
            ("VAULT_CACERT", format!("{folder}/authority.pem")),
            ("VAULT_NAMESPACE", self.namespace.clone()),
            ("ROOT_TOKEN", required_env("VAULTMOUNT_TEST_BAO_TOKEN")),
            ("HMAC_KEY", self.provider.folder.path().join("hmac.key").display().to_string()),
            ("VAULTMOUNT_STATUS_SOCKET", self.provider.socket.with_extension("status").display().to_string()),
            ("VAULTMOUNT_STATE_DIR", format!("{folder}/state")),
        ])
    }

    /// Replaces the addresses in a page with the sandbox's.
    pub fn with_sandbox_addresses(&self, text: &str) -> String {
        let (user, password, place) = postgres_settings();
        let text = [
            ("https://vault.example:8200", self.vault.address.as_str()),
            ("https://kubernetes.default.svc", &self.kube.url()),
            ("db.example:5432/shop", &format!("{place}/postgres?sslmode=disable")),
            ("username=vault password=made-up", &format!("username={user} password={password}")),
            ("https://vault.vault.svc:8200", &self.vault.address),
            ("authMount: kubernetes-prod", &format!("authMount: kubernetes\n    namespace: {}", self.namespace)),
            ("[root, \"shop/**\"]", &format!("[{}]", self.namespace)),
            ("/vault/tls/ca.crt", &self.folder.path().join("authority.pem").display().to_string()),
            ("vaultAuthNamespace: /", &format!("vaultAuthNamespace: {}", self.namespace)),
            ("amespace: team-a", &format!("amespace: {}/team-a", self.namespace)),
            ("-namespace=team-a", &format!("-namespace={}/team-a", self.namespace)),
        ]
        .iter()
        .fold(text.to_owned(), |text, (there, here)| text.replace(there, here));
        self.with_sandbox_ca(&text)
    }

    /// Replaces the certificate in a text with the sandbox's.
    fn with_sandbox_ca(&self, text: &str) -> String {
        let Some((before, rest)) = text.split_once("-----BEGIN CERTIFICATE-----") else { return text.to_owned() };
        let (_, after) = rest.split_once("-----END CERTIFICATE-----").unwrap();
        let indent = before.lines().last().unwrap_or_default();
        let authority = fs::read_to_string(self.folder.path().join("authority.pem")).unwrap();
        format!("{before}{}{after}", authority.trim_end().replace('\n', &format!("\n{indent}")))
    }

    /// Replaces the sandbox's addresses in an output with those of the page.
    pub fn with_docs_addresses(&self, printed: &str) -> String {
        let own = [format!(" in Vault namespace {}", self.namespace), format!("{}/", self.namespace)];
        let printed = printed.replace(&self.vault.address, "https://vault.example:8200");
        own.iter().fold(printed, |printed, own| printed.replace(own, ""))
    }

    /// Mounts a class of a file with the provider, for a pod of the service account that its role accepts.
    pub async fn mount(&self, file: &Path, class: &Value) -> CommandOutput {
        let text = |path: &str| class.pointer(path).and_then(Value::as_str);
        let of_report = text("/spec/parameters/roleName") == Some("report");
        let (namespace, account) = if of_report { ("billing", "report") } else { ("shop", "web") };
        let audience = text("/spec/parameters/audience").or(text("/spec/provider")).unwrap_or("vault");
        // Endpoint names need a policy file; the running provider has none.
        let by = match text("/spec/parameters/vaultEndpoint") {
            Some(_) => "--policy-file=policy.yaml".to_owned(),
            None => format!("--endpoint='{}'", self.provider.socket.display()),
        };
        self.run(&format!(
            "vaultmount mount -f '{}' --class {} --namespace {namespace} --service-account {account} --token-file '{}' {by}",
            file.display(),
            text("/metadata/name").unwrap_or_default(),
            self.token_path(namespace, account, audience).display(),
        ))
        .await
    }

    /// Mounts the page's class, stops the provider, and returns its log and audit log.
    pub async fn collect_logs(self) -> String {
        let class =
            json!({"metadata": {"name": "kv"}, "spec": {"provider": "vault", "parameters": {"roleName": "web"}}});
        let ran = self.mount(&project().join("deploy/examples/kv.yaml"), &class).await;
        assert!(ran.success, "{}", ran.stderr);
        self.provider.terminate();
        let log = self.provider.wait_for_log().await;
        log + &fs::read_to_string(self.folder.path().join("audit.log")).unwrap()
    }

    /// Returns the arguments of every `kubectl` call.
    pub fn kubectl_calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("kubectl.log")).unwrap_or_default();
        log.lines().map(|line| format!("kubectl {line}")).collect()
    }
}

/// The class with a mistake that reference/commands.md shows in `validate` output.
const MISTYPED_CLASS: &str = "\
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: shop
  namespace: shop
spec:
  provider: vault
  parameters:
    roleName: web
    objects: |
      - objectName: stripe
        # From the finance team.
        secretPath: secret/data/shop/payment
        secretkey: stripe_key
";

/// Token that OpenBao sends to the API server; any value is accepted there.
const REVIEWER_JWT: &str = "eyJhbGciOiJub25lIn0.e30.";

/// Returns a placeholder CA, which OpenBao requires although the API server speaks plain HTTP.
fn placeholder_ca() -> String {
    CertificateAuthority::new().pem()
}

/// Starts an API server that knows the tokens of [`SERVICE_ACCOUNTS`], and writes these tokens to files.
async fn start_kube_api(folder: &Path) -> KubeApi {
    fs::create_dir(folder.join("tokens")).unwrap();
    let mut api = KubeApi::builder();
    for (namespace, account) in SERVICE_ACCOUNTS {
        for audience in AUDIENCES {
            let token = sign_token(namespace, account, audience);
            fs::write(token_file(folder, namespace, account, audience), &token).unwrap();
            let user = json!({
                "username": format!("system:serviceaccount:{namespace}:{account}"), "uid": format!("{account}-uid"),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}")],
            });
            let status = json!({"authenticated": true, "user": user, "audiences": [audience]});
            api = api.token_review(&token, status);
        }
    }
    api.start().await
}

fn sign_token(namespace: &str, account: &str, audience: &str) -> String {
    let now = jiff::Timestamp::now().as_second();
    sign_jwt(&json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "aud": [audience],
        "iat": now, "nbf": now, "exp": now + 3600, "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "kubernetes.io": {
            "namespace": namespace,
            "pod": {"name": format!("{account}-0"), "uid": unique_name("pod")},
            "serviceaccount": {"name": account, "uid": format!("{account}-uid")},
        },
    }))
}

fn token_file(folder: &Path, namespace: &str, account: &str, audience: &str) -> PathBuf {
    let audience: String = audience.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    folder.join(format!("tokens/{namespace}.{account}.{audience}"))
}

/// Starts a provider for this Vault namespace.
async fn start_provider(folder: &Path, namespace: &str, address: &str) -> ProviderProcess {
    let flags = [
        format!("--vault-namespace={namespace}"),
        format!("--vault-tls-ca-cert={}", folder.join("authority.pem").display()),
        format!("--state-dir={}", folder.join("state").display()),
        format!("--audit-log={}", folder.join("audit.log").display()),
        format!("--metrics-addr={}", free_address()),
        "--log-format=json".to_owned(),
    ];
    ProviderProcess::start_at(address, &flags.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Returns the user, password and address for PostgreSQL.
fn postgres_settings() -> (String, String, String) {
    let server: ::http::Uri = required_env("VAULTMOUNT_TEST_PG_URL").parse().unwrap();
    let (login, place) = server.authority().unwrap().as_str().split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    (user.to_owned(), password.to_owned(), place.to_owned())
}
