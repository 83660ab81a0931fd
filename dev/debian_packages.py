"""Programs of Debian packages, unpacked and not installed: the installation of a server would start it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def unpack(packages: list, folder: Path) -> None:
    """Unpacks packages of this machine's Debian release into a folder, without their dependencies."""
    with tempfile.TemporaryDirectory() as fetched:
        # apt-get downloads as an unprivileged user.
        os.chmod(fetched, 0o777)
        download = ["apt-get", "download", "-qq", *packages]
        if subprocess.run(download, cwd=fetched, capture_output=True).returncode != 0:
            print("debian: updating the package lists", file=sys.stderr)
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(download, cwd=fetched, check=True)
        for package in sorted(Path(fetched).glob("*.deb")):
            print(f"debian: unpacking {package.name}", file=sys.stderr)
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
