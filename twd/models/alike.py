"""Which tensors of a file on a hub a model of this machine seems to have: those of the same name, type and shape.

A hub tells the hash of the whole file alone. A few bytes of each large tensor are read there and compared; what is
taken then is a guess until the whole file has the SHA-256 that the hub promised.
"""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from twd.gguf_tools.header import BrokenGguf, GgufHeader, read_header
from twd.models.reuse import LocalRange
from twd.models.stores import StoredModel

LARGE_BYTES: Final = 64 * 1024
"""Smaller tensors are not compared: they are taken where the large ones around them are the same."""
WORTH_BYTES: Final = 8 << 20
"""A model that has less in common is passed by."""
MODELS_MAX: Final = 8
FILES_MAX: Final = 256
FIRST_PROBES: Final = 3
PROBES_BYTES_MAX: Final = 512 * 1024
"""The most bytes that are read to compare with one model."""
PROBE_BYTES: Final = (256, 4096)
"""The least and the most bytes of one comparison."""


class AlikeModel(NamedTuple):
    """A model of this machine, and the ranges of the wanted file whose tensors it seems to have, in order."""

    ranges: list[LocalRange]

    @property
    def large(self) -> list[LocalRange]:
        """The ranges that are worth a comparison."""
        return [one for one in self.ranges if one.end - one.begin >= LARGE_BYTES]


def alike_models(wanted: GgufHeader, models: Iterable[StoredModel], own: Collection[Path]) -> list[AlikeModel]:
    """Return the models that have most in common with the wanted file, the best first; blocks."""
    found = []
    for number, model in enumerate(models):
        if number >= FILES_MAX:
            break
        ranges = [] if model.path in own else alike_ranges(wanted, model)
        size = sum(one.end - one.begin for one in ranges)
        if size >= WORTH_BYTES:
            found.append((-size, number, AlikeModel(ranges)))
    return [one for _, _, one in sorted(found)[:MODELS_MAX]]


def alike_ranges(wanted: GgufHeader, model: StoredModel) -> list[LocalRange]:
    """Return where tensors of the same name, type and shape lie."""
    try:
        header = read_header(model.path)
    except BrokenGguf:
        return []
    there = {(one.name, one.kind, one.shape): header.data_offset + one.offset for one in header.tensors}
    found = []
    for one in wanted.tensors:
        offset, begin = there.get((one.name, one.kind, one.shape)), wanted.data_offset + one.offset
        if offset is not None and one.size_bytes:
            found.append(LocalRange(begin, begin + one.size_bytes, offset, model.path, model.store))
    return sorted(found)


def probe_of(one: LocalRange, count: int) -> LocalRange:
    """Return the few bytes in the middle of a tensor by which it is compared, one of so many."""
    least, most = PROBE_BYTES
    size = min(one.end - one.begin, max(least, min(most, PROBES_BYTES_MAX // max(1, count))))
    ahead = (one.end - one.begin - size) // 2
    return one._replace(begin=one.begin + ahead, end=one.begin + ahead + size, offset=one.offset + ahead)


def first_probes(large: Sequence[LocalRange]) -> list[LocalRange]:
    """Return a few tensors that show at once whether this is another model of the same shape."""
    step = max(1, len(large) // FIRST_PROBES)
    return list(large[step // 2 :: step][:FIRST_PROBES])


def same_ranges(wanted: GgufHeader, model: AlikeModel, same: Collection[int]) -> list[LocalRange]:
    """Return what is taken from a model. `same`: where the large tensors begin that were compared, and are equal."""
    begins = sorted(wanted.data_offset + one.offset for one in wanted.tensors if one.size_bytes >= LARGE_BYTES)
    taken, at = [], 0
    for one in model.ranges:
        while at < len(begins) and begins[at] < one.begin:
            at += 1
        around = (
            [one.begin] if one.end - one.begin >= LARGE_BYTES else [*begins[max(0, at - 1) : at], *begins[at : at + 1]]
        )
        if around and all(begin in same for begin in around):
            taken.append(one)
    return taken
