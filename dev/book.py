#!/usr/bin/env python3
"""Builds docs/ as a book into target/book, and checks the built pages.

    python3 dev/book.py

Fails on a warning of mdBook, on a link to a page or anchor that is not in the book, and on a page that loads anything from
another host. Links from docs/ to source files work only in the files. The book shows their text without a link.
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
# Resources that a page loads by itself, by element and attribute.
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}
# print.html repeats all chapters, with their links. 404.html is the error page of a web server.
NOT_CHAPTERS = {"print.html", "404.html", "toc.html"}


class Page(HTMLParser):
    """Anchors, links and loaded resources of a page."""

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
        path.write_text(LINK.sub(lambda link, page=path: shown(link, page), path.read_text()))
    pages = {path: Page(path) for path in BOOK.rglob("*.html")}
    wrong = [fault for page in pages.values() for fault in faults(page, pages)]
    if wrong:
        sys.exit("\n".join(["book: checks failed:", *wrong]))
    print(f"{len(pages)} pages; open target/book/index.html")


def build() -> None:
    done = subprocess.run([bootstrap.TOOLS / "bin/mdbook", "build", ROOT / "docs"], capture_output=True, text=True)
    if done.returncode != 0 or re.search(r"^\s*(WARN|ERROR)", done.stderr, re.M):
        sys.exit(f"book: mdbook failed or printed warnings:\n{done.stderr}")


def shown(link: re.Match, page: Path) -> str:
    """Returns the link, or only its text if the link leads out of the book to a file of the project."""
    address = urlsplit(link["target"])
    leads = (page.parent / unquote(address.path)).resolve()
    outside = not address.scheme and address.path and not leads.is_relative_to(BOOK)
    return link["text"] if outside else link[0]


def faults(page: Page, pages: dict) -> list:
    name = page.path.relative_to(BOOK)
    found = [f"{name} loads {address}" for address in page.loaded if urlsplit(address).scheme or address.startswith("//")]
    if name.name in NOT_CHAPTERS:
        return found
    for link in page.links:
        address = urlsplit(link)
        if address.scheme:
            continue
        leads = (page.path.parent / unquote(address.path)).resolve() if address.path else page.path
        leads = leads / "index.html" if leads.is_dir() else leads
        if not leads.exists():
            found.append(f"{name} links to {link}: page not found")
        elif address.fragment and leads in pages and unquote(address.fragment) not in pages[leads].ids:
            found.append(f"{name} links to {link}: anchor not found")
    return found


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failure:
        sys.exit(f"book: {failure.cmd[0]} exited with {failure.returncode}")
