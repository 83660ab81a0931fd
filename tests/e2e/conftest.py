"""Fixtures of the scenarios: the node with a driver, OpenBao, PostgreSQL, and vaultmount from deploy/."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import images  # noqa: E402
from driver import Driver  # noqa: E402
from node import Node  # noqa: E402
from provider import Provider  # noqa: E402
from vault import Postgres, Vault  # noqa: E402
from workloads import Shop  # noqa: E402


@pytest.fixture(scope="session")
def node() -> Node:
    node = Node.current()
    images.load(node)
    for definition in node.facts["definitions"]:
        node.kubectl("apply", "-f", definition)
    return node


@pytest.fixture(scope="session")
def vault(node):
    with Postgres() as database:
        vault = Vault(node, database)
        vault.make()
        yield vault
        vault.end()


@pytest.fixture(scope="session")
def driver(node, request):
    """The driver that `@on(ROTATION, VERSIONS...)` selects. Scenarios of one driver run together."""
    driver = Driver(node, *request.param)
    driver.start()
    yield driver
    driver.stop()


@pytest.fixture(scope="session")
def provider(node, vault):
    """vaultmount, deployed from deploy/vaultmount.yaml."""
    provider = Provider(node)
    provider.install()
    yield provider
    provider.uninstall()


@pytest.fixture
def shop(node, vault, driver, provider):
    """A namespace with service accounts, emptied after each scenario."""
    shop = Shop(node)
    shop.open()
    yield shop
    shop.close()
