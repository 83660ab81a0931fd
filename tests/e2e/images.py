"""Images for the cluster, made here: none can be pulled, and none needs to be."""

import subprocess
import sys
from pathlib import Path

from node import ROOT, Node

sys.path.insert(0, str(ROOT / "dev"))

import image  # noqa: E402

BUSYBOX = "localhost/busybox:e2e"
PAUSE = "localhost/pause:e2e"
SUCCESSOR = "successor"  # the tag under which vaultmount's image is there once more


def load(node: Node) -> None:
    """Gives the container runtime every image; vaultmount's under two tags, so that it can be rolled."""
    busybox = {"bin/busybox": Path(node.facts["busybox"]).read_bytes()}
    for name, entrypoint in ((BUSYBOX, ["/bin/busybox", "sh", "-c"]), (PAUSE, ["/bin/busybox", "sleep", "inf"])):
        put(node, name, image.archive(name, busybox, entrypoint, {}, "amd64"))
    if not image.ARCHIVE.exists():
        raise RuntimeError(f"{image.ARCHIVE} is missing: make image")
    name = ctr(node, "image", "import", str(image.ARCHIVE)).split()[1]
    ctr(node, "image", "tag", "--force", name, f"{name.partition(':')[0]}:{SUCCESSOR}")


def put(node: Node, name: str, archive: bytes) -> None:
    path = node.folder / "image.tar"
    path.write_bytes(archive)
    ctr(node, "image", "import", str(path))
    path.unlink()


def ctr(node: Node, *arguments: str) -> str:
    command = ["ctr", "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=node.environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
