"""Who wants a subject: found once for each subject, then remembered until a wildcard comes or goes."""

from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from twd.bus.base import matches

_REMEMBERED_MAX: Final = 4096


class Wanting(Protocol):
    """A subscription: a pattern, and a queue group if it has one."""

    pattern: str
    queue: str


W = TypeVar("W", bound=Wanting)


@dataclass(frozen=True, slots=True)
class Wanted(Generic[W]):
    """The subscriptions that match one subject; of each group one member is to be chosen."""

    everybody: list[W]
    groups: list[list[W]]


class Interest(Generic[W]):
    """All subscriptions of a broker. Which of them a subject reaches does not depend on their number."""

    def __init__(self) -> None:
        self._literal: dict[str, list[W]] = {}
        self._wildcards: list[W] = []
        self._found: dict[str, Wanted[W]] = {}

    def add(self, one: W) -> None:
        """A new subscription."""
        if _is_wildcard(one.pattern):
            self._wildcards.append(one)
            self._found.clear()
        else:
            self._literal.setdefault(one.pattern, []).append(one)
            self._found.pop(one.pattern, None)

    def remove(self, one: W) -> None:
        """A subscription goes; one that is not here is no matter."""
        if _is_wildcard(one.pattern):
            self._wildcards = [other for other in self._wildcards if other is not one]
            self._found.clear()
            return
        left = [other for other in self._literal.pop(one.pattern, []) if other is not one]
        if left:
            self._literal[one.pattern] = left
        self._found.pop(one.pattern, None)

    def in_subject(self, subject: str) -> Wanted[W]:
        """Who is to hear a message on this subject, in the order of subscribing."""
        found = self._found.get(subject)
        if found is None:
            found = self._find(subject)
            if len(self._found) >= _REMEMBERED_MAX:
                self._found.clear()
            self._found[subject] = found
        return found

    def _find(self, subject: str) -> Wanted[W]:
        everybody: list[W] = []
        groups: dict[tuple[str, str], list[W]] = {}
        wild = [one for one in self._wildcards if matches(one.pattern, subject)]
        for one in [*self._literal.get(subject, ()), *wild]:
            if one.queue:
                groups.setdefault((one.queue, one.pattern), []).append(one)
            else:
                everybody.append(one)
        return Wanted(everybody, list(groups.values()))


def _is_wildcard(pattern: str) -> bool:
    return "*" in pattern or ">" in pattern
