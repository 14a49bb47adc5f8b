"""A trained head that reads the target's own KV cells (Gemma 4's assistant), and writes none.

All its guesses stand at one position: that of the last token, whose cells the target has not yet. Each guess reads the
one before it, and the hidden state that the head gave for it; the first one reads the target's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from twd.engine.context import Context, ContextSettings, Logits
from twd.engine.heads.head import KEPT, HeadContext, OwnHead
from twd.engine.model import LoadedGguf
from twd.wire.failures import FailureCode, TwdError


class SharedContext(HeadContext):
    """A context that reads the cells of another one. Making it empties those cells."""

    def _wanted(self, target: Context) -> ContextSettings:
        return replace(target.settings, snapshots=0)

    def _cache_bytes(self) -> int:
        return 0


class SharedHead(OwnHead):
    """A head without cells of its own."""

    context_of = SharedContext

    def __init__(self, target: Context, model: LoadedGguf) -> None:
        if target.model.offloads:
            why = "it reads the model's KV cells, and these lie on a card; that was not tried"
            raise TwdError(FailureCode.UNSUPPORTED, f"{model.settings.path.name} guesses on processors alone: {why}")
        super().__init__(target, model)

    def read(self, slot: int, at: int, tokens: Sequence[int], rows: Logits) -> None:
        for row in range(max(0, len(tokens) - KEPT), len(tokens)):
            self._hidden[slot, (at + row) % KEPT] = rows[row]
        self._ends[slot] = at + len(tokens)

    def _back(self, slot: int, position: int) -> None:
        self._ends[slot] = min(self._ends[slot], position)

    def _chain(self, slot: int, at: int, text: Sequence[int], count: int) -> Iterator[Logits]:
        state = self._hidden[slot, (at - 1) % KEPT]
        for _ in range(count):
            logits, state = self._step(slot, at, text[-1], state)
            yield logits
