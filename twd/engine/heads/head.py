"""A head of the target's own file (multi-token prediction): it guesses tokens from the target's hidden states.

It runs in a second context of the same model. At each position it reads the token there and the hidden state of the
token before. It never decides anything: its guesses are verified like those of any drafter.
"""

import ctypes
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from twd.decoding.window import Sampler
from twd.engine.context import BatchTokens, CacheLayout, Context, ContextSettings, Logits
from twd.engine.heads.binding import give_hidden_rows, heads_available, hidden_row, hidden_rows, use_head_layer
from twd.engine.library import llama
from twd.engine.model import LoadedGguf
from twd.gguf_tools.head_file import own_head_problem
from twd.wire.failures import FailureCode, TwdError

KEPT: Final = 128
"""How many of the last hidden states of a slot are kept: it may go back by a window."""
_WAITING: Final = 16
"""So many tokens at most wait for the next guess, to be computed in one pass with it."""
_ROUNDS: Final = 3


class GuessingHead(Protocol):
    """What a target wants of a head."""

    name: str
    """What status calls it."""
    step_ms: float
    """The milliseconds of one guess."""

    def pass_rows(self, count: int) -> Logits:
        """The hidden states of the target's last pass, which had `count` tokens: a view that the next pass
        overwrites."""
        ...

    def read(self, slot: int, at: int, tokens: Sequence[int], rows: Logits) -> None:
        """Read tokens of a slot from position `at` on, with the target's hidden states of them."""
        ...

    def guess(
        self, slot: int, tokens: Sequence[int], count: int, sampler: Sampler, least: float = 0.0
    ) -> tuple[list[int], list[float]]:
        """The next tokens behind `tokens`, of which the head has read all but the last; and how sure it is of each.

        It ends before `count` where the chance that all of them are right falls below `least`.
        """
        ...

    def forget(self, slot: int) -> None:
        """Begin anew with a slot: its text is another one now."""
        ...

    def use_threads(self, threads: int) -> None:
        """Compute with this number of threads from now on."""
        ...

    def close(self) -> None:
        """Free the memory. A second call does nothing."""
        ...


class HeadContext(Context):
    """A context that computes a head alone. Its sessions share one buffer: nobody needs exact guesses."""

    _reads_both = True

    def __init__(self, target: Context, model: LoadedGguf) -> None:
        self._target = target
        self._predicts = model.head_layers > 0
        """Whether the model has layers of multi-token prediction, which need a kind of context of their own."""
        super().__init__(model, self._wanted(target))

    def _wanted(self, target: Context) -> ContextSettings:
        return replace(target.settings, layout=CacheLayout.UNIFIED, snapshots=0, type_k="f16", type_v="f16")

    def _parameters(self) -> ctypes.Structure:
        parameters = super()._parameters()
        if self._predicts:
            parameters.ctx_type = llama.LLAMA_CONTEXT_TYPE_MTP
            parameters.offload_kqv = not self.model.settings.host_tensors  # its layers are in this machine's memory
        parameters.ctx_other = self._target.handle
        return parameters

    def _cache_bytes(self) -> int:
        info = self.model.info
        layers = info.head_layers if self._predicts else info.kv_layers
        return super()._cache_bytes() // max(info.kv_layers, 1) * layers


@dataclass
class _Waiting:
    """Tokens of a slot that the head has to read, each with the hidden state of the token before."""

    tokens: list[int]
    before: Logits

    def add(self, tokens: Sequence[int], before: Logits) -> None:
        """Wait with these, too."""
        self.tokens += tokens
        self.before = np.concatenate((self.before, before))

    def drop(self, count: int) -> None:
        """Forget the last `count` tokens."""
        kept = len(self.tokens) - min(max(count, 0), len(self.tokens))
        self.tokens, self.before = self.tokens[:kept], self.before[:kept]

    def take(self) -> tuple[list[int], Logits]:
        """All of them; none waits any more."""
        taken = self.tokens, self.before
        self.tokens, self.before = [], self.before[:0]
        return taken


class OwnHead:
    """The head of one target. For the target's thread only."""

    name = "its own head"
    context_of: type[HeadContext] = HeadContext
    behind = 0
    """How many places before a token the head keeps it."""
    _gives_all = False
    """Whether llama.cpp gives outputs of all tokens of a pass or of none."""
    _waits = True
    """Whether tokens that it reads may wait for the next guess."""
    _gives_outputs = True
    """Whether llama.cpp gives rows of outputs of its passes, and not of all tokens."""

    def __init__(self, target: Context, file: LoadedGguf | None = None) -> None:
        """`file`: the model that holds the head, if it is not the target's; it is freed with the head."""
        model, settings = file or target.model, target.settings
        if file is not None:
            self.name = f"the head {file.settings.path.name}"
        self._file = file
        self._target = target
        self._width = int(llama.llama_model_n_embd_out(model.handle))
        self._context = self.context_of(target, model)
        self._ends = [0] * settings.parallel
        """For each slot, how many tokens the head has read."""
        self._hidden = np.zeros((settings.parallel, KEPT, self._width), np.float32)
        self._waiting = [_Waiting([], self._hidden[0, :0]) for _ in range(settings.parallel)]
        self._want_rows()
        give_hidden_rows(self._context.handle, outputs_only=self._gives_outputs)
        self.step_ms = self._measured()

    def _want_rows(self) -> None:
        """Make the target give out what the head reads."""
        give_hidden_rows(self._target.handle, outputs_only=False)

    def pass_rows(self, count: int) -> Logits:
        address = hidden_rows(self._target.handle)
        if not address:
            raise TwdError(FailureCode.INTERNAL, "the last pass gave no hidden states")
        row = ctypes.c_float * (self._width * count)
        return np.ctypeslib.as_array(row.from_address(address)).reshape(count, self._width)

    def read(self, slot: int, at: int, tokens: Sequence[int], rows: Logits) -> None:
        self._back(slot, at if at <= self._ends[slot] else 0)  # llama.cpp refuses gaps
        before = np.concatenate((self._hidden[slot, (at - 1) % KEPT][None], rows[: len(tokens) - 1]))
        for row in range(max(0, len(tokens) - KEPT), len(tokens)):
            self._hidden[slot, (at + row) % KEPT] = rows[row]
        waiting, self._ends[slot] = self._waiting[slot], at + len(tokens)
        waiting.add(tokens, before)
        if not self._waits or len(waiting.tokens) > min(_WAITING, self._context.settings.ubatch - 1):
            self._decode_all(slot, self._ends[slot] - len(waiting.tokens), *waiting.take())

    def _decode_all(self, slot: int, at: int, tokens: Sequence[int], before: Logits) -> None:
        """Compute tokens from position `at` on without outputs, each with the hidden state of the token before."""
        size, begin = self._context.settings.ubatch, max(at - self.behind, 0)
        tokens, before = self._placed(at, tokens, before)
        for start in range(0, len(tokens), size):
            part = BatchTokens()
            part.add(slot, begin + start, tokens[start : start + size], output_from=size)
            self._context.decode(part, np.ascontiguousarray(before[start : start + size]))

    def guess(
        self, slot: int, tokens: Sequence[int], count: int, sampler: Sampler, least: float = 0.0
    ) -> tuple[list[int], list[float]]:
        """The same, picked with the session's own sampler, and so with its noise."""
        at = self._ends[slot]
        guesses: list[int] = []
        sure: list[float] = []
        if at != len(tokens) - 1:
            return guesses, sure
        text, chance = list(tokens), 1.0
        try:
            for logits in self._chain(slot, at, text, count):
                token = sampler.pick(logits, text)
                guesses.append(token)
                sure.append(self._sure(len(sure), logits, token))
                text.append(token)
                chance *= sure[-1]
                if chance < least:
                    break
        finally:
            self._back(slot, at)
        return guesses, sure

    def forget(self, slot: int) -> None:
        self._back(slot, 0)

    def use_threads(self, threads: int) -> None:
        self._context.use_threads(threads)

    def close(self) -> None:
        self._context.close()
        if self._file is not None:
            self._file.close()

    def _back(self, slot: int, position: int) -> None:
        self._waiting[slot].drop(self._ends[slot] - position)
        self._context.rollback(slot, max(position - self.behind, 0))
        self._ends[slot] = min(self._ends[slot], position)

    def _sure(self, number: int, logits: Logits, token: int) -> float:
        """How sure it is of a guess. `number`: how many it made before."""
        return _share(logits, token)

    def _chain(self, slot: int, at: int, text: Sequence[int], count: int) -> Iterator[Logits]:
        """The logits behind `text`, which grows by one token after each."""
        state = self._hidden[slot, (at - 1) % KEPT]
        for step in range(count):
            logits, state = self._step(slot, at + step, text[-1], state)
            yield logits

    def _step(self, slot: int, at: int, token: int, state: Logits) -> tuple[Logits, Logits]:
        """One token, behind those that wait, if there are any."""
        waited = self._waiting[slot].take()
        waiting, before = self._placed(at - len(waited[0]), *waited)
        last, rows = len(waiting), BatchTokens()
        output_from = 0 if self._gives_all else last
        rows.add(slot, max(at - self.behind, 0) - last, [*waiting, token], output_from)
        self._context.decode(rows, np.concatenate((before, state[None])))
        return self._context.logits(last).copy(), self._row(last)

    def _placed(self, at: int, tokens: Sequence[int], before: Logits) -> tuple[Sequence[int], Logits]:
        """Tokens from position `at` on, without those that the head has no place for."""
        first = max(self.behind - at, 0)
        return tokens[first:], before[first:]

    def _row(self, index: int) -> Logits:
        """The hidden state that the head gave for a token of its last pass: a copy."""
        row = ctypes.c_float * self._width
        return np.ctypeslib.as_array(row.from_address(hidden_row(self._context.handle, index))).copy()

    def _measured(self) -> float:
        taken = []
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            self._step(0, 0, 0, self._hidden[0, 0])
            taken.append((time.perf_counter() - began) * 1000)
            self._back(0, 0)
        return min(taken)


class ChainedHeads(OwnHead):
    """Several heads in one file: the first guesses the next token, the second the one after it, and so on.

    Each has KV cells of its own layer for all tokens, so each reads all that the others read.
    """

    name = "its own heads, one for each token ahead,"
    _waits = False

    def _decode_all(self, slot: int, at: int, tokens: Sequence[int], before: Logits) -> None:
        for number in range(self._context.model.head_layers):
            self._use(number, slot, at)
            super()._decode_all(slot, at, tokens, before)

    def _chain(self, slot: int, at: int, text: Sequence[int], count: int) -> Iterator[Logits]:
        states = [self._hidden[slot, (at - 1) % KEPT]]
        for number in range(min(count, self._context.model.head_layers)):
            self._use(number, slot, at)
            rows = BatchTokens()
            rows.add(slot, at, text[-len(states) :], output_from=number)
            self._context.decode(rows, np.ascontiguousarray(np.stack(states)))
            states.append(self._row(number))
            yield self._context.logits(number).copy()

    def _use(self, number: int, slot: int, at: int) -> None:
        """Compute with another head from position `at` of a slot on."""
        self._context.rollback(slot, at)
        use_head_layer(self._context.handle, number)


def own_head(context: Context) -> OwnHead | None:
    """The head of a context's model; None if its file has none that was loaded. Raises TwdError if it is not used."""
    model = context.model
    if not model.head_layers:
        return None
    problem = own_head_problem(model.info)
    if problem or not heads_available():
        raise TwdError(FailureCode.UNSUPPORTED, problem or "this build of llama.cpp does not export what heads need")
    return layers_head(context)


def layers_head(target: Context, file: LoadedGguf | None = None) -> OwnHead:
    """The head that the layers of multi-token prediction make, in the target's file or in one of their own."""
    return (ChainedHeads if (file or target.model).head_layers > 1 else OwnHead)(target, file)


def _share(logits: Logits, token: int) -> float:
    """The probability of a token."""
    top = float(logits.max())
    return float(np.exp(logits[token] - top) / np.exp(logits - top).sum())
