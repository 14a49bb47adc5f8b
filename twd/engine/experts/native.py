"""The cache of experts that is built into llama.cpp (contrib/llama/experts.cpp), as Python calls it."""

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from twd.engine.library import find_ggml, ggml, llama
from twd.wire.failures import FailureCode, TwdError

_READERS: Final = 8
_REPLAYED: Final = 2000
_NAMES: Final = (
    "asked",
    "hits",
    "read_bytes",
    "waited_ns",
    "held_bytes",
    "budget",
    "passes",
    "dropped",
    "errors",
    "foreseen",
    "foreseen_used",
)
_FIELDS: Final = 14
_POINTER: Final = ctypes.c_void_p


@dataclass(frozen=True, slots=True)
class ExpertNumbers:
    """What the cache counts. `asked` and `hits` count experts, each once for a pass and a layer."""

    asked: int = 0
    hits: int = 0
    read_bytes: int = 0
    waited_ns: int = 0
    held_bytes: int = 0
    budget: int = 0
    passes: int = 0
    dropped: int = 0
    errors: int = 0
    foreseen: int = 0
    foreseen_used: int = 0

    @property
    def hit_share(self) -> float:
        """The share of wanted experts that were in memory."""
        return self.hits / self.asked if self.asked else 1.0


@dataclass(frozen=True, slots=True)
class PlacedMatrix:
    """A tensor of experts in memory. `layer` is counted without gaps; `file` -1: it is all in memory, only count."""

    address: int
    offset: int
    each: int
    file: int
    layer: int
    experts: int


@dataclass(frozen=True, slots=True)
class ReadProblem:
    """Why experts could not be read: an error number of the system, the file and the place in it."""

    code: int
    file: int
    offset: int


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("data", _POINTER),
        ("offset", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("file", ctypes.c_int32),
        ("layer", ctypes.c_int32),
        ("experts", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    ]


class NativeExperts:
    """A cache of the experts of one model. Without `files`, it only counts. Call `close` when no pass runs any more."""

    def __init__(self, files: Sequence[int], matrices: Sequence[PlacedMatrix], budget: int) -> None:
        numbers = (ctypes.c_int * max(1, len(files)))(*files)
        of = (_Matrix * len(matrices))(
            *(_Matrix(one.address, one.offset, one.each, one.file, one.layer, one.experts) for one in matrices)
        )
        takes: list[type] = [_POINTER, ctypes.c_int, _POINTER, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64]
        make = ggml("twd_experts_open", [*takes, ctypes.c_int], _POINTER)
        self._handle: int | None = make(numbers, len(files), of, len(of), budget, mmap.PAGESIZE, _READERS)
        self.slots = sum({one.layer: one.experts for one in matrices}.values())
        if not self._handle:
            raise TwdError(FailureCode.UNSUPPORTED, "too many mixtures in one process; start another one")

    def numbers(self) -> ExpertNumbers:
        """All counters."""
        into = (ctypes.c_uint64 * _FIELDS)()
        self._call("twd_experts_numbers", [_POINTER], None, into)
        return ExpertNumbers(**dict(zip(_NAMES, into, strict=False)))

    def uses(self) -> npt.NDArray[np.uint64]:
        """For each expert, layer by layer, how many tokens chose it."""
        into = np.zeros(self.slots, np.uint64)
        self._call("twd_experts_uses", [_POINTER, ctypes.c_int], ctypes.c_int, into.ctypes.data, into.size)
        return into

    def set_budget(self, size: int) -> None:
        """Change the memory of the experts. No pass may run."""
        self._call("twd_experts_set_budget", [ctypes.c_uint64], None, size)

    def set_half_life(self, passes: float) -> None:
        """After how many passes a use counts half: few keep the latest used experts, many the most used."""
        self._call("twd_experts_set_half_life", [ctypes.c_double], None, passes)

    def replay(self, half_life: float, budget: int, passes: int = _REPLAYED, counted: float = 0.75) -> float:
        """The share of hits that choices of the latest passes would have had, in the `counted` last part of them."""
        types: list[type] = [ctypes.c_double, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_double]
        values = (half_life, budget, passes, counted)
        return float(self._call("twd_experts_replay", types, ctypes.c_double, *values))

    def foresee(self, layers: npt.NDArray[np.int32], numbers: npt.NDArray[np.int32]) -> int:
        """Ask for experts that may be wanted soon. Returns how many of them are read now."""
        types: list[type] = [_POINTER, _POINTER, ctypes.c_int]
        asked = (layers.ctypes.data, numbers.ctypes.data, layers.size)
        return int(self._call("twd_experts_foresee", types, ctypes.c_int, *asked))

    def problem(self) -> ReadProblem | None:
        """Why reading failed since the last call. What could not be read is asked for again when it is wanted."""
        into = (ctypes.c_uint64 * 3)()
        count = self._call("twd_experts_forgive", [_POINTER], ctypes.c_int, into)
        return ReadProblem(*into) if count else None

    def close(self) -> None:
        """Stop reading. A second call does nothing."""
        if self._handle:
            self._call("twd_experts_close", [], None)
            self._handle = None

    def _call(self, name: str, types: list[type], result: type | None, *values: object) -> Any:
        return ggml(name, [_POINTER, *types], result)(self._handle, *values)


@cache
def can_stream() -> bool:
    """Whether this build of llama.cpp has the cache."""
    return find_ggml("twd_experts_open", [], _POINTER) is not None


@contextmanager
def maps_unread() -> Iterator[None]:
    """While this is open, llama.cpp maps files without reading them, if its build can do that."""
    switch = _switch()
    if switch is None:
        yield
        return
    switch(False)
    try:
        yield
    finally:
        switch(True)


def _switch() -> Any:
    """The function of the very library that the bindings have loaded; None if its build lacks it."""
    switch = getattr(llama._lib, "twd_map_reads", None)
    if switch is not None:
        switch.argtypes, switch.restype = [ctypes.c_bool], None
    return switch
