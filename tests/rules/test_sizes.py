"""Small files, short functions: what does not fit is two things."""

import ast

from tests.rules.source import ROOT, modules, nodes

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 40
FUNCTION_LINES_95_PERCENT = 18
"""What at least 95 of 100 functions keep to."""


def test_files_are_small() -> None:
    sizes = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path in modules()}
    long = [f"{path} has {size} lines" for path, size in sizes.items() if size > FILE_LINES_MAX]
    assert not long, "\n".join(long)


def test_functions_are_short() -> None:
    long = [f"{name} has {size} lines" for name, size in functions() if size > FUNCTION_LINES_MAX]
    assert not long, "\n".join(long)


def test_nearly_all_functions_are_shorter_still() -> None:
    sizes = functions()
    long = [f"{name} has {size} lines" for name, size in sizes if size > FUNCTION_LINES_95_PERCENT]
    most = len(sizes) // 20
    shortest = "\n".join(sorted(long, key=lambda line: int(line.split()[-2]))[: len(long) - most + 10])
    assert len(long) <= most, f"{len(long)} functions are long, of {len(sizes)} at most {most}; among them:\n{shortest}"


def functions() -> list[tuple[str, int]]:
    """Every function by its place and name, with its number of lines."""
    return [
        (f"{path}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1)
        for path, tree in modules().items()
        for node in nodes(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]


def test_modules_and_wire_types_say_what_they_are() -> None:
    silent = [path for path, tree in modules().items() if not ast.get_docstring(tree) and tree.body]
    for path, tree in modules().items():
        if path.startswith("twd/wire/"):
            classes = [node for node in nodes(tree) if isinstance(node, ast.ClassDef)]
            silent += [
                f"{path}: {node.name}" for node in classes if not ast.get_docstring(node) and node.name[0] != "_"
            ]
    assert not silent, "\n".join(silent)
