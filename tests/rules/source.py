"""The source tree as the rules see it."""

import ast
import gc
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "twd"


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package by its path below the root."""
    gc.collect()
    trees = parsed(PACKAGE.rglob("*.py"))
    gc.freeze()  # they stay: to look through millions of nodes for garbage again and again takes seconds
    return trees


def parsed(paths: Iterable[Path]) -> dict[str, ast.Module]:
    """These modules by their paths below the root."""
    gc.disable()  # Python 3.11 fails where what is collected in mid-parse is a syntax tree, too
    try:
        return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}
    finally:
        gc.enable()


@cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """Every node of a tree: several rules want them, and a walk takes its time."""
    return tuple(ast.walk(tree))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module of a file, lazy imports too, with its line."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(path: str) -> str:
    """`twd/edge/core.py` is in the room `edge`; files beside the rooms are in none."""
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else ""
