"""Times and contents of the drivers' calls to a provider, as docs/driver.md describes them with measured seconds."""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from driver import PROVIDERS, on

# The minimum that the API server accepts.
TOKEN_SECONDS = 600
RECORDER = Path(__file__).with_name("recorder.py")


@pytest.fixture
def recorder(node, driver):
    """The recorded calls to a provider named `recorder`."""
    log = node.logs / f"calls-{driver.version}-{driver.rotation}.jsonl"
    log.unlink(missing_ok=True)
    node.start("recorder", sys.executable, RECORDER, PROVIDERS / "recorder.sock", log)
    yield lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    node.stop("recorder")
    (PROVIDERS / "recorder.sock").unlink(missing_ok=True)


def watch(shop, recorder, calls: int, seconds: float) -> list:
    """Runs a pod until the driver has made this number of calls, and returns them."""
    shop.add_class("recorded", "[]", provider="recorder")
    shop.run_pod("recorded", "recorded", attributes={"colour": "the pod's"})
    shop.wait(f"{calls} calls", lambda: len(recorder()) >= calls, seconds)
    return recorder()


def print_calls(driver, calls: list) -> None:
    """Prints the measured times and calls for docs/driver.md."""
    times = [round(call["time"] - calls[0]["time"], 1) for call in calls]
    print(f"\n{driver.version} at {driver.rotation}: calls after {times} s")
    for call in (calls[0], calls[-1]):
        shown = {key: value for key, value in call.items() if key != "time"}
        print(json.dumps(shown | {"attributes": sorted(call["attributes"]), "tokens": sorted(call["tokens"])}))


@on("off")
def test_with_rotation_off_there_is_one_call(shop, driver, recorder):
    calls = watch(shop, recorder, 1, 30)
    time.sleep(100)
    calls = recorder()
    print_calls(driver, calls)
    (call,) = calls
    assert_first(call)


@on("10s")
def test_at_ten_seconds(shop, driver, recorder):
    calls = watch(shop, recorder, 4, 300)
    print_calls(driver, calls)
    assert all(low < gap < high for low, high in [(60, 100) if driver.has_republish else (5, 15)] for gap in gaps(calls))
    assert_first(calls[0])
    assert_poll(driver, calls[-1])


@on("2m", token_seconds=TOKEN_SECONDS)
def test_at_two_minutes_with_tokens_that_end(shop, vault, driver, provider, recorder):
    """Runs until the service account token of the first mount has expired."""
    vault.put("web/live", value="first")
    vault.add_role("brief", account="web", policy="web", token_ttl="30s")
    objects = "- {objectName: key, secretPath: secret/data/web/live, secretKey: value}"
    shop.add_class("live", objects, role="brief", refreshInterval="10s")
    begin = time.time()
    pod = shop.run_pod("living", "live")
    calls = watch(shop, recorder, 3, 400)
    time.sleep(max(0, begin + TOKEN_SECONDS + 30 - time.time()))
    vault.put("web/live", value="second")
    shop.wait("the second secret", lambda: pod.read("/live/key") == "second", 240)

    calls = recorder()
    print_calls(driver, calls)
    assert_first(calls[0])
    assert_poll(driver, calls[-1])
    first, *more = gaps(calls)
    if driver.has_republish:
        assert 115 < first < 215 and all(60 < gap < 100 for gap in more)
    else:
        assert all(105 < gap < 135 for gap in [first, *more])
    given = [call["tokens"]["vault"] for call in calls]
    assert all(token["lasts"] == TOKEN_SECONDS for token in given)
    assert all(token["seconds_left"] > 0 for token in given)
    assert len({token["which"] for token in given}) > 1
    # The Vault token expires between polls, so each poll logs in with the current service account token.
    logins = vault.logins("web", begin)
    assert len({login["request"]["data"]["jwt"] for login in logins}) > 1
    assert logins[-1]["request"]["data"]["jwt"] != logins[0]["request"]["data"]["jwt"]
    assert shop.events("Failed") == []


def gaps(calls: list) -> list:
    """Returns the seconds between consecutive calls."""
    return [after["time"] - before["time"] for before, after in pairwise(calls)]


def assert_first(call: dict) -> None:
    attributes = call["attributes"]
    assert attributes["roleName"] == "web" and attributes["objects"] == "[]"
    assert attributes["secretProviderClass"] == "recorded" and attributes["colour"] == "the pod's"
    assert attributes["csi.storage.k8s.io/ephemeral"] == "true" and attributes["csi.storage.k8s.io/pod.name"] == "recorded"
    assert attributes["csi.storage.k8s.io/serviceAccount.name"] == "web"
    assert sorted(call["tokens"]) == ["openbao", "vault"]
    assert call["permission"] == "420" and call["versions"] == [] and call["secrets"] == "null"
    assert call["target"].endswith("/volumes/kubernetes.io~csi/recorded/mount")
    # kubelet's deadline for a volume is two minutes.
    assert 100 < call["deadline"] <= 120


def assert_poll(driver, call: dict) -> None:
    attributes = call["attributes"]
    assert attributes["csi.storage.k8s.io/pod.uid"] and sorted(call["tokens"]) == ["openbao", "vault"]
    if driver.has_republish:
        assert_first(call)
    else:
        # The driver polls by itself, with the attributes in the pod's status.
        assert "secretProviderClass" not in attributes and "colour" not in attributes and call["secrets"] == "{}"
        assert "csi.storage.k8s.io/ephemeral" not in attributes and len(call["versions"]) == 1
        # gRPC reports a missing deadline as a very late deadline.
        assert call["permission"] == "420" and call["deadline"] > 1e9
