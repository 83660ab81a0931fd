"""Pod events about secrets. Each failure and each recovery has one event, from vaultmount or from the driver."""

import json
import urllib.error

from driver import on
from provider import LOOPBACK

KEY = "- {{objectName: key, secretPath: secret/data/web/{0}, secretKey: value}}"
EACH_POLL = {"refreshInterval": "10s"}


@on("10s")
def test_a_poll_that_fails_is_told_once_and_so_is_its_end(shop, vault, driver, provider):
    vault.put("web/polled", value="x")
    shop.add_class("polled", KEY.format("polled"), **EACH_POLL)
    pod = shop.run_pod(f"polled-{driver.version}", "polled")
    shop.add_class("polled", "- {objectName: key, secretPath: secret/data/web/polled, secretKey: none}", **EACH_POLL)
    if driver.has_republish:
        # The driver reports the failed poll as a success.
        event = pod.wait_event("[VM0070]", reason="VaultRefreshFailed", seconds=180)
    else:
        event = pod.wait_event("VM0070", reason="MountRotationFailed", seconds=180)
        assert shop.events("Vault", pod.name) == []
    print(f"\n{event}")
    shop.add_class("polled", KEY.format("polled"), **EACH_POLL)
    if driver.has_republish:
        pod.wait_event("polls succeed again", reason="VaultRefreshRecovered", seconds=180)
        assert len(shop.events("VaultRefresh", pod.name)) == 2
    assert pod.file("/polled/key") == ("644", "x")


@on("off")
def test_a_pod_that_does_not_start_is_told_why(shop, vault, driver, provider):
    shop.add_class("none", KEY.format("none"))
    pod = shop.add_pod(f"none-{driver.version}", "none")
    text = pod.wait_event("[VM0051]", reason="VaultMountFailed")
    # kubelet's event contains the same text.
    assert text in pod.wait_event("[VM0051]")
    events = json.loads(shop.kubectl("get", "events", "-o", "json"))["items"]
    (event,) = [event for event in events if event["reason"] == "VaultMountFailed"]
    assert event["source"]["component"] == "vaultmount" and event["involvedObject"]["uid"] == pod.status()["metadata"]["uid"]


@on("off")
def test_the_status_page_is_for_callers_on_the_same_host(driver, provider):
    (pod,) = provider.pods()
    for path, status in [("readyz", 200), ("livez", 200), ("statusz", 404)]:
        try:
            with LOOPBACK.open(f"http://{pod['status']['podIP']}:8080/{path}", timeout=10) as page:
                got = page.status
        except urllib.error.HTTPError as error:
            got = error.code
        assert got == status, path
