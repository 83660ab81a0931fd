"""Lifetimes of database users: each exists exactly as long as its pod."""

import json
import re
import time
from datetime import datetime

import pytest

from client import Client, credential
from docs import assert_quoted
from driver import on
from node import NAME
from provider import FOLDER

DB = "- {{objectName: db.json, secretPath: database/creds/{0}}}"
# The maximum delay between the end of a pod and the removal of its database user.
SECONDS = 60


def user(pod, name: str = "db") -> str:
    return credential(pod.volume(name))[0]


def ends(shop, vault, users: dict) -> dict:
    """Returns the seconds between the end of each pod and of its database user, by UID. No user ends before its pod."""
    over, gone = {}, {}
    begin = time.time()
    while len(gone) < len(users):
        there, seen = vault.database_users(), time.time()
        living = shop.living()
        for uid, name in users.items():
            if uid not in living:
                over.setdefault(uid, time.time())
            if name not in there:
                assert uid in over, f"{name} ended before its pod"
                gone.setdefault(uid, seen)
        assert all(uid in gone or time.time() < at + SECONDS for uid, at in over.items()), "users outlive their pods"
        assert time.time() < begin + 180, "pods do not end"
        time.sleep(0.1)
    return {uid: max(0.0, round(gone[uid] - over[uid], 1)) for uid in users}


@on("off", short=True)
def test_what_has_ended_has_no_database_user(shop, vault, provider):
    shop.add_class("db", DB.format("web"))
    pods = {
        "deleted": shop.add_pod("deleted", "db"),
        "evicted": shop.add_pod("evicted", "db"),
        "living": shop.add_pod("living", "db"),
        # kubelet stops this pod as it does in an eviction: the pod stays in phase Failed.
        "overdue": shop.add_pod("overdue", "db", spec={"activeDeadlineSeconds": 22}),
        "finished": shop.add_job("finished", "db", script="sleep 20"),
    }
    for pod in pods.values():
        pod.wait_running()
    uids, users = {name: pod.uid() for name, pod in pods.items()}, {name: user(pod) for name, pod in pods.items()}
    assert len(set(users.values())) == 5 and set(users.values()) <= vault.database_users()

    shop.kubectl("delete", "pod", "deleted", "--wait=false")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted", "namespace": "shop"}}
    where = "/api/v1/namespaces/shop/pods/evicted/eviction"
    shop.kubectl("create", "--raw", where, "-f", "-", given=json.dumps(eviction))
    took = ends(shop, vault, {uids[name]: users[name] for name in pods if name != "living"})
    print(f"\ndatabase users were removed after {({name: took[uids[name]] for name in pods if name != 'living'})} s")
    assert pods["overdue"].status()["status"]["reason"] == "DeadlineExceeded"
    assert pods["finished"].status()["status"]["phase"] == "Succeeded"
    vault.log_in(*credential(pods["living"].volume("db")))
    assert provider.metric("vaultmount_pending_revocations") == 0


@on("off")
def test_a_drained_node_has_no_database_users(shop, vault, node, provider):
    shop.add_class("db", DB.format("web"))
    begin = time.time()
    before, (serving,) = vault.database_users(), provider.pids()
    pods = shop.add_pods(10, "db")
    for pod in pods:
        pod.wait_running()
    users = {user(pod) for pod in pods}
    assert len(users) == 10 and users == vault.database_users() - before
    try:
        node.kubectl("drain", NAME, "--ignore-daemonsets", "--force", "--timeout=50s")
        drained = time.time()
        shop.wait("the removal of the database users", lambda: not users & vault.database_users(), SECONDS)
        print(f"\n10 database users were removed {time.time() - drained:.1f} s after the drain")
        # The process that revoked the tokens stays on the node.
        assert provider.pids() == [serving]
    finally:
        node.kubectl("uncordon", NAME)
    assert len(vault.reads("auth/token/revoke-self", begin)) >= 10


@on("off")
def test_a_pod_keeps_its_credential_until_it_is_gone(shop, vault):
    """A pod in deletion may keep working during its grace period."""
    shop.add_class("db", DB.format("web"))
    pod = shop.run_pod("slow", "db")
    uid, mine = pod.uid(), credential(pod.volume("db"))
    begin = time.time()
    # Its process ignores SIGTERM, as process 1 of a container does by default.
    shop.kubectl("delete", "pod", "slow", "--grace-period=25", "--wait=false")
    logins = 0
    while time.time() < begin + 23:
        assert "deletionTimestamp" in pod.status()["metadata"]
        vault.log_in(*mine)
        logins += 1
        time.sleep(0.5)
    (took,) = ends(shop, vault, {uid: mine[0]}).values()
    print(f"\n{logins} logins during the deletion; the database user was removed {took} s after the pod")
    assert logins > 15


@on("off")
def test_a_pod_of_the_same_name_is_another_pod(shop, vault, provider):
    shop.add_class("db", DB.format("web"))
    pod = shop.add_stateful_set("shop", "db")
    pod.wait_running()
    uid, first = pod.uid(), user(pod)
    shop.kubectl("delete", "pod", "shop-0", "--wait=false")
    (took,) = ends(shop, vault, {uid: first}).values()
    print(f"\nthe first pod's database user was removed after {took} s")
    shop.wait("the new pod", lambda: pod.uid() != uid)
    pod.wait_running()
    second = credential(pod.volume("db"))
    assert second[0] != first
    vault.log_in(*second)
    (session,) = [session for session in provider.status()["sessions"] if session["pod"] == "shop-0"]
    assert session["uid"] == pod.uid()


# TTL, max TTL and the number of rotations to wait for. Both TTLs are longer for 1.6.0, which polls every 66 to 90 s.
ROTATES = {"1.5.6": ("100s", "200s", 2), "1.6.0": ("450s", "450s", 1)}


@pytest.mark.slow
@on("10s")
def test_a_client_survives_rotations(shop, vault, driver, provider):
    default_ttl, max_ttl, rotations = ROTATES[driver.version]
    vault.add_database_role("brief", default_ttl, max_ttl)
    shop.add_class("db", DB.format("brief"))
    begin, counted = time.time(), 'vaultmount_rotations_total{kind="leased",reason="max_ttl"}'
    before = provider.metric(counted)
    pod = shop.run_pod("client", "db")
    # The client runs beside the pod: the pods' image has no PostgreSQL client.
    with Client(vault, pod.volume("db")) as client:
        # Every user except the last ends during this time.
        shop.wait("rotations", lambda: len(client.users_since) > rotations, 900)
        *old, _ = client.users_since
        shop.wait("the removal of the replaced users", lambda: not set(old) & vault.database_users(), 300)
        time.sleep(5)
    since = [round(at - begin) for at in client.users_since.values()]
    print(f"\n{driver.version}: {client.logins} logins, as users since {since} s; took {client.longest:.2f} s at most")
    assert client.failures == []
    seconds = time.time() - begin
    assert client.logins > seconds * 4
    # The pod keeps its token. Only a credential close to its max TTL is fetched again.
    assert len(vault.logins("web", begin)) == 1
    assert len(vault.reads("database/creds/brief", begin)) == len(client.users_since)
    assert provider.metric(counted) - before == len(client.users_since) - 1
    print(f"{len(vault.reads('sys/leases/renew', begin))} renewals of leases")
    assert shop.events("Failed") == []


@on("10s")
def test_a_client_survives_a_provider_that_is_killed(shop, vault, provider):
    """The session outlives the process: the successor renews, serves and revokes it."""
    vault.add_database_role("remaining", "90s")
    shop.add_class("db", DB.format("remaining"))
    pod = shop.run_pod("client", "db")
    uid = pod.uid()
    with Client(vault, pod.volume("db")) as client:
        shop.wait("logins", lambda: client.logins > 10)
        begin = time.time()
        provider.kill()
        # Longer than the TTL without renewal, and than any interval between polls.
        time.sleep(120)
    (first,) = client.users_since
    assert client.failures == [] and len(vault.reads("database/creds/left", begin)) == 0
    assert len(vault.reads("sys/leases/renew", begin)) >= 1 and vault.logins("web", begin) == []
    pod.delete()
    (took,) = ends(shop, vault, {uid: first}).values()
    print(f"the database user was removed {took} s after the pod")


@on("off")
def test_without_rotation_an_end_that_is_near_is_told(shop, vault, driver, provider):
    """vaultmount warns because no poll will replace the credential."""
    vault.add_database_role("ending", "45s", "100s")
    shop.add_class("db", DB.format("ending"))
    begin = time.time()
    pod = shop.run_pod(f"unpolled-{driver.version}", "db")
    mine = credential(pod.volume("db"))
    level = 'vaultmount_cached_secrets{state="expiring",kind="leased"}'
    assert provider.metric(level) == 0
    about_pod = f'pod="{pod.name}"'
    lines_with = lambda words: [line for line in provider.log().splitlines() if words in line and about_pod in line]  # noqa: E731
    shop.wait("a warning", lambda: lines_with("credential expires soon") != [], 120)
    (warning,) = lines_with("credential expires soon")
    warned_after = time.time() - begin
    end = datetime.fromisoformat(re.search(r"expires_at=(\S+)", warning)[1]).timestamp()
    print(f"\nafter {warned_after:.0f} s, {end - time.time():.0f} s before the end:\n{warning}")
    assert " WARN " in warning and 'namespace="shop"' in warning and 'path="database/creds/ending"' in warning
    assert time.time() < end - 5
    assert provider.metric(level) == 1
    vault.log_in(*mine)
    # The credential lived as long as the server permitted.
    assert end - begin > 95
    shop.wait("the removal of the database user", lambda: mine[0] not in vault.database_users(), 60)
    assert abs(time.time() - end) < 10
    shop.wait("the log line about the expiry", lambda: lines_with("credential expired") != [], 30)
    assert len(shop.events("VaultCredentialExpiring", pod.name)) == 2
    # The credential was not read again, and the pod's file did not change.
    assert len(vault.reads("database/creds/ending", begin)) == 1 and credential(pod.volume("db")) == mine


@on("off", short=True)
def test_status_tells_all_and_revoke_ends_all(shop, vault, provider):
    vault.put("web/key", value="s3cret")
    shop.add_class("db", DB.format("web") + "\n- {objectName: key, secretPath: secret/data/web/key, secretKey: value}")
    pods = [shop.run_pod(name, "db") for name in ("one", "two")]
    credentials = [credential(pod.volume("db")) for pod in pods]

    status, text = provider.status(), provider.run("status")
    print(f"\n{text}")
    assert (status["watch"]["state"], status["watch"]["node"]) == ("synced", NAME)
    sessions = {session["uid"]: session for session in status["sessions"]}
    for pod in pods:
        session = sessions[pod.uid()]
        assert (session["pod"], session["namespace"], session["role"]) == (pod.name, "shop", "web")
        assert session["renewal_active"] and session["token"]["state"] == "active"
        leases = {lease["path"]: (lease["kind"], lease["state"]) for lease in session["secrets"]}
        assert leases == {"database/creds/web": ("leased", "active"), "secret/data/web/key": ("plain", "active")}
        assert f"shop/{pod.name} ({pod.uid()})" in text
    for secret in ("s3cret", *(word for pair in credentials for word in pair)):
        assert secret not in text and secret not in json.dumps(status)

    # Only the owner may use the socket. Access to it includes permission to revoke.
    assert (FOLDER / "vault.status").stat().st_mode & 0o777 == 0o600
    # A revocation needs the flag --all, against mistakes.
    with pytest.raises(RuntimeError, match="pass --all"):
        provider.run("revoke")
    for pair in credentials:
        vault.log_in(*pair)
    output = provider.run("revoke", "--all")
    print(output)
    try:
        assert output.startswith(f"ok    {len(sessions)} tokens revoked")
        # OpenBao responds first, and then revokes the leases of the token.
        begin = time.time()
        users = {name for name, _ in credentials}
        shop.wait("the removal of the database users", lambda: not users & vault.database_users(), 10)
        print(f"the database users were removed {time.time() - begin:.1f} s later")
        late = shop.add_pod("late", "db")
        assert_quoted(late.wait_event("code = FailedPrecondition", "[VM0103]"))
        assert provider.status()["mounts_disabled"] and provider.status()["sessions"] == []
    finally:
        provider.restart()
    late.wait_running(120)
    vault.log_in(*credential(late.volume("db")))


@on("off", "1.6.0")
def test_without_the_right_to_watch_nothing_is_revoked(shop, vault, node, provider):
    shop.add_class("db", DB.format("web"))
    node.kubectl("delete", "clusterrolebinding", "vaultmount")
    try:
        provider.restart()
        pod = shop.run_pod("gone", "db")
        name = user(pod)
        pod.delete()
        # Longer than the delay before the second attempt to watch.
        time.sleep(100)
        assert name in vault.database_users()
        denied = [line for line in provider.log().splitlines() if "tokens will not be revoked when pods end" in line]
        print("\n" + "\n".join(denied))
        assert len(denied) == 1 and "WARN" in denied[0] and "[VM0" in denied[0]
        assert provider.metric('vaultmount_pod_watch_state{state="denied"}') == 1
        assert provider.status()["watch"]["state"] == "denied"
    finally:
        provider.apply()
    given = time.time()
    shop.wait("the removal of the database user", lambda: name not in vault.database_users(), 120)
    print(f"the database user was removed {time.time() - given:.0f} s after the permission was restored")
    assert provider.metric('vaultmount_pod_watch_state{state="synced"}') == 1
