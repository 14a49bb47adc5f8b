"""Fits a tree of values into the settings model and collects everything that does not fit."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec import inspect as shape

from twd.settings.errors import ConfigError, Problem, SettingPlace, nearest
from twd.settings.tree import SettingNode
from twd.settings.values import UNSOUND, Plain, choices, expected, fit, found, plain
from twd.settings.yaml_tree import parse_yaml


class Checker:
    """Builds the model from a tree; `problems` and `given` fill up on the way."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.problems: list[Problem] = []
        self.given: dict[str, SettingPlace] = {}
        self.moved: dict[str, str] = {}

    def build(self, node: SettingNode, type_: shape.Type, key: str = "") -> Any:
        """The value of this node as the type, or UNSET after reporting why not."""
        if node.was:
            self.moved[key] = node.was
        kind = plain(type_)
        node = self.unfold(node, kind)
        match kind.type:
            case shape.StructType() as struct:
                return self.struct(node, struct, key)
            case shape.DictType() as mapping:
                return self.mapping(node, mapping, key)
            case shape.VarTupleType() as sequence:
                return self.sequence(node, sequence, key)
            case shape.UnionType() as union:
                return self.union(node, union, kind, key)
        value = fit(node, kind)
        if value is UNSET:
            self.misfit(node, kind, key)
            return UNSET
        self.given[key] = node.place
        return self.path(value, node.place) if kind.path else value

    def struct(self, node: SettingNode, type_: shape.StructType, key: str) -> Any:
        if not isinstance(node.value, dict):
            return self.misfit(node, Plain(type_), key)
        fields = {field.name: field for field in type_.fields}
        values: dict[str, Any] = {}
        for name, child in node.value.items():
            inner = f"{key}.{name}" if key else name
            if name not in fields:
                self.unknown(child, name, key, list(fields))
            else:
                values[name] = self.build(child, fields[name].type, inner)
        for name, field in fields.items():
            if field.required and name not in values:
                self.missing(node, f"{key}.{name}", plain(field.type))
        return self.assemble(type_.cls, values, node, key)

    def assemble(self, cls: type, values: dict[str, Any], node: SettingNode, key: str) -> Any:
        if any(value is UNSET for value in values.values()):
            return UNSET
        try:
            return cls(**values)
        except TypeError:
            return UNSET
        except ValueError as error:
            self.report(node.key_place or node.place, key, str(error))
            return UNSET

    def mapping(self, node: SettingNode, type_: shape.DictType, key: str) -> Any:
        if not isinstance(node.value, dict):
            return self.misfit(node, Plain(type_), key)
        self.given[key] = node.place
        values = {}
        for name, child in node.value.items():
            inner = f"{key}.{name}" if key else name
            name_node = SettingNode(value=name, place=child.key_place or child.place)
            if fit(name_node, plain(type_.key_type)) is UNSET:
                self.misfit(name_node, plain(type_.key_type), inner)
            values[name] = self.build(child, type_.value_type, inner)
        return UNSET if any(value is UNSET for value in values.values()) else values

    def sequence(self, node: SettingNode, type_: shape.VarTupleType, key: str) -> Any:
        if not isinstance(node.value, list) or len(node.value) < (type_.min_length or 0):
            return self.misfit(node, Plain(type_), key)
        self.given[key] = node.place
        values = [self.build(item, type_.item_type, f"{key}[{i}]") for i, item in enumerate(node.value)]
        return UNSET if any(value is UNSET for value in values) else tuple(values)

    def union(self, node: SettingNode, type_: shape.UnionType, kind: Plain, key: str) -> Any:
        for alternative in type_.types:
            trial = Checker(self.home)
            value = trial.build(node, alternative, key)
            if not trial.problems:
                self.given.update(trial.given)
                return value
        return self.misfit(node, kind, key)

    def unfold(self, node: SettingNode, kind: Plain) -> SettingNode:
        """Text from the environment as the list or section that its key wants; an empty section as such."""
        if node.value is None and isinstance(kind.type, shape.StructType | shape.DictType | shape.VarTupleType):
            empty: Any = [] if isinstance(kind.type, shape.VarTupleType) else {}
            return msgspec.structs.replace(node, value=empty)
        if not node.loose or not isinstance(node.value, str):
            return node
        if isinstance(kind.type, shape.VarTupleType) and not node.value.lstrip().startswith("["):
            words = [word.strip() for word in node.value.split(",") if word.strip()]
            items = [SettingNode(value=word, place=node.place, loose=True) for word in words]
            return msgspec.structs.replace(node, value=items, loose=False)
        if isinstance(kind.type, shape.StructType | shape.DictType | shape.VarTupleType):
            return self.parse(node)
        return node

    def parse(self, node: SettingNode) -> SettingNode:
        try:
            tree, problems = parse_yaml(str(node.value), node.place, {})
        except ConfigError as error:
            self.problems.extend(error.problems)
            return node
        self.problems.extend(problems)
        return msgspec.structs.replace(node, value=tree.value, loose=tree.loose)

    def path(self, text: str, place: SettingPlace) -> str:
        """A path without `~`; a relative one starts where its file stands."""
        if text == "~" or text.startswith("~/"):
            return self.home + text[1:]
        return str(Path(place.folder) / text) if text and place.folder else text

    def unknown(self, node: SettingNode, name: str, parent: str, known: list[str]) -> None:
        section, _, rest = name.partition(".")
        best = nearest(name, known)
        if rest and section in known:
            what, best = f"a section: `{section}: {{{rest}: ...}}`", ""
        else:
            what = "" if best else f"one of {', '.join(known)}"
        above = f"{parent}." if parent else ""
        self.report(node.key_place or node.place, above + name, "unknown key", what, best and above + best)

    def missing(self, node: SettingNode, key: str, kind: Plain) -> None:
        self.report(
            node.key_place or node.place, key, "missing", expected(kind) + (f" ({kind.about})" if kind.about else "")
        )

    def misfit(self, node: SettingNode, kind: Plain, key: str) -> Any:
        """Reports a value that does not fit its type."""
        wanted = expected(kind)
        if isinstance(kind.type, shape.StrType) and isinstance(node.value, bool | int | float):
            wanted += "; put it in quotes"
        elif isinstance(kind.type, shape.StrType) and isinstance(node.value, str) and UNSOUND.search(node.value):
            wanted += " without NUL or half characters"
        elif isinstance(node.value, str) and fit(msgspec.structs.replace(node, loose=True), kind) is not UNSET:
            wanted += " without quotes"
        word = node.value if isinstance(node.value, str) else ""
        best = nearest(word, choices(kind.type)) if word else ""
        self.report(node.place, key, f"found {found(node, kind.secret)}", wanted, best)
        return UNSET

    def report(self, place: SettingPlace, key: str, what: str, wanted: str = "", best: str = "") -> None:
        self.problems.append(Problem(place=place, key=self.written(key), found=what, expected=wanted, nearest=best))

    def written(self, key: str) -> str:
        """The key, with the name under which the file has it where that is another one."""
        names = [new for new in self.moved if key == new or key.startswith((f"{new}.", f"{new}["))]
        new = max(names, key=len, default="")
        return f"{self.moved[new]}{key[len(new) :]} (now {key})" if new else key
