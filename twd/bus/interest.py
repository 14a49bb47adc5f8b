"""Finds the subscriptions for a subject, and remembers them until a subscription with a wildcard changes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from twd.bus.base import matches

_REMEMBERED_MAX: Final = 4096
_WILD_END: Final = re.compile(r"\.?[*>].*")


class Interested(Protocol):
    """A subscription: a pattern, and a queue group if it has one."""

    pattern: str
    queue: str


W = TypeVar("W", bound=Interested)


@dataclass(frozen=True, slots=True)
class Matches(Generic[W]):
    """The subscriptions that match one subject; one member of each group gets the message."""

    everybody: list[W]
    groups: list[list[W]]


class InterestTable(Generic[W]):
    """All subscriptions of a broker. The time of a lookup does not depend on their number."""

    def __init__(self) -> None:
        self._by_beginning: dict[str, list[W]] = {}
        """By the part of the pattern before its first wildcard: only subjects that begin with it can match."""
        self._found: dict[str, Matches[W]] = {}

    def add(self, one: W) -> None:
        """Add a subscription."""
        self._by_beginning.setdefault(_beginning(one.pattern), []).append(one)
        self._forget(one.pattern)

    def remove(self, one: W) -> None:
        """Remove a subscription; one that is not here is ignored."""
        beginning = _beginning(one.pattern)
        left = [other for other in self._by_beginning.pop(beginning, ()) if other is not one]
        if left:
            self._by_beginning[beginning] = left
        self._forget(one.pattern)

    def _forget(self, pattern: str) -> None:
        if _WILD_END.search(pattern):
            self._found.clear()
        else:
            self._found.pop(pattern, None)

    def in_subject(self, subject: str) -> Matches[W]:
        """Return the subscriptions for this subject; those with the same pattern in the order of their start."""
        found = self._found.get(subject)
        if found is None:
            found = self._find(subject)
            if len(self._found) >= _REMEMBERED_MAX:
                self._found.clear()
            self._found[subject] = found
        return found

    def _find(self, subject: str) -> Matches[W]:
        everybody: list[W] = []
        groups: dict[tuple[str, str], list[W]] = {}
        for beginning in _beginnings(subject):
            for one in self._by_beginning.get(beginning, ()):
                if not matches(one.pattern, subject):
                    continue
                if one.queue:
                    groups.setdefault((one.queue, one.pattern), []).append(one)
                else:
                    everybody.append(one)
        return Matches(everybody, list(groups.values()))


def _beginning(pattern: str) -> str:
    """Return the part of a pattern before its first wildcard."""
    return _WILD_END.sub("", pattern)


def _beginnings(subject: str) -> Iterator[str]:
    while subject:
        yield subject
        subject = subject.rpartition(".")[0]
    yield ""
