"""Runs the check's text on the output stage. The stage always picks the next token of that text, and reports on the
logits, which never leave it."""

import hashlib
from collections.abc import Sequence

import numpy as np

from twd.decoding.window import Logits
from twd.engine.slices.check import RecordedLogits, best_tokens, check_passes
from twd.wire.job import TokenLogprob, TopToken


class CheckedText:
    """The sampler and the report of a check. Each report has the best logits of a token, and a digest of all so far."""

    def __init__(self, vocab_size: int) -> None:
        self._text = [token for _, tokens in check_passes(vocab_size) for token in tokens]
        self._digest = hashlib.sha256()

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """The next token of the text, whatever the logits are."""
        return self._text[len(history)] if len(history) < len(self._text) else self._text[0]

    def __call__(self, logits: Logits, token: int) -> TokenLogprob:
        """A report with logits instead of log probabilities, because they are compared bit by bit."""
        self._digest.update(np.ascontiguousarray(logits, np.float32).tobytes())
        return TokenLogprob(
            token=token,
            text=self._digest.hexdigest(),
            logprob=float(logits[token]),
            top=[TopToken(token=int(one), text="", logprob=float(logits[one])) for one in best_tokens(logits)],
        )


def recorded_of(reports: Sequence[TokenLogprob], *, model: str, build: str, settings: str) -> RecordedLogits:
    """The reports of a whole check, as a record to compare with that of the whole model."""
    return RecordedLogits(
        model=model,
        build=build,
        settings=settings,
        best=[[one.token for one in report.top] for report in reports],
        logits=[[one.logprob for one in report.top] for report in reports],
        digest=reports[-1].text if reports else "",
    )
