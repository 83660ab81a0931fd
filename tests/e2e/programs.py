"""The cluster's programs: Kubernetes, etcd and the drivers from Go modules that are pinned below programs/ (go.mod and go.sum),
the container runtime from whatever packages the Debian release has.

What is built or unpacked is kept in the user's cache, by what it was made from, so a second run costs nothing.
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
# By module: each program's name and its Go package.
PACKAGES = {
    "kubernetes": {name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES} | {"registrar": "./registrar"},
    "etcd": {"etcd": "go.etcd.io/etcd/server/v3"},
} | {f"driver-{version}": {f"driver-{version}": f"{DRIVER}/cmd/secrets-store-csi-driver"} for version in DRIVERS}
# Not installed: installing containerd would start it.
DEBIAN = ["busybox-static", "containerd", "containernetworking-plugins", "runc"]
COST = {"kubernetes": "12 minutes on 2 cores, once"}


class Programs:
    """Builds or finds everything."""

    def __init__(self):
        self.folders = [module(name) for name in PACKAGES]
        self.debian = debian()

    def facts(self) -> dict:
        """Where things are; `path` is for PATH."""
        path = [*self.folders, self.debian / "usr/bin", self.debian / "usr/sbin"]
        definitions = sorted(self.folders[-1].glob("*.yaml"))
        return {
            "path": ":".join(map(str, path)),
            "cni": str(self.debian / "usr/lib/cni"),
            "busybox": str(self.debian / "bin/busybox"),
            "definitions": list(map(str, definitions)),
        }


def module(name: str) -> Path:
    """The folder with a module's programs."""
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
    """The folder that Debian's packages are unpacked into."""
    return made("debian", DEBIAN, [], lambda folder: unpack(DEBIAN, folder))


def made(name: str, recipe, sources: list, make) -> Path:
    """The folder that `make` fills, kept for as long as recipe and sources are the same."""
    digest = hashlib.sha256(repr(recipe).encode())
    for path in sorted(file for source in sources for file in source.rglob("*") if file.is_file()):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    folder = CACHE / f"{name}-{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        # Who comes second finds the work done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        fill(folder, name, make)
    return folder


def fill(folder: Path, name: str, make) -> None:
    if not folder.exists():
        begin = time.monotonic()
        say(f"{name}: not in {CACHE} yet" + (f" ({COST[name]})" if name in COST else ""))
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
