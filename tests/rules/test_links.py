"""Every relative link of every page leads somewhere, to its heading included."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.rules.source import ROOT
from tests.rules.test_text import tracked

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = re.compile(r"[a-z][a-z+.-]*:", re.IGNORECASE)
FENCE = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1", re.MULTILINE | re.DOTALL)


def pages() -> list[str]:
    """Every tracked page in Markdown."""
    return [name for name in tracked() if name.endswith(".md")]


@cache
def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ +(.+?) *#*$", prose(page), re.MULTILINE)
    return frozenset(anchor(heading) for heading in headings)


def anchor(heading: str) -> str:
    """`## The cut's check` is `#the-cuts-check`."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def broken(name: str) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    page = ROOT / name
    for link in LINK.findall(prose(page)):
        path, _, heading = link.partition("#")
        if OUTSIDE.match(link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{name}: {link}: there is no such file"
            continue
        shown = target / "README.md" if target.is_dir() else target
        if heading and shown.suffix == ".md" and heading not in anchors(shown):
            yield f"{name}: {link}: there is no such heading"


def test_there_are_pages() -> None:
    assert "README.md" in pages()


@pytest.mark.parametrize("name", pages())
def test_links_lead_somewhere(name: str) -> None:
    assert list(broken(name)) == []


@pytest.mark.parametrize(
    ("heading", "written"),
    [("At best and at worst", "at-best-and-at-worst"), ("The `core` [folder](x.md), pure", "the-core-folder-pure")],
)
def test_headings_as_links_name_them(heading: str, written: str) -> None:
    assert anchor(heading) == written
