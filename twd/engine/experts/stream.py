"""The experts of one loaded model, read from its files while it computes."""

import errno
import logging
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from twd.engine.experts.budget import adapted_budget, spare
from twd.engine.experts.layout import ExpertLayout
from twd.engine.experts.native import ExpertNumbers, NativeExperts, ReadProblem, can_foresee, maps_unread
from twd.engine.experts.overlay import close_files, mapped_fragments, open_files, overlay
from twd.engine.experts.placing import placed_matrices, placed_routers
from twd.engine.host_memory.limits import available_bytes, gib
from twd.kit.progress import Share, unheard
from twd.wire.failures import FailureCode, TwdError

_log = logging.getLogger("twd.engine.experts")
HALF_LIVES: Final = (1.0, 8.0, 64.0, 512.0, 4096.0)
"""How long a use counts, in passes, from "the latest used" to "the most used". A replay chooses one."""
_LOOK_S: Final = 0.25
_PASSES: Final = 100
_BETTER: Final = 0.003
_FORESEEN: Final = 32
"""Tokens of a draft whose experts are read ahead."""
_MANY: Final = 1 << 16
"""More experts than a layer has."""


class ExpertStream:
    """Use it as a context manager around each pass: one pass at a time may compute with the cache."""

    def __init__(self, layout: ExpertLayout, native: NativeExperts, files: Sequence[int]) -> None:
        self.layout = layout
        self.native = native
        self.half_life = 8.0
        self._files = files
        free = available_bytes()
        self._reserve = min(spare(free), max(free - native.numbers().budget, 0))
        self._bounds = layout.layer_bytes(mmap.PAGESIZE), native.numbers().budget
        self._pass = threading.Lock()
        self._closing = threading.Lock()
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="experts", daemon=True)
        native.set_half_life(self.half_life)
        self._keeper.start()

    def __enter__(self) -> Self:
        self._pass.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        problem = self.native.problem()
        self._pass.release()
        if problem is not None:
            raise TwdError(FailureCode.MODEL_LOAD, self._explain(problem))

    def numbers(self) -> ExpertNumbers:
        """Hits and reads since the model was loaded."""
        return self.native.numbers()

    def missing_ms(self, tokens: Sequence[int]) -> list[float]:
        """Milliseconds in which a pass of these tokens will probably read: of the first, of the first two, and so on.

        Empty if the speed of the disk is not known yet.
        """
        speed = self.native.numbers().disk_speed
        return [size * 1000 / speed for size in self.native.missing(tokens)] if speed else []

    def foresee_tokens(self, tokens: Sequence[int]) -> None:
        """Ask for what drafted tokens chose before, if that pays. Numbers that are no tokens are dropped."""
        with self._closing:
            if can_foresee() and not self._ended.is_set():
                self.native.foresee_tokens(tokens[:_FORESEEN])

    def foresee_choices(self, choices: Sequence[Sequence[int]]) -> None:
        """Ask for what a drafter chose for some tokens, if that pays. Each choice has as many experts of each layer."""
        with self._closing:
            if not self._ended.is_set():
                self.native.foresee(*by_layer(choices, len(self.experts_by_layer)))

    def chosen(self, token: int) -> list[int]:
        """The experts that a token chose when it was computed last, layer after layer; empty: not known."""
        with self._closing:
            return [] if self._ended.is_set() else self.native.chosen(token)

    @property
    def experts_by_layer(self) -> tuple[int, ...]:
        """How many experts each of its layers has."""
        return self.native.experts_by_layer

    def set_budget(self, size: int) -> None:
        """Give the experts more or less memory; waits for a pass that runs."""
        with self._pass:
            self.native.set_budget(size)

    def choose(self) -> float:
        """Replay the latest choices, and use the half-life with the most hits from now on. Returns it."""
        budget = self.native.numbers().budget
        shares = {one: self.native.replay(one, budget) for one in HALF_LIVES}
        best = max(shares, key=lambda one: shares[one])
        if shares[best] > shares[self.half_life] + _BETTER:
            _log.info("experts: uses count half after %g passes, %.2f hits by replay", best, shares[best])
            self.half_life = best
            self.native.set_half_life(best)
        return self.half_life

    def close(self) -> None:
        """Stop reading. Call it when no pass runs any more, and before the model's memory is freed."""
        with self._closing:
            self._ended.set()
        self._keeper.join()
        self.native.close()
        close_files(self._files)
        self._files = ()

    def adapt(self, free: int) -> int:
        """Give memory back that others need, where `free` bytes are left, or take it again. Returns the new budget."""
        numbers = self.native.numbers()
        wanted = adapted_budget(numbers.budget, numbers.held_bytes, free, self._bounds, self._reserve)
        if wanted != numbers.budget:
            _log.info("experts: %s of memory instead of %s, %s are free", gib(wanted), gib(numbers.budget), gib(free))
            self.set_budget(wanted)
        return wanted

    def _keep(self) -> None:
        """Look now and then at the free memory and at the latest choices."""
        seen = 0
        while not self._ended.wait(_LOOK_S):
            self.adapt(available_bytes())
            passes = self.native.numbers().passes
            if passes >= seen + _PASSES:
                seen = passes
                self.choose()

    def _explain(self, problem: ReadProblem) -> str:
        path = self.layout.shards[problem.file]
        where = f"experts of {path.name} cannot be read at byte {problem.offset}"
        if problem.code == errno.ENODATA:
            return f"{where}: the file was cut short to {_size(path)} bytes; fetch it again"
        return f"{where}: {os.strerror(problem.code)}; look at the disk, or fetch the file again"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it is gone
        return 0


def by_layer(choices: Sequence[Sequence[int]], layers: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """All experts of these choices, each once, with the layer of each; those of the first layer come first."""
    found = [np.repeat(np.arange(layers), len(one) // layers) * _MANY + np.array(one, np.int64) for one in choices]
    pairs = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return (pairs // _MANY).astype(np.int32), (pairs % _MANY).astype(np.int32)


def open_stream(
    layout: ExpertLayout, budget: int, load: Callable[[], int], progress: Share = unheard
) -> tuple[int, ExpertStream]:
    """Load a model with `load` so that its experts are read while it computes. Returns its handle and the stream."""
    before = set(mapped_fragments(layout.shards))
    with maps_unread():
        handle = load()
    found = [one for one in mapped_fragments(layout.shards) if one not in before]
    files: list[int] = []
    try:
        files = open_files(layout.shards)
        overlay(layout, found, files, progress, all_fits=budget >= layout.padded_bytes(mmap.PAGESIZE))
        matrices = placed_matrices(layout, found)
        if not matrices:
            raise TwdError(FailureCode.UNSUPPORTED, "llama.cpp has not mapped the experts; set moe_stream to off")
        native = NativeExperts(files, matrices, budget)
        native.use_routers(placed_routers(layout, found))
    except BaseException:
        close_files(files)
        _free(handle)
        raise
    return handle, ExpertStream(layout, native, files)


def _free(handle: int) -> None:
    from twd.engine.library import llama

    llama.llama_model_free(handle)
