"""Bounds on how long any text or list of a chat template may be, with the filters that keep to them."""

import functools
import itertools
import json
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Set, ValuesView
from string import Formatter
from typing import Any

from jinja2.filters import FILTERS
from jinja2.utils import Namespace

from twd.chat.template_allowance import RenderBudgetExceeded, allowance, counted, letters_counted, made, made_with_items

MAX_CHARACTERS = 16_000_000
_MAX_BITS = 4096
_PART_BYTES = 128
_GATHERING = frozenset(["groupby", "list", "sort"])
_WIDE_PERCENT_FORMAT = re.compile(r"%(\([^()]*\))?[^a-zA-Z%]*(\d{5}|\*)|%\([^()]*\(")
"""A huge or computed width, or a key with brackets in it, behind which one could stand."""
_WIDE_BRACE_FORMAT = re.compile(r"\d{5}|\{")


def require_size(size: int) -> None:
    """Refuse to make a text or list of this length."""
    if size > MAX_CHARACTERS:
        raise RenderBudgetExceeded(f"it makes more than {MAX_CHARACTERS} characters")


def weigh(value: Any) -> int:
    """Characters and items in a value, nested ones as often as they would be written; refuses what is too big."""
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Namespace):
            raise RenderBudgetExceeded("it writes out a namespace")
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


def written(value: Any) -> Any:
    """The same where it becomes a part of the text, or of a text that is gathered."""
    allowance.get().charge(_PART_BYTES)
    return writable(value)


def bounded_join(parts: Iterable[str]) -> str:
    """`"".join` within bounds, however many parts an iterator yields."""

    def within_bounds() -> Iterator[str]:
        total = 0
        for part in parts:
            total += len(part)
            require_size(total)
            yield part

    return made("".join(within_bounds()))


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse what `+`, `*`, `**` and `%` would make huge."""
    if operator == "%" and isinstance(left, str):
        _check_percent_format(left, right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(right, 1) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _MAX_BITS:
            raise RenderBudgetExceeded("it computes a huge number")
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
        raise RenderBudgetExceeded(f"it calls {method}()")
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
        raise RenderBudgetExceeded("it formats with a huge or computed width")
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
        raise RenderBudgetExceeded("it indents JSON too far")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def join(eval_ctx: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
    """The `join` filter."""
    items = list(itertools.islice(letters_counted(value), MAX_CHARACTERS))
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


def as_filter(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts as a step, with what it makes."""
    place = 1 if hasattr(work, "jinja_pass_arg") else 0  # of the value, behind what jinja gives some filters
    gather = letters_counted if name in _GATHERING else counted

    @functools.wraps(work)
    def run(*args: Any, **kwargs: Any) -> Any:
        allowance.get().step()
        passed, value, rest = args[:place], args[place : place + 1], args[place + 1 :]
        return made_with_items(work(*passed, *map(gather, value), *rest, **kwargs))

    return run
