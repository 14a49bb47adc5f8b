"""What a single setting may be: the words for it, and whether a value fits."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec import inspect as shape

from twd.settings.tree import BOOL_WORDS, SettingNode
from twd.settings.types import INT_MAX

UNSOUND = re.compile("[\0\ud800-\udfff]")
LOOSE_BOOLS = {**BOOL_WORDS, "1": True, "0": False}


class Plain(msgspec.Struct, frozen=True):
    """A type without its wrapping: the bare shape and what its annotations say."""

    type: shape.Type
    title: str = ""
    about: str = ""
    secret: bool = False
    path: bool = False
    check: Callable[[str], bool] | None = None
    """What a pattern cannot say of a text."""


def plain(type_: shape.Type) -> Plain:
    """Takes the annotations off a type."""
    if not isinstance(type_, shape.Metadata):
        return Plain(type_)
    schema, extra = type_.extra_json_schema or {}, type_.extra or {}
    inner = plain(type_.type)
    return Plain(
        inner.type,
        schema.get("title", inner.title),
        schema.get("description", inner.about),
        extra.get("secret", inner.secret),
        extra.get("path", inner.path),
        extra.get("check", inner.check),
    )


def expected(kind: Plain) -> str:
    """What a value of this type looks like, in words."""
    if kind.title:
        return kind.title
    match kind.type:
        case shape.BoolType():
            return "true or false"
        case shape.IntType(ge=low, le=high):
            return "a whole number" + _span(low, high)
        case shape.FloatType(gt=above, ge=low, le=high):
            return "a number" + _span(low, high, above)
        case shape.LiteralType(values=values):
            return _listed(list(map(str, values)))
        case shape.UnionType(types=types):
            return " or ".join(expected(plain(inner)) for inner in types)
        case shape.VarTupleType(item_type=item):
            return f"a list of {_plural(plain(item))}"
        case shape.DictType(value_type=value):
            return f"a section of NAME: {expected(plain(value))}"
        case shape.StructType():
            return "a section"
    return "text"


def _span(low: float | None, high: float | None, above: float | None = None) -> str:
    top = None if high is None or high >= INT_MAX else f"{high:g}" if high < 1e6 else str(high)
    if above is not None:
        return f" above {above:g}" + (f" and up to {top}" if top else "")
    if low is not None:
        return f" from {low} to {top}" if top else f" of at least {low}"
    return f" up to {top}" if top else ""


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _plural(kind: Plain) -> str:
    match kind.type:
        case shape.StructType():
            return "sections"
        case shape.StrType() if not kind.title:
            return "texts"
    return f"values, each {expected(kind)}"


def found(node: SettingNode, secret: bool = False) -> str:
    """What stands there, in words; never a secret."""
    match node.value:
        case None:
            return "nothing"
        case dict():
            return "a section"
        case list():
            return "a list"
        case bool():
            return str(node.value).lower()
        case str() as text:
            shown = repr(text if len(text) <= 60 else text[:57] + "...")
            return "text" if secret else shown
    return "a number" if secret else f"{node.value}"


def choices(type_: shape.Type) -> Iterator[str]:
    """The words that a type allows, if it is a matter of words."""
    match type_:
        case shape.LiteralType(values=values):
            yield from map(str, values)
        case shape.UnionType(types=types):
            for inner in types:
                yield from choices(plain(inner).type)


def fit(node: SettingNode, kind: Plain) -> Any:
    """A single value as its type, or UNSET if it does not fit."""
    value = node.value
    match kind.type:
        case shape.BoolType():
            return _as_bool(value)
        case shape.LiteralType(values=values):
            word = _as_switch(value) if "off" in values else value
            return word if isinstance(word, str) and word in values else UNSET
        case shape.StrType(min_length=least, pattern=pattern):
            if not isinstance(value, str) or len(value) < (least or 0) or UNSOUND.search(value):
                return UNSET
            fits = (pattern is None or re.search(pattern, value)) and (kind.check is None or kind.check(value))
            return value if fits else UNSET
        case shape.IntType(ge=low, le=high):
            number = _as_number(value, int, node.loose)
            return number if _inside(number, low, high) else UNSET
        case shape.FloatType(gt=above, ge=low, le=high):
            number = _as_number(value, float, node.loose)
            return number if _inside(number, low, high, above) else UNSET
    return UNSET


def _as_bool(value: object) -> Any:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return LOOSE_BOOLS.get(str(value).lower(), UNSET)
    return value if isinstance(value, bool) else UNSET


def _as_switch(value: object) -> object:
    """YAML reads a bare `on` or `off` as true or false; both spellings mean the switch."""
    as_bool = _as_bool(value)
    return value if as_bool is UNSET else "on" if as_bool else "off"


def _as_number(value: object, kind: type[int] | type[float], loose: bool) -> Any:
    if isinstance(value, str) and loose:
        try:
            return kind(value)
        except ValueError:
            return UNSET
    allowed = int if kind is int else (int, float)
    return kind(value) if isinstance(value, allowed) and not isinstance(value, bool) else UNSET


def _inside(number: Any, low: float | None, high: float | None, above: float | None = None) -> bool:
    if number is UNSET or (isinstance(number, float) and not math.isfinite(number)):
        return False
    return (low is None or number >= low) and (high is None or number <= high) and (above is None or number > above)
