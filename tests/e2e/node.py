"""The node and its control plane: the processes in the cluster's namespaces, and how each part is started and stopped.

The first process or a test starts a part. In both cases the part ends with the first process.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from programs import say

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAME = "node1"
# The node's address and the API server's service address, both on the cluster's own loopback device.
ADDRESS = "10.250.0.1"
SERVICE = "10.96.0.1"
TOKEN = "e2e-admin"  # made up, and valid only in these namespaces
KUBELET = Path("/var/lib/kubelet")
# The kernel settings that kubelet requires.
KERNEL = {"vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1}
KERNEL |= {"kernel/keys/root_maxkeys": 1_000_000, "kernel/keys/root_maxbytes": 25_000_000}


class Node:
    """The parts of the node, by name. `folder` is removed with the cluster, `logs` stays."""

    def __init__(self, facts: dict):
        self.facts = facts
        self.folder, self.logs = Path(facts["folder"]), Path(facts["logs"])
        self.kubeconfig, self.ready = self.folder / "kubeconfig", self.folder / "ready"
        self.environment = {
            "PATH": f"{facts['path']}:/usr/sbin:/usr/bin:/sbin:/bin",
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(self.folder),
            "VAULTMOUNT_E2E": str(self.folder),
        }

    @classmethod
    def current(cls) -> "Node":
        """Returns the node in whose namespaces this process runs."""
        folder = os.environ.get("VAULTMOUNT_E2E") or sys.exit("not in a cluster; run tests/e2e/cluster.py enter COMMAND")
        return cls.load(Path(folder))

    @classmethod
    def load(cls, folder: Path) -> "Node":
        return cls(json.loads((folder / "facts.json").read_text()))

    def save(self) -> None:
        (self.folder / "facts.json").write_text(json.dumps(self.facts))

    def start(self, name: str, *command, env: dict | None = None) -> None:
        """Starts a part. Without `command`, repeats its last start. A running part is stopped first."""
        self.stop(name)
        recipe = self.folder / f"{name}.json"
        if command:
            recipe.write_text(json.dumps({"command": [str(word) for word in command], "env": env or {}}))
        made = json.loads(recipe.read_text())
        with open(self.logs / f"{name}.log", "ab") as log:
            part = subprocess.Popen(
                made["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment | made["env"],
            )
        (self.folder / f"{name}.pid").write_text(str(part.pid))

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stops a part and waits until it has ended. Sends SIGKILL after 20 s."""
        try:
            pid = self.pid(name)
            os.kill(pid, number)
        except (FileNotFoundError, ProcessLookupError):
            return
        deadline = time.monotonic() + 20
        while alive(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def kubectl(self, *arguments, given: str | None = None, timeout: float = 60) -> str:
        """Runs kubectl and returns its output. Raises RuntimeError if it fails."""
        command = ["kubectl", *map(str, arguments)]
        done = subprocess.run(command, input=given, capture_output=True, text=True, env=self.environment, timeout=timeout)
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def shell(self, command: str) -> str:
        """Runs a shell command and returns its output."""
        done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, env=self.environment, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *resources: dict) -> None:
        self.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": resources}))

    def tail(self, name: str, lines: int = 20) -> str:
        return "\n".join((self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])


def alive(pid: int) -> bool:
    """Returns true if a process runs. A zombie does not run."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def first_process(folder: Path, command: list) -> int:
    """Process 1 of the namespaces: creates the node, runs the command, and reaps orphaned processes."""
    node = Node.load(folder)
    begin = time.monotonic()
    namespaces(folder)
    start(node)
    say(f"Kubernetes is ready after {time.monotonic() - begin:.0f} s")
    child = subprocess.Popen(command, env=os.environ | node.environment)
    node.ready.touch()
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status) & 0xFF


def namespaces(folder: Path) -> None:
    """Sets up mounts, cgroups, network and hostname of the new namespaces."""
    run("mount", "--make-rshared", "/")
    run("hostname", NAME)
    cgroups = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    run("mount", "-t", "tmpfs", "cgroup", "/sys/fs/cgroup")
    for controllers in filter(None, cgroups):
        place = Path("/sys/fs/cgroup") / controllers.removeprefix("name=")
        place.mkdir()
        run("mount", "-t", "cgroup", "-o", controllers, "cgroup", place)
    # The node's programs write to these folders, outside the cluster's own folder.
    for place in ("/var/lib", "/var/log", "/etc"):
        name = place.strip("/").replace("/", "-")
        upper, work = folder / f"{name}.upper", folder / f"{name}.work"
        upper.mkdir()
        work.mkdir()
        run("mount", "-t", "overlay", "-o", f"lowerdir={place},upperdir={upper},workdir={work}", "overlay", place)
    # These settings belong to the whole machine. kubelet would set them, but finds the required values in these files.
    for setting, value in KERNEL.items():
        shown = folder / setting.replace("/", "-")
        shown.write_text(f"{value}\n")
        run("mount", "--bind", shown, f"/proc/sys/{setting}")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    run("ip", "link", "set", "lo", "up")
    for address in (ADDRESS, SERVICE):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")


def start(node: Node) -> None:
    """Starts the parts of the node in the order of their dependencies."""
    pki = node.folder / "pki"
    pki.mkdir()
    run("openssl", "genrsa", "-out", pki / "sa.key", "2048")
    run("openssl", "rsa", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub")
    (pki / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    start_etcd(node)
    start_apiserver(node, pki)
    write_kubeconfig(node, pki / "apiserver.crt")
    start_containerd(node)
    wait("the API server", lambda: node.kubectl("get", "--raw", "/readyz") == "ok", node, "kube-apiserver")
    manager = ["--service-account-private-key-file", pki / "sa.key", "--root-ca-file", pki / "apiserver.crt"]
    controllers = "*,-cloud-node-lifecycle-controller,-node-ipam-controller"
    part = ["--kubeconfig", node.kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1"]
    node.start("kube-controller-manager", "kube-controller-manager", *part, *manager, f"--controllers={controllers}")
    node.start("kube-scheduler", "kube-scheduler", *part)
    start_kubelet(node)
    jsonpath = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    ready = lambda: node.kubectl("get", "node", NAME, "-o", jsonpath) == "True"  # noqa: E731
    wait("the node", ready, node, "kubelet")


def start_etcd(node: Node) -> None:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    where = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}"]
    where += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]
    node.start("etcd", "etcd", f"--data-dir={node.folder / 'etcd'}", *where, "--unsafe-no-fsync")


def start_apiserver(node: Node, pki: Path) -> None:
    issuer = "https://kubernetes.default.svc.cluster.local"
    accounts = [f"--service-account-issuer={issuer}", f"--api-audiences={issuer}"]
    accounts += [f"--service-account-key-file={pki / 'sa.pub'}", f"--service-account-signing-key-file={pki / 'sa.key'}"]
    # Pods reach the service address and port without a proxy: the address belongs to the node.
    where = ["--bind-address=0.0.0.0", "--secure-port=443", f"--advertise-address={ADDRESS}"]
    where += ["--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none"]
    where += ["--kubelet-preferred-address-types=InternalIP"]
    rights = [f"--token-auth-file={pki / 'tokens.csv'}", "--authorization-mode=Node,RBAC", "--allow-privileged=true"]
    etcd = ["--etcd-servers=http://127.0.0.1:2379", f"--cert-dir={pki}"]
    node.start("kube-apiserver", "kube-apiserver", *etcd, *where, *accounts, *rights)


def write_kubeconfig(node: Node, authority: Path) -> None:
    cluster = {"server": f"https://{SERVICE}", "certificate-authority": str(authority)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "admin"}}],
        "current-context": "e2e",
    }
    node.kubeconfig.write_text(json.dumps(config))


def start_containerd(node: Node) -> None:
    network = {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(node.folder / "ipam"),
                    "ranges": [[{"subnet": "10.244.0.0/16"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    networks = node.folder / "networks"
    networks.mkdir()
    (networks / "pods.conflist").write_text(json.dumps(network))
    (node.folder / "containerd.toml").write_text(
        f"""
        version = 2
        root = "{node.folder}/containerd"
        disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.zfs"]
        [plugins."io.containerd.grpc.v1.cri"]
          # Required to start sandboxes: this machine's first process is not permitted to lower scores.
          restrict_oom_score_adj = true
          disable_apparmor = true
          sandbox_image = "localhost/pause:e2e"
          [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "{node.facts['cni']}"
            conf_dir = "{networks}"
        """
    )
    node.start("containerd", "containerd", "--config", node.folder / "containerd.toml")
    wait("containerd", lambda: run("ctr", "version", env=node.environment), node, "containerd")


def start_kubelet(node: Node) -> None:
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        # The cluster has no DNS server. Without these settings, every pod would get an event about it.
        "resolvConf": "",
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "localStorageCapacityIsolation": False,
        "volumePluginDir": str(node.folder / "volume-plugins"),
        "registerWithTaints": [],
        "maxPods": 200,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
    }
    (node.folder / "kubelet.yaml").write_text(json.dumps(config))
    where = ["--kubeconfig", node.kubeconfig, "--config", node.folder / "kubelet.yaml", f"--hostname-override={NAME}"]
    node.start("kubelet", "kubelet", *where, f"--node-ip={ADDRESS}", "--v=2")


def wait(what: str, holds, node: Node, part: str, seconds: float = 90) -> None:
    """Calls `holds()` until it returns true, or returns None without an error. Fails after `seconds` or if the part ends."""
    begin = time.monotonic()
    while True:
        try:
            if holds() is not False:
                return
            reason = "not yet"
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            reason = error
        passed = time.monotonic() - begin
        if passed > seconds or not alive(node.pid(part)):
            raise RuntimeError(f"waiting for {what} failed after {passed:.0f} s: {reason}\n{node.tail(part)}")
        time.sleep(0.1)


def run(*command, **options) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")

