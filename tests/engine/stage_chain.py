"""A model cut into slices and run stage after stage in this process, to be compared with the whole."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from twd.engine.context import BatchTokens, Logits
from twd.engine.slices.engine import StageEngine, StagePlan
from twd.gguf_tools.inspect import inspect
from twd.gguf_tools.slice import write_slice

Piece = tuple[int, Sequence[int]]
"""A position, and the tokens from there on."""


class Chain:
    """Stages in order; `cuts` are the borders between them, the last one doubled where the head stands alone."""

    def __init__(self, source: Path, cuts: Sequence[int], folder: Path, **plan: object) -> None:
        layers = inspect(source).layers
        borders = (0, *cuts, layers)
        self._stack = ExitStack()
        self.stages: list[StageEngine] = []
        for first, end in pairwise(borders):
            head = len(self.stages) == len(borders) - 2
            path = source
            if cuts:
                path = folder / f"{source.stem}-{first}-{end}{'-head' if head else ''}.gguf"
                write_slice(source, first, end, path, head=head)
            one = StageEngine.load(StagePlan(path, first, end, layers, head, **plan))  # type: ignore[arg-type]
            self.stages.append(self._stack.enter_context(one))

    def run(self, at: int, tokens: Sequence[int], slot: int = 0) -> Logits:
        """One pass of one slot; the logits of all its rows."""
        return self.run_all({slot: (at, tokens)})[slot]

    def run_all(self, pieces: dict[int, Piece], padding: int = 0) -> dict[int, Logits]:
        """One pass of neighbouring slots, with some throw-away rows behind each."""
        rows, starts = BatchTokens(), {}
        for slot, (at, tokens) in pieces.items():
            starts[slot] = len(rows)
            rows.add(slot, at, tokens)
            rows.add(slot, at + len(tokens), [0] * padding, padding)
        states = None
        for stage in self.stages:
            states = stage.decode(rows, states)
        head = self.stages[-1]
        found = {
            slot: np.array([head.logits(starts[slot] + row) for row in range(len(tokens))])
            for slot, (_, tokens) in pieces.items()
        }
        if padding:
            for slot, (at, tokens) in pieces.items():
                self.rollback(slot, at + len(tokens))
        return found

    def rollback(self, slot: int, position: int) -> None:
        for stage in self.stages:
            assert stage.rollback(slot, position)

    def clear(self) -> None:
        for stage in self.stages:
            for slot in range(stage.n_slots):
                stage.clear(slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def windows_of(chain: Chain, tokens: Sequence[int], widths: Sequence[int], wrong: int = 0) -> Logits:
    """The logits of a text fed in windows; before each, a window of wrong tokens is fed and taken back."""
    seen, at = [], 0
    for width in widths:
        if wrong:
            chain.run(at, [wrong] * (width + 1))
            chain.rollback(0, at)
        seen.append(chain.run(at, tokens[at : at + width]))
        at += width
    return np.concatenate(seen)
