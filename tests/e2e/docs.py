"""What the documentation quotes from a cluster and tells to type into one."""

import re

from node import ROOT
from vault import VAULT


def commands(page: str, section: str) -> list:
    """What a section of a page tells to type: blocks of shell commands."""
    text = re.split(r"\n##* ", between((ROOT / "docs" / page).read_text(), f"# {section}\n"))[0]
    blocks = re.findall(r"```sh\n(.*?)\n```", text, re.S)
    return [[command.replace("\n", " ") for command in re.split(r"\n(?! )", block)] for block in blocks]


def overlay() -> str:
    """The kustomization that docs/install.md shows."""
    return between((ROOT / "docs/install.md").read_text(), "```yaml\n", "```")


def policy_overlay() -> str:
    """The kustomization that docs/policy.md shows."""
    return between(between((ROOT / "docs/policy.md").read_text(), "Beside `kustomization.yaml`"), "```yaml\n", "```")


def between(text: str, start: str, end: str = "") -> str:
    after = text.partition(start)[2]
    return after.partition(end)[0] if end else after


def assert_quoted(event: str) -> None:
    """Holds docs/troubleshooting.md to what an event really says."""
    event = event.replace(VAULT, "https://vault.vault.svc:8200")
    event = re.sub(r"known since \S+", "known since 2026-03-01T14:05:12Z", event)
    page = " ".join((ROOT / "docs/troubleshooting.md").read_text().split())
    assert " ".join(event.split()) in page, f"docs/troubleshooting.md does not quote: {event}"
