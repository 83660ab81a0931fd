"""Changed secrets that reach running pods, and outages that pods do not notice. The driver polls every 10 seconds."""

import signal
import time

import pytest

from docs import assert_quoted
from driver import PROVIDERS, on
from provider import Caller

KEY = "- {{objectName: key, secretPath: secret/data/web/{0}, secretKey: value}}"
# Each poll reads secrets without a lease again. By default they are read every two minutes.
EACH_POLL = {"refreshInterval": "10s"}
# Prints the content of the file whenever it changes.
FOLLOW = 'while :; do now=$(cat /{0}/key); [ "$now" = "$last" ] || echo "$now"; last=$now; sleep 0.1; done'


@pytest.fixture
def follower(shop, vault):
    """A pod that reads a file continuously."""
    vault.put("web/live", value="first")
    shop.add_class("live", KEY.format("live"), **EACH_POLL)
    pod = shop.run_pod("follower", "live", script=FOLLOW.format("live"))
    shop.wait("the first secret", lambda: pod.log() == "first\n")
    return pod


def arrives(shop, vault, pod, value: str, seconds: float = 120) -> float:
    """Changes the secret, waits until the pod's process has read it, and returns the seconds."""
    begin = time.time()
    vault.put("web/live", value=value)
    shop.wait(f"{value!r} in the pod", lambda: pod.log().endswith(f"{value}\n"), seconds)
    took = time.time() - begin
    assert pod.run("stat -L -c '%a %s' /live/key") == f"644 {len(value)}\n"
    assert len(vault.reads("secret/data/web/live", begin)) >= 1
    return took


@on("10s")
def test_a_changed_secret_reaches_a_running_process(shop, vault, follower):
    data = [{"objectName": "key", "key": "value"}]
    secrets = [{"secretName": "live", "type": "Opaque", "data": data}]
    shop.add_class("synced", KEY.format("live"), secrets=secrets, **EACH_POLL)
    shop.run_pod("syncing", "synced")
    begin = time.time()
    took = arrives(shop, vault, follower, "second")
    print(f"\nin the pod after {took:.0f} s")
    assert follower.log() == "first\nsecond\n"
    # The pod keeps its Vault token between polls.
    assert vault.logins("web", begin) == []
    synced = lambda: shop.kubectl("get", "secret", "live", "-o", "jsonpath={.data.value}") == "c2Vjb25k"  # noqa: E731
    shop.wait("the synced Secret", synced, 120)
    assert shop.events("Failed") == []


@on("10s")
def test_a_provider_that_is_killed_comes_back(shop, vault, provider, follower):
    vault.put("report/next", value="x")
    shop.add_class("next", "- {objectName: key, secretPath: secret/data/report/next, secretKey: value}", role="report")
    for number in range(3):
        begin = time.time()
        provider.kill()
        shop.wait("the end of the process", lambda: provider.pids() == [])
        pod = shop.add_pod(f"meanwhile-{number}", "next", account="report")
        pod.wait_running()
        assert pod.file("/next/key") == ("644", "x")
        # Kubernetes restarts a crashing container with a growing backoff.
        shop.wait("the successor", lambda: len(provider.pids()) == 1)
        provider.settled()
        assert len(vault.logins("report", begin)) == 1
        pod.delete()
    arrives(shop, vault, follower, "after the kill")
    assert follower.log() == "first\nafter the kill\n"
    assert shop.events("Failed") == []
    # Each provider name and the status have a public and a private name. The names of killed processes are removed.
    names = provider.sockets()
    assert len(names) == 7 and names[3:] == ["openbao.sock", "state", "vault.sock", "vault.status"], names


@on("10s")
def test_a_provider_is_rolled_and_no_call_fails(shop, vault, provider, follower):
    shop.add_class("next", KEY.format("live"))
    old = provider.pods()[0]["metadata"]["name"]
    begin = time.time()
    # The driver retries failed calls, so pods alone would not reveal a gap.
    with Caller(PROVIDERS / "vault.sock") as caller:
        pods = shop.add_pods(10, "next")
        provider.install("successor")
        shop.add_class("later", KEY.format("live"))
        pods += [shop.add_pod(f"later-{number}", "later") for number in range(10)]
        provider.install()
        for pod in pods:
            pod.wait_running()
    print(f"\n{caller.calls} calls while it was rolled twice")
    assert caller.failures == [] and caller.calls > 100
    assert old not in {pod["metadata"]["name"] for pod in provider.pods()}
    arrives(shop, vault, follower, "after the roll")
    assert follower.log() == "first\nafter the roll\n"
    # One login for each new pod, and none for existing pods.
    assert len(vault.logins("web", begin)) == 20
    assert shop.events("Failed") == []


@on("10s")
def test_driver_and_kubelet_are_restarted(shop, vault, node, driver, follower):
    driver.restart(signal.SIGKILL)
    arrives(shop, vault, follower, "after the driver")
    node.stop("kubelet")
    try:
        time.sleep(5)
    finally:
        node.start("kubelet")
    arrives(shop, vault, follower, "after kubelet")
    shop.add_class("next", KEY.format("live"))
    begin = time.time()
    assert shop.run_pod("next", "next").file("/next/key") == ("644", "after kubelet")
    assert len(vault.logins("web", begin)) == 1
    assert follower.log() == "first\nafter the driver\nafter kubelet\n"
    assert shop.events("Failed") == []


@on("10s")
def test_the_api_server_is_away_for_a_minute(shop, vault, node, driver, provider, follower):
    restarts = provider.restarts()
    file = follower.volume("live") / "key"
    begin = time.time()
    node.stop("kube-apiserver")
    try:
        vault.put("web/live", value="meanwhile")
        # kubelet repeats its calls every 66 to 90 s. Polls of 1.5.6 may fail during the outage.
        shop.wait("the changed secret", lambda: file.read_text() == "meanwhile" or time.time() > begin + 60, 100)
        if driver.has_republish:
            shop.wait("the changed secret", lambda: file.read_text() == "meanwhile", 100)
        print(f"\nwithout an API server for {time.time() - begin:.0f} s the pod got {file.read_text()!r}")
        time.sleep(max(0, begin + 60 - time.time()))
    finally:
        node.start("kube-apiserver")
    shop.wait("the API server", lambda: node.kubectl("get", "--raw", "/readyz") == "ok")
    shop.wait("the changed secret", lambda: follower.log().endswith("meanwhile\n"), 180)
    assert follower.log() == "first\nmeanwhile\n" and follower.file("/live/key") == ("644", "meanwhile")
    assert vault.logins("web", begin) == [] and len(vault.reads("secret/data/web/live", begin)) >= 1
    # Driver 1.5.6 reports in an event that it could not record versions.
    assert provider.restarts() == restarts and shop.events("FailedMount") == []
    # Driver 1.6.0 may not see a new class for up to a minute: its watch waits before it reconnects.
    shop.add_class("next", KEY.format("live"))
    begin = time.time()
    shop.add_pod("next", "next").wait_running(300)
    print(f"\na new class is mounted {time.time() - begin:.0f} s after the API server is back")
    assert all("not found" in text for text in shop.events("FailedMount"))


@on("10s")
def test_vault_is_sealed_unsealed_and_restarted(shop, vault, provider, follower):
    shop.add_class("next", KEY.format("live"))
    before = provider.metric("vaultmount_stale_polls_total")
    try:
        vault.seal()
        waiting = shop.add_pod("waiting", "next")
        assert_quoted(waiting.wait_event("code = Unavailable", "sealed"))
        # The poll of a pod that already has its files does not fail.
        kept = lambda: provider.metric("vaultmount_stale_polls_total") > before  # noqa: E731
        shop.wait("a poll while Vault is sealed", kept, 120)
        assert shop.events("FailedMount", "follower") == []
        assert follower.file("/live/key") == ("644", "first") and follower.log() == "first\n"
        vault.unseal()
        waiting.wait_running(120)

        vault.restart()
        waiting = shop.add_pod("waiting-more", "next")
        waiting.wait_event("code = Unavailable", "sealed")
    finally:
        vault.unseal()
    waiting.wait_running(120)
    arrives(shop, vault, follower, "after all", 180)
    assert follower.log() == "first\nafter all\n"


@on("10s")
def test_a_finished_jobs_volume_is_unmounted_and_its_polls_end(shop, vault):
    vault.put("web/job", value="x")
    shop.add_class("job", KEY.format("job"), **EACH_POLL)
    pod = shop.add_job("once", "job", script="cat /job/key; sleep 40")
    pod.wait_running()
    assert len(pod.mounts()) == 1 and pod.file("/job/key") == ("644", "x")
    shop.wait("polls", lambda: len(vault.reads("secret/data/web/job")) > 1, 120)
    shop.wait("completion of the Job", lambda: pod.status()["status"]["phase"] == "Succeeded", 120)
    shop.wait("the unmount of its volume", lambda: pod.mounts() == [])
    ended = time.time() + 1
    time.sleep(90)
    assert vault.reads("secret/data/web/job", ended) == []
    assert pod.log() == "x"
    assert shop.events("Failed") == []
