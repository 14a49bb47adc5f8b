"""Imports go one way, and what is dangerous is imported in one place."""

import ast
import sys

from tests.rules.source import imports, modules, nodes, room_of

LAYERS = (
    ("lean_import", "private_file", "wire"),
    ("own_certificate",),
    ("net",),
    ("bus",),
    ("settings",),
    ("kit",),
    ("process", "grammar", "drafting"),
    ("pools", "chat"),
    ("structured_output",),
    ("decoding",),
    ("gguf_tools",),
    ("engine",),
    ("moe",),
    ("ring", "pieces"),
    ("models",),
    (
        "agent",
        "backends",
        "coordinator",
        "drafter",
        "edge",
        "gate",
        "membership",
        "metrics",
        "racer",
        "speculator",
        "stage",
        "swarm",
    ),
    ("bench",),
    ("supervisor",),
    ("setup",),
    ("cli",),
)
"""A room imports rooms of earlier rows, never one of its own row or a later one."""
ONLY_IN = {
    "nats": ("twd/bus/",),
    "ctypes": ("twd/engine/", "twd/process/platform.py", "twd/process/exec_tied_to_parent.py"),
    "llama_cpp": ("twd/engine/",),
}
IMPURE = {"asyncio", "time", "random", "socket", "os", "ctypes", "subprocess", "logging", "threading", "secrets"}
WIRE_MAY = {"msgspec", "twd", *sys.stdlib_module_names}


def layer(room: str) -> int:
    return next(place for place, rooms in enumerate(LAYERS) if room in rooms)


def wrong_direction(path: str, imported: str) -> bool:
    parts = imported.split(".")
    here = room_of(path)
    if parts[0] != "twd" or len(parts) < 2 or not here or parts[1] in (here, "__version__"):
        return False
    return layer(parts[1]) >= layer(here)


def test_imports_go_one_way() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path, tree in modules().items()
        for name, line in imports(tree)
        if wrong_direction(path, name)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_dangerous_has_one_place() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path, tree in modules().items()
        for name, line in imports(tree)
        if (places := ONLY_IN.get(name.split(".")[0])) and not path.startswith(places)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_core_decides_and_touches_nothing() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path, tree in modules().items()
        if path.endswith("/core.py") or "/core/" in path
        for name, line in imports(tree)
        if name.split(".")[0] in IMPURE
    ]
    assert not wrong, "\n".join(wrong)


def test_the_vocabulary_needs_msgspec_alone() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path, tree in modules().items()
        if room_of(path) == "wire"
        for name, line in imports(tree)
        if name.split(".")[0] not in WIRE_MAY
    ]
    assert not wrong, "\n".join(wrong)


def test_tasks_are_made_in_one_place() -> None:
    allowed = ("twd/kit/tasks.py", "twd/bus/", "twd/kit/service.py")
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in modules().items()
        if not path.startswith(allowed)
        for node in nodes(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future")
    ]
    assert not wrong, "\n".join(wrong)
