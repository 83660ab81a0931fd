#!/usr/bin/env python3
"""Shows vaultmount at work: a real OpenBao, a real PostgreSQL, and two pods that mount deploy/examples.

    python3 dev/demo.py

The demo needs no Kubernetes. This script signs the pods' tokens as a cluster would. `vaultmount mount` calls the running
provider over its socket as the driver would. All secrets are made up.
"""

import base64
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from bootstrap import ROOT
from servers import LOOPBACK, Servers, free_port
from subprocesses import Children, exit_on_signals

PROGRAM = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/vaultmount"
EXAMPLES = ROOT / "deploy/examples"
POLICIES = {
    "web": """
        path "secret/data/shop/*"  { capabilities = ["read"] }
        path "database/creds/web"  { capabilities = ["read"] }
        path "pki/issue/web"       { capabilities = ["update"] }
    """,
    "report": """
        path "secret/data/billing/*" { capabilities = ["read"] }
    """,
}
SECRETS = {
    "shop/payment": {"stripe_key": "sk_demo_4eC39HqLyjWD"},
    "shop/settings": {"currency": "EUR", "tax.json": {"standard": 19, "reduced": 7}, "greeting": "Good day"},
    "billing/report": {"SMTP_USER": "report", "SMTP_PASSWORD": "it's a $ecret", "RETRIES": 3},
}
CREATE_USER = """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"""


class Pod(NamedTuple):
    namespace: str
    name: str
    account: str
    token: Path


def main() -> None:
    exit_on_signals()
    begin = time.monotonic()
    build()
    with Servers() as servers:
        files = servers.folder / "demo"
        files.mkdir(mode=0o700)
        configure(servers, files)
        socket = serve(servers, files)
        web = pod(files, "shop", "web-0", "web")
        report = pod(files, "billing", "report-0", "report")

        title("KV: one key, every key, a whole secret as an env file")
        show(mount(files, socket, web, EXAMPLES / "kv.yaml"))
        show(mount(files, socket, web, EXAMPLES / "all-keys.yaml"))
        show(mount(files, socket, report, EXAMPLES / "env-file.yaml"))
        use_database(servers, files, socket, web)
        use_certificate(servers, files, socket, web)
        show_errors(files, socket, web, report)
        show_check(servers, files, web)
        revoke(servers, files, socket)
    title(f"done after {time.monotonic() - begin:.0f} s; all processes have ended and all files are removed")


def build() -> None:
    title("building vaultmount")
    with Children() as cargo:
        if cargo.wait(cargo.start(["cargo", "build", "--release"], cwd=ROOT)) != 0:
            sys.exit("demo: the build failed")


def configure(servers: Servers, files: Path) -> None:
    title("configuring OpenBao: service account logins, two roles, and KV, database and PKI engines")
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", files / "cluster.key")
    cluster_key = openssl("pkey", "-in", files / "cluster.key", "-pubout").decode()
    write = lambda path, **body: servers.bao("POST", path, body)  # noqa: E731

    write("sys/auth/kubernetes", type="jwt")
    write("auth/kubernetes/config", jwt_validation_pubkeys=[cluster_key])
    for role, namespace in (("web", "shop"), ("report", "billing")):
        write(f"sys/policies/acl/{role}", policy=POLICIES[role])
        subject = f"system:serviceaccount:{namespace}:{role}"
        binding = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": subject}
        write(f"auth/kubernetes/role/{role}", **binding, token_policies=[role], token_ttl="1h")

    for path, data in SECRETS.items():
        write(f"secret/data/{path}", data=data)

    admin = urlsplit(servers.pg_url)
    write("sys/mounts/database", type="database")
    write(
        "database/config/demo",
        plugin_name="postgresql-database-plugin",
        connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@{servers.pg_host}/postgres?sslmode=disable",
        username=admin.username,
        password=admin.password,
        allowed_roles=["web"],
    )
    write("database/roles/web", db_name="demo", creation_statements=[CREATE_USER], default_ttl="1h")

    write("sys/mounts/pki", type="pki")
    write("pki/root/generate/internal", common_name="Demo CA", key_type="ec", ttl="720h")
    write("pki/roles/web", allowed_domains=["shop.svc"], allow_subdomains=True, key_type="ec", max_ttl="72h")


def serve(servers: Servers, files: Path) -> Path:
    socket, health, key = files / "vault.sock", f"127.0.0.1:{free_port(1)}", files / "hmac.key"
    key.write_bytes(os.urandom(32))
    command = [PROGRAM, "serve", "--endpoint", socket, "--health-addr", health]
    command += ["--vault-addr", servers.bao_addr, "--hmac-key-file", key]
    title(f"starting the provider: {typed(command, files)}")
    provider = servers.start(command, log="vaultmount.log", env={})
    ready = lambda: LOOPBACK.open(f"http://{health}/health/ready", timeout=5).close()  # noqa: E731
    servers.wait_until(ready, provider, "vaultmount.log")
    return socket


def pod(files: Path, namespace: str, name: str, account: str) -> Pod:
    """Returns a pod with a token like those that kubelet passes to the driver."""
    now = int(time.time())
    bound = {
        "namespace": namespace,
        "node": {"name": "node-1", "uid": str(uuid.uuid4())},
        "pod": {"name": name, "uid": str(uuid.uuid4())},
        "serviceaccount": {"name": account, "uid": str(uuid.uuid4())},
    }
    claims = {
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": f"system:serviceaccount:{namespace}:{account}",
        "aud": ["vault"],
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "kubernetes.io": bound,
    }
    signed = b".".join(base64url(json.dumps(part).encode()) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
    signature = openssl("dgst", "-sha256", "-sign", files / "cluster.key", stdin=signed)
    token = files / f"{name}.token"
    token.write_bytes(signed + b"." + base64url(signature))
    return Pod(namespace, name, account, token)


def use_database(servers: Servers, files: Path, socket: Path, web: Pod) -> None:
    title("A separate database user for the pod")
    out = mount(files, socket, web, EXAMPLES / "database.yaml")
    show(out)
    user, password = ((out / name).read_text() for name in ("username", "password"))
    login = f"postgres://{quote(user)}:{quote(password)}@{servers.pg_host}/postgres"
    say(f"psql logs in with it: current_user = {servers.psql('select current_user', login)}")


def use_certificate(servers: Servers, files: Path, socket: Path, web: Pod) -> None:
    title("A certificate")
    out = mount(files, socket, web, EXAMPLES / "certificate.yaml")
    show(out)
    authority = files / "ca.pem"
    authority.write_text(servers.bao("GET", "pki/cert/ca")["data"]["certificate"])
    subject = openssl("x509", "-in", out / "tls.crt", "-noout", "-subject", "-enddate").decode().replace("\n", ", ")
    openssl("verify", "-CAfile", authority, out / "tls.crt")
    of_certificate = openssl("x509", "-in", out / "tls.crt", "-noout", "-pubkey")
    of_key = openssl("pkey", "-in", out / "tls.key", "-pubout")
    require(of_certificate == of_key, "the key does not match the certificate")
    say(f"openssl: signed by the CA, the key matches, {subject.rstrip(', ')}")


def show_errors(files: Path, socket: Path, web: Pod, report: Pod) -> None:
    title("Pod events for a wrong class")
    refuse(files, socket, web, "kv.yaml", "secretKey: stripe_key", "secretKey: stripe_kye")
    refuse(files, socket, web, "kv.yaml", "secret/data/shop/payment", "secret/data/shop/payments")
    refuse(files, socket, report, "env-file.yaml", "secret/data/billing/report", "secret/data/shop/payment")
    refuse(files, socket, report, "env-file.yaml", "roleName: report", "roleName: web")


def show_check(servers: Servers, files: Path, web: Pod) -> None:
    title("The same errors without a pod: validate reads only manifests, check sends requests to the server step by step")
    wrong = files / "shop.yaml"
    text = (EXAMPLES / "kv.yaml").read_text()
    wrong.write_text(text.replace("roleName:", "rolename:").replace("objectName: stripe-key", "objectName: ../stripe-key"))
    inspect(["validate", wrong], files)
    who = ["--service-account", web.account, "--token-file", web.token, "--vault-addr", servers.bao_addr]
    wrong.write_text(text.replace("secretKey: stripe_key", "secretKey: stripe_kye"))
    inspect(["check", "-f", wrong, *who], files)


def revoke(servers: Servers, files: Path, socket: Path) -> None:
    title("Sessions that the provider keeps alive for its pods, and their revocation")
    status = ["--socket", socket.with_suffix(".status")]
    for arguments in (["status", *status], ["revoke", "--all", *status]):
        command = [PROGRAM, *arguments]
        say(f"\n$ {typed(command, files)}")
        require(subprocess.run(command, timeout=30).returncode == 0, f"{arguments[0]} failed")
    users = "select count(*) from pg_roles where rolname like 'v-%'"
    # OpenBao revokes the leases of a token in the background.
    for _ in range(100):
        if servers.psql(users, servers.pg_url) == "0":
            break
        time.sleep(0.1)
    require(servers.psql(users, servers.pg_url) == "0", "a database user still exists")
    say("psql: all database users are revoked")


def inspect(arguments: list, files: Path) -> None:
    """Runs a command that must find an error (exit code 1)."""
    command = [PROGRAM, *arguments]
    say(f"\n$ {typed(command, files)}")
    require(subprocess.run(command, timeout=30).returncode == 1, f"{arguments[0]} found no error")


def refuse(files: Path, socket: Path, who: Pod, example: str, right: str, wrong: str) -> None:
    """Mounts an example with one change, which must fail."""
    text = (EXAMPLES / example).read_text()
    require(right in text, f"{example} does not contain '{right}'")
    changed = files / f"wrong-{example}"
    changed.write_text(text.replace(right, wrong))
    say(f"\n{who.namespace}/{who.name} mounts {example} with '{wrong}' instead of '{right}':")
    done = subprocess.run(mount_command(files, socket, who, changed), capture_output=True, text=True, timeout=30)
    require(done.returncode != 0, "the mount succeeded, but must fail")
    say(done.stderr.strip())


def mount(files: Path, socket: Path, who: Pod, example: Path) -> Path:
    command = mount_command(files, socket, who, example)
    say(f"\n$ {typed(command, files)}")
    done = subprocess.run(command, timeout=30)
    require(done.returncode == 0, "the mount failed")
    return out_folder(files, who, example)


def mount_command(files: Path, socket: Path, who: Pod, example: Path) -> list:
    pod_flags = ["--namespace", who.namespace, "--pod", who.name, "--service-account", who.account]
    driver_flags = ["--token-file", who.token, "--out", out_folder(files, who, example), "--endpoint", socket]
    return [PROGRAM, "mount", "-f", example, *pod_flags, *driver_flags]


def out_folder(files: Path, who: Pod, example: Path) -> Path:
    return files / who.name / example.stem


def show(folder: Path) -> None:
    """Prints the mode, name and content of each file. Of a file with more than 4 lines, prints only the first line."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        lines = path.read_text().splitlines()
        content = lines[0] + f" (and {len(lines) - 1} more lines)" if len(lines) > 4 else "\n      ".join(lines)
        say(f"  {path.stat().st_mode & 0o777:04o} {path.relative_to(folder)}\n      {content}")


def typed(command: list, files: Path) -> str:
    """Returns the command as a user would type it, without the temporary paths of this run."""
    line = " ".join(str(word) for word in command).replace(str(PROGRAM), "vaultmount")
    return line.replace(f"{files}/", "").replace(f"{ROOT}/", "")


def openssl(*arguments, stdin: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True)
    require(done.returncode == 0, f"openssl {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout


def base64url(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(otherwise)


def title(text: str) -> None:
    say(f"\n== {text}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, subprocess.SubprocessError) as failure:
        sys.exit(f"demo: {failure}")
