"""A model of plain numpy that can be cut anywhere: every row depends on all rows before it, and no batch changes it."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from twd.decoding.window import Report, Sampler
from twd.engine.context import BatchTokens, Logits
from twd.engine.heads.seat import HeadSeat
from twd.engine.slices.abort import AbortFlag
from twd.engine.slices.report import CheckedText
from twd.engine.slices.undo import UNLIMITED
from twd.ring.frames import SessionSpec, States
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import TokenLogprob

N_EMBD = 16
VOCABULARY = 97
END_TOKEN = 96
LAYERS = 8


def _numbers(seed: int, *shape: int) -> States:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


EMBEDDING = _numbers(1, VOCABULARY, N_EMBD)
HEAD = _numbers(2, VOCABULARY, N_EMBD)
WEIGHTS = [_numbers(10 + layer, N_EMBD, N_EMBD) / np.float32(4) for layer in range(LAYERS)]


class Greedy:
    """Takes the likeliest token; `seed` shifts the choice, so that sessions differ."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The token that follows."""
        return int(np.roll(logits[:END_TOKEN], self._seed).argmax())


def report(logits: Logits, token: int) -> TokenLogprob:
    """Says something that can be compared."""
    return TokenLogprob(token=token, text=str(token), logprob=-float(abs(logits[token])))


class FakeSlice:
    """Layers `first` to `end` of the fake model; `before` is called at the start of each pass."""

    def __init__(
        self, first: int, end: int, *, head: bool = False, slots: int = 4, ctx_size: int = 256, window_max: int = 16
    ) -> None:
        self.n_embd, self.n_slots, self.ctx_size, self.window_max = N_EMBD, slots, ctx_size, window_max
        self.rows_min, self.can_pad, self.undoable = 1, True, UNLIMITED
        self.guesser: HeadSeat | None = None
        self.first, self.end, self.head = first, end, head
        self.vocab_size = VOCABULARY if first == 0 or head else 0
        self.end_tokens = frozenset({END_TOKEN}) if head else frozenset[int]()
        self.before: Callable[[BatchTokens], None] = lambda rows: None
        self.passes = 0
        self.closed = False
        self.aborted = threading.Event()
        self._sums: list[list[States]] = [[] for _ in range(slots)]
        self._logits: list[Logits] = []

    def decode(self, rows: BatchTokens, states: States | None = None, aborted: AbortFlag | None = None) -> States:
        """Row by row, so that it may stop between two of them."""
        assert len(rows) <= self.window_max
        begins = {slot: len(self._sums[slot]) for slot in rows.sequences}
        self.before(rows)
        self.passes += 1
        out, self._logits = np.empty((len(rows), N_EMBD), np.float32), []
        for row, (slot, token, position) in enumerate(zip(rows.sequences, rows.tokens, rows.positions, strict=True)):
            if aborted is not None and aborted.is_set:
                for one, begin in begins.items():
                    del self._sums[one][begin:]
                self.aborted.set()
                raise TwdError(FailureCode.CANCELLED, "the pass was aborted")
            assert position == len(self._sums[slot]), "a gap, or a position twice"
            out[row] = self._row(slot, EMBEDDING[token] if states is None else states[row])
            self._logits.append(HEAD @ out[row] if self.head else out[row])
        return out

    def _row(self, slot: int, state: States) -> States:
        sums = self._sums[slot]
        before = sums[-1] if sums else np.zeros((self.end - self.first, N_EMBD), np.float32)
        after = np.empty_like(before)
        for index, layer in enumerate(range(self.first, self.end)):
            after[index] = before[index] * np.float32(0.7) + state
            state = np.tanh(WEIGHTS[layer] @ after[index]) + state * np.float32(0.1)
        sums.append(after)
        return state

    def choice(self, row: int, sampler: Sampler, history: Sequence[int]) -> int | None:
        return None

    def logits(self, row: int) -> Logits:
        """Of a row of the last pass."""
        return self._logits[row]

    def session(self, spec: SessionSpec) -> tuple[Sampler, Report | None]:
        """A picker for the spec's seed."""
        if spec.check:
            checked = CheckedText(VOCABULARY)
            return checked, checked
        if spec.sampling.temperature:
            raise TwdError(FailureCode.UNSUPPORTED, "the fake model picks greedily")
        return Greedy(spec.seed), None if spec.logprobs is None else report

    def rollback(self, slot: int, position: int) -> bool:
        """Forget rows."""
        del self._sums[slot][position:]
        return True

    def copy(self, source: int, target: int) -> None:
        """Equal caches."""
        self._sums[target] = list(self._sums[source])

    def clear(self, slot: int) -> None:
        """Forget a slot."""
        self._sums[slot].clear()

    def close(self) -> None:
        """Gone."""
        self.closed = True


def fake_text(prompt: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """What the uncut model says, token by token."""
    whole = FakeSlice(0, LAYERS, head=True, ctx_size=1 << 20, window_max=1)
    sampler, said, history = Greedy(seed), list[int](), list(prompt)
    for at in range(len(prompt) + count - 1):
        rows = BatchTokens()
        rows.add(0, at, [history[at]])
        whole.decode(rows)
        if at >= len(prompt) - 1:
            said.append(sampler.pick(whole.logits(0), history))
            history.append(said[-1])
    return said
