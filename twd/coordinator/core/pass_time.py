"""How long a pass over layers takes on a device, by the bytes to read. Plain values in and out.

A step reads each weight once, at the speed of the device's memory; kernels of some kinds of weights reach less of it.
Every layer costs some more time: its operations start and end together on all threads, and it reads the cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

FORECAST_TOKENS: Final = 256
"""Forecasts assume so many tokens in the cache; longer texts read more of it."""
CPU_KINDS: Final = (
    ("F32", 1.0), ("F16", 1.0), ("BF16", 1.0), ("Q8_0", 1.0), ("Q5_0", 0.8), ("Q4_0", 0.9), ("IQ4_NL", 0.8),
    ("Q6_K", 0.75), ("Q5_K", 0.75), ("Q4_K", 0.8), ("Q3_K", 0.6), ("Q2_K", 0.6), ("IQ4_XS", 0.7),
)  # fmt: skip
"""Share of the memory's speed that CPU kernels reach, by kind of weights."""
OTHER_KIND: Final = 0.5
"""The share for kinds of weights that have only general kernels."""
CPU_LAYER_S: Final = 50e-6
CPU_TOKEN_S: Final = 0.8e-3
"""Seconds for each token on the home machine: sampling it, and passing it on."""

DISK_SPEED: Final = 500e6
"""Bytes a second that a disk gives of a model, where that was not measured."""

Kinds = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of a device: bytes a second, the share of that for each kind of weights, seconds for each layer."""

    bytes_s: float
    kinds: Kinds = ()
    layer_s: float = 0.0
    slower: Kinds = ()
    """How many times the forecast models took, by the kind of most of their weights, as measured."""
    usually: float = 1.0
    """The same factor for all other models."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one token reads of some layers, and of the head where it is there."""

    layers: int
    weight_bytes: int
    kinds: Kinds = ()
    """The share of the layers' bytes that a token reads, by kind; empty: all of them, of no kind in particular."""
    cache_bytes: float = 0.0
    head_bytes: int = 0
    head_kind: str = ""


def seconds(reading: Reading, speed: Speed) -> float:
    """Return the seconds of one token's pass over what is read."""
    weights = reading.weight_bytes * sum(share / _share(speed, kind) for kind, share in _kinds_of(reading))
    head = reading.head_bytes / _share(speed, reading.head_kind)
    times = dict(speed.slower).get(main_kind(reading.kinds), speed.usually)
    return times * ((weights + head + reading.cache_bytes) / speed.bytes_s + reading.layers * speed.layer_s)


def main_kind(kinds: Kinds) -> str:
    """Return the kind of most of the weights; empty where none is known."""
    return max(kinds, key=lambda pair: (pair[1], pair[0]))[0] if kinds else ""


def _kinds_of(reading: Reading) -> Kinds:
    return reading.kinds or (("", 1.0),)


def _share(speed: Speed, kind: str) -> float:
    if not speed.kinds or not kind:
        return 1.0
    return dict(speed.kinds).get(kind, OTHER_KIND)


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole model whose step was measured on a device, in seconds."""

    reading: Reading
    seconds: float


def learned(speed: Speed, measured: Sequence[Measured]) -> Speed:
    """Return the speed corrected by measurements: by those of the same kind of weights, else by the median of all
    kinds."""
    ratios: dict[str, list[float]] = {}
    for one in measured:
        foretold = seconds(one.reading, speed)
        if foretold > 0 and one.seconds > 0:
            ratios.setdefault(main_kind(one.reading.kinds), []).append(one.seconds / foretold)
    slower = tuple((kind, median(found)) for kind, found in sorted(ratios.items()))
    return Speed(speed.bytes_s, speed.kinds, speed.layer_s, slower, _middle(times for _, times in slower))


def _middle(values: Iterable[float]) -> float:
    known = list(values)
    return median(known) if known else 1.0


@dataclass(frozen=True, slots=True)
class MixtureShape:
    """Experts that stages may read from disk while they compute: bytes by layer. Empty for dense models, and where none
    may be read."""

    layer_bytes: tuple[int, ...] = ()
    """All experts."""
    disk_bytes: tuple[int, ...] = ()
    """Those that stay on disk by plan."""
    share: float = 1.0
    """Of a layer's experts, those that one token chooses."""
    limit: int = 0
    """The most bytes of experts that one stage keeps in memory; 0: no limit."""
    stream: str = "auto"
    """Whether stages read their experts from disk: auto, on or off."""
    held: tuple[float, ...] = ()
    """The share of choices that memory for the first part of all experts serves, for the first two parts, and so on up
    to all of them. Empty: all experts are chosen alike."""

    def on_disk(self, first: int, end: int) -> int:
        """Return the bytes of some layers' experts that have no place in the memory of their stage."""
        planned, experts = sum(self.disk_bytes[first:end]), sum(self.layer_bytes[first:end])
        return max(planned, experts - self.limit) if self.limit else planned

    def split(self, layer_bytes: Sequence[int], first: int, end: int) -> tuple[int, int]:
        """Return the bytes of some layers in the memory of their stage, and those of experts on its disk."""
        on_disk = self.on_disk(first, end)
        return sum(layer_bytes[first:end]) + sum(self.disk_bytes[first:end]) - on_disk, on_disk

    def memory(self, first: int, end: int, on_disk: int) -> int:
        """Return the memory for the experts of a stage, if so many stay on disk; 0: what is free there."""
        return sum(self.layer_bytes[first:end]) - on_disk if on_disk else self.limit

    def disk_s(self, first: int, end: int, on_disk: int, bytes_s: float, rows: int = 1) -> float:
        """Return the seconds in which a pass of some rows reads experts of these layers. Each row may choose others."""
        missed = on_disk
        if self.held and (experts := sum(self.layer_bytes[first:end])):
            missed = int(experts * (1.0 - self._held_share(1.0 - on_disk / experts)))
        return missed * (1.0 - (1.0 - self.share) ** rows) / bytes_s

    def _held_share(self, memory: float) -> float:
        """Return the share of choices that memory for so much of the experts serves."""
        points, at = (0.0, *self.held), min(max(memory, 0.0), 1.0) * len(self.held)
        low = min(int(at), len(self.held) - 1)
        return points[low] + (at - low) * (points[low + 1] - points[low])


DENSE: Final = MixtureShape()
"""Without experts."""
