"""Settings as a tree that remembers where each value stands."""

import msgspec

from twd.kit.settings_errors import Place

BOOL_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

Path = tuple[str, ...]
Scalar = None | bool | int | float | str


class Node(msgspec.Struct, kw_only=True):
    """A value with its place. `loose` text takes whatever type its key wants."""

    value: "Scalar | dict[str, Node] | list[Node]"
    place: Place
    key_place: Place | None = None
    loose: bool = False
    was: str = ""
    """The key under which it was written, where another name has taken its place."""


def put_node(tree: Node, path: Path, leaf: Node) -> None:
    """Sets a value in a tree; a value on the way that is no section stays, and is reported later."""
    for name in path[:-1]:
        if tree.value is None:
            tree.value = {}
        if not isinstance(tree.value, dict):
            return
        tree = tree.value.setdefault(name, Node(value={}, place=leaf.place))
    if tree.value is None:
        tree.value = {}
    if isinstance(tree.value, dict):
        tree.value[path[-1]] = leaf
