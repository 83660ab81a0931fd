//! A database engine before the real PostgreSQL.

use http::Uri;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    bao::{Tenant, root_request},
    required_env,
};

/// One tenant's engine, whose role `app` creates a PostgreSQL user at each read of [`Database::path`].
pub struct DatabaseEngine {
    pub mount: String,
    pub path: String,
    /// How the names of its users begin.
    prefix: String,
}

impl DatabaseEngine {
    /// Role `app` of the tenant may read its credentials, and `kv` as before.
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
            // PostgreSQL takes a hundred connections; engines of tests that are over would keep theirs.
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

    /// Writes the role with defaults for what `more` leaves out: credentials live for an hour.
    pub async fn write_role(&self, more: Value) {
        let statement = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}'"#;
        let mut role = json!({"db_name": "pg", "creation_statements": [statement], "default_ttl": "1h"});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        root_request("POST", &format!("{}/roles/app", self.mount), role).await;
    }

    /// Makes it fit for many users at once: what they may is not looked up one by one when they end, and the engine keeps more
    /// connections than one test needs.
    #[allow(dead_code, reason = "for runs of minutes")]
    pub async fn allow_many_users(&self, more: Value) {
        let connections = json!({"max_open_connections": 16, "max_idle_connections": 16});
        root_request("POST", &format!("{}/config/pg", self.mount), connections).await;
        let mut role = json!({"revocation_statements": [r#"DROP ROLE IF EXISTS "{{name}}""#]});
        role.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.write_role(role).await;
    }

    /// A static role of this name, whose password the engine rotates so often.
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

    /// Waits until no user is left: revocation goes on after its answer, and OpenBao tries one that failed at the database,
    /// where users are dropped at once, again after ten seconds.
    pub async fn wait_until_no_users(&self) {
        for _ in 0..600 {
            if self.users().await.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("users are left: {:?}", self.users().await);
    }

    /// The users it has created, by name.
    pub async fn users(&self) -> Vec<String> {
        users_with_prefix(&self.prefix).await
    }
}

/// The users whose names begin so.
pub async fn users_with_prefix(prefix: &str) -> Vec<String> {
    let sql = format!("select rolname from pg_roles where starts_with(rolname, '{prefix}_') order by 1");
    let users = psql(&required_env("VAULTMOUNT_TEST_PG_URL"), &sql).await.unwrap();
    users.lines().map(str::to_owned).collect()
}

/// Whom PostgreSQL takes one for who logs in so, or why it does not let them in.
pub async fn log_in(username: &str, password: &str) -> Result<String, String> {
    let server = required_env("VAULTMOUNT_TEST_PG_URL");
    let (_, place) = server.split_once('@').unwrap();
    psql(&format!("postgres://{username}:{password}@{place}"), "select current_user").await
}

/// What one command prints.
async fn psql(url: &str, sql: &str) -> Result<String, String> {
    let mut command = Command::new(format!("{}/psql", required_env("VAULTMOUNT_TEST_PG_BIN")));
    command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, url]);
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
