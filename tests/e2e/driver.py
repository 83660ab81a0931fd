"""The real secrets-store driver, as a process of the node, and its registration with kubelet."""

import signal
from pathlib import Path

import pytest

from node import KUBELET, NAME, Node, wait
from programs import DRIVERS

SOCKET = KUBELET / "plugins/csi-secrets-store/csi.sock"
REGISTRATION = KUBELET / "plugins_registry/secrets-store.csi.k8s.io-reg.sock"
# The default path of the driver and of the charts.
PROVIDERS = Path("/var/run/secrets-store-csi-providers")


def on(rotation: str, *versions: str, token_seconds: int = 0, short: bool = False):
    """Marks a scenario with its drivers, each with a rotation interval or with rotation off.

    `short` adds the scenario with the newest driver to those of `-m short`.
    """

    def chosen(version: str):
        marks = [pytest.mark.short] if short and version == DRIVERS[-1] else []
        return pytest.param((version, rotation, token_seconds), id=f"{version}-{rotation}", marks=marks)

    return pytest.mark.parametrize("driver", [chosen(version) for version in versions or DRIVERS], indirect=True)


class Driver:
    """The driver. One runs at a time.

    `rotation` is the poll interval, or "off". `token_seconds` is the lifetime of the tokens from kubelet, 0 for kubelet's
    default.
    """

    def __init__(self, node: Node, version: str, rotation: str, token_seconds: int):
        self.node, self.version, self.rotation, self.token_seconds = node, version, rotation, token_seconds
        self.has_republish = version != "1.5.6"

    def start(self) -> None:
        self._describe()
        for folder in (SOCKET.parent, REGISTRATION.parent, PROVIDERS):
            folder.mkdir(parents=True, exist_ok=True)
        rotates = self.rotation != "off"
        flags = [f"--enable-secret-rotation={str(rotates).lower()}", "--metrics-addr=127.0.0.1:8095", "--v=5"]
        if rotates:
            flags.append(f"--rotation-poll-interval={self.rotation}")
        flags += [f"--kubeconfig={self.node.kubeconfig}", f"--endpoint=unix://{SOCKET}", f"--nodeid={NAME}"]
        self.node.start("driver", f"driver-{self.version}", *flags, env={"KUBE_NODE_NAME": NAME})
        wait("the driver", lambda: SOCKET.exists(), self.node, "driver")
        self.node.start("registrar", "registrar", SOCKET, REGISTRATION)
        drivers = 'jsonpath={.spec.drivers[*].name}'
        registered = lambda: "secrets-store" in self.node.kubectl("get", "csinode", NAME, "-o", drivers)  # noqa: E731
        wait("the driver's registration", registered, self.node, "registrar")

    def restart(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.node.stop("driver", number)
        self.node.start("driver")
        wait("the driver", lambda: SOCKET.exists(), self.node, "driver")

    def stop(self) -> None:
        self.node.stop("registrar")
        self.node.stop("driver")
        for socket in (SOCKET, REGISTRATION):
            socket.unlink(missing_ok=True)
        registered = lambda: "secrets-store" not in self.node.kubectl("get", "csinode", NAME, "-o", "yaml")  # noqa: E731
        wait("the driver's removal", registered, self.node, "kubelet")

    def _describe(self) -> None:
        lasts = {"expirationSeconds": self.token_seconds} if self.token_seconds else {}
        tokens = [{"audience": audience} | lasts for audience in ("vault", "openbao")]
        spec = {"podInfoOnMount": True, "attachRequired": False, "volumeLifecycleModes": ["Ephemeral"]}
        # From 1.6.0 on, kubelet repeats the calls. The chart sets this field when rotation is on.
        spec |= {"requiresRepublish": self.has_republish and self.rotation != "off", "tokenRequests": tokens}
        name = {"name": "secrets-store.csi.k8s.io"}
        self.node.apply({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": name, "spec": spec})
