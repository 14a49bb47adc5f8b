"""What relays, drafters and stages tell in their leases."""

from twd.wire.base import Count, InstanceId
from twd.wire.leases.base import Ms, ServerFacts, WorkerFacts
from twd.wire.node import Port
from twd.wire.ring import StageReady, StageWay


class RelayFacts(ServerFacts, frozen=True):
    """A model that another program's server has."""

    backend: str = ""
    """Which kind of server."""
    upstream_model: str = ""
    """The model's name there."""
    version: str = ""
    can_verify: bool = False
    scores: bool = False
    """Whether that server can score given tokens."""
    breaker: str = ""
    """Whether it is asked now: closed, open or half-open."""


class DrafterLeaseFacts(WorkerFacts, frozen=True):
    """A model that guesses; its own, or one of another program's server."""

    for_model: str = ""
    """The one model that it guesses for; empty: for all that it fits."""
    doubt: str = ""
    """Why its target says that it will not pay."""
    token_ms: Ms = 0.0
    alone_ms: Ms = 0.0
    """What a token takes where nobody else computes; 0: not known."""
    proposed: Count = 0
    fallback: bool = False
    """It guesses only while no other drafter does."""
    backend: str = ""
    """Which kind of server; empty: the model is its own."""
    upstream_model: str = ""
    speaks_tokens: bool = False
    breaker: str = ""


class StageFacts(WorkerFacts, frozen=True):
    """A slice of a model for a ring."""

    slice: StageReady | None = None
    """None: it loads."""
    next: StageWay | None = None
    """How far the next stage of its ring is; None: not measured."""
    layers: str = ""
    """In words."""
    host: str = ""
    port: Port = 0
    ring: str = ""
    home: InstanceId = InstanceId("")
    """The speculator whose ring it is part of."""
    passes: Count = 0
    faults: Count = 0
