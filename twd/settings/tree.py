"""Settings as a tree that remembers where each value stands."""

import msgspec

from twd.settings.errors import SettingPlace

BOOL_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

Path = tuple[str, ...]
Scalar = None | bool | int | float | str


class SettingNode(msgspec.Struct, kw_only=True):
    """A value with its place. `loose` text takes whatever type its key wants."""

    value: "Scalar | dict[str, SettingNode] | list[SettingNode]"
    place: SettingPlace
    key_place: SettingPlace | None = None
    loose: bool = False
    was: str = ""
    """The key under which it was written, where another name has taken its place."""


def put_node(tree: SettingNode, path: Path, leaf: SettingNode) -> None:
    """Sets a value in a tree; a value on the way that is no section stays, and is reported later."""
    for name in path[:-1]:
        if tree.value is None:
            tree.value = {}
        if not isinstance(tree.value, dict):
            return
        tree = tree.value.setdefault(name, SettingNode(value={}, place=leaf.place))
    if tree.value is None:
        tree.value = {}
    if isinstance(tree.value, dict):
        tree.value[path[-1]] = leaf
