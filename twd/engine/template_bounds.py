"""Bounds on what a chat template may do and make: steps, seconds, characters; with the filters that keep to them."""

import itertools
import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Set, ValuesView
from contextvars import ContextVar
from string import Formatter
from typing import Any

from jinja2.filters import FILTERS
from jinja2.utils import Namespace

MAX_CHARACTERS = 16_000_000
MAX_STEPS = 2_000_000
MAX_SECONDS = 10.0
_MAX_BITS = 4096
_STEPS_PER_LOOK_AT_THE_CLOCK = 1024
_WIDE_PERCENT_FORMAT = re.compile(r"%(\([^()]*\))?[^a-zA-Z%]*(\d{5}|\*)|%\([^()]*\(")
"""A huge or computed width, or a key with brackets in it, behind which one could stand."""
_WIDE_BRACE_FORMAT = re.compile(r"\d{5}|\{")


class TooMuch(Exception):
    """The template went over a bound."""


class Allowance:
    """What one rendering may still do."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = clock() + MAX_SECONDS
        self._steps = 0

    def step(self) -> None:
        """Count one call or one turn of a loop."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooMuch(f"it takes more than {MAX_STEPS} steps")
        if self._steps % _STEPS_PER_LOOK_AT_THE_CLOCK == 0 and self._clock() > self._deadline:
            raise TooMuch(f"it takes longer than {MAX_SECONDS:g} s")


allowance: ContextVar[Allowance] = ContextVar("allowance of the rendering in progress")


def require_size(size: int) -> None:
    """Refuse to make a text or list of this length."""
    if size > MAX_CHARACTERS:
        raise TooMuch(f"it makes more than {MAX_CHARACTERS} characters")


def weigh(value: Any) -> int:
    """Characters and items in a value, nested ones as often as they would be written; refuses what is too big."""
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Namespace):
            raise TooMuch("it writes out a namespace")
        if isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | Set | ItemsView | KeysView | ValuesView):
            waiting += item
        total += len(item) if isinstance(item, str) else 1
        require_size(total + len(waiting))
    return total


def writable(value: Any) -> Any:
    """The value itself, if writing it out stays within bounds."""
    if not isinstance(value, str | int | float | None):
        weigh(value)
    return value


def bounded_join(parts: Iterable[str]) -> str:
    """`"".join` within bounds, however many parts an iterator yields."""

    def counted() -> Iterator[str]:
        total = 0
        for part in parts:
            total += len(part)
            require_size(total)
            yield part

    return "".join(counted())


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse `+`, `*`, `**` and `%` whose result would be huge."""
    if operator == "%" and isinstance(left, str):
        _check_percent_format(left, right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_BITS:
            raise TooMuch("it computes a huge number")
    elif operator == "*" and isinstance(right, int):
        require_size(_length(left) * right)
    elif operator == "*" and isinstance(left, int):
        require_size(left * _length(right))
    elif operator == "+":
        require_size(_length(left) + _length(right))


def check_text_call(text: str, method: str, args: tuple[Any, ...]) -> None:
    """Refuse a call of a string's method whose result would be huge."""
    if method == "replace":
        _check_replace(text, *args)
    elif method in ("format", "format_map"):
        _check_brace_format(text, args)
    elif method in ("translate", "encode"):
        raise TooMuch(f"it calls {method}()")
    elif method in ("ljust", "rjust", "center", "zfill", "expandtabs"):
        require_size(max((arg for arg in args if isinstance(arg, int)), default=0) * (text.count("\t") + 1))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _check_replace(text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    require_size(len(text) + text.count(str(old)) * len(str(new)))


def _check_percent_format(pattern: str, values: Any) -> None:
    wide = _WIDE_PERCENT_FORMAT.search(pattern.replace("%%", "")) is not None
    _check_format(pattern, wide, pattern.count("%("), values)


def _check_brace_format(pattern: str, values: Any) -> None:
    wide = any(_WIDE_BRACE_FORMAT.search(spec or "") for _, _, spec, _ in Formatter().parse(pattern))
    _check_format(pattern, wide, pattern.count("{"), values)


def _check_format(pattern: str, wide: bool, named: int, values: Any) -> None:
    """What is named may be named again; what is not comes once."""
    if wide:
        raise TooMuch("it formats with a huge or computed width")
    require_size(len(pattern) + (named + 1) * weigh(values))


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as the authors of chat templates expect it: not escaped for HTML."""
    require_size(weigh(value) * max(map(len, separators or ("",))))
    if indent is not None and indent > 16:
        raise TooMuch("it indents JSON too far")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def join(eval_ctx: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
    """The `join` filter."""
    items = list(itertools.islice(value, MAX_CHARACTERS))
    require_size(weigh(items) + len(items) * len(str(d)))
    return FILTERS["join"](eval_ctx, items, d, attribute)


def replace(eval_ctx: Any, value: Any, old: str, new: str, count: int | None = None) -> Any:
    """The `replace` filter."""
    _check_replace(str(writable(value)), old, new)
    return FILTERS["replace"](eval_ctx, value, old, new, count)


def indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    """The `indent` filter."""
    require_size(len(value) + (value.count("\n") + 2) * (width if isinstance(width, int) else len(width)))
    return FILTERS["indent"](value, width, first, blank)


def format_percent(value: Any, *args: Any, **kwargs: Any) -> Any:
    """The `format` filter."""
    _check_percent_format(str(value), [args, kwargs])
    return FILTERS["format"](value, *args, **kwargs)


def string(value: Any) -> Any:
    """The `string` filter."""
    return FILTERS["string"](writable(value))
