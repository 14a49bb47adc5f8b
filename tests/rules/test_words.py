"""One name, one meaning: no class name twice, and no word that was replaced."""

import ast
import io
import tokenize
from collections import defaultdict

from tests.rules.source import ROOT, modules

REPLACED = {
    "fork server": "fork server",
    "leash": "tied to its parent",
    "overseer": "supervisor service",
    "roster": "instance tracker",
    "crew": "drafter pool or process group",
    "surroundings": "context",
}
"""Words of our own that gave way to words of the field."""


def identifiers(path: str) -> set[str]:
    """The names in a file where one of the replaced words occurs at all: to read the others takes seconds."""
    source = (ROOT / path).read_text("utf-8")
    if not any(word in source.lower() for word in REPLACED):
        return set()
    return {
        token.string for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.NAME
    }


def test_public_classes_have_names_of_their_own() -> None:
    places = defaultdict(list)
    for path, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice


def test_replaced_words_stay_away() -> None:
    found = [
        f"{path}: {name}: say {REPLACED[word]}"
        for path in modules()
        for name in identifiers(path)
        for word in name.lower().split("_")
        if word in REPLACED
    ]
    assert not found, "\n".join(sorted(found))


def test_folders_are_small() -> None:
    """Up to twenty files; more want folders of their own."""
    counts: dict[str, int] = defaultdict(int)
    for path in modules():
        folder, _, name = path.rpartition("/")
        counts[folder] += name != "__init__.py"
    crowded = {folder: count for folder, count in counts.items() if count > 20}
    assert not crowded
