"""What a pass over layers takes on a device, by what has to be read for it. Plain values in and out.

A step reads each weight once, at the speed of the device's memory; kernels of some kinds of weights reach less of it.
Every layer costs some time besides: its operations begin and end together on all threads, and it reads the cache.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

FORECAST_TOKENS: Final = 256
"""Forecasts are for texts of this length; longer ones read more of the cache."""
CPU_KINDS: Final = (
    ("F32", 1.0), ("F16", 1.0), ("BF16", 1.0), ("Q8_0", 1.0), ("Q5_0", 0.8), ("Q4_0", 0.9), ("IQ4_NL", 0.8),
    ("Q6_K", 0.75), ("Q5_K", 0.75), ("Q4_K", 0.8), ("Q3_K", 0.6), ("Q2_K", 0.6), ("IQ4_XS", 0.7),
)  # fmt: skip
"""How much of the memory's speed a processor's kernels reach."""
OTHER_KIND: Final = 0.5
"""The same of kinds for which only general kernels are there."""
CPU_LAYER_S: Final = 50e-6
CPU_TOKEN_S: Final = 0.8e-3
"""Of each token at home: choosing it, and handing it on."""

Kinds = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a device is: bytes a second in general, the share of that for kinds of weights, the time of a layer."""

    bytes_s: float
    kinds: Kinds = ()
    layer_s: float = 0.0
    slower: Kinds = ()
    """Of models whose weights are mostly of a kind: how many times as long as foretold they were measured to take."""
    usually: float = 1.0
    """The same of all other models."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one token needs of some layers, and of the head where it is there."""

    layers: int
    weight_bytes: int
    kinds: Kinds = ()
    """The share of the layers' bytes that a token reads, by kind; empty: all of them, of no kind in particular."""
    cache_bytes: float = 0.0
    head_bytes: int = 0
    head_kind: str = ""


def seconds(reading: Reading, speed: Speed) -> float:
    """One token's pass over it."""
    weights = reading.weight_bytes * sum(share / _share(speed, kind) for kind, share in _kinds_of(reading))
    head = reading.head_bytes / _share(speed, reading.head_kind)
    times = dict(speed.slower).get(main_kind(reading.kinds), speed.usually)
    return times * ((weights + head + reading.cache_bytes) / speed.bytes_s + reading.layers * speed.layer_s)


def main_kind(kinds: Kinds) -> str:
    """The kind that most of it is of."""
    return max(kinds, key=lambda pair: (pair[1], pair[0]))[0] if kinds else ""


def _kinds_of(reading: Reading) -> Kinds:
    return reading.kinds or (("", 1.0),)


def _share(speed: Speed, kind: str) -> float:
    if not speed.kinds or not kind:
        return 1.0
    return dict(speed.kinds).get(kind, OTHER_KIND)


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole model whose step was measured on a device."""

    reading: Reading
    seconds: float


def learned(speed: Speed, measured: Sequence[Measured]) -> Speed:
    """The speed by what was measured: of the same kind of weights that counts, of others what is usual there."""
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
