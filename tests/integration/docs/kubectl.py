"""kubectl for the commands of the book, where there is no cluster: notes each call, and does what needs none.

A command in vaultmount's container runs here; a token is the one that a pod of the service account would have; manifests
that are applied are looked at by vaultmount validate.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

SANDBOX = Path(os.environ["SANDBOX"])
# What a Secret with the key of object versions looks like, for commands that copy it.
SECRET = '{"apiVersion":"v1","kind":"Secret","metadata":{"name":"vault-csi-provider-hmac-key"},"data":{"key":"YWFh"}}'


def main(arguments: list) -> int:
    with open(SANDBOX / "kubectl.log", "a") as log:
        log.write(" ".join(shlex.join(arguments).split()) + "\n")
    option = lambda name, default="": arguments[arguments.index(name) + 1] if name in arguments else default  # noqa: E731
    if arguments[0] == "exec" and "--" in arguments:
        inside = arguments[arguments.index("--") + 1 :]
        if inside[:2] == ["vaultmount", "state"]:
            # There it has the key of the Secret.
            inside += ["--hmac-key-file", os.environ["HMAC_KEY"]]
        return subprocess.run(inside).returncode if inside[0] == "vaultmount" else 0
    if arguments[:2] == ["create", "token"]:
        audience = "".join(c if c.isalnum() else "_" for c in option("--audience"))
        print((SANDBOX / f"tokens/{option('-n')}.{arguments[2]}.{audience}").read_text())
    elif arguments[:2] == ["get", "pods"] and option("-o") == "name":
        print("pod/vaultmount-x7x2p")
    elif arguments[:2] == ["get", "secret"]:
        print(SECRET)
    elif arguments[0] == "apply" and "-f" in arguments:
        files = [file for flag, file in zip(arguments, arguments[1:], strict=False) if flag == "-f"]
        given = "\n---\n".join(sys.stdin.read() if file == "-" else Path(file).read_text() for file in files)
        return subprocess.run(["vaultmount", "validate", "--strict"], input=given, text=True).returncode
    return 0


sys.exit(main(sys.argv[1:]))
