"""Who computes on which cores of one computer at the same time, and with how many threads each."""

import enum
from collections.abc import Iterable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

Amount = Annotated[int, Meta(ge=0, le=4096)]


class EngineRole(enum.StrEnum):
    """What an engine does for the text."""

    TARGET = "target"
    """A whole model in one process. It computes while those who guess for it wait, and the other way round."""
    STAGE = "stage"
    """Layers of a ring. Stages of one ring compute at the same time, and while drafters draft."""
    WORKER = "worker"
    """Layers of an RPC pool. Its workers compute one after the other, and while drafters draft."""
    DRAFTER = "drafter"
    """It guesses ahead. The text never waits for its cores."""


BUSY: Final = (EngineRole.STAGE, EngineRole.WORKER)
"""These compute at any moment, whatever a drafter beside them does."""


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One process that computes on processors."""

    name: str
    part: EngineRole
    model: str = ""
    cores: tuple[Amount, ...] = ()
    """The processors on which it may run."""
    room: Amount = 1
    """How many threads pay on these: one for each physical core."""
    asked: Amount = 0
    """So many threads were asked for in the settings, or by whoever planned its pool; 0: as many as is best."""
    pid: Annotated[int, Meta(ge=0)] = 0


class CoreShare(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine gets."""

    threads: int
    beside: tuple[str, ...] = ()
    """Who computes on some of the same cores."""
    yields: bool = False
    """It runs only when those whose work is the text leave the cores idle."""


def plan_cores(engines: Sequence[Engine]) -> dict[str, CoreShare]:
    """The share of each engine of one computer, by name. The same engines get the same shares in every process."""
    ordered = sorted(engines, key=lambda engine: engine.name)
    return {engine.name: _share(engine, _beside(engine, ordered)) for engine in ordered}


def _beside(engine: Engine, others: Iterable[Engine]) -> list[Engine]:
    mine = set(engine.cores)
    return [other for other in others if other.name != engine.name and not mine.isdisjoint(other.cores)]


def _share(engine: Engine, beside: Sequence[Engine]) -> CoreShare:
    return CoreShare(
        threads=engine.asked or _threads(engine, beside),
        beside=tuple(f"{other.part} {other.model or other.name}" for other in beside),
        yields=engine.part is EngineRole.DRAFTER and any(other.part is not EngineRole.DRAFTER for other in beside),
    )


def _threads(engine: Engine, beside: Sequence[Engine]) -> int:
    """A target and a worker take turns with the others of their pool, so each has all cores. Stages and drafters share.

    Two teams of threads on the same cores wait for each other at every barrier. So a drafter that computes while stages
    or workers do has one thread only, unless cores are left over that none of them uses.
    """
    if engine.part in (EngineRole.TARGET, EngineRole.WORKER):
        return engine.room
    if engine.part is EngineRole.STAGE:
        return max(1, engine.room // _count(beside, EngineRole.STAGE, engine.model))
    drafters = 1 + sum(other.part is EngineRole.DRAFTER for other in beside)
    return max(1, (engine.room - _used(beside)) // drafters)


def _count(beside: Sequence[Engine], part: EngineRole, model: str) -> int:
    """How many of this part and model share the cores, the engine itself included."""
    return 1 + sum(other.part is part and other.model == model for other in beside)


def _used(beside: Sequence[Engine]) -> int:
    """The most threads that compute for texts at the same time; targets rest while a drafter drafts for them."""
    stages = sum(other.asked or other.room for other in beside if other.part is EngineRole.STAGE)
    workers = max((other.asked or other.room for other in beside if other.part is EngineRole.WORKER), default=0)
    return max(stages, workers)
