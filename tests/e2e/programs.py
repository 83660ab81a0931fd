"""Programs of the cluster. Kubernetes, etcd and the drivers come from Go modules, pinned in programs/ by go.mod and go.sum.
The container runtime comes from the packages of the Debian release.

Built and unpacked programs are cached in the user's cache folder, by a hash of their sources. A second run builds nothing.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "dev"))

from debian_packages import unpack  # noqa: E402

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaultmount-e2e"
MODULES = HERE / "programs"
DRIVER = "sigs.k8s.io/secrets-store-csi-driver"
DRIVERS = ["1.5.6", "1.6.0"]

KUBERNETES = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet"]
# Program names and their Go packages, by module.
PACKAGES = {
    "kubernetes": {name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES} | {"registrar": "./registrar"},
    "etcd": {"etcd": "go.etcd.io/etcd/server/v3"},
} | {f"driver-{version}": {f"driver-{version}": f"{DRIVER}/cmd/secrets-store-csi-driver"} for version in DRIVERS}
# Unpacked, not installed: the installation of containerd would start it.
DEBIAN = ["busybox-static", "containerd", "containernetworking-plugins", "runc"]
COST = {"kubernetes": "12 minutes on 2 cores, once"}


class Programs:
    """All programs, built or found in the cache."""

    def __init__(self):
        self.folders = [module(name) for name in PACKAGES]
        self.debian = debian()

    def facts(self) -> dict:
        """Returns the paths of the programs. `path` is a value for PATH."""
        path = [*self.folders, self.debian / "usr/bin", self.debian / "usr/sbin"]
        definitions = sorted(self.folders[-1].glob("*.yaml"))
        return {
            "path": ":".join(map(str, path)),
            "cni": str(self.debian / "usr/lib/cni"),
            "busybox": str(self.debian / "bin/busybox"),
            "definitions": list(map(str, definitions)),
        }


def module(name: str) -> Path:
    """Returns the folder with the programs of a module."""
    source = MODULES / name
    version = next(iter(re.findall(r"k8s.io/kubernetes v(\S+)", (source / "go.mod").read_text())), "")
    return made(name, PACKAGES[name], [source, MODULES / "mlog"], lambda folder: build(name, source, version, folder))


def build(name: str, source: Path, version: str, folder: Path) -> None:
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    stamp = "k8s.io/component-base/version"
    flags = "-s -w" + (f" -X {stamp}.gitVersion=v{version}" if version else "")
    for program, package in PACKAGES[name].items():
        say(f"building {program}")
        command = ["go", "build", "-ldflags", flags, "-o", folder / program, package]
        subprocess.run(command, cwd=source, env=environment, check=True)
    if name.startswith("driver-"):
        where = ["go", "list", "-m", "-f", "{{.Dir}}", DRIVER]
        found = subprocess.run(where, cwd=source, env=environment, check=True, capture_output=True, text=True)
        for definition in Path(found.stdout.strip()).glob("deploy/secrets-store.csi.x-k8s.io_*.yaml"):
            shutil.copyfile(definition, folder / definition.name)


def debian() -> Path:
    """Returns the folder with the unpacked Debian packages."""
    return made("debian", DEBIAN, [], lambda folder: unpack(DEBIAN, folder))


def made(name: str, recipe, sources: list, make) -> Path:
    """Returns the folder that `make` fills. It is reused while recipe and sources are unchanged."""
    digest = hashlib.sha256(repr(recipe).encode())
    for path in sorted(file for source in sources for file in source.rglob("*") if file.is_file()):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    folder = CACHE / f"{name}-{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        # A second process waits here, and finds the folder filled.
        fcntl.flock(lock, fcntl.LOCK_EX)
        fill(folder, name, make)
    return folder


def fill(folder: Path, name: str, make) -> None:
    if not folder.exists():
        begin = time.monotonic()
        say(f"{name}: not found in {CACHE}, building" + (f" ({COST[name]})" if name in COST else ""))
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=CACHE))
        try:
            make(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        say(f"{name}: {time.monotonic() - begin:.0f} s")


def say(line: str) -> None:
    print(f"e2e: {line}", file=sys.stderr, flush=True)
