"""The namespace of the scenarios: classes, the pods that mount them, and their observed state."""

import json
import time
from datetime import datetime
from pathlib import Path

import images
from node import KUBELET, Node, wait

NAMESPACE = "shop"
ACCOUNTS = ["web", "report"]


class Shop:
    """The namespace `shop`."""

    def __init__(self, node: Node):
        self.node = node

    def open(self) -> None:
        self.opened = time.time()
        accounts = [resource("v1", "ServiceAccount", name) for name in ACCOUNTS]
        self.node.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *accounts)

    def close(self) -> None:
        kinds = "all,secretproviderclasses,secrets,events"
        self.kubectl("delete", kinds, "--all", "--grace-period=1", "--timeout=90s", timeout=100)

    def kubectl(self, *arguments, **options) -> str:
        return self.node.kubectl("-n", NAMESPACE, *arguments, **options)

    def apply(self, *resources: dict) -> None:
        self.node.apply(*resources)

    def add_class(
        self, name: str, objects: str, role: str = "web", provider: str = "vault", secrets: list = (), **more
    ) -> None:
        parameters = {"roleName": role, "objects": objects} | more
        spec = {"provider": provider, "parameters": parameters}
        if secrets:
            spec["secretObjects"] = secrets
        self.apply(resource("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass", name, spec))

    def add_pod(
        self,
        name: str,
        *classes: str,
        account: str = "web",
        script: str = "sleep 1000000",
        attributes: dict | None = None,
        spec: dict | None = None,
        **more,
    ) -> "Pod":
        """Adds a pod that mounts each class at /CLASS. `spec` extends the pod's spec, `more` its container."""
        made = pod_spec(classes, account, script, attributes or {}, more) | (spec or {})
        self.apply(resource("v1", "Pod", name, made))
        return Pod(self, name)

    def add_pods(self, count: int, *classes: str, **more) -> list:
        names = [f"pod-{number}" for number in range(count)]
        spec = pod_spec(classes, "web", "sleep 1000000", {}, more)
        self.apply(*(resource("v1", "Pod", name, spec) for name in names))
        return [Pod(self, name) for name in names]

    def run_pod(self, name: str, *classes: str, **more) -> "Pod":
        pod = self.add_pod(name, *classes, **more)
        pod.wait_running()
        return pod

    def add_job(self, name: str, *classes: str, account: str = "web", script: str = "true") -> "Pod":
        """Adds a Job of one pod, without retries, and returns the pod."""
        template = {"spec": pod_spec(classes, account, script, {}, {})}
        self.apply(resource("batch/v1", "Job", name, {"template": template, "backoffLimit": 0}))
        pods = ["get", "pods", "-l", f"job-name={name}", "-o", "jsonpath={.items[*].metadata.name}"]
        self.wait("the Job's pod", lambda: self.kubectl(*pods) != "")
        return Pod(self, self.kubectl(*pods))

    def add_stateful_set(self, name: str, *classes: str) -> "Pod":
        """Adds a StatefulSet of one pod. The pod's replacement has the same name."""
        spec = pod_spec(classes, "web", "sleep 1000000", {}, {}) | {"restartPolicy": "Always"}
        label = {"app": name}
        template = {"metadata": {"labels": label}, "spec": spec}
        stateful_set = {"serviceName": name, "selector": {"matchLabels": label}, "template": template}
        self.apply(resource("apps/v1", "StatefulSet", name, stateful_set))
        return Pod(self, f"{name}-0")

    def living(self) -> set:
        """Returns the UIDs of pods that have not ended. A pod in deletion has not ended."""
        pods = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
        return {pod["metadata"]["uid"] for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")}

    def versions(self, pod: "Pod", name: str) -> dict:
        """Returns the object versions that the driver recorded for a pod and a class."""
        recorded = f"{pod.name}-{NAMESPACE}-{name}"
        status = json.loads(self.kubectl("get", "secretproviderclasspodstatus", recorded, "-o", "json"))
        return {entry["id"]: entry["version"] for entry in status["status"]["objects"]}

    def phases(self) -> list:
        return self.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.phase}").split()

    def wait(self, what: str, holds, seconds: float = 60) -> None:
        """Waits until `holds()` is true. The error contains the events."""
        try:
            wait(what, holds, self.node, "kubelet", seconds)
        except RuntimeError as error:
            events = "\n".join(self.events())
            raise RuntimeError(f"{str(error).splitlines()[0]}\nevents:\n{events}") from None

    def events(self, reason: str = "", about: str = "") -> list:
        """Returns the texts of events of this scenario, oldest first."""
        found = json.loads(self.kubectl("get", "events", "-o", "json"))["items"]
        # kubelet may still report on pods that are gone. Event times have a resolution of one second.
        new = [event for event in found if when(event) >= int(self.opened)]
        wanted = [event for event in new if reason in event["reason"] and about in event["involvedObject"]["name"]]
        return [event["message"] for event in sorted(wanted, key=when)]


class Pod:
    """A pod of the namespace."""

    def __init__(self, shop: Shop, name: str):
        self.shop, self.name = shop, name

    def status(self) -> dict:
        return json.loads(self.shop.kubectl("get", "pod", self.name, "-o", "json"))

    def wait_running(self, seconds: float = 60) -> None:
        self.shop.wait(f"pod {self.name}", lambda: self.status()["status"]["phase"] == "Running", seconds)

    def wait_event(self, *words: str, reason: str = "FailedMount", seconds: float = 60) -> str:
        """Waits for an event that contains all words, and returns its text."""
        found = []

        def there() -> bool:
            events = self.shop.events(reason, self.name)
            found[:] = [text for text in events if all(word in text for word in words)]
            return bool(found)

        self.shop.wait(f"an event with {words}", there, seconds)
        return found[0]

    def run(self, script: str) -> str:
        """Runs a shell script in the pod and returns its output."""
        return self.shop.kubectl("exec", self.name, "--", "/bin/busybox", "sh", "-c", script)

    def read(self, path: str) -> str:
        return self.run(f"cat {path}")

    def file(self, path: str) -> tuple:
        """Returns the mode and the content of a file."""
        mode, _, content = self.run(f"stat -L -c %a {path}; cat {path}").partition("\n")
        return mode, content

    def log(self) -> str:
        return self.shop.kubectl("logs", self.name)

    def uid(self) -> str:
        return self.status()["metadata"]["uid"]

    def volume(self, name: str) -> Path:
        """Returns the path of a volume of the pod on the node."""
        return KUBELET / f"pods/{self.uid()}/volumes/kubernetes.io~csi/{name}/mount"

    def mounts(self) -> list:
        """Returns the pod's volumes that are mounted on the node."""
        with open("/proc/self/mounts") as mounts:
            return [line.split()[1] for line in mounts if f"/pods/{self.uid()}/volumes/kubernetes.io~csi" in line]

    def delete(self) -> None:
        self.shop.kubectl("delete", "pod", self.name, "--grace-period=1", "--timeout=60s", timeout=70)


def resource(version: str, kind: str, name: str, spec: dict | None = None) -> dict:
    made = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}}
    return made | ({"spec": spec} if spec else {})


def pod_spec(classes: tuple, account: str, script: str, attributes: dict, more: dict) -> dict:
    volumes = [
        {
            "name": name,
            "csi": {
                "driver": "secrets-store.csi.k8s.io",
                "readOnly": True,
                "volumeAttributes": {"secretProviderClass": name} | attributes,
            },
        }
        for name in classes
    ]
    mounts = [{"name": name, "mountPath": f"/{name}", "readOnly": True} for name in classes]
    container = {"name": "main", "image": images.BUSYBOX, "args": [script], "volumeMounts": mounts} | more
    return {
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": volumes,
    }


def when(event: dict) -> float:
    text = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(text).timestamp()
