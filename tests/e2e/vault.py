"""A real OpenBao at the node's address, with a PostgreSQL as its database. It starts sealed, and keeps its storage and audit
log on disk."""

import json
import re
import shutil
import signal
import sys
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from node import ADDRESS, ROOT, SERVICE, Node, wait

sys.path.insert(0, str(ROOT / "dev"))

import bootstrap  # noqa: E402
from servers import LOOPBACK, Postgres  # noqa: E402

VAULT = f"http://{ADDRESS}:8200"
REVIEWER = """
apiVersion: v1
kind: Namespace
metadata: {name: vault}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reviewer, namespace: vault}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: vault-reviewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:auth-delegator}
subjects: [{kind: ServiceAccount, name: reviewer, namespace: vault}]
"""
CREATE_USER = """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"""
POLICIES = {
    "web": """
        path "secret/data/web/*" { capabilities = ["read"] }
        path "database/creds/*" { capabilities = ["read"] }
    """,
    "report": """
        path "secret/data/report/*" { capabilities = ["read"] }
    """,
}


class Vault:
    """The OpenBao server, and requests to it with the root token."""

    def __init__(self, node: Node, database: Postgres):
        self.node, self.database = node, database
        self.folder = node.folder / "openbao"
        self.audit_log = node.logs / "audit.log"

    def make(self, configured: bool = True) -> None:
        """Starts a new, empty server. If `configured`, adds the configuration of the scenarios."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        config = self.folder / "config.hcl"
        config.write_text(
            f"""
            # With this multiplier the election takes 1 to 2 seconds. By default it takes 5 to 10.
            storage "raft" {{
              path                   = "{self.folder}"
              performance_multiplier = 1
            }}
            listener "tcp" {{
              address     = "{ADDRESS}:8200"
              tls_disable = true
            }}
            audit "file" "e2e" {{
              options {{ file_path = "{self.audit_log}" }}
            }}
            api_addr     = "{VAULT}"
            cluster_addr = "http://{ADDRESS}:8201"
            """
        )
        self.audit_log.unlink(missing_ok=True)
        self.node.start("openbao", bootstrap.BAO, "server", "-config", config, env={"HOME": str(self.folder)})
        self.root_token = ""
        wait("OpenBao", lambda: self.status(), self.node, "openbao")
        made = self("PUT", "sys/init", secret_shares=1, secret_threshold=1)
        self.key, self.root_token = made["keys"][0], made["root_token"]
        self.unseal()
        if configured:
            self._configure()

    def __call__(self, method: str, path: str, **body) -> dict:
        """Sends a request with the root token."""
        request = urllib.request.Request(f"{VAULT}/v1/{path}", method=method)
        request.add_header("X-Vault-Token", self.root_token)
        data = json.dumps(body).encode() if body else None
        try:
            with LOOPBACK.open(request, data, timeout=30) as response:
                return json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as refusal:
            raise RuntimeError(f"{method} {path}: {refusal.code} {refusal.read().decode()}") from None

    def put(self, path: str, **data) -> None:
        """Writes a secret to the KV engine."""
        self("POST", f"secret/data/{path}", data=data)

    def add_role(self, name: str, account: str, policy: str, **more) -> None:
        """Adds a login role for a service account of the namespace `shop`."""
        bound = {"bound_service_account_names": [account], "bound_service_account_namespaces": ["shop"]}
        options = {"audience": "vault", "token_policies": [policy], "token_ttl": "1h"} | more
        self("POST", f"auth/kubernetes/role/{name}", **bound, **options)

    def add_database_role(self, name: str, default_ttl: str, max_ttl: str = "") -> None:
        """Adds a role to the database engine. Each read of its credentials creates a user."""
        ends = {"default_ttl": default_ttl} | ({"max_ttl": max_ttl} if max_ttl else {})
        self("POST", f"database/roles/{name}", db_name="shop", creation_statements=[CREATE_USER], **ends)

    def status(self) -> dict:
        return self("GET", "sys/seal-status")

    def seal(self) -> None:
        self("PUT", "sys/seal")

    def unseal(self) -> None:
        self("PUT", "sys/unseal", key=self.key)
        # An unsealed server responds with 500 until it becomes active.
        wait("OpenBao", lambda: self("GET", "auth/token/lookup-self") is not None, self.node, "openbao")

    def end(self) -> None:
        self.node.stop("openbao")

    def restart(self) -> None:
        """Kills the server and starts it again. It is sealed afterwards."""
        self.node.stop("openbao", signal.SIGKILL)
        self.node.start("openbao")
        wait("OpenBao", lambda: self.status(), self.node, "openbao")

    def audit(self, since: float = 0) -> list:
        """Returns the response entries of the audit log since a Unix time: one for each request."""
        entries = [json.loads(line) for line in self.audit_log.read_text().splitlines()]
        return [entry for entry in entries if entry["type"] == "response" and moment(entry) >= since]

    def logins(self, account: str, since: float = 0) -> list:
        """Returns the successful logins of a Kubernetes service account."""
        named = lambda entry: entry.get("auth", {}).get("metadata", {}).get("service_account_name") == account  # noqa: E731
        login = lambda entry: entry["request"]["path"] == "auth/kubernetes/login"  # noqa: E731
        return [entry for entry in self.audit(since) if login(entry) and named(entry)]

    def refused(self, path: str, since: float) -> list:
        """Returns the requests to a path that failed."""
        return [entry for entry in self.audit(since) if entry["request"]["path"] == path and entry.get("error")]

    def reads(self, path: str, since: float = 0) -> list:
        return [entry for entry in self.audit(since) if entry["request"]["path"] == path and not entry.get("error")]

    def database_users(self) -> set:
        return set(self.database.psql("select usename from pg_user where usename like 'v-%'").split())

    def log_in(self, user: str, password: str) -> None:
        """Logs in to PostgreSQL as a user. Raises RuntimeError if the login is rejected."""
        login = f"postgres://{quote(user)}:{quote(password)}@{self.database.pg_host}/postgres"
        assert self.database.psql("select current_user", login) == user

    def reviewer(self) -> str:
        """Returns a token with permission to review other tokens."""
        self.node.kubectl("apply", "-f", "-", given=REVIEWER)
        return self.node.kubectl("create", "token", "-n", "vault", "reviewer", "--duration=24h")

    @property
    def authority(self) -> Path:
        """The path of the CA certificate of the API server."""
        return self.node.folder / "pki/apiserver.crt"

    def _configure(self) -> None:
        reviewer = self.reviewer()
        self("POST", "sys/auth/kubernetes", type="kubernetes")
        authority = self.authority.read_text()
        where = {"kubernetes_host": f"https://{SERVICE}", "kubernetes_ca_cert": authority}
        self("POST", "auth/kubernetes/config", **where, token_reviewer_jwt=reviewer, disable_local_ca_jwt=True)
        for name, policy in POLICIES.items():
            self("POST", f"sys/policies/acl/{name}", policy=policy)
            self.add_role(name, name, name)
            self.add_role(f"{name}-openbao", name, name, audience="openbao")
        self("POST", "sys/mounts/secret", type="kv", options={"version": "2"})
        # A version 2 engine responds with 400 until its setup completes.
        wait("the KV engine", lambda: self.put("web/first", value="x"), self.node, "openbao")
        admin = urlsplit(self.database.pg_url)
        self("POST", "sys/mounts/database", type="database")
        address = f"postgresql://{{{{username}}}}:{{{{password}}}}@{self.database.pg_host}/postgres?sslmode=disable"
        account = {"username": admin.username, "password": admin.password, "connection_url": address}
        options = {"plugin_name": "postgresql-database-plugin", "allowed_roles": ["*"]}
        self("POST", "database/config/shop", **options, **account)
        self.add_database_role("web", "1h")


def moment(entry: dict) -> float:
    """Returns the Unix time of an audit entry, in seconds."""
    # Python 3.11 parses six fractional digits of a second, but OpenBao writes nine.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", entry["time"])).timestamp()
