#!/usr/bin/env python3
"""Runs a real one-node Kubernetes on this machine, in separate Linux namespaces. Its mounts, network, processes and cgroups
end with its first process, and are invisible from outside.

    python3 tests/e2e/cluster.py run -- COMMAND...   runs COMMAND in a cluster, and stops the cluster after it
    python3 tests/e2e/cluster.py up                  starts a cluster that keeps running
    python3 tests/e2e/cluster.py enter [COMMAND...]  runs COMMAND, or a shell, in the cluster of `up`
    python3 tests/e2e/cluster.py down                stops the cluster of `up`

The logs and the state of the last cluster are in target/e2e.
"""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "dev"))

from node import Node, alive, first_process  # noqa: E402
from programs import Programs, say  # noqa: E402
from subprocesses import Children, exit_on_signals  # noqa: E402

STATE = ROOT / "target/e2e"
RUNNING = STATE / "cluster.json"
CGROUPS = Path("/sys/fs/cgroup")
UNSHARE = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--mount-proc", "--kill-child"]


def main() -> int:
    exit_on_signals()
    match sys.argv[1:]:
        case ["run", "--", *command] if command:
            return run(command)
        case ["up"]:
            return up()
        case ["enter", *command]:
            return enter(command)
        case ["down"]:
            return down()
        case ["first-process", folder, *command]:
            return first_process(Path(folder), command)
    sys.exit(__doc__.split("\n\n")[1])


def run(command: list) -> int:
    check_machine()
    STATE.mkdir(parents=True, exist_ok=True)
    with open(STATE / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("e2e: a cluster of this checkout is already running; `enter` it, or stop it with `down`")
        return run_alone(command)


def run_alone(command: list) -> int:
    programs = Programs()
    RUNNING.unlink(missing_ok=True)
    logs = STATE / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    with Cgroups() as cgroups, Children() as children:
        node = Node({"folder": str(children.folder), "logs": str(logs)} | programs.facts())
        node.save()
        inside = [sys.executable, "-u", __file__, "first-process", children.folder, *command]
        outside = children.start([*cgroups.joined(), *UNSHARE, *inside], env=os.environ)
        while not node.ready.exists() and not ended(outside):
            time.sleep(0.1)
        if node.ready.exists():
            # The first process is the only child of unshare. `enter` needs its process ID outside the namespaces.
            first = int(Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text())
            facts = {"pid": first, "outside": os.getpid(), "folder": str(node.folder), "environment": node.environment}
            RUNNING.write_text(json.dumps(facts))
        try:
            return children.wait(outside)
        finally:
            RUNNING.unlink(missing_ok=True)


def ended(child: subprocess.Popen) -> bool:
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def up() -> int:
    if running():
        say("a cluster is already running")
        return 0
    check_machine()
    Programs()
    STATE.mkdir(parents=True, exist_ok=True)
    with open(STATE / "up.log", "wb") as log:
        command = [sys.executable, "-u", __file__, "run", "--", "sleep", "infinity"]
        outside = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        while not running():
            if outside.poll() is not None:
                sys.exit(f"e2e: the cluster did not start:\n{(STATE / 'up.log').read_text()}")
            time.sleep(0.2)
    except BaseException:
        outside.terminate()
        raise
    say("cluster started; enter it with python3 tests/e2e/cluster.py enter")
    return 0


def enter(command: list) -> int:
    facts = running() or sys.exit("e2e: no cluster is running; start one with python3 tests/e2e/cluster.py up")
    namespaces = ["nsenter", "--target", str(facts["pid"]), "--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"]
    os.environ.update(facts["environment"])
    return subprocess.run([*namespaces, "--wd=" + os.getcwd(), *(command or ["bash"])]).returncode


def down() -> int:
    facts = running()
    if not facts:
        say("no cluster is running")
        return 0
    os.kill(facts["outside"], signal.SIGTERM)
    deadline = time.monotonic() + 60
    while alive(facts["outside"]):
        if time.monotonic() > deadline:
            sys.exit(f"e2e: process {facts['outside']} did not end within 60 s; see {STATE / 'up.log'}")
        time.sleep(0.1)
    say("cluster stopped")
    return 0


def running() -> dict | None:
    """Returns the facts of the running cluster, if there is one."""
    with suppress(OSError, ValueError):
        facts = json.loads(RUNNING.read_text())
        # Another process may have this ID by now.
        if str(facts["folder"]) in Path(f"/proc/{facts['pid']}/cmdline").read_text():
            return facts
    return None


def check_machine() -> None:
    """Exits with a list of everything that is missing on this machine."""
    missing = []
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        missing.append("Linux on x86-64")
    if os.geteuid() != 0:
        missing.append("root, to create namespaces, mounts and cgroups")
    if not (CGROUPS / "memory/tasks").exists():
        missing.append("cgroup version 1 below /sys/fs/cgroup (version 2 is not tested)")
    tools = {"go": "Go 1.25.9 or newer", "apt-get": "Debian", "dpkg-deb": "Debian", "openssl": "openssl", "ip": "iproute2"}
    tools |= {"unshare": "util-linux", "nsenter": "util-linux"}
    missing += [f"{tool} (of {package})" for tool, package in tools.items() if shutil.which(tool) is None]
    with suppress(OSError):
        if "overlay" not in Path("/proc/filesystems").read_text():
            missing.append("overlayfs in the kernel")
    if missing:
        sys.exit("e2e: a cluster cannot run on this machine; missing:\n" + "".join(f"  - {what}\n" for what in missing))


class Cgroups:
    """One cgroup in every hierarchy. All cgroups of the cluster are below these."""

    def __enter__(self):
        name = f"vaultmount-e2e-{os.getpid()}"
        self._sweep()
        # systemd creates links to hierarchies with several controllers.
        hierarchies = [path for path in CGROUPS.iterdir() if (path / "tasks").exists() and not path.is_symlink()]
        self._folders = [path / name for path in hierarchies]
        for folder in self._folders:
            folder.mkdir()
            # A new cpuset is empty, and an empty cpuset does not accept processes.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (folder / setting).exists():
                    (folder / setting).write_text((folder.parent / setting).read_text())
        return self

    def joined(self) -> list:
        """Returns the words to prefix a command with, so that it runs in these cgroups."""
        join = "".join(f'echo $$ > "{folder}/cgroup.procs"; ' for folder in self._folders)
        return ["sh", "-ec", join + 'exec "$@"', "sh"]

    def __exit__(self, *_):
        for folder in self._folders:
            remove(folder)

    def _sweep(self) -> None:
        """Removes the cgroups that killed runs left behind."""
        for folder in CGROUPS.glob("*/vaultmount-e2e-*"):
            if not Path(f"/proc/{folder.name.rpartition('-')[2]}").exists():
                remove(folder)


def remove(folder: Path) -> None:
    # The last processes may still be exiting.
    deadline = time.monotonic() + 10
    for cgroup in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True) + [folder]:
        while time.monotonic() < deadline:
            try:
                cgroup.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.05)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, subprocess.CalledProcessError) as failure:
        sys.exit(f"e2e: {failure}")
