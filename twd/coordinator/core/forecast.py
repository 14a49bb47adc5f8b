"""What a decision means for speed: its bottleneck, and what one more machine would gain. Calculated by planning
again."""

from dataclasses import replace
from typing import Final

import msgspec

from twd.coordinator.core.machines.device_names import usable
from twd.coordinator.core.model_placement import decide
from twd.coordinator.core.placement.values import MachineLink
from twd.coordinator.core.processes import WantedModel
from twd.coordinator.core.state import ObservedState, WantedState
from twd.kit.wording import figure
from twd.settings.model import PoolConfig
from twd.wire.base import InstanceId, NodeId
from twd.wire.node import NodeFacts
from twd.wire.placement import PlacementDecided, Slice

_GAIN: Final = 1.02
"""A smaller ratio of speeds does not count as a gain."""


def token_ms(decision: PlacementDecided) -> float:
    """Return the milliseconds of one token without drafts."""
    return 1000 / decision.plain_tok_s if decision.plain_tok_s else 0.0


def way_ms(decision: PlacementDecided) -> float:
    """Return the milliseconds of one token that are spent on the network or in sampling."""
    return max(0.0, token_ms(decision) - sum(piece.ms for piece in decision.slices))


def most_tok_s(decision: PlacementDecided) -> float:
    """Return the most tokens a second of all sessions together: the machines of a ring compute at the same time, so the
    slowest slice limits it."""
    slowest = max((piece.ms for piece in decision.slices), default=0.0)
    if decision.engine != "ring" or not slowest:
        return decision.plain_tok_s
    return 1000 / slowest


def bottleneck(decision: PlacementDecided) -> str:
    """Return the bottleneck in words; empty where nothing was placed."""
    if not decision.slices or not decision.plain_tok_s:
        return ""
    slowest = max(decision.slices, key=lambda piece: piece.ms)
    computing, way = token_ms(decision) - way_ms(decision), way_ms(decision)
    whole, parts = figure(token_ms(decision)), f"{figure(computing)} computing and {figure(way)} on the way"
    spent = f"one token: {whole} ms, {parts} or choosing it"
    if way > computing:
        return f"{spent}; the bottleneck is the way, which windows in flight and more sessions hide"
    held = f"the bottleneck is {_named(slowest)} with {figure(slowest.ms)} ms"
    if decision.engine != "ring":
        return f"{spent}; {held}"
    return f"{spent}; {held}: all sessions together make at most {figure(most_tok_s(decision))} tokens/s"


def _named(piece: Slice) -> str:
    layers = f"layers {piece.first}-{piece.end - 1}" if piece.end > piece.first else "the output head"
    return f"{piece.node}/{piece.device} ({layers})"


def one_more(wanted: WantedState, observed: ObservedState, model: WantedModel, now: PlacementDecided) -> str:
    """Return in one line what another machine like the best one here would gain."""
    agents = [facts for facts in observed.nodes.values() if not facts.guest]
    like = max(agents, key=lambda facts: _strength(facts, now), default=None)
    if like is None or not model.shape:
        return ""
    link = observed.links.get(like.node) or next(iter(observed.links.values()), MachineLink())
    nodes, links = {**observed.nodes, _EXTRA: _twin(like)}, {**observed.links, _EXTRA: link}
    more = replace(observed, nodes=nodes, links=links, decided={})
    as_set = decide(wanted, more, model)
    spread = decide(replace(wanted, pool=_spread(wanted.pool)), more, model)
    what = f"one more machine like {like.node}"
    if now.missing_bytes:
        fits = not as_set.missing_bytes
        return f"{what}: the model would {'fit' if fits else 'still not fit'}" + (
            f", {_speeds(as_set)}" if fits else ""
        )
    if _better(as_set, now):
        return f"{what}: {_speeds(as_set)}; now {_speeds(now)}"
    if _better(spread, now):
        return f"{what}: {_speeds(spread)} with `pool.split: even`; now {_speeds(now)}"
    return f"{what}: no gain, the way there costs more than it saves"


_EXTRA: Final = NodeId("one-more")


def _twin(like: NodeFacts) -> NodeFacts:
    memory = msgspec.structs.replace(like.memory, available=max(like.memory.available, like.memory.total * 3 // 4))
    extra = {"node": _EXTRA, "machine": str(_EXTRA), "computer": "", "instance": InstanceId(f"agent.{_EXTRA}.x")}
    return msgspec.structs.replace(like, **extra, memory=memory, processes=[], lends=True)


def _strength(facts: NodeFacts, now: PlacementDecided) -> tuple[bool, float, int]:
    """Return the sort key of a machine: a usable GPU first, then memory bandwidth, then whether it already serves."""
    serves = any(piece.node == facts.node for piece in now.slices)
    return (bool(usable(facts)), float(facts.cpu.bandwidth), int(serves))


def _spread(pool: PoolConfig) -> PoolConfig:
    return msgspec.structs.replace(pool, split="even")


def _better(other: PlacementDecided, now: PlacementDecided) -> bool:
    if other.missing_bytes or not any(piece.node == _EXTRA for piece in other.slices):
        return False
    return other.plain_tok_s > _GAIN * now.plain_tok_s or most_tok_s(other) > _GAIN * most_tok_s(now)


def _speeds(decision: PlacementDecided) -> str:
    plain = f"{figure(decision.plain_tok_s)} tokens/s plain"
    return f"{plain}, {figure(most_tok_s(decision))} of all sessions" if decision.engine == "ring" else plain
