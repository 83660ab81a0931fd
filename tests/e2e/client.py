"""A database client that logs in with the credential in a pod's file, as the pod's process would."""

import json
import threading
import time
from pathlib import Path

from vault import Vault

PAUSE = 0.1


def credential(volume: Path) -> tuple:
    """Returns user and password from db.json, the whole response of Vault. One file keeps both from the same response."""
    data = json.loads((volume / "db.json").read_text())["data"]
    return data["username"], data["password"]


class Client:
    """Logs in ten times a second during the `with` block, without retries."""

    def __init__(self, vault: Vault, volume: Path):
        self.vault, self.volume = vault, volume
        self.logins, self.longest, self.failures, self.users_since = 0, 0.0, [], {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            begin = time.monotonic()
            due = max(due + PAUSE, begin)
            try:
                user, password = credential(self.volume)
                self.users_since.setdefault(user, time.time())
                self.vault.log_in(user, password)
            except Exception as error:
                self.failures.append(f"{time.time()}: {error!r}")
            self.longest = max(self.longest, time.monotonic() - begin)
            self.logins += 1
