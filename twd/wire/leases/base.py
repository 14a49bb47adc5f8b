"""What the facts of all services share, and of all that have a model. Every field has a default: see `reading.py`."""

from typing import Annotated

from msgspec import Meta

from twd.wire.base import Count, Figure, ModelId, Part

Ms = Annotated[float, Meta(ge=0.0)]
Seconds = Annotated[float, Meta(ge=0.0)]


class LeaseFacts(Part, frozen=True, omit_defaults=False):
    """What a service tells of itself in its lease. A service with more to tell has a struct of its own."""

    ready: bool = True
    """Whether it can do its work; the lease's health says why not."""


OtherFact = str | Figure | float | bool | list[str]


class OtherFacts(LeaseFacts, frozen=True):
    """The facts of a service that this version does not know, as they came."""

    told: dict[str, OtherFact] = {}


class CoreFacts(Part, frozen=True):
    """The share of its machine's processor that a process uses."""

    threads: Count
    beside: list[str] = []
    """The processes that compute on some of the same cores."""
    yields: bool = False
    """It computes only when those leave the cores idle."""
    on_card: bool = False
    """Those compute on the same graphics card, not on the same cores."""
    in_use: Count = 0
    """How many threads passes use now, as all of them would wait for a core that another program has; 0: all."""


class StreamedExperts(Part, frozen=True, omit_defaults=False):
    """Experts of a mixture that are read from disk while the model computes."""

    memory_bytes: Count = 0
    expert_bytes: Count = 0
    """Of all experts."""
    asked: Count = 0
    hits: Count = 0
    """How many of the asked ones were in memory."""
    read_bytes: Count = 0
    waited_s: Seconds = 0.0
    half_life: float = 0.0
    foreseen: Count = 0
    foreseen_used: Count = 0
    """How many were read before they were asked for, and how many of those were asked for then."""
    told: Count = 0
    told_right: Count = 0
    """How many choices of drafters were compared with those of the target, and how many were the same."""
    told_unknown: Count = 0
    """How many experts that drafters told do not exist; they were dropped."""
    disk_bytes_s: Count = 0
    """What the disk gave while it was read; 0: nothing was."""


class WorkerFacts(LeaseFacts, frozen=True):
    """The facts of a service that has a model."""

    model: ModelId = ModelId("")
    sessions: Count = 0
    core_share: CoreFacts | None = None
    """None: it shares no cores."""
    experts: StreamedExperts | None = None
    """None: all are in memory, or there are none."""


class ServerFacts(WorkerFacts, frozen=True):
    """The facts of a service that takes the jobs of a model."""

    architecture: str = ""
    quantization: str = ""
    ctx_size: Count = 0
    judges: bool = False
    """Whether it can score given tokens."""
