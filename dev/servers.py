#!/usr/bin/env python3
"""Runs a real OpenBao and a real PostgreSQL on loopback while a command runs.

    python3 dev/servers.py run -- COMMAND...

This script exits with the exit code of COMMAND. COMMAND finds the servers in its environment:

    VAULTMOUNT_TEST_BAO_ADDR    http://127.0.0.1:PORT
    VAULTMOUNT_TEST_BAO_TOKEN   a root token
    VAULTMOUNT_TEST_BAO_BIN     the bao program
    VAULTMOUNT_TEST_PG_URL      postgres://postgres:PASSWORD@127.0.0.1:PORT/postgres
    VAULTMOUNT_TEST_PG_BIN      the folder of psql and the server's programs
    VAULTMOUNT_TEST_PYTHON      a Python with grpcio, if dev/bootstrap.py grpc has run
"""

import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import bootstrap
from subprocesses import Children, exit_on_signals

START_SECONDS = 30
# All requests go to loopback, so a proxy in the environment is ignored.
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Postgres(Children):
    """An empty PostgreSQL, for the length of a `with` block."""

    def __enter__(self):
        super().__enter__()
        try:
            bootstrap.install("servers")
            self._start_postgres(free_port(1))
            self.wait_until(lambda: self.psql("select 1"), self._postgres, "postgres.log")
            return self
        except BaseException:
            self.__exit__()
            raise

    def psql(self, sql: str, url: str | None = None) -> str:
        """Runs one SQL command as the superuser, or as the user in `url`, and returns its output."""
        command = [self.pg_bin / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", sql]
        done = subprocess.run([*command, url or self.pg_url], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def _start_postgres(self, port: int) -> None:
        home, options = self.folder / "postgres", {"env": {"TZ": "UTC"}}
        home.mkdir(mode=0o700)
        password = secrets.token_hex(16)
        self.pg_bin = bootstrap.POSTGRES / "pginstall/bin"
        self.pg_host = f"127.0.0.1:{port}"
        self.pg_url = f"postgres://postgres:{password}@{self.pg_host}/postgres"
        (home / "password").write_text(password)

        programs = self.pg_bin
        if os.getuid() == 0:
            # PostgreSQL refuses to run as root, and another user may be unable to enter the project's folder. Its
            # files are therefore copied to a folder that this user can read.
            nobody = pwd.getpwnam("nobody")
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            programs = copy_of_postgres(home) / "bin"
            self.folder.chmod(0o711)
            for path in (home, home / "password"):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)

        access = ["--username=postgres", f"--pwfile={home / 'password'}", "--auth=scram-sha-256"]
        plain = ["--no-locale", "--encoding=UTF8", "--no-sync"]
        command = [programs / "initdb", *access, *plain, home / "data"]
        if self.wait(self.start(command, log="initdb.log", **options)) != 0:
            raise RuntimeError(f"initdb failed:\n{self._tail('initdb.log')}")

        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        command = [programs / "postgres", "-D", home / "data", *(f"--{key}={value}" for key, value in settings.items())]
        # SIGQUIT stops PostgreSQL immediately and, unlike SIGKILL, releases its shared memory.
        self._postgres = self.start(command, log="postgres.log", end=signal.SIGQUIT, **options)

    def wait_until(self, answers, child: subprocess.Popen, log: str) -> None:
        """Calls `answers()` until it raises no error. Fails after 30 s, or when `child` has ended."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return answers()
            except (OSError, RuntimeError) as not_yet:
                if child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{child.args[0]} did not become ready: {not_yet}\n{self._tail(log)}") from None
            time.sleep(0.02)

    def _tail(self, log: str) -> str:
        return "\n".join((self.folder / log).read_text(errors="replace").splitlines()[-20:])


class Servers(Postgres):
    """A PostgreSQL, and an OpenBao with in-memory storage."""

    def __enter__(self):
        begin = time.monotonic()
        super().__enter__()
        try:
            self._start_bao(free_port(2))  # a dev server also listens on the next port, for its cluster address
            self.wait_until(lambda: self.bao("GET", "auth/token/lookup-self"), self._bao, "openbao.log")
            say(f"OpenBao at {self.bao_addr}, PostgreSQL at {self.pg_host} after {time.monotonic() - begin:.1f} s")
            return self
        except BaseException:
            self.__exit__()
            raise

    def bao(self, method: str, path: str, body: dict | None = None) -> dict:
        """Sends a request to OpenBao with the root token. `path` follows /v1/."""
        request = urllib.request.Request(f"{self.bao_addr}/v1/{path}", method=method)
        request.add_header("X-Vault-Token", self.root_token)
        data = None if body is None else json.dumps(body).encode()
        try:
            with LOOPBACK.open(request, data, timeout=10) as response:
                return json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as refusal:
            raise RuntimeError(f"{method} {path}: {refusal.code} {refusal.read().decode()}") from None

    def environment(self) -> dict:
        known = {
            "VAULTMOUNT_TEST_BAO_ADDR": self.bao_addr,
            "VAULTMOUNT_TEST_BAO_TOKEN": self.root_token,
            "VAULTMOUNT_TEST_BAO_BIN": str(bootstrap.BAO),
            "VAULTMOUNT_TEST_PG_URL": self.pg_url,
            "VAULTMOUNT_TEST_PG_BIN": str(self.pg_bin),
        }
        if bootstrap.installed("grpc"):
            known["VAULTMOUNT_TEST_PYTHON"] = str(bootstrap.PYTHON)
        return os.environ | known

    def _start_bao(self, port: int) -> None:
        self.bao_addr = f"http://127.0.0.1:{port}"
        self.root_token = secrets.token_hex(16)
        command = [bootstrap.BAO, "server", "-dev", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token"]
        environment = {"HOME": str(self.folder), "BAO_DEV_ROOT_TOKEN_ID": self.root_token}
        self._bao = self.start(command, log="openbao.log", env=environment)


def copy_of_postgres(home: Path) -> Path:
    # The programs find their libraries by a relative path, so both folders keep their relative positions.
    shutil.copytree(bootstrap.POSTGRES_LIBS, home / bootstrap.POSTGRES_LIBS.name)
    package = home / bootstrap.POSTGRES.name / "pginstall"
    shutil.copytree(bootstrap.POSTGRES / "pginstall", package, ignore=shutil.ignore_patterns("include"))
    return package


def free_port(count: int) -> int:
    """Returns the first of `count` consecutive free ports, below the range for outgoing connections."""
    while True:
        first = random.randrange(20000, 30000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


def say(line: str) -> None:
    print(f"servers: {line}", file=sys.stderr, flush=True)


def main() -> int:
    if sys.argv[1:3] != ["run", "--"] or len(sys.argv) == 3:
        sys.exit("usage: servers.py run -- COMMAND...")
    exit_on_signals()
    with Servers() as servers:
        return servers.wait(servers.start(sys.argv[3:], env=servers.environment()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, subprocess.CalledProcessError) as failure:
        sys.exit(f"servers: {failure}")
