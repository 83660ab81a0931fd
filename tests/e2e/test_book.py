"""Commands of the documentation, run in a real cluster. tests/integration/docs.rs tests them without a cluster."""

import subprocess
import time
import urllib.error
import urllib.request

import pytest

from docs import Reader, named
from driver import on
from vault import LOOPBACK

KEY = "- {{objectName: key, secretPath: secret/data/web/{0}, secretKey: value}}"


@pytest.fixture
def unconfigured_vault(vault):
    """A new server without any configuration."""
    vault.end()
    vault.make(configured=False)
    yield vault
    vault.end()
    vault.make()


@on("off", "1.6.0")
def test_the_first_secret(node, driver, provider, unconfigured_vault):
    reader = Reader(node, unconfigured_vault)
    node.kubectl("delete", "namespace", "shop", "--ignore-not-found", "--timeout=90s", timeout=100)
    try:
        reader.follow("first-secret.md")
        assert reader.printed.endswith("made-up-1")
        reader.follow("howto/validate-and-check.md")
    finally:
        node.kubectl("delete", "namespace", "shop", "--ignore-not-found", "--timeout=90s", timeout=100)


@on("off", "1.6.0")
def test_it_is_installed_and_taken_away_as_the_page_says(node, vault, driver, provider):
    provider.uninstall()
    reader = Reader(node, vault)
    try:
        reader.follow("install.md", "Install the manifests", only="kubectl")
        assert len(provider.pids()) == 1
        reader.follow("install.md", "Uninstall", only="kubectl")
        assert provider.pids() == []
    finally:
        provider.install()


@on("off", "1.6.0")
def test_commands_of_a_cluster(shop, node, vault, provider):
    vault.put("web/a", value="x")
    shop.add_class("a", KEY.format("a"))
    shop.run_pod("web", "a")
    for command in named("kubectl"):
        # kubectl parses all flags before it prints the help.
        node.shell(f"{command} --help")
    made, reader = key(node), Reader(node, vault)
    # README.md uses the same overlay.
    reader.follow("install.md", "Install the manifests", only="nothing")
    try:
        for page in [
            "README.md",
            "howto/audit.md",
            "howto/events.md",
            "howto/tls.md",
            "operations/capacity.md",
            "operations/incidents.md",
            "operations/upgrade.md",
            "reference/commands.md",
        ]:
            reader.follow(page, only="kubectl")
        assert key(node) == made, "the key changed: it was lost and not restored"
        node.kubectl("delete", "configmap", "vault-ca", "-n", "vaultmount")
        (forward,) = reader.commands("reference/logs.md", only="kubectl")
        with subprocess.Popen(["sh", "-c", f"exec {forward}"], env=node.environment) as forwarding:
            try:
                shop.wait("the page", shown)
            finally:
                forwarding.terminate()
    finally:
        # The rollback on the page restores objects that the overlay would not remove.
        provider.uninstall()
        provider.install()


def key(node) -> str:
    """Returns the HMAC key of object versions."""
    secret = ["get", "secret", "-n", "vaultmount", "vault-csi-provider-hmac-key"]
    return node.kubectl(*secret, "-o", "jsonpath={.data.key}")


def shown() -> bool:
    try:
        with LOOPBACK.open(urllib.request.Request("http://localhost:8080/statusz"), timeout=5) as page:
            return page.status == 200
    except (OSError, urllib.error.URLError):
        time.sleep(0.2)
        return False
