"""A class becomes files in a pod."""

from driver import DRIVERS
import pytest


@pytest.mark.parametrize("driver", [(version, "off") for version in DRIVERS], indirect=True, ids=DRIVERS)
def test_files_have_the_right_bytes_and_modes(shop, vault):
    vault.put("web/db", user="shop", password="p\u00e4ss word\n")
    shop.add_class("kv", """
      - {objectName: password, secretPath: secret/data/web/db, secretKey: password, filePermission: 0400}
    """)
    pod = shop.run_pod("web", "kv")
    assert pod.read("/kv/password") == "p\u00e4ss word\n"
