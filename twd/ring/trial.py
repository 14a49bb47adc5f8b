"""The trial of a new ring: what passes cost on it, and whether windows give the same logits as single steps."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from twd.decoding.pipeline import PipelineState
from twd.decoding.window import FIRST_EPOCH, VerifyResult, Window
from twd.ring.cut_check import ANSWER_S
from twd.ring.driver import RingDriver
from twd.ring.frames import SessionSpec
from twd.ring.target import RemoteSpecSampler, RingTarget
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling
from twd.wire.model import CostPoint, Exactness
from twd.wire.ring import StageReady

_RUN: Final = 10
_WIDTHS: Final = (4, 1, 3, 2)
_TOP: Final = 20
_GUESS_MS: Final = 5.0


def pipe_of(stages: Sequence[StageReady], room: int) -> PipelineState:
    """Return the stages' own measurements as the state of one pipe; link times are learned from the first passes."""
    widths = sorted(set.intersection(*({point.width for point in stage.cost} for stage in stages)) or {1})
    times = [{point.width: point.ms for point in stage.cost} for stage in stages]

    def ms(at: int) -> list[float]:
        return [one.get(at, _GUESS_MS) for one in times]

    slowest = [CostPoint(width=width, ms=max(ms(width))) for width in widths]
    whole = [CostPoint(width=width, ms=sum(ms(width))) for width in widths]
    return PipelineState(slowest, whole, 0.0, room)


@dataclass(slots=True)
class RingTrial:
    """One session on an idle ring that computes the same tokens twice."""

    home: RingDriver
    target: RingTarget
    tokens: list[int]
    slot: int = -1
    epoch: int = FIRST_EPOCH // 2

    def run(self, settings: str) -> Exactness:
        """Compute single steps, then windows over the same tokens with a wrong draft at each end. Exact means that all
        reported log probabilities are equal to the last bit."""
        spec = SessionSpec(Sampling(), 0, len(self.tokens), ignore_eos=True, logprobs=_TOP)
        self.slot, _ = self.target.open(self.tokens, RemoteSpecSampler(spec))
        try:
            self._feed()
            singles = self._singles()
            windows = self._windows(singles)
        finally:
            self.target.close(self.slot)
        pairs = list(zip(singles, windows, strict=True))
        differences = [
            abs(a.logprob - b.logprob)
            for one, other in pairs
            for a, b in zip(one.logprobs[0].top, other.logprobs[0].top, strict=True)
        ]
        return Exactness(
            exact=all(one.logprobs == other.logprobs for one, other in pairs),
            settings=settings,
            compared=len(pairs),
            flipped=sum(one.tokens != other.tokens for one, other in pairs),
            max_difference=max(differences, default=0.0),
        )

    def _feed(self) -> None:
        prompt = self.tokens[:-1]
        for at in range(0, len(prompt), self.target.window_max):
            chunk = tuple(prompt[at : at + self.target.window_max])
            self._ask(Window(self.slot, self.epoch, at, chunk, picks=False, committed=len(chunk)))

    def _singles(self) -> list[VerifyResult]:
        made = []
        for _ in range(_RUN):
            made.append(self._ask(Window(self.slot, self.epoch, len(self.tokens) - 1, (self.tokens[-1],))))
            self.tokens += made[-1].tokens
        return made

    def _windows(self, singles: Sequence[VerifyResult]) -> list[VerifyResult]:
        made: list[VerifyResult] = []
        at = len(self.tokens) - 1 - len(singles)
        for width in _WIDTHS:
            self.epoch += 1
            wrong = (self.tokens[at + width] + 1) % 2
            verdict = self._ask(Window(self.slot, self.epoch, at, (*self.tokens[at : at + width], wrong)))
            for token, logprob in zip(verdict.tokens[:width], verdict.logprobs[:width], strict=True):
                made.append(VerifyResult(self.slot, self.epoch, at, [token], logprobs=[logprob]))
            at += len(verdict.tokens[:width])
        return made[: len(singles)]

    def _ask(self, window: Window) -> VerifyResult:
        came = threading.Event()
        self.target.on_ready(came.set)
        self.target.submit([window])
        end = time.monotonic() + ANSWER_S
        while self.home.over is None and came.wait(end - time.monotonic()):
            came.clear()
            for verdict in self.target.collect():
                if verdict.failure is not None:
                    raise TwdError(verdict.failure.code, f"the ring's trial failed: {verdict.failure.message}")
                return verdict
        raise self.home.over or TwdError(FailureCode.WORKER_LOST, f"the ring gave no answer for {ANSWER_S:g} s")
