"""What an agent decides: which changes are news, who may look after a machine, how many requests are too many."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from twd.wire.node import GpuFacts, MemoryFacts, NodeFacts

NEWS_SHARE = 0.05
"""Free memory that moves by less than this share of the whole is no news."""


def is_news(before: NodeFacts | None, after: NodeFacts) -> bool:
    """Whether others should hear of it at once; the registry tells them the rest in time."""
    if before is None or _still(before) != _still(after):
        return True
    if _moved(before.memory.available, after.memory.available, after.memory.total):
        return True
    return any(_moved(old.free, new.free, new.total) for old, new in zip(before.gpus, after.gpus, strict=True))


def _still(facts: NodeFacts) -> NodeFacts:
    """The facts without what moves all the time."""
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
    """Why this agent may not look after its machine; empty when it may take over from whoever did."""
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
    """Every device once: those that the engine sees, by its numbers, with what their makers' tools tell of them.

    These may count them in another order, or see more than it does. What it has no backend for is listed, too.
    """
    pairs = list(zip(engine, _told(vendors, engine), strict=True))
    names = {_plain(gpu.name) for gpu, own in pairs if own is not None}
    once = [_joined(gpu, own) for gpu, own in pairs if own is not None or _plain(gpu.name) not in names]
    backends, known = {gpu.backend for gpu in engine}, {_plain(gpu.name) for gpu in engine}
    rest = [gpu for gpu in vendors if gpu.backend not in backends and _plain(gpu.name) not in known]
    return [*once, *rest]


def _told(vendors: Sequence[GpuFacts], engine: Sequence[GpuFacts]) -> list[GpuFacts | None]:
    """What a maker's tool tells of each of the engine's devices: that of its name, else, where they are equally many of
    a backend, that in its place. Where it knows more of one name than the engine sees, only the engine knows which."""
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
    """Of a chip in the machine's own memory its maker tells what is set aside, the engine what it may use."""
    if own is None:
        return gpu
    if gpu.shared:
        return msgspec.structs.replace(gpu, driver=own.driver)
    return msgspec.structs.replace(own, index=gpu.index, bandwidth=gpu.bandwidth, place=gpu.place)


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
        """0: go on; otherwise how long to wait. A refused request costs nothing."""
        self.level = min(self.burst, self.level + (now - self.at) * self.per_s)
        self.at = now
        if self.level < cost:
            return (cost - self.level) / self.per_s
        self.level -= cost
        return 0.0


@dataclass
class RateLimiter:
    """A bucket for each address; the oldest are forgotten."""

    per_s: float = 20.0
    burst: float = 40.0
    known_max: int = 1024
    buckets: dict[str, TokenBucket] = field(default_factory=dict)

    def wait_s(self, who: str, now: float, cost: float = 1.0) -> float:
        """As Bucket.wait_s, for one address."""
        bucket = self.buckets.pop(who, None) or TokenBucket(self.per_s, self.burst, at=now)
        self.buckets[who] = bucket
        if len(self.buckets) > self.known_max:
            self.buckets.pop(next(iter(self.buckets)))
        return bucket.wait_s(now, cost)
