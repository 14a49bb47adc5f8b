"""The cache of experts that is built into llama.cpp (contrib/llama/experts.cpp), as Python calls it."""

import ctypes
import enum
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
_TOKENS: Final = 1 << 31
_REPLAYED: Final = 2000
_CHOSEN: Final = 16
"""The most experts of a token and layer that are remembered."""
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
_LATER_NAMES: Final = ("reading_ns", "foresight", "table_asked", "table_right", "rows")
"""They come behind the figures of the last error."""
_ERROR: Final = 3
_FIELDS: Final = len(_NAMES) + _ERROR + len(_LATER_NAMES)
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
    reading_ns: int = 0
    foresight: int = 0
    """1 if experts are read ahead now."""
    table_asked: int = 0
    table_right: int = 0
    """How many of the choices of tokens that were computed before were the same as then."""
    rows: int = 0

    @property
    def disk_speed(self) -> float:
        """Bytes a second while something was read; 0: nothing was."""
        return self.read_bytes * 1e9 / self.reading_ns if self.reading_ns else 0.0


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
class PlacedRouter:
    """The floats of a layer's router in memory, by their addresses; 0 where there are none."""

    weights: int
    norm: int
    bias: int
    choice: int
    layer: int
    experts: int
    width: int


class Foresight(enum.IntEnum):
    """Whether experts are read before they are wanted; TRY measures whether that is quicker, while it computes."""

    OFF = 0
    TRY = 1
    ON = 2


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


_ROUTER_FIELDS: Final = ("weights", "norm", "bias", "choice", "layer", "experts", "width")


class _Router(ctypes.Structure):
    _fields_ = [
        *((name, _POINTER) for name in _ROUTER_FIELDS[:4]),
        *((name, ctypes.c_int32) for name in (*_ROUTER_FIELDS[4:], "unused")),
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
        counts = {one.layer: one.experts for one in matrices}
        self.experts_by_layer = tuple(counts[layer] for layer in sorted(counts))
        self.slots = sum(self.experts_by_layer)
        if not self._handle:
            raise TwdError(FailureCode.UNSUPPORTED, "too many mixtures in one process; start another one")

    def numbers(self) -> ExpertNumbers:
        """All counters."""
        into = (ctypes.c_uint64 * _FIELDS)()
        self._call("twd_experts_numbers", [_POINTER], None, into)
        told = [*into[: len(_NAMES)], *into[len(_NAMES) + _ERROR :]]
        return ExpertNumbers(**dict(zip((*_NAMES, *_LATER_NAMES), told, strict=True)))

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
        """Ask for experts that the next pass may want, if that pays. Returns how many of them are read now."""
        types: list[type] = [_POINTER, _POINTER, ctypes.c_int]
        asked = (layers.ctypes.data, numbers.ctypes.data, layers.size)
        return int(self._call("twd_experts_foresee", types, ctypes.c_int, *asked))

    def foresee_tokens(self, tokens: Sequence[int]) -> int:
        """Ask for what these tokens chose when they were computed last. Returns how many experts are read now."""
        given = _tokens(tokens)
        types: list[type] = [_POINTER, ctypes.c_int]
        return int(self._call("twd_experts_foresee_tokens", types, ctypes.c_int, given.ctypes.data, given.size))

    def chosen(self, token: int) -> list[int]:
        """The experts that a token chose when it was computed last, layer after layer; empty: not known."""
        if not 0 <= token < _TOKENS or not can_tell_choices():
            return []
        into = np.full((len(self.experts_by_layer), _CHOSEN), -1, np.int16)
        self._call("twd_experts_chosen", [ctypes.c_int32, _POINTER], ctypes.c_int, token, into.ctypes.data)
        known = into[:, : int((into[0] >= 0).sum())]
        return [int(one) for one in known.flat] if (known >= 0).all() else []

    def tell_tokens(self, tokens: npt.NDArray[np.int32], outputs: npt.NDArray[np.int8]) -> None:
        """Tell the tokens of the next pass, and which of them give logits, so that what they choose is known later."""
        if can_tell_choices():
            types: list[type] = [_POINTER, _POINTER, ctypes.c_int]
            self._call("twd_experts_tell_rows", types, None, tokens.ctypes.data, outputs.ctypes.data, tokens.size)
        elif can_foresee():
            self._call("twd_experts_tell_tokens", [_POINTER, ctypes.c_int], None, tokens.ctypes.data, tokens.size)

    def missing(self, tokens: Sequence[int]) -> list[int]:
        """How many bytes a pass of these tokens will probably read: of the first, of the first two, and so on."""
        given, into = _tokens(tokens), np.zeros(len(tokens), np.uint64)
        types: list[type] = [_POINTER, ctypes.c_int, _POINTER]
        self._call("twd_experts_missing", types, None, given.ctypes.data, given.size, into.ctypes.data)
        return [int(size) for size in into]

    def use_routers(self, routers: Sequence[PlacedRouter]) -> None:
        """Let the routers of later layers foretell their choice."""
        if routers and can_foresee():
            given = (_Router * len(routers))(
                *(_Router(*(getattr(one, name) for name in _ROUTER_FIELDS)) for one in routers)
            )
            self._call("twd_experts_use_routers", [_POINTER, ctypes.c_int], None, given, len(given))

    def set_foresight(self, how: Foresight) -> None:
        """Whether to read ahead."""
        if can_foresee():
            self._call("twd_experts_set_foresight", [ctypes.c_int], None, int(how))

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


@cache
def can_foresee() -> bool:
    """Whether this build can foretell what will be chosen; one that was made before cannot."""
    return find_ggml("twd_experts_tell_tokens", [], None) is not None


@cache
def can_tell_choices() -> bool:
    """Whether this build tells what a token chose, and takes such choices; one that was made before cannot."""
    return find_ggml("twd_experts_chosen", [], ctypes.c_int) is not None


def _tokens(tokens: Sequence[int]) -> npt.NDArray[np.int32]:
    """Numbers that are no tokens, from a hostile drafter, become -1, which nothing is known of."""
    return np.array([token if 0 <= token < _TOKENS else -1 for token in tokens], np.int32)


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
