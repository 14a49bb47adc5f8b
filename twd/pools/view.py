"""Collects the leases, placements and events of pools into one state for each pool. No I/O."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import msgspec

from twd.bus.base import LeaseEntry
from twd.pools.state import PoolState, StageState, with_warnings
from twd.process.process_table import stage_of
from twd.wire.base import Event, InstanceId, NodeId
from twd.wire.job import TokensAccepted
from twd.wire.leases.speculator import SpeculatorFacts
from twd.wire.leases.workers import StageFacts
from twd.wire.node import READY, NodeFacts, read_node
from twd.wire.placement import PlacementDecided, Slice, read_placement
from twd.wire.ring import FrameRefused, HopFacts, RingMeasured, StageReady
from twd.wire.service import ServiceLease, read_lease

SPAN_S: Final = 10.0
"""Figures cover the last SPAN_S seconds."""
REFUSALS_KEPT: Final = 1024
"""The most refusals that are kept for each stage, because a stage may report any number."""
ENGINES: Final = ("ring", "rpc", "llama-server")


@dataclass(slots=True)
class _Told:
    """The latest measurements of one stage, with their times."""

    events: deque[tuple[float, RingMeasured]] = field(default_factory=deque)

    def hear(self, event: RingMeasured, now: float) -> None:
        if self.events and self.events[-1][1].ring != event.ring:
            self.events.clear()
        self.events.append((now, event))
        self.forget(now)

    def forget(self, now: float) -> None:
        """Keep the last event whatever its age: an idle stage still has a round trip."""
        while len(self.events) > 1 and now - self.events[0][0] > SPAN_S:
            self.events.popleft()


class PoolsView:
    """Reads leases and events; `states` returns the state of all pools."""

    def __init__(self) -> None:
        self.speculators: dict[InstanceId, tuple[ServiceLease, SpeculatorFacts]] = {}
        """Speculators whose models run on a pool."""
        self._stages: dict[InstanceId, tuple[ServiceLease, StageFacts, StageReady]] = {}
        self._placements: dict[str, PlacementDecided] = {}
        self._nodes: dict[NodeId, NodeFacts] = {}
        self._told: dict[InstanceId, _Told] = {}
        self._refused: dict[InstanceId, deque[float]] = {}
        self._tokens: dict[InstanceId, deque[tuple[float, int]]] = {}

    # -- what comes in -----------------------------------------------------------------------------

    def look(self, entries: Iterable[LeaseEntry]) -> None:
        """Read the registry; what is no longer in it is removed."""
        self.speculators, self._stages, self._placements, self._nodes = {}, {}, {}, {}
        for entry in entries:
            self._read(entry.value, entry.key)
        for known in (self._told, self._refused):
            for stage in known.keys() - self._stages.keys():
                del known[stage]
        for speculator in self._tokens.keys() - self.speculators.keys():
            del self._tokens[speculator]

    def _read(self, value: bytes, key: str) -> None:
        placement, facts = read_placement(value, key), read_node(value, key)
        if placement is not None:
            self._placements[placement.place] = placement
        elif facts is not None:
            self._nodes[facts.node] = facts
        else:
            self._read_service(value, key)

    def _read_service(self, value: bytes, key: str) -> None:
        lease = read_lease(value, key)
        if lease is None:
            return  # another kind of key, or one of a later version
        match lease.facts:
            case SpeculatorFacts() as facts if facts.model and facts.engine in ENGINES:
                self.speculators[lease.instance] = lease, facts
            case StageFacts(slice=StageReady() as ready) as facts:
                self._stages[lease.instance] = lease, facts, ready

    def hear(self, event: Event, now: float) -> None:
        """Handle one event; events that do not concern pools are ignored."""
        match event:
            case RingMeasured():
                self._told.setdefault(event.stage, _Told()).hear(event, now)
            case FrameRefused():
                times = self._refused.setdefault(event.stage, deque(maxlen=REFUSALS_KEPT))
                times.extend([now] * min(event.repeated - event.repeated // 2, REFUSALS_KEPT))
            case TokensAccepted() if event.source in self.speculators:
                self._tokens.setdefault(event.source, deque(maxlen=4096)).append((now, len(event.tokens)))
            case _:
                return

    # -- the states ---------------------------------------------------------------------------------

    def states(self, now: float) -> list[PoolState]:
        """The states of all pools, sorted by model."""
        for told in self._told.values():
            told.forget(now)
        pooled = self.speculators.values()
        served = {facts.served for _, facts in pooled}
        waiting = [placement for place, placement in self._placements.items() if place not in served]
        found = [self._served(lease, facts, now) for lease, facts in pooled] + [self._waiting(one) for one in waiting]
        return sorted(found, key=lambda pool: (pool.model, pool.home))

    def _waiting(self, placement: PlacementDecided) -> PoolState:
        """A pool that was planned but that no speculator serves yet."""
        state = "does not fit" if placement.missing_bytes else "no speculator serves it"
        pool = PoolState(
            model=placement.model,
            engine=placement.engine,
            home=placement.home,
            state=state,
            stages=[self._planned(piece) for piece in placement.slices],
            predicted_ms=_ms_of(placement),
            notes=[] if placement.missing_bytes else placement.notes,  # otherwise they are shown as warnings
        )
        return with_warnings(pool, [*placement.notes, *placement.helps] if placement.missing_bytes else [])

    def _served(self, lease: ServiceLease, facts: SpeculatorFacts, now: float) -> PoolState:
        placement = self._placements.get(facts.served)
        in_ring = facts.engine == "ring"
        stages = self._ring(lease, placement, now) if in_ring else self._workers(facts, placement)
        pool = PoolState(
            model=facts.model,
            engine=facts.engine,
            home=lease.node,
            state=str(stage_of(lease)),
            exact=facts.exact,
            stages=stages,
            sessions=facts.sessions,
            waiting=facts.waiting,
            tok_s=self._tok_s(lease.instance, now),
            waste=_mean([stage.waste for stage in stages if stage.waste]) or facts.waste,
            predicted_ms=_ms_of(placement) if placement is not None else 0.0,
            token_ms=facts.trip_ms or facts.single_step_ms,
            notes=placement.notes if placement is not None else [],
        )
        return with_warnings(pool, [lease.note] if lease.note and pool.state != READY else [])

    def _tok_s(self, speculator: InstanceId, now: float) -> float:
        """Tokens per second over the last seconds; just after a start, over the time since the start."""
        heard = [(at, count) for at, count in self._tokens.get(speculator, ()) if now - at <= SPAN_S / 2]
        if not heard or now - heard[-1][0] > SPAN_S / 5:
            return 0.0
        return round(sum(count for _, count in heard) / max(1.0, now - heard[0][0]), 1)

    # -- a ring's stages ---------------------------------------------------------------------------

    def _ring(self, lease: ServiceLease, placement: PlacementDecided | None, now: float) -> list[StageState]:
        wired = [stage for stage in self._stages.values() if stage[1].home == lease.instance]
        wired.sort(key=lambda stage: (stage[2].first, stage[2].end))
        kept = sum(event.kept for one, *_ in wired for _, event in self._events(one.instance))
        pieces = {(piece.node, piece.first, piece.end): piece for piece in (placement.slices if placement else [])}
        spares = {(piece.node, piece.first, piece.end): piece for piece in (placement.spares if placement else [])}
        shown = []
        for one, facts, ready in wired:
            key = (one.node, ready.first, ready.end)
            piece = pieces.pop(key, None)
            if piece is None and (piece := spares.get(key)) is not None:  # it replaces the original
                pieces = {at: other for at, other in pieces.items() if other.process != piece.process}
            stage = StageState(
                node=one.node,
                first=ready.first,
                end=ready.end,
                head=ready.head,
                state=str(stage_of(one)),
                process=piece.process if piece else "",
                predicted_ms=piece.ms if piece else 0.0,
                sessions=facts.sessions,
            )
            shown.append(self._measured(stage, one.instance, kept, now))
        missing = [self._planned(piece, "is not in the ring") for piece in pieces.values()]
        return sorted([*shown, *missing], key=lambda stage: (stage.first, stage.end))

    def _events(self, stage: InstanceId) -> Sequence[tuple[float, RingMeasured]]:
        told = self._told.get(stage)
        return told.events if told else ()

    def _measured(self, stage: StageState, instance: InstanceId, kept: int, now: float) -> StageState:
        events = [event for _, event in self._events(instance)]
        refused = sum(now - at <= SPAN_S for at in self._refused.get(instance, ()))
        if not events:
            return msgspec.structs.replace(stage, refused=refused)
        passes, rows, seconds = (sum(getattr(one, name) for one in events) for name in ("passes", "rows", "seconds"))
        out = _outward(events[-1])
        return msgspec.structs.replace(
            stage,
            ms=_weighted(events, "compute_ms"),
            queue_ms=_weighted(events, "queue_ms"),
            busy=round(sum(one.busy * one.seconds for one in events) / seconds, 3) if seconds else 0.0,
            passes=passes,
            rows=rows,
            waste=max(1.0, round(rows / kept, 2)) if kept and rows else 0.0,
            dropped=sum(one.dropped for one in events),
            aborted=sum(one.aborted for one in events),
            refused=refused + sum(one.refused for one in events),
            to=out.to if out else "",
            rtt_ms=out.rtt_ms if out else 0.0,
            bytes_per_token=_per_token(events),
        )

    # -- what is known of others -------------------------------------------------------------------

    def _workers(self, facts: SpeculatorFacts, placement: PlacementDecided | None) -> list[StageState]:
        found = {link.to: link for link in facts.links}
        shown = []
        for piece in placement.slices if placement else []:
            stage, link = self._planned(piece), found.get(piece.node)
            if link is not None:
                tokens = max(1, facts.tokens)
                carried = float(link.sent_bytes // tokens + link.received_bytes // tokens)
                stage = msgspec.structs.replace(stage, to="home", rtt_ms=link.rtt_ms, bytes_per_token=carried)
            shown.append(stage)
        return shown

    def _planned(self, piece: Slice, otherwise: str = "") -> StageState:
        """The planned stage, with the state of its process."""
        node = self._nodes.get(piece.node)
        process = next((one for one in (node.processes if node else []) if one.process == piece.process), None)
        state = otherwise or READY
        if piece.process:
            state = process.state if process is not None else "is not there"
            state = otherwise if state == READY and otherwise else state
        return StageState(
            node=piece.node,
            first=piece.first,
            end=piece.end,
            head=piece.head,
            state=state,
            process=piece.process,
            predicted_ms=piece.ms,
        )


def _ms_of(placement: PlacementDecided) -> float:
    return round(1000 / placement.plain_tok_s, 3) if placement.plain_tok_s else 0.0


def _outward(event: RingMeasured) -> HopFacts | None:
    """The link on which a stage sends its results."""
    by_name = {hop.to: hop for hop in event.hops}
    return by_name.get("next") or by_name.get("home")


def _per_token(events: Sequence[RingMeasured]) -> float:
    """Bytes sent per token. Only intervals between two busy reports count: an idle link carries nothing but probes."""
    sent = rows = 0
    for before, after in pairwise(events):
        one, other = _outward(before), _outward(after)
        if before.passes and after.passes and one is not None and other is not None:
            sent += max(0, other.sent_bytes - one.sent_bytes)
            rows += after.rows
    return round(sent / rows, 1) if rows else 0.0


def _weighted(events: Sequence[RingMeasured], name: str) -> float:
    passes = sum(event.passes for event in events)
    total: float = sum(getattr(event, name) * event.passes for event in events)
    return round(total / passes, 3) if passes else 0.0


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 2) if values else 0.0
