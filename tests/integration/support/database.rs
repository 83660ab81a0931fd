//! A database engine for the real PostgreSQL.

use http::Uri;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    bao::{Tenant, root_request},
    required_env,
};

/// One tenant's engine. Its role `app` creates a PostgreSQL user at each read of [`DatabaseEngine::path`].
pub struct DatabaseEngine {
    pub mount: String,
    pub path: String,
    /// Prefix of the engine's user names.
    prefix: String,
}

impl DatabaseEngine {
    /// Creates the engine, and allows role `app` of the tenant to read its credentials besides `kv`.
    pub async fn for_tenant(tenant: &Tenant) -> Self {
        let mount = format!("db-{}", tenant.policy);
        let database = Self { path: format!("{mount}/creds/app"), prefix: tenant.policy.replace('-', "_"), mount };
        let mount = &database.mount;
        let server: Uri = required_env("VAULTMOUNT_TEST_PG_URL").parse().unwrap();
        let (login, place) = server.authority().unwrap().as_str().split_once('@').unwrap();
        let (username, password) = login.split_once(':').unwrap();
        root_request("POST", &format!("sys/mounts/{mount}"), json!({"type": "database"})).await;
        let config = json!({
            "plugin_name": "postgresql-database-plugin",
            "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{place}/postgres?sslmode=disable"),
            "username": username,
            "password": password,
            "allowed_roles": ["app"],
            // PostgreSQL accepts a hundred connections, so engines of finished tests must not hold idle ones.
            "max_idle_connections": -1,
            "username_template": format!("{}_{{{{random 12 | lowercase}}}}", database.prefix),
        });
        root_request("POST", &format!("{mount}/config/pg"), config).await;
        database.write_role(json!({})).await;
        let policy = format!(
            "path \"{}/*\" {{ capabilities = [\"read\", \"list\"] }}\npath \"{}\" {{ capabilities = [\"read\"] }}",
            tenant.kv, database.path
        );
        tenant.set_policy(&policy).await;
        database
    }

    /// Writes the role; `more` overrides the defaults, which include a TTL of one hour.
    pub async fn write_role(&self, more: Value) {
        let statement = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'"#;
        let mut role = json!({"db_name": "pg", "creation_statements": [statement], "default_ttl": "1h"});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        root_request("POST", &format!("{}/roles/app", self.mount), role).await;
    }

    /// Prepares the engine for many users at once: revocation does not look up each user's privileges, and the engine
    /// holds more connections than one test needs.
    #[allow(dead_code, reason = "for runs of minutes")]
    pub async fn allow_many_users(&self, more: Value) {
        let connections = json!({"max_open_connections": 16, "max_idle_connections": 16});
        root_request("POST", &format!("{}/config/pg", self.mount), connections).await;
        let mut role = json!({"revocation_statements": [r#"DROP ROLE IF EXISTS "{{name}}""#]});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.write_role(role).await;
    }

    /// Creates a static role with this name; the engine rotates its password with this period.
    pub async fn create_static_role(&self, name: &str, period: &str) {
        let user = format!("fixed_{}", self.prefix);
        psql(&required_env("VAULTMOUNT_TEST_PG_URL"), &format!("create role {user} login password 'none'"))
            .await
            .unwrap();
        root_request("POST", &format!("{}/config/pg", self.mount), json!({"allowed_roles": ["app", name]})).await;
        let role = json!({
            "db_name": "pg", "username": user, "rotation_period": period,
            "rotation_statements": [r#"ALTER ROLE "{{name}}" PASSWORD '{{password}}'"#],
        });
        root_request("POST", &format!("{}/static-roles/{name}", self.mount), role).await;
    }

    /// Waits until no user is left. Revocation continues after its response. Users are dropped concurrently, and OpenBao
    /// retries a revocation that failed at the database after ten seconds.
    pub async fn wait_until_no_users(&self) {
        for _ in 0..600 {
            if self.users().await.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("users are left: {:?}", self.users().await);
    }

    /// Returns the names of the users that the engine has created.
    pub async fn users(&self) -> Vec<String> {
        users_with_prefix(&self.prefix).await
    }
}

/// Returns the users with this name prefix.
pub async fn users_with_prefix(prefix: &str) -> Vec<String> {
    let sql = format!("select rolname from pg_roles where starts_with(rolname, '{prefix}_') order by 1");
    let users = psql(&required_env("VAULTMOUNT_TEST_PG_URL"), &sql).await.unwrap();
    users.lines().map(str::to_owned).collect()
}

/// Logs in to PostgreSQL and returns the user name that it reports, or the error.
pub async fn log_in(username: &str, password: &str) -> Result<String, String> {
    let server = required_env("VAULTMOUNT_TEST_PG_URL");
    let (_, place) = server.split_once('@').unwrap();
    psql(&format!("postgres://{username}:{password}@{place}"), "select current_user").await
}

/// Returns the output of one SQL command.
async fn psql(url: &str, sql: &str) -> Result<String, String> {
    let mut command = Command::new(format!("{}/psql", required_env("VAULTMOUNT_TEST_PG_BIN")));
    command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, url]);
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
