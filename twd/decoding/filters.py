"""The filters top_k, typical_p, top_p and min_p, in llama.cpp's order: they limit which tokens may be sampled."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twd.decoding.noise import Logits
from twd.wire.job import Sampling

Indices = NDArray[np.intp]
Side = Literal["left", "right"]

_GROUPS = 64
_BUCKETS = 1024
_PER_NAT = 32.0
_NO_MASS_FROM = 200.0
_REACHES = (2.0, 6.0, 12.0)
"""Distances of keys to try first. In most distributions the tokens that matter are within one of these, so that the
many other tokens need no work."""
_LOWEST = float(np.finfo(np.float32).min)


class Candidates(NamedTuple):
    """Token ids in ascending order, and their logits."""

    ids: Indices
    logits: Logits


Filter = Callable[[Logits], Indices]
"""Takes the logits of the candidates; returns the indices of those that stay, in ascending order."""


def everything(logits: Logits) -> Candidates:
    """The whole vocabulary as candidates."""
    return Candidates(_all_ids(len(logits)), logits)


def filters_of(sampling: Sampling) -> tuple[Filter, ...]:
    """The filters for these sampling parameters. No filter ever removes all tokens."""
    wanted: list[Filter] = []
    if sampling.top_k > 0:
        wanted.append(lambda logits: top_k(logits, sampling.top_k))
    if sampling.typical_p < 1.0:
        wanted.append(lambda logits: typical(logits, sampling.typical_p))
    if sampling.top_p < 1.0:
        wanted.append(lambda logits: top_p(logits, sampling.top_p))
    if sampling.min_p > 0.0:
        wanted.append(lambda logits: min_p(logits, sampling.min_p))
    return tuple(wanted)


def narrowed(candidates: Candidates, filters: tuple[Filter, ...]) -> Candidates:
    """The candidates that remain after all filters, applied in order."""
    for keep in filters:
        kept = keep(candidates.logits)
        candidates = Candidates(candidates.ids[kept], candidates.logits[kept])
    return candidates


def top_k(logits: Logits, k: int) -> Indices:
    """The indices of the k highest logits; of equal ones, the lowest indices."""
    if k >= len(logits):
        return _all_ids(len(logits))
    able = np.flatnonzero(logits >= max(_kth_highest_at_least(logits, k), _LOWEST))
    order = np.argsort(-logits[able], kind="stable")[:k]
    return np.sort(able[order])


def min_p(logits: Logits, share: float) -> Indices:
    """The indices of tokens at least `share` times as likely as the likeliest one."""
    return np.flatnonzero(logits >= logits.max() + np.float32(math.log(share)))


def top_p(logits: Logits, share: float) -> Indices:
    """The indices of the fewest likeliest tokens whose probabilities together reach `share`."""
    distance = logits.max() - logits
    mass = np.exp(-distance)
    return _lowest_keys(distance, mass, share * _sum(mass), "left")


def typical(logits: Logits, share: float) -> Indices:
    """The indices of the tokens whose surprise (-log p) is nearest to the expected surprise (the entropy).

    It takes the fewest of them whose probabilities together exceed `share`.
    """
    distance = logits.max() - logits
    mass = np.exp(-distance)
    total = _sum(mass)
    expected = _sum(mass * np.minimum(distance, _NO_MASS_FROM)) / total
    return _lowest_keys(np.abs(distance - np.float32(expected)), mass, share * total, "right")


def _sum(values: Logits) -> float:
    return float(values.sum(dtype=np.float64))


def _lowest_keys(keys: Logits, mass: Logits, goal: float, side: Side) -> Indices:
    """The indices of the lowest keys whose mass together reaches the goal, or exceeds it with side "right"."""
    for reach in _REACHES:
        near = np.flatnonzero(keys <= reach)
        if _sum(mass[near]) > goal:
            return near[_lowest_of(keys[near], mass[near], goal, side)]
    return _lowest_of(keys, mass, goal, side)


def _lowest_of(keys: Logits, mass: Logits, goal: float, side: Side) -> Indices:
    """The same with a histogram: it finds the bucket in which the goal is reached, and sorts only that bucket."""
    bucket = (np.minimum(keys, _BUCKETS / _PER_NAT) * _PER_NAT).astype(np.intp)
    filled = np.cumsum(np.bincount(bucket, weights=mass, minlength=_BUCKETS + 1))
    border = int(np.searchsorted(filled, goal, side=side))
    within = np.flatnonzero(bucket == border)
    within = within[np.argsort(keys[within], kind="stable")]
    before = filled[border - 1] if border else 0.0
    needed = int(np.searchsorted(before + np.cumsum(mass[within], dtype=np.float64), goal, side=side)) + 1
    kept = bucket < border
    kept[within[:needed]] = True
    return np.flatnonzero(kept)


def _kth_highest_at_least(logits: Logits, k: int) -> float:
    """A lower bound of the k-th highest logit: the k-th highest of the maxima of many groups, or that logit itself."""
    per_group = len(logits) // _GROUPS
    if k * 4 > per_group:
        return float(np.partition(logits, -k)[-k])
    maxima = logits[: per_group * _GROUPS].reshape(_GROUPS, per_group).max(axis=0)
    return float(np.partition(maxima, -k)[-k])


@lru_cache(maxsize=8)
def _all_ids(size: int) -> Indices:
    ids = np.arange(size)
    ids.flags.writeable = False
    return ids
