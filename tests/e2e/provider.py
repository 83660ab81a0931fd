"""vaultmount in the cluster, from the manifests in deploy/."""

import json
import os
import signal
import threading
from pathlib import Path

import grpc

import docs
from driver import PROVIDERS
from node import ROOT, Node
from vault import LOOPBACK, VAULT

NAMESPACE = "vaultmount"
FOLDER = PROVIDERS / "vaultmount"
LABEL = "app.kubernetes.io/name=vaultmount"


class Provider:
    """vaultmount's DaemonSet, and its process on the node."""

    def __init__(self, node: Node):
        self.node = node
        self.overlay = node.folder / "overlay"

    def install(self, tag: str = "") -> None:
        """Applies deploy/ and waits until vaultmount serves. A different tag causes a rolling update."""
        self.apply(tag)
        self.settled()

    def apply(self, tag: str = "") -> None:
        """Applies deploy/ with the address and image of this cluster."""
        self.node.kubectl("apply", "-k", self._overlay(tag))

    def settled(self) -> None:
        status = ["rollout", "status", "daemonset/vaultmount", "-n", NAMESPACE, "--timeout=60s"]
        self.node.kubectl(*status, timeout=70)

    def uninstall(self) -> None:
        """Uninstalls vaultmount with the steps of docs/install.md."""
        self.remove()
        self.clean()

    def remove(self) -> None:
        """Removes vaultmount from the cluster. Its files on the node stay."""
        manifest = ROOT / "deploy/vaultmount.yaml"
        # The deletion of the namespace takes longer shortly after an outage of the API server.
        self.node.kubectl("delete", "--ignore-not-found", "-f", manifest, "--timeout=120s", timeout=130)

    def clean(self) -> None:
        """Removes vaultmount's files from the node."""
        uninstall = ROOT / "deploy/uninstall.yaml"
        self.node.kubectl("apply", "-f", uninstall)
        status = ["rollout", "status", "daemonset/uninstall", "-n", "vaultmount-uninstall", "--timeout=90s"]
        self.node.kubectl(*status, timeout=100)
        self.node.kubectl("delete", "-f", uninstall, "--timeout=60s", timeout=70)

    def pods(self) -> list:
        found = json.loads(self.node.kubectl("get", "pods", "-n", NAMESPACE, "-l", LABEL, "-o", "json"))
        return [pod for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    def run(self, *arguments: str) -> str:
        """Runs a vaultmount command in the container and returns its output. Raises RuntimeError if it fails."""
        # The same command as in README.md and docs/.
        container = ["-n", NAMESPACE, "daemonset/vaultmount", "-c", "vaultmount"]
        return self.node.kubectl("exec", *container, "--", "vaultmount", *arguments)

    def status(self) -> dict:
        return json.loads(self.run("status", "--output=json"))

    def metric(self, series: str) -> float:
        """Returns the value of a series on the metrics port, or the sum of all series with this name."""
        (pod,) = self.pods()
        with LOOPBACK.open(f"http://{pod['status']['podIP']}:8081/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{series} ", f"{series}{{"))]
        assert values, f"series not found: {series}"
        return sum(values)

    def log(self, container: str = "vaultmount") -> str:
        return self.node.kubectl("logs", "-n", NAMESPACE, "-l", LABEL, "-c", container, "--tail=-1")

    def pids(self) -> list:
        """Returns the process IDs of vaultmount on the node."""
        processes = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
        return [int(folder.name) for folder in processes if executable(folder) == "/bin/vaultmount"]

    def memory(self) -> int:
        """Returns the peak resident memory of vaultmount, in bytes."""
        (pid,) = self.pids()
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0])

    def restart(self) -> None:
        """Deletes the pod and waits for its replacement."""
        self.node.kubectl("delete", "pods", "-n", NAMESPACE, "-l", LABEL, "--timeout=60s", timeout=70)
        self.settled()

    def restarts(self) -> int:
        return sum(status["restartCount"] for pod in self.pods() for status in pod["status"]["containerStatuses"])

    def sockets(self) -> list:
        """Returns the names in the private folder. A name with a leading dot belongs to one process."""
        return sorted(path.name for path in FOLDER.iterdir())

    def kill(self) -> None:
        (pid,) = self.pids()
        os.kill(pid, signal.SIGKILL)

    def _overlay(self, tag: str) -> Path:
        """Writes the overlay of docs/install.md with the address and image of this cluster, and returns its folder."""
        self.overlay.mkdir(exist_ok=True)
        text = docs.overlay().replace("../deploy", os.path.relpath(ROOT / "deploy", self.overlay))
        text = text.replace("https://vault.example:8200", VAULT).replace("registry.example/", "localhost/")
        (self.overlay / "kustomization.yaml").write_text(text.replace("newTag: 0.1.0", f"newTag: {tag or '0.1.0'}"))
        return self.overlay


class Caller:
    """Calls Version on a provider's socket continuously during the `with` block, without retries."""

    def __init__(self, socket: Path):
        self.socket, self.calls, self.failures = socket, 0, []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            with grpc.insecure_channel(f"unix:{self.socket}") as channel:
                try:
                    channel.unary_unary("/v1alpha1.CSIDriverProvider/Version")(b"\x0a\x08v1alpha1", timeout=10)
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code()}: {error.details()}")
            self.calls += 1


def executable(folder: Path) -> str:
    try:
        return os.readlink(folder / "exe")
    except OSError:
        return ""
