"""Child processes and a scratch folder that never outlive this process.

This process holds one end of a pipe. The pipe closes however this process ends: by a return, an exception, a signal or
SIGKILL. A watcher at the other end then stops every child with its whole process group, and removes the folder. There is no
other clean-up, so an ordinary run cleans up in the same way as a crash.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 5


class Children:
    """Child processes and a scratch folder, for the length of a `with` block."""

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="vaultmount-"))
        self._started = []
        # The watcher has a separate session: Ctrl-C at a terminal must not reach it.
        watcher = [sys.executable, "-IS", __file__, str(self.folder)]
        self._watcher = subprocess.Popen(watcher, stdin=subprocess.PIPE, cwd="/", start_new_session=True)
        return self

    def start(self, command: list, log: str = "", end: signal.Signals = signal.SIGTERM, **options) -> subprocess.Popen:
        """Starts a command in a separate process group.

        `log` names a file in the scratch folder for the output. `end` is the signal that asks the command to stop.
        """
        pipe = self._watcher.stdin.fileno()
        if log:
            options |= {"stdout": self._open(log), "stderr": subprocess.STDOUT}
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            process_group=0,
            # The child registers with the watcher before it executes the command, so the watcher knows every child.
            preexec_fn=lambda: os.write(pipe, b"%d %d\n" % (os.getpid(), end)),
            **options,
        )
        self._started.append(child)
        return child

    def wait(self, child: subprocess.Popen) -> int:
        """Waits for a child and returns its exit code, as a shell reports it.

        The child stays a zombie. The watcher knows its process ID, which must not be reused for another process.
        """
        ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status

    def _open(self, name: str):
        # Only this user may read the file: the output of servers may contain tokens.
        return open(self.folder / name, "wb", opener=lambda path, flags: os.open(path, flags, 0o600))

    def __exit__(self, *_):
        self._watcher.stdin.close()
        for child in self._started:
            child.wait()
        self._watcher.wait()


def exit_on_signals() -> None:
    """Turns a request to stop into an ordinary exit, which leaves every `with`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def watch(folder: str) -> None:
    """Waits for the end of the parent, then stops its children and removes the folder."""
    registered = sys.stdin.read()  # returns when the parent has ended or closed its end of the pipe
    groups = [tuple(int(word) for word in line.split()) for line in registered.splitlines()]
    for group, end in reversed(groups):
        send(group, end)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(send(group, 0) for group, _ in groups) and time.monotonic() < deadline:
        time.sleep(0.02)
    for group, _ in groups:
        send(group, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def send(group: int, number: int) -> bool:
    """Sends a signal to a process group. Returns true if the group still has a process."""
    with suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    watch(sys.argv[1])
