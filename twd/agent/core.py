"""Decisions of an agent: which changes to publish at once, who may manage a machine, and how many requests are too
many."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from twd.wire.node import GpuFacts, MeasuredStep, MemoryFacts, NodeFacts

NEWS_SHARE = 0.05
"""Publish a change of free memory at once only if it is more than this share of the total."""


def is_news(before: NodeFacts | None, after: NodeFacts) -> bool:
    """Whether to publish a change at once; smaller changes reach the registry when the lease is renewed."""
    if before is None or _still(before) != _still(after):
        return True
    if _moved(before.memory.available, after.memory.available, after.memory.total):
        return True
    return any(_moved(old.free, new.free, new.total) for old, new in zip(before.gpus, after.gpus, strict=True))


def _still(facts: NodeFacts) -> NodeFacts:
    """Return the facts without the values that change all the time."""
    return msgspec.structs.replace(
        facts,
        memory=MemoryFacts(total=facts.memory.total, swap_total=facts.memory.swap_total),
        gpus=[msgspec.structs.replace(gpu, free=0) for gpu in facts.gpus],
        disks=[msgspec.structs.replace(disk, free=_coarse(disk.free, disk.total)) for disk in facts.disks],
    )


def _coarse(free: int, total: int) -> int:
    return free * 20 // total if total else 0


def _moved(before: int, after: int, total: int) -> bool:
    return abs(after - before) > NEWS_SHARE * total


def refusal(holder: NodeFacts | None, mine: NodeFacts, holder_lives: bool) -> str:
    """Return why this agent may not manage its machine; empty when it may take over from the last holder."""
    if holder is None or holder.instance == mine.instance:
        return ""
    if holder.machine != mine.machine:
        return (
            f"another machine ({holder.hostname or 'unknown'}, {holder.platform}) is on this bus as {mine.node!r}. Set "
            "`node:` (TWD_NODE) to a name of its own on one of the two; if that machine is gone, wait ten seconds"
        )
    if holder_lives and holder.pid != mine.pid:
        return f"an agent (pid {holder.pid}) looks after this machine already; end it, or leave this one out"
    return ""


def merge_gpus(vendors: Sequence[GpuFacts], engine: Sequence[GpuFacts]) -> list[GpuFacts]:
    """Return every device once: the engine's devices in its order, with details from the vendors' tools.

    The tools may number devices in another order, or see more of them than the engine does. Devices that the engine has
    no backend for are listed, too.
    """
    pairs = list(zip(engine, _told(vendors, engine), strict=True))
    names = {_plain(gpu.name) for gpu, own in pairs if own is not None}
    once = [_joined(gpu, own) for gpu, own in pairs if own is not None or _plain(gpu.name) not in names]
    backends, known = {gpu.backend for gpu in engine}, {_plain(gpu.name) for gpu in engine}
    rest = [gpu for gpu in vendors if gpu.backend not in backends and _plain(gpu.name) not in known]
    return [*once, *rest]


def _told(vendors: Sequence[GpuFacts], engine: Sequence[GpuFacts]) -> list[GpuFacts | None]:
    """For each of the engine's devices return the one of a vendor's tool, or None. They match by backend and name; else
    by position, where both sides have equally many unmatched devices of a backend. Where the tool knows more devices of
    one name than the engine sees, the engine's own facts are taken."""
    left, told = list(vendors), list[GpuFacts | None]()
    known, seen = Counter(map(_kind, vendors)), Counter(map(_kind, engine))
    for gpu in engine:
        if known[_kind(gpu)] > seen[_kind(gpu)]:
            told.append(gpu)
            continue
        told.append(next((one for one in left if _kind(one) == _kind(gpu)), None))
        if told[-1] is not None:
            left.remove(told[-1])
    for backend in {gpu.backend for gpu in left}:
        rest = [one for one in left if one.backend == backend]
        open_ = [at for at, gpu in enumerate(engine) if gpu.backend == backend and told[at] is None]
        if len(rest) == len(open_):
            for at, one in zip(open_, rest, strict=True):
                told[at] = one
    return told


def _joined(gpu: GpuFacts, own: GpuFacts | None) -> GpuFacts:
    """Join both views of a device. For a GPU in the machine's own memory the vendor's tool tells only the part set
    aside, so the engine's sizes count."""
    if own is None:
        return gpu
    if gpu.shared:
        return msgspec.structs.replace(gpu, driver=own.driver)
    return msgspec.structs.replace(
        own, index=gpu.index, bandwidth=gpu.bandwidth, place=gpu.place, device=gpu.device, measured=gpu.measured
    )


def with_steps(gpus: Sequence[GpuFacts], steps: Sequence[MeasuredStep]) -> list[GpuFacts]:
    """Return the devices, each with the steps that were measured on it."""
    return [
        msgspec.structs.replace(gpu, measured=[step for step in steps if step.device == gpu.device and gpu.device])
        for gpu in gpus
    ]


def _kind(gpu: GpuFacts) -> tuple[str, str]:
    return gpu.backend, _plain(gpu.name)


def _plain(name: str) -> str:
    return "".join(name.lower().replace("(tm)", "").replace("nvidia", "").split())


@dataclass
class TokenBucket:
    """Allows `burst` requests at once and `per_s` in the long run."""

    per_s: float
    burst: float
    level: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def wait_s(self, now: float, cost: float = 1.0) -> float:
        """Return 0 if the request may go on, otherwise the seconds to wait. A refused request costs nothing."""
        self.level = min(self.burst, self.level + (now - self.at) * self.per_s)
        self.at = now
        if self.level < cost:
            return (cost - self.level) / self.per_s
        self.level -= cost
        return 0.0


@dataclass
class RateLimiter:
    """One bucket for each address; the addresses that were not used for longest are forgotten."""

    per_s: float = 20.0
    burst: float = 40.0
    known_max: int = 1024
    buckets: dict[str, TokenBucket] = field(default_factory=dict)

    def wait_s(self, who: str, now: float, cost: float = 1.0) -> float:
        """Like `TokenBucket.wait_s`, for one address."""
        bucket = self.buckets.pop(who, None) or TokenBucket(self.per_s, self.burst, at=now)
        self.buckets[who] = bucket
        if len(self.buckets) > self.known_max:
            self.buckets.pop(next(iter(self.buckets)))
        return bucket.wait_s(now, cost)
