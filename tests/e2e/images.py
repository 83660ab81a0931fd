"""Images for the cluster. They are built locally, so none has to be pulled."""

import subprocess
import sys
from pathlib import Path

from node import ROOT, Node

sys.path.insert(0, str(ROOT / "dev"))

import image  # noqa: E402

BUSYBOX = "localhost/busybox:e2e"
PAUSE = "localhost/pause:e2e"
BAO = "localhost/bao:e2e"
SUCCESSOR = "successor"  # a second tag of vaultmount's image


def load(node: Node) -> None:
    """Imports every image into the container runtime. vaultmount's gets two tags, for rolling updates."""
    put(node, BUSYBOX, Path(node.facts["busybox"]), "sh", "-c")
    put(node, PAUSE, Path(node.facts["busybox"]), "sleep", "inf")
    if not image.ARCHIVE.exists():
        raise RuntimeError(f"{image.ARCHIVE} not found; run `make image`")
    name = ctr(node, "image", "import", str(image.ARCHIVE)).split()[1]
    ctr(node, "image", "tag", "--force", name, f"{name.partition(':')[0]}:{SUCCESSOR}")


def put(node: Node, name: str, program: Path, *arguments: str) -> None:
    """Imports an image of one static program. Its entrypoint is the program with these arguments."""
    place = f"bin/{program.name}"
    packed = image.archive(name, {place: program.read_bytes()}, [f"/{place}", *arguments], {}, "amd64")
    path = node.folder / "image.tar"
    path.write_bytes(packed)
    ctr(node, "image", "import", str(path))
    path.unlink()


def ctr(node: Node, *arguments: str) -> str:
    command = ["ctr", "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=node.environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
