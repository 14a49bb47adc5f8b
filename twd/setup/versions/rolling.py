"""In which order machines are renewed, and which versions may meet on one bus: plain values in, plain values out."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from twd.setup.versions.folder import order

RANKS: Final = (
    frozenset({"speculator", "relay", "gate", "racer"}),
    frozenset({"coordinator", "metrics"}),
    frozenset({"edge"}),
    frozenset({"broker", "membership"}),
)
"""What is renewed later, the last row last; machines that only lend something go first."""


@dataclass(frozen=True)
class RollingMachine:
    """One machine of the installation, as its leases show it."""

    node: str
    services: frozenset[str] = frozenset()


def rolling_order(machines: Iterable[RollingMachine]) -> list[RollingMachine]:
    """Return the machines as they are renewed: those that lend, those that serve, the coordinator, the edge, and the
    broker's at the very end."""
    return sorted(machines, key=lambda machine: (_rank(machine.services), machine.node))


def _rank(services: frozenset[str]) -> int:
    return max((place for place, names in enumerate(RANKS, 1) if services & names), default=0)


def base_of_version(version: str) -> str:
    """Return a version without what `twd deploy` adds to it: `0.2.0-0123456789ab` is 0.2.0."""
    return version.partition("-")[0]


def obstacle_between(there: str, new: str) -> str:
    """Return why a machine cannot go from its version to the new one; empty if it can."""
    old, coming = base_of_version(there), base_of_version(new)
    if order(old) > order(coming):
        return f"it has {old}, which is newer than {coming}: give newer packages, or `twd rollback` there"
    if not neighbours(old, coming):
        text = f"it has {old}, and {coming} is more than one step newer, so the two may not understand each other"
        return f"{text}: upgrade to a version between them first"
    return ""


def neighbours(one: str, other: str) -> bool:
    """Whether two versions work together on one bus: the same first two numbers, or one step of one of them."""
    (major, minor), (later_major, later_minor) = sorted(map(_first_two, (one, other)))
    if major == later_major:
        return later_minor - minor <= 1
    return later_major - major == 1 and later_minor == 0


def _first_two(version: str) -> tuple[int, int]:
    numbers = [int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:2]]
    major, minor = (*numbers, 0, 0)[:2]
    return major, minor
