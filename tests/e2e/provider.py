"""vaultmount in the cluster, from the manifests in deploy/."""

import json
import os
import signal
from pathlib import Path

from driver import PROVIDERS
from node import ROOT, Node
from vault import VAULT

NAMESPACE = "vaultmount"
LABEL = "app.kubernetes.io/name=vaultmount"


class Provider:
    def __init__(self, node: Node):
        self.node = node
        self.overlay = node.folder / "overlay"

    def install(self, tag: str = "") -> None:
        """Applies deploy/ and waits until it serves. Another tag than before is a rolling update."""
        self.apply(tag)
        self.settled()

    def apply(self, tag: str = "") -> None:
        """Applies deploy/ with what every site has to set."""
        self.node.kubectl("apply", "-k", self._overlay(tag))

    def settled(self) -> None:
        status = ["rollout", "status", "daemonset/vaultmount", "-n", NAMESPACE, "--timeout=60s"]
        self.node.kubectl(*status, timeout=70)

    def uninstall(self) -> None:
        """As deploy/uninstall.yaml says."""
        manifest = ROOT / "deploy/vaultmount.yaml"
        self.node.kubectl("delete", "--ignore-not-found", "-f", manifest, "--timeout=60s", timeout=70)
        uninstall = ROOT / "deploy/uninstall.yaml"
        self.node.kubectl("apply", "-f", uninstall)
        status = ["rollout", "status", "daemonset/uninstall", "-n", "vaultmount-uninstall", "--timeout=90s"]
        self.node.kubectl(*status, timeout=100)
        self.node.kubectl("delete", "-f", uninstall, "--timeout=60s", timeout=70)

    def pods(self) -> list:
        found = json.loads(self.node.kubectl("get", "pods", "-n", NAMESPACE, "-l", LABEL, "-o", "json"))
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    def log(self, container: str = "vaultmount") -> str:
        return self.node.kubectl("logs", "-n", NAMESPACE, "-l", LABEL, "-c", container, "--tail=-1")

    def pids(self) -> list:
        """The processes of vaultmount, as the node sees them."""
        processes = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
        return [int(folder.name) for folder in processes if executable(folder) == "/bin/vaultmount"]

    def memory(self) -> int:
        """What it holds of the node's memory, in bytes."""
        (pid,) = self.pids()
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])

    def restarts(self) -> int:
        return sum(status["restartCount"] for pod in self.pods() for status in pod["status"]["containerStatuses"])

    def sockets(self) -> list:
        """The names in the private folder that drivers know."""
        return sorted(path.name for path in (PROVIDERS / "vaultmount").iterdir() if not path.name.startswith("."))

    def kill(self) -> None:
        (pid,) = self.pids()
        os.kill(pid, signal.SIGKILL)

    def _overlay(self, tag: str) -> Path:
        self.overlay.mkdir(exist_ok=True)
        container = {"name": "vaultmount", "env": [{"name": "VAULT_ADDR", "value": VAULT}]}
        patch = {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "vaultmount", "namespace": NAMESPACE},
            "spec": {"template": {"spec": {"containers": [container]}}},
        }
        kustomization = {
            "resources": [os.path.relpath(ROOT / "deploy", self.overlay)],
            "images": [{"name": "localhost/vaultmount", "newTag": tag}] if tag else [],
            "patches": [{"patch": json.dumps(patch)}],
        }
        (self.overlay / "kustomization.yaml").write_text(json.dumps(kustomization))
        return self.overlay


def executable(folder: Path) -> str:
    try:
        return os.readlink(folder / "exe")
    except OSError:
        return ""
