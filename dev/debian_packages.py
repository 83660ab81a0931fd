"""Programs of Debian's packages, unpacked and not installed: installing a server would start it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def unpack(packages: list, folder: Path) -> None:
    """Fills a folder with what packages of this machine's Debian release hold, without what they depend on."""
    with tempfile.TemporaryDirectory() as fetched:
        # apt-get drops its rights for downloads.
        os.chmod(fetched, 0o777)
        download = ["apt-get", "download", "-qq", *packages]
        if subprocess.run(download, cwd=fetched, capture_output=True).returncode != 0:
            print("debian: reading the list of packages", file=sys.stderr)
            subprocess.run(["apt-get", "update", "-qq"], check=True)
            subprocess.run(download, cwd=fetched, check=True)
        for package in sorted(Path(fetched).glob("*.deb")):
            print(f"debian: unpacking {package.name}", file=sys.stderr)
            subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
