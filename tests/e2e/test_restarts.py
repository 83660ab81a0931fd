"""An update and a crash of the provider, with a node full of pods: none of them notices."""

import time

from client import credential
from driver import on

DB = "- {objectName: db.json, secretPath: database/creds/web}"
PODS = 90
MOUNTED = 'vaultmount_grpc_requests_total{method="Mount",code="OK"}'


@on("10s")
def test_a_full_node_notices_neither_an_update_nor_a_crash(shop, vault, provider):
    shop.add_class("db", DB)
    pods = shop.add_pods(PODS, "db")
    for pod in pods:
        pod.wait_running(400)
    had = {pod.name: credential(pod.volume("db")) for pod in pods}
    assert len(set(had.values())) == PODS
    begin = time.time()

    def polled() -> None:
        """Every pod at least once by the process that serves now."""
        shop.wait("polls", lambda: provider.metric(MOUNTED) >= PODS, 200)

    for change in (lambda: provider.install("successor"), provider.kill, provider.install):
        change()
        shop.wait("a process", lambda: len(provider.pids()) == 1)
        provider.settled()
        polled()
        print(f"polled again {time.time() - begin:.0f} s after the first change")
    assert vault.logins("web", begin) == [] and vault.reads("database/creds/web", begin) == []
    assert {pod.name: credential(pod.volume("db")) for pod in pods} == had
    listed = provider.run("state", "ls")
    assert sum(line.startswith("shop/") for line in listed.splitlines()) == PODS
    assert "all can be read" in provider.run("state", "verify")
    assert not any(secret in listed for one in had.values() for secret in one)
    shop.kubectl("delete", "pods", "--all", "--wait=false")
    shop.wait("the users' end", lambda: not {user for user, _ in had.values()} & vault.database_users(), 200)
    shop.wait("nothing kept", lambda: "no saved sessions" in provider.run("state", "ls"))
    assert shop.events("Failed") == []
