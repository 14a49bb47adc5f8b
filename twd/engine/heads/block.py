"""A trained head that guesses a block of tokens in one pass (DFlash), from the inputs of some of the target's layers.

What the target computed goes into its KV cells. A guess is one pass over the last token and as many masks as tokens are
wanted; each of them sees all others.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from twd.engine.context import BatchTokens, Context, Logits
from twd.engine.heads.eagle import EagleHead
from twd.engine.heads.head import HeadContext
from twd.engine.library import llama
from twd.engine.model import LoadedGguf
from twd.gguf_tools.head_file import BlockFacts

_ROUNDS = 3


class BlockContext(HeadContext):
    """A context that takes either tokens or inputs of the target's layers. Tokens of a pass see each other."""

    _reads_both = False

    def __init__(self, target: Context, model: LoadedGguf) -> None:
        super().__init__(target, model)
        llama.llama_set_causal_attn(self.handle, False)


class BlockHead(EagleHead):
    """A head that guesses a block at once."""

    behind = 0
    context_of = BlockContext

    def __init__(self, target: Context, model: LoadedGguf, facts: BlockFacts) -> None:
        self._mask, self._most = facts.mask, facts.size - 1
        super().__init__(target, model, facts.layers)

    def read(self, slot: int, at: int, tokens: Sequence[int], rows: Logits) -> None:
        self._back(slot, at if at <= self._ends[slot] else 0)
        size = self._context.settings.ubatch
        for start in range(0, len(tokens), size):
            part = BatchTokens()
            part.add(slot, at + start, tokens[start : start + size], output_from=size)
            self._context.decode(part, np.ascontiguousarray(rows[start : start + size], np.float32))
        self._ends[slot] = at + len(tokens)

    def _chain(self, slot: int, at: int, text: Sequence[int], count: int) -> Iterator[Logits]:
        count = min(count, self._most)
        rows = BatchTokens()
        rows.add(slot, at, [text[-1], *[self._mask] * count])
        self._context.decode(rows)
        for row in range(1, count + 1):
            yield self._context.logits(row).copy()

    def _measured(self) -> float:
        """The milliseconds of a whole block, for each token of it."""
        taken = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            list(self._chain(0, 0, [0], self._most))
            taken.append((time.perf_counter() - began) * 1000)
            self._back(0, 0)
        return min(taken) / self._most
