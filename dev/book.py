#!/usr/bin/env python3
"""Builds the book of docs/ into target/book, and holds what was built to what a reader needs.

    python3 dev/book.py

Fails on a warning of mdBook's, on a link whose page or anchor is not in the book, and on a page that takes anything from
another host. Links that lead out of docs/, to sources, are for readers of the files: the book has their text.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import bootstrap
from bootstrap import ROOT

BOOK = ROOT / "target/book"
LINK = re.compile(r'<a href="(?P<target>[^"]*)"[^>]*>(?P<text>.*?)</a>', re.S)
# What a page loads by itself, by element and attribute.
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}
# All chapters in one: its links are the chapters'. The other is for a server that has no such page.
NOT_CHAPTERS = {"print.html", "404.html", "toc.html"}


class Page(HTMLParser):
    """What a page names, links to and loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.ids, self.links, self.loaded = path, set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id"))
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [value for name, value in attrs if (tag, name) in LOADED]


def main() -> None:
    bootstrap.install("book")
    build()
    for path in BOOK.rglob("*.html"):
        path.write_text(LINK.sub(lambda link: shown(link, path), path.read_text()))
    pages = {path: Page(path) for path in BOOK.rglob("*.html")}
    wrong = [fault for page in pages.values() for fault in faults(page, pages)]
    if wrong:
        sys.exit("\n".join(["book: not as it should be:", *wrong]))
    print(f"{len(pages)} pages; open target/book/index.html")


def build() -> None:
    done = subprocess.run([bootstrap.TOOLS / "bin/mdbook", "build", ROOT / "docs"], capture_output=True, text=True)
    if done.returncode != 0 or re.search(r"^\s*(WARN|ERROR)", done.stderr, re.M):
        sys.exit(f"book: mdbook warns or fails:\n{done.stderr}")


def shown(link: re.Match, page: Path) -> str:
    """The link, or its text if it leads out of the book to a file of the project."""
    address = urlsplit(link["target"])
    leads = (page.parent / unquote(address.path)).resolve()
    outside = not address.scheme and address.path and not leads.is_relative_to(BOOK)
    return link["text"] if outside else link[0]


def faults(page: Page, pages: dict) -> list:
    name = page.path.relative_to(BOOK)
    found = [f"{name} loads {one}" for one in page.loaded if urlsplit(one).scheme or one.startswith("//")]
    if name.name in NOT_CHAPTERS:
        return found
    for link in page.links:
        address = urlsplit(link)
        if address.scheme:
            continue
        leads = (page.path.parent / unquote(address.path)).resolve() if address.path else page.path
        leads = leads / "index.html" if leads.is_dir() else leads
        if not leads.exists():
            found.append(f"{name} links to {link}, which is not there")
        elif address.fragment and leads in pages and unquote(address.fragment) not in pages[leads].ids:
            found.append(f"{name} links to {link}, which has no such anchor")
    return found


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failure:
        sys.exit(f"book: {failure.cmd[0]} exited with {failure.returncode}")
