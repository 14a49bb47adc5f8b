"""Sends the check's text through a new ring that serves nobody yet; the output stage reports on the logits."""

import time
from collections.abc import Sequence
from typing import Final

from twd.engine.slices.check import PASSES, check_passes
from twd.ring.driver import RingDriver
from twd.ring.frames import Close, ItemOutcome, Open, PassFrame, SessionSpec, WindowItem
from twd.wire.failures import FailureCode, TwdError
from twd.wire.job import Sampling, TokenLogprob

ANSWER_S: Final = 300.0
"""Seconds to wait for an answer: the first pass reads weights from disk and builds GPU kernels. A lost stage is noticed
by its link."""
_SLOT: Final = 0


def takes_check(home: RingDriver) -> bool:
    """Whether the windows and the context of the ring are large enough for the text."""
    return home.bounds.window_max > max(PASSES) and home.bounds.ctx_size > sum(PASSES)


def run_check(home: RingDriver, vocabulary: int) -> list[TokenLogprob]:
    """Return a report for each token of the text; before each pass wrong tokens are computed and rolled back."""
    home.send(Open(_SLOT, SessionSpec(Sampling(), 0, 0, ignore_eos=True, check=True)))
    reports: list[TokenLogprob] = []
    epoch = 0
    for at, tokens in check_passes(vocabulary):
        _ask(home, WindowItem(_SLOT, epoch, at, _wrong(tokens), committed=len(tokens) + 1, picks=False))
        answer = _ask(home, WindowItem(_SLOT, epoch + 1, at, tokens))
        if answer.standing != len(tokens) or len(answer.logprobs) != len(tokens):
            raise TwdError(FailureCode.BACKEND_BROKEN, "the last stage left the text of the check")
        reports += answer.logprobs
        epoch += 2
    home.send(Close(_SLOT))
    return reports


def _wrong(tokens: Sequence[int]) -> list[int]:
    return [*reversed(tokens), tokens[0]]


def _ask(home: RingDriver, item: WindowItem) -> ItemOutcome:
    home.send(PassFrame(item.epoch, [item]))
    end = time.monotonic() + ANSWER_S
    while home.over is None and (left := end - time.monotonic()) > 0:
        for answer in home.answers(left):
            if answer.verdicts.id != item.epoch:
                continue
            outcome = next(iter(answer.verdicts.outcomes), None)
            if outcome is None or outcome.failure is not None:
                why = outcome.failure.message if outcome and outcome.failure else "a stage dropped it"
                raise TwdError(FailureCode.BACKEND_BROKEN, f"the check of the cut failed: {why}")
            return outcome
    raise home.over or TwdError(FailureCode.WORKER_LOST, f"the ring gave no answer for {ANSWER_S:g} s")
