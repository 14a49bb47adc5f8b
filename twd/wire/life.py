"""Which models a machine is told to serve: wishes, how far they have come, and memory given back."""

import enum
from typing import Annotated

from msgspec import Meta

from twd.wire.base import Count, Event, ModelId, NodeId
from twd.wire.failures import Failure

WANTED_MAX = 4096
WantedName = Annotated[str, Meta(min_length=1, max_length=WANTED_MAX)]
"""Of a model: the path of a file is as long as systems allow."""
Switch = Annotated[str, Meta(pattern="^(|off|on|auto)$")]


class ModelWanted(Event, frozen=True, tag="twd.v1.model.wanted"):
    """A machine is asked to serve a model: a configured name, a GGUF file there, or a file that its agent found."""

    node: NodeId
    model: WantedName
    ram_reclaim: Switch = ""
    """Empty: as the settings say."""
    prewarm: bool = True
    skip_version_check: bool = False
    """From now on, machines of the pool count whose engine does not match."""
    head: str = ""
    """The GGUF file there of a trained head that guesses for this model; empty: as the settings say."""


class ModelUnwanted(Event, frozen=True, tag="twd.v1.model.unwanted"):
    """A machine is asked to serve a model no longer; an empty name means all of them."""

    node: NodeId
    model: str = ""


class SwapWanted(Event, frozen=True, tag="twd.v1.swap.wanted"):
    """A machine is asked to serve one model in place of another; nobody named: of the default one."""

    node: NodeId
    model: WantedName
    instead_of: str = ""


class ChangeAnswered(Event, frozen=True, tag="twd.v1.change.answered"):
    """What will become of a wish: begun under the name `change`, nothing to do, or why not."""

    node: NodeId
    change: str = ""
    model: ModelId = ModelId("")
    note: str = ""
    failure: Failure | None = None


class ChangeStep(enum.StrEnum):
    """How far a change has come; the last two end it."""

    DRAINING = "draining"
    LOADING = "loading"
    ROLLING_BACK = "rolling_back"
    DONE = "done"
    FAILED = "failed"


class ChangeTold(Event, frozen=True, tag="twd.v1.change.told"):
    """How far a change of models has come, and which models are served and wanted now."""

    node: NodeId
    change: str
    step: ChangeStep
    model: ModelId = ModelId("")
    note: str = ""
    models: list[str] = []
    default: str = ""
    failure: Failure | None = None


class ReclaimWanted(Event, frozen=True, tag="twd.v1.reclaim.wanted"):
    """Processes that hold a model are asked to give back memory that they do not need; an empty name means all."""

    node: NodeId
    model: str = ""


class MemoryReclaimed(Event, frozen=True, tag="twd.v1.memory.reclaimed"):
    """What a process held before and after: resident bytes, and bytes of its file in the page cache."""

    node: NodeId
    model: ModelId
    rss_before: Count
    rss_after: Count
    cached_before: Count
    cached_after: Count
    problem: str = ""
