//! A database engine before the real PostgreSQL.

use http::Uri;
use serde_json::json;
use tokio::process::Command;

use super::{
    bao::{Tenant, root},
    setting,
};

/// One tenant's engine, whose role `app` creates a PostgreSQL user at each read of [`Database::path`].
pub struct Database {
    pub mount: String,
    pub path: String,
    /// How the names of its users begin.
    prefix: String,
}

impl Database {
    /// Role `app` of the tenant may read its credentials, and `kv` as before.
    pub async fn of(tenant: &Tenant) -> Self {
        let mount = format!("db-{}", tenant.policy);
        let database = Self { path: format!("{mount}/creds/app"), prefix: tenant.policy.replace('-', "_"), mount };
        let mount = &database.mount;
        let server: Uri = setting("VAULTMOUNT_TEST_PG_URL").parse().unwrap();
        let (login, place) = server.authority().unwrap().as_str().split_once('@').unwrap();
        let (username, password) = login.split_once(':').unwrap();
        root("POST", &format!("sys/mounts/{mount}"), json!({"type": "database"})).await;
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
        root("POST", &format!("{mount}/config/pg"), config).await;
        let statement = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;
        let role = json!({"db_name": "pg", "creation_statements": [statement], "default_ttl": "1h"});
        root("POST", &format!("{mount}/roles/app"), role).await;
        let policy = format!(
            "path \"{}/*\" {{ capabilities = [\"read\", \"list\"] }}\npath \"{}\" {{ capabilities = [\"read\"] }}",
            tenant.kv, database.path
        );
        tenant.allow(&policy).await;
        database
    }

    /// The users it has created, by name.
    pub async fn users(&self) -> Vec<String> {
        let sql = format!("select rolname from pg_roles where starts_with(rolname, '{}_') order by 1", self.prefix);
        let psql = format!("{}/psql", setting("VAULTMOUNT_TEST_PG_BIN"));
        let mut command = Command::new(psql);
        command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", &sql]);
        let output = command.arg(setting("VAULTMOUNT_TEST_PG_URL")).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}
