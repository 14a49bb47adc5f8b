"""YAML as a tree that remembers where each value stands; bounded, without tags, with ${VAR} filled in."""

import re
from collections.abc import Callable, Mapping

import yaml

from twd.settings.errors import ConfigError, Problem, SettingPlace
from twd.settings.tree import BOOL_WORDS, Scalar, SettingNode

BYTES_MAX = 262_144
DEPTH_MAX = 32
NODES_MAX = 20_000

TAG = "tag:yaml.org,2002:"
VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
VARIABLE_BODY = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?$", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """Composes nodes only; a plain scalar's type follows the few rules below."""

    yaml_implicit_resolvers = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEPTH_MAX:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # the stubs give it no type
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEPTH_MAX} levels", problem_mark=mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


for _kind, _pattern, _first in (
    ("bool", r"^(true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$", "tTfFyYnNoO"),
    ("int", r"^[-+]?(0|[1-9][0-9]{0,30})$", "-+0123456789"),
    ("float", r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]{1,4})?$", "-+0123456789."),
    ("null", r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(TAG + _kind, re.compile(_pattern), list(_first))


_ODD_LINE_ENDS = frozenset("\x85\u2028\u2029")


class Dumper(yaml.SafeDumper):
    """Writes what the loader above reads back as the same."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: object) -> bool:
        return True

    def write_text(self, text: str) -> yaml.ScalarNode:
        """Line ends that no one types are escaped; between other quotes they would be read back as spaces."""
        style = '"' if _ODD_LINE_ENDS.intersection(text) else None
        return self.represent_scalar(TAG + "str", text, style)


Dumper.add_representer(str, Dumper.write_text)


_CONSTRUCT: dict[str, Callable[[str], Scalar]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: BOOL_WORDS[text.lower()],
    "null": lambda text: None,
}


def parse_yaml(text: str, place: SettingPlace, env: Mapping[str, str]) -> tuple[SettingNode, list[Problem]]:
    """The tree of a document and what is wrong in it; a syntax error ends it at once."""
    try:
        root = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, place) from error
    except (ValueError, OverflowError) as error:
        raise ConfigError.at(place, f"not YAML: {error}") from error
    if root is None:
        return SettingNode(value={}, place=place), []
    reader = _Reader(place, env)
    return reader.read(root, "", 0), reader.problems


def _syntax_error(error: yaml.YAMLError, text: str, place: SettingPlace) -> ConfigError:
    if isinstance(error, yaml.reader.ReaderError):
        line_start = text.rfind("\n", 0, error.position)
        spot = _within(place, text.count("\n", 0, error.position), error.position - line_start - 1)
        return ConfigError.at(spot, f"a character that YAML does not allow (U+{error.character:04X})")
    said = [getattr(error, name, None) for name in ("context", "problem")]
    words = "not YAML: " + (" ".join(part for part in said if part) or str(error))
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return ConfigError.at(place, words)
    line = text.splitlines()[mark.line : mark.line + 1]
    advice = "quotes around ${...} between braces" if "${" in "".join(line) else ""
    return ConfigError.at(_within(place, mark.line, mark.column), words, advice)


def _within(place: SettingPlace, line: int, column: int) -> SettingPlace:
    """A spot in the document at `place`; text that itself stands in a line of a file keeps that line."""
    return place if place.line else SettingPlace(place.source, line + 1, column + 1, place.folder)


class _Reader:
    """Turns composed nodes into ours and collects what is wrong with them."""

    def __init__(self, place: SettingPlace, env: Mapping[str, str]) -> None:
        self.place = place
        self.env = env
        self.problems: list[Problem] = []
        self.count = 0

    def read(self, node: yaml.Node, key: str, depth: int) -> SettingNode:
        self.count += 1
        place = self.place_of(node)
        if depth > DEPTH_MAX or self.count > NODES_MAX:
            raise ConfigError.at(place, "aliases that unfold without end or to too much")
        match node:
            case yaml.MappingNode() if node.tag == TAG + "map":
                return SettingNode(value=self.mapping(node, key, depth), place=place)
            case yaml.SequenceNode() if node.tag == TAG + "seq":
                items = [self.read(item, f"{key}[{i}]", depth + 1) for i, item in enumerate(node.value)]
                return SettingNode(value=items, place=place)
            case yaml.ScalarNode():
                return self.scalar(node, key, place)
        self.report(place, key, f"the tag {node.tag}", "a value without a tag")
        return SettingNode(value=None, place=place)

    def mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, SettingNode]:
        entries: dict[str, SettingNode] = {}
        for name_node, value_node in node.value:
            place = self.place_of(name_node)
            if not isinstance(name_node, yaml.ScalarNode) or not name_node.value:
                self.report(place, key, "a key that is not plain text", "a name before the colon")
                continue
            name = name_node.value
            inner = f"{key}.{name}" if key else name
            if name in entries:
                first = entries[name].key_place
                self.report(place, inner, f"a key given twice, first in line {first.line if first else 0}")
            entries[name] = self.read(value_node, inner, depth + 1)
            entries[name].key_place = place
        return entries

    def scalar(self, node: yaml.ScalarNode, key: str, place: SettingPlace) -> SettingNode:
        construct = _CONSTRUCT.get(node.tag.removeprefix(TAG))
        if construct is None:
            self.report(place, key, f"the tag {node.tag}", "a value without a tag")
            return SettingNode(value=None, place=place)
        text = self.expand(node.value, key, place)
        if any(match.group() != "$${" for match in VARIABLE.finditer(node.value)):
            return SettingNode(value=text, place=place, loose=True)
        try:
            return SettingNode(value=construct(text), place=place)
        except (ValueError, KeyError):
            self.report(place, key, f"{node.value!r} under the tag {node.tag}", "a value without a tag")
            return SettingNode(value=None, place=place)

    def expand(self, text: str, key: str, place: SettingPlace) -> str:
        """The text with each ${VAR} and ${VAR:-default} filled in; `$${` stands for a plain `${`."""
        return VARIABLE.sub(lambda match: self.variable(match, key, place), text)

    def variable(self, match: re.Match[str], key: str, place: SettingPlace) -> str:
        if match.group() == "$${":
            return "${"
        body = VARIABLE_BODY.match(match.group(1) or "")
        if body is None:
            self.report(place, key, f"{match.group()!r}", "${NAME} or ${NAME:-default}; $${ writes a plain ${")
            return ""
        name, default = body.groups()
        if default is None and name not in self.env:
            self.report(place, key, f"${{{name}}}, but {name} is not set", f"it to be set, or ${{{name}:-a default}}")
        return self.env.get(name, "") or default or ""

    def place_of(self, node: yaml.Node) -> SettingPlace:
        return _within(self.place, node.start_mark.line, node.start_mark.column)

    def report(self, place: SettingPlace, key: str, found: str, expected: str = "") -> None:
        self.problems.append(Problem(place=place, key=key, found=found, expected=expected))
