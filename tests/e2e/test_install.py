"""Installation on a node: as a replacement of the Go provider, from the manifests, and the uninstallation."""

import base64
import hashlib
import hmac
import json
import os
import socket
from pathlib import Path

import pytest

import images
from docs import assert_quoted, commands
from driver import PROVIDERS, on
from provider import FOLDER
from vault import bootstrap

CHART = Path(__file__).with_name("chart.yaml")
KEY = b"a" * 32


@pytest.fixture
def uninstalled_provider(provider):
    """The provider, uninstalled during the scenario."""
    provider.uninstall()
    yield provider
    provider.install()


@pytest.fixture
def chart(node, vault, uninstalled_provider):
    """The Go provider's chart with a local OpenBao image, and the HMAC key that the Go provider left."""
    images.put(node, images.BAO, bootstrap.BAO)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "csi"}}
    metadata = {"name": "vault-csi-provider-hmac-key", "namespace": "csi"}
    key = {"data": {"key": base64.b64encode(KEY).decode()}, "immutable": True}
    node.apply(namespace, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata} | key)
    node.kubectl("apply", "-f", CHART)
    node.kubectl("rollout", "status", "-n", "csi", "daemonset/vault-csi-provider", "--timeout=90s", timeout=100)
    yield
    node.kubectl("delete", "--ignore-not-found", "-f", CHART, "--timeout=60s", timeout=70)


def go_version(name: str, path: str, key: str, content: str) -> str:
    """Returns the Go provider's version of an object: an HMAC of the object as Go prints it, and of the content."""
    printed = {"ObjectName": name, "SecretPath": path, "SecretKey": key, "Method": "", "SecretArgs": None}
    printed = json.dumps(printed | {"FilePermission": 0, "Encoding": ""}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hmac.digest(KEY, (printed + content).encode(), hashlib.sha256)).decode()


@on("off")
def test_in_the_go_providers_place_versions_stay(shop, vault, chart):
    # This version was computed by the Go provider.
    assert go_version("db-pass", "secret/data/db", "pass", "s3cret") == "Clkdg4BFjyu6Oxd5vOpGVTwEjWrkMITwyOOwl1k0AZU="
    vault.put("web/db", password="s3cret")
    shop.add_class(
        "db",
        """
        - objectName: "db-password"
          secretPath: "secret/data/web/db"
          secretKey: "password"
        """,
    )
    pod = shop.run_pod("web", "db")
    assert pod.file("/db/db-password") == ("644", "s3cret")
    version = go_version("db-password", "secret/data/web/db", "password", "s3cret")
    assert shop.versions(pod, "db") == {"db-password": version}


@on("off", "1.6.0")
def test_a_place_is_taken_over_when_it_is_free(shop, node, vault, uninstalled_provider, chart):
    vault.put("web/a", value="x")
    shop.add_class("a", "- {objectName: a, secretPath: secret/data/web/a, secretKey: value}")
    before = shop.run_pod("before", "a")
    copy_key, look_again = commands("install.md", "Migrate from the Go provider")
    for command in copy_key:
        node.shell(command)
    uninstalled_provider.apply()
    refused = lambda: "vault.sock: another provider serves here" in uninstalled_provider.log("install")  # noqa: E731
    shop.wait("a refusal", refused)
    assert not (PROVIDERS / "vault.sock").is_symlink()
    node.kubectl("delete", "-f", CHART, "--timeout=60s", timeout=70)
    uninstalled_provider.settled()
    assert (PROVIDERS / "vault.sock").is_symlink()
    # A restart of the Go provider leaves the folder in this state.
    (PROVIDERS / "vault.sock").unlink()
    for command in look_again:
        node.shell(command)
    after = shop.run_pod("after", "a")
    assert before.file("/a/a") == after.file("/a/a") == ("644", "x")
    assert shop.versions(before, "a") == shop.versions(after, "a")


@on("off", "1.6.0")
def test_nothing_is_left_after_uninstalling(shop, node, vault, driver, provider):
    vault.put("web/a", value="x")
    shop.add_class("a", "- {objectName: a, secretPath: secret/data/web/a, secretKey: value}")
    pod = shop.run_pod("web", "a")
    provider.remove()
    # A killed process leaves its name behind.
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(FOLDER / ".vaultmount-0-vault.sock"))
    provider.clean()
    assert list(PROVIDERS.iterdir()) == []
    assert provider.pids() == []
    left = node.kubectl("get", "namespaces,clusterroles,clusterrolebindings,daemonsets", "-A", "-o", "name")
    assert "vaultmount" not in left
    # The pod keeps its files, and its deletion does not need a provider.
    assert pod.file("/a/a") == ("644", "x")
    pod.delete()
    mounts = Path("/proc/self/mounts").read_text()
    assert "kubernetes.io~csi" not in mounts and "secrets-store-csi-providers" not in mounts
    # New pods wait for a provider, and their events say so.
    try:
        late = [shop.add_pod("late", "a")]
        late[0].wait_event("context deadline exceeded", seconds=200)
        driver.restart()
        late.append(shop.add_pod("later", "a"))
        assert_quoted(late[1].wait_event("provider not found"))
    finally:
        provider.install()
    for pod in late:
        pod.wait_running(180)


@on("off", "1.6.0", short=True)
def test_it_runs_with_no_more_rights_than_it_needs(node, provider, driver):
    (pid,) = provider.pids()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65532"}
    for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
    assert next(mount for mount in mounts if mount[1] == "/")[3].split(",")[0] == "ro"
    assert not Path(f"/proc/{pid}/root/providers").exists()
    sources = [line.split()[3] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    (source,) = [source for source in sources if "secrets-store-csi-providers" in source]
    assert source.endswith("/secrets-store-csi-providers/vaultmount")
    (pod,) = provider.pods()
    main, install = pod["spec"]["containers"] + pod["spec"]["initContainers"]
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert {mount["mountPath"] for mount in main["volumeMounts"]} == {"/vaultmount", token}
    hosts = [volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume]
    assert sorted(hosts) == [str(PROVIDERS), str(FOLDER)]
    assert install["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN"]}

    def may(what: str) -> bool:
        account = "--as=system:serviceaccount:vaultmount:vaultmount"
        return node.shell(f"kubectl auth can-i {account} {what} || true").strip().startswith("yes")

    key = "secrets/vault-csi-provider-hmac-key"
    assert may("create secrets -n vaultmount") and may(f"get {key} -n vaultmount")
    # Needed to see when pods of the node end. RBAC cannot restrict this to a node.
    for verb in ("get", "list", "watch"):
        assert may(f"{verb} pods -A"), verb
    for more in ("get secrets", f"update {key}", "list secrets", "delete pods", "create serviceaccounts/token"):
        assert not may(f"{more} -n vaultmount"), more
    for more in (f"get {key} -n shop", "create secrets -n shop", "update pods -A", "get nodes", "create tokenreviews"):
        assert not may(more), more


@on("off", "1.6.0")
def test_the_folder_is_mended_with_the_one_capability(shop, provider):
    """The init container runs as root, but does not own the folder and may not set the modes of other users' files."""
    FOLDER.chmod(0o755)
    os.chown(FOLDER, 65532, 0)
    provider.restart()
    stat = FOLDER.stat()
    assert (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (0o700, 65532, 65532)


@on("off", "1.6.0")
def test_without_a_token_the_event_says_what_to_set(shop, node, vault):
    vault.put("web/a", value="x")
    shop.add_class("a", "- {objectName: a, secretPath: secret/data/web/a, secretKey: value}")
    known = node.kubectl("get", "csidriver", "secrets-store.csi.k8s.io", "-o", "jsonpath={.spec.tokenRequests}")
    patch = lambda tokens: node.kubectl(  # noqa: E731
        "patch", "csidriver", "secrets-store.csi.k8s.io", "--type=merge", "-p", f'{{"spec": {{"tokenRequests": {tokens}}}}}'
    )
    patch("[]")
    try:
        pod = shop.add_pod("web", "a")
        assert_quoted(pod.wait_event("[VM0030]"))
    finally:
        patch(known)
    pod.wait_running(120)
