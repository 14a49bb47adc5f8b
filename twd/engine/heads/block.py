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
from twd.gguf_tools.block_head import BLOCK, BlockFacts

_ROUNDS = 3


class BlockContext(HeadContext):
    """A context that takes either tokens or inputs of the target's layers. Tokens of a pass see each other, if the file
    does not say otherwise."""

    _reads_both = False

    def __init__(self, target: Context, model: LoadedGguf) -> None:
        super().__init__(target, model)
        llama.llama_set_causal_attn(self.handle, model.info.metadata.get(f"{BLOCK}.attention.causal") is True)


class BlockHead(EagleHead):
    """A head that guesses a block at once."""

    behind = 0
    context_of = BlockContext

    def __init__(self, target: Context, model: LoadedGguf, facts: BlockFacts) -> None:
        self._facts, self._most = facts, min(facts.most, target.settings.ubatch - facts.first)
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
        for row in self._block(slot, at, text[-1], count):
            yield self._context.logits(row).copy()

    def _block(self, slot: int, at: int, last: int, count: int) -> range:
        """Compute a block behind the last token, and return its rows with a guess."""
        first = self._facts.first
        guesses = range(first, first + min(count, self._most))
        rows, masks = BatchTokens(), [self._facts.mask] * (guesses.stop - 1)
        rows.add(slot, at, [last, *masks], output_from=0 if self._gives_outputs else guesses.stop)
        self._context.decode(rows)
        return guesses

    def _measured(self) -> float:
        """The milliseconds of a whole block, for each token of it."""
        taken = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            list(self._chain(0, 0, [0], self._most))
            taken.append((time.perf_counter() - began) * 1000)
            self._back(0, 0)
        return min(taken) / self._most
