"""What a machine may do that joined: each role of a token is some roles on the bus."""

from collections.abc import Iterable
from typing import Final

JOINER: Final = "joiner"
"""The role of a token on the bus: it may ask to join, and nothing else."""
MEMBER: Final = "member"
"""The role of each machine that joined: it may say that it leaves."""
_EACH: Final = (MEMBER, "supervisor", "status")

JOIN_ROLES: Final[dict[str, tuple[str, ...]]] = {
    "machine": ("agent", "stage", "drafter", "swarm"),
    "drafter": ("drafter",),
    "edge": ("edge", "metrics"),
    "server": ("speculator", "relay", "gate", "racer", "agent", "swarm"),
}
DEFAULT_ROLE: Final = "machine"
ALL_BUS_ROLES: Final = tuple(dict.fromkeys((*_EACH, *(one for many in JOIN_ROLES.values() for one in many))))


def bus_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Return the roles on the bus of a machine that joined with these roles; unknown ones give none."""
    return tuple(dict.fromkeys((*_EACH, *(one for role in roles for one in JOIN_ROLES.get(role, ())))))
