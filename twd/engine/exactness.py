"""Settings that make the logits of a window equal to those of single steps, and a self-test that checks this."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from twd.decoding.window import Logits, Window
from twd.engine.context import CacheLayout, ContextSettings
from twd.engine.kernels import has_attention, one_row_like_many
from twd.engine.model import LoadedGguf
from twd.engine.target import LocalTarget
from twd.gguf_tools.inspect import GgufInfo, floats
from twd.wire.failures import TwdError
from twd.wire.model import CostPoint, Exactness

_BLOCK = 32
_LONG = 544
_SHORT = 48
_RUN = 12
_WIDTHS = (5, 1, 4, 2)
_FEW = 4
_FIXED_MIN, _FIXED_MAX = 8, 32
_SHARED_MAX = 64
_CHANCE = 0.8
_ALIKE = 0.95
_KEPT_ALONE = 0.7
"""Sessions share passes of one width if a session alone keeps at least this share of its best speed."""

_TEXT = "In a small town by the sea there lived 3 clockmakers; each had a shop, a cat, and a reason to be late. "


@dataclass(frozen=True, slots=True)
class ExactPlan:
    """How to set up a context. `rows_min`: fewest tokens of a pass. `fixed`: all passes have the same n_tokens."""

    settings: ContextSettings
    rows_min: int = 1
    fixed: bool = False
    ours: bool = False
    """The plan relies on our kernels. If another build computes a part of the model, it may need another plan."""

    def describe(self, rows_fixed: int = 0, together: int = 1) -> str:
        """The settings in words, for status and logs."""
        one = self.settings
        attention = "flash attention" if one.flash_attention else "no flash attention"
        shared = f" of each of {together} sessions" if together > 1 else ""
        rows = f"rows = {rows_fixed}{shared}" if rows_fixed else f"rows >= {self.rows_min}"
        return f"{attention}, K {one.type_k}, V {one.type_v}, {one.layout}, {rows}"


def exact_plan(
    model: LoadedGguf,
    wanted: ContextSettings,
    exact: bool,
    *,
    on_cpus: bool = False,
    insist: bool = False,
    kernels: bool = True,
) -> ExactPlan:
    """`wanted`, changed so that windows and single steps agree bit for bit, if llama.cpp can do that.

    On the CPU:
    - Our `kernels` compute a batch of one token like a larger one. Without them, two settings help.
    - K and V of different types: then all passes use one attention kernel. With equal types, llama.cpp uses another
      kernel for single tokens from 512 cells on, and a third one from 64 tokens on. The fastest pair of different
      types is K q8_0 and V f16.
    - Float weights need at least two tokens in a pass, because one token uses another matrix kernel.
    - Each session has its own KV buffer, which keeps its cells in order.

    Other devices do not support every pair of K and V types; over RPC, an unsupported pair ends the worker. They also
    use different kernels for many batch sizes. Passes agree there if all have the same n_tokens of the same number of
    sessions, at whatever place in the batch a token is. That is slow for single steps, so it is done only with
    `insist`. `on_cpus`: the layers that are computed elsewhere are computed on CPUs, too.
    """
    if not exact:
        return ExactPlan(wanted)
    if model.offloads and not on_cpus:
        return _on_devices(wanted) if insist and wanted.layout is not CacheLayout.TREE else ExactPlan(wanted)
    info = model.info
    layout = wanted.layout if wanted.layout is CacheLayout.TREE else CacheLayout.STREAMS
    settings = replace(wanted, flash_attention=True, layout=layout)
    attention = kernels and has_attention(info.key_length, info.value_length)
    if not attention:
        type_k, type_v = ("f16", "f16") if shares_keys(info) else _unlike_types(info)
        settings = replace(settings, type_k=type_k, type_v=type_v)
    if not floats(info.tensors):
        return ExactPlan(settings, ours=attention)
    products = kernels and one_row_like_many(info.tensors)
    return ExactPlan(settings, 1 if products else 2, ours=attention or products)


def _on_devices(wanted: ContextSettings) -> ExactPlan:
    settings = replace(wanted, flash_attention=True, layout=CacheLayout.STREAMS, ubatch=max(wanted.ubatch, _SHARED_MAX))
    return ExactPlan(settings, fixed=True)


def fixed_rows(points: Sequence[CostPoint], together: int = 1) -> int:
    """The tokens of each session in all passes: the fewest that, with usual drafts, give nearly the best speed."""
    rates = _rates(points, together)
    best = max(rates.values(), default=0.0)
    return min((rows for rows, rate in rates.items() if rate >= _ALIKE * best), default=_FIXED_MIN)


def sessions_together(points: Sequence[CostPoint], sessions: int) -> int:
    """How many of these sessions should share each pass, as far as costs tell. It divides their number."""
    best = max(_rates(points, 1).values(), default=0.0)
    shares = [together for together in range(2, sessions + 1) if sessions % together == 0]
    fit = (one for one in shares if max(_rates(points, one).values(), default=0.0) >= _KEPT_ALONE * best)
    return max(fit, default=1) if best else 1


def _rates(points: Sequence[CostPoint], together: int) -> dict[int, float]:
    """Tokens for each ms of one session, by its tokens in a pass that `together` sessions share."""
    fit = [point for point in points if point.width % together == 0]
    rows = {point.width // together: point.ms for point in fit if point.width <= _SHARED_MAX}
    return {one: (1.0 - _CHANCE**one) / ms for one, ms in rows.items() if _FIXED_MIN <= one <= _FIXED_MAX}


def _unlike_types(info: GgufInfo) -> tuple[str, str]:
    return "q8_0" if info.key_length % _BLOCK == 0 else "bf16", "f16"


def shares_keys(info: GgufInfo) -> bool:
    """Whether the values are a part of the cached keys (MLA). Then llama.cpp needs one type for both."""
    return bool(info.metadata.get(f"{info.architecture}.attention.key_length_mla"))


def self_test(target: LocalTarget, settings: str, budget_s: float = 1.5) -> Exactness:
    """Compare the logits of single steps with those of windows on a fixed text, early in it and, if the budget in
    seconds allows, at a late position.

    The windows end in wrong drafts, and share passes with another session if there are slots. So rollback and batching
    are tested, too. Where passes have one width for several sessions, an early step shares a pass with a late one. The
    target must be idle. Its slots hold the test's text afterwards.
    """
    if not target.can_rollback:
        return Exactness(exact=True, settings=f"{settings}; no drafts, since this model cannot roll back")
    probe = _Probe(target, _calibration(target, _LONG + 2 * _RUN))
    try:
        began = time.perf_counter()
        probe.feed(_SHORT)
        spent = time.perf_counter() - began
        probe.compare(_SHORT)
        if target.ctx_size > _LONG + 2 * _RUN and spent * _LONG / _SHORT < budget_s:
            probe.feed(_LONG)
            probe.compare(_LONG)
            if target.planner.rules.together > 1:
                probe.compare_beside_late()
    finally:
        probe.close()
    return probe.verdict(settings)


class _Forced:
    """A sampler that always picks the next token of a given text, and keeps the logits by position."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self.seen: dict[int, Logits] = {}

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        self.seen[len(history)] = logits.copy()
        return self._tokens[len(history)]


class _Probe:
    """Computes the same parts of a text in several ways in one slot of a target."""

    def __init__(self, target: LocalTarget, tokens: list[int]) -> None:
        self._target = target
        self._tokens = tokens
        self._sampler = _Forced(tokens)
        self._singles: dict[int, Logits] = {}
        self._in_company: dict[int, Logits] = {}
        self._windows: dict[int, Logits] = {}
        self._beside_late: dict[int, Logits] = {}
        self._slots = [target.open(tokens[:1], self._sampler)[0]]
        if target.n_slots > 1:
            self._slots.append(target.open(tokens[:1], _Forced(tokens))[0])

    def compare(self, depth: int) -> None:
        """Compute the tokens at `depth`, the slot's end: by single steps, by steps with another session, by windows."""
        slot, tokens = self._slots[0], self._tokens
        self._sampler.seen = self._singles
        for at in range(depth, depth + _RUN):
            self._run(Window(slot, 0, at, (tokens[at],)))
        self._sampler.seen = self._in_company
        for at in range(depth, depth + _FEW):
            self._run(Window(slot, 0, at, (tokens[at],)), beside=1)
        self._sampler.seen = self._windows
        at = depth
        for width in _WIDTHS:
            wrong = (tokens[at + width] + 1) % self._target.context.model.vocab.size
            self._run(Window(slot, 0, at, (*tokens[at : at + width], wrong, wrong)), beside=3)
            at += width

    def compare_beside_late(self) -> None:
        """Compute early single steps in another slot, in passes that they share with a late step."""
        if len(self._slots) < 2:
            return
        late, early = self._slots
        tokens, sampler = self._tokens, _Forced(self._tokens)
        self._target.close(early)
        self._slots[1] = early = self._target.open(tokens[:1], sampler)[0]
        self._sampler.seen = {}
        self._run(Window(early, 0, 0, tuple(tokens[:_SHORT]), picks=False))
        for at in range(_SHORT, _SHORT + _FEW):
            self._run_all([Window(early, 0, at, (tokens[at],)), Window(late, 0, _LONG, (tokens[_LONG],))])
        self._beside_late = sampler.seen

    def verdict(self, settings: str) -> Exactness:
        """The result: whether the logits were equal, and how much they differed."""
        ways = (self._windows, self._in_company, self._beside_late)
        pairs = [(self._singles[at], way[at]) for way in ways for at in self._singles.keys() & way.keys()]
        difference = max((float(np.abs(one - other).max()) for one, other in pairs), default=0.0)
        flipped = sum(int(one.argmax()) != int(other.argmax()) for one, other in pairs)
        exact = bool(pairs) and all(np.array_equal(one, other) for one, other in pairs)
        return Exactness(
            exact=exact, settings=settings, compared=len(pairs), flipped=flipped, max_difference=difference
        )

    def close(self) -> None:
        for slot in self._slots:
            self._target.close(slot)

    def feed(self, depth: int) -> None:
        """Fill the slot up to `depth` tokens."""
        at = max(self._singles, default=0)
        self._run(Window(self._slots[0], 0, at, tuple(self._tokens[at:depth]), picks=False))

    def _run(self, window: Window, beside: int = 0) -> None:
        windows = [window]
        if beside:
            windows += [Window(slot, 0, 0, tuple(self._tokens[:beside])) for slot in self._slots[1:]]
        self._run_all(windows)

    def _run_all(self, windows: list[Window]) -> None:
        self._target.submit(windows)
        for verdict in self._target.collect():
            if verdict.failure is not None:
                raise TwdError(verdict.failure.code, f"the self-test failed: {verdict.failure.message}")


def _calibration(target: LocalTarget, count: int) -> list[int]:
    """A fixed text of `count` tokens; for a model without a tokenizer, a fixed list of token ids."""
    vocab = target.context.model.vocab
    text = vocab.tokenize(_TEXT, parse_special=False, add_bos=True) if vocab.kind != "none" else []
    text = text or [number * 7919 % vocab.size for number in range(97)]
    return (text * (count // len(text) + 1))[:count]
