"""Where vaultmount stands on a node: in the Go provider's place, in its own, and gone again."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest

import images
from docs import assert_quoted, commands
from driver import PROVIDERS, on
from vault import install

CHART = Path(__file__).with_name("chart.yaml")
KEY = b"a" * 32


@pytest.fixture
def vacated(provider):
    """The provider, taken away for a while."""
    provider.uninstall()
    yield provider
    provider.install()


@pytest.fixture
def chart(node, vault, vacated):
    """The Go provider's chart with our image, and the key of versions that the Go provider left."""
    images.put(node, images.BAO, install.BAO)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "csi"}}
    metadata = {"name": "vault-csi-provider-hmac-key", "namespace": "csi"}
    key = {"data": {"key": base64.b64encode(KEY).decode()}, "immutable": True}
    node.apply(namespace, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata} | key)
    node.kubectl("apply", "-f", CHART)
    node.kubectl("rollout", "status", "-n", "csi", "daemonset/vault-csi-provider", "--timeout=90s", timeout=100)
    yield
    node.kubectl("delete", "--ignore-not-found", "-f", CHART, "--timeout=60s", timeout=70)


def go_version(name: str, path: str, key: str, content: str) -> str:
    """What the Go provider makes of an object: an HMAC over the object as Go prints it, and the content."""
    printed = {"ObjectName": name, "SecretPath": path, "SecretKey": key, "Method": "", "SecretArgs": None}
    printed = json.dumps(printed | {"FilePermission": 0, "Encoding": ""}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hmac.digest(KEY, (printed + content).encode(), hashlib.sha256)).decode()


@on("off")
def test_in_the_go_providers_place_versions_stay(shop, vault, chart):
    # Known from the Go provider itself.
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
    assert pod.read("/db/db-password") == "s3cret"
    version = go_version("db-password", "secret/data/web/db", "password", "s3cret")
    assert shop.versions(pod, "db") == {"db-password": version}


@on("off", "1.6.0")
def test_a_place_is_taken_over_when_it_is_free(shop, node, vault, vacated, chart):
    vault.put("web/a", value="x")
    shop.add_class("a", "- {objectName: a, secretPath: secret/data/web/a, secretKey: value}")
    before = shop.run_pod("before", "a")
    for command in commands("install.md", "From the Go provider to our manifests"):
        node.shell(command)
    vacated.apply()
    refused = lambda: "vault.sock: another provider serves here" in vacated.log("install")  # noqa: E731
    shop.wait("a refusal", refused)
    assert not (PROVIDERS / "vault.sock").is_symlink()
    node.kubectl("delete", "-f", CHART, "--timeout=60s", timeout=70)
    vacated.settled()
    assert (PROVIDERS / "vault.sock").is_symlink()
    after = shop.run_pod("after", "a")
    assert before.read("/a/a") == after.read("/a/a") == "x"
    assert shop.versions(before, "a") == shop.versions(after, "a")


@on("off", "1.6.0")
def test_nothing_is_left_after_uninstalling(shop, node, vault, provider):
    vault.put("web/a", value="x")
    shop.add_class("a", "- {objectName: a, secretPath: secret/data/web/a, secretKey: value}")
    pod = shop.run_pod("web", "a")
    # The names of its sockets stay behind.
    provider.kill()
    provider.settled()
    folder = PROVIDERS / "vaultmount"
    assert (folder.stat().st_mode & 0o7777, folder.stat().st_uid, folder.stat().st_gid) == (0o700, 65532, 65532)
    provider.uninstall()
    assert list(PROVIDERS.iterdir()) == []
    assert provider.pids() == []
    left = node.kubectl("get", "namespaces,clusterroles,clusterrolebindings,daemonsets", "-A", "-o", "name")
    assert "vaultmount" not in left
    # What the pod has it keeps, and its end needs no provider.
    assert pod.read("/a/a") == "x"
    pod.delete()
    mounts = Path("/proc/self/mounts").read_text()
    assert "kubernetes.io~csi" not in mounts and "secrets-store-csi-providers" not in mounts
    # A pod that comes now waits for a provider, and says so.
    late = shop.add_pod("late", "a")
    assert_quoted(late.wait_event("failed to mount secrets store objects", seconds=200))
    provider.install()
    late.wait_running(120)
