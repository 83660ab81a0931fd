"""Mounted files of classes. Rotation is off in the driver, which is its default, so each volume has one mount."""

import json
import time

from docs import assert_quoted
from driver import on

RIGHT = {"objects": "- {objectName: a, secretPath: secret/data/web/db, secretKey: password}"}


@on("off", short=True)
def test_files_have_the_right_bytes_and_modes(shop, vault):
    vault.put("web/db", user="shop", password='p\u00e4ss "word"\n', port=5432)
    vault.put("web/settings", currency="EUR", tax={"standard": 19})
    begin = time.time()
    shop.add_class(
        "all",
        """
        - {objectName: password, secretPath: secret/data/web/db, secretKey: password, filePermission: 0400}
        - {objectName: deep/er/port, secretPath: /v1/secret/data/web/db, secretKey: port, filePermission: 0440}
        - {objectName: settings, secretPath: secret/data/web/settings, secretKey: "*"}
        - {objectName: db.env, secretPath: secret/data/web/db, format: env}
        - {objectName: whole.json, secretPath: secret/data/web/settings}
        - {objectName: user, secretPath: database/creds/web, secretKey: username}
        - {objectName: pass, secretPath: database/creds/web, secretKey: password}
        """,
    )
    pod = shop.run_pod("web", "all")

    assert pod.read("/all/password") == 'p\u00e4ss "word"\n'
    assert pod.read("/all/deep/er/port") == "5432"
    assert pod.read("/all/settings/currency") == "EUR"
    assert pod.read("/all/settings/tax") == '{"standard":19}'
    assert pod.run(". /all/db.env; echo $user $port") == "shop 5432\n"
    assert json.loads(pod.read("/all/whole.json"))["data"]["data"]["currency"] == "EUR"
    modes = pod.run("cd /all; stat -L -c '%a %n' password deep/er/port settings/tax db.env user")
    assert modes == "400 password\n440 deep/er/port\n644 settings/tax\n644 db.env\n644 user\n"
    vault.log_in(pod.read("/all/user"), pod.read("/all/pass"))

    # One login with the pod's service account, and one read of each path.
    (entry,) = vault.logins("web", begin)
    assert entry["auth"]["metadata"]["service_account_namespace"] == "shop"
    for path in ("secret/data/web/db", "secret/data/web/settings", "database/creds/web"):
        assert len(vault.reads(path, begin)) == 1, path
    assert shop.events("Failed") == []


@on("off", short=True)
def test_the_other_provider_name_has_its_own_audience(shop, vault):
    vault.put("web/db", password="s3cret")
    shop.add_class("bao", **RIGHT, provider="openbao", role="web-openbao")
    begin = time.time()
    pod = shop.run_pod("web", "bao")
    assert pod.file("/bao/a") == ("644", "s3cret")
    # The role accepts only tokens for the audience openbao.
    (entry,) = vault.logins("web", begin)
    assert entry["auth"]["metadata"]["role"] == "web-openbao"


@on("off", short=True)
def test_two_accounts_have_different_rights(shop, vault):
    begin = time.time()
    vault.put("web/key", value="web's")
    vault.put("report/key", value="report's")
    objects = "- {{objectName: key, secretPath: secret/data/{0}/key, secretKey: value}}"
    shop.add_class("of-web", objects.format("web"))
    shop.add_class("of-report", objects.format("report"), role="report")
    shop.add_class("of-web-by-report", objects.format("web"), role="report")

    web, report = shop.add_pod("web", "of-web"), shop.add_pod("report", "of-report", account="report")
    thief = shop.add_pod("thief", "of-web-by-report", account="report")
    impostor = shop.add_pod("impostor", "of-web", account="report")
    web.wait_running()
    report.wait_running()
    assert (web.file("/of-web/key"), report.file("/of-report/key")) == (("644", "web's"), ("644", "report's"))
    stanza = 'path "secret/data/web/key" { capabilities = ["read"] }'
    assert_quoted(thief.wait_event("code = PermissionDenied", "is denied reading secret/data/web/key", stanza))
    assert_quoted(impostor.wait_event("code = PermissionDenied", 'does not take service account "report"'))
    assert len(vault.refused("secret/data/web/key", begin)) >= 1
    assert len(vault.logins("report", begin)) == 2
    for refused in (thief, impostor):
        assert refused.status()["status"]["phase"] == "Pending"
        # The driver creates a mount for each attempt, and removes it again.
        shop.wait("no mount", lambda pod=refused: pod.mounts() == [])


# The error in the class, and words of the event. The first word is the gRPC code.
WRONG = {
    "key": (
        {"objects": "- {objectName: a, secretPath: secret/data/web/db, secretKey: pasword}"},
        ["NotFound", 'did you mean "password"?', "[VM0070]"],
    ),
    "engine": (
        {"objects": "- {objectName: a, secretPath: secret/web/db, secretKey: password}"},
        ["PermissionDenied", "did you mean secretPath: secret/data/web/db", "[VM0050]"],
    ),
    "secret": (
        {"objects": "- {objectName: a, secretPath: secret/data/web/bd, secretKey: password}"},
        ["NotFound", "secret/data/web/bd", "[VM0051]"],
    ),
    "role": ({"role": "wbe"}, ["FailedPrecondition", 'role "wbe" does not exist', "[VM0038]"]),
    "field": (
        {"objects": "- {objectName: a, secretpath: secret/data/web/db, secretKey: password}"},
        ["InvalidArgument", 'object "a": secretPath: missing', "did you mean secretPath?", "[VM0080]"],
    ),
    "name": (
        {"objects": "- {objectName: ../a, secretPath: secret/data/web/db, secretKey: password}"},
        ["InvalidArgument", "starts with `..`", "[VM0074]"],
    ),
    "address": (
        {"vaultAddress": "https://elsewhere.example:8200"},
        ["PermissionDenied", "--allow-address=none", "[VM0013]"],
    ),
}


@on("off", short=True)
def test_a_class_that_is_wrong_gives_an_event_that_helps(shop, vault):
    vault.put("web/db", password="x")
    for name, (change, _) in WRONG.items():
        shop.add_class(name, **RIGHT | change)
    begin = time.time()
    pods = {name: shop.add_pod(name, name) for name in WRONG}
    for name, (_, (code, *words)) in WRONG.items():
        ours = f"rpc error: code = {code} desc = "
        driver = f'MountVolume.SetUp failed for volume "{name}" : {ours}'
        driver += f"failed to mount secrets store objects for pod shop/{name}"
        assert_quoted(pods[name].wait_event(f"{driver}, err: {ours}", *words))
    # Errors in the class itself need no request to Vault. Only key, engine and secret log in.
    assert len(vault.logins("web", begin)) == 3


@on("off")
def test_a_pods_attributes_are_laid_over_its_class(shop, vault):
    vault.put("web/a", value="of the class")
    vault.put("report/a", value="of the pod")
    shop.add_class("a", "- {objectName: a, secretPath: secret/data/web/a, secretKey: value}")
    attributes = {"objects": "- {objectName: a, secretPath: secret/data/report/a, secretKey: value}", "roleName": "report"}
    begin = time.time()
    pod = shop.run_pod("mine", "a", account="report", attributes=attributes)
    assert pod.file("/a/a") == ("644", "of the pod")
    assert len(vault.logins("report", begin)) == 1 and vault.reads("secret/data/web/a", begin) == []
    assert shop.events("Failed") == []


@on("off", short=True)
def test_a_secret_is_synced_and_becomes_environment(shop, vault):
    vault.put("web/db", password="s3cret")
    data = [{"objectName": "nested/password", "key": "password"}]
    shop.add_class(
        "synced",
        "- {objectName: nested/password, secretPath: secret/data/web/db, secretKey: password}",
        secrets=[{"secretName": "db", "type": "Opaque", "data": data}],
    )
    from_secret = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}
    begin = time.time()
    pod = shop.run_pod("web", "synced", env=[from_secret])
    assert pod.run("echo $PASSWORD") == "s3cret\n"
    assert pod.file("/synced/nested/password") == ("644", "s3cret")
    # The driver creates the Secret from the files, so Vault gets one request.
    assert len(vault.logins("web", begin)) == len(vault.reads("secret/data/web/db", begin)) == 1
    # kubelet waits for the Secret, which is created with the volume, and reports this in events.
    assert all('secret "db" not found' in text for text in shop.events("Failed"))
    pod.delete()
    shop.wait("the removal of the Secret", lambda: "db" not in shop.kubectl("get", "secrets", "-o", "name"))


@on("off")
def test_sixty_pods_start_at_once(shop, vault, provider):
    before, begin = vault.database_users(), time.time()
    shop.add_class(
        "db",
        """
        - {objectName: user, secretPath: database/creds/web, secretKey: username}
        - {objectName: password, secretPath: database/creds/web, secretKey: password}
        """,
    )
    restarts = provider.restarts()
    pods = shop.add_pods(60, "db")
    shop.wait("60 pods", lambda: shop.phases() == ["Running"] * 60, 300)
    assert provider.restarts() == restarts
    print(f"\n60 pods run after {time.time() - begin:.0f} s; vaultmount took {provider.memory() / 1e6:.1f} MB at most")
    # The memory request in deploy/vaultmount.yaml.
    assert provider.memory() < 32 << 20
    assert shop.events("Failed") == []
    assert len(vault.logins("web", begin)) == 60
    files = {pod.file("/db/user") for pod in pods[::20]}
    assert len(files) == 3 and files < {("644", user) for user in vault.database_users()}
    assert len(vault.database_users() - before) == 60
