"""The limits of one rendering of a chat template: steps, seconds, bytes.

Bytes are counted when they are made, kept or not: nothing tells which of them a template still holds.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

MAX_STEPS = 2_000_000
MAX_SECONDS = 10.0
MAX_BYTES = 512 * 1024**2
_EVENTS_PER_LOOK_AT_THE_CLOCK = 64
_OBJECT = 1024
"""More than a namespace or a macro takes."""
_LETTER = 84
"""One that is no ASCII, in a list: Python keeps only the others ready."""
_POINTER = 8
_KINDS = (str, int, float, list, tuple, dict, set, bytes)
_PLAIN = frozenset([*_KINDS, bool])
"""As this is asked most: `isinstance` takes longer."""


class RenderBudgetExceeded(Exception):
    """Raised when the template exceeds a limit."""


class RenderBudget:
    """The budget of one rendering."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._deadline = clock() + MAX_SECONDS
        self._steps = self._events = self._bytes = 0

    def step(self) -> None:
        """Count one call or one turn of a loop."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise RenderBudgetExceeded(f"it takes more than {MAX_STEPS} steps")
        self._event()

    def charge(self, size: int) -> None:
        """Count new bytes."""
        self._bytes += size
        if self._bytes > MAX_BYTES:
            raise RenderBudgetExceeded(f"it makes more than {MAX_BYTES} bytes of texts and lists in all")
        self._event()

    def _event(self) -> None:
        self._events += 1
        if self._events % _EVENTS_PER_LOOK_AT_THE_CLOCK == 0 and self._clock() > self._deadline:
            raise RenderBudgetExceeded(f"it takes longer than {MAX_SECONDS:g} s")


allowance: ContextVar[RenderBudget] = ContextVar("allowance of the rendering in progress")


def made(value: T) -> T:
    """What was just made, counted without what lies in it."""
    allowance.get().charge(_size(value))
    return value


def made_with_items(value: T) -> T:
    """What was just made; the items of a list may be as new as the list."""
    items = sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0
    allowance.get().charge(_size(value) + items)
    return value


def counted(values: Any) -> Any:
    """Something to go through: what tells no length is counted as it comes, for it may be made on the way."""
    return values if isinstance(values, Sized) or not isinstance(values, Iterable) else _each(values)


def letters_counted(values: Any) -> Any:
    """The same for what makes a list of it: of a text that is one of its letters."""
    if isinstance(values, str):
        allowance.get().charge(len(values) * (_POINTER if values.isascii() else _LETTER))
    return counted(values)


def _each(values: Iterable[Any]) -> Iterator[Any]:
    charge = allowance.get().charge
    for value in values:
        charge(_POINTER + _size(value))
        yield value


def _size(value: object) -> int:
    if type(value) in _PLAIN or isinstance(value, _KINDS):
        return sys.getsizeof(value)
    return _POINTER if value is None else _OBJECT
