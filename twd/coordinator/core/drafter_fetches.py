"""Draft models that machines without their files must fetch first: on the machine that the settings name, or where no
machine that has the file has room."""

from collections.abc import Iterable
from math import inf
from typing import Final

from twd.coordinator.core.drafters import WantedDrafter, fits
from twd.coordinator.core.fetching import pull_name, service_for
from twd.coordinator.core.state import ObservedState, StartProcess, StartPull, WantedState
from twd.coordinator.core.stores import has_file, room_of, sources_for
from twd.wire.base import NodeId
from twd.wire.node import NodeFacts
from twd.wire.swarm import PullWanted

AGAIN_S: Final = 30.0


Places = Iterable[tuple[WantedDrafter, NodeId | None]]
"""Drafters, each with the machine that runs it."""


def start(wanted: WantedState, observed: ObservedState, places: Places, now: float) -> StartPull | StartProcess | None:
    """Return a request for a draft model's file, or for a swarm service that this needs; None where there is none."""
    for drafter, node in places:
        target = target_of(wanted, observed, drafter, node)
        if target is None:
            continue
        sources = sources_for(observed.nodes[target], observed.nodes.values(), observed.stores, drafter.file.hash)
        for one in (target, *sources):
            if (service := service_for(observed, one, now)) is not None:
                return service
        if target in observed.stores and not _comes(observed, target, drafter):
            wish = PullWanted(node=target, hash=drafter.file.hash, file=f"{drafter.file.name}.gguf")
            if now - observed.tried.get((target, pull_name(wish.hash, None)), -inf) >= AGAIN_S:
                return StartPull(wish)
    return None


def target_of(
    wanted: WantedState, observed: ObservedState, drafter: WantedDrafter, node: NodeId | None
) -> NodeId | None:
    """Return the machine that must fetch a draft model before it can run it; None where none must, or can."""
    if wanted.pool.fetch == "off" or not drafter.file.hash:
        return None
    nodes = observed.nodes
    if node is not None:
        facts = nodes.get(node)
        return node if facts is not None and can_fetch(wanted, observed, drafter, facts) else None
    if drafter.node:
        return None
    able = (one for one in nodes.values() if fits(drafter, one) and can_fetch(wanted, observed, drafter, one))
    best = min(able, key=lambda one: (-one.cpu.cores, one.node), default=None)
    return best.node if best is not None else None


def can_fetch(wanted: WantedState, observed: ObservedState, drafter: WantedDrafter, facts: NodeFacts) -> bool:
    """Whether a machine lacks a draft model's file, and can take it in from another one."""
    at_home = facts.node == wanted.home and not drafter.file.problem
    runs = any(known.process == drafter.process for known in facts.processes)
    if at_home or runs or facts.guest or not facts.accepts or has_file(facts, drafter.file.hash):
        return False
    room = room_of(facts, observed.stores.get(facts.node))
    found = sources_for(facts, observed.nodes.values(), observed.stores, drafter.file.hash)
    return room >= drafter.file.size_bytes and bool(found)


def _comes(observed: ObservedState, node: NodeId, drafter: WantedDrafter) -> bool:
    """Whether the file is there already, or on its way; the machine's agent will list it soon."""
    return any(one.hash == drafter.file.hash for one in observed.stores[node].files)
