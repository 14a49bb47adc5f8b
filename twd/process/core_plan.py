"""Plans how many threads each engine on one computer uses, and on which cores and cards engines meet."""

import enum
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

Amount = Annotated[int, Meta(ge=0, le=4096)]


class EngineRole(enum.StrEnum):
    """What an engine computes."""

    TARGET = "target"
    """A whole model in one process. It computes while its drafters wait, and the other way round."""
    STAGE = "stage"
    """Layers of a ring. Stages of one ring compute at the same time, and while drafters draft."""
    WORKER = "worker"
    """Layers of an RPC pool. Its workers compute one after the other, and while drafters draft, except where the pool
    is served."""
    RPC_TARGET = "rpc target"
    """The process that serves an RPC pool. Drafters on its computer wait while its pool computes, and the other way
    round."""
    DRAFTER = "drafter"
    """It drafts ahead. No request waits for its cores."""


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One process that computes on the CPU or on cards."""

    name: str
    part: EngineRole
    model: str = ""
    cores: tuple[Amount, ...] = ()
    """The processors on which it may run."""
    room: Amount = 1
    """How many threads are useful on these: one for each physical core."""
    asked: Amount = 0
    """The number of threads from the settings or from the pool's plan; 0: as many as is best."""
    cards: tuple[str, ...] = ()
    """The cards on which it computes, named alike by all processes; then it does without `cores`."""
    pid: Annotated[int, Meta(ge=0)] = 0


class CoreShare(msgspec.Struct, frozen=True, kw_only=True):
    """The threads of one engine, and who else uses its cores."""

    threads: int
    beside: tuple[str, ...] = ()
    """The engines that use some of the same cores or cards."""
    on_card: bool = False
    """It computes on a card, so the number of threads matters little."""
    yields: bool = False
    """It runs only when the engines that are no drafters leave the cores idle."""


def plan_cores(engines: Sequence[Engine]) -> dict[str, CoreShare]:
    """Return the share of each engine by name; every process computes the same shares for the same engines."""
    ordered = sorted(engines, key=lambda engine: engine.name)
    return {engine.name: _share(engine, _beside(engine, ordered)) for engine in ordered}


def _beside(engine: Engine, others: Iterable[Engine]) -> list[Engine]:
    return [other for other in others if other.name != engine.name and _meet(engine, other)]


def _meet(one: Engine, other: Engine) -> bool:
    return not (set(one.cores).isdisjoint(other.cores) and set(one.cards).isdisjoint(other.cards))


def _share(engine: Engine, beside: Sequence[Engine]) -> CoreShare:
    return CoreShare(
        threads=engine.asked or _threads(engine, beside),
        beside=tuple(f"{other.part} {other.model or other.name}" for other in beside),
        on_card=bool(engine.cards),
        yields=engine.part is EngineRole.DRAFTER and any(other.part is not EngineRole.DRAFTER for other in beside),
    )


def _threads(engine: Engine, beside: Sequence[Engine]) -> int:
    """Return the number of threads of an engine.

    A target or an RPC worker takes turns with the others of its pool, so each uses all cores. Stages and drafters
    divide the cores. Two thread teams on the same cores wait for each other at every barrier. So a drafter beside
    stages or workers has one thread, unless there are cores that none of them uses. Where an RPC pool is served,
    drafters take turns with its workers.
    """
    if engine.part in (EngineRole.TARGET, EngineRole.WORKER, EngineRole.RPC_TARGET):
        return engine.room
    if engine.part is EngineRole.STAGE:
        return max(1, engine.room // _count(beside, EngineRole.STAGE, engine.model))
    drafters = 1 + sum(other.part is EngineRole.DRAFTER for other in beside)
    return max(1, (engine.room - _used(beside)) // drafters)


def _count(beside: Sequence[Engine], part: EngineRole, model: str) -> int:
    """Return how many engines of this role and model use the cores, the engine itself included."""
    return 1 + sum(other.part is part and other.model == model for other in beside)


def _used(beside: Sequence[Engine]) -> int:
    """Return the most threads of stages and workers at one time. Targets do not count, as they wait for drafts, nor do
    workers where their pool is served."""
    stages = sum(other.asked or other.room for other in beside if other.part is EngineRole.STAGE)
    workers = max((other.asked or other.room for other in beside if other.part is EngineRole.WORKER), default=0)
    served_here = any(other.part is EngineRole.RPC_TARGET for other in beside)
    return stages if served_here else max(stages, workers)
