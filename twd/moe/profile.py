"""Which experts a model uses: counts by layer and expert, how they fade, and what they say. Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from twd.wire.failures import FailureCode, TwdError

HALF_LIFE_S: Final = 7 * 86_400.0
"""After this time an old hit counts half as much as a new one."""
TRACE_MAX: Final = 65_536
"""The latest choices that are kept in order, all layers together."""
CURVE_TRACE: Final = 4096
"""Of these, so many tell a forecast: it replays them for each amount of memory."""
BUSY_SHARE: Final = 0.1
_FORGOTTEN: Final = 1e-3

Key = tuple[int, int]
"""A layer and an expert."""


class ExpertProfile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hits of one model, without any text. `model` is the hash of its file; empty where a source does not tell it."""

    model: str = ""
    name: str = ""
    experts: int = 0
    updated_at: float = 0.0
    tokens: float = 0.0
    hits: dict[int, dict[int, float]] = {}
    again: dict[int, tuple[float, float]] = {}
    """By layer: choices that the token before had made too, and all choices that had a token before."""
    trace: list[tuple[int, list[int]]] = []
    """The latest choices in order: a layer and its experts."""

    @property
    def choices(self) -> float:
        """All hits."""
        return sum(sum(counts.values()) for counts in self.hits.values())

    def by_expert(self) -> dict[Key, float]:
        """Hits by layer and expert, the most first."""
        pairs = {(layer, expert): n for layer, counts in self.hits.items() for expert, n in counts.items()}
        return dict(sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0])))


class ExpertCounter:
    """Counts choices as they come."""

    def __init__(self) -> None:
        self._hits: dict[int, Counter[int]] = {}
        self._tokens: Counter[int] = Counter()
        self._again: dict[int, list[float]] = {}
        self._before: dict[int, frozenset[int]] = {}
        self._trace: deque[tuple[int, list[int]]] = deque(maxlen=TRACE_MAX)

    def add(self, layer: int, chosen: Sequence[int]) -> None:
        """One token's choice in one layer."""
        experts = frozenset(chosen)
        self._hits.setdefault(layer, Counter()).update(chosen)
        self._tokens[layer] += 1
        if (before := self._before.get(layer)) is not None and experts:
            sums = self._again.setdefault(layer, [0.0, 0.0])
            sums[0] += len(experts & before)
            sums[1] += len(experts)
        self._before[layer] = experts
        self._trace.append((layer, list(chosen)))

    def add_hits(self, layer: int, expert: int, count: float) -> None:
        """Hits that were counted elsewhere."""
        counts = self._hits.setdefault(layer, Counter())
        counts[expert] += count  # type: ignore[assignment]

    @property
    def empty(self) -> bool:
        """Whether nothing was counted."""
        return not any(self._hits.values())

    def profile(self, *, model: str = "", name: str = "", experts: int = 0, now: float = 0.0) -> ExpertProfile:
        """What was counted so far."""
        return ExpertProfile(
            model=model,
            name=name,
            experts=experts,
            updated_at=now,
            tokens=float(max(self._tokens.values(), default=0)),
            hits={layer: {e: float(n) for e, n in counts.items()} for layer, counts in sorted(self._hits.items())},
            again={layer: (same, all_of) for layer, (same, all_of) in self._again.items()},
            trace=list(self._trace),
        )


def merged(profiles: Iterable[ExpertProfile], now: float) -> ExpertProfile:
    """The sum of several workers' and days' profiles: each fades by its age; raises TwdError for different models."""
    held = sorted(profiles, key=lambda one: one.updated_at)
    models = {one.model for one in held if one.model}
    if len(models) > 1:
        names = ", ".join(f"{one.name or 'unnamed'} ({one.model[:8]})" for one in held if one.model)
        raise TwdError(FailureCode.BAD_REQUEST, f"these are profiles of different models: {names}; keep them apart")
    faded = [fade(one, now) for one in held]
    hits: dict[int, dict[int, float]] = {}
    again: dict[int, tuple[float, float]] = {}
    for one in faded:
        for layer, counts in one.hits.items():
            into = hits.setdefault(layer, {})
            for expert, count in counts.items():
                into[expert] = into.get(expert, 0.0) + count
        for layer, (same, all_of) in one.again.items():
            before = again.get(layer, (0.0, 0.0))
            again[layer] = (before[0] + same, before[1] + all_of)
    return ExpertProfile(
        model=next(iter(models), ""),
        name=next((one.name for one in reversed(held) if one.name), ""),
        experts=max((one.experts for one in held), default=0),
        updated_at=now,
        tokens=sum(one.tokens for one in faded),
        hits=hits,
        again=again,
        trace=[step for one in faded for step in one.trace][-TRACE_MAX:],
    )


def fade(profile: ExpertProfile, now: float) -> ExpertProfile:
    """The same with hits as much as they count now; without a time it does not fade."""
    age = max(0.0, now - profile.updated_at) if profile.updated_at else 0.0
    weight = 0.5 ** (age / HALF_LIFE_S)
    hits = {
        layer: {expert: n * weight for expert, n in counts.items() if n * weight >= _FORGOTTEN}
        for layer, counts in profile.hits.items()
    }
    return msgspec.structs.replace(
        profile,
        updated_at=now,
        tokens=profile.tokens * weight,
        hits={layer: counts for layer, counts in hits.items() if counts},
        again={layer: (same * weight, all_of * weight) for layer, (same, all_of) in profile.again.items()},
    )


def skew(counts: Mapping[int, float], experts: int = 0) -> float:
    """The share of hits that the busiest tenth of a layer's experts gets; of those seen, if their number is unknown."""
    busiest = sorted(counts.values(), reverse=True)[: max(1, round((experts or len(counts)) * BUSY_SHARE))]
    return sum(busiest) / (sum(counts.values()) or 1)


def overlap(profile: ExpertProfile) -> float | None:
    """The share of choices that the token before had made too; None where no source tells the order."""
    same = sum(pair[0] for pair in profile.again.values())
    total = sum(pair[1] for pair in profile.again.values())
    return same / total if total else None


def pinned_share(profile: ExpertProfile, kept: int) -> float:
    """The share of choices that the busiest `kept` experts of all layers would have served."""
    total = profile.choices
    return sum(list(profile.by_expert().values())[: max(kept, 0)]) / total if total else 0.0


def held_curve(profile: ExpertProfile, slots: int, parts: int = 16) -> tuple[float, ...]:
    """The share of choices that memory for 1, 2, ... of so many parts of all `slots` experts would have served."""
    rooms = [slots * part // parts for part in range(1, parts + 1)]
    latest = msgspec.structs.replace(profile, trace=profile.trace[-CURVE_TRACE:])
    return (*(held_share(latest, room) for room in rooms[:-1]), 1.0)


def held_share(profile: ExpertProfile, kept: int) -> float:
    """The share of choices that `kept` experts would have served: the busiest, or those used last."""
    return max(pinned_share(profile, kept), recent_share(profile.trace, kept) or 0.0)


def recent_share(trace: Sequence[tuple[int, Sequence[int]]], kept: int) -> float | None:
    """The share of a trace's choices that the `kept` experts used last would have served; None for no trace."""
    held: dict[Key, None] = {}
    served = total = 0
    for layer, chosen in trace:
        for expert in chosen:
            total += 1
            key = (layer, expert)
            if key in held:
                served += 1
                del held[key]
            elif len(held) >= kept and held:
                del held[next(iter(held))]
            if kept > 0:
                held[key] = None
    return served / total if total else None
