"""What coordinators, edges, metrics and racers tell in their leases."""

from twd.wire.base import Count
from twd.wire.leases.base import LeaseFacts
from twd.wire.node import Port


class CoordinatorFacts(LeaseFacts, frozen=True):
    """Who decides, and what it can decide."""

    active: bool = False
    """Whether this coordinator decides now."""
    nodes: Count = 0
    placed: list[str] = []
    reads: list[str] = []
    """The models that it can plan."""
    guests: list[str] = []
    """Agentless hosts, in words."""


class EdgeFacts(LeaseFacts, frozen=True):
    """Where clients ask."""

    url: str = ""
    port: Port = 0
    jobs: Count = 0


class MetricsFacts(LeaseFacts, frozen=True):
    """How much is kept."""

    stories: Count = 0
    bytes: Count = 0
    ended: Count = 0
    unread: Count = 0
    """Messages that were not understood."""


class RacerFacts(LeaseFacts, frozen=True):
    """Votes of drafters."""

    sessions: Count = 0
    agreed: Count = 0
    """Tokens on which drafters agreed."""
