"""Quotations and commands of the documentation that need a cluster."""

import os
import re
import shutil

from images import BUSYBOX
from node import ROOT, SERVICE, Node
from vault import VAULT, Vault, bootstrap


def commands(page: str, section: str) -> list:
    """Returns the shell commands of a section of a page, by block."""
    text = re.split(r"\n##* ", between((ROOT / "docs" / page).read_text(), f"# {section}\n"))[0]
    blocks = re.findall(r"```sh\n(.*?)\n```", text, re.S)
    return [[command.replace("\n", " ") for command in re.split(r"\n(?! )", block)] for block in blocks]


class Reader:
    """A reader who follows pages: saves the files that they show under a name, and runs their commands."""

    def __init__(self, node: Node, vault: Vault):
        self.node, self.vault, self.folder, self.printed = node, vault, node.folder / "reader", ""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("bin", "overlay", "tls"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "deploy").symlink_to(ROOT / "deploy")
        shutil.copy(vault.authority, self.folder / "tls/ca.crt")
        self._tool("bao", f"BAO_ADDR={VAULT} BAO_TOKEN={vault.root_token} exec {bootstrap.BAO}")
        # A server in the cluster reads these values from its own files.
        given = f"kubernetes_ca_cert=@{vault.authority} token_reviewer_jwt={vault.reviewer()} disable_local_ca_jwt=true"
        config = f'[ "$2" != auth/kubernetes/config ] || set -- "$@" {given}'
        self._tool("vault", f"{config}\nexec {self.folder}/bin/bao")
        self._tool("vaultmount", f"VAULT_ADDR={VAULT} exec {next(ROOT.glob('target/*/release/vaultmount'))}")
        (self.folder / "class.yaml").write_text((ROOT / "deploy/examples/kv.yaml").read_text())

    def follow(self, page: str, section: str = "", only: str = "") -> None:
        """Follows a page or a section. With `only`, runs only the commands of this program."""
        for language, text in self._blocks(page, section):
            name = re.match(r"# (\S+\.yaml)\n", text)
            if language == "yaml" and name:
                (self.folder / name[1]).parent.mkdir(exist_ok=True)
                (self.folder / name[1]).write_text(self._here(text))
            elif language == "sh" and (typed := of(text, only)):
                self.printed = self.node.shell(f"cd {self.folder}; PATH={self.folder}/bin:$PATH; {self._here(typed)}")

    def commands(self, page: str, only: str) -> list:
        typed = [of(text, only) for language, text in self._blocks(page, "") if language == "sh"]
        return [text for text in typed if text]

    def _blocks(self, page: str, section: str) -> list:
        text = (ROOT / page if page == "README.md" else ROOT / "docs" / page).read_text()
        if section:
            text = re.split(r"\n##+ ", between(text, f"\n## {section}\n"))[0]
        return re.findall(r"```(\w+)\n(.*?)```", text, re.S)

    def _here(self, text: str) -> str:
        """Replaces the addresses and images with those of this cluster."""
        for there, here in [
            ("https://vault.example:8200", VAULT),
            ("https://kubernetes.default.svc", f"https://{SERVICE}"),
            ("../deploy", os.path.relpath(ROOT / "deploy", self.folder / "overlay")),
            ("registry.example/", "localhost/"),
            # The image of pods is a shell, and nothing else is on its path.
            ("image: busybox", f"image: {BUSYBOX}"),
            ('command: [sleep, "1000000"]', "args: [sleep 1000000]"),
            (" -- cat ", " -- /bin/busybox cat "),
        ]:
            text = text.replace(there, here)
        return text

    def _tool(self, name: str, line: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/sh\n{line} "$@"\n')
        path.chmod(0o755)


def named(program: str) -> list:
    """Returns the commands of a program in the sentences of the documentation, cut off before another program's part."""
    found = []
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
        found += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    return [re.split(r" -- | \\?\| | > ", code)[0] for code in found if code.startswith(f"{program} ")]


def of(text: str, program: str) -> str:
    """Returns the commands of a program in a block."""
    return "\n".join(command for command in re.split(r"\n(?! )", text.rstrip()) if command.startswith(program))


def overlay() -> str:
    """Returns the kustomization in docs/install.md."""
    return between((ROOT / "docs/install.md").read_text(), "```yaml\n", "```")


def between(text: str, start: str, end: str = "") -> str:
    after = text.partition(start)[2]
    return after.partition(end)[0] if end else after


def assert_quoted(event: str) -> None:
    """Checks that docs/troubleshooting.md quotes an event exactly."""
    event = event.replace(VAULT, "https://vault.vault.svc:8200")
    event = re.sub(r"known since \S+", "known since 2026-03-01T14:05:12Z", event)
    page = " ".join((ROOT / "docs/troubleshooting.md").read_text().split())
    assert " ".join(event.split()) in page, f"docs/troubleshooting.md does not quote: {event}"
