"""Updates and a crash of the provider on a full node. The pods do not notice them."""

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
        """Waits until the current process has served at least one poll of every pod."""
        shop.wait("polls", lambda: provider.metric(MOUNTED) >= PODS, 200)

    for change in (lambda: provider.install("successor"), provider.kill, provider.install):
        change()
        shop.wait("a single process", lambda: len(provider.pids()) == 1)
        provider.settled()
        polled()
        print(f"polled again {time.time() - begin:.0f} s after the first change")
    assert vault.logins("web", begin) == [] and vault.reads("database/creds/web", begin) == []
    assert {pod.name: credential(pod.volume("db")) for pod in pods} == had
    listed = provider.run("state", "ls")
    assert sum(line.startswith("shop/") for line in listed.splitlines()) == PODS
    assert "all can be read" in provider.run("state", "verify")
    assert not any(secret in listed for pair in had.values() for secret in pair)
    shop.kubectl("delete", "pods", "--all", "--wait=false")
    users = {user for user, _ in had.values()}
    shop.wait("the removal of the database users", lambda: not users & vault.database_users(), 200)
    shop.wait("the removal of saved sessions", lambda: "no saved sessions" in provider.run("state", "ls"))
    assert shop.events("Failed") == []
